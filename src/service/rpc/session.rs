//! One connection as a state machine: a decoded frame and the time go in, what to do comes out.
//!
//! It answers everything that is not about filters or bindings (authentication, open and close, features,
//! identity, keepalive, what other drivers would do, every malformed call) and refuses what a read-only
//! connection must not ask, in libvirt's words. The rest becomes a [`Request`] for the engine.
//! It does no I/O and has no clock: time is the duration since the connection was made.

use super::checks::{known_flags, read_only};
use super::foreign;
use super::identity;
use super::proto::{self, COMMAND, Header, KEEPALIVE, REMOTE, VERSION, keepalive, kind, remote, status};
use super::xdr::{Malformed, Reader, Writer};
use crate::engine::api::{Reply, Request};
use crate::engine::error::{Domain, Error, ErrorNumber};
use std::time::Duration;

/// The state of one connection.
#[derive(Debug)]
pub struct Session {
    access: Access,
    authenticated: bool,
    open: Option<Access>,
    pulse: KeepaliveState,
}

/// What a connection may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Everything.
    Full,
    /// To look and nothing else.
    ReadOnly,
}

/// When to ping and how often in vain.
#[derive(Debug, Clone, Copy)]
pub struct Keepalive {
    /// Silence before a ping; zero means never to ping.
    pub interval: Duration,
    /// Unanswered pings before the client counts as dead.
    pub count: u32,
}

/// What a frame asks of the connection's owner.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Ignore,
    /// Send this frame.
    Send(Vec<u8>),
    /// Send this frame, then close.
    Last(Vec<u8>),
    /// Ask the engine; [`respond`] makes the frame from its answer.
    Ask(Header, Request),
    /// Close at once.
    Close,
}

/// What the passing of time asks of the connection's owner.
#[derive(Debug, PartialEq, Eq)]
pub enum KeepaliveEvent {
    /// Nothing yet.
    Quiet,
    /// Send this ping.
    Ping(Vec<u8>),
    /// Close: the client is gone.
    Dead,
}

/// The keepalive of a connection; asleep until the client says it can pong.
#[derive(Debug)]
struct KeepaliveState {
    rule: Keepalive,
    awake: bool,
    since: Duration,
    unanswered: u32,
}

/// The libvirt release whose behaviour is followed, as clients read it: 12.8.0.
const RELEASE: u64 = 12_008_000;

/// The one connection that can be opened.
const URI: &str = "nwfilter:///system";

/// Features that clients are offered: passing descriptors, keepalive, event callbacks, close callback.
const FEATURES: [i32; 4] = [8, FEATURE_KEEPALIVE, 14, 15];
const FEATURE_KEEPALIVE: i32 = 10;

impl Session {
    /// A connection just made, over a socket that grants `access`.
    pub fn new(access: Access, keepalive: Keepalive) -> Session {
        let pulse = KeepaliveState { rule: keepalive, awake: false, since: Duration::ZERO, unanswered: 0 };
        Session { access, authenticated: false, open: None, pulse }
    }

    /// Takes one frame that came at `now`.
    pub fn receive(&mut self, now: Duration, head: &Header, body: &[u8]) -> Step {
        self.pulse.heard(now);
        match (head.program, head.kind) {
            (KEEPALIVE, kind::MESSAGE) => pong(head),
            (_, kind::CALL) => self.call(now, head, body),
            (_, kind::CALL_WITH_FDS) => self.call_with_fds(now, head, body),
            // Replies and streams that no call waits for: libvirt drops them too.
            _ => Step::Ignore,
        }
    }

    /// Says what is due at `now`.
    pub fn beat(&mut self, now: Duration) -> KeepaliveEvent {
        self.pulse.beat(now)
    }

    /// When [`Session::beat`] wants to be called next, if ever.
    pub fn next_beat(&self) -> Option<Duration> {
        self.pulse.awake.then_some(self.pulse.since + self.pulse.rule.interval)
    }

    /// Takes a silence that is our own doing (we stopped reading) for a sign of life.
    pub fn excuse(&mut self, now: Duration) {
        self.pulse.heard(now);
    }

