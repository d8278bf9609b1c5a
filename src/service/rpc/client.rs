//! The blocking client of a running daemon, for the command `nwfilter`: its calls, each with a deadline.
//!
//! One call at a time. It believes nothing: lengths are checked before room is made for them, and a
//! daemon that is silent or slow ends in an error, never in a wait without end.

use super::faults;
use super::proto::{COMMAND, FRAME_MAX, HEADER, Header, KEEPALIVE, command, kind, status};
use super::xdr::{Malformed, Reader, Writer};
use crate::engine::error::Error;
use crate::ruleset::ipset::IpsetVerb;
use socket2::{SockAddr, Socket, Type};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// A connection to a running daemon.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    timeout: Duration,
    serial: u32,
}

/// Why a call came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The daemon refused.
    #[error("{0}")]
    Refused(Error),
    /// What came back is no answer to what was asked.
    #[error("the daemon's answer makes no sense")]
    Nonsense,
    /// The daemon is not there, or was too slow.
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl From<Malformed> for Failure {
    fn from(_: Malformed) -> Failure {
        Failure::Nonsense
    }
}

impl Client {
    /// Connects to the socket at `path`; this and every call may take as long as `timeout`.
    pub fn connect(path: &Path, timeout: Duration) -> io::Result<Client> {
        let socket = Socket::new(socket2::Domain::UNIX, Type::STREAM, None)?;
        // A connect waits as long as a write may, where the daemon's queue is full.
        socket.set_write_timeout(Some(timeout))?;
        socket.connect(&SockAddr::unix(path)?)?;
        Ok(Client { stream: OwnedFd::from(socket).into(), timeout, serial: 0 })
    }

    /// The daemon's state, as JSON.
    pub fn status(&mut self) -> Result<String, Failure> {
        let body = self.call(COMMAND, command::STATUS, &[])?;
        Ok(Reader::new(&body).string(FRAME_MAX)?.to_owned())
    }

    /// What a bound interface is filtered by, as JSON.
    pub fn bound(&mut self, portdev: &str) -> Result<String, Failure> {
        let body = self.call(COMMAND, command::BOUND, &written(|to| to.string(portdev)))?;
        Ok(Reader::new(&body).string(FRAME_MAX)?.to_owned())
    }

    /// Binds an interface, as the binding document `xml` says.
    pub fn apply(&mut self, xml: &str) -> Result<(), Failure> {
        self.call(COMMAND, command::APPLY, &written(|to| to.string(xml))).map(drop)
    }

    /// What [`Client::apply`] would change in the kernel.
    pub fn plan(&mut self, xml: &str) -> Result<String, Failure> {
        let body = self.call(COMMAND, command::PLAN, &written(|to| to.string(xml)))?;
        Ok(Reader::new(&body).string(FRAME_MAX)?.to_owned())
    }

    /// Releases the interface `portdev`.
    pub fn remove(&mut self, portdev: &str) -> Result<(), Failure> {
        self.call(COMMAND, command::REMOVE, &written(|to| to.string(portdev))).map(drop)
    }

    /// Defines filters by name, all of these documents (each with what it is called) or none; what became of them, as JSON.
    pub fn define(&mut self, documents: &[(String, String)]) -> Result<String, Failure> {
        let body = written(|to| to.array(documents, |to, (called, text)| to.string(called).string(text)));
        let body = self.call(COMMAND, command::DEFINE, &body)?;
        Ok(Reader::new(&body).string(FRAME_MAX)?.to_owned())
    }

    /// Undefines the filter `name`.
    pub fn undefine(&mut self, name: &str) -> Result<(), Failure> {
        self.call(COMMAND, command::UNDEFINE, &written(|to| to.string(name))).map(drop)
    }

    /// Looks at or changes the named set of addresses; what the daemon answers comes back.
    pub fn ipset(
        &mut self,
        name: &str,
        verb: IpsetVerb,
        addresses: &[String],
    ) -> Result<Vec<String>, Failure> {
        let body =
            written(|to| to.string(name).u32(verb as u32).array(addresses, |to, address| to.string(address)));
        let body = self.call(COMMAND, command::IPSET, &body)?;
        Ok(Reader::new(&body).array(FRAME_MAX / 4, |from| from.string(FRAME_MAX).map(str::to_owned))?)
    }

    /// Calls any procedure with arguments already encoded; gives the encoded result.
    pub fn call(&mut self, program: u32, procedure: i32, body: &[u8]) -> Result<Vec<u8>, Failure> {
        let deadline = Instant::now() + self.timeout;
        let call = Header::call(program, procedure, self.serial);
        self.serial = self.serial.wrapping_add(1);
        self.write(&call.frame(body), deadline)?;
        let (head, body) = self.answer(deadline)?;
        match head {
            _ if head == (Header { kind: kind::REPLY, ..call }) => Ok(body),
            _ if head == (Header { kind: kind::REPLY, status: status::ERROR, ..call }) => {
                Err(Failure::Refused(refusal(program, &body)?))
            }
            _ => Err(Failure::Nonsense),
        }
    }

    /// The next frame that is not about keepalive, which this client never asks for.
    fn answer(&mut self, deadline: Instant) -> Result<(Header, Vec<u8>), Failure> {
        loop {
            let (head, body) = self.frame(deadline)?;
            if head.program != KEEPALIVE {
                return Ok((head, body));
            }
        }
    }

    fn frame(&mut self, deadline: Instant) -> Result<(Header, Vec<u8>), Failure> {
        let mut start = [0; HEADER];
        self.read(&mut start, deadline)?;
        let mut from = Reader::new(&start);
        let length = from.u32()? as usize;
        if !(HEADER..=FRAME_MAX).contains(&length) {
            return Err(Failure::Nonsense);
        }
        let head = Header::read(&mut from)?;
        let mut body = vec![0; length - HEADER];
        self.read(&mut body, deadline)?;
        Ok((head, body))
    }

    fn read(&mut self, mut into: &mut [u8], deadline: Instant) -> io::Result<()> {
        while !into.is_empty() {
            self.stream.set_read_timeout(Some(left(deadline)?))?;
            match self.stream.read(into) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => into = &mut into[count..],
                Err(error) => retry(error)?,
            }
        }
        Ok(())
    }

    fn write(&mut self, mut bytes: &[u8], deadline: Instant) -> io::Result<()> {
        while !bytes.is_empty() {
            self.stream.set_write_timeout(Some(left(deadline)?))?;
            match self.stream.write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(error) => retry(error)?,
            }
        }
        Ok(())
    }
}

fn refusal(program: u32, body: &[u8]) -> Result<Error, Malformed> {
    let from = &mut Reader::new(body);
    let error = super::wire_error::read(from)?;
    let faults = if program == COMMAND { faults::read(from)? } else { Vec::new() };
    Ok(error.with_faults(faults))
}

fn written(body: impl FnOnce(&mut Writer) -> &mut Writer) -> Vec<u8> {
    let mut to = Writer::default();
    body(&mut to);
    to.into_bytes()
}

fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

/// A timeout is reported by the deadline, in words better than "would block".
fn retry(error: io::Error) -> io::Result<()> {
    match error.kind() {
        io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Ok(()),
        _ => Err(error),
    }
}
