//! What a rule cannot say, reported when it is instantiated, as libvirt does; a filter that no interface uses may
//! say it.

use super::walk::Instance;
use super::{Condition, Predicate, ResolvedRule};
use crate::document::diag::{Code, Diagnostic};
use crate::document::field::Field;
use crate::document::filter::{RuleDirection, state};

/// Upper protocols that have ports where the Ethernet layer looks for them.
const WITH_PORTS: [u8; 4] = [6, 17, 33, 132];
const ICMPV6: u8 = 58;

/// Everything that is wrong with a rule.
pub(super) fn of(instance: &Instance, rule: &ResolvedRule) -> Vec<Diagnostic> {
    let name = rule.protocol.map_or("", |protocol| protocol.name);
    let ethernet = matches!(name, "ip" | "ipv6");
    let faults = [
        (name == "stp" && rule.direction == RuleDirection::InOut && reads(rule, &[Field::EtherSaddr])).then_some(
            "STP filtering in inout direction with source MAC address set is not supported",
        ),
        (ethernet && reads(rule, &[Field::ThSport, Field::ThDport]) && !has_protocol(rule, &WITH_PORTS)).then_some(
            "IP rule with port specification requires protocol specification with protocol to be either one of \
             tcp(6), udp(17), dccp(33), or sctp(132)",
        ),
        (ethernet && reads(rule, &[Field::Icmp6Type, Field::Icmp6Code]) && !has_protocol(rule, &[ICMPV6]))
            .then_some("IPv6 rule with an ICMPv6 type or code requires the protocol icmpv6(58)"),
        forbids_none(rule).then_some("state NONE cannot be negated"),
        asks_for_pairs(rule).then_some(
            "ipsetflags asks for more than one address, and a set holds single addresses here: give src or dst \
             alone, and write a rule for each",
        ),
    ];
    let label = format!("in this rule of filter '{}'", instance.filter.name);
    let place = || instance.place(instance.rule.span);
    let fault = |message: &str| Diagnostic::error(Code::INTERNAL, message).at(place(), label.clone());
    faults.into_iter().flatten().map(fault).collect()
}

fn reads(rule: &ResolvedRule, fields: &[Field]) -> bool {
    rule.conditions.iter().flat_map(Condition::fields).any(|field| fields.contains(&field))
}

fn has_protocol(rule: &ResolvedRule, numbers: &[u8]) -> bool {
    rule.conditions.iter().any(
        |condition| matches!(condition, Condition::Is(Predicate::UpperProtocol(number)) if numbers.contains(number)),
    )
}

/// The rest of the flags would be lost, and the rule broader.
fn asks_for_pairs(rule: &ResolvedRule) -> bool {
    rule.tests().any(|test| matches!(test, Predicate::Ipset(_, sides) if sides.len() > 1))
}

fn forbids_none(rule: &ResolvedRule) -> bool {
    rule.conditions.iter().any(|condition| match condition {
        Condition::NoneOf(tests) => {
            tests.iter().any(|test| matches!(test, Predicate::State(states) if states & state::NONE != 0))
        }
        _ => false,
    })
}
