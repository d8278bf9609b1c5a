//! What rules mean for frames: directions, layers, order, variables, refusals.

mod simulated;

use nwfilter::document::diag::{Code, Diagnostic};
use nwfilter::document::vars::Vars;
use nwfilter::program::compile::{Capabilities, Options, Part, Use, compile, compile_part, warnings};
use nwfilter::program::eval::End;
use nwfilter::program::ir::text::RuleText;
use nwfilter::program::ir::{Action, Family, Rule, Verdict};
use nwfilter::program::resolve::{self, Mode, introduces_loop, missing};
use nwfilter::program::{IN, OUT, Program};
use simulated::*;

/// The matches that keep one on a transport header off later fragments. Traffic tests show what they are for.
const NOT_LATER: [&str; 2] = ["ip frag-off & 8191 == 0 ", "@th,0,24 & 0x0 == 0x0 "];

/// The rules of a chain as text, without comments and without what keeps later fragments off.
fn text(program: &Program, chain: &str) -> Vec<String> {
    let plain = |rule: &Rule| RuleText(Family::Bridge, &Rule { origin: None, ..rule.clone() }).to_string();
    program
        .chains
        .get(chain)
        .into_iter()
        .flatten()
        .map(|rule| plain(rule).trim().replace(NOT_LATER[0], "").replace(NOT_LATER[1], ""))
        .collect()
}

fn rule(action: &str, direction: &str, inner: &str) -> String {
    format!("<rule action='{action}' direction='{direction}'>{inner}</rule>")
}

/// The rules of the IP layer that a rule makes from the guest and to it, without the last `accept`.
fn layer3(body: &str) -> [String; 2] {
    let program = Guest::of(body, &[]).program;
    ["out/ip/v4", "in/ip/v4"].map(|chain| {
        let mut rules = text(&program, chain);
        assert!(rules.pop().is_none_or(|last| last == "accept"), "{body}");
        rules.join("; ")
    })
}

#[test]
fn ip_layer_rules_stand_where_the_iptables_driver_puts_them() {
    let new = "ct state established,new ct direction original";
    let reply = "ct state established ct direction reply";
    let given = "ip saddr 1.2.3.4 meta l4proto tcp th dport 80";
    let swapped = "ip daddr 1.2.3.4 meta l4proto tcp th sport 80";
    let inner = |more: &str| format!("<tcp srcipaddr='1.2.3.4' dstportstart='80' {more}/>");
    let state = |states: &str| inner(&format!("state='{states}'"));
    for (action, direction, inner, out, into) in [
        ("accept", "out", inner(""), format!("{given} {new} accept"), format!("{swapped} {reply} accept")),
        ("accept", "in", inner(""), format!("{swapped} {reply} accept"), format!("{given} {new} accept")),
        ("accept", "inout", inner(""), format!("{swapped} accept"), format!("{given} accept")),
        ("drop", "out", inner(""), format!("{given} drop"), format!("{swapped} drop")),
        ("drop", "in", inner(""), format!("{swapped} drop"), format!("{given} drop")),
        ("drop", "inout", inner(""), format!("{swapped} drop"), format!("{given} drop")),
        ("return", "out", inner(""), format!("{given} accept"), format!("{swapped} accept")),
        ("reject", "out", inner(""), format!("{given} reject with tcp reset"), format!("{swapped} drop")),
        ("accept", "out", state("NEW"), format!("{given} ct state new accept"), String::new()),
        ("accept", "in", state("NEW"), String::new(), format!("{given} ct state new accept")),
        (
            "drop",
            "inout",
            state("INVALID"),
            format!("{swapped} ct state invalid drop"),
            format!("{given} ct state invalid drop"),
        ),
        ("accept", "out", state("NONE"), format!("{given} accept"), String::new()),
        ("drop", "inout", state("NONE"), format!("{swapped} drop"), format!("{given} drop")),
    ] {
        let rules = layer3(&rule(action, direction, &inner));
        assert_eq!(rules, [out, into], "{action} {direction} {inner}");
    }
}

#[test]
fn statematch_off_leaves_both_rules_and_takes_the_state() {
    for state in ["", "state='NEW'"] {
        let inner = format!("<udp dstportstart='53' {state}/>");
        let body = format!("<rule action='accept' direction='out' statematch='0'>{inner}</rule>");
        let expected = [
            "meta protocol ip meta l4proto udp th dport 53 accept",
            "meta protocol ip meta l4proto udp th sport 53 accept",
        ];
        assert_eq!(layer3(&body), expected, "{state}");
    }
}

#[test]
fn an_icmp_type_goes_one_way() {
    let icmp = "meta protocol ip meta l4proto icmp icmp type 8";
    let with_state = format!("{icmp} ct state established,new accept");
    for (action, direction, out, into) in [
        ("accept", "out", with_state.clone(), String::new()),
        ("accept", "in", String::new(), with_state.clone()),
        ("accept", "inout", format!("{icmp} accept"), format!("{icmp} accept")),
        ("drop", "out", format!("{icmp} drop"), String::new()),
        ("drop", "inout", format!("{icmp} drop"), format!("{icmp} drop")),
    ] {
        let rules = layer3(&rule(action, direction, "<icmp type='8'/>"));
        assert_eq!(rules, [out, into], "{action} {direction}");
    }
}

#[test]
fn a_source_mac_is_left_out_of_mirrored_rules() {
    let sender = "ether saddr 02:00:00:00:00:01";
    for (inner, out, into) in [
        ("<all srcmacaddr='2:0:0:0:0:1'/>", format!("{sender} drop"), String::new()),
        ("<tcp srcmacaddr='2:0:0:0:0:1'/>", format!("{sender} meta l4proto tcp drop"), String::new()),
        (
            "<all srcmacaddr='2:0:0:0:0:1' dscp='1'/>",
            format!("{sender} ip dscp 0x01 drop"),
            "ip dscp 0x01 drop".to_owned(),
        ),
    ] {
        assert_eq!(layer3(&rule("drop", "out", inner)), [out, into], "{inner}");
    }
}

