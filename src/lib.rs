//! nwfilter: libvirt network filters, enforced with nftables over netlink.
#![deny(unsafe_code, missing_docs)]

pub mod addr;
pub mod config;
pub mod compile;
pub mod apply;
pub mod confine;
pub mod diag;
pub mod field;
pub mod filter;
pub mod ir;
pub mod layout;
pub mod links;
pub mod logging;
pub mod notify;
pub mod number;
pub mod nft;
pub mod plan;
pub mod program;
pub mod resolve;
pub mod span;
pub mod store;
pub mod vars;

pub mod rpc;
pub mod xml;
