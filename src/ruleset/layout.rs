//! How programs and members sit in our table: names, base chains, dispatch.
//!
//! The base chains lead a frame by the index of its interface to its program. A shared program is
//! reached through the set of its members (`clean-traffic/members`) and an entry chain (`clean-traffic/out`)
//! whose one rule goes to the chains of its current content; a private one through a verdict map. Chains of
//! programs are named by their content (`clean-traffic/3fa9c1d2e4f5/out`), so that equal programs are one, a
//! changed one never meets its old chains, and what an interrupted change left is recognised. A frame of
//! a bound interface that was not dispatched is dropped, and so is one of a link that has a binding's name and is not bound yet.
//!
//! Frames that no bridge sees are dispatched by the chains of a table of their own, to which the base chains of the devices
//! jump; there a frame of an unbound interface is dropped, since another device can take the name. A macvtap is such a
//! device with its directions reversed: what its guest sends leaves through it.
//!
//! Everything here turns one [`Table`] into the next; nothing knows filters or the kernel.

mod conntrack;
mod counting;
mod directions;
mod own;

pub use crate::program::name::prefix;
pub use conntrack::{HOSTS, TRACKED, Tracked, ZONES, track, tracked};
pub use counting::{
    DROPS, TRAFFIC_IN, TRAFFIC_OUT, TrafficCounting, count_traffic, counts, tallies, with_answers,
    with_counts,
};
pub use directions::{Tracing, guard, has_hooks, hook, hooked, trace, unhook};
pub use own::{HOST_LINKS, mark_host, unmark_host};

use crate::guest::link::Orientation;
use crate::program::ir::digest::digest;
use crate::program::ir::{
    Action, Bytes, Chain, ElementValue, KeyType, Name, Rule, Ruleset, Set, SetRole, SetType, Table,
    ValueType, concat,
};
use crate::program::name::{ChainName, SetName};
use crate::program::{IN, OUT, Program, printable};
use directions::{BRIDGE_SIDES, DEVICE_SIDES, Dispatch, PACKET_SIDES, refresh_dispatch, sides};
use imbl::OrdMap;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The set of all bound interfaces.
pub const BOUND: &str = "bound";
/// The set of names that bindings have: a link that takes such a name is blocked until it is bound.
pub const RESERVED: &str = "reserved";
/// The set of ports that their bridge lets through, since they are filtered at their own hooks: index and name. One that
/// was renamed has left those hooks, and is not let through.
pub const AT_DEVICE: &str = "at-device";
/// The map from the interface a frame came from to its private program.
pub const FROM_GUEST: &str = "from-guest";
/// The map from the interface a frame goes to to its private program.
pub const TO_GUEST: &str = "to-guest";
/// The map from the device that a frame came in by to its private program, for frames that no bridge sees.
pub const AT_INGRESS: &str = "at-ingress";
/// The map from the device that a frame goes out by to its private program, for frames that no bridge sees.
pub const AT_EGRESS: &str = "at-egress";
/// The map from the interface that a packet came in by to where it is judged in the host's IP layer.
pub const AT_PREROUTING: &str = "at-prerouting";
/// The map from the interface that a packet goes out by to where it is judged in the host's IP layer.
pub const AT_POSTROUTING: &str = "at-postrouting";

/// Packets of those whose frames are judged at their own hooks alone.
const ELSEWHERE: &str = "elsewhere";

/// How an interface's frames get to its program.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DispatchTarget {
    /// As a member of the shared program of this name.
    Shared(Name),
    /// Through the verdict map, to the program whose chains have this prefix.
    Private(Name),
    /// The same for a macvtap.
    Reversed(Name),
}

/// A table of bridge ports with everything but programs and members.
pub fn skeleton() -> Table {
    let mut table = Table::default();
    table.sets.insert(RESERVED.into(), set(vec![KeyType::IfName], ValueType::None, SetRole::Dispatch));
    with_sides(table, &BRIDGE_SIDES)
}

/// The same for interfaces whose frames no bridge sees.
pub fn device_skeleton() -> Table {
    with_sides(Table::default(), &DEVICE_SIDES)
}

