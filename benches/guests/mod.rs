//! Guests that are numbers: the engine and the kernel's rule set know interfaces by index, links are not needed.

// Every benchmark uses a part of it.
#![allow(dead_code)]

use nwfilter::document::catalog::Library;
use nwfilter::document::filter::Filter;
use nwfilter::document::span::Source;
use nwfilter::document::vars::Vars;
use nwfilter::program::compile::{Capabilities, HostToGuest, Options};
use nwfilter::ruleset::firewall::{Attachment, BoundInterface, Firewall, Policy, Rules};
use std::sync::Arc;

/// The first index that is a guest's; below are the links of a namespace.
pub const FIRST: u32 = 100;

/// What the daemon does unless the caller asks for something else.
pub fn policy(features: Capabilities) -> Policy {
    Policy {
        compile: Options { features, counters: false, host_to_guest: HostToGuest::Pass },
        ..Policy::new(features)
    }
}

/// Guest number `n` with an address of each kind, bound to this filter.
pub fn guest(n: u32, filter: &str) -> BoundInterface {
    let [_, a, b, c] = n.to_be_bytes();
    let mut vars = Vars::default();
    vars.push("MAC", format!("52:54:00:{a:02x}:{b:02x}:{c:02x}"));
    vars.push("IP", format!("10.{a}.{b}.{c}"));
    let rules = Rules::Filter(filter.into());
    BoundInterface {
        index: FIRST + n,
        name: format!("vnet{n}"),
        place: Attachment::Bridge(None),
        rules,
        vars,
    }
}

/// The standard filters and so many guests with clean-traffic.
pub fn guests(policy: Policy, count: u32) -> Firewall {
    let firewall = Firewall::new(policy).define(Library::standard().filters.into_values());
    firewall
        .expect("standard filters")
        .bind_all((0..count).map(|n| guest(n, "clean-traffic")))
        .expect("guests")
}

/// clean-traffic in two wordings that mean the same to nearly every frame.
pub fn wordings() -> [Arc<Filter>; 2] {
    let own = Library::standard().get("clean-traffic").expect("it is standard");
    let text = own.source.text.replace(
        "</filter>",
        "<rule action='drop' direction='out' priority='-900'><mac dstmacaddr='02:00:00:00:00:77'/></rule></filter>",
    );
    let mut library = Library::default();
    library.add(&Source::new("wording.xml", text));
    [own, library.get("clean-traffic").expect("it reads")]
}
