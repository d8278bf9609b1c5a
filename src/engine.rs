//! The daemon without its effects: what a request, a link or the clock makes of filters and bindings.
//!
//! A [`State`] is a value. Every event gives a [`Change`]: the next state, the documents to write and the reply. The
//! daemon lets the kernel take the difference of the two rule sets, writes before and after it what its [`Records`] say, and only
//! then makes the next state its own; whatever fails on the way leaves the old one. Time and randomness come as arguments.

pub mod api;
pub mod documents;
pub mod error;
mod filters;
mod gauges;
mod grandfathered;
mod learners;
mod missing_vars;
pub mod named;
mod ports;
mod records;

pub use filters::{FaultyFilter, sound};
pub use gauges::StateGauges;
pub use records::Records;

use crate::document::binding::{self, Binding};
use crate::document::diag::Diagnostic;
use crate::document::filter::{Filter, write};
use crate::engine::api::{BindingId, FilterId, Reply, Request};
use crate::engine::documents::Validation;
use crate::engine::error::Error;
use crate::guest::lease::GuestLeases;
use crate::guest::lease::file::{self, Book};
use crate::guest::link::Link;
use crate::program::ir::observed::Observed;
use crate::program::ir::{Family, Name, SetType};
use crate::report::explain::Bound;
use crate::report::status::{Guest, Interface, Status};
use crate::ruleset::counters;
use crate::ruleset::firewall::{Firewall, Refused};
use crate::ruleset::layout;
use imbl::OrdMap;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// All that the daemon knows.
#[derive(Clone, Debug)]
pub struct State {
    firewall: Firewall,
    bindings: OrdMap<String, Arc<Binding>>,
    links: OrdMap<u32, Arc<Link>>,
    /// The link that has a name today.
    names: OrdMap<String, u32>,
    /// Bindings that were deleted while their link was there: their rules stay until then, or until the
    /// binding is created again.
    leaving: OrdMap<String, Duration>,
    /// Bindings whose interface lets nothing pass, and why.
    blocked: OrdMap<String, Arc<str>>,
    /// Guests whose addresses are found out, by link.
    learners: OrdMap<u32, Arc<learners::LearnerEntry>>,
    /// What is known of guests that are not there.
    remembered: OrdMap<(file::GuestId, u32), GuestLeases>,
    /// The time since the Unix epoch at which the daemon started.
    epoch: Duration,
    /// No address ends before this: the kernel did not take what ended then.
    not_before: Duration,
    grace: Duration,
}

/// What an event comes to.
#[derive(Clone, Debug)]
pub struct Change {
    /// The state from then on.
    pub next: State,
    /// Documents to write.
    pub writes: Vec<Write>,
    /// The answer, where a client asked.
    pub reply: Reply,
    /// What the administrator should know of it, though nothing is refused.
    pub notices: Vec<Diagnostic>,
}

/// A document to write or to remove.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// A filter's file.
    SaveFilter(String, String),
    /// A filter's file is no more.
    DeleteFilter(String),
    /// A binding's status file.
    SaveBinding(String, String),
    /// A binding's status file is no more.
    DeleteBinding(String),
}

/// What a pure function cannot know.
#[derive(Clone, Copy, Debug)]
pub struct Context {
    /// Since the daemon's start.
    pub now: Duration,
    /// A UUID for a filter that comes without.
    pub fresh: Uuid,
}

impl State {
    /// What is enforced at the start: these filters, bindings and links. A binding whose rules cannot be
    /// made is blocked instead of lost.
    pub fn restore(
        firewall: Firewall,
        bindings: impl IntoIterator<Item = Binding>,
        links: impl IntoIterator<Item = Link>,
        grace: Duration,
    ) -> State {
        State::restore_learned(firewall, bindings, links, grace, Book::default(), Duration::ZERO)
    }

    /// The same, with the addresses that were learned before, at a time since the Unix epoch.
    pub fn restore_learned(
        firewall: Firewall,
        bindings: impl IntoIterator<Item = Binding>,
        links: impl IntoIterator<Item = Link>,
        grace: Duration,
        learned: Book,
        epoch: Duration,
    ) -> State {
        let mut state = State {
            firewall,
            bindings: bindings
                .into_iter()
                .map(|binding| (binding.portdev.clone(), Arc::new(binding)))
                .collect(),
            links: OrdMap::new(),
            names: OrdMap::new(),
            leaving: OrdMap::new(),
            blocked: OrdMap::new(),
            learners: OrdMap::new(),
            remembered: learned.0.into(),
            epoch,
            not_before: Duration::ZERO,
            grace,
        };
        links.into_iter().for_each(|link| state.know(link));
        for portdev in state.bindings.keys() {
            state.firewall = state.firewall.reserve(portdev);
        }
        state.enforce_all();
        state.forget_gone_links();
        state
    }

