//! Firewalls as values: whatever was done to get there, equal states enforce equal rules, and a refusal changes
//! nothing.

mod lab;

use lab::Way;
use lab::corpus::corpus;
use nwfilter::document::catalog::Library;
use nwfilter::document::filter::{Filter, read};
use nwfilter::document::mac::Mac;
use nwfilter::document::span::Source;
use nwfilter::document::vars::Vars;
use nwfilter::program::compile::{self, Capabilities, compile_at};
use nwfilter::program::eval::{self, End};
use nwfilter::program::ir::{Action, Bytes, Chain, Family, Name, Set, SetRole, Table};
use nwfilter::program::resolve::{Mode, resolve};
use nwfilter::ruleset::firewall::HookLifetime;
use nwfilter::ruleset::firewall::{
    Attachment, BoundInterface, BridgePort, Firewall, Policy, Refused, Rules, Tables,
};
use nwfilter::ruleset::layout::{self, DispatchTarget, prefix_of};
use nwfilter::ruleset::plan::plan;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const NEVER: usize = usize::MAX;

fn policy(fold_up_to: usize) -> Policy {
    Policy { fold_up_to, ..Policy::new(Capabilities::ALL) }
}

fn filter(name: &str, rules: &str) -> Arc<Filter> {
    let text = format!("<filter name='{name}'>{rules}</filter>");
    Arc::new(read::read(&Source::new(format!("{name}.xml"), text)).expect("a filter").0)
}

fn vars(pairs: &[(&str, &[&str])]) -> Vars {
    let mut vars = Vars::default();
    for (name, values) in pairs {
        vars.0.insert((*name).into(), values.iter().map(|value| (*value).to_string()).collect());
    }
    vars
}

fn member(index: u32, filter: &str, vars: Vars) -> BoundInterface {
    let rules = if filter.is_empty() { Rules::Blocked } else { Rules::Filter(filter.into()) };
    BoundInterface { index, name: format!("vnet{index}"), place: Attachment::Bridge(None), rules, vars }
}

fn mac(index: u32) -> String {
    format!("52:54:00:00:00:{index:02x}")
}

/// A guest with a MAC address and an IP address of its own.
fn guest(index: u32, filter: &str) -> BoundInterface {
    member(index, filter, vars(&[("MAC", &[&mac(index)]), ("IP", &[&format!("10.0.0.{index}")])]))
}

fn table(firewall: &Firewall) -> Table {
    firewall.ruleset().tables[&Family::Bridge].clone()
}

const OWN_MAC: &str = "<rule action='return' direction='out'><mac srcmacaddr='$MAC'/></rule>\
    <rule action='drop' direction='out'><mac/></rule>";
const OWN_ADDRESSES: &str = "<rule action='accept' direction='out'><ip srcipaddr='$IP'/></rule>\
    <rule action='drop' direction='out'><ip/></rule>";
const NOT_OWN: &str = "<rule action='drop' direction='out'><mac match='no' srcmacaddr='$MAC'/></rule>\
    <rule action='drop' direction='in'><ip match='no' dstipaddr='$IP'/></rule>";
const STATEFUL: &str = "<rule action='accept' direction='out'><tcp dstportstart='80'/></rule>\
    <rule action='drop' direction='inout'><all/></rule>";
/// A variable mask cannot be a set, so that the program is made for its value.
const OWN_NET: &str = "<rule action='accept' direction='out'><ip srcipaddr='10.0.0.0' srcipmask='$MASK'/></rule>\
    <rule action='drop' direction='out'><ip/></rule>";
const BY_REFERENCE: &str = "<filterref filter='child'/><rule action='accept' direction='out'><arp/></rule>";

/// What can be read off a table, without the names of groups.
#[derive(Debug, PartialEq)]
struct Meaning {
    /// Who shares which program.
    shared: BTreeSet<(Vec<u32>, Name)>,
    private: BTreeMap<u32, Name>,
    bound: Vec<u32>,
    programs: BTreeMap<Name, Arc<Chain>>,
    /// All sets but those of members.
    sets: BTreeMap<Name, Set>,
    base: BTreeMap<Name, Vec<(Action, usize)>>,
}

fn meaning(firewall: &Firewall) -> BTreeMap<Family, Meaning> {
    let tables = firewall.ruleset().tables;
    let at_device = |index: &u32| {
        let devices = tables.get(&Family::Netdev);
        devices.is_some_and(|table| layout::dispatch_target(table, *index).is_some())
    };
    let of = |(family, table): (&Family, &Table)| (*family, meaning_of(table, *family, &at_device));
    tables.iter().map(of).collect()
}

