//! The live trace against known traffic, and that nothing of it is left behind. Needs root.

#[path = "lab/mod.rs"]
mod lab;

use lab::frames::{FOREIGN_IP, FOREIGN_MAC, GUEST_IP, PEER_IP, arp_request};
use lab::{Network, Way};
use nwfilter::apply::Kernel;
use nwfilter::compile::Options;
use nwfilter::firewall::{Firewall, Member, Policy, Rules};
use nwfilter::ir::{Family, Ruleset};
use nwfilter::library::Library;
use nwfilter::nft::Ownership;
use nwfilter::nft::trace::Tracer;
use nwfilter::plan::plan;
use nwfilter::trace::Joiner;
use nwfilter::vars::Vars;
use std::process::Command;

/// A guest with clean-traffic, and a traced line for each frame.
fn traced(frames: Vec<(Way, Vec<u8>)>) -> Vec<String> {
    let (network, kernel) = (Network::new(), Kernel::open(Ownership::OwnedAndKept).unwrap());
    let compile = Options { features: kernel.features().into(), counters: false };
    let mut vars = Vars::default();
    [("MAC", "52:54:00:00:00:01"), ("IP", GUEST_IP)]
        .iter()
        .for_each(|(name, value)| vars.push(*name, *value));
    let rules = Rules::Filter("clean-traffic".into());
    let member =
        Member { index: network.guest.link.index(), name: "vnet0".into(), bridge: None, rules, vars };
    let firewall = Firewall::new(Policy { fold_up_to: 64, compile });
    let firewall = firewall.define(Library::standard().filters.into_values()).unwrap().bind(member).unwrap();
    kernel.apply(plan(&Ruleset::default(), &firewall.ruleset())).unwrap();
    let before = tables();
    let mut tracer = Tracer::open(network.guest.link.index()).unwrap();
    assert_eq!(tables().len(), before.len() + 1);
    let mut joiner = Joiner::default();
    joiner.learn(&kernel.observe().unwrap().families[&Family::Bridge]);
    let mut lines = Vec::new();
    for (way, frame) in frames {
        network.passes(way, frame);
        let mut fates = Vec::new();
        while let Some(step) = tracer.try_event().unwrap() {
            assert!(!joiner.is_new(&step), "{step:?}");
            fates.extend(joiner.step(&step));
        }
        lines.extend(fates.iter().map(ToString::to_string));
    }
    drop(tracer);
    assert_eq!(tables(), before, "the trace is gone with its socket");
    lines
}

fn tables() -> Vec<String> {
    let listed = Command::new("nft").args(["list", "tables"]).output().unwrap();
    String::from_utf8(listed.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn every_frame_has_a_line_that_names_the_rule() {
    let lines = lab::in_fresh_netns(|| {
        traced(vec![
            (Way::FromGuest, arp_request(GUEST_IP, PEER_IP).frame().into()),
            (Way::FromGuest, arp_request(FOREIGN_IP, PEER_IP).frame().into()),
            (Way::FromGuest, arp_request(GUEST_IP, PEER_IP).frame().from(FOREIGN_MAC).into()),
            (Way::FromGuest, arp_request(GUEST_IP, PEER_IP).frame().vlan(5).into()),
            (Way::ToGuest, arp_request(PEER_IP, GUEST_IP).frame().inbound().into()),
        ])
    });
    let expected = [
        "accept out clean-traffic:2  52:54:00:00:00:01 > ff:ff:ff:ff:ff:ff, ARP who-has 10.0.0.2 tell 10.0.0.1",
        "drop   out no-arp-ip-spoofing:",
        "drop   out no-mac-spoofing:2  52:54:00:00:00:09 > ",
        "drop   out no-other-l2-traffic:1  52:54:00:00:00:01 > ff:ff:ff:ff:ff:ff, VLAN 5, ARP who-has",
        "accept in  clean-traffic:2  52:54:00:00:00:02 > ",
    ];
    assert_eq!(lines.len(), expected.len(), "{lines:#?}");
    for (line, expected) in lines.iter().zip(expected) {
        assert!(line.starts_with(expected), "{line}\n{expected}");
    }
}

#[test]
fn an_interface_that_nobody_asked_about_is_not_traced() {
    lab::in_fresh_netns(|| {
        let network = Network::new();
        let mut tracer = Tracer::open(network.guest.link.index() + 100).unwrap();
        network.passes(Way::FromGuest, arp_request(GUEST_IP, PEER_IP).frame());
        assert_eq!(tracer.try_event().unwrap(), None);
    });
}
