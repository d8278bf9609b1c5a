//! Walks a frame through chains as the kernel does, without the kernel.
//!
//! A load of what a frame does not have fails the match, negated or not; a transport header is not there in
//! later fragments; a tag is no part of the network header's offset but of the Ethernet type. It knows one
//! frame at a time: the state of connections and their counts are arguments.

use crate::field::{Base, Field};
use crate::filter::state;
use crate::ir::{Action, Bytes, CtDirection, From, Key, Match, Name, Rule, SetRef, Verdict, concat};
use std::collections::{BTreeMap, BTreeSet};

/// A frame with what the kernel knows about it besides its bytes.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// From the destination address on, a tag in its place.
    pub bytes: &'a [u8],
    /// The index of the interface it came in by.
    pub iif: u32,
    /// The index of the interface it goes out by.
    pub oif: u32,
    /// The connection it belongs to; none where none is tracked.
    pub connection: Option<Connection>,
}

/// What conntrack says of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// One bit of `filter::state`.
    pub state: u8,
    /// Which way the frame goes.
    pub direction: CtDirection,
}

/// Chains and the elements of the named sets that they read.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'a> {
    /// Chains by name.
    pub chains: &'a BTreeMap<Name, Vec<Rule>>,
    /// Elements by the name of the set; an absent set is empty.
    pub sets: &'a BTreeMap<Name, BTreeSet<Bytes>>,
    /// Connections counted in dynamic sets, by set and key; what is absent counts one.
    pub connections: &'a BTreeMap<(Name, Bytes), u32>,
}

/// How a walk ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// The frame passes.
    Accept,
    /// It does not.
    Drop,
    /// It does not, and its sender hears so.
    Reject,
}

/// The verdict on a frame that enters a chain, and the rule that gave it; none where it falls off the chain's end.
pub fn walk<'a>(rules: Rules<'a>, chain: &str, frame: Frame<'_>) -> Option<(End, &'a Rule)> {
    let headers = Headers::of(frame.bytes);
    Walk { rules, frame, headers }.chain(chain)
}

struct Walk<'a, 'f> {
    rules: Rules<'a>,
    frame: Frame<'f>,
    headers: Headers,
}

/// Where a frame's headers begin.
#[derive(Clone, Copy, Debug, Default)]
struct Headers {
    protocol: u16,
    network: usize,
    upper: Option<Upper>,
}

#[derive(Clone, Copy, Debug)]
struct Upper {
    protocol: u8,
    offset: usize,
    later_fragment: bool,
}

impl<'a> Walk<'a, '_> {
    fn chain(&self, name: &str) -> Option<(End, &'a Rule)> {
        for rule in self.rules.chains.get(name).map(Vec::as_slice).unwrap_or_default() {
            if !rule.matches.iter().all(|part| self.holds(part).unwrap_or(false)) {
                continue;
            }
            match &rule.action {
                Action::Accept => return Some((End::Accept, rule)),
                Action::Drop => return Some((End::Drop, rule)),
                Action::Reject(_) => return Some((self.headers.rejection(), rule)),
                Action::Return => return None,
                Action::Goto(chain) => return self.chain(chain),
                Action::Jump(chain) => match self.chain(chain) {
                    Some(end) => return Some(end),
                    None => continue,
                },
                Action::Branch(key, map) => match self.branch(key, map, rule) {
                    Branch::End(end) => return end,
                    Branch::On => continue,
                },
                Action::Continue | Action::Dispatch(..) => {}
                Action::SetZone(..) | Action::Zone(_) | Action::Untracked => {}
            }
        }
        None
    }

    fn branch(&self, key: &Key, map: &BTreeMap<Bytes, Verdict>, rule: &'a Rule) -> Branch<'a> {
        match self.load(key).and_then(|value| map.get(&*value)) {
            None => Branch::On,
            Some(Verdict::Accept) => Branch::End(Some((End::Accept, rule))),
            Some(Verdict::Drop) => Branch::End(Some((End::Drop, rule))),
            Some(Verdict::Goto(chain)) => Branch::End(self.chain(chain)),
            Some(Verdict::Jump(chain)) => self.chain(chain).map_or(Branch::On, |end| Branch::End(Some(end))),
        }
    }

    fn holds(&self, part: &Match) -> Option<bool> {
        Some(match part {
            Match::Compare { key, negated, value } => (*self.load(key)? == **value) != *negated,
            Match::Range { key, negated, from, to } => {
                let value = self.load(key)?;
                (**from <= *value && *value <= **to) != *negated
            }
            Match::Lookup { keys, negated, set } => self.is_element(set, &self.tuple(keys)?) != *negated,
            Match::Same { left, right, negated } => (self.load(left)? == self.load(right)?) != *negated,
            Match::TcpOption { kind, negated } => self.has_option(*kind)? != *negated,
            Match::CtState { states, negated } => {
                let state = self.frame.connection.map_or(state::INVALID, |connection| connection.state);
                (state & states != 0) != *negated
            }
            Match::CtDirection(direction) => self.frame.connection?.direction == *direction,
            Match::ConnLimit { set, keys, above, negated } => {
                let count = self.rules.connections.get(&(set.clone(), self.tuple(keys)?));
                (count.copied().unwrap_or(1) > *above) != *negated
            }
        })
    }

    fn is_element(&self, set: &SetRef, key: &Bytes) -> bool {
        match set {
            SetRef::Named(name) => self.rules.sets.get(name).is_some_and(|set| set.contains(key)),
            SetRef::Anonymous(_, elements) => elements.contains(key),
        }
    }

    fn tuple(&self, keys: &[Key]) -> Option<Bytes> {
        let parts: Option<Vec<Vec<u8>>> = keys.iter().map(|key| self.load(key)).collect();
        Some(concat(&parts?.iter().map(Vec::as_slice).collect::<Vec<_>>()))
    }

    fn load(&self, key: &Key) -> Option<Vec<u8>> {
        let mut value = match key.from {
            From::Field(field) => self.field(field)?,
            From::Iif => self.frame.iif.to_ne_bytes().to_vec(),
            From::Oif => self.frame.oif.to_ne_bytes().to_vec(),
            From::Protocol => self.headers.protocol.to_be_bytes().to_vec(),
            From::L4Proto => vec![self.headers.upper?.protocol],
            From::BridgeName | From::IifName | From::OifName => return None,
        };
        if let Some(mask) = &key.mask {
            value.iter_mut().zip(&**mask).for_each(|(byte, mask)| *byte &= mask);
        }
        Some(value)
    }

    fn field(&self, field: Field) -> Option<Vec<u8>> {
        let layout = field.layout();
        let base = match layout.base {
            Base::Link => 0,
            Base::Network => self.headers.network,
            Base::Transport => self.transport()?,
        };
        let start = base + layout.offset as usize;
        let mut value = self.frame.bytes.get(start..start + layout.length as usize)?.to_vec();
        let mask = layout.mask.unwrap_or(&[]);
        value.iter_mut().zip(mask).for_each(|(byte, mask)| *byte &= mask);
        Some(value)
    }

    fn transport(&self) -> Option<usize> {
        self.headers.upper.filter(|upper| !upper.later_fragment).map(|upper| upper.offset)
    }

    /// Looks for a TCP option as the kernel does; no TCP header is a failure, an option cut off is absent.
    fn has_option(&self, kind: u8) -> Option<bool> {
        let start =
            self.transport().filter(|_| self.headers.upper.is_some_and(|upper| upper.protocol == 6))?;
        let length = usize::from(self.frame.bytes.get(start + 12)? >> 4) * 4;
        let mut rest = self.frame.bytes.get(start + 20..start + length)?;
        while let [found, tail @ ..] = rest {
            if *found == kind {
                return Some(true);
            }
            let step = if *found <= 1 { 1 } else { usize::from(*tail.first().unwrap_or(&0)).max(1) };
            rest = rest.get(step..).unwrap_or_default();
        }
        Some(false)
    }
}

