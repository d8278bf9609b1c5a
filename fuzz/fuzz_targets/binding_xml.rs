//! Any text is a binding or is refused; a binding survives its status document.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nwfilter::document::binding::{read, read_status, validate::validate, write, write_status};
use nwfilter::document::diag::{principal, render, render_in_color};
use nwfilter::document::span::Source;

fuzz_target!(|text: &str| {
    let source = Source::new("fuzz.xml", text);
    let _ = validate(&source);
    match read(&source) {
        Ok((binding, warnings)) => {
            let _ = render(&warnings);
            let status = write_status(&binding);
            let again = read_status(&Source::new("status.xml", status)).expect("what is written is read");
            assert_eq!(write(&again), write(&binding));
        }
        Err(faults) => {
            let _ = render_in_color(&faults);
            let _ = principal(&faults);
        }
    }
});
