//! Guests whose addresses are found out: who learns, what a frame or the time makes of it, and what is kept.
//!
//! A guest whose filter lacks `$IP` and nothing else learns it. While it knows none, a waiting filter is in force; each change
//! of what it knows is a change of its rules, taken to the kernel and written down in one step. A learner belongs to a link by
//! index; what it knows belongs to that link too, but for leases, which are the guest's wherever it comes back.

use super::missing_vars::{IP, Needs};
use super::{Change, State, refusal};
use crate::document::binding::Binding;
use crate::engine::error::Error;
use crate::guest::bpf::WireEnd;
use crate::guest::learning::{LearnOutcome, Learner, LearningMode, Wanted};
use crate::guest::lease::file::{self, Book, GuestId};
use crate::guest::lease::{AddressSource, GuestLeases, Learned};
use crate::guest::link::{Link, LinkKind};
use crate::guest::observation::{CaptureSpec, Observation};
use crate::program::resolve::unresolvable;
use crate::report::status::{Address, Learning};
use crate::ruleset::attach;
use crate::ruleset::firewall::{BoundInterface, Refused};
use imbl::ordmap::DiffItem;
use std::cell::LazyCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

/// Whether a guest's addresses are learned on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum LearnerState {
    Learns,
    Gone,
}

/// A guest and its learner.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct LearnerEntry {
    guest: GuestId,
    learner: Learner,
}

/// An address of a guest, and the link at which it counts: 0 for a lease, which counts wherever the guest is.
type KnownAddress = (GuestId, u32, Ipv4Addr);

fn known_addresses<'a>(
    (index, entry): (&'a u32, &'a Arc<LearnerEntry>),
) -> impl Iterator<Item = KnownAddress> {
    entry.table().iter().map(|(address, learned)| {
        (entry.guest, if learned.how == AddressSource::Lease { 0 } else { *index }, address)
    })
}

impl LearnerEntry {
    /// When an address ends, counted from an epoch.
    pub(super) fn deadline(&self, epoch: Duration) -> Option<Duration> {
        self.learner.deadline().map(|deadline| deadline.saturating_sub(epoch))
    }

    /// What is known of the guest.
    pub(super) fn table(&self) -> &GuestLeases {
        self.learner.table()
    }
}

impl State {
    /// Whether a binding could be enforced, were its link there.
    pub(super) fn check(&self, binding: &Binding) -> Result<(), Refused> {
        match Needs::default().wanted(self, binding)? {
            Some(_) => Ok(()),
            None => self.firewall.check(&binding.filter, &binding.params, &self.hooks_of(binding)),
        }
    }

    /// The members that a binding makes of these links; those that learn go on with what they know.
    pub(super) fn members(
        &mut self,
        links: &[Arc<Link>],
        binding: &Binding,
        needs: &mut Needs,
    ) -> Result<Vec<BoundInterface>, Refused> {
        let diagnostics: Vec<_> = links.iter().filter_map(|link| attach::unfit(link)).collect();
        if !diagnostics.is_empty() {
            return Err(Refused { interface: None, diagnostics });
        }
        let Some(wanted) = needs.wanted(self, binding)? else {
            links.iter().for_each(|link| self.forget_learner(link.index));
            return Ok(links.iter().map(|link| self.member(link, binding)).collect());
        };
        let guest = GuestId { owner: binding.owner_uuid, mac: binding.mac };
        let another = |index: &u32| self.learners.get(index).is_some_and(|entry| entry.guest != guest);
        let left: Vec<u32> = links.iter().map(|link| link.index).filter(another).collect();
        left.iter().for_each(|index| self.forget_learner(*index));
        let member = |link: &Arc<Link>| {
            let table = self.known(guest, link.index, &wanted);
            let entry = LearnerEntry { guest, learner: Learner::new(binding.mac, wanted.clone(), table) };
            let member = self.with_learned(link, binding, &entry.learner);
            [0, link.index].iter().for_each(|index| drop(self.remembered.remove(&(guest, *index))));
            self.learners.insert(link.index, Arc::new(entry));
            member
        };
        Ok(links.iter().map(member).collect())
    }

