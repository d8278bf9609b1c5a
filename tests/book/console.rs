//! Blocks of ```` ```console ```` show what their commands print.
//!
//! A line that begins with `$ ` is a command for the shell; the lines up to the next one are its output, both streams. `[..]`
//! stands for any text within a line, and a line `...` for any lines. A command succeeds, except in a block
//! ```` ```console fails ````. A block ```` ```LANGUAGE file=PATH ```` is a file of the machine, from there on.

use super::lab::in_fresh_netns;
use super::machine::Machine;
use super::markdown::{Block, Page};
use super::{book, tool, updates};
use clap::Parser;
use nwfilter::cli::Cli;
use nwfilter::service::config::Options;
use std::fmt::Write;
use std::fs;
use std::thread;

#[test]
fn commands_print_what_the_book_shows() {
    let tools = ["nft", "ip", "virsh", "ping"];
    if !tools.iter().all(|tool| tool::available(tool, "--tests")) {
        return;
    }
    let pages: Vec<Page> = book().into_iter().filter(has_commands).collect();
    assert!(!pages.is_empty());
    let wrong: Vec<String> = thread::scope(|scope| {
        let runs: Vec<_> = pages.iter().map(|page| scope.spawn(|| in_fresh_netns(|| run(page)))).collect();
        runs.into_iter().filter_map(|run| run.join().expect("each command ends as the page says")).collect()
    });
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn an_output_matches_its_wildcards_and_nothing_else() {
    assert!(matches("a\n...\nz [..] z\n", "a\nb\nc\nz y z\n"));
    assert!(matches("a\n...\n", "a\n"));
    assert!(!matches("a\n", "a\nb\n"));
    assert!(!matches("x[..]x\n", "x\n"));
}

/// What is shown and not run (it would change the host) has at least options that exist.
#[test]
fn commands_that_are_not_run_are_well_formed() {
    let pages = book();
    let blocks = pages.iter().flat_map(Page::blocks).filter(|block| block.info == "sh");
    let lines: Vec<&str> = blocks.flat_map(|block| block.body.lines()).collect();
    let ours: Vec<Vec<&str>> = lines.into_iter().filter_map(our_command).collect();
    assert!(ours.len() > 4, "{ours:?}");
    for words in ours {
        let parsed = match words[0] {
            "nwfilterd" => Options::try_parse_from(&words).map(drop),
            _ => Cli::try_parse_from(&words).map(drop),
        };
        assert!(parsed.is_ok(), "{words:?}: {}", parsed.unwrap_err());
    }
}

/// The words of a command of ours, up to a comment or another command.
fn our_command(line: &str) -> Option<Vec<&str>> {
    let line = line.trim().trim_start_matches("sudo ").trim_start_matches("target/release/");
    let words: Vec<&str> =
        line.split_whitespace().take_while(|word| !["#", "|", "&&"].contains(word)).collect();
    ["nwfilter", "nwfilterd"].contains(words.first()?).then_some(words)
}

fn has_commands(page: &Page) -> bool {
    page.blocks().iter().any(|block| block.info.starts_with("console"))
}

/// What is wrong with a page. With UPDATE=1 the page says afterwards what its commands print.
fn run(page: &Page) -> Option<String> {
    let mut machine = Machine::new();
    let (mut text, mut wrong) = (page.text.clone(), String::new());
    let mut grown = 0_isize;
    for block in page.blocks() {
        if let Some(file) = block.info.split_once("file=").map(|(_, file)| file) {
            machine.write(file, block.body);
        }
        if !block.info.starts_with("console") {
            continue;
        }
        let shown = play(&mut machine, page, &block, &mut wrong);
        let at = |place: usize| place.checked_add_signed(grown).unwrap();
        text.replace_range(at(block.range.start)..at(block.range.end), &shown);
        grown += shown.len() as isize - block.body.len() as isize;
    }
    if updates() && text != page.text {
        fs::write(&page.path, text).unwrap();
        wrong = String::new();
    }
    (!wrong.is_empty()).then_some(wrong)
}

/// Runs the commands of a block; gives the block as it should be.
fn play(machine: &mut Machine, page: &Page, block: &Block, wrong: &mut String) -> String {
    let mut shown = String::new();
    for (command, expected) in commands(block.body) {
        let (succeeded, printed) = machine.run(&command.replace("\\\n", " "));
        let right = matches(&expected, &printed);
        write!(shown, "$ {command}\n{}", if right { &expected } else { &printed }).unwrap();
        if !right {
            let name = page.name();
            writeln!(wrong, "{name}: $ {command}\nthe book shows:\n{expected}it prints:\n{printed}").unwrap();
        }
        let how = if succeeded { "succeeds" } else { "fails" };
        assert!(succeeded != block.info.contains("fails"), "{}: $ {command}\n{how}:\n{printed}", page.name());
    }
    shown
}

/// The commands of a block, each with its output. One that ends in a backslash goes on in the next line.
fn commands(body: &str) -> Vec<(String, String)> {
    let mut commands: Vec<(String, String)> = Vec::new();
    let mut goes_on = false;
    for line in body.lines() {
        match (line.strip_prefix("$ "), commands.last_mut()) {
            (_, Some((command, _))) if goes_on => *command += &format!("\n{line}"),
            (Some(command), _) => commands.push((command.to_owned(), String::new())),
            (None, Some((_, output))) => *output += &format!("{line}\n"),
            (None, None) => panic!("an output before a command: {line}"),
        }
        goes_on = line.ends_with('\\');
    }
    commands
}

fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<&str>, Vec<&str>) = (pattern.lines().collect(), text.lines().collect());
    lines_match(&pattern, &text)
}

fn lines_match(pattern: &[&str], text: &[&str]) -> bool {
    match (pattern.split_first(), text.split_first()) {
        (None, _) => text.is_empty(),
        (Some((&"...", rest)), _) => (0..=text.len()).any(|skipped| lines_match(rest, &text[skipped..])),
        (Some((first, rest)), Some((line, further))) => {
            line_matches(first, line) && lines_match(rest, further)
        }
        (Some(_), None) => false,
    }
}

fn line_matches(pattern: &str, line: &str) -> bool {
    match pattern.split_once("[..]") {
        None => pattern.trim_end() == line.trim_end(),
        Some((before, after)) => line.strip_prefix(before).is_some_and(|rest| {
            (0..=rest.len()).any(|at| rest.is_char_boundary(at) && line_matches(after, &rest[at..]))
        }),
    }
}
