//! Captures: packet sockets, one for each guest whose address is learned → observations, sent over a channel.
//!
//! A socket hears nothing before its filter is attached and it is bound to its link by index, so that no frame of another
//! link is ever taken for the guest's. It reads no faster than its [`RateLimit`] allows. It ends when its [`Capture`] is dropped,
//! when its link is gone, or when the channel's receiver is dropped. What a sighting means, `learning` decides.
#![allow(unsafe_code)]

use super::nfnetlink::attach;
use crate::guest::bpf::{self, LONGEST};
use crate::guest::frame::{self, SightedFrame};
use crate::guest::learning::{LearningMode, RateLimit};
use crate::guest::observation::{CaptureSpec, Observation};
use afpacket::tokio::RawPacketStream;
use rustix::net::netdevice::index_to_name;
use socket2::{Domain, Protocol, Socket, Type};
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::timeout;

/// A guest is listened to until this is dropped.
#[derive(Debug)]
pub struct Capture {
    spec: CaptureSpec,
    task: AbortHandle,
}

/// Bytes that may wait in a socket; the kernel doubles it and counts what frames take in memory. Room for a handful of
/// messages, and too little for a thousand flooding guests to take the host's memory.
const ROOM: usize = 32 << 10;

/// How often an idle capture checks whether its link still exists: the kernel wakes no reader for that. The daemon, which
/// follows links, drops the capture at once.
const LOOK: Duration = Duration::from_secs(10);

/// Listens to a guest from now on. Whatever is sent after this returned is heard. Must be called in a runtime.
///
/// # Errors
/// Without the right to open packet sockets, or where the link is gone.
pub fn listen(spec: CaptureSpec, to: mpsc::Sender<Observation>) -> io::Result<Capture> {
    let socket = open(&spec)?;
    // SAFETY: the socket gives its descriptor up, and the stream closes it.
    let stream = unsafe { RawPacketStream::from_raw_fd(socket.into_raw_fd()) };
    let task = tokio::spawn(capture(spec, Open(Some(stream)), to)).abort_handle();
    Ok(Capture { spec, task })
}

impl Capture {
    /// Where it listens.
    pub fn spec(&self) -> &CaptureSpec {
        &self.spec
    }

    /// Whether it has ended by itself: its link is gone.
    pub fn has_ended(&self) -> bool {
        self.task.is_finished()
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn open(spec: &CaptureSpec) -> io::Result<Socket> {
    // Protocol 0 hears nothing, until it is bound to another.
    let kind = Type::RAW.nonblocking().cloexec();
    let socket = Socket::new(Domain::PACKET, kind, Some(Protocol::from(0)))?;
    socket.set_recv_buffer_size(ROOM)?;
    match spec.mode {
        LearningMode::Dhcp => attach(&socket, &bpf::dhcp(spec.mac, spec.side))?,
        LearningMode::Any | LearningMode::None => attach(&socket, &bpf::any(spec.mac, spec.side))?,
    }
    bind(&socket, spec.link)?;
    Ok(socket)
}

/// Binds to all frames of a link, those sent through it among them.
fn bind(socket: &Socket, link: u32) -> io::Result<()> {
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: (libc::ETH_P_ALL as u16).to_be(),
        sll_ifindex: link.cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let length = size_of_val(&address) as libc::socklen_t;
    // SAFETY: the address is a sockaddr_ll of this length and outlives the call.
    match unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A socket that is closed elsewhere: the kernel lets who closes one wait until no packet is on its way to it.
struct Open(Option<RawPacketStream>);

impl Drop for Open {
    fn drop(&mut self) {
        let stream = self.0.take();
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn_blocking(|| drop(stream));
        }
    }
}

/// Tells what it hears, as fast as the budget allows.
async fn capture(spec: CaptureSpec, mut socket: Open, to: mpsc::Sender<Observation>) {
    let Some(stream) = &mut socket.0 else { return };
    let begun = Instant::now();
    let mut budget = RateLimit::new(begun.elapsed());
    loop {
        while let Err(wait) = budget.spend(begun.elapsed()) {
            tokio::time::sleep(wait).await;
        }
        let heard = timeout(LOOK, poll_fn(|context| poll_frame(stream, context))).await;
        match heard {
            Ok(Ok(Some(frame))) => {
                if to.send(Observation { guest: spec.guest, frame }).await.is_err() {
                    return;
                }
            }
            Ok(Ok(None)) => {}
            // Nothing for a while. Or the link was set down, which is no end, or is gone, which is.
            Err(_) | Ok(Err(_)) if is_there(spec.link) => {}
            Err(_) | Ok(Err(_)) => return,
        }
    }
}

/// One frame, or none where it carries no observation. The buffer lives no longer than this call: a thousand captures share one stack.
fn poll_frame(
    stream: &mut RawPacketStream,
    context: &mut Context<'_>,
) -> Poll<io::Result<Option<SightedFrame>>> {
    let mut bytes = [0; LONGEST as usize];
    let mut buffer = ReadBuf::new(&mut bytes);
    ready!(Pin::new(stream).poll_read(context, &mut buffer))?;
    Poll::Ready(Ok(frame::read(buffer.filled())))
}

fn is_there(link: u32) -> bool {
    Socket::new(Domain::UNIX, Type::DGRAM.cloexec(), None)
        .is_ok_and(|socket| index_to_name(&socket, link).is_ok())
}
