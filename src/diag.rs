//! What is wrong with a document or a change, where, and what to do about it.
//!
//! Every pure stage returns all of its [`Diagnostic`]s at once. Where libvirt has an error code for the
//! fault, the diagnostic carries it, so that the daemon can answer as libvirt does.

use crate::span::Place;
use std::fmt;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// The document is taken; the reader should know something about it.
    Warning,
    /// The document or the change is refused.
    Error,
}

/// The number and domain of a libvirt error (`virErrorNumber`, `virErrorDomain`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Code {
    /// `virErrorNumber`.
    pub number: i32,
    /// `virErrorDomain`.
    pub domain: i32,
}

/// One fault, with the place it was found at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Diagnostic {
    /// Error or warning.
    pub severity: Severity,
    /// libvirt's code for it; [`Code::INTERNAL`] where libvirt knows none better.
    pub code: Code,
    /// What is wrong, in one line.
    pub message: String,
    /// Where, if it has a place in a document.
    pub place: Option<Place>,
    /// What was expected at that place, printed under the text.
    pub label: String,
    /// What the reader can do about it.
    pub help: Option<String>,
}

/// Domain `VIR_FROM_NWFILTER`.
pub const NWFILTER: i32 = 33;
/// Domain `VIR_FROM_XML`.
pub const XML: i32 = 5;

impl Code {
    /// `VIR_ERR_INTERNAL_ERROR`: libvirt's code for most faults of a value or an instantiation.
    pub const INTERNAL: Code = Code { number: 1, domain: NWFILTER };
    /// `VIR_ERR_INVALID_ARG`.
    pub const INVALID_ARG: Code = Code { number: 8, domain: NWFILTER };
    /// `VIR_ERR_OPERATION_FAILED`.
    pub const OPERATION_FAILED: Code = Code { number: 9, domain: NWFILTER };
    /// `VIR_ERR_XML_ERROR` of the XML domain: a missing or bad attribute of an element.
    pub const XML_ERROR: Code = Code { number: 27, domain: XML };
    /// `VIR_ERR_PARSE_FAILED`.
    pub const PARSE_FAILED: Code = Code { number: 32, domain: NWFILTER };
    /// `VIR_ERR_XML_DETAIL`: not well-formed.
    pub const XML_DETAIL: Code = Code { number: 35, domain: NWFILTER };
}

impl Diagnostic {
    /// An error without a place.
    pub fn error(code: Code, message: impl Into<String>) -> Diagnostic {
        Diagnostic {
            severity: Severity::Error,
            code,
            message: message.into(),
            place: None,
            label: String::new(),
            help: None,
        }
    }

    /// A warning without a place.
    pub fn warning(message: impl Into<String>) -> Diagnostic {
        Diagnostic { severity: Severity::Warning, ..Diagnostic::error(Code::INTERNAL, message) }
    }

    /// The same, found at a place, with what was expected there.
    pub fn at(mut self, place: Place, label: impl Into<String>) -> Diagnostic {
        self.place = Some(place);
        self.label = label.into();
        self
    }

    /// The same, with a way out.
    pub fn help(mut self, help: impl Into<String>) -> Diagnostic {
        self.help = Some(help.into());
        self
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{}: ", place.line_column())?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for Diagnostic {}

/// The diagnostic that libvirt would report, which reports one: the first error, and where there is none
/// the first of all. Reading keeps its diagnostics in libvirt's order.
///
/// Panics without diagnostics: a refusal has a reason.
pub fn principal(diagnostics: &[Diagnostic]) -> &Diagnostic {
    let error = diagnostics.iter().find(|found| found.severity == Severity::Error);
    error.or(diagnostics.first()).expect("a refusal has a reason")
}

/// The name that was probably meant, if one is close enough.
pub fn similar<'a>(entered: &str, names: &[&'a str]) -> Option<&'a str> {
    let near = |name: &&'a str| (distance(entered, name), *name);
    let allowed = if entered.len() < 5 { 1 } else { 2 };
    names.iter().map(near).min().filter(|(distance, _)| *distance <= allowed).map(|(_, name)| name)
}

/// How many letters must be changed, added or left out to make one name of the other. Long names are
/// far from all of ours.
fn distance(from: &str, to: &str) -> usize {
    if from.len() > 32 {
        return from.len();
    }
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, b) in to.bytes().enumerate() {
            let changed = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[to.len()]
}
