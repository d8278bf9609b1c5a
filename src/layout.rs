//! How programs and members sit in our table: names, base chains, dispatch.
//!
//! The base chains lead a frame by the index of its interface to its program. A shared program is
//! reached through the set of its members (`clean-traffic/members`) and an entry chain (`clean-traffic/out`)
//! whose one rule goes to the chains of its current content; a private one through a verdict map. Chains of
//! programs are named by their content (`clean-traffic/3fa9c1d2e4f5/out`), so that equal programs are one, a
//! changed one never meets its old chains, and what an interrupted change left is recognised. Whoever is
//! bound and was not dispatched is dropped, and so is a link with the name of a binding that is not bound yet.
//!
//! Everything here turns one [`Table`] into the next; nothing knows filters or the kernel.

use crate::addr::Mac;
use crate::field::Field;
use crate::ir::digest::digest;
use crate::ir::{
    Action, Bytes, Chain, Data, Datum, From, Hook, Key, KeyType, Match, Name, Point, Role, Rule, Set, SetRef,
    Table, concat,
};
use crate::program::{IN, OUT, Program, printable};
use imbl::OrdMap;
use std::collections::BTreeSet;
use std::sync::Arc;

/// The set of all bound interfaces.
pub const BOUND: &str = "bound";
/// The set of names that bindings have: a link that takes such a name is shut until it is bound.
pub const RESERVED: &str = "reserved";
/// The map from the interface a frame came from to its private program.
pub const FROM_GUEST: &str = "from-guest";
/// The map from the interface a frame goes to to its private program.
pub const TO_GUEST: &str = "to-guest";
/// The set of bridges whose frames conntrack sees, by name.
pub const TRACKED: &str = "tracked";
/// The map from a bridge's name to its conntrack zone.
pub const ZONES: &str = "zones";
/// The set of the host's own addresses on bridges whose frames conntrack sees.
pub const HOSTS: &str = "hosts";

const PREROUTING: &str = "prerouting";
const POSTROUTING: &str = "postrouting";
const TRACKING: &str = "tracking";
const LOCAL: &str = "local";
const MEMBERS: &str = "/members";
/// Hexadecimal digits of a digest in the name of a chain.
const DIGEST_DIGITS: usize = 12;
const IPSETS: [&str; 2] = ["ipset.", "ipset6."];

/// After bridge conntrack (-200), and never 0, where br_netfilter may steal a frame.
const FILTER_PRIORITY: i32 = -150;
/// Before bridge conntrack (-200).
const TRACKING_PRIORITY: i32 = -300;
/// The zone in which the host's IP layer keeps its connections.
const HOST_ZONE: u16 = 0;

/// How an interface's frames get to its program.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Entrance {
    /// As a member of the shared program of this name.
    Shared(Name),
    /// Through the verdict map, to the program whose chains have this prefix.
    Private(Name),
}

/// A table with everything but programs and members.
pub fn skeleton() -> Table {
    let mut table = Table::default();
    let interfaces = || vec![KeyType::IfIndex];
    table.sets.insert(BOUND.into(), set(interfaces(), Data::None, Role::Dispatch));
    table.sets.insert(RESERVED.into(), set(vec![KeyType::IfName], Data::None, Role::Dispatch));
    table.sets.insert(FROM_GUEST.into(), set(interfaces(), Data::Verdict, Role::Dispatch));
    table.sets.insert(TO_GUEST.into(), set(interfaces(), Data::Verdict, Role::Dispatch));
    refresh_dispatch(&mut table);
    table
}

/// An empty named set.
pub fn set(key: Vec<KeyType>, data: Data, role: Role) -> Set {
    Set { key, data, role, dynamic: false, elements: OrdMap::new() }
}

/// The key of a set of interface indexes.
pub fn index_key(index: u32) -> Bytes {
    concat(&[&index.to_ne_bytes()])
}

