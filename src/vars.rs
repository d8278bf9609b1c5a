//! Variables: their names, their lists of values, and how a rule reads them.
//!
//! A variable always holds a list. `$V` and `$V[@n]` walk it with iterator *n*, `$V[n]` takes one of
//! it. Values are texts until a rule gives them a type.

use std::collections::BTreeMap;
use std::fmt;

/// Names with their lists of values, in the order of the names' bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vars(pub BTreeMap<String, Vec<String>>);

/// How a rule reads a variable.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Access {
    /// The variable's name.
    pub name: String,
    /// Which of its values.
    pub index: Index,
}

/// Which values of a list are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Index {
    /// `$V[n]`: one fixed value.
    Element(u32),
    /// `$V[@n]`, or `$V` for `n` = 0: each in turn, in step with the others of the same iterator.
    Iterator(u16),
}

impl Vars {
    /// The values of a variable; none where it does not exist.
    pub fn values(&self, name: &str) -> Option<&[String]> {
        self.0.get(name).map(Vec::as_slice)
    }

    /// Appends a value, making the variable if need be.
    pub fn push(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.0.entry(name.into()).or_default().push(value.into());
    }

    /// These variables, and on top of them the outer ones, which win.
    pub fn overlaid(&self, outer: &Vars) -> Vars {
        let mut all = self.clone();
        all.0.extend(outer.0.iter().map(|(name, values)| (name.clone(), values.clone())));
        all
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.index {
            Index::Iterator(0) => write!(f, "${}", self.name),
            Index::Iterator(n) => write!(f, "${}[@{n}]", self.name),
            Index::Element(n) => write!(f, "${}[{n}]", self.name),
        }
    }
}
