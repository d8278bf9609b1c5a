//! Filters and bound interfaces as one value, and the rule set that they make.
//!
//! Every operation takes a firewall to the next one, or says why not and changes nothing. Members whose
//! filter compiles to the same program form a [`Group`]. A small group is *folded*: each member has a private
//! program with its own constants, which costs a packet least. A large one is *shared*: one program for all,
//! and a few set elements a member, which costs a change least. The firewall does not know the kernel: the
//! difference of two rule sets is [`plan`](mod@crate::plan)'s, sending it is `apply`'s.

use crate::compile::{self, compile};
use crate::diag::{Code, Diagnostic};
use crate::filter::Filter;
use crate::ir::digest::digest;
use crate::ir::{Bytes, Data, Datum, Family, Name, Role, Ruleset, Table, concat};
use crate::layout::{self, Entrance};
use crate::program::{Program, Slot, printable};
use crate::resolve::{Mode, introduces_loop, resolve, slot_values};
use crate::vars::Vars;
use imbl::{OrdMap, OrdSet};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// All that is enforced, and what it is made of.
#[derive(Clone, Debug)]
pub struct Firewall {
    policy: Policy,
    filters: OrdMap<String, Arc<Filter>>,
    members: OrdMap<u32, Arc<Member>>,
    groups: OrdMap<Name, Arc<Group>>,
    /// Bridges whose frames conntrack must see, with the number of members that need it.
    tracked: OrdMap<String, (u16, usize)>,
    table: Table,
}

/// The choices that no filter makes.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// Up to how many members a group is folded. It is folded again below half of that.
    pub fold_up_to: usize,
    /// What the compiler may use of the kernel, and whether rules count.
    pub compile: compile::Options,
}

/// A bound interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its index, which alone decides.
    pub index: u32,
    /// Its name, for people.
    pub name: String,
    /// The bridge it is a port of, if it is one.
    pub bridge: Option<BridgePort>,
    /// What its frames must pass.
    pub rules: Rules,
    /// The variables of its binding, `MAC` and what was learned among them.
    pub vars: Vars,
}

/// What the frames of an interface must pass.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rules {
    /// The filter of this name, with the filters it refers to.
    Filter(String),
    /// Nothing gets through.
    Closed,
}

/// The bridge of a port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BridgePort {
    /// The index of the bridge.
    pub index: u32,
    /// The name of the bridge.
    pub name: String,
}

/// Members that one program serves.
#[derive(Clone, Debug)]
pub struct Group {
    /// What its members must pass.
    pub rules: Rules,
    /// Who is in it.
    pub members: OrdSet<u32>,
    /// The program that all share, with slots.
    pub program: Arc<Program>,
    /// Where the program is placed, if the group is shared; a folded group's members have one each.
    pub placed: Option<Name>,
    signature: Signature,
}

/// What of a member's variables a program with slots depends on: which of those that the filter reads there
/// are, and the values of those that are folded all the same.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Signature {
    reads: BTreeMap<String, bool>,
    folded: BTreeMap<String, Vec<String>>,
}

/// A program and the variables it was made of.
struct Compiled {
    program: Program,
    /// Every variable that a rule reads or a reference sets.
    reads: BTreeSet<String>,
    /// Those of the binding whose values are constants of the program.
    folded: BTreeSet<String>,
}

/// A change that was refused, and for which interface's sake.
#[derive(Clone, Debug, PartialEq)]
pub struct Refused {
    /// The interface; none where the change itself is at fault.
    pub interface: Option<String>,
    /// Why.
    pub diagnostics: Vec<Diagnostic>,
}

impl Firewall {
    /// Nothing bound, no filters.
    pub fn new(policy: Policy) -> Firewall {
        Firewall {
            policy,
            filters: OrdMap::new(),
            members: OrdMap::new(),
            groups: OrdMap::new(),
            tracked: OrdMap::new(),
            table: layout::skeleton(),
        }
    }

    /// The rule set that enforces it.
    pub fn ruleset(&self) -> Ruleset {
        Ruleset { tables: [(Family::Bridge, self.table.clone())].into() }
    }

