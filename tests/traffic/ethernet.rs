//! Rules of the Ethernet layer, each attribute of each protocol.

use crate::lab::frames::*;
use crate::rules::{Mirror, case, check};

/// The guest's honest frame.
fn own() -> Frame {
    udp(ip(GUEST_IP, PEER_IP), 1234, 80)
}

fn reply() -> Arp {
    arp_reply(GUEST_IP, PEER_IP)
}

#[test]
fn mac_rules_read_the_ethernet_header() {
    let from_vendor = |mac: [u8; 6]| own().from(mac);
    check(vec![
        case("<mac/>").hits([own(), own().vlan(5), reply().frame()]).positive(),
        case("<mac srcmacaddr='52:54:00:00:00:01'/>").hits([own(), own().vlan(5), reply().frame()]).near([
            own().from(FOREIGN_MAC),
            own().from([0x50, 0x54, 0, 0, 0, 1]),
            own().vlan(5).from(FOREIGN_MAC),
        ]),
        case("<mac srcmacaddr='52:54:00:aa:bb:cc' srcmacmask='ff:ff:ff:00:00:00'/>")
            .hits([own(), own().from(FOREIGN_MAC)])
            .near([from_vendor([0x52, 0x54, 1, 0, 0, 1]), from_vendor([0x52, 0x55, 0, 0xaa, 0xbb, 0xcc])]),
        case("<mac srcmacaddr='52:54:00:00:00:00' srcmacmask='ff:ff:ff:ff:ff:fe'/>")
            .hits([own(), from_vendor([0x52, 0x54, 0, 0, 0, 0])])
            .near([from_vendor([0x52, 0x54, 0, 0, 0, 2])]),
        case("<mac dstmacaddr='52:54:00:00:00:02'/>")
            .hits([own()])
            .near([own().to(FOREIGN_MAC), own().to(BROADCAST)]),
        case("<mac dstmacaddr='01:00:00:00:00:00' dstmacmask='80:00:00:00:00:00'/>")
            .hits([own()])
            .near([own().to(BROADCAST)]),
        case("<mac srcmacaddr='52:54:00:00:00:01' dstmacaddr='52:54:00:00:00:02'/>")
            .hits([own()])
            .near([own().from(FOREIGN_MAC), own().to(FOREIGN_MAC)])
            .positive(),
        case("<mac srcmacaddr='52:54:00:00:00:01'/><mac match='no' dstmacaddr='52:54:00:00:00:02'/>")
            .hits([own().to(FOREIGN_MAC)])
            .near([own(), own().to(FOREIGN_MAC).from(FOREIGN_MAC)])
            .positive(),
    ]);
}

/// The type in the frame decides: behind a tag there is no IPv4.
#[test]
fn mac_rules_read_the_ethernet_type_in_the_frame() {
    let tagged = || {
        [own().vlan(5), own().vlan(0), own().tag(ethertype::QINQ, 5), own().vlan(5).tag(ethertype::QINQ, 7)]
    };
    let [a, b, c, d] = tagged();
    check(vec![
        case("<mac protocolid='ipv4'/>").hits([own()]).near([
            a,
            b,
            c,
            d,
            reply().frame(),
            own().kind(0x0801),
        ]),
        case("<mac protocolid='0x0806'/>").hits([reply().frame()]).near([
            own(),
            reply().frame().vlan(0),
            reply().rarp().frame(),
        ]),
        case("<mac protocolid='rarp'/>").hits([reply().rarp().frame()]).near([own(), reply().frame()]),
        case("<mac protocolid='ipv6'/>")
            .hits([udp(ip6("fe80::1", "fe80::2"), 1, 2)])
            .near([own(), udp(ip6("fe80::1", "fe80::2"), 1, 2).vlan(5)]),
        case("<mac protocolid='vlan'/>")
            .hits([own().vlan(5), own().vlan(0), reply().frame().vlan(4095)])
            .near([own(), own().tag(ethertype::QINQ, 5)]),
        case("<mac protocolid='34997'/>")
            .hits([ether(0x88b5, [1; 46])])
            .near([ether(0x88b6, [1; 46]), own()]),
        case("<mac protocolid='0x88a8'/>").hits([own().tag(ethertype::QINQ, 5)]).near([own(), own().vlan(5)]),
    ]);
}

