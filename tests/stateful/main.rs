//! Connections against the kernel: what rules with state pass, whose connections they are, and what the host keeps.
//!
//! Needs root and a kernel whose bridges have conntrack; elsewhere what is about bridges says that it was skipped. Where
//! `NWFILTER_KERNEL_IS_COMPLETE` is set, to lack something is a failure. `vm-tests/run` sets it.

#[path = "../lab/mod.rs"]
mod lab;

mod connections;
mod host;
mod limits;
mod moves;
mod neighbours;
mod own;
mod routed;
#[path = "../tool/mod.rs"]
mod tool;
