//! What was seen in a kernel, taken for a rule set: the old one of a plan, after a start or by a command.
//!
//! A rule that does what a known one does, all of it, is that rule; so is one that only goes to a chain. What else a rule
//! does is unknown, so that its chain differs from all that we make and is never mistaken for ours. Where what we did not
//! make cannot be turned into ours step by step, the table is unfit, and a plan replaces it whole.

use crate::program::ir::digest::rule as digest;
use crate::program::ir::observed::{Observed, ObservedChain, ObservedRule, ObservedTable};
use crate::program::ir::{Action, Chain, Family, Name, Rule, Ruleset, Set, Table};
use crate::ruleset::layout;
use crate::ruleset::nft::form;
use std::sync::Arc;

/// The rule set that was observed, in terms of the one that is known.
pub fn recall(observed: &Observed, known: &Ruleset) -> Ruleset {
    let none = Table::default();
    let tables = observed.families.iter().map(|(family, table)| {
        let known = known.tables.get(family).unwrap_or(&none);
        (*family, recall_table(*family, table, known))
    });
    Ruleset { tables: tables.collect() }
}

fn recall_table(family: Family, observed: &ObservedTable, known: &Table) -> Table {
    let chain = |(name, chain): (&Name, &ObservedChain)| {
        let same = known.chains.get(name).filter(|known| is_same(family, chain, known));
        (name.clone(), same.cloned().unwrap_or_else(|| Arc::new(opaque(family, chain))))
    };
    let sets = observed.sets.iter().map(|(name, set)| {
        let elements = set.elements.iter().map(|(key, datum)| (key.clone(), datum.clone())).collect();
        let crate::program::ir::SetType { key, data, dynamic, counted } = set.ty.clone();
        let role = layout::role_of(name, &set.ty);
        (name.clone(), Set { key, data, role, dynamic, counted, elements })
    });
    let unfit = observed.strange
        || observed.sets.values().any(|set| set.strange)
        || observed.chains.values().any(|chain| chain.strange);
    Table { chains: observed.chains.iter().map(chain).collect(), sets: sets.collect(), unfit }
}

fn is_same(family: Family, observed: &ObservedChain, known: &Chain) -> bool {
    // The digest is compared first since that costs less.
    let same =
        |(seen, rule): (&ObservedRule, &Rule)| seen.digest == Some(digest(rule)) && does(family, seen, rule);
    observed.hook == known.hook
        && observed.rules.len() == known.rules.len()
        && observed.rules.iter().zip(&known.rules).all(same)
}

/// Whether a rule does what this one does.
fn does(family: Family, seen: &ObservedRule, rule: &Rule) -> bool {
    form::of(family, rule).is_some_and(|form| form == seen.form)
}

/// Of a rule that is not known only where it goes.
fn opaque(family: Family, observed: &ObservedChain) -> Chain {
    let mut rules = Vec::new();
    for seen in &observed.rules {
        let goto = seen.goto.clone().map(|target| Rule::new(Vec::new(), Action::Goto(target)));
        if !goto.as_ref().is_some_and(|goto| does(family, seen, goto)) {
            rules.push(Rule::new(Vec::new(), Action::Unknown));
        }
        rules.extend(goto);
    }
    Chain { hook: observed.hook.clone(), rules }
}
