//! A bridge with a guest's tap and a peer's tap, and the question whether a frame passes.
//!
//! A bridge forwards from tap to tap inside write(2), so the answer is there when the send returns:
//! no wait, no marker frame. `flood` asks the same question for as long as some other work lasts.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::link::Bridge;
use super::marker::PATIENCE;
use super::tap::Tap;
use super::wire::Wire;

/// Which way a frame goes through the guest's interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Sent by the guest; libvirt's direction `out`.
    FromGuest,
    /// Sent to the guest; libvirt's direction `in`.
    ToGuest,
}

/// What became of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It arrived unchanged.
    Accept,
    /// It did not arrive.
    Drop,
    /// It did not arrive and its sender got this answer.
    Reject(Vec<u8>),
}

/// A guest on a bridge that puts a virtio-net header before each of its frames, `vnet0`, and a port by which they leave that finishes
/// no checksums, `wire0`.
pub fn guest_with_headers() -> (Tap, Tap) {
    let bridge = Bridge::new("br0");
    let (guest, wire) = (Tap::with_header("vnet0"), Tap::new("wire0"));
    for tap in [&guest, &wire] {
        bridge.add(tap.link);
        tap.link.up();
    }
    bridge.link.up();
    bridge.link.ready();
    (guest, wire)
}

/// A guest and a peer on a bridge, all up.
pub struct Network {
    /// The bridge, `br0`.
    pub bridge: Bridge,
    /// The guest's interface, `vnet0`.
    pub guest: Tap,
    /// Another port, `peer0`: everybody who is not the guest.
    pub peer: Tap,
}

/// What a flood sent, and what of it arrived. Exact: the lab itself loses nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flood {
    /// Frames sent that should pass.
    pub honest_sent: u64,
    /// Of these, those that arrived.
    pub honest_arrived: u64,
    /// Frames sent that should not pass.
    pub forbidden_sent: u64,
    /// Of these, those that arrived.
    pub forbidden_arrived: u64,
    /// Frames that arrived and were never sent so.
    pub strange: u64,
    /// Frames that came back to the sender, e.g. rejections.
    pub answers: u64,
}

impl Default for Network {
    fn default() -> Self {
        Network::new()
    }
}

impl Network {
    /// Large enough for every frame a tap takes.
    const MTU: u32 = 65_500;

    /// Makes the network in this thread's namespace.
    pub fn new() -> Network {
        let bridge = Bridge::new("br0");
        let [guest, peer] = ["vnet0", "peer0"].map(|name| Network::port(&bridge, name));
        bridge.link.up();
        Network { bridge, guest, peer }
    }

    /// Another guest or peer on the bridge.
    pub fn add_port(&self, name: &str) -> Tap {
        Network::port(&self.bridge, name)
    }

    fn port(bridge: &Bridge, name: &str) -> Tap {
        let tap = Tap::new(name);
        tap.link.set_mtu(Network::MTU);
        bridge.add(tap.link);
        tap.link.up();
        tap
    }

    /// Sends the frame through the guest's interface and says what became of it; see [`verdict`].
    pub fn verdict(&self, way: Way, frame: impl Into<Vec<u8>>) -> Verdict {
        let (sender, receiver) = self.ends(way);
        verdict(sender, receiver, &frame.into())
    }

    /// Sends the frame and returns what arrives at the other end, whatever it is.
    pub fn send(&self, way: Way, frame: impl Into<Vec<u8>>) -> Vec<Vec<u8>> {
        let (sender, receiver) = self.ends(way);
        send(sender, receiver, &frame.into())
    }

    /// Whether the frame arrives.
    pub fn passes(&self, way: Way, frame: impl Into<Vec<u8>>) -> bool {
        self.verdict(way, frame) == Verdict::Accept
    }

    /// Floods the guest's interface while `work` runs; see [`flood`].
    pub fn flood<T>(
        &self,
        way: Way,
        honest: impl Into<Vec<u8>>,
        forbidden: impl Into<Vec<u8>>,
        work: impl FnOnce() -> T,
    ) -> (Flood, T) {
        let (sender, receiver) = self.ends(way);
        flood(sender, receiver, &honest.into(), &forbidden.into(), work)
    }

    /// The sender and the receiver of that way.
    pub fn ends(&self, way: Way) -> (&Tap, &Tap) {
        match way {
            Way::FromGuest => (&self.guest, &self.peer),
            Way::ToGuest => (&self.peer, &self.guest),
        }
    }
}

