//! Loads of single values and of tuples, as nf_tables' payload and meta expressions do them.
//!
//! Where the device took a tag off, a load from the Ethernet header sees it in its place again, and behind it what the
//! kernel holds for the protocol (`nft_payload_copy_vlan`).

use super::{Frame, Headers};
use crate::document::field::Base;
use crate::program::ir::operand::{LoadSource, Meta, Operand};

/// The kernel's registers, as far as they are filled.
#[derive(Clone, Copy, Debug)]
pub(super) struct Register {
    bytes: [u8; Register::SIZE],
    length: usize,
}

impl Register {
    const SIZE: usize = 64;

    fn new() -> Register {
        Register { bytes: [0; Register::SIZE], length: 0 }
    }

    fn of(value: &[u8]) -> Option<Register> {
        let mut register = Register::new();
        register.append(value)?;
        Some(register)
    }

    fn append(&mut self, value: &[u8]) -> Option<()> {
        self.bytes.get_mut(self.length..self.length + value.len())?.copy_from_slice(value);
        self.length += value.len();
        Some(())
    }

    fn pad(&mut self) {
        self.length = self.length.next_multiple_of(4);
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// What an operand reads; none where the frame does not have it.
pub(super) fn load(operand: &Operand, frame: &Frame<'_>, headers: &Headers) -> Option<Register> {
    let mut value = match operand.source {
        LoadSource::Payload { base, offset, length } => payload(frame, headers, base, offset, length)?,
        LoadSource::Meta(meta) => property(meta, frame, headers)?,
    };
    if let Some(mask) = &operand.mask {
        value.bytes.iter_mut().zip(&**mask).for_each(|(byte, mask)| *byte &= mask);
    }
    Some(value)
}

/// Several operands behind each other, each padded to whole registers; one alone is left as it is.
pub(super) fn tuple(operands: &[Operand], frame: &Frame<'_>, headers: &Headers) -> Option<Register> {
    if let [single] = operands {
        return load(single, frame, headers);
    }
    let mut tuple = Register::new();
    for operand in operands {
        tuple.append(load(operand, frame, headers)?.bytes())?;
        tuple.pad();
    }
    Some(tuple)
}

fn payload(frame: &Frame<'_>, headers: &Headers, base: Base, offset: u32, length: u32) -> Option<Register> {
    let (offset, length) = (offset as usize, length as usize);
    let start = match base {
        Base::Link if headers.tagged && offset + length > TYPE => {
            return behind_tag(frame.bytes, headers, offset, length);
        }
        Base::Link => 0,
        Base::Network => headers.network,
        Base::Transport => match quick(headers, offset, length) {
            Some(start) if start + offset + length <= frame.bytes.len() => start,
            _ => headers.transport()?,
        },
    };
    Register::of(frame.bytes.get(start + offset..start + offset + length)?)
}

/// Where `nft_payload_fast_eval` takes the transport header to begin, which does not ask whether the frame is a later
/// fragment. Of IPv6 the kernel then holds the place of the network header.
fn quick(headers: &Headers, offset: usize, length: usize) -> Option<usize> {
    let fits = matches!(length, 1 | 2 | 4) && offset.is_multiple_of(length);
    headers.upper.filter(|_| fits).map(|upper| upper.offset)
}

/// What the kernel takes a frame for that is forwarded (`PACKET_OTHERHOST`).
const OTHER_HOST: u8 = 3;

/// Where the type field is, and where a tagged header ends.
const TYPE: usize = 12;
const TAGGED_HEADER: usize = 18;

/// The header is put together from addresses, tag and `skb->protocol`; what follows is the frame's.
fn behind_tag(bytes: &[u8], headers: &Headers, offset: usize, length: usize) -> Option<Register> {
    let mut register = Register::new();
    let mut header: [u8; TAGGED_HEADER] = bytes.get(..TAGGED_HEADER)?.try_into().ok()?;
    header[16..].copy_from_slice(&headers.protocol.to_be_bytes());
    let end = offset + length;
    register.append(header.get(offset..end.min(TAGGED_HEADER)).unwrap_or_default())?;
    let rest = offset.max(TAGGED_HEADER)..end.max(offset.max(TAGGED_HEADER));
    register.append(bytes.get(rest)?)?;
    Some(register)
}

fn property(meta: Meta, frame: &Frame<'_>, headers: &Headers) -> Option<Register> {
    match meta {
        Meta::Iif => Register::of(&frame.iif.index.to_ne_bytes()),
        Meta::Oif => Register::of(&frame.oif.index.to_ne_bytes()),
        Meta::IifName => name(frame.iif.name),
        Meta::OifName => name(frame.oif.name),
        Meta::BridgeName => name(frame.bridge),
        Meta::Mark => Register::of(&frame.mark.to_ne_bytes()),
        // Whatever station sends it, and whichever it is for.
        Meta::PacketType => Register::of(&[OTHER_HOST]),
        Meta::Protocol => Register::of(&headers.protocol.to_be_bytes()),
        Meta::L4Proto => Register::of(&[headers.upper?.protocol]),
        // Of the bridge family this is always the family itself (`NFPROTO_BRIDGE`).
        Meta::NfProto => Register::of(&[7]),
    }
}

fn name(name: &str) -> Option<Register> {
    let mut padded = [0; 16];
    let bytes = name.as_bytes();
    padded.get_mut(..bytes.len())?.copy_from_slice(bytes);
    (!bytes.is_empty()).then(|| Register::of(&padded)).flatten()
}
