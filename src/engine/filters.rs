//! What becomes of filters: defined, redefined, undefined, or reloaded from their files.
//!
//! A name and a UUID belong together for good, references never run in a circle, and a filter that a binding
//! uses stays. A deleted binding in its grace period prevents no change: where it would, the grace period
//! ends.

use super::documents::{self, Validation, read_filter};
use super::{Change, Context, State, Write, refusal};
use crate::document::diag::{Diagnostic, Severity};
use crate::document::filter::{Filter, write};
use crate::engine::api::{FilterId, Reply};
use crate::engine::error::Error;
use crate::program::resolve::{has_loop, introduces_loop};
use crate::ruleset::firewall::{Filters, Firewall, Refused, Rules};
use std::collections::BTreeMap;
use std::sync::Arc;
use uuid::Uuid;

/// Why a filter that was read from a file is left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FaultyFilter {
    /// Its name.
    pub filter: String,
    /// The reason.
    pub why: Error,
}

/// Of filters that were read from files, those that can be defined together, and why the others cannot. Where references
/// run in a circle, those are taken that can be defined one after the other.
pub fn sound(
    known: &Filters,
    found: impl IntoIterator<Item = Filter>,
) -> (Vec<Arc<Filter>>, Vec<FaultyFilter>) {
    let (named, faults) = taken(known, found, |_, _| Ok(()));
    let all = with_all(known, &named);
    if !has_loop(&|name| all.get(name).cloned(), named.iter().map(|filter| &**filter)) {
        return (named, faults);
    }
    let (sound, circular) = taken(known, named.iter().map(|filter| Filter::clone(filter)), check_loop);
    (sound, faults.into_iter().chain(circular).collect())
}

fn with_all(known: &Filters, more: &[Arc<Filter>]) -> Filters {
    let more = more.iter().map(|filter| (filter.name.clone(), Arc::clone(filter)));
    known.iter().map(|(name, filter)| (name.clone(), Arc::clone(filter))).chain(more).collect()
}

/// Takes those, one after the other, that have the right to their names and pass a check against all before.
fn taken(
    known: &Filters,
    found: impl IntoIterator<Item = Filter>,
    check: fn(&Filters, &Filter) -> Result<(), Error>,
) -> (Vec<Arc<Filter>>, Vec<FaultyFilter>) {
    let mut known = known.clone();
    let owner = |filter: &Arc<Filter>| Some((filter.uuid?, filter.name.clone()));
    let mut owners: BTreeMap<Uuid, String> = known.values().filter_map(owner).collect();
    let (mut sound, mut faults) = (Vec::new(), Vec::new());
    for filter in found {
        let named = owners.get(&filter.uuid.unwrap_or_default()).map(String::as_str);
        match check_identity(&known, named, &filter).and_then(|()| check(&known, &filter)) {
            Ok(()) => {
                let filter = Arc::new(filter);
                owners.extend(owner(&filter));
                known.insert(filter.name.clone(), Arc::clone(&filter));
                sound.push(filter);
            }
            Err(why) => faults.push(FaultyFilter { filter: filter.name, why }),
        }
    }
    (sound, faults)
}

/// Whether a filter can stand beside those that are known.
pub(super) fn check(known: &Filters, filter: &Filter) -> Result<(), Error> {
    let named = known.values().find(|known| known.uuid == Some(filter.uuid.unwrap_or_default()));
    check_identity(known, named.map(|known| known.name.as_str()), filter)?;
    check_loop(known, filter)
}

fn check_loop(known: &Filters, filter: &Filter) -> Result<(), Error> {
    if introduces_loop(&|name| known.get(name).cloned(), filter) {
        Err(Error::failed("filter would introduce a loop"))
    } else {
        Ok(())
    }
}

/// A name and a UUID belong together for good. `named` is the filter that has the UUID.
fn check_identity(known: &Filters, named: Option<&str>, filter: &Filter) -> Result<(), Error> {
    if let Some(name) = named {
        let message = format!("filter with same UUID but different name ('{name}') already exists");
        return if name == filter.name { Ok(()) } else { Err(Error::failed(message)) };
    }
    match known.get(&filter.name) {
        None => Ok(()),
        Some(known) => {
            let uuid = known.uuid.unwrap_or_default();
            Err(Error::failed(format!("filter '{}' already exists with uuid {uuid}", filter.name)))
        }
    }
}

/// A reloaded file is refused where a client's document would be kept.
fn refused(filter: Filter) -> FaultyFilter {
    FaultyFilter { why: documents::refusal(&not_as_written(&filter)), filter: filter.name }
}

/// What a filter would leave out of its document, as faults.
pub(super) fn not_as_written(filter: &Filter) -> Vec<Diagnostic> {
    let fault = |fault: &Diagnostic| Diagnostic { severity: Severity::Error, ..fault.clone() };
    filter.left_out().map(fault).collect()
}

pub(super) fn is_same(known: &Filters, filter: &Filter) -> bool {
    let messages = |filter: &Filter| filter.left_out().map(|fault| fault.message.clone()).collect::<Vec<_>>();
    let same =
        |old: &Arc<Filter>| write::write(old) == write::write(filter) && messages(old) == messages(filter);
    known.get(&filter.name).is_some_and(same)
}

