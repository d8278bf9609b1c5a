//! Frames that a bridge takes before its hooks or makes behind them: judged for its ports all the same.

use crate::host::*;
use crate::lab::frames::*;
use crate::lab::{Bridge, Network, PortOption, Way, address, sysctl};
use crate::tool::InTime;
use crate::where_hooks_last;
use nwfilter::report::status::{ProgramLocation, Status};
use std::net::Ipv4Addr;
use std::process::Command;

/// Group addresses that a bridge keeps to itself: spanning tree, EAPOL, LLDP.
const LINK_LOCAL: [Mac; 3] = [[1, 0x80, 0xc2, 0, 0, 0], [1, 0x80, 0xc2, 0, 0, 3], [1, 0x80, 0xc2, 0, 0, 0xe]];

fn tool(program: &str, arguments: &str) -> String {
    let done = Command::new(program).args(arguments.split(' ')).output_in_time().unwrap();
    assert!(done.status.success(), "{program} {arguments}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

fn settings(text: &str) {
    tool("ip", &format!("link set br0 type bridge {text}"));
}

/// Nothing passes either way.
fn nothing() -> String {
    format!(
        "<filter name='nothing' chain='root'><uuid>{}</uuid><rule action='drop' direction='inout'/></filter>",
        uuid("nothing")
    )
}

/// The guest sends what it likes and gets nothing.
fn nothing_in() -> String {
    format!(
        "<filter name='nothing-in' chain='root'><uuid>{}</uuid><rule action='drop' direction='in'/></filter>",
        uuid("nothing-in")
    )
}

/// Ports that learn, and a guest whose MAC address alone may send (`g`).
fn world(work: impl FnOnce(&Network, &Host, Daemon) + Send) {
    where_hooks_last(|| {
        let (network, host) = (Network::new(), Host::new());
        [&network.guest, &network.peer].iter().for_each(|tap| tap.link.set_port(PortOption::Learning, true));
        settings("ageing_time 30000");
        let daemon = host.start();
        [guard("g", 0), nothing(), nothing_in()].iter().for_each(|document| {
            daemon.connect().define(document).unwrap();
        });
        work(&network, &host, daemon);
    });
}

fn bind(daemon: &Daemon, filter: &str) {
    daemon.connect().create("vnet0", filter).unwrap();
}

/// Whether the bridge has learned this address at the port.
fn is_learned(mac: Mac, port: &str) -> bool {
    let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
    tool("bridge", "fdb show br br0")
        .lines()
        .any(|line| line.starts_with(&mac) && line.contains(&format!("dev {port} ")))
}

fn to(mac: Mac, from: Mac, kind: u16) -> Vec<u8> {
    ether(kind, vec![0; 46]).from(from).to(mac).into()
}

// P-19
#[test]
fn a_forged_link_local_frame_teaches_the_bridge_nothing() {
    for stp in ["stp_state 0", "stp_state 1 forward_delay 200"] {
        world(|network, _, daemon| {
            settings(stp);
            eventually("the ports learn", || {
                network.peer.send(&to(BROADCAST, PEER_MAC, 0x88b5)).unwrap();
                is_learned(PEER_MAC, "peer0")
            });
            for address in LINK_LOCAL {
                network.guest.send(&to(address, PEER_MAC, 0x88cc)).unwrap();
            }
            assert!(is_learned(PEER_MAC, "vnet0"), "{stp}: not bound, it is believed");
            network.peer.send(&to(BROADCAST, PEER_MAC, 0x88b5)).unwrap();
            bind(&daemon, "g");
            for address in LINK_LOCAL {
                network.guest.send(&to(address, PEER_MAC, 0x88cc)).unwrap();
                assert!(!is_learned(PEER_MAC, "vnet0"), "{stp}: {address:02x?}");
                network.guest.send(&to(address, GUEST_MAC, 0x88cc)).unwrap();
            }
            assert!(is_learned(GUEST_MAC, "vnet0"), "{stp}: its own address is believed");
        });
    }
}

// P-19
#[test]
fn a_guest_that_may_send_nothing_fills_no_table_of_the_host() {
    world(|network, _, daemon| {
        address(network.bridge.link, Ipv4Addr::new(10, 0, 0, 254), 24);
        let asks = |station: Mac, from: &str| {
            drop(network.guest.drain());
            let frame: Vec<u8> = arp_request(from, "10.0.0.254").frame().to(station).into();
            network.guest.send(&frame).unwrap();
            !network.guest.drain().is_empty()
        };
        let neighbours = || tool("ip", "neigh show").lines().filter(|line| !line.contains("FAILED")).count();
        assert!(asks(LINK_LOCAL[2], "10.0.0.1"), "not bound, it is answered");
        tool("ip", "neigh flush all");
        bind(&daemon, "nothing");
        for station in LINK_LOCAL.into_iter().chain([BROADCAST, Bridge::MAC]) {
            for last in 1..20 {
                assert!(!asks(station, &format!("10.0.0.{last}")), "{station:02x?}");
            }
        }
        assert_eq!(neighbours(), 0);
    });
}

// P-19
#[test]
fn a_guest_denied_all_gets_no_frame_of_the_bridge_itself() {
    world(|network, _, daemon| {
        sysctl("ipv6/conf/all/disable_ipv6", "0").unwrap();
        sysctl("ipv6/conf/br0/disable_ipv6", "0").unwrap();
        settings("stp_state 1 hello_time 100 forward_delay 200 mcast_snooping 1 mcast_querier 1");
        settings("mcast_startup_query_interval 10 mcast_query_interval 20");
        let types =
            |frames: &[Vec<u8>]| frames.iter().map(|frame| [frame[12], frame[13]]).collect::<Vec<_>>();
        eventually("not bound, it gets queries", || types(&network.guest.drain()).contains(&[8, 0]));
        bind(&daemon, "nothing-in");
        drop(network.guest.drain());
        drop(network.peer.drain());
        // The other port shows how much the bridge has to say meanwhile.
        let mut said = Vec::new();
        eventually("the other port hears queries and BPDUs", || {
            settings("mcast_querier 0");
            settings("mcast_querier 1");
            said.extend(types(&network.peer.drain()));
            said.contains(&[8, 0]) && said.iter().any(|kind| kind[0] < 6)
        });
        let got = network.guest.drain();
        assert_eq!(types(&got), Vec::<[u8; 2]>::new());
    });
}

#[test]
fn a_bridge_answers_for_others_only_who_may_hear_it() {
    for option in ["proxy_arp on", "proxy_arp_wifi on", "neigh_suppress on"] {
        world(|network, _, daemon| {
            address(network.bridge.link, Ipv4Addr::new(10, 0, 0, 254), 24);
            tool("ip", &format!("neigh add {PEER_IP} lladdr 52:54:00:00:00:02 dev br0 nud permanent"));
            tool("bridge", "fdb replace 52:54:00:00:00:02 dev peer0 master static");
            for port in ["vnet0", "peer0"] {
                tool("ip", &format!("link set {port} type bridge_slave {option}"));
            }
            let is_answered = || {
                drop(network.guest.drain());
                network.guest.send(&Vec::from(arp_request(GUEST_IP, PEER_IP).frame())).unwrap();
                network.guest.drain().iter().any(|frame| frame[12..14] == [8, 6])
            };
            let before = is_answered();
            assert!(before || option.starts_with("neigh"), "{option}: not bound, it is answered");
            bind(&daemon, "nothing-in");
            assert!(!is_answered(), "{option}");
            daemon.connect().0.remove("vnet0").unwrap();
            assert_eq!(is_answered(), before, "{option}: let go");
        });
    }
}

#[test]
fn what_a_bridge_forwards_and_the_host_says_is_as_before() {
    world(|network, _, daemon| {
        address(network.bridge.link, Ipv4Addr::new(10, 0, 0, 254), 24);
        settings("group_fwd_mask 65528");
        bind(&daemon, "g");
        for address in &LINK_LOCAL[1..] {
            assert!(network.passes(Way::FromGuest, to(*address, GUEST_MAC, 0x88cc)), "{address:02x?}");
            assert!(network.passes(Way::ToGuest, to(*address, PEER_MAC, 0x88cc)), "{address:02x?}");
            assert!(!network.passes(Way::FromGuest, to(*address, FOREIGN_MAC, 0x88cc)), "{address:02x?}");
        }
        let honest = udp(ip(GUEST_IP, PEER_IP), 1, 2);
        assert!(
            network.passes(Way::FromGuest, honest.clone()) && network.passes(Way::ToGuest, honest.inbound())
        );
        let request: Vec<u8> = arp_request(GUEST_IP, "10.0.0.254").frame().into();
        network.guest.send(&request).unwrap();
        let answered = network.guest.drain().iter().any(|frame| frame[12..14] == [8, 6] && frame[21] == 2);
        assert!(answered, "the host answers ARP");
        let status: Status = serde_json::from_str(&daemon.connect().0.status().unwrap()).unwrap();
        let seats: Vec<_> =
            status.interfaces.iter().map(|interface| (interface.seat.clone(), interface.unseen)).collect();
        assert_eq!(seats, [(Some(ProgramLocation::Bridge(Some("br0".into()))), false)]);
    });
}

#[test]
fn a_port_is_guarded_under_its_new_name_and_over_a_restart() {
    world(|network, host, daemon| {
        bind(&daemon, "g");
        let teaches = |mac: Mac| {
            network.guest.send(&to(LINK_LOCAL[2], mac, 0x88cc)).unwrap();
            is_learned(mac, &network.guest.link.name())
        };
        network.guest.link.rename("vnet9");
        eventually("the renamed port is guarded", || !teaches([2, 0, 0, 0, 0, fresh()]));
        network.guest.link.rename("vnet0");
        eventually("and so it is under its own name", || !teaches([2, 0, 0, 0, 0, fresh()]));
        daemon.kill();
        assert!(!teaches(FOREIGN_MAC), "no daemon runs");
        let daemon = host.start();
        assert!(!teaches(FOREIGN_MAC), "adopted");
        daemon.connect().0.remove("vnet0").unwrap();
        assert!(teaches(FOREIGN_MAC), "let go");
    });
}

/// An address that no bridge has seen.
fn fresh() -> u8 {
    use std::sync::atomic::{AtomicU8, Ordering};
    static NEXT: AtomicU8 = AtomicU8::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
