//! Our batches against the kernel, with nft as the judge: what we send must list as what nft loads from our text.
//!
//! Every test steps into a network namespace of its own thread, needs root, and leaves nothing behind.

use nwfilter::apply::{Kernel, Stage};
use nwfilter::field::Field;
use nwfilter::ir::*;
use nwfilter::nft::Ownership;
use nwfilter::plan::{Change, Plan, SetType, Step};
use nwfilter::span::{Place, Source, Span};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::{Command, Output, Stdio};

/// Runs in a fresh network namespace; none, with a line that says so, where that needs rights we have not.
fn in_namespace(body: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: unshare takes a flag and touches no memory.
            if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
                println!("skipped: a network namespace needs root");
                return;
            }
            body();
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

fn run(program: &str, arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn nft(arguments: &str, input: &str) -> String {
    let output = run("nft", &arguments.split(' ').collect::<Vec<_>>(), input);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "nft {arguments}: {err}\n{input}");
    out.into_owned()
}

/// The rule set as people read it, and its bytecode without what differs by nature: notes, the order of a set.
fn listing() -> String {
    let bytecode = nft("--debug=netlink -s list ruleset", "");
    let (mut lines, mut elements) = (Vec::new(), Vec::new());
    for line in bytecode.lines().filter(|line| !line.trim_start().starts_with("userdata")) {
        match line.trim_start().starts_with("element") {
            true => elements.extend(line.split("[end]").map(str::trim).filter(|item| !item.is_empty())),
            false if line.is_empty() => {}
            false => lines.push(number_free(line)),
        }
    }
    elements.sort_unstable();
    nft("-s list ruleset", "") + &lines.join("\n") + &elements.join("\n")
}

/// Constant sets and rules are numbered in the order in which they were made.
fn number_free(line: &str) -> String {
    let rule = line.contains(" nwfilter ");
    let words =
        line.split(' ').map(|word| match rule || word.starts_with("__set") || word.starts_with("__map") {
            true => word.trim_end_matches(|c: char| c.is_ascii_digit()),
            false => word,
        });
    words.collect::<Vec<_>>().join(" ")
}

fn name(text: &str) -> Name {
    text.into()
}

fn step(family: Family, change: Change) -> Step {
    Step { family, change }
}

fn set_type(set: &Set) -> SetType {
    SetType { key: set.key.clone(), data: set.data, dynamic: set.dynamic }
}

/// Everything of a rule set, made in an order the kernel takes.
fn steps(ruleset: &Ruleset) -> Vec<Step> {
    let mut steps = Vec::new();
    for (family, table) in &ruleset.tables {
        let mut add = |change| steps.push(step(*family, change));
        add(Change::AddTable);
        table.sets.iter().for_each(|(name, set)| add(Change::AddSet(name.clone(), set_type(set))));
        for (name, chain) in &table.chains {
            add(Change::AddChain(name.clone(), chain.hook.clone()));
        }
        for (name, set) in table.sets.iter().filter(|(_, set)| !set.elements.is_empty()) {
            let elements = set.elements.iter().map(|(key, datum)| (key.clone(), datum.clone())).collect();
            add(Change::AddElements(name.clone(), set_type(set), elements));
        }
        for (name, chain) in &table.chains {
            chain.rules.iter().for_each(|rule| add(Change::AddRule(name.clone(), rule.clone())));
        }
    }
    steps
}

fn prepare(steps: Vec<Step>) -> Plan {
    Plan { prepare: steps, ..Plan::default() }
}

fn set(key: &[KeyType], data: Data, elements: &[(&[u8], Datum)]) -> Set {
    let elements = elements.iter().map(|(key, datum)| (Bytes::from(*key), datum.clone())).collect();
    Set { key: key.to_vec(), data, role: Role::Variable, dynamic: false, elements }
}

fn f(field: Field) -> Key {
    Key::field(field)
}

fn eq(field: Field, value: &[u8]) -> Match {
    Match::equals(f(field), value)
}

fn ne(field: Field, value: &[u8]) -> Match {
    Match::Compare { key: f(field), negated: true, value: value.into() }
}

fn masked(field: Field, mask: &[u8], negated: bool, value: &[u8]) -> Match {
    Match::Compare { key: Key::masked(field, mask), negated, value: value.into() }
}

