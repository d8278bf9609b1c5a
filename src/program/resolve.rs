//! A filter with its tree of references and a binding's variables, made into one flat list of rules.
//!
//! References are followed, variables read, attributes joined into typed [`Predicate`]s, and the rules put in
//! order. What can be a set of its own for each member is a [`Slot`]; anything else is folded into constants.
//! All faults are reported at once. Nothing here knows what a rule compiles to.

mod conditions;
mod faults;
pub mod given;
mod groups;
mod members;
mod sample;
mod walk;

pub(crate) use groups::leading_ones;
pub use members::slot_values;
pub use walk::{has_loop, introduces_loop};

use crate::document::diag::{Code, Diagnostic};
use crate::document::field::Field;
use crate::document::filter::schema::{Layer, Protocol};
use crate::document::filter::{AddressEnd, Filter, RuleAction, RuleDirection};
use crate::document::vars::{Access, Index, Lookup, Scope, Vars};
use crate::program::ir::{Bytes, KeyType, Origin};
use crate::program::{Slot, SlotPart};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use walk::Instance;

/// A filter tree as one ordered list of rules, for the members whose variables give the same list.
#[derive(Clone, Debug, PartialEq)]
pub struct Resolved {
    /// The root filter's name.
    pub filter: String,
    /// The root chain of the Ethernet layer, in order.
    pub root: Vec<RootItem>,
    /// The rules of each chain that the root chain jumps to, in order.
    pub chains: BTreeMap<String, Vec<ResolvedRule>>,
    /// The rules of the IP layer, which knows no chains, in order.
    pub ip: Vec<ResolvedRule>,
    /// Every variable that a rule reads.
    pub reads: BTreeSet<String>,
    /// Those whose values are constants of the rules, in some rule at least.
    pub folded: BTreeSet<String>,
}

/// One place of the Ethernet layer's root chain.
#[derive(Clone, Debug, PartialEq)]
pub enum RootItem {
    /// A rule.
    Rule(ResolvedRule),
    /// A jump to this chain.
    Chain(String),
}

/// A rule whose variables are constants or slots.
#[derive(Clone, Debug, PartialEq)]
pub struct ResolvedRule {
    /// What happens to a frame that meets all conditions.
    pub action: RuleAction,
    /// Which frames it looks at.
    pub direction: RuleDirection,
    /// False where connection tracking is turned off.
    pub statematch: bool,
    /// The protocol of its frames; none for all frames.
    pub protocol: Option<&'static Protocol>,
    /// All of them must hold.
    pub conditions: Vec<Condition>,
    /// Where it was written.
    pub origin: Origin,
}

/// What a frame must meet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Condition {
    /// This holds.
    Is(Predicate),
    /// None of these holds.
    NoneOf(Vec<Predicate>),
    /// The fields, taken together, are one of the members.
    Member(Vec<MemberField>, Members),
    /// The field is none of the values that each member of the program puts into the slot.
    NoMember(MemberField, Slot),
}

/// One field of a [`Condition::Member`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberField {
    /// The field.
    pub field: Field,
    /// The type of its values.
    pub kind: KeyType,
    /// How many leading bits count; none where all do.
    pub prefix: Option<u8>,
}

/// Where the members of a [`Condition::Member`] come from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Members {
    /// From the set that each member of the program fills.
    Slot(Slot),
    /// From here: a value of each part.
    Values(BTreeSet<Vec<Bytes>>),
}

/// One statement about a frame, without variables.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Predicate {
    /// The field, with only the bits of the mask, equals the value.
    Equals {
        /// The field.
        field: Field,
        /// The bits that count; none where all do.
        mask: Option<Bytes>,
        /// The value, masked.
        value: Bytes,
    },
    /// The field lies between two values, both included.
    Between {
        /// The field.
        field: Field,
        /// The lowest value.
        from: Bytes,
        /// The highest value.
        to: Bytes,
    },
    /// The upper protocol is this one.
    UpperProtocol(u8),
    /// ARP sender and target address are the same.
    Gratuitous,
    /// The TCP option of this kind is present.
    TcpOption(u8),
    /// `(flags & mask) == flags`.
    TcpFlags {
        /// The flags looked at.
        mask: u8,
        /// The flags that are set.
        flags: u8,
    },
    /// The connection is in one of these states, bits of `filter::state`; `NONE` is no condition, but
    /// turns connection tracking off.
    State(u8),
    /// The source has more connections than this.
    ConnLimit(u32),
    /// The address of the first side is in the set of this name. A set has one dimension here; as with ipset
    /// itself, sides beyond those of the set mean nothing.
    Ipset(String, Vec<AddressEnd>),
    /// All of these hold.
    All(Vec<Predicate>),
}

