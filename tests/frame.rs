//! What frames tell: every frame about ARP and DHCP of the corpus, IPv6, and bytes that no guest should send.

#[path = "lab/mod.rs"]
mod lab;

use expect_test::{Expect, expect};
use lab::corpus::corpus;
use lab::frames::{self, *};
use nwfilter::guest::frame::dhcp::Dhcp;
use nwfilter::guest::frame::{Sighting, read};
use proptest::prelude::*;
use std::net::IpAddr;

/// In a few words.
fn reported(frame: &[u8]) -> String {
    let Some(frame) = read(frame) else { return "nothing".into() };
    let reported = match frame.sighting {
        Sighting::Arp { mac, address } => format!("arp {address} at {mac}"),
        Sighting::Ipv4 { source } => format!("ipv4 {source}"),
        Sighting::Dhcp(dhcp) => dhcp_reported(&dhcp),
        Sighting::Ipv6 { source } => format!("ipv6 {source}"),
        Sighting::Neighbour { target } => format!("neighbour {target}"),
        Sighting::Dhcp6(dhcp) => format!("dhcp6 {:?} {} for {}", dhcp.kind, dhcp.address, dhcp.valid),
    };
    format!("{reported}{}", if frame.tagged { ", tagged" } else { "" })
}

fn dhcp_reported(dhcp: &Dhcp) -> String {
    let set = [
        ("ciaddr", Some(dhcp.client_address)),
        ("yiaddr", Some(dhcp.your_address)),
        ("giaddr", Some(dhcp.relay)),
        ("wants", dhcp.requested),
        ("server", dhcp.server),
    ];
    let mut text = format!("{:?} from {}", dhcp.kind, dhcp.source);
    for (name, address) in set {
        if let Some(address) = address.filter(|address| !address.is_unspecified()) {
            text += &format!(" {name} {address}");
        }
    }
    text + &dhcp.lease.map_or(String::new(), |lease| format!(" for {lease}"))
}

fn check_section(section: char, expected: Expect) {
    let cases = corpus().into_iter().filter(|case| case.id.starts_with(section));
    let lines: String =
        cases.map(|case| format!("{} {}: {}\n", case.id, case.what, reported(&case.frame))).collect();
    expected.assert_eq(&lines);
}

