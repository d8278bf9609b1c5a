//! A model of the kernel's tables: batches taken whole or refused, owners, hooks of devices, and packets under way.
//!
//! A packet may walk the rules that were in force when it came, until the daemon has waited for it. So the tables of every moment
//! since the last wait are kept, and no chain that one of them leads to may lose its rules, and no set that is read there may go.

use super::machine::{Mutation, Shared, boundary};
use super::under_way::{Moment, bound, lost_under_way, sets_of, targets};
use crate::kernel::apply::{Applied, Batch, Nftables, Refused, Retire, Wait, Worker};
use crate::program::ir::digest::rule as digest;
use crate::program::ir::observed::{Observed, ObservedChain, ObservedRule, ObservedSet, ObservedTable};
use crate::program::ir::{Action, Chain, ElementValue, Family, Name, Ruleset, Set, Table};
use crate::ruleset::layout;
use crate::ruleset::nft::Ownership;
use crate::ruleset::nft::form;
use crate::ruleset::nft::probe::{Features, Support};
use crate::ruleset::nft::reply::{Refusal, RefusalCause};
use crate::ruleset::plan::{Plan, Step, TableOperation};
use crate::service::daemon::world::Netfilter;
use imbl::OrdMap;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use tokio::sync::oneshot;

/// The tables of our name, and those of the moments that packets may still see.
#[derive(Clone, Debug, Default)]
pub(super) struct Tables {
    pub now: Ruleset,
    /// Which tables were made to have an owner, and whether the owner lives.
    owned: BTreeMap<Family, bool>,
    /// Devices that are there: hooks need them.
    devices: BTreeSet<String>,
    pub(super) under_way: Vec<Moment>,
}

impl Tables {
    pub fn device_appeared(&mut self, name: &str) {
        self.devices.insert(name.into());
    }

    /// The chains of a device go with it, or wait for the next of its name.
    pub fn device_gone(&mut self, index: u32, name: &str, lasting_hooks: bool) {
        self.under_way.iter_mut().for_each(|moment| _ = moment.gone.insert(index));
        self.devices.remove(name);
        if let Some(table) = self.now.tables.get_mut(&Family::Netdev).filter(|_| !lasting_hooks) {
            let stays = |(_, chain): &(Name, Arc<Chain>)| device_of(chain) != Some(name);
            table.chains = std::mem::take(&mut table.chains).into_iter().filter(stays).collect();
        }
    }

    /// A hook stays at its device, and is read back under the new name; or it goes by the name, and is left behind.
    pub fn device_renamed(&mut self, old: &str, new: &str, lasting_hooks: bool) {
        if old == new {
            return;
        }
        self.devices.remove(old);
        self.devices.insert(new.into());
        let Some(table) = self.now.tables.get_mut(&Family::Netdev).filter(|_| !lasting_hooks) else { return };
        let names: Vec<Name> = table.chains.keys().cloned().collect();
        for name in names {
            let chain = table.chains.get_mut(&name).filter(|chain| device_of(chain) == Some(old));
            if let Some(hook) = chain.and_then(|chain| Arc::make_mut(chain).hook.as_mut()) {
                hook.device = Some(new.into());
            }
        }
    }

    /// The process that owned the tables is gone.
    pub fn owner_died(&mut self) {
        self.owned.values_mut().for_each(|lives| *lives = false);
        self.under_way.clear();
    }

    /// The hooks of a table go with it, at once. What a new one has under the same names is another's.
    fn forget_deleted(&mut self, steps: &[Step]) {
        let deleted = steps.iter().filter(|step| step.change == TableOperation::DeleteTable);
        for family in deleted.map(|step| step.family) {
            self.under_way.iter_mut().for_each(|moment| drop(moment.tables.tables.remove(&family)));
        }
    }

    /// For an interface that is bound no longer, the old rules are as good as none, also when it is bound again later.
    fn forget_unbound(&mut self, before: &Ruleset) {
        let still: BTreeSet<u32> = bound(&self.now).collect();
        let unbound: Vec<u32> = bound(before).filter(|index| !still.contains(index)).collect();
        self.under_way.iter_mut().for_each(|moment| moment.gone.extend(&unbound));
    }

    pub fn forget_under_way(&mut self) {
        self.under_way.clear();
    }