/// What the elements of a set of this name decide, for sets found in the kernel.
pub fn role_of(name: &str, dynamic: bool) -> Role {
    let foreign = dynamic || IPSETS.iter().any(|prefix| name.starts_with(prefix));
    let dispatch = name.ends_with(MEMBERS)
        || [BOUND, RESERVED, FROM_GUEST, TO_GUEST, TRACKED, ZONES, HOSTS].contains(&name);
    match (foreign, dispatch) {
        (true, _) => Role::Foreign,
        (false, true) => Role::Dispatch,
        (false, false) => Role::Variable,
    }
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
pub fn settle(table: &mut Table, program: &Program) -> Name {
    let (label, digest) = (printable(&program.filter), digest(&program.chains));
    let mut prefixes = (0..).map(|n: u64| prefix(&label, digest.wrapping_add(n << 16)));
    let prefix = prefixes.find(|prefix| is_free(table, prefix, program)).expect("numbers do not end");
    place(table, &prefix, program);
    prefix
}

/// Whether a program can be placed under this prefix: nothing is there, or this very program.
pub fn is_free(table: &Table, prefix: &str, program: &Program) -> bool {
    if !table.chains.contains_key(&chain(prefix, OUT)) {
        return true;
    }
    let (chains, _) = program.placed(prefix);
    chains
        .iter()
        .all(|(name, rules)| table.chains.get(name).is_some_and(|there| is_same(&there.rules, rules)))
}

/// Whether rules are the same wherever in their documents they stand.
fn is_same(some: &[Rule], others: &[Rule]) -> bool {
    let filter = |rule: &Rule| rule.origin.as_ref().map(|origin| (origin.filter.clone(), origin.rule));
    let same = |(a, b): (&Rule, &Rule)| {
        a.matches == b.matches && a.action == b.action && a.counter == b.counter && filter(a) == filter(b)
    };
    some.len() == others.len() && some.iter().zip(others).all(same)
}

/// Lets the entry chains of a shared program lead to the program placed under a prefix.
pub fn lead(table: &mut Table, shared: &str, prefix: &str) {
    for side in [OUT, IN] {
        let goto = Rule::new(vec![], Action::Goto(chain(prefix, side)));
        table.chains.insert(chain(shared, side), Arc::new(Chain { hook: None, rules: vec![goto] }));
    }
    let members: Name = format!("{shared}{MEMBERS}").into();
    if !table.sets.contains_key(&members) {
        table.sets.insert(members, set(vec![KeyType::IfIndex], Data::None, Role::Dispatch));
        refresh_dispatch(table);
    }
}

/// Takes a shared program's dispatch away.
pub fn mislead(table: &mut Table, shared: &str) {
    table.sets.remove(&*format!("{shared}{MEMBERS}"));
    for side in [OUT, IN] {
        table.chains.remove(&chain(shared, side));
    }
    refresh_dispatch(table);
}

/// Binds an interface, or moves it to another program.
pub fn enter(table: &mut Table, index: u32, entrance: &Entrance) {
    leave(table, index);
    insert(table, BOUND, index, Datum::None);
    match entrance {
        Entrance::Shared(name) => insert(table, &format!("{name}{MEMBERS}"), index, Datum::None),
        Entrance::Private(prefix) => {
            insert(table, FROM_GUEST, index, Datum::Jump(chain(prefix, OUT)));
            insert(table, TO_GUEST, index, Datum::Jump(chain(prefix, IN)));
        }
    }
}

/// Takes an interface out of all dispatch.
pub fn leave(table: &mut Table, index: u32) {
    let key = index_key(index);
    for (name, _) in table.sets.clone().iter().filter(|(_, set)| set.elements.contains_key(&key)) {
        if role_of(name, false) == Role::Dispatch {
            table.sets.get_mut(name).expect("listed above").elements.remove(&key);
        }
    }
}

/// How an interface's frames get to its program; none where it is not bound.
pub fn entrance(table: &Table, index: u32) -> Option<Entrance> {
    let key = index_key(index);
    let shared = table.sets.iter().find_map(|(name, set)| {
        let shared = name.strip_suffix(MEMBERS)?;
        set.elements.contains_key(&key).then(|| Entrance::Shared(shared.into()))
    });
    let private = || match table.sets.get(FROM_GUEST)?.elements.get(&key)? {
        Datum::Jump(chain) => chain.strip_suffix("/out").map(|prefix| Entrance::Private(prefix.into())),
        _ => None,
    };
    shared.or_else(private)
}

/// Where the private program of an interface is placed, if it has one.
pub fn private(table: &Table, index: u32) -> Option<Name> {
    match table.sets.get(FROM_GUEST)?.elements.get(&index_key(index))? {
        Datum::Jump(chain) => prefix_of(chain).map(Name::from),
        _ => None,
    }
}

/// Where the program is placed that members of a shared one are led to.
pub fn led(table: &Table, shared: &str) -> Option<Name> {
    let entry = table.chains.get(&chain(shared, OUT))?;
    let target = entry
        .rules
        .iter()
        .find_map(|rule| if let Action::Goto(chain) = &rule.action { Some(chain) } else { None });
    prefix_of(target?).map(Name::from)
}

/// The shared program whose members are in this set; none for any other set.
pub fn shared_by(set: &str) -> Option<&str> {
    set.strip_suffix(MEMBERS)
}

/// The indexes of all bound interfaces.
pub fn bound(table: &Table) -> Vec<u32> {
    let index = |key: &Bytes| key[..].try_into().map(u32::from_ne_bytes).ok();
    table.sets.get(BOUND).into_iter().flat_map(|set| set.elements.keys().filter_map(index)).collect()
}

/// Takes away programs that nothing leads to any more.
pub fn sweep(table: &mut Table) {
    let private = table.sets.get(FROM_GUEST).into_iter().flat_map(|map| map.elements.values());
    let private = private.filter_map(|datum| if let Datum::Jump(chain) = datum { Some(chain) } else { None });
    let entries = table.chains.iter().filter(|(name, _)| prefix_of(name).is_none());
    let entries = entries.flat_map(|(_, chain)| &chain.rules);
    let entries =
        entries.filter_map(|rule| if let Action::Goto(chain) = &rule.action { Some(chain) } else { None });
    let used: BTreeSet<&str> = private.chain(entries).filter_map(|chain| prefix_of(chain)).collect();
    let placed: BTreeSet<&str> = table.chains.keys().filter_map(|name| prefix_of(name)).collect();
    let left: Vec<String> = placed.difference(&used).map(|prefix| (*prefix).to_owned()).collect();
    left.iter().for_each(|prefix| displace(table, prefix));
}

/// The prefix under which a program is placed: its filter's name and the digest of its content.
pub fn prefix(filter: &str, digest: u64) -> Name {
    format!("{filter}/{:0DIGEST_DIGITS$x}", digest >> 16).into()
}

/// The prefix of a program's chain or set; none for all that belongs to no program.
pub fn prefix_of(name: &str) -> Option<&str> {
    let filter = name.find('/')?;
    let digest = name[filter + 1..].split('/').next()?;
    let is_digest = digest.len() == DIGEST_DIGITS && digest.bytes().all(|b| b.is_ascii_hexdigit());
    is_digest.then(|| &name[..filter + 1 + DIGEST_DIGITS])
}

fn insert(table: &mut Table, set: &str, index: u32, datum: Datum) {
    let set = table.sets.get_mut(set).expect("the skeleton and `lead` make the sets of the dispatch");
    set.elements.insert(index_key(index), datum);
}

fn chain(prefix: &str, side: &str) -> Name {
    format!("{prefix}/{side}").into()
}

/// Writes the base chains anew, as the dispatch sets of the table demand.
fn refresh_dispatch(table: &mut Table) {
    for side in SIDES {
        let hook = Some(Hook { point: side.point, priority: FILTER_PRIORITY, device: None });
        table.chains.insert(side.base.into(), Arc::new(Chain { hook, rules: dispatch(table, &side) }));
    }
}

/// One direction: its base chain, and how its frames are told apart.
struct Side {
    base: &'static str,
    point: Point,
    index: From,
    name: From,
    chain: &'static str,
    map: &'static str,
}

const SIDES: [Side; 2] = [
    Side {
        base: PREROUTING,
        point: Point::Prerouting,
        index: From::Iif,
        name: From::IifName,
        chain: OUT,
        map: FROM_GUEST,
    },
    Side {
        base: POSTROUTING,
        point: Point::Postrouting,
        index: From::Oif,
        name: From::OifName,
        chain: IN,
        map: TO_GUEST,
    },
];

fn dispatch(table: &Table, side: &Side) -> Vec<Rule> {
    let is_in = |from, set: &str| Match::Lookup {
        keys: vec![Key::new(from)],
        negated: false,
        set: SetRef::Named(set.into()),
    };
    let shared = table.sets.keys().filter_map(|set| {
        let name = set.strip_suffix(MEMBERS)?;
        // A jump: should a packet that a change overtakes fall out of a chain not filled yet, it is dropped below.
        Some(Rule::new(vec![is_in(side.index, set)], Action::Jump(chain(name, side.chain))))
    });
    let private = Rule::new(vec![], Action::Dispatch(vec![Key::new(side.index)], side.map.into()));
    let slipped = Rule::new(vec![is_in(side.index, BOUND)], Action::Drop);
    let reserved = Rule::new(vec![is_in(side.name, RESERVED)], Action::Drop);
    shared.chain([private, slipped, reserved]).collect()
}

/// Has the kernel tell of every rule that the frames of bound interfaces meet (`nft monitor trace`), or of none.
pub fn trace(table: &mut Table, on: bool) {
    for side in SIDES {
        let name: Name = format!("trace-{}", side.base).into();
        if !on {
            table.chains.remove(&name);
            continue;
        }
        let hook = Some(Hook { point: side.point, priority: FILTER_PRIORITY - 1, device: None });
        let bound = SetRef::Named(BOUND.into());
        let is_bound = Match::Lookup { keys: vec![Key::new(side.index)], negated: false, set: bound };
        let rules = vec![Rule::new(vec![is_bound], Action::Trace)];
        table.chains.insert(name, Arc::new(Chain { hook, rules }));
    }
}

/// Shuts every link of this name that is not bound.
pub fn reserve(table: &mut Table, name: &str) {
    let reserved = table.sets.get_mut(RESERVED).expect("the skeleton has it");
    reserved.elements.insert(name_key(name), Datum::None);
}

/// Whether the name is one that a binding has.
pub fn is_reserved(table: &Table, name: &str) -> bool {
    table.sets.get(RESERVED).is_some_and(|set| set.elements.contains_key(&name_key(name)))
}

/// Lets links of this name be.
pub fn unreserve(table: &mut Table, name: &str) {
    table.sets.get_mut(RESERVED).expect("the skeleton has it").elements.remove(&name_key(name));
}

/// A bridge whose frames conntrack must see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tracked {
    /// Its name.
    pub bridge: String,
    /// The zone of connections between its ports.
    pub zone: u16,
    /// The host's own address on it.
    pub host: Option<Mac>,
}

