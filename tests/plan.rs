//! Plans: applied to the old rule set they give the new one, and no batch of theirs opens before it closes.

use imbl::OrdMap;
use nwfilter::document::mac::Mac;
use nwfilter::guest::link::Orientation;
use nwfilter::program::Program;
use nwfilter::program::ir::{
    Action, Chain, ElementValue, Family, KeyType, Match, Name, Rule, Ruleset, Set, SetRef, SetRole, Table,
    ValueType,
};
use nwfilter::program::ir::{Key, KeySource, concat};
use nwfilter::ruleset::layout::{self, DispatchTarget};
use nwfilter::ruleset::plan::{Pause, Plan, Step, TableOperation, plan};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// One thing an operator does; small numbers, so that they meet.
#[derive(Clone, Debug)]
enum Operation {
    BindPrivate { index: u32, content: u8 },
    BindShared { index: u32, shared: u8 },
    Redefine { shared: u8, content: u8 },
    Unbind { index: u32 },
    SetAddress { index: u32, address: u8 },
    Track { bridges: u8 },
}

fn operation() -> impl Strategy<Value = Operation> {
    use Operation::*;
    let (index, content, shared) = (1..6u32, 0..4u8, 0..3u8);
    prop_oneof![
        (index.clone(), content.clone()).prop_map(|(index, content)| BindPrivate { index, content }),
        (index.clone(), shared.clone()).prop_map(|(index, shared)| BindShared { index, shared }),
        (shared, content).prop_map(|(shared, content)| Redefine { shared, content }),
        index.clone().prop_map(|index| Unbind { index }),
        (index, 0..4u8).prop_map(|(index, address)| SetAddress { index, address }),
        (0..4u8).prop_map(|bridges| Track { bridges }),
    ]
}

/// A program whose content is a number: a chain that drops, and one that some contents lack.
fn program(content: u8) -> Program {
    let lookup = Match::Lookup {
        keys: vec![Key::new(KeySource::Iif), Key::field(nwfilter::document::field::Field::IpSaddr)],
        negated: content % 2 == 1,
        set: SetRef::Named("IP.ipv4".into()),
    };
    let mut chains: BTreeMap<Name, Vec<Rule>> = BTreeMap::new();
    chains.insert("out".into(), vec![Rule::new(vec![lookup], Action::Jump("out/more".into()))]);
    chains.insert("out/more".into(), vec![Rule::new(vec![Match::ether_type(content.into())], Action::Drop)]);
    chains.insert(
        "in".into(),
        vec![Rule::new(vec![], if content == 3 { Action::Drop } else { Action::Accept })],
    );
    Program {
        filter: "f".into(),
        chains,
        sets: BTreeMap::new(),
        foreign: BTreeMap::new(),
        slots: BTreeSet::new(),
        stateful: false,
    }
}

fn prefix(content: u8) -> Name {
    layout::prefix("f", u64::from(content) << 16)
}

/// Where the frames of an interface are seen.
#[derive(Clone, Copy, Debug, PartialEq)]
enum At {
    Bridge,
    Device,
    Macvtap,
    /// A port of a bridge, at its own hooks.
    Port,
}

impl At {
    fn table(self) -> usize {
        usize::from(self != At::Bridge)
    }
}

fn at() -> impl Strategy<Value = At> {
    prop_oneof![Just(At::Bridge), Just(At::Device), Just(At::Macvtap), Just(At::Port)]
}

/// The table of the bridge and that of devices.
type Tables = [Table; 2];

fn start() -> Table {
    with_address(layout::skeleton())
}

fn with_address(mut table: Table) -> Table {
    let key = vec![KeyType::IfIndex, KeyType::Ipv4];
    table.sets.insert("IP.ipv4".into(), layout::set(key, ValueType::None, SetRole::Variable));
    table
}

