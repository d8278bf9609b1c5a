//! Rule sets as data: tables, chains, sets and rules, ordered, comparable, printable as nft text.
//!
//! Nothing here knows a filter or the kernel. A rule carries its [`Origin`], so that a refusal or a
//! counter leads back to a line of XML. [`text`] prints a rule set, [`digest`] names it by its content.

pub mod digest;
pub(crate) mod lower;
pub mod observed;
pub(crate) mod operand;
pub mod text;
pub(crate) mod value;

use crate::document::field::Field;
use crate::document::span::Place;
use imbl::OrdMap;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The name of a chain or a set.
pub type Name = Arc<str>;

/// Bytes of one field, in the order nftables compares them.
pub type Bytes = Arc<[u8]>;

/// All our tables.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ruleset {
    /// At most one table a family; all are called [`TABLE`].
    pub tables: BTreeMap<Family, Table>,
}

/// What our tables are called, in every family.
pub const TABLE: &str = "nwfilter";

/// The families we use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Family {
    /// Frames through a bridge.
    Bridge,
    /// Packets through the IP stack.
    Inet,
    /// Frames through one device.
    Netdev,
}

/// Chains and sets of one family. Cloning is cheap and the difference of two tables that share most of
/// their content is found without a look at the shared part.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    /// Sets and maps by name.
    pub sets: OrdMap<Name, Set>,
    /// Chains by name.
    pub chains: OrdMap<Name, Arc<Chain>>,
    /// It was found in a kernel and holds what no step of ours turns into a table of ours: it is replaced whole.
    pub unfit: bool,
}

/// A list of rules.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Chain {
    /// Where the kernel enters it; none for a chain that only rules lead to.
    pub hook: Option<Hook>,
    /// Its rules in order.
    pub rules: Vec<Rule>,
}

/// Where a base chain sits. Our policy is always accept: what is not bound is none of our business.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hook {
    /// At which turn of the packet's way.
    pub point: HookPoint,
    /// Its turn among others there.
    pub priority: i32,
    /// The device, in the netdev family.
    pub device: Option<String>,
}

/// The hooks of all families.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the names are nftables'")]
#[non_exhaustive]
pub enum HookPoint {
    Prerouting,
    Input,
    Forward,
    Output,
    Postrouting,
    Ingress,
    Egress,
}

/// A named set or map.
#[derive(Clone, Debug, PartialEq)]
pub struct Set {
    /// The types of its key, concatenated where there are several.
    pub key: Vec<KeyType>,
    /// Sets hold nothing else; maps hold verdicts or numbers.
    pub data: ValueType,
    /// What it is for, which decides when a change of it may be seen.
    pub role: SetRole,
    /// Filled by rules (`connlimit`) instead of by us.
    pub dynamic: bool,
    /// Whether each element counts the frames that are looked up and found.
    pub counted: bool,
    /// Keys, each concatenated by [`concat()`], with the map's data.
    pub elements: OrdMap<Bytes, ElementValue>,
}

/// What kind of set or map something is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetType {
    /// The types of its key.
    pub key: Vec<KeyType>,
    /// What it maps to.
    pub data: ValueType,
    /// Filled by rules.
    pub dynamic: bool,
    /// Each element counts.
    pub counted: bool,
}

/// What a set or map maps to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum ValueType {
    /// A plain set.
    None,
    /// A verdict map.
    Verdict,
    /// A map to conntrack zones.
    Zone,
}

/// What one element maps to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum ElementValue {
    /// An element of a plain set.
    None,
    /// Into this chain, and back if it should ever say nothing.
    Jump(Name),
    /// This conntrack zone.
    Zone(u16),
}

/// What the elements of a set decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum SetRole {
    /// Which interfaces are bound and which program their frames enter: changed by a switch alone.
    Dispatch,
    /// The values of a variable of each bound interface; the key begins with the interface's index.
    Variable,
    /// Filled from outside: an ipset by the administrator, a set that counts by rules. Left as it is.
    Foreign,
}

