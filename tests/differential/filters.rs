//! Filters at random, made from the table of protocols and attributes; what the product refuses is not asked for.

use crate::bench::{Subject, accepts};
use crate::dice::Dice;
use nwfilter::document::filter::schema::{Attribute, AttributeRole, Layer, PROTOCOLS, Protocol, ValueKind};
use nwfilter::document::vars::Vars;

const CHAINS: &[&str] = &[
    "root", "root", "mac", "mac-x", "vlan", "arp", "arp-x", "rarp", "ipv4", "ipv4-ip", "ipv6", "ipv6-x",
    "stp",
];

/// Filters by reference from `f0`, and variables for them.
pub fn subject(dice: &mut Dice) -> Subject {
    let vars = vars(dice);
    let count = 1 + dice.below(5);
    let texts: Vec<String> = (0..count).map(|number| filter(dice, number, count, &vars)).collect();
    Subject { counters: dice.chance(25), ..Subject::of(&texts, &vars) }
}

fn filter(dice: &mut Dice, number: usize, count: usize, vars: &Vars) -> String {
    let place = match number {
        0 => String::new(),
        _ => format!(" chain='{}' priority='{}'", dice.pick(CHAINS), dice.below(9) as i32 - 4),
    };
    let mut entries: Vec<String> = (0..dice.below(6)).filter_map(|_| rule(dice, vars)).collect();
    if number == 0 && dice.chance(70) {
        entries.push(closing(dice));
    }
    // A tree: each filter below the first has one that refers to it, most of them the first.
    for other in number + 1..count {
        if number == 0 && !dice.chance(30) || other == number + 1 {
            let at = dice.below(entries.len() + 1);
            entries.insert(at, reference(dice, other));
        }
    }
    format!("<filter name='f{number}'{place}>\n  {}\n</filter>", entries.join("\n  "))
}

/// What no other rule took is refused: then those that accept matter.
fn closing(dice: &mut Dice) -> String {
    let (direction, body) =
        (dice.pick(&["inout", "inout", "in", "out"]), dice.pick(&["", "<all/>", "<all-ipv6/>", "<mac/>"]));
    format!("<rule action='drop' direction='{direction}' priority='9'>{body}</rule>")
}

fn reference(dice: &mut Dice, other: usize) -> String {
    if dice.chance(85) {
        return format!("<filterref filter='f{other}'/>");
    }
    let value = dice.pick(IPV4);
    format!("<filterref filter='f{other}'><parameter name='INNER' value='{value}'/></filterref>")
}

/// A rule that the product takes; none where luck fails.
fn rule(dice: &mut Dice, vars: &Vars) -> Option<String> {
    (0..4).map(|_| any_rule(dice)).find(|rule| accepts(&format!("<filter name='f'>{rule}</filter>"), vars))
}

fn any_rule(dice: &mut Dice) -> String {
    let action = dice.pick(&["accept", "accept", "drop", "drop", "reject", "return", "continue"]);
    let direction = dice.pick(&["in", "out", "inout"]);
    let priority = dice.below(9) as i32 - 4;
    if dice.chance(5) {
        return format!("<rule action='{action}' direction='{direction}' priority='{priority}'/>");
    }
    let usual = dice
        .pick(&["mac", "ip", "ipv6", "arp", "tcp", "udp", "all", "all-ipv6", "tcp-ipv6", "vlan", "icmpv6"]);
    let usual = Protocol::named(usual).expect("it is one of the table");
    let protocol = if dice.chance(50) { usual } else { &PROTOCOLS[dice.below(PROTOCOLS.len())] };
    // The kernel the tests run on may be without connection tracking on bridges.
    let stateless = protocol.layer != Layer::Ethernet;
    let statematch = if stateless { " statematch='false'" } else { "" };
    let body = body(dice, protocol);
    format!("<rule action='{action}' direction='{direction}' priority='{priority}'{statematch}>{body}</rule>")
}

fn body(dice: &mut Dice, protocol: &Protocol) -> String {
    let attributes: Vec<&Attribute> =
        protocol.attributes().filter(|attribute| is_stateless(attribute)).collect();
    let share = dice.pick(&[4, 8, 15, 30]);
    let mut elements = [String::new(), String::new()];
    let two = dice.chance(20);
    let mut chosen: Vec<&str> = Vec::new();
    for attribute in attributes {
        let wanted = match attribute.role {
            AttributeRole::MaskOf(base) | AttributeRole::EndOf(base) => {
                chosen.contains(&base) && dice.chance(60)
            }
            _ => dice.chance(share),
        };
        if wanted {
            chosen.push(attribute.name);
            let element = if two { dice.below(2) } else { 0 };
            elements[element].push_str(&format!(" {}='{}'", attribute.name, value(dice, attribute.kind)));
        }
    }
    let name = protocol.name;
    let negated = |dice: &mut Dice| if dice.chance(30) { " match='no'" } else { "" };
    let first = format!("<{name}{}{}/>", negated(dice), elements[0]);
    if elements[1].is_empty() { first } else { format!("{first}<{name}{}{}/>", negated(dice), elements[1]) }
}

