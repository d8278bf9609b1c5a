//! The value of an attribute: text to [`Value`] and back, by the [`ValueKind`] of the table.
//!
//! Reads exactly what libvirt reads (old forms of addresses and hexadecimal numbers without a prefix
//! among them) and prints as it prints. The values of variables go through the same door. It does not
//! know which rule a value belongs to.

use super::schema::ValueKind;
use super::{AddressEnd, Value, state};
use crate::document::strtoul;
use crate::document::vars::Access;
use std::net::{Ipv4Addr, Ipv6Addr};

/// A comment is cut off behind this many bytes.
pub const COMMENT_BYTES: usize = 256;

/// An ipset has a name of at most this many bytes.
const IPSET_BYTES: usize = 31;

/// An ipset has at most this many dimensions.
const IPSET_SIDES: usize = 6;

const ETHER_TYPES: &[(&str, u32)] =
    &[("arp", 0x0806), ("rarp", 0x8035), ("ipv4", 0x0800), ("ipv6", 0x86dd), ("vlan", 0x8100)];

const ARP_OPCODES: &[(&str, u32)] = &[
    ("Request", 1),
    ("Reply", 2),
    ("Request_Reverse", 3),
    ("Reply_Reverse", 4),
    ("DRARP_Request", 5),
    ("DRARP_Reply", 6),
    ("DRARP_Error", 7),
    ("InARP_Request", 8),
    ("ARP_NAK", 9),
];

const IP_PROTOCOLS: &[(&str, u32)] = &[
    ("tcp", 6),
    ("udp", 17),
    ("udplite", 136),
    ("esp", 50),
    ("ah", 51),
    ("icmp", 1),
    ("igmp", 2),
    ("sctp", 132),
    ("icmpv6", 58),
];

const STATES: &[(&str, u8)] = &[
    ("NEW", state::NEW),
    ("ESTABLISHED", state::ESTABLISHED),
    ("RELATED", state::RELATED),
    ("INVALID", state::INVALID),
    ("NONE", state::NONE),
];

const TCP_FLAGS: &[(&str, u8)] = &[
    ("FIN", 0x01),
    ("SYN", 0x02),
    ("RST", 0x04),
    ("PSH", 0x08),
    ("ACK", 0x10),
    ("URG", 0x20),
    ("ALL", 0x3f),
    ("NONE", 0x00),
];

/// The names that stand for numbers of this kind.
pub fn names(kind: ValueKind) -> &'static [(&'static str, u32)] {
    match kind {
        ValueKind::EtherType(_) => ETHER_TYPES,
        ValueKind::ArpOpcode => ARP_OPCODES,
        ValueKind::IpProtocol => IP_PROTOCOLS,
        _ => &[],
    }
}

/// The least and the greatest number of this kind; none where it is no number.
pub fn bounds(kind: ValueKind) -> Option<(u32, u32)> {
    match kind {
        ValueKind::U8 | ValueKind::IpProtocol => Some((0, 0xff)),
        ValueKind::U16 | ValueKind::Decimal16 | ValueKind::ArpOpcode => Some((0, 0xffff)),
        ValueKind::U32 => Some((0, u32::MAX)),
        ValueKind::EtherType(least) => Some((u32::from(least), 0xffff)),
        ValueKind::VlanId => Some((0, 4095)),
        ValueKind::Dscp => Some((0, 63)),
        _ => None,
    }
}

/// What an attribute's text says; none where it has no value of this kind.
pub fn parse(kind: ValueKind, text: &str) -> Option<Value> {
    if text.starts_with('$') {
        return Access::parse(text).map(|(access, _)| Value::Variable(access));
    }
    literal(kind, text)
}

