//! Documents of clients, and diagnostics as the errors that clients know.

use crate::binding::{self, Binding};
use crate::diag::{Diagnostic, principal};
use crate::filter::{Filter, read, validate};
use crate::rpc::{Code, Domain, Error};
use crate::span::Source;

/// A filter that a client sent, checked against the schema first where it asks for that.
pub fn read_filter(xml: &str, strictly: bool) -> Result<Filter, Error> {
    let source = Source::new("filter", xml);
    if strictly {
        validate::validate(&source).map_err(|faults| schema(&faults))?;
    }
    read::read(&source).map(|(filter, _)| filter).map_err(|faults| error(&faults))
}

/// A binding that a client sent, likewise.
pub fn read_binding(xml: &str, strictly: bool) -> Result<Binding, Error> {
    let source = Source::new("binding", xml);
    if strictly {
        binding::validate::validate(&source).map_err(|faults| schema(&faults))?;
    }
    binding::read(&source).map(|(binding, _)| binding).map_err(|faults| error(&faults))
}

/// The one of these that a client hears of.
pub fn error(diagnostics: &[Diagnostic]) -> Error {
    let fault = principal(diagnostics);
    let code = Code::from_number(fault.code.number).unwrap_or(Code::InternalError);
    let domain = Domain::from_number(fault.code.domain).unwrap_or(Domain::Filter);
    Error::new(code, domain, fault.message.clone())
}

/// What does not fit the schema, all of it.
fn schema(faults: &[Diagnostic]) -> Error {
    let lines: Vec<String> = faults.iter().map(ToString::to_string).collect();
    Error::schema(lines.join("\n"))
}
