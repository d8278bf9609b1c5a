//! The three tables, and how an interface sits in them: for the daemon, which knows all bound interfaces, and for the command,
//! which knows one interface and what the kernel holds.
//!
//! Programs are data here; which interfaces share them and when they go is [`Firewall`](super::Firewall)'s.

use super::attachment::{Attachment, BridgePort};
use crate::program::Program;
use crate::program::compile::{AttachPoint, Capabilities, Programs};
use crate::program::ir::{Action, Family, Name, Ruleset, Table};
use crate::ruleset::layout::Tracing;
use crate::ruleset::layout::{self, DispatchTarget, Tracked};

/// Our tables, each with everything but programs and interfaces at least.
#[derive(Clone, Debug)]
pub struct Tables {
    /// For ports of bridges.
    pub(super) bridge: Table,
    /// For interfaces whose frames no bridge sees.
    pub(super) netdev: Table,
    /// For their packets in the host's IP layer, and to block it for every other bound interface.
    pub(super) inet: Table,
    /// Whether the kernel has rules for packets.
    seen: bool,
}

/// Where an interface's frames are judged.
#[derive(Clone, Copy, Debug)]
pub(super) struct AttachSpec<'a> {
    /// By what hooks.
    pub(super) hooks: AttachPoint,
    /// The device that they are of.
    pub(super) device: Option<&'a str>,
    /// What becomes of its packets in the host's IP layer where no program of it is there.
    pub(super) packets: PacketPolicy,
}

/// What becomes of packets that no program of the host's IP layer judges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PacketPolicy {
    /// They pass: their frames have been judged.
    Pass,
    /// They are blocked.
    Blocked,
}

impl Tables {
    /// With no interface bound, for a kernel with these features.
    pub fn new(features: &Capabilities) -> Tables {
        let seen = features.packets.seen;
        let (bridge, netdev) = (layout::skeleton(), layout::device_skeleton());
        let mut tables = Tables { bridge, netdev, inet: layout::packet_skeleton(), seen };
        tables.with_answers(features);
        tables
    }

    /// What the kernel holds: its interfaces and their programs as they are, and everything else as it must be, whatever
    /// others have made of it.
    pub fn from_kernel(recalled: &Ruleset, features: &Capabilities) -> Tables {
        let mut tables = Tables::new(features);
        for (family, found) in &recalled.tables {
            let table = tables.of_mut(*family);
            *table = layout::renewed(found, std::mem::take(table));
        }
        tables
    }

    /// With chains for rules that reject, on a kernel that can.
    pub(super) fn with_answers(&mut self, features: &Capabilities) {
        if features.reject {
            layout::with_answers(&mut self.bridge);
        }
    }

    /// The rule set that they are. There is a table for devices only while there are hooks of such, and one for the host's
    /// IP layer only while a bound interface must be blocked or filtered in it.
    pub fn ruleset(&self) -> Ruleset {
        let tables = [
            (true, Family::Bridge, &self.bridge),
            (self.seen && layout::has_users(&self.inet), Family::Inet, &self.inet),
            (layout::has_hooks(&self.netdev), Family::Netdev, &self.netdev),
        ];
        let needed = tables.into_iter().filter(|(needed, ..)| *needed);
        Ruleset { tables: needed.map(|(_, family, table)| (family, table.clone())).collect() }
    }

    /// All of them.
    pub fn all(&self) -> [&Table; 3] {
        [&self.bridge, &self.netdev, &self.inet]
    }

    fn all_mut(&mut self) -> [&mut Table; 3] {
        [&mut self.bridge, &mut self.netdev, &mut self.inet]
    }

    pub(super) fn of(&self, family: Family) -> &Table {
        match family {
            Family::Bridge => &self.bridge,
            Family::Netdev => &self.netdev,
            Family::Inet => &self.inet,
        }
    }

