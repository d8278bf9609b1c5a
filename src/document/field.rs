//! Where each header field sits in a frame: ONE table that the attribute table, the compiler, the
//! netlink encoder and the printer follow.
//!
//! Values of fields are bytes in wire order. A field of less than whole bytes (DSCP, VLAN id) is
//! loaded as whole bytes and masked; its value is kept shifted into place.

/// From where an offset counts, as nftables payload expressions do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Base {
    /// The Ethernet header. A VLAN tag that the device stripped is seen in its place here.
    Link,
    /// The network header.
    Network,
    /// The transport header. A later fragment has none, but the kernel's quick way of loading 1, 2 or 4 bytes takes
    /// what is there for one.
    Transport,
}

/// A header field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the names are the ones of the headers")]
#[non_exhaustive]
pub enum Field {
    EtherDaddr,
    EtherSaddr,
    EtherType,
    VlanId,
    VlanType,
    StpType,
    StpFlags,
    StpRootPriority,
    StpRootAddress,
    StpRootCost,
    StpSenderPriority,
    StpSenderAddress,
    StpPort,
    StpAge,
    StpMaxAge,
    StpHelloTime,
    StpForwardDelay,
    /// LLC header and protocol identifier and version, which every 802.1D BPDU begins with.
    StpHeader,
    ArpHtype,
    ArpPtype,
    ArpHlen,
    ArpPlen,
    ArpOperation,
    ArpSaddrEther,
    ArpSaddrIp,
    ArpDaddrEther,
    ArpDaddrIp,
    IpDscp,
    /// Three bits of flags, then the place of a fragment in its packet.
    IpFragment,
    IpProtocol,
    IpSaddr,
    IpDaddr,
    Ip6Dscp,
    Ip6Saddr,
    Ip6Daddr,
    /// What the kernel loads in its slow way, which fails where there is no transport header.
    ThStart,
    ThSport,
    ThDport,
    TcpFlags,
    IcmpType,
    IcmpCode,
    Icmp6Type,
    Icmp6Code,
}

/// Where a field sits and which of its bits count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// From where `offset` counts.
    pub base: Base,
    /// Bytes from there.
    pub offset: u32,
    /// Bytes to load.
    pub length: u32,
    /// Bits of the loaded bytes that belong to the field, where that is not all of them.
    pub mask: Option<&'static [u8]>,
    /// How far a value is shifted to the left within the loaded bytes.
    pub shift: u32,
    /// nftables' name for it; none where nftables has only the raw `@base,offset,length`.
    pub nft: Option<&'static str>,
}

impl Field {
    /// Where the field sits.
    pub fn layout(self) -> Layout {
        use Base::{Link, Network, Transport};
        use Field::*;
        let whole = |base, offset, length, nft| Layout { base, offset, length, mask: None, shift: 0, nft };
        let named = |base, offset, length, nft| whole(base, offset, length, Some(nft));
        // A BPDU follows 14 bytes of 802.3 header and 3 of LLC.
        let bpdu = |offset: u32, length| whole(Link, 17 + offset, length, None);
        match self {
            EtherDaddr => named(Link, 0, 6, "ether daddr"),
            EtherSaddr => named(Link, 6, 6, "ether saddr"),
            EtherType => named(Link, 12, 2, "ether type"),
            VlanId => Layout { mask: Some(&[0x0f, 0xff]), ..named(Link, 14, 2, "vlan id") },
            VlanType => named(Link, 16, 2, "vlan type"),
            StpHeader => whole(Link, 14, 6, None),
            StpType => bpdu(3, 1),
            StpFlags => bpdu(4, 1),
            StpRootPriority => bpdu(5, 2),
            StpRootAddress => bpdu(7, 6),
            StpRootCost => bpdu(13, 4),
            StpSenderPriority => bpdu(17, 2),
            StpSenderAddress => bpdu(19, 6),
            StpPort => bpdu(25, 2),
            StpAge => bpdu(27, 2),
            StpMaxAge => bpdu(29, 2),
            StpHelloTime => bpdu(31, 2),
            StpForwardDelay => bpdu(33, 2),
            ArpHtype => named(Network, 0, 2, "arp htype"),
            ArpPtype => named(Network, 2, 2, "arp ptype"),
            ArpHlen => named(Network, 4, 1, "arp hlen"),
            ArpPlen => named(Network, 5, 1, "arp plen"),
            ArpOperation => named(Network, 6, 2, "arp operation"),
            ArpSaddrEther => named(Network, 8, 6, "arp saddr ether"),
            ArpSaddrIp => named(Network, 14, 4, "arp saddr ip"),
            ArpDaddrEther => named(Network, 18, 6, "arp daddr ether"),
            ArpDaddrIp => named(Network, 24, 4, "arp daddr ip"),
            IpDscp => Layout { mask: Some(&[0xfc]), shift: 2, ..named(Network, 1, 1, "ip dscp") },
            IpFragment => named(Network, 6, 2, "ip frag-off"),
            IpProtocol => named(Network, 9, 1, "ip protocol"),
            IpSaddr => named(Network, 12, 4, "ip saddr"),
            IpDaddr => named(Network, 16, 4, "ip daddr"),
            Ip6Dscp => Layout { mask: Some(&[0x0f, 0xc0]), shift: 6, ..named(Network, 0, 2, "ip6 dscp") },
            Ip6Saddr => named(Network, 8, 16, "ip6 saddr"),
            Ip6Daddr => named(Network, 24, 16, "ip6 daddr"),
            ThStart => whole(Transport, 0, 3, None),
            ThSport => named(Transport, 0, 2, "th sport"),
            ThDport => named(Transport, 2, 2, "th dport"),
            TcpFlags => named(Transport, 13, 1, "tcp flags"),
            IcmpType => named(Transport, 0, 1, "icmp type"),
            IcmpCode => named(Transport, 1, 1, "icmp code"),
            Icmp6Type => named(Transport, 0, 1, "icmpv6 type"),
            Icmp6Code => named(Transport, 1, 1, "icmpv6 code"),
        }
    }

    /// The field that says the same of the other end of the conversation; itself where there is none.
    pub fn mirrored(self) -> Field {
        use Field::*;
        match self {
            EtherDaddr => EtherSaddr,
            EtherSaddr => EtherDaddr,
            ArpSaddrEther => ArpDaddrEther,
            ArpDaddrEther => ArpSaddrEther,
            ArpSaddrIp => ArpDaddrIp,
            ArpDaddrIp => ArpSaddrIp,
            IpSaddr => IpDaddr,
            IpDaddr => IpSaddr,
            Ip6Saddr => Ip6Daddr,
            Ip6Daddr => Ip6Saddr,
            ThSport => ThDport,
            ThDport => ThSport,
            other => other,
        }
    }
}
