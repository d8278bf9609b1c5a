//! What a client waits for, and what the daemon takes: bindings, redefinitions, a restart, memory; beside libvirtd.
//!
//! `cargo bench --bench daemon` prints a table. Needs root: each daemon has a network namespace of its own, with veth
//! ends as the interfaces of guests. The same client measures both; libvirtd's column is empty where it is not
//! installed, and where it would take minutes.

#[path = "../tests/daemon/host.rs"]
mod host;
#[path = "../tests/lab/mod.rs"]
mod lab;
#[path = "../tests/daemon/libvirtd.rs"]
mod libvirtd;
#[path = "../tests/tool/mod.rs"]
mod tool;

use host::{Conn, Daemon, Host, PATIENCE, guard};
use libvirtd::Libvirtd;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How often what is measured.
struct Rounds {
    others: &'static [u32],
    bindings: usize,
    redefinitions: usize,
    restarts: usize,
}

const OURS: Rounds = Rounds { others: &[0, 10, 100, 1000], bindings: 300, redefinitions: 60, restarts: 7 };
const THEIRS: Rounds = Rounds { others: &[0, 10], bindings: 5, redefinitions: 3, restarts: 3 };

/// How long a client rests before a change that shall find the daemon at rest.
const REST: Duration = Duration::from_millis(60);

/// What a daemon is started by and reached at.
trait Server {
    type Running;
    fn start(&self) -> Self::Running;
    fn process(running: &Self::Running) -> u32;
    fn socket(&self) -> PathBuf;
}

/// Libvirtd's configuration and log.
struct Theirs(tempfile::TempDir);

/// A line of the table.
struct Row {
    what: String,
    figure: Figure,
}

enum Figure {
    Times(Vec<Duration>),
    Memory(u64),
}

fn main() {
    let ours = lab::in_fresh_netns(|| {
        // What is left of a redefinition without the disk under it shows with the filters in memory.
        let in_memory = std::env::var_os("NWFILTER_BENCH_IN_MEMORY").is_some();
        let host = if in_memory { Host::new() } else { Host::on_disk() };
        host.configure("grace = 0\n");
        measure(&host, &OURS)
    });
    let theirs = match tool::available("libvirtd", "--tests") {
        true => lab::in_fresh_netns(|| {
            libvirtd::enclose();
            measure(&Theirs(tempfile::tempdir().unwrap()), &THEIRS)
        }),
        false => Vec::new(),
    };
    print(&ours, &theirs);
}

impl Server for Host {
    type Running = Daemon;

    fn start(&self) -> Daemon {
        self.spawn(self.command())
    }

    fn process(running: &Daemon) -> u32 {
        running.child.id()
    }

    fn socket(&self) -> PathBuf {
        self.runtime().join(nwfilter::service::rpc::listen::NAME)
    }
}

impl Server for Theirs {
    type Running = Libvirtd;

    fn start(&self) -> Libvirtd {
        Libvirtd::spawn(self.0.path())
    }

    fn process(running: &Libvirtd) -> u32 {
        running.id()
    }

    fn socket(&self) -> PathBuf {
        libvirtd::SOCKET.into()
    }
}

fn measure<S: Server>(server: &S, rounds: &Rounds) -> Vec<Row> {
    let mut rows = Vec::new();
    let running = server.start();
    let mut conn = reach(&server.socket());
    conn.define(&guard("g", 0)).unwrap();
    rows.push(memory(S::process(&running), 0));
    links("p", 0..1);
    let mut others = 0;
    let mut running = Some(running);
    for &number in rounds.others {
        links("n", others..number);
        (others..number).for_each(|n| conn.create(&format!("n{n}"), "g").unwrap());
        others = number;
        bindings(&mut conn, number, rounds, &mut rows);
        if number > 0 {
            redefine(&mut conn, number, rounds, &mut rows);
            drop(conn);
            rows.push(memory(S::process(running.as_ref().expect("it runs")), number));
            drop(running.take());
            let mut times = Vec::new();
            for _ in 0..rounds.restarts {
                drop(running.take());
                let began = Instant::now();
                running = Some(server.start());
                assert_eq!(reach(&server.socket()).bindings().unwrap().len(), number as usize);
                times.push(began.elapsed());
            }
            push(&mut rows, format!("from start to the first answer, {number} bindings"), times);
            conn = reach(&server.socket());
        }
    }
    rows
}

