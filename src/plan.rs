//! The difference of two rule sets, as batches that never open before they close.
//!
//! One batch is atomic for readers of the rule set, but not for every packet: a lookup reads the
//! newest elements while the rules are those of the moment the packet came. So a change is made in
//! up to three batches, each whole or not at all. *Prepare* makes only what no packet can reach. *Switch* changes
//! what leads there. *Retire* takes away what packets still under way may be reading, and is sent when none
//! of them is left.

use crate::ir::{Bytes, Data, Datum, Family, Hook, KeyType, Name, Rule};

/// A change as batches, in the order in which they are sent; any may be empty.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Makes what no packet can reach yet.
    pub prepare: Vec<Step>,
    /// Changes what leads there, and takes away what was left.
    pub switch: Vec<Step>,
    /// Takes away what a packet under way during the switch may still read.
    pub retire: Vec<Step>,
}

/// One change of the kernel's rule set.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// In our table of this family.
    pub family: Family,
    /// What is done.
    pub change: Change,
}

/// What a step does.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// Make our table, or take it over if it is there.
    AddTable,
    /// Remove our table with all that is in it.
    DeleteTable,
    /// Make a chain, empty.
    AddChain(Name, Option<Hook>),
    /// Remove a chain and its rules.
    DeleteChain(Name),
    /// Remove all rules of a chain.
    FlushChain(Name),
    /// Append a rule to a chain.
    AddRule(Name, Rule),
    /// Make a set or map, empty.
    AddSet(Name, SetType),
    /// Remove a set or map.
    DeleteSet(Name),
    /// Add elements to a set or map.
    AddElements(Name, SetType, Vec<(Bytes, Datum)>),
    /// Remove elements from a set or map.
    DeleteElements(Name, SetType, Vec<Bytes>),
}

/// What kind of set or map a step is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetType {
    /// The types of its key.
    pub key: Vec<KeyType>,
    /// What it maps to.
    pub data: Data,
    /// Filled by rules.
    pub dynamic: bool,
}