    pub(super) fn of_mut(&mut self, family: Family) -> &mut Table {
        match family {
            Family::Bridge => &mut self.bridge,
            Family::Netdev => &mut self.netdev,
            Family::Inet => &mut self.inet,
        }
    }

    /// Binds an interface to programs of its own, in place of those that it had. Its name is reserved.
    pub fn attach(&mut self, index: u32, name: &str, place: &Attachment, programs: &Programs) {
        let hooks = place.hooks();
        let dispatch_targets: Vec<(AttachPoint, DispatchTarget)> = parts(hooks, programs)
            .map(|(hooks, program)| {
                (hooks, DispatchTarget::private(hooks, self.install(index, hooks, program)))
            })
            .collect();
        self.detach(index);
        let packets = if hooks == AttachPoint::Bridge { PacketPolicy::Blocked } else { PacketPolicy::Pass };
        self.dispatch(index, AttachSpec { hooks, device: place.device(hooks), packets }, &dispatch_targets);
        self.reserve(name);
        match (place.device(hooks), &programs.guard) {
            (Some(device), _) => layout::hook(&mut self.netdev, device, Tracing::Off),
            (None, Some(_)) => layout::guard(&mut self.netdev, name, Tracing::Off),
            (None, None) => layout::unhook(&mut self.netdev, name),
        }
        if programs.let_host()
            && let Some(link) = place.host_link()
        {
            layout::mark_host(&mut self.inet, link);
        }
        if programs.frames.stateful
            && let Some(bridge) = place.bridge()
        {
            let mut tracked = layout::tracked(&self.bridge);
            tracked.retain(|other| other.bridge != bridge.name);
            tracked.push(bridge.tracked());
            self.track(&tracked);
        }
    }

    /// Places an interface's program: where it has it already, if that is the very same.
    fn install(&mut self, index: u32, hooks: AttachPoint, program: &Program) -> Name {
        let table = self.of_mut(hooks.family());
        let there = layout::private(table, index).filter(|prefix| layout::is_placed(table, prefix, program));
        there.unwrap_or_else(|| layout::install_program(table, program))
    }

    /// These programs under the names that they have for an interface in what was found, so that they are known again.
    pub fn know(&mut self, index: u32, hooks: AttachPoint, programs: &Programs, found: &Ruleset) {
        for (hooks, program) in parts(hooks, programs) {
            let there = found.tables.get(&hooks.family()).and_then(|table| layout::private(table, index));
            if let Some(prefix) = there {
                layout::place(self.of_mut(hooks.family()), &prefix, program);
            }
        }
    }

    /// Takes an interface out of all dispatch.
    pub fn detach(&mut self, index: u32) {
        for table in self.all_mut() {
            layout::remove_interface(table, index);
        }
    }

    /// Takes away programs that nothing leads to, and leaves to conntrack of the bridges that it sees those alone.
    pub fn remove_unreferenced(&mut self, keep: impl Fn(&str) -> bool) {
        self.all_mut().into_iter().for_each(layout::remove_unreferenced);
        let mut tracked = layout::tracked(&self.bridge);
        tracked.retain(|tracked| keep(&tracked.bridge));
        self.track(&tracked);
    }

    /// Whether programs are among them of which not all rules are known: those of interfaces that another process has bound.
    pub fn has_unknown(&self, family: Family) -> bool {
        let rules = self.of(family).chains.values().flat_map(|chain| &chain.rules);
        rules.into_iter().any(|rule| rule.action == Action::Unknown)
    }

    /// Whether an interface is bound.
    pub fn binds(&self, index: u32) -> bool {
        self.all().iter().any(|table| layout::dispatch_target(table, index).is_some())
    }

    /// The interfaces whose frames are judged at their bridge.
    pub fn at_bridges(&self) -> Vec<u32> {
        let bound = layout::bound(&self.bridge).into_iter();
        bound.filter(|index| layout::dispatch_target(&self.bridge, *index).is_some()).collect()
    }

