//! Debian's libvirtd with directories of its own, to be compared with.

// The bench uses another part of it than the tests.
#![allow(dead_code)]

use crate::host::eventually;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

pub const SOCKET: &str = "/run/libvirt/libvirt-sock";
pub const SOCKET_READ_ONLY: &str = "/run/libvirt/libvirt-sock-ro";

/// A running libvirtd. Dropping it ends it as a crash does.
pub struct Libvirtd(pub Child);

impl Libvirtd {
    /// Starts it in this thread's namespaces, which are to be [enclosed](enclose).
    pub fn start(directory: &Path) -> Libvirtd {
        let libvirtd = Libvirtd::spawn(directory);
        eventually("libvirtd", || Path::new(SOCKET_READ_ONLY).exists());
        libvirtd
    }

    /// Does not wait until it answers.
    pub fn spawn(directory: &Path) -> Libvirtd {
        let conf = directory.join("libvirtd.conf");
        fs::write(
            &conf,
            "auth_unix_ro = \"none\"\nauth_unix_rw = \"none\"\nunix_sock_dir = \"/run/libvirt\"\n",
        )
        .unwrap();
        let log = fs::File::create(directory.join("libvirtd.log")).unwrap();
        let mut command = Command::new("libvirtd");
        command.arg("-f").arg(conf).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        Libvirtd(command.spawn().unwrap())
    }
}

impl Drop for Libvirtd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whether a program is there; says so where it is not.
pub fn available(program: &str) -> bool {
    let there = Command::new(program).arg("--version").output().is_ok();
    if !there {
        println!("skipped: {program} not found");
    }
    there
}

/// Hides the host's libvirt from this thread's mount namespace, behind empty directories.
pub fn enclose() {
    for place in ["/run", "/etc/libvirt", "/var/lib/libvirt", "/var/cache/libvirt", "/var/log"] {
        mount_nothing(place);
    }
    fs::create_dir("/etc/libvirt/nwfilter").unwrap();
}

fn mount_nothing(place: &str) {
    fs::create_dir_all(place).unwrap();
    let place = std::ffi::CString::new(place).unwrap();
    let kind = c"tmpfs".as_ptr();
    // SAFETY: the strings end in NUL, and null is allowed for the data.
    let answer = unsafe { libc::mount(kind, place.as_ptr(), kind, 0, std::ptr::null()) };
    assert_eq!(answer, 0, "{}", std::io::Error::last_os_error());
}
