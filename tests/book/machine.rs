//! A machine for the commands of one page: the network namespace of the calling thread, and directories of its own in the
//! places of /etc, /run and /var/lib. So commands are run as they are printed, and the host keeps none of it.
//!
//! There is no systemd in it: `systemctl` starts and stops `nwfilterd` itself, and `journalctl` prints its log.

use super::tool::{InTime, end, with_usual_signals};
use std::fs::{self, File};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Lays directories of this machine over those of the host. What the host has of nwfilter's is not in this machine.
const MOUNTS: &str = r#"
set -e
mount -t tmpfs tmpfs /run
for place in etc var/lib; do
    mkdir -p "/run/page/$place/upper" "/run/page/$place/work"
    mount -t overlay -o "lowerdir=/$place,upperdir=/run/page/$place/upper,workdir=/run/page/$place/work" overlay "/$place"
done
rm -rf /etc/libvirt /etc/nwfilter /var/lib/nwfilter
mkdir -p /etc/libvirt/nwfilter /etc/nwfilter /run/libvirt /run/page/home
"#;

/// What there is no systemd for.
const SHELL: &str = r#"journalctl() { cat "$LOG"; }
"#;

/// What commands are run in, and what the daemon logs to.
const HOME: &str = "/run/page/home";
const LOG: &str = "/run/page/log";

pub struct Machine {
    daemon: Option<Child>,
}

impl Machine {
    /// # Panics
    /// Where the host cannot lay one directory over another.
    pub fn new() -> Machine {
        let mounts = Command::new("sh").args(["-c", MOUNTS]).output_in_time().unwrap();
        assert!(mounts.status.success(), "{}", String::from_utf8_lossy(&mounts.stderr));
        Machine { daemon: None }
    }

    pub fn write(&self, file: &str, text: &str) {
        fs::write(Path::new(HOME).join(file), text).unwrap_or_else(|why| panic!("{file}: {why}"));
    }

    /// Runs a command; gives whether it succeeded, and what it printed.
    pub fn run(&mut self, command: &str) -> (bool, String) {
        if let Some(wanted) = command.strip_prefix("systemctl ") {
            return (true, self.systemctl(wanted));
        }
        let output = self.shell(command).output_in_time().unwrap();
        (output.status.success(), String::from_utf8(output.stdout).unwrap())
    }

    fn shell(&self, line: &str) -> Command {
        let programs = Path::new(env!("CARGO_BIN_EXE_nwfilter")).parent().unwrap();
        let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap_or_default());
        let mut command = Command::new("sh");
        command.arg("-c").arg(format!("exec 2>&1\n{SHELL}{line}")).current_dir(HOME);
        command.env("PATH", path).env("LOG", LOG).env("LC_ALL", "C.UTF-8").env_remove("NWFILTER_RUNTIME_DIR");
        command
    }

    fn systemctl(&mut self, wanted: &str) -> String {
        match wanted.split(' ').next() {
            Some("enable" | "start" | "restart") => {
                self.stop();
                self.start();
            }
            Some("stop" | "disable") => self.stop(),
            _ => panic!("no `systemctl {wanted}` in the machine of a page"),
        }
        String::new()
    }

    /// As systemd does: the daemon is there when it says so.
    fn start(&mut self) {
        let notify = "/run/page/notify";
        let _ = fs::remove_file(notify);
        let notices = UnixDatagram::bind(notify).unwrap();
        notices.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
        let log = File::options().create(true).append(true).open(LOG).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_nwfilterd"));
        command.env("NOTIFY_SOCKET", notify).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.daemon = Some(with_usual_signals(&mut command).spawn().unwrap());
        let mut notice = [0; 4096];
        let length = notices.recv(&mut notice).expect("nwfilterd says that it is ready");
        assert!(notice[..length].starts_with(b"READY=1"), "{}", fs::read_to_string(LOG).unwrap());
    }

    fn stop(&mut self) {
        self.daemon.take().iter_mut().for_each(end);
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.stop();
    }
}
