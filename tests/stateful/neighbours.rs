//! Several guests and bridges: whose connections are whose, and who has none.

use crate::host::{Segment, connections, everywhere, in_both_styles};
use crate::lab::frames::*;
use crate::lab::{Verdict, verdict};
use crate::tool::eventually;

const ASKS: &str = "<rule action='accept' direction='out'><udp/></rule>";

fn question(port: u16) -> Frame {
    udp(ip(GUEST_IP, PEER_IP), port, 53)
}

fn answer(port: u16) -> Frame {
    udp(ip(PEER_IP, GUEST_IP), 53, port).inbound()
}

// P-32
#[test]
fn bridges_with_the_same_addresses_share_no_connection() {
    in_both_styles(|mut host| {
        let [left, right] = ["left", "right"].map(Segment::new);
        host.bind(&left, &left.guest, ASKS);
        host.bind(&right, &right.guest, ASKS);
        left.lets_out("a question", question(1000));
        right.stops_in("its answer on the other bridge", answer(1000));
        right.lets_out("the same question there", question(1000));
        left.lets_in("an answer", answer(1000));
        right.lets_in("an answer", answer(1000));
        right.lets_out("a question on the other bridge", question(1001));
        left.stops_in("its answer here", answer(1001));
    });
}

#[test]
fn guests_without_state_are_not_tracked() {
    in_both_styles(|mut host| {
        let [stateful, stateless] = ["state", "plain"].map(Segment::new);
        let rules = "<rule action='accept' direction='inout'><udp/></rule>";
        host.bind(&stateless, &stateless.guest, rules);
        stateless.lets_out("a datagram", question(1));
        assert_eq!(connections(), 0, "no guest needs conntrack");
        host.bind(&stateful, &stateful.guest, ASKS);
        for port in 1..20 {
            stateless.lets_out("a datagram", question(port));
            stateless.lets_in("a datagram", answer(port));
        }
        assert_eq!(connections(), 0, "only another bridge needs conntrack");
        stateful.lets_out("a question", question(1));
        assert_eq!(connections(), 1, "one connection");
        host.bind(&stateful, &stateful.guest, rules);
        // The kernel takes its hooks away some time after the last rule that needed them.
        let tracks = |port| {
            let before = connections();
            stateful.lets_out("a datagram", question(port));
            connections() > before
        };
        let mut ports = 100..=u16::MAX;
        let mut next = || ports.next().expect("each try has a port of its own");
        eventually("no guest needs conntrack any more", || !tracks(next()));
    });
}

#[test]
fn a_neighbour_cannot_forge_into_a_connection() {
    in_both_styles(|mut host| {
        let segment = Segment::new("0");
        let other = segment.add("vmother");
        host.bind(&segment, &segment.guest, ASKS);
        let document = "<filter name='other' chain='root'>
            <rule action='accept' direction='out'><udp srcipaddr='$IP'/></rule>
            <rule action='accept' direction='in'><udp dstipaddr='$IP'/></rule>
            <rule action='drop' direction='inout' priority='900'><all/></rule></filter>";
        host.bind_document(&segment, other.link, document, &[("IP", FOREIGN_IP)]);
        segment.lets_out("a question", question(1000));
        let from_other = |frame: Frame| verdict(&other, &segment.peer, &Vec::from(frame));
        assert_eq!(from_other(question(1000)), Verdict::Drop, "the same packet from the neighbour");
        assert_eq!(from_other(question(1000).from(FOREIGN_MAC)), Verdict::Drop, "with its own MAC address");
        assert_eq!(from_other(udp(ip(FOREIGN_IP, PEER_IP), 1000, 53)), Verdict::Accept, "its own connection");
        let to_other = |frame: Frame| verdict(&segment.peer, &other, &Vec::from(frame));
        assert_eq!(
            to_other(answer(1000)),
            Verdict::Drop,
            "the first guest's answer is not for the neighbour"
        );
    });
}

#[test]
fn guests_of_one_bridge_talk_when_both_agree() {
    in_both_styles(|mut host| {
        let segment = Segment::new("0");
        let server = segment.add("server");
        host.bind(&segment, &segment.guest, ASKS);
        host.bind(&segment, &server, "<rule action='accept' direction='in'><udp dstportstart='53'/></rule>");
        let ask = |frame: Frame| verdict(&segment.guest, &server, &Vec::from(frame));
        let reply = |frame: Frame| verdict(&server, &segment.guest, &Vec::from(frame));
        assert_eq!(reply(answer(1000)), Verdict::Drop, "an answer before the question");
        assert_eq!(ask(udp(ip(GUEST_IP, PEER_IP), 1000, 54)), Verdict::Drop, "a port the server has closed");
        assert_eq!(ask(question(1000)), Verdict::Accept);
        assert_eq!(reply(answer(1000)), Verdict::Accept);
        assert_eq!(reply(answer(1001)), Verdict::Drop, "an unsolicited answer");
    });
}

#[test]
fn rules_are_replaced_under_an_open_connection() {
    everywhere(|mut host, kind| {
        let segment = Segment::of(kind);
        host.bind(&segment, &segment.guest, ASKS);
        segment.lets_out("a question", question(1000));
        host.bind(
            &segment,
            &segment.guest,
            &format!("{ASKS}<rule action='accept' direction='in'><tcp dstportstart='22'/></rule>"),
        );
        segment.lets_in("an answer, by the new rules", answer(1000));
        host.bind(&segment, &segment.guest, "<rule action='accept' direction='out'><tcp/></rule>");
        segment.stops_in("an answer that no rule is about any more", answer(1000));
    });
}
