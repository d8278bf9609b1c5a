//! Rules of the IP layer: which chains they stand in, with which ends exchanged and which state of connections.
//!
//! The placements are those of libvirt's iptables driver, host and forwarded traffic alike. A source MAC address is left
//! out of a mirrored rule, and the rule with it where it said nothing else. A limit of connections holds only where the
//! rule is as written.

use super::ethernet::{not_later, with_context};
use super::matches::{Matches, View, turn};
use super::{AttachPoint, Build, Capabilities, Direction, Part};
use crate::document::diag::{Code, Diagnostic};
use crate::document::field::Field;
use crate::document::filter::schema::Layer;
use crate::document::filter::{RuleAction, RuleDirection, state};
use crate::program::ir::{self, CtDirection, Key, KeySource, KeyType, Match, SetRef};
use crate::program::resolve::{Condition, Predicate, Resolved, ResolvedRule, RootItem};

/// One chain that a rule stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RulePlacement {
    pub(super) direction: Direction,
    /// Whether both ends are exchanged.
    pub(super) ends_swapped: bool,
    /// States of connections it asks for on its own account.
    pub(super) states: Option<u8>,
    /// The direction within the connection it asks for.
    pub(super) ct_direction: Option<CtDirection>,
}

/// All chains that a rule stands in.
pub(super) fn placements(rule: &ResolvedRule) -> Vec<RulePlacement> {
    let stateful = rule.action == RuleAction::Accept
        && rule.statematch
        && rule.direction != RuleDirection::InOut
        && !has_state(rule)
        && !has_limit(rule);
    let both_ways = rule.direction == RuleDirection::InOut || !has_state(rule) && !has_icmp_type(rule);
    let straight = |direction, mirrored| RulePlacement {
        direction,
        ends_swapped: mirrored,
        states: stateful.then_some(state::NEW | state::ESTABLISHED),
        ct_direction: (stateful && !has_icmp_type(rule)).then_some(CtDirection::Original),
    };
    let reverse = |direction| RulePlacement {
        direction,
        ends_swapped: true,
        states: stateful.then_some(state::ESTABLISHED),
        ct_direction: stateful.then_some(CtDirection::Reply),
    };
    let mut all = match rule.direction {
        RuleDirection::Out => vec![straight(Direction::Out, false), reverse(Direction::In)],
        RuleDirection::In => vec![straight(Direction::In, false), reverse(Direction::Out)],
        RuleDirection::InOut => vec![straight(Direction::In, false), reverse(Direction::Out)],
    };
    all.truncate(if both_ways { 2 } else { 1 });
    all.retain(|place| !place.ends_swapped || !has_limit(rule) && says_more_than_its_sender(rule));
    all
}

/// Whether the rule asks for states in so many words. Where `statematch` turns tracking off they mean nothing.
fn has_state(rule: &ResolvedRule) -> bool {
    rule.statematch && rule.tests().any(|test| matches!(test, Predicate::State(_)))
}

fn has_limit(rule: &ResolvedRule) -> bool {
    rule.tests().any(|test| matches!(test, Predicate::ConnLimit(_)))
}

fn has_icmp_type(rule: &ResolvedRule) -> bool {
    let types = [Field::IcmpType, Field::Icmp6Type];
    rule.tests().any(|test| test.fields().iter().any(|field| types.contains(field)))
}

/// False where a rule names a source MAC address and nothing else that a mirrored rule keeps before its state.
fn says_more_than_its_sender(rule: &ResolvedRule) -> bool {
    let sender = |condition: &Condition| condition.fields().contains(&Field::EtherSaddr);
    let more = |condition: &Condition| match condition {
        Condition::Is(Predicate::State(_) | Predicate::Ipset(..)) => false,
        Condition::NoneOf(tests)
            if tests.iter().all(|test| matches!(test, Predicate::State(_) | Predicate::Ipset(..))) =>
        {
            false
        }
        condition => !condition.is_about(Field::EtherSaddr),
    };
    !rule.conditions.iter().any(sender) || rule.conditions.iter().any(more)
}

