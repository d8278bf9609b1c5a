//! The running server: what it is for, and what it takes without harm.

use crate::engine::{BINDING, Engine, XML};
use crate::served::{Raw, Served, body, eventually, filter, limits, opening, text, word};
use crate::tool::LIMIT;
use nwfilter::engine::api::{Reply, Request};
use nwfilter::engine::error::{Error, ErrorNumber};
use nwfilter::ruleset::ipset::IpsetVerb;
use nwfilter::service::rpc::Limits;
use nwfilter::service::rpc::client::{Client, Failure};
use nwfilter::service::rpc::listen::{NAME, NAME_READ_ONLY};
use nwfilter::service::rpc::proto::{self, FRAME_MAX, HEADER, Header, KEEPALIVE, REMOTE, STRING_MAX, kind};
use nwfilter::service::rpc::session::Keepalive;
use std::io::Write;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use uuid::Uuid;

fn client(served: &Served, name: &str) -> Client {
    Client::connect(&served.path(name), Duration::from_secs(10)).unwrap()
}

#[test]
fn the_command_is_served_on_one_socket_and_looks_on_the_other() {
    let served = Served::new();
    let mut full = client(&served, NAME);
    full.apply(BINDING).unwrap();
    assert_eq!(full.status().unwrap(), "{\"bindings\":1}");
    assert_eq!(full.bound("tap7").unwrap(), "{\"portdev\":\"tap7\"}");
    let addresses = ["192.0.2.1".to_owned(), "2001:db8::1".to_owned()];
    assert_eq!(full.ipset("allowed", IpsetVerb::Add, &addresses).unwrap(), [""; 0]);
    full.ipset("allowed", IpsetVerb::Delete, &addresses[..1]).unwrap();
    assert_eq!(full.ipset("allowed", IpsetVerb::List, &[]).unwrap(), addresses[1..]);
    full.remove("tap7").unwrap();
    let Failure::Refused(error) = full.remove("tap7").unwrap_err() else { panic!() };
    assert_eq!(error, Error::no_binding("tap7"));

    let mut read_only = client(&served, NAME_READ_ONLY);
    assert_eq!(read_only.status().unwrap(), "{\"bindings\":0}");
    let refused = |result: Result<(), Failure>| {
        let Err(Failure::Refused(error)) = result else { panic!("{result:?}") };
        assert_eq!(error.code, ErrorNumber::OperationDenied);
    };
    refused(read_only.apply(BINDING));
    refused(read_only.remove("tap7"));
    refused(read_only.ipset("allowed", IpsetVerb::Flush, &[]).map(drop));
    assert_eq!(full.status().unwrap(), "{\"bindings\":0}");
}

#[test]
fn a_client_does_not_wait_without_end() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    let silent = UnixListener::bind(&path).unwrap();
    let begun = Instant::now();
    let mut client = Client::connect(&path, Duration::from_millis(200)).unwrap();
    let Err(Failure::Io(error)) = client.status() else { panic!() };
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
    assert!(begun.elapsed() < Duration::from_secs(2));
    drop(silent);
    assert!(Client::connect(&path, Duration::from_secs(1)).is_err());
}

#[test]
fn a_client_believes_no_answer_that_makes_no_sense() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    let daemon = UnixListener::bind(&path).unwrap();
    let call = Header::call(proto::COMMAND, 1, 0);
    let reply = Header { kind: kind::REPLY, ..call };
    let answers = [
        word(u32::MAX),
        word(27),
        call.frame(&text("{}")),
        Header { serial: 1, ..reply }.frame(&text("{}")),
        reply.frame(&word(99)),
        reply.frame(&[]),
    ];
    for answer in answers {
        let mut client = Client::connect(&path, Duration::from_secs(5)).unwrap();
        let (mut stream, _) = daemon.accept().unwrap();
        stream.write_all(&[proto::keepalive_frame(1), answer.clone(), vec![0; 40]].concat()).unwrap();
        let failure = client.status().unwrap_err();
        assert!(matches!(failure, Failure::Nonsense), "{answer:x?}: {failure:?}");
    }
}

