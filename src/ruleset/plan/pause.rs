//! Who is shut out for a moment before a change: whose packets the host's IP layer judges that it has let by until then.
//!
//! It has let them by to be judged at the interface's own hooks, and some may wait between the two until the guest says its
//! MAC address. Once its own hooks leave them to the IP layer nobody would judge these. So no more may come for a moment,
//! in which those that wait are let go. Pure; letting go is [`apply`](crate::kernel::apply)'s.

use super::{Change, Step, push_elements, push_removal};
use crate::program::ir::{Bytes, Family, Ruleset, Set};
use crate::ruleset::layout::{self, AT_POSTROUTING, AT_PREROUTING};
use imbl::ordmap::DiffItem;

/// The moment before a change in which packets to some interfaces are shut out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pause {
    /// The indexes of these interfaces.
    pub links: Vec<u32>,
    /// Shuts their packets out.
    pub begin: Vec<Step>,
    /// Lets them by again, where the change is refused.
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
        // Who is shut out already was so by a change that did not come to its end.
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
        let steps = |changes: Vec<Change>| {
            changes.into_iter().map(|change| Step { family: Family::Inet, change }).collect()
        };
        Some((Pause { links, begin: steps(begin), undo: steps(undo) }, begun))
    }
}

fn map<'a>(rules: &'a Ruleset, name: &str) -> Option<&'a Set> {
    rules.tables.get(&Family::Inet)?.sets.get(name)
}

/// Whose packets are let by and have a program in the IP layer of the new rules.
fn judged_from_now_on(before: &Set, after: &Set, new: &Ruleset) -> Vec<Bytes> {
    let is_judged = |key: &Bytes| {
        let judged = |index| layout::entrance(new.tables.get(&Family::Inet)?, index);
        layout::index_of(key).and_then(judged).is_some()
    };
    let changed = before.elements.diff(&after.elements).filter_map(|item| match item {
        DiffItem::Add(..) => None,
        DiffItem::Remove(key, datum) | DiffItem::Update { old: (key, datum), .. } => Some((key, datum)),
    });
    let let_by = changed.filter(|(key, datum)| layout::is_elsewhere(datum) && is_judged(key));
    let_by.map(|(key, _)| key.clone()).collect()
}
