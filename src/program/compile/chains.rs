//! The chains of a program and how they lead to each other.
//!
//! Chains are what every commit pays for, and rules what every packet pays for: jumps by Ethernet type
//! are one map where order permits, a chain of one rule stands in its place, a chain that ends with "unless X, drop" is one
//! negated match. The verdicts are those of the rules in order, always.

use super::ethernet::{BRIDGE_GROUP, ChainContext, IPV4, IPV6, ether_type, looks_at};
use super::matches::equals;
use super::{Build, Direction, Part};
use crate::document::field::Field;
use crate::document::filter::schema::Layer;
use crate::program::ir::{Action, Bytes, Key, KeySource, Match, Name, Rule, Verdict};
use crate::program::printable;
use crate::program::resolve::{self, RootItem};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Which frames a place of the root chain is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EtherTypeFilter {
    Type(u16),
    Bpdu,
    All,
}

/// A place of the root chain: rules with their guards, or a jump that still wants one.
enum RootBlock {
    Rules(Vec<Rule>),
    Jump(Name),
}

/// Chain names begin with the frames they are for, the longer beginnings first.
const GUARDS: &[(&str, EtherTypeFilter)] = &[
    ("rarp", EtherTypeFilter::Type(0x8035)),
    ("arp", EtherTypeFilter::Type(0x0806)),
    ("ipv4", EtherTypeFilter::Type(IPV4)),
    ("ipv6", EtherTypeFilter::Type(IPV6)),
    ("vlan", EtherTypeFilter::Type(0x8100)),
    ("stp", EtherTypeFilter::Bpdu),
];

/// Both families of the IP layer: the Ethernet type and the chain.
const FAMILIES: [(Layer, u16, &str); 2] = [(Layer::Ipv4, IPV4, "ip/v4"), (Layer::Ipv6, IPV6, "ip/v6")];
const IP: &str = "ip";

fn guard(chain: &str) -> EtherTypeFilter {
    GUARDS
        .iter()
        .find(|(prefix, _)| chain.starts_with(prefix))
        .map_or(EtherTypeFilter::All, |(_, guard)| *guard)
}

impl EtherTypeFilter {
    fn known(self) -> Option<u16> {
        match self {
            EtherTypeFilter::Type(ether_type) => Some(ether_type),
            _ => None,
        }
    }

    fn matches(self) -> Vec<Match> {
        match self {
            EtherTypeFilter::Type(ether_type) => vec![Match::ether_type(ether_type)],
            EtherTypeFilter::Bpdu => vec![equals(Field::EtherDaddr, &BRIDGE_GROUP)],
            EtherTypeFilter::All => Vec::new(),
        }
    }
}

