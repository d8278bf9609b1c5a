//! Constant sets and maps, which a rule brings along: their types, and the notes by which nft lists them.

use super::comment::UserData;
use super::expr::meta_key;
use super::uapi::*;
use crate::document::field::Base;
use crate::program::ir::operand::{LoadSource, Operand, Style};
use crate::program::ir::{Bytes, Verdict};

/// A set or map that only one rule reads.
#[derive(Debug)]
pub(super) struct AnonymousSet {
    /// By what its rule refers to it.
    pub(super) id: u32,
    /// nft's number for the type of its key.
    pub(super) key_type: u32,
    /// Bytes of its key.
    pub(super) key_length: usize,
    /// The notes by which nft lists it.
    pub(super) notes: Vec<u8>,
    /// Its keys, with a verdict each where it is a map.
    pub(super) elements: Vec<(Bytes, Option<Verdict>)>,
}

impl AnonymousSet {
    /// A set of these elements under keys that are read so, or what is wrong with it.
    pub(super) fn new(
        id: u32,
        keys: &[Operand],
        elements: Vec<(Bytes, Option<Verdict>)>,
    ) -> Result<AnonymousSet, String> {
        let key_length = key_length(keys);
        if elements.is_empty() {
            return Err("an empty constant set".into());
        }
        if let Some((odd, _)) = elements.iter().find(|(key, _)| key.len() != key_length) {
            return Err(format!("an element of {} bytes in a set of keys of {key_length}", odd.len()));
        }
        let key_type = match keys {
            [single] => data_type(single.style),
            several => several.iter().fold(0, |types, key| types << TYPE_BITS | sized_type(key)),
        };
        Ok(AnonymousSet { id, key_type, key_length, notes: constant_notes(keys), elements })
    }
}

/// Bytes of a key: of a single part its own, of several each filled up to whole words.
pub(super) fn key_length(keys: &[Operand]) -> usize {
    match keys {
        [single] => single.length(),
        several => several.iter().map(|key| key.length().next_multiple_of(4)).sum(),
    }
}

/// How nft is to list the keys: in which byte order, and raw bytes as what they are.
fn constant_notes(keys: &[Operand]) -> Vec<u8> {
    let order = match keys {
        [Operand { style: Style::Index, .. }] => HOST_ORDER,
        [_] => NETWORK_ORDER,
        _ => NO_ORDER,
    };
    let notes = UserData::default().number(UDATA_KEY_ORDER, order);
    let raw = |key: &Operand| key.name.is_none() && key.mask.is_none();
    let typed = |key: &Operand| raw(key) || matches!(key.source, LoadSource::Meta(_)) && key.mask.is_none();
    match keys {
        keys if !keys.iter().any(raw) || !keys.iter().all(typed) => notes.0,
        [single] => notes.bytes(UDATA_KEY_TYPEOF, &typeof_note(single).0).0,
        several => {
            let parts = (0..)
                .zip(several)
                .fold(UserData::default(), |parts, (number, key)| parts.bytes(number, &typeof_note(key).0));
            notes.bytes(UDATA_KEY_TYPEOF, &UserData::typeof_expression(TYPEOF_CONCAT, parts).0).0
        }
    }
}

fn typeof_note(key: &Operand) -> UserData {
    match key.source {
        LoadSource::Meta(meta) => {
            UserData::typeof_expression(TYPEOF_META, UserData::default().number(0, meta_key(meta) as u32))
        }
        LoadSource::Payload { base, offset, length } => {
            let base = match base {
                Base::Link => 1,
                Base::Network => 2,
                Base::Transport => 3,
            };
            let fields = [0, 0, base, offset * 8, length * 8];
            let raw =
                (0..).zip(fields).fold(UserData::default(), |raw, (kind, value)| raw.number(kind, value));
            UserData::typeof_expression(TYPEOF_PAYLOAD, raw)
        }
    }
}

/// In a concatenation nft 1.0.6 aborts on a type without a size of its own, so raw bytes get one that has it.
fn sized_type(key: &Operand) -> u32 {
    match (key.style, key.length()) {
        (Style::Raw | Style::Number | Style::Dscp, 1) => data_type(Style::Protocol),
        (Style::Raw | Style::Number, 2) => data_type(Style::Port),
        (Style::Raw, 4) => data_type(Style::Ipv4),
        (Style::Raw, 6) => data_type(Style::Ether),
        (Style::Raw, 16) => data_type(Style::Ipv6),
        (style, _) => data_type(style),
    }
}

/// nft's number for a data type: the kernel keeps it, nft lists by it.
fn data_type(style: Style) -> u32 {
    match style {
        Style::NfProto => 2,
        Style::Raw | Style::Number => 4,
        Style::Ipv4 => 7,
        Style::Ipv6 => 8,
        Style::Ether => 9,
        Style::EtherType => 10,
        Style::ArpOperation => 11,
        Style::Protocol => 12,
        Style::Port => 13,
        Style::IcmpType => 14,
        Style::TcpFlags => 15,
        Style::Index => 20,
        Style::Hardware => 21,
        Style::Icmp6Type => 29,
        Style::Mark => 19,
        Style::PacketType => 31,
        Style::IcmpCode => 32,
        Style::Icmp6Code => 33,
        Style::Name => 41,
        Style::Dscp => 36,
    }
}
