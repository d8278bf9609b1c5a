//! The standard filters against the corpus of attack frames.

use crate::host::{Host, STYLES, Style};
use crate::lab::corpus::{Case, corpus, every_ethertype};
use crate::lab::frames::*;
use crate::lab::{Verdict, Way, in_fresh_netns};

const GUEST6: &str = "fe80::5054:ff:fe00:1";
const GLOBAL6: &str = "2001:db8::1";
const VARS: &[(&str, &str)] = &[
    ("MAC", "52:54:00:00:00:01"),
    ("IP", GUEST_IP),
    ("IPV6", GUEST6),
    ("IPV6", GLOBAL6),
    ("GATEWAY_MAC", "52:54:00:00:00:02"),
    ("DHCPSERVER", PEER_IP),
];

/// With the guest bound to this filter, in a namespace of its own.
fn bound<T: Send>(style: Style, filter: &str, work: impl FnOnce(&Host) -> T + Send) -> T {
    in_fresh_netns(|| {
        let mut host = Host::new(style);
        host.bind_guest(filter, VARS).unwrap();
        work(&host)
    })
}

// P-3
#[test]
fn clean_traffic_gives_every_verdict_of_the_corpus() {
    for style in STYLES {
        let wrong: Vec<String> = bound(style, "clean-traffic", |host| {
            let judge = |case: Case| {
                let found = host.network.verdict(case.way, &case.frame[..]);
                let wanted = &case.verdict_under_clean_traffic;
                (found != *wanted).then(|| format!("{} {}: {found:?}, not {wanted:?}", case.id, case.what))
            };
            corpus().into_iter().filter_map(judge).collect()
        });
        assert!(wrong.is_empty(), "{style:?}:\n{}", wrong.join("\n"));
    }
}

#[test]
fn clean_traffic_knows_two_ethernet_types() {
    bound(Style::Folded, "clean-traffic", |host| {
        let arriving = |way| -> Vec<u16> {
            let passing = every_ethertype().filter(|(_, frame)| host.network.passes(way, &frame[..]));
            passing.map(|(kind, _)| kind).collect()
        };
        assert_eq!(arriving(Way::FromGuest), [0u16; 0], "the body is no honest packet");
        assert_eq!(arriving(Way::ToGuest), [ethertype::IPV4, ethertype::ARP]);
    });
}

/// Frames and verdicts of one filter, with constants and with slots.
fn check(filter: &str, frames: &[(&str, Way, Frame, bool)]) {
    for style in STYLES {
        let wrong: Vec<String> = bound(style, filter, |host| {
            let judge = |(what, way, frame, passes): &(&str, Way, Frame, bool)| {
                let wanted = if *passes { Verdict::Accept } else { Verdict::Drop };
                let found = host.network.verdict(*way, frame);
                (found != wanted).then(|| format!("{way:?} {what}: {found:?}, not {wanted:?}"))
            };
            frames.iter().filter_map(judge).collect()
        });
        assert!(wrong.is_empty(), "{filter}, {style:?}:\n{}", wrong.join("\n"));
    }
}

use Way::{FromGuest, ToGuest};

fn own() -> Frame {
    udp(ip(GUEST_IP, PEER_IP), 1234, 80)
}

fn own6(source: &str) -> Frame {
    tcp(ip6(source, "2001:db8::2"), 1234, 80, SYN)
}

