//! An error ⇄ its bytes in libvirt's layout (`virNetMessageError`).

use super::xdr::{Malformed, Reader, Writer};
use crate::engine::error::{Domain, Error, ErrorNumber};

/// All errors of this daemon are of libvirt's level "error" (1 would be a warning).
const LEVEL: i32 = 2;

/// The longest text sent; a client refuses strings over 4 MiB, and no reader wants that much.
const TEXT_MAX: usize = 64 * 1024;

/// Appends the error in libvirt's layout. Texts beyond 64 KiB are cut.
pub fn write(error: &Error, to: &mut Writer) {
    to.i32(error.code as i32).i32(error.domain as i32);
    to.option(Some(error.message.as_str()), sendable).i32(LEVEL);
    to.bool(false); // the domain object an error is about
    to.option(error.str1.as_deref(), sendable).option(error.str2.as_deref(), sendable).bool(false);
    to.i32(error.int1).i32(error.int2);
    to.bool(false); // the network object an error is about
}

/// Reads what [`write`] wrote. Codes and domains unknown here become internal errors of no domain.
pub fn read(from: &mut Reader) -> Result<Error, Malformed> {
    let text = |from: &mut Reader| from.string(super::proto::STRING_MAX).map(str::to_owned);
    let code = ErrorNumber::from_number(from.i32()?).unwrap_or(ErrorNumber::InternalError);
    let domain = Domain::from_number(from.i32()?).unwrap_or(Domain::None);
    let message = from.option(text)?.unwrap_or_default();
    from.i32()?;
    from.option(|from| object(from).and_then(|()| from.i32()))?;
    let (str1, str2) = (from.option(text)?, from.option(text)?);
    from.option(text)?;
    let (int1, int2) = (from.i32()?, from.i32()?);
    from.option(object)?;
    Ok(Error { code, domain, message, str1, str2, int1, int2, faults: Vec::new() })
}

/// Name and UUID of the virtual machine or the network an error may be about: never sent by this daemon.
fn object(from: &mut Reader) -> Result<(), Malformed> {
    from.string(super::proto::STRING_MAX)?;
    from.fixed::<16>().map(drop)
}

fn sendable<'a>(to: &'a mut Writer, text: &str) -> &'a mut Writer {
    to.string(cut(text, TEXT_MAX))
}

/// As much of a text as is sent: C clients end at a NUL.
pub(super) fn cut(text: &str, most: usize) -> &str {
    let whole = text.split('\0').next().unwrap_or_default();
    let at = (0..=whole.len().min(most)).rev().find(|at| whole.is_char_boundary(*at));
    &whole[..at.unwrap_or(0)]
}
