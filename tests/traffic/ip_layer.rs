//! Rules of the IP layer, without state: this asks for no connection tracking.

use crate::lab::frames::*;
use crate::rules::{Case, Mirror, case, check};

const GUEST6: &str = "2001:db8::1";
const PEER6: &str = "2001:db8::2";

fn net() -> Ip4 {
    ip(GUEST_IP, PEER_IP)
}

fn net6() -> Ip6 {
    ip6(GUEST6, PEER6)
}

/// A protocol of the IP layer: its element over IPv4 and over IPv6, its number, and a packet of it.
struct Upper {
    name: &'static str,
    number: u8,
    packet: fn(Net, u16, u16) -> Frame,
    ports: bool,
}

const UPPERS: &[Upper] = &[
    Upper { name: "tcp", number: 6, packet: |net, from, to| tcp(net, from, to, SYN), ports: true },
    Upper { name: "udp", number: 17, packet: |net, from, to| udp(net, from, to), ports: true },
    Upper { name: "sctp", number: 132, packet: |net, from, to| sctp(net, from, to), ports: true },
    Upper { name: "udplite", number: 136, packet: |net, from, to| udplite(net, from, to), ports: false },
    Upper { name: "esp", number: 50, packet: |net, from, _| esp(net, from.into()), ports: false },
    Upper { name: "ah", number: 51, packet: |net, from, _| ah(net, from.into()), ports: false },
];

/// Element texts live as long as the tests.
fn text(text: String) -> &'static str {
    text.leak()
}

