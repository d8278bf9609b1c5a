//! A host with bridges, guests' taps and peers' taps, and the firewall that has them in force.
//!
//! Every change goes the way of the product: the next firewall, the plan, the batches.

use crate::lab::frames::{FOREIGN_IP, FOREIGN_MAC, GUEST_IP, GUEST_MAC, Mac as Mac6, PEER_IP, PEER_MAC};
use crate::lab::{Bridge, Link, Tap, Verdict, in_fresh_netns, sysctl, verdict};
use crate::tool::InTime;
use nwfilter::document::catalog::Library;
use nwfilter::document::filter::Filter;
use nwfilter::document::filter::read::read;
use nwfilter::document::mac::Mac;
use nwfilter::document::span::Source;
use nwfilter::document::vars::Vars;
use nwfilter::kernel::apply::Kernel;
use nwfilter::program::compile::{HostToGuest, Options};
use nwfilter::program::ir::Ruleset;
use nwfilter::ruleset::counters::dropped;
use nwfilter::ruleset::firewall::{Attachment, BoundInterface, BridgePort, Firewall, Policy, Rules};
use nwfilter::ruleset::from_kernel::recall;
use nwfilter::ruleset::nft::{Ownership, probe::Features};
use nwfilter::ruleset::plan::plan;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, RwLock};

/// Drops whatever the rules before it did not accept.
pub const REST: &str = "<rule action='drop' direction='inout' priority='900'><all/></rule>
    <rule action='drop' direction='inout' priority='900'><all-ipv6/></rule>";

/// Conntrack's limit is one for all namespaces: who changes it is alone.
pub static LIMIT: RwLock<()> = RwLock::new(());

/// What the kernel enforces.
pub struct Host {
    firewall: Firewall,
    in_force: Ruleset,
    kernel: Kernel,
}

/// A guest and its peer, and what is between them.
pub struct Segment {
    pub site: Site,
    pub guest: Tap,
    pub peer: Tap,
}

/// What is between a guest and its peer.
pub enum Site {
    /// A bridge of this name.
    Bridge(Bridge, String),
    /// The host, which routes. Its end of the guest's wire has the peer's MAC address and that of the peer's the guest's:
    /// so a frame that is routed on differs from itself in its time to live alone.
    Routed,
}

impl Site {
    fn place(&self, port: Link) -> Attachment {
        match self {
            Site::Bridge(bridge, name) => {
                let host = Some(Mac(Bridge::MAC));
                Attachment::Bridge(Some(BridgePort {
                    index: bridge.link.index(),
                    name: name.clone(),
                    host,
                    port: port.name(),
                }))
            }
            Site::Routed => Attachment::Routed { name: port.name() },
        }
    }
}

impl AsRef<Site> for Segment {
    fn as_ref(&self) -> &Site {
        &self.site
    }
}

/// A place for segments, none of which is there yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Bridged,
    Routed,
}

/// Runs on bridges with constants and then with slots, each in a namespace of its own.
pub fn in_both_styles(work: impl Fn(Host) + Send + Sync) {
    in_all_styles(&[Kind::Bridged], HostToGuest::Pass, |host, _| work(host));
}

/// Runs on a bridge and on routed taps, with constants and then with slots, each in a namespace of its own; not where
/// the kernel tracks no connections.
pub fn everywhere(work: impl Fn(Host, Kind) + Send + Sync) {
    everywhere_with(HostToGuest::Pass, work);
}

/// As [`everywhere`], with what the host itself sends judged so.
pub fn everywhere_with(host_to_guest: HostToGuest, work: impl Fn(Host, Kind) + Send + Sync) {
    in_all_styles(&[Kind::Bridged, Kind::Routed], host_to_guest, work);
}

/// As [`everywhere`], on routed taps only.
pub fn routed(work: impl Fn(Host) + Send + Sync) {
    in_all_styles(&[Kind::Routed], HostToGuest::Pass, |host, _| work(host));
}