fn range(key: Key, negated: bool, from: &[u8], to: &[u8]) -> Match {
    Match::Range { key, negated, from: from.into(), to: to.into() }
}

fn one_of(keys: Vec<Key>, types: &[KeyType], negated: bool, values: &[&[u8]]) -> Match {
    let values: BTreeSet<Bytes> = values.iter().map(|value| Bytes::from(*value)).collect();
    Match::Lookup { keys, negated, set: SetRef::Anonymous(types.to_vec(), values) }
}

fn within(keys: Vec<Key>, negated: bool, set: &str) -> Match {
    Match::Lookup { keys, negated, set: SetRef::Named(name(set)) }
}

fn is(from: From, value: &[u8]) -> Match {
    Match::equals(Key::new(from), value)
}

fn index(number: u32) -> [u8; 4] {
    number.to_ne_bytes()
}

fn element(parts: &[&[u8]]) -> Bytes {
    concat(parts)
}

fn origin(filter: &str, rule: u32) -> Option<Origin> {
    let source = Source::new("clean.xml", "<filter>\n  <rule/>\n</filter>");
    Some(Origin { filter: name(filter), rule, place: Place { source, span: Span::new(11..18) } })
}

const MAC: [u8; 6] = [0x52, 0x54, 0, 1, 2, 3];
const OTHER: [u8; 6] = [0x52, 0x54, 0, 1, 2, 4];
const IP: [u8; 4] = [10, 1, 2, 3];
const IP2: [u8; 4] = [10, 1, 2, 9];
const IPV4: [u8; 2] = [8, 0];
const ARP: [u8; 2] = [8, 6];
const RARP: [u8; 2] = [0x80, 0x35];
const VLAN: [u8; 2] = [0x81, 0];
const IPV6: [u8; 2] = [0x86, 0xdd];

fn ip6(last: u8) -> [u8; 16] {
    let mut address = [0; 16];
    (address[0], address[1], address[15]) = (0xfe, 0x80, last);
    address
}

/// The matches that every family has words for, in a frame whose protocol is known to be IPv4 and so on.
fn matches() -> Vec<Vec<Match>> {
    use Field::*;
    let proto = |value: &[u8; 2]| is(From::Protocol, value);
    let l4 = |number: u8| is(From::L4Proto, &[number]);
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
            vec![Key::new(From::L4Proto)],
            &[KeyType::IpProtocol],
            false,
            &[&[6], &[17], &[50], &[51], &[58], &[2], &[136], &[99]],
        )],
        vec![one_of(vec![Key::new(From::Protocol)], &[KeyType::EtherType], true, &[&IPV4, &RARP])],
        vec![is(From::Iif, &index(5)), is(From::Oif, &index(6))],
        vec![Match::Compare { key: Key::new(From::Iif), negated: true, value: index(5).as_slice().into() }],
        vec![one_of(vec![Key::new(From::Iif)], &[KeyType::IfIndex], false, &[&index(5), &index(600)])],
        vec![one_of(
            vec![Key::new(From::Iif), f(ThDport)],
            &[KeyType::IfIndex, KeyType::Port],
            false,
            &[&element(&[&index(5), &port(80)]), &element(&[&index(6), &port(81)])],
        )],
        vec![one_of(
            vec![Key::new(From::L4Proto), f(ThDport)],
            &[KeyType::IpProtocol, KeyType::Port],
            false,
            &[&element(&[&[6], &port(80)])],
        )],
        vec![within(vec![Key::new(From::Iif)], false, "bound")],
        vec![within(vec![Key::new(From::Oif)], true, "bound")],
        vec![proto(&IPV4), within(vec![f(IpSaddr)], false, "addresses")],
        vec![proto(&IPV4), within(vec![Key::new(From::Oif), f(IpDaddr)], true, "IP.ipv4")],
        vec![
            proto(&IPV4),
            within(vec![Key::new(From::Iif), Key::masked(IpSaddr, &[255, 255, 255, 0])], false, "IP.ipv4"),
        ],
        vec![proto(&IPV6), within(vec![Key::new(From::Iif), f(Ip6Saddr)], false, "IP.ipv6")],
        vec![within(vec![Key::new(From::Iif), f(ThDport)], false, "ports")],
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
fn bridge_matches() -> Vec<Vec<Match>> {
    use Field::*;
    vec![
        vec![
            eq(EtherType, &IPV4),
            one_of(
                vec![Key::new(From::Iif), f(EtherSaddr), f(IpSaddr)],
                &[KeyType::IfIndex, KeyType::Ether, KeyType::Ipv4],
                false,
                &[&element(&[&index(5), &MAC, &IP]), &element(&[&index(6), &OTHER, &IP2])],
            ),
        ],
        vec![eq(EtherType, &IPV4), within(vec![Key::new(From::Iif), f(IpSaddr)], false, "IP.ipv4")],
        vec![
            eq(EtherType, &IPV4),
            one_of(
                vec![Key::masked(IpSaddr, &[255, 255, 0, 0]), Key::masked(IpDaddr, &[255, 0, 255, 0])],
                &[KeyType::Ipv4; 2],
                true,
                &[&element(&[&[10, 1, 0, 0], &[10, 0, 2, 0]])],
            ),
        ],
        vec![within(vec![Key::new(From::Iif), f(EtherSaddr)], false, "MAC.ether")],
        vec![within(vec![Key::new(From::Oif), f(EtherDaddr)], true, "MAC.ether")],
        vec![within(
            vec![Key::new(From::Iif), Key::masked(EtherSaddr, &[255, 255, 255, 0, 0, 0])],
            false,
            "MAC.ether",
        )],
        vec![eq(EtherType, &ARP), within(vec![Key::new(From::Iif), f(ArpSaddrIp)], true, "IP.ipv4")],
        vec![eq(EtherType, &VLAN), is(From::Protocol, &IPV4), eq(IpSaddr, &IP)],
    ]
}

