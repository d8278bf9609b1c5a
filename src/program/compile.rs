//! A resolved filter made into a program: the chains that frames from and to a guest walk.
//!
//! Both layers are one walk: what the Ethernet layer accepts goes on to the IP layer's chains, where the program
//! has any. Every walk ends in an explicit verdict. What the kernel can do is an argument; nothing here asks it.

mod chains;
mod ethernet;
mod host;
mod ip;
mod matches;
mod notes;

pub use host::{HOST_MARK, lets_host};
pub use ip::{needs_bridge, refuses_to_guest};
pub use notes::{Use, silenced, warnings};

use crate::document::diag::Diagnostic;
use crate::guest::link::Orientation;
use crate::program::ir::{
    self, Action, KeySource, KeyType, Match, Name, Set, SetRef, SetRole, ValueType, Verdict,
};
use crate::program::name::SetName;
use crate::program::resolve::Resolved;
use crate::program::{Direction, IN, OUT, Program, Refusals, Slot};
use imbl::OrdMap;
use ip::{asks_for_connections, rejects_packets};
use std::collections::{BTreeMap, BTreeSet};

/// What a program is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// What the kernel can do.
    pub features: Capabilities,
    /// Whether each rule of a filter counts the frames it matches.
    pub counters: bool,
    /// What becomes of packets that the host itself sends to a guest.
    pub host_to_guest: HostToGuest,
}

/// What becomes of packets that the host itself sends to a guest: answers of its DHCP server, ssh, DNS. What it routes to
/// the guest for others is not among them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "report", derive(serde::Deserialize, serde::Serialize))]
#[cfg_attr(feature = "service", derive(clap::ValueEnum))]
#[cfg_attr(feature = "report", serde(rename_all = "lowercase"))]
#[non_exhaustive]
pub enum HostToGuest {
    /// The Ethernet layer judges them and the IP layer does not, as in libvirt.
    #[default]
    Pass,
    /// Both layers judge them.
    Filter,
}

/// Which part of a program is made. A bridge port has all of it in one place. Where frames never meet a bridge and the
/// program asks for connections, which are known in the IP layer only, its Ethernet layer sits on the device and the rest there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// Both layers.
    Whole,
    /// The Ethernet layer: what it would hand to the IP layer passes.
    Link,
    /// The IP layer, for packets and not for frames.
    Ip,
}

/// What programs need to know of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Two registers can be compared, so that a frame's fields can be.
    pub xor_registers: bool,
    /// A frame from the guest can be rejected with an answer.
    pub reject: bool,
    /// Connections of bridged frames are tracked, so that their state can be asked for.
    pub state: bool,
    /// Connections can be counted.
    pub limit: bool,
    /// Where the frames are seen, which decides over some of the above.
    pub hooks: AttachPoint,
    /// What there is in the host's IP layer.
    pub packets: PacketCapabilities,
}

/// What can be asked of packets in the host's IP layer; all else is as elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketCapabilities {
    /// There are rules for them at all.
    pub seen: bool,
    /// A packet from the guest can be rejected with an answer.
    pub reject: bool,
    /// Connections are tracked.
    pub state: bool,
    /// Connections can be counted.
    pub limit: bool,
}

/// Where the frames of an interface are seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum AttachPoint {
    /// On their way through a bridge.
    Bridge,
    /// At the interface itself: what its guest sends comes in by it.
    Device,
    /// At the interface itself, which is a macvtap: what its guest sends goes out by it.
    Macvtap,
    /// At the interface itself, which is a port of a bridge that lets through what passes there.
    Port,
    /// At the interface itself, and its packets once more in the host's IP layer, where connections are known.
    Routed,
    /// In the host's IP layer, which sees packets and no frames.
    Packets,
}

impl AttachPoint {
    /// Which way guests' frames go through an interface with these hooks.
    pub fn orientation(self) -> Orientation {
        match self {
            AttachPoint::Macvtap => Orientation::Reversed,
            _ => Orientation::Straight,
        }
    }
}

impl Capabilities {
    /// A kernel that can do everything.
    pub const ALL: Capabilities = Capabilities {
        xor_registers: true,
        reject: true,
        state: true,
        limit: true,
        hooks: AttachPoint::Bridge,
        packets: PacketCapabilities { seen: true, reject: true, state: true, limit: true },
    };

