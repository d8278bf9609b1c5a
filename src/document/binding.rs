//! A filter binding: which filter a guest's interface has, with which variables.
//!
//! Reads and prints `<filterbinding>` byte for byte as libvirt does, and the status document in which
//! the daemon keeps it over a restart. The name of the interface is checked; whether it exists, and the
//! filter too, is not asked here.

pub mod validate;
mod write;

pub use write::{write, write_status};

use crate::document::diag::{Code, Diagnostic, Faults, Severity};
use crate::document::filter::read::{
    Params, parse_uuid, read_params, refuse_second, unknown_attributes, unknown_element,
};
use crate::document::mac::Mac;
use crate::document::span::{Source, Span};
use crate::document::vars::Vars;
use crate::document::xml::{Document, Element, XmlAttribute};
use std::collections::BTreeMap;
use std::sync::Arc;
use uuid::Uuid;

/// An interface's name has at most this many bytes.
pub const PORTDEV_BYTES: usize = 15;

/// `<filterbinding>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// The guest's name.
    pub owner_name: String,
    /// The guest's UUID.
    pub owner_uuid: Uuid,
    /// The interface that is filtered.
    pub portdev: String,
    /// The interface below it, for macvtap.
    pub linkdev: Option<String>,
    /// The guest's MAC address.
    pub mac: Mac,
    /// The filter's name.
    pub filter: String,
    /// The variables given to it.
    pub params: Vars,
    /// Where each of them stands.
    pub spans: BTreeMap<String, Span>,
    /// Those that could not be read, by name.
    pub dropped: Vec<(String, Diagnostic)>,
    /// The document it was read from.
    pub source: Arc<Source>,
    /// Of the filter's name in it.
    pub filter_span: Span,
}

/// Reads a binding, and reports what a reader of the document should know although it is taken.
///
/// Fails with every fault of the document, in the order in which libvirt looks for them.
pub fn read(source: &Arc<Source>) -> Result<(Binding, Vec<Diagnostic>), Vec<Diagnostic>> {
    let document = Document::parse(source).map_err(|fault| vec![fault])?;
    let root = document.root("filterbinding").map_err(|fault| vec![fault])?;
    finish(root, source)
}

/// Reads a status document.
pub fn read_status(source: &Arc<Source>) -> Result<Binding, Vec<Diagnostic>> {
    let document = Document::parse(source).map_err(|fault| vec![fault])?;
    let root = document.root("filterbindingstatus").map_err(|fault| vec![fault])?;
    let Some(binding) = root.child("filterbinding") else {
        let place = root.place(root.name_span());
        return Err(vec![
            Diagnostic::error(Code::INTERNAL, "binding status has no filter binding")
                .at(place, "expected one in it"),
        ]);
    };
    finish(binding, source).map(|(binding, _)| binding)
}

/// Why a text cannot be an interface's name; none where it can.
pub fn portdev_fault(name: &str) -> Option<String> {
    let reason = match name {
        "." | ".." => "is a directory".to_owned(),
        _ if name.len() > PORTDEV_BYTES => format!("is longer than {PORTDEV_BYTES} bytes"),
        // The kernel's isspace is Latin-1's, which has the byte 0xa0.
        _ if name.bytes().any(|b| matches!(b, b'/' | b':' | 0xa0) || b <= b' ' || b == 0x7f) => {
            "has a slash, a colon, white space or a control character in it".to_owned()
        }
        _ if name.chars().any(char::is_control) => "has a control character in it".to_owned(),
        _ => return None,
    };
    Some(format!("interface name '{}' {reason}", name.escape_debug()))
}

fn finish(root: Element<'_>, source: &Arc<Source>) -> Result<(Binding, Vec<Diagnostic>), Vec<Diagnostic>> {
    let mut faults = Faults::default();
    let binding = read_binding(root, source, &mut faults);
    let refused = faults.has_errors();
    match binding {
        Some(binding) if !refused => Ok((binding, faults.into())),
        _ => Err(faults.into()),
    }
}