#[test]
fn a_whole_talk_in_one_write_is_answered_in_order() {
    let served = Served::new();
    let mut raw = served.raw();
    let calls = [
        (66, vec![]),
        (60, word(10)),
        (1, opening("nwfilter:///system", 0)),
        (180, text(XML)),
        (175, text("cap-test")),
        (178, vec![]),
        (2, vec![]),
    ];
    let heads = (0..)
        .zip(&calls)
        .map(|(serial, (procedure, body))| Header::call(REMOTE, *procedure, serial).frame(body));
    raw.stream.write_all(&heads.collect::<Vec<_>>().concat()).unwrap();
    for (serial, (procedure, _)) in (0..).zip(&calls) {
        let (head, _) = raw.frame().unwrap();
        assert_eq!((head.procedure, head.serial, head.status), (*procedure, serial, 0));
    }
    assert!(raw.is_closed(), "a closed connection is closed from this side too");
}

#[test]
fn nothing_that_was_read_waits_for_more_to_come() {
    let served = Served::with(Limits { requests: 1, ..limits() }, Engine::answer);
    let mut raw = Raw::open(&served.path(NAME));
    let ping = proto::keepalive_frame(proto::keepalive::PING);
    let call = Header::call(REMOTE, 178, 0).frame(&[]);
    for (frame, times) in [(ping, 140), (call, 140)] {
        raw.stream.write_all(&frame.repeat(times)).unwrap();
        for _ in 0..times {
            raw.frame().unwrap();
        }
    }
}

#[test]
fn all_procedures_reach_the_engine() {
    let served = Served::new();
    let mut raw = Raw::open(&served.path(NAME));
    let uuid: Uuid = "11111111-2222-3333-4444-555555555555".parse().unwrap();
    let binding = || body(|to| to.string("tap7").string("cap-test"));
    let flags = |body: Vec<u8>, flags| [body, word(flags)].concat();
    let xml = |text: &str| body(|to| to.string(text));
    assert_eq!(raw.ask(431, &flags(text(XML), 1)).unwrap(), filter("cap-test", uuid));
    assert_eq!(raw.ask(180, &text(XML)).unwrap(), filter("cap-test", uuid));
    assert_eq!(raw.ask(175, &text("cap-test")).unwrap(), filter("cap-test", uuid));
    assert_eq!(raw.ask(176, uuid.as_bytes()).unwrap(), filter("cap-test", uuid));
    assert_eq!(raw.ask(177, &flags(filter("other name", uuid), 0)).unwrap(), xml(XML));
    assert_eq!(raw.ask(178, &[]).unwrap(), word(1));
    assert_eq!(raw.ask(179, &word(9)).unwrap(), [word(1), text("cap-test")].concat());
    assert_eq!(raw.ask(179, &word(0)).unwrap(), word(0));
    let listed = [word(1), filter("cap-test", uuid), word(1)].concat();
    assert_eq!(raw.ask(286, &body(|to| to.u32(1).u32(0))).unwrap(), listed);
    assert_eq!(raw.ask(286, &body(|to| to.u32(0).u32(0))).unwrap(), [word(0), word(1)].concat());
    assert_eq!(raw.ask(399, &flags(text(BINDING), 1)).unwrap(), binding());
    assert_eq!(raw.ask(397, &text("tap7")).unwrap(), binding());
    assert_eq!(raw.ask(398, &flags(binding(), 0)).unwrap(), xml(BINDING));
    assert_eq!(raw.ask(401, &body(|to| to.u32(1).u32(0))).unwrap(), [word(1), binding(), word(1)].concat());
    assert_eq!(raw.ask(181, &filter("cap-test", uuid)).unwrap_err(), Error::invalid("nwfilter is in use"));
    assert_eq!(raw.ask(400, &binding()).unwrap(), [0u8; 0]);
    assert_eq!(raw.ask(181, &filter("cap-test", uuid)).unwrap(), [0u8; 0]);
    assert_eq!(raw.ask(400, &binding()).unwrap_err(), Error::no_binding("tap7"));
}