    /// The filter of a name.
    pub fn filter(&self, name: &str) -> Option<&Arc<Filter>> {
        self.filters.get(name)
    }

    /// All filters by name.
    pub fn filters(&self) -> &OrdMap<String, Arc<Filter>> {
        &self.filters
    }

    /// All bound interfaces by index.
    pub fn members(&self) -> &OrdMap<u32, Arc<Member>> {
        &self.members
    }

    /// All groups by name.
    pub fn groups(&self) -> &OrdMap<Name, Arc<Group>> {
        &self.groups
    }

    /// With an interface bound, or, where it is bound already, with its filter, variables or bridge changed.
    pub fn bind(&self, member: Member) -> Result<Firewall, Refused> {
        let mut next = self.clone();
        next.join(member)?;
        next.settle();
        Ok(next)
    }

    /// With many interfaces bound at once.
    pub fn bind_all(&self, members: impl IntoIterator<Item = Member>) -> Result<Firewall, Refused> {
        let mut next = self.clone();
        for member in members {
            next.join(member)?;
        }
        next.settle();
        Ok(next)
    }

    /// Without the interface of this index.
    pub fn unbind(&self, index: u32) -> Firewall {
        let mut next = self.clone();
        if let Some(group) = next.part(index) {
            next.fold_if_small(&group);
        }
        next.clear_slots(index);
        layout::leave(&mut next.table, index);
        next.members.remove(&index);
        next.settle();
        next
    }

    /// With filters defined or redefined. Whoever uses one of them gets its new meaning, all or none.
    pub fn define(&self, filters: impl IntoIterator<Item = Arc<Filter>>) -> Result<Firewall, Refused> {
        let mut next = self.clone();
        let mut changed = BTreeSet::new();
        for filter in filters {
            changed.insert(filter.name.clone());
            next.filters.insert(filter.name.clone(), filter);
        }
        let uses = |group: &Group| match &group.rules {
            Rules::Filter(root) => changed.iter().any(|name| self.uses(root, name) || next.uses(root, name)),
            Rules::Closed => false,
        };
        let affected: Vec<Name> =
            next.groups.iter().filter(|(_, group)| uses(group)).map(|(name, _)| name.clone()).collect();
        next.rebuild(affected)?;
        Ok(next)
    }

    /// Without the filter of this name. Whoever still uses it is named in the refusal.
    pub fn undefine(&self, name: &str) -> Result<Firewall, Refused> {
        if let Some(group) = self
            .groups
            .values()
            .find(|group| matches!(&group.rules, Rules::Filter(root) if self.uses(root, name)))
        {
            let user = group.members.get_min().and_then(|index| self.members.get(index));
            let message = format!("filter '{name}' is in use");
            return Err(Refused {
                interface: user.map(|member| member.name.clone()),
                diagnostics: vec![Diagnostic::error(Code::OPERATION_FAILED, message)],
            });
        }
        let mut next = self.clone();
        next.filters.remove(name);
        Ok(next)
    }

    /// Shuts every link of this name that is not bound, until [`Firewall::unreserve`].
    pub fn reserve(&self, name: &str) -> Firewall {
        let mut next = self.clone();
        layout::reserve(&mut next.table, name);
        next
    }

    /// Lets links of this name be.
    pub fn unreserve(&self, name: &str) -> Firewall {
        let mut next = self.clone();
        layout::unreserve(&mut next.table, name);
        next
    }

    /// Whether a binding with these variables could be enforced, were its link there.
    pub fn check(&self, filter: &str, vars: &Vars) -> Result<(), Refused> {
        let compiled = self.compile(&Rules::Filter(filter.into()), vars, Mode::Fold);
        compiled.map(drop).map_err(|diagnostics| Refused { interface: None, diagnostics })
    }

    /// Whether the filter `root` has `name` in its tree.
    pub fn uses(&self, root: &str, name: &str) -> bool {
        let mut seen = BTreeSet::new();
        let mut open = vec![root];
        while let Some(next) = open.pop() {
            if seen.insert(next) {
                open.extend(self.filters.get(next).into_iter().flat_map(|filter| filter.references()));
            }
        }
        seen.contains(name)
    }

