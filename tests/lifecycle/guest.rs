//! A guest under clean-traffic, whose daemon has directories of its own.

use crate::lab::frames::*;
use crate::lab::{Network, Verdict, Way, in_fresh_netns};
use crate::tool::{InTime, end};
use nwfilter::document::standard::STANDARD;
use nwfilter::kernel::apply::Kernel;
use nwfilter::ruleset::nft::Ownership;
use nwfilter::service::rpc::client::Client;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// No restoration may take longer, on the slowest emulated machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// A daemon with directories of its own, in this thread's namespace.
pub struct Daemon {
    pub directory: TempDir,
    pub process: Child,
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

    pub fn spawn(directory: &Path) -> Child {
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
            let reported = || std::fs::read_to_string(at("log")).unwrap_or_default();
            assert!(process.try_wait().unwrap().is_none(), "it ended: {}", reported());
            assert!(began.elapsed() < PATIENCE, "no socket: {}", reported());
            sleep(Duration::from_millis(5));
        }
        process
    }

    /// Ends it without a word and starts it again, as a crash and an upgrade do.
    pub fn die_and_return(&mut self) {
        self.process.kill().unwrap();
        self.process.status_in_time().unwrap();
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
        end(&mut self.process);
    }
}

pub fn honest() -> Frame {
    udp(ip(GUEST_IP, PEER_IP), 1, 2)
}

pub fn forbidden() -> Frame {
    udp(ip(FOREIGN_IP, PEER_IP), 1, 2)
}

/// A guest under clean-traffic, and whether tables can have owners.
pub fn with_guest(work: impl FnOnce(&Network, &mut Daemon, bool) + Send) {
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
pub fn healed(network: &Network, work: impl FnOnce()) -> Duration {
    work();
    let began = Instant::now();
    while network.verdict(Way::FromGuest, forbidden()) != Verdict::Drop {
        assert!(began.elapsed() < PATIENCE, "not filtered again after {PATIENCE:?}");
    }
    began.elapsed()
}

/// Runs nft, which must agree.
pub fn nft(arguments: &[&str]) {
    let output = Command::new("nft").args(arguments).output_in_time().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
