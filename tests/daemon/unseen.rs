//! Frames that get past all chains, as `tc` lets them: the daemon says so and counts them, and of no others.

use crate::host::*;
use crate::lab::frames::*;
use crate::lab::{Link, Network, Tap, Wire, in_fresh_netns, macvtap, veth};
use crate::metrics::{REQUEST, exchange};
use crate::tool::{InTime, connect};
use nwfilter::report::status::Status;
use std::path::PathBuf;
use std::process::Command;

const WARNING: &str = "carries frames that no rule sees";

/// A daemon that looks often, and what it tells.
struct Watched {
    daemon: Daemon,
    socket: PathBuf,
}

impl Watched {
    fn new(host: &Host, more: &str) -> Watched {
        let socket = host.runtime().join("metrics");
        let often = "traffic = true\ntraffic_check = 0.05\n";
        host.configure(&format!("metrics = \"unix:{}\"\n{often}{more}", socket.display()));
        host.write_filter("g", &guard("g", 0));
        Watched { daemon: host.start(), socket }
    }

    /// A sample as the text has it; it is read often, and Prometheus's own reader takes its time.
    fn figure(&self, name: &str) -> f64 {
        let text = exchange(connect(&self.socket), REQUEST).unwrap();
        let sample = text
            .lines()
            .find_map(|line| line.strip_prefix("nwfilter_")?.strip_prefix(name)?.strip_prefix(' '));
        sample.map_or(-1.0, |value| value.parse().unwrap())
    }

    /// Waits for a look that begins from now on.
    fn looks(&self) {
        let seen = self.figure("traffic_checks_total");
        eventually("another look", || self.figure("traffic_checks_total") >= seen + 2.0);
    }

    fn missed(&self, port: &str) -> [f64; 2] {
        ["from-guest", "to-guest"].map(|direction| {
            self.figure(&format!("unseen_frames_total{{interface=\"{port}\",direction=\"{direction}\"}}"))
        })
    }

    fn warnings(&self) -> Vec<String> {
        self.daemon.log().lines().filter(|line| line.contains(WARNING)).map(String::from).collect()
    }
}

fn run(command: &str) {
    let words: Vec<String> = command.split(' ').map(|word| word.replace('\u{a0}', " ")).collect();
    let status =
        Command::new(&words[0]).args(&words[1..]).status_in_time().expect("scripts/setup installs iproute2");
    assert!(status.success(), "{command}");
}

/// Sends what comes in by one device out by another, before anybody else sees it.
fn redirect(from: &str, to: &str) {
    run(&format!("tc qdisc add dev {from} clsact"));
    run(&format!(
        "tc filter add dev {from} ingress protocol all u32 match u32 0 0 action mirred egress redirect dev {to}"
    ));
}

fn up([one, other]: [Link; 2]) {
    [one, other].into_iter().for_each(Link::up);
    [one, other].into_iter().for_each(Link::ready);
}

fn own() -> Frame {
    udp(ip(GUEST_IP, PEER_IP), 1, 2)
}

fn send(tap: &Tap, times: usize, frame: Frame) {
    let frame = Vec::from(frame);
    (0..times).for_each(|_| tap.send(&frame).unwrap());
}