#[test]
fn a_limit_of_connections_holds_where_the_rule_is_as_written() {
    let counted = |set: &str, index: &str| {
        format!(
            "add @{set}/connections-1 {{ {index} . ip saddr ct count over 2 }} drop; \
             {index} . ip saddr != @{set}/connections-1 drop"
        )
    };
    for (direction, out, into) in [
        ("out", counted("out", "iif"), String::new()),
        ("in", String::new(), counted("in", "oif")),
        ("inout", String::new(), counted("in", "oif")),
    ] {
        let rules = layer3(&rule("drop", direction, "<all connlimit-above='2'/>"));
        assert_eq!(rules, [out, into], "{direction}");
    }
    let guest = Guest::of(&rule("drop", "out", "<all connlimit-above='2'/>"), &[]);
    assert!(guest.program.stateful && guest.program.sets["out/connections-1"].dynamic);
}

#[test]
fn an_ethernet_inout_rule_is_reversed_for_the_other_way() {
    for (inner, out, into) in [
        ("<mac srcmacaddr='2:0:0:0:0:1'/>", "ether daddr 02:00:00:00:00:01", "ether saddr 02:00:00:00:00:01"),
        (
            "<ip srcipaddr='1.2.3.4' protocol='udp' dstportstart='5'/>",
            "ether type ip ip daddr 1.2.3.4 ip protocol udp th sport 5",
            "ether type ip ip saddr 1.2.3.4 ip protocol udp th dport 5",
        ),
        (
            "<ipv6 dstipaddr='::2' protocol='icmpv6' type='1'/>",
            "ether type ip6 ip6 saddr ::2 meta l4proto icmpv6 icmpv6 type 1",
            "ether type ip6 ip6 daddr ::2 meta l4proto icmpv6 icmpv6 type 1",
        ),
        (
            "<arp opcode='1' arpsrcmacaddr='2:0:0:0:0:1'/>",
            "ether type arp arp htype 1 arp hlen 6 arp plen 4 arp operation request \
             arp daddr ether 02:00:00:00:00:01",
            "ether type arp arp htype 1 arp hlen 6 arp plen 4 arp operation request \
             arp saddr ether 02:00:00:00:00:01",
        ),
        ("<vlan vlanid='5'/>", "ether type 8021q vlan id 5", "ether type 8021q vlan id 5"),
    ] {
        let program = Guest::of(&rule("drop", "inout", inner), &[]).program;
        assert_eq!(text(&program, OUT), [format!("{out} drop"), "accept".to_owned()], "{inner}");
        assert_eq!(text(&program, IN), [format!("{into} drop"), "accept".to_owned()], "{inner}");
        let program = Guest::of(&rule("drop", "out", inner), &[]).program;
        assert_eq!(text(&program, OUT), [format!("{into} drop"), "accept".to_owned()], "{inner}, as written");
        assert_eq!(text(&program, IN), ["accept"], "{inner}, not the other way");
    }
}

/// Which of some filters' rules is the first to take each Ethernet type, by the rule's origin.
#[test]
fn rules_and_jumps_stand_in_order_of_priority() {
    let mac = |priority: i32, ether_type: &str| {
        format!(
            "<rule action='drop' direction='out' priority='{priority}'><mac protocolid='{ether_type}'/></rule>"
        )
    };
    let root = format!(
        "<filter name='f'>{}<filterref filter='late'/><filterref filter='early'/>{}{}{}</filter>",
        mac(-500, "0x9001"),
        mac(-501, "0x9002"),
        mac(-500, "0x9003"),
        mac(900, "0x9004"),
    );
    // Priorities below the chain's keep their order within it; the jump comes before rules of its own priority.
    let late = format!("<filter name='late' chain='mac' priority='-500'>{}</filter>", mac(-900, "0x9005"));
    let early = format!(
        "<filter name='early' chain='mac' priority='-1000'>{}{}{}</filter>",
        mac(10, "0x9006"),
        mac(-1000, "0x9007"),
        mac(10, "0x9008")
    );
    let guest = Guest::new(&Shelf::new(&[root, late, early]), "f", &Vars::default(), Mode::Slots, &ABLE);
    let order: Vec<String> = text(&guest.program, OUT)
        .into_iter()
        .filter_map(|rule| Some(rule.strip_prefix("ether type 0x900")?[..1].to_owned()))
        .collect();
    assert_eq!(order.concat(), "27568134");
}

#[test]
fn root_ip_rules_come_first_whatever_their_priority() {
    let all = |priority: i32, dscp: u8| {
        format!("<rule action='drop' direction='out' priority='{priority}'><all dscp='{dscp}'/></rule>")
    };
    let root = format!(
        "<filter name='f'><filterref filter='g'/>{}{}{}</filter>",
        all(500, 1),
        all(-5, 2),
        all(500, 3)
    );
    let sub = format!(
        "<filter name='g' chain='ipv4-x' priority='-900'>{}{}</filter>",
        all(-1000, 4),
        all(-1000, 5)
    );
    let guest = Guest::new(&Shelf::new(&[root, sub]), "f", &Vars::default(), Mode::Slots, &ABLE);
    let rules = text(&guest.program, "out/ip/v4");
    let expected = ["2", "1", "3", "4", "5"].map(|dscp| format!("ip dscp 0x0{dscp} drop"));
    assert_eq!(rules[..5], expected);
    assert!(guest.program.chains.len() == 4, "no chain for a filter with IP-layer rules alone");
}

#[test]
fn the_end_of_a_chain_returns_and_accept_leaves_the_layer() {
    let shelf = Shelf::new(&[
        "<filter name='f'><filterref filter='g'/><rule action='drop' direction='out' priority='900'/></filter>",
        "<filter name='g' chain='ipv4'>\
           <rule action='accept' direction='out'><ip dstipaddr='1.1.1.1'/></rule>\
           <rule action='return' direction='out'><ip dstipaddr='2.2.2.2'/></rule>\
           <rule action='accept' direction='out'><ip dstipaddr='2.2.2.2'/></rule>\
         </filter>",
    ]);
    let guest = Guest::new(&shelf, "f", &Vars::default(), Mode::Slots, &ABLE);
    let frame = |to| ether(PEER, MAC, 0x0800, &ipv4([9; 4], to, 17, &udp(1, 2)));
    assert!(guest.passes("out", &frame([1; 4])));
    assert!(!guest.passes("out", &frame([2; 4])), "returned, then dropped by the root chain");
    assert!(!guest.passes("out", &frame([3; 4])), "fell off the end, then dropped by the root chain");
}