/// The same for packets in the host's IP layer. Every interface that is bound anywhere is in its set, and blocked unless it is admitted:
/// of a bridge's port the IP layer sees packets only where they came by its bridge unseen, or if it has left the bridge.
pub fn packet_skeleton() -> Table {
    let mut table = Table::default();
    table.sets.insert(RESERVED.into(), set(vec![KeyType::IfName], ValueType::None, SetRole::Dispatch));
    let accept = Rule::new(vec![], Action::Accept);
    table.chains.insert(ELSEWHERE.into(), Arc::new(Chain { hook: None, rules: vec![accept] }));
    own::with_output(&mut table);
    with_sides(table, &PACKET_SIDES)
}

fn with_sides(mut table: Table, sides: &[Dispatch; 2]) -> Table {
    let interfaces = || vec![KeyType::IfIndex];
    table.sets.insert(BOUND.into(), set(interfaces(), ValueType::None, SetRole::Dispatch));
    for side in sides {
        table.sets.insert(side.map.into(), set(interfaces(), ValueType::Verdict, SetRole::Dispatch));
    }
    with_counts(&mut table);
    refresh_dispatch(&mut table);
    table
}

/// An empty named set.
pub fn set(key: Vec<KeyType>, data: ValueType, role: SetRole) -> Set {
    Set { key, data, role, dynamic: false, counted: false, elements: OrdMap::new() }
}

/// The key of a set of interface indexes.
pub fn index_key(index: u32) -> Bytes {
    concat(&[&index.to_ne_bytes()])
}

/// The interface of such a key.
pub fn index_of(key: &[u8]) -> Option<u32> {
    key.try_into().map(u32::from_ne_bytes).ok()
}

/// What the elements of a set decide that was found in the kernel, by its whole name and its type.
pub fn role_of(name: &str, ty: &SetType) -> SetRole {
    match SetName::parse(name) {
        _ if ty.dynamic || is_ipset(name, ty) => SetRole::Foreign,
        Some(SetName::Members(_) | SetName::Reversed(_)) => SetRole::Dispatch,
        Some(SetName::Table(name)) if DISPATCH.contains(&name) => SetRole::Dispatch,
        _ => SetRole::Variable,
    }
}

/// The sets that dispatch each interface.
const DISPATCH: [&str; 15] = [
    BOUND,
    HOST_LINKS,
    RESERVED,
    AT_DEVICE,
    FROM_GUEST,
    TO_GUEST,
    AT_INGRESS,
    AT_EGRESS,
    AT_PREROUTING,
    AT_POSTROUTING,
    TRACKED,
    ZONES,
    HOSTS,
    TRAFFIC_IN,
    TRAFFIC_OUT,
];

/// Whether we make sets of this name.
fn is_ours(name: &str) -> bool {
    match SetName::parse(name) {
        Some(SetName::Table(name)) => DISPATCH.contains(&name) || name == DROPS,
        parsed => parsed.is_some(),
    }
}

/// Whether a set of this name and type stands for an ipset.
pub fn is_ipset(name: &str, ty: &SetType) -> bool {
    matches!(SetName::parse(name), Some(SetName::Ipset(_, kind)) if ty.key == [kind] && ty.data == ValueType::None)
}

/// Whether no interface is bound in these tables, no name is reserved, and no ipset is kept.
pub fn is_vacant(ruleset: &Ruleset) -> bool {
    let used =
        |table: &Table| has_users(table) || table.sets.iter().any(|(name, set)| is_ipset(name, &set.kind()));
    !ruleset.tables.values().any(used)
}

/// Puts the chains and sets of a program into the table, if they are not there.
pub fn place(table: &mut Table, prefix: &str, program: &Program) {
    if table.chains.contains_key(&chain(prefix, OUT)) {
        return;
    }
    let (chains, sets) = program.placed(prefix);
    for (name, rules) in chains {
        table.chains.insert(name, Arc::new(Chain { hook: None, rules }));
    }
    table.sets.extend(sets);
    for (name, foreign) in &program.foreign {
        table.sets.entry(name.clone()).or_insert_with(|| foreign.clone());
    }
}

