//! The difference of two rule sets, as batches that never open before they close.
//!
//! One batch is atomic for readers of the rule set, but not for every packet: a lookup reads the
//! newest elements while the rules are those of the moment the packet came. So a change is made in
//! up to three batches, each whole or not at all. *Prepare* makes only what no packet can reach or, at a device that
//! had no hook, what blocks it. *Switch* changes what leads there. *Retire* deletes what packets still under way may
//! be reading, and is sent when none of them is left. Few changes need a [pause](Pause) before all that.
//!
//! A table of which something cannot be changed into what it must be (another program made it) is replaced whole, in
//! the one batch of the switch. A packet under way can meet its old constant maps empty then.

mod pause;
mod text;

pub use pause::Pause;

use crate::program::ir::{
    Bytes, Chain, ElementValue, Family, Hook, Name, Rule, Ruleset, Set, SetRole, SetType, Table, concat,
};
use crate::ruleset::layout::{self, AT_DEVICE, AT_PREROUTING, BOUND, DROPS, index_key};
use imbl::ordmap::DiffItem;
use std::sync::Arc;

/// A change as batches, in the order in which they are sent; any may be empty.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Comes first, where the host's IP layer begins to filter interfaces that it exempted.
    pub pause: Pause,
    /// Makes what no packet can reach yet.
    pub prepare: Vec<Step>,
    /// Changes what leads there, and takes away what was left.
    pub switch: Vec<Step>,
    /// Takes away what a packet under way during the switch may still read.
    pub retire: Vec<Step>,
    /// Takes away what was counted of interfaces that are no longer bound, if anything was. It is no part of the
    /// change: a kernel before 6.3 refuses it.
    pub forget: Vec<Step>,
}

/// One change of the kernel's rule set.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// In our table of this family.
    pub family: Family,
    /// What is done.
    pub change: TableOperation,
}

/// What a step does.
#[derive(Clone, Debug, PartialEq)]
pub enum TableOperation {
    /// Make our table, or take it over if it is there.
    AddTable,
    /// Remove our table with all that is in it.
    DeleteTable,
    /// Make a chain, empty.
    AddChain(Name, Option<Hook>),
    /// Remove a chain and its rules.
    DeleteChain(Name),
    /// Remove all rules of a chain.
    FlushChain(Name),
    /// Append a rule to a chain.
    AddRule(Name, Rule),
    /// Make a set or map, empty.
    AddSet(Name, SetType),
    /// Remove a set or map.
    DeleteSet(Name),
    /// Add elements to a set or map.
    AddElements(Name, SetType, Vec<(Bytes, ElementValue)>),
    /// Remove elements from a set or map.
    DeleteElements(Name, SetType, Vec<Bytes>),
    /// Remove those of these elements that are there.
    DestroyElements(Name, SetType, Vec<Bytes>),
}

/// What turns one rule set into another.
///
/// Sets and chains that another program fills or that are the same in both are not touched. The cost is that of
/// what differs, if `new` was made out of `old`.
pub fn plan(old: &Ruleset, new: &Ruleset) -> Plan {
    let paused = Pause::before(old, new);
    let old = paused.as_ref().map_or(old, |(_, begun)| begun);
    let mut plan = differences(old, new);
    plan.pause = paused.map(|(pause, _)| pause).unwrap_or_default();
    plan
}

fn differences(old: &Ruleset, new: &Ruleset) -> Plan {
    let mut plan = Plan::default();
    let handed = hands_over(old, new);
    for (&family, table) in &new.tables {
        let empty = Table::default();
        let before = old.tables.get(&family);
        if before.is_none() {
            plan.prepare.push(Step { family, change: TableOperation::AddTable });
        }
        let before = before.unwrap_or(&empty);
        let stay = handed && family == Family::Netdev;
        let guards = stay && !exempts_ports(new) && leaves_guards(before, table);
        let mut difference = TableDiff::of(&Bindings { old: before, new: table, stay, guards });
        difference.unbinds |= handed;
        if before.unfit && !table.unfit || difference.replaces {
            plan.replace(family, table)
        } else {
            difference.append_to(&mut plan, family)
        }
    }
    for &family in old.tables.keys().filter(|family| !new.tables.contains_key(family)) {
        let last = if handed { &mut plan.retire } else { &mut plan.switch };
        last.push(Step { family, change: TableOperation::DeleteTable });
    }
    plan
}

/// Whether ports move from their bridge's hooks to their own or back. Both filter them while packets are under way that
/// passed only one: the bridge exempts no port before those packets have left, and the hooks stay until then.
fn hands_over(old: &Ruleset, new: &Ruleset) -> bool {
    let by = |rules: &Ruleset| rules.tables.get(&Family::Bridge)?.sets.get(AT_DEVICE).cloned();
    match (by(old), by(new)) {
        (Some(old), Some(new)) => old.elements != new.elements,
        (old, new) => old.is_some() || new.is_some(),
    }
}

