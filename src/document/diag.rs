//! What is wrong with a document or a change, where, and what to do about it.
//!
//! Every pure stage returns all of its [`Diagnostic`]s at once. Where libvirt has an error code for the
//! fault, the diagnostic carries it, so that the daemon can answer as libvirt does.

use crate::document::span::Place;
use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};
use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// The document is taken; the reader should know something about it.
    Warning,
    /// libvirt takes the document and leaves this out of it, so that a rule means more than was written. The document can be
    /// kept, and is refused where it would be enforced.
    Unenforced,
    /// The document or the change is refused.
    Error,
}

/// The number and domain of a libvirt error (`virErrorNumber`, `virErrorDomain`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Code {
    /// `virErrorNumber`.
    pub number: i32,
    /// `virErrorDomain`.
    pub domain: i32,
}

/// One fault, with the place it was found at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Diagnostic {
    /// Error or warning.
    pub severity: Severity,
    /// libvirt's code for it; [`Code::INTERNAL`] where libvirt knows none better.
    pub code: Code,
    /// What is wrong, in one line.
    pub message: String,
    /// Where, if it has a place in a document.
    pub place: Option<Place>,
    /// What was expected at that place, printed under the text.
    pub label: String,
    /// What the reader can do about it.
    pub help: Option<String>,
}

/// Domain `VIR_FROM_NWFILTER`.
pub const NWFILTER: i32 = 33;
/// Domain `VIR_FROM_XML`.
pub const XML: i32 = 5;

impl Code {
    /// `VIR_ERR_INTERNAL_ERROR`: libvirt's code for most faults of a value or an instantiation.
    pub const INTERNAL: Code = Code { number: 1, domain: NWFILTER };
    /// `VIR_ERR_INVALID_ARG`.
    pub const INVALID_ARG: Code = Code { number: 8, domain: NWFILTER };
    /// `VIR_ERR_OPERATION_FAILED`.
    pub const OPERATION_FAILED: Code = Code { number: 9, domain: NWFILTER };
    /// `VIR_ERR_XML_ERROR` of the XML domain: a missing or bad attribute of an element.
    pub const XML_ERROR: Code = Code { number: 27, domain: XML };
    /// `VIR_ERR_PARSE_FAILED`.
    pub const PARSE_FAILED: Code = Code { number: 32, domain: NWFILTER };
    /// `VIR_ERR_XML_INVALID_SCHEMA`: not what the schema allows.
    pub const INVALID_SCHEMA: Code = Code { number: 92, domain: XML };
    /// `VIR_ERR_SYSTEM_ERROR`: a file, for one.
    pub const SYSTEM_ERROR: Code = Code { number: 38, domain: NWFILTER };
    /// `VIR_ERR_XML_DETAIL`: not well-formed.
    pub const XML_DETAIL: Code = Code { number: 35, domain: NWFILTER };
}

/// The faults of one document in the order in which they are found: the first [`Faults::MOST`], the first error in any
/// case, and how many more there are.
#[derive(Debug, Default)]
pub struct Faults {
    kept: Vec<Diagnostic>,
    is_refused: bool,
    more: usize,
}

impl Faults {
    /// So many are kept of one document.
    pub const MOST: usize = 1000;

    /// Adds one that was found. A document is refused where something that no rule would enforce is not kept: who asks
    /// whether it may be bound would not hear of it.
    pub fn push(&mut self, fault: Diagnostic) {
        let is_first_error = fault.severity == Severity::Error && !self.is_refused;
        if self.kept.len() < Faults::MOST || is_first_error {
            self.is_refused |= is_first_error;
            return self.kept.push(fault);
        }
        self.more += 1;
        if fault.severity == Severity::Unenforced {
            let message = format!("a document may have at most {} faults", Faults::MOST);
            self.push_error(Diagnostic { severity: Severity::Error, message, ..fault });
        }
    }

    fn push_error(&mut self, error: Diagnostic) {
        if !std::mem::replace(&mut self.is_refused, true) {
            self.kept.push(error);
        }
    }

    /// Whether the document is refused for them.
    pub fn has_errors(&self) -> bool {
        self.is_refused
    }