#[test]
fn vlan_rules_read_the_outer_tag() {
    check(vec![
        case("<vlan/>")
            .hits([own().vlan(5), own().vlan(0)])
            .other([own(), own().tag(ethertype::QINQ, 5), reply().frame()])
            .positive(),
        case("<vlan vlanid='5'/>")
            .hits([own().vlan(5), reply().frame().vlan(5), own().vlan(0xf005), own().vlan(6).vlan(5)])
            .near([own().vlan(6), own().vlan(0), own().vlan(0x105), own().vlan(5).vlan(6)])
            .other([own(), own().tag(ethertype::QINQ, 5), reply().frame()]),
        case("<vlan vlanid='0'/>")
            .hits([own().vlan(0), own().vlan(0xe000)])
            .near([own().vlan(1)])
            .other([own()]),
        case("<vlan vlanid='0xfff'/>").hits([own().vlan(4095)]).near([own().vlan(4094)]).other([own()]),
        case("<vlan encap-protocol='ipv4'/>")
            .hits([own().vlan(5)])
            .near([reply().frame().vlan(5), own().vlan(6).vlan(5)])
            .other([own(), own().tag(ethertype::QINQ, 5)]),
        case("<vlan encap-protocol='arp'/>")
            .hits([reply().frame().vlan(5)])
            .near([own().vlan(5)])
            .other([reply().frame()]),
        case("<vlan encap-protocol='vlan'/>")
            .hits([own().vlan(6).vlan(5)])
            .near([own().vlan(5)])
            .other([own()]),
        case("<vlan vlanid='5' encap-protocol='0x88b5'/>")
            .hits([ether(0x88b5, [1; 46]).vlan(5)])
            .near([ether(0x88b6, [1; 46]).vlan(5), ether(0x88b5, [1; 46]).vlan(6)])
            .other([ether(0x88b5, [1; 46])])
            .positive(),
        case("<vlan srcmacaddr='52:54:00:00:00:01'/>")
            .hits([own().vlan(5)])
            .near([own().vlan(5).from(FOREIGN_MAC)])
            .other([own()]),
        case("<vlan dstmacaddr='52:54:00:00:00:00' dstmacmask='ff:ff:ff:ff:ff:00'/>")
            .hits([own().vlan(5)])
            .near([own().vlan(5).to([0x52, 0x54, 0, 0, 1, 2])])
            .other([own().to(GUEST_MAC)]),
    ]);
}