fn meaning_of(table: &Table, family: Family, at_device: &dyn Fn(&u32) -> bool) -> Meaning {
    let indexes = |set: &Set| -> Vec<u32> {
        let index = |key: &Bytes| u32::from_ne_bytes(key[..4].try_into().unwrap());
        let mut indexes: Vec<u32> = set.elements.keys().map(index).collect();
        indexes.sort_unstable();
        indexes
    };
    let group = |(name, set): (&Name, &Set)| {
        let shared = layout::shared_by(name)?;
        let prefix = layout::target_of(table, shared).expect("an entry chain leads somewhere");
        assert!(table.chains.contains_key(&*format!("{shared}/in")));
        Some((indexes(set), prefix))
    };
    let bound = indexes(&table.sets[layout::BOUND]);
    let private = bound.iter().filter_map(|index| match layout::dispatch_target(table, *index) {
        Some(DispatchTarget::Private(prefix) | DispatchTarget::Reversed(prefix)) => Some((*index, prefix)),
        Some(DispatchTarget::Shared(_)) => None,
        // An interface bound elsewhere is known in the host's IP layer, and is blocked there or left alone.
        None if table.sets.contains_key(layout::AT_PREROUTING) => None,
        None if is_passed(table, *index) => None,
        // An interface judged at its own hooks is blocked at a bridge, should it come to one.
        None if family == Family::Bridge && at_device(index) => None,
        None => panic!("{index} is bound and goes nowhere"),
    });
    let anonymous = |action: &Action| match action {
        Action::Jump(_) => Action::Continue,
        action => action.clone(),
    };
    let others = table.chains.iter().filter(|(name, chain)| {
        chain.hook.is_some() || ["ingress", "egress", "from", "to"].contains(&&***name)
    });
    Meaning {
        shared: table.sets.iter().filter_map(group).collect(),
        private: private.collect(),
        programs: table
            .chains
            .iter()
            .filter(|(name, _)| prefix_of(name).is_some())
            .map(|(name, chain)| (name.clone(), chain.clone()))
            .collect(),
        sets: table
            .sets
            .iter()
            .filter(|(name, _)| layout::shared_by(name).is_none())
            .map(|(name, set)| (name.clone(), set.clone()))
            .collect(),
        base: others
            .map(|(name, chain)| {
                let rules = chain.rules.iter().map(|rule| (anonymous(&rule.action), rule.matches.len()));
                (name.clone(), rules.collect())
            })
            .collect(),
        bound,
    }
}

/// Whether a bridge lets an interface through, since it is judged at its own hooks.
fn is_passed(table: &Table, index: u32) -> bool {
    let at_device = table.sets.get(layout::AT_DEVICE).into_iter().flat_map(|set| set.elements.keys());
    at_device.into_iter().any(|key| key.starts_with(&index.to_ne_bytes()))
}

/// The same filters and members, put together at once.
fn from_nothing(firewall: &Firewall, fold_up_to: usize) -> Firewall {
    let filters = Firewall::new(policy(fold_up_to)).define(firewall.filters().values().cloned()).unwrap();
    filters.bind_all(firewall.members().values().map(|member| BoundInterface::clone(member))).unwrap()
}

/// One thing an operator does; few of each, so that they meet.
#[derive(Clone, Debug)]
enum Operation {
    Bind { index: u32, filter: usize, values: u8, bridge: Option<u32> },
    BindTwo { first: u32, filter: usize, values: u8 },
    Unbind { index: u32 },
    Define { filter: usize, content: usize },
    Undefine { filter: usize },
    Policy { fold_up_to: usize },
}

const FILTERS: [&str; 4] = ["", "parent", "child", "single"];
const CONTENTS: [&str; 7] = [OWN_MAC, OWN_ADDRESSES, NOT_OWN, STATEFUL, OWN_NET, "", BY_REFERENCE];

fn operation() -> impl Strategy<Value = Operation> {
    use Operation::*;
    let (index, filter, values) = (1..9u32, 0..FILTERS.len(), 0..6u8);
    prop_oneof![
        6 => (index.clone(), filter.clone(), values.clone(), prop::option::of(1..7u32))
            .prop_map(|(index, filter, values, bridge)| Bind { index, filter, values, bridge }),
        1 => (index.clone(), filter.clone(), values)
            .prop_map(|(first, filter, values)| BindTwo { first, filter, values }),
        2 => index.prop_map(|index| Unbind { index }),
        4 => (1..FILTERS.len(), 0..CONTENTS.len()).prop_map(|(filter, content)| Define { filter, content }),
        1 => (1..FILTERS.len()).prop_map(|filter| Undefine { filter }),
        1 => (0..6usize).prop_map(|fold_up_to| Policy { fold_up_to }),
    ]
}

