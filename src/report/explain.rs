//! Why a frame passes or does not: the chains it enters, the rules that came close, the rule that decided, as a line
//! of XML.
//!
//! A filter is compiled with constants and with each rule on its own, so that every rule of the XML can be
//! spoken of; constants and slots give the same verdicts. Pure: the caller decides where filters and frames come from.

mod format;
mod frame_spec;
mod pcap;
pub mod summary;

pub use frame_spec::{FrameSpec, FrameSpecError, Station};
pub use pcap::{PcapFrames, Unreadable};

use crate::document::diag::Diagnostic;
use crate::document::field::Field;
use crate::document::filter::{Entry, Filter, state};
use crate::document::span::Place;
use crate::document::vars::Vars;
use crate::program::compile::{Capabilities, HostToGuest, Options, compile};
use crate::program::eval::{Connection, End, Evaluator, Frame, Tracking, TriedRule, seen};
use crate::program::ir::{self, Action, CtDirection, KeySource, Match, Origin};
use crate::program::resolve::{FilterLookup, Mode, resolve};
use crate::program::{Direction, Program};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};
use std::sync::Arc;

/// A filter made ready to be asked about frames.
#[derive(Clone, Debug)]
pub struct Explainer {
    program: Program,
    documents: BTreeMap<String, Arc<Filter>>,
}

/// What became of a frame, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// `accept`, `drop` or `reject`.
    pub verdict: &'static str,
    /// The filter.
    pub filter: String,
    /// Which way the frame goes.
    #[serde(rename = "way")]
    pub direction: Direction,
    /// The frame in a line.
    pub frame: String,
    /// The chains it entered, in order.
    pub chains: Vec<Entered>,
    /// The rule that decided; none where no rule took the frame, so that it passed.
    pub decided: Option<Line>,
    /// Its text, underlined.
    pub excerpt: Option<String>,
    /// As what frame of a connection it was judged; none where connections say nothing.
    pub state: Option<&'static str>,
    /// What would become of it as another frame of a connection, where that is something else.
    pub otherwise: Vec<Otherwise>,
}

/// What becomes of the same frame where conntrack says something else of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Otherwise {
    /// What conntrack says.
    pub state: &'static str,
    /// `accept`, `drop` or `reject`.
    pub verdict: &'static str,
    /// The rule that decides.
    pub decided: Option<Line>,
}

/// One stay in a chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entered {
    /// The chain.
    pub chain: String,
    /// The rules tried there, in order.
    pub tried: Vec<Tried>,
}

/// A rule of the filter that was tried on the frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Tried {
    /// Where it stands.
    pub rule: Line,
    /// What it would do.
    pub action: &'static str,
    /// Whether it matched.
    pub matched: bool,
    /// Whether only one thing was amiss, and the frame was of the kind that the rule is about.
    pub close: bool,
    /// What was amiss.
    pub missed: Vec<FailedMatch>,
}

/// A statement of a rule that does not hold of the frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FailedMatch {
    /// What the statement is about.
    pub what: String,
    /// What it asks for.
    pub wanted: String,
    /// What the frame has; none where it has no such thing.
    pub seen: Option<String>,
}

/// A rule as a place in a document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    /// The filter's name.
    pub filter: String,
    /// Which of its rules, from 1.
    pub rule: u32,
    /// `filter.xml:12:3`.
    pub place: String,
}

/// All that a daemon reports about a bound interface, so that its frames can be explained elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bound {
    /// The filter it is bound to; none where nothing gets through.
    pub filter: Option<String>,
    /// Why nothing gets through, where that is so.
    #[serde(default)]
    pub closed: Option<String>,
    /// Its variables, what was learned among them.
    pub vars: BTreeMap<String, Vec<String>>,
    /// The filter and those it refers to: what each document is called, and its text.
    pub documents: Vec<(String, String)>,
    /// Whether rules may answer.
    pub reject: bool,
    /// What becomes of packets that the host itself sends to it.
    #[serde(default)]
    pub host_to_guest: HostToGuest,
}

/// What a rule that rejects does at the hooks of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejects {
    /// It answers.
    Answer,
    /// It drops: the kernel cannot answer there.
    Drop,
}

impl Bound {
    /// What its rules that reject do.
    pub fn rejects(&self) -> Rejects {
        if self.reject { Rejects::Answer } else { Rejects::Drop }
    }
}

impl Explainer {
    /// For a filter of the library, bound with these variables.
    pub fn new(
        library: FilterLookup<'_>,
        root: &str,
        vars: &Vars,
        rejects: Rejects,
    ) -> Result<Explainer, Vec<Diagnostic>> {
        let resolved = resolve(library, root, vars, Mode::Fold)?;
        let features = Capabilities { reject: rejects == Rejects::Answer, ..Capabilities::ALL };
        // Rules that count are never made into one.
        let program =
            compile(&resolved, &Options { features, counters: true, host_to_guest: HostToGuest::Pass })?;
        let documents = resolved.rules().filter_map(|rule| library(&rule.origin.filter));
        let documents = documents.map(|filter| (filter.name.clone(), filter)).collect();
        Ok(Explainer { program, documents })
    }

