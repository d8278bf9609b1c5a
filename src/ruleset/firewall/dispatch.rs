//! Groups and members brought into the table: who is folded, who shares, and what is left over.
//!
//! Membership is settled when this begins. Programs that nothing leads to any more are found by counting, and only
//! what changes is looked at.

use super::group::Compiled;
use super::grouping::Changed;
use super::tables::{AttachSpec, PacketPolicy};
use super::{BoundInterface, Firewall, Group, Placed, Refused, Rules};
use crate::document::diag::Diagnostic;
use crate::program::compile::AttachPoint;
use crate::program::ir::{Bytes, ElementValue, Family, Name, SetRole, Table, ValueType, concat};
use crate::program::resolve::{Mode, slot_values};
use crate::program::{Program, Slot};
use crate::ruleset::layout::{self, DispatchTarget, Tracked};
use imbl::OrdSet;
use std::collections::BTreeSet;
use std::sync::Arc;

/// All rules that the private programs of one group come to at most: a redefinition replaces all of them.
pub const FOLDED_RULES: usize = 4096;

/// Whether a group comes to need something for its members, or needs it no longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    Begins,
    Ends,
}

impl Firewall {
    /// Lets the table show these groups as they are.
    pub(super) fn arrange(&mut self, changed: Changed) -> Result<(), Refused> {
        let mut closed = false;
        for (name, newcomers) in changed {
            let Some(group) = self.groups.get(&name).cloned() else { continue };
            match (group.members.is_empty(), group.placed.is_some(), self.is_shared(&group)) {
                (true, ..) => {
                    closed |= self.remove_dispatch(&name, &group);
                    self.groups.remove(&name);
                    self.forget_unused(&group.rules);
                }
                (_, true, true) => self.enter_shared(&name, &group, &newcomers)?,
                (_, false, true) => self.share(&name, &group)?,
                (_, false, false) => self.enter_private(&newcomers)?,
                (_, true, false) => match self.enter_private(&group.members) {
                    Ok(()) => closed |= self.remove_dispatch(&name, &group),
                    // A group that cannot be folded stays shared, which is as right.
                    Err(_) => self.enter_shared(&name, &group, &newcomers)?,
                },
            }
        }
        if closed {
            self.sweep_slots();
        }
        Ok(())
    }

    /// Whether a group has too many members to be folded, or its members would come to too many rules. One that is shared
    /// is folded again below half of either.
    fn is_shared(&self, group: &Group) -> bool {
        let part = if group.placed.is_some() { 2 } else { 1 };
        let (members, rules) = (group.members.len(), group.length());
        members > self.policy.fold_up_to / part || members > 1 && members * rules > FOLDED_RULES / part
    }

    fn enter_shared(&mut self, name: &Name, group: &Group, newcomers: &OrdSet<u32>) -> Result<(), Refused> {
        for index in newcomers {
            let mut dispatch_targets = Vec::new();
            for (hooks, program) in group.programs() {
                self.fill_slots(&program.slots, *index, hooks)
                    .map_err(|fault| self.refused(*index, vec![fault]))?;
                dispatch_targets.push((hooks, DispatchTarget::Shared(name.clone())));
            }
            self.dispatch_interface(*index, dispatch_targets);
        }
        Ok(())
    }

    /// Gives each its own programs, or changes nothing.
    fn enter_private(&mut self, newcomers: &OrdSet<u32>) -> Result<(), Refused> {
        let compiled = |index: &u32| {
            let member = self.member(*index);
            let attach_point = self.attach_point(*index).unwrap_or(member.place.hooks());
            let compiled = self.compile(&member.rules, &member.vars, Mode::Fold, attach_point);
            compiled.map(|compiled| (*index, compiled)).map_err(|faults| self.refused(*index, faults))
        };
        let compiled: Result<Vec<_>, Refused> = newcomers.iter().map(compiled).collect();
        for (index, Compiled { attach_point, programs, .. }) in compiled? {
            let programs = std::iter::once((attach_point, programs.frames.clone())).chain(programs.further());
            let dispatch_target = |(hooks, program)| (hooks, self.install(index, hooks, &program));
            let dispatch_targets = programs.map(dispatch_target).collect();
            self.dispatch_interface(index, dispatch_targets);
        }
        Ok(())
    }

    fn install(&mut self, index: u32, hooks: AttachPoint, program: &Program) -> DispatchTarget {
        let prefix = layout::install_program(self.table_mut(hooks), program);
        self.clear_slots(index, hooks);
        DispatchTarget::private(hooks, prefix)
    }

