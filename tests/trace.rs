//! The live trace against known traffic, and that nothing of it is left behind. Needs root.

#[path = "lab/mod.rs"]
mod lab;

use lab::frames::{FOREIGN_IP, FOREIGN_MAC, GUEST_IP, PEER_IP, arp_request, ip, udp_with};
use lab::{Network, Way};
use nwfilter::apply::Kernel;
use nwfilter::compile::Options;
use nwfilter::firewall::{BridgePort, Firewall, Member, Place, Policy, Rules};
use nwfilter::ir::Ruleset;
use nwfilter::library::Library;
use nwfilter::nft::Ownership;
use nwfilter::nft::trace::Tracer;
use nwfilter::plan::plan;
use nwfilter::trace::Joiner;
use nwfilter::vars::Vars;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

/// A guest with clean-traffic, and a traced line for each frame.
fn traced(at_device: bool, frames: Vec<(Way, Vec<u8>)>) -> Vec<String> {
    let (network, kernel) = (Network::new(), Kernel::open(Ownership::OwnedAndKept).unwrap());
    let compile = Options { features: kernel.features().into(), counters: false };
    let mut vars = Vars::default();
    [("MAC", "52:54:00:00:00:01"), ("IP", GUEST_IP)]
        .iter()
        .for_each(|(name, value)| vars.push(*name, *value));
    let rules = Rules::Filter("clean-traffic".into());
    let bridge = BridgePort { index: network.bridge.link.index(), name: "br0".into(), host: None };
    let member = Member {
        index: network.guest.link.index(),
        name: "vnet0".into(),
        place: match at_device {
            true => Place::Port { name: "vnet0".into(), bridge },
            false => Place::Bridge(None),
        },
        rules,
        vars,
    };
    let firewall = Firewall::new(Policy { fold_up_to: 64, compile, placement: Default::default() });
    let firewall = firewall.define(Library::standard().filters.into_values()).unwrap().bind(member).unwrap();
    kernel.apply(plan(&Ruleset::default(), &firewall.ruleset())).unwrap();
    let before = tables();
    let mut tracer = Tracer::open(network.guest.link.index(), at_device.then_some("vnet0")).unwrap();
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
    let listed = Command::new("nft").args(["list", "tables"]).output().unwrap();
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
        "accept out clean-traffic:2  52:54:00:00:00:01 > ff:ff:ff:ff:ff:ff, ARP who-has 10.0.0.2 tell 10.0.0.1",
        "drop   out no-arp-ip-spoofing:",
        "drop   out no-mac-spoofing:2  52:54:00:00:00:09 > ",
        "drop   out no-other-l2-traffic:1  52:54:00:00:00:01 > ff:ff:ff:ff:ff:ff, VLAN 5, ARP who-has",
        if at_device {
            "accept in  clean-traffic:2  headers not told"
        } else {
            "accept in  clean-traffic:2  52:54:00:00:00:02 > "
        },
    ];
    assert_eq!(lines.len(), expected.len(), "{lines:#?}");
    for (line, expected) in lines.iter().zip(expected) {
        assert!(line.starts_with(expected), "{line}\n{expected}");
    }
}

#[test]
fn an_interface_that_nobody_asked_about_is_not_traced() {
    lab::in_fresh_netns(|| {
        let network = Network::new();
        let mut tracer = Tracer::open(network.guest.link.index() + 100, None).unwrap();
        network.passes(Way::FromGuest, arp_request(GUEST_IP, PEER_IP).frame());
        assert_eq!(tracer.try_event().unwrap(), None);
    });
}

/// `nwfilter trace` of a guest that the command bound to clean-traffic, from when the kernel traces.
fn running(filters: &Path, arguments: &[&str]) -> Child {
    let nwfilter = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nwfilter"));
        command.args(arguments).arg("--dir").arg(filters).env("NWFILTER_RUNTIME_DIR", filters);
        command
    };
    let bind = ["apply", "--dev", "vnet0", "--mac", "52:54:00:00:00:01", "--filter", "clean-traffic"];
    assert!(nwfilter(&bind).args(["--param", "IP=10.0.0.1"]).status().unwrap().success());
    let mut command = nwfilter(&[&["trace", "--dev", "vnet0"], arguments].concat());
    let child = command.stdout(Stdio::piped()).spawn().unwrap();
    wait_for(|| traces().len() == 1);
    child
}

