//! A host that enforces filters: the lab's network, the firewall's value, and the kernel that has it in force.
//!
//! Every change goes the way of the product: the next firewall, the plan, the batches.

use crate::lab::{Network, Tap};
use nwfilter::document::catalog::Library;
use nwfilter::document::filter::Filter;
use nwfilter::document::filter::read::read;
use nwfilter::document::span::Source;
use nwfilter::document::vars::Vars;
use nwfilter::kernel::apply::{self, Kernel};
use nwfilter::program::compile::{HostToGuest, Options};
use nwfilter::program::ir::Ruleset;
use nwfilter::program::ir::observed::Observed;
use nwfilter::ruleset::firewall::{self, Attachment, BoundInterface, BridgePort, Firewall, Policy, Rules};
use nwfilter::ruleset::nft::Ownership;
use nwfilter::ruleset::plan::plan;
use std::sync::Arc;

/// How programs are made, with constants or with slots from the first member on, and at which hooks they sit: the
/// bridge's or the guest's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    Folded,
    Slots,
    FoldedAtDevice,
    SlotsAtDevice,
}

/// All of them.
pub const STYLES: [Style; 4] = [Style::Folded, Style::Slots, Style::FoldedAtDevice, Style::SlotsAtDevice];

impl Style {
    /// Whether the guest's own hooks are used.
    pub fn is_at_device(self) -> bool {
        matches!(self, Style::FoldedAtDevice | Style::SlotsAtDevice)
    }
}

/// A network and what filters it.
pub struct Host {
    pub network: Network,
    pub firewall: Firewall,
    at_device: bool,
    in_force: Ruleset,
    kernel: Kernel,
}

/// Why a change did not come to be.
#[derive(Debug)]
pub enum Refusal {
    Firewall(firewall::Refused),
    Kernel(apply::Refused),
}

impl Host {
    /// The network, the standard filters, nothing bound.
    pub fn new(style: Style) -> Host {
        let kernel = Kernel::open(Ownership::OwnedAndKept).expect("root may open netfilter");
        let at_device = style.is_at_device();
        let fold_up_to = if matches!(style, Style::Folded | Style::FoldedAtDevice) { 64 } else { 0 };
        let compile =
            Options { features: kernel.features().into(), counters: false, host_to_guest: HostToGuest::Pass };
        let firewall = Firewall::new(Policy { fold_up_to, compile, placement: Default::default() });
        let firewall = firewall.with_hooks(kernel.features().hook_lifetime());
        let mut host =
            Host { network: Network::new(), firewall, at_device, in_force: Ruleset::default(), kernel };
        let standard = Library::standard().filters.into_values();
        host.enforce(host.firewall.define(standard).unwrap()).unwrap();
        host
    }

    /// Defines filters, or redefines them.
    pub fn define(&mut self, documents: &[&str]) -> Result<(), Refusal> {
        let next = self.firewall.define(documents.iter().map(|text| filter(text)));
        self.enforce(next.map_err(Refusal::Firewall)?)
    }

    /// Binds a tap.
    pub fn bind(&mut self, tap: &Tap, filter: &str, vars: &[(&str, &str)]) -> Result<(), Refusal> {
        let next = self.firewall.bind(self.member(tap, filter, vars));
        self.enforce(next.map_err(Refusal::Firewall)?)
    }

    /// Binds the guest's tap.
    pub fn bind_guest(&mut self, filter: &str, vars: &[(&str, &str)]) -> Result<(), Refusal> {
        let next = self.firewall.bind(self.member(&self.network.guest, filter, vars));
        self.enforce(next.map_err(Refusal::Firewall)?)
    }

    /// Binds the guest's tap to a new meaning of a filter that no other guest uses, all in one change.
    pub fn rebind_guest(&mut self, document: &str, vars: &[(&str, &str)]) -> Result<(), Refusal> {
        let filter = filter(document);
        let member = self.member(&self.network.guest, &filter.name, vars);
        let next = self.firewall.unbind(member.index).define([filter]).and_then(|next| next.bind(member));
        self.enforce(next.map_err(Refusal::Firewall)?)
    }

    fn member(&self, tap: &Tap, filter: &str, vars: &[(&str, &str)]) -> BoundInterface {
        let mut all = Vars::default();
        vars.iter().for_each(|(name, value)| all.push(*name, *value));
        let (index, name) = (tap.link.index(), tap.link.name());
        let bridge = BridgePort {
            index: self.network.bridge.link.index(),
            name: "br0".into(),
            host: None,
            port: "vnet0".into(),
        };
        let place = match self.at_device {
            true => Attachment::Port { name: name.clone(), bridge },
            false => Attachment::Bridge(None),
        };
        BoundInterface { index, name, place, rules: Rules::Filter(filter.into()), vars: all }
    }

    /// What the kernel has.
    #[allow(dead_code, reason = "some tests only look at frames")]
    pub fn observe(&self) -> Observed {
        self.kernel.observe().expect("tables can be read")
    }

    /// Makes the kernel enforce this firewall.
    pub fn enforce(&mut self, next: Firewall) -> Result<(), Refusal> {
        let ruleset = next.ruleset();
        let applied = self.kernel.apply(plan(&self.in_force, &ruleset)).map_err(Refusal::Kernel)?;
        assert_eq!(applied.retire_failures, [], "everything that was replaced is gone");
        self.in_force = ruleset;
        self.firewall = next;
        Ok(())
    }
}

/// The filter of a document.
pub fn filter(document: &str) -> Arc<Filter> {
    let read = read(&Source::new("test.xml", document));
    Arc::new(read.unwrap_or_else(|faults| panic!("{document}: {faults:?}")).0)
}
