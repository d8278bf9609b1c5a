//! The filters in force while an address is not known: what passes of the corpus, without a kernel.

#[path = "../simulated/mod.rs"]
mod simulated;

use crate::lab::Way;
use crate::lab::corpus::{corpus, every_ethertype};
use crate::lab::frames::*;
use expect_test::{Expect, expect};
use nwfilter::frame::{self, Sighting};
use nwfilter::learning::filters;
use nwfilter::resolve::{Mode, resolve};
use simulated::{ABLE, Guest, vars};

fn guest(name: &str, mode: Mode) -> Guest {
    let vars = vars(&[("MAC", "52:54:00:00:00:01"), ("DHCPSERVER", PEER_IP)]);
    let resolved = resolve(&filters::get, name, &vars, mode).expect("a learning filter resolves");
    Guest::resolved(&resolved, &vars, &ABLE)
}

fn way(way: Way) -> &'static str {
    match way {
        Way::FromGuest => "out",
        Way::ToGuest => "in",
    }
}

/// The cases of all sections that pass, slots and constants alike.
fn check_passing(name: &str, expected: Expect) {
    let [slots, folded] = [Mode::Slots, Mode::Fold].map(|mode| guest(name, mode));
    let passing = |case: &&crate::lab::corpus::Case| {
        let verdicts = [&slots, &folded].map(|guest| guest.passes(way(case.way), &case.frame));
        assert_eq!(verdicts[0], verdicts[1], "{}", case.id);
        verdicts[0]
    };
    let all = corpus();
    let lines: String =
        all.iter().filter(passing).map(|case| format!("{} {}\n", case.id, case.what)).collect();
    expected.assert_eq(&lines);
}

