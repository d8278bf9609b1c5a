//! One step of a plan as the messages that make it: tables, chains, sets, elements, rules.
//!
//! A rule brings the constant sets it reads along, in front of it. Lists of elements are split below the size of
//! one message. Sets carry the notes by which nft lists them in the right byte order.

use super::anonymous_set::AnonymousSet;
use super::comment::UserData;
use super::expr::{Bytecode, encode_expressions, put_counter, put_verdict};
use super::message::{Attributes, LARGEST, Message, family_number};
use super::uapi::*;
use crate::program::ir::SetType;
use crate::program::ir::text::{DYNAMIC_SIZE, comment};
use crate::program::ir::{
    Bytes, ElementValue, Hook, HookPoint, KeyType, Name, Rule, ValueType, Verdict, digest,
};
use crate::ruleset::plan::{Step, TableOperation};

/// Bytes of elements in one message; the rest of it is names and headers.
const ELEMENTS: usize = LARGEST - 1024;
/// Bytes of a name that the kernel takes (`NFT_NAME_MAXLEN`, with its closing zero).
const NAME: usize = 255;

/// Makes messages of steps, and numbers the constant sets of a whole batch.
pub(super) struct Encoder {
    /// What the tables are called.
    pub(super) table: &'static str,
    /// The messages so far.
    pub(super) messages: Vec<Message>,
    next_set: u32,
}

/// Where a message belongs.
#[derive(Clone, Copy)]
struct Target {
    family: u8,
    step: usize,
}

impl Encoder {
    pub(super) fn new(table: &'static str) -> Encoder {
        Encoder { table, messages: Vec::new(), next_set: 1 }
    }

    /// Appends the messages of one step, or says what cannot be encoded. A table is made with
    /// these flags.
    pub(super) fn step(
        &mut self,
        step: usize,
        Step { family, change }: &Step,
        flags: u32,
    ) -> Result<(), String> {
        let to = Target { family: family_number(*family), step };
        match change {
            TableOperation::AddTable => self.add_table(to, flags),
            TableOperation::DeleteTable => self.delete_table(to),
            TableOperation::AddChain(name, hook) => self.chain(to, name, hook.as_ref()),
            TableOperation::DeleteChain(name) => {
                self.delete(to, libc::NFT_MSG_DELCHAIN, [CHAIN_TABLE, CHAIN_NAME], name)
            }
            TableOperation::FlushChain(name) => {
                self.delete(to, libc::NFT_MSG_DELRULE, [RULE_TABLE, RULE_CHAIN], name)
            }
            TableOperation::AddRule(chain, rule) => {
                let code = encode_expressions(*family, rule, self.next_set)?;
                self.rule(to, chain, rule, code)
            }
            TableOperation::AddSet(name, kind) => self.set(to, name, kind),
            TableOperation::DeleteSet(name) => {
                self.delete(to, libc::NFT_MSG_DELSET, [SET_TABLE, SET_NAME], name)
            }
            TableOperation::AddElements(name, kind, elements) => {
                let items = elements.iter().map(|(key, datum)| element(kind, key, Some(datum)));
                self.elements(to, libc::NFT_MSG_NEWSETELEM, (name, None), items)
            }
            TableOperation::DeleteElements(name, kind, keys) => {
                self.delete_elements(to, libc::NFT_MSG_DELSETELEM, (name, kind), keys)
            }
            TableOperation::DestroyElements(name, kind, keys) => {
                self.delete_elements(to, MSG_DESTROY_ELEMENTS, (name, kind), keys)
            }
        }
    }

    /// A message that deletes what a name of our table stands for: it has these two attributes.
    fn delete(
        &mut self,
        to: Target,
        kind: i32,
        [of_table, of_name]: [u16; 2],
        name: &str,
    ) -> Result<(), String> {
        let table = self.table;
        self.push(to, kind, 0, |a| {
            a.text(of_table, table);
            a.text(of_name, name);
        })
    }

    fn delete_elements(
        &mut self,
        to: Target,
        message: i32,
        (set, kind): (&str, &SetType),
        keys: &[Bytes],
    ) -> Result<(), String> {
        let items = keys.iter().map(|key| element(kind, key, None));
        self.elements(to, message, (set, None), items)
    }

