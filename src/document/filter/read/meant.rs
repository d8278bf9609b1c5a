//! What was probably meant by a name that no table knows: names of other tools and other families, and slips of the pen.
//!
//! A suggestion never changes the family: who wrote `tcp6` does not want IPv4.

use crate::document::diag::similar;

/// Attributes as other tools and people call them, and what they may be called here, the first that the element knows.
const ATTRIBUTES: &[(&str, &[&str])] = &[
    ("port", &["dstportstart"]),
    ("ports", &["dstportstart"]),
    ("dport", &["dstportstart"]),
    ("dports", &["dstportstart"]),
    ("dstport", &["dstportstart"]),
    ("destport", &["dstportstart"]),
    ("destinationport", &["dstportstart"]),
    ("dstportfrom", &["dstportstart"]),
    ("dstportto", &["dstportend"]),
    ("dstportstop", &["dstportend"]),
    ("sport", &["srcportstart"]),
    ("sports", &["srcportstart"]),
    ("srcport", &["srcportstart"]),
    ("sourceport", &["srcportstart"]),
    ("srcportfrom", &["srcportstart"]),
    ("srcportto", &["srcportend"]),
    ("srcportstop", &["srcportend"]),
    ("saddr", &["srcipaddr", "arpsrcipaddr"]),
    ("src", &["srcipaddr", "arpsrcipaddr"]),
    ("srcip", &["srcipaddr", "arpsrcipaddr"]),
    ("srcaddr", &["srcipaddr", "arpsrcipaddr"]),
    ("srcipaddr", &["arpsrcipaddr"]),
    ("source", &["srcipaddr", "arpsrcipaddr"]),
    ("daddr", &["dstipaddr", "arpdstipaddr"]),
    ("dst", &["dstipaddr", "arpdstipaddr"]),
    ("dstip", &["dstipaddr", "arpdstipaddr"]),
    ("dstaddr", &["dstipaddr", "arpdstipaddr"]),
    ("dstipaddr", &["arpdstipaddr"]),
    ("destination", &["dstipaddr", "arpdstipaddr"]),
    ("srcmask", &["srcipmask", "arpsrcipmask"]),
    ("srcnetmask", &["srcipmask", "arpsrcipmask"]),
    ("srcipmask", &["arpsrcipmask"]),
    ("dstmask", &["dstipmask", "arpdstipmask"]),
    ("dstnetmask", &["dstipmask", "arpdstipmask"]),
    ("dstipmask", &["arpdstipmask"]),
    ("mac", &["srcmacaddr"]),
    ("srcmac", &["srcmacaddr"]),
    ("dstmac", &["dstmacaddr"]),
    ("proto", &["protocol", "protocolid"]),
    ("protocol", &["protocolid"]),
    ("ethertype", &["protocolid"]),
    ("icmptype", &["type"]),
    ("icmpcode", &["code"]),
    ("tcpflags", &["flags"]),
    ("op", &["opcode"]),
    ("operation", &["opcode"]),
    ("vlan", &["vlanid"]),
    ("id", &["vlanid"]),
    ("connlimit", &["connlimit-above"]),
    ("ctstate", &["state"]),
    ("set", &["ipset"]),
    ("tos", &["dscp"]),
    ("negate", &["match"]),
    ("prio", &["priority"]),
    ("stateful", &["statematch"]),
    ("dir", &["direction"]),
    ("target", &["action"]),
];

/// IP protocols without an element of their own, and their numbers.
const NUMBERED: &[(&str, u8)] = &[
    ("ipip", 4),
    ("egp", 8),
    ("dccp", 33),
    ("gre", 47),
    ("eigrp", 88),
    ("ospf", 89),
    ("pim", 103),
    ("vrrp", 112),
    ("carp", 112),
    ("l2tp", 115),
];

/// How people say that a protocol is that of IPv6, and of IPv4.
const SIXTH: &[&str] =
    &["-ipv6", "_ipv6", "ipv6", "-ip6", "_ip6", "ip6", "-v6", "_v6", "v6", "-6", "_6", "6"];
const FOURTH: &[&str] =
    &["-ipv4", "_ipv4", "ipv4", "-ip4", "_ip4", "ip4", "-v4", "_v4", "v4", "-4", "_4", "4"];

/// The help for an attribute, if one of these was meant.
pub(super) fn attribute(entered: &str, known: &[&str]) -> Option<String> {
    let plain = entered.to_ascii_lowercase().replace(['-', '_'], "");
    let alias = ATTRIBUTES.iter().find(|(name, _)| *name == plain);
    let alias = alias.and_then(|(_, meant)| meant.iter().find(|name| known.contains(name)).copied());
    let found = alias.or_else(|| known.iter().find(|name| name.replace('-', "") == plain).copied());
    found.or_else(|| similar(entered, known)).map(did_you_mean)
}

