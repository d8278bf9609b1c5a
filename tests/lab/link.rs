//! Links by rtnetlink: bridges, veth pairs, macvtaps, and what can be done to any link.
//!
//! One request, one acknowledgement, blocking; a refusal is a panic that names the request, since a
//! lab that cannot be set up proves nothing. The `try_` forms return the refusal.

use std::fs::{read_to_string, remove_file};
use std::io::{self, Read};
use std::net::Ipv4Addr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use super::frames::Mac;
use super::tap::Tap;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_TXQLEN: u16 = 13;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
const IFLA_BR_AGEING_TIME: u16 = 4;
const IFLA_BR_STP_STATE: u16 = 5;
const IFLA_BR_VLAN_FILTERING: u16 = 7;
const IFLA_BR_MCAST_SNOOPING: u16 = 23;
const IFLA_MACVLAN_MODE: u16 = 1;
const VETH_INFO_PEER: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const NEW: u16 = (libc::NLM_F_CREATE | libc::NLM_F_EXCL) as u16;

/// An interface, known by its index: a rename does not lose it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link(u32);

/// A setting of a bridge port, with the number rtnetlink has for it.
#[derive(Clone, Copy)]
#[repr(u16)]
pub enum PortOption {
    /// Frames may leave through the port they came from.
    Hairpin = 4,
    /// Source addresses are learned.
    Learning = 8,
    /// Frames for unknown addresses are sent here.
    Flood = 9,
    /// Ports so marked do not reach each other.
    Isolated = 33,
}

/// A bridge without learning, spanning tree or snooping: it floods everything to every other port.
pub struct Bridge {
    /// The bridge's own interface: the host's place on it.
    pub link: Link,
}

impl Bridge {
    /// The address of every bridge of the lab, so that frames can name it.
    pub const MAC: Mac = [0x02, 0, 0, 0, 0, 0xfe];

    /// Makes the bridge, down. Set it up after its first port: a bridge that is up without a carrier
    /// gets its transmit queue from a work queue of the kernel, and until then the host is mute.
    pub fn new(name: &str) -> Bridge {
        let settings = [
            attribute(IFLA_BR_STP_STATE, &0u32.to_ne_bytes()),
            attribute(IFLA_BR_AGEING_TIME, &0u32.to_ne_bytes()),
            attribute(IFLA_BR_MCAST_SNOOPING, &[0]),
        ];
        let link = create(name, "bridge", &[attribute(IFLA_ADDRESS, &Bridge::MAC)], &settings.concat());
        Bridge { link }
    }

    /// Makes the link a port of this bridge, with learning off.
    pub fn add(&self, port: Link) {
        port.set_master(Some(self.link));
        port.set_port(PortOption::Learning, false);
    }

    /// Switches VLAN filtering; ports then carry untagged frames only.
    ///
    /// # Errors
    /// EOPNOTSUPP where the kernel is built without it.
    pub fn set_vlan_filtering(&self, on: bool) -> io::Result<()> {
        let data = attribute(IFLA_BR_VLAN_FILTERING, &[u8::from(on)]);
        let info = [attribute(IFLA_INFO_KIND, b"bridge\0"), attribute(IFLA_INFO_DATA, &data)];
        self.link.try_change(&attribute(IFLA_LINKINFO, &info.concat()))
    }
}

impl Link {
    /// The link of this name in this thread's namespace.
    ///
    /// # Panics
    /// Where there is none.
    pub fn named(name: &str) -> Link {
        index_of(name).map_or_else(|| panic!("no interface {name}"), Link)
    }

    /// The interface index.
    pub fn index(self) -> u32 {
        self.0
    }

    /// The name of the moment, empty when the link is gone.
    pub fn name(self) -> String {
        let mut name = [0u8; libc::IF_NAMESIZE];
        // SAFETY: the buffer is as long as if_indextoname demands.
        unsafe { libc::if_indextoname(self.0, name.as_mut_ptr().cast()) };
        let length = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
        String::from_utf8_lossy(&name[..length]).into_owned()
    }

    /// Sets the link up.
    pub fn up(self) {
        self.set_flags(libc::IFF_UP as u32);
    }

    /// Waits until a veth, macvtap or bridge sends what it is given: it gets its queue from a work
    /// queue of the kernel, some time after its carrier. A tap is ready as soon as it is up.
    ///
    /// # Panics
    /// Where it has no carrier for twenty seconds: the kernel looks at carriers once a second, in a work queue.
    pub fn ready(self) {
        let state = format!("/sys/class/net/{}/operstate", self.name());
        let limit = Instant::now() + Duration::from_secs(20);
        while read_to_string(&state).unwrap_or_default().trim() != "up" {
            assert!(Instant::now() < limit, "{} has no carrier", self.name());
            sleep(Duration::from_millis(1));
        }
        // The state is set before the queue, both under the lock that this request has to take.
        self.up();
    }

