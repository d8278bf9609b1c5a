//! Section D: IPv6, none of which clean-traffic passes in either direction.
//!
//! Dropped to the last frame here, they are the corpus of filters that do speak IPv6 as well.

use super::super::frames::{
    BROADCAST, FOREIGN_MAC, Frame, GUEST_MAC, Ip6, PEER_MAC, SYN, icmp6, ip, ip6, nd_option, neighbour, option_header, router_advert, tcp, udp,
    udp_with,
};
use super::{Case, stays_out, stops};

const OWN: &str = "fe80::5054:ff:fe00:1";
const FOREIGN: &str = "fe80::5054:ff:fe00:9";
const ALL_NODES: &str = "ff02::1";
const ALL_ROUTERS: &str = "ff02::2";
const SOLICIT: u8 = 135;
const ADVERT: u8 = 136;
/// The flags of an advertisement.
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;

pub(super) fn cases() -> Vec<Case> {
    [sources(), neighbours(), options(), routers(), extensions(), services()].concat()
}

fn to_all(source: &str) -> Ip6 {
    ip6(source, ALL_NODES)
}

fn source_link(mac: [u8; 6]) -> Vec<u8> {
    nd_option(1, &mac)
}

fn target_link(mac: [u8; 6]) -> Vec<u8> {
    nd_option(2, &mac)
}

fn sources() -> Vec<Case> {
    let send = |source: &str| udp(ip6(source, "2001:db8::2"), 1234, 80);
    vec![
        stops("D01a", "from a foreign global address", send("2001:db8::9")),
        stops("D01b", "TCP from a foreign global address", tcp(ip6("2001:db8::9", "2001:db8::2"), 1, 2, SYN)),
        stops("D02a", "from its own link-local address", send(OWN)),
        stops("D02b", "from a foreign link-local address", send(FOREIGN)),
        stops("D02c", "from its own address and a foreign MAC", send(OWN).from(FOREIGN_MAC)),
        stops("D03a", "from :: and no neighbour discovery", send("::")),
        stops("D22a", "from an IPv4-mapped address", send("::ffff:10.0.0.1")),
        stops("D22b", "from a 6to4 address", send("2002:a00:1::1")),
        stops("D22c", "from a Teredo address", send("2001:0:a00:1::1")),
        stops("D22d", "from ::1", send("::1")),
        stops("D26", "from a group", send("ff02::1")),
        stays_out("D00a", "UDP to the guest", udp(ip6("2001:db8::2", "2001:db8::1"), 80, 1234)),
        stays_out("D00b", "echo request to the guest", icmp6(ip6(FOREIGN, OWN), 128, 0, &[0; 8])),
        stays_out("D00c", "to all nodes", icmp6(to_all(FOREIGN), 128, 0, &[0; 8])),
    ]
}

fn neighbours() -> Vec<Case> {
    let probe = |target| neighbour(ip6("::", "ff02::1:ff00:1"), SOLICIT, 0, target, &[]);
    let advert = |flags, target, options: &[u8]| neighbour(to_all(OWN), ADVERT, flags, target, options);
    let solicit = |options: &[u8]| neighbour(to_all(OWN), SOLICIT, 0, FOREIGN, options);
    vec![
        stops("D03b", "probe for its own address from ::", probe(OWN)),
        stops("D04", "probe for a foreign address from ::", probe(FOREIGN)),
        stops("D05a", "advertisement of a foreign address", advert(SOLICITED, FOREIGN, &target_link(GUEST_MAC))),
        stops("D05b", "the same that overrides", advert(OVERRIDE, FOREIGN, &target_link(GUEST_MAC))),
        stops("D05c", "advertisement of its own address", advert(OVERRIDE, OWN, &target_link(GUEST_MAC))),
        stops("D06", "own address at a foreign MAC", advert(OVERRIDE, OWN, &target_link(FOREIGN_MAC))),
        stops("D07", "solicitation, source link address forged", solicit(&source_link(FOREIGN_MAC))),
        stops(
            "D24",
            "advertisement that has been routed",
            neighbour(to_all(OWN).hops(64), ADVERT, OVERRIDE, OWN, &target_link(GUEST_MAC)),
        ),
        stops("D25", "unsolicited advertisement to everybody", advert(OVERRIDE, OWN, &[]).to(BROADCAST)),
        stays_out("D05d", "advertisement to the guest", advert(OVERRIDE, FOREIGN, &target_link(PEER_MAC))),
        stays_out("D07b", "solicitation to the guest", solicit(&source_link(PEER_MAC))),
    ]
}

fn options() -> Vec<Case> {
    let advert = |options: &[u8]| neighbour(to_all(OWN), ADVERT, OVERRIDE, OWN, options);
    let nonce = nd_option(14, &[0x4e; 6]);
    vec![
        stops(
            "D08",
            "nonce first, forged link address second",
            advert(&[nonce, target_link(FOREIGN_MAC)].concat()),
        ),
        stops(
            "D09",
            "an honest and a forged link address",
            advert(&[target_link(GUEST_MAC), target_link(FOREIGN_MAC)].concat()),
        ),
        stops("D10a", "an option of length 0", advert(&[2, 0, 0, 0, 0, 0, 0, 0])),
        stops("D10b", "an option beyond the packet", advert(&[2, 40, 0, 0, 0, 0, 0, 0])),
        stops("D10c", "advertisement cut inside its target", advert(&[]).length(14 + 40 + 16)),
    ]
}

