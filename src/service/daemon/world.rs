//! What the [core](super::core) asks of the machine beyond its disk, so that a simulated machine can stand for one.

use super::captures::Captures;
use super::checksum_guard::ChecksumGuard;
use super::start;
use crate::guest::link::Link;
use crate::guest::observation::CaptureSpec;
use crate::kernel::apply::{Applied, Kernel, Refused, Retire, has_ipset};
use crate::kernel::checksum::TcxHook;
use crate::kernel::links;
use crate::program::ir::observed::Observed;
use crate::ruleset::nft::probe::Features;
use crate::ruleset::plan::Plan;
use std::collections::BTreeMap;
use std::io;
use std::time::Duration;
use tokio::sync::oneshot;

/// Our tables in a kernel.
pub(super) trait Netfilter {
    /// What the kernel can do.
    fn features(&self) -> Features;
    /// Puts a plan in force; the outcome can be awaited.
    fn submit(&self, plan: Plan, retire: Retire) -> oneshot::Receiver<Result<Applied, Refused>>;
    /// Reads the tables; the outcome can be awaited.
    fn submit_observe(&self) -> oneshot::Receiver<io::Result<Observed>>;
}

/// The rest of a host.
pub(super) trait Host {
    /// Since the Unix epoch.
    fn time(&self) -> Duration;
    /// All links.
    fn links(&self) -> io::Result<Vec<Link>>;
    /// Takes a link down.
    fn set_down(&self, index: u32) -> io::Result<()>;
    /// The own name of a link for which this is another.
    fn named_otherwise(&self, name: &str) -> Option<String>;
    /// Whether there is an ipset of this name.
    fn has_ipset(&self, name: &str) -> bool;
    /// Whether the checksum guard is attached to what is bound.
    fn has_guard(&self) -> bool;
    /// Attaches it, if so.
    fn attach_guard(&self, index: u32, hook: TcxHook) -> io::Result<()>;
    /// Detaches it.
    fn detach_guard(&self, index: u32, hook: TcxHook) -> io::Result<()>;
    /// Ends the captures that are not among these.
    fn close_captures(&mut self, wanted: &BTreeMap<u32, CaptureSpec>);
    /// Begins those of these that are missing.
    fn open_captures(&mut self, wanted: &BTreeMap<u32, CaptureSpec>);
}

impl Netfilter for Kernel {
    fn features(&self) -> Features {
        Kernel::features(self)
    }

    fn submit(&self, plan: Plan, retire: Retire) -> oneshot::Receiver<Result<Applied, Refused>> {
        Kernel::submit(self, plan, retire)
    }

    fn submit_observe(&self) -> oneshot::Receiver<io::Result<Observed>> {
        Kernel::submit_observe(self)
    }
}

/// The host that the daemon runs on.
pub(super) struct ThisHost {
    pub(super) checksum_guard: ChecksumGuard,
    pub(super) captures: Captures,
}

impl Host for ThisHost {
    fn time(&self) -> Duration {
        start::time()
    }

    fn links(&self) -> io::Result<Vec<Link>> {
        links::snapshot()
    }

    fn set_down(&self, index: u32) -> io::Result<()> {
        links::set_down(index)
    }

    fn named_otherwise(&self, name: &str) -> Option<String> {
        links::named_otherwise(name)
    }

    fn has_ipset(&self, name: &str) -> bool {
        has_ipset(name)
    }

    fn has_guard(&self) -> bool {
        matches!(self.checksum_guard, ChecksumGuard::On(_))
    }

    fn attach_guard(&self, index: u32, hook: TcxHook) -> io::Result<()> {
        self.checksum_guard.attach(index, hook)
    }

    fn detach_guard(&self, index: u32, hook: TcxHook) -> io::Result<()> {
        self.checksum_guard.detach(index, hook)
    }

    fn close_captures(&mut self, wanted: &BTreeMap<u32, CaptureSpec>) {
        self.captures.close(wanted);
    }

    fn open_captures(&mut self, wanted: &BTreeMap<u32, CaptureSpec>) {
        self.captures.open(wanted);
    }
}
