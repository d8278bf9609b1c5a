//! [`Filter`] to XML, byte for byte as libvirt prints it.
//!
//! Attributes come in the table's order, first the positive ones in one element, then the negated ones
//! in another. Unlike libvirt's, a name that needs escaping is escaped.

use super::value::print;
use super::{Entry, Filter, Include, Match, Rule};
use crate::document::vars::Vars;
use crate::document::xml::{Document, escape};
use std::fmt::Write;

/// The document that dumpxml shows.
pub fn write(filter: &Filter) -> String {
    let mut text = format!("<filter name='{}' chain='{}'", escape(&filter.name), escape(&filter.chain));
    if filter.priority != 0 {
        push(&mut text, format_args!(" priority='{}'", filter.priority));
    }
    text.push_str(">\n");
    if let Some(uuid) = filter.uuid {
        push(&mut text, format_args!("  <uuid>{uuid}</uuid>\n"));
    }
    for entry in &filter.entries {
        match entry {
            Entry::Rule(rule) => write_rule(&mut text, rule),
            Entry::Include(include) => write_include(&mut text, include),
        }
    }
    text.push_str("</filter>\n");
    text
}

/// The same as a configuration file, under a comment that tells people where to edit it.
pub fn file_text(filter: &Filter) -> String {
    // Two hyphens would end the comment, and an odd name would mislead a shell.
    let safe = |b: u8| b.is_ascii_alphanumeric() || b"_./:@%+,-".contains(&b);
    let plain = filter.name.bytes().all(safe) && !filter.name.contains("--") && !filter.name.starts_with('-');
    let uuid = filter.uuid.map(|uuid| uuid.to_string());
    let called = if plain { &filter.name } else { uuid.as_ref().unwrap_or(&filter.name) };
    let header = file_header(&format!("nwfilter-edit {}", comment_safe(called)));
    // What no rule enforces must be found again when the file is read.
    let text =
        as_entered(filter).filter(|_| filter.left_out().next().is_some()).unwrap_or_else(|| write(filter));
    header + &text
}

/// The `<filter>` element in the words of its document, with the UUID that it has got.
fn as_entered(filter: &Filter) -> Option<String> {
    let document = Document::parse(&filter.source).ok()?;
    let root = document.root("filter").ok()?;
    let text = &filter.source.text[root.span().range()];
    let uuid = format!("<uuid>{}</uuid>", filter.uuid?);
    if let Some(own) = root.child("uuid") {
        let (own, start) = (own.span().range(), root.span().range().start);
        return Some(format!("{}{uuid}{}\n", &text[..own.start - start], &text[own.end - start..]));
    }
    let uuid = format!("\n  {uuid}");
    let (start, rest) = text.split_at(start_tag(text)?);
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
pub fn file_header(edit: &str) -> String {
    format!(
        "<!--\n\
         The daemon writes this file; what is edited here can be overwritten and lost.\n\
         To change it, use\n  virsh {edit}\n\
         or any other program that speaks libvirt's API.\n\
         -->\n\n"
    )
}

/// `<parameter>` elements, sorted by name, each value of a list in its turn.
pub fn parameters(params: &Vars, indent: &str) -> String {
    let mut text = String::new();
    for (name, values) in &params.0 {
        for value in values {
            let (name, value) = (escape(name), escape(value));
            push(&mut text, format_args!("{indent}<parameter name='{name}' value='{value}'/>\n"));
        }
    }
    text
}

/// A rule as it stands in the document; equal for rules that mean the same in the same words.
pub(crate) fn rule(rule: &Rule) -> String {
    let mut text = String::new();
    write_rule(&mut text, rule);
    text
}

fn write_rule(text: &mut String, rule: &Rule) {
    let (action, direction) = (rule.action.name(), rule.direction.name());
    let priority = rule.priority;
    push(text, format_args!("  <rule action='{action}' direction='{direction}' priority='{priority}'"));
    if !rule.statematch {
        text.push_str(" statematch='false'");
    }
    let Some(protocol) = rule.protocol else {
        text.push_str("/>\n");
        return;
    };
    text.push_str(">\n");
    if rule.matches.is_empty() {
        push(text, format_args!("    <{}/>\n", protocol.name));
    }
    for negated in [false, true] {
        write_matches(text, protocol.name, negated, &rule.matches);
    }
    text.push_str("  </rule>\n");
}

fn write_matches(text: &mut String, protocol: &str, negated: bool, matches: &[Match]) {
    let mut chosen = matches.iter().filter(|found| found.negated == negated).peekable();
    if chosen.peek().is_none() {
        return;
    }
    push(text, format_args!("    <{protocol}{}", if negated { " match='no'" } else { "" }));
    for Match { attribute, value, .. } in chosen {
        let value = print(attribute.kind, value);
        push(text, format_args!(" {}='{}'", attribute.name, escape(&value)));
    }
    text.push_str("/>\n");
}

fn write_include(text: &mut String, include: &Include) {
    push(text, format_args!("  <filterref filter='{}'", escape(&include.filter)));
    if include.params.vars.0.is_empty() {
        text.push_str("/>\n");
        return;
    }
    push(text, format_args!(">\n{}  </filterref>\n", parameters(&include.params.vars, "    ")));
}

/// No text ends the comment it stands in.
fn comment_safe(text: &str) -> String {
    text.replace("--", "- -")
}

fn push(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    text.write_fmt(arguments).expect("a String takes every text");
}
