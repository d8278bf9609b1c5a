//! Whatever became of links, bindings and configuration while no daemon ran: the next one starts, what must be in force is, and
//! until then no forged frame leaves an interface that was bound.
//!
//! The sequences are random; `NWFILTER_STARTS` sets how many.

use crate::host::*;
use crate::lab::frames::*;
use crate::lab::{Bridge, Tap, in_fresh_netns};
use crate::refuser::{Answer, answer, listen_at, listener_of};
use crate::tool::InTime;
use nwfilter::kernel::apply::Kernel;
use nwfilter::program::ir::Family;
use nwfilter::report::status::Status;
use nwfilter::ruleset::nft::Ownership;
use nwfilter::ruleset::plan::{Plan, Step as Batched, TableOperation};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use std::collections::BTreeSet;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// Few names, so that they meet.
const NAMES: [&str; 4] = ["vnet0", "vnet1", "vnet2", "other0"];
const SLOTS: usize = 3;

/// Lines of the configuration, each there or not.
const SETTINGS: [&str; 6] = [
    "trace = true",
    "placement = \"device\"",
    "traffic = true",
    "counters = true",
    "fold_up_to = 0",
    "metrics = \"unix:METRICS\"",
];

/// What happens while no daemon runs.
#[derive(Clone, Debug)]
enum Step {
    Make(usize, usize),
    Delete(usize),
    Rename(usize, usize),
    Move(usize, Option<usize>),
    Apply(usize),
    Remove(usize),
    /// A daemon is started, and killed so many microseconds later.
    Die(u64),
}

/// Steps, and the settings with which the daemon starts after them.
#[derive(Clone, Debug)]
struct Round {
    steps: Vec<Step>,
    settings: [bool; SETTINGS.len()],
}

fn step() -> impl Strategy<Value = Step> {
    let (slot, name) = (0..SLOTS, 0..NAMES.len());
    prop_oneof![
        2 => (slot.clone(), name.clone()).prop_map(|(slot, name)| Step::Make(slot, name)),
        2 => slot.clone().prop_map(Step::Delete),
        2 => (slot.clone(), name).prop_map(|(slot, name)| Step::Rename(slot, name)),
        3 => (slot.clone(), prop::option::weighted(0.7, 0..2usize)).prop_map(|(slot, to)| Step::Move(slot, to)),
        2 => slot.clone().prop_map(Step::Apply),
        1 => slot.prop_map(Step::Remove),
        1 => (0..40_000u64).prop_map(Step::Die),
    ]
}

fn round() -> impl Strategy<Value = Round> {
    let settings = prop::array::uniform6(prop::bool::weighted(0.3));
    (prop::collection::vec(step(), 0..5), settings).prop_map(|(steps, settings)| Round { steps, settings })
}

/// A guest's interface, as the kernel knows it.
struct Guest {
    tap: Tap,
    name: &'static str,
    bridge: Option<usize>,
    /// Whether rules hold its index.
    held: bool,
}

struct World {
    host: Host,
    bridges: [Bridge; 2],
    peers: [Tap; 2],
    guests: [Option<Guest>; SLOTS],
    /// The names of all bindings.
    bound: BTreeSet<&'static str>,
}

fn honest(slot: usize) -> Vec<u8> {
    udp(ip(GUEST_IP, PEER_IP), 1, slot as u16).into()
}

fn forged(slot: usize) -> Vec<u8> {
    udp(ip(GUEST_IP, PEER_IP), 1, slot as u16).from(FOREIGN_MAC).into()
}

