//! Members sorted into groups: those that the same program serves are in one.
//!
//! Only membership is settled here; the table follows in `dispatch`, which is given what changed.

use super::dispatch::Need;
use super::{BoundInterface, Firewall, Group, Refused, Rules};
use crate::document::diag::Diagnostic;
use crate::document::vars::Vars;
use crate::program::compile::AttachPoint;
use crate::program::ir::Name;
use crate::program::name::{self, label_of};
use crate::program::resolve::Mode;
use crate::program::{Program, printable};
use crate::ruleset::layout;
use imbl::OrdSet;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Groups that gained or lost members, with those members that the table does not yet have as theirs.
pub(super) type Changed = BTreeMap<Name, OrdSet<u32>>;

impl Firewall {
    /// Makes a member one of its group; what of the table must follow is noted.
    pub(super) fn add_to_group(
        &mut self,
        member: BoundInterface,
        changed: &mut Changed,
    ) -> Result<(), Refused> {
        let (index, interface) = (member.index, member.name.clone());
        let refused = |diagnostics| Refused { interface: Some(interface), diagnostics };
        let hooks = member.place.hooks();
        let name = self.group_for(&member.rules, &member.vars, hooks, None).map_err(refused)?;
        let (attach_point, previous) = (self.groups[&name].attach_point, self.attach_point(index));
        if let Some(left) = self.remove_from_group(index) {
            changed.entry(left).or_default().remove(&index);
        }
        let member = Arc::new(member);
        if let Some((before, previous)) = self.members.insert(Arc::clone(&member)).zip(previous) {
            match previous.family() == attach_point.family()
                && (previous == AttachPoint::Port) == (attach_point == AttachPoint::Port)
            {
                true => self.detach(&before.place, previous),
                false => self.remove_interface(&before, previous),
            }
        }
        self.attach(&member.name, &member.place, attach_point);
        self.group_of.insert(index, name.clone());
        self.admit(&name, OrdSet::unit(index));
        changed.entry(name).or_default().insert(index);
        Ok(())
    }

    /// A member that is there.
    pub(super) fn member(&self, index: u32) -> &Arc<BoundInterface> {
        self.members.get(index).expect("the indexes of a group are those of members")
    }

    /// Where the frames of a member are judged.
    pub(super) fn attach_point(&self, index: u32) -> Option<AttachPoint> {
        self.groups.get(self.group_of.get(&index)?).map(|group| group.attach_point)
    }

    /// Takes a member out of its group, whose name is returned; its dispatch stays until it joins another.
    pub(super) fn remove_from_group(&mut self, index: u32) -> Option<Name> {
        let name = self.group_of.remove(&index)?;
        let mut group = Group::clone(&self.groups[&name]);
        group.members.remove(&index);
        self.note_all(&group, &OrdSet::unit(index), Need::Ends);
        self.groups.insert(name.clone(), Arc::new(group));
        Some(name)
    }

    /// Makes these members, who are in no group, some of this one.
    fn admit(&mut self, name: &Name, members: OrdSet<u32>) {
        let mut group = Group::clone(&self.groups[name]);
        self.note_all(&group, &members, Need::Begins);
        group.members = if group.members.is_empty() { members } else { group.members.union(members) };
        self.groups.insert(name.clone(), Arc::new(group));
    }

