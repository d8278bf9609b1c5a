//! `make demo`: a guest's interface is filtered in a throw-away network namespace, and frames are sent both ways.
//!
//! A bridge, the guest's tap and a peer's are made; `clean-traffic` is bound to the guest through the library. Each frame is
//! sent for real, and what arrives is held against what should. The exit code tells whether all verdicts were right.

#[path = "../tests/lab/mod.rs"]
mod lab;

use lab::frames::*;
use lab::{Network, Verdict, Way, in_fresh_netns};
use nwfilter::document::catalog::Library;
use nwfilter::document::vars::Vars;
use nwfilter::kernel::apply::Kernel;
use nwfilter::program::compile::{HostToGuest, Options};
use nwfilter::program::ir::Ruleset;
use nwfilter::ruleset::firewall::{Attachment, BoundInterface, Firewall, Policy, Rules};
use nwfilter::ruleset::nft::Ownership;
use nwfilter::ruleset::plan::plan;
use std::error::Error;
use std::process::ExitCode;

fn main() -> ExitCode {
    if !rustix::process::geteuid().is_root() {
        eprintln!("demo: network namespaces and nftables need root; run `sudo -E make demo`");
        return ExitCode::from(2);
    }
    match in_fresh_netns(|| show().map_err(|why| why.to_string())) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(wrong) => {
            eprintln!("demo: {wrong} verdicts are wrong");
            ExitCode::FAILURE
        }
        Err(why) => {
            eprintln!("demo: {why}");
            ExitCode::FAILURE
        }
    }
}

/// Binds the guest, sends the frames, prints the table and the rules; returns how many verdicts are wrong.
fn show() -> Result<usize, Box<dyn Error>> {
    let network = Network::new();
    let ruleset = filter(&network)?;
    println!("vnet0 is bound to clean-traffic with MAC 52:54:00:00:00:01 and IP {GUEST_IP}.\n");
    println!("{:<10} {:<50} {:<8} verdict", "", "frame", "expected");
    let mut wrong = 0;
    for (way, what, frame, passes) in frames() {
        let expected = if passes { Verdict::Accept } else { Verdict::Drop };
        let verdict = network.verdict(way, frame);
        let mark = if verdict == expected { "" } else { "  <- wrong" };
        wrong += usize::from(verdict != expected);
        let way = if way == Way::FromGuest { "from guest" } else { "to guest" };
        println!("{way:<10} {what:<50} {:<8} {}{mark}", word(&expected), word(&verdict));
    }
    println!("\nThe rules in force, as nft would write them:\n\n{ruleset}");
    Ok(wrong)
}

/// Has the kernel enforce clean-traffic on the guest's interface.
fn filter(network: &Network) -> Result<Ruleset, Box<dyn Error>> {
    let kernel = Kernel::open(Ownership::OwnedAndKept)?;
    let compile =
        Options { features: kernel.features().into(), counters: false, host_to_guest: HostToGuest::Pass };
    let firewall = Firewall::new(Policy { fold_up_to: 64, compile, placement: Default::default() });
    let firewall = firewall.define(Library::standard().filters.into_values()).map_err(refused)?;
    let mut vars = Vars::default();
    vars.push("MAC", "52:54:00:00:00:01");
    vars.push("IP", GUEST_IP);
    let link = network.guest.link;
    let rules = Rules::Filter("clean-traffic".into());
    let member = BoundInterface {
        index: link.index(),
        name: link.name(),
        place: Attachment::Bridge(None),
        rules,
        vars,
    };
    let ruleset = firewall.bind(member).map_err(refused)?.ruleset();
    kernel.apply(plan(&Ruleset::default(), &ruleset))?;
    Ok(ruleset)
}

fn refused(refused: nwfilter::ruleset::firewall::Refused) -> String {
    nwfilter::document::diag::render(&refused.diagnostics)
}

fn word(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Accept => "passes",
        Verdict::Drop => "stopped",
        Verdict::Reject(_) => "rejected",
    }
}

/// Which way, what, the frame, and whether it should pass.
fn frames() -> Vec<(Way, &'static str, Frame, bool)> {
    use Way::{FromGuest, ToGuest};
    let own = || udp(ip(GUEST_IP, PEER_IP), 1234, 80);
    let honest = |what, frame| (FromGuest, what, frame, true);
    let wicked = |what, frame| (FromGuest, what, frame, false);
    vec![
        honest("UDP from its own address", own()),
        honest("ARP request, own address", arp_request(GUEST_IP, PEER_IP).frame()),
        honest("DHCP discover from 0.0.0.0", dhcp(1).broadcast()),
        honest("QEMU's announcement after a migration", rarp_announce(GUEST_MAC).frame()),
        wicked("IP spoofing: UDP from 10.0.0.9", udp(ip(FOREIGN_IP, PEER_IP), 1234, 80)),
        wicked("TCP from 0.0.0.0", tcp(ip("0.0.0.0", PEER_IP), 1234, 80, SYN)),
        wicked("MAC spoofing: own address, foreign MAC", own().from(FOREIGN_MAC)),
        wicked("ARP spoofing: 10.0.0.9 is at the guest", arp_reply(FOREIGN_IP, PEER_IP).frame()),
        wicked(
            "ARP spoofing: foreign MAC inside the message",
            arp_reply(GUEST_IP, PEER_IP).sender_mac(FOREIGN_MAC).frame(),
        ),
        wicked("the same hidden in VLAN 0", arp_reply(FOREIGN_IP, PEER_IP).frame().vlan(0)),
        wicked("honest UDP in an 802.1Q tag", own().vlan(5)),
        wicked(
            "router advertisement over IPv6",
            router_advert(ip6("fe80::1", "ff02::1"), &nd_option(1, &GUEST_MAC)),
        ),
        wicked("spanning tree", Bpdu::default().frame()),
        (ToGuest, "UDP from the peer", udp(ip(PEER_IP, GUEST_IP), 80, 1234).inbound(), true),
        (
            ToGuest,
            "DHCP offer",
            dhcp(2).your_ip(GUEST_IP).lease(3600, PEER_IP).reply(PEER_IP).inbound(),
            true,
        ),
        (
            ToGuest,
            "ARP request from the peer",
            arp_request(PEER_IP, GUEST_IP).sender_mac(PEER_MAC).frame().inbound(),
            true,
        ),
        (ToGuest, "UDP over IPv6", udp(ip6("fe80::2", "fe80::1"), 80, 1234).inbound(), false),
        (ToGuest, "UDP in an 802.1Q tag", udp(ip(PEER_IP, GUEST_IP), 80, 1234).inbound().vlan(5), false),
    ]
}