    /// What becomes of a frame.
    pub fn explain(&self, direction: Direction, frame: Frame<'_>) -> Explanation {
        let sets = BTreeMap::new();
        let rules = Evaluator::of_program(&self.program, &sets);
        let walked = rules.trace(direction.chain(), frame);
        let verdict = verdict(walked.end.as_ref());
        let decided = decider(&walked.path, walked.rule);
        let excerpt = decided.map(|origin| excerpt(&origin.place));
        let decided = decided.map(|origin| self.line(origin));
        let mut chains: Vec<Entered> = Vec::new();
        for step in &walked.path {
            if chains.last().is_none_or(|last| last.chain != step.chain) {
                chains.push(Entered { chain: step.chain.to_owned(), tried: Vec::new() });
            }
            let entered = chains.last_mut().expect("one was pushed if there was none");
            entered.take(self.tried(&rules, step, frame));
        }
        let filter = self.program.filter.clone();
        let (state, otherwise) = (self.state(frame), self.otherwise(&rules, direction, frame, verdict));
        let frame = summary::of(frame.bytes);
        Explanation { verdict, filter, direction, frame, chains, decided, excerpt, state, otherwise }
    }

    fn state(&self, frame: Frame<'_>) -> Option<&'static str> {
        let (word, _) = STATES.iter().find(|(_, tracking)| *tracking == frame.tracking)?;
        self.program.stateful.then_some(*word)
    }

    /// The verdicts that another state of the connection would give.
    fn otherwise(
        &self,
        rules: &Evaluator<'_>,
        direction: Direction,
        frame: Frame<'_>,
        given: &str,
    ) -> Vec<Otherwise> {
        let judged = |(state, tracking): &(&'static str, Tracking)| {
            let frame = Frame { tracking: *tracking, ..frame };
            let walked = rules.trace(direction.chain(), frame);
            let decided = decider(&walked.path, walked.rule).map(|origin| self.line(origin));
            Otherwise { state, verdict: verdict(walked.end.as_ref()), decided }
        };
        let asked = STATES.iter().filter(|_| self.program.stateful);
        asked.map(judged).filter(|other| other.verdict != given).collect()
    }

    fn tried(&self, rules: &Evaluator<'_>, step: &TriedRule<'_>, frame: Frame<'_>) -> Option<Tried> {
        let origin = step.rule.origin.as_ref()?;
        let failing = step.failed.map(|_| rules.failures(step.rule, frame)).unwrap_or_default();
        let failing: Vec<&Match> = failing.into_iter().map(|at| &step.rule.matches[at]).collect();
        let close = matches!(&*failing, [single] if !tells_kind(single)) && step.rule.matches.len() > 1
            || matches!((&*failing, &*step.rule.matches), ([single], [_]) if !tells_kind(single));
        let missed = failing.iter().map(|part| format::missed(part, seen(part, frame))).collect();
        let action = self.action(origin, step.rule);
        Some(Tried { rule: self.line(origin), action, matched: step.failed.is_none(), close, missed })
    }

    /// The rule's own word, since to accept in one layer is to go on to the next.
    fn action(&self, origin: &Origin, rule: &ir::Rule) -> &'static str {
        let written = self.documents.get(&*origin.filter).and_then(|filter| written(filter, origin.rule));
        written.map_or_else(|| word(&rule.action), |rule| rule.action.name())
    }

    fn line(&self, origin: &Origin) -> Line {
        Line { filter: origin.filter.to_string(), rule: origin.rule, place: origin.place.line_column() }
    }
}

impl Entered {
    /// Several rules of the kernel can stand for one of the filter: the one that says most is shown.
    fn take(&mut self, tried: Option<Tried>) {
        let Some(tried) = tried else { return };
        match self.tried.last_mut().filter(|last| last.rule == tried.rule && !last.matched) {
            Some(last) if tried.matched || tried.missed.len() < last.missed.len() => *last = tried,
            Some(_) => {}
            None => self.tried.push(tried),
        }
    }
}

/// What conntrack may say of a frame, in words.
const STATES: [(&str, Tracking); 4] = [
    ("new", connection(state::NEW, CtDirection::Original)),
    ("established", connection(state::ESTABLISHED, CtDirection::Original)),
    ("established, in reply", connection(state::ESTABLISHED, CtDirection::Reply)),
    ("related", connection(state::RELATED, CtDirection::Original)),
];

const fn connection(state: u8, direction: CtDirection) -> Tracking {
    Tracking::Connection(Connection { state, direction })
}

fn verdict(end: Option<&End>) -> &'static str {
    match end {
        Some(End::Accept) | None => "accept",
        Some(End::Drop) => "drop",
        Some(End::Reject) => "reject",
    }
}