#[test]
fn a_chain_drops_what_its_returns_cannot_describe() {
    let sub = |chain: &str, inner: &str| {
        format!(
            "<filter name='g' chain='{chain}'><rule action='return' direction='out'>{inner}</rule>\
             <rule action='drop' direction='out'/></filter>"
        )
    };
    let root = "<filter name='f'><filterref filter='g'/></filter>".to_owned();
    let later = ether(PEER, MAC, 0x0800, &fragment([9; 4], [1; 4], 17, 3, &udp(1, 2)));
    for (chain, inner, frame) in [
        ("ipv4", "<ip protocol='udp' dstportstart='2'/>", later),
        ("ipv4", "<ip dscp='9'/>", ether(PEER, MAC, 0x0800, &[0x45])),
        ("ipv6", "<ipv6 protocol='udp'/>", ether(PEER, MAC, 0x86dd, &[0x60])),
    ] {
        let shelf = Shelf::new(&[root.clone(), sub(chain, inner)]);
        let guest = Guest::new(&shelf, "f", &Vars::default(), Mode::Slots, &ABLE);
        assert!(!guest.passes("out", &frame), "{inner}");
    }
}

#[test]
fn both_layers_must_accept() {
    let body = rule("accept", "out", "<mac protocolid='ipv4'/>")
        + &rule("accept", "out", "<udp dstportstart='53' state='NONE'/>")
        + &rule("drop", "inout", "<all/>")
        + "<rule action='drop' direction='out' priority='999'/>";
    let guest = Guest::of(&body, &[]);
    let frame = |port| ether(PEER, MAC, 0x0800, &ipv4([9; 4], [1; 4], 17, &udp(1, port)));
    assert!(guest.passes("out", &frame(53)));
    assert!(!guest.passes("out", &frame(54)), "the IP layer drops");
    assert!(!guest.passes("out", &ether(PEER, MAC, 0x86dd, &[0; 60])), "the Ethernet layer drops");
    assert!(!guest.passes("in", &frame(53)), "only from the guest");
}

#[test]
fn a_tagged_frame_is_not_what_it_carries() {
    let inner = ether(PEER, MAC, 0x0800, &ipv4([9; 4], [1; 4], 17, &udp(1, 2)));
    for body in ["<ip/>", "<udp/>", "<ip protocol='udp' dstportstart='2'/>", "<mac protocolid='ipv4'/>"] {
        let guest = Guest::of(&rule("drop", "out", body), &[]);
        assert!(!guest.passes("out", &inner), "{body}");
        assert!(guest.passes("out", &tagged(&inner, 5)), "{body}");
    }
    let guest = Guest::of(&rule("drop", "out", "<vlan vlanid='5' encap-protocol='ipv4'/>"), &[]);
    assert!(guest.passes("out", &inner) && guest.passes("out", &tagged(&inner, 6)));
    assert!(!guest.passes("out", &tagged(&inner, 5)));
}

#[test]
fn a_later_fragment_has_no_ports() {
    let whole = ipv4([9; 4], [1; 4], 17, &udp(1, 2));
    let later = fragment([9; 4], [1; 4], 17, 3, &udp(1, 2));
    for inner in [
        "<udp dstportstart='2'/>",
        "<udp match='no' dstportstart='3'/>",
        "<ip protocol='udp' dstportstart='2'/>",
    ] {
        let guest = Guest::of(&rule("drop", "out", inner), &[]);
        assert!(!guest.passes("out", &ether(PEER, MAC, 0x0800, &whole)), "{inner}");
        assert!(guest.passes("out", &ether(PEER, MAC, 0x0800, &later)), "{inner}");
    }
    let guest = Guest::of(&rule("drop", "out", "<udp/>"), &[]);
    assert!(!guest.passes("out", &ether(PEER, MAC, 0x0800, &later)), "the protocol is known");
}

#[test]
fn extension_headers_are_skipped() {
    let hop_by_hop = [&[17, 0, 1, 4, 0, 0, 0, 0][..], &udp(1, 2)].concat();
    let packet = ipv6([1; 16], [2; 16], 0, &hop_by_hop);
    for inner in ["<udp-ipv6 dstportstart='2'/>", "<ipv6 protocol='udp' dstportstart='2'/>"] {
        let guest = Guest::of(&rule("drop", "out", inner), &[]);
        assert!(!guest.passes("out", &ether(PEER, MAC, 0x86dd, &packet)), "{inner}");
    }
}

#[test]
fn negation_means_what_it_says() {
    let ends = |inner: &str, packets: &[(Vec<u8>, bool)]| {
        let guest = Guest::of(&rule("drop", "out", inner), &[("A", "1.1.1.1"), ("A", "2.2.2.2")]);
        for (packet, dropped) in packets {
            let frame = ether(PEER, MAC, 0x0800, packet);
            assert_eq!(!guest.passes("out", &frame), *dropped, "{inner} {packet:?}");
        }
    };
    let to = |address: [u8; 4]| ipv4([9; 4], address, 17, &udp(1, 2));
    let icmp = |kind: u8, code: u8| ipv4([9; 4], [1; 4], 1, &[kind, code, 0, 0, 0, 0, 0, 0]);
    ends("<all match='no' dstipaddr='$A'/>", &[(to([1; 4]), false), (to([2; 4]), false), (to([3; 4]), true)]);
    ends("<ip match='no' dstipaddr='$A'/>", &[(to([1; 4]), false), (to([3; 4]), true)]);
    ends("<udp match='no' dstportstart='2'/>", &[(to([1; 4]), false)]);
    ends("<udp match='no' dstportstart='3'/>", &[(to([1; 4]), true)]);
    ends(
        "<icmp match='no' type='3' code='4'/>",
        &[(icmp(3, 4), false), (icmp(3, 5), true), (icmp(8, 4), true)],
    );
    ends(
        "<icmp type='3'/><icmp match='no' code='4'/>",
        &[(icmp(3, 4), false), (icmp(3, 5), true), (icmp(8, 5), false)],
    );
    ends("<all match='no' srcipaddr='9.0.0.0' srcipmask='8'/>", &[(to([1; 4]), false)]);
    ends("<all match='no' srcipaddr='9.0.0.0' srcipmask='0'/>", &[(to([1; 4]), false)]);
}