/// Sends the frame from one port of a bridge and says whether it reached the other.
///
/// # Panics
/// Where the tap refuses the frame, it arrives changed, or more arrives than was sent.
pub fn verdict(sender: &Tap, receiver: &Tap, frame: &[u8]) -> Verdict {
    let (mut arrived, mut answers) = (send(sender, receiver, frame), sender.drain());
    match (arrived.pop(), answers.pop()) {
        (None, None) => Verdict::Drop,
        (None, Some(answer)) if answers.is_empty() => Verdict::Reject(answer),
        (Some(same), None) if same == frame && arrived.is_empty() => Verdict::Accept,
        strange => panic!("sent {frame:02x?}; arrived and answered: {strange:02x?}"),
    }
}

fn send(sender: &Tap, receiver: &Tap, frame: &[u8]) -> Vec<Vec<u8>> {
    drop((sender.drain(), receiver.drain()));
    sender.send(frame).unwrap_or_else(|why| panic!("{why}: the tap refuses {frame:02x?}"));
    receiver.drain()
}

/// Sends both frames in turn at full rate while `work` runs in the calling thread, and counts.
///
/// One thread sends a burst and reads what came of it, so no queue can overflow and no frame be
/// lost but by a verdict. A burst comes before the work and another after it. What the sender's
/// tap refuses, while it is down, does not count as sent.
pub fn flood<T>(
    sender: &Tap,
    receiver: &Tap,
    honest: &[u8],
    forbidden: &[u8],
    work: impl FnOnce() -> T,
) -> (Flood, T) {
    assert_ne!(honest, forbidden, "the two frames must differ");
    drop(receiver.drain());
    let done = AtomicBool::new(false);
    let running = Barrier::new(2);
    let mut count = Flood::default();
    burst(sender, receiver, [honest, forbidden], &mut count);
    thread::scope(|scope| {
        let pump = scope.spawn(|| {
            running.wait();
            loop {
                // Read before the burst, so that one burst follows the end of the work.
                let last = done.load(Ordering::Acquire);
                burst(sender, receiver, [honest, forbidden], &mut count);
                if last {
                    return settle(receiver, [honest, forbidden], count);
                }
            }
        });
        running.wait();
        let finally = Finally(&done);
        let answer = work();
        drop(finally);
        (pump.join().expect("the pump counts to its end"), answer)
    })
}

/// Raises the flag even when the work panics, else the scope would wait for ever.
struct Finally<'a>(&'a AtomicBool);

impl Drop for Finally<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

fn burst(sender: &Tap, receiver: &Tap, [honest, forbidden]: [&[u8]; 2], count: &mut Flood) {
    const PAIRS: usize = 32;
    for _ in 0..PAIRS {
        count.honest_sent += u64::from(sender.send(honest).is_ok());
        count.forbidden_sent += u64::from(sender.send(forbidden).is_ok());
    }
    let mut buffer = [0; 16_384];
    while let Some(length) = receiver.recv_into(&mut buffer) {
        count.arrival(&buffer[..length], honest, forbidden);
    }
    while sender.recv_into(&mut buffer).is_some() {
        count.answers += 1;
    }
}

/// A frame may wait in the queue of the receiver's interface while another processor empties it. All have come when one has that joins
/// the queue after them: an honest one with a trailer, sent by the host itself. Where the interface refuses that, it takes none.
fn settle(receiver: &Tap, [honest, forbidden]: [&[u8]; 2], mut count: Flood) -> Flood {
    let marker = [honest, b"marker"].concat();
    if Wire::open(&receiver.link).send(&marker).is_err() {
        return count;
    }
    loop {
        let late =
            receiver.recv_within(PATIENCE).expect("what the host sends by the receiver's interface comes");
        if late == marker {
            return count;
        }
        count.arrival(&late, honest, forbidden);
    }
}

impl Flood {
    fn arrival(&mut self, frame: &[u8], honest: &[u8], forbidden: &[u8]) {
        let counter = match frame {
            _ if frame == honest => &mut self.honest_arrived,
            _ if frame == forbidden => &mut self.forbidden_arrived,
            _ => &mut self.strange,
        };
        *counter += 1;
    }

    /// Honest frames that did not arrive.
    pub fn lost(&self) -> u64 {
        self.honest_sent - self.honest_arrived
    }
}
