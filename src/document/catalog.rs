//! Filters by name: those of a directory, and the standard ones where the administrator left them as they ship.
//!
//! A file that cannot be read or is no filter is a fault of its own and hides no other filter. The standard filter of its
//! name does not take its place: it may let pass what the file was to refuse.

use crate::document::diag::{Code, Diagnostic};
use crate::document::filter::{Filter, read};
use crate::document::regular;
use crate::document::span::Source;
use crate::document::standard::{ADMINISTRATORS, Found, PACKAGED, RECORD, Record, STANDARD, Taken};
use crate::document::xml::decode;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fs, io};

/// Filters by name, and what was wrong with those that are not among them.
#[derive(Debug, Default)]
pub struct Library {
    /// The filters.
    pub filters: BTreeMap<String, Arc<Filter>>,
    /// Faults of files, and warnings about filters.
    pub faults: Vec<Diagnostic>,
}

/// The text of a file, if it can be read.
type File = io::Result<String>;

impl Library {
    /// The standard filters alone.
    pub fn standard() -> Library {
        let mut library = Library::default();
        for (name, text) in STANDARD {
            library.add(&shipped(name, text));
        }
        library
    }

    /// The filters of a directory's `*.xml`, and the standard ones of which it has no file. A directory that does not exist
    /// has no file; where it may not be read, that is among the faults.
    pub fn load(directory: &Path) -> io::Result<Library> {
        Library::load_with(directory, &Record::new(directory), |_, _| None)
    }

    /// The same, as the daemon takes them whose state directory this is: what it recorded of the directory counts.
    #[cfg(feature = "service")]
    pub fn load_recorded(directory: &Path, state: &Path) -> io::Result<Library> {
        let (record, fault) = match recorded(&state.join(RECORD)) {
            Ok(record) => (record.of(directory), None),
            Err(fault) => (Record::new(directory), Some(fault)),
        };
        let mut library = Library::load_with(directory, &record, packaged_copy)?;
        library.faults.extend(fault);
        Ok(library)
    }

    fn load_with(
        directory: &Path,
        record: &Record,
        packaged: fn(&Path, &str) -> Option<String>,
    ) -> io::Result<Library> {
        let (files, fault) = match files(directory) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                (BTreeMap::new(), Some(unreadable(directory, &error)))
            }
            files => (files?, None),
        };
        let mut library = Library::of_files(files, record, packaged);
        library.faults.extend(fault);
        Ok(library)
    }

    fn of_files(
        mut files: BTreeMap<PathBuf, File>,
        record: &Record,
        packaged: fn(&Path, &str) -> Option<String>,
    ) -> Library {
        let mut library = Library::default();
        for (name, text) in STANDARD {
            let path = record.directory.join(format!("{name}.xml"));
            let file = files.remove(&path);
            let packaged = packaged(&record.directory, name);
            match record.taken(name, found(file.as_ref()), packaged.as_deref()) {
                Taken::File => file.into_iter().for_each(|file| library.add_file(&path, file)),
                Taken::Kept(text) => library.add(&Source::new(format!("{RECORD}: {name}"), text)),
                Taken::Standard => library.add(&shipped(name, text)),
                Taken::Nothing => {}
            }
        }
        files.into_iter().for_each(|(path, file)| library.add_file(&path, file));
        library
    }

    fn add_file(&mut self, path: &Path, file: File) {
        match file {
            Ok(text) => self.add(&Source::new(path.display().to_string(), text)),
            Err(error) => self.faults.push(unreadable(path, &error)),
        }
    }

    /// Takes one more document; what it defines replaces what has its name.
    pub fn add(&mut self, source: &Arc<Source>) {
        match read::read(source) {
            Ok((filter, warnings)) => {
                self.filters.insert(filter.name.clone(), Arc::new(filter));
                self.faults.extend(warnings);
            }
            Err(faults) => self.faults.extend(faults),
        }
    }

    /// Has filters bound without what no rule of theirs would enforce.
    pub fn tolerate(&mut self) {
        for filter in self.filters.values_mut().filter(|filter| filter.left_out().next().is_some()) {
            *filter = Arc::new((**filter).clone().tolerated());
        }
    }

    /// The filter of a name.
    pub fn get(&self, name: &str) -> Option<Arc<Filter>> {
        self.filters.get(name).cloned()
    }
}

