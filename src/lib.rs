//! libvirt network filters for the interfaces of virtual machines, enforced with nftables over netlink.
//!
//! Filters are documents; a [`firewall::Firewall`] is a value made of filters and bound interfaces, and gives
//! the rule set that enforces them. A [`plan`](mod@plan) is the difference of two rule sets, as batches that never open
//! before they close, and an [`apply::Kernel`] takes it. Everything up to the plan is pure.
//!
//! ```no_run
//! use nwfilter::apply::Kernel;
//! use nwfilter::firewall::{Firewall, Member, Place, Policy, Rules};
//! use nwfilter::library::Library;
//! use nwfilter::nft::Ownership;
//! use nwfilter::plan::plan;
//! use nwfilter::recall::recall;
//! use nwfilter::vars::Vars;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let kernel = Kernel::open(Ownership::OwnedAndKept)?;
//! let firewall = Firewall::new(Policy::new(kernel.features()));
//! let firewall = firewall.define(Library::standard().filters.into_values())?;
//!
//! let mut vars = Vars::default();
//! vars.push("MAC", "52:54:00:00:00:01");
//! vars.push("IP", "10.0.0.1");
//! let link = nwfilter::links::by_name("vnet0")?.ok_or("no vnet0")?;
//! let rules = Rules::Filter("clean-traffic".into());
//! let firewall = firewall.bind(Member { index: link.index, name: link.name, place: Place::Bridge(None), rules, vars })?;
//!
//! let wanted = firewall.ruleset();
//! kernel.apply(plan(&recall(&kernel.observe()?, &wanted), &wanted))?;
//! # Ok(())
//! # }
//! ```
//!
//! `ARCHITECTURE.md` is the map of the modules, `PROMISES.md` holds the security properties.
#![deny(unsafe_code, missing_docs)]

pub mod addr;
pub mod apply;
pub mod audit;
pub mod binding;
pub mod bpf;
pub mod checksum;
pub mod cli;
pub mod compile;
pub mod config;
pub mod confine;
pub mod daemon;
pub mod diag;
pub mod drops;
pub mod engine;
pub mod eval;
pub mod explain;
pub mod field;
pub mod filter;
pub mod firewall;
pub mod frame;
pub mod ipset;
pub mod ir;
pub mod layout;
pub mod learn;
pub mod learning;
pub mod lease;
pub mod library;
pub mod links;
pub mod logging;
pub mod metrics;
pub mod nft;
pub mod notify;
pub mod number;
pub mod place;
pub mod plan;
pub mod program;
pub mod recall;
pub mod resolve;
pub mod rpc;
pub mod scrape;
pub mod span;
pub mod standard;
pub mod status;
pub mod store;
pub mod trace;
pub mod unseen;
pub mod vars;
pub mod xml;
