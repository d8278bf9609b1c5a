//! Rules that mean something else to libvirt: ONE table of where we depart from it, and what each side does.
//!
//! libvirt's iptables driver is meant, unless a row names the other one. Rows look at a rule as it was written; what
//! shows only where rules meet is said of the filter as a whole.

use crate::document::diag::Diagnostic;
use crate::document::field::Field;
use crate::document::filter::schema::{AttributeRole, Layer, ValueKind};
use crate::document::filter::{AttributeTest, Entry, Filter, FilterRule, RuleAction, RuleDirection, Value};
use crate::document::span::Place;
use crate::program::compile::refuses_to_guest;
use crate::program::ir::Origin;
use crate::program::resolve::{self, FilterLookup, Resolved, RootItem};
use std::collections::BTreeSet;

/// One difference: of which rules, what we do, what libvirt does, and where PROMISES.md says so.
struct Difference {
    of: fn(&Filter, &FilterRule) -> bool,
    here: &'static str,
    there: &'static str,
    departure: u8,
}

const DIFFERENCES: &[Difference] = &[
    Difference {
        of: |_, rule| rule.action == RuleAction::Reject && is_ethernet(rule),
        here: "a rejected frame from the guest is answered where the kernel can",
        there: "libvirt drops it in silence at the Ethernet layer",
        departure: 3,
    },
    Difference {
        of: |_, rule| rule.direction == RuleDirection::InOut && is_icmp(rule) && says(rule, "type"),
        here: "the type counts both ways",
        there: "libvirt makes no rule at all of an ICMP type with inout",
        departure: 2,
    },
    Difference {
        of: |_, rule| !is_ethernet(rule) && negates(rule, "dstportstart") && !negates(rule, "srcportstart"),
        here: "the destination port must differ",
        there: "libvirt loses the negation and matches the port itself",
        departure: 4,
    },
    Difference {
        of: |_, rule| !is_ethernet(rule) && negates(rule, "srcportstart") && affirms(rule, "dstportstart"),
        here: "the destination port must be the one that is given",
        there: "libvirt negates it with the source port",
        departure: 4,
    },
    Difference {
        of: |_, rule| speaks_of(rule, "ipv6") && negates(rule, "code") && !negates(rule, "type"),
        here: "the code must differ",
        there: "libvirt loses the negation and matches the code itself",
        departure: 4,
    },
    Difference {
        of: |_, rule| negates(rule, "state") || negates(rule, "ipset"),
        here: "what is negated must not hold",
        there: "libvirt ignores that a state or a set is negated",
        departure: 4,
    },
    Difference {
        of: |_, rule| says(rule, "ipset") && says(rule, "ipsetflags") && !is_of_any_protocol(rule),
        here: "the address must be in the set",
        there: "libvirt leaves the set out for every protocol but 'all'",
        departure: 5,
    },
    Difference {
        of: |_, rule| !is_ethernet(rule) && is_icmp(rule) && says(rule, "code") && !says(rule, "type"),
        here: "the code counts, whatever the type",
        there: "libvirt leaves a code without a type out",
        departure: 5,
    },
    Difference {
        of: |_, rule| rule.matches.iter().any(is_variable_in_an_odd_place),
        here: "the variable is read and means what its value says",
        there: "libvirt makes another condition of it or none",
        departure: 5,
    },
    Difference {
        of: |_, rule| says(rule, "arpsrcipmask") && says(rule, "arpdstipaddr") && !says(rule, "arpdstipmask"),
        here: "the target address is matched whole",
        there: "libvirt applies the mask of the sender address to it",
        departure: 6,
    },
    Difference {
        of: |_, rule| speaks_of(rule, "ip") && says(rule, "dscp"),
        here: "the DSCP is compared",
        there: "libvirt compares the number with the whole ToS byte",
        departure: 6,
    },
    Difference {
        of: |_, rule| speaks_of(rule, "tcp-ipv6") && says(rule, "flags"),
        here: "the flags count",
        there: "libvirt leaves them out",
        departure: 5,
    },
    Difference {
        of: |_, rule| speaks_of(rule, "stp") && rule.matches.len() > usize::from(says(rule, "comment")),
        here: "the fields mean what they say",
        there: "libvirt's nftables driver turns these comparisons round",
        departure: 6,
    },
    Difference {
        of: |_, rule| rule.matches.iter().any(|entry| hides_bits(rule, entry)),
        here: "only the bits of the mask count in the MAC address",
        there: "libvirt's nftables driver compares all of them, so that nothing is equal",
        departure: 6,
    },
    Difference {
        of: |filter, rule| filter.chain != "root" && is_ethernet(rule) && rule.priority < filter.priority,
        here: "rules of a chain keep their order",
        there: "libvirt's nftables driver puts a rule whose priority is below its chain's behind others",
        departure: 6,
    },
];