#[test]
fn stp_rules_read_bpdus() {
    let bpdu = Bpdu::default;
    let with = |change: fn(&mut Bpdu)| {
        let mut bpdu = Bpdu::default();
        change(&mut bpdu);
        bpdu.frame()
    };
    // What has no such fields is matched by nothing that asks for one.
    let other = || {
        [
            with(|b| b.kind = 0x80),
            bpdu().frame().to(PEER_MAC),
            bpdu().frame().patch(0, &[0xaa]),
            bpdu().frame().vlan(5),
            own(),
        ]
    };
    let field = |elements, hits: Frame, near: [Frame; 2]| {
        case(elements).mirror(Mirror::Same).hits([bpdu().frame(), hits]).near(near).other(other())
    };
    let same = || bpdu().frame().padded();
    check(vec![
        case("<stp/>")
            .mirror(Mirror::Same)
            .hits([bpdu().frame(), with(|b| b.kind = 0x80)])
            .other([own(), bpdu().frame().to(PEER_MAC)])
            .positive(),
        case("<stp srcmacaddr='52:54:00:00:00:01'/>")
            .mirror(Mirror::None)
            .only(&["in", "out"])
            .hits([bpdu().frame()])
            .near([bpdu().frame().from(FOREIGN_MAC)])
            .other([own()]),
        case("<stp type='0'/>")
            .mirror(Mirror::Same)
            .hits([bpdu().frame()])
            .near([with(|b| b.kind = 0x80)])
            .other([own()]),
        field("<stp flags='0x00'/>", same(), [with(|b| b.flags = 1), with(|b| b.flags = 0x80)]),
        field(
            "<stp root-priority='32768'/>",
            same(),
            [with(|b| b.root_priority = 32769), with(|b| b.root_priority = 128)],
        ),
        field(
            "<stp root-priority='32768' root-priority-hi='32770'/>",
            with(|b| b.root_priority = 32770),
            [with(|b| b.root_priority = 32771), with(|b| b.root_priority = 32767)],
        ),
        field(
            "<stp root-address='52:54:00:00:00:01'/>",
            same(),
            [with(|b| b.root = PEER_MAC), with(|b| b.root = [0; 6])],
        ),
        field(
            "<stp root-address='52:54:00:aa:aa:aa' root-address-mask='ff:ff:ff:00:00:00'/>",
            with(|b| b.root = PEER_MAC),
            [with(|b| b.root = [0; 6]), with(|b| b.root = [0x52, 0x54, 1, 0, 0, 1])],
        ),
        field("<stp root-cost='0'/>", same(), [with(|b| b.root_cost = 1), with(|b| b.root_cost = 1 << 24)]),
        field(
            "<stp root-cost='0' root-cost-hi='0x10000'/>",
            with(|b| b.root_cost = 0x10000),
            [with(|b| b.root_cost = 0x10001), with(|b| b.root_cost = u32::MAX)],
        ),
        field(
            "<stp sender-priority='0x8000' sender-priority-hi='0x8001'/>",
            with(|b| b.sender_priority = 0x8001),
            [with(|b| b.sender_priority = 0x7fff), with(|b| b.sender_priority = 0x8002)],
        ),
        field(
            "<stp sender-address='52:54:00:00:00:01'/>",
            same(),
            [with(|b| b.sender = PEER_MAC), with(|b| b.sender = FOREIGN_MAC)],
        ),
        field(
            "<stp port='0x8001' port-hi='0x8002'/>",
            with(|b| b.port = 0x8002),
            [with(|b| b.port = 0x8003), with(|b| b.port = 0x8000)],
        ),
        field(
            "<stp age='0' age-hi='256'/>",
            with(|b| b.age = 256),
            [with(|b| b.age = 257), with(|b| b.age = 0x100 << 4)],
        ),
        field(
            "<stp max-age='5120' max-age-hi='5121'/>",
            with(|b| b.max_age = 5121),
            [with(|b| b.max_age = 5119), with(|b| b.max_age = 5122)],
        ),
        field("<stp hello-time='512'/>", same(), [with(|b| b.hello_time = 2), with(|b| b.hello_time = 513)]),
        field(
            "<stp forward-delay='3840'/>",
            same(),
            [with(|b| b.forward_delay = 15), with(|b| b.forward_delay = 3841)],
        ),
    ]);
}

