//! Where the daemon's events come from: clients, links, guests, foreign changes of rules, signals, the watchdog.

use super::{Daemon, bypass_check, start};
use crate::guest::link::LinkEvent;
use crate::guest::observation::Observation;
use crate::kernel::links;
use crate::kernel::watch::Watch;
use crate::program::ir::observed::Observed;
use crate::ruleset::bypass::Look;
use crate::service::metrics_server;
use crate::service::rpc::{self, Call, Queues};
use crate::service::systemd;
use std::io;
use std::time::{Duration, Instant};
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

/// How often the links are dumped although nothing seems lost.
const RESYNC: Duration = Duration::from_secs(60);

/// Links that changed while the daemon was busy; the watcher waits beyond.
const LINK_EVENTS: usize = 64;

/// Calls that wait for their turn; clients wait beyond.
const CALLS: usize = 64;

/// How often a timer without a purpose ticks.
const ALIVE: Duration = Duration::from_secs(3600);

/// Where events come from.
pub(super) struct Inputs {
    pub(super) changes: mpsc::Receiver<Call>,
    /// Calls that only look.
    pub(super) asked: mpsc::Receiver<Call>,
    pub(super) connected: watch::Receiver<usize>,
    /// When the last client was seen.
    pub(super) busy: Instant,
    pub(super) links: mpsc::Receiver<Vec<LinkEvent>>,
    pub(super) sightings: mpsc::Receiver<Observation>,
    pub(super) scrapes: mpsc::Receiver<metrics_server::Question>,
    pub(super) looks: mpsc::Receiver<Look>,
    pub(super) counted: mpsc::Receiver<Observed>,
    pub(super) foreign: AsyncFd<Watch>,
    pub(super) alive: tokio::time::Interval,
    pub(super) stop: watch::Sender<bool>,
    pub(super) server: JoinHandle<io::Result<()>>,
    /// The metrics server, if one is configured.
    reporter: Option<JoinHandle<io::Result<()>>>,
}

impl Inputs {
    pub(super) fn open(
        listeners: rpc::Listeners,
        metrics: Option<metrics_server::Socket>,
        sightings: mpsc::Receiver<Observation>,
        counted: mpsc::Receiver<Observed>,
        foreign: AsyncFd<Watch>,
        daemon: &Daemon,
    ) -> Inputs {
        let (links_to, links) = mpsc::channel(LINK_EVENTS);
        tokio::spawn(links::watch(RESYNC, links_to));
        let ((changes_to, changes), (asked_to, asked)) = (mpsc::channel(CALLS), mpsc::channel(CALLS));
        let queues = Queues { changes: changes_to, looks: asked_to };
        let (connected_to, connected) = watch::channel(0);
        let (stop, stopped) = watch::channel(false);
        let limits = start::limits(&daemon.config);
        let (scrapes_to, scrapes) = mpsc::channel(1);
        let report = |socket| tokio::spawn(metrics_server::serve(socket, scrapes_to, stopped.clone()));
        let reporter = metrics.map(report);
        Inputs {
            changes,
            asked,
            connected,
            busy: Instant::now(),
            links,
            sightings,
            scrapes,
            reporter,
            looks: bypass_check::looks(&daemon.config, &daemon.teller, daemon.core.started.into_std()),
            counted,
            foreign,
            alive: tokio::time::interval(systemd::watchdog().unwrap_or(ALIVE)),
            stop,
            server: tokio::spawn(rpc::serve(listeners, limits, queues, connected_to, stopped)),
        }
    }

    /// Whether nothing waits that changes something.
    pub(super) fn are_calm(&self) -> bool {
        self.changes.is_empty() && self.links.is_empty()
    }

    /// How many clients there are, and since when that is none.
    pub(super) fn clients(&mut self) -> (usize, Instant) {
        let fresh = self.connected.has_changed().unwrap_or(false);
        let clients = *self.connected.borrow_and_update();
        if fresh || clients > 0 {
            self.busy = Instant::now();
        }
        (clients, self.busy)
    }

    /// Lets clients have their last answers.
    pub(super) async fn close(self) {
        self.stop.send_replace(true);
        drop((self.changes, self.asked));
        let _ = self.server.await;
        if let Some(reporter) = self.reporter {
            let _ = reporter.await;
        }
    }
}

/// What a signal asks for.
pub(super) enum ProcessSignal {
    Reload,
    Stop,
}

pub(super) struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub(super) fn new() -> io::Result<Signals> {
        Ok(Signals {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    pub(super) async fn next(&mut self) -> ProcessSignal {
        tokio::select! {
            _ = self.hangup.recv() => ProcessSignal::Reload,
            _ = self.terminate.recv() => ProcessSignal::Stop,
            _ = self.interrupt.recv() => ProcessSignal::Stop,
        }
    }
}
