//! The thread that owns the netfilter socket: plans in, outcomes out.
//!
//! One thread, one socket, one commit at a time: owned tables belong to a socket, and `sendmsg` takes as long as the
//! commit. A plan's *prepare* and *switch* are each one datagram, all or nothing; where the switch is refused, what
//! prepare made is swept, so that the kernel is as it was. *Retire* is sent when no packet is left that may still read
//! what it takes away. A set that stands for an ipset comes to be with what the others of its name hold: plans do not
//! know it, and a rule must not meet it empty. Needs no async runtime; answers can be awaited in any.

mod deferred;
mod host;
mod reader;
mod socket;

pub use reader::{Reader, Wanted};

use crate::kernel::links;
use crate::program::ir::observed::Observed;
use crate::program::ir::{Bytes, ElementValue, Family, Name, SetType};
use crate::ruleset::layout;
use crate::ruleset::nft::probe::{self, Features};
use crate::ruleset::nft::read;
use crate::ruleset::nft::reply::{Refusal, RefusalCause};
use crate::ruleset::nft::{Ownership, encode};
use crate::ruleset::plan::{Pause, Plan, Step, TableOperation};
use deferred::Grace;
pub use host::has_ipset;
use socket::{Link, wait_for_packets_under_way};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display, Formatter};
use std::io;
use std::sync::mpsc;
use std::thread;
use tokio::sync::oneshot;

/// A handle on the thread. The thread ends, and its tables lose their owner, when the last handle is dropped.
#[derive(Clone, Debug)]
pub struct Kernel {
    jobs: mpsc::Sender<Job>,
    port: u32,
    features: Features,
}

/// When a plan's retire is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retire {
    /// Before the answer, which then reports its refusals.
    BeforeAnswer,
    /// After the answer; a later answer reports its refusals. A later plan does not wait for it, unless it touches
    /// what is deleted.
    AfterAnswer,
}

/// A plan that is in force.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// What could not be deleted: left over, but no failure of the change.
    pub retire_failures: Vec<Refusal>,
}

/// A plan that is not in force. The kernel is as it was, unless it was the last batch of a move that was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// In which batch.
    pub stage: Stage,
    /// Everything that was refused.
    pub refusals: Vec<Refusal>,
    /// What prepare had made and could not be swept.
    pub retire_failures: Vec<Refusal>,
}

/// How often what is left of a move is tried again whose last batch was refused.
pub const TRIES: usize = 3;

/// The batches that can be refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stage {
    /// What blocks packets for a moment.
    Pause,
    /// What no packet can reach.
    Prepare,
    /// What leads there.
    Switch,
    /// What admits the traffic of interfaces that moved. The thread reports its refusals as retire failures: the sender of the plan knows
    /// whether an interface moves.
    Retire,
}

#[derive(Debug)]
enum Job {
    Apply(Plan, Retire, oneshot::Sender<Result<Applied, Refused>>),
    Observe(oneshot::Sender<io::Result<Observed>>),
}

impl Kernel {
    /// Opens a socket in the calling thread's network namespace. With [`Ownership::OwnedAndKept`], tables are made ours
    /// where the kernel can, and orphans of an earlier run are adopted.
    pub fn open(wanted: Ownership) -> io::Result<Kernel> {
        let (jobs, queue) = mpsc::channel();
        let (ready, opened) = mpsc::channel();
        // A new thread is born in the network namespace of the one that makes it.
        thread::Builder::new().name("nftables".into()).spawn(move || match Worker::open(wanted) {
            Ok(mut worker) => {
                let _ = ready.send(Ok((worker.link.port(), worker.features)));
                worker.run(&queue);
            }
            Err(error) => {
                let _ = ready.send(Err(error));
            }
        })?;
        let (port, features) = opened.recv().map_err(|_| gone())??;
        Ok(Kernel { jobs, port, features })
    }

    /// The netlink port by which the kernel announces our commits.
    pub fn port(&self) -> u32 {
        self.port
    }

    /// Puts a plan in force and waits for the outcome. Not to be called from async code.
    pub fn apply(&self, plan: Plan) -> Result<Applied, Refused> {
        self.submit(plan, Retire::BeforeAnswer).blocking_recv().unwrap_or_else(|_| Err(Refused::gone()))
    }

