//! One rule of a filter with its variables read: as many rules as the lists of its variables ask for.
//!
//! Where a list can be looked up as a set it is one condition; a negated list is one condition that holds when no value
//! matches. Only what is left multiplies the rule, in libvirt's order, each combination once.

use super::groups::{Statement, access, groups, prefix};
use super::members::{slot_values, unequal, unreadable};
use super::walk::Instance;
use super::{Condition, MemberField, Members, ResolvedRule, faults};
use crate::document::diag::{Code, Diagnostic};
use crate::document::filter::schema::AttributeRole;
use crate::document::filter::value::literal;
use crate::document::filter::{AttributeTest, Value};
use crate::document::vars::{Index, Lookup, Vars};
use crate::program::{Slot, SlotPart};
use std::collections::{BTreeMap, BTreeSet};

/// Bytes that a set's key may have.
const KEY: usize = 64;

/// Bytes that we let a set's name have.
const NAME: usize = 200;

/// Which step each iterator is at.
type Steps = BTreeMap<u16, usize>;

/// What the rules of a tree may still come to.
pub(super) struct Budget {
    pub(super) rules: usize,
    /// Values of lists that are looked up as a set or a chain of comparisons.
    pub(super) values: usize,
}

/// The rules that a rule comes to, at most as many as there may be; variables of the `binding` may become slots.
pub(super) fn expand(
    instance: &Instance,
    binding: Option<&Vars>,
    budget: &mut Budget,
) -> Result<Vec<ResolvedRule>, Vec<Diagnostic>> {
    let groups = groups(instance)?;
    let one = |fault: Diagnostic| vec![at_rule(instance, fault)];
    check_lengths(instance).map_err(one)?;
    let folded = folded(&groups);
    let combinations = combinations(instance, &folded, budget.rules).map_err(one)?;
    take(&mut budget.rules, combinations.len()).map_err(one)?;
    let mut rules = Vec::new();
    for steps in &combinations {
        take(&mut budget.values, looked_up(instance, &groups)).map_err(one)?;
        let conditions = conditions(instance, &groups, steps, binding).map_err(one)?;
        rules.push(rule(instance, conditions));
    }
    let faults: BTreeSet<Diagnostic> = rules.iter().flat_map(|rule| faults::of(instance, rule)).collect();
    if faults.is_empty() { Ok(rules) } else { Err(faults.into_iter().collect()) }
}

fn take(left: &mut usize, count: usize) -> Result<(), Diagnostic> {
    *left = left.checked_sub(count).ok_or_else(too_many)?;
    Ok(())
}

/// How many values one rule looks up, or compares with.
fn looked_up(instance: &Instance, groups: &[Statement<'_>]) -> usize {
    let length = |iterator| lists(instance, iterator).first().map_or(0, |list| list.len());
    let values = |group: &Statement<'_>| {
        let iterators = iterators(&group.entries().collect::<Vec<_>>());
        iterators.into_iter().map(length).fold(1, usize::saturating_mul)
    };
    groups
        .iter()
        .filter(|group| group.negated || is_listable(group))
        .map(values)
        .fold(0, usize::saturating_add)
}

fn at_rule(instance: &Instance, fault: Diagnostic) -> Diagnostic {
    if fault.place.is_some() {
        return fault;
    }
    let label = format!("in this rule of filter '{}'", instance.filter.name);
    fault.at(instance.place(instance.rule.span), label)
}

fn rule(instance: &Instance, conditions: Vec<Condition>) -> ResolvedRule {
    let rule = &instance.rule;
    ResolvedRule {
        action: rule.action,
        direction: rule.direction,
        statematch: rule.statematch,
        protocol: rule.protocol,
        conditions,
        origin: instance.origin(),
    }
}

/// The lists that an iterator of the rule walks, in the order of the attributes.
fn lists(instance: &Instance, iterator: u16) -> Vec<&[String]> {
    let accesses = instance.rule.matches.iter().filter_map(access);
    let mine = accesses.filter(|access| access.index == Index::Iterator(iterator));
    mine.map(|access| instance.vars.values(&access.name).unwrap_or_default()).collect()
}

