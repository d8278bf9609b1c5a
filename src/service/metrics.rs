//! Figures of the daemon as text that Prometheus reads.
//!
//! [`Counters`] count what happens, from the daemon's start; what there is at the moment comes as an argument when the
//! text is made. Neither a clock nor a socket: the daemon knows which client asks and how long something took.

use crate::engine::StateGauges;
use crate::report::status::{Interface, Status};
use crate::ruleset::bypass::BypassCount;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use std::time::Duration;

/// What happened since the daemon's start. Copies count together.
#[derive(Clone, Debug)]
pub struct Counters {
    commits: Counter,
    refused: Counter,
    took: Histogram,
    heals: Counter,
    not_healed: Counter,
    calls: Family<Label, Counter>,
    errors: Family<Label, Counter>,
    heard: Counter,
    looks: Counter,
}

/// What one rule dropped at one interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dropped {
    /// The interface's name.
    pub interface: String,
    /// The rule's filter.
    pub filter: String,
    /// The rule, as the status names it.
    pub rule: String,
    /// Frames.
    pub frames: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What a status reports of drops. Those of no rule, or of one that is no more, have empty labels.
pub fn dropped(status: &Status) -> Vec<Dropped> {
    let of = |interface: &Interface| {
        let name = interface.name.clone().unwrap_or_default();
        let one = move |drop: &crate::ruleset::counters::Dropped| Dropped {
            interface: name.clone(),
            filter: drop.filter.clone().unwrap_or_default(),
            rule: drop.rule.map_or(String::new(), |rule| rule.to_string()),
            frames: drop.count.frames,
            bytes: drop.count.bytes,
        };
        interface.dropped.iter().map(one).collect::<Vec<_>>()
    };
    status.interfaces.iter().flat_map(of).collect()
}

/// What a change or a call came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CountedOutcome {
    /// It was done.
    Done,
    /// It was refused.
    Refused,
}

impl<T, E> From<&Result<T, E>> for CountedOutcome {
    fn from(result: &Result<T, E>) -> CountedOutcome {
        if result.is_ok() { CountedOutcome::Done } else { CountedOutcome::Refused }
    }
}

type Label = [(&'static str, &'static str); 1];

/// Upper bounds of durations in seconds: from one set element to a whole new rule set.
const BUCKETS: [f64; 12] = [1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0];

impl Default for Counters {
    fn default() -> Counters {
        Counters {
            commits: Counter::default(),
            refused: Counter::default(),
            took: Histogram::new(BUCKETS),
            heals: Counter::default(),
            not_healed: Counter::default(),
            calls: Family::default(),
            errors: Family::default(),
            heard: Counter::default(),
            looks: Counter::default(),
        }
    }
}

impl Counters {
    /// A change of rules was taken by the kernel, or refused.
    pub fn commit(&self, took: Duration, outcome: CountedOutcome) {
        self.commits.inc();
        if outcome == CountedOutcome::Refused {
            self.refused.inc();
        }
        self.took.observe(took.as_secs_f64());
    }

    /// What another program did to our rules was undone.
    pub fn healed(&self) {
        self.heals.inc();
    }

    /// What another program did to our rules could not be undone.
    pub fn not_healed(&self) {
        self.not_healed.inc();
    }

    /// A client was answered.
    pub fn call(&self, procedure: &'static str, outcome: CountedOutcome) {
        let label = [("procedure", procedure)];
        self.calls.get_or_create(&label).inc();
        let errors = self.errors.get_or_create(&label);
        if outcome == CountedOutcome::Refused {
            errors.inc();
        }
    }

    /// Guests' frames gave learners an observation.
    pub fn heard(&self, frames: usize) {
        self.heard.inc_by(frames as u64);
    }

    /// It was looked whether interfaces carry frames that no rule sees.
    pub fn look(&self) {
        self.looks.inc();
    }

    /// All figures. Frames that no rule saw come by the name of their interface.
    pub fn text(
        &self,
        census: &StateGauges,
        dropped: &[Dropped],
        missed: &[(String, BypassCount)],
    ) -> String {
        let mut registry = Registry::with_prefix("nwfilter");
        self.register(&mut registry);
        register_census(&mut registry, census);
        register_dropped(&mut registry, dropped);
        register_missed(&mut registry, missed);
        let mut text = String::new();
        encode(&mut text, &registry).expect("a string takes everything");
        text
    }

    fn register(&self, to: &mut Registry) {
        to.register("build", "The daemon", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
        for (name, help, counter) in [
            ("commits", "Changes of rules that were sent to the kernel", &self.commits),
            ("commits_refused", "Changes of rules that the kernel refused", &self.refused),
            ("heals", "Times that rules changed by another program were restored", &self.heals),
            ("heals_failed", "Times that they could not be restored", &self.not_healed),
            ("traffic_checks", "Times that frames were looked for that no rule sees", &self.looks),
            ("frames_heard", "Frames of guests that carried information about their addresses", &self.heard),
        ] {
            to.register(name, help, counter.clone());
        }
        let help = "Time from a change to the kernel's answer";
        to.register_with_unit("commit_duration", help, Unit::Seconds, self.took.clone());
        to.register("calls", "Calls about filters and bindings that were answered", self.calls.clone());
        to.register("call_errors", "Calls that were answered with an error", self.errors.clone());
    }
}

fn register_census(to: &mut Registry, census: &StateGauges) {
    for (name, help, number) in [
        ("filters", "Filters defined", census.filters),
        ("links", "Links of the host", census.links),
        ("remembered_leases", "Leases of guests that are not there", census.remembered),
    ] {
        let gauge: Gauge = Gauge::default();
        gauge.set(number as i64);
        to.register(name, help, gauge);
    }
    let bindings = family("state", &census.bindings);
    to.register("bindings", "Bindings by what becomes of them", bindings);
    let interfaces = family("seen", &census.interfaces);
    to.register("interfaces", "Bound interfaces by where their frames are seen", interfaces);
    let addresses = family("from", &census.addresses);
    to.register("learned_addresses", "Learned addresses by where they were learned from", addresses);
}

fn family(name: &'static str, numbers: &[(&'static str, usize)]) -> Family<Label, Gauge> {
    let family = Family::<Label, Gauge>::default();
    for (value, number) in numbers {
        family.get_or_create(&[(name, value)]).set(*number as i64);
    }
    family
}

fn register_dropped(to: &mut Registry, dropped: &[Dropped]) {
    let (frames, bytes) = (Family::<[(&str, String); 3], Counter>::default(), Family::default());
    for Dropped { interface, filter, rule, frames: count, bytes: size } in dropped {
        let labels = [("interface", interface), ("filter", filter), ("rule", rule)];
        let labels = labels.map(|(name, value)| (name, value.clone()));
        frames.get_or_create(&labels).inc_by(*count);
        Family::<_, Counter>::get_or_create(&bytes, &labels).inc_by(*size);
    }
    to.register("dropped_frames", "Frames that a rule dropped at an interface", frames);
    to.register("dropped_bytes", "Bytes of frames that a rule dropped at an interface", bytes);
}

fn register_missed(to: &mut Registry, missed: &[(String, BypassCount)]) {
    let family = Family::<[(&str, String); 2], Counter>::default();
    for (interface, frames) in missed {
        for (direction, count) in [("from-guest", frames.from_guest), ("to-guest", frames.to_guest)] {
            let labels = [("interface", interface.clone()), ("direction", direction.into())];
            family.get_or_create(&labels).inc_by(count);
        }
    }
    to.register("unseen_frames", "Frames that an interface carried and no rule saw", family);
}
