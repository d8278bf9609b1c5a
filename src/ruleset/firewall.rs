//! Filters and bound interfaces as one value, and the rule set that they make.
//!
//! Every operation takes a firewall to the next one, or says why not and changes nothing. Members whose
//! filter compiles to the same program form a [`Group`]. A small group is *folded*: each member has a private
//! program with its own constants, which costs a packet least. A large one is *shared*: one program for all,
//! and a few set elements a member, which costs a change least. The firewall does not know the kernel: the
//! difference of two rule sets is [`plan`](mod@crate::ruleset::plan)'s, sending it is `apply`'s.
//!
//! Members whose frames pass a bridge sit in one table, those whose frames no bridge sees in another ([`Attachment`]).
//!
//! What an operation costs is what it changes: to bind one more interface costs the same among five as among
//! five thousand.

mod attachment;
mod dispatch;
mod group;
mod grouping;
mod members;
mod retained;
mod tables;

pub use attachment::{Attachment, BridgePort, HookLifetime};
pub use dispatch::FOLDED_RULES;
pub use group::{Group, Placed};
pub use tables::Tables;

use crate::document::diag::{Code, Diagnostic, lines};
use crate::document::filter::Filter;
use crate::document::vars::{Access, Vars};
use crate::guest::learning::filters as waiting;
use crate::program::Program;
use crate::program::compile::{self, AttachPoint, HostToGuest, Programs, compile_at, compile_guarded};
use crate::program::ir::{Family, Name, Origin, Ruleset};
use crate::program::resolve::given::{self, Given, Unread};
use crate::program::resolve::{self, Mode, introduces_loop, resolve};
use crate::ruleset::layout::{self, Tracked};
use crate::ruleset::layout::{Tracing, TrafficCounting};
use attachment::Devices;
use group::Compiled;
use grouping::Changed;
use imbl::{OrdMap, OrdSet};
use members::BoundInterfaces;
use retained::Earlier;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Filters by name.
pub type Filters = OrdMap<String, Arc<Filter>>;

/// All that is enforced, and what it is made of.
#[derive(Clone, Debug)]
pub struct Firewall {
    policy: Policy,
    filters: Filters,
    /// Definitions that some members still have, by the name that stands in their rules.
    earlier: OrdMap<String, Earlier>,
    members: BoundInterfaces,
    groups: OrdMap<Name, Arc<Group>>,
    /// The group of each member.
    group_of: OrdMap<u32, Name>,
    /// How many dispatch elements and entry chains lead to each program that is placed.
    uses: OrdMap<(Family, Name), usize>,
    /// Bridges whose frames conntrack must see, with the number of members that need it.
    tracked: OrdMap<String, (Tracked, usize)>,
    /// Interfaces that the host reaches members by whose programs let its packets pass, with the number of such members.
    host_links: OrdMap<String, usize>,
    tables: Tables,
    /// Devices whose own hooks lead to the second table.
    devices: Devices,
    tracing: Tracing,
}

/// The choices that no filter makes.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// Up to how many members a group is folded, unless they would come to more than [`FOLDED_RULES`]. It is folded again
    /// below half of that.
    pub fold_up_to: usize,
    /// What the compiler may use of the kernel, and whether rules count.
    pub compile: compile::Options,
    /// Where the programs of bridge ports sit that could sit in either place.
    pub placement: Placement,
}

/// Where the program of a bridge's port sits, if it needs nothing that only one place has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "report", derive(serde::Deserialize))]
#[cfg_attr(feature = "report", serde(rename_all = "lowercase"))]
#[non_exhaustive]
pub enum Placement {
    /// At the bridge's hooks.
    #[default]
    Bridge,
    /// At the port's own hooks, where hooks outlive their device.
    Device,
}

/// A bound interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BoundInterface {
    /// Its index, which alone decides.
    pub index: u32,
    /// Its name, for people.
    pub name: String,
    /// Where its frames are seen.
    pub place: Attachment,
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
    Blocked,
}