/// A connection as soon as there can be one.
fn reach(socket: &Path) -> Conn {
    let until = Instant::now() + PATIENCE;
    loop {
        match Conn::open(socket) {
            Ok(conn) => return conn,
            Err(failure) => assert!(Instant::now() < until, "{failure}"),
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn links(prefix: &str, numbers: std::ops::Range<u32>) {
    for n in numbers {
        lab::veth(&format!("{prefix}{n}"), &format!("{prefix}{n}p"));
    }
}

fn bindings(conn: &mut Conn, others: u32, rounds: &Rounds, rows: &mut Vec<Row>) {
    let (mut creates, mut deletes) = (Vec::new(), Vec::new());
    for _ in 0..rounds.bindings {
        creates.push(time(|| conn.create("p0", "g").unwrap()));
        deletes.push(time(|| conn.delete("p0").unwrap()));
    }
    push(rows, format!("create a binding, {others} others"), creates);
    push(rows, format!("delete a binding, {others} others"), deletes);
}

fn redefine(conn: &mut Conn, users: u32, rounds: &Rounds, rows: &mut Vec<Row>) {
    let mut version = 0;
    let mut series = |rest: Duration| {
        let mut one = || {
            version += 1;
            std::thread::sleep(rest);
            time(|| drop(conn.define(&guard("g", version)).unwrap()))
        };
        (0..rounds.redefinitions).map(|_| one()).collect()
    };
    push(rows, format!("redefine a filter that {users} use"), series(REST));
    push(rows, format!("the same, one upon the other, {users} use"), series(Duration::ZERO));
}

fn memory(process: u32, bindings: u32) -> Row {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    let kilobytes = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    Row { what: format!("resident memory, {bindings} bindings"), figure: Figure::Memory(kilobytes) }
}

fn time(work: impl FnOnce()) -> Duration {
    let began = Instant::now();
    work();
    began.elapsed()
}

fn push(rows: &mut Vec<Row>, what: String, times: Vec<Duration>) {
    rows.push(Row { what, figure: Figure::Times(times) });
}

impl Figure {
    /// Milliseconds or megabytes, in the middle and the worst but a hundredth.
    fn values(&self) -> (f64, f64) {
        match self {
            Figure::Times(times) => {
                let mut times = times.clone();
                times.sort();
                let at = |hundredths: usize| times[(times.len() * hundredths / 100).min(times.len() - 1)];
                (at(50).as_secs_f64() * 1e3, at(99).as_secs_f64() * 1e3)
            }
            Figure::Memory(kilobytes) => (*kilobytes as f64 / 1e3, *kilobytes as f64 / 1e3),
        }
    }

    fn text(&self) -> (String, String) {
        let (middle, worst) = self.values();
        match self {
            Figure::Times(_) => (format!("{} ms", short(middle)), format!("{} ms", short(worst))),
            Figure::Memory(_) => (format!("{} MB", short(middle)), String::new()),
        }
    }
}

fn short(value: f64) -> String {
    match value {
        ..1.0 => format!("{value:.2}"),
        1.0..10.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

fn print(ours: &[Row], theirs: &[Row]) {
    println!("| | ours, p50 | ours, p99 | libvirtd, p50 | ratio |\n| --- | --- | --- | --- | --- |");
    for row in ours {
        let (middle, worst) = row.figure.text();
        let other = theirs.iter().find(|other| other.what == row.what);
        let (their, ratio) = other.map_or_else(Default::default, |other| {
            (other.figure.text().0, short(other.figure.values().0 / row.figure.values().0))
        });
        println!("| {} | {middle} | {worst} | {their} | {ratio} |", row.what);
    }
}
