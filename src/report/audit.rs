//! What a filter lets happen that its author may not have meant: rules that no frame reaches or that none is left for,
//! rules that mean something else to libvirt, and frames under a foreign name that a guest could send all the same, each
//! with a witness.
//!
//! The evaluator judges the compiled program on frames aimed at it: what is found is certain, what is not found may
//! exist. For a filter of one narrow purpose, everything that it leaves to others is reported.

mod differences;
mod shadow;

use crate::document::diag::Diagnostic;
use crate::document::filter::state;
use crate::document::mac::Mac;
use crate::document::vars::Vars;
use crate::program::compile::{Capabilities, HostToGuest, Options, compile, silenced};
use crate::program::eval::{Connection, End, Evaluator, Frame, Port, Tracking};
use crate::program::ir::CtDirection;
use crate::program::resolve::{FilterLookup, Resolved, check, with_samples};
use crate::program::{OUT, Program};
use crate::report::explain::summary;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

/// Under which name of others a guest can send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum SpoofedField {
    /// A foreign source MAC address.
    Mac,
    /// A foreign sender MAC address in ARP.
    ArpMac,
    /// A foreign sender IP address in ARP.
    ArpIp,
    /// A foreign source address in IPv4.
    Ipv4,
    /// A foreign source address in IPv6.
    Ipv6,
}

/// A frame that passes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Witness {
    /// What is foreign about it.
    pub disguise: SpoofedField,
    /// The frame.
    pub frame: Vec<u8>,
}

/// What the audited filter is bound with.
const MAC: Mac = Mac([0x52, 0x54, 0, 0, 0, 1]);
const IP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const IPV6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
const FOREIGN_MACS: [Mac; 3] =
    [Mac([0x52, 0x54, 0, 0, 0, 2]), Mac([2, 0, 0, 0, 0, 9]), Mac([0x52, 0x54, 0, 0, 0, 0])];
const FOREIGN_IPS: [Ipv4Addr; 4] = [
    Ipv4Addr::new(192, 0, 2, 2),
    Ipv4Addr::new(10, 0, 0, 1),
    Ipv4Addr::new(192, 0, 2, 0),
    Ipv4Addr::new(127, 0, 0, 1),
];
const FOREIGN_IPV6S: [Ipv6Addr; 2] =
    [Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)];
const PEER: Mac = Mac([2, 0, 0, 0, 0, 1]);

/// All that is found, as warnings.
pub fn audit(library: FilterLookup<'_>, root: &str) -> Result<Vec<Diagnostic>, Vec<Diagnostic>> {
    let (resolved, program) = prepared(library, root)?;
    let mut found: Vec<Diagnostic> = shadow::unreached(library, &resolved, &program)
        .into_iter()
        .map(|(origin, taker)| {
            let message = format!("no frame reaches this rule of filter '{}'", origin.filter);
            let fault = Diagnostic::warning(message).at(origin.place, taker.label());
            if taker.in_other_layer { fault.help(LAYERS) } else { fault }
        })
        .collect();
    found.extend(shadow::shadowed(library, &program).into_iter().map(|(origin, by)| {
        let message = format!("no frame is left for this rule of filter '{}'", origin.filter);
        Diagnostic::warning(message).at(origin.place, shadow::taken_by(&by))
    }));
    found.extend(differences::differences(library, root, &resolved));
    found.extend(differences::both_ways(&resolved));
    if library(root).is_some_and(|filter| filter.chain == "root") {
        found.extend(disguise(root, &witnesses_of(&program)));
    }
    Ok(found)
}

/// The first rule of the IP layer that no frame reaches because a rule of the Ethernet layer refuses all of them.
pub fn behind_ethernet(library: FilterLookup<'_>, root: &str) -> Option<Diagnostic> {
    let (resolved, program) = prepared(library, root).ok()?;
    let unreached = shadow::unreached(library, &resolved, &program).into_iter();
    let mut behind = unreached.filter(|(_, taker)| taker.in_other_layer);
    let (origin, taker) = behind.next()?;
    let message = match behind.count() {
        0 => format!("no frame reaches this rule of filter '{}'", origin.filter),
        more => format!(
            "no frame reaches {} rules of the IP layer, this one of filter '{}' first",
            more + 1,
            origin.filter
        ),
    };
    Some(Diagnostic::warning(message).at(origin.place, taker.label()).help(LAYERS))
}

