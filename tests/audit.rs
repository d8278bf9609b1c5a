//! What an audit finds, and that it finds nothing where there is nothing.

use nwfilter::document::catalog::Library;
use nwfilter::document::filter::read::read;
use nwfilter::document::span::Source;
use nwfilter::report::audit::{SpoofedField, audit, witnesses};
use std::sync::Arc;

fn with(text: &str) -> Library {
    let mut library = Library::standard();
    let (filter, _) = read(&Source::new("f.xml", text)).unwrap();
    library.filters.insert("f".into(), Arc::new(filter));
    library
}

fn messages(text: &str) -> Vec<String> {
    let library = with(text);
    let found = audit(&|name| library.get(name), "f").unwrap();
    found.iter().map(|found| format!("{found} {}", found.help.as_deref().unwrap_or_default())).collect()
}

#[test]
fn the_standard_filters_keep_what_they_promise() {
    use SpoofedField::*;
    let library = Library::standard();
    for (name, kept) in [
        ("clean-traffic", &[Mac, ArpMac, ArpIp, Ipv4, Ipv6][..]),
        ("clean-traffic-gateway", &[Mac, ArpMac, ArpIp, Ipv4]),
        ("no-mac-spoofing", &[Mac]),
        ("no-ip-spoofing", &[Ipv4]),
        ("no-arp-spoofing", &[ArpMac, ArpIp]),
        ("no-arp-mac-spoofing", &[ArpMac]),
        ("no-arp-ip-spoofing", &[ArpIp]),
        ("no-other-l2-traffic", &[Mac, ArpMac, ArpIp, Ipv4, Ipv6]),
    ] {
        let found = witnesses(&|name| library.get(name), name).unwrap();
        let broken: Vec<_> = found.iter().filter(|witness| kept.contains(&witness.disguise)).collect();
        // A tagged frame is judged by mac and vlan rules alone, which a filter about IP or ARP has none of.
        let broken: Vec<_> =
            broken.into_iter().filter(|witness| witness.frame[12..14] != [0x81, 0]).collect();
        assert!(broken.is_empty(), "{name}: {broken:?}");
    }
    assert_eq!(audit(&|name| library.get(name), "clean-traffic").unwrap(), []);
    // A guest may use UDP from any link-local address, so that it can ask for its own.
    let reported = witnesses(&|name| library.get(name), "no-ipv6-spoofing").unwrap();
    let reported = reported.iter().find(|witness| witness.disguise == Ipv6).unwrap();
    assert!(nwfilter::report::explain::summary::of(&reported.frame).contains("IPv6 fe80::2 > fe80::9, UDP"));
    // Through its gateway a guest may say anything in IPv6 and in a VLAN: so libvirt's filter has it, and the audit tells.
    let reported = audit(&|name| library.get(name), "clean-traffic-gateway").unwrap();
    let reported: Vec<&str> = reported.iter().map(|found| found.message.as_str()).collect();
    assert_eq!(
        reported,
        [
            "filter 'clean-traffic-gateway' lets the guest send with a foreign source address in IPv6, and in a VLAN with a \
          foreign sender MAC address in ARP, sender IP address in ARP, source address in IPv4"
        ]
    );
}

#[test]
fn a_hole_is_shown_with_a_frame_that_goes_through_it() {
    let reported = messages(
        "<filter name='f'><filterref filter='no-mac-spoofing'/><rule action='accept' direction='out' priority='-900'><udp dstportstart='53'/></rule>\
         <rule action='accept' direction='out' priority='-900'><arp opcode='2'/></rule><filterref filter='clean-traffic'/></filter>",
    );
    let [reported] = &reported[..] else { panic!("{reported:#?}") };
    let holes = "source MAC address, sender MAC address in ARP, sender IP address in ARP";
    assert!(reported.contains(&format!("lets the guest send with a foreign {holes}")), "{reported}");
    assert!(reported.contains("ARP 192.0.2.") && reported.contains("is-at"), "{reported}");
}

#[test]
fn a_filter_that_restricts_nothing_lets_everything_pass() {
    let library = with("<filter name='f'/>");
    assert_eq!(witnesses(&|name| library.get(name), "f").unwrap().len(), 5);
}

#[test]
fn rules_that_no_frame_reaches_are_reported() {
    let reported = messages(
        "<filter name='f'>\n<rule action='drop' direction='inout' priority='1'/>\n<rule action='accept' direction='out' priority='2'><mac protocolid='arp'/></rule>\n</filter>",
    );
    assert_eq!(reported, ["f.xml:3:1: no frame reaches this rule of filter 'f' "]);
}

