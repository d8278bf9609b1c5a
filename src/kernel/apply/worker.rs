//! What becomes of a plan: its batches in their order, with a wait between those that packets must not see at once.
//!
//! It works on any [`Nftables`]: the kernel's, or a model of them.

use super::deferred::{Deferred, Wait};
use super::{Applied, Job, Refused, Retire, Stage};
use crate::program::ir::observed::{Observed, ObservedTable};
use crate::program::ir::{Bytes, ElementValue, Family, Name, SetType};
use crate::ruleset::layout;
use crate::ruleset::nft::reply::Refusal;
use crate::ruleset::nft::{Encoded, Ownership, encode};
use crate::ruleset::plan::{Pause, Plan, Step, TableOperation};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::mpsc;
use tokio::sync::oneshot;

/// The tables of our name in a kernel.
pub(crate) trait Nftables {
    /// Takes a batch as a whole or not at all, and says what was refused of it.
    fn commit(&mut self, batch: &Batch<'_>) -> Vec<Refusal>;
    /// All tables as they were at one moment.
    fn observe(&mut self) -> io::Result<Observed>;
    /// The elements of these sets, with whatever else must be read to find them.
    fn observe_sets(&mut self, is_wanted: &dyn Fn(&str) -> bool) -> io::Result<Observed>;
    /// Which tables exist, and whether they have an owner.
    fn tables(&mut self) -> io::Result<BTreeMap<Family, ObservedTable>>;
    /// Returns when no packet is left that may read what the last batch took the ways to.
    fn wait_for_packets_under_way(&mut self);
    /// Drops the packets to these links that wait for a neighbour's address.
    fn let_waiting_go(&mut self, links: &[u32]) -> io::Result<()>;
}

/// Steps that are one change to the kernel.
pub(crate) struct Batch<'a> {
    pub encoded: Encoded,
    pub steps: &'a [Step],
    /// What a table is made, or taken over, with.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "the kernel reads it in the messages, a model does not")
    )]
    pub ownership: &'a dyn Fn(Family) -> Ownership,
}

/// Puts plans in force, one after the other.
pub(crate) struct Worker<K, W> {
    kernel: K,
    /// What new tables are made with.
    ownership: Ownership,
    retire_failures: Vec<Refusal>,
    deferred: Deferred<W>,
    /// Whether packets of an interface that stays bound may be in chains that no longer lead it.
    redirected: bool,
}

impl<'a> Batch<'a> {
    fn new(steps: &'a [Step], ownership: &'a dyn Fn(Family) -> Ownership) -> Result<Batch<'a>, Vec<Refusal>> {
        Ok(Batch { encoded: encode(steps, ownership)?, steps, ownership })
    }
}

impl<K: Nftables, W: Wait> Worker<K, W> {
    pub(crate) fn new(kernel: K, ownership: Ownership, wait: W) -> Worker<K, W> {
        Worker {
            kernel,
            ownership,
            retire_failures: Vec::new(),
            deferred: Deferred::new(wait),
            redirected: false,
        }
    }

    /// Takes jobs until no handle is left that could send any.
    pub(crate) fn run(&mut self, queue: &mpsc::Receiver<Job>) {
        loop {
            let job = self.deferred.until_over(queue);
            self.take_away_deferred();
            match job {
                Ok(Job::Apply(plan, retire, answer)) => self.answer(plan, retire, answer),
                Ok(Job::Observe(answer)) => drop(answer.send(self.observe())),
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => return self.retire(&[]),
            }
        }
    }

    /// Takes away what was deferred and no packet reads any more.
    pub(crate) fn take_away_deferred(&mut self) {
        let over = self.deferred.over();
        self.take_away(&over);
    }

    /// All tables, with nothing in them that is about to be taken away.
    pub(crate) fn observe(&mut self) -> io::Result<Observed> {
        self.retire(&[]);
        self.kernel.observe()
    }

