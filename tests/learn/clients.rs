//! Guests with a real DHCP client, real servers on their bridge, and what the guests can do then.
//! Needs udhcpc and dnsmasq (scripts/setup); busybox, which udhcpc belongs to, has a server too, one that gives leases of seconds.

use crate::daemon::host::{Conn, Daemon, Host, eventually};
use crate::daemon::{Dnsmasq, becomes, bind_with, filter, known};
use crate::lab::frames::Mac;
use crate::lab::{Link, Network, address, in_fresh_netns, veth};
use std::fs::{self, File, Permissions};
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const SERVER: &str = "10.0.0.254";

/// A namespace of its own behind a port of the bridge.
struct Room {
    namespace: File,
    port: Link,
    inner: String,
}

impl Room {
    fn new(network: &Network, port: &str, mac: Mac) -> Room {
        let inner = format!("{port}-in");
        let (outer, link) = veth(port, &inner);
        link.set_mac(mac);
        let namespace = std::thread::spawn(|| {
            // SAFETY: unshare reads no memory.
            assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0);
            File::open("/proc/thread-self/ns/net").unwrap()
        });
        let room = Room { namespace: namespace.join().unwrap(), port: outer, inner };
        link.move_to(&room.namespace);
        network.bridge.add(outer);
        outer.up();
        assert!(room.succeeds(&format!("ip link set {} up", room.inner)));
        outer.ready();
        room
    }

    /// A program of busybox in there.
    fn command(&self, line: &str) -> Command {
        let namespace = self.namespace.as_raw_fd();
        let mut command = Command::new("busybox");
        command.args(line.split(' ')).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let enter = move || {
            // SAFETY: setns reads no memory, and the descriptor is open until the child has begun.
            match unsafe { libc::setns(namespace, libc::CLONE_NEWNET) } {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        };
        // SAFETY: it makes a single system call.
        unsafe { command.pre_exec(enter) };
        command
    }

    fn succeeds(&self, line: &str) -> bool {
        self.command(line).status().unwrap().success()
    }

    fn has(&self, address: &str) {
        let _ = self.succeeds(&format!("ip addr add {address}/24 dev {}", self.inner));
    }

    /// Whether the host answers who uses this address, which is given to the interface.
    fn may_use(&self, address: &str) -> bool {
        self.has(address);
        self.succeeds(&format!("ping -c 1 -W 1 -I {address} {SERVER}"))
    }
}

/// A process that ends with the test.
struct Process(Child);

