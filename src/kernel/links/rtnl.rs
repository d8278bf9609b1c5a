//! Listens to rtnetlink: a socket and its bytes in, [`LinkEvent`]s out.
//!
//! The group is joined before the dump is asked for, so nothing falls between the two. A loss (the kernel's
//! ENOBUFS, a cut message) is met with a new socket and a new dump, since the old queue holds stale notices.
//! Only the attributes that matter are read: a foreign attribute that cannot be decoded hides no link.

#![allow(unsafe_code)]

use super::{DumpReason, Links};
use crate::document::mac::Mac;
use crate::guest::link::{Link, LinkEvent, LinkKind, MacvtapMode};
use netlink_packet_route::link::{LinkExtentMask, LinkFlags, LinkHeader, LinkLayerType, LinkMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage, link::LinkAttribute};
use rtnetlink::packet_core::{
    NLA_HEADER_SIZE, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_MULTIPART, NLM_F_REQUEST, NLMSG_DONE,
    NLMSG_ERROR, NetlinkBuffer, NetlinkMessage, NlaBuffer, parse_string,
};
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use rustix::net::sockopt::{set_socket_recv_buffer_size, set_socket_recv_buffer_size_force};
use std::future::{Future, poll_fn};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::unix::{AsyncFd, AsyncFdReadyMutGuard};
use tokio::sync::mpsc::Sender;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

pub(super) const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const GROUP_LINK: u32 = 1;
/// Attributes of a link, and of its `IFLA_LINKINFO`.
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
pub(super) const IFLA_LINKINFO: u16 = 18;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_MACVLAN_MODE: u16 = 1;
const IFLA_TUN_TYPE: u16 = 3;
const IFF_TAP: u8 = 2;

/// What the kernel may queue for us before it starts to lose messages: some ten thousand notices.
const QUEUE: usize = 16 << 20;
/// No message about links is longer; the kernel packs a dump into pieces of at most 32 KiB.
const LONGEST: usize = 64 << 10;
/// Datagrams folded into one batch of events, so that a flood does not hold back the first of it.
const BATCH: usize = 64;

/// A socket, the dump asked for last, and room for one datagram.
pub(super) struct Listener {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

/// What one message says.
#[derive(Debug, PartialEq)]
enum Notice {
    New(Link),
    Gone(u32),
    /// Of the dump with this sequence: one of its links, its end, its end with a hole in it, its refusal.
    Dumped(u32, Link),
    Ended(u32),
    Torn(u32),
    Refused(i32),
}

/// What a follower of links waits for.
enum Next {
    /// The receiver was dropped.
    Closed,
    /// The kernel has something to say.
    Readable,
    /// The links are to be dumped as a matter of routine.
    Due,
}

/// Follows the links of this namespace and sends what happens, in batches and in order, until the receiver is
/// dropped. The first batch holds every link there is. Every `resync` the links are dumped again, in case the
/// kernel kept something from us. A slow receiver costs a new dump and no memory.
///
/// Fails when no socket can be had, or the kernel refuses to list links.
pub async fn watch(resync: Duration, events: Sender<Vec<LinkEvent>>) -> io::Result<()> {
    let mut links = Links::default();
    let mut first = true;
    loop {
        match follow(&mut links, resync, &events, &mut first).await {
            Ok(()) => return Ok(()),
            // Messages were lost: the next round lists the links again.
            Err(e) if lost(&e) => {}
            Err(e) => return Err(e),
        }
    }
}

/// Every link of this namespace, by index. Blocks for the time of one dump.
pub fn snapshot() -> io::Result<Vec<Link>> {
    let mut listener = Listener::open(0)?;
    let mut links = Links::default();
    listener.ask(&mut links, DumpReason::Loss)?;
    while links.dump.is_some() {
        listener.step(&mut links)?;
    }
    Ok(links.known.into_values().collect())
}

/// The link of this name, if there is one. Blocks for the time of one dump.
pub fn by_name(name: &str) -> io::Result<Option<Link>> {
    Ok(snapshot()?.into_iter().find(|link| link.name == name))
}

/// Sets a link down, so that nothing passes it any more.
pub fn set_down(index: u32) -> io::Result<()> {
    let mut listener = Listener::open(0)?;
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.header.change_mask = LinkFlags::Up;
    listener.demand(RouteNetlinkMessage::SetLink(link))
}

/// One socket's life: until the receiver is dropped, or messages were lost.
async fn follow(
    links: &mut Links,
    resync: Duration,
    events: &Sender<Vec<LinkEvent>>,
    first: &mut bool,
) -> io::Result<()> {
    let listener = Listener::open(1 << (GROUP_LINK - 1))?;
    // SAFETY: the listener owns its socket, never replaces it, and always names it.
    let mut listener = unsafe { AsyncFd::register(listener) }?;
    listener.get_mut().ask(links, DumpReason::Loss)?;
    let mut closed = pin!(events.closed());
    let mut timer = interval_at(Instant::now() + resync, resync);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let is_idle = links.dump.is_none();
        let next =
            poll_fn(|context| poll_next(context, closed.as_mut(), &listener, is_idle.then_some(&mut timer)));
        match next.await? {
            Next::Closed => return Ok(()),
            Next::Due => {
                listener.get_mut().ask(links, DumpReason::Routine)?;
                continue;
            }
            Next::Readable => {}
        }
        let mut ready = listener.readable_mut().await?;
        let (batch, outcome) = drain(&mut ready, links);
        let complete = *first && links.dump.is_none();
        *first &= !complete;
        if (complete || !batch.is_empty()) && events.send(batch).await.is_err() {
            return Ok(());
        }
        outcome?;
    }
}

