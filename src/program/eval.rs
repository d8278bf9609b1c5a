//! Walks a frame through chains as the kernel does, without the kernel: the verdict, and every rule tried on the way.
//!
//! Rules are judged in the form that their bytecode is made of (`ir::lower`), so that what is read here
//! is what the kernel reads. A load of what a frame does not have fails the match, negated or not. It knows one frame at a
//! time: the state of connections and their counts are arguments. It takes any bytes, without panic, and no
//! rule set makes it walk for ever.

mod headers;
mod load;

pub use headers::{Headers, Tag, Upper};
use load::Register;

use crate::program::Program;
use crate::program::ir::lower::{LoweredRule, Op, kernel_states, lower};
use crate::program::ir::operand::{LoadSource, Operand};
use crate::program::ir::{
    Action, Bytes, CtDirection, ElementValue, Family, Match, Name, Rule, Set, SetRef, Table, Verdict,
};
use imbl::OrdMap;
use std::collections::{BTreeMap, BTreeSet};

/// A frame with what the kernel knows about it besides its bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Frame<'a> {
    /// From the destination address on, all tags in their places.
    pub bytes: &'a [u8],
    /// The interface it came in by.
    pub iif: Port<'a>,
    /// The interface it goes out by.
    pub oif: Port<'a>,
    /// The name of the bridge it came in by.
    pub bridge: &'a str,
    /// What became of its outermost tag, if it has one.
    pub tag: Tag,
    /// What conntrack says of it.
    pub tracking: Tracking,
    /// Its mark.
    pub mark: u32,
}

/// An interface. Rules read either; where a name is empty there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Port<'a> {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: &'a str,
}

/// What conntrack says of a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tracking {
    /// It could make nothing of it, or never saw it: the state is `INVALID`.
    #[default]
    Unknown,
    /// The caller asked it to look away.
    Untracked,
    /// It belongs to a connection.
    Connection(Connection),
}

/// A connection, as a frame of it sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// One bit of `filter::state`.
    pub state: u8,
    /// Which way the frame goes.
    pub direction: CtDirection,
}

impl From<Option<Connection>> for Tracking {
    fn from(connection: Option<Connection>) -> Tracking {
        connection.map_or(Tracking::Unknown, Tracking::Connection)
    }
}

/// Chains and sets, ready to be walked.
#[derive(Clone, Debug, Default)]
pub struct Evaluator<'a> {
    chains: BTreeMap<&'a str, Vec<Ready<'a>>>,
    sets: BTreeMap<&'a str, SetContents<'a>>,
    connections: BTreeMap<(Name, Bytes), u32>,
}

#[derive(Clone, Debug)]
struct Ready<'a> {
    rule: &'a Rule,
    lowered: LoweredRule,
}

#[derive(Clone, Copy, Debug)]
enum SetContents<'a> {
    Values(&'a BTreeSet<Bytes>),
    Table(&'a OrdMap<Bytes, ElementValue>),
    /// Filled by the rules that count, with whatever key is asked for.
    Counts,
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

/// What became of a frame.
#[derive(Clone, Debug)]
pub struct Walked<'a> {
    /// The verdict; none where the frame fell off the end of the chain it entered.
    pub end: Option<End>,
    /// The rule that gave it.
    pub rule: Option<&'a Rule>,
    /// Every rule tried, in order; empty unless it was asked for.
    pub path: Vec<TriedRule<'a>>,
}

/// One rule that was tried.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TriedRule<'a> {
    /// In which chain.
    pub chain: &'a str,
    /// The rule.
    pub rule: &'a Rule,
    /// Which of its matches failed; none where all held.
    pub failed: Option<usize>,
}

/// More chains than any program has; the kernel refuses circles, this ends them.
const CHAINS: usize = 10_000;
/// How deep the kernel lets chains jump (`NFT_JUMP_STACK_SIZE`).
const DEPTH: usize = 16;

impl<'a> Evaluator<'a> {
    /// Those of a table.
    pub fn of_table(family: Family, table: &'a Table) -> Evaluator<'a> {
        let chains = table.chains.iter().map(|(name, chain)| (&**name, ready(family, &chain.rules)));
        let elements =
            |set: &'a Set| if set.dynamic { SetContents::Counts } else { SetContents::Table(&set.elements) };
        let sets = table.sets.iter().map(|(name, set)| (&**name, elements(set)));
        Evaluator { chains: chains.collect(), sets: sets.collect(), connections: BTreeMap::new() }
    }

    /// Those of a program that sits in no table yet, with the elements of the sets that it reads; an absent set is empty.
    pub fn of_program(program: &'a Program, sets: &'a BTreeMap<Name, BTreeSet<Bytes>>) -> Evaluator<'a> {
        let chains = program.chains.iter().map(|(name, rules)| (&**name, ready(Family::Bridge, rules)));
        let counts = program.sets.keys().map(|name| (&**name, SetContents::Counts));
        let sets = sets.iter().map(|(name, values)| (&**name, SetContents::Values(values))).chain(counts);
        Evaluator { chains: chains.collect(), sets: sets.collect(), connections: BTreeMap::new() }
    }

