//! What the daemon decides and commits, one event after the other, whatever machine it runs on.
//!
//! The core knows the kernel, the disk and the host by [`Netfilter`], [`Disk`](crate::service::store::files::Disk) and [`Host`]
//! alone, and the time by tokio's clock, which a test can stop. Sockets, signals and threads are the daemon's. An event is over
//! when its method returns: then kernel, disk and state agree, or what one of them still owes is remembered and tried again.

use super::addresses::Addresses;
use super::filters::Filters;
use super::start::{self, Learned};
use super::transaction::{self, Transaction};
use super::world::{Host, Netfilter};
use super::{Failure, system, trail};
use crate::document::filter::Filter;
use crate::engine::api::{Reply, Request};
use crate::engine::error::Error;
use crate::engine::{self, Context, State, Write};
use crate::guest::link::LinkEvent;
use crate::program::compile;
use crate::program::ir::{Family, Name};
use crate::ruleset::bypass::Watch;
use crate::ruleset::firewall::{Firewall, Policy};
use crate::ruleset::layout::{Tracing, TrafficCounting};
use crate::service::config::Config;
use crate::service::metrics::Counters;
use crate::service::store::{Staged, Store};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::Instant;
use tracing::{error, warn};

/// After which time what the kernel refused is tried again.
pub(super) const AGAIN: Duration = Duration::from_secs(10);
/// How long counts of what is no more may stay.
pub(super) const TIDY: Duration = Duration::from_secs(60);

/// What is in force, and all that it takes to change it.
pub(super) struct Core {
    pub(super) kernel: Box<dyn Netfilter>,
    pub(super) host: Box<dyn Host>,
    pub(super) filters: Filters,
    pub(super) bindings: Store,
    pub(super) addresses: Addresses,
    pub(super) state: State,
    pub(super) started: Instant,
    pub(super) counters: Counters,
    pub(super) watch: Watch,
    /// The sets of the kernel that stand for ipsets.
    pub(super) ipsets: BTreeSet<(Family, Name)>,
    /// When counts of what is no more are forgotten, and rules are put right that could not be; none where there are none.
    pub(super) cleanup_due: Option<Instant>,
    pub(super) kernel_state: KernelState,
    /// Whether it may hold obsolete rules besides, which no packet reaches.
    pub(super) has_leftovers: bool,
    /// What was written for changes that were refused, and could not be put back yet.
    pub(super) unsettled: Transaction,
    /// Documents of deleted bindings whose rules stay for their period of grace. A daemon that ends meanwhile leaves them aside, so
    /// that the next one tells a binding that was deleted from one whose document was lost.
    pub(super) leaving: Vec<Staged>,
}

/// Whether the kernel holds the rules of the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KernelState {
    InSync,
    /// It may hold others, since a change was refused half way.
    Diverged,
}

/// What is on the disk when the daemon starts.
pub(super) struct Documents {
    pub(super) filters: Filters,
    pub(super) bindings: Store,
    pub(super) learned: Learned,
}

impl Core {
    /// Builds what must be in force from what is on disk, and takes the kernel there from whatever it holds.
    pub(super) async fn start(
        config: &Config,
        kernel: Box<dyn Netfilter>,
        host: Box<dyn Host>,
        documents: Documents,
    ) -> Result<Core, Failure> {
        let Documents { filters, bindings, learned } = documents;
        let (found, _) = filters.read(&Default::default())?;
        let links = host.links().map_err(system("cannot list links"))?;
        let firewall = start::define_all(empty(config, &*kernel), found);
        let tracing = if config.trace { Tracing::On } else { Tracing::Off };
        let traffic = if config.traffic { TrafficCounting::On } else { TrafficCounting::Off };
        let firewall = firewall.traced(tracing).counting_traffic(traffic);
        let (bound, lost) = start::read_bindings(&bindings)?;
        let (epoch, started) = (host.time(), Instant::now());
        let Learned { journal, book, stands } = learned;
        let state = State::restore_learned(firewall, bound, links, config.grace, book.clone(), epoch);
        let mut core = Core {
            kernel,
            host,
            filters,
            bindings,
            addresses: Addresses::new(journal),
            state,
            started,
            counters: Counters::default(),
            watch: Watch::default(),
            ipsets: BTreeSet::new(),
            cleanup_due: Some(started + TIDY),
            kernel_state: KernelState::InSync,
            has_leftovers: false,
            unsettled: Transaction::default(),
            leaving: Vec::new(),
        };
        core.state = lost
            .iter()
            .fold(core.state, |state, port| state.unreadable_binding(port, "its binding cannot be read"));
        core.close_strays().await?;
        core.guard_from_start()?;
        core.enforce_from_start().await?;
        core.unguard_from_start()?;
        core.write_what_is_known(stands.then_some(&book));
        trail::warn_of_blocked(&core.state);
        trail::warn_of_lost_addresses(&core.state, &book);
        core.listen();
        Ok(core)
    }

