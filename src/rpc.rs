//! libvirt's RPC for network filters: what `virsh` and virtqemud say on a unix socket, and what they hear.
//!
//! Bytes ([`xdr`], [`frames`]), calls ([`proto`], [`request`]), errors ([`error`], [`faults`]) and the state of one connection
//! ([`session`]) are pure. [`listen`] and [`server`] own the sockets and hand typed calls to the engine over a
//! channel; [`client`] is the other end, for the command `nwfilter`.

mod checks;
pub mod client;
mod connection;
pub mod error;
pub mod faults;
mod foreign;
pub mod frames;
mod identity;
pub mod listen;
pub mod proto;
pub mod request;
pub mod server;
pub mod session;
pub mod xdr;

pub use error::{Code, Domain, Error};
pub use listen::Listeners;
pub use request::{BindingId, FilterId, IpsetVerb, Reply, Request};
pub use server::{Call, Limits, Queues, serve};
