//! Filters made at random: every frame gets a verdict, slots and constants give the same one, and the
//! same filter gives the same program.

mod simulated;

use nwfilter::document::filter::schema::{Layer, Protocol};
use nwfilter::document::filter::{self, state};
use nwfilter::document::vars::Vars;
use nwfilter::program::compile::Part;
use nwfilter::program::eval::{Connection, End};
use nwfilter::program::ir::{Action, CtDirection, Rule};
use nwfilter::program::resolve::{self, Condition, Mode, Predicate, Resolved, RootItem};
use nwfilter::program::{IN, OUT, Program};
use proptest::prelude::*;
use proptest::sample::select;
use simulated::*;

/// Statements that aim at the frames below; `NEG` is `match='no'` or nothing.
const BODIES: &[&str] = &[
    "",
    "<mac srcmacaddr='$MAC' NEG/>",
    "<mac dstmacaddr='$MAC' dstmacmask='ff:ff:ff:0:0:0' NEG/>",
    "<mac protocolid='ipv4' NEG/>",
    "<mac protocolid='arp'/><mac match='no' srcmacaddr='$PEERS'/>",
    "<vlan vlanid='5' NEG/>",
    "<arp arpsrcipaddr='$IP' NEG/>",
    "<arp arpsrcmacaddr='$MAC' arpdstipaddr='$IP[@1]' opcode='1'/>",
    "<arp gratuitous='true' NEG/>",
    "<ip srcipaddr='$IP' NEG/>",
    "<ip srcipaddr='$IP' dstipaddr='$TO'/>",
    "<ip srcipaddr='$IP[@1]' dstipaddr='$TO[@2]' dstipmask='31' protocol='udp' dstportstart='$PORT'/>",
    "<ip protocol='udp' NEG/>",
    "<ip protocol='udp'/><ip dstportstart='2' dstportend='$PORT[@3]' NEG/>",
    "<ipv6 protocol='udp' dstportstart='$PORT'/>",
    "<udp srcipaddr='$IP' dstportstart='$PORT' state='NONE'/>",
    "<udp srcipaddr='$IP[@1]' dstportstart='$PORT[@2]'/>",
    "<udp match='no' dstportstart='$PORT'/>",
    "<tcp flags='SYN/SYN' NEG/>",
    "<all srcmacaddr='$MAC' srcipaddr='$IP'/>",
    "<all srcipfrom='1.1.1.1' srcipto='$IP' NEG/>",
    "<all state='ESTABLISHED' NEG/>",
    "<icmp type='$ICMP' code='0' NEG/>",
    "<all-ipv6/>",
];

const CHAINS: &[&str] = &["root", "mac", "vlan", "arp", "arp-x", "ipv4", "ipv4-ip", "ipv6", "stp"];

fn a_rule() -> impl Strategy<Value = String> {
    let action = select(&["accept", "drop", "reject", "return", "continue"][..]);
    let direction = select(&["in", "out", "inout"][..]);
    let negated = select(&["", "match='no'"][..]);
    (action, direction, negated, -2..3i32, select(BODIES)).prop_map(
        |(action, direction, negated, priority, body)| {
            let body = body.replace("NEG", negated);
            format!("<rule action='{action}' direction='{direction}' priority='{priority}'>{body}</rule>")
        },
    )
}

/// A root filter that refers to others, each in its chain.
fn some_filters() -> impl Strategy<Value = Vec<String>> {
    let filter = (select(CHAINS), -3..3i32, prop::collection::vec(a_rule(), 0..5));
    prop::collection::vec(filter, 1..5).prop_map(|filters| {
        let references = |name: usize| match name {
            0 => (1..filters.len()).map(|other| format!("<filterref filter='f{other}'/>")).collect(),
            _ => String::new(),
        };
        let text = |(name, (chain, priority, rules)): (usize, &(&str, i32, Vec<String>))| {
            let (first, rest) = rules.split_at(rules.len() / 2);
            let place =
                if name == 0 { String::new() } else { format!("chain='{chain}' priority='{priority}'") };
            let (first, references, rest) = (first.concat(), references(name), rest.concat());
            format!("<filter name='f{name}' {place}>{first}{references}{rest}</filter>")
        };
        filters.iter().enumerate().map(text).collect()
    })
}

