//! One run: events against the core, and the checks after each.

use super::disk::SimulatedDisk;
use super::events::{Event, PORTS, What, binding_text, filter_name, filter_text, port_name};
use super::kernel::{Simulated, refusal_numbers};
use super::machine::{Crash, DiskFault, Machine, Mutation, Refusing, Shared, errno};
use super::reference::{Reference, Wanted};
use crate::document::filter::write;
use crate::engine::api::Request;
use crate::guest::link::Link;
use crate::guest::observation::CaptureSpec;
use crate::kernel::checksum::TcxHook;
use crate::program::ir::Family;
use crate::service::config::Config;
use crate::service::daemon::core::{Core, KernelState};
use crate::service::daemon::start;
use crate::service::daemon::world::Host;
use crate::service::store::BINDINGS;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;
use uuid::Uuid;

#[derive(Clone, Debug, Default)]
pub(super) struct Outcome {
    pub violation: Option<String>,
    pub events: u64,
    pub faults: BTreeMap<String, u64>,
}

/// The host around the core, apart from its kernel's tables and its disk.
struct SimulatedHost(Shared);

impl Host for SimulatedHost {
    fn time(&self) -> Duration {
        Duration::from_secs(1_000_000)
    }

    fn links(&self) -> io::Result<Vec<Link>> {
        // A dump is newer than every event that waits.
        Ok(self.0.borrow().links.values().cloned().collect())
    }

    fn set_down(&self, index: u32) -> io::Result<()> {
        let mut machine = self.0.borrow_mut();
        machine.count("an interface set down");
        machine.links.get_mut(&index).map(|link| link.up = false).ok_or(errno(libc::ENODEV))
    }

    fn named_otherwise(&self, _: &str) -> Option<String> {
        None
    }

    fn has_ipset(&self, _: &str) -> bool {
        false
    }

    fn has_guard(&self) -> bool {
        true
    }

    fn attach_guard(&self, _: u32, _: TcxHook) -> io::Result<()> {
        Ok(())
    }

    fn detach_guard(&self, _: u32, _: TcxHook) -> io::Result<()> {
        Ok(())
    }

    fn close_captures(&mut self, _: &BTreeMap<u32, CaptureSpec>) {}

    fn open_captures(&mut self, _: &BTreeMap<u32, CaptureSpec>) {}
}

pub(super) struct Run {
    pub(super) machine: Shared,
    pub(super) runtime: tokio::runtime::Runtime,
    pub(super) config: Config,
    pub(super) core: Option<Core>,
    /// What may be in force: what was asked for last, and before where it is not known whether that was done.
    pub(super) wanted: BTreeSet<Wanted>,
    /// What a refused change may have left on a disk that did not take the undo either.
    pub(super) uncertain: BTreeSet<Wanted>,
    /// Whether the disk has refused to sync what this process found.
    pub(super) is_uncertain: bool,
    /// What might have been in force at some moment of what happened last.
    pub(super) meanwhile: BTreeSet<Wanted>,
    pub(super) reference: Reference,
    /// Under which names an index was since the daemon last heard all, and before what happens now.
    pub(super) names: BTreeMap<u32, BTreeSet<String>>,
    pub(super) earlier_names: BTreeMap<u32, BTreeSet<String>>,
    /// Indexes that were used again and that the daemon had not heard of before what happens now.
    pub(super) reused: BTreeSet<u32>,
    /// Tables were changed by another program, and the daemon has not heard of it.
    pub(super) meddled: bool,
    pub(super) was_meddled: bool,
}

/// Runs the events, until a promise is broken.
pub(super) fn run(seed: u64, events: &[Event], mutation: Option<Mutation>) -> Outcome {
    run_on(Machine::new(seed, mutation), seed, events)
}

/// The same, with what happened.
pub(super) fn logged(seed: u64, events: &[Event], mutation: Option<Mutation>) -> (Outcome, Vec<String>) {
    let machine = Machine::new(seed, mutation);
    machine.borrow_mut().log = Some(Vec::new());
    let outcome = run_on(machine.clone(), seed, events);
    let log = machine.borrow_mut().log.take();
    (outcome, log.unwrap_or_default())
}

