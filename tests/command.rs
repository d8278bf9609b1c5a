//! The command `nwfilter`: what it says, how it exits, what it does to the kernel, and what it leaves alone.
//!
//! Every test has a network namespace of its own, and needs root.

mod lab;
mod tool;

use lab::frames::*;
use lab::{
    Bridge, Marker, Network, Way, Wire, arrivals, guest_with_headers, in_fresh_netns, macvtap, veth,
    where_tcx_is,
};
use nwfilter::kernel::apply::Kernel;
use nwfilter::program::ir::Family;
use nwfilter::ruleset::layout::{HOSTS, TRACKED, ZONES};
use nwfilter::ruleset::nft::Ownership;
use nwfilter::ruleset::nft::probe::Features;
use nwfilter::ruleset::plan::{Plan, Step, TableOperation};
use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tool::InTime;

const MAC: &str = "52:54:00:00:00:01";

/// What a run of the command came to.
#[derive(Debug)]
struct Run {
    code: Option<i32>,
    out: String,
    err: String,
}

/// A directory for filters, and the command with that directory and no daemon.
struct Desk {
    dir: TempDir,
}

impl Desk {
    fn new(documents: &[(&str, &str)]) -> Desk {
        let dir = TempDir::new().unwrap();
        fs::create_dir(dir.path().join("filters")).unwrap();
        let desk = Desk { dir };
        documents.iter().for_each(|(name, text)| fs::write(desk.file(name), text).unwrap());
        desk
    }

    fn filters(&self) -> PathBuf {
        self.dir.path().join("filters")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.filters().join(format!("{name}.xml"))
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nwfilter"));
        command.args(arguments).env("NWFILTER_RUNTIME_DIR", self.dir.path()).current_dir("/");
        command
    }

    fn run(&self, arguments: &[&str]) -> Run {
        outcome(&mut self.command(arguments))
    }

    /// A command that reads filters.
    fn with_filters(&self, arguments: &[&str]) -> Run {
        let directory = self.filters();
        let directory = ["--dir", directory.to_str().unwrap()];
        self.run(&[arguments, &directory].concat())
    }

    /// `apply` or `plan` of this filter to the guest's interface.
    fn bind(&self, verb: &str, filter: &str) -> Run {
        // A variable that no rule reads is refused.
        let needless = fs::read_to_string(self.file(filter))
            .is_ok_and(|text| !text.contains("$IP") && !text.contains("<filterref"));
        let params: &[&str] = if needless { &[] } else { &["--param", "IP=10.0.0.1"] };
        self.with_filters(&[&[verb, "--dev", "vnet0", "--mac", MAC, "--filter", filter], params].concat())
    }
}

