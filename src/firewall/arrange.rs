//! Groups and members brought into the table: who is folded, who shares, and what is left over.
//!
//! Membership is settled when this begins. Programs that nothing leads to any more are found by counting, and only
//! what changes is looked at.

use super::sort::Changed;
use super::{Firewall, Group, Member, Refused};
use crate::compile::Hooks;
use crate::diag::Diagnostic;
use crate::ir::{Bytes, Data, Datum, Family, Name, Role, Table, concat};
use crate::layout::{self, Entrance, Tracked};
use crate::program::{Program, Slot};
use crate::resolve::{Mode, slot_values};
use imbl::OrdSet;
use std::collections::BTreeSet;
use std::sync::Arc;

impl Firewall {
    /// Lets the table show these groups as they are.
    pub(super) fn arrange(&mut self, changed: Changed) -> Result<(), Refused> {
        let mut closed = false;
        for (name, newcomers) in changed {
            let Some(group) = self.groups.get(&name).cloned() else { continue };
            match (group.members.is_empty(), group.placed.is_some(), self.is_shared(&group)) {
                (true, ..) => {
                    closed |= self.close(&name, &group);
                    self.groups.remove(&name);
                    self.forget_unused(&group.rules);
                }
                (_, true, true) => self.enter_shared(&name, &group, &newcomers)?,
                (_, false, true) => self.share(&name, &group)?,
                (_, false, false) => self.enter_private(&newcomers)?,
                (_, true, false) => match self.enter_private(&group.members) {
                    Ok(()) => closed |= self.close(&name, &group),
                    // What can not be folded shares on, which is as right.
                    Err(_) => self.enter_shared(&name, &group, &newcomers)?,
                },
            }
        }
        if closed {
            self.sweep_slots();
        }
        Ok(())
    }

    fn is_shared(&self, group: &Group) -> bool {
        let limit = self.policy.fold_up_to;
        group.members.len() > if group.placed.is_some() { limit / 2 } else { limit }
    }

    fn enter_shared(&mut self, name: &Name, group: &Group, newcomers: &OrdSet<u32>) -> Result<(), Refused> {
        for index in newcomers {
            self.fill_slots(&group.program.slots, *index)
                .map_err(|fault| self.refused(*index, vec![fault]))?;
            self.enter(*index, group.hooks, &Entrance::Shared(name.clone()));
        }
        Ok(())
    }

    /// Gives each its own program, or changes nothing.
    fn enter_private(&mut self, newcomers: &OrdSet<u32>) -> Result<(), Refused> {
        let program = |index: &u32| {
            let member = &self.members[index];
            let hooks = member.place.hooks();
            let compiled = self.compile(&member.rules, &member.vars, Mode::Fold, hooks);
            compiled
                .map(|compiled| (*index, hooks, compiled.program))
                .map_err(|faults| self.refused(*index, faults))
        };
        let programs: Result<Vec<_>, Refused> = newcomers.iter().map(program).collect();
        for (index, hooks, program) in programs? {
            let prefix = layout::settle(self.table_mut(hooks), &program);
            self.clear_slots(index, hooks);
            let turned = hooks == Hooks::Macvtap;
            let entrance = if turned { Entrance::Turned(prefix) } else { Entrance::Private(prefix) };
            self.enter(index, hooks, &entrance);
        }
        Ok(())
    }

    fn refused(&self, index: u32, diagnostics: Vec<Diagnostic>) -> Refused {
        Refused { interface: Some(self.members[&index].name.clone()), diagnostics }
    }

    /// Places a group's program and lets all its members share it.
    fn share(&mut self, name: &Name, group: &Group) -> Result<(), Refused> {
        self.lead(name, group, None);
        self.enter_shared(name, group, &group.members)
    }

    /// Lets a group that was compiled anew keep the place of the old one.
    pub(super) fn replace(&mut self, name: &Name, old: &Group) {
        let group = self.groups[name].clone();
        self.lead(name, &group, old.placed.as_ref());
    }

    fn lead(&mut self, name: &Name, group: &Group, before: Option<&Name>) {
        let hooks = group.hooks;
        let prefix = layout::settle(self.table_mut(hooks), &group.program);
        layout::lead(self.table_mut(hooks), name, &prefix, hooks == Hooks::Macvtap);
        self.count(hooks, &prefix, true);
        before.into_iter().for_each(|before| self.count(hooks, before, false));
        for slot in &group.program.slots {
            let empty = || layout::set(slot.key(), Data::None, Role::Variable);
            self.table_mut(hooks).sets.entry(slot.set_name()).or_insert_with(empty);
        }
        let placed = Some(prefix);
        self.groups.insert(name.clone(), Arc::new(Group { placed, ..group.clone() }));
    }

    /// Takes away a group's dispatch, which nobody uses any more, if there is any.
    pub(super) fn close(&mut self, name: &Name, group: &Group) -> bool {
        let Some(prefix) = &group.placed else { return false };
        layout::mislead(self.table_mut(group.hooks), name);
        self.count(group.hooks, prefix, false);
        if let Some(group) = self.groups.get_mut(name) {
            Arc::make_mut(group).placed = None;
        }
        true
    }

