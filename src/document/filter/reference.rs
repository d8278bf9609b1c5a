//! The attribute table in words, for people: what each attribute matches, which values it takes, and which attributes belong
//! together.
//!
//! [`schema`](super::schema) turns into rows; the book and the man page print them, each in its own markup. It promises that
//! every attribute of the table has a row. It knows no markup.

use super::schema::{Attribute, AttributeRole, Layer, Protocol};
use super::value;
use crate::document::field::Field;

/// What there is to say of one attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The attribute's name.
    pub name: &'static str,
    /// What it matches.
    pub matches: String,
    /// Which values it takes.
    pub values: String,
    /// The attributes that change what it means: its mask, or the end of its range.
    pub partners: Vec<&'static str>,
}

/// The rows of a protocol, in the order in which a document is printed.
pub fn rows(protocol: &'static Protocol) -> Vec<Row> {
    protocol.attributes().map(|attribute| row(protocol, attribute)).collect()
}

/// Which frames the rules of a protocol are about.
pub fn frames(protocol: &Protocol) -> String {
    let layer = match protocol.layer {
        Layer::Ethernet => "Ethernet layer",
        Layer::Ipv4 => "IP layer, IPv4",
        Layer::Ipv6 => "IP layer, IPv6",
    };
    let kind = match (protocol.name, protocol.ip_protocol, protocol.ether_type) {
        ("stp", ..) => "frames to 01:80:c2:00:00:00".to_owned(),
        (_, Some(number), _) => format!("packets of IP protocol {number}"),
        (_, None, Some(_)) if protocol.layer != Layer::Ethernet => "packets of any IP protocol".to_owned(),
        (_, None, Some(number)) => format!("frames of Ethernet type {number:#06x}"),
        (_, None, None) => "all frames".to_owned(),
    };
    format!("{layer}: {kind}")
}

fn row(protocol: &'static Protocol, attribute: &'static Attribute) -> Row {
    let partners = protocol.attributes().filter(|other| base_of(other.role) == Some(attribute.name));
    Row {
        name: attribute.name,
        matches: matches(attribute.role),
        values: value::expected(attribute.kind),
        partners: partners.map(|other| other.name).collect(),
    }
}

fn base_of(role: AttributeRole) -> Option<&'static str> {
    match role {
        AttributeRole::MaskOf(base) | AttributeRole::EndOf(base) => Some(base),
        _ => None,
    }
}

fn matches(role: AttributeRole) -> String {
    let words = match role {
        AttributeRole::Is(field) => words(field),
        AttributeRole::MaskOf(base) => return format!("which bits of {base} count"),
        AttributeRole::EndOf(base) => return format!("the last value of a range that {base} begins"),
        AttributeRole::UpperProtocol => "IP protocol; IPv6 extension headers are skipped",
        AttributeRole::Gratuitous => "whether the ARP sender's and target's IP address are the same",
        AttributeRole::TcpOption => "the TCP option of this kind is present",
        AttributeRole::TcpFlags => "of the TCP flags in the mask, exactly those after the slash are set",
        AttributeRole::State => "state of the connection",
        AttributeRole::ConnLimit => "the source has more connections than this",
        AttributeRole::Ipset => "the addresses are in the set of this name",
        AttributeRole::IpsetFlags => "which address is looked up in the set",
        AttributeRole::Comment => "nothing; it is for people",
    };
    words.to_owned()
}

fn words(field: Field) -> &'static str {
    match field {
        Field::EtherDaddr => "destination MAC address",
        Field::EtherSaddr => "source MAC address",
        Field::EtherType => "Ethernet type",
        Field::VlanId => "VLAN id",
        Field::VlanType => "Ethernet type behind the VLAN tag",
        Field::StpType => "BPDU type",
        Field::StpFlags => "BPDU flags",
        Field::StpRootPriority => "priority of the root bridge",
        Field::StpRootAddress => "MAC address of the root bridge",
        Field::StpRootCost => "cost of the path to the root bridge",
        Field::StpSenderPriority => "priority of the sending bridge",
        Field::StpSenderAddress => "MAC address of the sending bridge",
        Field::StpPort => "port of the sending bridge",
        Field::StpAge => "message age",
        Field::StpMaxAge => "maximum age",
        Field::StpHelloTime => "hello time",
        Field::StpForwardDelay => "forward delay",
        Field::StpHeader => "BPDU header",
        Field::ArpHtype => "ARP hardware type",
        Field::ArpPtype => "ARP protocol type",
        Field::ArpHlen => "length of an ARP hardware address",
        Field::ArpPlen => "length of an ARP protocol address",
        Field::ArpOperation => "ARP operation",
        Field::ArpSaddrEther => "MAC address of the ARP sender",
        Field::ArpSaddrIp => "IPv4 address of the ARP sender",
        Field::ArpDaddrEther => "MAC address of the ARP target",
        Field::ArpDaddrIp => "IPv4 address of the ARP target",
        Field::IpDscp => "DSCP of the IPv4 header",
        Field::IpFragment => "fragment flags and offset",
        Field::IpProtocol => "IP protocol",
        Field::IpSaddr => "source IPv4 address",
        Field::IpDaddr => "destination IPv4 address",
        Field::Ip6Dscp => "DSCP of the IPv6 header",
        Field::Ip6Saddr => "source IPv6 address",
        Field::Ip6Daddr => "destination IPv6 address",
        Field::ThStart => "beginning of the transport header",
        Field::ThSport => "source port",
        Field::ThDport => "destination port",
        Field::TcpFlags => "TCP flags",
        Field::IcmpType => "ICMP type",
        Field::IcmpCode => "ICMP code",
        Field::Icmp6Type => "ICMPv6 type",
        Field::Icmp6Code => "ICMPv6 code",
    }
}
