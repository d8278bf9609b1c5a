//! Rules that no frame matches: those that are not even compiled, and those of which an earlier rule of their chain has
//! taken whatever they ask for.
//!
//! Looks at the compiled chains, where directions, mirrored rules and states of connections are matches like any
//! other. What is found is so for every guest; a rule that several others hide together is not found.

use crate::document::filter::schema::Layer;
use crate::document::filter::{self, Entry, RuleDirection, Value};
use crate::document::vars::Access;
use crate::program::Program;
use crate::program::ir::{Action, Bytes, Key, Match, Origin, Rule, SetRef};
use crate::program::resolve::{self, FilterLookup, Resolved};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What takes every frame that a rule asks for.
#[derive(Clone, Debug)]
pub(super) struct Taker {
    rule: Option<Origin>,
    /// Whether it belongs to the Ethernet layer and the rule to the IP layer.
    pub(super) in_other_layer: bool,
}

impl Taker {
    pub(super) fn label(&self) -> String {
        match &self.rule {
            Some(rule) => taken_by(rule),
            None => "earlier rules take everything that it asks for".to_owned(),
        }
    }
}

/// What to say of a rule behind another.
pub(super) fn taken_by(by: &Origin) -> String {
    let (line, _) = by.place.source.line_column(by.place.span.start);
    format!("rule {} of filter '{}' (line {line}) takes all that it asks for", by.rule, by.filter)
}

/// Rules that are nowhere in the program, in the order of the filter, each with what takes its frames.
pub(super) fn unreached(
    library: FilterLookup<'_>,
    resolved: &Resolved,
    program: &Program,
) -> BTreeMap<Origin, Taker> {
    let reached: BTreeSet<&Origin> =
        program.chains.values().flatten().filter_map(|rule| rule.origin.as_ref()).collect();
    let behind = behind_all(resolved);
    let reads = |rule: &resolve::ResolvedRule| !variables(library, &rule.origin).is_empty();
    let plain = resolved.rules().all(|rule| variables(library, &rule.origin).iter().all(is_address));
    // What was made up for a variable can say what another rule says; for one that is no address, anything.
    let sure = |rule: &&resolve::ResolvedRule| {
        let same = |other: &resolve::ResolvedRule| {
            other.origin != rule.origin
                && (other.protocol, &other.conditions) == (rule.protocol, &rule.conditions)
        };
        behind.contains_key(&rule.origin)
            || plain && !reads(rule) && !resolved.rules().any(|other| same(other) && reads(other))
    };
    let absent = resolved.rules().filter(|rule| !reached.contains(&rule.origin));
    let taker = |rule: &resolve::ResolvedRule| match behind.get(&rule.origin) {
        Some(by) => Taker { rule: Some((*by).clone()), in_other_layer: false },
        None => match twin(resolved, rule) {
            Some(by) => Taker { rule: Some(by.clone()), in_other_layer: false },
            None if lets_through(resolved, &reached, rule) => Taker { rule: None, in_other_layer: false },
            None => in_ethernet_layer(resolved, rule),
        },
    };
    absent.filter(sure).map(|rule| (rule.origin.clone(), taker(rule))).collect()
}

/// An earlier rule of the IP layer that asks for the same, or takes whatever it is.
fn twin<'a>(resolved: &'a Resolved, rule: &resolve::ResolvedRule) -> Option<&'a Origin> {
    let earlier = resolved.ip.iter().take_while(|earlier| earlier.origin != rule.origin);
    let same = |earlier: &&resolve::ResolvedRule| {
        (earlier.protocol, &earlier.conditions) == (rule.protocol, &rule.conditions)
            && (earlier.direction == rule.direction || earlier.direction == RuleDirection::InOut)
    };
    let takes = |earlier: &&resolve::ResolvedRule| same(earlier) || takes_its_kind(earlier, rule);
    earlier.into_iter().find(takes).map(|earlier| &earlier.origin)
}

/// Whether a rule of the IP layer decides about all packets of another's kind, both ways, whatever their connection.
fn takes_its_kind(earlier: &resolve::ResolvedRule, rule: &resolve::ResolvedRule) -> bool {
    let kind = earlier.protocol.zip(rule.protocol).is_some_and(|(earlier, own)| {
        earlier.layer == own.layer && (earlier.ip_protocol.is_none() || earlier == own)
    });
    let state = |condition: &resolve::Condition| {
        matches!(condition, resolve::Condition::Is(resolve::Predicate::State(_))) && !earlier.statematch
    };
    let decides = match earlier.action {
        filter::RuleAction::Drop | filter::RuleAction::Reject => true,
        filter::RuleAction::Accept => !earlier.statematch,
        filter::RuleAction::Return | filter::RuleAction::Continue => false,
    };
    kind && decides && earlier.conditions.iter().all(state)
}

/// Whether frames reach the IP layer that this rule belongs to, the same way.
fn lets_through(resolved: &Resolved, reached: &BTreeSet<&Origin>, rule: &resolve::ResolvedRule) -> bool {
    let layer = |rule: &resolve::ResolvedRule| rule.protocol.map(|protocol| protocol.layer);
    resolved.ip.iter().any(|other| {
        layer(other) == layer(rule) && other.direction == rule.direction && reached.contains(&other.origin)
    })
}

