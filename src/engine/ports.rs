//! What becomes of ports: bound, released, and followed by their links.
//!
//! An index is what is filtered and a name is what is bound, so a bound link stays under the rules of its binding when it is
//! renamed, until the binding goes or the new name has a binding of its own.

use super::documents::{Validation, read_binding, read_whole_binding, refusal};
use super::missing_vars::Needs;
use super::{Change, State, Write, binding_id, own_refusal};
use crate::document::binding::{self, Binding};
use crate::document::diag::{Diagnostic, Severity};
use crate::document::vars::Vars;
use crate::engine::api::Reply;
use crate::engine::error::Error;
use crate::guest::link::{Link, LinkEvent, LinkKind};
use crate::program::compile::AttachPoint;
use crate::program::ir::Ruleset;
use crate::program::resolve::given::{Given, Risk, Unread};
use crate::report::audit;
use crate::ruleset::attach;
use crate::ruleset::firewall::{Attachment, BoundInterface, Rules};
use crate::ruleset::layout;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

impl State {
    pub(super) fn create(&self, xml: &str, validation: Validation) -> Result<Change, Error> {
        let binding = read_binding(xml, validation)?;
        if self.bindings.contains_key(&binding.portdev) {
            return Err(Error::failed(format!("binding '{}' already exists", binding.portdev)));
        }
        self.bound(binding, Risk::Opens)
    }

    /// As create, but a binding that is there is replaced.
    pub(super) fn apply(&self, xml: &str) -> Result<Change, Error> {
        let change = self.bound(read_whole_binding(xml)?, Risk::Lost)?;
        Ok(Change { reply: Reply::Done, ..change })
    }

    /// With a binding whose parameters are read, but for what is no greater risk than this.
    fn bound(&self, mut binding: Binding, refused: Risk) -> Result<Change, Error> {
        let notices = self.unread(&binding, refused)?;
        if binding.params.values("MAC").is_none() {
            binding.params.push("MAC", binding.mac.to_string());
        }
        let portdev = binding.portdev.clone();
        let mut next = self.clone();
        next.leaving.remove(&portdev);
        next.blocked.remove(&portdev);
        next.firewall = next.firewall.reserve(&portdev);
        let links = self.links_of(&portdev);
        if links.is_empty() {
            self.check(&binding).map_err(own_refusal)?;
        }
        let bound_as = |link: &Arc<Link>| Some(next.firewall.members().get(&link.index)?.name.clone());
        let before: BTreeSet<String> = links.iter().filter_map(bound_as).collect();
        let members = next.members(&links, &binding, &mut Needs::default()).map_err(own_refusal)?;
        next.firewall = next.firewall.bind_all(members).map_err(own_refusal)?;
        before.iter().filter(|name| **name != portdev).for_each(|name| next.settle(name));
        let reply = Reply::Binding(binding_id(&binding));
        let writes = vec![Write::SaveBinding(portdev.clone(), binding::write_status(&binding))];
        next.bindings.insert(portdev, Arc::new(binding));
        Ok(Change { next, writes, reply, notices })
    }

    /// What of a binding comes to nothing: refused from this risk on, else reported, with what is peculiar about a filter that
    /// is bound for the first time.
    fn unread(&self, binding: &Binding, refused: Risk) -> Result<Vec<Diagnostic>, Error> {
        let unread = self.firewall.unread(&binding.filter, &Given::of_binding(binding));
        let (refused, accepted): (Vec<Unread>, Vec<Unread>) =
            unread.into_iter().partition(|unread| unread.risk >= refused);
        if !refused.is_empty() {
            let fault = |Unread { fault, .. }| Diagnostic { severity: Severity::Error, ..fault };
            return Err(refusal(&refused.into_iter().map(fault).collect::<Vec<_>>()));
        }
        let is_first = !self.bindings.values().any(|other| other.filter == binding.filter);
        let notices = if is_first { self.notices(&binding.filter) } else { Vec::new() };
        let accepted = accepted.into_iter().filter(|unread| unread.risk > Risk::Idle);
        Ok(accepted.map(|unread| unread.fault).chain(notices).collect())
    }

    /// What is peculiar about a filter in this kernel.
    pub(super) fn notices(&self, filter: &str) -> Vec<Diagnostic> {
        let library = |name: &str| self.firewall.filter(name).cloned();
        audit::notices(&library, filter, &self.firewall.policy().compile)
    }

