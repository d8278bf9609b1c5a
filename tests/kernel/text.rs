//! What we send is what nft makes of our text.

use crate::build::*;
use crate::cases::*;
use crate::lab::*;
use crate::ranges::Ranges;
use nwfilter::document::field::Field;
use nwfilter::guest::link::Orientation;
use nwfilter::kernel::apply::Kernel;
use nwfilter::program::Program;
use nwfilter::program::Refusals;
use nwfilter::program::ir::*;
use nwfilter::ruleset::layout::{self, DispatchTarget};
use nwfilter::ruleset::nft::Ownership;
use std::collections::{BTreeMap, BTreeSet};

/// Our batch, and nft with our text, must leave the same in the kernel.
fn check(kernel: &Kernel, ruleset: &Ruleset) {
    kernel.apply(prepare(steps(ruleset))).unwrap_or_else(|refused| panic!("{refused}"));
    let ranges = Ranges::of_this_nft();
    let ours = ranges.in_one_form(&listing());
    nft("flush ruleset", "");
    nft("-f -", &ruleset.to_string());
    let theirs = ranges.in_one_form(&listing());
    nft("flush ruleset", "");
    if ours != theirs {
        let differing = ours.lines().zip(theirs.lines()).find(|(ours, theirs)| ours != theirs);
        let text = std::env::temp_dir().join("nwfilter-ours.txt");
        std::fs::write(&text, &ours).unwrap();
        std::fs::write(text.with_file_name("nwfilter-theirs.txt"), &theirs).unwrap();
        panic!("listings differ (both are in {}): {differing:?}", text.display());
    }
    assert!(ours.len() > 200, "something was listed: {ours}");
}

#[test]
fn a_bridge_rule_is_what_nft_makes_of_its_text() {
    in_namespace(|| {
        let kernel = Kernel::open(Ownership::Shared).unwrap();
        let rules = rules([matches(), bridge_matches()].concat());
        let table = table_of(rules, hook(HookPoint::Prerouting, None));
        check(&kernel, &Ruleset { tables: BTreeMap::from([(Family::Bridge, table)]) });
    });
}

#[test]
fn a_netdev_rule_is_what_nft_makes_of_its_text() {
    in_namespace(|| {
        let kernel = Kernel::open(Ownership::Shared).unwrap();
        for point in [HookPoint::Ingress, HookPoint::Egress] {
            let table = table_of(rules(matches()), hook(point, Some("lo")));
            check(&kernel, &Ruleset { tables: BTreeMap::from([(Family::Netdev, table)]) });
        }
    });
}

#[test]
fn an_inet_rule_is_what_nft_makes_of_its_text() {
    in_namespace(|| {
        let kernel = Kernel::open(Ownership::Shared).unwrap();
        let rules = [rules(matches()), inet_rules()].concat();
        let mut table = table_of(rules, hook(HookPoint::Input, None));
        let counted = set(&[KeyType::IfIndex, KeyType::Ipv4], ValueType::None, &[]);
        table.sets.insert(name("counted"), Set { dynamic: true, role: SetRole::Foreign, ..counted });
        check(&kernel, &Ruleset { tables: BTreeMap::from([(Family::Inet, table)]) });
    });
}

/// Everything that counts: dropped frames in a set that rules fill, all frames in sets that we do.
#[test]
fn what_counts_is_what_nft_makes_of_its_text() {
    in_namespace(|| {
        let kernel = Kernel::open(Ownership::Shared).unwrap();
        for (family, mut table) in
            [(Family::Bridge, layout::skeleton()), (Family::Netdev, layout::device_skeleton())]
        {
            let prefix = layout::install_program(
                &mut table,
                &Program::blocked().tallied(Orientation::Straight, Refusals::All),
            );
            layout::count_traffic(&mut table, layout::TrafficCounting::On);
            layout::dispatch_to(&mut table, 7, &DispatchTarget::Private(prefix));
            let drop = Rule::new(vec![eq(Field::EtherSaddr, &MAC)], Action::Drop);
            let tally = Some(Tally { by: MetaInterface::Out, id: 0x01020304 });
            let chain = Chain { hook: None, rules: vec![Rule { tally, ..drop }] };
            table.chains.insert(name("counting"), chain.into());
            check(&kernel, &Ruleset { tables: BTreeMap::from([(family, table)]) });
        }
    });
}

#[test]
fn a_constant_set_may_be_longer_than_a_message() {
    in_namespace(|| {
        let kernel = Kernel::open(Ownership::Shared).unwrap();
        let values: BTreeSet<Bytes> = (0..5000u32).map(|n| Bytes::from(n.to_be_bytes().as_slice())).collect();
        let set = SetRef::Anonymous(vec![KeyType::Ipv4], values);
        let lookup = Match::Lookup { keys: vec![f(Field::IpSaddr)], negated: false, set };
        let rule = Rule::new(vec![is(KeySource::Protocol, &IPV4), lookup], Action::Drop);
        let table = table_of(vec![rule], hook(HookPoint::Prerouting, None));
        check(&kernel, &Ruleset { tables: BTreeMap::from([(Family::Bridge, table)]) });
    });
}