fn traces() -> Vec<String> {
    tables().into_iter().filter(|table| table.contains("nwfilter-trace")).collect()
}

fn wait_for(what: impl Fn() -> bool) {
    assert!((0..500).any(|_| what() || (thread::sleep(Duration::from_millis(10)), false).1), "in vain");
}

fn frames() -> [Vec<u8>; 3] {
    let honest = arp_request(GUEST_IP, PEER_IP).frame();
    [honest.clone().into(), arp_request(FOREIGN_IP, PEER_IP).frame().into(), honest.from(FOREIGN_MAC).into()]
}

#[test]
fn a_trace_tells_of_each_frame_once_and_ends_with_its_process_however_that_ends() {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGKILL] {
        lab::in_fresh_netns(|| {
            let (network, filters) = (Network::new(), tempfile::tempdir().unwrap());
            let mut child = running(filters.path(), &[]);
            let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
            for frame in (0..100).flat_map(|_| frames()) {
                network.passes(Way::FromGuest, frame);
            }
            let told: Vec<String> = lines.by_ref().take(300).map(Result::unwrap).collect();
            let those = |what: &str| told.iter().filter(|line| line.starts_with(what)).count();
            assert_eq!(those("accept out clean-traffic:2 "), 100);
            assert_eq!(those("drop   out no-arp-ip-spoofing:"), 100);
            assert_eq!(those("drop   out no-mac-spoofing:2 "), 100);
            // SAFETY: a signal to a child that was not waited for.
            assert_eq!(unsafe { libc::kill(child.id() as i32, signal) }, 0);
            child.wait().unwrap();
            assert_eq!(lines.count(), 0, "nothing is told twice");
            wait_for(|| traces().is_empty());
            assert!(network.passes(Way::FromGuest, arp_request(GUEST_IP, PEER_IP).frame()));
        });
    }
}

/// What Wireshark's own reader says of a capture: length, length kept, direction, comment, and what the frame is.
fn read_by_tshark(file: &Path) -> Vec<[String; 5]> {
    let fields =
        ["frame.len", "frame.cap_len", "frame.packet_flags_direction", "frame.comment", "_ws.col.Info"];
    let fields = fields.iter().flat_map(|field| ["-e", field]);
    let mut tshark = Command::new("tshark");
    let output = tshark.arg("-r").arg(file).args(["-T", "fields"]).args(fields).output();
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
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let udp = udp_with(ip(GUEST_IP, PEER_IP), 1000, 53, &[7; 500]);
        network.passes(Way::FromGuest, udp);
        for frame in frames() {
            network.passes(Way::FromGuest, frame);
        }
        network.passes(Way::ToGuest, arp_request(PEER_IP, GUEST_IP).frame().inbound());
        lines.by_ref().take(5).for_each(|line| drop(line.unwrap()));
        child.kill().unwrap();
        child.wait().unwrap();
        let told = read_by_tshark(&file);
        let lines: Vec<String> = told.iter().map(|fields| fields[..4].join(" ")).collect();
        // Bytes, bytes kept, into the bridge or out of it, and the comment.
        let expected = [
            "542 54 0x00000001 accept out clean-traffic:1 (<standard>/clean-traffic.xml:7:3)",
            "42 42 0x00000001 accept out clean-traffic:2 (<standard>/clean-traffic.xml:12:3)",
            "42 42 0x00000001 drop out no-arp-ip-spoofing:2 (<standard>/no-arp-ip-spoofing.xml:7:3)",
            "42 42 0x00000001 drop out no-mac-spoofing:2 (<standard>/no-mac-spoofing.xml:8:3)",
            "42 42 0x00000002 accept in clean-traffic:2 (<standard>/clean-traffic.xml:12:3)",
        ];
        assert_eq!(lines, expected);
        assert!(told[0][4].starts_with("Standard query") && told[1][4].starts_with("Who has 10.0.0.2?"));
    });
}
