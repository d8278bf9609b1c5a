//! What a confined process can and cannot do. Each case runs in a process of its own, on its main thread.

mod tool;

use nwfilter::kernel::links;
use nwfilter::service::confine::{self, Bounds, Outcome};
use nwfilter::service::store::{Lock, Store};
use std::ffi::CString;
use std::fs::{self, File, Permissions};
use std::io::{self, Read, Write};
use std::net::TcpListener;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tool::InTime;

const DIRECTORY: &str = "NWFILTER_TEST_CHILD";

/// Runs a test of this file alone in a process, which gets its directory; fails if that process does.
fn in_a_process(test: &str) {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("ours")).unwrap();
    fs::create_dir(directory.path().join("readable")).unwrap();
    fs::write(directory.path().join("readable/file"), "text").unwrap();
    fs::write(directory.path().join("secret"), "text").unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]).env(DIRECTORY, directory.path());
    let output = command.output_in_time().unwrap();
    let text =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success() && text.contains("1 passed"), "{test}: {} {text}", output.status);
    if text.contains("skipped:") {
        println!("{text}");
    }
}

/// Runs what is under test, if this is its process, in a copy of the process that has no thread but this one. In the
/// ordinary run there is nothing to do.
fn alone(test: impl FnOnce(PathBuf)) {
    let Some(directory) = std::env::var_os(DIRECTORY) else { return };
    // SAFETY: the harness's other thread waits for this one and holds no lock.
    let copy = unsafe { libc::fork() };
    assert!(copy >= 0);
    if copy == 0 {
        let failed = catch_unwind(AssertUnwindSafe(|| test(directory.into()))).is_err();
        // SAFETY: ends the process without running what belongs to the harness.
        unsafe { libc::_exit(failed.into()) };
    }
    let mut status = 0;
    // SAFETY: writes one integer.
    assert_eq!(unsafe { libc::waitpid(copy, &mut status, 0) }, copy);
    assert_eq!(status, 0, "the test failed in its process");
}

fn bounded<T>(directory: &Path, act: impl FnOnce(&Bounds<'_>) -> T) -> T {
    let (ours, readable) = (directory.join("ours"), directory.join("readable"));
    act(&Bounds { read: &[&readable, Path::new("/proc/sys/net")], write: &[&ours] })
}

fn done(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// A call to the kernel, with numbers and pointers that outlive it.
fn call(number: libc::c_long, arguments: [libc::c_long; 4]) -> io::Result<libc::c_long> {
    let [a, b, c, d] = arguments;
    // SAFETY: every caller passes numbers, null, or pointers to what it keeps alive.
    done(unsafe { libc::syscall(number, a, b, c, d) })
}

fn socket(family: i32, kind: i32, protocol: i32) -> io::Result<OwnedFd> {
    let raw = call(libc::SYS_socket, [family.into(), kind.into(), protocol.into(), 0])?;
    // SAFETY: the descriptor was made just now.
    Ok(unsafe { OwnedFd::from_raw_fd(raw as i32) })
}

#[track_caller]
fn refused<T>(what: &str, errno: i32, result: io::Result<T>) {
    let got = result.err().and_then(|e| e.raw_os_error());
    assert_eq!(got, Some(errno), "{what}");
}

/// What the daemon does all day.
fn daily_work(directory: &Path) {
    let ours = directory.join("ours");
    let _lock = Lock::take(&ours.join("lock")).unwrap();
    let store = Store::open(&ours.join("filters")).unwrap();
    store.save("a", "text").unwrap();
    store.save("a", "new").unwrap();
    assert_eq!(store.load().unwrap()[0].text.as_ref().unwrap(), "new");
    assert!(store.delete("a").unwrap());
    fs::set_permissions(store.path(), Permissions::from_mode(0o750)).unwrap();

    assert!(!links::snapshot().unwrap().is_empty());
    let netfilter =
        socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_NETFILTER).unwrap();
    rustix::net::sockopt::set_socket_recv_buffer_size_force(&netfilter, 1 << 20).unwrap();
    socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_NONBLOCK, 0).unwrap();

    let path = ours.join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let mut client = UnixStream::connect(&path).unwrap();
    client.write_all(b"call").unwrap();
    let mut buffer = [0; 4];
    listener.accept().unwrap().0.read_exact(&mut buffer).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o660)).unwrap();
    fs::remove_file(&path).unwrap();
    UnixDatagram::unbound().unwrap();
    assert!(rustix::fs::memfd_create("entry", rustix::fs::MemfdFlags::CLOEXEC).is_ok());

    let thread = std::thread::Builder::new().name("worker".into());
    assert_eq!(thread.spawn(|| 7).unwrap().join().unwrap(), 7);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (sender, mut receiver) = tokio::sync::mpsc::channel(1);
        let watch = tokio::spawn(links::watch(Duration::from_secs(60), sender));
        assert!(!receiver.recv().await.unwrap().is_empty());
        drop(receiver);
        watch.await.unwrap().unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
        let _hangup = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup()).unwrap();
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        let (connected, accepted) = tokio::join!(tokio::net::UnixStream::connect(&path), listener.accept());
        assert!(accepted.unwrap().0.peer_cred().unwrap().pid().is_some());
        drop(connected.unwrap());
        tokio::task::spawn_blocking(|| ()).await.unwrap();
    });
    assert_eq!(fs::read_to_string(directory.join("readable/file")).unwrap(), "text");
    fs::read_dir("/proc/sys/net").unwrap();
}

