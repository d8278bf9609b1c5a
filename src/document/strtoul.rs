//! Numbers as C reads them, because libvirt's documents are written for `strtoul`.
//!
//! Leading white space and a sign are taken, the hexadecimal prefix is optional, a negative number wraps.
//! What stands behind the number is handed back. Nothing here knows what the number is for.

/// The 32-bit number a text begins with, and the rest of the text; none where there is none or it does
/// not fit.
pub fn unsigned(text: &str, radix: u32) -> Option<(u32, &str)> {
    let (negative, magnitude, rest) = scan(text, radix)?;
    let value = u32::try_from(magnitude).ok()?;
    Some((if negative { value.wrapping_neg() } else { value }, rest))
}

/// The signed decimal number that a text is, from end to end.
pub fn signed(text: &str) -> Option<i32> {
    let (negative, magnitude, rest) = scan(text, 10)?;
    let value = i64::try_from(magnitude).ok()?;
    let value = i32::try_from(if negative { -value } else { value }).ok()?;
    rest.is_empty().then_some(value)
}

/// The text without the white space, in C's sense, that it begins with.
pub fn skip_space(text: &str) -> &str {
    text.trim_start_matches([' ', '\t', '\n', '\x0b', '\x0c', '\r'])
}

fn scan(text: &str, radix: u32) -> Option<(bool, u64, &str)> {
    let text = skip_space(text);
    let (negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let text = without_prefix(text, radix);
    let digits = text.find(|c: char| !c.is_digit(radix)).unwrap_or(text.len());
    let (digits, rest) = text.split_at(digits);
    if digits.is_empty() {
        return None;
    }
    let magnitude = digits.chars().try_fold(0u64, |value, digit| {
        value.checked_mul(u64::from(radix))?.checked_add(u64::from(digit.to_digit(radix)?))
    })?;
    Some((negative, magnitude, rest))
}

/// `0x` counts as a prefix only where a digit follows; else it is a zero and an `x`.
fn without_prefix(text: &str, radix: u32) -> &str {
    let stripped = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    match stripped {
        Some(rest) if radix == 16 && rest.starts_with(|c: char| c.is_ascii_hexdigit()) => rest,
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsigned_numbers_wrap_and_leave_the_rest() {
        for (text, radix, read) in [
            ("10", 10, Some((10, ""))),
            (" \t+080", 10, Some((80, ""))),
            ("10 ", 10, Some((10, " "))),
            ("0x10", 10, Some((0, "x10"))),
            ("0x10", 16, Some((16, ""))),
            ("0X1g", 16, Some((1, "g"))),
            ("0x", 16, Some((0, "x"))),
            ("ff", 16, Some((255, ""))),
            ("-1", 10, Some((u32::MAX, ""))),
            ("-4294967296", 10, None),
            ("4294967296", 10, None),
            ("99999999999999999999999", 10, None),
            ("", 10, None),
            ("x", 10, None),
            ("- 1", 10, None),
        ] {
            assert_eq!(unsigned(text, radix), read, "{text}");
        }
    }

    #[test]
    fn signed_numbers_are_the_whole_text() {
        for (text, read) in [
            ("-1000", Some(-1000)),
            (" 7", Some(7)),
            ("7 ", None),
            ("0x10", None),
            ("", None),
            ("-2147483648", Some(i32::MIN)),
            ("2147483648", None),
        ] {
            assert_eq!(signed(text), read, "{text}");
        }
    }
}