fn in_all_styles(kinds: &[Kind], host_to_guest: HostToGuest, work: impl Fn(Host, Kind) + Send + Sync) {
    let _shared = LIMIT.read().unwrap_or_else(|poisoned| poisoned.into_inner());
    for kind in kinds {
        for fold_up_to in [64, 0] {
            in_fresh_netns(|| run(*kind, fold_up_to, host_to_guest, |host| work(host, *kind)));
        }
    }
}

/// As [`in_both_styles`], with constants only and with no other guest.
pub fn alone(work: impl FnOnce(Host) + Send) {
    let _exclusive = LIMIT.write().unwrap_or_else(|poisoned| poisoned.into_inner());
    in_fresh_netns(|| run(Kind::Bridged, 64, HostToGuest::Pass, work));
}

fn run(kind: Kind, fold_up_to: usize, host_to_guest: HostToGuest, work: impl FnOnce(Host)) {
    let kernel = Kernel::open(Ownership::OwnedAndKept).expect("root may open netfilter");
    let found = kernel.features();
    if !is_complete(kind, &found) {
        assert!(
            std::env::var_os("NWFILTER_KERNEL_IS_COMPLETE").is_none(),
            "the kernel lacks what it should have: {found:?}"
        );
        println!("skipped: {kind:?} interfaces of this kernel have no conntrack");
        return;
    }
    let compile = Options { features: found.into(), counters: false, host_to_guest };
    let firewall = Firewall::new(Policy { fold_up_to, compile, placement: Default::default() });
    let mut host = Host { firewall, in_force: Ruleset::default(), kernel };
    host.enforce(host.firewall.define(Library::standard().filters.into_values()).unwrap());
    work(host);
}

fn is_complete(kind: Kind, found: &Features) -> bool {
    let needed = match kind {
        Kind::Bridged => {
            vec![found.bridge_ct, found.bridge_reject, found.bridge_meta, found.connlimit, found.zones]
        }
        Kind::Routed => vec![found.inet_ct, found.inet_reject, found.inet_connlimit, found.netdev_egress],
    };
    needed.iter().all(|feature| feature.is_yes())
}

impl Host {
    /// Binds the tap to a filter of these rules, with everything else dropped.
    pub fn bind(&mut self, site: &impl AsRef<Site>, tap: &Tap, rules: &str) {
        let name = format!("{}-rules", tap.link.name());
        self.bind_document(
            site,
            tap.link,
            &format!("<filter name='{name}' chain='root'>{rules}{REST}</filter>"),
            &[],
        );
    }

    /// Binds a port to the filter of a document, defined on the way.
    pub fn bind_document(
        &mut self,
        site: &impl AsRef<Site>,
        port: Link,
        document: &str,
        vars: &[(&str, &str)],
    ) {
        let filter = filter(document);
        let name = filter.name.clone();
        self.firewall = self.firewall.unbind(port.index());
        self.enforce(self.firewall.define([filter]).expect("the filter is right"));
        self.bind_to(site, port, &name, vars);
    }

    /// Gives a filter that is defined other rules.
    pub fn redefine(&mut self, document: &str) {
        self.enforce(self.firewall.define([filter(document)]).expect("the filter is right"));
    }

    /// Binds a port to a filter that is defined.
    pub fn bind_to(&mut self, site: &impl AsRef<Site>, port: Link, filter: &str, vars: &[(&str, &str)]) {
        let member = member(site, port, filter, vars);
        self.enforce(self.firewall.bind(member).expect("the filter compiles"));
    }

    /// What the kernel can do.
    pub fn features(&self) -> Features {
        self.kernel.features()
    }

    /// How many frames and packets of this port rules have dropped.
    pub fn dropped(&self, port: Link) -> u64 {
        let seen = self.kernel.observe().expect("the kernel tells");
        dropped(&seen).remove(&port.index()).unwrap_or_default().iter().map(|rule| rule.count.frames).sum()
    }

    /// Blocks links of this name until they are bound.
    pub fn reserve(&mut self, name: &str) {
        self.enforce(self.firewall.reserve(name));
    }

