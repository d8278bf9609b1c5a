//! How frames and packets get to the dispatch of a table, and through it to programs: base chains, and what they search.
//!
//! At a bridge's hooks the dispatch is the base chain. At a device's own hooks, one base chain in each direction jumps to it;
//! in the host's IP layer one base chain does, and returns packets of unbound interfaces. Knows names and indexes, no programs.

use super::{
    AT_DEVICE, AT_EGRESS, AT_INGRESS, AT_POSTROUTING, AT_PREROUTING, BOUND, FROM_GUEST, RESERVED, TO_GUEST,
    TRAFFIC_IN, TRAFFIC_OUT,
};
use crate::document::field::Field;
use crate::guest::link::Orientation;
use crate::program::ir::{
    Action, Chain, Hook, HookPoint, Key, KeySource, Match, MetaInterface, Name, Rule, SetRef, Table, Tally,
};
use crate::program::name::{ChainName, SetName};
use crate::program::{IN, OUT, printable};
use std::collections::BTreeSet;
use std::sync::Arc;

const PREROUTING: &str = "prerouting";
const POSTROUTING: &str = "postrouting";
const INGRESS: &str = "ingress";
const EGRESS: &str = "egress";
/// Packets from and to bound interfaces.
const FROM: &str = "from";
const TO: &str = "to";

/// After bridge conntrack (-200), and never 0, where br_netfilter may steal a frame.
pub(super) const FILTER_PRIORITY: i32 = -150;
/// Behind the host's translation of source addresses (100): a guest's own addresses, and those that it sees.
const LATE_PRIORITY: i32 = 150;

/// Rewrites the chains of the dispatch, as its sets demand.
pub(super) fn refresh_dispatch(table: &mut Table) {
    for side in sides(table) {
        let hooked = |point, priority| Some(Hook { point, priority, device: None });
        let (hook, gate) = match side.entry {
            DispatchEntry::Hook(point, priority) => (hooked(point, priority), None),
            DispatchEntry::Gate(gate, point, priority) => (None, Some((gate, hooked(point, priority)))),
            DispatchEntry::Devices => (None, None),
        };
        table.chains.insert(side.base.into(), Arc::new(Chain { hook, rules: dispatch(table, side) }));
        if let Some((gate, hook)) = gate {
            let bound = Rule::new(vec![is_in(side.index(), BOUND)], Action::Goto(side.base.into()));
            table.chains.insert(gate.into(), Arc::new(Chain { hook, rules: vec![bound, reserved(side)] }));
        }
    }
}

/// One direction: the chain of its dispatch, and how its frames are recognized.
pub(super) struct Dispatch {
    base: &'static str,
    entry: DispatchEntry,
    interface: MetaInterface,
    name: KeySource,
    /// The chain of a program, where its directions are not reversed.
    chain: &'static str,
    pub(super) map: &'static str,
}

/// How the kernel gets to a dispatch.
enum DispatchEntry {
    /// It begins there, with everybody's frames.
    Hook(HookPoint, i32),
    /// By a base chain of this name, that saves others the search.
    Gate(&'static str, HookPoint, i32),
    /// By base chains of each device.
    Devices,
}

pub(super) const BRIDGE_SIDES: [Dispatch; 2] = both(
    [FROM_GUEST, TO_GUEST],
    [PREROUTING, POSTROUTING],
    [
        DispatchEntry::Hook(HookPoint::Prerouting, FILTER_PRIORITY),
        DispatchEntry::Hook(HookPoint::Postrouting, FILTER_PRIORITY),
    ],
);

pub(super) const DEVICE_SIDES: [Dispatch; 2] =
    both([AT_INGRESS, AT_EGRESS], [INGRESS, EGRESS], [DispatchEntry::Devices, DispatchEntry::Devices]);

pub(super) const PACKET_SIDES: [Dispatch; 2] = both(
    [AT_PREROUTING, AT_POSTROUTING],
    [FROM, TO],
    [
        DispatchEntry::Gate(PREROUTING, HookPoint::Prerouting, FILTER_PRIORITY),
        DispatchEntry::Gate(POSTROUTING, HookPoint::Postrouting, LATE_PRIORITY),
    ],
);

const fn both(
    maps: [&'static str; 2],
    bases: [&'static str; 2],
    entries: [DispatchEntry; 2],
) -> [Dispatch; 2] {
    let [came, goes] = entries;
    let from = Dispatch {
        base: bases[0],
        entry: came,
        interface: MetaInterface::In,
        name: KeySource::IifName,
        chain: OUT,
        map: maps[0],
    };
    let to = Dispatch {
        base: bases[1],
        entry: goes,
        interface: MetaInterface::Out,
        name: KeySource::OifName,
        chain: IN,
        map: maps[1],
    };
    [from, to]
}

/// A table has the sides whose maps it has.
pub(super) fn sides(table: &Table) -> &'static [Dispatch; 2] {
    let all = [&BRIDGE_SIDES, &DEVICE_SIDES, &PACKET_SIDES];
    all.into_iter().find(|sides| table.sets.contains_key(sides[0].map)).unwrap_or(&BRIDGE_SIDES)
}

impl Dispatch {
    fn index(&self) -> KeySource {
        self.interface.index()
    }

    pub(super) fn traffic(&self) -> &'static str {
        match self.interface {
            MetaInterface::In => TRAFFIC_IN,
            MetaInterface::Out => TRAFFIC_OUT,
        }
    }

    pub(super) fn chain(&self, orientation: Orientation) -> &'static str {
        match (self.chain, orientation) {
            (chain, Orientation::Straight) => chain,
            (OUT, Orientation::Reversed) => IN,
            (_, Orientation::Reversed) => OUT,
        }
    }
}

