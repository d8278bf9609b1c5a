//! Keeps a guest from having the kernel rewrite a frame after the rules have judged it.
//!
//! A guest may hand over a frame with an unfinished checksum, and says where in the frame the kernel has to write it
//! (`csum_start` and `csum_offset` of the virtio-net header). The kernel writes when the frame leaves by a device
//! that does not finish checksums, behind the last netfilter hook, and asks only that the place lies in the
//! frame: the guest can so choose its source address or its port once they have been judged. nftables cannot
//! see the place. A small BPF program can: attached at the interface's own `tcx` hook, which comes before every
//! netfilter hook, it drops a frame whose checksum would be written anywhere but where it belongs.
//!
//! A [`Guard`] holds the program and attaches it to interfaces. Attachments belong to the interface and stay when the
//! process ends. The module knows nothing of filters, and does not tell whose frames were dropped: the kernel counts them as
//! received and dropped by the interface.

mod call;
pub mod program;
pub mod skb;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// The name of the program, as `bpftool prog` lists it.
const NAME: &str = "nwfilter_csum";

/// Where the program is kept, so that the next process finds it.
pub const PIN: &str = "/sys/fs/bpf/nwfilter-checksum-1";

/// On which side of an interface its guest's frames are seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TcxHook {
    /// A tap or veth: the guest's frames come in by it.
    Ingress,
    /// A macvtap: they leave by it.
    Egress,
}

/// The loaded program.
#[derive(Debug)]
pub struct Guard {
    program: OwnedFd,
    id: u32,
}

impl Guard {
    /// Loads the program, or takes the one that an earlier process pinned at this path of a BPF file system.
    ///
    /// # Errors
    /// Why this kernel cannot: no description of its types, Linux before 6.6, no right (`CAP_BPF`, `CAP_PERFMON`), no BPF
    /// file system at the path.
    pub fn open(pin: &Path) -> Result<Guard, String> {
        let program = match call::pinned(pin) {
            Ok(program) => program,
            Err(_) => load_and_pin(pin)?,
        };
        let id = call::id(program.as_fd()).map_err(|error| error.to_string())?;
        Ok(Guard { program, id })
    }

    /// Has the program judge what the guest of an interface sends. It changes nothing where it does so already.
    ///
    /// # Errors
    /// As of `bpf(2)`: ENODEV where the interface is gone, EINVAL before Linux 6.6.
    pub fn attach(&self, index: u32, hook: TcxHook) -> io::Result<()> {
        if self.is_attached(index, hook)? {
            return Ok(());
        }
        call::attach(self.program.as_fd(), index, hook)
    }

    /// Takes the program away from an interface, where it is there.
    ///
    /// # Errors
    /// As of `bpf(2)`. An interface that is gone has no programs, and is no error.
    pub fn detach(&self, index: u32, hook: TcxHook) -> io::Result<()> {
        match call::detach(self.program.as_fd(), index, hook) {
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ENOENT)) => Ok(()),
            outcome => outcome,
        }
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

fn load_and_pin(pin: &Path) -> Result<OwnedFd, String> {
    let directory = pin.parent().unwrap_or(pin);
    if !rustix::fs::statfs(directory).is_ok_and(|found| found.f_type as u64 == BPF_FS) {
        return Err(format!("{} is no BPF file system", directory.display()));
    }
    let described = skb::read(Path::new(skb::DESCRIPTION))?;
    let code = program::program(&described.offsets, described.cast);
    let program =
        call::load(NAME, &code).map_err(|error| format!("the kernel refuses the program: {error}"))?;
    call::pin(program.as_fd(), pin).map_err(|error| format!("{}: {error}", pin.display()))?;
    Ok(program)
}