fn routers() -> Vec<Case> {
    let prefix = nd_option(3, &[&[64, 0xc0, 0, 0, 0xff, 0xff, 0, 0, 0xff, 0xff, 0, 0, 0, 0][..], &[0x20; 16]].concat());
    let from = || to_all(OWN);
    let advert = |net: Ip6| router_advert(net, &source_link(GUEST_MAC));
    let chained = |count| (0..count).fold(from(), |net, _| net.destination_options());
    let message = [&[134, 0, 0, 0, 64, 0, 7, 8][..], &[0; 8]].concat();
    let behind_options = [&[58, 0, 1, 4, 0, 0, 0, 0][..], &message].concat();
    vec![
        stops(
            "D11",
            "router solicitation, forged link address",
            icmp6(ip6(OWN, ALL_ROUTERS), 133, 0, &[&[0; 4], &source_link(FOREIGN_MAC)[..]].concat()),
        ),
        stops("D12a", "router advertisement", advert(from())),
        stops("D12b", "router advertisement with a prefix", router_advert(from(), &prefix)),
        stays_out("D12c", "router advertisement to the guest", advert(from())),
        stops("D12d", "router advertisement in 802.1Q", advert(from()).vlan(5)),
        stops(
            "D13a",
            "router advertisement behind hop-by-hop options",
            advert(from().hop_by_hop(&[1, 4, 0, 0, 0, 0])),
        ),
        stops("D13b", "behind destination options", advert(chained(1))),
        stops("D13c", "behind destination options twice", advert(chained(2))),
        stops("D13d", "behind destination options twenty times", advert(chained(20))),
        stops("D14a", "in its only fragment", advert(from().fragment(0, false))),
        stops("D14b", "first fragment, options only", from().fragment(0, true).carry(60, &behind_options[..8])),
        stops("D14c", "second fragment, the advertisement", from().fragment(1, false).carry(60, &message)),
        stops("D14d", "second fragment over the first", from().fragment(0, true).carry(60, &behind_options)),
        stops(
            "D15a",
            "behind a header that says nothing follows",
            from().destination_options().carry(59, &message),
        ),
        stops("D15b", "in a fragment of its own within destination options", advert(chained(1).fragment(0, false))),
        stops("D16", "redirect", icmp6(ip6(OWN, FOREIGN), 137, 0, &[0; 36])),
        stays_out("D16b", "redirect to the guest", icmp6(ip6(FOREIGN, OWN), 137, 0, &[0; 36])),
    ]
}

fn extensions() -> Vec<Case> {
    let send = |net: Ip6| udp(net, 1234, 80);
    let own = || ip6(OWN, FOREIGN);
    let routing = |kind| send(own().extension(43, &[&[2, kind, 1, 0, 0, 0, 0], &[0x20; 16][..]].concat()));
    let hops = |count| (0..count).fold(own(), |net, _| net.hop_by_hop(&[1, 4, 0, 0, 0, 0]));
    vec![
        stops("D20a", "routing header 0", routing(0)),
        stops("D20b", "routing header 2", routing(2)),
        stops("D20c", "routing header 4, segments", routing(4)),
        stops("D21", "jumbogram", send(own().payload_length(0).hop_by_hop(&[0xc2, 4, 0, 1, 0, 0]))),
        stops("D23a", "an unknown extension header", send(own().extension(253, &option_header(&[0; 6])))),
        stops(
            "D23b",
            "first fragment that ends within its headers",
            own().fragment(0, true).carry(60, &[17, 9, 1, 4, 0, 0, 0, 0]),
        ),
        stops("D23c", "hop-by-hop options forty times", send(hops(40))),
        stops("D23d", "an extension header longer than the frame", own().carry(60, &[17, 255, 1, 4, 0, 0, 0, 0])),
        stops("D23e", "no next header", own().carry(59, &[])),
        stops("D23f", "payload length beyond the frame", send(own().payload_length(1400))),
        stops("D23g", "payload length 0", send(own().payload_length(0))),
        stops("D23h", "version 4", send(own().version(4))),
        stops("D23i", "header cut in the middle", send(own()).length(14 + 20)),
        stops("D23j", "4in6", own().carry(4, &ip("10.0.0.9", "10.0.0.2").packet(17, &[0; 8]))),
    ]
}

fn services() -> Vec<Case> {
    let query = |kind, net: Ip6| icmp6(net, kind, 0, &[0; 20]);
    let alert = || to_all(OWN).hop_by_hop(&[5, 2, 0, 0, 1, 0]);
    let dhcp = |kind, source, destination| udp_with(ip6(OWN, ALL_NODES), source, destination, &[kind, 1, 2, 3]);
    let message = |kind| -> Frame { icmp6(to_all(OWN), kind, 0, &[0; 20]) };
    vec![
        stops("D17a", "MLD query", query(130, alert())),
        stops("D17b", "MLD report", query(131, alert())),
        stops("D17c", "MLDv2 report", query(143, alert())),
        stops("D17d", "MLD report without router alert", query(131, to_all(OWN))),
        stays_out("D17e", "MLD query to the guest", query(130, alert())),
        stops("D18a", "DHCPv6 advertise, as a server", dhcp(2, 547, 546)),
        stops("D18b", "DHCPv6 reply, as a server", dhcp(7, 547, 546)),
        stops("D18c", "DHCPv6 solicit, as a client", dhcp(1, 546, 547)),
        stays_out("D18d", "DHCPv6 reply to the guest", dhcp(7, 547, 546)),
        stops("D19", "DHCPv6 relay-forward", dhcp(12, 547, 547)),
        stops("D27a", "inverse solicitation", message(141)),
        stops("D27b", "home agent discovery", message(144)),
        stops("D27c", "mobile prefix advertisement", message(147)),
        stops("D27d", "multicast router advertisement", message(151)),
        stops("D27e", "multicast router termination", message(153)),
        stops("D27f", "node information query", message(139)),
    ]
}