    /// Lets an interface be.
    pub fn unbind(&mut self, port: Link) {
        self.enforce(self.firewall.unbind(port.index()));
    }

    fn enforce(&mut self, next: Firewall) {
        let ruleset = next.ruleset();
        let applied = self.kernel.apply(plan(&self.in_force, &ruleset)).unwrap_or_else(|why| panic!("{why}"));
        assert_eq!(applied.retire_failures, [], "everything that was replaced is gone");
        let seen = recall(&self.kernel.observe().expect("the kernel tells"), &ruleset);
        assert!(plan(&seen, &ruleset).is_empty(), "what is in force is what was asked for");
        self.in_force = ruleset;
        self.firewall = next;
    }
}

impl Segment {
    /// A bridge `br<name>` with `vm<name>` and `net<name>`, all up.
    pub fn new(name: &str) -> Segment {
        let bridge_name = format!("br{name}");
        let bridge = Bridge::new(&bridge_name);
        let [guest, peer] = ["vm", "net"].map(|kind| port(&bridge, &format!("{kind}{name}")));
        bridge.link.up();
        Segment { site: Site::Bridge(bridge, bridge_name), guest, peer }
    }

    /// `vm0` and `net0`, on a bridge or with the host between them.
    pub fn of(kind: Kind) -> Segment {
        match kind {
            Kind::Bridged => Segment::new("0"),
            Kind::Routed => Segment::routed(),
        }
    }

    fn routed() -> Segment {
        route();
        let guest = wire("vm0", PEER_MAC, GUEST_MAC, &[GUEST_IP, "2001:db8::1"]);
        let peer = wire("net0", GUEST_MAC, PEER_MAC, &[PEER_IP, "2001:db8::2"]);
        // A station that answers a guest needs an address of its own.
        tool("ip", "addr add 192.0.2.1/32 dev lo");
        tool("ip", "addr add 2001:db8:ffff::1/128 dev lo nodad");
        Segment { site: Site::Routed, guest, peer }
    }

    /// Another guest: on a bridge, or routed to with the third station's address.
    pub fn add(&self, name: &str) -> Tap {
        match &self.site {
            Site::Bridge(bridge, _) => port(bridge, name),
            Site::Routed => wire(name, PEER_MAC, FOREIGN_MAC, &[FOREIGN_IP]),
        }
    }

    /// The verdict on a frame from one tap to another.
    pub fn verdict(&self, sender: &Tap, receiver: &Tap, frame: &[u8]) -> Verdict {
        match self.site {
            Site::Bridge(..) => verdict(sender, receiver, frame),
            Site::Routed => routed_verdict(sender, receiver, frame),
        }
    }

    /// What becomes of a frame from the guest.
    pub fn out(&self, frame: impl Into<Vec<u8>>) -> Verdict {
        self.verdict(&self.guest, &self.peer, &frame.into())
    }

    /// What becomes of a frame to the guest.
    pub fn inward(&self, frame: impl Into<Vec<u8>>) -> Verdict {
        self.verdict(&self.peer, &self.guest, &frame.into())
    }

    #[track_caller]
    pub fn lets_out(&self, what: &str, frame: impl Into<Vec<u8>>) {
        assert_eq!(self.out(frame), Verdict::Accept, "{what}, from the guest");
    }

    #[track_caller]
    pub fn lets_in(&self, what: &str, frame: impl Into<Vec<u8>>) {
        assert_eq!(self.inward(frame), Verdict::Accept, "{what}, to the guest");
    }

    #[track_caller]
    pub fn stops_out(&self, what: &str, frame: impl Into<Vec<u8>>) {
        assert_eq!(self.out(frame), Verdict::Drop, "{what}, from the guest");
    }

    #[track_caller]
    pub fn stops_in(&self, what: &str, frame: impl Into<Vec<u8>>) {
        assert_eq!(self.inward(frame), Verdict::Drop, "{what}, to the guest");
    }
}

/// Connections that conntrack knows in this namespace.
pub fn connections() -> usize {
    let text =
        std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count").expect("conntrack is loaded");
    text.trim().parse().expect("a number")
}