    fn push(
        &mut self,
        to: Target,
        kind: i32,
        flags: i32,
        fill: impl FnOnce(&mut Attributes),
    ) -> Result<(), String> {
        let mut attributes = Attributes::default();
        fill(&mut attributes);
        let (kind, flags) = (kind as u16, flags as u16);
        let message = Message { kind, flags, family: to.family, attributes, step: to.step };
        if message.length() > LARGEST {
            return Err(format!("a message of {} bytes, {LARGEST} fit", message.length()));
        }
        self.messages.push(message);
        Ok(())
    }

    fn add_table(&mut self, to: Target, flags: u32) -> Result<(), String> {
        let table = self.table;
        self.push(to, libc::NFT_MSG_NEWTABLE, libc::NLM_F_CREATE, |a| {
            a.text(TABLE_NAME, table);
            a.u32(TABLE_FLAGS, flags);
        })
    }

    fn delete_table(&mut self, to: Target) -> Result<(), String> {
        let table = self.table;
        self.push(to, libc::NFT_MSG_DELTABLE, 0, |a| a.text(TABLE_NAME, table))
    }

    fn chain(&mut self, to: Target, name: &str, hook: Option<&Hook>) -> Result<(), String> {
        let table = self.table;
        fits(name)?;
        let point = hook.map(|hook| hook_number(to.family, hook.point)).transpose()?;
        self.push(to, libc::NFT_MSG_NEWCHAIN, libc::NLM_F_CREATE | libc::NLM_F_EXCL, |a| {
            a.text(CHAIN_TABLE, table);
            a.text(CHAIN_NAME, name);
            if let (Some(hook), Some(point)) = (hook, point) {
                a.text(CHAIN_TYPE, "filter");
                a.u32(CHAIN_POLICY, libc::NF_ACCEPT as u32);
                a.nest(CHAIN_HOOK, |a| {
                    a.u32(HOOK_NUMBER, point);
                    a.u32(HOOK_PRIORITY, hook.priority as u32);
                    if let Some(device) = &hook.device {
                        a.text(HOOK_DEVICE, device);
                    }
                });
            }
        })
    }

    fn rule(&mut self, to: Target, chain: &Name, rule: &Rule, code: Bytecode) -> Result<(), String> {
        let table = self.table;
        fits(chain)?;
        self.next_set += code.sets.len() as u32;
        for set in &code.sets {
            self.constant(to, set)?;
        }
        let notes = rule_notes(rule);
        self.push(to, libc::NFT_MSG_NEWRULE, libc::NLM_F_CREATE | libc::NLM_F_APPEND, |a| {
            a.text(RULE_TABLE, table);
            a.text(RULE_CHAIN, chain);
            a.list(RULE_EXPRESSIONS, &code.attributes);
            a.put(RULE_USERDATA, &notes);
        })
    }

    fn constant(&mut self, to: Target, set: &AnonymousSet) -> Result<(), String> {
        let table = self.table;
        let map = set.elements.iter().any(|(_, verdict)| verdict.is_some());
        let name = if map { "__map%d" } else { "__set%d" };
        let kind = if map { libc::NFT_SET_MAP } else { 0 };
        self.push(to, libc::NFT_MSG_NEWSET, libc::NLM_F_CREATE, |a| {
            a.text(SET_TABLE, table);
            a.text(SET_NAME, name);
            a.u32(SET_FLAGS, (libc::NFT_SET_ANONYMOUS | libc::NFT_SET_CONSTANT | kind) as u32);
            a.u32(SET_KEY_TYPE, set.key_type);
            a.u32(SET_KEY_LEN, set.key_length as u32);
            if map {
                put_verdict_type(a);
            }
            a.u32(SET_ID, set.id);
            a.nest(SET_DESC, |a| a.u32(SET_DESC_SIZE, set.elements.len() as u32));
            a.put(SET_USERDATA, &set.notes);
        })?;
        let items = set.elements.iter().map(|(key, verdict)| {
            Ok(item(key, |a| {
                if let Some(verdict) = verdict {
                    a.nest(ELEM_DATA, |a| put_map_verdict(a, verdict));
                }
            }))
        });
        self.elements(to, libc::NFT_MSG_NEWSETELEM, (name, Some(set.id)), items)
    }