#[test]
fn arp_in_its_own_name_and_dhcp_pass_while_anything_teaches() {
    check_passing(
        filters::ANY,
        expect![[r#"
        B00a an honest request
        B00b an honest reply
        B00c an honest request, padded
        B01a probe for its own address
        B01b probe for a foreign address
        B02a announcement of its own address
        B02b gratuitous reply, own address
        B03a gratuitous request, foreign address
        B03b gratuitous reply, foreign address
        B05a reply with a foreign address
        B05b reply with the peer's own address
        B05c request from a foreign address
        B06a sender address broadcast
        B06b sender address of a group
        B06c sender address 127.0.0.1
        B06d sender address with its last bit turned
        B12 honest request for the gateway
        B09b 17 bytes: cut inside the sender's address
        B09c 27 bytes: cut inside the target's address, own sender
        B09d 27 bytes, foreign sender
        B10a an honest request and 400 bytes more
        B10b a spoofed request and an honest one behind it
        B11a request to the guest
        B11b reply to the guest
        B11c forged reply to the guest
        B11d forged reply, target MAC foreign
        B11e somebody claims the guest's address
        B11f ARP cut to its header
        C02a UDP 68 to 67 from 0.0.0.0
        E00a discover
        E00b request
        E03a discover about a foreign MAC
        E03b request about a broadcast MAC
        E14a renewal
        E14b renewal from a foreign address
        E14c decline
        E14d release of its own address
        E14e release of a foreign address from its own
        E14f release of a foreign address from there
        E14g release from 0.0.0.0
        E14h inform
        E00d offer
        E00e ack
        E00f ack to the guest alone
        E02 ack from somebody else
        E03c ack about a foreign MAC
        E04 ack of another transaction
        E09a lease of no time
        E09b lease without end
        E10a lease of 0.0.0.0
        E10b lease of the broadcast address
        E10c lease of a group
        E10d lease of the server's own address
        E10e lease of 127.0.0.1
        E11a first fragment of an ack
        E13 ack through a relay
        E14i nak
        E05a type in the file field, by overload
        E05b overload of both fields, empty
        E05c overload without meaning
        E06a type in two halves
        E06b no type
        E06c two types
        E06d type of two bytes
        E07a option beyond the message
        E07b option without a length
        E07d a thousand pad options
        E08 no cookie, as BOOTP
        E16a hardware address of no bytes
        E16b hardware address of 16 bytes
        E16c hardware address of 255 bytes
        E17 ack with rapid commit
    "#]],
    );
}

#[test]
fn dhcp_alone_passes_while_a_lease_is_awaited() {
    check_passing(
        filters::DHCP,
        expect![[r#"
        C02a UDP 68 to 67 from 0.0.0.0
        E00a discover
        E00b request
        E03a discover about a foreign MAC
        E03b request about a broadcast MAC
        E14a renewal
        E14b renewal from a foreign address
        E14c decline
        E14d release of its own address
        E14e release of a foreign address from its own
        E14f release of a foreign address from there
        E14g release from 0.0.0.0
        E14h inform
        E00d offer
        E00e ack
        E00f ack to the guest alone
        E02 ack from somebody else
        E03c ack about a foreign MAC
        E04 ack of another transaction
        E09a lease of no time
        E09b lease without end
        E10a lease of 0.0.0.0
        E10b lease of the broadcast address
        E10c lease of a group
        E10d lease of the server's own address
        E10e lease of 127.0.0.1
        E11a first fragment of an ack
        E13 ack through a relay
        E14i nak
        E05a type in the file field, by overload
        E05b overload of both fields, empty
        E05c overload without meaning
        E06a type in two halves
        E06b no type
        E06c two types
        E06d type of two bytes
        E07a option beyond the message
        E07b option without a length
        E07d a thousand pad options
        E08 no cookie, as BOOTP
        E16a hardware address of no bytes
        E16b hardware address of 16 bytes
        E16c hardware address of 255 bytes
        E17 ack with rapid commit
    "#]],
    );
}

#[test]
fn only_the_servers_that_were_named_answer() {
    check_passing(
        filters::DHCP_FROM_SERVERS,
        expect![[r#"
        C02a UDP 68 to 67 from 0.0.0.0
        E00a discover
        E00b request
        E03a discover about a foreign MAC
        E03b request about a broadcast MAC
        E14a renewal
        E14b renewal from a foreign address
        E14c decline
        E14d release of its own address
        E14e release of a foreign address from its own
        E14f release of a foreign address from there
        E14g release from 0.0.0.0
        E14h inform
        E00d offer
        E00e ack
        E00f ack to the guest alone
        E03c ack about a foreign MAC
        E04 ack of another transaction
        E09a lease of no time
        E09b lease without end
        E10a lease of 0.0.0.0
        E10b lease of the broadcast address
        E10c lease of a group
        E10d lease of the server's own address
        E10e lease of 127.0.0.1
        E11a first fragment of an ack
        E13 ack through a relay
        E14i nak
        E05a type in the file field, by overload
        E05b overload of both fields, empty
        E05c overload without meaning
        E06a type in two halves
        E06b no type
        E06c two types
        E06d type of two bytes
        E07a option beyond the message
        E07b option without a length
        E07d a thousand pad options
        E08 no cookie, as BOOTP
        E16a hardware address of no bytes
        E16b hardware address of 16 bytes
        E16c hardware address of 255 bytes
        E17 ack with rapid commit
    "#]],
    );
}

#[test]
fn no_other_ethertype_passes() {
    for name in [filters::ANY, filters::DHCP, filters::DHCP_FROM_SERVERS] {
        let guest = guest(name, Mode::Slots);
        let passing: Vec<u16> = every_ethertype()
            .filter(|(_, frame)| guest.passes("out", frame) || guest.passes("in", frame))
            .map(|(kind, _)| kind)
            .collect();
        assert_eq!(passing, [0u16; 0], "{name}");
    }
}

#[test]
fn what_a_waiting_filter_lets_out_names_the_guest() {
    let guest = guest(filters::ANY, Mode::Slots);
    for case in corpus().iter().filter(|case| guest.passes("out", &case.frame)) {
        let frame = frame::read(&case.frame).map(|frame| (frame.source.0, frame.sighting));
        match frame {
            Some((source, Sighting::Arp { mac, .. })) => assert_eq!([source, mac.0], [GUEST_MAC; 2]),
            Some((source, _)) => assert_eq!(source, GUEST_MAC, "{}", case.id),
            None => assert_eq!(case.frame[6..12], GUEST_MAC, "{}", case.id),
        }
    }
}
