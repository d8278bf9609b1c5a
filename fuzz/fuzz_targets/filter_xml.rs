//! Any text is a filter or is refused; a filter prints to a text that reads as the same filter.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nwfilter::document::diag::{principal, render, render_in_color};
use nwfilter::document::filter::{read::read, validate::validate, write::write};
use nwfilter::document::span::Source;

fuzz_target!(|text: &str| {
    let source = Source::new("fuzz.xml", text);
    let _ = validate(&source);
    match read(&source) {
        Ok((filter, warnings)) => {
            let _ = render(&warnings);
            let printed = write(&filter);
            let (again, _) = read(&Source::new("printed.xml", printed.as_str())).expect("what is printed is read");
            // A line break in a comment prints as libvirt prints it, and reads as a blank.
            if !printed.contains(['\t', '\r']) && printed.lines().all(|line| line.trim_start().starts_with('<')) {
                assert_eq!(write(&again), printed);
            }
        }
        Err(faults) => {
            let _ = render_in_color(&faults);
            let _ = principal(&faults);
        }
    }
});