impl State {
    pub(super) fn define(
        &self,
        xml: &str,
        validation: Validation,
        context: Context,
    ) -> Result<Change, Error> {
        let (mut filter, mut notices) = read_filter(xml, validation)?;
        let uuid = *filter.uuid.get_or_insert(context.fresh);
        check(self.firewall.filters(), &filter)?;
        let (id, text) = (FilterId { name: filter.name.clone(), uuid }, write::file_text(&filter));
        let next = if is_same(self.firewall.filters(), &filter) {
            self.clone()
        } else {
            self.with(vec![Arc::new(filter)])?
        };
        notices.extend(next.notices(&id.name));
        let writes = vec![Write::SaveFilter(id.name.clone(), text)];
        Ok(Change { next, writes, reply: Reply::Filter(id), notices })
    }

    /// With these filters in force for all who use them, or for none.
    pub(super) fn with(&self, filters: Vec<Arc<Filter>>) -> Result<State, Error> {
        let names: Vec<String> = filters.iter().map(|filter| filter.name.clone()).collect();
        let mut next = self.clone();
        let beginners = next.keep_beginners(&filters, &names).map_err(refusal)?;
        next.firewall = match next.firewall.define(filters.clone()) {
            Ok(firewall) => firewall,
            Err(refused) => {
                next.let_go_who_uses(&names);
                next.firewall.define(filters).map_err(|_| refusal(refused))?
            }
        };
        next.relearn(&names)?;
        next.begin(&beginners).map_err(refusal)?;
        let uses = |filter: &str| names.iter().any(|name| next.firewall.uses(filter, name));
        let closed = |port: &&String| self.bindings.get(*port).is_some_and(|binding| uses(&binding.filter));
        let closed: Vec<String> = self.blocked.keys().filter(closed).cloned().collect();
        closed.iter().for_each(|port| next.enforce(port));
        Ok(next)
    }

    /// Ends the grace of deleted bindings that use one of these filters.
    fn let_go_who_uses(&mut self, names: &[String]) {
        let uses = |firewall: &Firewall, port: &str| {
            let mut members = firewall.members_named(port).map(|index| &firewall.members()[&index]);
            members.any(|member| match &member.rules {
                Rules::Filter(root) => names.iter().any(|name| firewall.uses(root, name)),
                Rules::Blocked => false,
            })
        };
        let leaving: Vec<String> =
            self.leaving.keys().filter(|port| uses(&self.firewall, port)).cloned().collect();
        leaving.iter().for_each(|port| self.release(port));
    }

    pub(super) fn undefine(&self, uuid: Uuid) -> Result<Change, Error> {
        let in_use = |_: Refused| Error::invalid("nwfilter is in use");
        let name = self.filter_with(uuid)?.name.clone();
        if self.bindings.values().any(|binding| self.firewall.uses(&binding.filter, &name)) {
            return Err(Error::invalid("nwfilter is in use"));
        }
        let mut next = self.clone();
        next.let_go_who_uses(std::slice::from_ref(&name));
        next.firewall = next.firewall.undefine(&name).map_err(in_use)?;
        Ok(Change { writes: vec![Write::DeleteFilter(name)], ..Change::silent(next) })
    }

    /// Takes the filters that were found on disk: those that changed or are new get their new meaning. One that conflicts
    /// with the others, or whose rules an interface cannot have, or that would mean more than it says, is left out and reported,
    /// and the known filter of its name stays in force; all others are taken. A filter whose file is gone stays defined, as in libvirt.
    pub fn reload(&self, filters: impl IntoIterator<Item = Filter>) -> (Change, Vec<FaultyFilter>) {
        let known = self.firewall.filters();
        let changed = filters.into_iter().filter(|filter| !is_same(known, filter));
        let (whole, partial): (Vec<Filter>, Vec<Filter>) =
            changed.partition(|filter| filter.left_out().next().is_none());
        let (sound, mut faults) = sound(known, whole);
        faults.extend(partial.into_iter().map(self::refused));
        let (mut next, mut refused) = self.with_most(&sound);
        // One may have waited for another that came behind it.
        loop {
            let again: Vec<Arc<Filter>> = refused.iter().map(|(filter, _)| filter.clone()).collect();
            let before = refused.len();
            (next, refused) = next.with_most(&again);
            if refused.len() == before || refused.is_empty() {
                break;
            }
        }
        faults.extend(
            refused.into_iter().map(|(filter, why)| FaultyFilter { filter: filter.name.clone(), why }),
        );
        (Change::silent(next), faults)
    }

    /// With as many of these filters in force as can be had, and why the others cannot. All at once where that is
    /// possible; else halves, so that a few that are refused cost little.
    fn with_most(&self, filters: &[Arc<Filter>]) -> (State, Vec<(Arc<Filter>, Error)>) {
        if filters.is_empty() {
            return (self.clone(), Vec::new());
        }
        match (self.with(filters.to_vec()), filters) {
            (Ok(next), _) => (next, Vec::new()),
            (Err(why), [filter]) => (self.clone(), vec![(filter.clone(), why)]),
            (Err(_), _) => {
                let (first, rest) = filters.split_at(filters.len() / 2);
                let (next, mut refused) = self.with_most(first);
                let (next, more) = next.with_most(rest);
                refused.extend(more);
                (next, refused)
            }
        }
    }
}