/// The same for an interface that is there, after it has left the other table.
fn perform_at(tables: &mut Tables, at: At, operation: &Operation) {
    let table = at.table();
    if let Operation::BindPrivate { index, .. }
    | Operation::BindShared { index, .. }
    | Operation::Unbind { index } = operation
    {
        perform(&mut tables[1 - table], &Operation::Unbind { index: *index });
        let device = format!("vnet{index}");
        match at != At::Bridge && !matches!(operation, Operation::Unbind { .. }) {
            true => layout::hook(&mut tables[1], &device, layout::Tracing::Off),
            false => layout::unhook(&mut tables[1], &device),
        }
    }
    match *operation {
        Operation::BindPrivate { index, content } if at == At::Macvtap => {
            layout::place(&mut tables[table], &prefix(content), &program(content));
            layout::dispatch_to(&mut tables[table], index, &DispatchTarget::Reversed(prefix(content)));
            layout::remove_unreferenced(&mut tables[table]);
        }
        Operation::BindShared { index, shared } if at == At::Macvtap => {
            let name: Name = format!("turned{shared}").into();
            layout::place(&mut tables[table], &prefix(shared), &program(shared));
            layout::link_shared(&mut tables[table], &name, &prefix(shared), Orientation::Reversed);
            layout::dispatch_to(&mut tables[table], index, &DispatchTarget::Shared(name));
            layout::remove_unreferenced(&mut tables[table]);
        }
        Operation::Track { .. } => perform(&mut tables[0], operation),
        _ => perform(&mut tables[table], operation),
    }
    if let Operation::BindPrivate { index, .. } | Operation::BindShared { index, .. } = operation
        && at == At::Port
    {
        layout::bypass_bridge(&mut tables[0], *index, &format!("vnet{index}"));
    }
}

fn both(tables: &Tables) -> Ruleset {
    let devices = (!layout::hooked(&tables[1]).is_empty()).then(|| (Family::Netdev, tables[1].clone()));
    Ruleset { tables: [(Family::Bridge, tables[0].clone())].into_iter().chain(devices).collect() }
}

fn perform(table: &mut Table, operation: &Operation) {
    match *operation {
        Operation::BindPrivate { index, content } => {
            layout::place(table, &prefix(content), &program(content));
            layout::dispatch_to(table, index, &DispatchTarget::Private(prefix(content)));
        }
        Operation::BindShared { index, shared } => {
            let name: Name = format!("shared{shared}").into();
            if !table.sets.contains_key(&*format!("{name}/members")) {
                layout::place(table, &prefix(shared), &program(shared));
                layout::link_shared(table, &name, &prefix(shared), Orientation::Straight);
            }
            layout::dispatch_to(table, index, &DispatchTarget::Shared(name));
        }
        Operation::Redefine { shared, content } => {
            let name = format!("shared{shared}");
            if table.sets.contains_key(&*format!("{name}/members")) {
                layout::place(table, &prefix(content), &program(content));
                layout::link_shared(table, &name, &prefix(content), Orientation::Straight);
            }
        }
        Operation::Unbind { index } => layout::remove_interface(table, index),
        Operation::SetAddress { index, address } => {
            let set = table.sets.get_mut("IP.ipv4").expect("made at the start");
            let key = concat(&[&index.to_ne_bytes(), &[10, 0, 0, address]]);
            if set.elements.remove(&key).is_none() {
                set.elements.insert(key, ElementValue::None);
            }
        }
        Operation::Track { bridges } => {
            let host = |n: u8| Some(Mac([2, 0, 0, 0, 0, n]));
            let bridge = |n: u8| layout::Tracked { bridge: format!("br{n}"), zone: n.into(), host: host(n) };
            let bridges: Vec<layout::Tracked> = (0..bridges).map(bridge).collect();
            layout::track(table, &bridges);
        }
    }
    layout::remove_unreferenced(table);
}

fn ruleset(table: &Table) -> Ruleset {
    Ruleset { tables: [(Family::Bridge, table.clone())].into() }
}

