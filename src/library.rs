//! Filters by name: those of a directory, and behind them the standard ones, which ship inside the binary.
//!
//! A file that can not be read or is no filter is a fault of its own and hides no other.

use crate::diag::{Code, Diagnostic};
use crate::filter::{Filter, read};
use crate::span::Source;
use crate::xml::decode;
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

macro_rules! standard {
    ($($name:literal)*) => {
        /// The standard filters: their names and documents.
        pub const STANDARD: &[(&str, &str)] = &[$(($name, include_str!(concat!("../filters/", $name, ".xml")))),*];
    };
}

standard! {
    "allow-arp" "allow-dhcp" "allow-dhcp-server" "allow-dhcpv6" "allow-dhcpv6-server" "allow-incoming-ipv4"
    "allow-incoming-ipv6" "allow-ipv4" "allow-ipv6" "clean-traffic" "clean-traffic-gateway" "no-arp-ip-spoofing"
    "no-arp-mac-spoofing" "no-arp-spoofing" "no-ip-multicast" "no-ip-spoofing" "no-ipv6-multicast"
    "no-ipv6-spoofing" "no-mac-broadcast" "no-mac-spoofing" "no-other-l2-traffic" "no-other-rarp-traffic"
    "qemu-announce-self" "qemu-announce-self-rarp"
}

impl Library {
    /// The standard filters alone.
    pub fn standard() -> Library {
        let mut library = Library::default();
        for (name, text) in STANDARD {
            library.add(&Source::new(format!("<standard>/{name}.xml"), *text));
        }
        library
    }

    /// The standard filters, and over them those of a directory's `*.xml`. A directory that does not exist has
    /// none; where it may not be read that is among the faults.
    pub fn load(directory: &Path) -> io::Result<Library> {
        let mut library = Library::standard();
        let paths = match documents(directory) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                library.faults.push(unreadable(directory, &error));
                Vec::new()
            }
            paths => paths?,
        };
        for path in paths {
            match fs::read(&path) {
                Ok(bytes) => library.add(&Source::new(path.display().to_string(), decode(&bytes))),
                Err(error) => library.faults.push(unreadable(&path, &error)),
            }
        }
        Ok(library)
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

/// What to say of a file that can not be read.
pub fn unreadable(path: &Path, error: &io::Error) -> Diagnostic {
    Diagnostic::error(Code::SYSTEM_ERROR, format!("{}: {error}", path.display()))
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
}
