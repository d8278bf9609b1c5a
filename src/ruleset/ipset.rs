//! The sets of addresses that filters refer to by name: what the kernel calls them, and how they are filled.
//!
//! A filter's `ipset` is a set of our own tables: of the bridge's once an administrator creates it, and of each table with a
//! program that refers to it; all hold the same elements. A filter that names a set that does not exist is refused. The set
//! and its elements stay when the last program goes. IPv4 and IPv6 addresses of one name sit in two sets.

use crate::program::ir::observed::Observed;
use crate::program::ir::{
    Bytes, ElementValue, Family, KeyType, Match, Name, Origin, Ruleset, Set, SetRef, SetRole, ValueType,
};
use crate::program::name::SetName;
use crate::ruleset::from_kernel::recall;
use crate::ruleset::layout;
use crate::ruleset::nft::reply::{self, Refusal};
use crate::ruleset::plan::{Plan, Step, TableOperation, plan};
use imbl::OrdMap;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// What is done to a named set of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IpsetVerb {
    /// Nothing, its addresses are asked for.
    List = 0,
    /// Addresses go in.
    Add = 1,
    /// Addresses go out.
    Delete = 2,
    /// All addresses go out.
    Flush = 3,
}

/// Why a set was not changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IpsetError {
    /// Not an address.
    #[error("{0:?} is no IPv4 or IPv6 address")]
    Address(String),
    /// A name that libvirt would not take either.
    #[error("{0:?} cannot name a set: 1 to 31 letters, digits and _.:+- can, and spaces")]
    Name(String),
    /// It does not exist.
    #[error(
        "there is no set '{0}': 'nwfilter ipset add' makes one with addresses, 'nwfilter ipset flush' an empty one"
    )]
    Unknown(String),
}

/// The types of addresses; those of each type sit in a set of their own.
pub const FAMILIES: [KeyType; 2] = [KeyType::Ipv4, KeyType::Ipv6];

/// Where a set can be.
pub const TABLES: [Family; 3] = [Family::Bridge, Family::Inet, Family::Netdev];

/// An empty set for addresses of this type.
pub fn empty(kind: KeyType) -> Set {
    let (key, elements) = (vec![kind], OrdMap::new());
    Set { key, data: ValueType::None, role: SetRole::Foreign, dynamic: false, counted: false, elements }
}

/// A change of a set, worked out.
#[derive(Clone, Debug, PartialEq)]
pub struct IpsetPlan {
    /// What the kernel must do.
    pub plan: Plan,
    /// The addresses of the set after that.
    pub addresses: Vec<String>,
}

/// Works out what is to be done to a set, for the tables that were observed. All addresses are taken, or none.
pub fn plan_change(
    observed: &Observed,
    name: &str,
    verb: IpsetVerb,
    addresses: &[String],
) -> Result<IpsetPlan, IpsetError> {
    check_name(name)?;
    let parse = |text: &String| text.parse().map_err(|_| IpsetError::Address(text.clone()));
    let named: Vec<IpAddr> = addresses.iter().map(parse).collect::<Result<_, _>>()?;
    let observed = recall(observed, &Ruleset::default());
    if matches!(verb, IpsetVerb::List | IpsetVerb::Delete) && !is_made(&observed, name) {
        return Err(IpsetError::Unknown(name.to_owned()));
    }
    let sets = FAMILIES.map(|kind| SetChange::of(&observed, (name, kind), verb, &named));
    let after = sets.iter().flat_map(|set| set.wanted.iter().filter_map(address));
    let addresses = after.map(|address| address.to_string()).collect();
    if verb == IpsetVerb::List {
        return Ok(IpsetPlan { plan: Plan::default(), addresses });
    }
    let mut plan = plan(&observed, &with_bridge_table(&observed));
    plan.switch.extend(sets.iter().flat_map(|set| set.steps(&observed, verb)));
    Ok(IpsetPlan { plan, addresses })
}

