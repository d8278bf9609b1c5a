//! One client's connection: bytes in and out, its calls on their way to the engine, and its deadlines.
//!
//! Calls go to the engine in the order they came; answers go back as they come. Nothing is read while the
//! client has all the calls it may have, or does not take what it is sent. Room for a long frame and a place
//! for a call are waited for in turn. An idle connection holds no buffer.

use super::frames::{BadLength, Frames};
use super::proto::Header;
use super::server::{Call, Pool, stopped};
use super::session::{KeepaliveEvent, Session, Step, respond};
use crate::engine::api::{Reply, Request};
use crate::engine::error::Error;
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::sync::{OwnedSemaphorePermit, oneshot, watch};
use tokio::time::Instant;

/// One client's connection.
pub(super) struct Connection {
    stream: UnixStream,
    pool: Arc<Pool>,
    session: Session,
    started: Instant,
    frames: Frames,
    /// Since when a frame is waited for; `None` between frames.
    frame_since: Option<Instant>,
    /// Waits for room for the long frame under way.
    claiming: Option<Waiting<OwnedSemaphorePermit>>,
    /// Room for the long frame under way.
    room: Option<OwnedSemaphorePermit>,
    /// Calls read and not yet given to the engine, oldest first.
    asked: VecDeque<Asked>,
    /// Gives the oldest of them to the engine.
    handing: Option<Waiting<Pending>>,
    /// Calls the engine has.
    pending: Vec<Pending>,
    outgoing: VecDeque<Outgoing>,
    /// Sent of the first of them, and since when it is the first.
    sent: usize,
    sent_since: Instant,
    /// Nothing more is read; the connection ends when all answers are sent.
    closing: bool,
    /// The very last frame, when the client said goodbye.
    farewell: Option<Vec<u8>>,
}

