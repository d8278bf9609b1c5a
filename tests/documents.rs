//! Documents: what is read and printed, what is refused and with which words.

use nwfilter::diag::{Diagnostic, Severity, principal};
use nwfilter::filter::Filter;
use nwfilter::filter::read::read;
use nwfilter::filter::write::write;
use nwfilter::span::Source;
use std::fs;
use std::path::{Path, PathBuf};

/// libvirt's own test inputs; none, and said so, where they are not installed.
fn libvirt_data(folder: &str) -> Option<Vec<(String, String)>> {
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

fn read_text(text: &str) -> Result<(Filter, Vec<Diagnostic>), Vec<Diagnostic>> {
    read(&Source::new("test.xml", text))
}

fn printed(text: &str) -> String {
    match read_text(text) {
        Ok((filter, _)) => write(&filter),
        Err(faults) => panic!("{text}: {faults:?}"),
    }
}

/// The one input of libvirt's whose sign on a destination port it loses, and we keep.
const QUIRKS: &str = "quirks-invalid";

#[test]
fn what_libvirt_reads_prints_as_libvirt_prints_it() {
    let (Some(inputs), Some(outputs)) = (libvirt_data("xml-in"), libvirt_data("xml-out")) else {
        return;
    };
    for (name, input) in inputs.iter().filter(|(name, _)| !name.ends_with("-invalid")) {
        let (_, output) = outputs.iter().find(|(other, _)| other == name).expect(name);
        assert_eq!(printed(input), *output, "{name}");
    }
}

#[test]
fn what_libvirt_prints_is_a_fixed_point() {
    let Some(outputs) = libvirt_data("xml-out") else {
        return;
    };
    for (name, output) in outputs.iter() {
        let again = printed(output);
        if name == "ipv6-test" {
            // Written by hand in part: its last rules have no priority and odd indentation.
            assert_eq!(printed(&again), again, "{name}");
        } else {
            assert_eq!(again, *output, "{name}");
        }
    }
}

#[test]
fn what_libvirt_refuses_is_refused() {
    let Some(inputs) = libvirt_data("xml-in") else {
        return;
    };
    for (name, input) in inputs.iter().filter(|(name, _)| name.ends_with("-invalid") && name != QUIRKS) {
        let faults = read_text(input).expect_err(name);
        assert_eq!(principal(&faults).severity, Severity::Error, "{name}");
        assert!(faults.iter().all(|fault| fault.place.is_some()), "{name}");
    }
}
