//! What the dumps of a table's sets say: named sets and maps with their elements, and what constant ones hold.

use super::{Dump, DumpRequest, ask, named, ours, read_counter};
use crate::program::ir::observed::{ObservedSet, ObservedTable};
use crate::program::ir::{Bytes, ElementValue, KeyType, Name, SetType, TABLE, ValueType};
use crate::ruleset::layout;
use crate::ruleset::nft::form::{self, Content};
use crate::ruleset::nft::object::type_number;
use crate::ruleset::nft::reply::{attribute, attributes, body, number};
use crate::ruleset::nft::uapi::*;
use std::collections::BTreeMap;
use std::io;

/// Flags of constant sets, which a rule brings along.
const CONSTANT: i32 = libc::NFT_SET_ANONYMOUS | libc::NFT_SET_CONSTANT;
/// Type and length of a conntrack zone as the datum of a map.
const ZONE: (u32, u32) = (4, 2);

/// Lists the sets of a table, all still empty. Those that belong to rules are returned.
pub(super) fn list(
    link: &mut dyn Dump,
    family: u8,
    table: &mut ObservedTable,
) -> io::Result<BTreeMap<String, Content>> {
    let mut constants = BTreeMap::new();
    let request = DumpRequest::dump(libc::NFT_MSG_GETSET, family, |a| a.text(SET_TABLE, TABLE));
    ask(link, &request, &mut |message| {
        let attributes = body(message);
        let Some(name) = ours(attributes, SET_TABLE).then(|| named(attributes, SET_NAME)).flatten() else {
            return;
        };
        let flags = attribute(attributes, SET_FLAGS).and_then(number).unwrap_or(0).cast_signed();
        if flags & libc::NFT_SET_ANONYMOUS != 0 {
            let strange = flags & !libc::NFT_SET_MAP != CONSTANT || has_more(attributes);
            constants.insert(name.to_string(), Content { strange, ..Content::default() });
            return;
        }
        let strange = flags & !(libc::NFT_SET_MAP | libc::NFT_SET_EVAL) != 0 || has_more(attributes);
        let (ty, elements, counts) = (read_type(attributes, flags), BTreeMap::new(), BTreeMap::new());
        let strange = strange || is_of_strange_type(attributes, &ty);
        table.sets.insert(name, ObservedSet { ty, strange, elements, counts });
    })?;
    Ok(constants)
}

/// Whether a set does what none of ours does: forgets its elements, or holds objects or several expressions.
fn has_more(set: &[u8]) -> bool {
    let zero = |value: &[u8]| value.iter().all(|byte| *byte == 0);
    let numbers = [SET_TIMEOUT, SET_GC_INTERVAL, SET_OBJECT_TYPE];
    numbers.iter().any(|kind| attribute(set, *kind).is_some_and(|value| !zero(value)))
        || attribute(set, SET_EXPRESSIONS).is_some()
        || attribute(set, SET_EXPRESSION).is_some_and(|expression| read_counter(expression).is_none())
}

fn is_of_strange_type(set: &[u8], ty: &SetType) -> bool {
    let data = |kind| attribute(set, kind).and_then(number).unwrap_or(0);
    ty.key.is_empty() || ty.data == ValueType::Zone && (data(SET_DATA_TYPE), data(SET_DATA_LEN)) != ZONE
}

fn read_type(set: &[u8], flags: i32) -> SetType {
    let key = attribute(set, SET_KEY_TYPE).and_then(number).and_then(key_types).unwrap_or_default();
    let data = match attribute(set, SET_DATA_TYPE).and_then(number) {
        _ if flags & libc::NFT_SET_MAP == 0 => ValueType::None,
        Some(kind) if kind == libc::NFT_DATA_VERDICT => ValueType::Verdict,
        _ => ValueType::Zone,
    };
    let counted = attribute(set, SET_EXPRESSION).is_some();
    SetType { key, data, dynamic: flags & libc::NFT_SET_EVAL != 0, counted }
}

/// The parts of a concatenated type: six bits each, the first part highest.
fn key_types(mut number: u32) -> Option<Vec<KeyType>> {
    use KeyType::*;
    let mut parts = Vec::new();
    while number != 0 {
        let known = [IfIndex, IfName, Ether, Ipv4, Ipv6, Port, EtherType, IpProtocol, Mark];
        parts.push(known.into_iter().find(|part| type_number(*part) == number & 0x3f)?);
        number >>= 6;
    }
    parts.reverse();
    Some(parts)
}