#[test]
fn what_tc_takes_from_a_guest_is_warned_of_once_and_counted() {
    in_fresh_netns(|| {
        let (network, host) = (Network::new(), Host::new());
        let (near, far) = veth("near0", "far0");
        up([near, far]);
        let watched = Watched::new(&host, "");
        watched.daemon.connect().create("vnet0", "g").unwrap();
        watched.looks();
        send(&network.guest, 300, own());
        watched.looks();
        assert_eq!((watched.missed("vnet0"), watched.warnings().len()), ([0.0, 0.0], 0));
        redirect("vnet0", "near0");
        let mut sent = 0;
        eventually("frames that are missed", || {
            send(&network.guest, 200, own());
            sent += 200;
            watched.looks();
            watched.missed("vnet0")[0] > 0.0
        });
        let [from_guest, to_guest] = watched.missed("vnet0");
        assert!(from_guest <= f64::from(sent) && to_guest == 0.0, "{from_guest} of {sent}, {to_guest}");
        let warning = watched.warnings().remove(0);
        for word in ["interface=\"vnet0\"", "direction=\"from the guest\"", "carried=", "seen=0"] {
            assert!(warning.contains(word), "{warning}");
        }
        send(&network.guest, 200, own());
        watched.looks();
        assert_eq!(watched.warnings().len(), 1, "it was said");
        let status: Status = serde_json::from_str(&watched.daemon.connect().0.status().unwrap()).unwrap();
        let missed = status.interfaces[0].missed.expect("it is looked for");
        assert!(missed.from_guest as f64 >= from_guest && missed.to_guest == 0, "{missed:?}");
        let mut command = Command::new(env!("CARGO_BIN_EXE_nwfilter"));
        command.args(["status", "--dev", "vnet0"]).env("NWFILTER_RUNTIME_DIR", host.runtime());
        let text = String::from_utf8(command.output_in_time().unwrap().stdout).unwrap();
        assert!(
            text.contains(&format!("seen by no rule: {} frames sent, 0 received", missed.from_guest)),
            "{text}"
        );
        run("tc qdisc del dev vnet0 clsact");
        eventually("all is well again", || {
            send(&network.guest, 100, own());
            watched.daemon.log().contains("rules see its frames again")
        });
        assert!(watched.daemon.stop().success());
    });
}

#[test]
fn what_tc_gives_a_guest_is_warned_of() {
    in_fresh_netns(|| {
        let (network, host) = (Network::new(), Host::new());
        let watched = Watched::new(&host, "");
        watched.daemon.connect().create("vnet0", "g").unwrap();
        watched.looks();
        redirect("peer0", "vnet0");
        eventually("a warning", || {
            // More than may have waited for it, and no more at once than its queue has room for.
            for _ in 0..6 {
                send(&network.peer, 900, own().inbound());
                assert_eq!(network.guest.drain().len(), 900);
            }
            watched.looks();
            !watched.warnings().is_empty()
        });
        assert!(watched.warnings()[0].contains("direction=\"to the guest\""), "{:?}", watched.warnings());
        let [from_guest, to_guest] = watched.missed("vnet0");
        assert!(from_guest == 0.0 && to_guest > 0.0, "{from_guest}, {to_guest}");
    });
}

#[test]
fn what_tc_takes_from_the_way_to_a_macvtaps_guest_goes_to_it() {
    in_fresh_netns(|| {
        let host = Host::new();
        let (lower, far) = veth("lower", "far");
        up([lower, far]);
        let (sink, end) = veth("sink0", "end0");
        up([sink, end]);
        let guest = macvtap("macvtap0", lower, GUEST_MAC).expect("the kernel has macvtap");
        let watched = Watched::new(&host, "");
        watched.daemon.connect().create("macvtap0", "g").unwrap();
        watched.looks();
        let wire = Wire::open(&far);
        let receive = |times: usize| {
            let frame = Vec::from(own().inbound());
            for _ in 0..times {
                wire.send(&frame).unwrap();
                let _ = guest.drain();
            }
        };
        for _ in 0..4 {
            send(&guest, 100, own());
            send(&guest, 300, own().from(FOREIGN_MAC));
            receive(200);
            watched.looks();
        }
        assert_eq!((watched.missed("macvtap0"), watched.warnings().len()), ([0.0, 0.0], 0));
        redirect("macvtap0", "sink0");
        eventually("a warning", || {
            receive(200);
            watched.looks();
            !watched.warnings().is_empty()
        });
        assert!(watched.warnings()[0].contains("direction=\"to the guest\""), "{:?}", watched.warnings());
        assert_eq!(watched.missed("macvtap0")[0], 0.0);
    });
}

/// What a bridge takes for itself.
fn link_local() -> Vec<u8> {
    [&[0x01, 0x80, 0xc2, 0, 0, 0x0e][..], &GUEST_MAC, &[0x88, 0xcc], &[0; 46]].concat()
}