    /// What is known of a guest at a link, as far as it is wanted: learned in this mode, and of a server that is believed.
    fn known(&self, guest: GuestId, index: u32, wanted: &Wanted) -> GuestLeases {
        let own = self.learners.get(&index).filter(|entry| entry.guest == guest);
        let mut table = match own {
            Some(entry) => entry.learner.table().clone(),
            None => {
                let at =
                    |index| self.remembered.get(&(guest, index)).map(|table| ((guest, index), table.clone()));
                Book(at(0).into_iter().chain(at(index)).collect()).of(guest, index)
            }
        };
        table.retain(|learned| {
            let is_of_mode = (learned.how == AddressSource::Lease) == (wanted.mode == LearningMode::Dhcp);
            is_of_mode && learned.server.is_none_or(|server| wanted.believes(server))
        });
        table
    }

    /// A member with the rules that follow from what its learner knows.
    fn with_learned(&self, link: &Link, binding: &Binding, learner: &Learner) -> BoundInterface {
        let mut member = self.member(link, binding);
        match learner.waiting_filter() {
            Some(filter) => member.rules = self.until_known(link.index, binding, filter),
            None => {
                let addresses = learner.table().iter().map(|(address, _)| address.to_string());
                addresses.for_each(|address| member.vars.push(IP, address));
            }
        }
        member
    }

    /// Applies what a capture observed, and says what that was; none where it changes nothing.
    pub fn observe(&self, observation: &Observation, now: Duration) -> Option<(LearnOutcome, Change)> {
        let entry = self.learners.get(&observation.guest)?;
        if !self.is_bound(observation.guest) {
            return None;
        }
        let mut learner = entry.learner.clone();
        let heard = learner.hear(&observation.frame, self.epoch + now);
        let (mut next, entry) = (self.clone(), LearnerEntry { guest: entry.guest, learner });
        match heard {
            LearnOutcome::Nothing => return None,
            LearnOutcome::Question => drop(next.learners.insert(observation.guest, Arc::new(entry))),
            _ => next.apply_outcome(observation.guest, entry),
        }
        Some((heard, Change::silent(next)))
    }

    /// Takes a learner as it is now, and gives its guest the rules that follow. One whose rules cannot be made is blocked.
    fn apply_outcome(&mut self, index: u32, entry: LearnerEntry) {
        let Some((link, binding)) = self.bound_link(index) else { return };
        let member = self.with_learned(&link, &binding, &entry.learner);
        self.learners.insert(index, Arc::new(entry));
        match self.firewall.bind(member) {
            Ok(firewall) => self.firewall = firewall,
            Err(refused) => self.set_blocked(&link, &binding.portdev, &super::own_refusal(refused).message),
        }
    }

    fn bound_link(&self, index: u32) -> Option<(Arc<Link>, Arc<Binding>)> {
        let member = self.firewall.members().get(&index)?;
        Some((self.links.get(&index)?.clone(), self.bindings.get(&member.name)?.clone()))
    }

    fn is_bound(&self, index: u32) -> bool {
        self.firewall.members().get(&index).is_some_and(|member| self.bindings.contains_key(&member.name))
    }

    /// Ends a learner. Leases that end some day are kept for a guest that comes back; a guest's other addresses go.
    pub(super) fn forget_learner(&mut self, index: u32) {
        let Some(entry) = self.learners.remove(&index) else { return };
        let mut leases = entry.learner.table().clone();
        leases.retain(|learned| learned.how == AddressSource::Lease && learned.ends.is_some());
        if !leases.is_empty() {
            self.remembered.insert((entry.guest, 0), leases);
        }
    }

    /// Forgets what was learned at links that are no more.
    pub(super) fn forget_gone_links(&mut self) {
        self.keep_remembered(|index| index == 0);
    }

    /// Forgets what was learned at a link that is gone: another may get its index.
    pub(super) fn forget_gone_link(&mut self, gone: u32) {
        if self.remembered.keys().any(|(_, index)| *index == gone) {
            self.keep_remembered(|index| index != gone);
        }
    }

    fn keep_remembered(&mut self, stays: impl Fn(u32) -> bool) {
        let kept = self.remembered.iter().filter(|((_, index), _)| stays(*index));
        self.remembered = kept.map(|(key, table)| (*key, table.clone())).collect();
    }

