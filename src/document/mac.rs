//! Small values of the Ethernet world: MAC addresses.
//!
//! IPv4 and IPv6 addresses are the standard library's. Nothing here does I/O or knows a filter.

use std::fmt;
use std::str::FromStr;

/// A 48-bit Ethernet address, in the order it has on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Mac(pub [u8; 6]);

/// A text that is not one or two hexadecimal digits an octet, six octets, separated by colons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a MAC address")]
pub struct NotAMac;

impl Mac {
    /// `ff:ff:ff:ff:ff:ff`.
    pub const BROADCAST: Mac = Mac([0xff; 6]);

    /// Whether the bits of this address are ones first and zeros after, as a mask must be.
    pub fn is_contiguous(self) -> bool {
        let bits = self.0.iter().fold(0u64, |bits, octet| bits << 8 | u64::from(*octet));
        let zeros = bits.trailing_zeros().min(48);
        bits >> zeros == (1u64 << (48 - zeros)) - 1
    }
}

impl FromStr for Mac {
    type Err = NotAMac;

    fn from_str(text: &str) -> Result<Mac, NotAMac> {
        let mut octets = [0; 6];
        let mut parts = text.split(':');
        for octet in &mut octets {
            let part = parts.next().ok_or(NotAMac)?;
            let hex = (1..=2).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_hexdigit());
            *octet = u8::from_str_radix(part, 16).ok().filter(|_| hex).ok_or(NotAMac)?;
        }
        parts.next().map_or(Ok(Mac(octets)), |_| Err(NotAMac))
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_short_octets_and_prints_long_ones() {
        assert_eq!("1:2:3:a:B:c".parse::<Mac>().unwrap().to_string(), "01:02:03:0a:0b:0c");
    }

    #[test]
    fn anything_else_is_no_mac() {
        for text in
            ["", "1:2:3:4:5", "1:2:3:4:5:6:7", "001:2:3:4:5:6", "1-2-3-4-5-6", "+1:2:3:4:5:6", "g:2:3:4:5:6"]
        {
            assert_eq!(text.parse::<Mac>(), Err(NotAMac), "{text}");
        }
    }

    #[test]
    fn a_mask_is_ones_then_zeros() {
        for (text, contiguous) in [
            ("ff:ff:ff:ff:ff:ff", true),
            ("ff:ff:ff:00:00:00", true),
            ("fe:00:00:00:00:00", true),
            ("00:00:00:00:00:00", true),
            ("ff:00:ff:00:00:00", false),
            ("01:00:00:00:00:00", false),
        ] {
            assert_eq!(text.parse::<Mac>().unwrap().is_contiguous(), contiguous, "{text}");
        }
    }
}
