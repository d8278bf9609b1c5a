//! Attributes, elements and text that no table knows: what libvirt leaves out of a document in silence.
//!
//! Where a rule, a filter or a reference would ask for less than was written, that is reported as unenforced; where nothing
//! depends on it, and where a name belongs to another namespace, as a warning.

use super::meant;
use crate::document::diag::{Diagnostic, Faults, Severity};
use crate::document::span::Span;
use crate::document::xml::Element;

/// Reports attributes that are none of these.
pub fn unknown_attributes(element: Element<'_>, known: &[&str], severity: Severity, faults: &mut Faults) {
    for attribute in element.attributes().filter(|attribute| !known.contains(&attribute.name)) {
        let name = attribute.name;
        let message = format!("attribute '{name}' of <{}> is unknown and ignored", element.name());
        let severity = if name.contains(':') { Severity::Warning } else { severity };
        let label = match severity {
            Severity::Warning => "has no effect",
            _ => "is not enforced",
        };
        faults.push(unknown(
            element,
            attribute.name_span,
            message,
            severity,
            label,
            meant::attribute(name, known),
        ));
    }
}

/// Reports an element that is none of these.
pub fn unknown_element(element: Element<'_>, known: &[&str], severity: Severity, faults: &mut Faults) {
    let label = match severity {
        Severity::Warning => "has no effect",
        _ => "is not enforced",
    };
    unknown_element_labelled(element, known, severity, label, faults);
}

/// As [`unknown_element`], saying what comes of it.
pub(super) fn unknown_element_labelled(
    element: Element<'_>,
    known: &[&str],
    severity: Severity,
    label: &str,
    faults: &mut Faults,
) {
    let severity = if element.namespace().is_some() { Severity::Warning } else { severity };
    let message = format!("element <{}> is unknown here and ignored", element.name());
    let help = meant::element(element.name(), known);
    faults.push(unknown(element, element.name_span(), message, severity, label, help));
}

/// Reports text where only elements and attributes say something.
pub(super) fn unread_text(element: Element<'_>, faults: &mut Faults) {
    faults.extend(element.stray_text().map(|span| {
        Diagnostic::unenforced(format!("text in <{}> is ignored", element.name()))
            .at(element.place(span), "is not enforced")
            .help("rules and references are elements, and what a rule looks at are attributes")
    }));
}

fn unknown(
    element: Element<'_>,
    span: Span,
    message: String,
    severity: Severity,
    label: &str,
    help: Option<String>,
) -> Diagnostic {
    let diagnostic = Diagnostic { severity, ..Diagnostic::warning(message) }.at(element.place(span), label);
    help.into_iter().fold(diagnostic, Diagnostic::help)
}
