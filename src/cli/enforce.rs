//! `apply`, `plan` and `remove`: one interface, its program, and the kernel.
//!
//! The program is always folded: nobody is there to look after a shared one. What is bound already is read from the
//! kernel, so that several runs see each other; a status file tells a daemon that is started later. Where the daemon
//! runs, it is asked.

use super::print::{complete, with_faults_of};
use super::status::asked;
use super::{BindArgs, Failure, Outcome, note, params, print, show};
use crate::apply::{self, Kernel};
use crate::audit;
use crate::binding::{self, Binding};
use crate::compile::{Features, Hooks, Options, Programs, compile_at};
use crate::diag::{Diagnostic, refuses};
use crate::ir::{Family, Ruleset, Table};
use crate::layout::{self, Entrance};
use crate::library::Library;
use crate::links;
use crate::nft::Ownership;
use crate::place;
use crate::plan::plan as difference;
use crate::recall::recall;
use crate::resolve::given::{self, Given, Unread};
use crate::resolve::{self, Mode, resolve};
use crate::rpc::client::Client;
use crate::span::{Source, Span};
use crate::store::{BINDINGS, Fault, LOCK, Lock, Store};
use crate::vars::Vars;
use std::collections::BTreeMap;
use uuid::Uuid;

/// Binds an interface.
pub(super) fn apply(arguments: &BindArgs) -> Outcome {
    params::check(&arguments.filter.params)?;
    let binding = binding::write(&as_binding(arguments));
    if arguments.lenient && asked(&arguments.dev, Client::status)?.is_some() {
        let why = "nwfilterd runs, and binds no interface to a filter that would mean more than it says";
        return Err(Failure::Host(format!("--lenient: {why}")));
    }
    if asked(&arguments.dev, |daemon| daemon.apply(&binding))?.is_some() {
        return Ok(());
    }
    let kernel = open()?;
    let (old, new) = change(&kernel, arguments)?;
    notices(&kernel, arguments)?;
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
    params::check(&arguments.filter.params)?;
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
        (None, dev) => link(dev.unwrap_or_default())?.0,
    };
    let (old, mut tables) = tables(&kernel, &Ruleset::default())?;
    if tables.all().iter().all(|table| layout::entrance(table, index).is_none()) {
        return Err(Failure::Host(format!(
            "{}: not bound",
            dev.map_or(format!("index {index}"), str::to_owned)
        )));
    }
    for table in tables.all() {
        layout::leave(table, index);
        layout::sweep(table);
    }
    if let Some(dev) = dev {
        layout::unreserve(&mut tables.bridge, dev);
        layout::unreserve(&mut tables.packets, dev);
        layout::unhook(&mut tables.netdev, dev);
    }
    let records = Records::open()?;
    commit(&kernel, &old, &tables.ruleset())?;
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
    let (index, hooks) = link(&arguments.dev)?;
    let programs = programs(kernel, arguments, hooks)?;
    // Known, so that programs are recognised that are there already.
    let mut known = Tables::new(kernel);
    known.seat(index, hooks, &programs);
    layout::hook(&mut known.netdev, &arguments.dev, false);
    let (old, mut tables) = tables(kernel, &known.ruleset())?;
    tables.seat(index, hooks, &programs);
    layout::reserve(&mut tables.bridge, &arguments.dev);
    layout::reserve(&mut tables.packets, &arguments.dev);
    match hooks {
        Hooks::Bridge => layout::unhook(&mut tables.netdev, &arguments.dev),
        _ => layout::hook(&mut tables.netdev, &arguments.dev, false),
    }
    tables.all().into_iter().for_each(layout::sweep);
    Ok((old, tables.ruleset()))
}

fn programs(kernel: &Kernel, arguments: &BindArgs, hooks: Hooks) -> Result<Programs, Failure> {
    let library = library(arguments)?;
    let lookup = |name: &str| library.get(name);
    check(&lookup, arguments)?;
    complete(&library, &arguments.filter.filter, &vars(arguments))?;
    let options = Options { features: kernel.features().into(), counters: arguments.counters };
    let resolved = resolve(&lookup, &arguments.filter.filter, &vars(arguments), Mode::Fold);
    let programs = resolved.and_then(|resolved| compile_at(&resolved, &options, hooks));
    let programs = programs.map_err(|faults| with_faults_of(library.faults, faults))?;
    Ok(programs.tallied(hooks))
}

/// The filters, with or without what no rule would enforce.
fn library(arguments: &BindArgs) -> Result<Library, Failure> {
    let mut library = arguments.filter.library()?;
    if arguments.lenient {
        library.tolerate();
    }
    Ok(library)
}

/// Refuses parameters that come to nothing.
fn check(library: resolve::Library<'_>, arguments: &BindArgs) -> Outcome {
    let unread = given::unread(library, &arguments.filter.filter, &Given::of_vars(vars(arguments)));
    let faults: Vec<Diagnostic> = unread.into_iter().map(Unread::strictly).collect();
    match refuses(&faults) && !arguments.lenient {
        true => Err(Failure::Faults(faults)),
        false => {
            show(&faults.into_iter().map(Diagnostic::tolerated).collect::<Vec<_>>());
            Ok(())
        }
    }
}

