//! Every match, action, field and set there is, as rules.

use crate::build::*;
use nwfilter::document::field::Field;
use nwfilter::program::ir::*;
use std::collections::BTreeMap;

pub const MAC: [u8; 6] = [0x52, 0x54, 0, 1, 2, 3];
pub const OTHER: [u8; 6] = [0x52, 0x54, 0, 1, 2, 4];
pub const IP: [u8; 4] = [10, 1, 2, 3];
pub const IP2: [u8; 4] = [10, 1, 2, 9];
pub const IPV4: [u8; 2] = [8, 0];
pub const ARP: [u8; 2] = [8, 6];
pub const RARP: [u8; 2] = [0x80, 0x35];
pub const VLAN: [u8; 2] = [0x81, 0];
pub const IPV6: [u8; 2] = [0x86, 0xdd];

pub fn ip6(last: u8) -> [u8; 16] {
    let mut address = [0; 16];
    (address[0], address[1], address[15]) = (0xfe, 0x80, last);
    address
}

/// The matches that every family has words for, in a frame whose protocol is known to be IPv4 and so on.
pub fn matches() -> Vec<Vec<Match>> {
    use Field::*;
    let proto = |value: &[u8; 2]| is(KeySource::Protocol, value);
    let l4 = |number: u8| is(KeySource::L4Proto, &[number]);
    let ip4 = || eq(EtherType, &IPV4);
    let port = |number: u16| number.to_be_bytes();
    let mut all = vec![
        vec![eq(EtherSaddr, &MAC)],
        vec![ne(EtherSaddr, &MAC)],
        vec![eq(EtherType, &RARP)],
        vec![ne(EtherType, &IPV4)],
        vec![eq(EtherSaddr, &MAC), eq(EtherDaddr, &OTHER)],
        vec![ne(EtherSaddr, &MAC), ne(EtherDaddr, &OTHER)],
        vec![ne(EtherDaddr, &MAC), eq(EtherType, &ARP), ne(EtherSaddr, &OTHER)],
        vec![ip4(), eq(EtherSaddr, &MAC), eq(IpSaddr, &IP), eq(IpDaddr, &IP2)],
        vec![masked(EtherSaddr, &[255, 255, 255, 0, 0, 0], false, &[0x52, 0x54, 0, 0, 0, 0])],
        vec![masked(EtherDaddr, &[1, 0, 0, 0, 0, 0], true, &[1, 0, 0, 0, 0, 0])],
        vec![masked(EtherDaddr, &[255; 6], true, &MAC)],
        vec![one_of(vec![f(EtherSaddr)], &[KeyType::Ether], false, &[&MAC, &OTHER])],
        vec![one_of(vec![f(EtherSaddr)], &[KeyType::Ether], true, &[&MAC, &OTHER])],
        vec![one_of(vec![f(EtherSaddr)], &[KeyType::Ether], true, &[&MAC])],
        vec![one_of(vec![f(EtherType)], &[KeyType::EtherType], false, &[&IPV4, &ARP, &RARP])],
        vec![range(f(EtherSaddr), false, &MAC, &OTHER)],
        vec![range(f(EtherSaddr), true, &MAC, &OTHER)],
        vec![eq(EtherType, &VLAN), eq(VlanId, &[0, 5])],
        vec![eq(EtherType, &VLAN), ne(VlanId, &[0, 5]), eq(VlanType, &IPV4)],
        vec![eq(EtherType, &VLAN), range(f(VlanId), false, &[0, 5], &[0, 9])],
        vec![eq(EtherType, &VLAN), masked(VlanId, &[0, 0x0f], false, &[0, 5])],
        vec![eq(EtherType, &VLAN), one_of(vec![f(VlanId)], &[KeyType::Port], false, &[&[0, 5], &[0, 6]])],
        vec![eq(EtherType, &VLAN), eq(EtherSaddr, &MAC), eq(VlanId, &[0, 5])],
        vec![eq(VlanId, &[0, 5])],
        vec![eq(StpHeader, &[0x42, 0x42, 3, 0, 0, 0]), eq(StpType, &[0x80])],
        vec![masked(StpFlags, &[0x0f], false, &[1]), range(f(StpRootPriority), false, &[0, 1], &[0x80, 0])],
        vec![
            range(f(StpPort), true, &[0, 1], &[0, 9]),
            eq(StpRootAddress, &MAC),
            ne(StpRootCost, &[0, 0, 0, 4]),
        ],
        vec![
            eq(StpSenderPriority, &[0, 1]),
            masked(StpSenderAddress, &[255, 0, 0, 0, 0, 0], true, &[2, 0, 0, 0, 0, 0]),
        ],
        vec![
            eq(StpAge, &[0, 1]),
            eq(StpMaxAge, &[0, 2]),
            eq(StpHelloTime, &[0, 3]),
            eq(StpForwardDelay, &[0, 4]),
        ],
        vec![
            eq(EtherType, &ARP),
            eq(ArpHtype, &[0, 1]),
            eq(ArpPtype, &IPV4),
            eq(ArpHlen, &[6]),
            eq(ArpPlen, &[4]),
        ],
        vec![eq(EtherType, &ARP), eq(ArpOperation, &[0, 1]), eq(ArpSaddrEther, &MAC), eq(ArpSaddrIp, &IP)],
        vec![eq(EtherType, &ARP), ne(ArpOperation, &[0, 9]), eq(ArpDaddrEther, &MAC), ne(ArpDaddrIp, &IP)],
        vec![eq(EtherType, &ARP), masked(ArpSaddrIp, &[255, 255, 255, 0], false, &[10, 1, 2, 0])],
        vec![
            eq(EtherType, &ARP),
            one_of(vec![f(ArpOperation)], &[KeyType::Port], false, &[&[0, 1], &[0, 7]]),
        ],
        vec![eq(EtherType, &RARP), eq(ArpOperation, &[0, 3]), eq(ArpSaddrIp, &IP)],
        vec![proto(&ARP), eq(ArpSaddrIp, &IP)],
        vec![ip4(), ne(IpSaddr, &IP), ne(IpDaddr, &IP2)],
        vec![ip4(), proto(&IPV4), eq(IpSaddr, &IP)],
        vec![proto(&IPV4), eq(IpSaddr, &IP)],
        vec![eq(EtherSaddr, &MAC), proto(&IPV4), eq(IpSaddr, &IP)],
        vec![proto(&IPV4), eq(EtherSaddr, &MAC), eq(IpSaddr, &IP)],
        vec![proto(&IPV4)],
        vec![eq(IpSaddr, &IP)],
        vec![masked(IpSaddr, &[255, 0, 0, 0], false, &[10, 0, 0, 0]), eq(Ip6Saddr, &ip6(1))],
        vec![one_of(vec![f(IpSaddr)], &[KeyType::Ipv4], false, &[&IP, &IP2])],
        vec![eq(IpProtocol, &[6]), range(f(IpSaddr), false, &IP, &IP2), range(f(IpDaddr), true, &IP, &IP2)],
        vec![ip4(), range(f(IpSaddr), false, &IP, &IP2), range(f(IpDaddr), true, &IP, &IP2)],
        vec![ip4(), eq(IpProtocol, &[17]), eq(ThDport, &port(53))],
        vec![ip4(), eq(IpDscp, &[0x14])],
        vec![ip4(), ne(IpDscp, &[0x14]), range(f(IpDscp), false, &[0x14], &[0x1c])],
        vec![ip4(), one_of(vec![f(IpDscp)], &[KeyType::IpProtocol], false, &[&[0x14], &[0x1c]])],
        vec![eq(EtherType, &IPV6), eq(Ip6Dscp, &[1, 0x40])],
        vec![eq(EtherType, &IPV6), eq(Ip6Saddr, &ip6(1)), ne(Ip6Daddr, &ip6(2))],
        vec![
            eq(EtherType, &IPV6),
            range(f(Ip6Saddr), false, &ip6(1), &ip6(5)),
            range(f(Ip6Daddr), true, &ip6(1), &ip6(5)),
        ],
        vec![eq(EtherType, &IPV6), one_of(vec![f(Ip6Saddr)], &[KeyType::Ipv6], true, &[&ip6(1), &ip6(5)])],
        vec![eq(Ip6Saddr, &ip6(1))],
        vec![ip4(), l4(6), eq(ThSport, &port(80)), eq(ThDport, &port(81))],
        vec![ip4(), l4(6), eq(ThDport, &port(80)), eq(ThSport, &port(81)), eq(EtherSaddr, &MAC)],
        vec![ip4(), l4(17), ne(ThSport, &port(80)), ne(ThDport, &port(81))],
        vec![
            l4(132),
            range(f(ThDport), false, &port(1000), &port(2000)),
            range(f(ThSport), true, &port(1), &port(5)),
        ],
        vec![l4(17), one_of(vec![f(ThDport)], &[KeyType::Port], false, &[&port(53), &port(67)])],
        vec![eq(ThDport, &port(80))],
        vec![ip4(), l4(6), masked(TcpFlags, &[0x17], false, &[2])],
        vec![ip4(), l4(6), masked(TcpFlags, &[0x12], true, &[0x12])],
        vec![l4(6), masked(TcpFlags, &[0x3f], false, &[0])],
        vec![l4(6), masked(TcpFlags, &[0x02], false, &[2])],
        vec![l4(6), eq(TcpFlags, &[2])],
        vec![
            l4(6),
            one_of(vec![Key::masked(TcpFlags, &[0x12])], &[KeyType::IpProtocol], false, &[&[2], &[0x10]]),
        ],
        vec![masked(TcpFlags, &[0x12], false, &[2])],
        vec![ip4(), l4(6), Match::TcpOption { kind: 5, negated: false }],
        vec![l4(6), Match::TcpOption { kind: 254, negated: true }],
        vec![ip4(), l4(1), eq(IcmpType, &[8])],
        vec![ip4(), l4(1), eq(IcmpType, &[8]), eq(IcmpCode, &[0])],
        vec![ip4(), l4(1), ne(IcmpType, &[8]), ne(IcmpCode, &[1])],
        vec![ip4(), l4(1), eq(IcmpType, &[3]), range(f(IcmpCode), false, &[1], &[3])],
        vec![ip4(), l4(1), one_of(vec![f(IcmpType)], &[KeyType::IpProtocol], false, &[&[8], &[13]])],
        vec![eq(IcmpType, &[8])],
        vec![eq(EtherType, &IPV6), l4(58), eq(Icmp6Type, &[128]), eq(Icmp6Code, &[0])],
        vec![
            eq(EtherType, &IPV6),
            l4(58),
            one_of(vec![f(Icmp6Type)], &[KeyType::IpProtocol], false, &[&[135], &[136]]),
        ],
        vec![l4(99)],
        vec![one_of(
            vec![Key::new(KeySource::L4Proto)],
            &[KeyType::IpProtocol],
            false,
            &[&[6], &[17], &[50], &[51], &[58], &[2], &[136], &[99]],
        )],
        vec![one_of(vec![Key::new(KeySource::Protocol)], &[KeyType::EtherType], true, &[&IPV4, &RARP])],
        vec![is(KeySource::Iif, &index(5)), is(KeySource::Oif, &index(6))],
        vec![Match::Compare {
            key: Key::new(KeySource::Iif),
            negated: true,
            value: index(5).as_slice().into(),
        }],
        vec![one_of(vec![Key::new(KeySource::Iif)], &[KeyType::IfIndex], false, &[&index(5), &index(600)])],
        vec![one_of(
            vec![Key::new(KeySource::Iif), f(ThDport)],
            &[KeyType::IfIndex, KeyType::Port],
            false,
            &[&element(&[&index(5), &port(80)]), &element(&[&index(6), &port(81)])],
        )],
        vec![one_of(
            vec![Key::new(KeySource::L4Proto), f(ThDport)],
            &[KeyType::IpProtocol, KeyType::Port],
            false,
            &[&element(&[&[6], &port(80)])],
        )],
        vec![within(vec![Key::new(KeySource::Iif)], false, "bound")],
        vec![within(vec![Key::new(KeySource::Oif)], true, "bound")],
        vec![proto(&IPV4), within(vec![f(IpSaddr)], false, "addresses")],
        vec![proto(&IPV4), within(vec![Key::new(KeySource::Oif), f(IpDaddr)], true, "IP.ipv4")],
        vec![
            proto(&IPV4),
            within(
                vec![Key::new(KeySource::Iif), Key::masked(IpSaddr, &[255, 255, 255, 0])],
                false,
                "IP.ipv4",
            ),
        ],
        vec![proto(&IPV6), within(vec![Key::new(KeySource::Iif), f(Ip6Saddr)], false, "IP.ipv6")],
        vec![within(vec![Key::new(KeySource::Iif), f(ThDport)], false, "ports")],
    ];
    for bits in [1u32, 7, 8, 9, 16, 20, 24, 31, 32] {
        let mask = (!0u32 << (32 - bits)).to_be_bytes();
        let net = (u32::from_be_bytes(IP) & u32::from_be_bytes(mask)).to_be_bytes();
        all.push(vec![ip4(), masked(IpSaddr, &mask, false, &net)]);
        all.push(vec![ip4(), masked(IpDaddr, &mask, true, &net)]);
    }
    all.push(vec![ip4(), masked(IpSaddr, &[255, 0, 255, 0], false, &[10, 0, 2, 0])]);
    all.push(vec![ip4(), masked(IpSaddr, &[0; 4], false, &[0; 4])]);
    for bits in [10, 64, 100, 128] {
        let mask = (!0u128 << (128 - bits)).to_be_bytes();
        let net = (u128::from_be_bytes(ip6(1)) & u128::from_be_bytes(mask)).to_be_bytes();
        all.push(vec![eq(EtherType, &IPV6), masked(Ip6Saddr, &mask, bits == 64, &net)]);
    }
    all
}

