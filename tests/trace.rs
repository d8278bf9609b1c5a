//! The live trace against known traffic, and that nothing of it is left behind. Needs root.

#[path = "lab/mod.rs"]
mod lab;
mod tool;

use lab::frames::{FOREIGN_IP, FOREIGN_MAC, GUEST_IP, PEER_IP, arp_request, ip, udp_with};
use lab::{Network, Tap, Way, address};
use nwfilter::document::catalog::Library;
use nwfilter::document::vars::Vars;
use nwfilter::kernel::apply::Kernel;
use nwfilter::kernel::tracer::Tracer;
use nwfilter::program::compile::{HostToGuest, Options};
use nwfilter::program::ir::Ruleset;
use nwfilter::report::trace::Joiner;
use nwfilter::ruleset::firewall::{Attachment, BoundInterface, BridgePort, Firewall, Policy, Rules};
use nwfilter::ruleset::nft::Ownership;
use nwfilter::ruleset::nft::trace::At;
use nwfilter::ruleset::plan::plan;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use tool::{InTime, Lines, end, with_usual_signals};

/// A guest with clean-traffic, and a traced line for each frame.
fn traced(at_device: bool, frames: Vec<(Way, Vec<u8>)>) -> Vec<String> {
    let (network, kernel) = (Network::new(), Kernel::open(Ownership::OwnedAndKept).unwrap());
    let compile =
        Options { features: kernel.features().into(), counters: false, host_to_guest: HostToGuest::Filter };
    let mut vars = Vars::default();
    [("MAC", "52:54:00:00:00:01"), ("IP", GUEST_IP)]
        .iter()
        .for_each(|(name, value)| vars.push(*name, *value));
    let rules = Rules::Filter("clean-traffic".into());
    let bridge = BridgePort {
        index: network.bridge.link.index(),
        name: "br0".into(),
        host: None,
        port: "vnet0".into(),
    };
    let member = BoundInterface {
        index: network.guest.link.index(),
        name: "vnet0".into(),
        place: match at_device {
            true => Attachment::Port { name: "vnet0".into(), bridge },
            false => Attachment::Bridge(None),
        },
        rules,
        vars,
    };
    let firewall = Firewall::new(Policy { fold_up_to: 64, compile, placement: Default::default() });
    let firewall = firewall.define(Library::standard().filters.into_values()).unwrap().bind(member).unwrap();
    kernel.apply(plan(&Ruleset::default(), &firewall.ruleset())).unwrap();
    let before = tables();
    let mut tracer =
        Tracer::open(network.guest.link.index(), if at_device { At::Device("vnet0") } else { At::Bridge })
            .unwrap();
    assert_eq!(tables().len(), before.len() + 1);
    let mut joiner = Joiner::default();
    joiner.learn(&kernel.observe().unwrap());
    let mut lines = Vec::new();
    for (way, frame) in frames {
        network.passes(way, frame);
        let mut fates = Vec::new();
        while let Some(step) = tracer.try_event().unwrap() {
            assert!(!joiner.is_new(&step), "{step:?}");
            fates.extend(joiner.step(&step));
        }
        lines.extend(fates.iter().map(ToString::to_string));
    }
    drop(tracer);
    assert_eq!(tables(), before, "the trace is gone with its socket");
    lines
}