#[test]
fn a_stop_lets_answers_out_and_nothing_in() {
    static ASKED: AtomicBool = AtomicBool::new(false);
    static SOCKET: OnceLock<PathBuf> = OnceLock::new();
    let mut served = Served::with(Limits { grace: LIMIT, ..limits() }, |engine, request| {
        ASKED.store(true, Ordering::SeqCst);
        eventually("the stop during the call", || UnixStream::connect(SOCKET.get().unwrap()).is_err());
        engine.answer(request)
    });
    SOCKET.set(served.path(NAME)).unwrap();
    let mut raw = Raw::open(&served.path(NAME));
    raw.send(178, &[]);
    eventually("the engine is asked", || ASKED.load(Ordering::SeqCst));
    served.stop();
    assert_eq!(raw.frame().unwrap().1, word(0));
    assert!(raw.is_closed());
    assert!(UnixStream::connect(served.path(NAME)).is_err());
    assert_eq!(*served.connected.borrow(), 0);
}

#[test]
fn an_engine_that_drops_a_call_costs_that_call() {
    let served = Served::with(limits(), |engine, request| match request {
        Request::CountFilters => panic!("the engine's end"),
        request => engine.answer(request),
    });
    let mut raw = Raw::open(&served.path(NAME));
    for _ in 0..3 {
        let error = raw.ask(178, &[]).unwrap_err();
        assert_eq!(error.message, "An error occurred, but the cause is unknown");
    }
    assert_eq!(raw.ask(3, &[]).unwrap(), text("nwfilter"));
}

// Keepalive on a running server.

#[test]
fn a_silent_client_is_pinged_and_then_dropped() {
    let keepalive = Keepalive { interval: Duration::from_millis(60), count: 3 };
    let served = Served::with(Limits { keepalive, ..limits() }, Engine::answer);
    let mut raw = Raw::open(&served.path(NAME));
    raw.ask(60, &word(10)).unwrap();
    for _ in 0..3 {
        let (head, _) = raw.frame().unwrap();
        assert_eq!((head.program, head.procedure, head.kind), (KEEPALIVE, 1, kind::MESSAGE));
    }
    assert!(raw.is_closed());
    served.wait_for_clients(0);
}

#[test]
fn a_client_that_pongs_stays_and_pings_are_always_answered() {
    let keepalive = Keepalive { interval: Duration::from_millis(200), count: 1 };
    static PINGS: AtomicUsize = AtomicUsize::new(0);
    let served = Served::with(Limits { keepalive, ..limits() }, |engine, request| {
        // The call lasts until three pings have come.
        eventually("three pings during the call", || PINGS.load(Ordering::SeqCst) >= 3);
        engine.answer(request)
    });
    let mut raw = Raw::open(&served.path(NAME));
    raw.ask(60, &word(10)).unwrap();
    raw.send(178, &[]);
    let ping = proto::keepalive_frame(proto::keepalive::PING);
    raw.stream.write_all(&ping).unwrap();
    let mut pongs = 0;
    loop {
        let (head, _) = raw.frame().unwrap();
        match (head.program, head.procedure) {
            (KEEPALIVE, proto::keepalive::PONG) => pongs += 1,
            (KEEPALIVE, _) => {
                PINGS.fetch_add(1, Ordering::SeqCst);
                raw.stream.write_all(&proto::keepalive_frame(proto::keepalive::PONG)).unwrap();
            }
            (_, procedure) => break assert_eq!(procedure, 178),
        }
    }
    assert_eq!(pongs, 1);
}

// Clients that mean harm.

#[test]
fn lengths_no_frame_can_have_close_the_connection_and_no_other() {
    let served = Served::new();
    let mut neighbour = Raw::open(&served.path(NAME));
    for length in [0, 4, 27, FRAME_MAX as u32 + 1, u32::MAX] {
        let mut raw = Raw::open(&served.path(NAME));
        raw.stream.write_all(&word(length)).unwrap();
        assert!(raw.is_closed(), "length {length}");
    }
    assert_eq!(neighbour.ask(178, &[]).unwrap(), word(0));
}