    /// The links that a binding of this port is for: the one of that name, and those that had it when they were bound.
    pub(super) fn links_of(&self, portdev: &str) -> Vec<Arc<Link>> {
        let mut indexes = self.members_of(portdev);
        let theirs = |index: &u32| self.links.get(index).is_some_and(|link| self.is_of(link, portdev));
        indexes.retain(theirs);
        indexes.extend(self.names.get(portdev).copied());
        indexes.iter().filter_map(|index| self.links.get(index).cloned()).collect()
    }

    /// The interfaces that were bound under this name.
    fn members_of(&self, portdev: &str) -> BTreeSet<u32> {
        self.firewall.members_named(portdev).collect()
    }

    /// Whether a link that was bound as `portdev` still belongs there.
    fn is_of(&self, link: &Link, portdev: &str) -> bool {
        link.name == portdev || !self.bindings.contains_key(&link.name)
    }

    pub(super) fn member(&self, link: &Link, binding: &Binding) -> BoundInterface {
        BoundInterface {
            index: link.index,
            name: binding.portdev.clone(),
            place: self.place(link),
            rules: Rules::Filter(binding.filter.clone()),
            vars: binding.params.clone(),
        }
    }

    fn place(&self, link: &Link) -> Attachment {
        let master = link.master.and_then(|master| self.links.get(&master));
        attach::of(link, master.map(|master| &**master), self.firewall.port_placement())
    }

    /// Where a binding's interface is judged, or can come to be while it is not there.
    pub(super) fn hooks_of(&self, binding: &Binding) -> Vec<AttachPoint> {
        match self.links_of(&binding.portdev).last() {
            Some(link) => vec![self.place(link).hooks()],
            None => vec![AttachPoint::Bridge, AttachPoint::Routed],
        }
    }

    pub(super) fn delete(&self, portdev: &str, now: Duration) -> Result<Change, Error> {
        self.binding(portdev)?;
        let mut next = self.clone();
        next.bindings.remove(portdev);
        if self.grace.is_zero() || self.members_of(portdev).is_empty() {
            next.release(portdev);
        } else {
            next.leaving.insert(portdev.into(), now + self.grace);
        }
        Ok(Change { writes: vec![Write::DeleteBinding(portdev.into())], ..Change::silent(next) })
    }

    /// As delete, without a period of grace.
    pub(super) fn remove(&self, portdev: &str) -> Result<Change, Error> {
        let mut change = match self.delete(portdev, Duration::ZERO) {
            Err(_) if self.blocked.contains_key(portdev) => Change::silent(self.clone()),
            deleted => deleted?,
        };
        change.next.release(portdev);
        Ok(change)
    }

    /// Lets a port go that is bound no longer.
    pub(super) fn release(&mut self, portdev: &str) {
        self.leaving.remove(portdev);
        self.blocked.remove(portdev);
        for index in self.members_of(portdev) {
            self.forget_learner(index);
            self.firewall = self.firewall.unbind(index);
        }
        self.firewall = self.firewall.unreserve(portdev);
    }

    /// What has to be done at a time: bindings whose grace period is over are removed, leases that ran out end.
    pub fn expire(&self, now: Duration) -> Change {
        let mut next = self.clone();
        for (portdev, _) in self.leaving.iter().filter(|(_, deadline)| **deadline <= now) {
            next.release(portdev);
        }
        next.expire_learned(now);
        Change::silent(next)
    }

    /// With all that is due put off until then: the kernel did not take it.
    pub fn put_off(&self, now: Duration, until: Duration) -> State {
        let mut next = State { not_before: until, ..self.clone() };
        for (portdev, _) in self.leaving.iter().filter(|(_, deadline)| **deadline <= now) {
            next.leaving.insert(portdev.clone(), until);
        }
        next
    }

    /// Follows a link. One that appears under a bound name gets that binding's rules, one that goes takes
    /// its elements with it. An interface whose rules cannot be made is blocked.
    pub fn link(&self, event: &LinkEvent) -> Change {
        let mut next = self.clone();
        match event {
            LinkEvent::Appeared(link) => next.link_is(link, None),
            LinkEvent::Changed { old, new } => next.link_is(new, Some(old)),
            LinkEvent::Gone(link) => next.link_is_gone(link.index),
        }
        Change::silent(next)
    }

    /// The same, with every port that is closed kept so: what keeps one from its rules may keep all others from theirs, where
    /// a bridge has changed.
    pub fn link_with_closed(&self, event: &LinkEvent) -> Change {
        let mut next = self.link(event).next;
        for (portdev, why) in &self.blocked {
            next.links_of(portdev).iter().for_each(|link| next.set_blocked(link, portdev, why));
            next.blocked.insert(portdev.clone(), why.clone());
        }
        Change::silent(next)
    }

