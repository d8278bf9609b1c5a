//! A tap: the wire between a guest and the host, held by the test in the guest's place.
//!
//! Frames go in and out whole, without a header of the tun driver. Nothing blocks: `recv` answers
//! `None` when nothing is queued, and `recv_within` waits for at most the time given.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use rustix::buffer::spare_capacity;

use super::link::Link;

/// More than a tap carries at once.
const LARGEST: usize = 1 << 16;

/// A tap (or macvtap) and its link. Dropping it removes the link of a tap.
pub struct Tap {
    /// The interface as the host sees it.
    pub link: Link,
    queue: File,
}

impl Tap {
    /// Makes a tap of this name. It is down.
    ///
    /// # Panics
    /// Where /dev/net/tun is missing or the name is taken.
    pub fn new(name: &str) -> Tap {
        let queue = open_queue("/dev/net/tun").expect("/dev/net/tun opens");
        let flags = libc::IFF_TAP | libc::IFF_NO_PI;
        attach(&queue, name, flags as i16).unwrap_or_else(|why| panic!("tap {name}: {why}"));
        Tap { link: Link::named(name), queue }
    }

    /// The same with an index that is free.
    ///
    /// # Panics
    /// Where the index or the name is taken.
    pub fn new_at(index: u32, name: &str) -> Tap {
        const TUNSETIFINDEX: libc::c_ulong = 0x4004_54da;
        let queue = open_queue("/dev/net/tun").expect("/dev/net/tun opens");
        // SAFETY: TUNSETIFINDEX reads one number.
        super::checked(unsafe { libc::ioctl(queue.as_raw_fd(), TUNSETIFINDEX, &index) })
            .expect("a tap may ask for an index");
        let flags = libc::IFF_TAP | libc::IFF_NO_PI;
        attach(&queue, name, flags as i16).unwrap_or_else(|why| panic!("tap {name} {index}: {why}"));
        Tap { link: Link::named(name), queue }
    }

    /// Makes a tap whose guest puts a virtio-net header before each frame, as QEMU's does.
    ///
    /// # Panics
    /// As `new`.
    pub fn with_header(name: &str) -> Tap {
        let queue = open_queue("/dev/net/tun").expect("/dev/net/tun opens");
        let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
        attach(&queue, name, flags as i16).unwrap_or_else(|why| panic!("tap {name}: {why}"));
        Tap { link: Link::named(name), queue }
    }

    /// The queue of a macvtap, found at the device node `path`.
    pub(super) fn of_macvtap(link: Link, path: &str) -> io::Result<Tap> {
        let queue = open_queue(path)?;
        attach(&queue, "", (libc::IFF_TAP | libc::IFF_NO_PI) as i16)?;
        Ok(Tap { link, queue })
    }

    /// Sends a frame as the guest does. On a bridge everything that follows from it has happened
    /// when this returns: the kernel forwards inside write(2).
    ///
    /// # Errors
    /// EINVAL for fewer than 14 bytes, EIO while the link is down.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        (&self.queue).write_all(frame)
    }

    /// The next frame that waits for the guest.
    pub fn recv(&self) -> Option<Vec<u8>> {
        let mut frame = Vec::with_capacity(LARGEST);
        let read = rustix::io::read(&self.queue, spare_capacity(&mut frame));
        self.understand(read.map_err(io::Error::from))?;
        Some(frame)
    }

    /// As `recv`, into a buffer that is kept: for those who count millions.
    pub fn recv_into(&self, buffer: &mut [u8]) -> Option<usize> {
        self.understand((&self.queue).read(buffer))
    }

    fn understand(&self, read: io::Result<usize>) -> Option<usize> {
        match read {
            Ok(length) => Some(length),
            Err(why) if why.kind() == io::ErrorKind::WouldBlock => None,
            // A tap that is down or gone has nothing to say.
            Err(why) if matches!(why.raw_os_error(), Some(libc::EIO | libc::EBADFD)) => None,
            Err(why) => panic!("reading {}: {why}", self.link.name()),
        }
    }

    /// The next frame, waiting for it no longer than `limit`.
    pub fn recv_within(&self, limit: Duration) -> Option<Vec<u8>> {
        self.recv()
            .or_else(|| super::wire::readable(self.queue.as_raw_fd(), limit).then(|| self.recv()).flatten())
    }

    /// Everything that waits for the guest.
    pub fn drain(&self) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| self.recv()).collect()
    }

    /// Asks the tun driver to keep the link when the tap is dropped, or no longer.
    ///
    /// # Errors
    /// What the driver says.
    pub fn persist(&self, keep: bool) -> io::Result<()> {
        const TUNSETPERSIST: libc::c_ulong = 0x4004_54cb;
        // SAFETY: the argument is a number, no pointer.
        super::checked(unsafe { libc::ioctl(self.fd(), TUNSETPERSIST, libc::c_ulong::from(keep)) })
    }

    /// From here on the guest of a macvtap puts a virtio-net header before each frame.
    ///
    /// # Errors
    /// What the driver says; a tap has it from the start or never.
    pub fn take_headers(&self) -> io::Result<()> {
        attach(&self.queue, "", (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as i16)
    }

    /// Says whether the guest takes unfinished checksums and long segments from the host, as a virtio driver does.
    ///
    /// # Errors
    /// What the driver says.
    pub fn set_offload(&self, on: bool) -> io::Result<()> {
        const TUNSETOFFLOAD: libc::c_ulong = 0x4004_54d0;
        /// TUN_F_CSUM, TUN_F_TSO4 and TUN_F_TSO6.
        const ALL: libc::c_ulong = 1 | 2 | 4;
        // SAFETY: the argument is a number, no pointer.
        super::checked(unsafe { libc::ioctl(self.fd(), TUNSETOFFLOAD, if on { ALL } else { 0 }) })
    }

    fn fd(&self) -> RawFd {
        self.queue.as_raw_fd()
    }
}

fn open_queue(path: &str) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(path)
}

fn attach(queue: &File, name: &str, flags: i16) -> io::Result<()> {
    const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
    // SAFETY: an ifreq of zeroes is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    assert!(name.len() < request.ifr_name.len(), "{name} is too long for an interface");
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = flags;
    // SAFETY: TUNSETIFF reads and writes one ifreq.
    super::checked(unsafe { libc::ioctl(queue.as_raw_fd(), TUNSETIFF, &mut request) })
}
