//! Which interfaces the checksum guard is attached to: all that are bound, before they have their rules.
//!
//! Follows the difference of two states, so a change costs what it changes. What the kernel lacks is said once, at the start. There
//! all other interfaces are rid of the guard: of an earlier daemon that was killed on the way, or had another configuration.

use super::core::Core;
use super::{Failure, system};
use crate::engine::State;
use crate::kernel::apply::Refused;
use crate::kernel::checksum::{Guard, PIN, TcxHook};
use crate::ruleset::firewall::BoundInterface;
use crate::service::config::ChecksumGuard as Mode;
use imbl::ordmap::DiffItem;
use imbl::{OrdMap, OrdSet};
use std::io;
use std::path::Path;
use std::sync::Arc;
use tracing::{info, warn};

/// An interface, and where the guard sees what its guest sends.
type Attachment = (u32, TcxHook);

/// The guard of this kernel.
#[derive(Debug)]
pub(super) enum ChecksumGuard {
    /// Attached to all that is bound.
    On(Guard),
    /// Attached to nothing: as configured, or since the kernel has none. What is left of an earlier one is taken away at the start.
    Off(Option<Guard>),
}

/// Where the guard has to be, from one state to the next.
#[derive(Debug, Default)]
struct Difference {
    attach: OrdSet<Attachment>,
    detach: OrdSet<Attachment>,
}

impl ChecksumGuard {
    /// Loads the guard, while the process has the right to.
    pub(super) fn open(mode: Mode) -> Result<ChecksumGuard, Failure> {
        if mode == Mode::Off {
            return Ok(ChecksumGuard::Off(Guard::left(Path::new(PIN)).unwrap_or_default()));
        }
        let failed = match Guard::open(Path::new(PIN)) {
            Ok(guard) => return Ok(ChecksumGuard::On(guard)),
            Err(failed) => failed,
        };
        if mode == Mode::Require {
            return Err(Failure::System("checksum_guard = \"require\"", io::Error::other(failed)));
        }
        warn!(
            reason = failed,
            "no checksum guard: a guest may have the kernel write a checksum into an address or a port after its frame was judged"
        );
        Ok(ChecksumGuard::Off(None))
    }

    pub(super) fn attach(&self, index: u32, hook: TcxHook) -> io::Result<()> {
        match self {
            ChecksumGuard::On(guard) => guard.attach(index, hook),
            ChecksumGuard::Off(_) => Ok(()),
        }
    }

    pub(super) fn detach(&self, index: u32, hook: TcxHook) -> io::Result<()> {
        match self {
            ChecksumGuard::On(guard) | ChecksumGuard::Off(Some(guard)) => guard.detach(index, hook),
            ChecksumGuard::Off(None) => Ok(()),
        }
    }
}

impl Core {
    /// Attaches the guard to what a change binds.
    pub(super) fn guard(&self, next: &State) -> Result<(), Refused> {
        let difference = difference(self.state.firewall().members(), next.firewall().members());
        self.attach(&difference.attach)
    }

    /// A change is over: `from` is the state that is left, for the present one.
    pub(super) fn unguard(&self, from: &State) {
        let difference = difference(from.firewall().members(), self.state.firewall().members());
        self.detach(&difference.detach);
    }

    fn detach(&self, attachments: &OrdSet<Attachment>) {
        for (index, hook) in attachments {
            if let Err(error) = self.host.detach_guard(*index, *hook) {
                info!(index, reason = %error, "the checksum guard stays at an interface that is to have none");
            }
        }
    }

    /// Attaches the guard to all that is bound when the daemon starts.
    pub(super) fn guard_from_start(&self) -> Result<(), Failure> {
        let all = difference(&OrdMap::new(), self.state.firewall().members());
        self.attach(&all.attach).map_err(Failure::Refused)
    }

    /// Takes the guard away from all that is to have none, once all that is bound has its rules.
    pub(super) fn unguard_from_start(&self) -> Result<(), Failure> {
        let bound = difference(&OrdMap::new(), self.state.firewall().members()).attach;
        let attached = if self.host.has_guard() { bound } else { OrdSet::new() };
        let links = self.host.links().map_err(system("cannot list links"))?;
        let hooks = links.iter().flat_map(|link| TcxHook::ALL.map(|hook| (link.index, hook)));
        self.detach(&hooks.filter(|hook| !attached.contains(hook)).collect());
        Ok(())
    }

    fn attach(&self, attachments: &OrdSet<Attachment>) -> Result<(), Refused> {
        attachments.iter().try_for_each(|(index, hook)| match self.host.attach_guard(*index, *hook) {
            // Its end is on its way to us, and it carries no frames.
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(()),
            Err(error) => Err(Refused::unsent(
                "the checksum guard",
                format!("interface {index}: {error}; set checksum_guard = \"off\" to bind without it"),
            )),
            Ok(()) => Ok(()),
        })
    }
}

fn difference(old: &OrdMap<u32, Arc<BoundInterface>>, new: &OrdMap<u32, Arc<BoundInterface>>) -> Difference {
    let mut difference = Difference::default();
    for item in old.diff(new) {
        let (was, is) = match item {
            DiffItem::Add(_, member) => (None, Some(attachment(member))),
            DiffItem::Remove(_, member) => (Some(attachment(member)), None),
            DiffItem::Update { old: (_, old), new: (_, new) } => {
                (Some(attachment(old)), Some(attachment(new)))
            }
        };
        if was != is {
            difference.attach.extend(is);
            difference.detach.extend(was);
        }
    }
    difference
}

fn attachment(member: &Arc<BoundInterface>) -> Attachment {
    (member.index, TcxHook::of(member.place.orientation()))
}