    /// Puts a plan in force; the outcome can be awaited. A receiver that is dropped stops nothing.
    pub fn submit(&self, plan: Plan, retire: Retire) -> oneshot::Receiver<Result<Applied, Refused>> {
        let (answer, outcome) = oneshot::channel();
        if let Err(mpsc::SendError(Job::Apply(.., answer))) = self.jobs.send(Job::Apply(plan, retire, answer))
        {
            let _ = answer.send(Err(Refused::gone()));
        }
        outcome
    }

    /// Reads our tables back.
    pub fn observe(&self) -> io::Result<Observed> {
        self.submit_observe().blocking_recv().unwrap_or_else(|_| Err(gone()))
    }

    /// Reads our tables back; the outcome can be awaited.
    pub fn submit_observe(&self) -> oneshot::Receiver<io::Result<Observed>> {
        let (answer, outcome) = oneshot::channel();
        if let Err(mpsc::SendError(Job::Observe(answer))) = self.jobs.send(Job::Observe(answer)) {
            let _ = answer.send(Err(gone()));
        }
        outcome
    }

    /// What this kernel can do, found out when the socket was opened.
    pub fn features(&self) -> Features {
        self.features
    }
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the netfilter thread has ended")
}

/// What the thread owns.
struct Worker {
    link: Link,
    features: Features,
    wanted: Ownership,
    retire_failures: Vec<Refusal>,
    grace: Grace,
}

impl Worker {
    fn open(wanted: Ownership) -> io::Result<Worker> {
        let link = Link::open()?;
        let questions = probe::questions();
        let refusals = link.commit(&questions.encoded, &questions.steps);
        let features = questions.answers(&refusals);
        Ok(Worker { link, features, wanted, retire_failures: Vec::new(), grace: Grace::new()? })
    }

