//! What the daemon finds and makes before it serves: directories, documents, sockets, confinement.

use super::Failure;
use super::core::Documents;
use super::filters::Filters;
use super::transaction::chain;
use crate::document::binding::{self, Binding};
use crate::document::filter::Filter;
use crate::document::span::Source;
use crate::document::standard::PACKAGED;
use crate::engine::{self, documents};
use crate::guest::learning;
use crate::guest::lease;
use crate::guest::lease::file::Book;
use crate::kernel::watch::Watch;
use crate::ruleset::firewall::Firewall;
use crate::service::config::Config;
use crate::service::confine::{Bounds, KEPT, confine as give_up};
use crate::service::metrics_server;
use crate::service::rpc::listen::Permissions;
use crate::service::rpc::session::Keepalive;
use crate::service::rpc::{Limits, Listeners};
use crate::service::store::files::Disk;
use crate::service::store::journal::{self, Journal};
use crate::service::store::{BINDINGS, Document, Fault, LOCK, Lock, Store, overwrite, put_aside};
use crate::service::systemd;
use caps::CapSet;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, SystemTime};
use tokio::io::unix::AsyncFdReadyMutGuard;
use tracing::{error, warn};

/// Below the directory of what survives.
const ADDRESSES: &str = "addresses";
/// Unreadable lines that are logged one by one.
const SKIPPED: usize = 5;
/// Where libvirt's own driver keeps leases, below its runtime directory.
const LIBVIRT_LEASES: &str = "network/nwfilter.leases";

/// The right to be the only daemon of these directories.
pub fn lock(config: &Config) -> Result<Lock, Failure> {
    let system = |error| Failure::System("cannot make the runtime directory", error);
    std::fs::create_dir_all(&config.runtime_dir).map_err(system)?;
    let path = config.runtime_dir.join(LOCK);
    Lock::take(&path).map_err(|fault| match fault {
        Fault::NotAFile(_) => Failure::Config(format!(
            "{}: not a regular file, so no daemon can lock it; rules in force stay; delete it and start nwfilterd again",
            path.display()
        )),
        fault => fault.into(),
    })
}

/// As many open files as the system lets us have: each guest that learns needs one.
pub fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        warn!(reason = %error, "the number of open files stays limited: fewer clients and guests can be served; raise LimitNOFILE of the unit");
    }
}

/// How many open files there may be.
fn open_files() -> usize {
    getrlimit(Resource::Nofile)
        .current
        .map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX))
}

/// How many guests can be listened to at once, so that there are descriptors left for documents and clients.
pub fn most_ears() -> usize {
    (open_files() / 2).saturating_sub(16).max(1)
}

/// Tells others our process number in a file.
pub fn write_process_number(path: &Path) -> Result<(), Failure> {
    let text = format!("{}\n", std::process::id());
    Ok(overwrite(path, &text)?)
}

/// What is on the disk.
pub(super) fn documents(config: &Config, disk: Rc<dyn Disk>) -> Result<Documents, Failure> {
    Ok(Documents {
        filters: Filters::open(config, &*disk)?,
        bindings: Store::open_on(&*disk, &config.runtime_dir.join(BINDINGS))?,
        learned: addresses(config, disk, time()),
    })
}

/// Now, since the Unix epoch. A clock that is set before it counts from there.
pub fn time() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

/// What was learned before.
pub struct Learned {
    /// Where to write what will be.
    pub journal: Journal,
    /// What is known.
    pub book: Book,
    /// Whether the journal says just that.
    pub stands: bool,
}

/// What was learned before, and where to write what will be. Where nothing ever was, leases of libvirt's own driver count. What
/// cannot be read or written leaves no guest unfiltered: guests whose addresses are lost wait for them.
fn addresses(config: &Config, disk: Rc<dyn Disk>, now: Duration) -> Learned {
    let (journal, mut text) = journal(&disk, &config.state_dir.join(ADDRESSES));
    let foreign = text.is_empty();
    if foreign {
        text = disk.text(&config.runtime_dir.join(LIBVIRT_LEASES), journal::LIMIT);
    }
    let (book, skipped) = lease::file::read(&text, now, learning::MOST);
    skipped.iter().take(SKIPPED).for_each(|skipped| warn!(file = ADDRESSES, "{skipped}"));
    if skipped.len() > SKIPPED {
        warn!(file = ADDRESSES, "and {} lines more were skipped", skipped.len() - SKIPPED);
    }
    let stands = skipped.is_empty() && (!foreign || text.is_empty());
    Learned { journal, book, stands }
}

/// The journal. What lies in its place and is no file is put aside.
fn journal(disk: &Rc<dyn Disk>, path: &Path) -> (Journal, String) {
    let open = || Journal::open_on(disk.clone(), path);
    let opened = open().or_else(|fault| match fault {
        Fault::NotAFile(_) => {
            let aside = put_aside(path)?;
            error!(file = %path.display(), aside = %aside.display(), "no regular file, and put aside: addresses are learned again");
            open()
        }
        fault => Err(fault),
    });
    opened.unwrap_or_else(|fault| {
        error!(
            reason = chain(&fault),
            "learned addresses cannot be written: a guest without an address stays blocked until they can; check the disk and the permissions of state_dir"
        );
        Journal::unwritable_on(disk.clone(), path)
    })
}

/// The sockets of the service manager, or our own.
pub fn listeners(config: &Config) -> Result<Listeners, Failure> {
    let handed =
        systemd::sockets().map_err(|error| Failure::System("sockets of the service manager", error))?;
    if !handed.is_empty() {
        return Ok(Listeners::from_fds(handed.into_iter().map(|(socket, _)| socket))?);
    }
    let permissions = Permissions {
        group: socket_group(config)?,
        mode: config.socket_mode.0,
        mode_read_only: config.socket_ro_mode.0,
    };
    Ok(Listeners::bind(&config.runtime_dir, permissions)?)
}

