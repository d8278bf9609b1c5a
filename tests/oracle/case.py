"""A frame that was judged differently, and what can be read off it and off the rules."""
import collections
import re
import xml.etree.ElementTree as ET

ETHERNET_LAYER = {"mac", "vlan", "stp", "arp", "rarp", "ip", "ipv6"}
PROTOCOLS = {"tcp": 6, "udp": 17, "udplite": 136, "esp": 50, "ah": 51, "sctp": 132, "icmp": 1, "igmp": 2, "icmpv6": 58}
EXTENSIONS = (0, 43, 60)

# Which way the frame went, its bytes, both verdicts, the rules of the filter, and libvirt's verdicts on the frames before.
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


def protocol(frame):
    """Whether an untagged frame is IPv6's, and the protocol it carries; none if it is neither IP's."""
    if frame[12:14] == b"\x08\x00":
        return False, frame[23]
    if frame[12:14] != b"\x86\xdd":
        return None
    upper, at = frame[20], 54
    while upper in EXTENSIONS:
        upper, at = frame[at], at + 8 * (frame[at + 1] + 1)
    return True, upper


def of_the_rule(tag, frame):
    """Whether a rule of the IP layer is about the protocol of a frame."""
    name, is_ipv6 = tag.removesuffix("-ipv6"), tag.endswith("-ipv6") or tag == "icmpv6"
    found = protocol(frame)
    return tag not in ETHERNET_LAYER and found is not None and found[0] == is_ipv6 and \
        (name == "all" or PROTOCOLS.get(name) == found[1])


def heard(rows):
    """The frames of which the host gets a copy of its own."""
    frames = ((row, bytes.fromhex(row["frame"])) for row in rows)
    return ((row, frame) for row, frame in frames if frame[0] & 1)
