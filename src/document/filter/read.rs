//! XML to [`Filter`], driven by the table in [`schema`](super::schema).
//!
//! Takes what libvirt takes and says so in a warning where libvirt would be silent. What libvirt leaves out, so that a rule
//! means more than was written, is reported as unenforced and stays with the filter, so that it is refused where it is bound.
//! All faults of a document come at once, each with its place; the first error is the one that libvirt would report.
//! Whether a rule can be enforced is not asked here.

mod chain;
mod meant;
mod rule;
mod unknown;

pub use unknown::{unknown_attributes, unknown_element};

use super::schema::Layer;
use super::{Entry, Filter, FilterRule, Include};
use crate::document::diag::{Code, Diagnostic, Faults, Severity};
use crate::document::span::{Source, Span};
use crate::document::strtoul;
use crate::document::vars::{self, Vars};
use crate::document::xml::{Document, Element, XmlAttribute};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::sync::Arc;
use uuid::Uuid;

/// What a filter or rule may have for a priority.
pub const PRIORITIES: RangeInclusive<i32> = -1000..=1000;

/// A filter has at most this many rules and references.
pub const ENTRIES: usize = 16_384;

/// So many faults stay with a filter that is taken without what they are about.
const UNENFORCED: usize = 16;

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

/// Reads a filter, and reports what a reader of the document should know although it is taken; what it leaves
/// out is among that.
///
/// Fails with every fault of the document, errors and warnings together.
pub fn read(source: &Arc<Source>) -> Result<(Filter, Vec<Diagnostic>), Vec<Diagnostic>> {
    let document = Document::parse(source).map_err(|fault| vec![fault])?;
    let root = document.root("filter").map_err(|fault| vec![fault])?;
    let mut faults = Faults::default();
    let filter = read_filter(root, source, &mut faults);
    let refused = faults.has_errors();
    let faults = Vec::from(faults);
    match filter {
        Some(filter) if !refused => {
            let unenforced = unenforced(&filter, &faults);
            Ok((Filter { unenforced, ..filter }, faults))
        }
        _ => Err(faults),
    }
}

/// What no rule would enforce; a parameter that was dropped is missed only where some rule reads it.
fn unenforced(filter: &Filter, faults: &[Diagnostic]) -> Vec<Diagnostic> {
    let dropped: BTreeSet<&Diagnostic> = filter.dropped().collect();
    let unenforced = faults.iter().filter(|fault| fault.severity == Severity::Unenforced);
    unenforced.filter(|fault| !dropped.contains(fault)).take(UNENFORCED).cloned().collect()
}

/// Why a text cannot be a filter's name; none where it can.
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

fn read_filter(root: Element<'_>, source: &Arc<Source>, faults: &mut Faults) -> Option<Filter> {
    unknown_attributes(root, &["name", "chain", "priority"], Severity::Unenforced, faults);
    unknown::unread_text(root, faults);
    let name = read_name(root, faults);
    let entered = read_chain_priority(root, faults);
    let chain = read_chain(root, faults);
    let uuid = read_uuid(root, faults);
    let entries = read_entries(root, faults);
    chain.iter().flatten().for_each(|(name, _)| faults.extend(chain::strays(root, name, &entries)));
    faults.extend(bare_rule(root, &entries));
    let chain = chain?;
    let priority = chain.as_ref().map(|(_, default)| entered.unwrap_or(*default));
    Some(Filter {
        name: name?,
        chain: chain.map_or_else(|| "root".to_owned(), |(name, _)| name),
        priority: priority.unwrap_or(0),
        uuid,
        entries,
        unenforced: Vec::new(),
        source: Arc::clone(source),
    })
}