impl World {
    /// Two bridges, and all guests bound: a port of each bridge, and one of none.
    fn new() -> World {
        let bridges = ["br0", "br1"].map(Bridge::new);
        let port = |(bridge, name): (&Bridge, &str)| {
            let tap = Tap::new(name);
            bridge.add(tap.link);
            tap.link.up();
            tap
        };
        let peers = [port((&bridges[0], "peer0")), port((&bridges[1], "peer1"))];
        bridges.iter().for_each(|bridge| bridge.link.up());
        let (guests, bound) = ([const { None }; SLOTS], BTreeSet::new());
        let mut world = World { host: Host::new(), bridges, peers, guests, bound };
        std::fs::create_dir_all(world.host.path("filters")).unwrap();
        world.host.write_filter("g", &guard("g", 0));
        for slot in 0..SLOTS {
            world.take(&Step::Make(slot, slot));
            world.take(&Step::Move(slot, [Some(0), Some(1), None][slot]));
            world.take(&Step::Apply(slot));
        }
        world
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Make(slot, name) => self.make(slot, NAMES[name]),
            Step::Delete(slot) => {
                if let Some(guest) = self.guests[slot].take() {
                    guest.tap.link.delete();
                }
            }
            Step::Rename(slot, name) => self.rename(slot, NAMES[name]),
            Step::Move(slot, to) => self.move_to(slot, to),
            Step::Apply(slot) => self.apply(slot),
            Step::Remove(slot) => self.remove(slot),
            Step::Die(delay) => {
                let daemon = self.host.spawn(self.host.command());
                thread::sleep(Duration::from_micros(delay));
                daemon.kill();
            }
        }
    }

    fn is_free(&self, name: &str) -> bool {
        self.guests.iter().flatten().all(|guest| guest.name != name)
    }

    fn make(&mut self, slot: usize, name: &'static str) {
        if self.guests[slot].is_none() && self.is_free(name) {
            let tap = Tap::new(name);
            tap.link.up();
            self.guests[slot] = Some(Guest { tap, name, bridge: None, held: false });
        }
    }

    fn rename(&mut self, slot: usize, name: &'static str) {
        let free = self.is_free(name);
        if let Some(guest) = self.guests[slot].as_mut().filter(|_| free) {
            guest.tap.link.down();
            guest.tap.link.rename(name);
            guest.tap.link.up();
            guest.name = name;
        }
    }

    fn move_to(&mut self, slot: usize, to: Option<usize>) {
        let Some(guest) = &mut self.guests[slot] else { return };
        match to {
            Some(bridge) => self.bridges[bridge].add(guest.tap.link),
            None => guest.tap.link.set_master(None),
        }
        guest.bridge = to;
    }

    fn command(&self, arguments: &[&str]) -> bool {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nwfilter"));
        let command = command.args(arguments).env("NWFILTER_RUNTIME_DIR", self.host.runtime());
        command.output_in_time().unwrap().status.success()
    }

    fn apply(&mut self, slot: usize) {
        let Some(name) = self.guests[slot].as_ref().map(|guest| guest.name) else { return };
        let directory = self.host.path("filters");
        let (directory, mac) = (directory.to_str().unwrap(), "52:54:00:00:00:01");
        let arguments = ["apply", "--dev", name, "--mac", mac, "--filter", "g", "--dir", directory];
        assert!(self.command(&arguments), "{name} is bound by the command");
        self.bound.insert(name);
        self.guests[slot].as_mut().unwrap().held = true;
    }

    /// Refused where the interface has no rules but the reservation of its name.
    fn remove(&mut self, slot: usize) {
        let Some(name) = self.guests[slot].as_ref().map(|guest| guest.name) else { return };
        if self.command(&["remove", "--dev", name]) {
            self.bound.remove(name);
            self.guests[slot].as_mut().unwrap().held = false;
        }
    }

    fn must_be_filtered(&self, guest: &Guest) -> bool {
        guest.held || self.bound.contains(guest.name)
    }

    /// Sends a forged frame of every interface that is bound, or blocked for its name, and counts what comes of them.
    fn forged_that_leave(&self) -> usize {
        let filtered = |(_, guest): &(usize, &Guest)| self.must_be_filtered(guest);
        for (slot, guest) in self.present().filter(filtered) {
            let _ = guest.tap.send(&forged(slot));
        }
        let arrived = self.peers.iter().flat_map(Tap::drain);
        arrived.filter(|frame| (0..SLOTS).any(|slot| *frame == forged(slot))).count()
    }

    fn present(&self) -> impl Iterator<Item = (usize, &Guest)> {
        self.guests.iter().enumerate().filter_map(|(slot, guest)| Some((slot, guest.as_ref()?)))
    }

    /// Starts a daemon under forged frames.
    fn start(&mut self, settings: &[bool; SETTINGS.len()]) -> Daemon {
        let metrics = self.host.path("metrics").display().to_string();
        let lines = SETTINGS.iter().zip(settings).filter(|(_, there)| **there);
        let lines: Vec<String> = lines.map(|(line, _)| line.replace("METRICS", &metrics)).collect();
        self.host.configure(&format!("{}\n", lines.join("\n")));
        let done = AtomicBool::new(false);
        let (daemon, leaked) = thread::scope(|scope| {
            let pump = scope.spawn(|| {
                let mut leaked = 0;
                while !done.load(Ordering::Acquire) {
                    leaked += self.forged_that_leave();
                    thread::sleep(Duration::from_micros(200));
                }
                leaked
            });
            let started = std::panic::catch_unwind(|| self.host.start());
            done.store(true, Ordering::Release);
            (started, pump.join().unwrap())
        });
        let daemon = daemon.expect("the daemon starts");
        assert_eq!(leaked, 0, "forged frames left while the daemon started");
        for guest in self.guests.iter_mut().flatten() {
            guest.held |= self.bound.contains(guest.name);
        }
        daemon
    }

    fn passes(&self, guest: &Guest, bridge: usize, frame: &[u8]) -> bool {
        drop(self.peers[bridge].drain());
        guest.tap.send(frame).unwrap();
        self.peers[bridge].drain().iter().any(|arrived| arrived == frame)
    }

    /// Bound interfaces have their rules, renamed ones are blocked, and no others are looked at.
    fn check(&self, daemon: &Daemon) {
        let status: Status = serde_json::from_str(&daemon.connect().0.status().unwrap()).unwrap();
        for (slot, guest) in self.present() {
            let (name, bound) = (guest.name, self.bound.contains(guest.name));
            let mut interfaces = status.interfaces.iter();
            let open = interfaces.any(|i| i.index == Some(guest.tap.link.index()) && i.closed.is_none());
            assert_eq!(open, bound, "{name}: {:?}", status.interfaces);
            let Some(bridge) = guest.bridge else { continue };
            let passes = |frame: &[u8]| self.passes(guest, bridge, frame);
            let found = (passes(&honest(slot)), passes(&forged(slot)));
            assert_eq!(found, (bound || !guest.held, !bound && !guest.held), "{name}: honest, forged");
        }
    }
}