#[test]
fn a_rule_that_an_earlier_one_covers_is_reported() {
    let check = |rules: &str, hidden: &[u32]| {
        let reported = messages(&format!("<filter name='f'>\n{rules}\n</filter>"));
        let reported: Vec<&String> =
            reported.iter().filter(|reported| reported.contains("no frame ")).collect();
        assert_eq!(reported.len(), hidden.len(), "{rules}: {reported:#?}");
        for (reported, line) in reported.iter().zip(hidden) {
            assert!(reported.starts_with(&format!("f.xml:{line}:1: no frame ")), "{rules}: {reported}");
        }
    };
    let rule = |what: &str, protocol: &str| format!("<rule {what}>{protocol}</rule>\n");
    let (drop, accept) = (
        "action='drop' direction='out' statematch='false'",
        "action='accept' direction='out' statematch='false'",
    );
    let two = |first: [&str; 2], second: [&str; 2]| rule(first[0], first[1]) + &rule(second[0], second[1]);
    let net = "<tcp dstipaddr='10.0.0.0' dstipmask='8'/>";
    check(&two([drop, net], [accept, "<tcp dstipaddr='10.1.2.3'/>"]), &[3]);
    check(&two([drop, net], [accept, "<tcp dstipaddr='10.1.0.0' dstipmask='16' dstportstart='80'/>"]), &[3]);
    check(&two([drop, net], [accept, "<tcp dstipaddr='11.1.2.3'/>"]), &[]);
    check(&two([drop, net], [accept, "<udp dstipaddr='10.1.2.3'/>"]), &[]);
    check(&two([drop, net], [accept, "<tcp srcipaddr='10.1.2.3'/>"]), &[]);
    check(&two([drop, net], [accept, "<tcp dstipaddr='10.0.0.0' dstipmask='7'/>"]), &[]);
    let ports = "<udp dstportstart='100' dstportend='200'/>";
    check(&two([drop, ports], [accept, "<udp dstportstart='150'/>"]), &[3]);
    check(&two([drop, ports], [accept, "<udp dstportstart='150' dstportend='160'/>"]), &[3]);
    check(&two([drop, ports], [accept, "<udp dstportstart='150' dstportend='201'/>"]), &[]);
    check(&two([drop, "<udp match='no' dstportstart='53'/>"], [accept, "<udp dstportstart='54'/>"]), &[3]);
    check(&two([drop, "<udp match='no' dstportstart='53'/>"], [accept, "<udp dstportstart='53'/>"]), &[]);
    // A rule in both directions is hidden only where it is in both.
    let both = "action='drop' direction='inout' statematch='false'";
    check(&two([drop, "<ip/>"], [both, "<ip protocol='udp'/>"]), &[]);
    // A rule that asks for a state leaves the frames of others.
    let stateful = "action='accept' direction='out'";
    check(&two([stateful, "<udp/>"], [drop, "<udp dstportstart='5'/>"]), &[]);
    check(&two([stateful, "<udp/>"], [stateful, "<udp dstportstart='5'/>"]), &[3]);
    // What goes on with the next rule hides nothing, nor what counts connections.
    check(&two(["action='continue' direction='out'", "<mac/>"], [drop, "<mac/>"]), &[]);
    check(&two([drop, "<tcp connlimit-above='1'/>"], [drop, "<tcp dstportstart='5'/>"]), &[]);
    // Whatever a variable is, nothing comes behind a rule that takes all.
    check(&two(["action='drop' direction='out'", ""], [accept, "<mac dstmacaddr='$A'/>"]), &[3]);
    // The type may be the chain's own.
    check(&rule(drop, "<mac protocolid='$TYPE'/>"), &[]);
    // It is not known yet whether two variables are the same.
    check(&two([drop, "<udp dstportstart='$A'/>"], [accept, "<udp dstportstart='$B'/>"]), &[]);
    check(
        &two(
            [drop, "<udp-ipv6 srcipaddr='fe80::' srcipmask='10'/>"],
            [accept, "<udp-ipv6 srcipaddr='$IPV6'/>"],
        ),
        &[],
    );
    check(
        &two(
            [drop, "<mac srcmacaddr='$MAC'/>"],
            [accept, "<mac srcmacaddr='$MAC' dstmacaddr='2:0:0:0:0:9'/>"],
        ),
        &[3],
    );
}

