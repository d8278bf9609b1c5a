//! What a rule loads and compares, resolved: the form between the IR, its text and its bytecode.
//!
//! Text and bytecode must say the same, so what both depend on is decided once, here: what is read
//! and by which name, which prefix is a shorter load, which match nft would generate by itself, and which tests it
//! would join.

use crate::document::field::Base;
use crate::document::filter::state;
use crate::program::ir::operand::{
    IPV4, IPV6, LoadSource, Meta, Operand, ProtocolContext, Style, operand, operands,
};
use crate::program::ir::{Action, Bytes, CtDirection, Family, Key, Match, Name, Rule, SetRef};

/// A rule, resolved for the tables of one family.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LoweredRule {
    /// Its matches, in order.
    pub(crate) terms: Vec<Term>,
    /// What its action reads, where that looks something up.
    pub(crate) keys: Vec<Operand>,
}

/// One match.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Term {
    /// What is tested.
    pub(crate) test: Op,
    /// Whether nft, reading the term behind this one, generates this one.
    pub(crate) implied: bool,
}

/// What is tested. Fields mean what those of [`Match`] do.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Op {
    /// Equal to a value.
    Compare { left: Operand, negated: bool, value: Bytes },
    /// Equal to a value in its first bits.
    Prefix { left: Operand, negated: bool, value: Bytes, bits: u32 },
    /// Between two values.
    Range { left: Operand, negated: bool, from: Bytes, to: Bytes },
    /// An element of a set.
    Lookup { keys: Vec<Operand>, negated: bool, set: SetRef },
    /// Two fields alike.
    Same { left: Operand, right: Operand, negated: bool },
    /// A TCP option is there.
    TcpOption { kind: u8, negated: bool },
    /// In one of these states, as the kernel counts them.
    CtState { states: u32, negated: bool },
    /// The direction in the connection.
    CtDirection(CtDirection),
    /// Too many connections.
    ConnLimit { set: Name, keys: Vec<Operand>, above: u32, negated: bool },
}

/// Resolves a rule for the tables of a family.
pub(crate) fn lower(family: Family, rule: &Rule) -> LoweredRule {
    let mut context = ProtocolContext::default();
    let mut terms: Vec<Term> = Vec::with_capacity(rule.matches.len());
    for part in &rule.matches {
        let test = resolve(family, context, part);
        if let Some(previous) = terms.last_mut() {
            previous.implied = previous.implied && test.reads_header_of(previous.test.network());
        }
        // For a field of ARP nft would check the Ethernet type instead.
        let is_ip = matches!(test.network(), Some(IPV4 | IPV6));
        let implied = is_ip && context.link.is_none() && context.network.is_none();
        context.learn(&test);
        terms.push(Term { test, implied });
    }
    if let Some(last) = terms.last_mut() {
        last.implied = false;
    }
    spread_negations(&mut terms);
    let keys = match &rule.action {
        Action::Vmap(keys, _) | Action::SetZone(keys, _) | Action::Count(keys, _) => keys.as_slice(),
        Action::AnonymousVmap(key, _) => std::slice::from_ref(key),
        _ => &[],
    };
    LoweredRule { terms, keys: operands(family, context, keys) }
}

fn resolve(family: Family, context: ProtocolContext, part: &Match) -> Op {
    let one = |key: &Key| operand(family, context, key);
    match part {
        Match::Compare { key, negated, value } => compare(family, one(key), *negated, value.clone()),
        Match::Range { key, negated, from, to } => {
            Op::Range { left: one(key), negated: *negated, from: from.clone(), to: to.clone() }
        }
        // nft makes a comparison of a set of one value, and so do we.
        Match::Lookup { keys, negated, set: SetRef::Anonymous(_, values) }
            if keys.len() == 1 && values.len() == 1 =>
        {
            let value = values.first().expect("one value").clone();
            Op::Compare { left: one(&keys[0]), negated: *negated, value }
        }
        Match::Lookup { keys, negated, set } => {
            Op::Lookup { keys: operands(family, context, keys), negated: *negated, set: set.clone() }
        }
        Match::Same { left, right, negated } => {
            Op::Same { left: one(left), right: one(right), negated: *negated }
        }
        Match::TcpOption { kind, negated } => Op::TcpOption { kind: *kind, negated: *negated },
        Match::CtState { states, negated } => {
            Op::CtState { states: kernel_states(*states), negated: *negated }
        }
        Match::CtDirection(direction) => Op::CtDirection(*direction),
        Match::ConnLimit { set, keys, above, negated } => Op::ConnLimit {
            set: set.clone(),
            keys: operands(family, context, keys),
            above: *above,
            negated: *negated,
        },
    }
}

fn compare(family: Family, left: Operand, negated: bool, value: Bytes) -> Op {
    if family == Family::Inet
        && left.source == LoadSource::Meta(Meta::Protocol)
        && let Some(number) = nfproto(&value)
    {
        let left = Operand::meta(Meta::NfProto, "meta nfproto", Style::NfProto);
        return Op::Compare { left, negated, value: [number].as_slice().into() };
    }
    let prefix = left.mask.as_deref().and_then(leading_ones);
    match prefix {
        Some(bits) if left.name.is_some() && matches!(left.style, Style::Ipv4 | Style::Ipv6) => {
            Op::Prefix { left, negated, value, bits }
        }
        _ => Op::Compare { left, negated, value },
    }
}

