//! Section C: IPv4. clean-traffic judges the source address and nothing else.

use super::super::frames::{
    ACK, FIN, FOREIGN_IP, FOREIGN_MAC, Frame, GUEST_IP, GUEST_MAC, PEER_IP, RST, SYN, ah, esp, ethertype, icmp, icmp_error, igmp, ip, ip6, sctp, tcp,
    tcp_with, udp, udp_bytes, udp_with, udplite,
};
use super::{Case, enters, passes, stops};

const EVERYBODY: &str = "255.255.255.255";

pub(super) fn cases() -> Vec<Case> {
    [sources(), headers(), fragments(), protocols(), control(), flows()].concat()
}

fn from_source(source: &str) -> Frame {
    udp(ip(source, PEER_IP), 1234, 80)
}

fn sources() -> Vec<Case> {
    vec![
        stops("C01a", "UDP from a foreign address", from_source(FOREIGN_IP)),
        stops("C01b", "TCP from a foreign address", tcp(ip(FOREIGN_IP, PEER_IP), 1234, 80, SYN)),
        stops("C01c", "ping from a foreign address", icmp(ip(FOREIGN_IP, PEER_IP), 8, 0, &[0; 8])),
        stops("C01d", "from the peer's own address", from_source(PEER_IP)),
        stops("C01e", "own address, last bit turned", from_source("10.0.0.0")),
        stops("C01f", "own address, first bit turned", from_source("138.0.0.1")),
        passes("C02a", "UDP 68 to 67 from 0.0.0.0", udp(ip("0.0.0.0", EVERYBODY), 68, 67)),
        // The filter lets all UDP from 0.0.0.0 go: it leaves ports to filters about DHCP.
        passes("C02b", "UDP of other ports from 0.0.0.0", udp(ip("0.0.0.0", PEER_IP), 1234, 80)),
        stops("C02c", "TCP from 0.0.0.0", tcp(ip("0.0.0.0", PEER_IP), 68, 67, SYN)),
        stops("C02d", "ping from 0.0.0.0", icmp(ip("0.0.0.0", PEER_IP), 8, 0, &[0; 8])),
        stops("C02e", "UDP-Lite from 0.0.0.0", udplite(ip("0.0.0.0", PEER_IP), 68, 67)),
        stops("C02f", "UDP from 0.0.0.1", from_source("0.0.0.1")),
        stops(
            "C02g",
            "UDP under the number of TCP from 0.0.0.0",
            ip("0.0.0.0", EVERYBODY).carry(6, &udp_bytes(68, 67, b"x")),
        ),
        stops("C03a", "from 127.0.0.1", from_source("127.0.0.1")),
        stops("C03b", "from 169.254.1.1", from_source("169.254.1.1")),
        stops("C03c", "from a group", from_source("224.0.0.1")),
        stops("C03d", "from everybody", from_source(EVERYBODY)),
        stops("C03e", "from 240.0.0.1", from_source("240.0.0.1")),
        stops("C03f", "from the network's broadcast", from_source("10.0.0.255")),
    ]
}

/// A rule reads the source where the source is; that the rest of the header lies does not move it.
fn headers() -> Vec<Case> {
    let own = || ip(GUEST_IP, PEER_IP);
    let foreign = || ip(FOREIGN_IP, PEER_IP);
    let source_route = [131, 7, 4, 10, 0, 0, 9, 0];
    let send = |header| udp(header, 1234, 80);
    vec![
        passes("C04a", "loose source route, own source", send(own().options(&source_route))),
        stops("C04b", "loose source route, foreign source", send(foreign().options(&source_route))),
        passes("C04c", "record route, own source", send(own().options(&[7, 7, 4, 0, 0, 0, 0]))),
        passes("C04d", "router alert, own source", send(own().options(&[148, 4, 0, 0]))),
        passes("C04e", "40 bytes of options, own source", send(own().options(&[1; 40]))),
        stops("C04f", "40 bytes of options, foreign source", send(foreign().options(&[1; 40]))),
        stops("C04g", "own address among the options, foreign source", send(foreign().options(&[10, 0, 0, 1]))),
        passes("C05a", "header length 4 words, own source", send(own().claim(4, 4))),
        stops("C05b", "header length 4 words, foreign source", send(foreign().claim(4, 4))),
        stops("C05c", "header length 0, foreign source", send(foreign().claim(4, 0))),
        stops(
            "C05d",
            "header length beyond the frame, foreign source",
            send(foreign().claim(4, 15)).length(14 + 24),
        ),
        passes("C05e", "total length beyond the frame, own source", send(own().total_length(1500))),
        stops("C05f", "total length beyond the frame, foreign source", send(foreign().total_length(1500))),
        passes("C05g", "total length below a header, own source", send(own().total_length(10))),
        stops("C05h", "total length 0, foreign source", send(foreign().total_length(0))),
        stops("C06a", "version 6 inside IPv4's EtherType, foreign source", send(foreign().claim(6, 5))),
        stops(
            "C06b",
            "an IPv6 packet inside IPv4's EtherType",
            udp(ip6("fe80::1", "fe80::2"), 1, 2).kind(ethertype::IPV4),
        ),
        stops("C06c", "an IPv4 packet inside IPv6's EtherType", send(own()).kind(ethertype::IPV6)),
        stops("C06d", "an IPv4 packet inside ARP's EtherType", send(own()).kind(ethertype::ARP)),
        passes("C07a", "wrong checksum, own source", send(own().bad_checksum())),
        stops("C07b", "wrong checksum, foreign source", send(foreign().bad_checksum())),
        passes("C07c", "service byte 0xff, own source", send(own().service(0xff))),
        passes("C07d", "bytes behind the packet, own source", send(own()).trailing(&[0x4e; 100])),
    ]
}

