//! A daemon with directories of its own, in the network namespace of the calling thread, and a client for it.

// The bench uses another part of it than the tests.
#![allow(dead_code)]

pub use crate::tool::eventually;
use crate::tool::{self, InTime, end, with_usual_signals};
use nwfilter::engine::api::{BindingId, FilterId};
use nwfilter::engine::error::Error;
use nwfilter::kernel::apply::Kernel;
use nwfilter::program::ir::Family;
use nwfilter::program::ir::observed::ObservedTable;
use nwfilter::ruleset::layout;
use nwfilter::ruleset::nft::Ownership;
use nwfilter::service::rpc::client::{Client, Failure};
use nwfilter::service::rpc::listen::NAME;
use nwfilter::service::rpc::proto::{self, REMOTE};
use nwfilter::service::rpc::xdr::{Reader, Writer};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// How long anything may take before a test gives up.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The directories a daemon works in. They outlive it.
pub struct Host {
    directory: tempfile::TempDir,
    filters: tempfile::TempDir,
}

/// A running daemon. Dropping it ends it as a crash does.
pub struct Daemon {
    pub child: Child,
    notices: UnixDatagram,
    runtime: PathBuf,
    log: PathBuf,
}

/// A client past its opening.
pub struct Conn(pub Client);

impl Host {
    pub fn new() -> Host {
        Host::with_filters(in_memory())
    }

    /// Filters on a disk, where they belong; the rest in memory, as /run is.
    pub fn on_disk() -> Host {
        Host::with_filters(tempfile::tempdir().unwrap())
    }

    fn with_filters(filters: tempfile::TempDir) -> Host {
        let host = Host { directory: in_memory(), filters };
        host.configure("");
        host
    }

    pub fn path(&self, name: &str) -> PathBuf {
        match name.strip_prefix("filters") {
            Some("") => self.filters.path().to_owned(),
            Some(file) => self.filters.path().join(file.trim_start_matches('/')),
            None => self.directory.path().join(name),
        }
    }

    /// The runtime directory, which is short: the path of a socket has to be.
    pub fn runtime(&self) -> PathBuf {
        self.path("run")
    }

    /// Without standard filters, unless the text asks for them.
    pub fn configure(&self, text: &str) {
        let standard = if text.contains("standard_filters") { "" } else { "standard_filters = false\n" };
        fs::write(self.path("conf"), format!("{standard}{text}")).unwrap();
    }

    pub fn write_filter(&self, name: &str, xml: &str) {
        fs::write(self.path("filters").join(format!("{name}.xml")), xml).unwrap();
    }

    /// Every file of the directory by name.
    pub fn files(&self, directory: &str) -> BTreeMap<String, String> {
        let Ok(entries) = fs::read_dir(self.path(directory)) else { return BTreeMap::new() };
        let files = entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
        let named = |path: PathBuf| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            fs::read_to_string(path).ok().map(|text| (name, text))
        };
        files.filter_map(named).collect()
    }

    /// The daemon's command line, which writes its log to a file.
    pub fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nwfilterd"));
        command.arg("--config").arg(self.path("conf"));
        for (option, name) in
            [("--filter-dir", "filters"), ("--state-dir", "state"), ("--runtime-dir", "run")]
        {
            command.arg(option).arg(self.path(name));
        }
        for inherited in ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "WATCHDOG_USEC", "WATCHDOG_PID"] {
            command.env_remove(inherited);
        }
        let log = File::options().create(true).append(true).open(self.path("log")).unwrap();
        command
            .env("NOTIFY_SOCKET", self.path("notify"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        command
    }

    /// A daemon that has said that it is ready.
    pub fn start(&self) -> Daemon {
        self.run(self.command())
    }

    pub fn run(&self, command: Command) -> Daemon {
        let mut daemon = self.spawn(command);
        daemon.hears("READY=1");
        daemon
    }

    /// A daemon that may not be ready yet.
    pub fn spawn(&self, mut command: Command) -> Daemon {
        let notify = self.path("notify");
        let _ = fs::remove_file(&notify);
        let notices = UnixDatagram::bind(&notify).unwrap();
        notices.set_read_timeout(Some(PATIENCE)).unwrap();
        let child = with_usual_signals(&mut command).spawn().unwrap();
        Daemon { child, notices, runtime: self.runtime(), log: self.path("log") }
    }
}

