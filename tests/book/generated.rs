//! Pages that the code gives: protocols from the attribute table, commands from the definitions of the command line.

use super::holds;
use clap::builder::StyledStr;
use clap::{Arg, Command, CommandFactory};
use nwfilter::cli::Cli;
use nwfilter::document::filter::reference;
use nwfilter::document::filter::schema::{PROTOCOLS, Protocol};
use nwfilter::service::config::Options;
use std::fmt::Write;

const NOTICE: &str = "<!-- Written by `UPDATE=1 cargo test --test book`. -->";

#[test]
fn the_page_of_protocols_is_the_attribute_table() {
    holds("docs/src/reference/protocols.md", &protocols());
}

#[test]
fn the_page_of_commands_is_the_command_line() {
    holds("docs/src/reference/commands.md", &commands());
}

fn protocols() -> String {
    let mut page = format!(
        "# Protocols and attributes\n\n{NOTICE}\n\nEvery protocol element of a rule, with every attribute that it takes. \
         [The filter language](filter-language.md) says how rules are judged. A value may be a variable, `$NAME`, in place of \
         a constant. Numbers are decimal, or hexadecimal with `0x`, where a row does not say otherwise.\n\n| element | frames |\n| --- | --- |\n"
    );
    for protocol in PROTOCOLS {
        writeln!(page, "| [`{0}`](#{0}) | {1} |", protocol.name, reference::frames(protocol)).unwrap();
    }
    PROTOCOLS.iter().for_each(|protocol| page.push_str(&section(protocol)));
    page
}

fn section(protocol: &'static Protocol) -> String {
    let mut text = format!("\n## `{}`\n\n{}.\n\n", protocol.name, reference::frames(protocol));
    text.push_str("| attribute | matches | values | mask or end of range |\n| --- | --- | --- | --- |\n");
    for row in reference::rows(protocol) {
        let partners: Vec<String> = row.partners.iter().map(|name| format!("`{name}`")).collect();
        writeln!(text, "| `{}` | {} | {} | {} |", row.name, row.matches, row.values, partners.join(", "))
            .unwrap();
    }
    text
}

fn commands() -> String {
    let mut page = format!(
        "# Commands\n\n{NOTICE}\n\nWhat `--help` says, of both programs. [Exit codes](exit-codes.md) are on a page of their own.\n"
    );
    let mut cli = Cli::command();
    cli.build();
    cli.get_subcommands().filter(|command| command.get_name() != "help").for_each(|command| {
        page.push_str(&command_section(command));
        let verbs = command.get_subcommands().filter(|verb| verb.get_name() != "help");
        verbs.for_each(|verb| page.push_str(&command_section(verb)));
    });
    let mut daemon = Options::command();
    daemon.build();
    page.push_str(&command_section(&daemon));
    page
}

fn command_section(command: &Command) -> String {
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ").trim_end();
    let name = command.get_bin_name().unwrap_or(command.get_name());
    let mut text = format!("\n## {name}\n\n{}\n\n```text\n{usage}\n```\n", prose(command.get_about()));
    let arguments: Vec<&Arg> = command.get_arguments().filter(|argument| is_ours(argument)).collect();
    if !arguments.is_empty() {
        text.push('\n');
    }
    arguments.iter().for_each(|argument| text.push_str(&item(argument)));
    text
}

/// clap's own are the same everywhere.
fn is_ours(argument: &Arg) -> bool {
    !matches!(argument.get_id().as_str(), "help" | "version") && !argument.is_hide_set()
}

fn item(argument: &Arg) -> String {
    let help = prose(argument.get_long_help().or(argument.get_help()));
    let mut text = format!("* `{}`: {help}", argument.to_string().trim());
    let values: Vec<String> =
        argument.get_possible_values().iter().map(|value| format!("`{}`", value.get_name())).collect();
    if argument.get_action().takes_values() && !values.is_empty() {
        write!(text, " One of {}.", values.join(", ")).unwrap();
    }
    let default: Vec<_> = argument.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
    if argument.get_action().takes_values() && !default.is_empty() {
        write!(text, " Default: `{}`.", default.join(" ")).unwrap();
    }
    text.push('\n');
    text
}

/// A help text as a sentence of Markdown.
fn prose(help: Option<&StyledStr>) -> String {
    let text = help.map(ToString::to_string).unwrap_or_default();
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ").replace('<', "&lt;");
    if text.is_empty() || text.ends_with('.') { text } else { format!("{text}.") }
}
