//! What frames were counted: those that were dropped, by interface and rule of a filter, and all that passed by.
//!
//! Rules of our tables count what they drop in a set of their table, under the index of the interface and a number of
//! the rule ([`Tally`](crate::ir::Tally)); the rules in force tell which rule of a filter that is. Pure.

use crate::ir::observed::{Observed, ObservedTable};
use crate::ir::{Family, Name, Ruleset, Table};
use crate::layout::{self, DROPS, TRAFFIC_IN, TRAFFIC_OUT};
use crate::plan::{Change, Plan, Step};
use crate::recall::recall;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

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

/// The same by the way they go through the interface, whoever sends them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ways {
    /// Came in by it.
    pub came: Count,
    /// Were on their way out by it.
    pub went: Count,
}

/// What was dropped of each bound interface's frames, by index.
pub fn dropped(observed: &Observed) -> BTreeMap<u32, Vec<Dropped>> {
    let mut all: BTreeMap<u32, Vec<Dropped>> = BTreeMap::new();
    each_table(observed, |seen, table| {
        let names = Names::of(seen);
        for (key, (frames, bytes)) in counts(seen, DROPS) {
            let Some((index, id)) = split(key).filter(|(index, _)| is_bound(table, *index)) else { continue };
            let (filter, rule) = names.name(layout::program(table, index).as_deref(), id).unzip();
            let count = Count { frames: *frames, bytes: *bytes };
            let list = all.entry(index).or_default();
            // A routed interface has rules in two tables.
            match list.iter_mut().find(|known| (known.id, &known.filter, known.rule) == (id, &filter, rule)) {
                Some(known) => known.count += count,
                None => list.push(Dropped { filter, rule, id, place: None, count }),
            }
        }
    });
    for list in all.values_mut() {
        list.sort_by(|a, b| (&a.filter, a.rule, a.id).cmp(&(&b.filter, b.rule, b.id)));
    }
    all
}

/// The frames of each bound interface, by index; empty where they are not counted.
pub fn traffic(observed: &Observed) -> BTreeMap<u32, Traffic> {
    let mut all = BTreeMap::new();
    each_table(observed, |seen, table| {
        for (index, Ways { came, went }) in ways_of(seen) {
            let (from_guest, to_guest) =
                if layout::is_turned(table, index) { (went, came) } else { (came, went) };
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

/// What forgets the counts of interfaces that are not bound any more and of rules that are no more.
pub fn forget_stale(observed: &Observed) -> Plan {
    let mut plan = Plan::default();
    let ruleset = recall(observed, &Ruleset::default());
    for (family, seen) in &observed.families {
        let (Some(table), Some(set)) = (ruleset.tables.get(family), seen.sets.get(DROPS)) else { continue };
        let known: BTreeSet<u32> = rules(seen).map(|(_, id, _)| id).chain([0]).collect();
        let stale = |(index, id): (u32, u32)| !is_bound(table, index) || !known.contains(&id);
        let keys: Vec<_> = set.counts.keys().filter(|key| split(key).is_none_or(stale)).cloned().collect();
        if !keys.is_empty() {
            let change = Change::DeleteElements(DROPS.into(), set.ty.clone(), keys);
            plan.switch.push(Step { family: *family, change });
        }
    }
    plan
}

fn each_table(observed: &Observed, mut look: impl FnMut(&ObservedTable, &Table)) {
    let ruleset = recall(observed, &Ruleset::default());
    for family in [Family::Bridge, Family::Netdev, Family::Inet] {
        if let (Some(seen), Some(table)) = (observed.families.get(&family), ruleset.tables.get(&family)) {
            look(seen, table);
        }
    }
}

fn counts<'a>(
    table: &'a ObservedTable,
    set: &str,
) -> impl Iterator<Item = (&'a crate::ir::Bytes, &'a (u64, u64))> {
    table.sets.get(set).into_iter().flat_map(|set| &set.counts)
}

/// Interface and number of a key.
fn split(key: &crate::ir::Bytes) -> Option<(u32, u32)> {
    let (index, id) = key.split_first_chunk()?;
    Some((u32::from_ne_bytes(*index), u32::from_ne_bytes(id.try_into().ok()?)))
}

fn is_bound(table: &Table, index: u32) -> bool {
    let bound = table.sets.get(layout::BOUND);
    bound.is_some_and(|bound| bound.elements.contains_key(&layout::index_key(index)))
}

/// Rules that count what they drop: chain, number, comment.
fn rules(table: &ObservedTable) -> impl Iterator<Item = (&Name, u32, Option<&str>)> {
    let of_chain = |(name, chain)| {
        let chain: &crate::ir::observed::ObservedChain = chain;
        chain.rules.iter().filter_map(move |rule| Some((name, rule.tally?, rule.comment.as_deref())))
    };
    table.chains.iter().flat_map(of_chain)
}

/// The rules of filters by number: those of a program, and those of any.
struct Names<'a> {
    own: BTreeMap<(&'a str, u32), &'a str>,
    any: BTreeMap<u32, &'a str>,
}

impl<'a> Names<'a> {
    fn of(table: &'a ObservedTable) -> Names<'a> {
        let mut names = Names { own: BTreeMap::new(), any: BTreeMap::new() };
        for (chain, id, comment) in rules(table) {
            if let (Some(prefix), Some(comment)) = (layout::prefix_of(chain), comment) {
                names.own.entry((prefix, id)).or_insert(comment);
                names.any.entry(id).or_insert(comment);
            }
        }
        names
    }

    /// Two rules of one number are told apart by the program that the interface has.
    fn name(&self, program: Option<&str>, id: u32) -> Option<(String, u32)> {
        let own = program.and_then(|program| self.own.get(&(program, id)));
        let (filter, rule) = own.or_else(|| self.any.get(&id))?.rsplit_once(':')?;
        Some((filter.to_owned(), rule.parse().ok()?))
    }
}