/// Why a connection was ended from this side.
#[derive(Debug, thiserror::Error)]
pub(super) enum DisconnectReason {
    #[error(transparent)]
    BadLength(#[from] BadLength),
    #[error("a frame took too long to come")]
    SlowWriter,
    #[error("an answer was not taken in time")]
    SlowReader,
    #[error("pings went unanswered")]
    Silent,
    #[error("passed file descriptors")]
    Descriptors,
    #[error(transparent)]
    Io(#[from] io::Error),
}

struct Asked {
    head: Header,
    request: Request,
    _room: Option<OwnedSemaphorePermit>,
}

struct Pending {
    head: Header,
    is_look: bool,
    answer: oneshot::Receiver<Result<Reply, Error>>,
    slot: OwnedSemaphorePermit,
    _room: Option<OwnedSemaphorePermit>,
}

struct Outgoing {
    frame: Vec<u8>,
    /// What the answer of a call takes up until it is sent: room for its bytes, or else its call's place.
    place: Option<OwnedSemaphorePermit>,
}

enum Event {
    Readable,
    Writable,
    Handed(Pending),
    Answered(Header, OwnedSemaphorePermit, Result<Reply, Error>),
    Granted(OwnedSemaphorePermit),
    Due,
    Stop,
}

type Waiting<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Frames waiting to be sent (pongs and refusals too) beyond which nothing is read.
const OUTGOING_MAX: usize = 32;

impl Connection {
    pub fn new(stream: UnixStream, pool: Arc<Pool>) -> Connection {
        let now = Instant::now();
        Connection {
            stream,
            session: Session::new(pool.access, pool.limits.keepalive),
            frames: Frames::new(pool.keep()),
            pool,
            started: now,
            frame_since: Some(now),
            claiming: None,
            room: None,
            asked: VecDeque::new(),
            handing: None,
            pending: Vec::new(),
            outgoing: VecDeque::new(),
            sent: 0,
            sent_since: now,
            closing: false,
            farewell: None,
        }
    }

    /// Serves the client until it leaves, breaks a rule, or `stop` turns true.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) -> Result<(), DisconnectReason> {
        loop {
            self.go_on()?;
            if self.closing && self.outstanding() == 0 && self.outgoing.is_empty() {
                return Ok(());
            }
            match self.event(&mut stop).await {
                Event::Readable if !self.read()? => return Ok(()),
                Event::Readable | Event::Writable => (),
                Event::Handed(pending) => {
                    self.handing = None;
                    self.pending.push(pending);
                }
                Event::Answered(head, slot, answer) => self.answer(respond(&head, answer), slot),
                Event::Granted(room) => {
                    self.claiming = None;
                    self.room = Some(room);
                    self.frame_since = Some(Instant::now());
                }
                Event::Due => self.due()?,
                Event::Stop => self.closing = true,
            }
        }
    }

    /// Does what can be done without waiting: each answer sent may let one more call in.
    fn go_on(&mut self) -> Result<(), DisconnectReason> {
        self.write()?;
        while self.take_frames()? {
            self.write()?;
        }
        self.hand_over();
        self.say_goodbye();
        self.write()
    }

    async fn event(&mut self, stop: &mut watch::Receiver<bool>) -> Event {
        let (may_read, due) = (self.may_read(), self.next_due());
        tokio::select! {
            () = stopped(stop), if !self.closing => Event::Stop,
            pending = wait(&mut self.handing) => Event::Handed(pending),
            (head, slot, answer) = answered(&mut self.pending) => Event::Answered(head, slot, answer),
            room = wait(&mut self.claiming) => Event::Granted(room),
            _ = self.stream.writable(), if !self.outgoing.is_empty() => Event::Writable,
            _ = self.stream.readable(), if may_read => Event::Readable,
            () = tokio::time::sleep_until(due.unwrap_or(self.started)), if due.is_some() => Event::Due,
        }
    }

    /// Makes frames of what was read, as long as the client may ask more; false when there was none to make.
    fn take_frames(&mut self) -> Result<bool, DisconnectReason> {
        let mut any = false;
        while self.may_take() {
            let Some((head, body)) = self.frames.take()? else { break };
            let room = self.room.take();
            self.frame_since = self.frames.is_amid().then(Instant::now);
            let step = self.session.receive(self.started.elapsed(), &head, &body);
            self.step(step, room)?;
            any = true;
        }
        self.frames.settle();
        if self.frames.is_amid() {
            self.frame_since.get_or_insert_with(Instant::now);
        }
        if self.room.is_none() && self.claiming.is_none() && self.may_take() {
            self.claiming = self.frames.claim().map(|bytes| claim(&self.pool, bytes));
        }
        Ok(any)
    }

    fn step(&mut self, step: Step, room: Option<OwnedSemaphorePermit>) -> Result<(), DisconnectReason> {
        match step {
            Step::Ignore => (),
            Step::Send(frame) => self.send(frame, None),
            Step::Last(frame) => (self.farewell, self.closing) = (Some(frame), true),
            Step::Ask(head, request) => self.asked.push_back(Asked { head, request, _room: room }),
            Step::Close => return Err(DisconnectReason::Descriptors),
        }
        Ok(())
    }

    /// What a client asks is done in the order in which it asks: a change waits for its looks, a look for its changes.
    fn hand_over(&mut self) {
        if self.handing.is_some() {
            return;
        }
        let Some(next) = self.asked.front() else { return };
        let is_look = next.request.is_look();
        if self.pending.iter().all(|pending| pending.is_look == is_look) {
            self.handing = self.asked.pop_front().map(|asked| hand(&self.pool, asked));
        }
    }

    fn say_goodbye(&mut self) {
        if self.unanswered() == 0
            && let Some(frame) = self.farewell.take()
        {
            self.send(frame, None);
        }
    }

    /// Calls read and not answered.
    fn unanswered(&self) -> usize {
        self.asked.len() + usize::from(self.handing.is_some()) + self.pending.len()
    }

    /// Calls read whose answers are not sent.
    fn outstanding(&self) -> usize {
        self.unanswered() + self.outgoing.iter().filter(|it| it.place.is_some()).count()
    }

    fn may_take(&self) -> bool {
        !self.closing && self.outstanding() < self.pool.limits.requests && self.outgoing.len() < OUTGOING_MAX
    }

    fn may_read(&self) -> bool {
        self.may_take() && self.claiming.is_none()
    }

    /// A client that does not read takes up room, and a place of the engine's only when there is no room.
    fn answer(&mut self, frame: Vec<u8>, slot: OwnedSemaphorePermit) {
        let bytes = u32::try_from(frame.len()).expect("frames are limited far below 4 GiB");
        let room = self.pool.bytes.clone().try_acquire_many_owned(bytes);
        self.send(frame, Some(room.unwrap_or(slot)));
    }

    fn send(&mut self, frame: Vec<u8>, place: Option<OwnedSemaphorePermit>) {
        if self.outgoing.is_empty() {
            self.sent_since = Instant::now();
        }
        self.outgoing.push_back(Outgoing { frame, place });
    }

    /// Reads what there is, once; false at the end of the stream.
    fn read(&mut self) -> Result<bool, DisconnectReason> {
        match self.stream.try_read_buf(self.frames.room()) {
            Ok(0) => Ok(false),
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes until the client takes no more.
    fn write(&mut self) -> Result<(), DisconnectReason> {
        while let Some(first) = self.outgoing.front() {
            match self.stream.try_write(&first.frame[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
            if self.sent == first.frame.len() {
                self.sent_one();
            }
        }
        Ok(())
    }

    fn sent_one(&mut self) {
        let now = Instant::now();
        self.outgoing.pop_front();
        (self.sent, self.sent_since) = (0, now);
        // A frame that lay half read while we would not read has its time from now on.
        self.frame_since = self.frame_since.map(|_| now);
    }

    /// Since when a frame is incomplete; none while no more of it may be read.
    fn frame_begun(&self) -> Option<Instant> {
        if self.may_read() { self.frame_since } else { None }
    }

    /// The next moment at which something is overdue.
    fn next_due(&self) -> Option<Instant> {
        let limits = &self.pool.limits;
        let frame = self.frame_begun().map(|since| since + limits.frame_deadline);
        let write = (!self.outgoing.is_empty()).then(|| self.sent_since + limits.write_deadline);
        let beat = if self.closing { None } else { self.session.next_beat() };
        let beat = beat.map(|after| self.started + after);
        [frame, write, beat].into_iter().flatten().min()
    }

    fn due(&mut self) -> Result<(), DisconnectReason> {
        let (now, limits) = (Instant::now(), self.pool.limits);
        if !self.outgoing.is_empty() && over(now, self.sent_since, limits.write_deadline) {
            return Err(DisconnectReason::SlowReader);
        }
        if self.frame_begun().is_some_and(|since| over(now, since, limits.frame_deadline)) {
            return Err(DisconnectReason::SlowWriter);
        }
        self.beat()
    }

    fn beat(&mut self) -> Result<(), DisconnectReason> {
        let now = self.started.elapsed();
        if !self.may_read() {
            // A pong may lie unread, and that is our doing.
            self.session.excuse(now);
        }
        match self.session.beat(now) {
            KeepaliveEvent::Quiet => (),
            KeepaliveEvent::Ping(frame) => self.send(frame, None),
            KeepaliveEvent::Dead => return Err(DisconnectReason::Silent),
        }
        Ok(())
    }
}

fn over(now: Instant, since: Instant, limit: Duration) -> bool {
    now.saturating_duration_since(since) >= limit
}

fn claim(pool: &Pool, bytes: usize) -> Waiting<OwnedSemaphorePermit> {
    let (bytes, all) = (bytes as u32, pool.bytes.clone());
    Box::pin(async move { all.acquire_many_owned(bytes).await.expect("it is never closed") })
}

fn hand(pool: &Pool, asked: Asked) -> Waiting<Pending> {
    let (lane, access) = (pool.lane(&asked.request).clone(), pool.access);
    Box::pin(async move {
        let slot = lane.slots.acquire_owned().await.expect("it is never closed");
        let Asked { head, request, _room } = asked;
        let (reply, answer) = oneshot::channel();
        // With the engine gone the sender goes too, and the answer says so.
        let is_look = request.is_look();
        let _ = lane.calls.send(Call { request, access, reply }).await;
        Pending { head, is_look, answer, slot, _room }
    })
}

/// The end of what is waited for; never, where nothing is.
async fn wait<T>(waiting: &mut Option<Waiting<T>>) -> T {
    match waiting {
        Some(waiting) => waiting.await,
        None => std::future::pending().await,
    }
}

/// The next answer, whichever comes first.
async fn answered(pending: &mut Vec<Pending>) -> (Header, OwnedSemaphorePermit, Result<Reply, Error>) {
    poll_fn(|context| poll_answers(pending, context)).await
}

fn poll_answers(
    pending: &mut Vec<Pending>,
    context: &mut Context,
) -> Poll<(Header, OwnedSemaphorePermit, Result<Reply, Error>)> {
    for at in 0..pending.len() {
        if let Poll::Ready(answer) = Pin::new(&mut pending[at].answer).poll(context) {
            let Pending { head, slot, .. } = pending.remove(at);
            return Poll::Ready((head, slot, answer.unwrap_or_else(|_| Err(Error::unknown()))));
        }
    }
    Poll::Pending
}
