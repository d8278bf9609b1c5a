//! Where a frame's headers begin, as nf_tables finds them at the bridge hooks.
//!
//! The steps are those of `nft_do_chain_bridge`, `nft_set_pktinfo_ipv4_validate`, `nft_set_pktinfo_ipv6_validate` and
//! `ipv6_find_hdr`, with their limits. A header that lies about its length has no transport header.

use super::End;
use crate::program::ir::Reject;

/// What became of a frame's outermost tag.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tag {
    /// It was taken into the packet's metadata, as with every frame that a device received.
    #[default]
    Taken,
    /// It is still in the frame, as in one that the host itself put together.
    InFrame,
}

/// What the kernel knows of a frame before the first rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Headers {
    /// `skb->protocol`: the Ethernet type behind a tag that was taken off, or a number of its own for 802.3 frames.
    pub protocol: u16,
    /// The type field behind a tag that was taken off.
    pub ether_type: u16,
    /// Whether a tag was taken off.
    pub tagged: bool,
    /// Where the network header begins.
    pub network: usize,
    /// The upper protocol, where the network header is valid.
    pub upper: Option<Upper>,
}

/// An upper protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upper {
    /// Its number.
    pub protocol: u8,
    /// Where its header begins, from the beginning of the frame; of a later fragment what the kernel takes for that.
    pub offset: usize,
    /// Whether this is a fragment that does not have the header.
    pub later_fragment: bool,
}

const ETHER_HEADER: usize = 14;
const TAG: usize = 4;
const TAGS: [u16; 2] = [0x8100, 0x88a8];
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
/// From here on the type field is a type; below it is a length.
const LEAST_TYPE: u16 = 0x600;
/// `ETH_P_802_3` and `ETH_P_802_2`, which stand for lengths: raw IPX and LLC.
const RAW: u16 = 1;
const LLC: u16 = 4;

impl Headers {
    /// Those of a frame.
    pub fn of(bytes: &[u8], tag: Tag) -> Headers {
        let outer = word(bytes, 12).unwrap_or(0);
        let tagged = tag == Tag::Taken && TAGS.contains(&outer);
        let network = if tagged { ETHER_HEADER + TAG } else { ETHER_HEADER };
        let ether_type = word(bytes, network - 2).unwrap_or(0);
        let packet = bytes.get(network..).unwrap_or_default();
        let upper = match ether_type {
            IPV4 => ipv4(packet),
            IPV6 => ipv6(packet),
            _ => None,
        };
        let upper = upper.map(|upper| Upper { offset: network + upper.offset, ..upper });
        Headers { protocol: protocol(ether_type, packet), ether_type, tagged, network, upper }
    }

    /// Where the transport header begins; none where this frame does not have it.
    pub fn transport(&self) -> Option<usize> {
        self.upper.filter(|upper| !upper.later_fragment).map(|upper| upper.offset)
    }

    /// Whether a TCP option of this kind is found; what is no TCP has none.
    pub(super) fn has_option(&self, bytes: &[u8], kind: u8) -> bool {
        let tcp = self.upper.filter(|upper| upper.protocol == 6 && !upper.later_fragment);
        tcp.and_then(|tcp| bytes.get(tcp.offset..)).is_some_and(|header| option(header, kind))
    }

    /// How a frame ends that is to be rejected. `nft_reject_bridge` answers whole packets of IP to one station, and
    /// no error with another.
    pub(super) fn rejection(&self, bytes: &[u8], reject: Reject) -> End {
        let to_many = bytes.first().is_none_or(|first| first & 1 == 1);
        let first = self.upper.filter(|upper| !upper.later_fragment);
        let answered = !to_many
            && first.is_some_and(|upper| match reject {
                Reject::PortUnreachable => !is_error(upper.protocol, bytes.get(upper.offset..)),
                Reject::TcpReset => {
                    upper.protocol == 6 && bytes.get(upper.offset + 13).is_some_and(|flags| flags & 4 == 0)
                }
            });
        if answered { End::Reject } else { End::Drop }
    }
}

fn protocol(ether_type: u16, packet: &[u8]) -> u16 {
    match packet {
        _ if ether_type >= LEAST_TYPE => ether_type,
        [0xff, 0xff, ..] => RAW,
        _ => LLC,
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().expect("two bytes were taken")))
}

fn ipv4(packet: &[u8]) -> Option<Upper> {
    let header = packet.get(..20)?;
    let offset = usize::from(header[0] & 15) * 4;
    let total = usize::from(word(header, 2)?);
    let valid = header[0] >> 4 == 4 && 20 <= offset && offset <= total && total <= packet.len();
    let later_fragment = word(header, 6)? & 0x1fff != 0;
    valid.then_some(Upper { protocol: header[9], offset, later_fragment })
}

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const NONE: u8 = 59;
const DESTINATION: u8 = 60;

/// Headers of this list are walked over, except that the authentication header is taken for the upper protocol.
fn is_extension(protocol: u8) -> bool {
    [HOP_BY_HOP, ROUTING, FRAGMENT, AUTHENTICATION, NONE, DESTINATION].contains(&protocol)
}

fn ipv6(packet: &[u8]) -> Option<Upper> {
    let header = packet.get(..40)?;
    let length = usize::from(word(header, 4)?);
    if header[0] >> 4 != 6 || length + 40 > packet.len() {
        return None;
    }
    let (mut protocol, mut offset) = (header[6], 40);
    while is_extension(protocol) && protocol != NONE {
        let [next, units] = packet.get(offset..offset + 2)? else { return None };
        if protocol == AUTHENTICATION {
            break;
        }
        if protocol == ROUTING {
            packet.get(offset..offset + 4)?;
        }
        if protocol == FRAGMENT && word(packet, offset + 2)? & 0xfff8 != 0 {
            let known = !is_extension(*next) || *next == NONE;
            return known.then_some(Upper { protocol: *next, offset: 0, later_fragment: true });
        }
        offset += if protocol == FRAGMENT { 8 } else { (usize::from(*units) + 1) * 8 };
        protocol = *next;
    }
    // The kernel keeps two bytes for the offset.
    (offset <= usize::from(u16::MAX)).then_some(Upper { protocol, offset, later_fragment: false })
}

/// As `nft_exthdr_tcp_eval` looks: an option that reaches over the end is not there, nor is one of a single last byte.
fn option(header: &[u8], kind: u8) -> bool {
    let Some(length) = header.get(12).map(|byte| usize::from(byte >> 4) * 4) else { return false };
    let Some(header) = header.get(..length).filter(|header| header.len() >= 20) else { return false };
    let mut at = 20;
    while at + 1 < length {
        let step = match (header[at], header[at + 1]) {
            (0 | 1, _) | (_, 0) => 1,
            (_, step) => usize::from(step),
        };
        if header[at] == kind {
            return at + step <= length;
        }
        at += step;
    }
    false
}

/// Whether it is an ICMP message that tells of an error.
fn is_error(protocol: u8, message: Option<&[u8]>) -> bool {
    let kind = message.and_then(|message| message.first());
    match (protocol, kind) {
        (1, Some(kind)) => [3, 4, 5, 11, 12].contains(kind),
        (58, Some(kind)) => *kind < 128,
        _ => false,
    }
}
