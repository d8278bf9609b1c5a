//! Values of fields and keys as nft writes them: addresses, names, numbers, flags.

use crate::document::mac::Mac;
use crate::program::ir::KeyType;
use crate::program::ir::operand::Style;
use std::net::{Ipv4Addr, Ipv6Addr};

/// A value as words that nft reads back. Bytes that do not fit the style are written as a number.
pub(crate) fn value(style: Style, shift: u32, bytes: &[u8]) -> String {
    let number = || bytes.iter().fold(0u128, |number, byte| number << 8 | u128::from(*byte));
    match (style, bytes) {
        (Style::Index, [a, b, c, d]) => u32::from_ne_bytes([*a, *b, *c, *d]).to_string(),
        (Style::Mark, [a, b, c, d]) => format!("{:#010x}", u32::from_ne_bytes([*a, *b, *c, *d])),
        (Style::Ether, [a, b, c, d, e, f]) => Mac([*a, *b, *c, *d, *e, *f]).to_string(),
        (Style::Ipv4, [a, b, c, d]) => Ipv4Addr::new(*a, *b, *c, *d).to_string(),
        (Style::Ipv6, bytes) if bytes.len() == 16 => Ipv6Addr::from_bits(number()).to_string(),
        (Style::Name, bytes) => {
            let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
            format!("\"{}\"", String::from_utf8_lossy(&bytes[..end]))
        }
        (Style::EtherType, [_, _]) => word(&ETHER_TYPES, number()).unwrap_or(format!("{:#06x}", number())),
        (Style::Protocol, [_]) => word(&PROTOCOLS, number()).unwrap_or(number().to_string()),
        (Style::ArpOperation, [_, _]) => word(&OPERATIONS, number()).unwrap_or(number().to_string()),
        (Style::PacketType, [0]) => "host".into(),
        (Style::NfProto, [_]) => word(&[(2, "ipv4"), (10, "ipv6")], number()).unwrap_or(number().to_string()),
        (Style::Dscp, _) => format!("{:#04x}", number() >> shift),
        (Style::TcpFlags, [_]) => flags(number()),
        (Style::Raw, _) => format!("{:#x}", number()),
        _ => (number() >> shift).to_string(),
    }
}

const ETHER_TYPES: [(u128, &str); 4] = [(0x0800, "ip"), (0x0806, "arp"), (0x8100, "8021q"), (0x86dd, "ip6")];
/// Only those that are words of nft's own grammar; other names it would look up in `/etc/protocols`.
const PROTOCOLS: [(u128, &str); 9] = [
    (1, "icmp"),
    (2, "igmp"),
    (6, "tcp"),
    (17, "udp"),
    (50, "esp"),
    (51, "ah"),
    (58, "icmpv6"),
    (132, "sctp"),
    (136, "udplite"),
];
const OPERATIONS: [(u128, &str); 2] = [(1, "request"), (2, "reply")];
const TCP_FLAGS: [(u128, &str); 8] =
    [(1, "fin"), (2, "syn"), (4, "rst"), (8, "psh"), (16, "ack"), (32, "urg"), (64, "ecn"), (128, "cwr")];

fn word(words: &[(u128, &str)], number: u128) -> Option<String> {
    words.iter().find(|(value, _)| *value == number).map(|(_, word)| (*word).to_string())
}

fn flags(bits: u128) -> String {
    let set: Vec<&str> = TCP_FLAGS.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, name)| *name).collect();
    match set.as_slice() {
        [] => "0x0".into(),
        [single] => (*single).into(),
        several => format!("({})", several.join(" | ")),
    }
}

/// How values of a part of a named set's key are written.
pub(crate) fn style_of(part: KeyType) -> Style {
    match part {
        KeyType::IfIndex => Style::Index,
        KeyType::IfName => Style::Name,
        KeyType::Ether => Style::Ether,
        KeyType::Ipv4 => Style::Ipv4,
        KeyType::Ipv6 => Style::Ipv6,
        KeyType::Port => Style::Port,
        KeyType::EtherType => Style::EtherType,
        KeyType::IpProtocol => Style::Protocol,
        KeyType::Mark => Style::Mark,
    }
}

/// The parts of a key, without the padding between them.
pub(crate) fn split(key: &[u8], lengths: impl Iterator<Item = usize>) -> impl Iterator<Item = &[u8]> {
    let mut at = 0;
    lengths.map(move |length| {
        let part = key.get(at..at + length).unwrap_or_default();
        at += length.next_multiple_of(4);
        part
    })
}