impl Build<'_> {
    /// All chains that frames of one way walk.
    pub(super) fn add_direction(&mut self, direction: Direction) {
        let families = if self.part == Part::Link { BTreeMap::new() } else { self.add_ip_layer(direction) };
        if self.part == Part::Ip {
            return self.add_packets(direction, families);
        }
        if !families.is_empty() {
            self.add_chain(
                direction.name(IP),
                vec![by_type(families, Action::Goto, Verdict::Goto), accept()],
            );
        }
        let places = self.places(direction);
        let mut root = in_order(places);
        root.push(Rule::new(Vec::new(), self.onward(direction, None)));
        cut_off(&mut root);
        self.add_chain(direction.chain().into(), root);
        self.splice(direction);
    }

    /// Where a frame goes that the Ethernet layer lets through.
    pub(super) fn onward(&self, direction: Direction, ether_type: Option<u16>) -> Action {
        let chain = match ether_type {
            Some(ether_type) => {
                FAMILIES.iter().find(|(_, family, _)| *family == ether_type).map(|(.., c)| *c)
            }
            None => Some(IP),
        };
        let chain = chain.map(|chain| direction.name(chain));
        chain.filter(|chain| self.program.chains.contains_key(chain)).map_or(Action::Accept, Action::Goto)
    }

    /// The chain that takes packets of the IP layer, where no Ethernet type can be read.
    fn add_packets(&mut self, direction: Direction, families: BTreeMap<u16, Name>) {
        let family =
            |ether_type: u16| Match::equals(Key::new(KeySource::Protocol), &ether_type.to_be_bytes());
        let goto = families.into_iter().map(|(of, chain)| Rule::new(vec![family(of)], Action::Goto(chain)));
        self.add_chain(direction.chain().into(), goto.chain([accept()]).collect());
    }

    /// The IP layer's chains, each ending in a verdict, by Ethernet type.
    fn add_ip_layer(&mut self, direction: Direction) -> BTreeMap<u16, Name> {
        let mut targets = BTreeMap::new();
        for (layer, ether_type, chain) in FAMILIES {
            let mut rules = self.flow_rules(layer, direction);
            if rules.is_empty() {
                continue;
            }
            rules.push(Rule::new(Vec::new(), Action::Accept));
            cut_off(&mut rules);
            if !is_open(&rules) {
                rules.splice(0..0, self.host_rule(direction));
            }
            self.add_chain(direction.name(chain), rules);
            targets.insert(ether_type, direction.name(chain));
        }
        targets
    }

    fn places(&mut self, direction: Direction) -> Vec<(EtherTypeFilter, RootBlock)> {
        let resolved = self.resolved;
        let mut places = Vec::new();
        for step in &resolved.root {
            match step {
                RootItem::Rule(rule) => {
                    let standing = ChainContext { direction, known: None, in_chain: false };
                    let guard = ether_type(rule).map_or(EtherTypeFilter::All, EtherTypeFilter::Type);
                    places.push((guard, RootBlock::Rules(self.link_rule(rule, standing))));
                }
                RootItem::Chain(name) => {
                    let guard = guard(name);
                    places.extend(self.subchain(direction, name, guard).map(|place| (guard, place)));
                }
            }
        }
        places.retain(|(_, place)| !matches!(place, RootBlock::Rules(rules) if rules.is_empty()));
        places
    }

    /// A chain of the Ethernet layer, or its one rule.
    fn subchain(&mut self, direction: Direction, name: &str, guard: EtherTypeFilter) -> Option<RootBlock> {
        let resolved = self.resolved;
        let standing = ChainContext { direction, known: guard.known(), in_chain: true };
        let mine = resolved.chains[name].iter().filter(|rule| looks_at(rule.direction, direction));
        let mut rules: Vec<Rule> =
            mine.flat_map(|rule: &resolve::ResolvedRule| self.link_rule(rule, standing)).collect();
        cut_off(&mut rules);
        if !self.options.counters {
            drop_returns(&mut rules);
            unless(&mut rules);
        }
        match &*rules {
            [] => None,
            [single] if single.action != Action::Return => {
                Some(RootBlock::Rules(vec![inline(single, guard)]))
            }
            all if guard == EtherTypeFilter::All && !returns(all) => Some(RootBlock::Rules(rules)),
            _ => {
                let name = direction.name(&printable(name));
                self.add_chain(name.clone(), rules);
                Some(RootBlock::Jump(name))
            }
        }
    }

    /// Puts the chain that tells the families apart where it is gone to, if that is one place only.
    fn splice(&mut self, direction: Direction) {
        let chain = direction.name(IP);
        let all = self.program.chains.values().flatten();
        let uses = all.filter(|rule| rule.action == Action::Goto(chain.clone())).count();
        let root = self.program.chains.get(direction.chain()).and_then(|rules| rules.last());
        let ends_with =
            root.is_some_and(|rule| is_unconditional(rule) && rule.action == Action::Goto(chain.clone()));
        if uses == 0 {
            self.program.chains.remove(&chain);
        } else if uses == 1 && ends_with {
            let rules = self.program.chains.remove(&chain).expect("it is gone to, so it exists");
            let root = self.program.chains.get_mut(direction.chain()).expect("it was made just before");
            root.pop();
            root.extend(rules);
        }
    }
}

fn accept() -> Rule {
    Rule::new(Vec::new(), Action::Accept)
}

fn is_unconditional(rule: &Rule) -> bool {
    rule.matches.is_empty()
        && !matches!(rule.action, Action::Continue | Action::Jump(_) | Action::AnonymousVmap(..))
}

/// Nothing behind a rule that takes every frame is ever reached, nor a rule that asks for what an earlier one took.
fn cut_off(rules: &mut Vec<Rule>) {
    if let Some(last) = rules.iter().position(is_unconditional) {
        rules.truncate(last + 1);
    }
    let mut taken = BTreeSet::new();
    rules.retain(|rule| !takes(rule) || taken.insert(rule.matches.clone()));
}

/// Whether no frame that matches gets behind the rule. (A limit of connections can match now and not then.)
fn takes(rule: &Rule) -> bool {
    let limited = rule.matches.iter().any(|part| matches!(part, Match::ConnLimit { .. }));
    !limited && !matches!(rule.action, Action::Continue | Action::Jump(_) | Action::AnonymousVmap(..))
}

/// The end of a chain returns by itself.
fn drop_returns(rules: &mut Vec<Rule>) {
    while rules.last().is_some_and(|rule| rule.action == Action::Return) {
        rules.pop();
    }
}

