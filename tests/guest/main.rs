//! A real guest behind a filter: it gets an address by DHCP, uses it, and tries to be another from inside.
//!
//! What it sends is counted at its tap, before any rule, and what arrives is counted at the host and at another port. Boots
//! machines, so it runs only when asked for (`make guest-test`). Needs root, QEMU, a distribution's kernel and dnsmasq.

#[path = "../lab/mod.rs"]
mod lab;

#[path = "../daemon/host.rs"]
mod host;

mod machine;
#[path = "../tool/mod.rs"]
mod tool;

use host::{Conn, Daemon, Host, eventually, uuid};
use lab::frames::*;
use lab::{Bridge, Tap, Wire, address, in_fresh_netns};
use machine::{Machine, Parts, words};
use nwfilter::report::status::Status;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use tool::end;

const HOST: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 254);
const FORGED_IP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 77);
const FORGED_MAC: Mac = [0x52, 0x54, 0, 0, 0, 0x66];
const LENGTH: usize = 300_000;

/// A host, its daemon and its DHCP server, and the tap of a guest that has not booted.
struct World {
    _bridge: Bridge,
    daemon: Daemon,
    _host: Host,
    server: Child,
    /// Everything that leaves the guest, the moment it does.
    sent: Wire,
    /// What the host gets of it.
    heard: Wire,
    /// What another port gets of it.
    peer: Tap,
}

impl World {
    fn new() -> World {
        let bridge = Bridge::new("br0");
        let taps = ["vnet0", "peer0"].map(|name| {
            let tap = Tap::new(name);
            bridge.add(tap.link);
            tap.link.up();
            tap
        });
        let [guest, peer] = taps;
        peer.link.set_queue(20_000);
        bridge.link.up();
        address(bridge.link, HOST, 24);
        let (sent, heard) = (Wire::open(&guest.link), Wire::open(&bridge.link));
        guest.persist(true).expect("a tap can be kept");
        let host = Host::new();
        for (name, text) in nwfilter::document::standard::STANDARD {
            host.write_filter(name, text);
        }
        let leases = host.path("leases");
        let server = Command::new("dnsmasq")
            .args([
                "--no-daemon",
                "--conf-file=/dev/null",
                "--port=0",
                "--bind-interfaces",
                "--interface=br0",
            ])
            .args(["--except-interface=lo", "--no-ping", "--user=root", "--dhcp-authoritative"])
            .args(["--dhcp-range=10.0.0.50,10.0.0.60,255.255.255.0,3600", "--leasefile-ro"])
            .arg(format!("--dhcp-leasefile={}", leases.display()))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("dnsmasq is installed");
        World { _bridge: bridge, daemon: host.start(), _host: host, server, sent, heard, peer }
    }

    fn bind(&self, filter: &str, mode: &str) -> Conn {
        let mut conn = self.daemon.connect();
        let xml = format!(
            "<filterbinding><owner><name>vm</name><uuid>{}</uuid></owner><portdev name='vnet0'/><mac address='{}'/>\
             <filterref filter='{filter}'><parameter name='CTRL_IP_LEARNING' value='{mode}'/></filterref></filterbinding>",
            uuid("vm"),
            words(GUEST_MAC)
        );
        conn.0.apply(&xml).unwrap_or_else(|why| panic!("{why}"));
        conn
    }

    /// How many of these frames the guest sent, and how many the host and the other port got.
    fn count(&self, is: impl Fn(&[u8]) -> bool) -> [usize; 3] {
        thread::sleep(Duration::from_millis(300));
        let all = |wire: &Wire| std::iter::from_fn(|| wire.recv()).filter(|frame| is(frame)).count();
        [all(&self.sent), all(&self.heard), self.peer.drain().iter().filter(|frame| is(frame)).count()]
    }

    /// An attempt that the guest makes in earnest and no peer sees.
    #[track_caller]
    fn refuses(&self, what: &str, guest: &mut Machine, line: &str, is: impl Fn(&[u8]) -> bool) {
        self.count(|_| false);
        let answer = guest.run(line);
        let [sent, heard, seen] = self.count(is);
        assert!(sent > 0, "{what}: the guest did not even try: {}", answer.text);
        assert_eq!([heard, seen], [0, 0], "{what}: of {sent} frames");
        assert!(!answer.success, "{what}: {}", answer.text);
        println!("measured: {what}: {sent} frames sent by the guest, none arrived");
    }
}

impl Drop for World {
    fn drop(&mut self) {
        end(&mut self.server);
    }
}

