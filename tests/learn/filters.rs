//! The filters in force while an address is not known: what passes of the corpus, without a kernel.

#[path = "../simulated/mod.rs"]
mod simulated;

use crate::lab::Way;
use crate::lab::corpus::{Case, corpus, every_ethertype};
use crate::lab::frames::*;
use expect_test::expect;
use nwfilter::guest::frame::{self, Sighting};
use nwfilter::guest::learning::filters;
use nwfilter::program::resolve::{Mode, resolve};
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

#[test]
fn a_waiting_guest_sends_own_arp_and_dhcp_or_dhcp_alone() {
    let names = [filters::ANY, filters::DHCP, filters::DHCP_FROM_SERVERS];
    let guests = names.map(|name| (name, [Mode::Slots, Mode::Fold].map(|mode| guest(name, mode))));
    let line = |case: Case| {
        let passes = |guests: &[Guest; 2]| {
            let [slots, folded] = guests.each_ref().map(|guest| guest.passes(way(case.way), &case.frame));
            assert_eq!(slots, folded, "{}", case.id);
            slots
        };
        let passing = guests.iter().filter(|(_, guests)| passes(guests));
        let passing: Vec<&str> = passing.map(|(name, _)| name.trim_start_matches("learning/")).collect();
        (!passing.is_empty()).then(|| format!("{} {}: {}\n", case.id, case.what, passing.join(", ")))
    };
    let lines: String = corpus().into_iter().filter_map(line).collect();
    expect![[r#"
        B00a an honest request: any
        B00b an honest reply: any
        B00c an honest request, padded: any
        B01a probe for its own address: any
        B01b probe for a foreign address: any
        B02a announcement of its own address: any
        B02b gratuitous reply, own address: any
        B03a gratuitous request, foreign address: any
        B03b gratuitous reply, foreign address: any
        B05a reply with a foreign address: any
        B05b reply with the peer's own address: any
        B05c request from a foreign address: any
        B06a sender address broadcast: any
        B06b sender address of a group: any
        B06c sender address 127.0.0.1: any
        B06d sender address with its last bit turned: any
        B12 honest request for the gateway: any
        B09b 17 bytes: cut inside the sender's address: any
        B09c 27 bytes: cut inside the target's address, own sender: any
        B09d 27 bytes, foreign sender: any
        B10a an honest request and 400 bytes more: any
        B10b a spoofed request and an honest one behind it: any
        B11a request to the guest: any
        B11b reply to the guest: any
        B11c forged reply to the guest: any
        B11d forged reply, target MAC foreign: any
        B11e a station claims the guest's address: any
        B11f ARP cut to its header: any
        C02a UDP 68 to 67 from 0.0.0.0: any, dhcp, dhcp-servers
        E00a discover: any, dhcp, dhcp-servers
        E00b request: any, dhcp, dhcp-servers
        E03a discover about a foreign MAC: any, dhcp, dhcp-servers
        E03b request about a broadcast MAC: any, dhcp, dhcp-servers
        E14a renewal: any, dhcp, dhcp-servers
        E14b renewal from a foreign address: any, dhcp, dhcp-servers
        E14c decline: any, dhcp, dhcp-servers
        E14d release of its own address: any, dhcp, dhcp-servers
        E14e release of a foreign address from its own: any, dhcp, dhcp-servers
        E14f release of a foreign address from there: any, dhcp, dhcp-servers
        E14g release from 0.0.0.0: any, dhcp, dhcp-servers
        E14h inform: any, dhcp, dhcp-servers
        E00d offer: any, dhcp, dhcp-servers
        E00e ack: any, dhcp, dhcp-servers
        E00f ack to the guest alone: any, dhcp, dhcp-servers
        E02 ack from another server: any, dhcp
        E03c ack about a foreign MAC: any, dhcp, dhcp-servers
        E04 ack of another transaction: any, dhcp, dhcp-servers
        E09a lease of no time: any, dhcp, dhcp-servers
        E09b lease without end: any, dhcp, dhcp-servers
        E10a lease of 0.0.0.0: any, dhcp, dhcp-servers
        E10b lease of the broadcast address: any, dhcp, dhcp-servers
        E10c lease of a group: any, dhcp, dhcp-servers
        E10d lease of the server's own address: any, dhcp, dhcp-servers
        E10e lease of 127.0.0.1: any, dhcp, dhcp-servers
        E11a first fragment of an ack: any, dhcp, dhcp-servers
        E13 ack through a relay: any, dhcp, dhcp-servers
        E14i nak: any, dhcp, dhcp-servers
        E05a type in the file field, by overload: any, dhcp, dhcp-servers
        E05b overload of both fields, empty: any, dhcp, dhcp-servers
        E05c overload without meaning: any, dhcp, dhcp-servers
        E06a type in two halves: any, dhcp, dhcp-servers
        E06b no type: any, dhcp, dhcp-servers
        E06c two types: any, dhcp, dhcp-servers
        E06d type of two bytes: any, dhcp, dhcp-servers
        E07a option beyond the message: any, dhcp, dhcp-servers
        E07b option without a length: any, dhcp, dhcp-servers
        E07d a thousand pad options: any, dhcp, dhcp-servers
        E08 no cookie, as BOOTP: any, dhcp, dhcp-servers
        E16a hardware address of no bytes: any, dhcp, dhcp-servers
        E16b hardware address of 16 bytes: any, dhcp, dhcp-servers
        E16c hardware address of 255 bytes: any, dhcp, dhcp-servers
        E17 ack with rapid commit: any, dhcp, dhcp-servers
    "#]]
    .assert_eq(&lines);
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