    /// Whether another process can change a table.
    pub fn is_open(&self, family: Family) -> bool {
        !self.owned.get(&family).copied().unwrap_or(false)
    }
}

fn device_of(chain: &Chain) -> Option<&str> {
    chain.hook.as_ref()?.device.as_deref()
}

/// The kernel as the worker of plans knows it.
pub(super) struct Kernel(pub Shared);

/// Waits that are over when the machine says so.
pub(super) struct Grace {
    machine: Shared,
    begun: u32,
}

/// The kernel as the daemon knows it.
pub(super) struct Simulated {
    machine: Shared,
    worker: RefCell<Worker<Kernel, Grace>>,
    /// What a mutation puts off to the next plan.
    held: RefCell<Vec<Step>>,
}

impl Simulated {
    pub fn new(machine: &Shared) -> Simulated {
        let ownership = match machine.borrow().ability.owners {
            true => Ownership::OwnedAndKept,
            false => Ownership::Shared,
        };
        let worker =
            Worker::new(Kernel(machine.clone()), ownership, Grace { machine: machine.clone(), begun: 0 });
        Simulated { machine: machine.clone(), worker: RefCell::new(worker), held: RefCell::default() }
    }
}

/// What a model kernel can do: all but what belongs to connections.
pub(super) fn features(owners: bool, lasting_hooks: bool) -> Features {
    let yes = |can| if can { Support::Yes } else { Support::No };
    Features {
        owner_persist: yes(owners),
        lasting_hooks: yes(lasting_hooks),
        netdev_egress: Support::Yes,
        inet: Support::Yes,
        ..Features::default()
    }
}

impl Netfilter for Simulated {
    fn features(&self) -> Features {
        let ability = self.machine.borrow().ability;
        features(ability.owners, ability.lasting_hooks)
    }

    fn submit(&self, mut plan: Plan, retire: Retire) -> oneshot::Receiver<Result<Applied, Refused>> {
        let (answer, outcome) = oneshot::channel();
        if self.machine.borrow().is(Mutation::SwitchFirst) {
            std::mem::swap(&mut plan.prepare, &mut plan.switch);
        }
        if self.machine.borrow().is(Mutation::NoWait) {
            plan.switch.append(&mut plan.retire);
        }
        if self.machine.borrow().is(Mutation::AdoptionWithChains) {
            if plan.switch.is_empty()
                && plan.prepare.iter().all(|step| step.change == TableOperation::AddTable)
            {
                self.held.borrow_mut().append(&mut plan.prepare);
            } else {
                plan.prepare.splice(0..0, self.held.take());
            }
        }
        let mut worker = self.worker.borrow_mut();
        worker.take_away_deferred();
        worker.answer(plan, retire, answer);
        outcome
    }

    fn submit_observe(&self) -> oneshot::Receiver<io::Result<Observed>> {
        let (answer, outcome) = oneshot::channel();
        let _ = answer.send(self.worker.borrow_mut().observe());
        outcome
    }
}

impl Wait for Grace {
    fn begin(&mut self) -> bool {
        self.begun += 1;
        true
    }

    fn is_over(&mut self) -> bool {
        let mut machine = self.machine.borrow_mut();
        if self.begun == 0 || machine.rng.bool() {
            return false;
        }
        self.begun -= 1;
        machine.tables.under_way.clear();
        true
    }
}

impl Nftables for Kernel {
    fn commit(&mut self, batch: &Batch<'_>) -> Vec<Refusal> {
        if batch.steps.is_empty() {
            return Vec::new();
        }
        boundary(&self.0);
        let mut machine = self.0.borrow_mut();
        if let Some(number) = machine.refusal() {
            let refusal = refused(0, &batch.steps[0], number);
            return if machine.is(Mutation::RefusalLost) { Vec::new() } else { vec![refusal] };
        }
        let half =
            if machine.is(Mutation::HalfBatch) { batch.steps.len().div_ceil(2) } else { batch.steps.len() };
        let mut after = machine.tables.clone();
        let mut adopted = BTreeSet::new();
        for (number, step) in batch.steps[..half].iter().enumerate() {
            if machine.is(Mutation::ElementStays) && matches!(step.change, TableOperation::DeleteElements(..))
            {
                continue;
            }
            if let Err(error) = after.take(step, batch.ownership, &mut adopted) {
                return vec![refused(number, step, error)];
            }
        }
        after.under_way.push(Moment::of(&machine));
        after.forget_deleted(batch.steps);
        after.forget_unbound(&machine.tables.now);
        machine.note(|| {
            batch
                .steps
                .iter()
                .map(|step| format!("  {step:?}").chars().take(150).collect::<String>())
                .collect::<Vec<_>>()
                .join(
                    "
",
                )
        });
        let replaced = |family| {
            batch.steps.iter().any(|step| step.family == family && step.change == TableOperation::DeleteTable)
        };
        if let Some(lost) = lost_under_way(&machine.tables.now, &after, replaced) {
            machine.violated(|| format!("packets under way lose {lost}"));
        }
        machine.history.push(after.now.clone());
        machine.tables = after;
        drop(machine);
        boundary(&self.0);
        Vec::new()
    }

