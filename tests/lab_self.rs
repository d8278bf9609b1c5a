//! The lab judged: does it see what a bridge does, and does it notice when a frame is missing?

mod lab;
mod tool;

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::net::{Ipv4Addr, UdpSocket};
use std::process::{Command, Stdio};
use std::time::Duration;
use tool::InTime;

use lab::corpus::{Case, corpus, every_ethertype};
use lab::frames::*;
use lab::{Bridge, Flood, Network, PortOption, Verdict, Way, Wire, in_fresh_netns};

/// clean-traffic for the lab's guest, written by hand for the nft command.
const CLEAN_TRAFFIC: &str = r#"
table bridge lab {
  chain out {
    ether saddr != 52:54:00:00:00:01 drop
    ether type ip goto out-ip
    ether type arp goto out-arp
    ether type 0x8035 goto announcement
    drop
  }
  chain out-ip {
    ip saddr 0.0.0.0 ip protocol udp accept
    ip saddr 10.0.0.1 accept
    drop
  }
  chain out-arp {
    @nh,0,48 0x000108000604 @nh,64,48 0x525400000001 @nh,112,32 0x0a000001 accept
    drop
  }
  chain announcement {
    ether daddr ff:ff:ff:ff:ff:ff @nh,0,64 0x0001080006040003 @nh,64,48 0x525400000001 @nh,112,32 0 @nh,144,48 0x525400000001 @nh,192,32 0 accept
    drop
  }
  chain in {
    ether type { ip, arp } accept
    ether type 0x8035 goto announcement
    drop
  }
  chain prerouting { type filter hook prerouting priority -150; iifname "vnet0" goto out; }
  chain postrouting { type filter hook postrouting priority -150; oifname "vnet0" goto in; }
}
"#;

fn nft(script: &str) {
    let mut nft = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("nft is installed (scripts/setup)");
    let mut input = nft.stdin.take().expect("stdin is piped");
    input.write_all(script.as_bytes()).unwrap();
    drop(input);
    assert!(nft.status_in_time().unwrap().success(), "nft refuses\n{script}");
}

/// One rule at a hook of the bridge.
fn nft_rule(hook: &str, rule: &str) {
    let chain = format!("type filter hook {hook} priority 0\n{rule}\n");
    nft(&format!("table bridge lab {{\nchain c {{\n{chain}}}\n}}\n"));
}

fn own() -> Frame {
    udp(ip(GUEST_IP, PEER_IP), 1234, 80)
}

fn spoofed() -> Frame {
    udp(ip(FOREIGN_IP, PEER_IP), 1234, 80)
}

/// What differs from expectation, one line a case.
fn differences(network: &Network, expected: impl Fn(&Case) -> Verdict) -> String {
    let judge = |case: Case| {
        let found = network.verdict(case.way, &case.frame[..]);
        let wanted = expected(&case);
        (found != wanted).then(|| format!("{} {}: {found:?}, not {wanted:?}\n", case.id, case.what))
    };
    corpus().into_iter().filter_map(judge).collect()
}

