//! Takes a change to the kernel and to the disk, or to neither; only then it becomes the state.

use super::{Daemon, TIDY, start};
use crate::apply;
use crate::engine::{Change, State, Write};
use crate::links::Link;
use crate::rpc::{Error, Reply};
use crate::store::Fault;
use std::time::Instant;
use tracing::{error, warn};

/// Why a change was not taken.
pub(super) enum Untaken {
    ByKernel(apply::Refused),
    ByDisk(Fault),
}

impl Daemon {
    pub(super) async fn take(&mut self, change: Change) -> Result<Reply, Error> {
        let outcome = self.try_take(change).await;
        self.go_back().await;
        outcome.map_err(Error::from)
    }

    /// Takes a change to kernel and disk, or to neither. The kernel may be left half way.
    pub(super) async fn try_take(&mut self, change: Change) -> Result<Reply, Untaken> {
        let outcome = self.take_in(&change).await;
        if outcome.is_ok() {
            self.state = change.next;
            self.untidy.get_or_insert(Instant::now() + TIDY);
        }
        self.listen();
        outcome.map(|()| change.reply)
    }

    async fn take_in(&mut self, change: &Change) -> Result<(), Untaken> {
        // Nobody is listened to whose rules are about to go.
        if !change.next.knows_the_same(&self.state) || !change.next.binds_the_same(&self.state) {
            self.ears.close(&change.next.posts());
        }
        self.enforce(&change.next).await.map_err(Untaken::ByKernel)?;
        let lessons = change.next.lessons(&self.state);
        let written = self.write(&change.writes).and_then(|()| self.note(&lessons));
        if let Err(fault) = written {
            self.enforce_back(&change.next).await;
            return Err(Untaken::ByDisk(fault));
        }
        Ok(())
    }

    async fn enforce(&mut self, next: &State) -> Result<(), apply::Refused> {
        self.reach(&self.state.firewall().ruleset(), &next.firewall().ruleset()).await
    }

    async fn enforce_back(&mut self, next: &State) {
        if let Err(refused) = self.reach(&next.firewall().ruleset(), &self.state.firewall().ruleset()).await {
            error!(reason = %refused, "rules of a change that was refused stay in force for now");
            self.adrift = true;
        }
    }

    fn write(&self, writes: &[Write]) -> Result<(), Fault> {
        writes.iter().try_for_each(|write| match write {
            Write::SaveFilter(name, text) => self.filters.save(name, text),
            Write::DeleteFilter(name) => self.filters.delete(name).map(drop),
            Write::SaveBinding(portdev, text) => self.bindings.save(portdev, text),
            Write::DeleteBinding(portdev) => self.bindings.delete(portdev).map(drop),
        })
    }

    /// Closes an interface whose rules the kernel did not take.
    pub(super) async fn shut(&mut self, link: &Link, why: &str) {
        let closed = self.state.close(link, why);
        let change = Change { next: closed, writes: Vec::new(), reply: Reply::Done };
        match self.try_take(change).await {
            Ok(_) => warn!(interface = link.name, "closed"),
            Err(_) => {
                start::set_down(link);
                self.state = self.state.set_down(link, why);
            }
        }
    }

    pub(super) async fn take_if(&mut self, change: Result<Change, Error>) -> Result<Reply, Error> {
        match change {
            Ok(change) => self.take(change).await,
            Err(error) => Err(error),
        }
    }
}

impl From<Untaken> for Error {
    fn from(untaken: Untaken) -> Error {
        Error::internal(match untaken {
            Untaken::ByKernel(refused) => refused.to_string(),
            Untaken::ByDisk(fault) => chain(&fault),
        })
    }
}

/// An error with what caused it.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
