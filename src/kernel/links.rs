//! The links of this network namespace, and what happens to them.
//!
//! [`Links`] is pure: it folds what the kernel tells, message by message, into [`LinkEvent`]s that never
//! contradict each other. [`watch`] is the task that listens; [`snapshot`], [`by_name`], [`loads`] and [`shed`] ask once,
//! [`set_down`] and [`let_waiting_go`] do something.
//! A link is its index: a rename is a change of the link, and a name that comes back is another link.
//! Nothing here knows what a link is used for.

mod dump;
mod load;
mod names;
mod neighbours;
mod rtnl;

pub use load::{loads, shed};
pub use names::named_otherwise;
pub use neighbours::let_waiting_go;
pub use rtnl::{by_name, set_down, snapshot, watch};

use crate::guest::link::{Link, LinkEvent};
use std::collections::BTreeMap;
use std::mem;

/// The links known, folded from the kernel's notices and dumps.
///
/// A dump that repairs a loss is applied as one step, deletions first, so that no name is seen twice. While a
/// routine dump runs, notices keep their effect at once.
#[derive(Debug, Default)]
pub struct Links {
    known: BTreeMap<u32, Link>,
    dump: Option<Dump>,
}

/// Why a dump is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DumpReason {
    /// Messages were lost, or none came yet.
    Loss,
    /// A matter of routine.
    Routine,
}

/// A dump under way. What a notice said after the dump began is newer than the dump's own entry.
#[derive(Debug)]
struct Dump {
    reason: DumpReason,
    begun: bool,
    fresh: BTreeMap<u32, Option<Link>>,
}

impl Links {
    /// The links known now, by index.
    pub fn iter(&self) -> impl Iterator<Item = &Link> {
        self.known.values()
    }

    /// A dump was asked for. One that repairs a loss does so even if a routine dump replaces it.
    pub fn dump_asked(&mut self, reason: DumpReason) {
        let repairs = self.dump.as_ref().is_some_and(|dump| dump.reason == DumpReason::Loss);
        let reason = if repairs { DumpReason::Loss } else { reason };
        self.dump = Some(Dump { reason, begun: false, fresh: BTreeMap::new() });
    }

    /// The dump holds this link.
    pub fn dumped(&mut self, link: Link) {
        if let Some(dump) = &mut self.dump {
            dump.begun = true;
            dump.fresh.entry(link.index).or_insert(Some(link));
        }
    }

    /// The dump is complete: what differs from it was missed.
    pub fn dump_ended(&mut self) -> Vec<LinkEvent> {
        let Some(dump) = self.dump.take() else { return Vec::new() };
        let fresh = dump.fresh.into_iter().filter_map(|(index, link)| Some((index, link?))).collect();
        let old = mem::replace(&mut self.known, fresh);
        difference(old, &self.known)
    }

    /// The kernel says that a link is there, as it is now.
    pub fn on_new_link(&mut self, link: Link) -> Vec<LinkEvent> {
        if self.hold(link.index, Some(&link)) {
            return Vec::new();
        }
        let old = self.known.insert(link.index, link.clone());
        changed(old, link)
    }

    /// The kernel says that a link is gone.
    pub fn on_deleted_link(&mut self, index: u32) -> Vec<LinkEvent> {
        if self.hold(index, None) {
            return Vec::new();
        }
        self.known.remove(&index).map(LinkEvent::Gone).into_iter().collect()
    }

    /// Notes a notice for the dump under way; true if that dump will report it.
    fn hold(&mut self, index: u32, link: Option<&Link>) -> bool {
        let Some(dump) = &mut self.dump else { return false };
        if dump.begun {
            dump.fresh.insert(index, link.cloned());
        }
        dump.reason == DumpReason::Loss
    }
}

fn difference(old: BTreeMap<u32, Link>, new: &BTreeMap<u32, Link>) -> Vec<LinkEvent> {
    let (mut gone, mut rest) = (Vec::new(), Vec::new());
    let mut old = old;
    for link in new.values() {
        for event in changed(old.remove(&link.index), link.clone()) {
            match event {
                LinkEvent::Gone(_) => gone.push(event),
                _ => rest.push(event),
            }
        }
    }
    gone.extend(old.into_values().map(LinkEvent::Gone));
    rest.sort_by_key(|event| matches!(event, LinkEvent::Appeared(_)));
    gone.append(&mut rest);
    gone
}

