//! Netlink messages of nf_tables as bytes: header, family, nested attributes.
//!
//! Plain safe code without a C library, so that every byte can be tested; a message is handed to `nftnl::Batch`,
//! which numbers it. No message asks to be acknowledged, so the kernel answers only what it refuses.
#![allow(unsafe_code, reason = "nftnl's trait for messages is unsafe to implement")]

use crate::program::ir::Family;
use nftnl::{MsgType, NlMsg};
use std::cell::Cell;
use std::ffi::c_void;

/// The most bytes of one message. A list of elements is one attribute, whose length has 16 bits.
pub(super) const LARGEST: usize = 0xfff0;

/// Bytes before the attributes: `nlmsghdr` and `nfgenmsg`.
pub(super) const HEADER: usize = 20;

/// One message without its number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message {
    /// What it does: one of `NFT_MSG_*`.
    pub(super) kind: u16,
    /// `NLM_F_*`, besides that of a request.
    pub(super) flags: u16,
    /// The family as the kernel numbers it.
    pub(super) family: u8,
    /// Its attributes.
    pub(super) attributes: Attributes,
    /// The step of the plan that it is part of.
    pub(super) step: usize,
}

/// Attributes one after the other, each padded to four bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Attributes(Vec<u8>);

impl Message {
    /// Bytes of the whole message.
    pub(super) fn length(&self) -> usize {
        HEADER + self.attributes.0.len()
    }

    /// The message as it is sent.
    pub(super) fn bytes(&self, sequence: u32) -> Vec<u8> {
        let kind = (libc::NFNL_SUBSYS_NFTABLES as u16) << 8 | self.kind;
        let flags = libc::NLM_F_REQUEST as u16 | self.flags;
        let mut bytes = Vec::with_capacity(self.length());
        bytes.extend_from_slice(&(self.length() as u32).to_ne_bytes());
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&flags.to_ne_bytes());
        bytes.extend_from_slice(&sequence.to_ne_bytes());
        bytes.extend_from_slice(&0u32.to_ne_bytes());
        bytes.extend_from_slice(&[self.family, libc::NFNETLINK_V0 as u8, 0, 0]);
        bytes.extend_from_slice(&self.attributes.0);
        bytes
    }
}

/// The kernel's number of a family.
pub(super) fn family_number(family: Family) -> u8 {
    match family {
        Family::Bridge => libc::NFPROTO_BRIDGE as u8,
        Family::Inet => libc::NFPROTO_INET as u8,
        Family::Netdev => libc::NFPROTO_NETDEV as u8,
    }
}

impl Attributes {
    pub(super) fn put(&mut self, kind: u16, value: &[u8]) {
        self.open(kind, value.len());
        self.0.extend_from_slice(value);
        self.pad();
    }

    pub(super) fn u32(&mut self, kind: u16, value: u32) {
        self.put(kind, &value.to_be_bytes());
    }

    pub(super) fn u64(&mut self, kind: u16, value: u64) {
        self.put(kind, &value.to_be_bytes());
    }

    pub(super) fn text(&mut self, kind: u16, value: &str) {
        self.open(kind, value.len() + 1);
        self.0.extend_from_slice(value.as_bytes());
        self.0.push(0);
        self.pad();
    }

    /// An attribute of attributes.
    pub(super) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Attributes)) {
        let start = self.0.len();
        self.open(kind | libc::NLA_F_NESTED as u16, 0);
        fill(self);
        // An attribute that is too long makes its message too long, which is refused before it is sent.
        let length = (self.0.len() - start).min(usize::from(u16::MAX)) as u16;
        self.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    }

    /// An attribute of attributes that are made already.
    pub(super) fn list(&mut self, kind: u16, inner: &Attributes) {
        self.nest(kind, |list| list.append(inner));
    }

    /// Appends other attributes to these.
    pub(super) fn append(&mut self, other: &Attributes) {
        self.0.extend_from_slice(&other.0);
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    fn open(&mut self, kind: u16, length: usize) {
        let length = (length + 4).min(usize::from(u16::MAX)) as u16;
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
    }

    fn pad(&mut self) {
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }
}

/// A message on its way into a batch, which tells it its number.
pub(super) struct NumberedMessage<'a> {
    message: &'a Message,
    /// The number it was given.
    pub(super) sequence: Cell<u32>,
}

impl<'a> NumberedMessage<'a> {
    /// A message that fits.
    pub(super) fn new(message: &'a Message) -> NumberedMessage<'a> {
        assert!(message.length() <= LARGEST, "messages are measured when they are made");
        NumberedMessage { message, sequence: Cell::new(0) }
    }
}

// SAFETY: `write` writes `Message::length` bytes, which `NumberedMessage::new` holds below `LARGEST`, and that is below
// `nft_nlmsg_maxsize`, 65535 bytes and a page.
unsafe impl NlMsg for NumberedMessage<'_> {
    unsafe fn write(&self, buf: *mut c_void, sequence: u32, _: MsgType) {
        self.sequence.set(sequence);
        let bytes = self.message.bytes(sequence);
        // SAFETY: the caller's buffer holds `nft_nlmsg_maxsize` bytes, these are fewer, and they are our own.
        unsafe { buf.cast::<u8>().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_but_not_counted_so() {
        let mut attributes = Attributes::default();
        attributes.nest(3, |inner| {
            inner.text(1, "ab");
            inner.u32(2, 7);
        });
        assert_eq!(attributes.0, [20, 0, 3, 0x80, 7, 0, 1, 0, b'a', b'b', 0, 0, 8, 0, 2, 0, 0, 0, 0, 7]);
    }

    #[test]
    fn a_message_says_its_length_kind_number_and_family() {
        let mut attributes = Attributes::default();
        attributes.text(1, "t");
        let message = Message { kind: 3, flags: 0x400, family: 7, attributes, step: 0 };
        let bytes = message.bytes(9);
        assert_eq!(bytes[..16], [28, 0, 0, 0, 3, 10, 1, 4, 9, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[16..], [7, 0, 0, 0, 6, 0, 1, 0, b't', 0, 0, 0]);
    }
}