fn is_in(from: KeySource, set: &str) -> Match {
    Match::Lookup { keys: vec![Key::new(from)], negated: false, set: SetRef::Named(set.into()) }
}

fn dispatch(table: &Table, side: &Dispatch) -> Vec<Rule> {
    let by = table.sets.contains_key(AT_DEVICE).then(|| {
        let keys = [side.index(), side.name].map(Key::new).into();
        let by = Match::Lookup { keys, negated: false, set: SetRef::Named(AT_DEVICE.into()) };
        Rule::new(vec![by], Action::Accept)
    });
    let shared = table.sets.keys().filter_map(|set| {
        let (group, orientation) = match SetName::parse(set)? {
            SetName::Members(group) => (group, Orientation::Straight),
            SetName::Reversed(group) => (group, Orientation::Reversed),
            _ => return None,
        };
        let target = ChainName::Entry(group, side.chain(orientation)).into();
        // A jump: should a packet that a change overtakes fall out of a chain not filled yet, it is dropped below.
        Some(Rule::new(vec![is_in(side.index(), set)], Action::Jump(target)))
    });
    let private = Rule::new(vec![], Action::Vmap(vec![Key::new(side.index())], side.map.into()));
    let traffic = side.traffic();
    let traffic = table
        .sets
        .contains_key(traffic)
        .then(|| Rule::new(vec![is_in(side.index(), traffic)], Action::Continue));
    let tally = Some(Tally { by: side.interface, id: 0 });
    let rest = match side.entry {
        DispatchEntry::Hook(..) => {
            let bound = Rule::new(vec![is_in(side.index(), BOUND)], Action::Drop);
            vec![Rule { tally, ..bound }, reserved(side)]
        }
        DispatchEntry::Gate(..) | DispatchEntry::Devices => {
            vec![Rule { tally, ..Rule::new(vec![], Action::Drop) }]
        }
    };
    by.into_iter().chain(traffic).chain(shared).chain([private]).chain(rest).collect()
}

fn reserved(side: &Dispatch) -> Rule {
    Rule::new(vec![is_in(side.name, RESERVED)], Action::Drop)
}

/// Whether the kernel tells of every rule that a frame meets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tracing {
    /// It does.
    On,
    /// It does not.
    #[default]
    Off,
}

impl Tracing {
    fn rule(self) -> Option<Rule> {
        match self {
            Tracing::On => Some(Rule::new(vec![], Action::Trace)),
            Tracing::Off => None,
        }
    }
}

/// Has the kernel tell of every rule that the frames of bound interfaces meet (`nft monitor trace`), or of none.
pub fn trace(table: &mut Table, tracing: Tracing) {
    for side in sides(table) {
        let (base, point, priority) = match side.entry {
            DispatchEntry::Hook(point, priority) => (side.base, point, priority),
            DispatchEntry::Gate(gate, point, priority) => (gate, point, priority),
            DispatchEntry::Devices => continue,
        };
        let name: Name = format!("trace-{base}").into();
        if tracing == Tracing::Off {
            table.chains.remove(&name);
            continue;
        }
        let hook = Some(Hook { point, priority: priority - 1, device: None });
        let rules = vec![Rule::new(vec![is_in(side.index(), BOUND)], Action::Trace)];
        table.chains.insert(name, Arc::new(Chain { hook, rules }));
    }
}