    /// Whether references would run in a circle with this filter defined.
    pub fn introduces_loop(&self, filter: &Filter) -> bool {
        introduces_loop(&|name| self.filters.get(name).cloned(), filter)
    }

    /// Compiled anew for other choices or another kernel.
    pub fn with_policy(&self, policy: Policy) -> Result<Firewall, Refused> {
        let mut next = self.clone();
        next.policy = policy;
        next.rebuild(self.groups.keys().cloned().collect())?;
        Ok(next)
    }

    fn compile(&self, rules: &Rules, vars: &Vars, mode: Mode) -> Result<Compiled, Vec<Diagnostic>> {
        let Rules::Filter(filter) = rules else {
            return Ok(Compiled {
                program: Program::closed(),
                reads: BTreeSet::new(),
                folded: BTreeSet::new(),
            });
        };
        let resolved = resolve(&|name| self.filters.get(name).cloned(), filter, vars, mode)?;
        let program = compile(&resolved, &self.policy.compile)?;
        Ok(Compiled { program, reads: resolved.reads, folded: resolved.folded })
    }

    /// Takes a member out of its group and what the group gave it; its old dispatch stays until it enters
    /// anew. Returns the group's name.
    fn part(&mut self, index: u32) -> Option<Name> {
        let found = self.groups.iter().find(|(_, group)| group.members.contains(&index));
        let (name, mut group) = found.map(|(name, group)| (name.clone(), Group::clone(group)))?;
        group.members.remove(&index);
        self.track(&group.program, index, false);
        self.groups.insert(name.clone(), Arc::new(group));
        Some(name)
    }

    fn join(&mut self, member: Member) -> Result<(), Refused> {
        let (index, interface) = (member.index, member.name.clone());
        let refused = |diagnostics| Refused { interface: Some(interface.clone()), diagnostics };
        let name = self.group_for(&member).map_err(refused)?;
        let left = self.part(index).filter(|left| *left != name);
        self.members.insert(index, Arc::new(member));
        let mut group = Group::clone(&self.groups[&name]);
        group.members.insert(index);
        self.track(&group.program, index, true);
        self.groups.insert(name.clone(), Arc::new(group));
        self.admit(&name, index).map_err(refused)?;
        if let Some(left) = left {
            self.fold_if_small(&left);
        }
        Ok(())
    }

    /// The group whose program serves this member, made if there is none.
    fn group_for(&mut self, member: &Member) -> Result<Name, Vec<Diagnostic>> {
        let same = |group: &Group| group.rules == member.rules && group.signature.fits(&member.vars);
        if let Some((name, _)) = self.groups.iter().find(|(_, group)| same(group)) {
            return Ok(name.clone());
        }
        let group = self.compile_group(&member.rules, &member.vars)?;
        let name = self.free_name(&group.program.filter);
        self.groups.insert(name.clone(), Arc::new(group));
        Ok(name)
    }

    fn compile_group(&self, rules: &Rules, vars: &Vars) -> Result<Group, Vec<Diagnostic>> {
        let compiled = self.compile(rules, vars, Mode::Slots)?;
        let signature = Signature::of(vars, &compiled);
        let (rules, program) = (rules.clone(), Arc::new(compiled.program));
        Ok(Group { rules, members: OrdSet::new(), program, placed: None, signature })
    }

    fn free_name(&self, filter: &str) -> Name {
        let label = printable(filter);
        let variants = (2..).map(|n| format!("{label}/v{n}"));
        let free = |name: &String| !self.groups.contains_key(name.as_str());
        std::iter::once(label.to_string()).chain(variants).find(free).expect("numbers do not end").into()
    }

    /// Lets a member of a group into the table, in the group's way.
    fn admit(&mut self, name: &Name, index: u32) -> Result<(), Vec<Diagnostic>> {
        let group = self.groups[name].clone();
        match group.placed {
            Some(_) => self.enter_shared(name, &group, index),
            None if group.members.len() > self.policy.fold_up_to => self.share(name),
            None => self.enter_private(index),
        }
    }

    fn enter_shared(&mut self, name: &Name, group: &Group, index: u32) -> Result<(), Vec<Diagnostic>> {
        self.fill_slots(&group.program.slots, index)?;
        layout::enter(&mut self.table, index, &Entrance::Shared(name.clone()));
        Ok(())
    }

