//! The checksum guard of a daemon: there from the binding on, over its death, and gone with the binding.

use crate::host::*;
use crate::lab::frames::{GUEST_IP, GUEST_MAC, arp_request};
use crate::lab::{Tap, Wire, guest_with_headers, in_fresh_netns, macvtap, veth, where_tcx_is};
use crate::refuser::Refuser;
use nwfilter::kernel::checksum::{Guard, PIN, TcxHook};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// ARP of the guest's own address, and nothing else.
const FILTER: &str = "<filter name='own-arp' chain='root'>
  <rule action='accept' direction='out'><arp arpsrcipaddr='10.0.0.1'/></rule>
  <rule action='drop' direction='inout' priority='900'><mac/></rule>
</filter>";

fn guarded() -> Host {
    let host = Host::new();
    host.write_filter("own-arp", FILTER);
    host
}

/// An ARP request of the guest's own, whose checksum the kernel is to write into the sender's address.
fn crooked() -> Vec<u8> {
    let header = [1, 0, 0, 0, 0, 0, 20, 0, 10, 0];
    [&header[..], &honest()[10..]].concat()
}

/// The same frame, finished.
fn honest() -> Vec<u8> {
    let frame: Vec<u8> = arp_request(GUEST_IP, "10.0.0.2").frame().into();
    [vec![0; 10], frame].concat()
}

fn passes(guest: &Tap, wire: &Tap, frame: &[u8]) -> bool {
    guest.send(frame).unwrap();
    !wire.drain().is_empty()
}

// P-20
#[test]
fn a_bound_guest_cannot_choose_where_a_checksum_goes() {
    where_tcx_is(|| {
        let (guest, wire) = guest_with_headers();
        assert!(passes(&guest, &wire, &crooked()), "the kernel itself lets it pass");
        let host = guarded();
        let mut daemon = host.start();
        daemon.connect().create("vnet0", "own-arp").unwrap();
        assert!(passes(&guest, &wire, &honest()) && !passes(&guest, &wire, &crooked()), "bound");
        daemon.kill();
        assert!(passes(&guest, &wire, &honest()) && !passes(&guest, &wire, &crooked()), "the daemon is dead");
        daemon = host.start();
        assert!(passes(&guest, &wire, &honest()) && !passes(&guest, &wire, &crooked()), "started again");
        daemon.connect().delete("vnet0").unwrap();
        eventually("the guard goes with the binding", || passes(&guest, &wire, &crooked()));
    });
}

#[test]
fn a_refused_binding_leaves_no_guard() {
    where_tcx_is(|| {
        let (guest, wire) = guest_with_headers();
        let host = guarded();
        let (refuser, daemon) = Refuser::start(&host);
        refuser.refuse(u32::MAX);
        daemon.connect().create("vnet0", "own-arp").unwrap_err();
        assert!(passes(&guest, &wire, &crooked()), "as before");
        refuser.refuse(0);
        daemon.connect().create("vnet0", "own-arp").unwrap();
        assert!(passes(&guest, &wire, &honest()) && !passes(&guest, &wire, &crooked()), "bound after all");
    });
}

#[test]
fn the_guest_of_a_macvtap_is_guarded_where_its_frames_leave() {
    where_tcx_is(|| {
        let (lower, far) = veth("lower", "far");
        [lower, far].into_iter().for_each(crate::lab::Link::up);
        [lower, far].into_iter().for_each(crate::lab::Link::ready);
        let guest = macvtap("vnet0", lower, GUEST_MAC).unwrap();
        guest.take_headers().unwrap();
        let wire = Wire::open(&far);
        let host = guarded();
        let daemon = host.start();
        daemon.connect().create("vnet0", "own-arp").unwrap();
        guest.send(&crooked()).unwrap();
        guest.send(&honest()).unwrap();
        let seen = wire.recv_within(PATIENCE).expect("the honest one arrives");
        assert_eq!(seen[..], honest()[10..]);
        assert_eq!(wire.recv(), None, "and it alone");
    });
}

/// A daemon that may not load programs.
fn without_bpf(host: &Host) -> Command {
    const CAPABILITIES: [libc::c_ulong; 2] = [21, 39]; // CAP_SYS_ADMIN, CAP_BPF
    let mut command = host.command();
    let drop = || {
        // SAFETY: takes numbers alone.
        let outcomes = CAPABILITIES.map(|number| unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number) });
        if outcomes == [0, 0] { Ok(()) } else { Err(std::io::Error::last_os_error()) }
    };
    // SAFETY: the child makes two system calls.
    unsafe { command.pre_exec(drop) };
    command
}

#[test]
fn a_lack_of_the_kernel_is_reported_or_stops_the_start() {
    in_fresh_netns(|| {
        let host = Host::new();
        let daemon = host.run(without_bpf(&host));
        daemon.logs("no checksum guard");
        daemon.stop();
        host.configure("checksum_guard = \"require\"");
        let mut daemon = host.spawn(without_bpf(&host));
        assert!(!daemon.wait().success());
        assert!(daemon.log().contains("checksum_guard"), "{}", daemon.log());
    });
}

#[test]
fn without_a_bpf_file_system_a_guest_is_guarded_too() {
    where_tcx_is(|| {
        // SAFETY: the string ends in NUL.
        unsafe { libc::umount(c"/sys/fs/bpf".as_ptr()) };
        let (guest, wire) = guest_with_headers();
        let host = guarded();
        let mut daemon = host.start();
        daemon.connect().create("vnet0", "own-arp").unwrap();
        assert!(passes(&guest, &wire, &honest()) && !passes(&guest, &wire, &crooked()), "bound");
        daemon.kill();
        daemon = host.start();
        daemon.connect().delete("vnet0").unwrap();
        eventually("attached once, over a restart", || passes(&guest, &wire, &crooked()));
    });
}

// P-20
#[test]
fn a_guard_that_is_switched_off_goes_at_the_next_start() {
    where_tcx_is(|| {
        let (guest, wire) = guest_with_headers();
        let host = guarded();
        let daemon = host.start();
        daemon.connect().create("vnet0", "own-arp").unwrap();
        assert!(!passes(&guest, &wire, &crooked()), "guarded");
        daemon.stop();
        host.configure("checksum_guard = \"off\"");
        let daemon = host.start();
        assert!(passes(&guest, &wire, &crooked()), "as configured");
        daemon.stop();
        host.configure("checksum_guard = \"require\"");
        let _daemon = host.start();
        assert!(passes(&guest, &wire, &honest()) && !passes(&guest, &wire, &crooked()), "switched on again");
    });
}

#[test]
fn a_guard_that_a_killed_daemon_left_goes_at_the_next_start() {
    where_tcx_is(|| {
        let (guest, wire) = guest_with_headers();
        let index = guest.link.index();
        let guard = Guard::open(Path::new(PIN)).unwrap();
        for hook in [TcxHook::Ingress, TcxHook::Egress] {
            guard.attach(index, hook).unwrap();
        }
        assert!(!passes(&guest, &wire, &crooked()), "guarded, and not bound");
        let host = guarded();
        let daemon = host.start();
        let left = || [TcxHook::Ingress, TcxHook::Egress].map(|hook| guard.is_attached(index, hook).unwrap());
        assert_eq!(left(), [false, false], "not bound");
        daemon.connect().create("vnet0", "own-arp").unwrap();
        guard.attach(index, TcxHook::Egress).unwrap();
        daemon.kill();
        let _daemon = host.start();
        assert_eq!(left(), [true, false], "bound, at one of its hooks");
    });
}