    /// Sets the link down.
    pub fn down(self) {
        self.set_flags(0);
    }

    /// Makes the link a port of that bridge, or of none.
    pub fn set_master(self, master: Option<Link>) {
        let index = master.map_or(0, Link::index);
        self.change("master", &attribute(IFLA_MASTER, &index.to_ne_bytes()));
    }

    /// Sets or clears an option of a bridge port.
    pub fn set_port(self, option: PortOption, on: bool) {
        let data = attribute(option as u16, &[u8::from(on)]);
        let info = [attribute(IFLA_INFO_SLAVE_KIND, b"bridge\0"), attribute(IFLA_INFO_SLAVE_DATA, &data)];
        self.change("port option", &attribute(IFLA_LINKINFO, &info.concat()));
    }

    /// Sets the largest payload.
    pub fn set_mtu(self, mtu: u32) {
        self.change("mtu", &attribute(IFLA_MTU, &mtu.to_ne_bytes()));
    }

    /// Sets the queue length. A tap queues this many frames for its reader and drops the next.
    pub fn set_queue(self, frames: u32) {
        self.change("txqueuelen", &attribute(IFLA_TXQLEN, &frames.to_ne_bytes()));
    }

    /// Sets the address.
    pub fn set_mac(self, mac: Mac) {
        self.change("address", &attribute(IFLA_ADDRESS, &mac));
    }

    /// Renames the link.
    pub fn rename(self, name: &str) {
        self.change("name", &attribute(IFLA_IFNAME, &text(name)));
    }

    /// Gives the link another name beside its own.
    pub fn add_name(self, name: &str) {
        const RTM_NEWLINKPROP: u16 = 108;
        const IFLA_PROP_LIST: u16 = 52 | libc::NLA_F_NESTED as u16;
        const IFLA_ALT_IFNAME: u16 = 53;
        let names = attribute(IFLA_PROP_LIST, &attribute(IFLA_ALT_IFNAME, &text(name)));
        request(
            RTM_NEWLINKPROP,
            NEW | libc::NLM_F_APPEND as u16,
            &[header(self.0, 0, 0).to_vec(), names].concat(),
        )
        .unwrap_or_else(|why| panic!("another name of {}: {why}", self.name()));
    }

    /// Moves the link into the namespace behind this descriptor.
    pub fn move_to(self, namespace: &impl std::os::fd::AsRawFd) {
        const IFLA_NET_NS_FD: u16 = 28;
        self.change("namespace", &attribute(IFLA_NET_NS_FD, &namespace.as_raw_fd().to_ne_bytes()));
    }

    /// Deletes the link.
    pub fn delete(self) {
        request(libc::RTM_DELLINK, 0, &header(self.0, 0, 0)).expect("the link can be deleted");
    }

    fn set_flags(self, flags: u32) {
        request(libc::RTM_NEWLINK, 0, &header(self.0, flags, libc::IFF_UP as u32))
            .unwrap_or_else(|why| panic!("{} up or down: {why}", self.name()));
    }

    fn change(self, what: &str, attributes: &[u8]) {
        self.try_change(attributes).unwrap_or_else(|why| panic!("{what} of {}: {why}", self.name()));
    }

    fn try_change(self, attributes: &[u8]) -> io::Result<()> {
        request(libc::RTM_NEWLINK, 0, &[&header(self.0, 0, 0), attributes].concat())
    }
}

/// Makes a veth pair, both ends down.
pub fn veth(name: &str, peer: &str) -> (Link, Link) {
    let other = [header(0, 0, 0), attribute(IFLA_IFNAME, &text(peer))].concat();
    let link = create(name, "veth", &[], &attribute(VETH_INFO_PEER, &other));
    (link, Link::named(peer))
}

/// How the macvtaps of one lower device see each other, with the number rtnetlink has for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum MacvtapMode {
    /// Not at all.
    Private = 1,
    /// By way of the switch.
    Vepa = 2,
    /// Directly.
    Bridge = 4,
    /// There is one only.
    Passthru = 8,
}

/// Makes a macvtap in bridge mode over `lower`, which is up, sets it up too, and opens it.
///
/// # Errors
/// Where the kernel has no macvtap.
pub fn macvtap(name: &str, lower: Link, mac: Mac) -> io::Result<Tap> {
    macvtap_in(MacvtapMode::Bridge, name, lower, mac)
}

/// The same in any mode.
///
/// # Errors
/// Where the kernel has no macvtap.
pub fn macvtap_in(mode: MacvtapMode, name: &str, lower: Link, mac: Mac) -> io::Result<Tap> {
    let general = [attribute(IFLA_LINK, &lower.index().to_ne_bytes()), attribute(IFLA_ADDRESS, &mac)];
    let mode = attribute(IFLA_MACVLAN_MODE, &(mode as u32).to_ne_bytes());
    open_macvtap(try_create(name, "macvtap", &general, &mode)?)
}