    /// Whether none was found.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }
}

impl Extend<Diagnostic> for Faults {
    fn extend<I: IntoIterator<Item = Diagnostic>>(&mut self, faults: I) {
        faults.into_iter().for_each(|fault| self.push(fault));
    }
}

impl From<Faults> for Vec<Diagnostic> {
    fn from(Faults { mut kept, more, .. }: Faults) -> Vec<Diagnostic> {
        if more > 0 {
            kept.push(Diagnostic::warning(format!("{more} more faults of this document are not listed")));
        }
        kept
    }
}

/// A message has at most so many bytes: what a document says in one place may be all of it.
const MESSAGE: usize = 1024;

/// The beginning of a text where it is longer than `most` bytes.
pub fn abridged(text: &str, most: usize) -> Cow<'_, str> {
    if text.len() <= most {
        return text.into();
    }
    let mut end = most;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}...", &text[..end]).into()
}

impl Diagnostic {
    /// An error without a place.
    pub fn error(code: Code, message: impl Into<String>) -> Diagnostic {
        Diagnostic {
            severity: Severity::Error,
            code,
            message: short(message.into()),
            place: None,
            label: String::new(),
            help: None,
        }
    }

    /// A warning without a place.
    pub fn warning(message: impl Into<String>) -> Diagnostic {
        Diagnostic { severity: Severity::Warning, ..Diagnostic::error(Code::INTERNAL, message) }
    }

    /// Without a place: what libvirt leaves out of a document.
    pub fn unenforced(message: impl Into<String>) -> Diagnostic {
        Diagnostic { severity: Severity::Unenforced, ..Diagnostic::error(Code::INTERNAL, message) }
    }

    /// The same, as a warning where it says what libvirt leaves out.
    pub fn tolerated(mut self) -> Diagnostic {
        if self.severity == Severity::Unenforced {
            self.severity = Severity::Warning;
        }
        self
    }

    /// The same, found at a place, with what was expected there.
    pub fn at(mut self, place: Place, label: impl Into<String>) -> Diagnostic {
        self.place = Some(place);
        self.label = short(label.into());
        self
    }

    /// The same, with a way out.
    pub fn help(mut self, help: impl Into<String>) -> Diagnostic {
        self.help = Some(short(help.into()));
        self
    }
}

impl Diagnostic {
    /// All of it in one line: what is wrong, where, what was expected there, and the way out.
    pub fn line(&self) -> String {
        let place = self.place.as_ref().map(Place::line_column);
        let label = Some(&self.label).filter(|label| !label.is_empty()).cloned();
        let more: Vec<String> = [place, label, self.help.clone()].into_iter().flatten().collect();
        let more = if more.is_empty() { String::new() } else { format!(" ({})", more.join("; ")) };
        format!("{}{more}", self.message).replace('\n', " ")
    }
}

