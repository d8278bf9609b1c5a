//! What is counted, against known traffic: drops by guest and rule, frames by guest and direction.
//!
//! Each test has a network namespace of its own, and needs root.

#[path = "../traffic/host.rs"]
#[allow(dead_code, reason = "written for other tests as well")]
mod host;
#[path = "../lab/mod.rs"]
mod lab;

mod carried;
mod drops;
mod macvtap;
#[path = "../tool/mod.rs"]
mod tool;
mod traffic;
