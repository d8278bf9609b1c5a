//! libvirt's own test data, for the tests that compare with it.

use std::fs;
use std::path::PathBuf;

/// libvirt's own test inputs; none, and said so, where `NWFILTER_LIBVIRT_DATA` does not name their directory.
pub fn data(folder: &str) -> Option<Vec<(String, String)>> {
    let Some(root) = std::env::var_os("NWFILTER_LIBVIRT_DATA").map(PathBuf::from) else {
        println!("skipped: NWFILTER_LIBVIRT_DATA does not name a directory with libvirt's test data");
        return None;
    };
    let entries = fs::read_dir(root.join(folder)).unwrap();
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
