//! XML to [`Filter`], driven by the table in [`schema`](super::schema).
//!
//! Takes what libvirt takes and says so in a warning where libvirt would be silent. All faults of a
//! document come at once, each with its place; the first error is the one that libvirt would report.
//! Whether a rule can be enforced is not asked here.

mod rule;

use super::{Entry, Filter, Include};
use crate::diag::{Code, Diagnostic, Severity, similar};
use crate::number;
use crate::span::{Source, Span};
use crate::vars::{self, Vars};
use crate::xml::{Attribute, Document, Element};
use std::ops::RangeInclusive;
use std::sync::Arc;
use uuid::Uuid;

/// What a filter or rule may have for a priority.
pub const PRIORITIES: RangeInclusive<i32> = -1000..=1000;

/// A filter has at most this many rules and references.
pub const ENTRIES: usize = 16_384;

/// A filter's name has at most this many bytes.
pub const NAME_BYTES: usize = 128;

/// A chain's name has at most this many bytes.
pub const CHAIN_BYTES: usize = 12;

/// What a chain's name may begin with, and the priority a chain of that kind has by default.
pub const CHAINS: &[(&str, i32)] = &[
    ("mac", -800),
    ("vlan", -750),
    // libvirt's manual says -810; its table of defaults has no such row.
    ("stp", 0),
    ("arp", -500),
    ("rarp", -400),
    ("ipv4", -700),
    ("ipv6", -600),
];

/// Reads a filter, and tells what a reader of the document should know although it is taken.
///
/// Fails with every fault of the document, errors and warnings together.
pub fn read(source: &Arc<Source>) -> Result<(Filter, Vec<Diagnostic>), Vec<Diagnostic>> {
    let document = Document::parse(source).map_err(|fault| vec![fault])?;
    let root = document.root("filter").map_err(|fault| vec![fault])?;
    let mut faults = Vec::new();
    let filter = read_filter(root, source, &mut faults);
    let refused = faults.iter().any(|fault| fault.severity == Severity::Error);
    match filter {
        Some(filter) if !refused => Ok((filter, faults)),
        _ => Err(faults),
    }
}

/// Why a text can not be a filter's name; none where it can.
pub fn name_fault(name: &str) -> Option<String> {
    let reason = match name {
        _ if name.len() > NAME_BYTES => format!("is longer than {NAME_BYTES} bytes"),
        _ if name.starts_with('.') => "begins with a dot".to_owned(),
        _ if name.contains('/') => "has a slash in it".to_owned(),
        _ if name.chars().any(char::is_control) => "has a control character in it".to_owned(),
        _ => return None,
    };
    Some(format!("filter name '{}' {reason}", name.escape_debug()))
}

fn read_filter(root: Element<'_>, source: &Arc<Source>, faults: &mut Vec<Diagnostic>) -> Option<Filter> {
    unknown_attributes(root, &["name", "chain", "priority"], faults);
    let name = read_name(root, faults);
    let entered = read_chain_priority(root, faults);
    let chain = read_chain(root, faults);
    let uuid = read_uuid(root, faults);
    let entries = read_entries(root, faults);
    let chain = chain?;
    let priority = chain.as_ref().map(|(_, default)| entered.unwrap_or(*default));
    Some(Filter {
        name: name?,
        chain: chain.map_or_else(|| "root".to_owned(), |(name, _)| name),
        priority: priority.unwrap_or(0),
        uuid,
        entries,
        source: Arc::clone(source),
    })
}

fn read_name(root: Element<'_>, faults: &mut Vec<Diagnostic>) -> Option<String> {
    let Some(name) = filled(root, "name") else {
        let place = root.place(root.name_span());
        faults.push(
            Diagnostic::error(Code::INTERNAL, "filter has no name")
                .at(place, "expected an attribute name='...'"),
        );
        return None;
    };
    if let Some(message) = name_fault(name.value) {
        let label = format!("expected a name of up to {NAME_BYTES} bytes without slash or leading dot");
        faults.push(Diagnostic::error(Code::INVALID_ARG, message).at(root.place(name.span), label));
        return None;
    }
    Some(name.value.to_owned())
}