    fn observe(&mut self) -> io::Result<Observed> {
        let machine = self.0.borrow();
        Ok(observed(&machine.tables, machine.is(Mutation::GotosOnly)))
    }

    fn observe_sets(&mut self, is_wanted: &dyn Fn(&str) -> bool) -> io::Result<Observed> {
        let mut all = self.observe()?;
        for table in all.families.values_mut() {
            table.chains.clear();
            table.sets.retain(|name, _| is_wanted(name));
        }
        Ok(all)
    }

    fn tables(&mut self) -> io::Result<BTreeMap<Family, ObservedTable>> {
        let mut all = self.observe()?;
        for table in all.families.values_mut() {
            table.chains.clear();
            table.sets.clear();
        }
        Ok(all.families)
    }

    fn wait_for_packets_under_way(&mut self) {
        self.0.borrow_mut().note(|| "  waited".into());
        self.0.borrow_mut().tables.under_way.clear();
    }

    fn let_waiting_go(&mut self, _: &[u32]) -> io::Result<()> {
        boundary(&self.0);
        Ok(())
    }
}

fn refused(number: usize, step: &Step, error: i32) -> Refusal {
    let fault = RefusalCause::Kernel { errno: error, text: None, offset: None };
    Refusal::of(number, step, fault)
}

impl Tables {
    /// Takes one step, or says with which error the kernel refuses it.
    fn take(
        &mut self,
        step: &Step,
        ownership: &dyn Fn(Family) -> Ownership,
        adopted: &mut BTreeSet<Family>,
    ) -> Result<(), i32> {
        let family = step.family;
        if let TableOperation::AddTable = step.change {
            let wanted = ownership(family) == Ownership::OwnedAndKept;
            match self.now.tables.contains_key(&family) {
                true if wanted && self.owned.get(&family) == Some(&false) => drop(adopted.insert(family)),
                true => {}
                false => drop(self.now.tables.insert(family, Table::default())),
            }
            if wanted {
                self.owned.insert(family, true);
            }
            return Ok(());
        }
        let devices = &self.devices;
        let table = self.now.tables.get_mut(&family).ok_or(libc::ENOENT)?;
        match step.change.clone() {
            TableOperation::AddTable => {}
            TableOperation::DeleteTable => {
                self.now.tables.remove(&family);
                self.owned.remove(&family);
            }
            TableOperation::AddChain(name, hook) => {
                if hook.is_some() && adopted.contains(&family) {
                    return Err(libc::EINVAL);
                }
                let device = hook.as_ref().and_then(|hook| hook.device.as_ref());
                if device.is_some_and(|device| !devices.contains(device)) {
                    return Err(libc::ENOENT);
                }
                if table.chains.contains_key(&name) {
                    return Err(libc::EEXIST);
                }
                table.chains.insert(name, Arc::new(Chain { hook, rules: Vec::new() }));
            }
            TableOperation::FlushChain(name) => {
                let chain = table.chains.get_mut(&name).ok_or(libc::ENOENT)?;
                Arc::make_mut(chain).rules.clear();
            }
            TableOperation::DeleteChain(name) => {
                let mut without = table.clone();
                without.chains.remove(&name).ok_or(libc::ENOENT)?;
                if leads_to(&without, &name) {
                    return Err(libc::EBUSY);
                }
                *table = without;
            }
            TableOperation::AddRule(name, rule) => {
                let known = |target: &Name| table.chains.contains_key(target);
                if !targets(&rule).iter().all(known)
                    || !sets_of(&rule).all(|set| table.sets.contains_key(set))
                {
                    return Err(libc::ENOENT);
                }
                let chain = table.chains.get_mut(&name).ok_or(libc::ENOENT)?;
                Arc::make_mut(chain).rules.push(rule);
            }
            TableOperation::AddSet(name, kind) => {
                if table.sets.contains_key(&name) {
                    return Err(libc::EEXIST);
                }
                let role = layout::role_of(&name, &kind);
                let elements = OrdMap::new();
                let set = Set {
                    key: kind.key,
                    data: kind.data,
                    role,
                    dynamic: kind.dynamic,
                    counted: kind.counted,
                    elements,
                };
                table.sets.insert(name, set);
            }
            TableOperation::DeleteSet(name) => {
                let read =
                    |chain: &Arc<Chain>| chain.rules.iter().any(|rule| sets_of(rule).any(|set| *set == name));
                if table.chains.values().any(read) {
                    return Err(libc::EBUSY);
                }
                table.sets.remove(&name).ok_or(libc::ENOENT)?;
            }
            TableOperation::AddElements(name, _, elements) => {
                let chains = &table.chains;
                let set = table.sets.get_mut(&name).ok_or(libc::ENOENT)?;
                for (key, datum) in elements {
                    if matches!(&datum, ElementValue::Jump(target) if !chains.contains_key(target)) {
                        return Err(libc::ENOENT);
                    }
                    match set.elements.get(&key) {
                        Some(there) if *there != datum => return Err(libc::EBUSY),
                        _ => drop(set.elements.insert(key, datum)),
                    }
                }
            }
            TableOperation::DeleteElements(name, _, keys) => {
                let set = table.sets.get_mut(&name).ok_or(libc::ENOENT)?;
                keys.iter().try_for_each(|key| set.elements.remove(key).map(drop).ok_or(libc::ENOENT))?;
            }
            TableOperation::DestroyElements(name, _, keys) => {
                let set = table.sets.get_mut(&name).ok_or(libc::ENOENT)?;
                keys.iter().for_each(|key| drop(set.elements.remove(key)));
            }
        }
        Ok(())
    }
}

