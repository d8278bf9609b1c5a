//! Prints rule sets as nft text.
//!
//! What is printed for a whole rule set, `nft -f` (1.0.6 was tried) loads to the bytecode that our own batch holds.
//! There are exceptions. nft has no words for two fields compared with each other
//! ([`Match::Same`](crate::program::ir::Match)). It looks nothing up in a named set that has to go by its raw bytes: a link-layer
//! field outside of the bridge family, or one whose protocol no match before it has asked for. And it joins
//! neighbouring fields across a counted connection, which therefore belongs behind all other matches.
//! The order is that of the rule set, so equal rule sets print equally.

use crate::document::field::Base;
use crate::program::ir::lower::{LoweredRule, Op, lower};
use crate::program::ir::operand::{LoadSource, Operand, Style};
use crate::program::ir::value::{split, style_of, value};
use crate::program::ir::{
    Action, Bytes, Chain, CtDirection, ElementValue, Family, Hook, HookPoint, KeyType, Origin, Reject, Rule,
    Ruleset, Set, SetRef, TABLE, Table, ValueType, Verdict,
};
use std::fmt::{self, Display, Formatter};

/// A table with the family it belongs to, for printing.
#[derive(Clone, Copy, Debug)]
pub struct TableText<'a>(pub Family, pub &'a Table);

/// A rule as it reads in a table of a family, with its comment.
#[derive(Clone, Copy, Debug)]
pub struct RuleText<'a>(pub Family, pub &'a Rule);

/// A chain by its name, as it reads in a table of a family.
#[derive(Clone, Copy, Debug)]
pub struct ChainText<'a>(pub Family, pub &'a str, pub &'a Chain);

/// A set or map by its name.
#[derive(Clone, Copy, Debug)]
pub struct SetText<'a>(pub &'a str, pub &'a Set);

/// How many elements a set that rules fill may hold.
pub(crate) const DYNAMIC_SIZE: u32 = 65535;

/// Bytes of a comment, the closing zero included, that nft reads back.
const COMMENT: usize = 127;

impl Display for Ruleset {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (family, table) in &self.tables {
            TableText(*family, table).fmt(f)?;
        }
        Ok(())
    }
}

impl Display for TableText<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let TableText(family, table) = self;
        writeln!(f, "table {family} {TABLE} {{")?;
        for (name, set) in &table.sets {
            SetText(name, set).fmt(f)?;
        }
        for (name, chain) in &table.chains {
            ChainText(*family, name, chain).fmt(f)?;
        }
        writeln!(f, "}}")
    }
}

impl Display for SetText<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let SetText(name, set) = self;
        let kind = if set.data == ValueType::None { "set" } else { "map" };
        writeln!(f, "\t{kind} {name} {{")?;
        writeln!(f, "\t\t{}", set_type(&set.key, set.data))?;
        if set.dynamic {
            writeln!(f, "\t\tsize {DYNAMIC_SIZE}\n\t\tflags dynamic")?;
        }
        if set.counted {
            writeln!(f, "\t\tcounter")?;
        }
        if !set.elements.is_empty() && !set.dynamic {
            let elements = set.elements.iter().map(|(key, datum)| element(&set.key, key, datum));
            writeln!(f, "\t\telements = {{ {} }}", joined(elements, ", "))?;
        }
        writeln!(f, "\t}}")
    }
}

fn set_type(key: &[KeyType], data: ValueType) -> String {
    let types = |name: fn(KeyType) -> &'static str| joined(key.iter().map(|part| name(*part)), " . ");
    match data {
        ValueType::None => format!("type {}", types(type_name)),
        ValueType::Verdict => format!("type {} : verdict", types(type_name)),
        // The type of a zone has no name, only an expression has it.
        ValueType::Zone => format!("typeof {} : ct zone", types(type_example)),
    }
}

fn type_name(part: KeyType) -> &'static str {
    match part {
        KeyType::IfIndex => "iface_index",
        KeyType::IfName => "ifname",
        KeyType::Ether => "ether_addr",
        KeyType::Ipv4 => "ipv4_addr",
        KeyType::Ipv6 => "ipv6_addr",
        KeyType::Port => "inet_service",
        KeyType::EtherType => "ether_type",
        KeyType::IpProtocol => "inet_proto",
        KeyType::Mark => "mark",
    }
}