/// The socket of those who ask for metrics, where there is to be one. They learn less than the readers of filters.
pub fn metrics(config: &Config) -> Result<Option<metrics_server::Socket>, Failure> {
    let Some(endpoint) = &config.metrics else { return Ok(None) };
    Ok(Some(metrics_server::Socket::bind(endpoint, socket_group(config)?, config.socket_ro_mode.0)?))
}

fn socket_group(config: &Config) -> Result<Option<u32>, Failure> {
    config.socket_group.as_deref().map(group).transpose()
}

/// The number of a group, by name or as a number.
fn group(name: &str) -> Result<u32, Failure> {
    let unknown = || Failure::Config(format!("socket_group: there is no group {name:?}"));
    if let Ok(number) = name.parse() {
        return Ok(number);
    }
    let groups =
        std::fs::read_to_string("/etc/group").map_err(|error| Failure::System("/etc/group", error))?;
    let entry = groups.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|entry| entry[0] == name);
    entry.and_then(|entry| entry.get(2)?.parse().ok()).ok_or_else(unknown)
}

/// Why clients are no longer served.
pub fn no_server(ended: Result<std::io::Result<()>, tokio::task::JoinError>) -> Failure {
    let reason = match ended {
        Ok(Err(error)) => error,
        Ok(Ok(())) => std::io::ErrorKind::BrokenPipe.into(),
        Err(error) => error.into(),
    };
    Failure::System("clients are no longer served", reason)
}

/// What clients may use.
pub fn limits(config: &Config) -> Limits {
    Limits {
        clients: (config.max_clients as usize).min(open_files() / 4).max(1),
        requests: config.max_client_requests as usize,
        keepalive: Keepalive { interval: config.keepalive_interval, count: config.keepalive_count },
        ..Limits::default()
    }
}

/// Gives up what the daemon does not need from here on.
pub fn confine(config: &Config, file: &Path) {
    if !config.confine {
        warn!("the daemon keeps all its rights, as configured");
        return;
    }
    // A file that is edited is another file afterwards, and the directory of packaged copies comes and goes with its package.
    let directories = [file.parent(), Path::new(PACKAGED).ancestors().nth(2)];
    let read: Vec<&Path> = directories.into_iter().flatten().filter(|directory| directory.exists()).collect();
    give_up(&Bounds { read: &read, write: &[&config.filter_dir, &config.state_dir, &config.runtime_dir] });
}

/// What can be wrong with a configuration beyond its file.
pub fn check(config: &Config) -> Result<(), Failure> {
    socket_group(config).map(drop)
}

/// Says what is missing before the first thing fails for want of it.
pub fn need_rights() -> Result<(), Failure> {
    let missing: Vec<String> = KEPT
        .into_iter()
        .filter(|right| !caps::has_cap(None, CapSet::Effective, *right).unwrap_or(true))
        .map(|right| right.to_string())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(Failure::Rights(format!(
        "no right to change the firewall ({}): run nwfilterd as root, or have systemd start it: \
         systemctl start nwfilterd.service",
        missing.join(", ")
    )))
}

/// A firewall with all of these filters but those that conflict with the others.
pub fn define_all(firewall: Firewall, filters: Vec<Filter>) -> Firewall {
    let (sound, faults) = engine::sound(firewall.filters(), filters);
    tell_of(&faults);
    firewall.define(sound).expect("nothing is bound yet")
}

/// Logs which filters are left out.
pub fn tell_of(faults: &[engine::FaultyFilter]) {
    for fault in faults {
        error!(filter = fault.filter, reason = %fault.why.message, "filter not loaded; one that is known by its name stays");
    }
}

/// Which other program changed rules, if one did.
pub fn foreign(ready: &mut AsyncFdReadyMutGuard<'_, Watch>) -> Option<String> {
    let mut who = None;
    loop {
        match ready.get_inner_mut().next_event() {
            Ok(Some(event)) => who = Some(event.to_string()),
            Ok(None) => break,
            Err(error) => {
                warn!(reason = %error, "changes of rules may have been missed: all tables are compared");
                who = Some("another program".into());
                break;
            }
        }
    }
    ready.clear_ready();
    who
}

/// All bindings in force when the last daemon ended, and the ports of those that cannot be read.
pub fn read_bindings(store: &Store) -> Result<(Vec<Binding>, Vec<String>), Failure> {
    let (mut bindings, mut lost) = (Vec::new(), Vec::new());
    for document in store.load()? {
        let port = document.name.clone();
        match read_binding(store, document) {
            Some(binding) => bindings.push(binding),
            None => lost.push(port),
        }
    }
    Ok((bindings, lost))
}

fn read_binding(store: &Store, Document { name, text }: Document) -> Option<Binding> {
    let text = text.inspect_err(|fault| error!(port = name, reason = %fault, "binding file not readable: its interface is blocked; bind it again")).ok()?;
    let source = Source::new(format!("{}/{name}.xml", store.path().display()), text);
    let faulty = |faults: &Vec<_>| error!(port = name, reason = %documents::error(faults), "binding not readable: its interface is blocked; bind it again");
    let binding = binding::read_status(&source).inspect_err(faulty).ok()?;
    let named = binding.portdev == name;
    if !named {
        error!(port = name, binding = binding.portdev, "the file of a binding must have its port's name");
    }
    named.then_some(binding)
}