fn written(filter: &Filter, number: u32) -> Option<&crate::document::filter::FilterRule> {
    let mut rules = filter.entries.iter().filter_map(|entry| match entry {
        Entry::Rule(rule) => Some(&**rule),
        Entry::Include(_) => None,
    });
    rules.nth((number as usize).checked_sub(1)?)
}

/// Where the verdict came without a rule's name on it, the Ethernet layer's last word led there.
fn decider<'a>(path: &[TriedRule<'a>], last: Option<&'a ir::Rule>) -> Option<&'a Origin> {
    let led = |step: &TriedRule<'a>| {
        let on = matches!(step.rule.action, Action::Goto(_));
        step.rule.origin.as_ref().filter(|_| on && step.failed.is_none())
    };
    last.and_then(|rule| rule.origin.as_ref()).or_else(|| path.iter().rev().find_map(led))
}

/// Whether a match only tells frames of one kind from others.
fn tells_kind(part: &Match) -> bool {
    const KINDS: [Field; 4] = [Field::EtherType, Field::IpProtocol, Field::StpHeader, Field::StpType];
    part.keys().iter().any(|key| match key.from {
        KeySource::Protocol | KeySource::L4Proto => true,
        KeySource::Field(field) => KINDS.contains(&field),
        _ => false,
    })
}

fn word(action: &Action) -> &'static str {
    match action {
        Action::Drop => "drop",
        Action::Reject(_) => "reject",
        Action::Return => "return",
        Action::Continue => "continue",
        _ => "accept",
    }
}

/// More lines of a rule than this are left out.
const LINES: usize = 6;
/// More characters of a line than this are left out.
const WIDTH: usize = 200;

/// The lines of a place with their numbers, the first of them underlined as far as it belongs to it.
fn excerpt(place: &Place) -> String {
    let text = &place.source.text;
    let (first, column) = place.source.line_column(place.span.start);
    let (last, end) = place.source.line_column(place.span.end);
    let margin = last.to_string().len();
    let mut excerpt = String::new();
    for (at, line) in text.lines().enumerate().skip(first - 1).take((last + 1 - first).min(LINES)) {
        let shown: String = line.chars().take(WIDTH).collect();
        excerpt.push_str(&format!("{:margin$} | {shown}\n", at + 1));
        if at + 1 == first {
            let length = shown.chars().count() + 1;
            let end = if last == first { end.min(length) } else { length };
            let line = "^".repeat(end.saturating_sub(column).max(1));
            excerpt.push_str(&format!("{:margin$} | {:>2$}\n", "", line, column - 1 + line.len()));
        }
    }
    excerpt
}

impl Display for Explanation {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let way = if self.direction == Direction::Out { "from the guest" } else { "to the guest" };
        writeln!(f, "{way}: {}", self.frame)?;
        for entered in &self.chains {
            writeln!(f, "  chain {}", entered.chain)?;
            for tried in entered.tried.iter().filter(|tried| tried.matched || tried.close) {
                tried.fmt(f)?;
            }
        }
        match &self.decided {
            Some(line) => {
                writeln!(f, "{} by rule {} of filter '{}'", past(self.verdict), line.rule, line.filter)?;
                writeln!(f, " --> {}", line.place)?;
                f.write_str(self.excerpt.as_deref().unwrap_or_default())?;
            }
            None => writeln!(f, "{}: no rule of filter '{}' decides", past(self.verdict), self.filter)?,
        }
        if !self.otherwise.is_empty() {
            writeln!(
                f,
                "the state of the connection decides; here it is {}",
                self.state.unwrap_or("not known")
            )?;
        }
        self.otherwise.iter().try_for_each(|other| other.fmt(f))
    }
}

impl Display for Otherwise {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "  {}: {}", self.state, past(self.verdict))?;
        match &self.decided {
            Some(line) => writeln!(f, " by rule {} of filter '{}' ({})", line.rule, line.filter, line.place),
            None => writeln!(f, ", no rule decides"),
        }
    }
}

impl Display for Tried {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Line { filter, rule, place, .. } = &self.rule;
        write!(f, "    filter '{filter}' rule {rule} {}", self.action)?;
        match &*self.missed {
            [] => writeln!(f, ": matches ({place})"),
            missed => {
                let missed: Vec<String> = missed.iter().map(FailedMatch::to_string).collect();
                writeln!(f, ": close ({place})\n      {}", missed.join("\n      "))
            }
        }
    }
}

impl Display for FailedMatch {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let seen = self.seen.as_deref().unwrap_or("not in this frame");
        write!(f, "{}: wanted {}, seen {seen}", self.what, self.wanted)
    }
}

fn past(verdict: &str) -> &'static str {
    match verdict {
        "drop" => "dropped",
        "reject" => "rejected",
        _ => "accepted",
    }
}