fn type_example(part: KeyType) -> &'static str {
    match part {
        KeyType::IfIndex => "iif",
        KeyType::IfName => "meta ibrname",
        KeyType::Ether => "ether saddr",
        KeyType::Ipv4 => "ip saddr",
        KeyType::Ipv6 => "ip6 saddr",
        KeyType::Port => "th sport",
        KeyType::EtherType => "ether type",
        KeyType::IpProtocol => "meta l4proto",
        KeyType::Mark => "meta mark",
    }
}

fn element(types: &[KeyType], key: &[u8], datum: &ElementValue) -> String {
    let lengths = types.iter().map(|part| part.length());
    let parts = split(key, lengths).zip(types).map(|(bytes, part)| value(style_of(*part), 0, bytes));
    let key = joined(parts, " . ");
    match datum {
        ElementValue::None => key,
        ElementValue::Jump(chain) => format!("{key} : jump {chain}"),
        ElementValue::Zone(zone) => format!("{key} : {zone}"),
    }
}

impl Display for ChainText<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let ChainText(family, name, chain) = self;
        writeln!(f, "\tchain {name} {{")?;
        if let Some(hook) = &chain.hook {
            writeln!(f, "\t\t{hook}")?;
        }
        for rule in &chain.rules {
            writeln!(f, "\t\t{}", RuleText(*family, rule))?;
        }
        writeln!(f, "\t}}")
    }
}

impl Display for Hook {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "type filter hook {}", self.point)?;
        if let Some(device) = &self.device {
            write!(f, " device \"{device}\"")?;
        }
        write!(f, " priority {}; policy accept;", self.priority)
    }
}

impl Display for HookPoint {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            HookPoint::Prerouting => "prerouting",
            HookPoint::Input => "input",
            HookPoint::Forward => "forward",
            HookPoint::Output => "output",
            HookPoint::Postrouting => "postrouting",
            HookPoint::Ingress => "ingress",
            HookPoint::Egress => "egress",
        })
    }
}

impl Display for Family {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Family::Bridge => "bridge",
            Family::Inet => "inet",
            Family::Netdev => "netdev",
        })
    }
}

impl Display for RuleText<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let RuleText(family, rule) = self;
        let LoweredRule { terms, keys } = lower(*family, rule);
        let mut words: Vec<String> =
            terms.iter().filter(|term| !term.implied).map(|term| test(&term.test)).collect();
        if rule.counter {
            words.push("counter".into());
        }
        words.extend(counted(rule).or_else(|| action(&rule.action, &keys)));
        if words.is_empty() {
            words.push("continue".into());
        }
        if let Some(origin) = &rule.origin {
            words.push(format!("comment \"{}\"", comment(origin)));
        }
        f.write_str(&words.join(" "))
    }
}

/// What a rule's comment in the kernel says: `filter:rule`, cut so that nft can read it back.
pub fn comment(origin: &Origin) -> String {
    let number = format!(":{}", origin.rule);
    // nft knows no escape inside of quotes.
    let mut text: String =
        origin.filter.chars().map(|c| if c == '"' || c.is_control() { '\'' } else { c }).collect();
    if text.len() + number.len() > COMMENT {
        let mut end = COMMENT - number.len() - 2;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push_str("..");
    }
    text + &number
}

fn test(test: &Op) -> String {
    match test {
        Op::Compare { left, negated, value } => {
            let operator = match (negated, shows_mask(left) || left.style == Style::TcpFlags) {
                (true, _) => "!= ",
                (false, true) => "== ",
                (false, false) => "",
            };
            format!("{} {operator}{}", name(left), of(left, value))
        }
        Op::Prefix { left, negated, value, bits } => {
            format!("{} {}{}/{bits}", bare_name(left), not(*negated), of(left, value))
        }
        Op::Range { left, negated, from, to } => {
            let operator = if *negated || !shows_mask(left) { not(*negated) } else { "== " };
            format!("{} {operator}{}-{}", name(left), of(left, from), of(left, to))
        }
        Op::Lookup { keys, negated, set } => {
            format!("{} {}{}", names(keys), not(*negated), set_ref(keys, set))
        }
        Op::Same { left, right, negated } => {
            format!("{} {} {}", name(left), if *negated { "!=" } else { "==" }, name(right))
        }
        Op::TcpOption { kind, negated } => {
            format!("tcp option {kind} {}", if *negated { "missing" } else { "exists" })
        }
        Op::CtState { states, negated: false } => format!("ct state {}", ct_states(*states, ",")),
        Op::CtState { states, negated: true } => format!("ct state & ({}) == 0", ct_states(*states, " | ")),
        Op::CtDirection(CtDirection::Original) => "ct direction original".into(),
        Op::CtDirection(CtDirection::Reply) => "ct direction reply".into(),
        Op::ConnLimit { set, keys, above, negated } => {
            let over = if *negated { "" } else { "over " };
            format!("add @{set} {{ {} ct count {over}{above} }}", names(keys))
        }
    }
}

