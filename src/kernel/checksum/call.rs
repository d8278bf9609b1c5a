//! The system call `bpf`, as far as the guard needs it.
//!
//! Each function is one command; arguments are checked by the kernel, which answers with an error number. Descriptors
//! are owned, and the kernel copies what it is given, so no memory is shared beyond a call.
#![allow(unsafe_code, reason = "the system call bpf, which has no safe wrapper")]

use super::TcxHook;
use super::program::Instruction;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

const PROG_LOAD: i32 = 5;
const OBJ_PIN: i32 = 6;
const OBJ_GET: i32 = 7;
const PROG_ATTACH: i32 = 8;
const PROG_DETACH: i32 = 9;
const PROG_GET_NEXT_ID: i32 = 11;
const PROG_GET_FD_BY_ID: i32 = 13;
const OBJ_GET_INFO_BY_FD: i32 = 15;
const PROG_QUERY: i32 = 16;
const SCHED_CLS: u32 = 3;
const TCX_INGRESS: u32 = 46;
const TCX_EGRESS: u32 = 47;
/// Before the programs of others.
const BEFORE: u32 = 1 << 3;
/// Programs that the kernel lets be attached in one place.
const MOST_PROGRAMS: usize = 64;
/// Bytes of the verifier's answer.
const LOG: usize = 1 << 16;

/// The argument of `bpf(2)`: the largest member of the kernel's union, zero where a command has no field.
#[repr(C, align(8))]
struct Argument([u8; 144]);

impl Argument {
    fn new() -> Argument {
        Argument([0; 144])
    }

    fn number(mut self, at: usize, value: u32) -> Argument {
        self.0[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        self
    }

    fn address<T>(mut self, at: usize, value: *const T) -> Argument {
        self.0[at..at + 8].copy_from_slice(&(value as u64).to_ne_bytes());
        self
    }

    fn get(&self, at: usize) -> u32 {
        u32::from_ne_bytes(std::array::from_fn(|byte| self.0[at + byte]))
    }

    fn call(&mut self, command: i32) -> io::Result<i32> {
        // SAFETY: the argument is as long as is said, and every address in it leads to memory that outlives the call.
        let answer = unsafe { libc::syscall(libc::SYS_bpf, command, self.0.as_mut_ptr(), self.0.len()) };
        if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer as i32) }
    }

    fn open(&mut self, command: i32) -> io::Result<OwnedFd> {
        let descriptor = self.call(command)?;
        // SAFETY: the command answers with a new descriptor that nothing else owns.
        Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
    }
}

/// Loads a program. An error carries the last words of the kernel's verifier.
pub(super) fn load(name: &str, code: &[Instruction]) -> io::Result<OwnedFd> {
    let mut log = vec![0u8; LOG];
    let mut argument = Argument::new()
        .number(0, SCHED_CLS)
        .number(4, code.len() as u32)
        .address(8, code.as_ptr())
        .address(16, c"GPL".as_ptr())
        .number(24, 1)
        .number(28, LOG as u32)
        .address(32, log.as_mut_ptr());
    argument.0[48..48 + name.len()].copy_from_slice(name.as_bytes());
    argument.open(PROG_LOAD).map_err(|error| {
        let text = String::from_utf8_lossy(&log);
        let last = text.trim_end_matches('\0').lines().rev().nth(1).unwrap_or_default().to_owned();
        if last.is_empty() { error } else { io::Error::new(error.kind(), format!("{error}: {last}")) }
    })
}

/// Gives an object a name in the BPF file system, under which it outlives this process.
pub(super) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    Argument::new().address(0, path.as_ptr()).number(8, object.as_raw_fd() as u32).call(OBJ_PIN).map(drop)
}

/// The object of this name.
pub(super) fn pinned(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    Argument::new().address(0, path.as_ptr()).open(OBJ_GET)
}

/// What the kernel says of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Info {
    /// Its number.
    pub id: u32,
    /// Its type and the digest of its instructions: two programs that have the same do the same.
    pub content: ([u8; 4], [u8; 8]),
}

/// What the kernel says of a program. Another kind of object is EINVAL, or has another content.
pub(super) fn info(program: BorrowedFd<'_>) -> io::Result<Info> {
    let mut info = [0u8; 256];
    let mut argument = Argument::new()
        .number(0, program.as_raw_fd() as u32)
        .number(4, info.len() as u32)
        .address(8, info.as_mut_ptr());
    argument.call(OBJ_GET_INFO_BY_FD)?;
    let id = u32::from_ne_bytes(std::array::from_fn(|byte| info[4 + byte]));
    let (kind, digest) = (std::array::from_fn(|byte| info[byte]), std::array::from_fn(|byte| info[8 + byte]));
    Ok(Info { id, content: (kind, digest) })
}

/// All programs of the kernel that may be looked at (which takes `CAP_SYS_ADMIN`), the oldest first.
pub(super) fn all() -> impl Iterator<Item = OwnedFd> {
    let mut last = 0;
    let ids = std::iter::from_fn(move || {
        let mut argument = Argument::new().number(0, last);
        argument.call(PROG_GET_NEXT_ID).ok()?;
        last = argument.get(4);
        Some(last)
    });
    // One may end while they are listed.
    ids.filter_map(|id| Argument::new().number(0, id).open(PROG_GET_FD_BY_ID).ok())
}

/// Puts a program before all others of an interface.
pub(super) fn attach(program: BorrowedFd<'_>, index: u32, hook: TcxHook) -> io::Result<()> {
    placed(program, index, hook).number(12, BEFORE).call(PROG_ATTACH).map(drop)
}

/// Takes it away.
pub(super) fn detach(program: BorrowedFd<'_>, index: u32, hook: TcxHook) -> io::Result<()> {
    placed(program, index, hook).call(PROG_DETACH).map(drop)
}

/// The numbers of the programs of an interface, in their order.
pub(super) fn programs(index: u32, hook: TcxHook) -> io::Result<Vec<u32>> {
    let mut ids = [0u32; MOST_PROGRAMS];
    let mut argument = Argument::new()
        .number(0, index)
        .number(4, attach_type(hook))
        .address(16, ids.as_mut_ptr())
        .number(24, MOST_PROGRAMS as u32);
    argument.call(PROG_QUERY)?;
    let count = argument.get(24) as usize;
    Ok(ids[..count.min(MOST_PROGRAMS)].to_vec())
}

fn placed(program: BorrowedFd<'_>, index: u32, hook: TcxHook) -> Argument {
    Argument::new().number(0, index).number(4, program.as_raw_fd() as u32).number(8, attach_type(hook))
}

fn attach_type(hook: TcxHook) -> u32 {
    match hook {
        TcxHook::Ingress => TCX_INGRESS,
        TcxHook::Egress => TCX_EGRESS,
    }
}
