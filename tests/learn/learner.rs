//! What learners believe: every frame about ARP and DHCP of the corpus, and stories of several.

use crate::bpf::{GUEST, Packet, run};
use crate::lab::Way;
use crate::lab::corpus::{Case, corpus};
use crate::lab::frames::{Dhcp, *};
use expect_test::{Expect, expect};
use nwfilter::document::vars::Vars;
use nwfilter::guest::bpf::{self, WireEnd};
use nwfilter::guest::frame::read;
use nwfilter::guest::learning::{
    InvalidControlVariable, LearnOutcome, Learner, LearningMode, Wanted, filters, is_usable,
};
use nwfilter::guest::lease::GuestLeases;
use std::net::Ipv4Addr;
use std::time::Duration;

const START: Duration = Duration::from_secs(1_000_000);

fn wanted(pairs: &[(&str, &str)]) -> Result<Wanted, InvalidControlVariable> {
    let mut vars = Vars::default();
    pairs.iter().for_each(|(name, value)| vars.push(*name, *value));
    Wanted::of(&vars)
}

/// A learner behind its socket filter.
struct Ear(Learner);

impl Ear {
    fn new(pairs: &[(&str, &str)]) -> Ear {
        Ear(Learner::new(GUEST, wanted(pairs).expect("the variables are right"), GuestLeases::default()))
    }

    fn hear(&mut self, way: Way, frame: impl Into<Vec<u8>>, seconds: u64) -> LearnOutcome {
        let bytes: Vec<u8> = frame.into();
        let packet = Packet { bytes: &bytes, outgoing: way == Way::ToGuest, tag_taken_out: false };
        let kept = match self.0.wanted().mode {
            LearningMode::Dhcp => run(&bpf::dhcp(GUEST, WireEnd::Host), packet),
            _ => run(&bpf::any(GUEST, WireEnd::Host), packet),
        };
        let frame = read(&bytes).filter(|_| kept > 0);
        frame.map_or(LearnOutcome::Nothing, |frame| self.0.hear(&frame, START + Duration::from_secs(seconds)))
    }

    fn server_says(&mut self, message: &Dhcp, seconds: u64) -> LearnOutcome {
        self.hear(Way::ToGuest, message.reply(PEER_IP).inbound(), seconds)
    }

    fn guest_says(&mut self, message: &Dhcp, seconds: u64) -> LearnOutcome {
        self.hear(Way::FromGuest, message.unicast(GUEST_IP, PEER_IP), seconds)
    }

    /// Each address, how it was learned and for how many seconds more it lasts.
    fn known(&self) -> String {
        let one = |(address, learned): (Ipv4Addr, &nwfilter::guest::lease::Learned)| {
            let ends = learned.ends.map_or("".into(), |ends| format!(" until {}", (ends - START).as_secs()));
            format!("{address} by {}{ends}", learned.how.word())
        };
        self.0.table().iter().map(one).collect::<Vec<_>>().join(", ")
    }
}

fn ack(address: &str, seconds: u32) -> Dhcp {
    dhcp(5).your_ip(address).lease(seconds, PEER_IP)
}

fn offer(address: &str) -> Dhcp {
    dhcp(2).your_ip(address).lease(60, PEER_IP)
}

fn granted(address: &str) -> LearnOutcome {
    LearnOutcome::Granted(address.parse().expect("an address"))
}

/// What a fresh learner makes of each frame of a section alone.
fn check_section(section: char, variables: &[(&str, &str)], expected: Expect) {
    let line = |case: Case| {
        let mut ear = Ear::new(variables);
        ear.hear(case.way, case.frame, 0);
        (!ear.known().is_empty()).then(|| format!("{} {}: {}\n", case.id, case.what, ear.known()))
    };
    let cases = corpus().into_iter().filter(|case| case.id.starts_with(section));
    expected.assert_eq(&cases.filter_map(line).collect::<String>());
}