fn not(negated: bool) -> &'static str {
    if negated { "!= " } else { "" }
}

fn ct_states(states: u32, separator: &str) -> String {
    let names = [(1, "invalid"), (2, "established"), (4, "related"), (8, "new")];
    joined(names.iter().filter(|(bit, _)| states & bit != 0).map(|(_, name)| name), separator)
}

fn shows_mask(operand: &Operand) -> bool {
    operand.mask.is_some() && !operand.mask_in_name
}

fn names(keys: &[Operand]) -> String {
    joined(keys.iter().map(name), " . ")
}

fn name(operand: &Operand) -> String {
    match &operand.mask {
        Some(mask) if shows_mask(operand) => format!("{} & {}", bare_name(operand), of(operand, mask)),
        _ => bare_name(operand),
    }
}

fn bare_name(operand: &Operand) -> String {
    match (operand.name, operand.source) {
        (Some(name), _) => name.into(),
        (None, LoadSource::Payload { base, offset, length }) => {
            let base = match base {
                Base::Link => "ll",
                Base::Network => "nh",
                Base::Transport => "th",
            };
            format!("@{base},{},{}", offset * 8, length * 8)
        }
        (None, LoadSource::Meta(_)) => unreachable!("what is no header field always has its name"),
    }
}

fn set_ref(keys: &[Operand], set: &SetRef) -> String {
    match set {
        SetRef::Named(name) => format!("@{name}"),
        SetRef::Anonymous(_, values) => {
            format!("{{ {} }}", joined(values.iter().map(|value| concatenated(keys, value)), ", "))
        }
    }
}

fn concatenated(keys: &[Operand], bytes: &Bytes) -> String {
    let lengths = keys.iter().map(Operand::length);
    joined(split(bytes, lengths).zip(keys).map(|(part, operand)| of(operand, part)), " . ")
}

/// How the frames are dropped that a rule counts.
fn counted(rule: &Rule) -> Option<String> {
    let tally = rule.tally?;
    Some(format!("meta mark set {:#010x} goto {}", tally.id, tally.chain(&rule.action)?))
}

fn action(action: &Action, keys: &[Operand]) -> Option<String> {
    Some(match action {
        Action::Accept => "accept".into(),
        Action::Drop => "drop".into(),
        Action::Reject(Reject::PortUnreachable) => "reject with icmpx port-unreachable".into(),
        Action::Reject(Reject::TcpReset) => "reject with tcp reset".into(),
        Action::Return => "return".into(),
        Action::Continue => return None,
        Action::Jump(chain) => format!("jump {chain}"),
        Action::Goto(chain) => format!("goto {chain}"),
        Action::Vmap(_, map) => format!("{} vmap @{map}", names(keys)),
        Action::AnonymousVmap(_, targets) if targets.is_empty() => return None,
        Action::AnonymousVmap(_, targets) => {
            let target = |(value, target): (&Bytes, &Verdict)| {
                format!("{} : {}", concatenated(keys, value), verdict(target))
            };
            format!("{} vmap {{ {} }}", names(keys), joined(targets.iter().map(target), ", "))
        }
        Action::SetZone(_, map) => format!("ct zone set {} map @{map}", names(keys)),
        Action::Zone(zone) => format!("ct zone set {zone}"),
        Action::Notrack => "notrack".into(),
        Action::Mark(mark) => format!("meta mark set {mark:#010x}"),
        Action::Trace => "meta nftrace set 1".into(),
        Action::Count(_, set) => format!("update @{set} {{ {} counter }}", names(keys)),
        Action::Unknown => "unknown".into(),
    })
}

