//! A DHCP message for IPv4 (RFC 2131, options of RFC 2132).

use crate::document::mac::Mac;
use std::net::Ipv4Addr;

/// A DHCP message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dhcp {
    /// What it is.
    pub kind: DhcpMessageType,
    /// The source of the packet it came in.
    pub source: Ipv4Addr,
    /// The transaction.
    pub transaction: u32,
    /// The client's hardware address (`chaddr`).
    pub client: Mac,
    /// The address that the client uses (`ciaddr`).
    pub client_address: Ipv4Addr,
    /// The address that the server gives (`yiaddr`).
    pub your_address: Ipv4Addr,
    /// The relay (`giaddr`).
    pub relay: Ipv4Addr,
    /// The address asked for or declined (option 50).
    pub requested: Option<Ipv4Addr>,
    /// The server's name for itself (option 54).
    pub server: Option<Ipv4Addr>,
    /// The lease in seconds (option 51), [`FOREVER`] where it has no end.
    pub lease: Option<u32>,
}

/// A lease without end.
pub const FOREVER: u32 = u32::MAX;

/// The kinds of messages (option 53).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of RFC 2131")]
#[non_exhaustive]
pub enum DhcpMessageType {
    Discover,
    Offer,
    Request,
    Decline,
    Ack,
    Nak,
    Release,
    Inform,
}

impl DhcpMessageType {
    /// Whether only a server says this.
    pub fn is_from_server(self) -> bool {
        matches!(self, DhcpMessageType::Offer | DhcpMessageType::Ack | DhcpMessageType::Nak)
    }
}

impl Dhcp {
    pub(super) fn addresses(&self) -> [Option<Ipv4Addr>; 6] {
        let header = [self.source, self.client_address, self.your_address, self.relay].map(Some);
        [header[0], header[1], header[2], header[3], self.requested, self.server]
    }
}
