//! Strict validation of a binding, as `schema/nwfilterbinding.rng` has it.

use super::{PORTDEV_BYTES, portdev_fault};
use crate::document::diag::{Diagnostic, Faults};
use crate::document::filter::strict;
use crate::document::filter::validate::{
    Check, attributes, contents, empty, filterref, invalid, not_here, once, text,
};
use crate::document::span::Source;
use crate::document::xml::{Document, Element};
use std::sync::Arc;

const INTERFACE: Check = (is_interface, "the name of an interface");
const MAC: Check = (strict::is_mac, "a MAC address");
const UUID: Check = (strict::is_uuid, "a UUID");
const ANYTHING: Check = (|text| !text.is_empty(), "a name");

/// What a binding holds, and whether it must.
const ELEMENTS: &[(&str, bool)] = &[
    ("owner", true),
    ("portdev", true),
    ("linkdev", false),
    ("mac", true),
    ("filterref", true),
    ("backend", false),
];

/// Checks a binding document against the schema.
///
/// Fails with every difference.
pub fn validate(source: &Arc<Source>) -> Result<(), Vec<Diagnostic>> {
    let document = Document::parse(source).map_err(|fault| vec![fault])?;
    let root = document.root("filterbinding").map_err(|fault| vec![fault])?;
    let mut faults = Faults::default();
    attributes(root, &[], &mut faults);
    for child in children(root, ELEMENTS, &mut faults) {
        match child.name() {
            "owner" => owner(child, &mut faults),
            "filterref" => filterref(child, &mut faults),
            "mac" => only(child, "address", MAC, &mut faults),
            "backend" => only(child, "name", ANYTHING, &mut faults),
            _ => only(child, "name", INTERFACE, &mut faults),
        }
    }
    if faults.is_empty() { Ok(()) } else { Err(faults.into()) }
}

fn owner(element: Element<'_>, faults: &mut Faults) {
    attributes(element, &[], faults);
    for child in children(element, &[("name", true), ("uuid", true)], faults) {
        text(child, if child.name() == "name" { ANYTHING } else { UUID }, faults);
    }
}

/// The children of an element, each at most once, and those that must be there.
fn children<'a>(element: Element<'a>, expected: &[(&str, bool)], faults: &mut Faults) -> Vec<Element<'a>> {
    let (known, strange): (Vec<_>, Vec<_>) =
        contents(element, faults).partition(|child| expected.iter().any(|(name, _)| *name == child.name()));
    faults.extend(strange.into_iter().map(not_here));
    for (name, required) in expected {
        let named: Vec<_> = known.iter().filter(|child| child.name() == *name).collect();
        if *required && named.is_empty() {
            faults.push(
                invalid(format!("<{}> has no <{name}>", element.name()))
                    .at(element.place(element.name_span()), format!("expected <{name}> in it")),
            );
        }
        for (before, child) in named.iter().enumerate() {
            once(**child, before + 1, faults);
        }
    }
    known
}

fn only(element: Element<'_>, name: &'static str, check: Check, faults: &mut Faults) {
    attributes(element, &[(name, true, check)], faults);
    empty(element, faults);
}

/// The schema keeps to ASCII, which bytes and characters count alike.
fn is_interface(text: &str) -> bool {
    (1..=PORTDEV_BYTES).contains(&text.len()) && text.is_ascii() && portdev_fault(text).is_none()
}
