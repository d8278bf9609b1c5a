//! Packets that wait in the kernel until a neighbour has said its MAC address.

use super::dump::dump;
use super::rtnl::Listener;
use netlink_packet_route::RouteNetlinkMessage::{DelNeighbour, GetNeighbour};
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourMessage, NeighbourState};
use rtnetlink::packet_core::Parseable;
use std::io;

const RTM_NEWNEIGH: u16 = 28;

/// Drops the packets that are queued for a neighbour behind one of these links. A sender that sends again resolves again.
/// Blocks for the time of a dump.
pub fn let_waiting_go(links: &[u32]) -> io::Result<()> {
    let waited_for = |payload: &[u8]| {
        let neighbour = NeighbourMessage::parse(payload).ok()?;
        let waits = neighbour.header.state == NeighbourState::Incomplete;
        (waits && links.contains(&neighbour.header.ifindex)).then_some(neighbour)
    };
    let waited_for: Vec<NeighbourMessage> =
        dump(GetNeighbour(NeighbourMessage::default()), RTM_NEWNEIGH, waited_for)?;
    let mut listener = Listener::open(0)?;
    waited_for.into_iter().try_for_each(|neighbour| forget(&mut listener, neighbour))
}

/// With a neighbour that is forgotten goes what waits for it. One that has answered by now, or is given up, has none.
fn forget(listener: &mut Listener, mut neighbour: NeighbourMessage) -> io::Result<()> {
    neighbour.attributes.retain(|attribute| matches!(attribute, NeighbourAttribute::Destination(_)));
    match listener.demand(DelNeighbour(neighbour)) {
        Err(gone) if gone.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        outcome => outcome,
    }
}