    fn run(&mut self, queue: &mpsc::Receiver<Job>) {
        loop {
            let job = self.grace.until_over(queue);
            let over = self.grace.over();
            self.take_away(&over);
            match job {
                Ok(Job::Apply(plan, retire, answer)) => self.answer(plan, retire, answer),
                Ok(Job::Observe(answer)) => {
                    self.retire(&[]);
                    let _ = answer.send(read::observe(&mut self.link));
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => return self.retire(&[]),
            }
        }
    }

    fn answer(&mut self, mut plan: Plan, retire: Retire, answer: oneshot::Sender<Result<Applied, Refused>>) {
        if let Err(refused) = self.fill_ipsets(&mut plan).and_then(|()| self.put_in_force(&plan)) {
            let _ = answer.send(Err(refused));
            return;
        }
        let steps = match retire {
            Retire::AfterAnswer => self.grace.defer(plan.retire),
            Retire::BeforeAnswer => {
                self.retire(&plan.retire);
                Vec::new()
            }
        };
        let _ = answer.send(Ok(Applied { retire_failures: std::mem::take(&mut self.retire_failures) }));
        if !steps.is_empty() {
            self.retire(&steps);
        }
        if !plan.forget.is_empty() {
            self.send(&plan.forget);
        }
    }

    /// Gives each ipset that prepare makes, or a table that is replaced, its elements in the same batch, and leaves one out
    /// that is there.
    fn fill_ipsets(&mut self, plan: &mut Plan) -> Result<(), Refused> {
        let replaced = replaced(plan);
        let replaced_table = plan.switch.iter().filter(|step| replaced.contains(&step.family));
        if !plan.prepare.iter().chain(replaced_table).any(|step| made_ipset(step).is_some()) {
            return Ok(());
        }
        let names: BTreeSet<Name> =
            plan.prepare.iter().filter_map(made_ipset).map(|(name, _)| name.clone()).collect();
        let observed = read::observe_sets(&mut self.link, &|name| names.contains(name))
            .map_err(|error| Refused::unsent("the sets in force", error.to_string()))?;
        let prepare = std::mem::take(&mut plan.prepare).into_iter();
        plan.prepare = prepare.flat_map(|step| filled(step, &observed, Replaced::No)).collect();
        let switch = std::mem::take(&mut plan.switch).into_iter();
        let fill = |step: Step| {
            if replaced.contains(&step.family) { filled(step, &observed, Replaced::Yes) } else { vec![step] }
        };
        plan.switch = switch.flat_map(fill).collect();
        Ok(())
    }

    fn put_in_force(&mut self, plan: &Plan) -> Result<(), Refused> {
        self.pause(&plan.pause)?;
        let outcome = self.change(plan);
        if outcome.is_err() {
            self.take_away(&plan.pause.undo);
        }
        outcome
    }

    /// Blocks packets that have a new judge, and lets those go that have passed the old one and wait for the next.
    fn pause(&mut self, pause: &Pause) -> Result<(), Refused> {
        if pause.links.is_empty() {
            return Ok(());
        }
        let refusals = self.send(&pause.begin);
        if !refusals.is_empty() {
            return Err(Refused { stage: Stage::Pause, refusals, retire_failures: Vec::new() });
        }
        wait_for_packets_under_way();
        links::let_waiting_go(&pause.links).map_err(|error| {
            self.take_away(&pause.undo);
            Refused::unsent("packets that wait for a neighbour's address", error.to_string())
        })
    }

    /// A change that is refused while something is put off is tried again when that is gone.
    fn change(&mut self, plan: &Plan) -> Result<(), Refused> {
        if self.grace.minds(plan) {
            self.retire(&[]);
        }
        let outcome = self.send_plan(plan);
        if outcome.is_ok() || !self.grace.has_steps() {
            return outcome;
        }
        self.retire(&[]);
        self.send_plan(plan)
    }

    fn send_plan(&mut self, plan: &Plan) -> Result<(), Refused> {
        let ownership = self.ownership(plan);
        let refused = |stage, refusals, retire_failures| Refused { stage, refusals, retire_failures };
        // Both are encoded before either is sent: what cannot be encoded is refused before anything has happened.
        let prepare = encode(&plan.prepare, &ownership).map_err(|r| refused(Stage::Prepare, r, vec![]))?;
        let switch = encode(&plan.switch, &ownership).map_err(|r| refused(Stage::Switch, r, vec![]))?;
        let refusals = self.link.commit(&prepare, &plan.prepare);
        if !refusals.is_empty() {
            return Err(refused(Stage::Prepare, refusals, vec![]));
        }
        let refusals = self.link.commit(&switch, &plan.switch);
        if !refusals.is_empty() {
            let retire_failures = self.send(&removal_of(&plan.prepare));
            return Err(refused(Stage::Switch, refusals, retire_failures));
        }
        Ok(())
    }

    /// Takes these away, and before them all that was put off. One wait is enough for all.
    fn retire(&mut self, steps: &[Step]) {
        let earlier = self.grace.give_up();
        if earlier.is_empty() && steps.is_empty() {
            return;
        }
        wait_for_packets_under_way();
        self.take_away(&earlier);
        self.take_away(steps);
    }

    fn take_away(&mut self, steps: &[Step]) {
        let refusals = self.send(steps);
        self.retire_failures.extend(refusals);
    }

    fn send(&mut self, steps: &[Step]) -> Vec<Refusal> {
        match encode(steps, |_| Ownership::Shared) {
            Ok(encoded) => self.link.commit(&encoded, steps),
            Err(refusals) => refusals,
        }
    }

    /// A table that exists keeps the kind it has: an owner cannot be added to it. A new one is made as wanted.
    fn ownership(&mut self, plan: &Plan) -> impl Fn(Family) -> Ownership + use<> {
        let new = if self.features.owner_persist.is_yes() { self.wanted } else { Ownership::Shared };
        let makes_table = |step: &Step| step.change == TableOperation::AddTable;
        let mut there = if plan.prepare.iter().chain(&plan.switch).any(makes_table) {
            read::tables(&mut self.link).unwrap_or_default()
        } else {
            BTreeMap::new()
        };
        // One that is replaced is not adopted before: what is made in its place is new.
        let adopted = |family| plan.prepare.iter().any(|step| step.family == family && makes_table(step));
        let replaced = replaced(plan);
        there.retain(|family, _| !replaced.contains(family) || adopted(*family));
        move |family| match there.get(&family) {
            Some(table) if table.owner => Ownership::OwnedAndKept,
            Some(_) => Ownership::Shared,
            None => new,
        }
    }
}

fn made_ipset(step: &Step) -> Option<(&Name, &SetType)> {
    match &step.change {
        TableOperation::AddSet(name, kind) if layout::is_ipset(name, kind) => Some((name, kind)),
        _ => None,
    }
}

/// The families whose table is deleted and created again in one batch.
fn replaced(plan: &Plan) -> BTreeSet<Family> {
    let deletes = plan.switch.iter().filter(|step| step.change == TableOperation::DeleteTable);
    deletes.map(|step| step.family).collect()
}

/// Whether a table is replaced, whatever the existing one holds.
#[derive(PartialEq, Eq)]
enum Replaced {
    Yes,
    No,
}

/// A step, with the elements of the set that it makes where that is an ipset.
fn filled(step: Step, observed: &Observed, replaced_table: Replaced) -> Vec<Step> {
    let Some((name, kind)) = made_ipset(&step) else { return vec![step] };
    let there = observed.families.get(&step.family).is_some_and(|table| table.sets.contains_key(name));
    if there && replaced_table == Replaced::No {
        return Vec::new();
    }
    let others = observed.families.values().filter_map(|table| table.sets.get(name));
    let elements: BTreeMap<Bytes, ElementValue> = others.flat_map(|set| set.elements.clone()).collect();
    let elements: Vec<(Bytes, ElementValue)> = elements.into_iter().collect();
    let is_empty = elements.is_empty();
    let fill = TableOperation::AddElements(name.clone(), kind.clone(), elements);
    let fill = (!is_empty).then_some(Step { family: step.family, change: fill });
    [step].into_iter().chain(fill).collect()
}

/// What takes away the chains and sets that steps made, in an order in which nothing is still referred to.
fn removal_of(made: &[Step]) -> Vec<Step> {
    let inverse = |pick: fn(&TableOperation) -> Option<TableOperation>| {
        made.iter().filter_map(move |step| Some(Step { family: step.family, change: pick(&step.change)? }))
    };
    let flush = inverse(|change| match change {
        TableOperation::AddChain(name, _) => Some(TableOperation::FlushChain(name.clone())),
        _ => None,
    });
    let sets = inverse(|change| match change {
        TableOperation::AddSet(name, _) => Some(TableOperation::DeleteSet(name.clone())),
        _ => None,
    });
    let chains = inverse(|change| match change {
        TableOperation::AddChain(name, _) => Some(TableOperation::DeleteChain(name.clone())),
        _ => None,
    });
    flush.chain(sets).chain(chains).collect()
}

impl Refused {
    /// What was refused before anything was sent, if anything was.
    pub fn of(refusals: Vec<Refusal>) -> Result<(), Refused> {
        let refused = Refused { stage: Stage::Prepare, refusals, retire_failures: Vec::new() };
        if refused.refusals.is_empty() { Ok(()) } else { Err(refused) }
    }

    /// The filters whose rules were refused.
    pub fn filters(&self) -> BTreeSet<String> {
        let origins = self.refusals.iter().filter_map(|refusal| refusal.origin.as_ref());
        origins.map(|origin| origin.filter.to_string()).collect()
    }

    /// Whether the kernel does not have what the change is about, or has what it would make: it was made for
    /// another state of the kernel.
    pub fn is_stale(&self) -> bool {
        self.refusals.iter().any(|refusal| matches!(refusal.errno(), Some(libc::ENOENT | libc::EEXIST)))
    }

    /// The thread is no more.
    pub fn gone() -> Refused {
        Refused::unsent("the batch", gone().to_string())
    }

    /// Nothing was sent.
    pub fn unsent(what: &str, why: String) -> Refused {
        let refusal =
            Refusal { step: None, what: what.into(), origin: None, fault: RefusalCause::Unencodable(why) };
        Refused { stage: Stage::Prepare, refusals: vec![refusal], retire_failures: Vec::new() }
    }
}

impl Display for Refused {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.refusals.iter().map(Refusal::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl std::error::Error for Refused {}
