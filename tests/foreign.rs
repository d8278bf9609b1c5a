//! What others put into our tables: none of it is taken for ours, and a plan from what is there leaves only what must be.
//!
//! Tables are without owner here, as they are before Linux 6.9 and wherever no process owns them. Every test has a
//! network namespace of its own and needs root.

mod lab;
mod tool;

use lab::frames::*;
use lab::{Network, Tap, Way, in_fresh_netns};
use nwfilter::document::catalog::Library;
use nwfilter::document::vars::Vars;
use nwfilter::kernel::apply::Kernel;
use nwfilter::program::compile::Options;
use nwfilter::program::ir::{Action, Chain, Family, Ruleset};
use nwfilter::ruleset::firewall::{Attachment, BoundInterface, BridgePort, Firewall, Policy, Rules};
use nwfilter::ruleset::from_kernel::recall;
use nwfilter::ruleset::layout::TrafficCounting;
use nwfilter::ruleset::nft::{Ownership, encode};
use nwfilter::ruleset::plan::{Step, TableOperation, plan};
use std::collections::BTreeMap;
use std::process::Command;
use tool::InTime;

/// A bridge's port, a routed tap and a macvtap by number, all with one filter, and a kernel that holds it.
struct Host {
    network: Network,
    /// Before Linux 6.16 a chain of a device asks for the device itself.
    _taps: [Tap; 2],
    kernel: Kernel,
    wanted: Ruleset,
}

impl Host {
    fn new(fold_up_to: usize) -> Host {
        let (network, kernel) = (Network::new(), Kernel::open(Ownership::Shared).unwrap());
        let compile = Options {
            features: kernel.features().into(),
            counters: true,
            host_to_guest: nwfilter::program::compile::HostToGuest::Pass,
        };
        let policy = Policy { fold_up_to, compile, placement: Default::default() };
        let firewall = Firewall::new(policy).define(Library::standard().filters.into_values()).unwrap();
        let taps = ["routed0", "other0"].map(Tap::new);
        let [routed, macvtap] = taps.each_ref().map(|tap| tap.link.index());
        let bridge = BridgePort { index: 3, name: "br0".into(), host: None, port: "vnet0".into() };
        let guest = network.guest.link.index();
        let members = [
            (guest, Attachment::Bridge(Some(bridge))),
            (routed, Attachment::Routed { name: "routed0".into() }),
            (macvtap, Attachment::Device { name: "other0".into(), reversed: true }),
        ];
        let members = members.map(|(index, place)| member(index, place));
        let firewall =
            firewall.bind_all(members).unwrap().counting_traffic(TrafficCounting::On).reserve("vnet7");
        let wanted = firewall.ruleset();
        kernel.apply(plan(&Ruleset::default(), &wanted)).unwrap();
        Host { network, _taps: taps, kernel, wanted }
    }

    /// Takes the kernel from what it holds to what must be.
    fn restore(&self) {
        let found = recall(&self.kernel.observe().unwrap(), &self.wanted);
        let applied = self.kernel.apply(plan(&found, &self.wanted)).unwrap();
        assert_eq!(applied.retire_failures, []);
    }

    fn differences(&self) -> String {
        let found = recall(&self.kernel.observe().unwrap(), &self.wanted);
        plan(&found, &self.wanted).to_string()
    }
}

fn member(index: u32, place: Attachment) -> BoundInterface {
    let mut vars = Vars::default();
    vars.push("MAC", "52:54:00:00:00:01");
    vars.push("IP", GUEST_IP);
    BoundInterface {
        index,
        name: format!("tap{index}"),
        place,
        rules: Rules::Filter("clean-traffic".into()),
        vars,
    }
}

/// Each chain, set and flowtable as nft lists it, with the words of a set in any order and nothing of what was counted.
fn listed() -> BTreeMap<String, Vec<String>> {
    let output = Command::new("nft").args(["-s", "list", "ruleset"]).output_in_time().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let (mut table, mut blocks) = (String::new(), BTreeMap::new());
    let mut block: Option<(String, Vec<String>)> = None;
    for line in text.lines() {
        match line.strip_prefix('\t') {
            None if line.starts_with("table") => table = line.to_owned(),
            None => {}
            Some(inner) if inner.starts_with('\t') || inner == "}" => {
                block.as_mut().unwrap().1.push(inner.trim().to_owned())
            }
            Some(inner) => block = Some((format!("{table} {inner}"), Vec::new())),
        }
        if let Some((name, lines)) = block.take_if(|_| line == "\t}") {
            let is_chain = name.contains(" chain ");
            let mut words: Vec<String> = match is_chain {
                true => lines,
                false => lines.iter().flat_map(|line| line.split([' ', ','])).map(String::from).collect(),
            };
            words.retain(|word| !word.is_empty());
            if !is_chain {
                words.sort();
            }
            blocks.insert(name, words);
        } else if table.contains("flags") || line.contains("flags dormant") {
            blocks.insert(format!("{table} flags"), vec![line.to_owned()]);
        }
    }
    blocks
}

