//! What clients can make the server hold, measured from outside: the server is a process of its own.

use crate::engine::Engine;
use crate::served::{Raw, eventually, filter, limits, run, word};
use crate::tool::end;
use nwfilter::engine::api::{Reply, Request};
use nwfilter::service::rpc::listen::{NAME, NAME_READ_ONLY, Permissions};
use nwfilter::service::rpc::{Limits, Listeners};
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use uuid::Uuid;

const DIRECTORY: &str = "NWFILTER_TEST_RPC_DIRECTORY";

struct Process {
    directory: tempfile::TempDir,
    child: Child,
}

impl Process {
    fn new() -> Process {
        let directory = tempfile::tempdir().unwrap();
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "memory::the_server_process", "--ignored"])
            .env(DIRECTORY, directory.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let process = Process { directory, child };
        eventually("the server process", || UnixStream::connect(process.path(NAME_READ_ONLY)).is_ok());
        process
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A line of the process's status, in kB.
    fn memory(&self, line: &str) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let found = status.lines().find(|each| each.starts_with(line)).unwrap();
        found.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

/// Not a test: the process the tests below measure. Every document it has is a megabyte long.
#[test]
#[ignore = "started by the tests that measure it"]
fn the_server_process() {
    let Some(directory) = std::env::var_os(DIRECTORY) else { return };
    let listeners = Listeners::bind(directory.as_ref(), Permissions::default()).unwrap();
    let (count, _connected) = watch::channel(0);
    let (_stop, stopped) = watch::channel(false);
    let answer = |engine: &mut Engine, request| match request {
        Request::FilterXml { .. } => Ok(Reply::Xml("x".repeat(1 << 20))),
        request => engine.answer(request),
    };
    let patient = Limits { frame_deadline: Duration::from_secs(60), ..limits() };
    run(listeners, patient, count, stopped, answer);
}

#[test]
fn two_thousand_idle_clients_cost_little() {
    let process = Process::new();
    drop(Raw::open(&process.path(NAME)));
    let before = process.memory("VmRSS");
    let idle: Vec<Raw> =
        (0..2000).map(|at| Raw::open(&process.path([NAME, NAME_READ_ONLY][at % 2]))).collect();
    let each = (process.memory("VmRSS") - before) as f64 / idle.len() as f64;
    println!("an idle client costs {each:.1} kB");
    assert!(each < 4.0, "{each:.1} kB a client");
    assert_eq!(Raw::open(&process.path(NAME)).ask(178, &[]).unwrap(), word(0));
}

#[test]
fn long_frames_half_sent_share_a_bounded_room() {
    let process = Process::new();
    let before = process.memory("VmRSS");
    let half = [word(4 << 20), vec![0; (4 << 20) - 100]].concat();
    let mut clients: Vec<(UnixStream, usize)> = (0..300)
        .map(|at| (UnixStream::connect(process.path([NAME, NAME_READ_ONLY][at % 2])).unwrap(), 0))
        .collect();
    clients.iter().for_each(|(stream, _)| stream.set_nonblocking(true).unwrap());
    push(&mut clients, &half);
    let (sent, held) =
        (clients.iter().map(|(_, sent)| sent).sum::<usize>() >> 10, process.memory("VmHWM") - before);
    println!("300 clients sent {sent} kB of frames they do not finish; held {held} kB");
    assert!(sent > 400 << 10, "only {sent} kB went out");
    assert!(held < 80 << 10, "{held} kB held");
    assert_eq!(Raw::open(&process.path(NAME)).ask(178, &[]).unwrap(), word(0), "short calls go on");
}

/// Writes to all of them until none takes any more for a while.
fn push(clients: &mut [(UnixStream, usize)], bytes: &[u8]) {
    let mut last = Instant::now();
    while last.elapsed() < Duration::from_millis(300) {
        for (stream, sent) in clients.iter_mut() {
            if let Ok(count @ 1..) = stream.write(&bytes[*sent..]) {
                *sent += count;
                last = Instant::now();
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn unread_answers_are_bounded_and_starve_no_other_socket() {
    let process = Process::new();
    let before = process.memory("VmRSS");
    let mut clients: Vec<Raw> = (0..200).map(|_| Raw::open(&process.path(NAME_READ_ONLY))).collect();
    for client in &mut clients {
        for _ in 0..8 {
            client.send(177, &[filter("a", Uuid::nil()), word(0)].concat());
        }
    }
    let settled = Instant::now() + Duration::from_secs(1);
    while Instant::now() < settled {
        assert_eq!(Raw::open(&process.path(NAME)).ask(178, &[]).unwrap(), word(0), "the other socket");
    }
    let held = process.memory("VmHWM") - before;
    println!("1600 calls for a megabyte each, none of it read: held {held} kB");
    // 64 MB of room, 64 of the engine's places, and what the allocator keeps.
    assert!(held < 224 << 10, "{held} kB held");
}