/// The same attributes, for ARP or RARP.
fn arp_cases(rarp: bool) {
    let make = |arp: Arp| if rarp { arp.rarp().frame() } else { arp.frame() };
    let cross = |arp: Arp| if rarp { arp.frame() } else { arp.rarp().frame() };
    let text = |arp: &'static str, reverse: &'static str| if rarp { reverse } else { arp };
    let other = || [cross(reply()), make(reply()).vlan(5), make(reply()).vlan(0), own()];
    let odd = |frame: Arp| make(frame.lengths(8, 4));
    check(vec![
        case(text("<arp/>", "<rarp/>"))
            .hits([make(reply()), make(reply().types(6, 0))])
            .other(other())
            .positive(),
        case(text("<arp srcmacaddr='52:54:00:00:00:01'/>", "<rarp srcmacaddr='52:54:00:00:00:01'/>"))
            .hits([make(reply())])
            .near([make(reply()).from(FOREIGN_MAC)])
            .other(other()),
        case(text("<arp dstmacaddr='52:54:00:00:00:02'/>", "<rarp dstmacaddr='52:54:00:00:00:02'/>"))
            .hits([make(reply())])
            .near([make(reply()).to(FOREIGN_MAC)])
            .other(other()),
        case(text("<arp hwtype='1'/>", "<rarp hwtype='1'/>"))
            .hits([make(reply())])
            .near([make(reply().types(6, 0x800))])
            .other(other()),
        case(text("<arp protocoltype='0x800'/>", "<rarp protocoltype='0x800'/>"))
            .hits([make(reply())])
            .near([make(reply().types(1, 0x86dd)), make(reply().types(1, 8))])
            .other(other()),
        case(text("<arp opcode='Reply'/>", "<rarp opcode='Reply'/>"))
            .hits([make(reply())])
            .near([make(reply().operation(1)), make(reply().operation(0x200))])
            .other(other()),
        case(text("<arp opcode='0x0009'/>", "<rarp opcode='0x0009'/>"))
            .hits([make(reply().operation(9))])
            .near([make(reply())])
            .other(other()),
        case(text("<arp arpsrcmacaddr='52:54:00:00:00:01'/>", "<rarp arpsrcmacaddr='52:54:00:00:00:01'/>"))
            .hits([make(reply()), make(reply()).from(FOREIGN_MAC)])
            .near([make(reply().sender_mac(FOREIGN_MAC))])
            .other([odd(reply()), cross(reply()), own()]),
        case(text("<arp arpdstmacaddr='52:54:00:00:00:02'/>", "<rarp arpdstmacaddr='52:54:00:00:00:02'/>"))
            .hits([make(reply())])
            .near([make(reply().target_mac(FOREIGN_MAC))])
            .other([odd(reply()), cross(reply()), own()]),
        case(text("<arp arpsrcipaddr='10.0.0.1'/>", "<rarp arpsrcipaddr='10.0.0.1'/>"))
            .hits([make(reply())])
            .near([make(reply().sender_ip(FOREIGN_IP)), make(reply().sender_ip("10.0.0.0"))])
            .other([
                odd(reply()),
                cross(reply()),
                own(),
                make(reply()).vlan(5),
                make(reply()).length(14 + 17),
            ]),
        case(text(
            "<arp arpsrcipaddr='10.0.0.77' arpsrcipmask='255.255.255.0'/>",
            "<rarp arpsrcipaddr='10.0.0.77' arpsrcipmask='255.255.255.0'/>",
        ))
        .hits([make(reply()), make(reply().sender_ip(FOREIGN_IP))])
        .near([make(reply().sender_ip("10.0.1.1"))])
        .other([odd(reply())]),
        case(text("<arp arpdstipaddr='10.0.0.2'/>", "<rarp arpdstipaddr='10.0.0.2'/>"))
            .hits([make(reply())])
            .near([make(reply().target_ip(FOREIGN_IP))])
            .other([odd(reply()), cross(reply()), own()]),
        case(text(
            "<arp arpdstipaddr='10.0.0.0' arpdstipmask='31'/>",
            "<rarp arpdstipaddr='10.0.0.0' arpdstipmask='31'/>",
        ))
        .hits([make(reply().target_ip("10.0.0.1"))])
        .near([make(reply())])
        .other([odd(reply())]),
        // A mask of one address is no mask of the other.
        case(text(
            "<arp arpsrcipaddr='10.0.0.0' arpsrcipmask='8' arpdstipaddr='10.0.0.2'/>",
            "<rarp arpsrcipaddr='10.0.0.0' arpsrcipmask='8' arpdstipaddr='10.0.0.2'/>",
        ))
        .hits([make(reply())])
        .near([make(reply().target_ip("10.0.0.3")), make(reply().sender_ip("11.0.0.1"))])
        .positive(),
        case(text("<arp gratuitous='true'/>", "<rarp gratuitous='true'/>"))
            .hits([make(reply().target_ip(GUEST_IP)), make(reply().sender_ip(PEER_IP))])
            .near([make(reply()), make(reply().target_ip("10.1.0.1")), make(reply().target_ip("138.0.0.1"))])
            .other([own(), odd(reply().target_ip(GUEST_IP))]),
    ]);
}

