//! The daemon as a process, in a network namespace of its own: what it does to clients, files, frames and signals.
//!
//! Needs root.

mod boundary;
mod checksum;
mod cli;
mod crash;
mod gaps;
mod host;
mod libvirtd;
mod lifecycle;
mod many;
mod metrics;
mod readers;
mod refuser;
mod settings;
mod standard;
mod starts;
mod storage;
mod unseen;
mod virsh;

#[path = "../lab/mod.rs"]
mod lab;
#[path = "../prometheus/mod.rs"]
mod prometheus;
#[path = "../tool/mod.rs"]
mod tool;
