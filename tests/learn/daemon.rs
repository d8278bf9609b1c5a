//! A daemon, guests that learn, and a real DHCP server: discover to ack, renewal, release, expiry, restarts and crashes.
//! Cases with a server need dnsmasq (scripts/setup).

use crate::lab::frames::*;
use crate::lab::{Network, Tap, Verdict, Way, Wire, address, in_fresh_netns, verdict};
use crate::tool::{available, end};
use nwfilter::report::status::{Interface, Status};
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

#[path = "../daemon/host.rs"]
pub mod host;
#[path = "../daemon/refuser.rs"]
pub mod refuser;

use host::{Conn, Daemon, Host, eventually, uuid};

/// The filter under test: the guest's own MAC and address, DHCP, ARP, and nothing else.
pub fn filter() -> String {
    format!(
        "<filter name='own'><uuid>{}</uuid>\
         <rule action='drop' direction='out' priority='-900'><mac match='no' srcmacaddr='$MAC'/></rule>\
         <rule action='accept' direction='out'><ip srcipaddr='0.0.0.0' protocol='udp' dstportstart='67'/></rule>\
         <rule action='accept' direction='out'><ip srcipaddr='$IP'/></rule>\
         <rule action='accept' direction='out'><arp arpsrcipaddr='$IP'/></rule>\
         <rule action='accept' direction='out'><arp arpsrcipaddr='0.0.0.0'/></rule>\
         <rule action='accept' direction='in'><mac protocolid='ipv4'/></rule>\
         <rule action='accept' direction='in'><mac protocolid='arp'/></rule>\
         <rule action='drop' direction='inout' priority='1000'><mac/></rule></filter>",
        uuid("own")
    )
}

fn bind(conn: &mut Conn, port: &str, owner: &str, mac: Mac, mode: &str) {
    bind_with(conn, port, owner, mac, &[("CTRL_IP_LEARNING", mode)]);
}

pub fn bind_with(conn: &mut Conn, port: &str, owner: &str, mac: Mac, params: &[(&str, &str)]) {
    let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
    let params: String =
        params.iter().map(|(name, value)| format!("<parameter name='{name}' value='{value}'/>")).collect();
    let xml = format!(
        "<filterbinding><owner><name>{owner}</name><uuid>{}</uuid></owner><portdev name='{port}'/>\
         <mac address='{mac}'/><filterref filter='own'>{params}</filterref></filterbinding>",
        uuid(owner)
    );
    conn.0.apply(&xml).unwrap();
}

pub fn interface(conn: &mut Conn, index: u32) -> Option<Interface> {
    let status: Status = serde_json::from_str(&conn.0.status().unwrap()).unwrap();
    status.interfaces.into_iter().find(|interface| interface.index == Some(index))
}

pub fn known(conn: &mut Conn, index: u32) -> Vec<String> {
    let learning = interface(conn, index).and_then(|interface| interface.learning);
    let addresses = learning.map(|learning| learning.addresses).unwrap_or_default();
    addresses.into_iter().map(|address| address.address).collect()
}

pub fn becomes(conn: &mut Conn, index: u32, expected: &[&str]) {
    eventually(&format!("{expected:?}"), || known(conn, index) == expected);
}

/// A host with a network, a daemon, and `vnet0` bound in a mode.
struct World {
    network: Network,
    host: Host,
    daemon: Daemon,
    conn: Conn,
}

impl World {
    fn new(mode: &str) -> World {
        let (network, host) = (Network::new(), Host::new());
        host.configure("grace = 0\n");
        let daemon = host.start();
        let mut conn = daemon.connect();
        conn.define(&filter()).unwrap();
        bind(&mut conn, "vnet0", "vm", GUEST_MAC, mode);
        World { network, host, daemon, conn }
    }

    fn index(&self) -> u32 {
        self.network.guest.link.index()
    }

    fn restart(mut self, crash: bool) -> World {
        if crash {
            self.daemon.kill();
        } else {
            assert!(self.daemon.stop().success());
        }
        self.daemon = self.host.start();
        self.conn = self.daemon.connect();
        self
    }

    /// May the guest use this address?
    fn may_use(&self, address: &str) -> bool {
        self.network.passes(Way::FromGuest, udp(ip(address, PEER_IP), 1, 2))
    }

    fn gives(&self, address: &str, seconds: u32) {
        let ack = dhcp(5).your_ip(address).lease(seconds, PEER_IP).reply(PEER_IP).inbound();
        self.network.peer.send(&Vec::from(ack)).unwrap();
    }

    fn says(&self, frame: Frame) {
        self.network.guest.send(&Vec::from(frame)).unwrap();
    }
}

