//! The conditions of a rule as matches, in the order in which each gives the next its context: Ethernet header, network
//! header, upper protocol, transport header, connection, sets.
//!
//! A match that must not hold is one negated match where nftables has it. Where it has none, the rule is several rules, so
//! that the answer is a list of alternatives.

use super::{Build, Direction};
use crate::document::diag::{Code, Diagnostic};
use crate::document::field::{Base, Field};
use crate::document::filter::{AddressEnd, state};
use crate::program::Slot;
use crate::program::ir::{Bytes, Key, KeySource, KeyType, Match, SetRef, concat};
use crate::program::resolve::{Condition, MemberField, Members, Predicate, ResolvedRule, leading_ones};
use std::collections::{BTreeMap, BTreeSet};

/// Alternatives that one rule may come to.
const ALTERNATIVES: usize = 256;

/// How a rule is looked at.
#[derive(Clone, Copy)]
pub(super) struct View {
    pub(super) direction: Direction,
    /// Whether both ends of the conversation are exchanged.
    pub(super) ends_swapped: bool,
    /// Whether the rule is one of the IP layer.
    pub(super) ip_layer: bool,
    /// Where the upper protocol of the rule's frames is read.
    pub(super) upper: KeySource,
    /// The type of addresses in sets.
    pub(super) address: KeyType,
}

/// Matches of which all must hold, each with its turn.
pub(super) type Matches = Vec<(u8, Match)>;

/// Turns of the matches in a rule.
pub(super) mod turn {
    pub(crate) const ETHER_TYPE: u8 = 0;
    pub(crate) const LINK: u8 = 1;
    pub(crate) const PROTOCOL: u8 = 2;
    pub(crate) const SHAPE: u8 = 3;
    pub(crate) const NETWORK: u8 = 4;
    pub(crate) const UPPER: u8 = 5;
    pub(crate) const TRANSPORT: u8 = 6;
    pub(crate) const STATE: u8 = 7;
    pub(crate) const DIRECTION: u8 = 8;
    pub(crate) const IPSET: u8 = 9;
    pub(crate) const LIMIT: u8 = 10;
}

/// The key of a single value.
pub(super) fn equals(field: Field, value: &[u8]) -> Match {
    Match::equals(Key::field(field), value)
}

/// Matches in their turns, each once.
pub(super) fn ordered(mut matches: Matches) -> Vec<Match> {
    matches.sort_by_key(|(turn, _)| *turn);
    let mut seen = BTreeSet::new();
    matches.into_iter().map(|(_, part)| part).filter(|part| seen.insert(part.clone())).collect()
}

