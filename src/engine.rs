//! The daemon without its effects: what a request, a link or the clock makes of filters and bindings.
//!
//! A [`State`] is a value. Every event gives a [`Change`]: the next state, the documents to write and the reply. The
//! daemon lets the kernel take the difference of the two rule sets, writes, and only then makes the next
//! state its own; whatever fails on the way leaves the old one. Time and randomness come as arguments.

pub mod documents;

use crate::binding::{self, Binding};
use crate::filter::{Filter, write};
use crate::firewall::{BridgePort, Firewall, Member, Refused, Rules};
use crate::ir::observed::Observed;
use crate::links::{Kind, Link, LinkEvent};
use crate::rpc::{BindingId, Error, FilterId, Reply, Request};
use crate::status::{Interface, Status};
use crate::vars::Vars;
use documents::{read_binding, read_filter};
use imbl::{OrdMap, OrdSet};
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// All that the daemon knows.
#[derive(Clone, Debug)]
pub struct State {
    firewall: Firewall,
    bindings: OrdMap<String, Arc<Binding>>,
    links: OrdMap<u32, Arc<Link>>,
    /// Bindings that were deleted while their link was there: their rules stay until then, or until the
    /// binding is made again.
    leaving: OrdMap<String, Duration>,
    /// Bindings whose interface lets nothing pass, and why.
    closed: OrdMap<String, Arc<str>>,
    grace: Duration,
}

