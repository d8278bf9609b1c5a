//! The daemon: wires clients, links, signals and the clock to the [engine](crate::engine), and the engine to kernel and disk.
//!
//! One task owns the state and takes events one by one. An event's change is one [transaction](transaction) of disk and kernel, and
//! only then becomes the state; whatever fails on the way is taken back. The rules stay when the daemon ends, however it ends.

mod addresses;
mod bypass_check;
mod captures;
mod checksum_guard;
mod core;
mod filters;
mod inputs;
mod observations;
mod reader;
mod reconcile;
mod reconfigure;
mod refusals;
mod requests;
mod rival;
#[cfg(test)]
mod simulation;
mod start;
mod trail;
mod transaction;
mod world;

use crate::kernel::apply::{self, Kernel};
use crate::kernel::watch::Watch;
use crate::program::ir::observed::Observed;
use crate::ruleset::nft::Ownership;
use crate::service::config::{Config, Options};
use crate::service::rpc;
use crate::service::store::Fault;
use crate::service::store::files::RealDisk;
use crate::service::systemd;
use captures::Captures;
use checksum_guard::ChecksumGuard;
use core::{Core, Documents};
use inputs::{Inputs, ProcessSignal, Signals};
use reader::Teller;
use reconfigure::Settings;
use refusals::Refusals;
use std::io;
use std::rc::Rc;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::info;
use world::ThisHost;