#[test]
fn no_ipv6_spoofing_lets_own_addresses_by() {
    check(
        "no-ipv6-spoofing",
        &[
            ("own global address", FromGuest, own6(GLOBAL6), true),
            ("own link-local address", FromGuest, own6(GUEST6), true),
            ("D01 foreign global address", FromGuest, own6("2001:db8::9"), false),
            ("D02 foreign link-local address, TCP", FromGuest, own6("fe80::9"), false),
            // libvirt's filter lets all UDP from link-local addresses go, for DHCPv6.
            ("link-local address, UDP", FromGuest, udp(ip6("fe80::9", "ff02::1:2"), 546, 547), true),
            (
                "the same behind extension headers",
                FromGuest,
                udp(ip6("fe80::9", "ff02::1:2").destination_options(), 546, 547),
                true,
            ),
            (
                "TCP behind extension headers",
                FromGuest,
                tcp(ip6("fe80::9", "ff02::1:2").destination_options(), 546, 547, SYN),
                false,
            ),
            ("just beyond fe80::/10", FromGuest, udp(ip6("fec0::9", "ff02::1:2"), 546, 547), false),
            ("D03 ::", FromGuest, own6("::"), false),
            ("D22 IPv4-mapped", FromGuest, own6("::ffff:10.0.0.1"), false),
            ("D26 from a group", FromGuest, own6("ff02::1"), false),
            (
                "D08 own address, advertisement",
                FromGuest,
                neighbour(ip6(GUEST6, "ff02::1"), 136, 0x20, GUEST6, &nd_option(2, &GUEST_MAC)),
                true,
            ),
            (
                "D05 foreign address, advertisement",
                FromGuest,
                neighbour(ip6("fe80::9", "ff02::1"), 136, 0x20, "fe80::9", &nd_option(2, &GUEST_MAC)),
                false,
            ),
            (
                "D14 first fragment, foreign",
                FromGuest,
                icmp6(ip6("fe80::9", "ff02::1").fragment(0, true), 134, 0, &[0; 24]),
                false,
            ),
            ("D23 header cut in the middle", FromGuest, own6(GLOBAL6).length(14 + 20), false),
            ("to the guest, from anywhere", ToGuest, udp(ip6("2001:db8::9", GLOBAL6), 80, 1234), true),
            ("IPv4", FromGuest, own(), true),
            ("IPv6 in a tag is no IPv6", FromGuest, own6("2001:db8::9").vlan(5), true),
        ],
    );
}

#[test]
fn the_small_standard_filters_stop_one_thing_each() {
    let to = |address: &str| udp(ip(GUEST_IP, address), 1, 2);
    let to6 = |address: &str| udp(ip6(GLOBAL6, address), 1, 2);
    check(
        "no-mac-spoofing",
        &[
            ("own MAC", FromGuest, own(), true),
            ("foreign MAC", FromGuest, own().from(FOREIGN_MAC), false),
            ("foreign MAC, tagged", FromGuest, own().vlan(5).from(FOREIGN_MAC), false),
            ("own MAC, tagged", FromGuest, own().vlan(5), true),
            ("to the guest", ToGuest, own().inbound(), true),
        ],
    );
    check(
        "no-ip-spoofing",
        &[
            ("own address", FromGuest, own(), true),
            ("foreign address", FromGuest, udp(ip(FOREIGN_IP, PEER_IP), 1, 2), false),
            ("no address, UDP", FromGuest, udp(ip("0.0.0.0", PEER_IP), 1, 2), true),
            ("no address, TCP", FromGuest, tcp(ip("0.0.0.0", PEER_IP), 1, 2, SYN), false),
            ("ARP", FromGuest, arp_reply(FOREIGN_IP, PEER_IP).frame(), true),
        ],
    );
    check(
        "no-arp-spoofing",
        &[
            ("own", FromGuest, arp_reply(GUEST_IP, PEER_IP).frame(), true),
            ("foreign address", FromGuest, arp_reply(FOREIGN_IP, PEER_IP).frame(), false),
            ("foreign MAC", FromGuest, arp_reply(GUEST_IP, PEER_IP).sender_mac(FOREIGN_MAC).frame(), false),
            ("to the guest", ToGuest, arp_reply(FOREIGN_IP, GUEST_IP).frame(), true),
        ],
    );
    check(
        "no-ip-multicast",
        &[
            ("unicast", FromGuest, to(PEER_IP), true),
            ("239.255.255.255", FromGuest, to("239.255.255.255"), false),
            ("224.0.0.0", FromGuest, to("224.0.0.0"), false),
            ("240.0.0.1", FromGuest, to("240.0.0.1"), true),
            ("to the guest", ToGuest, to("224.0.0.1"), true),
        ],
    );
    check(
        "no-ipv6-multicast",
        &[
            ("unicast", FromGuest, to6("2001:db8::2"), true),
            ("a group", FromGuest, to6("ff02::1"), false),
            ("to the guest", ToGuest, to6("ff02::1"), true),
        ],
    );
    check(
        "no-mac-broadcast",
        &[
            ("unicast", FromGuest, own(), true),
            ("broadcast", FromGuest, own().to(BROADCAST), false),
            ("ARP", FromGuest, arp_request(GUEST_IP, PEER_IP).frame(), true),
        ],
    );
    check(
        "no-other-l2-traffic",
        &[("anything", FromGuest, own(), false), ("to the guest", ToGuest, own(), false)],
    );
    check(
        "no-other-rarp-traffic",
        &[
            ("RARP", FromGuest, rarp_announce(GUEST_MAC).frame(), false),
            ("RARP to the guest", ToGuest, rarp_announce(GUEST_MAC).frame(), false),
            ("ARP", FromGuest, arp_reply(GUEST_IP, PEER_IP).frame(), true),
        ],
    );
    check(
        "qemu-announce-self",
        &[
            ("announcement", FromGuest, rarp_announce(GUEST_MAC).frame(), true),
            ("for another station", FromGuest, rarp_announce(FOREIGN_MAC).frame(), false),
            ("old EtherType", FromGuest, rarp_announce(GUEST_MAC).frame().kind(0x0835), true),
        ],
    );
}