fn short(text: String) -> String {
    match abridged(&text, MESSAGE) {
        Cow::Borrowed(_) => text,
        Cow::Owned(beginning) => beginning,
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{}: ", place.line_column())?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for Diagnostic {}

/// The diagnostic that libvirt would report, which reports one: the first of the worst. Reading keeps its diagnostics in
/// libvirt's order.
///
/// Panics without diagnostics: a refusal has a reason.
pub fn principal(diagnostics: &[Diagnostic]) -> &Diagnostic {
    diagnostics.iter().rev().max_by_key(|found| found.severity).expect("a refusal has a reason")
}

/// Whether any of these is worse than a warning.
pub fn refuses(diagnostics: &[Diagnostic]) -> bool {
    diagnostics.iter().any(|diagnostic| diagnostic.severity != Severity::Warning)
}

/// More diagnostics than this are counted, not shown.
const SHOWN: usize = 100;

/// The diagnostics a line each, in their order.
pub fn lines(diagnostics: &[Diagnostic]) -> String {
    let mut lines: Vec<String> = diagnostics.iter().take(SHOWN).map(ToString::to_string).collect();
    if let Some(more @ 1..) = diagnostics.len().checked_sub(SHOWN) {
        lines.push(format!("and {more} more"));
    }
    lines.join("\n")
}

/// The diagnostics for people, in the order of the document: file, line, column, the text underlined,
/// what was expected, and a way out.
pub fn render(diagnostics: &[Diagnostic]) -> String {
    rendered_by(&Renderer::plain(), diagnostics)
}

/// The same in a terminal's colors.
pub fn render_in_color(diagnostics: &[Diagnostic]) -> String {
    rendered_by(&Renderer::styled(), diagnostics)
}

fn rendered_by(renderer: &Renderer, diagnostics: &[Diagnostic]) -> String {
    let sorted = in_order(diagnostics);
    let mut text = String::new();
    for diagnostic in sorted.iter().take(SHOWN) {
        text.push_str(&renderer.render(&[group(diagnostic)]));
        text.push_str("\n\n");
    }
    if let Some(more @ 1..) = sorted.len().checked_sub(SHOWN) {
        text.push_str(&format!("and {more} more\n"));
    }
    text
}

/// Diagnostics in the order of the document. Lines and columns are compared, since those that came from elsewhere have a document
/// of nothing but their line.
pub(crate) fn in_order(diagnostics: &[Diagnostic]) -> Vec<&Diagnostic> {
    let mut sorted: Vec<&Diagnostic> = diagnostics.iter().collect();
    sorted.sort_by_cached_key(|found| found.place.as_ref().map(position));
    sorted
}

fn position(place: &Place) -> (&str, (usize, usize), u32) {
    let length = place.span.end.saturating_sub(place.span.start);
    (&place.source.name, place.source.line_column(place.span.start), length)
}

fn group(diagnostic: &Diagnostic) -> Group<'_> {
    let level = match diagnostic.severity {
        Severity::Unenforced | Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let mut group = Group::with_title(level.primary_title(&diagnostic.message));
    if let Some(place) = &diagnostic.place {
        let (line, column) = place.source.line_column(place.span.start);
        let (window, span) = excerpt(place);
        let whole = window.start == 0 || place.source.text.as_bytes()[window.start - 1] == b'\n';
        let annotation = AnnotationKind::Primary.span(span).label(diagnostic.label.as_str());
        let snippet = Snippet::source(&place.source.text[window]).line_start(line).annotation(annotation);
        group = if whole {
            group.element(snippet.path(&place.source.name))
        } else {
            let origin = Origin::path(&place.source.name).line(line).char_column(column);
            group.element(origin).element(snippet)
        };
    }
    match &diagnostic.help {
        Some(help) => group.element(Level::HELP.message(help)),
        None => group,
    }
}

/// Of a long line so many bytes are shown on either side of a place.
const WINDOW: usize = 200;

/// The line a place begins on, as a range of the document, and the place within it.
pub(crate) fn excerpt(place: &Place) -> (Range<usize>, Range<usize>) {
    let text = &place.source.text;
    let inside = |mut offset: usize| {
        offset = offset.min(text.len());
        while !text.is_char_boundary(offset) {
            offset -= 1;
        }
        offset
    };
    let start = inside(place.span.range().start);
    let (first, last) = (inside(start.saturating_sub(WINDOW)), inside(start + WINDOW));
    let first = text[first..start].rfind('\n').map_or(first, |newline| first + newline + 1);
    let last = text[start..last].find('\n').map_or(last, |newline| start + newline);
    let end = inside(place.span.range().end).clamp(start, last);
    (first..last, start - first..end - first)
}

/// The name that was probably meant, if one is close enough.
pub fn similar<'a>(entered: &str, names: &[&'a str]) -> Option<&'a str> {
    let near = |name: &&'a str| (distance(entered, name), *name);
    let allowed = if entered.len() < 5 { 1 } else { 2 };
    names.iter().map(near).min().filter(|(distance, _)| *distance <= allowed).map(|(_, name)| name)
}

