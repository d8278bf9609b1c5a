//! Kernels talking: guests that are namespaces, through the host to another network, and to the host itself.

use crate::host::{Host, Kind, Segment, Site, everywhere, everywhere_with, in_both_styles, tool};
use crate::lab::{Link, Tap, address, sysctl, veth};
use nwfilter::program::compile::HostToGuest;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

/// How long one try waits for an answer. A drop is silent at every hook, and a later message says nothing of it: each
/// connection takes a path of its own through conntrack and NAT. So that a slow machine is not taken for a drop, each test
/// asks first for what must pass, in up to five tries, and then once for what must not.
const SHORT: Duration = Duration::from_millis(400);
const LONG: Duration = Duration::from_secs(5);
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);

/// A machine: a thread in a network namespace of its own, that does what the test asks.
struct Machine(Sender<Job>);

type Job = Box<dyn FnOnce() + Send>;

impl Machine {
    /// With an interface of this address, whose other end is `outer` on the host.
    fn new(outer: &str, own: Ipv4Addr, gateway: Option<Ipv4Addr>) -> Machine {
        let (link, inner) = veth(outer, &format!("{outer}-in"));
        let (send, jobs) = channel::<Job>();
        let (ready, namespace) = channel::<OwnedFd>();
        thread::spawn(move || {
            // SAFETY: unshare reads no memory.
            assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0);
            ready.send(std::fs::File::open("/proc/thread-self/ns/net").unwrap().into()).unwrap();
            jobs.into_iter().for_each(|job| job());
        });
        inner.move_to(&namespace.recv().unwrap());
        let machine = Machine(send);
        let name = format!("{outer}-in");
        machine.run(move || {
            let inner = Link::named(&name);
            address(inner, own, 24);
            inner.up();
            Link::named("lo").up();
            if let Some(gateway) = gateway {
                tool("ip", &format!("route add default via {gateway}"));
            }
        });
        link.up();
        machine
    }

    fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (send, answer) = channel();
        self.0.send(Box::new(move || drop(send.send(work())))).unwrap();
        answer.recv().expect("the machine's work is done")
    }

    /// Serves echoes over TCP and UDP at these ports, for as long as the test lasts.
    fn serve(&self, ports: &[u16]) {
        for port in ports.iter().copied() {
            self.run(move || {
                let datagrams = UdpSocket::bind(("0.0.0.0", port)).unwrap();
                let streams = TcpListener::bind(("0.0.0.0", port)).unwrap();
                thread::spawn(move || echo_datagrams(&datagrams));
                thread::spawn(move || streams.incoming().for_each(|stream| echo(stream.unwrap())));
            });
        }
    }

    /// Over TCP and UDP. A machine may be slow, so that a failure is tried again.
    fn reaches(&self, to: (Ipv4Addr, u16)) -> [bool; 2] {
        self.run(move || [talks_tcp, talks_udp].map(|talks| (0..5).any(|_| talks(to))))
    }

    /// One try over TCP and one over UDP.
    fn tries(&self, to: (Ipv4Addr, u16)) -> [bool; 2] {
        self.run(move || [talks_tcp(to), talks_udp(to)])
    }
}

fn echo_datagrams(socket: &UdpSocket) {
    let mut buffer = [0; 2048];
    while let Ok((length, from)) = socket.recv_from(&mut buffer) {
        let _ = socket.send_to(&buffer[..length], from);
    }
}

fn echo(mut stream: TcpStream) {
    thread::spawn(move || {
        let mut buffer = [0; 65_536];
        while let Ok(length @ 1..) = stream.read(&mut buffer) {
            let _ = stream.write_all(&buffer[..length]);
        }
    });
}

/// Whether a large message comes back whole: segmentation and checksums are left to a card that is not there.
fn talks_tcp(to: (Ipv4Addr, u16)) -> bool {
    let Ok(mut stream) = TcpStream::connect_timeout(&SocketAddr::from(to), SHORT) else { return false };
    let message = vec![7; 200_000];
    let mut writer = stream.try_clone().unwrap();
    let copy = message.clone();
    thread::spawn(move || writer.write_all(&copy));
    stream.set_read_timeout(Some(LONG)).unwrap();
    let mut back = vec![0; message.len()];
    stream.read_exact(&mut back).is_ok() && back == message
}

/// From a port that no datagram of this process came from before: conntrack remembers a pair that had an answer, and a port
/// that the kernel chooses can be one of those.
fn talks_udp(to: (Ipv4Addr, u16)) -> bool {
    static PORT: AtomicU16 = AtomicU16::new(1024);
    let socket = UdpSocket::bind(("0.0.0.0", PORT.fetch_add(1, Ordering::Relaxed))).unwrap();
    socket.set_read_timeout(Some(SHORT)).unwrap();
    socket.send_to(b"nwfilter", to).is_ok() && socket.recv(&mut [0; 64]).is_ok()
}

