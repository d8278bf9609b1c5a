//! The journal of learned addresses: what is still to be written to it, and how often it is tried while the disk refuses.

use super::transaction::chain;
use crate::guest::lease::file::{self, Book};
use crate::service::store::Fault;
use crate::service::store::journal::{Appended, Journal};
use std::time::Duration;
use tracing::{error, info};

/// How long no new address is learned after the disk has refused one: guests send again.
const PAUSE: Duration = Duration::from_secs(1);
/// How often it is logged that it still refuses.
const REMINDER: Duration = Duration::from_secs(60);

/// The journal and what it is owed.
#[derive(Debug)]
pub(super) struct Addresses {
    journal: Journal,
    /// Lines that take away what is in force no longer, and that could not be written yet.
    owed: String,
    refusal: Option<Refusal>,
}

/// Since when lines are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Refusal {
    last: Duration,
    reported: Duration,
}

impl Refusal {
    /// A refusal after an earlier one, and whether it is worth a line of the log.
    fn after(earlier: Option<Refusal>, now: Duration) -> (Refusal, bool) {
        let reported = earlier.map(|earlier| earlier.reported).filter(|reported| now < *reported + REMINDER);
        (Refusal { last: now, reported: reported.unwrap_or(now) }, reported.is_none())
    }
}

impl Addresses {
    pub(super) fn new(journal: Journal) -> Addresses {
        Addresses { journal, owed: String::new(), refusal: None }
    }

    /// Appends lines, and before them what is owed. Where it fails, nothing of these lines counts.
    pub(super) fn append(&mut self, lines: &str, now: Duration) -> Result<Option<Appended>, Fault> {
        if lines.is_empty() {
            return Ok(None);
        }
        let outcome = self.pay().and_then(|()| self.journal.append(lines));
        self.note(&outcome, now);
        outcome.map(Some)
    }

    /// Takes back the lines that were appended last, now or before any other is written.
    pub(super) fn withdraw(&mut self, appended: &Appended, now: Duration) {
        let outcome = self.journal.take_back(appended);
        self.note(&outcome, now);
    }

    /// Writes lines that take away what is in force no longer, now or as soon as the disk takes them.
    pub(super) fn owe(&mut self, lines: &str, now: Duration) {
        self.owed.push_str(lines);
        if self.owes() && !self.is_refused(now) {
            self.settle(now);
        }
    }

    /// Writes what is owed, and cuts off what does not count.
    pub(super) fn settle(&mut self, now: Duration) {
        let outcome = self.journal.settle().and_then(|()| self.pay());
        self.note(&outcome, now);
    }

    /// Whether there is something to write or to cut off.
    pub(super) fn owes(&self) -> bool {
        !self.owed.is_empty() || !self.journal.is_settled()
    }

    /// Whether the disk has just refused lines, so that no others are tried for a moment.
    pub(super) fn is_refused(&self, now: Duration) -> bool {
        self.refusal.is_some_and(|refusal| now < refusal.last + PAUSE)
    }

    /// Rewrites the journal where most of it is history.
    pub(super) fn compact_journal(&mut self, book: &Book, needed: usize, now: Duration) {
        if self.journal.is_long(needed) && !self.is_refused(now) {
            self.rewrite(book, now);
        }
    }

    /// Rewrites the journal with just this.
    pub(super) fn rewrite(&mut self, book: &Book, now: Duration) {
        let outcome = self.journal.rewrite(&file::write(book));
        if outcome.is_ok() {
            self.owed.clear();
        }
        self.note(&outcome, now);
    }

    fn pay(&mut self) -> Result<(), Fault> {
        if !self.owed.is_empty() {
            // What is owed is in force: it is never taken back.
            drop(self.journal.append(&self.owed)?);
            self.owed.clear();
        }
        Ok(())
    }

    fn note<T>(&mut self, outcome: &Result<T, Fault>, now: Duration) {
        match outcome {
            Ok(_) => {
                if self.refusal.take().is_some() {
                    info!("learned addresses are written down again");
                }
            }
            Err(fault) => {
                let (refusal, is_news) = Refusal::after(self.refusal, now);
                self.refusal = Some(refusal);
                if is_news {
                    let reason = chain(fault);
                    error!(
                        reason,
                        "learned addresses cannot be written: a guest without an address stays blocked until they can; check the disk and the permissions of state_dir"
                    );
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_reported_once_a_minute() {
        let second = Duration::from_secs;
        let (first, reported) = Refusal::after(None, second(5));
        assert!(reported);
        let (again, reported) = Refusal::after(Some(first), second(6));
        assert_eq!((again, reported), (Refusal { last: second(6), reported: second(5) }, false));
        let (later, reported) = Refusal::after(Some(again), second(65));
        assert_eq!((later, reported), (Refusal { last: second(65), reported: second(65) }, true));
    }
}