/// The type of one part of a set's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum KeyType {
    /// An interface index, in host byte order.
    IfIndex,
    /// An interface name, padded to 16 bytes.
    IfName,
    /// A MAC address.
    Ether,
    /// An IPv4 address.
    Ipv4,
    /// An IPv6 address.
    Ipv6,
    /// A port.
    Port,
    /// An Ethernet type.
    EtherType,
    /// An IP protocol number.
    IpProtocol,
    /// A packet's mark, in host byte order.
    Mark,
}

/// One rule: if all matches hold, the action follows.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// What a frame must be, tried in order.
    pub matches: Vec<Match>,
    /// What then happens.
    pub action: Action,
    /// Whether frames that match are counted.
    pub counter: bool,
    /// By what the frames are counted that it drops or rejects.
    pub tally: Option<Tally>,
    /// The rule of a filter it comes from; none for our own skeleton.
    pub origin: Option<Origin>,
}

/// By what dropped frames are counted, each interface's apart.
///
/// The rule marks the frame with the number and leaves it to a chain of the table, which counts it under interface and
/// mark and then drops it whether or not there was room to count: nothing of it is on the way of a frame that passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tally {
    /// Whose interface it is.
    pub by: MetaInterface,
    /// What it is counted as ([`Origin::id`]), or 0 where no rule of a filter dropped it.
    pub id: u32,
}

/// One of the two interfaces of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MetaInterface {
    /// The one it came in by.
    In,
    /// The one it goes out by.
    Out,
}

/// The rule of a filter that an IR rule comes from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin {
    /// The filter's name.
    pub filter: Name,
    /// Which of its `<rule>`s, from 1.
    pub rule: u32,
    /// What its drops are counted as: the same wherever in its filter it stands, and for whichever interface it is compiled. 0 for
    /// a rule that drops nothing.
    pub id: u32,
    /// Where it stands in its document.
    pub place: Place,
}

/// One condition.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Match {
    /// The key equals the value, or with `negated` does not.
    Compare {
        /// What is read.
        key: Key,
        /// Whether it must differ.
        negated: bool,
        /// What it is compared with.
        value: Bytes,
    },
    /// The key lies between two values, both included.
    Range {
        /// What is read.
        key: Key,
        /// Whether it must lie outside.
        negated: bool,
        /// The lowest value.
        from: Bytes,
        /// The highest value.
        to: Bytes,
    },
    /// The keys, concatenated, are an element of a set.
    Lookup {
        /// What is read.
        keys: Vec<Key>,
        /// Whether it must not be an element.
        negated: bool,
        /// The set.
        set: SetRef,
    },
    /// Two fields of the frame hold the same bytes.
    Same {
        /// One field.
        left: Key,
        /// The other.
        right: Key,
        /// Whether they must differ.
        negated: bool,
    },
    /// The TCP header carries an option of this kind.
    TcpOption {
        /// The option's kind.
        kind: u8,
        /// Whether it must be absent.
        negated: bool,
    },
    /// The connection is in one of these states (bits of `filter::state`, without `NONE`).
    CtState {
        /// The states.
        states: u8,
        /// Whether it must be in none of them.
        negated: bool,
    },
    /// The frame goes in this direction of its connection.
    CtDirection(CtDirection),
    /// The keys have more than `above` connections, counted in a dynamic set.
    ConnLimit {
        /// The dynamic set.
        set: Name,
        /// What connections are counted by.
        keys: Vec<Key>,
        /// The count that must be exceeded.
        above: u32,
        /// Whether it must not be exceeded instead.
        negated: bool,
    },
}

/// Original or reply direction of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CtDirection {
    /// As the connection was opened.
    Original,
    /// The other way.
    Reply,
}

/// What a match reads, and which bits of it count.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// What is read.
    pub from: KeySource,
    /// The bits that count; a field's own mask is applied without being named here.
    pub mask: Option<Bytes>,
}

