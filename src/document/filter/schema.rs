//! ONE table of protocols and their attributes. Reading, writing, the RELAX NG, the compiler and the
//! documentation all follow it.
//!
//! The order of protocols is the order of the documentation; the order of attributes is the order in
//! which dumpxml prints them.

use crate::document::field::Field;

/// At which layer rules of a protocol are judged. A frame must pass both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Layer {
    /// The Ethernet layer, in chains.
    Ethernet,
    /// The IP layer over IPv4, in one list without chains.
    Ipv4,
    /// The IP layer over IPv6, in one list without chains.
    Ipv6,
}

/// A protocol element of a rule.
#[derive(Debug, PartialEq, Eq)]
pub struct Protocol {
    /// The element's name.
    pub name: &'static str,
    /// Where its rules are judged.
    pub layer: Layer,
    /// The Ethernet type of its frames; none for `mac` and `stp`.
    pub ether_type: Option<u16>,
    /// The IP protocol number of its frames; none where the rule itself may name one, or any will do.
    pub ip_protocol: Option<u8>,
    /// Its attributes, in groups.
    pub groups: &'static [&'static [Attribute]],
}

/// An attribute of a protocol element.
#[derive(Debug, PartialEq, Eq)]
pub struct Attribute {
    /// Its name.
    pub name: &'static str,
    /// Which values it takes and how they print.
    pub kind: ValueKind,
    /// What it says about a frame.
    pub role: AttributeRole,
}

/// The type of an attribute's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ValueKind {
    /// 8 bits, decimal or hexadecimal.
    U8,
    /// 16 bits, decimal or hexadecimal.
    U16,
    /// 32 bits, decimal or hexadecimal.
    U32,
    /// 16 bits, decimal only.
    Decimal16,
    /// A MAC address.
    Mac,
    /// A contiguous MAC mask.
    MacMask,
    /// An IPv4 address.
    Ipv4,
    /// An IPv6 address.
    Ipv6,
    /// 0 to 32, or a contiguous dotted mask.
    Ipv4Mask,
    /// 0 to 128, or a contiguous mask with colons.
    Ipv6Mask,
    /// `true`, `1`, `yes`; anything else is false.
    Bool,
    /// Up to 256 bytes of anything.
    Comment,
    /// Connection states.
    States,
    /// `MASK/FLAGS` of TCP.
    TcpFlags,
    /// The name of a set.
    IpsetName,
    /// `src` and `dst`, one to six of them.
    IpsetFlags,
    /// An Ethernet type, by number from this one on or by name.
    EtherType(u16),
    /// 0 to 4095.
    VlanId,
    /// An ARP operation, by number or name.
    ArpOpcode,
    /// An IP protocol, by number or name.
    IpProtocol,
    /// 0 to 63.
    Dscp,
}