fn actions() -> Vec<Action> {
    let bytes = |value: &[u8]| Bytes::from(value);
    let x = || name("x/out");
    vec![
        Action::Accept,
        Action::Drop,
        Action::Return,
        Action::Continue,
        Action::Jump(x()),
        Action::Goto(x()),
        Action::Untracked,
        Action::Dispatch(vec![Key::new(From::Iif)], name("from-guest")),
        Action::Branch(
            f(Field::EtherType),
            BTreeMap::from([
                (bytes(&IPV4), Verdict::Jump(x())),
                (bytes(&ARP), Verdict::Goto(x())),
                (bytes(&RARP), Verdict::Drop),
                (bytes(&IPV6), Verdict::Accept),
            ]),
        ),
        Action::Branch(Key::new(From::L4Proto), BTreeMap::from([(bytes(&[6]), Verdict::Jump(x()))])),
        Action::Branch(
            Key::new(From::Iif),
            BTreeMap::from([(bytes(&index(7)), Verdict::Accept), (bytes(&index(800)), Verdict::Drop)]),
        ),
    ]
}

fn sets() -> Vec<(&'static str, Set)> {
    use KeyType::*;
    let none = Datum::None;
    let port = 80u16.to_be_bytes();
    vec![
        ("bound", set(&[IfIndex], Data::None, &[(&index(5), none.clone()), (&index(600), none.clone())])),
        ("addresses", set(&[Ipv4], Data::None, &[(&IP, none.clone())])),
        ("MAC.ether", set(&[IfIndex, Ether], Data::None, &[(&element(&[&index(5), &MAC]), none.clone())])),
        ("IP.ipv4", set(&[IfIndex, Ipv4], Data::None, &[(&element(&[&index(5), &IP]), none.clone())])),
        ("IP.ipv6", set(&[IfIndex, Ipv6], Data::None, &[(&element(&[&index(5), &ip6(1)]), none.clone())])),
        ("ports", set(&[IfIndex, Port], Data::None, &[(&element(&[&index(5), &port]), none.clone())])),
        (
            "all.kinds",
            set(
                &[IfName, EtherType, IpProtocol],
                Data::None,
                &[(&element(&[b"br0\0\0\0\0\0\0\0\0\0\0\0\0\0", &ARP, &[6]]), none)],
            ),
        ),
        ("empty", set(&[IfName], Data::None, &[])),
        ("from-guest", set(&[IfIndex], Data::Verdict, &[(&index(5), Datum::Goto(name("x/out")))])),
        ("zones", set(&[IfIndex], Data::Zone, &[(&index(5), Datum::Zone(7)), (&index(6), Datum::Zone(900))])),
    ]
}