/// Why a rule comes too late whose number is lower.
pub const LAYERS: &str = "Ethernet rules are judged before IP rules, whatever their priority";

/// What a guest can send under the names of others, in one breath.
fn disguise(root: &str, witnesses: &[Witness]) -> Option<Diagnostic> {
    let (tagged, plain): (Vec<&Witness>, Vec<&Witness>) =
        witnesses.iter().partition(|witness| witness.frame.get(12..14) == Some(&[0x81, 0]));
    let shown = plain.first().or(tagged.first())?;
    let names = |witnesses: &[&Witness]| {
        witnesses.iter().map(|witness| witness.disguise.name()).collect::<Vec<_>>().join(", ")
    };
    let foreign = match (&plain[..], &tagged[..]) {
        (plain, []) => names(plain),
        ([], tagged) => format!("{} in a VLAN", names(tagged)),
        (plain, tagged) => format!("{}, and in a VLAN with a foreign {}", names(plain), names(tagged)),
    };
    let message = format!("filter '{root}' lets the guest send with a foreign {foreign}");
    let help = format!(
        "it accepts {}; clean-traffic, or no-mac-spoofing, no-arp-spoofing, no-ip-spoofing and no-ipv6-spoofing, keep a \
         guest from that",
        summary::of(&shown.frame)
    );
    Some(Diagnostic::warning(message).help(help))
}

/// What an administrator should know when a filter is defined or bound, in a kernel that can do as much as this: where
/// libvirt's usual driver would let other frames through, and what is dropped though it should be answered.
pub fn notices(library: FilterLookup<'_>, root: &str, options: &Options) -> Vec<Diagnostic> {
    let Ok(resolved) = check(library, root) else { return Vec::new() };
    let mut notices = differences::open_ends(root, &resolved);
    notices.extend(silenced(&resolved, options.features));
    notices
}

/// One frame for each disguise that a guest with this filter can put on.
pub fn witnesses(library: FilterLookup<'_>, root: &str) -> Result<Vec<Witness>, Vec<Diagnostic>> {
    prepared(library, root).map(|(_, program)| witnesses_of(&program))
}

fn prepared(library: FilterLookup<'_>, root: &str) -> Result<(Resolved, Program), Vec<Diagnostic>> {
    let mut vars = Vars::default();
    let own = [("MAC", MAC.to_string()), ("IP", IP.to_string()), ("IPV6", IPV6.to_string())];
    own.into_iter().for_each(|(name, value)| vars.push(name, value));
    let resolved = with_samples(library, root, &vars)?;
    // Rules that count are never made into one, nor left out for doing nothing.
    let program = compile(
        &resolved,
        &Options { features: Capabilities::ALL, counters: true, host_to_guest: HostToGuest::Pass },
    )?;
    Ok((resolved, program))
}

fn witnesses_of(program: &Program) -> Vec<Witness> {
    // The sets of a program with constants belong to others and are empty.
    let sets = BTreeMap::new();
    let rules = Evaluator::of_program(program, &sets);
    let mut found: BTreeMap<SpoofedField, Vec<u8>> = BTreeMap::new();
    for (disguise, bytes) in spoofed_frames() {
        if !found.contains_key(&disguise) && passes(&rules, &bytes) {
            found.insert(disguise, bytes);
        }
    }
    found.into_iter().map(|(disguise, frame)| Witness { disguise, frame }).collect()
}

/// The first frame of a connection, or the guest's answer in one that others opened.
fn passes(rules: &Evaluator<'_>, bytes: &[u8]) -> bool {
    let of = |state, direction| Tracking::Connection(Connection { state, direction });
    let states = [
        Tracking::Unknown,
        of(state::NEW, CtDirection::Original),
        of(state::ESTABLISHED, CtDirection::Original),
        of(state::ESTABLISHED, CtDirection::Reply),
    ];
    let (iif, oif) = (Port { index: 1, name: "guest" }, Port { index: 2, name: "other" });
    states.into_iter().any(|tracking| {
        let frame = Frame { bytes, iif, oif, tracking, ..Frame::default() };
        matches!(rules.judge(OUT, frame), Some(End::Accept) | None)
    })
}