/// What the kernel does with a batch, with the refusals that it would have.
fn send(ruleset: &Ruleset, batch: &[Step]) -> Ruleset {
    let mut after = ruleset.clone();
    for Step { family, change } in batch {
        if let TableOperation::AddTable = change {
            after.tables.entry(*family).or_default();
            continue;
        }
        let table = after.tables.get_mut(family).expect("the table is made first");
        match change.clone() {
            TableOperation::AddTable => {}
            TableOperation::DeleteTable => drop(after.tables.remove(family)),
            TableOperation::AddChain(name, hook) => {
                let old = table.chains.insert(name, Arc::new(Chain { hook, rules: vec![] }));
                assert!(old.is_none(), "a chain is made twice");
            }
            TableOperation::DeleteChain(name) => {
                let chain = table.chains.remove(&name).expect("a chain that is deleted exists");
                assert!(chain.rules.is_empty(), "{name} is deleted with rules in it");
                assert!(!targets(table).contains(&name), "{name} is deleted while something leads to it");
            }
            TableOperation::FlushChain(name) => rules(table, &name).clear(),
            TableOperation::AddRule(name, rule) => {
                for target in chain_targets(&rule) {
                    assert!(
                        table.chains.contains_key(&target),
                        "a rule leads to {target}, which is not there"
                    );
                }
                rules(table, &name).push(rule);
            }
            TableOperation::AddSet(name, kind) => {
                let set = Set {
                    role: layout::role_of(&name, &kind),
                    key: kind.key,
                    data: kind.data,
                    dynamic: kind.dynamic,
                    counted: kind.counted,
                    elements: OrdMap::new(),
                };
                assert!(table.sets.insert(name, set).is_none(), "a set is made twice");
            }
            TableOperation::DeleteSet(name) => assert!(table.sets.remove(&name).is_some()),
            TableOperation::AddElements(name, _, elements) => {
                for (key, datum) in elements {
                    let set = table.sets.get_mut(&name).expect("a set that is filled exists");
                    assert!(set.elements.insert(key, datum).is_none(), "an element of {name} is added twice");
                }
            }
            TableOperation::DestroyElements(..) => unreachable!("what was counted is no part of a change"),
            TableOperation::DeleteElements(name, _, keys) => {
                for key in keys {
                    let set = table.sets.get_mut(&name).expect("a set that is emptied exists");
                    assert!(
                        set.elements.remove(&key).is_some(),
                        "an element of {name} is deleted that is not there"
                    );
                }
            }
        }
    }
    after
}

fn rules<'a>(table: &'a mut Table, chain: &Name) -> &'a mut Vec<Rule> {
    &mut Arc::make_mut(table.chains.get_mut(chain).expect("a chain that is filled exists")).rules
}

fn chain_targets(rule: &Rule) -> Vec<Name> {
    match &rule.action {
        Action::Jump(chain) | Action::Goto(chain) => vec![chain.clone()],
        _ => vec![],
    }
}

fn targets(table: &Table) -> BTreeSet<Name> {
    let by_rules = table.chains.values().flat_map(|chain| chain.rules.iter().flat_map(chain_targets));
    let data = table.sets.values().flat_map(|set| set.elements.values());
    let by_maps = data
        .filter_map(|datum| if let ElementValue::Jump(chain) = datum { Some(chain.clone()) } else { None });
    by_rules.chain(by_maps).collect()
}

/// Where the frames of an interface go: through the dispatch to the rules of its program.
fn seen_by_packets(table: &Table, index: u32) -> Vec<(Name, Vec<Rule>)> {
    let Some(dispatch_target) = layout::dispatch_target(table, index) else { return vec![] };
    let (DispatchTarget::Shared(first) | DispatchTarget::Private(first) | DispatchTarget::Reversed(first)) =
        dispatch_target;
    let key = layout::index_key(index);
    let sets = table.sets.iter().filter(|(name, set)| {
        layout::shared_by(name).is_some_and(|shared| *shared == *first) && set.elements.contains_key(&key)
    });
    let mut found: Vec<(Name, Vec<Rule>)> = sets.map(|(name, _)| (name.clone(), vec![])).collect();
    let mut open: Vec<Name> = vec![format!("{first}/out").into(), format!("{first}/in").into()];
    while let Some(name) = open.pop() {
        let chain = table.chains.get(&name).cloned().unwrap_or_default();
        open.extend(chain.rules.iter().flat_map(chain_targets));
        found.push((name, chain.rules.clone()));
    }
    found
}

/// Prepare changes nothing that a packet of a bound interface can meet.
fn assert_prepare_is_unseen(before: &Table, after: &Table) {
    for index in layout::bound(before) {
        assert_eq!(seen_by_packets(before, index), seen_by_packets(after, index));
        let own = |table: &Table| -> Vec<_> {
            let keys = table.sets["IP.ipv4"].elements.keys();
            keys.filter(|key| key.starts_with(&index.to_ne_bytes())).cloned().collect()
        };
        assert_eq!(own(before), own(after), "the addresses of {index} change before the switch");
    }
}

/// Once the switch is through, each bound interface has a program, and retire changes none.
fn assert_retire_is_unseen(switched: &Table, new: &Table, moved: impl Fn(u32) -> bool) {
    for index in layout::bound(new).into_iter().filter(|index| !moved(*index)) {
        assert_eq!(seen_by_packets(switched, index), seen_by_packets(new, index));
    }
}

