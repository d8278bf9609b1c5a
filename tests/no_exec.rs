//! The product runs no other program: strace counts.
//!
//! Without strace it is skipped (see `tool`).

mod lab;
mod tool;

use lab::{Network, in_fresh_netns};
use std::fs;
use std::process::Command;
use tempfile::TempDir;
use tool::{InTime, available};

/// Runs a binary of ours under strace and returns the programs executed.
fn executed(directory: &TempDir, arguments: &[&str]) -> Vec<String> {
    let trace = directory.path().join("trace");
    let output = Command::new("strace")
        .args(["-f", "-qq", "-e", "trace=execve,execveat", "-o"])
        .arg(&trace)
        .arg(env!("CARGO_BIN_EXE_nwfilter"))
        .args(arguments)
        .env("NWFILTER_RUNTIME_DIR", directory.path())
        .output_in_time()
        .unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    let calls = fs::read_to_string(trace).unwrap();
    calls.lines().filter(|line| line.contains("exec")).map(str::to_owned).collect()
}

// P-12
#[test]
fn the_command_executes_nothing_but_itself() {
    if !available("strace", "--tests") {
        return;
    }
    let directory = TempDir::new().unwrap();
    let here = directory.path().to_str().unwrap();
    let bind = |verb| {
        [
            verb,
            "--dev",
            "vnet0",
            "--mac",
            "52:54:00:00:00:01",
            "--filter",
            "clean-traffic",
            "--param",
            "IP=10.0.0.1",
            "--dir",
            here,
        ]
    };
    in_fresh_netns(|| {
        let _network = Network::new();
        for arguments in [
            &bind("plan")[..],
            &bind("apply"),
            &["status"],
            &["status", "--json"],
            &["ipset", "add", "friends", "10.0.0.2"],
            &["ipset", "list", "friends"],
            &["remove", "--dev", "vnet0"],
            &["compile", "--filter", "no-mac-broadcast", "--dir", here],
            &["man", "--dir", here],
        ] {
            let executed = executed(&directory, arguments);
            assert_eq!(executed.len(), 1, "{arguments:?}: {executed:#?}");
            assert!(executed[0].contains(env!("CARGO_BIN_EXE_nwfilter")), "{executed:?}");
        }
    });
}