/// Ends when a daemon that may be idle for a second has ended, with nothing to stay for. One that became idle before it was
/// started and is still there has something.
pub fn an_idle_daemon_ends() {
    let host = Host::new();
    let mut command = host.command();
    command.args(["--timeout", "1"]);
    assert!(host.run(command).wait().success());
}

fn in_memory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

impl Daemon {
    /// The next notification of the service manager.
    pub fn notice(&mut self) -> String {
        let until = Instant::now() + PATIENCE;
        self.notices.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        loop {
            let mut buffer = [0; 256];
            if let Ok(length) = self.notices.recv(&mut buffer) {
                return String::from_utf8_lossy(&buffer[..length]).trim_end().to_owned();
            }
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < until, "no notice, {ended:?}: {}", self.log());
        }
    }

    /// Waits for a notice that begins so; others are passed over.
    pub fn hears(&mut self, beginning: &str) -> String {
        loop {
            let notice = self.notice();
            if notice.starts_with(beginning) {
                return notice;
            }
        }
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until the log has this.
    pub fn logs(&self, text: &str) {
        eventually(&format!("{text:?} in the log"), || self.log().contains(text));
    }

    pub fn signal(&self, signal: i32) {
        tool::signal(&self.child, signal);
    }

    pub fn reload(&mut self) {
        self.signal(libc::SIGHUP);
        self.hears("RELOADING=1");
        self.hears("READY=1");
    }

    /// Ends it as a crash does.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.status_in_time().unwrap();
    }

    /// Asks it to end.
    pub fn stop(mut self) -> ExitStatus {
        self.signal(libc::SIGTERM);
        self.wait()
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        self.notices.set_nonblocking(true).unwrap();
        eventually("the daemon's end", || {
            // A client that does not read its answers delays the daemon.
            while self.notices.recv(&mut [0; 256]).is_ok() {}
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }

    pub fn socket(&self) -> PathBuf {
        self.runtime.join(NAME)
    }

    /// What packets meet once the daemon has taken away what it left in the last change.
    pub fn rules(&self) -> ObservedTable {
        self.connect().0.status().unwrap();
        rules()
    }

    pub fn connect(&self) -> Conn {
        Conn::open(&self.socket()).unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        end(&mut self.child);
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("the end of the daemon's log:\n{}", lines[lines.len().saturating_sub(20)..].join("\n"));
        }
    }
}

impl Conn {
    pub fn open(socket: &Path) -> Result<Conn, Failure> {
        let mut conn = Conn(Client::connect(socket, PATIENCE)?);
        conn.call(66, |to| to)?;
        conn.call(1, |to| to.option(Some("nwfilter:///system"), |to, name| to.string(name)).u32(0))?;
        Ok(conn)
    }

    /// As a client that may only look.
    pub fn open_read_only(socket: &Path) -> Result<Conn, Failure> {
        let mut conn = Conn(Client::connect(socket, PATIENCE)?);
        conn.call(66, |to| to)?;
        conn.call(1, |to| to.option(Some("nwfilter:///system"), |to, name| to.string(name)).u32(1))?;
        Ok(conn)
    }

    fn call(
        &mut self,
        procedure: i32,
        body: impl FnOnce(&mut Writer) -> &mut Writer,
    ) -> Result<Vec<u8>, Failure> {
        let mut to = Writer::default();
        body(&mut to);
        self.0.call(REMOTE, procedure, &to.into_bytes())
    }

    pub fn define(&mut self, xml: &str) -> Result<FilterId, Failure> {
        let body = self.call(180, |to| to.string(xml))?;
        Ok(proto::filter(&mut Reader::new(&body))?)
    }

    pub fn undefine(&mut self, name: &str) -> Result<(), Failure> {
        self.undefine_uuid(uuid(name))
    }

    pub fn undefine_uuid(&mut self, uuid: Uuid) -> Result<(), Failure> {
        let filter = FilterId { name: "whatever".into(), uuid };
        self.call(181, |to| proto::write_filter(to, &filter)).map(drop)
    }

    pub fn filter_xml(&mut self, name: &str) -> Result<String, Failure> {
        self.filter_xml_of(uuid(name))
    }