/// All that libvirt would do in another way.
pub(super) fn differences(library: FilterLookup<'_>, root: &str, resolved: &Resolved) -> Vec<Diagnostic> {
    let filters: BTreeSet<&str> = resolved.rules().map(|rule| &*rule.origin.filter).collect();
    let filters = filters.into_iter().filter_map(library);
    let mut found: Vec<Diagnostic> = filters.flat_map(|filter| of_filter(&filter)).collect();
    found.extend(open_ends(root, resolved));
    found.extend(host(root, resolved));
    found
}

fn of_filter(filter: &Filter) -> Vec<Diagnostic> {
    let rules = filter.entries.iter().filter_map(|entry| match entry {
        Entry::Rule(rule) => Some(rule),
        Entry::Include(_) => None,
    });
    rules.flat_map(|rule| of_rule(filter, rule)).collect()
}

fn of_rule(filter: &Filter, rule: &FilterRule) -> Vec<Diagnostic> {
    let row = |row: &Difference| {
        let place = Place { source: filter.source.clone(), span: rule.span };
        let message = format!("libvirt enforces this rule of filter '{}' in another way", filter.name);
        Diagnostic::warning(message).at(place, row.here).help(cited(row.there, row.departure))
    };
    DIFFERENCES.iter().filter(|row| (row.of)(filter, rule)).map(row).collect()
}

/// With the number under "Where we depart from libvirt".
fn cited(what: &str, departure: u8) -> String {
    format!("{what} (PROMISES.md, departure {departure})")
}

/// Chains whose frames can come back to the root chain, where something waits for them.
pub(super) fn open_ends(root: &str, resolved: &Resolved) -> Vec<Diagnostic> {
    let ends = resolved.root.iter().enumerate().filter_map(|(at, step)| match step {
        RootItem::Chain(name) if !resolved.root[at + 1..].is_empty() => Some(name),
        _ => None,
    });
    let open = ends.filter(|name| {
        let rules = &resolved.chains[*name];
        [RuleDirection::Out, RuleDirection::In].into_iter().any(|way| {
            let mut mine = rules.iter().filter(|rule| goes(rule.direction, way)).peekable();
            mine.peek().is_some() && !mine.any(|rule| ends_every_walk(name, rule))
        })
    });
    open.map(|name| {
        let message = format!("chain '{name}' of filter '{root}' has an open end");
        let help = "what none of its rules takes goes on in the root chain; libvirt's ebtables driver accepts it there";
        Diagnostic::warning(message).help(cited(help, 1))
    })
    .collect()
}

fn goes(direction: RuleDirection, way: RuleDirection) -> bool {
    direction == way || direction == RuleDirection::InOut
}

/// A verdict for all frames that the chain gets: the prefix of its name says which.
fn ends_every_walk(chain: &str, rule: &resolve::ResolvedRule) -> bool {
    const OF: [(&str, &str); 4] = [("ipv4", "ip"), ("ipv6", "ipv6"), ("arp", "arp"), ("rarp", "rarp")];
    let all = match rule.protocol.map(|protocol| protocol.name) {
        None | Some("mac") => true,
        Some(name) => OF.iter().any(|(prefix, of)| chain.starts_with(prefix) && name == *of),
    };
    let ends = matches!(rule.action, RuleAction::Accept | RuleAction::Drop | RuleAction::Reject);
    all && ends && rule.conditions.is_empty()
}

/// libvirt's IP layer never sees what the host sends to a guest, for itself or for others.
fn host(root: &str, resolved: &Resolved) -> Option<Diagnostic> {
    let message = format!(
        "filter '{root}' refuses packets to the guest at the IP layer, those that the host routes to it too"
    );
    let help = "libvirt lets pass there what the host routes; what the host itself sends passes in both, unless nwfilterd's \
                host_to_guest is \"filter\"";
    refuses_to_guest(resolved).then(|| Diagnostic::warning(message).help(cited(help, 2)))
}

