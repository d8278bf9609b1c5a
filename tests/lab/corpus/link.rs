//! Section A: Ethernet itself, its tags, its lengths, its other EtherTypes.

use super::super::frames::{
    BROADCAST, Bpdu, FOREIGN_IP, FOREIGN_MAC, Frame, GUEST_IP, GUEST_MAC, PEER_IP, PEER_MAC, arp_reply, arp_request, ether, ethertype, ip, ip6, llc,
    rarp_announce, udp, udp_with,
};
use super::super::link::Bridge;
use super::{Case, eaten, enters, passes, stays_out, stops};

const LAN: [u8; 3] = [0, 0, 0];
const BRIDGE_TUNNEL: [u8; 3] = [0, 0, 0xf8];

pub(super) fn cases() -> Vec<Case> {
    [tags(), lengths(), addresses(), link_local(), announcements(), ethertypes()].concat()
}

/// The guest's own frame: what should pass, and what each attack hides or bends.
fn own() -> Frame {
    udp(ip(GUEST_IP, PEER_IP), 1234, 80)
}

fn spoofed() -> Frame {
    udp(ip(FOREIGN_IP, PEER_IP), 1234, 80)
}

fn spoofed_arp() -> Frame {
    arp_reply(FOREIGN_IP, PEER_IP).frame()
}

fn tags() -> Vec<Case> {
    let qinq = |frame: Frame| frame.vlan(5).tag(ethertype::QINQ, 7);
    vec![
        stops("A01a", "802.1Q 5 around a spoofed ARP reply", spoofed_arp().vlan(5)),
        stops("A01b", "802.1Q 5 around an honest ARP reply", arp_reply(GUEST_IP, PEER_IP).frame().vlan(5)),
        stops("A01c", "802.1Q 5 around honest IPv4", own().vlan(5)),
        stops("A01d", "802.1Q 5 around spoofed IPv4", spoofed().vlan(5)),
        stops("A01e", "802.1Q 5 around UDP from 0.0.0.0", udp(ip("0.0.0.0", "255.255.255.255"), 68, 67).vlan(5)),
        stops("A01f", "802.1Q 5 around QEMU's announcement", rarp_announce(GUEST_MAC).frame().vlan(5)),
        stops("A01g", "802.1Q 5, foreign MAC", own().vlan(5).from(FOREIGN_MAC)),
        stays_out("A01h", "802.1Q 5 around IPv4 to the guest", own().vlan(5)),
        stays_out("A01i", "802.1Q 5 around ARP to the guest", arp_request(PEER_IP, GUEST_IP).frame().vlan(5)),
        stops("A01j", "802.1Q 4095 around honest IPv4", own().vlan(4095)),
        stops("A01k", "802.1Q 5 with priority and DEI bits", own().vlan(0xf005)),
        stops("A01l", "802.1Q 5 around IPv6", udp(ip6("fe80::1", "fe80::2"), 1, 2).vlan(5)),
        stops("A02a", "VLAN 0 around a spoofed ARP reply", spoofed_arp().vlan(0)),
        stops("A02b", "VLAN 0 around honest IPv4", own().vlan(0)),
        stops("A02c", "VLAN 0 with priority 7 around spoofed IPv4", spoofed().vlan(0xe000)),
        stays_out("A02d", "VLAN 0 around IPv4 to the guest", own().vlan(0)),
        stops("A03a", "VLAN 0 twice around a spoofed ARP reply", spoofed_arp().vlan(0).vlan(0)),
        stops("A03b", "VLAN 0 twice around honest IPv4", own().vlan(0).vlan(0)),
        stops("A03c", "VLAN 0 twenty times", (0..20).fold(spoofed(), |frame, _| frame.vlan(0))),
        stops("A04a", "802.1ad around 802.1Q around spoofed IPv4", qinq(spoofed())),
        stops("A04b", "802.1ad around 802.1Q around honest IPv4", qinq(own())),
        stops("A04c", "802.1ad alone around honest IPv4", own().tag(ethertype::QINQ, 7)),
        stops("A04d", "802.1Q around 802.1ad around spoofed ARP", spoofed_arp().tag(ethertype::QINQ, 7).vlan(5)),
        stays_out("A04e", "802.1ad around IPv4 to the guest", own().tag(ethertype::QINQ, 7)),
        stops("A05a", "tag 0x9100 around spoofed IPv4", spoofed().tag(ethertype::QINQ_OLD, 7)),
        stops("A05b", "tag 0x9200 around spoofed ARP", spoofed_arp().tag(0x9200, 7)),
        stops("A06a", "802.1Q, then SNAP around spoofed IPv4", spoofed().snap(LAN).vlan(5)),
        stops("A06b", "VLAN 0, then SNAP around spoofed ARP", spoofed_arp().snap(LAN).vlan(0)),
        stops("A06c", "SNAP around an 802.1Q tag", own().vlan(5).snap(LAN)),
    ]
}