    /// With connections counted in dynamic sets, by set and key; what is absent counts one.
    pub fn with_connections(mut self, connections: BTreeMap<(Name, Bytes), u32>) -> Evaluator<'a> {
        self.connections = connections;
        self
    }

    /// The verdict on a frame that enters a chain.
    pub fn judge(&self, chain: &str, frame: Frame<'_>) -> Option<End> {
        self.walk(chain, frame, None).end
    }

    /// The verdict on a frame that enters a chain, with all that was tried before.
    pub fn trace(&self, chain: &str, frame: Frame<'_>) -> Walked<'a> {
        self.walk(chain, frame, Some(Vec::new()))
    }

    /// Which matches of a rule do not hold of a frame.
    pub fn failures(&self, rule: &Rule, frame: Frame<'_>) -> Vec<usize> {
        let headers = Headers::of(frame.bytes, frame.tag);
        let walk = Walk { rules: self, frame, headers, path: None, chains: 0 };
        let terms = lower(Family::Bridge, rule).terms;
        (0..terms.len()).filter(|at| !matches!(walk.says(&terms[*at].test), Said::Yes)).collect()
    }

    fn walk(&self, chain: &str, frame: Frame<'_>, path: Option<Vec<TriedRule<'a>>>) -> Walked<'a> {
        let headers = Headers::of(frame.bytes, frame.tag);
        let mut walk = Walk { rules: self, frame, headers, path, chains: 0 };
        let (end, rule) = walk.from(chain).map_or((None, None), |(end, rule)| (Some(end), Some(rule)));
        Walked { end, rule, path: walk.path.unwrap_or_default() }
    }

    fn chain<'s>(&'s self, name: &str) -> (&'a str, &'s [Ready<'a>]) {
        self.chains.get_key_value(name).map_or(("", &[]), |(name, rules)| (name, rules))
    }
}

fn ready<'a>(family: Family, rules: &'a [Rule]) -> Vec<Ready<'a>> {
    rules.iter().map(|rule| Ready { rule, lowered: lower(family, rule) }).collect()
}

struct Walk<'s, 'a, 'f> {
    rules: &'s Evaluator<'a>,
    frame: Frame<'f>,
    headers: Headers,
    path: Option<Vec<TriedRule<'a>>>,
    chains: usize,
}

