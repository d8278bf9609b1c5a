//! Learned addresses as text, a line an event, so that a daemon that dies loses none of them.
//!
//! `ENDS OWNER-MAC ADDRESS SERVER HOW SINCE INDEX`: seconds since the epoch, `never` for no end, 0 for an address that
//! ended; 0.0.0.0 where no server gave it. The last line about an address counts. libvirt's own file, the first four
//! fields, reads as leases. A line that cannot be read is skipped with a warning, the rest counts.

use super::{AddressSource, GuestLeases, Learned};
use crate::document::mac::Mac;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;
use uuid::Uuid;

/// Whose an address is: the guest's own identity, whatever its interface is called today.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GuestId {
    /// The owner's UUID.
    pub owner: Uuid,
    /// The interface's MAC.
    pub mac: Mac,
}

/// All that a file tells, by guest and by the index of the link at which it was learned. A lease is not tied to a link
/// and counts wherever the guest comes back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Book(pub BTreeMap<(GuestId, u32), GuestLeases>);

/// A line that was skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line} is no learned address and was skipped")]
pub struct Skipped {
    /// Its number, from 1.
    pub line: usize,
}

/// The line that tells an address.
pub fn known(guest: GuestId, index: u32, address: Ipv4Addr, learned: &Learned) -> String {
    let ends = learned.ends.map_or("never".into(), |ends| whole(ends).to_string());
    let server = learned.server.unwrap_or(Ipv4Addr::UNSPECIFIED);
    let (how, since) = (learned.how.word(), whole(learned.since));
    format!("{ends} {guest} {address} {server} {how} {since} {index}\n")
}

/// The line that tells its end.
pub fn ended(guest: GuestId, index: u32, address: Ipv4Addr, how: AddressSource) -> String {
    format!("0 {guest} {address} 0.0.0.0 {} 0 {index}\n", how.word())
}

/// Whether a line tells that an address ended.
pub fn takes_away(line: &str) -> bool {
    line.starts_with("0 ")
}

/// Rounded up: no lease ends before its time.
fn whole(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

/// The whole file of a book.
pub fn write(book: &Book) -> String {
    let mut text = String::new();
    for ((guest, index), table) in &book.0 {
        table.iter().for_each(|(address, learned)| text.push_str(&known(*guest, *index, address, learned)));
    }
    text
}

/// Reads a file. A table takes no more than `limit` addresses; leases that are over at `now` are left out. One of a time to come was
/// written by a clock that has been set back: how long it runs is known, and it runs so long from now.
pub fn read(text: &str, now: Duration, limit: usize) -> (Book, Vec<Skipped>) {
    let mut book = Book::default();
    let mut skipped = Vec::new();
    for (at, line) in text.split_inclusive('\n').enumerate() {
        match line.strip_suffix('\n').and_then(LeaseLine::parse) {
            Some(line) => book.take(line, limit),
            None => skipped.push(Skipped { line: at + 1 }),
        }
    }
    book.0.values_mut().for_each(|table| {
        table.0.values_mut().for_each(|learned| *learned = learned.believed(now));
        table.expire(now);
    });
    book.0.retain(|_, table| !table.is_empty());
    (book, skipped)
}

/// What libvirt writes for a lease without end.
const LIBVIRT_NEVER: &str = "4294967295";

struct LeaseLine {
    guest: GuestId,
    index: u32,
    address: Ipv4Addr,
    /// None for an address that ended.
    learned: Option<Learned>,
}

impl LeaseLine {
    fn parse(line: &str) -> Option<LeaseLine> {
        let fields: Vec<&str> = line.split(' ').collect();
        let ([ends, guest, address, server], rest) = fields.split_first_chunk()?;
        let (how, since, index) = match rest {
            [] => (AddressSource::Lease, 0, 0),
            [how, since, index] => (AddressSource::of(how)?, since.parse().ok()?, index.parse().ok()?),
            _ => return None,
        };
        let ends = match *ends {
            "never" | LIBVIRT_NEVER => None,
            ends => Some(Duration::from_secs(ends.parse().ok()?)),
        };
        let server = Some(server.parse().ok()?).filter(|server: &Ipv4Addr| !server.is_unspecified());
        let learned = Learned { how, server, since: Duration::from_secs(since), ends };
        Some(LeaseLine {
            guest: guest.parse().ok()?,
            index: if how == AddressSource::Lease { 0 } else { index },
            address: address.parse().ok()?,
            learned: (ends != Some(Duration::ZERO)).then_some(learned),
        })
    }
}

impl Learned {
    fn believed(self, now: Duration) -> Learned {
        let ahead = self.since.saturating_sub(now);
        Learned { since: self.since - ahead, ends: self.ends.map(|ends| ends.saturating_sub(ahead)), ..self }
    }
}

impl Book {
    /// The addresses of a guest at a link: its leases, and what was learned at this very link.
    pub fn of(&self, guest: GuestId, index: u32) -> GuestLeases {
        let mut all = self.0.get(&(guest, 0)).cloned().unwrap_or_default();
        all.0.extend(self.0.get(&(guest, index)).into_iter().flat_map(|table| table.0.clone()));
        all
    }

    fn take(&mut self, line: LeaseLine, limit: usize) {
        let table = self.0.entry((line.guest, line.index)).or_default();
        if let Some(learned) = line.learned {
            table.grant(line.address, learned, limit);
        } else {
            table.end(line.address);
        }
    }
}

impl std::fmt::Display for GuestId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.owner, self.mac)
    }
}