    /// No call of this protocol passes descriptors, so none is read: one that brings some ends the connection.
    fn call_with_fds(&mut self, now: Duration, head: &Header, body: &[u8]) -> Step {
        match body.split_first_chunk() {
            Some((&[0, 0, 0, 0], body)) => self.call(now, head, body),
            _ => Step::Close,
        }
    }

    fn call(&mut self, now: Duration, head: &Header, body: &[u8]) -> Step {
        let step = match (head.program, head.version, head.status) {
            (REMOTE | COMMAND, VERSION, status::OK) => self.dispatch(now, head, body),
            (REMOTE | COMMAND, VERSION, status) => {
                Err(Error::rpc(format!("Unexpected message status {status}")))
            }
            (program, version, _) => {
                Err(Error::rpc(format!("Cannot find program {program} version {version}")))
            }
        };
        step.unwrap_or_else(|error| Step::Send(proto::answer(head, |_| Err(error))))
    }

    fn dispatch(&mut self, now: Duration, head: &Header, body: &[u8]) -> Result<Step, Error> {
        if head.program == REMOTE
            && !self.authenticated
            && !matches!(head.procedure, remote::AUTH_LIST..=remote::AUTH_POLKIT)
        {
            let known = (1..=foreign::LAST).contains(&head.procedure);
            return Err(if known { Error::rpc("authentication required") } else { unknown(head) });
        }
        let engine = self.engine_call(head, body).transpose()?;
        if let Some(request) = engine {
            return Ok(Step::Ask(*head, request));
        }
        if head.program == COMMAND {
            return Err(unknown(head));
        }
        let answer = self.own_call(now, head.procedure, &mut Reader::new(body))?;
        let Some(body) = answer else { return Err(self.foreign_call(head)) };
        let frame = proto::answer(head, |to| {
            to.raw(&body.into_bytes());
            Ok(())
        });
        Ok(if head.procedure == remote::CLOSE { Step::Last(frame) } else { Step::Send(frame) })
    }

    /// A call for the engine, with every check that libvirt makes first and in its order.
    fn engine_call(&self, head: &Header, body: &[u8]) -> Option<Result<Request, Error>> {
        let request = proto::request(head.program, head.procedure, body)?;
        Some(self.admit(head, request))
    }

    fn admit(&self, head: &Header, request: Result<Request, Malformed>) -> Result<Request, Error> {
        let opened = if head.program == COMMAND { Some(self.access) } else { self.open };
        // Before the arguments count: on a read-only socket long ones were cut, and that is not the reason.
        if let Some(Access::ReadOnly) = opened {
            read_only(head)?;
        }
        let request = request.map_err(undecodable)?;
        if opened.is_none() {
            return Err(not_open("connection not open"));
        }
        known_flags(head, &request)?;
        Ok(request)
    }

    /// A call about the connection itself: the body of its answer, or `None` where it is none of these.
    fn own_call(
        &mut self,
        now: Duration,
        procedure: i32,
        from: &mut Reader,
    ) -> Result<Option<Writer>, Error> {
        let mut to = Writer::default();
        match procedure {
            remote::OPEN => self.connect(from)?,
            remote::CLOSE => (),
            remote::SUPPORTS_FEATURE => {
                to.i32(self.feature(now, from)?.into());
            }
            remote::AUTH_LIST => {
                self.authenticated = true;
                to.array(&[0], |to, none| to.i32(*none));
            }
            // SASL and polkit: a client that could connect is already allowed; nothing else is offered.
            remote::AUTH_SASL_INIT..=remote::AUTH_POLKIT => {
                return Err(Error::new(ErrorNumber::AuthFailed, Domain::Rpc, "authentication failed"));
            }
            _ => return self.opened_call(procedure, from),
        }
        Ok(Some(to))
    }