/// What an event comes to.
#[derive(Clone, Debug)]
pub struct Change {
    /// The state from then on.
    pub next: State,
    /// Documents to write once the kernel has the new rules.
    pub writes: Vec<Write>,
    /// The answer, where somebody asked.
    pub reply: Reply,
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

/// What a pure function can not know.
#[derive(Clone, Copy, Debug)]
pub struct Context {
    /// Since the daemon's start.
    pub now: Duration,
    /// A UUID for a filter that comes without.
    pub fresh: Uuid,
}

impl State {
    /// What is enforced at the start: these filters, bindings and links. A binding whose rules can not be
    /// made is closed instead of lost.
    pub fn restore(
        firewall: Firewall,
        bindings: impl IntoIterator<Item = Binding>,
        links: impl IntoIterator<Item = Link>,
        grace: Duration,
    ) -> State {
        let mut state = State {
            firewall,
            bindings: bindings
                .into_iter()
                .map(|binding| (binding.portdev.clone(), Arc::new(binding)))
                .collect(),
            links: links.into_iter().map(|link| (link.index, Arc::new(link))).collect(),
            leaving: OrdMap::new(),
            closed: OrdMap::new(),
            grace,
        };
        for portdev in state.bindings.clone().keys() {
            state.firewall = state.firewall.reserve(portdev);
            state.enforce(portdev);
        }
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

    /// What `nwfilter status` shows of this state, given what is in the kernel.
    pub fn status(&self, observed: &Observed) -> Status {
        let names = self.links.values().map(|link| (link.index, link.name.clone())).collect();
        let mut status = Status::of(observed, &names);
        for interface in &mut status.interfaces {
            let name = interface.name.as_deref().unwrap_or_default();
            interface.closed = self.closed.get(name).map(ToString::to_string);
        }
        let waiting = self.waiting().map(|binding| Interface {
            name: Some(binding.portdev.clone()),
            filter: binding.filter.clone(),
            ..Interface::default()
        });
        status.interfaces.extend(waiting);
        status
    }

    /// Why a binding's interface is closed; none where it is not.
    pub fn closed(&self, portdev: &str) -> Option<&str> {
        self.closed.get(portdev).map(|why| &**why)
    }

    /// The link of a name.
    pub fn link_of(&self, portdev: &str) -> Option<&Arc<Link>> {
        self.links.values().find(|link| link.name == portdev)
    }

    /// When [`State::expire`] has something to do next.
    pub fn deadline(&self) -> Option<Duration> {
        self.leaving.values().min().copied()
    }

    /// Answers a client.
    pub fn request(&self, request: &Request, context: Context) -> Result<Change, Error> {
        match request {
            Request::CountFilters => self.answer(Reply::Count(self.firewall.filters().len())),
            Request::ListFilterNames { max } => {
                self.answer(Reply::Names(self.firewall.filters().keys().take(*max).cloned().collect()))
            }
            Request::ListAllFilters { need_results: false, .. } => {
                self.answer(Reply::Count(self.firewall.filters().len()))
            }
            Request::ListAllFilters { .. } => self.answer(Reply::Filters(
                self.firewall.filters().values().map(|filter| filter_id(filter)).collect(),
            )),
            Request::LookupFilterByName { name } => {
                self.answer(Reply::Filter(filter_id(self.filter_named(name)?)))
            }
            Request::LookupFilterByUuid { uuid } => {
                self.answer(Reply::Filter(filter_id(self.filter_with(*uuid)?)))
            }
            Request::FilterXml { uuid, .. } => {
                self.answer(Reply::Xml(write::write(self.filter_with(*uuid)?)))
            }
            Request::DefineFilter { xml, flags } => self.define(xml, flags & 1 != 0, context.fresh),
            Request::UndefineFilter { uuid } => self.undefine(*uuid),
            Request::ListAllBindings { need_results: false, .. } => {
                self.answer(Reply::Count(self.bindings.len()))
            }
            Request::ListAllBindings { .. } => self
                .answer(Reply::Bindings(self.bindings.values().map(|binding| binding_id(binding)).collect())),
            Request::LookupBinding { portdev } => {
                self.answer(Reply::Binding(binding_id(self.binding(portdev)?)))
            }
            Request::BindingXml { portdev, .. } => {
                self.answer(Reply::Xml(binding::write(self.binding(portdev)?)))
            }
            Request::CreateBinding { xml, flags } => self.create(xml, flags & 1 != 0),
            Request::DeleteBinding { portdev } => self.delete(portdev, context.now),
            Request::Apply { xml } => self.apply(xml),
            Request::Remove { portdev } => self.remove(portdev),
            Request::Status | Request::Ipset { .. } => Err(Error::unknown()),
        }
    }

    fn answer(&self, reply: Reply) -> Result<Change, Error> {
        Ok(Change { next: self.clone(), writes: Vec::new(), reply })
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

    fn define(&self, xml: &str, validate: bool, fresh: Uuid) -> Result<Change, Error> {
        let mut filter = read_filter(xml, validate)?;
        let uuid = *filter.uuid.get_or_insert(fresh);
        self.check_identity(&filter, uuid)?;
        if self.firewall.introduces_loop(&filter) {
            return Err(Error::failed("filter would introduce a loop"));
        }
        let (id, text) = (FilterId { name: filter.name.clone(), uuid }, write::file_text(&filter));
        let mut next = self.clone();
        let same =
            self.firewall.filter(&filter.name).is_some_and(|old| write::write(old) == write::write(&filter));
        if !same {
            next.firewall = self.firewall.define([Arc::new(filter)]).map_err(refusal)?;
        }
        Ok(Change { next, writes: vec![Write::SaveFilter(id.name.clone(), text)], reply: Reply::Filter(id) })
    }

    /// A name and a UUID belong together for good.
    fn check_identity(&self, filter: &Filter, uuid: Uuid) -> Result<(), Error> {
        if let Ok(known) = self.filter_with(uuid) {
            let name = &known.name;
            let message = format!("filter with same UUID but different name ('{name}') already exists");
            return if *name == filter.name { Ok(()) } else { Err(Error::failed(message)) };
        }
        match self.firewall.filter(&filter.name) {
            None => Ok(()),
            Some(known) => {
                let uuid = known.uuid.unwrap_or_default();
                Err(Error::failed(format!("filter '{}' already exists with uuid {uuid}", filter.name)))
            }
        }
    }

    fn undefine(&self, uuid: Uuid) -> Result<Change, Error> {
        let name = self.filter_with(uuid)?.name.clone();
        let used_while_waiting = self.waiting().any(|binding| self.firewall.uses(&binding.filter, &name));
        let firewall = self.firewall.undefine(&name).ok().filter(|_| !used_while_waiting);
        let firewall = firewall.ok_or_else(|| Error::invalid("nwfilter is in use"))?;
        let next = State { firewall, ..self.clone() };
        Ok(Change { next, writes: vec![Write::DeleteFilter(name)], reply: Reply::Done })
    }

    /// Bindings whose link is not there.
    fn waiting(&self) -> impl Iterator<Item = &Arc<Binding>> {
        self.bindings.values().filter(|binding| self.link_of(&binding.portdev).is_none())
    }

    fn create(&self, xml: &str, validate: bool) -> Result<Change, Error> {
        let binding = read_binding(xml, validate)?;
        if self.bindings.contains_key(&binding.portdev) {
            return Err(Error::failed(format!("binding '{}' already exists", binding.portdev)));
        }
        self.bound(binding)
    }

    /// As create, but a binding that is there is replaced.
    fn apply(&self, xml: &str) -> Result<Change, Error> {
        let change = self.bound(read_binding(xml, false)?)?;
        Ok(Change { reply: Reply::Done, ..change })
    }

    fn bound(&self, mut binding: Binding) -> Result<Change, Error> {
        if binding.params.values("MAC").is_none() {
            binding.params.push("MAC", binding.mac.to_string());
        }
        let portdev = binding.portdev.clone();
        let mut next = self.clone();
        next.leaving.remove(&portdev);
        next.closed.remove(&portdev);
        next.firewall = next.firewall.reserve(&portdev);
        match self.link_of(&portdev) {
            Some(link) => {
                next.firewall = next.firewall.bind(self.member(link, &binding)).map_err(own_refusal)?;
            }
            None => self.firewall.check(&binding.filter, &binding.params).map_err(own_refusal)?,
        }
        let reply = Reply::Binding(binding_id(&binding));
        let writes = vec![Write::SaveBinding(portdev.clone(), binding::write_status(&binding))];
        next.bindings.insert(portdev, Arc::new(binding));
        Ok(Change { next, writes, reply })
    }

    fn member(&self, link: &Link, binding: &Binding) -> Member {
        let bridge = link.master.and_then(|master| self.links.get(&master));
        let bridge = bridge.filter(|master| master.kind == Kind::Bridge);
        Member {
            index: link.index,
            name: link.name.clone(),
            bridge: bridge.map(|bridge| BridgePort { index: bridge.index, name: bridge.name.clone() }),
            rules: Rules::Filter(binding.filter.clone()),
            vars: binding.params.clone(),
        }
    }

    fn delete(&self, portdev: &str, now: Duration) -> Result<Change, Error> {
        self.binding(portdev)?;
        let mut next = self.clone();
        next.bindings.remove(portdev);
        if self.link_of(portdev).is_some() && !self.grace.is_zero() {
            next.leaving.insert(portdev.into(), now + self.grace);
        } else {
            next.release(portdev);
        }
        Ok(Change { next, writes: vec![Write::DeleteBinding(portdev.into())], reply: Reply::Done })
    }

    /// As delete, without a period of grace.
    fn remove(&self, portdev: &str) -> Result<Change, Error> {
        let mut change = self.delete(portdev, Duration::ZERO)?;
        change.next.release(portdev);
        Ok(change)
    }

    /// Lets a port go that is bound no longer.
    fn release(&mut self, portdev: &str) {
        self.leaving.remove(portdev);
        self.closed.remove(portdev);
        let named = |member: &&Arc<Member>| member.name == portdev;
        let indexes: OrdSet<u32> =
            self.firewall.members().values().filter(named).map(|member| member.index).collect();
        self.firewall = indexes.iter().fold(self.firewall.clone(), |firewall, index| firewall.unbind(*index));
        self.firewall = self.firewall.unreserve(portdev);
    }

    /// What has to be done at a time: bindings whose grace is over are let go.
    pub fn expire(&self, now: Duration) -> Change {
        let mut next = self.clone();
        for (portdev, _) in self.leaving.iter().filter(|(_, deadline)| **deadline <= now) {
            next.release(portdev);
        }
        Change { next, writes: Vec::new(), reply: Reply::Done }
    }

    /// Follows a link. One that appears under a bound name gets that binding's rules, one that goes takes
    /// its elements with it. An interface whose rules can not be made is closed.
    pub fn link(&self, event: &LinkEvent) -> Change {
        let mut next = self.clone();
        match event {
            LinkEvent::Appeared(link) => next.link_is(link, None),
            LinkEvent::Changed { old, new } => next.link_is(new, Some(old)),
            LinkEvent::Gone(link) => {
                next.links.remove(&link.index);
                next.firewall = next.firewall.unbind(link.index);
                next.closed.remove(&link.name);
                if self.leaving.contains_key(&link.name) {
                    next.release(&link.name);
                }
            }
        }
        Change { next, writes: Vec::new(), reply: Reply::Done }
    }

    fn link_is(&mut self, link: &Link, old: Option<&Link>) {
        self.links.insert(link.index, Arc::new(link.clone()));
        let same_port = old.is_some_and(|old| (&old.name, old.master) == (&link.name, link.master));
        if self.bindings.contains_key(&link.name) && !same_port {
            self.enforce(&link.name);
        }
        if link.kind == Kind::Bridge && old.is_some_and(|old| old.name != link.name) {
            self.follow_bridge(link);
        }
    }

    /// Conntrack zones go by the bridge's name: its ports are bound anew when it changes.
    fn follow_bridge(&mut self, bridge: &Link) {
        let port =
            |link: &&Arc<Link>| link.master == Some(bridge.index) && self.bindings.contains_key(&link.name);
        let ports: Vec<String> = self.links.values().filter(port).map(|link| link.name.clone()).collect();
        ports.iter().for_each(|port| self.enforce(port));
    }

    /// Binds the link of a port as its binding says, or closes it.
    fn enforce(&mut self, portdev: &str) {
        let (Some(link), Some(binding)) =
            (self.link_of(portdev).cloned(), self.bindings.get(portdev).cloned())
        else {
            return;
        };
        match self.firewall.bind(self.member(&link, &binding)) {
            Ok(firewall) => {
                self.firewall = firewall;
                self.closed.remove(portdev);
            }
            Err(refused) => self.shut(&link, portdev, &own_refusal(refused).message),
        }
    }

    /// The state in which a link lets nothing pass: for rules that the kernel did not take.
    pub fn close(&self, link: &Link, why: &str) -> State {
        let mut next = self.clone();
        next.links.insert(link.index, Arc::new(link.clone()));
        next.shut(link, &link.name, why);
        next
    }

    fn shut(&mut self, link: &Link, portdev: &str, why: &str) {
        let member = Member {
            index: link.index,
            name: link.name.clone(),
            bridge: None,
            rules: Rules::Closed,
            vars: Vars::default(),
        };
        self.firewall = self.firewall.bind(member).expect("the program that drops all needs nothing");
        self.closed.insert(portdev.into(), why.into());
    }

    /// Takes the filters that were found on disk: those that changed or are new get their new meaning, all or
    /// none. A filter whose file is gone stays defined, as in libvirt. Closed ports are tried again.
    pub fn reload(&self, filters: impl IntoIterator<Item = Filter>) -> Result<Change, Error> {
        let differs = |filter: &Filter| {
            self.firewall.filter(&filter.name).is_none_or(|old| write::write(old) != write::write(filter))
        };
        let changed: Vec<Arc<Filter>> = filters.into_iter().filter(differs).map(Arc::new).collect();
        for filter in &changed {
            self.check_identity(filter, filter.uuid.unwrap_or_default())?;
            if self.firewall.introduces_loop(filter) {
                return Err(Error::failed(format!("filter '{}' would introduce a loop", filter.name)));
            }
        }
        let mut next = self.clone();
        next.firewall = self.firewall.define(changed).map_err(refusal)?;
        for portdev in self.closed.keys() {
            next.enforce(portdev);
        }
        Ok(Change { next, writes: Vec::new(), reply: Reply::Done })
    }
}

fn filter_id(filter: &Filter) -> FilterId {
    FilterId { name: filter.name.clone(), uuid: filter.uuid.unwrap_or_default() }
}

fn binding_id(binding: &Binding) -> BindingId {
    BindingId { portdev: binding.portdev.clone(), filter: binding.filter.clone() }
}

/// A refusal for the sake of some interface, which is named.
fn refusal(refused: Refused) -> Error {
    let interface = refused.interface.clone();
    let mut error = own_refusal(refused);
    if let (Some(interface), Some(detail)) = (interface, error.str2.take()) {
        error = Error::new(error.code, error.domain, format!("{interface}: {detail}"));
    }
    error
}

/// A refusal for the sake of the interface that the client itself named.
fn own_refusal(refused: Refused) -> Error {
    documents::error(&refused.diagnostics)
}
