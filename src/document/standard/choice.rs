//! From a file, libvirt's packaged copy and what was recorded before to what is in force of a standard filter.

use crate::document::filter::{read, write};
use crate::document::span::Source;

/// What is recorded of one filter.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "service", derive(serde::Serialize, serde::Deserialize))]
pub struct ChoiceRecord {
    /// What the administrator wants.
    pub choice: Choice,
    /// Whether libvirt's packaged copy was there at the last look.
    pub packaged: bool,
    /// Whether the package that brought this copy may still write its file: when the copy came, the file was not there yet.
    #[cfg_attr(feature = "service", serde(default, skip_serializing_if = "std::ops::Not::not"))]
    pub file_due: bool,
    /// The meaning of a file that a package wrote over the choice, and that is not in force.
    #[cfg_attr(feature = "service", serde(default, skip_serializing_if = "Option::is_none"))]
    pub passed_over: Option<String>,
}

/// What the administrator wants of a standard filter.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "service", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "service", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Choice {
    /// The filter as it ships: it never had a file.
    Standard,
    /// What the file says. This was its text at the last look.
    File(String),
    /// This document: a package removed its file or wrote over it.
    Kept(String),
    /// No such filter.
    Deleted,
}

/// What the directory has under a filter's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Found<'a> {
    /// No file.
    Nothing,
    /// A file with this text.
    Text(&'a str),
    /// A file that cannot be read.
    Unreadable,
}

/// What is in force of a standard filter.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
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

/// Whether libvirt's packages have a copy of a standard filter on this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PackagedCopy {
    /// A package that has it is installed.
    Present,
    /// None is.
    Absent,
}

impl PackagedCopy {
    /// By the copy, where it is there.
    pub fn of(copy: Option<&str>) -> PackagedCopy {
        if copy.is_some() { PackagedCopy::Present } else { PackagedCopy::Absent }
    }
}

/// What is in force, and what to record from now on, given the packaged copy where there is one.
pub(super) fn settle(
    entry: Option<&ChoiceRecord>,
    found: Found<'_>,
    packaged: Option<&str>,
) -> (Taken, Option<ChoiceRecord>) {
    let (choice, passed_over) = match (found, entry) {
        (Found::Unreadable, _) => return (Taken::File, entry.cloned()),
        (Found::Text(text), Some(entry)) => with_file(text, entry, packaged),
        (Found::Text(text), None) => (Choice::File(text.into()), None),
        (Found::Nothing, Some(entry)) => (without_file(entry, PackagedCopy::of(packaged)), None),
        (Found::Nothing, None) if packaged.is_some() => (Choice::Deleted, None),
        (Found::Nothing, None) => (Choice::Standard, None),
    };
    let came = passed_over.is_some() && passed_over == packaged.map(meaning);
    let file_due =
        packaged.is_some() && !came && entry.is_some_and(|entry| entry.may_still_get_its_file(&choice));
    (Taken::of(&choice), Some(ChoiceRecord { choice, packaged: packaged.is_some(), file_due, passed_over }))
}

/// A file is the administrator's, unless it came with libvirt's package and says something else than what is in force.
fn with_file(text: &str, entry: &ChoiceRecord, packaged: Option<&str>) -> (Choice, Option<String>) {
    let found = meaning(text);
    let came_with_package = match packaged {
        Some(_) if !entry.packaged => true,
        Some(copy) => entry.file_due && meaning(copy) == found,
        None => false,
    };
    let replaces = came_with_package && entry.choice.is_replaced_by(&found);
    match replaces || entry.passed_over.as_ref() == Some(&found) {
        true => (entry.choice.clone().kept(), Some(found)),
        false => (Choice::File(text.into()), None),
    }
}

