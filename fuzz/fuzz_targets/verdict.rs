//! Any bytes as a frame, and any filter: a verdict, no panic, and the same one from slots and constants.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nwfilter::program::compile::{Capabilities, HostToGuest, Options};
use nwfilter::program::eval::{Evaluator, Frame, Port};
use nwfilter::ruleset::firewall::{self, Firewall, BoundInterface, Attachment, Policy};
use nwfilter::program::ir::{Family, Ruleset};
use nwfilter::document::catalog::Library;
use nwfilter::document::vars::Vars;
use std::sync::OnceLock;

static RULESETS: OnceLock<Vec<[Ruleset; 2]>> = OnceLock::new();

fuzz_target!(|bytes: &[u8]| {
    for layouts in RULESETS.get_or_init(rulesets) {
        for (iif, oif) in [(7, 1), (1, 7)] {
            let port = |index| Port { index, name: "x" };
            let frame = Frame { bytes, iif: port(iif), oif: port(oif), ..Frame::default() };
            let judge = |ruleset: &Ruleset, chain| {
                Evaluator::of_table(Family::Bridge, &ruleset.tables[&Family::Bridge]).judge(chain, frame)
            };
            for chain in ["prerouting", "postrouting"] {
                assert_eq!(judge(&layouts[0], chain), judge(&layouts[1], chain));
            }
        }
    }
});

/// Every standard filter, folded and with slots.
fn rulesets() -> Vec<[Ruleset; 2]> {
    let library = Library::standard();
    let names: Vec<String> = library.filters.keys().cloned().collect();
    names.iter().filter_map(|name| Some([bound(&library, name, 64)?, bound(&library, name, 0)?])).collect()
}

fn bound(library: &Library, name: &str, fold_up_to: usize) -> Option<Ruleset> {
    let mut vars = Vars::default();
    for (name, value) in [("MAC", "52:54:00:00:00:01"), ("IP", "10.0.0.1"), ("IPV6", "fe80::1"), ("DHCPSERVER", "10.0.0.9")] {
        vars.push(name, value);
    }
    let compile = Options { features: Capabilities::ALL, counters: false, host_to_guest: HostToGuest::Pass };
    let rules = firewall::Rules::Filter(name.to_owned());
    let member = BoundInterface { index: 7, name: "vnet0".into(), place: Attachment::Bridge(None), rules, vars };
    let firewall = Firewall::new(Policy { fold_up_to, compile, placement: Default::default() }).define(library.filters.values().cloned()).ok()?;
    Some(firewall.bind(member).ok()?.ruleset())
}
