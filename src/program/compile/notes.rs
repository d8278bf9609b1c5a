//! What a filter's author should know of a program that is right as it is.

use super::ip::placements;
use super::{Capabilities, Direction, Options};
use crate::document::diag::Diagnostic;
use crate::document::field::Field;
use crate::document::filter::schema::Layer;
use crate::document::filter::{RuleAction, RuleDirection};
use crate::program::compile::ethernet::{VLAN, looks_at};
use crate::program::resolve::{Condition, Predicate, Resolved, ResolvedRule};
use std::collections::BTreeSet;

/// Whether a filter is bound itself, or only referred to by others, which decide what it leaves open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// It is bound.
    Whole,
    /// It is a building block.
    Block,
}

/// Warnings about a resolved filter, each rule once.
pub fn warnings(resolved: &Resolved, options: &Options, used: Use) -> Vec<Diagnostic> {
    let mut notes: BTreeSet<Diagnostic> = silenced(resolved, options.features).into_iter().collect();
    notes.extend(both_ways(resolved));
    notes.extend(accepted_in_vain(resolved));
    if used == Use::Whole {
        notes.extend(left_over(resolved).or_else(|| tagged(resolved)));
        notes.extend(refuses_every_frame(resolved));
    }
    notes.into_iter().collect()
}

/// Rules whose answer reaches no sender where the kernel can do as much as this.
pub fn silenced(resolved: &Resolved, features: Capabilities) -> Vec<Diagnostic> {
    let rejecting = resolved.rules().filter(|rule| rule.action == RuleAction::Reject);
    let silenced = rejecting.filter_map(|rule| match (features.reject, rule.direction) {
        (false, _) => Some(at(rule, "this kernel cannot answer a rejected frame; it is dropped in silence")),
        (true, RuleDirection::In) => {
            Some(at(rule, "a frame to the guest cannot be answered; it is dropped in silence"))
        }
        (true, _) => None,
    });
    let once: BTreeSet<Diagnostic> = silenced.collect();
    once.into_iter().collect()
}

fn at(rule: &ResolvedRule, message: &str) -> Diagnostic {
    let label = format!("in this rule of filter '{}'", rule.origin.filter);
    Diagnostic::warning(message).at(rule.origin.place.clone(), label)
}

/// Rules that accept both ways because they do not look at connections, though a later rule refuses what the other side
/// begins.
fn both_ways(resolved: &Resolved) -> Vec<Diagnostic> {
    let refused_later = |at: usize, direction: Direction, layer: Layer| {
        let mut later = resolved.ip[at + 1..].iter().filter(|rule| layer_of(rule) == Some(layer));
        later.any(|rule| refuses(rule) && looks_at(rule.direction, direction))
    };
    let mut found = Vec::new();
    for (number, rule) in resolved.ip.iter().enumerate() {
        let (Some(layer), false, RuleAction::Accept) = (layer_of(rule), rule.statematch, rule.action) else {
            continue;
        };
        let (other, comes) = match rule.direction {
            RuleDirection::Out => (Direction::In, "comes to the guest"),
            RuleDirection::In => (Direction::Out, "the guest sends"),
            RuleDirection::InOut => continue,
        };
        let mirrored = placements(rule).iter().any(|place| place.direction == other);
        if mirrored && refused_later(number, other, layer) {
            let message =
                format!("with statematch='false' this rule also accepts what {comes}, as if in answer");
            let help = "state='NONE' makes it count one way and needs no connections either; answers then need a rule of their own";
            found.push(at(rule, &message).help(help));
        }
    }
    found
}

/// A rule of the Ethernet layer that accepts what the last rule of the IP layer refuses, whatever it is.
fn accepted_in_vain(resolved: &Resolved) -> Option<Diagnostic> {
    let last = resolved.ip.iter().find(|rule| refuses(rule) && is_all(rule))?;
    let layer = layer_of(last);
    let family = if layer == Some(Layer::Ipv6) { "ipv6" } else { "ip" };
    let accepts_some = |rule: &ResolvedRule| rule.action == RuleAction::Accept && layer_of(rule) == layer;
    let mut ethernet = resolved.root_rules().chain(resolved.chains.values().flatten());
    let accepted = ethernet.find(|rule| {
        let own = rule.origin.filter == last.origin.filter && speaks_of(rule, family);
        own && rule.action == RuleAction::Accept && overlaps(rule.direction, last.direction)
    })?;
    if resolved.ip.iter().any(accepts_some) {
        return None;
    }
    let (by, number) = (last.protocol.map_or("", |protocol| protocol.name), last.origin.rule);
    let message = format!("<{by}> of rule {number} refuses all that this rule accepts");
    Some(
        at(accepted, &message)
            .help("a frame must pass both layers: what an Ethernet rule accepts goes on to the IP layer"),
    )
}

fn overlaps(one: RuleDirection, other: RuleDirection) -> bool {
    one == other || one == RuleDirection::InOut || other == RuleDirection::InOut
}

fn layer_of(rule: &ResolvedRule) -> Option<Layer> {
    rule.protocol.map(|protocol| protocol.layer)
}

fn refuses(rule: &ResolvedRule) -> bool {
    matches!(rule.action, RuleAction::Drop | RuleAction::Reject)
}