fn table_of(rules: Vec<Rule>, hook: Hook) -> Table {
    let mut table = Table::default();
    table.sets.extend(sets().into_iter().map(|(text, set)| (name(text), set)));
    table.chains.insert(name("x/out"), Chain::default().into());
    table.chains.insert(name("base"), Chain { hook: Some(hook), rules: Vec::new() }.into());
    for (number, rule) in rules.into_iter().enumerate() {
        table.chains.insert(name(&format!("c{number:03}")), Chain { hook: None, rules: vec![rule] }.into());
    }
    table
}

/// Our batch, and nft with our text, must leave the same in the kernel.
fn check(kernel: &Kernel, ruleset: &Ruleset) {
    kernel.apply(prepare(steps(ruleset))).unwrap_or_else(|refused| panic!("{refused}"));
    let ours = listing();
    nft("flush ruleset", "");
    nft("-f -", &ruleset.to_string());
    let theirs = listing();
    nft("flush ruleset", "");
    if ours != theirs {
        let differing = ours.lines().zip(theirs.lines()).find(|(ours, theirs)| ours != theirs);
        let text = std::env::temp_dir().join("nwfilter-ours.txt");
        std::fs::write(&text, &ours).unwrap();
        std::fs::write(text.with_file_name("nwfilter-theirs.txt"), &theirs).unwrap();
        panic!("listings differ (both are in {}): {differing:?}", text.display());
    }
    assert!(ours.len() > 200, "something was listed: {ours}");
}

fn rules(matches: Vec<Vec<Match>>) -> Vec<Rule> {
    let one = |(number, matches): (usize, Vec<Match>)| {
        let mut rule = Rule::new(matches, Action::Accept);
        rule.counter = number % 2 == 0;
        rule.origin = if number % 3 == 0 { origin("clean-traffic", number as u32) } else { None };
        rule
    };
    let acting = actions().into_iter().map(|action| Rule::new(vec![], action));
    matches.into_iter().enumerate().map(one).chain(acting).collect()
}

fn hook(point: Point, device: Option<&str>) -> Hook {
    Hook { point, priority: -150, device: device.map(str::to_string) }
}

#[test]
fn a_bridge_rule_is_what_nft_makes_of_its_text() {
    in_namespace(|| {
        let kernel = Kernel::open(Ownership::Shared).unwrap();
        let rules = rules([matches(), bridge_matches()].concat());
        let table = table_of(rules, hook(Point::Prerouting, None));
        check(&kernel, &Ruleset { tables: BTreeMap::from([(Family::Bridge, table)]) });
    });
}

#[test]
fn a_netdev_rule_is_what_nft_makes_of_its_text() {
    in_namespace(|| {
        let kernel = Kernel::open(Ownership::Shared).unwrap();
        for point in [Point::Ingress, Point::Egress] {
            let table = table_of(rules(matches()), hook(point, Some("lo")));
            check(&kernel, &Ruleset { tables: BTreeMap::from([(Family::Netdev, table)]) });
        }
    });
}

/// What only the IP stack's own tables have: connection state, answers, counted connections.
fn inet_rules() -> Vec<Rule> {
    use Field::*;
    let state = |states, negated| Match::CtState { states, negated };
    let limit = |above, negated| Match::ConnLimit {
        set: name("counted"),
        keys: vec![Key::new(From::Iif), f(IpSaddr)],
        above,
        negated,
    };
    let ip4 = || is(From::Protocol, &IPV4);
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
    rules.push(Rule::new(vec![is(From::L4Proto, &[6])], Action::Reject(Reject::TcpReset)));
    rules.push(Rule::new(vec![], Action::Reject(Reject::PortUnreachable)));
    rules.push(Rule::new(vec![], Action::SetZone(vec![Key::new(From::Iif)], name("zones"))));
    rules
}

