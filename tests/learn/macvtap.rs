//! Guests behind macvtaps over one lower device that learn: a real client, and many that follow each other under one name.

use crate::daemon::host::{Host, eventually, rounds};
use crate::daemon::{Dnsmasq, becomes, bind_with, filter, known};
use crate::lab::frames::{Mac, PEER_IP, arp_request, dhcp, ip, udp};
use crate::lab::{Link, Tap, Wire, address, in_fresh_netns, macvtap, macvtap_at, veth};
use crate::rooms::{Client, Room, SERVER, equipped};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(20);

/// The lower device, and its far end.
fn segment() -> (Link, Link) {
    let (lower, far) = veth("lower", "far");
    [lower, far].into_iter().for_each(Link::up);
    [lower, far].into_iter().for_each(Link::ready);
    (lower, far)
}

#[test]
fn a_macvtap_clients_lease_survives_a_crash_until_release() {
    const GUEST: Mac = [0x52, 0x54, 0, 0, 1, 1];
    in_fresh_netns(|| {
        if !equipped() {
            return;
        }
        let (lower, far) = segment();
        address(far, SERVER.parse().unwrap(), 24);
        let directory = tempfile::tempdir().unwrap();
        let Some(_server) = Dnsmasq::at("far", directory.path(), 3600, &[]) else { return };
        let host = Host::new();
        host.configure("grace = 0\n");
        let daemon = host.start();
        let mut conn = daemon.connect();
        conn.define(&filter()).unwrap();
        let room = Room::behind(macvtap("macvtap0", lower, GUEST).expect("the kernel has macvtap"), GUEST);
        let index = room.port.index();
        assert!(room.may_use("10.0.0.99"), "not bound yet");
        bind_with(&mut conn, "macvtap0", "vm", GUEST, &[("CTRL_IP_LEARNING", "dhcp")]);
        assert!(!room.may_use("10.0.0.99"));
        let client = Client::start(&room, &host);
        let given = client.waits_for("bound", 1);
        becomes(&mut conn, index, &[&given]);
        assert!(room.may_use(&given) && !room.may_use("10.0.0.99"));

        daemon.kill();
        assert!(room.may_use(&given) && !room.may_use("10.0.0.99"), "without a daemon");
        let daemon = host.start();
        let mut conn = daemon.connect();
        assert_eq!(known(&mut conn, index), [&*given]);
        assert!(room.may_use(&given) && !room.may_use("10.0.0.99"));

        client.process.signal(libc::SIGUSR2);
        becomes(&mut conn, index, &[]);
        assert!(!room.may_use(&given));
    });
}

fn mac_of(number: u64) -> Mac {
    [0x52, 0x54, 1, 0, 0, number as u8]
}

fn ip_of(number: u64) -> String {
    format!("10.1.0.{number}")
}

/// One of many guests, and what is sent in its name.
struct Guest {
    mac: Mac,
    own: String,
    tap: Tap,
}

impl Guest {
    fn says(&self, address: &str) -> Vec<u8> {
        udp(ip(address, PEER_IP), 1, 2).from(self.mac).into()
    }

    /// What the rules of another guest would pass, and no learner takes.
    fn says_as(&self, number: u64) -> Vec<u8> {
        udp(ip(&ip_of(number), PEER_IP), 1, 2).from(mac_of(number)).into()
    }

    fn claims(&self) {
        let claim = arp_request(&self.own, PEER_IP).sender_mac(self.mac).from(self.mac);
        self.tap.send(&Vec::from(claim)).unwrap();
    }

    /// Whether a frame comes out, by one sent after it that the guest may send at any time.
    fn passes(&self, far: &Wire, frame: &[u8]) -> bool {
        let marker = Vec::from(dhcp(1).client_mac(self.mac).broadcast().from(self.mac));
        self.tap.send(frame).unwrap_or_default(); // The sender hears of a drop.
        self.tap.send(&marker).unwrap();
        let mut passed = false;
        loop {
            let arrived = far.recv_within(PATIENCE).expect("the marker arrives");
            if arrived == marker {
                return passed;
            }
            passed |= arrived == frame;
        }
    }
}

/// Another guest each time under the same name, every third even under the same index, some so short that the daemon can
/// not have heard much of them, some gone before they are unbound: none ever has an address of the one before.
#[test]
fn the_next_guest_at_a_macvtap_gets_no_earlier_address() {
    let rounds = rounds("NWFILTER_LEARN_ROUNDS", 12);
    in_fresh_netns(|| {
        let (lower, far) = segment();
        let far = Wire::open(&far);
        let host = Host::new();
        host.configure("grace = 0\n");
        let daemon = host.start();
        let mut conn = daemon.connect();
        conn.define(&filter()).unwrap();
        let (mut index, mut learned) = (0, 0);
        for round in 0..rounds {
            let (number, last) = (round % 200, (round + 199) % 200);
            let mac = mac_of(number);
            let tap = match round % 3 {
                1 => macvtap_at(index, "macvtap0", lower, mac),
                _ => macvtap("macvtap0", lower, mac),
            };
            let guest = Guest { mac, own: ip_of(number), tap: tap.expect("it can be recreated") };
            index = guest.tap.link.index();
            bind_with(&mut conn, "macvtap0", &format!("vm{number}"), mac, &[]);
            assert!(!guest.passes(&far, &guest.says_as(last)), "round {round}");
            if round % 2 == 0 {
                eventually("an address", || {
                    guest.claims();
                    !known(&mut conn, index).is_empty()
                });
                learned += 1;
                assert_eq!(known(&mut conn, index).join(" "), guest.own, "round {round}");
                assert!(guest.passes(&far, &guest.says(&guest.own)), "round {round}");
                assert!(!guest.passes(&far, &guest.says(&ip_of(last))), "round {round}");
            }
            if round % 5 < 3 {
                conn.delete("macvtap0").unwrap();
                guest.tap.link.delete();
            } else {
                guest.tap.link.delete();
                conn.delete("macvtap0").unwrap();
            }
        }
        println!("{rounds} guests under one name, {learned} learned their own address, 0 another's");
    });
}
