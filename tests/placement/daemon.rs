//! What the daemon makes of interfaces that no bridge sees, and of those that come to a bridge or leave it.

use crate::host::*;
use crate::lab::frames::*;
use crate::lab::{
    Link, Marker, Network, Tap, Way, Wire, address, arrivals, in_fresh_netns, macvtap, macvtap_at, veth,
};
use crate::tool::InTime;
use crate::{hooks_last, where_hooks_last};
use nwfilter::kernel::apply::Kernel;
use nwfilter::program::ir::Family;
use nwfilter::report::status::{Interface, ProgramLocation, Status};
use nwfilter::ruleset::nft::Ownership;
use std::net::{Ipv4Addr, UdpSocket};
use std::time::Instant;

const PORT: u16 = 7777;
const HOST: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 254);

fn honest() -> Vec<u8> {
    udp(ip(GUEST_IP, PEER_IP), 1, 2).into()
}

fn forged() -> Vec<u8> {
    udp(ip(GUEST_IP, PEER_IP), 1, 2).from(FOREIGN_MAC).into()
}

/// A guest's macvtap can be made over one end of a veth, and is heard at the other. Another macvtap there is never bound.
struct Segment {
    lower: Link,
    far: Wire,
    witness: Tap,
}

const WITNESS: [u8; 6] = [0x52, 0x54, 0, 0, 0, 0x77];

impl Segment {
    fn new() -> Segment {
        let (lower, far) = veth("lower", "far");
        [lower, far].into_iter().for_each(Link::up);
        [lower, far].into_iter().for_each(Link::ready);
        let witness = macvtap("witness", lower, WITNESS).expect("the kernel has macvtap");
        Segment { lower, far: Wire::open(&far), witness }
    }

    fn guest(&self, name: &str) -> Tap {
        macvtap(name, self.lower, GUEST_MAC).expect("the kernel has macvtap")
    }

    /// Whether a frame comes out at the far end before one of the witness.
    fn passes(&self, guest: &Tap, frame: &[u8]) -> bool {
        let from_witness = Vec::from(udp(ip("10.0.0.77", PEER_IP), 1, 2).from(WITNESS));
        let marker = Marker { frame: from_witness, from: &self.witness, to: &self.far };
        arrivals(frame, guest, &self.far, vec![marker]).iter().any(|arrived| arrived == frame)
    }

    /// What has come out so far.
    fn arrivals(&self) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| self.far.recv()).collect()
    }

    /// Whether a frame from the far end comes to the guest before the witness has its own.
    fn reaches(&self, guest: &Tap, frame: &[u8]) -> bool {
        let to_witness = Vec::from(udp(ip(PEER_IP, "10.0.0.77"), 1, 2).from(PEER_MAC).to(WITNESS));
        let marker = Marker { frame: to_witness, from: &self.far, to: &self.witness };
        arrivals(frame, &self.far, guest, vec![marker]).iter().any(|arrived| arrived == frame)
    }
}

fn interface(daemon: &Daemon, name: &str) -> Interface {
    let status: Status = serde_json::from_str(&daemon.connect().0.status().unwrap()).unwrap();
    let found = status.interfaces.into_iter().find(|interface| interface.name.as_deref() == Some(name));
    found.unwrap_or_else(|| panic!("{name} is not bound"))
}

fn guarded() -> (Host, Daemon) {
    guarded_with("")
}

fn guarded_with(configuration: &str) -> (Host, Daemon) {
    let host = Host::new();
    host.configure(configuration);
    let daemon = host.start();
    daemon.connect().define(&guard("g", 0)).unwrap();
    (host, daemon)
}

/// Dropped on its way to the guest by the guard.
fn unwanted() -> Vec<u8> {
    ether(0x9000, vec![0; 46]).inbound().into()
}

#[test]
fn a_macvtap_is_filtered_both_ways_over_a_restart_and_let_go() {
    in_fresh_netns(|| {
        let segment = Segment::new();
        let guest = segment.guest("macvtap0");
        let (host, daemon) = guarded();
        assert!(segment.passes(&guest, &forged()), "not bound yet");
        daemon.connect().create("macvtap0", "g").unwrap();
        let answer = Vec::from(udp(ip(GUEST_IP, PEER_IP), 1, 2).inbound());
        let check = |when: &str| {
            assert!(segment.passes(&guest, &honest()) && !segment.passes(&guest, &forged()), "{when}");
            assert!(segment.reaches(&guest, &answer) && !segment.reaches(&guest, &unwanted()), "{when}");
        };
        check("bound");
        let shown = interface(&daemon, "macvtap0");
        assert_eq!((shown.seat, shown.unseen), (Some(ProgramLocation::Device(Some("bridge".into()))), false));
        daemon.kill();
        check("without a daemon");
        let daemon = host.start();
        check("adopted");
        daemon.connect().0.remove("macvtap0").unwrap();
        assert!(segment.passes(&guest, &forged()) && segment.reaches(&guest, &unwanted()), "let go");
        let left = Kernel::open(Ownership::Shared).unwrap().observe().unwrap();
        assert_eq!(left.families.len(), 1, "the table for devices is gone");
    });
}

