//! Where something stands: byte ranges of a document, and the document itself.
//!
//! A [`Span`] is only a range; [`Source`] is the text it points into. A [`Place`] is both, and is what
//! compiled rules carry so that a refusal of the kernel leads back to a line of XML.

use std::cmp::Ordering;
use std::hash::{Hash, Hasher};
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
#[derive(Clone, Debug)]
pub struct Source {
    /// What the document is called in messages.
    pub name: String,
    /// All of its text.
    pub text: String,
    /// Line and column, both from 0, at the beginning of each block of the text.
    marks: Vec<(u32, u32)>,
}

/// The bytes of a text between two marks: what is read at most to find a line and a column.
const BLOCK: usize = 256;

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
        let (name, text) = (name.into(), text.into());
        let marks = marks(&text);
        Arc::new(Source { name, text, marks })
    }

    /// Line and column of a byte, both from 1; the column counts characters. It costs the same anywhere in the text.
    pub fn line_column(&self, offset: u32) -> (usize, usize) {
        let mut end = (offset as usize).min(self.text.len());
        while !self.text.is_char_boundary(end) {
            end -= 1;
        }
        let block = end / BLOCK;
        let (line, column) = self.text.as_bytes()[block * BLOCK..end].iter().fold(self.marks[block], step);
        (line as usize + 1, column as usize + 1)
    }
}

fn marks(text: &str) -> Vec<(u32, u32)> {
    let mut at = (0, 0);
    let next = |block: &[u8]| {
        at = block.iter().fold(at, step);
        at
    };
    std::iter::once((0, 0)).chain(text.as_bytes().chunks(BLOCK).map(next)).collect()
}

/// Line and column behind a byte. A character counts with its first.
fn step((line, column): (u32, u32), byte: &u8) -> (u32, u32) {
    match byte {
        b'\n' => (line + 1, 0),
        0x80..0xc0 => (line, column),
        _ => (line, column + 1),
    }
}

// Faults are sorted by their places, which are mostly of one document: its text is not compared with itself.
impl Ord for Source {
    fn cmp(&self, other: &Source) -> Ordering {
        if std::ptr::eq(self, other) {
            return Ordering::Equal;
        }
        (&self.name, &self.text).cmp(&(&other.name, &other.text))
    }
}

impl PartialOrd for Source {
    fn partial_cmp(&self, other: &Source) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Source {
    fn eq(&self, other: &Source) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Source {}

impl Hash for Source {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
        self.text.len().hash(state);
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
        assert_eq!(Source::new("f.xml", "").line_column(7), (1, 1));
    }

    #[test]
    fn lines_and_columns_equal_a_count_from_the_beginning() {
        let text: String = (0..600).map(|n| ["a", "ä", "\n", "😀", "bc\n"][n * n % 5]).collect();
        let source = Source::new("f.xml", text.as_str());
        for (offset, _) in text.char_indices() {
            let before = &text[..offset];
            let line = before.matches('\n').count() + 1;
            let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
            assert_eq!(source.line_column(offset as u32), (line, column), "{offset}");
        }
    }
}
