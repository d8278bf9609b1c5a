//! Gives up, for the rest of the process's life, every right that the daemon does not need.
//!
//! Four layers, in this order: capabilities, no new privileges, landlock (files, TCP, signals), seccomp (system
//! calls). The first and the third bind only the calling thread and those it starts later, so this is called
//! on the main thread before any other is started, with sockets bound and files opened that need more. A layer
//! that the kernel does not have is missing from the report and hinders none of the others.

#![allow(unsafe_code)]

mod calls;

use caps::{CapSet, Capability};
use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};
use std::fmt;
use std::path::Path;

/// What is left to the process. A file that is replaced by a rename is another file: name its directory.
#[derive(Clone, Copy, Debug)]
pub struct Bounds<'a> {
    /// Files and directories it may read.
    pub read: &'a [&'a Path],
    /// Directories in which it may also make, change and remove files.
    pub write: &'a [&'a Path],
}

/// How far each layer holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Nothing but CAP_NET_ADMIN and CAP_NET_RAW.
    pub capabilities: Outcome,
    /// No execution gains a right.
    pub no_new_privileges: Outcome,
    /// Only the files of the [`Bounds`]; no TCP; no signal to others.
    pub landlock: Outcome,
    /// Only the system calls the daemon makes.
    pub seccomp: Outcome,
}

/// How far a layer holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It holds.
    Full,
    /// It holds, but for this.
    Partial(String),
    /// It does not hold, for this reason.
    Missing(String),
}

/// What the daemon works with: netlink and device configuration, and packet sockets.
pub const KEPT: [Capability; 2] = [Capability::CAP_NET_ADMIN, Capability::CAP_NET_RAW];

/// Raises all four layers. Warns in the log of every one that does not hold fully.
pub fn confine(bounds: &Bounds<'_>) -> Report {
    let older = older_threads();
    let alone = |outcome| match older {
        Some(0) => outcome,
        Some(older) => partly(outcome, &format!("{older} older threads are not bound")),
        None => partly(outcome, "older threads, if there are any, are not bound"),
    };
    let report = Report {
        capabilities: alone(drop_capabilities()),
        no_new_privileges: forbid_new_privileges(),
        landlock: alone(restrict_files(bounds)),
        seccomp: restrict_calls(),
    };
    for (layer, outcome) in report.layers() {
        if *outcome != Outcome::Full {
            tracing::warn!(layer, %outcome, "the daemon is not fully confined");
        }
    }
    report
}

impl Report {
    /// The layers by name.
    pub fn layers(&self) -> [(&'static str, &Outcome); 4] {
        [
            ("capabilities", &self.capabilities),
            ("no new privileges", &self.no_new_privileges),
            ("landlock", &self.landlock),
            ("seccomp", &self.seccomp),
        ]
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Full => f.write_str("in force"),
            Outcome::Partial(but) => write!(f, "in force, but {but}"),
            Outcome::Missing(why) => write!(f, "missing: {why}"),
        }
    }
}

/// Keeps CAP_NET_ADMIN and CAP_NET_RAW, as far as they are there, in this thread and out of reach of any program
/// that could be executed.
pub fn drop_capabilities() -> Outcome {
    outcome(try_drop_capabilities())
}

/// Sets `no_new_privs`.
pub fn forbid_new_privileges() -> Outcome {
    // SAFETY: this prctl takes numbers and touches no memory.
    match unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } {
        0 => Outcome::Full,
        _ => Outcome::Missing(std::io::Error::last_os_error().to_string()),
    }
}

/// Lets this thread open what is within the bounds and nothing else, use no TCP and signal no other process.
pub fn restrict_files(bounds: &Bounds<'_>) -> Outcome {
    let mut absent = Vec::new();
    let status = try_restrict_files(bounds, &mut absent);
    let outcome = match status {
        Err(e) => Outcome::Missing(e.to_string()),
        Ok(RulesetStatus::FullyEnforced) => Outcome::Full,
        Ok(RulesetStatus::PartiallyEnforced) => Outcome::Partial("this kernel's landlock knows less".into()),
        Ok(RulesetStatus::NotEnforced) => Outcome::Missing("this kernel has no landlock".into()),
    };
    absent.iter().fold(outcome, |outcome, path| partly(outcome, &format!("{path} is not there")))
}

/// Lets every thread make only the system calls listed in this module. Any other fails with EPERM and the process
/// lives on: a firewall that ends because it tried something odd would leave new guests waiting.
pub fn restrict_calls() -> Outcome {
    outcome(calls::restrict())
}

fn outcome(done: Result<(), impl fmt::Display>) -> Outcome {
    done.map_or_else(|e| Outcome::Missing(e.to_string()), |()| Outcome::Full)
}

fn partly(outcome: Outcome, but: &str) -> Outcome {
    match outcome {
        Outcome::Full => Outcome::Partial(but.to_owned()),
        Outcome::Partial(earlier) => Outcome::Partial(format!("{earlier}; {but}")),
        missing => missing,
    }
}

/// Threads of this process beside this one.
fn older_threads() -> Option<usize> {
    std::fs::read_dir("/proc/self/task").ok()?.count().checked_sub(1)
}

/// The bounding set goes first, while there is a capability to change it. Where there is none, the other sets go nevertheless.
fn try_drop_capabilities() -> Result<(), caps::errors::CapsError> {
    let bounding = try_drop_bounding();
    if caps::runtime::ambient_set_supported().is_ok() {
        caps::clear(None, CapSet::Ambient)?;
    }
    caps::clear(None, CapSet::Inheritable)?;
    for set in [CapSet::Effective, CapSet::Permitted] {
        let kept = caps::read(None, set)?.into_iter().filter(|c| KEPT.contains(c)).collect();
        caps::set(None, set, &kept)?;
    }
    bounding
}

fn try_drop_bounding() -> Result<(), caps::errors::CapsError> {
    let mut excess = caps::read(None, CapSet::Bounding)?.into_iter().filter(|c| !KEPT.contains(c));
    excess.try_for_each(|capability| caps::drop(None, CapSet::Bounding, capability))
}

fn try_restrict_files(bounds: &Bounds<'_>, absent: &mut Vec<String>) -> Result<RulesetStatus, RulesetError> {
    // Version 9 could also forbid to connect to sockets by path, which systemd and the journal need.
    let version = ABI::V6;
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let write = AccessFs::from_write(version)
        & !(AccessFs::MakeChar | AccessFs::MakeBlock | AccessFs::MakeFifo | AccessFs::MakeSym)
        & !(AccessFs::IoctlDev | AccessFs::Refer);
    let mut ruleset = Ruleset::default()
        .handle_access(AccessFs::from_all(version))?
        .handle_access(AccessNet::from_all(version))?
        .scope(Scope::Signal)?
        .create()?;
    for (paths, access) in [(bounds.read, read), (bounds.write, read | write)] {
        for path in paths {
            match PathFd::new(path) {
                Ok(open) => ruleset = ruleset.add_rule(PathBeneath::new(open, fitting(path, access)))?,
                Err(_) => absent.push(path.display().to_string()),
            }
        }
    }
    Ok(ruleset.restrict_self()?.ruleset)
}

/// The rights that make sense for this path: those that concern directories cannot be given on a file.
fn fitting(path: &Path, access: BitFlags<AccessFs>) -> BitFlags<AccessFs> {
    if path.is_dir() { access } else { access & AccessFs::from_file(ABI::V6) }
}