/// What a rule that refuses the rest of a family leaves: all that is not of that family.
fn left_over(resolved: &Resolved) -> Option<Diagnostic> {
    let last = resolved.ip.iter().find(|rule| refuses(rule) && is_all(rule))?;
    let direction = if looks_at(last.direction, Direction::Out) { Direction::Out } else { Direction::In };
    let refused = |name: &str, layer: Option<Layer>| {
        let mut ethernet = resolved.root_rules().chain(resolved.chains.values().flatten());
        let mut ip = resolved.ip.iter().filter(|rule| refuses(rule) && is_all(rule));
        ethernet.any(|rule| refuses(rule) && speaks_of(rule, name))
            || layer.is_some() && ip.any(|rule| layer_of(rule) == layer)
    };
    let left = [
        (!refused("ip", Some(Layer::Ipv4))).then_some("IPv4"),
        (!refused("ipv6", Some(Layer::Ipv6))).then_some("IPv6"),
        (!refused("arp", None)).then_some("ARP"),
        (!closes_tags(resolved, direction)).then_some("tagged frames"),
    ];
    let left: Vec<&str> = left.into_iter().flatten().collect();
    if left.is_empty() || closes_all(resolved, direction) {
        return None;
    }
    let name = last.protocol.map_or("", |protocol| protocol.name);
    let message = format!("<{name}> leaves what is no packet of its family: {} pass", left.join(", "));
    let help = "what no rule decides is accepted; accept the Ethernet types that the guest needs, and refer to \
                no-other-l2-traffic (by a tag, VLAN 0 included, a guest gets by all rules but mac and vlan)";
    Some(at(last, &message).help(help))
}

/// A rule that refuses every frame where nothing is accepted before.
fn refuses_every_frame(resolved: &Resolved) -> Option<Diagnostic> {
    let refusal = resolved.root_rules().find(|rule| takes_all(rule) && refuses(rule))?;
    let accepts = |direction: Direction| {
        let mut accepting = resolved.rules().filter(|rule| rule.action == RuleAction::Accept);
        accepting.any(|rule| looks_at(rule.direction, direction))
    };
    let words = match refusal.direction {
        RuleDirection::Out => "from the guest",
        RuleDirection::In => "to the guest",
        RuleDirection::InOut => "to and from the guest",
    };
    let directions = [Direction::Out, Direction::In]
        .into_iter()
        .filter(|direction| looks_at(refusal.direction, *direction));
    if directions.into_iter().any(accepts) {
        return None;
    }
    let message = format!("filter '{}' refuses every frame {words}, ARP and DHCP included", resolved.filter);
    let help = "accept what the guest needs by rules of a lower priority, or refer to a filter that does";
    Some(
        Diagnostic::warning(message)
            .at(refusal.origin.place.clone(), "nothing is accepted before")
            .help(help),
    )
}

/// Whether a rule of the root chain is about every frame.
fn takes_all(rule: &ResolvedRule) -> bool {
    rule.protocol.is_none_or(|protocol| protocol.name == "mac") && rule.conditions.is_empty()
}

fn speaks_of(rule: &ResolvedRule, name: &str) -> bool {
    rule.protocol.is_some_and(|protocol| protocol.name == name)
}

/// Whether some rule of the root chain refuses what no earlier one accepts.
fn closes_all(resolved: &Resolved, direction: Direction) -> bool {
    resolved.root_rules().any(|rule| takes_all(rule) && refuses(rule) && looks_at(rule.direction, direction))
}

/// Whether a rule of the IP layer is about all packets of its family.
fn is_all(rule: &ResolvedRule) -> bool {
    rule.protocol.is_some_and(|protocol| matches!(protocol.name, "all" | "all-ipv6"))
        && rule.conditions.is_empty()
}

/// Rules of protocols do not look into tags, so that a filter whose last word is theirs lets tagged frames by.
fn tagged(resolved: &Resolved) -> Option<Diagnostic> {
    let in_root = resolved.root_rules().chain(&resolved.ip).filter(|rule| {
        rule.protocol.is_some_and(|protocol| !matches!(protocol.name, "mac" | "vlan" | "stp"))
    });
    let untagged = |chain: &str| ["ipv4", "ipv6", "arp", "rarp"].iter().any(|kind| chain.starts_with(kind));
    let in_chains = resolved.chains.iter().filter(|(chain, _)| untagged(chain)).flat_map(|(_, rules)| rules);
    let open = |rule: &&ResolvedRule| {
        let directions = [Direction::Out, Direction::In];
        directions
            .into_iter()
            .any(|direction| looks_at(rule.direction, direction) && !closes_tags(resolved, direction))
    };
    let rule = in_root.chain(in_chains).filter(|rule| refuses(rule)).find(open)?;
    let message = format!("filter '{}' lets all tagged frames by", resolved.filter);
    let help =
        "a guest gets by with a tag, VLAN 0 included; drop protocol vlan, or what no other rule accepts";
    let place = rule.origin.place.clone();
    Some(Diagnostic::warning(message).at(place, "such a rule looks at untagged frames only").help(help))
}

/// Whether some rule refuses frames for nothing but their tag, or for nothing at all.
fn closes_tags(resolved: &Resolved, direction: Direction) -> bool {
    let on_tags = |condition: &Condition| {
        match condition {
        Condition::Is(Predicate::Equals { field: Field::EtherType, value, .. }) => **value == VLAN.to_be_bytes(),
        Condition::NoneOf(tests) => tests.iter().all(
            |test| matches!(test, Predicate::Equals { field: Field::EtherType, value, .. } if **value != VLAN.to_be_bytes()),
        ),
        _ => false,
    }
    };
    let on_all = |rule: &ResolvedRule| match rule.protocol {
        None => true,
        Some(protocol) => protocol.layer == Layer::Ethernet && matches!(protocol.name, "mac" | "vlan"),
    };
    let chains =
        resolved.chains.iter().filter(|(name, _)| name.starts_with("mac") || name.starts_with("vlan"));
    resolved.root_rules().chain(chains.flat_map(|(_, rules)| rules)).any(|rule| {
        let refuses = matches!(rule.action, RuleAction::Drop | RuleAction::Reject);
        refuses && looks_at(rule.direction, direction) && on_all(rule) && rule.conditions.iter().all(on_tags)
    })
}
