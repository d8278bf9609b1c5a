//! The simulated machine: links, faults and crashes by seed, and what its parts share.

use super::kernel::Tables;
use crate::guest::link::{Link, LinkEvent, LinkKind};
use crate::program::ir::Ruleset;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::rc::Rc;

/// A handle on the one machine of a run.
pub(super) type Shared = Rc<RefCell<Machine>>;

/// What a process dies of in the middle of its work.
pub(super) struct Crash;

/// What the kernel is able to do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ability {
    /// Tables that are ours alone.
    pub owners: bool,
    /// Hooks that outlive their device.
    pub lasting_hooks: bool,
}

/// How a disk fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DiskFault {
    /// No room: nothing new can be written, names can be changed.
    Full,
    /// Nothing can be changed.
    ReadOnly,
    /// What was done may not reach the medium.
    Unsynced,
}

/// Batches that the kernel will refuse.
#[derive(Clone, Copy, Debug)]
pub(super) struct Refusing {
    /// It takes so many before.
    pub after: u32,
    /// It refuses so many, one after the other.
    pub times: u32,
    pub errno: i32,
}

/// What will go wrong, and when.
#[derive(Clone, Debug, Default)]
pub(super) struct Faults {
    pub refusal: Option<Refusing>,
    /// Boundaries until the process dies.
    pub crash: Option<u32>,
    pub disk: Option<DiskFault>,
    /// How many there were.
    pub happened: BTreeMap<String, u64>,
}

/// Deliberate bugs of the machine under the daemon, each of which a checker has to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mutation {
    /// A directory is never synced.
    SyncLost,
    /// Staged documents are not put back.
    UndoLost,
    /// The batch that leads to new chains is sent before they are made.
    SwitchFirst,
    /// Chains are taken away at once, while packets read them.
    NoWait,
    /// Refused batches are reported as taken.
    RefusalLost,
    /// Of a rule only where it goes is read back.
    GotosOnly,
    /// Link events get lost for good.
    LinkEventLost,
    /// A batch is taken as far as its first half.
    HalfBatch,
    /// What is deleted from a set stays in it.
    ElementStays,
    /// Adoption and what comes after it are one batch.
    AdoptionWithChains,
}

pub(super) struct Machine {
    pub rng: fastrand::Rng,
    pub ability: Ability,
    pub tables: Tables,
    pub links: BTreeMap<u32, Link>,
    next_index: u32,
    /// Indexes that belong to a second link of which the daemon has not heard.
    pub reused: BTreeSet<u32>,
    /// Events that the daemon has not heard of.
    pub events: VecDeque<LinkEvent>,
    pub disk: super::disk::Model,
    pub faults: Faults,
    pub mutation: Option<Mutation>,
    /// Why the run is over: the first promise that did not hold.
    pub violation: Option<String>,
    /// The tables after each batch of what happens now.
    pub history: Vec<Ruleset>,
    /// What happened, line by line, where that is to be printed.
    pub log: Option<Vec<String>>,
}

impl Machine {
    pub fn new(seed: u64, mutation: Option<Mutation>) -> Shared {
        let mut rng = fastrand::Rng::with_seed(seed);
        let ability = Ability { owners: rng.bool(), lasting_hooks: rng.bool() };
        let bridge =
            Link { index: 1, name: "br0".into(), kind: LinkKind::Bridge, master: None, mac: None, up: true };
        Rc::new(RefCell::new(Machine {
            rng,
            ability,
            tables: Tables::default(),
            links: [(1, bridge)].into(),
            next_index: 2,
            reused: BTreeSet::new(),
            events: VecDeque::new(),
            disk: super::disk::Model::default(),
            faults: Faults::default(),
            mutation,
            violation: None,
            history: Vec::new(),
            log: None,
        }))
    }

    /// Something happened that did not have to.
    pub fn count(&mut self, what: &str) {
        *self.faults.happened.entry(what.to_owned()).or_default() += 1;
    }

    pub fn note(&mut self, what: impl FnOnce() -> String) {
        if let Some(log) = &mut self.log {
            log.push(what());
        }
    }

    pub fn violated(&mut self, promise: impl FnOnce() -> String) {
        if self.violation.is_none() {
            self.violation = Some(promise());
        }
    }

    pub fn is(&self, mutation: Mutation) -> bool {
        self.mutation == Some(mutation)
    }

    /// Whether the process dies at this boundary.
    fn dies(&mut self) -> bool {
        match self.faults.crash.as_mut() {
            None => false,
            Some(0) => {
                self.faults.crash = None;
                true
            }
            Some(left) => {
                *left -= 1;
                false
            }
        }
    }

    /// The error of this batch, if it is to be refused.
    pub fn refusal(&mut self) -> Option<i32> {
        let refusing = self.faults.refusal.as_mut()?;
        if refusing.after > 0 {
            refusing.after -= 1;
            return None;
        }
        let errno = refusing.errno;
        refusing.times -= 1;
        if refusing.times == 0 {
            self.faults.refusal = None;
        }
        self.count("a batch refused");
        Some(errno)
    }

    pub fn named(&self, name: &str) -> Option<&Link> {
        self.links.values().find(|link| link.name == name)
    }

    /// A tap of this name, with a new index or, now and then, that of one that is gone.
    pub fn add_link(&mut self, name: &str, master: Option<u32>) {
        let reused = (2..self.next_index).find(|index| !self.links.contains_key(index));
        let index = match reused.filter(|_| self.rng.u8(..4) == 0) {
            Some(index) => {
                self.reused.insert(index);
                index
            }
            None => {
                self.next_index += 1;
                self.next_index - 1
            }
        };
        let link = Link { index, name: name.into(), kind: LinkKind::Tap, master, mac: None, up: true };
        self.links.insert(index, link.clone());
        self.tables.device_appeared(&link.name);
        self.tell(LinkEvent::Appeared(link));
    }

    pub fn remove_link(&mut self, index: u32) {
        let Some(link) = self.links.remove(&index) else { return };
        self.tables.device_gone(index, &link.name, self.ability.lasting_hooks);
        self.tell(LinkEvent::Gone(link));
    }

    pub fn change_link(&mut self, index: u32, change: impl FnOnce(&mut Link)) {
        let Some(link) = self.links.get_mut(&index) else { return };
        let old = link.clone();
        change(link);
        let new = link.clone();
        self.tables.device_renamed(&old.name, &new.name, self.ability.lasting_hooks);
        self.tell(LinkEvent::Changed { old, new });
    }

    fn tell(&mut self, event: LinkEvent) {
        if self.is(Mutation::LinkEventLost) && self.rng.u8(..4) == 0 {
            return;
        }
        self.events.push_back(event);
    }
}

/// A place where the process may die.
pub(super) fn boundary(machine: &Shared) {
    // The machine must not be borrowed while the stack unwinds.
    let dies = machine.borrow_mut().dies();
    if dies {
        machine.borrow_mut().count("a crash at a boundary");
        // Without the hook that prints a panic.
        std::panic::resume_unwind(Box::new(Crash));
    }
}

pub(super) fn errno(number: i32) -> io::Error {
    io::Error::from_raw_os_error(number)
}
