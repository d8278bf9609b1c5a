//! What learning costs: from a guest's frame to its address in force, a thousand guests that learn, a frame that no learner
//! wants.
//!
//! `cargo bench --bench learn` prints tables. Needs root: all but the last is asked of a daemon in a network namespace.

#[path = "../tests/daemon/host.rs"]
mod host;
#[path = "../tests/lab/mod.rs"]
mod lab;
#[path = "../tests/tool/mod.rs"]
mod tool;

use host::{Conn, Daemon, Host, eventually, uuid};
use lab::frames::*;
use lab::{Network, PortOption, Tap, Way, in_fresh_netns};
use nwfilter::document::catalog::Library;
use nwfilter::guest::bpf::WireEnd;
use nwfilter::guest::learning::LearningMode;
use nwfilter::guest::observation::CaptureSpec;
use nwfilter::kernel::capture::listen;
use nwfilter::report::status::Status;
use rustix::process::{Resource, getrlimit, setrlimit};
use std::fs;
use std::time::{Duration, Instant};

const GUESTS: u32 = 1000;
const ROUNDS: usize = 200;
/// How long a guest waits, so that it finds the daemon at rest.
const REST: Duration = Duration::from_millis(60);
const RESTARTS: usize = 3;
/// What a tap queues for its reader.
const BURST: usize = 256;
const BURSTS: usize = 300;

fn main() {
    let limit = getrlimit(Resource::Nofile);
    // Without the right to it the benchmark has as many guests as it may.
    let _ = setrlimit(Resource::Nofile, rustix::process::Rlimit { current: limit.maximum, ..limit });
    in_fresh_netns(daemon);
    in_fresh_netns(socket_filter);
}

fn daemon() {
    println!("| | p50 | p99 |\n| --- | --- | --- |");
    let (network, host) = (Network::new(), Host::new());
    host.configure("grace = 0\n");
    let daemon = host.start();
    let mut conn = daemon.connect();
    for filter in Library::standard().filters.values() {
        conn.define(&nwfilter::document::filter::write::write(filter)).unwrap();
    }
    row("from a frame to its address in force, no others", frame_to_address(&mut conn, &network));
    let taps: Vec<Tap> = (0..GUESTS).map(|number| port(&network, number)).collect();
    let (memory, before, began) = (resident(&daemon), spent(&daemon), Instant::now());
    (0..GUESTS).for_each(|number| bind(&mut conn, &format!("g{number}"), number));
    let waiting = (began.elapsed(), spent(&daemon) - before, resident(&daemon) - memory);
    drop(conn);
    let (daemon, times) = restarts(&host, daemon);
    row(&format!("from start to the first answer, {GUESTS} that wait"), times);

    let (before, began) = (spent(&daemon), Instant::now());
    for (tap, number) in taps.iter().zip(0..) {
        tap.send(&claim(number)).unwrap();
        drop(network.peer.drain());
    }
    let mut conn = daemon.connect();
    eventually("an address for each", || learned(&mut conn) == GUESTS as usize);
    let known = (began.elapsed(), spent(&daemon) - before);
    row(
        &format!("from a frame to its address in force, {GUESTS} others"),
        frame_to_address(&mut conn, &network),
    );
    drop(conn);
    let (_daemon, times) = restarts(&host, daemon);
    row(&format!("from start to the first answer, {GUESTS} that know"), times);
    println!("\n{GUESTS} guests bound: {:?}, {:?} of the processor, {} kB", waiting.0, waiting.1, waiting.2);
    println!("{GUESTS} addresses learned: {:?}, {:?} of the processor", known.0, known.1);
}

/// A guest of many, who do not flood each other.
fn port(network: &Network, number: u32) -> Tap {
    let tap = network.add_port(&format!("g{number}"));
    tap.link.set_port(PortOption::Isolated, true);
    tap
}

fn mac(number: u32) -> Mac {
    let [_, _, high, low] = number.to_be_bytes();
    [2, 0, 0, 1, high, low]
}

fn address(number: u32) -> String {
    std::net::Ipv4Addr::from(0x0a01_0000 + number).to_string()
}

fn claim(number: u32) -> Vec<u8> {
    arp_request(&address(number), PEER_IP).sender_mac(mac(number)).from(mac(number)).into()
}

fn bind(conn: &mut Conn, port: &str, number: u32) {
    let mac = mac(number).map(|byte| format!("{byte:02x}")).join(":");
    let owner = format!("vm{number}");
    let xml = format!(
        "<filterbinding><owner><name>{owner}</name><uuid>{}</uuid></owner><portdev name='{port}'/>\
         <mac address='{mac}'/><filterref filter='clean-traffic'/></filterbinding>",
        uuid(&owner)
    );
    conn.0.apply(&xml).unwrap();
}

