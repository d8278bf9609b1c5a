//! Rules that a frame can reach and never match: whatever they ask for, an earlier rule of their chain has taken.
//!
//! Looks at the compiled chains, where directions, mirrored rules and states of connections are matches like any
//! other. What is found is certain; a rule that several others hide together is not found.

use crate::filter::{Entry, Rule as Document, Value};
use crate::ir::{Action, Bytes, Key, Match, Origin, Rule, SetRef};
use crate::program::Program;
use crate::resolve::Library;
use crate::vars::{Access, Index};
use std::collections::{BTreeMap, BTreeSet};

/// The rules of which nothing is left, each with the rule that hides it.
pub(super) fn shadowed(library: Library<'_>, program: &Program) -> BTreeMap<Origin, Origin> {
    let mut hidden: BTreeMap<Origin, Origin> = BTreeMap::new();
    let mut open: BTreeSet<&Origin> = BTreeSet::new();
    for rules in program.chains.values() {
        let rules: Vec<(&Rule, &Origin)> =
            rules.iter().filter_map(|rule| Some((rule, rule.origin.as_ref()?))).collect();
        for (at, (rule, origin)) in rules.iter().enumerate() {
            let earlier = rules[..at].iter().find(|(earlier, by)| by != origin && hides(earlier, rule));
            match earlier {
                Some((_, by)) => _ = hidden.insert((*origin).clone(), (*by).clone()),
                None => _ = open.insert(origin),
            }
        }
    }
    let known = |origin: &Origin| reads_only_what_is_known(library, origin);
    hidden.retain(|origin, by| !open.contains(origin) && known(origin) && known(by));
    hidden
}

/// Other variables have samples for values here, and two of them may have the same.
pub(super) fn reads_only_what_is_known(library: Library<'_>, origin: &Origin) -> bool {
    let known = |access: &Access| {
        matches!(access.name.as_str(), "MAC" | "IP" | "IPV6") && access.index == Index::Iterator(0)
    };
    document(library, origin).is_some_and(|rule| {
        rule.matches.iter().all(|entry| match &entry.value {
            Value::Variable(access) => known(access),
            _ => true,
        })
    })
}

fn document(library: Library<'_>, origin: &Origin) -> Option<std::sync::Arc<Document>> {
    let filter = library(&origin.filter)?;
    let mut rules = filter.entries.iter().filter_map(|entry| match entry {
        Entry::Rule(rule) => Some(rule),
        Entry::Include(_) => None,
    });
    rules.nth(origin.rule as usize - 1).cloned()
}

/// Whether no frame gets past the earlier rule that the later one could match.
fn hides(earlier: &Rule, later: &Rule) -> bool {
    let ends = matches!(
        earlier.action,
        Action::Accept | Action::Drop | Action::Reject(_) | Action::Return | Action::Goto(_)
    );
    // Connections are counted by each rule for itself.
    let counts = earlier.matches.iter().any(|part| matches!(part, Match::ConnLimit { .. }));
    ends && !counts
        && earlier.matches.iter().all(|asked| later.matches.iter().any(|said| follows(said, asked)))
}

/// Whether every frame of which the first holds is one of which the second does.
fn follows(said: &Match, asked: &Match) -> bool {
    if said == asked {
        return true;
    }
    let Some(values) = values(said) else { return false };
    match asked {
        Match::Compare { key, negated, value } => {
            values.all_masked(key, |seen| (*seen == **value) != *negated)
        }
        Match::Range { key, negated, from, to } => {
            let inside = |seen: &[u8]| **from <= *seen && *seen <= **to;
            values.all_masked(key, |seen| inside(seen) != *negated)
                || !negated && values.within(key, from, to)
        }
        Match::Lookup { keys, negated, set: SetRef::Anonymous(_, elements) } => match &keys[..] {
            [key] => values.all_masked(key, |seen| elements.contains(seen) != *negated),
            _ => false,
        },
        _ => false,
    }
}

/// What a match lets a single key be.
enum Values<'a> {
    These(&'a Key, Vec<&'a Bytes>),
    Between(&'a Key, &'a Bytes, &'a Bytes),
}

fn values(said: &Match) -> Option<Values<'_>> {
    match said {
        Match::Compare { key, negated: false, value } => Some(Values::These(key, vec![value])),
        Match::Range { key, negated: false, from, to } => Some(Values::Between(key, from, to)),
        Match::Lookup { keys, negated: false, set: SetRef::Anonymous(_, elements) } => match &keys[..] {
            [key] => Some(Values::These(key, elements.iter().collect())),
            _ => None,
        },
        _ => None,
    }
}

impl Values<'_> {
    /// Whether all values are such, seen through the mask of another key of the same place.
    fn all_masked(&self, asked: &Key, such: impl Fn(&[u8]) -> bool) -> bool {
        let Values::These(key, values) = self else { return false };
        if key.from != asked.from {
            return false;
        }
        let mask = match (&key.mask, &asked.mask) {
            (own, asked) if own == asked => None,
            (None, Some(mask)) => Some(mask),
            (Some(own), Some(mask)) if own.iter().zip(mask.iter()).all(|(own, mask)| own & mask == *mask) => {
                Some(mask)
            }
            _ => return false,
        };
        values.iter().all(|value| match mask {
            Some(mask) => {
                such(&value.iter().zip(mask.iter()).map(|(byte, mask)| byte & mask).collect::<Vec<_>>())
            }
            None => such(value),
        })
    }

    fn within(&self, asked: &Key, from: &Bytes, to: &Bytes) -> bool {
        matches!(self, Values::Between(key, low, high) if *key == asked && from <= *low && *high <= to)
    }
}
