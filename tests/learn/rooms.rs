//! Guests that are more than a tap: namespaces with a real DHCP client in them, and servers beside them.
//! Needs udhcpc (scripts/setup); busybox, which it belongs to, has a server too, one that gives leases of seconds.

use crate::daemon::host::{Host, eventually};
use crate::lab::frames::Mac;
use crate::lab::{Link, Network, Tap, veth};
use crate::tool::{self, InTime, available, end, skipped, with_usual_signals};
use std::fs::{self, File, Permissions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

pub const SERVER: &str = "10.0.0.254";

/// A namespace of its own behind a link of the host.
pub struct Room {
    namespace: File,
    pub port: Link,
    pub inner: String,
    _machine: Option<Machine>,
}

/// What a hypervisor does: it carries frames between the card that its guest sees and the host's tap or macvtap.
struct Machine(Arc<AtomicBool>);

/// Runs in a namespace that is made for it, and stays.
fn enclosed<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> (File, T) {
    let inside = || {
        // SAFETY: unshare reads no memory.
        assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0);
        (File::open("/proc/thread-self/ns/net").unwrap(), work())
    };
    std::thread::spawn(inside).join().unwrap()
}

impl Machine {
    fn start(card: Tap, port: Tap) -> Machine {
        let ended = Arc::new(AtomicBool::new(false));
        let ends = Arc::new([card, port]);
        for from in [0, 1] {
            let (ends, ended) = (ends.clone(), ended.clone());
            std::thread::spawn(move || {
                while !ended.load(Ordering::Relaxed) {
                    let frame = ends[from].recv_within(Duration::from_millis(50));
                    // A link that is down or gone takes none.
                    frame.map(|frame| ends[1 - from].send(&frame));
                }
            });
        }
        Machine(ended)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Room {
    /// Behind a port of the bridge.
    pub fn new(network: &Network, port: &str, mac: Mac) -> Room {
        let inner = format!("{port}-in");
        let (outer, link) = veth(port, &inner);
        link.set_mac(mac);
        let room = Room { namespace: enclosed(|| ()).0, port: outer, inner, _machine: None };
        link.move_to(&room.namespace);
        network.bridge.add(outer);
        outer.up();
        assert!(room.succeeds(&format!("ip link set {} up", room.inner)));
        outer.ready();
        room
    }

    /// A machine whose card is the guest's end of this tap or macvtap.
    pub fn behind(port: Tap, mac: Mac) -> Room {
        let (inner, link) = ("card0", port.link);
        let (namespace, card) = enclosed(move || {
            let card = Tap::new(inner);
            card.link.set_mac(mac);
            card.link.up();
            card
        });
        Room { namespace, port: link, inner: inner.into(), _machine: Some(Machine::start(card, port)) }
    }

    /// A program of busybox in there.
    pub fn busybox(&self, line: &str) -> Command {
        self.command("busybox", line)
    }

    /// Any program in there.
    pub fn command(&self, program: &str, line: &str) -> Command {
        let namespace = self.namespace.as_raw_fd();
        let mut command = Command::new(program);
        command.args(line.split(' ')).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let enter = move || {
            // SAFETY: setns reads no memory, and the descriptor is open until the child has begun.
            match unsafe { libc::setns(namespace, libc::CLONE_NEWNET) } {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        };
        // SAFETY: it makes a single system call.
        unsafe { command.pre_exec(enter) };
        with_usual_signals(&mut command);
        command
    }

    pub fn succeeds(&self, line: &str) -> bool {
        self.busybox(line).status_in_time().unwrap().success()
    }

    pub fn has(&self, address: &str) {
        let _ = self.succeeds(&format!("ip addr add {address}/24 dev {}", self.inner));
    }

    /// Whether the host answers who uses this address, which is given to the interface.
    pub fn may_use(&self, address: &str) -> bool {
        self.has(address);
        self.succeeds(&format!("ping -c 1 -W 1 -I {address} {SERVER}"))
    }
}

/// Whether busybox has all that is needed here; what is missing is said.
pub fn equipped() -> bool {
    let has = |applet: &str| {
        let mut help = Command::new("busybox");
        help.args([applet, "--help"]).stdout(Stdio::null()).stderr(Stdio::null());
        help.status_in_time().is_ok_and(|status| status.success())
    };
    let missing = ["udhcpc", "udhcpd", "ip", "ping"].into_iter().find(|applet| !has(applet));
    missing.is_none_or(|applet| skipped(&format!("busybox has no {applet} (scripts/setup --tests)")))
}

/// A process that ends with the test.
pub struct Process(pub Child);

impl Process {
    pub fn signal(&self, signal: i32) {
        tool::signal(&self.0, signal);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        end(&mut self.0);
    }
}

/// A client, and what it reported to its script.
pub struct Client {
    pub process: Process,
    events: PathBuf,
}

impl Client {
    pub fn start(room: &Room, directory: &Host) -> Client {
        Client::start_with(room, directory, "")
    }

    pub fn start_with(room: &Room, directory: &Host, option: &str) -> Client {
        let name = &room.inner;
        let (events, script) =
            (directory.path(&format!("{name}.events")), directory.path(&format!("{name}.sh")));
        let text = format!(
            "#!/bin/sh\ncase $1 in\n\
             deconfig) busybox ip addr flush dev $interface ;;\n\
             bound|renew) busybox ip addr add $ip/24 dev $interface 2>/dev/null ;;\n\
             esac\necho $1 $ip >> {}\n",
            events.display()
        );
        write_script(&script, &text);
        let line = format!("udhcpc -f -i {name}{option} -t 1000 -T 1 -s {}", script.display());
        Client { process: Process(room.busybox(&line).spawn().unwrap()), events }
    }

    /// ISC's client; none where it is not installed, which is said.
    pub fn dhclient(room: &Room, directory: &Host) -> Option<Client> {
        if !available("dhclient", "--tests") {
            return None;
        }
        let name = &room.inner;
        let events = directory.path(&format!("{name}.events"));
        let add = "busybox ip addr add $new_ip_address/24 dev $interface 2>/dev/null";
        let flush = "busybox ip addr flush dev $interface";
        let cases = format!("case $reason in\nBOUND) {add} ;;\nRELEASE) {flush} ;;\nesac\n");
        let script = format!("#!/bin/sh\n{cases}echo $reason $new_ip_address >> {}\n", events.display());
        write_script(&directory.path("dhclient.sh"), &script);
        fs::write(directory.path("dhclient.conf"), "request subnet-mask;\ninitial-interval 1;\n").unwrap();
        Some(Client { process: Process(dhclient(room, directory, "-d").spawn().unwrap()), events })
    }

    /// The addresses that came with an event of this kind.
    pub fn reported(&self, kind: &str) -> Vec<String> {
        let text = fs::read_to_string(&self.events).unwrap_or_default();
        let lines = text.lines().filter_map(|line| line.split_once(' '));
        lines.filter(|(word, _)| *word == kind).map(|(_, address)| address.into()).collect()
    }

    pub fn waits_for(&self, kind: &str, count: usize) -> String {
        eventually(kind, || self.reported(kind).len() >= count);
        self.reported(kind)[count - 1].clone()
    }
}

/// ISC's client with these options, and the files of the one that runs already.
pub fn dhclient(room: &Room, directory: &Host, options: &str) -> Command {
    let file = |kind: &str| directory.path(&format!("dhclient.{kind}")).display().to_string();
    let (conf, leases, process, script) = (file("conf"), file("leases"), file("pid"), file("sh"));
    let line = format!("-4 {options} -cf {conf} -lf {leases} -pf {process} -sf {script} {}", room.inner);
    room.command("dhclient", &line)
}

fn write_script(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
}

/// busybox's server, in a namespace or on the host.
pub fn udhcpd(directory: &Host, room: Option<&Room>, seconds: u32, range: &str) -> Process {
    let interface = room.map_or("br0", |room| &room.inner);
    let (start, end) = range.split_once('-').unwrap();
    let file = |kind: &str| directory.path(&format!("{interface}.{kind}")).display().to_string();
    let text = format!(
        "interface {interface}\nstart {start}\nend {end}\nmax_leases 10\nmin_lease 1\nauto_time 0\n\
         lease_file {}\npidfile {}\noption subnet 255.255.255.0\noption lease {seconds}\n",
        file("leases"),
        file("pid")
    );
    fs::write(file("conf"), text).unwrap();
    fs::write(file("leases"), "").unwrap();
    let line = format!("udhcpd -f -a 0 {}", file("conf"));
    let mut command = match room {
        Some(room) => room.busybox(&line),
        None => Command::new("busybox"),
    };
    if room.is_none() {
        command.args(line.split(' ')).stdout(Stdio::null()).stderr(Stdio::null());
    }
    Process(command.spawn().unwrap())
}
