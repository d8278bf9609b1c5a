//! The system calls the daemon makes, as a seccomp filter for every thread of the process.
//!
//! The list covers an asynchronous runtime, threads, files in a directory, unix, netlink and packet sockets,
//! memory that is never executable, and the log. No call on it starts a program or a process.

use SeccompCmpOp::{Eq, MaskedEq};
use libc::c_long;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter_all_threads,
};
use std::collections::BTreeMap;

/// Conditions on the arguments of a call; it is let through if any list of them holds altogether.
type Rules = &'static [&'static [(u8, SeccompCmpOp, u64)]];

/// Calls let through whatever their arguments.
const FREE: &[c_long] = &[
    // Memory.
    libc::SYS_brk,
    libc::SYS_madvise,
    libc::SYS_mremap,
    libc::SYS_munmap,
    // Threads, signals and time.
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_gettimeofday,
    libc::SYS_membarrier,
    libc::SYS_nanosleep,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_sigaltstack,
    libc::SYS_tgkill,
    // What the process is and may use.
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getppid,
    libc::SYS_getrandom,
    libc::SYS_getrusage,
    libc::SYS_getuid,
    libc::SYS_sysinfo,
    libc::SYS_uname,
    // Waiting.
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
    libc::SYS_pipe2,
    libc::SYS_ppoll,
    // Files; landlock says which.
    libc::SYS_close,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fcntl,
    libc::SYS_fdatasync,
    libc::SYS_flock,
    libc::SYS_fstat,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_getcwd,
    libc::SYS_getdents64,
    libc::SYS_linkat,
    libc::SYS_lseek,
    // The journal takes long entries in a memory file.
    libc::SYS_memfd_create,
    libc::SYS_mkdirat,
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_read,
    libc::SYS_readlinkat,
    libc::SYS_readv,
    libc::SYS_renameat2,
    libc::SYS_statx,
    libc::SYS_umask,
    libc::SYS_unlinkat,
    libc::SYS_write,
    libc::SYS_writev,
    // Sockets; which kinds is said below.
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_bind,
    libc::SYS_connect,
    libc::SYS_getpeername,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_listen,
    libc::SYS_recvfrom,
    libc::SYS_recvmmsg,
    libc::SYS_recvmsg,
    libc::SYS_sendmmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    // Let through here and answered with ENOSYS by the other filter.
    libc::SYS_clone3,
];

/// The same under names that not every architecture has.
#[cfg(target_arch = "x86_64")]
const FREE_HERE: &[c_long] = &[
    libc::SYS_access,
    libc::SYS_chmod,
    libc::SYS_epoll_wait,
    libc::SYS_getdents,
    libc::SYS_link,
    libc::SYS_lstat,
    libc::SYS_mkdir,
    libc::SYS_open,
    libc::SYS_poll,
    libc::SYS_readlink,
    libc::SYS_rename,
    libc::SYS_renameat,
    libc::SYS_rmdir,
    libc::SYS_stat,
    libc::SYS_time,
    libc::SYS_unlink,
];
/// `renameat`, by which the C library renames there, and which the libc crate does not name.
#[cfg(target_arch = "aarch64")]
const FREE_HERE: &[c_long] = &[38];
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const FREE_HERE: &[c_long] = &[];

const NOT_EXECUTABLE: &[(u8, SeccompCmpOp, u64)] = &[(2, MaskedEq(libc::PROT_EXEC as u64), 0)];

/// Calls let through only with these arguments.
const BOUND: &[(c_long, Rules)] = &[
    (libc::SYS_mmap, &[NOT_EXECUTABLE]),
    (libc::SYS_mprotect, &[NOT_EXECUTABLE]),
    // Threads, but no processes.
    (libc::SYS_clone, &[&[(0, MaskedEq(libc::CLONE_THREAD as u64), libc::CLONE_THREAD as u64)]]),
    // Names of threads.
    (libc::SYS_prctl, &[&[(0, Eq, libc::PR_SET_NAME as u64)], &[(0, Eq, libc::PR_GET_NAME as u64)]]),
    // Limits of this process, which has no capability to raise them.
    (libc::SYS_prlimit64, &[&[(0, Eq, 0)]]),
    (
        libc::SYS_socket,
        &[
            &[(0, Eq, libc::AF_UNIX as u64)],
            &[(0, Eq, libc::AF_PACKET as u64)],
            &[(0, Eq, libc::AF_NETLINK as u64), (2, Eq, libc::NETLINK_ROUTE as u64)],
            &[(0, Eq, libc::AF_NETLINK as u64), (2, Eq, libc::NETLINK_NETFILTER as u64)],
        ],
    ),
    // The checksum guard's program is loaded before; it is attached, detached and looked for.
    (libc::SYS_bpf, &[&[(0, Eq, 8)], &[(0, Eq, 9)], &[(0, Eq, 16)]]),
    (libc::SYS_socketpair, &[&[(0, Eq, libc::AF_UNIX as u64)]]),
    (
        libc::SYS_ioctl,
        &[
            &[(1, Eq, libc::FIOCLEX)],
            &[(1, Eq, libc::FIONBIO)],
            &[(1, Eq, libc::FIONREAD)],
            &[(1, Eq, libc::TCGETS)],
            &[(1, Eq, libc::SIOCGIFINDEX)],
            &[(1, Eq, libc::SIOCGIFNAME)],
        ],
    ),
];

/// Installs the filters in every thread; the one that forbids to install another comes last.
pub fn restrict() -> Result<(), seccompiler::Error> {
    for filter in [unknown()?, listed()?] {
        apply_filter_all_threads(&filter)?;
    }
    Ok(())
}

/// Lets through what is listed; the rest is not permitted.
fn listed() -> Result<BpfProgram, BackendError> {
    let free = FREE.iter().chain(FREE_HERE).map(|call| Ok((*call, Vec::new())));
    let bound = BOUND
        .iter()
        .map(|(call, rules)| Ok((*call, rules.iter().map(|rule| read(rule)).collect::<Result<_, _>>()?)));
    let rules: BTreeMap<i64, Vec<SeccompRule>> = free.chain(bound).collect::<Result<_, BackendError>>()?;
    let refused = SeccompAction::Errno(libc::EPERM.cast_unsigned());
    SeccompFilter::new(rules, refused, SeccompAction::Allow, architecture()?)?.try_into()
}

/// `clone3` takes its flags in memory, where no filter sees them. As if this kernel were older, the C library
/// then uses `clone`.
fn unknown() -> Result<BpfProgram, BackendError> {
    let rules = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    let unknown = SeccompAction::Errno(libc::ENOSYS.cast_unsigned());
    SeccompFilter::new(rules, SeccompAction::Allow, unknown, architecture()?)?.try_into()
}

fn architecture() -> Result<TargetArch, BackendError> {
    std::env::consts::ARCH.try_into()
}

/// Compares the low halves: the kernel takes flags, families and requests as 32 bits.
fn read(rule: &[(u8, SeccompCmpOp, u64)]) -> Result<SeccompRule, BackendError> {
    let conditions = rule.iter().map(|(argument, operation, value)| {
        SeccompCondition::new(*argument, SeccompCmpArgLen::Dword, operation.clone(), *value)
    });
    SeccompRule::new(conditions.collect::<Result<_, _>>()?)
}
