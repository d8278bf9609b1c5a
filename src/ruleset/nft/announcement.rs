//! The kernel's announcements of changes → events about our tables. Pure; the socket is `kernel::watch`'s.
//!
//! The kernel announces every commit with the port and the process that made it. Only commits that touched a table
//! of our name, or that did so with everything (`flush ruleset`), become events.

use super::reply::{Received, attribute, body, messages, number, text};
use super::uapi::{GEN_NAME, GEN_PID, TABLE_NAME};
use crate::program::ir::TABLE;
use std::collections::VecDeque;
use std::fmt;

/// Something about our tables.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// Another process changed our tables.
    Foreign {
        /// Its netlink port.
        portid: u32,
        /// Its process number, as the namespace of processes it runs in has it.
        process: u32,
        /// Its name.
        name: String,
    },
    /// Announcements were lost: anything may have changed.
    Lost,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::Foreign { process, name, .. } => write!(f, "{name} (process {process})"),
            Event::Lost => f.write_str("another program"),
        }
    }
}

/// What the announcements so far amount to.
#[derive(Clone, Debug, Default)]
pub struct Decoder {
    touched: bool,
    events: VecDeque<Event>,
}

impl Decoder {
    /// Takes in what was received.
    pub fn read(&mut self, bytes: &[u8]) {
        for message in messages(bytes) {
            self.message(&message);
        }
    }

    /// The next event.
    pub fn next_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Announcements were lost.
    pub fn lost(&mut self) {
        self.touched = false;
        if self.events.back() != Some(&Event::Lost) {
            self.events.push_back(Event::Lost);
        }
    }

    /// A commit is announced object by object; the new generation, with who made it, comes last.
    fn message(&mut self, message: &Received<'_>) {
        if message.kind >> 8 != libc::NFNL_SUBSYS_NFTABLES as u16 {
            return;
        }
        let attributes = body(message);
        if i32::from(message.kind & 0xff) != libc::NFT_MSG_NEWGEN {
            // In every kind of object the first attribute is the table.
            self.touched |= attribute(attributes, TABLE_NAME).map(text).as_deref() == Some(TABLE);
            return;
        }
        let portid = message.port;
        if std::mem::take(&mut self.touched) {
            self.events.push_back(Event::Foreign {
                portid,
                process: attribute(attributes, GEN_PID).and_then(number).unwrap_or(0),
                name: attribute(attributes, GEN_NAME).map(text).unwrap_or_default(),
            });
        }
    }
}
