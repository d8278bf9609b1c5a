//! Rules as nf_tables bytecode: the expressions of matches and actions.
//!
//! The bytecode is what nft 1.0.6 makes of the rule's text, joined comparisons included, so that a rule looks and
//! costs the same whichever program loaded it. A rule the kernel's limits do not admit is refused here: more than 128
//! expressions, or an operand that fills more than its register.

use super::anonymous_set::{AnonymousSet, key_length};
use super::message::Attributes;
use super::peephole::joined;
use super::uapi::*;
use crate::document::field::Base;
use crate::program::ir::lower::{LoweredRule, Op, lower};
use crate::program::ir::operand::{LoadSource, Meta, Operand};
use crate::program::ir::{Action, Bytes, CtDirection, Family, Name, Reject, Rule, SetRef, Verdict};
use std::collections::BTreeMap;

/// The most expressions the kernel takes in one rule (`NFT_RULE_MAXEXPRS`).
const MOST: usize = 128;
/// Bytes of one full register, and of all of them.
const REGISTER: usize = 16;
const REGISTERS: usize = 64;
/// Where values are loaded, and where the second of two is.
const FIRST: u32 = libc::NFT_REG_1 as u32;
const SECOND: u32 = libc::NFT_REG_2 as u32;
const VERDICT: u32 = libc::NFT_REG_VERDICT as u32;

/// A rule's bytecode, and the constant sets it needs.
#[derive(Debug, Default)]
pub(super) struct Bytecode {
    /// The list of expressions.
    pub(super) attributes: Attributes,
    /// The sets it looks up, in the order of their numbers.
    pub(super) sets: Vec<AnonymousSet>,
    count: usize,
    first_set: u32,
    fault: Option<String>,
}

/// The bytecode of a rule; its constant sets are numbered from `first_set`.
pub(super) fn encode_expressions(family: Family, rule: &Rule, first_set: u32) -> Result<Bytecode, String> {
    let LoweredRule { terms, keys } = lower(family, rule);
    let mut code = Bytecode { first_set, ..Bytecode::default() };
    for term in joined(terms) {
        code.test(&term.test);
    }
    if rule.counter {
        code.expression("counter", put_counter);
    }
    match rule.tally.and_then(|tally| Some((tally.id, tally.chain(&rule.action)?))) {
        Some((id, chain)) => code.count_at(id, chain),
        None => code.action(&rule.action, &keys),
    }
    if code.count == 0 {
        code.verdict(libc::NFT_CONTINUE, None);
    }
    if code.count > MOST {
        return Err(format!("{} expressions, the kernel takes {MOST} in one rule", code.count));
    }
    match code.fault.take() {
        Some(fault) => Err(fault),
        None => Ok(code),
    }
}

impl Bytecode {
    fn expression(&mut self, name: &str, fill: impl FnOnce(&mut Attributes)) {
        self.count += 1;
        self.attributes.nest(LIST_ITEM, |item| {
            item.text(EXPR_NAME, name);
            item.nest(EXPR_DATA, fill);
        });
    }

    fn refuse(&mut self, fault: impl Into<String>) {
        self.fault.get_or_insert(fault.into());
    }

    fn test(&mut self, test: &Op) {
        match test {
            Op::Compare { left, negated, value } => {
                self.load(left, FIRST);
                self.compare(left, *negated, value);
            }
            Op::Prefix { left, negated, value, bits } => self.prefix(left, *negated, value, *bits),
            Op::Range { left, negated, from, to } => self.range(left, *negated, from, to),
            Op::Lookup { keys, negated, set } => self.lookup(keys, *negated, set),
            Op::Same { left, right, negated } => self.compare_fields(left, right, *negated),
            Op::TcpOption { kind, negated } => {
                self.tcp_option(*kind);
                self.cmp(libc::NFT_CMP_EQ, &[u8::from(!negated)]);
            }
            Op::CtState { states, negated } => {
                self.ct(libc::NFT_CT_STATE);
                self.bitwise(FIRST, &states.to_ne_bytes());
                self.cmp(if *negated { libc::NFT_CMP_EQ } else { libc::NFT_CMP_NEQ }, &[0; 4]);
            }
            Op::CtDirection(direction) => {
                self.ct(libc::NFT_CT_DIRECTION);
                self.cmp(libc::NFT_CMP_EQ, &[u8::from(*direction == CtDirection::Reply)]);
            }
            Op::ConnLimit { set, keys, above, negated } => self.connlimit(set, keys, *above, *negated),
        }
    }

    fn compare(&mut self, left: &Operand, negated: bool, value: &[u8]) {
        self.check_value(left, value);
        self.equal(negated, value);
    }

