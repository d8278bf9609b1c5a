//! The daemon: wires clients, links, signals and the clock to the [engine](crate::engine), and the engine to kernel and disk.
//!
//! One task owns the state and takes events one by one. An event's change is one [transaction](transaction) of disk and kernel, and
//! only then becomes the state; whatever fails on the way is taken back. The rules stay when the daemon ends, however it ends.

mod addresses;
mod bypass_check;
mod captures;
mod checksum_guard;
mod filters;
mod inputs;
mod observations;
mod reader;
mod reconcile;
mod reconfigure;
mod refusals;
mod requests;
mod rival;
mod start;
mod trail;
mod transaction;

use crate::document::filter::Filter;
use crate::engine::error::Error;
use crate::engine::{self, State};
use crate::guest::link::LinkEvent;
use crate::kernel::apply::{self, Kernel};
use crate::kernel::links;
use crate::kernel::watch::Watch as Announcements;
use crate::program::compile;
use crate::program::ir::observed::Observed;
use crate::program::ir::{Family, Name};
use crate::ruleset::bypass::Watch;
use crate::ruleset::firewall::{Firewall, Policy};
use crate::ruleset::layout::{Tracing, TrafficCounting};
use crate::ruleset::nft::Ownership;
use crate::service::config::{Config, Options};
use crate::service::metrics::Counters;
use crate::service::rpc;
use crate::service::store::{Fault, Staged, Store};
use crate::service::systemd;
use addresses::Addresses;
use captures::Captures;
use checksum_guard::ChecksumGuard;
use filters::Filters;
use inputs::{Inputs, ProcessSignal, Signals};
use reader::Teller;
use reconfigure::Settings;
use refusals::Refusals;
use start::Learned;
use std::collections::BTreeSet;
use std::io;
use std::time::{Duration, Instant};
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tracing::{error, info, warn};
use transaction::Transaction;

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

/// After which time what the kernel refused is tried again.
const AGAIN: Duration = Duration::from_secs(10);

/// How many threads close sockets at once.
const CLOSERS: usize = 8;
/// How long counts of what is no more may stay.
const TIDY: Duration = Duration::from_secs(60);

/// The most sightings that are one change.
const AT_ONCE: usize = 256;

/// Everything the daemon holds.
struct Daemon {
    config: Config,
    settings: Settings,
    kernel: Kernel,
    checksum_guard: ChecksumGuard,
    filters: Filters,
    bindings: Store,
    addresses: Addresses,
    captures: Captures,
    state: State,
    started: Instant,
    counters: Counters,
    watch: Watch,
    /// Answers calls that only read.
    teller: Teller,
    /// Where counts go that were read to tidy up.
    counted: mpsc::Sender<Observed>,
    refusals: Refusals,
    /// The sets of the kernel that stand for ipsets.
    ipsets: BTreeSet<(Family, Name)>,
    /// When counts of what is no more are forgotten, and rules are put right that could not be; none where there are none.
    cleanup_due: Option<Instant>,
    kernel_state: KernelState,
    /// What was written for changes that were refused, and could not be put back yet.
    unsettled: Transaction,
    /// Documents of deleted bindings whose rules stay for their period of grace. A daemon that ends meanwhile leaves them aside, so
    /// that the next one tells a binding that was deleted from one whose document was lost.
    leaving: Vec<Staged>,
}

/// Whether the kernel holds the rules of the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum KernelState {
    InSync,
    /// It may hold others, since a change was refused half way.
    Diverged,
}

/// Does what the command line asks for: runs the daemon until it is stopped, unless it asks for something smaller.
pub fn run(options: &Options) -> Result<(), Failure> {
    let config = Config::load(options)
        .map_err(|fault| Failure::Config(crate::document::diag::render(&[fault], false)))?;
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
    let (filters, bindings) = (Filters::open(&config)?, start::bindings(&config)?);
    let learned = start::addresses(&config, start::time());
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
        Daemon::start(config, settings, checksum_guard, filters, bindings, learned, captures).await?;
    let mut inputs = Inputs::open(listeners, metrics, sightings, counted, foreign, &daemon);
    systemd::tell(systemd::State::Ready);
    info!(
        bindings = daemon.state.bindings().len(),
        filters = daemon.state.firewall().filters().len(),
        "ready"
    );
    daemon.work(&mut inputs, &mut signals).await?;
    systemd::tell(systemd::State::Stopping);
    inputs.close().await;
    daemon.settle().await;
    info!("stopped; all rules stay in force");
    Ok(())
}