    fn enter_private(&mut self, index: u32) -> Result<(), Vec<Diagnostic>> {
        let member = self.members[&index].clone();
        let program = self.compile(&member.rules, &member.vars, Mode::Fold)?.program;
        let prefix = prefix_for(&program);
        self.clear_slots(index);
        layout::place(&mut self.table, &prefix, &program);
        layout::enter(&mut self.table, index, &Entrance::Private(prefix));
        Ok(())
    }

    /// Places a group's program and lets all its members share it.
    fn share(&mut self, name: &Name) -> Result<(), Vec<Diagnostic>> {
        let mut group = Group::clone(&self.groups[name]);
        let prefix = prefix_for(&group.program);
        layout::place(&mut self.table, &prefix, &group.program);
        layout::lead(&mut self.table, name, &prefix);
        group.placed = Some(prefix);
        self.make_slots(&group.program);
        group.members.iter().try_for_each(|index| self.enter_shared(name, &group, *index))?;
        self.groups.insert(name.clone(), Arc::new(group));
        Ok(())
    }

    fn fold_if_small(&mut self, name: &Name) {
        let group = self.groups[name].clone();
        if group.members.is_empty() {
            self.groups.remove(name);
        }
        if group.placed.is_none() || group.members.len() > self.policy.fold_up_to / 2 {
            return;
        }
        let folded = group.members.iter().try_for_each(|index| self.enter_private(*index));
        if folded.is_err() {
            return; // What compiled with slots compiles folded; if it ever does not, sharing is as right.
        }
        layout::mislead(&mut self.table, name);
        if let Some(group) = self.groups.get_mut(name) {
            Arc::make_mut(group).placed = None;
        }
    }

    fn make_slots(&mut self, program: &Program) {
        for slot in &program.slots {
            let empty = || layout::set(slot.key(), Data::None, Role::Variable);
            self.table.sets.entry(slot.set_name()).or_insert_with(empty);
        }
    }

    /// Gives a member's values to the sets of these slots, and takes its others away.
    fn fill_slots(&mut self, slots: &BTreeSet<Slot>, index: u32) -> Result<(), Vec<Diagnostic>> {
        let member = self.members[&index].clone();
        let mut wanted: Vec<(Name, Vec<Bytes>)> = Vec::new();
        for slot in slots {
            let values = slot_values(slot, &member.vars).map_err(|fault| vec![fault])?;
            wanted.push((slot.set_name(), values.iter().map(|value| member_key(index, value)).collect()));
        }
        self.clear_slots(index);
        for (name, keys) in wanted {
            let set = self.table.sets.get_mut(&name).expect("a shared group has its sets");
            set.elements.extend(keys.into_iter().map(|key| (key, Datum::None)));
        }
        Ok(())
    }

    /// Takes all values of a member away.
    fn clear_slots(&mut self, index: u32) {
        let first: Bytes = index.to_ne_bytes().into();
        for name in self.variable_sets() {
            let set = self.table.sets.get_mut(&name).expect("listed above");
            let from_first = set.elements.range(first.clone()..).map(|(key, _)| key);
            let own: Vec<Bytes> = from_first.take_while(|key| key.starts_with(&first)).cloned().collect();
            own.iter().for_each(|key| drop(set.elements.remove(key)));
        }
    }

    fn variable_sets(&self) -> Vec<Name> {
        let variable = self.table.sets.iter().filter(|(_, set)| set.role == Role::Variable);
        variable.map(|(name, _)| name.clone()).collect()
    }

    /// Compiles groups anew. A group whose members no longer agree is split; the first part keeps its name.
    fn rebuild(&mut self, groups: Vec<Name>) -> Result<(), Refused> {
        for name in groups {
            let group = self.groups[&name].clone();
            self.rebuild_group(&name, &group)?;
        }
        self.settle();
        Ok(())
    }