    /// Since the start.
    pub(super) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// When something of the state comes to its time.
    pub(super) fn due(&self) -> Option<Instant> {
        self.state.deadline().map(|deadline| self.started + deadline)
    }

    /// A client's call that changes something. `fresh` is for a filter that comes without a UUID.
    pub(super) async fn request(&mut self, request: &Request, fresh: uuid::Uuid) -> Result<Reply, Error> {
        let context = Context { now: self.now(), fresh };
        let change = self.state.request(request, context).and_then(|change| self.under_own_name(change));
        self.commit_if(change).await
    }

    /// Rules and links go by an interface's own name: a binding under another of its names would wait while the interface is open.
    fn under_own_name(&self, change: engine::Change) -> Result<engine::Change, Error> {
        let bound = change.writes.iter().filter_map(|write| match write {
            Write::SaveBinding(portdev, _) => Some(portdev),
            _ => None,
        });
        let mut otherwise = bound.filter_map(|portdev| Some((portdev, self.host.named_otherwise(portdev)?)));
        match otherwise.next() {
            Some((portdev, own)) => {
                Err(Error::invalid(format!("'{portdev}' is another name of interface '{own}': bind '{own}'")))
            }
            None => Ok(change),
        }
    }

    pub(super) async fn expire(&mut self) {
        let now = self.now();
        if let Err(refused) = self.commit(self.state.expire(now)).await {
            error!(reason = %refused.message, "deleted bindings stay in force for now: the kernel refused to delete their rules; it is tried again");
            self.state = self.state.put_off(now, now + AGAIN);
        }
    }

    pub(super) async fn follow(&mut self, events: Vec<LinkEvent>) {
        for event in events {
            let change = self.state.link(&event);
            let Err(refused) = self.try_commit(change).await else { continue };
            let with_closed = self.state.link_with_closed(&event);
            if event.is_about_a_bridge() && self.try_commit(with_closed).await.is_ok() {
                continue;
            }
            let why = Error::from(refused).message;
            if let LinkEvent::Gone(link) = &event {
                warn!(interface = link.name, reason = %why, "rules of an interface that is gone not deleted: it is tried again");
                self.forget_link(&event);
                continue;
            }
            error!(link = ?event, reason = %why, "rules refused by the kernel: the interface is blocked");
            if let LinkEvent::Appeared(link) | LinkEvent::Changed { new: link, .. } = &event {
                self.block(link, &why).await;
            }
            // Not before: at the attach point that it has left nothing would filter it.
            self.rollback().await;
        }
    }

    /// The rules of a link that is gone meet no frame, so the state follows at once and the kernel later. A state that kept the link
    /// would ask for hooks of a device that is not there, which the kernel refuses with whatever else it is asked for.
    fn forget_link(&mut self, gone: &LinkEvent) {
        let change = self.state.link(gone);
        let (records, now) = (change.records(&self.state), self.now());
        self.addresses.owe(&(records.before + &records.after), now);
        let left = std::mem::replace(&mut self.state, change.next);
        self.unguard(&left);
        self.listen();
        self.kernel_state = KernelState::Diverged;
        self.settle_within(AGAIN);
    }

    /// Reads the filters again.
    pub(super) async fn reload(&mut self) {
        match self.filters.read(self.state.firewall().filters()) {
            Ok(found) => self.commit_filters(found).await,
            Err(fault) => error!(
                reason = transaction::chain(&fault),
                "filters stay as they were: the reload was refused; mend what the reason names and reload again"
            ),
        }
        self.retry_closed().await;
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

/// Nothing bound, no filters, in this kernel.
fn empty(config: &Config, kernel: &dyn Netfilter) -> Firewall {
    let features = kernel.features();
    let (counters, host_to_guest) = (config.counters, config.host_to_guest);
    let compile = compile::Options { features: features.into(), counters, host_to_guest };
    let policy = Policy { fold_up_to: config.fold_up_to, compile, placement: config.placement };
    Firewall::new(policy).with_hooks(features.hook_lifetime())
}
