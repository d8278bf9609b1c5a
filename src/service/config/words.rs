//! Faults of the configuration in the words of people who write it.

use crate::document::diag::{Code, Diagnostic};
use crate::document::span::{Place, Source, Span};
use serde::de::{self, Deserializer, Error, Unexpected};
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

/// The keys whose values are strings, which TOML wants in quotes.
const STRINGS: [&str; 9] = [
    "filter_dir",
    "state_dir",
    "runtime_dir",
    "socket_group",
    "socket_mode",
    "socket_ro_mode",
    "log_level",
    "metrics",
    "placement",
];

/// What the reader of a configuration says, with its place and a way out.
pub(super) fn diagnostic(source: &Arc<Source>, error: &toml::de::Error) -> Diagnostic {
    let message = error.message().lines().next().unwrap_or("bad configuration");
    let fault = Diagnostic::error(Code::INTERNAL, message);
    let Some(span) = error.span() else { return fault };
    let line = line_at(&source.text, span.start);
    let fault = fault.at(Place { source: source.clone(), span: Span::new(span) }, "here");
    match unquoted(line) {
        Some((key, value)) => {
            fault.help(format!("the value of {key} is a string, so quote it: {key} = \"{value}\""))
        }
        None => fault,
    }
}

fn line_at(text: &str, at: usize) -> &str {
    let at = at.min(text.len());
    let start = text.get(..at).and_then(|before| before.rfind('\n')).map_or(0, |end| end + 1);
    text.get(start..).and_then(|rest| rest.lines().next()).unwrap_or_default()
}

/// The key and the value of a line that lacks quotes.
fn unquoted(line: &str) -> Option<(&str, &str)> {
    let (key, value) = line.split_once('=')?;
    let (key, value) = (key.trim(), value.split('#').next()?.trim());
    let bare = !value.is_empty() && !value.contains(['"', '\'']);
    (bare && STRINGS.contains(&key)).then_some((key, value))
}

/// A whole number, as far as its type goes.
pub(super) fn whole<'de, D: Deserializer<'de>, T: TryFrom<u64> + Bounded>(
    deserializer: D,
) -> Result<T, D::Error> {
    deserializer.deserialize_any(Whole(PhantomData))
}

/// A type of numbers with a largest one.
pub(super) trait Bounded {
    const LARGEST: u64;
}

impl Bounded for u32 {
    const LARGEST: u64 = u32::MAX as u64;
}

impl Bounded for usize {
    // TOML's numbers end here.
    const LARGEST: u64 = i64::MAX as u64;
}

struct Whole<T>(PhantomData<T>);

impl<T: TryFrom<u64> + Bounded> de::Visitor<'_> for Whole<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a whole number from 0 to {}", T::LARGEST)
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<T, E> {
        let number = u64::try_from(value).ok().and_then(|value| T::try_from(value).ok());
        number.ok_or_else(|| E::invalid_value(Unexpected::Signed(value), &self))
    }
}
