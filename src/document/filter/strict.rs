//! The values that the schema allows, each by its [`ValueKind`]: what people should write.
//!
//! Reading takes more, since libvirt's parser does: old forms of addresses, names in any case, numbers
//! in hexadecimal without a prefix. `schema/nwfilterparams.rng` says the same in RELAX NG.

use super::schema::ValueKind;
use super::value::{bounds, names};

const MASK_OCTETS: &[&str] = &["255", "254", "252", "248", "240", "224", "192", "128", "0"];
const STATES: &[&str] = &["NEW", "ESTABLISHED", "RELATED", "INVALID"];
const TCP_FLAGS: &[&str] = &["FIN", "SYN", "RST", "PSH", "ACK", "URG"];

/// Whether the schema allows this value.
pub fn allows(kind: ValueKind, text: &str) -> bool {
    is_variable(text) || is_literal(kind, text)
}

/// A decimal number as people write it, of a range around zero.
pub fn is_integer(text: &str, greatest: u32) -> bool {
    is_decimal(text.strip_prefix('-').unwrap_or(text), 0, greatest)
}

/// 32 hexadecimal digits, with all four hyphens or none.
pub fn is_uuid(text: &str) -> bool {
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_hexdigit());
    let lengths: Vec<usize> = text.split('-').map(str::len).collect();
    text.split('-').all(digits) && (lengths == [32] || lengths == [8, 4, 4, 4, 12])
}

/// Six octets of one or two hexadecimal digits.
pub fn is_mac(text: &str) -> bool {
    text.parse::<crate::document::mac::Mac>().is_ok()
}

fn is_variable(text: &str) -> bool {
    let Some(text) = text.strip_prefix('$') else {
        return false;
    };
    let name = text.find('[').unwrap_or(text.len());
    let (name, index) = text.split_at(name);
    !name.is_empty() && crate::document::vars::is_name(name) && (index.is_empty() || is_index(index))
}

/// `[n]` or `[@n]`, with blanks.
fn is_index(text: &str) -> bool {
    let Some(inside) = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) else {
        return false;
    };
    let inside = inside.trim_matches(' ');
    let number = inside.strip_prefix('@').unwrap_or(inside).trim_start_matches(' ');
    (1..=10).contains(&number.len()) && number.bytes().all(|b| b.is_ascii_digit())
}

fn is_literal(kind: ValueKind, text: &str) -> bool {
    match kind {
        ValueKind::Decimal16 => is_decimal(text, 0, 0xffff),
        ValueKind::Mac => is_mac(text),
        ValueKind::MacMask => text.parse().is_ok_and(crate::document::mac::Mac::is_contiguous),
        ValueKind::Ipv4 => is_dotted(text),
        ValueKind::Ipv6 => is_colons(text),
        ValueKind::Ipv4Mask => is_decimal(text, 0, 32) || is_dotted_mask(text),
        ValueKind::Ipv6Mask => is_decimal(text, 0, 128) || is_colons(text),
        ValueKind::Bool => ["true", "false", "yes", "no", "1", "0"].contains(&text),
        ValueKind::Comment => text.chars().count() <= super::value::COMMENT_BYTES,
        ValueKind::States => text == "NONE" || is_list(text, STATES),
        ValueKind::TcpFlags => {
            text.split_once('/').is_some_and(|(mask, flags)| is_flags(mask) && is_flags(flags))
        }
        ValueKind::IpsetName => !text.is_empty() && super::value::literal(kind, text).is_some(),
        ValueKind::IpsetFlags => super::value::literal(kind, text).is_some(),
        ValueKind::ArpOpcode => {
            is_number(kind, text) || names(kind).iter().any(|(name, _)| name.eq_ignore_ascii_case(text))
        }
        _ => is_number(kind, text) || names(kind).iter().any(|(name, _)| *name == text),
    }
}

fn is_number(kind: ValueKind, text: &str) -> bool {
    let Some((least, greatest)) = bounds(kind) else {
        return false;
    };
    let Some(digits) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) else {
        return is_decimal(text, least, greatest);
    };
    let widest = format!("{greatest:x}").len();
    let hexadecimal = digits.len() <= widest && digits.bytes().all(|b| b.is_ascii_hexdigit());
    hexadecimal && u32::from_str_radix(digits, 16).is_ok_and(|value| (least..=greatest).contains(&value))
}

fn is_decimal(text: &str, least: u32, greatest: u32) -> bool {
    let digits = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    digits && text.parse::<u32>().is_ok_and(|value| (least..=greatest).contains(&value))
}

fn is_dotted(text: &str) -> bool {
    let octets: Vec<&str> = text.split('.').collect();
    octets.len() == 4 && octets.iter().all(|octet| is_decimal(octet, 0, 255))
}

fn is_dotted_mask(text: &str) -> bool {
    let octets: Vec<&str> = text.split('.').collect();
    let rest = octets.iter().skip_while(|octet| **octet == "255");
    let known = octets.iter().all(|octet| MASK_OCTETS.contains(octet));
    octets.len() == 4 && known && rest.skip(1).all(|octet| *octet == "0")
}

/// Roughly an IPv6 address: groups and colons, at the end a dotted address perhaps. Where the `::` may
/// stand is left to reading.
fn is_colons(text: &str) -> bool {
    let groups: Vec<&str> = text.split(':').collect();
    let is_group = |group: &&str| group.len() <= 4 && group.bytes().all(|b| b.is_ascii_hexdigit());
    match groups.split_last() {
        Some((last, first)) if is_dotted(last) => {
            (2..=7).contains(&first.len()) && first.iter().all(is_group)
        }
        _ => (3..=9).contains(&groups.len()) && groups.iter().all(is_group),
    }
}

fn is_list(text: &str, words: &[&str]) -> bool {
    text.split(',').all(|word| words.contains(&word))
}

fn is_flags(text: &str) -> bool {
    text == "ALL" || text == "NONE" || is_list(text, TCP_FLAGS)
}
