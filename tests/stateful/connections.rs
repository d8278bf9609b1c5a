//! One guest and one peer: which packets of a connection rules pass, and which of no connection.

use crate::host::{Kind, Segment, everywhere, golden, heard};
use crate::lab::Verdict;
use crate::lab::frames::*;

const GUEST6: &str = "2001:db8::1";
const PEER6: &str = "2001:db8::2";

fn out4() -> Net {
    ip(GUEST_IP, PEER_IP).into()
}

fn back4() -> Net {
    ip(PEER_IP, GUEST_IP).into()
}

fn out6() -> Net {
    ip6(GUEST6, PEER6).into()
}

fn back6() -> Net {
    ip6(PEER6, GUEST6).into()
}

fn ping(net: Net, six: bool, reply: bool, id: u8) -> Frame {
    let rest = [0, id, 0, 1, 1, 2, 3, 4];
    match net {
        Net::V4(net) => icmp(net, if reply { 0 } else { 8 }, 0, &rest),
        Net::V6(net) => icmp6(net, if reply { 129 } else { 128 }, 0, &rest),
    }
    .kind(if six { ethertype::IPV6 } else { ethertype::IPV4 })
}

/// A connection: what opens it, what answers, and an answer that belongs to no connection.
struct Talk {
    element: &'static str,
    opens: fn(Net) -> Frame,
    answers: fn(Net) -> Frame,
    strange: fn(Net) -> Frame,
    goes_on: fn(Net) -> Frame,
}

const TALKS: &[Talk] = &[
    Talk {
        element: "tcp",
        opens: |net| tcp_at(net, [1234, 80], SYN, [100, 0]),
        answers: |net| tcp_at(net, [80, 1234], SYN | ACK, [500, 101]),
        strange: |net| tcp_at(net, [80, 1235], SYN | ACK, [500, 101]),
        goes_on: |net| tcp_at(net, [1234, 80], ACK, [101, 501]),
    },
    Talk {
        element: "udp",
        opens: |net| udp(net, 1234, 80),
        answers: |net| udp(net, 80, 1234),
        strange: |net| udp(net, 80, 1235),
        goes_on: |net| udp(net, 1234, 80),
    },
    Talk {
        element: "sctp",
        opens: |net| sctp(net, 1234, 80),
        answers: |net| sctp_chunk(net, [80, 1234], 1, 2),
        strange: |net| sctp_chunk(net, [80, 1235], 1, 2),
        goes_on: |net| sctp_chunk(net, [1234, 80], 1, 10),
    },
    Talk {
        element: "icmp",
        opens: |net| ping(net, false, false, 7),
        answers: |net| ping(net, false, true, 7),
        strange: |net| ping(net, false, true, 8),
        goes_on: |net| ping(net, false, false, 7),
    },
    Talk {
        element: "icmpv6",
        opens: |net| ping(net, true, false, 7),
        answers: |net| ping(net, true, true, 7),
        strange: |net| ping(net, true, true, 8),
        goes_on: |net| ping(net, true, false, 7),
    },
    Talk {
        element: "all",
        opens: |net| udp(net, 1234, 81),
        answers: |net| udp(net, 81, 1234),
        strange: |net| udp(net, 82, 1234),
        goes_on: |net| udp(net, 1234, 81),
    },
];

/// Every protocol over every family that has it: the element, the talk, and headers out and back.
fn talks() -> Vec<(String, &'static Talk, [Net; 2])> {
    let mut all = Vec::new();
    for talk in TALKS {
        if talk.element != "icmpv6" {
            all.push((talk.element.to_owned(), talk, [out4(), back4()]));
        }
        if !talk.element.starts_with("icmp") {
            all.push((format!("{}-ipv6", talk.element), talk, [out6(), back6()]));
        } else if talk.element == "icmpv6" {
            all.push((talk.element.to_owned(), talk, [out6(), back6()]));
        }
    }
    all
}