/// What a text says that can be no variable, such as a variable's own value.
pub fn literal(kind: ValueKind, text: &str) -> Option<Value> {
    match kind {
        ValueKind::Decimal16 => decimal(text, 0xffff).map(|value| Value::Number { value, hex: false }),
        ValueKind::Mac => text.parse().ok().map(Value::Mac),
        ValueKind::MacMask => {
            text.parse().ok().filter(|mask: &crate::document::mac::Mac| mask.is_contiguous()).map(Value::Mac)
        }
        ValueKind::Ipv4 => ipv4(text).map(Value::Ipv4),
        ValueKind::Ipv6 => ipv6(text).map(|(address, zone)| Value::Ipv6(address, zone)),
        ValueKind::Ipv4Mask => {
            prefix(text, 32, |text| ipv4(text).map(|mask| u128::from(mask.to_bits()) << 96))
        }
        ValueKind::Ipv6Mask => prefix(text, 128, |text| ipv6(text).map(|(mask, _)| mask.to_bits())),
        ValueKind::Bool => Some(Value::Bool(is_true(text))),
        ValueKind::Comment => Some(Value::Text(cut(text, COMMENT_BYTES).to_owned())),
        ValueKind::States => list(text, STATES).map(|bits| Value::States(only_none(bits))),
        ValueKind::TcpFlags => tcp_flags(text),
        ValueKind::IpsetName => is_ipset_name(text).then(|| Value::Text(text.to_owned())),
        ValueKind::IpsetFlags => sides(text).map(Value::Sides),
        _ => numbered(kind, text),
    }
}

/// How a value of this kind prints, not yet escaped.
pub fn print(kind: ValueKind, value: &Value) -> String {
    match value {
        Value::Variable(access) => access.to_string(),
        Value::Number { value, hex } => print_number(kind, *value, *hex),
        Value::Mac(mac) => mac.to_string(),
        Value::Ipv4(address) => address.to_string(),
        Value::Ipv6(address, zone) => print_ipv6(*address, zone.as_deref()),
        Value::Prefix(length) => length.to_string(),
        Value::Bool(value) => value.to_string(),
        Value::Text(text) => text.clone(),
        Value::States(bits) => names_of(*bits, STATES).join(","),
        Value::TcpFlags { mask, flags } => format!("{}/{}", print_flags(*mask), print_flags(*flags)),
        Value::Sides(sides) => sides.iter().map(|side| side.name()).collect::<Vec<_>>().join(","),
    }
}

/// Whether libvirt takes a boolean's text for true.
pub fn is_true(text: &str) -> bool {
    matches!(text, "true" | "1" | "yes")
}

impl AddressEnd {
    /// `src` or `dst`.
    pub fn name(self) -> &'static str {
        match self {
            AddressEnd::Source => "src",
            AddressEnd::Destination => "dst",
        }
    }
}

fn decimal(text: &str, greatest: u32) -> Option<u32> {
    strtoul::unsigned(text, 10).filter(|(value, rest)| rest.is_empty() && *value <= greatest).map(|(v, _)| v)
}

/// A number, decimal if it can be, hexadecimal else, or a name. A decimal number out of bounds is not tried
/// again as a hexadecimal one.
fn numbered(kind: ValueKind, text: &str) -> Option<Value> {
    let (least, greatest) = bounds(kind)?;
    let whole = |radix| strtoul::unsigned(text, radix).filter(|(_, rest)| rest.is_empty());
    let named = || names(kind).iter().find(|(name, _)| name.eq_ignore_ascii_case(text));
    let (value, hex) = match (whole(10), whole(16)) {
        (Some((value, _)), _) => (value, false),
        (None, Some((value, _))) => (value, true),
        (None, None) => (named()?.1, false),
    };
    (least..=greatest).contains(&value).then_some(Value::Number { value, hex })
}