fn read_chain_priority(root: Element<'_>, faults: &mut Vec<Diagnostic>) -> Option<i32> {
    let entered = filled(root, "priority")?;
    let place = root.place(entered.span);
    let Some(priority) = number::signed(entered.value) else {
        let message = format!("Could not parse chain priority '{}'", entered.value);
        faults.push(Diagnostic::error(Code::INVALID_ARG, message).at(place, "expected a decimal number"));
        return None;
    };
    let (least, greatest) = (PRIORITIES.start(), PRIORITIES.end());
    if !PRIORITIES.contains(&priority) {
        let message = format!("Priority '{priority}' is outside valid range of [{least},{greatest}]");
        let label = format!("expected a number from {least} to {greatest}");
        faults.push(Diagnostic::error(Code::INVALID_ARG, message).at(place, label));
    } else if filled(root, "chain").is_none() {
        faults.push(
            Diagnostic::warning("the priority of a filter without a chain is ignored")
                .at(place, "has no effect")
                .help("name the chain as well, chain='root' for instance"),
        );
    }
    Some(priority)
}

/// The chain and its default priority; the inner none where the document names no chain, the outer one
/// where it names a bad one.
fn read_chain(root: Element<'_>, faults: &mut Vec<Diagnostic>) -> Option<Option<(String, i32)>> {
    let Some(chain) = filled(root, "chain") else {
        return Some(None);
    };
    match chain_default(chain.value) {
        Ok(default) => Some(Some((chain.value.to_owned(), default))),
        Err(message) => {
            let label = "expected root, or a name that begins with mac, vlan, stp, arp, rarp, ipv4 or ipv6";
            faults.push(Diagnostic::error(Code::INVALID_ARG, message).at(root.place(chain.span), label));
            None
        }
    }
}

fn chain_default(chain: &str) -> Result<i32, String> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"_.:-".contains(&b);
    if chain.len() > CHAIN_BYTES {
        return Err(format!("Name of chain is longer than {CHAIN_BYTES} characters"));
    }
    if !chain.bytes().all(allowed) {
        return Err("Chain name contains invalid characters".to_owned());
    }
    if chain == "root" {
        return Ok(0);
    }
    let prefixes: Vec<&str> = CHAINS.iter().map(|(prefix, _)| *prefix).collect();
    match CHAINS.iter().find(|(prefix, _)| chain.starts_with(prefix)) {
        Some((_, default)) => Ok(*default),
        None => Err(format!(
            "Invalid chain name '{chain}'. Please use a chain name called 'root' or any of the following \
             prefixes: {}",
            prefixes.join(", ")
        )),
    }
}

fn read_uuid(root: Element<'_>, faults: &mut Vec<Diagnostic>) -> Option<Uuid> {
    let element = root.child("uuid")?;
    let text = element.text();
    if text.is_empty() {
        return None;
    }
    let uuid = parse_uuid(&text);
    if uuid.is_none() {
        let code = Code { number: Code::XML_ERROR.number, domain: Code::INTERNAL.domain };
        faults.push(Diagnostic::error(code, "malformed uuid element").at(
            element.place(element.content_span()),
            "expected 32 hexadecimal digits, with or without hyphens",
        ));
    }
    uuid
}

/// A UUID as libvirt reads it: hyphens anywhere between its octets, or none; white space around it.
pub fn parse_uuid(text: &str) -> Option<Uuid> {
    let space = [' ', '\t', '\n', '\x0b', '\x0c', '\r'];
    let mut digits = text.trim_start_matches(space);
    let mut octets = [0; 16];
    for octet in &mut octets {
        digits = digits.trim_start_matches('-');
        let pair = digits.get(..2).filter(|pair| pair.bytes().all(|b| b.is_ascii_hexdigit()))?;
        *octet = u8::from_str_radix(pair, 16).ok()?;
        digits = &digits[2..];
    }
    digits.trim_matches(space).is_empty().then(|| Uuid::from_bytes(octets))
}