    fn rebuild_group(&mut self, name: &Name, old: &Group) -> Result<(), Refused> {
        let Some(first) = old.members.get_min().copied() else { return Ok(()) };
        let refused = |firewall: &Firewall, index: &u32| {
            let interface = Some(firewall.members[index].name.clone());
            move |diagnostics| Refused { interface, diagnostics }
        };
        let vars = &self.members[&first].vars.clone();
        let mut group = self.compile_group(&old.rules, vars).map_err(refused(self, &first))?;
        let fits = |index: &&u32| group.signature.fits(&self.members[*index].vars);
        let (stay, go): (OrdSet<u32>, Vec<u32>) =
            if group.signature.folded.is_empty() && old.signature.folded.is_empty() {
                (old.members.clone(), Vec::new())
            } else {
                (
                    old.members.iter().filter(fits).copied().collect(),
                    old.members.iter().filter(|index| !fits(index)).copied().collect(),
                )
            };
        for index in &old.members {
            self.track(&old.program, *index, false);
        }
        group.members = stay;
        for index in &group.members {
            self.track(&group.program, *index, true);
        }
        let slots_differ = group.program.slots != old.program.slots;
        match &old.placed {
            Some(_) => {
                let prefix = prefix_for(&group.program);
                layout::place(&mut self.table, &prefix, &group.program);
                layout::lead(&mut self.table, name, &prefix);
                group.placed = Some(prefix);
                self.make_slots(&group.program);
                for index in group.members.iter().filter(|_| slots_differ) {
                    self.fill_slots(&group.program.slots, *index).map_err(refused(self, index))?;
                }
            }
            None => {
                for index in &group.members {
                    self.enter_private(*index).map_err(refused(self, index))?;
                }
            }
        }
        self.groups.insert(name.clone(), Arc::new(group));
        for index in go {
            let member = Member::clone(&self.members[&index]);
            self.join(member)?;
        }
        self.fold_if_small(name);
        Ok(())
    }

    /// Counts a member's bridge in or out of those that conntrack must see.
    fn track(&mut self, program: &Program, index: u32, needed: bool) {
        let Some(bridge) = self.members.get(&index).and_then(|member| member.bridge.clone()) else { return };
        if !program.stateful {
            return;
        }
        let zone = u16::try_from(bridge.index % 0xffff).unwrap_or_default() + 1;
        let count = self.tracked.get(&bridge.name).map_or(0, |(_, count)| *count);
        match if needed { count + 1 } else { count.saturating_sub(1) } {
            0 => self.tracked.remove(&bridge.name),
            count => self.tracked.insert(bridge.name, (zone, count)),
        };
    }

    /// Removes what nothing needs any more, and has conntrack see what it must.
    fn settle(&mut self) {
        layout::sweep(&mut self.table);
        let shared = self.groups.values().filter(|group| group.placed.is_some());
        let needed: BTreeSet<Name> =
            shared.flat_map(|group| group.program.slots.iter().map(Slot::set_name)).collect();
        for name in self.variable_sets() {
            if !needed.contains(&name) {
                self.table.sets.remove(&name);
            }
        }
        let bridges: Vec<(String, u16)> =
            self.tracked.iter().map(|(name, (zone, _))| (name.clone(), *zone)).collect();
        layout::track(&mut self.table, &bridges);
    }
}

impl Signature {
    fn of(vars: &Vars, compiled: &Compiled) -> Signature {
        let is_there = |name: &String| (name.clone(), vars.0.contains_key(name));
        let value = |name: &String| Some((name.clone(), vars.values(name)?.to_vec()));
        Signature {
            reads: compiled.reads.iter().map(is_there).collect(),
            folded: compiled.folded.iter().filter_map(value).collect(),
        }
    }

    fn fits(&self, vars: &Vars) -> bool {
        self.reads.iter().all(|(name, is_there)| vars.0.contains_key(name) == *is_there)
            && self.folded.iter().all(|(name, values)| vars.values(name) == Some(values))
    }
}

fn prefix_for(program: &Program) -> Name {
    layout::prefix(&printable(&program.filter), digest(&program.chains))
}

fn member_key(index: u32, value: &[Bytes]) -> Bytes {
    let index = index.to_ne_bytes();
    let parts: Vec<&[u8]> = std::iter::once(&index[..]).chain(value.iter().map(|part| &part[..])).collect();
    concat(&parts)
}