/// A rule of the IP layer that refuses in one direction refuses the other way as well, the ends exchanged.
pub(super) fn both_ways(resolved: &Resolved) -> Option<Diagnostic> {
    let rules = resolved.ip.iter().enumerate();
    let mut both = rules.filter(|(at, rule)| is_mirrored(rule) && !is_settled(rule, &resolved.ip[..*at]));
    let (_, rule) = both.next()?;
    let others: BTreeSet<&Origin> =
        both.map(|(_, other)| &other.origin).filter(|other| **other != rule.origin).collect();
    let (direction, comes) = match rule.direction {
        RuleDirection::In => ("in", "what the guest sends there"),
        _ => ("out", "what comes to the guest from there"),
    };
    let filter = &rule.origin.filter;
    let message = format!("direction='{direction}' of this rule of filter '{filter}' also refuses {comes}");
    let more = match others.len() {
        0 => String::new(),
        1 => " (another rule of this filter does as well)".to_owned(),
        more => format!(" ({more} other rules of this filter do as well)"),
    };
    let help = format!(
        "what the IP layer refuses counts both ways{more}; state='NEW' has it count for what is begun in its direction alone"
    );
    Some(Diagnostic::warning(message).at(rule.origin.place.clone(), "counts both ways").help(help))
}

/// Whether a rule that refuses has a reverse.
fn is_mirrored(rule: &resolve::ResolvedRule) -> bool {
    let one_way = |test: &resolve::Predicate| match test {
        resolve::Predicate::State(_) => rule.statematch,
        resolve::Predicate::ConnLimit(_) => true,
        _ => false,
    };
    matches!(rule.action, RuleAction::Drop | RuleAction::Reject)
        && rule.direction != RuleDirection::InOut
        && !rule.tests().any(one_way)
        && !rule.conditions.iter().any(|condition| condition.fields().iter().any(is_icmp_type))
}

/// Whether an earlier rule has accepted all that the reverse of a rule would refuse.
fn is_settled(rule: &resolve::ResolvedRule, earlier: &[resolve::ResolvedRule]) -> bool {
    let other = if rule.direction == RuleDirection::In { RuleDirection::Out } else { RuleDirection::In };
    let layer = |rule: &resolve::ResolvedRule| rule.protocol.map(|protocol| protocol.layer);
    earlier.iter().any(|accepts| {
        let all = accepts.protocol.is_some_and(|protocol| protocol.ip_protocol.is_none());
        all && accepts.action == RuleAction::Accept
            && layer(accepts) == layer(rule)
            && goes(accepts.direction, other)
            && accepts
                .conditions
                .iter()
                .all(|condition| matches!(condition, resolve::Condition::Is(resolve::Predicate::State(_))))
    })
}

fn is_icmp_type(field: &Field) -> bool {
    matches!(field, Field::IcmpType | Field::Icmp6Type)
}

fn is_ethernet(rule: &FilterRule) -> bool {
    rule.protocol.is_none_or(|protocol| protocol.layer == Layer::Ethernet)
}

fn speaks_of(rule: &FilterRule, protocol: &str) -> bool {
    rule.protocol.is_some_and(|own| own.name == protocol)
}

fn is_icmp(rule: &FilterRule) -> bool {
    speaks_of(rule, "icmp") || speaks_of(rule, "icmpv6")
}

fn is_of_any_protocol(rule: &FilterRule) -> bool {
    speaks_of(rule, "all") || speaks_of(rule, "all-ipv6")
}

fn entry<'a>(rule: &'a FilterRule, name: &str) -> Option<&'a AttributeTest> {
    rule.matches.iter().find(|entry| entry.attribute.name == name)
}

fn says(rule: &FilterRule, name: &str) -> bool {
    entry(rule, name).is_some()
}

fn negates(rule: &FilterRule, name: &str) -> bool {
    entry(rule, name).is_some_and(|entry| entry.negated)
}

fn affirms(rule: &FilterRule, name: &str) -> bool {
    entry(rule, name).is_some_and(|entry| !entry.negated)
}

fn is_variable_in_an_odd_place(entry: &AttributeTest) -> bool {
    let odd = matches!(
        entry.attribute.kind,
        ValueKind::States
            | ValueKind::TcpFlags
            | ValueKind::Bool
            | ValueKind::IpsetFlags
            | ValueKind::Comment
    );
    odd && matches!(entry.value, Value::Variable(_))
}

/// Whether a mask hides bits of this MAC address that are set.
fn hides_bits(rule: &FilterRule, base: &AttributeTest) -> bool {
    let (AttributeRole::Is(Field::EtherSaddr | Field::EtherDaddr), Value::Mac(address)) =
        (base.attribute.role, &base.value)
    else {
        return false;
    };
    rule.matches.iter().any(|entry| match (entry.attribute.role, &entry.value) {
        (AttributeRole::MaskOf(name), Value::Mac(mask)) if name == base.attribute.name => {
            address.0.iter().zip(mask.0).any(|(byte, mask)| byte & !mask != 0)
        }
        _ => false,
    })
}