fn fragments() -> Vec<Case> {
    let own = || ip(GUEST_IP, PEER_IP);
    let foreign = || ip(FOREIGN_IP, PEER_IP);
    let unspecified = || ip("0.0.0.0", EVERYBODY);
    vec![
        passes("C08a", "first fragment of 8 bytes, own source", own().fragment(0, true).carry(6, &[0; 8])),
        stops("C08b", "first fragment of 8 bytes, foreign source", foreign().fragment(0, true).carry(6, &[0; 8])),
        passes(
            "C09a",
            "second fragment over the first one's header, own source",
            own().fragment(1, true).carry(6, &[0x4e; 16]),
        ),
        stops("C09b", "the same, foreign source", foreign().fragment(1, true).carry(6, &[0x4e; 16])),
        passes(
            "C10a",
            "later fragment that looks like UDP 68 to 67, own source",
            own().fragment(185, false).carry(17, &udp_bytes(68, 67, b"x")),
        ),
        stops("C10b", "later fragment, foreign source", foreign().fragment(185, false).carry(17, &[0x4e; 64])),
        passes("C10c", "later fragment of UDP from 0.0.0.0", unspecified().fragment(185, false).carry(17, &[0x4e; 64])),
        stops("C10d", "later fragment of TCP from 0.0.0.0", unspecified().fragment(185, false).carry(6, &[0x4e; 64])),
        passes("C11", "fragment beyond 64 kB, own source", own().fragment(8191, false).carry(17, &[0x4e; 64])),
        passes(
            "C12a",
            "do not fragment and more fragments, own source",
            own().do_not_fragment().fragment(0, true).carry(17, &[0x4e; 64]),
        ),
        stops(
            "C12b",
            "do not fragment and more fragments, foreign source",
            foreign().do_not_fragment().fragment(0, true).carry(17, &[0x4e; 64]),
        ),
    ]
}

fn protocols() -> Vec<Case> {
    let own = || ip(GUEST_IP, PEER_IP);
    let foreign = || ip(FOREIGN_IP, PEER_IP);
    let inside = foreign().packet(17, &udp_bytes(1234, 80, b"x"));
    vec![
        passes("C13a", "protocol 0, own source", own().carry(0, &[0; 20])),
        stops("C13b", "protocol 0, foreign source", foreign().carry(0, &[0; 20])),
        // What a tunnel carries is left to its other end.
        passes("C13c", "IP in IP, spoofed inside", own().carry(4, &inside)),
        stops("C13d", "IP in IP, spoofed outside, honest inside", foreign().carry(4, &own().packet(17, &[0; 8]))),
        passes("C13e", "6in4, own source", own().carry(41, &ip6("2001:db8::1", "2001:db8::2").packet(59, &[]))),
        passes("C13f", "GRE, spoofed inside", own().carry(47, &[&[0, 0, 8, 0], &inside[..]].concat())),
        passes("C13g", "ESP, own source", esp(own(), 77)),
        stops("C13h", "ESP, foreign source", esp(foreign(), 77)),
        passes("C13i", "AH, own source", ah(own(), 77)),
        passes("C13j", "SCTP, own source", sctp(own(), 1234, 80)),
        stops("C13k", "SCTP, foreign source", sctp(foreign(), 1234, 80)),
        passes("C13l", "UDP-Lite, own source", udplite(own(), 1234, 80)),
        passes("C13m", "L2TP, own source", own().carry(115, &[0; 20])),
        passes("C13n", "protocol 255, own source", own().carry(255, &[0; 20])),
        stops("C13o", "protocol 255, foreign source", foreign().carry(255, &[0; 20])),
        passes("C13p", "VXLAN, spoofed inside", udp_with(own(), 4789, 4789, &inside)),
    ]
}