/// Matches with words in the bridge family alone: a link-layer field together with a named set.
pub fn bridge_matches() -> Vec<Vec<Match>> {
    use Field::*;
    vec![
        vec![
            eq(EtherType, &IPV4),
            one_of(
                vec![Key::new(KeySource::Iif), f(EtherSaddr), f(IpSaddr)],
                &[KeyType::IfIndex, KeyType::Ether, KeyType::Ipv4],
                false,
                &[&element(&[&index(5), &MAC, &IP]), &element(&[&index(6), &OTHER, &IP2])],
            ),
        ],
        vec![eq(EtherType, &IPV4), within(vec![Key::new(KeySource::Iif), f(IpSaddr)], false, "IP.ipv4")],
        vec![
            eq(EtherType, &IPV4),
            one_of(
                vec![Key::masked(IpSaddr, &[255, 255, 0, 0]), Key::masked(IpDaddr, &[255, 0, 255, 0])],
                &[KeyType::Ipv4; 2],
                true,
                &[&element(&[&[10, 1, 0, 0], &[10, 0, 2, 0]])],
            ),
        ],
        vec![within(vec![Key::new(KeySource::Iif), f(EtherSaddr)], false, "MAC.ether")],
        vec![within(vec![Key::new(KeySource::Oif), f(EtherDaddr)], true, "MAC.ether")],
        vec![within(
            vec![Key::new(KeySource::Iif), Key::masked(EtherSaddr, &[255, 255, 255, 0, 0, 0])],
            false,
            "MAC.ether",
        )],
        vec![eq(EtherType, &ARP), within(vec![Key::new(KeySource::Iif), f(ArpSaddrIp)], true, "IP.ipv4")],
        vec![eq(EtherType, &VLAN), is(KeySource::Protocol, &IPV4), eq(IpSaddr, &IP)],
    ]
}

