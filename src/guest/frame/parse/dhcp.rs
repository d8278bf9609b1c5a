//! DHCP for IPv4 (RFC 2131, options of RFC 2132): the content of a UDP datagram → [`Dhcp`].
//!
//! Read whole or not at all: no cookie, another hardware than Ethernet, an option of the wrong length, twice, or beyond the
//! end is no message. Options may go on in the fields `file` and `sname` (option 52).

use crate::document::mac::Mac;
use crate::guest::frame::dhcp::{Dhcp, DhcpMessageType};
use pnet_packet::dhcp::{DhcpHardwareTypes, DhcpOperations, DhcpPacket};
use std::net::Ipv4Addr;

const SERVER: u16 = 67;
const CLIENT: u16 = 68;
/// Length of all before the options.
const FIXED: usize = 236;
const COOKIE: [u8; 4] = [99, 130, 83, 99];

/// Reads a datagram between these ports.
pub(super) fn read(source: Ipv4Addr, from: u16, to: u16, body: &[u8]) -> Option<Dhcp> {
    let options = body.get(FIXED..)?.strip_prefix(&COOKIE)?;
    let packet = DhcpPacket::new(body)?;
    let found = options_of(options, body)?;
    let kind = found.kind?;
    let operation = match (from, to) {
        (SERVER, CLIENT) => DhcpOperations::Reply,
        (CLIENT, SERVER) => DhcpOperations::Request,
        _ => return None,
    };
    let ethernet = packet.get_htype() == DhcpHardwareTypes::Ethernet && packet.get_hlen() == 6;
    let agrees = packet.get_op() == operation && kind.is_from_server() == (from == SERVER);
    (ethernet && agrees).then(|| Dhcp {
        kind,
        source,
        transaction: packet.get_xid(),
        client: Mac(packet.get_chaddr().octets()),
        client_address: packet.get_ciaddr(),
        your_address: packet.get_yiaddr(),
        relay: packet.get_giaddr(),
        requested: found.requested,
        server: found.server,
        lease: found.lease,
    })
}

/// The options that count, each at most once.
#[derive(Default)]
struct DhcpOptions {
    kind: Option<DhcpMessageType>,
    requested: Option<Ipv4Addr>,
    server: Option<Ipv4Addr>,
    lease: Option<u32>,
    overload: Option<u8>,
}

fn options_of(options: &[u8], body: &[u8]) -> Option<DhcpOptions> {
    let mut found = DhcpOptions::default();
    found.walk(options)?;
    let (name, file) = (&body[44..108], &body[108..FIXED]);
    let fields: &[&[u8]] = match found.overload {
        None => &[],
        Some(1) => &[file],
        Some(2) => &[name],
        Some(3) => &[file, name],
        Some(_) => return None,
    };
    fields.iter().try_for_each(|field| found.walk(field))?;
    Some(found)
}

impl DhcpOptions {
    /// None where the options are malformed. The end may be missing, as some servers have it.
    fn walk(&mut self, mut rest: &[u8]) -> Option<()> {
        const PAD: u8 = 0;
        const END: u8 = 255;
        while let [code, tail @ ..] = rest {
            rest = match *code {
                PAD => tail,
                END => break,
                code => {
                    let (length, tail) = tail.split_first()?;
                    let (value, tail) = tail.split_at_checked(usize::from(*length))?;
                    self.option(code, value)?;
                    tail
                }
            };
        }
        Some(())
    }

    fn option(&mut self, code: u8, value: &[u8]) -> Option<()> {
        match code {
            50 => once(&mut self.requested, address(value)),
            51 => once(&mut self.lease, value.try_into().ok().map(u32::from_be_bytes)),
            52 => once(&mut self.overload, single(value)),
            53 => once(&mut self.kind, single(value).and_then(kind)),
            54 => once(&mut self.server, address(value)),
            _ => Some(()),
        }
    }
}

/// None where there was one before or this one is unreadable.
fn once<T>(place: &mut Option<T>, value: Option<T>) -> Option<()> {
    place.replace(value?).is_none().then_some(())
}

fn single(value: &[u8]) -> Option<u8> {
    <[u8; 1]>::try_from(value).ok().map(|[byte]| byte)
}

fn address(value: &[u8]) -> Option<Ipv4Addr> {
    <[u8; 4]>::try_from(value).ok().map(Ipv4Addr::from)
}

fn kind(number: u8) -> Option<DhcpMessageType> {
    use DhcpMessageType::*;
    let kinds = [Discover, Offer, Request, Decline, Ack, Nak, Release, Inform];
    usize::from(number).checked_sub(1).and_then(|at| kinds.get(at)).copied()
}
