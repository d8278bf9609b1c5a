//! A kernel that refuses the rules of a guest whose address was learned: the guest is closed, and another try may do.
//!
//! The daemon's batches are sent by a thread of its own, whose system calls a seccomp listener can answer in the kernel's
//! place. Everything else, and every batch that is not to be refused, goes on as it is.

use crate::daemon::host::{Conn, Daemon, Host, eventually};
use crate::daemon::{bind_with, filter, interface, known};
use crate::lab::frames::*;
use crate::lab::{Network, Way, in_fresh_netns};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Answers a daemon's batches: so many more are refused.
#[derive(Clone)]
struct Refuser(Arc<AtomicU32>);

/// Where the daemon holds the listener for whoever fetches it.
const LISTENER: i32 = 100;
const RECEIVE: libc::c_ulong = 0xc050_2100;
const SEND: libc::c_ulong = 0xc018_2101;

impl Refuser {
    /// A daemon whose batches it answers.
    fn start(host: &Host) -> (Refuser, Daemon) {
        let mut command = host.command();
        listen_at_sendmsg(&mut command);
        let mut daemon = host.spawn(command);
        let process = Pid::from_child(&daemon.child);
        let process = pidfd_open(process, PidfdFlags::empty()).unwrap();
        let listener = pidfd_getfd(process, LISTENER, PidfdGetfdFlags::empty()).unwrap();
        let refuser = Refuser(Arc::default());
        let answering = refuser.clone();
        std::thread::spawn(move || while answering.answer(&listener).is_ok() {});
        daemon.hears("READY=1");
        (refuser, daemon)
    }

    fn refuse(&self, batches: u32) {
        self.0.store(batches, Ordering::SeqCst);
    }

    /// Fails when the daemon is no more.
    fn answer(&self, listener: &OwnedFd) -> io::Result<()> {
        // SAFETY: zeroes are a valid notification, and what the kernel demands to be given.
        let mut call: libc::seccomp_notif = unsafe { std::mem::zeroed() };
        // SAFETY: the kernel fills one notification.
        checked(unsafe { libc::ioctl(listener.as_raw_fd(), RECEIVE, &raw mut call) })?;
        let name = fs::read_to_string(format!("/proc/{}/comm", call.pid)).unwrap_or_default();
        let one_less = |batches: u32| batches.checked_sub(1);
        let refused = name.trim() == "nftables"
            && self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less).is_ok();
        let mut answer = libc::seccomp_notif_resp { id: call.id, val: 0, error: 0, flags: 0 };
        match refused {
            true => answer.error = -libc::ENOMEM,
            false => answer.flags = libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32,
        }
        // SAFETY: the kernel reads one answer. The caller may be gone by now.
        unsafe { libc::ioctl(listener.as_raw_fd(), SEND, &raw mut answer) };
        Ok(())
    }
}

fn listen_at_sendmsg(command: &mut Command) {
    let statement = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let listen = move || {
        let mut program = [
            statement(0x20, 0, 0, 0), // the call's number
            statement(0x15, 0, 1, libc::SYS_sendmsg as u32),
            statement(0x06, 0, 0, libc::SECCOMP_RET_USER_NOTIF),
            statement(0x06, 0, 0, libc::SECCOMP_RET_ALLOW),
        ];
        let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
        let flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
        let mode = libc::SECCOMP_SET_MODE_FILTER;
        // SAFETY: the program outlives the call, which gives a descriptor or -1.
        let listener = unsafe { libc::syscall(libc::SYS_seccomp, mode, flags, &raw const program) };
        // SAFETY: it touches no memory; -1 is refused.
        checked(unsafe { libc::dup2(listener as i32, LISTENER) })
    };
    // SAFETY: it makes two system calls.
    unsafe { command.pre_exec(listen) };
}

fn checked(answer: i32) -> io::Result<()> {
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

struct World {
    network: Network,
    _host: Host,
    refuser: Refuser,
    daemon: Daemon,
    conn: Conn,
}

impl World {
    fn new() -> World {
        let (network, host) = (Network::new(), Host::new());
        host.configure("grace = 0\n");
        let (refuser, daemon) = Refuser::start(&host);
        let mut conn = daemon.connect();
        conn.define(&filter()).unwrap();
        bind_with(&mut conn, "vnet0", "vm", GUEST_MAC, &[]);
        World { network, _host: host, refuser, daemon, conn }
    }

    fn closed(&mut self) -> Option<String> {
        interface(&mut self.conn, self.network.guest.link.index()).and_then(|found| found.closed)
    }

    fn passes(&self, frame: Frame) -> bool {
        self.network.passes(Way::FromGuest, frame)
    }

    fn learns(&mut self) {
        let index = self.network.guest.link.index();
        eventually("an address in force", || {
            assert!(self.passes(claim()), "it waits, or has its address");
            known(&mut self.conn, index) == [GUEST_IP]
        });
        assert!(self.passes(udp(ip(GUEST_IP, PEER_IP), 1, 2)));
    }
}

fn claim() -> Frame {
    arp_request(GUEST_IP, PEER_IP).frame()
}

#[test]
fn a_guest_whose_learned_rules_the_kernel_refuses_is_closed_and_learns_after_another_try() {
    in_fresh_netns(|| {
        let mut world = World::new();
        // The change of all that was heard, and the guest's own.
        world.refuser.refuse(2);
        assert!(world.passes(claim()), "it waits");
        eventually("that it is closed", || world.closed().is_some());
        let why = world.closed().unwrap();
        assert!(why.contains("Cannot allocate memory"), "{why}");
        let index = world.network.guest.link.index();
        assert_eq!(known(&mut world.conn, index), [""; 0]);
        for frame in [claim(), dhcp(1).broadcast(), udp(ip(GUEST_IP, PEER_IP), 1, 2)] {
            assert!(!world.passes(frame.clone()), "{frame:?}");
        }
        world.daemon.reload();
        assert_eq!(world.closed(), None);
        world.learns();
    });
}

#[test]
fn a_guest_that_can_not_even_be_closed_is_set_down_and_waits_still_when_it_comes_up() {
    in_fresh_netns(|| {
        let mut world = World::new();
        world.refuser.refuse(u32::MAX);
        world.network.guest.send(&Vec::from(claim())).unwrap();
        let nothing = Vec::from(dhcp(1).broadcast().from(FOREIGN_MAC));
        eventually("that it is down", || world.network.guest.send(&nothing).is_err());
        world.daemon.logs("set down");
        world.refuser.refuse(0);
        world.network.guest.link.up();
        assert!(!world.passes(dhcp(1).broadcast().from(FOREIGN_MAC)));
        world.learns();
    });
}
