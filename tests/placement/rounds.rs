//! What can happen to a bound link, over and over, while its guest sends forged frames as fast as it can.
//!
//! Whatever of them gets anywhere is counted by kind of event: to another port of either bridge, out of a macvtap's lower
//! device, to a socket of the host's. For most events it must be nothing; for those that the kernel cannot
//! be kept from opening, it is printed how much and for how long.

use crate::host::*;
use crate::lab::frames::GUEST_MAC;
use crate::lab::{Bridge, Link, Tap, address, in_fresh_netns, macvtap, macvtap_at, sysctl};
use crate::pump::{Arrivals, HOST, Pump, TAP_MAC};
use nwfilter::report::status::{Interface, Status};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// What the guest is attached by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Port,
    Macvtap,
    Routed,
}

/// What may get through during an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum May {
    Nothing,
    /// Only frames that the host's IP layer does not take.
    NotIp,
    All,
}

/// A guest, everything that its frames can get to, and the daemon.
struct Stage<'a> {
    by: By,
    bridges: &'a [Bridge; 2],
    lower: Link,
    pump: &'a Pump,
    host: Host,
    daemon: Option<Daemon>,
    home: File,
    abroad: File,
}

struct Event {
    what: &'static str,
    may: May,
    run: fn(&mut Stage),
}

fn made(by: By, lower: Link, index: Option<u32>) -> Tap {
    match (by, index) {
        (By::Macvtap, None) => macvtap("guest0", lower, GUEST_MAC).unwrap(),
        (By::Macvtap, Some(index)) => macvtap_at(index, "guest0", lower, GUEST_MAC).unwrap(),
        (_, None) => Tap::new("guest0"),
        (_, Some(index)) => Tap::new_at(index, "guest0"),
    }
}

fn interfaces(daemon: &Daemon) -> Vec<Interface> {
    let status: Status = serde_json::from_str(&daemon.connect().0.status().unwrap()).unwrap();
    status.interfaces
}

fn namespace_of_this_thread() -> File {
    File::open("/proc/thread-self/ns/net").unwrap()
}

impl Stage<'_> {
    fn guest(&self) -> Arc<Tap> {
        self.pump.guest()
    }

    /// As libvirt does it: a port of its bridge before it is up.
    fn attach(&self, bridge: usize) {
        let link = self.guest().link;
        if self.by != By::Macvtap {
            link.set_mac(TAP_MAC);
        }
        if self.by == By::Port {
            self.bridges[bridge].add(link);
        }
        link.up();
        if self.by == By::Macvtap {
            link.ready();
        }
    }

    fn make_again(&self, same_index: bool) {
        let old = self.guest();
        let index = old.link.index();
        old.link.delete();
        drop(old);
        self.pump.set_guest(made(self.by, self.lower, same_index.then_some(index)));
        self.attach(0);
    }

    fn rename(&self, name: &str) {
        self.guest().link.rename(name);
    }

    fn die(&mut self) {
        self.daemon.take().expect("it runs").kill();
    }

    fn rise(&mut self) {
        self.daemon = Some(self.host.start());
    }

    /// Waits until the guest is filtered where it is: an honest frame gets there, and status knows of it.
    fn settle(&mut self) {
        let daemon = self.daemon.as_ref().expect("it runs");
        let index = self.guest().link.index();
        let honest = self.pump.honest();
        eventually("an honest frame", || self.pump.honest() > honest);
        eventually("the guest in its place", || {
            let interfaces = interfaces(daemon);
            let own = interfaces.iter().filter(|interface| interface.index == Some(index));
            own.clone().count() == 1 && own.clone().all(|own| !own.unseen && own.closed.is_none())
        });
        // What happened to links before this one is made is followed before it.
        let last = Tap::new("last");
        last.link.up();
        let is_last = |interface: &Interface| interface.index == Some(last.link.index());
        eventually("the last link", || interfaces(daemon).iter().any(is_last));
        self.turn();
    }

    /// Waits until what was sent before is counted as what came of it.
    fn turn(&self) {
        let turns = self.pump.turns();
        eventually("a whole turn of the pump", || self.pump.turns() >= turns + 2);
    }
}

fn away_and_back(stage: &mut Stage) {
    let guest = stage.guest();
    let (home, abroad) = (&stage.home, &stage.abroad);
    guest.link.move_to(abroad);
    thread::scope(|scope| {
        let back = scope.spawn(|| {
            // SAFETY: setns takes a descriptor, which lives, and a number.
            assert_eq!(unsafe { libc::setns(abroad.as_raw_fd(), libc::CLONE_NEWNET) }, 0);
            guest.link.move_to(home);
        });
        back.join().unwrap();
    });
    stage.attach(0);
}

const AT_DEVICES: &str = "placement = 'device'\n";

const EVERYWHERE: &[Event] = &[
    Event { what: "recreated, another index", may: May::Nothing, run: |stage| stage.make_again(false) },
    Event { what: "recreated, the same index", may: May::Nothing, run: |stage| stage.make_again(true) },
    Event { what: "to another namespace and back", may: May::Nothing, run: away_and_back },
    Event {
        what: "restart of the daemon",
        may: May::Nothing,
        run: |stage| {
            stage.die();
            stage.rise();
        },
    },
    Event {
        what: "recreated while the daemon is dead",
        may: May::Nothing,
        run: |stage| {
            stage.die();
            stage.make_again(false);
            stage.turn();
            stage.rise();
        },
    },
];

