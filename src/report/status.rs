//! What is enforced now, for people and programs: bound interfaces, their programs, counters.
//!
//! Made of what is in the kernel and, where the daemon runs, of what it knows besides. Pure; printing is the command's.

use crate::document::binding::Binding;
use crate::guest::link::{Link, LinkKind, MacvtapMode};
use crate::program::ir::observed::Observed;
use crate::program::ir::{Family, Name, Ruleset, Table};
use crate::program::name::{SetName, label_of};
use crate::ruleset::bypass::BypassCount;
use crate::ruleset::counters::{self, Dropped, Traffic};
use crate::ruleset::from_kernel::recall;
use crate::ruleset::layout;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Everything `nwfilter status` shows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Whether a daemon runs and says so: without one links are not followed and addresses are not learned.
    #[serde(default)]
    pub daemon: bool,
    /// Bound interfaces and, from the daemon, bindings that wait for theirs.
    pub interfaces: Vec<Interface>,
    /// Programs in the kernel.
    pub programs: Vec<ProgramCounters>,
    /// The named sets that filters refer to, with the number of their addresses.
    pub ipsets: BTreeMap<String, usize>,
}

/// One bound interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Its name; none where the link is gone.
    pub name: Option<String>,
    /// Its index; none where a binding waits for its link.
    pub index: Option<u32>,
    /// The name of its filter as nft prints it, or as the binding has it.
    pub filter: String,
    /// The guest that it was bound for, as far as that is known.
    #[serde(default)]
    pub guest: Option<Guest>,
    /// The program its frames enter.
    pub program: Option<String>,
    /// The program its packets enter in the host's IP layer, where connections are asked for and no bridge is.
    #[serde(default)]
    pub packets: Option<String>,
    /// Whether other interfaces share that program.
    pub shared: bool,
    /// Why it lets nothing pass, where that is so.
    pub closed: Option<String>,
    /// Whether none of our rules sees its frames.
    #[serde(default)]
    pub unseen: bool,
    /// Where its program sits, where it has one.
    #[serde(default)]
    pub seat: Option<ProgramLocation>,
    /// How its addresses are found out and which are known, where that is so.
    #[serde(default)]
    pub learning: Option<Learning>,
    /// What was dropped of its frames, rule by rule.
    #[serde(default)]
    pub dropped: Vec<Dropped>,
    /// Its frames, where they are counted.
    #[serde(default)]
    pub traffic: Option<Traffic>,
    /// Its frames that no rule saw, where that is looked for.
    #[serde(default)]
    pub missed: Option<BypassCount>,
}

/// The guest of a binding.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guest {
    /// Its name.
    pub name: String,
    /// Its MAC address.
    pub mac: String,
    /// The filter it is bound to: the one in force, unless its addresses are being learned or nothing passes.
    pub filter: String,
}

impl Guest {
    /// The guest of a binding.
    pub fn of(binding: &Binding) -> Guest {
        let (name, filter) = (binding.owner_name.clone(), binding.filter.clone());
        Guest { name, mac: binding.mac.to_string(), filter }
    }
}

/// Where a program sits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ProgramLocation {
    /// At the hooks of all bridges; the name of the interface's own, if it is a port of one.
    Bridge(Option<String>),
    /// At the interface's own hooks; the mode of a macvtap.
    Device(Option<String>),
}

/// What is known of a guest's addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Learning {
    /// `any` or `dhcp`.
    pub mode: String,
    /// The addresses known; while there is none, the guest may do little more than ask for one.
    pub addresses: Vec<Address>,
}

/// An address that was learned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// The address.
    pub address: String,
    /// From what it was learned: `arp`, `ipv4`, `offer`, `ack` or `lease`.
    pub from: String,
    /// The DHCP server that gave it.
    pub server: Option<String>,
    /// When it was first seen, in seconds since 1970.
    pub since: u64,
    /// When it ends, where it does.
    pub until: Option<u64>,
}

/// One program.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramCounters {
    /// Its name in the kernel.
    pub name: String,
    /// Its rules that count.
    pub counters: Vec<Counter>,
}

/// What one rule counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counter {
    /// The rule's chain.
    pub chain: String,
    /// The rule of the filter it comes from.
    pub rule: Option<String>,
    /// Frames.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

impl Status {
    /// What our tables say of these links, where nothing else is known.
    pub fn of<'a>(observed: &Observed, links: impl IntoIterator<Item = &'a Link>) -> Status {
        let ruleset = recall(observed, &Ruleset::default());
        Status::known(&ruleset, observed, counters::dropped(observed), links)
    }

    /// What the rules in force say of these links, with what was dropped. Of the kernel no more is asked for than what
    /// counts, and the sets that filters refer to.
    pub fn known<'a>(
        ruleset: &Ruleset,
        counted: &Observed,
        mut dropped: BTreeMap<u32, Vec<Dropped>>,
        links: impl IntoIterator<Item = &'a Link>,
    ) -> Status {
        let links: BTreeMap<u32, &Link> = links.into_iter().map(|link| (link.index, link)).collect();
        let traffic = counters::traffic(ruleset, counted);
        let mut interfaces: BTreeMap<u32, Interface> = BTreeMap::new();
        // Where packets are judged or kept out, the frames of the same interfaces are judged elsewhere. An interface with a program at
        // the bridge has but a guard at its own hooks; else those hooks keep it from the bridge.
        for family in [Family::Netdev, Family::Bridge] {
            let Some(table) = ruleset.tables.get(&family) else { continue };
            for interface in bound(family, table, &links) {
                let index = interface.index.unwrap_or_default();
                if interface.program.is_some() || !interfaces.contains_key(&index) {
                    interfaces.insert(index, interface);
                }
            }
        }
        let packets = ruleset.tables.get(&Family::Inet).map(layout::programs).unwrap_or_default();
        for (index, interface) in &mut interfaces {
            interface.packets =
                packets.get(index).and_then(|(program, _)| Some(program.as_ref()?.to_string()));
            interface.dropped = dropped.remove(index).unwrap_or_default();
            interface.traffic = traffic.get(index).copied();
        }
        Status {
            daemon: false,
            interfaces: in_order(interfaces),
            programs: ruleset.tables.iter().flat_map(|table| programs(table, counted)).collect(),
            ipsets: ipsets(counted),
        }
    }
}

