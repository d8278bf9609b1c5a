//! The notes that nft keeps on sets and rules in the kernel, to list them as they were entered.
//!
//! A byte of kind, a byte of length, the value, again and again; values may be notes themselves. The kernel stores
//! them unread. Numbers are in host byte order.

use super::uapi::{UDATA_TYPEOF_DATA, UDATA_TYPEOF_EXPR};

/// Notes one after the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct UserData(pub(super) Vec<u8>);

impl UserData {
    pub(super) fn bytes(mut self, kind: u8, value: &[u8]) -> UserData {
        self.0.push(kind);
        self.0.push(u8::try_from(value.len()).expect("notes are short"));
        self.0.extend_from_slice(value);
        self
    }

    pub(super) fn number(self, kind: u8, value: u32) -> UserData {
        self.bytes(kind, &value.to_ne_bytes())
    }

    /// The expression whose type something has: its kind, and what it reads.
    pub(super) fn typeof_expression(kind: u32, reads: UserData) -> UserData {
        UserData::default().number(UDATA_TYPEOF_EXPR, kind).bytes(UDATA_TYPEOF_DATA, &reads.0)
    }
}

/// The value of the first note of a kind.
pub(super) fn note(mut notes: &[u8], kind: u8) -> Option<&[u8]> {
    loop {
        let [found, length, rest @ ..] = notes else { return None };
        let value = rest.get(..usize::from(*length))?;
        if *found == kind {
            return Some(value);
        }
        notes = &rest[value.len()..];
    }
}
