//! The names of sets and chains in our tables: what each stands for can be read back, and nothing has two meanings.
//!
//! What stands for is decided by the form of the whole name. A name with a `/` belongs to programs: the parts of others are
//! written so that they have none. Without one, what comes before the first `.` tells sets of addresses from slots.
//! The name of a filter, a variable or a set of addresses chooses only letters within one part.

use super::{IN, OUT, SlotPart, printable};
use crate::program::ir::{KeyType, Name};
use std::fmt::{self, Display, Formatter};

const MEMBERS: &str = "members";
const REVERSED: &str = "turned";
const DEVICE: &str = "_device";
const IPSETS: [(&str, KeyType); 2] = [("ipset", KeyType::Ipv4), ("ipset6", KeyType::Ipv6)];
/// Hexadecimal digits of a digest in the name of a program.
const DIGEST_DIGITS: usize = 12;

/// What a set's name says.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SetName<'a> {
    /// One of those that every table has.
    Table(&'a str),
    /// Those who share the program of a group.
    Members(&'a str),
    /// The same, where they are macvtaps.
    Reversed(&'a str),
    /// A set of a program, by the program's prefix and the name within it.
    OfProgram(&'a str, &'a str),
    /// The values of variables.
    Slot(&'a str),
    /// A set of addresses that an administrator fills, by the name that filters have for it.
    Ipset(String, KeyType),
}

/// What a chain's name says.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ChainName<'a> {
    /// One of those that every table has.
    Table(&'a str),
    /// Where those enter who share the program of a group, `out` or `in`.
    Entry(&'a str, &'a str),
    /// A chain of a program, by the program's prefix and the name within it.
    OfProgram(&'a str, &'a str),
    /// The base chain of a device: where it leads to, and the device's name as it can be printed.
    Device(&'a str, &'a str),
}

impl<'a> SetName<'a> {
    /// What this name says; none where no set of ours has such a name.
    pub fn parse(name: &'a str) -> Option<SetName<'a>> {
        let Some((group, last)) = name.rsplit_once('/') else { return SetName::without_slash(name) };
        match last {
            MEMBERS if is_group(group) => Some(SetName::Members(group)),
            REVERSED if is_group(group) => Some(SetName::Reversed(group)),
            _ => of_program(name).map(|(prefix, own)| SetName::OfProgram(prefix, own)),
        }
    }

    fn without_slash(name: &'a str) -> Option<SetName<'a>> {
        let Some((first, rest)) = name.split_once('.') else {
            return is_label(name).then_some(SetName::Table(name));
        };
        match IPSETS.iter().find(|(family, _)| *family == first) {
            Some((_, kind)) => Some(SetName::Ipset(read_ipset(rest)?, *kind)),
            None => is_label(name).then_some(SetName::Slot(name)),
        }
    }

    /// The group whose members the set holds.
    pub fn group(&self) -> Option<&'a str> {
        match self {
            SetName::Members(group) | SetName::Reversed(group) => Some(group),
            _ => None,
        }
    }
}

impl<'a> ChainName<'a> {
    /// What this name says; none where no chain of ours has such a name.
    pub fn parse(name: &'a str) -> Option<ChainName<'a>> {
        if let Some((base, device)) =
            name.strip_prefix(DEVICE).and_then(|rest| rest.strip_prefix('/')?.split_once('/'))
        {
            return (is_label(base) && is_label(device)).then_some(ChainName::Device(base, device));
        }
        match name.rsplit_once('/') {
            None => is_label(name).then_some(ChainName::Table(name)),
            Some((group, way @ (OUT | IN))) if is_group(group) => Some(ChainName::Entry(group, way)),
            Some(_) => of_program(name).map(|(prefix, own)| ChainName::OfProgram(prefix, own)),
        }
    }

    /// The prefix of the program that the chain is of.
    pub fn program(&self) -> Option<&'a str> {
        match self {
            ChainName::OfProgram(prefix, _) => Some(prefix),
            _ => None,
        }
    }
}

impl Display for SetName<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            SetName::Table(name) | SetName::Slot(name) => f.write_str(name),
            SetName::Members(group) => write!(f, "{group}/{MEMBERS}"),
            SetName::Reversed(group) => write!(f, "{group}/{REVERSED}"),
            SetName::OfProgram(prefix, own) => write!(f, "{prefix}/{own}"),
            SetName::Ipset(name, kind) => {
                let family = IPSETS.iter().find(|(_, known)| known == kind).map_or("ipset", |(name, _)| name);
                // Behind the family the name may begin with anything.
                write!(f, "{family}.{}", &printable(&format!("i{name}"))[1..])
            }
        }
    }
}

impl Display for ChainName<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            ChainName::Table(name) => f.write_str(name),
            ChainName::Entry(group, way) => write!(f, "{group}/{way}"),
            ChainName::OfProgram(prefix, own) => write!(f, "{prefix}/{own}"),
            ChainName::Device(base, device) => write!(f, "{DEVICE}/{base}/{device}"),
        }
    }
}

impl From<SetName<'_>> for Name {
    fn from(name: SetName<'_>) -> Name {
        name.to_string().into()
    }
}

impl From<ChainName<'_>> for Name {
    fn from(name: ChainName<'_>) -> Name {
        name.to_string().into()
    }
}

/// The prefix of a program: its filter's printable name and the digest of its content.
pub fn prefix(label: &str, digest: u64) -> Name {
    format!("{label}/{:0DIGEST_DIGITS$x}", digest >> 16).into()
}

/// The name of a group: its filter's printable name, and a number where it is not the first.
pub fn group(label: &str, number: Option<u32>) -> Name {
    number.map_or_else(|| label.into(), |number| format!("{label}/v{number}").into())
}

