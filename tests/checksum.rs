//! Frames whose checksum the host is asked to finish: what it writes, and where.
//!
//! Needs root. A kernel without `tcx` hooks (before Linux 6.6) has no guard, and each test says that it was skipped.

mod lab;

use lab::frames::{self, ACK, Frame, GUEST_IP, PEER_IP};
use lab::{Tap, guest_with_headers, where_tcx_is};
use nwfilter::kernel::checksum::{Guard, TcxHook};
use std::path::Path;

/// As a virtio-net header: flags, type of segmentation, lengths, then the place.
const NEEDS_CHECKSUM: u8 = 1;
const HEADER: usize = 10;
const SIX_1: &str = "fe80::1";
const SIX_2: &str = "fe80::2";

/// A frame, and the place at which its checksum belongs.
struct Case {
    name: &'static str,
    frame: Vec<u8>,
    field: Option<usize>,
}

fn cases() -> Vec<Case> {
    let case = |name, frame: Frame, field| Case { name, frame: frame.into(), field };
    let v4 = || frames::ip(GUEST_IP, PEER_IP);
    let v6 = || frames::ip6(SIX_1, SIX_2);
    vec![
        case("ARP", frames::arp_request(GUEST_IP, PEER_IP).frame(), None),
        case("UDP", frames::udp_with(v4(), 1, 2, &[7; 20]), Some(14 + 20 + 6)),
        case(
            "UDP behind IP options",
            frames::udp_with(v4().options(&[1; 8]), 1, 2, &[7; 20]),
            Some(14 + 28 + 6),
        ),
        case("TCP", frames::tcp(v4(), 1, 2, ACK), Some(14 + 20 + 16)),
        case("ICMP", frames::icmp(v4(), 8, 0, &[7; 20]), Some(14 + 20 + 2)),
        case("UDP in IPv6", frames::udp_with(v6(), 1, 2, &[7; 20]), Some(14 + 40 + 6)),
        case("TCP behind options", frames::tcp(v6().destination_options(), 1, 2, ACK), Some(14 + 48 + 16)),
        case(
            "a tagged UDP",
            frames::udp_with(v4(), 1, 2, &[7; 20]).tag(frames::ethertype::VLAN, 5),
            Some(18 + 20 + 6),
        ),
        case("an odd type", frames::ether(0x1234, [7; 60]), None),
    ]
}

/// A guest that lets the host finish checksums, and a port by which frames leave that does not do so itself.
struct Ports {
    guest: Tap,
    wire: Tap,
}

fn ports() -> Ports {
    let (guest, wire) = guest_with_headers();
    Ports { guest, wire }
}

impl Ports {
    /// What arrives of a frame whose sum begins at `start` and is written `offset` behind it.
    fn send(&self, frame: &[u8], start: u16, offset: u16) -> Option<Vec<u8>> {
        let place = [start.to_le_bytes(), offset.to_le_bytes()].concat();
        let bytes = [&[NEEDS_CHECKSUM, 0, 0, 0, 0, 0], &place[..], frame].concat();
        assert_eq!(bytes.len(), HEADER + frame.len());
        // The kernel refuses places outside of the frame.
        self.guest.send(&bytes).ok()?;
        self.wire.recv()
    }

    /// The places within a frame that the host can be made to write to, outside of the checksum and of what a tunnel may carry.
    fn rewritten(&self, case: &Case) -> Vec<usize> {
        let last = case.frame.len() as u16 - 2;
        let starts = [14, 20, 34, 40, 54];
        let places =
            starts.into_iter().flat_map(|start| (start..=last).map(move |place| (start, place - start)));
        let mut rewritten: Vec<usize> = places
            .filter_map(|(start, offset)| self.send(&case.frame, start, offset))
            .flat_map(|seen| case.changes(&seen))
            .collect();
        rewritten.sort();
        rewritten.dedup();
        rewritten
    }
}

impl Case {
    /// Bytes that differ, but for the checksum and the payload of UDP, where a packet inside of a tunnel may have its own.
    fn changes(&self, seen: &[u8]) -> Vec<usize> {
        let udp = self.field.filter(|_| self.name.contains("UDP"));
        let own = |at: &usize| self.field.is_some_and(|field| (field..field + 2).contains(at));
        let payload = |at: &usize| udp.is_some_and(|field| *at >= field + 2);
        let differ = (0..self.frame.len()).filter(|at| self.frame[*at] != seen[*at]);
        differ.filter(|at| !own(at) && !payload(at)).collect()
    }
}

const PIN: &str = "/sys/fs/bpf/nwfilter_csum";

fn guard() -> Guard {
    Guard::open(Path::new(PIN)).unwrap()
}

// P-20
#[test]
fn the_host_writes_checksums_only_where_they_belong() {
    where_tcx_is(|| {
        let ports = ports();
        let open: usize = cases().iter().map(|case| ports.rewritten(case).len()).sum();
        assert!(open > 100, "without the guard a guest chooses: {open}");
        let guard = guard();
        guard.attach(ports.guest.link.index(), TcxHook::Ingress).unwrap();
        for case in cases() {
            assert_eq!(ports.rewritten(&case), Vec::<usize>::new(), "{}", case.name);
        }
    });
}