#[test]
fn an_overlong_frame_is_refused_and_the_next_is_read() {
    let served = Served::new();
    let longest = vec![0; FRAME_MAX - HEADER];
    for name in [NAME, NAME_READ_ONLY] {
        let mut raw = Raw::open(&served.path(name));
        let mut string = longest.clone();
        string[..4].copy_from_slice(&word(longest.len() as u32 - 4));
        assert_eq!(raw.ask(175, &string).unwrap_err().message, "Unable to decode message payload");
        assert_eq!(raw.ask(178, &[]).unwrap(), word(0));
    }
    let mut raw = Raw::open(&served.path(NAME));
    let named = |length| raw_name_error(&mut raw, length);
    assert_eq!([STRING_MAX, STRING_MAX + 1].map(named), [ErrorNumber::NoFilter, ErrorNumber::Rpc]);
}

fn raw_name_error(raw: &mut Raw, length: usize) -> ErrorNumber {
    raw.ask(175, &text(&"x".repeat(length))).unwrap_err().code
}

#[test]
fn a_flood_of_calls_is_read_only_as_fast_as_it_is_answered() {
    static MOST: AtomicUsize = AtomicUsize::new(0);
    // The engine holds no call longer than it takes; what waits, waits in the kernel.
    let served = Served::with(limits(), |engine, request| {
        MOST.fetch_add(1, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(1));
        engine.answer(request)
    });
    let mut raw = Raw::open(&served.path(NAME));
    raw.stream.set_nonblocking(true).unwrap();
    let call = Header::call(REMOTE, 178, 0).frame(&[]);
    let flood = call.repeat(10_000);
    let mut written = 0;
    let until = Instant::now() + Duration::from_millis(500);
    while written < flood.len() && Instant::now() < until {
        written += raw.stream.write(&flood[written..]).unwrap_or(0);
        std::thread::sleep(Duration::from_millis(1));
    }
    let accepted = written / call.len();
    let answered = MOST.load(Ordering::SeqCst);
    // What is neither in the kernel's buffers (about 208 KiB each way) nor answered is 5 calls and one read.
    assert!(
        accepted < answered + 5 + (212_992 * 2 + 4096) / call.len(),
        "{accepted} accepted, {answered} answered"
    );
    let mut neighbour = Raw::open(&served.path(NAME));
    let begun = Instant::now();
    neighbour.ask(178, &[]).unwrap();
    assert!(begun.elapsed() < Duration::from_secs(5), "a neighbour waited {:?}", begun.elapsed());
}

#[test]
fn a_client_that_does_not_read_is_dropped_and_delays_none() {
    // Long, since a loaded machine takes its time, too.
    let write_deadline = Duration::from_secs(3);
    let tight = Limits { write_deadline, calls: 2, ..limits() };
    let served = Served::with(tight, |_, request| match request {
        Request::CountFilters => Ok(Reply::Count(0)),
        _ => Ok(Reply::Xml("x".repeat(1 << 20))),
    });
    let mut slow: Vec<Raw> = (0..4).map(|_| Raw::open(&served.path(NAME))).collect();
    for raw in &mut slow {
        (0..8).for_each(|_| raw.send(177, &[filter("a", Uuid::nil()), word(0)].concat()));
    }
    let mut patient = Raw::open(&served.path(NAME));
    let begun = Instant::now();
    patient.ask(178, &[]).unwrap();
    assert!(begun.elapsed() < write_deadline, "waited {:?} for a neighbour", begun.elapsed());
    served.wait_for_clients(1);
    assert!(slow.iter_mut().all(Raw::is_closed));
}

