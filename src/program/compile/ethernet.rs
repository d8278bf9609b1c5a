//! Rules of the Ethernet layer: mac, vlan, stp, arp, rarp, ip, ipv6 and those of no protocol.
//!
//! `out` and `in` rules are judged as written. An `inout` rule is written from the point of view of the remote side: as
//! written for frames to the guest, with both ends exchanged for frames from it. A network header is only looked into behind a check of
//! the Ethernet type in the frame, so that a tagged frame is never taken for what it carries.

use super::matches::{Matches, View, equals, ordered, turn, turn_of};
use super::{Build, Direction};
use crate::document::diag::{Code, Diagnostic};
use crate::document::field::{Base, Field};
use crate::document::filter::{RuleAction, RuleDirection};
use crate::program::ir::{self, Key, KeySource, KeyType, Match};
use crate::program::resolve::{Condition, Predicate, ResolvedRule};

/// Where 802.1D sends its BPDUs.
pub(super) const BRIDGE_GROUP: [u8; 6] = [0x01, 0x80, 0xc2, 0, 0, 0];
/// LLC, protocol and version of a BPDU, as the kernel's ebtables match asks for them.
const BPDU: [u8; 6] = [0x42, 0x42, 0x03, 0, 0, 0];

pub(super) const IPV4: u16 = 0x0800;
pub(super) const IPV6: u16 = 0x86dd;
pub(super) const VLAN: u16 = 0x8100;

/// The kernel takes 128 expressions a rule; a few are the counter's, the verdict's and nft's own.
const EXPRESSIONS: usize = 120;

/// Where a rule stands.
#[derive(Clone, Copy)]
pub(super) struct ChainContext {
    pub(super) direction: Direction,
    /// The Ethernet type of all frames that get there, if it is one.
    pub(super) known: Option<u16>,
    /// Whether the chain was jumped to.
    pub(super) in_chain: bool,
}

/// Whether a rule looks at frames that go this way.
pub(super) fn looks_at(rule: RuleDirection, direction: Direction) -> bool {
    match rule {
        RuleDirection::Out => direction == Direction::Out,
        RuleDirection::In => direction == Direction::In,
        RuleDirection::InOut => true,
    }
}

/// The Ethernet type of all frames that a rule can match, if it is one.
pub(super) fn ether_type(rule: &ResolvedRule) -> Option<u16> {
    let asked = rule.conditions.iter().find_map(|condition| match condition {
        Condition::Is(Predicate::Equals { field: Field::EtherType, mask: None, value }) => {
            Some(u16::from_be_bytes([value[0], value[1]]))
        }
        _ => None,
    });
    rule.protocol.and_then(|protocol| protocol.ether_type).or(asked)
}

