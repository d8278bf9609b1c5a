//! Who asks for metrics: what is answered to requests, to garbage, and to those who never finish.

use nwfilter::service::config::Endpoint;
use nwfilter::service::metrics_server::{Answer, LONGEST, Question, Socket, converse, judge, serve};
use proptest::prelude::*;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, watch};

const GOOD: &str = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n";

#[test]
fn a_request_is_judged_by_its_method_and_path() {
    let long = format!("GET /metrics HTTP/1.1\r\nX: {}", "x".repeat(LONGEST));
    let many = format!("GET /metrics HTTP/1.1\r\n{}\r\n", "X: x\r\n".repeat(65));
    for (request, expected) in [
        (GOOD, Some(Answer::Metrics)),
        ("GET /metrics HTTP/1.0\r\n\r\n", Some(Answer::Metrics)),
        ("GET /metrics?name[]=x HTTP/1.1\r\n\r\n", Some(Answer::Metrics)),
        ("POST /metrics HTTP/1.1\r\nContent-Length: 1\r\n\r\nx", Some(Answer::NotAllowed)),
        ("HEAD /metrics HTTP/1.1\r\n\r\n", Some(Answer::NotAllowed)),
        ("GET / HTTP/1.1\r\n\r\n", Some(Answer::NotFound)),
        ("GET /metrics/../etc HTTP/1.1\r\n\r\n", Some(Answer::NotFound)),
        ("GET http://localhost/metrics HTTP/1.1\r\n\r\n", Some(Answer::NotFound)),
        ("", None),
        ("GET", None),
        (&GOOD[..GOOD.len() - 1], None),
        ("GET /metrics\r\n\r\n", Some(Answer::Bad)),
        ("GET /metrics HTTP/2.0\r\n\r\n", Some(Answer::Bad)),
        ("\u{16}\u{3}\u{1}", Some(Answer::Bad)),
        (&long[..LONGEST], Some(Answer::TooLong)),
        (&many, Some(Answer::Bad)),
    ] {
        assert_eq!(judge(request.as_bytes()), expected, "{request:?}");
    }
}

/// What the other end gets that sends these pieces and no more, and how often figures were asked for.
fn talk(pieces: &[&[u8]]) -> (Vec<u8>, usize) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (questions_to, mut questions) = mpsc::channel::<Question>(1);
        let (mut ours, theirs) = tokio::io::duplex(64);
        let answers = tokio::spawn(async move {
            let mut asked = 0;
            while let Some(question) = questions.recv().await {
                asked += 1;
                question.send("figures\n".into()).unwrap();
            }
            asked
        });
        let conversation = tokio::spawn(converse(theirs, questions_to, Arc::default()));
        let mut got = Vec::new();
        let (mut from, mut to) = tokio::io::split(&mut ours);
        let send = async {
            for piece in pieces {
                // Who has its answer does not listen on.
                if to.write_all(piece).await.is_err() {
                    break;
                }
            }
            let _ = to.shutdown().await;
        };
        tokio::join!(send, async { drop(from.read_to_end(&mut got).await) });
        drop(ours);
        let _ = conversation.await.unwrap();
        (got, answers.await.unwrap())
    })
}

/// A request, or something like one.
fn request() -> impl Strategy<Value = Vec<u8>> {
    let broken = (0..GOOD.len(), any::<u8>(), any::<bool>()).prop_map(|(at, byte, cut)| {
        let mut bytes = GOOD.as_bytes().to_vec();
        bytes[at] = byte;
        bytes.truncate(if cut { at } else { bytes.len() });
        bytes
    });
    const WORDS: &[&str] =
        &["GET", "POST", " ", "/metrics", "/", "HTTP/1.1", "\r\n", "\n", ":", "x", "\0", "\r"];
    let jumbled = prop::collection::vec(prop::sample::select(WORDS), 0..12);
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..200),
        broken,
        jumbled.prop_map(|words| words.concat().into_bytes()),
        (LONGEST - 20..LONGEST + 20).prop_map(|length| GOOD.replace("*/*", &"x".repeat(length)).into_bytes()),
    ]
}

proptest! {
    #[test]
    fn garbage_gets_an_answer_or_none_and_nothing_else(bytes in request(), at in any::<prop::sample::Index>()) {
        let (got, asked) = talk(&[&bytes]);
        let cut = at.index(bytes.len() + 1);
        prop_assert_eq!(&talk(&[&bytes[..cut], &bytes[cut..]]), &(got.clone(), asked), "in pieces");
        let text = String::from_utf8(got).unwrap();
        let status = text.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..4));
        let known = ["200 ", "400 ", "404 ", "405 ", "431 "];
        prop_assert!(text.is_empty() || status.is_some_and(|status| known.contains(&status)), "{}", text);
        let good = bytes.windows(12).any(|window| window == b"GET /metrics");
        prop_assert_eq!(asked, usize::from(status == Some("200 ")));
        prop_assert!(asked == 0 || good, "{:?}", String::from_utf8_lossy(&bytes));
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = format!("Content-Length: {}\r\n", body.len());
            prop_assert!(head.contains(&length) && head.ends_with("Connection: close"), "{}", text);
        }
    }
}

#[test]
fn clients_that_never_finish_delay_no_other() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("metrics");
    let socket = Socket::bind(&Endpoint::Unix(path.clone()), None, 0o600).unwrap();
    let (stop, stopped) = watch::channel(false);
    let (questions_to, mut questions) = mpsc::channel::<Question>(1);
    let server = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            tokio::spawn(async move {
                while let Some(question) = questions.recv().await {
                    let _ = question.send("x".repeat(1 << 20));
                }
            });
            serve(socket, questions_to, stopped).await
        })
    });
    // Some say nothing, some do not read what they asked for.
    let mut silent: Vec<UnixStream> = (0..40).map(|_| UnixStream::connect(&path).unwrap()).collect();
    silent.iter_mut().step_by(2).for_each(|stream| drop(stream.write_all(GOOD.as_bytes())));
    let began = Instant::now();
    let mut stream = UnixStream::connect(&path).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(GOOD.as_bytes()).unwrap();
    let mut all = String::new();
    stream.read_to_string(&mut all).unwrap();
    assert!(all.starts_with("HTTP/1.1 200 OK\r\n") && all.len() > 1 << 20);
    assert!(began.elapsed() < Duration::from_secs(4), "less than the patience with each of them");
    stop.send(true).unwrap();
    server.join().unwrap().unwrap();
    assert!(!path.exists());
}