    fn equal(&mut self, negated: bool, value: &[u8]) {
        self.cmp(if negated { libc::NFT_CMP_NEQ } else { libc::NFT_CMP_EQ }, value);
    }

    fn check_value(&mut self, operand: &Operand, value: &[u8]) {
        if value.len() != operand.length() {
            self.refuse(format!("a value of {} bytes for a field of {}", value.len(), operand.length()));
        }
    }

    fn check_mask(&mut self, operand: &Operand) {
        if let Some(mask) = operand.mask.as_ref().filter(|mask| mask.len() != operand.length()) {
            self.refuse(format!("a mask of {} bytes for a field of {}", mask.len(), operand.length()));
        }
    }

    /// A prefix of whole bytes is a shorter load.
    fn prefix(&mut self, left: &Operand, negated: bool, value: &[u8], bits: u32) {
        let bytes = bits as usize / 8;
        match (left.source, value.get(..bytes)) {
            (LoadSource::Payload { base, offset, .. }, Some(start)) if bits > 0 && bits.is_multiple_of(8) => {
                self.check_mask(left);
                self.check_value(left, value);
                let source = LoadSource::Payload { base, offset, length: bytes as u32 };
                self.load(&Operand { source, mask: None, ..left.clone() }, FIRST);
                self.equal(negated, start);
            }
            _ => {
                self.load(left, FIRST);
                self.compare(left, negated, value);
            }
        }
    }

    fn range(&mut self, left: &Operand, negated: bool, from: &[u8], to: &[u8]) {
        self.check_value(left, from);
        self.check_value(left, to);
        self.load(left, FIRST);
        if !negated {
            self.cmp(libc::NFT_CMP_GTE, from);
            self.cmp(libc::NFT_CMP_LTE, to);
            return;
        }
        self.expression("range", |data| {
            data.u32(RANGE_SREG, FIRST);
            data.u32(RANGE_OP, libc::NFT_RANGE_NEQ as u32);
            data.nest(RANGE_FROM_DATA, |value| value.put(DATA_VALUE, from));
            data.nest(RANGE_TO_DATA, |value| value.put(DATA_VALUE, to));
        });
    }

    fn lookup(&mut self, keys: &[Operand], negated: bool, set: &SetRef) {
        self.load_all(keys);
        let (name, id) = match set {
            SetRef::Named(name) => (&**name, None),
            SetRef::Anonymous(_, values) => {
                let elements = values.iter().map(|value| (value.clone(), None)).collect();
                ("__set%d", Some(self.constant(keys, elements)))
            }
        };
        self.lookup_expr(name, id, None, negated);
    }

    fn constant(&mut self, keys: &[Operand], elements: Vec<(Bytes, Option<Verdict>)>) -> u32 {
        let id = self.first_set + self.sets.len() as u32;
        match AnonymousSet::new(id, keys, elements) {
            Ok(set) => self.sets.push(set),
            Err(fault) => self.refuse(fault),
        }
        id
    }

    fn lookup_expr(&mut self, set: &str, id: Option<u32>, target: Option<u32>, negated: bool) {
        self.expression("lookup", |data| {
            data.text(LOOKUP_SET, set);
            data.u32(LOOKUP_SREG, FIRST);
            if let Some(register) = target {
                data.u32(LOOKUP_DREG, register);
            }
            if let Some(id) = id {
                data.u32(LOOKUP_SET_ID, id);
            }
            if negated {
                data.u32(LOOKUP_FLAGS, libc::NFT_LOOKUP_F_INV as u32);
            }
        });
    }

    fn compare_fields(&mut self, left: &Operand, right: &Operand, negated: bool) {
        let length = left.length();
        if right.length() != length || length > REGISTER {
            self.refuse(format!("fields of {length} and {} bytes compared with each other", right.length()));
        }
        self.load(left, FIRST);
        self.load(right, SECOND);
        self.expression("bitwise", |data| {
            data.u32(BITWISE_SREG, FIRST);
            data.u32(BITWISE_DREG, FIRST);
            data.u32(BITWISE_LEN, length as u32);
            data.u32(BITWISE_OP, BITWISE_OP_XOR);
            data.u32(BITWISE_SREG2, SECOND);
        });
        self.equal(negated, &vec![0; length]);
    }

    fn tcp_option(&mut self, kind: u8) {
        self.expression("exthdr", |data| {
            data.u32(EXTHDR_DREG, FIRST);
            data.put(EXTHDR_TYPE, &[kind]);
            data.u32(EXTHDR_OFFSET, 0);
            data.u32(EXTHDR_LEN, 1);
            data.u32(EXTHDR_FLAGS, EXTHDR_F_PRESENT);
            data.u32(EXTHDR_OP, EXTHDR_OP_TCPOPT);
        });
    }

