//! [`Filter`] to XML, byte for byte as libvirt prints it.
//!
//! Attributes come in the table's order, first the positive ones in one element, then the negated ones
//! in another. Unlike libvirt's, a name that needs escaping is escaped, and a chain's priority of 0 is printed where the chain would
//! have another without: what is printed reads as the same filter.

use super::read::default_priority;
use super::value;
use super::{AttributeTest, Entry, Filter, FilterRule, Include};
use crate::document::vars::Vars;
use crate::document::xml::Document;
use crate::document::xml::print::{add, element, print, print_below, set, text};
use xmltree::{Element, XMLNode};

/// The document that dumpxml shows.
pub fn write(filter: &Filter) -> String {
    let mut root = element("filter", &[("name", &filter.name), ("chain", &filter.chain)]);
    if filter.priority != 0 || default_priority(&filter.chain) != Some(0) {
        set(&mut root, "priority", &filter.priority.to_string());
    }
    if let Some(uuid) = filter.uuid {
        add(&mut root, text("uuid", &uuid.to_string()));
    }
    for entry in &filter.entries {
        match entry {
            Entry::Rule(rule) => add(&mut root, rule_element(rule)),
            Entry::Include(include) => add(&mut root, include_element(include)),
        }
    }
    // libvirt gives a filter an end tag of its own even where nothing is in it.
    if root.children.is_empty() {
        root.children.push(XMLNode::Text("\n".into()));
    }
    print(&root, 0)
}

/// The same as a configuration file, under a comment that says where to edit it.
pub fn file_text(filter: &Filter) -> String {
    // Two hyphens would end the comment, and an odd name would mislead a shell.
    let safe = |b: u8| b.is_ascii_alphanumeric() || b"_./:@%+,-".contains(&b);
    let plain = filter.name.bytes().all(safe) && !filter.name.contains("--") && !filter.name.starts_with('-');
    let uuid = filter.uuid.map(|uuid| uuid.to_string());
    let called = if plain { &filter.name } else { uuid.as_ref().unwrap_or(&filter.name) };
    let command = format!("nwfilter-edit {}", comment_safe(called));
    // What no rule enforces must be found again when the file is read.
    let left_out = filter.left_out().next().is_some();
    let entered = if left_out { as_entered(filter) } else { None };
    print_below(&file_comment(&command), &entered.unwrap_or_else(|| write(filter)))
}

/// The `<filter>` element in the words of its document, with the UUID that it has got.
fn as_entered(filter: &Filter) -> Option<String> {
    let document = Document::parse(&filter.source).ok()?;
    let root = document.root("filter").ok()?;
    let entered = &filter.source.text[root.span().range()];
    let uuid = print(&text("uuid", &filter.uuid?.to_string()), 0);
    let uuid = uuid.trim_end();
    if let Some(own) = root.child("uuid") {
        let (own, start) = (own.span().range(), root.span().range().start);
        return Some(format!("{}{uuid}{}\n", &entered[..own.start - start], &entered[own.end - start..]));
    }
    let uuid = format!("\n  {uuid}");
    let (start, rest) = entered.split_at(start_tag(entered)?);
    Some(match start.strip_suffix("/>") {
        Some(start) => format!("{start}>{uuid}\n</filter>\n"),
        None => format!("{start}{uuid}{rest}\n"),
    })
}

/// The length of the tag that an element begins with.
fn start_tag(element: &str) -> Option<usize> {
    let mut quote = None;
    let ends = |c: char| {
        match (quote, c) {
            (None, '"' | '\'') => quote = Some(c),
            (Some(open), _) if open == c => quote = None,
            _ => {}
        }
        quote.is_none() && c == '>'
    };
    Some(element.find(ends)? + 1)
}

/// The comment at the top of a file that the daemon writes; `edit` is the command of virsh to use instead.
pub(crate) fn file_comment(edit: &str) -> String {
    format!(
        "The daemon writes this file; what is edited here can be overwritten and lost.\n\
         To change it, use\n  virsh {edit}\n\
         or any other program that speaks libvirt's API.\n"
    )
}

/// Puts a `<parameter>` for each value of each variable into an element, sorted by name.
pub(crate) fn add_parameters(parent: &mut Element, params: &Vars) {
    for (name, values) in &params.0 {
        for value in values {
            add(parent, element("parameter", &[("name", name), ("value", value)]));
        }
    }
}

/// A rule as it stands in the document; equal for rules that mean the same in the same words.
pub(crate) fn rule(rule: &FilterRule) -> String {
    print(&rule_element(rule), 1)
}

fn rule_element(rule: &FilterRule) -> Element {
    let mut made = element("rule", &[("action", rule.action.name()), ("direction", rule.direction.name())]);
    set(&mut made, "priority", &rule.priority.to_string());
    if !rule.statematch {
        set(&mut made, "statematch", "false");
    }
    if let Some(protocol) = rule.protocol {
        protocol_elements(protocol.name, &rule.matches).into_iter().for_each(|child| add(&mut made, child));
    }
    made
}

/// What a rule matches, the positive attributes in one element and the negated ones in another.
fn protocol_elements(protocol: &str, matches: &[AttributeTest]) -> Vec<Element> {
    let (negated, positive): (Vec<&AttributeTest>, Vec<&AttributeTest>) =
        matches.iter().partition(|found| found.negated);
    let mut made = Vec::new();
    if !positive.is_empty() || negated.is_empty() {
        made.push(with_matches(element(protocol, &[]), &positive));
    }
    if !negated.is_empty() {
        made.push(with_matches(element(protocol, &[("match", "no")]), &negated));
    }
    made
}

fn with_matches(mut made: Element, matches: &[&AttributeTest]) -> Element {
    for AttributeTest { attribute, value, .. } in matches {
        set(&mut made, attribute.name, &value::print(attribute.kind, value));
    }
    made
}

fn include_element(include: &Include) -> Element {
    let mut made = element("filterref", &[("filter", &include.filter)]);
    add_parameters(&mut made, &include.params.vars);
    made
}

/// No text ends the comment it stands in.
fn comment_safe(text: &str) -> String {
    text.replace("--", "- -")
}
