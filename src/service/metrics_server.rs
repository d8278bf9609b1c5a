//! `GET /metrics` over a socket of this host: requests in, a question to the daemon, its text out.
//!
//! One question a connection. Whatever comes in, time and memory are bounded: so many connections, so many bytes of a
//! request, so long for all of it. It knows nothing of what the text says.

use crate::service::config::Endpoint;
use crate::service::rpc::listen::{self, ListenError};
use crate::service::rpc::server::stopped;
use std::collections::VecDeque;
use std::io;
use std::net;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

/// Where the text goes that is asked for.
pub type Question = oneshot::Sender<String>;

/// A socket that listens.
#[derive(Debug)]
pub enum Socket {
    /// With a file.
    Unix(listen::Listener),
    /// At a loopback address.
    Loopback(net::TcpListener),
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The figures.
    Metrics,
    /// There is nothing else here.
    NotFound,
    /// They can be got, and nothing else be done with them.
    NotAllowed,
    /// This is no HTTP.
    Bad,
    /// It would never end.
    TooLong,
}

/// The content type of OpenMetrics, which Prometheus asks for first.
const METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Bytes of a request.
pub const LONGEST: usize = 8 << 10;

/// Connections at a time; one more takes the place of another.
const CONNECTIONS: usize = 8;

/// For a request, the text, its way out and the other end's farewell.
const PATIENCE: Duration = Duration::from_secs(5);

/// After an accept that failed for want of descriptors, for one.
const RETRY: Duration = Duration::from_secs(1);

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

enum Listening {
    Unix(UnixListener),
    Loopback(TcpListener),
}

impl Socket {
    /// Listens there. The file of a unix socket gets this group and mode.
    pub fn bind(endpoint: &Endpoint, group: Option<u32>, mode: u32) -> Result<Socket, ListenError> {
        match endpoint {
            Endpoint::Unix(path) => Ok(Socket::Unix(listen::Listener::bind(path.clone(), group, mode)?)),
            Endpoint::Loopback(address) => {
                let there = |error| ListenError::System(address.to_string().into(), error);
                let socket = net::TcpListener::bind(address).map_err(there)?;
                socket.set_nonblocking(true).map_err(there)?;
                Ok(Socket::Loopback(socket))
            }
        }
    }

    fn listening(&self) -> io::Result<Listening> {
        Ok(match self {
            Socket::Unix(listener) => Listening::Unix(UnixListener::from_std(listener.socket.try_clone()?)?),
            Socket::Loopback(socket) => Listening::Loopback(TcpListener::from_std(socket.try_clone()?)?),
        })
    }
}

impl Listening {
    async fn accept(&self) -> io::Result<Box<dyn Stream>> {
        Ok(match self {
            Listening::Unix(socket) => Box::new(socket.accept().await?.0),
            Listening::Loopback(socket) => Box::new(socket.accept().await?.0),
        })
    }
}

/// Answers until it is stopped.
pub async fn serve(
    socket: Socket,
    questions: mpsc::Sender<Question>,
    mut stop: watch::Receiver<bool>,
) -> io::Result<()> {
    let listening = socket.listening()?;
    let mut conversations = JoinSet::new();
    let mut places = VecDeque::new();
    loop {
        tokio::select! {
            () = stopped(&mut stop) => return Ok(()),
            accepted = listening.accept() => match accepted {
                Ok(stream) => {
                    make_place(&mut places);
                    let heard = Arc::default();
                    let conversation = converse(stream, questions.clone(), Arc::clone(&heard));
                    let conversation = conversations.spawn(timeout(PATIENCE, conversation));
                    places.push_back(Place { heard, conversation });
                }
                Err(error) => {
                    tracing::warn!(%error, "no metrics client can be accepted; metrics are not served until a file descriptor is free");
                    tokio::time::sleep(RETRY).await;
                }
            },
            Some(_) = conversations.join_next() => (),
        }
    }
}

/// A conversation, and whether its request has come.
struct Place {
    heard: Arc<AtomicBool>,
    conversation: AbortHandle,
}

/// Makes room for one more. Where all places are taken, the conversation ends that has been silent longest, or else the
/// oldest: a scraper asks and reads at once.
fn make_place(places: &mut VecDeque<Place>) {
    places.retain(|place| !place.conversation.is_finished());
    if places.len() >= CONNECTIONS {
        let silent = places.iter().position(|place| !place.heard.load(Ordering::Relaxed));
        let ended = places.remove(silent.unwrap_or(0));
        ended.iter().for_each(|place| place.conversation.abort());
    }
}

/// One request, its answer and the end. Takes as long as the other end does. It is noted when the request has come.
pub async fn converse(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    questions: mpsc::Sender<Question>,
    heard: Arc<AtomicBool>,
) -> io::Result<()> {
    let (mut request, mut length) = (vec![0; LONGEST], 0);
    let answer = loop {
        if let Some(answer) = judge(&request[..length]) {
            break answer;
        }
        match stream.read(&mut request[length..]).await? {
            0 => return Ok(()),
            more => length += more,
        }
    };
    heard.store(true, Ordering::Relaxed);
    let text = match answer {
        Answer::Metrics => ask(&questions).await?,
        _ => format!("{}\n", answer.status()),
    };
    stream.write_all(answer.head(text.len()).as_bytes()).await?;
    stream.write_all(text.as_bytes()).await?;
    stream.shutdown().await?;
    // Unread bytes would make the kernel discard the answer.
    while stream.read(&mut request).await? > 0 {}
    Ok(())
}

/// What is to be answered to these bytes; none while they are no whole request.
pub fn judge(request: &[u8]) -> Option<Answer> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut parsed = httparse::Request::new(&mut headers);
    match parsed.parse(request) {
        Err(_) => Some(Answer::Bad),
        Ok(httparse::Status::Partial) => (request.len() >= LONGEST).then_some(Answer::TooLong),
        Ok(httparse::Status::Complete(_)) => {
            let path = parsed.path.and_then(|target| target.split('?').next());
            Some(match (parsed.method, path) {
                (Some("GET"), Some("/metrics")) => Answer::Metrics,
                (_, Some("/metrics")) => Answer::NotAllowed,
                _ => Answer::NotFound,
            })
        }
    }
}

async fn ask(questions: &mpsc::Sender<Question>) -> io::Result<String> {
    let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
    let (question, text) = oneshot::channel();
    questions.send(question).await.map_err(|_| gone())?;
    text.await.map_err(|_| gone())
}

impl Answer {
    fn status(self) -> &'static str {
        match self {
            Answer::Metrics => "200 OK",
            Answer::NotFound => "404 Not Found",
            Answer::NotAllowed => "405 Method Not Allowed",
            Answer::Bad => "400 Bad Request",
            Answer::TooLong => "431 Request Header Fields Too Large",
        }
    }

    fn head(self, length: usize) -> String {
        let (kind, allow) = match self {
            Answer::Metrics => (METRICS, ""),
            Answer::NotAllowed => ("text/plain", "Allow: GET\r\n"),
            _ => ("text/plain", ""),
        };
        format!(
            "HTTP/1.1 {}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n{allow}Connection: close\r\n\r\n",
            self.status()
        )
    }
}
