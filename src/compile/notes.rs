//! What a filter's author should know of a program that is right as it is.

use super::{Features, Options, Way};
use crate::compile::link::{VLAN, looks_at};
use crate::diag::Diagnostic;
use crate::field::Field;
use crate::filter::schema::Layer;
use crate::filter::{Action, Direction};
use crate::resolve::{Condition, Resolved, Rule, Test};
use std::collections::BTreeSet;

/// Warnings about a resolved filter, each rule once.
pub fn warnings(resolved: &Resolved, options: &Options) -> Vec<Diagnostic> {
    let rules = resolved.rules().flat_map(|rule| notes(rule, options.features));
    let notes: BTreeSet<Diagnostic> = rules.chain(tagged(resolved)).collect();
    notes.into_iter().collect()
}

fn notes(rule: &Rule, features: Features) -> Vec<Diagnostic> {
    let at = |message: &str| {
        let label = format!("in this rule of filter '{}'", rule.origin.filter);
        Diagnostic::warning(message).at(rule.origin.place.clone(), label)
    };
    let rejects = rule.action == Action::Reject;
    let wide = rule.tests().any(|test| matches!(test, Test::Ipset(_, sides) if sides.len() > 1));
    let notes = [
        (rejects && !features.reject)
            .then(|| at("this kernel can not answer a rejected frame; it is dropped in silence")),
        (rejects && features.reject && rule.direction == Direction::In)
            .then(|| at("a frame to the guest can not be answered; it is dropped in silence")),
        wide.then(|| at("a set holds single addresses here; only the first of ipsetflags counts")),
    ];
    notes.into_iter().flatten().collect()
}

/// Rules of protocols do not look into tags, so that a filter whose last word is theirs lets tagged frames by.
fn tagged(resolved: &Resolved) -> Option<Diagnostic> {
    let open =
        |way| resolved.ip.iter().any(|rule| looks_at(rule.direction, way)) && !closes_tags(resolved, way);
    let open = open(Way::FromGuest) || open(Way::ToGuest);
    let message =
        format!("filter '{}' has rules of the IP layer and lets all tagged frames by", resolved.filter);
    let help = "these rules look at untagged frames only; drop protocol vlan, or what no other rule accepts";
    open.then(|| Diagnostic::warning(message).help(help))
}

/// Whether some rule refuses frames for nothing but their tag, or for nothing at all.
fn closes_tags(resolved: &Resolved, way: Way) -> bool {
    let on_tags = |condition: &Condition| {
        match condition {
        Condition::Is(Test::Equals { field: Field::EtherType, value, .. }) => **value == VLAN.to_be_bytes(),
        Condition::NoneOf(tests) => tests.iter().all(
            |test| matches!(test, Test::Equals { field: Field::EtherType, value, .. } if **value != VLAN.to_be_bytes()),
        ),
        _ => false,
    }
    };
    let on_all = |rule: &Rule| match rule.protocol {
        None => true,
        Some(protocol) => protocol.layer == Layer::Ethernet && matches!(protocol.name, "mac" | "vlan"),
    };
    let chains =
        resolved.chains.iter().filter(|(name, _)| name.starts_with("mac") || name.starts_with("vlan"));
    resolved.root_rules().chain(chains.flat_map(|(_, rules)| rules)).any(|rule| {
        let refuses = matches!(rule.action, Action::Drop | Action::Reject);
        refuses && looks_at(rule.direction, way) && on_all(rule) && rule.conditions.iter().all(on_tags)
    })
}
