//! The standard filters, which ship inside the binary, and the administrator's choice about each of them.
//!
//! A standard filter is in force as it ships where the administrator's directory has no file of its name. The administrator may
//! edit it (a file of that name is in force instead) or delete it. Both decisions last: a [`Record`] keeps them, since
//! libvirt's packages write these files too, and take them away. Which of the two did it shows in libvirt's own
//! copies: a file that came or went together with the packaged copy came or went with the package; so did the first that means
//! the same as the copy, after the copy came alone. All other changes are the administrator's.
//!
//! The functions here are pure. They do not know where the record is stored, and they change no file.

mod choice;

pub use choice::{Choice, ChoiceRecord, Found, PackagedCopy, Taken};

use crate::document::filter::read;
use crate::document::span::Source;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// The file of the record, below the state directory.
pub const RECORD: &str = "standard-filters.json";
/// The directory into which libvirt's packages install filters.
pub const ADMINISTRATORS: &str = "/etc/libvirt/nwfilter";
/// Where they keep the copies that they install from.
pub const PACKAGED: &str = "/usr/share/libvirt/nwfilter";

macro_rules! standard {
    ($($name:literal)*) => {
        /// The standard filters: their names and documents.
        pub const STANDARD: &[(&str, &str)] = &[$(($name, include_str!(concat!("../../filters/", $name, ".xml")))),*];
    };
}

standard! {
    "allow-arp" "allow-dhcp" "allow-dhcp-server" "allow-dhcpv6" "allow-dhcpv6-server" "allow-incoming-ipv4"
    "allow-incoming-ipv6" "allow-ipv4" "allow-ipv6" "clean-traffic" "clean-traffic-gateway" "no-arp-ip-spoofing"
    "no-arp-mac-spoofing" "no-arp-spoofing" "no-ip-multicast" "no-ip-spoofing" "no-ipv6-multicast"
    "no-ipv6-spoofing" "no-mac-broadcast" "no-mac-spoofing" "no-other-l2-traffic" "no-other-rarp-traffic"
    "qemu-announce-self" "qemu-announce-self-rarp"
}

/// What was chosen about the standard filters of a directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "service", derive(serde::Serialize, serde::Deserialize))]
pub struct Record {
    /// The directory that it is about.
    pub directory: PathBuf,
    /// By name, for each filter that was looked at.
    pub filters: BTreeMap<String, ChoiceRecord>,
}

/// Whether a filter of this name is among the standard ones.
pub fn is_standard(name: &str) -> bool {
    STANDARD.iter().any(|(standard, _)| *standard == name)
}

/// The UUID that a standard filter ships with, for a file of its name that has none: the same after every restart.
pub fn uuid(name: &str) -> Option<Uuid> {
    let (_, text) = STANDARD.iter().find(|(standard, _)| *standard == name)?;
    read::read(&Source::new(name, *text)).ok()?.0.uuid
}

impl Record {
    /// A directory of which nothing is recorded.
    pub fn new(directory: &Path) -> Record {
        Record { directory: directory.into(), filters: BTreeMap::new() }
    }

    /// Reads a record that was written.
    #[cfg(feature = "service")]
    pub fn read(text: &str) -> Result<Record, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    /// As a text to be read again.
    #[cfg(feature = "service")]
    pub fn write(&self) -> String {
        let json = serde_json::to_string_pretty(self).expect("a record is texts and names");
        format!("{json}\n")
    }

    /// The record, if it is about this directory; otherwise an empty one.
    pub fn of(self, directory: &Path) -> Record {
        if self.directory == directory { self } else { Record::new(directory) }
    }

    /// What is in force of a name, given its file and libvirt's packaged copy, where they are there.
    pub fn taken(&self, name: &str, found: Found<'_>, packaged: Option<&str>) -> Taken {
        choice::settle(self.filters.get(name), found, packaged).0
    }

    /// The same, and the choice that it comes to is recorded.
    pub fn settle(&mut self, name: &str, found: Found<'_>, packaged: Option<&str>) -> Taken {
        let (taken, entry) = choice::settle(self.filters.get(name), found, packaged);
        if let Some(entry) = entry {
            self.filters.insert(name.into(), entry);
        }
        taken
    }

    /// A client defined this filter, and this is its file.
    pub fn define(&mut self, name: &str, text: &str, copy: PackagedCopy) {
        self.choose(name, Choice::File(text.into()), copy);
    }

    /// A client deleted this filter.
    pub fn delete(&mut self, name: &str, copy: PackagedCopy) {
        self.choose(name, Choice::Deleted, copy);
    }

    fn choose(&mut self, name: &str, choice: Choice, copy: PackagedCopy) {
        let packaged = copy == PackagedCopy::Present;
        let file_due = packaged && self.filters.get(name).is_some_and(|before| before.file_due);
        self.filters.insert(name.into(), ChoiceRecord { choice, packaged, file_due, passed_over: None });
    }
}