#[test]
fn an_opener_of_connections_gets_its_own_answers_alone() {
    everywhere(|mut host, kind| {
        let segment = Segment::of(kind);
        for (element, talk, [out, back]) in talks() {
            host.bind(
                &segment,
                &segment.guest,
                &format!("<rule action='accept' direction='out'><{element}/></rule>"),
            );
            let (out, back) = (|| out.clone(), || back.clone());
            segment.stops_in(
                &format!("{element}: an answer before the question"),
                (talk.answers)(back()).inbound(),
            );
            segment.lets_out(&format!("{element}: the first packet"), (talk.opens)(out()));
            segment.stops_in(&format!("{element}: an unsolicited answer"), (talk.strange)(back()).inbound());
            segment.lets_in(&format!("{element}: the answer"), (talk.answers)(back()).inbound());
            segment.lets_out(&format!("{element}: the next packet"), (talk.goes_on)(out()));
        }
    });
}

#[test]
fn who_may_be_called_can_answer_and_not_call() {
    everywhere(|mut host, kind| {
        let segment = Segment::of(kind);
        for (element, talk, [out, back]) in talks() {
            host.bind(
                &segment,
                &segment.guest,
                &format!("<rule action='accept' direction='in'><{element}/></rule>"),
            );
            let (out, back) = (|| out.clone(), || back.clone());
            segment.stops_out(&format!("{element}: a call"), (talk.opens)(out()));
            segment.stops_out(&format!("{element}: an answer before the question"), (talk.answers)(out()));
            segment.lets_in(&format!("{element}: the first packet"), (talk.opens)(back()).inbound());
            segment.stops_out(&format!("{element}: an unsolicited answer"), (talk.strange)(out()));
            segment.lets_out(&format!("{element}: the answer"), (talk.answers)(out()));
            segment.lets_in(&format!("{element}: the next packet"), (talk.goes_on)(back()).inbound());
        }
    });
}

#[test]
fn without_statematch_packets_are_judged_one_by_one() {
    everywhere(|mut host, kind| {
        let segment = Segment::of(kind);
        for (element, talk, [out, back]) in talks() {
            let rule =
                format!("<rule action='accept' direction='out' statematch='false'><{element}/></rule>");
            host.bind(&segment, &segment.guest, &rule);
            segment.lets_in(&element, (talk.answers)(back.clone()).inbound());
            segment.lets_in(&element, (talk.strange)(back).inbound());
            segment.lets_out(&element, (talk.goes_on)(out));
        }
    });
}

#[test]
fn states_that_a_rule_names_replace_its_own_and_its_reverse() {
    everywhere(|mut host, kind| {
        let segment = Segment::of(kind);
        let rules =
            "<rule action='accept' direction='out'><udp state='NEW,ESTABLISHED' dstportstart='53'/></rule>";
        host.bind(&segment, &segment.guest, rules);
        segment.lets_out("a question", udp(out4(), 1234, 53));
        segment.stops_in("the answer has no rule", udp(back4(), 53, 1234).inbound());

        let rules =
            "<rule action='accept' direction='out'><udp state='NEW,ESTABLISHED' dstportstart='54'/></rule>
            <rule action='accept' direction='in'><all state='ESTABLISHED'/></rule>";
        host.bind(&segment, &segment.guest, rules);
        segment.lets_out("a question", udp(out4(), 1234, 54));
        segment.lets_in("the answer has one", udp(back4(), 54, 1234).inbound());
        segment.stops_in("an unsolicited answer", udp(back4(), 54, 1236).inbound());

        let rules = "<rule action='accept' direction='inout'><udp state='ESTABLISHED'/></rule>
            <rule action='accept' direction='in'><udp state='NEW' dstportstart='55'/></rule>";
        host.bind(&segment, &segment.guest, rules);
        segment.stops_out("a new connection", udp(out4(), 1234, 55));
        segment.lets_in("a new connection to the one port", udp(back4(), 1234, 55).inbound());
        segment.lets_out("its answer", udp(out4(), 55, 1234));
        segment.stops_in("a new connection to another port", udp(back4(), 1234, 56).inbound());
    });
}

#[test]
fn what_is_related_passes_only_where_a_rule_says_so() {
    everywhere(|mut host, kind| {
        let segment = Segment::of(kind);
        let quoted = ip(GUEST_IP, PEER_IP).packet(17, &udp_bytes(1234, 80, b"nwfilter"));
        let unreachable = || icmp_error(ip(PEER_IP, GUEST_IP), 3, 3, &quoted).inbound();
        let foreign = ip(GUEST_IP, PEER_IP).packet(17, &udp_bytes(1299, 80, b"nwfilter"));
        let out = "<rule action='accept' direction='out'><udp/></rule>";
        host.bind(&segment, &segment.guest, out);
        segment.lets_out("a question", udp(out4(), 1234, 80));
        segment.stops_in("an error without a rule", unreachable());
        let related = "<rule action='accept' direction='in'><icmp state='RELATED'/></rule>";
        host.bind(&segment, &segment.guest, &format!("{out}{related}"));
        segment.lets_out("a question", udp(out4(), 1234, 80));
        segment.lets_in("an error about it", unreachable());
        segment
            .stops_in("an error about nothing", icmp_error(ip(PEER_IP, GUEST_IP), 3, 3, &foreign).inbound());
        segment.stops_in("a ping", ping(back4(), false, false, 9).inbound());
    });
}