/// A file that is gone was deleted, unless libvirt's package went with it.
fn without_file(entry: &ChoiceRecord, copy: PackagedCopy) -> Choice {
    match &entry.choice {
        Choice::File(text) if entry.packaged && copy == PackagedCopy::Absent => Choice::Kept(text.clone()),
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

impl ChoiceRecord {
    /// Whether the package's script has yet to write the file, as far as this choice shows: dpkg may have us look before it does.
    fn may_still_get_its_file(&self, choice: &Choice) -> bool {
        !self.packaged || (self.file_due && self.choice.meaning() == choice.meaning())
    }

    /// What an administrator should know of what became of a filter since it was recorded before.
    pub fn change_since(&self, before: Option<&ChoiceRecord>) -> Option<&'static str> {
        let is_new = |was: fn(&ChoiceRecord) -> bool| was(self) && !before.is_some_and(was);
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

    /// Whether a file that means this would take the place of an edit or a deletion.
    fn is_replaced_by(&self, found: &str) -> bool {
        *self != Choice::Standard && self.meaning().is_none_or(|meaning| meaning != found)
    }

    fn meaning(&self) -> Option<String> {
        match self {
            Choice::File(text) | Choice::Kept(text) => Some(meaning(text)),
            Choice::Standard | Choice::Deleted => None,
        }
    }
}

impl Taken {
    fn of(choice: &Choice) -> Taken {
        match choice {
            Choice::File(_) => Taken::File,
            Choice::Kept(text) => Taken::Kept(text.clone()),
            Choice::Standard => Taken::Standard,
            Choice::Deleted => Taken::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::standard::{Record, STANDARD, uuid};
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
            let packaged = packaged.then_some(STOCK);
            let only_read = record.taken("allow-ipv6", found, packaged);
            let taken = record.settle("allow-ipv6", found, packaged);
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
            (None, true, Taken::Nothing),
            (Some(STOCK), true, Taken::File),
            (None, true, Taken::Nothing),
            (None, false, Taken::Nothing),
        ]);
    }

    /// dpkg may have us look between the files of libvirt's package and its script, which writes into the directory.
    #[test]
    fn what_the_package_writes_after_a_look_takes_no_choices_place() {
        looks(&[
            (Some(EDITED), false, Taken::File),
            (Some(EDITED), true, Taken::File),
            (Some(EDITED), true, Taken::File),
            (Some(STOCK), true, kept(EDITED)),
            (Some(WITH_UUID), true, kept(EDITED)),
            (Some(OTHER), true, Taken::File),
            (Some(STOCK), true, Taken::File),
        ]);
        looks(&[
            (Some(EDITED), true, Taken::File),
            (None, false, kept(EDITED)),
            (None, true, kept(EDITED)),
            (Some(STOCK), true, kept(EDITED)),
            (None, true, kept(EDITED)),
        ]);
        looks(&[
            (Some(STOCK), false, Taken::File),
            (None, false, Taken::Nothing),
            (None, true, Taken::Nothing),
            (Some(STOCK), true, Taken::Nothing),
            (None, true, Taken::Nothing),
            (Some(STOCK), true, Taken::File),
        ]);
        looks(&[
            (None, false, Taken::Standard),
            (None, true, Taken::Standard),
            (None, true, Taken::Standard),
            (Some(STOCK), true, Taken::File),
            (None, true, Taken::Nothing),
        ]);
    }

    #[test]
    fn the_packaged_copy_put_back_by_hand_is_in_force() {
        looks(&[(Some(EDITED), true, Taken::File), (Some(STOCK), true, Taken::File)]);
        looks(&[
            (Some(EDITED), false, Taken::File),
            (Some(EDITED), true, Taken::File),
            (Some(OTHER), true, Taken::File),
            (Some(STOCK), true, Taken::File),
        ]);
    }

    #[test]
    fn what_a_client_chooses_before_the_package_writes_stays() {
        let mut record = Record::new(Path::new("/filters"));
        for packaged in [None, Some(STOCK)] {
            assert_eq!(record.settle("allow-ipv6", Found::Nothing, packaged), Taken::Standard);
        }
        let mut defined = record.clone();
        defined.define("allow-ipv6", EDITED, PackagedCopy::Present);
        assert_eq!(defined.settle("allow-ipv6", Found::Text(STOCK), Some(STOCK)), kept(EDITED));
        record.delete("allow-ipv6", PackagedCopy::Present);
        assert_eq!(record.settle("allow-ipv6", Found::Text(STOCK), Some(STOCK)), Taken::Nothing);
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
    fn packaged_filters_do_not_restore_deleted_ones() {
        looks(&[
            (Some(STOCK), false, Taken::File),
            (None, false, Taken::Nothing),
            (Some(STOCK), true, Taken::Nothing),
            (Some(WITH_UUID), true, Taken::Nothing),
            (Some(EDITED), true, Taken::File),
        ]);
        let mut record = Record::new(Path::new("/filters"));
        record.delete("allow-ipv6", PackagedCopy::Absent);
        assert_eq!(record.settle("allow-ipv6", Found::Text(STOCK), Some(STOCK)), Taken::Nothing);
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
    fn a_file_that_cannot_be_read_is_never_replaced() {
        let mut record = Record::new(Path::new("/filters"));
        for packaged in [None, Some(STOCK)] {
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
