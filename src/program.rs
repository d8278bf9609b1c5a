//! A compiled filter: the chains that frames from and to a guest walk, and the slots that members fill.
//!
//! Names of chains are relative (`out`, `in`, `out/ipv4-ip`); [`Program::placed`] puts them under a prefix. What
//! differs between the members of one program is only in the elements of its slots.

pub mod compile;
pub mod eval;
pub mod ir;
pub mod name;
pub mod resolve;

use crate::guest::link::Orientation;
use crate::program::ir::text::{ChainText, SetText};
use crate::program::ir::{
    Action, Chain, Family, Key, KeySource, KeyType, Match, MetaInterface, Name, Rule, Set, SetRef, SetRole,
    Tally, ValueType, Verdict,
};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display, Formatter};

/// A filter with its whole tree of references, compiled once.
#[derive(Clone, Debug, PartialEq)]
pub struct Program {
    /// The root filter's name.
    pub filter: String,
    /// Chains by relative name. [`OUT`] takes the frames from the guest, [`IN`] those to it; both exist.
    pub chains: BTreeMap<Name, Vec<Rule>>,
    /// Sets of its own: relative names, as those of chains.
    pub sets: BTreeMap<Name, Set>,
    /// Sets of the table that it reads and that are filled from outside (ipsets), by absolute name.
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

/// Which way a frame goes through the guest's interface, in libvirt's words: seen from the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "report", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "report", serde(rename_all = "lowercase"))]
pub enum Direction {
    /// From the guest.
    Out,
    /// To the guest.
    In,
}

impl Direction {
    /// The chain that takes its frames, and the beginning of the names of all others that they walk.
    pub fn chain(self) -> &'static str {
        match self {
            Direction::Out => OUT,
            Direction::In => IN,
        }
    }
}

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
        name::slot(&self.parts)
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
            KeyType::Mark => "mark",
            KeyType::EtherType => "type",
            KeyType::IfIndex => "index",
            KeyType::IfName => "name",
        };
        let variable = name::variable(&self.variable);
        self.prefix.map_or(format!("{variable}.{kind}"), |prefix| format!("{variable}.{kind}-{prefix}"))
    }
}

/// Which refusals a program counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusals {
    /// What is dropped in silence.
    Dropped,
    /// What is rejected with an answer as well.
    All,
}

impl Program {
    /// The program that lets nothing pass.
    pub fn blocked() -> Program {
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

    /// The program that counts what it refuses, for each interface and rule.
    pub fn tallied(mut self, orientation: Orientation, counted: Refusals) -> Program {
        for (chain, rules) in &mut self.chains {
            let out = chain.split('/').next() == Some(OUT);
            let by = if out == (orientation == Orientation::Straight) {
                MetaInterface::In
            } else {
                MetaInterface::Out
            };
            for rule in rules {
                let id = rule.origin.as_ref().map_or(0, |origin| origin.id);
                let tally = Tally { by, id };
                let counts = counted == Refusals::All || rule.action == Action::Drop;
                rule.tally = tally.chain(&rule.action).filter(|_| counts).map(|_| tally);
            }
        }
        self
    }

    /// The program for an interface whose own hooks look the other way: what its guest sends goes out by it.
    pub fn reversed(mut self) -> Program {
        for rule in self.chains.values_mut().flatten() {
            rule.matches.iter_mut().flat_map(Match::keys_mut).for_each(turn);
            match &mut rule.action {
                Action::Vmap(keys, _) | Action::SetZone(keys, _) => keys.iter_mut().for_each(turn),
                Action::AnonymousVmap(key, _) => turn(key),
                _ => {}
            }
        }
        self
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
            match part {
                Match::ConnLimit { set, .. } => *set = under(set),
                // Slots and ipsets are of the table.
                Match::Lookup { set: SetRef::Named(set), .. } if self.sets.contains_key(set) => {
                    *set = under(set)
                }
                _ => {}
            }
        }
        match &mut placed.action {
            Action::Jump(chain) | Action::Goto(chain) => *chain = under(chain),
            Action::AnonymousVmap(_, targets) => {
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

fn turn(key: &mut Key) {
    key.from = match key.from {
        KeySource::Iif => KeySource::Oif,
        KeySource::Oif => KeySource::Iif,
        KeySource::IifName => KeySource::OifName,
        KeySource::OifName => KeySource::IifName,
        other => other,
    };
}

/// A program reads as in a table of the bridge family, without the skeleton that leads into it.
impl Display for Program {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (name, set) in self.foreign.iter().chain(&self.sets) {
            SetText(name, set).fmt(f)?;
        }
        for slot in &self.slots {
            let (key, elements) = (slot.key(), Default::default());
            let (role, dynamic, counted) = (SetRole::Variable, false, false);
            let set = Set { key, data: ValueType::None, role, dynamic, counted, elements };
            SetText(&slot.set_name(), &set).fmt(f)?;
        }
        for (name, rules) in &self.chains {
            ChainText(Family::Bridge, name, &Chain { hook: None, rules: rules.clone() }).fmt(f)?;
        }
        Ok(())
    }
}

/// A filter's or chain's name as nft can read it. Letters, digits, `_` and `-` stay as they are, any other byte becomes
/// `.` and two hexadecimal digits; a name that does not begin with a letter gets `x._` before it, one that would grow
/// too long for the kernel is written in another alphabet behind `x.-`. Different names stay different.
pub fn printable(name: &str) -> String {
    const LONGEST: usize = 180;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    let escaped: String = name
        .bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!(".{byte:02x}") })
        .collect();
    if escaped.len() > LONGEST {
        return format!("x.-{}", sixty_four(name.as_bytes()));
    }
    let first = escaped.starts_with(|c: char| c.is_ascii_alphabetic());
    if first { escaped } else { format!("x._{escaped}") }
}

/// Six bits a character, the last ones filled up with zeros.
fn sixty_four(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits = (0..3).fold(0u32, |bits, at| bits << 8 | u32::from(*chunk.get(at).unwrap_or(&0)));
        let digits = (0..=chunk.len()).map(|at| ALPHABET[(bits >> (18 - 6 * at)) as usize & 63]);
        text.extend(digits.map(char::from));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn different_names_print_differently_and_readably() {
        let long = "\u{e4}".repeat(64);
        let longer = format!("{}b", "\u{e4}".repeat(63));
        let names =
            ["clean-traffic", "a b", "a.20b", "a_b", "1a", "x._1a", "x.-", "", " ", &long, &longer, "\u{e4}"];
        let printed: BTreeSet<String> = names.iter().map(|name| printable(name)).collect();
        assert_eq!(printed.len(), names.len());
        for text in &printed {
            assert!(text.starts_with(|c: char| c.is_ascii_alphabetic()), "{text}");
            assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b)), "{text}");
            assert!(text.len() <= 180, "{text}");
        }
        assert_eq!(printable("clean-traffic"), "clean-traffic");
        assert_eq!(printable("a b"), "a.20b");
        assert_eq!(printable("1a"), "x._1a");
    }
}
