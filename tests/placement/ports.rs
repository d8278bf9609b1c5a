//! Ports of a bridge that are filtered at their own hooks, and programs that change from one place to the other.

use crate::host::*;
use crate::lab::frames::*;
use crate::lab::{Network, Way};
use crate::where_hooks_last;
use nwfilter::kernel::apply::Kernel;
use nwfilter::report::status::{ProgramLocation, Status};
use nwfilter::ruleset::nft::Ownership;

fn honest() -> Vec<u8> {
    udp(ip(GUEST_IP, PEER_IP), 1, 2).into()
}

fn forged() -> Vec<u8> {
    udp(ip(GUEST_IP, PEER_IP), 1, 2).from(FOREIGN_MAC).into()
}

/// Dropped on its way to the guest by the guard.
fn unwanted() -> Vec<u8> {
    ether(0x9000, vec![0; 46]).inbound().into()
}

/// The guard, with a rule that only a bridge's hooks can follow.
fn rejecting() -> String {
    let rule = "<rule action='reject' direction='out'><tcp dstportstart='99'/></rule></filter>";
    guard("g", 0).replace("</filter>", rule)
}

fn seats(daemon: &Daemon) -> Vec<Option<ProgramLocation>> {
    let status: Status = serde_json::from_str(&daemon.connect().0.status().unwrap()).unwrap();
    assert!(status.interfaces.iter().all(|interface| !interface.unseen));
    status.interfaces.into_iter().map(|interface| interface.seat).collect()
}

fn world(work: impl FnOnce(&Network, &Host, &Daemon) + Send) {
    where_hooks_last(|| {
        let (network, host) = (Network::new(), Host::new());
        host.configure("placement = 'device'\n");
        let daemon = host.start();
        daemon.connect().define(&guard("g", 0)).unwrap();
        daemon.connect().create("vnet0", "g").unwrap();
        work(&network, &host, &daemon);
    });
}

#[test]
fn a_port_is_filtered_at_its_own_hooks_and_let_go() {
    world(|network, _, daemon| {
        assert_eq!(seats(daemon), [Some(ProgramLocation::Device(None))]);
        assert!(network.passes(Way::FromGuest, honest()) && !network.passes(Way::FromGuest, forged()));
        let answer = udp(ip(GUEST_IP, PEER_IP), 1, 2).inbound();
        assert!(network.passes(Way::ToGuest, answer) && !network.passes(Way::ToGuest, unwanted()));
        daemon.connect().0.remove("vnet0").unwrap();
        assert!(network.passes(Way::FromGuest, forged()) && network.passes(Way::ToGuest, unwanted()));
        let left = Kernel::open(Ownership::Shared).unwrap().observe().unwrap();
        assert_eq!(left.families.len(), 1, "the table for devices is gone: {:?}", left.families.keys());
    });
}

// P-9
#[test]
fn a_program_that_changes_its_place_leaks_nothing() {
    let rounds = rounds("NWFILTER_PLACEMENT_ROUNDS", 10);
    world(|network, _, daemon| {
        let answer: Vec<u8> = udp(ip(GUEST_IP, PEER_IP), 1, 2).inbound().into();
        for (way, honest, forbidden) in
            [(Way::FromGuest, honest(), forged()), (Way::ToGuest, answer, unwanted())]
        {
            let (flood, ()) = network.flood(way, honest, forbidden, || {
                for _ in 0..rounds {
                    daemon.connect().define(&rejecting()).unwrap();
                    assert_eq!(seats(daemon), [Some(ProgramLocation::Bridge(Some("br0".into())))]);
                    daemon.connect().define(&guard("g", 0)).unwrap();
                    assert_eq!(seats(daemon), [Some(ProgramLocation::Device(None))]);
                }
            });
            assert_eq!((flood.forbidden_arrived, flood.strange), (0, 0), "{way:?}: {flood:?}");
            println!(
                "{way:?}: {rounds} times there and back, {} forbidden frames, none passed; {} of {} honest ones lost",
                flood.forbidden_sent,
                flood.lost(),
                flood.honest_sent
            );
        }
    });
}
