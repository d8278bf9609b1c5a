//! Matches in words: what a match is about, what it asks for, and what a frame has instead.

use super::FailedMatch;
use crate::document::field::Field;
use crate::document::filter::state;
use crate::program::ir::operand::{Style, style_of as style_of_field};
use crate::program::ir::value::{split, style_of, value};
use crate::program::ir::{Bytes, CtDirection, Key, KeySource, Match, SetRef};

/// Values of a list that are printed.
const VALUES: usize = 4;

/// What a match asks for, beside what was seen for each of its keys.
pub(super) fn missed(part: &Match, seen: Vec<Option<Vec<u8>>>) -> FailedMatch {
    FailedMatch { what: what(part), wanted: wanted(part), seen: seen_instead(part, &seen) }
}

/// What a match is about.
fn what(part: &Match) -> String {
    match part {
        Match::Compare { .. } | Match::Range { .. } | Match::Lookup { .. } | Match::Same { .. } => {
            part.keys().iter().map(|key| name(key)).collect::<Vec<_>>().join(" and ")
        }
        Match::TcpOption { kind, .. } => format!("TCP option {kind}"),
        Match::CtState { .. } => "state of the connection".into(),
        Match::CtDirection(_) => "direction in the connection".into(),
        Match::ConnLimit { .. } => "connections of this source".into(),
    }
}

fn wanted(part: &Match) -> String {
    match part {
        Match::Compare { key, negated, value } => but(*negated, masked(key, value)),
        Match::Range { key, negated, from, to } => {
            but(*negated, format!("{} to {}", text(key, from), text(key, to)))
        }
        Match::Lookup { keys, negated, set } => but(*negated, listed(keys, set)),
        Match::Same { negated: true, .. } => "different".into(),
        Match::Same { negated: false, .. } => "the same".into(),
        Match::TcpOption { negated: true, .. } => "absent".into(),
        Match::TcpOption { negated: false, .. } => "present".into(),
        Match::CtState { states, negated } => but(*negated, names_of(*states)),
        Match::CtDirection(CtDirection::Original) => "as it was opened".into(),
        Match::CtDirection(CtDirection::Reply) => "in reply".into(),
        Match::ConnLimit { above, negated: true, .. } => format!("at most {above}"),
        Match::ConnLimit { above, negated: false, .. } => format!("more than {above}"),
    }
}

/// The frame's own values of the match's keys; none where it lacks one.
fn seen_instead(part: &Match, seen: &[Option<Vec<u8>>]) -> Option<String> {
    match part {
        Match::Compare { .. } | Match::Range { .. } | Match::Lookup { .. } | Match::Same { .. } => {
            let keys = part.keys();
            let values = keys.iter().zip(seen).map(|(key, bytes)| Some(text(key, bytes.as_ref()?)));
            Some(values.collect::<Option<Vec<_>>>()?.join(" and "))
        }
        Match::TcpOption { negated: true, .. } => Some("present".into()),
        Match::TcpOption { negated: false, .. } => Some("absent".into()),
        Match::CtState { .. } | Match::CtDirection(_) => Some("another".into()),
        Match::ConnLimit { .. } => Some("another number".into()),
    }
}

fn but(negated: bool, wanted: String) -> String {
    if negated { format!("anything but {wanted}") } else { wanted }
}

/// The value with its mask: an address with a prefix where that says it.
fn masked(key: &Key, bytes: &[u8]) -> String {
    let plain = text(key, bytes);
    let Some(mask) = &key.mask else { return plain };
    let ones: u32 = mask.iter().map(|byte| byte.count_ones()).sum();
    let leading = mask.iter().fold((0, true), |(count, on), byte| match on {
        true => (count + byte.leading_ones(), *byte == 0xff),
        false => (count, false),
    });
    match key.from {
        KeySource::Field(field)
            if leading.0 == ones && matches!(style_of_field(field), Style::Ipv4 | Style::Ipv6) =>
        {
            format!("{plain}/{ones}")
        }
        _ => format!("{plain} in the bits {}", text(key, mask)),
    }
}