impl Build<'_> {
    /// All ways in which the conditions of a rule that are asked for can hold.
    pub(super) fn alternatives(
        &mut self,
        rule: &ResolvedRule,
        view: View,
        wanted: &dyn Fn(&Condition) -> bool,
    ) -> Vec<Matches> {
        let mut all: Vec<Matches> = vec![Matches::new()];
        for condition in rule.conditions.iter().filter(|condition| wanted(condition)) {
            let ways = self.condition(condition, view);
            if all.len() * ways.len() > ALTERNATIVES {
                let message = "the negations of this rule ask for too many rules";
                let fault = Diagnostic::error(Code::INTERNAL, message);
                self.diagnostics.push(fault.at(rule.origin.place.clone(), "in this rule"));
                return Vec::new();
            }
            let with = |known: &Matches, way: &Matches| [&known[..], &way[..]].concat();
            all = all.iter().flat_map(|known| ways.iter().map(|way| with(known, way))).collect();
        }
        all
    }

    fn condition(&mut self, condition: &Condition, view: View) -> Vec<Matches> {
        match condition {
            Condition::Is(test) => vec![self.holds(test, view)],
            Condition::NoneOf(tests) => self.none_holds(tests, view),
            Condition::Member(parts, members) => vec![self.member(parts, members, view)],
            Condition::NoMember(part, slot) => {
                let keys = vec![Key::new(view.direction.index()), view.key(part)];
                let set = self.slot_set(slot.clone());
                vec![vec![(turn_of(view.field(part.field)), Match::Lookup { keys, negated: true, set })]]
            }
        }
    }

    /// The matches that all hold where the test holds. What always holds is no match.
    fn holds(&mut self, test: &Predicate, view: View) -> Matches {
        match test {
            Predicate::All(tests) => tests.iter().flat_map(|test| self.holds(test, view)).collect(),
            Predicate::Gratuitous if !self.options.features.xor_registers => same_by_octets(),
            Predicate::Equals { mask: Some(mask), .. } if is_zero(mask) => Matches::new(),
            test => self.single(test, view, false).into_iter().collect(),
        }
    }

    fn none_holds(&mut self, tests: &[Predicate], view: View) -> Vec<Matches> {
        let (listed, rest) = lists(tests);
        let mut all = vec![
            listed
                .into_iter()
                .map(|((field, mask), values)| unlisted(view, field, mask, &values))
                .collect::<Matches>(),
        ];
        for test in rest {
            let ways = self.fails(test, view);
            if all.len() * ways.len() > ALTERNATIVES
                || all.first().is_some_and(|direction| direction.len() > ALTERNATIVES)
            {
                // Too many anyway, which is reported where the condition is used.
                return vec![Matches::new(); ALTERNATIVES + 1];
            }
            all =
                all.iter().flat_map(|known| ways.iter().map(|way| [&known[..], &way[..]].concat())).collect();
        }
        all
    }

    /// The ways in which a test can fail; none where it always holds.
    fn fails(&mut self, test: &Predicate, view: View) -> Vec<Matches> {
        match test {
            Predicate::All(tests) => tests.iter().flat_map(|test| self.fails(test, view)).collect(),
            Predicate::Gratuitous if !self.options.features.xor_registers => {
                same_by_octets().into_iter().map(|part| vec![negated(part)]).collect()
            }
            Predicate::Equals { mask: Some(mask), .. } if is_zero(mask) => Vec::new(),
            test => self.single(test, view, true).into_iter().map(|part| vec![part]).collect(),
        }
    }

    /// A test that is one match.
    fn single(&mut self, test: &Predicate, view: View, negated: bool) -> Option<(u8, Match)> {
        Some(match test {
            Predicate::Equals { field, mask, value } => {
                let field = view.field(*field);
                let key = Key { from: KeySource::Field(field), mask: mask.clone() };
                (turn_of(field), Match::Compare { key, negated, value: value.clone() })
            }
            Predicate::Between { field, from, to } => {
                let field = view.field(*field);
                let key = Key::field(field);
                (turn_of(field), Match::Range { key, negated, from: from.clone(), to: to.clone() })
            }
            Predicate::UpperProtocol(number) => {
                let value: Bytes = [*number].into();
                (turn::UPPER, Match::Compare { key: Key::new(view.upper), negated, value })
            }
            Predicate::Gratuitous => {
                let (left, right) = (Key::field(Field::ArpSaddrIp), Key::field(Field::ArpDaddrIp));
                (turn::NETWORK, Match::Same { left, right, negated })
            }
            Predicate::TcpOption(kind) => (turn::TRANSPORT, Match::TcpOption { kind: *kind, negated }),
            Predicate::TcpFlags { mask, flags } => {
                let key = Key::masked(Field::TcpFlags, &[*mask]);
                (turn::TRANSPORT, Match::Compare { key, negated, value: [*flags].into() })
            }
            Predicate::State(states) if states & state::NONE != 0 => return None,
            Predicate::State(states) => (turn::STATE, Match::CtState { states: *states, negated }),
            Predicate::Ipset(name, sides) => {
                let keys = vec![Key::field(view.side(sides.first().copied().unwrap_or(AddressEnd::Source)))];
                let set = self.ipset(name, view.address);
                (turn::IPSET, Match::Lookup { keys, negated, set })
            }
            Predicate::ConnLimit(above) => {
                let set = self.connections(view.direction, view.address);
                let keys = vec![Key::new(view.direction.index()), Key::field(view.side(AddressEnd::Source))];
                (turn::LIMIT, Match::ConnLimit { set, keys, above: *above, negated })
            }
            Predicate::All(_) => unreachable!("several matches are taken apart before"),
        })
    }

    fn member(&mut self, parts: &[MemberField], members: &Members, view: View) -> Matches {
        // A value of which no bit counts asks for nothing, in a set as little as in a constant.
        let asks = |part: &MemberField| !view.mirrored_source_mac(part.field) && part.prefix != Some(0);
        let kept: Vec<usize> = (0..parts.len()).filter(|at| asks(&parts[*at])).collect();
        let keys: Vec<Key> = kept.iter().map(|at| view.key(&parts[*at])).collect();
        let turn = kept.iter().map(|at| turn_of(view.field(parts[*at].field))).max();
        let Some(turn) = turn else { return Matches::new() };
        match members {
            Members::Slot(slot) => {
                let slot = Slot { parts: kept.iter().map(|at| slot.parts[*at].clone()).collect() };
                let set = self.slot_set(slot);
                let keys = std::iter::once(Key::new(view.direction.index())).chain(keys).collect();
                vec![(turn, Match::Lookup { keys, negated: false, set })]
            }
            Members::Values(values) => {
                let tuples: BTreeSet<Vec<Bytes>> =
                    values.iter().map(|tuple| kept.iter().map(|at| tuple[*at].clone()).collect()).collect();
                constants(keys, kept.iter().map(|at| parts[*at].kind).collect(), &tuples, turn)
            }
        }
    }
}

/// Values of one field under one mask.
type Lists = BTreeMap<(Field, Option<Bytes>), BTreeSet<Bytes>>;