    /// What is left of it there: a device's own hooks know no connections and send no answers.
    pub fn at(self, hooks: AttachPoint) -> Capabilities {
        let PacketCapabilities { reject, state, limit, .. } = self.packets;
        match hooks {
            AttachPoint::Bridge => Capabilities { hooks, ..self },
            AttachPoint::Packets => Capabilities { reject, state, limit, hooks, ..self },
            AttachPoint::Device | AttachPoint::Macvtap | AttachPoint::Port | AttachPoint::Routed => {
                Capabilities { reject: false, state: false, limit: false, hooks, ..self }
            }
        }
    }
}

/// What the parts of one program have in common while it is made.
struct Build<'a> {
    resolved: &'a Resolved,
    options: Options,
    part: Part,
    program: Program,
    /// How many sets count connections of frames of each direction.
    counting: BTreeMap<Direction, usize>,
    diagnostics: Vec<Diagnostic>,
}

/// The program of a resolved filter.
pub fn compile(resolved: &Resolved, options: &Options) -> Result<Program, Vec<Diagnostic>> {
    compile_part(resolved, options, Part::Whole)
}

/// A part of the program of a resolved filter, for the place where the options hold.
pub fn compile_part(resolved: &Resolved, options: &Options, part: Part) -> Result<Program, Vec<Diagnostic>> {
    let program = Program {
        filter: resolved.filter.clone(),
        chains: BTreeMap::new(),
        sets: BTreeMap::new(),
        foreign: BTreeMap::new(),
        slots: BTreeSet::new(),
        stateful: false,
    };
    let mut build = Build {
        resolved,
        options: *options,
        part,
        program,
        counting: BTreeMap::new(),
        diagnostics: Vec::new(),
    };
    for direction in [Direction::Out, Direction::In] {
        build.add_direction(direction);
    }
    let mut program = build.program;
    prune(&mut program);
    program.stateful = program.chains.values().flatten().any(is_stateful);
    if build.diagnostics.is_empty() { Ok(program) } else { Err(build.diagnostics) }
}

/// The programs of one interface.
#[derive(Clone, Debug, PartialEq)]
pub struct Programs {
    /// For its frames.
    pub frames: Program,
    /// For its packets in the host's IP layer, where that knows more than can be known of frames.
    pub packets: Option<Program>,
    /// For those frames of a bridge's port that its bridge takes or makes itself, at the port's own hooks.
    pub guard: Option<Program>,
}

/// The programs of a resolved filter for an interface whose frames are seen there, in a kernel that has the features.
pub fn compile_at(
    resolved: &Resolved,
    options: &Options,
    hooks: AttachPoint,
) -> Result<Programs, Vec<Diagnostic>> {
    let at = |hooks, part| {
        compile_part(resolved, &Options { features: options.features.at(hooks), ..*options }, part)
    };
    let packets = match hooks {
        AttachPoint::Routed if asks_for_connections(resolved) => Some(at(AttachPoint::Packets, Part::Ip)?),
        // What cannot be answered there is dropped here.
        AttachPoint::Routed if rejects_packets(resolved) => at(AttachPoint::Packets, Part::Ip).ok(),
        _ => None,
    };
    let frames = at(hooks, if packets.is_some() { Part::Link } else { Part::Whole })?;
    let frames = if hooks == AttachPoint::Macvtap { frames.reversed() } else { frames };
    Ok(Programs { frames, packets, guard: None })
}

/// The same for a port of a bridge that also has its own hooks, for frames that the bridge takes or makes itself. The Ethernet
/// layer judges them: such an IP packet gets no further from the guest, and to it comes from the host.
pub fn compile_guarded(resolved: &Resolved, options: &Options) -> Result<Programs, Vec<Diagnostic>> {
    let at_port = Options { features: options.features.at(AttachPoint::Port), ..*options };
    let guard = Some(compile_part(resolved, &at_port, Part::Link)?);
    Ok(Programs { guard, ..compile_at(resolved, options, AttachPoint::Bridge)? })
}

impl Programs {
    /// Nothing gets through.
    pub fn blocked() -> Programs {
        Programs { frames: Program::blocked(), packets: None, guard: None }
    }

    /// What comes after the first, and the hooks that lead to it.
    pub fn further(self) -> Option<(AttachPoint, Program)> {
        let packets = self.packets.map(|packets| (AttachPoint::Packets, packets));
        packets.or(self.guard.map(|guard| (AttachPoint::Port, guard)))
    }

