//! Elements → text, laid out and quoted as libvirt does.
//!
//! Each element begins a line of its own, two spaces deeper than its parent; one that holds text stands on one line. Attributes
//! keep the order in which they were added. What is printed reads as it was: white space that a reader would take for a blank or for
//! another line break is written by its number, which libvirt's printer does not do.

use std::fmt::Write;
use xmltree::{Element, XMLNode};

/// An element with these attributes.
pub fn element(name: &str, attributes: &[(&str, &str)]) -> Element {
    let mut element = Element::new(name);
    for (name, value) in attributes {
        set(&mut element, name, value);
    }
    element
}

/// Gives an element an attribute, after those that it has.
pub fn set(element: &mut Element, name: &str, value: &str) {
    element.attributes.insert(name.into(), value.into());
}

/// Puts an element into another, after those that are there.
pub fn add(parent: &mut Element, child: Element) {
    parent.children.push(XMLNode::Element(child));
}

/// An element that holds nothing but text.
pub fn text(name: &str, text: &str) -> Element {
    let mut element = Element::new(name);
    element.children.push(XMLNode::Text(text.into()));
    element
}

/// The text of an element that stands at this depth.
pub fn print(element: &Element, depth: usize) -> String {
    let mut out = String::new();
    print_into(&mut out, element, depth);
    out
}

/// The text of a document: a comment, an empty line, and its element.
pub fn print_below(comment: &str, element: &str) -> String {
    format!("<!--\n{comment}-->\n\n{element}")
}

fn print_into(out: &mut String, element: &Element, depth: usize) {
    let (name, indent) = (&element.name, "  ".repeat(depth));
    push(out, format_args!("{indent}<{name}"));
    for (name, value) in &element.attributes {
        push(out, format_args!(" {name}='{}'", escape(value, PrintedAs::Attribute)));
    }
    match element.children.as_slice() {
        [] => out.push_str("/>\n"),
        [XMLNode::Text(text)] => {
            push(out, format_args!(">{}</{name}>\n", escape(text, PrintedAs::Text)));
        }
        children => {
            out.push_str(">\n");
            for child in children.iter().filter_map(XMLNode::as_element) {
                print_into(out, child, depth + 1);
            }
            push(out, format_args!("{indent}</{name}>\n"));
        }
    }
}

/// Where a text stands, which decides what its white space is read as.
#[derive(Clone, Copy, PartialEq, Eq)]
enum PrintedAs {
    /// Every white space is read as a blank.
    Attribute,
    /// Between tags: a carriage return is read as a line feed.
    Text,
}

/// A text as it stands in an attribute or between tags.
fn escape(text: &str, printed_as: PrintedAs) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&apos;"),
            '\r' => escaped.push_str("&#13;"),
            '\n' if printed_as == PrintedAs::Attribute => escaped.push_str("&#10;"),
            '\t' if printed_as == PrintedAs::Attribute => escaped.push_str("&#9;"),
            _ => escaped.push(c),
        }
    }
    escaped
}

fn push(out: &mut String, arguments: std::fmt::Arguments<'_>) {
    out.write_fmt(arguments).expect("a String takes every text");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_and_indents_like_libvirt() {
        let mut filter = element("filter", &[("name", "a'b\"<&>\r\n\t"), ("chain", "root")]);
        add(&mut filter, text("uuid", "x\r\n\t<"));
        let mut rule = element("rule", &[("action", "drop")]);
        add(&mut rule, element("all", &[]));
        add(&mut filter, rule);
        let expected = "  <filter name='a&apos;b&quot;&lt;&amp;&gt;&#13;&#10;&#9;' chain='root'>\n    <uuid>x&#13;\n\t&lt;</uuid>\n    \
                        <rule action='drop'>\n      <all/>\n    </rule>\n  </filter>\n";
        assert_eq!(print(&filter, 1), expected);
    }
}
