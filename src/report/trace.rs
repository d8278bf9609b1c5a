//! Steps of traced frames joined into one line a frame: verdict, rule of the filter, what the frame is.
//!
//! A frame's steps come one by one, those of several frames mixed. What is kept of frames still on their way is bounded. Pure.

#[cfg(feature = "cli")]
mod capture;

#[cfg(feature = "cli")]
pub use capture::Capture;

use crate::program::ir::observed::Observed;
use crate::program::ir::{Family, TABLE};
use crate::program::name::label_of;
use crate::report::explain::summary;
use crate::ruleset::layout;
use crate::ruleset::nft::traced::{Traced, TracedVerdict};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;

/// Frames on their way that are remembered.
const FRAMES: usize = 256;

/// The addresses that are shown of a packet that is no frame yet.
const NO_ADDRESSES: &str = "00:00:00:00:00:00 > 00:00:00:00:00:00, ";

/// Our rules by what tells each from all others, with the filter's rule that it was made of.
type KnownRules = BTreeMap<(Family, u64), Option<String>>;

/// Joins the steps.
#[derive(Debug, Default)]
pub struct Joiner {
    rules: KnownRules,
    frames: VecDeque<TracedFrame>,
}

#[derive(Debug, Default)]
struct TracedFrame {
    id: u32,
    headers: Vec<u8>,
    rule: Option<String>,
    program: Option<String>,
    chain: String,
    /// The chain that the kernel entered first.
    base: String,
    /// The rule that was met last, if it is one of a filter.
    last: Option<String>,
    /// The rule that let it out of the host's IP layer, when it was no frame yet.
    let_out: Option<String>,
    /// The interfaces at the hook where it was seen last.
    iif: Option<u32>,
    oif: Option<u32>,
}

/// What a step means for its frame.
enum StepKind {
    /// The frame is still on its way.
    Passing,
    /// A base chain of ours ends and no rule of it has decided.
    End,
    /// The host's IP layer accepts it; the interface's own hooks have the last word.
    LetOut,
    /// The rule decides.
    Decision,
}

impl StepKind {
    fn of(step: &Traced, frame: &TracedFrame) -> StepKind {
        match step.verdict {
            _ if step.table != TABLE => StepKind::Passing,
            _ if step.handle.is_none() => StepKind::End,
            TracedVerdict::On => StepKind::Passing,
            TracedVerdict::Accept if frame.program.is_none() => StepKind::Passing,
            TracedVerdict::Accept if step.family == Some(Family::Inet) && frame.direction() == Some("in") => {
                StepKind::LetOut
            }
            TracedVerdict::Accept | TracedVerdict::Drop => StepKind::Decision,
        }
    }
}

impl TracedFrame {
    /// What the kernel reports of the packet and its interfaces.
    fn note_packet(&mut self, step: &Traced) {
        if let Some(headers) = &step.headers {
            self.headers.clone_from(headers);
        }
        // The kernel reports both once at each hook, the way out not before it knows it.
        if step.iif.is_some() || step.oif.is_some() {
            (self.iif, self.oif) = (step.iif, step.oif);
        }
    }

    /// Where in our tables the frame is, and the filter's rule that it met there.
    fn note_rule(&mut self, step: &Traced, rules: &KnownRules) {
        if let Some(program) = layout::prefix_of(&step.chain) {
            self.chain = step.chain[program.len() + 1..].to_owned();
            self.program = Some(program.to_owned());
        }
        // A chain that counts speaks for the rule that went there.
        if !layout::counts(&step.chain) {
            self.last = known(step).and_then(|rule| rules.get(&rule)?.clone());
            if self.program.is_none() {
                self.base.clone_from(&step.chain);
            }
        }
        if self.last.is_some() {
            self.rule.clone_from(&self.last);
        }
    }

    /// `out` or `in`, by the program's chain.
    fn direction(&self) -> Option<&str> {
        self.chain.split('/').next()
    }

    /// Whether the guest sent it: by the program's chain, or by the base chain where it reached none.
    fn is_from_guest(&self) -> bool {
        let to_program = ["prerouting", "ingress", "from"];
        self.direction() == Some("out") || self.chain.is_empty() && to_program.contains(&&*self.base)
    }

    /// What is kept of it when the host's IP layer lets it out.
    fn let_out(self) -> TracedFrame {
        let TracedFrame { id, headers, iif, oif, rule, .. } = self;
        TracedFrame { id, headers, iif, oif, let_out: rule, ..TracedFrame::default() }
    }