#[test]
fn calls_wait_for_room_until_slow_readers_are_gone() {
    static ANSWERED: AtomicUsize = AtomicUsize::new(0);
    let write_deadline = Duration::from_secs(2);
    // Room for four of the answers; the next two keep the engine's two places.
    let tight = Limits { write_deadline, calls: 2, bytes: 0, ..limits() };
    let served = Served::with(tight, |_, request| match request {
        Request::CountFilters => Ok(Reply::Count(0)),
        _ => {
            ANSWERED.fetch_add(1, Ordering::SeqCst);
            Ok(Reply::Xml("x".repeat(1 << 20)))
        }
    });
    let mut slow: Vec<Raw> = (0..3).map(|_| Raw::open(&served.path(NAME))).collect();
    for raw in &mut slow {
        (0..8).for_each(|_| raw.send(177, &[filter("a", Uuid::nil()), word(0)].concat()));
    }
    eventually("no place", || ANSWERED.load(Ordering::SeqCst) >= 6);
    let mut patient = Raw::open(&served.path(NAME));
    patient.ask(178, &[]).unwrap();
    let left = *served.connected.borrow();
    assert!(left < slow.len() + 1, "answered while all {left} were there");
}

#[test]
fn a_client_that_pings_and_never_reads_is_dropped() {
    let write_deadline = Duration::from_millis(200);
    let served = Served::with(Limits { write_deadline, ..limits() }, Engine::answer);
    let raw = Raw::open(&served.path(NAME));
    let pings = proto::keepalive_frame(proto::keepalive::PING).repeat(1000);
    let mut stream = &raw.stream;
    raw.stream.set_write_timeout(Some(Duration::from_secs(5))).unwrap();
    let until = Instant::now() + Duration::from_secs(5);
    while stream.write_all(&pings).is_ok() {
        assert!(Instant::now() < until, "the server took pings without end");
    }
    served.wait_for_clients(0);
}

#[test]
fn half_a_frame_is_not_waited_for_without_end() {
    let frame_deadline = Duration::from_millis(300);
    let served = Served::with(Limits { frame_deadline, ..limits() }, Engine::answer);
    let call = Header::call(REMOTE, 66, 0).frame(&[]);
    let mut nothing = served.raw();
    let mut half = served.raw();
    half.stream.write_all(&call[..14]).unwrap();
    let mut between = Raw::open(&served.path(NAME));
    let mut long = Raw::open(&served.path(NAME));
    long.stream.write_all(&[word(4 << 20), vec![0; 30_000]].concat()).unwrap();
    let mut cut = Raw::open(&served.path(NAME_READ_ONLY));
    cut.stream.write_all(&[word(4 << 20), vec![0; 30_000]].concat()).unwrap();
    let mut drip = Raw::open(&served.path(NAME));
    let begun = Instant::now();
    let dripped = call.iter().all(|byte| {
        std::thread::sleep(Duration::from_millis(25));
        drip.stream.write_all(&[*byte]).is_ok()
    });
    assert!(!dripped && begun.elapsed() < Duration::from_secs(2), "a byte at a time went on and on");
    for (what, raw) in
        [("nothing", &mut nothing), ("half", &mut half), ("long", &mut long), ("cut", &mut cut)]
    {
        assert!(raw.is_closed(), "{what}");
    }
    assert_eq!(between.ask(178, &[]).unwrap(), word(0), "between frames a client may rest");
}

#[test]
fn clients_beyond_a_sockets_limit_wait_for_a_place() {
    let served = Served::with(Limits { clients: 3, ..limits() }, Engine::answer);
    let mut inside: Vec<Raw> = (0..3).map(|_| Raw::open(&served.path(NAME))).collect();
    let mut waiting = served.raw();
    waiting.send(66, &[]);
    // Calls that come later, at both sockets, are answered before it.
    assert_eq!(Raw::open(&served.path(NAME_READ_ONLY)).ask(178, &[]).unwrap(), word(0));
    inside.iter_mut().for_each(|raw| assert_eq!(raw.ask(178, &[]).unwrap(), word(0)));
    waiting.stream.set_nonblocking(true).unwrap();
    assert!(waiting.frame().is_err(), "a fourth client was served");
    waiting.stream.set_nonblocking(false).unwrap();
    inside.pop();
    assert_eq!(waiting.frame().unwrap().0.procedure, 66);
    served.wait_for_clients(3);
}
