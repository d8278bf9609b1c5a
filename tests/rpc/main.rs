//! The RPC server as its clients see it: honest ones, broken ones, and `virsh` itself.

mod engine;
mod memory;
mod served;
mod server;
mod sockets;
mod talk;
#[path = "../tool/mod.rs"]
mod tool;
mod virsh;
mod wire;