    /// Whether packets that the host itself sends pass by their mark.
    pub fn let_host(&self) -> bool {
        lets_host(&self.frames) || self.packets.as_ref().is_some_and(lets_host)
    }

    /// The same, counting what they drop at an interface with these hooks, for each interface and rule.
    pub fn tallied(self, hooks: AttachPoint) -> Programs {
        // The host's answer to a packet may be known by the packet's own mark (`fwmark_reflect`).
        let packets = self.packets.map(|packets| packets.tallied(Orientation::Straight, Refusals::Dropped));
        let guard = self.guard.map(|guard| guard.tallied(Orientation::Straight, Refusals::All));
        Programs { frames: self.frames.tallied(hooks.orientation(), Refusals::All), packets, guard }
    }
}

fn is_stateful(rule: &ir::Rule) -> bool {
    rule.matches
        .iter()
        .any(|part| matches!(part, Match::CtState { .. } | Match::CtDirection(_) | Match::ConnLimit { .. }))
}

/// Takes away what no frame reaches.
fn prune(program: &mut Program) {
    let mut reached = BTreeSet::new();
    let mut open: Vec<Name> = vec![OUT.into(), IN.into()];
    while let Some(name) = open.pop() {
        if reached.insert(name.clone()) {
            open.extend(program.chains[&name].iter().flat_map(|rule| targets(&rule.action)));
        }
    }
    program.chains.retain(|name, _| reached.contains(name));
    let sets: BTreeSet<Name> =
        program.chains.values().flatten().flat_map(|rule| &rule.matches).filter_map(set_name).collect();
    program.sets.retain(|name, _| sets.contains(name));
    program.foreign.retain(|name, _| sets.contains(name));
    program.slots.retain(|slot| sets.contains(&slot.set_name()));
}

fn targets(action: &Action) -> Vec<Name> {
    match action {
        Action::Jump(chain) | Action::Goto(chain) => vec![chain.clone()],
        Action::AnonymousVmap(_, map) => {
            let chain = |verdict: &Verdict| match verdict {
                Verdict::Jump(chain) | Verdict::Goto(chain) => Some(chain.clone()),
                Verdict::Accept | Verdict::Drop => None,
            };
            map.values().filter_map(chain).collect()
        }
        _ => Vec::new(),
    }
}

fn set_name(part: &Match) -> Option<Name> {
    match part {
        Match::Lookup { set: SetRef::Named(name), .. } | Match::ConnLimit { set: name, .. } => {
            Some(name.clone())
        }
        _ => None,
    }
}

impl Direction {
    /// Where the index of the guest's interface is read.
    fn index(self) -> KeySource {
        match self {
            Direction::Out => KeySource::Iif,
            Direction::In => KeySource::Oif,
        }
    }

    fn name(self, rest: &str) -> Name {
        format!("{}/{rest}", self.chain()).into()
    }
}

impl Build<'_> {
    fn add_chain(&mut self, name: Name, rules: Vec<ir::Rule>) {
        self.program.chains.insert(name, rules);
    }

    /// The set that members of the program fill.
    fn slot_set(&mut self, slot: Slot) -> SetRef {
        let name = slot.set_name();
        self.program.slots.insert(slot);
        SetRef::Named(name)
    }

    /// The set that stands for an ipset; a set has one type of key, so that there is one for each family.
    fn ipset(&mut self, ipset: &str, kind: KeyType) -> SetRef {
        let name = Name::from(SetName::Ipset(ipset.into(), kind));
        self.program.foreign.entry(name.clone()).or_insert_with(|| set(vec![kind], false));
        SetRef::Named(name)
    }

    /// A new set that counts connections of each guest by address.
    fn connections(&mut self, direction: Direction, kind: KeyType) -> Name {
        let number = self.counting.entry(direction).or_default();
        *number += 1;
        let name = direction.name(&format!("connections-{number}"));
        self.program.sets.insert(name.clone(), set(vec![KeyType::IfIndex, kind], true));
        name
    }
}

fn set(key: Vec<KeyType>, dynamic: bool) -> Set {
    Set {
        key,
        data: ValueType::None,
        role: SetRole::Foreign,
        dynamic,
        counted: false,
        elements: OrdMap::new(),
    }
}