/// What can be read of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum KeySource {
    /// A header field.
    Field(Field),
    /// The index of the interface it came in by (`meta iif`).
    Iif,
    /// The index of the interface it goes out by (`meta oif`).
    Oif,
    /// The name of the interface it came in by (`meta iifname`), padded to 16 bytes.
    IifName,
    /// The name of the interface it goes out by (`meta oifname`), padded to 16 bytes.
    OifName,
    /// `meta protocol`. With a tagged frame this is the *inner* protocol: only a companion of a check of
    /// [`Field::EtherType`], to give the following match the context that nft itself would give it. In the inet
    /// family it is `meta nfproto`. Only for IPv4, IPv6 and ARP: nft 1.0.6 aborts when it lists a concatenation of raw
    /// header bytes behind a protocol that it has no names for.
    Protocol,
    /// `meta l4proto`: the upper protocol, IPv6 extension headers skipped.
    L4Proto,
    /// The name of the bridge it came in by (`meta ibrname`), padded to 16 bytes.
    BridgeName,
    /// The packet's mark (`meta mark`), in host byte order.
    Mark,
    /// The addressee of the frame as the kernel sees it (`meta pkttype`): 0 for what the host sends or gets.
    PacketType,
}

/// Which set a lookup reads.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum SetRef {
    /// A named set of the same table.
    Named(Name),
    /// A constant set of its own, with the types of its key.
    Anonymous(Vec<KeyType>, BTreeSet<Bytes>),
}

/// What a rule does with a frame that matches.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Action {
    /// Let through this table.
    Accept,
    /// Refused.
    Drop,
    /// Refused, and its sender gets an answer.
    Reject(Reject),
    /// Back to the rule after the jump.
    Return,
    /// On with the next rule.
    Continue,
    /// Into a chain and back.
    Jump(Name),
    /// Into a chain for good.
    Goto(Name),
    /// Whatever a named verdict map says of the keys; on with the next rule where it says nothing.
    Vmap(Vec<Key>, Name),
    /// Jump or goto whichever chain a constant map says; on with the next rule where it says nothing.
    AnonymousVmap(Key, BTreeMap<Bytes, Verdict>),
    /// Give the frame the conntrack zone that a named map says.
    SetZone(Vec<Key>, Name),
    /// Give the frame this conntrack zone. It undoes [`Action::Notrack`] for what tracks the frame later.
    Zone(u16),
    /// Keep conntrack off the frame.
    Notrack,
    /// Give the frame this mark.
    Mark(u32),
    /// Have the kernel report every rule that the frame meets from here on.
    Trace,
    /// Count the frame under these keys in a dynamic set. Where that is full, no rule of the chain is skipped.
    Count(Vec<Key>, Name),
    /// Whatever a rule does that was found in a kernel and is none that is known. No rule of ours has it.
    Unknown,
}

/// Verdicts a constant map may hold.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Verdict {
    /// Let through.
    Accept,
    /// Refused.
    Drop,
    /// Into a chain and back.
    Jump(Name),
    /// Into a chain for good.
    Goto(Name),
}

/// The answer that the sender of a rejected frame gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Reject {
    /// ICMP or ICMPv6 port unreachable.
    PortUnreachable,
    /// TCP reset.
    TcpReset,
}

impl Set {
    /// What kind of set it is.
    pub fn kind(&self) -> SetType {
        SetType { key: self.key.clone(), data: self.data, dynamic: self.dynamic, counted: self.counted }
    }
}

impl KeyType {
    /// Bytes of a value of this type, without padding.
    pub fn length(self) -> usize {
        match self {
            KeyType::IfIndex | KeyType::Ipv4 | KeyType::Mark => 4,
            KeyType::IfName | KeyType::Ipv6 => 16,
            KeyType::Ether => 6,
            KeyType::Port | KeyType::EtherType => 2,
            KeyType::IpProtocol => 1,
        }
    }
}

