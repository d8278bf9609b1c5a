//! A socket that listens for changes of our tables by others.
//!
//! It reads announcements and hands them to [`Decoder`], which says what they mean.

use super::nfnetlink;
use crate::guest::bpf;
use crate::ruleset::nft::announcement::{Decoder, Event};
use rustix::net::{RecvFlags, SocketFlags, recv};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use tokio::io::unix::AsyncFd;

/// A socket that hears of changes, for `poll` or tokio's `AsyncFd`: readable when [`Watch::next_event`] has something.
pub struct Watch {
    socket: OwnedFd,
    buffer: Vec<u8>,
    decoder: Decoder,
}

/// Bytes read at once; a longer announcement counts as lost.
const BUFFER: usize = 1 << 18;

impl Watch {
    /// Begins to listen in this thread's network namespace. Commits by the port `own` are ours: the kernel keeps them from this
    /// socket, since a large one would leave no room for those of others.
    pub fn open(own: Option<u32>) -> io::Result<Watch> {
        let keeps = own.map(bpf::of_others);
        let group = libc::NFNLGRP_NFTABLES as u32;
        let socket = nfnetlink::listen(group, SocketFlags::NONBLOCK, keeps.as_deref())?;
        Ok(Watch { socket, buffer: vec![0; BUFFER], decoder: Decoder::default() })
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
            if let Some(event) = self.decoder.next_event() {
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
