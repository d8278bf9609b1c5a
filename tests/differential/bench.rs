//! The judges: two programs of one filter, each with an evaluator and the kernel.

use crate::lab::{Network, Way};
use nwfilter::document::catalog::Library;
use nwfilter::document::filter::{Filter, read::read};
use nwfilter::document::span::Source;
use nwfilter::document::vars::Vars;
use nwfilter::kernel::apply::Kernel;
use nwfilter::program::compile::{Capabilities, HostToGuest, Options};
use nwfilter::program::eval::{self, End, Frame, Port};
use nwfilter::program::ir::text::RuleText;
use nwfilter::program::ir::{Family, Ruleset};
use nwfilter::ruleset::firewall::{Attachment, BoundInterface, BridgePort, Firewall, Policy, Rules};
use nwfilter::ruleset::layout::TrafficCounting;
use nwfilter::ruleset::nft::Ownership;
use nwfilter::ruleset::plan::plan;
use std::sync::Arc;

/// Filters, the first of them bound, and what it is bound with.
#[derive(Clone, Debug)]
pub struct Subject {
    pub texts: Vec<String>,
    pub vars: Vars,
    pub counters: bool,
}

impl Subject {
    pub fn of(texts: &[String], vars: &Vars) -> Subject {
        Subject { texts: texts.to_vec(), vars: vars.clone(), counters: false }
    }

    /// The filters, each document under the name of its filter.
    pub fn library(&self) -> Library {
        let mut library = Library::default();
        for (number, text) in self.texts.iter().enumerate() {
            library.add(&Source::new(format!("f{number}"), text.as_str()));
        }
        library
    }

    fn filters(&self) -> Option<Vec<Arc<Filter>>> {
        self.texts
            .iter()
            .map(|text| Some(Arc::new(read(&Source::new("f.xml", text.as_str())).ok()?.0)))
            .collect()
    }
}

/// Whether the product takes this filter with these variables, in either layout.
pub fn accepts(text: &str, vars: &Vars) -> bool {
    let Ok((filter, _)) = read(&Source::new("f.xml", text)) else { return false };
    let mut inner = vars.clone();
    inner.push("INNER", "10.0.0.1");
    let compile = Options { features: Capabilities::ALL, counters: false, host_to_guest: HostToGuest::Pass };
    let firewall = Firewall::new(Policy { fold_up_to: 0, compile, placement: Default::default() })
        .define([Arc::new(filter)]);
    firewall.is_ok_and(|firewall| {
        firewall.check("f", &inner, &[nwfilter::program::compile::AttachPoint::Bridge]).is_ok()
    })
}

/// A guest, a peer, and the kernel between.
pub struct Bench {
    network: Network,
    kernel: Kernel,
    in_force: Ruleset,
}

/// What all judges said: whether the frame passes.
#[derive(Debug, Default)]
pub struct Opinion {
    /// Constants, slots.
    evaluated: [bool; 2],
    seen: [bool; 2],
}

impl Opinion {
    /// Whether the evaluator says of each layout what the kernel does, and both layouts the same. Of a frame that is
    /// cut off inside of an address they may say different things: a constant prefix is a shorter load.
    pub fn agree(&self, frame: &[u8]) -> bool {
        self.evaluated == self.seen && (self.layouts_agree() || is_cut_in_address(frame))
    }

    pub fn layouts_agree(&self) -> bool {
        self.seen[0] == self.seen[1]
    }

    pub fn all_pass(&self) -> bool {
        self.evaluated[0] && self.evaluated[1] && self.seen[0] && self.seen[1]
    }
}

/// No station takes such a frame for a packet.
fn is_cut_in_address(frame: &[u8]) -> bool {
    let tagged = matches!(frame[12..14], [0x81, 0] | [0x88, 0xa8]);
    let network = if tagged { 18 } else { 14 };
    let Some(kind) = frame.get(network - 2..network) else { return false };
    let length = match kind {
        [8, 0] => 20,
        [0x86, 0xdd] => 40,
        [8, 6] | [0x80, 0x35] => 28,
        _ => 0,
    };
    frame.len() < network + length
}

