//! The filters that the daemon keeps: the files of the administrator's directory, and the standard filters as far as the
//! administrator left them as they ship.

use super::Failure;
use super::transaction::chain;
use crate::document::catalog::packaged_copy;
use crate::document::diag::{Diagnostic, Severity};
use crate::document::filter::{Filter, read, write};
use crate::document::span::Source;
use crate::document::standard::{self, Found, PackagedCopy, RECORD, Record, STANDARD, Taken, is_standard};
use crate::service::config::Config;
use crate::service::store::files::{Disk, RealDisk};
use crate::service::store::{Document, Fault, Staged, Store};
use imbl::OrdMap;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use tracing::{error, info, warn};
use uuid::Uuid;

/// Files by name.
type Files = BTreeMap<String, Result<String, Fault>>;
/// The filters in force by name.
type Known = OrdMap<String, Arc<Filter>>;

/// The directory of filters, and the record of what became of the standard ones.
pub(super) struct Filters {
    directory: Store,
    standard: Option<Standard>,
}

/// The record of the standard filters, where they are wanted. What is on the disk counts, so that it can be put back there.
struct Standard {
    state: Store,
    directory: PathBuf,
}

/// Records what became of the standard filters, and makes no directory for files where there is none.
pub(super) fn record(config: &Config) -> Result<(), Failure> {
    let mut files =
        if config.filter_dir.exists() { files(&Store::open(&config.filter_dir)?)? } else { Files::new() };
    if config.standard_filters {
        let standard = Standard::open(config, &RealDisk)?;
        let (_, changed) = standard.look(&mut files)?;
        changed.map(|record| standard.write(&record)).transpose()?;
    }
    Ok(())
}

fn files(directory: &Store) -> Result<Files, Fault> {
    let file = |Document { name, text }| (name, text);
    Ok(directory.load()?.into_iter().map(file).collect())
}

impl Filters {
    pub(super) fn open(config: &Config, disk: &dyn Disk) -> Result<Filters, Failure> {
        let directory = Store::open_on(disk, &config.filter_dir)?;
        let standard = match config.standard_filters.then(|| Standard::open(config, disk)).transpose() {
            // A start that fails would bind no interface; only these filters are left out.
            Err(fault) => {
                error!(
                    reason = chain(&fault),
                    "the standard filters are those that have a file: an interface that needs another is blocked; mend what the reason \
                     names, or delete it to have them all as they ship, then restart nwfilterd"
                );
                None
            }
            Ok(standard) => standard,
        };
        Ok(Filters { directory, standard })
    }

    /// All filters, and how many documents are at fault. One that is faulty is logged and left out; one without a UUID keeps
    /// the one by which its name is known, or gets one for good.
    pub(super) fn read(&self, known: &Known) -> Result<(Vec<Filter>, usize), Fault> {
        let (files, others) = self.look()?;
        let documents = files.len() + others.len();
        let files = files.into_iter().map(|(name, text)| Document { name, text });
        let files: Vec<Filter> =
            files.filter_map(|document| read_file(&self.directory, document, known)).collect();
        let others = others.into_iter().filter_map(|document| read_document(RECORD, document));
        let others = others.map(|filter| with_uuid(filter, known).0);
        let filters: Vec<Filter> = files.into_iter().chain(others).collect();
        let faulty = documents - filters.len();
        Ok((filters, faulty))
    }

    /// What the directory holds and is in force, and the other standard filters. The administrator's choices are recorded; a disk
    /// that does not take them is logged, and the next look compares with the same record.
    fn look(&self) -> Result<(Files, Vec<Document>), Fault> {
        let mut files = files(&self.directory)?;
        let Some(standard) = &self.standard else { return Ok((files, Vec::new())) };
        let (others, changed) = standard.look(&mut files)?;
        if let Some(record) = changed
            && let Err(fault) = standard.write(&record)
        {
            error!(reason = chain(&fault), "not recorded which standard filters were edited or deleted");
        }
        Ok((files, others))
    }

    /// Writes a filter's file, and records that a standard filter has one. What was written can be put back.
    pub(super) fn stage_save(&self, name: &str, text: &str) -> Result<Vec<Staged>, Fault> {
        let file = self.directory.stage_save(name, text)?;
        self.stage_record(name, file, |record, copy| record.define(name, text, copy))
    }

    /// Deletes a filter's file, and records that a standard filter is deleted, whether it had one or not. What was there can be
    /// put back.
    pub(super) fn stage_delete(&self, name: &str) -> Result<Vec<Staged>, Fault> {
        let file = self.directory.stage_delete(name)?;
        self.stage_record(name, file, |record, copy| record.delete(name, copy))
    }