    fn connlimit(&mut self, set: &str, keys: &[Operand], above: u32, negated: bool) {
        self.load_all(keys);
        self.dynset(set, libc::NFT_DYNSET_OP_ADD, "connlimit", |data| {
            data.u32(CONNLIMIT_COUNT, above);
            data.u32(CONNLIMIT_FLAGS, if negated { 0 } else { CONNLIMIT_F_INV });
        });
    }

    /// An element for the loaded keys, with an expression of its own.
    fn dynset(&mut self, set: &str, operation: i32, name: &str, fill: impl FnOnce(&mut Attributes)) {
        self.expression("dynset", |data| {
            data.text(DYNSET_SET_NAME, set);
            data.u32(DYNSET_OP, operation as u32);
            data.u32(DYNSET_SREG_KEY, FIRST);
            data.nest(DYNSET_EXPR, |inner| {
                inner.text(EXPR_NAME, name);
                inner.nest(EXPR_DATA, fill);
            });
        });
    }

    /// Loads keys behind each other, each from a word of its own, as the kernel concatenates them.
    fn load_all(&mut self, keys: &[Operand]) {
        if key_length(keys) > REGISTERS {
            self.refuse(format!("a key of {} bytes, the registers hold {REGISTERS}", key_length(keys)));
            return;
        }
        let mut words = 0;
        for key in keys {
            self.load(key, register(words));
            words += key.length().div_ceil(4) as u32;
        }
    }

    fn load(&mut self, operand: &Operand, register: u32) {
        match operand.source {
            LoadSource::Payload { base, offset, length } => {
                let base = match base {
                    Base::Link => libc::NFT_PAYLOAD_LL_HEADER,
                    Base::Network => libc::NFT_PAYLOAD_NETWORK_HEADER,
                    Base::Transport => libc::NFT_PAYLOAD_TRANSPORT_HEADER,
                };
                self.expression("payload", |data| {
                    data.u32(PAYLOAD_DREG, register);
                    data.u32(PAYLOAD_BASE, base as u32);
                    data.u32(PAYLOAD_OFFSET, offset);
                    data.u32(PAYLOAD_LEN, length);
                });
            }
            LoadSource::Meta(meta) => self.expression("meta", |data| {
                data.u32(META_KEY, meta_key(meta) as u32);
                data.u32(META_DREG, register);
            }),
        }
        self.check_mask(operand);
        if let Some(mask) = &operand.mask {
            self.bitwise(register, mask);
        }
    }

    fn ct(&mut self, key: i32) {
        self.expression("ct", |data| {
            data.u32(CT_KEY, key as u32);
            data.u32(CT_DREG, FIRST);
        });
    }

    fn bitwise(&mut self, register: u32, mask: &[u8]) {
        self.expression("bitwise", |data| {
            data.u32(BITWISE_SREG, register);
            data.u32(BITWISE_DREG, register);
            data.u32(BITWISE_LEN, mask.len() as u32);
            data.nest(BITWISE_MASK, |value| value.put(DATA_VALUE, mask));
            data.nest(BITWISE_XOR, |value| value.put(DATA_VALUE, &vec![0; mask.len()]));
        });
    }

    fn cmp(&mut self, operator: i32, value: &[u8]) {
        if value.is_empty() || value.len() > REGISTER {
            self.refuse(format!("a comparison with {} bytes", value.len()));
        }
        self.expression("cmp", |data| {
            data.u32(CMP_SREG, FIRST);
            data.u32(CMP_OP, operator as u32);
            data.nest(CMP_DATA, |nested| nested.put(DATA_VALUE, value));
        });
    }

    /// The chain finds in the mark as what to count the frame.
    fn count_at(&mut self, id: u32, chain: &'static str) {
        self.set_meta(libc::NFT_META_MARK, &id.to_ne_bytes());
        self.verdict(libc::NFT_GOTO, Some(&chain.into()));
    }

    fn set_meta(&mut self, key: i32, value: &[u8]) {
        self.constant_register(value);
        self.expression("meta", |data| {
            data.u32(META_KEY, key as u32);
            data.u32(META_SREG, FIRST);
        });
    }

    fn constant_register(&mut self, value: &[u8]) {
        self.expression("immediate", |data| {
            data.u32(IMMEDIATE_DREG, FIRST);
            data.nest(IMMEDIATE_DATA, |nested| nested.put(DATA_VALUE, value));
        });
    }