impl Key {
    /// All bits of what is read.
    pub fn new(from: KeySource) -> Key {
        Key { from, mask: None }
    }

    /// All bits of a header field.
    pub fn field(field: Field) -> Key {
        Key::new(KeySource::Field(field))
    }

    /// Some bits of a header field.
    pub fn masked(field: Field, mask: &[u8]) -> Key {
        Key { from: KeySource::Field(field), mask: Some(mask.into()) }
    }
}

impl Rule {
    /// A rule of our own skeleton.
    pub fn new(matches: Vec<Match>, action: Action) -> Rule {
        Rule { matches, action, counter: false, tally: None, origin: None }
    }
}

impl MetaInterface {
    /// Where its index is read.
    pub fn index(self) -> KeySource {
        match self {
            MetaInterface::In => KeySource::Iif,
            MetaInterface::Out => KeySource::Oif,
        }
    }
}

impl Tally {
    /// The chain that counts the frames of a rule with this action; none where it lets frames pass.
    pub fn chain(self, action: &Action) -> Option<&'static str> {
        Some(match (action, self.by) {
            (Action::Drop, MetaInterface::In) => "drop-iif",
            (Action::Drop, MetaInterface::Out) => "drop-oif",
            (Action::Reject(Reject::PortUnreachable), MetaInterface::In) => "reject-iif",
            (Action::Reject(Reject::PortUnreachable), MetaInterface::Out) => "reject-oif",
            (Action::Reject(Reject::TcpReset), MetaInterface::In) => "reset-iif",
            (Action::Reject(Reject::TcpReset), MetaInterface::Out) => "reset-oif",
            _ => return None,
        })
    }
}

impl Match {
    /// The key equals the value.
    pub fn equals(key: Key, value: &[u8]) -> Match {
        Match::Compare { key, negated: false, value: value.into() }
    }

    /// What it reads, in order.
    pub fn keys(&self) -> Vec<&Key> {
        match self {
            Match::Compare { key, .. } | Match::Range { key, .. } => vec![key],
            Match::Lookup { keys, .. } | Match::ConnLimit { keys, .. } => keys.iter().collect(),
            Match::Same { left, right, .. } => vec![left, right],
            Match::TcpOption { .. } | Match::CtState { .. } | Match::CtDirection(_) => Vec::new(),
        }
    }

    /// The same, to be changed.
    pub fn keys_mut(&mut self) -> Vec<&mut Key> {
        match self {
            Match::Compare { key, .. } | Match::Range { key, .. } => vec![key],
            Match::Lookup { keys, .. } | Match::ConnLimit { keys, .. } => keys.iter_mut().collect(),
            Match::Same { left, right, .. } => vec![left, right],
            Match::TcpOption { .. } | Match::CtState { .. } | Match::CtDirection(_) => Vec::new(),
        }
    }

    /// The frame, not what may be inside of a tag, has this Ethernet type.
    pub fn ether_type(ether_type: u16) -> Match {
        Match::equals(Key::field(Field::EtherType), &ether_type.to_be_bytes())
    }
}

/// The key of a set element: each part padded to whole 32-bit registers, a single part left as it is.
pub fn concat(parts: &[&[u8]]) -> Bytes {
    if let [single] = parts {
        return (*single).into();
    }
    let mut key = Vec::with_capacity(parts.iter().map(|part| part.len().next_multiple_of(4)).sum());
    for part in parts {
        key.extend_from_slice(part);
        key.resize(key.len().next_multiple_of(4), 0);
    }
    key.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_key_fill_whole_registers_but_a_single_one_stays() {
        assert_eq!(&*concat(&[&[1, 2, 3, 4, 5, 6]]), [1, 2, 3, 4, 5, 6]);
        assert_eq!(&*concat(&[&[9, 0, 0, 0], &[1, 2, 3, 4, 5, 6]]), [9, 0, 0, 0, 1, 2, 3, 4, 5, 6, 0, 0]);
    }
}