fn announces(address: &str) -> Frame {
    arp_request(address, PEER_IP).frame()
}

#[test]
fn an_address_is_learned_and_its_filter_comes_into_force() {
    in_fresh_netns(|| {
        let mut world = World::new("any");
        let index = world.index();
        assert!(!world.may_use(FOREIGN_IP) || known(&mut world.conn, index) == [FOREIGN_IP]);
        let World { mut conn, network, .. } = world;
        becomes(&mut conn, index, &[FOREIGN_IP]);
        // What it sent first counts, and nothing else from then on.
        assert!(network.passes(Way::FromGuest, udp(ip(FOREIGN_IP, PEER_IP), 1, 2)));
        assert!(!network.passes(Way::FromGuest, udp(ip(GUEST_IP, PEER_IP), 1, 2)));
    });
}

// P-2
#[test]
fn while_it_learns_a_guest_does_no_more_than_it_must() {
    in_fresh_netns(|| {
        let world = World::new("dhcp");
        assert!(!world.may_use(GUEST_IP));
        assert!(!world.network.passes(Way::FromGuest, announces(GUEST_IP)));
        assert!(world.network.passes(Way::FromGuest, dhcp(1).broadcast()));
        assert!(!world.network.passes(Way::ToGuest, udp(ip(PEER_IP, GUEST_IP), 1, 2).inbound()));
    });
}

#[test]
fn leases_are_given_renewed_released_and_run_out() {
    in_fresh_netns(|| {
        let mut world = World::new("dhcp");
        let index = world.index();
        world.gives(GUEST_IP, 3600);
        becomes(&mut world.conn, index, &[GUEST_IP]);
        assert!(world.may_use(GUEST_IP) && !world.may_use(FOREIGN_IP));
        world.gives(FOREIGN_IP, 2);
        becomes(&mut world.conn, index, &[GUEST_IP, FOREIGN_IP]);
        assert!(world.may_use(GUEST_IP) && world.may_use(FOREIGN_IP));
        becomes(&mut world.conn, index, &[GUEST_IP]);
        assert!(world.may_use(GUEST_IP) && !world.may_use(FOREIGN_IP));
        world.says(dhcp(7).client_ip(GUEST_IP).unicast(GUEST_IP, PEER_IP));
        becomes(&mut world.conn, index, &[]);
        assert!(!world.may_use(GUEST_IP));
    });
}

#[test]
fn broadcast_and_unicast_replies_teach_tagged_and_own_do_not() {
    let case = |mode, destination| {
        let mut world = World::new(mode);
        let index = world.index();
        let ack =
            |address| dhcp(5).your_ip(address).lease(3600, PEER_IP).reply(PEER_IP).inbound().to(destination);
        world.says(announces(FOREIGN_IP).vlan(5));
        world.network.peer.send(&Vec::from(ack(FOREIGN_IP).vlan(5))).unwrap();
        // The host speaks to the guest in the guest's own name. A frame that is dropped on its way is ENOBUFS to its sender.
        let host = Wire::open(&world.network.guest.link);
        for frame in [announces(FOREIGN_IP), udp(ip(FOREIGN_IP, PEER_IP), 1, 2)] {
            let sent = host.send(&Vec::from(frame));
            assert!(sent.is_ok() || sent.is_err_and(|why| why.raw_os_error() == Some(libc::ENOBUFS)));
        }
        world.network.peer.send(&Vec::from(ack(GUEST_IP))).unwrap();
        becomes(&mut world.conn, index, &[GUEST_IP]);
        assert!(world.may_use(GUEST_IP) && !world.may_use(FOREIGN_IP));
    };
    for (mode, destination) in
        [("any", [0xff; 6]), ("any", GUEST_MAC), ("dhcp", [0xff; 6]), ("dhcp", GUEST_MAC)]
    {
        in_fresh_netns(|| case(mode, destination));
    }
}

#[test]
fn what_is_known_survives_restart_crash_and_reload() {
    let case = |mode| {
        let mut world = World::new(mode);
        let index = world.index();
        world.gives(GUEST_IP, 3600);
        becomes(&mut world.conn, index, &[GUEST_IP]);
        for crash in [false, true] {
            world = world.restart(crash);
            assert_eq!(known(&mut world.conn, index), [GUEST_IP]);
            assert!(world.may_use(GUEST_IP) && !world.may_use(FOREIGN_IP));
        }
        world.daemon.reload();
        assert_eq!(known(&mut world.conn, index), [GUEST_IP]);
    };
    ["any", "dhcp"].into_iter().for_each(|mode| in_fresh_netns(|| case(mode)));
}