fn some_vars() -> impl Strategy<Value = Vars> {
    let addresses = ["1.1.1.1", "1.1.1.2", "2.2.2.2"];
    let lists = (
        prop::collection::vec(select(&["52:54:0:11:22:33", "2:0:0:0:0:1"][..]), 2),
        prop::collection::vec(select(addresses.to_vec()), 2),
        prop::collection::vec(select(addresses.to_vec()), 2),
        prop::collection::vec(select(&["2", "3", "0x4"][..]), 2),
    );
    lists.prop_map(|(macs, ips, targets, ports)| {
        let mut vars = vars(&[("ICMP", "8"), ("ICMP", "0")]);
        macs.iter().for_each(|mac| vars.push("MAC", *mac));
        macs.iter().for_each(|mac| vars.push("PEERS", *mac));
        ips.iter().for_each(|ip| vars.push("IP", *ip));
        targets.iter().for_each(|ip| vars.push("TO", *ip));
        ports.iter().for_each(|port| vars.push("PORT", *port));
        vars
    })
}

/// Frames that some of the statements are about, whole, cut short, tagged or fragmented.
fn frames() -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    let addresses = [[1, 1, 1, 1], [1, 1, 1, 2], [2, 2, 2, 2]];
    for (source, destination) in [(MAC, PEER), (PEER, MAC), ([2, 0, 0, 0, 0, 9], [0xff; 6])] {
        for from in addresses {
            for to in addresses {
                let mut packets = vec![
                    ipv4(from, to, 17, &udp(2, 3)),
                    ipv4(from, to, 17, &udp(4, 2)),
                    ipv4(from, to, 6, &tcp(3, 2, 2)),
                    ipv4(from, to, 1, &[8, 0, 0, 0, 0, 0, 0, 0]),
                    fragment(from, to, 17, 1, &udp(2, 2)),
                    ipv4(from, to, 17, &[]),
                ];
                packets.push(packets[0][..16].to_vec());
                frames.extend(packets.iter().map(|packet| ether(destination, source, 0x0800, packet)));
                let question = arp(1, (source, from), ([0; 6], to));
                frames.push(ether([0xff; 6], source, 0x0806, &question));
                frames.push(ether([0xff; 6], source, 0x0806, &question[..10]));
            }
        }
        frames.push(ether(destination, source, 0x86dd, &ipv6([1; 16], [2; 16], 17, &udp(2, 3))));
        frames.push(ether([1, 0x80, 0xc2, 0, 0, 0], source, 38, &[0x42, 0x42, 3, 0, 0, 0, 0, 0]));
        let to_bridges = ipv4(addresses[0], addresses[1], 17, &udp(2, 3));
        frames.push(ether([1, 0x80, 0xc2, 0, 0, 0], source, 0x0800, &to_bridges));
        frames.push(ether(destination, source, 0x88cc, &[]));
    }
    let tags: Vec<Vec<u8>> = frames.iter().step_by(3).map(|frame| tagged(frame, 5)).collect();
    frames.extend(tags);
    frames
}

const CONNECTIONS: [Option<Connection>; 3] = [
    None,
    Some(Connection { state: state::NEW, direction: CtDirection::Original }),
    Some(Connection { state: state::ESTABLISHED, direction: CtDirection::Reply }),
];

/// The rules of a resolved filter judged one after the other as they are written, each compiled on its own: what any
/// layout must come to.
struct Literally<'a> {
    resolved: &'a Resolved,
    matchers: Vec<Judge<'a>>,
}

impl<'a> Literally<'a> {
    fn new(resolved: &'a Resolved, guests: &'a [Guest]) -> Literally<'a> {
        Literally { resolved, matchers: guests.iter().map(Guest::judge).collect() }
    }

    /// A guest for each rule, bound to it alone.
    fn guests(resolved: &Resolved) -> Vec<Guest> {
        resolved.rules().map(|rule| Guest::resolved(&alone(rule), &Vars::default(), &ABLE)).collect()
    }

    /// Whether the rule, which is one of the resolved filter's own, matches the frame.
    fn matches(
        &self,
        rule: &resolve::ResolvedRule,
        way: &str,
        frame: &[u8],
        connection: Option<Connection>,
    ) -> bool {
        let at =
            self.resolved.rules().position(|other| std::ptr::eq(rule, other)).expect("it is one of them");
        let wanted = if is_accepted_by_state(rule) { End::Accept } else { End::Drop };
        self.matchers[at].end(way, frame, connection) == Some(wanted)
    }

    fn end(&self, way: &str, frame: &[u8], connection: Option<Connection>) -> End {
        let first = |rules: &'a [resolve::ResolvedRule]| {
            let taking = rules.iter().filter(|rule| rule.action != filter::RuleAction::Continue);
            taking.into_iter().find(|rule| self.matches(rule, way, frame, connection)).map(|rule| rule.action)
        };
        for step in &self.resolved.root {
            let (action, in_chain) = match step {
                RootItem::Rule(rule) => (first(std::slice::from_ref(rule)), false),
                RootItem::Chain(name) if enters(name, frame) => (first(&self.resolved.chains[name]), true),
                RootItem::Chain(_) => (None, true),
            };
            match action {
                None | Some(filter::RuleAction::Continue) => {}
                Some(filter::RuleAction::Return) if in_chain => {}
                Some(filter::RuleAction::Accept | filter::RuleAction::Return) => break,
                Some(filter::RuleAction::Drop | filter::RuleAction::Reject) => return End::Drop,
            }
        }
        match first(&self.resolved.ip) {
            Some(filter::RuleAction::Drop | filter::RuleAction::Reject) => End::Drop,
            _ => End::Accept,
        }
    }
}