    fn enter(&mut self, index: u32, hooks: Hooks, entrance: &Entrance) {
        let table = self.table_mut(hooks);
        let before = layout::private(table, index);
        layout::enter(table, index, entrance);
        if let Entrance::Private(prefix) | Entrance::Turned(prefix) = entrance {
            self.count(hooks, prefix, true);
        }
        before.into_iter().for_each(|before| self.count(hooks, &before, false));
    }

    /// Takes an interface out of the table it sat in as this member.
    pub(super) fn leave(&mut self, member: &Member) {
        let (index, hooks) = (member.index, member.place.hooks());
        self.clear_slots(index, hooks);
        let before = layout::private(self.table(hooks), index);
        layout::leave(self.table_mut(hooks), index);
        before.into_iter().for_each(|before| self.count(hooks, &before, false));
        self.gone_from(&member.place);
    }

    /// Counts who leads to a program; one that nobody leads to is taken away.
    fn count(&mut self, hooks: Hooks, prefix: &Name, more: bool) {
        let key = (hooks.family(), prefix.clone());
        let uses = self.uses.get(&key).copied().unwrap_or_default();
        match if more { uses + 1 } else { uses.saturating_sub(1) } {
            0 => {
                self.uses.remove(&key);
                layout::displace(self.table_mut(hooks), prefix);
            }
            uses => drop(self.uses.insert(key, uses)),
        }
    }

    /// Gives a member's values to the sets of these slots, and takes its others away.
    fn fill_slots(&mut self, slots: &BTreeSet<Slot>, index: u32) -> Result<(), Diagnostic> {
        let member = self.members[&index].clone();
        let mut wanted: Vec<(Name, Vec<Bytes>)> = Vec::new();
        for slot in slots {
            let values = slot_values(slot, &member.vars)?;
            wanted.push((slot.set_name(), values.iter().map(|value| member_key(index, value)).collect()));
        }
        let hooks = member.place.hooks();
        self.clear_slots(index, hooks);
        for (name, keys) in wanted {
            let set = self.table_mut(hooks).sets.get_mut(&name).expect("a shared group has its sets");
            set.elements.extend(keys.into_iter().map(|key| (key, Datum::None)));
        }
        Ok(())
    }

    /// Takes all values of a member away.
    fn clear_slots(&mut self, index: u32, hooks: Hooks) {
        let first: Bytes = index.to_ne_bytes().into();
        let table = self.table_mut(hooks);
        for name in variable_sets(table) {
            let from_first = table.sets[&name].elements.range(first.clone()..).map(|(key, _)| key);
            let own: Vec<Bytes> = from_first.take_while(|key| key.starts_with(&first)).cloned().collect();
            for key in own {
                table.sets.get_mut(&name).expect("listed above").elements.remove(&key);
            }
        }
    }

    /// Takes away the sets of slots that no shared program has any more.
    pub(super) fn sweep_slots(&mut self) {
        let shared = self.groups.values().filter(|group| group.placed.is_some());
        let slots = |group: &Arc<Group>| {
            let (family, program) = (group.hooks.family(), Arc::clone(&group.program));
            program.slots.iter().map(|slot| (family, slot.set_name())).collect::<Vec<_>>()
        };
        let needed: BTreeSet<(Family, Name)> = shared.flat_map(slots).collect();
        for hooks in [Hooks::Bridge, Hooks::Device] {
            let table = self.table_mut(hooks);
            for name in variable_sets(table) {
                if !needed.contains(&(hooks.family(), name.clone())) {
                    table.sets.remove(&name);
                }
            }
        }
    }

    /// Counts the bridges of a program's members in or out of those that conntrack must see.
    pub(super) fn track_all(&mut self, program: &Program, members: &OrdSet<u32>, needed: bool) {
        if program.stateful {
            members.iter().for_each(|index| self.track(*index, needed));
        }
    }

    fn track(&mut self, index: u32, needed: bool) {
        let Some(bridge) = self.members.get(&index).and_then(|member| member.place.bridge().cloned()) else {
            return;
        };
        let before = self.tracked.get(&bridge.name).cloned();
        let zone = u16::try_from(bridge.index % 0xffff).unwrap_or_default() + 1;
        let (name, host) = (bridge.name, bridge.host);
        let after = match (before.clone(), needed) {
            (before, true) => {
                let count = before.map_or(1, |(_, count)| count + 1);
                Some((Tracked { bridge: name.clone(), zone, host }, count))
            }
            (Some((tracked, count)), false) if count > 1 => Some((tracked, count - 1)),
            (_, false) => None,
        };
        let changed = before.map(|(tracked, _)| tracked) != after.clone().map(|(tracked, _)| tracked);
        match after {
            Some(after) => self.tracked.insert(name, after),
            None => self.tracked.remove(&name),
        };
        if changed {
            let bridges: Vec<Tracked> = self.tracked.values().map(|(tracked, _)| tracked.clone()).collect();
            layout::track(&mut self.bridge, &bridges);
        }
    }
}

fn variable_sets(table: &Table) -> Vec<Name> {
    let variable = table.sets.iter().filter(|(_, set)| set.role == Role::Variable);
    variable.map(|(name, _)| name.clone()).collect()
}

fn member_key(index: u32, value: &[Bytes]) -> Bytes {
    let index = index.to_ne_bytes();
    let parts: Vec<&[u8]> = std::iter::once(&index[..]).chain(value.iter().map(|part| &part[..])).collect();
    concat(&parts)
}