/// Has conntrack see the frames of these bridges, each in a zone of its own, and no others; with no
/// bridge at all, conntrack is not asked for.
///
/// Rules of the IP layer judge untagged IP alone. Of a tagged frame conntrack would see the inner packet, and
/// hold back a fragment until the others come, under whatever tag.
///
/// Frames for the host stay in the zone that its IP layer uses: it translates, routes and answers them there. Of frames
/// that are kept from conntrack, those that come to the host are given back to it.
pub fn track(table: &mut Table, bridges: &[Tracked]) {
    if bridges.is_empty() {
        [TRACKING, LOCAL].iter().for_each(|chain| drop(table.chains.remove(*chain)));
        [TRACKED, ZONES, HOSTS].iter().for_each(|set| drop(table.sets.remove(*set)));
        return;
    }
    let mut tracked = set(vec![KeyType::IfName], Data::None, Role::Dispatch);
    let mut zones = set(vec![KeyType::IfName], Data::Zone, Role::Dispatch);
    let mut hosts = set(vec![KeyType::IfName, KeyType::Ether], Data::None, Role::Dispatch);
    for Tracked { bridge, zone, host } in bridges {
        tracked.elements.insert(name_key(bridge), Datum::None);
        zones.elements.insert(name_key(bridge), Datum::Zone(*zone));
        let host = host.map(|host| concat(&[&name_key(bridge), &host.0]));
        hosts.elements.extend(host.map(|key| (key, Datum::None)));
    }
    for (name, set) in [(TRACKED, tracked), (ZONES, zones), (HOSTS, hosts)] {
        table.sets.insert(name.into(), set);
    }
    let bridge = Key::new(From::BridgeName);
    let lookup = |keys, negated, set: &str| Match::Lookup { keys, negated, set: SetRef::Named(set.into()) };
    let elsewhere = || lookup(vec![bridge.clone()], true, TRACKED);
    let to_host = lookup(vec![bridge.clone(), Key::field(Field::EtherDaddr)], false, HOSTS);
    let tracking = vec![
        Rule::new(vec![elsewhere()], Action::Untracked),
        Rule::new(vec![untagged_ip(false)], Action::Untracked),
        Rule::new(vec![to_host], Action::Accept),
        // A zone that is set takes back that a frame is not tracked.
        Rule::new(vec![untagged_ip(true)], Action::SetZone(vec![bridge.clone()], ZONES.into())),
    ];
    let untracked = [elsewhere(), untagged_ip(false)];
    let local = untracked.map(|frames| Rule::new(vec![frames], Action::Zone(HOST_ZONE))).into();
    let mut hook = |chain: &str, point, priority, rules| {
        let hook = Some(Hook { point, priority, device: None });
        table.chains.insert(chain.into(), Arc::new(Chain { hook, rules }));
    };
    hook(TRACKING, Point::Prerouting, TRACKING_PRIORITY, tracking);
    hook(LOCAL, Point::Input, FILTER_PRIORITY, local);
}

/// Whether the Ethernet type in the frame is that of IP, or is not.
fn untagged_ip(wanted: bool) -> Match {
    let types = [[0x08, 0x00], [0x86, 0xdd]].map(|ether_type: [u8; 2]| Bytes::from(ether_type));
    let set = SetRef::Anonymous(vec![KeyType::EtherType], types.into());
    Match::Lookup { keys: vec![Key::field(Field::EtherType)], negated: !wanted, set }
}

fn name_key(name: &str) -> Bytes {
    let mut key = [0; 16];
    let length = name.len().min(15);
    key[..length].copy_from_slice(&name.as_bytes()[..length]);
    key.into()
}