#[test]
fn a_recreated_macvtap_is_blocked_until_it_has_its_rules() {
    let rounds = rounds("NWFILTER_REUSE_ROUNDS", 20);
    where_hooks_last(|| {
        let segment = Segment::new();
        let (_host, daemon) = guarded();
        daemon.connect().create("macvtap0", "g").unwrap();
        let mut index = 0;
        for round in 0..rounds {
            let guest = match round % 2 {
                1 => macvtap_at(index, "macvtap0", segment.lower, GUEST_MAC).unwrap(),
                _ => segment.guest("macvtap0"),
            };
            index = guest.link.index();
            let began = Instant::now();
            let mut there = false;
            while !there {
                assert!(began.elapsed() < PATIENCE, "the guest is never heard");
                let _ = guest.send(&forged());
                let _ = guest.send(&honest());
                for arrived in segment.arrivals() {
                    // The very first one has no hooks yet that could have stayed behind.
                    assert!(arrived == honest() || round == 0, "round {round}: {arrived:02x?}");
                    there |= arrived == honest() && interface(&daemon, "macvtap0").index == Some(index);
                }
            }
            assert!(!segment.passes(&guest, &forged()), "round {round}");
            guest.link.delete();
            drop(guest);
        }
    });
}

#[test]
fn an_index_that_is_used_again_gives_another_macvtap_nothing() {
    in_fresh_netns(|| {
        let segment = Segment::new();
        let (_host, daemon) = guarded();
        let guest = segment.guest("macvtap0");
        daemon.connect().create("macvtap0", "g").unwrap();
        assert!(!segment.passes(&guest, &forged()));
        let index = guest.link.index();
        guest.link.delete();
        drop(guest);
        let other = macvtap_at(index, "macvtap1", segment.lower, GUEST_MAC).unwrap();
        assert!(segment.passes(&other, &forged()), "nobody's");
    });
}

// W-1
#[test]
fn a_macvtap_that_is_renamed_is_filtered_again_at_once() {
    in_fresh_netns(|| {
        let segment = Segment::new();
        let guest = segment.guest("macvtap0");
        let (_host, daemon) = guarded();
        daemon.connect().create("macvtap0", "g").unwrap();
        // Kernels whose hooks stay with a renamed device rename none that is up.
        let live = hooks_last();
        let mut gaps = Vec::new();
        for name in ["other", "macvtap0", "third", "macvtap0"] {
            segment.arrivals();
            if live {
                guest.link.rename(name);
            } else {
                guest.link.down();
                guest.link.rename(name);
                guest.link.up();
            }
            let began = Instant::now();
            while segment.passes(&guest, &forged()) {
                assert!(began.elapsed() < PATIENCE);
            }
            gaps.push(began.elapsed());
            assert!(segment.passes(&guest, &honest()));
            assert!(!segment.passes(&guest, &forged()));
            daemon.connect().0.status().unwrap();
        }
        println!("filtered again after a rename: {gaps:?}");
    });
}

/// The host hears a guest's frame at a socket of its own.
struct Ear(UdpSocket);

impl Ear {
    fn at(tap: &Tap) -> Ear {
        address(tap.link, HOST, 24);
        let socket = UdpSocket::bind((HOST, PORT)).unwrap();
        socket.set_nonblocking(true).unwrap();
        Ear(socket)
    }

    fn hears(&self, tap: &Tap, from: [u8; 6]) -> bool {
        let to = std::fs::read_to_string(format!("/sys/class/net/{}/address", tap.link.name())).unwrap();
        let to: Vec<u8> = to.trim().split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
        let frame = udp(ip(GUEST_IP, &HOST.to_string()), 1, PORT).from(from).to(to.try_into().unwrap());
        while self.0.recv(&mut [0; 64]).is_ok() {}
        let _ = tap.send(&Vec::from(frame));
        self.0.recv(&mut [0; 64]).is_ok()
    }
}