fn system(what: &'static str) -> impl Fn(io::Error) -> Failure {
    move |error| Failure::System(what, error)
}

impl Daemon {
    /// Builds what must be in force from what is on disk, and takes the kernel there from whatever it holds. Where
    /// counts come from that were read to tidy up, and what announces changes by others, come beside it.
    async fn start(
        config: Config,
        settings: Settings,
        checksum_guard: ChecksumGuard,
        filters: Filters,
        bindings: Store,
        learned: Learned,
        captures: Captures,
    ) -> Result<(Daemon, mpsc::Receiver<Observed>, AsyncFd<Announcements>), Failure> {
        let kernel = Kernel::open(Ownership::OwnedAndKept).map_err(system("no netfilter socket"))?;
        // Before the rules are compared for the first time: what others change from then on is announced.
        let foreign = Announcements::open_async(Some(kernel.port()))
            .map_err(system("cannot follow changes of rules"))?;
        let teller = Teller::start().map_err(system("no netfilter socket to read by"))?;
        let features = kernel.features();
        let policy = Policy {
            fold_up_to: config.fold_up_to,
            compile: compile::Options {
                features: features.into(),
                counters: config.counters,
                host_to_guest: config.host_to_guest,
            },
            placement: config.placement,
        };
        let (found, _) = filters.read(&Default::default())?;
        let links = links::snapshot().map_err(system("cannot list links"))?;
        let firewall = Firewall::new(policy).with_hooks(features.hook_lifetime());
        let tracing = if config.trace { Tracing::On } else { Tracing::Off };
        let traffic = if config.traffic { TrafficCounting::On } else { TrafficCounting::Off };
        let firewall = start::define_all(firewall, found).traced(tracing).counting_traffic(traffic);
        let (bound, lost) = start::read_bindings(&bindings)?;
        let (epoch, started) = (start::time(), Instant::now());
        let cleanup_due = Some(started + TIDY);
        let Learned { journal, book, stands } = learned;
        let state = State::restore_learned(firewall, bound, links, config.grace, book.clone(), epoch);
        let (counters, watch) = (Counters::default(), Watch::default());
        let (counted_to, counted) = mpsc::channel(1);
        let mut daemon = Daemon {
            config,
            settings,
            kernel,
            checksum_guard,
            filters,
            bindings,
            addresses: Addresses::new(journal),
            captures,
            state,
            started,
            counters,
            watch,
            teller,
            counted: counted_to,
            refusals: Refusals::default(),
            ipsets: BTreeSet::new(),
            cleanup_due,
            kernel_state: KernelState::InSync,
            unsettled: Transaction::default(),
            leaving: Vec::new(),
        };
        daemon.state = lost
            .iter()
            .fold(daemon.state, |state, port| state.unreadable_binding(port, "its binding cannot be read"));
        daemon.close_strays().await?;
        daemon.guard_from_start()?;
        daemon.enforce_from_start().await?;
        daemon.unguard_from_start()?;
        daemon.write_what_is_known(stands.then_some(&book));
        trail::warn_of_blocked(&daemon.state);
        trail::warn_of_lost_addresses(&daemon.state, &book);
        daemon.listen();
        Ok((daemon, counted, foreign))
    }