impl Build<'_> {
    /// The rules of the IP layer for frames of one family that go one way.
    pub(super) fn flow_rules(&mut self, layer: Layer, direction: Direction) -> Vec<ir::Rule> {
        let of_layer = |rule: &&ResolvedRule| rule.protocol.is_some_and(|protocol| protocol.layer == layer);
        let resolved = self.resolved;
        let mut rules = Vec::new();
        for rule in resolved.ip.iter().filter(of_layer) {
            for fault in faults(rule, direction, self.part, self.options.features) {
                if !self.diagnostics.contains(&fault) {
                    self.diagnostics.push(fault);
                }
            }
            for place in placements(rule).into_iter().filter(|place| place.direction == direction) {
                rules.extend(self.flow_rule(rule, place));
            }
        }
        rules
    }

    fn flow_rule(&mut self, rule: &ResolvedRule, place: RulePlacement) -> Vec<ir::Rule> {
        let Some(protocol) = rule.protocol else { return Vec::new() };
        if rule.action == RuleAction::Continue && !self.options.counters {
            return Vec::new();
        }
        let address = if protocol.layer == Layer::Ipv6 { KeyType::Ipv6 } else { KeyType::Ipv4 };
        let view = View {
            direction: place.direction,
            ends_swapped: place.ends_swapped,
            ip_layer: true,
            upper: KeySource::L4Proto,
            address,
        };
        let wanted = |condition: &Condition| {
            let sender = view.ends_swapped && condition.is_about(Field::EtherSaddr);
            !sender && (rule.statematch || !is_state(condition))
        };
        let mut fixed = Matches::new();
        if let Some(number) = protocol.ip_protocol {
            fixed.push((turn::UPPER, Match::equals(Key::new(KeySource::L4Proto), &[number])));
        }
        fixed.extend(place.states.map(|states| (turn::STATE, Match::CtState { states, negated: false })));
        fixed.extend(place.ct_direction.map(|direction| (turn::DIRECTION, Match::CtDirection(direction))));
        let action = self.flow_action(rule, place.direction);
        let alternatives = self.alternatives(rule, view, &wanted);
        let finish = |mut found: Matches| {
            found.extend(fixed.iter().cloned());
            found.extend(not_later(rule, &found));
            self.ir_rule(rule, with_context(found, protocol.ether_type), action.clone())
        };
        let rules = alternatives.into_iter().map(finish);
        rules.flat_map(|rule| [uncounted(&rule), Some(rule)].into_iter().rev().flatten()).collect()
    }

    /// Nothing comes after the IP layer, so that to return is to accept.
    fn flow_action(&self, rule: &ResolvedRule, direction: Direction) -> ir::Action {
        let ether_type = rule.protocol.and_then(|protocol| protocol.ether_type);
        let protocol = rule.protocol.and_then(|protocol| protocol.ip_protocol);
        match rule.action {
            RuleAction::Drop => ir::Action::Drop,
            RuleAction::Accept | RuleAction::Return => ir::Action::Accept,
            RuleAction::Reject => self.rejection(direction, ether_type, protocol),
            RuleAction::Continue => ir::Action::Continue,
        }
    }
}

/// A source that the set of counts has no room for is taken to be over its limit: the rule that counts says nothing of it.
fn uncounted(rule: &ir::Rule) -> Option<ir::Rule> {
    let refuses = matches!(rule.action, ir::Action::Drop | ir::Action::Reject(_));
    let mut uncounted = rule.clone();
    let limit = uncounted.matches.iter_mut().find(|part| matches!(part, Match::ConnLimit { .. }))?;
    if let Match::ConnLimit { set, keys, .. } = limit {
        let (keys, set) = (std::mem::take(keys), SetRef::Named(set.clone()));
        *limit = Match::Lookup { keys, negated: true, set };
    }
    refuses.then_some(uncounted)
}

/// Whether some rule asks for the state of connections or counts them.
pub(super) fn asks_for_connections(resolved: &Resolved) -> bool {
    let asks = |rule: &ResolvedRule| {
        has_limit(rule) || placements(rule).into_iter().any(|place| asks_state(rule, place))
    };
    resolved.ip.iter().any(asks)
}

/// Whether the filter wants what a port's own hooks cannot do: connections, or answers.
pub fn needs_bridge(resolved: &Resolved) -> bool {
    let root = resolved.root.iter().filter_map(|step| match step {
        RootItem::Rule(rule) => Some(rule),
        RootItem::Chain(_) => None,
    });
    let mut all = root.chain(resolved.chains.values().flatten()).chain(&resolved.ip);
    asks_for_connections(resolved) || all.any(|rule| rule.action == RuleAction::Reject)
}

/// Whether the IP layer refuses packets to the guest.
pub fn refuses_to_guest(resolved: &Resolved) -> bool {
    let refuses = |rule: &ResolvedRule| matches!(rule.action, RuleAction::Drop | RuleAction::Reject);
    let to_guest =
        |rule: &ResolvedRule| placements(rule).iter().any(|place| place.direction == Direction::In);
    resolved.ip.iter().any(|rule| refuses(rule) && to_guest(rule))
}