    /// Takes a link as it is now.
    pub(super) fn know(&mut self, link: Link) {
        self.forget(link.index);
        self.names.insert(link.name.clone(), link.index);
        self.links.insert(link.index, Arc::new(link));
    }

    fn forget(&mut self, index: u32) {
        if let Some(link) = self.links.remove(&index)
            && self.names.get(&link.name) == Some(&index)
        {
            self.names.remove(&link.name);
        }
    }

    fn link_is(&mut self, link: &Link, old: Option<&Link>) {
        self.know(link.clone());
        let same_name = old.is_some_and(|old| old.name == link.name);
        let same_port = same_name && old.is_some_and(|old| old.master == link.master);
        let port = self.port_of(link);
        let comes_up = link.up && old.is_some_and(|old| !old.up);
        let retries = comes_up && port.as_ref().is_some_and(|port| self.blocked.contains_key(port));
        if let Some(port) = port
            && (!same_port || retries)
        {
            let bound_as = self.firewall.members().get(&link.index).map(|member| member.name.clone());
            self.enforce(&port);
            bound_as.iter().for_each(|name| self.settle(name));
        }
        let same_host = same_name && old.is_some_and(|old| old.mac == link.mac);
        if link.kind == LinkKind::Bridge && !same_host {
            self.follow_bridge(link);
        }
    }

    /// The bound name that a link has, or had when it was bound.
    fn port_of(&self, link: &Link) -> Option<String> {
        let bound_as = self.firewall.members().get(&link.index).map(|member| &member.name);
        let names = [Some(&link.name), bound_as];
        names.into_iter().flatten().find(|name| self.bindings.contains_key(*name)).cloned()
    }

    fn link_is_gone(&mut self, index: u32) {
        self.forget(index);
        self.forget_gone_link(index);
        let Some(portdev) = self.firewall.members().get(&index).map(|member| member.name.clone()) else {
            return;
        };
        self.forget_learner(index);
        self.firewall = self.firewall.unbind(index);
        self.settle(&portdev);
    }

    /// A port whose last link is gone is not closed, and has no rules that could stay for a while. One of those that it
    /// has left may have been closed for the sake of the other.
    fn settle(&mut self, portdev: &str) {
        if !self.members_of(portdev).is_empty() {
            if self.blocked.contains_key(portdev) {
                self.enforce(portdev);
            }
            return;
        }
        self.blocked.remove(portdev);
        if self.leaving.contains_key(portdev) {
            self.release(portdev);
        }
    }

    /// A conntrack zone's key is the bridge's name and address: the bridge's ports are bound again when either changes.
    fn follow_bridge(&mut self, bridge: &Link) {
        let ports = self.links.values().filter(|link| link.master == Some(bridge.index));
        let ports: BTreeSet<String> = ports.filter_map(|link| self.port_of(link)).collect();
        ports.iter().for_each(|port| self.enforce(port));
    }

    /// Binds the links of a port as its binding says, or closes them.
    pub(super) fn enforce(&mut self, portdev: &str) {
        let Some(binding) = self.bindings.get(portdev).cloned() else { return };
        let links = self.links_of(portdev);
        self.blocked.remove(portdev);
        let members = self.members(&links, &binding, &mut Needs::default());
        match members.and_then(|members| self.firewall.bind_all(members)) {
            Ok(firewall) => self.firewall = firewall,
            Err(refused) => {
                let why = own_refusal(refused).message;
                links.iter().for_each(|link| self.set_blocked(link, portdev, &why));
            }
        }
    }

    /// All bindings at once, or, where one of them is refused, each by itself.
    pub(super) fn enforce_all(&mut self) {
        let bindings: Vec<Arc<Binding>> = self.bindings.values().cloned().collect();
        let mut needs = Needs::default();
        let members: Result<Vec<_>, _> = bindings
            .iter()
            .map(|binding| self.members(&self.links_of(&binding.portdev), binding, &mut needs))
            .collect();
        match members.and_then(|members| self.firewall.bind_all(members.into_iter().flatten())) {
            Ok(firewall) => self.firewall = firewall,
            Err(_) => self.bindings.clone().keys().for_each(|portdev| self.enforce(portdev)),
        }
    }

    /// Another try for a port that is closed.
    pub fn retry(&self, portdev: &str) -> Change {
        let mut next = self.clone();
        next.enforce(portdev);
        Change::silent(next)
    }

