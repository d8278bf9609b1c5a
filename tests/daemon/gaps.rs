//! The moments in which others leak: a name that comes back, and a binding that is deleted and recreated.

use crate::host::*;
use crate::lab::frames::*;
use crate::lab::{Network, Tap, Way, in_fresh_netns};
use std::time::{Duration, Instant};

fn honest() -> Vec<u8> {
    udp(ip(GUEST_IP, PEER_IP), 1, 2).into()
}

fn forged() -> Vec<u8> {
    udp(ip(GUEST_IP, PEER_IP), 1, 2).from(FOREIGN_MAC).into()
}

/// What arrives at the peer, by whether it should.
#[derive(Default, Debug)]
struct Arrived {
    honest: u64,
    forged: u64,
}

impl Arrived {
    fn count(&mut self, peer: &Tap) {
        for frame in peer.drain() {
            match frame {
                frame if frame == honest() => self.honest += 1,
                frame if frame == forged() => self.forged += 1,
                other => panic!("never sent so: {other:02x?}"),
            }
        }
    }
}

/// Sends both kinds of frame in turn until an honest one arrives, which is when the binding is in force.
fn until_bound(guest: &Tap, peer: &Tap, sent: &mut u64, arrived: &mut Arrived) -> Duration {
    let began = Instant::now();
    let before = arrived.honest;
    while arrived.honest == before {
        assert!(began.elapsed() < PATIENCE, "the guest is never heard");
        *sent += u64::from(guest.send(&forged()).is_ok());
        let _ = guest.send(&honest());
        arrived.count(peer);
    }
    began.elapsed()
}

// P-1
#[test]
fn a_returning_name_leaks_nothing_before_its_rules() {
    let rounds = rounds("NWFILTER_REUSE_ROUNDS", 200);
    in_fresh_netns(|| {
        let (network, host) = (Network::new(), Host::new());
        let daemon = host.start();
        daemon.connect().define(&guard("g", 0)).unwrap();
        daemon.connect().create("again", "g").unwrap();
        let (mut arrived, mut sent, mut gaps) = (Arrived::default(), 0, Vec::new());
        for _ in 0..rounds {
            let guest = network.add_port("again");
            gaps.push(until_bound(&guest, &network.peer, &mut sent, &mut arrived));
            for _ in 0..20 {
                sent += 1;
                guest.send(&forged()).unwrap();
            }
            arrived.count(&network.peer);
            // A process that another test is starting may hold the tap's descriptor for a moment.
            guest.link.delete();
        }
        assert!(sent >= rounds * 20);
        assert_eq!(arrived.forged, 0, "of {sent} forged frames");
        gaps.sort();
        let (median, longest) = (gaps[gaps.len() / 2], gaps[gaps.len() - 1]);
        println!(
            "{rounds} links came back; from up to in force: median {median:?}, longest {longest:?}; {sent} forged frames, none passed"
        );
        eventually("the last link's rules", || bound().is_empty());
    });
}

// P-14
#[test]
fn a_binding_recreated_by_another_client_leaks_nothing() {
    let rounds = rounds("NWFILTER_UPDATE_ROUNDS", 100);
    in_fresh_netns(|| {
        let (network, host) = (Network::new(), Host::new());
        let daemon = host.start();
        daemon.connect().define(&guard("g", 0)).unwrap();
        daemon.connect().define(&guard("h", 1)).unwrap();
        daemon.connect().create("vnet0", "g").unwrap();
        let (flood, ()) = network.flood(Way::FromGuest, honest(), forged(), || {
            for round in 0..rounds {
                daemon.connect().delete("vnet0").unwrap();
                daemon.connect().create("vnet0", if round % 2 == 0 { "h" } else { "g" }).unwrap();
            }
        });
        assert_eq!((flood.forbidden_arrived, flood.strange), (0, 0), "{flood:?}");
        println!(
            "{rounds} updates, {} forged frames sent, none passed; {} honest frames lost",
            flood.forbidden_sent,
            flood.lost()
        );
        assert_eq!(flood.lost(), 0, "{flood:?}");
    });
}

#[test]
fn a_deleted_binding_ends_after_its_grace_or_at_once() {
    in_fresh_netns(|| {
        let (network, host) = (Network::new(), Host::new());
        host.configure("grace = 0.4\n");
        let daemon = host.start();
        let mut conn = daemon.connect();
        conn.define(&guard("g", 0)).unwrap();
        conn.create("vnet0", "g").unwrap();
        let deleted = Instant::now();
        conn.delete("vnet0").unwrap();
        assert_eq!(bound().len(), 1);
        eventually("the end of the grace", || bound().is_empty());
        assert!(deleted.elapsed() >= Duration::from_millis(400));
        assert!(network.passes(Way::FromGuest, forged()), "the interface is nobody's any more");
        drop(daemon);
        host.configure("grace = 0\n");
        let daemon = host.start();
        daemon.connect().create("vnet0", "g").unwrap();
        daemon.connect().delete("vnet0").unwrap();
        assert!(bound().is_empty());
    });
}

#[test]
fn a_filter_is_free_as_soon_as_its_last_binding_is_deleted() {
    in_fresh_netns(|| {
        let (_network, host) = (Network::new(), Host::new());
        let daemon = host.start();
        let mut conn = daemon.connect();
        conn.define(&guard("g", 0)).unwrap();
        conn.create("vnet0", "g").unwrap();
        let error = refused(conn.undefine("g"));
        assert_eq!(error.message, "Requested operation is not valid: nwfilter is in use");
        conn.delete("vnet0").unwrap();
        conn.undefine("g").unwrap();
        assert!(bound().is_empty());
        assert!(host.files("filters").is_empty() && host.files("run/nwfilter-binding").is_empty());
    });
}
