//! Serves libvirt's RPC on unix sockets: clients in, typed calls out to the engine over one channel.
//!
//! Whatever clients do, memory stays bounded: so many of them, so many calls of each, so many calls and
//! so many bytes of long frames at once. Each of the two sockets has its own share of all that, so no
//! client of the read-only one can starve the other, and calls that only read have places of their own. A client that breaks
//! a limit or a rule loses its own connection and nothing else. It knows nothing of filters.

use super::connection::Connection;
use super::listen::{Listener, Listeners};
use super::proto::{HEADER, STRING_MAX};
use super::session::{Access, Keepalive};
use crate::engine::api::{Reply, Request};
use crate::engine::error::Error;
use crate::service::logging::Quota;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinSet;

/// One call for the engine, and where its answer goes.
#[derive(Debug)]
pub struct Call {
    /// What is asked.
    pub request: Request,
    /// What its client may ask for.
    pub access: Access,
    /// Takes the answer; the client may be gone by then.
    pub reply: oneshot::Sender<Result<Reply, Error>>,
}

/// Where calls go: those that change something do not wait for those that only look.
#[derive(Debug, Clone)]
pub struct Queues {
    /// Calls that change something.
    pub changes: mpsc::Sender<Call>,
    /// Calls that only look.
    pub looks: mpsc::Sender<Call>,
}

/// What clients of one socket may use.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at a time; more wait in the kernel's queue.
    pub clients: usize,
    /// Unanswered calls of one client; the next is not read before one is answered and sent.
    pub requests: usize,
    /// Calls of all clients that the engine has at a time, and answers not sent that found no room: so many that change
    /// something, and so many that only look.
    pub calls: usize,
    /// Room for frames over 4 KiB and for answers not sent, in bytes.
    pub bytes: usize,
    /// From the first byte of a frame, or the connection, to the last byte of the frame.
    pub frame_deadline: Duration,
    /// From the moment a frame is next to be sent until the client has taken it.
    pub write_deadline: Duration,
    /// When silent clients are pinged, and how often in vain.
    pub keepalive: Keepalive,
    /// How long clients get their last answers after a stop.
    pub grace: Duration,
}

/// What all clients of one socket share.
#[derive(Debug)]
pub(super) struct Pool {
    pub access: Access,
    pub limits: Limits,
    changes: Lane,
    looks: Lane,
    /// One permit a byte of long frames and of answers not sent.
    pub bytes: Arc<Semaphore>,
    clients: Arc<Semaphore>,
    full: Mutex<Quota>,
    connected: watch::Sender<usize>,
}

/// The way of one kind of calls to the engine.
#[derive(Debug, Clone)]
pub(super) struct Lane {
    pub calls: mpsc::Sender<Call>,
    /// One permit a call, from before the engine gets it until it answers, or longer where there is no room.
    pub slots: Arc<Semaphore>,
}

/// A connected client's place, given back when the connection ends.
#[derive(Debug)]
struct Place {
    _permit: OwnedSemaphorePermit,
    connected: watch::Sender<usize>,
}

/// Kept of one body: the longest string of the longest call and some words, or what any call to read needs.
const KEEP: usize = STRING_MAX + 4096;
const KEEP_READ_ONLY: usize = super::frames::SMALL - HEADER;

/// After an accept that failed for want of descriptors, for one.
const RETRY: Duration = Duration::from_secs(1);

/// How often it is logged that all places are taken.
const FULL: Duration = Duration::from_secs(10);

impl Default for Limits {
    fn default() -> Self {
        Limits {
            clients: 5000,
            requests: 5,
            calls: 64,
            bytes: 64 << 20,
            frame_deadline: Duration::from_secs(10),
            write_deadline: Duration::from_secs(30),
            keepalive: Keepalive { interval: Duration::from_secs(5), count: 5 },
            grace: Duration::from_secs(5),
        }
    }
}

/// Serves until `stop` turns true (or its sender is gone): then no client comes in, no call is read, the
/// answers under way go out, and socket files made here are removed. `connected` follows how many clients
/// there are. The engine must take calls from the other ends of `queues`.
pub async fn serve(
    listeners: Listeners,
    limits: Limits,
    queues: Queues,
    connected: watch::Sender<usize>,
    stop: watch::Receiver<bool>,
) -> io::Result<()> {
    let pool = |access| Pool::new(access, limits, &queues, connected.clone());
    let full = admit(listeners.full, pool(Access::Full), stop.clone());
    let read_only = admit(listeners.read_only, pool(Access::ReadOnly), stop.clone());
    tokio::try_join!(full, read_only).map(drop)
}