impl Process {
    fn signal(&self, signal: i32) {
        // SAFETY: the number is that of our own child, which is not waited for yet.
        assert_eq!(unsafe { libc::kill(self.0.id() as i32, signal) }, 0);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A client, and what it told its script.
struct Client {
    process: Process,
    events: PathBuf,
}

impl Client {
    fn start(room: &Room, directory: &Host) -> Client {
        Client::start_with(room, directory, "")
    }

    fn start_with(room: &Room, directory: &Host, option: &str) -> Client {
        let name = &room.inner;
        let (events, script) =
            (directory.path(&format!("{name}.events")), directory.path(&format!("{name}.sh")));
        let text = format!(
            "#!/bin/sh\ncase $1 in\n\
             deconfig) busybox ip addr flush dev $interface ;;\n\
             bound|renew) busybox ip addr add $ip/24 dev $interface 2>/dev/null ;;\n\
             esac\necho $1 $ip >> {}\n",
            events.display()
        );
        fs::write(&script, text).unwrap();
        fs::set_permissions(&script, Permissions::from_mode(0o755)).unwrap();
        let line = format!("udhcpc -f -i {name}{option} -t 1000 -T 1 -s {}", script.display());
        Client { process: Process(room.command(&line).spawn().unwrap()), events }
    }

    /// The addresses that came with an event of this kind.
    fn told(&self, kind: &str) -> Vec<String> {
        let text = fs::read_to_string(&self.events).unwrap_or_default();
        let lines = text.lines().filter_map(|line| line.split_once(' '));
        lines.filter(|(word, _)| *word == kind).map(|(_, address)| address.into()).collect()
    }

    fn waits_for(&self, kind: &str, count: usize) -> String {
        eventually(kind, || self.told(kind).len() >= count);
        self.told(kind)[count - 1].clone()
    }
}

/// busybox's server, in a namespace or on the host.
fn udhcpd(directory: &Host, room: Option<&Room>, seconds: u32, range: &str) -> Process {
    let interface = room.map_or("br0", |room| &room.inner);
    let (start, end) = range.split_once('-').unwrap();
    let file = |kind: &str| directory.path(&format!("{interface}.{kind}")).display().to_string();
    let text = format!(
        "interface {interface}\nstart {start}\nend {end}\nmax_leases 10\nmin_lease 1\nauto_time 0\n\
         lease_file {}\npidfile {}\noption subnet 255.255.255.0\noption lease {seconds}\n",
        file("leases"),
        file("pid")
    );
    fs::write(file("conf"), text).unwrap();
    fs::write(file("leases"), "").unwrap();
    let line = format!("udhcpd -f -a 0 {}", file("conf"));
    let mut command = match room {
        Some(room) => room.command(&line),
        None => Command::new("busybox"),
    };
    if room.is_none() {
        command.args(line.split(' ')).stdout(Stdio::null()).stderr(Stdio::null());
    }
    Process(command.spawn().unwrap())
}

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
        let has = |applet: &str| {
            let mut help = Command::new("busybox");
            help.args([applet, "--help"]).stdout(Stdio::null()).stderr(Stdio::null());
            help.status().is_ok_and(|status| status.success())
        };
        if let Some(missing) = ["udhcpc", "udhcpd", "ip", "ping"].into_iter().find(|applet| !has(applet)) {
            println!("skipped: busybox has no {missing} (scripts/setup)");
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
}

const DHCP: (&str, &str) = ("CTRL_IP_LEARNING", "dhcp");

#[test]
fn a_client_gets_an_address_renews_it_with_a_server_that_came_back_and_returns_it() {
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
fn a_lease_of_seconds_ends_with_its_time_and_goes_on_with_a_renewal() {
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
fn a_rogue_server_serves_nobody_whose_servers_are_named() {
    in_fresh_netns(|| {
        let Some(mut world) = World::new(&[DHCP, ("DHCPSERVER", SERVER)]) else { return };
        let rogue = Room::new(&world.network, "rogue", [2, 0, 0, 0, 6, 6]);
        rogue.has("10.0.0.66");
        let _rogue = udhcpd(&world.host, Some(&rogue), 3600, "10.0.0.150-10.0.0.160");
        let client = Client::start(&world.guest, &world.host);

        // Somebody who is not bound gets what the rogue has to give.
        let other = Room::new(&world.network, "free", [0x52, 0x54, 0, 0, 1, 2]);
        let free = Client::start(&other, &world.host);
        assert!(free.waits_for("bound", 1).starts_with("10.0.0.15"));
        drop(free);
        std::thread::sleep(Duration::from_secs(2));
        assert_eq!(client.told("bound"), [""; 0]);
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
fn a_client_that_finds_its_address_in_use_declines_it_and_keeps_nothing() {
    in_fresh_netns(|| {
        let Some(mut world) = World::new(&[DHCP]) else { return };
        let other = Room::new(&world.network, "other", [2, 0, 0, 0, 5, 5]);
        (50..=60).for_each(|last| other.has(&format!("10.0.0.{last}")));
        let directory = tempfile::tempdir().unwrap();
        let Some(_server) = Dnsmasq::start(directory.path(), 3600) else { return };
        let client = Client::start_with(&world.guest, &world.host, " -a1000");
        // A lease that is declined at once may never be in force: what tells of it is on the bridge.
        let mut frames: Vec<Vec<u8>> = Vec::new();
        let of_kind = |frames: &[Vec<u8>], kind: u8| {
            let found = frames.iter().find(|frame| frame.get(282..285) == Some(&[53, 1, kind]));
            found.map(|frame| <[u8; 4]>::try_from(&frame[58..62]).unwrap())
        };
        eventually("a decline", || {
            frames.extend(world.network.peer.drain());
            of_kind(&frames, 4).is_some()
        });
        let address = Ipv4Addr::from(of_kind(&frames, 5).expect("it was confirmed before")).to_string();
        std::thread::sleep(Duration::from_secs(1));
        world.becomes(&[]);
        assert!(!world.guest.may_use(&address));
        assert_eq!(client.told("bound"), [""; 0]);
    });
}