/// Frames with one thing foreign about them, whole and well-formed, tagged and untagged.
fn spoofed_frames() -> Vec<(SpoofedField, Vec<u8>)> {
    let mut frames = Vec::new();
    for foreign in FOREIGN_MACS {
        let bodies = [arp(1, MAC, IP), arp(2, MAC, IP)].into_iter().map(|body| (0x0806, body));
        let bodies = bodies
            .chain(packets4(IP))
            .chain(packets6(IPV6))
            .chain([(0x8035, arp(3, MAC, IP)), (0x88b5, vec![0; 46])]);
        frames.extend(bodies.map(|(kind, body)| (SpoofedField::Mac, ether(foreign, kind, &body))));
        frames.extend(
            [1, 2].map(|operation| (SpoofedField::ArpMac, ether(MAC, 0x0806, &arp(operation, foreign, IP)))),
        );
    }
    for foreign in FOREIGN_IPS {
        frames.extend(
            [1, 2].map(|operation| (SpoofedField::ArpIp, ether(MAC, 0x0806, &arp(operation, MAC, foreign)))),
        );
        frames.extend(packets4(foreign).map(|(kind, body)| (SpoofedField::Ipv4, ether(MAC, kind, &body))));
    }
    for foreign in FOREIGN_IPV6S {
        frames.extend(packets6(foreign).map(|(kind, body)| (SpoofedField::Ipv6, ether(MAC, kind, &body))));
    }
    let tagged = frames.iter().map(|(disguise, frame)| {
        let tag: [u8; 4] = [0x81, 0, 0, 1];
        (*disguise, [&frame[..12], &tag, &frame[12..]].concat())
    });
    let tagged: Vec<_> = tagged.collect();
    frames.into_iter().chain(tagged).collect()
}

fn ether(source: Mac, kind: u16, body: &[u8]) -> Vec<u8> {
    [&PEER.0[..], &source.0, &kind.to_be_bytes(), body].concat()
}

fn arp(operation: u8, mac: Mac, ip: Ipv4Addr) -> Vec<u8> {
    [&[0, 1, 8, 0, 6, 4, 0, operation][..], &mac.0, &ip.octets(), &[0; 6], &[192, 0, 2, 9]].concat()
}

/// What is above IP: the protocol and its header. DHCP's both ends are among them.
fn uppers() -> [(u8, Vec<u8>); 6] {
    let ports = |from: u16, to: u16| [from.to_be_bytes(), to.to_be_bytes()].concat();
    let udp = |from, to| [&ports(from, to)[..], &[0, 8, 0, 0]].concat();
    let tcp = [&ports(40_000, 80)[..], &[0; 8], &[0x50, 2, 1, 0, 0, 0, 0, 0]].concat();
    [
        (17, udp(40_000, 53)),
        (6, tcp),
        (1, vec![8, 0, 0, 0, 0, 0, 0, 0]),
        (17, udp(68, 67)),
        (17, udp(67, 68)),
        (58, vec![136, 0, 0, 0, 0, 0, 0, 0]),
    ]
}

fn packets4(source: Ipv4Addr) -> impl Iterator<Item = (u16, Vec<u8>)> {
    uppers().into_iter().map(move |(protocol, body)| {
        let length = 20 + body.len() as u8;
        let head = [0x45, 0, 0, length, 0, 1, 0, 0, 64, protocol, 0, 0];
        (0x0800, [&head[..], &source.octets(), &[192, 0, 2, 9], &body].concat())
    })
}

fn packets6(source: Ipv6Addr) -> impl Iterator<Item = (u16, Vec<u8>)> {
    uppers().into_iter().map(move |(protocol, body)| {
        let head = [0x60, 0, 0, 0, 0, body.len() as u8, protocol, 255];
        let to = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 9);
        (0x86dd, [&head[..], &source.octets(), &to.octets(), &body].concat())
    })
}

impl SpoofedField {
    fn name(self) -> &'static str {
        match self {
            SpoofedField::Mac => "source MAC address",
            SpoofedField::ArpMac => "sender MAC address in ARP",
            SpoofedField::ArpIp => "sender IP address in ARP",
            SpoofedField::Ipv4 => "source address in IPv4",
            SpoofedField::Ipv6 => "source address in IPv6",
        }
    }
}
