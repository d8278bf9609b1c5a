//! Interfaces that no bridge sees: macvtaps in every mode and taps that are no port, filtered at their own hooks.
//!
//! Each test has a network namespace of its own, and needs root.

#[path = "../daemon/host.rs"]
mod host;
#[path = "../lab/mod.rs"]
mod lab;
#[path = "../daemon/refuser.rs"]
mod refuser;

mod daemon;
mod ipsets;
mod macvtap;
mod own;
mod ports;
mod pump;
mod refused;
mod rounds;
mod taken;
#[path = "../tool/mod.rs"]
mod tool;

use lab::in_fresh_netns;
use nwfilter::kernel::apply::Kernel;
use nwfilter::ruleset::nft::Ownership;

/// Whether a device's hooks stay when it goes, and stay behind when it is renamed.
fn hooks_last() -> bool {
    Kernel::open(Ownership::Shared).unwrap().features().lasting_hooks.is_yes()
}

/// As [`in_fresh_netns`], and not at all on other kernels.
fn where_hooks_last(work: impl FnOnce() + Send) {
    in_fresh_netns(|| match hooks_last() {
        true => work(),
        false => println!("skipped: hooks go with their device here"),
    });
}
