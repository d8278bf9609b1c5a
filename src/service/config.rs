//! What the administrator wants of the daemon: a TOML file, and a command line that overrules it.
//!
//! Every key has a default; an unknown key or a bad value is an error with its line and column. Reading a text is
//! pure ([`Config::parse`]); [`Config::load`] opens the file. Nothing here acts on a value.

mod changes;
mod endpoint;
mod words;

pub use endpoint::Endpoint;

use crate::document::diag::{Code, Diagnostic};
use crate::document::span::Source;
use crate::program::compile::HostToGuest;
use crate::ruleset::firewall::Placement;
use clap::{ArgAction, Parser};
use serde::de::{Deserializer, Error, Unexpected};
use serde::{Deserialize, de};
use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Where the configuration is read from when the command line names no file.
pub const DEFAULT_FILE: &str = "/etc/nwfilter/nwfilterd.conf";

/// The daemon's configuration.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The filters, one file each, as libvirt keeps them.
    pub filter_dir: PathBuf,
    /// Whether the standard filters are in force that have no file there.
    pub standard_filters: bool,
    /// What must survive a reboot: learned addresses, leases, and what became of the standard filters.
    pub state_dir: PathBuf,
    /// Sockets, the lock, and the bindings in force.
    pub runtime_dir: PathBuf,
    /// The group that owns the sockets, unless systemd made them.
    pub socket_group: Option<String>,
    /// Permissions of the socket that can change things.
    pub socket_mode: FileMode,
    /// Permissions of the socket that can only read.
    pub socket_ro_mode: FileMode,
    /// The least important messages that are logged.
    pub log_level: LogLevel,
    /// Whether every rule counts packets and bytes.
    pub counters: bool,
    /// Whether the packets and bytes of each bound interface are counted, each way.
    pub traffic: bool,
    /// How often it is looked whether they carry packets that are not counted, where they are counted; zero never.
    #[serde(deserialize_with = "seconds")]
    pub traffic_check: Duration,
    /// Whether packets of bound interfaces are traced through the rules, for `nft monitor trace`.
    pub trace: bool,
    /// Where figures for Prometheus can be got; none, nowhere.
    pub metrics: Option<Endpoint>,
    /// Up to how many interfaces a program's variables are written into its rules; beyond it they become sets.
    #[serde(deserialize_with = "words::whole")]
    pub fold_up_to: usize,
    /// Where the programs of bridge ports sit that could sit at either place.
    pub placement: Placement,
    /// Whether frames are dropped whose checksum the kernel would write elsewhere than in its place.
    pub checksum_guard: ChecksumGuard,
    /// What becomes of packets that the host itself sends to a guest.
    pub host_to_guest: HostToGuest,
    /// How long the rules of a deleted binding stay, for the binding that may replace it.
    #[serde(deserialize_with = "seconds")]
    pub grace: Duration,
    /// Connections at a time.
    #[serde(deserialize_with = "words::whole")]
    pub max_clients: u32,
    /// Unanswered calls of one connection.
    #[serde(deserialize_with = "words::whole")]
    pub max_client_requests: u32,
    /// Silence after which a client is asked whether it lives; zero never asks.
    #[serde(deserialize_with = "seconds")]
    pub keepalive_interval: Duration,
    /// Unanswered questions after which it is taken for dead.
    #[serde(deserialize_with = "words::whole")]
    pub keepalive_count: u32,
    /// Idle time after which the daemon ends and leaves its rules in force; zero never.
    #[serde(deserialize_with = "seconds")]
    pub timeout: Duration,
    /// Whether the daemon gives up every right it does not need once it has started.
    pub confine: bool,
}

/// Whether the [checksum guard](crate::kernel::checksum) is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChecksumGuard {
    /// Where the kernel can.
    Auto,
    /// Always: without it the daemon does not start.
    Require,
    /// Never.
    Off,
}

/// Permissions of a file, written as a string of octal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileMode(pub u32);

