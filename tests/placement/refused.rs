//! A kernel that refuses the last batch of a move between places: only with it the guest is let in at its new one.

use crate::host::*;
use crate::lab::{Bridge, Link, Tap, address};
use crate::pump::{HOST, Pump, TAP_MAC};
use crate::refuser::Refuser;
use crate::where_hooks_last;
use nwfilter::report::status::{Interface, ProgramLocation, Status};
use std::process::Command;
use std::thread;

/// A guest that sends all the time, as a port of a bridge or on its own, and a daemon to which the kernel can say no.
struct World<'a> {
    pump: &'a Pump,
    bridge: &'a Bridge,
    daemon: Daemon,
    refuser: Refuser,
}

/// Its seat, and whether a part of it is in the host's IP layer.
type Attachment = (Option<ProgramLocation>, bool);

/// Takes the guest from one place to another.
type Move = fn(&World);

struct Case {
    what: &'static str,
    configuration: &'static str,
    /// To where the move begins.
    to_the_start: Move,
    moves: Move,
    /// Frames that no bridge sees pass unfiltered until the daemon has heard of it.
    opens: bool,
}

/// The guard, with a rule that neither a bridge's hooks nor its own can follow alone.
fn rejecting(protocol: &str) -> String {
    let rule =
        format!("<rule action='reject' direction='out'><{protocol} dstportstart='7777'/></rule></filter>");
    guard("g", 0).replace("</filter>", &rule)
}

fn define(world: &World, filter: &str) {
    let _ = world.daemon.connect().define(filter); // It may be refused.
}

const CASES: &[Case] = &[
    Case {
        what: "from a bridge to the host",
        configuration: "",
        to_the_start: |world| world.bridge.add(world.pump.guest().link),
        moves: |world| world.pump.guest().link.set_master(None),
        opens: true,
    },
    Case {
        what: "from its own hooks to its bridge",
        configuration: "placement = 'device'\n",
        to_the_start: |world| define(world, &guard("g", 0)),
        moves: |world| define(world, &rejecting("tcp")),
        opens: false,
    },
    Case {
        what: "from its bridge to its own hooks",
        configuration: "placement = 'device'\n",
        to_the_start: |world| define(world, &rejecting("tcp")),
        moves: |world| define(world, &guard("g", 0)),
        opens: false,
    },
    Case {
        what: "from the host's ip layer to its own hooks",
        configuration: "",
        to_the_start: |world| {
            world.pump.guest().link.set_master(None);
            eventually("it is routed", || world.interface().seat == Some(ProgramLocation::Device(None)));
            define(world, &rejecting("udp"));
        },
        moves: |world| define(world, &guard("g", 0)),
        opens: false,
    },
];

impl World<'_> {
    fn interface(&self) -> Interface {
        let status: Status = serde_json::from_str(&self.daemon.connect().0.status().unwrap()).unwrap();
        let found = status.interfaces.into_iter().find(|found| found.index == Some(self.index()));
        found.expect("the guest is bound")
    }

    fn index(&self) -> u32 {
        self.pump.guest().link.index()
    }

    /// Where the kernel has its programs.
    fn place(&self) -> Attachment {
        let Interface { seat, packets, .. } = self.interface();
        (seat, packets.is_some())
    }

    /// Moves and waits until the daemon is through with it; where to, and how many batches that took.
    fn goes(&self, by: Move) -> (Attachment, u32) {
        let before = self.place();
        self.refuser.refuse(0);
        by(self);
        eventually("the guest elsewhere", || self.place() != before);
        (self.place(), self.refuser.sent())
    }

    /// Waits until what was sent before has been counted.
    fn waits_for_the_pump(&self) {
        let turns = self.pump.turns();
        eventually("a whole turn of the pump", || self.pump.turns() >= turns + 2);
    }

    /// Waits for an honest frame, which the pump sends all the time.
    fn is_let_through(&self) {
        self.waits_for_the_pump();
        let honest = self.pump.honest();
        eventually("an honest frame", || self.pump.honest() > honest);
    }
}

fn world(configuration: &str, work: impl FnOnce(&mut World) + Send) {
    where_hooks_last(|| {
        let local = Link::named("lo");
        local.up();
        address(local, HOST, 32);
        let (bridge, peer, guest) = (Bridge::new("br0"), Tap::new("peer0"), Tap::new("vnet0"));
        guest.link.set_mac(TAP_MAC);
        [peer.link, guest.link].into_iter().for_each(|link| bridge.add(link));
        [peer.link, guest.link, bridge.link].into_iter().for_each(Link::up);
        let host = Host::new();
        host.configure(configuration);
        let (refuser, daemon) = Refuser::start(&host);
        daemon.connect().define(&guard("g", 0)).unwrap();
        daemon.connect().create("vnet0", "g").unwrap();
        let pump = Pump::new(guest, vec![peer]);
        let mut world = World { pump: &pump, bridge: &bridge, daemon, refuser };
        thread::scope(|scope| {
            scope.spawn(|| pump.run());
            let _end = pump.ends();
            work(&mut world);
        });
    });
}

