//! libvirt network filters for the interfaces of virtual machines, enforced with nftables over netlink.
//!
//! The rooms of the crate, each of which uses only those before it:
//!
//! | room | what turns into what |
//! | --- | --- |
//! | [`document`] | XML, variables and files → filters and bindings that keep their places |
//! | [`guest`] | a guest's frames and link → what is known of its addresses |
//! | [`program`] | a filter → the chains that its frames walk |
//! | [`ruleset`] | programs of bound interfaces → the host's rule set, plans and netlink messages |
//! | [`report`] | rule sets and traces → status, explanations, audits |
//! | [`engine`] | a request, a link event or the clock → the next state and what to write |
//! | [`kernel`] | plans → the kernel, and the kernel's links, frames and changes → values |
//! | [`service`] | sockets, files and signals → the engine, and back |
//! | [`cli`] | arguments → all of the above |
//!
//! Everything up to `engine` is pure. To embed the engine, start at [`ruleset::firewall::Firewall`]: a value made of filters and bound
//! interfaces that gives the rule set to enforce. A [`plan`](mod@ruleset::plan) is the difference of two rule sets, as batches that never open
//! before they close, and [`kernel::apply::Kernel`] applies it.
//!
//! ```no_run
//! use nwfilter::kernel::apply::Kernel;
//! use nwfilter::ruleset::firewall::{Attachment, BoundInterface, Firewall, Policy, Rules};
//! use nwfilter::document::catalog::Library;
//! use nwfilter::ruleset::nft::Ownership;
//! use nwfilter::ruleset::plan::plan;
//! use nwfilter::ruleset::from_kernel::recall;
//! use nwfilter::document::vars::Vars;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let kernel = Kernel::open(Ownership::OwnedAndKept)?;
//! let firewall = Firewall::new(Policy::new(kernel.features()));
//! let firewall = firewall.define(Library::standard().filters.into_values())?;
//!
//! let mut vars = Vars::default();
//! vars.push("MAC", "52:54:00:00:00:01");
//! vars.push("IP", "10.0.0.1");
//! let link = nwfilter::kernel::links::by_name("vnet0")?.ok_or("no vnet0")?;
//! let rules = Rules::Filter("clean-traffic".into());
//! let place = Attachment::Bridge(None);
//! let guest = BoundInterface { index: link.index, name: link.name, place, rules, vars };
//! let firewall = firewall.bind(guest)?;
//!
//! let wanted = firewall.ruleset();
//! kernel.apply(plan(&recall(&kernel.observe()?, &wanted), &wanted))?;
//! # Ok(())
//! # }
//! ```
//!
//! `ARCHITECTURE.md` maps the modules, `PROMISES.md` holds the security properties.
#![deny(unsafe_code, missing_docs)]

#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;
pub mod document;
#[cfg(feature = "service")]
pub mod engine;
pub mod guest;
#[cfg(feature = "kernel")]
pub mod kernel;
pub mod program;
#[cfg(feature = "report")]
pub mod report;
pub mod ruleset;
#[cfg(feature = "service")]
#[doc(hidden)]
pub mod service;
