//! Interfaces that are no bridge port, or not any more: what judges their frames and packets, and what keeps them out.

use crate::host::{Host, Kind, Segment, Site, heard, routed, tool};
use crate::lab::frames::*;
use crate::lab::{Bridge, PATIENCE, Tap, Verdict};
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

/// One port is open, and who knocks at another hears so where an answer can be sent: for that the program is in two parts
/// where no bridge is.
const ONE_PORT: &str = "<filter name='one-port' chain='root'>
    <rule action='drop' direction='out' priority='100'><mac match='no' srcmacaddr='52:54:00:00:00:01'/></rule>
    <rule action='accept' direction='out' statematch='false'><udp dstportstart='80'/></rule>
    <rule action='accept' direction='in' statematch='false'><icmp type='3'/></rule>
    <rule action='reject' direction='inout' priority='900'><all/></rule></filter>";

const NO_PORT: [Vec<u16>; 2] = [vec![], vec![]];

fn knock(port: u16) -> Frame {
    udp(ip(GUEST_IP, PEER_IP), 1234, port)
}

/// The ports of the datagrams that arrived.
fn knocked(tap: &Tap) -> Vec<u16> {
    let port = |frame: Vec<u8>| {
        let udp = match frame[12..14] {
            [0x08, 0x00] if frame[14 + 9] == 17 => 14 + 20,
            [0x86, 0xdd] if frame[14 + 6] == 17 => 14 + 40,
            _ => return None,
        };
        Some(u16::from_be_bytes([frame[udp + 2], frame[udp + 3]]))
    };
    heard(tap).into_iter().filter_map(port).collect()
}

/// A guest that is a port of a bridge, with another port, and a station elsewhere that the host routes to.
struct Wires {
    bridged: Site,
    neighbour: Tap,
    segment: Segment,
}

impl Wires {
    fn new() -> Wires {
        let segment = Segment::of(Kind::Routed);
        let (bridge, name) = (Bridge::new("br0"), "br0".to_owned());
        let neighbour = Tap::new("net1");
        bridge.add(neighbour.link);
        neighbour.link.up();
        bridge.link.up();
        let wires = Wires { bridged: Site::Bridge(bridge, name), neighbour, segment };
        wires.join();
        wires
    }

    fn bridge(&self) -> &Bridge {
        let Site::Bridge(bridge, _) = &self.bridged else { unreachable!("it was made of one") };
        bridge
    }

    fn join(&self) {
        self.bridge().add(self.segment.guest.link);
    }

    fn leave(&self) {
        self.segment.guest.link.set_master(None);
    }

    /// To which ports the guest's knocks get, on the bridge and beyond the host.
    fn knocks(&self) -> [Vec<u16>; 2] {
        let far = &self.segment.peer;
        drop((self.neighbour.drain(), far.drain()));
        // To the host, which routes them on, and to a station on the bridge.
        for mac in [PEER_MAC, FOREIGN_MAC] {
            for port in [80, 81] {
                self.segment.guest.send(&Vec::from(knock(port).to(mac))).unwrap();
            }
        }
        [knocked(&self.neighbour), knocked(far)]
    }
}

#[test]
fn joining_or_leaving_a_bridge_blocks_until_bound_there() {
    routed(|mut host| {
        let wires = Wires::new();
        let guest = wires.segment.guest.link;
        host.reserve(&guest.name());
        host.bind_document(&wires, guest, ONE_PORT, &[]);
        for _ in 0..3 {
            assert_eq!(wires.knocks(), [vec![80], vec![80]], "on the bridge, of which the host is part");
            wires.leave();
            assert_eq!(wires.knocks(), NO_PORT, "it has left the bridge");
            host.bind_to(&wires.segment, guest, "one-port", &[]);
            assert_eq!(wires.knocks(), [vec![], vec![80]], "routed");
            let answered = wires.segment.out(knock(81));
            assert!(matches!(answered, Verdict::Reject(_)), "{answered:?}");
            assert_eq!(
                wires.segment.out(knock(80).from(FOREIGN_MAC)),
                Verdict::Drop,
                "another's MAC address"
            );
            wires.join();
            assert_eq!(wires.knocks(), NO_PORT, "it has joined the bridge");
            host.bind_to(&wires, guest, "one-port", &[]);
        }
    });
}

/// Its name is not the one that it was bound under, so that no bridge waits for it.
#[test]
fn an_unreserved_routed_interface_is_blocked_at_a_bridge() {
    routed(|mut host| {
        let wires = Wires::new();
        let guest = wires.segment.guest.link;
        wires.leave();
        host.bind_document(&wires.segment, guest, ONE_PORT, &[]);
        wires.join();
        assert_eq!(wires.knocks(), NO_PORT);
        wires.leave();
        assert_eq!(wires.knocks(), [vec![], vec![80]]);
        host.bind_to(&wires, guest, "one-port", &[]);
        wires.join();
        assert_eq!(wires.knocks(), [vec![80], vec![80]]);
    });
}