#[test]
fn frames_of_every_other_kind_are_no_reason() {
    for more in ["", "placement = \"device\"\n"] {
        in_fresh_netns(|| {
            let (network, host) = (Network::new(), Host::new());
            let watched = Watched::new(&host, more);
            let mut conn = watched.daemon.connect();
            conn.create("vnet0", "g").unwrap();
            let quiet = |what: &str| {
                watched.looks();
                assert_eq!(watched.warnings(), [""; 0], "{more}{what}");
                assert_eq!(watched.missed("vnet0"), [0.0, 0.0], "{more}{what}");
            };
            quiet("nothing");
            for round in 0..5 {
                send(&network.guest, 500, own());
                send(&network.guest, 500, own().from(FOREIGN_MAC));
                send(&network.guest, 100, arp_reply(GUEST_IP, PEER_IP).frame());
                send(&network.peer, 500, own().inbound());
                let stopped = [&[0xff; 6][..], &FOREIGN_MAC, &[0x90, 0], &[0; 46]].concat();
                (0..500).for_each(|_| network.peer.send(&stopped).unwrap());
                (0..5).for_each(|_| network.guest.send(&link_local()).unwrap());
                quiet("allowed, dropped and link-local ones");
                if round % 2 == 1 {
                    let _ = network.guest.drain();
                    quiet("a guest that reads late");
                }
            }
            for version in 1..4 {
                send(&network.guest, 500, own());
                conn.define(&guard("g", version)).unwrap();
                send(&network.guest, 500, own());
                quiet("a redefinition");
                conn.delete("vnet0").unwrap();
                conn.create("vnet0", "g").unwrap();
                send(&network.guest, 500, own());
                quiet("an update as virtqemud makes it");
            }
            let join_with_spanning_tree = |on: u8| {
                run("ip link set vnet0 nomaster");
                run(&format!("ip link set br0 type bridge stp_state {on}"));
                run("ip link set vnet0 master br0");
            };
            join_with_spanning_tree(1);
            watched.looks();
            let _ = network.peer.drain();
            send(&network.guest, 500, own());
            quiet("a port that listens before it may forward");
            assert_eq!(network.peer.drain().iter().filter(|frame| **frame == Vec::from(own())).count(), 0);
            join_with_spanning_tree(0);
            watched.looks();
            send(&network.guest, 500, own());
            quiet("a port that forwards again");
            assert!(!network.peer.drain().is_empty());
            run("tc qdisc add dev vnet0 clsact");
            watched.looks();
            // As a limit of the guest's bandwidth does: it gives the verdict 2, to drop.
            run(
                "tc filter add dev vnet0 ingress protocol all bpf direct-action bytecode 1,6\u{a0}0\u{a0}0\u{a0}2",
            );
            send(&network.guest, 500, own());
            quiet("frames that tc drops");
        });
    }
}

/// Ends when a daemon that looks, in a namespace of its own, has looked often since it began.
fn looks_elsewhere() {
    in_fresh_netns(|| {
        let (_network, host) = (Network::new(), Host::new());
        let watched = Watched::new(&host, "");
        watched.daemon.connect().create("vnet0", "g").unwrap();
        eventually("ten looks", || watched.figure("traffic_checks_total") >= 10.0);
    });
}

#[test]
fn no_look_happens_where_frames_are_not_counted() {
    in_fresh_netns(|| {
        let _network = Network::new();
        for text in ["traffic_check = 0.01", "traffic = true\ntraffic_check = 0"] {
            let host = Host::new();
            let socket = host.runtime().join("metrics");
            host.configure(&format!("metrics = \"unix:{}\"\n{text}\n", socket.display()));
            host.write_filter("g", &guard("g", 0));
            let watched = Watched { daemon: host.start(), socket };
            watched.daemon.connect().create("vnet0", "g").unwrap();
            looks_elsewhere();
            assert_eq!(watched.figure("traffic_checks_total"), 0.0, "{text}");
        }
    });
}
