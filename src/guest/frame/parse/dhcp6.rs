//! DHCPv6 (RFC 8415): the content of a UDP datagram → [`Dhcp6`], the first address that it is about.
//!
//! Only what a client and a server say to each other is read, no relays' envelopes. Malformed options end the reading.

use crate::guest::frame::dhcp6::{Dhcp6, Dhcp6MessageType};
use std::net::Ipv6Addr;

const CLIENT: u16 = 546;
const SERVER: u16 = 547;
/// An association of addresses that are not temporary.
const IA_NA: u16 = 3;
/// An address within an association.
const IA_ADDRESS: u16 = 5;

/// Reads a datagram between these ports.
pub(super) fn read(source: Ipv6Addr, from: u16, to: u16, body: &[u8]) -> Option<Dhcp6> {
    let kind = match (from, to, body.first()?) {
        (SERVER, CLIENT, 7) => Dhcp6MessageType::Reply,
        (CLIENT, SERVER, 8) => Dhcp6MessageType::Release,
        (CLIENT, SERVER, 9) => Dhcp6MessageType::Decline,
        _ => return None,
    };
    // Behind the type stand three bytes of transaction; behind the identity of an association two times.
    let mut associations = Dhcp6Options(body.get(4..)?).filter(|(code, _)| *code == IA_NA);
    let (address, valid) = associations.find_map(|(_, content)| first_address(content.get(12..)?))?;
    Some(Dhcp6 { kind, source, address, valid })
}

fn first_address(options: &[u8]) -> Option<(Ipv6Addr, u32)> {
    let (_, content) = Dhcp6Options(options).find(|(code, _)| *code == IA_ADDRESS)?;
    let address: [u8; 16] = content.get(..16)?.try_into().ok()?;
    let valid: [u8; 4] = content.get(20..24)?.try_into().ok()?;
    Some((address.into(), u32::from_be_bytes(valid)))
}

/// Options one after the other, until one does not fit.
struct Dhcp6Options<'a>(&'a [u8]);

impl<'a> Iterator for Dhcp6Options<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (code, rest) = self.0.split_first_chunk()?;
        let (length, rest) = rest.split_first_chunk()?;
        let (content, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        self.0 = rest;
        Some((u16::from_be_bytes(*code), content))
    }
}
