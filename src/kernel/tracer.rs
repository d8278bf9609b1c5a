//! A socket that hears what becomes of one interface's frames.
//!
//! Opening it switches the trace on; closing it, however the process ends, switches it off.

use super::nfnetlink;
use crate::ruleset::nft::reply::{Received, RefusalCause, error, messages};
use crate::ruleset::nft::trace::{At, batch, event};
use crate::ruleset::nft::traced::Traced;
use rustix::net::{RecvFlags, SendFlags, SocketFlags, recv, send};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// A socket that hears what becomes of an interface's frames; the trace ends with it.
pub struct Tracer {
    socket: OwnedFd,
    buffer: Vec<u8>,
    events: VecDeque<Traced>,
}

const BUFFER: usize = 1 << 16;
/// `NFNLGRP_NFTRACE`.
const GROUP: u32 = 9;

impl Tracer {
    /// Switches the trace on for frames through the interface of this index.
    pub fn open(index: u32, at: At) -> io::Result<Tracer> {
        let socket = nfnetlink::listen(GROUP, SocketFlags::empty(), None)?;
        send(&socket, &batch(index, at), SendFlags::empty())?;
        let mut tracer = Tracer { socket, buffer: vec![0; BUFFER], events: VecDeque::new() };
        // The kernel answers what it refuses before `send` returns.
        while tracer.receive(RecvFlags::DONTWAIT)? {}
        Ok(tracer)
    }

    /// The next step of some frame; waits for it.
    pub fn next_event(&mut self) -> io::Result<Traced> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(event);
            }
            self.receive(RecvFlags::empty())?;
        }
    }

    /// The next step of some frame; none where nothing is waiting.
    pub fn try_event(&mut self) -> io::Result<Option<Traced>> {
        while self.events.is_empty() && self.receive(RecvFlags::DONTWAIT)? {}
        Ok(self.events.pop_front())
    }

    /// Takes in one datagram; false where there is none. What was lost is lost: frames come faster than anyone reads.
    fn receive(&mut self, flags: RecvFlags) -> io::Result<bool> {
        match recv(&self.socket, self.buffer.as_mut_slice(), flags).map_err(io::Error::from) {
            Ok((_, length)) => {
                for message in messages(&self.buffer[..length]) {
                    refusal(&message)?;
                    self.events.extend(event(&message));
                }
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(true),
            Err(error) => Err(error),
        }
    }
}

impl AsFd for Tracer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn refusal(message: &Received<'_>) -> io::Result<()> {
    match error(message).map(|error| error.fault) {
        Some(RefusalCause::Kernel { errno, .. }) => Err(io::Error::from_raw_os_error(errno)),
        _ => Ok(()),
    }
}