    fn set(&mut self, to: Target, name: &str, kind: &SetType) -> Result<(), String> {
        let table = self.table;
        fits(name)?;
        let map = if kind.data == ValueType::None { 0 } else { libc::NFT_SET_MAP };
        let dynamic = if kind.dynamic { libc::NFT_SET_EVAL } else { 0 };
        let id = self.next_set;
        self.next_set += 1;
        self.push(to, libc::NFT_MSG_NEWSET, libc::NLM_F_CREATE | libc::NLM_F_EXCL, |a| {
            a.text(SET_TABLE, table);
            a.text(SET_NAME, name);
            a.u32(SET_FLAGS, (map | dynamic) as u32);
            a.u32(
                SET_KEY_TYPE,
                kind.key.iter().fold(0, |types, part| types << TYPE_BITS | type_number(*part)),
            );
            a.u32(SET_KEY_LEN, key_length(&kind.key) as u32);
            match kind.data {
                ValueType::None => {}
                ValueType::Verdict => put_verdict_type(a),
                ValueType::Zone => {
                    a.u32(SET_DATA_TYPE, TYPE_INTEGER);
                    a.u32(SET_DATA_LEN, ZONE_LENGTH);
                }
            }
            a.u32(SET_ID, id);
            if kind.dynamic {
                a.nest(SET_DESC, |a| a.u32(SET_DESC_SIZE, DYNAMIC_SIZE));
            }
            if kind.counted {
                a.nest(SET_EXPRESSION, |a| {
                    a.text(EXPR_NAME, "counter");
                    a.nest(EXPR_DATA, put_counter);
                });
            }
            a.put(SET_USERDATA, &set_notes(kind));
        })
    }

    fn elements(
        &mut self,
        to: Target,
        kind: i32,
        (set, id): (&str, Option<u32>),
        items: impl Iterator<Item = Result<Attributes, String>>,
    ) -> Result<(), String> {
        let (table, mut list) = (self.table, Attributes::default());
        let flags = if kind == libc::NFT_MSG_NEWSETELEM { libc::NLM_F_CREATE } else { 0 };
        let mut send = |list: &Attributes| {
            self.push(to, kind, flags, |a| {
                a.text(LIST_TABLE, table);
                a.text(LIST_SET, set);
                if let Some(id) = id {
                    a.u32(LIST_SET_ID, id);
                }
                a.list(LIST_ELEMENTS, list);
            })
        };
        for item in items {
            let item = item?;
            if list.len() + item.len() > ELEMENTS {
                send(&list)?;
                list = Attributes::default();
            }
            list.append(&item);
        }
        if list.len() > 0 { send(&list) } else { Ok(()) }
    }
}

fn fits(name: &str) -> Result<(), String> {
    match name.len() {
        1..=NAME if !name.contains('\0') => Ok(()),
        1..=NAME => Err("a name with a zero byte".into()),
        length => Err(format!("a name of {length} bytes, the kernel takes 1 to {NAME}")),
    }
}

fn hook_number(family: u8, point: HookPoint) -> Result<u32, String> {
    let number = match (i32::from(family), point) {
        (libc::NFPROTO_NETDEV, HookPoint::Ingress) => libc::NF_NETDEV_INGRESS,
        (libc::NFPROTO_NETDEV, HookPoint::Egress) => libc::NF_NETDEV_EGRESS,
        (libc::NFPROTO_INET, HookPoint::Ingress) => libc::NF_INET_INGRESS,
        (libc::NFPROTO_NETDEV, _) | (_, HookPoint::Ingress | HookPoint::Egress) => {
            return Err(format!("no hook {point} in this family"));
        }
        // The bridge family and the IP families number these alike.
        (_, HookPoint::Prerouting) => libc::NF_INET_PRE_ROUTING,
        (_, HookPoint::Input) => libc::NF_INET_LOCAL_IN,
        (_, HookPoint::Forward) => libc::NF_INET_FORWARD,
        (_, HookPoint::Output) => libc::NF_INET_LOCAL_OUT,
        (_, HookPoint::Postrouting) => libc::NF_INET_POST_ROUTING,
    };
    Ok(number as u32)
}

fn put_verdict_type(attributes: &mut Attributes) {
    attributes.u32(SET_DATA_TYPE, libc::NFT_DATA_VERDICT);
    attributes.u32(SET_DATA_LEN, 0);
}

