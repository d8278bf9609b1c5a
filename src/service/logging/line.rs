//! Fields of a record to one line of text, whatever strangers put into them.
//!
//! Names and reasons come from clients, guests and files. A control character, a line break or a character that turns
//! the direction of writing would let them write records of their own, or give orders to a terminal: all are escaped.

use std::fmt::{self, Debug, Write};
use tracing::field::{Field, Visit};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::Writer;

/// Writes `message name=value name=value`.
pub(super) struct OneLine;

struct Fields<'w> {
    to: Writer<'w>,
    is_first: bool,
    outcome: fmt::Result,
}

/// Escapes what does not print as one character of a line.
struct Escaping<W>(W);

impl<'w> FormatFields<'w> for OneLine {
    fn format_fields<R: RecordFields>(&self, to: Writer<'w>, fields: R) -> fmt::Result {
        let mut all = Fields { to, is_first: true, outcome: Ok(()) };
        fields.record(&mut all);
        all.outcome
    }
}

impl Fields<'_> {
    fn field(&mut self, name: &str, value: &dyn Debug) -> fmt::Result {
        if !std::mem::take(&mut self.is_first) {
            self.to.write_char(' ')?;
        }
        match name {
            "message" => write!(Escaping(&mut self.to), "{value:?}"),
            name => write!(Escaping(&mut self.to), "{name}={value:?}"),
        }
    }
}

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // What the `log` crate's records say of themselves is in the record's head.
        if self.outcome.is_ok() && !field.name().starts_with("log.") {
            self.outcome = self.field(field.name(), value);
        }
    }
}

impl<W: Write> Write for Escaping<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.chars().try_for_each(|c| match c {
            '"' | '\'' | '\\' => self.0.write_char(c),
            c => write!(self.0, "{}", c.escape_debug()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use std::sync::{Arc, Mutex};
    use tracing_subscriber::fmt::MakeWriter;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl MakeWriter<'_> for Kept {
        type Writer = Kept;

        fn make_writer(&self) -> Kept {
            self.clone()
        }
    }

    #[test]
    fn foreign_text_stays_on_its_line_and_is_escaped() {
        let strange = "a\nINFO all is well\r\u{1b}[2J\u{7f}\u{9b}\u{202e}\u{2028}\u{200b}\u{feff}\0\tb";
        for ansi in [false, true] {
            let kept = Kept::default();
            let format = tracing_subscriber::fmt()
                .with_writer(kept.clone())
                .with_ansi(ansi)
                .without_time()
                .fmt_fields(OneLine);
            tracing::subscriber::with_default(format.finish(), || {
                tracing::info!(reason = %strange, debug = ?strange, text = strange, "{strange}");
                tracing::info!(name = "ä 'b' \"c\" \\", number = 7, "all is well");
            });
            let written = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
            let lines: Vec<&str> = written.lines().collect();
            assert_eq!(lines.len(), 2, "{written:?}");
            let escaped = r"a\nINFO all is well\r\u{1b}[2J\u{7f}\u{9b}\u{202e}\u{2028}\u{200b}\u{feff}\0\tb";
            assert_eq!(lines[0].matches(escaped).count(), 4, "{written:?}");
            assert!(lines[1].ends_with(r#"all is well name="ä 'b' \"c\" \\" number=7"#), "{written:?}");
            let own = if ansi { "\u{1b}[" } else { "\u{1b}" };
            let foreign = written.replace(own, "").contains(|c: char| c.is_control() && c != '\n');
            assert!(!foreign, "{written:?}");
        }
    }
}
