//! Asks rtnetlink once for all of a kind: a dump to what is read of each of its messages.

use super::rtnl::{Listener, refused};
use netlink_packet_route::RouteNetlinkMessage;
use rtnetlink::packet_core::{NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer};
use std::io::{self, ErrorKind};

/// Blocks for the time of the dump. Messages that nothing can be read of are passed over.
pub(super) fn dump<T, All: Default + Extend<T>>(
    what: RouteNetlinkMessage,
    answer: u16,
    read: impl Fn(&[u8]) -> Option<T>,
) -> io::Result<All> {
    let mut listener = Listener::open(0)?;
    listener.ask_for_dump(what)?;
    let mut all = All::default();
    let mut each = |kind: u16, payload: &[u8]| match kind {
        NLMSG_ERROR => Err(io::Error::from_raw_os_error(refused(payload).unwrap_or(libc::EIO))),
        _ => {
            all.extend((kind == answer).then(|| read(payload)).flatten());
            Ok(kind != NLMSG_DONE)
        }
    };
    while messages(listener.receive()?, &mut each)? {}
    Ok(all)
}

/// Hands on every message, up to the one that ends the dump.
fn messages(mut datagram: &[u8], each: &mut impl FnMut(u16, &[u8]) -> io::Result<bool>) -> io::Result<bool> {
    let bad = |_| io::Error::new(ErrorKind::InvalidData, "a message of rtnetlink has a wrong length");
    while !datagram.is_empty() {
        let message = NetlinkBuffer::new_checked(datagram).map_err(bad)?;
        if !each(message.message_type(), message.payload())? {
            return Ok(false);
        }
        let length = (message.length() as usize).next_multiple_of(4).min(datagram.len());
        datagram = &datagram[length..];
    }
    Ok(true)
}