/// What an attribute says about a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum AttributeRole {
    /// The field has this value, or one of the range that a [`AttributeRole::EndOf`] closes.
    Is(Field),
    /// The upper protocol is this one. IPv6 extension headers are skipped.
    UpperProtocol,
    /// Which bits of the attribute named count.
    MaskOf(&'static str),
    /// The last value of the range that the attribute named begins.
    EndOf(&'static str),
    /// ARP sender and target address are the same.
    Gratuitous,
    /// The TCP option of this kind is present.
    TcpOption,
    /// `(flags & mask) == flags` of TCP.
    TcpFlags,
    /// The connection is in one of these states.
    State,
    /// The source has more than this many connections.
    ConnLimit,
    /// The addresses are in the set of this name.
    Ipset,
    /// Which addresses are looked up in the set.
    IpsetFlags,
    /// Nothing; for people.
    Comment,
}

const fn is(name: &'static str, kind: ValueKind, field: Field) -> Attribute {
    Attribute { name, kind, role: AttributeRole::Is(field) }
}

const fn mask(name: &'static str, kind: ValueKind, of: &'static str) -> Attribute {
    Attribute { name, kind, role: AttributeRole::MaskOf(of) }
}

const fn end(name: &'static str, kind: ValueKind, of: &'static str) -> Attribute {
    Attribute { name, kind, role: AttributeRole::EndOf(of) }
}

const fn special(name: &'static str, kind: ValueKind, role: AttributeRole) -> Attribute {
    Attribute { name, kind, role }
}

const SOURCE_MAC: &[Attribute] = &[is("srcmacaddr", ValueKind::Mac, Field::EtherSaddr)];

const SOURCE_MAC_MASKED: &[Attribute] = &[
    is("srcmacaddr", ValueKind::Mac, Field::EtherSaddr),
    mask("srcmacmask", ValueKind::MacMask, "srcmacaddr"),
];

const DESTINATION_MAC_MASKED: &[Attribute] = &[
    is("dstmacaddr", ValueKind::Mac, Field::EtherDaddr),
    mask("dstmacmask", ValueKind::MacMask, "dstmacaddr"),
];

const MAC: &[Attribute] = &[is("protocolid", ValueKind::EtherType(0x600), Field::EtherType)];

const VLAN: &[Attribute] = &[
    is("vlanid", ValueKind::VlanId, Field::VlanId),
    is("encap-protocol", ValueKind::EtherType(0x3c), Field::VlanType),
];

const STP: &[Attribute] = &[
    is("type", ValueKind::U8, Field::StpType),
    is("flags", ValueKind::U8, Field::StpFlags),
    is("root-priority", ValueKind::U16, Field::StpRootPriority),
    end("root-priority-hi", ValueKind::U16, "root-priority"),
    is("root-address", ValueKind::Mac, Field::StpRootAddress),
    mask("root-address-mask", ValueKind::MacMask, "root-address"),
    is("root-cost", ValueKind::U32, Field::StpRootCost),
    end("root-cost-hi", ValueKind::U32, "root-cost"),
    is("sender-priority", ValueKind::U16, Field::StpSenderPriority),
    end("sender-priority-hi", ValueKind::U16, "sender-priority"),
    is("sender-address", ValueKind::Mac, Field::StpSenderAddress),
    mask("sender-address-mask", ValueKind::MacMask, "sender-address"),
    is("port", ValueKind::U16, Field::StpPort),
    end("port-hi", ValueKind::U16, "port"),
    is("age", ValueKind::U16, Field::StpAge),
    end("age-hi", ValueKind::U16, "age"),
    is("max-age", ValueKind::U16, Field::StpMaxAge),
    end("max-age-hi", ValueKind::U16, "max-age"),
    is("hello-time", ValueKind::U16, Field::StpHelloTime),
    end("hello-time-hi", ValueKind::U16, "hello-time"),
    is("forward-delay", ValueKind::U16, Field::StpForwardDelay),
    end("forward-delay-hi", ValueKind::U16, "forward-delay"),
];

const ARP: &[Attribute] = &[
    is("hwtype", ValueKind::U16, Field::ArpHtype),
    is("protocoltype", ValueKind::U16, Field::ArpPtype),
    is("opcode", ValueKind::ArpOpcode, Field::ArpOperation),
    is("arpsrcmacaddr", ValueKind::Mac, Field::ArpSaddrEther),
    is("arpdstmacaddr", ValueKind::Mac, Field::ArpDaddrEther),
    is("arpsrcipaddr", ValueKind::Ipv4, Field::ArpSaddrIp),
    mask("arpsrcipmask", ValueKind::Ipv4Mask, "arpsrcipaddr"),
    is("arpdstipaddr", ValueKind::Ipv4, Field::ArpDaddrIp),
    mask("arpdstipmask", ValueKind::Ipv4Mask, "arpdstipaddr"),
    special("gratuitous", ValueKind::Bool, AttributeRole::Gratuitous),
];

const IPV4: &[Attribute] = &[
    is("srcipaddr", ValueKind::Ipv4, Field::IpSaddr),
    mask("srcipmask", ValueKind::Ipv4Mask, "srcipaddr"),
    is("dstipaddr", ValueKind::Ipv4, Field::IpDaddr),
    mask("dstipmask", ValueKind::Ipv4Mask, "dstipaddr"),
];

const IPV6: &[Attribute] = &[
    is("srcipaddr", ValueKind::Ipv6, Field::Ip6Saddr),
    mask("srcipmask", ValueKind::Ipv6Mask, "srcipaddr"),
    is("dstipaddr", ValueKind::Ipv6, Field::Ip6Daddr),
    mask("dstipmask", ValueKind::Ipv6Mask, "dstipaddr"),
];

const IPV4_RANGES: &[Attribute] = &[
    is("srcipfrom", ValueKind::Ipv4, Field::IpSaddr),
    end("srcipto", ValueKind::Ipv4, "srcipfrom"),
    is("dstipfrom", ValueKind::Ipv4, Field::IpDaddr),
    end("dstipto", ValueKind::Ipv4, "dstipfrom"),
];

const IPV6_RANGES: &[Attribute] = &[
    is("srcipfrom", ValueKind::Ipv6, Field::Ip6Saddr),
    end("srcipto", ValueKind::Ipv6, "srcipfrom"),
    is("dstipfrom", ValueKind::Ipv6, Field::Ip6Daddr),
    end("dstipto", ValueKind::Ipv6, "dstipfrom"),
];

const UPPER_PROTOCOL: &[Attribute] =
    &[special("protocol", ValueKind::IpProtocol, AttributeRole::UpperProtocol)];

const PORTS: &[Attribute] = &[
    is("srcportstart", ValueKind::U16, Field::ThSport),
    end("srcportend", ValueKind::U16, "srcportstart"),
    is("dstportstart", ValueKind::U16, Field::ThDport),
    end("dstportend", ValueKind::U16, "dstportstart"),
];

const DSCP: &[Attribute] = &[is("dscp", ValueKind::Dscp, Field::IpDscp)];
const DSCP6: &[Attribute] = &[is("dscp", ValueKind::Dscp, Field::Ip6Dscp)];

const ICMP6_RANGES: &[Attribute] = &[
    is("type", ValueKind::U8, Field::Icmp6Type),
    end("typeend", ValueKind::U8, "type"),
    is("code", ValueKind::U8, Field::Icmp6Code),
    end("codeend", ValueKind::U8, "code"),
];

const CONNECTION: &[Attribute] = &[
    special("connlimit-above", ValueKind::Decimal16, AttributeRole::ConnLimit),
    special("state", ValueKind::States, AttributeRole::State),
    special("ipset", ValueKind::IpsetName, AttributeRole::Ipset),
    special("ipsetflags", ValueKind::IpsetFlags, AttributeRole::IpsetFlags),
];

const TCP_OPTION: &[Attribute] = &[special("option", ValueKind::U8, AttributeRole::TcpOption)];
const TCP_FLAGS: &[Attribute] = &[special("flags", ValueKind::TcpFlags, AttributeRole::TcpFlags)];

const ICMP: &[Attribute] =
    &[is("type", ValueKind::U8, Field::IcmpType), is("code", ValueKind::U8, Field::IcmpCode)];
const ICMP6: &[Attribute] =
    &[is("type", ValueKind::U8, Field::Icmp6Type), is("code", ValueKind::U8, Field::Icmp6Code)];

const COMMENT: &[Attribute] = &[special("comment", ValueKind::Comment, AttributeRole::Comment)];

const fn ethernet(
    name: &'static str,
    ether_type: Option<u16>,
    groups: &'static [&'static [Attribute]],
) -> Protocol {
    Protocol { name, layer: Layer::Ethernet, ether_type, ip_protocol: None, groups }
}