fn check_name(name: &str) -> Result<(), IpsetError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_.:+- ".contains(c);
    if name.is_empty() || name.len() > 31 || !name.chars().all(plain) {
        return Err(IpsetError::Name(name.to_owned()));
    }
    Ok(())
}

/// The bridge's table is made for a set, if it is not there.
fn with_bridge_table(observed: &Ruleset) -> Ruleset {
    let mut rules = observed.clone();
    rules.tables.entry(Family::Bridge).or_insert_with(layout::skeleton);
    rules
}

/// One of the two sets of a name, and the elements that it has after the change in each table that has it.
struct SetChange {
    set: Name,
    kind: KeyType,
    wanted: BTreeSet<Bytes>,
}

impl SetChange {
    fn of(observed: &Ruleset, (name, kind): (&str, KeyType), verb: IpsetVerb, named: &[IpAddr]) -> SetChange {
        let set = Name::from(SetName::Ipset(name.into(), kind));
        let found = TABLES.into_iter().filter_map(|family| set_of(observed, family, &set));
        let before: BTreeSet<Bytes> = found.flat_map(|set| set.elements.keys().cloned()).collect();
        let named: BTreeSet<Bytes> = named.iter().filter_map(|address| key(*address, kind)).collect();
        let wanted = match verb {
            IpsetVerb::List => before,
            IpsetVerb::Add => before.union(&named).cloned().collect(),
            IpsetVerb::Delete => before.difference(&named).cloned().collect(),
            IpsetVerb::Flush => BTreeSet::new(),
        };
        SetChange { set, kind, wanted }
    }

    /// What each table lacks of that. Only the bridge's gets the set where it has none.
    fn steps(&self, observed: &Ruleset, verb: IpsetVerb) -> Vec<Step> {
        let mut steps = Vec::new();
        for family in TABLES {
            let found = set_of(observed, family, &self.set);
            if found.is_none() && family != Family::Bridge {
                continue;
            }
            let within = found.into_iter().flat_map(|set| set.elements.keys().cloned()).collect();
            let changes = changes(&self.set, self.kind, Make::of(found, verb), &within, &self.wanted);
            steps.extend(changes.into_iter().map(|change| Step { family, change }));
        }
        steps
    }
}

fn set_of<'a>(rules: &'a Ruleset, family: Family, set: &Name) -> Option<&'a Set> {
    rules.tables.get(&family)?.sets.get(set)
}

/// Whether one of our tables has a set of this name, be it empty.
pub fn is_made(ruleset: &Ruleset, name: &str) -> bool {
    let set = |kind| Name::from(SetName::Ipset(name.into(), kind));
    let has = |kind| ruleset.tables.values().any(|table| table.sets.contains_key(&set(kind)));
    FAMILIES.into_iter().any(has)
}

/// The sets that a plan would make empty since a filter names them and they do not exist: each is a refusal that says the
/// way out. A rule that drops what is in such a set would drop nothing.
pub fn unmade(plan: &Plan, observed: &Observed, on_host: impl Fn(&str) -> bool) -> Vec<Refusal> {
    let made = |name: &str| {
        let set = |kind| Name::from(SetName::Ipset(name.into(), kind));
        let has = |kind| observed.families.values().any(|table| table.sets.contains_key(&set(kind)));
        FAMILIES.into_iter().any(has)
    };
    let new: BTreeSet<String> = steps(plan).filter_map(new_ipset).filter(|name| !made(name)).collect();
    let read = reads(plan).into_iter().filter(|(name, _)| new.contains(name));
    let why = |name: &str| if on_host(name) { UNREADABLE } else { MISSING };
    read.map(|(name, origin)| refusal(&name, origin, why(&name))).collect()
}

/// Whether a plan makes a set that stands for an ipset.
pub fn makes_any(plan: &Plan) -> bool {
    steps(plan).any(|step| new_ipset(step).is_some())
}

