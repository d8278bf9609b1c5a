//! What a piece of work costs: processor time of its thread, and the most memory that was in use at once.
//!
//! Both belong to this process and this thread alone, so that a busy machine changes little of them.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// The system's allocator, with a look at how much is in use.
pub struct Metered;

static USED: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes on to the system's allocator as it came; what is counted beside it touches no memory of it.
unsafe impl GlobalAlloc for Metered {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let used = USED.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(used, Ordering::Relaxed);
        // SAFETY: the caller keeps to what `alloc` asks of it.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        USED.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps to what `dealloc` asks of it.
        unsafe { System.dealloc(memory, layout) }
    }
}

/// What something cost.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// Processor time of the thread.
    pub time: Duration,
    /// Bytes in use at most, without those that were in use before.
    pub memory: usize,
}

/// Does it, and tells what it cost.
pub fn cost<T>(work: impl FnOnce() -> T) -> (T, Cost) {
    let before = USED.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let began = processor_time();
    let done = work();
    let time = processor_time() - began;
    (done, Cost { time, memory: PEAK.load(Ordering::Relaxed).saturating_sub(before) })
}

fn processor_time() -> Duration {
    let reported = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux tells it");
    let nanoseconds = reported.split(' ').next().and_then(|first| first.parse().ok());
    Duration::from_nanos(nanoseconds.expect("a number comes first"))
}