    /// As [`Session::own_call`], for those that need an open connection.
    fn opened_call(&mut self, procedure: i32, from: &mut Reader) -> Result<Option<Writer>, Error> {
        let mut to = Writer::default();
        match procedure {
            remote::GET_TYPE => to.string("nwfilter"),
            remote::GET_URI => to.string(URI),
            remote::IS_SECURE => to.i32(1),
            remote::GET_LIB_VERSION => to.u64(RELEASE),
            // The server consents to the close by closing.
            remote::REGISTER_CLOSE_CALLBACK | remote::UNREGISTER_CLOSE_CALLBACK => &mut to,
            remote::SET_IDENTITY => {
                let said = identity::read(from).map_err(undecodable)?;
                self.must_be_open()?;
                identity::check(&said).map(|()| &mut to)?
            }
            _ => return Ok(None),
        };
        self.must_be_open().map(|()| Some(to))
    }

    fn connect(&mut self, from: &mut Reader) -> Result<(), Error> {
        let name = from.option(|from| from.string(proto::STRING_MAX)).map_err(undecodable)?;
        let flags = from.u32().map_err(undecodable)?;
        if self.open.is_some() {
            return Err(not_open("connection already open"));
        }
        check_uri(name.ok_or_else(|| not_open("connection not open"))?)?;
        self.open = Some(if flags & 1 == 1 { Access::ReadOnly } else { self.access });
        Ok(())
    }

    fn feature(&mut self, now: Duration, from: &mut Reader) -> Result<bool, Error> {
        let feature = from.i32().map_err(undecodable)?;
        if feature == FEATURE_KEEPALIVE {
            self.pulse.wake(now);
        } else {
            self.must_be_open()?;
        }
        Ok(FEATURES.contains(&feature))
    }

    fn foreign_call(&self, head: &Header) -> Error {
        match foreign::refusal(head.procedure) {
            None => unknown(head),
            Some(refusal) => self.must_be_open().err().unwrap_or(refusal),
        }
    }

    fn must_be_open(&self) -> Result<(), Error> {
        self.open.map(drop).ok_or_else(|| not_open("hypervisor connection not open"))
    }
}

impl KeepaliveState {
    fn wake(&mut self, now: Duration) {
        self.awake = !self.rule.interval.is_zero();
        self.since = now;
    }

    fn heard(&mut self, now: Duration) {
        self.since = now;
        self.unanswered = 0;
    }

    fn beat(&mut self, now: Duration) -> KeepaliveEvent {
        if !self.awake || now < self.since + self.rule.interval {
            return KeepaliveEvent::Quiet;
        }
        if self.unanswered >= self.rule.count {
            return KeepaliveEvent::Dead;
        }
        self.unanswered += 1;
        self.since = now;
        KeepaliveEvent::Ping(proto::keepalive_frame(keepalive::PING))
    }
}

/// The frame that tells the client what the engine answered.
pub fn respond(head: &Header, answer: Result<Reply, Error>) -> Vec<u8> {
    proto::answer(head, |to| proto::result(to, head, &answer?))
}

fn pong(head: &Header) -> Step {
    let ping = head.version == VERSION && head.procedure == keepalive::PING;
    if ping { Step::Send(proto::keepalive_frame(keepalive::PONG)) } else { Step::Ignore }
}

fn check_uri(uri: &str) -> Result<(), Error> {
    let path = uri.strip_prefix("nwfilter://").and_then(|rest| rest.split('?').next());
    match path {
        Some("/system") => Ok(()),
        Some(path) if path.is_empty() || path.starts_with('/') => {
            Err(Error::internal(format!("unexpected nwfilter URI path '{path}', try {URI}")))
        }
        _ => {
            let shown = if uri.is_empty() { "<null>" } else { uri };
            Err(Error::new(ErrorNumber::NoConnect, Domain::None, shown))
        }
    }
}

fn unknown(head: &Header) -> Error {
    Error::rpc(format!("unknown procedure: {}", head.procedure))
}

fn undecodable(_: Malformed) -> Error {
    Error::rpc("Unable to decode message payload")
}

fn not_open(detail: &str) -> Error {
    Error::new(ErrorNumber::InternalError, Domain::Rpc, detail)
}