const fn ipv4(
    name: &'static str,
    ip_protocol: Option<u8>,
    groups: &'static [&'static [Attribute]],
) -> Protocol {
    Protocol { name, layer: Layer::Ipv4, ether_type: Some(0x0800), ip_protocol, groups }
}

const fn ipv6(
    name: &'static str,
    ip_protocol: Option<u8>,
    groups: &'static [&'static [Attribute]],
) -> Protocol {
    Protocol { name, layer: Layer::Ipv6, ether_type: Some(0x86dd), ip_protocol, groups }
}

const PLAIN4: &[&[Attribute]] = &[SOURCE_MAC, IPV4, IPV4_RANGES, DSCP, CONNECTION, COMMENT];
const PLAIN6: &[&[Attribute]] = &[SOURCE_MAC, IPV6, IPV6_RANGES, DSCP6, CONNECTION, COMMENT];
const PORTS4: &[&[Attribute]] = &[SOURCE_MAC, IPV4, IPV4_RANGES, DSCP, CONNECTION, PORTS, COMMENT];
const PORTS6: &[&[Attribute]] = &[SOURCE_MAC, IPV6, IPV6_RANGES, DSCP6, CONNECTION, PORTS, COMMENT];

/// Every protocol element a rule may hold.
pub static PROTOCOLS: &[Protocol] = &[
    ethernet("mac", None, &[SOURCE_MAC_MASKED, DESTINATION_MAC_MASKED, MAC, COMMENT]),
    ethernet("vlan", Some(0x8100), &[SOURCE_MAC_MASKED, DESTINATION_MAC_MASKED, VLAN, COMMENT]),
    ethernet("stp", None, &[SOURCE_MAC_MASKED, STP, COMMENT]),
    ethernet("arp", Some(0x0806), &[SOURCE_MAC_MASKED, DESTINATION_MAC_MASKED, ARP, COMMENT]),
    ethernet("rarp", Some(0x8035), &[SOURCE_MAC_MASKED, DESTINATION_MAC_MASKED, ARP, COMMENT]),
    ethernet(
        "ip",
        Some(0x0800),
        &[SOURCE_MAC_MASKED, DESTINATION_MAC_MASKED, IPV4, UPPER_PROTOCOL, PORTS, DSCP, COMMENT],
    ),
    ethernet(
        "ipv6",
        Some(0x86dd),
        &[SOURCE_MAC_MASKED, DESTINATION_MAC_MASKED, IPV6, UPPER_PROTOCOL, PORTS, ICMP6_RANGES, COMMENT],
    ),
    ipv4(
        "tcp",
        Some(6),
        &[SOURCE_MAC, IPV4, IPV4_RANGES, DSCP, CONNECTION, PORTS, TCP_OPTION, TCP_FLAGS, COMMENT],
    ),
    ipv4("udp", Some(17), PORTS4),
    ipv4("udplite", Some(136), PLAIN4),
    ipv4("esp", Some(50), PLAIN4),
    ipv4("ah", Some(51), PLAIN4),
    ipv4("sctp", Some(132), PORTS4),
    ipv4("icmp", Some(1), &[SOURCE_MAC, IPV4, IPV4_RANGES, DSCP, CONNECTION, ICMP, COMMENT]),
    ipv4("igmp", Some(2), PLAIN4),
    ipv4("all", None, PLAIN4),
    ipv6(
        "tcp-ipv6",
        Some(6),
        &[SOURCE_MAC, IPV6, IPV6_RANGES, DSCP6, CONNECTION, PORTS, TCP_OPTION, TCP_FLAGS, COMMENT],
    ),
    ipv6("udp-ipv6", Some(17), PORTS6),
    ipv6("udplite-ipv6", Some(136), PLAIN6),
    ipv6("esp-ipv6", Some(50), PLAIN6),
    ipv6("ah-ipv6", Some(51), PLAIN6),
    ipv6("sctp-ipv6", Some(132), PORTS6),
    ipv6("icmpv6", Some(58), &[SOURCE_MAC, IPV6, IPV6_RANGES, DSCP6, CONNECTION, ICMP6, COMMENT]),
    ipv6("all-ipv6", None, PLAIN6),
];

impl Protocol {
    /// The row of a protocol element; none where there is no such protocol.
    pub fn named(name: &str) -> Option<&'static Protocol> {
        PROTOCOLS.iter().find(|protocol| protocol.name == name)
    }

    /// Its attributes in the order in which they print.
    pub fn attributes(&self) -> impl Iterator<Item = &'static Attribute> {
        self.groups.iter().copied().flatten()
    }
}
