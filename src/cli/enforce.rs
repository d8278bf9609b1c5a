//! `apply`, `plan` and `remove`: one interface, its program, and the kernel.
//!
//! The program is always folded: no process is left to look after a shared one. What is bound already is read from the
//! kernel, so that several runs see each other; a status file tells a daemon that is started later. Where the daemon
//! runs, it is asked.

use super::print::{complete, with_faults_of};
use super::status::asked;
use super::{BindArgs, Failure, Outcome, guard, note, params, print, show};
use crate::document::binding::{self, Binding};
use crate::document::catalog::Library;
use crate::document::diag::{Diagnostic, refuses};
use crate::document::span::{Source, Span};
use crate::document::vars::Vars;
use crate::kernel::apply::{self, Kernel};
use crate::kernel::checksum::TcxHook;
use crate::kernel::links;
use crate::program::compile::{AttachPoint, Options, Programs, compile_at, compile_guarded};
use crate::program::ir::observed::Observed;
use crate::program::ir::{Ruleset, TABLE};
use crate::program::resolve::given::{self, Given, Unread};
use crate::program::resolve::{self, Mode, resolve};
use crate::report::audit;
use crate::report::explain::Bound;
use crate::report::status::Interface;
use crate::ruleset::attach;
use crate::ruleset::firewall::{Attachment, HookLifetime, Placement, Tables};
use crate::ruleset::from_kernel::recall;
use crate::ruleset::ipset;
use crate::ruleset::layout;
use crate::ruleset::nft::Ownership;
use crate::ruleset::plan::{Plan, plan as difference};
use crate::service::rpc::client::Client;
use crate::service::store::{BINDINGS, Fault, LOCK, Lock, Store};
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// Binds an interface.
pub(super) fn apply(arguments: &BindArgs) -> Outcome {
    params::check(&arguments.filter.params)?;
    let binding = binding::write(&as_binding(arguments));
    refuse_what_the_daemon_decides(arguments)?;
    let dev = arguments.dev.as_str();
    // What is in force then is asked for only to be printed.
    let bound = |daemon: &mut Client| daemon.apply(&binding).map(|()| daemon.bound(dev).ok());
    match asked(&dev, bound)? {
        Some(bound) => print(&outcome(arguments, bound.as_deref())),
        None => {
            apply_here(arguments)?;
            print(&format!("{dev}: filtered by {}\n", arguments.filter.filter));
        }
    }
    Ok(())
}

/// What a binding came to, by what the daemon says of it.
fn outcome(arguments: &BindArgs, bound: Option<&str>) -> String {
    let (dev, filter) = (&arguments.dev, &arguments.filter.filter);
    let Some(bound) = bound.and_then(|json| serde_json::from_str::<Bound>(json).ok()) else {
        return format!("{dev} is not there; the binding to {filter} waits for it\n");
    };
    match (bound.closed, bound.filter) {
        (Some(why), _) => format!("{dev}: blocked, nothing passes: {why}\n"),
        (None, Some(followed)) if followed != *filter => {
            format!(
                "{dev}: bound to {filter}; its address is learned first ({followed} is in force until then)\n"
            )
        }
        _ => format!("{dev}: filtered by {filter}\n"),
    }
}

fn apply_here(arguments: &BindArgs) -> Outcome {
    let records = Records::open()?;
    let kernel = open()?;
    let (old, new) = change(&kernel, arguments)?;
    notices(&kernel, arguments)?;
    let (index, place) = link(&arguments.dev)?;
    let is_newly_guarded = guard::attach(&arguments.dev, index, TcxHook::of(place.orientation()))?;
    commit_with_record(arguments, &records, &kernel, (&old, &new)).map_err(|failure| match is_newly_guarded {
        true => failure.undone(guard::detach(index)),
        false => failure,
    })
}

fn commit_with_record(
    arguments: &BindArgs,
    records: &Records,
    kernel: &Kernel,
    (old, new): (&Ruleset, &Ruleset),
) -> Outcome {
    let status = binding::write_status(&as_binding(arguments));
    match records.of(&arguments.dev)? {
        // What may open is durable before it is in force.
        Some(before) => {
            records.save(&arguments.dev, &status)?;
            commit(kernel, old, new).map_err(|failure| failure.undone(records.save(&arguments.dev, &before)))
        }
        // What was not filtered is, before anything says so.
        None => {
            commit(kernel, old, new)?;
            let saved = records.save(&arguments.dev, &status);
            saved.map_err(|failure| failure.undone(commit(kernel, new, old)))
        }
    }
}