/// The forms that `inet_aton` takes, and a mapped IPv6 address.
fn ipv4(text: &str) -> Option<Ipv4Addr> {
    if text.contains(':') {
        return text.parse::<Ipv6Addr>().ok()?.to_ipv4_mapped();
    }
    let parts: Vec<&str> = text.split('.').collect();
    let (last, octets) = parts.split_last()?;
    let mut bits = 0;
    for (position, octet) in octets.iter().enumerate() {
        let octet = aton(octet).filter(|octet| *octet <= 0xff && position < 3)?;
        bits |= octet << (24 - 8 * position);
    }
    let width = 32 - 8 * octets.len() as u32;
    let last = aton(last).filter(|last| u64::from(*last) < 1 << width)?;
    Some(Ipv4Addr::from_bits(bits | last))
}

/// One part of an address: decimal, octal behind a zero, hexadecimal behind `0x`.
fn aton(part: &str) -> Option<u32> {
    if !part.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let hexadecimal = part.starts_with("0x") || part.starts_with("0X");
    let radix = if hexadecimal {
        16
    } else if part.starts_with('0') {
        8
    } else {
        10
    };
    strtoul::unsigned(part, radix).filter(|(_, rest)| rest.is_empty()).map(|(value, _)| value)
}

/// An address and its zone; a zone of zero is none.
fn ipv6(text: &str) -> Option<(Ipv6Addr, Option<String>)> {
    let Some((address, zone)) = text.split_once('%') else {
        return Some((text.parse().ok()?, None));
    };
    let address: Ipv6Addr = address.parse().ok()?;
    let link_local = address.segments()[0] & 0xffc0 == 0xfe80 || address.segments()[0] & 0xff0f == 0xff02;
    let numeric = zone.bytes().all(|b| b.is_ascii_digit()) && zone.parse::<u32>().is_ok();
    let named = zone.len() < 16 && zone.bytes().all(|b| b.is_ascii_graphic() && b != b'/' && b != b'%');
    let taken = !zone.is_empty() && (numeric || link_local && named);
    let zone = (!numeric || zone.parse() != Ok(0u32)).then(|| zone.to_owned());
    taken.then_some((address, zone))
}

/// A length, or a mask of leading ones that stand at the top of 128 bits.
fn prefix(text: &str, longest: u8, mask: impl Fn(&str) -> Option<u128>) -> Option<Value> {
    if let Some((length, "")) = strtoul::unsigned(text, 10) {
        return u8::try_from(length).ok().filter(|length| *length <= longest).map(Value::Prefix);
    }
    let bits = mask(text)?;
    let ones = bits.leading_ones();
    let contiguous = ones == 128 || bits << ones == 0;
    contiguous.then_some(Value::Prefix(ones as u8))
}