fn chosen(index: u32, filter: usize, values: u8, bridge: Option<u32>) -> BoundInterface {
    let (mac, ip) = (mac(index), format!("10.0.{values}.{index}"));
    let mut vars = vars(&[("MAC", &[&mac])]);
    (0..values.min(3)).for_each(|n| vars.push("IP", if n == 0 { ip.clone() } else { format!("10.9.0.{n}") }));
    if values > 1 {
        vars.push("MASK", ["255.255.255.0", "255.255.0.0"][usize::from(values % 2)]);
    }
    let place = match bridge {
        Some(6) => {
            let bridge = BridgePort { index: 101, name: "br1".into(), host: None, port: "vnet".into() };
            Attachment::Port { name: format!("vnet{index}"), bridge }
        }
        Some(5) => Attachment::Routed { name: format!("vnet{index}") },
        Some(kind @ 3..) => Attachment::Device { name: format!("vnet{index}"), reversed: kind == 4 },
        bridge => Attachment::Bridge(bridge.map(|index| BridgePort {
            index: 100 + index,
            name: format!("br{index}"),
            host: None,
            port: "vnet".into(),
        })),
    };
    BoundInterface { place, ..member(index, FILTERS[filter], vars) }
}

fn perform(firewall: &Firewall, operation: &Operation) -> Result<Firewall, Refused> {
    match *operation {
        Operation::Bind { index, filter, values, bridge } => {
            firewall.bind(chosen(index, filter, values, bridge))
        }
        Operation::BindTwo { first, filter, values } => {
            firewall.bind_all([first, first + 1, first].map(|index| chosen(index, filter, values, Some(1))))
        }
        Operation::Unbind { index } => Ok(firewall.unbind(index)),
        Operation::Define { filter: name, content } => {
            // Only the parent refers to others.
            let content = if name == 1 { content } else { content.min(CONTENTS.len() - 2) };
            firewall.define([filter(FILTERS[name], CONTENTS[content])])
        }
        Operation::Undefine { filter } => firewall.undefine(FILTERS[filter]),
        Operation::Policy { fold_up_to } => firewall.with_policy(policy(fold_up_to)),
    }
}

