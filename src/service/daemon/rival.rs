//! Whether libvirt's own nwfilter driver runs beside this daemon: in a monolithic `libvirtd`, or in `virtnwfilterd`.
//!
//! The driver holds a lock on a file of its own for as long as it runs, and the kernel says which process holds it. Nothing
//! is executed, and a file that a dead process left behind is no sign of it.

use rustix::process::{Flock, FlockType, fcntl_getlk};
use std::fs;
use std::path::Path;
use tracing::warn;

/// The driver's lock, below libvirt's runtime directory.
const DRIVER: &str = "nwfilter/driver.pid";

/// Who runs libvirt's driver.
#[derive(Debug, PartialEq, Eq)]
struct Rival {
    process: i32,
    /// The name of its program, if this process may see it.
    program: Option<String>,
}

/// Warns of a driver that runs.
pub(super) fn warn_of_driver(runtime: &Path) {
    let Some(Rival { process, program }) = find(runtime) else { return };
    warn!(
        process,
        program = program.as_deref().unwrap_or("unknown"),
        "libvirt's own nwfilter driver runs: it filters the guests that its libvirtd starts, and does not use this daemon; \
         filters that are defined at qemu:///system are its own, those at nwfilter:///system are this daemon's; README.md \
         says under \"Which libvirt\" what to do"
    );
}

fn find(runtime: &Path) -> Option<Rival> {
    let file = crate::document::regular::open(&runtime.join(DRIVER)).ok()?;
    let holder = fcntl_getlk(&file, &Flock::from(FlockType::ReadLock)).ok()??;
    let process = holder.pid?.as_raw_nonzero().get();
    let program = fs::read_to_string(format!("/proc/{process}/comm")).ok();
    Some(Rival { process, program: program.map(|name| name.trim_end().to_owned()) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    /// The process that holds the lock; alone it has nothing to do.
    #[test]
    fn holds_the_drivers_lock() {
        let Some(path) = std::env::var_os("NWFILTER_TEST_LOCK") else { return };
        let file = File::options().write(true).open(path).unwrap();
        rustix::fs::fcntl_lock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).unwrap();
        println!("\nheld");
        std::thread::sleep(std::time::Duration::from_secs(600));
    }

    #[test]
    fn only_a_driver_that_runs_is_found() {
        let runtime = tempfile::tempdir().unwrap();
        assert_eq!(find(runtime.path()), None, "there is no file");
        let path = runtime.path().join(DRIVER);
        fs::create_dir(path.parent().unwrap()).unwrap();
        fs::write(&path, "1\n").unwrap();
        assert_eq!(find(runtime.path()), None, "no process holds it");
        let test = std::thread::current()
            .name()
            .unwrap()
            .replace("only_a_driver_that_runs_is_found", "holds_the_drivers_lock");
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &test, "--nocapture"])
            .env("NWFILTER_TEST_LOCK", &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap() == "held"));
        let found = find(runtime.path()).expect("it is held");
        assert_eq!(found.process, i32::try_from(child.id()).unwrap());
        let program = fs::read_to_string(format!("/proc/{}/comm", child.id())).unwrap();
        assert_eq!(found.program.as_deref(), Some(program.trim_end()));
        child.kill().unwrap();
        #[allow(clippy::disallowed_methods)] // It has been killed.
        child.wait().unwrap();
        assert_eq!(find(runtime.path()), None, "its holder has ended");
    }
}