/// Whether bridges exempt ports that are filtered at their own hooks.
fn exempts_ports(rules: &Ruleset) -> bool {
    rules.tables.get(&Family::Bridge).is_some_and(|table| table.sets.contains_key(AT_DEVICE))
}

/// Whether the hooks of some device lead on in another way: all of its frames before, and those alone then that its bridge
/// takes or makes itself.
fn leaves_guards(before: &Table, after: &Table) -> bool {
    let hooked = before.chains.iter().filter(|(_, chain)| chain.hook.is_some());
    let mut both = hooked.filter_map(|(name, chain)| Some((chain, after.chains.get(name)?)));
    both.any(|(before, after)| before.rules != after.rules)
}

/// The changes of one table, by what must come before what.
#[derive(Default)]
struct TableDiff {
    add_chains: Vec<TableOperation>,
    add_sets: Vec<TableOperation>,
    add_rules: Vec<TableOperation>,
    /// Elements no packet reads before the switch.
    add_unread: Vec<TableOperation>,
    /// Elements that packets read at once.
    add_read: Vec<TableOperation>,
    /// Exemptions of interfaces that are filtered at their own hooks, added after every packet that missed these hooks has left.
    exempt: Vec<TableOperation>,
    /// Whether a chain or set is to be of another kind under the same name.
    replaces: bool,
    /// What reduces the devices' own hooks to a guard, sent after every packet that the bridge exempted has left.
    guard: Vec<TableOperation>,
    /// Whether an interface stays bound and is no longer dispatched here, or is handed over: packets under way may be in its program.
    unbinds: bool,
    /// Elements of a map that lead elsewhere, and interfaces that are unbound.
    redirect: Vec<TableOperation>,
    /// Chains whose rules change where packets walk them.
    refill: Vec<TableOperation>,
    delete_elements: Vec<TableOperation>,
    empty_chains: Vec<TableOperation>,
    delete_chains: Vec<TableOperation>,
    delete_sets: Vec<TableOperation>,
    forget: Vec<TableOperation>,
}

impl TableDiff {
    fn of(bindings: &Bindings) -> TableDiff {
        let Bindings { old, new, .. } = bindings;
        let mut difference = TableDiff::default();
        for item in old.sets.diff(&new.sets) {
            match item {
                DiffItem::Add(name, set) => difference.add_set(name, set),
                DiffItem::Remove(name, set) => difference.delete_set(name, set),
                DiffItem::Update { old: (name, before), new: (_, after) } => {
                    difference.replaces |= before.kind() != after.kind();
                    difference.change_elements(name, before, after, bindings);
                    if &**name == BOUND {
                        difference.forget(before, after, old);
                    }
                }
            }
        }
        for item in old.chains.diff(&new.chains) {
            match item {
                DiffItem::Add(name, chain) => difference.add_chain(name, chain),
                DiffItem::Remove(name, _) => difference.delete_chain(name),
                DiffItem::Update { old: (name, before), new: (_, after) } => {
                    difference.replaces |= before.hook != after.hook;
                    difference.refill(name, before, after, bindings);
                }
            }
        }
        difference
    }

    fn append_to(self, plan: &mut Plan, family: Family) {
        // What a packet under way may still read waits for it: not only elements, chains as well, for with a rule that
        // branches the kernel takes its constant map from packets that are still to walk the rule.
        let waits = self.unbinds
            || !self.exempt.is_empty()
            || !self.refill.is_empty()
            || self.redirect.iter().any(|change| matches!(change, TableOperation::AddElements(..)))
            || self.delete_elements.iter().any(takes_from_dispatch);
        let extend = |batch: &mut Vec<Step>, lists: Vec<Vec<TableOperation>>| {
            batch.extend(lists.into_iter().flatten().map(|change| Step { family, change }));
        };
        // The kernel fills chains in the order in which they were made: those that others lead to come first.
        let add_chains = self.add_chains.into_iter().rev().collect();
        extend(&mut plan.prepare, vec![add_chains, self.add_sets, self.add_unread, self.add_rules]);
        extend(&mut plan.switch, vec![self.add_read, self.redirect, self.refill]);
        let last = if waits { &mut plan.retire } else { &mut plan.switch };
        extend(
            last,
            // Elements of a map that another program made may lead to a chain.
            vec![
                self.exempt,
                self.guard,
                self.delete_elements,
                self.empty_chains,
                self.delete_sets,
                self.delete_chains,
            ],
        );
        extend(&mut plan.forget, vec![self.forget]);
    }