/// How important a message must be to be logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// What failed.
    Error,
    /// What an operator should look at.
    Warn,
    /// What changed.
    Info,
    /// How it came about.
    Debug,
    /// All there is to say.
    Trace,
}

/// The command line of `nwfilterd`. What is given here overrules the file.
#[derive(Clone, Debug, Default, Parser)]
#[command(
    name = "nwfilterd",
    version,
    about = "Enforces libvirt network filters on the interfaces of guests"
)]
pub struct Options {
    /// Configuration file [default: /etc/nwfilter/nwfilterd.conf, if it is there]
    #[arg(short = 'f', long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Directory of the filters [default: that of the configuration file, else /etc/libvirt/nwfilter]
    #[arg(long, value_name = "DIR")]
    pub filter_dir: Option<PathBuf>,
    /// Directory of what survives a reboot [default: that of the configuration file, else /var/lib/nwfilter]
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Directory of the sockets and the bindings [default: that of the configuration file, else /run/libvirt]
    #[arg(long, value_name = "DIR")]
    pub runtime_dir: Option<PathBuf>,
    /// Least important messages to log [default: that of the configuration file, else info]
    #[arg(long, value_enum, value_name = "LEVEL")]
    pub log_level: Option<LogLevel>,
    /// End after this many idle seconds; the rules stay in force
    #[arg(short, long, value_name = "SECONDS")]
    pub timeout: Option<u32>,
    /// Write the process number to this file
    #[arg(short, long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// Log what is done (as --log-level info), twice for details
    #[arg(short, long, action = ArgAction::Count)]
    pub verbose: u8,
    /// Say what is wrong with the configuration, or nothing, and end
    #[arg(long)]
    pub check_config: bool,
    /// Record which standard filters were edited or deleted in the directory of the filters, and end: for packages, when nwfilterd
    /// does not run
    #[arg(long, conflicts_with = "check_config")]
    pub record_filters: bool,
    /// Taken for virtnwfilterd's sake and without effect: this daemon stays in the foreground
    #[arg(short, long, hide = true)]
    pub daemon: bool,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            filter_dir: "/etc/libvirt/nwfilter".into(),
            standard_filters: true,
            state_dir: "/var/lib/nwfilter".into(),
            runtime_dir: "/run/libvirt".into(),
            socket_group: None,
            socket_mode: FileMode(0o600),
            socket_ro_mode: FileMode(0o666),
            log_level: LogLevel::Info,
            counters: false,
            traffic: false,
            traffic_check: Duration::from_secs(10),
            trace: false,
            metrics: None,
            fold_up_to: 64,
            placement: Placement::Bridge,
            checksum_guard: ChecksumGuard::Auto,
            host_to_guest: HostToGuest::Pass,
            grace: Duration::from_secs(1),
            max_clients: 5000,
            max_client_requests: 5,
            keepalive_interval: Duration::from_secs(5),
            keepalive_count: 5,
            timeout: Duration::ZERO,
            confine: true,
        }
    }
}

impl Config {
    /// The configuration a command line asks for: its file, or the default file if that is there, overruled by the
    /// options.
    pub fn load(options: &Options) -> Result<Config, Diagnostic> {
        let path = Config::file(options);
        let config = match crate::document::regular::read_text(path) {
            Ok(text) => Config::parse(&Source::new(path.to_string_lossy(), text))?,
            Err(e) if e.kind() == ErrorKind::NotFound && options.config.is_none() => Config::default(),
            Err(e) => {
                let message = format!("configuration {}: {e}", path.display());
                return Err(Diagnostic::error(Code::INTERNAL, message));
            }
        };
        config.overruled(options).checked()
    }

    /// Reads a configuration file.
    pub fn parse(source: &Arc<Source>) -> Result<Config, Diagnostic> {
        toml::from_str(&source.text).map_err(|error| words::diagnostic(source, &error))
    }

    /// The file that this command line reads.
    pub fn file(options: &Options) -> &Path {
        options.config.as_deref().unwrap_or(Path::new(DEFAULT_FILE))
    }