#[test]
fn an_unfiltered_bridge_forwards_all_that_it_does_not_eat() {
    let wrong = in_fresh_netns(|| {
        differences(&Network::new(), |case| match case.eaten_by_bridge {
            true => Verdict::Drop,
            false => Verdict::Accept,
        })
    });
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn clean_traffic_by_hand_gives_every_verdict_of_the_corpus() {
    let wrong = in_fresh_netns(|| {
        let network = Network::new();
        nft(CLEAN_TRAFFIC);
        differences(&network, |case| case.verdict_under_clean_traffic.clone())
    });
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn every_case_of_the_corpus_is_another_one() {
    let cases = corpus();
    assert!(cases.len() >= 120);
    let ids: BTreeSet<_> = cases.iter().map(|case| case.id).collect();
    let frames: BTreeSet<_> = cases.iter().map(|case| (case.way == Way::ToGuest, &case.frame)).collect();
    assert_eq!((ids.len(), frames.len()), (cases.len(), cases.len()));
}

#[test]
fn only_ipv4_and_arp_are_special_to_bridge_and_filter() {
    in_fresh_netns(|| {
        let network = Network::new();
        let arriving = |way| -> Vec<u16> {
            let passing = every_ethertype().filter(|(_, frame)| network.passes(way, &frame[..]));
            passing.map(|(kind, _)| kind).collect()
        };
        for way in [Way::FromGuest, Way::ToGuest] {
            assert_eq!(arriving(way).len(), 65_536, "without a filter");
        }
        nft(CLEAN_TRAFFIC);
        assert_eq!(arriving(Way::FromGuest), [], "the body is no honest packet");
        assert_eq!(arriving(Way::ToGuest), [ethertype::IPV4, ethertype::ARP]);
    });
}

#[test]
fn a_tap_takes_14_bytes_and_more() {
    in_fresh_netns(|| {
        let network = Network::new();
        let frame = |length| Vec::from(ether(0x88b5, []).length(length));
        for refused in [1, 13] {
            let why = network.guest.send(&frame(refused)).unwrap_err();
            assert_eq!(why.raw_os_error(), Some(libc::EINVAL), "{refused} bytes");
        }
        for length in [14, 15, 59, 60, 1514, 9014, 65_514] {
            assert!(network.passes(Way::FromGuest, frame(length)), "{length} bytes");
        }
    });
}

#[test]
fn a_frame_that_comes_back_to_its_sender_is_a_rejection() {
    in_fresh_netns(|| {
        let network = Network::new();
        network.guest.link.set_port(PortOption::Hairpin, true);
        nft_rule("postrouting", "oifname peer0 drop");
        let verdict = network.verdict(Way::FromGuest, own());
        assert_eq!(verdict, Verdict::Reject(own().into()));
        assert_eq!(network.verdict(Way::ToGuest, own()), Verdict::Accept);
    });
}

#[test]
fn a_frame_that_arrives_changed_is_no_acceptance() {
    in_fresh_netns(|| {
        let network = Network::new();
        let judge = || network.verdict(Way::FromGuest, own());
        assert_eq!(judge(), Verdict::Accept);
        nft_rule("prerouting", "ether saddr set 02:00:00:00:00:77");
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(judge));
        assert!(outcome.is_err(), "{outcome:?}");
    });
}

#[test]
fn a_flood_counts_every_frame() {
    let counted = |rules: fn()| {
        in_fresh_netns(|| {
            let network = Network::new();
            rules();
            let moment = || std::thread::sleep(Duration::from_millis(100));
            network.flood(Way::FromGuest, own(), spoofed(), moment).0
        })
    };
    let open = counted(|| {});
    assert!(open.honest_sent > 1000, "{open:?}");
    let (honest_arrived, forbidden_arrived) = (open.honest_sent, open.forbidden_sent);
    assert_eq!(open, Flood { honest_arrived, forbidden_arrived, strange: 0, answers: 0, ..open });

    let filtered = counted(|| nft(CLEAN_TRAFFIC));
    let honest_arrived = filtered.honest_sent;
    assert_eq!(filtered, Flood { honest_arrived, forbidden_arrived: 0, ..filtered });

    let blocked = counted(|| nft_rule("prerouting", "drop"));
    assert_eq!(blocked, Flood { honest_arrived: 0, forbidden_arrived: 0, ..blocked });
}

#[test]
fn a_flood_notices_a_filter_that_is_away_for_a_moment() {
    let (count, ()) = in_fresh_netns(|| {
        let network = Network::new();
        nft(CLEAN_TRAFFIC);
        network.flood(Way::FromGuest, own(), spoofed(), || {
            nft("flush ruleset");
            std::thread::sleep(Duration::from_millis(50));
            nft(CLEAN_TRAFFIC);
        })
    });
    assert!(count.forbidden_arrived > 0 && count.forbidden_arrived < count.forbidden_sent);
    assert_eq!(count.lost(), 0);
}

/// The host judges the frames: its stack answers only what is well formed.
#[test]
fn the_host_answers_what_the_builders_make() {
    in_fresh_netns(|| {
        let network = Network::new();
        let host = "10.0.0.254";
        lab::address(network.bridge.link, Ipv4Addr::new(10, 0, 0, 254), 24);
        let ask = |frame: Frame| {
            network.guest.send(&Vec::from(frame.to(Bridge::MAC))).unwrap();
            network.guest.recv()
        };
        let answer = ask(arp_request(GUEST_IP, host).frame()).expect("the host answers ARP");
        assert_eq!(answer[14..22], [0, 1, 8, 0, 6, 4, 0, 2]);
        assert_eq!(answer[22..28], Bridge::MAC);

        let here = || ip(GUEST_IP, host);
        let ping = |header| icmp(header, 8, 0, &[0; 8]);
        let echo = ask(ping(here())).expect("the host answers pings");
        assert_eq!((echo[23], echo[34]), (1, 0));
        let reset = ask(tcp(here(), 1234, 9, SYN)).expect("the host refuses connections");
        assert_eq!((reset[23], reset[47]), (6, RST | ACK));
        assert!(ask(ping(here().options(&[148, 4, 0, 0]))).is_some());
        for spoiled in [here().bad_checksum(), here().claim(4, 4), here().total_length(10)] {
            assert_eq!(ask(ping(spoiled.clone())), None, "{spoiled:?}");
        }
    });
}

#[test]
fn udp_goes_between_guest_and_host() {
    in_fresh_netns(|| {
        let network = Network::new();
        lab::address(network.bridge.link, Ipv4Addr::new(10, 0, 0, 254), 24);
        let host = UdpSocket::bind("10.0.0.254:80").unwrap();
        host.set_read_timeout(Some(lab::PATIENCE)).unwrap();
        let parts =
            [ip(GUEST_IP, "10.0.0.254").fragment(0, true), ip(GUEST_IP, "10.0.0.254").fragment(2, false)];
        let whole = Vec::from(udp_with(ip(GUEST_IP, "10.0.0.254"), 1234, 80, b"sixteen and more"));
        for (header, part) in parts.into_iter().zip([&whole[34..50], &whole[50..]]) {
            let frame = header.carry(17, part).to(Bridge::MAC);
            network.guest.send(&Vec::from(frame)).unwrap();
        }
        let mut heard = [0; 64];
        let (length, guest) = host.recv_from(&mut heard).expect("fragments are put together");
        assert_eq!(&heard[..length], b"sixteen and more");

        host.send_to(b"hello", guest).unwrap();
        let question = network.guest.recv_within(lab::PATIENCE).expect("the host asks");
        assert_eq!(question[12..14], ethertype::ARP.to_be_bytes());
        network.guest.send(&Vec::from(arp_reply(GUEST_IP, "10.0.0.254").frame().to(Bridge::MAC))).unwrap();
        let answer = network.guest.recv_within(lab::PATIENCE).expect("the host answers");
        assert!(answer.ends_with(b"hello"), "{answer:02x?}");
    });
}

#[test]
fn the_host_answers_ipv6_as_well() {
    in_fresh_netns(|| {
        let network = Network::new();
        let host = "fe80::ff:fe00:fe";
        lab::sysctl("ipv6/conf/br0/accept_dad", "0").unwrap();
        lab::sysctl("ipv6/conf/br0/disable_ipv6", "0").unwrap();
        let here = || ip6("fe80::5054:ff:fe00:1", host);
        // The host has things of its own to say: reports of the groups it joins.
        let answer_to = |frame: Frame| {
            network.guest.send(&Vec::from(frame.to(Bridge::MAC))).unwrap();
            std::iter::from_fn(|| network.guest.recv_within(Duration::from_millis(50)))
                .find(|frame| matches!(frame[54], 129 | 136))
        };
        let asked = neighbour(here(), 135, 0, host, &nd_option(1, &GUEST_MAC));
        // The address is good once the kernel's work queue has come to it.
        let advert = (0..100).find_map(|_| answer_to(asked.clone()));
        assert_eq!(advert.expect("the host advertises itself")[54], 136);
        let chained = here().hop_by_hop(&[1, 4, 0, 0, 0, 0]).destination_options();
        for net in [here(), chained, here().fragment(0, false)] {
            let echo = answer_to(icmp6(net, 128, 0, &[0; 8])).expect("the host answers pings");
            assert_eq!(echo[54], 129);
        }
    });
}

#[test]
fn every_namespace_is_its_own_and_links_keep_their_index() {
    in_fresh_netns(|| {
        let network = Network::new();
        in_fresh_netns(|| assert_eq!(lab::index_of("vnet0"), None));
        let link = network.guest.link;
        link.down();
        link.rename("renamed");
        link.up();
        assert_eq!((link.name().as_str(), lab::index_of("vnet0")), ("renamed", None));
        assert!(network.passes(Way::FromGuest, own()), "a rename keeps the port");
        link.set_master(None);
        assert!(!network.passes(Way::FromGuest, own()), "the guest left the bridge");
        network.bridge.add(link);
        assert!(network.passes(Way::FromGuest, own()));
        link.delete();
        assert_eq!((lab::index_of("renamed"), link.name().as_str()), (None, ""));
    });
}

#[test]
fn veths_and_macvtaps_carry_frames() {
    in_fresh_netns(|| {
        let (near, far) = lab::veth("near", "far");
        near.up();
        far.up();
        near.ready();
        let wire = Wire::open(&far);
        let guest = lab::macvtap("mvt0", near, GUEST_MAC).expect("the kernel has macvtap");
        let limit = lab::PATIENCE;
        guest.send(&Vec::from(own())).unwrap();
        assert_eq!(wire.recv_within(limit), Some(own().into()));
        let answer = Vec::from(own().inbound());
        wire.send(&answer).unwrap();
        assert_eq!(guest.recv_within(limit), Some(answer));
        assert_eq!(guest.recv(), None);
    });
}

/// br_netfilter trims and discards IPv4 of its own accord, and VLAN filtering takes off tags: frames
/// may be lost or changed, but a filter in the bridge's own hooks must stop what it always stops.
#[test]
fn nothing_more_passes_with_br_netfilter_or_vlan_filtering() {
    let leaks = |setting: fn(&Network) -> io::Result<()>| {
        in_fresh_netns(|| {
            let network = Network::new();
            if let Err(why) = setting(&network) {
                println!("skipped: this kernel cannot do it: {why}");
                return vec![];
            }
            nft(CLEAN_TRAFFIC);
            let stopped = |case: &Case| case.verdict_under_clean_traffic == Verdict::Drop;
            let leaks = |case: &Case| !network.send(case.way, &case.frame[..]).is_empty();
            let ids = corpus().into_iter().filter(|case| stopped(case) && leaks(case));
            ids.map(|case| case.id).collect()
        })
    };
    let none: [&str; 0] = [];
    assert_eq!(leaks(|_| lab::sysctl("bridge/bridge-nf-call-iptables", "1")), none);
    assert_eq!(leaks(|network| network.bridge.set_vlan_filtering(true)), none);
}
