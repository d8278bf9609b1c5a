//! From a file, libvirt's packaged copy and what was recorded before to what is in force of a standard filter.

use crate::filter::{read, write};
use crate::span::Source;
use serde::{Deserialize, Serialize};

/// What is recorded of one filter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// What the administrator wants.
    pub choice: Choice,
    /// Whether libvirt's packaged copy was there at the last look.
    pub packaged: bool,
    /// The meaning of a file that a package wrote over the choice, and that is not in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passed_over: Option<String>,
}

/// What the administrator wants of a standard filter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Choice {
    /// What the file says. This was its text at the last look.
    File(String),
    /// This document: a package removed its file or wrote over it.
    Kept(String),
    /// No such filter.
    Deleted,
}

/// What the directory has under a filter's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found<'a> {
    /// No file.
    Nothing,
    /// A file with this text.
    Text(&'a str),
    /// A file that can not be read.
    Unreadable,
}

/// What is in force of a standard filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Taken {
    /// The file of the directory, whatever is wrong with it.
    File,
    /// This document of the record.
    Kept(String),
    /// The filter as it ships.
    Standard,
    /// None: it was deleted.
    Nothing,
}

/// What is in force, and what to record from now on. Nothing is recorded of a filter that never had a file.
pub(super) fn settle(entry: Option<&Entry>, found: Found<'_>, packaged: bool) -> (Taken, Option<Entry>) {
    let (choice, passed_over) = match (found, entry) {
        (Found::Unreadable, _) => return (Taken::File, entry.cloned()),
        (Found::Text(text), entry) => with_file(text, entry, packaged),
        (Found::Nothing, Some(entry)) => (without_file(entry, packaged), None),
        (Found::Nothing, None) if packaged => (Choice::Deleted, None),
        (Found::Nothing, None) => return (Taken::Standard, None),
    };
    (Taken::of(&choice), Some(Entry { choice, packaged, passed_over }))
}

/// A file is the administrator's, unless it came with libvirt's package and says something else than what is in force.
fn with_file(text: &str, entry: Option<&Entry>, packaged: bool) -> (Choice, Option<String>) {
    let file = || (Choice::File(text.into()), None);
    let Some(entry) = entry else { return file() };
    let found = meaning(text);
    let came_with_package = packaged && !entry.packaged && entry.choice.meaning().as_ref() != Some(&found);
    match entry.passed_over == Some(found.clone()) || came_with_package {
        true => (entry.choice.clone().kept(), Some(found)),
        false => file(),
    }
}

/// A file that is gone was deleted, unless libvirt's package went with it.
fn without_file(entry: &Entry, packaged: bool) -> Choice {
    match &entry.choice {
        Choice::File(text) if entry.packaged && !packaged => Choice::Kept(text.clone()),
        Choice::File(_) => Choice::Deleted,
        choice => choice.clone(),
    }
}

/// A filter as libvirt prints it, without its UUID, which libvirt's daemon adds to files; the text itself where it is no filter.
fn meaning(text: &str) -> String {
    match read::read(&Source::new("", text)) {
        Ok((mut filter, _)) => {
            filter.uuid = None;
            write::write(&filter)
        }
        Err(_) => text.into(),
    }
}

impl Entry {
    /// What an administrator should know of what became of a filter since it was recorded before.
    pub fn change_since(&self, before: Option<&Entry>) -> Option<&'static str> {
        let is_new = |was: fn(&Entry) -> bool| was(self) && !before.is_some_and(was);
        if is_new(|entry| entry.passed_over.is_some()) {
            return Some(match self.choice {
                Choice::Deleted => {
                    "its file came with libvirt's package; the filter stays deleted until a client defines it or its file is edited"
                }
                _ => {
                    "its file came with libvirt's package; the edited filter from before stays in force until a client \
                     defines another or the file is edited"
                }
            });
        }
        if is_new(|entry| matches!(entry.choice, Choice::Kept(_))) {
            return Some("its file went with libvirt's package; the filter stays in force as it was");
        }
        let deleted = is_new(|entry| entry.choice == Choice::Deleted);
        deleted.then_some(
            "its file was deleted; the filter stays deleted until a client defines it or it has a file",
        )
    }
}

impl Choice {
    fn kept(self) -> Choice {
        match self {
            Choice::File(text) => Choice::Kept(text),
            other => other,
        }
    }

    fn meaning(&self) -> Option<String> {
        match self {
            Choice::File(text) | Choice::Kept(text) => Some(meaning(text)),
            Choice::Deleted => None,
        }
    }
}