/// Leads all frames of the device that has this name to the dispatch, where it is dropped unless it is bound. The kernel
/// may be made to tell of every rule that they meet.
pub fn hook(table: &mut Table, device: &str, tracing: Tracing) {
    for (side, point) in DEVICE_SIDES.iter().zip([HookPoint::Ingress, HookPoint::Egress]) {
        let hook = Some(Hook { point, priority: FILTER_PRIORITY, device: Some(device.into()) });
        let goto = Rule::new(vec![], Action::Goto(side.base.into()));
        let rules = tracing.rule().into_iter().chain([goto]).collect();
        table.chains.insert(device_chain(side, device), Arc::new(Chain { hook, rules }));
    }
}

/// The addresses of frames that a bridge may keep for itself (01:80:c2:00:00:0x), and the bits that tell.
const LINK_LOCAL: [u8; 6] = [0x01, 0x80, 0xc2, 0, 0, 0];
const LINK_LOCAL_BITS: [u8; 6] = [0xff, 0xff, 0xff, 0xff, 0xff, 0xf0];
/// The kernel's word for a frame that the host, or the bridge's own code, sends.
const HOST: [u8; 1] = [0];
/// What a bridge's own code never sends.
const TCP_AND_UDP: [u8; 2] = [6, 17];

/// Sends those frames of a bridge's port to the dispatch that its bridge consumes or creates itself, before and behind its
/// hooks; all others pass here, and the bridge's hooks filter them.
///
/// What other stations send to the port the kernel has marked as such when it came. Of what the host sends, TCP and UDP
/// are recognized directly.
pub fn guard(table: &mut Table, device: &str, tracing: Tracing) {
    let compare = |key, negated, value: &[u8]| Match::Compare { key, negated, value: value.into() };
    let link_local = compare(Key::masked(Field::EtherDaddr, &LINK_LOCAL_BITS), false, &LINK_LOCAL);
    let forwarded = compare(Key::new(KeySource::PacketType), true, &HOST);
    let judged = TCP_AND_UDP.map(|number| Match::equals(Key::new(KeySource::L4Proto), &[number]));
    let pass = |part| Rule::new(vec![part], Action::Accept);
    let goto = |side: &Dispatch, matches| Rule::new(matches, Action::Goto(side.base.into()));
    let [came, goes] = &DEVICE_SIDES;
    let ingress = tracing.rule().into_iter().chain([goto(came, vec![link_local])]).collect();
    let egress = std::iter::once(pass(forwarded)).chain(judged.map(pass)).chain(tracing.rule());
    let egress = egress.chain([goto(goes, vec![])]).collect();
    for (side, point, rules) in [(came, HookPoint::Ingress, ingress), (goes, HookPoint::Egress, egress)] {
        let hook = Some(Hook { point, priority: FILTER_PRIORITY, device: Some(device.into()) });
        table.chains.insert(device_chain(side, device), Arc::new(Chain { hook, rules }));
    }
}

/// Lets the frames of a device of this name be.
pub fn unhook(table: &mut Table, device: &str) {
    for side in &DEVICE_SIDES {
        table.chains.remove(&device_chain(side, device));
    }
}

/// Whether a device's own hooks lead to the dispatch.
pub fn has_hooks(table: &Table) -> bool {
    let devices: Name = ChainName::Device("", "").into();
    let next = table.chains.range(devices..).next();
    next.is_some_and(|(name, _)| matches!(ChainName::parse(name), Some(ChainName::Device(..))))
}

/// The names of devices whose frames go to the dispatch, in both directions.
pub fn hooked(table: &Table) -> BTreeSet<&str> {
    let at = |point| {
        let hooks = table.chains.values().filter_map(|chain| chain.hook.as_ref());
        let here = hooks.filter(move |hook| hook.point == point);
        here.filter_map(|hook| hook.device.as_deref()).collect::<BTreeSet<&str>>()
    };
    at(HookPoint::Ingress).intersection(&at(HookPoint::Egress)).copied().collect()
}

fn device_chain(side: &Dispatch, device: &str) -> Name {
    ChainName::Device(side.base, &printable(device)).into()
}
