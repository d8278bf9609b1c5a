//! A network namespace for a test, and nft in it.

use crate::tool::{InTime, skipped};
use std::io::Write;
use std::process::{Command, Output, Stdio};

/// Runs in a fresh network namespace; none, with a line that says so, where that needs rights we have not.
pub fn in_namespace(body: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: unshare takes a flag and touches no memory.
            if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
                skipped("a network namespace needs root");
                return;
            }
            body();
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

pub fn run(program: &str, arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.output_in_time().unwrap()
}

pub fn nft(arguments: &str, input: &str) -> String {
    let output = run("nft", &arguments.split(' ').collect::<Vec<_>>(), input);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "nft {arguments}: {err}\n{input}");
    out.into_owned()
}

/// The rule set as people read it, and its bytecode without what differs by nature: notes, the order of a set.
pub fn listing() -> String {
    let bytecode = nft("--debug=netlink -s list ruleset", "");
    let (mut lines, mut elements) = (Vec::new(), Vec::new());
    for line in bytecode.lines().filter(|line| !line.trim_start().starts_with("userdata")) {
        match line.trim_start().starts_with("element") {
            true => elements.extend(line.split("[end]").map(str::trim).filter(|item| !item.is_empty())),
            false if line.is_empty() => {}
            false => lines.push(number_free(line)),
        }
    }
    elements.sort_unstable();
    nft("-s list ruleset", "") + &lines.join("\n") + &elements.join("\n")
}

/// Constant sets and rules are numbered in the order in which they were made.
pub fn number_free(line: &str) -> String {
    let rule = line.contains(" nwfilter ");
    let words =
        line.split(' ').map(|word| match rule || word.starts_with("__set") || word.starts_with("__map") {
            true => word.trim_end_matches(|c: char| c.is_ascii_digit()),
            false => word,
        });
    words.collect::<Vec<_>>().join(" ")
}
