//! What a filter's author should know of a program that is right as it is.

use super::{Features, Options};
use crate::diag::Diagnostic;
use crate::filter::{Action, Direction};
use crate::resolve::{Resolved, Rule, Test};
use std::collections::BTreeSet;

/// Warnings about a resolved filter, each rule once.
pub fn warnings(resolved: &Resolved, options: &Options) -> Vec<Diagnostic> {
    let notes: BTreeSet<Diagnostic> =
        resolved.rules().flat_map(|rule| notes(rule, options.features)).collect();
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
