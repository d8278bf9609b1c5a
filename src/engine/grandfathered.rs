//! Guests that are filtered already when a redefinition makes them learn.
//!
//! They keep the rules they have until an address is known, so that an edit of a filter cuts no guest off;
//! all other users of the filter have its new meaning at once.

use super::State;
use super::missing_vars::Needs;
use crate::document::binding::Binding;
use crate::document::filter::Filter;
use crate::ruleset::firewall::{BoundInterface, Refused, Rules};
use std::collections::BTreeSet;
use std::sync::Arc;

impl State {
    /// A guest that was filtered before it had to learn keeps the rules it had; any other gets the waiting filter.
    pub(super) fn until_known(&self, index: u32, binding: &Binding, waiting: &str) -> Rules {
        let same = |member: &&Arc<BoundInterface>| member.vars == binding.params;
        let earlier = self.firewall.members().get(&index).filter(same);
        let earlier = earlier.and_then(|_| self.firewall.earlier(index, &binding.filter));
        earlier.cloned().unwrap_or_else(|| Rules::Filter(waiting.into()))
    }

    /// Lets guests keep the rules they have who would have to learn were these filters defined. Their ports.
    pub(super) fn keep_beginners(
        &mut self,
        filters: &[Arc<Filter>],
        names: &[String],
    ) -> Result<Vec<String>, Refused> {
        let then = State { firewall: self.firewall.unbound().define(filters.to_vec())?, ..self.clone() };
        let mut needs = Needs::default();
        let mut begins = |member: &&Arc<BoundInterface>| {
            let binding = self.bindings.get(&member.name);
            let binding = binding.filter(|binding| member.rules == Rules::Filter(binding.filter.clone()));
            binding.is_some_and(|binding| {
                !self.learners.contains_key(&member.index)
                    && names.iter().any(|name| then.firewall.uses(&binding.filter, name))
                    && needs.wanted(&then, binding).is_ok_and(|wanted| wanted.is_some())
            })
        };
        let beginners: Vec<&Arc<BoundInterface>> =
            self.firewall.members().values().filter(&mut begins).collect();
        let ports: BTreeSet<String> = beginners.iter().map(|member| member.name.clone()).collect();
        self.firewall = self.firewall.keep(beginners.iter().map(|member| member.index))?;
        Ok(ports.into_iter().collect())
    }

    /// Lets these ports' guests learn. One whose lease is remembered has its address at once.
    pub(super) fn begin(&mut self, ports: &[String]) -> Result<(), Refused> {
        let bindings: Vec<Arc<Binding>> =
            ports.iter().filter_map(|port| self.bindings.get(port)).cloned().collect();
        let (mut members, mut needs) = (Vec::new(), Needs::default());
        for binding in bindings {
            members.extend(self.members(&self.links_of(&binding.portdev), &binding, &mut needs)?);
        }
        self.firewall = self.firewall.bind_all(members)?;
        Ok(())
    }
}