    /// Has conntrack see the frames of these bridges alone.
    pub(super) fn track(&mut self, bridges: &[Tracked]) {
        layout::track(&mut self.bridge, bridges);
    }

    /// Blocks every link of this name that is not bound.
    pub fn reserve(&mut self, name: &str) {
        layout::reserve(&mut self.bridge, name);
        layout::reserve(&mut self.inet, name);
    }

    /// Lets links of this name be.
    pub fn unreserve(&mut self, name: &str) {
        layout::unreserve(&mut self.bridge, name);
        layout::unreserve(&mut self.inet, name);
    }

    /// Lets the device of this name be.
    pub fn unhook(&mut self, name: &str) {
        layout::unmark_host(&mut self.inet, name);
        layout::unhook(&mut self.netdev, name);
    }

    /// Lets the frames of an interface in where they are judged, and nowhere else. The private programs that it leaves are
    /// returned.
    pub(super) fn dispatch(
        &mut self,
        index: u32,
        seat: AttachSpec<'_>,
        dispatch_targets: &[(AttachPoint, DispatchTarget)],
    ) -> Vec<(AttachPoint, Name)> {
        let mut left = Vec::new();
        if !dispatch_targets.iter().any(|(hooks, _)| *hooks == AttachPoint::Packets) {
            left.extend(layout::private(&self.inet, index).map(|prefix| (AttachPoint::Packets, prefix)));
            match seat.packets {
                PacketPolicy::Pass => layout::accept_elsewhere(&mut self.inet, index),
                PacketPolicy::Blocked => layout::quarantine(&mut self.inet, index),
            }
        }
        if !matches!(seat.hooks, AttachPoint::Bridge | AttachPoint::Port) {
            // Should it join a bridge under a name that has no hook, nothing else blocks it there.
            layout::quarantine(&mut self.bridge, index);
        }
        for (hooks, dispatch_target) in dispatch_targets {
            let guards = *hooks == AttachPoint::Port && seat.hooks == AttachPoint::Bridge;
            if *hooks == AttachPoint::Port && !guards {
                layout::bypass_bridge(&mut self.bridge, index, seat.device.expect("a port has a name"));
            }
            let table = self.of_mut(hooks.family());
            left.extend(layout::private(table, index).map(|prefix| (*hooks, prefix)));
            if guards {
                layout::dispatch_guard(table, index, dispatch_target)
            } else {
                layout::dispatch_to(table, index, dispatch_target)
            }
        }
        left
    }
}

/// The programs of an interface with these hooks, each with the hooks that lead to it.
fn parts(hooks: AttachPoint, programs: &Programs) -> impl Iterator<Item = (AttachPoint, &Program)> {
    let packets = programs.packets.iter().map(|packets| (AttachPoint::Packets, packets));
    let guard = programs.guard.iter().map(|guard| (AttachPoint::Port, guard));
    std::iter::once((hooks, &programs.frames)).chain(packets).chain(guard)
}

impl DispatchTarget {
    /// To a program of an interface with these hooks that it shares with no other.
    pub(super) fn private(hooks: AttachPoint, prefix: Name) -> DispatchTarget {
        match hooks {
            AttachPoint::Macvtap => DispatchTarget::Reversed(prefix),
            _ => DispatchTarget::Private(prefix),
        }
    }

    /// The prefix of a program that no other interface shares.
    pub(super) fn own_program(&self) -> Option<&Name> {
        match self {
            DispatchTarget::Private(prefix) | DispatchTarget::Reversed(prefix) => Some(prefix),
            DispatchTarget::Shared(_) => None,
        }
    }
}

impl BridgePort {
    /// The bridge, as one whose frames conntrack is to see, in a zone of its own.
    pub fn tracked(&self) -> Tracked {
        let zone = u16::try_from(self.index % 0xffff).unwrap_or_default() + 1;
        Tracked { bridge: self.name.clone(), zone, host: self.host }
    }
}