/// Elements of the protocol over both families, with packets made by `v4` and `v6`.
fn both(upper: &Upper) -> Vec<Case> {
    let (name, packet) = (upper.name, upper.packet);
    let strange = if upper.number == 6 { 17 } else { 6 };
    let v4 = |net: Ip4| packet(net.into(), 1234, 80);
    let v6 = |net: Ip6| packet(net.into(), 1234, 80);
    let other4 = || {
        [
            net().carry(strange, &[0; 40]),
            v4(net()).vlan(5),
            v4(net()).vlan(0),
            v4(net()).tag(ethertype::QINQ, 5),
            v6(net6()),
            arp_reply(GUEST_IP, PEER_IP).frame(),
        ]
    };
    let other6 = || [net6().carry(strange, &[0; 40]), v6(net6()).vlan(5), v6(net6()).vlan(0), v4(net())];
    let chained = || net6().hop_by_hop(&[1, 4, 0, 0, 0, 0]).destination_options();
    let element = |attributes: &str| text(format!("<{name} {attributes}/>"));
    let element6 = |attributes: &str| text(format!("<{name}-ipv6 {attributes}/>"));
    let later = || net().fragment(185, false).carry(upper.number, &[0; 40]);
    let mut cases = vec![
        case(text(format!("<{name}/>")))
            .hits([v4(net()), later(), v4(net().options(&[148, 4, 0, 0]))])
            .other(other4())
            .positive(),
        case(element("srcmacaddr='52:54:00:00:00:01'"))
            .mirror(Mirror::None)
            .hits([v4(net())])
            .near([v4(net()).from(FOREIGN_MAC)])
            .other(other4()),
        case(element("srcipaddr='10.0.0.1'"))
            .hits([v4(net()), later()])
            .near([v4(ip(FOREIGN_IP, PEER_IP))])
            .other(other4()),
        case(element("srcipaddr='10.0.0.99' srcipmask='24'"))
            .hits([v4(net())])
            .near([v4(ip("10.0.1.1", PEER_IP))])
            .other(other4()),
        case(element("dstipaddr='10.0.0.2'"))
            .hits([v4(net())])
            .near([v4(ip(GUEST_IP, FOREIGN_IP))])
            .other(other4()),
        case(element("dstipaddr='10.0.0.0' dstipmask='255.255.255.254'"))
            .hits([v4(ip(GUEST_IP, "10.0.0.1"))])
            .near([v4(net())])
            .other(other4()),
        case(element("srcipfrom='10.0.0.1' srcipto='10.0.0.3'"))
            .hits([v4(net()), v4(ip("10.0.0.3", PEER_IP))])
            .near([v4(ip("10.0.0.0", PEER_IP)), v4(ip("10.0.0.4", PEER_IP))])
            .other(other4()),
        case(element("dstipfrom='10.0.0.2' dstipto='10.0.1.1'"))
            .hits([v4(net()), v4(ip(GUEST_IP, "10.0.1.1"))])
            .near([v4(ip(GUEST_IP, "10.0.0.1")), v4(ip(GUEST_IP, "10.0.1.2"))])
            .other(other4()),
        case(element("dscp='10'"))
            .hits([v4(net().service(40)), v4(net().service(43))])
            .near([v4(net()), v4(net().service(10)), v4(net().service(44))])
            .other(other4()),
        case(element("srcipaddr='10.0.0.1' dstipaddr='10.0.0.2'"))
            .hits([v4(net())])
            .near([v4(ip(FOREIGN_IP, PEER_IP)), v4(ip(GUEST_IP, FOREIGN_IP)), v4(ip(PEER_IP, GUEST_IP))])
            .positive(),
        case(text(format!("<{name}-ipv6/>"))).hits([v6(net6()), v6(chained())]).other(other6()).positive(),
        case(element6("srcipaddr='2001:db8::1'"))
            .hits([v6(net6()), v6(chained())])
            .near([v6(ip6("2001:db8::9", PEER6))])
            .other(other6()),
        case(element6("dstipaddr='2001:db8::' dstipmask='32'"))
            .hits([v6(net6())])
            .near([v6(ip6(GUEST6, "2001:db9::2"))])
            .other(other6()),
        case(element6("srcipfrom='2001:db8::1' srcipto='2001:db8::3'"))
            .hits([v6(net6()), v6(ip6("2001:db8::3", PEER6))])
            .near([v6(ip6("2001:db8::", PEER6)), v6(ip6("2001:db8::4", PEER6))])
            .other(other6()),
        case(element6("dstipfrom='2001:db8::2' dstipto='2001:db8::2'"))
            .hits([v6(net6())])
            .near([v6(ip6(GUEST6, "2001:db8::3"))])
            .other(other6()),
    ];
    if upper.ports {
        let at = |from, to| packet(net().into(), from, to);
        let at6 = |net: Ip6, from, to| packet(net.into(), from, to);
        let later6 = || net6().fragment(185, false).carry(upper.number, &[0, 80, 0, 80, 0, 0, 0, 0]);
        let other = || {
            [
                net()
                    .fragment(185, false)
                    .carry(upper.number, &[4, 210, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
                at(1234, 80).vlan(5),
            ]
        };
        cases.extend([
            case(element("dstportstart='80'"))
                .hits([at(1234, 80), packet(net().options(&[148, 4, 0, 0]).into(), 7, 80)])
                .near([at(80, 1234), at(1234, 81)])
                .other(other()),
            case(element("srcportstart='1000' srcportend='2000'"))
                .hits([at(1000, 1), at(2000, 1)])
                .near([at(999, 1500), at(2001, 1500)])
                .other(other()),
            case(element("srcportstart='1234' dstportstart='80' dstportend='90'"))
                .hits([at(1234, 80), at(1234, 90)])
                .near([at(1234, 91), at(1235, 80)])
                .other(other())
                .positive(),
            case(element6("dstportstart='80'"))
                .hits([
                    at6(net6(), 1234, 80),
                    at6(chained(), 1234, 80),
                    at6(net6().fragment(0, true), 1234, 80),
                ])
                .near([at6(net6(), 80, 81), at6(chained(), 80, 81)])
                .other([later6()]),
            case(element6("srcportstart='1000' srcportend='2000'"))
                .hits([at6(net6(), 1000, 1)])
                .near([at6(net6(), 999, 1500), at6(net6(), 2001, 1500)])
                .other([later6()]),
        ]);
    }
    cases
}

fn upper(name: &str) -> Vec<Case> {
    both(UPPERS.iter().find(|upper| upper.name == name).unwrap())
}

#[test]
fn tcp_rules() {
    check(upper("tcp"));
}

#[test]
fn udp_rules() {
    check(upper("udp"));
}

#[test]
fn sctp_rules() {
    check(upper("sctp"));
}

#[test]
fn udplite_esp_and_ah_rules() {
    check([upper("udplite"), upper("esp"), upper("ah")].concat());
}

#[test]
fn tcp_rules_read_flags_and_options() {
    let flags = |flags| tcp(net(), 1234, 80, flags);
    let with = |options: &[u8]| tcp_with(net(), 1234, 80, SYN, options, &[]);
    let flags6 = |flags| tcp(net6(), 1234, 80, flags);
    let with6 = |options: &[u8]| tcp_with(net6(), 1234, 80, SYN, options, &[]);
    let later = || net().fragment(185, false).carry(6, &[0; 40]);
    check(vec![
        case("<tcp flags='SYN/SYN'/>")
            .hits([flags(SYN), flags(SYN | ACK)])
            .near([flags(ACK), flags(0)])
            .other([later(), udp(net(), 1234, 80)]),
        case("<tcp flags='SYN,ACK/SYN'/>")
            .hits([flags(SYN), flags(SYN | PSH)])
            .near([flags(SYN | ACK), flags(ACK), flags(0)])
            .other([later()]),
        case("<tcp flags='ALL/NONE'/>").hits([flags(0)]).near([flags(SYN), flags(URG)]).other([later()]),
        case("<tcp flags='ALL/FIN,PSH,URG'/>")
            .hits([flags(FIN | PSH | URG)])
            .near([flags(FIN | PSH), flags(FIN | PSH | URG | RST)])
            .other([later()]),
        case("<tcp option='2'/>")
            .hits([with(&[2, 4, 5, 180]), with(&[1, 1, 1, 1, 2, 4, 5, 180])])
            .near([with(&[]), with(&[1, 1, 1, 0]), with(&[3, 3, 7, 1])])
            .other([udp(net(), 1234, 80)]),
        case("<tcp-ipv6 flags='SYN,ACK/SYN'/>")
            .hits([flags6(SYN)])
            .near([flags6(SYN | ACK), flags6(RST)])
            .other([udp(net6(), 1, 2)]),
        case("<tcp-ipv6 option='2'/>")
            .hits([with6(&[2, 4, 5, 180])])
            .near([with6(&[]), with6(&[3, 3, 7, 1])])
            .other([udp(net6(), 1, 2)]),
    ]);
}

#[test]
fn icmp_and_igmp_rules() {
    let ping = |kind, code| icmp(net(), kind, code, &[0; 8]);
    let ping6 = |kind, code| icmp6(net6(), kind, code, &[0; 8]);
    let later = || net().fragment(185, false).carry(1, &[8, 0, 0, 0, 0, 0, 0, 0]);
    let other = || [later(), udp(net(), 8, 8), ping(8, 0).vlan(5), net().carry(58, &[8, 0, 0, 0])];
    let other6 = || [udp(net6(), 8, 8), ping6(128, 0).vlan(5), ping(8, 0), net6().carry(1, &[128, 0, 0, 0])];
    let chained = || icmp6(net6().hop_by_hop(&[5, 2, 0, 0, 1, 0]), 128, 0, &[0; 8]);
    check(vec![
        case("<icmp/>")
            .hits([ping(8, 0), ping(3, 4), later()])
            .other([udp(net(), 1, 2), ping(8, 0).vlan(5)])
            .positive(),
        case("<icmp srcipaddr='10.0.0.1'/>").hits([ping(8, 0), later()]).near([icmp(
            ip(FOREIGN_IP, PEER_IP),
            8,
            0,
            &[0; 8],
        )]),
        case("<icmp type='8'/>")
            .mirror(Mirror::InOutOnly)
            .hits([ping(8, 0), ping(8, 1)])
            .near([ping(0, 0), ping(9, 0)])
            .other(other()),
        case("<icmp type='3' code='4'/>")
            .mirror(Mirror::InOutOnly)
            .hits([ping(3, 4)])
            .near([ping(3, 3), ping(4, 4)])
            .other(other())
            .positive(),
        case("<icmp type='8' dstipaddr='10.0.0.2'/>")
            .mirror(Mirror::InOutOnly)
            .hits([ping(8, 0)])
            .near([ping(0, 0), icmp(ip(GUEST_IP, FOREIGN_IP), 8, 0, &[0; 8])])
            .positive(),
        case("<igmp/>")
            .hits([igmp(net(), 0x16, [224, 0, 0, 9])])
            .other([udp(net(), 1, 2), ping(8, 0)])
            .positive(),
        case("<igmp srcipaddr='10.0.0.1'/>")
            .hits([igmp(ip(GUEST_IP, PEER_IP), 0x16, [224, 0, 0, 9])])
            .near([igmp(ip(FOREIGN_IP, PEER_IP), 0x16, [224, 0, 0, 9])])
            .other([udp(net(), 1, 2)]),
        case("<icmpv6/>").hits([ping6(128, 0), chained()]).other([udp(net6(), 1, 2), ping(8, 0)]).positive(),
        case("<icmpv6 type='128'/>")
            .mirror(Mirror::InOutOnly)
            .hits([ping6(128, 0), ping6(128, 3), chained()])
            .near([ping6(129, 0)])
            .other(other6()),
        case("<icmpv6 type='1' code='4'/>")
            .mirror(Mirror::InOutOnly)
            .hits([ping6(1, 4)])
            .near([ping6(1, 3), ping6(2, 4)])
            .other(other6())
            .positive(),
        case("<icmpv6 dstipaddr='2001:db8::2'/>").hits([ping6(128, 0)]).near([icmp6(
            ip6(GUEST6, "2001:db8::3"),
            128,
            0,
            &[0; 8],
        )]),
    ]);
}

#[test]
fn rules_about_all_protocols_are_about_one_family() {
    let own = || udp(net(), 1234, 80);
    let own6 = || udp(net6(), 1234, 80);
    let odd = || net().carry(253, &[0; 8]);
    check(vec![
        case("<all/>")
            .hits([own(), odd(), icmp(net(), 8, 0, &[0; 8])])
            .other([own6(), own().vlan(5), arp_reply(GUEST_IP, PEER_IP).frame()])
            .positive(),
        case("<all srcipaddr='10.0.0.1'/>")
            .hits([own(), odd()])
            .near([udp(ip(FOREIGN_IP, PEER_IP), 1, 2)])
            .other([own6(), own().vlan(5)]),
        case("<all dstipfrom='10.0.0.2' dstipto='10.0.0.3'/>")
            .hits([own()])
            .near([udp(ip(GUEST_IP, "10.0.0.4"), 1, 2)])
            .other([own6()]),
        case("<all dscp='0'/>").hits([own(), odd()]).near([udp(net().service(4), 1, 2)]).other([own6()]),
        case("<all-ipv6/>")
            .hits([own6(), net6().carry(59, &[]), net6().carry(253, &[0; 8])])
            .other([own(), own6().vlan(5)])
            .positive(),
        case("<all-ipv6 srcipaddr='2001:db8::1'/>")
            .hits([own6(), net6().carry(253, &[0; 8])])
            .near([udp(ip6("2001:db8::9", PEER6), 1, 2)])
            .other([own()]),
        case("<all-ipv6 dscp='10'/>")
            .hits([own6().patch(0, &[0x62, 0x80]), own6().patch(0, &[0x62, 0xbf])])
            .near([own6(), own6().patch(0, &[0x62, 0xc0])])
            .other([own()]),
    ]);
}