    fn overruled(self, options: &Options) -> Config {
        let directory = |option: &Option<PathBuf>, file| option.clone().unwrap_or(file);
        Config {
            filter_dir: directory(&options.filter_dir, self.filter_dir),
            state_dir: directory(&options.state_dir, self.state_dir),
            runtime_dir: directory(&options.runtime_dir, self.runtime_dir),
            log_level: options.log_level.unwrap_or(self.log_level.max(options.least_level())),
            timeout: options.timeout.map_or(self.timeout, |secs| Duration::from_secs(secs.into())),
            ..self
        }
    }

    /// A relative directory would depend on the directory that the daemon is started in.
    fn checked(self) -> Result<Config, Diagnostic> {
        let named = [
            ("filter_dir", &self.filter_dir),
            ("state_dir", &self.state_dir),
            ("runtime_dir", &self.runtime_dir),
        ];
        if let Some((key, path)) = named.into_iter().find(|(_, path)| !path.is_absolute()) {
            let message = format!("{key} is {path:?}, which is not an absolute path");
            return Err(Diagnostic::error(Code::INTERNAL, message));
        }
        Ok(self)
    }
}

impl Options {
    fn least_level(&self) -> LogLevel {
        match self.verbose {
            0 => LogLevel::Error,
            1 => LogLevel::Info,
            _ => LogLevel::Debug,
        }
    }
}

impl<'de> Deserialize<'de> for FileMode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<FileMode, D::Error> {
        const EXPECTED: &str = "permissions as a string of octal digits, like \"0660\"";
        let text = String::deserialize(deserializer)?;
        let digits = (1..=4).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
        let mode = u32::from_str_radix(&text, 8).ok().filter(|mode| digits && *mode <= 0o777);
        mode.map(FileMode).ok_or_else(|| D::Error::invalid_value(Unexpected::Str(&text), &EXPECTED))
    }
}

