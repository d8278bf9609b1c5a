//! `explain`: what becomes of a frame, and which line of XML decides.

use super::print::with_faults_of;
use super::status::asked;
use super::{Failure, FilterArgs, Outcome, print};
use crate::document::catalog::Library;
use crate::document::filter::{Filter, state};
use crate::document::mac::Mac;
use crate::document::vars::Vars;
use crate::program::Direction;
use crate::program::compile::{HOST_MARK, HostToGuest};
use crate::program::eval::{Connection, Frame, Port, Tracking};
use crate::program::ir::CtDirection;
use crate::report::explain::{Bound, Explainer, FrameSpec, PcapFrames, Rejects, Station};
use clap::{Args, ValueEnum};
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

/// What `explain` is asked.
#[derive(Debug, Args)]
pub(super) struct ExplainArgs {
    /// An interface: as the daemon filters it now.
    #[arg(long, required_unless_present = "filter")]
    dev: Option<String>,
    /// The name of a filter.
    #[arg(long, conflicts_with = "dev")]
    filter: Option<String>,
    /// A variable and its value, `IP=10.0.0.1`; again for a list.
    #[arg(long = "param", value_name = "NAME=VALUE", value_parser = super::parameter)]
    params: Vec<(String, String)>,
    /// Where filters are looked up. Standard filters that are not there are taken from this program.
    #[arg(long, default_value = super::FILTERS)]
    dir: PathBuf,
    #[command(flatten)]
    subject: Subject,
    #[command(flatten)]
    station: StationArgs,
    /// The frame goes to the guest; else it comes from it.
    #[arg(long = "in", conflicts_with = "from_guest")]
    to_guest: bool,
    /// The frame comes from the guest.
    #[arg(long = "out")]
    from_guest: bool,
    /// What conntrack says of it. What is described by --tcp, --udp or --icmp is new unless this says otherwise.
    #[arg(long, value_enum)]
    state: Option<State>,
    /// It goes in the direction opposite to the one its connection was opened in.
    #[arg(long, requires = "state")]
    reply: bool,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

/// The frame.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Subject {
    /// Its bytes from the destination address on, in hexadecimal.
    #[arg(long)]
    hex: Option<String>,
    /// A capture, pcap or pcapng.
    #[arg(long)]
    pcap: Option<PathBuf>,
    /// `who-has ADDRESS tell ADDRESS` or `ADDRESS is-at MAC`.
    #[arg(long)]
    arp: Option<String>,
    /// From where to where: the first segment of a connection. In quotes `ADDRESS:PORT>ADDRESS:PORT` will do as well.
    #[arg(long, value_name = "ADDRESS:PORT,ADDRESS:PORT", num_args = 1..=2)]
    tcp: Option<Vec<String>>,
    /// From where to where: the first datagram between them.
    #[arg(long, value_name = "ADDRESS:PORT,ADDRESS:PORT", num_args = 1..=2)]
    udp: Option<Vec<String>>,
    /// From where to where: an echo request, or with `TYPE/CODE` after them another message.
    #[arg(long, value_name = "ADDRESS,ADDRESS", num_args = 1..=3)]
    icmp: Option<Vec<String>>,
}