fn returns(rules: &[Rule]) -> bool {
    rules.iter().any(|rule| rule.action == Action::Return)
}

/// "Return if X; drop" is "drop unless X", where X is known of every frame. (A match on a header that a frame
/// does not have fails, negated or not.)
fn unless(rules: &mut Vec<Rule>) {
    let [.., first, last] = &mut **rules else { return };
    if first.action != Action::Return || !is_unconditional(last) {
        return;
    }
    if let [part] = &*first.matches
        && let Some(opposite) = opposite(part)
    {
        last.matches.push(opposite);
        rules.remove(rules.len() - 2);
    }
}

fn opposite(part: &Match) -> Option<Match> {
    let always_there = |key: &&Key| {
        let fields = [Field::EtherSaddr, Field::EtherDaddr, Field::EtherType];
        matches!(key.from, KeySource::Iif | KeySource::Oif)
            || fields.iter().any(|field| key.from == KeySource::Field(*field))
    };
    if !part.keys().iter().all(always_there) {
        return None;
    }
    let mut opposite = part.clone();
    match &mut opposite {
        Match::Compare { negated, .. } | Match::Range { negated, .. } | Match::Lookup { negated, .. } => {
            *negated = !*negated;
            Some(opposite)
        }
        _ => None,
    }
}

/// The one rule of a chain with the guard of the jump to it, which makes the chain's own context needless.
fn inline(rule: &Rule, guard: EtherTypeFilter) -> Rule {
    let own =
        rule.matches.iter().filter(|part| !part.keys().iter().any(|key| key.from == KeySource::Protocol));
    let own = own.filter(|part| !guard.matches().contains(part));
    Rule { matches: guard.matches().into_iter().chain(own.cloned()).collect(), ..rule.clone() }
}

/// The root chain's rules. Among neighbours that each look at one Ethernet type, those of different types may
/// change places, so that their jumps come together.
fn in_order(places: Vec<(EtherTypeFilter, RootBlock)>) -> Vec<Rule> {
    let mut rules = Vec::new();
    let mut run: Vec<(u16, VecDeque<RootBlock>)> = Vec::new();
    for (guard, place) in places {
        let EtherTypeFilter::Type(ether_type) = guard else {
            rules.extend(by_turns(std::mem::take(&mut run)));
            rules.extend(plain(guard, place));
            continue;
        };
        match run.iter_mut().find(|(known, _)| *known == ether_type) {
            Some((_, places)) => places.push_back(place),
            None => run.push((ether_type, VecDeque::from([place]))),
        }
    }
    rules.extend(by_turns(run));
    rules
}

/// Of each type its rules up to a jump, then all of these jumps at once, and so on.
fn by_turns(mut run: Vec<(u16, VecDeque<RootBlock>)>) -> Vec<Rule> {
    let mut rules = Vec::new();
    while run.iter().any(|(_, places)| !places.is_empty()) {
        let mut jumps = BTreeMap::new();
        for (ether_type, places) in &mut run {
            while let Some(place) = places.pop_front() {
                match place {
                    RootBlock::Rules(own) => rules.extend(own),
                    RootBlock::Jump(chain) => {
                        jumps.insert(*ether_type, chain);
                        break;
                    }
                }
            }
        }
        if !jumps.is_empty() {
            rules.push(by_type(jumps, Action::Jump, Verdict::Jump));
        }
    }
    rules
}

fn plain(guard: EtherTypeFilter, place: RootBlock) -> Vec<Rule> {
    match place {
        RootBlock::Rules(rules) => rules,
        RootBlock::Jump(chain) => vec![Rule::new(guard.matches(), Action::Jump(chain))],
    }
}

/// One map from Ethernet types to chains; a plain rule where it would hold one.
fn by_type(targets: BTreeMap<u16, Name>, single: fn(Name) -> Action, verdict: fn(Name) -> Verdict) -> Rule {
    if let [(ether_type, chain)] = &*targets.iter().collect::<Vec<_>>() {
        return Rule::new(vec![Match::ether_type(**ether_type)], single((*chain).clone()));
    }
    let bytes = |ether_type: u16| -> Bytes { ether_type.to_be_bytes().into() };
    let map = targets.into_iter().map(|(ether_type, chain)| (bytes(ether_type), verdict(chain)));
    Rule::new(Vec::new(), Action::AnonymousVmap(Key::field(Field::EtherType), map.collect()))
}

/// Whether rules let every frame pass.
fn is_open(rules: &[Rule]) -> bool {
    rules.iter().all(|rule| matches!(rule.action, Action::Accept | Action::Continue))
}
