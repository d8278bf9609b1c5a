//! Other names of links: what `ip link property add altname` gives. The kernel finds a link by each, and rules by its own alone.

use rustix::net::netdevice::{index_to_name, name_to_index};
use rustix::net::{AddressFamily, SocketType, socket};

/// What the interface is called that has this as another name; none where none has, or where it is its own name.
pub fn named_otherwise(name: &str) -> Option<String> {
    let socket = socket(AddressFamily::UNIX, SocketType::DGRAM, None).ok()?;
    let own = index_to_name(&socket, name_to_index(&socket, name).ok()?).ok()?;
    (own != name).then_some(own)
}
