//! The command `nwfilter`: its arguments, and what becomes of them.
//!
//! Everything works without the daemon, from any directory. The kernel itself is the memory: what is bound is read
//! from our tables. Where the daemon runs, it owns the tables and is asked to do the change.

mod date;
mod documents;
mod enforce;
mod explain;
mod filters;
mod guard;
mod ipset;
mod man;
mod params;
mod print;
mod status;
mod trace;
mod whole;

use crate::document::catalog::Library;
use crate::document::diag::{Code, Diagnostic, lines, render, render_in_color};
use crate::document::mac::Mac;
use crate::program::compile::HostToGuest;
use crate::service::config::Config;
use clap::{Args, CommandFactory, Parser, Subcommand};
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Network filters for virtual machine interfaces: check them, compile them, enforce them.
#[derive(Debug, Parser)]
#[command(name = "nwfilter", version, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Where the daemon's socket and the records of bindings are [default: the environment variable
    /// NWFILTER_RUNTIME_DIR, else /run/libvirt]
    #[arg(long, global = true, value_name = "DIR")]
    runtime_dir: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Say what is wrong with filters and bindings, and where.
    Check(documents::CheckArgs),
    /// Print a filter or binding the way libvirt does.
    Fmt {
        /// The document; `-` is the standard input.
        file: PathBuf,
        /// Write it back instead.
        #[arg(long)]
        write: bool,
    },
    /// Print the program that a filter compiles to.
    Compile {
        #[command(flatten)]
        filter: FilterArgs,
        /// The program that many interfaces share, with sets in the place of variables.
        #[arg(long)]
        slots: bool,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Bind an interface to a filter, or change its binding.
    Apply(BindArgs),
    /// Print what `apply` would change, and change nothing. Where the daemon runs, the daemon works it out.
    Plan(BindArgs),
    /// Define filters by name, or replace those that have their names, and say who uses them.
    Define {
        /// Filter documents, of which all are taken or none; `-` is the standard input.
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// Where filters are kept, for when no daemon runs.
        #[arg(long, default_value = FILTERS)]
        dir: PathBuf,
    },
    /// Undefine a filter that no interface uses.
    Undefine {
        /// Its name.
        name: String,
        /// Where filters are kept, for when no daemon runs.
        #[arg(long, default_value = FILTERS)]
        dir: PathBuf,
    },
    /// Unbind interfaces. Their frames are no longer filtered.
    Remove {
        /// The interface; again for more.
        #[arg(long, required_unless_present_any = ["index", "all"])]
        dev: Vec<String>,
        /// The index of an interface instead, for one that is gone.
        #[arg(long, conflicts_with = "dev")]
        index: Option<u32>,
        /// All interfaces that are bound.
        #[arg(long, conflicts_with_all = ["dev", "index"])]
        all: bool,
    },
    /// Say whether a frame passes, and which rule of which filter decides.
    Explain(explain::ExplainArgs),
    /// Show each frame of an interface with its verdict and the rule that decides, until interrupted.
    Trace {
        /// The interface.
        #[arg(long)]
        dev: String,
        /// Only frames that are dropped.
        #[arg(long)]
        drops: bool,
        /// Also write the frames to this file, for Wireshark. The comment of each frame is its verdict and the rule that
        /// decides. The kernel reports only the headers of a frame, so each frame ends behind them. `-` writes to the standard
        /// output and prints no lines.
        #[arg(long, value_name = "FILE")]
        pcapng: Option<PathBuf>,
        /// Where filters are looked up, to name the line of a rule.
        #[arg(long, default_value = FILTERS)]
        dir: PathBuf,
    },
    /// Show the bound interfaces, their programs and counters.
    #[command(visible_alias = "list")]
    Status {
        /// This interface alone.
        #[arg(long)]
        dev: Option<String>,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Look at and change the sets of addresses that filters refer to with `ipset`.
    Ipset {
        #[command(subcommand)]
        verb: ipset::Verb,
    },
    /// Print completions for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Write the man pages of both programs to a directory, and print how many.
    Man {
        /// The directory. It must exist; pages of these names in it are replaced.
        #[arg(long, default_value = ".")]
        dir: PathBuf,
    },
}

/// Where filters are looked up: libvirt's own directory.
const FILTERS: &str = "/etc/libvirt/nwfilter";

#[derive(Debug, Args)]
struct FilterArgs {
    /// The name of the filter.
    #[arg(long)]
    filter: String,
    /// A variable and its value, `IP=10.0.0.1`; again for a list. Where IP is not given, `CTRL_IP_LEARNING=any`, `dhcp` or
    /// `none` says how the daemon finds it out.
    #[arg(long = "param", value_name = "NAME=VALUE", value_parser = parameter)]
    params: Vec<(String, String)>,
    /// Where filters are looked up. Standard filters that are not there are taken from this program.
    #[arg(long, default_value = FILTERS)]
    dir: PathBuf,
}

#[derive(Debug, Args)]
struct BindArgs {
    /// The interface.
    #[arg(long)]
    dev: String,
    /// The guest's MAC address.
    #[arg(long)]
    mac: Mac,
    #[command(flatten)]
    filter: FilterArgs,
    /// Count the frames of every rule. The daemon, where it runs, decides that for all interfaces.
    #[arg(long)]
    counters: bool,
    /// Only warn of what libvirt ignores. A rule with such a fault may match more frames than it says. Refused where the
    /// daemon runs.
    #[arg(long)]
    lenient: bool,
    /// Whether packets that the host itself sends to the guest pass the IP layer (the default) or are judged there.
    #[arg(long, value_enum)]
    host_to_guest: Option<HostToGuest>,
}

/// Why a command did not do what it was asked for.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Documents or values are at fault.
    Faults(Vec<Diagnostic>),
    /// The host is: no such interface, no permission, a refusal of the kernel.
    Host(String),
}

