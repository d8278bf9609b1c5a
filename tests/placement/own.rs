//! What the host itself sends to its guest, wherever the guest's program sits: the Ethernet layer judges it, the IP layer
//! does not, unless the configuration says so. What it routes to the guest, or another station forges, is judged.

use crate::host::*;
use crate::lab::frames::*;
use crate::lab::{Bridge, Tap, address, in_fresh_netns, sysctl};
use crate::tool::InTime;
use crate::{hooks_last, where_hooks_last};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::time::Duration;

const HOST_IP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 254);
/// A station that the host routes for.
const OUTSIDE_IP: &str = "198.51.100.7";

/// Shapes of filters that people write, and whether the host's packets pass them.
const SHAPES: &[(&str, &str, bool)] = &[
    ("nothing at the IP layer", "<rule action='drop' direction='inout'><all/></rule>", true),
    (
        "deny list out",
        "<rule action='drop' direction='out'><udp dstipaddr='10.0.0.0' dstipmask='8'/></rule>
         <rule action='drop' direction='out'><tcp dstipaddr='10.0.0.0' dstipmask='8'/></rule>",
        true,
    ),
    (
        "deny list out, with DHCP",
        "<rule action='accept' direction='out' priority='100' statematch='false'><udp srcportstart='68' dstportstart='67'/></rule>
         <rule action='drop' direction='out' priority='500'><all dstipaddr='10.0.0.0' dstipmask='8'/></rule>",
        true,
    ),
    ("nothing in", "<rule action='drop' direction='in'><all/></rule>", true),
    ("nothing at the Ethernet layer", "<rule action='drop' direction='in'><mac protocolid='ipv4'/></rule>", false),
];

/// Where the guest's program is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Site {
    Bridge,
    Device,
    Routed,
}

struct World {
    guest: Tap,
    outside: Tap,
    daemon: Daemon,
    _host: Host,
    _bridge: Option<Bridge>,
}

fn ip_tool(arguments: &str) {
    let done = Command::new("ip").args(arguments.split(' ')).status_in_time().unwrap();
    assert!(done.success(), "ip {arguments}");
}

impl World {
    fn new(site: Site, configuration: &str) -> World {
        sysctl("ipv4/ip_forward", "1").unwrap();
        let guest = Tap::new("vnet0");
        let bridge = (site != Site::Routed).then(|| Bridge::new("br0"));
        bridge.iter().for_each(|bridge| bridge.add(guest.link));
        guest.link.up();
        let inner = bridge.as_ref().map_or(guest.link, |bridge| bridge.link);
        inner.up();
        address(inner, HOST_IP, 24);
        let outside = Tap::new("net0");
        outside.link.set_mac(PEER_MAC);
        outside.link.up();
        address(outside.link, Ipv4Addr::new(198, 51, 100, 1), 24);
        let mac = GUEST_MAC.map(|byte| format!("{byte:02x}")).join(":");
        ip_tool(&format!("neigh add {GUEST_IP} lladdr {mac} dev {}", inner.name()));
        let host = Host::new();
        let placement = if site == Site::Device { "placement = 'device'\n" } else { "" };
        host.configure(&format!("{placement}{configuration}"));
        let daemon = host.start();
        World { guest, outside, daemon, _host: host, _bridge: bridge }
    }

    fn inner(&self) -> String {
        self._bridge.as_ref().map_or_else(|| self.guest.link.name(), |bridge| bridge.link.name())
    }

    /// Binds the guest to a filter of these rules alone.
    fn bind(&self, rules: &str) {
        let document = format!("<filter name='g' chain='root'><uuid>{}</uuid>{rules}</filter>", uuid("g"));
        self.daemon.connect().define(&document).unwrap();
        if self.daemon.connect().bindings().unwrap().is_empty() {
            self.daemon.connect().create("vnet0", "g").unwrap();
        }
        drop(self.guest.drain());
    }

    /// Whether the guest gets a frame with this UDP or TCP destination port. A wire delivers before the call returns.
    fn gets(&self, port: u16) -> bool {
        let is = |frame: &Vec<u8>| frame[12..14] == [8, 0] && frame[36..38] == port.to_be_bytes();
        self.guest.drain().iter().any(is)
    }

    fn socket(&self, mark: u32) -> UdpSocket {
        // The last one may stay open for a moment in a process that another test starts.
        let mut socket = None;
        eventually("the port", || {
            socket = UdpSocket::bind((HOST_IP, 67)).ok();
            socket.is_some()
        });
        let socket = socket.unwrap();
        socket.set_broadcast(true).unwrap();
        let name = self.inner();
        let set = |option, value: &[u8]| {
            // SAFETY: the pointer and the length are those of the value.
            let done = unsafe {
                libc::setsockopt(
                    socket.as_raw_fd(),
                    libc::SOL_SOCKET,
                    option,
                    value.as_ptr().cast(),
                    value.len() as u32,
                )
            };
            assert_eq!(done, 0);
        };
        set(libc::SO_BINDTODEVICE, name.as_bytes());
        set(libc::SO_MARK, &mark.to_ne_bytes());
        socket
    }

