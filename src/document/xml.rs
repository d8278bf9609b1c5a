//! A cursor over an XML document that keeps the place of everything, and the escaping of what we print.
//!
//! Documents come from strangers: size, depth, attributes, namespaces and elements are limited, a DOCTYPE
//! that declares entities or attributes is refused,
//! and what is not well-formed becomes a [`Diagnostic`] with libvirt's code. It does not know filters.

mod decode;
pub(crate) mod print;
mod scan;

use decode::NO_TEXT;
pub use decode::decode;

use crate::document::diag::{Code, Diagnostic};
use crate::document::span::{Place, Source, Span};
use roxmltree::{Error, Node, NodeType, ParsingOptions};
use scan::Excess;
use std::sync::Arc;

/// A document has at most this many bytes, as many as a string of libvirt's protocol.
pub const BYTES: usize = 4 << 20;

/// Elements are nested at most this deep.
pub const DEPTH: usize = 16;

/// An element has at most this many attributes.
pub const ATTRIBUTES: usize = 64;

/// A document declares at most this many namespaces. Ours have none.
pub const NAMESPACES: usize = 64;

/// A document has at most this many elements, texts and comments.
pub const NODES: u32 = 200_000;

/// A parsed document; elements borrow from it.
pub struct Document<'a> {
    tree: roxmltree::Document<'a>,
    source: &'a Arc<Source>,
}

/// An element of a document.
#[derive(Clone, Copy)]
pub struct Element<'a> {
    node: Node<'a, 'a>,
    source: &'a Arc<Source>,
}

/// An attribute of an element.
#[derive(Clone, Copy)]
pub struct XmlAttribute<'a> {
    /// Its name; an attribute with a namespace is none of ours and has its prefix.
    pub name: &'a str,
    /// Its value, entities resolved.
    pub value: &'a str,
    /// Of the value, without the quotes.
    pub span: Span,
    /// Of the name.
    pub name_span: Span,
}

impl<'a> Document<'a> {
    /// Parses a document.
    ///
    /// Fails where it is not well-formed, has a DOCTYPE that would change its text, or exceeds a limit.
    pub fn parse(source: &'a Arc<Source>) -> Result<Document<'a>, Diagnostic> {
        within_bytes(source)?;
        without_declarations(source)?;
        within_limits(source)?;
        let options = ParsingOptions { allow_dtd: true, nodes_limit: NODES, ..ParsingOptions::default() };
        let tree = roxmltree::Document::parse_with_options(&source.text, options)
            .map_err(|error| not_well_formed(source, &error))?;
        Ok(Document { tree, source })
    }

    /// The root element, which must have this name.
    pub fn root(&'a self, name: &str) -> Result<Element<'a>, Diagnostic> {
        let root = Element { node: self.tree.root_element(), source: self.source };
        if root.name() == name {
            return Ok(root);
        }
        let message = format!("expecting root element of '{name}', not '{}'", root.name());
        Err(Diagnostic::error(Code::XML_ERROR, message)
            .at(root.place(root.name_span()), format!("expected <{name}>")))
    }
}

impl<'a> Element<'a> {
    /// Its name, without a prefix.
    pub fn name(self) -> &'a str {
        self.node.tag_name().name()
    }

    /// Its namespace, which ours have not.
    pub fn namespace(self) -> Option<&'a str> {
        self.node.tag_name().namespace()
    }

    /// Its child elements in order.
    pub fn children(self) -> impl Iterator<Item = Element<'a>> {
        self.node.children().filter(Node::is_element).map(move |node| Element { node, source: self.source })
    }

    /// The first child element of this name.
    pub fn child(self, name: &str) -> Option<Element<'a>> {
        self.children().find(|child| child.name() == name)
    }

    /// Its attributes in order.
    pub fn attributes(self) -> impl Iterator<Item = XmlAttribute<'a>> {
        self.node.attributes().map(move |attribute| {
            let qualified = attribute.range_qname();
            XmlAttribute {
                name: &self.source.text[qualified.clone()],
                value: attribute.value(),
                span: Span::new(attribute.range_value()),
                name_span: Span::new(qualified),
            }
        })
    }

    /// The attribute of this name.
    pub fn attribute(self, name: &str) -> Option<XmlAttribute<'a>> {
        self.attributes().find(|attribute| attribute.name == name)
    }

    /// All text in it, that of its descendants included.
    pub fn text(self) -> String {
        self.node.descendants().filter(Node::is_text).filter_map(|node| node.text()).collect()
    }

    /// The first text between its children that is no white space, and where it stands.
    pub fn stray_text(self) -> Option<Span> {
        let stray = |node: &Node| {
            node.node_type() == NodeType::Text
                && node.text().is_some_and(|text| !text.trim_matches([' ', '\t', '\r', '\n']).is_empty())
        };
        self.node.children().find(stray).map(|node| Span::new(node.range()))
    }

    /// Of the whole element.
    pub fn span(self) -> Span {
        Span::new(self.node.range())
    }

    /// Of its name in the start tag.
    pub fn name_span(self) -> Span {
        let start = self.node.range().start + 1;
        let rest = &self.source.text[start..];
        let ends = |c: char| c.is_ascii_whitespace() || c == '>' || c == '/';
        Span::new(start..start + rest.find(ends).unwrap_or(rest.len()))
    }

    /// Of what is between its tags; of its name where there is nothing.
    pub fn content_span(self) -> Span {
        match (self.node.first_child(), self.node.last_child()) {
            (Some(first), Some(last)) => Span::new(first.range().start..last.range().end),
            _ => self.name_span(),
        }
    }

    /// A span of its document, as a place.
    pub fn place(self, span: Span) -> Place {
        Place { source: Arc::clone(self.source), span }
    }
}