fn run_on(machine: Shared, seed: u64, events: &[Event]) -> Outcome {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let config = Config { standard_filters: false, grace: Duration::ZERO, ..Config::default() };
    let mut run = Run {
        machine,
        runtime,
        config,
        core: None,
        wanted: [Wanted::default()].into(),
        uncertain: BTreeSet::new(),
        is_uncertain: false,
        meanwhile: BTreeSet::new(),
        reference: Reference::default(),
        names: BTreeMap::new(),
        earlier_names: BTreeMap::new(),
        reused: BTreeSet::new(),
        meddled: false,
        was_meddled: false,
    };
    let mut outcome = Outcome::default();
    run.start();
    for event in events.iter().chain(&[Event { seed, what: What::Hear }]) {
        outcome.events += 1;
        run.machine.borrow_mut().note(|| format!("{event:?}"));
        run.machine.borrow_mut().rng = fastrand::Rng::with_seed(event.seed);
        run.meanwhile = run.wanted.clone();
        run.earlier_names = run.names.clone();
        run.reused = run.machine.borrow().reused.clone();
        run.was_meddled = run.meddled;
        run.happen(&event.what);
        run.check_history(&event.what);
        if run.machine.borrow().violation.is_some() {
            break;
        }
    }
    if run.machine.borrow().violation.is_none() {
        run.recover();
    }
    let machine = run.machine.borrow();
    outcome.violation = machine.violation.clone();
    outcome.faults = machine.faults.happened.clone();
    drop(machine);
    outcome
}

impl Run {
    /// Lets the core work on something. None where the process died of it.
    pub(super) fn work<T>(&mut self, work: impl AsyncFnOnce(&mut Core) -> T) -> Option<T> {
        let mut core = self.core.take()?;
        let done = catch_unwind(AssertUnwindSafe(|| self.runtime.block_on(work(&mut core))));
        match done {
            Ok(done) => {
                self.core = Some(core);
                Some(done)
            }
            Err(payload) if payload.is::<Crash>() => {
                self.core = Some(core);
                self.end();
                self.start();
                None
            }
            Err(payload) => std::panic::resume_unwind(payload),
        }
    }

    /// The next process finds what is on the disk.
    fn leave(&mut self) {
        match self.core.take() {
            Some(core) if core.is_owing() || self.is_uncertain => self.wanted.append(&mut self.uncertain),
            Some(_) => self.uncertain.clear(),
            None => self.wanted.append(&mut self.uncertain),
        }
    }

    /// The process is no more.
    fn end(&mut self) {
        self.leave();
        let mut machine = self.machine.borrow_mut();
        machine.faults.crash = None;
        machine.tables.owner_died();
        let mut rng = fastrand::Rng::with_seed(machine.rng.u64(..));
        machine.disk.after_crash(&mut rng, false);
    }

    /// A new process. What it has heard is what there is.
    fn start(&mut self) {
        for _ in 0..8 {
            self.machine.borrow_mut().events.clear();
            let disk = Rc::new(SimulatedDisk(self.machine.clone()));
            let start = async {
                let documents = start::documents(&self.config, disk)?;
                let kernel = Box::new(Simulated::new(&self.machine));
                Core::start(&self.config, kernel, Box::new(SimulatedHost(self.machine.clone())), documents)
                    .await
            };
            match catch_unwind(AssertUnwindSafe(|| self.runtime.block_on(start))) {
                Ok(Ok(core)) => {
                    self.core = Some(core);
                    self.meddled = false;
                    let before = self.wanted.clone();
                    self.collapse();
                    // What a disk that fails did not sync now may be lost with the power.
                    if self.machine.borrow().faults.disk.is_some() {
                        self.uncertain.extend(before);
                        self.is_uncertain = true;
                    } else {
                        self.is_uncertain = false;
                    }
                    return;
                }
                // systemd starts it again.
                Ok(Err(_)) => {}
                Err(payload) if payload.is::<Crash>() => {}
                Err(payload) => std::panic::resume_unwind(payload),
            }
            let mut machine = self.machine.borrow_mut();
            (machine.faults.crash, machine.faults.refusal, machine.faults.disk) = (None, None, None);
            machine.tables.owner_died();
        }
        self.machine.borrow_mut().violated(|| "the daemon does not start".into());
    }

