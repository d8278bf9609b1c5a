//! `trace`: what becomes of an interface's frames, live.

use super::{Failure, Outcome, print};
use crate::document::catalog::Library;
use crate::document::filter::Entry;
use crate::document::span::Place;
use crate::kernel::apply::Kernel;
use crate::kernel::links;
use crate::kernel::tracer::Tracer;
use crate::program::ir::{Family, Ruleset};
use crate::report::trace::{Capture, Fate, Joiner};
use crate::ruleset::from_kernel::recall;
use crate::ruleset::layout;
use crate::ruleset::nft::Ownership;
use crate::ruleset::nft::trace::At;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// What stands for it where a file is asked for.
const STANDARD_OUTPUT: &str = "-";

/// A capture that is being written.
struct File {
    to: Box<dyn Write>,
    path: PathBuf,
    capture: Capture,
}

/// Prints a line a frame until it is interrupted; the kernel then ends the trace by itself.
pub(super) fn run(dev: &str, drops: bool, pcapng: Option<&Path>, directory: &Path) -> Outcome {
    let found = links::by_name(dev).map_err(|error| Failure::host(&dev, &error))?;
    let index =
        found.map(|link| link.index).ok_or_else(|| Failure::Host(format!("{dev}: no such interface")))?;
    let library = super::library(directory)?;
    let mut file = pcapng.map(|path| File::begin(path, dev)).transpose()?;
    let lines = pcapng != Some(Path::new(STANDARD_OUTPUT));
    let kernel = Kernel::open(Ownership::Shared).map_err(|error| Failure::host(&"netfilter", &error))?;
    let observed = kernel.observe().map_err(|error| Failure::host(&"netfilter", &error))?;
    let tables = recall(&observed, &Ruleset::default()).tables;
    let enters =
        |family| tables.get(&family).is_some_and(|table| layout::dispatch_target(table, index).is_some());
    let at = match (enters(Family::Netdev) && !enters(Family::Bridge), enters(Family::Inet)) {
        (false, _) if !enters(Family::Bridge) => {
            return Err(Failure::Host(format!("{dev}: not bound, so no rule of a filter judges its frames")));
        }
        (false, _) => At::Bridge,
        (true, false) => At::Device(dev),
        (true, true) => At::Routed(dev),
    };
    let mut tracer = Tracer::open(index, at).map_err(|error| Failure::host(&"trace", &error))?;
    let mut joiner = Joiner::default();
    learn(&kernel, &mut joiner)?;
    loop {
        let step = tracer.next_event().map_err(|error| Failure::host(&"trace", &error))?;
        if joiner.is_new(&step) {
            learn(&kernel, &mut joiner)?;
        }
        let mine = |fate: &Fate| fate.interface.is_none_or(|interface| interface == index);
        let shown = |fate: &Fate| mine(fate) && (fate.dropped || !drops);
        let Some(fate) = joiner.step(&step).filter(shown) else { continue };
        let place = place(&library, &fate);
        if let Some(file) = &mut file {
            file.add(&fate, place.as_deref())?;
        }
        if lines {
            print(&format!("{dev} {fate}{}\n", place.map_or(String::new(), |place| format!("  ({place})"))));
        }
    }
}

impl File {
    fn begin(path: &Path, dev: &str) -> Result<File, Failure> {
        let to: Box<dyn Write> = match path.to_str() {
            Some(STANDARD_OUTPUT) => Box::new(io::stdout()),
            _ => Box::new(fs::File::create(path).map_err(|error| Failure::host(&path.display(), &error))?),
        };
        let mut file = File { to, path: path.to_owned(), capture: Capture::of(dev) };
        file.write()?;
        Ok(file)
    }

    fn add(&mut self, fate: &Fate, place: Option<&str>) -> Outcome {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.capture.add(fate, place, now);
        self.write()
    }

    /// Each frame at once: the trace may be interrupted at any time.
    fn write(&mut self) -> Outcome {
        let written = self.to.write_all(&self.capture.take()).and_then(|()| self.to.flush());
        written.map_err(|error| Failure::host(&self.path.display(), &error))
    }
}

/// Rules get new handles when a program changes.
fn learn(kernel: &Kernel, joiner: &mut Joiner) -> Outcome {
    let observed = kernel.observe().map_err(|error| Failure::host(&"netfilter", &error))?;
    joiner.learn(&observed);
    Ok(())
}

/// The line of the rule that decided, if the filter is at hand as it was compiled.
fn place(library: &Library, fate: &Fate) -> Option<String> {
    let (filter, number) = fate.rule.as_deref()?.rsplit_once(':')?;
    let filter = library.get(filter)?;
    let rules = filter.entries.iter().filter_map(|entry| match entry {
        Entry::Rule(rule) => Some(rule.span),
        Entry::Include(_) => None,
    });
    let span = rules.into_iter().nth(number.parse::<usize>().ok()?.checked_sub(1)?)?;
    Some(Place { source: filter.source.clone(), span }.line_column())
}
