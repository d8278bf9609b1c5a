//! Where something stands: byte ranges of a document, and the document itself.
//!
//! A [`Span`] is only a range; [`Source`] is the text it points into. A [`Place`] is both, and is what
//! compiled rules carry so that a refusal of the kernel leads back to a line of XML.

use std::ops::Range;
use std::sync::Arc;

/// A byte range of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Span {
    /// First byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
}

/// A document: what people call it (a file name, mostly) and its text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source {
    /// What the document is called in messages.
    pub name: String,
    /// All of its text.
    pub text: String,
}

/// A span of a document that travels on its own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The document.
    pub source: Arc<Source>,
    /// The range in it.
    pub span: Span,
}

impl Span {
    /// The span of a byte range; documents are far smaller than 4 GiB, a larger offset is cut off.
    pub fn new(range: Range<usize>) -> Span {
        let at = |offset: usize| u32::try_from(offset).unwrap_or(u32::MAX);
        Span { start: at(range.start), end: at(range.end) }
    }

    /// The range as slices want it.
    pub fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

impl Source {
    /// A document with its name.
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Arc<Source> {
        Arc::new(Source { name: name.into(), text: text.into() })
    }

    /// Line and column of a byte, both from 1; the column counts characters.
    pub fn line_column(&self, offset: u32) -> (usize, usize) {
        let mut end = (offset as usize).min(self.text.len());
        while !self.text.is_char_boundary(end) {
            end -= 1;
        }
        let before = &self.text[..end];
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        (line, column)
    }
}

impl Place {
    /// `file.xml:3:5`.
    pub fn line_column(&self) -> String {
        let (line, column) = self.source.line_column(self.span.start);
        format!("{}:{line}:{column}", self.source.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_columns_count_from_one_and_in_characters() {
        let source = Source::new("f.xml", "ä\nbc");
        assert_eq!(source.line_column(0), (1, 1));
        assert_eq!(source.line_column(1), (1, 1), "inside of a character");
        assert_eq!(source.line_column(2), (1, 2));
        assert_eq!(source.line_column(4), (2, 2));
        assert_eq!(source.line_column(99), (2, 3));
    }
}