/// Where a walk stands.
type Position<'s, 'a> = (&'a str, &'s [Ready<'a>]);

/// What a match says.
enum Said {
    Yes,
    No,
    /// A limit of connections that has none to count drops the frame, whatever the rule says.
    Dropped,
}

/// Where a rule that matched leads.
enum Onward<'a> {
    End(End),
    Next,
    Back,
    Goto(&'a Name),
    Jump(&'a Name),
}

impl<'s, 'a> Walk<'s, 'a, '_> {
    fn from(&mut self, chain: &str) -> Option<(End, &'a Rule)> {
        let mut callers: Vec<Position<'s, 'a>> = Vec::new();
        let mut here = self.enter(chain)?;
        loop {
            let (name, [first, rest @ ..]) = here else {
                here = callers.pop()?;
                continue;
            };
            here.1 = rest;
            let onward = match self.matches(name, first) {
                Said::Yes => self.onward(first),
                Said::No => Onward::Next,
                Said::Dropped => Onward::End(End::Drop),
            };
            match onward {
                Onward::End(end) => return Some((end, first.rule)),
                Onward::Next => {}
                Onward::Back => here = callers.pop()?,
                Onward::Goto(chain) => here = self.enter(chain)?,
                Onward::Jump(_) if callers.len() >= DEPTH => return None,
                Onward::Jump(chain) => {
                    callers.push(here);
                    here = self.enter(chain)?;
                }
            }
        }
    }

    fn enter(&mut self, chain: &str) -> Option<Position<'s, 'a>> {
        self.chains += 1;
        (self.chains <= CHAINS).then(|| self.rules.chain(chain))
    }

    fn matches(&mut self, chain: &'a str, ready: &Ready<'a>) -> Said {
        let says_no = |said: &Said| !matches!(said, Said::Yes);
        let said = ready.lowered.terms.iter().map(|term| self.says(&term.test)).enumerate();
        let failed = said.into_iter().find(|(_, said)| says_no(said));
        let rule = ready.rule;
        if let Some(path) = &mut self.path {
            path.push(TriedRule { chain, rule, failed: failed.as_ref().map(|(at, _)| *at) });
        }
        failed.map_or(Said::Yes, |(_, said)| said)
    }

    fn onward(&self, ready: &Ready<'a>) -> Onward<'a> {
        match &ready.rule.action {
            Action::Accept => Onward::End(End::Accept),
            Action::Drop => Onward::End(End::Drop),
            Action::Reject(reject) => Onward::End(self.headers.rejection(self.frame.bytes, *reject)),
            Action::Return => Onward::Back,
            Action::Goto(chain) => Onward::Goto(chain),
            Action::Jump(chain) => Onward::Jump(chain),
            Action::AnonymousVmap(_, map) => self
                .tuple(&ready.lowered.keys)
                .and_then(|key| map.get(key.bytes()))
                .map_or(Onward::Next, toward),
            Action::Vmap(_, map) => self.dispatch(map, &ready.lowered.keys),
            Action::Continue
            | Action::SetZone(..)
            | Action::Zone(_)
            | Action::Notrack
            | Action::Mark(_)
            | Action::Trace
            | Action::Count(..)
            | Action::Unknown => Onward::Next,
        }
    }

    fn dispatch(&self, map: &str, keys: &[Operand]) -> Onward<'a> {
        let Some(SetContents::Table(elements)) = self.rules.sets.get(map) else { return Onward::Next };
        let found = self.tuple(keys).and_then(|key| elements.get(key.bytes()));
        match found {
            Some(ElementValue::Jump(chain)) => Onward::Goto(chain),
            _ => Onward::Next,
        }
    }

    fn says(&self, test: &Op) -> Said {
        match test {
            Op::ConnLimit { .. } if !matches!(self.frame.tracking, Tracking::Connection(_)) => Said::Dropped,
            test if self.holds(test).unwrap_or(false) => Said::Yes,
            _ => Said::No,
        }
    }

    /// Whether a test holds; none where what it reads is not there.
    fn holds(&self, test: &Op) -> Option<bool> {
        let load = |operand| self.load(operand);
        Some(match test {
            Op::Compare { left, negated, value } => (load(left)?.bytes() == &**value) != *negated,
            Op::Prefix { left, negated, value, bits } => self.has_prefix(left, value, *bits)? != *negated,
            Op::Range { left, negated, from, to } => {
                let value = load(left)?;
                (&**from <= value.bytes() && value.bytes() <= &**to) != *negated
            }
            Op::Lookup { keys, negated, set } => self.is_element(set, self.tuple(keys)?.bytes()) != *negated,
            Op::Same { left, right, negated } => (load(left)?.bytes() == load(right)?.bytes()) != *negated,
            Op::TcpOption { kind, negated } => self.headers.has_option(self.frame.bytes, *kind) != *negated,
            Op::CtState { states, negated } => (self.state() & states != 0) != *negated,
            Op::CtDirection(wanted) => match self.frame.tracking {
                Tracking::Connection(connection) => connection.direction == *wanted,
                _ => return None,
            },
            Op::ConnLimit { set, keys, above, negated } => {
                let key: Bytes = self.tuple(keys)?.bytes().into();
                let count = self.rules.connections.get(&(set.clone(), key));
                (count.copied().unwrap_or(1) > *above) != *negated
            }
        })
    }

    /// A prefix of whole bytes is a shorter load, which a frame that is cut off behind it still has.
    fn has_prefix(&self, left: &Operand, value: &[u8], bits: u32) -> Option<bool> {
        let start = value.get(..bits as usize / 8).filter(|_| bits > 0 && bits.is_multiple_of(8));
        match (left.source, start) {
            (LoadSource::Payload { base, offset, .. }, Some(start)) => {
                let source = LoadSource::Payload { base, offset, length: start.len() as u32 };
                let shorter = Operand { source, mask: None, ..left.clone() };
                Some(self.load(&shorter)?.bytes() == start)
            }
            _ => Some(self.load(left)?.bytes() == value),
        }
    }

    /// The kernel's bit for the state of the frame's connection.
    fn state(&self) -> u32 {
        const INVALID: u32 = 1;
        const UNTRACKED: u32 = 64;
        match self.frame.tracking {
            Tracking::Unknown => INVALID,
            Tracking::Untracked => UNTRACKED,
            Tracking::Connection(connection) => kernel_states(connection.state),
        }
    }

    fn is_element(&self, set: &SetRef, key: &[u8]) -> bool {
        match set {
            SetRef::Anonymous(_, elements) => elements.contains(key),
            SetRef::Named(name) => match self.rules.sets.get(&**name) {
                Some(SetContents::Values(values)) => values.contains(key),
                Some(SetContents::Table(elements)) => elements.contains_key(key),
                Some(SetContents::Counts) => true,
                None => false,
            },
        }
    }

    fn load(&self, operand: &Operand) -> Option<Register> {
        load::load(operand, &self.frame, &self.headers)
    }

    fn tuple(&self, operands: &[Operand]) -> Option<Register> {
        load::tuple(operands, &self.frame, &self.headers)
    }
}

fn toward(verdict: &Verdict) -> Onward<'_> {
    match verdict {
        Verdict::Accept => Onward::End(End::Accept),
        Verdict::Drop => Onward::End(End::Drop),
        Verdict::Jump(chain) => Onward::Jump(chain),
        Verdict::Goto(chain) => Onward::Goto(chain),
    }
}

/// What a match reads of a frame: for each of its keys the bytes, or none where the frame has no such thing.
pub fn seen(part: &Match, frame: Frame<'_>) -> Vec<Option<Vec<u8>>> {
    let headers = Headers::of(frame.bytes, frame.tag);
    let read = |key: &&crate::program::ir::Key| {
        let operand = crate::program::ir::operand::operand(Family::Bridge, Default::default(), key);
        load::load(&operand, &frame, &headers).map(|value| value.bytes().to_vec())
    };
    part.keys().iter().map(read).collect()
}