/// The copy from which an installed package of libvirt's puts this standard filter into this directory. One that cannot be
/// read is there as well, and says nothing.
pub fn packaged_copy(directory: &Path, name: &str) -> Option<String> {
    if directory != Path::new(ADMINISTRATORS) {
        return None;
    }
    match regular::read(&Path::new(PACKAGED).join(format!("{name}.xml"))) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        copy => Some(copy.map(|bytes| decode(&bytes)).unwrap_or_default()),
    }
}

/// A standard filter as it ships.
pub fn shipped(name: &str, text: &str) -> Arc<Source> {
    Source::new(format!("<standard>/{name}.xml"), text)
}

/// What to say of a file that cannot be read.
pub fn unreadable(path: &Path, error: &io::Error) -> Diagnostic {
    Diagnostic::error(Code::SYSTEM_ERROR, format!("{}: {error}", path.display()))
}

#[cfg(feature = "service")]
fn recorded(path: &Path) -> Result<Record, Diagnostic> {
    match regular::read_text(path) {
        Ok(text) => Record::read(&text).map_err(|error| unreadable(path, &io::Error::other(error))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Record::default()),
        Err(error) => Err(unreadable(path, &error)),
    }
}

fn found(file: Option<&File>) -> Found<'_> {
    match file {
        None => Found::Nothing,
        Some(Ok(text)) => Found::Text(text),
        Some(Err(_)) => Found::Unreadable,
    }
}

fn files(directory: &Path) -> io::Result<BTreeMap<PathBuf, File>> {
    let read = |path: PathBuf| (path.clone(), regular::read(&path).map(|bytes| decode(&bytes)));
    Ok(documents(directory)?.into_iter().map(read).collect())
}

fn documents(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let paths: io::Result<Vec<PathBuf>> = entries.map(|entry| Ok(entry?.path())).collect();
    let mut paths: Vec<PathBuf> =
        paths?.into_iter().filter(|path| path.extension() == Some(OsStr::new("xml"))).collect();
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::standard::PackagedCopy;

    #[test]
    fn every_file_of_the_standard_filters_is_shipped_and_whole() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("filters");
        let mut files: Vec<String> = documents(&directory)
            .unwrap()
            .iter()
            .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
            .collect();
        files.sort();
        let library = Library::standard();
        assert_eq!(library.faults, []);
        assert_eq!(library.filters.keys().cloned().collect::<Vec<_>>(), files);
        let dangling: Vec<&str> = library
            .filters
            .values()
            .flat_map(|filter| filter.references())
            .filter(|name| !library.filters.contains_key(*name))
            .collect();
        assert_eq!(dangling, [""; 0]);
    }

    #[test]
    fn a_faulty_file_is_not_replaced_by_a_standard_filter() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("clean-traffic.xml"), "<filter name='clean-traffic'").unwrap();
        fs::create_dir(directory.path().join("allow-arp.xml")).unwrap();
        let library = Library::load(directory.path()).unwrap();
        assert_eq!(library.filters.len(), STANDARD.len() - 2);
        assert!(library.get("clean-traffic").is_none() && library.get("allow-arp").is_none());
        assert_eq!(library.faults.len(), 2);
    }

    #[test]
    fn a_directorys_record_counts_for_that_directory_alone() {
        let (directory, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut record = Record::new(directory.path());
        record.delete("allow-ipv6", PackagedCopy::Absent);
        fs::write(state.path().join(RECORD), record.write()).unwrap();
        let load = |directory: &Path| Library::load_recorded(directory, state.path()).unwrap();
        assert!(load(directory.path()).get("allow-ipv6").is_none());
        assert!(load(Path::new("/nowhere")).faults.is_empty());
        fs::write(state.path().join(RECORD), "torn").unwrap();
        assert_eq!(load(directory.path()).faults.len(), 1);
    }
}