    /// The state says which of what may be in force is.
    fn collapse(&mut self) {
        let Some(core) = &self.core else { return };
        let filters = core.state.firewall().filters().iter();
        let filters: BTreeMap<String, String> =
            filters.map(|(name, filter)| (name.clone(), write::write(filter))).collect();
        let bound = |wanted: &Wanted| {
            wanted.bindings.len() == core.state.bindings().len()
                && wanted.bindings.iter().all(|(port, text)| {
                    core.state
                        .bindings()
                        .get(port)
                        .is_some_and(|bound| text.contains(&format!("filter='{}'", bound.filter)))
                })
        };
        let found = self.wanted.iter().find(|wanted| wanted.filters == filters && bound(wanted)).cloned();
        match found {
            Some(found) => self.wanted = [found].into(),
            None => {
                let (known, bindings) =
                    (filters.keys().cloned().collect::<Vec<_>>(), core.state.bindings().clone());
                let wanted = self.wanted.clone();
                self.machine.borrow_mut().violated(|| {
                    format!("a new daemon knows neither the old nor the new: filters {known:?}, bindings {:?}, of {wanted:#?}", bindings.keys().collect::<Vec<_>>())
                });
            }
        }
    }

    /// Asks for something that leads from each wanted to another.
    fn ask(&mut self, request: &Request, change: impl Fn(&mut Wanted)) {
        let before = self.wanted.clone();
        let after: BTreeSet<Wanted> = before
            .iter()
            .cloned()
            .map(|mut wanted| {
                change(&mut wanted);
                wanted
            })
            .collect();
        self.wanted.extend(after.iter().cloned());
        self.meanwhile.extend(after.iter().cloned());
        let answer = self.work(async |core| core.request(request, Uuid::nil()).await);
        match answer {
            Some(Ok(_)) => self.wanted = after,
            Some(Err(_)) => {
                self.wanted = before;
                self.uncertain.extend(after);
            }
            None => {}
        }
    }

    fn happen(&mut self, what: &What) {
        match what {
            What::Define { filter, version } => {
                let text = filter_text(*filter, *version);
                let request = Request::DefineFilter { xml: text.clone(), flags: 0 };
                self.ask(&request, |wanted| drop(wanted.filters.insert(filter_name(*filter), text.clone())));
            }
            What::Undefine { filter } => {
                let uuid = Uuid::from_u128(u128::from(*filter) + 1);
                self.ask(&Request::UndefineFilter { uuid }, |wanted| {
                    drop(wanted.filters.remove(&filter_name(*filter)))
                });
            }
            What::Bind { port, filter } => {
                let port = port_name(*port);
                let text = binding_text(&port, *filter);
                let request = Request::CreateBinding { xml: text.clone(), flags: 0 };
                self.ask(&request, |wanted| drop(wanted.bindings.insert(port.clone(), text.clone())));
            }
            What::Unbind { port } => {
                let portdev = port_name(*port);
                self.ask(&Request::DeleteBinding { portdev: portdev.clone() }, |wanted| {
                    drop(wanted.bindings.remove(&portdev))
                });
            }
            What::Hear => self.hear(),
            What::Wait { seconds } => self.wait(*seconds),
            What::Reload => drop(self.work(async |core| core.reload().await)),
            What::Restart { fold_up_to } => {
                self.config.fold_up_to = usize::from(*fold_up_to) * 32;
                self.end();
                self.meanwhile_links_change();
                self.start();
            }
            What::Reboot => self.reboot(),
            other => self.befall(other),
        }
    }

    /// No daemon runs, and the host goes on.
    fn meanwhile_links_change(&mut self) {
        let mut rng = self.machine.borrow_mut().rng.fork();
        for _ in 0..rng.u8(..4) {
            let (port, to, bridged) = (rng.u8(..PORTS), rng.u8(..PORTS), rng.bool());
            self.befall(&match rng.u8(..5) {
                0 => What::Vanish { port },
                1 => What::Move { port },
                2 => What::Rename { from: port, to },
                _ => What::Appear { port, bridged },
            });
        }
    }