// P-2
#[test]
fn a_waiting_guest_waits_over_stop_and_start() {
    in_fresh_netns(|| {
        let mut world = World::new("any");
        let index = world.index();
        world.daemon.stop();
        let passes = |network: &Network| network.passes(Way::FromGuest, udp(ip(GUEST_IP, PEER_IP), 1, 2));
        assert!(!passes(&world.network));
        assert!(world.network.passes(Way::FromGuest, dhcp(1).broadcast()));
        world.daemon = world.host.start();
        world.conn = world.daemon.connect();
        assert_eq!(known(&mut world.conn, index), [""; 0]);
        world.says(announces(GUEST_IP));
        becomes(&mut world.conn, index, &[GUEST_IP]);
        assert!(passes(&world.network));
    });
}

// P-30
#[test]
fn a_guest_that_must_learn_now_goes_on_until_it_has() {
    in_fresh_netns(|| {
        let (network, host) = (Network::new(), Host::new());
        let daemon = host.start();
        let mut conn = daemon.connect();
        conn.define(&host::guard("own", 0)).unwrap();
        bind(&mut conn, "vnet0", "vm", GUEST_MAC, "dhcp");
        let index = network.guest.link.index();
        let (honest, forged) = (udp(ip(GUEST_IP, PEER_IP), 1, 2), udp(ip(GUEST_IP, PEER_IP), 1, 2));
        let (flood, ()) = network.flood(Way::FromGuest, honest, forged.from(FOREIGN_MAC), || {
            conn.define(&filter()).unwrap();
            let ack = dhcp(5).your_ip(GUEST_IP).lease(3600, PEER_IP).reply(PEER_IP).inbound();
            let server = network.add_port("server0");
            server.send(&Vec::from(ack)).unwrap();
            becomes(&mut conn, index, &[GUEST_IP]);
        });
        assert_eq!((flood.lost(), flood.forbidden_arrived), (0, 0), "{flood:?}");
        assert!(!network.passes(Way::FromGuest, udp(ip(FOREIGN_IP, PEER_IP), 1, 2)));
    });
}

#[test]
fn an_idle_daemon_stays_while_one_waits() {
    in_fresh_netns(|| {
        let (network, host) = (Network::new(), Host::new());
        let mut command = host.command();
        command.args(["--timeout", "1"]);
        let mut daemon = host.run(command);
        let mut conn = daemon.connect();
        conn.define(&filter()).unwrap();
        bind(&mut conn, "vnet0", "vm", GUEST_MAC, "any");
        drop(conn);
        in_fresh_netns(host::an_idle_daemon_ends);
        assert!(daemon.child.try_wait().unwrap().is_none());
        network.guest.send(&Vec::from(announces(GUEST_IP))).unwrap();
        assert!(daemon.wait().success());
    });
}

/// Another guest each time under the same name: none ever has an address of the one before.
// P-28
#[test]
fn a_guest_with_a_reused_name_gets_no_earlier_address() {
    let rounds = host::rounds("NWFILTER_LEARN_ROUNDS", 40);
    in_fresh_netns(|| {
        let network = Network::new();
        let host = Host::new();
        host.configure("grace = 0\n");
        let daemon = host.start();
        let mut conn = daemon.connect();
        conn.define(&filter()).unwrap();
        for round in 0..rounds {
            let (number, last) = ((round % 200) as u8, (round + 199) % 200);
            let mac = [0x52, 0x54, 1, 0, 0, number];
            let (own, before) = (format!("10.1.0.{number}"), format!("10.1.0.{last}"));
            let guest: Tap = network.add_port("vnet1");
            let index = guest.link.index();
            let claim = Vec::from(arp_request(&own, PEER_IP).sender_mac(mac).from(mac));
            bind(&mut conn, "vnet1", &format!("vm{number}"), mac, "any");
            guest.send(&claim).unwrap();
            // Every second guest goes before the daemon can have heard much of it.
            if round % 2 == 0 {
                eventually("an address", || {
                    guest.send(&claim).unwrap();
                    drop(network.peer.drain());
                    known(&mut conn, index) == [own.clone()]
                });
                let says = |address: &str| Vec::from(udp(ip(address, PEER_IP), 1, 2).from(mac));
                assert_eq!(verdict(&guest, &network.peer, &says(&own)), Verdict::Accept);
                assert_eq!(verdict(&guest, &network.peer, &says(&before)), Verdict::Drop);
            }
            drop(network.peer.drain());
            conn.delete("vnet1").unwrap();
            guest.link.delete();
            drop(guest);
        }
    });
}

/// A DHCP server on the bridge.
pub struct Dnsmasq(Child);

