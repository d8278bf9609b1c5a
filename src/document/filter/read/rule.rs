//! `<rule>` to [`FilterRule`]: its own attributes, and those of its protocol element by the table.
//!
//! Several elements of one protocol are one, and a mask or the end of a range has the sign of what it
//! belongs to. A destination port keeps its own sign, which libvirt loses.

use super::unknown::{unknown_element_labelled, unread_text};
use super::{PRIORITIES, missing, unknown_attributes, unknown_element};
use crate::document::diag::{Code, Diagnostic, Faults, Severity, similar};
use crate::document::filter::schema::{Attribute, AttributeRole, PROTOCOLS, Protocol, ValueKind};
use crate::document::filter::{ACTIONS, AttributeTest, DIRECTIONS, FilterRule, Value, value};
use crate::document::strtoul;
use crate::document::vars::Access;
use crate::document::xml::{self, Element};

/// What a rule has that names none.
const DEFAULT_PRIORITY: i32 = 500;

/// The protocols whose rules of the Ethernet layer may look at ports. DCCP has no name of its own.
const WITH_PORTS: &[u32] = &[6, 17, 33, 132];

/// Reads a rule; none where it is refused.
pub(super) fn read_rule(element: Element<'_>, faults: &mut Faults) -> Option<FilterRule> {
    let known = ["action", "direction", "priority", "statematch"];
    unknown_attributes(element, &known, Severity::Unenforced, faults);
    unread_text(element, faults);
    let action = keyword(element, "action", ACTIONS, faults);
    let direction = keyword(element, "direction", DIRECTIONS, faults);
    let priority = read_priority(element, faults);
    let statematch = read_statematch(element, faults);
    let protocol = element.children().find_map(|child| Protocol::named(child.name()));
    let matches = read_protocol(element, protocol, faults);
    Some(FilterRule {
        action: action?,
        direction: direction?,
        priority: priority?,
        statematch,
        protocol,
        matches,
        span: element.span(),
    })
}

fn keyword<T: Copy>(element: Element<'_>, name: &str, table: &[(&str, T)], faults: &mut Faults) -> Option<T> {
    let Some(entered) = element.attribute(name) else {
        faults.push(missing(element, name));
        return None;
    };
    let row = table.iter().find(|(word, _)| *word == entered.value);
    if row.is_none() {
        let words: Vec<&str> = table.iter().map(|(word, _)| *word).collect();
        let message = format!("Invalid value for attribute '{name}' in element 'rule': '{}'.", entered.value);
        let diagnostic = Diagnostic::error(Code::XML_ERROR, message)
            .at(element.place(entered.span), format!("expected one of {}", words.join(", ")));
        let meant = similar(&entered.value.to_ascii_lowercase(), &words);
        faults
            .push(meant.into_iter().fold(diagnostic, |d, meant| d.help(format!("did you mean '{meant}'?"))));
    }
    row.map(|(_, value)| *value)
}

fn read_priority(element: Element<'_>, faults: &mut Faults) -> Option<i32> {
    let Some(entered) = element.attribute("priority") else {
        return Some(DEFAULT_PRIORITY);
    };
    let place = element.place(entered.span);
    let (least, greatest) = (PRIORITIES.start(), PRIORITIES.end());
    let label = format!("expected a number from {least} to {greatest}");
    let Some(priority) = strtoul::signed(entered.value) else {
        let message = format!(
            "Invalid value for attribute 'priority' in element 'rule': '{}'. Expected integer value",
            entered.value
        );
        faults.push(Diagnostic::error(Code::XML_ERROR, message).at(place, label));
        return None;
    };
    if PRIORITIES.contains(&priority) {
        return Some(priority);
    }
    let message = format!("priority {priority} is out of range, the rule has {DEFAULT_PRIORITY} instead");
    faults.push(Diagnostic::warning(message).at(place, label));
    Some(DEFAULT_PRIORITY)
}

fn read_statematch(element: Element<'_>, faults: &mut Faults) -> bool {
    let Some(entered) = element.attribute("statematch") else {
        return true;
    };
    let tracked = is_tracked(entered.value);
    let on = entered.value == "1" || entered.value.eq_ignore_ascii_case("true");
    if tracked && !on {
        faults.push(
            Diagnostic::warning(format!(
                "statematch='{}' is ignored, connections are tracked",
                entered.value
            ))
            .at(element.place(entered.span), "expected 0 or false"),
        );
    }
    tracked
}

