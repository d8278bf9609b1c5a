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
    let keys = part.keys();
    let what = keys.iter().map(|key| name(key)).collect::<Vec<_>>().join(" and ");
    let seen: Option<Vec<String>> =
        keys.iter().zip(&seen).map(|(key, bytes)| Some(text(key, bytes.as_ref()?))).collect();
    let seen = seen.map(|values| values.join(" and "));
    let missed = |what: &str, wanted: String| FailedMatch { what: what.into(), wanted, seen: None };
    match part {
        Match::Compare { key, negated, value } => {
            FailedMatch { what, wanted: but(*negated, wanted(key, value)), seen }
        }
        Match::Range { key, negated, from, to } => {
            let wanted = but(*negated, format!("{} to {}", text(key, from), text(key, to)));
            FailedMatch { what, wanted, seen }
        }
        Match::Lookup { keys, negated, set } => {
            FailedMatch { what, wanted: but(*negated, listed(keys, set)), seen }
        }
        Match::Same { negated, .. } => {
            FailedMatch { what, wanted: if *negated { "different" } else { "the same" }.into(), seen }
        }
        Match::TcpOption { kind, negated } => {
            let wanted = if *negated { "absent" } else { "present" };
            FailedMatch {
                seen: Some(if *negated { "present" } else { "absent" }.into()),
                ..missed(&format!("TCP option {kind}"), wanted.into())
            }
        }
        Match::CtState { states, negated } => FailedMatch {
            seen: Some("another".into()),
            ..missed("state of the connection", but(*negated, names_of(*states)))
        },
        Match::CtDirection(direction) => {
            let wanted = if *direction == CtDirection::Original { "as it was opened" } else { "in reply" };
            FailedMatch {
                seen: Some("another".into()),
                ..missed("direction in the connection", wanted.into())
            }
        }
        Match::ConnLimit { above, negated, .. } => {
            let wanted = if *negated { format!("at most {above}") } else { format!("more than {above}") };
            FailedMatch {
                seen: Some("another number".into()),
                ..missed("connections of this source", wanted)
            }
        }
    }
}

fn but(negated: bool, wanted: String) -> String {
    if negated { format!("anything but {wanted}") } else { wanted }
}

/// The value with its mask: an address with a prefix where that says it.
fn wanted(key: &Key, bytes: &[u8]) -> String {
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
    use Field::*;
    match key.from {
        KeySource::Iif | KeySource::IifName => "interface it came in by",
        KeySource::Oif | KeySource::OifName => "interface it goes out by",
        KeySource::BridgeName => "bridge",
        KeySource::Mark => "mark",
        KeySource::PacketType => "packet type",
        KeySource::Protocol => "protocol",
        KeySource::L4Proto => "IP protocol",
        KeySource::Field(field) => match field {
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
        },
    }
}