/// Between switch and retire an interface meets its old rules or its new ones, never what its old group has become.
fn assert_no_one_meets_the_rules_of_others(old: &Table, switched: &Table, new: &Table) {
    let rules = |table: &Table, index| -> Vec<Vec<Rule>> {
        let seen = seen_by_packets(table, index).into_iter();
        seen.filter(|(name, _)| layout::prefix_of(name).is_some()).map(|(_, rules)| rules).collect()
    };
    for index in layout::bound(new).into_iter().filter(|index| layout::dispatch_target(old, *index).is_some())
    {
        let met = rules(switched, index);
        assert!(
            met == rules(old, index) || met == rules(new, index),
            "{index} meets rules that are not its own"
        );
    }
}

/// The interfaces that bridges let through: those of the set that their rules ask.
fn passed(ruleset: &Ruleset) -> BTreeSet<u32> {
    let Some(table) = ruleset.tables.get(&Family::Bridge) else { return BTreeSet::new() };
    let asked = |rule: &Rule| {
        let set = rule.matches.iter().find_map(|part| match part {
            Match::Lookup { set: SetRef::Named(set), .. } => Some(set),
            _ => None,
        });
        set.is_some_and(|set| **set == *layout::AT_DEVICE)
    };
    let asked = table.chains.values().any(|chain| chain.rules.iter().any(asked));
    let at_device = asked.then(|| &table.sets[layout::AT_DEVICE]).into_iter();
    at_device
        .flat_map(|set| set.elements.keys().map(|key| u32::from_ne_bytes(key[..4].try_into().unwrap())))
        .collect()
}

/// The interfaces that are judged at their own hooks.
fn judged(ruleset: &Ruleset) -> BTreeSet<u32> {
    let Some(table) = ruleset.tables.get(&Family::Netdev) else { return BTreeSet::new() };
    let hooked = layout::hooked(table);
    let is_judged = |index: &u32| {
        hooked.contains(&*format!("vnet{index}")) && layout::dispatch_target(table, *index).is_some()
    };
    layout::bound(table).into_iter().filter(is_judged).collect()
}

/// A packet that comes while one batch follows another meets the bridge of one and the port's own hooks of the other.
fn assert_nothing_falls_between(before: &Ruleset, after: &Ruleset) {
    for (bridge, device) in [(before, after), (after, before), (before, before), (after, after)] {
        assert!(passed(bridge).is_subset(&judged(device)), "passed and not judged");
    }
}

fn check(old: &Ruleset, new: &Ruleset) -> Plan {
    let plan = plan(old, new);
    let paused = send(old, &plan.pause.begin);
    assert_eq!(send(&paused, &plan.pause.undo), *old);
    let prepared = send(&paused, &plan.prepare);
    let switched = send(&prepared, &plan.switch);
    let retired = send(&switched, &plan.retire);
    assert_eq!(retired, *new);
    for (before, after) in [(old, &prepared), (&prepared, &switched), (&switched, new)] {
        assert_nothing_falls_between(before, after);
    }
    let (handed, passed) = (passed(old) != passed(new), passed(new));
    for (family, new) in &new.tables {
        let of = |ruleset: &Ruleset| ruleset.tables.get(family).cloned().unwrap_or_default();
        let [old, prepared, switched] = [old, &prepared, &switched].map(of);
        let dispatched_twice = |index| {
            let key = layout::index_key(index);
            let maps = [layout::FROM_GUEST, layout::AT_INGRESS];
            let sets = switched
                .sets
                .iter()
                .filter(|(name, _)| layout::shared_by(name).is_some() || maps.contains(&&***name));
            let twice = sets.filter(|(_, set)| set.elements.contains_key(&key)).count() > 1;
            twice || *family == Family::Bridge && passed.contains(&index)
        };
        // What is handed over or let go while others are stays at its own hooks until no packet is left between.
        if *family != Family::Netdev || !handed {
            assert_eq!(layout::bound(&switched), layout::bound(new));
        }
        assert_prepare_is_unseen(&old, &prepared);
        assert_retire_is_unseen(&switched, new, dispatched_twice);
        assert_no_one_meets_the_rules_of_others(&old, &switched, new);
        if *family == Family::Netdev {
            [&old, &prepared, &switched, new].into_iter().for_each(assert_devices_are_led_here);
        }
    }
    plan
}

