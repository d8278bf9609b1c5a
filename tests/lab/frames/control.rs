//! Messages of the networks about themselves: ICMP, IGMP, ICMPv6 with neighbour discovery, STP.

use super::{Frame, Ip6, Mac, Net, checksum, llc};
use std::net::Ipv6Addr;

/// An ICMP message; `rest` starts behind the checksum.
pub fn icmp(net: impl Into<Net>, kind: u8, code: u8, rest: &[u8]) -> Frame {
    let mut bytes = [&[kind, code, 0, 0], rest].concat();
    let sum = checksum(&[&bytes]);
    bytes[2..4].copy_from_slice(&sum.to_be_bytes());
    net.into().carry(1, &bytes)
}

/// An ICMP error that quotes this packet.
pub fn icmp_error(net: impl Into<Net>, kind: u8, code: u8, quoted: &[u8]) -> Frame {
    icmp(net, kind, code, &[&[0; 4], quoted].concat())
}

/// An IGMP message, version 1 or 2, or the fixed part of a query.
pub fn igmp(net: impl Into<Net>, kind: u8, group: [u8; 4]) -> Frame {
    let mut bytes = [[kind, 0, 0, 0], group].concat();
    let sum = checksum(&[&bytes]);
    bytes[2..4].copy_from_slice(&sum.to_be_bytes());
    net.into().carry(2, &bytes)
}

/// An ICMPv6 message; `rest` starts behind the checksum.
pub fn icmp6(net: Ip6, kind: u8, code: u8, rest: &[u8]) -> Frame {
    Net::from(net).carry_summed(58, [&[kind, code, 0, 0], rest].concat(), 2)
}

/// A neighbour solicitation (135) or advertisement (136) with flags, target and options.
pub fn neighbour(net: Ip6, kind: u8, flags: u8, target: &str, options: &[u8]) -> Frame {
    let target: Ipv6Addr = target.parse().expect("an IPv6 address");
    icmp6(net, kind, 0, &[&[flags, 0, 0, 0], &target.octets()[..], options].concat())
}

/// A router advertisement with these options.
pub fn router_advert(net: Ip6, options: &[u8]) -> Frame {
    let fixed = [64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0];
    icmp6(net, 134, 0, &[&fixed, options].concat())
}

/// An option of neighbour discovery: 1 is the source's link address, 2 the target's.
pub fn nd_option(kind: u8, value: &[u8]) -> Vec<u8> {
    let units = (value.len() + 2).div_ceil(8);
    let mut option = [&[kind, units as u8], value].concat();
    option.resize(units * 8, 0);
    option
}

/// A spanning tree configuration message. Times are in 1/256 seconds.
#[derive(Clone, Copy, Debug)]
pub struct Bpdu {
    pub kind: u8,
    pub flags: u8,
    pub root_priority: u16,
    pub root: Mac,
    pub root_cost: u32,
    pub sender_priority: u16,
    pub sender: Mac,
    pub port: u16,
    pub age: u16,
    pub max_age: u16,
    pub hello_time: u16,
    pub forward_delay: u16,
}

impl Default for Bpdu {
    fn default() -> Bpdu {
        let root = super::GUEST_MAC;
        Bpdu {
            kind: 0,
            flags: 0,
            root_priority: 0x8000,
            root,
            root_cost: 0,
            sender_priority: 0x8000,
            sender: root,
            port: 0x8001,
            age: 0,
            max_age: 20 << 8,
            hello_time: 2 << 8,
            forward_delay: 15 << 8,
        }
    }
}

impl Bpdu {
    /// Where bridges listen.
    pub const GROUP: Mac = [0x01, 0x80, 0xc2, 0, 0, 0];

    /// The frame around it.
    pub fn frame(self) -> Frame {
        let mut body = vec![0, 0, 0, self.kind, self.flags];
        body.extend(self.root_priority.to_be_bytes());
        body.extend(self.root);
        body.extend(self.root_cost.to_be_bytes());
        body.extend(self.sender_priority.to_be_bytes());
        body.extend(self.sender);
        let tail = [self.port, self.age, self.max_age, self.hello_time, self.forward_delay];
        body.extend(tail.iter().flat_map(|value| value.to_be_bytes()));
        llc(0x42, 0x42, 0x03, body).to(Bpdu::GROUP)
    }
}