fn leads_to(table: &Table, chain: &Name) -> bool {
    let by_rule = table.chains.values().flat_map(|chain| &chain.rules).flat_map(targets);
    let elements = table.sets.values().flat_map(|set| set.elements.values());
    let by_element = elements.filter_map(|datum| match datum {
        ElementValue::Jump(target) => Some(target.clone()),
        _ => None,
    });
    by_rule.chain(by_element).any(|target| target == *chain)
}

fn observed(tables: &Tables, gotos_only: bool) -> Observed {
    let families = tables.now.tables.iter().map(|(family, table)| {
        let lives = tables.owned.get(family).copied();
        let chains = table
            .chains
            .iter()
            .map(|(name, chain)| (name.clone(), observed_chain(*family, chain, gotos_only)));
        let sets = table.sets.iter().map(|(name, set)| {
            let elements = set.elements.iter().map(|(key, datum)| (key.clone(), datum.clone())).collect();
            (name.clone(), ObservedSet { ty: set.kind(), strange: false, elements, counts: BTreeMap::new() })
        });
        let table = ObservedTable {
            owner: lives.is_some(),
            port: lives.unwrap_or(false).then_some(1),
            strange: false,
            chains: chains.collect(),
            sets: sets.collect(),
        };
        (*family, table)
    });
    Observed { families: families.collect() }
}

fn observed_chain(family: Family, chain: &Chain, gotos_only: bool) -> ObservedChain {
    let rules = chain.rules.iter().zip(1..).map(|(rule, handle)| ObservedRule {
        handle,
        digest: Some(digest(rule)),
        form: form::of(family, rule).unwrap_or_default(),
        comment: None,
        counter: None,
        tally: rule.tally.map(|tally| tally.id),
        goto: match &rule.action {
            Action::Goto(target) => Some(target.clone()),
            _ => None,
        },
    });
    let rules = rules.filter(|rule| !gotos_only || rule.goto.is_some());
    ObservedChain { hook: chain.hook.clone(), strange: false, rules: rules.collect() }
}

pub(super) fn refusal_numbers() -> [i32; 4] {
    [libc::ENOENT, libc::EBUSY, libc::ENOMEM, libc::EINVAL]
}
