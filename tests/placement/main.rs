//! Interfaces that no bridge sees: macvtaps in every mode and taps that are no port, filtered at their own hooks.
//!
//! Each test has a network namespace of its own, and needs root.

#[path = "../daemon/host.rs"]
mod host;
#[path = "../lab/mod.rs"]
mod lab;
#[path = "../daemon/refuser.rs"]
mod refuser;

mod daemon;
mod ipsets;
mod macvtap;
mod ports;
mod pump;
mod refused;
mod rounds;