impl Build<'_> {
    /// A rule of the Ethernet layer as rules of a chain; none where it can match no frame there.
    pub(super) fn link_rule(&mut self, rule: &ResolvedRule, standing: ChainContext) -> Vec<ir::Rule> {
        let ChainContext { direction, known, .. } = standing;
        let wanted = ether_type(rule);
        let silent = rule.action == RuleAction::Continue && !self.options.counters;
        if silent || !looks_at(rule.direction, direction) || !can_match(rule, known) {
            return Vec::new();
        }
        let mut guards = guards(rule, known, wanted);
        guards.extend(shape(rule));
        let action = self.link_action(rule.action, standing, known.or(wanted));
        let decided = |condition: &Condition| {
            condition.is_about(Field::EtherType) && (known.is_some() || matches!(condition, Condition::Is(_)))
        };
        let alternatives = self.alternatives(rule, view(rule, direction), &|condition| !decided(condition));
        let finish = |mut found: Matches| {
            found.extend(guards.iter().cloned());
            found.extend(not_later(rule, &found));
            self.ir_rule(rule, with_context(found, known.filter(|_| wanted.is_some())), action.clone())
        };
        alternatives.into_iter().map(finish).collect()
    }

    fn link_action(
        &mut self,
        action: RuleAction,
        standing: ChainContext,
        ether_type: Option<u16>,
    ) -> ir::Action {
        match action {
            RuleAction::Drop => ir::Action::Drop,
            RuleAction::Accept => self.onward(standing.direction, ether_type),
            RuleAction::Reject => self.rejection(standing.direction, ether_type, None),
            RuleAction::Return if standing.in_chain => ir::Action::Return,
            RuleAction::Return => self.onward(standing.direction, ether_type),
            RuleAction::Continue => ir::Action::Continue,
        }
    }

    /// An answer where the hook can give one and the frame is one that can be answered.
    pub(super) fn rejection(
        &self,
        direction: Direction,
        ether_type: Option<u16>,
        ip_protocol: Option<u8>,
    ) -> ir::Action {
        let answerable = ether_type.is_none_or(|ether_type| matches!(ether_type, IPV4 | IPV6));
        if !self.options.features.reject || direction == Direction::In || !answerable {
            return ir::Action::Drop;
        }
        let tcp = ip_protocol == Some(6);
        ir::Action::Reject(if tcp { ir::Reject::TcpReset } else { ir::Reject::PortUnreachable })
    }

    /// A rule of the program that comes from a rule of a filter.
    pub(super) fn ir_rule(
        &mut self,
        rule: &ResolvedRule,
        matches: Vec<Match>,
        action: ir::Action,
    ) -> ir::Rule {
        // A load, a mask and a comparison for each key at the most.
        let expressions: usize = matches.iter().map(|part| 1 + 2 * part.keys().len().max(1)).sum();
        if expressions > EXPRESSIONS {
            let fault = Diagnostic::error(
                Code::INTERNAL,
                "this rule asks for more than the kernel lets one rule ask",
            );
            self.diagnostics.push(fault.at(rule.origin.place.clone(), "in this rule"));
        }
        let (counter, origin) = (self.options.counters, Some(rule.origin.clone()));
        ir::Rule { matches, action, counter, tally: None, origin }
    }
}

fn view(rule: &ResolvedRule, direction: Direction) -> View {
    let protocol = rule.protocol.map_or("", |protocol| protocol.name);
    View {
        direction,
        ends_swapped: rule.direction == RuleDirection::InOut && direction == Direction::Out,
        ip_layer: false,
        upper: if protocol == "ip" { KeySource::Field(Field::IpProtocol) } else { KeySource::L4Proto },
        address: if protocol == "ipv6" { KeyType::Ipv6 } else { KeyType::Ipv4 },
    }
}

/// Whether a frame of the known type can match at all.
fn can_match(rule: &ResolvedRule, known: Option<u16>) -> bool {
    let Some(known) = known else { return true };
    let bytes = known.to_be_bytes();
    let excluded = |test: &Predicate| match test {
        Predicate::Equals { field: Field::EtherType, value, .. } => **value == bytes,
        _ => false,
    };
    let refused = rule.conditions.iter().any(|condition| match condition {
        Condition::Is(test @ Predicate::Equals { field: Field::EtherType, .. }) => !excluded(test),
        Condition::NoneOf(tests) => tests.iter().any(excluded),
        _ => false,
    });
    let protocol = rule.protocol.and_then(|protocol| protocol.ether_type);
    !refused && protocol.is_none_or(|ether_type| ether_type == known)
}

/// What tells the frames of a protocol from others.
fn guards(rule: &ResolvedRule, known: Option<u16>, wanted: Option<u16>) -> Matches {
    let mut guards = Matches::new();
    // nft wants a match on the tag before it reads one.
    if let Some(ether_type) = wanted.filter(|wanted| known.is_none() || *wanted == VLAN) {
        guards.push((turn::ETHER_TYPE, Match::ether_type(ether_type)));
    }
    if rule.protocol.is_some_and(|protocol| protocol.name == "stp") {
        guards.push((turn::ETHER_TYPE, equals(Field::EtherDaddr, &BRIDGE_GROUP)));
    }
    guards
}

