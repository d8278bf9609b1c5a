//! Macvtaps with real queues: every attack frame in every mode, both ways, and guest to guest.

use crate::host::Host;
use crate::lab::corpus::corpus;
use crate::lab::frames::*;
use crate::lab::{
    End, MacvtapMode, Marker, Tap, Verdict, Way, Wire, arrivals, in_fresh_netns, macvtap_in, veth,
};
use crate::tool::InTime;
use nwfilter::document::catalog::Library;
use nwfilter::document::vars::Vars;
use nwfilter::kernel::apply::Kernel;
use nwfilter::program::ir::Ruleset;
use nwfilter::ruleset::firewall::{Attachment, BoundInterface, Firewall, Policy, Rules};
use nwfilter::ruleset::nft::Ownership;
use nwfilter::ruleset::plan::plan;
use std::process::Command;

const MODES: [MacvtapMode; 4] =
    [MacvtapMode::Bridge, MacvtapMode::Vepa, MacvtapMode::Private, MacvtapMode::Passthru];

/// A guest's macvtap over one end of a veth, and the other end.
struct World {
    guest: Tap,
    lower: crate::lab::Link,
    far: Wire,
    firewall: Firewall,
    in_force: Ruleset,
    kernel: Kernel,
}

impl World {
    /// With programs that have constants, or slots from the first member on.
    fn new(mode: MacvtapMode, fold_up_to: usize) -> World {
        let (lower, far) = veth("lower", "far");
        [lower, far].into_iter().for_each(crate::lab::Link::up);
        [lower, far].into_iter().for_each(crate::lab::Link::ready);
        let guest = macvtap_in(mode, "macvtap0", lower, GUEST_MAC).expect("the kernel has macvtap");
        let kernel = Kernel::open(Ownership::OwnedAndKept).expect("root may open netfilter");
        let policy = Policy { fold_up_to, ..Policy::new(kernel.features()) };
        let firewall = Firewall::new(policy).define(Library::standard().filters.into_values()).unwrap();
        World { guest, lower, far: Wire::open(&far), firewall, in_force: Ruleset::default(), kernel }
    }

    fn bind(&mut self, tap: &Tap, mac: &str, ip: &str) {
        let mut vars = Vars::default();
        [("MAC", mac), ("IP", ip)].iter().for_each(|(name, value)| vars.push(*name, *value));
        let (index, name) = (tap.link.index(), tap.link.name());
        let place = Attachment::Device { name: name.clone(), reversed: true };
        let member =
            BoundInterface { index, name, place, rules: Rules::Filter("clean-traffic".into()), vars };
        self.firewall = self.firewall.bind(member).unwrap();
        let ruleset = self.firewall.ruleset();
        let applied = self.kernel.apply(plan(&self.in_force, &ruleset)).unwrap();
        assert_eq!(applied.retire_failures, []);
        self.in_force = ruleset;
    }

    fn bind_guest(&mut self) {
        let guest = std::mem::replace(&mut self.guest, Tap::new("stand-in"));
        self.bind(&guest, "52:54:00:00:00:01", GUEST_IP);
        drop(std::mem::replace(&mut self.guest, guest));
    }

    /// Whether the frame comes out at the other end. A macvtap hands frames for groups on from a work queue, so that
    /// the answer is there when a frame of each kind that was sent after it has come.
    fn passes(&self, way: Way, frame: &[u8]) -> bool {
        let single = udp(ip(GUEST_IP, PEER_IP), 60_001, 60_002);
        let (from, to, frames): (&dyn End, &dyn End, _) = match way {
            Way::FromGuest => (&self.guest, &self.far, vec![single]),
            Way::ToGuest => {
                let to_all = arp_request(GUEST_IP, "10.0.0.77").frame().inbound().to(BROADCAST);
                (&self.far, &self.guest, vec![single.inbound(), to_all])
            }
        };
        let markers = frames.into_iter().map(|frame| Marker { frame: frame.into(), from, to });
        !arrivals(frame, from, to, markers.collect()).is_empty()
    }

    fn verdicts(&self) -> Vec<bool> {
        corpus().iter().map(|case| self.passes(case.way, &case.frame)).collect()
    }
}

