//! Real frames through taps, bridges and macvtaps: what an ear tells, and when it ends.

use crate::bpf::{GUEST, Packet, run};
use crate::lab::corpus::{Case, corpus};
use crate::lab::frames::*;
use crate::lab::{Link, Network, Tap, Way, Wire, in_fresh_netns, macvtap, veth};
use nwfilter::guest::bpf::{self, WireEnd};
use nwfilter::guest::frame::{SightedFrame, read};
use nwfilter::guest::learning::LearningMode;
use nwfilter::guest::observation::{CaptureSpec, Observation};
use nwfilter::kernel::capture::{Capture, listen};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(20);

/// A network whose guest is listened to.
struct World {
    network: Network,
    ear: Capture,
    reported: mpsc::Receiver<Observation>,
}

/// Runs a case in a fresh namespace, on a runtime of one thread.
pub fn in_world<T: Send>(case: impl AsyncFnOnce() -> T + Send) -> T {
    in_fresh_netns(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(case())
    })
}

fn ear_at(
    guest: Link,
    link: Link,
    side: WireEnd,
    mode: LearningMode,
) -> (Capture, mpsc::Receiver<Observation>) {
    let (to, reported) = mpsc::channel(64);
    let post = CaptureSpec { guest: guest.index(), link: link.index(), side, mac: GUEST, mode };
    (listen(post, to).expect("root may listen"), reported)
}

impl World {
    fn new(mode: LearningMode) -> World {
        let network = Network::new();
        let (ear, reported) = ear_at(network.guest.link, network.guest.link, WireEnd::Host, mode);
        World { network, ear, reported }
    }
}

/// The next that is reported.
async fn next(reported: &mut mpsc::Receiver<Observation>) -> Option<SightedFrame> {
    timeout(PATIENCE, reported.recv()).await.expect("an ear tells in time").map(|reported| reported.frame)
}

/// A frame that every ear hears and no case holds.
fn marker() -> Vec<u8> {
    Dhcp { transaction: 0x4d41_524b, ..dhcp(1) }.broadcast().into()
}

/// What is reported before the marker that is sent now.
async fn until_marker(guest: &Tap, reported: &mut mpsc::Receiver<Observation>) -> Vec<SightedFrame> {
    guest.send(&marker()).unwrap();
    let mut before = Vec::new();
    loop {
        let frame = next(reported).await.expect("the ear is there");
        if Some(frame) == read(&marker()) {
            return before;
        }
        before.push(frame);
    }
}

/// What a model of the kernel passes.
fn expected(case: &Case, mode: LearningMode) -> Vec<SightedFrame> {
    let packet = Packet { bytes: &case.frame, outgoing: case.way == Way::ToGuest, tag_taken_out: false };
    let kept = match mode {
        LearningMode::Dhcp => run(&bpf::dhcp(GUEST, WireEnd::Host), packet),
        _ => run(&bpf::any(GUEST, WireEnd::Host), packet),
    };
    let arrives = case.way == Way::FromGuest || !case.eaten_by_bridge;
    let cut = case.frame.len().min(bpf::LONGEST as usize);
    read(&case.frame[..cut]).filter(|_| kept > 0 && arrives).into_iter().collect()
}

#[test]
fn the_kernel_passes_what_the_model_does() {
    in_world(async || {
        let network = Network::new();
        for mode in [LearningMode::Any, LearningMode::Dhcp] {
            for case in corpus() {
                let guest = network.guest.link;
                let (_ear, mut reported) = ear_at(guest, guest, WireEnd::Host, mode);
                let (sender, _) = network.ends(case.way);
                sender.send(&case.frame).unwrap();
                let heard = until_marker(&network.guest, &mut reported).await;
                assert_eq!(heard, expected(&case, mode), "{mode:?}: {} {}", case.id, case.what);
                drop((network.guest.drain(), network.peer.drain()));
            }
        }
    });
}

#[test]
fn what_is_sent_right_after_listening_began_is_heard() {
    in_world(async || {
        let mut world = World::new(LearningMode::Any);
        let frame = Vec::from(arp_request(GUEST_IP, PEER_IP).frame());
        world.network.guest.send(&frame).unwrap();
        assert_eq!(next(&mut world.reported).await, read(&frame));
    });
}

#[test]
fn a_link_that_is_down_for_a_while_is_heard_after() {
    in_world(async || {
        let mut world = World::new(LearningMode::Any);
        for _ in 0..3 {
            world.network.guest.link.down();
            tokio::task::yield_now().await;
            world.network.guest.link.up();
            assert_eq!(until_marker(&world.network.guest, &mut world.reported).await, []);
        }
        assert!(!world.ear.has_ended());
    });
}

#[test]
fn an_ear_ends_with_its_link_and_a_reused_name_is_not_heard() {
    in_world(async || {
        let World { network, ear, mut reported } = World::new(LearningMode::Any);
        let Network { bridge, guest, peer: _peer } = network;
        drop(guest);
        let again = Tap::new("vnet0");
        bridge.add(again.link);
        again.link.up();
        again.send(&marker()).unwrap();
        assert_eq!(next(&mut reported).await, None);
        assert!(ear.has_ended());
    });
}

