//! What the elements of a set are: the values of one variable, or tuples of several that are walked in step.
//!
//! The same function fills a slot for a member of a program and makes the constants that stand in its place
//! where variables are folded, so that the two cannot differ.

use super::groups::{address, leading_ones, masked};
use crate::document::diag::{Code, Diagnostic};
use crate::document::filter::Value;
use crate::document::filter::schema::ValueKind;
use crate::document::filter::value::literal;
use crate::document::vars::Lookup;
use crate::program::ir::{Bytes, KeyType};
use crate::program::{Slot, SlotPart};
use std::collections::BTreeSet;

/// The elements that a member with these variables puts into a slot's set, without its interface index.
pub fn slot_values(slot: &Slot, vars: &dyn Lookup) -> Result<BTreeSet<Vec<Bytes>>, Diagnostic> {
    let columns: Result<Vec<Vec<Bytes>>, Diagnostic> =
        slot.parts.iter().map(|part| column(part, vars)).collect();
    let columns = columns?;
    let length = columns.first().map_or(0, Vec::len);
    if columns.iter().any(|column| column.len() != length) {
        return Err(unequal());
    }
    Ok((0..length).map(|row| columns.iter().map(|column| column[row].clone()).collect()).collect())
}

/// Lists that one iterator walks must be of one length.
pub(super) fn unequal() -> Diagnostic {
    let message = "Cardinality of list items must be the same for processing them in parallel";
    Diagnostic::error(Code::INTERNAL, message)
}

/// A variable whose value cannot be read as what the attribute wants.
pub(super) fn unreadable(variable: &str, text: &str, wanted: ValueKind) -> Diagnostic {
    let message = format!("variable '{variable}' has the value '{text}', which is not {}", words(wanted));
    Diagnostic::error(Code::INTERNAL, message)
}

fn column(part: &SlotPart, vars: &dyn Lookup) -> Result<Vec<Bytes>, Diagnostic> {
    let kind = value_kind(part.kind);
    let values = vars.values(&part.variable).unwrap_or_default();
    let read = |text: &String| match literal(kind, text) {
        Some(value) => Ok(element(part, &value)),
        None => Err(unreadable(&part.variable, text, kind)),
    };
    values.iter().map(read).collect()
}

fn element(part: &SlotPart, value: &Value) -> Bytes {
    let bytes = match value {
        Value::Number { value, .. } => (*value as u16).to_be_bytes().into(),
        value => address(value),
    };
    let mask = |prefix| masked(&bytes, &leading_ones(prefix, bytes.len()));
    part.prefix.map(mask).unwrap_or_else(|| bytes.clone())
}

fn value_kind(kind: KeyType) -> ValueKind {
    match kind {
        KeyType::Ether => ValueKind::Mac,
        KeyType::Ipv4 => ValueKind::Ipv4,
        KeyType::Ipv6 => ValueKind::Ipv6,
        KeyType::Port => ValueKind::U16,
        other => unreachable!("no slot holds values of type {other:?}"),
    }
}

fn words(kind: ValueKind) -> &'static str {
    match kind {
        ValueKind::Mac => "a MAC address",
        ValueKind::MacMask => "a MAC mask",
        ValueKind::Ipv4 => "an IPv4 address",
        ValueKind::Ipv6 => "an IPv6 address",
        ValueKind::Ipv4Mask | ValueKind::Ipv6Mask => "a mask",
        ValueKind::Bool => "true or false",
        ValueKind::Comment => "a comment",
        ValueKind::States => "a list of connection states",
        ValueKind::TcpFlags => "a pair of TCP flag lists",
        ValueKind::IpsetName => "the name of an ipset",
        ValueKind::IpsetFlags => "a list of src and dst",
        ValueKind::EtherType(_) => "an Ethernet type",
        ValueKind::VlanId => "a VLAN id",
        ValueKind::ArpOpcode => "an ARP operation",
        ValueKind::IpProtocol => "an IP protocol",
        ValueKind::Dscp => "a DSCP",
        ValueKind::U8 => "a number of 8 bits",
        ValueKind::U16 | ValueKind::Decimal16 => "a number of 16 bits",
        ValueKind::U32 => "a number of 32 bits",
    }
}
