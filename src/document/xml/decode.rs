//! The bytes of a document to text.
//!
//! Decoding never fails. What is no text in the document's encoding becomes [`NO_TEXT`], which XML forbids, so that the
//! parser refuses the document at that place. Without the feature `encodings` that is all but UTF-8.

#[cfg(feature = "encodings")]
mod encodings;

#[cfg(feature = "encodings")]
pub use encodings::decode;

/// What stands for bytes that are no text.
pub const NO_TEXT: char = '\u{ffff}';

/// Bytes of a document that its declaration is looked for in.
const HEAD: usize = 256;

/// The text of a document in UTF-8. One that declares another encoding is no text.
#[cfg(not(feature = "encodings"))]
pub fn decode(bytes: &[u8]) -> String {
    let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
    let is_known = declared(bytes)
        .is_none_or(|name| ["UTF-8", "US-ASCII"].iter().any(|one| name.eq_ignore_ascii_case(one)));
    match std::str::from_utf8(bytes) {
        Ok(text) if is_known => text.to_owned(),
        _ => format!("{NO_TEXT}{}", String::from_utf8_lossy(bytes)),
    }
}

/// The encoding that the declaration names.
fn declared(bytes: &[u8]) -> Option<&str> {
    let head = &bytes[..bytes.len().min(HEAD)];
    let head = match std::str::from_utf8(head) {
        Ok(head) => head,
        Err(error) => std::str::from_utf8(&head[..error.valid_up_to()]).ok()?,
    };
    let declaration = head.strip_prefix("<?xml")?;
    let declaration = &declaration[..declaration.find("?>")?];
    let value = declaration.split_once("encoding")?.1.trim_start().strip_prefix('=')?.trim_start();
    let quote = value.chars().next().filter(|quote| matches!(quote, '"' | '\''))?;
    value[1..].split_once(quote).map(|(name, _)| name)
}