/// Prints what `apply` would do: the daemon says it where it runs.
pub(super) fn plan(arguments: &BindArgs) -> Outcome {
    params::check(&arguments.filter.params)?;
    let binding = binding::write(&as_binding(arguments));
    refuse_what_the_daemon_decides(arguments)?;
    if let Some(text) = asked(&arguments.dev, |daemon| daemon.plan(&binding))? {
        print(&text);
        return Ok(());
    }
    let kernel = open()?;
    let (old, new) = change(&kernel, arguments)?;
    print(&difference(&old, &new).to_string());
    Ok(())
}

/// Some options are for a host without the daemon.
fn refuse_what_the_daemon_decides(arguments: &BindArgs) -> Outcome {
    const OPTIONS: [(&str, &str); 3] = [
        ("--lenient", "nwfilterd runs, and binds no interface to a filter that would mean more than it says"),
        (
            "--counters",
            "nwfilterd runs and decides for all interfaces whether rules count: write 'counters = true' to its \
             configuration and restart it, or leave the option out",
        ),
        (
            "--host-to-guest",
            "nwfilterd runs and decides for all interfaces what becomes of the host's own packets: write host_to_guest to its \
             configuration and restart it, or leave the option out",
        ),
    ];
    let given = [arguments.lenient, arguments.counters, arguments.host_to_guest.is_some()];
    let given = OPTIONS.iter().zip(given);
    let given: Vec<_> = given.filter(|(_, given)| *given).map(|(option, _)| option).collect();
    match given.first() {
        Some((option, why)) if asked(&arguments.dev, Client::status)?.is_some() => {
            Err(Failure::Host(format!("{option}: {why}")))
        }
        _ => Ok(()),
    }
}

/// An interface that is bound.
enum Target {
    Name(String),
    /// One that is gone, or whose name is not known.
    Index(u32),
}

/// Unbinds these interfaces, or the one of an index, or all, each for itself.
pub(super) fn remove_all(devs: &[String], index: Option<u32>, all: bool) -> Outcome {
    let named = devs.iter().cloned().map(Target::Name);
    let targets: Vec<Target> = if all { bound()? } else { named.chain(index.map(Target::Index)).collect() };
    let mut reasons = Vec::new();
    for target in targets {
        let (removed, what) = match target {
            Target::Name(dev) => (remove(Some(&dev), None), dev),
            Target::Index(index) => (remove(None, Some(index)), format!("index {index}")),
        };
        match removed {
            Ok(()) => print(&format!("{what}: no longer filtered\n")),
            Err(Failure::Host(reason)) => reasons.push(reason),
            Err(failure) => return Err(failure),
        }
    }
    if reasons.is_empty() { Ok(()) } else { Err(Failure::Host(reasons.join("\nerror: "))) }
}

fn bound() -> Result<Vec<Target>, Failure> {
    let target = |interface: Interface| match (interface.name, interface.index) {
        (Some(name), _) => Some(Target::Name(name)),
        (None, index) => index.map(Target::Index),
    };
    Ok(super::status::status()?.interfaces.into_iter().filter_map(target).collect())
}