#[test]
fn arp_rules_read_arp() {
    arp_cases(false);
}

#[test]
fn rarp_rules_read_rarp() {
    arp_cases(true);
}

#[test]
fn ip_rules_read_untagged_ipv4() {
    let net = || ip(GUEST_IP, PEER_IP);
    let other = || {
        [
            own().vlan(5),
            own().vlan(0),
            own().tag(ethertype::QINQ, 5),
            own().snap([0; 3]),
            own().kind(0x86dd),
            reply().frame(),
            udp(ip6("fe80::1", "fe80::2"), 1234, 80),
        ]
    };
    let later = |protocol| net().fragment(185, false).carry(protocol, &udp_bytes(1234, 80, b"x"));
    check(vec![
        case("<ip/>").hits([own(), later(17), own().length(34)]).other(other()).positive(),
        case("<ip srcmacaddr='52:54:00:00:00:01'/>")
            .hits([own()])
            .near([own().from(FOREIGN_MAC)])
            .other(other()),
        case("<ip srcipaddr='10.0.0.1'/>")
            .hits([own(), later(17), udp(net().options(&[7; 40]), 1, 2)])
            .near([udp(ip(FOREIGN_IP, PEER_IP), 1234, 80), udp(ip("10.0.0.0", PEER_IP), 1, 2)])
            .other(other()),
        case("<ip srcipaddr='10.0.0.77' srcipmask='255.255.255.0'/>")
            .hits([own()])
            .near([udp(ip("10.0.1.1", PEER_IP), 1, 2)])
            .other(other()),
        case("<ip srcipaddr='10.0.0.77' srcipmask='0'/>")
            .hits([own(), udp(ip("1.2.3.4", PEER_IP), 1, 2)])
            .other(other())
            .positive(),
        case("<ip dstipaddr='10.0.0.2'/>")
            .hits([own()])
            .near([udp(ip(GUEST_IP, FOREIGN_IP), 1, 2)])
            .other(other()),
        case("<ip dstipaddr='10.0.0.0' dstipmask='30'/>")
            .hits([own()])
            .near([udp(ip(GUEST_IP, "10.0.0.4"), 1, 2)])
            .other(other()),
        case("<ip protocol='udp'/>")
            .hits([own(), later(17)])
            .near([tcp(net(), 1234, 80, SYN), later(6)])
            .other(other()),
        case("<ip protocol='47'/>").hits([net().carry(47, &[0; 8])]).near([own()]).other(other()),
        case("<ip protocol='17' dstportstart='80'/>")
            .hits([own(), udp(net().options(&[148, 4, 0, 0]), 1, 80)])
            .near([udp(net(), 80, 1234), udp(net(), 1234, 81)])
            .other([later(17), own().vlan(5)])
            .positive(),
        case("<ip protocol='tcp' srcportstart='1000' srcportend='2000' dstportstart='80' dstportend='90'/>")
            .hits([tcp(net(), 1000, 90, SYN), tcp(net(), 2000, 80, ACK)])
            .near([
                tcp(net(), 999, 80, SYN),
                tcp(net(), 2001, 80, SYN),
                tcp(net(), 1500, 79, SYN),
                tcp(net(), 1500, 91, SYN),
                own(),
            ])
            .other([later(6)])
            .positive(),
        case("<ip protocol='udp'/><ip match='no' dstportstart='81' dstportend='90'/>")
            .hits([own(), udp(net(), 81, 91)])
            .near([udp(net(), 80, 81), udp(net(), 80, 90)])
            .other([later(17)])
            .positive(),
        case("<ip dscp='10'/>")
            .hits([udp(net().service(40), 1, 2), udp(net().service(43), 1, 2)])
            .near([own(), udp(net().service(10), 1, 2), udp(net().service(44), 1, 2)])
            .other(other()),
    ]);
}

