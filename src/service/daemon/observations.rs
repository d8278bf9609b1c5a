//! Turns observed frames into learned addresses, and these into rules.

use super::core::Core;
use super::transaction::CommitError;
use crate::engine::Change;
use crate::guest::learning;
use crate::guest::learning::LearnOutcome;
use crate::guest::lease::GuestLeases;
use crate::guest::lease::file::{self, Book};
use crate::guest::observation::Observation;
use tracing::{error, info};

impl Core {
    /// Applies a batch of observations. It is one change, so that many guests do not wait for each other; where that is
    /// refused, each observation is a change of its own.
    pub(super) async fn on_observations(&mut self, sightings: Vec<Observation>) {
        self.counters.heard(sightings.len());
        if self.learn(&sightings).await.is_err() {
            for sighting in sightings {
                if let Err(CommitError::ByKernel(refused)) = self.learn(std::slice::from_ref(&sighting)).await
                {
                    self.on_observation_failed(sighting.guest, &refused.to_string()).await;
                }
            }
        }
        self.rollback().await;
        self.compact_journal();
    }

    /// A guest whose rules the kernel refuses is closed.
    async fn on_observation_failed(&mut self, guest: u32, why: &str) {
        error!(
            index = guest,
            reason = why,
            "address not learned: the rules with it were refused and the interface is blocked"
        );
        if let Some(link) = self.state.link_at(guest).cloned() {
            self.block(&link, why).await;
        }
    }

    /// What cannot be written is not learned; the guest's next frame may carry it again.
    async fn learn(&mut self, sightings: &[Observation]) -> Result<(), CommitError> {
        let (mut next, now) = (self.state.clone(), self.now());
        let mut learned = Vec::new();
        let refused = self.addresses.is_refused(now);
        for sighting in sightings {
            let Some((heard, change)) = next.observe(sighting, now) else { continue };
            if refused && !change.records(&next).before.is_empty() {
                continue;
            }
            next = change.next;
            learned.push((heard, sighting));
        }
        if !learned.is_empty() {
            self.try_commit(Change::silent(next)).await?;
        }
        for (_, Observation { guest, frame }) in
            learned.iter().filter(|(heard, _)| *heard != LearnOutcome::Question)
        {
            info!(index = guest, sighting = ?frame.sighting, "learned");
        }
        Ok(())
    }

    /// Opens captures for the guests that learn.
    pub(super) fn listen(&mut self) {
        let posts = self.state.posts();
        self.host.close_captures(&posts);
        self.host.open_captures(&posts);
    }

    fn compact_journal(&mut self) {
        let (book, now) = (self.state.book(), self.now());
        let needed = book.0.values().map(GuestLeases::len).sum();
        self.addresses.compact_journal(&book, needed, now);
    }

    /// Rewrites the journal at the start, unless it already says what is known.
    pub(super) fn write_what_is_known(&mut self, said: Option<&Book>) {
        let (book, now) = (self.state.book(), self.now());
        let (known, _) = file::read(&file::write(&book), self.host.time(), learning::MOST);
        if said != Some(&known) {
            self.addresses.rewrite(&book, now);
        }
    }
}