/// Each bound interface is led here, and none that is led here unbound gets through.
fn assert_devices_are_led_here(table: &Table) {
    let hooked = layout::hooked(table);
    for index in layout::bound(table) {
        assert!(hooked.contains(&*format!("vnet{index}")), "{index} is bound and not led here");
    }
    for (_, chain) in table.chains.iter().filter(|(_, chain)| chain.hook.is_some()) {
        let [Rule { matches, action: Action::Goto(dispatch), .. }] = &chain.rules[..] else {
            panic!("{chain:?}")
        };
        let last = table.chains[dispatch].rules.last().expect("the dispatch has rules");
        assert!(matches.is_empty() && last.matches.is_empty() && last.action == Action::Drop);
    }
}

/// An interface in the host's IP layer: let in to a program, and kept out since it is a bridge's port.
fn in_and_out() -> [Ruleset; 2] {
    let mut table = layout::packet_skeleton();
    layout::place(&mut table, &prefix(1), &program(1));
    layout::dispatch_to(&mut table, 5, &DispatchTarget::Private(prefix(1)));
    let inside = Ruleset { tables: [(Family::Inet, table.clone())].into() };
    layout::quarantine(&mut table, 5);
    layout::remove_unreferenced(&mut table);
    [inside, Ruleset { tables: [(Family::Inet, table)].into() }]
}

#[test]
fn an_interface_new_to_a_bridge_is_blocked_then_awaited() {
    let [inside, outside] = in_and_out();
    let plan = plan(&inside, &outside);
    let switched = send(&inside, &plan.switch);
    assert!(plan.prepare.is_empty() && !plan.retire.is_empty(), "{plan}");
    assert_eq!(layout::dispatch_target(&switched.tables[&Family::Inet], 5), None);
    let chains = |rules: &Ruleset| rules.tables[&Family::Inet].chains.clone();
    assert_eq!(chains(&switched), chains(&inside));
    assert_eq!(send(&switched, &plan.retire), outside);
}

/// An interface whose packets the host's IP layer passes, since they are judged at its own hooks.
fn elsewhere() -> Ruleset {
    let [inside, _] = in_and_out();
    let mut table = inside.tables[&Family::Inet].clone();
    layout::accept_elsewhere(&mut table, 5);
    layout::remove_unreferenced(&mut table);
    Ruleset { tables: [(Family::Inet, table)].into() }
}

fn packets_to_it(rules: &Ruleset) -> Option<&ElementValue> {
    rules.tables[&Family::Inet].sets[layout::AT_POSTROUTING].elements.get(&layout::index_key(5))
}

#[test]
fn a_move_to_its_own_hooks_loses_no_packet() {
    let ([inside, _], elsewhere) = (in_and_out(), elsewhere());
    let plan = plan(&inside, &elsewhere);
    let switched = send(&send(&inside, &plan.prepare), &plan.switch);
    assert_eq!(packets_to_it(&switched), packets_to_it(&inside), "{plan}");
    assert_eq!(plan.pause, Pause::default());
    assert_eq!(send(&switched, &plan.retire), elsewhere);
}

/// What waits between the IP layer and its own hooks has been judged by neither.
#[test]
fn a_move_to_the_ip_layer_blocks_packets_first() {
    let ([inside, _], elsewhere) = (in_and_out(), elsewhere());
    let plan = plan(&elsewhere, &inside);
    assert_eq!(plan.pause.links, [5]);
    let paused = send(&elsewhere, &plan.pause.begin);
    assert_eq!(send(&paused, &plan.pause.undo), elsewhere);
    assert_eq!(packets_to_it(&paused), None);
    let again = nwfilter::ruleset::plan::plan(&paused, &inside);
    assert_eq!(again.pause.links, [5], "a change that came no further than this");
    let from_it = |rules: &Ruleset| {
        rules.tables[&Family::Inet].sets[layout::AT_PREROUTING].elements.get(&layout::index_key(5)).cloned()
    };
    assert_eq!(from_it(&paused), from_it(&elsewhere), "what it sends is judged by both");
    let switched = send(&send(&paused, &plan.prepare), &plan.switch);
    assert_eq!(packets_to_it(&switched), packets_to_it(&inside));
    assert_eq!(send(&switched, &plan.retire), inside);
}