fn outcome(command: &mut Command) -> Run {
    let output = command.stdin(Stdio::null()).output_in_time().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Run { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

impl Run {
    /// It did what was asked, and complained at most of a kernel before Linux 6.6.
    fn done(self) -> String {
        assert_eq!((self.code, self.complaints()), (Some(0), vec![]), "{}", self.out);
        self.out
    }

    /// What it said on the standard error, but for what a kernel before Linux 6.6 lacks.
    fn complaints(&self) -> Vec<&str> {
        self.err.lines().filter(|line| !line.starts_with("note: no checksum guard")).collect()
    }

    /// It failed with this code, said all of this on the standard error, and nothing elsewhere.
    fn fails(self, code: i32, words: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert_eq!(self.out, "", "{self:?}");
        words
            .iter()
            .for_each(|word| assert!(self.err.contains(word), "{word:?} is missing in\n{}", self.err));
    }
}

fn rules_in_force() -> String {
    let output = Command::new("nft")
        .args(["list", "ruleset"])
        .output_in_time()
        .expect("nft is installed (scripts/setup)");
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

fn own() -> Frame {
    udp(ip(GUEST_IP, PEER_IP), 1234, 80)
}

const BAD: &str = "<filter name='bad' chain='root'>
  <rule action='accept' direction='out'>
    <tcp dstportstart='http'/>
  </rule>
  <rule action='dorp' direction='out'/>
</filter>
";

#[test]
fn every_fault_of_a_document_is_shown_with_its_place() {
    let desk = Desk::new(&[("bad", BAD)]);
    let path = desk.file("bad");
    let path = path.to_str().unwrap();
    let [first, second] = ["3:24", "5:17"].map(|place| format!("{path}:{place}"));
    let words = [first.as_str(), &second, "<tcp dstportstart='http'/>", "^^^^", "'dorp'", "dstportstart"];
    desk.with_filters(&["check", path]).fails(1, &words);
    desk.run(&["fmt", path]).fails(1, &words);
    let not_xml = desk.file("not-xml");
    fs::write(&not_xml, "<filter name='x'>\n  <rule>\n</filter>\n").unwrap();
    let place = format!("{}:3:", not_xml.display());
    desk.with_filters(&["check", not_xml.to_str().unwrap()]).fails(1, &[&place, "rule"]);
    let missing = desk.file("missing");
    desk.with_filters(&["check", missing.to_str().unwrap()]).fails(1, &["missing.xml: No such file"]);
}

#[test]
fn faulty_filters_change_nothing() {
    let desk = Desk::new(&[
        ("bad", BAD),
        (
            "thirsty",
            "<filter name='thirsty' chain='root'><rule action='drop' direction='out'><ip srcipaddr='$WATER'/></rule></filter>",
        ),
        ("lost", "<filter name='lost' chain='root'>\n<filterref filter='nowhere'/></filter>"),
        ("round", "<filter name='round' chain='root'><filterref filter='about'/></filter>"),
        ("about", "<filter name='about' chain='root'><filterref filter='round'/></filter>"),
        (
            "typed",
            "<filter name='typed' chain='root'><rule action='drop' direction='out'><ip srcipaddr='$MAC'/></rule></filter>",
        ),
    ]);
    in_fresh_netns(|| {
        let network = Network::new();
        desk.bind("apply", "clean-traffic").done();
        let before = rules_in_force();
        for verb in ["apply", "plan"] {
            desk.bind(verb, "bad").fails(1, &["bad.xml:3:24", "bad.xml:5:17"]);
            desk.bind(verb, "thirsty").fails(1, &["WATER"]);
            desk.bind(verb, "lost").fails(1, &["lost.xml:2:", "nowhere"]);
            desk.bind(verb, "round").fails(1, &["about.xml:1:54", "refers to itself"]);
            desk.bind(verb, "typed").fails(1, &["typed.xml:1:", "MAC"]);
            desk.bind(verb, "unheard-of").fails(1, &["unheard-of"]);
        }
        assert_eq!(rules_in_force(), before);
        assert!(network.passes(Way::FromGuest, own()));
        assert!(!network.passes(Way::FromGuest, own().from(FOREIGN_MAC)));
    });
}

#[test]
fn what_the_host_refuses_changes_nothing() {
    let stateful = "<filter name='stateful' chain='root'>\n  <rule action='accept' direction='out'>\n    <tcp dstportstart='80'/>\n  </rule>\n</filter>";
    let desk = Desk::new(&[("stateful", stateful)]);
    in_fresh_netns(|| {
        let absent = ["--dev", "vnet9", "--mac", MAC, "--filter", "clean-traffic", "--param", "IP=10.0.0.1"];
        for verb in ["apply", "plan"] {
            desk.with_filters(&[&[verb], &absent[..]].concat()).fails(3, &["vnet9: no such interface"]);
        }
        desk.run(&["remove", "--dev", "vnet9"]).fails(3, &["vnet9: no such interface"]);
        assert_eq!(rules_in_force(), "");

        let network = Network::new();
        desk.run(&["remove", "--dev", "vnet0"]).fails(3, &["vnet0: not bound"]);
        desk.bind("apply", "clean-traffic").done();
        let before = rules_in_force();
        let refused = desk.bind("apply", "stateful");
        if refused.code == Some(0) {
            return println!("skipped: this kernel tracks connections of bridges");
        }
        refused.fails(1, &["stateful.xml:2:", "rule 1", "CONFIG_NF_CONNTRACK_BRIDGE", "statematch='false'"]);
        assert_eq!(rules_in_force(), before);
        assert!(!network.passes(Way::FromGuest, own().from(FOREIGN_MAC)));
    });
}

/// The rules of a kernel that tracks connections at bridges.
#[test]
fn connections_of_a_bridges_port_are_tracked_there_alone() {
    let asks = "<filter name='asks' chain='root'>
        <rule action='accept' direction='out' priority='100'><udp/></rule>
        <rule action='drop' direction='inout' priority='500'><all/></rule></filter>";
    let desk = Desk::new(&[("asks", asks)]);
    in_fresh_netns(|| {
        if !has_at_bridges("connections", |features| features.bridge_ct.is_yes()) {
            return;
        }
        let (network, _other) = (Network::new(), Bridge::new("br1"));
        let asks = |verb: &str| {
            desk.with_filters(&[verb, "--dev", "vnet0", "--mac", MAC, "--filter", "asks"]).done()
        };
        asks("apply");
        let answer = || udp(ip(PEER_IP, GUEST_IP), 2000, 1000).inbound();
        assert!(!network.passes(Way::ToGuest, answer()), "no connection was opened");
        assert!(network.passes(Way::FromGuest, udp(ip(GUEST_IP, PEER_IP), 1000, 2000)));
        assert!(network.passes(Way::ToGuest, answer()));
        assert!(!network.passes(Way::ToGuest, udp(ip(PEER_IP, GUEST_IP), 2001, 1000).inbound()));
        let seen = || {
            let rules = rules_in_force();
            [TRACKED, ZONES, HOSTS].map(|set| listed(&rules, set).contains("\"br0\""))
        };
        assert_eq!(seen(), [true; 3], "its bridge is seen by conntrack, and has a zone and an address");
        assert!(!rules_in_force().contains("br1"));
        assert_eq!(asks("plan"), "", "it is in force");
        // Whether the other port asks for connections cannot be known: conntrack goes on to see its bridge.
        let peer = ["apply", "--dev", "peer0", "--mac", "52:54:00:00:00:02", "--filter", "allow-arp"];
        desk.with_filters(&peer).done();
        assert_eq!(seen(), [true; 3]);
        desk.run(&["remove", "--dev", "peer0"]).done();
        assert_eq!(seen(), [true; 3]);
        desk.run(&["remove", "--dev", "vnet0"]).done();
        let left = rules_in_force();
        assert!(!left.contains("\"br0\"") && !left.contains("notrack"), "{left}");
    });
}

#[test]
fn a_guest_at_a_bridge_hears_that_it_was_rejected() {
    let rejects = "<filter name='rejects' chain='root'>
        <rule action='accept' direction='in' priority='100' statematch='false'><icmp type='3'/></rule>
        <rule action='reject' direction='out' priority='500' statematch='false'><udp/></rule></filter>";
    let desk = Desk::new(&[("rejects", rejects)]);
    in_fresh_netns(|| {
        let answers = has_at_bridges("rejections", |features| features.bridge_reject.is_yes());
        let network = Network::new();
        // Where no answer can be sent, it says so.
        let run = desk.with_filters(&["apply", "--dev", "vnet0", "--mac", MAC, "--filter", "rejects"]);
        assert_eq!((run.code, run.complaints().is_empty()), (Some(0), answers), "{run:?}");
        assert!(!network.passes(Way::FromGuest, udp(ip(GUEST_IP, PEER_IP), 1000, 2000)));
        if answers {
            network.guest.send(&Vec::from(udp(ip(GUEST_IP, PEER_IP), 1000, 2001))).unwrap();
            let deadline = Instant::now() + Duration::from_secs(20);
            let is_unreachable =
                |frame: &Vec<u8>| frame[12..14] == [8, 0] && frame[23] == 1 && frame[34..36] == [3, 3];
            let heard = std::iter::from_fn(|| {
                network.guest.recv_within(deadline.saturating_duration_since(Instant::now()))
            });
            assert!({ heard }.any(|frame| is_unreachable(&frame)), "no answer");
        }
    });
}

/// What is listed of a set or map of this name.
fn listed<'a>(rules: &'a str, name: &str) -> &'a str {
    let begins = [format!("set {name} {{"), format!("map {name} {{")];
    let from = begins.iter().find_map(|begin| rules.find(begin)).unwrap_or(rules.len());
    rules[from..].split("\n\t}").next().unwrap_or_default()
}

/// Whether this kernel has that for bridges. A complete one does.
fn has_at_bridges(what: &str, has: fn(&Features) -> bool) -> bool {
    let there = has(&Kernel::open(Ownership::Shared).unwrap().features());
    assert!(there || std::env::var_os("NWFILTER_KERNEL_IS_COMPLETE").is_none(), "no {what} at bridges");
    if !there {
        println!("skipped: this kernel has no {what} at bridges");
    }
    there
}

#[test]
fn foreign_rules_of_an_interface_go_with_its_next_apply() {
    let desk = Desk::new(&[]);
    in_fresh_netns(|| {
        let network = Network::new();
        network.guest.link.set_master(None);
        desk.bind("apply", "clean-traffic").done();
        network.bridge.add(network.guest.link);
        desk.bind("apply", "clean-traffic").done();
        let other = ["apply", "--dev", "peer0", "--mac", "52:54:00:00:00:02", "--filter", "allow-arp"];
        let before = rules_in_force();
        let program = before.lines().find_map(|line| line.trim().strip_prefix("chain clean-traffic/"));
        let program = program.unwrap().trim_end_matches(" {").to_owned();
        for change in [
            format!("insert rule bridge nwfilter clean-traffic/{program} accept"),
            "insert rule bridge nwfilter prerouting accept".into(),
            "insert rule bridge nwfilter drop-iif accept".into(),
            "add element bridge nwfilter from-guest { 1 : accept }".into(),
            "add chain bridge nwfilter prerouting { policy drop; }".into(),
            "add chain bridge nwfilter evil { type filter hook prerouting priority -500; policy accept; }"
                .into(),
        ] {
            nft(&change);
            assert_ne!(desk.bind("plan", "clean-traffic").done(), "", "{change}");
            desk.bind("apply", "clean-traffic").done();
            assert_eq!(desk.bind("plan", "clean-traffic").done(), "", "{change}");
            assert!(!network.passes(Way::FromGuest, own().from(FOREIGN_MAC)), "{change}");
            assert!(network.passes(Way::FromGuest, own()), "{change}");
        }
        // Where others' rules would be lost, nothing is done.
        desk.with_filters(&other).done();
        nft("add chain bridge nwfilter prerouting { policy drop; }");
        desk.bind("apply", "clean-traffic").fails(3, &["replaced whole", "start nwfilterd"]);
    });
}

// P-17
#[test]
fn what_is_written_and_what_is_in_force_go_together() {
    let desk = Desk::new(&[]);
    in_fresh_netns(|| {
        let network = Network::new();
        let status = desk.dir.path().join("nwfilter-binding/vnet0.xml");
        // A first binding whose status file cannot be written is taken back.
        fs::create_dir_all(&status).unwrap();
        desk.bind("apply", "clean-traffic").fails(3, &["status files"]);
        assert!(!rules_in_force().contains("clean-traffic"));
        assert!(network.passes(Way::FromGuest, own().from(FOREIGN_MAC)));
        fs::remove_dir(&status).unwrap();
        desk.bind("apply", "clean-traffic").done();
        let (written, rules) = (fs::read_to_string(&status).unwrap(), rules_in_force());
        let kernel = Kernel::open(Ownership::OwnedAndKept).unwrap();
        if !kernel.features().owner_persist.is_yes() {
            return println!("skipped: this kernel has no owned tables");
        }
        // The kernel refuses whatever others want of a table that is ours.
        let adopt = Step { family: Family::Bridge, change: TableOperation::AddTable };
        kernel.apply(Plan { prepare: vec![adopt], ..Plan::default() }).unwrap();
        let owned = rules_in_force();
        desk.bind("apply", "no-ip-spoofing").fails(3, &["another process may own the table"]);
        desk.run(&["remove", "--dev", "vnet0"]).fails(3, &["another process may own the table"]);
        assert_eq!(fs::read_to_string(&status).unwrap(), written);
        assert_eq!(rules_in_force(), owned);
        drop(kernel);
        assert!(rules.contains("clean-traffic") && !network.passes(Way::FromGuest, own().from(FOREIGN_MAC)));
    });
}

fn nft(command: &str) {
    let output = Command::new("nft").arg(command).output_in_time().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn without_rights_it_says_so() {
    let desk = Desk::new(&[]);
    let mut command = Command::new("setpriv");
    // A copy where anybody may read and run it.
    let copy = desk.dir.path().join("nwfilter");
    fs::copy(env!("CARGO_BIN_EXE_nwfilter"), &copy).unwrap();
    Command::new("chmod").args(["-R", "a+rX"]).arg(desk.dir.path()).status_in_time().unwrap();
    command
        .args(["--reuid", "65534", "--clear-groups"])
        .arg(copy)
        .arg("status")
        .env("NWFILTER_RUNTIME_DIR", desk.dir.path());
    in_fresh_netns(|| {
        let run = outcome(command.current_dir("/"));
        run.fails(3, &["netfilter", "ermi"]);
        assert_eq!(rules_in_force(), "");
    });
}

#[test]
fn a_wrong_command_line_differs_from_other_failures() {
    let desk = Desk::new(&[]);
    for (arguments, word) in [
        (&["frobnicate"][..], "frobnicate"),
        (&[], "Usage"),
        (&["apply", "--dev", "vnet0"], "--mac"),
        (&["apply", "--dev", "vnet0", "--mac", "52:54", "--filter", "x"], "52:54"),
        (&["compile", "--filter", "x", "--param", "IP"], "NAME=VALUE"),
        (&["compile", "--filter", "x", "--param", "A-B=1"], "A-B"),
        (&["remove"], "--dev"),
        (&["ipset", "add", "x"], "ADDRESSES"),
    ] {
        desk.run(arguments).fails(2, &[word]);
    }
}

#[test]
fn fmt_writes_what_libvirt_writes_and_is_done_then() {
    let desk = Desk::new(&[]);
    let Some(data) = std::env::var_os("NWFILTER_LIBVIRT_DATA").map(PathBuf::from) else {
        println!("skipped: NWFILTER_LIBVIRT_DATA does not name a directory with libvirt's test data");
        return;
    };
    let mut compared = 0;
    for entry in fs::read_dir(data.join("xml-in")).unwrap() {
        let input = entry.unwrap().path();
        let wanted = data.join("xml-out").join(input.file_name().unwrap());
        let Ok(wanted) = fs::read_to_string(&wanted) else { continue };
        let run = desk.run(&["fmt", input.to_str().unwrap()]);
        if input.file_stem().unwrap().to_string_lossy().ends_with("-invalid") {
            continue;
        }
        // The test outputs know no uuid that was made up.
        let text = run.done();
        let without_uuid = |text: &str| -> String {
            text.lines().filter(|line| !line.contains("<uuid>")).map(|line| format!("{line}\n")).collect()
        };
        assert_eq!(without_uuid(&text), without_uuid(&wanted), "{}", input.display());
        fs::write(desk.file("again"), &text).unwrap();
        let again = desk.file("again");
        assert_eq!(desk.run(&["fmt", again.to_str().unwrap()]).done(), text);
        desk.run(&["fmt", "--write", again.to_str().unwrap()]).done();
        assert_eq!(fs::read_to_string(&again).unwrap(), text);
        compared += 1;
    }
    assert!(compared >= 10, "{compared} documents compared");
}

#[test]
fn check_reads_the_standard_input() {
    let desk = Desk::new(&[]);
    let mut child =
        desk.command(&["check", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(BAD.as_bytes()).unwrap();
    let output = child.output_in_time().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("<stdin>:3:24"));
}

#[test]
fn compile_prints_valid_nft_and_json_that_round_trips() {
    let desk = Desk::new(&[]);
    let arguments = [
        "compile",
        "--filter",
        "clean-traffic",
        "--param",
        "MAC=52:54:00:00:00:01",
        "--param",
        "IP=10.0.0.1",
    ];
    let text = desk.with_filters(&arguments).done();
    assert!(text.contains("ip saddr 10.0.0.1") && text.contains("comment \"no-ip-spoofing:2\""), "{text}");
    in_fresh_netns(|| {
        let mut nft = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
        nft.stdin.take().unwrap().write_all(format!("table bridge t {{\n{text}}}\n").as_bytes()).unwrap();
        assert!(nft.status_in_time().unwrap().success(), "{text}");
    });
    let slots = desk.with_filters(&[&arguments[..], &["--slots"]].concat()).done();
    assert!(slots.contains("@IP.ipv4") && !slots.contains("10.0.0.1"), "{slots}");
    let json: serde_json::Value =
        serde_json::from_str(&desk.with_filters(&[&arguments[..], &["--json"]].concat()).done()).unwrap();
    assert_eq!((&json["filter"], &json["stateful"]), (&"clean-traffic".into(), &false.into()));
    let rules: Vec<&serde_json::Value> = json["chains"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|chain| chain["rules"].as_array().unwrap())
        .collect();
    let rule = rules.iter().find(|rule| rule["nft"].as_str().unwrap().contains("ip saddr 10.0.0.1")).unwrap();
    assert_eq!((&rule["filter"], &rule["rule"]), (&"no-ip-spoofing".into(), &2.into()));
    assert_eq!(rule["place"], "<standard>/no-ip-spoofing.xml:8:3");
}

#[test]
fn an_interface_is_bound_seen_changed_and_released() {
    let desk = Desk::new(&[]);
    in_fresh_netns(|| {
        let network = Network::new();
        let passes = |frame: Frame| network.passes(Way::FromGuest, frame);
        let foreign = || own().from(FOREIGN_MAC);

        let planned = desk.bind("plan", "clean-traffic").done();
        assert!(planned.contains("clean-traffic"), "{planned}");
        assert_eq!(rules_in_force(), "", "plan sends nothing");

        desk.bind("apply", "clean-traffic").done();
        assert!(passes(own()) && !passes(foreign()));
        let bound = rules_in_force();
        desk.bind("apply", "clean-traffic").done();
        assert_eq!(rules_in_force(), bound, "to apply twice changes nothing");
        let nothing = desk.bind("plan", "clean-traffic").done();
        assert!(!nothing.contains("add") && !nothing.contains("delete"), "{nothing}");

        let status = desk.run(&["status"]).done();
        assert!(
            status.lines().any(|line| line.starts_with("vnet0 ") && line.contains("clean-traffic")),
            "{status}"
        );
        let json: serde_json::Value = serde_json::from_str(&desk.run(&["status", "--json"]).done()).unwrap();
        let interface = &json["interfaces"][0];
        assert_eq!((&interface["name"], &interface["filter"]), (&"vnet0".into(), &"clean-traffic".into()));
        assert_eq!(interface["index"], network.guest.link.index());

        desk.bind("apply", "no-ip-spoofing").done();
        assert!(passes(own()) && passes(foreign()) && !passes(udp(ip(FOREIGN_IP, PEER_IP), 1, 2)));
        assert!(!rules_in_force().contains("clean-traffic"), "{}", rules_in_force());

        desk.run(&["remove", "--dev", "vnet0"]).done();
        assert!(passes(foreign()));
        desk.run(&["remove", "--dev", "vnet0"]).fails(3, &["vnet0: not bound"]);
        let status = desk.run(&["status"]).done();
        assert!(!status.contains("vnet0"), "{status}");
    });
}

#[test]
fn a_replaced_document_keeps_its_mode_and_links() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let desk = Desk::new(&[("small", "<filter name='small'><rule action='drop' direction='out'/></filter>")]);
    let (file, link) = (desk.file("small"), desk.dir.path().join("link.xml"));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    symlink(&file, &link).unwrap();
    let wanted = desk.run(&["fmt", link.to_str().unwrap()]).done();
    desk.run(&["fmt", "--write", link.to_str().unwrap()]).done();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(fs::read_to_string(&file).unwrap(), wanted);
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o640);
    assert_eq!(fs::read_dir(desk.filters()).unwrap().count(), 1, "nothing else is left there");
}

#[test]
fn what_was_done_is_said() {
    let desk = Desk::new(&[]);
    in_fresh_netns(|| {
        let network = Network::new();
        let _other = network.add_port("vnet1");
        assert_eq!(desk.bind("apply", "clean-traffic").done(), "vnet0: filtered by clean-traffic\n");
        let more = ["apply", "--dev", "vnet1", "--mac", MAC, "--filter", "no-mac-spoofing"];
        assert_eq!(desk.with_filters(&more).done(), "vnet1: filtered by no-mac-spoofing\n");
        let status = desk.run(&["status"]).done();
        assert!(status.starts_with("nwfilterd does not run: "), "{status}");
        let header = status.lines().nth(1).unwrap();
        for column in ["INTERFACE", "GUEST", "MAC", "FILTER", "STATE", "PLACE"] {
            assert!(header.contains(column), "{header}");
        }
        let line = status.lines().find(|line| line.starts_with("vnet0 ")).unwrap();
        for word in [MAC, "clean-traffic", "filtered", "bridge br0"] {
            assert!(line.contains(word), "{line}");
        }
        assert_eq!(desk.run(&["list"]).done(), status, "who types list means this");
        let details = desk.run(&["status", "--dev", "vnet0"]).done();
        assert!(details.contains("index: ") && details.contains("program: clean-traffic/"), "{details}");

        let runtime = desk.dir.path().to_str().unwrap();
        for place in [&["--runtime-dir", runtime, "status"], &["status", "--runtime-dir", runtime]] {
            let mut command = desk.command(place);
            assert_eq!(outcome(command.env("NWFILTER_RUNTIME_DIR", "/nonexistent")).done(), status);
        }
        let help = desk.run(&["trace", "--help"]).done();
        assert!(help.contains("--runtime-dir") && help.contains("NWFILTER_RUNTIME_DIR"), "{help}");

        let removed = desk.run(&["remove", "--dev", "vnet0", "--dev", "vnet9"]);
        assert_eq!(
            (removed.code, removed.out.as_str()),
            (Some(3), "vnet0: no longer filtered\n"),
            "{removed:?}"
        );
        assert!(removed.err.contains("vnet9: no such interface"), "{removed:?}");
        desk.bind("apply", "clean-traffic").done();
        let removed = desk.run(&["remove", "--all"]).done();
        assert_eq!(removed, "vnet0: no longer filtered\nvnet1: no longer filtered\n");
        assert_eq!(rules_in_force(), "", "no empty table stays");
        assert!(network.passes(Way::FromGuest, own().from(FOREIGN_MAC)));
        desk.run(&["ipset", "add", "kept", "10.0.0.1"]).done();
        desk.bind("apply", "clean-traffic").done();
        desk.run(&["remove", "--all"]).done();
        assert_eq!(desk.run(&["ipset", "list", "kept"]).done(), "10.0.0.1\n", "what was put in stays");
    });
}

#[test]
fn filters_are_defined_and_undefined_in_their_directory() {
    let desk = Desk::new(&[(
        "old",
        "<filter name='old'><uuid>c7a5fdbd-edaf-9455-926a-d65c16db1809</uuid></filter>",
    )]);
    let file = |name: &str, text: &str| {
        let path = desk.dir.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let new = file("new.xml", "<filter name='old'>\n<rule action='drop' direction='out'/></filter>");
    let bad = file("bad.xml", "<filter name='bad'>\n<rule action='dorp' direction='out'/></filter>");
    let lost = file("lost.xml", "<filter name='lost'>\n<filterref filter='nowhere'/></filter>");
    let before = fs::read_to_string(desk.file("old")).unwrap();
    for (fault, word) in [(&bad, "bad.xml:2:"), (&lost, "lost.xml:2:")] {
        desk.with_filters(&["define", &new, fault]).fails(1, &[word]);
        assert_eq!(fs::read_to_string(desk.file("old")).unwrap(), before);
        assert_eq!(fs::read_dir(desk.filters()).unwrap().count(), 1);
    }
    in_fresh_netns(|| {
        let _network = Network::new();
        desk.bind("apply", "old").done();
        let reported = desk.with_filters(&["define", &new]).done();
        assert!(
            reported.starts_with("old: redefined, 1 guest uses it (vnet0), with its old rules until"),
            "{reported}"
        );
        let text = fs::read_to_string(desk.file("old")).unwrap();
        assert!(
            text.contains("c7a5fdbd-edaf-9455-926a-d65c16db1809") && text.contains("action='drop'"),
            "{text}"
        );
        let in_use = ["filter 'old' is in use by vnet0", "bind them to another filter"];
        desk.with_filters(&["undefine", "old"]).fails(3, &in_use);
        desk.with_filters(&["undefine", "odl"])
            .fails(1, &["no filter is called 'odl'", "did you mean 'old'?"]);
        desk.run(&["remove", "--dev", "vnet0"]).done();
        assert_eq!(desk.with_filters(&["undefine", "old"]).done(), "old: undefined\n");
        assert!(!desk.file("old").exists());
    });
}

#[test]
fn two_interfaces_are_bound_by_two_runs() {
    let desk = Desk::new(&[]);
    in_fresh_netns(|| {
        let network = Network::new();
        let _other = network.add_port("vnet1");
        desk.bind("apply", "clean-traffic").done();
        let more = [
            "apply",
            "--dev",
            "vnet1",
            "--mac",
            "52:54:00:00:00:03",
            "--filter",
            "clean-traffic",
            "--param",
            "IP=10.0.0.3",
        ];
        desk.with_filters(&more).done();
        assert!(
            network.passes(Way::FromGuest, own()) && !network.passes(Way::FromGuest, own().from(FOREIGN_MAC))
        );
        let status = desk.run(&["status"]).done();
        assert!(status.contains("vnet0") && status.contains("vnet1"), "{status}");
        desk.run(&["remove", "--dev", "vnet1"]).done();
        assert!(!network.passes(Way::FromGuest, own().from(FOREIGN_MAC)), "the other stays bound");
    });
}

#[test]
fn a_link_that_is_gone_is_removed_by_its_index() {
    let desk = Desk::new(&[]);
    in_fresh_netns(|| {
        let network = Network::new();
        desk.bind("apply", "clean-traffic").done();
        let index = network.guest.link.index().to_string();
        network.guest.link.delete();
        desk.run(&["remove", "--index", &index]).done();
        desk.run(&["remove", "--index", &index]).fails(3, &["not bound"]);
        assert!(!rules_in_force().contains("clean-traffic"));
    });
}

#[test]
fn counters_count_what_each_rule_took() {
    let desk = Desk::new(&[]);
    in_fresh_netns(|| {
        let network = Network::new();
        let arguments =
            ["apply", "--dev", "vnet0", "--mac", MAC, "--filter", "no-mac-spoofing", "--counters"];
        desk.with_filters(&arguments).done();
        (0..3).for_each(|_| assert!(!network.passes(Way::FromGuest, own().from(FOREIGN_MAC))));
        assert!(network.passes(Way::FromGuest, own()));
        let status = desk.run(&["status"]).done();
        let counted = |rule: &str, frames: u32| {
            let frames = if frames == 1 { "1 frame".into() } else { format!("{frames} frames") };
            status.lines().any(|line| line.contains(&format!("{rule}: {frames}, ")))
        };
        assert!(counted("no-mac-spoofing:2", 3) && counted("no-mac-spoofing:1", 1), "{status}");
        let status = desk.run(&["status", "--dev", "vnet0"]).done();
        assert!(status.contains("dropped by filter 'no-mac-spoofing' rule 2: 3 frames"), "{status}");
    });
}

#[test]
fn an_ipset_is_filled_and_emptied_under_the_rules_that_read_it() {
    let filter = "<filter name='friends' chain='root'>
        <rule action='accept' direction='out' statematch='0'><all ipset='friends' ipsetflags='dst'/></rule>
        <rule action='accept' direction='out' statematch='0'><all-ipv6 ipset='friends' ipsetflags='dst'/></rule>
        <rule action='drop' direction='inout'><all/></rule>
        <rule action='drop' direction='inout'><all-ipv6/></rule>
      </filter>";
    let desk = Desk::new(&[("friends", filter)]);
    in_fresh_netns(|| {
        let network = Network::new();
        let passes = |to: &str| network.passes(Way::FromGuest, udp(ip(GUEST_IP, to), 1, 2));
        let passes6 = |to: &str| network.passes(Way::FromGuest, udp(ip6("2001:db8::1", to), 1, 2));
        let list = || desk.run(&["ipset", "list", "friends"]).done();
        let way_out = [
            "friends.xml:2:",
            "it does not exist",
            "nwfilter ipset add friends",
            "nwfilter ipset flush friends",
        ];
        desk.bind("apply", "friends").fails(3, &way_out);
        desk.run(&["ipset", "list", "friends"])
            .fails(1, &["there is no set 'friends'", "nwfilter ipset add"]);
        assert_eq!(rules_in_force(), "");
        desk.run(&["ipset", "flush", "friends"]).done();
        desk.bind("apply", "friends").done();
        assert!(!passes("10.0.0.2") && !passes6("2001:db8::2"), "an empty set has no member");
        desk.run(&["ipset", "add", "friends", "10.0.0.2", "10.0.0.3", "2001:db8::2"]).done();
        assert_eq!(list(), "10.0.0.2\n10.0.0.3\n2001:db8::2\n");
        assert!(passes("10.0.0.2") && passes("10.0.0.3") && !passes("10.0.0.4"));
        assert!(passes6("2001:db8::2") && !passes6("2001:db8::3"));
        assert!(network.passes(Way::ToGuest, udp(ip("10.0.0.2", GUEST_IP), 2, 1)), "the reverse rule");
        assert!(!network.passes(Way::ToGuest, udp(ip("10.0.0.4", GUEST_IP), 2, 1)));
        desk.bind("apply", "friends").done();
        assert_eq!(list(), "10.0.0.2\n10.0.0.3\n2001:db8::2\n", "to apply again keeps the set");
        desk.run(&["ipset", "del", "friends", "10.0.0.2"]).done();
        assert!(!passes("10.0.0.2") && passes("10.0.0.3"));
        let before = rules_in_force();
        desk.run(&["ipset", "add", "friends", "10.0.0.7", "10.0.0.300"]).fails(1, &["10.0.0.300"]);
        desk.run(&["ipset", "add", "fri/ends", "10.0.0.7"]).fails(1, &["fri/ends"]);
        assert_eq!(rules_in_force(), before);
        desk.run(&["ipset", "flush", "friends"]).done();
        assert_eq!(list(), "");
        assert!(!passes("10.0.0.3") && !passes6("2001:db8::2"));
    });
}

#[test]
fn an_ipset_may_begin_with_a_digit() {
    for name in ["9lives", ".x", "a+b"] {
        let filter = format!(
            "<filter name='f' chain='root'><rule action='drop' direction='out'><all ipset='{name}' ipsetflags='src'/></rule></filter>"
        );
        let desk = Desk::new(&[("f", &filter)]);
        in_fresh_netns(|| {
            let network = Network::new();
            desk.run(&["ipset", "flush", name]).done();
            desk.bind("apply", "f").done();
            assert!(network.passes(Way::FromGuest, own()), "{name}");
            desk.run(&["ipset", "add", name, GUEST_IP]).done();
            assert!(!network.passes(Way::FromGuest, own()), "{name}");
            assert_eq!(desk.run(&["ipset", "list", name]).done(), "10.0.0.1\n");
        });
    }
}

#[test]
fn completions_and_man_pages_come_from_the_command_line_itself() {
    let desk = Desk::new(&[]);
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let text = desk.run(&["completions", shell]).done();
        assert!(text.contains("nwfilter") && text.contains("ipset"), "{shell}");
    }
    let pages = desk.dir.path().join("man");
    fs::create_dir(&pages).unwrap();
    desk.run(&["man", "--dir", pages.to_str().unwrap()]).done();
    for page in ["nwfilter.1", "nwfilter-apply.1", "nwfilter-ipset.1"] {
        let text = fs::read_to_string(pages.join(page)).unwrap_or_else(|why| panic!("{page}: {why}"));
        assert!(text.contains(".TH"), "{page}");
    }
    assert!(desk.run(&["--version"]).done().starts_with("nwfilter "));
    assert!(desk.run(&["--help"]).done().contains("apply"));
}

#[test]
fn paths_are_taken_from_where_it_is_started() {
    let desk = Desk::new(&[(
        "small",
        "<filter name='small' chain='root'><rule action='accept' direction='out'><mac/></rule></filter>",
    )]);
    for (place, directory, file) in
        [(desk.dir.path(), "filters", "filters/small.xml"), (&desk.filters(), ".", "small.xml")]
    {
        let run = |arguments: &[&str]| outcome(desk.command(arguments).current_dir(place));
        assert!(run(&["compile", "--filter", "small", "--dir", directory]).done().contains("small:1"));
        run(&["check", file, "--dir", directory]).done();
    }
}

#[test]
fn an_interface_that_no_bridge_sees_is_never_shown_as_filtered() {
    in_fresh_netns(|| {
        let (network, desk) = (Network::new(), Desk::new(&[]));
        desk.bind("apply", "clean-traffic").done();
        assert!(!desk.run(&["status"]).done().contains("not filtered"));
        network.guest.link.set_master(None);
        assert!(desk.run(&["status"]).done().contains("not filtered: no port of a bridge"));
    });
}

#[test]
fn an_interface_without_a_bridge_is_filtered_at_its_own_hooks() {
    in_fresh_netns(|| {
        let (lower, far) = veth("lower", "far");
        [lower, far].into_iter().for_each(|link| link.up());
        [lower, far].into_iter().for_each(|link| link.ready());
        let (far, guest) = (Wire::open(&far), macvtap("vnet0", lower, GUEST_MAC).expect("macvtap"));
        let desk = Desk::new(&[]);
        let passes = |from| {
            let frame = Vec::from(udp(ip(GUEST_IP, PEER_IP), 1, 2).from(from));
            let marker = udp(ip(GUEST_IP, PEER_IP), 1, 3).from(GUEST_MAC).into();
            let marker = Marker { frame: marker, from: &guest, to: &far };
            arrivals(&frame, &guest, &far, vec![marker]).contains(&frame)
        };
        assert!(passes(GUEST_MAC) && passes(FOREIGN_MAC));
        for _ in 0..2 {
            desk.bind("apply", "clean-traffic").done();
            assert!(passes(GUEST_MAC) && !passes(FOREIGN_MAC));
        }
        let status = desk.run(&["status"]).done();
        assert!(status.contains("device (macvtap, bridge)") && !status.contains("not filtered"), "{status}");
        desk.run(&["remove", "--dev", "vnet0"]).done();
        assert!(passes(FOREIGN_MAC));
    });
}

#[test]
fn an_interface_new_to_a_bridge_moves_with_the_next_apply() {
    in_fresh_netns(|| {
        let (network, desk) = (Network::new(), Desk::new(&[]));
        network.guest.link.set_master(None);
        desk.bind("apply", "clean-traffic").done();
        assert!(desk.run(&["status"]).done().trim_end().ends_with("device"));
        network.bridge.add(network.guest.link);
        assert!(desk.bind("plan", "clean-traffic").done().contains("netdev"));
        desk.bind("apply", "clean-traffic").done();
        assert!(desk.run(&["status"]).done().trim_end().ends_with("bridge br0"));
        let frame = || udp(ip(GUEST_IP, PEER_IP), 1, 2);
        assert!(network.passes(Way::FromGuest, frame()));
        assert!(!network.passes(Way::FromGuest, frame().from(FOREIGN_MAC)));
    });
}

// P-22
#[test]
fn connections_without_a_bridge_are_judged_in_the_ip_layer() {
    in_fresh_netns(|| {
        if !Kernel::open(Ownership::Shared).unwrap().features().inet_ct.is_yes() {
            println!("skipped: this kernel tracks no connections");
            return;
        }
        let asks = "<filter name='asks'><rule action='accept' direction='out'><udp/></rule></filter>";
        let (network, desk) = (Network::new(), Desk::new(&[("asks", asks)]));
        network.guest.link.set_master(None);
        let before = rules_in_force();
        desk.bind("apply", "asks").done();
        assert!(rules_in_force().contains("ct state established,new ct direction original"));
        assert_eq!(desk.bind("plan", "asks").done(), "", "it is in force");
        assert!(desk.run(&["status"]).done().contains("device, packets asks/"));
        desk.bind("apply", "clean-traffic").done();
        assert!(desk.run(&["status"]).done().trim_end().ends_with("device"));
        assert!(!rules_in_force().contains("ct state"));
        desk.run(&["remove", "--dev", "vnet0"]).done();
        let left = rules_in_force().replace("table bridge nwfilter", "");
        assert!(before.is_empty() && !left.contains("table "), "{left}");
    });
}

#[test]
fn a_renamed_routed_interface_is_blocked_at_a_bridge() {
    in_fresh_netns(|| {
        if !Kernel::open(Ownership::Shared).unwrap().features().lasting_hooks.is_yes() {
            println!("skipped: old kernels rename no link that is up");
            return;
        }
        let asks = "<filter name='asks'><rule action='accept' direction='out'><udp/></rule></filter>";
        let (network, desk) = (Network::new(), Desk::new(&[("asks", asks)]));
        let guest = network.guest.link;
        guest.set_master(None);
        desk.bind("apply", "asks").done();
        guest.rename("other");
        network.bridge.add(guest);
        let frame = || udp(ip(GUEST_IP, PEER_IP), 1, 2);
        assert!(!network.passes(Way::FromGuest, frame()) && !network.passes(Way::ToGuest, frame()));
        desk.run(&["remove", "--index", &guest.index().to_string()]).done();
        assert!(network.passes(Way::FromGuest, frame()));
    });
}

#[test]
fn a_status_file_is_there_while_an_interface_is_bound() {
    in_fresh_netns(|| {
        let (_network, desk) = (Network::new(), Desk::new(&[]));
        let file = desk.dir.path().join("nwfilter-binding/vnet0.xml");
        desk.bind("apply", "clean-traffic").done();
        assert!(fs::read_to_string(&file).unwrap().contains("<filterref filter='clean-traffic'>"));
        desk.run(&["remove", "--dev", "vnet0"]).done();
        assert!(!file.exists());
    });
}

#[test]
fn without_the_daemon_a_guest_cannot_place_a_checksum() {
    where_tcx_is(|| {
        let (guest, wire) = guest_with_headers();
        let request: Vec<u8> = arp_request(GUEST_IP, "10.0.0.2").frame().into();
        let honest = [&[0; 10][..], &request].concat();
        // The kernel is to write a checksum into the sender's address.
        let crooked = [&[1, 0, 0, 0, 0, 0, 20, 0, 10, 0][..], &request].concat();
        let passes = |frame: &[u8]| {
            guest.send(frame).unwrap();
            !wire.drain().is_empty()
        };
        let desk = Desk::new(&[(
            "open",
            "<filter name='open'><rule action='accept' direction='inout'><all/></rule></filter>",
        )]);
        assert!(passes(&crooked), "the kernel itself lets it pass");
        for turn in ["bound", "bound again"] {
            desk.bind("apply", "open").done();
            assert!(passes(&honest) && !passes(&crooked), "{turn}");
        }
        desk.run(&["remove", "--dev", "vnet0"]).done();
        assert!(passes(&crooked), "the guard goes with the binding");
    });
}

/// A tun device: packets without Ethernet headers, which every rule overlooks.
fn tun(name: &str) -> File {
    let device = File::options().read(true).write(true).open("/dev/net/tun").unwrap();
    let mut request = [0u8; 40];
    request[..name.len()].copy_from_slice(name.as_bytes());
    request[16..18].copy_from_slice(&1u16.to_ne_bytes());
    // SAFETY: TUNSETIFF reads and writes a request of this length.
    let outcome =
        unsafe { libc::ioctl(std::os::fd::AsRawFd::as_raw_fd(&device), 0x4004_54ca, request.as_mut_ptr()) };
    assert_eq!(outcome, 0, "{}", std::io::Error::last_os_error());
    device
}

#[test]
fn an_interface_that_carries_no_ethernet_frames_is_refused() {
    in_fresh_netns(|| {
        let _device = tun("vnet0");
        let desk = Desk::new(&[(
            "blocked",
            "<filter name='blocked'><rule action='drop' direction='inout'><all/></rule></filter>",
        )]);
        desk.bind("apply", "blocked").fails(1, &["vnet0", "no Ethernet frames"]);
        assert_eq!(rules_in_force(), "");
    });
}

#[test]
fn an_interface_that_is_no_guests_is_refused() {
    in_fresh_netns(|| {
        let _bridge = Bridge::new("br0");
        let desk = Desk::new(&[]);
        for (dev, why) in [("lo", "the host's way to itself"), ("br0", "bind the bridge's ports")] {
            let arguments =
                ["apply", "--dev", dev, "--mac", MAC, "--filter", "clean-traffic", "--param", "IP=10.0.0.1"];
            desk.with_filters(&arguments).fails(1, &[dev, why]);
            assert_eq!(rules_in_force(), "");
        }
    });
}

#[test]
fn a_mac_address_that_is_not_the_guests_is_refused() {
    in_fresh_netns(|| {
        let network = Network::new();
        let desk = Desk::new(&[]);
        let bind = |macs: &[&str]| {
            let params: Vec<String> = macs.iter().map(|mac| format!("--param=MAC={mac}")).collect();
            let mut arguments = vec![
                "apply",
                "--dev",
                "vnet0",
                "--mac",
                MAC,
                "--filter",
                "clean-traffic",
                "--param",
                "IP=10.0.0.1",
            ];
            arguments.extend(params.iter().map(String::as_str));
            desk.with_filters(&arguments)
        };
        bind(&["52:54:00:00:00:77"]).fails(1, &["'MAC' is 52:54:00:00:00:77", MAC, "leave 'MAC' out"]);
        assert_eq!(rules_in_force(), "");
        // A guest may have several.
        bind(&["52:54:00:00:00:77", &MAC.to_uppercase()]).done();
        assert!(!network.passes(Way::FromGuest, own().from(FOREIGN_MAC)));
    });
}
