//! Limits: of connections by rule, of conntrack itself.

use crate::host::{Host, Segment, alone, everywhere};
use crate::lab::Verdict;
use crate::lab::frames::*;
use std::fs;
use std::net::Ipv4Addr;
use std::sync::mpsc::channel;
use std::time::Instant;

#[test]
fn connections_are_limited_by_source_and_guest() {
    everywhere(|mut host, kind| {
        let segment = Segment::of(kind);
        let other = segment.add("vmother");
        let rules = "<rule action='drop' direction='out' priority='100'><tcp connlimit-above='2'/></rule>
            <rule action='drop' direction='out' priority='100'><tcp-ipv6 connlimit-above='2'/></rule>
            <rule action='accept' direction='out'><tcp/></rule>
            <rule action='accept' direction='out'><tcp-ipv6/></rule>";
        host.bind(&segment, &segment.guest, rules);
        host.bind(&segment, &other, rules);
        let opens = |from: &str, port| tcp_at(ip(from, PEER_IP), [port, 80], SYN, [100, 0]);
        let opens6 = |from: &str, port| tcp_at(ip6(from, "2001:db8::2"), [port, 80], SYN, [100, 0]);
        segment.lets_out("the first", opens(GUEST_IP, 1001));
        segment.lets_out("the second", opens(GUEST_IP, 1002));
        segment.lets_out("the first goes on", opens(GUEST_IP, 1001));
        segment.lets_out("the second goes on", opens(GUEST_IP, 1002));
        // The third counts until the kernel sees that there is no such connection: until then the source is over its
        // limit, and rules of connlimit are about every packet.
        segment.stops_out("the third", opens(GUEST_IP, 1003));
        segment.lets_out("another source", opens(FOREIGN_IP, 1001));
        segment.lets_out("the first over IPv6", opens6("2001:db8::1", 1001));
        segment.lets_out("the second over IPv6", opens6("2001:db8::1", 1002));
        segment.stops_out("the third over IPv6", opens6("2001:db8::1", 1003));
        let from_other = |port| segment.verdict(&other, &segment.peer, &Vec::from(opens(GUEST_IP, port)));
        // It floods to the first guest as well, whose rules are not asked for an answer here.
        assert_eq!(from_other(2001), Verdict::Accept, "another guest with the same source");
        assert_eq!(from_other(2002), Verdict::Accept, "has a count of its own");
        assert_eq!(from_other(2003), Verdict::Drop, "with the same limit");
    });
}

#[test]
fn a_negated_limit_is_a_limit_from_above() {
    everywhere(|mut host, kind| {
        let segment = Segment::of(kind);
        host.bind(
            &segment,
            &segment.guest,
            "<rule action='accept' direction='out'><tcp match='no' connlimit-above='1'/></rule>",
        );
        let opens = |port| tcp_at(ip(GUEST_IP, PEER_IP), [port, 80], SYN, [100, 0]);
        segment.lets_out("up to one", opens(1001));
        segment.stops_out("the second", opens(1002));
    });
}

/// The limit of conntrack, put back at the end.
struct Limit(String);

const LIMIT_FILE: &str = "/proc/sys/net/netfilter/nf_conntrack_max";

impl Limit {
    fn set(connections: u32) -> Option<Limit> {
        let before = fs::read_to_string(LIMIT_FILE).ok()?;
        fs::write(LIMIT_FILE, connections.to_string()).ok()?;
        Some(Limit(before))
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        fs::write(LIMIT_FILE, self.0.trim()).expect("what was there before is right");
    }
}

/// Runs with a limit of conntrack that the work can set: in the first namespace only, so before the test steps into its own.
fn with_limit(work: impl FnOnce(Host, &dyn Fn(u32)) + Send) {
    let (send, receive) = channel::<u32>();
    let (done, wait) = channel();
    let setter = std::thread::spawn(move || {
        let mut before = None;
        for connections in receive {
            before = before.or(Limit::set(connections));
            done.send(()).unwrap();
        }
    });
    alone(move |host| {
        work(host, &|connections| {
            send.send(connections).unwrap();
            wait.recv().unwrap();
        })
    });
    setter.join().unwrap();
}

#[test]
fn a_full_connection_table_passes_known_connections_alone() {
    with_limit(|mut host, limit| {
        let segment = Segment::new("0");
        host.bind(&segment, &segment.guest, "<rule action='accept' direction='out'><udp/></rule>");
        limit(4);
        let question = |port| udp(ip(GUEST_IP, PEER_IP), port, 53);
        let answer = |port| udp(ip(PEER_IP, GUEST_IP), 53, port).inbound();
        let opened: Vec<u16> =
            (1000..1200).filter(|port| segment.out(question(*port)) == Verdict::Accept).collect();
        assert!(opened.contains(&1000), "there is room for some");
        let answered: Vec<u16> =
            (1000..1200).filter(|port| segment.inward(answer(*port)) == Verdict::Accept).collect();
        assert!(
            answered.iter().all(|port| opened.contains(port)),
            "{answered:?} were answered, {opened:?} asked"
        );
        assert!(answered.len() < 20, "the table was full, yet {} were answered", answered.len());
        segment.stops_in("an unsolicited answer", answer(5000));
        println!(
            "measured: with room for 4 connections {} of 200 opened, {} kept",
            opened.len(),
            answered.len()
        );
    });
}

/// As many sources as a guest's filter lets it invent: more than the set of them holds.
// P-33
#[test]
#[ignore = "slow: sends tens of thousands of frames"]
fn a_source_that_finds_no_room_to_be_counted_is_over_its_limit() {
    const ROOM: u32 = 65_535;
    with_limit(|mut host, limit| {
        let segment = Segment::new("0");
        host.bind(
            &segment,
            &segment.guest,
            "<rule action='drop' direction='out' priority='100'><tcp connlimit-above='2'/></rule>
             <rule action='accept' direction='out'><tcp/></rule>",
        );
        limit(4 * ROOM);
        let opens = |source: u32, port| {
            let source = Ipv4Addr::from(0x0b00_0000 + source).to_string();
            Vec::from(tcp_at(ip(&source, PEER_IP), [port, 80], SYN, [100, 0]))
        };
        let began = Instant::now();
        let passes = |source| {
            segment.guest.send(&opens(source, 1001)).unwrap();
            segment.peer.drain().len() == 1
        };
        // A kernel may hold one or two more than it says.
        let last = (0..ROOM + 500).find(|source| !passes(*source)).expect("one finds no room");
        assert!(last >= ROOM, "source {last} is below its limit");
        println!("measured: {last} sources counted in {:.1?}", began.elapsed());
        segment.stops_out("it again", opens(last, 1002));
        segment.lets_out("one that is counted goes on", opens(7, 1001));
        segment.lets_out("and opens its second", opens(7, 1002));
        segment.stops_out("but no third", opens(7, 1003));
    });
}
