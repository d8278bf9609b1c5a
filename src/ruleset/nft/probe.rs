//! What the running kernel can do, found out by a transaction that is always aborted.
//!
//! All probes go in one batch, into scratch tables of their own name, followed by a message that no kernel can
//! accept: nothing is ever committed. The kernel answers for every message it dislikes, and so:
//!
//! | the probe's messages | the answer is |
//! | --- | --- |
//! | none refused | yes |
//! | one refused as unknown or unsupported | no |
//! | one refused otherwise (no memory, no right) | inconclusive |
//!
//! A refused scratch table answers all questions of its family in the same way.

use super::object::Encoder;
use super::reply::Refusal;
use super::{Encoded, uapi};
use crate::document::field::Field;
use crate::program::compile::Capabilities;
use crate::program::compile::{AttachPoint, PacketCapabilities};
use crate::program::ir::SetType;
use crate::program::ir::{
    Action, Family, Hook, HookPoint, Key, KeySource, KeyType, Match, Name, Reject, Rule, ValueType,
};
use crate::ruleset::firewall::HookLifetime;
use crate::ruleset::plan::{Step, TableOperation};
use std::fmt::{self, Display, Formatter};

/// What the kernel can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Features {
    /// Connection state in the bridge family (`CONFIG_NF_CONNTRACK_BRIDGE`).
    pub bridge_ct: Support,
    /// Reject in the bridge family, at prerouting and input (`CONFIG_NFT_BRIDGE_REJECT`).
    pub bridge_reject: Support,
    /// The name of the bridge (`CONFIG_NFT_BRIDGE_META`).
    pub bridge_meta: Support,
    /// Connections counted in a set, in the bridge family (`CONFIG_NFT_CONNLIMIT`).
    pub connlimit: Support,
    /// Conntrack zones set by rules (`CONFIG_NF_CONNTRACK_ZONES`).
    pub zones: Support,
    /// Two fields compared with each other (6.13). nft 1.0.6 aborts when it is to list such a rule.
    pub xor_registers: Support,
    /// TCP options.
    pub tcp_option: Support,
    /// Tables that are ours alone and stay when we go (6.9).
    pub owner_persist: Support,
    /// Frames to one device (`CONFIG_NETFILTER_EGRESS`).
    pub netdev_egress: Support,
    /// Hooks of a device that is not there (6.16): there a hook goes by the name of its device and outlives it.
    pub lasting_hooks: Support,
    /// Rules in the inet family.
    pub inet: Support,
    /// Connection state in the inet family.
    pub inet_ct: Support,
    /// Reject in the inet family, at prerouting (5.9).
    pub inet_reject: Support,
    /// Connections counted in a set, in the inet family.
    pub inet_connlimit: Support,
}

/// The answer to one question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Support {
    /// The kernel took it.
    Yes,
    /// The kernel does not know it.
    No,
    /// The kernel refused for another reason.
    #[default]
    Inconclusive,
}

impl Features {
    /// How long a device's own hooks stay.
    pub fn hook_lifetime(&self) -> HookLifetime {
        if self.lasting_hooks.is_yes() { HookLifetime::Lasting } else { HookLifetime::Device }
    }
}

impl From<Features> for Capabilities {
    fn from(found: Features) -> Capabilities {
        Capabilities {
            xor_registers: found.xor_registers.is_yes(),
            reject: found.bridge_reject.is_yes(),
            // Where the answer is not known, the kernel's own refusal is one.
            state: found.bridge_ct != Support::No,
            limit: found.connlimit != Support::No,
            hooks: AttachPoint::Bridge,
            packets: PacketCapabilities {
                seen: found.inet.is_yes(),
                reject: found.inet_reject.is_yes(),
                state: found.inet_ct != Support::No,
                limit: found.inet_connlimit != Support::No,
            },
        }
    }
}

impl Support {
    /// Whether it may be used.
    pub fn is_yes(self) -> bool {
        self == Support::Yes
    }
}

impl Display for Support {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Support::Yes => "yes",
            Support::No => "no",
            Support::Inconclusive => "inconclusive",
        })
    }
}

/// What the scratch tables are called, and the one that only the question about owners makes.
const SCRATCH: &str = "nwfilter.probe";
const OWNED: &str = "nwfilter.probe.owned";
/// A table that no kernel has.
const NEVER: &str = "nwfilter.probe.never";

/// A device that cannot exist: no name may have a slash.
const NO_DEVICE: &str = "nwfilter/absent";

