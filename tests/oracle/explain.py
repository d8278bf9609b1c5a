"""Why a frame may fare differently with us than with libvirt: the numbered decisions, each as a test of the frame.

A difference is explained only where the rules concerned and the bytes of the frames show that the decision bites: a
decision that merely could have to do with it is no reason. libvirt's two back ends differ among themselves, and we follow
iptables: what its nftables does otherwise is a reason only where its iptables judged the same frame as we do.
"""
import nftables
from case import ETHERNET_LAYER, Case, flow, heard, number


def dscp_as_tos(case):
    """libvirt hands a dscp of the Ethernet layer to ebtables as the whole ToS octet."""
    if case.frame[12:14] != b"\x08\x00":
        return False
    tos = case.frame[15]
    asked = [number(value) for _, _, tag, attributes in case.rules if tag == "ip" for value in attributes.get("dscp", [])]
    return any((tos >> 2 == dscp) != (tos == dscp) for dscp in asked)


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


HEARD_BY_HOST = "decision 2 (a dropped frame opens no connection)"
REASONS = {
    "iptables": [("decision 6 (dscp as ToS)", dscp_as_tos), (HEARD_BY_HOST, heard_by_host)],
    "nftables": nftables.REASONS,
}


def reason(found, wanted, at, seen, backend):
    """The decision that explains why the verdicts on one of the frames differ, if one does."""
    row = wanted[at]
    case = Case(row["way"], bytes.fromhex(row["frame"]), row["verdict"], seen[at]["verdict"], found, wanted[:at])
    return next((name for name, bites in REASONS[backend] if bites(case)), None)


def agrees(found, wanted, at, seen):
    """Whether the iptables back end judges a frame as we do, or has its reasons."""
    return wanted[at]["verdict"] == seen[at]["verdict"] or reason(found, wanted, at, seen, "iptables") is not None
