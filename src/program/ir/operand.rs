//! What a match reads, resolved: from where, under which name, and how its values are written.
//!
//! nft takes a field's name only where it knows the protocol around it, and otherwise adds a match that checks the
//! protocol. So a field has its name exactly where the matches before it have established as much, and goes by
//! its raw bytes (`@nh,96,32`) elsewhere.

use crate::document::field::{Base, Field};
use crate::program::ir::{Bytes, Family, Key, KeySource};

/// Something that is loaded into a register, and how its values read.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Operand {
    /// Where it comes from.
    pub(crate) source: LoadSource,
    /// The bits that count, where not all do.
    pub(crate) mask: Option<Bytes>,
    /// Whether nft's name alone implies the mask.
    pub(crate) mask_in_name: bool,
    /// How far values are shifted within the loaded bytes.
    pub(crate) shift: u32,
    /// nft's name, where it can be used.
    pub(crate) name: Option<&'static str>,
    /// How a value is written.
    pub(crate) style: Style,
    /// Whether nft takes the field for one that tells the protocol of the next header.
    pub(crate) tells_protocol: bool,
    /// The network protocol whose header it is part of.
    pub(crate) network: Option<u16>,
}

/// From where something is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LoadSource {
    /// Bytes of a header.
    Payload { base: Base, offset: u32, length: u32 },
    /// A property of the packet.
    Meta(Meta),
}

/// The properties of a packet that we read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Meta {
    Iif,
    Oif,
    Protocol,
    NfProto,
    L4Proto,
    IifName,
    OifName,
    BridgeName,
    Mark,
    PacketType,
}

/// How a value of an operand is written, and which of nft's data types it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    Raw,
    Index,
    Name,
    Ether,
    Ipv4,
    Ipv6,
    EtherType,
    ArpOperation,
    Hardware,
    Number,
    Protocol,
    NfProto,
    Port,
    Dscp,
    TcpFlags,
    IcmpType,
    IcmpCode,
    Icmp6Type,
    Icmp6Code,
    Mark,
    PacketType,
}

pub(crate) const IPV4: u16 = 0x0800;
pub(crate) const ARP: u16 = 0x0806;
pub(crate) const VLAN: u16 = 0x8100;
pub(crate) const IPV6: u16 = 0x86dd;

/// What the matches so far have established, as nft keeps track of it.
#[derive(Clone, Copy, Default)]
pub(crate) struct ProtocolContext {
    pub(crate) link: Option<u16>,
    pub(crate) network: Option<u16>,
    pub(crate) transport: Option<u8>,
}

pub(crate) fn operands(family: Family, context: ProtocolContext, keys: &[Key]) -> Vec<Operand> {
    let mut operands: Vec<Operand> = keys.iter().map(|key| operand(family, context, key)).collect();
    if operands.len() > 1 {
        // In a concatenation nft would shift such a field down; by its raw name it stays in place.
        operands.iter_mut().filter(|operand| operand.shift > 0).for_each(Operand::make_raw);
    }
    operands
}

pub(crate) fn operand(family: Family, context: ProtocolContext, key: &Key) -> Operand {
    let mut operand = match key.from {
        KeySource::Field(field) => header_field(family, context, field),
        KeySource::Iif => Operand::meta(Meta::Iif, "iif", Style::Index),
        KeySource::Oif => Operand::meta(Meta::Oif, "oif", Style::Index),
        KeySource::Protocol => Operand::meta(Meta::Protocol, "meta protocol", Style::EtherType),
        KeySource::L4Proto => Operand::meta(Meta::L4Proto, "meta l4proto", Style::Protocol),
        KeySource::IifName => Operand::meta(Meta::IifName, "iifname", Style::Name),
        KeySource::OifName => Operand::meta(Meta::OifName, "oifname", Style::Name),
        KeySource::BridgeName => Operand::meta(Meta::BridgeName, "meta ibrname", Style::Name),
        KeySource::Mark => Operand::meta(Meta::Mark, "meta mark", Style::Mark),
        KeySource::PacketType => Operand::meta(Meta::PacketType, "meta pkttype", Style::PacketType),
    };
    let all_ones = |mask: &Bytes| mask.len() == operand.length() && mask.iter().all(|byte| *byte == 0xff);
    let mask = key.mask.as_ref().filter(|mask| !all_ones(mask));
    if let Some(mask) = mask {
        if operand.mask.is_some() {
            operand.make_raw();
        }
        operand.mask = Some(match &operand.mask {
            Some(own) => own.iter().zip(mask.iter()).map(|(a, b)| a & b).collect(),
            None => mask.clone(),
        });
    }
    operand
}