/// The help for an element, if one of these was meant.
pub(super) fn element(entered: &str, known: &[&str]) -> Option<String> {
    let plain = entered.to_ascii_lowercase();
    let in_family =
        of_family(&plain, SIXTH, known, sixth).or_else(|| of_family(&plain, FOURTH, known, str::to_owned));
    let found = known.iter().find(|name| **name == plain).map(|name| (*name).to_owned()).or(in_family);
    if let Some(found) = found {
        return Some(did_you_mean(&found));
    }
    let number = NUMBERED.iter().find(|(name, _)| *name == plain).filter(|_| known.contains(&"ip"));
    if let Some((_, number)) = number {
        return Some(format!("no element is about that protocol alone; <ip protocol='{number}'/> is"));
    }
    similar(entered, known).map(did_you_mean)
}

/// The name in a family, where the entered one ends as the names of that family do.
fn of_family(
    entered: &str,
    endings: &[&str],
    known: &[&str],
    named: impl Fn(&str) -> String,
) -> Option<String> {
    let bases: Vec<&str> = known.iter().copied().filter(|name| !name.ends_with('6')).collect();
    let base = |ending: &&str| {
        let base = entered.strip_suffix(*ending)?;
        let base = if base.is_empty() { "ip" } else { base };
        bases.iter().find(|name| **name == base).copied().or_else(|| similar(base, &bases))
    };
    let found = endings.iter().find_map(base).map(named)?;
    known.contains(&&*found).then_some(found)
}

/// What a protocol of IPv4 is called in IPv6.
fn sixth(base: &str) -> String {
    match base {
        "ip" => "ipv6".to_owned(),
        "icmp" => "icmpv6".to_owned(),
        base => format!("{base}-ipv6"),
    }
}

fn did_you_mean(name: impl AsRef<str>) -> String {
    format!("did you mean '{}'?", name.as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::filter::schema::PROTOCOLS;

    #[test]
    fn a_suggestion_stays_in_the_family() {
        let names: Vec<&str> = PROTOCOLS.iter().map(|protocol| protocol.name).collect();
        for (entered, meant) in [
            ("ip6", "ipv6"),
            ("ipv4", "ip"),
            ("ip4", "ip"),
            ("IPv6", "ipv6"),
            ("icmp6", "icmpv6"),
            ("icmp-ipv6", "icmpv6"),
            ("icmpipv6", "icmpv6"),
            ("icmp-v6", "icmpv6"),
            ("icmpv4", "icmp"),
            ("tcp6", "tcp-ipv6"),
            ("tcpv6", "tcp-ipv6"),
            ("tcp_ipv6", "tcp-ipv6"),
            ("tpc6", "tcp-ipv6"),
            ("udp6", "udp-ipv6"),
            ("udplitev6", "udplite-ipv6"),
            ("sctp6", "sctp-ipv6"),
            ("esp6", "esp-ipv6"),
            ("ah6", "ah-ipv6"),
            ("all6", "all-ipv6"),
            ("allv6", "all-ipv6"),
            ("tcp4", "tcp"),
            ("TCP", "tcp"),
            ("tpc", "tcp"),
            ("udp-ipv4", "udp"),
        ] {
            assert_eq!(element(entered, &names), Some(did_you_mean(meant)), "{entered}");
        }
        assert_eq!(element("quic", &names), None);
        assert!(element("gre", &names).unwrap().contains("<ip protocol='47'/>"));
    }

    #[test]
    fn names_of_other_tools_are_known() {
        let tcp: Vec<&str> = crate::document::filter::schema::Protocol::named("tcp")
            .unwrap()
            .attributes()
            .map(|row| row.name)
            .collect();
        for (entered, meant) in [
            ("dport", "dstportstart"),
            ("dstport", "dstportstart"),
            ("DstPort", "dstportstart"),
            ("dst-port", "dstportstart"),
            ("sport", "srcportstart"),
            ("dstportstrat", "dstportstart"),
            ("srcip", "srcipaddr"),
            ("saddr", "srcipaddr"),
            ("srcipadr", "srcipaddr"),
            ("connlimit", "connlimit-above"),
            ("connlimitabove", "connlimit-above"),
            ("tcpflags", "flags"),
        ] {
            assert_eq!(attribute(entered, &tcp), Some(did_you_mean(meant)), "{entered}");
        }
        assert_eq!(attribute("opcode", &tcp), None);
        assert_eq!(attribute("srcip", &["arpsrcipaddr"]), Some(did_you_mean("arpsrcipaddr")));
    }
}
