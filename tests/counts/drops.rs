//! Drops by guest and rule: exact, kept over every change that keeps the rule, and never a reason to let a frame pass.

use crate::host::{Host, STYLES, Style};
use crate::lab::frames::*;
use crate::lab::{Tap, Way, in_fresh_netns};
use crate::tool::InTime;
use nwfilter::document::catalog::Library;
use nwfilter::document::vars::Vars;
use nwfilter::kernel::apply::Kernel;
use nwfilter::program::ir::observed::Observed;
use nwfilter::program::ir::{Family, Ruleset};
use nwfilter::ruleset::counters::{dropped, forget_stale};
use nwfilter::ruleset::firewall::{Attachment, BoundInterface, Firewall, Policy, Rules};
use nwfilter::ruleset::from_kernel::recall;
use nwfilter::ruleset::nft::Ownership;
use nwfilter::ruleset::plan::{Plan, plan};
use std::io::Write;
use std::process::{Command, Stdio};

const OTHER_IP: &str = "10.0.0.3";
const GUEST_VARS: &[(&str, &str)] = &[("MAC", "52:54:00:00:00:01"), ("IP", GUEST_IP)];
const OTHER_VARS: &[(&str, &str)] = &[("MAC", "52:54:00:00:00:03"), ("IP", OTHER_IP)];

/// `filter:rule` and the frames it dropped of an interface, and their bytes.
fn counted(observed: &Observed, tap: &Tap) -> Vec<(String, u64, u64)> {
    let mut all = dropped(observed).remove(&tap.link.index()).unwrap_or_default();
    let name = |filter: Option<String>, rule: Option<u32>| match (filter, rule) {
        (Some(filter), Some(rule)) => format!("{filter}:{rule}"),
        _ => "-".into(),
    };
    all.drain(..).map(|drop| (name(drop.filter, drop.rule), drop.count.frames, drop.count.bytes)).collect()
}

fn frames(observed: &Observed, tap: &Tap) -> Vec<(String, u64)> {
    counted(observed, tap).into_iter().map(|(rule, frames, _)| (rule, frames)).collect()
}

fn of(expected: &[(&str, u64)]) -> Vec<(String, u64)> {
    expected.iter().map(|(rule, frames)| (rule.to_string(), *frames)).collect()
}

fn send(tap: &Tap, times: usize, frame: impl Into<Vec<u8>>) {
    let frame = frame.into();
    (0..times).for_each(|_| tap.send(&frame).unwrap());
}

fn forged_mac() -> Frame {
    udp(ip(GUEST_IP, PEER_IP), 1, 2).from(FOREIGN_MAC)
}

fn forged_arp() -> Frame {
    arp_reply(FOREIGN_IP, PEER_IP).frame()
}

// P-42
#[test]
fn each_guests_drops_are_counted_by_rule_to_the_frame_and_byte() {
    for style in STYLES {
        in_fresh_netns(|| {
            let mut host = Host::new(style);
            let other = host.network.add_port("vnet1");
            host.bind_guest("clean-traffic", GUEST_VARS).unwrap();
            host.bind(&other, "clean-traffic", OTHER_VARS).unwrap();
            assert_eq!(counted(&host.observe(), &host.network.guest), [], "{style:?}");
            send(&host.network.guest, 5, forged_mac());
            send(&host.network.guest, 3, forged_arp());
            send(&host.network.guest, 20, udp(ip(GUEST_IP, PEER_IP), 1, 2));
            send(&other, 7, forged_mac());
            let seen = host.observe();
            let bytes = |frame: Frame| Vec::from(frame).len() as u64;
            // At a device the kernel has taken the Ethernet header off a frame that comes in; a bridge too.
            let header = 14;
            let mac = bytes(forged_mac()) - header;
            let arp = bytes(forged_arp()) - header;
            let own = counted(&seen, &host.network.guest);
            let expected = [
                ("no-arp-ip-spoofing:2".to_owned(), 3, 3 * arp),
                ("no-mac-spoofing:2".to_owned(), 5, 5 * mac),
            ];
            assert_eq!(own, expected, "{style:?}");
            assert_eq!(frames(&seen, &other), of(&[("no-mac-spoofing:2", 7)]), "{style:?}");
        });
    }
}

