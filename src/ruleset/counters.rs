//! What frames were counted: those that were dropped, by interface and rule of a filter, and all that passed by.
//!
//! Rules of our tables count what they drop in a set of their table, under the index of the interface and a number of
//! the rule ([`Tally`](crate::program::ir::Tally)); the rules in force tell which rule of a filter that is. Pure.

use crate::guest::link::Orientation;
use crate::program::ir::observed::{Observed, ObservedChain, ObservedTable};
use crate::program::ir::{Chain, Family, Name, Ruleset, Table};
use crate::ruleset::from_kernel::recall;
use crate::ruleset::layout::{self, DROPS, TRAFFIC_IN, TRAFFIC_OUT};
use crate::ruleset::plan::{Plan, Step, TableOperation};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Frames and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// Frames.
    pub frames: u64,
    /// Bytes.
    pub bytes: u64,
}

impl std::ops::AddAssign for Count {
    fn add_assign(&mut self, more: Count) {
        self.frames += more.frames;
        self.bytes += more.bytes;
    }
}

impl std::ops::Sub for Count {
    type Output = Count;

    /// What came since; nothing less than none.
    fn sub(self, then: Count) -> Count {
        Count {
            frames: self.frames.saturating_sub(then.frames),
            bytes: self.bytes.saturating_sub(then.bytes),
        }
    }
}

impl From<(u64, u64)> for Count {
    fn from((frames, bytes): (u64, u64)) -> Count {
        Count { frames, bytes }
    }
}

/// What one rule dropped of the frames of one interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropped {
    /// The filter, as the kernel's rule names it; none where the interface is closed, or the rule is no more.
    pub filter: Option<String>,
    /// Which of the filter's rules, from 1.
    pub rule: Option<u32>,
    /// The number that it is counted as: 0 where no rule of a filter dropped the frames.
    pub id: u32,
    /// The line of the filter's document, where that is known.
    #[serde(default)]
    pub place: Option<String>,
    /// How many.
    #[serde(flatten)]
    pub count: Count,
}

/// Frames that came to the hooks of an interface, the dropped ones included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Sent by the guest.
    pub from_guest: Count,
    /// On their way to it.
    pub to_guest: Count,
}

/// The same by their way through the interface, whatever sends them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ways {
    /// Came in by it.
    pub came: Count,
    /// Were on their way out by it.
    pub went: Count,
}

/// What was dropped of each bound interface's frames, by index, where nothing is known but what was observed.
pub fn dropped(observed: &Observed) -> BTreeMap<u32, Vec<Dropped>> {
    dropped_of(&recall(observed, &Ruleset::default()), observed, reported)
}

/// What was dropped of each bound interface's frames, by index, under the rules that are in force. No more needs to be
/// observed than the sets that count.
pub fn dropped_by(rules: &Ruleset, counted: &Observed) -> BTreeMap<u32, Vec<Dropped>> {
    dropped_of(rules, counted, known)
}

fn dropped_of(ruleset: &Ruleset, seen: &Observed, rules: CountingRules) -> BTreeMap<u32, Vec<Dropped>> {
    let mut all: BTreeMap<u32, Vec<Dropped>> = BTreeMap::new();
    each_table(ruleset, seen, |seen, table| {
        let wanted: BTreeSet<u32> = counts(seen, DROPS).filter_map(|(key, _)| Some(split(key)?.1)).collect();
        if wanted.is_empty() {
            return;
        }
        let mut rules = rules(seen, table);
        rules.retain(|rule| wanted.contains(&rule.id));
        let (names, programs) = (Names::of(&rules), layout::programs(table));
        for (key, count) in counts(seen, DROPS) {
            let Some((index, id)) = split(key).filter(|(index, _)| is_bound(table, *index)) else { continue };
            let program = programs.get(&index).and_then(|(program, _)| program.as_deref());
            let (filter, rule) = names.name(program, id).unzip();
            let list = all.entry(index).or_default();
            list.push(Dropped { filter, rule, id, place: None, count: Count::from(*count) });
        }
    });
    all.values_mut().for_each(sum_up);
    all
}

/// A routed interface has rules in two tables: each rule is reported once.
fn sum_up(list: &mut Vec<Dropped>) {
    list.sort_by(|a, b| (&a.filter, a.rule, a.id).cmp(&(&b.filter, b.rule, b.id)));
    list.dedup_by(|more, first| {
        let same = (more.id, &more.filter, more.rule) == (first.id, &first.filter, first.rule);
        if same {
            first.count += more.count;
        }
        same
    });
}

/// The frames of each bound interface, by index; empty where they are not counted.
pub fn traffic(rules: &Ruleset, counted: &Observed) -> BTreeMap<u32, Traffic> {
    let mut all = BTreeMap::new();
    each_table(rules, counted, |seen, table| {
        for (index, Ways { came, went }) in ways_of(seen) {
            let (from_guest, to_guest) = match layout::orientation_of(table, index) {
                Orientation::Straight => (came, went),
                Orientation::Reversed => (went, came),
            };
            all.insert(index, Traffic { from_guest, to_guest });
        }
    });
    all
}

/// The same by the way they go; no more needs to be observed than the sets that count.
pub fn ways(observed: &Observed) -> BTreeMap<u32, Ways> {
    observed.families.values().flat_map(ways_of).collect()
}

