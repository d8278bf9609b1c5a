//! The bound interfaces, by index and by name.
//!
//! Both views change together, and each costs the logarithm of their number. Several interfaces can have one name: a link
//! that was replaced stays bound until the kernel says that it is gone.

use super::BoundInterface;
use imbl::{OrdMap, OrdSet};
use std::sync::Arc;

#[derive(Clone, Debug, Default)]
pub(super) struct BoundInterfaces {
    by_index: OrdMap<u32, Arc<BoundInterface>>,
    by_name: OrdMap<String, OrdSet<u32>>,
}

impl BoundInterfaces {
    pub fn by_index(&self) -> &OrdMap<u32, Arc<BoundInterface>> {
        &self.by_index
    }

    pub fn get(&self, index: u32) -> Option<&Arc<BoundInterface>> {
        self.by_index.get(&index)
    }

    /// The indexes of those that were bound under a name.
    pub fn named(&self, name: &str) -> impl Iterator<Item = u32> {
        self.by_name.get(name).into_iter().flatten().copied()
    }

    /// Returns what had this index before.
    pub fn insert(&mut self, member: Arc<BoundInterface>) -> Option<Arc<BoundInterface>> {
        let before = self.remove(member.index);
        self.by_name.entry(member.name.clone()).or_default().insert(member.index);
        self.by_index.insert(member.index, member);
        before
    }

    pub fn remove(&mut self, index: u32) -> Option<Arc<BoundInterface>> {
        let member = self.by_index.remove(&index)?;
        if let Some(indexes) = self.by_name.get_mut(&member.name) {
            let had = indexes.remove(&index);
            debug_assert!(had.is_some(), "interface {index} has no entry under its name");
            if indexes.is_empty() {
                self.by_name.remove(&member.name);
            }
        }
        Some(member)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::vars::Vars;
    use crate::ruleset::firewall::{Attachment, Rules};
    use proptest::prelude::*;

    fn member(index: u32, name: &str) -> Arc<BoundInterface> {
        let (place, rules) = (Attachment::Bridge(None), Rules::Blocked);
        Arc::new(BoundInterface { index, name: name.into(), place, rules, vars: Vars::default() })
    }

    proptest! {
        #[test]
        fn both_views_say_the_same(steps in proptest::collection::vec((0u32..6, "[ab]?", any::<bool>()), 0..30)) {
            let mut members = BoundInterfaces::default();
            for (index, name, add) in steps {
                let had = members.get(index).cloned();
                let before = if add { members.insert(member(index, &name)) } else { members.remove(index) };
                prop_assert_eq!(before, had);
                let names = members.by_index().values().map(|member| member.name.clone());
                let names: std::collections::BTreeSet<_> = names.collect();
                prop_assert_eq!(members.by_name.keys().cloned().collect::<std::collections::BTreeSet<_>>(), names.clone());
                for name in names {
                    let filtered = members.by_index().values().filter(|member| member.name == name);
                    prop_assert_eq!(members.named(&name).collect::<Vec<_>>(), filtered.map(|m| m.index).collect::<Vec<_>>());
                }
            }
        }
    }
}