/// Takes the chains and sets of a program out of the table.
pub fn displace(table: &mut Table, prefix: &str) {
    let below: Name = format!("{prefix}/").into();
    let chains = table.chains.range(below.clone()..).map(|(name, _)| name);
    let chains: Vec<Name> = chains.take_while(|name| name.starts_with(&*below)).cloned().collect();
    let sets = table.sets.range(below.clone()..).map(|(name, _)| name);
    let sets: Vec<Name> = sets.take_while(|name| name.starts_with(&*below)).cloned().collect();
    chains.iter().for_each(|name| drop(table.chains.remove(name)));
    sets.iter().for_each(|name| drop(table.sets.remove(name)));
}

/// Places a program under a name made of its content. Should another of the same digest be there, which a guest
/// that chooses its addresses could bring about, the next name is taken.
pub fn install_program(table: &mut Table, program: &Program) -> Name {
    let (label, digest) = (printable(&program.filter), digest(&program.chains));
    let mut prefixes = (0..).map(|n: u64| prefix(&label, digest.wrapping_add(n << 16)));
    let prefix = prefixes.find(|prefix| is_free(table, prefix, program)).expect("numbers do not end");
    place(table, &prefix, program);
    prefix
}

/// Whether a program can be placed under this prefix: nothing is there, or this very program.
pub fn is_free(table: &Table, prefix: &str, program: &Program) -> bool {
    !table.chains.contains_key(&chain(prefix, OUT)) || is_placed(table, prefix, program)
}

/// Whether this very program is placed under this prefix.
pub fn is_placed(table: &Table, prefix: &str, program: &Program) -> bool {
    let (chains, _) = program.placed(prefix);
    chains
        .iter()
        .all(|(name, rules)| table.chains.get(name).is_some_and(|there| is_same(&there.rules, rules)))
}

/// Whether rules are the same wherever in their documents they stand.
fn is_same(some: &[Rule], others: &[Rule]) -> bool {
    let filter = |rule: &Rule| rule.origin.as_ref().map(|origin| (origin.filter.clone(), origin.rule));
    let same = |(a, b): (&Rule, &Rule)| {
        let form = |rule: &Rule| (rule.counter, rule.tally);
        a.matches == b.matches && a.action == b.action && form(a) == form(b) && filter(a) == filter(b)
    };
    some.len() == others.len() && some.iter().zip(others).all(same)
}

/// Lets the entry chains of a shared program, whose members are macvtaps or are not, lead to the program placed
/// under a prefix.
pub fn link_shared(table: &mut Table, shared: &str, prefix: &str, orientation: Orientation) {
    for way in [OUT, IN] {
        let goto = Rule::new(vec![], Action::Goto(chain(prefix, way)));
        let entry = ChainName::Entry(shared, way).into();
        table.chains.insert(entry, Arc::new(Chain { hook: None, rules: vec![goto] }));
    }
    let members = Name::from(members(shared, orientation));
    if !table.sets.contains_key(&members) {
        table.sets.insert(members, set(vec![KeyType::IfIndex], ValueType::None, SetRole::Dispatch));
        refresh_dispatch(table);
    }
}

/// Takes a shared program's dispatch away.
pub fn unlink_shared(table: &mut Table, shared: &str) {
    for members in [SetName::Members(shared), SetName::Reversed(shared)] {
        table.sets.remove(&Name::from(members));
    }
    for way in [OUT, IN] {
        table.chains.remove(&Name::from(ChainName::Entry(shared, way)));
    }
    refresh_dispatch(table);
}

/// Binds an interface, or moves it to another program.
pub fn dispatch_to(table: &mut Table, index: u32, dispatch_target: &DispatchTarget) {
    remove_interface(table, index);
    insert(table, BOUND, index, ElementValue::None);
    for side in sides(table).iter().filter(|side| table.sets.contains_key(side.traffic())).collect::<Vec<_>>()
    {
        insert(table, side.traffic(), index, ElementValue::None);
    }
    let (prefix, orientation) = match dispatch_target {
        DispatchTarget::Shared(name) => {
            let members = members(name, orientation(table, name));
            return insert(table, &members.to_string(), index, ElementValue::None);
        }
        DispatchTarget::Private(prefix) => (prefix, Orientation::Straight),
        DispatchTarget::Reversed(prefix) => (prefix, Orientation::Reversed),
    };
    for side in sides(table) {
        insert(table, side.map, index, ElementValue::Jump(chain(prefix, side.chain(orientation))));
    }
}

