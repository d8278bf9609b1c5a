//! The daemon and what surrounds it: RPC, files, configuration, confinement, logs, metrics.
//!
//! [`daemon`] joins the engine to the kernel, the disk and the clients; the other modules do not know it.

pub mod config;
#[cfg(feature = "daemon")]
pub mod confine;
#[cfg(feature = "daemon")]
pub mod daemon;
pub mod logging;
#[cfg(feature = "daemon")]
pub mod metrics;
#[cfg(feature = "daemon")]
pub mod metrics_server;
pub mod rpc;
pub mod store;
#[cfg(feature = "daemon")]
pub mod systemd;
