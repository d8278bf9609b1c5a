//! nwfilter: libvirt network filters, enforced with nftables over netlink.
#![deny(unsafe_code, missing_docs)]

pub mod addr;
pub mod apply;
pub mod binding;
pub mod compile;
pub mod diag;
pub mod eval;
pub mod field;
pub mod filter;
pub mod ir;
pub mod nft;
pub mod number;
pub mod plan;
pub mod program;
pub mod resolve;
pub mod span;
pub mod vars;
pub mod xml;
