//! Steps of a plan as one netlink batch, and what the kernel answers.
//!
//! A batch is built whole before any of it is sent, and every message leads back to its step, so that a refusal
//! names the filter's rule. Knows rule sets and plans, and nothing of filters or bindings.

pub mod announcement;
mod anonymous_set;
mod comment;
mod expr;
pub mod form;
mod message;
mod object;
mod peephole;
pub mod probe;
pub mod read;
pub mod reply;
pub mod trace;
pub mod traced;
mod uapi;

use crate::program::ir::{Family, TABLE};
use crate::ruleset::plan::Step;
use message::{Message, NumberedMessage};
use nftnl::{Batch, FinalizedBatch, MsgType};
use object::Encoder;
use reply::{Refusal, RefusalCause};

/// Which promises our tables ask of the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ownership {
    /// Our socket owns the table: no other process can change it, and it stays when our process ends.
    OwnedAndKept,
    /// Like any other table; all that older kernels have.
    #[default]
    Shared,
}

/// Steps in the form in which they are sent.
#[derive(Debug, Default)]
pub struct Encoded {
    messages: Vec<Message>,
}

/// A batch, ready to be sent as one datagram.
pub struct EncodedBatch {
    batch: FinalizedBatch,
    /// The number and step of each message, in rising order of numbers.
    steps: Vec<(u32, usize)>,
}

/// Encodes steps, or refuses all of them, naming each that cannot be encoded.
///
/// `ownership` says what the table of a family is made, or taken over, with.
pub fn encode(steps: &[Step], ownership: impl Fn(Family) -> Ownership) -> Result<Encoded, Vec<Refusal>> {
    let mut encoder = Encoder::new(TABLE);
    let mut refusals = Vec::new();
    for (index, step) in steps.iter().enumerate() {
        let flags = match ownership(step.family) {
            Ownership::OwnedAndKept => uapi::TABLE_F_OWNER | uapi::TABLE_F_PERSIST,
            Ownership::Shared => 0,
        };
        if let Err(fault) = encoder.step(index, step, flags) {
            refusals.push(Refusal::of(index, step, RefusalCause::Unencodable(fault)));
        }
    }
    if refusals.is_empty() { Ok(Encoded { messages: encoder.messages }) } else { Err(refusals) }
}

impl Encoded {
    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Bytes of all messages.
    pub fn length(&self) -> usize {
        self.messages.iter().map(Message::length).sum()
    }

    /// The batch, its messages numbered.
    pub fn seal(&self) -> EncodedBatch {
        let mut batch = Batch::new();
        let mut steps = Vec::with_capacity(self.messages.len());
        for message in &self.messages {
            let quiet = NumberedMessage::new(message);
            batch.add(&quiet, MsgType::Add);
            steps.push((quiet.sequence.get(), message.step));
        }
        EncodedBatch { batch: batch.finalize(), steps }
    }
}

impl EncodedBatch {
    /// The pages of the batch, which must leave in one `sendmsg`.
    pub fn pages(&self) -> impl Iterator<Item = &[u8]> {
        self.batch.iter()
    }

    /// The step that a message of this number belongs to.
    pub fn step(&self, sequence: u32) -> Option<usize> {
        let at = self.steps.binary_search_by_key(&sequence, |(number, _)| *number).ok()?;
        Some(self.steps[at].1)
    }
}