fn verdict(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Accept => "accept".into(),
        Verdict::Drop => "drop".into(),
        Verdict::Jump(chain) => format!("jump {chain}"),
        Verdict::Goto(chain) => format!("goto {chain}"),
    }
}

fn of(operand: &Operand, bytes: &[u8]) -> String {
    value(operand.style, operand.shift, bytes)
}

fn joined(parts: impl Iterator<Item = impl Display>, separator: &str) -> String {
    parts.map(|part| part.to_string()).collect::<Vec<_>>().join(separator)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::field::Field;
    use crate::document::span::{Place, Source, Span};
    use crate::program::ir::{Key, KeySource, Match};

    fn check(family: Family, matches: Vec<Match>, expected: &str) {
        assert_eq!(RuleText(family, &Rule::new(matches, Action::Accept)).to_string(), expected);
    }

    fn eq(field: Field, value: &[u8]) -> Match {
        Match::equals(Key::field(field), value)
    }

    #[test]
    fn a_field_has_its_name_where_nft_would_add_nothing() {
        let (ip, rarp) = (Match::ether_type(0x0800), Match::ether_type(0x8035));
        let saddr = || eq(Field::IpSaddr, &[10, 0, 0, 1]);
        let protocol = Match::equals(Key::new(KeySource::Protocol), &[8, 0]);
        check(Family::Bridge, vec![ip.clone(), saddr()], "ether type ip ip saddr 10.0.0.1 accept");
        check(Family::Bridge, vec![protocol.clone(), saddr()], "ip saddr 10.0.0.1 accept");
        check(
            Family::Bridge,
            vec![protocol.clone(), rarp.clone()],
            "meta protocol ip ether type 0x8035 accept",
        );
        check(Family::Bridge, vec![saddr()], "@nh,96,32 0xa000001 accept");
        check(Family::Bridge, vec![rarp, saddr()], "ether type 0x8035 @nh,96,32 0xa000001 accept");
        check(
            Family::Netdev,
            vec![ip, protocol.clone(), saddr()],
            "@ll,96,16 0x800 ip saddr 10.0.0.1 accept",
        );
        check(Family::Inet, vec![protocol], "meta nfproto ipv4 accept");
    }

    #[test]
    fn masks_read_as_prefixes_where_they_are() {
        let masked = |field, mask: &[u8], value: &[u8]| Match::equals(Key::masked(field, mask), value);
        let ip = || Match::ether_type(0x0800);
        for (mask, text) in [
            ([255, 255, 255, 0], "ether type ip ip saddr 10.0.0.0/24 accept"),
            ([255, 255, 255, 255], "ether type ip ip saddr 10.0.0.0 accept"),
            ([255, 0, 255, 0], "ether type ip ip saddr & 255.0.255.0 == 10.0.0.0 accept"),
        ] {
            check(Family::Bridge, vec![ip(), masked(Field::IpSaddr, &mask, &[10, 0, 0, 0])], text);
        }
        let tcp = Match::equals(Key::new(KeySource::L4Proto), &[6]);
        let flags = masked(Field::TcpFlags, &[0x12], &[2]);
        check(Family::Bridge, vec![tcp, flags], "meta l4proto tcp tcp flags & (syn | ack) == syn accept");
    }

    #[test]
    fn neighbours_that_must_differ_stay_apart() {
        let differs =
            |field| Match::Compare { key: Key::field(field), negated: true, value: [0, 9].as_slice().into() };
        let text = "th sport != 9 th dport != 9-9 accept";
        check(Family::Bridge, vec![differs(Field::ThSport), differs(Field::ThDport)], text);
    }

    #[test]
    fn a_long_filter_name_leaves_room_for_the_rule() {
        let place = Place { source: Source::new("", ""), span: Span::default() };
        let long = Origin { filter: "ä\"".repeat(64).into(), rule: 17, id: 0, place };
        let text = comment(&long);
        assert!(text.len() <= COMMENT && text.ends_with("ä'ä..:17"), "{text}");
    }
}