fn changed(old: Option<Link>, new: Link) -> Vec<LinkEvent> {
    match old {
        None => vec![LinkEvent::Appeared(new)],
        Some(old) if old == new => Vec::new(),
        Some(old) if another(&old, &new) => vec![LinkEvent::Gone(old), LinkEvent::Appeared(new)],
        Some(old) => vec![LinkEvent::Changed { old, new }],
    }
}

/// While no process listened, an index can be given to a new link, and no link ever changes its kind. A new name and a new
/// address at once may still be the link we know: to take it for another would take a guest's rules away.
fn another(old: &Link, new: &Link) -> bool {
    mem::discriminant(&old.kind) != mem::discriminant(&new.kind)
}

#[cfg(test)]
mod tests {
    use super::LinkEvent::{Appeared, Changed, Gone};
    use super::*;
    use crate::guest::link::LinkKind;

    fn link(index: u32, name: &str) -> Link {
        Link { index, name: name.into(), kind: LinkKind::Tap, master: None, mac: None, up: true }
    }

    fn dumped(links: &mut Links, reason: DumpReason, all: &[Link]) -> Vec<LinkEvent> {
        links.dump_asked(reason);
        all.iter().for_each(|link| links.dumped(link.clone()));
        links.dump_ended()
    }

    fn knowing(all: &[Link]) -> Links {
        let mut links = Links::default();
        assert_eq!(dumped(&mut links, DumpReason::Loss, all).len(), all.len());
        links
    }

    #[test]
    fn a_rename_is_a_change_and_an_equal_notice_is_nothing() {
        let mut links = knowing(&[link(5, "vnet0")]);
        let change = Changed { old: link(5, "vnet0"), new: link(5, "guest") };
        assert_eq!(links.on_new_link(link(5, "guest")), [change]);
        assert_eq!(links.on_new_link(link(5, "guest")), []);
        assert_eq!(links.on_deleted_link(5), [Gone(link(5, "guest"))]);
        assert_eq!(links.on_deleted_link(5), []);
    }

    #[test]
    fn what_was_lost_comes_as_one_step_with_deletions_first() {
        let mut links = knowing(&[link(1, "keep"), link(5, "vnet0"), link(7, "old")]);
        let events =
            dumped(&mut links, DumpReason::Loss, &[link(1, "keep"), link(6, "vnet0"), link(7, "new")]);
        let change = Changed { old: link(7, "old"), new: link(7, "new") };
        assert_eq!(events, [Gone(link(5, "vnet0")), change, Appeared(link(6, "vnet0"))]);
    }

    #[test]
    fn an_index_used_again_is_another_link() {
        let bridge = Link { kind: LinkKind::Bridge, ..link(5, "vnet0") };
        let mut links = knowing(&[link(5, "vnet0")]);
        assert_eq!(links.on_new_link(bridge.clone()), [Gone(link(5, "vnet0")), Appeared(bridge)]);
    }

    #[test]
    fn a_routine_dump_neither_delays_nor_overrules_a_notice() {
        let mut links = knowing(&[link(1, "a"), link(2, "b")]);
        links.dump_asked(DumpReason::Routine);
        links.dumped(link(1, "a"));
        assert_eq!(links.on_new_link(link(3, "c")), [Appeared(link(3, "c"))]);
        assert_eq!(links.on_deleted_link(2), [Gone(link(2, "b"))]);
        links.dumped(link(2, "b"));
        assert_eq!(links.dump_ended(), []);
        assert_eq!(links.iter().map(|link| link.index).collect::<Vec<_>>(), [1, 3]);
    }

    #[test]
    fn a_notice_from_before_the_dump_yields_to_it() {
        let mut links = knowing(&[link(1, "a")]);
        links.dump_asked(DumpReason::Loss);
        assert_eq!(links.on_new_link(link(1, "stale")), []);
        links.dumped(link(1, "fresh"));
        assert_eq!(links.dump_ended(), [Changed { old: link(1, "a"), new: link(1, "fresh") }]);
    }

    #[test]
    fn a_routine_dump_after_a_loss_still_repairs_it() {
        let mut links = knowing(&[link(1, "a")]);
        links.dump_asked(DumpReason::Loss);
        links.dumped(link(1, "a"));
        links.dump_asked(DumpReason::Routine);
        links.dumped(link(2, "b"));
        assert_eq!(links.dump_ended(), [Gone(link(1, "a")), Appeared(link(2, "b"))]);
    }
}
