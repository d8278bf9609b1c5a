//! Our tables as a kernel was seen to have them.
//!
//! Rules are known by their digest alone ([`digest::rule`](crate::ir::digest::rule)), which we left on them; a rule that
//! has none is not ours. Constant sets belong to their rules and do not appear.

use crate::ir::SetType;
use crate::ir::{Bytes, Datum, Family, Hook, Name};
use std::collections::BTreeMap;

/// All tables of our name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// At most one a family.
    pub families: BTreeMap<Family, ObservedTable>,
}

/// One table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObservedTable {
    /// Whether it was made to have an owner.
    pub owner: bool,
    /// The netlink port that owns it now; none where nobody does.
    pub port: Option<u32>,
    /// Chains by name.
    pub chains: BTreeMap<Name, ObservedChain>,
    /// Named sets and maps by name.
    pub sets: BTreeMap<Name, ObservedSet>,
}

/// One chain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObservedChain {
    /// Where the kernel enters it.
    pub hook: Option<Hook>,
    /// Its rules in order.
    pub rules: Vec<ObservedRule>,
}

/// One rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObservedRule {
    /// The kernel's number for it.
    pub handle: u64,
    /// The digest that we left on it.
    pub digest: Option<u64>,
    /// Its comment.
    pub comment: Option<String>,
    /// Packets and bytes that it counted.
    pub counter: Option<(u64, u64)>,
    /// What the frames that it drops are counted as.
    pub tally: Option<u32>,
    /// The chain that it goes to for good, whatever else it says.
    pub goto: Option<Name>,
}

/// One set or map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedSet {
    /// Its type; without any key where it is none that we would make.
    pub ty: SetType,
    /// Its elements; none of a set that rules fill.
    pub elements: BTreeMap<Bytes, Datum>,
    /// Packets and bytes that its elements counted, those of a set that rules fill included, where that is ours to read.
    pub counts: BTreeMap<Bytes, (u64, u64)>,
}
