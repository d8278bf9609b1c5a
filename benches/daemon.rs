//! What a client waits for, and what the daemon takes: bindings, redefinitions, a restart, memory.
//!
//! `cargo bench --bench daemon` prints a table. Needs root: each daemon has a network namespace of its own, with veth
//! ends as the interfaces of guests.

#[path = "../tests/daemon/host.rs"]
mod host;
#[path = "../tests/lab/mod.rs"]
mod lab;

use host::{Conn, Daemon, Host, guard};
use std::fs;
use std::time::{Duration, Instant};

const ROUNDS: usize = 300;
const REDEFINITIONS: usize = 40;

fn main() {
    println!("{:44} {:>10} {:>10} {:>10}", "", "p50", "p99", "target");
    lab::in_fresh_netns(measure);
}

fn measure() {
    // What is left of a redefinition without the disk under it shows with the filters in memory.
    let in_memory = std::env::var_os("NWFILTER_BENCH_IN_MEMORY").is_some();
    let host = if in_memory { Host::new() } else { Host::on_disk() };
    host.configure("grace = 0\n");
    let daemon = host.start();
    let mut conn = daemon.connect();
    conn.define(&guard("other", 0)).unwrap();
    conn.define(&guard("g", 0)).unwrap();
    let empty = memory(&daemon);
    links("p", 0..1);
    let mut others = 0;
    for number in [0, 100, 1000] {
        links("n", others..number);
        let began = Instant::now();
        (others..number).for_each(|n| conn.create(&format!("n{n}"), "g").unwrap());
        let bound = number - others;
        others = number;
        if bound > 0 {
            let each = began.elapsed() / bound;
            println!("{:44} {each:>10.1?}", format!("{bound} bindings, each"));
        }
        bindings(&mut conn, number);
        if number > 0 {
            redefine(&mut conn, number);
        }
    }
    let full = memory(&daemon);
    println!("{:44} {:>7} kB {:>10} {:>10}", "resident with 1000 bindings", full, "", "30000 kB");
    println!("{:44} {:>7} kB", "resident with none", empty);
    println!("{:44} {:>7} B", "a binding", full.saturating_sub(empty) * 1024 / 1000);
    drop(conn);
    restart(&host, daemon);
}

fn links(prefix: &str, numbers: std::ops::Range<u32>) {
    for n in numbers {
        lab::veth(&format!("{prefix}{n}"), &format!("{prefix}{n}p"));
    }
}

fn bindings(conn: &mut Conn, others: u32) {
    let (mut creates, mut deletes) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        creates.push(time(|| conn.create("p0", "g").unwrap()));
        deletes.push(time(|| conn.delete("p0").unwrap()));
    }
    row(&format!("create a binding, {others} others"), creates, "2 ms");
    row(&format!("delete a binding, {others} others"), deletes, "");
}

fn redefine(conn: &mut Conn, users: u32) {
    let one = |n| time(|| drop(conn.define(&guard("g", n as u32)).unwrap()));
    row(&format!("redefine a filter that {users} use"), (1..REDEFINITIONS).map(one).collect(), "20 ms");
}

fn restart(host: &Host, daemon: Daemon) {
    daemon.kill();
    let mut times = Vec::new();
    for _ in 0..5 {
        let began = Instant::now();
        let daemon = host.start();
        times.push(began.elapsed());
        daemon.kill();
    }
    row("from start to ready, 1000 bindings", times, "250 ms");
}

fn memory(daemon: &Daemon) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.child.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn time(work: impl FnOnce()) -> Duration {
    let began = Instant::now();
    work();
    began.elapsed()
}

fn row(what: &str, mut times: Vec<Duration>, target: &str) {
    times.sort();
    let at = |hundredths: usize| times[(times.len() * hundredths / 100).min(times.len() - 1)];
    println!("{what:44} {:>10.1?} {:>10.1?} {target:>10}", at(50), at(99));
}