/// The batch that asks everything, and how its answer is read.
pub struct ProbeBatch {
    /// What is to be sent.
    pub encoded: Encoded,
    /// The steps it is made of, for the reading of refusals.
    pub steps: Vec<Step>,
    /// For each step its question; none for the scratch tables that all questions need.
    asks: Vec<Option<FeatureField>>,
}

/// Where the answer to a question goes.
type FeatureField = fn(&mut Features) -> &mut Support;

/// All questions as one batch, behind the scratch tables they need and before the message that is always refused.
pub fn questions() -> ProbeBatch {
    let scaffold = scaffold().into_iter().map(|step| (None, step));
    let asked = probes().into_iter().map(|(question, step)| (Some(question), step));
    let never = (None, Step { family: Family::Bridge, change: TableOperation::DeleteTable });
    let (asks, steps): (Vec<_>, Vec<_>) = scaffold.chain(asked).chain([never]).unzip();
    let mut encoder = Encoder::new(SCRATCH);
    for (index, step) in steps.iter().enumerate() {
        let (table, flags) = match (&step.change, &asks[index]) {
            (TableOperation::AddTable, Some(_)) => (OWNED, uapi::TABLE_F_OWNER | uapi::TABLE_F_PERSIST),
            (TableOperation::DeleteTable, _) => (NEVER, 0),
            _ => (SCRATCH, 0),
        };
        encoder.table = table;
        encoder.step(index, step, flags).expect("a probe is small");
    }
    ProbeBatch { encoded: Encoded { messages: encoder.messages }, steps, asks }
}

impl ProbeBatch {
    /// Reads the answer. Nothing refused is no answer: the last message is always refused.
    pub fn answers(&self, refusals: &[Refusal]) -> Features {
        let mut features = Features::default();
        if refusals.is_empty() || refusals.iter().any(|refusal| refusal.step.is_none()) {
            return features;
        }
        for ask in self.asks.iter().flatten() {
            *ask(&mut features) = Support::Yes;
        }
        for (step, errno) in refusals.iter().filter_map(|refusal| Some((refusal.step?, refusal.errno()))) {
            for ask in self.asked_with(step) {
                let answer = ask(&mut features);
                *answer = worse(*answer, meaning(errno));
            }
        }
        features
    }

    /// The questions that a step answers. One that makes a scratch table answers all of its family.
    fn asked_with(&self, step: usize) -> Vec<FeatureField> {
        let last = self.steps.len() - 1;
        match self.asks.get(step) {
            Some(Some(question)) => vec![*question],
            Some(None) if step != last => {
                let all = self.asks.iter().zip(&self.steps);
                let of_family = all.filter(|(_, other)| other.family == self.steps[step].family);
                of_family.filter_map(|(ask, _)| *ask).collect()
            }
            _ => Vec::new(),
        }
    }
}

fn worse(one: Support, other: Support) -> Support {
    match (one, other) {
        (Support::No, _) | (_, Support::No) => Support::No,
        (Support::Yes, other) => other,
        (Support::Inconclusive, _) => Support::Inconclusive,
    }
}

/// What an error number means for a message that is right in itself.
fn meaning(errno: Option<i32>) -> Support {
    match errno {
        Some(
            libc::ENOENT
            | libc::EOPNOTSUPP
            | libc::EPROTO
            | libc::EPROTONOSUPPORT
            | libc::EAFNOSUPPORT
            | libc::EINVAL,
        ) => Support::No,
        _ => Support::Inconclusive,
    }
}

fn scaffold() -> Vec<Step> {
    let hook = |priority| Some(Hook { point: HookPoint::Prerouting, priority, device: None });
    let counted = || SetType {
        key: vec![KeyType::IfIndex, KeyType::Ipv4],
        data: ValueType::None,
        dynamic: true,
        counted: false,
    };
    let zones =
        SetType { key: vec![KeyType::IfIndex], data: ValueType::Zone, dynamic: false, counted: false };
    [
        (Family::Bridge, TableOperation::AddTable),
        (Family::Bridge, TableOperation::AddChain(name("c"), hook(0))),
        (Family::Bridge, TableOperation::AddSet(name("counted"), counted())),
        (Family::Bridge, TableOperation::AddSet(name("zones"), zones)),
        (Family::Netdev, TableOperation::AddTable),
        (Family::Inet, TableOperation::AddTable),
        (Family::Inet, TableOperation::AddChain(name("c"), hook(0))),
        (Family::Inet, TableOperation::AddSet(name("counted"), counted())),
    ]
    .map(|(family, change)| Step { family, change })
    .into()
}

