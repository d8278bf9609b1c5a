"""Where libvirt's nftables back end does otherwise than its iptables back end, which we follow.

Each reason is a test of the frame and of the rules. It says what nftables does; it stands only where the iptables back end
judged the same frame as we do.
"""
from case import flow, number, of_the_rule


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


def about(case):
    """The rules of the IP layer that are about the protocol of the frame: direction, action, attributes."""
    return [(direction, action, attributes) for direction, action, tag, attributes in case.rules
            if of_the_rule(tag, case.frame)]


def inout_with_state(case):
    """Accepting both ways needs no connection in the iptables back end; the other wants both ways to begin one."""
    return case.wanted == "drop" and any(action == "accept" and direction == "inout" for direction, action, _ in about(case))


def drop_of_one_way(case):
    """What is dropped one way is dropped the other way as well in the iptables back end."""
    return case.wanted == "accept" and any(
        action in ("drop", "reject") and direction not in (case.way, "inout") for direction, action, _ in about(case))


def typed_both_ways(case):
    """A rule with an ICMP type has no other direction in the iptables back end; the other takes it for answers too."""
    at = 34 if case.frame[12:14] == b"\x08\x00" else 54
    return case.wanted == "accept" and any(
        direction not in (case.way, "inout") and case.frame[at] in map(number, attributes["type"])
        for direction, _, attributes in about(case) if "type" in attributes)


def no_state(case):
    """state='NONE' asks for no connection in the iptables back end, and takes no answers. The other asks for one, and takes
    them."""
    ways = {direction for direction, _, attributes in about(case) if "NONE" in attributes.get("state", ())}
    return bool(ways & {case.way, "inout"}) if case.wanted == "drop" else bool(ways - {case.way, "inout"})


def counted_all(case):
    """Connections are counted for each source in the iptables back end; the other counts all that meet the rule."""
    return case.wanted == "drop" and any("connlimit-above" in attributes for _, _, attributes in about(case))


def set_ignored(case):
    return case.wanted == "accept" and any("ipset" in attributes for _, _, attributes in about(case))


def untagged(frame):
    """What is below the tag, as if there was none; nothing if there is none."""
    return frame[:12] + frame[16:] if frame[12:14] in (b"\x81\x00", b"\x88\xa8") else None


def tagged_fragment(case):
    """The connections of a bridge are looked for below VLAN tags too, which holds fragments back until all are there;
    br_netfilter leaves tagged frames alone."""
    below = untagged(case.frame)
    return case.wanted == "drop" and below is not None and below[12:14] == b"\x08\x00" and \
        int.from_bytes(below[20:22], "big") & 0x3fff != 0


def tagged_beginning(case):
    """For the same reason a tagged frame begins a connection, to which an untagged one of the same two ends belongs."""
    upper, here, there = flow(case.frame) or (None, None, None)
    below = (untagged(bytes.fromhex(row["frame"])) for row in case.before if row["verdict"] == "accept")
    return upper is not None and any(flow(frame) == (upper, there, here) for frame in below if frame is not None)


REASONS = [
    ("nftables reads ARP addresses of any protocol", arp_of_any_protocol),
    ("nftables sees the first next header", first_next_header),
    ("nftables ignores the end of an ICMPv6 range", icmp_range),
    ("nftables ignores ipset", set_ignored),
    ("nftables takes state NONE for none named", no_state),
    ("nftables counts connections of all sources", counted_all),
    ("nftables wants both ways of inout to begin", inout_with_state),
    ("nftables drops one way only", drop_of_one_way),
    ("nftables takes ICMP types for answers", typed_both_ways),
    ("nftables holds back tagged fragments", tagged_fragment),
    ("nftables begins connections in tagged frames", tagged_beginning),
]
