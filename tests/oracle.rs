//! What our daemon does to frames, held against what libvirt did to the very same ones, filter by filter.
//!
//! `tests/oracle/run` does the work and prints the table; a difference without a decision behind it fails. Here it tries
//! what this kernel can hold, with the frames of one seed; its last line says which filters that leaves out.

mod tool;

use std::process::Command;
use tool::InTime;

#[test]
fn verdicts_are_libvirts_save_where_a_decision_says_otherwise() {
    let output = Command::new("tests/oracle/run")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("NWFILTERD", env!("CARGO_BIN_EXE_nwfilterd"))
        .output_in_time()
        .expect("bash is there");
    let [table, faults] =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    eprintln!("{table}");
    assert!(output.status.success(), "{table}{faults}");
    let compared = table.lines().filter(|row| row.contains(" here ") && !row.contains(" - ")).count();
    assert!(compared >= 5 || table.contains("skipped:"), "hardly any filter was compared:\n{table}");
}
