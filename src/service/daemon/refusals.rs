//! Calls that were refused, in the log: a few lines a second, and how many more there were.

use crate::document::diag::abridged;
use crate::engine::error::Error;
use crate::service::logging::Quota;
use crate::service::rpc::Call;
use crate::service::rpc::session::Access;
use std::time::{Duration, Instant};
use tracing::info;

/// Lines a second.
const LINES: u32 = 5;

/// Bytes of a reason.
const REASON: usize = 500;

/// What was logged of clients with either right, so that readers cannot hide what others were refused.
pub(super) struct Refusals {
    full: Quota,
    read_only: Quota,
}

impl Default for Refusals {
    fn default() -> Refusals {
        let quota = || Quota::new(LINES, Duration::from_secs(1));
        Refusals { full: quota(), read_only: quota() }
    }
}

impl Refusals {
    pub(super) fn tell(&mut self, call: &Call, refused: &Error) {
        let (request, access) = (call.request.name(), call.access);
        let quota = match access {
            Access::Full => &mut self.full,
            Access::ReadOnly => &mut self.read_only,
        };
        let reason = abridged(&refused.message, REASON);
        match quota.ask(Instant::now()) {
            Some(0) => info!(request, %reason, "refused"),
            Some(left_out) => info!(request, %reason, left_out, "refused"),
            None => {}
        }
    }

    /// When it is time to log how many were not logged.
    pub(super) fn due(&self) -> Option<Instant> {
        [&self.full, &self.read_only].into_iter().filter_map(Quota::due).min()
    }

    pub(super) fn tell_left_out(&mut self) {
        for quota in [&mut self.full, &mut self.read_only] {
            if quota.due().is_some_and(|due| due <= Instant::now()) {
                info!(calls = quota.take(), "refused as well");
            }
        }
    }
}