/// How many letters must be changed, added, left out or swapped to make one name of the other. Long names
/// are far from all of ours.
fn distance(from: &str, to: &str) -> usize {
    let (from, to) = (from.as_bytes(), to.as_bytes());
    if from.len() > 32 {
        return from.len();
    }
    let mut steps = vec![vec![0; to.len() + 1]; from.len() + 1];
    for i in 0..=from.len() {
        for j in 0..=to.len() {
            steps[i][j] = match (i, j) {
                (0, n) | (n, 0) => n,
                _ => {
                    let changed = steps[i - 1][j - 1] + usize::from(from[i - 1] != to[j - 1]);
                    let longer = steps[i - 1][j].min(steps[i][j - 1]) + 1;
                    let swapped = i > 1 && j > 1 && from[i - 1] == to[j - 2] && from[i - 2] == to[j - 1];
                    let swapped = if swapped { steps[i - 2][j - 2] + 1 } else { usize::MAX };
                    changed.min(longer).min(swapped)
                }
            };
        }
    }
    steps[from.len()][to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::span::{Source, Span};
    use expect_test::expect;

    fn at(span: Range<usize>) -> Diagnostic {
        let source = Source::new("a.xml", "<filter>\n  <rule\n  action='dorp'/>\n</filter>\n");
        let place = Place { source, span: Span::new(span) };
        Diagnostic::error(Code::XML_ERROR, "no such action").at(place, "expected drop")
    }

    #[test]
    fn a_fault_is_shown_with_its_line_underlined() {
        let shown = render(&[at(27..31).help("did you mean 'drop'?")]);
        expect![[r#"
            error: no such action
             --> a.xml:3:11
              |
            3 |   action='dorp'/>
              |           ^^^^ expected drop
              |
              = help: did you mean 'drop'?

        "#]]
        .assert_eq(&shown);
    }

    #[test]
    fn a_fault_fits_one_line() {
        let whole = at(27..31).help("did you\nmean 'drop'?").line();
        assert_eq!(whole, "no such action (a.xml:3:11; expected drop; did you mean 'drop'?)");
        assert_eq!(Diagnostic::error(Code::INTERNAL, "no").line(), "no");
    }

    #[test]
    fn an_element_of_many_lines_is_shown_by_its_first() {
        let shown = render(&[at(11..34)]);
        expect![[r#"
            error: no such action
             --> a.xml:2:3
              |
            2 |   <rule
              |   ^^^^^ expected drop

        "#]]
        .assert_eq(&shown);
    }

    #[test]
    fn of_a_long_line_the_place_is_shown() {
        let source =
            Source::new("a.xml", format!("\n{}<rule/>{}", "ä ".repeat(500_000), " ".repeat(500_000)));
        let place = Place { source, span: Span::new(1_500_002..1_500_006) };
        let shown = render(&[Diagnostic::error(Code::XML_ERROR, "no").at(place, "expected more")]);
        assert!(shown.contains("a.xml:2:1000002"), "{shown}");
        assert!(shown.contains("^^^^ expected more") && shown.len() < 1000, "{shown}");
    }

    #[test]
    fn every_span_can_be_shown() {
        for span in [0..0, 44..44, 45..45, 500..900, 8..9, 9..9] {
            assert!(render(&[at(span.clone())]).contains("no such action"), "{span:?}");
        }
        assert!(render_in_color(&vec![at(0..1); 101]).ends_with("and 1 more\n"));
    }

    #[test]
    fn the_first_error_is_the_principal_one() {
        let faults = [Diagnostic::warning("a"), at(0..1), Diagnostic::error(Code::INTERNAL, "b")];
        assert_eq!(principal(&faults).message, "no such action");
        assert_eq!(principal(&faults[..1]).message, "a");
    }

    #[test]
    fn only_a_close_name_is_meant() {
        let names = ["srcportend", "dstportend", "ip"];
        assert_eq!(similar("srcporttend", &names), Some("srcportend"));
        assert_eq!(similar("dstportnd", &names), Some("dstportend"));
        assert_eq!(similar("ix", &names), Some("ip"));
        assert_eq!(similar("pi", &names), Some("ip"));
        assert_eq!(similar("xyz", &names), None);
        assert_eq!(similar(&"x".repeat(100_000), &names), None);
    }
}