#[derive(Debug, Args)]
struct StationArgs {
    /// Which frame of the capture, from 1.
    #[arg(long, default_value_t = 1, requires = "pcap")]
    packet: usize,
    /// Who sends the described frame; the guest, or for a frame to it another station.
    #[arg(long)]
    src_mac: Option<Mac>,
    /// Who gets it.
    #[arg(long)]
    dst_mac: Option<Mac>,
    /// The host itself sends it to the guest.
    #[arg(long, requires = "to_guest")]
    from_host: bool,
    /// Its VLAN.
    #[arg(long)]
    vlan: Option<u16>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum State {
    New,
    Established,
    Related,
    Invalid,
    Untracked,
}

/// Explains the frame.
pub(super) fn run(arguments: &ExplainArgs) -> Outcome {
    let (explainer, vars, host_to_guest) = match &arguments.dev {
        Some(dev) => bound(dev)?,
        None => named(arguments)?,
    };
    let direction = if arguments.to_guest { Direction::In } else { Direction::Out };
    let (bytes, begins) = bytes(arguments, direction, &vars)?;
    let (guest, other) = (Port { index: 1, name: "guest" }, Port { index: 2, name: "other" });
    let (iif, oif) = if direction == Direction::Out { (guest, other) } else { (other, guest) };
    let usual = if begins { tracking(State::New, false) } else { Tracking::Unknown };
    let tracking = arguments.state.map_or(usual, |state| tracking(state, arguments.reply));
    let marked = arguments.station.from_host && host_to_guest == HostToGuest::Pass;
    let mark = if marked { HOST_MARK } else { 0 };
    let frame = Frame { bytes: &bytes, iif, oif, tracking, mark, ..Frame::default() };
    let explanation = explainer.explain(direction, frame);
    match arguments.json {
        true => print(&format!("{:#}\n", serde_json::json!(explanation))),
        false => print(&explanation.to_string()),
    }
    Ok(())
}

fn named(arguments: &ExplainArgs) -> Result<(Explainer, Vars, HostToGuest), Failure> {
    let filter = arguments.filter.clone().unwrap_or_default();
    let filter = FilterArgs { filter, params: arguments.params.clone(), dir: arguments.dir.clone() };
    let (library, mut vars) = (filter.library()?, filter.vars());
    if vars.values("MAC").is_none()
        && let Some(mac) = arguments.station.src_mac
    {
        vars.push("MAC", mac.to_string());
    }
    super::print::complete(&library, &filter.filter, &vars)?;
    let explainer = Explainer::new(&|name| library.get(name), &filter.filter, &vars, Rejects::Answer);
    let explainer = explainer.map_err(|faults| with_faults_of(library.faults, faults))?;
    Ok((explainer, vars, HostToGuest::Pass))
}

/// What the daemon enforces on an interface, learned addresses and all.
fn bound(dev: &str) -> Result<(Explainer, Vars, HostToGuest), Failure> {
    let Some(json) = asked(&dev, |daemon| daemon.bound(dev))? else {
        let help = "name the filter with --filter and its variables with --param";
        let why = format!("{dev}: the daemon does not run, and rules in the kernel have no XML; {help}");
        return Err(Failure::Host(why));
    };
    let bound: Bound = serde_json::from_str(&json).map_err(|error| Failure::host(&"nwfilterd", &error))?;
    let Some(root) = &bound.filter else {
        let why = bound.closed.unwrap_or_else(|| "of a reason that is not known".into());
        return Err(Failure::Host(format!("{dev}: blocked, nothing passes: {why}")));
    };
    let mut library = Library::default();
    for (name, text) in &bound.documents {
        library.add(&crate::document::span::Source::new(name.as_str(), text.as_str()));
    }
    let rejects = bound.rejects();
    let vars = Vars(bound.vars);
    let lookup = |name: &str| -> Option<Arc<Filter>> { library.get(name) };
    Ok((Explainer::new(&lookup, root, &vars, rejects)?, vars, bound.host_to_guest))
}

/// The frame, and whether it begins a connection.
fn bytes(arguments: &ExplainArgs, direction: Direction, vars: &Vars) -> Result<(Vec<u8>, bool), Failure> {
    let Subject { hex, pcap, arp, tcp, udp, icmp } = &arguments.subject;
    let joined = |words: &Vec<String>| words.join(" ");
    let sketch = match (hex, pcap, arp, tcp, udp, icmp) {
        (Some(hex), ..) => return Ok((from_hex(hex)?, false)),
        (_, Some(path), ..) => return Ok((from_capture(path, arguments.station.packet)?, false)),
        (.., Some(arp), _, _, _) => FrameSpec::Arp(arp.clone()),
        (.., Some(tcp), _, _) => FrameSpec::Tcp(joined(tcp)),
        (.., Some(udp), _) => FrameSpec::Udp(joined(udp)),
        (.., icmp) => FrameSpec::Icmp(icmp.as_ref().map(joined).unwrap_or_default()),
    };
    const OTHER: Mac = Mac([2, 0, 0, 0, 0, 1]);
    let guest = vars.values("MAC").and_then(|values| values.first()?.parse().ok()).unwrap_or(OTHER);
    let StationArgs { src_mac, dst_mac, vlan, .. } = arguments.station;
    let (source, destination) = match direction {
        Direction::Out => (src_mac.unwrap_or(guest), dst_mac),
        Direction::In => (src_mac.unwrap_or(OTHER), dst_mac.or(Some(guest))),
    };
    let frame =
        sketch.frame(Station { source, destination, vlan }).map_err(|unclear| Failure::fault(&unclear))?;
    Ok((frame, sketch.begins()))
}

fn from_hex(text: &str) -> Result<Vec<u8>, Failure> {
    let digits: Option<Vec<u8>> = text
        .chars()
        .filter(|c| !c.is_whitespace() && *c != ':')
        .map(|c| c.to_digit(16).map(|digit| digit as u8))
        .collect();
    match digits.filter(|digits| digits.len().is_multiple_of(2)) {
        Some(digits) => Ok(digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()),
        None => Err(Failure::Host("--hex: expected pairs of hexadecimal digits".into())),
    }
}

fn from_capture(path: &std::path::Path, number: usize) -> Result<Vec<u8>, Failure> {
    let file = fs::read(path).map_err(|error| Failure::host(&path.display(), &error))?;
    let packets = PcapFrames::read(&file).map_err(|error| Failure::host(&path.display(), &error))?;
    let frame = packets.packet(number).map(<[u8]>::to_vec);
    frame.ok_or_else(|| {
        Failure::Host(format!("{}: there is no frame {number}, but {}", path.display(), packets.count()))
    })
}

fn tracking(state: State, reply: bool) -> Tracking {
    let direction = if reply { CtDirection::Reply } else { CtDirection::Original };
    let connection = |state| Tracking::Connection(Connection { state, direction });
    match state {
        State::New => connection(state::NEW),
        State::Established => connection(state::ESTABLISHED),
        State::Related => connection(state::RELATED),
        State::Invalid => Tracking::Unknown,
        State::Untracked => Tracking::Untracked,
    }
}