fn check_lengths(instance: &Instance) -> Result<(), Diagnostic> {
    let equal = |iterator| {
        let lists = lists(instance, iterator);
        lists.iter().all(|list| list.len() == lists[0].len())
    };
    iterators(&instance.rule.matches.iter().collect::<Vec<_>>())
        .into_iter()
        .all(equal)
        .then_some(())
        .ok_or_else(unequal)
}

/// The iterators of some attributes, in the order in which they spin, the fastest first.
fn iterators(entries: &[&AttributeTest]) -> Vec<u16> {
    let mut found: Vec<u16> = Vec::new();
    for entry in entries {
        if let Some(Index::Iterator(iterator)) = access(entry).map(|access| access.index)
            && !found.contains(&iterator)
        {
            found.push(iterator);
        }
    }
    found.sort_by_key(|iterator| *iterator != 0);
    found
}

/// The iterators that multiply the rule, because a positive statement reads them in a way no set can.
fn folded(groups: &[Statement<'_>]) -> Vec<u16> {
    let others = groups.iter().filter(|group| !group.negated && (!is_set(group) || is_wide(group, groups)));
    iterators(&others.flat_map(Statement::entries).collect::<Vec<_>>())
}

/// Whether the fields that share a group's iterator do not fit into one key, with the interface's index.
fn is_wide(group: &Statement<'_>, groups: &[Statement<'_>]) -> bool {
    let iterator = |group: &Statement<'_>| iterators(&[group.parts[0].base]);
    let together = groups.iter().filter(|other| is_set(other) && iterator(other) == iterator(group));
    let kinds = together.filter_map(|group| group.parts[0].element());
    kinds.map(|(_, kind)| kind.length().next_multiple_of(4)).sum::<usize>() > KEY - 4
}

/// Whether a group says that a field, perhaps under a constant mask, is one of a variable's values.
fn is_set(group: &Statement<'_>) -> bool {
    !group.negated && is_listable(group)
}

/// Whether a group compares a field, perhaps under a constant mask, with the values of a list.
fn is_listable(group: &Statement<'_>) -> bool {
    let [part] = &*group.parts else { return false };
    let walks = matches!(access(part.base), Some(access) if matches!(access.index, Index::Iterator(_)));
    let constant_mask = part.companion.is_none_or(|entry| {
        matches!(entry.attribute.role, AttributeRole::MaskOf(_)) && access(entry).is_none()
    });
    walks && constant_mask && part.element().is_some()
}

/// Every combination of the steps of some iterators, the first spinning fastest; steps at which all lists of
/// an iterator hold the values of an earlier step are left out.
fn combinations(instance: &Instance, iterators: &[u16], limit: usize) -> Result<Vec<Steps>, Diagnostic> {
    let mut all = vec![Steps::new()];
    for iterator in iterators.iter().rev() {
        let steps = distinct(&lists(instance, *iterator));
        if all.len().saturating_mul(steps.len()) > limit {
            return Err(too_many());
        }
        let with =
            |known: &Steps, step| known.iter().map(|(i, s)| (*i, *s)).chain([(*iterator, step)]).collect();
        all = all.iter().flat_map(|known| steps.iter().map(move |step| with(known, *step))).collect();
    }
    Ok(all)
}

fn too_many() -> Diagnostic {
    Diagnostic::error(Code::INTERNAL, "the values of the variables ask for too many rules")
}

fn distinct(lists: &[&[String]]) -> Vec<usize> {
    let length = lists.first().map_or(0, |list| list.len());
    let mut seen = BTreeSet::new();
    (0..length)
        .filter(|step| seen.insert(lists.iter().map(|list| &list[*step]).collect::<Vec<_>>()))
        .collect()
}

