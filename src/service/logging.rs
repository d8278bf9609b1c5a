//! Where the program's words go: journald when it listens to our standard error, standard error otherwise.
//!
//! Records of libraries that use the `log` crate are taken along. Fields go to the journal as fields
//! (`NWFILTER_GUEST=`), each with its length, so that no value can pass for another, and in the text for who reads only that; on standard error every record is
//! one line, with what strangers say escaped. The level can be changed while the program runs.

mod line;
mod quota;
mod whole;

pub use quota::Quota;

use crate::service::config::LogLevel;
use line::OneLine;
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, BorrowedFd};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry::Registry;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{fmt, reload};
use whole::Whole;

/// Changes the level of a log that was started.
#[derive(Clone, Debug)]
pub struct Level(reload::Handle<LevelFilter, Registry>);

/// Starts logging, once in a process. Falls back to standard error when journald does not answer.
pub fn start(level: impl Into<LevelFilter>) -> io::Result<Level> {
    let (level, handle) = reload::Layer::new(level.into());
    let journal = journal_reads(io::stderr().as_fd()).then(journal).flatten();
    let output = journal.unwrap_or_else(|| text(LogReader::of_stderr()));
    let subscriber = tracing_subscriber::registry().with(level).with(output);
    subscriber.try_init().map_err(io::Error::other)?;
    Ok(Level(handle))
}

impl Level {
    /// Logs from this level on. Records of the `log` crate keep the level of the start at most.
    pub fn set(&self, level: impl Into<LevelFilter>) {
        let level = level.into();
        // It fails only when the log is gone, and then nothing is logged at any level.
        let _ = self.0.modify(|filter| *filter = level);
    }
}

impl From<LogLevel> for LevelFilter {
    fn from(level: LogLevel) -> LevelFilter {
        match level {
            LogLevel::Error => LevelFilter::ERROR,
            LogLevel::Warn => LevelFilter::WARN,
            LogLevel::Info => LevelFilter::INFO,
            LogLevel::Debug => LevelFilter::DEBUG,
            LogLevel::Trace => LevelFilter::TRACE,
        }
    }
}

type Output = Box<
    dyn Layer<tracing_subscriber::layer::Layered<reload::Layer<LevelFilter, Registry>, Registry>>
        + Send
        + Sync,
>;

fn journal() -> Option<Output> {
    let layer = tracing_journald::layer().ok()?;
    let layer = layer.with_field_prefix(Some("NWFILTER".into())).with_syslog_identifier("nwfilterd".into());
    Some(Box::new(Whole(layer)))
}

/// What reads the lines.
enum LogReader {
    /// A person, in colors.
    Terminal,
    /// A collector of logs, which adds the time.
    Collector,
}

impl LogReader {
    fn of_stderr() -> LogReader {
        if io::stderr().is_terminal() { LogReader::Terminal } else { LogReader::Collector }
    }
}

fn text(reader: LogReader) -> Output {
    let format = fmt::layer().with_writer(io::stderr).with_target(false).fmt_fields(OneLine);
    match reader {
        LogReader::Terminal => Box::new(format.with_ansi(true)),
        LogReader::Collector => Box::new(format.with_ansi(false).without_time()),
    }
}

/// Whether this descriptor is the one that `JOURNAL_STREAM` names: systemd connected it to the journal, and it has
/// not been redirected since.
fn journal_reads(stream: BorrowedFd<'_>) -> bool {
    let named = std::env::var("JOURNAL_STREAM").ok();
    named
        .zip(rustix::fs::fstat(stream).ok())
        .is_some_and(|(named, is)| is_named(&named, is.st_dev, is.st_ino))
}

fn is_named(named: &str, device: u64, inode: u64) -> bool {
    named.split_once(':').is_some_and(|(d, i)| d.parse() == Ok(device) && i.parse() == Ok(inode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_journal_is_known_by_device_and_inode() {
        assert!(is_named("8:123", 8, 123));
        for other in ["8:124", "9:123", "8", "", ":", "8:123:1", "x:y"] {
            assert!(!is_named(other, 8, 123), "{other:?}");
        }
    }
}