fn limit(message: String) -> Diagnostic {
    Diagnostic::error(Code::XML_DETAIL, message)
}

fn within_bytes(source: &Source) -> Result<(), Diagnostic> {
    if source.text.len() <= BYTES {
        return Ok(());
    }
    Err(limit(format!("{} is larger than {BYTES} bytes", source.name))
        .help("split it into several documents"))
}

fn within_limits(source: &Arc<Source>) -> Result<(), Diagnostic> {
    scan::within_limits(&source.text).map_err(|(excess, at)| {
        let (message, label) = match excess {
            Excess::Depth => {
                (format!("elements are nested deeper than {DEPTH} levels"), "one level too many")
            }
            Excess::Attributes => {
                (format!("an element has more than {ATTRIBUTES} attributes"), "one attribute too many")
            }
            Excess::Namespaces => {
                (format!("a document declares more than {NAMESPACES} namespaces"), "one namespace too many")
            }
        };
        limit(message).at(Place { source: Arc::clone(source), span: Span::new(at..at + 1) }, label)
    })
}

/// What a DOCTYPE declares can change what a document says; its name and that of its grammar cannot.
fn without_declarations(source: &Arc<Source>) -> Result<(), Diagnostic> {
    let text = &source.text;
    let Some(doctype) = text.find("<!DOCTYPE") else { return Ok(()) };
    let Some(found) = ["<!ENTITY", "<!ATTLIST"].iter().filter_map(|word| text[doctype..].find(word)).min()
    else {
        return Ok(());
    };
    let at = doctype + found;
    let row = text[..at].matches('\n').count() + 1;
    let place = Place { source: Arc::clone(source), span: Span::new(at..at) };
    let help = "remove it; entities other than &lt; &gt; &amp; &quot; &apos; are not supported";
    let message = format!("at line {row}: a DOCTYPE with entities or attributes is not allowed");
    Err(limit(message).at(place, "not allowed").help(help))
}

fn not_well_formed(source: &Arc<Source>, error: &Error) -> Diagnostic {
    let (row, offset) = position(source, error);
    let place = Place { source: Arc::clone(source), span: Span::new(offset..offset) };
    let (message, label, help) = match error {
        _ if source.text[offset..].starts_with(NO_TEXT) => {
            let help = "save it as UTF-8, or name its encoding at its beginning: <?xml version='1.0' encoding='ISO-8859-1'?>";
            ("this is no text in the encoding of the document".to_owned(), "no text", Some(help))
        }
        Error::NodesLimitReached => (format!("more than {NODES} elements, texts and comments"), "", None),
        other => (other.to_string(), "not well-formed XML from here on", None),
    };
    let diagnostic =
        Diagnostic::error(Code::XML_DETAIL, format!("at line {row}: {message}")).at(place, label);
    help.into_iter().fold(diagnostic, Diagnostic::help)
}

/// Line and byte offset of an error. Errors that have no position of their own concern the document's
/// end, or its DOCTYPE.
fn position(source: &Source, error: &Error) -> (usize, usize) {
    let text = &source.text;
    let offset = match error {
        Error::NoRootNode | Error::UnclosedRootNode | Error::UnexpectedEndOfStream => end_of(text),
        Error::NodesLimitReached | Error::AttributesLimitReached | Error::NamespacesLimitReached => 0,
        _ => offset_of(text, error.pos()),
    };
    (text[..offset].matches('\n').count() + 1, offset)
}

/// Where a document that is too short ends: at its last tag where that is not closed, else behind its last word.
fn end_of(text: &str) -> usize {
    let end = text.trim_end().len();
    text[..end].rfind('<').filter(|tag| !text[*tag..].contains('>')).unwrap_or(end)
}

fn offset_of(text: &str, position: roxmltree::TextPos) -> usize {
    let line =
        text.split_inclusive('\n').take(position.row.saturating_sub(1) as usize).map(str::len).sum::<usize>();
    let column = position.col.saturating_sub(1) as usize;
    line + text[line..].char_indices().nth(column).map_or(text.len() - line, |(offset, _)| offset)
}
