//! The checksum guard of an interface that the command binds without the daemon.
//!
//! It is attached before the rules and taken away after them; a daemon that is started later takes it over. What the kernel lacks
//! is said, and the interface is bound without it.

use super::{Failure, Outcome, note};
use crate::kernel::checksum::{Guard, PIN, TcxHook};
use std::path::Path;

/// Has what the guest of an interface sends judged. Whether that is new.
pub(super) fn attach(dev: &str, index: u32, hook: TcxHook) -> Result<bool, Failure> {
    let guard = match Guard::open(Path::new(PIN)) {
        Ok(guard) => guard,
        Err(reason) => {
            note(&format!(
                "no checksum guard: the guest may have the kernel write a checksum into an address or a port after its frame \
                 was judged: {reason}"
            ));
            return Ok(false);
        }
    };
    let failed = |error| Failure::host(&format_args!("{dev}: the checksum guard"), &error);
    let is_new = !guard.is_attached(index, hook).map_err(failed)?;
    guard.attach(index, hook).map_err(failed)?;
    Ok(is_new)
}

/// Lets the guest of an interface alone, whose rules are gone.
pub(super) fn detach(index: u32) -> Outcome {
    let Ok(guard) = Guard::open(Path::new(PIN)) else { return Ok(()) };
    for hook in TcxHook::ALL {
        guard
            .detach(index, hook)
            .map_err(|error| Failure::host(&format_args!("the checksum guard of index {index}"), &error))?;
    }
    Ok(())
}
