//! A traffic lab: bridges, taps and frames inside a network namespace of the test's own thread.
//!
//! It turns "may this frame pass?" into an answer from the running kernel, without sleeps and
//! without running a command. The namespace and all that was made in it goes when the thread
//! ends. It knows nothing of filters: the test loads the rules, in its own way.
//! Needs root. Include it with `mod lab;`, from elsewhere with `#[path = "../tests/lab/mod.rs"]`.

// Every binary that includes the lab uses a part of it.
#![allow(dead_code, unused_imports)]

pub mod corpus;
pub mod frames;
mod link;
mod marker;
mod network;
mod tap;
mod wire;

pub use link::{
    Bridge, Link, MacvtapMode, PortOption, address, index_of, macvtap, macvtap_at, macvtap_in, veth,
};
pub use marker::{End, Marker, PATIENCE, arrivals};
pub use network::{Flood, Network, Verdict, Way, flood, guest_with_headers, verdict};
pub use tap::Tap;
pub use wire::Wire;

use std::{fs, io, panic, ptr, thread};

/// Why a namespace may be refused. A chroot's root is no mount point, so its mounts cannot be made private.
const NEEDS: &str = "run this as root, neither in a chroot (pivot_root makes a root that will do, as scripts/fresh shows) \
                     nor in a container that may not make namespaces and mounts";

/// Runs `work` in a thread with a network namespace of its own and returns what it returns.
///
/// Threads started by `work` are in the same namespace. IPv6 is off and br_netfilter does not
/// call iptables, so that nothing but the test puts or drops frames; `/sys` shows the namespace.
///
/// # Panics
/// Where `work` does, and where the namespace is refused.
pub fn in_fresh_netns<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let lab = || {
        enter_fresh_netns().unwrap_or_else(|why| panic!("no network namespace ({why}): {NEEDS}"));
        work()
    };
    match thread::scope(|scope| scope.spawn(lab).join()) {
        Ok(answer) => answer,
        Err(panicked) => panic::resume_unwind(panicked),
    }
}

/// As [`in_fresh_netns`] where interfaces have `tcx` hooks, with a BPF file system of the thread's own at `/sys/fs/bpf`.
/// Elsewhere it says so and does nothing.
pub fn where_tcx_is(work: impl FnOnce() + Send) {
    in_fresh_netns(|| match tcx_is_there() {
        true => {
            mount_bpf();
            work();
        }
        false => println!("skipped: interfaces of this kernel have no tcx hooks (Linux 6.6 has them)"),
    });
}

/// Asks which programs the loopback has at its `tcx` hook. Older kernels know no such kind of hook.
fn tcx_is_there() -> bool {
    const PROG_QUERY: i32 = 16;
    const TCX_INGRESS: u32 = 46;
    let loopback = Link::named("lo").index();
    // The interface, the kind of hook, and no room for programs.
    let mut question = [0u32; 16];
    question[..2].copy_from_slice(&[loopback, TCX_INGRESS]);
    // SAFETY: the kernel reads and writes that many bytes of the question, in which no address is.
    let answer =
        unsafe { libc::syscall(libc::SYS_bpf, PROG_QUERY, question.as_mut_ptr(), size_of_val(&question)) };
    let refused = (answer < 0).then(|| io::Error::last_os_error().raw_os_error());
    refused != Some(Some(libc::EINVAL))
}

fn mount_bpf() {
    let kind = c"bpf".as_ptr();
    // SAFETY: the strings end in NUL; no data is given.
    checked(unsafe { libc::mount(kind, c"/sys/fs/bpf".as_ptr(), kind, 0, ptr::null()) })
        .expect("a kernel with BPF has its file system");
}

/// Writes a network setting of this namespace, e.g. `("bridge/bridge-nf-call-iptables", "1")`.
///
/// # Errors
/// Where the kernel has no such setting or refuses the value.
pub fn sysctl(name: &str, value: &str) -> io::Result<()> {
    fs::write(format!("/proc/sys/net/{name}"), value)
}

fn enter_fresh_netns() -> io::Result<()> {
    // SAFETY: unshare reads no memory.
    checked(unsafe { libc::unshare(libc::CLONE_NEWNET | libc::CLONE_NEWNS) })?;
    remount_sys()?;
    let quiet = [
        ("ipv6/conf/all/disable_ipv6", "1"),
        ("ipv6/conf/default/disable_ipv6", "1"),
        ("bridge/bridge-nf-call-iptables", "0"),
        ("bridge/bridge-nf-call-ip6tables", "0"),
        ("bridge/bridge-nf-call-arptables", "0"),
    ];
    for (name, value) in quiet {
        match sysctl(name, value) {
            // A kernel without IPv6 or br_netfilter has nothing to be silenced.
            Err(absent) if absent.kind() == io::ErrorKind::NotFound => {}
            outcome => outcome?,
        }
    }
    Ok(())
}

/// sysfs shows the namespace it was mounted in; the one of the host would show the host's links.
fn remount_sys() -> io::Result<()> {
    let private = libc::MS_REC | libc::MS_PRIVATE;
    // SAFETY: the strings end in NUL, the null pointers are allowed by mount(2) here.
    checked(unsafe { libc::mount(ptr::null(), c"/".as_ptr(), ptr::null(), private, ptr::null()) })?;
    let (kind, place) = (c"sysfs".as_ptr(), c"/sys".as_ptr());
    // SAFETY: as above.
    checked(unsafe { libc::mount(kind, place, kind, 0, ptr::null()) })
}

fn checked(answer: i32) -> io::Result<()> {
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
