//! libvirt's own test data, for the tests that compare with it.

use std::fs;
use std::path::{Path, PathBuf};

/// libvirt's own test inputs; none, and said so, where they are not installed.
pub fn data(folder: &str) -> Option<Vec<(String, String)>> {
    let root = std::env::var_os("NWFILTER_LIBVIRT_DATA")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/libvirt-data"), PathBuf::from);
    let Ok(entries) = fs::read_dir(root.join(folder)) else {
        println!("skipped: libvirt data not found");
        return None;
    };
    let mut files: Vec<(String, String)> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "xml"))
        .map(|path| {
            (path.file_stem().unwrap().to_str().unwrap().to_owned(), fs::read_to_string(path).unwrap())
        })
        .collect();
    files.sort();
    Some(files)
}
