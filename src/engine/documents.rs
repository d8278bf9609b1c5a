//! Documents of clients, and diagnostics as the errors that clients know.
//!
//! libvirt's clients have room for one text. A document's fault is reported in libvirt's own words, which programs read; what a
//! document means to an interface, and libvirt has no words for, is reported whole in one line. The diagnostics go along
//! for the command.

use crate::document::binding::{self, Binding};
use crate::document::diag::{Diagnostic, Faults, Severity, lines, principal};
use crate::document::filter::{Filter, read, validate};
use crate::document::span::Source;
use crate::engine::error::{Domain, Error, ErrorNumber};
use std::collections::BTreeSet;

/// How a client's document is checked before it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validation {
    /// Against libvirt's schema (`VIR_NWFILTER_DEFINE_VALIDATE`).
    Schema,
    /// Not at all: what is not known is left out.
    None,
}

impl Validation {
    /// What a call's flags ask for.
    pub fn of(flags: u32) -> Validation {
        if flags & 1 != 0 { Validation::Schema } else { Validation::None }
    }
}

/// A filter that a client sent, checked against the schema first where it asks for that, and what libvirt leaves out of it.
pub fn read_filter(xml: &str, validation: Validation) -> Result<(Filter, Vec<Diagnostic>), Error> {
    let source = Source::new("filter", xml);
    if validation == Validation::Schema {
        validate::validate(&source).map_err(|faults| schema(&faults))?;
    }
    let (filter, _) = read::read(&source).map_err(|faults| error(&faults))?;
    let filter = defined(filter);
    let unenforced = filter.unenforced.iter().map(|fault| unbindable(&filter.name, fault));
    let texts = unenforced.chain(filter.dropped().cloned()).collect();
    Ok((filter, texts))
}

/// A filter as it is known from now on. What a client calls its document means nothing to others.
pub fn defined(filter: Filter) -> Filter {
    let document = format!("<defined>/{}.xml", filter.name);
    filter.of_document(document)
}

/// A document that libvirt's clients expect to be taken can be kept, and not be bound to.
fn unbindable(filter: &str, fault: &Diagnostic) -> Diagnostic {
    let message = format!("no interface can be bound to filter '{filter}': {}", fault.message);
    Diagnostic { message, ..fault.clone() }
}

/// A binding that a client sent, likewise.
pub fn read_binding(xml: &str, validation: Validation) -> Result<Binding, Error> {
    let source = Source::new("binding", xml);
    if validation == Validation::Schema {
        binding::validate::validate(&source).map_err(|faults| schema(&faults))?;
    }
    binding::read(&source).map(|(binding, _)| binding).map_err(|faults| error(&faults))
}

/// A binding that the command sent. It is the command's user who wrote what is in it, so nothing of it is ignored.
pub fn read_whole_binding(xml: &str) -> Result<Binding, Error> {
    let (binding, ignored) = binding::read(&Source::new("binding", xml)).map_err(|faults| error(&faults))?;
    let faults: Vec<Diagnostic> =
        ignored.into_iter().map(|fault| Diagnostic { severity: Severity::Error, ..fault }).collect();
    if faults.is_empty() { Ok(binding) } else { Err(refusal(&faults)) }
}

/// The one of these that a client hears of.
pub fn error(diagnostics: &[Diagnostic]) -> Error {
    let fault = principal(diagnostics);
    let code = ErrorNumber::from_number(fault.code.number).unwrap_or(ErrorNumber::InternalError);
    let domain = Domain::from_number(fault.code.domain).unwrap_or(Domain::Filter);
    Error::new(code, domain, fault.message.clone()).with_faults(first(diagnostics))
}

/// As many as are reported of one document.
fn first(diagnostics: &[Diagnostic]) -> Vec<Diagnostic> {
    diagnostics.iter().take(Faults::MOST + 2).cloned().collect()
}

/// How libvirt's own words begin for what keeps a filter from an interface: these are all that is said.
const OF_LIBVIRT: &[&str] =
    &["referenced filter '", "Cannot instantiate filter due to unresolvable variables", "learning value '"];

/// Of more faults than this only the number is reported in one line.
const MOST_TEXTS: usize = 8;

/// A refusal for what documents mean to an interface: each fault with its rule, its line and the way out.
pub fn refusal(diagnostics: &[Diagnostic]) -> Error {
    let whole = error(diagnostics);
    let (mut texts, mut known) = (Vec::new(), BTreeSet::new());
    for fault in diagnostics.iter().filter(|fault| fault.severity == Severity::Error) {
        let is_libvirts = OF_LIBVIRT.iter().any(|words| fault.message.contains(words));
        let text = if is_libvirts { fault.message.clone() } else { fault.line() };
        if known.insert(text.clone()) {
            texts.push(text);
        }
    }
    let more = texts.len().saturating_sub(MOST_TEXTS);
    texts.truncate(MOST_TEXTS);
    let more = if more == 0 { String::new() } else { format!("; and {more} more") };
    if texts.is_empty() {
        return whole;
    }
    Error::new(whole.code, whole.domain, texts.join("; ") + &more).with_faults(whole.faults)
}

/// What does not fit the schema.
fn schema(faults: &[Diagnostic]) -> Error {
    Error::schema(lines(faults)).with_faults(first(faults))
}