pub fn actions() -> Vec<Action> {
    let bytes = |value: &[u8]| Bytes::from(value);
    let x = || name("x/out");
    vec![
        Action::Accept,
        Action::Drop,
        Action::Return,
        Action::Continue,
        Action::Jump(x()),
        Action::Goto(x()),
        Action::Notrack,
        Action::Trace,
        Action::Vmap(vec![Key::new(KeySource::Iif)], name("from-guest")),
        Action::AnonymousVmap(
            f(Field::EtherType),
            BTreeMap::from([
                (bytes(&IPV4), Verdict::Jump(x())),
                (bytes(&ARP), Verdict::Goto(x())),
                (bytes(&RARP), Verdict::Drop),
                (bytes(&IPV6), Verdict::Accept),
            ]),
        ),
        Action::AnonymousVmap(
            Key::new(KeySource::L4Proto),
            BTreeMap::from([(bytes(&[6]), Verdict::Jump(x()))]),
        ),
        Action::AnonymousVmap(
            Key::new(KeySource::Iif),
            BTreeMap::from([(bytes(&index(7)), Verdict::Accept), (bytes(&index(800)), Verdict::Drop)]),
        ),
    ]
}

pub fn sets() -> Vec<(&'static str, Set)> {
    use KeyType::*;
    let none = ElementValue::None;
    let port = 80u16.to_be_bytes();
    vec![
        (
            "bound",
            set(&[IfIndex], ValueType::None, &[(&index(5), none.clone()), (&index(600), none.clone())]),
        ),
        ("addresses", set(&[Ipv4], ValueType::None, &[(&IP, none.clone())])),
        (
            "MAC.ether",
            set(&[IfIndex, Ether], ValueType::None, &[(&element(&[&index(5), &MAC]), none.clone())]),
        ),
        ("IP.ipv4", set(&[IfIndex, Ipv4], ValueType::None, &[(&element(&[&index(5), &IP]), none.clone())])),
        (
            "IP.ipv6",
            set(&[IfIndex, Ipv6], ValueType::None, &[(&element(&[&index(5), &ip6(1)]), none.clone())]),
        ),
        ("ports", set(&[IfIndex, Port], ValueType::None, &[(&element(&[&index(5), &port]), none.clone())])),
        (
            "all.kinds",
            set(
                &[IfName, EtherType, IpProtocol],
                ValueType::None,
                &[(&element(&[b"br0\0\0\0\0\0\0\0\0\0\0\0\0\0", &ARP, &[6]]), none)],
            ),
        ),
        ("empty", set(&[IfName], ValueType::None, &[])),
        (
            "from-guest",
            set(&[IfIndex], ValueType::Verdict, &[(&index(5), ElementValue::Jump(name("x/out")))]),
        ),
        (
            "zones",
            set(
                &[IfIndex],
                ValueType::Zone,
                &[(&index(5), ElementValue::Zone(7)), (&index(6), ElementValue::Zone(900))],
            ),
        ),
    ]
}