#[test]
fn a_dropped_ear_hears_no_more() {
    in_world(async || {
        let World { network, ear, mut reported } = World::new(LearningMode::Any);
        assert_eq!(until_marker(&network.guest, &mut reported).await, []);
        drop(ear);
        network.guest.send(&marker()).unwrap();
        assert_eq!(next(&mut reported).await, None);
    });
}

#[test]
fn closing_sockets_delays_no_caller() {
    const EARS: usize = 64;
    in_world(async || {
        let guest = Tap::new("vnet0");
        guest.link.up();
        let ears = || (0..EARS).map(|_| ear_at(guest.link, guest.link, WireEnd::Host, LearningMode::Any));
        let began = Instant::now();
        drop(Wire::open(&guest.link));
        let one = began.elapsed();
        let all: Vec<_> = ears().collect();
        tokio::task::yield_now().await;
        let began = Instant::now();
        drop(all);
        tokio::task::yield_now().await;
        let closed = began.elapsed();
        println!("a socket takes {one:?} to close, {EARS} ears {closed:?}");
        assert!(closed < one * EARS as u32 / 4, "{closed:?}");
    });
}

#[test]
fn another_guests_frames_are_not_heard() {
    in_world(async || {
        let mut world = World::new(LearningMode::Any);
        let other = world.network.add_port("vnet1");
        other.send(&marker()).unwrap();
        other.send(&Vec::from(arp_request(FOREIGN_IP, PEER_IP).frame())).unwrap();
        let host_says = arp_request(FOREIGN_IP, PEER_IP).frame();
        Wire::open(&world.network.guest.link).send(&Vec::from(host_says)).unwrap();
        assert_eq!(until_marker(&world.network.guest, &mut world.reported).await, []);
    });
}

// P-31
#[test]
fn a_flooding_guest_is_read_no_faster_than_its_budget() {
    in_world(async || {
        let mut world = World::new(LearningMode::Any);
        let flood = Vec::from(udp(ip(GUEST_IP, PEER_IP), 1, 2));
        let began = Instant::now();
        let mut heard = 0;
        let long_enough =
            |heard| began.elapsed() >= if heard < 50 { PATIENCE } else { Duration::from_millis(600) };
        while !long_enough(heard) {
            (0..100).for_each(|_| world.network.guest.send(&flood).unwrap());
            drop(world.network.peer.drain());
            tokio::time::sleep(Duration::from_millis(1)).await;
            while world.reported.try_recv().is_ok() {
                heard += 1;
            }
        }
        let most = 51 + began.elapsed().as_millis() / 50;
        assert!((50..=most).contains(&heard), "{heard} of a burst of 50 and 20 a second, at most {most}");
    });
}

/// A macvtap over a veth, and the veth's other end.
fn macvtap_world() -> Option<(Tap, Link, Wire)> {
    let (lower, far) = veth("lower", "far");
    [lower, far].into_iter().for_each(Link::up);
    [lower, far].into_iter().for_each(Link::ready);
    let guest = match macvtap("vnet0", lower, GUEST_MAC) {
        Ok(guest) => guest,
        Err(why) => {
            println!("skipped: no macvtap here ({why})");
            return None;
        }
    };
    Some((guest, lower, Wire::open(&far)))
}

#[test]
fn a_macvtap_is_heard_at_itself_and_below() {
    in_world(async || {
        let Some((guest, lower, far)) = macvtap_world() else { return };
        for link in [guest.link, lower] {
            let (_ear, mut reported) = ear_at(guest.link, link, WireEnd::Guest, LearningMode::Any);
            let own = Vec::from(arp_request(GUEST_IP, PEER_IP).frame());
            guest.send(&own).unwrap();
            assert_eq!(next(&mut reported).await, read(&own), "at {}", link.name());
            let ack = dhcp(5).your_ip(GUEST_IP).lease(60, PEER_IP).reply(PEER_IP).inbound();
            let ack = Vec::from(ack.to(GUEST_MAC));
            far.send(&ack).unwrap();
            assert_eq!(next(&mut reported).await, read(&ack), "at {}", link.name());
            let foreign = arp_request(FOREIGN_IP, PEER_IP).frame();
            far.send(&Vec::from(foreign)).unwrap();
            assert_eq!(until_marker(&guest, &mut reported).await, [], "at {}", link.name());
        }
    });
}

#[test]
fn an_ear_at_a_macvtap_ends_with_it() {
    in_world(async || {
        let Some((guest, ..)) = macvtap_world() else { return };
        let (ear, mut reported) = ear_at(guest.link, guest.link, WireEnd::Guest, LearningMode::Any);
        guest.link.delete();
        assert_eq!(next(&mut reported).await, None);
        assert!(ear.has_ended());
    });
}