fn execute() -> io::Result<libc::c_long> {
    let (program, end) = (CString::new("/bin/true").unwrap(), std::ptr::null::<libc::c_char>());
    let arguments = [program.as_ptr(), end];
    call(libc::SYS_execve, [program.as_ptr() as _, arguments.as_ptr() as _, std::ptr::null::<()>() as _, 0])
}

#[test]
fn child_with_seccomp() {
    alone(|directory| {
        let (release, released) = std::sync::mpsc::channel::<()>();
        let older = std::thread::spawn(move || {
            released.recv().unwrap();
            execute().map_err(|e| e.raw_os_error())
        });
        assert_eq!(confine::restrict_calls(), Outcome::Full);
        daily_work(&directory);
        release.send(()).unwrap();
        assert_eq!(older.join().unwrap(), Err(Some(libc::EPERM)), "a thread that was there before");

        refused("execve", libc::EPERM, execute());
        refused("a process of its own", libc::EPERM, Command::new("/bin/true").status_in_time());
        refused("clone3", libc::ENOSYS, call(libc::SYS_clone3, [0; 4]));
        refused("fork", libc::EPERM, call(libc::SYS_clone, [libc::SIGCHLD.into(), 0, 0, 0]));
        refused("TCP", libc::EPERM, TcpListener::bind("127.0.0.1:0"));
        refused(
            "another netlink",
            libc::EPERM,
            socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_KOBJECT_UEVENT),
        );
        let executable = (libc::PROT_READ | libc::PROT_EXEC).into();
        refused("executable memory", libc::EPERM, call(libc::SYS_mprotect, [0, 4096, executable, 0]));
        let flat = [
            ("execveat", libc::SYS_execveat),
            ("ptrace", libc::SYS_ptrace),
            ("kill", libc::SYS_kill),
            ("setns", libc::SYS_setns),
            ("unshare", libc::SYS_unshare),
            ("mount", libc::SYS_mount),
            ("bpf", libc::SYS_bpf),
            ("io_uring", libc::SYS_io_uring_setup),
            ("capset", libc::SYS_capset),
            ("setuid", libc::SYS_setuid),
            ("a module", libc::SYS_init_module),
            ("chroot", libc::SYS_chroot),
            ("a key", libc::SYS_keyctl),
        ];
        for (what, number) in flat {
            refused(what, libc::EPERM, call(number, [0; 4]));
        }
        refused("pushing input", libc::EPERM, call(libc::SYS_ioctl, [0, libc::TIOCSTI as _, 0, 0]));
    });
}

#[test]
fn child_with_landlock() {
    alone(|directory| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let outcome = bounded(&directory, confine::restrict_files);
        if let Outcome::Missing(why) = outcome {
            println!("skipped: landlock is missing: {why}");
            return;
        }
        assert_eq!(outcome, Outcome::Full);
        daily_work(&directory);
        let (secret, file) = (directory.join("secret"), directory.join("readable/file"));
        refused("/etc/shadow", libc::EACCES, File::open("/etc/shadow"));
        refused("a neighbour", libc::EACCES, File::open(&secret));
        refused("removing it", libc::EACCES, fs::remove_file(&secret));
        refused("by a way around", libc::EACCES, File::open(directory.join("ours/../secret")));
        refused("a new file elsewhere", libc::EACCES, File::create(directory.join("new")));
        refused("writing what is read", libc::EACCES, File::options().append(true).open(&file));
        refused("truncating it", libc::EACCES, fs::write(&file, ""));
        refused(
            "a link out of ours",
            libc::EACCES,
            std::os::unix::fs::symlink(&secret, directory.join("ours/link")),
        );
        refused("a program", libc::EACCES, Command::new("/bin/true").status_in_time());
        refused("listing /", libc::EACCES, fs::read_dir("/"));
        refused("TCP", libc::EACCES, TcpListener::bind("127.0.0.1:0"));
        refused("TCP out", libc::EACCES, std::net::TcpStream::connect(listener.local_addr().unwrap()));
        refused("a signal", libc::EPERM, call(libc::SYS_kill, [1, 0, 0, 0]));
        assert_eq!(fs::read_to_string(file).unwrap(), "text");
    });
}