/// Takes out the tests that several values of a field can be looked up for in one set.
fn lists(tests: &[Predicate]) -> (Lists, Vec<&Predicate>) {
    let mut lists = Lists::new();
    for test in tests {
        if let Predicate::Equals { field, mask, value } = test
            && kind_of(*field).is_some()
        {
            lists.entry((*field, mask.clone())).or_default().insert(value.clone());
        }
    }
    lists.retain(|_, values| values.len() > 1);
    let listed = |test: &&Predicate| match test {
        Predicate::Equals { field, mask, .. } => lists.contains_key(&(*field, mask.clone())),
        _ => false,
    };
    let rest = tests.iter().filter(|test| !listed(test)).collect();
    (lists, rest)
}

fn unlisted(view: View, field: Field, mask: Option<Bytes>, values: &BTreeSet<Bytes>) -> (u8, Match) {
    let kind = kind_of(field).expect("only fields that can be elements are listed");
    let field = view.field(field);
    let set = SetRef::Anonymous(vec![kind], values.clone());
    (
        turn_of(field),
        Match::Lookup { keys: vec![Key { from: KeySource::Field(field), mask }], negated: true, set },
    )
}

/// The type of a set of values of a field; none where nftables has no set for them.
fn kind_of(field: Field) -> Option<KeyType> {
    use Field::*;
    Some(match field {
        EtherDaddr | EtherSaddr | ArpSaddrEther | ArpDaddrEther => KeyType::Ether,
        ArpSaddrIp | ArpDaddrIp | IpSaddr | IpDaddr => KeyType::Ipv4,
        Ip6Saddr | Ip6Daddr => KeyType::Ipv6,
        ThSport | ThDport => KeyType::Port,
        EtherType | VlanType => KeyType::EtherType,
        _ => return None,
    })
}

/// One tuple is compared, several are looked up.
fn constants(keys: Vec<Key>, kinds: Vec<KeyType>, tuples: &BTreeSet<Vec<Bytes>>, turn: u8) -> Matches {
    let mut all = tuples.iter();
    if let (Some(single), None) = (all.next(), all.next()) {
        let pairs = keys.into_iter().zip(single);
        let counts = pairs.filter(|(key, _)| !key.mask.as_ref().is_some_and(|mask| is_zero(mask)));
        return counts.map(|(key, value)| (turn_of_key(&key), Match::equals(key, value))).collect();
    }
    let elements = tuples.iter().map(|tuple| concat(&tuple.iter().map(|part| &**part).collect::<Vec<_>>()));
    let set = SetRef::Anonymous(kinds, elements.collect());
    vec![(turn, Match::Lookup { keys, negated: false, set })]
}

/// Equality of both addresses, an octet at a time, for kernels that cannot compare two fields.
fn same_by_octets() -> Matches {
    let octet = |at: usize| {
        let place = |value: u8| {
            let mut bytes = [0; 4];
            bytes[at] = value;
            bytes
        };
        let key = |field| Key::masked(field, &place(0xff));
        let keys = vec![key(Field::ArpSaddrIp), key(Field::ArpDaddrIp)];
        let pairs = (0..=0xff).map(|value| concat(&[&place(value), &place(value)])).collect();
        let set = SetRef::Anonymous(vec![KeyType::Ipv4, KeyType::Ipv4], pairs);
        (turn::NETWORK, Match::Lookup { keys, negated: false, set })
    };
    (0..4).map(octet).collect()
}

fn negated((turn, part): (u8, Match)) -> (u8, Match) {
    let Match::Lookup { keys, negated, set } = part else { unreachable!("octets are looked up") };
    (turn, Match::Lookup { keys, negated: !negated, set })
}

fn is_zero(mask: &[u8]) -> bool {
    mask.iter().all(|byte| *byte == 0)
}

/// When a match on a field has its turn.
pub(super) fn turn_of(field: Field) -> u8 {
    match field.layout().base {
        Base::Link if field == Field::EtherType => turn::ETHER_TYPE,
        Base::Link => turn::LINK,
        Base::Network if field == Field::IpProtocol => turn::UPPER,
        Base::Network => turn::NETWORK,
        Base::Transport => turn::TRANSPORT,
    }
}

fn turn_of_key(key: &Key) -> u8 {
    match key.from {
        KeySource::Field(field) => turn_of(field),
        _ => turn::LINK,
    }
}

impl View {
    pub(super) fn field(self, field: Field) -> Field {
        if self.ends_swapped { field.mirrored() } else { field }
    }

    /// A source MAC address of an IP-layer rule says nothing in the mirrored rule.
    pub(super) fn mirrored_source_mac(self, field: Field) -> bool {
        self.ends_swapped && self.ip_layer && field == Field::EtherSaddr
    }

    fn key(self, part: &MemberField) -> Key {
        let mask = part.prefix.map(|prefix| leading_ones(prefix, part.kind.length()));
        Key { from: KeySource::Field(self.field(part.field)), mask }
    }

    fn side(self, side: AddressEnd) -> Field {
        let (source, destination) = match self.address {
            KeyType::Ipv6 => (Field::Ip6Saddr, Field::Ip6Daddr),
            _ => (Field::IpSaddr, Field::IpDaddr),
        };
        self.field(if side == AddressEnd::Source { source } else { destination })
    }
}
