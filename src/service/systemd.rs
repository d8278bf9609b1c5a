//! What is sent to systemd and what it hands over: states, the watchdog, and listening sockets.
//!
//! Without systemd all of it does nothing. A failed message is not an error of ours, so it is only logged.

#![allow(unsafe_code)]

use sd_notify::NotifyState;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::time::Duration;

/// The state the service manager should know of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State<'a> {
    /// Started or reloaded: all rules are in force and clients are answered.
    Ready,
    /// The configuration is being reloaded; [`State::Ready`] ends it.
    Reloading,
    /// About to end.
    Stopping,
    /// What it is doing, in one line.
    Status(&'a str),
    /// Still alive; see [`watchdog`].
    Alive,
}

/// Tells the service manager.
pub fn tell(state: State<'_>) {
    if let Err(e) = message(state).and_then(|message| sd_notify::notify(&message)) {
        tracing::debug!(?state, reason = %e, "service manager not notified");
    }
}

/// How often [`State::Alive`] must be sent: half of what the service manager waits for, if it waits.
pub fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|limit| limit / 2)
}

/// The listening sockets that systemd opened for this process, with the names of their units.
///
/// To be called once: a second call would own the same sockets again, so it answers with none.
pub fn sockets() -> io::Result<Vec<(OwnedFd, String)>> {
    static TAKEN: std::sync::Once = std::sync::Once::new();
    let mut sockets = Ok(Vec::new());
    TAKEN.call_once(|| {
        sockets = sd_notify::listen_fds_with_names().map(|listed| {
            // SAFETY: the service manager opened these descriptors for this process, as its number in LISTEN_PID
            // says, nothing else in it knows of them, and they are taken only once.
            listed.map(|(raw, name)| (unsafe { OwnedFd::from_raw_fd(raw) }, name)).collect()
        });
    });
    sockets
}

fn message(state: State<'_>) -> io::Result<Vec<NotifyState<'_>>> {
    Ok(match state {
        State::Ready => vec![NotifyState::Ready],
        State::Reloading => vec![NotifyState::Reloading, NotifyState::monotonic_usec_now()?],
        State::Stopping => vec![NotifyState::Stopping],
        // A line feed would begin another message.
        State::Status(line) => vec![NotifyState::Status(line.split('\n').next().unwrap_or_default())],
        State::Alive => vec![NotifyState::Watchdog],
    })
}