/// A change that was refused, and for which interface's sake.
#[derive(Clone, Debug, PartialEq)]
pub struct Refused {
    /// The interface; none where the change itself is at fault.
    pub interface: Option<String>,
    /// Why.
    pub diagnostics: Vec<Diagnostic>,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(interface) = &self.interface {
            write!(f, "{interface}: ")?;
        }
        f.write_str(&lines(&self.diagnostics))
    }
}

impl std::error::Error for Refused {}

impl Policy {
    /// What suits a kernel with these features: small groups are folded, nothing counts.
    pub fn new(features: impl Into<compile::Capabilities>) -> Policy {
        let compile =
            compile::Options { features: features.into(), counters: false, host_to_guest: HostToGuest::Pass };
        Policy { fold_up_to: 64, compile, placement: Placement::default() }
    }
}

impl Firewall {
    /// Nothing bound, no filters.
    pub fn new(policy: Policy) -> Firewall {
        Firewall {
            policy,
            filters: OrdMap::new(),
            earlier: OrdMap::new(),
            members: BoundInterfaces::default(),
            groups: OrdMap::new(),
            group_of: OrdMap::new(),
            uses: OrdMap::new(),
            tracked: OrdMap::new(),
            host_links: OrdMap::new(),
            tables: Tables::new(&policy.compile.features),
            devices: Devices::default(),
            tracing: Tracing::Off,
        }
    }

    /// The rule set that enforces it. There is a table for devices only while there are such devices, and one for the
    /// host's IP layer only while a bound interface must be blocked or filtered in it.
    pub fn ruleset(&self) -> Ruleset {
        self.tables.ruleset()
    }

    /// The choices that no filter makes.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The filter of a name.
    pub fn filter(&self, name: &str) -> Option<&Arc<Filter>> {
        self.filters.get(name)
    }

    /// All filters by name.
    pub fn filters(&self) -> &Filters {
        &self.filters
    }

    /// All bound interfaces by index.
    pub fn members(&self) -> &OrdMap<u32, Arc<BoundInterface>> {
        self.members.by_index()
    }

    /// The indexes of the interfaces that were bound under a name.
    pub fn members_named(&self, name: &str) -> impl Iterator<Item = u32> {
        self.members.named(name)
    }

    /// All groups by name.
    pub fn groups(&self) -> &OrdMap<Name, Arc<Group>> {
        &self.groups
    }

    /// With an interface bound, or, where it is bound already, with its filter, variables or place changed.
    pub fn bind(&self, member: BoundInterface) -> Result<Firewall, Refused> {
        self.bind_all([member])
    }

    /// With many interfaces bound at once.
    pub fn bind_all(&self, members: impl IntoIterator<Item = BoundInterface>) -> Result<Firewall, Refused> {
        let mut next = self.clone();
        let mut changed = Changed::new();
        for member in members {
            next.add_to_group(member, &mut changed)?;
        }
        next.arrange(changed)?;
        Ok(next)
    }

    /// Without the interface of this index.
    pub fn unbind(&self, index: u32) -> Firewall {
        let mut next = self.clone();
        let Some((left, attach_point)) = next
            .attach_point(index)
            .and_then(|attach_point| Some((next.remove_from_group(index)?, attach_point)))
        else {
            return next;
        };
        if let Some(member) = next.members.remove(index) {
            next.remove_interface(&member, attach_point);
        }
        // A group that cannot be folded stays shared, so there is nothing to refuse.
        let arranged = next.arrange([(left, OrdSet::new())].into());
        debug_assert!(arranged.is_ok(), "an interface cannot be unbound: {arranged:?}");
        next
    }