    pub(super) fn expire_learned(&mut self, now: Duration) {
        let time = self.epoch + now;
        let due = |entry: &LearnerEntry| entry.deadline(self.epoch).is_some_and(|deadline| deadline <= now);
        let due: Vec<(u32, LearnerEntry)> = self
            .learners
            .iter()
            .filter(|(_, entry)| due(entry))
            .map(|(index, entry)| (*index, LearnerEntry::clone(entry)))
            .collect();
        for (index, mut entry) in due {
            entry.learner.expire(time);
            if self.is_bound(index) {
                self.apply_outcome(index, entry);
            } else {
                self.learners.insert(index, Arc::new(entry));
            }
        }
        for (key, table) in &self.remembered.clone() {
            let mut table = table.clone();
            if !table.expire(time).is_empty() {
                self.remembered.insert(*key, table);
            }
        }
    }

    /// After filters of these names were redefined: every learner goes on, or ends where nothing is missing any more. Refused where one
    /// would need what cannot be learned.
    pub(super) fn relearn(&mut self, names: &[String]) -> Result<(), Error> {
        let mut needs = Needs::default();
        for index in self.learners.keys().copied().collect::<Vec<_>>() {
            let Some((_, binding)) = self.bound_link(index) else { continue };
            if !names.iter().any(|name| self.firewall.uses(&binding.filter, name)) {
                continue;
            }
            let named =
                |refused: Refused| refusal(Refused { interface: Some(binding.portdev.clone()), ..refused });
            if needs.wanted(self, &binding).map_err(named)?.is_none() {
                let missing = needs.lacking(self, &binding).map_err(named)?;
                if !missing.is_empty() {
                    let diagnostics = vec![unresolvable(&missing.into_iter().collect())];
                    return Err(named(Refused { interface: None, diagnostics }));
                }
                self.enforce(&binding.portdev);
            }
        }
        Ok(())
    }

    /// Where to listen, by the index of each guest's link.
    pub fn posts(&self) -> BTreeMap<u32, CaptureSpec> {
        let listening = self
            .learners
            .iter()
            .filter(|(index, entry)| entry.learner.is_listening() && self.is_bound(**index));
        listening.filter_map(|(index, entry)| Some((*index, self.post(*index, &entry.learner)?))).collect()
    }

    /// A macvtap shows both what its guest sends and what it gets, as the device below it would, but no frames of others.
    fn post(&self, index: u32, learner: &Learner) -> Option<CaptureSpec> {
        let side = match self.links.get(&index)?.kind {
            LinkKind::Macvtap { .. } => WireEnd::Guest,
            _ => WireEnd::Host,
        };
        Some(CaptureSpec { guest: index, link: index, side, mac: learner.mac(), mode: learner.wanted().mode })
    }

    /// Whether learners are the same ones, knowing the same, as in another state.
    pub fn knows_the_same(&self, other: &State) -> bool {
        self.learners.ptr_eq(&other.learners)
    }

    /// Whether the same ports are bound as in another state.
    pub fn binds_the_same(&self, other: &State) -> bool {
        self.bindings.ptr_eq(&other.bindings)
    }

