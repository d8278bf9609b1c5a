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

fn page(mut command: Command, section: &str, directory: &Path) -> io::Result<()> {
    let name = command.get_display_name().unwrap_or(command.get_name()).to_owned();
    let usage = command.render_usage().to_string();
    let subcommands = command.has_subcommands();
    let source = concat!("nwfilter ", env!("CARGO_PKG_VERSION"));
    let man = Man::new(command).title(name.clone()).section(section).source(source);
    let mut text = Vec::new();
    man.render_title(&mut text)?;
    man.render_name_section(&mut text)?;
    text.extend(sections::synopsis(&usage).into_bytes());
    man.render_description_section(&mut text)?;
    man.render_options_section(&mut text)?;
    if subcommands {
        man.render_subcommands_section(&mut text)?;
    }
    text.extend(sections::of(&name).into_bytes());
    fs::write(directory.join(man.get_filename()), text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Also: required options come with their values, as `--help` shows them.
    #[test]
    fn each_page_names_its_command_its_usage_and_this_version() {
        let place = tempfile::tempdir().unwrap();
        let written = write(place.path()).unwrap();
        let read = |page: &str| fs::read_to_string(place.path().join(page)).unwrap();
        let usage = "nwfilter plan [OPTIONS] \\-\\-dev <DEV> \\-\\-mac <MAC> \\-\\-filter <FILTER>";
        let page = read("nwfilter-plan.1");
        assert!(page.contains(&format!(".SH SYNOPSIS\n{usage}\n")), "{page}");
        assert!(read("nwfilter-ipset.1").contains("SUBCOMMANDS"));
        let pages: Vec<_> = fs::read_dir(place.path()).unwrap().map(|page| page.unwrap().path()).collect();
        assert_eq!(pages.len(), written);
        for page in pages {
            let text = fs::read_to_string(&page).unwrap();
            let title = text.lines().find(|line| line.starts_with(".TH")).unwrap();
            assert!(title.contains(env!("CARGO_PKG_VERSION")), "{}: {title}", page.display());
        }
    }
}