/// The attributes of all elements of the rule's protocol, merged.
fn read_protocol(
    rule: Element<'_>,
    protocol: Option<&'static Protocol>,
    faults: &mut Faults,
) -> Vec<AttributeTest> {
    let table: Vec<&'static Attribute> = protocol.iter().flat_map(|protocol| protocol.attributes()).collect();
    let mut found: Vec<Option<AttributeTest>> = vec![None; table.len()];
    for child in rule.children() {
        match protocol {
            Some(protocol) if protocol.name == child.name() => {
                read_element(child, &table, &mut found, faults);
            }
            _ => overlooked(child, protocol, faults),
        }
    }
    let mut matches: Vec<AttributeTest> = found.into_iter().flatten().collect();
    if let Some(protocol) = protocol {
        check_ports(rule, protocol, &matches, faults);
        check_state(rule, &matches, faults);
        follow_signs(protocol, &mut matches);
    }
    matches
}

fn overlooked(child: Element<'_>, protocol: Option<&Protocol>, faults: &mut Faults) {
    match protocol {
        Some(protocol) if Protocol::named(child.name()).is_some() => faults.push(
            Diagnostic::unenforced(format!(
                "<{}> is ignored, the rule is about {}",
                child.name(),
                protocol.name
            ))
            .at(child.place(child.name_span()), "is not enforced")
            .help("a rule is about one protocol; write a rule for each"),
        ),
        _ => {
            let names: Vec<&str> = PROTOCOLS.iter().map(|protocol| protocol.name).collect();
            let label = match protocol {
                Some(_) => "is not enforced",
                None => "a rule without a protocol matches every frame",
            };
            unknown_element_labelled(child, &names, Severity::Unenforced, label, faults);
        }
    }
}