#[test]
fn gratuitous_arp_matches_with_and_without_register_compare() {
    let octets = Options {
        features: Capabilities { xor_registers: false, reject: true, ..Capabilities::ALL },
        ..ABLE
    };
    for options in [ABLE, octets] {
        for (inner, same_dropped) in
            [("<arp gratuitous='true'/>", true), ("<arp match='no' gratuitous='1'/>", false)]
        {
            let shelf = Shelf::new(&[filter(&rule("drop", "out", inner))]);
            let guest = Guest::new(&shelf, "f", &Vars::default(), Mode::Slots, &options);
            for (sender, target) in
                [([1, 2, 3, 4], [1, 2, 3, 4]), ([1, 2, 3, 4], [1, 2, 3, 5]), ([0; 4], [9, 0, 0, 0])]
            {
                let frame = ether([0xff; 6], MAC, 0x0806, &arp(1, (MAC, sender), ([0; 6], target)));
                let dropped = !guest.passes("out", &frame);
                assert_eq!(
                    dropped,
                    (sender == target) == same_dropped,
                    "{options:?} {inner} {sender:?} {target:?}"
                );
            }
        }
    }
}

#[test]
fn lists_are_zipped_or_crossed_without_duplicates() {
    let values =
        [("A", "1.1.1.1"), ("A", "2.2.2.2"), ("A", "1.1.1.1"), ("B", "80"), ("B", "90"), ("B", "80")];
    let fold = |inner: &str| {
        let shelf = Shelf::new(&[filter(&rule("drop", "out", inner))]);
        let guest = Guest::new(&shelf, "f", &vars(&values), Mode::Fold, &ABLE);
        let mut rules = text(&guest.program, "out/ip/v4");
        rules.pop();
        rules
    };
    assert_eq!(
        fold("<tcp srcipaddr='$A' dstportstart='$B'/>"),
        ["meta protocol ip meta l4proto tcp ip saddr . th dport { 1.1.1.1 . 80, 2.2.2.2 . 90 } drop"]
    );
    assert_eq!(
        fold("<tcp srcipaddr='$A[@1]' dstportstart='$B[@2]'/>"),
        ["ip saddr { 1.1.1.1, 2.2.2.2 } meta l4proto tcp th dport { 80, 90 } drop"]
    );
    assert_eq!(fold("<tcp srcipaddr='$A[2]'/>"), ["ip saddr 1.1.1.1 meta l4proto tcp drop"]);
    // What is no set multiplies the rule: iterator 0 fastest, then in the order of the attributes.
    let ranges = fold("<tcp srcipfrom='$A[@3]' srcipto='9.9.9.9' dstportstart='$B' dstportend='99'/>");
    let expected = [("1.1.1.1", 80), ("1.1.1.1", 90), ("2.2.2.2", 80), ("2.2.2.2", 90)]
        .map(|(a, b)| format!("ip saddr {a}-9.9.9.9 meta l4proto tcp th dport {b}-99 drop"));
    assert_eq!(ranges, expected);
}

fn faults(texts: &[String], values: &[(&str, &str)]) -> Vec<Diagnostic> {
    let shelf = Shelf::new(texts);
    let faults = |mode| shelf.resolve("f", &vars(values), mode).map(|_| ()).expect_err("it is refused");
    assert_eq!(faults(Mode::Fold), faults(Mode::Slots), "both modes refuse alike");
    faults(Mode::Slots)
}

#[test]
fn missing_variables_are_listed_and_only_ip_is_learned() {
    let body = rule("drop", "out", "<tcp srcipaddr='$IP' dstipaddr='$X[@2]' srcportstart='$P[7]'/>");
    let found = faults(&[filter(&body)], &[("P", "80")]);
    assert_eq!(
        found[0].message,
        "Cannot instantiate filter due to unresolvable variables or unavailable list elements: IP, P[7], X[@2]"
    );
    assert_eq!((found.len(), found[0].code), (1, Code::INTERNAL));
    for (attribute, learnable) in [("$IP", true), ("$IP[0]", false), ("$IP[@1]", false)] {
        let shelf = Shelf::new(&[filter(&rule("drop", "out", &format!("<ip srcipaddr='{attribute}'/>")))]);
        let missing = missing(&|name| shelf.filter(name), "f", &Vars::default()).unwrap();
        let printed: Vec<String> = missing.iter().map(ToString::to_string).collect();
        assert_eq!(printed == ["$IP"], learnable, "{attribute}");
    }
}

#[test]
fn the_referring_side_wins_over_a_parameter() {
    let sub = "<filter name='g'><rule action='drop' direction='out'><ip dstipaddr='$D'/></rule></filter>";
    let root =
        "<filter name='f'><filterref filter='g'><parameter name='D' value='1.1.1.1'/></filterref></filter>";
    let shelf = Shelf::new(&[sub, root]);
    for (bound, dropped) in [(None, [1; 4]), (Some("2.2.2.2"), [2; 4])] {
        let values: Vec<_> = bound.map(|value| ("D", value)).into_iter().collect();
        let guest = Guest::new(&shelf, "f", &vars(&values), Mode::Slots, &ABLE);
        for address in [[1; 4], [2; 4]] {
            let frame = ether(PEER, MAC, 0x0800, &ipv4([9; 4], address, 17, &udp(1, 2)));
            assert_eq!(!guest.passes("out", &frame), address == dropped, "{bound:?}");
        }
        assert_eq!(guest.program.slots.len(), usize::from(bound.is_some()), "a parameter is folded");
    }
}