    /// The filters and bound interfaces with their rule set.
    pub fn firewall(&self) -> &Firewall {
        &self.firewall
    }

    /// All bindings by port.
    pub fn bindings(&self) -> &OrdMap<String, Arc<Binding>> {
        &self.bindings
    }

    /// What `nwfilter status` shows of this state, given what the kernel has counted ([`State::counted`]).
    pub fn status(&self, counted: &Observed) -> Status {
        let ruleset = self.firewall.ruleset();
        let dropped = counters::dropped_by(&ruleset, counted);
        let dropping = if dropped.is_empty() { BTreeMap::new() } else { self.firewall.dropping() };
        let links = self.links.values().map(|link| &**link);
        let mut status = Status::known(&ruleset, counted, dropped, links);
        for interface in &mut status.interfaces {
            for dropped in &mut interface.dropped {
                dropped.place = dropping.get(&dropped.id).map(|origin| origin.place.line_column());
            }
            let member = interface.index.and_then(|index| self.firewall.members().get(&index));
            let why = member.and_then(|member| self.blocked.get(&member.name));
            interface.closed = why.map(ToString::to_string);
            let binding = member.and_then(|member| self.bindings.get(&member.name));
            interface.guest = binding.map(|binding| Guest::of(binding));
            interface.learning = interface.index.and_then(|index| self.lesson(index));
        }
        let waiting = self.waiting().map(|binding| Interface {
            name: Some(binding.portdev.clone()),
            filter: binding.filter.clone(),
            guest: Some(Guest::of(binding)),
            ..Interface::default()
        });
        status.interfaces.extend(waiting);
        Status { daemon: true, ..status }
    }

    /// The sets of the kernel that count what this state does not know.
    pub fn counted(&self) -> Vec<(Family, Name, SetType)> {
        let ruleset = self.firewall.ruleset();
        let sets = ruleset.tables.iter().flat_map(|(family, table)| {
            let counting = [layout::DROPS, layout::TRAFFIC_IN, layout::TRAFFIC_OUT].into_iter();
            counting.filter_map(|name| Some((*family, name.into(), table.sets.get(name)?.kind())))
        });
        sets.collect()
    }

    /// The chains of the kernel whose rules count.
    pub fn counting_chains(&self) -> Vec<(Family, Name)> {
        if !self.firewall.policy().compile.counters {
            return Vec::new();
        }
        let ruleset = self.firewall.ruleset();
        let chains = ruleset.tables.iter().flat_map(|(family, table)| {
            let programs = table.chains.keys().filter(|name| layout::prefix_of(name).is_some());
            programs.map(|name| (*family, name.clone()))
        });
        chains.collect()
    }

    /// Why a binding's interface is closed; none where it is not.
    pub fn blocked(&self, portdev: &str) -> Option<&str> {
        self.blocked.get(portdev).map(|why| &**why)
    }

    /// The ports whose interfaces are closed.
    pub fn closed_ports(&self) -> Vec<String> {
        self.blocked.keys().cloned().collect()
    }

    /// The link of a name.
    pub fn link_of(&self, portdev: &str) -> Option<&Arc<Link>> {
        self.links.get(self.names.get(portdev)?)
    }

    /// The links that are not among these.
    pub fn links_not_in(&self, there: &[Link]) -> Vec<Arc<Link>> {
        let is_there = |link: &Link| there.iter().any(|other| other.index == link.index);
        self.links.values().filter(|link| !is_there(link)).cloned().collect()
    }

    /// The link of an index.
    pub fn link_at(&self, index: u32) -> Option<&Arc<Link>> {
        self.links.get(&index)
    }

    /// When [`State::expire`] has something to do next.
    pub fn deadline(&self) -> Option<Duration> {
        let learned = self.learners.values().filter_map(|entry| entry.deadline(self.epoch));
        let learned = learned.min().map(|ends| ends.max(self.not_before));
        self.leaving.values().copied().chain(learned).min()
    }