#[test]
fn arp_frames_teach_their_sender() {
    check_section(
        'B',
        expect![[r#"
        B00a an honest request: arp 10.0.0.1 at 52:54:00:00:00:01
        B00b an honest reply: arp 10.0.0.1 at 52:54:00:00:00:01
        B00c an honest request, padded: arp 10.0.0.1 at 52:54:00:00:00:01
        B01a probe for its own address: arp 0.0.0.0 at 52:54:00:00:00:01
        B01b probe for a foreign address: arp 0.0.0.0 at 52:54:00:00:00:01
        B02a announcement of its own address: arp 10.0.0.1 at 52:54:00:00:00:01
        B02b gratuitous reply, own address: arp 10.0.0.1 at 52:54:00:00:00:01
        B03a gratuitous request, foreign address: arp 10.0.0.9 at 52:54:00:00:00:01
        B03b gratuitous reply, foreign address: arp 10.0.0.9 at 52:54:00:00:00:01
        B04a sender MAC foreign, Ethernet source own: arp 10.0.0.1 at 52:54:00:00:00:09
        B04b sender MAC own, Ethernet source foreign: arp 10.0.0.1 at 52:54:00:00:00:01
        B04c both foreign: arp 10.0.0.1 at 52:54:00:00:00:09
        B04d sender MAC broadcast: arp 10.0.0.1 at ff:ff:ff:ff:ff:ff
        B05a reply with a foreign address: arp 10.0.0.9 at 52:54:00:00:00:01
        B05b reply with the peer's own address: arp 10.0.0.2 at 52:54:00:00:00:01
        B05c request from a foreign address: arp 10.0.0.9 at 52:54:00:00:00:01
        B06a sender address broadcast: arp 255.255.255.255 at 52:54:00:00:00:01
        B06b sender address of a group: arp 224.0.0.1 at 52:54:00:00:00:01
        B06c sender address 127.0.0.1: arp 127.0.0.1 at 52:54:00:00:00:01
        B06d sender address with its last bit turned: arp 10.0.0.0 at 52:54:00:00:00:01
        B12 honest request for the gateway: arp 10.0.0.1 at 52:54:00:00:00:01
        B07a operation 0, own addresses: nothing
        B07b operation 3, own addresses: nothing
        B07c operation 9, own addresses: nothing
        B07d operation 65535, own addresses: nothing
        B07e operation 0, foreign address: nothing
        B07f operation 3, foreign address: nothing
        B07g operation 4, foreign address: nothing
        B07h operation 9, foreign address: nothing
        B07i operation 65535, foreign address: nothing
        B13a InARP request, own addresses: nothing
        B13b InARP request, foreign address: nothing
        B08a hardware addresses of 8 bytes: nothing
        B08b hardware addresses of no bytes: nothing
        B08c protocol addresses of 16 bytes: nothing
        B08d protocol addresses of no bytes: nothing
        B08e hardware type 6, which is IEEE 802: nothing
        B08f protocol type IPv6: nothing
        B08g addresses of 255 bytes: nothing
        B08h hardware type 6, foreign address: nothing
        B09a 8 bytes: a header and no addresses: nothing
        B09b 17 bytes: cut inside the sender's address: nothing
        B09c 27 bytes: cut inside the target's address, own sender: nothing
        B09d 27 bytes, foreign sender: nothing
        B10a an honest request and 400 bytes more: arp 10.0.0.1 at 52:54:00:00:00:01
        B10b a spoofed request and an honest one behind it: arp 10.0.0.9 at 52:54:00:00:00:01
        B11a request to the guest: arp 10.0.0.2 at 52:54:00:00:00:02
        B11b reply to the guest: arp 10.0.0.2 at 52:54:00:00:00:02
        B11c forged reply to the guest: arp 10.0.0.9 at 52:54:00:00:00:02
        B11d forged reply, target MAC foreign: arp 10.0.0.2 at 52:54:00:00:00:09
        B11e a station claims the guest's address: arp 10.0.0.1 at 52:54:00:00:00:02
        B11f ARP cut to its header: nothing
    "#]],
    );
}

#[test]
fn frames_of_dhcp_are_read_whole_or_not_at_all() {
    check_section(
        'E',
        expect![[r#"
        E00a discover: Discover from 0.0.0.0
        E00b request: Request from 0.0.0.0 wants 10.0.0.1
        E00c discover from a foreign MAC: Discover from 0.0.0.0
        E03a discover about a foreign MAC: Discover from 0.0.0.0
        E03b request about a broadcast MAC: Request from 0.0.0.0
        E12a discover in 802.1Q: Discover from 0.0.0.0, tagged
        E14a renewal: Request from 10.0.0.1 ciaddr 10.0.0.1
        E14b renewal from a foreign address: Request from 10.0.0.9 ciaddr 10.0.0.1
        E14c decline: Decline from 0.0.0.0 wants 10.0.0.1
        E14d release of its own address: Release from 10.0.0.1 ciaddr 10.0.0.1
        E14e release of a foreign address from its own: Release from 10.0.0.1 ciaddr 10.0.0.9
        E14f release of a foreign address from there: Release from 10.0.0.9 ciaddr 10.0.0.9
        E14g release from 0.0.0.0: Release from 0.0.0.0 ciaddr 10.0.0.9
        E14h inform: Inform from 10.0.0.1 ciaddr 10.0.0.1
        E01a offer as a server, own source: Offer from 10.0.0.1 yiaddr 10.0.0.9 server 10.0.0.1 for 3600
        E01b offer as the server, its source: Offer from 10.0.0.2 yiaddr 10.0.0.9 server 10.0.0.1 for 3600
        E01c offer as the server, its source and MAC: Offer from 10.0.0.2 yiaddr 10.0.0.9 server 10.0.0.1 for 3600
        E18a ack to itself, own source: Ack from 10.0.0.1 yiaddr 10.0.0.1 server 10.0.0.2 for 3600
        E18b ack to itself, the server's source: Ack from 10.0.0.2 yiaddr 10.0.0.1 server 10.0.0.2 for 3600
        E18c ack from 0.0.0.0: Ack from 0.0.0.0 yiaddr 10.0.0.1 server 10.0.0.2 for 3600
        E00d offer: Offer from 10.0.0.2 yiaddr 10.0.0.1 server 10.0.0.2 for 3600
        E00e ack: Ack from 10.0.0.2 yiaddr 10.0.0.1 server 10.0.0.2 for 3600
        E00f ack to the guest alone: Ack from 10.0.0.2 yiaddr 10.0.0.1 server 10.0.0.2 for 3600
        E02 ack from another server: Ack from 10.0.0.9 yiaddr 10.0.0.1 server 10.0.0.2 for 3600
        E03c ack about a foreign MAC: Ack from 10.0.0.2 yiaddr 10.0.0.1 server 10.0.0.2 for 3600
        E04 ack of another transaction: Ack from 10.0.0.2 yiaddr 10.0.0.1 server 10.0.0.2 for 3600
        E09a lease of no time: Ack from 10.0.0.2 yiaddr 10.0.0.1 server 10.0.0.2 for 0
        E09b lease without end: Ack from 10.0.0.2 yiaddr 10.0.0.1 server 10.0.0.2 for 4294967295
        E10a lease of 0.0.0.0: Ack from 10.0.0.2 server 10.0.0.2 for 3600
        E10b lease of the broadcast address: Ack from 10.0.0.2 yiaddr 255.255.255.255 server 10.0.0.2 for 3600
        E10c lease of a group: Ack from 10.0.0.2 yiaddr 224.0.0.1 server 10.0.0.2 for 3600
        E10d lease of the server's own address: Ack from 10.0.0.2 yiaddr 10.0.0.2 server 10.0.0.2 for 3600
        E10e lease of 127.0.0.1: Ack from 10.0.0.2 yiaddr 127.0.0.1 server 10.0.0.2 for 3600
        E11a first fragment of an ack: ipv4 10.0.0.2
        E11b the rest of the ack: ipv4 10.0.0.2
        E12b ack in 802.1Q: Ack from 10.0.0.2 yiaddr 10.0.0.1 server 10.0.0.2 for 3600, tagged
        E12c ack in VLAN 0: Ack from 10.0.0.2 yiaddr 10.0.0.1 server 10.0.0.2 for 3600, tagged
        E13 ack through a relay: Ack from 10.0.0.2 yiaddr 10.0.0.1 giaddr 10.0.0.3 server 10.0.0.2 for 3600
        E14i nak: Nak from 10.0.0.2 server 10.0.0.2
        E05a type in the file field, by overload: Ack from 10.0.0.2 yiaddr 10.0.0.1
        E05b overload of both fields, empty: Ack from 10.0.0.2 yiaddr 10.0.0.1 server 10.0.0.2 for 3600
        E05c overload without meaning: ipv4 10.0.0.2
        E06a type in two halves: ipv4 10.0.0.2
        E06b no type: ipv4 10.0.0.2
        E06c two types: ipv4 10.0.0.2
        E06d type of two bytes: ipv4 10.0.0.2
        E07a option beyond the message: ipv4 10.0.0.2
        E07b option without a length: ipv4 10.0.0.2
        E07c message cut inside its addresses: nothing
        E07d a thousand pad options: Ack from 10.0.0.2 yiaddr 10.0.0.1 server 10.0.0.2 for 3600
        E08 no cookie, as BOOTP: ipv4 10.0.0.2
        E16a hardware address of no bytes: ipv4 10.0.0.2
        E16b hardware address of 16 bytes: ipv4 10.0.0.2
        E16c hardware address of 255 bytes: ipv4 10.0.0.2
        E17 ack with rapid commit: Ack from 10.0.0.2 yiaddr 10.0.0.1 server 10.0.0.2 for 3600
    "#]],
    );
}

#[test]
fn an_overloaded_message_goes_on_in_its_fields() {
    let overload = |place, at: usize| {
        let mut message = dhcp(5).your_ip(GUEST_IP).option(52, &[place]);
        let option = [51, 4, 0, 0, 0, 9, 255, 51];
        match at {
            0 => message.server_name[..8].copy_from_slice(&option),
            _ => message.file[..8].copy_from_slice(&option),
        }
        reported(&Vec::from(message.reply(PEER_IP)))
    };
    let with = "Ack from 10.0.0.2 yiaddr 10.0.0.1 for 9";
    let without = "Ack from 10.0.0.2 yiaddr 10.0.0.1";
    for (place, at, expected) in [
        (1, 1, with),
        (2, 0, with),
        (3, 0, with),
        (3, 1, with),
        (1, 0, without),
        (2, 1, without),
        (0, 1, "ipv4 10.0.0.2"),
        (4, 1, "ipv4 10.0.0.2"),
    ] {
        assert_eq!(overload(place, at), expected, "overload {place}, field {at}");
    }
}

#[test]
fn headers_with_false_lengths_teach_nothing() {
    let honest = || ip(GUEST_IP, PEER_IP);
    for (net, expected) in [
        (honest(), "ipv4 10.0.0.1"),
        (honest().claim(6, 5), "nothing"),
        (honest().claim(4, 4), "nothing"),
        (honest().claim(4, 15), "nothing"),
        (honest().total_length(19), "nothing"),
        (honest().total_length(1500), "nothing"),
        (honest().options(&[7; 40]), "ipv4 10.0.0.1"),
    ] {
        assert_eq!(reported(&Vec::from(net.clone().carry(17, &[0; 16]))), expected, "{net:?}");
    }
}

#[test]
fn a_tag_is_seen_and_looked_behind_twice() {
    let frame = || arp_request(GUEST_IP, PEER_IP).frame();
    for (frame, expected) in [
        (frame().vlan(5), "arp 10.0.0.1 at 52:54:00:00:00:01, tagged"),
        (frame().vlan(0).tag(ethertype::QINQ, 7), "arp 10.0.0.1 at 52:54:00:00:00:01, tagged"),
        (frame().vlan(0).vlan(0).vlan(0), "nothing"),
        (frame().snap([0, 0, 0]), "nothing"),
    ] {
        assert_eq!(reported(&Vec::from(frame.clone())), expected, "{frame:?}");
    }
}

#[test]
fn ipv6_teaches_its_source_and_what_neighbours_claim() {
    let claim = |source, kind| neighbour(ip6(source, "ff02::1"), kind, 0, "fe80::9", &[]);
    for (frame, expected) in [
        (udp(ip6("fe80::1", "fe80::2"), 1, 2), "ipv6 fe80::1"),
        (claim("::", 135), "neighbour fe80::9"),
        (claim("fe80::1", 135), "ipv6 fe80::1"),
        (claim("fe80::1", 136), "neighbour fe80::9"),
        (neighbour(ip6("::", "ff02::1").hops(64), 135, 0, "fe80::9", &[]), "ipv6 ::"),
        (neighbour(ip6("::", "ff02::1").hop_by_hop(&[1, 4, 0, 0, 0, 0]), 135, 0, "fe80::9", &[]), "ipv6 ::"),
        (claim("::", 135).length(14 + 40 + 20), "nothing"),
        (udp(ip6("fe80::1", "fe80::2").payload_length(9000), 1, 2), "nothing"),
    ] {
        assert_eq!(reported(&Vec::from(frame.clone())), expected, "{frame:?}");
    }
}

/// A reply with one address, from a server or as a client would send it.
fn dhcp6(kind: u8) -> Vec<u8> {
    let mut address = vec![0, 5, 0, 24];
    address.extend("2001:db8::1".parse::<std::net::Ipv6Addr>().unwrap().octets());
    address.extend([0, 0, 0, 60, 0, 0, 0, 90]);
    let mut body = vec![kind, 1, 2, 3, 0, 1, 0, 2, 7, 7, 0, 3, 0, 12 + 28];
    body.extend([0; 12]);
    body.extend(address);
    body
}

#[test]
fn dhcpv6_teaches_the_address_it_is_about() {
    let between =
        |from, to, body: &[u8]| reported(&Vec::from(udp_with(ip6("fe80::2", "fe80::1"), from, to, body)));
    let reply = dhcp6(7);
    for (from, to, body, expected) in [
        (547, 546, &reply[..], "dhcp6 Reply 2001:db8::1 for 90"),
        (546, 547, &dhcp6(8), "dhcp6 Release 2001:db8::1 for 90"),
        (546, 547, &dhcp6(9), "dhcp6 Decline 2001:db8::1 for 90"),
        (546, 547, &reply, "ipv6 fe80::2"),
        (547, 546, &dhcp6(2), "ipv6 fe80::2"),
        (547, 546, &reply[..reply.len() - 1], "ipv6 fe80::2"),
        (547, 546, &[], "ipv6 fe80::2"),
    ] {
        assert_eq!(between(from, to, body), expected, "{from} {to} {body:?}");
    }
}

fn some_bytes() -> impl Strategy<Value = Vec<u8>> {
    let seeds: Vec<Vec<u8>> = corpus()
        .into_iter()
        .map(|case| case.frame)
        .filter(|frame| frame.len() < 2000)
        .chain([udp_with(ip6("fe80::2", "fe80::1"), 547, 546, &dhcp6(7)).into()])
        .collect();
    let flips = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6);
    let cut = prop_oneof![3 => Just(None), 1 => any::<prop::sample::Index>().prop_map(Some)];
    let spoiled = (prop::sample::select(seeds), flips, cut).prop_map(|(mut frame, flips, cut)| {
        for (at, byte) in flips {
            let at = at.index(frame.len());
            frame[at] = byte;
        }
        frame.truncate(cut.map_or(frame.len(), |cut| cut.index(frame.len())));
        frame
    });
    prop_oneof![4 => spoiled, 1 => prop::collection::vec(any::<u8>(), 0..400)]
}

fn stands_in(frame: &[u8], address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => frame.windows(4).any(|four| four == address.octets()),
        IpAddr::V6(address) => frame.windows(16).any(|sixteen| sixteen == address.octets()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(5_000))]

    #[test]
    fn no_sighting_names_an_address_outside_the_frame(bytes in some_bytes()) {
        if let Some(frame) = read(&bytes) {
            for address in frame.sighting.addresses() {
                prop_assert!(stands_in(&bytes, address), "{address} is not in {bytes:02x?}");
            }
        }
    }
}

#[test]
fn a_frame_keeps_its_own_addresses() {
    let frame = read(&Vec::from(arp_request(GUEST_IP, PEER_IP).frame())).unwrap();
    assert_eq!((frame.source.0, frame.destination.0), (GUEST_MAC, frames::BROADCAST));
}