/// In bridge mode, with an index that is free.
///
/// # Errors
/// Where the kernel has no macvtap.
pub fn macvtap_at(index: u32, name: &str, lower: Link, mac: Mac) -> io::Result<Tap> {
    let general = [attribute(IFLA_LINK, &lower.index().to_ne_bytes()), attribute(IFLA_ADDRESS, &mac)];
    let mode = attribute(IFLA_MACVLAN_MODE, &(MacvtapMode::Bridge as u32).to_ne_bytes());
    open_macvtap(try_create_at(index, name, "macvtap", &general, &mode)?)
}

fn open_macvtap(link: Link) -> io::Result<Tap> {
    link.up();
    link.ready();
    let node = DeviceNode::of(link)?;
    Tap::of_macvtap(link, &node.0)
}

/// Gives the link an IPv4 address, e.g. the bridge, so that the host takes part.
pub fn address(link: Link, address: Ipv4Addr, prefix: u8) {
    const IFA_ADDRESS: u16 = 1;
    const IFA_LOCAL: u16 = 2;
    let mut body = vec![libc::AF_INET as u8, prefix, 0, 0];
    body.extend(link.index().to_ne_bytes());
    body.extend(attribute(IFA_LOCAL, &address.octets()));
    body.extend(attribute(IFA_ADDRESS, &address.octets()));
    request(libc::RTM_NEWADDR, NEW, &body)
        .unwrap_or_else(|why| panic!("address {address} of {}: {why}", link.name()));
}

/// The index of the interface of this name.
pub fn index_of(name: &str) -> Option<u32> {
    // SAFETY: the name ends in NUL.
    match unsafe { libc::if_nametoindex(text(name).as_ptr().cast()) } {
        0 => None,
        index => Some(index),
    }
}

/// A device node for a macvtap's queue; in a namespace nothing else creates one.
struct DeviceNode(String);

impl DeviceNode {
    fn of(link: Link) -> io::Result<DeviceNode> {
        let index = link.index();
        let numbers = format!("/sys/class/net/{}/macvtap/tap{index}/dev", link.name());
        let numbers = read_to_string(numbers)?;
        let (major, minor) = numbers.trim().split_once(':').expect("sysfs writes major:minor");
        let device = libc::makedev(
            major.parse().expect("a number from sysfs"),
            minor.parse().expect("a number from sysfs"),
        );
        let path = format!("/dev/lab-{}-{major}-{minor}", std::process::id());
        let mode = libc::S_IFCHR | 0o600;
        // SAFETY: the path ends in NUL.
        super::checked(unsafe { libc::mknod(text(&path).as_ptr().cast(), mode, device) })?;
        Ok(DeviceNode(path))
    }
}

impl Drop for DeviceNode {
    fn drop(&mut self) {
        let _ = remove_file(&self.0);
    }
}

fn create(name: &str, kind: &str, general: &[Vec<u8>], data: &[u8]) -> Link {
    try_create(name, kind, general, data).unwrap_or_else(|why| panic!("{kind} {name}: {why}"))
}

fn try_create(name: &str, kind: &str, general: &[Vec<u8>], data: &[u8]) -> io::Result<Link> {
    try_create_at(0, name, kind, general, data)
}

fn try_create_at(index: u32, name: &str, kind: &str, general: &[Vec<u8>], data: &[u8]) -> io::Result<Link> {
    let info = [attribute(IFLA_INFO_KIND, &text(kind)), attribute(IFLA_INFO_DATA, data)].concat();
    let body = [
        header(index, 0, 0),
        attribute(IFLA_IFNAME, &text(name)),
        general.concat(),
        attribute(IFLA_LINKINFO, &info),
    ];
    request(libc::RTM_NEWLINK, NEW, &body.concat())?;
    Ok(Link::named(name))
}

/// Sends one rtnetlink request in this thread's namespace and reads its acknowledgement.
fn request(kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
    let socket = Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW, Some(Protocol::from(0)))?;
    let flags = flags | (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
    let mut message = ((16 + body.len()) as u32).to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend([0; 8]);
    message.extend(body);
    socket.send(&message)?;

    let mut answer = [0; 8192];
    let length = (&socket).read(&mut answer)?;
    assert!(length >= 20, "an acknowledgement holds a header and a code");
    assert_eq!(answer[4..6], NLMSG_ERROR.to_ne_bytes(), "rtnetlink acknowledges a request");
    match i32::from_ne_bytes(answer[16..20].try_into().expect("four bytes")) {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(-code)),
    }
}

/// struct ifinfomsg
fn header(index: u32, flags: u32, change: u32) -> Vec<u8> {
    let fields = [0, index, flags, change];
    fields.iter().flat_map(|field| field.to_ne_bytes()).collect()
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = ((4 + value.len()) as u16).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn text(value: &str) -> Vec<u8> {
    [value.as_bytes(), &[0]].concat()
}