fn read_name(root: Element<'_>, faults: &mut Faults) -> Option<String> {
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

fn read_chain_priority(root: Element<'_>, faults: &mut Faults) -> Option<i32> {
    let entered = filled(root, "priority")?;
    let place = root.place(entered.span);
    let Some(priority) = strtoul::signed(entered.value) else {
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
fn read_chain(root: Element<'_>, faults: &mut Faults) -> Option<Option<(String, i32)>> {
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
    let prefixes: Vec<&str> = CHAINS.iter().map(|(prefix, _)| *prefix).collect();
    match default_priority(chain) {
        Some(default) => Ok(default),
        None => Err(format!(
            "Invalid chain name '{chain}'. Please use a chain name called 'root' or any of the following \
             prefixes: {}",
            prefixes.join(", ")
        )),
    }
}

/// The priority of a chain whose filter names none; none where a chain cannot have this name.
pub(super) fn default_priority(chain: &str) -> Option<i32> {
    let kind = CHAINS.iter().find(|(prefix, _)| chain.starts_with(prefix));
    if chain == "root" { Some(0) } else { kind.map(|(_, default)| *default) }
}

fn rules(entries: &[Entry]) -> impl Iterator<Item = &FilterRule> {
    entries.iter().filter_map(|entry| match entry {
        Entry::Rule(rule) => Some(&**rule),
        Entry::Include(_) => None,
    })
}

fn layer(rule: &FilterRule) -> Option<Layer> {
    rule.protocol.map(|protocol| protocol.layer)
}

/// A rule that accepts every frame of its chain beside rules of the IP layer is seldom meant.
fn bare_rule(root: Element<'_>, entries: &[Entry]) -> Option<Diagnostic> {
    let accepts =
        |rule: &Element<'_>| rule.attribute("action").is_some_and(|action| action.value == "accept");
    let is_bare = |rule: &Element<'_>| rule.name() == "rule" && rule.children().next().is_none();
    let bare = root.children().filter(is_bare).find(accepts)?;
    let in_ip_layer = |rule: &FilterRule| layer(rule).is_some_and(|layer| layer != Layer::Ethernet);
    rules(entries).any(in_ip_layer).then(|| {
        Diagnostic::warning(
            "a rule without a protocol takes every frame of its chain, before any rule of the IP layer",
        )
        .at(bare.place(bare.span()), "accepts every frame at the Ethernet layer")
    })
}

/// Refuses what libvirt overlooks: a second element where one is read.
pub fn refuse_second(root: Element<'_>, name: &str, faults: &mut Faults) {
    faults.extend(root.children().filter(|child| child.name() == name).nth(1).map(|second| {
        Diagnostic::error(Code::XML_ERROR, format!("<{}> has a second <{name}>", root.name()))
            .at(second.place(second.name_span()), "only the first would be read")
            .help("delete one of them")
    }));
}

fn read_uuid(root: Element<'_>, faults: &mut Faults) -> Option<Uuid> {
    refuse_second(root, "uuid", faults);
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

fn read_entries(root: Element<'_>, faults: &mut Faults) -> Vec<Entry> {
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
            _ => unknown_element(child, &["rule", "filterref", "uuid"], Severity::Unenforced, faults),
        }
    }
    entries
}

fn read_include(element: Element<'_>, faults: &mut Faults) -> Option<Include> {
    unknown_attributes(element, &["filter"], Severity::Warning, faults);
    unknown::unread_text(element, faults);
    let params = read_params(element, faults);
    let Some(filter) = element.attribute("filter") else {
        faults.push(missing(element, "filter"));
        return None;
    };
    Some(Include { filter: filter.value.to_owned(), params, span: filter.span })
}

/// The parameters that an element gives to a filter.
#[derive(Clone, Debug, Default)]
pub struct Params {
    /// The variables, which every scope below shares.
    pub vars: Arc<Vars>,
    /// Where each stands: its last value.
    pub spans: BTreeMap<String, Span>,
    /// Those that libvirt drops in silence, by name.
    pub dropped: Vec<(String, Diagnostic)>,
}

/// The `<parameter>` children of an element. libvirt drops a bad one in silence; here it is reported as unenforced.
pub fn read_params(element: Element<'_>, faults: &mut Faults) -> Params {
    let mut params = Params::default();
    for child in element.children() {
        if child.name() != "parameter" {
            unknown_element(child, &["parameter"], Severity::Unenforced, faults);
            continue;
        }
        unknown_attributes(child, &["name", "value"], Severity::Warning, faults);
        let attributes = (child.attribute("name"), child.attribute("value"));
        match attributes {
            (Some(name), Some(value)) if vars::is_name(name.value) && vars::is_value(value.value) => {
                Arc::make_mut(&mut params.vars).push(name.value, value.value);
                params.spans.insert(name.value.to_owned(), value.span);
            }
            (name, _) => {
                let fault = dropped_parameter(child, attributes);
                let name = name.map_or("", |name| name.value).to_owned();
                params.dropped.push((name, fault.clone()));
                faults.push(fault);
            }
        }
    }
    params
}

fn dropped_parameter(
    child: Element<'_>,
    (name, value): (Option<XmlAttribute<'_>>, Option<XmlAttribute<'_>>),
) -> Diagnostic {
    let bad_name = name.filter(|name| !vars::is_name(name.value));
    let (span, label) = match (bad_name, value) {
        (Some(name), _) => (name.span, "a name has letters, digits and _ only"),
        (None, Some(value)) if name.is_some() => (value.span, "a value has letters, digits, and _ . : only"),
        _ => (child.name_span(), "a parameter has a name and a value"),
    };
    let message = match name {
        Some(name) => format!("the parameter '{}' is ignored", name.value.escape_debug()),
        None => "a parameter without a name is ignored".to_owned(),
    };
    let diagnostic = Diagnostic::unenforced(message).at(child.place(span), label);
    match value.map(|value| value.value).and_then(instead) {
        Some(help) if bad_name.is_none() => diagnostic.help(help),
        _ => diagnostic,
    }
}

/// How to say what a value with characters of its own was meant to say.
fn instead(value: &str) -> Option<&'static str> {
    let help = match value {
        _ if value.contains('/') => "a variable holds single addresses; the mask is an attribute of the rule",
        _ if value.contains(',') || value.contains(' ') => "a list is several parameters of one name",
        _ if value.contains('-') => "write a MAC address with colons, and a range as two variables",
        _ => return None,
    };
    Some(help)
}

/// The attribute, unless it is empty, which for some is as good as absent.
fn filled<'a>(element: Element<'a>, name: &str) -> Option<XmlAttribute<'a>> {
    element.attribute(name).filter(|attribute| !attribute.value.is_empty())
}

fn missing(element: Element<'_>, attribute: &str) -> Diagnostic {
    let message = format!("Missing required attribute '{attribute}' in element '{}'", element.name());
    Diagnostic::error(Code::XML_ERROR, message)
        .at(element.place(element.name_span()), format!("expected an attribute {attribute}='...'"))
}