    /// The lines to write when this state follows an older one.
    pub fn journal_lines(&self, old: &State) -> String {
        let mut lines = String::new();
        let empty = GuestLeases::default();
        // What is remembered has its line.
        let remembers = |guest: GuestId, index: u32, address: Ipv4Addr, learned: &Learned| {
            let tables = [(guest, 0), (guest, index)].into_iter().filter_map(|key| old.remembered.get(&key));
            tables.into_iter().any(|table| table.get(address) == Some(learned))
        };
        let mut differ = |index: u32, old: Option<&Arc<LearnerEntry>>, new: Option<&Arc<LearnerEntry>>| {
            let table = |entry: Option<&Arc<LearnerEntry>>| {
                entry.map_or(empty.clone(), |entry| entry.learner.table().clone())
            };
            let Some(guest) = new.or(old).map(|entry| entry.guest) else { return };
            let same_guest = |entry: &&Arc<LearnerEntry>| entry.guest == guest;
            if let Some(old) = old.filter(|entry| !same_guest(entry)) {
                lines.push_str(&self.ended(
                    old.guest,
                    index,
                    old.learner.table(),
                    &empty,
                    LearnerState::Gone,
                ));
            }
            let (before, after) = (table(old.filter(same_guest)), table(new));
            let learner = if new.is_some() { LearnerState::Learns } else { LearnerState::Gone };
            lines.push_str(&self.ended(guest, index, &before, &after, learner));
            let is_new = |(address, learned): &(Ipv4Addr, &Learned)| {
                before.get(*address) != Some(*learned) && !remembers(guest, index, *address, learned)
            };
            for (address, learned) in after.iter().filter(is_new) {
                lines.push_str(&file::known(guest, index, address, learned));
            }
        };
        for item in old.learners.diff(&self.learners) {
            match item {
                DiffItem::Add(index, new) => differ(*index, None, Some(new)),
                DiffItem::Update { old, new } => differ(*new.0, Some(old.1), Some(new.1)),
                DiffItem::Remove(index, old) => differ(*index, Some(old), None),
            }
        }
        lines + &self.forgotten(old)
    }

    /// The ends of addresses that an older state remembered: they are neither remembered nor known to a learner.
    fn forgotten(&self, old: &State) -> String {
        if old.remembered.ptr_eq(&self.remembered) {
            return String::new();
        }
        let changed = old.learners.diff(&self.learners).filter_map(|item| match item {
            DiffItem::Add(index, entry) | DiffItem::Update { new: (index, entry), .. } => {
                Some((index, entry))
            }
            DiffItem::Remove(..) => None,
        });
        let taken: BTreeSet<KnownAddress> = changed.flat_map(known_addresses).collect();
        let all = LazyCell::new(|| {
            self.learners.iter().flat_map(known_addresses).collect::<BTreeSet<KnownAddress>>()
        });
        let mut lines = String::new();
        for item in old.remembered.diff(&self.remembered) {
            let (DiffItem::Update { old: (key, table), .. } | DiffItem::Remove(key, table)) = item else {
                continue;
            };
            for (address, learned) in table.iter() {
                let known = (key.0, key.1, address);
                let remembered = self.remembered.get(key).is_some_and(|table| table.get(address).is_some());
                if !remembered && !taken.contains(&known) && !all.contains(&known) {
                    lines.push_str(&file::ended(key.0, key.1, address, learned.how));
                }
            }
        }
        lines
    }

    /// Addresses that are known no longer; a lease whose learner is gone may be remembered.
    fn ended(
        &self,
        guest: GuestId,
        index: u32,
        before: &GuestLeases,
        after: &GuestLeases,
        learner: LearnerState,
    ) -> String {
        let kept = |address: Ipv4Addr| {
            let is_remembered =
                || self.remembered.get(&(guest, 0)).is_some_and(|table| table.get(address).is_some());
            after.get(address).is_some() || learner == LearnerState::Gone && is_remembered()
        };
        let gone = before.iter().filter(|(address, _)| !kept(*address));
        gone.map(|(address, learned)| file::ended(guest, index, address, learned.how)).collect()
    }

    /// All that is known, for a file that holds nothing else.
    pub fn book(&self) -> Book {
        let mut book: BTreeMap<(GuestId, u32), GuestLeases> =
            self.remembered.iter().map(|(key, table)| (*key, table.clone())).collect();
        for (index, entry) in &self.learners {
            book.insert((entry.guest, *index), entry.learner.table().clone());
        }
        Book(book)
    }

    /// What `nwfilter status` reports of a learner.
    pub(super) fn lesson(&self, index: u32) -> Option<Learning> {
        let learner = &self.learners.get(&index)?.learner;
        let address = |(address, learned): (Ipv4Addr, &Learned)| Address {
            address: address.to_string(),
            from: learned.how.word().into(),
            server: learned.server.map(|server| server.to_string()),
            since: learned.since.as_secs(),
            until: learned.ends.map(|ends| ends.as_secs()),
        };
        let addresses = learner.table().iter().map(address).collect();
        Some(Learning { mode: learner.wanted().mode.word().into(), addresses })
    }
}
