//! Section B: ARP, by which a guest becomes another.

use super::super::frames::{BROADCAST, FOREIGN_IP, FOREIGN_MAC, GUEST_IP, GUEST_MAC, PEER_IP, PEER_MAC, arp_reply, arp_request, ethertype};
use super::{Case, enters, passes, stops};

pub(super) fn cases() -> Vec<Case> {
    [claims(), operations(), shapes(), inbound()].concat()
}

fn claims() -> Vec<Case> {
    vec![
        passes("B00a", "an honest request", arp_request(GUEST_IP, PEER_IP).frame()),
        passes("B00b", "an honest reply", arp_reply(GUEST_IP, PEER_IP).frame()),
        passes("B00c", "an honest request, padded", arp_request(GUEST_IP, PEER_IP).frame().padded()),
        // The filter wants the guest's address as the sender, and a probe has none.
        stops("B01a", "probe for its own address", arp_request("0.0.0.0", GUEST_IP).frame()),
        stops("B01b", "probe for a foreign address", arp_request("0.0.0.0", FOREIGN_IP).frame()),
        passes("B02a", "announcement of its own address", arp_request(GUEST_IP, GUEST_IP).frame()),
        passes("B02b", "gratuitous reply, own address", arp_reply(GUEST_IP, GUEST_IP).frame().to(BROADCAST)),
        stops("B03a", "gratuitous request, foreign address", arp_request(FOREIGN_IP, FOREIGN_IP).frame()),
        stops("B03b", "gratuitous reply, foreign address", arp_reply(FOREIGN_IP, FOREIGN_IP).frame().to(BROADCAST)),
        stops(
            "B04a",
            "sender MAC foreign, Ethernet source own",
            arp_reply(GUEST_IP, PEER_IP).sender_mac(FOREIGN_MAC).frame(),
        ),
        stops("B04b", "sender MAC own, Ethernet source foreign", arp_reply(GUEST_IP, PEER_IP).from(FOREIGN_MAC)),
        stops("B04c", "both foreign", arp_reply(GUEST_IP, PEER_IP).sender_mac(FOREIGN_MAC).from(FOREIGN_MAC)),
        stops("B04d", "sender MAC broadcast", arp_reply(GUEST_IP, PEER_IP).sender_mac(BROADCAST).frame()),
        stops("B05a", "reply with a foreign address", arp_reply(FOREIGN_IP, PEER_IP).frame()),
        stops("B05b", "reply with the peer's own address", arp_reply(PEER_IP, PEER_IP).frame()),
        stops("B05c", "request from a foreign address", arp_request(FOREIGN_IP, PEER_IP).frame()),
        stops("B06a", "sender address broadcast", arp_request("255.255.255.255", PEER_IP).frame()),
        stops("B06b", "sender address of a group", arp_request("224.0.0.1", PEER_IP).frame()),
        stops("B06c", "sender address 127.0.0.1", arp_request("127.0.0.1", PEER_IP).frame()),
        stops("B06d", "sender address with its last bit turned", arp_request("10.0.0.0", PEER_IP).frame()),
        passes("B12", "honest request for the gateway", arp_request(GUEST_IP, "10.0.0.254").frame()),
    ]
}

/// clean-traffic asks who sends, not what for.
fn operations() -> Vec<Case> {
    let own = |operation| arp_request(GUEST_IP, PEER_IP).operation(operation).frame();
    let foreign = |operation| arp_request(FOREIGN_IP, PEER_IP).operation(operation).frame();
    vec![
        passes("B07a", "operation 0, own addresses", own(0)),
        passes("B07b", "operation 3, own addresses", own(3)),
        passes("B07c", "operation 9, own addresses", own(9)),
        passes("B07d", "operation 65535, own addresses", own(65535)),
        stops("B07e", "operation 0, foreign address", foreign(0)),
        stops("B07f", "operation 3, foreign address", foreign(3)),
        stops("B07g", "operation 4, foreign address", foreign(4)),
        stops("B07h", "operation 9, foreign address", foreign(9)),
        stops("B07i", "operation 65535, foreign address", foreign(65535)),
        passes("B13a", "InARP request, own addresses", own(8)),
        stops("B13b", "InARP request, foreign address", foreign(8)),
    ]
}

/// A message whose header puts the addresses elsewhere has no sender that a rule could know.
fn shapes() -> Vec<Case> {
    let own = || arp_request(GUEST_IP, PEER_IP);
    let foreign = || arp_request(FOREIGN_IP, PEER_IP);
    vec![
        stops("B08a", "hardware addresses of 8 bytes", own().lengths(8, 4).frame()),
        stops("B08b", "hardware addresses of no bytes", own().lengths(0, 4).frame()),
        stops("B08c", "protocol addresses of 16 bytes", own().lengths(6, 16).frame()),
        stops("B08d", "protocol addresses of no bytes", own().lengths(6, 0).frame()),
        stops("B08e", "hardware type 6, which is IEEE 802", own().types(6, ethertype::IPV4).frame()),
        stops("B08f", "protocol type IPv6", own().types(1, ethertype::IPV6).frame()),
        stops("B08g", "addresses of 255 bytes", own().lengths(255, 255).frame()),
        stops("B08h", "hardware type 6, foreign address", foreign().types(6, ethertype::IPV4).frame()),
        stops("B09a", "8 bytes: a header and no addresses", own().frame().length(14 + 8)),
        stops("B09b", "17 bytes: cut inside the sender's address", own().frame().length(14 + 17)),
        passes("B09c", "27 bytes: cut inside the target's address, own sender", own().frame().length(14 + 27)),
        stops("B09d", "27 bytes, foreign sender", foreign().frame().length(14 + 27)),
        passes("B10a", "an honest request and 400 bytes more", own().frame().trailing(&[0x4e; 400])),
        stops(
            "B10b",
            "a spoofed request and an honest one behind it",
            foreign().frame().trailing(&Vec::from(own().frame())[14..]),
        ),
    ]
}

/// To the guest all ARP passes: clean-traffic keeps the guest honest, not its neighbours.
fn inbound() -> Vec<Case> {
    vec![
        enters("B11a", "request to the guest", arp_request(PEER_IP, GUEST_IP).sender_mac(PEER_MAC).frame()),
        enters(
            "B11b",
            "reply to the guest",
            arp_reply(PEER_IP, GUEST_IP).sender_mac(PEER_MAC).target_mac(GUEST_MAC).frame(),
        ),
        enters(
            "B11c",
            "forged reply to the guest",
            arp_reply(FOREIGN_IP, GUEST_IP).sender_mac(PEER_MAC).target_mac(GUEST_MAC).frame(),
        ),
        enters(
            "B11d",
            "forged reply, target MAC foreign",
            arp_reply(PEER_IP, GUEST_IP).sender_mac(FOREIGN_MAC).target_mac(FOREIGN_MAC).frame(),
        ),
        enters(
            "B11e",
            "a station claims the guest's address",
            arp_request(GUEST_IP, GUEST_IP).sender_mac(PEER_MAC).frame(),
        ),
        enters("B11f", "ARP cut to its header", arp_request(PEER_IP, GUEST_IP).frame().length(14 + 8)),
    ]
}
