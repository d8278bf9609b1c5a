//! One rule, the frames it is about, and what becomes of them: accepted or dropped, negated, in every direction,
//! with constants and with slots.
//!
//! A case names frames that the rule matches as written, frames that differ in the one field asked for, and frames that it is
//! not about at all. All verdicts follow from that, and from how libvirt places and mirrors rules.

use crate::host::{Host, STYLES, Style};
use crate::lab::frames::Frame;
use crate::lab::{Verdict, Way, in_fresh_netns};

/// What the mirrored form of a rule is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mirror {
    /// Both ends exchanged; at the IP layer also for rules of one direction.
    Ends,
    /// Both ends exchanged for `inout`, nothing for rules of one direction.
    InOutOnly,
    /// The rule as it stands: it speaks of no end.
    Same,
    /// No rule.
    None,
}

/// A rule and frames.
#[derive(Clone)]
pub struct Case {
    elements: &'static str,
    mirror: Mirror,
    negates: bool,
    directions: &'static [&'static str],
    hits: Vec<Vec<u8>>,
    near: Vec<Vec<u8>>,
    other: Vec<Vec<u8>>,
}

/// A rule of these elements, from the point of view of the guest.
pub fn case(elements: &'static str) -> Case {
    let directions = &["out", "in", "inout"];
    let (hits, near, other) = (vec![], vec![], vec![]);
    Case { elements, mirror: Mirror::Ends, negates: true, directions, hits, near, other }
}

impl Case {
    /// Frames that it matches.
    pub fn hits<const N: usize>(self, frames: [Frame; N]) -> Case {
        Case { hits: frames.map(Vec::from).into(), ..self }
    }

    /// Frames of the protocol that it does not match, by one field: its negation does.
    pub fn near<const N: usize>(self, frames: [Frame; N]) -> Case {
        Case { near: frames.map(Vec::from).into(), ..self }
    }

    /// Frames that neither it nor its negation matches.
    pub fn other<const N: usize>(self, frames: [Frame; N]) -> Case {
        Case { other: frames.map(Vec::from).into(), ..self }
    }

    /// Sets what its mirrored form is.
    pub fn mirror(self, mirror: Mirror) -> Case {
        Case { mirror, ..self }
    }

    /// Leaves out the negation: several attributes negated are not the negation of the rule.
    pub fn positive(self) -> Case {
        Case { negates: false, ..self }
    }

    /// Leaves out directions in which there is no such rule.
    pub fn only(self, directions: &'static [&'static str]) -> Case {
        Case { directions, ..self }
    }
}

/// The layer of a protocol, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layer {
    Ethernet,
    Ip,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Drop,
    Accept,
    Negated,
}

/// A frame on its way, and how the rule stands to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ChainContext {
    Hit,
    Near,
    Other,
}

/// Holds every case against the kernel and lists what is not as expected.
pub fn check(cases: Vec<Case>) {
    let judge_all = |style| {
        let mut host = Host::new(style);
        cases.iter().flat_map(|case| judge(&mut host, style, case)).collect::<Vec<_>>()
    };
    assert!(cases.iter().all(|case| !case.hits.is_empty()));
    let wrong = STYLES.map(|style| in_fresh_netns(|| judge_all(style))).concat();
    assert!(wrong.is_empty(), "{} verdicts differ:\n{}", wrong.len(), wrong.join("\n"));
}

fn judge(host: &mut Host, style: Style, case: &Case) -> Vec<String> {
    let mut wrong = Vec::new();
    for form in [Form::Drop, Form::Accept, Form::Negated] {
        if form == Form::Negated && !case.negates {
            continue;
        }
        for direction in case.directions {
            let document = document(case, form, direction, style);
            let (elements, vars) = document.1;
            let vars: Vec<(&str, &str)> = vars.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
            let bound = host.rebind_guest(&document.0, &vars);
            if let Err(refusal) = bound {
                wrong.push(format!("{style:?} {direction} {form:?} {elements}: {refusal:?}"));
                continue;
            }
            for (frame, way, standing) in frames(case, direction, layer(case)) {
                let (expected, found) =
                    (expected(case, form, &frame, standing), host.network.verdict(way, &frame[..]));
                if expected != found {
                    wrong.push(format!(
                        "{style:?} {direction} {form:?} {elements}: {way:?} {standing:?} {found:?}, not {expected:?}: {frame:02x?}"
                    ));
                }
            }
        }
    }
    wrong
}

/// The filter; with slots every value is a variable. Returned with the elements and the variables.
#[allow(clippy::type_complexity)]
fn document(
    case: &Case,
    form: Form,
    direction: &str,
    style: Style,
) -> (String, (String, Vec<(String, String)>)) {
    let (mut elements, vars) = match style {
        Style::Folded | Style::FoldedAtDevice => (case.elements.to_owned(), vec![]),
        Style::Slots | Style::SlotsAtDevice => with_variables(case.elements),
    };
    if form == Form::Negated {
        let name = elements.find([' ', '/']).expect("an element ends");
        elements.insert_str(name, " match='no'");
    }
    let catch_all = match layer(case) {
        Layer::Ethernet => "<rule action='drop' direction='inout' priority='900'/>",
        Layer::Ip => {
            "<rule action='drop' direction='inout' priority='900'><all/></rule>
             <rule action='drop' direction='inout' priority='900'><all-ipv6/></rule>"
        }
    };
    let (action, rest) = match form {
        Form::Accept => ("accept", catch_all),
        Form::Drop | Form::Negated => ("drop", ""),
    };
    let text = format!(
        "<filter name='rule' chain='root'>
           <rule action='{action}' direction='{direction}' statematch='false'>{elements}</rule>{rest}
         </filter>"
    );
    (text, (elements, vars))
}