/// The printable name of the filter, in the name of a group or the prefix of a program.
pub fn label_of(name: &str) -> &str {
    name.split_once('/').map_or(name, |(label, _)| label)
}

/// How a variable is written in the name of a slot: one that begins with a digit or is empty cannot begin a name that
/// nft reads, and two would begin like the names of sets of addresses.
pub(super) fn variable(name: &str) -> String {
    let plain = name.starts_with(|c: char| c.is_ascii_alphabetic());
    let taken = IPSETS.iter().any(|(family, _)| *family == name);
    if plain && !taken { name.to_owned() } else { format!("v-{name}") }
}

/// The name of the set of a slot with these parts.
pub(super) fn slot(parts: &[SlotPart]) -> Name {
    let parts: Vec<String> = parts.iter().map(SlotPart::label).collect();
    parts.join("-and-").into()
}

fn of_program(name: &str) -> Option<(&str, &str)> {
    let mut parts = name.splitn(3, '/');
    let (label, digest, own) = (parts.next()?, parts.next()?, parts.next()?);
    let hexadecimal = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    let is_digest = digest.len() == DIGEST_DIGITS && digest.bytes().all(hexadecimal);
    (is_label(label) && is_digest && !own.is_empty()).then(|| (&name[..label.len() + 1 + DIGEST_DIGITS], own))
}

fn is_group(text: &str) -> bool {
    let Some((label, number)) = text.split_once('/') else { return is_label(text) };
    let number = number.strip_prefix('v').filter(|digits| !digits.starts_with(['0', '+']));
    is_label(label) && number.is_some_and(|digits| digits.parse::<u32>().is_ok())
}

/// Whether it is what `printable` makes of a name.
fn is_label(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

/// The name behind the family of a set of addresses; none that is written otherwise than we do.
fn read_ipset(text: &str) -> Option<String> {
    let mut pieces = text.split('.');
    let mut bytes = pieces.next()?.as_bytes().to_vec();
    for piece in pieces {
        bytes.push(u8::from_str_radix(piece.get(..2)?, 16).ok()?);
        bytes.extend(&piece.as_bytes()[2..]);
    }
    let name = String::from_utf8(bytes).ok()?;
    (printable(&format!("i{name}"))[1..] == *text).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::Slot;
    use proptest::prelude::*;

    const KINDS: [KeyType; 4] = [KeyType::Ipv4, KeyType::Ipv6, KeyType::Ether, KeyType::Port];

    /// Names that clients choose, those among them that look like ours.
    fn chosen() -> impl Strategy<Value = String> {
        prop_oneof![
            "[ -.0-~]{0,12}",
            "(ipset|ipset6|members|turned|out|in|v2|_device|bound|drops|slot)([. _-][a-z0-9.]{0,6})?",
            "\\PC{0,70}".prop_map(|name: String| name.replace('/', "")),
        ]
    }

    fn variables() -> impl Strategy<Value = Vec<SlotPart>> {
        let name = prop_oneof!["[A-Za-z0-9_]{0,6}", "(ipset|ipset6|v|ipv4|and|members)"];
        let part = (name, 0..KINDS.len(), proptest::option::of(0u8..33))
            .prop_map(|(variable, kind, prefix)| SlotPart { variable, kind: KINDS[kind], prefix });
        proptest::collection::vec(part, 1..3)
    }

    fn back(name: &SetName<'_>) {
        assert_eq!(SetName::parse(&name.to_string()).as_ref(), Some(name));
    }

    proptest! {
        #[test]
        fn every_name_says_what_it_was_made_of(
            filter in chosen(), ipset in chosen(), device in chosen(), digest: u64, slot in variables(),
            number in proptest::option::of(2u32..), chain in "[a-z]{1,5}(/[a-z.-]{1,9})?", reversed: bool,
        ) {
            let (label, device) = (printable(&filter), printable(&device));
            let (group, prefix) = (group(&label, number), prefix(&label, digest));
            back(&if reversed { SetName::Reversed(&group) } else { SetName::Members(&group) });
            back(&SetName::OfProgram(&prefix, &chain));
            let slot = Slot { parts: slot }.set_name();
            back(&SetName::Slot(&slot));
            // A name that would grow too long is written in another alphabet and not read back.
            if printable(&format!("i{ipset}")).starts_with('i') {
                back(&SetName::Ipset(ipset.clone(), KeyType::Ipv4));
                back(&SetName::Ipset(ipset.clone(), KeyType::Ipv6));
            }
            for name in [
                ChainName::Entry(&group, if reversed { IN } else { OUT }),
                ChainName::OfProgram(&prefix, &chain),
                ChainName::Device("ingress", &device),
                ChainName::Table("drop-iif"),
            ] {
                let text = name.to_string();
                prop_assert_eq!(ChainName::parse(&text), Some(name));
            }
            prop_assert_eq!(label_of(&group), &label);
            prop_assert_eq!(label_of(&prefix), &label);
        }

        #[test]
        fn what_is_read_is_written_the_same(text in "[a-z0-9/._-]{0,20}") {
            if let Some(name) = SetName::parse(&text) {
                prop_assert_eq!(name.to_string(), text.clone());
            }
            if let Some(name) = ChainName::parse(&text) {
                prop_assert_eq!(name.to_string(), text);
            }
        }

        #[test]
        fn different_variables_have_different_sets(some in variables(), others in variables()) {
            let name = |parts: &[SlotPart]| Slot { parts: parts.to_vec() }.set_name();
            prop_assert_eq!(some == others, name(&some) == name(&others));
        }
    }
}
