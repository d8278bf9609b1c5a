//! `ipset`: sets of addresses by name.

use super::{Failure, Outcome, print, status};
use crate::kernel::apply::Kernel;
use crate::ruleset::ipset::IpsetVerb;
use crate::ruleset::ipset::plan_change;
use crate::ruleset::nft::Ownership;
use clap::Subcommand;

/// What is done to a set.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Put addresses into a set.
    Add {
        /// The set.
        name: String,
        /// IPv4 and IPv6 addresses.
        #[arg(required = true)]
        addresses: Vec<String>,
    },
    /// Take addresses out of a set.
    Del {
        /// The set.
        name: String,
        /// IPv4 and IPv6 addresses.
        #[arg(required = true)]
        addresses: Vec<String>,
    },
    /// Print the addresses of a set.
    List {
        /// The set.
        name: String,
    },
    /// Take all addresses out of a set.
    Flush {
        /// The set.
        name: String,
    },
}

/// Does it, by way of the daemon where that runs.
pub(super) fn run(verb: &Verb) -> Outcome {
    let (name, what, addresses) = match verb {
        Verb::Add { name, addresses } => (name, IpsetVerb::Add, addresses.as_slice()),
        Verb::Del { name, addresses } => (name, IpsetVerb::Delete, addresses.as_slice()),
        Verb::List { name } => (name, IpsetVerb::List, [].as_slice()),
        Verb::Flush { name } => (name, IpsetVerb::Flush, [].as_slice()),
    };
    let after = match status::asked(name, |daemon| daemon.ipset(name, what, addresses))? {
        Some(after) => after,
        None => here(name, what, addresses)?,
    };
    if what == IpsetVerb::List {
        after.iter().for_each(|address| print(&format!("{address}\n")));
    }
    Ok(())
}

fn here(name: &str, verb: IpsetVerb, addresses: &[String]) -> Result<Vec<String>, Failure> {
    let kernel =
        Kernel::open(Ownership::OwnedAndKept).map_err(|error| Failure::host(&"netfilter", &error))?;
    let observed = kernel.observe().map_err(|error| Failure::host(&"netfilter", &error))?;
    let planned = plan_change(&observed, name, verb, addresses).map_err(|fault| Failure::fault(&fault))?;
    kernel.apply(planned.plan).map_err(|refused| Failure::Host(refused.to_string()))?;
    Ok(planned.addresses)
}