fn cut(text: &str, bytes: usize) -> &str {
    let mut end = text.len().min(bytes);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Names one after the other; commas and white space may follow each.
fn list(text: &str, names: &[(&str, u8)]) -> Option<u8> {
    let mut rest = strtoul::skip_space(text);
    let mut bits = 0;
    while !rest.is_empty() {
        let starts = |name: &str| rest.get(..name.len()).is_some_and(|head| head.eq_ignore_ascii_case(name));
        let (name, bit) = names.iter().find(|(name, _)| starts(name))?;
        bits |= bit;
        rest = rest[name.len()..].trim_start_matches([' ', '\t', '\n', '\x0b', '\x0c', '\r', ',']);
    }
    Some(bits)
}

/// Whether states are written that come to none: no word, or other words beside NONE, which overrides them.
pub fn asks_for_less(states: &str) -> bool {
    list(states, STATES).is_some_and(|bits| bits == 0 || (bits & state::NONE != 0 && bits != state::NONE))
}

fn only_none(bits: u8) -> u8 {
    if bits & state::NONE != 0 { state::NONE } else { bits }
}

fn tcp_flags(text: &str) -> Option<Value> {
    let (mask, flags) = text.split_once('/')?;
    Some(Value::TcpFlags { mask: list(mask, TCP_FLAGS)?, flags: list(flags, TCP_FLAGS)? })
}

fn is_ipset_name(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"_.:+ -".contains(&b);
    text.len() <= IPSET_BYTES && text.bytes().all(allowed)
}

fn sides(text: &str) -> Option<Vec<AddressEnd>> {
    let side = |word: &str| match word {
        _ if word.eq_ignore_ascii_case("src") => Some(AddressEnd::Source),
        _ if word.eq_ignore_ascii_case("dst") => Some(AddressEnd::Destination),
        _ => None,
    };
    let sides: Option<Vec<AddressEnd>> = text.split(',').map(side).collect();
    sides.filter(|sides| sides.len() <= IPSET_SIDES)
}

fn print_number(kind: ValueKind, value: u32, hex: bool) -> String {
    match names(kind).iter().find(|(_, number)| *number == value) {
        Some((name, _)) => (*name).to_owned(),
        // libvirt forgets the base of an ARP operation.
        None if hex && kind != ValueKind::ArpOpcode => format!("{value:#x}"),
        None => value.to_string(),
    }
}

/// As `inet_ntop` prints it, which knows `::1.2.3.4`, and Rust does not.
fn print_ipv6(address: Ipv6Addr, zone: Option<&str>) -> String {
    let compatible = address.segments()[..6] == [0; 6] && address.segments()[6] != 0;
    let text = if compatible {
        format!("::{}", Ipv4Addr::from_bits(address.to_bits() as u32))
    } else {
        address.to_string()
    };
    zone.map_or(text.clone(), |zone| format!("{text}%{zone}"))
}

fn names_of(bits: u8, table: &[(&'static str, u8)]) -> Vec<&'static str> {
    table.iter().filter(|(_, bit)| bits & bit != 0).map(|(name, _)| *name).collect()
}

fn print_flags(bits: u8) -> String {
    match TCP_FLAGS.iter().find(|(name, bit)| matches!(*name, "ALL" | "NONE") && *bit == bits) {
        Some((name, _)) => (*name).to_owned(),
        None => names_of(bits, &TCP_FLAGS[..6]).join(","),
    }
}

/// What a value of this kind looks like, for people.
pub fn expected(kind: ValueKind) -> String {
    let text = match kind {
        ValueKind::Mac => "a MAC address such as 52:54:00:12:34:56",
        ValueKind::MacMask => "a MAC mask of ones first and zeros after, such as ff:ff:ff:00:00:00",
        ValueKind::Ipv4 => "an IPv4 address such as 192.0.2.1",
        ValueKind::Ipv6 => "an IPv6 address such as 2001:db8::1",
        ValueKind::Ipv4Mask => "a prefix length from 0 to 32, or a mask such as 255.255.255.0",
        ValueKind::Ipv6Mask => "a prefix length from 0 to 128, or a mask such as ffff:ffff::",
        ValueKind::Bool => "true or false",
        ValueKind::Comment => "a text of up to 256 bytes",
        ValueKind::States => "some of NEW, ESTABLISHED, RELATED, INVALID, or NONE",
        ValueKind::TcpFlags => {
            "a mask and flags such as SYN,ACK/SYN, of FIN, SYN, RST, PSH, ACK, URG, ALL, NONE"
        }
        ValueKind::IpsetName => "the name of a set: up to 31 letters, digits, or _ . : + - and spaces",
        ValueKind::IpsetFlags => "one to six of src and dst, separated by commas",
        _ => return expected_number(kind),
    };
    text.to_owned()
}

fn expected_number(kind: ValueKind) -> String {
    let (least, greatest) = bounds(kind).expect("what has no text of its own is a number");
    let names: Vec<&str> = names(kind).iter().map(|(name, _)| *name).collect();
    let base = if kind == ValueKind::Decimal16 { "a decimal number" } else { "a number" };
    let mut text = match least {
        0 => format!("{base} from 0 to {greatest}"),
        _ => format!("{base} from {least:#x} to {greatest:#x}"),
    };
    if !names.is_empty() {
        text.push_str(&format!(", or one of {}", names.join(", ")));
    }
    text
}
