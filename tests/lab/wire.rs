//! A packet socket on an interface: what the host sees and sends there, e.g. the guest's end of a veth.
//!
//! It sees each frame once, as it arrives from outside; what it sends leaves through the interface.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type};

use super::link::Link;

/// A packet socket bound to one interface.
pub struct Wire(Socket);

impl Wire {
    /// Opens the interface, which must be up to carry anything.
    ///
    /// # Panics
    /// Where the socket is refused.
    pub fn open(link: &Link) -> Wire {
        Wire::bound_to(&frames_of(link.index(), libc::ETH_P_ALL as u16))
    }

    /// Hears the frames of this Ethernet type that come in by any interface and get past its own hooks and its bridge.
    ///
    /// # Panics
    /// Where the socket is refused.
    pub fn of_the_host(ether_type: u16) -> Wire {
        Wire::bound_to(&frames_of(0, ether_type))
    }

    fn bound_to(place: &SockAddr) -> Wire {
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0)))
            .expect("root may open packet sockets");
        socket.bind(place).expect("the interface exists");
        socket.set_nonblocking(true).expect("sockets can be nonblocking");
        Wire(socket)
    }

    /// Sends a frame out of the interface.
    ///
    /// # Errors
    /// What the kernel says, e.g. ENETDOWN.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        self.0.send(frame).map(drop)
    }

    /// The next frame that came in, without its VLAN tag where it had one.
    pub fn recv(&self) -> Option<Vec<u8>> {
        loop {
            let mut frame = Vec::with_capacity(1 << 16);
            let (length, origin) = self.0.recv_from(frame.spare_capacity_mut()).ok()?;
            // SAFETY: the kernel filled `length` bytes of the spare capacity.
            unsafe { frame.set_len(length) };
            if !sent_by_us(&origin) {
                return Some(frame);
            }
        }
    }

    /// The next frame, waiting for it no longer than `limit`.
    pub fn recv_within(&self, limit: Duration) -> Option<Vec<u8>> {
        self.recv().or_else(|| readable(self.0.as_raw_fd(), limit).then(|| self.recv()).flatten())
    }
}

/// Whether the descriptor has something to read before `limit` has passed.
pub(super) fn readable(fd: RawFd, limit: Duration) -> bool {
    let mut wait = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    let milliseconds = limit.as_millis().try_into().unwrap_or(i32::MAX);
    // SAFETY: one pollfd is given and counted as one.
    unsafe { libc::poll(&mut wait, 1, milliseconds) == 1 }
}

fn frames_of(index: u32, ether_type: u16) -> SockAddr {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: sockaddr_ll is a socket address and fits the storage.
    let place = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    place.sll_family = libc::AF_PACKET as u16;
    place.sll_protocol = ether_type.to_be();
    place.sll_ifindex = index as i32;
    // SAFETY: the storage holds a sockaddr_ll of this length.
    unsafe { SockAddr::new(storage, size_of::<libc::sockaddr_ll>() as libc::socklen_t) }
}

fn sent_by_us(origin: &SockAddr) -> bool {
    // SAFETY: addresses that a packet socket receives from are sockaddr_ll.
    let place = unsafe { &*origin.as_ptr().cast::<libc::sockaddr_ll>() };
    place.sll_pkttype == libc::PACKET_OUTGOING
}