type Outcome = Result<(), Failure>;

/// Runs the command line of this process. The exit code is 0 for done, 1 for documents or values at fault, 2 for a
/// wrong command line, 3 for anything the host refuses.
pub fn main() -> ExitCode {
    let Cli { command, runtime_dir } = Cli::parse();
    status::look_in(runtime_dir);
    match run(command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Faults(faults)) => {
            show(&faults);
            ExitCode::from(1)
        }
        Err(Failure::Host(reason)) => {
            let _ = writeln!(io::stderr(), "error: {reason}");
            ExitCode::from(3)
        }
    }
}

fn run(command: Command) -> Outcome {
    match command {
        Command::Check(arguments) => documents::check(&arguments),
        Command::Fmt { file, write } => documents::format(&file, write),
        Command::Compile { filter, slots, json } => print::compile(&filter, slots, json),
        Command::Apply(arguments) => enforce::apply(&arguments),
        Command::Plan(arguments) => enforce::plan(&arguments),
        Command::Define { files, dir } => filters::define(&files, &dir),
        Command::Undefine { name, dir } => filters::undefine(&name, &dir),
        Command::Remove { dev, index, all } => enforce::remove_all(&dev, index, all),
        Command::Explain(arguments) => explain::run(&arguments),
        Command::Trace { dev, drops, pcapng, dir } => trace::run(&dev, drops, pcapng.as_deref(), &dir),
        Command::Status { dev, json } => status::show(dev.as_deref(), json),
        Command::Ipset { verb } => ipset::run(&verb),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "nwfilter", &mut io::stdout());
            Ok(())
        }
        Command::Man { dir } => {
            let pages = man::write(&dir).map_err(|error| Failure::host(&dir.display(), &error))?;
            print(&format!("{pages} man pages written to {}\n", dir.display()));
            Ok(())
        }
    }
}

/// The filters of a directory, as the daemon takes them.
fn library(directory: &Path) -> Result<Library, Failure> {
    let library = Library::load_recorded(directory, &Config::default().state_dir);
    library.map_err(|error| Failure::host(&directory.display(), &error))
}