fn listed(keys: &[Key], set: &SetRef) -> String {
    let (kinds, values) = match set {
        SetRef::Named(name) => return format!("one of the set {name}"),
        SetRef::Anonymous(kinds, values) => (kinds, values),
    };
    let one = |tuple: &Bytes| {
        let parts = split(tuple, kinds.iter().map(|kind| kind.length()));
        let parts = parts.zip(kinds).zip(keys).map(|((bytes, kind), _)| value(style_of(*kind), 0, bytes));
        parts.collect::<Vec<_>>().join(" and ")
    };
    let shown: Vec<String> = values.iter().take(VALUES).map(one).collect();
    let more =
        if values.len() > VALUES { format!(" or {} more", values.len() - VALUES) } else { String::new() };
    format!("{}{more}", shown.join(" or "))
}

fn names_of(states: u8) -> String {
    let all = [
        (state::NEW, "NEW"),
        (state::ESTABLISHED, "ESTABLISHED"),
        (state::RELATED, "RELATED"),
        (state::INVALID, "INVALID"),
    ];
    all.iter().filter(|(bit, _)| states & bit != 0).map(|(_, name)| *name).collect::<Vec<_>>().join(" or ")
}

fn text(key: &Key, bytes: &[u8]) -> String {
    let (style, shift) = match key.from {
        KeySource::Field(Field::StpRootAddress | Field::StpSenderAddress) => (Style::Ether, 0),
        KeySource::Field(field) => match style_of_field(field) {
            Style::Raw => (Style::Number, 0),
            style => (style, field.layout().shift),
        },
        KeySource::Iif | KeySource::Oif => (Style::Index, 0),
        KeySource::Mark => (Style::Mark, 0),
        KeySource::PacketType => (Style::PacketType, 0),
        KeySource::IifName | KeySource::OifName | KeySource::BridgeName => (Style::Name, 0),
        KeySource::Protocol => (Style::EtherType, 0),
        KeySource::L4Proto => (Style::Protocol, 0),
    };
    value(style, shift, bytes)
}

fn name(key: &Key) -> &'static str {
    match key.from {
        KeySource::Iif | KeySource::IifName => "interface it came in by",
        KeySource::Oif | KeySource::OifName => "interface it goes out by",
        KeySource::BridgeName => "bridge",
        KeySource::Mark => "mark",
        KeySource::PacketType => "packet type",
        KeySource::Protocol => "protocol",
        KeySource::L4Proto => "IP protocol",
        KeySource::Field(field) => name_of(field),
    }
}

fn name_of(field: Field) -> &'static str {
    use Field::*;
    match field {
        EtherDaddr => "destination MAC address",
        EtherSaddr => "source MAC address",
        EtherType => "Ethernet type",
        VlanId => "VLAN id",
        VlanType => "Ethernet type behind the tag",
        StpType => "BPDU type",
        StpFlags => "BPDU flags",
        StpRootPriority => "root priority",
        StpRootAddress => "root address",
        StpRootCost => "root cost",
        StpSenderPriority => "sender priority",
        StpSenderAddress => "sender address",
        StpPort => "port of the BPDU",
        StpAge => "age",
        StpMaxAge => "maximal age",
        StpHelloTime => "hello time",
        StpForwardDelay => "forward delay",
        StpHeader => "BPDU header",
        ArpHtype => "ARP hardware type",
        ArpPtype => "ARP protocol type",
        ArpHlen => "ARP hardware address length",
        ArpPlen => "ARP protocol address length",
        ArpOperation => "ARP operation",
        ArpSaddrEther => "ARP sender MAC address",
        ArpSaddrIp => "ARP sender IP address",
        ArpDaddrEther => "ARP target MAC address",
        ArpDaddrIp => "ARP target IP address",
        IpDscp | Ip6Dscp => "DSCP",
        IpFragment => "place of the fragment",
        ThStart => "transport header",
        IpProtocol => "IP protocol",
        IpSaddr | Ip6Saddr => "source IP address",
        IpDaddr | Ip6Daddr => "destination IP address",
        ThSport => "source port",
        ThDport => "destination port",
        TcpFlags => "TCP flags",
        IcmpType | Icmp6Type => "ICMP type",
        IcmpCode | Icmp6Code => "ICMP code",
    }
}
