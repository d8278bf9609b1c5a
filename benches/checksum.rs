//! What the checksum guard costs an honest frame: the same frames with and without it, in turns, and the ratio of the
//! two. Frames leave by a tap that finishes no checksums, and by one whose guest does so itself.

#[path = "../tests/lab/mod.rs"]
mod lab;

use lab::frames::{self, ACK, GUEST_IP, PEER_IP};
use lab::{Bridge, Tap, in_fresh_netns};
use nwfilter::kernel::checksum::{Guard, TcxHook};
use std::path::Path;
use std::time::{Duration, Instant};

const ROUNDS: usize = 101;
const FRAMES: usize = 1000;

struct Load {
    name: &'static str,
    bytes: Vec<u8>,
}

/// A frame behind a virtio-net header: flags, kind of segmentation, size of a segment, start of the sum, place of the sum.
fn load(name: &'static str, flags: u8, kind: u8, segment: u16, offset: u16, frame: Vec<u8>) -> Load {
    let numbers = [54u16, segment, 34, offset].map(u16::to_le_bytes).concat();
    Load { name, bytes: [&[flags, kind], &numbers[..], &frame].concat() }
}

fn loads() -> Vec<Load> {
    let udp = |length| frames::udp_with(frames::ip(GUEST_IP, PEER_IP), 1, 2, &vec![7; length]).into();
    let tcp =
        |length| frames::tcp_with(frames::ip(GUEST_IP, PEER_IP), 1, 2, ACK, &[], &vec![7; length]).into();
    vec![
        load("UDP, 64 bytes, finished", 0, 0, 0, 0, udp(22)),
        load("UDP, 64 bytes, unfinished", 1, 0, 0, 6, udp(22)),
        load("UDP, 1500 bytes, unfinished", 1, 0, 0, 6, udp(1458)),
        load("TCP, 60 kB, segments unfinished", 1, 1, 1448, 16, tcp(60_000)),
    ]
}

fn main() {
    in_fresh_netns(|| {
        let bridge = Bridge::new("br0");
        let (guest, wire) = (Tap::with_header("vnet0"), Tap::with_header("wire0"));
        for tap in [&guest, &wire] {
            bridge.add(tap.link);
            tap.link.up();
        }
        bridge.link.up();
        bridge.link.ready();
        let guard = guard();
        println!(
            "{:<34} {:>10} {:>10} {:>8}   median of {ROUNDS} rounds",
            "frame", "without", "with", "ratio"
        );
        for offload in [false, true] {
            wire.set_offload(offload).unwrap();
            println!("the neighbour's guest finishes checksums itself: {offload}");
            for load in loads() {
                let (without, with) = compare(&guard, &guest, &wire, &load);
                let ratio = with.as_secs_f64() / without.as_secs_f64();
                println!(
                    "{:<34} {:>7} ns {:>7} ns {ratio:>8.3}",
                    load.name,
                    without.as_nanos(),
                    with.as_nanos()
                );
            }
        }
    });
}

/// The median time of a frame without and with the guard.
fn compare(guard: &Guard, guest: &Tap, wire: &Tap, load: &Load) -> (Duration, Duration) {
    let index = guest.link.index();
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        without.push(time(guest, wire, load));
        guard.attach(index, TcxHook::Ingress).unwrap();
        with.push(time(guest, wire, load));
        guard.detach(index, TcxHook::Ingress).unwrap();
    }
    (median(without), median(with))
}

fn time(guest: &Tap, wire: &Tap, load: &Load) -> Duration {
    let mut buffer = vec![0; 1 << 17];
    let mut seen = 0;
    let began = Instant::now();
    for _ in 0..FRAMES {
        guest.send(&load.bytes).unwrap();
        while wire.recv_into(&mut buffer).is_some() {
            seen += 1;
        }
    }
    let took = began.elapsed();
    assert!(seen >= FRAMES, "{}: {seen} of {FRAMES} arrived", load.name);
    took / FRAMES as u32
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn guard() -> Guard {
    let (place, kind) = (c"/sys/fs/bpf", c"bpf");
    // SAFETY: the strings end in NUL; no data is given.
    let mounted = unsafe { libc::mount(kind.as_ptr(), place.as_ptr(), kind.as_ptr(), 0, std::ptr::null()) };
    assert_eq!(mounted, 0, "{}", std::io::Error::last_os_error());
    let began = Instant::now();
    let guard = Guard::open(Path::new("/sys/fs/bpf/nwfilter_csum")).unwrap();
    println!("loaded in {:?}", began.elapsed());
    guard
}