    pub(crate) fn answer(
        &mut self,
        mut plan: Plan,
        retire: Retire,
        answer: oneshot::Sender<Result<Applied, Refused>>,
    ) {
        if let Err(refused) = self.fill_ipsets(&mut plan).and_then(|()| self.put_in_force(&plan)) {
            let _ = answer.send(Err(refused));
            return;
        }
        let steps = match retire {
            Retire::AfterAnswer => self.deferred.defer(plan.retire),
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
        let observed = self
            .kernel
            .observe_sets(&|name| names.contains(name))
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
        self.wait();
        self.kernel.let_waiting_go(&pause.links).map_err(|error| {
            self.take_away(&pause.undo);
            Refused::unsent("packets that wait for a neighbour's address", error.to_string())
        })
    }

    /// A change that is refused while something is put off is tried again when that is gone.
    fn change(&mut self, plan: &Plan) -> Result<(), Refused> {
        if self.deferred.minds(plan) {
            self.retire(&[]);
        }
        let outcome = self.send_plan(plan);
        if outcome.is_ok() || !self.deferred.has_steps() {
            return outcome;
        }
        self.retire(&[]);
        self.send_plan(plan)
    }

    fn wait(&mut self) {
        self.kernel.wait_for_packets_under_way();
        self.redirected = false;
    }

    fn send_plan(&mut self, plan: &Plan) -> Result<(), Refused> {
        let existing = self.existing(plan);
        let made = made_tables(plan, existing.as_ref());
        let ownership = ownership_of(self.ownership, plan, existing.unwrap_or_default());
        let refused = |stage, refusals, retire_failures| Refused { stage, refusals, retire_failures };
        // Both are encoded before either is sent: what cannot be encoded is refused before anything has happened.
        let prepare =
            Batch::new(&plan.prepare, &ownership).map_err(|r| refused(Stage::Prepare, r, vec![]))?;
        let switch = Batch::new(&plan.switch, &ownership).map_err(|r| refused(Stage::Switch, r, vec![]))?;
        let refusals = self.kernel.commit(&prepare);
        if !refusals.is_empty() {
            return Err(refused(Stage::Prepare, refusals, vec![]));
        }
        // An interface that another change has led elsewhere may have packets in what goes with the last one that is unbound.
        if self.redirected && plan.switch.iter().any(deletes_chain) {
            self.wait();
        }
        let refusals = self.kernel.commit(&switch);
        self.redirected |= refusals.is_empty() && redirects(&plan.switch);
        if !refusals.is_empty() {
            let retire_failures = self.send(&removal_of(&plan.prepare, &made));
            return Err(refused(Stage::Switch, refusals, retire_failures));
        }
        Ok(())
    }

    /// Takes these away, and before them all that was put off. One wait is enough for all.
    fn retire(&mut self, steps: &[Step]) {
        let earlier = self.deferred.give_up();
        if earlier.is_empty() && steps.is_empty() {
            return;
        }
        self.wait();
        self.take_away(&earlier);
        self.take_away(steps);
    }

    fn take_away(&mut self, steps: &[Step]) {
        let refusals = self.send(steps);
        self.retire_failures.extend(refusals);
    }

    fn send(&mut self, steps: &[Step]) -> Vec<Refusal> {
        Batch::new(steps, &|_| Ownership::Shared)
            .map_or_else(|refusals| refusals, |batch| self.kernel.commit(&batch))
    }

    /// Which tables exist, where a plan makes one; none where they cannot be read.
    fn existing(&mut self, plan: &Plan) -> Option<BTreeMap<Family, ObservedTable>> {
        if plan.prepare.iter().chain(&plan.switch).any(makes_table) {
            self.kernel.tables().ok()
        } else {
            Some(BTreeMap::new())
        }
    }
}

fn deletes_chain(step: &Step) -> bool {
    matches!(step.change, TableOperation::DeleteChain(_))
}

/// Whether steps lead an interface elsewhere that stays bound.
fn redirects(steps: &[Step]) -> bool {
    let fills = steps.iter().any(|step| matches!(step.change, TableOperation::AddElements(..)));
    let empties = steps.iter().any(|step| matches!(step.change, TableOperation::DeleteElements(..)));
    let refills = steps.iter().any(|step| matches!(step.change, TableOperation::AddRule(..)));
    refills || fills && empties
}

fn makes_table(step: &Step) -> bool {
    step.change == TableOperation::AddTable
}

/// The families whose table comes to be with prepare. Where it is not known which exist, none is taken for new.
fn made_tables(plan: &Plan, existing: Option<&BTreeMap<Family, ObservedTable>>) -> BTreeSet<Family> {
    let families = plan.prepare.iter().filter(|step| makes_table(step)).map(|step| step.family);
    families.filter(|family| existing.is_some_and(|existing| !existing.contains_key(family))).collect()
}

/// A table that exists keeps the kind it has: an owner cannot be added to it. A new one is made as wanted.
fn ownership_of(
    new: Ownership,
    plan: &Plan,
    mut there: BTreeMap<Family, ObservedTable>,
) -> impl Fn(Family) -> Ownership + use<> {
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

/// What takes away the tables, chains, sets and elements that steps made, in an order in which nothing is still referred to.
fn removal_of(made: &[Step], tables: &BTreeSet<Family>) -> Vec<Step> {
    let whole = tables.iter().map(|family| Step { family: *family, change: TableOperation::DeleteTable });
    let made = || made.iter().filter(|step| !tables.contains(&step.family));
    let inverse = |pick: fn(&TableOperation) -> Option<TableOperation>| {
        made().filter_map(move |step| Some(Step { family: step.family, change: pick(&step.change)? }))
    };
    let flush = inverse(|change| match change {
        TableOperation::AddChain(name, _) => Some(TableOperation::FlushChain(name.clone())),
        _ => None,
    });
    // Those of a set that was there before. Those of a new one go with it.
    let fresh: BTreeSet<(Family, &Name)> = made().filter_map(made_set).collect();
    let elements = made().filter_map(|step| match &step.change {
        TableOperation::AddElements(name, kind, elements) if !fresh.contains(&(step.family, name)) => {
            let keys = elements.iter().map(|(key, _)| key.clone()).collect();
            let change = TableOperation::DeleteElements(name.clone(), kind.clone(), keys);
            Some(Step { family: step.family, change })
        }
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
    whole.chain(flush).chain(elements).chain(sets).chain(chains).collect()
}

fn made_set(step: &Step) -> Option<(Family, &Name)> {
    match &step.change {
        TableOperation::AddSet(name, _) => Some((step.family, name)),
        _ => None,
    }
}
