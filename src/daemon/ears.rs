//! The ears that are open: those that the state asks for, no more and no fewer.

use crate::learn::{Ear, Post, Told, listen};
use std::collections::BTreeMap;
use tokio::sync::mpsc;
use tracing::error;

/// Sightings that wait for their turn; ears wait beyond.
const SIGHTINGS: usize = 256;

/// Open ears by the index of the guest's link.
#[derive(Debug)]
pub struct Ears {
    open: BTreeMap<u32, Ear>,
    to: mpsc::Sender<Told>,
}

impl Ears {
    /// None open, and where they will tell.
    pub fn new() -> (Ears, mpsc::Receiver<Told>) {
        let (to, told) = mpsc::channel(SIGHTINGS);
        (Ears { open: BTreeMap::new(), to }, told)
    }

    /// Closes those that are not asked for any longer.
    pub fn close(&mut self, posts: &BTreeMap<u32, Post>) {
        self.open.retain(|index, ear| posts.get(index) == Some(ear.post()) && !ear.has_ended());
    }

    /// Opens those that are missing. One that can not be opened is told of, and missing still. Whether all are open.
    pub fn open(&mut self, posts: &BTreeMap<u32, Post>) -> bool {
        for (index, post) in posts {
            if self.open.contains_key(index) {
                continue;
            }
            match listen(*post, self.to.clone()) {
                Ok(ear) => drop(self.open.insert(*index, ear)),
                Err(error) => error!(index, reason = %error, "a guest can not be listened to"),
            }
        }
        self.open.len() == posts.len()
    }
}