impl Pool {
    fn new(access: Access, limits: Limits, queues: &Queues, connected: watch::Sender<usize>) -> Arc<Pool> {
        // A frame is let in whole or waits, so there must be room for the longest.
        let bytes = limits.bytes.max(KEEP + HEADER);
        Arc::new(Pool {
            access,
            limits,
            changes: Lane::new(&queues.changes, limits.calls),
            looks: Lane::new(&queues.looks, limits.calls),
            bytes: Arc::new(Semaphore::new(bytes)),
            clients: Arc::new(Semaphore::new(limits.clients)),
            full: Mutex::new(Quota::new(1, FULL)),
            connected,
        })
    }

    /// The way that a call takes.
    pub fn lane(&self, request: &Request) -> &Lane {
        if request.is_look() { &self.looks } else { &self.changes }
    }

    /// The most of a body that is kept.
    pub fn keep(&self) -> usize {
        match self.access {
            Access::Full => KEEP,
            Access::ReadOnly => KEEP_READ_ONLY,
        }
    }

    /// A line now and then, however often clients come and go while there is no place.
    fn tell_full(&self) {
        let mut quota = self.full.lock().expect("no thread panics while it is held");
        if let Some(left_out) = quota.ask(Instant::now()) {
            let (limit, access) = (self.limits.clients, self.access);
            tracing::warn!(
                limit,
                ?access,
                left_out,
                "all places for clients are taken: a new client is turned away; raise max_clients"
            );
        }
    }

    async fn accept(&self, socket: &UnixListener) -> io::Result<(UnixStream, Place)> {
        if self.clients.available_permits() == 0 {
            self.tell_full();
        }
        let permit = self.clients.clone().acquire_owned().await.expect("it is never closed");
        let (stream, _) = socket.accept().await?;
        self.connected.send_modify(|count| *count += 1);
        Ok((stream, Place { _permit: permit, connected: self.connected.clone() }))
    }
}

impl Lane {
    fn new(calls: &mpsc::Sender<Call>, slots: usize) -> Lane {
        Lane { calls: calls.clone(), slots: Arc::new(Semaphore::new(slots)) }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connected.send_modify(|count| *count -= 1);
    }
}

async fn admit(
    listener: Option<Listener>,
    pool: Arc<Pool>,
    mut stop: watch::Receiver<bool>,
) -> io::Result<()> {
    let Some(listener) = listener else { return Ok(()) };
    let socket = UnixListener::from_std(listener.socket.try_clone()?)?;
    let mut connections = JoinSet::new();
    let ends = stop.clone();
    loop {
        tokio::select! {
            () = stopped(&mut stop) => break,
            accepted = pool.accept(&socket) => match accepted {
                Ok((stream, place)) => drop(connections.spawn(client(stream, place, pool.clone(), ends.clone()))),
                Err(error) => {
                    tracing::warn!(%error, "no client can be accepted until a file descriptor is free; raise LimitNOFILE of the unit");
                    tokio::time::sleep(RETRY).await;
                }
            },
            Some(_) = connections.join_next() => (),
        }
    }
    drop((socket, listener));
    let last = async { while connections.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(pool.limits.grace, last).await;
    Ok(())
}

async fn client(stream: UnixStream, place: Place, pool: Arc<Pool>, stop: watch::Receiver<bool>) {
    let peer = stream.peer_cred().ok();
    let (pid, uid) = (peer.and_then(|peer| peer.pid()), peer.map(|peer| peer.uid()));
    tracing::debug!(pid, uid, access = ?pool.access, "client connected");
    match Connection::new(stream, pool).run(stop).await {
        Ok(()) => tracing::debug!(pid, uid, "client left"),
        Err(reason) => tracing::debug!(pid, uid, %reason, "client dropped"),
    }
    drop(place);
}

/// Returns when the daemon is to stop.
pub(crate) async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that the sender is gone, and nothing else could stop us.
    let _ = stop.wait_for(|stop| *stop).await;
}
