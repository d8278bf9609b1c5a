//! What a rule says, in the one form in which rules that were dumped and rules that would be sent can be compared.
//!
//! The kernel gives a rule back as it got it, but for what it counted, what it names itself (constant sets), the order of
//! attributes, and defaults that it writes out. All of that is evened out here, and nothing else: what is not known is
//! kept, so that a rule with an attribute of a later kernel equals none of ours.

use super::anonymous_set::AnonymousSet;
use super::expr::encode_expressions;
use super::message::Attributes;
use super::object::put_map_verdict;
use super::reply::{attribute, attributes, number, text};
use super::uapi::*;
use crate::program::ir::observed::Form;
use crate::program::ir::{Bytes, Family, Rule};
use std::collections::BTreeMap;

/// The form of a rule of ours; none for a rule that cannot be encoded.
pub fn of(family: Family, rule: &Rule) -> Option<Form> {
    const FIRST_SET: u32 = 1;
    let code = encode_expressions(family, rule, FIRST_SET).ok()?;
    let constants = Constants { numbered: &code.sets, named: &BTreeMap::new() };
    Some(Form::new(constants.list(code.attributes.bytes())))
}

/// The form of a rule that was dumped, of its list of expressions and the constant sets of its table.
pub(super) fn of_dump(expressions: &[u8], named: &BTreeMap<String, Content>) -> Form {
    Form::new(Constants { numbered: &[], named }.list(expressions))
}

/// What a constant set holds: each key with the verdict that belongs to it, if any.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Content {
    pub(super) elements: BTreeMap<Bytes, Vec<u8>>,
    /// It is a set that a rule of ours never brings along.
    pub(super) strange: bool,
}

impl Content {
    fn of(constant: &AnonymousSet) -> Content {
        let datum = |verdict: &Option<_>| {
            let mut data = Attributes::default();
            verdict.iter().for_each(|verdict| put_map_verdict(&mut data, verdict));
            datum(data.bytes())
        };
        let elements = constant.elements.iter().map(|(key, verdict)| (key.clone(), datum(verdict)));
        Content { elements: elements.collect(), strange: false }
    }

    fn write(&self) -> Vec<u8> {
        let mut form = vec![u8::from(self.strange)];
        for (key, datum) in &self.elements {
            write(&mut form, 0, key);
            write(&mut form, 1, datum);
        }
        form
    }
}

/// What an element or an expression holds: a value, or a verdict.
pub(super) fn datum(data: &[u8]) -> Vec<u8> {
    canonical(attributes(data).map(|(kind, value)| match kind {
        DATA_VERDICT => (kind, canonical(attributes(value).map(|(kind, value)| (kind, value.to_vec())))),
        _ => (kind, value.to_vec()),
    }))
}

/// Where the content of constant sets is found.
struct Constants<'a> {
    /// Of a rule that is to be sent.
    numbered: &'a [AnonymousSet],
    /// Of a table that was dumped.
    named: &'a BTreeMap<String, Content>,
}

impl Constants<'_> {
    fn list(&self, expressions: &[u8]) -> Vec<u8> {
        let mut form = Vec::new();
        for (kind, expression) in attributes(expressions) {
            write(&mut form, kind, &self.expression(expression));
        }
        form
    }

    fn expression(&self, expression: &[u8]) -> Vec<u8> {
        let name = attribute(expression, EXPR_NAME).map(text).unwrap_or_default();
        // An expression without attributes may come with or without the list of them.
        let data = attribute(expression, EXPR_DATA).unwrap_or_default();
        let kept = attributes(data).filter(|(kind, value)| !is_evened_out(&name, *kind, value));
        let mut form = canonical(kept.map(|(kind, value)| (kind, self.value(&name, kind, value, data))));
        form.extend(name.bytes());
        form
    }

    fn value(&self, expression: &str, kind: u16, value: &[u8], data: &[u8]) -> Vec<u8> {
        match (expression, kind) {
            ("cmp", 3) | ("bitwise", 4 | 5 | 7) | ("range", 3 | 4) | ("immediate", IMMEDIATE_DATA) => {
                datum(value)
            }
            ("dynset", 7) => self.expression(value),
            ("lookup", LOOKUP_SET) => self.set(value, data),
            _ => value.to_vec(),
        }
    }

    /// A constant set is its content, any other its name.
    fn set(&self, name: &[u8], lookup: &[u8]) -> Vec<u8> {
        let id = attribute(lookup, LOOKUP_SET_ID).and_then(number);
        let constant = self.numbered.iter().find(|constant| Some(constant.id) == id);
        match (constant, self.named.get(&text(name))) {
            (Some(constant), _) => Content::of(constant).write(),
            (None, Some(content)) => content.write(),
            (None, None) => name.to_vec(),
        }
    }
}

/// Whether an attribute says nothing of what a rule does: what was counted, what the kernel numbers, and a default that
/// it writes out though it was not asked for.
fn is_evened_out(expression: &str, kind: u16, value: &[u8]) -> bool {
    const COUNTER_PAD: u16 = 3;
    const DYNSET_PAD: u16 = 8;
    match (expression, kind) {
        ("counter", COUNTER_BYTES | COUNTER_PACKETS | COUNTER_PAD) => true,
        ("lookup", LOOKUP_SET_ID) | ("dynset", 2 | DYNSET_PAD) => true,
        // Flags of a lookup and of a limit; time and flags of a dynset; a bitwise that masks; the code of a reject that has none.
        ("lookup", 5) | ("connlimit", 2) | ("dynset", 6 | 9) | ("bitwise", 6) | ("reject", 2) => {
            value.iter().all(|byte| *byte == 0)
        }
        _ => false,
    }
}

/// Attributes in the order of their kinds.
fn canonical(attributes: impl Iterator<Item = (u16, Vec<u8>)>) -> Vec<u8> {
    let mut sorted: Vec<(u16, Vec<u8>)> = attributes.collect();
    sorted.sort();
    let mut form = Vec::new();
    sorted.iter().for_each(|(kind, value)| write(&mut form, *kind, value));
    form
}

fn write(form: &mut Vec<u8>, kind: u16, value: &[u8]) {
    form.extend_from_slice(&kind.to_ne_bytes());
    form.extend_from_slice(&value.len().to_ne_bytes());
    form.extend_from_slice(value);
}
