//! Our tables as a kernel was seen to have them.
//!
//! We leave a digest ([`digest::rule`](crate::program::ir::digest::rule)) on each rule, which only says as what it was made:
//! anybody can copy it. What a rule is, its [`Form`] says. Constant sets belong to their rules and do not appear.

use crate::program::ir::SetType;
use crate::program::ir::{Bytes, ElementValue, Family, Hook, Name};
use std::collections::BTreeMap;
use std::fmt::{self, Debug, Formatter};

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
    /// The netlink port that owns it now; none where it has no owner.
    pub port: Option<u32>,
    /// It is made in a way in which we make no table: it sleeps, or holds objects or flowtables.
    pub strange: bool,
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
    /// It is made in a way in which we make no chain: of another type, with another policy, for several devices.
    pub strange: bool,
    /// Its rules in order.
    pub rules: Vec<ObservedRule>,
}

/// One rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObservedRule {
    /// The kernel's number for it.
    pub handle: u64,
    /// The digest that its writer left on it.
    pub digest: Option<u64>,
    /// What it does.
    pub form: Form,
    /// Its comment.
    pub comment: Option<String>,
    /// Packets and bytes that it counted.
    pub counter: Option<(u64, u64)>,
    /// What the frames that it drops are counted as.
    pub tally: Option<u32>,
    /// The chain that it goes to for good, whatever else it says.
    pub goto: Option<Name>,
}

/// What a rule does, in a form that is equal where rules do the same; of no other use.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Form(Box<[u8]>);

/// One set or map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedSet {
    /// Its type; without any key where it is none that we would make.
    pub ty: SetType,
    /// It, or an element of it, is made in a way in which we make none: with a time, for ranges, for all other keys.
    pub strange: bool,
    /// Its elements; none of a set that rules fill.
    pub elements: BTreeMap<Bytes, ElementValue>,
    /// Packets and bytes that its elements counted, those of a set that rules fill included, where that is ours to read.
    pub counts: BTreeMap<Bytes, (u64, u64)>,
}

impl Form {
    /// The form with this content.
    pub fn new(content: Vec<u8>) -> Form {
        Form(content.into())
    }
}

/// Its length alone: nothing uses the content.
impl Debug for Form {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "Form of {} bytes", self.0.len())
    }
}