pub fn table_of(rules: Vec<Rule>, hook: Hook) -> Table {
    let mut table = Table::default();
    table.sets.extend(sets().into_iter().map(|(text, set)| (name(text), set)));
    table.chains.insert(name("x/out"), Chain::default().into());
    table.chains.insert(name("base"), Chain { hook: Some(hook), rules: Vec::new() }.into());
    for (number, rule) in rules.into_iter().enumerate() {
        table.chains.insert(name(&format!("c{number:03}")), Chain { hook: None, rules: vec![rule] }.into());
    }
    table
}

pub fn rules(matches: Vec<Vec<Match>>) -> Vec<Rule> {
    let one = |(number, matches): (usize, Vec<Match>)| {
        let mut rule = Rule::new(matches, Action::Accept);
        rule.counter = number % 2 == 0;
        rule.origin = if number % 3 == 0 { origin("clean-traffic", number as u32) } else { None };
        rule
    };
    let acting = actions().into_iter().map(|action| Rule::new(vec![], action));
    matches.into_iter().enumerate().map(one).chain(acting).collect()
}

pub fn hook(point: HookPoint, device: Option<&str>) -> Hook {
    Hook { point, priority: -150, device: device.map(str::to_string) }
}

/// What only the IP stack's own tables have: connection state, answers, counted connections.
pub fn inet_rules() -> Vec<Rule> {
    use Field::*;
    let state = |states, negated| Match::CtState { states, negated };
    let limit = |above, negated| Match::ConnLimit {
        set: name("counted"),
        keys: vec![Key::new(KeySource::Iif), f(IpSaddr)],
        above,
        negated,
    };
    let ip4 = || is(KeySource::Protocol, &IPV4);
    let mut rules: Vec<Rule> = [
        vec![state(1, false)],
        vec![state(2 | 4, false)],
        vec![state(1 | 2, true)],
        vec![state(8, true)],
        vec![Match::CtDirection(CtDirection::Original)],
        vec![Match::CtDirection(CtDirection::Reply), state(2, false)],
        vec![ip4(), limit(5, false)],
        vec![ip4(), limit(1, true)],
        vec![ip4(), eq(IpSaddr, &IP), limit(5, false), eq(IpDaddr, &IP2)],
    ]
    .map(|matches| Rule::new(matches, Action::Drop))
    .into();
    rules.push(Rule::new(vec![is(KeySource::L4Proto, &[6])], Action::Reject(Reject::TcpReset)));
    rules.push(Rule::new(vec![], Action::Reject(Reject::PortUnreachable)));
    rules.push(Rule::new(vec![], Action::SetZone(vec![Key::new(KeySource::Iif)], name("zones"))));
    rules.push(Rule::new(vec![], Action::Zone(7)));
    rules
}

/// A small table whose every part can be read back.
pub fn small() -> Ruleset {
    let rule = Rule {
        counter: true,
        origin: origin("clean-traffic", 1),
        ..Rule::new(vec![eq(Field::EtherSaddr, &MAC)], Action::Accept)
    };
    let table = table_of(vec![rule, Rule::new(vec![], Action::Drop)], hook(HookPoint::Prerouting, None));
    Ruleset { tables: BTreeMap::from([(Family::Bridge, table)]) }
}