fn read_element(
    element: Element<'_>,
    table: &[&'static Attribute],
    found: &mut [Option<AttributeTest>],
    faults: &mut Faults,
) {
    let negated = read_sign(element, faults);
    let known: Vec<&str> = table.iter().map(|row| row.name).chain(["match"]).collect();
    unknown_attributes(element, &known, Severity::Unenforced, faults);
    unread_text(element, faults);
    element.children().for_each(|child| unknown_element(child, &[], Severity::Unenforced, faults));
    let mut bad = Vec::new();
    for (row, slot) in table.iter().zip(found) {
        let Some(entered) = element.attribute(row.name) else {
            continue;
        };
        match value::parse(row.kind, entered.value) {
            Some(value) => {
                faults.extend(doubts(element, row.kind, entered));
                let found = AttributeTest { attribute: row, negated, value, span: entered.span };
                faults.extend(slot.as_ref().and_then(|earlier| overridden(element, earlier, &found)));
                *slot = Some(found);
            }
            None => bad.push(illegal(element, row, entered)),
        }
    }
    // libvirt goes on after a bad value, and reports the last one of the table.
    faults.extend(bad.into_iter().rev());
}

/// An attribute that a later element of the rule has as well, with another meaning: only the later one counts.
fn overridden(element: Element<'_>, earlier: &AttributeTest, later: &AttributeTest) -> Option<Diagnostic> {
    if (&earlier.value, earlier.negated) == (&later.value, later.negated) {
        return None;
    }
    let (attribute, name) = (earlier.attribute, element.name());
    let value = |found: &AttributeTest| value::print(attribute.kind, &found.value);
    let message = format!(
        "{}='{}' is ignored, another <{name}> of the rule says '{}'",
        attribute.name,
        value(earlier),
        value(later)
    );
    let diagnostic = Diagnostic::unenforced(message).at(element.place(earlier.span), "is not enforced");
    Some(diagnostic.help("all elements of a rule together are one condition; write a rule for each"))
}

fn read_sign(element: Element<'_>, faults: &mut Faults) -> bool {
    let Some(entered) = element.attribute("match") else {
        return false;
    };
    if !matches!(entered.value, "yes" | "no") {
        faults.push(
            Diagnostic::unenforced(format!("match='{}' negates nothing", entered.value))
                .at(element.place(entered.span), "expected yes or no"),
        );
    }
    entered.value == "no"
}

fn illegal(element: Element<'_>, row: &Attribute, entered: xml::XmlAttribute<'_>) -> Diagnostic {
    let message = format!("{} has illegal value {}", row.name, entered.value);
    let label = match entered.value.starts_with('$') {
        true => "expected a variable such as $NAME, $NAME[2] or $NAME[@1]".to_owned(),
        false => format!("expected {}, or a variable", value::expected(row.kind)),
    };
    let diagnostic = Diagnostic::error(Code::INTERNAL, message).at(element.place(entered.span), label);
    match entered.value.contains('/') && matches!(row.kind, ValueKind::Ipv4 | ValueKind::Ipv6) {
        true => diagnostic.help(format!("the mask of {} is an attribute of its own", row.name)),
        false => diagnostic,
    }
}

/// What libvirt takes, but hardly as the writer meant it.
fn doubts(element: Element<'_>, kind: ValueKind, entered: xml::XmlAttribute<'_>) -> Option<Diagnostic> {
    let text = entered.value;
    if text.starts_with('$') {
        Access::parse(text).filter(|(_, rest)| !rest.is_empty())?;
        let fault = Diagnostic::unenforced("what follows the variable is ignored");
        return Some(fault.at(element.place(entered.span), "nothing may follow the bracket"));
    }
    if kind == ValueKind::States && value::asks_for_less(text) {
        let fault = Diagnostic::unenforced(format!("state='{text}' asks for no state"));
        let fault =
            fault.at(element.place(entered.span), "the rule takes frames of connections in any state");
        return Some(fault.help("name the states, or leave the attribute out"));
    }
    let (message, label) = match kind {
        ValueKind::Bool if !value::is_true(text) && !matches!(text, "false" | "0" | "no") => {
            (format!("'{text}' is taken for false"), format!("expected {}", value::expected(kind)))
        }
        ValueKind::Comment if text.len() > value::COMMENT_BYTES => {
            ("the comment is cut off".to_owned(), format!("expected {}", value::expected(kind)))
        }
        _ => return None,
    };
    Some(Diagnostic::warning(message).at(element.place(entered.span), label))
}

/// Rules of the Ethernet layer look at ports only where they say what the ports are of.
fn check_ports(rule: Element<'_>, protocol: &Protocol, matches: &[AttributeTest], faults: &mut Faults) {
    let title = match protocol.name {
        "ip" => "IP",
        "ipv6" => "IPv6",
        _ => return,
    };
    let Some(port) = matches.iter().find(|found| is_port(found.attribute)) else {
        return;
    };
    let named = |found: &&AttributeTest| matches!(found.attribute.role, AttributeRole::UpperProtocol);
    let allowed = matches.iter().find(named).is_some_and(
        |found| matches!(found.value, Value::Number { value, .. } if WITH_PORTS.contains(&value)),
    );
    if !allowed {
        let message = format!(
            "{title} rule with port specification requires protocol specification with protocol to be \
             either one of tcp(6), udp(17), dccp(33), or sctp(132)"
        );
        faults.push(
            Diagnostic::error(Code::INTERNAL, message)
                .at(rule.place(port.span), "a port of which protocol?")
                .help("add protocol='tcp' or another of these; a variable will not do"),
        );
    }
}

/// A rule that is not to look at connections does not ask for their state.
fn check_state(rule: Element<'_>, matches: &[AttributeTest], faults: &mut Faults) {
    let off = rule.attribute("statematch").is_some_and(|entered| !is_tracked(entered.value));
    let state = matches.iter().find(|found| found.attribute.role == AttributeRole::State).filter(|_| off);
    faults.extend(state.map(|state| {
        Diagnostic::warning("state has no effect with statematch='false'")
            .at(rule.place(state.span), "the rule takes frames of connections in any state")
            .help("leave statematch out, or the state")
    }));
}

fn is_tracked(statematch: &str) -> bool {
    !(statematch == "0" || statematch.eq_ignore_ascii_case("false"))
}

fn is_port(attribute: &Attribute) -> bool {
    ["srcport", "dstport"].iter().any(|prefix| attribute.name.starts_with(prefix))
}

/// A mask or the end of a range has the sign of its base, whatever element it stood in, and is positive
/// without one.
fn follow_signs(protocol: &Protocol, matches: &mut [AttributeTest]) {
    for index in 0..matches.len() {
        let attribute = matches[index].attribute;
        let (AttributeRole::MaskOf(base) | AttributeRole::EndOf(base)) = attribute.role else {
            continue;
        };
        if follows(protocol, attribute) {
            let base = matches.iter().find(|found| found.attribute.name == base);
            matches[index].negated = base.is_some_and(|base| base.negated);
        }
    }
}

/// Where libvirt leaves the sign as entered. It has no meaning there, but it is printed.
fn follows(protocol: &Protocol, attribute: &Attribute) -> bool {
    match protocol.name {
        "arp" | "rarp" => false,
        "ip" | "ipv6" => attribute.kind != ValueKind::MacMask && !is_port(attribute),
        _ => true,
    }
}
