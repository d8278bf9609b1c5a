//! IPv4 and IPv6 headers: options, extension headers, fragments, and lies about lengths.

use super::{BROADCAST, Frame, Mac, PEER_MAC, checksum, ether, ethertype};
use std::net::{Ipv4Addr, Ipv6Addr};

/// Either header, ready to carry something.
#[derive(Clone, Debug)]
pub enum Net {
    V4(Ip4),
    V6(Ip6),
}

/// An IPv4 header under construction.
#[derive(Clone, Debug)]
pub struct Ip4 {
    source: Ipv4Addr,
    destination: Ipv4Addr,
    service: u8,
    fragment: u16,
    options: Vec<u8>,
    first_byte: Option<u8>,
    total: Option<u16>,
    protocol: Option<u8>,
    spoiled: bool,
}

/// An IPv6 header with its extension headers under construction.
#[derive(Clone, Debug)]
pub struct Ip6 {
    source: Ipv6Addr,
    destination: Ipv6Addr,
    hops: u8,
    extensions: Vec<(u8, Vec<u8>)>,
    first_byte: u8,
    length: Option<u16>,
}

/// An IPv4 header.
pub fn ip(source: &str, destination: &str) -> Ip4 {
    Ip4 {
        source: source.parse().expect("an IPv4 address"),
        destination: destination.parse().expect("an IPv4 address"),
        service: 0,
        fragment: 0,
        options: Vec::new(),
        first_byte: None,
        total: None,
        protocol: None,
        spoiled: false,
    }
}

/// An IPv6 header.
pub fn ip6(source: &str, destination: &str) -> Ip6 {
    Ip6 {
        source: source.parse().expect("an IPv6 address"),
        destination: destination.parse().expect("an IPv6 address"),
        hops: 255,
        extensions: Vec::new(),
        first_byte: 0x60,
        length: None,
    }
}

impl Ip4 {
    /// Sets the byte of type of service: DSCP in its upper six bits.
    pub fn service(self, service: u8) -> Ip4 {
        Ip4 { service, ..self }
    }

    /// Makes it a fragment at `offset` (in units of eight bytes), the last one or not.
    pub fn fragment(self, offset: u16, more: bool) -> Ip4 {
        let bits = offset | u16::from(more) << 13;
        Ip4 { fragment: bits | self.fragment & 0x4000, ..self }
    }

    /// Sets the bit that forbids fragments.
    pub fn do_not_fragment(self) -> Ip4 {
        Ip4 { fragment: self.fragment | 0x4000, ..self }
    }

    /// Adds options, filled up to whole words.
    pub fn options(self, options: &[u8]) -> Ip4 {
        let mut options = options.to_vec();
        options.resize(options.len().next_multiple_of(4), 0);
        Ip4 { options, ..self }
    }

    /// Claims a version and a header length (in words).
    pub fn claim(self, version: u8, words: u8) -> Ip4 {
        Ip4 { first_byte: Some(version << 4 | words), ..self }
    }

    /// Claims a total length.
    pub fn total_length(self, total: u16) -> Ip4 {
        Ip4 { total: Some(total), ..self }
    }

    /// Claims another protocol than is carried.
    pub fn protocol(self, protocol: u8) -> Ip4 {
        Ip4 { protocol: Some(protocol), ..self }
    }

    /// Makes the header checksum wrong.
    pub fn bad_checksum(self) -> Ip4 {
        Ip4 { spoiled: true, ..self }
    }

    /// The header with what it carries, as bytes: for tunnels and quoted packets.
    pub fn packet(&self, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let words = 5 + self.options.len() / 4;
        let total = self.total.unwrap_or((words * 4 + payload.len()) as u16);
        let mut header = vec![self.first_byte.unwrap_or(0x40 | words as u8), self.service];
        header.extend(total.to_be_bytes());
        header.extend(0x4e57u16.to_be_bytes());
        header.extend(self.fragment.to_be_bytes());
        header.extend([64, self.protocol.unwrap_or(protocol), 0, 0]);
        header.extend(self.source.octets());
        header.extend(self.destination.octets());
        header.extend(&self.options);
        let sum = checksum(&[&header]) ^ u16::from(self.spoiled);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        [&header, payload].concat()
    }

    /// The frame, with any payload.
    pub fn carry(self, protocol: u8, payload: &[u8]) -> Frame {
        Net::V4(self).carry(protocol, payload)
    }

