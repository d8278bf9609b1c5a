//! Filters defined and undefined by name, as the command asks: no UUID is needed, and the answer names the interfaces concerned.
//!
//! All documents of a call are taken, or none. All faults of all of them are reported together, and nothing is
//! ignored: a reference to a filter that is not there is refused, too.

use super::documents;
use super::filters::{check, is_same, not_as_written};
use super::{Change, Context, State, Write};
use crate::document::diag::{Code, Diagnostic, Severity, similar};
use crate::document::filter::{Filter, read, write};
use crate::document::span::{Place, Source, Span};
use crate::engine::api::Reply;
use crate::engine::error::Error;
use crate::program::resolve;
use crate::ruleset::firewall::Filters;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use uuid::Uuid;

/// What a definition came to, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Defined {
    /// The filter's name.
    pub filter: String,
    /// What it is now.
    pub outcome: Outcome,
    /// The interfaces whose bindings use it, in order.
    pub users: Vec<String>,
}

/// What became of a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It is new.
    Defined,
    /// It replaces the one of its name.
    Redefined,
    /// It is what it was.
    Unchanged,
}

/// Filters read from documents to stand beside those that are known, each with what becomes of it. A filter keeps the UUID
/// by which its name is known. Refused with all that is wrong with any of them.
pub fn read_all(
    known: &Filters,
    documents: &[(String, String)],
    fresh: Uuid,
) -> Result<Vec<(Arc<Filter>, Outcome)>, Vec<Diagnostic>> {
    let (mut all, mut found, mut faults) = (known.clone(), Vec::new(), Vec::new());
    for (number, (name, text)) in (0..).zip(documents) {
        match read::read(&Source::new(name.as_str(), text.as_str())) {
            Ok((filter, _)) if filter.left_out().next().is_some() => faults.extend(not_as_written(&filter)),
            Ok((filter, _)) => match beside(&all, &found, identified(known, filter, fresh, number)) {
                Ok(filter) => {
                    all.insert(filter.name.clone(), filter.clone());
                    found.push(filter);
                }
                Err(fault) => faults.push(fault),
            },
            Err(wrong) => faults.extend(wrong),
        }
    }
    for filter in &found {
        let meaning = resolve::check(&|name| all.get(name).cloned(), &filter.name);
        faults.extend(meaning.err().unwrap_or_default());
    }
    if faults.iter().any(|fault| fault.severity == Severity::Error) {
        return Err(faults);
    }
    let outcome = |filter: &Filter| match known.get(&filter.name) {
        None => Outcome::Defined,
        Some(_) if is_same(known, filter) => Outcome::Unchanged,
        Some(_) => Outcome::Redefined,
    };
    Ok(found.into_iter().map(|filter| (filter.clone(), outcome(&filter))).collect())
}

/// A filter with the UUID of its name, or with one of its own.
fn identified(known: &Filters, mut filter: Filter, fresh: Uuid, number: u128) -> Filter {
    let own = known.get(&filter.name).and_then(|known| known.uuid);
    let new = || Uuid::from_u128(fresh.as_u128() ^ number);
    filter.uuid = Some(own.or(filter.uuid).unwrap_or_else(new));
    filter
}

/// A filter that can stand beside all others, and is not given twice.
fn beside(all: &Filters, found: &[Arc<Filter>], filter: Filter) -> Result<Arc<Filter>, Diagnostic> {
    let place = Place { source: filter.source.clone(), span: Span::default() };
    if found.iter().any(|other| other.name == filter.name) {
        let message = format!("filter '{}' is given twice", filter.name);
        return Err(Diagnostic::error(Code::INVALID_ARG, message).at(place, "here again"));
    }
    match check(all, &filter) {
        Ok(()) => Ok(Arc::new(filter)),
        Err(why) => Err(Diagnostic::error(Code::OPERATION_FAILED, why.message).at(place, "this filter")),
    }
}

impl State {
    /// Takes these documents, each with its name: [`Reply::Json`] of [`Defined`]s.
    pub(super) fn define_named(&self, texts: &[(String, String)], context: Context) -> Result<Change, Error> {
        let read = read_all(self.firewall.filters(), texts, context.fresh);
        let read = read.map_err(|faults| documents::error(&faults))?;
        let changed: Vec<Arc<Filter>> = read
            .iter()
            .filter(|(_, outcome)| *outcome != Outcome::Unchanged)
            .map(|(filter, _)| Arc::new(documents::defined(Filter::clone(filter))))
            .collect();
        let save = |filter: &Arc<Filter>| Write::SaveFilter(filter.name.clone(), write::file_text(filter));
        let writes = changed.iter().map(save).collect();
        let next = if changed.is_empty() { self.clone() } else { self.with(changed)? };
        let defined = read.into_iter().map(|(filter, outcome)| Defined {
            users: self.users(&filter.name),
            filter: filter.name.clone(),
            outcome,
        });
        let json = serde_json::to_string(&defined.collect::<Vec<_>>());
        let reply = Reply::Json(json.map_err(|error| Error::internal(error.to_string()))?);
        Ok(Change { writes, reply, ..Change::silent(next) })
    }

    /// Undefines the filter of a name that no binding uses.
    pub(super) fn undefine_named(&self, name: &str) -> Result<Change, Error> {
        let Some(filter) = self.firewall.filter(name) else {
            let known: Vec<&str> = self.firewall.filters().keys().map(String::as_str).collect();
            return Err(Error::no_filter_named(name).with_faults(vec![unknown(name, &known)]));
        };
        let users = self.users(name);
        if !users.is_empty() {
            return Err(Error::invalid(in_use(name, &users)));
        }
        self.undefine(filter.uuid.unwrap_or_default())
    }

    /// The ports whose bindings use a filter, in order.
    pub fn users(&self, name: &str) -> Vec<String> {
        let uses =
            |binding: &&Arc<crate::document::binding::Binding>| self.firewall.uses(&binding.filter, name);
        self.bindings.values().filter(uses).map(|binding| binding.portdev.clone()).collect()
    }
}

/// That no filter has this name, and which was probably meant.
pub fn unknown(name: &str, known: &[&str]) -> Diagnostic {
    let fault = Diagnostic::error(Code::INVALID_ARG, format!("no filter is called '{name}'"));
    match similar(name, known) {
        Some(meant) => fault.help(format!("did you mean '{meant}'?")),
        None => fault,
    }
}

/// Of more users than this only the number is reported.
const NAMED: usize = 5;

/// That a filter is in use, and by which interfaces.
pub fn in_use(name: &str, users: &[String]) -> String {
    let named = users.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
    let more = match users.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("filter '{name}' is in use by {named}{more}: remove these or bind them to another filter first")
}
