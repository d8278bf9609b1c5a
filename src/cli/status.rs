//! `status`: what is enforced now, as a table or as JSON.

use super::{Failure, Outcome, date, print};
use crate::document::binding::{self, Binding};
use crate::document::regular;
use crate::document::span::Source;
use crate::engine::error::ErrorNumber;
use crate::guest::learning::filters::{ANY, DHCP, DHCP_FROM_SERVERS};
use crate::kernel::apply::Kernel;
use crate::kernel::links;
use crate::program::printable;
use crate::report::status::{Address, Guest, Interface, Learning, ProgramLocation, Status};
use crate::ruleset::bypass::BypassCount;
use crate::ruleset::counters::{Count, Traffic};
use crate::ruleset::nft::Ownership;
use crate::service::rpc::client::{self, Client};
use crate::service::rpc::listen::NAME;
use crate::service::store::BINDINGS;
use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

/// Where the daemon's sockets are, unless the command line or `NWFILTER_RUNTIME_DIR` says otherwise.
const RUNTIME: &str = "/run/libvirt";

/// The daemon may be committing thousands of rules.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the command line says of it.
static CHOSEN: OnceLock<PathBuf> = OnceLock::new();

/// Has the daemon looked for in this directory.
pub(super) fn look_in(directory: Option<PathBuf>) {
    if let Some(directory) = directory {
        CHOSEN.get_or_init(|| directory);
    }
}

/// Where the daemon keeps its sockets and status files.
pub(super) fn runtime() -> PathBuf {
    let said = || std::env::var_os("NWFILTER_RUNTIME_DIR").map(PathBuf::from);
    CHOSEN.get().cloned().or_else(said).unwrap_or_else(|| RUNTIME.into())
}

/// The bindings on record by their ports, to be looked at only. What cannot be read is left out.
pub(super) fn recorded() -> BTreeMap<String, Binding> {
    let files =
        fs::read_dir(runtime().join(BINDINGS)).into_iter().flatten().flatten().map(|entry| entry.path());
    let documents = files.filter(|path| path.extension().is_some_and(|extension| extension == "xml"));
    let read = |path: PathBuf| {
        let text = regular::read_text(&path).ok()?;
        binding::read_status(&Source::new(path.display().to_string(), text)).ok()
    };
    documents.filter_map(read).map(|binding| (binding.portdev.clone(), binding)).collect()
}

/// What the daemon answers; none where it does not run, or where another program, such as libvirt's own daemon,
/// serves its socket.
pub(super) fn asked<T>(
    what: &dyn std::fmt::Display,
    ask: impl FnOnce(&mut Client) -> Result<T, client::Failure>,
) -> Result<Option<T>, Failure> {
    let socket = runtime().join(NAME);
    let mut client = match Client::connect(&socket, PATIENCE) {
        Ok(client) => client,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        Err(error) => return Err(Failure::host(&socket.display(), &error)),
    };
    match ask(&mut client) {
        Ok(answer) => Ok(Some(answer)),
        Err(client::Failure::Refused(error)) if error.code == ErrorNumber::Rpc => Ok(None),
        Err(client::Failure::Refused(error)) if !error.faults.is_empty() => {
            Err(Failure::Faults(error.faults))
        }
        Err(failure) => Err(Failure::host(what, &failure)),
    }
}

/// The status, from the daemon where one runs.
pub(super) fn status() -> Result<Status, Failure> {
    match asked(&"nwfilterd", Client::status)? {
        Some(json) => serde_json::from_str(&json).map_err(|error| Failure::host(&"nwfilterd", &error)),
        None => here(),
    }
}

/// Prints the status, of one interface if one is named.
pub(super) fn show(dev: Option<&str>, as_json: bool) -> Outcome {
    let mut status = status()?;
    if let Some(dev) = dev {
        status.interfaces.retain(|interface| interface.name.as_deref() == Some(dev));
        let own: Vec<_> = status
            .interfaces
            .iter()
            .flat_map(|interface| [interface.program.clone(), interface.packets.clone()])
            .flatten()
            .collect();
        status.programs.retain(|program| own.contains(&program.name));
        status.ipsets.clear();
        if status.interfaces.is_empty() {
            return Err(Failure::Host(format!("{dev}: not bound")));
        }
    }
    if as_json {
        print(&format!("{:#}\n", serde_json::json!(status)));
    } else {
        print(&table(&status));
        if dev.is_some() {
            status.interfaces.iter().for_each(|interface| print(&(details(interface) + &counted(interface))));
        }
    }
    Ok(())
}

fn here() -> Result<Status, Failure> {
    let kernel = Kernel::open(Ownership::Shared).map_err(|error| Failure::host(&"netfilter", &error))?;
    let observed = kernel.observe().map_err(|error| Failure::host(&"netfilter", &error))?;
    let links = links::snapshot().map_err(|error| Failure::host(&"links", &error))?;
    let (mut status, recorded) = (Status::of(&observed, &links), recorded());
    for interface in &mut status.interfaces {
        let binding = interface.name.as_ref().and_then(|name| recorded.get(name));
        interface.guest = binding.map(Guest::of);
    }
    Ok(status)
}

/// The columns of the table.
const COLUMNS: [&str; 6] = ["INTERFACE", "GUEST", "MAC", "FILTER", "STATE", "PLACE"];

