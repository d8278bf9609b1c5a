//! The daemon among others that rule the host's firewall, and its own end and return: what guests notice.
//!
//! Needs root and nft. On kernels whose tables can have an owner nothing that others flush is ours; elsewhere the daemon
//! restores what was flushed, and the time that takes is measured and printed.

#[path = "../lab/mod.rs"]
mod lab;

use lab::frames::*;
use lab::{Network, Verdict, Way, in_fresh_netns};
use nwfilter::apply::Kernel;
use nwfilter::library::STANDARD;
use nwfilter::nft::Ownership;
use nwfilter::rpc::client::Client;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// No restoration may take longer, on the slowest emulated machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// A daemon with directories of its own, in this thread's namespace.
struct Daemon {
    directory: TempDir,
    process: Child,
}

impl Daemon {
    fn start() -> Daemon {
        let directory = TempDir::new().unwrap();
        let filters = directory.path().join("filters");
        std::fs::create_dir(&filters).unwrap();
        for (name, text) in STANDARD {
            std::fs::write(filters.join(format!("{name}.xml")), text).unwrap();
        }
        let process = Daemon::spawn(directory.path());
        Daemon { directory, process }
    }

    fn spawn(directory: &Path) -> Child {
        let at = |name: &str| directory.join(name);
        ["filters", "state", "run"].iter().for_each(|name| std::fs::create_dir_all(at(name)).unwrap());
        let log = std::fs::File::options().create(true).append(true).open(at("log")).unwrap();
        let mut process = Command::new(env!("CARGO_BIN_EXE_nwfilterd"))
            .args(["--log-level", "warn", "--filter-dir"])
            .arg(at("filters"))
            .arg("--state-dir")
            .arg(at("state"))
            .arg("--runtime-dir")
            .arg(at("run"))
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let began = Instant::now();
        let answers = || {
            Client::connect(&at("run/virtnwfilterd-sock"), PATIENCE)
                .is_ok_and(|mut client| client.status().is_ok())
        };
        while !answers() {
            let told = || std::fs::read_to_string(at("log")).unwrap_or_default();
            assert!(process.try_wait().unwrap().is_none(), "it ended: {}", told());
            assert!(began.elapsed() < PATIENCE, "no socket: {}", told());
            sleep(Duration::from_millis(5));
        }
        process
    }

    /// Ends it without a word and starts it again, as a crash and an upgrade do.
    fn die_and_return(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        sleep(Duration::from_millis(50));
        self.process = Daemon::spawn(self.directory.path());
    }