impl std::str::FromStr for GuestId {
    type Err = ();

    fn from_str(text: &str) -> Result<GuestId, ()> {
        let (owner, mac) = text.rsplit_once('-').ok_or(())?;
        Ok(GuestId { owner: owner.parse().map_err(drop)?, mac: mac.parse().map_err(drop)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: &str = "d54df46f-1ab5-4a22-8618-4560ef5fac2c";
    const NOW: Duration = Duration::from_secs(1000);
    const A: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

    fn guest() -> GuestId {
        format!("{OWNER}-52:54:00:00:00:01").parse().unwrap()
    }

    fn addresses(text: &str) -> (Vec<String>, Vec<usize>) {
        let (book, skipped) = read(text, NOW, 4);
        let all = book.0.values().flat_map(GuestLeases::iter).map(|(address, _)| address.to_string());
        (all.collect(), skipped.iter().map(|skipped| skipped.line).collect())
    }

    #[test]
    fn what_is_written_reads_back() {
        let server = Some(Ipv4Addr::new(10, 0, 0, 254));
        for (how, server, ends) in [
            (AddressSource::Lease, server, Some(Duration::from_secs(2000))),
            (AddressSource::Lease, None, None),
            (AddressSource::Arp, None, None),
            (AddressSource::Ack, server, None),
        ] {
            let learned = Learned { how, server, since: Duration::from_secs(7), ends };
            let line = known(guest(), 17, A, &learned);
            let (book, skipped) = read(&line, NOW, 1);
            assert_eq!(skipped, []);
            assert_eq!(book.of(guest(), 17).get(A), Some(&learned), "{line}");
            assert_eq!(book.of(guest(), 18).get(A).is_some(), how == AddressSource::Lease, "{line}");
            assert_eq!(read(&write(&book), NOW, 1).0, book);
            let (book, _) = read(&(line + &ended(guest(), 17, A, how)), NOW, 1);
            assert_eq!(book, Book::default());
        }
    }

    #[test]
    fn a_lease_is_never_written_shorter_than_it_is() {
        let learned = Learned {
            how: AddressSource::Lease,
            server: None,
            since: NOW,
            ends: Some(Duration::from_millis(2_000_001)),
        };
        assert!(known(guest(), 1, A, &learned).starts_with("2001 "));
    }

    #[test]
    fn a_lease_that_a_wrong_clock_wrote_runs_for_its_own_time() {
        let server = Some(Ipv4Addr::new(10, 0, 0, 254));
        for (since, ends, expected) in [(5000, 5060, 1060), (1000, 1060, 1060), (900, 1060, 1060)] {
            let [since, ends, expected] = [since, ends, expected].map(Duration::from_secs);
            let learned = Learned { how: AddressSource::Lease, server, since, ends: Some(ends) };
            let (book, _) = read(&known(guest(), 1, A, &learned), NOW, 1);
            assert_eq!(book.of(guest(), 1).get(A).unwrap().ends, Some(expected));
        }
    }

    #[test]
    fn the_file_of_libvirt_reads_as_leases() {
        let text = format!(
            "1500 {OWNER}-52:54:00:00:00:01 10.0.0.1 10.0.0.254\n\
             999 {OWNER}-52:54:00:00:00:01 10.0.0.2 10.0.0.254\n\
             4294967295 {OWNER}-52:54:00:00:00:02 10.0.0.3 10.0.0.254\n\
             1500 {OWNER}-52:54:00:00:00:03 10.0.0.4 10.0.0.254\n\
             0 {OWNER}-52:54:00:00:00:03 10.0.0.4 10.0.0.254\n"
        );
        assert_eq!(addresses(&text), (vec!["10.0.0.1".into(), "10.0.0.3".into()], vec![]));
    }

    #[test]
    fn a_corrupt_line_is_skipped_and_named_and_hides_no_other() {
        let good = format!("never {OWNER}-52:54:00:00:00:01 10.0.0.1 0.0.0.0\n");
        for bad in [
            "\n",
            "never\n",
            "soon d54df46f-1ab5-4a22-8618-4560ef5fac2c-52:54:00:00:00:01 10.0.0.9 0.0.0.0\n",
            "never d54df46f-52:54:00:00:00:01 10.0.0.9 0.0.0.0\n",
            "never d54df46f-1ab5-4a22-8618-4560ef5fac2c-52:54:00:00:00 10.0.0.9 0.0.0.0\n",
            "never d54df46f-1ab5-4a22-8618-4560ef5fac2c-52:54:00:00:00:01 10.0.0.256 0.0.0.0\n",
            "never d54df46f-1ab5-4a22-8618-4560ef5fac2c-52:54:00:00:00:01 10.0.0.9 0.0.0.0 guess 1 1\n",
            "never d54df46f-1ab5-4a22-8618-4560ef5fac2c-52:54:00:00:00:01 10.0.0.9 0.0.0.0 arp 1\n",
        ] {
            let text = format!("{bad}{good}");
            assert_eq!(addresses(&text), (vec!["10.0.0.1".into()], vec![1]), "{bad}");
        }
        // The last line may be half written.
        assert_eq!(addresses(&good[..good.len() - 3]), (vec![], vec![1]));
    }

    #[test]
    fn a_file_cannot_give_a_guest_more_than_its_limit() {
        let text: String =
            (1..100).map(|n| format!("never {OWNER}-52:54:00:00:00:01 10.0.0.{n} 0.0.0.0\n")).collect();
        assert_eq!(addresses(&text).0.len(), 4);
    }
}
