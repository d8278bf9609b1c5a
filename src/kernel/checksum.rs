//! Keeps a guest from having the kernel rewrite a frame after the rules have judged it.
//!
//! A guest may hand over a frame with an unfinished checksum, and says where in the frame the kernel has to write it
//! (`csum_start` and `csum_offset` of the virtio-net header). The kernel writes when the frame leaves by a device
//! that does not finish checksums, behind the last netfilter hook, and asks only that the place lies in the
//! frame: the guest can so choose its source address or its port once they have been judged. nftables cannot
//! see the place. A small BPF program can: attached at the interface's own `tcx` hook, it drops a frame whose checksum
//! would be written anywhere but where it belongs. The hook for frames that come in, a tap's, is before every netfilter
//! hook. The one for frames that leave, a macvtap's, is behind netfilter's of the same interface and still before the
//! kernel writes. A frame has to pass the rules and the program, whichever comes first.
//!
//! A [`Guard`] holds the program and attaches it to interfaces. Attachments belong to the interface and stay when the
//! process ends. The module knows nothing of filters, and does not tell whose frames were dropped: the kernel counts them as
//! received and dropped by the interface.

mod call;
pub mod program;
pub mod skb;

use crate::guest::link::Orientation;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// The name of the program, as `bpftool prog` lists it.
const NAME: &str = "nwfilter_csum";

/// Where the program is kept if there is a BPF file system, so that the next process finds it.
pub const PIN: &str = "/sys/fs/bpf/nwfilter-checksum-1";

/// On which side of an interface its guest's frames are seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TcxHook {
    /// A tap or veth: the guest's frames come in by it.
    Ingress,
    /// A macvtap: they leave by it.
    Egress,
}

impl TcxHook {
    /// Both.
    pub const ALL: [TcxHook; 2] = [TcxHook::Ingress, TcxHook::Egress];

    /// The side of an interface, or of one that is turned: what the guest of a macvtap sends leaves by it.
    pub fn of(orientation: Orientation) -> TcxHook {
        match orientation {
            Orientation::Straight => TcxHook::Ingress,
            Orientation::Reversed => TcxHook::Egress,
        }
    }
}

/// The loaded program.
#[derive(Debug)]
pub struct Guard {
    program: OwnedFd,
    id: u32,
    /// What had its name before: the program of another version, which goes where this one comes.
    former: Option<OwnedFd>,
}

impl Guard {
    /// Loads the program, or takes the same one that an earlier process loaded: pinned at this path, where that is in a BPF file
    /// system, else any that the kernel has. What lies at the path and is another program is replaced.
    ///
    /// # Errors
    /// Why this kernel cannot: no description of its types, Linux before 6.6, no right (`CAP_BPF`, `CAP_PERFMON`, and without
    /// a BPF file system `CAP_SYS_ADMIN`).
    pub fn open(pin: &Path) -> Result<Guard, String> {
        let loaded = load()?;
        let Earlier { pinned, listed, former } = Earlier::find(&loaded, pin)?;
        let program = match (pinned, listed, is_in_bpf_fs(pin)) {
            (Some(pinned), ..) => pinned,
            (None, listed, true) => replace_pin(listed.unwrap_or(loaded), pin)?,
            (None, Some(listed), false) => listed,
            (None, None, false) if call::all().next().is_some() => loaded,
            (None, None, false) => {
                return Err("programs cannot be listed, and there is no BPF file system".into());
            }
        };
        Guard::of(program, former)
    }

    /// What earlier processes loaded, if anything is there, to be taken away. Leaves nothing new behind.
    ///
    /// # Errors
    /// As of [`Guard::open`].
    pub fn left(pin: &Path) -> Result<Option<Guard>, String> {
        let Earlier { pinned, listed, former } = Earlier::find(&load()?, pin)?;
        match (pinned.or(listed), former) {
            (Some(program), former) => Guard::of(program, former).map(Some),
            (None, former) => former.map(|former| Guard::of(former, None)).transpose(),
        }
    }

