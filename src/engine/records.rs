//! What a change needs on the disk, and by when: an order that is data.
//!
//! What lets more pass is on the disk before the kernel has it, so that nothing is in force that a restart would not find. What a
//! client asks for is there before as well, all of it: it is refused where it cannot be written. What links, leases and the
//! time take away is in force first and written afterwards; it never waits for a disk.

use super::{Change, State, Write};
use crate::guest::lease::file;

/// The records of a change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Records {
    /// Documents that are written before the kernel has the new rules. There is one at most, and from its rename on a restart finds
    /// the new state: what follows in this order changes nothing of that, nor does the record of a standard filter.
    pub documents: Vec<Write>,
    /// Lines about addresses that are written then, before the kernel has the new rules.
    pub before: String,
    /// Lines that are owed once it has them: they only take away.
    pub after: String,
}

impl Change {
    /// What must be written when this change follows an older state.
    pub fn records(&self, old: &State) -> Records {
        let lines = self.next.journal_lines(old);
        let documents = self.writes.clone();
        if !documents.is_empty() {
            return Records { documents, before: lines, after: String::new() };
        }
        let (after, before) = lines.split_inclusive('\n').partition(|line| file::takes_away(line));
        Records { documents, before, after }
    }
}