/// Unbinds an interface.
fn remove(dev: Option<&str>, index: Option<u32>) -> Outcome {
    if let Some(dev) = dev
        && asked(&dev, |daemon| daemon.remove(dev))?.is_some()
    {
        return Ok(());
    }
    let records = Records::open()?;
    let kernel = open()?;
    let index = match (index, dev) {
        (Some(index), _) => index,
        (None, dev) => link(dev.unwrap_or_default())?.0,
    };
    let (old, mut tables) = tables(&kernel, &observe(&kernel)?, &Ruleset::default());
    if !tables.binds(index) {
        return Err(Failure::Host(format!(
            "{}: not bound",
            dev.map_or(format!("index {index}"), str::to_owned)
        )));
    }
    tables.detach(index);
    if let Some(dev) = dev {
        tables.unreserve(dev);
        tables.unhook(dev);
    }
    let bridges = bridges_of(&tables)?;
    tables.remove_unreferenced(|bridge| bridges.contains(bridge));
    let new = finished(&old, &tables)?;
    // Where no interface is bound and no set is kept, nothing of ours is needed.
    let new = if layout::is_vacant(&new) { Ruleset::default() } else { new };
    // What opens is durable before it is in force.
    let before = dev.map(|dev| records.of(dev)).transpose()?.flatten();
    dev.map_or(Ok(()), |dev| records.delete(dev))?;
    commit(&kernel, &old, &new).map_err(|failure| match dev.zip(before) {
        Some((dev, before)) => failure.undone(records.save(dev, &before)),
        None => failure,
    })?;
    guard::detach(index)
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
        std::fs::create_dir_all(&runtime).map_err(|error| Failure::host(&runtime.display(), &error))?;
        let _lock = Lock::take(&runtime.join(LOCK)).map_err(fault)?;
        Ok(Records { _lock, bindings: Store::open(&runtime.join(BINDINGS)).map_err(fault)? })
    }

    /// What is written of an interface, if it can be read.
    fn of(&self, dev: &str) -> Result<Option<String>, Failure> {
        let all = self.bindings.load().map_err(fault)?;
        Ok(all.into_iter().find(|document| document.name == dev).and_then(|document| document.text.ok()))
    }

    fn save(&self, dev: &str, status: &str) -> Outcome {
        self.bindings.save(dev, status).map_err(fault)
    }

    fn delete(&self, dev: &str) -> Outcome {
        self.bindings.delete(dev).map(drop).map_err(fault)
    }
}

fn fault(fault: Fault) -> Failure {
    Failure::host(&"status files", &fault)
}

/// The rule sets before and after.
fn change(kernel: &Kernel, arguments: &BindArgs) -> Result<(Ruleset, Ruleset), Failure> {
    let (index, place) = link(&arguments.dev)?;
    refuse_unfit(&arguments.dev)?;
    let programs = programs(kernel, arguments, place.hooks())?;
    // Known, so that programs are recognised that are there already.
    let mut known = Tables::new(&kernel.features().into());
    known.attach(index, &arguments.dev, &place, &programs);
    let observed = observe(kernel)?;
    known.know(index, place.hooks(), &programs, &recall(&observed, &Ruleset::default()));
    let (old, mut tables) = tables(kernel, &observed, &known.ruleset());
    tables.attach(index, &arguments.dev, &place, &programs);
    let mut bridges = bridges_of(&tables)?;
    let own = place.bridge().map(|bridge| bridge.name.clone());
    if programs.frames.stateful {
        bridges.extend(own);
    }
    tables.remove_unreferenced(|bridge| bridges.contains(bridge));
    let new = finished(&old, &tables)?;
    Ok((old, new))
}

/// The bridges whose ports are bound. Whether the programs of others ask for connections cannot be known, so conntrack
/// goes on to see the frames of a bridge that it sees while a port of it is bound.
fn bridges_of(tables: &Tables) -> Result<BTreeSet<String>, Failure> {
    let links = links::snapshot().map_err(|error| Failure::host(&"links", &error))?;
    let bound = tables.at_bridges();
    let masters = links.iter().filter(|link| bound.contains(&link.index)).filter_map(|link| link.master);
    let masters: BTreeSet<u32> = masters.collect();
    let bridges = links.iter().filter(|link| masters.contains(&link.index));
    Ok(bridges.map(|link| link.name.clone()).collect())
}

/// The rule set that is to be in force. A table that can only be replaced whole is, where that loses no rules of others.
fn finished(old: &Ruleset, tables: &Tables) -> Result<Ruleset, Failure> {
    let mut new = tables.ruleset();
    for (family, table) in &mut new.tables {
        if old.tables.get(family).is_some_and(|old| old.unfit) && tables.has_unknown(*family) {
            return Err(Failure::Host(format!(
                "table {family} {TABLE} was changed by another program so that it can only be replaced whole, and it holds the \
                 rules of other interfaces: nothing is done; start nwfilterd, which restores them, or run 'nft delete table {family} \
                 {TABLE}' and apply each interface again"
            )));
        }
        table.unfit = false;
    }
    Ok(new)
}