    /// The state in which a link lets nothing pass: for rules that the kernel did not take.
    pub fn block(&self, link: &Link, why: &str) -> State {
        let mut next = self.clone();
        next.know(link.clone());
        let portdev = next.port_of(link).unwrap_or_else(|| link.name.clone());
        next.set_blocked(link, &portdev, why);
        next
    }

    /// The state in which a link is set down, since the kernel refused even to block it: it keeps the rules
    /// that it had. It is bound again when it comes up.
    pub fn set_down(&self, link: &Link, why: &str) -> State {
        let mut next = self.clone();
        next.know(Link { up: false, ..link.clone() });
        if let Some(portdev) = next.port_of(link) {
            next.blocked.insert(portdev, why.into());
        }
        next
    }

    /// The state in which a port is blocked whose binding cannot be read: it has its name still, and nothing passes
    /// until it is bound again.
    pub fn unreadable_binding(&self, portdev: &str, why: &str) -> State {
        let mut next = State { firewall: self.firewall.reserve(portdev), ..self.clone() };
        if let Some(link) = self.link_of(portdev).cloned() {
            next.set_blocked(&link, portdev, why);
        }
        next
    }

    /// The links that these tables of an earlier daemon hold, that have no rules now, and that had another name when
    /// they were bound: under its own name a link has none because its binding was deleted.
    pub fn orphaned_interfaces(&self, ruleset: &Ruleset) -> Vec<Arc<Link>> {
        let held: BTreeSet<u32> = ruleset.tables.values().flat_map(layout::bound).collect();
        let held = held.into_iter().filter(|index| !self.firewall.members().contains_key(index));
        let links = held.filter_map(|index| self.links.get(&index).cloned());
        let reserved = |name: &str| ruleset.tables.values().any(|table| layout::is_reserved(table, name));
        links.filter(|link| !reserved(&link.name)).collect()
    }

    /// The links that these tables hold under their own reserved name and that have no rules now: neither these bindings nor those
    /// that were deleted know them.
    pub fn lost(&self, ruleset: &Ruleset, deleted: &BTreeSet<String>) -> Vec<Arc<Link>> {
        let held: BTreeSet<u32> = ruleset.tables.values().flat_map(layout::bound).collect();
        let held = held.into_iter().filter(|index| !self.firewall.members().contains_key(index));
        let links = held.filter_map(|index| self.links.get(&index).cloned());
        let reserved = |name: &str| ruleset.tables.values().any(|table| layout::is_reserved(table, name));
        links.filter(|link| reserved(&link.name) && !deleted.contains(&link.name)).collect()
    }

    /// Whether a binding was deleted whose rules stay for its period of grace.
    pub fn is_leaving(&self, portdev: &str) -> bool {
        self.leaving.contains_key(portdev)
    }

    /// The state in which devices that are created again under a bound name are blocked as an earlier daemon left them.
    pub fn keep_hooks(&self, ruleset: &Ruleset) -> State {
        let hooked = ruleset.tables.values().flat_map(layout::hooked);
        let vacant = hooked.filter(|name| !self.names.contains_key(*name));
        State { firewall: self.firewall.keep_hooks(vacant), ..self.clone() }
    }

    /// The state in which every port is closed that uses one of these filters, or, where that is none that is open,
    /// every port. None where all are closed already.
    pub fn block_users(&self, filters: &BTreeSet<String>, why: &str) -> Option<State> {
        let is_open = |binding: &&Arc<Binding>| !self.blocked.contains_key(&binding.portdev);
        let open: Vec<&Arc<Binding>> = self.bindings.values().filter(is_open).collect();
        let uses =
            |binding: &&Arc<Binding>| filters.iter().any(|name| self.firewall.uses(&binding.filter, name));
        let users: Vec<&Arc<Binding>> = open.iter().copied().filter(uses).collect();
        let closing = if users.is_empty() { open } else { users };
        let mut next = self.clone();
        for binding in &closing {
            let links = self.links_of(&binding.portdev);
            links.iter().for_each(|link| next.set_blocked(link, &binding.portdev, why));
            next.blocked.insert(binding.portdev.clone(), why.into());
        }
        (!closing.is_empty()).then_some(next)
    }

    pub(super) fn set_blocked(&mut self, link: &Link, portdev: &str, why: &str) {
        self.forget_learner(link.index);
        let member = BoundInterface {
            index: link.index,
            name: portdev.into(),
            place: self.place(link),
            rules: Rules::Blocked,
            vars: Vars::default(),
        };
        self.firewall = self.firewall.bind(member).expect("the program that drops all needs nothing");
        self.blocked.insert(portdev.into(), why.into());
    }
}