/// What a header must be for its fields to sit where they are read.
fn shape(rule: &ResolvedRule) -> Matches {
    use Field::*;
    let fields: Vec<Field> = rule.conditions.iter().flat_map(Condition::fields).collect();
    let reads = |wanted: &[Field]| fields.iter().any(|field| wanted.contains(field));
    let mut shape = Matches::new();
    let (ether, ip) = (reads(&[ArpSaddrEther, ArpDaddrEther]), reads(&[ArpSaddrIp, ArpDaddrIp]));
    // Addresses are those of Ethernet and IPv4, as for ebtables, unless the rule itself names their kinds.
    for (field, value, asked) in [
        (ArpHtype, &[0, 1][..], ether && !reads(&[ArpHtype])),
        (ArpPtype, &[8, 0], ip && !reads(&[ArpPtype])),
        (ArpHlen, &[6], ether || ip),
        (ArpPlen, &[4], ether || ip),
    ] {
        shape.extend(asked.then(|| (turn::SHAPE, equals(field, value))));
    }
    let config = fields.iter().any(|field| is_bpdu(*field) && *field != StpType);
    if config || reads(&[StpType]) {
        shape.push((turn::ETHER_TYPE, equals(StpHeader, &BPDU)));
    }
    if config {
        // Only a configuration BPDU has these fields. ebtables lets other BPDUs match without a look at
        // them, which would make the rule broader than it is written.
        shape.push((turn::ETHER_TYPE, equals(StpType, &[0])));
    }
    shape
}

fn is_bpdu(field: Field) -> bool {
    let layout = field.layout();
    layout.base == Base::Link && layout.offset >= 17 && field != Field::StpHeader
}

/// What keeps a match on a transport header off later fragments, whose content the kernel takes for such a header. Of
/// IPv4 the place of the fragment tells; of IPv6 a load that fails without a transport header.
pub(super) fn not_later(rule: &ResolvedRule, matches: &Matches) -> Option<(u8, Match)> {
    let reads_transport = matches.iter().any(|(turn, _)| *turn == turn::TRANSPORT);
    let part = match rule.protocol.filter(|_| reads_transport)?.ether_type? {
        IPV4 => Match::equals(Key::masked(Field::IpFragment, &[0x1f, 0xff]), &[0, 0]),
        IPV6 => Match::equals(Key::masked(Field::ThStart, &[0; 3]), &[0; 3]),
        _ => return None,
    };
    Some((turn::UPPER, part))
}

/// The Ethernet types whose headers nft has names for: IPv4, ARP, IPv6.
const NAMED: [u16; 3] = [0x0800, 0x0806, 0x86dd];

/// The matches in order. In a chain that only one Ethernet type leads to, a network header is announced as nft does it.
/// Where nft has no names for a header it gains nothing by that, and nft 1.0.6 then aborts when it lists the rule.
pub(super) fn with_context(mut matches: Matches, known: Option<u16>) -> Vec<Match> {
    if let Some(ether_type) = known.filter(|known| NAMED.contains(known))
        && matches.iter().any(|(_, part)| needs_protocol(part))
    {
        let key = Key::new(KeySource::Protocol);
        matches.push((turn::PROTOCOL, Match::equals(key, &ether_type.to_be_bytes())));
    }
    ordered(matches)
}

fn needs_protocol(part: &Match) -> bool {
    part.keys().iter().any(|key| match key.from {
        KeySource::Field(Field::IcmpType | Field::IcmpCode | Field::Icmp6Type | Field::Icmp6Code) => true,
        KeySource::Field(field) => (turn::SHAPE..=turn::UPPER).contains(&turn_of(field)),
        _ => false,
    })
}
