"""Why a frame may fare differently with us than with libvirt: the numbered decisions, each as a test of the frame.

A difference is explained only where the rule concerned and the bytes of the frame show that the decision bites: a
decision that merely could have to do with it is no reason.
"""
import re
import xml.etree.ElementTree as ET


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


def dscp_as_tos(rules, way, frame):
    """libvirt hands a dscp of the Ethernet layer to ebtables as the whole ToS octet."""
    if frame[12:14] != b"\x08\x00":
        return False
    tos = frame[15]
    asked = [number(value) for _, _, tag, attributes in rules if tag == "ip" for value in attributes.get("dscp", [])]
    return any((tos >> 2 == dscp) != (tos == dscp) for dscp in asked)


REASONS = [("decision 6 (dscp as ToS)", dscp_as_tos)]


def reason(rules, wanted, seen):
    """The decision that explains why the two verdicts differ, if one does."""
    frame = bytes.fromhex(seen["frame"])
    for name, bites in REASONS:
        if bites(rules, seen["way"], frame):
            return name
    return None
