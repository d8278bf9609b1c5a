//! libvirt's RPC for network filters: what `virsh` and virtqemud say on a unix socket, and what they hear.
//!
//! Bytes ([`xdr`], [`frames`]), calls ([`proto`]), errors ([`wire_error`], [`faults`]) and the state of one connection
//! ([`session`]) are pure. [`listen`] and [`server`] own the sockets and hand typed calls to the engine over a
//! channel; [`client`] is the other end, for the command `nwfilter`.

mod checks;
pub mod client;
mod connection;
pub mod faults;
mod foreign;
pub mod frames;
mod identity;
pub mod listen;
mod procedure;
pub mod proto;
pub mod server;
pub mod session;
pub mod wire_error;
pub mod xdr;

pub use listen::Listeners;
pub use server::{Call, Limits, Queues, serve};