const AT_A_BRIDGE: &[Event] = &[
    Event { what: "renamed", may: May::Nothing, run: |stage| stage.rename("other") },
    Event { what: "renamed back", may: May::Nothing, run: |stage| stage.rename("guest0") },
    Event {
        what: "leaves its bridge",
        may: May::NotIp,
        run: |stage| {
            stage.by = By::Routed;
            stage.guest().link.set_master(None);
        },
    },
    Event {
        what: "joins a bridge",
        may: May::Nothing,
        run: |stage| {
            stage.by = By::Port;
            stage.bridges[0].add(stage.guest().link);
        },
    },
    Event {
        what: "moves to another bridge",
        may: May::NotIp,
        run: |stage| stage.bridges[1].add(stage.guest().link),
    },
    Event {
        what: "moves back while the daemon restarts",
        may: May::NotIp,
        run: |stage| {
            stage.die();
            stage.bridges[0].add(stage.guest().link);
            stage.rise();
        },
    },
];

const AT_A_DEVICE: &[Event] = &[
    Event { what: "renamed", may: May::All, run: |stage| stage.rename("other") },
    Event { what: "renamed back", may: May::All, run: |stage| stage.rename("guest0") },
];

/// What the rounds of one event came to.
#[derive(Default)]
struct Sum {
    sent: u64,
    ip: u64,
    other: u64,
    open: Vec<Duration>,
}

impl Sum {
    fn add(&mut self, arrived: Arrivals) {
        self.sent += arrived.sent;
        self.ip += arrived.ip;
        self.other += arrived.other;
        self.open.extend(arrived.open_for());
    }

    fn tell(&mut self, what: &str, rounds: u64) {
        let Sum { sent, ip, other, open } = self;
        open.sort();
        let spans = open.get(open.len() / 2).zip(open.last());
        let spans = spans.map_or(String::new(), |(median, longest)| {
            format!("; in {} of {rounds} rounds, for {median:?}, at most {longest:?}", open.len())
        });
        println!("{what}: {sent} forged frames sent, passed {ip} of IP and {other} others{spans}");
    }
}

/// The guest at its first bridge, on its own, or over its lower device, bound before its link comes.
fn stage(by: By, configuration: &str, work: impl FnOnce(&mut Stage) + Send) {
    in_fresh_netns(|| {
        for name in ["ipv4/conf/all/rp_filter", "ipv4/conf/default/rp_filter"] {
            sysctl(name, "0").unwrap();
        }
        let local = Link::named("lo");
        local.up();
        address(local, HOST, 32);
        let bridges = ["br0", "br1"].map(Bridge::new);
        let receivers = ["peer0", "peer1", "lower"].map(Tap::new);
        for (bridge, peer) in bridges.iter().zip(&receivers) {
            bridge.add(peer.link);
        }
        receivers.iter().map(|tap| tap.link).for_each(Link::up);
        bridges.iter().map(|bridge| bridge.link).for_each(Link::up);
        let lower = receivers[2].link;
        let host = Host::new();
        host.configure(configuration);
        let daemon = host.start();
        daemon.connect().define(&guard("g", 0)).unwrap();
        ["guest0", "last"].into_iter().for_each(|port| daemon.connect().create(port, "g").unwrap());
        let guest = made(by, lower, None);
        let pump = Pump::new(guest, receivers.into());
        let (home, abroad) = (namespace_of_this_thread(), in_fresh_netns(namespace_of_this_thread));
        let daemon = Some(daemon);
        let mut stage = Stage { by, bridges: &bridges, lower, pump: &pump, host, daemon, home, abroad };
        stage.attach(0);
        thread::scope(|scope| {
            scope.spawn(|| pump.run());
            let _end = pump.ends();
            work(&mut stage);
        });
    });
}

/// Plays all events in turn, as often as is asked for, and says what each came to.
fn play(by: By, configuration: &str, own: &[Event]) {
    let rounds = rounds("NWFILTER_PLACEMENT_ROUNDS", 10);
    if !in_fresh_netns(crate::hooks_last) {
        println!("skipped: hooks go with their device here");
        return;
    }
    let events: Vec<&Event> = own.iter().chain(EVERYWHERE).collect();
    let mut sums: Vec<Sum> = events.iter().map(|_| Sum::default()).collect();
    stage(by, configuration, |stage| {
        stage.settle();
        let before = stage.pump.take();
        assert!(before.honest > 0, "{before:?}");
        for _ in 0..rounds {
            for (event, sum) in events.iter().zip(&mut sums) {
                stage.pump.take();
                (event.run)(stage);
                stage.settle();
                sum.add(stage.pump.take());
            }
        }
    });
    for (event, sum) in events.iter().zip(&mut sums) {
        sum.tell(&format!("{by:?} {}, {}", configuration.trim_end(), event.what), rounds);
    }
    for (event, sum) in events.iter().zip(&sums) {
        assert!(sum.sent > rounds, "{}: {} forged frames sent", event.what, sum.sent);
        // A port that is filtered at its own hooks takes them along wherever it goes.
        let may = if configuration == AT_DEVICES { May::Nothing } else { event.may };
        let (ip, other) = (may == May::All, may != May::Nothing);
        assert!(ip || sum.ip == 0, "{by:?}, {}: {} forged frames of IP passed", event.what, sum.ip);
        assert!(other || sum.other == 0, "{by:?}, {}: {} forged frames passed", event.what, sum.other);
    }
}

#[test]
fn a_port_of_a_bridge_stays_filtered() {
    play(By::Port, "", AT_A_BRIDGE);
}

#[test]
fn a_port_filtered_at_its_own_hooks_stays_so_when_it_moves() {
    play(By::Port, AT_DEVICES, AT_A_BRIDGE);
}

#[test]
fn a_macvtap_stays_filtered() {
    play(By::Macvtap, "", AT_A_DEVICE);
}

#[test]
fn a_routed_tap_stays_filtered() {
    play(By::Routed, "", AT_A_DEVICE);
}
