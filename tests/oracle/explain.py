"""Why a frame may fare differently with us than with libvirt: the numbered decisions, each as a test of the frame.

A difference is explained only where the rules concerned and the bytes of the frames show that the decision bites: a
decision that merely could have to do with it is no reason.
"""
import collections
import re
import xml.etree.ElementTree as ET

# A frame that was judged differently: which way it went, its bytes, both verdicts, the rules of the filter, and what
# libvirt said of the frames before it.
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
    if this is None:
        return False
    frames = ((row, bytes.fromhex(row["frame"])) for row in case.before)
    return any(row["verdict"] == "drop" and frame[0] & 1 and flow(frame) in (this, (this[0], this[2], this[1]))
               for row, frame in frames)


REASONS = [
    ("decision 6 (dscp as ToS)", dscp_as_tos),
    ("decision 2 (no host chains)", heard_by_host),
]


def reason(found, wanted, at, seen):
    """The decision that explains why the verdicts on one of the frames differ, if one does."""
    row = wanted[at]
    case = Case(row["way"], bytes.fromhex(row["frame"]), row["verdict"], seen[at]["verdict"], found, wanted[:at])
    return next((name for name, bites in REASONS if bites(case)), None)
