//! Filters that name a set of addresses, where the set has to be in the table of a device too.

use crate::host::*;
use crate::lab::frames::*;
use crate::lab::{Link, Network, Tap, Way, flood, in_fresh_netns, macvtap};
use nwfilter::kernel::apply::Kernel;
use nwfilter::program::ir::Family;
use nwfilter::ruleset::ipset::IpsetVerb;
use nwfilter::ruleset::nft::Ownership;

const BLOCKED: &str = "10.0.0.66";

fn to(address: &str) -> Vec<u8> {
    udp(ip(GUEST_IP, address), 1, 2).into()
}

/// Drops what goes to an address, or to any of a set.
fn filter(rule: &str) -> String {
    format!(
        "<filter name='f' chain='root'><uuid>{}</uuid><rule action='drop' direction='out' statematch='0'>{rule}</rule></filter>",
        uuid("f")
    )
}

fn by_address() -> String {
    filter(&format!("<all dstipaddr='{BLOCKED}'/>"))
}

fn by_set() -> String {
    filter("<all ipset='blocked' ipsetflags='dst'/>")
}

/// A macvtap over a tap: what the guest sends is read there at once.
fn guest() -> (Tap, Tap) {
    let lower = Tap::new("lower");
    lower.link.up();
    (macvtap("macvtap0", lower.link, GUEST_MAC).expect("the kernel has macvtap"), lower)
}

fn passes((guest, lower): &(Tap, Tap), frame: &[u8]) -> bool {
    drop(lower.drain());
    guest.send(frame).unwrap();
    lower.drain().iter().any(|arrived| arrived == frame)
}

fn ipset(daemon: &Daemon, verb: IpsetVerb, addresses: &[&str]) -> Vec<String> {
    let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    daemon.connect().0.ipset("blocked", verb, &addresses).unwrap()
}

/// How many addresses the set has in each table that has it.
fn lengths() -> Vec<(Family, usize)> {
    let seen = Kernel::open(Ownership::Shared).unwrap().observe().unwrap();
    let set = |(family, table): (Family, nwfilter::program::ir::observed::ObservedTable)| {
        Some((family, table.sets.get("ipset.blocked")?.elements.len()))
    };
    seen.families.into_iter().filter_map(set).collect()
}

#[test]
fn a_set_filled_before_counts_at_a_device_as_at_a_bridge() {
    in_fresh_netns(|| {
        let (network, host, macvtap) = (Network::new(), Host::new(), guest());
        let daemon = host.start();
        daemon.connect().define(&by_set()).unwrap();
        ipset(&daemon, IpsetVerb::Add, &[BLOCKED]);
        ["vnet0", "macvtap0"].iter().for_each(|port| daemon.connect().create(port, "f").unwrap());
        let check = |address: &str, passing: bool, when: &str| {
            assert_eq!(passes(&macvtap, &to(address)), passing, "{when}: {address} from the macvtap");
            assert_eq!(
                network.passes(Way::FromGuest, to(address)),
                passing,
                "{when}: {address} from the port"
            );
        };
        check(BLOCKED, false, "filled");
        check(PEER_IP, true, "filled");
        ipset(&daemon, IpsetVerb::Add, &[PEER_IP]);
        check(PEER_IP, false, "added");
        ipset(&daemon, IpsetVerb::Delete, &[PEER_IP]);
        check(PEER_IP, true, "deleted");
        assert_eq!(lengths(), [(Family::Bridge, 1), (Family::Netdev, 1)]);
        daemon.kill();
        let daemon = host.start();
        check(BLOCKED, false, "adopted");
        assert_eq!(ipset(&daemon, IpsetVerb::Flush, &[]), [""; 0]);
        check(BLOCKED, true, "flushed");
        assert_eq!(lengths(), [(Family::Bridge, 0), (Family::Netdev, 0)]);
    });
}

#[test]
fn a_set_comes_to_the_table_of_devices_with_all_that_is_in_it() {
    in_fresh_netns(|| {
        let (host, (guest, lower)) = (Host::new(), guest());
        let daemon = host.start();
        ipset(&daemon, IpsetVerb::Add, &[BLOCKED]);
        let mut sent = 0;
        for round in 0..10 {
            daemon.connect().define(&by_address()).unwrap();
            daemon.connect().create("macvtap0", "f").unwrap();
            let (count, ()) = flood(&guest, &lower, &to(PEER_IP), &to(BLOCKED), || {
                daemon.connect().define(&by_set()).unwrap();
            });
            assert_eq!((count.forbidden_arrived, count.lost()), (0, 0), "round {round}: {count:?}");
            sent += count.forbidden_sent;
            daemon.connect().0.remove("macvtap0").unwrap();
            assert_eq!(lengths(), [(Family::Bridge, 1)], "the table of devices is gone");
        }
        assert!(sent >= 640, "{sent} frames to blocked addresses were sent");
    });
}

#[test]
fn a_set_that_only_a_device_reads_is_filled_and_kept() {
    in_fresh_netns(|| {
        let (host, macvtap) = (Host::new(), guest());
        let daemon = host.start();
        daemon.connect().define(&by_set()).unwrap();
        ipset(&daemon, IpsetVerb::Flush, &[]);
        daemon.connect().create("macvtap0", "f").unwrap();
        assert!(passes(&macvtap, &to(BLOCKED)), "empty");
        ipset(&daemon, IpsetVerb::Add, &[BLOCKED]);
        assert!(!passes(&macvtap, &to(BLOCKED)));
        let link: Link = macvtap.0.link;
        link.delete();
        eventually("the device is gone", || daemon.connect().0.status().unwrap().contains("\"index\":null"));
        drop(macvtap);
        assert_eq!(ipset(&daemon, IpsetVerb::List, &[]), [BLOCKED]);
    });
}
