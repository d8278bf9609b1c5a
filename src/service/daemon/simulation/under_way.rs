//! What packets under way lose by a batch.

use super::kernel::Tables;
use super::machine::Machine;
use crate::program::ir::{
    Action, Bytes, ElementValue, Family, KeyType, Match, Name, Rule, Ruleset, Set, SetRef, Table, Verdict,
};
use crate::ruleset::layout;
use std::collections::BTreeSet;

/// Tables that packets may still see.
#[derive(Clone, Debug)]
pub(super) struct Moment {
    pub(super) tables: Ruleset,
    /// Interfaces that are gone or were unbound since, and their packets with them. Others may have their indexes.
    pub(super) gone: BTreeSet<u32>,
}

impl Moment {
    pub(super) fn of(machine: &Machine) -> Moment {
        let tables = machine.tables.now.clone();
        let gone = bound(&tables).filter(|index| !machine.links.contains_key(index)).collect();
        Moment { tables, gone }
    }
}

/// The interfaces that are bound in some table.
pub(super) fn bound(tables: &Ruleset) -> impl Iterator<Item = u32> {
    let sets = tables.tables.values().filter_map(|table| table.sets.get(layout::BOUND));
    sets.flat_map(|set| set.elements.keys()).filter_map(|key| layout::index_of(key))
}

pub(super) fn targets(rule: &Rule) -> Vec<Name> {
    match &rule.action {
        Action::Jump(target) | Action::Goto(target) => vec![target.clone()],
        Action::AnonymousVmap(_, verdicts) => verdicts.values().filter_map(target_of).collect(),
        _ => Vec::new(),
    }
}

fn target_of(verdict: &Verdict) -> Option<Name> {
    match verdict {
        Verdict::Jump(target) | Verdict::Goto(target) => Some(target.clone()),
        _ => None,
    }
}

pub(super) fn sets_of(rule: &Rule) -> impl Iterator<Item = &Name> {
    let named = rule.matches.iter().filter_map(|part| match part {
        Match::Lookup { set: SetRef::Named(name), .. } => Some(name),
        _ => None,
    });
    let dispatch = match &rule.action {
        Action::Vmap(_, name) | Action::SetZone(_, name) | Action::Count(_, name) => Some(name),
        _ => None,
    };
    named.chain(dispatch)
}

/// The chains that packets of an interface can be in, and the sets that are read there.
fn reached(table: &Table, interface: &[u8]) -> (BTreeSet<Name>, BTreeSet<Name>) {
    let bases = table.chains.iter().filter(|(_, chain)| chain.hook.is_some()).map(|(name, _)| name.clone());
    let (mut open, mut chains, mut sets): (Vec<Name>, _, _) =
        (bases.collect(), BTreeSet::new(), BTreeSet::new());
    while let Some(name) = open.pop() {
        let Some(chain) = table.chains.get(&name) else { continue };
        if !chains.insert(name) {
            continue;
        }
        for rule in &chain.rules {
            sets.extend(sets_of(rule).cloned());
            let holds: Vec<Option<bool>> =
                rule.matches.iter().map(|part| known(table, part, interface)).collect();
            if holds.contains(&Some(false)) {
                continue;
            }
            open.extend(targets(rule));
            if let Action::Vmap(_, map) = &rule.action {
                let elements = table.sets.get(map).map(|set| &set.elements);
                open.extend(elements.and_then(|elements| match elements.get(interface)? {
                    ElementValue::Jump(target) => Some(target.clone()),
                    _ => None,
                }));
            }
            if ends(table, &rule.action) && holds.iter().all(|holds| *holds == Some(true)) {
                break;
            }
        }
    }
    (chains, sets)
}

/// Whether no packet comes back from an action.
fn ends(table: &Table, action: &Action) -> bool {
    match action {
        Action::Accept | Action::Drop | Action::Goto(_) => true,
        Action::Jump(target) => {
            let last = table.chains.get(target).and_then(|chain| chain.rules.last());
            last.is_some_and(|rule| rule.matches.is_empty() && goes(table, &rule.action))
        }
        _ => false,
    }
}

/// Whether an action that ends a chain that was jumped to gives a verdict.
fn goes(table: &Table, action: &Action) -> bool {
    match action {
        Action::Goto(target) => ends(table, &Action::Jump(target.clone())),
        action => ends(table, action),
    }
}

/// Whether a condition holds of every packet of an interface, of none, or of some.
fn known(table: &Table, part: &Match, interface: &[u8]) -> Option<bool> {
    let Match::Lookup { negated, set: SetRef::Named(name), .. } = part else { return None };
    let set = table.sets.get(name).filter(|set| is_of_interfaces(set))?;
    Some(set.elements.contains_key(interface) != *negated)
}

fn is_of_interfaces(set: &Set) -> bool {
    set.key == [KeyType::IfIndex]
}

/// What a batch takes away from packets under way.
pub(super) fn lost_under_way(
    last: &Ruleset,
    after: &Tables,
    replaced: impl Fn(Family) -> bool,
) -> Option<String> {
    for Moment { tables, gone } in &after.under_way {
        for (family, table) in tables.tables.iter().filter(|(family, _)| !replaced(**family)) {
            // A table that is deleted goes with its hooks, at once.
            let Some(now) = after.now.tables.get(family) else { continue };
            let bound = now.sets.get(layout::BOUND).into_iter().flat_map(|bound| bound.elements.keys());
            let is_there = |key: &&Bytes| layout::index_of(key).is_none_or(|index| !gone.contains(&index));
            let reached: Vec<_> = bound.filter(is_there).map(|interface| reached(table, interface)).collect();
            let last = last.tables.get(family).unwrap_or(table);
            let has_rules = |table: &Table, name: &Name| {
                table.chains.get(name).is_some_and(|chain| !chain.rules.is_empty())
            };
            let is_base = |name: &Name| table.chains.get(name).is_some_and(|chain| chain.hook.is_some());
            let chains = || reached.iter().flat_map(|(chains, _)| chains);
            let mut sets = reached.iter().flat_map(|(_, sets)| sets);
            if let Some(chain) =
                chains().find(|name| has_rules(last, name) && !has_rules(now, name) && !is_base(name))
            {
                return Some(format!("chain {chain} of {family:?}"));
            }
            if let Some(set) =
                sets.find(|name| last.sets.contains_key(*name) && !now.sets.contains_key(*name))
            {
                return Some(format!("set {set} of {family:?}"));
            }
        }
    }
    None
}