    /// What became of it by the verdict of the rule that was met last.
    fn fate(self, verdict: TracedVerdict) -> Fate {
        let dropped = verdict == TracedVerdict::Drop;
        let from_guest = self.is_from_guest();
        let whole = whole(&self.headers);
        Fate {
            dropped,
            from_guest,
            // What the guest of a macvtap sends goes out by it.
            interface: if from_guest { self.iif.or(self.oif) } else { self.oif.or(self.iif) },
            // A drop without a name on it is no filter's; to accept may have been said before.
            rule: if dropped { self.last } else { self.let_out.or(self.last).or(self.rule) },
            filter: label_of(&self.program.unwrap_or_default()).to_owned(),
            frame: in_a_line(&self.headers, &whole),
            length: whole.len(),
            headers: self.headers,
        }
    }
}

/// At a device's egress the kernel shows no Ethernet header.
fn in_a_line(headers: &[u8], whole: &[u8]) -> String {
    if headers.is_empty() {
        return "headers not reported".into();
    }
    summary::of(whole).replacen(NO_ADDRESSES, "", 1)
}

/// What became of one frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fate {
    /// Whether it was dropped.
    pub dropped: bool,
    /// The rule that decided, `filter:2`; none where no rule of the filter did.
    pub rule: Option<String>,
    /// The filter, as the kernel's program is called.
    pub filter: String,
    /// Whether the guest sent it.
    pub from_guest: bool,
    /// The guest's interface, by index, where the kernel reports it.
    pub interface: Option<u32>,
    /// The frame in a line.
    pub frame: String,
    /// The frame's headers, all that the kernel reports of it.
    pub headers: Vec<u8>,
    /// How long the whole frame is.
    pub length: usize,
}

impl Joiner {
    /// Takes the handles of our rules from the kernel's tables.
    pub fn learn(&mut self, observed: &Observed) {
        let chains = observed
            .families
            .iter()
            .flat_map(|(family, table)| table.chains.values().map(move |chain| (*family, chain)));
        let all = chains.flat_map(|(family, chain)| chain.rules.iter().map(move |rule| (family, rule)));
        self.rules = all.map(|(family, rule)| ((family, rule.handle), rule.comment.clone())).collect();
    }

    /// Whether a step names a rule of ours that was not learned.
    pub fn is_new(&self, step: &Traced) -> bool {
        step.table == TABLE && known(step).is_some_and(|rule| !self.rules.contains_key(&rule))
    }

    /// Takes a step in; what became of the frame, if that is now known.
    pub fn step(&mut self, step: &Traced) -> Option<Fate> {
        let mut frame = self.frame(step.id);
        frame.note_packet(step);
        if step.table == TABLE {
            frame.note_rule(step, &self.rules);
        }
        match StepKind::of(step, &frame) {
            StepKind::Passing => self.keep(frame),
            StepKind::LetOut => self.keep(frame.let_out()),
            StepKind::End => {}
            StepKind::Decision => return Some(frame.fate(step.verdict)),
        }
        None
    }

    fn frame(&mut self, id: u32) -> TracedFrame {
        let at = self.frames.iter().position(|frame| frame.id == id);
        at.and_then(|at| self.frames.remove(at)).unwrap_or(TracedFrame { id, ..TracedFrame::default() })
    }

    fn keep(&mut self, frame: TracedFrame) {
        if self.frames.len() >= FRAMES {
            self.frames.pop_front();
        }
        self.frames.push_back(frame);
    }
}

/// The rule by what tells it from all others.
fn known(step: &Traced) -> Option<(Family, u64)> {
    Some((step.family?, step.handle?))
}

/// The kernel reports only headers; as many zeros follow as the packet says it is long.
fn whole(headers: &[u8]) -> Vec<u8> {
    let word = |at: usize| headers.get(at..at + 2).map_or(0, |two| u16::from_be_bytes([two[0], two[1]]));
    let network = if matches!(word(12), 0x8100 | 0x88a8) { 18 } else { 14 };
    let length = match word(network - 2) {
        0x0800 => network + usize::from(word(network + 2)),
        0x86dd => network + 40 + usize::from(word(network + 4)),
        _ => headers.len(),
    };
    let mut frame = headers.to_vec();
    frame.resize(length.max(headers.len()), 0);
    frame
}

impl Fate {
    /// `drop`, `out` and the rule, or where no rule decided the filter.
    fn parts(&self) -> [String; 3] {
        let verdict = if self.dropped { "drop" } else { "accept" };
        let way = if self.from_guest { "out" } else { "in" };
        let rule = match self.rule.as_deref().and_then(|rule| rule.rsplit_once(':')) {
            Some((filter, number)) => format!("filter '{filter}' rule {number}"),
            None => format!("filter '{}' no rule", self.filter),
        };
        [verdict.into(), way.into(), rule]
    }
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [verdict, way, rule] = self.parts();
        write!(f, "{verdict:6} {way:3} {rule}  {}", self.frame)
    }
}