#[test]
fn honest_frames_pass_with_their_checksums() {
    where_tcx_is(|| {
        let ports = ports();
        let guard = guard();
        guard.attach(ports.guest.link.index(), TcxHook::Ingress).unwrap();
        for case in cases() {
            let finished = [&[0; HEADER][..], &case.frame].concat();
            ports.guest.send(&finished).unwrap();
            assert_eq!(ports.wire.recv().as_ref(), Some(&case.frame), "{}, finished", case.name);
            let Some(field) = case.field else { continue };
            let start = match case.name.split(' ').find(|word| ["UDP", "TCP", "ICMP"].contains(word)) {
                Some("UDP") => field - 6,
                Some("TCP") => field - 16,
                _ => field - 2,
            };
            let seen = ports.send(&case.frame, start as u16, (field - start) as u16);
            assert!(seen.is_some(), "{}, unfinished", case.name);
        }
    });
}

#[test]
fn the_guard_outlives_its_process_and_is_taken_up_by_the_next() {
    where_tcx_is(|| {
        let ports = ports();
        let index = ports.guest.link.index();
        let first = guard();
        first.attach(index, TcxHook::Ingress).unwrap();
        drop(first);
        let arp = &cases()[0].frame;
        assert_eq!(ports.send(arp, 20, 10), None, "nothing lets go when the process ends");
        let second = Guard::open(Path::new(PIN)).unwrap();
        assert!(second.is_attached(index, TcxHook::Ingress).unwrap());
        second.attach(index, TcxHook::Ingress).unwrap();
        second.detach(index, TcxHook::Ingress).unwrap();
        assert!(ports.send(arp, 20, 10).is_some(), "attached twice is attached once");
        second.detach(index, TcxHook::Ingress).unwrap();
    });
}

#[test]
fn without_bpffs_the_next_process_adopts_the_guard_too() {
    where_tcx_is(|| {
        let ports = ports();
        let index = ports.guest.link.index();
        let nowhere = Path::new("/nowhere/nwfilter_csum");
        Guard::open(nowhere).unwrap().attach(index, TcxHook::Ingress).unwrap();
        let second = Guard::open(nowhere).unwrap();
        assert!(second.is_attached(index, TcxHook::Ingress).unwrap());
        second.detach(index, TcxHook::Ingress).unwrap();
        assert!(ports.send(&cases()[0].frame, 20, 10).is_some(), "attached twice is attached once");
    });
}

/// A system call `bpf` with these fields of its argument: where, what, and how long.
fn bpf(command: i32, fields: &[(usize, u64, usize)]) -> u64 {
    let mut argument = [0u8; 144];
    for (at, value, length) in fields {
        argument[*at..at + length].copy_from_slice(&value.to_ne_bytes()[..*length]);
    }
    // SAFETY: what the argument points to outlives the call.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, command, argument.as_ptr(), argument.len()) };
    assert!(answer >= 0, "{}", std::io::Error::last_os_error());
    answer as u64
}

/// What a program answers for every frame.
const PASS: u64 = 0xffff_ffff;
const DROP: u64 = 2;

/// Loads and pins a program of the guard's name that answers the same for every frame.
fn pin_another(path: &str, answer: u64) -> u64 {
    let code: [u64; 2] = [answer << 32 | 0xb7, 0x95];
    let path = std::ffi::CString::new(path).unwrap();
    let name = u64::from_ne_bytes(*b"nwfilter");
    let load =
        [(0, 3, 4), (4, 2, 4), (8, code.as_ptr() as u64, 8), (16, c"GPL".as_ptr() as u64, 8), (48, name, 8)];
    let program = bpf(5, &load);
    bpf(6, &[(0, path.as_ptr() as u64, 8), (8, program, 4)]);
    program
}

#[test]
fn another_program_in_the_guards_place_is_not_taken_for_it() {
    where_tcx_is(|| {
        let ports = ports();
        pin_another(PIN, PASS);
        let guard = Guard::open(Path::new(PIN)).unwrap();
        guard.attach(ports.guest.link.index(), TcxHook::Ingress).unwrap();
        assert_eq!(ports.send(&cases()[0].frame, 20, 10), None, "the guard judges");
        let next = Guard::open(Path::new(PIN)).unwrap();
        assert!(next.is_attached(ports.guest.link.index(), TcxHook::Ingress).unwrap(), "and is kept there");
    });
}

#[test]
fn the_guard_of_another_version_goes_when_this_one_comes() {
    const INGRESS: u64 = 46;
    where_tcx_is(|| {
        let ports = ports();
        let index = ports.guest.link.index();
        let former = pin_another(PIN, DROP);
        bpf(8, &[(0, index.into(), 4), (4, former, 4), (8, INGRESS, 4)]);
        let finished = [&[0; HEADER][..], &cases()[0].frame].concat();
        let passes = || {
            ports.guest.send(&finished).unwrap();
            ports.wire.recv().is_some()
        };
        assert!(!passes(), "the former version judges");
        let guard = Guard::open(Path::new(PIN)).unwrap();
        guard.attach(index, TcxHook::Ingress).unwrap();
        assert!(passes(), "this version alone judges");
        assert_eq!(ports.send(&cases()[0].frame, 20, 10), None, "and it does");
    });
}

#[test]
fn a_guard_whose_name_was_lost_is_found_again() {
    where_tcx_is(|| {
        let ports = ports();
        let index = ports.guest.link.index();
        guard().attach(index, TcxHook::Ingress).unwrap();
        std::fs::remove_file(PIN).unwrap();
        let next = guard();
        assert!(next.is_attached(index, TcxHook::Ingress).unwrap());
        assert!(Path::new(PIN).exists(), "and has its name again");
        next.detach(index, TcxHook::Ingress).unwrap();
        assert!(ports.send(&cases()[0].frame, 20, 10).is_some(), "attached twice is attached once");
    });
}
