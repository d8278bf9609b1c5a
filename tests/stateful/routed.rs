//! Kernels talking: guests that are namespaces, through the host to another network, and to the host itself.

use crate::host::{Host, Kind, Segment, Site, everywhere, everywhere_with, in_both_styles, tool};
use crate::lab::{Link, PATIENCE, Tap, address, sysctl, veth};
use crate::tool::eventually;
use nwfilter::program::compile::HostToGuest;
use socket2::{Domain, Socket, Type};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

/// How long one datagram waits for its answer before it is sent again.
const AGAIN: Duration = Duration::from_millis(400);
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

    /// Over TCP and UDP.
    fn reaches(&self, to: (Ipv4Addr, u16)) -> [bool; 2] {
        self.run(move || [talks_tcp, talks_udp].map(|talks| talks(to)))
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
    let Ok(mut stream) = TcpStream::connect_timeout(&SocketAddr::from(to), PATIENCE) else { return false };
    let message = vec![7; 200_000];
    let mut writer = stream.try_clone().unwrap();
    let copy = message.clone();
    thread::spawn(move || writer.write_all(&copy));
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut back = vec![0; message.len()];
    stream.read_exact(&mut back).is_ok() && back == message
}

/// A datagram may be lost, e.g. while a neighbour's address is asked for.
fn talks_udp(to: (Ipv4Addr, u16)) -> bool {
    eventually("an answer over UDP", || {
        let socket = fresh_socket();
        socket.set_read_timeout(Some(AGAIN)).unwrap();
        socket.send_to(b"nwfilter", to).is_ok() && socket.recv(&mut [0; 64]).is_ok()
    });
    true
}

/// With a port that no datagram of this process came from before: conntrack remembers a pair that had an answer, and a port
/// that the kernel chooses can be one of those.
fn fresh_socket() -> UdpSocket {
    static PORT: AtomicU16 = AtomicU16::new(1024);
    UdpSocket::bind(("0.0.0.0", PORT.fetch_add(1, Ordering::Relaxed))).unwrap()
}

/// What has been asked and not waited for.
enum Question {
    Tcp(Socket),
    Udp(UdpSocket),
}

type Ask = fn((Ipv4Addr, u16)) -> Question;

impl Question {
    const EACH: [Ask; 2] = [Question::tcp, Question::udp];

    fn tcp(to: (Ipv4Addr, u16)) -> Question {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_nonblocking(true).unwrap();
        // Its outcome comes later.
        let _ = socket.connect(&SocketAddr::from(to).into());
        Question::Tcp(socket)
    }

    fn udp(to: (Ipv4Addr, u16)) -> Question {
        let socket = fresh_socket();
        socket.set_nonblocking(true).unwrap();
        // Where the host's own IP layer drops it, the sender is refused.
        let _ = socket.send_to(b"nwfilter", to);
        Question::Udp(socket)
    }

    fn is_answered(&self) -> bool {
        match self {
            Question::Tcp(socket) => socket.peer_addr().is_ok(),
            Question::Udp(socket) => socket.recv(&mut [0; 64]).is_ok(),
        }
    }
}

/// That what is asked comes to a rule of the port, which drops and counts it. A drop is silent and a later message says nothing of
/// it, since each connection takes a path of its own through conntrack and NAT: the count is what shows it.
#[track_caller]
fn is_dropped(host: &Host, port: Link, what: &str, ask: impl FnOnce() -> Question) {
    let before = host.dropped(port);
    let question = ask();
    eventually(&format!("{what}: a drop"), || host.dropped(port) > before);
    assert!(!question.is_answered(), "{what}");
}

/// That a machine reaches this neither over TCP nor over UDP.
#[track_caller]
fn stops(host: &Host, port: Link, what: &str, (machine, to): (&Machine, (Ipv4Addr, u16))) {
    for ask in Question::EACH {
        is_dropped(host, port, what, || machine.run(move || ask(to)));
    }
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
        stops(&host, port, "to another port", (&guest, (OUTSIDE, 81)));
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
        let own = Ipv4Addr::new(203, 0, 113, 1);
        bind(&mut host, &lan, port, "<rule action='accept' direction='in'><tcp dstportstart='22'/></rule>");
        assert!(outside.run(move || talks_tcp((own, 2222))), "a port that the filter has open");
        is_dropped(&host, port, "a port that it has not", || outside.run(move || Question::tcp((own, 2323))));
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
        stops(&host, port, "who it is, is not open", (&guest, (OUTSIDE, 80)));
        let calls = || outside.run(|| talks_tcp((Ipv4Addr::new(203, 0, 113, 1), 22)));
        assert!(calls(), "who calls it, by the address that it sees");
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
        stops(&host, port, "to another", (&guest, (own, 81)));
        let address = Ipv4Addr::new(10, 1, 0, 1);
        assert!(talks_tcp((address, 22)), "the host to the open port of the guest");
        is_dropped(&host, port, "to another of the guest", || Question::tcp((address, 23)));
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
        assert!(talks_tcp(own) && talks_udp(own), "the host");
        stops(&host, port, "another, for which the host routes", (&outside, own));
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
        stops(&host, client_port, "to another", (&client, (server, 81)));
    });
}