/// Moves once as it should be, and once while so many batches are refused from the last one on.
fn move_refused(case: &Case, batches: u32, check: impl Fn(&mut World, [Attachment; 2]) + Sync) {
    world(case.configuration, |world| {
        (case.to_the_start)(world);
        let (there, steps) = world.goes(case.moves);
        let (here, _) = world.goes(case.to_the_start);
        println!("{}, {here:?} to {there:?}: {steps} batches", case.what);
        world.waits_for_the_pump();
        world.pump.take();
        world.refuser.refuse_after(steps - 1, batches);
        (case.moves)(world);
        eventually("the last batch", || world.refuser.sent() >= steps);
        check(world, [here, there]);
        let seen = world.pump.take();
        assert!(seen.ip == 0 && (case.opens || seen.other == 0), "{}: {seen:?}", case.what);
    });
}

// P-18
#[test]
fn a_last_step_refused_at_first_is_retried() {
    for case in CASES {
        move_refused(case, 1, |world, [_, there]| {
            world.is_let_through();
            assert_eq!(world.place(), there, "{}", case.what);
            assert_eq!(world.interface().closed, None, "{}", case.what);
        });
    }
}

/// A guest that has moved is closed where it is.
// P-18
#[test]
fn a_last_step_always_refused_keeps_the_rules_or_closes() {
    for case in CASES {
        // The first time, and all others.
        move_refused(case, 4, |world, [here, there]| {
            if case.opens {
                eventually("it is closed", || world.interface().closed.is_some());
                world.waits_for_the_pump();
                let honest = world.pump.honest();
                world.waits_for_the_pump();
                assert_eq!(world.pump.honest(), honest);
                world.daemon.reload();
            } else {
                assert_eq!(world.place(), here, "{}", case.what);
                // The IP layer's program rejects what the pump calls honest.
                if !here.1 {
                    world.is_let_through();
                }
                (case.moves)(world);
            }
            world.is_let_through();
            assert_eq!(world.place(), there, "{}", case.what);
            assert_eq!(world.interface().closed, None, "{}", case.what);
        });
    }
}

// W-7
#[test]
fn a_moved_guest_that_cannot_be_closed_is_set_down() {
    world("", |world| {
        let link = world.pump.guest().link;
        let is_up = || {
            let flags = std::fs::read_to_string("/sys/class/net/vnet0/flags").unwrap();
            u32::from_str_radix(flags.trim().trim_start_matches("0x"), 16).unwrap() & libc::IFF_UP as u32 != 0
        };
        world.interface();
        world.refuser.refuse(u32::MAX);
        link.set_master(None);
        eventually("it is down", || !is_up());
        world.daemon.logs("set down");
        let why = world.interface().closed;
        assert!(why.as_ref().is_some_and(|why| why.contains("Cannot allocate memory")), "{why:?}");
        world.waits_for_the_pump();
        world.pump.take();
        world.refuser.refuse(0);
        link.up();
        world.is_let_through();
        assert_eq!(
            (world.place(), world.interface().closed),
            ((Some(ProgramLocation::Device(None)), false), None)
        );
        world.waits_for_the_pump();
        assert_eq!(world.pump.take().ip, 0);
        let turns = world.pump.turns();
        eventually("more of the pump", || world.pump.turns() > turns + 20);
        let seen = world.pump.take();
        assert!(seen.honest > 0 && seen.ip + seen.other == 0, "{seen:?}");
    });
}

/// A tap that has left its bridge is let in to the host's IP layer by the last batch.
#[test]
fn the_command_retries_a_refused_last_step_or_fails() {
    where_hooks_last(|| {
        let (bridge, guest, host) = (Bridge::new("br0"), Tap::new("vnet0"), Host::new());
        [bridge.link, guest.link].into_iter().for_each(Link::up);
        let apply = |refuser: &Refuser| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_nwfilter"));
            let arguments =
                ["apply", "--dev", "vnet0", "--mac", "52:54:00:00:00:01", "--filter", "no-mac-spoofing"];
            refuser.run(command.args(arguments).env("NWFILTER_RUNTIME_DIR", host.runtime()))
        };
        let refuser = Refuser::default();
        let leaves = |taken, refused| {
            bridge.add(guest.link);
            refuser.refuse(0);
            assert!(apply(&refuser).status.success());
            guest.link.set_master(None);
            refuser.refuse_after(taken, refused);
            apply(&refuser)
        };
        assert!(leaves(0, 0).status.success());
        let steps = refuser.sent();
        assert!(leaves(steps - 1, 1).status.success(), "tried again");
        assert!(refuser.sent() > steps);
        let failed = leaves(steps - 1, u32::MAX);
        assert_eq!(failed.status.code(), Some(3), "{failed:?}");
        assert!(String::from_utf8_lossy(&failed.stderr).contains("refused the last step"), "{failed:?}");
        refuser.refuse(0);
        assert!(apply(&refuser).status.success(), "nothing stands in the way of the next");
    });
}