    /// The group whose program serves such a member. If there is none it is made, of this name if it may be.
    fn group_for(
        &mut self,
        rules: &Rules,
        vars: &Vars,
        hooks: AttachPoint,
        name: Option<&Name>,
    ) -> Result<Name, Vec<Diagnostic>> {
        let label = match rules {
            Rules::Filter(filter) => printable(filter),
            Rules::Blocked => printable(&Program::blocked().filter),
        };
        let first = self.groups.get(&*label).map(|group| (Name::from(&*label), group.clone()));
        let others = self.groups.range(Name::from(format!("{label}/"))..);
        let others = others.take_while(|(name, _)| label_of(name) == label);
        let mut all = first.into_iter().chain(others.map(|(name, group)| (name.clone(), group.clone())));
        if let Some((name, _)) = all.find(|(_, group)| group.serves(rules, vars, hooks)) {
            return Ok(name);
        }
        let group = Group::new(rules, vars, hooks, self.compile(rules, vars, Mode::Slots, hooks)?);
        let kept = name.filter(|name| !self.groups.contains_key(*name)).cloned();
        let name = kept.unwrap_or_else(|| self.free_name(&label));
        self.groups.insert(name.clone(), Arc::new(group));
        Ok(name)
    }

    /// Takes a member from one seat; it enters the other with its group.
    fn move_attach_point(&mut self, index: u32, previous: AttachPoint, attach_point: AttachPoint) {
        let member = Arc::clone(self.member(index));
        self.remove_interface(&member, previous);
        self.attach(&member.name, &member.place, attach_point);
    }

    /// A name that neither a group has nor one that is about to be rebuilt.
    fn free_name(&self, label: &str) -> Name {
        let names = std::iter::once(None).chain((2..).map(Some)).map(|number| name::group(label, number));
        let free = |name: &Name| {
            let is_linked = self.tables.all().iter().any(|table| layout::target_of(table, name).is_some());
            !self.groups.contains_key(name) && !is_linked
        };
        names.into_iter().find(free).expect("numbers do not end")
    }

    /// Recompiles groups and regroups their members. A group that is split keeps its name for the first part,
    /// groups whose members now agree become one.
    pub(super) fn rebuild(&mut self, groups: Vec<Name>) -> Result<(), Refused> {
        let old: Vec<(Name, Arc<Group>)> = groups
            .into_iter()
            .filter_map(|name| self.groups.remove(&name).map(|group| (name, group)))
            .collect();
        for (_, group) in &old {
            self.note_all(group, &group.members, Need::Ends);
        }
        let mut changed = Changed::new();
        for (name, group) in &old {
            self.regroup(name, group, &mut changed)?;
        }
        for (name, group) in &old {
            if group.placed.is_some() && self.groups.get(name).is_none_or(|group| group.placed.is_none()) {
                self.remove_dispatch(name, group);
            }
        }
        self.arrange(changed)?;
        self.sweep_slots();
        Ok(())
    }

    fn regroup(&mut self, name: &Name, old: &Group, changed: &mut Changed) -> Result<(), Refused> {
        let mut rest = old.members.clone();
        while let Some(first) = rest.get_min().copied() {
            let member = self.member(first).clone();
            let refused = |diagnostics| Refused { interface: Some(member.name.clone()), diagnostics };
            let is_new = !self.groups.contains_key(name);
            let target = self.group_for(&old.rules, &member.vars, old.hooks, Some(name)).map_err(refused)?;
            let group = self.groups[&target].clone();
            let fits = |index: &&u32| group.signature.fits(&self.member(**index).vars);
            let served: OrdSet<u32> = if group.signature == old.signature {
                std::mem::take(&mut rest)
            } else {
                rest.iter().filter(fits).copied().collect()
            };
            rest = rest.relative_complement(served.clone());
            if target != *name {
                served.iter().for_each(|index| drop(self.group_of.insert(*index, target.clone())));
            }
            self.admit(&target, served.clone());
            if group.attach_point != old.attach_point {
                served
                    .iter()
                    .for_each(|index| self.move_attach_point(*index, old.attach_point, group.attach_point));
            }
            let keeps_place = is_new && target == *name && old.placed.is_some();
            if keeps_place {
                self.replace(name, old);
            }
            let stays = keeps_place && group.has_slots_of(old);
            let newcomers = if stays { OrdSet::new() } else { served };
            let noted = changed.entry(target).or_default();
            *noted = std::mem::take(noted).union(newcomers);
        }
        Ok(())
    }
}
