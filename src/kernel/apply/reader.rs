//! A netfilter socket that only reads, beside the one that changes: a reader holds up no change.

use super::socket::Link;
use crate::program::ir::observed::Observed;
use crate::program::ir::{Family, Name, SetType};
use crate::ruleset::nft::read;
use std::io;

/// The socket. What it reads need not be of one moment.
pub struct Reader {
    link: Link,
}

/// What is to be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Sets with their types.
    pub sets: Vec<(Family, Name, SetType)>,
    /// Chains whose rules count.
    pub chains: Vec<(Family, Name)>,
}

impl Reader {
    /// Opens a socket in the calling thread's network namespace.
    pub fn open() -> io::Result<Reader> {
        Ok(Reader { link: Link::open()? })
    }

    /// Reads these, and nothing else of our tables.
    pub fn read(&mut self, wanted: &Wanted) -> io::Result<Observed> {
        read::observe_these(&mut self.link, &wanted.sets, &wanted.chains)
    }
}
