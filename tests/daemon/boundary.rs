//! The steps of a daemon between which it can die, or a disk can fail: every call that changes a directory, cuts or syncs a file,
//! and every batch for the kernel.
//!
//! A seccomp listener is asked before each of them, so that a test can kill the daemon there, or answer in the kernel's place.

use super::host::{Daemon, Host};
use super::refuser::{listen_at, listener_of};
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex};

/// Calls of which the disk is one side.
const DISK: [i64; 9] = [
    libc::SYS_rename,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_unlink,
    libc::SYS_unlinkat,
    libc::SYS_linkat,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_ftruncate,
];

const RECEIVE: libc::c_ulong = 0xc050_2100;
const SEND: libc::c_ulong = 0xc018_2101;

/// What happens at a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The daemon is killed before it.
    Dies,
    /// This step alone fails with this number, if it is one of the disk.
    Fails(i32),
    /// It fails, and all of the disk that follow until the disk comes back.
    FailsFromOn(i32),
}

#[derive(Default)]
struct Watched {
    fate: Option<(u32, Fate)>,
    seen: u32,
    met: bool,
    on_disk: u32,
}

/// Watches a daemon's steps.
#[derive(Clone, Default)]
pub struct Boundaries(Arc<Mutex<Watched>>);

impl Boundaries {
    /// A daemon whose steps are watched.
    pub fn start(host: &Host) -> (Boundaries, Daemon) {
        let mut command = host.command();
        listen_at(&mut command, &[&DISK[..], &[libc::SYS_sendmsg]].concat());
        let mut daemon = host.spawn(command);
        let boundaries = Boundaries::default();
        let (listener, answering) = (listener_of(&daemon.child), boundaries.clone());
        let process = daemon.child.id() as i32;
        std::thread::spawn(move || while answering.answer(&listener, process).is_some() {});
        daemon.hears("READY=1");
        (boundaries, daemon)
    }

    /// This happens at the step of that number, counted from now, from 1.
    pub fn at(&self, number: u32, fate: Fate) {
        *self.0.lock().unwrap() = Watched { fate: Some((number, fate)), ..Watched::default() };
    }

    /// Nothing fails any more.
    pub fn come_back(&self) {
        self.0.lock().unwrap().fate = None;
    }

    /// How many calls had the disk as one side since the start, or since something was to happen.
    pub fn on_disk(&self) -> u32 {
        self.0.lock().unwrap().on_disk
    }

    /// Whether the step was reached.
    pub fn was_met(&self) -> bool {
        self.0.lock().unwrap().met
    }

    /// None when the daemon is no more.
    fn answer(&self, listener: &OwnedFd, process: i32) -> Option<()> {
        // SAFETY: zeroes are a valid notification, and what the kernel demands to be given.
        let mut call: libc::seccomp_notif = unsafe { std::mem::zeroed() };
        // SAFETY: the kernel fills one notification.
        (unsafe { libc::ioctl(listener.as_raw_fd(), RECEIVE, &raw mut call) } >= 0).then_some(())?;
        let is_disk = i64::from(call.data.nr) != libc::SYS_sendmsg;
        let name = fs::read_to_string(format!("/proc/{}/comm", call.pid)).unwrap_or_default();
        let mut answer = libc::seccomp_notif_resp { id: call.id, val: 0, error: 0, flags: 0 };
        match self.0.lock().unwrap().fate_of(is_disk, is_disk || name.trim() == "nftables") {
            // SAFETY: the number is that of a process that its owner has not waited for.
            Some(Fate::Dies) => drop(unsafe { libc::kill(process, libc::SIGKILL) }),
            Some(Fate::Fails(number) | Fate::FailsFromOn(number)) => answer.error = -number,
            None => answer.flags = libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32,
        }
        // SAFETY: the kernel reads one answer. The caller may be gone by now.
        unsafe { libc::ioctl(listener.as_raw_fd(), SEND, &raw mut answer) };
        Some(())
    }
}

impl Watched {
    fn fate_of(&mut self, is_disk: bool, is_step: bool) -> Option<Fate> {
        self.on_disk += u32::from(is_disk);
        let (number, fate) = self.fate?;
        self.seen += u32::from(is_step);
        let now = is_step && self.seen == number;
        let happens = match fate {
            Fate::Dies => now,
            Fate::Fails(_) => now && is_disk,
            Fate::FailsFromOn(_) => is_disk && self.seen >= number,
        };
        self.met |= is_step && self.seen >= number;
        happens.then_some(fate)
    }
}