#[test]
fn a_difference_from_libvirt_is_reported() {
    let check = |attributes: &str, rule: &str, difference: Option<(&str, u8)>| {
        let reported = messages(&format!("<filter name='f' {attributes}>{rule}</filter>"));
        let reported: Vec<&String> =
            reported.iter().filter(|reported| reported.contains("libvirt")).collect();
        assert_eq!(reported.len(), usize::from(difference.is_some()), "{rule}: {reported:#?}");
        let Some((difference, departure)) = difference else { return };
        let cited = format!("(PROMISES.md, departure {departure})");
        assert!(reported[0].contains(difference) && reported[0].ends_with(&cited), "{rule}: {reported:#?}");
    };
    let rule = |attributes: &str, protocol: &str| format!("<rule {attributes}>{protocol}</rule>");
    let out = |protocol: &str| rule("action='accept' direction='out'", protocol);
    let cases = [
        (rule("action='reject' direction='out'", "<mac/>"), Some(("drops it in silence", 3))),
        (rule("action='reject' direction='out'", "<tcp/>"), Some(("what the host routes", 2))),
        (rule("action='accept' direction='inout'", "<icmp type='8'/>"), Some(("no rule at all", 2))),
        (out("<icmp type='8'/>"), None),
        (out("<tcp match='no' dstportstart='80'/>"), Some(("loses the negation", 4))),
        (out("<tcp match='no' srcportstart='1' dstportstart='80'/>"), None),
        (
            out("<tcp match='no' srcportstart='1'/><tcp dstportstart='80'/>"),
            Some(("negates it with the source", 4)),
        ),
        (out("<ipv6 protocol='58'/><ipv6 match='no' code='4'/>"), Some(("loses the negation", 4))),
        (out("<tcp match='no' state='NEW'/>"), Some(("ignores that a state", 4))),
        (out("<tcp ipset='a' ipsetflags='src'/>"), Some(("leaves the set out", 5))),
        (out("<all ipset='a' ipsetflags='src'/>"), None),
        (out("<icmp code='1'/>"), Some(("a code without a type", 5))),
        (out("<tcp state='$A'/>"), Some(("makes another condition", 5))),
        (
            out("<arp arpsrcipaddr='10.0.0.0' arpsrcipmask='8' arpdstipaddr='10.0.0.1'/>"),
            Some(("mask of the sender", 6)),
        ),
        (out("<ip dscp='5'/>"), Some(("whole ToS byte", 6))),
        (out("<tcp dscp='5'/>"), None),
        (out("<tcp-ipv6 flags='SYN/SYN'/>"), Some(("leaves them out", 5))),
        (out("<stp root-cost='5'/>"), Some(("turns these comparisons", 6))),
        (out("<mac srcmacaddr='2:0:0:0:0:9' srcmacmask='ff:ff:0:0:0:0'/>"), Some(("nothing is equal", 6))),
        (out("<mac srcmacaddr='2:0:0:0:0:0' srcmacmask='ff:ff:0:0:0:0'/>"), None),
        (rule("action='drop' direction='in'", "<tcp/>"), Some(("what the host routes", 2))),
        (rule("action='drop' direction='out'", "<tcp/>"), Some(("what the host routes", 2))),
        (rule("action='drop' direction='out'", "<tcp state='NEW'/>"), None),
    ];
    for (rule, difference) in cases {
        check("", &rule, difference);
    }
    check(
        "chain='arp' priority='-100'",
        &rule("action='drop' direction='out' priority='-200'", "<arp/>"),
        Some(("below its chain", 6)),
    );
}

#[test]
fn a_chains_open_end_is_reported_where_later_rules_wait() {
    let reported = |name: &str, text: &str| {
        let mut library = Library::standard();
        let (filter, _) = read(&Source::new("f.xml", text)).unwrap();
        library.filters.insert("f".into(), Arc::new(filter));
        let found = audit(&|name| library.get(name), name).unwrap();
        found
            .iter()
            .filter(|found| found.message.contains("open end"))
            .map(|found| format!("{}: {}", found.message, found.help.as_deref().unwrap_or_default()))
            .collect::<Vec<_>>()
    };
    let text = "<filter name='f'><filterref filter='no-ip-multicast'/><filterref filter='no-other-l2-traffic'/></filter>";
    let help = "what none of its rules takes goes on in the root chain; libvirt's ebtables driver accepts it there \
                (PROMISES.md, departure 1)";
    assert_eq!(reported("f", text), [format!("chain 'ipv4' of filter 'f' has an open end: {help}")]);
    assert_eq!(reported("f", "<filter name='f'><filterref filter='no-ip-multicast'/></filter>"), [""; 0]);
    assert_eq!(reported("clean-traffic", "<filter name='f'/>"), [""; 0]);
}

#[test]
fn every_departure_that_is_cited_can_be_read_about() {
    let promises = include_str!("../PROMISES.md");
    let (_, departures) = promises.split_once("\n## Where we depart from libvirt\n").unwrap();
    let departures = departures.split("\n## ").next().unwrap();
    for (number, word) in [
        (1, "end of a chain"),
        (2, "IP-layer rules"),
        (3, "`reject`"),
        (4, "`match='no'`"),
        (5, "enforced as it is written"),
        (6, "Known defects"),
    ] {
        let line = departures.lines().find(|line| line.starts_with(&format!("{number}. ")));
        assert!(line.is_some_and(|line| line.contains(word)), "{number}: {line:?}");
    }
}