/// Why the daemon ended, or did not start.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The configuration is at fault.
    #[error("{0}")]
    Config(String),
    /// A directory or its lock.
    #[error(transparent)]
    Store(#[from] Fault),
    /// A socket for clients.
    #[error(transparent)]
    Socket(#[from] rpc::listen::ListenError),
    /// The process may not do what a firewall does.
    #[error("{0}")]
    Rights(String),
    /// The kernel did not take what must be in force.
    #[error("the kernel refuses: {0}")]
    Refused(apply::Refused),
    /// The system.
    #[error("{0}: {1}")]
    System(&'static str, io::Error),
}

impl Failure {
    /// What failed, with what caused it.
    pub fn report(&self) -> String {
        transaction::chain(self)
    }
}

/// How many threads close sockets at once.
const CLOSERS: usize = 8;
/// The most sightings that are one change.
const AT_ONCE: usize = 256;

/// Everything the daemon holds.
struct Daemon {
    config: Config,
    settings: Settings,
    core: Core,
    /// Answers calls that only read.
    teller: Teller,
    /// Where counts go that were read to tidy up.
    counted: mpsc::Sender<Observed>,
    refusals: Refusals,
}

/// Does what the command line asks for: runs the daemon until it is stopped, unless it asks for something smaller.
pub fn run(options: &Options) -> Result<(), Failure> {
    let config =
        Config::load(options).map_err(|fault| Failure::Config(crate::document::diag::render(&[fault])))?;
    if options.check_config {
        return start::check(&config);
    }
    if options.record_filters {
        let _lock = start::lock(&config)?;
        return filters::record(&config);
    }
    start::need_rights()?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(CLOSERS).build();
    runtime.map_err(|error| Failure::System("no runtime", error))?.block_on(serve(config, options))
}

async fn serve(config: Config, options: &Options) -> Result<(), Failure> {
    let level = crate::service::logging::start(config.log_level).map_err(system("no log"))?;
    let settings = Settings::new(options, level);
    let mut signals = Signals::new().map_err(system("no signals"))?;
    start::raise_open_files();
    let _lock = start::lock(&config)?;
    let documents = start::documents(&config, Rc::new(RealDisk))?;
    let listeners = start::listeners(&config)?;
    let metrics = start::metrics(&config)?;
    options.pid_file.as_deref().map(start::write_process_number).transpose()?;
    // The lock cannot be seen later.
    rival::warn_of_driver(&config.runtime_dir);
    // Before rights are given up that it needs.
    let checksum_guard = ChecksumGuard::open(config.checksum_guard)?;
    // Before the first thread: it binds only those that are born later.
    start::confine(&config, Config::file(options));
    let (captures, sightings) = Captures::new(start::most_ears());
    let (mut daemon, counted, foreign) =
        Daemon::start(config, settings, documents, ThisHost { checksum_guard, captures }).await?;
    let mut inputs = Inputs::open(listeners, metrics, sightings, counted, foreign, &daemon);
    systemd::tell(systemd::State::Ready);
    info!(
        bindings = daemon.core.state.bindings().len(),
        filters = daemon.core.state.firewall().filters().len(),
        "ready"
    );
    daemon.work(&mut inputs, &mut signals).await?;
    systemd::tell(systemd::State::Stopping);
    inputs.close().await;
    daemon.core.settle().await;
    info!("stopped; all rules stay in force");
    Ok(())
}

fn system(what: &'static str) -> impl Fn(io::Error) -> Failure {
    move |error| Failure::System(what, error)
}

impl Daemon {
    /// The daemon with its rules in force. Where counts come from that were read to tidy up, and what announces changes
    /// by others, come beside it.
    async fn start(
        config: Config,
        settings: Settings,
        documents: Documents,
        host: ThisHost,
    ) -> Result<(Daemon, mpsc::Receiver<Observed>, AsyncFd<Watch>), Failure> {
        let kernel = Kernel::open(Ownership::OwnedAndKept).map_err(system("no netfilter socket"))?;
        let teller = Teller::start().map_err(system("no netfilter socket to read by"))?;
        // Before the rules are compared for the first time: what others change from then on is announced.
        let foreign =
            Watch::open_async(Some(kernel.port())).map_err(system("cannot follow changes of rules"))?;
        let core = Core::start(&config, Box::new(kernel), Box::new(host), documents).await?;
        let (counted_to, counted) = mpsc::channel(1);
        let refusals = Refusals::default();
        Ok((Daemon { config, settings, core, teller, counted: counted_to, refusals }, counted, foreign))
    }

    async fn work(&mut self, inputs: &mut Inputs, signals: &mut Signals) -> Result<(), Failure> {
        let mut observations = Vec::new();
        loop {
            let due = self.due();
            let idle = self.idle(inputs.clients());
            let cleanup_due = at(self.core.cleanup_due);
            let refusals = at(self.refusals.due().map(Instant::from_std));
            let calm = inputs.are_calm();
            tokio::select! {
                Some(call) = inputs.changes.recv() => self.answer(call).await,
                Some(call) = inputs.asked.recv(), if calm => self.show(call),
                Some(question) = inputs.scrapes.recv(), if calm => self.figures(question),
                Some(counted) = inputs.counted.recv() => self.forget(counted).await,
                () = refusals => self.refusals.tell_left_out(),
                Some(look) = inputs.looks.recv() => self.look(&look),
                events = inputs.links.recv() => match events {
                    Some(events) => self.core.follow(events).await,
                    None => return Err(Failure::System("links are no longer followed", io::ErrorKind::BrokenPipe.into())),
                },
                1.. = inputs.sightings.recv_many(&mut observations, AT_ONCE) => self.core.on_observations(std::mem::take(&mut observations)).await,
                () = due => self.core.expire().await,
                () = cleanup_due => self.clean_up().await,
                () = idle => return Ok(()),
                _ = inputs.connected.changed() => {}
                ended = &mut inputs.server => return Err(start::no_server(ended)),
                _ = inputs.alive.tick() => systemd::tell(systemd::State::Alive),
                ready = inputs.foreign.readable_mut() => {
                    let seen = ready.map(|mut ready| start::foreign(&mut ready)).map_err(system("rules are no longer followed"))?;
                    if let Some(who) = seen {
                        self.core.on_foreign_change(&who).await;
                    }
                }
                signal = signals.next() => match signal {
                    ProcessSignal::Reload => self.reload().await,
                    ProcessSignal::Stop => return Ok(()),
                },
            }
        }
    }
}

/// Ends at that time, if there is one.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

fn gone() -> Failure {
    Failure::System("the netfilter thread has ended", io::ErrorKind::BrokenPipe.into())
}

impl Daemon {
    /// Ends when something of the state has come to its time.
    fn due(&self) -> impl Future<Output = ()> + use<> {
        at(self.core.due())
    }

    /// Puts right what could not be, and has those counts looked for that are of no use any more.
    async fn clean_up(&mut self) {
        self.core.cleanup_due = None;
        if self.core.settle().await {
            self.count_for_tidying();
        }
    }

    /// Ends when no client was connected for the configured time. While a deleted binding is in its grace period, or an address
    /// is being learned or may end, or the disk is owed something, the daemon stays.
    fn idle(&self, (connected, since): (usize, std::time::Instant)) -> impl Future<Output = ()> + use<> {
        let timeout = self.config.timeout;
        let learning = !self.core.state.posts().is_empty();
        let waits = learning || self.core.state.deadline().is_some() || self.core.is_owing();
        let stays = timeout.is_zero() || connected > 0 || waits;
        let end = Instant::from_std(since + timeout);
        async move { if stays { std::future::pending().await } else { tokio::time::sleep_until(end).await } }
    }

    async fn reload(&mut self) {
        systemd::tell(systemd::State::Reloading);
        self.settings.reload(&mut self.config);
        self.core.reload().await;
        systemd::tell(systemd::State::Ready);
    }
}