/// Whether the host answers a guest that asks for its MAC address.
fn asks(tap: &Tap, from: [u8; 6]) -> bool {
    drop(tap.drain());
    let _ = tap.send(&Vec::from(arp_request(GUEST_IP, &HOST.to_string()).from(from)));
    tap.drain().iter().any(|frame| frame[12..14] == [8, 6] && frame[20..22] == [0, 2])
}

#[test]
fn over_a_restart_a_routed_guest_gets_its_answers_alone() {
    in_fresh_netns(|| {
        if !Kernel::open(Ownership::Shared).unwrap().features().inet_ct.is_yes() {
            println!("skipped: this kernel tracks no connections");
            return;
        }
        let guest = Tap::new("vnet0");
        guest.link.up();
        let ear = Ear::at(&guest);
        let neighbour = ["neigh", "add", GUEST_IP, "lladdr", "52:54:00:00:00:01", "dev", "vnet0"];
        assert!(std::process::Command::new("ip").args(neighbour).status_in_time().unwrap().success());
        let (host, daemon) = guarded_with("host_to_guest = 'filter'\n");
        let rules =
            "<rule action='drop' direction='out' priority='100'><mac match='no' srcmacaddr='$MAC'/></rule>
            <rule action='accept' direction='out'><udp/></rule>
            <rule action='drop' direction='inout' priority='900'><all/></rule>";
        daemon.connect().define(&format!("<filter name='asks' chain='root'>{rules}</filter>")).unwrap();
        daemon.connect().create("vnet0", "asks").unwrap();
        let gets = |port: u16| {
            drop(guest.drain());
            let _ = ear.0.send_to(b"answer", (GUEST_IP, port)); // The sender hears of a drop.
            guest.recv().is_some_and(|frame| frame[36..38] == port.to_be_bytes())
        };
        let check = |when: &str| {
            assert!(ear.hears(&guest, GUEST_MAC) && !ear.hears(&guest, FOREIGN_MAC), "{when}");
            assert!(gets(1) && !gets(2), "{when}");
        };
        assert!(!gets(2), "an answer before the question");
        check("bound");
        daemon.kill();
        check("without a daemon");
        let daemon = host.start();
        check("adopted");
        let shown = interface(&daemon, "vnet0");
        assert_eq!((shown.seat, shown.unseen), (Some(ProgramLocation::Device(None)), false));
        assert!(
            shown
                .packets
                .is_some_and(|program| program.starts_with("asks/") && shown.program != Some(program))
        );
        daemon.connect().0.remove("vnet0").unwrap();
        assert!(gets(2), "let go");
    });
}

// P-21
#[test]
fn a_tap_without_a_bridge_is_filtered_both_ways() {
    in_fresh_netns(|| {
        let guest = Tap::new("vnet0");
        guest.link.up();
        let ear = Ear::at(&guest);
        let (_host, daemon) = guarded();
        assert!(ear.hears(&guest, FOREIGN_MAC), "not bound yet");
        daemon.connect().create("vnet0", "g").unwrap();
        assert!(ear.hears(&guest, GUEST_MAC) && !ear.hears(&guest, FOREIGN_MAC));
        let host = Wire::open(&guest.link);
        let reaches = |frame: Vec<u8>| {
            drop(guest.drain());
            let _ = host.send(&frame); // The sender hears of a drop.
            guest.recv() == Some(frame)
        };
        assert!(reaches(udp(ip(GUEST_IP, PEER_IP), 1, 2).inbound().into()) && !reaches(unwanted()));
        assert_eq!(interface(&daemon, "vnet0").seat, Some(ProgramLocation::Device(None)));
    });
}

// W-3
#[test]
fn a_port_that_leaves_its_bridge_and_comes_back_stays_filtered() {
    in_fresh_netns(|| {
        let network = Network::new();
        let guest = &network.guest;
        let ear = Ear::at(guest);
        let (_host, daemon) = guarded();
        daemon.connect().create("vnet0", "g").unwrap();
        assert_eq!(interface(&daemon, "vnet0").seat, Some(ProgramLocation::Bridge(Some("br0".into()))));
        let mut gaps = Vec::new();
        for round in 0..10 {
            guest.link.set_master(None);
            let left = Instant::now();
            assert!(!ear.hears(guest, FOREIGN_MAC), "round {round}: no packet gets to the host");
            while asks(guest, FOREIGN_MAC) {
                assert!(!ear.hears(guest, FOREIGN_MAC), "round {round}");
                assert!(left.elapsed() < PATIENCE, "round {round}");
            }
            gaps.push(left.elapsed());
            eventually("the guest is heard", || ear.hears(guest, GUEST_MAC));
            assert!(!ear.hears(guest, FOREIGN_MAC));
            assert_eq!(interface(&daemon, "vnet0").seat, Some(ProgramLocation::Device(None)));
            network.bridge.add(guest.link);
            let joined = Instant::now();
            while !network.passes(Way::FromGuest, honest()) {
                assert!(!network.passes(Way::FromGuest, forged()), "round {round}");
                assert!(joined.elapsed() < PATIENCE, "round {round}");
            }
            assert!(!network.passes(Way::FromGuest, forged()), "round {round}");
            assert_eq!(interface(&daemon, "vnet0").seat, Some(ProgramLocation::Bridge(Some("br0".into()))));
        }
        gaps.sort();
        println!("ARP is filtered again after leaving a bridge, packets at once: {gaps:?}");
    });
}

