//! What has come of a frame where frames may come late: all of it, once a marker that was sent after it on the same way has come.
//!
//! A veth or macvtap hands a frame on by a queue of the processor that sent it. One processor sends the frame and its markers, so that
//! a frame which has not come before them does not come. A marker has to pass: without it there is no answer, but a panic.

use std::io;
use std::iter::from_fn;
use std::ptr::addr_eq;
use std::time::Duration;

use super::tap::Tap;
use super::wire::Wire;

/// How long what passes may take to come: an emulated machine under load is slow.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// What frames go in by and come out of.
pub trait End {
    /// Sends a frame.
    ///
    /// # Errors
    /// What the kernel says.
    fn send(&self, frame: &[u8]) -> io::Result<()>;

    /// The next frame, waiting for it no longer than `limit`.
    fn recv_within(&self, limit: Duration) -> Option<Vec<u8>>;
}

/// A frame that passes from one end to another.
pub struct Marker<'a> {
    /// Unlike any other that is sent.
    pub frame: Vec<u8>,
    /// Where it goes in.
    pub from: &'a dyn End,
    /// Where it comes out.
    pub to: &'a dyn End,
}

/// Sends a frame and then the markers, and gives what has come to `to` besides them once they all have come.
///
/// # Panics
/// Where a marker is refused or does not come.
pub fn arrivals(frame: &[u8], from: &dyn End, to: &dyn End, markers: Vec<Marker>) -> Vec<Vec<u8>> {
    let waiting = |end: &dyn End| from_fn(|| end.recv_within(Duration::ZERO)).collect::<Vec<_>>();
    markers.iter().map(|marker| marker.to).chain([to]).for_each(|end| drop(waiting(end)));
    on_one_processor(|| {
        // Some hooks tell the sender of a drop.
        let _ = from.send(frame);
        for marker in &markers {
            marker.from.send(&marker.frame).expect("a marker is sent");
        }
    });
    let mut arrived = until_all_have_come(markers, to);
    arrived.extend(waiting(to));
    arrived
}

/// What else has come to `to` meanwhile.
fn until_all_have_come(mut markers: Vec<Marker>, to: &dyn End) -> Vec<Vec<u8>> {
    let mut others = Vec::new();
    while let Some(next) = markers.first() {
        let end = next.to;
        let frame = end.recv_within(PATIENCE).expect("a marker comes");
        match markers.iter().position(|marker| marker.frame == frame && addr_eq(marker.to, end)) {
            Some(at) => drop(markers.remove(at)),
            None if addr_eq(end, to) => others.push(frame),
            None => {}
        }
    }
    others
}

fn on_one_processor(work: impl FnOnce()) {
    // SAFETY: a set of processors may be all zeroes, and each call reads or writes one set of this size.
    unsafe {
        let [mut before, mut one]: [libc::cpu_set_t; 2] = std::mem::zeroed();
        super::checked(libc::sched_getaffinity(0, size_of_val(&before), &mut before))
            .expect("a thread has processors");
        let own = usize::try_from(libc::sched_getcpu()).expect("a thread runs on a processor");
        libc::CPU_SET(own, &mut one);
        super::checked(libc::sched_setaffinity(0, size_of_val(&one), &one))
            .expect("a thread may stay on its processor");
        work();
        super::checked(libc::sched_setaffinity(0, size_of_val(&before), &before)).expect("as before");
    }
}

impl End for Tap {
    fn send(&self, frame: &[u8]) -> io::Result<()> {
        Tap::send(self, frame)
    }

    fn recv_within(&self, limit: Duration) -> Option<Vec<u8>> {
        Tap::recv_within(self, limit)
    }
}

impl End for Wire {
    fn send(&self, frame: &[u8]) -> io::Result<()> {
        Wire::send(self, frame)
    }

    fn recv_within(&self, limit: Duration) -> Option<Vec<u8>> {
        Wire::recv_within(self, limit)
    }
}
