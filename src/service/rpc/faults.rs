//! Diagnostics on the wire: what a refused call of the command's program carries behind the error, so that the
//! command prints what it would have found itself.
//!
//! | field | type |
//! | --- | --- |
//! | severity | u32 (0 warning, 1 error) |
//! | number, domain of libvirt's error | i32, i32 |
//! | message, label | string, string |
//! | help | optional string |
//! | place | optional: string document, u32 line, u32 column, string excerpt, u32 start, u32 end |
//!
//! A place carries the line that it begins on, or a part of a long one, not the document. A reader gets a document of the
//! same name, with nothing but that line in it, at the same line and column. The reader trusts no number.

use super::wire_error;
use super::xdr::{Malformed, Reader, Writer};
use crate::document::diag::{self, Code, Diagnostic, Severity};
use crate::document::span::{Place, Source, Span};

/// The most diagnostics of one refusal that are sent: more are of no use to a person.
pub const MOST: usize = 100;

/// The longest text of one diagnostic.
const TEXT_MAX: usize = 16 * 1024;
/// No document that the daemon takes has more lines, or longer ones.
const POSITION_MAX: u32 = 4 << 20;
/// All lines and columns of one answer, which a reader makes room for.
const POSITIONS_MAX: u32 = 16 << 20;

/// Appends the diagnostics.
pub fn write(to: &mut Writer, faults: &[Diagnostic]) {
    let faults = diag::in_order(faults);
    to.array(&faults[..faults.len().min(MOST)], |to, fault| write_one(to, fault));
}

/// Reads what [`write`] wrote; none where a daemon sent none.
pub fn read(from: &mut Reader) -> Result<Vec<Diagnostic>, Malformed> {
    if from.remaining() == 0 {
        return Ok(Vec::new());
    }
    let mut positions = POSITIONS_MAX;
    from.array(MOST, |from| read_one(from, &mut positions))
}

fn write_one<'a>(to: &'a mut Writer, fault: &Diagnostic) -> &'a mut Writer {
    to.u32(u32::from(fault.severity != Severity::Warning)).i32(fault.code.number).i32(fault.code.domain);
    to.string(cut(&fault.message)).string(cut(&fault.label));
    to.option(fault.help.as_deref(), |to, help| to.string(cut(help)));
    to.option(fault.place.as_ref(), write_place)
}

fn read_one(from: &mut Reader, positions: &mut u32) -> Result<Diagnostic, Malformed> {
    let severity = if from.bool()? { Severity::Error } else { Severity::Warning };
    let code = Code { number: from.i32()?, domain: from.i32()? };
    let (message, label) = (text(from)?, text(from)?);
    let help = from.option(text)?;
    let place = from.option(|from| read_place(from, positions))?;
    Ok(Diagnostic { severity, code, message, place, label, help })
}

fn write_place<'a>(to: &'a mut Writer, place: &Place) -> &'a mut Writer {
    let (window, span) = diag::excerpt(place);
    let at = |offset: usize| u32::try_from(offset).unwrap_or(u32::MAX);
    let (line, column) = place.source.line_column(at(window.start));
    to.string(cut(&place.source.name)).u32(at(line)).u32(at(column));
    to.string(&place.source.text[window]).u32(at(span.start)).u32(at(span.end))
}

fn read_place(from: &mut Reader, positions: &mut u32) -> Result<Place, Malformed> {
    let name = text(from)?;
    let (line, column) = (from.u32()?, from.u32()?);
    let excerpt = from.string(TEXT_MAX)?;
    let (start, end) = (from.u32()?, from.u32()?);
    let possible = |position: u32| (1..=POSITION_MAX).contains(&position);
    if !possible(line) || !possible(column) || start > end || end as usize > excerpt.len() {
        return Err(Malformed);
    }
    *positions = positions.checked_sub(line + column).ok_or(Malformed)?;
    let before = line - 1 + column - 1;
    let blank = "\n".repeat(line as usize - 1) + &" ".repeat(column as usize - 1);
    let span = Span { start: before + start, end: before + end };
    Ok(Place { source: Source::new(name, blank + excerpt), span })
}

fn text(from: &mut Reader) -> Result<String, Malformed> {
    from.string(TEXT_MAX).map(str::to_owned)
}

/// As much of a text as is sent.
fn cut(text: &str) -> &str {
    wire_error::cut(text, TEXT_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::diag::render_in_color;

    fn sent(faults: &[Diagnostic]) -> Result<Vec<Diagnostic>, Malformed> {
        let mut to = Writer::default();
        write(&mut to, faults);
        read(&mut Reader::new(&to.into_bytes()))
    }

    fn at(source: &std::sync::Arc<Source>, span: std::ops::Range<usize>) -> Diagnostic {
        let place = Place { source: source.clone(), span: Span::new(span) };
        Diagnostic::error(Code::XML_ERROR, "no such action").at(place, "expected drop").help("write drop")
    }

    #[test]
    fn diagnostics_look_the_same_at_the_other_end() {
        let short = Source::new("a.xml", "<filter>\n  <rule\n  ä action='dorp'/>\n</filter>\n");
        let long = Source::new("b.xml", format!("\n{}<rule/>{}", "ä ".repeat(5_000), " ".repeat(500_000)));
        let spans = [0..0, 11..34, 22..31, 30..45, 500..900];
        let mut faults: Vec<Diagnostic> = spans.into_iter().map(|span| at(&short, span)).collect();
        faults.push(at(&long, 15_002..15_006));
        faults.push(at(&long, 9_000..9_001));
        faults.push(Diagnostic::warning("without a place"));
        let read = sent(&faults).unwrap();
        assert_eq!(render_in_color(&read), render_in_color(&faults));
        assert_eq!(read[0], faults[7], "in the order in which they are shown");
    }

    #[test]
    fn no_more_is_sent_than_a_person_reads() {
        let fault = Diagnostic::error(Code::INTERNAL, "").help("ä".repeat(1 << 20));
        let fault = Diagnostic { message: "x".repeat(1 << 20), ..fault };
        let read = sent(&vec![fault; 1000]).unwrap();
        assert_eq!(read.len(), MOST);
        let texts = [&read[0].message, read[0].help.as_ref().unwrap()];
        assert!(texts.iter().all(|text| (100..=TEXT_MAX).contains(&text.len())));
    }

    #[test]
    fn what_a_daemon_makes_up_is_refused() {
        let place = |line: u32, column: u32, start: u32, end: u32, times: u32| {
            let mut to = Writer::default();
            to.u32(times);
            for _ in 0..times {
                to.u32(1).i32(1).i32(33).string("m").string("l").u32(0);
                to.u32(1).string("f").u32(line).u32(column).string("abc").u32(start).u32(end);
            }
            read(&mut Reader::new(&to.into_bytes())).map(|faults| faults.len())
        };
        assert_eq!(place(1, 1, 0, 3, 1), Ok(1));
        let lies = [
            (0, 1, 0, 3),
            (1, 0, 0, 3),
            (1, 1, 2, 1),
            (1, 1, 0, 4),
            (u32::MAX, 1, 0, 1),
            (1, u32::MAX, 0, 1),
        ];
        for (line, column, start, end) in lies {
            assert_eq!(place(line, column, start, end, 1), Err(Malformed), "{line} {column} {start} {end}");
        }
        assert_eq!(place(4 << 20, 1, 0, 1, 10), Err(Malformed), "room for all of them");
        assert_eq!(read(&mut Reader::new(&[])), Ok(vec![]), "of a daemon that sends none");
        assert_eq!(read(&mut Reader::new(&[0xff; 64])), Err(Malformed));
    }
}