/// Seconds, whole or not, up to a year.
fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    #[derive(Clone, Copy)]
    struct Seconds;
    impl de::Visitor<'_> for Seconds {
        type Value = Duration;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a number of seconds that is not negative")
        }
        fn visit_i64<E: Error>(self, value: i64) -> Result<Duration, E> {
            self.visit_f64(value as f64).map_err(|_: E| E::invalid_value(Unexpected::Signed(value), &self))
        }
        fn visit_f64<E: Error>(self, value: f64) -> Result<Duration, E> {
            match Duration::try_from_secs_f64(value) {
                Ok(duration) if value <= 365.0 * 86_400.0 => Ok(duration),
                _ => Err(E::invalid_value(Unexpected::Float(value), &self)),
            }
        }
    }
    deserializer.deserialize_any(Seconds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use std::fs;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(&Source::new("c.conf", text)).map_err(|e| e.to_string())
    }

    fn options(arguments: &[&str]) -> Options {
        Options::try_parse_from([&["nwfilterd"], arguments].concat()).unwrap()
    }

    #[test]
    fn an_error_has_a_line_and_a_column() {
        let cases = [
            ("counters = true\nconters = true\n", "c.conf:2:1: unknown field `conters`"),
            ("\n  grace = -1\n", "c.conf:2:11: invalid value: integer `-1`, expected a number of seconds"),
            ("grace = \"1s\"", "c.conf:1:9: invalid type: string \"1s\", expected a number of seconds"),
            ("timeout = nan", "c.conf:1:11: invalid value"),
            ("timeout = 1e300", "c.conf:1:11: invalid value"),
            ("socket_mode = \"0999\"", "c.conf:1:15: invalid value: string \"0999\", expected permissions"),
            ("socket_mode = \"+600\"", "c.conf:1:15: invalid value"),
            ("socket_mode = \"1777\"", "c.conf:1:15: invalid value"),
            ("socket_mode = 600", "c.conf:1:15: invalid type: integer `600`"),
            (
                "max_clients = 1.5",
                "c.conf:1:15: invalid type: floating point `1.5`, expected a whole number from 0",
            ),
            (
                "fold_up_to = \"many\"",
                "c.conf:1:14: invalid type: string \"many\", expected a whole number from 0",
            ),
            (
                "keepalive_count = 4294967296",
                "c.conf:1:19: invalid value: integer `4294967296`, expected a whole number",
            ),
            ("log_level = \"loud\"", "c.conf:1:13: unknown variant `loud`"),
            (
                "max_clients = -1",
                "c.conf:1:15: invalid value: integer `-1`, expected a whole number from 0 to 4294967295",
            ),
            (
                "\nmetrics = \"0.0.0.0:9477\"",
                "c.conf:2:11: invalid value: string \"0.0.0.0:9477\", expected \"unix:/PATH\"",
            ),
            ("counters = true\ncounters = true", "c.conf:2:1: duplicate key"),
            ("counters = ", "c.conf:1:12: "),
        ];
        for (text, expected) in cases {
            let error = parse(text).unwrap_err();
            assert!(error.starts_with(expected), "{text:?}: {error}");
        }
    }

    #[test]
    fn a_string_without_quotes_gets_advice_to_quote_it() {
        for (line, help) in [
            ("socket_mode = 0600", "socket_mode = \"0600\""),
            ("socket_ro_mode=666 # all", "socket_ro_mode = \"666\""),
            ("log_level = debug", "log_level = \"debug\""),
            ("filter_dir = /srv/filters", "filter_dir = \"/srv/filters\""),
            ("metrics = 127.0.0.1:9477", "metrics = \"127.0.0.1:9477\""),
            ("placement = device", "placement = \"device\""),
            ("socket_group = 64055", "socket_group = \"64055\""),
        ] {
            let source = Source::new("c.conf", format!("grace = 1\n  {line}\ncounters = true\n"));
            let fault = Config::parse(&source).unwrap_err();
            assert!(fault.to_string().starts_with("c.conf:2:"), "{line}: {fault}");
            let found = fault.help.unwrap_or_else(|| panic!("no help for {line}"));
            assert!(found.ends_with(&format!(": {help}")), "{line}: {found}");
        }
        let quoted = Config::parse(&Source::new("c.conf", "log_level = \"loud\"")).unwrap_err();
        assert_eq!(quoted.help, None);
        let number = Config::parse(&Source::new("c.conf", "grace = 01")).unwrap_err();
        assert_eq!(number.help, None);
    }

    #[test]
    fn what_is_not_written_keeps_its_default() {
        assert_eq!(parse("").unwrap(), Config::default());
        let text = "grace = 0.25\nsocket_group = \"libvirt\"\nsocket_mode = \"0660\"\nlog_level = \"debug\"";
        let expected = Config {
            grace: Duration::from_millis(250),
            socket_group: Some("libvirt".into()),
            socket_mode: FileMode(0o660),
            log_level: LogLevel::Debug,
            ..Config::default()
        };
        assert_eq!(parse(text).unwrap(), expected);
    }

    #[test]
    fn metrics_are_served_on_this_host_alone() {
        let loopback = |text: &str| Endpoint::Loopback(text.parse().unwrap());
        for (text, expected) in [
            ("unix:/run/x", Some(Endpoint::Unix("/run/x".into()))),
            ("127.0.0.1:9477", Some(loopback("127.0.0.1:9477"))),
            ("127.9.9.9:1", Some(loopback("127.9.9.9:1"))),
            ("[::1]:9477", Some(loopback("[::1]:9477"))),
            ("0.0.0.0:9477", None),
            ("[::]:9477", None),
            ("192.0.2.1:9477", None),
            ("[fe80::1]:9477", None),
            ("[::ffff:127.0.0.1]:9477", None),
            ("localhost:9477", None),
            ("127.0.0.1:0", None),
            ("127.0.0.1", None),
            (":9477", None),
            ("9477", None),
            ("unix:run/x", None),
            ("unix:", None),
            ("/run/x", None),
            ("", None),
        ] {
            let config = parse(&format!("metrics = \"{text}\""));
            assert_eq!(config.ok().and_then(|config| config.metrics), expected, "{text}");
        }
    }

    #[test]
    fn the_command_line_overrules_the_file() {
        let file = parse("filter_dir = \"/file\"\ntimeout = 5\nlog_level = \"error\"").unwrap();
        let with = |arguments: &[&str]| file.clone().overruled(&options(arguments));
        assert_eq!(with(&[]), file);
        assert_eq!(with(&["--filter-dir", "/line"]).filter_dir, Path::new("/line"));
        assert_eq!(with(&["-t", "120"]).timeout, Duration::from_secs(120));
        assert_eq!(with(&["-v"]).log_level, LogLevel::Info);
        assert_eq!(with(&["-vv"]).log_level, LogLevel::Debug);
        assert_eq!(with(&["-v", "--log-level", "warn"]).log_level, LogLevel::Warn);
    }

    #[test]
    fn virtnwfilterds_command_line_is_taken() {
        let line = ["-d", "-v", "-f", "/c", "-p", "/run/pid", "-t", "120"];
        let options = options(&line);
        assert!(options.daemon);
        assert_eq!((options.config, options.pid_file), (Some("/c".into()), Some("/run/pid".into())));
        let long = ["--daemon", "--verbose", "--config", "/c", "--pid-file", "/p", "--timeout", "1"];
        assert!(Options::try_parse_from([&["nwfilterd"], &long[..]].concat()).is_ok());
        let version = Options::try_parse_from(["nwfilterd", "--version"]).unwrap_err().to_string();
        assert_eq!(version, format!("nwfilterd {}\n", env!("CARGO_PKG_VERSION")));
    }

    #[test]
    fn a_named_file_must_be_there_and_a_directory_must_be_absolute() {
        let error = Config::load(&options(&["-f", "/nowhere/nwfilterd.conf"])).unwrap_err().to_string();
        assert!(error.contains("/nowhere/nwfilterd.conf"), "{error}");
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("c.conf");
        fs::write(&path, "state_dir = \"here\"").unwrap();
        let error = Config::load(&options(&["-f", path.to_str().unwrap()])).unwrap_err().to_string();
        assert!(error.contains("state_dir") && error.contains("absolute"), "{error}");
    }

    #[test]
    fn the_help_names_the_default_directories() {
        let Config { filter_dir, state_dir, runtime_dir, .. } = Config::default();
        let command = Options::command();
        for (option, default) in
            [("filter_dir", filter_dir), ("state_dir", state_dir), ("runtime_dir", runtime_dir)]
        {
            let argument = command.get_arguments().find(|argument| argument.get_id() == option).unwrap();
            let help = argument.get_help().unwrap().to_string();
            assert!(help.ends_with(&format!("else {}]", default.display())), "{option}: {help}");
        }
        let help = Options::command().render_help().to_string();
        assert!(help.contains("else info]") && Config::default().log_level == LogLevel::Info, "{help}");
    }

    /// The shipped file names every key in a comment, with its default.
    #[test]
    fn the_example_file_holds_the_defaults_of_every_key() {
        let text = include_str!("../../packaging/nwfilterd.conf");
        assert_eq!(parse(text).unwrap(), Config::default());
        let written: String = text
            .lines()
            .filter_map(|line| line.strip_prefix('#').filter(|line| line.contains(" = ")))
            .filter(|line| line.chars().next().is_some_and(|c| c.is_ascii_lowercase()))
            .map(|line| format!("{line}\n"))
            .collect();
        let metrics = Some(Endpoint::Unix("/run/libvirt/nwfilter-metrics".into()));
        let example = Config { socket_group: Some("libvirt".into()), metrics, ..Config::default() };
        assert_eq!(parse(&written).unwrap(), example);
        let keys = parse("no_such_key = 1").unwrap_err();
        let known = keys.split('`').skip(3).step_by(2).collect::<Vec<_>>();
        assert!(known.len() >= 18, "{keys}");
        for key in known {
            assert!(written.contains(&format!("{key} = ")), "{key} is not documented");
        }
    }
}