// P-21
#[test]
fn every_mode_gives_every_verdict_of_the_corpus() {
    for (mode, fold_up_to) in MODES.into_iter().flat_map(|mode| [(mode, 64), (mode, 0)]) {
        in_fresh_netns(|| {
            let mut world = World::new(mode, fold_up_to);
            let open = world.verdicts();
            world.bind_guest();
            let mut wrong = Vec::new();
            for ((case, open), found) in corpus().iter().zip(&open).zip(world.verdicts()) {
                // What the macvtap itself keeps from its guest, or from the wire, no filter lets through.
                let wanted = case.verdict_under_clean_traffic == Verdict::Accept && *open;
                if found != wanted {
                    wrong.push(format!("{} {}: passes {found}, not {wanted}", case.id, case.what));
                }
            }
            assert!(wrong.is_empty(), "{mode:?}, {fold_up_to}:\n{}", wrong.join("\n"));
            let seen = open.iter().filter(|open| **open).count();
            assert!(
                seen * 4 > open.len() * 3,
                "{mode:?}: only {seen} of {} frames pass unfiltered",
                open.len()
            );
        });
    }
}

/// The command, whose daemon has this directory.
fn nwfilter(host: &Host, arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nwfilter"));
    let output =
        command.args(arguments).env("NWFILTER_RUNTIME_DIR", host.runtime()).output_in_time().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn what_is_explained_of_a_macvtap_is_what_the_kernel_does() {
    in_fresh_netns(|| {
        let (world, host) = (World::new(MacvtapMode::Bridge, 64), Host::new());
        let open = world.verdicts();
        for (name, filter) in Library::standard().filters {
            host.write_filter(&name, &filter.source.text);
        }
        let _daemon = host.start();
        let bind = "apply --dev macvtap0 --mac 52:54:00:00:00:01 --filter clean-traffic --param IP=10.0.0.1";
        nwfilter(&host, &bind.split(' ').collect::<Vec<_>>());
        let mut found = [[0; 2]; 2];
        for ((case, open), passes) in corpus().iter().zip(open).zip(world.verdicts()) {
            let hex: String = case.frame.iter().map(|byte| format!("{byte:02x}")).collect();
            let way = if case.way == Way::ToGuest { "--in" } else { "--out" };
            let reported = nwfilter(&host, &["explain", "--dev", "macvtap0", "--json", way, "--hex", &hex]);
            let reported: serde_json::Value = serde_json::from_str(&reported).unwrap();
            let accepted = reported["verdict"] == "accept";
            assert_eq!(passes, accepted && open, "{} {}: {reported:#}", case.id, case.what);
            found[usize::from(case.way == Way::ToGuest)][usize::from(accepted)] += usize::from(open);
        }
        assert!(found.iter().flatten().all(|count| *count > 3), "{found:?}");
    });
}

#[test]
fn guests_of_one_lower_device_do_not_deceive_each_other() {
    const OTHER: &str = "52:54:00:00:00:07";
    let other_mac = [0x52, 0x54, 0, 0, 0, 7];
    for fold_up_to in [64, 0] {
        in_fresh_netns(|| {
            let mut world = World::new(MacvtapMode::Bridge, fold_up_to);
            let other = macvtap_in(MacvtapMode::Bridge, "macvtap1", world.lower, other_mac).unwrap();
            let honest = Vec::from(udp(ip(GUEST_IP, "10.0.0.7"), 1, 2).to(other_mac));
            let forged = Vec::from(udp(ip(FOREIGN_IP, "10.0.0.7"), 1, 2).to(other_mac));
            let reaches = |world: &World, frame: &[u8]| {
                let own = Vec::from(udp(ip(GUEST_IP, "10.0.0.7"), 1, 3).to(other_mac));
                let marker = Marker { frame: own, from: &world.guest, to: &other };
                arrivals(frame, &world.guest, &other, vec![marker]).iter().any(|arrived| arrived == frame)
            };
            assert!(reaches(&world, &honest) && reaches(&world, &forged), "unfiltered");
            world.bind(&other, OTHER, "10.0.0.7");
            assert!(reaches(&world, &forged), "the sender is not bound");
            world.bind_guest();
            assert!(reaches(&world, &honest) && !reaches(&world, &forged));
            let announced = Vec::from(arp_request(FOREIGN_IP, PEER_IP).frame());
            assert!(!reaches(&world, &announced), "ARP for another's address, to all");
            let own = Vec::from(arp_request(GUEST_IP, PEER_IP).frame());
            assert!(reaches(&world, &own));
        });
    }
}
