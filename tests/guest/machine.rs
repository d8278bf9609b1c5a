//! A real guest: QEMU with a distribution's kernel and busybox, on a tap, driven over its serial line.
//!
//! Its initramfs is made here: busybox, the drivers of its card, and a shell that reads commands.

use crate::tool::{end, on_path, skipped};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use crate::lab::frames::{GUEST_MAC, Mac};

/// For anything: a guest may be emulated by a machine that is emulated itself.
const PATIENCE: Duration = Duration::from_secs(600);
/// The guest's card, as its driver knows it.
const CARD: &str = "virtio_net";
const BUS: &str = "virtio_pci";

const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
stty -echo
while read -r module; do insmod "/drivers/$module"; done </drivers/order
while [ ! -e /sys/class/net/eth0 ]; do usleep 50000; done
ip link set lo up; ip link set eth0 up
echo READY
while read -r line; do eval "$line"; echo "DONE $?"; done
"#;

/// What udhcpc does with a lease.
const LEASE: &str =
    "#!/bin/sh\ncase $1 in bound|renew) ip addr add $ip/$mask dev $interface; echo LEASE $ip;; esac\n";

/// What a guest is made of; see [`Parts::find`].
pub struct Parts {
    kernel: PathBuf,
    drivers: PathBuf,
}

impl Parts {
    /// The kernel in `NWFILTER_GUEST_KERNEL`, else the newest one of this host. None where something is missing, which is said.
    pub fn find() -> Option<Parts> {
        let kernel = std::env::var_os("NWFILTER_GUEST_KERNEL").map(PathBuf::from).or_else(newest_kernel);
        let drivers = kernel.as_deref().and_then(drivers_of);
        let lacks = [
            ("qemu-system-x86_64", on_path("qemu-system-x86_64")),
            ("a kernel with its modules", drivers.is_some()),
            ("busybox", Path::new("/bin/busybox").exists()),
        ];
        match lacks.iter().find(|(_, there)| !there) {
            Some((what, _)) => {
                skipped(&format!("no guest without {what} (scripts/setup --vm)"));
                None
            }
            None => Some(Parts { kernel: kernel?, drivers: drivers? }),
        }
    }

    fn initramfs(&self) -> Vec<u8> {
        let order = load_order(&self.drivers);
        let names: String = order.iter().map(|path| base(path) + "\n").collect();
        let mut archive = Archive::default();
        for directory in ["bin", "dev", "drivers", "proc", "sys", "tmp"] {
            archive.add(directory, 0o040_755, &[]);
        }
        archive.add("bin/busybox", 0o100_755, &fs::read("/bin/busybox").expect("busybox can be read"));
        archive.add("init", 0o100_755, INIT.as_bytes());
        archive.add("bin/lease", 0o100_755, LEASE.as_bytes());
        archive.add("drivers/order", 0o100_644, names.as_bytes());
        for driver in &order {
            let content = fs::read(self.drivers.join(driver)).expect("the module can be read");
            archive.add(&format!("drivers/{}", base(driver)), 0o100_644, &content);
        }
        archive.end()
    }
}

fn newest_kernel() -> Option<PathBuf> {
    let entries = fs::read_dir("/boot").ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    entries.filter(|path| base(path).starts_with("vmlinuz-") && drivers_of(path).is_some()).max()
}

fn drivers_of(kernel: &Path) -> Option<PathBuf> {
    let release = base(kernel).strip_prefix("vmlinuz-")?.to_owned();
    let beside = kernel.parent()?.parent()?.join("lib/modules").join(&release);
    [beside, Path::new("/lib/modules").join(release)]
        .into_iter()
        .find(|path| path.join("modules.dep").exists())
}