fn read_entries(root: Element<'_>, faults: &mut Vec<Diagnostic>) -> Vec<Entry> {
    let mut entries = Vec::new();
    for (before, child) in root.children().filter(|child| child.name() != "uuid").enumerate() {
        if before == ENTRIES {
            let message = format!("a filter has at most {ENTRIES} rules and references");
            let place = child.place(child.name_span());
            faults.push(
                Diagnostic::error(Code::INVALID_ARG, message)
                    .at(place, "one too many")
                    .help("split it into several filters, and refer to them with <filterref>"),
            );
            break;
        }
        match child.name() {
            "rule" => entries.extend(rule::read_rule(child, faults).map(|rule| Entry::Rule(Arc::new(rule)))),
            "filterref" => entries.extend(read_include(child, faults).map(Entry::Include)),
            _ => unknown_element(child, &["rule", "filterref", "uuid"], faults),
        }
    }
    entries
}

fn read_include(element: Element<'_>, faults: &mut Vec<Diagnostic>) -> Option<Include> {
    unknown_attributes(element, &["filter"], faults);
    let params = read_params(element, faults);
    let Some(filter) = element.attribute("filter") else {
        faults.push(missing(element, "filter"));
        return None;
    };
    Some(Include { filter: filter.value.to_owned(), params, span: filter.span })
}

/// The `<parameter>` children of an element. libvirt drops a bad one in silence; it is dropped with a
/// warning here.
pub fn read_params(element: Element<'_>, faults: &mut Vec<Diagnostic>) -> Vars {
    let mut params = Vars::default();
    for child in element.children() {
        if child.name() != "parameter" {
            unknown_element(child, &["parameter"], faults);
            continue;
        }
        unknown_attributes(child, &["name", "value"], faults);
        let attributes = (child.attribute("name"), child.attribute("value"));
        match attributes {
            (Some(name), Some(value)) if vars::is_name(name.value) && vars::is_value(value.value) => {
                params.push(name.value, value.value);
            }
            _ => faults.push(dropped_parameter(child, attributes)),
        }
    }
    params
}

fn dropped_parameter(
    child: Element<'_>,
    (name, value): (Option<Attribute<'_>>, Option<Attribute<'_>>),
) -> Diagnostic {
    let bad_name = name.filter(|name| !vars::is_name(name.value));
    let (span, label) = match (bad_name, value) {
        (Some(name), _) => (name.span, "a name has letters, digits and _ only"),
        (None, Some(value)) if name.is_some() => (value.span, "a value has letters, digits, and _ . : only"),
        _ => (child.name_span(), "a parameter has a name and a value"),
    };
    Diagnostic::warning("this parameter is ignored").at(child.place(span), label)
}

/// The attribute, unless it is empty, which for some is as good as absent.
fn filled<'a>(element: Element<'a>, name: &str) -> Option<Attribute<'a>> {
    element.attribute(name).filter(|attribute| !attribute.value.is_empty())
}

fn missing(element: Element<'_>, attribute: &str) -> Diagnostic {
    let message = format!("Missing required attribute '{attribute}' in element '{}'", element.name());
    Diagnostic::error(Code::XML_ERROR, message)
        .at(element.place(element.name_span()), format!("expected an attribute {attribute}='...'"))
}

/// Warns of attributes that are none of these.
pub fn unknown_attributes(element: Element<'_>, known: &[&str], faults: &mut Vec<Diagnostic>) {
    for attribute in element.attributes().filter(|attribute| !known.contains(&attribute.name)) {
        let message =
            format!("attribute '{}' of <{}> is unknown and ignored", attribute.name, element.name());
        faults.push(unknown(element, attribute.name_span, message, similar(attribute.name, known)));
    }
}

/// Warns of an element that is none of these.
pub fn unknown_element(element: Element<'_>, known: &[&str], faults: &mut Vec<Diagnostic>) {
    let message = format!("element <{}> is unknown here and ignored", element.name());
    faults.push(unknown(element, element.name_span(), message, similar(element.name(), known)));
}

fn unknown(element: Element<'_>, span: Span, message: String, meant: Option<&str>) -> Diagnostic {
    let diagnostic = Diagnostic::warning(message).at(element.place(span), "has no effect");
    meant
        .into_iter()
        .fold(diagnostic, |diagnostic, meant| diagnostic.help(format!("did you mean '{meant}'?")))
}