/// A network of the host's, whose guests are machines: a bridge with an address, or ports that each have it.
struct Lan {
    site: Site,
    /// A bridge wants a port before it is up.
    _segment: Option<[Tap; 2]>,
    host: Ipv4Addr,
    net: u8,
}

impl Lan {
    fn new(kind: Kind, name: &str, net: u8) -> Lan {
        let host = Ipv4Addr::new(10, net, 0, 254);
        if kind == Kind::Routed {
            return Lan { site: Site::Routed, _segment: None, host, net };
        }
        let Segment { site, guest, peer } = Segment::new(name);
        address(Link::named(&format!("br{name}")), host, 24);
        Lan { site, _segment: Some([guest, peer]), host, net }
    }

    /// A guest with the last number of its address, and its port on the host.
    fn guest(&self, port: &str, number: u8) -> (Machine, Link) {
        let machine = Machine::new(port, Ipv4Addr::new(10, self.net, 0, number), Some(self.host));
        let link = Link::named(port);
        match &self.site {
            Site::Bridge(bridge, _) => bridge.add(link),
            Site::Routed => address(link, self.host, 24),
        }
        link.ready();
        (machine, link)
    }
}

impl AsRef<Site> for Lan {
    fn as_ref(&self) -> &Site {
        &self.site
    }
}

/// A server beyond the host, which routes to it and hides everybody behind its own address.
fn outside() -> Machine {
    let machine = Machine::new("uplink", OUTSIDE, None);
    let uplink = Link::named("uplink");
    address(uplink, Ipv4Addr::new(203, 0, 113, 1), 24);
    uplink.ready();
    sysctl("ipv4/ip_forward", "1").unwrap();
    tool("nft", "add table ip nat");
    tool("nft", "add chain ip nat post { type nat hook postrouting priority 100 ; }");
    tool("nft", "add rule ip nat post oifname uplink masquerade");
    machine.serve(&[80, 81]);
    machine
}

fn bind(host: &mut Host, lan: &Lan, port: Link, rules: &str) {
    let document = format!(
        "<filter name='{}' chain='root'>{rules}<rule action='drop' direction='inout' priority='900'><all/></rule></filter>",
        port.name()
    );
    host.bind_document(lan, port, &document, &[]);
}

const ONE_PORT: &str = "<rule action='accept' direction='out'><tcp dstportstart='80'/></rule>
    <rule action='accept' direction='out'><udp dstportstart='80'/></rule>";

#[test]
fn a_guest_behind_the_hosts_nat_gets_its_answers() {
    everywhere(|mut host, kind| {
        let lan = Lan::new(kind, "lan", 1);
        let (guest, port) = lan.guest("vnet1", 1);
        let _outside = outside();
        assert_eq!(guest.reaches((OUTSIDE, 80)), [true; 2], "without rules");
        bind(&mut host, &lan, port, ONE_PORT);
        assert_eq!(guest.reaches((OUTSIDE, 80)), [true; 2], "to the port that is open");
        assert_eq!(guest.tries((OUTSIDE, 81)), [false; 2], "to another port");
    });
}

#[test]
fn nat_of_another_bridge_is_left_alone() {
    everywhere(|mut host, kind| {
        let [lan, other] = [Lan::new(kind, "lan", 1), Lan::new(kind, "other", 2)];
        let (_guest, port) = lan.guest("vnet1", 1);
        let (neighbour, neighbours_port) = other.guest("vnet2", 1);
        let _outside = outside();
        bind(&mut host, &lan, port, ONE_PORT);
        assert_eq!(neighbour.reaches((OUTSIDE, 80)), [true; 2], "a guest that is not bound");
        bind(&mut host, &other, neighbours_port, "<rule action='accept' direction='inout'><all/></rule>");
        assert_eq!(neighbour.reaches((OUTSIDE, 81)), [true; 2], "a guest whose filter has no state");
    });
}

#[test]
fn a_port_that_the_host_forwards_reaches_the_guest() {
    everywhere(|mut host, kind| {
        let lan = Lan::new(kind, "lan", 1);
        let (guest, port) = lan.guest("vnet1", 1);
        let outside = outside();
        guest.serve(&[22, 23]);
        tool("nft", "add chain ip nat pre { type nat hook prerouting priority -100 ; }");
        for (from, to) in [(2222, 22), (2323, 23)] {
            tool(
                "nft",
                &format!("add rule ip nat pre iifname uplink tcp dport {from} dnat to 10.1.0.1:{to}"),
            );
        }
        let talks = |port| outside.run(move || talks_tcp((Ipv4Addr::new(203, 0, 113, 1), port)));
        bind(&mut host, &lan, port, "<rule action='accept' direction='in'><tcp dstportstart='22'/></rule>");
        assert!((0..5).any(|_| talks(2222)), "a port that the filter has open");
        assert!(!talks(2323), "a port that it has not");
    });
}

