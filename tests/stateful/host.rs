//! A host with bridges, guests' taps and peers' taps, and the firewall that has them in force.
//!
//! Every change goes the way of the product: the next firewall, the plan, the batches.

use crate::lab::{Bridge, Link, Tap, Verdict, in_fresh_netns, verdict};
use nwfilter::addr::Mac;
use nwfilter::apply::Kernel;
use nwfilter::compile::Options;
use nwfilter::filter::Filter;
use nwfilter::filter::read::read;
use nwfilter::firewall::{BridgePort, Firewall, Member, Place, Policy, Rules};
use nwfilter::ir::Ruleset;
use nwfilter::library::Library;
use nwfilter::nft::{Ownership, probe::Features};
use nwfilter::plan::plan;
use nwfilter::span::Source;
use nwfilter::vars::Vars;
use std::path::Path;
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

/// A bridge, its guest and its peer.
pub struct Segment {
    pub bridge: Bridge,
    pub name: String,
    pub guest: Tap,
    pub peer: Tap,
}

/// Runs with constants and then with slots, each in a namespace of its own; not at all where bridges have no conntrack.
pub fn in_both_styles(work: impl Fn(Host) + Send + Sync) {
    let _shared = LIMIT.read().unwrap_or_else(|poisoned| poisoned.into_inner());
    for fold_up_to in [64, 0] {
        in_fresh_netns(|| run(fold_up_to, &work));
    }
}

/// As [`in_both_styles`], with constants only and with nobody else about.
pub fn alone(work: impl FnOnce(Host) + Send) {
    let _exclusive = LIMIT.write().unwrap_or_else(|poisoned| poisoned.into_inner());
    in_fresh_netns(|| run(64, work));
}

fn run(fold_up_to: usize, work: impl FnOnce(Host)) {
    let kernel = Kernel::open(Ownership::OwnedAndKept).expect("root may open netfilter");
    let found = kernel.features();
    if !is_complete(&found) {
        assert!(
            std::env::var_os("NWFILTER_KERNEL_IS_COMPLETE").is_none(),
            "the kernel lacks what it should have: {found:?}"
        );
        println!("skipped: bridges of this kernel have no conntrack");
        return;
    }
    let compile = Options { features: found.into(), counters: false };
    let firewall = Firewall::new(Policy { fold_up_to, compile });
    let mut host = Host { firewall, in_force: Ruleset::default(), kernel };
    host.enforce(host.firewall.define(Library::standard().filters.into_values()).unwrap());
    work(host);
}

fn is_complete(found: &Features) -> bool {
    [found.bridge_ct, found.bridge_reject, found.bridge_meta, found.connlimit, found.zones]
        .iter()
        .all(|feature| feature.is_yes())
}

impl Host {
    /// Binds the tap to a filter of these rules, with everything else dropped.
    pub fn bind(&mut self, segment: &Segment, tap: &Tap, rules: &str) {
        let name = format!("{}-rules", tap.link.name());
        self.bind_document(
            segment,
            tap.link,
            &format!("<filter name='{name}' chain='root'>{rules}{REST}</filter>"),
            &[],
        );
    }

    /// Binds a port to the filter of a document, defined on the way.
    pub fn bind_document(&mut self, segment: &Segment, port: Link, document: &str, vars: &[(&str, &str)]) {
        let filter = filter(document);
        let name = filter.name.clone();
        self.firewall = self.firewall.unbind(port.index());
        self.enforce(self.firewall.define([filter]).expect("the filter is right"));
        self.bind_to(segment, port, &name, vars);
    }

    /// Binds a port to a filter that is defined.
    pub fn bind_to(&mut self, segment: &Segment, port: Link, filter: &str, vars: &[(&str, &str)]) {
        let member = member(segment, port, filter, vars);
        self.enforce(self.firewall.bind(member).expect("the filter compiles"));
    }

    fn enforce(&mut self, next: Firewall) {
        let ruleset = next.ruleset();
        let applied = self.kernel.apply(plan(&self.in_force, &ruleset)).unwrap_or_else(|why| panic!("{why}"));
        assert_eq!(applied.litter, [], "everything that was replaced is gone");
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
        Segment { bridge, name: bridge_name, guest, peer }
    }

    /// Another guest.
    pub fn add(&self, name: &str) -> Tap {
        port(&self.bridge, name)
    }

    /// What becomes of a frame from the guest.
    pub fn out(&self, frame: impl Into<Vec<u8>>) -> Verdict {
        verdict(&self.guest, &self.peer, &frame.into())
    }

    /// What becomes of a frame to the guest.
    pub fn inward(&self, frame: impl Into<Vec<u8>>) -> Verdict {
        verdict(&self.peer, &self.guest, &frame.into())
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

fn member(segment: &Segment, port: Link, filter: &str, vars: &[(&str, &str)]) -> Member {
    let mut all = Vars::default();
    vars.iter().for_each(|(name, value)| all.push(*name, *value));
    let host = Some(Mac(Bridge::MAC));
    let bridge = BridgePort { index: segment.bridge.link.index(), name: segment.name.clone(), host };
    let rules = Rules::Filter(filter.into());
    Member { index: port.index(), name: port.name(), place: Place::Bridge(Some(bridge)), rules, vars: all }
}