impl Dnsmasq {
    pub fn start(directory: &Path, seconds: u32) -> Option<Dnsmasq> {
        Dnsmasq::at("br0", directory, seconds, &[])
    }

    /// At an interface of this thread's namespace, with more options.
    pub fn at(interface: &str, directory: &Path, seconds: u32, options: &[&str]) -> Option<Dnsmasq> {
        if !available("dnsmasq", "--tests") {
            return None;
        }
        let child = Command::new("dnsmasq")
            .args(["--no-daemon", "--conf-file=/dev/null", "--port=0", "--bind-interfaces"])
            .args(["--except-interface=lo", "--no-ping", "--user=root", "--dhcp-authoritative"])
            .arg(format!("--interface={interface}"))
            .args(options)
            .arg(format!("--dhcp-range=10.0.0.50,10.0.0.60,255.255.255.0,{seconds}"))
            .arg(format!("--dhcp-leasefile={}", directory.join("leases").display()))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Some(Dnsmasq(child))
    }
}

impl Drop for Dnsmasq {
    fn drop(&mut self) {
        end(&mut self.0);
    }
}

/// Sends a message until an answer of this kind comes, and gives it.
fn asks(network: &Network, message: &Frame, kind: u8) -> Vec<u8> {
    let until = Instant::now() + host::PATIENCE;
    while Instant::now() < until {
        network.guest.send(&Vec::from(message.clone())).unwrap();
        while let Some(frame) = network.guest.recv_within(Duration::from_millis(300)) {
            if frame.get(282..285) == Some(&[53, 1, kind]) {
                return frame;
            }
        }
    }
    panic!("no answer of kind {kind}");
}

fn given(frame: &[u8]) -> Ipv4Addr {
    <[u8; 4]>::try_from(&frame[58..62]).unwrap().into()
}

#[test]
fn a_real_server_leases_an_address_renews_it_and_gets_it_back() {
    in_fresh_netns(|| {
        let mut world = World::new("dhcp");
        let index = world.index();
        let directory = tempfile::tempdir().unwrap();
        address(world.network.bridge.link, Ipv4Addr::new(10, 0, 0, 254), 24);
        let Some(server) = Dnsmasq::start(directory.path(), 3600) else { return };
        let offered = given(&asks(&world.network, &dhcp(1).broadcast(), 2));
        assert_eq!(known(&mut world.conn, index), [""; 0]);
        let request = dhcp(3).option(50, &offered.octets()).option(54, &[10, 0, 0, 254]).broadcast();
        assert_eq!(given(&asks(&world.network, &request, 5)), offered);
        let address = offered.to_string();
        becomes(&mut world.conn, index, &[&address]);
        assert!(world.may_use(&address) && !world.may_use(GUEST_IP));

        // The server comes back and confirms without an offer.
        drop(server);
        let _server = Dnsmasq::start(directory.path(), 3600).unwrap();
        let renewal = dhcp(3).client_ip(&address).option(50, &offered.octets()).broadcast();
        asks(&world.network, &renewal, 5);
        assert_eq!(known(&mut world.conn, index), [&*address]);

        world.says(dhcp(7).client_ip(&address).option(54, &[10, 0, 0, 254]).unicast(&address, "10.0.0.254"));
        becomes(&mut world.conn, index, &[]);
        assert!(!world.may_use(&address));
    });
}

#[test]
fn a_crash_while_learning_leaks_nothing_and_keeps_leases() {
    let rounds = host::rounds("NWFILTER_LEARN_CRASHES", 10);
    in_fresh_netns(|| {
        let mut world = World::new("dhcp");
        let index = world.index();
        for round in 0..rounds {
            let address = format!("10.0.0.{}", 100 + round % 50);
            world.gives(&address, 3600);
            std::thread::sleep(Duration::from_micros(137 * (round % 40)));
            world.daemon.kill();
            assert!(!world.network.passes(Way::FromGuest, udp(ip("10.9.9.9", PEER_IP), 1, 2)));
            world.daemon = world.host.start();
            world.conn = world.daemon.connect();
            let log = world.daemon.log();
            assert!(!log.contains("was skipped") && !log.contains("panicked"), "{log}");
            let now = known(&mut world.conn, index);
            // What was written is in force, and nothing else.
            assert_eq!(world.may_use(&address), now.contains(&address));
            world.gives(&address, 3600);
            eventually(&address, || known(&mut world.conn, index).contains(&address));
            world.says(dhcp(7).client_ip(&address).unicast(&address, PEER_IP));
            eventually("its end", || !known(&mut world.conn, index).contains(&address));
        }
    });
}