    fn offers(&self, to: &str, mark: u32) -> bool {
        drop(self.guest.drain());
        self.socket(mark).send_to(&[2; 300], (to, 68)).unwrap();
        self.gets(68)
    }

    fn connects(&self) -> bool {
        drop(self.guest.drain());
        let to = SocketAddr::from((GUEST_IP.parse::<Ipv4Addr>().unwrap(), 22));
        let _ = TcpStream::connect_timeout(&to, Duration::from_millis(20));
        self.gets(22)
    }

    /// Whether the guest gets what another station sends to it through the host.
    fn is_routed_to(&self) -> bool {
        drop(self.guest.drain());
        let frame: Vec<u8> = udp(ip(OUTSIDE_IP, GUEST_IP), 67, 68).to(PEER_MAC).into();
        self.outside.send(&frame).unwrap();
        self.gets(68)
    }

    fn host_reaches(&self) -> [bool; 4] {
        [
            self.offers(GUEST_IP, 0),
            self.offers("10.0.0.255", 0),
            self.offers("255.255.255.255", 0),
            self.connects(),
        ]
    }
}

fn sites() -> Vec<Site> {
    match hooks_last() {
        true => vec![Site::Bridge, Site::Device, Site::Routed],
        false => vec![Site::Bridge, Site::Routed],
    }
}

// P-4
#[test]
fn the_hosts_packets_pass_the_ip_layer_and_no_others() {
    for site in sites() {
        in_fresh_netns(|| {
            let world = World::new(site, "");
            assert!(world.is_routed_to(), "{site:?}: the host routes");
            for (shape, rules, passes) in SHAPES {
                world.bind(rules);
                assert_eq!(world.host_reaches(), [*passes; 4], "{site:?}, {shape}");
            }
            for (shape, rules, _) in &SHAPES[..1] {
                world.bind(rules);
                assert!(!world.is_routed_to(), "{site:?}, {shape}: what is routed is judged");
                assert!(!world.offers(GUEST_IP, 7), "{site:?}, {shape}: what has a mark already is judged");
                assert!(world.offers(GUEST_IP, 0), "{site:?}, {shape}");
            }
        });
    }
}

// P-4
#[test]
fn the_hosts_packets_are_judged_where_configured() {
    for site in sites() {
        in_fresh_netns(|| {
            let world = World::new(site, "host_to_guest = 'filter'\n");
            assert_eq!(world.host_reaches(), [true; 4], "{site:?}, not bound");
            world.bind(SHAPES[0].1);
            assert_eq!(world.host_reaches(), [false; 4], "{site:?}");
            world.bind(
                "<rule action='accept' direction='in' statematch='false'><udp dstportstart='68'/></rule>
                        <rule action='drop' direction='inout' priority='900'><all/></rule>",
            );
            assert_eq!(world.host_reaches(), [true, true, true, false], "{site:?}");
        });
    }
}

// P-4
#[test]
fn a_neighbour_is_not_taken_for_the_host() {
    for netfilter in ["0", "1"] {
        in_fresh_netns(|| {
            // Where there is no br_netfilter, both rounds are the same.
            let _ = sysctl("bridge/bridge-nf-call-iptables", netfilter);
            let world = World::new(Site::Bridge, "");
            let neighbour = Tap::new("peer0");
            world._bridge.as_ref().unwrap().add(neighbour.link);
            neighbour.link.up();
            world.bind(SHAPES[0].1);
            let host = HOST_IP.to_string();
            let bridge = Bridge::MAC;
            for (to, station) in [(GUEST_IP, GUEST_MAC), ("255.255.255.255", BROADCAST)] {
                let forged: Vec<u8> = udp(ip(&host, to), 67, 68).from(bridge).to(station).into();
                neighbour.send(&forged).unwrap();
                assert!(!world.gets(68), "call-iptables {netfilter}: {to}");
            }
            assert_eq!(world.host_reaches(), [true; 4], "call-iptables {netfilter}");
        });
    }
}

#[test]
fn a_learning_guest_hears_only_dhcp_from_the_host() {
    for site in sites() {
        in_fresh_netns(|| {
            let world = World::new(site, "");
            world.bind(
                "<rule action='drop' direction='in' priority='900'><all/></rule>
                 <rule action='drop' direction='out'><ip match='no' srcipaddr='$IP'/></rule>",
            );
            assert_eq!(world.host_reaches(), [true, true, true, false], "{site:?}");
        });
    }
}

#[test]
fn a_host_that_no_longer_leads_to_such_a_guest_marks_nothing() {
    where_hooks_last(|| {
        let world = World::new(Site::Bridge, "");
        let links = || {
            let observed = nwfilter::kernel::apply::Kernel::open(nwfilter::ruleset::nft::Ownership::Shared)
                .unwrap()
                .observe()
                .unwrap();
            let table = observed.families.get(&nwfilter::program::ir::Family::Inet);
            table.map_or(0, |table| table.sets[nwfilter::ruleset::layout::HOST_LINKS].elements.len())
        };
        world.bind(SHAPES[0].1);
        assert_eq!(links(), 1);
        world.bind(SHAPES[4].1);
        assert_eq!(links(), 0, "the Ethernet layer alone judges");
    });
}
