"""Why a frame may fare differently with us than with libvirt: the numbered decisions, each as a test of the frame.

A difference is explained only where the rules concerned and the bytes of the frames show that the decision bites: a
decision that merely could have to do with it is no reason. libvirt's two back ends differ among themselves, and we follow
iptables: what its nftables does otherwise has a reason here only where its iptables judged the same frame as we do.
"""
import collections
import re
import xml.etree.ElementTree as ET

# A frame that was judged differently: which way it went, its bytes, both verdicts, the rules of the filter, and what
# libvirt said of the frames before it.
ETHERNET_LAYER = {"mac", "vlan", "stp", "arp", "rarp", "ip", "ipv6"}
Case = collections.namedtuple("Case", "way frame wanted seen rules before")


def rules(path, parameters):
    """(direction, action, protocol, attributes) of every rule, with all values of a variable."""
    variables = {}
    for pair in parameters:
        name, value = pair.split("=", 1)
        variables.setdefault(name, []).append(value)
    found = []
    for rule in ET.parse(path).getroot().iter("rule"):
        for protocol in rule:
            attributes = {name: variables.get(re.split(r"[\[$]", value[1:])[0], []) if value.startswith("$") else [value]
                          for name, value in protocol.attrib.items()}
            found.append((rule.get("direction"), rule.get("action"), protocol.tag, attributes))
    return found


def number(text):
    try:
        return int(text, 0)
    except ValueError:
        return int(text, 16)


def dscp_as_tos(case):
    """libvirt hands a dscp of the Ethernet layer to ebtables as the whole ToS octet."""
    if case.frame[12:14] != b"\x08\x00":
        return False
    tos = case.frame[15]
    asked = [number(value) for _, _, tag, attributes in case.rules if tag == "ip" for value in attributes.get("dscp", [])]
    return any((tos >> 2 == dscp) != (tos == dscp) for dscp in asked)


def flow(frame):
    """What tells a conversation from others, as its first side and its second; none where connections are not tracked."""
    if frame[12:14] == b"\x08\x00":
        rest, upper, sides = frame[14 + 4 * (frame[14] & 15):], frame[23], (frame[26:30], frame[30:34])
        if int.from_bytes(frame[20:22], "big") & 0x1fff:
            return None
    elif frame[12:14] == b"\x86\xdd":
        rest, upper, sides = frame[54:], frame[20], (frame[22:38], frame[38:54])
    else:
        return None
    ports = (rest[:2], rest[2:4]) if upper in (6, 17, 132, 136) else (b"", b"")
    return upper, sides[0] + ports[0], sides[1] + ports[1]


def heard_by_host(case):
    """br_netfilter opens a connection with the host's own copy of a broadcast or multicast, before the guest's rules see
    the other; if they drop it, the connection stays, and later frames of the same two ends are answers to libvirt or
    no beginnings. With us a frame that was dropped opens nothing."""
    this = flow(case.frame)
    if this is None or all(tag in ETHERNET_LAYER for _, _, tag, _ in case.rules):
        return False
    # More of the same from the same side means something else only to TCP.
    alike = (this, (this[0], this[2], this[1])) if this[0] == 6 else ((this[0], this[2], this[1]),)
    return any(row["verdict"] == "drop" and flow(frame) in alike for row, frame in heard(case.before))


def heard(rows):
    """The frames of which the host gets a copy of its own."""
    frames = ((row, bytes.fromhex(row["frame"])) for row in rows)
    return ((row, frame) for row, frame in frames if frame[0] & 1)


def arp_of_any_protocol(case):
    """The iptables back end reads the addresses of ARP only where they are said to be IPv4's, as we do."""
    if case.frame[12:14] not in (b"\x08\x06", b"\x80\x35") or case.frame[16:18] == b"\x08\x00":
        return False
    return any(tag in ("arp", "rarp") and set(attributes) & {"gratuitous", "arpsrcipaddr", "arpdstipaddr"}
               for _, _, tag, attributes in case.rules)


def first_next_header(case):
    """The iptables back end looks for the protocol behind the extension headers of IPv6, as we do."""
    extended = case.frame[12:14] == b"\x86\xdd" and case.frame[20] in (0, 43, 44, 60)
    return extended and any(tag == "ipv6" and "protocol" in attributes or tag == "icmpv6"
                            for _, _, tag, attributes in case.rules)


def icmp_range(case):
    """The iptables back end takes a range of ICMPv6 types and of codes, as we do; the other its first number."""
    if case.frame[12:14] != b"\x86\xdd" or case.frame[20] != 58:
        return False
    found = [(attributes.get(name), attributes.get(name + "end"), case.frame[at])
             for _, _, tag, attributes in case.rules if tag == "ipv6" for name, at in (("type", 54), ("code", 55))]
    return any(number(first[0]) < sent <= number(last[0]) for first, last, sent in found if first and last)


HEARD_BY_HOST = "decision 2 (no host chains)"
REASONS = {
    "iptables": [
        ("decision 6 (dscp as ToS)", dscp_as_tos),
        (HEARD_BY_HOST, heard_by_host),
    ],
    "nftables": [
        ("nftables reads ARP addresses of any protocol", arp_of_any_protocol),
        ("nftables sees the first next header", first_next_header),
        ("nftables ignores the end of an ICMPv6 range", icmp_range),
    ],
}


def reason(found, wanted, at, seen, backend):
    """The decision that explains why the verdicts on one of the frames differ, if one does."""
    row = wanted[at]
    case = Case(row["way"], bytes.fromhex(row["frame"]), row["verdict"], seen[at]["verdict"], found, wanted[:at])
    return next((name for name, bites in REASONS[backend] if bites(case)), None)


def agrees(found, wanted, at, seen):
    """Whether the iptables back end judges a frame as we do, or has its reasons."""
    return wanted[at]["verdict"] == seen[at]["verdict"] or reason(found, wanted, at, seen, "iptables") is not None
