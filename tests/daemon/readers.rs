//! Clients that may only look, and what they hold up: nothing.

use crate::host::*;
use crate::lab::{Network, in_fresh_netns};
use nwfilter::service::rpc::listen::NAME_READ_ONLY;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const READERS: usize = 4;
const RULES: usize = 2000;
const ROUNDS: usize = 15;

/// A filter with many rules: a dump of them would take the kernel long.
fn many_rules() -> String {
    let rule = |number: usize| {
        let address = format!("10.{}.{}.1", number / 256, number % 256);
        format!("<rule action='drop' direction='out'><ip dstipaddr='{address}'/></rule>")
    };
    format!("<filter name='many' chain='root'>{}</filter>", (0..RULES).map(rule).collect::<String>())
}

/// How long a binding takes that is made and deleted, as the median of some.
fn binding_takes(conn: &mut Conn) -> Duration {
    let mut times: Vec<Duration> = (0..ROUNDS)
        .map(|_| {
            let began = Instant::now();
            conn.create("vnet1", "small").unwrap();
            conn.delete("vnet1").unwrap();
            began.elapsed()
        })
        .collect();
    times.sort();
    times[ROUNDS / 2]
}

// P-39
#[test]
fn readers_hold_up_no_change() {
    in_fresh_netns(|| {
        let _network = Network::new();
        let host = Host::new();
        host.write_filter("many", &many_rules());
        host.write_filter("small", "<filter name='small' chain='root'/>");
        host.configure("grace = 0\n");
        let daemon = host.start();
        let mut conn = daemon.connect();
        conn.create("vnet0", "many").unwrap();
        let alone = binding_takes(&mut conn);
        let (asking, answers) = (AtomicBool::new(true), AtomicUsize::new(0));
        let read_only = host.runtime().join(NAME_READ_ONLY);
        let beside = thread::scope(|scope| {
            for _ in 0..READERS {
                scope.spawn(|| {
                    let mut reader = Conn::open_read_only(&read_only).unwrap();
                    while asking.load(Ordering::Relaxed) {
                        reader.0.status().unwrap();
                        answers.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            eventually("every reader has an answer", || answers.load(Ordering::Relaxed) > READERS);
            let beside = binding_takes(&mut conn);
            asking.store(false, Ordering::Relaxed);
            beside
        });
        // Where readers and writers had one queue, it was hundreds of times as long.
        assert!(
            beside < alone * 20 + Duration::from_millis(100),
            "{alone:?} alone, {beside:?} beside readers"
        );
    });
}
