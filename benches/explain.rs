//! What an answer of `nwfilter explain` takes, from the start of the command to its end, for a filter of 200 rules.
//!
//! `cargo bench --bench explain` prints a line. Every rule is tried on the frame, and none but the last takes it.

#[path = "../tests/tool/mod.rs"]
mod tool;

use std::process::Command;
use std::time::{Duration, Instant};
use tool::InTime;

const RUNS: usize = 200;

fn main() {
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::write(directory.path().join("f.xml"), filter(200)).expect("a filter");
    let mut command = Command::new(env!("CARGO_BIN_EXE_nwfilter"));
    command.args(["explain", "--filter", "f", "--param", "MAC=52:54:00:00:00:01", "--json", "--dir"]);
    command.arg(directory.path()).args(["--tcp", "10.0.0.1:1>10.0.199.1:7"]);
    let mut times: Vec<Duration> = (0..RUNS).map(|_| run(&mut command)).collect();
    times.sort();
    let (median, p99) = (times[RUNS / 2], times[RUNS * 99 / 100]);
    println!("explain, 200 rules, the whole command: p50 {median:.1?}, p99 {p99:.1?}");
}

fn run(command: &mut Command) -> Duration {
    let begun = Instant::now();
    let output = command.output_in_time().expect("it runs");
    let took = begun.elapsed();
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(text.contains("\"verdict\": \"drop\"") && text.matches("\"missed\"").count() >= 200, "{text}");
    took
}

fn filter(rules: u32) -> String {
    let rule = |at| {
        format!(
            "<rule action='accept' direction='out'><tcp dstipaddr='10.0.{at}.1' dstportstart='{at}'/></rule>\n"
        )
    };
    let rules: String = (0..rules).map(rule).collect();
    format!(
        "<filter name='f'>\n{rules}<rule action='drop' direction='out' priority='900'><all/></rule>\n</filter>\n"
    )
}
