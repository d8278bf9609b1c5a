//! Interfaces that are blocked for a moment before a change: those that the host's IP layer exempted and filters from now on.
//!
//! The IP layer passed their packets because the interface's own hooks filter them, and some may be queued between the two
//! until the guest answers ARP or NDP. Once the own hooks leave these packets to the IP layer, neither would filter them. So
//! new packets are blocked for a moment, in which the queue is dropped. Pure; dropping the queue is [`apply`](crate::kernel::apply)'s.

use super::{Step, TableOperation, push_elements, push_removal};
use crate::program::ir::{Bytes, Family, Ruleset, Set};
use crate::ruleset::layout::{self, AT_POSTROUTING, AT_PREROUTING};
use imbl::ordmap::DiffItem;

/// The moment before a change in which packets to some interfaces are blocked.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pause {
    /// The indexes of these interfaces.
    pub links: Vec<u32>,
    /// Blocks packets to them.
    pub begin: Vec<Step>,
    /// Exempts them again, where the change is refused.
    pub undo: Vec<Step>,
}

impl Pause {
    /// The one that this change needs, if any, and what is in force once it has begun.
    pub(super) fn before(old: &Ruleset, new: &Ruleset) -> Option<(Pause, Ruleset)> {
        let mut keys = judged_from_now_on(map(old, AT_PREROUTING)?, map(new, AT_PREROUTING)?, new);
        if keys.is_empty() {
            return None;
        }
        let links = keys.iter().filter_map(|key| layout::index_of(key)).collect();
        // An interface that is blocked already was blocked by a change that did not complete.
        let before = map(old, AT_POSTROUTING)?;
        keys.retain(|key| before.elements.contains_key(key));
        let elements = keys.iter().map(|key| (key.clone(), before.elements[key].clone())).collect();
        let mut begun = old.clone();
        let table = begun.tables.get_mut(&Family::Inet)?;
        let set = table.sets.get_mut(AT_POSTROUTING)?;
        keys.iter().for_each(|key| drop(set.elements.remove(key)));
        let (mut begin, mut undo) = (Vec::new(), Vec::new());
        push_removal(&mut begin, &AT_POSTROUTING.into(), before, keys);
        push_elements(&mut undo, &AT_POSTROUTING.into(), before, elements);
        let steps = |changes: Vec<TableOperation>| {
            changes.into_iter().map(|change| Step { family: Family::Inet, change }).collect()
        };
        Some((Pause { links, begin: steps(begin), undo: steps(undo) }, begun))
    }
}

fn map<'a>(rules: &'a Ruleset, name: &str) -> Option<&'a Set> {
    rules.tables.get(&Family::Inet)?.sets.get(name)
}

/// Interfaces that the old rules exempt and that have a program in the IP layer of the new ones.
fn judged_from_now_on(before: &Set, after: &Set, new: &Ruleset) -> Vec<Bytes> {
    let is_judged = |key: &Bytes| {
        let judged = |index| layout::dispatch_target(new.tables.get(&Family::Inet)?, index);
        layout::index_of(key).and_then(judged).is_some()
    };
    let changed = before.elements.diff(&after.elements).filter_map(|item| match item {
        DiffItem::Add(..) => None,
        DiffItem::Remove(key, datum) | DiffItem::Update { old: (key, datum), .. } => Some((key, datum)),
    });
    let exempted = changed.filter(|(key, datum)| layout::is_elsewhere(datum) && is_judged(key));
    exempted.map(|(key, _)| key.clone()).collect()
}