// P-36
#[test]
fn what_cannot_be_enforced_as_written_is_refused() {
    for (inner, direction, message) in [
        ("<tcp srcipmask='8'/>", "out", "attribute 'srcipmask' has no meaning without 'srcipaddr'"),
        ("<tcp dstportend='8'/>", "out", "attribute 'dstportend' has no meaning without 'dstportstart'"),
        ("<stp port-hi='8'/>", "out", "attribute 'port-hi' has no meaning without 'port'"),
        ("<all ipset='x'/>", "out", "attribute 'ipset' has no meaning without 'ipsetflags'"),
        ("<all ipsetflags='src'/>", "out", "attribute 'ipsetflags' has no meaning without 'ipset'"),
        (
            "<stp srcmacaddr='2:0:0:0:0:1'/>",
            "inout",
            "STP filtering in inout direction with source MAC address set is not supported",
        ),
        (
            "<ip match='no' protocol='6'/><ip dstportstart='1'/>",
            "out",
            "IP rule with port specification requires",
        ),
        ("<ipv6 type='1'/>", "out", "IPv6 rule with an ICMPv6 type or code requires the protocol icmpv6(58)"),
        (
            "<tcp dstportstart='9' dstportend='8'/>",
            "out",
            "the range of 'dstportstart' ends with 'dstportend'",
        ),
        ("<all match='no' state='NONE'/>", "out", "state NONE cannot be negated"),
        ("<all ipset='x' ipsetflags='src,dst'/>", "out", "ipsetflags asks for more than one address"),
        (
            "<tcp srcipaddr='$L' dstipaddr='$M'/>",
            "out",
            "Cardinality of list items must be the same for processing",
        ),
        ("<all dscp='$P' comment='$L'/>", "out", "Cardinality of list items must be the same for processing"),
        ("<tcp dstipaddr='$P'/>", "out", "variable 'P' has the value 'igmp', which is not an IPv4 address"),
        (
            "<tcp match='no' dstportstart='$P'/>",
            "out",
            "variable 'P' has the value 'igmp', which is not a number",
        ),
        (
            "<all state='$P'/>",
            "out",
            "variable 'P' has the value 'igmp', which is not a list of connection states",
        ),
    ] {
        let values = [("P", "igmp"), ("L", "1.1.1.1"), ("L", "2.2.2.2"), ("M", "1.1.1.1")];
        let body = format!("\n  {}", rule("accept", direction, inner));
        let found = faults(&[filter(&body)], &values);
        assert_eq!(found.len(), 1, "{inner}: {found:?}");
        assert!(found[0].message.starts_with(message), "{inner}: {}", found[0].message);
        assert_eq!(found[0].code, Code::INTERNAL, "{inner}");
        let place = found[0].place.as_ref().expect(inner).line_column();
        assert!(place.starts_with("test.xml:2:"), "{inner}: {place}");
    }
}

#[test]
fn a_filter_is_checked_before_its_variables_are_known() {
    for (inner, direction, message) in [
        ("<tcp srcipfrom='$A' srcipto='1.1.1.1' dstportstart='9' dstportend='$B'/>", "out", None),
        ("<ipv6 protocol='$P' type='1'/>", "out", None),
        ("<arp gratuitous='$G' opcode='$O' arpsrcipaddr='$I' arpsrcipmask='$M'/>", "inout", None),
        ("<all state='$S' ipset='$N' ipsetflags='$F' comment='$C' connlimit-above='$L'/>", "in", None),
        ("<vlan vlanid='$V' encap-protocol='$E' srcmacaddr='$S' srcmacmask='$M'/>", "in", None),
        ("<tcp flags='$F' option='$O' dscp='$D'/>", "in", None),
        ("<stp srcmacaddr='$MAC'/>", "inout", Some("STP filtering in inout direction")),
        ("<tcp srcipmask='$M'/>", "out", Some("attribute 'srcipmask' has no meaning")),
    ] {
        let shelf = Shelf::new(&[filter(&rule("drop", direction, inner))]);
        let checked = resolve::check(&|name| shelf.filter(name), "f");
        let found = checked.as_ref().err().map(|faults| faults[0].message.as_str());
        assert_eq!(found.is_some(), message.is_some(), "{inner}: {found:?}");
        assert!(found.unwrap_or_default().starts_with(message.unwrap_or_default()), "{inner}: {found:?}");
        assert!(checked.is_err() || compile(&checked.unwrap(), &ABLE).is_ok(), "{inner}");
    }
}

#[test]
fn variables_in_odd_places_are_read() {
    let values = [("S", "NEW"), ("F", "SYN/SYN"), ("G", "true"), ("C", "words"), ("N", "set"), ("D", "dst")];
    for (inner, chain, expected) in [
        ("<all state='$S'/>", "out/ip/v4", "ct state new drop"),
        ("<tcp flags='$F'/>", "out/ip/v4", "meta protocol ip meta l4proto tcp tcp flags & syn == syn drop"),
        ("<all comment='$C' dscp='1'/>", "out/ip/v4", "ip dscp 0x01 drop"),
        ("<all ipset='$N' ipsetflags='$D'/>", "out/ip/v4", "ip daddr @ipset.set drop"),
    ] {
        let values: Vec<_> = values.map(|(name, value)| (name, value.to_owned())).to_vec();
        let values: Vec<(&str, &str)> = values.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let program = Guest::of(&rule("drop", "out", inner), &values).program;
        assert_eq!(text(&program, chain)[0], expected, "{inner}");
    }
    let guest = Guest::of(&rule("drop", "out", "<arp gratuitous='$G'/>"), &values);
    let frame = |target| ether([0xff; 6], MAC, 0x0806, &arp(1, (MAC, [1; 4]), ([0; 6], target)));
    assert!(!guest.passes("out", &frame([1; 4])) && guest.passes("out", &frame([2; 4])));
}

#[test]
fn missing_and_circular_references_name_their_place() {
    let refer = |name: &str, to: &[&str]| {
        let references: String = to.iter().map(|to| format!("<filterref filter='{to}'/>")).collect();
        format!("<filter name='{name}'>{references}</filter>")
    };
    let found = faults(&[refer("f", &["x", "g"]), refer("g", &["y"])], &[]);
    let messages: Vec<&str> = found.iter().map(|fault| fault.message.as_str()).collect();
    assert_eq!(messages, ["referenced filter 'x' is missing", "referenced filter 'y' is missing"]);
    assert!(found.iter().all(|fault| fault.place.is_some()));
    let found = faults(&[refer("f", &["g"]), refer("g", &["f"])], &[]);
    assert_eq!(found[0].message, "filter 'f' refers to itself: f -> g -> f");

    let shelf = Shelf::new(&[refer("a", &["b", "b"]), refer("b", &["c", "gone"]), refer("c", &[])]);
    let looped = |text: String| {
        let new = Shelf::new(&[text]).filter("c").unwrap();
        introduces_loop(&|name| shelf.filter(name), &new)
    };
    assert!(looped(refer("c", &["c"])) && looped(refer("c", &["a"])));
    assert!(!looped(refer("c", &["nowhere"])));
}