/// Each value as a variable that one rule alone reads. An IP protocol that ports depend on must stay.
fn with_variables(elements: &str) -> (String, Vec<(String, String)>) {
    let (mut text, mut vars) = (String::new(), Vec::new());
    let mut rest = elements;
    while let Some((before, after)) = rest.split_once("='") {
        let (value, after) = after.split_once('\'').expect("a value ends");
        let attribute = before.rsplit(' ').next().unwrap_or_default();
        text.push_str(before);
        if ["protocol", "match"].contains(&attribute) {
            text.push_str(&format!("='{value}'"));
        } else {
            let name = format!("V{}", vars.len());
            text.push_str(&format!("='${name}[@{}]'", vars.len() + 1));
            vars.push((name, value.to_owned()));
        }
        rest = after;
    }
    (text + rest, vars)
}

fn layer(case: &Case) -> Layer {
    let name = case.elements[1..].split([' ', '/']).next().unwrap_or_default();
    match name {
        "mac" | "vlan" | "stp" | "arp" | "rarp" | "ip" | "ipv6" => Layer::Ethernet,
        _ => Layer::Ip,
    }
}

/// Every frame in every way that the case says something about.
fn frames(case: &Case, direction: &str, layer: Layer) -> Vec<(Vec<u8>, Way, ChainContext)> {
    let (as_written, opposite) = match direction {
        "out" => (Way::FromGuest, Way::ToGuest),
        _ => (Way::ToGuest, Way::FromGuest),
    };
    let one_way = direction != "inout";
    let has_mirrored = match case.mirror {
        Mirror::Ends => layer == Layer::Ip || !one_way,
        Mirror::InOutOnly | Mirror::Same => !one_way,
        Mirror::None => false,
    };
    let turned = |frame: &[u8]| if case.mirror == Mirror::Same { frame.to_vec() } else { mirrored(frame) };
    let all = [
        (&case.hits, ChainContext::Hit),
        (&case.near, ChainContext::Near),
        (&case.other, ChainContext::Other),
    ];
    let mut frames = Vec::new();
    for (group, standing) in all {
        for frame in group {
            frames.push((frame.clone(), as_written, standing));
            // A bridge eats frames from a group.
            let turned = turned(frame);
            if turned[6] & 1 == 0 {
                frames.push((turned, opposite, if has_mirrored { standing } else { ChainContext::Other }));
            }
            if layer == Layer::Ethernet && one_way {
                frames.push((frame.clone(), opposite, ChainContext::Other));
            }
        }
    }
    frames
}

fn expected(case: &Case, form: Form, frame: &[u8], standing: ChainContext) -> Verdict {
    let is_ip = [[0x08, 0x00], [0x86, 0xdd]].contains(&[frame[12], frame[13]]);
    let matches = match form {
        Form::Drop | Form::Accept => standing == ChainContext::Hit,
        Form::Negated => standing == ChainContext::Near,
    };
    match (form, matches) {
        (Form::Drop | Form::Negated, true) => Verdict::Drop,
        (Form::Drop | Form::Negated, false) | (Form::Accept, true) => Verdict::Accept,
        (Form::Accept, false) if layer(case) == Layer::Ethernet || is_ip => Verdict::Drop,
        (Form::Accept, false) => Verdict::Accept,
    }
}

/// The frame with both ends exchanged, in every header that has ends.
fn mirrored(frame: &[u8]) -> Vec<u8> {
    let mut turned = frame.to_vec();
    let mut swap = |one: usize, other: usize, length: usize| {
        if other + length <= frame.len() {
            turned[one..one + length].copy_from_slice(&frame[other..other + length]);
            turned[other..other + length].copy_from_slice(&frame[one..one + length]);
        }
    };
    swap(0, 6, 6);
    let mut at = 12;
    while [[0x81, 0x00], [0x88, 0xa8]].contains(&[frame[at], frame[at + 1]]) {
        at += 4;
    }
    let body = at + 2;
    let with_ports = |protocol: u8| [6, 17, 132, 136].contains(&protocol);
    match (frame[at], frame[at + 1]) {
        (0x08, 0x00) => {
            swap(body + 12, body + 16, 4);
            let later = u16::from_be_bytes([frame[body + 6], frame[body + 7]]) & 0x1fff != 0;
            if with_ports(frame[body + 9]) && !later {
                let transport = body + 4 * usize::from(frame[body] & 0xf);
                swap(transport, transport + 2, 2);
            }
        }
        (0x08, 0x06) | (0x80, 0x35) => {
            swap(body + 8, body + 18, 6);
            swap(body + 14, body + 24, 4);
        }
        (0x86, 0xdd) => {
            swap(body + 8, body + 24, 16);
            let (mut next, mut transport, mut later) = (frame[body + 6], body + 40, false);
            while [0, 43, 44, 60].contains(&next) && transport + 8 <= frame.len() {
                later |=
                    next == 44 && u16::from_be_bytes([frame[transport + 2], frame[transport + 3]]) >> 3 != 0;
                let length = if next == 44 { 8 } else { 8 + 8 * usize::from(frame[transport + 1]) };
                next = frame[transport];
                transport += length;
            }
            if with_ports(next) && !later {
                swap(transport, transport + 2, 2);
            }
        }
        _ => {}
    }
    turned
}
