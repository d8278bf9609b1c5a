//! Pages that people write and that must leave nothing out: every metric, every message of the log, and every set and chain is
//! there.

use super::below_src;
use super::markdown::Page;
use super::root;
use nwfilter::engine::{State, StateGauges};
use nwfilter::ruleset::bypass::BypassCount;
use nwfilter::ruleset::firewall::{Firewall, Policy};
use nwfilter::ruleset::nft::probe::Features;
use nwfilter::service::metrics::{CountedOutcome, Counters, Dropped};
use std::fs;
use std::time::Duration;

#[test]
fn every_metric_is_in_the_reference() {
    let page = Page::read(root().join("docs/src/reference/metrics.md")).text;
    let metrics = metrics();
    assert!(metrics.len() > 15, "{metrics:?}");
    let absent: Vec<&String> = metrics.iter().filter(|name| !page.contains(&format!("| `{name}`"))).collect();
    assert!(absent.is_empty(), "docs/src/reference/metrics.md does not list {absent:?}");
    let listed =
        page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`')).map(|(name, _)| name);
    let gone: Vec<&str> = listed.filter(|name| !metrics.iter().any(|metric| metric == name)).collect();
    assert!(gone.is_empty(), "docs/src/reference/metrics.md lists what is no metric: {gone:?}");
}

#[test]
fn every_warning_and_error_is_in_the_reference() {
    let page = Page::read(root().join("docs/src/reference/log.md")).text;
    let messages = messages();
    assert!(messages.len() > 30, "{messages:?}");
    let absent: Vec<&String> = messages.iter().filter(|message| !page.contains(*message)).collect();
    assert!(absent.is_empty(), "docs/src/reference/log.md does not list {absent:#?}");
}

#[test]
fn every_set_and_chain_is_in_the_reference() {
    let page = Page::read(root().join("docs/src/reference/ruleset.md")).text;
    let layout =
        below_src().into_iter().filter(|path| path.to_str().unwrap().contains("/src/ruleset/layout"));
    let sources: String = layout.map(|path| fs::read_to_string(path).unwrap()).collect();
    let constants = sources.split("const ").skip(1).filter_map(|rest| rest.split_once(": &str = \""));
    let names: Vec<&str> = constants.filter_map(|(_, rest)| Some(rest.split_once('"')?.0)).collect();
    assert!(names.len() > 15, "{names:?}");
    let absent: Vec<&&str> = names.iter().filter(|name| !page.contains(&format!("`{name}`"))).collect();
    assert!(absent.is_empty(), "docs/src/reference/ruleset.md does not list {absent:?}");
}

/// The names as Prometheus sees them.
fn metrics() -> Vec<String> {
    let counters = Counters::default();
    counters.commit(Duration::from_millis(1), CountedOutcome::Refused);
    counters.call("NwfilterLookupByName", CountedOutcome::Refused);
    let dropped = [Dropped {
        interface: "vnet0".into(),
        filter: "clean-traffic".into(),
        rule: "1".into(),
        frames: 1,
        bytes: 60,
    }];
    let missed = [("vnet0".to_owned(), BypassCount { from_guest: 1, to_guest: 1 })];
    let text = counters.text(&census(), &dropped, &missed);
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    types
        .map(|(name, kind)| match kind {
            "counter" => format!("{name}_total"),
            "info" => format!("{name}_info"),
            _ => name.to_owned(),
        })
        .collect()
}

fn census() -> StateGauges {
    State::restore(Firewall::new(Policy::new(Features::default())), [], [], Duration::ZERO).census()
}

/// The text of each, up to what it fills in.
fn messages() -> Vec<String> {
    let sources = below_src();
    let texts = sources.iter().map(|path| fs::read_to_string(path).unwrap());
    let found: Vec<String> = texts.flat_map(|text| messages_of(&text)).collect();
    found.into_iter().filter(|message| !message.is_empty()).collect()
}

fn messages_of(source: &str) -> Vec<String> {
    let calls = ["warn!(", "error!("].into_iter().flat_map(|call| source.split(call).skip(1));
    calls.filter_map(last_string).map(|message| fixed(&message)).collect()
}

/// The part of a message that is the same each time: up to the first value, or behind it.
fn fixed(message: &str) -> String {
    let message = message.split(": it filters").next().unwrap_or_default();
    let filled = message.starts_with('{');
    let parts = message.split(['{', '}']);
    if filled { parts.skip(2).collect() } else { parts.take(1).collect::<String>().trim_end().to_owned() }
}

/// The last string of a call's arguments, which is its message.
fn last_string(call: &str) -> Option<String> {
    let (mut depth, mut last, mut open) = (1, None, None::<String>);
    let mut chars = call.chars();
    while let Some(c) = chars.next() {
        match (&mut open, c) {
            (Some(text), '\\') => match chars.next()? {
                '\n' => chars = chars.as_str().trim_start().chars(),
                escaped => text.push(escaped),
            },
            (Some(_), '"') => last = open.take(),
            (Some(text), c) => text.push(c),
            (None, '"') => open = Some(String::new()),
            (None, '(') => depth += 1,
            (None, ')') => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return last;
        }
    }
    None
}

#[test]
fn the_message_of_a_call_is_its_last_string() {
    let source = "warn!(reason = f(\"no\"), \"it is \\\n    blocked: {x}\"); error!(x, \"{a}; gone\")";
    assert_eq!(messages_of(source), ["it is blocked:", "; gone"]);
}
