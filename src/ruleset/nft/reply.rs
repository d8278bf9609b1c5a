//! What the kernel answers, read without trust: messages, their attributes, and refusals.
//!
//! Nothing in here panics or reads beyond what it was given, whatever the bytes say. A refused batch reports every
//! message the kernel did not like, each by its number, with an error number, sometimes a text, and mostly the offset
//! of the attribute at fault.

use super::EncodedBatch;
use super::uapi::{ERROR_OFFSET, ERROR_TEXT};
use crate::program::ir::Origin;
use crate::ruleset::plan::{Step, TableOperation};
use std::fmt::{self, Display, Formatter};
use std::io;

/// One step that was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Which step of its batch; none where the kernel refused the batch as such.
    pub step: Option<usize>,
    /// What the step is, for people: `rule in chain x/out of table bridge nwfilter`.
    pub what: String,
    /// The rule of a filter that the step comes from.
    pub origin: Option<Origin>,
    /// Why.
    pub fault: RefusalCause,
}

/// Why a step was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RefusalCause {
    /// By us, before anything was sent.
    Unencodable(String),
    /// By the kernel.
    Kernel {
        /// The error number, positive.
        errno: i32,
        /// What the kernel says to it, if anything.
        text: Option<String>,
        /// How far into the message the attribute lies that it did not like.
        offset: Option<u32>,
    },
}

/// A netlink message, cut out of what was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received<'a> {
    /// `nlmsg_type`.
    pub kind: u16,
    /// `NLM_F_*`.
    pub flags: u16,
    /// The number of the request it answers.
    pub sequence: u32,
    /// The port of who caused it.
    pub port: u32,
    /// What follows the header.
    pub payload: &'a [u8],
}

/// The error in a received message; none where it is no error or an acknowledgement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelError {
    /// The number of the message that failed.
    pub sequence: u32,
    /// Why.
    pub fault: RefusalCause,
}

/// The messages in received bytes; what is cut off or lies about its length ends them.
pub fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Received<'_>> {
    std::iter::from_fn(move || {
        let length = word(bytes, 0)? as usize;
        let message = bytes.get(..length).filter(|message| message.len() >= 16)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Received {
            kind: half(message, 4)?,
            flags: half(message, 6)?,
            sequence: word(message, 8)?,
            port: word(message, 12)?,
            payload: &message[16..],
        })
    })
}

/// The attributes in a payload: kind without its flags, and value. What lies about its length ends them.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (length, kind) = (usize::from(half(bytes, 0)?), half(bytes, 2)?);
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind & libc::NLA_TYPE_MASK as u16, value))
    })
}

/// The value of the first attribute of a kind.
pub fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(found, _)| *found == kind).map(|(_, value)| value)
}

/// The attributes behind the family header of an nf_tables message.
pub fn body<'a>(message: &Received<'a>) -> &'a [u8] {
    message.payload.get(4..).unwrap_or_default()
}