    fn refused(&self, index: u32, diagnostics: Vec<Diagnostic>) -> Refused {
        Refused { interface: Some(self.member(index).name.clone()), diagnostics }
    }

    /// Places a group's program and lets all its members share it.
    fn share(&mut self, name: &Name, group: &Group) -> Result<(), Refused> {
        self.link_group(name, group, None);
        self.enter_shared(name, group, &group.members)
    }

    /// Lets a recompiled group keep the place of the old one.
    pub(super) fn replace(&mut self, name: &Name, old: &Group) {
        let group = self.groups[name].clone();
        self.link_group(name, &group, Some(old));
    }

    fn link_group(&mut self, name: &Name, group: &Group, before: Option<&Group>) {
        let mut places = Vec::new();
        for (hooks, program) in group.programs() {
            let prefix = layout::install_program(self.table_mut(hooks), program);
            layout::link_shared(self.table_mut(hooks), name, &prefix, hooks.orientation());
            self.count(hooks, &prefix);
            for slot in &program.slots {
                let empty = || layout::set(slot.key(), ValueType::None, SetRole::Variable);
                self.table_mut(hooks).sets.entry(slot.set_name()).or_insert_with(empty);
            }
            places.push(prefix);
        }
        for (hooks, prefix) in before.into_iter().flat_map(Group::places) {
            if !group.programs().any(|(those, _)| those == hooks) {
                layout::unlink_shared(self.table_mut(hooks), name);
            }
            self.uncount(hooks, prefix);
        }
        let mut places = places.into_iter();
        let placed = places.next().map(|program| Placed { program, further: places.next() });
        self.groups.insert(name.clone(), Arc::new(Group { placed, ..group.clone() }));
    }

    /// Removes a group's dispatch, which no interface uses any more, if there is any.
    pub(super) fn remove_dispatch(&mut self, name: &Name, group: &Group) -> bool {
        for (hooks, prefix) in group.places() {
            layout::unlink_shared(self.table_mut(hooks), name);
            self.uncount(hooks, prefix);
        }
        if let Some(group) = self.groups.get_mut(name) {
            Arc::make_mut(group).placed = None;
        }
        group.placed.is_some()
    }

    /// Lets the frames of a member in where they are judged, and nowhere else.
    fn dispatch_interface(&mut self, index: u32, dispatch_targets: Vec<(AttachPoint, DispatchTarget)>) {
        if !dispatch_targets.iter().any(|(hooks, _)| *hooks == AttachPoint::Packets) {
            self.clear_slots(index, AttachPoint::Packets);
        }
        let member = Arc::clone(self.member(index));
        let hooks = self.attach_point(index).unwrap_or(member.place.hooks());
        // Of a member whose frames are judged elsewhere the host's IP layer sees packets that were let in, or it must not
        // see any.
        let passes = hooks != AttachPoint::Bridge && member.rules != Rules::Blocked;
        let packets = if passes { PacketPolicy::Pass } else { PacketPolicy::Blocked };
        let seat = AttachSpec { hooks, device: member.place.device(hooks), packets };
        let left = self.tables.dispatch(index, seat, &dispatch_targets);
        for (hooks, dispatch_target) in &dispatch_targets {
            dispatch_target.own_program().into_iter().for_each(|prefix| self.count(*hooks, prefix));
        }
        left.iter().for_each(|(hooks, prefix)| self.uncount(*hooks, prefix));
        debug_assert!(
            layout::is_dispatched(self.table(hooks), index),
            "interface {index} has no dispatch entry"
        );
    }

    /// Removes an interface from the tables that had it as this member.
    pub(super) fn remove_interface(&mut self, member: &BoundInterface, attach_point: AttachPoint) {
        for hooks in [attach_point, AttachPoint::Packets, AttachPoint::Port] {
            self.clear_slots(member.index, hooks);
            let before = layout::private(self.table(hooks), member.index);
            layout::remove_interface(self.table_mut(hooks), member.index);
            before.into_iter().for_each(|before| self.uncount(hooks, &before));
        }
        if attach_point != AttachPoint::Bridge {
            layout::remove_interface(&mut self.tables.bridge, member.index);
        }
        self.detach(&member.place, attach_point);
    }

    /// Counts a dispatch entry of a program.
    fn count(&mut self, hooks: AttachPoint, prefix: &Name) {
        *self.uses.entry((hooks.family(), prefix.clone())).or_default() += 1;
    }