/// Those at the bridge before those at their own hooks.
fn in_order(interfaces: BTreeMap<u32, Interface>) -> Vec<Interface> {
    let at_bridge = |interface: &Interface| matches!(interface.seat, Some(ProgramLocation::Bridge(_)));
    let (bridge, device): (Vec<_>, Vec<_>) = interfaces.into_values().partition(at_bridge);
    bridge.into_iter().chain(device).collect()
}

/// All tables that have a set of this name have the same.
fn ipsets(counted: &Observed) -> BTreeMap<String, usize> {
    let sets = counted.families.values().flat_map(|table| &table.sets);
    let sets: BTreeMap<&Name, usize> = sets.map(|(name, set)| (name, set.elements.len())).collect();
    let ipsets = sets.into_iter().filter_map(|(name, length)| match SetName::parse(name)? {
        SetName::Ipset(name, _) => Some((name, length)),
        _ => None,
    });
    ipsets.fold(BTreeMap::new(), sum)
}

/// The interfaces that are bound in a table.
fn bound<'a>(
    family: Family,
    table: &'a Table,
    links: &'a BTreeMap<u32, &'a Link>,
) -> impl Iterator<Item = Interface> + 'a {
    let (programs, hooked) = (layout::programs(table), layout::hooked(table));
    layout::bound(table).into_iter().map(move |index| {
        let (program, shared) = programs.get(&index).cloned().unwrap_or_default();
        let link = links.get(&index).copied();
        let interface = interface(family, index, program, link, links);
        let seen = match &interface.seat {
            Some(ProgramLocation::Bridge(bridge)) => bridge.is_some(),
            _ => link.is_some_and(|link| hooked.contains(&*link.name)),
        };
        Interface { shared, unseen: link.is_some() && !seen, ..interface }
    })
}

fn interface(
    family: Family,
    index: u32,
    program: Option<Name>,
    link: Option<&Link>,
    links: &BTreeMap<u32, &Link>,
) -> Interface {
    let filter = program.as_deref().map(label_of).unwrap_or_default().to_owned();
    let master =
        link.and_then(|link| links.get(&link.master?)).filter(|master| master.kind == LinkKind::Bridge);
    Interface {
        name: link.map(|link| link.name.clone()),
        index: Some(index),
        seat: Some(match family {
            Family::Netdev => {
                ProgramLocation::Device(link.and_then(|link| mode(link.kind)).map(String::from))
            }
            _ => ProgramLocation::Bridge(master.map(|master| master.name.clone())),
        }),
        filter,
        program: program.map(|prefix| prefix.to_string()),
        ..Interface::default()
    }
}

fn mode(kind: LinkKind) -> Option<&'static str> {
    let LinkKind::Macvtap { mode, .. } = kind else { return None };
    Some(match mode {
        MacvtapMode::Private => "private",
        MacvtapMode::Vepa => "vepa",
        MacvtapMode::Bridge => "bridge",
        MacvtapMode::Passthru => "passthru",
        MacvtapMode::Source => "source",
        MacvtapMode::Unknown => "unknown",
    })
}

/// IPv4 and IPv6 addresses of one name are one set to people.
fn sum(mut sizes: BTreeMap<String, usize>, (name, size): (String, usize)) -> BTreeMap<String, usize> {
    *sizes.entry(name).or_default() += size;
    sizes
}

/// The programs of a table, with the rules among those that were read that count.
fn programs((family, table): (&Family, &Table), counted: &Observed) -> Vec<ProgramCounters> {
    let counted = counted.families.get(family);
    let mut programs: BTreeMap<&str, Vec<Counter>> = BTreeMap::new();
    for name in table.chains.keys() {
        let Some(prefix) = layout::prefix_of(name) else { continue };
        let rules = counted.and_then(|table| table.chains.get(name)).map(|chain| &chain.rules);
        let counters = rules.into_iter().flatten().filter_map(|rule| {
            let (packets, bytes) = rule.counter?;
            let chain = name[prefix.len() + 1..].to_owned();
            Some(Counter { chain, rule: rule.comment.clone(), packets, bytes })
        });
        programs.entry(prefix).or_default().extend(counters);
    }
    programs.into_iter().map(|(name, counters)| ProgramCounters { name: name.to_owned(), counters }).collect()
}