/// Asks for a lease; the address.
fn leases(guest: &mut Machine) -> String {
    let answer = guest.run("udhcpc -i eth0 -n -q -t 40 -T 2 -s /bin/lease");
    let address = answer.text.lines().find_map(|line| line.strip_prefix("LEASE "));
    address.unwrap_or_else(|| panic!("no lease: {}", answer.text)).to_owned()
}

fn known(conn: &mut Conn) -> Vec<String> {
    let status: Status = serde_json::from_str(&conn.0.status().unwrap()).unwrap();
    let learning = status.interfaces.into_iter().find_map(|interface| interface.learning);
    learning.map(|it| it.addresses.into_iter().map(|address| address.address).collect()).unwrap_or_default()
}

#[track_caller]
fn reaches_the_host(guest: &mut Machine) {
    let tries: Vec<_> =
        (0..5).map(|_| guest.run(&format!("ping -c 1 -W 3 {HOST}"))).take_while(|it| !it.success).collect();
    assert!(tries.len() < 5, "the host is not reached: {}", tries[0].text);
}

fn from_ip(frame: &[u8], address: Ipv4Addr) -> bool {
    frame[12..14] == [8, 0] && frame.get(26..30) == Some(&address.octets())
}

fn arp_of(frame: &[u8], address: Ipv4Addr) -> bool {
    frame[12..14] == [8, 6] && frame.get(28..32) == Some(&address.octets())
}

fn learns_and_is_held(mode: &str) {
    let Some(parts) = Parts::find() else { return };
    in_fresh_netns(|| {
        let world = World::new();
        let mut conn = world.bind("clean-traffic", mode);
        let began = Instant::now();
        let mut guest = Machine::boot(&parts, "vnet0");
        println!("measured: booted in {:.0?}", began.elapsed());

        // Where the guest's own word counts, what it says first would be its address.
        let claims = format!("ip addr add {FORGED_IP}/24 dev eth0; ping -c 1 -W 1 {HOST}");
        if mode == "dhcp" {
            world.refuses("an address before a lease", &mut guest, &claims, |frame| arp_of(frame, FORGED_IP));
            guest.run(&format!("ip addr del {FORGED_IP}/24 dev eth0"));
        }
        assert_eq!(known(&mut conn), [""; 0]);
        let own = leases(&mut guest);
        eventually("the address", || known(&mut conn) == [own.clone()]);
        reaches_the_host(&mut guest);

        let forge = format!("ip addr add {FORGED_IP}/24 dev eth0; ping -c 3 -W 1 -I {FORGED_IP} {HOST}");
        world.refuses("another address", &mut guest, &forge, |frame| from_ip(frame, FORGED_IP));
        let claim = format!("arping -c 3 -w 4 -I eth0 -s {FORGED_IP} {HOST}");
        world.refuses("ARP from another address", &mut guest, &claim, |frame| arp_of(frame, FORGED_IP));
        guest.run(&format!("ip addr del {FORGED_IP}/24 dev eth0; ip addr add {HOST}/32 dev lo"));
        let claim = format!("arping -U -c 3 -w 4 -I eth0 -s {HOST} {HOST}; false");
        world.refuses("ARP for the host's address", &mut guest, &claim, |frame| arp_of(frame, HOST));
        guest.run(&format!("ip addr del {HOST}/32 dev lo"));

        let mac = words(FORGED_MAC);
        let forge = format!(
            "ip link set eth0 down; ip link set eth0 address {mac}; ip link set eth0 up; arping -c 3 -w 4 -I eth0 {HOST}"
        );
        world.refuses("another MAC address", &mut guest, &forge, |frame| frame[6..12] == FORGED_MAC);
        guest.run(&format!(
            "ip link set eth0 down; ip link set eth0 address {}; ip link set eth0 up",
            words(GUEST_MAC)
        ));
        reaches_the_host(&mut guest);
        assert_eq!(known(&mut conn), [own]);
    });
}

#[test]
#[ignore = "boots a machine: make guest-test"]
fn a_guest_that_learns_keeps_to_its_address() {
    learns_and_is_held("any");
}

#[test]
#[ignore = "boots a machine: make guest-test"]
fn a_guest_with_a_lease_keeps_to_it() {
    learns_and_is_held("dhcp");
}

const STATEFUL: &str = "<filter name='web' chain='root'><filterref filter='clean-traffic'/>
    <rule action='accept' direction='out' priority='100'><udp dstportstart='67'/></rule>
    <rule action='accept' direction='out' priority='100'><icmp/></rule>
    <rule action='accept' direction='out' priority='100'><tcp dstportstart='80'/></rule>
    <rule action='accept' direction='in' priority='100'><tcp dstportstart='22'/></rule>
    <rule action='drop' direction='inout' priority='900'><all/></rule></filter>";