/// Whether the kernel would take these commands.
fn can(commands: &str) -> bool {
    Command::new("nft").args(["-c", commands]).output_in_time().unwrap().status.success()
}

fn nft(commands: &str) {
    let output = Command::new("nft").arg(commands).output_in_time().unwrap();
    assert!(output.status.success(), "{commands}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Changes of each kind. PROGRAM stands for a chain of a program, ENTRY for the entry of a shared one.
const CHANGES: &[&str] = &[
    // Rules, wherever there are some, before ours and behind.
    "insert rule bridge nwfilter prerouting accept",
    "add rule bridge nwfilter prerouting accept",
    "insert rule netdev nwfilter ingress accept",
    "insert rule netdev nwfilter egress accept",
    "insert rule inet nwfilter prerouting accept",
    "insert rule inet nwfilter elsewhere drop",
    "insert rule netdev nwfilter _device/ingress/routed0 accept",
    "insert rule netdev nwfilter _device/egress/routed0 accept",
    "add rule netdev nwfilter _device/ingress/routed0 counter",
    "insert rule bridge nwfilter drop-iif accept",
    "insert rule bridge nwfilter PROGRAM accept",
    "insert rule bridge nwfilter PROGRAM ether type { arp, ip } accept",
    "insert rule bridge nwfilter PROGRAM ether type vmap { arp : accept, ip : drop }",
    "insert rule bridge nwfilter ENTRY accept",
    "insert rule bridge nwfilter ENTRY ether type arp accept",
    "insert rule bridge nwfilter ENTRY meta mark set 1",
    "flush chain bridge nwfilter prerouting",
    "flush chain bridge nwfilter drop-iif",
    "flush chain bridge nwfilter PROGRAM",
    "flush chain bridge nwfilter ENTRY",
    // Elements, and what no element of ours is.
    "flush set bridge nwfilter bound",
    "add element bridge nwfilter bound { 77 }",
    "add element bridge nwfilter reserved { \"other\" }",
    "add element inet nwfilter at-prerouting { 77 : jump elsewhere }",
    "add element inet nwfilter at-prerouting { 77 : accept }",
    "add element inet nwfilter at-prerouting { 77 : goto elsewhere }",
    "add element bridge nwfilter from-guest { 77 : accept }",
    "add element bridge nwfilter from-guest { * : accept }",
    "add element bridge nwfilter bound { * }",
    "flush set bridge nwfilter traffic-iif",
    // Chains, sets and other things that are none of ours.
    "add chain bridge nwfilter evil",
    "add chain bridge nwfilter evil { type filter hook prerouting priority -500; policy accept; }",
    "add chain bridge nwfilter evil { type filter hook prerouting priority -500; policy drop; }",
    "add chain inet nwfilter evil { type nat hook prerouting priority -90; policy accept; }",
    "add chain inet nwfilter evil; add map inet nwfilter m { type mark : verdict; }; \
     add element inet nwfilter m { 1 : jump evil }",
    "add set bridge nwfilter at-device { type iface_index . ifname; }; \
     insert rule bridge nwfilter prerouting iif . iifname @at-device accept",
    "add set bridge nwfilter strange { type ipv4_addr; flags interval; }",
    "add set bridge nwfilter strange { type ipv4_addr; timeout 1m; }",
    "add counter bridge nwfilter strange",
    "add flowtable inet nwfilter f { hook ingress priority 0; devices = { lo }; }",
    "add chain bridge nwfilter prerouting { policy drop; }",
    "add table bridge nwfilter { flags dormant; }",
    "add table netdev nwfilter { flags dormant; }",
    "add table inet nwfilter { flags dormant; }",
    "delete table bridge nwfilter",
    "delete table inet nwfilter; delete table netdev nwfilter",
    "flush ruleset",
    // Tables of our name that hold something else under our names.
    "delete table bridge nwfilter; add table bridge nwfilter; \
     add set bridge nwfilter bound { type ether_addr; }",
    "delete table bridge nwfilter; add table bridge nwfilter; \
     add map bridge nwfilter from-guest { type iface_index : mark; }",
    "delete table bridge nwfilter; add table bridge nwfilter; \
     add set bridge nwfilter bound { type iface_index; flags interval; }",
    "delete table bridge nwfilter; add table bridge nwfilter; \
     add set bridge nwfilter drops { type iface_index . mark; size 65535; flags dynamic,timeout; timeout 1m; }",
    "delete table bridge nwfilter; add table bridge nwfilter; add chain bridge nwfilter prerouting",
    "delete table bridge nwfilter; add table bridge nwfilter; add chain bridge nwfilter prerouting \
     { type filter hook prerouting priority -1; policy accept; }",
    "delete table bridge nwfilter; add table bridge nwfilter; add chain bridge nwfilter prerouting \
     { type filter hook postrouting priority -150; policy accept; }",
    "delete table netdev nwfilter; add table netdev nwfilter; add chain netdev nwfilter _device/ingress/routed0 \
     { type filter hook ingress devices = { routed0, other0 } priority -150; policy accept; }",
];

// P-13
#[test]
fn nothing_that_others_put_into_our_tables_is_left_there() {
    for fold_up_to in [0, 64] {
        in_fresh_netns(|| {
            let host = Host::new(fold_up_to);
            assert_eq!(host.differences(), "", "what we have just made is ours");
            let before = listed();
            let chain = |end: &str, digest: bool| {
                let chains = &host.wanted.tables[&Family::Bridge].chains;
                let mut names = chains.keys().filter(|name| name.ends_with(end));
                names.find(|name| (name.matches('/').count() == 2) == digest).map(ToString::to_string)
            };
            let program = chain("/out", true).unwrap();
            for change in CHANGES {
                let change = change.replace("PROGRAM", &program);
                let change = match chain("clean-traffic/out", false) {
                    Some(entry) => change.replace("ENTRY", &entry),
                    None if change.contains("ENTRY") => continue,
                    None => change,
                };
                if change.contains("flowtable") && !can(&change) {
                    println!("skipped: this kernel has no flowtables");
                    continue;
                }
                nft(&change);
                assert_ne!(host.differences(), "", "{change}: not seen");
                host.restore();
                assert_eq!(listed(), before, "{change}");
                assert_eq!(host.differences(), "", "{change}");
            }
            let spoofed = udp(ip(FOREIGN_IP, PEER_IP), 1000, 2000);
            assert!(!host.network.passes(Way::FromGuest, spoofed));
            assert!(host.network.passes(Way::FromGuest, udp(ip(GUEST_IP, PEER_IP), 1000, 2000)));
        });
    }
}

/// A rule of ours as the kernel holds it, with its notes, in which only the verdict is another.
// P-13
#[test]
fn a_digest_on_a_rule_proves_nothing() {
    in_fresh_netns(|| {
        let host = Host::new(64);
        let before = listed();
        let name = "drop-iif";
        let Chain { rules, .. } = &*host.wanted.tables[&Family::Bridge].chains[name];
        assert_eq!(rules.last().unwrap().action, Action::Drop);
        let step = |change| Step { family: Family::Bridge, change };
        let add = rules.iter().map(|rule| step(TableOperation::AddRule(name.into(), rule.clone())));
        let steps: Vec<Step> =
            std::iter::once(step(TableOperation::FlushChain(name.into()))).chain(add).collect();
        let sealed = encode(&steps, |_| Ownership::Shared).unwrap().seal();
        let mut batch: Vec<u8> = sealed.pages().flatten().copied().collect();
        // The code of a verdict: an attribute of eight bytes, kind 1, 0 for drop, 1 for accept.
        let verdict = [12, 0, 2, 0x80, 8, 0, 1, 0, 0, 0, 0, 0];
        let at = batch.windows(verdict.len()).rposition(|bytes| bytes == verdict).expect("a rule that drops");
        batch[at + verdict.len() - 1] = 1;
        let socket = mnl::Socket::new(mnl::Bus::Netfilter).unwrap();
        socket.send(&batch[..]).unwrap();
        assert!(
            listed().iter().any(|(chain, rules)| chain.contains(name) && rules.contains(&"accept".into()))
        );
        assert_ne!(host.differences(), "");
        host.restore();
        assert_eq!(listed(), before);
    });
}