    fn bind_guest(&self) {
        let socket = self.directory.path().join("run/virtnwfilterd-sock");
        let document = "<filterbinding>
            <owner><name>vm</name><uuid>5c6d49af-b071-6127-b4ec-6f8ed4b55335</uuid></owner>
            <portdev name='vnet0'/><mac address='52:54:00:00:00:01'/>
            <filterref filter='clean-traffic'><parameter name='IP' value='10.0.0.1'/></filterref></filterbinding>";
        Client::connect(&socket, PATIENCE).unwrap().apply(document).unwrap_or_else(|why| panic!("{why}"));
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn honest() -> Frame {
    udp(ip(GUEST_IP, PEER_IP), 1, 2)
}

fn forbidden() -> Frame {
    udp(ip(FOREIGN_IP, PEER_IP), 1, 2)
}

/// A guest under clean-traffic, and whether tables can have owners.
fn with_guest(work: impl FnOnce(&Network, &mut Daemon, bool) + Send) {
    in_fresh_netns(|| {
        let network = Network::new();
        let owned = Kernel::open(Ownership::OwnedAndKept).unwrap().features().owner_persist.is_yes();
        let mut daemon = Daemon::start();
        daemon.bind_guest();
        assert_eq!(network.verdict(Way::FromGuest, honest()), Verdict::Accept);
        assert_eq!(network.verdict(Way::FromGuest, forbidden()), Verdict::Drop);
        work(&network, &mut daemon, owned);
    });
}

/// Lets others do their work and waits until the guest is filtered again; how long that took.
fn healed(network: &Network, work: impl FnOnce()) -> Duration {
    work();
    let began = Instant::now();
    while network.verdict(Way::FromGuest, forbidden()) != Verdict::Drop {
        assert!(began.elapsed() < PATIENCE, "not filtered again after {PATIENCE:?}");
    }
    began.elapsed()
}

fn nft(arguments: &[&str]) {
    let output = Command::new("nft").args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_flush_by_others_is_undone_or_never_happens_to_us() {
    with_guest(|network, _, owned| {
        let mut times: Vec<Duration> =
            (0..20).map(|_| healed(network, || nft(&["flush", "ruleset"]))).collect();
        times.sort();
        let (median, worst) = (times[times.len() / 2], times[times.len() - 1]);
        match owned {
            true => {
                let (flood, ()) = network.flood(Way::FromGuest, honest(), forbidden(), || {
                    (0..20).for_each(|_| nft(&["flush", "ruleset"]));
                });
                assert_eq!((flood.forbidden_arrived, flood.lost()), (0, 0), "{flood:?}");
                println!(
                    "measured: tables are owned; 20 flushes under traffic, {} spoofed frames sent, none passed",
                    flood.forbidden_sent
                );
            }
            false => println!(
                "measured: tables have no owner; filtered again {median:?} after a flush, {worst:?} at worst of 20"
            ),
        }
        assert_eq!(network.verdict(Way::FromGuest, honest()), Verdict::Accept);
    });
}

#[test]
fn a_restart_of_the_nftables_service_leaves_guests_filtered() {
    with_guest(|network, daemon, owned| {
        // What Debian's unit does on start, reload and stop.
        let rules = daemon.directory.path().join("nftables.conf");
        let text = "flush ruleset\ntable inet filter {\n chain input { type filter hook input priority filter; }\n}\n";
        std::fs::write(&rules, text).unwrap();
        let rules = rules.to_str().unwrap();
        for command in [&["-f", rules][..], &["-f", rules], &["flush", "ruleset"], &["-f", rules]] {
            let took = healed(network, || nft(command));
            assert!(!owned || took < Duration::from_millis(500), "an owned table was touched: {took:?}");
        }
        nft(&["list", "table", "inet", "filter"]);
        assert_eq!(network.verdict(Way::FromGuest, honest()), Verdict::Accept);
    });
}

#[test]
fn a_table_deleted_by_name_or_emptied_is_restored() {
    with_guest(|network, _, owned| {
        if owned {
            return; // Nobody else may.
        }
        let took = healed(network, || nft(&["delete", "table", "bridge", "nwfilter"]));
        println!("measured: filtered again {took:?} after the table was deleted");
        healed(network, || nft(&["flush", "table", "bridge", "nwfilter"]));
        healed(network, || nft(&["flush", "chain", "bridge", "nwfilter", "prerouting"]));
        healed(network, || nft(&["flush", "set", "bridge", "nwfilter", "bound"]));
        assert_eq!(network.verdict(Way::FromGuest, honest()), Verdict::Accept);
    });
}

#[test]
fn a_daemon_that_dies_and_returns_under_traffic_lets_nothing_by_and_loses_nothing() {
    with_guest(|network, daemon, _| {
        let (flood, ()) = network.flood(Way::FromGuest, honest(), forbidden(), || {
            (0..3).for_each(|_| daemon.die_and_return());
        });
        assert_eq!((flood.forbidden_arrived, flood.lost(), flood.strange), (0, 0, 0), "{flood:?}");
        println!(
            "measured: 3 kills under traffic, {} spoofed frames sent, none passed, none of {} honest lost",
            flood.forbidden_sent, flood.honest_sent
        );
    });
}

#[test]
fn rules_flushed_while_the_daemon_is_dead_are_back_with_it() {
    with_guest(|network, daemon, _| {
        daemon.process.kill().unwrap();
        daemon.process.wait().unwrap();
        nft(&["flush", "ruleset"]);
        daemon.process = Daemon::spawn(daemon.directory.path());
        assert_eq!(network.verdict(Way::FromGuest, forbidden()), Verdict::Drop);
        assert_eq!(network.verdict(Way::FromGuest, honest()), Verdict::Accept);
    });
}