    /// The counters of an interface that is bound under a reused index start at zero.
    fn forget(&mut self, before: &Set, after: &Set, old: &Table) {
        let Some(drops) = old.sets.get(DROPS) else { return };
        for item in before.elements.diff(&after.elements) {
            let DiffItem::Remove(key, _) = item else { continue };
            let Some(index) = layout::index_of(key) else { continue };
            let ids = layout::tallies(old, index).into_iter();
            let keys = ids.map(|id| concat(&[key, &id.to_ne_bytes()])).collect();
            self.forget.push(TableOperation::DestroyElements(DROPS.into(), drops.kind(), keys));
        }
    }

    fn add_set(&mut self, name: &Name, set: &Set) {
        self.add_sets.push(TableOperation::AddSet(name.clone(), set.kind()));
        let elements: Vec<(Bytes, ElementValue)> =
            set.elements.iter().map(|(key, datum)| (key.clone(), datum.clone())).collect();
        let list = match set.role {
            _ if **name == *AT_DEVICE => &mut self.exempt,
            SetRole::Dispatch => &mut self.redirect,
            _ => &mut self.add_unread,
        };
        push_elements(list, name, set, elements);
    }

    fn delete_set(&mut self, name: &Name, set: &Set) {
        if set.role == SetRole::Foreign && !set.dynamic {
            return; // What an administrator filled stays until it is deleted by hand.
        }
        self.delete_sets.push(TableOperation::DeleteSet(name.clone()));
    }

    fn add_chain(&mut self, name: &Name, chain: &Chain) {
        self.add_chains.push(TableOperation::AddChain(name.clone(), chain.hook.clone()));
        self.add_rules
            .extend(chain.rules.iter().map(|rule| TableOperation::AddRule(name.clone(), rule.clone())));
    }

    /// Its rules first, so that chains that lead to each other can be deleted in any order.
    fn delete_chain(&mut self, name: &Name) {
        self.empty_chains.push(TableOperation::FlushChain(name.clone()));
        self.delete_chains.push(TableOperation::DeleteChain(name.clone()));
    }

    fn refill(&mut self, name: &Name, before: &Arc<Chain>, after: &Arc<Chain>, bindings: &Bindings) {
        if before.rules == after.rules {
            return;
        }
        let refill = if bindings.guards { &mut self.guard } else { &mut self.refill };
        refill.push(TableOperation::FlushChain(name.clone()));
        refill.extend(after.rules.iter().map(|rule| TableOperation::AddRule(name.clone(), rule.clone())));
    }

    fn change_elements(&mut self, name: &Name, before: &Set, after: &Set, bindings: &Bindings) {
        if after.role == SetRole::Foreign {
            return;
        }
        let changes = ElementChanges::of(name, before, after, bindings);
        self.unbinds |= changes.unbinds;
        // What a bridge exempts, what a guard alone leads to and what the IP layer blocked wait for packets under way.
        let is_late = |(key, _): &(Bytes, ElementValue)| {
            **name == *AT_DEVICE || bindings.guards || bindings.was_blocked(key)
        };
        let (late, dispatched) = changes.dispatched.into_iter().partition(is_late);
        let replaced = changes.left_for.iter().map(|(key, _)| key.clone()).collect();
        push_elements(&mut self.add_unread, name, after, changes.unread);
        push_elements(&mut self.add_read, name, after, changes.read);
        push_removal(&mut self.redirect, name, after, changes.unbound);
        push_elements(&mut self.redirect, name, after, dispatched);
        push_removal(&mut self.exempt, name, after, replaced);
        push_elements(&mut self.exempt, name, after, changes.left_for);
        push_elements(&mut self.exempt, name, after, late);
        push_removal(&mut self.delete_elements, name, after, changes.left);
    }
}

/// Which interfaces are bound before and after.
struct Bindings<'a> {
    old: &'a Table,
    new: &'a Table,
    /// Whether an interface that is unbound stays dispatched for a while.
    stay: bool,
    /// Whether of what judged ports at their own hooks a guard stays.
    guards: bool,
}

impl Bindings<'_> {
    /// Whether an interface may stay in a set for a while that it leaves: it is bound still, and the shared program of
    /// the set is the one it has had. One that is handed over to its bridge stays in any case: both judge it.
    fn keeps(&self, set: &Name, key: &Bytes) -> bool {
        let bound = Bindings::bound(self.new, key);
        if **set == *AT_DEVICE || self.stay && !bound {
            return self.stay;
        }
        let target =
            |table: &Table| layout::shared_by(set).and_then(|shared| layout::target_of(table, shared));
        let (before, after) = (target(self.old), target(self.new));
        bound && (after.is_none() || before == after) && Bindings::is_dispatched(self.new, key)
    }

    /// Whether an interface was bound in the host's IP layer and not dispatched, since it was a bridge's port.
    fn was_blocked(&self, key: &Bytes) -> bool {
        let packets = self.old.sets.contains_key(AT_PREROUTING);
        packets && Bindings::bound(self.old, key) && !Bindings::is_dispatched(self.old, key)
    }

    fn is_dispatched(table: &Table, key: &Bytes) -> bool {
        layout::index_of(key).is_some_and(|index| layout::is_dispatched(table, index))
    }

    fn bound(table: &Table, key: &Bytes) -> bool {
        let index = key.get(..4).and_then(layout::index_of);
        let bound = table.sets.get(BOUND);
        index.is_some_and(|index| bound.is_some_and(|bound| bound.elements.contains_key(&index_key(index))))
    }
}

