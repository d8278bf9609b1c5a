//! The daemon's core on a simulated machine: any order of events, refusals and crashes by seed, and what must hold after each.
//!
//! A run is a list of [`Event`]s made from a seed; each has a seed of its own for all that the machine decides meanwhile. So a run is
//! repeated exactly, and one that breaks a promise is shrunk by leaving events out.

mod checks;
mod disk;
mod events;
mod kernel;
mod machine;
mod reference;
mod run;
mod under_way;

use events::Event;
use machine::Mutation;
use run::{Outcome, logged, run};
use std::path::Path;
use std::time::{Duration, Instant};

/// Events of one run: short runs reach more machines.
const LENGTH: usize = 60;

/// Runs seed after seed until it is enough or a promise is broken.
fn search(first: u64, mutation: Option<Mutation>, enough: impl Fn(u64) -> bool) -> (Outcome, u64, u64) {
    let (mut events, mut seed) = (0, first);
    let mut all = Outcome::default();
    while !enough(events) {
        let outcome = run(seed, &Event::of_seed(seed, LENGTH), mutation);
        events += outcome.events;
        if outcome.violation.is_some() {
            return (outcome, seed, events);
        }
        outcome.faults.into_iter().for_each(|(fault, times)| *all.faults.entry(fault).or_default() += times);
        seed += 1;
    }
    (all, seed, events)
}

/// Enough is what fits into this time.
fn within(limit: Duration) -> impl Fn(u64) -> bool {
    let began = Instant::now();
    move |_| began.elapsed() >= limit
}

/// The shortest list of events found that breaks the same promise.
fn shrunk(seed: u64, mutation: Option<Mutation>) -> Vec<Event> {
    let mut events = Event::of_seed(seed, LENGTH);
    let mut size = events.len() / 2;
    while size > 0 {
        let mut at = 0;
        while at < events.len() {
            let mut fewer = events.clone();
            fewer.drain(at..(at + size).min(events.len()));
            match run(seed, &fewer, mutation).violation {
                Some(_) => events = fewer,
                None => at += size,
            }
        }
        size /= 2;
    }
    events
}

fn assert_quiet(first: u64, enough: impl Fn(u64) -> bool) {
    let began = Instant::now();
    let (outcome, seed, events) = search(first, None, enough);
    if outcome.violation.is_some() {
        let (outcome, log) = logged(seed, &shrunk(seed, None), None);
        let violation = outcome.violation.unwrap_or_default();
        panic!("seed {seed} of commit {}: {violation}\nafter:\n{}", commit(), log.join("\n"));
    }
    println!(
        "seeds {first}..{seed}, {events} events, {:.0} a second",
        events as f64 / began.elapsed().as_secs_f64()
    );
    outcome.faults.iter().for_each(|(fault, times)| println!("  {fault}: {times}"));
}

/// The commit of these sources, as far as they say it.
fn commit() -> String {
    let git = Path::new(env!("CARGO_MANIFEST_DIR")).join(".git");
    let head = std::fs::read_to_string(git.join("HEAD")).unwrap_or_default();
    let of_branch = |branch: &str| std::fs::read_to_string(git.join(branch.trim())).ok();
    let commit = head.strip_prefix("ref: ").map_or(Some(head.clone()), of_branch);
    commit.filter(|commit| !commit.is_empty()).map_or("unknown".into(), |commit| commit.trim().to_owned())
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// About ten seconds, and the same seeds on every machine.
#[test]
fn no_order_of_faults_breaks_a_promise() {
    assert_quiet(1, |events| events >= 5000);
}

/// Seeds that found a fault of the daemon once.
#[test]
fn what_was_found_once_stays_mended() {
    for seed in [103, 112, 180, 193, 262, 397, 720, 894, 1010, 1012, 1099, 1165, 1227, 1393, 1473, 5462] {
        assert_eq!(run(seed, &Event::of_seed(seed, LENGTH), None).violation, None, "seed {seed}");
    }
}

/// `make simulate SEED=1 STEPS=1000000`.
#[test]
#[ignore = "as long as asked for"]
fn for_as_long_as_asked() {
    let steps = number("STEPS", 1_000_000);
    assert_quiet(number("SEED", 1), |events| events >= steps);
}

#[test]
fn each_deliberate_bug_is_found() {
    use Mutation::*;
    let mutations = [
        SyncLost,
        UndoLost,
        SwitchFirst,
        NoWait,
        RefusalLost,
        GotosOnly,
        LinkEventLost,
        HalfBatch,
        ElementStays,
        AdoptionWithChains,
    ];
    for mutation in mutations {
        let (outcome, seed, events) = search(1, Some(mutation), within(Duration::from_secs(60)));
        let violation =
            outcome.violation.unwrap_or_else(|| panic!("{mutation:?} is not found in {events} events"));
        println!("{mutation:?}: seed {seed}, {events} events: {violation}");
    }
}