#[test]
fn a_count_survives_redefinition_folding_and_restart() {
    let wording = |rules: &str| {
        format!(
            "<filter name='f' chain='root'>{rules}
               <rule action='drop' direction='out'><udp dstportstart='81'/></rule>
               <rule action='drop' direction='out'><mac protocolid='arp'/></rule>
             </filter>"
        )
    };
    let arp = || arp_reply(GUEST_IP, PEER_IP).frame();
    let to = |port| udp(ip(GUEST_IP, PEER_IP), 1, port);
    for style in STYLES {
        in_fresh_netns(|| {
            let mut host = Host::new(style);
            host.define(&[&wording("")]).unwrap();
            host.bind_guest("f", GUEST_VARS).unwrap();
            send(&host.network.guest, 2, arp());
            send(&host.network.guest, 3, to(81));
            assert_eq!(frames(&host.observe(), &host.network.guest), of(&[("f:1", 3), ("f:2", 2)]));
            let new = "<rule action='drop' direction='out'><udp dstportstart='82'/></rule>";
            host.define(&[&wording(new)]).unwrap();
            send(&host.network.guest, 1, arp());
            send(&host.network.guest, 4, to(82));
            let expected = of(&[("f:1", 4), ("f:2", 3), ("f:3", 3)]);
            assert_eq!(frames(&host.observe(), &host.network.guest), expected, "{style:?}: redefined");
            for fold_up_to in [0, 64, 0] {
                let policy = Policy { fold_up_to, ..*host.firewall.policy() };
                host.enforce(host.firewall.with_policy(policy).unwrap()).unwrap();
            }
            send(&host.network.guest, 1, arp());
            let expected = of(&[("f:1", 4), ("f:2", 3), ("f:3", 4)]);
            assert_eq!(frames(&host.observe(), &host.network.guest), expected, "{style:?}: moved");
            let (seen, wanted) = (host.observe(), host.firewall.ruleset());
            assert!(
                plan(&recall(&seen, &wanted), &wanted).is_empty(),
                "{style:?}: a restart finds all as it was"
            );
            host.define(&[&wording("")]).unwrap();
            let expected = of(&[("-", 4), ("f:1", 3), ("f:2", 4)]);
            assert_eq!(
                frames(&host.observe(), &host.network.guest),
                expected,
                "{style:?}: a rule is no more"
            );
        });
    }
}

/// A kernel handle, a network, and what is in force, for tests that change the rules themselves.
struct Bare {
    network: crate::lab::Network,
    kernel: Kernel,
    in_force: Ruleset,
}

impl Bare {
    fn new() -> Bare {
        let kernel = Kernel::open(Ownership::Shared).unwrap();
        Bare { network: crate::lab::Network::new(), kernel, in_force: Ruleset::default() }
    }

    fn firewall(&self, fold_up_to: usize, index: u32) -> Firewall {
        let mut vars = Vars::default();
        GUEST_VARS.iter().for_each(|(name, value)| vars.push(*name, *value));
        let rules = Rules::Filter("clean-traffic".into());
        let member =
            BoundInterface { index, name: "vnet0".into(), place: Attachment::Bridge(None), rules, vars };
        let policy = Policy { fold_up_to, ..Policy::new(self.kernel.features()) };
        let firewall = Firewall::new(policy).define(Library::standard().filters.into_values()).unwrap();
        firewall.bind(member).unwrap()
    }

    fn enforce(&mut self, next: Ruleset) {
        self.apply(plan(&self.in_force, &next));
        self.in_force = next;
    }

    fn apply(&self, plan: Plan) {
        self.kernel.apply(plan).unwrap_or_else(|refused| panic!("{refused}"));
    }
}

fn nft(text: &str) {
    let mut child = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(child.status_in_time().unwrap().success());
}