/// Reads what the constant sets hold that were listed.
pub(super) fn read_constants(
    link: &mut dyn Dump,
    family: u8,
    mut constants: BTreeMap<String, Content>,
) -> io::Result<BTreeMap<String, Content>> {
    for (name, content) in &mut constants {
        elements_of(link, family, name, &mut |element| {
            let datum = attribute(element, ELEM_DATA).map(form::datum).unwrap_or_default();
            match key_of(element) {
                Some(key) if !is_strange(element, ValueType::Verdict, Counted::No) => {
                    content.elements.insert(key, datum);
                }
                _ => content.strange = true,
            }
        })?;
    }
    Ok(constants)
}

/// Reads the elements of all sets that were listed.
pub(super) fn read_all_elements(
    link: &mut dyn Dump,
    family: u8,
    table: &mut ObservedTable,
) -> io::Result<()> {
    let readable = |(name, set): &(&Name, &mut ObservedSet)| !set.ty.dynamic || &***name == layout::DROPS;
    let mut sets = table.sets.iter_mut().filter(readable);
    sets.try_for_each(|(name, set)| read_until_whole(link, family, name, set))
}

/// Reads the elements of a set. While the kernel moves it to a larger hash table, a dump may pass elements over: what one dump
/// lacks the next one has.
pub(super) fn read_until_whole(
    link: &mut dyn Dump,
    family: u8,
    name: &Name,
    set: &mut ObservedSet,
) -> io::Result<()> {
    loop {
        let known = set.elements.len() + set.counts.len();
        read_elements(link, family, name, set)?;
        if set.elements.len() + set.counts.len() == known {
            return Ok(());
        }
    }
}

fn read_elements(link: &mut dyn Dump, family: u8, name: &Name, set: &mut ObservedSet) -> io::Result<()> {
    let ObservedSet { ty, strange, elements, counts } = set;
    let counted = if ty.counted || ty.dynamic { Counted::Yes } else { Counted::No };
    elements_of(link, family, name, &mut |element| {
        *strange |= is_strange(element, ty.data, counted);
        let Some((key, datum)) = read_element(element, ty.data) else {
            *strange = true;
            return;
        };
        let count = attribute(element, ELEM_EXPRESSION).and_then(read_counter);
        counts.extend(count.map(|count| (key.clone(), count)));
        elements.extend((!ty.dynamic).then_some((key, datum)));
    })
}

/// Asks for the elements of a set, and hands each on.
fn elements_of(link: &mut dyn Dump, family: u8, set: &str, each: &mut dyn FnMut(&[u8])) -> io::Result<()> {
    let request = DumpRequest::dump(libc::NFT_MSG_GETSETELEM, family, |a| {
        a.text(LIST_TABLE, TABLE);
        a.text(LIST_SET, set);
    });
    ask(link, &request, &mut |message| {
        let list = attribute(body(message), LIST_ELEMENTS).unwrap_or_default();
        attributes(list).for_each(|(_, element)| each(element));
    })
}

/// Whether the elements of a set count.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Counted {
    Yes,
    No,
}

/// Whether an element is made in a way in which we make none: for all other keys or a range of them, with a time, or with
/// an expression that decides whether it is found.
fn is_strange(element: &[u8], data: ValueType, counted: Counted) -> bool {
    attributes(element).any(|(kind, value)| match kind {
        ELEM_KEY | ELEM_USERDATA | ELEM_PAD => false,
        ELEM_DATA => data == ValueType::None,
        ELEM_FLAGS => value.iter().any(|byte| *byte != 0),
        ELEM_EXPRESSION => counted == Counted::No || read_counter(value).is_none(),
        _ => true,
    })
}

fn key_of(element: &[u8]) -> Option<Bytes> {
    attribute(attribute(element, ELEM_KEY)?, DATA_VALUE).map(Bytes::from)
}

fn read_element(element: &[u8], data: ValueType) -> Option<(Bytes, ElementValue)> {
    let value = || attribute(element, ELEM_DATA);
    let datum = match data {
        ValueType::None => ElementValue::None,
        ValueType::Verdict => {
            let verdict = attribute(value()?, DATA_VERDICT)?;
            let code = attribute(verdict, VERDICT_CODE).and_then(number)?.cast_signed();
            if code != libc::NFT_JUMP {
                return None;
            }
            ElementValue::Jump(named(verdict, VERDICT_CHAIN)?)
        }
        ValueType::Zone => ElementValue::Zone(u16::from_ne_bytes(
            attribute(value()?, DATA_VALUE)?.get(..2)?.try_into().ok()?,
        )),
    };
    Some((key_of(element)?, datum))
}
