//! The RPC server as its clients see it: honest ones, broken ones, and `virsh` itself.

mod engine;
mod memory;
mod served;
mod server;
mod sockets;
mod talk;
mod virsh;
mod wire;