    /// Answers a client.
    pub fn request(&self, request: &Request, context: Context) -> Result<Change, Error> {
        match request {
            Request::CountFilters | Request::ListAllFilters { need_results: false, .. } => {
                self.answer(Reply::Count(self.firewall.filters().len()))
            }
            Request::ListFilterNames { max } => self.answer(self.filter_names(*max)),
            Request::ListAllFilters { need_results: true, .. } => self.answer(self.filter_ids()),
            Request::LookupFilterByName { name } => {
                self.answer(Reply::Filter(filter_id(self.filter_named(name)?)))
            }
            Request::LookupFilterByUuid { uuid } => {
                self.answer(Reply::Filter(filter_id(self.filter_with(*uuid)?)))
            }
            Request::FilterXml { uuid, .. } => {
                self.answer(Reply::Xml(write::write(self.filter_with(*uuid)?)))
            }
            Request::DefineFilter { xml, flags } => self.define(xml, Validation::of(*flags), context),
            Request::UndefineFilter { uuid } => self.undefine(*uuid),
            Request::Define { documents } => self.define_named(documents, context),
            Request::Undefine { name } => self.undefine_named(name),
            Request::ListAllBindings { need_results: false, .. } => {
                self.answer(Reply::Count(self.bindings.len()))
            }
            Request::ListAllBindings { need_results: true, .. } => self.answer(self.binding_ids()),
            Request::LookupBinding { portdev } => {
                self.answer(Reply::Binding(binding_id(self.binding(portdev)?)))
            }
            Request::BindingXml { portdev, .. } => {
                self.answer(Reply::Xml(binding::write(self.binding(portdev)?)))
            }
            Request::CreateBinding { xml, flags } => self.create(xml, Validation::of(*flags)),
            Request::DeleteBinding { portdev } => self.delete(portdev, context.now),
            Request::Apply { xml } => self.apply(xml),
            Request::Remove { portdev } => self.remove(portdev),
            Request::Bound { portdev } => self.filtered_by(portdev),
            Request::Status | Request::Plan { .. } | Request::Ipset { .. } => Err(Error::unknown()),
        }
    }

    /// Bindings whose link is not there.
    fn waiting(&self) -> impl Iterator<Item = &Arc<Binding>> {
        self.bindings.values().filter(|binding| self.link_of(&binding.portdev).is_none())
    }

    /// What the frames of a bound interface must pass, so that a client can explain them.
    fn filtered_by(&self, portdev: &str) -> Result<Change, Error> {
        let index = self.link_of(portdev).map(|link| link.index);
        let member = index.and_then(|index| self.firewall.members().get(&index));
        let member = member.ok_or_else(|| Error::no_binding(portdev))?;
        let (filter, used) = self.firewall.followed(&member.rules).unzip();
        let documents = used.into_iter().flatten().map(|filter| {
            let source = &filter.source;
            (source.name.clone(), source.text.clone())
        });
        let (documents, vars) = (documents.collect(), member.vars.0.clone());
        let reject = self.firewall.answers(member.index);
        let closed = self.blocked(&member.name).map(str::to_owned);
        let host_to_guest = self.firewall.policy().compile.host_to_guest;
        let json = serde_json::to_string(&Bound { filter, closed, vars, documents, reject, host_to_guest });
        self.answer(Reply::Json(json.map_err(|error| Error::internal(error.to_string()))?))
    }

    fn answer(&self, reply: Reply) -> Result<Change, Error> {
        Ok(Change { reply, ..Change::silent(self.clone()) })
    }

    fn filter_names(&self, max: usize) -> Reply {
        Reply::Names(self.firewall.filters().keys().take(max).cloned().collect())
    }

    fn filter_ids(&self) -> Reply {
        Reply::Filters(self.firewall.filters().values().map(|filter| filter_id(filter)).collect())
    }

    fn binding_ids(&self) -> Reply {
        Reply::Bindings(self.bindings.values().map(|binding| binding_id(binding)).collect())
    }

    fn filter_named(&self, name: &str) -> Result<&Arc<Filter>, Error> {
        self.firewall.filter(name).ok_or_else(|| Error::no_filter_named(name))
    }

    fn filter_with(&self, uuid: Uuid) -> Result<&Arc<Filter>, Error> {
        let found = self.firewall.filters().values().find(|filter| filter.uuid == Some(uuid));
        found.ok_or_else(|| Error::no_filter_with(uuid))
    }

    fn binding(&self, portdev: &str) -> Result<&Arc<Binding>, Error> {
        self.bindings.get(portdev).ok_or_else(|| Error::no_binding(portdev))
    }
}

impl Change {
    /// A change that is not written and answers no client.
    pub fn silent(next: State) -> Change {
        Change { next, writes: Vec::new(), reply: Reply::Done, notices: Vec::new() }
    }
}

fn filter_id(filter: &Filter) -> FilterId {
    FilterId { name: filter.name.clone(), uuid: filter.uuid.unwrap_or_default() }
}

fn binding_id(binding: &Binding) -> BindingId {
    BindingId { portdev: binding.portdev.clone(), filter: binding.filter.clone() }
}

/// A refusal for the sake of some interface, which is named.
fn refusal(Refused { interface, diagnostics }: Refused) -> Error {
    let Some(interface) = interface else { return documents::refusal(&diagnostics) };
    let named =
        |fault: Diagnostic| Diagnostic { message: format!("{interface}: {}", fault.message), ..fault };
    documents::refusal(&diagnostics.into_iter().map(named).collect::<Vec<_>>())
}

/// A refusal for the sake of the interface that the client itself named.
fn own_refusal(refused: Refused) -> Error {
    documents::refusal(&refused.diagnostics)
}