/// Prints diagnostics where people look for them.
fn show(diagnostics: &[Diagnostic]) {
    let text = if io::stderr().is_terminal() { render_in_color(diagnostics) } else { render(diagnostics) };
    let _ = io::stderr().write_all(text.as_bytes());
}

/// Prints to the standard output; a reader that went away is no failure.
fn print(text: &str) {
    let _ = io::stdout().write_all(text.as_bytes());
}

/// Says something that is no failure.
fn note(text: &str) {
    let _ = writeln!(io::stderr(), "note: {text}");
}

fn parameter(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.is_empty() || !name.chars().all(plain) {
        return Err(format!("invalid variable name {name:?}: use letters, digits and `_`"));
    }
    Ok((name.to_owned(), value.to_owned()))
}

impl Failure {
    fn fault(error: &dyn std::error::Error) -> Failure {
        Failure::Faults(vec![Diagnostic::error(Code::INVALID_ARG, error.to_string())])
    }

    fn host(what: &dyn std::fmt::Display, error: &(dyn std::error::Error + 'static)) -> Failure {
        let step = if is_denied(error) { "; run this command as root" } else { "" };
        Failure::Host(format!("{what}: {}{step}", reason(error)))
    }

    /// The failure of a change that was taken back; where that failed as well, both are reported.
    fn undone(self, undoing: Outcome) -> Failure {
        let Err(also) = undoing else { return self };
        Failure::Host(format!("{self}\nerror: the change could not be taken back: {also}"))
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failure::Faults(faults) => f.write_str(&lines(faults)),
            Failure::Host(reason) => f.write_str(reason),
        }
    }
}

/// What an error says, then each cause that it does not repeat.
fn reason(error: &(dyn std::error::Error + 'static)) -> String {
    causes(error).skip(1).map(ToString::to_string).fold(error.to_string(), |text, cause| {
        if text.contains(&cause) { text } else { format!("{text}: {cause}") }
    })
}

/// Whether the system refused this for want of rights.
fn is_denied(error: &(dyn std::error::Error + 'static)) -> bool {
    let of_the_system = |cause: &(dyn std::error::Error + 'static)| cause.downcast_ref().map(io::Error::kind);
    causes(error).filter_map(of_the_system).any(|kind| kind == io::ErrorKind::PermissionDenied)
}

/// An error, then its causes.
fn causes<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |cause| cause.source())
}

impl From<Vec<Diagnostic>> for Failure {
    fn from(faults: Vec<Diagnostic>) -> Failure {
        Failure::Faults(faults)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::store::Fault;

    fn refused(kind: io::ErrorKind) -> String {
        let fault = Fault::Io { doing: "open", path: "/run/x.lock".into(), source: kind.into() };
        Failure::host(&"status files", &fault).to_string()
    }

    #[test]
    fn a_host_failure_reports_its_cause() {
        let message = refused(io::ErrorKind::ReadOnlyFilesystem);
        assert_eq!(message, "status files: /run/x.lock: open: read-only filesystem or storage medium");
    }

    #[test]
    fn a_want_of_rights_names_root() {
        let message = refused(io::ErrorKind::PermissionDenied);
        assert_eq!(message, "status files: /run/x.lock: open: permission denied; run this command as root");
        let plain = Failure::host(&"netfilter", &io::Error::from(io::ErrorKind::PermissionDenied));
        assert_eq!(plain.to_string(), "netfilter: permission denied; run this command as root");
    }

    #[test]
    fn a_failed_rollback_reports_both_failures() {
        let refused = || Failure::Host("the kernel refuses rule 3".into());
        assert_eq!(refused().undone(Ok(())).to_string(), "the kernel refuses rule 3");
        let message = refused().undone(Err(Failure::Host("status files: no space left".into()))).to_string();
        assert!(
            message.contains("refuses rule 3") && message.contains("taken back: status files: no space"),
            "{message}"
        );
        let fault = Failure::from(vec![Diagnostic::error(Code::INTERNAL, "no such filter")]);
        assert!(refused().undone(Err(fault)).to_string().ends_with("no such filter"));
    }
}
