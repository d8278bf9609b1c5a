//! Which bridges conntrack sees, and how it is kept off all others.

use super::directions::FILTER_PRIORITY;
use super::{name_key, set};
use crate::document::field::Field;
use crate::document::mac::Mac;
use crate::program::ir::{
    Action, Bytes, Chain, ElementValue, Hook, HookPoint, Key, KeySource, KeyType, Match, Rule, SetRef,
    SetRole, Table, ValueType, concat,
};
use std::sync::Arc;

/// The set of bridges whose frames conntrack sees, by name.
pub const TRACKED: &str = "tracked";
/// The map from a bridge's name to its conntrack zone.
pub const ZONES: &str = "zones";
/// The set of the host's own addresses on bridges whose frames conntrack sees.
pub const HOSTS: &str = "hosts";

const TRACKING: &str = "tracking";
const LOCAL: &str = "local";
/// Before bridge conntrack (-200).
const TRACKING_PRIORITY: i32 = -300;
/// The zone in which the host's IP layer keeps its connections.
const HOST_ZONE: u16 = 0;

/// A bridge whose frames conntrack must see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tracked {
    /// Its name.
    pub bridge: String,
    /// The zone of connections between its ports.
    pub zone: u16,
    /// The host's own address on it.
    pub host: Option<Mac>,
}

/// Has conntrack see the frames of these bridges, each in a zone of its own, and no others; with no
/// bridge at all, conntrack is not asked for.
///
/// Rules of the IP layer judge untagged IP alone. Of a tagged frame conntrack would see the inner packet, and
/// hold back a fragment until the others come, under whatever tag.
///
/// Frames for the host stay in the zone that its IP layer uses: it translates, routes and answers them there. Of frames
/// that are kept from conntrack, those that come to the host are given back to it.
pub fn track(table: &mut Table, bridges: &[Tracked]) {
    if bridges.is_empty() {
        [TRACKING, LOCAL].iter().for_each(|chain| drop(table.chains.remove(*chain)));
        [TRACKED, ZONES, HOSTS].iter().for_each(|set| drop(table.sets.remove(*set)));
        return;
    }
    let mut tracked = set(vec![KeyType::IfName], ValueType::None, SetRole::Dispatch);
    let mut zones = set(vec![KeyType::IfName], ValueType::Zone, SetRole::Dispatch);
    let mut hosts = set(vec![KeyType::IfName, KeyType::Ether], ValueType::None, SetRole::Dispatch);
    for Tracked { bridge, zone, host } in bridges {
        tracked.elements.insert(name_key(bridge), ElementValue::None);
        zones.elements.insert(name_key(bridge), ElementValue::Zone(*zone));
        let host = host.map(|host| concat(&[&name_key(bridge), &host.0]));
        hosts.elements.extend(host.map(|key| (key, ElementValue::None)));
    }
    for (name, set) in [(TRACKED, tracked), (ZONES, zones), (HOSTS, hosts)] {
        table.sets.insert(name.into(), set);
    }
    let bridge = Key::new(KeySource::BridgeName);
    let lookup = |keys, negated, set: &str| Match::Lookup { keys, negated, set: SetRef::Named(set.into()) };
    let elsewhere = || lookup(vec![bridge.clone()], true, TRACKED);
    let to_host = lookup(vec![bridge.clone(), Key::field(Field::EtherDaddr)], false, HOSTS);
    let tracking = vec![
        Rule::new(vec![elsewhere()], Action::Notrack),
        Rule::new(vec![untagged_ip(EtherTypeIs::Other)], Action::Notrack),
        Rule::new(vec![to_host], Action::Accept),
        // A zone that is set takes back that a frame is not tracked.
        Rule::new(vec![untagged_ip(EtherTypeIs::Ip)], Action::SetZone(vec![bridge.clone()], ZONES.into())),
    ];
    let untracked = [elsewhere(), untagged_ip(EtherTypeIs::Other)];
    let local = untracked.map(|frames| Rule::new(vec![frames], Action::Zone(HOST_ZONE))).into();
    let mut hook = |chain: &str, point, priority, rules| {
        let hook = Some(Hook { point, priority, device: None });
        table.chains.insert(chain.into(), Arc::new(Chain { hook, rules }));
    };
    hook(TRACKING, HookPoint::Prerouting, TRACKING_PRIORITY, tracking);
    hook(LOCAL, HookPoint::Input, FILTER_PRIORITY, local);
}

/// The bridges whose frames conntrack sees.
pub fn tracked(table: &Table) -> Vec<Tracked> {
    let zones = table.sets.get(ZONES).into_iter().flat_map(|zones| &zones.elements);
    let host_on = |bridge: &Bytes| {
        let hosts = table.sets.get(HOSTS)?.elements.range(bridge.clone()..);
        let own = hosts.map(|(key, _)| key).find(|key| key.starts_with(bridge))?;
        own.get(bridge.len()..)?.first_chunk().map(|address| Mac(*address))
    };
    let read = |(bridge, zone): (&Bytes, &ElementValue)| match zone {
        ElementValue::Zone(zone) => {
            let end = bridge.iter().position(|byte| *byte == 0).unwrap_or(bridge.len());
            let name = String::from_utf8_lossy(&bridge[..end]).into_owned();
            Some(Tracked { bridge: name, zone: *zone, host: host_on(bridge) })
        }
        _ => None,
    };
    zones.filter_map(read).collect()
}

/// What the Ethernet type in the frame is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum EtherTypeIs {
    Ip,
    Other,
}

/// The Ethernet type in the frame itself is that of IP, or another.
fn untagged_ip(is: EtherTypeIs) -> Match {
    let types = [[0x08, 0x00], [0x86, 0xdd]].map(|ether_type: [u8; 2]| Bytes::from(ether_type));
    let set = SetRef::Anonymous(vec![KeyType::EtherType], types.into());
    Match::Lookup { keys: vec![Key::field(Field::EtherType)], negated: is == EtherTypeIs::Other, set }
}
