//! A frame in a line, for people: addresses, protocol, length. Any bytes have one.

use crate::document::mac::Mac;
use crate::program::eval::{Headers, Tag};
use std::net::{Ipv4Addr, Ipv6Addr};

/// The line.
pub fn of(bytes: &[u8]) -> String {
    let mac = |at: usize| -> Option<String> {
        Some(Mac(bytes.get(at..at + 6)?.try_into().expect("six bytes were taken")).to_string())
    };
    let (Some(to), Some(from)) = (mac(0), mac(6)) else { return format!("{} bytes, no frame", bytes.len()) };
    let headers = Headers::of(bytes, Tag::Taken);
    let tag = match bytes.get(14..16).filter(|_| headers.tagged) {
        Some(control) => format!(", VLAN {}", u16::from_be_bytes([control[0] & 15, control[1]])),
        None => String::new(),
    };
    let packet = bytes.get(headers.network..).unwrap_or_default();
    let body = match headers.ether_type {
        0x0800 => ipv4(packet),
        0x86dd => ipv6(packet),
        0x0806 => arp("ARP", packet),
        0x8035 => arp("RARP", packet),
        length @ 0..0x600 => Some(format!("802.3 of {length} bytes")),
        other => Some(format!("Ethernet type {other:#06x}")),
    };
    let body = body.unwrap_or_else(|| format!("Ethernet type {:#06x}, cut short", headers.ether_type));
    format!("{from} > {to}{tag}, {body}{}, {} bytes", upper(bytes, &headers), bytes.len())
}

fn ipv4(packet: &[u8]) -> Option<String> {
    let address =
        |at: usize| -> Option<Ipv4Addr> { Some(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?.into()) };
    Some(format!("IPv4 {} > {}", address(12)?, address(16)?))
}

fn ipv6(packet: &[u8]) -> Option<String> {
    let address =
        |at: usize| -> Option<Ipv6Addr> { Some(<[u8; 16]>::try_from(packet.get(at..at + 16)?).ok()?.into()) };
    Some(format!("IPv6 {} > {}", address(8)?, address(24)?))
}

fn arp(name: &str, packet: &[u8]) -> Option<String> {
    let address =
        |at: usize| -> Option<Ipv4Addr> { Some(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?.into()) };
    let Some([high, low]) = packet.get(6..8) else { return None };
    let (operation, sender, target) = (u16::from_be_bytes([*high, *low]), address(14), address(24));
    let shown = |address: Option<Ipv4Addr>| address.map_or("?".into(), |address| address.to_string());
    Some(match operation {
        1 => format!("{name} who-has {} tell {}", shown(target), shown(sender)),
        2 => format!("{name} {} is-at its sender", shown(sender)),
        other => format!("{name} operation {other}, sender {}, target {}", shown(sender), shown(target)),
    })
}

fn upper(bytes: &[u8], headers: &Headers) -> String {
    let Some(upper) = headers.upper else {
        return if matches!(headers.ether_type, 0x0800 | 0x86dd) { " (no valid header)" } else { "" }.into();
    };
    let name = match upper.protocol {
        1 => "ICMP".into(),
        6 => "TCP".into(),
        17 => "UDP".into(),
        58 => "ICMPv6".into(),
        132 => "SCTP".into(),
        other => format!("protocol {other}"),
    };
    let header = bytes.get(upper.offset..).filter(|_| !upper.later_fragment);
    match (upper.protocol, header) {
        (_, None) => format!(", {name}, later fragment"),
        (6 | 17 | 132, Some([a, b, c, d, ..])) => {
            format!(", {name} {} > {}", u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d]))
        }
        (1 | 58, Some([kind, code, ..])) => format!(", {name} type {kind} code {code}"),
        _ => format!(", {name}"),
    }
}
