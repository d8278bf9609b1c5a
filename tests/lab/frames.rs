//! Frames in a few words: `udp(ip("10.0.0.1", "10.0.0.2"), 1234, 80).from(MAC)`.
//!
//! Every builder makes a correct frame from the guest to its peer, with correct lengths and
//! checksums; whatever should be wrong is said by name. An Ethernet frame is its own type,
//! [`Frame`], and turns into bytes with `into()`.

mod arp;
mod control;
mod dhcp;
mod ip;
mod transport;

pub use arp::{Arp, arp_reply, arp_request, rarp_announce};
pub use control::{Bpdu, icmp, icmp_error, icmp6, igmp, nd_option, neighbour, router_advert};
pub use dhcp::{Dhcp, dhcp};
pub use ip::{Ip4, Ip6, Net, ip, ip6, option_header};
pub use transport::{ACK, FIN, PSH, RST, SYN, URG};
pub use transport::{ah, esp, sctp, sctp_chunk, tcp, tcp_at, tcp_with, udp, udp_bytes, udp_with, udplite};

/// An Ethernet address.
pub type Mac = [u8; 6];

/// The guest.
pub const GUEST_MAC: Mac = [0x52, 0x54, 0, 0, 0, 0x01];
/// The guest's address.
pub const GUEST_IP: &str = "10.0.0.1";
/// The other end.
pub const PEER_MAC: Mac = [0x52, 0x54, 0, 0, 0, 0x02];
/// The other end's address.
pub const PEER_IP: &str = "10.0.0.2";
/// A third station, which an attacker would like to be.
pub const FOREIGN_MAC: Mac = [0x52, 0x54, 0, 0, 0, 0x09];
/// The third station's address.
pub const FOREIGN_IP: &str = "10.0.0.9";
/// Everybody.
pub const BROADCAST: Mac = [0xff; 6];

/// EtherTypes that cases speak of.
pub mod ethertype {
    pub const IPV4: u16 = 0x0800;
    pub const ARP: u16 = 0x0806;
    pub const RARP: u16 = 0x8035;
    pub const VLAN: u16 = 0x8100;
    pub const QINQ: u16 = 0x88a8;
    pub const QINQ_OLD: u16 = 0x9100;
    pub const IPV6: u16 = 0x86dd;
}

/// An Ethernet frame under construction.
#[derive(Clone, Debug)]
pub struct Frame {
    to: Mac,
    from: Mac,
    tags: Vec<u8>,
    kind: u16,
    body: Vec<u8>,
    length: Option<usize>,
}

/// A frame of this EtherType from the guest to its peer.
pub fn ether(kind: u16, body: impl Into<Vec<u8>>) -> Frame {
    let body = body.into();
    Frame { to: PEER_MAC, from: GUEST_MAC, tags: Vec::new(), kind, body, length: None }
}

/// An 802.3 frame: a length instead of an EtherType, then the LLC header.
pub fn llc(destination: u8, source: u8, control: u8, body: impl Into<Vec<u8>>) -> Frame {
    let body = [vec![destination, source, control], body.into()].concat();
    ether(body.len() as u16, body)
}

impl Frame {
    /// Sets the source address.
    pub fn from(self, from: Mac) -> Frame {
        Frame { from, ..self }
    }

    /// Sets the destination address.
    pub fn to(self, to: Mac) -> Frame {
        Frame { to, ..self }
    }

    /// Turns the frame round: from the peer, and to the guest unless it is for a group.
    pub fn inbound(self) -> Frame {
        let to = if self.to[0] & 1 == 1 { self.to } else { GUEST_MAC };
        Frame { from: PEER_MAC, to, ..self }
    }

    /// Puts an 802.1Q tag outside of what is there.
    pub fn vlan(self, id: u16) -> Frame {
        self.tag(ethertype::VLAN, id)
    }

    /// Puts a tag of any kind outside of what is there.
    pub fn tag(mut self, kind: u16, control: u16) -> Frame {
        let tag = [kind.to_be_bytes(), control.to_be_bytes()].concat();
        self.tags.splice(0..0, tag);
        self
    }

    /// Sets the EtherType, or the length that stands in its place.
    pub fn kind(self, kind: u16) -> Frame {
        Frame { kind, ..self }
    }

    /// Hides the EtherType in a SNAP header of this organisation.
    pub fn snap(self, organisation: [u8; 3]) -> Frame {
        let mut body = vec![0xaa, 0xaa, 0x03];
        body.extend(organisation);
        body.extend(self.kind.to_be_bytes());
        body.extend(&self.body);
        Frame { kind: body.len() as u16, body, ..self }
    }

    /// Overwrites bytes of the body.
    pub fn patch(mut self, at: usize, bytes: &[u8]) -> Frame {
        self.body[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    /// Adds bytes that no header accounts for.
    pub fn trailing(mut self, bytes: &[u8]) -> Frame {
        self.body.extend(bytes);
        self
    }

    /// Cuts the frame off, or fills it up with zeroes, at this many bytes in all.
    pub fn length(self, bytes: usize) -> Frame {
        Frame { length: Some(bytes), ..self }
    }

    /// Fills up to the 60 bytes that a real card would send.
    pub fn padded(self) -> Frame {
        let length = Vec::from(&self).len().max(60);
        self.length(length)
    }
}

impl From<&Frame> for Vec<u8> {
    fn from(frame: &Frame) -> Vec<u8> {
        let kind = frame.kind.to_be_bytes();
        let parts: [&[u8]; 5] = [&frame.to, &frame.from, &frame.tags, &kind, &frame.body];
        let mut bytes = parts.concat();
        bytes.resize(frame.length.unwrap_or(bytes.len()), 0);
        bytes
    }
}

impl From<Frame> for Vec<u8> {
    fn from(frame: Frame) -> Vec<u8> {
        (&frame).into()
    }
}

/// The Internet checksum (RFC 1071) of the parts, each of even length but the last.
fn checksum(parts: &[&[u8]]) -> u16 {
    let bytes = parts.concat();
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
    let mut sum: u32 = bytes.chunks(2).map(word).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