/// What happens next. The timer counts where no dump is under way.
fn poll_next(
    context: &mut Context<'_>,
    closed: Pin<&mut impl Future<Output = ()>>,
    listener: &AsyncFd<Listener>,
    timer: Option<&mut Interval>,
) -> Poll<io::Result<Next>> {
    if closed.poll(context).is_ready() {
        return Poll::Ready(Ok(Next::Closed));
    }
    if let Poll::Ready(ready) = listener.poll_read_ready(context) {
        return Poll::Ready(ready.map(|_| Next::Readable));
    }
    match timer.map(|timer| timer.poll_tick(context)) {
        Some(Poll::Ready(_)) => Poll::Ready(Ok(Next::Due)),
        Some(Poll::Pending) | None => Poll::Pending,
    }
}

/// Folds what is queued. What was folded before a loss is an event all the same.
fn drain(
    ready: &mut AsyncFdReadyMutGuard<'_, Listener>,
    links: &mut Links,
) -> (Vec<LinkEvent>, io::Result<()>) {
    let mut batch = Vec::new();
    for _ in 0..BATCH {
        match ready.try_io(|listener| listener.get_mut().step(links)) {
            Ok(Ok(events)) => batch.extend(events),
            Ok(Err(e)) => return (batch, Err(e)),
            Err(_) => break,
        }
    }
    (batch, Ok(()))
}

fn lost(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENOBUFS) || error.kind() == ErrorKind::InvalidData
}

impl AsRawFd for Listener {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Listener {
    /// A socket of this thread's namespace: one that waits, or one of these groups that does not.
    pub(super) fn open(groups: u32) -> io::Result<Listener> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        if groups != 0 {
            socket.set_non_blocking(true)?;
            // The system's limit binds those who may not administer the network.
            set_socket_recv_buffer_size_force(&socket, QUEUE)
                .or_else(|_| set_socket_recv_buffer_size(&socket, QUEUE))?;
        }
        socket.bind(&SocketAddr::new(0, groups))?;
        Ok(Listener { socket, sequence: 0, buffer: Vec::with_capacity(LONGEST) })
    }

    fn ask(&mut self, links: &mut Links, reason: DumpReason) -> io::Result<()> {
        links.dump_asked(reason);
        let mut link = LinkMessage::default();
        link.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        self.ask_for_dump(RouteNetlinkMessage::GetLink(link))
    }

    /// Asks for all that is like this.
    pub(super) fn ask_for_dump(&mut self, what: RouteNetlinkMessage) -> io::Result<()> {
        self.sequence += 1;
        let mut message = NetlinkMessage::from(what);
        message.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        self.send(message)
    }

    /// Has something done, and waits for it.
    pub(super) fn demand(&mut self, what: RouteNetlinkMessage) -> io::Result<()> {
        let mut message = NetlinkMessage::from(what);
        message.header.flags = NLM_F_REQUEST | NLM_F_ACK;
        self.send(message)?;
        self.step(&mut Links::default()).map(drop)
    }

    fn send(&mut self, mut message: NetlinkMessage<RouteNetlinkMessage>) -> io::Result<()> {
        message.header.sequence_number = self.sequence;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send_to(&bytes, &SocketAddr::new(0, 0), 0).map(drop)
    }