fn lengths() -> Vec<Case> {
    let large = |bytes: usize| udp_with(ip(GUEST_IP, PEER_IP), 1234, 80, &vec![0x6e; bytes - 42]);
    vec![
        stops("A07a", "SNAP around spoofed IPv4", spoofed().snap(LAN)),
        stops("A07b", "SNAP around honest IPv4", own().snap(LAN)),
        stops("A07c", "SNAP around spoofed ARP", spoofed_arp().snap(LAN)),
        stays_out("A07d", "SNAP around IPv4 to the guest", own().snap(LAN)),
        stops("A08a", "SNAP with a length beyond the frame", spoofed().snap(LAN).kind(1500)),
        stops("A08b", "SNAP with length 3", spoofed().snap(LAN).kind(3)),
        stops("A08c", "SNAP with length 0", spoofed().snap(LAN).kind(0)),
        stops("A09", "SNAP as bridges tunnel it, 00-00-f8", spoofed().snap(BRIDGE_TUNNEL)),
        stops("A10a", "raw 802.3, as old IPX", ether(30, [0xff; 30])),
        stops("A10b", "raw 802.3 with IPv4 behind", spoofed().kind(0xffff)),
        stops("A10c", "LLC test frame", llc(0, 0, 0xe3, *b"nwfilter")),
        stops("A10d", "LLC with IP's own SAP", llc(6, 6, 3, vec![0x45; 40])),
        stops("A11a", "type 0x05dc, the longest length", own().kind(0x05dc)),
        stops("A11b", "type 0x05dd, neither length nor type", own().kind(0x05dd)),
        stops("A11c", "type 0x05ff", own().kind(0x05ff)),
        stops("A11d", "type 0x0600, the lowest type", own().kind(0x0600)),
        stops("A12a", "14 bytes: IPv4 and no header", own().length(14)),
        stops("A12b", "15 bytes: IPv4 and a byte", own().length(15)),
        stops("A12c", "29 bytes: IPv4 cut inside its source", own().length(29)),
        passes("A12d", "34 bytes: a whole IPv4 header, no more", own().length(34)),
        passes("A12e", "59 bytes of honest IPv4", own().length(59)),
        passes("A12f", "60 bytes of honest IPv4", own().length(60)),
        stops("A12g", "14 bytes: ARP and no message", spoofed_arp().length(14)),
        stops("A12h", "14 bytes of a local experiment", ether(0x88b5, [])),
        enters("A12i", "14 bytes: IPv4 and no header, to the guest", own().length(14)),
        passes("A13a", "9 kB of honest IPv4", large(9014)),
        passes("A13b", "60 kB of honest IPv4", large(60_000)),
        enters("A13c", "9 kB of IPv4 to the guest", large(9014)),
        stops("A13d", "9 kB of spoofed IPv4", spoofed().length(9014)),
        stops("A14a", "EtherType 0, which is length 0", own().kind(0)),
        stays_out("A14b", "EtherType 0 to the guest", own().kind(0)),
    ]
}