/// How a packet waits until its guest says its MAC address.
struct Wait {
    protocol: &'static str,
    rest: &'static str,
    guest: &'static str,
    packet: fn(u16) -> Frame,
    answer: fn() -> Frame,
}

const WAITS: [Wait; 2] = [
    Wait {
        protocol: "udp",
        rest: "all",
        guest: GUEST_IP,
        packet: |port| udp(ip(PEER_IP, GUEST_IP), 1234, port),
        answer: || arp_reply(GUEST_IP, "192.0.2.1").frame(),
    },
    Wait {
        protocol: "udp-ipv6",
        rest: "all-ipv6",
        guest: "2001:db8::1",
        packet: |port| udp(ip6("2001:db8::2", "2001:db8::1"), 1234, port),
        // Solicited, and in place of what was known.
        answer: || {
            let to_host = ip6("2001:db8::1", "2001:db8:ffff::1");
            neighbour(to_host, 136, 0x60, "2001:db8::1", &nd_option(2, &GUEST_MAC))
        },
    },
];

/// A packet that waits until its guest says its MAC address has left the host's IP layer and not come to the guest's own hooks.
/// Where a redefinition takes its rules from there to the IP layer, no hook would judge it.
// P-24
#[test]
fn a_packet_that_waits_for_arp_is_judged_or_dropped() {
    let guard = |Wait { protocol, rest, .. }: &Wait, more: &str| {
        format!(
            "<filter name='one-port' chain='root'>{more}
            <rule action='accept' direction='out' priority='100' statematch='false'><icmpv6 type='136'/></rule>
            <rule action='accept' direction='in' statematch='false'><{protocol} dstportstart='80'/></rule>
            <rule action='drop' direction='in' priority='900'><{rest}/></rule></filter>"
        )
    };
    routed(|mut host| {
        let segment = Segment::of(Kind::Routed);
        for wait in &WAITS {
            let arrive = |redefine: &mut dyn FnMut()| {
                let guest = wait.guest;
                tool("ip", &format!("neigh flush to {guest} dev vm0 nud all"));
                [80, 81].iter().for_each(|port| {
                    segment.peer.send(&Vec::from((wait.packet)(*port).inbound())).unwrap();
                });
                assert!(knocked(&segment.guest).is_empty(), "{guest}: its MAC address is not known");
                redefine();
                segment.guest.send(&Vec::from((wait.answer)())).unwrap();
                knocked(&segment.guest)
            };
            let in_parts =
                guard(wait, "<rule action='reject' direction='out'><tcp dstportstart='7777'/></rule>");
            host.bind_document(&segment, segment.guest.link, &guard(wait, ""), &[]);
            assert_eq!(arrive(&mut || {}), [80], "{}: they wait, and are judged when they go", wait.guest);
            assert!(!arrive(&mut || host.redefine(&in_parts)).contains(&81), "{}: redefined", wait.guest);
            assert_eq!(arrive(&mut || {}), [80], "{}: judged before they wait", wait.guest);
        }
    });
}

#[test]
fn nothing_forbidden_passes_while_an_interface_moves() {
    routed(|mut host| {
        let rounds: usize =
            std::env::var("NWFILTER_MOVES").map_or(100, |text| text.parse().expect("a number"));
        let wires = Wires::new();
        let guest = wires.segment.guest.link;
        host.reserve(&guest.name());
        host.bind_document(&wires, guest, ONE_PORT, &[]);
        let done = AtomicBool::new(false);
        let (sent, arrived) = thread::scope(|scope| {
            let pump = scope.spawn(|| {
                let (mut sent, mut arrived) = (0, [0, 0]);
                while !done.load(Ordering::Acquire) {
                    sent += 32;
                    let knocks: Vec<u16> = (0..32).flat_map(|_| wires.knocks().concat()).collect();
                    arrived[0] += knocks.iter().filter(|port| **port == 80).count();
                    arrived[1] += knocks.iter().filter(|port| **port == 81).count();
                }
                (sent, arrived)
            });
            for _ in 0..rounds {
                wires.leave();
                host.bind_to(&wires.segment, guest, "one-port", &[]);
                wires.join();
                host.bind_to(&wires, guest, "one-port", &[]);
            }
            done.store(true, Ordering::Release);
            pump.join().unwrap()
        });
        println!("measured: {rounds} moves each way, {sent} knocks at either port, {arrived:?} arrived");
        assert!(arrived[0] > 0 && arrived[1] == 0, "{arrived:?} of {sent} each");
    });
}