/// Binds a bridge's port where only those of its frames come that its bridge takes or makes itself. They count as no traffic.
pub fn dispatch_guard(table: &mut Table, index: u32, dispatch_target: &DispatchTarget) {
    dispatch_to(table, index, dispatch_target);
    for side in sides(table) {
        if let Some(traffic) = table.sets.get_mut(side.traffic()) {
            traffic.elements.remove(&index_key(index));
        }
    }
}

/// Keeps an interface from the programs of a table: nothing of it passes there.
pub fn quarantine(table: &mut Table, index: u32) {
    remove_interface(table, index);
    insert(table, BOUND, index, ElementValue::None);
}

/// Lets an interface's packets pass in the host's IP layer, since its own hooks filter its frames.
pub fn accept_elsewhere(table: &mut Table, index: u32) {
    quarantine(table, index);
    for side in &PACKET_SIDES {
        insert(table, side.map, index, ElementValue::Jump(ELSEWHERE.into()));
    }
}

/// Whether an element of the host's IP layer lets packets pass whose frames are judged at their own hooks.
pub fn is_elsewhere(datum: &ElementValue) -> bool {
    matches!(datum, ElementValue::Jump(chain) if **chain == *ELSEWHERE)
}

/// Lets a bridge's port through that has its program at its own hooks, as long as it has this name.
pub fn bypass_bridge(table: &mut Table, index: u32, name: &str) {
    remove_interface(table, index);
    insert(table, BOUND, index, ElementValue::None);
    let empty = || set(vec![KeyType::IfIndex, KeyType::IfName], ValueType::None, SetRole::Dispatch);
    let by = table.sets.entry(AT_DEVICE.into()).or_insert_with(empty);
    by.elements.insert(concat(&[&index_key(index), &name_key(name)]), ElementValue::None);
    refresh_dispatch(table);
}

/// Lets an interface through no longer that is filtered at its own hooks.
fn remove_bypass(table: &mut Table, index: u32) {
    let Some(by) = table.sets.get_mut(AT_DEVICE) else { return };
    let first = index_key(index);
    let own: Vec<Bytes> = by.elements.range(first.clone()..).map(|(key, _)| key.clone()).collect();
    own.iter().take_while(|key| key.starts_with(&first)).for_each(|key| drop(by.elements.remove(key)));
    if by.elements.is_empty() {
        table.sets.remove(AT_DEVICE);
        refresh_dispatch(table);
    }
}

/// Takes an interface out of all dispatch.
pub fn remove_interface(table: &mut Table, index: u32) {
    remove_bypass(table, index);
    let key = index_key(index);
    let holds = |set: &Set| set.role == SetRole::Dispatch && set.elements.contains_key(&key);
    for (name, _) in table.sets.clone().iter().filter(|(_, set)| holds(set)) {
        table.sets.get_mut(name).expect("listed above").elements.remove(&key);
    }
}

/// How an interface's frames get to its program; none where it is not bound.
pub fn dispatch_target(table: &Table, index: u32) -> Option<DispatchTarget> {
    let key = index_key(index);
    let shared = table.sets.iter().find_map(|(name, set)| {
        let shared = shared_by(name)?;
        set.elements.contains_key(&key).then(|| DispatchTarget::Shared(shared.into()))
    });
    let private = || match first_map(table)?.elements.get(&key)? {
        ElementValue::Jump(chain) => match ChainName::parse(chain)? {
            ChainName::OfProgram(prefix, OUT) => Some(DispatchTarget::Private(prefix.into())),
            ChainName::OfProgram(prefix, _) => Some(DispatchTarget::Reversed(prefix.into())),
            _ => None,
        },
        _ => None,
    };
    shared.or_else(private)
}