/// Another guest each time claims its address, and sends from there until that comes through.
fn frame_to_address(conn: &mut Conn, network: &Network) -> Vec<Duration> {
    let one = |round: usize| {
        let number = 20_000 + round as u32;
        let own = Vec::from(udp(ip(&address(number), PEER_IP), 1, 2).from(mac(number)));
        bind(conn, "vnet0", number);
        drop(network.peer.drain());
        std::thread::sleep(REST);
        let began = Instant::now();
        network.guest.send(&claim(number)).unwrap();
        loop {
            network.guest.send(&own).unwrap();
            if network.peer.drain().contains(&own) {
                break;
            }
        }
        let time = began.elapsed();
        conn.delete("vnet0").unwrap();
        time
    };
    (0..ROUNDS).map(one).collect()
}

fn restarts(host: &Host, daemon: Daemon) -> (Daemon, Vec<Duration>) {
    let (mut running, mut times) = (daemon, Vec::new());
    for _ in 0..RESTARTS {
        drop(running);
        let began = Instant::now();
        running = host.start();
        assert_eq!(running.connect().bindings().unwrap().len(), GUESTS as usize);
        times.push(began.elapsed());
    }
    (running, times)
}

fn learned(conn: &mut Conn) -> usize {
    let status: Status = serde_json::from_str(&conn.0.status().unwrap()).unwrap();
    let lessons = status.interfaces.iter().filter_map(|interface| interface.learning.as_ref());
    lessons.filter(|learning| !learning.addresses.is_empty()).count()
}

/// Kilobytes in use.
fn resident(daemon: &Daemon) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.child.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// The processor's time that a daemon has had.
fn spent(daemon: &Daemon) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{}/stat", daemon.child.id())).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks = |at: usize| fields[at].parse::<u64>().unwrap();
    Duration::from_millis((ticks(11) + ticks(12)) * 10)
}

fn row(what: &str, times: Vec<Duration>) {
    let [middle, worst] = [50, 99].map(|hundredths| at(&times, hundredths).as_secs_f64() * 1e3);
    println!("| {what} | {middle:.2} ms | {worst:.2} ms |");
}

fn at(times: &[Duration], hundredths: usize) -> Duration {
    let mut times = times.to_vec();
    times.sort();
    times[(times.len() * hundredths / 100).min(times.len() - 1)]
}

/// Frames that are nothing to a learner, without its socket and with it, in turn.
fn socket_filter() {
    let network = Network::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (to, _told) = tokio::sync::mpsc::channel(1);
    let ear = |mode: Option<LearningMode>| {
        let index = network.guest.link.index();
        let mac = nwfilter::document::mac::Mac(GUEST_MAC);
        let post = |mode| CaptureSpec { guest: index, link: index, side: WireEnd::Host, mac, mode };
        mode.map(|mode| listen(post(mode), to.clone()).unwrap())
    };
    let frames = [
        ("IPv6 from the guest", Way::FromGuest, Vec::from(udp(ip6("fe80::1", "fe80::2"), 1, 2))),
        ("UDP to the guest", Way::ToGuest, udp(ip(PEER_IP, GUEST_IP), 1000, 2000).inbound().into()),
    ];
    println!(
        "\n| a frame that no learner wants | no socket | mode any | mode dhcp |\n| --- | --- | --- | --- |"
    );
    for (what, way, frame) in &frames {
        let mut times = [const { Vec::new() }; 3];
        for _ in 0..BURSTS {
            for (mode, times) in
                [None, Some(LearningMode::Any), Some(LearningMode::Dhcp)].into_iter().zip(&mut times)
            {
                times.push(runtime.block_on(async {
                    let open = ear(mode);
                    let time = burst(&network, *way, frame);
                    drop(open);
                    tokio::task::yield_now().await;
                    time
                }));
            }
        }
        let [without, any, dhcp] = times.map(|times| at(&times, 50).as_secs_f64() * 1e9 / BURST as f64);
        let ratio = |with: f64| format!("{with:.0} ns ({:.2})", with / without);
        println!("| {what} | {without:.0} ns | {} | {} |", ratio(any), ratio(dhcp));
    }
}

fn burst(network: &Network, way: Way, frame: &[u8]) -> Duration {
    let (sender, receiver) = network.ends(way);
    let began = Instant::now();
    (0..BURST).for_each(|_| sender.send(frame).expect("sent"));
    let time = began.elapsed();
    let mut buffer = [0; 2048];
    let arrived = (0..BURST).filter(|_| receiver.recv_into(&mut buffer).is_some()).count();
    assert_eq!(arrived, BURST, "a frame was lost");
    time
}
