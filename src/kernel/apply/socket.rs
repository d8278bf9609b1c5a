//! The netfilter socket: one datagram a batch, whole dumps, and the wait for packets under way.
//!
//! Commit or abort has happened when the kernel returns from `sendmsg`, and it answers only what it refuses; so
//! after sending, what is there is read without waiting, and nothing there is success.
#![allow(unsafe_code, reason = "socket options, the descriptor of mnl's socket, membarrier")]

use super::worker::{Batch, Nftables};
use crate::kernel::links;
use crate::program::ir::Family;
use crate::program::ir::observed::{Observed, ObservedTable};
use crate::ruleset::nft::read::{self, Dump, DumpRequest};
use crate::ruleset::nft::reply::{self, Received, Refusal, RefusalCause};
use crate::ruleset::nft::{Encoded, EncodedBatch};
use crate::ruleset::plan::Step;
use rustix::net::{RecvFlags, recv, sockopt};
use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::thread;
use std::time::Duration;

/// How often a commit is sent again that the kernel itself asks to repeat.
const ATTEMPTS: usize = 32;
/// How long is waited for packets under way where the kernel has no membarrier to wait with.
const GRACE: Duration = Duration::from_millis(100);
/// Bytes of one refusal at most: it may repeat our whole message.
const ANSWER: usize = 1 << 17;
/// Bytes of a dump that are read at once, and that may wait to be read.
const BUFFER: usize = 1 << 18;
const WAITING: usize = 1 << 22;

/// The socket, and how it is spoken to.
pub(super) struct Link {
    socket: mnl::Socket,
    sequence: u32,
}

impl Link {
    pub(super) fn open() -> io::Result<Link> {
        let socket = mnl::Socket::new(mnl::Bus::Netfilter)?;
        let link = Link { socket, sequence: 0 };
        // Without these the kernel says less, which is no reason to refuse it.
        for option in [libc::NETLINK_EXT_ACK, libc::NETLINK_CAP_ACK] {
            link.set_option(option);
        }
        let _ = sockopt::set_socket_recv_buffer_size_force(link.fd(), WAITING);
        Ok(link)
    }

    /// The port by which the kernel knows this socket.
    pub(super) fn port(&self) -> u32 {
        self.socket.portid()
    }

    fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the socket keeps its descriptor open as long as it lives, and `self` borrows it.
        unsafe { BorrowedFd::borrow_raw(self.socket.as_raw_fd()) }
    }

    fn set_option(&self, option: i32) {
        let on: libc::c_int = 1;
        let length = size_of_val(&on) as libc::socklen_t;
        // SAFETY: the pointer and length are those of `on`, which outlives the call.
        unsafe {
            libc::setsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_NETLINK,
                option,
                (&raw const on).cast(),
                length,
            );
        }
    }

    /// Sends a batch as one datagram and says what was refused of it; nothing refused means that it is in force.
    pub(super) fn send(&self, encoded: &Encoded, steps: &[Step]) -> Vec<Refusal> {
        if encoded.is_empty() {
            return Vec::new();
        }
        let mut refusals = Vec::new();
        for _ in 0..ATTEMPTS {
            let sealed = encoded.seal();
            refusals = match self.transact(&sealed) {
                Ok(replies) => {
                    replies.iter().flat_map(|bytes| reply::refusals(bytes, &sealed, steps)).collect()
                }
                Err(error) => vec![unsent(encoded.length(), &error)],
            };
            // Another commit came between, or a module had to be loaded: the same batch may pass now.
            let again = |refusal: &Refusal| matches!(refusal.errno(), Some(libc::EAGAIN | libc::EINTR));
            if !refusals.iter().any(again) {
                break;
            }
        }
        refusals
    }

    /// Commit or abort has happened when `sendmsg` returns, and all answers are waiting.
    fn transact(&self, sealed: &EncodedBatch) -> io::Result<Vec<Vec<u8>>> {
        let pages: Vec<IoSlice<'_>> = sealed.pages().map(IoSlice::new).collect();
        let total: usize = pages.iter().map(|page| page.len()).sum();
        self.make_room(total);
        let descriptor = self.fd();
        let socket = socket2::SockRef::from(&descriptor);
        while let Err(error) = socket.send_vectored(&pages) {
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
        self.drain()
    }

    /// In a user namespace only the smaller limit can be had; too small a buffer shows in the sending.
    fn make_room(&self, bytes: usize) {
        let bytes = bytes + 4096;
        if sockopt::set_socket_send_buffer_size_force(self.fd(), bytes).is_err() {
            let _ = sockopt::set_socket_send_buffer_size(self.fd(), bytes);
        }
    }

    fn drain(&self) -> io::Result<Vec<Vec<u8>>> {
        let mut replies = Vec::new();
        let mut lost = None;
        loop {
            match self.receive(RecvFlags::DONTWAIT, ANSWER) {
                Ok(Some(reply)) => replies.push(reply),
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => lost = Some(error),
                Err(error) => return Err(error),
            }
        }
        // More answers than there was room for: what arrived names refusals, or else nothing is known.
        let refused =
            |bytes: &Vec<u8>| reply::messages(bytes).any(|message| reply::error(&message).is_some());
        match lost {
            Some(error) if !replies.iter().any(refused) => Err(error),
            _ => Ok(replies),
        }
    }

    /// One datagram; none where it was too long to be read whole.
    fn receive(&self, flags: RecvFlags, most: usize) -> io::Result<Option<Vec<u8>>> {
        let mut buffer = vec![0; most];
        loop {
            match recv(self.fd(), buffer.as_mut_slice(), flags | RecvFlags::TRUNC).map_err(io::Error::from) {
                Ok((_, length)) if length > buffer.len() => return Ok(None),
                Ok((_, length)) => {
                    buffer.truncate(length);
                    return Ok(Some(buffer));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Asks and collects the datagrams of the answer; none where the answer is not of one moment.
    fn ask(&mut self, request: &DumpRequest) -> io::Result<Option<Vec<Vec<u8>>>> {
        self.sequence = self.sequence.wrapping_add(1).max(1);
        self.socket.send(&request.bytes(self.sequence))?;
        let mut answer = Vec::new();
        let mut torn = false;
        loop {
            let Some(datagram) = self.receive(RecvFlags::empty(), BUFFER)? else {
                torn = true;
                continue;
            };
            let mine = |message: &Received<'_>| message.sequence == self.sequence;
            let mut ended = false;
            for message in reply::messages(&datagram).filter(mine) {
                torn |= message.flags & libc::NLM_F_DUMP_INTR as u16 != 0;
                ended |= matches!(i32::from(message.kind), libc::NLMSG_DONE | libc::NLMSG_ERROR);
                if let Some(RefusalCause::Kernel { errno, .. }) =
                    reply::error(&message).map(|error| error.fault)
                {
                    return Err(io::Error::from_raw_os_error(errno));
                }
            }
            answer.push(datagram);
            if ended {
                return Ok(if torn { None } else { Some(answer) });
            }
        }
    }
}

impl Dump for Link {
    fn dump(&mut self, request: &DumpRequest, each: &mut dyn FnMut(&Received<'_>)) -> io::Result<()> {
        for _ in 0..ATTEMPTS {
            match self.ask(request) {
                Ok(Some(answer)) => {
                    let messages = answer.iter().flat_map(|datagram| reply::messages(datagram));
                    let content = messages.filter(|message| i32::from(message.kind) >= libc::NLMSG_MIN_TYPE);
                    content
                        .filter(|message| message.sequence == self.sequence)
                        .for_each(|message| each(&message));
                    return Ok(());
                }
                Ok(None) => {}
                Err(error) if matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN)) => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::new(io::ErrorKind::ResourceBusy, "the rule set does not stop changing"))
    }
}

impl Nftables for Link {
    fn commit(&mut self, batch: &Batch<'_>) -> Vec<Refusal> {
        self.send(&batch.encoded, batch.steps)
    }

    fn observe(&mut self) -> io::Result<Observed> {
        read::observe(self)
    }

    fn observe_sets(&mut self, is_wanted: &dyn Fn(&str) -> bool) -> io::Result<Observed> {
        read::observe_sets(self, is_wanted)
    }

    fn tables(&mut self) -> io::Result<BTreeMap<Family, ObservedTable>> {
        read::tables(self)
    }

    fn wait_for_packets_under_way(&mut self) {
        wait_for_packets_under_way();
    }

    fn let_waiting_go(&mut self, links: &[u32]) -> io::Result<()> {
        links::let_waiting_go(links)
    }
}

fn unsent(bytes: usize, error: &io::Error) -> Refusal {
    let errno = error.raw_os_error().unwrap_or(libc::EIO);
    let text = match errno {
        libc::EMSGSIZE => Some("the batch is larger than the send buffer of the socket may be".into()),
        _ => None,
    };
    let fault = RefusalCause::Kernel { errno, text, offset: None };
    Refusal { step: None, what: format!("a batch of {bytes} bytes"), origin: None, fault }
}

/// Packets walk the rules inside of an RCU read section; membarrier waits for all that have begun.
pub(super) fn wait_for_packets_under_way() {
    // SAFETY: membarrier takes two integers and touches no memory of ours.
    let outcome = unsafe { libc::syscall(libc::SYS_membarrier, libc::MEMBARRIER_CMD_GLOBAL, 0) };
    if outcome != 0 {
        thread::sleep(GRACE);
    }
}
