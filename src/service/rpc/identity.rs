//! On whose behalf a client says it acts: libvirt's typed parameters, read and checked for form.
//!
//! What may be done follows the socket, never what a client says of itself, so nothing here is kept.

use super::proto::STRING_MAX;
use super::xdr::{Malformed, Reader};
use crate::engine::error::{Domain, Error, ErrorNumber};

/// The most that may be said at once.
const MOST: usize = 20;

/// What may be said of the one on whose behalf a client acts, and as which kind of value.
const FIELDS: [(&str, i32); 10] = [
    ("user-name", 7),
    ("unix-user-id", 4),
    ("group-name", 7),
    ("unix-group-id", 4),
    ("process-id", 3),
    ("process-time", 4),
    ("sasl-user-name", 7),
    ("x509-distinguished-name", 7),
    ("selinux-context", 7),
    ("system.token", 7),
];

/// The kinds of typed parameters, by number less one.
const KINDS: [&str; 7] = ["int", "uint", "llong", "ullong", "double", "boolean", "string"];

/// Reads the field and the kind of each parameter; the values are passed over.
pub fn read(from: &mut Reader) -> Result<Vec<(String, i32)>, Malformed> {
    let said = from.array(MOST, |from| {
        let field = from.string(STRING_MAX)?.to_owned();
        let kind = from.i32()?;
        match kind {
            1 | 2 | 6 => from.i32().map(drop)?,
            3..=5 => from.i64().map(drop)?,
            7 => from.string(STRING_MAX).map(drop)?,
            _ => return Err(Malformed),
        }
        Ok((field, kind))
    })?;
    from.u32()?; // flags, which libvirt does not look at either
    Ok(said)
}

/// Refuses an unknown field, or one of the wrong kind.
pub fn check(said: &[(String, i32)]) -> Result<(), Error> {
    said.iter().try_for_each(|(field, kind)| match FIELDS.iter().find(|(known, _)| known == field) {
        None => {
            let detail = format!("parameter '{field}' not supported");
            Err(Error::new(ErrorNumber::ArgumentUnsupported, Domain::None, detail))
        }
        Some((_, expected)) if expected != kind => {
            let [is, ought] = [kind, expected].map(|kind| KINDS[(kind - 1) as usize]);
            let detail = format!("invalid type '{is}' for parameter '{field}', expected '{ought}'");
            Err(Error::new(ErrorNumber::InvalidArgument, Domain::None, detail))
        }
        Some(_) => Ok(()),
    })
}
