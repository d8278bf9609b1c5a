//! Debian's libvirtd with directories of its own, to be compared with.

// The bench uses another part of it than the tests.
#![allow(dead_code)]

use crate::host::eventually;
use crate::tool::{end, with_usual_signals};
use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::ptr;

pub const SOCKET: &str = "/run/libvirt/libvirt-sock";
pub const SOCKET_READ_ONLY: &str = "/run/libvirt/libvirt-sock-ro";

/// A running libvirtd. Dropping it ends it as a crash does, and prints the end of its log where a test has failed.
pub struct Libvirtd {
    child: Child,
    log: PathBuf,
}

impl Libvirtd {
    /// Starts it in this thread's namespaces, which are to be [enclosed](enclose).
    ///
    /// # Panics
    /// With its log, where it ends before it answers.
    pub fn start(directory: &Path) -> Libvirtd {
        let mut libvirtd = Libvirtd::spawn(directory);
        eventually("libvirtd answers", || {
            libvirtd.lives();
            [SOCKET, SOCKET_READ_ONLY].iter().all(|socket| UnixStream::connect(socket).is_ok())
        });
        libvirtd
    }

    /// The number of its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// # Panics
    /// With the log of a libvirtd that has ended.
    pub fn lives(&mut self) {
        if let Some(status) = self.child.try_wait().unwrap() {
            panic!("libvirtd ended by itself, {status}; the end of its log:\n{}", self.end_of_log());
        }
    }

    fn end_of_log(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    /// Does not wait until it answers.
    pub fn spawn(directory: &Path) -> Libvirtd {
        let conf = directory.join("libvirtd.conf");
        fs::write(
            &conf,
            "auth_unix_ro = \"none\"\nauth_unix_rw = \"none\"\nunix_sock_dir = \"/run/libvirt\"\n",
        )
        .unwrap();
        let log = directory.join("libvirtd.log");
        let mut command = Command::new("libvirtd");
        command.arg("-f").arg(conf).stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(fs::File::create(&log).unwrap());
        Libvirtd { child: with_usual_signals(&mut command).spawn().unwrap(), log }
    }
}

impl Drop for Libvirtd {
    fn drop(&mut self) {
        end(&mut self.child);
        if std::thread::panicking() {
            eprintln!("the end of libvirtd's log:\n{}", self.end_of_log());
        }
    }
}

/// Hides the host's libvirt from this thread's mount namespace, behind empty directories, and gives its qemu driver the
/// user that it asks for when it starts. Only libvirt's complete server package makes that user.
pub fn enclose() {
    let users = tempfile::tempdir().unwrap();
    add_user(
        "/etc/passwd",
        &users.path().join("passwd"),
        "libvirt-qemu:x:64055:64055::/nonexistent:/usr/sbin/nologin",
    );
    add_user("/etc/group", &users.path().join("group"), "libvirt-qemu:x:64055:");
    for place in ["/run", "/etc/libvirt", "/var/lib/libvirt", "/var/cache/libvirt", "/var/log"] {
        mount_nothing(place);
    }
    fs::create_dir("/etc/libvirt/nwfilter").unwrap();
}

/// Puts a copy with one line more over a file of users, where it has no such user. The file itself stays as it is; the copy
/// lives as long as the mount.
fn add_user(file: &str, copy: &Path, line: &str) {
    let text = fs::read_to_string(file).unwrap();
    let name = line.split_inclusive(':').next().unwrap();
    if text.lines().any(|known| known.starts_with(name)) {
        return;
    }
    fs::write(copy, format!("{}\n{line}\n", text.trim_end())).unwrap();
    fs::set_permissions(copy, fs::Permissions::from_mode(0o644)).unwrap();
    let [copy, place] =
        [copy.as_os_str().as_bytes(), file.as_bytes()].map(|path| CString::new(path).unwrap());
    // SAFETY: the strings end in NUL, and null is allowed for the rest with MS_BIND.
    let answer =
        unsafe { libc::mount(copy.as_ptr(), place.as_ptr(), ptr::null(), libc::MS_BIND, ptr::null()) };
    assert_eq!(answer, 0, "{file}: {}", std::io::Error::last_os_error());
}

fn mount_nothing(place: &str) {
    fs::create_dir_all(place).unwrap();
    let place = CString::new(place).unwrap();
    let kind = c"tmpfs".as_ptr();
    // SAFETY: the strings end in NUL, and null is allowed for the data.
    let answer = unsafe { libc::mount(kind, place.as_ptr(), kind, 0, ptr::null()) };
    assert_eq!(answer, 0, "{}", std::io::Error::last_os_error());
}
