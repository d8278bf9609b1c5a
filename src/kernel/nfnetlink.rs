//! Sockets that netfilter announces things to.

use crate::guest::bpf::Instruction;
use rustix::net::netlink::{NETFILTER, SocketAddrNetlink};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with, sockopt};
use socket2::{SockFilter, SockRef};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// Bytes of announcements that may wait.
const WAITING: usize = 1 << 23;

/// A socket of this thread's network namespace that hears one group, and of it only what the program keeps.
pub(super) fn listen(group: u32, flags: SocketFlags, keeps: Option<&[Instruction]>) -> io::Result<OwnedFd> {
    let flags = flags | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, Some(NETFILTER))?;
    if sockopt::set_socket_recv_buffer_size_force(&socket, WAITING).is_err() {
        sockopt::set_socket_recv_buffer_size(&socket, WAITING)?;
    }
    if let Some(program) = keeps {
        attach(&socket, program)?;
    }
    bind(&socket, &SocketAddrNetlink::new(0, 1 << (group - 1)))?;
    Ok(socket)
}

/// Attaches a classic BPF program to a socket: what it does not keep takes no room there.
pub(super) fn attach(socket: &impl AsFd, program: &[Instruction]) -> io::Result<()> {
    let filter = |one: &Instruction| SockFilter::new(one.code, one.then, one.or, one.k);
    SockRef::from(socket).attach_filter(&program.iter().map(filter).collect::<Vec<_>>())
}
