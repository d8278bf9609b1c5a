//! How much of everything a state holds, for metrics.

use super::State;
use crate::guest::lease::{AddressSource, GuestLeases};
use crate::ruleset::firewall::Attachment;

/// Numbers of things, by kind where there are kinds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StateGauges {
    /// Filters.
    pub filters: usize,
    /// Links of the host.
    pub links: usize,
    /// Bindings by what becomes of them; closed ports whose binding is not known are among them.
    pub bindings: [(&'static str, usize); 4],
    /// Bound interfaces by where their frames are seen.
    pub interfaces: [(&'static str, usize); 4],
    /// Learned addresses of guests that are there, by where they were learned from.
    pub addresses: [(&'static str, usize); 5],
    /// Leases of guests that are not there.
    pub remembered: usize,
}

impl State {
    /// Counts.
    pub fn census(&self) -> StateGauges {
        let bound = self.bindings.keys().filter(|port| !self.blocked.contains_key(*port));
        let (mut enforced, mut waiting, mut learning) = (0, 0, 0);
        for port in bound {
            let lesson = self.link_of(port).map(|link| self.learners.get(&link.index));
            match lesson {
                None => waiting += 1,
                Some(Some(entry)) if entry.table().is_empty() => learning += 1,
                Some(_) => enforced += 1,
            }
        }
        let closed = self.blocked.len();
        let learned = |how| {
            let tables = self.learners.values().map(|entry| entry.table());
            tables.map(|table| table.iter().filter(|(_, learned)| learned.how == how).count()).sum()
        };
        let seen = |place: &str| {
            self.firewall.members().values().filter(|member| word(&member.place) == place).count()
        };
        StateGauges {
            filters: self.firewall.filters().len(),
            links: self.links.len(),
            bindings: [
                ("enforced", enforced),
                ("waiting", waiting),
                ("closed", closed),
                ("learning", learning),
            ],
            interfaces: ["bridge", "device", "macvtap", "routed"].map(|place| (place, seen(place))),
            addresses: AddressSource::ALL.map(|how| (how.word(), learned(how))),
            remembered: self.remembered.values().map(GuestLeases::len).sum(),
        }
    }
}

fn word(place: &Attachment) -> &'static str {
    match place {
        Attachment::Bridge(_) | Attachment::Port { .. } => "bridge",
        Attachment::Device { reversed: false, .. } => "device",
        Attachment::Device { reversed: true, .. } => "macvtap",
        Attachment::Routed { .. } => "routed",
    }
}