/// Whether variables of the binding may become slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Everything is folded into constants.
    Fold,
    /// What can be a slot is one.
    Slots,
}

/// Reads the definition of a filter by name.
pub type FilterLookup<'a> = &'a dyn Fn(&str) -> Option<Arc<Filter>>;

/// The filter `root` of the library for a binding with these variables.
///
/// Fails with all variables that are missing, or with everything that cannot be enforced as it is written.
pub fn resolve(
    library: FilterLookup<'_>,
    root: &str,
    vars: &Vars,
    mode: Mode,
) -> Result<Resolved, Vec<Diagnostic>> {
    let instances = walk::walk(library, root, vars)?;
    let lacking = lacking(&instances);
    if !lacking.is_empty() {
        return Err(vec![unresolvable(&lacking)]);
    }
    expanded(root, &instances, (mode == Mode::Slots).then_some(vars))
}

/// The filter `root` of the library with samples for variables that no parameter gives: fails with what an
/// interface would be refused for whatever its variables are.
pub fn check(library: FilterLookup<'_>, root: &str) -> Result<Resolved, Vec<Diagnostic>> {
    with_samples(library, root, &Vars::default())
}

/// The filter `root` of the library for a binding with these variables, and samples for those that are missing.
pub fn with_samples(library: FilterLookup<'_>, root: &str, vars: &Vars) -> Result<Resolved, Vec<Diagnostic>> {
    let instances = walk::walk(library, root, vars)?;
    let instances: Vec<Instance> = instances.into_iter().map(sample::sampled).collect();
    expanded(root, &instances, None)
}

fn expanded(root: &str, instances: &[Instance], binding: Option<&Vars>) -> Result<Resolved, Vec<Diagnostic>> {
    let mut placed = Vec::new();
    let mut diagnostics = BTreeSet::new();
    let mut folded = BTreeSet::new();
    let mut budget = conditions::Budget { rules: walk::RULES, values: walk::VALUES };
    for instance in instances {
        match conditions::expand(instance, binding, &mut budget) {
            Ok(rules) => {
                folded.extend(constants(instance, rules.first()));
                placed.extend(rules.into_iter().map(|rule| (instance, rule)));
            }
            Err(found) => diagnostics.extend(found),
        }
    }
    if !diagnostics.is_empty() {
        return Err(diagnostics.into_iter().collect());
    }
    let reads = instances.iter().flat_map(accesses).map(|access| access.name.clone()).collect();
    let arranged = arrange(root, placed);
    Ok(Resolved { reads, folded, ..arranged })
}

fn accesses(instance: &Instance) -> impl Iterator<Item = &Access> {
    instance.rule.matches.iter().filter_map(groups::access)
}

/// The variables of a rule that are not, each time it reads them, part of a slot.
fn constants(instance: &Instance, expanded: Option<&ResolvedRule>) -> BTreeSet<String> {
    let parts: Vec<&SlotPart> =
        expanded.into_iter().flat_map(ResolvedRule::slots).flat_map(|slot| &slot.parts).collect();
    let in_slots = |name: &str| parts.iter().filter(|part| part.variable == name).count();
    let read = |name: &str| accesses(instance).filter(|access| access.name == name).count();
    accesses(instance).map(|access| access.name.clone()).filter(|name| read(name) > in_slots(name)).collect()
}

/// The variables that the filter tree reads and these variables do not hold, in order. An interface's
/// address can be learned when exactly `$IP` is missing.
pub fn missing(library: FilterLookup<'_>, root: &str, vars: &Vars) -> Result<Vec<Access>, Vec<Diagnostic>> {
    Ok(lacking(&walk::walk(library, root, vars)?).into_iter().collect())
}

/// What an interface that lacks these variables is refused with.
pub fn unresolvable(missing: &BTreeSet<Access>) -> Diagnostic {
    let names: Vec<String> =
        missing.iter().map(|access| access.to_string().trim_start_matches('$').to_owned()).collect();
    let list = names.join(", ");
    let message =
        "Cannot instantiate filter due to unresolvable variables or unavailable list elements: ".to_owned();
    Diagnostic::error(Code::INTERNAL, message + &list)
}

fn lacking(instances: &[Instance]) -> BTreeSet<Access> {
    let lacking = instances
        .iter()
        .flat_map(|instance| accesses(instance).filter(|access| !is_available(access, &instance.vars)));
    lacking.cloned().collect()
}