fn table(status: &Status) -> String {
    let mut text = String::new();
    if !status.daemon {
        text.push_str(
            "nwfilterd does not run: rules stay in force, but links are not followed and addresses are not learned\n",
        );
    }
    let mut lines = vec![COLUMNS.map(str::to_owned)];
    lines.extend(status.interfaces.iter().map(line));
    let widest = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; COLUMNS.len()] = std::array::from_fn(widest);
    for line in &lines {
        let cells = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    for interface in &status.interfaces {
        if let Some(why) = &interface.closed {
            text.push_str(&format!("{} is blocked, nothing passes: {why}\n", named(interface)));
        }
    }
    for program in &status.programs {
        for counter in &program.counters {
            let rule = counter.rule.as_deref().unwrap_or("-");
            let (chain, packets, bytes) = (&counter.chain, counter.packets, counter.bytes);
            let line = format!("{} {chain} {rule}: {}, {bytes} bytes\n", program.name, frames(packets));
            text.push_str(&line);
        }
    }
    for (name, length) in &status.ipsets {
        text.push_str(&format!("ipset {name}: {length} addresses\n"));
    }
    text
}

/// What was counted of one interface's frames, a line a rule.
fn counted(interface: &Interface) -> String {
    let amount = |count: &Count| format!("{}, {} bytes", frames(count.frames), count.bytes);
    let mut text = String::new();
    if let Some(Traffic { from_guest, to_guest }) = &interface.traffic {
        text.push_str(&format!("sent: {}\nreceived: {}\n", amount(from_guest), amount(to_guest)));
    }
    if let Some(BypassCount { from_guest, to_guest }) =
        interface.missed.filter(|missed| *missed != BypassCount::default())
    {
        text.push_str(&format!("seen by no rule: {} sent, {to_guest} received\n", frames(from_guest)));
    }
    for dropped in &interface.dropped {
        let rule = match (&dropped.filter, dropped.rule, dropped.id) {
            (Some(filter), Some(rule), _) => format!("filter '{filter}' rule {rule}"),
            (.., 0) => "no rule".into(),
            _ => "a rule that is no more".into(),
        };
        let place = dropped.place.as_ref().map_or(String::new(), |place| format!(" ({place})"));
        text.push_str(&format!("dropped by {rule}{place}: {}\n", amount(&dropped.count)));
    }
    text
}

/// `1 frame`, `2 frames`.
fn frames(count: u64) -> String {
    if count == 1 { "1 frame".into() } else { format!("{count} frames") }
}

/// What the table has no room for.
fn details(interface: &Interface) -> String {
    let mut text = interface.index.map_or(String::new(), |index| format!("index: {index}\n"));
    let shared = if interface.shared { " (shared with other guests)" } else { "" };
    if let Some(program) = &interface.program {
        text.push_str(&format!("program: {program}{shared}\n"));
    }
    text
}

/// An interface by its name, or by its index where the link is gone.
fn named(interface: &Interface) -> String {
    match (&interface.name, interface.index) {
        (Some(name), _) => name.clone(),
        (None, Some(index)) => format!("index {index}"),
        (None, None) => "-".into(),
    }
}

fn line(interface: &Interface) -> [String; COLUMNS.len()] {
    let or_dash =
        |text: Option<&String>| text.filter(|text| !text.is_empty()).cloned().unwrap_or_else(|| "-".into());
    let guest = interface.guest.as_ref();
    [
        named(interface),
        or_dash(guest.map(|guest| &guest.name)),
        or_dash(guest.map(|guest| &guest.mac)),
        filter(interface),
        state(interface),
        place(interface),
    ]
}

/// The filter that was bound; while an address is learned, another is in force in its stead.
fn filter(interface: &Interface) -> String {
    let bound = interface.guest.as_ref().map_or(&interface.filter, |guest| &guest.filter);
    let waiting = [ANY, DHCP, DHCP_FROM_SERVERS].iter().any(|waiting| {
        let (name, _) = waiting.split_once('/').unwrap_or((waiting, ""));
        interface.filter == name || interface.filter == printable(waiting)
    });
    match &interface.learning {
        Some(learning) if learning.addresses.is_empty() => format!("{bound} (learning: {})", learning.mode),
        None if waiting => format!("{bound} (learning)"),
        _ => bound.clone(),
    }
}

fn place(interface: &Interface) -> String {
    match &interface.seat {
        Some(ProgramLocation::Bridge(Some(bridge))) => format!("bridge {bridge}"),
        Some(ProgramLocation::Device(Some(mode))) => format!("device (macvtap, {mode})"),
        Some(ProgramLocation::Device(None)) => match &interface.packets {
            Some(packets) => format!("device, packets {packets}"),
            None => "device".into(),
        },
        _ => "-".into(),
    }
}

fn state(interface: &Interface) -> String {
    let learned = interface.learning.as_ref().map(learned).unwrap_or_default();
    match (&interface.closed, interface.index, &interface.seat) {
        (Some(_), ..) => "blocked".into(),
        (None, None, _) => "waits for its interface".into(),
        (_, _, Some(ProgramLocation::Device(_))) if interface.unseen => {
            "not filtered: no hook of its own".into()
        }
        _ if interface.unseen => "not filtered: no port of a bridge".into(),
        _ if !learned.is_empty() => learned,
        _ => "filtered".into(),
    }
}

/// What was learned: `10.0.0.1 (arp since 2026-11-30 19:20:12 UTC)`.
fn learned(learning: &Learning) -> String {
    let one = |address: &Address| {
        let until = address.until.map_or(String::new(), |until| format!(" until {}", date::utc(until)));
        format!("{} ({} since {}{until})", address.address, address.from, date::utc(address.since))
    };
    learning.addresses.iter().map(one).collect::<Vec<_>>().join(", ")
}