    async fn work(&mut self, inputs: &mut Inputs, signals: &mut Signals) -> Result<(), Failure> {
        let mut observations = Vec::new();
        loop {
            let due = self.due();
            let idle = self.idle(inputs.clients());
            let cleanup_due = at(self.cleanup_due);
            let refusals = at(self.refusals.due());
            let calm = inputs.are_calm();
            tokio::select! {
                Some(call) = inputs.changes.recv() => self.answer(call).await,
                Some(call) = inputs.asked.recv(), if calm => self.show(call),
                Some(question) = inputs.scrapes.recv(), if calm => self.figures(question),
                Some(counted) = inputs.counted.recv() => self.forget(counted).await,
                () = refusals => self.refusals.tell_left_out(),
                Some(look) = inputs.looks.recv() => self.look(&look),
                events = inputs.links.recv() => match events {
                    Some(events) => self.follow(events).await,
                    None => return Err(Failure::System("links are no longer followed", io::ErrorKind::BrokenPipe.into())),
                },
                1.. = inputs.sightings.recv_many(&mut observations, AT_ONCE) => self.on_observations(std::mem::take(&mut observations)).await,
                () = due => self.expire().await,
                () = cleanup_due => self.clean_up().await,
                () = idle => return Ok(()),
                _ = inputs.connected.changed() => {}
                ended = &mut inputs.server => return Err(start::no_server(ended)),
                _ = inputs.alive.tick() => systemd::tell(systemd::State::Alive),
                ready = inputs.foreign.readable_mut() => {
                    let seen = ready.map(|mut ready| start::foreign(&mut ready)).map_err(system("rules are no longer followed"))?;
                    if let Some(who) = seen {
                        self.on_foreign_change(&who).await;
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
        Some(time) => tokio::time::sleep_until(tokio::time::Instant::from_std(time)).await,
        None => std::future::pending().await,
    }
}

fn gone() -> Failure {
    Failure::System("the netfilter thread has ended", io::ErrorKind::BrokenPipe.into())
}

impl Daemon {
    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Ends when something of the state has come to its time.
    fn due(&self) -> impl Future<Output = ()> + use<> {
        at(self.state.deadline().map(|deadline| self.started + deadline))
    }

    /// Puts right what could not be, and has those counts looked for that are of no use any more.
    async fn clean_up(&mut self) {
        self.cleanup_due = None;
        if self.settle().await {
            self.count_for_tidying();
        }
    }

    /// Ends when no client was connected for the configured time. While a deleted binding is in its grace period, or an address
    /// is being learned or may end, or the disk is owed something, the daemon stays.
    fn idle(&self, (connected, since): (usize, Instant)) -> impl Future<Output = ()> + use<> {
        let timeout = self.config.timeout;
        let learning = !self.state.posts().is_empty();
        let waits = learning || self.state.deadline().is_some() || self.is_owing();
        let stays = timeout.is_zero() || connected > 0 || waits;
        let end = tokio::time::Instant::from_std(since + timeout);
        async move { if stays { std::future::pending().await } else { tokio::time::sleep_until(end).await } }
    }

    async fn expire(&mut self) {
        let now = self.now();
        if let Err(refused) = self.commit(self.state.expire(now)).await {
            error!(reason = %refused.message, "deleted bindings stay in force for now: the kernel refused to delete their rules; it is tried again");
            self.state = self.state.put_off(now, now + AGAIN);
        }
    }

    async fn follow(&mut self, events: Vec<LinkEvent>) {
        for event in events {
            let change = self.state.link(&event);
            let Err(refused) = self.try_commit(change).await else { continue };
            let with_closed = self.state.link_with_closed(&event);
            if event.is_about_a_bridge() && self.try_commit(with_closed).await.is_ok() {
                continue;
            }
            let why = Error::from(refused).message;
            error!(link = ?event, reason = %why, "rules refused by the kernel: the interface is blocked");
            if let LinkEvent::Appeared(link) | LinkEvent::Changed { new: link, .. } = &event {
                self.block(link, &why).await;
            }
            // Not before: at the attach point that it has left nothing would filter it.
            self.rollback().await;
        }
    }

    async fn reload(&mut self) {
        systemd::tell(systemd::State::Reloading);
        self.settings.reload(&mut self.config);
        match self.filters.read(self.state.firewall().filters()) {
            Ok(found) => self.commit_filters(found).await,
            Err(fault) => error!(
                reason = transaction::chain(&fault),
                "filters stay as they were: the reload was refused; mend what the reason names and reload again"
            ),
        }
        self.retry_closed().await;
        systemd::tell(systemd::State::Ready);
    }

    /// Takes the filters that were found, all at once, or, where the kernel refuses that, one by one, so that one that it
    /// does not take stands in no other's way.
    async fn commit_filters(&mut self, (found, faulty): (Vec<Filter>, usize)) {
        let before = self.state.clone();
        let (change, mut faults) = self.state.reload(found.clone());
        if self.commit(change).await.is_err() {
            faults.clear();
            for filter in found {
                let name = filter.name.clone();
                let (change, fault) = self.state.reload([filter]);
                faults.extend(fault);
                if let Err(why) = self.commit(change).await {
                    faults.push(engine::FaultyFilter { filter: name, why });
                }
            }
        }
        start::tell_of(&faults);
        trail::tell_of_reload(&before, &self.state, faulty + faults.len());
    }

    /// One by one, so that a port the kernel still refuses stands in no other's way.
    pub(super) async fn retry_closed(&mut self) {
        for portdev in self.state.closed_ports() {
            if let Err(refused) = self.commit(self.state.retry(&portdev)).await {
                warn!(port = portdev, reason = %refused.message, "stays blocked: its rules were refused again; mend what the reason names");
            }
        }
    }
}