    fn link_destination(&self) -> Mac {
        let [_, b, c, d] = self.destination.octets();
        if self.destination.is_multicast() {
            return [1, 0, 0x5e, b & 0x7f, c, d];
        }
        let everybody = self.destination.is_broadcast() || d == 255;
        if everybody { BROADCAST } else { PEER_MAC }
    }
}

impl Ip6 {
    /// Adds an extension header of this number, the number of what follows left to the builder.
    /// `rest` is all of it but that first byte.
    pub fn extension(mut self, number: u8, rest: &[u8]) -> Ip6 {
        self.extensions.push((number, rest.to_vec()));
        self
    }

    /// Adds a hop-by-hop header with these options (a multiple of eight bytes, less two).
    pub fn hop_by_hop(self, options: &[u8]) -> Ip6 {
        self.extension(0, &option_header(options))
    }

    /// Adds an empty destination options header.
    pub fn destination_options(self) -> Ip6 {
        self.extension(60, &option_header(&[1, 4, 0, 0, 0, 0]))
    }

    /// Adds a fragment header.
    pub fn fragment(self, offset: u16, more: bool) -> Ip6 {
        let [high, low] = (offset << 3 | u16::from(more)).to_be_bytes();
        self.extension(44, &[0, high, low, 0, 0, 0x4e, 0x57])
    }

    /// Sets the hop limit, 255 by default as neighbour discovery demands.
    pub fn hops(self, hops: u8) -> Ip6 {
        Ip6 { hops, ..self }
    }

    /// Claims another version.
    pub fn version(self, version: u8) -> Ip6 {
        Ip6 { first_byte: version << 4, ..self }
    }

    /// Claims a payload length.
    pub fn payload_length(self, length: u16) -> Ip6 {
        Ip6 { length: Some(length), ..self }
    }

    /// The headers with what they carry, as bytes.
    pub fn packet(&self, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let mut next = protocol;
        let mut content = payload.to_vec();
        for (number, rest) in self.extensions.iter().rev() {
            content = [&[next], &rest[..], &content].concat();
            next = *number;
        }
        let length = self.length.unwrap_or(content.len() as u16);
        let mut bytes = vec![self.first_byte, 0, 0, 0];
        bytes.extend(length.to_be_bytes());
        bytes.extend([next, self.hops]);
        bytes.extend(self.source.octets());
        bytes.extend(self.destination.octets());
        bytes.extend(content);
        bytes
    }

    /// The frame, with any payload.
    pub fn carry(self, protocol: u8, payload: &[u8]) -> Frame {
        Net::V6(self).carry(protocol, payload)
    }

    fn link_destination(&self) -> Mac {
        let [.., a, b, c, d] = self.destination.octets();
        if self.destination.is_multicast() { [0x33, 0x33, a, b, c, d] } else { PEER_MAC }
    }
}

/// The length byte of an options header and its options.
pub fn option_header(options: &[u8]) -> Vec<u8> {
    assert_eq!(options.len() % 8, 6, "options fill whole units of eight bytes");
    [&[(options.len() / 8) as u8], options].concat()
}

impl From<Ip4> for Net {
    fn from(header: Ip4) -> Net {
        Net::V4(header)
    }
}

impl From<Ip6> for Net {
    fn from(header: Ip6) -> Net {
        Net::V6(header)
    }
}

impl Net {
    /// The frame, with any payload.
    pub fn carry(self, protocol: u8, payload: &[u8]) -> Frame {
        match self {
            Net::V4(header) => {
                ether(ethertype::IPV4, header.packet(protocol, payload)).to(header.link_destination())
            }
            Net::V6(header) => {
                ether(ethertype::IPV6, header.packet(protocol, payload)).to(header.link_destination())
            }
        }
    }

    /// The frame, after the checksum at `at` in the payload is made right over the pseudo header.
    pub(super) fn carry_summed(self, protocol: u8, mut payload: Vec<u8>, at: usize) -> Frame {
        let length = payload.len() as u32;
        let mut pseudo = self.addresses();
        pseudo.extend(length.to_be_bytes());
        pseudo.extend([0, 0, 0, protocol]);
        let sum = match checksum(&[&pseudo, &payload]) {
            0 => 0xffff,
            sum => sum,
        };
        payload[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        self.carry(protocol, &payload)
    }

    fn addresses(&self) -> Vec<u8> {
        match self {
            Net::V4(h) => [h.source.octets(), h.destination.octets()].concat(),
            Net::V6(h) => [h.source.octets(), h.destination.octets()].concat(),
        }
    }
}