#[test]
fn a_lattice_of_references_stays_bounded() {
    let filters: Vec<String> = (0..40)
        .map(|level| {
            let next = level + 1;
            format!(
                "<filter name='n{level}'><filterref filter='n{next}'/><filterref filter='n{next}'/></filter>"
            )
        })
        .chain(["<filter name='n40'><rule action='drop' direction='in'/></filter>".to_owned()])
        .collect();
    let shelf = Shelf::new(&filters);
    let library = |name: &str| shelf.filter(name);
    assert!(!introduces_loop(&library, &shelf.filter("n0").unwrap()));
    let found = shelf.resolve("n0", &Vars::default(), Mode::Fold).expect_err("it is too large");
    assert!(found[0].message.starts_with("the tree of references is too large"), "{found:?}");
}

#[test]
fn more_negated_pairs_than_rules_can_say_are_refused() {
    let values: Vec<(String, String)> =
        (0..20).flat_map(|n| [("T".to_owned(), n.to_string()), ("C".to_owned(), n.to_string())]).collect();
    let values: Vec<(&str, &str)> =
        values.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let shelf = Shelf::new(&[filter(&rule("drop", "in", "<icmp match='no' type='$T' code='$C'/>"))]);
    let resolved = shelf.resolve("f", &vars(&values), Mode::Fold).unwrap();
    let found = compile(&resolved, &ABLE).expect_err("it is refused");
    assert_eq!(found[0].message, "the negations of this rule ask for too many rules");
}

#[test]
fn a_rejection_is_an_answer_only_where_the_hook_can_give_one() {
    let frame = ether(PEER, MAC, 0x0800, &ipv4([9; 4], [1; 4], 6, &tcp(1, 2, 2)));
    let deaf = Options {
        features: Capabilities { xor_registers: true, reject: false, ..Capabilities::ALL },
        ..ABLE
    };
    for inner in ["<tcp/>", "<ip/>", "<mac/>"] {
        let shelf = Shelf::new(&[filter(&rule("reject", "inout", inner))]);
        for (options, out, warned) in [(ABLE, End::Reject, false), (deaf, End::Drop, true)] {
            let guest = Guest::new(&shelf, "f", &Vars::default(), Mode::Slots, &options);
            assert_eq!(guest.end("out", &frame, None), Some(out), "{inner}");
            assert_eq!(guest.end("in", &frame, None), Some(End::Drop), "{inner}");
            let resolved = shelf.resolve("f", &Vars::default(), Mode::Slots).unwrap();
            let reported = warnings(&resolved, &options, Use::Whole)
                .iter()
                .any(|note| note.message.contains("cannot answer"));
            assert_eq!(reported, warned, "{inner}");
        }
    }
}

#[test]
fn to_the_guest_the_ip_part_reads_no_ethernet_header() {
    let fault = "asks for the source MAC address of a frame to the guest";
    for (body, refused) in [
        ("<rule action='accept' direction='out'><tcp srcmacaddr='$MAC'/></rule>", false),
        (
            "<rule action='accept' direction='out'><all srcmacaddr='1:2:3:4:5:6' dstipaddr='1.2.3.4'/></rule>",
            false,
        ),
        ("<rule action='accept' direction='in'><tcp srcmacaddr='$MAC'/></rule>", true),
        (
            "<rule action='drop' direction='inout'><udp-ipv6 srcmacaddr='1:2:3:4:5:6' match='no'/></rule>",
            true,
        ),
        ("<rule action='drop' direction='in'><mac srcmacaddr='$MAC'/></rule>", false),
    ] {
        let resolved =
            Shelf::new(&[filter(body)]).resolve("f", &vars(&[("MAC", "1:2:3:4:5:6")]), Mode::Slots).unwrap();
        let found = compile_part(&resolved, &ABLE, Part::Ip);
        let reported = found.as_ref().err().map(|faults| faults[0].message.contains(fault));
        assert_eq!(reported, refused.then_some(true), "{body}: {found:?}");
        let program = found.unwrap_or_else(|_| Program::blocked());
        let text: Vec<String> = program.chains.keys().flat_map(|chain| text(&program, chain)).collect();
        assert!(!text.iter().any(|rule| rule.contains("ether type")), "{body}: {text:?}");
        assert!(
            compile_part(&resolved, &ABLE, Part::Whole).is_ok()
                && compile_part(&resolved, &ABLE, Part::Link).is_ok()
        );
    }
}

#[test]
fn the_ethernet_part_asks_for_no_connection() {
    let body = rule("accept", "out", "<tcp connlimit-above='2'/>") + &rule("drop", "inout", "<arp/>");
    let resolved = Shelf::new(&[filter(&body)]).resolve("f", &Vars::default(), Mode::Slots).unwrap();
    let nothing = Capabilities { state: false, limit: false, ..Capabilities::ALL };
    let link = compile_part(&resolved, &Options { features: nothing, ..ABLE }, Part::Link).unwrap();
    assert_eq!(text(&link, OUT), ["ether type arp drop", "accept"]);
    assert!(link.sets.is_empty() && !link.stateful);
    let without = Capabilities { state: false, ..Capabilities::ALL };
    let fault = compile_part(&resolved, &Options { features: without, ..ABLE }, Part::Ip).unwrap_err();
    assert!(
        fault[0].message.starts_with("this kernel does not track connections (CONFIG_NF_CONNTRACK"),
        "{fault:?}"
    );
}