/// The rule of the Ethernet layer that refuses whatever a rule of the IP layer asks for.
fn in_ethernet_layer(resolved: &Resolved, rule: &resolve::ResolvedRule) -> Taker {
    let layer = rule.protocol.map(|protocol| protocol.layer);
    let own = match layer {
        Some(Layer::Ipv4) => "ip",
        Some(Layer::Ipv6) => "ipv6",
        Some(Layer::Ethernet) | None => return Taker { rule: None, in_other_layer: false },
    };
    let takes = |earlier: &&resolve::ResolvedRule| {
        let refuses = matches!(earlier.action, filter::RuleAction::Drop | filter::RuleAction::Reject);
        let kind =
            earlier.protocol.is_none_or(|protocol| matches!(protocol.name, "mac") || protocol.name == own);
        let way = earlier.direction == RuleDirection::InOut || earlier.direction == rule.direction;
        refuses && kind && way && earlier.conditions.is_empty()
    };
    let by = resolved.root_rules().chain(resolved.chains.values().flatten()).find(takes);
    Taker { in_other_layer: by.is_some(), rule: by.map(|by| by.origin.clone()) }
}

/// Rules that stand nowhere but behind one that takes every frame, and that one.
fn behind_all(resolved: &Resolved) -> BTreeMap<&Origin, &Origin> {
    let root: Vec<&resolve::ResolvedRule> = resolved.root_rules().collect();
    let chains = resolved.chains.values().map(|rules| rules.iter().collect());
    let lists = chains.chain([root, resolved.ip.iter().collect::<Vec<_>>()]);
    let (mut behind, mut open) = (BTreeMap::new(), BTreeSet::new());
    for rules in lists {
        for (at, rule) in rules.iter().enumerate() {
            match rules[..at].iter().find(|earlier| takes_all(earlier, rule)) {
                Some(by) => _ = behind.insert(&rule.origin, &by.origin),
                None => _ = open.insert(&rule.origin),
            }
        }
    }
    behind.retain(|origin, _| !open.contains(origin));
    behind
}

fn takes_all(earlier: &resolve::ResolvedRule, rule: &resolve::ResolvedRule) -> bool {
    let kind = earlier.protocol.is_none() || earlier.protocol == rule.protocol;
    let way = earlier.direction == RuleDirection::InOut || earlier.direction == rule.direction;
    // What a rule of the IP layer accepts may depend on the connection.
    let ends = match rule.protocol.map(|protocol| protocol.layer) {
        None | Some(Layer::Ethernet) => earlier.action != filter::RuleAction::Continue,
        Some(_) => matches!(earlier.action, filter::RuleAction::Drop | filter::RuleAction::Reject),
    };
    kind && way && ends && earlier.conditions.is_empty()
}

/// The rules of which nothing is left, each with the rule that hides it.
pub(super) fn shadowed(library: FilterLookup<'_>, program: &Program) -> BTreeMap<Origin, Origin> {
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
    hidden.retain(|origin, by| !open.contains(origin) && is_so_for_all_guests(library, origin, by));
    hidden
}

/// Values of variables are made up here. Where both rules read the same ones, and those are the same for all rules of a
/// guest, what is made up is not the reason.
fn is_so_for_all_guests(library: FilterLookup<'_>, origin: &Origin, by: &Origin) -> bool {
    let (read, earlier) = (variables(library, origin), variables(library, by));
    read == earlier && read.iter().all(is_address)
}

/// Whether it is one of a guest's own addresses, which are those of no other rule's parameters.
fn is_address((_, access): &Read) -> bool {
    matches!(&*access.name, "MAC" | "IP" | "IPV6")
}

/// An attribute and the variable that is its value.
type Read = (&'static str, Access);

/// What a rule reads.
fn variables(library: FilterLookup<'_>, origin: &Origin) -> BTreeSet<Read> {
    let rule = document(library, origin);
    let read = rule.iter().flat_map(|rule| &rule.matches).filter_map(|entry| match &entry.value {
        Value::Variable(access) => Some((entry.attribute.name, access.clone())),
        _ => None,
    });
    read.collect()
}

fn document(library: FilterLookup<'_>, origin: &Origin) -> Option<Arc<filter::FilterRule>> {
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
enum KeyValues<'a> {
    These(&'a Key, Vec<&'a Bytes>),
    Between(&'a Key, &'a Bytes, &'a Bytes),
}

fn values(said: &Match) -> Option<KeyValues<'_>> {
    match said {
        Match::Compare { key, negated: false, value } => Some(KeyValues::These(key, vec![value])),
        Match::Range { key, negated: false, from, to } => Some(KeyValues::Between(key, from, to)),
        Match::Lookup { keys, negated: false, set: SetRef::Anonymous(_, elements) } => match &keys[..] {
            [key] => Some(KeyValues::These(key, elements.iter().collect())),
            _ => None,
        },
        _ => None,
    }
}

impl KeyValues<'_> {
    /// Whether all values are such, seen through the mask of another key of the same place.
    fn all_masked(&self, asked: &Key, such: impl Fn(&[u8]) -> bool) -> bool {
        let KeyValues::These(key, values) = self else { return false };
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
        matches!(self, KeyValues::Between(key, low, high) if *key == asked && from <= *low && *high <= to)
    }
}