impl Bench {
    pub fn new() -> Bench {
        let kernel = Kernel::open(Ownership::Shared).expect("root may open netfilter");
        Bench { network: Network::new(), kernel, in_force: Ruleset::default() }
    }

    /// What the judges say of each frame; none where the product refuses the subject.
    pub fn ask(&mut self, subject: &Subject, frames: &[(Way, Vec<u8>)]) -> Option<Vec<Opinion>> {
        let rulesets = [self.ruleset(subject, 64)?, self.ruleset(subject, 0)?];
        let mut opinions: Vec<Opinion> = frames.iter().map(|_| Opinion::default()).collect();
        for (layout, ruleset) in rulesets.iter().enumerate() {
            let rules = eval::Evaluator::of_table(Family::Bridge, &ruleset.tables[&Family::Bridge]);
            self.enforce(ruleset, subject);
            for ((way, bytes), opinion) in frames.iter().zip(&mut opinions) {
                let path = self.walk(&rules, *way, bytes);
                opinion.evaluated[layout] =
                    !path.iter().any(|end| matches!(end, Some(End::Drop | End::Reject)));
                opinion.seen[layout] = self.network.passes(*way, &bytes[..]);
            }
        }
        Some(opinions)
    }

    /// The verdicts at both hooks.
    fn walk(&self, rules: &eval::Evaluator<'_>, way: Way, bytes: &[u8]) -> [Option<End>; 2] {
        ["prerouting", "postrouting"].map(|chain| rules.judge(chain, self.frame(way, bytes)))
    }

    fn frame<'a>(&self, way: Way, bytes: &'a [u8]) -> Frame<'a> {
        let guest = Port { index: self.network.guest.link.index(), name: "vnet0" };
        let peer = Port { index: self.network.peer.link.index(), name: "peer0" };
        let (iif, oif) = if way == Way::FromGuest { (guest, peer) } else { (peer, guest) };
        Frame { bytes, iif, oif, bridge: "br0", ..Frame::default() }
    }

    fn enforce(&mut self, ruleset: &Ruleset, subject: &Subject) {
        if let Err(refused) = self.kernel.apply(plan(&self.in_force, ruleset)) {
            panic!("the kernel refuses: {refused}\n{subject:?}");
        }
        self.in_force = ruleset.clone();
    }

    /// Everything about a disagreement.
    pub fn tell(&self, subject: &Subject, opinion: &Opinion, way: Way, bytes: &[u8]) -> String {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut reported =
            format!("{opinion:?} {way:?} {hex}\n{}\n{:?}\n", subject.texts.join("\n"), subject.vars.0);
        for fold_up_to in [64, 0] {
            let Some(ruleset) = self.ruleset(subject, fold_up_to) else { continue };
            let rules = eval::Evaluator::of_table(Family::Bridge, &ruleset.tables[&Family::Bridge]);
            for chain in ["prerouting", "postrouting"] {
                for step in rules.trace(chain, self.frame(way, bytes)).path {
                    let text = RuleText(Family::Bridge, step.rule);
                    let failed = step.failed.map_or("matches".into(), |at| format!("fails at {at}"));
                    reported.push_str(&format!("  {}: {text}: {failed}\n", step.chain));
                }
            }
        }
        reported
    }

    fn ruleset(&self, subject: &Subject, fold_up_to: usize) -> Option<Ruleset> {
        let compile = Options {
            features: self.kernel.features().into(),
            counters: subject.counters,
            host_to_guest: HostToGuest::Pass,
        };
        let (link, name) = (self.network.guest.link, self.network.guest.link.name());
        let bridge = BridgePort {
            index: self.network.bridge.link.index(),
            name: "br0".into(),
            host: None,
            port: "vnet0".into(),
        };
        let rules = Rules::Filter("f0".into());
        let member = BoundInterface {
            index: link.index(),
            name,
            place: Attachment::Bridge(Some(bridge)),
            rules,
            vars: subject.vars.clone(),
        };
        let firewall = Firewall::new(Policy { fold_up_to, compile, placement: Default::default() });
        let firewall = firewall.counting_traffic(if subject.counters {
            TrafficCounting::On
        } else {
            TrafficCounting::Off
        });
        Some(firewall.define(subject.filters()?).ok()?.bind(member).ok()?.ruleset())
    }
}