#[test]
fn an_interface_off_its_bridge_opens_when_its_hooks_see_all() {
    let [inside, outside] = in_and_out();
    let plan = plan(&outside, &inside);
    let switched = send(&send(&outside, &plan.prepare), &plan.switch);
    assert_eq!(layout::dispatch_target(&switched.tables[&Family::Inet], 5), None);
    assert!(plan.moves(), "{plan}");
    assert_eq!(send(&switched, &plan.retire), inside);
}

proptest! {
    #[test]
    fn a_plan_applied_to_the_old_gives_the_new(operations in prop::collection::vec(operation(), 0..12), more in prop::collection::vec(operation(), 1..6)) {
        let mut table = start();
        check(&Ruleset::default(), &ruleset(&table));
        operations.iter().for_each(|operation| perform(&mut table, operation));
        let old = ruleset(&table);
        check(&Ruleset::default(), &old);
        more.iter().for_each(|operation| perform(&mut table, operation));
        check(&old, &ruleset(&table));
    }
}

proptest! {
    #[test]
    fn a_move_between_a_bridge_and_a_device_opens_nothing(
        operations in prop::collection::vec((at(), operation()), 0..12),
        more in prop::collection::vec((at(), operation()), 1..6),
    ) {
        let mut tables = [start(), with_address(layout::device_skeleton())];
        operations.iter().for_each(|(at, operation)| perform_at(&mut tables, *at, operation));
        let old = both(&tables);
        check(&Ruleset::default(), &old);
        more.iter().for_each(|(at, operation)| perform_at(&mut tables, *at, operation));
        check(&old, &both(&tables));
    }
}

#[test]
fn a_port_is_passed_while_its_own_hooks_see_all() {
    let bind = |at| {
        let mut tables = [start(), with_address(layout::device_skeleton())];
        perform_at(&mut tables, at, &Operation::BindPrivate { index: 1, content: 0 });
        both(&tables)
    };
    let lets_by = |batch: &[Step]| {
        batch
            .iter()
            .any(|step| matches!(&step.change, TableOperation::AddElements(set, ..) if &**set == layout::AT_DEVICE))
    };
    let there = check(&bind(At::Bridge), &bind(At::Port));
    assert!(!lets_by(&there.prepare) && !lets_by(&there.switch) && lets_by(&there.retire) && there.moves());
    let back = check(&bind(At::Port), &bind(At::Bridge));
    let goes = |batch: &[Step]| batch.iter().any(|step| step.change == TableOperation::DeleteTable);
    assert!(!goes(&back.switch) && goes(&back.retire) && back.moves());
    assert!(
        !check(&bind(At::Bridge), &bind(At::Device))
            .retire
            .iter()
            .any(|step| lets_by(std::slice::from_ref(step)))
    );
}

#[test]
fn nothing_changes_without_a_difference() {
    let mut table = start();
    perform(&mut table, &Operation::BindShared { index: 1, shared: 0 });
    assert!(plan(&ruleset(&table), &ruleset(&table)).is_empty());
}

#[test]
fn redefining_a_shared_program_switches_one_rule_a_direction() {
    let mut table = start();
    (1..5).for_each(|index| perform(&mut table, &Operation::BindShared { index, shared: 0 }));
    let old = ruleset(&table);
    perform(&mut table, &Operation::Redefine { shared: 0, content: 3 });
    let plan = check(&old, &ruleset(&table));
    let refilled =
        plan.switch.iter().filter(|step| matches!(step.change, TableOperation::AddRule(..))).count();
    assert_eq!(refilled, 2);
    assert!(plan.retire.iter().any(|step| matches!(step.change, TableOperation::DeleteChain(..))));
    assert!(!plan.switch.iter().any(|step| matches!(step.change, TableOperation::AddElements(..))));
}

#[test]
fn a_move_to_a_shared_program_makes_before_it_breaks() {
    let mut table = start();
    perform(&mut table, &Operation::BindPrivate { index: 1, content: 0 });
    let old = ruleset(&table);
    perform(&mut table, &Operation::BindShared { index: 1, shared: 1 });
    let plan = check(&old, &ruleset(&table));
    let from_guest = |batch: &[Step]| {
        batch.iter().any(
            |step| matches!(&step.change, TableOperation::DeleteElements(name, ..) if &**name == layout::FROM_GUEST),
        )
    };
    assert!(!from_guest(&plan.switch) && from_guest(&plan.retire));
}