fn is_stateless(attribute: &Attribute) -> bool {
    !matches!(
        attribute.role,
        AttributeRole::State
            | AttributeRole::ConnLimit
            | AttributeRole::Ipset
            | AttributeRole::IpsetFlags
            | AttributeRole::Comment
    )
}

const MACS: &[&str] = &[
    "52:54:0:0:0:1",
    "52:54:0:0:0:2",
    "52:54:0:0:0:3",
    "2:0:0:0:0:1",
    "1:0:5e:0:0:1",
    "ff:ff:ff:ff:ff:ff",
    "1:80:c2:0:0:0",
];
const MAC_MASKS: &[&str] = &[
    "ff:ff:ff:0:0:0",
    "ff:ff:ff:ff:ff:fe",
    "80:0:0:0:0:0",
    "ff:ff:ff:ff:ff:ff",
    "ff:ff:e0:0:0:0",
    "ff:ff:ff:ff:0:0",
];
const IPV4: &[&str] =
    &["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.1.1", "0.0.0.0", "255.255.255.255", "224.0.0.1"];
const IPV6: &[&str] = &["fe80::1", "2001:db8::1", "2001:db8::2", "2001:db8:0:1::1", "ff02::1", "::"];
const TYPES: &[&str] = &["arp", "ipv4", "ipv6", "vlan", "rarp", "0x88b5", "0x600", "0x88a8"];
const PROTOCOL_NUMBERS: &[&str] =
    &["1", "2", "6", "17", "58", "132", "136", "50", "51", "0", "43", "44", "59", "60", "255"];

fn value(dice: &mut Dice, kind: ValueKind) -> String {
    if let Some(name) = variable(kind).filter(|_| dice.chance(40)) {
        let index = dice.pick(&["", "", "", "[@1]", "[@2]", "[0]"]);
        return format!("${name}{index}");
    }
    literal(dice, kind).to_owned()
}

fn literal(dice: &mut Dice, kind: ValueKind) -> &'static str {
    match kind {
        ValueKind::Mac => dice.skewed(MACS),
        ValueKind::MacMask => dice.pick(MAC_MASKS),
        ValueKind::Ipv4 => dice.skewed(IPV4),
        ValueKind::Ipv6 => dice.skewed(IPV6),
        ValueKind::Ipv4Mask => dice.pick(&["0", "1", "8", "16", "23", "24", "25", "31", "32"]),
        ValueKind::Ipv6Mask => dice.pick(&["0", "10", "48", "61", "64", "127", "128"]),
        ValueKind::EtherType(least) if least < 0x600 && dice.chance(20) => dice.pick(&["0x3c", "100"]),
        ValueKind::EtherType(_) => dice.pick(TYPES),
        ValueKind::U8 => dice.pick(&["0", "1", "2", "8", "3", "128", "135", "255"]),
        ValueKind::U16 | ValueKind::Decimal16 => {
            dice.skewed(&["80", "53", "1", "2", "0", "256", "32768", "65535"])
        }
        ValueKind::U32 => dice.pick(&["0", "1", "100", "65536", "4294967295"]),
        ValueKind::VlanId => dice.pick(&["0", "1", "5", "4095"]),
        ValueKind::ArpOpcode => dice.pick(&["0", "1", "2", "3", "4", "65535"]),
        ValueKind::IpProtocol => dice.pick(PROTOCOL_NUMBERS),
        ValueKind::Dscp => dice.pick(&["0", "1", "10", "46", "63"]),
        ValueKind::Bool => dice.pick(&["true", "false"]),
        ValueKind::TcpFlags => {
            dice.pick(&["SYN/SYN", "SYN,ACK/SYN", "ALL/NONE", "FIN,RST/RST", "ALL/ALL", "NONE/NONE"])
        }
        ValueKind::Comment | ValueKind::States | ValueKind::IpsetName | ValueKind::IpsetFlags => "",
    }
}

fn variable(kind: ValueKind) -> Option<&'static str> {
    Some(match kind {
        ValueKind::Mac => "MAC",
        ValueKind::Ipv4 => "IP",
        ValueKind::Ipv6 => "IP6",
        ValueKind::Ipv4Mask => "MASK",
        ValueKind::EtherType(_) => "TYPE",
        ValueKind::U8 => "SMALL",
        ValueKind::U16 => "NUMBER",
        ValueKind::IpProtocol => "PROTOCOL",
        _ => return None,
    })
}

/// Lists of one length, so that they can be walked in step.
fn vars(dice: &mut Dice) -> Vars {
    let mut vars = Vars::default();
    let length = 1 + dice.below(3);
    let kinds = [
        ValueKind::Mac,
        ValueKind::Ipv4,
        ValueKind::Ipv6,
        ValueKind::Ipv4Mask,
        ValueKind::EtherType(0x600),
        ValueKind::U8,
        ValueKind::U16,
        ValueKind::IpProtocol,
    ];
    for kind in kinds {
        let name = variable(kind).unwrap();
        (0..length).for_each(|_| vars.push(name, literal(dice, kind)));
    }
    vars
}