/// What others may do to our tables; refusals are theirs.
fn nft(arguments: &[&str]) {
    let _ = std::process::Command::new("nft").args(arguments).output_in_time().unwrap();
}

#[test]
fn what_others_do_to_the_table_of_devices_is_refused_or_undone() {
    in_fresh_netns(|| {
        let segment = Segment::new();
        let guest = segment.guest("macvtap0");
        let (host, daemon) = guarded();
        daemon.connect().create("macvtap0", "g").unwrap();
        let seen = || Kernel::open(Ownership::Shared).unwrap().observe().unwrap();
        let owned = Kernel::open(Ownership::Shared).unwrap().features().owner_persist.is_yes();
        assert_eq!(seen().families[&Family::Netdev].owner, owned);
        let filtered = |when: &str| {
            eventually(when, || !segment.passes(&guest, &forged()) && segment.passes(&guest, &honest()));
            assert!(!segment.reaches(&guest, &unwanted()), "{when}");
        };
        for command in [
            &["flush", "ruleset"][..],
            &["delete", "table", "netdev", "nwfilter"],
            &["flush", "chain", "netdev", "nwfilter", "ingress"],
            &["delete", "chain", "netdev", "nwfilter", "_device/egress/macvtap0"],
            &["flush", "set", "netdev", "nwfilter", "bound"],
        ] {
            nft(command);
            assert!(!owned || !segment.passes(&guest, &forged()), "{command:?}: the table is ours alone");
            filtered(&command.join(" "));
        }
        daemon.kill();
        nft(&["flush", "ruleset"]);
        let daemon = host.start();
        assert!(!segment.passes(&guest, &forged()), "flushed while no daemon ran");
        filtered("restored");
        assert_eq!(seen().families[&Family::Netdev].owner, owned);
        drop(daemon);
    });
}

#[test]
fn a_daemon_started_without_a_bound_device_blocks_its_name() {
    where_hooks_last(|| {
        let segment = Segment::new();
        let guest = segment.guest("macvtap0");
        let (host, daemon) = guarded();
        daemon.connect().create("macvtap0", "g").unwrap();
        guest.link.delete();
        drop(guest);
        eventually("the binding waits", || interface(&daemon, "macvtap0").index.is_none());
        daemon.kill();
        host.start().kill();
        let guest = segment.guest("macvtap0");
        assert!(!segment.passes(&guest, &honest()) && !segment.reaches(&guest, &unwanted()), "blocked");
        let _daemon = host.start();
        assert!(segment.passes(&guest, &honest()) && !segment.passes(&guest, &forged()));
    });
}

/// Asks for connections, which a macvtap's hooks do not know.
fn stateful(name: &str) -> String {
    let rule = "<rule action='accept' direction='out'><tcp state='NEW'/></rule></filter>";
    guard(name, 0).replace("</filter>", rule)
}

#[test]
fn a_stateful_filter_at_a_macvtap_is_refused_or_closes_it() {
    in_fresh_netns(|| {
        let segment = Segment::new();
        let guest = segment.guest("macvtap0");
        let (_host, daemon) = guarded();
        daemon.connect().define(&stateful("s")).unwrap();
        let why = refused(daemon.connect().create("macvtap0", "s")).message;
        assert!(why.contains("connection"), "{why}");
        assert!(segment.passes(&guest, &forged()), "not bound");
        guest.link.delete();
        drop(guest);
        // Where its link is no one knows yet, it may come to a bridge.
        if daemon.connect().create("macvtap0", "s").is_err() {
            println!("skipped: no bridge tracks connections here");
            return;
        }
        let guest = segment.guest("macvtap0");
        eventually("it is closed", || interface(&daemon, "macvtap0").closed.is_some());
        assert!(!segment.passes(&guest, &honest()));
    });
}
