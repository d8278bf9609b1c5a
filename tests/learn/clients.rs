//! Guests with a real DHCP client, real servers on their bridge, and what the guests can do then.
//! Needs udhcpc and dnsmasq, and for some dhclient (scripts/setup).

use crate::daemon::host::{Conn, Daemon, Host, eventually};
use crate::daemon::{Dnsmasq, becomes, bind_with, filter, interface, known};
use crate::lab::frames::{BROADCAST, FOREIGN_IP, Mac, PEER_IP, dhcp};
use crate::lab::{Network, Tap, address, in_fresh_netns};
use crate::rooms::{Client, Room, SERVER, dhclient, equipped, udhcpd};
use crate::tool::InTime;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

/// A host with its place on the bridge, and a guest's port that is bound.
struct World {
    network: Network,
    host: Host,
    _daemon: Daemon,
    conn: Conn,
    guest: Room,
}

const GUEST: Mac = [0x52, 0x54, 0, 0, 1, 1];

impl World {
    /// None where a program is missing, which is said.
    fn new(params: &[(&str, &str)]) -> Option<World> {
        if !equipped() {
            return None;
        }
        let (network, host) = (Network::new(), Host::new());
        address(network.bridge.link, SERVER.parse::<Ipv4Addr>().unwrap(), 24);
        host.configure("grace = 0\n");
        let daemon = host.start();
        let mut conn = daemon.connect();
        conn.define(&filter()).unwrap();
        let guest = Room::new(&network, "vm0", GUEST);
        bind_with(&mut conn, "vm0", "vm", GUEST, params);
        Some(World { network, host, _daemon: daemon, conn, guest })
    }

    fn becomes(&mut self, expected: &[&str]) {
        becomes(&mut self.conn, self.guest.port.index(), expected);
    }

    /// When the guest's lease ends.
    fn ends(&mut self) -> Option<u64> {
        let learning = interface(&mut self.conn, self.guest.port.index()).and_then(|found| found.learning);
        learning.and_then(|learning| learning.addresses.first()?.until)
    }
}

const DISCOVER: u8 = 1;
const OFFER: u8 = 2;
const REQUEST: u8 = 3;
const DECLINE: u8 = 4;
const ACK: u8 = 5;

/// The DHCP messages about a guest that its bridge carries to another port.
struct Messages<'a> {
    port: &'a Tap,
    guest: Mac,
    /// Their kinds, and the addresses that they give.
    seen: Vec<(u8, Ipv4Addr)>,
}

impl Messages<'_> {
    /// From now on.
    fn about(network: &Network, guest: Mac) -> Messages<'_> {
        drop(network.peer.drain());
        Messages { port: &network.peer, guest, seen: Vec::new() }
    }

    /// Waits for one of this kind, and says which address it gives.
    fn next(&mut self, kind: u8) -> Ipv4Addr {
        eventually(&format!("a DHCP message of kind {kind}"), || self.has(kind));
        self.seen[self.seen.len() - 1].1
    }

    /// Reads on to the next of this kind, if it is there.
    fn has(&mut self, kind: u8) -> bool {
        let frames = std::iter::from_fn(|| self.port.recv());
        let of_guest = frames.filter(|frame| frame.get(70..76) == Some(&self.guest));
        let mut messages = of_guest.filter(|frame| frame.get(282..284) == Some(&[53, 1]));
        messages.any(|frame| {
            let given = <[u8; 4]>::try_from(&frame[58..62]).unwrap();
            self.seen.push((frame[284], given.into()));
            frame[284] == kind
        })
    }
}

const DHCP: (&str, &str) = ("CTRL_IP_LEARNING", "dhcp");

#[test]
fn a_client_gets_renews_and_releases_its_address() {
    in_fresh_netns(|| {
        let Some(mut world) = World::new(&[DHCP]) else { return };
        let directory = tempfile::tempdir().unwrap();
        let Some(server) = Dnsmasq::start(directory.path(), 3600) else { return };
        assert!(!world.guest.may_use("10.0.0.99"));
        let client = Client::start(&world.guest, &world.host);
        let address = client.waits_for("bound", 1);
        world.becomes(&[&address]);
        assert!(world.guest.may_use(&address));
        assert!(!world.guest.may_use("10.0.0.99"));

        drop(server);
        let _server = Dnsmasq::start(directory.path(), 3600).unwrap();
        client.process.signal(libc::SIGUSR1);
        assert_eq!(client.waits_for("renew", 1), address);
        world.becomes(&[&address]);
        assert!(world.guest.may_use(&address));

        client.process.signal(libc::SIGUSR2);
        world.becomes(&[]);
        assert!(!world.guest.may_use(&address));
    });
}

#[test]
fn another_makers_client_gets_renews_and_releases_an_address() {
    in_fresh_netns(|| {
        let Some(mut world) = World::new(&[DHCP]) else { return };
        let directory = tempfile::tempdir().unwrap();
        // It renews after three seconds and asks the server alone, who answers it alone.
        let renewal = ["--dhcp-option=option:T1,3"];
        let Some(_server) = Dnsmasq::at("br0", directory.path(), 3600, &renewal) else { return };
        let Some(client) = Client::dhclient(&world.guest, &world.host) else { return };
        let address = client.waits_for("BOUND", 1);
        world.becomes(&[&address]);
        assert!(world.guest.may_use(&address) && !world.guest.may_use("10.0.0.99"));
        let first = world.ends();
        assert_eq!(client.waits_for("RENEW", 1), address);
        eventually("a lease that runs longer", || world.ends() > first);
        assert!(world.guest.may_use(&address));

        assert!(dhclient(&world.guest, &world.host, "-r").status_in_time().unwrap().success());
        world.becomes(&[]);
        assert!(!world.guest.may_use(&address));
    });
}

