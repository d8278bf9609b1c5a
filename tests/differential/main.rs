//! One frame, four judges: the evaluator over a program with constants, the evaluator over a program with slots, and the
//! kernel with each of both programs in force. Filters and frames are made at random, the frames aimed at the
//! filters; all four must agree on every pair. What an audit is certain of is held against the same filters and frames.
//!
//! `NWFILTER_PAIRS` and `NWFILTER_SEED` ask for more or for others, `NWFILTER_JOBS` for threads. Needs root.

mod bench;
mod cases;
mod dice;
mod filters;
mod frames;
#[path = "../lab/mod.rs"]
mod lab;

use bench::{Bench, Subject};
use dice::Dice;
use lab::Way;
use nwfilter::program::Direction;
use nwfilter::program::eval::Frame;
use nwfilter::report::audit::audit;
use nwfilter::report::explain::{Explainer, Rejects};
use std::collections::BTreeSet;
use std::sync::Mutex;

/// Frames tried on each filter.
const FRAMES: usize = 100;
const PAIRS: usize = 20_000;
const SEED: u64 = 20_261_124;
/// Disagreements reported before giving up.
const REPORTED: usize = 3;

fn asked<T: std::str::FromStr>(name: &str, default: T) -> T {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[derive(Debug, Default)]
struct Tally {
    pairs: usize,
    filters: usize,
    passed: usize,
    unusable: usize,
    cut: usize,
    disagreements: Vec<String>,
}

// P-43
#[test]
fn the_evaluator_slots_constants_and_the_kernel_agree() {
    let (pairs, seed, jobs) =
        (asked("NWFILTER_PAIRS", PAIRS), asked("NWFILTER_SEED", SEED), asked("NWFILTER_JOBS", 1));
    let tally = Mutex::new(Tally::default());
    std::thread::scope(|scope| {
        for job in 0..jobs {
            let tally = &tally;
            scope.spawn(move || lab::in_fresh_netns(|| run(Dice::new(seed + job), pairs, tally)));
        }
    });
    let tally = tally.into_inner().unwrap();
    let Tally { pairs, filters, passed, unusable, cut, .. } = tally;
    println!(
        "{pairs} pairs of a filter and a frame agree, {filters} filters, {passed} passed, {unusable} made in vain, layouts differ on {cut} frames cut off inside of an address, seed {seed}"
    );
    assert!(tally.disagreements.is_empty(), "seed {seed}\n{}", tally.disagreements.join("\n\n"));
    assert!(passed > pairs / 20 && passed < pairs - pairs / 20, "the frames are badly aimed");
}

fn run(mut dice: Dice, pairs: usize, tally: &Mutex<Tally>) {
    let mut bench = Bench::new();
    loop {
        let subject = filters::subject(&mut dice);
        let frames: Vec<_> = (0..FRAMES).map(|_| frames::frame(&mut dice)).collect();
        let opinions = bench.ask(&subject, &frames);
        let mut all = tally.lock().unwrap();
        let Some(opinions) = opinions else {
            all.unusable += 1;
            continue;
        };
        all.filters += 1;
        all.pairs += opinions.len();
        all.passed += opinions.iter().filter(|opinion| opinion.all_pass()).count();
        all.cut += opinions.iter().filter(|opinion| !opinion.layouts_agree()).count();
        let odd = opinions.iter().zip(&frames).find(|(opinion, (_, frame))| !opinion.agree(frame));
        let reported = odd.map(|(opinion, (way, frame))| bench.tell(&subject, opinion, *way, frame));
        all.disagreements.extend(reported);
        if all.pairs >= pairs || all.disagreements.len() >= REPORTED {
            return;
        }
    }
}

#[test]
fn disagreements_once_found_are_mended() {
    lab::in_fresh_netns(|| {
        let mut bench = Bench::new();
        for case in cases::cases() {
            let subject = Subject::of(&[format!("<filter name='f0'>{}</filter>", case.filter)], &case.vars);
            let opinions =
                bench.ask(&subject, &case.frames).unwrap_or_else(|| panic!("{}: refused", case.name));
            for (opinion, (way, frame)) in opinions.iter().zip(&case.frames) {
                let right = opinion.agree(frame) && opinion.all_pass() == case.passes;
                assert!(right, "{}\n{}", case.name, bench.tell(&subject, opinion, *way, frame));
            }
        }
    });
}

/// What the audit says no frame is left for, no frame matches.
#[test]
fn rules_that_no_frame_is_left_for_match_no_frame() {
    let (mut dice, mut hidden) = (Dice::new(asked("NWFILTER_SEED", SEED)), 0);
    for _ in 0..asked("NWFILTER_PAIRS", PAIRS) / FRAMES {
        let subject = filters::subject(&mut dice);
        let frames: Vec<_> = (0..FRAMES).map(|_| frames::frame(&mut dice)).collect();
        let library = subject.library();
        let lookup = |name: &str| library.get(name);
        let (Ok(explainer), Ok(reported)) =
            (Explainer::new(&lookup, "f0", &subject.vars, Rejects::Answer), audit(&lookup, "f0"))
        else {
            continue;
        };
        let reported = reported.into_iter().filter(|reported| reported.message.starts_with("no frame "));
        let reported: BTreeSet<String> =
            reported.filter_map(|reported| Some(reported.place?.line_column())).collect();
        hidden += reported.len();
        for (way, bytes) in frames.iter().filter(|_| !reported.is_empty()) {
            let way = if *way == Way::FromGuest { Direction::Out } else { Direction::In };
            let explanation = explainer.explain(way, Frame { bytes, ..Frame::default() });
            let matched =
                explanation.chains.iter().flat_map(|chain| &chain.tried).filter(|tried| tried.matched);
            for tried in matched {
                assert!(!reported.contains(&tried.rule.place), "{reported:?}\n{subject:?}\n{explanation}");
            }
        }
    }
    println!("{hidden} rules that no frame is left for matched none of {FRAMES} frames each");
    assert!(hidden > 10, "{hidden} hidden rules prove little");
}
