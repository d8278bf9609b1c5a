//! What this nft makes of ranges, so that listings are compared by what they mean and not by its release.
//!
//! Up to 1.0, nft compiles a range to two comparisons, or to one `range` where it is negated, whichever values it has. From 1.1
//! on it compiles each to one `range`, and a range of one value to a comparison with it. Both judge every packet alike. Which
//! of them this nft does, it shows on two rules; where it does as we do, a listing is compared to the letter.

use crate::lab::nft;
use std::borrow::Cow;

/// Where this nft writes a range otherwise than we send it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ranges {
    /// One expression for a range, where we send two comparisons.
    joined: bool,
    /// A comparison for a range of one value, where we send a range.
    folded: bool,
}

const PROBE: &str = "table bridge probe {
    chain c {
        @th,0,16 1-2
        @th,0,16 != 3-3
    }
}";

impl Ranges {
    /// What nft says that it would send for one rule of each kind. It loads none.
    pub fn of_this_nft() -> Ranges {
        Ranges::seen_in(&nft("--check --debug=netlink -f -", PROBE))
    }

    /// # Panics
    /// Where a rule is compiled in neither of the two ways.
    fn seen_in(compiled: &str) -> Ranges {
        let is_new = |new: &str, old: &str| {
            let is_new = compiled.contains(new);
            assert!(is_new != compiled.contains(old), "nft compiles ranges in an unknown way:\n{compiled}");
            is_new
        };
        Ranges {
            joined: is_new("[ range eq reg 1 0x00000100 0x00000200 ]", "[ cmp gte reg 1 0x00000100 ]"),
            folded: is_new("[ cmp neq reg 1 0x00000300 ]", "[ range neq reg 1 0x00000300 0x00000300 ]"),
        }
    }

    /// A listing whose ranges have one form, whichever program compiled them: as comparisons, as far as this nft may have changed that.
    pub fn in_one_form(self, listing: &str) -> String {
        let line =
            |line| Range::read(line).map_or_else(|| self.words(line), |range| self.expression(line, &range));
        listing.lines().map(line).collect::<Vec<_>>().join("\n")
    }

    /// A line as people read it.
    fn words(self, line: &str) -> String {
        let of_one_value = |word: &str| word.split_once('-').is_some_and(|(from, to)| from == to);
        let word = |word| match self.folded && of_one_value(word) {
            true => &word[..word.len() / 2],
            false => word,
        };
        let mut words: Vec<Cow<str>> = line.split(' ').map(|it| word(it).into()).collect();
        while let Some(at) = words.windows(5).position(|words| self.joined && bits(words).is_some()) {
            let named = bits(&words[at..at + 5]).expect("it was found there");
            words.splice(at..at + 4, [named.into()]);
        }
        words.join(" ")
    }

    fn expression(self, line: &str, range: &Range) -> String {
        match range.operator {
            operator if self.folded && range.from == range.to => range.compare(operator, range.from),
            "eq" if self.joined => range.compare("gte", range.from) + "\n" + &range.compare("lte", range.to),
            _ => line.to_owned(),
        }
    }
}

/// The last bits of raw bytes by their own place, `@ll,116,12`, where a range of them stands as `@ll,112,16 & 0xfff == 0x5-0x9`:
/// nft takes the mask for part of the place before two comparisons, and not before one `range`.
fn bits(words: &[Cow<str>]) -> Option<String> {
    let [place, and, mask, equal, range] = words else { return None };
    let mut parts = place.strip_prefix('@')?.split(',');
    let (base, start, length) =
        (parts.next()?, parts.next()?.parse::<u32>().ok()?, parts.next()?.parse::<u32>().ok()?);
    let mask = u128::from_str_radix(mask.strip_prefix("0x")?, 16).ok()?;
    let ones = mask.trailing_ones();
    let is_masked = and == "&" && equal == "==" && range.contains('-');
    let cut = length.checked_sub(ones).filter(|_| is_masked && mask.count_ones() == ones)?;
    Some(format!("@{base},{},{ones}", start + cut))
}

/// A range in bytecode: `[ range eq reg 1 0x00001400 0x00001600 ]`.
struct Range<'a> {
    operator: &'a str,
    register: &'a str,
    from: &'a str,
    to: &'a str,
}

