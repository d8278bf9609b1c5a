//! What clean-traffic costs a frame between two taps of a bridge, over what the bridge itself costs; and what it costs a
//! packet that the host routes that others are kept out of its IP layer, and that its connection is asked for; and what counting
//! costs a frame that passes and one that is dropped.

mod guests;
#[path = "../tests/lab/mod.rs"]
mod lab;

use criterion::Criterion;
use guests::{guest, policy};
use lab::frames::*;
use lab::{Bridge, Link, Network, Tap, Way, address, in_fresh_netns, sysctl};
use nwfilter::document::catalog::Library;
use nwfilter::document::filter::{Filter, read::read};
use nwfilter::document::span::Source;
use nwfilter::document::vars::Vars;
use nwfilter::kernel::apply::Kernel;
use nwfilter::kernel::tracer::Tracer;
use nwfilter::program::ir::{Name, Table};
use nwfilter::ruleset::firewall::{Attachment, BoundInterface, BridgePort, Firewall, Policy};
use nwfilter::ruleset::layout::TrafficCounting;
use nwfilter::ruleset::nft::Ownership;
use nwfilter::ruleset::nft::trace::At;
use nwfilter::ruleset::plan::plan;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What a tap queues for its reader.
const BURST: u64 = 256;

fn main() {
    bench("unfiltered", |_| {});
    for members in [1, 1000] {
        for (name, fold_up_to) in [("folded", usize::MAX), ("slots", 0)] {
            let at_bridge = Attachment::Bridge(None);
            bench(&format!("{name}/{members}"), |network| bind(network, members, fold_up_to, &at_bridge));
            let bridge = BridgePort { index: 0, name: "br0".into(), host: None, port: "vnet0".into() };
            let at_device = Attachment::Port { name: "vnet0".into(), bridge };
            bench(&format!("{name}/{members}, at the device"), |network| {
                bind(network, members, fold_up_to, &at_device);
            });
        }
    }
    let counting =
        [("nothing", Counting::Nothing), ("drops", Counting::Drops), ("traffic", Counting::Traffic)];
    for (name, counting) in counting {
        bench(&format!("counting {name}"), |network| bind_counting(network, counting));
        bench_dropped(&format!("dropped, counting {name}"), counting);
    }
    bench("traced/1", |network| {
        bind(network, 1, usize::MAX, &Attachment::Bridge(None));
        trace(network);
    });
    bench_routed("nothing bound", |_| None);
    bench_routed("1000 others bound", |_| Some((0..1000).map(|n| guest(n, "clean-traffic")).collect()));
    bench_routed("asked for its connection", |link| Some(vec![routed(link)]));
}

/// Reads the guest's trace as fast as it comes, as the command does.
fn trace(network: &Network) {
    let mut tracer = Tracer::open(network.guest.link.index(), At::Bridge).expect("a trace");
    std::thread::spawn(move || {
        loop {
            black_box(tracer.next_event().is_ok());
        }
    });
}

/// A guest that may open connections.
fn routed(link: Link) -> BoundInterface {
    let place = Attachment::Routed { name: link.name() };
    BoundInterface { index: link.index(), name: link.name(), place, ..guest(0, "asks") }
}

/// From one tap of the host's to another.
fn bench_routed(name: &str, members: impl Fn(Link) -> Option<Vec<BoundInterface>> + Sync) {
    in_fresh_netns(|| {
        let [near, far] = ["vnet0", "peer0"].map(Tap::new);
        for (tap, net) in [(&near, 0), (&far, 1)] {
            tap.link.set_mac(Bridge::MAC);
            tap.link.up();
            address(tap.link, [10, net, 0, 254].into(), 24);
        }
        sysctl("ipv4/ip_forward", "1").expect("the host can route");
        let frame: Vec<u8> = udp(ip(GUEST_IP, "10.1.0.1"), 1000, 2000).to(Bridge::MAC).into();
        near.send(&frame).expect("sent");
        // The host asks where that address is.
        far.send(&Vec::from(arp_reply("10.1.0.1", "10.1.0.254").frame().to(Bridge::MAC))).expect("sent");
        drop(far.drain());
        if let Some(members) = members(near.link) {
            let asks = "<filter name='asks'><rule action='accept' direction='out'><udp/></rule></filter>";
            let asks = read(&Source::new("asks.xml", asks)).expect("a filter").0;
            enforce(0, [Arc::new(asks)], members, Counting::Drops);
        }
        let mut criterion = criterion();
        let id = format!("routed, {name}");
        criterion.bench_function(&id, |b| b.iter_custom(|times| send((&near, &far), &frame, times)));
    });
}

