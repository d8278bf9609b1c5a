//! What a guest's frame says of addresses: a [`SightedFrame`] with its [`Sighting`].
//!
//! [`read`] makes one of bytes. Which sighting gives a guest an address is decided by `learning`.

pub mod dhcp;
pub mod dhcp6;
#[cfg(feature = "capture")]
mod parse;

#[cfg(feature = "capture")]
pub use parse::read;

use crate::document::mac::Mac;
use dhcp::Dhcp;
use dhcp6::Dhcp6;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A frame that tells something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SightedFrame {
    /// The Ethernet source.
    pub source: Mac,
    /// The Ethernet destination.
    pub destination: Mac,
    /// Whether a VLAN tag stands in the frame. A tag that the device took out is not seen here.
    pub tagged: bool,
    /// What it tells.
    pub sighting: Sighting,
}

/// What a frame tells of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sighting {
    /// An ARP request or reply for IPv4 over Ethernet.
    Arp {
        /// The hardware address that the message calls its sender.
        mac: Mac,
        /// The sender's address; unspecified in a probe.
        address: Ipv4Addr,
    },
    /// A packet of IPv4.
    Ipv4 {
        /// Its source.
        source: Ipv4Addr,
    },
    /// A DHCP message, whole.
    Dhcp(Dhcp),
    /// A packet of IPv6.
    Ipv6 {
        /// Its source.
        source: Ipv6Addr,
    },
    /// An address that is about to be used (a solicitation from nowhere) or said to be (an advertisement).
    Neighbour {
        /// The address.
        target: Ipv6Addr,
    },
    /// A DHCPv6 message about an address.
    Dhcp6(Dhcp6),
}

impl Sighting {
    /// Every address that it names.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let named: [Option<IpAddr>; 6] = match *self {
            Sighting::Arp { address, .. } => one(address),
            Sighting::Ipv4 { source } => one(source),
            Sighting::Ipv6 { source } => one(source),
            Sighting::Neighbour { target } => one(target),
            Sighting::Dhcp6(message) => two(message.source, message.address),
            Sighting::Dhcp(dhcp) => dhcp.addresses().map(|address| address.map(IpAddr::V4)),
        };
        named.into_iter().flatten()
    }
}

fn one(address: impl Into<IpAddr>) -> [Option<IpAddr>; 6] {
    [Some(address.into()), None, None, None, None, None]
}

fn two(first: impl Into<IpAddr>, second: impl Into<IpAddr>) -> [Option<IpAddr>; 6] {
    [Some(first.into()), Some(second.into()), None, None, None, None]
}
