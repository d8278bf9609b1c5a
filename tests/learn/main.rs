//! How a guest's addresses are found out: the socket filters, what learners believe, and the same with real frames.
//! The wire's part needs root.

#[path = "../lab/mod.rs"]
mod lab;

mod bpf;
mod clients;
mod daemon;
mod filters;
mod learner;
mod macvtap;
mod many;
mod refused;
mod rooms;
#[path = "../tool/mod.rs"]
mod tool;
mod wire;