#[test]
fn a_warning_says_what_a_rule_does_not_do() {
    let close = "<rule action='drop' direction='inout' priority='1000'/>";
    let vlan = "<rule action='drop' direction='inout'><vlan/></rule>";
    for (body, words) in [
        (rule("drop", "in", "<tcp/>"), "lets all tagged frames by"),
        (rule("drop", "out", "<ip dstipaddr='10.0.0.1'/>"), "lets all tagged frames by"),
        (rule("drop", "out", "<arp/>"), "lets all tagged frames by"),
        (rule("drop", "in", "<tcp/>") + &rule("drop", "out", "<rarp/>"), "lets all tagged frames by"),
        (rule("accept", "in", "<tcp/>"), ""),
        (rule("drop", "in", "<tcp/>") + close, "refuses every frame"),
        (rule("drop", "in", "<tcp/>") + vlan, ""),
        (rule("drop", "out", "<ip/>") + vlan, ""),
        (rule("drop", "inout", "<all/>"), "IPv6, ARP, tagged frames pass"),
        (rule("drop", "inout", "<all/>") + &rule("drop", "inout", "<arp/>"), "IPv6, tagged frames pass"),
        (rule("drop", "inout", "<all/>") + vlan, "IPv6, ARP pass"),
        (rule("drop", "inout", "<all/>") + close, "refuses every frame"),
        (rule("accept", "in", "<mac/>"), ""),
        (rule("reject", "in", "<mac srcmacaddr='02:00:00:00:00:01'/>"), "dropped in silence"),
    ] {
        let resolved = Shelf::new(&[filter(&body)]).resolve("f", &Vars::default(), Mode::Slots).unwrap();
        let notes: Vec<String> =
            warnings(&resolved, &ABLE, Use::Whole).iter().map(ToString::to_string).collect();
        assert_eq!(notes.len(), usize::from(!words.is_empty()), "{body}: {notes:?}");
        assert!(notes.concat().contains(words), "{body}: {notes:?}");
    }
}

#[test]
fn a_drop_in_another_protocols_chain_keeps_tags_open() {
    let shelf = Shelf::new(&[
        "<filter name='f'><filterref filter='g'/><rule action='accept' direction='in'><tcp/></rule></filter>",
        "<filter name='g' chain='ipv4'><rule action='drop' direction='inout'/></filter>",
    ]);
    let resolved = shelf.resolve("f", &Vars::default(), Mode::Slots).unwrap();
    assert_eq!(warnings(&resolved, &ABLE, Use::Whole).len(), 1);
    assert_eq!(warnings(&resolved, &ABLE, Use::Block).len(), 0);
}

#[test]
fn libvirts_own_filters_compile() {
    let Ok(data) = std::env::var("NWFILTER_LIBVIRT_DATA") else {
        println!("skipped: NWFILTER_LIBVIRT_DATA does not name a directory with libvirt's test filters");
        return;
    };
    let entries = std::fs::read_dir(format!("{data}/filters")).unwrap();
    let shipped = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/filters")).unwrap();
    let text = |path: std::path::PathBuf| std::fs::read_to_string(path).unwrap();
    let shipped: Vec<String> = shipped.map(|entry| text(entry.unwrap().path())).collect();
    let mut values = vars(&[("MAC", "52:54:00:11:22:33"), ("IP", "10.1.2.3"), ("IPSETNAME", "tck_test")]);
    for value in ["1.1.1.1", "2.2.2.2", "3.3.3.3"] {
        values.push("A", value);
    }
    for (b, c) in [("80", "1080"), ("90", "1090"), ("80", "1100")] {
        values.push("B", b);
        values.push("C", c);
    }
    let paths = entries.map(|entry| entry.unwrap().path());
    let is_filter = |path: &std::path::PathBuf| path.extension().is_some_and(|extension| extension == "xml");
    // It asks a set for pairs of addresses, which ours refuses.
    for path in paths.filter(|path| is_filter(path) && !path.ends_with("ipset.xml")) {
        let shelf = Shelf::new(&[shipped.clone(), vec![text(path.clone())]].concat());
        for mode in [Mode::Slots, Mode::Fold] {
            let resolved = shelf.resolve("tck-testcase", &values, mode);
            let resolved = resolved.unwrap_or_else(|faults| panic!("{}: {faults:?}", path.display()));
            assert!(compile(&resolved, &ABLE).is_ok(), "{}", path.display());
        }
    }
}

#[test]
fn what_exceeds_a_kernel_key_or_rule_is_folded_or_refused() {
    let six = "<sctp-ipv6 srcipaddr='$A' dstipaddr='$A' srcipfrom='$A' dstipfrom='$A' srcportstart='$P'/>";
    let guest = Guest::of(&rule("drop", "out", six), &[("A", "::1"), ("P", "1"), ("A", "::2"), ("P", "2")]);
    assert!(guest.program.slots.is_empty());
    assert_eq!(guest.program.chains["out/ip/v6"].len(), 3, "two rules and the end");

    let many: Vec<String> = (0..64).map(|number| number.to_string()).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|number| ("N", number.as_str())).collect();
    let shelf = Shelf::new(&[filter(&rule("drop", "in", "<all match='no' dscp='$N'/>"))]);
    let resolved = shelf.resolve("f", &vars(&many), Mode::Fold).unwrap();
    let found = compile(&resolved, &ABLE).expect_err("it is refused");
    assert_eq!(found[0].message, "this rule asks for more than the kernel lets one rule ask");
    let all: Vec<String> = (0..20_000).map(|number| number.to_string()).collect();
    let all: Vec<(&str, &str)> = all.iter().map(|number| ("N", number.as_str())).collect();
    for (body, message) in [
        (
            rule("drop", "in", "<tcp dstportstart='$N' dstportend='65535'/>"),
            "the values of the variables ask for",
        ),
        (rule("drop", "in", "<stp match='no' root-cost='$N'/>"), "the values of the variables ask for"),
    ] {
        let found = Shelf::new(&[filter(&body)]).resolve("f", &vars(&all), Mode::Fold).expect_err("too many");
        assert!(found[0].message.starts_with(message), "{found:?}");
    }
    let some = vars(&all[..16_384]);
    let full = rule("drop", "in", "<tcp dstportstart='$N' dstportend='65535'/>")
        + &rule("drop", "in", "<tcp/>").repeat(3);
    let found = Shelf::new(&[filter(&full)]).resolve("f", &some, Mode::Fold).expect_err("too many");
    assert_eq!(found.len(), 3, "each rule beyond the limit is reported: {found:?}");
    let shelf = Shelf::new(&[filter(&rule("drop", "in", "<stp match='no' root-cost='$N'/>"))]);
    assert!(compile(&shelf.resolve("f", &some, Mode::Fold).unwrap(), &ABLE).is_err());
    let shelf = Shelf::new(&[filter(&rule("drop", "in", "<udp match='no' dstportstart='$N'/>"))]);
    let resolved = shelf.resolve("f", &vars(&many), Mode::Fold).unwrap();
    assert!(compile(&resolved, &ABLE).is_ok(), "a list of ports is a set");
}