    /// With filters defined or redefined. Every interface that uses one of them gets its new meaning, or none does.
    pub fn define(&self, filters: impl IntoIterator<Item = Arc<Filter>>) -> Result<Firewall, Refused> {
        let mut next = self.clone();
        let mut defined = BTreeSet::new();
        for filter in filters {
            defined.insert(filter.name.clone());
            next.filters.insert(filter.name.clone(), filter);
        }
        let uses =
            |root: &str| [self, &next].iter().any(|all| !all.tree(root).is_disjoint(&as_strs(&defined)));
        let mut roots: BTreeMap<&str, bool> = BTreeMap::new();
        let mut affected = Vec::new();
        for (name, group) in &self.groups {
            let Rules::Filter(root) = &group.rules else { continue };
            if *roots.entry(root).or_insert_with(|| uses(root)) {
                affected.push(name.clone());
            }
        }
        next.rebuild(affected)?;
        Ok(next)
    }

    /// Without the filter of this name. The refusal names the interfaces that still use it.
    pub fn undefine(&self, name: &str) -> Result<Firewall, Refused> {
        if let Some(group) = self
            .groups
            .values()
            .find(|group| matches!(&group.rules, Rules::Filter(root) if self.uses(root, name)))
        {
            let user = group.members.get_min().and_then(|index| self.members.get(*index));
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

    /// Blocks every link of this name that is not bound, until [`Firewall::unreserve`].
    pub fn reserve(&self, name: &str) -> Firewall {
        let mut next = self.clone();
        next.tables.reserve(name);
        next
    }

    /// Lets links of this name be.
    pub fn unreserve(&self, name: &str) -> Firewall {
        let mut next = self.clone();
        next.tables.unreserve(name);
        next.drop_kept_hook(name);
        next
    }

    /// With the kernel telling of every rule that frames of bound interfaces meet, or not.
    pub fn traced(&self, tracing: Tracing) -> Firewall {
        let mut next = Firewall { tracing, ..self.clone() };
        layout::trace(&mut next.tables.bridge, tracing);
        layout::trace(&mut next.tables.inet, tracing);
        next.hook_all();
        next
    }

    /// With the frames of bound interfaces counted, or not.
    pub fn counting_traffic(&self, traffic: TrafficCounting) -> Firewall {
        let mut next = self.clone();
        layout::count_traffic(&mut next.tables.bridge, traffic);
        layout::count_traffic(&mut next.tables.netdev, traffic);
        next
    }

    /// The rule of a filter that drops are counted as, by their number.
    pub fn dropping(&self) -> BTreeMap<u32, Origin> {
        let programs = self.groups.values().map(|group| &group.program);
        let rules = programs.flat_map(|program| program.chains.values().flatten());
        let origins = rules.filter(|rule| rule.tally.is_some()).filter_map(|rule| rule.origin.as_ref());
        origins.map(|origin| (origin.id, origin.clone())).collect()
    }

    /// Whether a binding with these variables could be enforced at one of these hooks; if not, why not at the first.
    pub fn check(&self, filter: &str, vars: &Vars, hooks: &[AttachPoint]) -> Result<(), Refused> {
        let rules = Rules::Filter(filter.into());
        let mut refusals = Vec::new();
        for hooks in hooks {
            match self.compile(&rules, vars, Mode::Fold, *hooks) {
                Ok(_) => return Ok(()),
                Err(diagnostics) => refusals.push(Refused { interface: None, diagnostics }),
            }
        }
        refusals.into_iter().next().map_or(Ok(()), Err)
    }

    /// The variables that a filter reads and these do not hold.
    pub fn missing(&self, filter: &str, vars: &Vars) -> Result<Vec<Access>, Refused> {
        let missing = resolve::missing(&|name| self.known(name), filter, vars);
        missing.map_err(|diagnostics| Refused { interface: None, diagnostics })
    }

    /// What of a binding's parameters, and of those of the references below its filter, comes to nothing.
    pub fn unread(&self, filter: &str, given: &Given) -> Vec<Unread> {
        given::unread(&|name| self.known(name), filter, given)
    }

    /// Defined by a client, or in force while an address is learned.
    fn known(&self, name: &str) -> Option<Arc<Filter>> {
        self.filters.get(name).cloned().or_else(|| waiting::get(name))
    }

    /// The name of the filter that these rules follow, and it with all that it refers to; none where nothing gets through.
    pub fn followed(&self, rules: &Rules) -> Option<(String, Vec<Arc<Filter>>)> {
        let Rules::Filter(root) = rules else { return None };
        if let Some(earlier) = self.earlier.get(root) {
            return Some((earlier.root.clone(), earlier.library.values().cloned().collect()));
        }
        if let Some(filter) = waiting::document(root) {
            return Some((filter.name.clone(), vec![Arc::new(filter)]));
        }
        let used = self.tree(root).into_iter().filter_map(|name| self.filters.get(name).cloned());
        Some((root.clone(), used.collect()))
    }

    /// Whether the filter `root` has `name` in its tree.
    pub fn uses(&self, root: &str, name: &str) -> bool {
        self.tree(root).contains(name)
    }

    /// The names of a filter and all that it refers to.
    fn tree<'a>(&'a self, root: &'a str) -> BTreeSet<&'a str> {
        let mut seen = BTreeSet::new();
        let mut open = vec![root];
        while let Some(next) = open.pop() {
            if seen.insert(next) {
                open.extend(self.filters.get(next).into_iter().flat_map(|filter| filter.references()));
            }
        }
        seen
    }

    /// Whether references would run in a circle with this filter defined.
    pub fn introduces_loop(&self, filter: &Filter) -> bool {
        introduces_loop(&|name| self.filters.get(name).cloned(), filter)
    }

    /// Recompiled for other choices or another kernel.
    pub fn with_policy(&self, policy: Policy) -> Result<Firewall, Refused> {
        let mut next = self.clone();
        next.policy = policy;
        next.tables.with_answers(&policy.compile.features);
        next.rebuild(self.groups.keys().cloned().collect())?;
        Ok(next)
    }

    /// Whether rules for the frames of an interface can answer: in the host's IP layer only those of that layer.
    pub fn answers(&self, index: u32) -> bool {
        let group = self.group_of.get(&index).and_then(|name| self.groups.get(name));
        let last = group.and_then(|group| group.programs().last().map(|(hooks, _)| hooks));
        last.is_some_and(|hooks| self.policy.compile.features.at(hooks).reject)
    }

    fn compile(
        &self,
        rules: &Rules,
        vars: &Vars,
        mode: Mode,
        hooks: AttachPoint,
    ) -> Result<Compiled, Vec<Diagnostic>> {
        let Rules::Filter(filter) = rules else {
            return Ok(Compiled {
                attach_point: hooks,
                programs: Programs {
                    guard: self.guards(hooks).then(Program::blocked),
                    ..Programs::blocked()
                }
                .tallied(hooks),
                reads: BTreeSet::new(),
                folded: BTreeSet::new(),
            });
        };
        let resolved = match self.earlier.get(filter) {
            Some(earlier) => resolve(&|name| earlier.library.get(name).cloned(), &earlier.root, vars, mode)?,
            None => resolve(&|name| self.known(name), filter, vars, mode)?,
        };
        let attach_point = match hooks {
            AttachPoint::Port if compile::needs_bridge(&resolved) => AttachPoint::Bridge,
            hooks => hooks,
        };
        let programs = if self.guards(attach_point) {
            compile_guarded(&resolved, &self.policy.compile)?
        } else {
            compile_at(&resolved, &self.policy.compile, attach_point)?
        };
        let programs = programs.tallied(attach_point);
        Ok(Compiled { attach_point, programs, reads: resolved.reads, folded: resolved.folded })
    }
}

fn as_strs(names: &BTreeSet<String>) -> BTreeSet<&str> {
    names.iter().map(String::as_str).collect()
}
