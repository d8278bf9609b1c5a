//! The daemon and what surrounds it: RPC, files, configuration, confinement, logs, metrics.
//!
//! [`daemon`] joins the engine to the kernel, the disk and the clients; the other modules do not know it.

pub mod config;
pub mod confine;
pub mod daemon;
pub mod logging;
pub mod metrics;
pub mod metrics_server;
pub mod rpc;
pub mod store;
pub mod systemd;
