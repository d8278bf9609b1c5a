//! Where the program of a link is attached, by what the link is and what it belongs to.
//!
//! Pure, and the one answer to that question: for the daemon, which follows links, and for the command, which reads them once.

use crate::document::diag::{Code, Diagnostic};
use crate::guest::link::{Link, LinkKind, Orientation};
use crate::ruleset::firewall::{Attachment, BridgePort, Placement};

/// The place of a link whose master is this one, as far as that is known.
///
/// A bridge's port is filtered by its bridge, or at its own hooks where the placement says so. All others are filtered at
/// their own hooks; the host's IP layer also sees the packets of an interface that has no master and is no macvtap.
pub fn of(link: &Link, master: Option<&Link>, ports: Placement) -> Attachment {
    let name = link.name.clone();
    let reversed = link.kind.orientation() == Orientation::Reversed;
    match master.filter(|master| master.kind == LinkKind::Bridge) {
        Some(Link { index, name: bridge, mac, .. }) => {
            let bridge = BridgePort { index: *index, name: bridge.clone(), host: *mac, port: name.clone() };
            match ports {
                Placement::Device => Attachment::Port { name, bridge },
                Placement::Bridge => Attachment::Bridge(Some(bridge)),
            }
        }
        None if link.master.is_none() && !reversed => Attachment::Routed { name },
        None => Attachment::Device { name, reversed },
    }
}

/// What keeps every filter from such a link: rules judge Ethernet frames of a guest, and would overlook its packets, or be about
/// the host's own.
pub fn unfit(link: &Link) -> Option<Diagnostic> {
    let (why, help) = match link.kind {
        LinkKind::Headerless => (
            "carries no Ethernet frames: no filter can judge its packets",
            "bind the guest's tap, macvtap or veth, or a port of a bridge",
        ),
        LinkKind::Loopback => (
            "is the host's way to itself: a filter would cut the host off from its own services",
            "bind the guest's tap, macvtap or veth, or a port of a bridge",
        ),
        LinkKind::Bridge => (
            "is a bridge: what its ports send each other never passes it, so no filter there judges a guest",
            "bind the bridge's ports, which are the guests' interfaces",
        ),
        LinkKind::Tap | LinkKind::Macvtap { .. } | LinkKind::Veth | LinkKind::Other => return None,
    };
    let message = format!("interface '{}' {why}", link.name);
    Some(Diagnostic::error(Code::OPERATION_FAILED, message).help(help))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::link::MacvtapMode;

    fn link(index: u32, kind: LinkKind, master: Option<u32>) -> Link {
        Link { index, name: format!("link{index}"), kind, master, mac: None, up: true }
    }

    #[test]
    fn a_link_has_its_place_by_what_it_is_and_whose() {
        let macvtap = LinkKind::Macvtap { mode: MacvtapMode::Bridge, lower: Some(1), lower_netns: None };
        let (bridge, bond) = (link(2, LinkKind::Bridge, None), link(3, LinkKind::Other, None));
        let port = BridgePort { index: 2, name: "link2".into(), host: None, port: "link9".into() };
        let name = || "link9".to_owned();
        let device = |reversed| Attachment::Device { name: name(), reversed };
        for (kind, number, master, ports, expected) in [
            (LinkKind::Tap, None, None, Placement::Device, Attachment::Routed { name: name() }),
            (LinkKind::Veth, None, None, Placement::Bridge, Attachment::Routed { name: name() }),
            (
                LinkKind::Tap,
                Some(2),
                Some(&bridge),
                Placement::Bridge,
                Attachment::Bridge(Some(port.clone())),
            ),
            (
                LinkKind::Tap,
                Some(2),
                Some(&bridge),
                Placement::Device,
                Attachment::Port { name: name(), bridge: port.clone() },
            ),
            (LinkKind::Tap, Some(3), Some(&bond), Placement::Device, device(false)),
            (LinkKind::Tap, Some(4), None, Placement::Device, device(false)),
            (macvtap, None, None, Placement::Device, device(true)),
            (macvtap, Some(3), Some(&bond), Placement::Bridge, device(true)),
            (macvtap, Some(2), Some(&bridge), Placement::Bridge, Attachment::Bridge(Some(port.clone()))),
        ] {
            let found = of(&link(9, kind, number), master, ports);
            assert_eq!(found, expected, "{kind:?} of {number:?}, known as {master:?}");
        }
    }
}