fn tables() -> Vec<String> {
    let listed = Command::new("nft").args(["list", "tables"]).output_in_time().unwrap();
    String::from_utf8(listed.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn every_frame_has_a_line_that_names_the_rule() {
    for at_device in [false, true] {
        every_frame_has_a_line(at_device);
    }
}

fn every_frame_has_a_line(at_device: bool) {
    let lines = lab::in_fresh_netns(|| {
        traced(
            at_device,
            vec![
                (Way::FromGuest, arp_request(GUEST_IP, PEER_IP).frame().into()),
                (Way::FromGuest, arp_request(FOREIGN_IP, PEER_IP).frame().into()),
                (Way::FromGuest, arp_request(GUEST_IP, PEER_IP).frame().from(FOREIGN_MAC).into()),
                (Way::FromGuest, arp_request(GUEST_IP, PEER_IP).frame().vlan(5).into()),
                (Way::ToGuest, arp_request(PEER_IP, GUEST_IP).frame().inbound().into()),
            ],
        )
    });
    let expected = [
        "accept out filter 'clean-traffic' rule 2  52:54:00:00:00:01 > ff:ff:ff:ff:ff:ff, ARP who-has 10.0.0.2 tell 10.0.0.1",
        "drop   out filter 'no-arp-ip-spoofing' rule ",
        "drop   out filter 'no-mac-spoofing' rule 2  52:54:00:00:00:09 > ",
        "drop   out filter 'no-other-l2-traffic' rule 1  52:54:00:00:00:01 > ff:ff:ff:ff:ff:ff, VLAN 5, ARP who-has",
        if at_device {
            "accept in  filter 'clean-traffic' rule 2  headers not reported"
        } else {
            "accept in  filter 'clean-traffic' rule 2  52:54:00:00:00:02 > "
        },
    ];
    assert_eq!(lines.len(), expected.len(), "{lines:#?}");
    for (line, expected) in lines.iter().zip(expected) {
        assert!(line.starts_with(expected), "{line}\n{expected}");
    }
}

#[test]
fn an_interface_not_asked_for_is_not_traced() {
    lab::in_fresh_netns(|| {
        let network = Network::new();
        let mut tracer = Tracer::open(network.guest.link.index() + 100, At::Bridge).unwrap();
        network.passes(Way::FromGuest, arp_request(GUEST_IP, PEER_IP).frame());
        assert_eq!(tracer.try_event().unwrap(), None);
    });
}

/// The command, with filters of its own.
fn nwfilter(filters: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nwfilter"));
    command.args(arguments).arg("--dir").arg(filters).env("NWFILTER_RUNTIME_DIR", filters);
    command
}

/// A trace that does not outlive its test.
struct Running(Child);

impl Running {
    fn spawn(mut command: Command) -> Running {
        Running(with_usual_signals(&mut command).stdout(Stdio::piped()).spawn().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        end(&mut self.0);
    }
}

/// `nwfilter trace` of a guest that the command bound to clean-traffic, from when the kernel traces.
fn running(filters: &Path, arguments: &[&str]) -> Running {
    let bind = ["apply", "--dev", "vnet0", "--mac", "52:54:00:00:00:01", "--filter", "clean-traffic"];
    assert!(nwfilter(filters, &bind).args(["--param", "IP=10.0.0.1"]).status_in_time().unwrap().success());
    let command = nwfilter(filters, &[&["trace", "--dev", "vnet0"], arguments].concat());
    let child = Running::spawn(command);
    tool::eventually("the tables of traces", || traces().len() == 1);
    child
}

fn traces() -> Vec<String> {
    tables().into_iter().filter(|table| table.contains("nwfilter-trace")).collect()
}

fn frames() -> [Vec<u8>; 3] {
    let honest = arp_request(GUEST_IP, PEER_IP).frame();
    [honest.clone().into(), arp_request(FOREIGN_IP, PEER_IP).frame().into(), honest.from(FOREIGN_MAC).into()]
}

#[test]
fn a_trace_has_each_frame_once_and_ends_with_its_process() {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGKILL] {
        lab::in_fresh_netns(|| {
            let (network, filters) = (Network::new(), tempfile::tempdir().unwrap());
            let mut child = running(filters.path(), &[]);
            let mut lines = Lines::of(child.0.stdout.take().unwrap());
            for frame in (0..100).flat_map(|_| frames()) {
                network.passes(Way::FromGuest, frame);
            }
            let reported: Vec<String> = lines.by_ref().take(300).collect();
            let those = |what: &str| reported.iter().filter(|line| line.starts_with(what)).count();
            assert_eq!(those("vnet0 accept out filter 'clean-traffic' rule 2 "), 100);
            assert_eq!(those("vnet0 drop   out filter 'no-arp-ip-spoofing' rule "), 100);
            assert_eq!(those("vnet0 drop   out filter 'no-mac-spoofing' rule 2 "), 100);
            tool::signal(&child.0, signal);
            child.0.status_in_time().unwrap();
            assert_eq!(lines.count(), 0, "nothing is reported twice");
            tool::eventually("the tables of traces", || traces().is_empty());
            assert!(network.passes(Way::FromGuest, arp_request(GUEST_IP, PEER_IP).frame()));
        });
    }
}

/// A frame of one guest that another's filter judges as well is reported once, by the filter of the interface that was named.
#[test]
fn verdicts_of_other_interfaces_are_not_reported() {
    lab::in_fresh_netns(|| {
        let (network, filters) = (Network::new(), tempfile::tempdir().unwrap());
        let block = "<filter name='block'><rule action='drop' direction='inout'/></filter>";
        std::fs::write(filters.path().join("block.xml"), block).unwrap();
        let bind = ["apply", "--dev", "peer0", "--mac", "52:54:00:00:00:02", "--filter", "block"];
        assert!(nwfilter(filters.path(), &bind).status_in_time().unwrap().success());
        let mut child = running(filters.path(), &[]);
        let mut lines = Lines::of(child.0.stdout.take().unwrap());
        for frame in frames() {
            assert!(!network.passes(Way::FromGuest, frame));
        }
        let reported: Vec<String> = lines.by_ref().take(3).collect();
        for (line, expected) in reported.iter().zip([
            "vnet0 accept out filter 'clean-traffic' rule 2 ",
            "vnet0 drop   out filter 'no-arp-ip-spoofing' rule ",
            "vnet0 drop   out filter 'no-mac-spoofing' rule 2 ",
        ]) {
            assert!(line.starts_with(expected), "{line}");
        }
        end(&mut child.0);
    });
}

#[test]
fn tracing_an_unbound_interface_is_refused_with_the_reason() {
    lab::in_fresh_netns(|| {
        let (_network, filters) = (Network::new(), tempfile::tempdir().unwrap());
        let output = nwfilter(filters.path(), &["trace", "--dev", "vnet0"]).output_in_time().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(
            (output.status.code(), said.as_str()),
            (Some(3), "error: vnet0: not bound, so no rule of a filter judges its frames\n")
        );
    });
}

/// What Wireshark's own reader says of a capture: length, length kept, direction, comment, and what the frame is.
fn read_by_tshark(file: &Path) -> Vec<[String; 5]> {
    let fields =
        ["frame.len", "frame.cap_len", "frame.packet_flags_direction", "frame.comment", "_ws.col.Info"];
    let fields = fields.iter().flat_map(|field| ["-e", field]);
    let mut tshark = Command::new("tshark");
    let output = tshark.arg("-r").arg(file).args(["-T", "fields"]).args(fields).output_in_time();
    let output = output.expect("scripts/setup installs tshark");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let split = |line: &str| line.split('\t').map(str::to_owned).collect::<Vec<_>>().try_into().unwrap();
    text.lines().map(split).collect()
}

#[test]
fn a_capture_tells_wireshark_why_each_frame_was_dropped() {
    lab::in_fresh_netns(|| {
        let (network, filters) = (Network::new(), tempfile::tempdir().unwrap());
        let file = filters.path().join("trace.pcapng");
        let mut child = running(filters.path(), &["--pcapng", file.to_str().unwrap()]);
        let mut lines = Lines::of(child.0.stdout.take().unwrap());
        let udp = udp_with(ip(GUEST_IP, PEER_IP), 1000, 53, &[7; 500]);
        network.passes(Way::FromGuest, udp);
        for frame in frames() {
            network.passes(Way::FromGuest, frame);
        }
        network.passes(Way::ToGuest, arp_request(PEER_IP, GUEST_IP).frame().inbound());
        assert_eq!(lines.by_ref().take(5).count(), 5);
        child.0.kill().unwrap();
        child.0.status_in_time().unwrap();
        let reported = read_by_tshark(&file);
        let lines: Vec<String> = reported.iter().map(|fields| fields[..4].join(" ")).collect();
        // Bytes, bytes kept, into the bridge or out of it, and the comment.
        let expected = [
            "542 54 0x00000001 accept out filter 'clean-traffic' rule 1 (<standard>/clean-traffic.xml:7:3)",
            "42 42 0x00000001 accept out filter 'clean-traffic' rule 2 (<standard>/clean-traffic.xml:12:3)",
            "42 42 0x00000001 drop out filter 'no-arp-ip-spoofing' rule 2 (<standard>/no-arp-ip-spoofing.xml:7:3)",
            "42 42 0x00000001 drop out filter 'no-mac-spoofing' rule 2 (<standard>/no-mac-spoofing.xml:8:3)",
            "42 42 0x00000002 accept in filter 'clean-traffic' rule 2 (<standard>/clean-traffic.xml:12:3)",
        ];
        assert_eq!(lines, expected);
        assert!(
            reported[0][4].starts_with("Standard query") && reported[1][4].starts_with("Who has 10.0.0.2?")
        );
    });
}

/// A rejected sender gets an answer, for which the host's IP layer has a part of the program.
const IN_TWO_PARTS: &str = "<filter name='two-parts' chain='root'>
    <rule action='drop' direction='in' priority='100'><mac protocolid='arp'/></rule>
    <rule action='accept' direction='in' statematch='false'><udp dstportstart='80'/></rule>
    <rule action='accept' direction='in' statematch='false'><udp-ipv6 dstportstart='80'/></rule>
    <rule action='accept' direction='out' statematch='false'><udp dstportstart='90'/></rule>
    <rule action='reject' direction='inout' priority='900'><all/></rule>
    <rule action='reject' direction='inout' priority='900'><all-ipv6/></rule></filter>";

const HOST_MAC: [u8; 6] = [0xfe, 0x54, 0, 0, 0, 0x01];

/// A tap of the host's, and what it has to say to a guest there.
fn routed(name: &str, host: Ipv4Addr, guest: &str) -> (Tap, UdpSocket) {
    let tap = Tap::new(name);
    tap.link.set_mac(HOST_MAC);
    tap.link.up();
    address(tap.link, host, 24);
    let neighbour = ["neigh", "add", guest, "lladdr", "52:54:00:00:00:01", "dev", name];
    assert!(Command::new("ip").args(neighbour).status_in_time().unwrap().success());
    (tap, UdpSocket::bind((host, 5000)).unwrap())
}

#[test]
fn of_routed_packets_only_the_guests_are_traced() {
    for signal in [libc::SIGINT, libc::SIGKILL] {
        lab::in_fresh_netns(|| {
            if !Kernel::open(Ownership::Shared).unwrap().features().inet_reject.is_yes() {
                println!("skipped: the ip layer of this kernel rejects nothing");
                return;
            }
            let filters = tempfile::tempdir().unwrap();
            std::fs::write(filters.path().join("two-parts.xml"), IN_TWO_PARTS).unwrap();
            let (guest, socket) = routed("vnet0", Ipv4Addr::new(10, 0, 0, 254), GUEST_IP);
            let (other, others) = routed("vnet1", Ipv4Addr::new(10, 0, 1, 254), "10.0.1.1");
            for dev in ["vnet0", "vnet1"] {
                let bind = ["apply", "--dev", dev, "--mac", "52:54:00:00:00:01", "--filter", "two-parts"];
                // What this host itself sends would pass its IP layer.
                let bind = [&bind[..], &["--host-to-guest", "filter"]].concat();
                assert!(nwfilter(filters.path(), &bind).status_in_time().unwrap().success());
            }
            let before = tables();
            // Else the host would answer.
            let _heard = UdpSocket::bind("10.0.0.254:90").unwrap();
            let mut child = Running::spawn(nwfilter(filters.path(), &["trace", "--dev", "vnet0"]));
            tool::eventually("the tables of traces", || traces().len() == 2);
            let mut lines = Lines::of(child.0.stdout.take().unwrap());
            for port in [80, 81] {
                let _ = others.send_to(b"hello", ("10.0.1.1", port)); // The sender hears of a drop.
                let _ = socket.send_to(b"hello", (GUEST_IP, port));
            }
            guest
                .send(&Vec::from(udp_with(ip(GUEST_IP, "10.0.0.254"), 5, 90, b"hello").to(HOST_MAC)))
                .unwrap();
            let reported: Vec<String> = lines.by_ref().take(4).collect();
            let expected = [
                "vnet0 accept in  filter 'two-parts' rule 2  IPv4 10.0.0.254 > 10.0.0.1, UDP 5000 > 80, 47 bytes  (",
                "vnet0 drop   in  filter 'two-parts' rule 5  IPv4 10.0.0.254 > 10.0.0.1, UDP 5000 > 81, 47 bytes  (",
                "vnet0 accept out filter 'two-parts' no rule  52:54:00:00:00:01 > fe:54:00:00:00:01, IPv4 10.0.0.1 > 10.0.0.254, UDP 5 > 90",
                "vnet0 accept out filter 'two-parts' rule 4  52:54:00:00:00:01 > fe:54:00:00:00:01, IPv4 10.0.0.1 > 10.0.0.254, UDP 5 > 90",
            ];
            for (line, expected) in reported.iter().zip(expected) {
                assert!(line.starts_with(expected), "{line}\n{expected}");
            }
            drop(other);
            tool::signal(&child.0, signal);
            child.0.status_in_time().unwrap();
            tool::eventually("the tables of traces", || tables() == before);
        });
    }
}