/// Has the host route what it is sent, and answer as often as it is asked.
fn route() {
    let on = [
        ("ipv6/conf/all/disable_ipv6", "0"),
        ("ipv6/conf/default/disable_ipv6", "0"),
        ("ipv6/conf/default/addr_gen_mode", "1"),
        ("ipv6/conf/all/forwarding", "1"),
        ("ipv4/ip_forward", "1"),
        ("ipv4/icmp_ratelimit", "0"),
        ("ipv6/icmp/ratelimit", "0"),
    ];
    on.iter().for_each(|(name, value)| sysctl(name, value).unwrap());
    Link::named("lo").up();
}

/// A tap of the host's with this MAC address, and a station with another and these addresses at its end.
fn wire(name: &str, own: Mac6, other: Mac6, addresses: &[&str]) -> Tap {
    let tap = Tap::new(name);
    tap.link.set_mac(own);
    tap.link.up();
    let mac = other.map(|byte| format!("{byte:02x}")).join(":");
    for address in addresses {
        tool("ip", &format!("route add {address} dev {name}"));
        tool("ip", &format!("neigh add {address} lladdr {mac} dev {name}"));
    }
    tap
}

/// What arrives without what the host itself has to say to everybody.
pub fn heard(tap: &Tap) -> Vec<Vec<u8>> {
    tap.drain().into_iter().filter(|frame| frame[..2] != [0x33, 0x33]).collect()
}

fn routed_verdict(sender: &Tap, receiver: &Tap, frame: &[u8]) -> Verdict {
    drop((sender.drain(), receiver.drain()));
    sender.send(frame).unwrap_or_else(|why| panic!("{why}: the tap refuses {frame:02x?}"));
    let (mut arrived, mut answers) = (heard(receiver), heard(sender));
    match (arrived.pop(), answers.pop()) {
        (None, None) => Verdict::Drop,
        (None, Some(answer)) if answers.is_empty() => Verdict::Reject(answer),
        (Some(same), None) if same == forwarded(frame) && arrived.is_empty() => Verdict::Accept,
        strange => panic!("sent {frame:02x?}; arrived and answered: {strange:02x?}"),
    }
}

/// The frame with a hop less to live.
fn forwarded(frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    match frame[12..14] {
        [0x08, 0x00] => {
            frame[14 + 8] -= 1;
            let sum = u16::from_be_bytes([frame[24], frame[25]]);
            let (sum, over) = sum.overflowing_add(0x100);
            frame[24..26].copy_from_slice(&(sum + u16::from(over)).to_be_bytes());
        }
        [0x86, 0xdd] => frame[14 + 7] -= 1,
        _ => {}
    }
    frame
}

/// Runs a tool of the host's.
pub fn tool(program: &str, arguments: &str) {
    let done =
        Command::new(program).args(arguments.split(' ')).stdin(Stdio::null()).output_in_time().unwrap();
    assert!(done.status.success(), "{program} {arguments}: {}", String::from_utf8_lossy(&done.stderr));
}

fn port(bridge: &Bridge, name: &str) -> Tap {
    let tap = Tap::new(name);
    bridge.add(tap.link);
    tap.link.up();
    tap
}

/// The filter of a document.
fn filter(document: &str) -> Arc<Filter> {
    let read = read(&Source::new("test.xml", document));
    Arc::new(read.unwrap_or_else(|faults| panic!("{document}: {faults:?}")).0)
}

/// A filter of the golden cases.
pub fn golden(name: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/{name}.xml"));
    std::fs::read_to_string(file).expect("the golden case is there")
}

fn member(site: &impl AsRef<Site>, port: Link, filter: &str, vars: &[(&str, &str)]) -> BoundInterface {
    let mut all = Vars::default();
    vars.iter().for_each(|(name, value)| all.push(*name, *value));
    let rules = Rules::Filter(filter.into());
    BoundInterface {
        index: port.index(),
        name: port.name(),
        place: site.as_ref().place(port),
        rules,
        vars: all,
    }
}
