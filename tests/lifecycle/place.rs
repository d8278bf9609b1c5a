//! A place where one daemon of the host runs as process 1, with its own mounts, and lines of shell beside it.
//!
//! It is in the network namespace of the thread that makes it, so that what it rules is the lab's.

use crate::tool::{InTime, Lines, end, eventually, with_usual_signals};
use std::io::Write;
use std::process::{Child, ChildStdin, Command, Stdio};
use tempfile::TempDir;

/// The place. Dropping it ends everything there.
pub struct Place {
    unshare: Child,
    lines: ChildStdin,
    answers: Lines,
    directory: TempDir,
}

impl Place {
    /// Runs `prepare` and then the daemon.
    pub fn new(prepare: &str, daemon: &str) -> Place {
        let directory = TempDir::new().unwrap();
        let script = format!(
            "exec 3<&0 4>&1 </dev/null >>\"$PLACE/log\" 2>&1\nmount --make-rprivate /\n{prepare}\n\
             while read -r line <&3; do eval \"$line\"; echo $? >&4; done &\nexec {daemon}"
        );
        let mut command = Command::new("unshare");
        command.args("--pid --fork --kill-child --mount --mount-proc --cgroup sh -c".split(' ')).arg(&script);
        command.env("PLACE", directory.path()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut unshare = with_usual_signals(&mut command).spawn().unwrap();
        let lines = unshare.stdin.take().unwrap();
        let answers = Lines::of(unshare.stdout.take().unwrap());
        Place { unshare, lines, answers, directory }
    }

    fn run(&mut self, line: &str) -> bool {
        writeln!(self.lines, "{line}").unwrap();
        let answer = self.answers.next().unwrap_or_else(|| panic!("the place is gone: {}", self.log()));
        answer == "0"
    }

    /// Runs a line of shell, which must succeed.
    pub fn succeeds(&mut self, line: &str) {
        assert!(self.run(line), "{line}: {}", self.log());
    }

    /// Runs it until it succeeds.
    pub fn waits_for(&mut self, line: &str) {
        eventually(line, || self.run(line));
    }

    /// Runs a line that ends the place, and waits for that.
    pub fn ends(mut self, line: &str) {
        writeln!(self.lines, "{line}").unwrap();
        self.unshare.status_in_time().unwrap();
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        end(&mut self.unshare);
    }
}
