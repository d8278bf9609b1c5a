//! Very many guests that learn at once: all are heard, none does meanwhile what it may not, and what that costs.

use crate::daemon::host::{self, Conn, Daemon, Host, eventually};
use crate::daemon::{bind_with, filter};
use crate::lab::frames::*;
use crate::lab::{Network, PortOption, Tap, Verdict, in_fresh_netns, verdict};
use crate::wire::in_world;
use nwfilter::document::mac::Mac;
use nwfilter::guest::bpf::WireEnd;
use nwfilter::guest::frame::Sighting;
use nwfilter::guest::learning::LearningMode;
use nwfilter::guest::observation::CaptureSpec;
use nwfilter::kernel::capture::{Capture, listen};
use nwfilter::report::status::Status;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::time::timeout;

const GUESTS: u32 = 1000;

/// Kilobytes of memory that a process has in use.
fn resident(process: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

struct Guest {
    tap: Tap,
    address: Ipv4Addr,
    ear: Capture,
}

fn guest(number: u32, to: mpsc::Sender<nwfilter::guest::observation::Observation>) -> Guest {
    let mac = mac(number);
    let tap = Tap::new(&format!("vnet{number}"));
    tap.link.up();
    let index = tap.link.index();
    let post = CaptureSpec {
        guest: index,
        link: index,
        side: WireEnd::Host,
        mac: Mac(mac),
        mode: LearningMode::Any,
    };
    Guest { tap, address: address(number), ear: listen(post, to).unwrap() }
}

fn mac(number: u32) -> [u8; 6] {
    let [_, _, high, low] = number.to_be_bytes();
    [2, 0, 0, 1, high, low]
}

fn address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x0a01_0000 + number)
}

/// What a guest says first: the address is another's, since one of the frame's own would be read without reading.
fn says(guest: &Guest, number: u32) -> Vec<u8> {
    let mac = mac(number);
    arp_request(&guest.address.to_string(), PEER_IP).sender_mac(mac).from(mac).into()
}

#[test]
fn a_thousand_guests_are_all_heard() {
    in_world(async || {
        let (to, mut reported) = mpsc::channel(64);
        let before = resident("self");
        let made = Instant::now();
        let guests: Vec<Guest> = (0..GUESTS).map(|number| guest(number, to.clone())).collect();
        let (made, memory) = (made.elapsed(), resident("self") - before);

        let began = Instant::now();
        for (number, guest) in guests.iter().enumerate() {
            guest.tap.send(&says(guest, number as u32)).unwrap();
        }
        let mut heard = BTreeSet::new();
        while heard.len() < guests.len() {
            let reported =
                timeout(Duration::from_secs(20), reported.recv()).await.expect("all are heard").unwrap();
            let Sighting::Arp { address, .. } = reported.frame.sighting else { panic!("{reported:?}") };
            assert!(reported.frame.sighting.addresses().eq([IpAddr::V4(address)]));
            heard.insert((reported.guest, address));
        }
        let learned = began.elapsed();
        let expected = guests.iter().map(|guest| (guest.tap.link.index(), guest.address)).collect();
        assert_eq!(heard, expected);
        assert!(guests.iter().all(|guest| !guest.ear.has_ended()));
        println!(
            "{GUESTS} guests: made in {made:?}, all heard in {learned:?}, {} bytes of memory each",
            memory * 1024 / u64::from(GUESTS)
        );
    });
}

/// The processor's time that the daemon has had.
fn spent(daemon: &Daemon) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{}/stat", daemon.child.id())).unwrap();
    let fields: Vec<u64> =
        stat.rsplit(')').next().unwrap().split_whitespace().filter_map(|word| word.parse().ok()).collect();
    // The state, which is no number, is left out: user and system time come eleventh and twelfth.
    Duration::from_millis((fields[10] + fields[11]) * 10)
}

/// The addresses of every interface that has any.
fn all_known(conn: &mut Conn) -> BTreeMap<u32, Vec<String>> {
    let status: Status = serde_json::from_str(&conn.0.status().unwrap()).unwrap();
    let known = status.interfaces.into_iter().filter_map(|interface| {
        let addresses = interface.learning?.addresses.into_iter().map(|address| address.address).collect();
        Some((interface.index?, addresses))
    });
    known.filter(|(_, addresses): &(u32, Vec<String>)| !addresses.is_empty()).collect()
}

/// Frames that a guest of this number may send at no time: neither before its address is known nor after.
fn never(number: u32) -> [Vec<u8>; 2] {
    let other = address(number + 1).to_string();
    [udp(ip(&other, PEER_IP), 1, 2).from(mac(number)).into(), arp_request(&other, PEER_IP).frame().into()]
}

#[test]
fn many_guests_learn_at_once_and_none_does_what_it_may_not() {
    let guests = host::rounds("NWFILTER_LEARNERS", 100) as u32;
    in_fresh_netns(|| {
        let (network, host) = (Network::new(), Host::new());
        let daemon = host.start();
        let mut conn = daemon.connect();
        conn.define(&filter()).unwrap();
        let port = |number| {
            let tap = network.add_port(&format!("g{number}"));
            // So that the many do not flood each other.
            tap.link.set_port(PortOption::Isolated, true);
            tap
        };
        let taps: Vec<Tap> = (0..guests).map(port).collect();
        let process = daemon.child.id().to_string();
        let (memory, cpu, began) = (resident(&process), spent(&daemon), Instant::now());
        for number in 0..guests {
            bind_with(&mut conn, &format!("g{number}"), "vm", mac(number), &[]);
        }
        let (bound_in, bound_cpu) = (began.elapsed(), spent(&daemon) - cpu);

        let claim = |number: u32| arp_request(&address(number).to_string(), PEER_IP);
        let claim = |number: u32| Vec::from(claim(number).sender_mac(mac(number)).from(mac(number)));
        let numbered = || taps.iter().zip(0..guests);
        drop(network.peer.drain());
        let (cpu, began) = (spent(&daemon), Instant::now());
        let (mut claims, mut leaks, mut tries) = (0, 0, 0);
        for (tap, number) in numbered() {
            tap.send(&claim(number)).unwrap();
            never(number).iter().for_each(|frame| tap.send(frame).unwrap());
            let arrived = network.peer.drain();
            claims += arrived.iter().filter(|frame| **frame == claim(number)).count();
            leaks += arrived.iter().filter(|frame| **frame != claim(number)).count();
        }
        let expected: BTreeMap<u32, Vec<String>> =
            numbered().map(|(tap, number)| (tap.link.index(), vec![address(number).to_string()])).collect();
        eventually("an address for each", || {
            for (tap, number) in numbered() {
                never(number).iter().for_each(|frame| tap.send(frame).unwrap());
            }
            leaks += network.peer.drain().len();
            tries += 1;
            all_known(&mut conn) == expected
        });
        let (learned_in, learned_cpu) = (began.elapsed(), spent(&daemon) - cpu);
        assert_eq!((claims, leaks), (guests as usize, 0));
        let each = (resident(&process) - memory) * 1024 / u64::from(guests);

        for (tap, number) in numbered() {
            let own = Vec::from(udp(ip(&address(number).to_string(), PEER_IP), 1, 2).from(mac(number)));
            assert_eq!(verdict(tap, &network.peer, &own), Verdict::Accept, "{number}");
        }
        println!(
            "{guests} guests: bound in {bound_in:?} ({bound_cpu:?} of the processor), all learned in {learned_in:?} \
             ({learned_cpu:?}), {each} bytes of memory each; {} forbidden frames, 0 passed",
            2 * u64::from(guests) * (tries + 1)
        );
    });
}