/// The element changes of one set, sorted by when they may be seen.
#[derive(Default)]
struct ElementChanges {
    unread: Vec<(Bytes, ElementValue)>,
    read: Vec<(Bytes, ElementValue)>,
    unbound: Vec<Bytes>,
    dispatched: Vec<(Bytes, ElementValue)>,
    left: Vec<Bytes>,
    /// Elements that become exemptions in place of dispatch entries.
    left_for: Vec<(Bytes, ElementValue)>,
    /// Whether an interface stays bound and is no longer dispatched by this set.
    unbinds: bool,
}

impl ElementChanges {
    fn of(name: &Name, before: &Set, after: &Set, bindings: &Bindings) -> ElementChanges {
        let mut changes = ElementChanges::default();
        for item in before.elements.diff(&after.elements) {
            match item {
                DiffItem::Add(key, datum) => changes.add(key, datum, after.role, bindings),
                DiffItem::Remove(key, _) => changes.remove(name, key, after.role, bindings),
                DiffItem::Update { new: (key, datum), .. } => changes.update(key, datum, bindings),
            }
        }
        changes
    }

    fn add(&mut self, key: &Bytes, datum: &ElementValue, role: SetRole, bindings: &Bindings) {
        let element = (key.clone(), datum.clone());
        match role {
            SetRole::Dispatch => self.dispatched.push(element),
            _ if Bindings::bound(bindings.old, key) => self.read.push(element),
            _ => self.unread.push(element),
        }
    }

    fn remove(&mut self, name: &Name, key: &Bytes, role: SetRole, bindings: &Bindings) {
        // An interface that stays bound is dispatched twice before it is no longer dispatched the old way.
        if role != SetRole::Dispatch || bindings.keeps(name, key) {
            self.left.push(key.clone());
            return;
        }
        self.unbinds |= Bindings::bound(bindings.new, key);
        self.unbound.push(key.clone());
    }

    fn update(&mut self, key: &Bytes, datum: &ElementValue, bindings: &Bindings) {
        let element = (key.clone(), datum.clone());
        // An interface that is from now on filtered at its own hooks alone leaves the IP layer's program after those
        // hooks have seen all packets.
        if bindings.guards || layout::is_elsewhere(datum) {
            self.left_for.push(element);
            return;
        }
        self.unbound.push(key.clone());
        self.dispatched.push(element);
    }
}

fn push_elements(
    list: &mut Vec<TableOperation>,
    name: &Name,
    set: &Set,
    elements: Vec<(Bytes, ElementValue)>,
) {
    if !elements.is_empty() {
        list.push(TableOperation::AddElements(name.clone(), set.kind(), elements));
    }
}

fn push_removal(list: &mut Vec<TableOperation>, name: &Name, set: &Set, keys: Vec<Bytes>) {
    if !keys.is_empty() {
        list.push(TableOperation::DeleteElements(name.clone(), set.kind(), keys));
    }
}

fn takes_from_dispatch(change: &TableOperation) -> bool {
    match change {
        TableOperation::DeleteElements(name, kind, _) => layout::role_of(name, kind) == SetRole::Dispatch,
        _ => false,
    }
}

impl Plan {
    /// Replaces a table whole, in one batch.
    fn replace(&mut self, family: Family, table: &Table) {
        let (old, mut made) = (Table::default(), Plan::default());
        let bindings = Bindings { old: &old, new: table, stay: false, guards: false };
        TableDiff::of(&bindings).append_to(&mut made, family);
        let replace =
            [TableOperation::DeleteTable, TableOperation::AddTable].map(|change| Step { family, change });
        self.switch.extend([replace.into(), made.prepare, made.switch, made.retire].into_iter().flatten());
    }

    /// Whether an interface keeps its old rules until the retire is done, so that the retire belongs to the change.
    pub fn moves(&self) -> bool {
        let moves = |step: &Step| {
            matches!(step.change, TableOperation::AddElements(..) | TableOperation::DeleteTable)
                || takes_from_dispatch(&step.change)
        };
        self.retire.iter().any(moves)
    }

    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        [&self.pause.begin, &self.prepare, &self.switch, &self.retire].iter().all(|batch| batch.is_empty())
    }
}
