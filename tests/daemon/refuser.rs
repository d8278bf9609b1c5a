//! A kernel that refuses the batches of a daemon or a command.
//!
//! They are sent by a thread of its own, whose system calls a seccomp listener can answer in the kernel's place. Everything
//! else, and every batch that is not to be refused, goes on as it is.

// Some tests use another part of it than others.
#![allow(dead_code)]

use super::host::{Daemon, Host};
use crate::tool::InTime;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};

/// Answers a daemon's batches, or a command's.
#[derive(Clone, Default)]
pub struct Refuser(Arc<Mutex<Turns>>);

/// So many batches are taken, then so many refused, and all after that are taken.
#[derive(Default)]
struct Turns {
    taken: u32,
    refused: u32,
    sent: u32,
}

/// Where the daemon holds the listener for the one that fetches it.
const LISTENER: i32 = 100;
const RECEIVE: libc::c_ulong = 0xc050_2100;
const SEND: libc::c_ulong = 0xc018_2101;

impl Refuser {
    /// A daemon whose batches it answers.
    pub fn start(host: &Host) -> (Refuser, Daemon) {
        let mut command = host.command();
        listen_at(&mut command, &[libc::SYS_sendmsg]);
        let mut daemon = host.spawn(command);
        let refuser = Refuser::default();
        refuser.watch(&daemon.child);
        daemon.hears("READY=1");
        (refuser, daemon)
    }

    /// A command that it watches from its first batch on.
    pub fn run(&self, command: &mut Command) -> Output {
        listen_at(command, &[libc::SYS_sendmsg]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        self.watch(&child);
        child.output_in_time().unwrap()
    }

    fn watch(&self, child: &Child) {
        let (listener, answering) = (listener_of(child), self.clone());
        std::thread::spawn(move || while answering.answer(&listener).is_ok() {});
    }

    /// From now on so many batches are refused.
    pub fn refuse(&self, batches: u32) {
        self.refuse_after(0, batches);
    }

    /// So many are taken before.
    pub fn refuse_after(&self, taken: u32, refused: u32) {
        (*self.0.lock().unwrap()) = Turns { taken, refused, sent: 0 };
    }

    /// How many were sent since it last learned what to refuse.
    pub fn sent(&self) -> u32 {
        self.0.lock().unwrap().sent
    }

    /// Fails when the daemon is no more.
    fn answer(&self, listener: &OwnedFd) -> io::Result<()> {
        answer(listener, |name| {
            let refused = name == "nftables" && self.0.lock().unwrap().refuses();
            if refused { Answer::Refused } else { Answer::GoesOn }
        })
    }
}

/// What becomes of a call.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The kernel does it.
    GoesOn,
    /// The kernel answers the caller that there is no memory.
    Refused,
}

/// Waits for a call, and answers it by the name of the thread that makes it. Fails when the daemon is no more.
pub fn answer(listener: &OwnedFd, by_name: impl FnOnce(&str) -> Answer) -> io::Result<()> {
    // SAFETY: zeroes are a valid notification, and what the kernel demands to be given.
    let mut call: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel fills one notification.
    checked(unsafe { libc::ioctl(listener.as_raw_fd(), RECEIVE, &raw mut call) })?;
    let name = fs::read_to_string(format!("/proc/{}/comm", call.pid)).unwrap_or_default();
    let mut answer = libc::seccomp_notif_resp { id: call.id, val: 0, error: 0, flags: 0 };
    match by_name(name.trim()) {
        Answer::Refused => answer.error = -libc::ENOMEM,
        Answer::GoesOn => answer.flags = libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32,
    }
    // SAFETY: the kernel reads one answer. The caller may be gone by now.
    unsafe { libc::ioctl(listener.as_raw_fd(), SEND, &raw mut answer) };
    Ok(())
}

impl Turns {
    fn refuses(&mut self) -> bool {
        self.sent += 1;
        if self.taken > 0 {
            self.taken -= 1;
            return false;
        }
        let refuses = self.refused > 0;
        self.refused = self.refused.saturating_sub(1);
        refuses
    }
}

/// The listener of a process that was started to be listened to.
pub fn listener_of(child: &Child) -> OwnedFd {
    let process = pidfd_open(Pid::from_child(child), PidfdFlags::empty()).unwrap();
    pidfd_getfd(process, LISTENER, PidfdGetfdFlags::empty()).unwrap()
}

/// Lets a listener answer these calls of a command.
pub fn listen_at(command: &mut Command, calls: &[i64]) {
    let statement = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut program = vec![statement(0x20, 0, 0, 0)]; // the call's number
    for call in calls {
        program.push(statement(0x15, 0, 1, *call as u32));
        program.push(statement(0x06, 0, 0, libc::SECCOMP_RET_USER_NOTIF));
    }
    program.push(statement(0x06, 0, 0, libc::SECCOMP_RET_ALLOW));
    let listen = move || {
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
