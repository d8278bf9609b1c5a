//! A server in a thread of the test, and a client that says what the test has it say.

use crate::engine::Engine;
pub use crate::tool::eventually;
use nwfilter::engine::api::{FilterId, Reply, Request};
use nwfilter::engine::error::Error;
use nwfilter::service::rpc::listen::{NAME, Permissions};
use nwfilter::service::rpc::proto::{self, HEADER, Header, REMOTE, kind, status};
use nwfilter::service::rpc::wire_error;
use nwfilter::service::rpc::xdr::{Reader, Writer};
use nwfilter::service::rpc::{Call, Limits, Listeners, Queues, serve};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use uuid::Uuid;

pub struct Served {
    directory: tempfile::TempDir,
    stop: watch::Sender<bool>,
    pub connected: watch::Receiver<usize>,
    thread: Option<JoinHandle<()>>,
}

impl Served {
    pub fn new() -> Served {
        Served::with(limits(), |engine, request| engine.answer(request))
    }

    /// Every call is answered by `answer`, in a thread of its own.
    pub fn with(limits: Limits, answer: fn(&mut Engine, Request) -> Result<Reply, Error>) -> Served {
        let directory = tempfile::tempdir().unwrap();
        let listeners = Listeners::bind(directory.path(), Permissions::default()).unwrap();
        let (stop, stopped) = watch::channel(false);
        let (count, connected) = watch::channel(0);
        let thread = std::thread::spawn(move || run(listeners, limits, count, stopped, answer));
        Served { directory, stop, connected, thread: Some(thread) }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn raw(&self) -> Raw {
        Raw::connect(&self.path(NAME))
    }

    pub fn stop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }

    pub fn wait_for_clients(&self, number: usize) {
        eventually(&format!("{number} clients"), || *self.connected.borrow() == number);
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

pub fn run(
    listeners: Listeners,
    limits: Limits,
    connected: watch::Sender<usize>,
    stop: watch::Receiver<bool>,
    answer: fn(&mut Engine, Request) -> Result<Reply, Error>,
) {
    let (calls, mut asked) = mpsc::channel::<Call>(64);
    let engine = std::thread::spawn(move || {
        let mut engine = Engine::default();
        while let Some(call) = asked.blocking_recv() {
            let _ = call.reply.send(answer(&mut engine, call.request));
        }
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let queues = Queues { changes: calls.clone(), looks: calls };
    runtime.block_on(serve(listeners, limits, queues, connected, stop)).unwrap();
    drop(runtime);
    engine.join().unwrap();
}

pub fn limits() -> Limits {
    Limits { grace: Duration::from_millis(500), ..Limits::default() }
}

pub struct Raw {
    pub stream: UnixStream,
    serial: u32,
}

impl Raw {
    pub fn connect(path: &Path) -> Raw {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        Raw { stream, serial: 0 }
    }

    /// Connected and past the prologue every client begins with.
    pub fn open(path: &Path) -> Raw {
        let mut raw = Raw::connect(path);
        raw.ask(66, &[]).unwrap();
        raw.ask(1, &opening("nwfilter:///system", 0)).unwrap();
        raw
    }

    pub fn send(&mut self, procedure: i32, body: &[u8]) {
        self.send_to(REMOTE, procedure, body);
    }

    pub fn send_to(&mut self, program: u32, procedure: i32, body: &[u8]) {
        let frame = Header::call(program, procedure, self.serial).frame(body);
        self.serial += 1;
        self.stream.write_all(&frame).unwrap();
    }

    pub fn frame(&mut self) -> std::io::Result<(Header, Vec<u8>)> {
        let mut start = [0; HEADER];
        self.stream.read_exact(&mut start)?;
        let mut from = Reader::new(&start);
        let length = from.u32().unwrap() as usize;
        let head = Header::read(&mut from).unwrap();
        let mut body = vec![0; length - HEADER];
        self.stream.read_exact(&mut body)?;
        Ok((head, body))
    }

    pub fn ask(&mut self, procedure: i32, body: &[u8]) -> Result<Vec<u8>, Error> {
        self.send(procedure, body);
        let (head, body) = self.frame().unwrap();
        assert_eq!((head.procedure, head.serial), (procedure, self.serial - 1));
        answered(&head, body)
    }

    pub fn is_closed(&mut self) -> bool {
        loop {
            match self.stream.read(&mut [0; 65536]) {
                Ok(0) => return true,
                Ok(_) => (),
                Err(error) => return error.kind() == std::io::ErrorKind::ConnectionReset,
            }
        }
    }
}

pub fn answered(head: &Header, body: Vec<u8>) -> Result<Vec<u8>, Error> {
    assert_eq!(head.kind, kind::REPLY);
    match head.status {
        status::OK => Ok(body),
        status::ERROR => Err(wire_error::read(&mut Reader::new(&body)).unwrap()),
        other => panic!("status {other}"),
    }
}

pub fn body(write: impl FnOnce(&mut Writer) -> &mut Writer) -> Vec<u8> {
    let mut to = Writer::default();
    write(&mut to);
    to.into_bytes()
}

pub fn text(text: &str) -> Vec<u8> {
    body(|to| to.string(text))
}

pub fn opening(name: &str, flags: u32) -> Vec<u8> {
    body(|to| to.option(Some(name), |to, name| to.string(name)).u32(flags))
}

pub fn filter(name: &str, uuid: Uuid) -> Vec<u8> {
    body(|to| proto::write_filter(to, &FilterId { name: name.into(), uuid }))
}

/// That `frame` answers the call with this head.
pub fn check_answer(head: &Header, frame: &[u8]) {
    let mut from = Reader::new(frame);
    assert_eq!(from.u32().unwrap() as usize, frame.len());
    let answer = Header::read(&mut from).unwrap();
    assert_eq!(answer, Header { kind: kind::REPLY, status: answer.status, ..*head });
}

pub fn word(word: u32) -> Vec<u8> {
    word.to_be_bytes().to_vec()
}
