//! Variables: their names, their lists of values, and how a rule reads them.
//!
//! A variable always holds a list. `$V` and `$V[@n]` walk it with iterator *n*, `$V[n]` takes one of
//! it. Values are texts until a rule gives them a type.

use crate::document::strtoul;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

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
}

/// What gives variables their values.
pub trait Lookup {
    /// The values of a variable; none where it does not exist.
    fn values(&self, name: &str) -> Option<&[String]>;
}

/// Variables as a rule below references sees them: whatever the referring side has, else the parameters of the reference.
/// A reference adds its parameters and copies nothing.
#[derive(Clone, Debug)]
pub struct Scope {
    outer: Option<Arc<Scope>>,
    own: Arc<Vars>,
}

impl Scope {
    /// The variables of a binding.
    pub fn of(vars: Arc<Vars>) -> Scope {
        Scope { outer: None, own: vars }
    }

    /// What a reference in this scope leads to sees, with the parameters of the reference.
    pub fn with(self: &Arc<Scope>, params: &Arc<Vars>) -> Arc<Scope> {
        match params.0.is_empty() {
            true => Arc::clone(self),
            false => Arc::new(Scope { outer: Some(Arc::clone(self)), own: Arc::clone(params) }),
        }
    }
}

impl Lookup for Vars {
    fn values(&self, name: &str) -> Option<&[String]> {
        Vars::values(self, name)
    }
}

impl Lookup for Scope {
    fn values(&self, name: &str) -> Option<&[String]> {
        let outer = self.outer.as_ref().and_then(|outer| outer.values(name));
        outer.or_else(|| Vars::values(&self.own, name))
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

/// Iterators are numbered up to this one.
const LAST_ITERATOR: u32 = 1000;

/// Whether a text may name a variable; libvirt lets the empty name through.
pub fn is_name(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Whether a text may be a variable's value.
pub fn is_value(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.:".contains(&b))
}

impl Access {
    /// Reads `$NAME`, `$NAME[n]` or `$NAME[@n]`, and hands back what stands behind the bracket, which
    /// libvirt overlooks.
    pub fn parse(text: &str) -> Option<(Access, &str)> {
        let text = text.strip_prefix('$')?;
        let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
        let (name, rest) = text.split_at(end);
        let access = |index| Access { name: name.to_owned(), index };
        if rest.is_empty() {
            return Some((access(Index::Iterator(0)), rest));
        }
        let inside = strtoul::skip_space(rest.strip_prefix('[')?);
        let iterator = inside.strip_prefix('@');
        let (value, rest) = strtoul::unsigned(iterator.unwrap_or(inside), 10)?;
        let rest = strtoul::skip_space(rest).strip_prefix(']')?;
        let index = match iterator {
            None => Index::Element(value),
            Some(_) => Index::Iterator(u16::try_from(value).ok().filter(|_| value <= LAST_ITERATOR)?),
        };
        Some((access(index), rest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_access_prints_as_it_was_read() {
        for (text, printed, rest) in [
            ("$IP", "$IP", ""),
            ("$", "$", ""),
            ("$9", "$9", ""),
            ("$[1]", "$[1]", ""),
            ("$IP[@0]", "$IP", ""),
            ("$IP[ @ 12 ]", "$IP[@12]", ""),
            ("$IP[@1000]", "$IP[@1000]", ""),
            ("$IP[-1]", "$IP[4294967295]", ""),
            ("$IP[3] and more", "$IP[3]", " and more"),
        ] {
            let (access, left) = Access::parse(text).expect(text);
            assert_eq!((access.to_string().as_str(), left), (printed, rest), "{text}");
        }
    }

    #[test]
    fn the_referring_side_overrides_parameters_without_a_copy() {
        let vars = |of: &[&str]| {
            let mut vars = Vars::default();
            of.iter().for_each(|text| vars.push(&text[..1], *text));
            Arc::new(vars)
        };
        let (binding, params) = (vars(&["a1"]), vars(&["a2", "b2"]));
        let outer = Arc::new(Scope::of(Arc::clone(&binding)));
        let inner = outer.with(&params).with(&vars(&["b3", "c3"])).with(&vars(&[]));
        let value = |name| inner.values(name).map(|values| values[0].as_str());
        assert_eq!(["a", "b", "c", "d"].map(value), [Some("a1"), Some("b2"), Some("c3"), None]);
        assert_eq!((Arc::strong_count(&binding), Arc::strong_count(&params)), (2, 2));
    }

    #[test]
    fn anything_else_is_no_access() {
        for text in ["", "IP", "$IP-X", "$IP ", "$ IP", "$IP[x]", "$IP[1", "$IP[@1001]", "$IP[]", "$5.00 fee"]
        {
            assert_eq!(Access::parse(text), None, "{text}");
        }
    }
}