/// Who shares and who is folded follows from the size of a group and the limit, within the slack between.
fn assert_sizes(firewall: &Firewall, limit: usize) {
    for (name, group) in firewall.groups() {
        let size = group.members.len();
        assert!(size > 0, "{name} has no member");
        match group.placed {
            Some(_) => assert!(size > limit / 2, "{name} is shared by {size}, the limit is {limit}"),
            None => assert!(size <= limit, "{name} is folded for {size}, the limit is {limit}"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn what_was_done_to_get_there_does_not_matter(
        limit in 0..6usize,
        operations in prop::collection::vec(operation(), 1..40),
    ) {
        let mut limit = limit;
        let mut firewall = Firewall::new(policy(limit));
        for operation in &operations {
            let before = firewall.ruleset();
            match perform(&firewall, operation) {
                Ok(next) => {
                    if let Operation::Policy { fold_up_to } = operation {
                        limit = *fold_up_to;
                    }
                    firewall = next;
                }
                Err(_) => assert_eq!(firewall.ruleset(), before),
            }
            assert_sizes(&firewall, limit);
            let grouped: BTreeSet<u32> =
                firewall.groups().values().flat_map(|group| group.members.iter().copied()).collect();
            assert_eq!(grouped, firewall.members().keys().copied().collect());
        }
        for all in [0, NEVER] {
            let here = firewall.with_policy(policy(all)).unwrap();
            let rebuilt = from_nothing(&firewall, all);
            assert_eq!(meaning(&here), meaning(&rebuilt));
            let sizes = |firewall: &Firewall| -> Vec<usize> {
                let mut sizes: Vec<usize> = firewall.groups().values().map(|group| group.members.len()).collect();
                sizes.sort_unstable();
                sizes
            };
            assert_eq!(sizes(&here), sizes(&rebuilt));
        }
        let gone = firewall.members().keys().fold(firewall.clone(), |firewall, index| firewall.unbind(*index));
        assert!(plan(&gone.ruleset(), &Firewall::new(policy(0)).ruleset()).is_empty());
    }
}

/// Shared or folded, for each member in order.
fn shares(firewall: &Firewall) -> Vec<bool> {
    let table = table(firewall);
    let shares =
        |index: &u32| matches!(layout::dispatch_target(&table, *index), Some(DispatchTarget::Shared(_)));
    firewall.members().keys().map(shares).collect()
}

fn bound(limit: usize, rules: &str, count: u32) -> Firewall {
    let firewall = Firewall::new(policy(limit)).define([filter("f", rules)]).unwrap();
    (1..=count).fold(firewall, |firewall, index| firewall.bind(guest(index, "f")).unwrap())
}

#[test]
fn a_group_is_shared_above_the_limit_and_folded_at_half() {
    let at_limit = bound(4, OWN_MAC, 4);
    assert_eq!(shares(&at_limit), [false; 4]);
    let above = at_limit.bind(guest(5, "f")).unwrap();
    assert_eq!(shares(&above), [true; 5]);
    let less = above.unbind(1).unbind(2);
    assert_eq!(shares(&less), [true; 3]);
    let half = less.unbind(3);
    assert_eq!(shares(&half), [false; 2]);
    assert_eq!(meaning(&half), meaning(&from_nothing(&half, 4)));
}

/// So many ports of one bridge, of a filter that is given or of a standard one.
fn ports(filters: Vec<Arc<Filter>>, filter: &str, count: u32) -> Firewall {
    let firewall = Firewall::new(Policy::new(Capabilities::ALL)).define(filters).unwrap();
    (1..=count).fold(firewall, |firewall, index| {
        let (bridge, port) = ("br0".into(), format!("vnet{index}"));
        let port = BridgePort { index: 1000, name: bridge, host: None, port };
        let member = BoundInterface { place: Attachment::Bridge(Some(port)), ..guest(index, filter) };
        firewall.bind(member).unwrap()
    })
}

#[test]
fn what_is_folded_comes_to_so_many_rules_at_most() {
    let standard = Library::standard().filters.into_values().collect::<Vec<_>>();
    let limit = Policy::new(Capabilities::ALL).fold_up_to as u32;
    assert_eq!(shares(&ports(standard, "clean-traffic", limit)), vec![false; limit as usize]);

    let rules: String = (0..400)
        .map(|n| {
            format!("<rule action='drop' direction='out'><tcp srcipaddr='$IP' dstportstart='{n}'/></rule>")
        })
        .collect();
    let long = ports(vec![filter("f", &rules)], "f", limit);
    assert_eq!(shares(&long), vec![true; limit as usize]);
    let made: usize = table(&long).chains.values().map(|chain| chain.rules.len()).sum();
    assert!(made < 2 * 4096, "{made} rules");
    // A single guest shares with no other.
    assert_eq!(shares(&(2..=limit).fold(long, |few, index| few.unbind(index))), [false]);
}

#[test]
fn a_group_is_folded_when_its_members_leave() {
    let shared = bound(2, OWN_MAC, 3).define([filter("g", OWN_ADDRESSES)]).unwrap();
    let moved = shared.bind(guest(1, "g")).unwrap().bind(guest(2, "g")).unwrap();
    assert_eq!(shares(&moved), [false; 3]);
    assert_eq!(meaning(&moved), meaning(&from_nothing(&moved, 2)));
}

#[test]
fn members_whose_values_are_negated_share_as_others_do() {
    for rules in [OWN_MAC, OWN_ADDRESSES, NOT_OWN] {
        let all = bound(0, rules, 3);
        assert_eq!(all.groups().len(), 1, "{rules}");
        assert_eq!(shares(&all), [true; 3]);
    }
}

#[test]
fn folded_values_that_differ_make_variants_of_one_filter() {
    let firewall = Firewall::new(policy(0)).define([filter("f", OWN_NET)]).unwrap();
    let guest = |index: u32, mask: &str| member(index, "f", vars(&[("MASK", &[mask])]));
    let masks = ["255.0.0.0", "255.255.0.0", "255.0.0.0"];
    let all = firewall.bind_all(masks.iter().zip(1..).map(|(mask, index)| guest(index, mask))).unwrap();
    let names: Vec<&str> = all.groups().keys().map(|name| &**name).collect();
    assert_eq!(names, ["f", "f/v2"]);
    let moved = all.bind(guest(1, "255.255.0.0")).unwrap().bind(guest(3, "255.255.0.0")).unwrap();
    let names: Vec<&str> = moved.groups().keys().map(|name| &**name).collect();
    assert_eq!(names, ["f/v2"]);
}

#[test]
fn a_redefinition_splits_a_group_and_another_joins_it_again() {
    let guest = |index: u32, mask: &str| {
        let (mac, ip) = (mac(index), format!("10.0.0.{index}"));
        member(index, "f", vars(&[("MAC", &[&mac]), ("IP", &[&ip]), ("MASK", &[mask])]))
    };
    let firewall = Firewall::new(policy(0)).define([filter("f", OWN_ADDRESSES)]).unwrap();
    let masks = ["255.0.0.0", "255.255.0.0", "255.0.0.0", "255.255.0.0"];
    let one = firewall.bind_all(masks.iter().zip(1..).map(|(mask, index)| guest(index, mask))).unwrap();
    assert_eq!(one.groups().len(), 1);
    let two = one.define([filter("f", OWN_NET)]).unwrap();
    let members: Vec<Vec<u32>> =
        two.groups().values().map(|group| group.members.iter().copied().collect()).collect();
    assert_eq!(members, [[1, 3], [2, 4]]);
    let one_again = two.define([filter("f", OWN_ADDRESSES)]).unwrap();
    assert_eq!(one_again.groups().len(), 1);
    assert_eq!(one_again.ruleset(), one.ruleset());
}

#[test]
fn a_redefinition_adds_and_removes_the_sets_it_needs() {
    let sets = |firewall: &Firewall| -> Vec<String> {
        let table = table(firewall);
        let variable =
            table.sets.iter().filter(|(_, set)| set.role == nwfilter::program::ir::SetRole::Variable);
        variable.map(|(name, set)| format!("{name} {}", set.elements.len())).collect()
    };
    let one = bound(0, OWN_MAC, 3);
    assert_eq!(sets(&one), ["MAC.ether 3"]);
    let both = one.define([filter("f", &[OWN_ADDRESSES, OWN_MAC].concat())]).unwrap();
    assert_eq!(sets(&both), ["IP.ipv4 3", "MAC.ether 3"]);
    let other = both.define([filter("f", OWN_ADDRESSES)]).unwrap();
    assert_eq!(sets(&other), ["IP.ipv4 3"]);
    assert_eq!(meaning(&other), meaning(&from_nothing(&other, 0)));
}

#[test]
fn a_change_one_member_cannot_take_names_it_and_fails_whole() {
    for limit in [0, NEVER] {
        let firewall = Firewall::new(policy(limit)).define([filter("f", OWN_MAC)]).unwrap();
        let poor = member(2, "f", vars(&[("MAC", &[&mac(2)])]));
        let firewall = firewall.bind_all([guest(1, "f"), poor, guest(3, "f")]).unwrap();
        let before = firewall.ruleset();
        let refused = firewall.define([filter("f", OWN_ADDRESSES)]).unwrap_err();
        assert_eq!(refused.interface.as_deref(), Some("vnet2"), "{refused:?}");
        let empty = member(4, "f", vars(&[("MAC", &[])]));
        assert_eq!(firewall.bind(empty).unwrap_err().interface.as_deref(), Some("vnet4"));
        let odd = member(1, "f", vars(&[("MAC", &["no-address"])]));
        assert_eq!(firewall.bind(odd).unwrap_err().interface.as_deref(), Some("vnet1"));
        assert_eq!(firewall.bind(guest(1, "absent")).unwrap_err().interface.as_deref(), Some("vnet1"));
        assert_eq!(firewall.ruleset(), before);
    }
}

#[test]
fn a_filter_in_use_cannot_be_undefined_even_below_another() {
    let firewall = bound(4, BY_REFERENCE, 0).define([filter("child", OWN_MAC)]).unwrap();
    let firewall = firewall.bind(guest(1, "f")).unwrap();
    for name in ["f", "child"] {
        assert_eq!(firewall.undefine(name).unwrap_err().interface.as_deref(), Some("vnet1"));
    }
    let free = firewall.unbind(1);
    assert!(free.undefine("f").unwrap().undefine("child").unwrap().filters().is_empty());
}

#[test]
fn a_closed_guest_shares_nothing_with_a_filter_so_named() {
    let firewall = Firewall::new(policy(0)).define([filter("drop-all", OWN_ADDRESSES)]).unwrap();
    let firewall = firewall.bind_all([guest(1, "drop-all"), guest(2, ""), guest(3, "")]).unwrap();
    let mut sizes: Vec<usize> = firewall.groups().values().map(|group| group.members.len()).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [1, 2]);
    assert_eq!(
        meaning(&firewall)[&Family::Bridge].programs.keys().filter(|name| name.ends_with("/out")).count(),
        2
    );
}

// P-32
#[test]
fn a_bridge_is_tracked_while_a_port_needs_conntrack() {
    let port = |index, bridge: u32| {
        let bridge =
            BridgePort { index: bridge, name: format!("br{bridge}"), host: None, port: "vnet".into() };
        BoundInterface { place: Attachment::Bridge(Some(bridge)), ..guest(index, "f") }
    };
    let tracked = |firewall: &Firewall| -> usize {
        table(firewall).sets.get(layout::TRACKED).map_or(0, |set| set.elements.len())
    };
    let none = Firewall::new(policy(2)).define([filter("f", STATEFUL)]).unwrap();
    let two = none.bind_all([port(1, 10), port(2, 10), port(3, 11)]).unwrap();
    assert_eq!(tracked(&two), 2);
    let text = two.ruleset().to_string();
    for tags in
        ["\t\tether type != { ip, ip6 } notrack\n", "\t\tether type { ip, ip6 } ct zone set meta ibrname"]
    {
        assert!(text.contains(tags), "what is under a tag is not tracked: {text}");
    }
    let moved = two.bind(port(3, 10)).unwrap();
    assert_eq!(tracked(&moved), 1);
    let stateless = moved.define([filter("f", OWN_MAC)]).unwrap();
    assert_eq!(tracked(&stateless), 0);
    assert!(!table(&stateless).chains.contains_key("tracking"));
    assert_eq!(tracked(&moved.unbind(1).unbind(2)), 1);
    assert_eq!(tracked(&moved.unbind(1).unbind(2).unbind(3)), 0);
}

#[test]
fn the_hosts_address_on_a_tracked_bridge_is_the_one_it_has_now() {
    let port = |index, host: u8| {
        let bridge = BridgePort {
            index: 10,
            name: "br0".into(),
            host: Some(Mac([2, 0, 0, 0, 0, host])),
            port: "vnet".into(),
        };
        BoundInterface { place: Attachment::Bridge(Some(bridge)), ..guest(index, "f") }
    };
    let hosts = |firewall: &Firewall| -> Vec<u8> {
        let hosts = &table(firewall).sets[layout::HOSTS].elements;
        hosts.keys().map(|key| key[16 + 5]).collect()
    };
    let firewall = Firewall::new(policy(2)).define([filter("f", STATEFUL)]).unwrap();
    let firewall = firewall.bind_all([port(1, 7), port(2, 7)]).unwrap();
    assert_eq!(hosts(&firewall), [7]);
    let changed = firewall.bind_all([port(1, 8), port(2, 8)]).unwrap();
    assert_eq!(hosts(&changed), [8]);
    assert_eq!(hosts(&changed.unbind(1)), [8]);
}

#[test]
fn a_program_is_not_mistaken_for_another_of_its_digest() {
    let firewall = bound(NEVER, OWN_ADDRESSES, 1);
    let (mut table, other) = (table(&firewall), bound(NEVER, OWN_MAC, 1));
    let program = &other.groups()["f"].program;
    let there = layout::private(&table, 1).unwrap();
    assert!(!layout::is_free(&table, &there, program));
    let elsewhere = layout::prefix("f", 1 << 16);
    assert!(layout::is_free(&table, &elsewhere, program));
    layout::place(&mut table, &elsewhere, program);
    assert!(layout::is_free(&table, &elsewhere, program));
}

/// What becomes of each frame of the corpus at this guest's interface.
fn verdicts(firewall: &Firewall, index: u32) -> Vec<(&'static str, Option<End>)> {
    let table = table(firewall);
    let rules = eval::Evaluator::of_table(Family::Bridge, &table);
    let (DispatchTarget::Shared(first) | DispatchTarget::Private(first) | DispatchTarget::Reversed(first)) =
        layout::dispatch_target(&table, index).unwrap();
    let verdict = |case: &lab::corpus::Case| {
        let (side, iif, oif) = if case.way == Way::FromGuest { ("out", index, 1) } else { ("in", 1, index) };
        let port = |index| eval::Port { index, name: "" };
        let frame = eval::Frame { bytes: &case.frame, iif: port(iif), oif: port(oif), ..Default::default() };
        rules.judge(&format!("{first}/{side}"), frame)
    };
    corpus().iter().map(|case| (case.id, verdict(case))).collect()
}

#[test]
fn who_shares_and_who_is_folded_gets_the_same_verdicts() {
    let library = Library::standard();
    let mut compared = 0;
    for name in library.filters.keys() {
        let both = [0, NEVER].map(|limit| {
            let filters = Firewall::new(policy(limit)).define(library.filters.values().cloned()).unwrap();
            let vars = vars(&[
                ("MAC", &[&mac(1)]),
                ("IP", &["10.0.0.1", "10.0.0.3"]),
                ("DHCPSERVER", &["10.0.0.254"]),
                ("IPV6", &["fe80::1"]),
            ]);
            let bound = filters.bind_all([member(1, name, vars), guest(2, "clean-traffic")]);
            bound.ok().map(|bound| (shares(&bound)[0], verdicts(&bound, 1)))
        });
        let [Some((true, shared)), Some((false, folded))] = both else {
            assert_eq!(both, [None, None], "{name}");
            continue;
        };
        assert_eq!(shared, folded, "{name}");
        assert!(shared.iter().all(|(_, verdict)| verdict.is_some()), "{name} falls off an end");
        compared += 1;
    }
    assert!(compared > 15, "{compared} filters compared");
}

/// The devices whose own hooks lead to a table of ours.
fn hooked(firewall: &Firewall) -> Vec<String> {
    let ruleset = firewall.ruleset();
    let names = ruleset.tables.get(&Family::Netdev).into_iter().flat_map(layout::hooked);
    names.map(String::from).collect()
}

#[test]
fn a_hook_stays_only_as_long_as_its_name_is_bound() {
    let at = |index: u32, name: &str, bridge: bool| {
        let device = Attachment::Device { name: name.into(), reversed: false };
        let place = if bridge { Attachment::Bridge(None) } else { device };
        BoundInterface { name: "vnet1".into(), place, ..guest(index, "parent") }
    };
    for hooks in [HookLifetime::Device, HookLifetime::Lasting] {
        let firewall = Firewall::new(policy(64)).define([filter("parent", OWN_MAC)]).unwrap();
        let firewall = firewall.with_hooks(hooks).reserve("vnet1").bind(at(1, "vnet1", false)).unwrap();
        assert_eq!(hooked(&firewall), ["vnet1"]);
        let expected: &[&str] = if hooks == HookLifetime::Lasting { &["vnet1"] } else { &[] };
        let gone = firewall.unbind(1);
        assert_eq!(hooked(&gone), expected, "its device is gone");
        assert_eq!(hooked(&gone.unreserve("vnet1")), [""; 0], "no binding waits for it");
        assert_eq!(
            hooked(&gone.bind(at(2, "vnet1", true)).unwrap()),
            [""; 0],
            "it is a port of a bridge now"
        );
        assert_eq!(hooked(&gone.bind(at(2, "vnet1", false)).unwrap().unreserve("vnet1")), ["vnet1"]);
        assert_eq!(hooked(&firewall.bind(at(1, "vnet1", true)).unwrap()), [""; 0], "it came to a bridge");
        let renamed = firewall.bind(at(1, "other", false)).unwrap();
        let expected: &[&str] = if hooks == HookLifetime::Lasting { &["other", "vnet1"] } else { &["other"] };
        assert_eq!(hooked(&renamed), expected, "renamed");
        let adopted = firewall.unreserve("vnet1").unbind(1).reserve("vnet1");
        let expected: &[&str] = if hooks == HookLifetime::Lasting { &["vnet1"] } else { &[] };
        assert_eq!(hooked(&adopted.keep_hooks(["vnet1", "strange"])), expected, "found at a start");
    }
}

/// Names that clients may choose and that look like names of ours.
// P-35
#[test]
fn names_that_clients_choose_do_not_change_a_sets_purpose() {
    const FILTERS: [&str; 6] = ["ipset.open", "ipset6 x", "members", "turned", "bound", "v2"];
    const VARIABLES: [&str; 5] = ["ipset", "ipset6", "members", "", "1"];
    let rules: String = VARIABLES
        .iter()
        .chain(&["MAC"])
        .map(|variable| match *variable {
            "" | "1" => String::new(),
            "MAC" => "<rule action='accept' direction='out'><mac srcmacaddr='$MAC'/></rule>".into(),
            name => format!("<rule action='accept' direction='out'><ip dstipaddr='${name}'/></rule>"),
        })
        .collect();
    let rules = rules + "<rule action='accept' direction='out'><all ipset='ipv4' ipsetflags='dst'/></rule>";
    let firewall = FILTERS
        .iter()
        .fold(Firewall::new(policy(0)), |firewall, name| firewall.define([filter(name, &rules)]).unwrap());
    let values: Vec<(&str, &[&str])> = VARIABLES.iter().map(|name| (*name, &["10.0.0.1"][..])).collect();
    let bind = |firewall: &Firewall, index: u32, name: &str| {
        let mut vars = vars(&values);
        vars.push("MAC", mac(index));
        firewall.bind(member(index, name, vars)).unwrap()
    };
    let members = FILTERS.iter().zip(1..);
    let firewall = members.fold(firewall, |firewall, (name, index)| bind(&firewall, index, name));
    let sets = table(&firewall).sets;
    for (name, set) in &sets {
        assert_eq!(layout::role_of(name, &set.kind()), set.role, "{name}");
    }
    let slots = sets.iter().filter(|(_, set)| set.role == SetRole::Variable);
    assert_eq!(slots.count(), 4, "MAC and three variables that the rules read");
    // A guest that leaves a filter of such a name is led there no more.
    let moved = bind(&bind(&firewall, 20, "ipset.open"), 1, "members");
    let shared = |firewall: &Firewall| layout::dispatch_target(&table(firewall), 1);
    assert_eq!(shared(&firewall), Some(DispatchTarget::Shared("ipset.2eopen".into())));
    assert_eq!(shared(&moved), Some(DispatchTarget::Shared("members".into())));
    assert!(!table(&moved).sets["ipset.2eopen/members"].elements.contains_key(&layout::index_key(1)));
}

/// The command builds its tables out of what it reads from the kernel, for one interface; the daemon out of all that it knows.
// P-17
#[test]
fn command_and_daemon_give_an_interface_the_same_rules() {
    let mut library = Library::standard();
    for (name, rules) in [
        ("state", "<rule action='accept' direction='out'><tcp dstportstart='99'/></rule>"),
        ("rejects", "<rule action='reject' direction='out'><tcp dstportstart='99'/></rule>"),
        ("limits", "<rule action='drop' direction='in'><tcp connlimit-above='3'/></rule>"),
        ("ipset.x", "<rule action='accept' direction='out'><all ipset='x' ipsetflags='src'/></rule>"),
    ] {
        library.filters.insert(name.into(), filter(name, rules));
    }
    let features = Capabilities::ALL;
    let policy = Policy {
        compile: compile::Options { counters: false, ..Policy::new(features).compile },
        ..Policy::new(features)
    };
    let daemon = Firewall::new(policy).define(library.filters.values().cloned()).unwrap();
    let port = BridgePort {
        index: 3,
        name: "br0".into(),
        host: Some(Mac([2, 0, 0, 0, 0, 3])),
        port: "vnet7".into(),
    };
    let places = [
        Attachment::Bridge(Some(port)),
        Attachment::Routed { name: "vnet7".into() },
        Attachment::Device { name: "vnet7".into(), reversed: false },
        Attachment::Device { name: "vnet7".into(), reversed: true },
    ];
    let vars = vars(&[("MAC", &[&*mac(7)]), ("IP", &["10.0.0.7"]), ("GATEWAY_MAC", &["52:54:00:00:00:99"])]);
    let (mut compared, mut known) = (0, BTreeSet::new());
    for name in library.filters.keys() {
        for place in &places {
            let member = BoundInterface {
                place: place.clone(),
                name: "vnet7".into(),
                ..member(7, name, vars.clone())
            };
            let bound = daemon.reserve("vnet7").bind(member);
            let resolved = resolve(&|name| library.get(name), name, &vars, Mode::Fold);
            let programs =
                resolved.and_then(|resolved| compile_at(&resolved, &policy.compile, place.hooks()));
            let (Ok(bound), Ok(programs)) = (&bound, &programs) else {
                assert!(bound.is_err() && programs.is_err(), "{name} at {place:?}");
                continue;
            };
            let programs = programs.clone().tallied(place.hooks());
            let mut tables = Tables::new(&features);
            tables.attach(7, "vnet7", place, &programs);
            assert_eq!(tables.ruleset(), bound.ruleset(), "{name} at {place:?}");
            // And from a kernel in which it is all there, or that of another interface.
            let mut again = Tables::from_kernel(&bound.ruleset(), &features);
            assert_eq!(again.ruleset(), bound.ruleset(), "{name} at {place:?}, read back");
            again.attach(7, "vnet7", place, &programs);
            again.remove_unreferenced(|_| true);
            assert_eq!(again.ruleset(), bound.ruleset(), "{name} at {place:?}, once more");
            let chains = tables.ruleset().tables.into_values().flat_map(|table| table.chains);
            known.extend(chains.map(|(name, _)| name.to_string()));
            compared += 1;
        }
    }
    assert!(compared > 60, "{compared}");
    for chain in ["tracking", "reset-iif", "elsewhere", "_device/egress/vnet7"] {
        assert!(known.contains(chain), "{chain}");
    }
}