fn base(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// The drivers of the card with what they need, each after what it needs.
fn load_order(drivers: &Path) -> Vec<PathBuf> {
    let read = |name| fs::read_to_string(drivers.join(name)).expect("depmod has run");
    let (table, built_in) = (read("modules.dep"), read("modules.builtin"));
    let is_of = |line: &str, wanted: &str| {
        line.split(".ko").next().is_some_and(|name| base(Path::new(name)) == wanted)
    };
    let mut order: Vec<PathBuf> = Vec::new();
    for wanted in [BUS, CARD].into_iter().filter(|wanted| !built_in.lines().any(|line| is_of(line, wanted))) {
        let line = table.lines().find(|line| is_of(line, wanted));
        let (own, needs) =
            line.and_then(|line| line.split_once(':')).unwrap_or_else(|| panic!("no module {wanted}"));
        // modules.dep names the nearest first.
        for path in needs.split_whitespace().rev().chain([own]).map(PathBuf::from) {
            if !order.contains(&path) {
                order.push(path);
            }
        }
    }
    order
}

/// A cpio archive of the kind that kernels unpack.
#[derive(Default)]
struct Archive(Vec<u8>);

impl Archive {
    fn add(&mut self, name: &str, mode: u32, content: &[u8]) {
        let size = content.len() as u32;
        let inode = self.0.len() as u32 + 1;
        let fields = [inode, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name.len() as u32 + 1, 0];
        self.0.extend(b"070701");
        fields.iter().for_each(|field| self.0.extend(format!("{field:08x}").bytes()));
        self.0.extend(name.bytes().chain([0]));
        self.pad();
        self.0.extend(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn end(mut self) -> Vec<u8> {
        self.add("TRAILER!!!", 0, &[]);
        self.0
    }
}

/// A running guest. Dropping it pulls its plug.
pub struct Machine {
    qemu: Child,
    keys: ChildStdin,
    screen: Receiver<String>,
    _initramfs: tempfile::NamedTempFile,
}

/// What a command in the guest said, and whether it succeeded.
pub struct Answer {
    pub text: String,
    pub success: bool,
}

impl Machine {
    /// Boots a guest with the lab's address on this tap of the calling thread's namespace.
    pub fn boot(parts: &Parts, tap: &str) -> Machine {
        let mut initramfs = tempfile::NamedTempFile::new().expect("there is room for an initramfs");
        initramfs.write_all(&parts.initramfs()).expect("there is room for an initramfs");
        let vhost = if Path::new("/dev/vhost-net").exists() { "on" } else { "off" };
        println!("measured: a guest on virtio-net, vhost {vhost}");
        let mut command = Command::new("qemu-system-x86_64");
        command
            .args(["-M", "pc,accel=tcg", "-m", "128", "-nodefaults", "-no-user-config", "-display", "none"])
            .args([
                "-no-reboot",
                "-serial",
                "stdio",
                "-append",
                "console=ttyS0 quiet panic=-1 ipv6.disable=1",
            ])
            .arg("-kernel")
            .arg(&parts.kernel)
            .arg("-initrd")
            .arg(initramfs.path())
            .arg("-netdev")
            .arg(format!("tap,id=net,ifname={tap},script=no,downscript=no,vhost={vhost}"))
            .arg("-device")
            .arg(format!("virtio-net-pci,netdev=net,romfile=,mac={}", words(GUEST_MAC)));
        let mut qemu = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("QEMU starts");
        let (keys, output) = (qemu.stdin.take().expect("piped"), qemu.stdout.take().expect("piped"));
        let (send, screen) = channel();
        thread::spawn(move || {
            let lines = BufReader::new(output).split(b'\n').map_while(Result::ok);
            lines
                .map(|line| String::from_utf8_lossy(&line).trim().to_owned())
                .try_for_each(|line| send.send(line))
        });
        let machine = Machine { qemu, keys, screen, _initramfs: initramfs };
        machine.until("READY");
        machine
    }

    /// Runs a line of shell in the guest.
    pub fn run(&mut self, line: &str) -> Answer {
        writeln!(self.keys, "{line}").expect("the guest is there");
        let (text, code) = self.until("DONE ");
        Answer { text, success: code == "0" }
    }

    /// What is said before the line that begins so, and the rest of that line.
    fn until(&self, beginning: &str) -> (String, String) {
        let mut said = String::new();
        loop {
            match self.screen.recv_timeout(PATIENCE) {
                Ok(line) if line.starts_with(beginning) => return (said, line[beginning.len()..].to_owned()),
                Ok(line) => said += &(line + "\n"),
                Err(RecvTimeoutError::Timeout) => panic!("the guest says no {beginning}: {said}"),
                Err(RecvTimeoutError::Disconnected) => panic!("the guest is gone: {said}"),
            }
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        end(&mut self.qemu);
    }
}

/// An address as people write it.
pub fn words(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
