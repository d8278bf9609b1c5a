//! What must hold of a run: during an event, after it, and at rest.

use super::events::What;
use super::machine::Ability;
use super::reference::{PROBES, Verdicts, Wanted, filter, verdicts};
use super::run::Run;
use crate::document::filter::write;
use crate::guest::link::Link;
use crate::program::ir::{Family, Ruleset};
use crate::ruleset::from_kernel::recall;
use crate::ruleset::plan::plan;
use crate::service::store::BINDINGS;
use std::collections::{BTreeMap, BTreeSet};

impl Run {
    /// The tables after each batch of what happened: no frame of a bound interface passes that neither the old nor the new rules
    /// let pass.
    pub(super) fn check_history(&mut self, what: &What) {
        let (history, now, links, ability) = {
            let mut machine = self.machine.borrow_mut();
            self.reused.extend(machine.reused.iter());
            let history = std::mem::take(&mut machine.history);
            (history, machine.tables.now.clone(), machine.links.clone(), machine.ability)
        };
        if self.meddled {
            return;
        }
        let (meanwhile, wanted) = (self.meanwhile.clone(), self.wanted.clone());
        for link in links.values().filter(|link| link.up && link.index != 1) {
            // Until the daemon has put right what another program changed, that counts.
            let allowed = self.allowed(&meanwhile, link, &links, ability).filter(|_| !self.was_meddled);
            if let Some(allowed) = allowed {
                for (batch, tables) in history.iter().enumerate() {
                    self.compare(&format!("after batch {batch} of {what:?}"), tables, link, allowed);
                }
            }
            if let Some(allowed) = self.allowed(&wanted, link, &links, ability) {
                self.compare(&format!("after {what:?}"), &now, link, allowed);
            }
        }
    }

    /// Which probes may pass; none where the link need not be bound.
    fn allowed(
        &mut self,
        possible: &BTreeSet<Wanted>,
        link: &Link,
        links: &BTreeMap<u32, Link>,
        ability: Ability,
    ) -> Option<Verdicts> {
        if !possible.iter().all(|wanted| wanted.bindings.contains_key(&link.name)) {
            return None;
        }
        let known = [&self.names, &self.earlier_names].into_iter().filter_map(|names| names.get(&link.index));
        let mut names: BTreeSet<String> = known.flatten().cloned().collect();
        names.insert(link.name.clone());
        // Where hooks go by name, a device that has got another is open until the daemon hears of it (W-1), and one that has the index
        // of one that is gone has no hooks yet, but is taken for that.
        let reused = self.reused.contains(&link.index);
        if link.master.is_none() && (ability.lasting_hooks && names.len() > 1 || reused) {
            return None;
        }
        let mut allowed = [false; PROBES.len()];
        for wanted in possible {
            for name in &names {
                let verdicts = self.reference.of(wanted, name, link, links, ability).unwrap_or_default();
                allowed = std::array::from_fn(|at| allowed[at] || verdicts[at]);
            }
        }
        Some(allowed)
    }

    fn compare(&self, when: &str, tables: &Ruleset, link: &Link, allowed: Verdicts) {
        let passed = verdicts(tables, link);
        if let Some(at) = (0..PROBES.len()).find(|at| passed[*at] && !allowed[*at]) {
            let mut machine = self.machine.borrow_mut();
            machine
                .violated(|| format!("{} of {} ({}) passes {when}", PROBES[at].name, link.name, link.index));
        }
    }

    /// All faults end: after a while everything is as it was asked for.
    pub(super) fn recover(&mut self) {
        {
            let mut machine = self.machine.borrow_mut();
            (machine.faults.crash, machine.faults.refusal, machine.faults.disk) = (None, None, None);
            machine.set_up_again();
        }
        self.hear();
        self.wait(120);
        self.work(async |core| core.reload().await);
        self.wait(120);
        self.check_rest();
    }

    fn check_rest(&mut self) {
        let Some(core) = &self.core else { return };
        let (tables, links, ability) = {
            let machine = self.machine.borrow();
            (machine.tables.now.clone(), machine.links.clone(), machine.ability)
        };
        let owed = core.is_owing();
        let closed = core.state.closed_ports();
        // A link that was renamed keeps the rules of the name that it had.
        let members = core.state.firewall().members();
        let name_of = |index: &u32| core.state.link_at(*index).map(|link| link.name.clone());
        let strays = members.iter().filter(|(index, member)| name_of(index) != Some(member.name.clone()));
        let strays: BTreeSet<u32> = strays.map(|(index, _)| *index).collect();
        let wanted_rules = core.state.firewall().ruleset();
        if owed {
            self.machine.borrow_mut().violated(|| "the disk is still owed something".into());
        }
        let observed = self.work(async |core| core.observe().await);
        if let Some(Ok(observed)) = observed {
            let difference = plan(&recall(&observed, &wanted_rules), &wanted_rules);
            if !difference.is_empty() {
                self.machine
                    .borrow_mut()
                    .violated(|| format!("the kernel does not hold the rules of the state:\n{difference}"));
            }
        }
        self.check_files();
        self.check_owners();
        let Some(wanted) = self.wanted.first().cloned() else { return };
        for link in links.values().filter(|link| link.index != 1) {
            let expected = self.reference.of(&wanted, &link.name, link, &links, ability);
            let was_renamed = closed.contains(&link.name) || strays.contains(&link.index);
            let expected = match expected {
                Some(expected) => expected,
                None if was_renamed => continue,
                None => [true; PROBES.len()],
            };
            let found = verdicts(&tables, link);
            if found != expected {
                let names: Vec<&str> = (0..PROBES.len())
                    .filter(|at| found[*at] != expected[*at])
                    .map(|at| PROBES[at].name)
                    .collect();
                self.machine.borrow_mut().violated(|| {
                    format!(
                        "at rest, {} ({}) is not filtered as asked for: {names:?}, closed: {closed:?}",
                        link.name, link.index
                    )
                });
            }
        }
    }

    /// Where the kernel can, no other program can change our tables.
    fn check_owners(&self) {
        let mut machine = self.machine.borrow_mut();
        let families = machine.tables.now.tables.keys();
        let open: Vec<Family> = families.copied().filter(|family| machine.tables.is_open(*family)).collect();
        if machine.ability.owners && !open.is_empty() {
            machine.violated(|| format!("tables without an owner: {open:?}"));
        }
    }

    fn check_files(&self) {
        let Some(wanted) = self.wanted.first() else { return };
        let filters = {
            let machine = self.machine.borrow();
            machine.disk.documents(&self.config.filter_dir)
        };
        let names = |documents: &BTreeMap<String, String>| {
            documents.keys().map(|name| name.trim_end_matches(".xml").to_owned()).collect::<BTreeSet<_>>()
        };
        let read: BTreeMap<String, String> = filters
            .iter()
            .map(|(name, text)| (name.trim_end_matches(".xml").to_owned(), write::write(&filter(text))))
            .collect();
        if read != wanted.filters {
            self.machine.borrow_mut().violated(|| {
                format!(
                    "the files of filters are not what was defined: {:?}, not {:?}",
                    names(&filters),
                    wanted.filters.keys()
                )
            });
        }
        let bindings = {
            let machine = self.machine.borrow();
            machine.disk.documents(&self.config.runtime_dir.join(BINDINGS))
        };
        let ports: BTreeSet<String> = wanted.bindings.keys().cloned().collect();
        if names(&bindings) != ports {
            self.machine.borrow_mut().violated(|| {
                format!("the files of bindings are not what is bound: {:?}, not {ports:?}", names(&bindings))
            });
        }
    }
}
