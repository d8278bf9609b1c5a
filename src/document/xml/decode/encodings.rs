//! The bytes of a document to text, in the encodings that libxml2 reads: by the byte order mark, else by the declaration,
//! else UTF-8.
//!
//! Needs the feature `encodings`.

use super::{NO_TEXT, declared};
use encoding_rs::{Encoding, UTF_8, UTF_16BE, UTF_16LE};

/// How the bytes of a document are to be read.
enum Charset {
    /// One byte a character: ISO-8859-1.
    Latin1,
    /// ASCII and nothing else.
    Ascii,
    Other(&'static Encoding),
    Unknown,
}

/// The text of a document.
pub fn decode(bytes: &[u8]) -> String {
    if let Some((encoding, _)) = Encoding::for_bom(bytes) {
        return with(encoding, bytes);
    }
    match form(bytes) {
        Charset::Latin1 => encoding_rs::mem::decode_latin1(bytes).into_owned(),
        Charset::Ascii => {
            bytes.iter().map(|byte| if byte.is_ascii() { char::from(*byte) } else { NO_TEXT }).collect()
        }
        Charset::Other(encoding) => with(encoding, bytes),
        Charset::Unknown => format!("{NO_TEXT}{}", String::from_utf8_lossy(bytes)),
    }
}

fn with(encoding: &'static Encoding, bytes: &[u8]) -> String {
    let (text, _, malformed) = encoding.decode(bytes);
    match malformed {
        true => text.replace('\u{fffd}', &NO_TEXT.to_string()),
        false => text.into_owned(),
    }
}

fn form(bytes: &[u8]) -> Charset {
    match bytes {
        [b'<', 0, ..] => return Charset::Other(UTF_16LE),
        [0, b'<', ..] => return Charset::Other(UTF_16BE),
        _ => {}
    }
    let Some(name) = declared(bytes) else { return Charset::Other(UTF_8) };
    match name.to_ascii_uppercase().as_str() {
        "ISO-8859-1" | "ISO8859-1" | "ISO_8859-1" | "LATIN1" | "ISO-LATIN-1" => Charset::Latin1,
        "ASCII" | "US-ASCII" => Charset::Ascii,
        // The bytes that said so were not in UTF-16.
        name => match Encoding::for_label(name.as_bytes()) {
            Some(encoding) if encoding == UTF_16LE || encoding == UTF_16BE => Charset::Unknown,
            Some(encoding) => Charset::Other(encoding),
            None => Charset::Unknown,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn declared_as(encoding: &str, body: &[u8]) -> String {
        decode(&[format!("<?xml version='1.0' encoding=\"{encoding}\"?>").as_bytes(), body].concat())
    }

    #[test]
    fn a_document_is_read_in_the_encoding_that_it_names() {
        for (encoding, bytes, text) in [
            ("ISO-8859-1", &b"M\xfcller \x85"[..], "Müller \u{85}"),
            ("iso-8859-15", b"\xa4", "€"),
            ("ISO-8859-2", b"\xb1", "ą"),
            ("windows-1252", b"\x80", "€"),
            ("UTF-8", "ü€".as_bytes(), "ü€"),
            ("US-ASCII", b"plain", "plain"),
            ("koi8-r", b"\xc1", "а"),
        ] {
            assert!(declared_as(encoding, bytes).ends_with(&format!("?>{text}")), "{encoding}");
        }
        let wide: Vec<u8> = "<filter name='ü'/>".encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert_eq!(decode(&wide), "<filter name='ü'/>");
        assert_eq!(decode(&[&[0xff, 0xfe], &wide[..]].concat()), "<filter name='ü'/>");
        let wide: Vec<u8> = "<filter name='ü'/>".encode_utf16().flat_map(u16::to_be_bytes).collect();
        assert_eq!(decode(&wide), "<filter name='ü'/>");
        assert_eq!(decode("\u{feff}<a/>".as_bytes()), "<a/>");
    }

    #[test]
    fn what_is_no_text_is_no_xml() {
        for bytes in [&b"<filter name='M\xfcller'/>"[..], b"\xc3", b"<a>\xed\xa0\x80</a>"] {
            assert!(decode(bytes).contains(NO_TEXT), "{bytes:?}");
        }
        assert!(declared_as("US-ASCII", b"\xfc").contains(NO_TEXT));
        assert!(declared_as("martian", b"<a/>").contains(NO_TEXT));
        assert!(declared_as("UTF-16", b"<a/>").contains(NO_TEXT));
        // A character that stands for a mistake of another program is a character.
        assert_eq!(decode("<a>\u{fffd}</a>".as_bytes()), "<a>\u{fffd}</a>");
    }
}