#[test]
fn a_client_refused_its_address_keeps_the_new_one_alone() {
    in_fresh_netns(|| {
        let Some(mut world) = World::new(&[DHCP]) else { return };
        let directory = tempfile::tempdir().unwrap();
        let Some(server) = Dnsmasq::start(directory.path(), 3600) else { return };
        let client = Client::start(&world.guest, &world.host);
        let address = client.waits_for("bound", 1);
        world.becomes(&[&address]);
        drop(server);
        // From now on the guest is to have another, and learns so when it renews the old one.
        let moved = ["--dhcp-host=52:54:00:00:01:01,10.0.0.77"];
        let _server = Dnsmasq::at("br0", directory.path(), 3600, &moved).unwrap();
        client.process.signal(libc::SIGUSR1);
        assert_eq!(client.waits_for("bound", 2), "10.0.0.77");
        world.becomes(&["10.0.0.77"]);
        assert!(world.guest.may_use("10.0.0.77") && !world.guest.may_use(&address));
    });
}

#[test]
fn a_lease_of_seconds_ends_in_time_or_is_renewed() {
    const SECONDS: u64 = 8;
    in_fresh_netns(|| {
        let Some(mut world) = World::new(&[DHCP]) else { return };
        let _server = udhcpd(&world.host, None, SECONDS as u32, "10.0.0.50-10.0.0.60");
        let client = Client::start(&world.guest, &world.host);
        let address = client.waits_for("bound", 1);
        world.becomes(&[&address]);
        std::thread::sleep(Duration::from_secs(SECONDS / 2));
        client.process.signal(libc::SIGUSR1);
        client.waits_for("renew", 1);
        let renewed = Instant::now();
        drop(client); // Without a word to anybody.
        std::thread::sleep(Duration::from_secs(SECONDS - 2));
        assert_eq!(known(&mut world.conn, world.guest.port.index()), [&*address]);
        assert!(world.guest.may_use(&address));
        world.becomes(&[]);
        let lasted = renewed.elapsed();
        assert!(lasted < Duration::from_secs(SECONDS + 2), "{lasted:?}");
        assert!(!world.guest.may_use(&address));
        println!("a lease of {SECONDS} s ended {lasted:?} after its renewal");
    });
}

#[test]
fn a_rogue_server_serves_no_guest_with_named_servers() {
    in_fresh_netns(|| {
        let Some(mut world) = World::new(&[DHCP, ("DHCPSERVER", SERVER)]) else { return };
        let rogue = Room::new(&world.network, "rogue", [2, 0, 0, 0, 6, 6]);
        rogue.has("10.0.0.66");
        let _rogue = udhcpd(&world.host, Some(&rogue), 3600, "10.0.0.150-10.0.0.160");
        let client = Client::start(&world.guest, &world.host);

        // A guest that is not bound gets what the rogue has to give.
        let other = Room::new(&world.network, "free", [0x52, 0x54, 0, 0, 1, 2]);
        let free = Client::start(&other, &world.host);
        assert!(free.waits_for("bound", 1).starts_with("10.0.0.15"));
        drop(free);
        // The guest that is bound has an offer as well. It goes on asking for one, twice, and never takes it.
        let mut messages = Messages::about(&world.network, GUEST);
        for kind in [OFFER, DISCOVER, DISCOVER] {
            messages.next(kind);
        }
        assert!(messages.seen.iter().all(|(kind, _)| *kind != REQUEST), "{:?}", messages.seen);
        assert_eq!(client.reported("bound"), [""; 0]);
        world.becomes(&[]);

        let directory = tempfile::tempdir().unwrap();
        let Some(_server) = Dnsmasq::start(directory.path(), 3600) else { return };
        let address = client.waits_for("bound", 1);
        world.becomes(&[&address]);
        assert!(address.parse::<Ipv4Addr>().unwrap().octets()[3] <= 60, "{address}");
        assert!(world.guest.may_use(&address) && !world.guest.may_use("10.0.0.150"));
    });
}

#[test]
fn a_client_that_declines_its_address_keeps_nothing() {
    in_fresh_netns(|| {
        let Some(mut world) = World::new(&[DHCP]) else { return };
        let other = Room::new(&world.network, "other", [2, 0, 0, 0, 5, 5]);
        (50..=60).for_each(|last| other.has(&format!("10.0.0.{last}")));
        let directory = tempfile::tempdir().unwrap();
        let Some(_server) = Dnsmasq::start(directory.path(), 3600) else { return };
        // A lease that is declined at once may never be in force: what tells of it is on the bridge.
        let mut messages = Messages::about(&world.network, GUEST);
        let mut binds = 0;
        let (client, address) = loop {
            let client = Client::start_with(&world.guest, &world.host, " -a8000");
            let address = messages.next(ACK).to_string();
            let mut declined = false;
            eventually("an answer to the client's question or none", || {
                declined = messages.has(DECLINE);
                declined || client.reported("bound").len() > binds
            });
            // It asks once, and a guest that waits for its address may not ask. Known by then, it may the next time.
            if declined {
                break (client, address);
            }
            binds += 1;
        };
        // What the guest is sent after it is handled after it.
        let other = dhcp(ACK).client_mac(GUEST).your_ip(FOREIGN_IP).lease(3600, PEER_IP).reply(PEER_IP);
        world.network.peer.send(&Vec::from(other.inbound().to(BROADCAST))).unwrap();
        world.becomes(&[FOREIGN_IP]);
        assert!(!world.guest.may_use(&address));
        assert_eq!(client.reported("bound").len(), binds);
    });
}
