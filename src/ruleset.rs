//! Programs of bound interfaces → the rule set of the host, the plan from one rule set to the next, and its bytes.
//!
//! Pure. A [`firewall::Firewall`] gives the wanted rule set, [`plan`](mod@plan) the batches that never open before they close, [`nft`] their
//! netlink messages, and [`from_kernel`] the rule set that a dump shows. What sends them is `kernel`'s.

pub mod attach;
#[cfg(feature = "report")]
pub mod bypass;
#[cfg(feature = "report")]
pub mod counters;
pub mod firewall;
pub mod from_kernel;
pub mod ipset;
pub mod layout;
pub mod nft;
pub mod plan;
