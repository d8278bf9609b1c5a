//! The addresses of one guest that were learned or leased, and until when they are its own.
//!
//! Time is an argument, counted from the Unix epoch, since leases outlive the daemon. A table holds no more addresses
//! than its limits allow: what a guest or a server sends cannot make it grow. [`file`](mod@file) writes it down and reads it back.

pub mod file;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

/// What is known of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Learned {
    /// From what.
    pub how: AddressSource,
    /// The DHCP server that gave it, where one did.
    pub server: Option<Ipv4Addr>,
    /// When it was first seen.
    pub since: Duration,
    /// When it ends; none for one that does not.
    pub ends: Option<Duration>,
}

/// From what an address was learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum AddressSource {
    /// The guest called itself so in ARP.
    Arp,
    /// The guest sent IPv4 from it.
    Ipv4,
    /// A server offered it; it may still give another.
    Offer,
    /// A server confirmed it.
    Ack,
    /// A server leased it, for as long as the lease runs.
    Lease,
}

impl AddressSource {
    /// All of them.
    pub const ALL: [AddressSource; 5] = [
        AddressSource::Arp,
        AddressSource::Ipv4,
        AddressSource::Offer,
        AddressSource::Ack,
        AddressSource::Lease,
    ];

    /// The word for it, in files and for people.
    pub fn word(self) -> &'static str {
        match self {
            AddressSource::Arp => "arp",
            AddressSource::Ipv4 => "ipv4",
            AddressSource::Offer => "offer",
            AddressSource::Ack => "ack",
            AddressSource::Lease => "lease",
        }
    }

    /// What a word means.
    pub fn of(word: &str) -> Option<AddressSource> {
        AddressSource::ALL.into_iter().find(|how| how.word() == word)
    }
}

/// The addresses of one guest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GuestLeases(BTreeMap<Ipv4Addr, Learned>);

/// What a grant changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Grant {
    /// The address is new.
    New,
    /// It was known; its end, its source or its server is another now.
    Renewed,
    /// It was known just so.
    Same,
    /// There are as many as there may be.
    Full,
}

impl GuestLeases {
    /// The addresses in order, with what is known of them.
    pub fn iter(&self) -> impl Iterator<Item = (Ipv4Addr, &Learned)> {
        self.0.iter().map(|(address, learned)| (*address, learned))
    }

    /// What is known of an address.
    pub fn get(&self, address: Ipv4Addr) -> Option<&Learned> {
        self.0.get(&address)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds an address, or renews it: a renewal counts from now on, be it longer or shorter. Since when the address is
    /// known stays.
    pub fn grant(&mut self, address: Ipv4Addr, learned: Learned, limit: usize) -> Grant {
        let full = self.0.len() >= limit;
        match self.0.get_mut(&address) {
            Some(known) => {
                let renewed = Learned { since: known.since, ..learned };
                let same = *known == renewed;
                *known = renewed;
                if same { Grant::Same } else { Grant::Renewed }
            }
            None if full => Grant::Full,
            None => {
                self.0.insert(address, learned);
                Grant::New
            }
        }
    }

    /// Ends an address; none where it was not known.
    pub fn end(&mut self, address: Ipv4Addr) -> Option<Learned> {
        self.0.remove(&address)
    }

    /// Only the addresses of which this holds.
    pub fn retain(&mut self, holds: impl Fn(&Learned) -> bool) {
        self.0.retain(|_, learned| holds(learned));
    }

    /// Ends what has run out, and tells what that was.
    pub fn expire(&mut self, now: Duration) -> Vec<Ipv4Addr> {
        let over = |learned: &Learned| learned.ends.is_some_and(|ends| ends <= now);
        let ended: Vec<Ipv4Addr> =
            self.iter().filter(|(_, learned)| over(learned)).map(|(address, _)| address).collect();
        self.0.retain(|_, learned| !over(learned));
        ended
    }

    /// When [`GuestLeases::expire`] has something to do next.
    pub fn deadline(&self) -> Option<Duration> {
        self.0.values().filter_map(|learned| learned.ends).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const A: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
    const B: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

    fn until(ends: Option<u32>) -> Learned {
        Learned {
            how: AddressSource::Lease,
            server: None,
            since: SECOND,
            ends: ends.map(|ends| SECOND * ends),
        }
    }

    #[test]
    fn a_renewal_lengthens_and_shortens_and_keeps_the_first_sight() {
        let mut table = GuestLeases::default();
        assert_eq!(table.grant(A, until(Some(100)), 1), Grant::New);
        let later = Learned { since: SECOND * 50, ..until(Some(200)) };
        assert_eq!(table.grant(A, later, 1), Grant::Renewed);
        assert_eq!(table.get(A), Some(&until(Some(200))));
        assert_eq!(table.grant(A, until(Some(60)), 1), Grant::Renewed);
        assert_eq!(table.grant(A, until(Some(60)), 1), Grant::Same);
        assert!(table.expire(SECOND * 59).is_empty());
        assert_eq!(table.expire(SECOND * 60), [A]);
        assert!(table.is_empty());
    }

    #[test]
    fn a_lease_that_ends_leaves_the_others() {
        let mut table = GuestLeases::default();
        table.grant(A, until(Some(10)), 2);
        table.grant(B, until(None), 2);
        assert_eq!(table.deadline(), Some(SECOND * 10));
        assert_eq!(table.expire(SECOND * 1_000_000_000), [A]);
        assert_eq!(table.deadline(), None);
        assert_eq!(table.iter().map(|(address, _)| address).collect::<Vec<_>>(), [B]);
        assert_eq!(table.end(A), None);
        assert_eq!(table.end(B), Some(until(None)));
    }

    #[test]
    fn a_full_table_renews_and_takes_no_more() {
        let mut table = GuestLeases::default();
        assert_eq!(table.grant(A, until(Some(10)), 1), Grant::New);
        assert_eq!(table.grant(B, until(Some(10)), 1), Grant::Full);
        assert_eq!(table.grant(A, until(Some(20)), 1), Grant::Renewed);
        assert_eq!(table.len(), 1);
    }
}