#[test]
fn clean_traffic_gateway_allows_the_gateway_alone() {
    check(
        "clean-traffic-gateway",
        &[
            ("to the gateway", FromGuest, own(), true),
            ("to another", FromGuest, own().to(FOREIGN_MAC), false),
            ("spoofed, to the gateway", FromGuest, udp(ip(FOREIGN_IP, PEER_IP), 1, 2), false),
            ("foreign MAC, to the gateway", FromGuest, own().from(FOREIGN_MAC), false),
            ("ARP to all", FromGuest, arp_request(GUEST_IP, PEER_IP).frame(), true),
            ("spoofed ARP", FromGuest, arp_request(FOREIGN_IP, PEER_IP).frame(), false),
            ("from the gateway", ToGuest, own().inbound(), true),
            ("from another", ToGuest, own().inbound().from(FOREIGN_MAC), false),
        ],
    );
}

#[test]
fn dhcp_filters_know_clients_and_servers() {
    let offer = |server: &str| dhcp(2).your_ip(GUEST_IP).reply(server).inbound();
    let documents = ["allow-dhcp", "allow-dhcp-server"];
    for (filter, other_server) in documents.into_iter().zip([true, false]) {
        for style in STYLES {
            in_fresh_netns(|| {
                let mut host = Host::new(style);
                let document = format!(
                    "<filter name='f' chain='root'><filterref filter='{filter}'/><filterref filter='no-other-l2-traffic'/></filter>"
                );
                host.define(&[&document]).unwrap();
                host.bind_guest("f", VARS).unwrap();
                let passes = |way, frame: Frame| host.network.passes(way, frame);
                assert!(passes(FromGuest, dhcp(1).broadcast()), "{filter}");
                assert!(!passes(FromGuest, dhcp(2).reply(GUEST_IP)), "E01 {filter}");
                assert!(!passes(FromGuest, dhcp(1).broadcast().vlan(0)), "E12 {filter}");
                assert!(passes(ToGuest, offer(PEER_IP)), "{filter}");
                assert_eq!(passes(ToGuest, offer(FOREIGN_IP)), other_server, "E02 {filter}");
                assert!(!passes(ToGuest, dhcp(1).broadcast()), "{filter}");
                assert!(!passes(FromGuest, own()), "{filter}");
            });
        }
    }
}
