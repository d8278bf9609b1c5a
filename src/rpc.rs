//! libvirt's RPC for network filters: what `virsh` and virtqemud say on a unix socket, and what they hear.
//!
//! Bytes ([`xdr`], [`frames`]), calls ([`proto`]), errors ([`error`]) and the state of one connection
//! ([`session`]) are pure.

mod checks;
pub mod error;
mod foreign;
pub mod frames;
pub mod proto;
pub mod session;
pub mod xdr;

pub use error::{Code, Domain, Error};
pub use proto::{BindingId, FilterId, IpsetVerb, Reply, Request};