/// Says what is peculiar about the filter in this kernel.
fn notices(kernel: &Kernel, arguments: &BindArgs) -> Outcome {
    let library = library(arguments)?;
    let options = Options { features: kernel.features().into(), counters: arguments.counters };
    show(&audit::notices(&|name| library.get(name), &arguments.filter.filter, &options));
    Ok(())
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
        spans: BTreeMap::new(),
        dropped: Vec::new(),
        filter_span: Span::default(),
        source: Source::new("command line", ""),
    }
}

fn no_interface(dev: &str) -> String {
    match links::named_otherwise(dev) {
        Some(own) => format!("{dev}: another name of interface {own}: name {own}"),
        None => format!("{dev}: no such interface"),
    }
}

/// The index of an interface, and where its frames are seen.
fn link(dev: &str) -> Result<(u32, Hooks), Failure> {
    let links = links::snapshot().map_err(|error| Failure::host(&dev, &error))?;
    let found = links.iter().find(|link| link.name == dev);
    let link = found.ok_or_else(|| Failure::Host(no_interface(dev)))?;
    let master = links.iter().find(|other| Some(other.index) == link.master);
    Ok((link.index, place::of(link, master, false).hooks()))
}

/// Our tables, to work on.
struct Tables {
    bridge: Table,
    netdev: Table,
    packets: Table,
    /// Whether the kernel has rules for packets.
    seen: bool,
}

impl Tables {
    fn new(kernel: &Kernel) -> Tables {
        let seen = Features::from(kernel.features()).packets.seen;
        let (bridge, netdev) = (layout::skeleton(), layout::device_skeleton());
        Tables { bridge, netdev, packets: layout::packet_skeleton(), seen }
    }

    fn all(&mut self) -> [&mut Table; 3] {
        [&mut self.bridge, &mut self.netdev, &mut self.packets]
    }

    fn of(&mut self, family: Family) -> &mut Table {
        match family {
            Family::Bridge => &mut self.bridge,
            Family::Netdev => &mut self.netdev,
            Family::Inet => &mut self.packets,
        }
    }

    /// Lets an interface's frames in to these programs alone.
    fn seat(&mut self, index: u32, hooks: Hooks, Programs { frames, packets }: &Programs) {
        self.all().into_iter().for_each(|table| layout::leave(table, index));
        layout::keep_out(&mut self.packets, index, hooks != Hooks::Bridge);
        layout::keep_out(&mut self.bridge, index, false);
        for (hooks, program) in [(hooks, Some(frames)), (Hooks::Packets, packets.as_ref())] {
            let Some(program) = program else { continue };
            let prefix = layout::settle(self.of(hooks.family()), program);
            let turned = hooks == Hooks::Macvtap;
            let entrance = if turned { Entrance::Turned(prefix) } else { Entrance::Private(prefix) };
            layout::enter(self.of(hooks.family()), index, &entrance);
        }
    }

    fn ruleset(self) -> Ruleset {
        let tables = [
            (true, Family::Bridge, self.bridge),
            (self.seen && layout::is_waited_for(&self.packets), Family::Inet, self.packets),
            (!layout::hooked(&self.netdev).is_empty(), Family::Netdev, self.netdev),
        ];
        let needed = tables.into_iter().filter(|(needed, ..)| *needed);
        Ruleset { tables: needed.map(|(_, family, table)| (family, table)).collect() }
    }
}

/// What is in force, in terms of what is known, and our tables of it to work on.
fn tables(kernel: &Kernel, known: &Ruleset) -> Result<(Ruleset, Tables), Failure> {
    let observed = kernel.observe().map_err(|error| Failure::host(&"netfilter", &error))?;
    let old = recall(&observed, known);
    let mut tables = Tables::new(kernel);
    for (family, table) in &old.tables {
        *tables.of(*family) = table.clone();
        layout::with_counts(tables.of(*family));
    }
    Ok((old, tables))
}

/// Puts the difference in force. Litter is worth a word; where somebody moves, it is what lets him in.
fn commit(kernel: &Kernel, old: &Ruleset, new: &Ruleset) -> Outcome {
    let change = difference(old, new);
    let moves = change.moves();
    let applied = kernel.apply(change).map_err(|refused| Failure::Host(refused.to_string()))?;
    applied.litter.iter().for_each(|refusal| note(&refusal.to_string()));
    if !moves || applied.litter.is_empty() || (0..apply::TRIES).any(|_| finish(kernel, new)) {
        return Ok(());
    }
    Err(Failure::Host(
        "the kernel refuses the last step: whom it lets in is shut, or under his old rules".into(),
    ))
}

/// Goes on from what is there.
fn finish(kernel: &Kernel, new: &Ruleset) -> bool {
    let Ok(seen) = kernel.observe() else { return false };
    kernel.apply(difference(&recall(&seen, new), new)).is_ok_and(|applied| applied.litter.is_empty())
}
