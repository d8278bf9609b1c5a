//! What must hold of frames, whatever happened before: each interface as if its binding were the only one, made from nothing.

use super::kernel::features;
use super::machine::Ability;
use crate::document::binding::{self, Binding};
use crate::document::filter::{Filter, read::read};
use crate::document::span::Source;
use crate::engine::State;
use crate::guest::link::Link;
use crate::program::compile::{HostToGuest, Options};
use crate::program::eval::{End, Evaluator, Frame, Port};
use crate::program::ir::{Family, HookPoint, Ruleset};
use crate::ruleset::firewall::{Firewall, Placement, Policy};
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

/// What the administrator and the clients asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Wanted {
    /// Documents by name.
    pub filters: BTreeMap<String, String>,
    /// Documents by port.
    pub bindings: BTreeMap<String, String>,
}

/// Which way a frame goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    FromGuest,
    ToGuest,
}

/// A frame that tells two filters apart.
pub(super) struct Probe {
    pub name: &'static str,
    way: Way,
    source: u8,
    protocol: u8,
    port: u16,
}

const fn probe(name: &'static str, way: Way, source: u8, protocol: u8, port: u16) -> Probe {
    Probe { name, way, source, protocol, port }
}

/// The address of the guest ends with the number of its port; 0 stands for that.
const FOREIGN: u8 = 99;
pub(super) const PROBES: [Probe; 7] = [
    probe("its own frame", Way::FromGuest, 0, 17, 53),
    probe("a forged frame", Way::FromGuest, FOREIGN, 17, 53),
    probe("tcp 22 to it", Way::ToGuest, FOREIGN, 6, 22),
    probe("tcp 23 to it", Way::ToGuest, FOREIGN, 6, 23),
    probe("tcp 24 to it", Way::ToGuest, FOREIGN, 6, 24),
    probe("tcp 25 to it", Way::ToGuest, FOREIGN, 6, 25),
    probe("udp to it", Way::ToGuest, FOREIGN, 17, 53),
];

/// Which probes pass.
pub(super) type Verdicts = [bool; PROBES.len()];

/// Verdicts that were found out before.
#[derive(Default)]
pub(super) struct Reference {
    known: HashMap<(String, Wanted, u32, String, Option<u32>), Verdicts>,
}

pub(super) fn filter(text: &str) -> Filter {
    let source = Source::new("simulated.xml", text);
    read(&source).unwrap_or_else(|faults| panic!("{text}: {faults:?}")).0
}

fn binding(text: &str) -> Binding {
    binding::read(&Source::new("simulated.xml", text)).unwrap_or_else(|faults| panic!("{text}: {faults:?}")).0
}

impl Reference {
    /// The verdicts on the frames of a link whose name is bound so; none where it is not bound.
    pub fn of(
        &mut self,
        wanted: &Wanted,
        port: &str,
        link: &Link,
        links: &BTreeMap<u32, Link>,
        ability: Ability,
    ) -> Option<Verdicts> {
        let document = wanted.bindings.get(port)?;
        let key = (document.clone(), wanted.clone(), link.index, port.to_owned(), link.master);
        if let Some(known) = self.known.get(&key) {
            return Some(*known);
        }
        let renamed = Link { name: port.into(), ..link.clone() };
        let bridges = links.values().filter(|other| Some(other.index) == link.master).cloned();
        let verdicts =
            verdicts(&alone(wanted, document, bridges.chain([renamed.clone()]), ability), &renamed);
        self.known.insert(key, verdicts);
        Some(verdicts)
    }
}

fn alone(wanted: &Wanted, document: &str, links: impl Iterator<Item = Link>, ability: Ability) -> Ruleset {
    let features = features(ability.owners, ability.lasting_hooks);
    let compile = Options { features: features.into(), counters: false, host_to_guest: HostToGuest::Filter };
    let policy = Policy { fold_up_to: 64, compile, placement: Placement::Bridge };
    let filters = wanted.filters.values().map(|text| std::sync::Arc::new(filter(text)));
    let firewall = Firewall::new(policy).with_hooks(features.hook_lifetime());
    let firewall = firewall.define(filters).expect("nothing is bound yet");
    State::restore(firewall, [binding(document)], links, Duration::ZERO).firewall().ruleset()
}

/// What becomes of each probe in these tables.
pub(super) fn verdicts(tables: &Ruleset, link: &Link) -> Verdicts {
    let mut judged = Hooks::of(tables, link);
    PROBES.each_ref().map(|probe| judged.passes(probe, link))
}

/// The hooks that a link's frames pass, in each direction.
struct Hooks<'a> {
    from: Vec<(Evaluator<'a>, Vec<&'a str>)>,
    to: Vec<(Evaluator<'a>, Vec<&'a str>)>,
}

impl<'a> Hooks<'a> {
    fn of(tables: &'a Ruleset, link: &Link) -> Hooks<'a> {
        let upper = if link.master.is_some() { Family::Bridge } else { Family::Inet };
        let at = |family: Family, point: HookPoint| {
            let table = tables.tables.get(&family)?;
            let chains = table.chains.iter().filter(|(_, chain)| {
                let hook = chain.hook.as_ref();
                hook.is_some_and(|hook| {
                    hook.point == point && hook.device.as_ref().is_none_or(|device| *device == link.name)
                })
            });
            Some((Evaluator::of_table(family, table), chains.map(|(name, _)| &**name).collect()))
        };
        Hooks {
            from: [at(Family::Netdev, HookPoint::Ingress), at(upper, HookPoint::Prerouting)]
                .into_iter()
                .flatten()
                .collect(),
            to: [at(upper, HookPoint::Postrouting), at(Family::Netdev, HookPoint::Egress)]
                .into_iter()
                .flatten()
                .collect(),
        }
    }

    fn passes(&mut self, probe: &Probe, link: &Link) -> bool {
        let bytes = frame(probe, link);
        let port = Port { index: link.index, name: &link.name };
        let (hooks, frame) = match probe.way {
            Way::FromGuest => {
                (&self.from, Frame { bytes: &bytes, iif: port, bridge: "br0", ..Frame::default() })
            }
            Way::ToGuest => (&self.to, Frame { bytes: &bytes, oif: port, bridge: "br0", ..Frame::default() }),
        };
        let accepts = |rules: &Evaluator<'_>, chain: &str| {
            matches!(rules.judge(chain, frame), None | Some(End::Accept))
        };
        hooks.iter().all(|(rules, chains)| chains.iter().all(|chain| accepts(rules, chain)))
    }
}

/// The last byte of a guest's MAC address, from the name of its port.
pub(super) fn own_byte(port: &str) -> u8 {
    port.bytes().next_back().unwrap_or_default()
}

fn frame(probe: &Probe, link: &Link) -> Vec<u8> {
    let own = [0x52, 0x54, 0, 0, 0, own_byte(&link.name)];
    let other = [0x52, 0x54, 0, 0, 1, probe.source];
    let source = if probe.source == 0 { own } else { other };
    let destination = if probe.way == Way::ToGuest { own } else { other };
    let mut bytes = [destination, source].concat();
    bytes.extend([
        0x08,
        0x00,
        0x45,
        0,
        0,
        40,
        0,
        0,
        0,
        0,
        64,
        probe.protocol,
        0,
        0,
        10,
        0,
        0,
        1,
        10,
        0,
        0,
        2,
    ]);
    bytes.extend([1000u16.to_be_bytes(), probe.port.to_be_bytes()].concat());
    bytes.extend([0; 16]);
    bytes
}
