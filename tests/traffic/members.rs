//! Several guests, names that come back, chains and their order, changes and refusals.

use crate::host::{Host, Refusal, STYLES, Style};
use crate::lab::frames::*;
use crate::lab::{Way, in_fresh_netns, verdict};
use crate::tool::InTime;
use nwfilter::kernel::apply::Kernel;
use nwfilter::ruleset::nft::Ownership;
use std::process::Command;

const OTHER_MAC: Mac = [0x52, 0x54, 0, 0, 0, 0x03];
const OTHER_IP: &str = "10.0.0.3";
const GUEST_VARS: &[(&str, &str)] = &[("MAC", "52:54:00:00:00:01"), ("IP", GUEST_IP)];
const OTHER_VARS: &[(&str, &str)] = &[("MAC", "52:54:00:00:00:03"), ("IP", OTHER_IP)];

fn own() -> Frame {
    udp(ip(GUEST_IP, PEER_IP), 1234, 80)
}

fn rules_in_force() -> String {
    let output = Command::new("nft")
        .args(["list", "ruleset"])
        .output_in_time()
        .expect("nft is installed (scripts/setup)");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn two_guests_of_one_filter_do_not_speak_for_each_other() {
    for style in STYLES {
        in_fresh_netns(|| {
            let mut host = Host::new(style);
            let other = host.network.add_port("vnet1");
            host.bind_guest("clean-traffic", GUEST_VARS).unwrap();
            host.bind(&other, "clean-traffic", OTHER_VARS).unwrap();
            let passes = |tap, frame: Frame| {
                let frame = Vec::from(frame);
                let (peer, _) = (&host.network.peer, drop(other.drain()));
                verdict(tap, peer, &frame) == crate::lab::Verdict::Accept
            };
            let theirs = || udp(ip(OTHER_IP, PEER_IP), 1234, 80).from(OTHER_MAC);
            let guest = &host.network.guest;
            assert!(passes(guest, own()) && passes(&other, theirs()), "{style:?}");
            assert!(!passes(guest, theirs()) && !passes(&other, own()), "{style:?}: all of the other's");
            assert!(!passes(guest, own().from(OTHER_MAC)), "{style:?}: the other's MAC");
            assert!(!passes(guest, theirs().from(GUEST_MAC)), "{style:?}: the other's address");
            assert!(
                !passes(guest, arp_reply(OTHER_IP, PEER_IP).frame()),
                "{style:?}: the other's address in ARP"
            );
            assert!(
                passes(&other, arp_reply(OTHER_IP, PEER_IP).sender_mac(OTHER_MAC).from(OTHER_MAC)),
                "{style:?}"
            );
        });
    }
}

#[test]
fn a_list_of_addresses_is_all_of_them_and_no_others() {
    for style in STYLES {
        in_fresh_netns(|| {
            let mut host = Host::new(style);
            let vars =
                [("MAC", "52:54:00:00:00:01"), ("IP", GUEST_IP), ("IP", "10.0.0.11"), ("IP", "192.168.7.1")];
            host.bind_guest("clean-traffic", &vars).unwrap();
            for (address, passes) in [
                (GUEST_IP, true),
                ("10.0.0.11", true),
                ("192.168.7.1", true),
                ("10.0.0.10", false),
                ("192.168.7.0", false),
            ] {
                assert_eq!(
                    host.network.passes(Way::FromGuest, udp(ip(address, PEER_IP), 1, 2)),
                    passes,
                    "{style:?} {address}"
                );
                assert_eq!(
                    host.network.passes(Way::FromGuest, arp_reply(address, PEER_IP).frame()),
                    passes,
                    "{style:?} ARP {address}"
                );
            }
        });
    }
}

#[test]
fn variables_are_walked_in_step_or_crossed() {
    let document = |port: &str| {
        format!(
            "<filter name='f' chain='root'>
               <rule action='accept' direction='out' statematch='0'><udp dstipaddr='$A' dstportstart='{port}'/></rule>
               <rule action='drop' direction='inout'><all/></rule>
             </filter>"
        )
    };
    let vars = [("A", "10.0.0.2"), ("A", "10.0.0.3"), ("P", "80"), ("P", "90")];
    for (port, crossed) in [("$P", false), ("$P[@1]", true)] {
        for style in STYLES {
            in_fresh_netns(|| {
                let mut host = Host::new(style);
                host.rebind_guest(&document(port), &vars).unwrap();
                let passes =
                    |to: &str, port| host.network.passes(Way::FromGuest, udp(ip(GUEST_IP, to), 1234, port));
                assert!(passes("10.0.0.2", 80) && passes("10.0.0.3", 90), "{port} {style:?}");
                assert_eq!(
                    (passes("10.0.0.2", 90), passes("10.0.0.3", 80)),
                    (crossed, crossed),
                    "{port} {style:?}"
                );
                assert!(!passes("10.0.0.4", 80) && !passes("10.0.0.2", 81), "{port} {style:?}");
                // The reverse rule of the accepted ones.
                let back =
                    |from: &str, port| host.network.passes(Way::ToGuest, udp(ip(from, GUEST_IP), port, 1234));
                assert!(back("10.0.0.2", 80) && !back("10.0.0.2", 81), "{port} {style:?}");
            });
        }
    }
}

#[test]
fn a_negated_list_matches_when_none_of_it_does() {
    let document = "<filter name='f' chain='root'>
        <rule action='drop' direction='out'><ip match='no' srcipaddr='$IP'/></rule>
        <rule action='drop' direction='out'><udp match='no' dstportstart='$P'/></rule>
      </filter>";
    let vars = [("IP", "10.0.0.1"), ("IP", "10.0.0.5"), ("P", "80"), ("P", "90")];
    for style in STYLES {
        in_fresh_netns(|| {
            let mut host = Host::new(style);
            host.rebind_guest(document, &vars).unwrap();
            for (source, port, passes) in
                [(GUEST_IP, 80, true), ("10.0.0.5", 90, true), ("10.0.0.6", 80, false), (GUEST_IP, 81, false)]
            {
                let frame = udp(ip(source, PEER_IP), 1234, port);
                assert_eq!(host.network.passes(Way::FromGuest, frame), passes, "{style:?} {source} {port}");
            }
        });
    }
}

/// Filters, frames from the guest, and whether they pass.
fn check(documents: &[&str], frames: &[(Frame, bool)]) {
    for style in STYLES {
        in_fresh_netns(|| {
            let mut host = Host::new(style);
            host.define(documents).unwrap();
            host.bind_guest("f", GUEST_VARS).unwrap();
            for (number, (frame, passes)) in frames.iter().enumerate() {
                let found = host.network.passes(Way::FromGuest, frame);
                assert_eq!(found, *passes, "{style:?}: frame {number} under {documents:?}");
            }
        });
    }
}

#[test]
fn the_end_of_a_subchain_returns_to_the_root() {
    let root = "<filter name='f' chain='root'>
        <filterref filter='g'/>
        <rule action='drop' direction='inout' priority='1000'/>
      </filter>";
    let multicast = udp(ip(GUEST_IP, "224.0.0.1"), 1, 2);
    check(
        &[
            root,
            "<filter name='g' chain='ipv4'><rule action='accept' direction='out'><ip dstipaddr='224.0.0.1'/></rule></filter>",
        ],
        &[(own(), false), (multicast.clone(), true)],
    );
    check(
        &[
            root,
            "<filter name='g' chain='ipv4-x'><rule action='return' direction='out'><ip dstipaddr='10.0.0.2'/></rule><rule action='accept' direction='out'/></filter>",
        ],
        &[(own(), false), (multicast, true), (own().vlan(5), false)],
    );
}

#[test]
fn priorities_order_rules_and_chains() {
    let accept = "<rule action='accept' direction='out' priority='P'><mac protocolid='ipv4'/></rule>";
    let drop = "<rule action='drop' direction='out' priority='Q'><ip dstipaddr='10.0.0.2'/></rule>";
    let document = |p: &str, q: &str| {
        format!(
            "<filter name='f' chain='root'>{}{}<rule action='drop' direction='out' priority='1000'/></filter>",
            drop.replace('Q', q),
            accept.replace('P', p)
        )
    };
    let elsewhere = udp(ip(GUEST_IP, "10.0.0.3"), 1, 2);
    check(&[&document("100", "200")], &[(own(), true), (elsewhere.clone(), true)]);
    check(&[&document("200", "100")], &[(own(), false), (elsewhere.clone(), true)]);
    check(&[&document("-1000", "1000")], &[(own(), true)]);
    // With equal priorities the document decides, and a subchain comes before a rule.
    check(&[&document("500", "500")], &[(own(), false), (elsewhere, true)]);
    let chain = |priority: &str| {
        [
            "<filter name='f' chain='root'><rule action='accept' direction='out' priority='-650'><mac protocolid='ipv4'/></rule><filterref filter='g'/></filter>".to_owned(),
            format!("<filter name='g' chain='ipv4' priority='{priority}'><rule action='drop' direction='out'/></filter>"),
        ]
    };
    for (priority, passes) in [("-700", false), ("-650", false), ("-649", true), ("100", true)] {
        let documents = chain(priority);
        check(&[&documents[0], &documents[1]], &[(own(), passes)]);
    }
}

// P-3
#[test]
fn continue_goes_on_and_both_layers_must_accept() {
    check(
        &["<filter name='f' chain='root'>
             <rule action='continue' direction='out' priority='1'><ip dstipaddr='10.0.0.2'/></rule>
             <rule action='continue' direction='out' priority='1'><udp/></rule>
             <rule action='accept' direction='out' priority='2'><mac protocolid='ipv4'/></rule>
             <rule action='drop' direction='out' priority='3'/>
             <rule action='drop' direction='out' priority='1'><udp dstportstart='81'/></rule>
             <rule action='return' direction='out' priority='2' ><udp dstportstart='80'/></rule>
             <rule action='drop' direction='out' priority='3'><udp/></rule>
           </filter>"],
        &[
            (own(), true),
            (udp(ip(GUEST_IP, PEER_IP), 1234, 81), false),
            (udp(ip(GUEST_IP, PEER_IP), 1234, 82), false),
            (tcp(ip(GUEST_IP, PEER_IP), 1, 2, SYN), true),
            (udp(ip6("2001:db8::1", "2001:db8::2"), 1234, 80), false),
        ],
    );
}

/// Where the hook can give no answer, a rejection drops.
#[test]
fn reject_stops_the_frame() {
    for element in
        ["<udp dstportstart='80'/>", "<ip dstipaddr='10.0.0.2'/>", "<mac dstmacaddr='52:54:00:00:00:02'/>"]
    {
        let document = format!(
            "<filter name='f' chain='root'><rule action='reject' direction='out'>{element}</rule></filter>"
        );
        in_fresh_netns(|| {
            let mut host = Host::new(Style::Folded);
            host.rebind_guest(&document, &[]).unwrap();
            assert!(!host.network.passes(Way::FromGuest, own()), "{element}");
            assert!(
                host.network.passes(Way::FromGuest, udp(ip(GUEST_IP, "10.0.0.3"), 1, 2).to(FOREIGN_MAC)),
                "{element}"
            );
        });
    }
}

// P-5
#[test]
fn a_rename_keeps_the_filter_and_a_reused_name_gets_none() {
    for style in STYLES {
        in_fresh_netns(|| {
            let mut host = Host::new(style);
            host.bind_guest("clean-traffic", GUEST_VARS).unwrap();
            host.enforce(host.firewall.reserve("vnet0")).unwrap();
            let link = host.network.guest.link;
            link.down();
            link.rename("renamed");
            link.up();
            // A device's hooks go by its name where they outlive it: the follower of links puts them right.
            if style.is_at_device() {
                host.bind_guest("clean-traffic", GUEST_VARS).unwrap();
            }
            assert!(host.network.passes(Way::FromGuest, own()), "{style:?}");
            assert!(!host.network.passes(Way::FromGuest, own().from(FOREIGN_MAC)), "{style:?}");

            // Another link of that name is blocked both ways until it is bound itself.
            let newcomer = host.network.add_port("vnet0");
            let theirs = || udp(ip(OTHER_IP, PEER_IP), 1234, 80).from(OTHER_MAC);
            let passes = |host: &Host, frame: Frame| {
                verdict(&newcomer, &host.network.peer, &Vec::from(frame)) == crate::lab::Verdict::Accept
            };
            assert!(!passes(&host, own()) && !passes(&host, theirs()), "{style:?}: quarantine");
            let to_it = Vec::from(theirs().inbound());
            host.network.peer.send(&to_it).unwrap();
            assert_eq!(newcomer.drain(), Vec::<Vec<u8>>::new(), "{style:?}: quarantine");
            host.bind(&newcomer, "clean-traffic", OTHER_VARS).unwrap();
            assert!(passes(&host, theirs()) && !passes(&host, own()), "{style:?}: bound");
            host.enforce(host.firewall.unbind(newcomer.link.index())).unwrap();
            assert!(!passes(&host, theirs()), "{style:?}: unbound, the name still reserved");
            host.enforce(host.firewall.unreserve("vnet0")).unwrap();
            assert!(passes(&host, own()), "{style:?}: nobody's business any more");
        });
    }
}

#[test]
fn an_unbound_guest_is_not_filtered_and_leaves_nothing() {
    for style in STYLES {
        in_fresh_netns(|| {
            let mut host = Host::new(style);
            let before = rules_in_force();
            host.bind_guest("clean-traffic", GUEST_VARS).unwrap();
            assert_ne!(rules_in_force(), before);
            host.enforce(host.firewall.unbind(host.network.guest.link.index())).unwrap();
            assert_eq!(rules_in_force(), before, "{style:?}");
            assert!(host.network.passes(Way::FromGuest, own().from(FOREIGN_MAC)));
        });
    }
}

/// This lives until kernels without bridge conntrack are no more; elsewhere the rule is taken.
#[test]
fn a_rule_the_kernel_cannot_enforce_is_refused_by_name() {
    let stateful = "<filter name='g' chain='root'>
        <rule action='drop' direction='out'><udp dstportstart='81'/></rule>
        <rule action='accept' direction='out'><tcp dstportstart='80'/></rule>
      </filter>";
    for style in STYLES {
        in_fresh_netns(|| {
            let kernel = Kernel::open(Ownership::Shared).unwrap();
            if kernel.features().bridge_ct.is_yes() {
                println!("skipped: this kernel tracks connections of bridges");
                return;
            }
            let mut host = Host::new(style);
            host.bind_guest("clean-traffic", GUEST_VARS).unwrap();
            host.define(&[stateful]).unwrap();
            let before = rules_in_force();
            let refusal = match host.bind_guest("g", GUEST_VARS).unwrap_err() {
                Refusal::Firewall(refused) => format!("{:?}", refused.diagnostics),
                Refusal::Kernel(refused) => refused.to_string(),
            };
            assert!(refusal.contains("'g'") && refusal.contains("rule 2"), "{refusal}");
            assert!(refusal.contains("NF_CONNTRACK_BRIDGE"), "{refusal}");
            assert_eq!(rules_in_force(), before, "{style:?}");
            assert!(host.network.passes(Way::FromGuest, own()), "{style:?}");
            assert!(!host.network.passes(Way::FromGuest, own().from(FOREIGN_MAC)), "{style:?}");
            // And the next change finds everything in order.
            host.bind_guest("no-mac-spoofing", GUEST_VARS).unwrap();
            assert!(host.network.passes(Way::FromGuest, udp(ip(FOREIGN_IP, PEER_IP), 1, 2)), "{style:?}");
        });
    }
}

/// The kernel keeps what it was asked for: nothing it lists is unknown to us, and nothing of ours is missing.
#[test]
fn a_redefinition_moves_all_members_at_once_or_none() {
    let document = |port: &str| {
        format!(
            "<filter name='f' chain='root'><rule action='drop' direction='out'><udp dstportstart='{port}'/></rule></filter>"
        )
    };
    for style in STYLES {
        in_fresh_netns(|| {
            let mut host = Host::new(style);
            let other = host.network.add_port("vnet1");
            host.define(&[&document("80")]).unwrap();
            host.bind_guest("f", GUEST_VARS).unwrap();
            host.bind(&other, "f", OTHER_VARS).unwrap();
            let passes = |host: &Host, port| {
                let frame = Vec::from(udp(ip(GUEST_IP, PEER_IP), 1234, port));
                [&host.network.guest, &other].map(|tap| {
                    drop(other.drain());
                    verdict(tap, &host.network.peer, &frame) == crate::lab::Verdict::Accept
                })
            };
            assert_eq!((passes(&host, 80), passes(&host, 81)), ([false; 2], [true; 2]), "{style:?}");
            host.define(&[&document("81")]).unwrap();
            assert_eq!((passes(&host, 80), passes(&host, 81)), ([true; 2], [false; 2]), "{style:?}");
            let before = rules_in_force();
            assert!(matches!(host.define(&[&document("$MISSING")]), Err(Refusal::Firewall(_))));
            assert_eq!(rules_in_force(), before, "{style:?}");
        });
    }
}