fn is_available(access: &Access, vars: &Scope) -> bool {
    let length = vars.values(&access.name).map_or(0, <[String]>::len);
    match access.index {
        Index::Element(index) => (index as usize) < length,
        Index::Iterator(_) => length > 0,
    }
}

/// Rules of the root chain and the jumps to others by priority, a jump before rules of the same one; rules
/// of a chain by their own; document order for ties. A chain's priority is that of the first filter seen in it.
fn arrange(root: &str, placed: Vec<(&Instance, ResolvedRule)>) -> Resolved {
    let ethernet =
        |rule: &ResolvedRule| rule.protocol.is_none_or(|protocol| protocol.layer == Layer::Ethernet);
    let (link, mut ip): (Vec<_>, Vec<_>) = placed.into_iter().partition(|(_, rule)| ethernet(rule));
    ip.sort_by_key(|(instance, _)| (!instance.in_root(), instance.rule.priority));

    let mut steps: Vec<((i32, bool), RootItem)> = Vec::new();
    let mut chains: BTreeMap<String, Vec<(i32, ResolvedRule)>> = BTreeMap::new();
    for (instance, rule) in link {
        let chain = &instance.filter.chain;
        if instance.in_root() {
            steps.push(((instance.rule.priority, true), RootItem::Rule(rule)));
            continue;
        }
        if !chains.contains_key(chain) {
            steps.push(((instance.filter.priority, false), RootItem::Chain(chain.clone())));
        }
        chains.entry(chain.clone()).or_default().push((instance.rule.priority, rule));
    }
    steps.sort_by_key(|(key, _)| *key);
    let in_order = |mut rules: Vec<(i32, ResolvedRule)>| {
        rules.sort_by_key(|(priority, _)| *priority);
        rules.into_iter().map(|(_, rule)| rule).collect::<Vec<_>>()
    };
    Resolved {
        filter: root.to_owned(),
        root: steps.into_iter().map(|(_, step)| step).collect(),
        chains: chains.into_iter().map(|(name, rules)| (name, in_order(rules))).collect(),
        ip: ip.into_iter().map(|(_, rule)| rule).collect(),
        reads: BTreeSet::new(),
        folded: BTreeSet::new(),
    }
}

impl Resolved {
    /// All of its rules.
    pub fn rules(&self) -> impl Iterator<Item = &ResolvedRule> {
        self.root_rules().chain(self.chains.values().flatten()).chain(&self.ip)
    }

    /// Those of the Ethernet layer's root chain.
    pub fn root_rules(&self) -> impl Iterator<Item = &ResolvedRule> {
        self.root.iter().filter_map(|step| match step {
            RootItem::Rule(rule) => Some(rule),
            RootItem::Chain(_) => None,
        })
    }
}

impl ResolvedRule {
    fn slots(&self) -> impl Iterator<Item = &Slot> {
        self.conditions.iter().filter_map(|condition| match condition {
            Condition::Member(_, Members::Slot(slot)) | Condition::NoMember(_, slot) => Some(slot),
            _ => None,
        })
    }

    /// The tests it makes, those that must not hold among them.
    pub fn tests(&self) -> impl Iterator<Item = &Predicate> {
        self.conditions.iter().flat_map(|condition| match condition {
            Condition::Is(test) => std::slice::from_ref(test),
            Condition::NoneOf(tests) => tests,
            Condition::Member(..) | Condition::NoMember(..) => &[],
        })
    }
}

impl Predicate {
    /// The fields it reads.
    pub fn fields(&self) -> Vec<Field> {
        match self {
            Predicate::Equals { field, .. } | Predicate::Between { field, .. } => vec![*field],
            Predicate::Gratuitous => vec![Field::ArpSaddrIp, Field::ArpDaddrIp],
            Predicate::TcpFlags { .. } => vec![Field::TcpFlags],
            Predicate::All(tests) => tests.iter().flat_map(Predicate::fields).collect(),
            _ => Vec::new(),
        }
    }
}

impl Condition {
    /// Whether it is about this field and no other.
    pub fn is_about(&self, field: Field) -> bool {
        let fields = self.fields();
        !fields.is_empty() && fields.iter().all(|read| *read == field)
    }

    /// The fields it reads.
    pub fn fields(&self) -> Vec<Field> {
        match self {
            Condition::Is(test) => test.fields(),
            Condition::NoneOf(tests) => tests.iter().flat_map(Predicate::fields).collect(),
            Condition::Member(parts, _) => parts.iter().map(|part| part.field).collect(),
            Condition::NoMember(part, _) => vec![part.field],
        }
    }
}
