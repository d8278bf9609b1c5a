//! What changed, for the log: each filter and each binding that came, went or became another, by name.

use crate::document::binding::Binding;
use crate::document::filter::Filter;
use crate::engine::State;
use crate::guest::lease::file::Book;
use imbl::ordmap::DiffItem;
use std::sync::Arc;
use tracing::{info, warn};

/// Logs how one state differs from the one before it. Costs what differs.
pub(super) fn tell(before: &State, after: &State) {
    for item in before.firewall().filters().diff(after.firewall().filters()) {
        filter(&item);
    }
    for item in before.bindings().diff(after.bindings()) {
        binding(&item, after);
    }
}

fn filter(item: &DiffItem<'_, '_, String, Arc<Filter>>) {
    match item {
        DiffItem::Add(name, _) => info!(filter = name.as_str(), "defined"),
        DiffItem::Update { new: (name, _), .. } => info!(filter = name.as_str(), "redefined"),
        DiffItem::Remove(name, _) => info!(filter = name.as_str(), "undefined"),
    }
}

fn binding(item: &DiffItem<'_, '_, String, Arc<Binding>>, after: &State) {
    match item {
        DiffItem::Add(port, binding) | DiffItem::Update { new: (port, binding), .. } => {
            let here =
                if after.link_of(port).is_some() { "bound" } else { "bound; its interface is not there yet" };
            let (interface, filter) = (port.as_str(), binding.filter.as_str());
            info!(interface, filter, guest = binding.owner_name.as_str(), mac = %binding.mac, "{here}");
        }
        DiffItem::Remove(port, binding) => {
            info!(interface = port.as_str(), filter = binding.filter.as_str(), "unbound");
        }
    }
}

/// Warns of each interface that lets nothing pass.
pub(super) fn warn_of_blocked(state: &State) {
    for port in state.closed_ports() {
        let reason = state.blocked(&port).unwrap_or_default();
        warn!(
            interface = port,
            reason,
            "blocked: nothing passes; mend its filter and reload (SIGHUP), or bind the interface again"
        );
    }
}

/// Warns of guests that wait for an address where nothing was on record at a start: their addresses may be lost.
pub(super) fn warn_of_lost_addresses(state: &State, recorded: &Book) {
    let waiting =
        state.census().bindings.into_iter().find_map(|(word, guests)| (word == "learning").then_some(guests));
    let Some(guests @ 1..) = waiting else { return };
    if recorded.0.is_empty() {
        warn!(
            guests,
            "no learned address is on record: guests that learn theirs stay blocked until they ask DHCP or, in mode any, use it; \
             if they had one, renew their leases"
        );
    }
}

/// Sums up what a reload came to.
pub(super) fn tell_of_reload(before: &State, after: &State, refused: usize) {
    let (mut defined, mut redefined) = (0, 0);
    for item in before.firewall().filters().diff(after.firewall().filters()) {
        match item {
            DiffItem::Add(..) => defined += 1,
            DiffItem::Update { .. } => redefined += 1,
            DiffItem::Remove(..) => {}
        }
    }
    let unchanged = after.firewall().filters().len() - defined - redefined;
    let counts =
        format!("{defined} defined, {redefined} redefined, {unchanged} unchanged, {refused} refused");
    info!("filters reloaded: {counts}");
}