fn probes() -> Vec<(FeatureField, Step)> {
    let rule = |matches, action| TableOperation::AddRule(name("c"), Rule::new(matches, action));
    let asks = |part| rule(vec![part], Action::Continue);
    let state = || asks(Match::CtState { states: 1, negated: false });
    let limit = || Match::ConnLimit {
        set: name("counted"),
        keys: vec![Key::new(KeySource::Iif), Key::field(Field::IpSaddr)],
        above: 1,
        negated: false,
    };
    let same = Match::Same {
        left: Key::field(Field::ArpSaddrIp),
        right: Key::field(Field::ArpDaddrIp),
        negated: false,
    };
    let reject = || rule(vec![], Action::Reject(Reject::PortUnreachable));
    let zone = rule(vec![], Action::SetZone(vec![Key::new(KeySource::Iif)], name("zones")));
    let option = Match::TcpOption { kind: 5, negated: false };
    let egress = Some(Hook { point: HookPoint::Egress, priority: 0, device: Some("lo".into()) });
    let absent = Some(Hook { point: HookPoint::Ingress, priority: 0, device: Some(NO_DEVICE.into()) });
    let bridge_name = Match::equals(Key::new(KeySource::BridgeName), &[0; 16]);
    let all: [(FeatureField, Family, TableOperation); 14] = [
        (|f| &mut f.bridge_ct, Family::Bridge, state()),
        (|f| &mut f.bridge_reject, Family::Bridge, reject()),
        (|f| &mut f.bridge_meta, Family::Bridge, asks(bridge_name)),
        (|f| &mut f.connlimit, Family::Bridge, asks(limit())),
        (|f| &mut f.zones, Family::Bridge, zone),
        (|f| &mut f.xor_registers, Family::Bridge, asks(same)),
        (|f| &mut f.tcp_option, Family::Bridge, asks(option)),
        (|f| &mut f.inet, Family::Inet, asks(Match::equals(Key::new(KeySource::Iif), &[0; 4]))),
        (|f| &mut f.inet_ct, Family::Inet, state()),
        (|f| &mut f.inet_reject, Family::Inet, reject()),
        (|f| &mut f.inet_connlimit, Family::Inet, asks(limit())),
        (|f| &mut f.owner_persist, Family::Bridge, TableOperation::AddTable),
        (|f| &mut f.netdev_egress, Family::Netdev, TableOperation::AddChain(name("c"), egress)),
        (|f| &mut f.lasting_hooks, Family::Netdev, TableOperation::AddChain(name("absent"), absent)),
    ];
    all.into_iter().map(|(question, family, change)| (question, Step { family, change })).collect()
}

fn name(text: &str) -> Name {
    text.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ruleset::nft::reply::RefusalCause;

    fn answers(refused: &[(usize, i32)]) -> Features {
        let questions = questions();
        let refusals: Vec<Refusal> = refused
            .iter()
            .map(|(step, errno)| {
                let fault = RefusalCause::Kernel { errno: *errno, text: None, offset: None };
                Refusal::of(*step, &questions.steps[*step], fault)
            })
            .collect();
        questions.answers(&refusals)
    }

    #[test]
    fn the_truth_table_holds() {
        let last = questions().steps.len() - 1;
        let first = questions().asks.iter().position(Option::is_some).unwrap();
        let yes = answers(&[(last, libc::ENOENT)]);
        assert!(yes.bridge_ct.is_yes() && yes.owner_persist.is_yes() && yes.netdev_egress.is_yes());
        let no = answers(&[(first, libc::EPROTO), (last, libc::ENOENT)]);
        assert_eq!((no.bridge_ct, no.bridge_reject), (Support::No, Support::Yes));
        let unknown = answers(&[(first, libc::ENOMEM), (last, libc::ENOENT)]);
        assert_eq!((unknown.bridge_ct, unknown.bridge_reject), (Support::Inconclusive, Support::Yes));
        assert_eq!(answers(&[]), Features::default());
        let no_bridge = answers(&[(0, libc::EOPNOTSUPP), (first, libc::ENOENT), (last, libc::ENOENT)]);
        assert_eq!((no_bridge.bridge_reject, no_bridge.inet_ct), (Support::No, Support::Yes));
    }
}
