//! `status`: what is enforced now, as a table or as JSON.

use super::{Failure, Outcome, print};
use crate::apply::Kernel;
use crate::drops::{Count, Traffic};
use crate::links;
use crate::nft::Ownership;
use crate::rpc::Code;
use crate::rpc::client::{self, Client};
use crate::rpc::listen::NAME;
use crate::status::{Address, Interface, Learning, Seat, Status};
use crate::unseen::Missed;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::Duration;

/// Where the daemon's sockets are, unless `NWFILTER_RUNTIME_DIR` says otherwise.
const RUNTIME: &str = "/run/libvirt";

/// The daemon may be committing thousands of rules.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where the daemon keeps its sockets and status files.
pub(super) fn runtime() -> PathBuf {
    std::env::var_os("NWFILTER_RUNTIME_DIR").map_or_else(|| RUNTIME.into(), PathBuf::from)
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
        Err(client::Failure::Refused(error)) if error.code == Code::Rpc => Ok(None),
        Err(client::Failure::Refused(error)) if !error.faults.is_empty() => {
            Err(Failure::Faults(error.faults))
        }
        Err(failure) => Err(Failure::host(what, &failure)),
    }
}

/// Prints the status, of one interface if one is named.
pub(super) fn show(dev: Option<&str>, as_json: bool) -> Outcome {
    let mut status: Status = match asked(&"nwfilterd", Client::status)? {
        Some(json) => serde_json::from_str(&json).map_err(|error| Failure::host(&"nwfilterd", &error))?,
        None => here()?,
    };
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
            status.interfaces.iter().for_each(|interface| print(&counted(interface)));
        }
    }
    Ok(())
}

fn here() -> Result<Status, Failure> {
    let kernel = Kernel::open(Ownership::Shared).map_err(|error| Failure::host(&"netfilter", &error))?;
    let observed = kernel.observe().map_err(|error| Failure::host(&"netfilter", &error))?;
    let links = links::snapshot().map_err(|error| Failure::host(&"links", &error))?;
    Ok(Status::of(&observed, &links))
}

fn table(status: &Status) -> String {
    let mut lines = vec![["INTERFACE", "INDEX", "FILTER", "PROGRAM", ""].map(str::to_owned)];
    lines.extend(status.interfaces.iter().map(line));
    let widths: Vec<usize> = (0..5)
        .map(|column| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for line in &lines {
        let cells = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    for program in &status.programs {
        for counter in &program.counters {
            let rule = counter.rule.as_deref().unwrap_or("-");
            let (chain, packets, bytes) = (&counter.chain, counter.packets, counter.bytes);
            text.push_str(&format!("{} {chain} {rule}: {packets} frames, {bytes} bytes\n", program.name));
        }
    }
    for (name, length) in &status.ipsets {
        text.push_str(&format!("ipset {name}: {length} addresses\n"));
    }
    text
}

/// What was counted of one interface's frames, a line a rule.
fn counted(interface: &Interface) -> String {
    let told = |count: &Count| format!("{} frames, {} bytes", count.frames, count.bytes);
    let mut text = String::new();
    if let Some(Traffic { from_guest, to_guest }) = &interface.traffic {
        text.push_str(&format!("sent: {}\nreceived: {}\n", told(from_guest), told(to_guest)));
    }
    if let Some(Missed { from_guest, to_guest }) =
        interface.missed.filter(|missed| *missed != Missed::default())
    {
        text.push_str(&format!("seen by no rule: {from_guest} frames sent, {to_guest} received\n"));
    }
    for dropped in &interface.dropped {
        let rule = match (&dropped.filter, dropped.rule, dropped.id) {
            (Some(filter), Some(rule), _) => format!("filter '{filter}' rule {rule}"),
            (.., 0) => "no rule".into(),
            _ => "a rule that is no more".into(),
        };
        let place = dropped.place.as_ref().map_or(String::new(), |place| format!(" ({place})"));
        text.push_str(&format!("dropped by {rule}{place}: {}\n", told(&dropped.count)));
    }
    text
}

fn line(interface: &Interface) -> [String; 5] {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".into());
    let state = match (&interface.closed, interface.index, interface.shared) {
        (Some(why), ..) => format!("closed: {why}"),
        (None, None, _) => "waits for its interface".into(),
        (None, Some(_), true) => "shared".into(),
        (None, Some(_), false) => String::new(),
    };
    let learned = interface.learning.as_ref().map(learned).unwrap_or_default();
    let seat = match &interface.seat {
        Some(Seat::Device(_)) if interface.unseen => "not filtered: no hook of its own".into(),
        _ if interface.unseen => "not filtered: no port of a bridge".into(),
        Some(Seat::Bridge(Some(bridge))) => format!("bridge {bridge}"),
        Some(Seat::Device(Some(mode))) => format!("device (macvtap, {mode})"),
        Some(Seat::Device(None)) => match &interface.packets {
            Some(packets) => format!("device, packets {packets}"),
            None => "device".into(),
        },
        _ => String::new(),
    };
    let note =
        [state, seat, learned].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(", ");
    [
        or_dash(interface.name.clone()),
        or_dash(interface.index.map(|index| index.to_string())),
        interface.filter.clone(),
        or_dash(interface.program.clone()),
        note,
    ]
}

/// `learns (any)`, or what was learned: `10.0.0.1 (arp since 1700000000)`.
fn learned(learning: &Learning) -> String {
    let one = |address: &Address| {
        let until = address.until.map_or(String::new(), |until| format!(" until {until}"));
        format!("{} ({} since {}{until})", address.address, address.from, address.since)
    };
    match &learning.addresses[..] {
        [] => format!("learns ({})", learning.mode),
        known => known.iter().map(one).collect::<Vec<_>>().join(", "),
    }
}
