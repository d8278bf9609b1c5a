//! What was seen in a kernel, taken for a rule set: the old one of a plan, after a start or by a command.
//!
//! A chain whose rules have the digests of a chain that is known is that chain. Any other stays opaque: of its rules
//! only where they go is known, so that it differs from all that is made anew and is never mistaken for it.

use crate::ir::digest::rule as digest;
use crate::ir::observed::{Observed, ObservedChain, ObservedTable};
use crate::ir::{Action, Chain, Name, Rule, Ruleset, Set, Table};
use crate::layout;
use std::sync::Arc;

/// The rule set that was observed, in terms of the one that is known.
pub fn recall(observed: &Observed, known: &Ruleset) -> Ruleset {
    let none = Table::default();
    let tables = observed.families.iter().map(|(family, table)| {
        let known = known.tables.get(family).unwrap_or(&none);
        (*family, recall_table(table, known))
    });
    Ruleset { tables: tables.collect() }
}

fn recall_table(observed: &ObservedTable, known: &Table) -> Table {
    let chain = |(name, chain): (&Name, &ObservedChain)| {
        let same = known.chains.get(name).filter(|known| is_same(chain, known));
        (name.clone(), same.cloned().unwrap_or_else(|| Arc::new(opaque(chain))))
    };
    let sets = observed.sets.iter().map(|(name, set)| {
        let elements = set.elements.iter().map(|(key, datum)| (key.clone(), datum.clone())).collect();
        let crate::ir::SetType { key, data, dynamic, counted } = set.ty.clone();
        let role = layout::role_of(name, dynamic);
        (name.clone(), Set { key, data, role, dynamic, counted, elements })
    });
    Table { chains: observed.chains.iter().map(chain).collect(), sets: sets.collect() }
}

fn is_same(observed: &ObservedChain, known: &Chain) -> bool {
    observed.hook == known.hook
        && observed.rules.iter().map(|rule| rule.digest).eq(known.rules.iter().map(|rule| Some(digest(rule))))
}

fn opaque(observed: &ObservedChain) -> Chain {
    let targets = observed.rules.iter().filter_map(|rule| rule.goto.clone());
    let rules = targets.map(|target| Rule::new(Vec::new(), Action::Goto(target))).collect();
    Chain { hook: observed.hook.clone(), rules }
}
