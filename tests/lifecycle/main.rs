//! The daemon among others that rule the host's firewall, and its own end and return: what guests notice.
//!
//! Needs root and nft. On kernels whose tables can have an owner nothing that others flush is ours; elsewhere the daemon
//! restores what was flushed, and the time that takes is measured and printed.

#[path = "../lab/mod.rs"]
mod lab;

mod guest;
mod others;
mod place;
mod returns;
mod services;
#[path = "../tool/mod.rs"]
mod tool;