#[test]
fn an_inet_rule_is_what_nft_makes_of_its_text() {
    in_namespace(|| {
        let kernel = Kernel::open(Ownership::Shared).unwrap();
        let rules = [rules(matches()), inet_rules()].concat();
        let mut table = table_of(rules, hook(Point::Input, None));
        let counted = set(&[KeyType::IfIndex, KeyType::Ipv4], Data::None, &[]);
        table.sets.insert(name("counted"), Set { dynamic: true, role: Role::Foreign, ..counted });
        check(&kernel, &Ruleset { tables: BTreeMap::from([(Family::Inet, table)]) });
    });
}

#[test]
fn two_fields_are_compared_where_the_kernel_can_and_nft_still_lists() {
    in_namespace(|| {
        let kernel = Kernel::open(Ownership::Shared).unwrap();
        if !kernel.features().xor_registers.is_yes() {
            return println!("skipped: this kernel can not compare two fields");
        }
        let same = |left, right, negated| Match::Same { left: f(left), right: f(right), negated };
        let rules = vec![
            Rule::new(
                vec![eq(Field::EtherType, &ARP), same(Field::ArpSaddrIp, Field::ArpDaddrIp, false)],
                Action::Drop,
            ),
            Rule::new(vec![same(Field::EtherSaddr, Field::ArpSaddrEther, true)], Action::Drop),
            Rule::new(vec![same(Field::Ip6Saddr, Field::Ip6Daddr, true)], Action::Drop),
        ];
        let table = table_of(rules, hook(Point::Prerouting, None));
        kernel.apply(prepare(steps(&Ruleset { tables: BTreeMap::from([(Family::Bridge, table)]) }))).unwrap();
        let listed = nft("--debug=netlink list ruleset", "");
        assert!(listed.contains("bitwise reg 1"), "{listed}");
    });
}

#[test]
fn twenty_thousand_elements_arrive_and_leave() {
    in_namespace(|| {
        let kernel = Kernel::open(Ownership::Shared).unwrap();
        let key = |number: u32| element(&[&index(number), &MAC, &number.to_be_bytes()]);
        let elements = (0..20_000).map(|number| (key(number), Datum::None));
        let kind = set(&[KeyType::IfIndex, KeyType::Ether, KeyType::Ipv4], Data::None, &[]);
        let mut table = Table::default();
        table.sets.insert(name("many"), Set { elements: elements.collect(), ..kind.clone() });
        kernel.apply(prepare(steps(&Ruleset { tables: BTreeMap::from([(Family::Bridge, table)]) }))).unwrap();
        let seen =
            || kernel.observe().unwrap().families[&Family::Bridge].sets[&name("many")].elements.clone();
        assert_eq!(seen().len(), 20_000);
        assert!(seen().contains_key(&key(19_999)));
        let leave = (1..20_000).map(key).collect();
        let delete = Change::DeleteElements(name("many"), set_type(&kind), leave);
        kernel.apply(prepare(vec![step(Family::Bridge, delete)])).unwrap();
        assert_eq!(seen().into_keys().collect::<Vec<_>>(), [key(0)]);
    });
}

#[test]
fn a_constant_set_may_be_longer_than_a_message() {
    in_namespace(|| {
        let kernel = Kernel::open(Ownership::Shared).unwrap();
        let values: BTreeSet<Bytes> = (0..5000u32).map(|n| Bytes::from(n.to_be_bytes().as_slice())).collect();
        let set = SetRef::Anonymous(vec![KeyType::Ipv4], values);
        let lookup = Match::Lookup { keys: vec![f(Field::IpSaddr)], negated: false, set };
        let rule = Rule::new(vec![is(From::Protocol, &IPV4), lookup], Action::Drop);
        let table = table_of(vec![rule], hook(Point::Prerouting, None));
        check(&kernel, &Ruleset { tables: BTreeMap::from([(Family::Bridge, table)]) });
    });
}

/// A rule that jumps to a chain that is not there.
fn lost_rule(number: u32) -> Change {
    let rule = Rule { origin: origin("broken", number), ..Rule::new(vec![], Action::Jump(name("nowhere"))) };
    Change::AddRule(name("base"), rule)
}

