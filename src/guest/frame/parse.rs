//! Bytes of a frame → [`SightedFrame`]. The bytes are an enemy's.
//!
//! [`read`] never panics, allocates nothing, looks at each byte a fixed number of times, and names no address that is not in the
//! frame. What it cannot read whole it does not read at all: a header that lies about lengths, an option twice, a later
//! fragment. pnet's views are used only behind these checks, since they clamp where they should refuse and some panic.

mod dhcp;
mod dhcp6;

use super::{SightedFrame, Sighting};
use crate::document::mac::Mac;
use pnet_packet::Packet;
use pnet_packet::arp::{ArpHardwareTypes, ArpOperations, ArpPacket};
use pnet_packet::ethernet::{EtherType, EtherTypes, EthernetPacket};
use pnet_packet::icmpv6::ndp::{NeighborAdvertPacket, NeighborSolicitPacket};
use pnet_packet::icmpv6::{Icmpv6Code, Icmpv6Packet, Icmpv6Types};
use pnet_packet::ip::IpNextHeaderProtocols;
use pnet_packet::ipv4::Ipv4Packet;
use pnet_packet::ipv6::Ipv6Packet;
use pnet_packet::udp::UdpPacket;
use pnet_packet::vlan::VlanPacket;
use std::net::Ipv6Addr;

/// Tags that are looked behind; a frame with more of them tells nothing.
const TAGS: usize = 2;

/// 802.1Q, 802.1ad, and what was used before it had a number.
const TAG_TYPES: [u16; 3] = [0x8100, 0x88a8, 0x9100];

/// Reads a frame from its destination address on; none where it tells nothing.
pub fn read(bytes: &[u8]) -> Option<SightedFrame> {
    let ethernet = EthernetPacket::new(bytes)?;
    let (kind, tags, payload) = untag(ethernet.get_ethertype(), ethernet.packet().get(14..)?)?;
    let sighting = match kind {
        EtherTypes::Arp => arp(payload),
        EtherTypes::Ipv4 => ipv4(payload),
        EtherTypes::Ipv6 => ipv6(payload),
        _ => None,
    };
    Some(SightedFrame {
        source: Mac(ethernet.get_source().octets()),
        destination: Mac(ethernet.get_destination().octets()),
        tagged: tags > 0,
        sighting: sighting?,
    })
}

fn untag(mut kind: EtherType, mut rest: &[u8]) -> Option<(EtherType, usize, &[u8])> {
    let mut tags = 0;
    while TAG_TYPES.contains(&kind.0) {
        tags += 1;
        kind = VlanPacket::new(rest).filter(|_| tags <= TAGS)?.get_ethertype();
        rest = rest.get(4..)?;
    }
    Some((kind, tags, rest))
}

fn arp(payload: &[u8]) -> Option<Sighting> {
    let arp = ArpPacket::new(payload)?;
    let known = arp.get_hardware_type() == ArpHardwareTypes::Ethernet
        && arp.get_protocol_type() == EtherTypes::Ipv4
        && (arp.get_hw_addr_len(), arp.get_proto_addr_len()) == (6, 4)
        && [ArpOperations::Request, ArpOperations::Reply].contains(&arp.get_operation());
    known.then(|| Sighting::Arp {
        mac: Mac(arp.get_sender_hw_addr().octets()),
        address: arp.get_sender_proto_addr(),
    })
}

fn ipv4(payload: &[u8]) -> Option<Sighting> {
    let packet = Ipv4Packet::new(payload)?;
    let (header, total) =
        (usize::from(packet.get_header_length()) * 4, usize::from(packet.get_total_length()));
    if packet.get_version() != 4 || header < 20 || header > total || total > payload.len() {
        return None;
    }
    let source = packet.get_source();
    // A fragment is no whole message: neither the first one nor a later one.
    let whole = packet.get_fragment_offset() == 0 && packet.get_flags() & 1 == 0;
    let udp = whole && packet.get_next_level_protocol() == IpNextHeaderProtocols::Udp;
    let message = udp.then(|| datagram(&payload[header..total])).flatten();
    let message = message.and_then(|(from, to, body)| dhcp::read(source, from, to, body));
    Some(message.map_or(Sighting::Ipv4 { source }, Sighting::Dhcp))
}

/// Ports and content of a UDP datagram that is all there.
fn datagram(bytes: &[u8]) -> Option<(u16, u16, &[u8])> {
    let udp = UdpPacket::new(bytes)?;
    let body = bytes.get(8..usize::from(udp.get_length()))?;
    Some((udp.get_source(), udp.get_destination(), body))
}

fn ipv6(payload: &[u8]) -> Option<Sighting> {
    let packet = Ipv6Packet::new(payload)?;
    let length = usize::from(packet.get_payload_length());
    let body = payload.get(40..40 + length).filter(|_| packet.get_version() == 6)?;
    let source = packet.get_source();
    // Behind an extension header nothing is looked for: neighbour discovery may have none (RFC 6980).
    let sighting = match packet.get_next_header() {
        IpNextHeaderProtocols::Icmpv6 if packet.get_hop_limit() == 255 => neighbour(source, body),
        IpNextHeaderProtocols::Udp => datagram(body)
            .and_then(|(from, to, body)| dhcp6::read(source, from, to, body))
            .map(Sighting::Dhcp6),
        _ => None,
    };
    Some(sighting.unwrap_or(Sighting::Ipv6 { source }))
}

fn neighbour(source: Ipv6Addr, body: &[u8]) -> Option<Sighting> {
    let message = Icmpv6Packet::new(body).filter(|message| message.get_icmpv6_code() == Icmpv6Code(0))?;
    let target = match message.get_icmpv6_type() {
        Icmpv6Types::NeighborSolicit if source.is_unspecified() => {
            NeighborSolicitPacket::new(body)?.get_target_addr()
        }
        Icmpv6Types::NeighborAdvert => NeighborAdvertPacket::new(body)?.get_target_addr(),
        _ => return None,
    };
    Some(Sighting::Neighbour { target })
}