/// LLDP's: a bridge hands frames for this address to the host as they are, before any rule of a bridge.
const NEAREST_BRIDGE: Mac = [0x01, 0x80, 0xc2, 0, 0, 0x0e];

// P-23
#[test]
fn a_bridged_guest_does_not_reach_the_host_around_the_bridge() {
    routed(|mut host| {
        let wires = Wires::new();
        let server = UdpSocket::bind(("192.0.2.1", 80)).unwrap();
        server.set_read_timeout(Some(PATIENCE)).unwrap();
        // The rules pass what goes to the host by its own address; the source port says which it was.
        let gets = || {
            for (port, mac) in [(1234, NEAREST_BRIDGE), (1235, PEER_MAC)] {
                let frame = udp(ip(GUEST_IP, "192.0.2.1"), port, 80).to(mac);
                wires.segment.guest.send(&Vec::from(frame)).unwrap();
            }
            let from =
                || server.recv_from(&mut [0; 64]).expect("what is sent to the host's own address").1.port();
            std::iter::repeat_with(from).take_while(|port| *port != 1235).collect::<Vec<_>>() == [1234]
        };
        assert!(gets(), "no rules, which shows that there is such a way");
        host.bind_document(&wires, wires.segment.guest.link, ONE_PORT, &[]);
        assert!(!gets(), "bound");
        host.unbind(wires.segment.guest.link);
        assert!(gets(), "unbound");
    });
}

// P-1
#[test]
fn a_link_with_a_bound_name_is_blocked_until_it_is_bound() {
    routed(|mut host| {
        let segment = Segment::of(Kind::Routed);
        host.reserve("vmother");
        let other = segment.add("vmother");
        let knocks =
            || segment.verdict(&other, &segment.peer, &Vec::from(udp(ip(FOREIGN_IP, PEER_IP), 1, 80)));
        assert_eq!(knocks(), Verdict::Drop);
        assert_eq!(segment.out(knock(80)), Verdict::Accept, "another link");
        let open = "<filter name='open'><rule action='accept' direction='inout'><udp/></rule></filter>";
        host.bind_document(&segment, other.link, open, &[]);
        assert_eq!(knocks(), Verdict::Accept, "bound, and judged at its own hooks");
    });
}

#[test]
fn the_ethernet_rules_of_a_routed_guest_hold_for_its_frames() {
    routed(|mut host: Host| {
        let segment = Segment::of(Kind::Routed);
        let document = "<filter name='own' chain='root'><filterref filter='clean-traffic'/>
            <rule action='accept' direction='out'><udp/></rule>
            <rule action='drop' direction='inout' priority='900'><all/></rule></filter>";
        let vars = [("MAC", "52:54:00:00:00:01"), ("IP", GUEST_IP)];
        host.bind_document(&segment, segment.guest.link, document, &vars);
        segment.stops_in("an answer before the question", udp(ip(PEER_IP, GUEST_IP), 80, 1234).inbound());
        segment.lets_out("a question", knock(80));
        segment.lets_in("the answer", udp(ip(PEER_IP, GUEST_IP), 80, 1234).inbound());
        segment.stops_out("another's MAC address", knock(80).from(FOREIGN_MAC));
        segment.stops_out("another's IP address", udp(ip(FOREIGN_IP, PEER_IP), 1234, 80));
        let asks = |frame: Arp| match segment.out(frame.frame()) {
            Verdict::Reject(answer) => answer[12..14] == [8, 6],
            Verdict::Drop => false,
            other => panic!("{other:?}"),
        };
        assert!(asks(arp_request(GUEST_IP, "192.0.2.1")), "the host answers the guest");
        assert!(!asks(arp_request(FOREIGN_IP, "192.0.2.1")), "and no address that it claims");
    });
}

#[test]
fn a_renamed_interface_stays_filtered() {
    routed(|mut host| {
        if !host.features().lasting_hooks.is_yes() {
            println!("skipped: old kernels rename no link that is up");
            return;
        }
        let segment = Segment::of(Kind::Routed);
        host.bind(
            &segment,
            &segment.guest,
            "<rule action='accept' direction='out'><udp dstportstart='80'/></rule>",
        );
        segment.guest.link.rename("renamed");
        segment.stops_out("a port that is closed", knock(81));
        segment.lets_out("one that is open", knock(80));
    });
}

impl AsRef<Site> for Wires {
    fn as_ref(&self) -> &Site {
        &self.bridged
    }
}