fn addresses() -> Vec<Case> {
    vec![
        passes("A15a", "honest IPv4", own()),
        stops("A15b", "honest IPv4 from a foreign MAC", own().from(FOREIGN_MAC)),
        stops("A15c", "honest ARP from a foreign MAC", arp_request(GUEST_IP, PEER_IP).from(FOREIGN_MAC)),
        stops(
            "A15d",
            "UDP from 0.0.0.0, foreign MAC",
            udp(ip("0.0.0.0", "255.255.255.255"), 68, 67).from(FOREIGN_MAC),
        ),
        stops("A15e", "own MAC with its last bit turned", own().from([0x52, 0x54, 0, 0, 0, 0])),
        stops("A15f", "own MAC with the local bit turned", own().from([0x50, 0x54, 0, 0, 0, 1])),
        eaten("A16a", "from the broadcast address", own().from(BROADCAST)),
        eaten("A16b", "from a group address", own().from([0x53, 0x54, 0, 0, 0, 1])),
        eaten("A17", "from 00:00:00:00:00:00", own().from([0; 6])),
        stops("A18a", "from the bridge's own MAC", own().from(Bridge::MAC)),
        stops("A18b", "from the peer's MAC", own().from(PEER_MAC)),
        passes("A19a", "to the guest's own MAC", own().to(GUEST_MAC)),
        passes("A19b", "to no station", own().to(FOREIGN_MAC)),
        enters("A19c", "IPv4 to the guest", udp(ip(PEER_IP, GUEST_IP), 80, 1234)),
        Case {
            frame: own().from(PEER_MAC).to(FOREIGN_MAC).into(),
            ..enters("A19d", "flooded IPv4 for another guest", own())
        },
    ]
}

/// 01:80:c2:00:00:0x stays on its wire; only spanning tree goes through a bridge that does not speak it.
fn link_local() -> Vec<Case> {
    let group = |last: u8| [0x01, 0x80, 0xc2, 0, 0, last];
    let body = [0x4e; 50];
    vec![
        stops("A20a", "spanning tree configuration", Bpdu::default().frame()),
        stops("A20b", "spanning tree topology change", Bpdu { kind: 0x80, ..Bpdu::default() }.frame()),
        stays_out("A20c", "spanning tree to the guest", Bpdu::default().frame()),
        stops("A20d", "spanning tree from a foreign MAC", Bpdu::default().frame().from(FOREIGN_MAC)),
        stops("A20e", "Cisco's PVST", llc(0xaa, 0xaa, 3, vec![0; 40]).to([0x01, 0, 0x0c, 0xcc, 0xcc, 0xcd])),
        eaten("A21a", "LLDP", ether(0x88cc, body).to(group(0x0e))),
        stops("A21b", "LLDP to a unicast address", ether(0x88cc, body)),
        eaten("A22a", "PAUSE", ether(0x8808, body).to(group(1))),
        stops("A22b", "PAUSE to a unicast address", ether(0x8808, body)),
        eaten("A23", "LACP", ether(0x8809, body).to(group(2))),
        stops("A24a", "PTP", ether(0x88f7, body).to([0x01, 0x1b, 0x19, 0, 0, 0])),
        eaten("A24b", "PTP between neighbours", ether(0x88f7, body).to(group(0x0e))),
        eaten("A25a", "EAPOL", ether(0x888e, body).to(group(3))),
        stops("A25b", "EAPOL to a unicast address", ether(0x888e, body)),
        stops("A26", "MACsec", ether(0x88e5, body)),
        stays_out("A26b", "MACsec to the guest", ether(0x88e5, body)),
    ]
}