#[test]
fn a_reverse_rule_is_for_answers_only() {
    everywhere(|mut host, kind| {
        let segment = Segment::of(kind);
        // The first rule lets one packet in; the second is for connections that the guest opens, from and to one port.
        let rules = "<rule action='accept' direction='in'><udp state='NEW' dstportstart='500'/></rule>
            <rule action='accept' direction='out'><udp srcportstart='500' dstportstart='500'/></rule>";
        host.bind(&segment, &segment.guest, rules);
        segment.lets_in("the peer's first packet", udp(back4(), 500, 500).inbound());
        segment.stops_out("an answer is not a connection of the guest's", udp(out4(), 500, 500));
    });
}

#[test]
fn pings_go_the_way_that_their_types_say() {
    everywhere(|mut host, kind| {
        let segment = Segment::of(kind);
        let [request, reply] = [false, true].map(|reply| move |net, id| ping(net, false, reply, id));
        let mut bind = |name| host.bind_document(&segment, segment.guest.link, &golden(name), &[]);

        bind("icmp-direction");
        segment.lets_out("the guest's ping", request(out4(), 1));
        segment.lets_in("its answer", reply(back4(), 1).inbound());
        segment.stops_in("a ping", request(back4(), 2).inbound());
        segment.stops_out("an answer", reply(out4(), 2));

        bind("icmp-direction2");
        segment.lets_in("a ping", request(back4(), 3).inbound());
        segment.lets_out("its answer", reply(out4(), 3));
        segment.stops_out("the guest's ping", request(out4(), 4));
        segment.stops_in("an answer", reply(back4(), 4).inbound());

        bind("icmp-direction3");
        segment.lets_out("the guest's ping", request(out4(), 5));
        segment.lets_in("its answer", reply(back4(), 5).inbound());
        segment.stops_in("a ping", request(back4(), 6).inbound());
        segment.stops_in("an unsolicited answer", reply(back4(), 7).inbound());
    });
}

#[test]
fn a_sender_hears_a_reject_if_its_rules_pass_the_answer() {
    everywhere(|mut host, kind| {
        let segment = Segment::of(kind);
        let document = "<filter name='reject' chain='root'>
            <rule action='reject' direction='inout' priority='500'><all/></rule>
            <rule action='reject' direction='inout' priority='500'><all-ipv6/></rule>
            <rule action='reject' direction='inout' priority='400'><tcp/></rule>
            <rule action='reject' direction='inout' priority='400'><tcp-ipv6/></rule>
            <rule action='accept' direction='in' priority='300' statematch='false'><tcp flags='RST/RST'/></rule>
            <rule action='accept' direction='in' priority='300' statematch='false'><tcp-ipv6 flags='RST/RST'/></rule>
            <rule action='accept' direction='in' priority='300' statematch='false'><icmp type='3'/></rule>
            <rule action='accept' direction='in' priority='300' statematch='false'><icmpv6 type='1'/></rule></filter>";
        host.bind_document(&segment, segment.guest.link, document, &[]);
        let answer = |frame: Frame| match segment.out(frame) {
            Verdict::Reject(answer) => answer,
            other => panic!("{other:?} instead of an answer"),
        };
        let refused = answer(tcp_at(out4(), [1234, 80], SYN, [100, 0]));
        assert_eq!((&refused[..6], &refused[6..12]), (&GUEST_MAC[..], &PEER_MAC[..]));
        assert_eq!((refused[14 + 9], refused[14 + 20 + 13] & RST), (6, RST), "a reset: {refused:02x?}");
        let refused = answer(tcp_at(out6(), [1234, 80], SYN, [100, 0]));
        assert_eq!((refused[14 + 6], refused[14 + 40 + 13] & RST), (6, RST), "a reset: {refused:02x?}");
        let refused = answer(udp(out4(), 1234, 80));
        assert_eq!((refused[14 + 9], &refused[34..36]), (1, &[3, 3][..]), "port unreachable: {refused:02x?}");
        let refused = answer(udp(out6(), 1234, 80));
        assert_eq!(
            (refused[14 + 6], &refused[54..56]),
            (58, &[1, 4][..]),
            "port unreachable: {refused:02x?}"
        );
        // Without those last four rules the answer is a frame to the guest like any other, and is dropped.
        segment.stops_in("no hook on the way to a port can answer", udp(back4(), 1234, 80).inbound());
        segment.stops_in("nor a connection", tcp_at(back4(), [1234, 80], SYN, [100, 0]).inbound());
    });
}

