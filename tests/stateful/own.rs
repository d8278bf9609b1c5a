//! What the host itself sends to a guest whose filter lets in what belongs to its connections alone.

use crate::host::{Kind, Segment, Site, everywhere_with, heard, tool};
use crate::lab::frames::*;
use crate::lab::{Bridge, address};
use nwfilter::program::compile::HostToGuest;
use socket2::SockRef;
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

/// A guest that may call, and may not be called.
const CALLS: &str = "<filter name='calls' chain='root'>
    <rule action='accept' direction='out'><all/></rule>
    <rule action='accept' direction='in'><all state='ESTABLISHED'/></rule>
    <rule action='drop' direction='in' priority='900'><all/></rule></filter>";

const SERVER: u16 = 67;
const CLIENT: u16 = 68;
const SSH: u16 = 22;
const BROADCAST_IP: &str = "255.255.255.255";

/// The host, as its guest knows it.
struct Own {
    ip: Ipv4Addr,
    mac: [u8; 6],
    /// Its DHCP server, at the link that leads to the guest. A port may stay in use for a moment after its socket is closed,
    /// while another test starts a program.
    server: UdpSocket,
}

impl Own {
    /// On a bridge with an address of its own, or with the address that a routed segment has.
    fn of(segment: &Segment) -> Own {
        let Site::Bridge(bridge, _) = &segment.site else {
            return Own::new(Ipv4Addr::new(192, 0, 2, 1), PEER_MAC, "vm0");
        };
        let ip = Ipv4Addr::new(10, 0, 0, 254);
        bridge.link.ready();
        address(bridge.link, ip, 24);
        let mac = GUEST_MAC.map(|byte| format!("{byte:02x}")).join(":");
        tool("ip", &format!("neigh add {GUEST_IP} lladdr {mac} dev br0"));
        Own::new(ip, Bridge::MAC, "br0")
    }

    fn new(ip: Ipv4Addr, mac: [u8; 6], link: &str) -> Own {
        let server = UdpSocket::bind((ip, SERVER)).unwrap();
        server.set_broadcast(true).unwrap();
        SockRef::from(&server).bind_device(Some(link.as_bytes())).unwrap();
        server.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Own { ip, mac, server }
    }

    fn offers(&self, segment: &Segment, to: &str) -> bool {
        drop(segment.guest.drain());
        // Where the host's IP layer drops it, the sender is refused.
        let _ = self.server.send_to(&[2; 300], (to, CLIENT));
        gets(segment, CLIENT)
    }

    fn calls(&self, segment: &Segment) -> bool {
        drop(segment.guest.drain());
        let to = SocketAddr::from((GUEST_IP.parse::<Ipv4Addr>().unwrap(), SSH));
        let _ = TcpStream::connect_timeout(&to, Duration::from_millis(20));
        gets(segment, SSH)
    }

    /// Whether the guest gets a DHCP offer to its address and one to all, and a first packet of a connection.
    fn reaches(&self, segment: &Segment) -> [bool; 3] {
        [self.offers(segment, GUEST_IP), self.offers(segment, BROADCAST_IP), self.calls(segment)]
    }
}

/// Whether the guest got a packet to this port. A wire delivers before the call returns.
fn gets(segment: &Segment, port: u16) -> bool {
    let is = |frame: &Vec<u8>| frame[12..14] == [8, 0] && frame[36..38] == port.to_be_bytes();
    heard(&segment.guest).iter().any(is)
}

/// What the host reaches of a guest that calls and may not be called.
fn reached(host_to_guest: HostToGuest, expected: [bool; 3]) {
    everywhere_with(host_to_guest, |mut host, kind| {
        let segment = Segment::of(kind);
        let own = Own::of(&segment);
        assert_eq!(own.reaches(&segment), [true; 3], "{kind:?}: not bound");
        host.bind_document(&segment, segment.guest.link, CALLS, &[]);
        assert_eq!(own.reaches(&segment), expected, "{kind:?}");
        // What another station sends is judged all the same.
        segment.stops_in("a first packet", udp(ip(PEER_IP, GUEST_IP), 2000, CLIENT).inbound());
        segment.lets_out("a question", udp(ip(GUEST_IP, PEER_IP), 1000, 53));
        segment.lets_in("its answer", udp(ip(PEER_IP, GUEST_IP), 53, 1000).inbound());
        if kind == Kind::Bridged {
            let forged = udp(ip(&own.ip.to_string(), GUEST_IP), SERVER, CLIENT).from(own.mac).to(GUEST_MAC);
            drop(segment.guest.drain());
            segment.peer.send(&Vec::from(forged)).unwrap();
            assert!(!gets(&segment, CLIENT), "a neighbour in the host's name");
        }
        // The guest asks the host itself, and has its answer.
        let question = |port| udp(ip(GUEST_IP, &own.ip.to_string()), port, SERVER).to(own.mac);
        segment.guest.send(&Vec::from(question(1000))).unwrap();
        let (_, asked) = own.server.recv_from(&mut [0; 64]).expect("the guest's question");
        drop(segment.guest.drain());
        own.server.send_to(&[2; 300], asked).unwrap();
        assert!(gets(&segment, 1000), "{kind:?}: the answer to the guest's own question");
    });
}

#[test]
fn an_unfiltered_host_reaches_a_guest_that_only_calls() {
    reached(HostToGuest::Pass, [true; 3]);
}

#[test]
fn the_host_reaches_such_a_guest_no_more_where_it_is_judged() {
    reached(HostToGuest::Filter, [false; 3]);
}