enum Branch<'a> {
    End(Option<(End, &'a Rule)>),
    On,
}

const VLAN: [u16; 2] = [0x8100, 0x88a8];
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;

impl Headers {
    /// Only packets of IP are answered.
    fn rejection(&self) -> End {
        if matches!(self.protocol, IPV4 | IPV6) { End::Reject } else { End::Drop }
    }

    fn of(bytes: &[u8]) -> Headers {
        let word = |at: usize| bytes.get(at..at + 2).map_or(0, |two| u16::from_be_bytes([two[0], two[1]]));
        // The device takes one tag off before any chain sees the frame.
        let tagged = VLAN.contains(&word(12));
        let (protocol, network) = if tagged { (word(16), 18) } else { (word(12), 14) };
        let packet = bytes.get(network..).unwrap_or_default();
        let upper = match protocol {
            IPV4 => ipv4(packet),
            IPV6 => ipv6(packet),
            _ => None,
        };
        let upper = upper.map(|upper| Upper { offset: network + upper.offset, ..upper });
        Headers { protocol, network, upper }
    }
}

fn ipv4(packet: &[u8]) -> Option<Upper> {
    let first = *packet.first().filter(|_| packet.len() >= 20)?;
    let offset = usize::from(first & 15) * 4;
    let total = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
    let valid = first >> 4 == 4 && offset >= 20 && offset <= total && total <= packet.len();
    let later_fragment = u16::from_be_bytes([packet[6], packet[7]]) & 0x1fff != 0;
    valid.then_some(Upper { protocol: packet[9], offset, later_fragment })
}

/// Skips extension headers, those of the kernel's list.
fn ipv6(packet: &[u8]) -> Option<Upper> {
    const EXTENSIONS: [u8; 5] = [0, 43, 44, 51, 60];
    let length = usize::from(u16::from_be_bytes([*packet.get(4)?, *packet.get(5)?]));
    if packet.len() < 40 || packet[0] >> 4 != 6 || length + 40 > packet.len() {
        return None;
    }
    let (mut protocol, mut offset) = (packet[6], 40);
    while EXTENSIONS.contains(&protocol) {
        let header = packet.get(offset..offset + 8)?;
        let next = header[0];
        if protocol == 44 && u16::from_be_bytes([header[2], header[3]]) & 0xfff8 != 0 {
            let known = !EXTENSIONS.contains(&next);
            return known.then_some(Upper { protocol: next, offset, later_fragment: true });
        }
        offset += match protocol {
            44 => 8,
            51 => (usize::from(header[1]) + 2) * 4,
            _ => (usize::from(header[1]) + 1) * 8,
        };
        protocol = next;
    }
    Some(Upper { protocol, offset, later_fragment: false })
}
