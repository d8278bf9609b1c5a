//! The host's own ipsets, of which nothing is asked but whether they are there.
#![allow(unsafe_code, reason = "the descriptor of mnl's socket")]

use crate::ruleset::nft::reply;
use rustix::net::sockopt::{self, Timeout};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

/// `NFNL_SUBSYS_IPSET`, `IPSET_CMD_HEADER`, and the attributes of that question.
const SUBSYSTEM: u16 = 6;
const HEADER: u16 = 12;
const PROTOCOL: u16 = 1;
const SET_NAME: u16 = 2;
/// The oldest version of the protocol that the kernel still speaks.
const VERSION: u8 = 6;

/// The kernel answers at once.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whether the host has an ipset of this name. Where that is not known, it has none.
pub fn has_ipset(name: &str) -> bool {
    ask(name).unwrap_or(false)
}

fn ask(name: &str) -> io::Result<bool> {
    let socket = mnl::Socket::new(mnl::Bus::Netfilter)?;
    // SAFETY: the socket keeps its descriptor open as long as it lives, which is to the end of this function.
    let descriptor = unsafe { BorrowedFd::borrow_raw(socket.as_raw_fd()) };
    sockopt::set_socket_timeout(descriptor, Timeout::Recv, Some(PATIENCE))?;
    socket.send(&question(name))?;
    let mut buffer = vec![0; 4096];
    let (_, length) = rustix::net::recv(descriptor, buffer.as_mut_slice(), rustix::net::RecvFlags::TRUNC)?;
    let answer = &buffer[..length.min(4096)];
    let has = reply::messages(answer).any(|message| i32::from(message.kind) >= libc::NLMSG_MIN_TYPE);
    Ok(has)
}

fn question(name: &str) -> Vec<u8> {
    let kind = SUBSYSTEM << 8 | HEADER;
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
    let mut bytes = vec![0; 4];
    bytes.extend([kind, flags].map(u16::to_ne_bytes).concat());
    bytes.extend([0u8; 8]); // sequence and port
    bytes.extend([0u8; 4]); // family, version, resource
    attribute(&mut bytes, PROTOCOL, &[VERSION]);
    attribute(&mut bytes, SET_NAME, &[name.as_bytes(), &[0]].concat());
    let length = bytes.len() as u32;
    bytes[..4].copy_from_slice(&length.to_ne_bytes());
    bytes
}

fn attribute(to: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = 4 + value.len() as u16;
    to.extend([length, kind].map(u16::to_ne_bytes).concat());
    to.extend(value);
    to.resize(to.len().next_multiple_of(4), 0);
}