fn read_binding(root: Element<'_>, source: &Arc<Source>, faults: &mut Faults) -> Option<Binding> {
    warn_of_strangers(root, faults);
    let portdev = attribute(root, "portdev", "name", "port dev name", faults);
    let portdev = portdev.and_then(|portdev| checked(root, portdev, faults));
    let linkdev = root.child("linkdev").map(|_| {
        let linkdev = attribute(root, "linkdev", "name", "link dev name", faults);
        linkdev.and_then(|linkdev| checked(root, linkdev, faults))
    });
    let owner_name = owner(root, "name", "owner name", faults).map(|name| name.text());
    let owner_uuid = owner(root, "uuid", "owner UUID", faults).and_then(|uuid| read_uuid(uuid, faults));
    let mac =
        attribute(root, "mac", "address", "MAC address", faults).and_then(|mac| read_mac(root, mac, faults));
    let filter = attribute(root, "filterref", "filter", "filter reference", faults);
    let params = root.child("filterref").map(|filterref| read_params(filterref, faults));
    let filter = filter?;
    let Params { vars: params, spans, dropped } = params.unwrap_or_default();
    Some(Binding {
        owner_name: owner_name?,
        owner_uuid: owner_uuid?,
        portdev: portdev?,
        linkdev: match linkdev {
            Some(linkdev) => Some(linkdev?),
            None => None,
        },
        mac: mac?,
        filter: filter.value.to_owned(),
        params: Arc::unwrap_or_clone(params),
        spans,
        dropped,
        source: Arc::clone(source),
        filter_span: filter.span,
    })
}

/// Every element of a binding with its attributes. What libvirt calls a back end is of no concern here.
const ELEMENTS: &[(&str, &[&str])] = &[
    ("owner", &[]),
    ("portdev", &["name"]),
    ("linkdev", &["name"]),
    ("mac", &["address"]),
    ("filterref", &["filter"]),
    ("backend", &["name"]),
];

fn warn_of_strangers(root: Element<'_>, faults: &mut Faults) {
    unknown_attributes(root, &[], Severity::Warning, faults);
    let names: Vec<&str> = ELEMENTS.iter().map(|(name, _)| *name).collect();
    names.iter().for_each(|name| refuse_second(root, name, faults));
    if let Some(owner) = root.child("owner") {
        ["name", "uuid"].iter().for_each(|name| refuse_second(owner, name, faults));
    }
    for child in root.children() {
        match ELEMENTS.iter().find(|(name, _)| *name == child.name()) {
            Some((_, attributes)) => unknown_attributes(child, attributes, Severity::Warning, faults),
            None => unknown_element(child, &names, Severity::Warning, faults),
        }
    }
}

/// An attribute of a child, which must be there and not be empty.
fn attribute<'a>(
    root: Element<'a>,
    child: &str,
    name: &str,
    what: &str,
    faults: &mut Faults,
) -> Option<XmlAttribute<'a>> {
    let element = root.child(child);
    let found = element.and_then(|element| element.attribute(name)).filter(|found| !found.value.is_empty());
    if found.is_none() {
        faults.push(absent(element.unwrap_or(root), what, &format!("<{child} {name}='...'/>")));
    }
    found
}

/// A child of `<owner>`, which must be there and not be empty.
fn owner<'a>(root: Element<'a>, child: &str, what: &str, faults: &mut Faults) -> Option<Element<'a>> {
    let owner = root.child("owner");
    let found = owner.and_then(|owner| owner.child(child)).filter(|found| !found.text().is_empty());
    if found.is_none() {
        let expected = format!("<owner> with <{child}>...</{child}>");
        faults.push(absent(owner.unwrap_or(root), what, &expected));
    }
    found
}

fn absent(element: Element<'_>, what: &str, expected: &str) -> Diagnostic {
    Diagnostic::error(Code::INTERNAL, format!("filter binding has no {what}"))
        .at(element.place(element.name_span()), format!("expected {expected}"))
}

fn checked(root: Element<'_>, portdev: XmlAttribute<'_>, faults: &mut Faults) -> Option<String> {
    if let Some(message) = portdev_fault(portdev.value) {
        let label = format!("expected a name of up to {PORTDEV_BYTES} bytes");
        faults.push(Diagnostic::error(Code::INVALID_ARG, message).at(root.place(portdev.span), label));
        return None;
    }
    Some(portdev.value.to_owned())
}

fn read_uuid(element: Element<'_>, faults: &mut Faults) -> Option<Uuid> {
    let text = element.text();
    let uuid = parse_uuid(&text);
    if uuid.is_none() {
        let place = element.place(element.content_span());
        let message = format!("Unable to parse UUID '{text}'");
        faults.push(Diagnostic::error(Code::INTERNAL, message).at(place, "expected 32 hexadecimal digits"));
    }
    uuid
}

fn read_mac(root: Element<'_>, entered: XmlAttribute<'_>, faults: &mut Faults) -> Option<Mac> {
    let mac = entered.value.parse().ok();
    if mac.is_none() {
        let message = format!("Unable to parse MAC '{}'", entered.value);
        let label = "expected an address such as 52:54:00:12:34:56";
        faults.push(Diagnostic::error(Code::INTERNAL, message).at(root.place(entered.span), label));
    }
    mac
}
