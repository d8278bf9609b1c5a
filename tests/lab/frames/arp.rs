//! ARP and RARP, every field of which may lie.

use super::{BROADCAST, Frame, GUEST_MAC, Mac, PEER_MAC, ether, ethertype};
use std::net::Ipv4Addr;

/// An ARP message under construction.
#[derive(Clone, Debug)]
pub struct Arp {
    ethertype: u16,
    to: Mac,
    hardware: u16,
    protocol: u16,
    lengths: [u8; 2],
    operation: u16,
    sender_mac: Mac,
    sender_ip: Ipv4Addr,
    target_mac: Mac,
    target_ip: Ipv4Addr,
}

/// Who has `target`? Asked by the guest as `sender`, of everybody.
pub fn arp_request(sender: &str, target: &str) -> Arp {
    Arp {
        ethertype: ethertype::ARP,
        to: BROADCAST,
        hardware: 1,
        protocol: ethertype::IPV4,
        lengths: [6, 4],
        operation: 1,
        sender_mac: GUEST_MAC,
        sender_ip: sender.parse().expect("an IPv4 address"),
        target_mac: [0; 6],
        target_ip: target.parse().expect("an IPv4 address"),
    }
}

/// `sender` is at the guest: announced to the peer as `target`.
pub fn arp_reply(sender: &str, target: &str) -> Arp {
    Arp { to: PEER_MAC, operation: 2, target_mac: PEER_MAC, ..arp_request(sender, target) }
}

/// What QEMU sends for a guest that has just arrived.
pub fn rarp_announce(mac: Mac) -> Arp {
    Arp {
        ethertype: ethertype::RARP,
        operation: 3,
        sender_mac: mac,
        target_mac: mac,
        ..arp_request("0.0.0.0", "0.0.0.0")
    }
}

impl Arp {
    /// Sets the operation.
    pub fn operation(self, operation: u16) -> Arp {
        Arp { operation, ..self }
    }

    /// Sets the sender's Ethernet address inside the message.
    pub fn sender_mac(self, sender_mac: Mac) -> Arp {
        Arp { sender_mac, ..self }
    }

    /// Sets the target's Ethernet address inside the message.
    pub fn target_mac(self, target_mac: Mac) -> Arp {
        Arp { target_mac, ..self }
    }

    /// Sets the sender's IP address.
    pub fn sender_ip(self, sender: &str) -> Arp {
        Arp { sender_ip: sender.parse().expect("an IPv4 address"), ..self }
    }

    /// Sets the target's IP address.
    pub fn target_ip(self, target: &str) -> Arp {
        Arp { target_ip: target.parse().expect("an IPv4 address"), ..self }
    }

    /// Sets hardware and protocol type.
    pub fn types(self, hardware: u16, protocol: u16) -> Arp {
        Arp { hardware, protocol, ..self }
    }

    /// Claims other address lengths; the addresses stay where they are.
    pub fn lengths(self, hardware: u8, protocol: u8) -> Arp {
        Arp { lengths: [hardware, protocol], ..self }
    }

    /// Sends it as RARP.
    pub fn rarp(self) -> Arp {
        Arp { ethertype: ethertype::RARP, ..self }
    }

    /// The frame around it.
    pub fn frame(self) -> Frame {
        let mut body = Vec::new();
        body.extend(self.hardware.to_be_bytes());
        body.extend(self.protocol.to_be_bytes());
        body.extend(self.lengths);
        body.extend(self.operation.to_be_bytes());
        body.extend(self.sender_mac);
        body.extend(self.sender_ip.octets());
        body.extend(self.target_mac);
        body.extend(self.target_ip.octets());
        ether(self.ethertype, body).to(self.to)
    }

    /// The frame around it, its Ethernet source changed.
    pub fn from(self, from: Mac) -> Frame {
        self.frame().from(from)
    }
}
