//! What guests' frames told becomes what is known of their addresses, and the rules that need it.

use super::Daemon;
use super::take::{Untaken, chain};
use crate::engine::Change;
use crate::learn::Told as Sighting;
use crate::learning::Heard;
use crate::lease::Table;
use crate::lease::file;
use crate::rpc::{Error, Reply};
use crate::store::Fault;
use tracing::{error, info, warn};

impl Daemon {
    /// Guests' frames told something. All of it is one change, so that many guests do not wait for each other; where that is
    /// refused, each has its own.
    pub(super) async fn hear(&mut self, sightings: Vec<Sighting>) {
        self.counters.heard(sightings.len());
        if self.learn(&sightings).await.is_err() {
            for sighting in sightings {
                if let Err(untaken) = self.learn(std::slice::from_ref(&sighting)).await {
                    self.miss(sighting.guest, untaken).await;
                }
            }
        }
        self.go_back().await;
        self.shorten();
    }

    /// A guest whose rules the kernel refuses is closed. What can not be written the guest's next frame may tell again.
    async fn miss(&mut self, guest: u32, untaken: Untaken) {
        let by_kernel = matches!(untaken, Untaken::ByKernel(_));
        let why = Error::from(untaken).message;
        error!(index = guest, reason = %why, "not learned");
        if let Some(link) = self.state.link_at(guest).cloned().filter(|_| by_kernel) {
            self.shut(&link, &why).await;
        }
    }

    async fn learn(&mut self, sightings: &[Sighting]) -> Result<(), Untaken> {
        let (mut next, now) = (self.state.clone(), self.now());
        let mut learned = Vec::new();
        for sighting in sightings {
            if let Some((heard, change)) = next.hear(sighting, now) {
                next = change.next;
                learned.push((heard, sighting));
            }
        }
        if !learned.is_empty() {
            self.try_take(Change { next, writes: Vec::new(), reply: Reply::Done }).await?;
        }
        for (_, Sighting { guest, frame }) in learned.iter().filter(|(heard, _)| *heard != Heard::Question) {
            info!(index = guest, sighting = ?frame.sighting, "learned");
        }
        Ok(())
    }

    pub(super) fn note(&mut self, lessons: &str) -> Result<(), Fault> {
        if lessons.is_empty() { Ok(()) } else { self.addresses.append(lessons) }
    }

    /// Opens ears for whoever is to be listened to.
    pub(super) fn listen(&mut self) {
        let posts = self.state.posts();
        self.ears.close(&posts);
        self.ears.open(&posts);
    }

    fn shorten(&mut self) {
        let book = self.state.book();
        if self.addresses.is_long(book.0.values().map(Table::len).sum()) {
            let written = self.addresses.rewrite(&file::write(&book));
            written.unwrap_or_else(
                |fault| warn!(reason = %chain(&fault), "learned addresses stay as they were written"),
            );
        }
    }
}