    fn action(&mut self, action: &Action, keys: &[Operand]) {
        match action {
            Action::Accept => self.verdict(libc::NF_ACCEPT, None),
            Action::Drop => self.verdict(libc::NF_DROP, None),
            Action::Return => self.verdict(libc::NFT_RETURN, None),
            Action::Continue => {}
            Action::Jump(chain) => self.verdict(libc::NFT_JUMP, Some(chain)),
            Action::Goto(chain) => self.verdict(libc::NFT_GOTO, Some(chain)),
            Action::Reject(reject) => self.reject(*reject),
            Action::Vmap(_, map) => {
                self.load_all(keys);
                self.lookup_expr(map, None, Some(VERDICT), false);
            }
            Action::AnonymousVmap(_, targets) if targets.is_empty() => {}
            Action::AnonymousVmap(_, targets) => self.branch(keys, targets),
            Action::SetZone(_, map) => {
                self.load_all(keys);
                self.lookup_expr(map, None, Some(FIRST), false);
                self.zone();
            }
            Action::Zone(zone) => {
                self.constant_register(&zone.to_ne_bytes());
                self.zone();
            }
            Action::Notrack => self.expression("notrack", |_| {}),
            Action::Mark(mark) => self.set_meta(libc::NFT_META_MARK, &mark.to_ne_bytes()),
            Action::Trace => self.set_meta(libc::NFT_META_NFTRACE, &[1]),
            Action::Count(_, set) => {
                self.load_all(keys);
                self.dynset(set, libc::NFT_DYNSET_OP_UPDATE, "counter", put_counter);
            }
            Action::Unknown => self.refuse("a rule that nwfilter did not make"),
        }
    }

    /// The zone in the first register becomes the frame's.
    fn zone(&mut self) {
        self.expression("ct", |data| {
            data.u32(CT_KEY, libc::NFT_CT_ZONE as u32);
            data.u32(CT_SREG, FIRST);
        });
    }

    fn branch(&mut self, keys: &[Operand], targets: &BTreeMap<Bytes, Verdict>) {
        self.load_all(keys);
        let elements = targets.iter().map(|(value, target)| (value.clone(), Some(target.clone()))).collect();
        let id = self.constant(keys, elements);
        self.lookup_expr("__map%d", Some(id), Some(VERDICT), false);
    }

    fn verdict(&mut self, verdict: i32, chain: Option<&Name>) {
        self.expression("immediate", |data| {
            data.u32(IMMEDIATE_DREG, VERDICT);
            data.nest(IMMEDIATE_DATA, |value| put_verdict(value, verdict, chain));
        });
    }

    fn reject(&mut self, reject: Reject) {
        let (kind, code) = match reject {
            Reject::PortUnreachable => (libc::NFT_REJECT_ICMPX_UNREACH, libc::NFT_REJECT_ICMPX_PORT_UNREACH),
            Reject::TcpReset => (libc::NFT_REJECT_TCP_RST, 0),
        };
        self.expression("reject", |data| {
            data.u32(REJECT_TYPE, kind as u32);
            data.put(REJECT_ICMP_CODE, &[code as u8]);
        });
    }
}

/// A counter that has not counted yet.
pub(super) fn put_counter(data: &mut Attributes) {
    data.u64(COUNTER_BYTES, 0);
    data.u64(COUNTER_PACKETS, 0);
}

/// A verdict as the value of an attribute.
pub(super) fn put_verdict(attributes: &mut Attributes, verdict: i32, chain: Option<&Name>) {
    attributes.nest(DATA_VERDICT, |data| {
        data.u32(VERDICT_CODE, verdict as u32);
        if let Some(chain) = chain {
            data.text(VERDICT_CHAIN, chain);
        }
    });
}

/// The register that begins at a word: a full one where it can, else one of four bytes.
fn register(words: u32) -> u32 {
    if words.is_multiple_of(4) { FIRST + words / 4 } else { libc::NFT_REG32_00 as u32 + words }
}

/// The kernel's number for a property of a packet.
pub(super) fn meta_key(meta: Meta) -> i32 {
    match meta {
        Meta::Iif => libc::NFT_META_IIF,
        Meta::Oif => libc::NFT_META_OIF,
        Meta::Protocol => libc::NFT_META_PROTOCOL,
        Meta::NfProto => libc::NFT_META_NFPROTO,
        Meta::L4Proto => libc::NFT_META_L4PROTO,
        Meta::IifName => libc::NFT_META_IIFNAME,
        Meta::OifName => libc::NFT_META_OIFNAME,
        Meta::BridgeName => libc::NFT_META_BRI_IIFNAME,
        Meta::Mark => libc::NFT_META_MARK,
        Meta::PacketType => libc::NFT_META_PKTTYPE,
    }
}