fn enters(chain: &str, frame: &[u8]) -> bool {
    let types = [("arp", [8, 6]), ("ipv4", [8, 0]), ("ipv6", [0x86, 0xdd]), ("vlan", [0x81, 0])];
    let of_type = types.iter().find(|(prefix, _)| chain.starts_with(prefix));
    match of_type {
        Some((_, ether_type)) => frame[12..14] == *ether_type,
        None => !chain.starts_with("stp") || frame[..6] == [1, 0x80, 0xc2, 0, 0, 0],
    }
}

/// An accepting rule of the IP layer can ask for states of its own, so that it must stay one.
fn is_accepted_by_state(rule: &resolve::ResolvedRule) -> bool {
    let ip = rule.protocol.is_some_and(|protocol| protocol.layer != Layer::Ethernet);
    ip && rule.action == filter::RuleAction::Accept
}

/// A filter of one rule that drops what it matches; or accepts it and drops the rest.
fn alone(rule: &resolve::ResolvedRule) -> Resolved {
    let ethernet = rule.protocol.is_none_or(|protocol| protocol.layer == Layer::Ethernet);
    let dropping = |rule: &resolve::ResolvedRule| resolve::ResolvedRule {
        action: filter::RuleAction::Drop,
        ..rule.clone()
    };
    let rest = resolve::ResolvedRule {
        protocol: None,
        conditions: Vec::new(),
        direction: filter::RuleDirection::InOut,
        ..dropping(rule)
    };
    let closing = ["all", "all-ipv6"]
        .map(|name| resolve::ResolvedRule { protocol: Protocol::named(name), ..rest.clone() });
    let mut resolved = Resolved {
        filter: "f".into(),
        root: Vec::new(),
        chains: Default::default(),
        ip: Vec::new(),
        reads: Default::default(),
        folded: Default::default(),
    };
    if ethernet {
        resolved.root.push(RootItem::Rule(dropping(rule)));
    } else if is_accepted_by_state(rule) {
        // Frames that are no packets of either family must not look as if the rule accepted them.
        let others =
            ["ip", "ipv6"].map(|name| Protocol::named(name).and_then(|protocol| protocol.ether_type));
        resolved.ip.push(rule.clone());
        resolved.ip.extend(closing);
        let tests = others.into_iter().flatten().map(|ether_type| Predicate::Equals {
            field: nwfilter::document::field::Field::EtherType,
            mask: None,
            value: ether_type.to_be_bytes().into(),
        });
        let conditions = vec![Condition::NoneOf(tests.collect())];
        resolved.root.push(RootItem::Rule(resolve::ResolvedRule {
            protocol: Protocol::named("mac"),
            conditions,
            ..rest
        }));
    } else {
        resolved.ip.push(dropping(rule));
    }
    resolved
}