#[test]
fn of_arp_the_guests_own_sender_addresses_are_learned() {
    check_section(
        'B',
        &[],
        expect![[r#"
        B00a an honest request: 10.0.0.1 by arp
        B00b an honest reply: 10.0.0.1 by arp
        B00c an honest request, padded: 10.0.0.1 by arp
        B02a announcement of its own address: 10.0.0.1 by arp
        B02b gratuitous reply, own address: 10.0.0.1 by arp
        B03a gratuitous request, foreign address: 10.0.0.9 by arp
        B03b gratuitous reply, foreign address: 10.0.0.9 by arp
        B05a reply with a foreign address: 10.0.0.9 by arp
        B05b reply with the peer's own address: 10.0.0.2 by arp
        B05c request from a foreign address: 10.0.0.9 by arp
        B06d sender address with its last bit turned: 10.0.0.0 by arp
        B12 honest request for the gateway: 10.0.0.1 by arp
        B10a an honest request and 400 bytes more: 10.0.0.1 by arp
        B10b a spoofed request and an honest one behind it: 10.0.0.9 by arp
    "#]],
    );
    check_section('B', &[("CTRL_IP_LEARNING", "dhcp")], expect![[r#""#]]);
}

#[test]
fn dhcp_frames_teach_by_source_offer_and_ack() {
    check_section(
        'E',
        &[],
        expect![[r#"
        E14a renewal: 10.0.0.1 by ipv4
        E14b renewal from a foreign address: 10.0.0.9 by ipv4
        E14d release of its own address: 10.0.0.1 by ipv4
        E14e release of a foreign address from its own: 10.0.0.1 by ipv4
        E14f release of a foreign address from there: 10.0.0.9 by ipv4
        E14h inform: 10.0.0.1 by ipv4
        E01a offer as a server, own source: 10.0.0.1 by ipv4
        E01b offer as the server, its source: 10.0.0.2 by ipv4
        E18a ack to itself, own source: 10.0.0.1 by ipv4
        E18b ack to itself, the server's source: 10.0.0.2 by ipv4
        E00d offer: 10.0.0.1 by offer
        E00e ack: 10.0.0.1 by ack
        E00f ack to the guest alone: 10.0.0.1 by ack
        E02 ack from another server: 10.0.0.1 by ack
        E04 ack of another transaction: 10.0.0.1 by ack
        E09b lease without end: 10.0.0.1 by ack
        E13 ack through a relay: 10.0.0.1 by ack
        E05a type in the file field, by overload: 10.0.0.1 by ack
        E05b overload of both fields, empty: 10.0.0.1 by ack
        E07d a thousand pad options: 10.0.0.1 by ack
        E17 ack with rapid commit: 10.0.0.1 by ack
    "#]],
    );
}

#[test]
fn of_dhcp_what_a_server_confirms_with_a_time_is_leased() {
    check_section(
        'E',
        &[("CTRL_IP_LEARNING", "dhcp")],
        expect![[r#"
        E00e ack: 10.0.0.1 by lease until 3600
        E00f ack to the guest alone: 10.0.0.1 by lease until 3600
        E02 ack from another server: 10.0.0.1 by lease until 3600
        E04 ack of another transaction: 10.0.0.1 by lease until 3600
        E09b lease without end: 10.0.0.1 by lease
        E13 ack through a relay: 10.0.0.1 by lease until 3600
        E05b overload of both fields, empty: 10.0.0.1 by lease until 3600
        E07d a thousand pad options: 10.0.0.1 by lease until 3600
        E17 ack with rapid commit: 10.0.0.1 by lease until 3600
    "#]],
    );
}

// P-25
#[test]
fn servers_that_were_not_named_are_not_believed() {
    let elsewhere = [("CTRL_IP_LEARNING", "dhcp"), ("DHCPSERVER", "10.0.0.200")];
    check_section('E', &elsewhere, expect![[r#""#]]);
    check_section(
        'E',
        &elsewhere[1..],
        expect![[r#"
        E14a renewal: 10.0.0.1 by ipv4
        E14b renewal from a foreign address: 10.0.0.9 by ipv4
        E14d release of its own address: 10.0.0.1 by ipv4
        E14e release of a foreign address from its own: 10.0.0.1 by ipv4
        E14f release of a foreign address from there: 10.0.0.9 by ipv4
        E14h inform: 10.0.0.1 by ipv4
        E01a offer as a server, own source: 10.0.0.1 by ipv4
        E01b offer as the server, its source: 10.0.0.2 by ipv4
        E18a ack to itself, own source: 10.0.0.1 by ipv4
        E18b ack to itself, the server's source: 10.0.0.2 by ipv4
    "#]],
    );
}

// P-27
#[test]
fn addresses_that_no_guest_can_have_are_not_usable() {
    for (address, usable) in [
        ("0.0.0.0", false),
        ("0.1.2.3", false),
        ("1.0.0.0", true),
        ("127.0.0.1", false),
        ("128.0.0.1", true),
        ("169.254.3.4", true),
        ("223.255.255.254", true),
        ("224.0.0.1", false),
        ("239.255.255.255", false),
        ("240.0.0.1", false),
        ("255.255.255.255", false),
    ] {
        assert_eq!(is_usable(address.parse().unwrap()), usable, "{address}");
    }
}

// P-26
#[test]
fn the_first_address_counts_and_no_more_than_the_limit() {
    for (limit, expected) in [
        (None, "10.0.0.1 by arp"),
        (Some("1"), "10.0.0.1 by arp"),
        (Some("2"), "10.0.0.1 by arp, 10.0.0.7 by ipv4"),
        (Some("3"), "10.0.0.1 by arp, 10.0.0.7 by ipv4, 10.0.0.8 by ack"),
        (Some("64"), "10.0.0.1 by arp, 10.0.0.7 by ipv4, 10.0.0.8 by ack"),
    ] {
        let variables: Vec<(&str, &str)> =
            limit.map(|limit| ("CTRL_IP_LEARNING_LIMIT", limit)).into_iter().collect();
        let mut ear = Ear::new(&variables);
        assert_eq!(ear.0.waiting_filter(), Some(filters::ANY));
        ear.hear(Way::FromGuest, arp_request("0.0.0.0", GUEST_IP).frame(), 0);
        assert_eq!(ear.hear(Way::FromGuest, arp_request(GUEST_IP, PEER_IP).frame(), 1), granted(GUEST_IP));
        assert_eq!(ear.0.waiting_filter(), None);
        assert_eq!(
            ear.hear(Way::FromGuest, arp_request(GUEST_IP, PEER_IP).frame(), 2),
            LearnOutcome::Nothing
        );
        ear.hear(Way::FromGuest, udp(ip("10.0.0.7", PEER_IP), 1, 2), 3);
        ear.server_says(&ack("10.0.0.8", 60), 4);
        assert_eq!(ear.known(), expected, "{limit:?}");
        assert_eq!(ear.0.is_listening(), limit == Some("64"));
    }
}

#[test]
fn an_offer_gives_way_to_another_servers_confirmation() {
    let mut ear = Ear::new(&[]);
    assert_eq!(ear.server_says(&offer("10.0.0.5"), 0), granted("10.0.0.5"));
    assert!(ear.0.is_listening());
    assert_eq!(ear.server_says(&offer("10.0.0.6"), 1), LearnOutcome::Nothing);
    let heard = ear.server_says(&ack("10.0.0.6", 60), 2);
    assert_eq!(heard, LearnOutcome::Replaced("10.0.0.5".parse().unwrap(), "10.0.0.6".parse().unwrap()));
    assert_eq!(ear.server_says(&ack("10.0.0.5", 60), 3), LearnOutcome::Nothing);
    assert_eq!(ear.known(), "10.0.0.6 by ack");
    assert!(!ear.0.is_listening());
}

#[test]
fn a_confirmation_without_an_offer_is_enough() {
    let mut ear = Ear::new(&[]);
    ear.server_says(&ack(GUEST_IP, 60), 0);
    assert_eq!(ear.known(), "10.0.0.1 by ack");
}

fn snooper() -> Ear {
    Ear::new(&[("CTRL_IP_LEARNING", "DHCP")])
}

// P-25
#[test]
fn a_lease_runs_is_renewed_longer_or_shorter_and_ends() {
    let mut ear = snooper();
    assert_eq!(ear.0.waiting_filter(), Some(filters::DHCP));
    assert_eq!(ear.server_says(&offer(GUEST_IP), 0), LearnOutcome::Nothing);
    assert_eq!(ear.server_says(&ack(GUEST_IP, 60), 0), granted(GUEST_IP));
    assert_eq!(ear.0.waiting_filter(), None);
    ear.server_says(&ack(GUEST_IP, 60), 30);
    assert_eq!(ear.known(), "10.0.0.1 by lease until 90");
    ear.server_says(&ack(GUEST_IP, 5), 31);
    assert_eq!(ear.known(), "10.0.0.1 by lease until 36");
    assert_eq!(ear.0.deadline(), Some(START + Duration::from_secs(36)));
    assert!(ear.0.expire(START + Duration::from_secs(35)).is_empty());
    assert_eq!(ear.0.expire(START + Duration::from_secs(36)), [GUEST_IP.parse::<Ipv4Addr>().unwrap()]);
    assert_eq!(ear.0.waiting_filter(), Some(filters::DHCP));
}

#[test]
fn several_leases_are_one_guests_and_end_each_for_itself() {
    let mut ear = snooper();
    ear.server_says(&ack("10.0.0.1", 60), 0);
    ear.server_says(&ack("10.0.0.3", u32::MAX), 0);
    ear.server_says(&ack("10.0.0.4", 10), 0);
    assert_eq!(ear.known(), "10.0.0.1 by lease until 60, 10.0.0.3 by lease, 10.0.0.4 by lease until 10");
    ear.0.expire(START + Duration::from_secs(1_000_000_000));
    assert_eq!(ear.known(), "10.0.0.3 by lease");
    assert_eq!(ear.0.deadline(), None);
}

#[test]
fn a_guest_gives_up_its_own_leases_and_no_others() {
    let release = |address| dhcp(7).client_ip(address);
    let decline = |octet| dhcp(4).option(50, &[10, 0, 0, octet]);
    for (message, left) in [
        (release(GUEST_IP), ""),
        (release(FOREIGN_IP), GUEST_IP),
        (release("0.0.0.0"), GUEST_IP),
        (release(GUEST_IP).client_mac(FOREIGN_MAC), GUEST_IP),
        (decline(1), ""),
        (decline(9), GUEST_IP),
        (dhcp(4), GUEST_IP),
        (dhcp(8).client_ip(GUEST_IP), GUEST_IP),
        (dhcp(3).client_ip(GUEST_IP), GUEST_IP),
    ] {
        let mut ear = snooper();
        ear.server_says(&ack(GUEST_IP, u32::MAX), 0);
        ear.guest_says(&message, 1);
        let known = if left.is_empty() { String::new() } else { format!("{left} by lease") };
        assert_eq!(ear.known(), known, "{message:?}");
    }
}

#[test]
fn a_release_from_another_sender_ends_nothing() {
    let mut ear = snooper();
    ear.server_says(&ack(GUEST_IP, u32::MAX), 0);
    let release = dhcp(7).client_ip(GUEST_IP);
    ear.hear(Way::FromGuest, release.unicast(GUEST_IP, PEER_IP).from(FOREIGN_MAC), 1);
    ear.hear(Way::ToGuest, release.unicast(GUEST_IP, PEER_IP), 1);
    assert_eq!(ear.known(), "10.0.0.1 by lease");
}

#[test]
fn an_answer_for_settings_and_a_refusal_change_no_lease() {
    for message in
        [dhcp(5).option(54, &[10, 0, 0, 2]), dhcp(5).your_ip("10.0.0.3"), dhcp(6), offer("10.0.0.3")]
    {
        let mut ear = snooper();
        ear.server_says(&ack(GUEST_IP, 60), 0);
        assert_eq!(ear.server_says(&message, 1), LearnOutcome::Nothing, "{message:?}");
        assert_eq!(ear.known(), "10.0.0.1 by lease until 60");
    }
}

/// What is left of two leases after a question of the guest about the first and a refusal.
fn after_refusal(params: &[(&str, &str)], asked: &Dhcp, way: Way, refusal: Frame) -> String {
    let params = [&[("CTRL_IP_LEARNING", "dhcp")][..], params].concat();
    let mut ear = Ear::new(&params);
    for address in [GUEST_IP, "10.0.0.3"] {
        ear.server_says(&ack(address, u32::MAX), 0);
    }
    ear.guest_says(asked, 1);
    ear.hear(way, refusal, 2);
    ear.known()
}

const BOTH: &str = "10.0.0.1 by lease, 10.0.0.3 by lease";
const OTHER: &str = "10.0.0.3 by lease";

fn asks(transaction: u32) -> Dhcp {
    Dhcp { transaction, ..dhcp(3) }.option(50, &[10, 0, 0, 1])
}

fn nak(transaction: u32) -> Dhcp {
    Dhcp { transaction, ..dhcp(6) }.option(54, &[10, 0, 0, 2])
}

#[test]
fn a_nak_ends_only_the_lease_of_the_guests_last_request() {
    let renews = Dhcp { transaction: 7, ..dhcp(3) }.client_ip(GUEST_IP);
    let to_all = nak(7).reply(PEER_IP).inbound().to([0xff; 6]);
    let to_guest = nak(7).reply(PEER_IP).inbound().to(GUEST_MAC);
    let (to, out) = (Way::ToGuest, Way::FromGuest);
    for (what, asked, way, refusal, left) in [
        ("named by its option", asks(7), to, to_all.clone(), OTHER),
        ("named by use", renews, to, to_guest.clone(), OTHER),
        ("of the server that was asked", asks(7).option(54, &[10, 0, 0, 2]), to, to_all.clone(), OTHER),
        ("of another server than was asked", asks(7).option(54, &[10, 0, 0, 4]), to, to_all.clone(), BOTH),
        ("of another transaction", asks(8), to, to_all.clone(), BOTH),
        ("about another client", asks(7), to, nak(7).client_mac(FOREIGN_MAC).reply(PEER_IP).inbound(), BOTH),
        ("to another", asks(7), to, to_guest.to(FOREIGN_MAC), BOTH),
        ("by the guest itself", asks(7), out, nak(7).reply(PEER_IP), BOTH),
        ("in the guest's own MAC", asks(7), to, nak(7).reply(PEER_IP), BOTH),
        ("asked about another client", asks(7).client_mac(FOREIGN_MAC), to, to_all.clone(), BOTH),
        ("asked of no address", Dhcp { transaction: 7, ..dhcp(3) }, to, to_all.clone(), BOTH),
        ("no question", Dhcp { transaction: 7, ..dhcp(8) }.client_ip(GUEST_IP), to, to_all, BOTH),
    ] {
        assert_eq!(after_refusal(&[], &asked, way, refusal), left, "{what}");
    }
}

#[test]
fn a_refusal_counts_only_from_servers_that_are_believed() {
    let named = |server| [("DHCPSERVER", server)];
    let from = |source, message: Dhcp| message.reply(source).inbound();
    let elsewhere = Dhcp { transaction: 7, ..dhcp(6) }.option(54, &[10, 0, 0, 4]);
    for (refusal, left) in [
        (from(PEER_IP, nak(7)), OTHER),
        (from(FOREIGN_IP, nak(7)), BOTH),
        (from(PEER_IP, elsewhere.clone()), BOTH),
        (from(FOREIGN_IP, elsewhere), BOTH),
    ] {
        assert_eq!(
            after_refusal(&named(PEER_IP), &asks(7), Way::ToGuest, refusal.clone()),
            left,
            "{refusal:?}"
        );
    }
}

#[test]
fn a_nak_to_an_answered_or_superseded_request_is_ignored() {
    for seconds in [60, u32::MAX] {
        let mut ear = snooper();
        ear.server_says(&ack(GUEST_IP, seconds), 0);
        let before = ear.known();
        ear.guest_says(&asks(7), 0);
        ear.server_says(&Dhcp { transaction: 7, ..ack(GUEST_IP, seconds) }, 0);
        assert_eq!(ear.server_says(&nak(7), 2), LearnOutcome::Nothing);
        ear.guest_says(&asks(7), 3);
        ear.guest_says(&Dhcp { transaction: 8, ..dhcp(3) }.option(50, &[10, 0, 0, 5]), 4);
        assert_eq!(ear.server_says(&nak(7), 5), LearnOutcome::Nothing);
        assert_eq!(ear.server_says(&nak(8), 6), LearnOutcome::Nothing);
        assert_eq!(ear.known(), before);
    }
}

#[test]
fn a_lease_of_no_time_ends_it() {
    let mut ear = snooper();
    assert_eq!(ear.server_says(&ack(GUEST_IP, 0), 0), LearnOutcome::Nothing);
    ear.server_says(&ack(GUEST_IP, 60), 0);
    ear.server_says(&ack(GUEST_IP, 0), 1);
    assert_eq!(ear.known(), "");
}

// P-31
#[test]
fn a_server_that_gives_without_measure_fills_no_memory() {
    let mut ear = snooper();
    for number in 0..1000u32 {
        let address = Ipv4Addr::from(0x0a00_0100 + number).to_string();
        ear.server_says(&ack(&address, 60), 0);
    }
    assert_eq!(ear.0.table().len(), nwfilter::guest::learning::MOST);
}

#[test]
fn an_oversized_reply_is_read() {
    let mut ear = snooper();
    ear.server_says(&ack(GUEST_IP, 60).raw_option(&[0; 8000]), 0);
    assert_eq!(ear.known(), "10.0.0.1 by lease until 60");
}

#[test]
fn control_variables_say_what_is_wanted_or_are_refused() {
    let mode = |text| wanted(&[("CTRL_IP_LEARNING", text)]).map(|wanted| wanted.mode);
    for (text, expected) in
        [("any", LearningMode::Any), ("Dhcp", LearningMode::Dhcp), ("NONE", LearningMode::None)]
    {
        assert_eq!(mode(text), Ok(expected));
    }
    assert_eq!(wanted(&[]).map(|wanted| (wanted.mode, wanted.limit)), Ok((LearningMode::Any, 1)));
    assert_eq!(mode("some").unwrap_err().to_string(), "CTRL_IP_LEARNING cannot be 'some'");
    for text in ["0", "65", "-1", "many"] {
        assert!(wanted(&[("CTRL_IP_LEARNING_LIMIT", text)]).is_err(), "{text}");
    }
    assert!(wanted(&[("DHCPSERVER", "10.0.0.x")]).is_err());
}
