//! A change in one piece: on the disk, in the kernel and in the state, or in none of them.
//!
//! [`Records`](crate::engine::Records) say what is written before the kernel has the new rules and what after. Whatever fails on the
//! way, what was written is put back, in the reverse order; where even that fails, it is tried until it succeeds, and no other
//! document is written before. A daemon that dies on the way leaves the old documents or the new ones, and its successor takes
//! the kernel there.

use super::addresses::Addresses;
use super::core::{Core, TIDY};
use super::trail;
use crate::engine::api::Reply;
use crate::engine::error::Error;
use crate::engine::{Change, Records, State, Write};
use crate::guest::link::Link;
use crate::kernel::apply;
use crate::service::store::journal::Appended;
use crate::service::store::{Fault, Staged};
use std::time::Duration;
use tokio::time::Instant;
use tracing::{error, warn};

/// So much is said of one change.
const NOTICES: usize = 16;

/// After which time a disk is tried again.
const SOON: Duration = Duration::from_secs(1);

/// Why a change was not taken.
pub(super) enum CommitError {
    ByKernel(apply::Refused),
    ByDisk(Fault),
}

/// What was written for a change that is not in force yet, in that order.
#[derive(Debug, Default)]
pub(super) struct Transaction(Vec<Written>);

#[derive(Debug)]
enum Written {
    Document(Staged),
    Lines(Appended),
}

impl Transaction {
    fn sync(&self) -> Result<(), Fault> {
        self.0.iter().try_for_each(|written| match written {
            Written::Document(staged) => staged.sync(),
            Written::Lines(_) => Ok(()),
        })
    }

    /// The documents that were changed.
    fn documents(self) -> impl Iterator<Item = Staged> {
        self.0.into_iter().filter_map(|written| match written {
            Written::Document(staged) => Some(staged),
            Written::Lines(_) => None,
        })
    }

    /// Puts everything back, the last first. What cannot be put back now is tried again later.
    fn rollback(&mut self, addresses: &mut Addresses, now: Duration) -> Result<(), Fault> {
        while let Some(written) = self.0.last() {
            match written {
                Written::Document(staged) => staged.undo()?,
                Written::Lines(appended) => addresses.withdraw(appended, now),
            }
            self.0.pop();
        }
        Ok(())
    }
}

impl Core {
    /// Takes a change and answers; the kernel is as it was where it is refused.
    pub(super) async fn commit(&mut self, change: Change) -> Result<Reply, Error> {
        let outcome = self.try_commit(change).await;
        self.rollback().await;
        outcome.map_err(Error::from)
    }

    pub(super) async fn commit_if(&mut self, change: Result<Change, Error>) -> Result<Reply, Error> {
        match change {
            Ok(change) => self.commit(change).await,
            Err(error) => Err(error),
        }
    }

    /// Takes a change, or none of it but that the kernel may be left half way.
    pub(super) async fn try_commit(&mut self, change: Change) -> Result<Reply, CommitError> {
        let outcome = self.stage(&change).await;
        if outcome.is_ok() {
            change
                .notices
                .iter()
                .take(NOTICES)
                .for_each(|notice| warn!(%notice, "accepted in spite of what the notice says"));
            let left = std::mem::replace(&mut self.state, change.next);
            trail::tell(&left, &self.state);
            self.unguard(&left);
            self.settle_within(TIDY);
        }
        self.listen();
        outcome.map(|()| change.reply)
    }

    /// Writes what must be written before, puts the rules in force, and owes the rest.
    async fn stage(&mut self, change: &Change) -> Result<(), CommitError> {
        // The capture of an interface whose rules are about to go ends first.
        if !change.next.knows_the_same(&self.state) || !change.next.binds_the_same(&self.state) {
            self.host.close_captures(&change.next.posts());
        }
        let records = change.records(&self.state);
        let transaction = self.write(&records).map_err(CommitError::ByDisk)?;
        if let Err(refused) = self.enforce(&change.next).await {
            self.put_back(transaction);
            return Err(CommitError::ByKernel(refused));
        }
        self.keep(transaction, &change.next);
        let now = self.now();
        self.addresses.owe(&records.after, now);
        self.remember_to_settle();
        Ok(())
    }

    /// Writes what comes before, all or nothing.
    fn write(&mut self, records: &Records) -> Result<Transaction, Fault> {
        let mut transaction = Transaction::default();
        let written = self.write_to(&mut transaction, records);
        if let Err(fault) = written {
            self.put_back(transaction);
            return Err(fault);
        }
        Ok(transaction)
    }

