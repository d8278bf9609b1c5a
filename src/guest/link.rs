//! A link: what it is, what happened to it, what it carried. Pure; `links` reads them from the kernel.

use crate::document::mac::Mac;

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its identity, as long as it lives.
    pub index: u32,
    /// What people call it today.
    pub name: String,
    /// What made it.
    pub kind: LinkKind,
    /// The bridge (or bond) it is a port of.
    pub master: Option<u32>,
    /// Its Ethernet address, if it has one.
    pub mac: Option<Mac>,
    /// Whether it is administratively up.
    pub up: bool,
}

/// Which way a guest's frames go through its interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Orientation {
    /// What the guest sends comes in by it: a tap.
    Straight,
    /// What the guest sends goes out by it: a macvtap.
    Reversed,
}

/// What kind of device a link is, as far as filtering cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LinkKind {
    /// A tun device that carries Ethernet frames.
    Tap,
    /// A macvtap on a lower device.
    Macvtap {
        /// How its siblings see it.
        mode: MacvtapMode,
        /// Index of the lower device.
        lower: Option<u32>,
        /// The namespace that index belongs to, where it is not this one.
        lower_netns: Option<i32>,
    },
    /// One end of a pair.
    Veth,
    /// A bridge.
    Bridge,
    /// The host's way to itself.
    Loopback,
    /// A device whose packets have no Ethernet header: a tun device, WireGuard, a tunnel.
    Headerless,
    /// Anything else.
    Other,
}

impl LinkKind {
    /// Whether what its guest sends goes out by it.
    pub fn orientation(self) -> Orientation {
        match self {
            LinkKind::Macvtap { .. } => Orientation::Reversed,
            _ => Orientation::Straight,
        }
    }
}

/// The modes of a macvtap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MacvtapMode {
    /// Siblings do not see each other.
    Private,
    /// Siblings see each other by way of the switch.
    Vepa,
    /// Siblings see each other directly.
    Bridge,
    /// The lower device belongs to this one alone.
    Passthru,
    /// Frames are picked by their source address.
    Source,
    /// A mode this program has not heard of.
    Unknown,
}

/// What happened to a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkEvent {
    /// A link is there that was not.
    Appeared(Link),
    /// A link lives on under another name, master, address or state.
    Changed {
        /// As it was.
        old: Link,
        /// As it is.
        new: Link,
    },
    /// A link was deleted or moved to another namespace.
    Gone(Link),
}

impl LinkEvent {
    /// Whether the link is a bridge, so that its ports are concerned.
    pub fn is_about_a_bridge(&self) -> bool {
        let (LinkEvent::Appeared(link) | LinkEvent::Changed { new: link, .. } | LinkEvent::Gone(link)) = self;
        link.kind == LinkKind::Bridge
    }
}

/// What a link carried, in frames and bytes, Ethernet header included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Came in by it: what a tap's guest sends.
    pub came: (u64, u64),
    /// Went out by it.
    pub went: (u64, u64),
    /// Whether frames that come in get as far as its bridge's hooks; so it is where it is no port of a bridge.
    pub open: bool,
}