#[test]
fn a_batch_with_three_faults_names_all_three_and_changes_nothing() {
    in_namespace(|| {
        let kernel = Kernel::open(Ownership::Shared).unwrap();
        let table = table_of(rules(matches()), hook(Point::Prerouting, None));
        kernel.apply(prepare(steps(&Ruleset { tables: BTreeMap::from([(Family::Bridge, table)]) }))).unwrap();
        let before = listing();
        let bridge = |change| step(Family::Bridge, change);
        let plan = prepare(vec![
            bridge(lost_rule(1)),
            bridge(Change::AddRule(name("base"), Rule::new(vec![], Action::Accept))),
            bridge(lost_rule(2)),
            bridge(Change::DeleteSet(name("no.such.set"))),
        ]);
        let refused = kernel.apply(plan).unwrap_err();
        assert_eq!(refused.stage, Stage::Prepare);
        let refusals: Vec<_> =
            refused.refusals.iter().map(|refusal| (refusal.step, refusal.errno())).collect();
        let missing = Some(libc::ENOENT);
        assert_eq!(refusals, [(Some(0), missing), (Some(2), missing), (Some(3), missing)], "{refused}");
        let text = refused.to_string();
        for said in [
            "clean.xml:2:3: rule broken:1: a rule of chain base",
            "rule broken:2",
            "set no.such.set in table bridge nwfilter: refused by the kernel: No such file",
        ] {
            assert!(text.contains(said), "{said:?} in {text}");
        }
        assert_eq!(listing(), before);
    });
}

#[test]
fn a_refused_switch_takes_back_what_prepare_made() {
    in_namespace(|| {
        let kernel = Kernel::open(Ownership::Shared).unwrap();
        let table = table_of(rules(matches()), hook(Point::Prerouting, None));
        kernel.apply(prepare(steps(&Ruleset { tables: BTreeMap::from([(Family::Bridge, table)]) }))).unwrap();
        let before = listing();
        let bridge = |change| step(Family::Bridge, change);
        let kind = SetType { key: vec![KeyType::IfIndex], data: Data::Verdict, dynamic: false };
        let jump = |to: &str| Rule::new(vec![], Action::Jump(name(to)));
        let plan = Plan {
            prepare: vec![
                bridge(Change::AddChain(name("new/a"), None)),
                bridge(Change::AddChain(name("new/b"), None)),
                bridge(Change::AddSet(name("new.map"), kind.clone())),
                bridge(Change::AddRule(
                    name("new/b"),
                    Rule::new(vec![], Action::Dispatch(vec![Key::new(From::Iif)], name("new.map"))),
                )),
                bridge(Change::AddRule(name("new/a"), jump("new/b"))),
                bridge(Change::AddElements(
                    name("new.map"),
                    kind,
                    vec![(index(9).as_slice().into(), Datum::Goto(name("x/out")))],
                )),
            ],
            switch: vec![bridge(Change::AddRule(name("base"), jump("new/a"))), bridge(lost_rule(7))],
            retire: vec![bridge(Change::DeleteChain(name("x/out")))],
        };
        let refused = kernel.apply(plan).unwrap_err();
        assert_eq!(
            (refused.stage, refused.refusals.len(), refused.litter.len()),
            (Stage::Switch, 1, 0),
            "{refused:?}"
        );
        assert_eq!(listing(), before);
    });
}

#[test]
fn what_no_kernel_could_be_told_is_refused_before_anything_is_sent() {
    in_namespace(|| {
        let kernel = Kernel::open(Ownership::Shared).unwrap();
        let check = |matches: Vec<Match>, said: &str| {
            let rule = Rule { origin: origin("long", 3), ..Rule::new(matches, Action::Accept) };
            let change = Change::AddRule(name("base"), rule);
            let plan = Plan {
                switch: vec![step(Family::Bridge, change)],
                ..prepare(vec![step(Family::Bridge, Change::AddTable)])
            };
            let refused = kernel.apply(plan).unwrap_err();
            assert!(refused.to_string().contains(said), "{said:?} in {refused}");
            assert!(refused.to_string().contains("rule long:3"), "{refused}");
            assert_eq!(nft("list ruleset", ""), "");
        };
        check(vec![eq(Field::EtherSaddr, &[1; 80])], "80 bytes");
        check(vec![eq(Field::EtherSaddr, &[])], "0 bytes");
        check(vec![masked(Field::IpSaddr, &[255, 0], false, &[1, 2, 3, 4])], "mask of 2 bytes");
        check(vec![ne(Field::ThDport, &[0, 80]); 70], "expressions");
        check(vec![one_of(vec![f(Field::EtherSaddr)], &[KeyType::Ether], false, &[])], "empty");
        check(vec![within(vec![f(Field::Ip6Saddr); 5], false, "bound")], "key of 80 bytes");
    });
}

