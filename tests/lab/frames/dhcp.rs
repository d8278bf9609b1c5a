//! DHCP messages, honest and otherwise. The caller puts them into UDP.

use super::{Frame, GUEST_MAC, Mac, ip, udp_with};
use std::net::Ipv4Addr;

/// A DHCP message under construction.
#[derive(Clone, Debug)]
pub struct Dhcp {
    pub operation: u8,
    pub hardware_length: u8,
    pub transaction: u32,
    /// Addresses in the message's order: client, your, server, relay.
    pub addresses: [Ipv4Addr; 4],
    pub client: Mac,
    pub server_name: [u8; 64],
    pub file: [u8; 128],
    pub cookie: bool,
    pub options: Vec<u8>,
}

/// A message of this type (1 discover, 2 offer, 3 request, 4 decline, 5 ack, 6 nak, 7 release,
/// 8 inform) about the guest.
pub fn dhcp(kind: u8) -> Dhcp {
    Dhcp::plain(kind).option(53, &[kind])
}

impl Dhcp {
    /// As [`dhcp`] without option 53.
    pub fn plain(kind: u8) -> Dhcp {
        Dhcp {
            operation: if matches!(kind, 2 | 5 | 6) { 2 } else { 1 },
            hardware_length: 6,
            transaction: 0x4e57_4601,
            addresses: [Ipv4Addr::UNSPECIFIED; 4],
            client: GUEST_MAC,
            server_name: [0; 64],
            file: [0; 128],
            cookie: true,
            options: Vec::new(),
        }
    }

    /// Sets the client's own address (`ciaddr`).
    pub fn client_ip(mut self, address: &str) -> Dhcp {
        self.addresses[0] = address.parse().expect("an IPv4 address");
        self
    }

    /// Sets the address given (`yiaddr`).
    pub fn your_ip(mut self, address: &str) -> Dhcp {
        self.addresses[1] = address.parse().expect("an IPv4 address");
        self
    }

    /// Sets the relay's address (`giaddr`).
    pub fn relay_ip(mut self, address: &str) -> Dhcp {
        self.addresses[3] = address.parse().expect("an IPv4 address");
        self
    }

    /// Sets the client's Ethernet address (`chaddr`).
    pub fn client_mac(self, client: Mac) -> Dhcp {
        Dhcp { client, ..self }
    }

    /// Adds an option.
    pub fn option(self, code: u8, value: &[u8]) -> Dhcp {
        self.raw_option(&[&[code, value.len() as u8], value].concat())
    }

    /// Adds bytes where options are, right or wrong.
    pub fn raw_option(mut self, bytes: &[u8]) -> Dhcp {
        self.options.extend(bytes);
        self
    }

    /// Adds the lease time and the server's identity, as offers and acks have them.
    pub fn lease(self, seconds: u32, server: &str) -> Dhcp {
        let server: Ipv4Addr = server.parse().expect("an IPv4 address");
        self.option(51, &seconds.to_be_bytes()).option(54, &server.octets())
    }

    /// The message.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![self.operation, 1, self.hardware_length, 0];
        bytes.extend(self.transaction.to_be_bytes());
        bytes.extend([0, 0, 0x80, 0]);
        bytes.extend(self.addresses.iter().flat_map(Ipv4Addr::octets));
        bytes.extend(self.client);
        bytes.extend([0; 10]);
        bytes.extend(self.server_name);
        bytes.extend(self.file);
        if self.cookie {
            bytes.extend([0x63, 0x82, 0x53, 0x63]);
        }
        bytes.extend(&self.options);
        bytes.push(255);
        bytes
    }

    /// From a client that has no address yet, to everybody.
    pub fn broadcast(&self) -> Frame {
        udp_with(ip("0.0.0.0", "255.255.255.255"), 68, 67, &self.bytes())
    }

    /// From a client that has an address, to its server.
    pub fn unicast(&self, client: &str, server: &str) -> Frame {
        udp_with(ip(client, server), 68, 67, &self.bytes())
    }

    /// From a server to everybody. Still from the guest's MAC: add `inbound()` or `from(..)`.
    pub fn reply(&self, server: &str) -> Frame {
        udp_with(ip(server, "255.255.255.255"), 67, 68, &self.bytes())
    }
}
