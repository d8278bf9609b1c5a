//! One step of a frame through the rules, as the kernel's trace tells it.

use crate::program::ir::Family;

/// One step of a frame that is traced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Traced {
    /// What the frame is known by, as long as it is on its way.
    pub id: u32,
    /// The family of the table; none where it is none of ours.
    pub family: Option<Family>,
    /// The table.
    pub table: String,
    /// The chain.
    pub chain: String,
    /// The rule's handle; none for the end of a base chain.
    pub handle: Option<u64>,
    /// What the rule said.
    pub verdict: TracedVerdict,
    /// The beginning of the frame: all its headers, where the kernel tells them. A packet that leaves the host's IP layer is
    /// no frame yet: its addresses are zeros.
    pub headers: Option<Vec<u8>>,
    /// The interface it came in by.
    pub iif: Option<u32>,
    /// The interface it goes out by.
    pub oif: Option<u32>,
}

/// What a traced rule said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TracedVerdict {
    /// The frame is dropped.
    Drop,
    /// It passes this table.
    Accept,
    /// It goes on: to the next rule or another chain.
    On,
}