/// Takes a message and gives it back.
fn echo(listener: &TcpListener) {
    for stream in listener.incoming() {
        let mut stream = stream.expect("a guest calls");
        let mut message = vec![0; LENGTH];
        if stream.read_exact(&mut message).is_ok() {
            let _ = stream.write_all(&message);
        }
    }
}

fn comes_back(to: SocketAddr, patience: Duration) -> std::io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&to, patience)?;
    stream.set_read_timeout(Some(Duration::from_secs(120)))?;
    let message: Vec<u8> = (0..LENGTH).map(|at| at as u8).collect();
    let mut writer = stream.try_clone()?;
    let copy = message.clone();
    thread::spawn(move || writer.write_all(&copy));
    let mut back = vec![0; LENGTH];
    stream.read_exact(&mut back)?;
    assert_eq!(back, message, "what comes back is what was sent");
    Ok(())
}

/// Whether the checksum of a TCP frame is left to be filled in by a card.
fn is_unfinished(frame: &[u8]) -> bool {
    if frame.len() < 54 || frame[12..14] != [8, 0] || frame[23] != 6 {
        return false;
    }
    let end = 14 + usize::from(u16::from_be_bytes([frame[16], frame[17]]));
    let Some(segment) = frame.get(34..end) else { return false };
    let length = (segment.len() as u16).to_be_bytes();
    let all = [&frame[26..34], &[0, 6], &length[..], segment].concat();
    let sum: u32 =
        all.chunks(2).map(|two| u32::from(two[0]) << 8 | u32::from(*two.get(1).unwrap_or(&0))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    (folded & 0xffff) + (folded >> 16) != 0xffff
}

#[test]
#[ignore = "boots a machine: make guest-test"]
fn connections_live_with_checksums_left_to_the_host() {
    let Some(parts) = Parts::find() else { return };
    in_fresh_netns(|| {
        let features = nwfilter::kernel::apply::Kernel::open(nwfilter::ruleset::nft::Ownership::Shared)
            .unwrap()
            .features();
        if !features.bridge_ct.is_yes() {
            assert!(std::env::var_os("NWFILTER_KERNEL_IS_COMPLETE").is_none(), "{features:?}");
            println!("skipped: bridges of this kernel have no conntrack");
            return;
        }
        let world = World::new();
        world.daemon.connect().define(STATEFUL).unwrap();
        let mut conn = world.bind("web", "dhcp");
        let mut guest = Machine::boot(&parts, "vnet0");
        let own = leases(&mut guest);
        eventually("the address", || known(&mut conn) == [own.clone()]);
        reaches_the_host(&mut guest);

        for port in [80, 81] {
            let listener = TcpListener::bind((HOST, port)).unwrap();
            thread::spawn(move || echo(&listener));
        }
        guest.run(&format!("head -c {LENGTH} /dev/urandom >/tmp/sent"));
        world.count(|_| false);
        let answer = guest.run(&format!("nc -w 60 {HOST} 80 </tmp/sent >/tmp/back; cmp /tmp/sent /tmp/back"));
        let [unfinished, ..] = world.count(is_unfinished);
        assert!(answer.success, "what the guest sends to the open port comes back: {}", answer.text);
        assert!(unfinished > 0, "no frame of the guest had an unfinished checksum: the test proves nothing");
        println!("measured: {LENGTH} bytes each way, {unfinished} frames with unfinished checksums");
        let answer =
            guest.run(&format!("nc -w 3 {HOST} 81 </tmp/sent >/tmp/back; cmp -s /tmp/sent /tmp/back"));
        assert!(!answer.success, "another port of the host");

        guest.run("nc -ll -p 22 -e cat & nc -ll -p 23 -e cat &");
        guest.run(
            "for port in 22 23; do until netstat -tln | grep -q \":$port \"; do usleep 50000; done; done",
        );
        let at = |port| SocketAddr::new(own.parse().unwrap(), port);
        if let Err(why) = comes_back(at(22), Duration::from_secs(60)) {
            let seen = guest.run("netstat -tan; ps | grep nc; cat /proc/net/snmp | grep -E 'Tcp|Ip:'").text;
            panic!("the host to the open port of the guest: {why}; {seen}");
        }
        let refused = comes_back(at(23), Duration::from_secs(5)).expect_err("the port is not open");
        assert_eq!(refused.kind(), std::io::ErrorKind::TimedOut);
    });
}
