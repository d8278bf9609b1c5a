//! The programs that tests run: each is there or its absence is judged, each ends by itself or is killed, and each starts
//! with the signals of a process at a terminal, however the tests were started.
//!
//! `NWFILTER_REQUIRE=all`, which `make test` sets, says that scripts/setup has run: then a program that is missing fails the
//! test. Without it the test says that it was skipped. What a kernel lacks is no concern of this page.

// Every binary uses a part of it.
#![allow(dead_code)]
// Here, and nowhere else, a wait has its bound.
#![allow(clippy::disallowed_methods)]

use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

/// How long a program may take. An emulated machine reads a large one slowly.
pub const LIMIT: Duration = Duration::from_secs(300);

/// Waits for what must come: every test's bounded poll.
///
/// # Panics
/// Where it has not come within the limit.
pub fn eventually(what: &str, mut there: impl FnMut() -> bool) {
    let until = Instant::now() + LIMIT;
    while !there() {
        assert!(Instant::now() < until, "never came: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// Waiting that ends.
///
/// # Panics
/// Each method, where the program has not ended within the limit. It is killed first.
pub trait InTime {
    /// How it ended.
    fn status_in_time(&mut self) -> io::Result<ExitStatus>;

    /// How it ended and all that it wrote.
    fn output_in_time(&mut self) -> io::Result<Output>;
}

impl InTime for Command {
    fn status_in_time(&mut self) -> io::Result<ExitStatus> {
        with_usual_signals(self).stdin(Stdio::null()).spawn()?.status_in_time()
    }

    fn output_in_time(&mut self) -> io::Result<Output> {
        with_usual_signals(self).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        self.spawn()?.output_in_time()
    }
}

impl InTime for Child {
    fn status_in_time(&mut self) -> io::Result<ExitStatus> {
        // One that reads its input to the end would wait for us.
        drop(self.stdin.take());
        let until = Instant::now() + LIMIT;
        loop {
            match self.try_wait()? {
                Some(status) => return Ok(status),
                None if Instant::now() < until => thread::sleep(Duration::from_millis(1)),
                None => too_late(self),
            }
        }
    }

    fn output_in_time(&mut self) -> io::Result<Output> {
        let (out, err) = (self.stdout.take().map(all_of), self.stderr.take().map(all_of));
        let status = self.status_in_time()?;
        Ok(Output { status, stdout: received(out), stderr: received(err) })
    }
}

fn too_late(child: &mut Child) -> ! {
    let name = std::fs::read_to_string(format!("/proc/{}/cmdline", child.id())).unwrap_or_default();
    end(child);
    panic!("killed, since it did not end within {LIMIT:?}: {}", name.replace('\0', " "))
}

fn all_of(mut from: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = from.read_to_end(&mut bytes);
        let _ = sender.send(bytes);
    });
    receiver
}

fn received(from: Option<Receiver<Vec<u8>>>) -> Vec<u8> {
    let heirs = "the program ended, but one that it started keeps its output open";
    from.map(|bytes| bytes.recv_timeout(LIMIT).expect(heirs)).unwrap_or_default()
}

/// Kills a program that may have ended already.
pub fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

/// Sends a signal to a program that was not waited for.
pub fn signal(child: &Child, signal: i32) {
    // SAFETY: the number is that of our own child, which no one has waited for.
    assert_eq!(unsafe { libc::kill(child.id() as i32, signal) }, 0, "{}", io::Error::last_os_error());
}

/// A program under nohup, or in the background of a script, inherits that SIGHUP or SIGINT is ignored.
pub fn with_usual_signals(command: &mut Command) -> &mut Command {
    let usual = || {
        for signal in [libc::SIGINT, libc::SIGHUP, libc::SIGQUIT, libc::SIGTERM] {
            // SAFETY: signal(2) may be called between fork and exec.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
        Ok(())
    };
    // SAFETY: it makes system calls alone.
    unsafe { command.pre_exec(usual) }
}

/// A connection to a program. Reads from it end within the limit.
pub fn connect(socket: &Path) -> UnixStream {
    let stream = UnixStream::connect(socket).unwrap_or_else(|why| panic!("{}: {why}", socket.display()));
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream
}

/// The lines that a running program writes.
pub struct Lines(Receiver<String>);

impl Lines {
    pub fn of(from: impl Read + Send + 'static) -> Lines {
        let (sender, receiver) = channel();
        thread::spawn(move || {
            let lines = BufReader::new(from).lines().map_while(Result::ok);
            lines.map(|line| sender.send(line)).take_while(Result::is_ok).for_each(drop);
        });
        Lines(receiver)
    }
}

/// # Panics
/// Where no line comes within the limit and the program has not closed its output.
impl Iterator for Lines {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        match self.0.recv_timeout(LIMIT) {
            Ok(line) => Some(line),
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => None,
            Err(late) => panic!("no line within {LIMIT:?}: {late}"),
        }
    }
}

/// Whether a program is there, which scripts/setup with these arguments installs.
///
/// # Panics
/// Where it is missing and nothing may be.
pub fn available(program: &str, setup: &str) -> bool {
    let there = on_path(program);
    there || skipped(&format!("{program} is not installed (scripts/setup {setup})"))
}

/// Says that a test is skipped for want of what a script installs; gives false.
///
/// # Panics
/// Where nothing may be missing.
pub fn skipped(why: &str) -> bool {
    assert!(std::env::var_os("NWFILTER_REQUIRE").is_none_or(|what| what != "all"), "{why}");
    println!("skipped: {why}");
    false
}

/// Whether a program is there.
pub fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}