/// Whether the chain ends every walk that enters it.
fn is_closed(program: &Program, chain: &str) -> bool {
    let last = program.chains.get(chain).and_then(|rules| rules.last());
    last.is_some_and(|Rule { matches, action, .. }| match action {
        Action::Accept | Action::Drop | Action::Reject(_) => matches.is_empty(),
        Action::Goto(next) => matches.is_empty() && is_closed(program, next),
        _ => false,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn slots_and_constants_give_every_frame_the_same_verdict(texts in some_filters(), vars in some_vars()) {
        let shelf = Shelf::new(&texts);
        let slots = Guest::new(&shelf, "f0", &vars, Mode::Slots, &ABLE);
        let fold = Guest::new(&shelf, "f0", &vars, Mode::Fold, &ABLE);
        prop_assert!(fold.program.slots.is_empty());
        for guest in [&slots, &fold] {
            prop_assert!(is_closed(&guest.program, OUT) && is_closed(&guest.program, IN));
        }
        let (slots, fold) = (slots.judge(), fold.judge());
        for frame in frames() {
            for way in [OUT, IN] {
                for connection in CONNECTIONS {
                    let end = slots.end(way, &frame, connection);
                    prop_assert!(end.is_some());
                    prop_assert_eq!(end, fold.end(way, &frame, connection), "{} {:02x?}", way, frame);
                }
            }
        }
    }

    #[test]
    fn chains_come_to_what_the_rules_say_one_after_the_other(texts in some_filters(), vars in some_vars()) {
        let shelf = Shelf::new(&texts);
        let resolved = shelf.resolve("f0", &vars, Mode::Fold).unwrap();
        let guests = Literally::guests(&resolved);
        let literally = Literally::new(&resolved, &guests);
        let guest = Guest::resolved(&resolved, &vars, &ABLE);
        let guest = guest.judge();
        for frame in frames() {
            for way in [OUT, IN] {
                for connection in CONNECTIONS {
                    // The hook decides which side hears of a rejection.
                    let passes = guest.end(way, &frame, connection) == Some(End::Accept);
                    let expected = literally.end(way, &frame, connection) == End::Accept;
                    prop_assert_eq!(passes, expected, "{} {:02x?}", way, frame);
                }
            }
        }
    }

    #[test]
    fn ethernet_and_ip_parts_together_pass_what_the_whole_does(
        texts in some_filters(),
        vars in some_vars(),
    ) {
        let shelf = Shelf::new(&texts);
        for mode in [Mode::Slots, Mode::Fold] {
            let resolved = shelf.resolve("f0", &vars, mode).unwrap();
            let part = |part| Guest::part(&resolved, &vars, &ABLE, part);
            let (whole, link) = (part(Part::Whole).unwrap(), part(Part::Link).unwrap());
            let ip = match part(Part::Ip) {
                Ok(ip) => ip,
                Err(faults) => {
                    prop_assert!(texts.concat().contains("<all srcmacaddr") && !faults.is_empty());
                    return Ok(());
                }
            };
            prop_assert!(!link.program.stateful && link.program.filter == whole.program.filter);
            prop_assert!(ip.program.stateful || !whole.program.stateful);
            prop_assert!(is_closed(&ip.program, OUT) && is_closed(&ip.program, IN));
            let [whole, link, ip] = [&whole, &link, &ip].map(Guest::judge);
            for frame in frames().iter().step_by(3) {
                let is_packet = matches!(frame[12..14], [0x08, 0x00] | [0x86, 0xdd]);
                for way in [OUT, IN] {
                    for connection in CONNECTIONS {
                        let passes = |judge: &Judge<'_>| judge.end(way, frame, connection) == Some(End::Accept);
                        let both = passes(&link) && (!is_packet || passes(&ip));
                        prop_assert_eq!(passes(&whole), both, "{} {:02x?}", way, frame);
                    }
                }
            }
        }
    }

    #[test]
    fn the_same_filter_gives_the_same_program(texts in some_filters(), vars in some_vars()) {
        let program = |texts: &[String]| Guest::new(&Shelf::new(texts), "f0", &vars, Mode::Slots, &ABLE).program;
        let mut shuffled = texts.clone();
        shuffled.reverse();
        prop_assert_eq!(program(&texts), program(&shuffled));
    }

    #[test]
    fn counting_changes_no_verdict(texts in some_filters(), vars in some_vars()) {
        let shelf = Shelf::new(&texts);
        let plain = Guest::new(&shelf, "f0", &vars, Mode::Fold, &ABLE);
        let options = nwfilter::program::compile::Options { counters: true, ..ABLE };
        let counted = Guest::new(&shelf, "f0", &vars, Mode::Fold, &options);
        let (plain, counted) = (plain.judge(), counted.judge());
        for frame in frames().iter().step_by(5) {
            for way in [OUT, IN] {
                prop_assert_eq!(plain.end(way, frame, None), counted.end(way, frame, None));
            }
        }
    }

    #[test]
    fn any_bytes_get_a_verdict(
        texts in some_filters(),
        vars in some_vars(),
        heads in prop::collection::vec(select(frames()), 8),
        tails in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..120), 8),
        cut in 0..60usize,
    ) {
        let guest = Guest::new(&Shelf::new(&texts), "f0", &vars, Mode::Fold, &ABLE);
        let judge = guest.judge();
        for (head, tail) in heads.iter().zip(&tails) {
            let glued = [&head[..cut.min(head.len())], tail].concat();
            for bytes in [&glued[..], tail, &head[..cut.min(head.len())]] {
                for way in [OUT, IN] {
                    prop_assert!(judge.end(way, bytes, None).is_some());
                }
            }
        }
    }
}