    /// Reads one datagram, which is empty where it is not the kernel's.
    pub(super) fn receive(&mut self) -> io::Result<&[u8]> {
        self.buffer.clear();
        let (length, from) = self.socket.recv_from(&mut self.buffer, libc::MSG_TRUNC)?;
        if length > self.buffer.len() {
            return Err(io::Error::new(ErrorKind::InvalidData, "a message of rtnetlink was cut"));
        }
        Ok(if from.port_number() == 0 { &self.buffer } else { &[] })
    }

    /// Reads one datagram and folds it.
    fn step(&mut self, links: &mut Links) -> io::Result<Vec<LinkEvent>> {
        let mut events = Vec::new();
        let notices = read(self.receive()?)?;
        for notice in notices {
            match notice {
                Notice::New(link) => events.extend(links.on_new_link(link)),
                Notice::Gone(index) => events.extend(links.on_deleted_link(index)),
                Notice::Dumped(of, link) if of == self.sequence => links.dumped(link),
                Notice::Ended(of) if of == self.sequence => events.extend(links.dump_ended()),
                Notice::Torn(of) if of == self.sequence => self.ask(links, DumpReason::Routine)?,
                Notice::Refused(errno) => return Err(io::Error::from_raw_os_error(errno)),
                Notice::Dumped(..) | Notice::Ended(_) | Notice::Torn(_) => {}
            }
        }
        Ok(events)
    }
}

/// A notice carries the sequence number of the process that caused it, which may be any: only the flag distinguishes it from a dump.
fn read(datagram: &[u8]) -> io::Result<Vec<Notice>> {
    let bad = |_| io::Error::new(ErrorKind::InvalidData, "a message of rtnetlink has a wrong length");
    let mut notices = Vec::new();
    let mut rest = datagram;
    while !rest.is_empty() {
        let message = NetlinkBuffer::new_checked(rest).map_err(bad)?;
        let (sequence, flags) = (message.sequence_number(), message.flags());
        notices.extend(match message.message_type() {
            RTM_NEWLINK if flags & NLM_F_MULTIPART != 0 => {
                link(message.payload()).map(|link| Notice::Dumped(sequence, link))
            }
            RTM_NEWLINK => link(message.payload()).map(Notice::New),
            RTM_DELLINK => index_gone(message.payload()).map(Notice::Gone),
            NLMSG_DONE if flags & NLM_F_DUMP_INTR != 0 => Some(Notice::Torn(sequence)),
            NLMSG_DONE => Some(Notice::Ended(sequence)),
            NLMSG_ERROR => refused(message.payload()).map(Notice::Refused),
            _ => None,
        });
        let length = (message.length() as usize).next_multiple_of(4).min(rest.len());
        rest = &rest[length..];
    }
    Ok(notices)
}

/// A port that leaves its bridge makes an RTM_DELLINK of family AF_BRIDGE while the device lives on.
fn index_gone(payload: &[u8]) -> Option<u32> {
    let header = LinkHeader::parse(payload).ok()?;
    (header.interface_family == AddressFamily::Unspec).then_some(header.index)
}

pub(super) fn refused(payload: &[u8]) -> Option<i32> {
    let code = i32::from_ne_bytes(*payload.first_chunk()?);
    (code != 0).then(|| code.saturating_neg())
}

/// The link a message describes. A notice of wireless extensions has no name and says nothing of the link.
fn link(payload: &[u8]) -> Option<Link> {
    let header = LinkHeader::parse(payload).ok().filter(|h| h.interface_family == AddressFamily::Unspec)?;
    let (mut name, mut mac, mut master, mut lower, mut lower_netns, mut info) =
        <(_, _, _, _, _, &[u8])>::default();
    for (kind, value) in attributes(payload.get(LINK_HEADER..)?) {
        match kind {
            IFLA_IFNAME => name = parse_string(value).ok(),
            IFLA_ADDRESS => mac = value.try_into().ok().map(Mac),
            IFLA_MASTER => master = number(value),
            IFLA_LINK => lower = number(value),
            IFLA_LINK_NETNSID => lower_netns = number(value).map(u32::cast_signed),
            IFLA_LINKINFO => info = value,
            _ => {}
        }
    }
    let kind = kind(info, header.link_layer_type, lower, lower_netns);
    let up = header.flags.contains(LinkFlags::Up);
    Some(Link { index: header.index, name: name?, kind, master, mac, up })
}