/// Without sets that no rule of the plan reads: they are left over from rules that are not in force.
pub fn without_unread(mut plan: Plan) -> Plan {
    if makes_any(&plan) {
        let read = reads(&plan);
        let is_read = |step: &Step| new_ipset(step).is_none_or(|name| read.contains_key(&name));
        plan.prepare.retain(is_read);
    }
    plan
}

fn steps(plan: &Plan) -> impl Iterator<Item = &Step> {
    plan.prepare.iter().chain(&plan.switch)
}

fn new_ipset(step: &Step) -> Option<String> {
    match &step.change {
        TableOperation::AddSet(name, kind) if layout::is_ipset(name, kind) => named(name),
        _ => None,
    }
}

fn named(set: &Name) -> Option<String> {
    match SetName::parse(set) {
        Some(SetName::Ipset(name, _)) => Some(name),
        _ => None,
    }
}

/// The ipsets that new rules read, each with the first rule that is known to.
fn reads(plan: &Plan) -> BTreeMap<String, Option<Origin>> {
    let mut read = BTreeMap::new();
    for step in steps(plan) {
        let TableOperation::AddRule(_, rule) = &step.change else { continue };
        for it in &rule.matches {
            if let Match::Lookup { set: SetRef::Named(set), .. } = it
                && let Some(name) = named(set)
            {
                read.entry(name).or_insert_with(|| rule.origin.clone());
            }
        }
    }
    read
}

/// Why a set of the ipset command does not help.
const UNREADABLE: &str = "the host's own set (of the ipset command) cannot be read by these rules";
const MISSING: &str = "it does not exist";

fn refusal(name: &str, origin: Option<Origin>, why: &str) -> Refusal {
    let way_out = format!(
        "put addresses into a set of ours with 'nwfilter ipset add {name} ADDRESS...', or make an empty one with \
         'nwfilter ipset flush {name}'"
    );
    let fault = reply::RefusalCause::Unencodable(format!("{why}; {way_out}"));
    Refusal { step: None, what: format!("ipset '{name}'"), origin, fault }
}

/// When a set comes to be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Make {
    /// It is there.
    Never,
    /// With its first address.
    WithAddresses,
    /// Even without an address.
    Always,
}

impl Make {
    fn of(found: Option<&Set>, verb: IpsetVerb) -> Make {
        match (found, verb) {
            (Some(_), _) => Make::Never,
            (None, IpsetVerb::Flush) => Make::Always,
            (None, _) => Make::WithAddresses,
        }
    }
}

fn changes(
    set: &Name,
    kind: KeyType,
    make: Make,
    before: &BTreeSet<Bytes>,
    wanted: &BTreeSet<Bytes>,
) -> Vec<TableOperation> {
    let of = empty(kind).kind();
    let add: Vec<(Bytes, ElementValue)> =
        wanted.difference(before).map(|key| (key.clone(), ElementValue::None)).collect();
    let delete: Vec<Bytes> = before.difference(wanted).cloned().collect();
    let makes = make == Make::Always || make == Make::WithAddresses && !add.is_empty();
    let make = makes.then(|| TableOperation::AddSet(set.clone(), of.clone()));
    let add = (!add.is_empty()).then(|| TableOperation::AddElements(set.clone(), of.clone(), add));
    let delete = (!delete.is_empty()).then(|| TableOperation::DeleteElements(set.clone(), of, delete));
    [make, add, delete].into_iter().flatten().collect()
}

fn key(address: IpAddr, kind: KeyType) -> Option<Bytes> {
    match (address, kind) {
        (IpAddr::V4(address), KeyType::Ipv4) => Some(address.octets().as_slice().into()),
        (IpAddr::V6(address), KeyType::Ipv6) => Some(address.octets().as_slice().into()),
        _ => None,
    }
}

fn address(key: &Bytes) -> Option<IpAddr> {
    let v4 = || <[u8; 4]>::try_from(&key[..]).map(IpAddr::from).ok();
    v4().or_else(|| <[u8; 16]>::try_from(&key[..]).map(IpAddr::from).ok())
}
