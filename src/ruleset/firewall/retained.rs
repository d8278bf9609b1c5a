//! Superseded definitions that are still in force, for members that cannot have the later ones yet.
//!
//! Such a member's rules have a name with a slash, which no client's filter may have, and a library of their own: what
//! is defined or undefined later is nothing to them. A definition that no member uses any more is dropped.

use super::{BoundInterface, Filters, Firewall, Refused, Rules};
use std::sync::Arc;

/// A definition as it was.
#[derive(Clone, Debug)]
pub(super) struct Earlier {
    /// The filter's name.
    pub(super) root: String,
    /// It, and all that it referred to.
    pub(super) library: Filters,
}

impl Firewall {
    /// The same filters and choices, with no interface bound.
    pub fn unbound(&self) -> Firewall {
        Firewall { filters: self.filters.clone(), ..Firewall::new(self.policy) }
    }

    /// With these members' rules as they are now, whatever is defined later, until they are bound again.
    pub fn keep(&self, indexes: impl IntoIterator<Item = u32>) -> Result<Firewall, Refused> {
        let mut next = self.clone();
        let mut kept: Vec<(String, String)> = Vec::new();
        let mut members = Vec::new();
        for member in indexes.into_iter().filter_map(|index| self.members.get(index)) {
            let Rules::Filter(root) = &member.rules else { continue };
            if self.earlier.contains_key(root) {
                continue;
            }
            let known = kept.iter().find(|(of, _)| of == root).map(|(_, name)| name.clone());
            let name = known.unwrap_or_else(|| next.set_aside(root));
            kept.push((root.clone(), name.clone()));
            members.push(BoundInterface { rules: Rules::Filter(name), ..BoundInterface::clone(member) });
        }
        next.bind_all(members)
    }

    /// Stores what this filter means now under a name of its own.
    fn set_aside(&mut self, root: &str) -> String {
        let names = (0..).map(|number| format!("earlier/{number}/{root}"));
        let name = names.into_iter().find(|name| !self.earlier.contains_key(name));
        let name = name.expect("numbers do not end");
        let found = self.tree(root).into_iter().filter_map(|name| Some((name, self.filters.get(name)?)));
        let library = found.map(|(name, filter)| (name.to_owned(), Arc::clone(filter))).collect();
        self.earlier.insert(name.clone(), Earlier { root: root.into(), library });
        name
    }

    /// The rules of an interface, where they are what this filter once meant.
    pub fn earlier(&self, index: u32, filter: &str) -> Option<&Rules> {
        let rules = &self.members.get(index)?.rules;
        let Rules::Filter(name) = rules else { return None };
        self.earlier.get(name).filter(|earlier| earlier.root == filter).map(|_| rules)
    }

    /// Forgets a definition that no group has any more.
    pub(super) fn forget_unused(&mut self, rules: &Rules) {
        let Rules::Filter(name) = rules else { return };
        if self.earlier.contains_key(name) && !self.groups.values().any(|group| group.rules == *rules) {
            self.earlier.remove(name);
        }
    }
}
