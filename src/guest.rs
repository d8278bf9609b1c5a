//! What is known of a guest: its link, its frames, its leases, and what its addresses are.
//!
//! Pure: bytes and events come in, values go out. The sockets are `kernel`'s.

pub mod bpf;
pub mod frame;
pub mod learning;
pub mod lease;
pub mod link;
pub mod observation;
