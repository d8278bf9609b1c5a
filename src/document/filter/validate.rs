//! Strict validation of a document, as `schema/nwfilter.rng` has it, driven by the same table.
//!
//! Reading is generous because libvirt's is; this is for a caller that asks for a report, with virsh's `--validate`
//! or with `check`. It accepts what the schema accepts and nothing else, and needs no schema file.

use super::read::{CHAIN_BYTES, CHAINS, NAME_BYTES};
use super::schema::{Attribute, AttributeRole, Protocol, ValueKind};
use super::{ACTIONS, DIRECTIONS, strict, value};
use crate::document::diag::{Code, Diagnostic, Faults, abridged};
use crate::document::span::Source;
use crate::document::vars;
use crate::document::xml::{self, Document, Element};
use std::sync::Arc;

/// Which values an attribute may have, and what they look like.
pub(crate) type Check = (fn(&str) -> bool, &'static str);

/// An attribute of an element: name, whether it must be there, values.
pub(crate) type AttributeCheck = (&'static str, bool, Check);

/// The names of filters.
pub(crate) const NAME: Check = (is_name, "a filter's name");

const PRIORITY: Check = (|text| strict::is_integer(text, 1000), "a number from -1000 to 1000");
const CHAIN: Check = (is_chain, "root, or a name that begins with mac, vlan, stp, arp, rarp, ipv4 or ipv6");
const ACTION: Check = (|text| ACTIONS.iter().any(|(name, _)| *name == text), "an action");
const DIRECTION: Check = (|text| DIRECTIONS.iter().any(|(name, _)| *name == text), "in, out or inout");
const STATEMATCH: Check = (|text| text == "0" || text.eq_ignore_ascii_case("false"), "0 or false");
const UUID: Check = (strict::is_uuid, "a UUID");
const VARIABLE: Check = (|text| !text.is_empty() && vars::is_name(text), "letters, digits and _");
const VALUE: Check = (vars::is_value, "letters, digits, and _ . :");
const SIGN: Check = (|text| matches!(text, "yes" | "no"), "yes or no");

/// Checks a filter document against the schema.
///
/// Fails with every difference.
pub fn validate(source: &Arc<Source>) -> Result<(), Vec<Diagnostic>> {
    let document = Document::parse(source).map_err(|fault| vec![fault])?;
    let root = document.root("filter").map_err(|fault| vec![fault])?;
    let mut faults = Faults::default();
    attributes(
        root,
        &[("name", true, NAME), ("chain", false, CHAIN), ("priority", false, PRIORITY)],
        &mut faults,
    );
    let mut uuids = 0;
    for child in contents(root, &mut faults) {
        match child.name() {
            "uuid" => {
                uuids += 1;
                text(child, UUID, &mut faults);
                once(child, uuids, &mut faults);
            }
            "rule" => rule(child, &mut faults),
            "filterref" => filterref(child, &mut faults),
            _ => faults.push(not_here(child)),
        }
    }
    if faults.is_empty() { Ok(()) } else { Err(faults.into()) }
}

/// `<filterref>` with its parameters.
pub(crate) fn filterref(element: Element<'_>, faults: &mut Faults) {
    attributes(element, &[("filter", true, NAME)], faults);
    for child in contents(element, faults) {
        if child.name() == "parameter" {
            attributes(child, &[("name", true, VARIABLE), ("value", true, VALUE)], faults);
            empty(child, faults);
        } else {
            faults.push(not_here(child));
        }
    }
}

/// Checks the attributes of an element against its slots.
pub(crate) fn attributes(element: Element<'_>, slots: &[AttributeCheck], faults: &mut Faults) {
    foreign(element, faults);
    for attribute in element.attributes() {
        match slots.iter().find(|(name, _, _)| *name == attribute.name) {
            Some((_, _, (allows, expected))) => {
                if !allows(attribute.value) {
                    faults.push(bad_value(element, attribute, expected));
                }
            }
            None => faults.push(unknown_attribute(element, attribute)),
        }
    }
    for (name, _, _) in
        slots.iter().filter(|(name, required, _)| *required && element.attribute(name).is_none())
    {
        faults.push(
            invalid(format!("<{}> has no attribute '{name}'", element.name()))
                .at(element.place(element.name_span()), format!("expected {name}='...'")),
        );
    }
}

/// A namespace gets one fault, for all elements in it have its name.
const NAMESPACE: usize = 100;

fn foreign(element: Element<'_>, faults: &mut Faults) {
    if let Some(namespace) = element.namespace() {
        let namespace = abridged(namespace, NAMESPACE);
        let message = format!("<{}> is in the namespace {namespace}", element.name());
        faults.push(invalid(message).at(element.place(element.name_span()), "expected none"));
    }
}

/// The children of an element that holds elements only.
pub(crate) fn contents<'a>(
    element: Element<'a>,
    faults: &mut Faults,
) -> impl Iterator<Item = Element<'a>> + use<'a> {
    if let Some(span) = element.stray_text() {
        let message = format!("<{}> has no text", element.name());
        faults.push(invalid(message).at(element.place(span), "expected elements"));
    }
    element.children()
}

/// Checks that an element holds nothing.
pub(crate) fn empty(element: Element<'_>, faults: &mut Faults) {
    let children: Vec<_> = contents(element, faults).collect();
    faults.extend(children.into_iter().map(not_here));
}

/// Checks an element that holds text only, and has no attributes.
pub(crate) fn text(element: Element<'_>, (allows, expected): Check, faults: &mut Faults) {
    attributes(element, &[], faults);
    faults.extend(element.children().map(not_here));
    let text = element.text();
    if !allows(&text) {
        let message = format!("<{}> cannot be '{text}'", element.name());
        faults
            .push(invalid(message).at(element.place(element.content_span()), format!("expected {expected}")));
    }
}

/// Checks that an element of this kind has not been there before.
pub(crate) fn once(element: Element<'_>, count: usize, faults: &mut Faults) {
    if count > 1 {
        let message = format!("<{}> is there more than once", element.name());
        faults.push(invalid(message).at(element.place(element.name_span()), "expected one of it"));
    }
}

/// An element where none of its name may be.
pub(crate) fn not_here(element: Element<'_>) -> Diagnostic {
    invalid(format!("<{}> is not allowed here", element.name()))
        .at(element.place(element.name_span()), "not expected")
}

/// A difference from the schema.
pub(crate) fn invalid(message: String) -> Diagnostic {
    Diagnostic::error(Code::INVALID_SCHEMA, message)
}

fn bad_value(element: Element<'_>, attribute: xml::XmlAttribute<'_>, expected: &str) -> Diagnostic {
    invalid(format!("'{}' cannot be '{}'", attribute.name, attribute.value))
        .at(element.place(attribute.span), format!("expected {expected}"))
}

fn unknown_attribute(element: Element<'_>, attribute: xml::XmlAttribute<'_>) -> Diagnostic {
    invalid(format!("<{}> has no attribute '{}' in the schema", element.name(), attribute.name))
        .at(element.place(attribute.name_span), "not expected")
}

fn rule(element: Element<'_>, faults: &mut Faults) {
    let slots: &[AttributeCheck] = &[
        ("action", true, ACTION),
        ("direction", true, DIRECTION),
        ("priority", false, PRIORITY),
        ("statematch", false, STATEMATCH),
    ];
    attributes(element, slots, faults);
    for (before, child) in contents(element, faults).enumerate() {
        match Protocol::named(child.name()) {
            Some(protocol) if before == 0 => matches(child, protocol, faults),
            Some(_) => faults.push(
                invalid("a rule has one protocol element".to_owned())
                    .at(child.place(child.name_span()), "one too many"),
            ),
            None => faults.push(not_here(child)),
        }
    }
}

fn matches(element: Element<'_>, protocol: &'static Protocol, faults: &mut Faults) {
    foreign(element, faults);
    empty(element, faults);
    for attribute in element.attributes() {
        if attribute.name == "match" {
            if !SIGN.0(attribute.value) {
                faults.push(bad_value(element, attribute, SIGN.1));
            }
            continue;
        }
        match protocol.attributes().find(|row| row.name == attribute.name) {
            Some(row) if !strict::allows(row.kind, attribute.value) => {
                faults.push(bad_value(element, attribute, &value::expected(row.kind)));
            }
            Some(row) => faults.extend(without_its_base(element, protocol, row, attribute)),
            None => faults.push(unknown_attribute(element, attribute)),
        }
    }
}

fn without_its_base(
    element: Element<'_>,
    protocol: &'static Protocol,
    row: &Attribute,
    attribute: xml::XmlAttribute<'_>,
) -> Option<Diagnostic> {
    let base = needed(protocol, row).filter(|base| element.attribute(base).is_none())?;
    Some(
        invalid(format!("'{}' needs '{base}' beside it", row.name))
            .at(element.place(attribute.name_span), format!("expected {base}='...' as well")),
    )
}

/// The attribute without which another one says nothing.
pub fn needed(protocol: &'static Protocol, row: &Attribute) -> Option<&'static str> {
    let kind = match row.role {
        AttributeRole::MaskOf(base) | AttributeRole::EndOf(base) => return Some(base),
        AttributeRole::Ipset => ValueKind::IpsetFlags,
        AttributeRole::IpsetFlags => ValueKind::IpsetName,
        _ => return None,
    };
    protocol.attributes().find(|other| other.kind == kind).map(|other| other.name)
}

fn is_name(text: &str) -> bool {
    // The schema counts characters, reading counts bytes.
    let length = text.chars().count();
    (1..=NAME_BYTES).contains(&length)
        && !text.starts_with('.')
        && !text.contains(|c: char| c == '/' || c.is_control())
}

fn is_chain(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"_.:-".contains(&b);
    let kind = text == "root" || CHAINS.iter().any(|(prefix, _)| text.starts_with(prefix));
    text.len() <= CHAIN_BYTES && text.bytes().all(allowed) && kind
}