/// Whether some rule of the IP layer answers what it refuses.
pub(super) fn rejects_packets(resolved: &Resolved) -> bool {
    resolved.ip.iter().any(|rule| rule.action == RuleAction::Reject)
}

fn asks_state(rule: &ResolvedRule, place: RulePlacement) -> bool {
    let named = |test: &Predicate| matches!(test, Predicate::State(states) if states & state::NONE == 0);
    place.states.is_some() || has_state(rule) && rule.tests().any(named)
}

/// What keeps the rule from being enforced for frames of one way.
fn faults(
    rule: &ResolvedRule,
    direction: Direction,
    part: Part,
    features: Capabilities,
) -> impl Iterator<Item = Diagnostic> {
    let mine = placements(rule).into_iter().find(|place| place.direction == direction);
    let found = mine.map(|place| [lacking(rule, place, part, features), unreadable(rule, place, part)]);
    found.into_iter().flatten().flatten()
}

/// The way out for a rule that asks for no state in so many words, and what it costs.
const BY_ITSELF: &str = "; statematch='false' has the rule judge each frame by itself, but then either side may begin what it accepts";

/// What this kernel lacks there.
fn lacking(
    rule: &ResolvedRule,
    place: RulePlacement,
    part: Part,
    features: Capabilities,
) -> Option<Diagnostic> {
    let asks_state = asks_state(rule, place);
    let hooks = features.hooks;
    let (message, help) = if !asks_state && !has_limit(rule) {
        return None;
    } else if part != Part::Ip && hooks != AttachPoint::Bridge {
        return Some(untracked(rule, hooks));
    } else if has_limit(rule) && !features.limit {
        let message = "this kernel cannot count connections (CONFIG_NFT_CONNLIMIT)";
        (message, "a kernel with that option can, or leave connlimit-above out".to_owned())
    } else if !features.state {
        let message = match part {
            Part::Ip => "this kernel does not track connections (CONFIG_NF_CONNTRACK, CONFIG_NFT_CT)",
            _ => "this kernel does not track connections of bridges (CONFIG_NF_CONNTRACK_BRIDGE)",
        };
        let way_out = if has_state(rule) { "" } else { BY_ITSELF };
        (message, format!("a kernel with that option does{way_out}"))
    } else {
        return None;
    };
    let label = format!("rule {} of filter '{}' needs it", rule.origin.rule, rule.origin.filter);
    Some(Diagnostic::error(Code::INTERNAL, message).at(rule.origin.place.clone(), label).help(help))
}

/// A device's own hooks come before its connections are known.
fn untracked(rule: &ResolvedRule, hooks: AttachPoint) -> Diagnostic {
    let interface = match hooks {
        AttachPoint::Macvtap => "a macvtap",
        _ => "an interface that belongs to another, which is no bridge,",
    };
    let (number, filter) = (rule.origin.rule, &rule.origin.filter);
    let message = format!(
        "rule {number} of filter '{filter}' asks for the state of connections, which are not tracked where the \
         frames of {interface} pass"
    );
    let way_out = if has_state(rule) { "" } else { BY_ITSELF };
    let help = format!("a port of a bridge is tracked{way_out}");
    let place = rule.origin.place.clone();
    Diagnostic::error(Code::OPERATION_FAILED, message).at(place, "in this rule").help(help)
}

/// A packet on its way to the guest has no Ethernet header in the IP layer, or still that of the link it came in by.
fn unreadable(rule: &ResolvedRule, place: RulePlacement, part: Part) -> Option<Diagnostic> {
    let sender = rule.conditions.iter().any(|condition| condition.is_about(Field::EtherSaddr));
    let (number, filter) = (rule.origin.rule, &rule.origin.filter);
    let message = format!(
        "rule {number} of filter '{filter}' asks for the source MAC address of a frame to the guest, which a packet \
         that the host routes does not have yet where connections are known"
    );
    let help = "a mac rule can ask for it, or leave srcmacaddr out";
    let fault = || {
        let place = rule.origin.place.clone();
        Diagnostic::error(Code::OPERATION_FAILED, message).at(place, "in this rule").help(help)
    };
    (part == Part::Ip && place.direction == Direction::In && !place.ends_swapped && sender).then(fault)
}

fn is_state(condition: &Condition) -> bool {
    match condition {
        Condition::Is(test) => matches!(test, Predicate::State(_)),
        Condition::NoneOf(tests) => tests.iter().any(|test| matches!(test, Predicate::State(_))),
        Condition::Member(..) | Condition::NoMember(..) => false,
    }
}
