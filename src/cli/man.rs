//! The man pages: one for each command, the daemon's, that of its configuration, and that of the filter language.
//!
//! Pages of commands are what clap knows, with sections that it does not have behind them. Every page is written or the first
//! failure is returned.

mod sections;
mod topics;

use super::Cli;
use crate::service::config::Options;
use clap::{Command, CommandFactory};
use clap_mangen::Man;
use std::fs;
use std::io;
use std::path::Path;

/// Writes the pages; gives how many.
pub(super) fn write(directory: &Path) -> io::Result<usize> {
    let mut cli = Cli::command().disable_help_subcommand(true);
    cli.build();
    let mut written = 0;
    for command in all(&cli) {
        page(command.clone(), "1", directory)?;
        written += 1;
    }
    page(Options::command(), "8", directory)?;
    fs::write(directory.join("nwfilterd.conf.5"), topics::configuration())?;
    fs::write(directory.join("nwfilter-filter.7"), topics::filter_language())?;
    Ok(written + 3)
}

/// A command and those below it.
fn all(command: &Command) -> Vec<&Command> {
    let below = command.get_subcommands().filter(|command| !command.is_hide_set()).flat_map(all);
    std::iter::once(command).chain(below).collect()
}

fn page(command: Command, section: &str, directory: &Path) -> io::Result<()> {
    let name = command.get_display_name().unwrap_or(command.get_name()).to_owned();
    let man = Man::new(command).title(name.clone()).section(section);
    let mut text = Vec::new();
    man.render(&mut text)?;
    text.extend(sections::of(&name).into_bytes());
    fs::write(directory.join(man.get_filename()), text)
}