/// A text attribute's value up to its closing zero.
pub fn text(value: &[u8]) -> String {
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

/// A number as nf_tables sends it.
pub fn number(value: &[u8]) -> Option<u32> {
    value.get(..4)?.try_into().ok().map(u32::from_be_bytes)
}

/// A long number as nf_tables sends it.
pub fn long(value: &[u8]) -> Option<u64> {
    value.get(..8)?.try_into().ok().map(u64::from_be_bytes)
}

/// Reads an error message; acknowledgements and all other messages are none.
pub fn error(message: &Received<'_>) -> Option<KernelError> {
    if message.kind != libc::NLMSG_ERROR as u16 {
        return None;
    }
    let errno = word(message.payload, 0)?.cast_signed().checked_neg().filter(|errno| *errno != 0)?;
    let original = message.payload.get(4..)?;
    let sequence = word(original, 8).unwrap_or(message.sequence);
    // The reply repeats the header of our message, or all of it where the kernel knows no short form.
    let capped = message.flags & libc::NLM_F_CAPPED as u16 != 0;
    let repeated = if capped { 16 } else { word(original, 0).unwrap_or(16).max(16) as usize };
    let details = match message.flags & libc::NLM_F_ACK_TLVS as u16 {
        0 => &[],
        _ => original.get(repeated.next_multiple_of(4)..).unwrap_or_default(),
    };
    let fault = RefusalCause::Kernel {
        errno,
        text: attribute(details, ERROR_TEXT).map(text),
        offset: attribute(details, ERROR_OFFSET).and_then(|value| word(value, 0)),
    };
    Some(KernelError { sequence, fault })
}

/// The refusals in received bytes, traced back to the steps of the batch that was sent.
pub fn refusals(bytes: &[u8], sealed: &EncodedBatch, steps: &[Step]) -> Vec<Refusal> {
    messages(bytes).filter_map(|message| error(&message)).map(|error| place(error, sealed, steps)).collect()
}

fn place(error: KernelError, sealed: &EncodedBatch, steps: &[Step]) -> Refusal {
    match sealed.step(error.sequence).and_then(|at| Some((at, steps.get(at)?))) {
        Some((at, step)) => Refusal::of(at, step, error.fault),
        None => Refusal { step: None, what: "the batch".into(), origin: None, fault: error.fault },
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

impl Refusal {
    /// A fault of a step.
    pub fn of(at: usize, step: &Step, fault: RefusalCause) -> Refusal {
        let origin = match &step.change {
            TableOperation::AddRule(_, rule) => rule.origin.clone(),
            _ => None,
        };
        Refusal { step: Some(at), what: describe(step), origin, fault }
    }

    /// The kernel's error number, if it was the kernel that refused.
    pub fn errno(&self) -> Option<i32> {
        match self.fault {
            RefusalCause::Kernel { errno, .. } => Some(errno),
            RefusalCause::Unencodable(_) => None,
        }
    }
}

fn describe(Step { family, change }: &Step) -> String {
    let what = match change {
        TableOperation::AddTable | TableOperation::DeleteTable => {
            return format!("table {family} {}", crate::program::ir::TABLE);
        }
        TableOperation::AddChain(name, _)
        | TableOperation::DeleteChain(name)
        | TableOperation::FlushChain(name) => {
            format!("chain {name}")
        }
        TableOperation::AddRule(chain, _) => format!("a rule of chain {chain}"),
        TableOperation::AddSet(name, _) | TableOperation::DeleteSet(name) => format!("set {name}"),
        TableOperation::AddElements(name, ..)
        | TableOperation::DeleteElements(name, ..)
        | TableOperation::DestroyElements(name, ..) => format!("elements of set {name}"),
    };
    format!("{what} in table {family} {}", crate::program::ir::TABLE)
}

impl Display for Refusal {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if let Some(Origin { filter, rule, place, .. }) = &self.origin {
            write!(f, "{}: rule {filter}:{rule}: ", place.line_column())?;
        }
        write!(f, "{}: {}", self.what, self.fault)
    }
}

impl Display for RefusalCause {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (errno, text, offset) = match self {
            RefusalCause::Unencodable(reason) => return f.write_str(reason),
            RefusalCause::Kernel { errno, text, offset } => (*errno, text, offset),
        };
        write!(f, "refused by the kernel: {}", io::Error::from_raw_os_error(errno))?;
        if let Some(text) = text {
            write!(f, ": {text}")?;
        }
        if let Some(offset) = offset {
            write!(f, " at byte {offset} of the message")?;
        }
        if errno == libc::EPERM {
            f.write_str(
                "; another process may own the table, or the right to administer networks is missing",
            )?;
        }
        Ok(())
    }
}

impl std::error::Error for Refusal {}

#[cfg(test)]
mod tests {
    use super::*;

    /// An error reply: flags, error number, the number of our message, and what comes behind its header.
    fn reply(flags: i32, errno: i32, sequence: u32, repeated: &[u8], details: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 16];
        bytes[4..6].copy_from_slice(&(libc::NLMSG_ERROR as u16).to_ne_bytes());
        bytes[6..8].copy_from_slice(&(flags as u16).to_ne_bytes());
        bytes.extend_from_slice(&(-errno).to_ne_bytes());
        bytes.extend_from_slice(&(16 + repeated.len() as u32).to_ne_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&sequence.to_ne_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(repeated);
        bytes.extend_from_slice(details);
        let length = bytes.len() as u32;
        bytes[..4].copy_from_slice(&length.to_ne_bytes());
        bytes
    }

    fn read(bytes: &[u8]) -> Option<KernelError> {
        messages(bytes).find_map(|message| error(&message))
    }

    #[test]
    fn an_error_has_number_text_and_offset_in_both_forms() {
        let details = [8, 0, 2, 0, 48, 0, 0, 0, 6, 0, 1, 0, b'n', b'o', 0, 0];
        let tlvs = libc::NLM_F_ACK_TLVS;
        let fault = |text: Option<&str>, offset| {
            let fault = RefusalCause::Kernel { errno: libc::ENOENT, text: text.map(Into::into), offset };
            Some(KernelError { sequence: 9, fault })
        };
        let full = fault(Some("no"), Some(48));
        assert_eq!(read(&reply(libc::NLM_F_CAPPED | tlvs, libc::ENOENT, 9, &[], &details)), full);
        assert_eq!(read(&reply(tlvs, libc::ENOENT, 9, &[1; 20], &details)), full);
        assert_eq!(read(&reply(libc::NLM_F_CAPPED, libc::ENOENT, 9, &[], &[])), fault(None, None));
        assert_eq!(read(&reply(libc::NLM_F_CAPPED, 0, 9, &[], &[])), None, "an acknowledgement");
    }

    #[test]
    fn a_message_that_lies_about_its_length_ends_the_reading() {
        let good = reply(libc::NLM_F_CAPPED, libc::EPERM, 1, &[], &[]);
        for length in [0u32, 15, 4000, u32::MAX] {
            let mut bad = good.clone();
            bad[..4].copy_from_slice(&length.to_ne_bytes());
            let bytes = [good.clone(), bad, good.clone()].concat();
            assert_eq!(messages(&bytes).count(), 1, "{length}");
        }
        assert_eq!(messages(&good[..good.len() - 1]).count(), 0);
    }
}
