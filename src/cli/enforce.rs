//! `apply`, `plan` and `remove`: one interface, its program, and the kernel.
//!
//! The program is always folded: nobody is there to look after a shared one. What is bound already is read from the
//! kernel, so that several runs see each other; a status file tells a daemon that is started later. Where the daemon
//! runs, it is asked.

use super::print::with_faults_of;
use super::status::asked;
use super::{BindArgs, Failure, Outcome, note, print};
use crate::apply::Kernel;
use crate::binding::{self, Binding};
use crate::compile::{Options, compile};
use crate::ir::{Family, Ruleset, Table};
use crate::layout::{self, Entrance};
use crate::links;
use crate::nft::Ownership;
use crate::plan::plan as difference;
use crate::program::Program;
use crate::recall::recall;
use crate::resolve::{Mode, resolve};
use crate::span::{Source, Span};
use crate::store::{BINDINGS, Fault, LOCK, Lock, Store};
use crate::vars::Vars;
use uuid::Uuid;

/// Binds an interface.
pub(super) fn apply(arguments: &BindArgs) -> Outcome {
    let binding = binding::write(&as_binding(arguments));
    if asked(&arguments.dev, |daemon| daemon.apply(&binding))?.is_some() {
        return Ok(());
    }
    let kernel = open()?;
    let (old, new) = change(&kernel, arguments)?;
    let records = Records::open()?;
    commit(&kernel, &old, &new)?;
    let recorded = records.bindings.save(&arguments.dev, &binding::write_status(&as_binding(arguments)));
    recorded.or_else(|fault| {
        commit(&kernel, &new, &old)?;
        Err(Failure::host(&"not bound", &fault))
    })
}

/// Prints what `apply` would do.
pub(super) fn plan(arguments: &BindArgs) -> Outcome {
    let kernel = open()?;
    let (old, new) = change(&kernel, arguments)?;
    print(&difference(&old, &new).to_string());
    Ok(())
}

/// Unbinds an interface.
pub(super) fn remove(dev: Option<&str>, index: Option<u32>) -> Outcome {
    if let Some(dev) = dev
        && asked(&dev, |daemon| daemon.remove(dev))?.is_some()
    {
        return Ok(());
    }
    let kernel = open()?;
    let index = match (index, dev) {
        (Some(index), _) => index,
        (None, dev) => link(dev.unwrap_or_default())?,
    };
    let (old, mut table) = bridge(&kernel, &Ruleset::default())?;
    if layout::entrance(&table, index).is_none() {
        return Err(Failure::Host(format!(
            "{}: not bound",
            dev.map_or(format!("index {index}"), str::to_owned)
        )));
    }
    layout::leave(&mut table, index);
    dev.iter().for_each(|dev| layout::unreserve(&mut table, dev));
    layout::sweep(&mut table);
    let records = Records::open()?;
    commit(&kernel, &old, &ruleset(table))?;
    let forgotten = dev.map_or(Ok(false), |dev| records.bindings.delete(dev));
    forgotten.map(drop).map_err(|fault| Failure::host(&"unbound, but a later daemon will bind it", &fault))
}

fn open() -> Result<Kernel, Failure> {
    Kernel::open(Ownership::OwnedAndKept).map_err(|error| Failure::host(&"netfilter", &error))
}

/// The status files of bindings, while no daemon has them.
struct Records {
    _lock: Lock,
    bindings: Store,
}

impl Records {
    fn open() -> Result<Records, Failure> {
        let runtime = super::status::runtime();
        let fault = |fault: Fault| Failure::host(&"status files", &fault);
        std::fs::create_dir_all(&runtime).map_err(|error| Failure::host(&runtime.display(), &error))?;
        let _lock = Lock::take(&runtime.join(LOCK)).map_err(fault)?;
        Ok(Records { _lock, bindings: Store::open(&runtime.join(BINDINGS)).map_err(fault)? })
    }
}

/// The rule sets before and after.
fn change(kernel: &Kernel, arguments: &BindArgs) -> Result<(Ruleset, Ruleset), Failure> {
    let program = program(kernel, arguments)?;
    let index = link(&arguments.dev)?;
    // Known, so that the program is recognised if it is there already.
    let mut known = layout::skeleton();
    layout::settle(&mut known, &program);
    let (old, mut table) = bridge(kernel, &ruleset(known))?;
    let prefix = layout::settle(&mut table, &program);
    layout::enter(&mut table, index, &Entrance::Private(prefix));
    layout::reserve(&mut table, &arguments.dev);
    layout::sweep(&mut table);
    Ok((old, ruleset(table)))
}

fn program(kernel: &Kernel, arguments: &BindArgs) -> Result<Program, Failure> {
    let library = arguments.filter.library()?;
    let lookup = |name: &str| library.get(name);
    let options = Options { features: kernel.features().into(), counters: arguments.counters };
    let resolved = resolve(&lookup, &arguments.filter.filter, &vars(arguments), Mode::Fold);
    let program = resolved.and_then(|resolved| compile(&resolved, &options));
    program.map_err(|faults| with_faults_of(library.faults, faults))
}

/// The variables of the binding, with the guest's MAC address among them.
fn vars(arguments: &BindArgs) -> Vars {
    let mut vars = arguments.filter.vars();
    if vars.values("MAC").is_none() {
        vars.push("MAC", arguments.mac.to_string());
    }
    vars
}

fn as_binding(arguments: &BindArgs) -> Binding {
    Binding {
        owner_name: arguments.dev.clone(),
        owner_uuid: Uuid::nil(),
        portdev: arguments.dev.clone(),
        linkdev: None,
        mac: arguments.mac,
        filter: arguments.filter.filter.clone(),
        params: vars(arguments),
        filter_span: Span::default(),
        source: Source::new("command line", ""),
    }
}

fn link(dev: &str) -> Result<u32, Failure> {
    let found = links::by_name(dev).map_err(|error| Failure::host(&dev, &error))?;
    found.map(|link| link.index).ok_or_else(|| Failure::Host(format!("{dev}: no such interface")))
}

/// What is in force, in terms of what is known, and our table of it to work on.
fn bridge(kernel: &Kernel, known: &Ruleset) -> Result<(Ruleset, Table), Failure> {
    let observed = kernel.observe().map_err(|error| Failure::host(&"netfilter", &error))?;
    let old = recall(&observed, known);
    let table = old.tables.get(&Family::Bridge).cloned().unwrap_or_else(layout::skeleton);
    Ok((old, table))
}

/// Puts the difference in force; litter is worth a word.
fn commit(kernel: &Kernel, old: &Ruleset, new: &Ruleset) -> Outcome {
    let applied = kernel.apply(difference(old, new)).map_err(|refused| Failure::Host(refused.to_string()))?;
    applied.litter.iter().for_each(|refusal| note(&refusal.to_string()));
    Ok(())
}

fn ruleset(table: Table) -> Ruleset {
    Ruleset { tables: [(Family::Bridge, table)].into() }
}
