//! Frames against the kernel: what every protocol, attribute, direction and standard filter passes and stops.
//!
//! Each test has a network namespace of its own, and needs root.

#[path = "../lab/mod.rs"]
mod lab;

mod ethernet;
mod host;
mod ip_layer;
mod members;
mod rules;
mod standard;
#[path = "../tool/mod.rs"]
mod tool;