fn bind(network: &Network, members: u32, fold_up_to: usize, place: &Attachment) {
    let others = (1..members).map(|n| guest(n, "clean-traffic"));
    let ours = BoundInterface { place: place.clone(), ..ours(network) };
    enforce(fold_up_to, [], others.chain([ours]).collect(), Counting::Drops);
}

fn ours(network: &Network) -> BoundInterface {
    let mut vars = Vars::default();
    vars.push("MAC", "52:54:00:00:00:01");
    vars.push("IP", GUEST_IP);
    BoundInterface { index: network.guest.link.index(), vars, ..guest(0, "clean-traffic") }
}

/// What is counted, each with what is before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Counting {
    Nothing,
    Drops,
    Traffic,
}

fn bind_counting(network: &Network, counting: Counting) {
    enforce(0, [], vec![ours(network)], counting);
}

fn count_nothing(table: &mut Table) {
    let names: Vec<Name> = table.chains.keys().cloned().collect();
    for name in names {
        let chain = table.chains.get_mut(&name).expect("listed above");
        Arc::make_mut(chain).rules.iter_mut().for_each(|rule| rule.tally = None);
    }
}

/// A frame that its sender's rules refuse.
fn bench_dropped(name: &str, counting: Counting) {
    in_fresh_netns(|| {
        let network = Network::new();
        bind_counting(&network, counting);
        let frame: Vec<u8> = udp(ip(GUEST_IP, PEER_IP), 1000, 2000).from(FOREIGN_MAC).into();
        assert!(!network.passes(Way::FromGuest, frame.clone()));
        let dropped = |times| {
            let start = Instant::now();
            (0..times).for_each(|_| network.guest.send(&frame).expect("sent"));
            start.elapsed()
        };
        let id = format!("from guest, {name}");
        criterion().bench_function(&id, |b| b.iter_custom(dropped));
        assert!(network.peer.drain().is_empty(), "none passed");
    });
}

fn enforce(
    fold_up_to: usize,
    more: impl IntoIterator<Item = Arc<Filter>>,
    members: Vec<BoundInterface>,
    counting: Counting,
) {
    // The tables stay when the kernel's handle goes.
    let kernel = Kernel::open(Ownership::OwnedAndKept).expect("netfilter");
    let filters = Firewall::new(Policy { fold_up_to, ..policy(kernel.features().into()) })
        .define(Library::standard().filters.into_values().chain(more));
    let firewall = filters.and_then(|filters| filters.bind_all(members)).expect("bound");
    let traffic = if counting == Counting::Traffic { TrafficCounting::On } else { TrafficCounting::Off };
    let mut ruleset = firewall.counting_traffic(traffic).ruleset();
    if counting == Counting::Nothing {
        ruleset.tables.values_mut().for_each(count_nothing);
    }
    kernel.apply(plan(&Default::default(), &ruleset)).expect("in force");
}

/// Each in a namespace of its own, and so in a thread of its own.
fn bench(name: &str, rules: impl Fn(&Network) + Sync) {
    in_fresh_netns(|| {
        let network = Network::new();
        rules(&network);
        let mut criterion = criterion();
        for (way, label) in [(Way::FromGuest, "from guest"), (Way::ToGuest, "to guest")] {
            let frame = udp(ip(GUEST_IP, PEER_IP), 1000, 2000);
            let frame: Vec<u8> = if way == Way::FromGuest { frame } else { frame.inbound() }.into();
            assert!(network.passes(way, frame.clone()));
            let id = format!("{label}, {name}");
            criterion.bench_function(&id, |b| b.iter_custom(|times| send(network.ends(way), &frame, times)));
        }
    });
}

fn criterion() -> Criterion {
    let criterion = Criterion::default().configure_from_args();
    criterion.sample_size(50).measurement_time(Duration::from_secs(3))
}

fn send((sender, receiver): (&Tap, &Tap), frame: &[u8], times: u64) -> Duration {
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