impl Taken {
    fn of(choice: &Choice) -> Taken {
        match choice {
            Choice::File(_) => Taken::File,
            Choice::Kept(text) => Taken::Kept(text.clone()),
            Choice::Deleted => Taken::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::standard::{Record, STANDARD, uuid};
    use std::collections::BTreeSet;
    use std::path::Path;

    const STOCK: &str =
        "<filter name='allow-ipv6' chain='ipv6'><rule action='accept' direction='inout'/></filter>";
    const WITH_UUID: &str = "<!-- edited by a daemon -->\n<filter name='allow-ipv6' chain='ipv6'>\
        <uuid>00000000-0000-0000-0000-000000000001</uuid><rule action='accept' direction='inout'/></filter>";
    const EDITED: &str =
        "<filter name='allow-ipv6' chain='ipv6'><rule action='drop' direction='inout'/></filter>";
    const OTHER: &str = "<filter name='allow-ipv6' chain='ipv6'/>";

    /// A sequence of looks at one name: its file, whether libvirt's package is there, and what must be in force.
    fn looks(steps: &[(Option<&str>, bool, Taken)]) {
        let mut record = Record::new(Path::new("/filters"));
        for (number, (file, packaged, expected)) in steps.iter().enumerate() {
            let found = file.map_or(Found::Nothing, Found::Text);
            let only_read = record.taken("allow-ipv6", found, *packaged);
            let taken = record.settle("allow-ipv6", found, *packaged);
            assert_eq!((&taken, &only_read), (expected, expected), "step {number} of {steps:#?}: {record:?}");
            record = Record::read(&record.write()).unwrap();
        }
    }

    fn kept(text: &str) -> Taken {
        Taken::Kept(text.into())
    }

    #[test]
    fn a_standard_filter_is_there_until_it_is_edited_or_deleted() {
        looks(&[
            (None, false, Taken::Standard),
            (None, false, Taken::Standard),
            (Some(EDITED), false, Taken::File),
            (Some(STOCK), false, Taken::File),
            (None, false, Taken::Nothing),
            (None, false, Taken::Nothing),
            (Some(STOCK), false, Taken::File),
        ]);
    }

    #[test]
    fn what_is_missing_beside_the_package_was_deleted() {
        looks(&[
            (None, true, Taken::Nothing),
            (None, false, Taken::Nothing),
            (None, true, Taken::Nothing),
            (Some(STOCK), true, Taken::File),
        ]);
    }

    #[test]
    fn what_goes_with_the_package_stays() {
        for text in [STOCK, EDITED, "no XML"] {
            looks(&[
                (Some(text), true, Taken::File),
                (None, false, kept(text)),
                (None, false, kept(text)),
                (Some(text), true, Taken::File),
                (None, true, Taken::Nothing),
            ]);
        }
    }

    #[test]
    fn what_comes_with_the_package_takes_no_edited_filters_place() {
        looks(&[
            (Some(EDITED), false, Taken::File),
            (Some(STOCK), true, kept(EDITED)),
            (Some(WITH_UUID), true, kept(EDITED)),
            (None, true, kept(EDITED)),
            (Some(STOCK), true, Taken::File),
        ]);
        looks(&[
            (Some(EDITED), false, Taken::File),
            (Some(STOCK), true, kept(EDITED)),
            (None, false, kept(EDITED)),
            (Some(OTHER), false, Taken::File),
        ]);
    }

    #[test]
    fn what_comes_with_the_package_does_not_bring_back_what_was_deleted() {
        looks(&[
            (Some(STOCK), false, Taken::File),
            (None, false, Taken::Nothing),
            (Some(STOCK), true, Taken::Nothing),
            (Some(WITH_UUID), true, Taken::Nothing),
            (Some(EDITED), true, Taken::File),
        ]);
        let mut record = Record::new(Path::new("/filters"));
        record.delete("allow-ipv6", false);
        assert_eq!(record.settle("allow-ipv6", Found::Text(STOCK), true), Taken::Nothing);
    }

    #[test]
    fn what_libvirts_daemon_adds_to_a_file_is_no_edit() {
        looks(&[
            (Some(WITH_UUID), false, Taken::File),
            (Some(STOCK), true, Taken::File),
            (Some(EDITED), true, Taken::File),
        ]);
    }

    #[test]
    fn a_file_that_can_not_be_read_is_never_replaced() {
        let mut record = Record::new(Path::new("/filters"));
        for packaged in [false, true] {
            assert_eq!(record.settle("allow-ipv6", Found::Unreadable, packaged), Taken::File);
        }
        assert_eq!(record, Record::new(Path::new("/filters")));
    }

    #[test]
    fn every_standard_filter_has_a_uuid_of_its_own() {
        let uuids: BTreeSet<_> = STANDARD.iter().map(|(name, _)| uuid(name).unwrap()).collect();
        assert_eq!(uuids.len(), STANDARD.len());
        assert_eq!(uuid("mine"), None);
    }
}