    /// What happens to the machine, not to the daemon.
    fn befall(&mut self, what: &What) {
        let mut machine = self.machine.borrow_mut();
        match what {
            What::Appear { port, bridged } => {
                let name = port_name(*port);
                if machine.named(&name).is_none() {
                    machine.add_link(&name, bridged.then_some(1));
                    let index = machine.named(&name).map(|link| link.index).unwrap_or_default();
                    drop(machine);
                    self.names.entry(index).or_default().insert(name);
                }
            }
            What::Vanish { port } => {
                let index = machine.named(&port_name(*port)).map(|link| link.index);
                index.into_iter().for_each(|index| machine.remove_link(index));
            }
            What::Rename { from, to } => {
                let index = machine.named(&port_name(*from)).map(|link| link.index);
                if let Some(index) = index.filter(|_| machine.named(&port_name(*to)).is_none()) {
                    machine.change_link(index, |link| link.name = port_name(*to));
                    drop(machine);
                    self.names.entry(index).or_default().insert(port_name(*to));
                }
            }
            What::Move { port } => {
                let index = machine.named(&port_name(*port)).map(|link| link.index);
                index.into_iter().for_each(|index| {
                    machine.change_link(index, |link| {
                        link.master = if link.master.is_some() { None } else { Some(1) }
                    });
                });
            }
            What::Meddle if machine.meddle() => {
                // What packets under way lose by that is no fault of the daemon.
                machine.tables.forget_under_way();
                machine.count("rules changed by another program");
                drop(machine);
                self.meddled = true;
            }
            What::RefuseSoon { batches, error } => {
                let (numbers, error) = (refusal_numbers(), usize::from(*error));
                let (errno, times) = (numbers[error % numbers.len()], 1 + error as u32 % 3);
                machine.faults.refusal = Some(Refusing { after: u32::from(*batches), times, errno });
            }
            What::CrashSoon { boundaries } => machine.faults.crash = Some(u32::from(*boundaries)),
            What::BreakDisk { how } => {
                let faults = [DiskFault::Full, DiskFault::ReadOnly, DiskFault::Unsynced];
                machine.faults.disk = Some(faults[usize::from(*how) % faults.len()]);
            }
            What::MendDisk => machine.faults.disk = None,
            _ => {}
        }
    }

    /// Whether the kernel is known to hold other rules than those of the state.
    fn is_diverged(&self) -> bool {
        self.core.as_ref().is_some_and(|core| core.kernel_state == KernelState::Diverged)
    }

    pub(super) fn hear(&mut self) {
        if self.meddled {
            self.work(async |core| core.on_foreign_change("another program").await);
            self.meddled = self.is_diverged();
        }
        let events: Vec<_> = self.machine.borrow_mut().events.drain(..).collect();
        self.work(async |core| core.follow(events).await);
        self.machine.borrow_mut().reused.clear();
        self.names.clear();
        for link in self.machine.borrow().links.values() {
            let names = self.names.entry(link.index).or_default();
            names.insert(link.name.clone());
            // A link that was renamed keeps the rules of the name that it was bound under.
            let members = self.core.as_ref().map(|core| core.state.firewall().members());
            names.extend(members.and_then(|members| Some(members.get(&link.index)?.name.clone())));
        }
    }

    pub(super) fn wait(&mut self, seconds: u64) {
        self.runtime.block_on(tokio::time::advance(Duration::from_secs(seconds)));
        self.work(async |core| {
            if core.due().is_some_and(|due| due <= tokio::time::Instant::now()) {
                core.expire().await;
            }
            if core.cleanup_due.is_some_and(|due| due <= tokio::time::Instant::now()) {
                core.cleanup_due = None;
                core.settle().await;
            }
        });
    }

    /// The kernel forgets all, and with it what lies in memory.
    fn reboot(&mut self) {
        self.leave();
        let mut machine = self.machine.borrow_mut();
        machine.count("a loss of power");
        let mut rng = fastrand::Rng::with_seed(machine.rng.u64(..));
        machine.disk.after_crash(&mut rng, true);
        machine.disk.forget(&self.config.runtime_dir.join(BINDINGS));
        machine.forget_all();
        machine.faults.crash = None;
        drop(machine);
        self.names.clear();
        self.wanted = std::mem::take(&mut self.wanted)
            .into_iter()
            .map(|mut wanted| {
                wanted.bindings.clear();
                wanted
            })
            .collect();
        self.start();
    }
}

impl Machine {
    /// Another program takes away the rules of some chain, where no owner keeps it off. Whether it did.
    fn meddle(&mut self) -> bool {
        let open: Vec<Family> =
            self.tables.now.tables.keys().copied().filter(|family| self.tables.is_open(*family)).collect();
        let Some(family) = self.rng.choice(&open).copied() else { return false };
        let Some(table) = self.tables.now.tables.get_mut(&family) else { return false };
        let names: Vec<_> = table.chains.keys().cloned().collect();
        let Some(name) = self.rng.choice(&names) else { return false };
        let Some(chain) = table.chains.get_mut(name) else { return false };
        let before = chain.rules.len();
        match self.rng.bool() {
            true => drop(std::sync::Arc::make_mut(chain).rules.pop()),
            false => std::sync::Arc::make_mut(chain).rules.clear(),
        }
        before > 0
    }

    pub(super) fn set_up_again(&mut self) {
        self.links.values_mut().for_each(|link| link.up = true);
    }

    fn forget_all(&mut self) {
        self.tables = Default::default();
        self.events.clear();
        self.links.retain(|index, _| *index == 1);
    }
}
