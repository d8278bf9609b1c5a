//! A DHCPv6 message (RFC 8415), reduced to the first address that it is about.

use std::net::Ipv6Addr;

/// A DHCPv6 message about an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dhcp6 {
    /// What it is.
    pub kind: Dhcp6MessageType,
    /// The source of the packet it came in.
    pub source: Ipv6Addr,
    /// The first address of the first association that has one.
    pub address: Ipv6Addr,
    /// Seconds for which it is valid, [`FOREVER`](super::dhcp::FOREVER) where that has no end.
    pub valid: u32,
}

/// The kinds of messages that change what a client may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Dhcp6MessageType {
    /// From a server: the addresses are the client's.
    Reply,
    /// From a client: it uses them no longer.
    Release,
    /// From a client: another station uses them.
    Decline,
}