// P-22
#[test]
fn what_the_host_translates_is_judged_as_the_guest_sees_it() {
    everywhere(|mut host, kind| {
        let lan = Lan::new(kind, "lan", 1);
        let (guest, port) = lan.guest("vnet1", 1);
        let outside = outside();
        guest.serve(&[22]);
        tool("nft", "add chain ip nat pre { type nat hook prerouting priority -100 ; }");
        tool("nft", "add rule ip nat pre ip daddr 198.51.100.8 dnat to 203.0.113.9");
        tool("nft", "add rule ip nat pre iifname uplink tcp dport 22 dnat to 10.1.0.1");
        tool("nft", "add rule ip nat post ip saddr 203.0.113.9 snat to 198.51.100.9");
        let asked = "<rule action='accept' direction='out'><tcp dstipaddr='198.51.100.8'/></rule>
            <rule action='accept' direction='out'><udp dstipaddr='198.51.100.8'/></rule>
            <rule action='accept' direction='in'><tcp srcipaddr='198.51.100.9'/></rule>";
        bind(&mut host, &lan, port, asked);
        assert_eq!(guest.reaches((Ipv4Addr::new(198, 51, 100, 8), 80)), [true; 2], "as it asked");
        assert_eq!(guest.tries((OUTSIDE, 80)), [false; 2], "who it is, is not open");
        let calls = || outside.run(|| talks_tcp((Ipv4Addr::new(203, 0, 113, 1), 22)));
        assert!((0..5).any(|_| calls()), "who calls it, by the address that it sees");
    });
}

#[test]
fn a_judged_host_and_its_guest_talk_as_the_rules_say() {
    everywhere_with(HostToGuest::Filter, |mut host, kind| {
        let lan = Lan::new(kind, "lan", 1);
        let (guest, port) = lan.guest("vnet1", 1);
        let own = lan.host;
        let rules = format!("{ONE_PORT}<rule action='accept' direction='in'><tcp dstportstart='22'/></rule>");
        bind(&mut host, &lan, port, &rules);
        guest.serve(&[22, 23]);
        for port in [80, 81] {
            let datagrams = UdpSocket::bind((own, port)).unwrap();
            let streams = TcpListener::bind((own, port)).unwrap();
            thread::spawn(move || echo_datagrams(&datagrams));
            thread::spawn(move || streams.incoming().for_each(|stream| echo(stream.unwrap())));
        }
        assert_eq!(guest.reaches((own, 80)), [true; 2], "the guest to the open port of the host");
        assert_eq!(guest.tries((own, 81)), [false; 2], "to another");
        let address = Ipv4Addr::new(10, 1, 0, 1);
        assert!((0..5).any(|_| talks_tcp((address, 22))), "the host to the open port of the guest");
        assert!(!talks_tcp((address, 23)), "to another");
    });
}

/// A guest that may call and answer, and may not be called. What it answers the host is judged as all that it sends.
const ANSWERS: &str = "<filter name='answers' chain='root'>
    <rule action='accept' direction='out'><all state='NEW,ESTABLISHED'/></rule>
    <rule action='accept' direction='in'><all state='ESTABLISHED'/></rule>
    <rule action='drop' direction='inout' priority='900'><all/></rule></filter>";

#[test]
fn the_host_alone_calls_a_guest_closed_to_all_others() {
    everywhere(|mut host, kind| {
        let lan = Lan::new(kind, "lan", 1);
        let (guest, port) = lan.guest("vnet1", 1);
        let outside = outside();
        outside.run(|| tool("ip", "route add default via 203.0.113.1"));
        guest.serve(&[22]);
        let own = (Ipv4Addr::new(10, 1, 0, 1), 22);
        assert_eq!(outside.reaches(own), [true; 2], "without rules");
        host.bind_document(&lan, port, ANSWERS, &[]);
        assert!((0..5).any(|_| talks_tcp(own)) && (0..5).any(|_| talks_udp(own)), "the host");
        assert_eq!(outside.tries(own), [false; 2], "another, for which the host routes");
        assert_eq!(guest.reaches((OUTSIDE, 80)), [true; 2], "the guest calls");
    });
}

#[test]
fn guests_of_one_bridge_talk_with_unfinished_checksums() {
    in_both_styles(|mut host| {
        let lan = Lan::new(Kind::Bridged, "lan", 1);
        let (client, client_port) = lan.guest("vnet1", 1);
        let (server, server_port) = lan.guest("vnet2", 2);
        server.serve(&[80, 81]);
        bind(&mut host, &lan, client_port, ONE_PORT);
        bind(&mut host, &lan, server_port, "<rule action='accept' direction='in'><all/></rule>");
        let server = Ipv4Addr::new(10, 1, 0, 2);
        assert_eq!(client.reaches((server, 80)), [true; 2], "to the port that is open");
        assert_eq!(client.tries((server, 81)), [false; 2], "to another");
    });
}