#[test]
fn a_failing_retire_is_told_and_is_no_failure() {
    in_namespace(|| {
        let kernel = Kernel::open(Ownership::Shared).unwrap();
        let plan = Plan {
            switch: vec![step(Family::Bridge, Change::AddTable)],
            retire: vec![step(Family::Bridge, Change::DeleteChain(name("nowhere")))],
            ..Plan::default()
        };
        assert_eq!(kernel.apply(plan.clone()).unwrap().litter.len(), 1);
        let later =
            kernel.submit(plan, nwfilter::apply::Retire::AfterAnswer).blocking_recv().unwrap().unwrap();
        assert_eq!(later.litter, []);
        assert_eq!(kernel.apply(Plan::default()).unwrap().litter.len(), 1, "told with the next answer");
    });
}

/// A small table whose every part can be told again.
fn small() -> Ruleset {
    let rule = Rule {
        counter: true,
        origin: origin("clean-traffic", 1),
        ..Rule::new(vec![eq(Field::EtherSaddr, &MAC)], Action::Accept)
    };
    let table = table_of(vec![rule, Rule::new(vec![], Action::Drop)], hook(Point::Prerouting, None));
    Ruleset { tables: BTreeMap::from([(Family::Bridge, table)]) }
}

#[test]
fn what_is_read_back_is_what_was_sent() {
    in_namespace(|| {
        let kernel = Kernel::open(Ownership::Shared).unwrap();
        let mut ruleset = small();
        let device = table_of(vec![], hook(Point::Egress, Some("lo")));
        ruleset.tables.insert(Family::Netdev, device);
        kernel.apply(prepare(steps(&ruleset))).unwrap();
        let observed = kernel.observe().unwrap();
        assert_eq!(observed.families.keys().collect::<Vec<_>>(), ruleset.tables.keys().collect::<Vec<_>>());
        for (family, table) in &ruleset.tables {
            let seen = &observed.families[family];
            assert!(!seen.owner && seen.port.is_none());
            assert_eq!(seen.chains.keys().collect::<Vec<_>>(), table.chains.keys().collect::<Vec<_>>());
            for (name, chain) in &table.chains {
                let digests: Vec<_> = chain.rules.iter().map(|rule| Some(digest::rule(rule))).collect();
                assert_eq!(
                    seen.chains[name].rules.iter().map(|rule| rule.digest).collect::<Vec<_>>(),
                    digests
                );
                assert_eq!(seen.chains[name].hook, chain.hook);
            }
            for (name, set) in &table.sets {
                assert_eq!(seen.sets[name].ty, set_type(set), "{name}");
                let elements: BTreeMap<_, _> = set.elements.clone().into_iter().collect();
                assert_eq!(seen.sets[name].elements, elements, "{name}");
            }
            assert_eq!(seen.sets.len(), table.sets.len());
        }
        let rule = &observed.families[&Family::Bridge].chains[&name("c000")].rules[0];
        assert_eq!((rule.comment.as_deref(), rule.counter), (Some("clean-traffic:1"), Some((0, 0))));
    });
}