fn announcements() -> Vec<Case> {
    let announce = || rarp_announce(GUEST_MAC);
    let reverse_arp = |operation| announce().operation(operation).frame();
    vec![
        passes("A30a", "QEMU's announcement", announce().frame().padded()),
        stops("A30b", "announcement for a foreign MAC", rarp_announce(FOREIGN_MAC).frame()),
        stops("A30c", "announcement, foreign target MAC", announce().target_mac(FOREIGN_MAC).frame()),
        stops("A30d", "announcement, foreign sender MAC", announce().sender_mac(FOREIGN_MAC).frame()),
        stops("A30e", "announcement to one station", announce().frame().to(PEER_MAC)),
        stops("A30f", "announcement with an IP address", announce().sender_ip(FOREIGN_IP).frame()),
        stops("A30g", "announcement with its own IP address", announce().sender_ip(GUEST_IP).frame()),
        stops("A30h", "announcement with a target address", announce().target_ip(GUEST_IP).frame()),
        stops("A30i", "RARP reply", reverse_arp(4)),
        stops("A30j", "RARP with operation 1", reverse_arp(1)),
        stops("A30k", "DRARP request", reverse_arp(5)),
        stops("A30l", "announcement from a foreign MAC", announce().from(FOREIGN_MAC)),
        stops("A30m", "announcement cut inside its target", announce().frame().length(14 + 20)),
        stops("A30r", "announcement with hardware addresses of 8 bytes", announce().lengths(8, 4).frame()),
        stops("A30s", "announcement of protocol type 0", announce().types(1, 0).frame()),
        stops("A30n", "QEMU's old EtherType 0x0835", announce().frame().kind(0x0835)),
        enters("A30o", "announcement that reaches the guest", announce().frame()),
        stays_out("A30p", "announcement of another guest", rarp_announce(PEER_MAC).frame()),
        stays_out("A30q", "RARP reply to the guest", reverse_arp(4)),
    ]
}

fn ethertypes() -> Vec<Case> {
    let packet = ip(FOREIGN_IP, PEER_IP).packet(17, &[0; 16]);
    let behind = |head: &[u8]| [head, &packet].concat();
    vec![
        stops("A27a", "PPPoE discovery", ether(0x8863, [0x11, 9, 0, 0, 0, 4, 1, 1, 0, 0]).to(BROADCAST)),
        stops("A27b", "PPPoE session with IPv4 inside", ether(0x8864, behind(&[0x11, 0, 0, 1, 0, 38, 0, 0x21]))),
        stays_out("A27c", "PPPoE offer to the guest", ether(0x8863, [0x11, 7, 0, 0, 0, 4, 1, 1, 0, 0])),
        stops("A28a", "MPLS with IPv4 inside", ether(0x8847, behind(&[0, 0, 0x11, 0x40]))),
        stops("A28b", "MPLS multicast", ether(0x8848, behind(&[0, 0, 0x11, 0x40]))),
        stops("A29a", "local experiment 1", ether(0x88b5, [0x4e; 46])),
        stops("A29b", "local experiment 2", ether(0x88b6, [0x4e; 46])),
        stays_out("A29c", "local experiment to the guest", ether(0x88b5, [0x4e; 46])),
        stops("A31a", "BATMAN", ether(0x4305, [0x4e; 46]).to(BROADCAST)),
        stops("A31b", "FCoE", ether(0x8906, [0x4e; 46])),
        stops("A31c", "ATA over Ethernet", ether(0x88a2, [0x4e; 46])),
        stops("A31d", "Wake on LAN", ether(0x0842, [0xff; 102]).to(BROADCAST)),
        stops("A31e", "transparent Ethernet bridging", ether(0x6558, behind(&[0; 14]))),
        stops("A31f", "ECTP loopback", ether(0x9000, [0x4e; 46])),
    ]
}

/// A32: every EtherType once, with the guest's own MAC and a body that is no valid packet of any.
pub fn every_ethertype() -> impl Iterator<Item = (u16, Vec<u8>)> {
    (0..=u16::MAX).map(|kind| (kind, ether(kind, [0x4e; 46]).into()))
}