/// Length of the header before the attributes.
pub(super) const LINK_HEADER: usize = 16;

fn kind(info: &[u8], layer: LinkLayerType, lower: Option<u32>, lower_netns: Option<i32>) -> LinkKind {
    let data = find(IFLA_INFO_DATA, info).unwrap_or_default();
    match find(IFLA_INFO_KIND, info).and_then(|kind| parse_string(kind).ok()).as_deref() {
        Some("tun") => match find(IFLA_TUN_TYPE, data).and_then(|value| value.first()) {
            Some(&IFF_TAP) => LinkKind::Tap,
            None if layer == LinkLayerType::Ether => LinkKind::Tap,
            _ => LinkKind::Headerless,
        },
        Some("macvtap") => {
            let mode = find(IFLA_MACVLAN_MODE, data).and_then(number).map_or(MacvtapMode::Unknown, mode);
            LinkKind::Macvtap { mode, lower, lower_netns }
        }
        Some("veth") => LinkKind::Veth,
        Some("bridge") => LinkKind::Bridge,
        _ => match layer {
            LinkLayerType::Ether => LinkKind::Other,
            LinkLayerType::Loopback => LinkKind::Loopback,
            _ => LinkKind::Headerless,
        },
    }
}

fn mode(bit: u32) -> MacvtapMode {
    match bit {
        1 => MacvtapMode::Private,
        2 => MacvtapMode::Vepa,
        4 => MacvtapMode::Bridge,
        8 => MacvtapMode::Passthru,
        16 => MacvtapMode::Source,
        _ => MacvtapMode::Unknown,
    }
}

pub(super) fn find(wanted: u16, within: &[u8]) -> Option<&[u8]> {
    attributes(within).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

/// The attributes up to the first that is cut.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let attribute = NlaBuffer::new_checked(bytes).ok()?;
        let (kind, length) = (attribute.kind(), usize::from(attribute.length()));
        let value = &bytes[NLA_HEADER_SIZE..length];
        bytes = &bytes[length.next_multiple_of(4).min(bytes.len())..];
        Some((kind, value))
    })
}

fn number(value: &[u8]) -> Option<u32> {
    value.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = (NLA_HEADER_SIZE + value.len()) as u16;
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn message(kind: u16, family: u8, attributes: &[Vec<u8>]) -> Vec<u8> {
        let mut payload = vec![family, 0];
        payload.extend(1u16.to_ne_bytes());
        payload.extend([7u32, 1, 0].map(u32::to_ne_bytes).concat());
        payload.extend(attributes.concat());
        let mut bytes = (16 + payload.len() as u32).to_ne_bytes().to_vec();
        bytes.extend([kind, 0].map(u16::to_ne_bytes).concat());
        bytes.extend([0u32, 0].map(u32::to_ne_bytes).concat());
        bytes.extend(payload);
        bytes
    }

    #[test]
    fn an_attribute_that_makes_no_sense_hides_no_link() {
        let name = attribute(IFLA_IFNAME, b"tap0\0");
        let info =
            [attribute(IFLA_INFO_KIND, b"tun\0"), attribute(IFLA_INFO_DATA, &attribute(3, &[IFF_TAP]))];
        let odd = attribute(IFLA_ADDRESS, &[1, 2]);
        let bytes = message(RTM_NEWLINK, 0, &[odd, attribute(IFLA_LINKINFO, &info.concat()), name]);
        let tap =
            Link { index: 7, name: "tap0".into(), kind: LinkKind::Tap, master: None, mac: None, up: true };
        assert_eq!(read(&bytes).unwrap(), [Notice::New(tap)]);
    }

    #[test]
    fn bridge_family_and_nameless_messages_are_ignored() {
        let name = attribute(IFLA_IFNAME, b"tap0\0");
        assert_eq!(read(&message(RTM_DELLINK, 7, &[])).unwrap(), []);
        assert_eq!(read(&message(RTM_NEWLINK, 7, &[name])).unwrap(), []);
        assert_eq!(read(&message(RTM_NEWLINK, 0, &[attribute(11, b"wireless")])).unwrap(), []);
        assert_eq!(read(&message(RTM_DELLINK, 0, &[])).unwrap(), [Notice::Gone(7)]);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 0u16..20) {
            let _ = read(&bytes);
            let _ = read(&message(kind, 0, &[bytes]));
        }
    }
}
