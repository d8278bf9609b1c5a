//! A macvtap's guest, whose frames go out by its interface.

use crate::lab::frames::*;
use crate::lab::{Link, PATIENCE, Wire, in_fresh_netns, macvtap, veth};
use nwfilter::document::catalog::Library;
use nwfilter::document::vars::Vars;
use nwfilter::kernel::apply::Kernel;
use nwfilter::program::ir::Ruleset;
use nwfilter::ruleset::counters::{dropped, traffic};
use nwfilter::ruleset::firewall::{Attachment, BoundInterface, Firewall, Policy, Rules};
use nwfilter::ruleset::from_kernel::recall;
use nwfilter::ruleset::layout::TrafficCounting;
use nwfilter::ruleset::nft::Ownership;
use nwfilter::ruleset::plan::plan;

#[test]
fn what_a_macvtaps_guest_sends_is_counted_as_its_own() {
    for fold_up_to in [0, 64] {
        in_fresh_netns(|| {
            let (lower, far) = veth("lower", "far");
            [lower, far].into_iter().for_each(Link::up);
            [lower, far].into_iter().for_each(Link::ready);
            let guest = macvtap("macvtap0", lower, GUEST_MAC).expect("the kernel has macvtap");
            let kernel = Kernel::open(Ownership::OwnedAndKept).unwrap();
            let mut vars = Vars::default();
            [("MAC", "52:54:00:00:00:01"), ("IP", GUEST_IP)]
                .iter()
                .for_each(|(name, value)| vars.push(*name, *value));
            let name = String::from("macvtap0");
            let place = Attachment::Device { name: name.clone(), reversed: true };
            let rules = Rules::Filter("clean-traffic".into());
            let index = guest.link.index();
            let policy = Policy { fold_up_to, ..Policy::new(kernel.features()) };
            let firewall = Firewall::new(policy).define(Library::standard().filters.into_values()).unwrap();
            let firewall = firewall.counting_traffic(TrafficCounting::On);
            let firewall = firewall.bind(BoundInterface { index, name, place, rules, vars }).unwrap();
            kernel.apply(plan(&Ruleset::default(), &firewall.ruleset())).unwrap();
            let own = || udp(ip(GUEST_IP, PEER_IP), 1, 2);
            let wire = Wire::open(&far);
            for frame in [own().from(FOREIGN_MAC), own().from(FOREIGN_MAC), own()] {
                guest.send(&Vec::from(frame)).unwrap();
            }
            assert!(wire.recv_within(PATIENCE).is_some());
            let _ = guest.drain();
            wire.send(&Vec::from(own().inbound())).unwrap();
            assert!(guest.recv_within(PATIENCE).is_some());
            let seen = kernel.observe().unwrap();
            let drops = &dropped(&seen)[&index];
            let reported: Vec<_> =
                drops.iter().map(|drop| (drop.filter.as_deref(), drop.rule, drop.count.frames)).collect();
            assert_eq!(reported, [(Some("no-mac-spoofing"), Some(2), 2)], "{fold_up_to}");
            let traffic = &traffic(&recall(&seen, &Ruleset::default()), &seen)[&index];
            assert_eq!((traffic.from_guest.frames, traffic.to_guest.frames), (3, 1), "{fold_up_to}");
        });
    }
}