fn ways_of(table: &ObservedTable) -> BTreeMap<u32, Ways> {
    let mut all: BTreeMap<u32, Ways> = BTreeMap::new();
    for (set, comes_in) in [(TRAFFIC_IN, true), (TRAFFIC_OUT, false)] {
        for (key, count) in counts(table, set) {
            let Some(index) = layout::index_of(key) else { continue };
            let ways = all.entry(index).or_default();
            *if comes_in { &mut ways.came } else { &mut ways.went } = Count::from(*count);
        }
    }
    all
}

/// What forgets the counts of interfaces that are not bound any more and of rules that are no more, under the rules that
/// are in force. No more needs to be observed than the sets that count.
pub fn forget_stale(rules: &Ruleset, counted: &Observed) -> Plan {
    let mut plan = Plan::default();
    for (family, seen) in &counted.families {
        let (Some(table), Some(set)) = (rules.tables.get(family), seen.sets.get(DROPS)) else { continue };
        let rules = table.chains.values().flat_map(|chain| &chain.rules);
        let known: BTreeSet<u32> = rules.filter_map(|rule| Some(rule.tally?.id)).chain([0]).collect();
        let stale = |(index, id): (u32, u32)| !is_bound(table, index) || !known.contains(&id);
        let keys: Vec<_> = set.counts.keys().filter(|key| split(key).is_none_or(stale)).cloned().collect();
        if !keys.is_empty() {
            let change = TableOperation::DeleteElements(DROPS.into(), set.ty.clone(), keys);
            plan.switch.push(Step { family: *family, change });
        }
    }
    plan
}

fn each_table<'a>(
    ruleset: &'a Ruleset,
    observed: &'a Observed,
    mut look: impl FnMut(&'a ObservedTable, &'a Table),
) {
    for family in [Family::Bridge, Family::Netdev, Family::Inet] {
        if let (Some(seen), Some(table)) = (observed.families.get(&family), ruleset.tables.get(&family)) {
            look(seen, table);
        }
    }
}

fn counts<'a>(
    table: &'a ObservedTable,
    set: &str,
) -> impl Iterator<Item = (&'a crate::program::ir::Bytes, &'a (u64, u64))> {
    table.sets.get(set).into_iter().flat_map(|set| &set.counts)
}

/// Interface and number of a key.
fn split(key: &crate::program::ir::Bytes) -> Option<(u32, u32)> {
    let (index, id) = key.split_first_chunk()?;
    Some((u32::from_ne_bytes(*index), u32::from_ne_bytes(id.try_into().ok()?)))
}

fn is_bound(table: &Table, index: u32) -> bool {
    let bound = table.sets.get(layout::BOUND);
    bound.is_some_and(|bound| bound.elements.contains_key(&layout::index_key(index)))
}

/// A rule that counts what it drops: its chain, the number that it counts as, and which rule of which filter it is.
struct Counting<'a> {
    chain: &'a str,
    id: u32,
    filter: &'a str,
    rule: u32,
}

/// The rules of a table that count.
type CountingRules = for<'a> fn(&'a ObservedTable, &'a Table) -> Vec<Counting<'a>>;

/// Those that the kernel reports.
fn reported<'a>(seen: &'a ObservedTable, _: &'a Table) -> Vec<Counting<'a>> {
    let of_chain = |(name, chain): (&'a Name, &'a ObservedChain)| {
        let rules = chain.rules.iter().filter_map(move |rule| {
            let (filter, number) = rule.comment.as_deref()?.rsplit_once(':')?;
            Some(Counting { chain: name, id: rule.tally?, filter, rule: number.parse().ok()? })
        });
        rules.collect::<Vec<_>>()
    };
    seen.chains.iter().flat_map(of_chain).collect()
}

/// Those that are in force.
fn known<'a>(_: &'a ObservedTable, table: &'a Table) -> Vec<Counting<'a>> {
    let of_chain = |(name, chain): (&'a Name, &'a Arc<Chain>)| {
        let rules = chain.rules.iter().filter_map(move |rule| {
            let origin = rule.origin.as_ref()?;
            Some(Counting { chain: name, id: rule.tally?.id, filter: &origin.filter, rule: origin.rule })
        });
        rules.collect::<Vec<_>>()
    };
    table.chains.iter().flat_map(of_chain).collect()
}

/// The rules of filters by number: those of a program, and those of any.
#[derive(Default)]
struct Names<'a> {
    own: BTreeMap<(&'a str, u32), (&'a str, u32)>,
    any: BTreeMap<u32, (&'a str, u32)>,
}

impl<'a> Names<'a> {
    fn of(rules: &[Counting<'a>]) -> Names<'a> {
        let mut names = Names::default();
        for Counting { chain, id, filter, rule } in rules {
            if let Some(prefix) = layout::prefix_of(chain) {
                names.own.entry((prefix, *id)).or_insert((filter, *rule));
                names.any.entry(*id).or_insert((filter, *rule));
            }
        }
        names
    }

    /// Two rules of one number are distinguished by the program that the interface has.
    fn name(&self, program: Option<&str>, id: u32) -> Option<(String, u32)> {
        let own = program.and_then(|program| self.own.get(&(program, id)));
        let (filter, rule) = own.or_else(|| self.any.get(&id))?;
        Some(((*filter).to_owned(), *rule))
    }
}
