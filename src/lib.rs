//! nwfilter: libvirt network filters, enforced with nftables over netlink.
#![deny(unsafe_code, missing_docs)]

pub mod addr;
pub mod apply;
pub mod binding;
pub mod bpf;
pub mod cli;
pub mod compile;
pub mod config;
pub mod confine;
pub mod daemon;
pub mod diag;
pub mod engine;
pub mod eval;
pub mod field;
pub mod filter;
pub mod firewall;
pub mod frame;
pub mod ipset;
pub mod ir;
pub mod layout;
pub mod library;
pub mod links;
pub mod logging;
pub mod nft;
pub mod notify;
pub mod number;
pub mod plan;
pub mod program;
pub mod recall;
pub mod resolve;
pub mod rpc;
pub mod span;
pub mod status;
pub mod store;
pub mod vars;
pub mod xml;
