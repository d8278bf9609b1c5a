//! A compiled filter: the chains that frames from and to a guest walk, and the slots that members fill.
//!
//! Names of chains are relative (`out`, `in`, `out/ipv4-ip`); [`Program::placed`] puts them under a prefix. What
//! differs between the members of one program is only in the elements of its slots.

use crate::ir::{Action, KeyType, Name, Rule, Set, Verdict};
use std::collections::{BTreeMap, BTreeSet};

/// A filter with its whole tree of references, compiled once.
#[derive(Clone, Debug, PartialEq)]
pub struct Program {
    /// The root filter's name.
    pub filter: String,
    /// Chains by relative name. [`OUT`] takes the frames from the guest, [`IN`] those to it; both exist.
    pub chains: BTreeMap<Name, Vec<Rule>>,
    /// Sets of its own: relative names, as those of chains.
    pub sets: BTreeMap<Name, Set>,
    /// Sets of the table that it reads and somebody else fills (ipsets), by absolute name.
    pub foreign: BTreeMap<Name, Set>,
    /// The variables whose values each member puts into sets.
    pub slots: BTreeSet<Slot>,
    /// Whether it looks at the state of connections.
    pub stateful: bool,
}

/// The chain that takes frames from the guest.
pub const OUT: &str = "out";
/// The chain that takes frames to the guest.
pub const IN: &str = "in";

/// Variables that rules look up together: the set of a slot is keyed by interface index and a value of each.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot {
    /// The variables in the order of the key, walked in step where there are several.
    pub parts: Vec<SlotPart>,
}

/// One variable of a slot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotPart {
    /// The variable.
    pub variable: String,
    /// The type its values are read as.
    pub kind: KeyType,
    /// A mask given as prefix length, applied to field and value; none where all bits count.
    pub prefix: Option<u8>,
}

impl Slot {
    /// The set's name: `MAC.ether`, `IP.ipv4-24`, `A.ipv4-and-B.port`.
    pub fn set_name(&self) -> Name {
        let parts: Vec<String> = self.parts.iter().map(SlotPart::label).collect();
        parts.join("-and-").into()
    }

    /// The types of the set's key: the interface index and one for each variable.
    pub fn key(&self) -> Vec<KeyType> {
        std::iter::once(KeyType::IfIndex).chain(self.parts.iter().map(|part| part.kind)).collect()
    }
}

impl SlotPart {
    fn label(&self) -> String {
        let kind = match self.kind {
            KeyType::Ether => "ether",
            KeyType::Ipv4 => "ipv4",
            KeyType::Ipv6 => "ipv6",
            KeyType::Port => "port",
            KeyType::IpProtocol => "protocol",
            KeyType::EtherType => "type",
            KeyType::IfIndex => "index",
            KeyType::IfName => "name",
        };
        // A variable may begin with a digit or be empty, a set's name that nft can read may not.
        let plain = self.variable.starts_with(|c: char| c.is_ascii_alphabetic());
        let variable = if plain { self.variable.clone() } else { format!("v-{}", self.variable) };
        self.prefix.map_or(format!("{variable}.{kind}"), |prefix| format!("{variable}.{kind}-{prefix}"))
    }
}

impl Program {
    /// The program that lets nothing pass.
    pub fn closed() -> Program {
        let drop: fn() -> Vec<Rule> = || vec![Rule::new(Vec::new(), Action::Drop)];
        Program {
            filter: "drop-all".into(),
            chains: [(OUT.into(), drop()), (IN.into(), drop())].into(),
            sets: BTreeMap::new(),
            foreign: BTreeMap::new(),
            slots: BTreeSet::new(),
            stateful: false,
        }
    }

    /// Its chains and sets with all their names under a prefix: `PREFIX/out`.
    pub fn placed(&self, prefix: &str) -> (BTreeMap<Name, Vec<Rule>>, BTreeMap<Name, Set>) {
        let under = |name: &Name| -> Name { format!("{prefix}/{name}").into() };
        let place = |rule: &Rule| self.place_rule(rule, &under);
        let chains = self.chains.iter().map(|(name, rules)| (under(name), rules.iter().map(place).collect()));
        let sets = self.sets.iter().map(|(name, set)| (under(name), set.clone()));
        (chains.collect(), sets.collect())
    }

    fn place_rule(&self, rule: &Rule, under: &dyn Fn(&Name) -> Name) -> Rule {
        let mut placed = rule.clone();
        for part in &mut placed.matches {
            if let crate::ir::Match::ConnLimit { set, .. } = part {
                *set = under(set);
            }
        }
        match &mut placed.action {
            Action::Jump(chain) | Action::Goto(chain) => *chain = under(chain),
            Action::Branch(_, targets) => {
                for target in targets.values_mut() {
                    if let Verdict::Jump(chain) | Verdict::Goto(chain) = target {
                        *chain = under(chain);
                    }
                }
            }
            _ => {}
        }
        placed
    }
}