/// The programs of all bound interfaces: where each is placed, and whether others may share it.
pub fn programs(table: &Table) -> BTreeMap<u32, (Option<Name>, bool)> {
    let private = first_map(table).into_iter().flat_map(|map| map.elements.keys());
    let private = private.filter_map(|key| Some((index_of(key)?, (private_at(table, key), false))));
    let members = table.sets.iter().filter_map(|(name, set)| Some((shared_by(name)?, set)));
    let shared = members.flat_map(|(name, set)| {
        let program = target_of(table, name);
        let indexes = set.elements.keys().filter_map(|key| index_of(key));
        indexes.map(|index| (index, (program.clone(), true))).collect::<Vec<_>>()
    });
    private.chain(shared).collect()
}

fn private_at(table: &Table, key: &Bytes) -> Option<Name> {
    match first_map(table)?.elements.get(key)? {
        ElementValue::Jump(chain) => prefix_of(chain).map(Name::from),
        _ => None,
    }
}

/// Whether frames of an interface get on from the dispatch: to a program, or by it.
pub fn is_dispatched(table: &Table, index: u32) -> bool {
    let key = index_key(index);
    let leads = |(name, set): (&Name, &Set)| {
        let dispatch = shared_by(name).is_some() || sides(table).iter().any(|side| side.map == &**name);
        dispatch && set.elements.contains_key(&key)
    };
    let by = || table.sets.get(AT_DEVICE)?.elements.range(key.clone()..).next();
    table.sets.iter().any(leads) || by().is_some_and(|(by, _)| by.starts_with(&key))
}

/// Where the program is placed that the frames of a bound interface enter.
pub fn program(table: &Table, index: u32) -> Option<Name> {
    match dispatch_target(table, index)? {
        DispatchTarget::Shared(name) => target_of(table, &name),
        DispatchTarget::Private(prefix) | DispatchTarget::Reversed(prefix) => Some(prefix),
    }
}

/// Which way a bound interface's guest sends through it.
pub fn orientation_of(table: &Table, index: u32) -> Orientation {
    match dispatch_target(table, index) {
        Some(DispatchTarget::Reversed(_)) => Orientation::Reversed,
        Some(DispatchTarget::Shared(name)) => orientation(table, &name),
        _ => Orientation::Straight,
    }
}

/// The map to private programs by the interface that frames come in by.
fn first_map(table: &Table) -> Option<&Set> {
    table.sets.get(sides(table)[0].map)
}

/// Where the private program of an interface is placed, if it has one.
pub fn private(table: &Table, index: u32) -> Option<Name> {
    match first_map(table)?.elements.get(&index_key(index))? {
        ElementValue::Jump(chain) => prefix_of(chain).map(Name::from),
        _ => None,
    }
}

/// The prefix of the program that the members of a shared one are dispatched to.
pub fn target_of(table: &Table, shared: &str) -> Option<Name> {
    let entry = table.chains.get(&chain(shared, OUT))?;
    let target = entry
        .rules
        .iter()
        .find_map(|rule| if let Action::Goto(chain) = &rule.action { Some(chain) } else { None });
    prefix_of(target?).map(Name::from)
}

/// The shared program whose members are in this set; none for any other set.
pub fn shared_by(set: &str) -> Option<&str> {
    SetName::parse(set)?.group()
}

/// Whether the members of a group are macvtaps.
fn orientation(table: &Table, group: &str) -> Orientation {
    let reversed = table.sets.contains_key(&Name::from(SetName::Reversed(group)));
    if reversed { Orientation::Reversed } else { Orientation::Straight }
}

/// The set of a group's members.
fn members(group: &str, orientation: Orientation) -> SetName<'_> {
    match orientation {
        Orientation::Straight => SetName::Members(group),
        Orientation::Reversed => SetName::Reversed(group),
    }
}