#[test]
fn an_owned_table_outlives_a_flush_and_its_owner_and_is_adopted() {
    in_namespace(|| {
        let kernel = Kernel::open(Ownership::OwnedAndKept).unwrap();
        if !kernel.features().owner_persist.is_yes() {
            return println!("skipped: this kernel has no owned tables that stay");
        }
        kernel.apply(prepare(steps(&small()))).unwrap();
        let seen = kernel.observe().unwrap();
        let table = &seen.families[&Family::Bridge];
        assert_eq!((table.owner, table.port), (true, Some(kernel.port())));
        let before = listing();
        nft("flush ruleset", "");
        assert_eq!(listing(), before, "a flush by others");

        // Another of us may not touch it as long as we live, and is told so.
        let other = Kernel::open(Ownership::OwnedAndKept).unwrap();
        let chain = Change::AddChain(name("intruder"), None);
        let refused = other
            .apply(prepare(vec![step(Family::Bridge, Change::AddTable), step(Family::Bridge, chain.clone())]))
            .unwrap_err();
        assert_eq!(refused.refusals[0].errno(), Some(libc::EPERM), "{refused}");
        assert!(refused.to_string().contains("another process may own the table"), "{refused}");

        drop(kernel);
        while other.observe().unwrap().families[&Family::Bridge].port.is_some() {
            std::thread::yield_now();
        }
        let unowned = |text: &str| {
            text.lines()
                .filter(|line| !line.contains("flags") && !line.contains("progname"))
                .collect::<Vec<_>>()
                .join("\n")
        };
        assert_eq!(unowned(&listing()), unowned(&before), "our end");
        other
            .apply(prepare(vec![step(Family::Bridge, Change::AddTable), step(Family::Bridge, chain)]))
            .unwrap();
        let adopted = other.observe().unwrap();
        assert_eq!(adopted.families[&Family::Bridge].port, Some(other.port()));
        assert_eq!(adopted.families[&Family::Bridge].chains.len(), table.chains.len() + 1);
        nft("flush ruleset", "");
        assert_eq!(other.observe().unwrap(), adopted);
    });
}

#[test]
fn a_shared_table_that_is_there_is_used_as_it_is() {
    in_namespace(|| {
        nft("-f -", "add table bridge nwfilter\nadd chain bridge nwfilter old\n");
        let kernel = Kernel::open(Ownership::OwnedAndKept).unwrap();
        kernel
            .apply(prepare(vec![
                step(Family::Bridge, Change::AddTable),
                step(Family::Bridge, Change::AddChain(name("new"), None)),
            ]))
            .unwrap();
        let table = &kernel.observe().unwrap().families[&Family::Bridge];
        assert!(!table.owner);
        assert_eq!(table.chains.keys().map(|name| &**name).collect::<Vec<_>>(), ["new", "old"]);
    });
}

#[test]
fn probes_leave_nothing_behind_and_agree_with_nft() {
    in_namespace(|| {
        let kernel = Kernel::open(Ownership::Shared).unwrap();
        let features = kernel.features();
        assert_eq!(nft("list tables", ""), "");
        let check = |what: &str, support: nwfilter::nft::probe::Support, text: &str| {
            let accepted = run("nft", &["-f", "-"], text).status.success();
            nft("flush ruleset", "");
            assert_eq!(support.is_yes(), accepted, "{what}: {support}");
        };
        let bridge = |rule: &str| {
            format!("table bridge t {{ chain c {{ type filter hook prerouting priority 0; {rule}\n }} }}\n")
        };
        check("bridge ct", features.bridge_ct, &bridge("ct state new accept"));
        check("bridge reject", features.bridge_reject, &bridge("reject with icmpx port-unreachable"));
        check("bridge meta", features.bridge_meta, &bridge("meta ibrname br0 accept"));
        check("connlimit", features.connlimit, &bridge("ct count over 5 accept"));
        check("tcp option", features.tcp_option, &bridge("tcp option 5 exists accept"));
        check("inet ct", features.inet_ct, &bridge("ct state new accept").replace("bridge", "inet"));
        let egress = "table netdev t { chain c { type filter hook egress device lo priority 0; } }\n";
        check("egress", features.netdev_egress, egress);
    });
}

#[test]
fn a_commit_by_others_is_heard_and_our_own_is_not() {
    use nwfilter::nft::watch::{Event, Watch};
    in_namespace(|| {
        let kernel = Kernel::open(Ownership::Shared).unwrap();
        let mut watch = Watch::open(Some(kernel.port())).unwrap();
        kernel.apply(prepare(steps(&small()))).unwrap();
        nft("-f -", "add table inet other\n");
        assert_eq!(watch.next_event().unwrap(), None, "our commit, and another's of another table");
        nft("-f -", "add chain bridge nwfilter intruder\n");
        let event = watch.next_event().unwrap();
        assert!(
            matches!(&event, Some(Event::Foreign { name, portid, .. }) if name == "nft" && *portid != kernel.port()),
            "{event:?}"
        );
        nft("flush ruleset", "");
        assert!(matches!(watch.next_event().unwrap(), Some(Event::Foreign { .. })));
        assert_eq!(watch.next_event().unwrap(), None);
    });
}