fn run(rounds: &[Round]) {
    in_fresh_netns(|| {
        let mut world = World::new();
        for round in rounds {
            for step in &round.steps {
                world.take(step);
                assert_eq!(world.forged_that_leave(), 0, "after {step:?}");
            }
            let daemon = world.start(&round.settings);
            world.check(&daemon);
            daemon.kill();
            assert_eq!(world.forged_that_leave(), 0, "after the daemon was killed");
        }
    });
}

const PLAIN: [bool; SETTINGS.len()] = [false; SETTINGS.len()];

/// A daemon has run, then this happens, then another starts.
fn run_between(steps: &[Step], settings: [bool; SETTINGS.len()]) {
    let first = Round { steps: Vec::new(), settings: PLAIN };
    run(&[first, Round { steps: steps.to_vec(), settings }]);
}

#[test]
fn a_start_adds_the_hook_that_the_last_tables_lack() {
    run_between(&[Step::Rename(2, 3)], PLAIN);
    run_between(&[Step::Rename(0, 3)], PLAIN);
    run_between(&[Step::Move(0, None)], PLAIN);
    run_between(&[Step::Delete(2), Step::Make(2, 2), Step::Move(0, None)], PLAIN);
    for setting in 0..SETTINGS.len() {
        let mut settings = PLAIN;
        settings[setting] = true;
        run_between(&[], settings);
    }
}

// P-8
#[test]
fn any_sequence_ends_in_a_start_without_a_gap() {
    let cases = u32::try_from(rounds("NWFILTER_STARTS", 8)).unwrap();
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 60, ..Config::default() };
    let sequences = prop::collection::vec(round(), 1..4);
    let outcome = TestRunner::new(config).run(&sequences, |rounds| {
        run(&rounds);
        Ok(())
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
}

/// A table in our name is put there before the daemon compares, and again as soon as it has.
// P-13
#[test]
fn what_others_change_while_the_daemon_starts_is_undone() {
    in_fresh_netns(|| {
        let others = Kernel::open(Ownership::Shared).unwrap();
        let make = Batched { family: Family::Netdev, change: TableOperation::AddTable };
        let make = Plan { prepare: vec![make], ..Plan::default() };
        let is_there = |others: &Kernel| others.observe().unwrap().families.contains_key(&Family::Netdev);
        others.apply(make.clone()).unwrap();
        let host = Host::new();
        let mut command = host.command();
        listen_at(&mut command, &[libc::SYS_bind]);
        let mut daemon = host.spawn(command);
        let (listener, meddler) = (listener_of(&daemon.child), others.clone());
        let meddled = Arc::new(AtomicBool::new(false));
        let note = Arc::clone(&meddled);
        thread::spawn(move || {
            let meddle = |_: &str| {
                if !is_there(&meddler) && !note.swap(true, Ordering::SeqCst) {
                    meddler.apply(make.clone()).unwrap();
                }
                Answer::GoesOn
            };
            while answer(&listener, meddle).is_ok() {}
        });
        daemon.hears("READY=1");
        assert!(meddled.load(Ordering::SeqCst), "the daemon opened a socket after it had compared");
        eventually("the second is undone as well", || !is_there(&others));
    });
}