    pub fn filter_xml_of(&mut self, uuid: Uuid) -> Result<String, Failure> {
        let filter = FilterId { name: "whatever".into(), uuid };
        let body = self.call(177, |to| proto::write_filter(to, &filter).u32(0))?;
        Ok(Reader::new(&body).string(1 << 22)?.to_owned())
    }

    pub fn create(&mut self, port: &str, filter: &str) -> Result<(), Failure> {
        self.call(399, |to| to.string(&binding(port, filter)).u32(0)).map(drop)
    }

    pub fn delete(&mut self, port: &str) -> Result<(), Failure> {
        let binding = BindingId { portdev: port.into(), filter: "whatever".into() };
        self.call(400, |to| proto::write_binding(to, &binding)).map(drop)
    }

    /// The names of all filters, in order.
    pub fn filters(&mut self) -> Result<Vec<String>, Failure> {
        let body = self.call(286, |to| to.u32(1).u32(0))?;
        let mut names: Vec<_> =
            Reader::new(&body).array(1 << 14, proto::filter)?.into_iter().map(|filter| filter.name).collect();
        names.sort();
        Ok(names)
    }

    /// All bindings, port and filter, in order.
    pub fn bindings(&mut self) -> Result<Vec<(String, String)>, Failure> {
        let body = self.call(401, |to| to.u32(1).u32(0))?;
        let all = Reader::new(&body).array(1 << 14, proto::binding)?.into_iter();
        let mut all: Vec<_> = all.map(|binding| (binding.portdev, binding.filter)).collect();
        all.sort();
        Ok(all)
    }
}

/// What the daemon said no to; anything else is no answer.
pub fn refused<T: std::fmt::Debug>(answer: Result<T, Failure>) -> Error {
    match answer {
        Err(Failure::Refused(error)) => error,
        other => panic!("{other:?}"),
    }
}

/// Every name has its own.
pub fn uuid(name: &str) -> Uuid {
    let mut bytes = [0x42; 16];
    bytes.iter_mut().zip(name.bytes()).for_each(|(to, from)| *to = from);
    Uuid::from_bytes(bytes)
}

/// The guest's own address, and a part that makes versions differ.
pub fn guard(name: &str, version: u32) -> String {
    format!(
        "<filter name='{name}' chain='root'>\n  <uuid>{}</uuid>\n  <rule action='drop' direction='out' priority='500'>\n    \
         <mac match='no' srcmacaddr='$MAC'/>\n  </rule>\n  <rule action='drop' direction='in' priority='500'>\n    \
         <mac protocolid='0x{:04x}'/>\n  </rule>\n</filter>\n",
        uuid(name),
        0x9000 + version % 0x1000,
    )
}

/// The binding of the lab's guest.
pub fn binding(port: &str, filter: &str) -> String {
    let address = crate::lab::frames::GUEST_MAC.map(|byte| format!("{byte:02x}")).join(":");
    format!(
        "<filterbinding>\n  <owner>\n    <name>vm</name>\n    <uuid>{}</uuid>\n  </owner>\n  \
         <portdev name='{port}'/>\n  <mac address='{address}'/>\n  <filterref filter='{filter}'/>\n\
         </filterbinding>\n",
        uuid("vm")
    )
}

/// Our table in this thread's namespace.
pub fn table() -> ObservedTable {
    let seen = Kernel::open(Ownership::Shared).unwrap().observe().unwrap();
    seen.families.get(&Family::Bridge).cloned().unwrap_or_default()
}

/// What of our table packets meet: everything but who owns it, the kernel's numbers and what was counted.
pub fn rules() -> ObservedTable {
    let mut table = table();
    (table.owner, table.port) = (false, None);
    table.chains.values_mut().flat_map(|chain| &mut chain.rules).for_each(|rule| {
        rule.handle = 0;
        rule.counter = None;
    });
    table.sets.values_mut().for_each(|set| set.counts.clear());
    table
}

/// The indexes of the interfaces that are bound in the kernel.
pub fn bound() -> Vec<u32> {
    let index = |key: &nwfilter::program::ir::Bytes| u32::from_ne_bytes(key[..].try_into().unwrap());
    table().sets.get(layout::BOUND).map(|set| set.elements.keys().map(index).collect()).unwrap_or_default()
}

/// A number that a longer run sets from outside.
pub fn rounds(variable: &str, usual: u64) -> u64 {
    std::env::var(variable).map_or(usual, |text| text.parse().expect("a number"))
}