    fn write_to(&mut self, transaction: &mut Transaction, records: &Records) -> Result<(), Fault> {
        let now = self.now();
        if !records.documents.is_empty() {
            self.unsettled.rollback(&mut self.addresses, now)?;
        }
        for write in &records.documents {
            transaction.0.extend(self.stage_document(write)?.into_iter().map(Written::Document));
        }
        transaction.sync()?;
        transaction.0.extend(self.addresses.append(&records.before, now)?.map(Written::Lines));
        Ok(())
    }

    /// The change is in force: what it replaced is forgotten, unless its rules stay for a period of grace.
    fn keep(&mut self, transaction: Transaction, next: &State) {
        let staged = self.leaving.drain(..).chain(transaction.documents());
        let (leaving, kept) = staged.partition(|staged: &Staged| next.is_leaving(staged.name()));
        self.leaving = leaving;
        Vec::into_iter(kept).for_each(Staged::keep);
    }

    fn stage_document(&self, write: &Write) -> Result<Vec<Staged>, Fault> {
        match write {
            Write::SaveFilter(name, text) => self.filters.stage_save(name, text),
            Write::DeleteFilter(name) => self.filters.stage_delete(name),
            Write::SaveBinding(portdev, text) => Ok(vec![self.bindings.stage_save(portdev, text)?]),
            Write::DeleteBinding(portdev) => Ok(vec![self.bindings.stage_delete(portdev)?]),
        }
    }

    fn put_back(&mut self, mut transaction: Transaction) {
        let now = self.now();
        if let Err(fault) = transaction.rollback(&mut self.addresses, now) {
            error!(
                reason = chain(&fault),
                "a change was refused and its document is still there for now: the disk refused the undo; free it, it is tried again"
            );
            self.unsettled.0.append(&mut transaction.0);
        }
        self.remember_to_settle();
    }

    /// What the disk did not take, or did not give back, is tried again.
    fn remember_to_settle(&mut self) {
        if self.is_owing() {
            self.settle_within(SOON);
        }
    }

    /// Puts right what could not be after this time, if not before.
    pub(super) fn settle_within(&mut self, wait: Duration) {
        let again = Instant::now() + wait;
        self.cleanup_due = Some(self.cleanup_due.map_or(again, |cleanup_due| cleanup_due.min(again)));
    }

    /// Takes kernel and disk back to the state, where a change that was refused has left them half way.
    pub(super) async fn rollback(&mut self) {
        self.rollback_kernel().await;
        let now = self.now();
        if !self.unsettled.0.is_empty() && self.unsettled.rollback(&mut self.addresses, now).is_ok() {
            warn!("the document that a refused change had replaced is restored");
        }
    }

    /// Writes and puts back what could not be. Whether nothing of that is left.
    pub(super) async fn settle(&mut self) -> bool {
        self.finish_deferred().await;
        self.rollback().await;
        let now = self.now();
        if self.addresses.owes() {
            self.addresses.settle(now);
        }
        self.remember_to_settle();
        !self.is_owing()
    }

    /// Whether something is still to be written or put back.
    pub(super) fn is_owing(&self) -> bool {
        !self.unsettled.0.is_empty() || self.addresses.owes()
    }

    async fn enforce(&mut self, next: &State) -> Result<(), apply::Refused> {
        let outcome = match self.guard(next) {
            Ok(()) => self.converge(&self.state.firewall().ruleset(), &next.firewall().ruleset()).await,
            refused => refused,
        };
        if outcome.is_err() {
            self.unguard(next);
        }
        outcome
    }

    /// Closes an interface whose rules the kernel did not take.
    pub(super) async fn block(&mut self, link: &Link, why: &str) {
        let closed = self.state.block(link, why);
        let change = Change::silent(closed);
        match self.try_commit(change).await {
            Ok(_) => warn!(
                interface = link.name,
                "blocked: its rules were refused and nothing passes; bind it again"
            ),
            Err(_) => {
                self.set_down(link);
                self.state = self.state.set_down(link, why);
            }
        }
    }

    /// The last resort for an interface that could not even be blocked.
    fn set_down(&self, link: &Link) {
        match self.host.set_down(link.index) {
            Ok(()) => error!(
                interface = link.name,
                "set down: it could not be blocked; set it up when the cause is mended"
            ),
            Err(failure) => {
                error!(interface = link.name, reason = %failure, "neither blocked nor set down: it keeps the rules that it had; look at it at once")
            }
        }
    }
}

impl From<CommitError> for Error {
    fn from(error: CommitError) -> Error {
        Error::internal(match error {
            CommitError::ByKernel(refused) => refused.to_string(),
            CommitError::ByDisk(fault) => chain(&fault),
        })
    }
}

/// An error with what caused it.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