    /// Records a choice once its file is on the disk, and never before: a record that says more than the directory would have a
    /// restart between the two find a filter that never was in force.
    fn stage_record(
        &self,
        name: &str,
        file: Staged,
        choose: impl FnOnce(&mut Record, PackagedCopy),
    ) -> Result<Vec<Staged>, Fault> {
        let Some(standard) = self.standard_of(name) else { return Ok(vec![file]) };
        match file.sync().and_then(|()| standard.stage(name, choose)) {
            Ok(record) => Ok(vec![file, record]),
            Err(fault) => file.undo().and(Err(fault)),
        }
    }

    fn standard_of(&self, name: &str) -> Option<&Standard> {
        if is_standard(name) { self.standard.as_ref() } else { None }
    }
}

impl Standard {
    fn open(config: &Config, disk: &dyn Disk) -> Result<Standard, Fault> {
        let state = Store::open_on(disk, &config.state_dir)?;
        let standard = Standard { state, directory: config.filter_dir.clone() };
        // Without it an edited filter would be the one that ships, and a deleted one would be back.
        standard.record()?;
        Ok(standard)
    }

    /// What was recorded.
    fn record(&self) -> Result<Record, Fault> {
        let not_understood = |reason| Fault::Content(self.state.path().join(RECORD), reason);
        let record = match self.state.get(RECORD) {
            Ok(text) => Record::read(&text).map_err(not_understood)?,
            Err(fault) if fault.is_missing() => Record::default(),
            Err(fault) => return Err(fault),
        };
        Ok(record.of(&self.directory))
    }

    /// Takes away the files that are not in force; gives the documents that are and have no file, and the record where it changed.
    fn look(&self, files: &mut Files) -> Result<(Vec<Document>, Option<Record>), Fault> {
        let before = self.record()?;
        let mut record = before.clone();
        let mut others = Vec::new();
        for (name, text) in STANDARD {
            match settle(&mut record, name, files.get(*name)) {
                Taken::File => continue,
                Taken::Kept(text) => others.push(document(name, &text)),
                Taken::Standard => others.push(document(name, text)),
                Taken::Nothing => {}
            }
            files.remove(*name);
        }
        let changed = (record != before).then_some(record);
        Ok((others, changed))
    }

    fn write(&self, record: &Record) -> Result<(), Fault> {
        self.state.put(RECORD, &record.write())
    }

    /// Records the choice of a client about a filter.
    fn stage(&self, name: &str, choose: impl FnOnce(&mut Record, PackagedCopy)) -> Result<Staged, Fault> {
        let mut record = self.record()?;
        choose(&mut record, PackagedCopy::of(packaged_copy(&self.directory, name).as_deref()));
        self.state.stage_put(RECORD, &record.write())
    }
}

fn document(name: &str, text: &str) -> Document {
    Document { name: name.into(), text: Ok(text.into()) }
}

fn settle(record: &mut Record, name: &str, file: Option<&Result<String, Fault>>) -> Taken {
    let found = match file {
        None => Found::Nothing,
        Some(Ok(text)) => Found::Text(text),
        Some(Err(_)) => Found::Unreadable,
    };
    let before = record.filters.get(name).cloned();
    let packaged = packaged_copy(&record.directory, name);
    let taken = record.settle(name, found, packaged.as_deref());
    if let Some(change) = record.filters.get(name).and_then(|entry| entry.change_since(before.as_ref())) {
        warn!(filter = name, "{change}");
    }
    taken
}

fn read_file(store: &Store, document: Document, known: &Known) -> Option<Filter> {
    let name = document.name.clone();
    let filter = read_document(&store.path().display().to_string(), document)?;
    let (filter, is_new) = with_uuid(filter, known);
    if is_new && let Err(fault) = store.save(&name, &write::file_text(&filter)) {
        warn!(file = name, reason = %fault, "a new UUID was not written");
    }
    Some(filter)
}

fn read_document(place: &str, Document { name, text }: Document) -> Option<Filter> {
    let text = text.inspect_err(|fault| error!(file = name, reason = %fault, "filter file not readable: the filter is left out; check the permissions of the file")).ok()?;
    let source = Source::new(format!("{place}/{name}.xml"), text);
    let faulty = |faults: &Vec<Diagnostic>| {
        faults.iter().for_each(|fault| error!(file = name, reason = %fault.line(), "filter not loaded"));
    };
    let (filter, warnings) = read::read(&source).inspect_err(faulty).ok()?;
    for warning in &warnings {
        match warning.severity {
            Severity::Warning => info!(file = name, "{warning}"),
            _ => warn!(file = name, "{warning}; no interface can be bound to this filter"),
        }
    }
    if filter.name != name {
        error!(file = name, filter = filter.name, "the file of a filter must have its name");
        return None;
    }
    Some(filter)
}

/// The filter with a UUID, and whether it had none.
fn with_uuid(mut filter: Filter, known: &Known) -> (Filter, bool) {
    let is_new = filter.uuid.is_none();
    let own = known.get(&filter.name).and_then(|known| known.uuid);
    filter.uuid =
        filter.uuid.or(own).or_else(|| standard::uuid(&filter.name)).or_else(|| Some(Uuid::new_v4()));
    (filter, is_new)
}