#[test]
fn fragments_belong_to_their_connection() {
    everywhere(|mut host, kind| {
        let segment = Segment::of(kind);
        host.bind(
            &segment,
            &segment.guest,
            "<rule action='accept' direction='out'><udp dstportstart='53'/></rule>",
        );
        let datagram = |port| udp_bytes(1234, port, &[7; 40]);
        let parts = |port| {
            let bytes = datagram(port);
            [
                ip(GUEST_IP, PEER_IP).fragment(0, true).carry(17, &bytes[..24]),
                ip(GUEST_IP, PEER_IP).fragment(3, false).carry(17, &bytes[24..]),
            ]
        };
        let arrivals = |frames: [Frame; 2]| {
            let [first, second] = frames.map(Vec::from);
            heard(&segment.peer);
            segment.guest.send(&first).unwrap();
            let early = heard(&segment.peer).len();
            segment.guest.send(&second).unwrap();
            (early, heard(&segment.peer))
        };
        let (early, arrived) = arrivals(parts(53));
        let bytes: usize = arrived.iter().map(|frame| frame.len() - 34).sum();
        assert_eq!((early, bytes), (0, 48), "judged as one, and all of it arrives: {arrived:02x?}");
        assert_eq!(arrivals(parts(54)), (0, vec![]), "to a port that is not allowed");
        let lone = ip(GUEST_IP, PEER_IP).fragment(3, false).carry(17, &datagram(53)[24..]);
        segment.stops_out("a later fragment of nothing", lone);
        segment.lets_in("the answer", udp(back4(), 53, 1234).inbound());
    });
}

#[test]
fn missing_checksums_do_not_make_a_datagram_invalid() {
    everywhere(|mut host, kind| {
        let segment = Segment::of(kind);
        host.bind(
            &segment,
            &segment.guest,
            "<rule action='accept' direction='out'><udp dstportstart='53'/></rule>",
        );
        let bare = |net: Ip4, from, to| net.carry(17, &udp_bytes(from, to, b"nwfilter"));
        segment.lets_out("no checksum", bare(ip(GUEST_IP, PEER_IP), 1234, 53));
        segment.lets_in("no checksum", bare(ip(PEER_IP, GUEST_IP), 53, 1234).inbound());
        if kind == Kind::Routed {
            return; // A broadcast is not routed.
        }
        // A DHCP client has no address yet, and a checksum that is wrong or absent.
        host.bind(
            &segment,
            &segment.guest,
            "<rule action='accept' direction='out'><udp dstportstart='67'/></rule>",
        );
        segment.lets_out("a client without address", bare(ip("0.0.0.0", "255.255.255.255"), 68, 67));
    });
}

#[test]
fn tagged_frames_open_no_connection() {
    everywhere(|mut host, kind| {
        let segment = Segment::of(kind);
        let document = "<filter name='tagged' chain='root'>
            <rule action='drop' direction='inout' priority='100'><vlan/></rule>
            <rule action='accept' direction='out'><udp/></rule>
            <rule action='drop' direction='inout' priority='900'><all/></rule></filter>";
        host.bind_document(&segment, segment.guest.link, document, &[]);
        segment.stops_out("a tagged question", udp(out4(), 1234, 53).vlan(5));
        segment.stops_in("the answer to it", udp(back4(), 53, 1234).inbound());
        segment.lets_out("an untagged question", udp(out4(), 1234, 53));
        segment.stops_in("a tagged answer", udp(back4(), 53, 1234).inbound().vlan(5));
        segment.lets_in("an untagged answer", udp(back4(), 53, 1234).inbound());
    });
}