    fn of(program: OwnedFd, former: Option<OwnedFd>) -> Result<Guard, String> {
        let id = call::info(program.as_fd()).map_err(|error| error.to_string())?.id;
        Ok(Guard { program, id, former })
    }

    /// Has the program judge what the guest of an interface sends, and it alone. It changes nothing where it does so already.
    ///
    /// # Errors
    /// As of `bpf(2)`: ENODEV where the interface is gone, EINVAL before Linux 6.6.
    pub fn attach(&self, index: u32, hook: TcxHook) -> io::Result<()> {
        if !self.is_attached(index, hook)? {
            call::attach(self.program.as_fd(), index, hook)?;
        }
        self.former.iter().try_for_each(|former| detach(former, index, hook))
    }

    /// Takes the program away from an interface, where it is there, and what had its name before.
    ///
    /// # Errors
    /// As of `bpf(2)`. An interface that is gone has no programs, and is no error.
    pub fn detach(&self, index: u32, hook: TcxHook) -> io::Result<()> {
        self.former.iter().chain([&self.program]).try_for_each(|program| detach(program, index, hook))
    }

    /// Whether the program judges what the guest of an interface sends.
    ///
    /// # Errors
    /// As of `bpf(2)`.
    pub fn is_attached(&self, index: u32, hook: TcxHook) -> io::Result<bool> {
        Ok(call::programs(index, hook)?.contains(&self.id))
    }
}

/// What `statfs` calls a BPF file system.
const BPF_FS: u64 = 0xcafe_4a11;

fn is_in_bpf_fs(pin: &Path) -> bool {
    let directory = pin.parent().unwrap_or(pin);
    rustix::fs::statfs(directory).is_ok_and(|found| found.f_type as u64 == BPF_FS)
}

/// The programs that earlier processes left.
struct Earlier {
    /// The same program as ours, at the path.
    pinned: Option<OwnedFd>,
    /// The same elsewhere, where none is at the path: the oldest, since its kind is attached already.
    listed: Option<OwnedFd>,
    /// What is at the path instead.
    former: Option<OwnedFd>,
}

impl Earlier {
    fn find(loaded: &OwnedFd, pin: &Path) -> Result<Earlier, String> {
        let loaded = call::info(loaded.as_fd()).map_err(|error| error.to_string())?;
        let is_same = |program: &OwnedFd| {
            call::info(program.as_fd())
                .is_ok_and(|info| info.content == loaded.content && info.id != loaded.id)
        };
        let at_path = if is_in_bpf_fs(pin) { call::pinned(pin).ok() } else { None };
        Ok(match at_path {
            Some(pinned) if is_same(&pinned) => Earlier { pinned: Some(pinned), listed: None, former: None },
            former => Earlier { pinned: None, listed: call::all().find(is_same), former },
        })
    }
}

/// Takes a program away from an interface. What is no program is attached nowhere.
fn detach(program: &OwnedFd, index: u32, hook: TcxHook) -> io::Result<()> {
    match call::detach(program.as_fd(), index, hook) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ENOENT | libc::EINVAL)) => {
            Ok(())
        }
        outcome => outcome,
    }
}

fn load() -> Result<OwnedFd, String> {
    let described = skb::read(Path::new(skb::DESCRIPTION))?;
    let code = program::program(&described.offsets, described.cast);
    call::load(NAME, &code).map_err(|error| format!("the kernel refuses the program: {error}"))
}

fn replace_pin(program: OwnedFd, pin: &Path) -> Result<OwnedFd, String> {
    let said = |error: io::Error| format!("{}: {error}", pin.display());
    match std::fs::remove_file(pin) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(said(error)),
        _ => call::pin(program.as_fd(), pin).map_err(said)?,
    }
    Ok(program)
}
