//! Rules in a chain that is not about them: one of the Ethernet layer matches nothing there, and one of the IP layer is in no
//! chain at all.

use super::layer;
use crate::document::diag::Diagnostic;
use crate::document::filter::schema::Layer;
use crate::document::filter::{AttributeTest, Entry, FilterRule, Value};
use crate::document::xml::Element;

/// The frames that a chain gets.
struct Frames {
    /// How the names of such chains begin.
    chain: &'static str,
    /// The element of the Ethernet layer that is about them.
    element: &'static str,
    /// The layer of elements that are about the packets in them.
    packets: Option<Layer>,
    /// Their Ethernet type, if they have one.
    ether_type: Option<u32>,
    words: &'static str,
}

const FRAMES: &[Frames] = &[
    Frames {
        chain: "ipv4",
        element: "ip",
        packets: Some(Layer::Ipv4),
        ether_type: Some(0x0800),
        words: "IPv4",
    },
    Frames {
        chain: "ipv6",
        element: "ipv6",
        packets: Some(Layer::Ipv6),
        ether_type: Some(0x86dd),
        words: "IPv6",
    },
    Frames { chain: "arp", element: "arp", packets: None, ether_type: Some(0x0806), words: "ARP" },
    Frames { chain: "rarp", element: "rarp", packets: None, ether_type: Some(0x8035), words: "RARP" },
    Frames {
        chain: "vlan",
        element: "vlan",
        packets: None,
        ether_type: Some(0x8100),
        words: "tagged frames",
    },
    Frames {
        chain: "stp",
        element: "stp",
        packets: None,
        ether_type: None,
        words: "frames of the spanning tree",
    },
];

/// The first rule of each layer that the chain of its filter is not about.
pub(super) fn strays(root: Element<'_>, chain: &str, entries: &[Entry]) -> Vec<Diagnostic> {
    let Some(frames) = FRAMES.iter().find(|frames| chain.starts_with(frames.chain)) else {
        return Vec::new();
    };
    let rules = || super::rules(entries);
    let packets = rules().find(|rule| is_about_other_packets(rule, frames));
    let never = rules().find(|rule| never_matches(rule, frames));
    let unreached = packets.map(|rule| in_no_chain(root, chain, frames, rule));
    unreached.into_iter().chain(never.map(|rule| in_vain(root, chain, frames, rule))).collect()
}

fn is_about_other_packets(rule: &FilterRule, frames: &Frames) -> bool {
    layer(rule).is_some_and(|layer| layer != Layer::Ethernet && Some(layer) != frames.packets)
}

/// Whether a rule of the Ethernet layer asks for frames that its chain does not get.
fn never_matches(rule: &FilterRule, frames: &Frames) -> bool {
    let Some(protocol) = rule.protocol.filter(|protocol| protocol.layer == Layer::Ethernet) else {
        return false;
    };
    match protocol.name {
        "mac" => rule.matches.iter().any(|asked| is_of_another_type(asked, frames)),
        name => name != frames.element,
    }
}

fn is_of_another_type(asked: &AttributeTest, frames: &Frames) -> bool {
    match (&asked.value, frames.ether_type) {
        (Value::Number { value, .. }, Some(own)) if asked.attribute.name == "protocolid" => {
            (*value == own) == asked.negated
        }
        _ => false,
    }
}

fn in_no_chain(root: Element<'_>, chain: &str, frames: &Frames, rule: &FilterRule) -> Diagnostic {
    let name = rule.protocol.map_or("", |protocol| protocol.name);
    let family = if layer(rule) == Some(Layer::Ipv6) { "IPv6" } else { "IPv4" };
    let message =
        format!("<{name}> is about {family}, whatever the chain: rules of the IP layer are in no chain");
    let fault = Diagnostic::warning(message).at(root.place(rule.span), format!("in chain '{chain}'"));
    match frames.packets {
        Some(Layer::Ipv6) => {
            fault.help("rules about IPv6 have elements of their own, tcp-ipv6, icmpv6, all-ipv6 and so on")
        }
        Some(_) => fault.help("rules about IPv4 are tcp, udp, icmp, all and so on"),
        None => fault.help(format!("a rule of this chain is about <{}> or <mac>", frames.element)),
    }
}

fn in_vain(root: Element<'_>, chain: &str, frames: &Frames, rule: &FilterRule) -> Diagnostic {
    let name = rule.protocol.map_or("", |protocol| protocol.name);
    let own = FRAMES.iter().find(|frames| frames.element == name);
    let other = own.map_or("root", |frames| frames.chain);
    let message = format!("this rule matches no frame: chain '{chain}' gets {} alone", frames.words);
    Diagnostic::warning(message)
        .at(root.place(rule.span), format!("<{name}> in chain '{chain}'"))
        .help(format!("put it into a filter with chain='{other}'"))
}
