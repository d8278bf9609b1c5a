//! All effects on the kernel: netlink and packet sockets, and the checksum guard.
//!
//! Each module owns its sockets and hands typed values on. Nothing here decides what an interface may do.

pub mod apply;
#[cfg(feature = "capture")]
pub mod capture;
#[cfg(feature = "checksum")]
pub mod checksum;
pub mod links;
mod nfnetlink;
pub mod tracer;
pub mod watch;