fn conditions(
    instance: &Instance,
    groups: &[Statement<'_>],
    steps: &Steps,
    binding: Option<&Vars>,
) -> Result<Vec<Condition>, Diagnostic> {
    let mut conditions = Vec::new();
    let mut looked_up = BTreeSet::new();
    for group in groups {
        let set = is_set(group).then(|| iterators(&[group.parts[0].base])[0]);
        match set.filter(|iterator| !steps.contains_key(iterator)) {
            Some(iterator) if looked_up.insert(iterator) => {
                conditions.push(member(instance, groups, iterator, binding)?);
            }
            Some(_) => {}
            None if group.negated => conditions.extend(none_of(instance, group, binding)?),
            None => {
                let values = |entry: &AttributeTest| value(instance, entry, steps);
                conditions.extend(group.test(instance, &values)?.map(Condition::Is));
            }
        }
    }
    Ok(conditions)
}

/// All fields that an iterator gives values to, as one lookup.
fn member(
    instance: &Instance,
    groups: &[Statement<'_>],
    iterator: u16,
    binding: Option<&Vars>,
) -> Result<Condition, Diagnostic> {
    let mine = groups.iter().filter(|group| is_set(group) && iterators(&[group.parts[0].base]) == [iterator]);
    let (parts, slot_parts) = mine.filter_map(element).unzip();
    let slot = Slot { parts: slot_parts };
    // A member's own values are read here too, so that a bad one is found with the rule that wants it.
    let values = slot_values(&slot, &*instance.vars)?;
    let members = if is_own(&slot, binding) { Members::Slot(slot) } else { Members::Values(values) };
    Ok(Condition::Member(parts, members))
}

/// Whether all variables of a slot are the binding's, so that each member has its own values. (A set whose
/// name would be too long for the kernel is none.)
fn is_own(slot: &Slot, binding: Option<&Vars>) -> bool {
    let owns = |binding: &Vars| slot.parts.iter().all(|part| binding.values(&part.variable).is_some());
    binding.is_some_and(owns) && slot.set_name().len() <= NAME
}

/// The field that a group gives a variable's values to.
fn element(group: &Statement<'_>) -> Option<(MemberField, SlotPart)> {
    let joined = &group.parts[0];
    let (field, kind) = joined.element()?;
    let bits = joined.companion.map(|entry| prefix(&entry.value));
    let part =
        MemberField { field, kind, prefix: bits.filter(|bits| usize::from(*bits) < 8 * kind.length()) };
    let variable = access(joined.base)?.name.clone();
    let slot_part = SlotPart { variable, kind, prefix: part.prefix };
    Some((part, slot_part))
}

/// A negated statement holds when it holds for no value of its variables.
fn none_of(
    instance: &Instance,
    group: &Statement<'_>,
    binding: Option<&Vars>,
) -> Result<Option<Condition>, Diagnostic> {
    if let Some((part, slot_part)) = Some(group).filter(|group| is_listable(group)).and_then(element) {
        let slot = Slot { parts: vec![slot_part] };
        slot_values(&slot, &*instance.vars)?;
        if is_own(&slot, binding) {
            return Ok(Some(Condition::NoMember(part, slot)));
        }
    }
    let iterators = iterators(&group.entries().collect::<Vec<_>>());
    let mut tests = BTreeSet::new();
    for steps in combinations(instance, &iterators, super::walk::RULES)? {
        tests.extend(group.test(instance, &|entry| value(instance, entry, &steps))?);
    }
    let tests: Vec<_> = tests.into_iter().collect();
    Ok((!tests.is_empty()).then_some(Condition::NoneOf(tests)))
}

fn value(instance: &Instance, entry: &AttributeTest, steps: &Steps) -> Result<Value, Diagnostic> {
    let Some(access) = access(entry) else { return Ok(entry.value.clone()) };
    let step = match access.index {
        Index::Element(index) => index as usize,
        Index::Iterator(iterator) => steps[&iterator],
    };
    let list = instance.vars.values(&access.name).unwrap_or_default();
    let text = list.get(step).expect("missing variables were reported before");
    let kind = entry.attribute.kind;
    literal(kind, text).ok_or_else(|| {
        let label = format!("wants another value, in filter '{}'", instance.filter.name);
        unreadable(&access.name, text, kind).at(instance.place(entry.span), label)
    })
}