// P-42
#[test]
fn what_can_no_longer_be_counted_is_dropped_all_the_same() {
    for fold_up_to in [0, 64] {
        in_fresh_netns(|| {
            let mut bare = Bare::new();
            // A set with room for one element, where ours would be.
            nft(
                "add table bridge nwfilter\nadd set bridge nwfilter drops { type iface_index . mark; size 1; flags dynamic; }",
            );
            let firewall = bare.firewall(fold_up_to, bare.network.guest.link.index());
            bare.in_force = recall(&bare.kernel.observe().unwrap(), &firewall.ruleset());
            bare.enforce(firewall.ruleset());
            let guest = &bare.network.guest;
            assert!(!bare.network.passes(Way::FromGuest, forged_mac()));
            for frame in [forged_arp(), udp(ip(FOREIGN_IP, PEER_IP), 1, 2), forged_mac(), own().vlan(5)] {
                assert!(!bare.network.passes(Way::FromGuest, frame.clone()), "{frame:?}");
            }
            assert!(bare.network.passes(Way::FromGuest, own()));
            let seen = bare.kernel.observe().unwrap();
            assert_eq!(frames(&seen, guest), of(&[("no-mac-spoofing:2", 2)]), "only one found room");
        });
    }
}

fn own() -> Frame {
    udp(ip(GUEST_IP, PEER_IP), 1, 2)
}

#[test]
fn a_reused_index_begins_its_count_at_zero() {
    for fold_up_to in [0, 64] {
        in_fresh_netns(|| {
            let mut bare = Bare::new();
            let index = bare.network.guest.link.index();
            let firewall = bare.firewall(fold_up_to, index);
            bare.enforce(firewall.ruleset());
            send(&bare.network.guest, 3, forged_mac());
            bare.enforce(firewall.unbind(index).ruleset());
            bare.enforce(firewall.ruleset());
            send(&bare.network.guest, 2, forged_mac());
            let seen = bare.kernel.observe().unwrap();
            assert_eq!(frames(&seen, &bare.network.guest), of(&[("no-mac-spoofing:2", 2)]), "{fold_up_to}");
        });
    }
}

#[test]
fn counts_of_absent_guests_and_rules_are_forgotten() {
    in_fresh_netns(|| {
        let mut bare = Bare::new();
        let rules = bare.firewall(64, bare.network.guest.link.index()).ruleset();
        bare.enforce(rules.clone());
        send(&bare.network.guest, 3, forged_mac());
        let index = bare.network.guest.link.index();
        nft(&format!("add element bridge nwfilter drops {{ {index} . 0x7 counter, 4711 . 0x0 counter }}"));
        let keys = |seen: &Observed| seen.families[&Family::Bridge].sets["drops"].counts.len();
        let plan = forget_stale(&rules, &bare.kernel.observe().unwrap());
        assert!(!plan.is_empty());
        bare.apply(plan);
        let seen = bare.kernel.observe().unwrap();
        assert_eq!(frames(&seen, &bare.network.guest), of(&[("no-mac-spoofing:2", 3)]));
        assert_eq!(keys(&seen), 1);
        assert!(forget_stale(&rules, &seen).is_empty());
    });
}

#[test]
fn a_closed_interface_counts_without_a_rule() {
    in_fresh_netns(|| {
        let mut bare = Bare::new();
        let index = bare.network.guest.link.index();
        let member = BoundInterface {
            index,
            name: "vnet0".into(),
            place: Attachment::Bridge(None),
            rules: Rules::Blocked,
            vars: Vars::default(),
        };
        bare.enforce(bare.firewall(64, index).bind(member).unwrap().ruleset());
        send(&bare.network.guest, 4, own());
        send(&bare.network.peer, 2, own().inbound());
        assert_eq!(frames(&bare.kernel.observe().unwrap(), &bare.network.guest), of(&[("-", 6)]));
    });
}

#[test]
fn folded_and_shared_guests_of_a_filter_count_the_same() {
    in_fresh_netns(|| {
        let mut host = Host::new(Style::Slots);
        host.bind_guest("clean-traffic", GUEST_VARS).unwrap();
        let shared = host.firewall.dropping();
        let policy = Policy { fold_up_to: 64, ..*host.firewall.policy() };
        let folded = host.firewall.with_policy(policy).unwrap();
        let marks = |firewall: &Firewall| -> std::collections::BTreeSet<u32> {
            let ruleset = firewall.ruleset();
            let chains = ruleset.tables[&Family::Bridge].chains.values();
            chains.flat_map(|chain| chain.rules.iter().filter_map(|rule| Some(rule.tally?.id))).collect()
        };
        assert_eq!(marks(&folded), marks(&host.firewall));
        assert!(shared.len() > 5 && shared.keys().all(|id| marks(&folded).contains(id)), "{shared:?}");
    });
}