#[test]
fn child_without_capabilities() {
    alone(|directory| {
        // A file of another user that only its owner may read: a capability of root opens it.
        let foreign = File::create(directory.join("foreign")).unwrap();
        foreign.set_permissions(Permissions::from_mode(0o600)).unwrap();
        std::os::unix::fs::fchown(&foreign, Some(65534), Some(65534)).unwrap();
        File::open(directory.join("foreign")).unwrap();

        assert_eq!(confine::drop_capabilities(), Outcome::Full);
        // As under systemd, which leaves no capability to change the bounding set.
        assert_eq!(confine::drop_capabilities(), Outcome::Full);
        daily_work(&directory);
        refused("another's file", libc::EACCES, File::open(directory.join("foreign")));
        refused("a host name", libc::EPERM, call(libc::SYS_sethostname, [c"x".as_ptr() as _, 1, 0, 0]));
        refused("a namespace", libc::EPERM, call(libc::SYS_unshare, [libc::CLONE_NEWNET.into(), 0, 0, 0]));
        let raised = caps::raise(None, caps::CapSet::Permitted, caps::Capability::CAP_SYS_ADMIN);
        assert!(raised.is_err(), "a capability came back");
        let status = Command::new("cat").arg("/proc/self/status").output_in_time().unwrap().stdout;
        let status = String::from_utf8(status).unwrap();
        for set in ["CapPrm:\t0000000000003000", "CapEff:\t0000000000003000", "CapBnd:\t0000000000003000"] {
            assert!(status.contains(set), "an executed program has more than {set}: {status}");
        }
    });
}

/// The bounding set needs a capability to be changed; that it stays is reported, and keeps no other set.
#[test]
fn child_that_cannot_change_the_bounding_set() {
    alone(|_| {
        caps::drop(None, caps::CapSet::Effective, caps::Capability::CAP_SETPCAP).unwrap();
        assert!(matches!(confine::drop_capabilities(), Outcome::Missing(_)));
        let status = fs::read_to_string("/proc/self/status").unwrap();
        for set in ["CapPrm:\t0000000000003000", "CapEff:\t0000000000003000"] {
            assert!(status.contains(set), "{status}");
        }
    });
}

#[test]
fn child_without_new_privileges() {
    alone(|_| {
        assert_eq!(confine::forbid_new_privileges(), Outcome::Full);
        assert!(fs::read_to_string("/proc/self/status").unwrap().contains("NoNewPrivs:\t1"));
    });
}

#[test]
fn child_with_everything() {
    alone(|directory| {
        let tap = File::open("/dev/null").unwrap();
        let report = bounded(&directory, confine::confine);
        for (layer, outcome) in report.layers() {
            match outcome {
                Outcome::Missing(why) if layer == "landlock" => {
                    println!("skipped: landlock is missing: {why}")
                }
                outcome => assert_eq!(*outcome, Outcome::Full, "{layer}"),
            }
        }
        daily_work(&directory);
        refused("execve", libc::EPERM, execute());
        assert!(File::open("/etc/shadow").is_err());
        std::thread::spawn(|| refused("in a new thread", libc::EPERM, execute())).join().unwrap();
        assert!(tap.as_raw_fd() >= 0 && tap.metadata().is_ok(), "what was open stays open");
    });
}

#[test]
fn child_with_an_older_thread() {
    alone(|directory| {
        let (release, released) = std::sync::mpsc::channel::<()>();
        let older = std::thread::spawn(move || released.recv().is_ok());
        let report = confine::confine(&Bounds { read: &[&directory.join("nowhere")], write: &[] });
        release.send(()).unwrap();
        assert!(older.join().unwrap());
        let text = |outcome: &Outcome| outcome.to_string();
        assert_eq!(text(&report.capabilities), "in force, but 1 older threads are not bound");
        if !matches!(report.landlock, Outcome::Missing(_)) {
            let landlock = text(&report.landlock);
            assert!(
                landlock.contains("nowhere is not there") && landlock.contains("older threads"),
                "{landlock}"
            );
        }
        assert_eq!(report.seccomp, Outcome::Full);
    });
}

#[test]
fn no_program_is_started_and_no_odd_call_is_made() {
    in_a_process("child_with_seccomp");
}

#[test]
fn no_file_outside_of_the_bounds_is_touched() {
    in_a_process("child_with_landlock");
}

#[test]
fn two_capabilities_are_left_even_to_programs_it_would_start() {
    in_a_process("child_without_capabilities");
}

#[test]
fn capabilities_are_dropped_where_the_bounding_set_stays() {
    in_a_process("child_that_cannot_change_the_bounding_set");
}

#[test]
fn no_execution_gains_a_right() {
    in_a_process("child_without_new_privileges");
}

// P-41
#[test]
fn all_layers_together_leave_the_daily_work() {
    in_a_process("child_with_everything");
}

#[test]
fn what_does_not_hold_is_reported() {
    in_a_process("child_with_an_older_thread");
}