impl Range<'_> {
    /// Both values have as many words, all of one length.
    fn read(line: &str) -> Option<Range<'_>> {
        let inner = line.trim().strip_prefix("[ range ")?.strip_suffix(" ]")?;
        let (operator, rest) = inner.split_once(" reg ")?;
        let (register, values) = rest.split_once(' ')?;
        let (from, to) = values.split_at(values.len() / 2);
        Some(Range { operator, register, from, to: to.strip_prefix(' ')? })
    }

    fn compare(&self, operator: &str, value: &str) -> String {
        format!("  [ cmp {operator} reg {} {value} ]", self.register)
    }
}

/// As nft 1.0.6 and nft 1.1.3 compile the probe.
const OLD: &str = "bridge probe c
  [ payload load 2b @ transport header + 0 => reg 1 ]
  [ cmp gte reg 1 0x00000100 ]
  [ cmp lte reg 1 0x00000200 ]
bridge probe c
  [ payload load 2b @ transport header + 0 => reg 1 ]
  [ range neq reg 1 0x00000300 0x00000300 ]";
const NEW: &str = "bridge probe c
  [ payload load 2b @ transport header + 0 => reg 1 ]
  [ range eq reg 1 0x00000100 0x00000200 ]
bridge probe c
  [ payload load 2b @ transport header + 0 => reg 1 ]
  [ cmp neq reg 1 0x00000300 ]";

#[test]
fn an_nft_with_our_range_form_is_compared_to_the_letter() {
    let ranges = Ranges::seen_in(OLD);
    assert_eq!(ranges, Ranges { joined: false, folded: false });
    for listing in [OLD, NEW, "ether daddr != 1-1", "@ll,112,16 & 0xfff == 0x5-0x9"] {
        assert_eq!(ranges.in_one_form(listing), listing);
    }
}

#[test]
fn what_both_compile_of_one_text_has_one_form() {
    let ranges = Ranges::seen_in(NEW);
    assert_eq!(ranges.in_one_form(OLD), ranges.in_one_form(NEW));
    let (addresses, comparisons) = (
        "  [ range eq reg 1 0x01005452 0x00000402 0x01005452 0x00000902 ]",
        "  [ cmp gte reg 1 0x01005452 0x00000402 ]\n  [ cmp lte reg 1 0x01005452 0x00000902 ]",
    );
    assert_eq!(ranges.in_one_form(addresses), comparisons);
    assert_eq!(
        ranges.in_one_form("\t\tip saddr != 1.1.1.1-1.1.1.1 accept"),
        "\t\tip saddr != 1.1.1.1 accept"
    );
}

/// Another end, another operator, and a range that is negated are seen in the one form as well.
#[test]
fn ranges_that_differ_do_so_in_the_one_form() {
    let ranges = Ranges { joined: true, folded: true };
    let different = [
        "  [ range eq reg 1 0x00000100 0x00000200 ]",
        "  [ range eq reg 1 0x00000100 0x00000300 ]",
        "  [ range eq reg 1 0x00000000 0x00000200 ]",
        "  [ range eq reg 2 0x00000100 0x00000200 ]",
        "  [ range neq reg 1 0x00000100 0x00000200 ]",
        "  [ range neq reg 1 0x00000100 0x00000100 ]",
        "  [ range eq reg 1 0x00000100 0x00000100 ]",
        "  [ cmp gte reg 1 0x00000100 ]",
        "@ll,112,16 & 0xfff == 0x5-0x9",
        "@ll,112,16 & 0x7ff == 0x5-0x9",
        "@ll,112,16 & 0xff0 == 0x5-0x9",
        "@ll,112,16 & 0xfff == 0x5",
        "@ll,112,16 & 0xfff != 0x5-0x9",
        "udp dport 1-2",
        "udp dport 1-3",
        "udp dport != 1-2",
        "udp dport != 1-1",
    ]
    .map(|listing| ranges.in_one_form(listing));
    let distinct: std::collections::BTreeSet<_> = different.iter().collect();
    assert_eq!(distinct.len(), different.len(), "{different:#?}");
}
