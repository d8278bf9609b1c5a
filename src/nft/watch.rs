//! Listens for changes of our tables by others.
//!
//! The kernel announces every commit with the port and the process that made it. Only commits that touched a table
//! of our name, or that did so with everything (`flush ruleset`), are handed on, and never our own.

use super::reply::{Received, attribute, body, messages, number, text};
use super::uapi::{GEN_NAME, GEN_PID, TABLE_NAME};
use crate::ir::TABLE;
use rustix::net::netlink::{NETFILTER, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with, sockopt};
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use tokio::io::unix::AsyncFd;

/// Something about our tables that we did not do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Another process changed our tables.
    Foreign {
        /// Its netlink port.
        portid: u32,
        /// Its process number, as the namespace of processes it runs in has it.
        process: u32,
        /// Its name.
        name: String,
    },
    /// Announcements were lost: anything may have changed.
    Lost,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::Foreign { process, name, .. } => write!(f, "{name} (process {process})"),
            Event::Lost => f.write_str("somebody"),
        }
    }
}

/// A socket that hears of changes, for `poll` or tokio's `AsyncFd`: readable when [`Watch::next_event`] has something.
pub struct Watch {
    socket: OwnedFd,
    buffer: Vec<u8>,
    decoder: Decoder,
}

/// What the announcements so far amount to.
#[derive(Clone, Debug, Default)]
pub struct Decoder {
    own: Option<u32>,
    touched: bool,
    events: VecDeque<Event>,
}

/// Bytes read at once; a longer announcement counts as lost.
const BUFFER: usize = 1 << 18;
/// Bytes of announcements that may wait: as many elements as a full rebuild changes.
const WAITING: usize = 1 << 23;

impl Watch {
    /// Begins to listen in this thread's network namespace. Commits by the port `own` are ours.
    pub fn open(own: Option<u32>) -> io::Result<Watch> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, Some(NETFILTER))?;
        if sockopt::set_socket_recv_buffer_size_force(&socket, WAITING).is_err() {
            sockopt::set_socket_recv_buffer_size(&socket, WAITING)?;
        }
        bind(&socket, &SocketAddrNetlink::new(0, 1 << (libc::NFNLGRP_NFTABLES - 1)))?;
        let decoder = Decoder { own, ..Decoder::default() };
        Ok(Watch { socket, buffer: vec![0; BUFFER], decoder })
    }

    /// Begins to listen on tokio's terms.
    #[allow(unsafe_code)]
    pub fn open_async(own: Option<u32>) -> io::Result<AsyncFd<Watch>> {
        // SAFETY: a watch owns its socket, never replaces it, and always names it.
        unsafe { AsyncFd::register(Watch::open(own)?) }.map_err(io::Error::from)
    }

    /// The next event; none if there is nothing to read now.
    pub fn next_event(&mut self) -> io::Result<Option<Event>> {
        loop {
            if let Some(event) = self.decoder.events.pop_front() {
                return Ok(Some(event));
            }
            let received = recv(&self.socket, self.buffer.as_mut_slice(), RecvFlags::TRUNC);
            match received.map(|(_, length)| length).map_err(io::Error::from) {
                Ok(length) if length > self.buffer.len() => self.decoder.lost(),
                Ok(length) => self.decoder.read(&self.buffer[..length]),
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => self.decoder.lost(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Watch {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl Decoder {
    /// Takes in what was received.
    pub fn read(&mut self, bytes: &[u8]) {
        for message in messages(bytes) {
            self.message(&message);
        }
    }

    /// The next event.
    pub fn next_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn lost(&mut self) {
        self.touched = false;
        if self.events.back() != Some(&Event::Lost) {
            self.events.push_back(Event::Lost);
        }
    }

    /// A commit is announced object by object; the new generation, with who made it, comes last.
    fn message(&mut self, message: &Received<'_>) {
        if message.kind >> 8 != libc::NFNL_SUBSYS_NFTABLES as u16 {
            return;
        }
        let attributes = body(message);
        if i32::from(message.kind & 0xff) != libc::NFT_MSG_NEWGEN {
            // In every kind of object the first attribute is the table.
            self.touched |= attribute(attributes, TABLE_NAME).map(text).as_deref() == Some(TABLE);
            return;
        }
        let portid = message.port;
        if std::mem::take(&mut self.touched) && Some(portid) != self.own {
            self.events.push_back(Event::Foreign {
                portid,
                process: attribute(attributes, GEN_PID).and_then(number).unwrap_or(0),
                name: attribute(attributes, GEN_NAME).map(text).unwrap_or_default(),
            });
        }
    }
}