    /// A dispatch entry of a program is gone; a program without any is removed.
    fn uncount(&mut self, hooks: AttachPoint, prefix: &Name) {
        let key = (hooks.family(), prefix.clone());
        match self.uses.get(&key).copied().unwrap_or_default().saturating_sub(1) {
            0 => {
                self.uses.remove(&key);
                layout::displace(self.table_mut(hooks), prefix);
            }
            uses => drop(self.uses.insert(key, uses)),
        }
    }

    /// Gives a member's values to the sets of these slots, and takes its others away.
    fn fill_slots(
        &mut self,
        slots: &BTreeSet<Slot>,
        index: u32,
        hooks: AttachPoint,
    ) -> Result<(), Diagnostic> {
        let member = self.member(index).clone();
        let mut wanted: Vec<(Name, Vec<Bytes>)> = Vec::new();
        for slot in slots {
            let values = slot_values(slot, &member.vars)?;
            wanted.push((slot.set_name(), values.iter().map(|value| member_key(index, value)).collect()));
        }
        self.clear_slots(index, hooks);
        for (name, keys) in wanted {
            let set = self.table_mut(hooks).sets.get_mut(&name).expect("a shared group has its sets");
            set.elements.extend(keys.into_iter().map(|key| (key, ElementValue::None)));
        }
        Ok(())
    }

    /// Takes all values of a member away.
    fn clear_slots(&mut self, index: u32, hooks: AttachPoint) {
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
            let programs = group.programs();
            let slots = programs.flat_map(|(hooks, program)| {
                program.slots.iter().map(move |slot| (hooks.family(), slot.set_name()))
            });
            slots.collect::<Vec<_>>()
        };
        let needed: BTreeSet<(Family, Name)> = shared.flat_map(slots).collect();
        for hooks in [AttachPoint::Bridge, AttachPoint::Device, AttachPoint::Packets] {
            let table = self.table_mut(hooks);
            for name in variable_sets(table) {
                if !needed.contains(&(hooks.family(), name.clone())) {
                    table.sets.remove(&name);
                }
            }
        }
    }

    /// Counts the bridges of a group's members in or out of those that conntrack must see, and the interfaces that lead to
    /// them in or out of those whose packets the host marks.
    pub(super) fn note_all(&mut self, group: &Group, members: &OrdSet<u32>, need: Need) {
        if group.program.stateful {
            members.iter().for_each(|index| self.track(*index, need));
        }
        if group.lets_host() {
            members.iter().for_each(|index| self.mark_host(*index, need));
        }
    }

    fn mark_host(&mut self, index: u32, need: Need) {
        let member = self.members.get(index);
        let Some(link) = member.and_then(|member| member.place.host_link()).map(String::from) else { return };
        let before = self.host_links.get(&link).copied().unwrap_or_default();
        let after = match need {
            Need::Begins => before + 1,
            Need::Ends => before.saturating_sub(1),
        };
        if after == 0 {
            layout::unmark_host(&mut self.tables.inet, &link);
            self.host_links.remove(&link);
        } else {
            layout::mark_host(&mut self.tables.inet, &link);
            self.host_links.insert(link, after);
        }
    }

    fn track(&mut self, index: u32, need: Need) {
        let Some(bridge) = self.members.get(index).and_then(|member| member.place.bridge().cloned()) else {
            return;
        };
        let before = self.tracked.get(&bridge.name).cloned();
        let (tracked, name) = (bridge.tracked(), bridge.name);
        let after = match (before.clone(), need) {
            (before, Need::Begins) => {
                let count = before.map_or(1, |(_, count)| count + 1);
                Some((tracked, count))
            }
            (Some((tracked, count)), Need::Ends) if count > 1 => Some((tracked, count - 1)),
            (_, Need::Ends) => None,
        };
        let changed = before.map(|(tracked, _)| tracked) != after.clone().map(|(tracked, _)| tracked);
        match after {
            Some(after) => self.tracked.insert(name, after),
            None => self.tracked.remove(&name),
        };
        if changed {
            let bridges: Vec<Tracked> = self.tracked.values().map(|(tracked, _)| tracked.clone()).collect();
            self.tables.track(&bridges);
        }
    }
}

fn variable_sets(table: &Table) -> Vec<Name> {
    let variable = table.sets.iter().filter(|(_, set)| set.role == SetRole::Variable);
    variable.map(|(name, _)| name.clone()).collect()
}

fn member_key(index: u32, value: &[Bytes]) -> Bytes {
    let index = index.to_ne_bytes();
    let parts: Vec<&[u8]> = std::iter::once(&index[..]).chain(value.iter().map(|part| &part[..])).collect();
    concat(&parts)
}
