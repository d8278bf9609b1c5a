//! What is counted, and that Prometheus's own reader finds it under the right names.

mod prometheus;
mod tool;

use nwfilter::engine::StateGauges;
use nwfilter::ruleset::bypass::BypassCount;
use nwfilter::service::metrics::{CountedOutcome, Counters, Dropped};
use std::time::Duration;

fn check(counters: &Counters, census: &StateGauges, dropped: &[Dropped], expected: &[(&str, f64)]) {
    let samples = prometheus::read(&counters.text(census, dropped, &[]));
    for (name, value) in expected {
        assert_eq!(samples.get(*name), Some(value), "{name}: {samples:#?}");
    }
}

#[test]
fn what_never_happened_is_there_as_zero() {
    let census = StateGauges {
        bindings: [("enforced", 0), ("waiting", 0), ("closed", 0), ("learning", 0)],
        ..StateGauges::default()
    };
    let names = ["commits_total", "commits_refused_total", "heals_total", "heals_failed_total"];
    let more = ["frames_heard_total", "commit_duration_seconds_count", "filters", "bindings/state=closed"];
    let expected: Vec<String> = names.iter().chain(&more).map(|name| format!("nwfilter_{name}")).collect();
    let expected: Vec<(&str, f64)> = expected.iter().map(|name| (&**name, 0.0)).collect();
    check(&Counters::default(), &census, &[], &expected);
}

#[test]
fn commits_are_counted_and_timed_by_their_outcome() {
    let counters = Counters::default();
    use CountedOutcome::{Done, Refused};
    for (micros, outcome) in [(90, Done), (700, Done), (40_000, Refused), (3_000_000, Done)] {
        counters.commit(Duration::from_micros(micros), outcome);
    }
    counters.healed();
    counters.not_healed();
    counters.not_healed();
    counters.heard(7);
    check(
        &counters,
        &StateGauges::default(),
        &[],
        &[
            ("nwfilter_commits_total", 4.0),
            ("nwfilter_commits_refused_total", 1.0),
            ("nwfilter_commit_duration_seconds_count", 4.0),
            ("nwfilter_commit_duration_seconds_sum", 3.04079),
            ("nwfilter_commit_duration_seconds_bucket/le=0.0001", 1.0),
            ("nwfilter_commit_duration_seconds_bucket/le=0.001", 2.0),
            ("nwfilter_commit_duration_seconds_bucket/le=0.05", 3.0),
            ("nwfilter_commit_duration_seconds_bucket/le=1.0", 3.0),
            ("nwfilter_commit_duration_seconds_bucket/le=+Inf", 4.0),
            ("nwfilter_heals_total", 1.0),
            ("nwfilter_heals_failed_total", 2.0),
            ("nwfilter_frames_heard_total", 7.0),
        ],
    );
}

#[test]
fn a_call_that_never_failed_has_no_errors() {
    let counters = Counters::default();
    counters.call("define-filter", CountedOutcome::Refused);
    counters.call("define-filter", CountedOutcome::Done);
    counters.call("status", CountedOutcome::Done);
    check(
        &counters,
        &StateGauges::default(),
        &[],
        &[
            ("nwfilter_calls_total/procedure=define-filter", 2.0),
            ("nwfilter_call_errors_total/procedure=define-filter", 1.0),
            ("nwfilter_calls_total/procedure=status", 1.0),
            ("nwfilter_call_errors_total/procedure=status", 0.0),
        ],
    );
}

#[test]
fn drops_are_reported_by_interface_and_rule() {
    let dropped = |interface: &str, rule: &str, frames| Dropped {
        interface: interface.into(),
        filter: "no-\"mac\"\\spoofing\n".into(),
        rule: rule.into(),
        frames,
        bytes: frames * 60,
    };
    let list = [dropped("vnet0", "1", 3), dropped("vnet0", "2", 1), dropped("vnet1", "1", u64::MAX / 60)];
    let name = |what: &str, interface: &str, rule: &str| {
        format!(
            "nwfilter_dropped_{what}_total/filter=no-\"mac\"\\spoofing\n/interface={interface}/rule={rule}"
        )
    };
    let most = (u64::MAX / 60) as f64;
    check(
        &Counters::default(),
        &StateGauges::default(),
        &list,
        &[
            (&name("frames", "vnet0", "1"), 3.0),
            (&name("bytes", "vnet0", "1"), 180.0),
            (&name("frames", "vnet0", "2"), 1.0),
            (&name("frames", "vnet1", "1"), most),
        ],
    );
}

#[test]
fn unseen_frames_are_reported_in_each_direction() {
    let missed = [("vnet0".into(), BypassCount { from_guest: 300, to_guest: 0 })];
    let samples = prometheus::read(&Counters::default().text(&StateGauges::default(), &[], &missed));
    for (direction, frames) in [("from-guest", 300.0), ("to-guest", 0.0)] {
        let name = format!("nwfilter_unseen_frames_total/direction={direction}/interface=vnet0");
        assert_eq!(samples.get(&name), Some(&frames), "{samples:#?}");
    }
}
