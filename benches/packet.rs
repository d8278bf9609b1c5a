//! What clean-traffic costs a frame between two taps of a bridge, over what the bridge itself costs.

mod guests;
#[path = "../tests/lab/mod.rs"]
mod lab;

use criterion::Criterion;
use guests::{guest, policy};
use lab::frames::*;
use lab::{Network, Way, in_fresh_netns};
use nwfilter::apply::Kernel;
use nwfilter::firewall::{Firewall, Member, Policy};
use nwfilter::library::Library;
use nwfilter::nft::Ownership;
use nwfilter::plan::plan;
use nwfilter::vars::Vars;
use std::time::{Duration, Instant};

/// What a tap queues for its reader.
const BURST: u64 = 256;

fn main() {
    bench("unfiltered", |_| {});
    for members in [1, 1000] {
        for (name, fold_up_to) in [("folded", usize::MAX), ("slots", 0)] {
            bench(&format!("{name}/{members}"), |network| bind(network, members, fold_up_to));
        }
    }
}

fn bind(network: &Network, members: u32, fold_up_to: usize) {
    // The table stays when the kernel's handle goes.
    let kernel = Kernel::open(Ownership::OwnedAndKept).expect("netfilter");
    let filters = Firewall::new(Policy { fold_up_to, ..policy(kernel.features().into()) })
        .define(Library::standard().filters.into_values());
    let mut vars = Vars::default();
    vars.push("MAC", "52:54:00:00:00:01");
    vars.push("IP", GUEST_IP);
    let ours = Member { index: network.guest.link.index(), vars, ..guest(0, "clean-traffic") };
    let others = (1..members).map(|n| guest(n, "clean-traffic"));
    let firewall = filters.and_then(|filters| filters.bind_all(others.chain([ours]))).expect("bound");
    kernel.apply(plan(&Default::default(), &firewall.ruleset())).expect("in force");
}

/// Each in a namespace of its own, and so in a thread of its own.
fn bench(name: &str, rules: impl Fn(&Network) + Sync) {
    in_fresh_netns(|| {
        let network = Network::new();
        rules(&network);
        let mut criterion = Criterion::default()
            .configure_from_args()
            .sample_size(50)
            .measurement_time(Duration::from_secs(3));
        for (way, label) in [(Way::FromGuest, "from guest"), (Way::ToGuest, "to guest")] {
            let frame = udp(ip(GUEST_IP, PEER_IP), 1000, 2000);
            let frame: Vec<u8> = if way == Way::FromGuest { frame } else { frame.inbound() }.into();
            assert!(network.passes(way, frame.clone()));
            let id = format!("{label}, {name}");
            criterion.bench_function(&id, |b| b.iter_custom(|times| send(&network, way, &frame, times)));
        }
    });
}

fn send(network: &Network, way: Way, frame: &[u8], times: u64) -> Duration {
    let (sender, receiver) = network.ends(way);
    let mut buffer = [0; 2048];
    let mut time = Duration::ZERO;
    for done in (0..times).step_by(BURST as usize) {
        let burst = BURST.min(times - done);
        let start = Instant::now();
        for _ in 0..burst {
            sender.send(frame).expect("sent");
        }
        time += start.elapsed();
        let arrived = (0..burst).filter(|_| receiver.recv_into(&mut buffer).is_some()).count();
        assert_eq!(arrived as u64, burst, "a frame was lost");
    }
    time
}