/// The number the inet family knows a network protocol by.
fn nfproto(ether_type: &[u8]) -> Option<u8> {
    match u16::from_be_bytes(ether_type.try_into().ok()?) {
        IPV4 => Some(2),
        IPV6 => Some(10),
        _ => None,
    }
}

/// How many ones a mask begins with, if nothing but zeros follows.
fn leading_ones(mask: &[u8]) -> Option<u32> {
    let ones = mask.iter().take_while(|byte| **byte == 0xff).count();
    let rest = mask.get(ones).copied().unwrap_or(0);
    let contiguous = rest.leading_ones() + rest.trailing_zeros() == 8;
    let zeros = mask.iter().skip(ones + 1).all(|byte| *byte == 0);
    (contiguous && zeros).then(|| ones as u32 * 8 + rest.leading_ones())
}

/// The kernel's bits for the states of a filter.
pub(crate) fn kernel_states(states: u8) -> u32 {
    let bits = [(state::INVALID, 1), (state::ESTABLISHED, 2), (state::RELATED, 4), (state::NEW, 8)];
    bits.iter().filter(|(ours, _)| states & ours != 0).map(|(_, kernel)| kernel).sum()
}

impl ProtocolContext {
    fn learn(&mut self, test: &Op) {
        let Op::Compare { left, negated: false, value } = test else { return };
        if left.mask.is_some() || left.name.is_none() {
            return;
        }
        let two = || <[u8; 2]>::try_from(&value[..]).ok().map(u16::from_be_bytes);
        match left.style {
            Style::EtherType if left.source == LoadSource::Meta(Meta::Protocol) => self.network = two(),
            Style::EtherType if left.name == Some("ether type") => {
                self.link = two();
                self.network = two();
            }
            Style::NfProto => self.network = test.network(),
            Style::Protocol => self.transport = value.first().copied(),
            _ => {}
        }
    }
}

impl Op {
    /// The network protocol that a plain comparison of the packet's protocol asks for.
    fn network(&self) -> Option<u16> {
        let Op::Compare { left, negated: false, value } = self else { return None };
        match (left.source, &value[..], &left.mask) {
            (LoadSource::Meta(Meta::Protocol), [high, low], None) => Some(u16::from_be_bytes([*high, *low])),
            (LoadSource::Meta(Meta::NfProto), [2], None) => Some(IPV4),
            (LoadSource::Meta(Meta::NfProto), [10], None) => Some(IPV6),
            _ => None,
        }
    }

    /// Whether it reads the header of this network protocol under nft's name for a field.
    fn reads_header_of(&self, network: Option<u16>) -> bool {
        let named = |operand: &Operand| operand.name.is_some() && operand.network == network;
        network.is_some()
            && match self {
                Op::Compare { left, .. } | Op::Prefix { left, .. } | Op::Range { left, .. } => named(left),
                Op::Lookup { keys, .. } | Op::ConnLimit { keys, .. } => keys.iter().any(named),
                _ => false,
            }
    }

    /// The bytes of a header that a comparison takes whole: what can be joined with its neighbour.
    pub(crate) fn whole(&self, negation: bool) -> Option<(Base, u32, u32)> {
        let Op::Compare { left: Operand { source, mask: None, .. }, negated, value } = self else {
            return None;
        };
        match *source {
            LoadSource::Payload { base, offset, length }
                if *negated == negation && value.len() == length as usize =>
            {
                Some((base, offset, length))
            }
            _ => None,
        }
    }
}

/// nft 1.0.6 joins `a != x b != y` of neighbouring fields into one comparison, which is another condition.
/// A range of one value is the same test and is left alone.
fn spread_negations(terms: &mut [Term]) {
    for later in 1..terms.len() {
        let (before, rest) = terms.split_at_mut(later);
        let Some(this) = rest[0].test.whole(true) else { continue };
        let joins = |term: &Term| {
            term.test.whole(true).is_some_and(|that| joinable(that, this) || joinable(this, that))
        };
        if before.iter().any(joins)
            && let Op::Compare { left, value, .. } = &rest[0].test
        {
            let (left, from, to) = (left.clone(), value.clone(), value.clone());
            rest[0].test = Op::Range { left, negated: true, from, to };
        }
    }
}

/// Whether nft loads two neighbouring fields at once: where that is no slower in the kernel, which has a fast path
/// for up to four bytes of the network and transport headers.
pub(crate) fn joinable(first: (Base, u32, u32), second: (Base, u32, u32)) -> bool {
    let ((base, offset, length), (other, next, more)) = (first, second);
    let neighbours = base == other && offset + length == next && length + more <= 16;
    neighbours && (base == Base::Link || length + more <= 4 || length > 4 || more > 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_is_a_prefix_only_if_its_ones_come_first() {
        for (mask, bits) in [
            (&[0xff, 0xff, 0xff, 0][..], Some(24)),
            (&[0xff, 0xf0, 0, 0], Some(12)),
            (&[0, 0, 0, 0], Some(0)),
            (&[0xff, 0, 0xff, 0], None),
            (&[0xff, 0x0f, 0, 0], None),
            (&[0xf0, 1, 0, 0], None),
        ] {
            assert_eq!(leading_ones(mask), bits, "{mask:?}");
        }
    }
}