fn header_field(family: Family, context: ProtocolContext, field: Field) -> Operand {
    let layout = field.layout();
    let network = network_of(field);
    let mut operand = Operand {
        source: LoadSource::Payload { base: layout.base, offset: layout.offset, length: layout.length },
        mask: layout.mask.map(Bytes::from),
        mask_in_name: layout.mask.is_some(),
        shift: layout.shift,
        name: layout.nft,
        style: style_of(field),
        tells_protocol: matches!(field, Field::EtherType | Field::VlanType | Field::IpProtocol),
        network,
    };
    if !context.lets_name(family, field, network) {
        operand.make_raw();
    }
    operand
}

impl ProtocolContext {
    /// Whether nft takes the field's name without adding a match on the protocol around it.
    ///
    /// Outside of the bridge family it checks `meta iiftype` before any link-layer field, which at an
    /// egress hook can never hold: there these fields are always raw.
    fn lets_name(self, family: Family, field: Field, network: Option<u16>) -> bool {
        use Field::*;
        match field {
            EtherDaddr | EtherSaddr | EtherType => family == Family::Bridge,
            VlanId | VlanType => family == Family::Bridge && self.link == Some(VLAN),
            ThSport | ThDport => true,
            TcpFlags => self.transport == Some(6),
            IcmpType | IcmpCode => self.transport == Some(1),
            Icmp6Type | Icmp6Code => self.transport == Some(58),
            // The IP stack's hooks see no ARP.
            _ if family == Family::Inet && network == Some(ARP) => false,
            _ => network.is_some() && self.network == network,
        }
    }
}

impl Operand {
    pub(crate) fn meta(meta: Meta, name: &'static str, style: Style) -> Operand {
        Operand {
            source: LoadSource::Meta(meta),
            mask: None,
            mask_in_name: false,
            shift: 0,
            name: Some(name),
            style,
            tells_protocol: false,
            network: None,
        }
    }

    fn make_raw(&mut self) {
        self.name = None;
        self.style = Style::Raw;
        self.shift = 0;
        self.mask_in_name = false;
        self.tells_protocol = false;
    }

    /// Bytes of a value.
    pub(crate) fn length(&self) -> usize {
        match self.source {
            LoadSource::Payload { length, .. } => length as usize,
            LoadSource::Meta(Meta::Iif | Meta::Oif | Meta::Mark) => 4,
            LoadSource::Meta(Meta::Protocol) => 2,
            LoadSource::Meta(Meta::NfProto | Meta::L4Proto | Meta::PacketType) => 1,
            LoadSource::Meta(Meta::BridgeName | Meta::IifName | Meta::OifName) => 16,
        }
    }
}

fn network_of(field: Field) -> Option<u16> {
    use Field::*;
    match field {
        ArpHtype | ArpPtype | ArpHlen | ArpPlen | ArpOperation | ArpSaddrEther | ArpSaddrIp
        | ArpDaddrEther | ArpDaddrIp => Some(ARP),
        IpDscp | IpFragment | IpProtocol | IpSaddr | IpDaddr => Some(IPV4),
        Ip6Dscp | Ip6Saddr | Ip6Daddr => Some(IPV6),
        _ => None,
    }
}

pub(crate) fn style_of(field: Field) -> Style {
    use Field::*;
    match field {
        EtherDaddr | EtherSaddr | ArpSaddrEther | ArpDaddrEther => Style::Ether,
        EtherType | VlanType | ArpPtype => Style::EtherType,
        ArpHtype => Style::Hardware,
        VlanId | ArpHlen | ArpPlen | IpFragment => Style::Number,
        ArpOperation => Style::ArpOperation,
        ArpSaddrIp | ArpDaddrIp | IpSaddr | IpDaddr => Style::Ipv4,
        Ip6Saddr | Ip6Daddr => Style::Ipv6,
        IpDscp | Ip6Dscp => Style::Dscp,
        IpProtocol => Style::Protocol,
        ThSport | ThDport => Style::Port,
        TcpFlags => Style::TcpFlags,
        IcmpType => Style::IcmpType,
        IcmpCode => Style::IcmpCode,
        Icmp6Type => Style::Icmp6Type,
        Icmp6Code => Style::Icmp6Code,
        StpType | StpFlags | StpRootPriority | StpRootAddress | StpRootCost | StpSenderPriority
        | StpSenderAddress | StpPort | StpAge | StpMaxAge | StpHelloTime | StpForwardDelay | StpHeader
        | ThStart => Style::Raw,
    }
}