fn programs(kernel: &Kernel, arguments: &BindArgs, hooks: AttachPoint) -> Result<Programs, Failure> {
    let library = library(arguments)?;
    let lookup = |name: &str| library.get(name);
    check(&lookup, arguments)?;
    complete(&library, &arguments.filter.filter, &vars(arguments))?;
    let options = options(kernel, arguments);
    let resolved = resolve(&lookup, &arguments.filter.filter, &vars(arguments), Mode::Fold);
    let guarded = hooks == AttachPoint::Bridge && kernel.features().hook_lifetime() == HookLifetime::Lasting;
    let programs = resolved.and_then(|resolved| match guarded {
        true => compile_guarded(&resolved, &options),
        false => compile_at(&resolved, &options, hooks),
    });
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
fn check(library: resolve::FilterLookup<'_>, arguments: &BindArgs) -> Outcome {
    let unread =
        given::unread(library, &arguments.filter.filter, &Given::of_vars(vars(arguments), arguments.mac));
    let faults: Vec<Diagnostic> = unread.into_iter().map(Unread::strictly).collect();
    match refuses(&faults) && !arguments.lenient {
        true => Err(Failure::Faults(faults)),
        false => {
            show(&faults.into_iter().map(Diagnostic::tolerated).collect::<Vec<_>>());
            Ok(())
        }
    }
}

fn options(kernel: &Kernel, arguments: &BindArgs) -> Options {
    Options {
        features: kernel.features().into(),
        counters: arguments.counters,
        host_to_guest: arguments.host_to_guest.unwrap_or_default(),
    }
}

/// Says what is peculiar about the filter in this kernel.
fn notices(kernel: &Kernel, arguments: &BindArgs) -> Outcome {
    let library = library(arguments)?;
    let options = options(kernel, arguments);
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
fn link(dev: &str) -> Result<(u32, Attachment), Failure> {
    let links = links::snapshot().map_err(|error| Failure::host(&dev, &error))?;
    let found = links.iter().find(|link| link.name == dev);
    let link = found.ok_or_else(|| Failure::Host(no_interface(dev)))?;
    let master = links.iter().find(|other| Some(other.index) == link.master);
    Ok((link.index, attach::of(link, master, Placement::Bridge)))
}

/// Refuses an interface whose packets no filter judges.
fn refuse_unfit(dev: &str) -> Outcome {
    let link = links::by_name(dev).map_err(|error| Failure::host(&dev, &error))?;
    link.and_then(|link| attach::unfit(&link)).map_or(Ok(()), |fault| Err(Failure::Faults(vec![fault])))
}

fn observe(kernel: &Kernel) -> Result<Observed, Failure> {
    kernel.observe().map_err(|error| Failure::host(&"netfilter", &error))
}

/// What is in force, in terms of what is known, and our tables of it to work on.
fn tables(kernel: &Kernel, observed: &Observed, known: &Ruleset) -> (Ruleset, Tables) {
    let old = recall(observed, known);
    let tables = Tables::from_kernel(&old, &kernel.features().into());
    (old, tables)
}

/// Puts the difference in force. What could not be deleted is reported; where an interface moves, the last step is what admits it.
fn commit(kernel: &Kernel, old: &Ruleset, new: &Ruleset) -> Outcome {
    let change = difference(old, new);
    demand_ipsets(kernel, &change)?;
    let moves = change.moves();
    let applied = kernel.apply(change).map_err(|refused| Failure::Host(refused.to_string()))?;
    applied.retire_failures.iter().for_each(|refusal| note(&refusal.to_string()));
    if !moves || applied.retire_failures.is_empty() || (0..apply::TRIES).any(|_| finish(kernel, new)) {
        return Ok(());
    }
    Err(Failure::Host(
        "the kernel refused the last step; the interface is blocked or keeps its old rules until the next apply".into(),
    ))
}

/// Refuses a change that would make a set which a filter names and which does not exist.
fn demand_ipsets(kernel: &Kernel, change: &Plan) -> Outcome {
    if !ipset::makes_any(change) {
        return Ok(());
    }
    let unmade = ipset::unmade(change, &observe(kernel)?, apply::has_ipset);
    apply::Refused::of(unmade).map_err(|refused| Failure::Host(refused.to_string()))
}

/// Goes on from what is there.
fn finish(kernel: &Kernel, new: &Ruleset) -> bool {
    let Ok(seen) = kernel.observe() else { return false };
    kernel.apply(difference(&recall(&seen, new), new)).is_ok_and(|applied| applied.retire_failures.is_empty())
}