#[test]
fn clean_traffic_lets_honest_frames_by_and_no_others() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/filters");
    let texts: Vec<String> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap())
        .collect();
    let shelf = Shelf::new(&texts);
    let values = vars(&[
        ("MAC", "52:54:00:11:22:33"),
        ("IP", "10.0.0.5"),
        ("IPV6", "fe80::1"),
        ("DHCPSERVER", "10.0.0.1"),
        ("GATEWAY_MAC", "2:0:0:0:0:1"),
    ]);
    let mut six = values.clone();
    six.0.insert("DHCPSERVER".to_owned(), vec!["fe80::2".to_owned()]);
    for name in shelf.names() {
        let values = if name == "allow-dhcpv6-server" { &six } else { &values };
        for mode in [Mode::Slots, Mode::Fold] {
            Guest::new(&shelf, name, values, mode, &ABLE);
        }
    }
    let guest = Guest::new(&shelf, "clean-traffic", &values, Mode::Slots, &ABLE);
    let (own, foreign, far) = ([10, 0, 0, 5], [10, 0, 0, 6], [10, 0, 0, 1]);
    let all = [0xff; 6];
    let packet = |from| ipv4(from, far, 17, &udp(68, 67));
    let announce = |operation, mac| arp(operation, (mac, [0; 4]), (mac, [0; 4]));
    for (way, frame, passes, what) in [
        ("out", ether(PEER, MAC, 0x0800, &packet(own)), true, "its own addresses"),
        ("out", ether(PEER, MAC, 0x0800, &packet(foreign)), false, "a foreign IP address"),
        ("out", ether(PEER, PEER, 0x0800, &packet(own)), false, "a foreign MAC address"),
        ("out", ether(all, MAC, 0x0800, &packet([0; 4])), true, "DHCP, without an address"),
        (
            "out",
            ether(all, MAC, 0x0800, &ipv4([0; 4], far, 6, &tcp(1, 2, 2))),
            false,
            "TCP without an address",
        ),
        ("out", ether(all, MAC, 0x0806, &arp(1, (MAC, own), ([0; 6], far))), true, "an honest question"),
        ("out", ether(all, MAC, 0x0806, &arp(1, (MAC, foreign), ([0; 6], far))), false, "a foreign sender"),
        ("out", ether(all, MAC, 0x0806, &arp(1, (PEER, own), ([0; 6], far))), false, "a forged sender MAC"),
        ("out", tagged(&ether(PEER, MAC, 0x0800, &packet(own)), 5), false, "a tag"),
        ("out", ether(PEER, MAC, 0x86dd, &ipv6([1; 16], [2; 16], 17, &udp(1, 2))), false, "IPv6"),
        ("out", ether(all, MAC, 0x8035, &announce(3, MAC)), true, "QEMU's announcement"),
        ("out", ether(all, MAC, 0x8035, &announce(3, PEER)), false, "an announcement of another"),
        ("out", ether(PEER, MAC, 0x88cc, &[0; 46]), false, "any other type"),
        ("in", ether(MAC, PEER, 0x0800, &packet(far)), true, "IPv4 to the guest"),
        ("in", ether(MAC, PEER, 0x0806, &arp(2, (PEER, far), (MAC, own))), true, "an answer"),
        ("in", ether(MAC, PEER, 0x86dd, &ipv6([1; 16], [2; 16], 17, &udp(1, 2))), false, "IPv6 to the guest"),
    ] {
        assert_eq!(guest.passes(way, &frame), passes, "{way}: {what}");
    }
}

#[test]
fn members_with_other_values_share_a_program_and_others_do_not() {
    let body = rule("drop", "out", "<ip match='no' srcipaddr='$IP'/>")
        + &rule("accept", "out", "<tcp srcipaddr='$IP' dstipaddr='$IP'/>")
        + &rule("drop", "out", "<all dscp='$D'/>");
    let program = |values: &[(&str, &str)]| Guest::of(&body, values).program;
    let one = program(&[("IP", "1.1.1.1"), ("D", "1")]);
    assert_eq!(one, program(&[("IP", "2.2.2.2"), ("IP", "3.3.3.3"), ("D", "1")]));
    assert_ne!(one, program(&[("IP", "1.1.1.1"), ("D", "2")]));
    let names: Vec<String> = one.slots.iter().map(|slot| slot.set_name().to_string()).collect();
    assert_eq!(names, ["IP.ipv4", "IP.ipv4-and-IP.ipv4"]);
}

#[test]
fn a_network_header_is_read_after_an_ethertype_check() {
    // Every chain that reads one is either entered by a type, or the rule asks for it first.
    let shelf = Shelf::new(&[
        "<filter name='f'><filterref filter='g'/>\
           <rule action='drop' direction='inout'><ip srcipaddr='1.1.1.1'/></rule>\
           <rule action='drop' direction='inout'><tcp dstportstart='1'/></rule></filter>",
        "<filter name='g' chain='ipv4-x'>\
           <rule action='return' direction='inout'><ip srcipaddr='1.1.1.1'/></rule>\
           <rule action='drop' direction='inout'><arp arpsrcipaddr='1.1.1.1'/></rule>\
           <rule action='drop' direction='inout'/></filter>",
    ]);
    let guest = Guest::new(&shelf, "f", &Vars::default(), Mode::Slots, &ABLE);
    assert_eq!(text(&guest.program, "out/ipv4-x"), ["ip daddr 1.1.1.1 return", "drop"]);
    let rules = &guest.program.chains[OUT];
    assert_eq!(text(&guest.program, OUT)[0], "ether type ip jump out/ipv4-x");
    assert_eq!(text(&guest.program, OUT)[1], "ether type ip ip daddr 1.1.1.1 drop");
    let leads = |rule: &Rule| match &rule.action {
        Action::AnonymousVmap(_, map) => map.values().any(|verdict| matches!(verdict, Verdict::Goto(_))),
        action => matches!(action, Action::Goto(_)),
    };
    assert!(rules.iter().any(leads));
}