#[test]
fn ipv6_rules_skip_extension_headers() {
    const GUEST: &str = "2001:db8::1";
    const PEER: &str = "2001:db8::2";
    let net = || ip6(GUEST, PEER);
    let own6 = || udp(net(), 1234, 80);
    let chained = || net().hop_by_hop(&[1, 4, 0, 0, 0, 0]).destination_options();
    let later = || net().fragment(185, false).carry(17, &udp_bytes(1234, 80, b"x"));
    let other = || [own(), own6().vlan(5), own6().vlan(0), own6().kind(0x0800), reply().frame()];
    let ping = |kind, code| icmp6(net(), kind, code, &[0; 8]);
    check(vec![
        case("<ipv6/>").hits([own6(), udp(chained(), 1, 2), later()]).other(other()).positive(),
        case("<ipv6 srcipaddr='2001:db8::1'/>")
            .hits([own6(), later()])
            .near([udp(ip6("2001:db8::9", PEER), 1, 2)])
            .other(other()),
        case("<ipv6 srcipaddr='2001:db8::' srcipmask='32'/>")
            .hits([own6()])
            .near([udp(ip6("2001:db9::1", PEER), 1, 2)])
            .other(other()),
        case("<ipv6 dstipaddr='2001:db8::2'/>")
            .hits([own6()])
            .near([udp(ip6(GUEST, "2001:db8::3"), 1, 2)])
            .other(other()),
        case("<ipv6 dstipaddr='2001:db8::2' dstipmask='ffff:ffff::'/>")
            .hits([own6()])
            .near([udp(ip6(GUEST, "2001:db9::2"), 1, 2)])
            .other(other()),
        case("<ipv6 protocol='udp'/>")
            .hits([own6(), udp(chained(), 1, 2)])
            .near([tcp(net(), 1, 2, SYN), ping(128, 0), tcp(chained(), 1, 2, SYN)])
            .other(other()),
        case("<ipv6 protocol='udp' dstportstart='80'/>")
            .hits([own6(), udp(chained(), 1234, 80), udp(net().fragment(0, true), 1234, 80)])
            .near([udp(net(), 80, 81), udp(chained(), 80, 81)])
            .other([later()])
            .positive(),
        case("<ipv6 protocol='tcp' srcportstart='1000' srcportend='1010'/>")
            .hits([tcp(net(), 1000, 1, SYN), tcp(net(), 1010, 1, SYN)])
            .near([tcp(net(), 999, 1000, SYN), tcp(net(), 1011, 1000, SYN)])
            .positive(),
        case("<ipv6 protocol='icmpv6' type='128'/>")
            .hits([ping(128, 0), ping(128, 7), icmp6(chained(), 128, 0, &[0; 8])])
            .near([ping(129, 0), own6(), icmp6(chained(), 129, 0, &[0; 8])])
            .other([net().fragment(185, false).carry(58, &[128, 0, 0, 0, 0, 0, 0, 0])])
            .positive(),
        case("<ipv6 protocol='icmpv6' type='133' typeend='136' code='0' codeend='1'/>")
            .hits([ping(133, 0), ping(136, 1)])
            .near([ping(132, 0), ping(137, 0), ping(134, 2)])
            .positive(),
        case("<ipv6 protocol='icmpv6'/><ipv6 match='no' type='133' typeend='136'/>")
            .hits([ping(132, 0), ping(137, 0)])
            .near([ping(133, 0), ping(136, 0), own6()])
            .positive(),
    ]);
}
