//! The open captures: those that the state asks for, no more and no fewer.

use crate::guest::observation::{CaptureSpec, Observation};
use crate::kernel::capture::{Capture, listen};
use std::collections::BTreeMap;
use std::io;
use tokio::sync::mpsc;
use tracing::error;

/// Observations that wait for their turn; captures wait beyond.
const SIGHTINGS: usize = 256;

/// Open captures by the index of the guest's link.
#[derive(Debug)]
pub struct Captures {
    open: BTreeMap<u32, Capture>,
    to: mpsc::Sender<Observation>,
    /// How many there may be.
    most: usize,
    /// Whether some cannot be opened, which is logged once.
    short: bool,
}

impl Captures {
    /// None open, and where they will tell.
    pub fn new(most: usize) -> (Captures, mpsc::Receiver<Observation>) {
        let (to, observations) = mpsc::channel(SIGHTINGS);
        (Captures { open: BTreeMap::new(), to, most, short: false }, observations)
    }

    /// Closes those that are not asked for any longer.
    pub fn close(&mut self, posts: &BTreeMap<u32, CaptureSpec>) {
        self.open.retain(|index, capture| posts.get(index) == Some(capture.spec()) && !capture.has_ended());
    }

    /// Opens those that are missing, as long as there may be more. A guest without a capture waits for its address; its turn
    /// comes when another's is known.
    pub fn open(&mut self, posts: &BTreeMap<u32, CaptureSpec>) {
        let mut missing = Vec::new();
        for (index, post) in posts {
            if self.open.contains_key(index) {
                continue;
            }
            match self.listen(*post) {
                Ok(capture) => drop(self.open.insert(*index, capture)),
                Err(error) => missing.push((index, error)),
            }
        }
        if !self.short
            && let Some((index, error)) = missing.first()
        {
            let (guests, open) = (missing.len(), self.open.len());
            error!(guests, open, index, reason = %error, "cannot capture from guest interfaces: their addresses are not learned until it can; raise LimitNOFILE, or give the addresses in the bindings");
        }
        self.short = !missing.is_empty();
    }

    fn listen(&self, post: CaptureSpec) -> io::Result<Capture> {
        if self.open.len() >= self.most {
            return Err(io::Error::other("more would take the descriptors that documents and clients need"));
        }
        listen(post, self.to.clone())
    }
}
