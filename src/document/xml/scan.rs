//! A look at a document before it is parsed: its tags to whether they keep to the limits.
//!
//! The parser compares the attributes of an element with each other, and the namespaces of an element with all of those
//! around it. What that costs is bounded before it sees the document. A document that is not well-formed may be cut
//! into other tags than the parser would find, but not before the place at which the parser gives up.

use super::{ATTRIBUTES, DEPTH, NAMESPACES};

/// What a document has too much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Excess {
    Depth,
    Attributes,
    Namespaces,
}

/// What ends a markup that is not a tag, by how it begins.
const OTHERS: [(&str, &str); 4] = [("<!--", "-->"), ("<![CDATA[", "]]>"), ("<?", "?>"), ("<!", ">")];
const DOCTYPE: &str = "<!DOCTYPE";

#[derive(Default)]
struct Scan {
    depth: usize,
    namespaces: usize,
}

/// Where a document exceeds a limit first, and which.
pub(super) fn within_limits(text: &str) -> Result<(), (Excess, usize)> {
    let (mut scan, mut at) = (Scan::default(), 0);
    while let Some(start) = text[at..].find('<') {
        at += start;
        let markup = &text[at..];
        at += match OTHERS.iter().find(|(open, _)| markup.starts_with(open)) {
            _ if markup.starts_with(DOCTYPE) => doctype(markup),
            Some((_, close)) => markup.find(close).map_or(markup.len(), |end| end + close.len()),
            None => scan.tag(markup).map_err(|(excess, offset)| (excess, at + offset))?,
        };
    }
    Ok(())
}

/// The length of a DOCTYPE up to what it declares, or to its end.
fn doctype(markup: &str) -> usize {
    let mut quote = None;
    for (at, byte) in markup.bytes().enumerate() {
        match (quote, byte) {
            (None, b'>' | b'[') => return at + 1,
            (None, b'"' | b'\'') => quote = Some(byte),
            (Some(open), _) if open == byte => quote = None,
            _ => {}
        }
    }
    markup.len()
}

impl Scan {
    /// The length of a tag.
    fn tag(&mut self, tag: &str) -> Result<usize, (Excess, usize)> {
        let bytes = tag.as_bytes();
        let length = self.attributes(bytes)?;
        if bytes.get(1) == Some(&b'/') {
            self.depth = self.depth.saturating_sub(1);
        } else if !bytes[..length].ends_with(b"/>") {
            self.depth += 1;
        }
        // An empty element is one level more as well, as long as it lasts.
        let is_open = bytes.get(1) != Some(&b'/');
        let deepest = self.depth + usize::from(is_open && bytes[..length].ends_with(b"/>"));
        if deepest > DEPTH { Err((Excess::Depth, 1)) } else { Ok(length) }
    }

    /// The length of a tag, its attributes and the namespaces among them counted.
    fn attributes(&mut self, tag: &[u8]) -> Result<usize, (Excess, usize)> {
        let (mut attributes, mut quote) = (0, None);
        for (at, byte) in tag.iter().enumerate() {
            match (quote, *byte) {
                (None, b'>') => return Ok(at + 1),
                (None, b'"' | b'\'') => quote = Some(*byte),
                (Some(open), byte) if open == byte => quote = None,
                (None, b'=') if attributes == ATTRIBUTES => return Err((Excess::Attributes, at)),
                (None, b'=') => attributes += 1,
                (None, b'x') if is_namespace(tag, at) && self.namespaces == NAMESPACES => {
                    return Err((Excess::Namespaces, at));
                }
                (None, b'x') if is_namespace(tag, at) => self.namespaces += 1,
                _ => {}
            }
        }
        Ok(tag.len())
    }
}

/// Whether the name of an attribute begins here that declares a namespace.
fn is_namespace(tag: &[u8], at: usize) -> bool {
    tag[at..].starts_with(b"xmlns") && tag[..at].last().is_some_and(u8::is_ascii_whitespace)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_tag_counts_nothing() {
        let many = "a='' ".repeat(ATTRIBUTES + 1);
        for other in
            [format!("<!-- <a {many} -->"), format!("<![CDATA[<a {many}>]]>"), format!("<?a {many} > ?>")]
        {
            assert_eq!(within_limits(&format!("<f>{other}</f>")), Ok(()), "{other}");
        }
    }

    #[test]
    fn a_quote_outside_of_a_tag_hides_no_tag_behind_it() {
        let many = format!("<a {}/>", "a='' ".repeat(ATTRIBUTES + 1));
        let in_text = ["<?x \"?>", "<?x '?>", "<!-- ' -->", "<![CDATA[\"]]>", "'\"", "<?x > \"?>"];
        let before = in_text.map(|before| format!("<f>{before}{many}</f>"));
        let doctypes =
            ["SYSTEM \">'<a \"", "PUBLIC '\"><a ' \"\"", "[<!ELEMENT a ANY> <!-- ' --> <?x \"?>]", ""];
        let behind = doctypes.map(|doctype| format!("<!DOCTYPE f {doctype}>{many}"));
        for text in before.iter().chain(&behind) {
            let found = within_limits(text).map_err(|(excess, _)| excess);
            assert_eq!(found, Err(Excess::Attributes), "{text}");
        }
    }

    #[test]
    fn levels_are_counted_with_the_empty_element_in_them() {
        let nested = |inner: &str| format!("{}{inner}{}", "<a>".repeat(DEPTH), "</a>".repeat(DEPTH));
        assert_eq!(within_limits(&nested("")), Ok(()));
        assert_eq!(within_limits(&nested("<a/>")), Err((Excess::Depth, 3 * DEPTH + 1)));
        assert_eq!(within_limits(&nested("<a>")), Err((Excess::Depth, 3 * DEPTH + 1)));
        assert_eq!(within_limits(&"<a></a><a/>".repeat(2 * DEPTH)), Ok(()));
    }

    #[test]
    fn namespaces_are_counted_over_the_whole_document() {
        let all: String = (0..NAMESPACES).map(|n| format!("<a xmlns:b{n}='u{n}'/>")).collect();
        assert_eq!(within_limits(&all), Ok(()));
        let found = within_limits(&format!("{all}<a\nxmlns = 'u'/>")).map_err(|(excess, _)| excess);
        assert_eq!(found, Err(Excess::Namespaces));
        assert_eq!(within_limits(&"<a b='xmlns:a' cxmlns='1'/>".repeat(2 * NAMESPACES)), Ok(()));
    }
}