fn control() -> Vec<Case> {
    let quoted = ip(PEER_IP, FOREIGN_IP).packet(6, &[0; 8]);
    let own = || ip(GUEST_IP, PEER_IP);
    let foreign = || ip(FOREIGN_IP, PEER_IP);
    vec![
        stops("C14a", "destination unreachable, foreign source", icmp_error(foreign(), 3, 1, &quoted)),
        stops("C14b", "time exceeded, foreign source", icmp_error(foreign(), 11, 0, &quoted)),
        stops("C14c", "fragmentation needed, foreign source", icmp_error(foreign(), 3, 4, &quoted)),
        stops("C14d", "destination unreachable, foreign MAC", icmp_error(own(), 3, 1, &quoted).from(FOREIGN_MAC)),
        passes("C14e", "destination unreachable, own source", icmp_error(own(), 3, 1, &quoted)),
        passes("C15a", "redirect, own source", icmp(own(), 5, 1, &[&[10, 0, 0, 1], &quoted[..]].concat())),
        stops(
            "C15b",
            "redirect from the gateway's address",
            icmp(ip("10.0.0.254", PEER_IP), 5, 1, &[&[10, 0, 0, 1], &quoted[..]].concat()),
        ),
        passes(
            "C16a",
            "IGMP report, own source",
            igmp(ip(GUEST_IP, "239.1.2.3").options(&[148, 4, 0, 0]), 0x16, [239, 1, 2, 3]),
        ),
        stops("C16b", "IGMP query, foreign source", igmp(ip(FOREIGN_IP, "224.0.0.1"), 0x11, [0; 4])),
        stops("C16c", "IGMP report from 0.0.0.0", igmp(ip("0.0.0.0", "239.1.2.3"), 0x16, [239, 1, 2, 3])),
        passes("C17a", "to a group, own source", udp(ip(GUEST_IP, "239.1.2.3"), 1234, 80)),
        stops("C17b", "to a group, foreign source", udp(ip(FOREIGN_IP, "239.1.2.3"), 1234, 80)),
        passes("C18a", "to the network's broadcast, own source", udp(ip(GUEST_IP, "10.0.0.255"), 1234, 80)),
        stops("C18b", "to the network's broadcast, foreign source", udp(ip(FOREIGN_IP, "10.0.0.255"), 1234, 80)),
    ]
}

fn flows() -> Vec<Case> {
    let own = || ip(GUEST_IP, PEER_IP);
    let here = || ip(PEER_IP, GUEST_IP);
    vec![
        stops("C19a", "segment that fits another guest's connection", tcp(ip(FOREIGN_IP, PEER_IP), 1234, 80, ACK)),
        stops("C19b", "own address, another guest's MAC", tcp(own(), 1234, 80, ACK).from(FOREIGN_MAC)),
        passes("C20a", "SYN and RST", tcp(own(), 1234, 80, SYN | RST)),
        passes("C20b", "all flags", tcp(own(), 1234, 80, 0x3f)),
        passes("C20c", "no flags", tcp(own(), 1234, 80, 0)),
        passes("C20d", "FIN of nothing", tcp(own(), 1234, 80, FIN)),
        passes("C20e", "SYN with options", tcp_with(own(), 1234, 80, SYN, &[2, 4, 5, 0xb4], &[])),
        passes("C21a", "UDP without checksum, own source", own().carry(17, &udp_bytes(1234, 80, b"x"))),
        enters("C21b", "UDP without checksum to the guest", here().carry(17, &udp_bytes(80, 1234, b"x"))),
        passes("C22a", "from itself to itself", tcp(ip(GUEST_IP, GUEST_IP), 80, 80, SYN).to(GUEST_MAC)),
        enters("C22b", "to the guest from its own address", tcp(ip(GUEST_IP, GUEST_IP), 80, 80, SYN)),
        enters("C23a", "TCP to the guest", tcp(here(), 80, 1234, SYN)),
        enters("C23b", "ping to the guest", icmp(here(), 8, 0, &[0; 8])),
        enters("C23c", "to the guest for another address", udp(ip(PEER_IP, FOREIGN_IP), 80, 1234)),
        enters("C23d", "broadcast that reaches the guest", udp(ip(PEER_IP, EVERYBODY), 80, 1234)),
        enters("C23e", "multicast that reaches the guest", udp(ip(PEER_IP, "239.1.2.3"), 80, 1234)),
        enters("C23f", "a header that lies, to the guest", udp(here().claim(6, 1).total_length(3), 80, 1234)),
        enters("C23g", "a later fragment to the guest", here().fragment(185, false).carry(17, &[0x4e; 64])),
    ]
}