/// A verdict as the datum of an element of a constant map.
pub(super) fn put_map_verdict(attributes: &mut Attributes, verdict: &Verdict) {
    match verdict {
        Verdict::Accept => put_verdict(attributes, libc::NF_ACCEPT, None),
        Verdict::Drop => put_verdict(attributes, libc::NF_DROP, None),
        Verdict::Jump(chain) => put_verdict(attributes, libc::NFT_JUMP, Some(chain)),
        Verdict::Goto(chain) => put_verdict(attributes, libc::NFT_GOTO, Some(chain)),
    }
}

/// An element of a named set; to delete one, its key is enough.
fn element(kind: &SetType, key: &Bytes, datum: Option<&ElementValue>) -> Result<Attributes, String> {
    let length = key_length(&kind.key);
    if key.len() != length {
        return Err(format!("an element of {} bytes in a set of keys of {length}", key.len()));
    }
    match (kind.data, datum) {
        (_, None) | (ValueType::None, Some(ElementValue::None)) => Ok(item(key, |_| {})),
        (ValueType::Verdict, Some(ElementValue::Jump(chain))) => {
            Ok(item(key, |a| a.nest(ELEM_DATA, |a| put_verdict(a, libc::NFT_JUMP, Some(chain)))))
        }
        (ValueType::Zone, Some(ElementValue::Zone(zone))) => {
            Ok(item(key, |a| a.nest(ELEM_DATA, |a| a.put(DATA_VALUE, &zone.to_ne_bytes()))))
        }
        (data, Some(datum)) => Err(format!("{datum:?} in a set that holds {data:?}")),
    }
}

fn item(key: &[u8], data: impl FnOnce(&mut Attributes)) -> Attributes {
    let mut attributes = Attributes::default();
    attributes.nest(LIST_ITEM, |a| {
        a.nest(ELEM_KEY, |a| a.put(DATA_VALUE, key));
        data(a);
    });
    attributes
}

fn key_length(key: &[KeyType]) -> usize {
    match key {
        [single] => single.length(),
        parts => parts.iter().map(|part| part.length().next_multiple_of(4)).sum(),
    }
}

/// nft's number for a type, by which it lists a set.
pub(super) fn type_number(part: KeyType) -> u32 {
    match part {
        KeyType::IfIndex => 20,
        KeyType::IfName => 41,
        KeyType::Ether => 9,
        KeyType::Ipv4 => 7,
        KeyType::Ipv6 => 8,
        KeyType::Port => 13,
        KeyType::EtherType => 10,
        KeyType::IpProtocol => 12,
        KeyType::Mark => 19,
    }
}

/// Notes by which nft lists a named set in the right byte order and with the right types.
fn set_notes(kind: &SetType) -> Vec<u8> {
    let order = match kind.key.as_slice() {
        [KeyType::IfIndex | KeyType::IfName] => HOST_ORDER,
        [_] => NETWORK_ORDER,
        _ => NO_ORDER,
    };
    let notes = UserData::default().number(UDATA_KEY_ORDER, order);
    let key = match kind.key.as_slice() {
        [KeyType::IfIndex] => libc::NFT_META_IIF,
        [KeyType::IfName] => libc::NFT_META_BRI_IIFNAME,
        _ => return notes.0,
    };
    if kind.data != ValueType::Zone {
        return notes.0;
    }
    // As `typeof iif : ct zone`: the type of a zone has no name.
    let key = UserData::typeof_expression(TYPEOF_META, UserData::default().number(0, key as u32));
    let zone = UserData::default().number(0, libc::NFT_CT_ZONE as u32).number(1, u32::MAX);
    let data = UserData::typeof_expression(TYPEOF_CT, zone);
    notes
        .number(UDATA_DATA_ORDER, HOST_ORDER)
        .bytes(UDATA_KEY_TYPEOF, &key.0)
        .bytes(UDATA_DATA_TYPEOF, &data.0)
        .0
}

/// Notes on a rule: the comment that nft shows, and our digest to know the rule again by.
fn rule_notes(rule: &Rule) -> Vec<u8> {
    let notes = match &rule.origin {
        Some(origin) => {
            UserData::default().bytes(UDATA_COMMENT, &[comment(origin).as_bytes(), &[0]].concat())
        }
        None => UserData::default(),
    };
    notes.bytes(UDATA_DIGEST, &digest::rule(rule).to_be_bytes()).0
}