/// A table as it was found, with all that is no program's rebuilt: a skeleton is filled with the interfaces, groups, devices
/// and programs that are there.
pub fn renewed(found: &Table, skeleton: Table) -> Table {
    let mut table = Table { unfit: found.unfit, ..skeleton };
    let sets = found.sets.iter().filter(|(name, _)| is_ours(name));
    table.sets.extend(sets.map(|(name, set)| (name.clone(), set.clone())));
    let programs = found.chains.iter().filter(|(name, _)| prefix_of(name).is_some());
    table.chains.extend(programs.map(|(name, chain)| (name.clone(), chain.clone())));
    for group in found.sets.keys().filter_map(|name| shared_by(name)) {
        match target_of(found, group) {
            Some(prefix) => link_shared(&mut table, group, &prefix, orientation(found, group)),
            None => block_members(&mut table, group),
        }
    }
    hooked(found).into_iter().for_each(|device| hook(&mut table, device, Tracing::Off));
    let bridges = tracked(found);
    if !bridges.is_empty() {
        track(&mut table, &bridges);
    }
    refresh_dispatch(&mut table);
    table
}

/// Lets nothing of the members of a group pass whose entry leads nowhere.
fn block_members(table: &mut Table, group: &str) {
    for way in [OUT, IN] {
        let rules = vec![Rule::new(vec![], Action::Drop)];
        table.chains.insert(ChainName::Entry(group, way).into(), Arc::new(Chain { hook: None, rules }));
    }
}

/// The indexes of all bound interfaces.
pub fn bound(table: &Table) -> Vec<u32> {
    let bound = table.sets.get(BOUND).into_iter();
    bound.flat_map(|set| set.elements.keys().filter_map(|key| index_of(key))).collect()
}

/// Whether an interface is bound or a name is reserved.
pub fn has_users(table: &Table) -> bool {
    [BOUND, RESERVED].iter().any(|set| table.sets.get(*set).is_some_and(|set| !set.elements.is_empty()))
}

/// Takes away programs that nothing leads to any more.
pub fn remove_unreferenced(table: &mut Table) {
    let private = first_map(table).into_iter().flat_map(|map| map.elements.values());
    let private =
        private.filter_map(|datum| if let ElementValue::Jump(chain) = datum { Some(chain) } else { None });
    let entries = table.chains.iter().filter(|(name, _)| prefix_of(name).is_none());
    let entries = entries.flat_map(|(_, chain)| &chain.rules);
    let entries =
        entries.filter_map(|rule| if let Action::Goto(chain) = &rule.action { Some(chain) } else { None });
    let used: BTreeSet<&str> = private.chain(entries).filter_map(|chain| prefix_of(chain)).collect();
    let placed: BTreeSet<&str> = table.chains.keys().filter_map(|name| prefix_of(name)).collect();
    let left: Vec<String> = placed.difference(&used).map(|prefix| (*prefix).to_owned()).collect();
    left.iter().for_each(|prefix| displace(table, prefix));
}

/// The prefix of a program's chain; none for all that belongs to no program.
pub fn prefix_of(chain: &str) -> Option<&str> {
    ChainName::parse(chain)?.program()
}

fn insert(table: &mut Table, set: &str, index: u32, datum: ElementValue) {
    let set = table.sets.get_mut(set).expect("the skeleton and `lead` make the sets of the dispatch");
    set.elements.insert(index_key(index), datum);
}

fn chain(prefix: &str, side: &str) -> Name {
    ChainName::OfProgram(prefix, side).into()
}

/// Blocks every link of this name that is not bound.
pub fn reserve(table: &mut Table, name: &str) {
    let reserved = table.sets.get_mut(RESERVED).expect("the skeleton has it");
    reserved.elements.insert(name_key(name), ElementValue::None);
}

/// Whether the name is one that a binding has.
pub fn is_reserved(table: &Table, name: &str) -> bool {
    table.sets.get(RESERVED).is_some_and(|set| set.elements.contains_key(&name_key(name)))
}

/// Lets links of this name be.
pub fn unreserve(table: &mut Table, name: &str) {
    table.sets.get_mut(RESERVED).expect("the skeleton has it").elements.remove(&name_key(name));
}

fn name_key(name: &str) -> Bytes {
    let mut key = [0; 16];
    let length = name.len().min(15);
    key[..length].copy_from_slice(&name.as_bytes()[..length]);
    key.into()
}
