//! What the kernel itself counted of links, which ours is compared with.

use crate::lab::frames::*;
use crate::lab::{Network, in_fresh_netns};
use crate::tool::InTime;
use nwfilter::guest::link::Load;
use nwfilter::kernel::links::{loads, shed};
use std::process::Command;

#[test]
fn each_way_of_each_link_is_read_and_what_tc_drops() {
    in_fresh_netns(|| {
        let network = Network::new();
        let of = |frames: u64, frame: &[u8]| (frames, frames * frame.len() as u64);
        let (sent, got) =
            (Vec::from(udp(ip(GUEST_IP, PEER_IP), 1, 2)), Vec::from(arp_reply(PEER_IP, GUEST_IP).frame()));
        (0..3).for_each(|_| network.guest.send(&sent).unwrap());
        (0..5).for_each(|_| network.peer.send(&got).unwrap());
        let [guest, peer, bridge] =
            [network.guest.link, network.peer.link, network.bridge.link].map(|link| link.index());
        assert_eq!(loads().unwrap()[&guest].went, (0, 0), "what waits was not carried");
        assert_eq!((network.guest.drain().len(), network.peer.drain().len()), (5, 3));
        let all = loads().unwrap();
        assert_eq!(all[&guest], Load { came: of(3, &sent), went: of(5, &got), open: true });
        assert_eq!(all[&peer], Load { came: of(5, &got), went: of(3, &sent), open: true });
        assert!(all[&bridge].open);
        network.guest.link.down();
        assert!(!loads().unwrap()[&guest].open, "its bridge does not listen to it");
        network.guest.link.up();
        assert!(!shed().unwrap().contains_key(&guest));
        let tc = |words: &[&str]| assert!(Command::new("tc").args(words).status_in_time().unwrap().success());
        tc(&["qdisc", "add", "dev", "vnet0", "ingress"]);
        assert_eq!(shed().unwrap()[&guest], 0);
        // The verdict 2, to drop.
        tc(&[
            "filter",
            "add",
            "dev",
            "vnet0",
            "parent",
            "ffff:",
            "protocol",
            "all",
            "bpf",
            "da",
            "bytecode",
            "1,6 0 0 2",
        ]);
        (0..4).for_each(|_| network.guest.send(&sent).unwrap());
        assert_eq!(shed().unwrap()[&guest], 4);
        assert_eq!(loads().unwrap()[&guest].came, of(7, &sent));
    });
}
