//! Frames that a bound interface carried and no chain of ours saw: two samples of its counters → a warning, or none.
//!
//! What a link carried is compared with what our chains counted at it, each way. Either alone proves nothing. Some frames
//! rightly never reach our hooks, so only a clear excess is reported. Pure; knows neither guests nor what may be the
//! reason.

use crate::guest::link::{Load, Orientation};
use crate::ruleset::counters::{Count, Ways};
use crate::ruleset::layout::{self, TRAFFIC_IN, TRAFFIC_OUT};
use crate::ruleset::plan::{Plan, TableOperation};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// What links had carried and what our chains had seen of it.
///
/// Links are read before the counts and after them. What a link carries from the end of one look to the beginning of the
/// next is then all among what is seen from one to the next, whenever the frames came and however long a reading took.
#[derive(Clone, Debug, Default)]
pub struct Look {
    /// When it began.
    pub began: Duration,
    /// What was carried before the counts were read.
    pub before: BTreeMap<u32, Load>,
    /// The counts.
    pub seen: BTreeMap<u32, Ways>,
    /// Frames that came in and that `tc` dropped before any chain, of those links where it may.
    pub shed: BTreeMap<u32, u32>,
    /// What was carried after they were read.
    pub after: BTreeMap<u32, Load>,
}

/// Which way a frame goes through an interface, from the host's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// It comes in: a tap's guest sends it.
    Ingress,
    /// It goes out.
    Egress,
}

/// Something to tell of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Its index.
    pub index: u32,
    /// Which of its frames.
    pub way: Flow,
    /// Frames that it carried between two looks.
    pub carried: u64,
    /// Those of them that our chains saw.
    pub seen: u64,
    /// Whether too few were, or again enough.
    pub missed: bool,
}

/// Frames that no rule saw, since they were first looked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BypassCount {
    /// Sent by the guest.
    pub from_guest: u64,
    /// On their way to it.
    pub to_guest: u64,
}

/// What is remembered from look to look.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    known: BTreeMap<u32, Known>,
    /// Interfaces whose counters were reset, and when.
    reset: BTreeMap<u32, Duration>,
}

/// An interface at its last look.
#[derive(Clone, Debug)]
struct Known {
    began: Duration,
    carried: Ways,
    open: bool,
    seen: Ways,
    shed: u32,
    sides: [FlowState; 2],
}

/// One way through it.
#[derive(Clone, Copy, Debug, Default)]
struct FlowState {
    /// Frames that may be carried though they are not seen: of those that came in, what `tc` dropped since the last look; of
    /// those that went out, what was seen before and may have waited.
    spare: u64,
    missed: u64,
    reported: bool,
    calm: u32,
}

/// What passes by our chains and may: a bridge takes what is for link-local addresses before its hooks and sends its own
/// without them. Spanning tree speaks every two seconds, LACP at most every second, LLDP in bursts of one a second; queries for
/// multicast groups, 802.1X and the like seldom. All of them at once are two a second, and some slack for short looks.
const SLACK: u64 = 16;
const A_SECOND: u64 = 2;

/// One part of what was carried that is not reported, in frames and in bytes.
///
/// An eighth also covers frames that are joined before a hook of ours (GRO) or split behind it (GSO): many are carried as one is
/// seen (2 111 000 as 52 140 to a port without offloads, measured), but the bytes are the same up to headers that are
/// repeated. With the smallest segments that every host takes, 536 bytes, these are 66 of 602.
const PART: u64 = 8;

/// Bytes of a frame that a hook may not count: its Ethernet header, and a VLAN tag that the kernel keeps beside it.
const HEADER: u64 = 18;

/// What may wait between our hooks and a link's count of what went out: a tap's queue has 1000 places, a paused guest may have
/// several, and reads them when it goes on. As much of what was seen may be carried at any later time.
const QUEUED: u64 = 4096;

/// After so many looks at enough frames, none of them missed, an interface may be reported again.
const CALM: u32 = 6;

/// The interfaces whose frames are counted from nothing once this is done.
pub fn reset_by(plan: &Plan) -> impl Iterator<Item = u32> {
    let steps = plan.prepare.iter().chain(&plan.switch);
    let added = steps.filter_map(|step| match &step.change {
        TableOperation::AddElements(set, _, elements) if [TRAFFIC_IN, TRAFFIC_OUT].contains(&&**set) => {
            Some(elements)
        }
        _ => None,
    });
    added.flatten().filter_map(|(key, _)| layout::index_of(key))
}

impl Watch {
    /// Notes that the counters of these interfaces were reset by now.
    pub fn note_reset(&mut self, indexes: impl IntoIterator<Item = u32>, now: Duration) {
        self.reset.extend(indexes.into_iter().map(|index| (index, now)));
    }

    /// Takes a look, and returns what is to be reported. An interface that was not there at the last look, or whose counters
    /// were reset since, is compared at the next look only.
    pub fn look(&mut self, look: &Look) -> Vec<Finding> {
        let (mut findings, mut known) = (Vec::new(), BTreeMap::new());
        for (&index, &seen) in &look.seen {
            let (Some(before), Some(after)) = (look.before.get(&index), look.after.get(&index)) else {
                continue;
            };
            let shed = look.shed.get(&index).copied().unwrap_or_default();
            let (began, sides) = (look.began, [FlowState::default(); 2]);
            let at_once = Known { began, carried: carried(before), open: before.open, seen, shed, sides };
            let last = self.known.get(&index);
            let mut sides = last.map_or(sides, |last| last.sides);
            match last.filter(|last| !self.reset.contains_key(&index) && at_once.follows(last)) {
                Some(last) => {
                    let found = at_once.judge(last, &mut sides);
                    findings.extend(found.map(|finding| Finding { index, ..finding }));
                }
                // Frames in the output queue may have been seen by chains whose counters did not exist yet.
                None => sides[1].spare = QUEUED,
            }
            known.insert(index, Known { carried: carried(after), open: after.open, sides, ..at_once });
        }
        self.known = known;
        // A look that had begun by then may hold counts from before.
        self.reset.retain(|_, since| *since >= look.began);
        findings
    }

    /// The interfaces that are looked at, and how many of their frames were missed that came in and that went out.
    pub fn missed(&self) -> impl Iterator<Item = (u32, [u64; 2])> {
        self.known.iter().map(|(index, known)| (*index, known.sides.map(|side| side.missed)))
    }
}

impl BypassCount {
    /// Of frames that came in and that went out by an interface. A macvtap's guest sends those that go out.
    pub fn of([came, went]: [u64; 2], orientation: Orientation) -> BypassCount {
        let (from_guest, to_guest) = match orientation {
            Orientation::Straight => (came, went),
            Orientation::Reversed => (went, came),
        };
        BypassCount { from_guest, to_guest }
    }
}

fn carried(load: &Load) -> Ways {
    Ways { came: load.came.into(), went: load.went.into() }
}

impl Known {
    /// Whether these are the counts of the last look, gone on.
    fn follows(&self, last: &Known) -> bool {
        let grew = |then: &Ways, now: &Ways| {
            then.came.frames <= now.came.frames && then.went.frames <= now.went.frames
        };
        grew(&last.carried, &self.carried) && grew(&last.seen, &self.seen) && last.shed <= self.shed
    }

    /// What there is to tell since the last look, each way.
    fn judge(&self, last: &Known, [came, went]: &mut [FlowState; 2]) -> impl Iterator<Item = Finding> {
        let lasted = self.began.saturating_sub(last.began);
        // A port that its bridge does not listen to, as spanning tree may want it, loses its frames before the hooks.
        let open = self.open && last.open;
        let (carried, seen) = (self.carried.came - last.carried.came, self.seen.came - last.seen.came);
        came.spare = u64::from(self.shed - last.shed);
        let came = open.then(|| came.judge(Flow::Ingress, carried, seen, lasted)).flatten();
        let (carried, seen) = (self.carried.went - last.carried.went, self.seen.went - last.seen.went);
        came.into_iter().chain(went.judge(Flow::Egress, carried, seen, lasted))
    }
}

impl FlowState {
    fn judge(&mut self, way: Flow, carried: Count, seen: Count, lasted: Duration) -> Option<Finding> {
        let finding = |missed| Finding { index: 0, way, carried: carried.frames, seen: seen.frames, missed };
        let slack = SLACK + A_SECOND * lasted.as_secs();
        let expected = seen.frames.saturating_add(self.spare);
        let missed = carried.frames.saturating_sub(expected);
        let noted = seen.bytes.saturating_add(seen.frames.saturating_mul(HEADER));
        let is_whole = carried.bytes.saturating_sub(noted) <= carried.bytes / PART;
        if missed > slack.max(carried.frames / PART) && !is_whole {
            (self.spare, self.calm) = (0, 0);
            self.missed += missed;
            return (!std::mem::replace(&mut self.reported, true)).then(|| finding(true));
        }
        // Frames that were split are no sign that those were carried that waited.
        if !(is_whole && carried.frames > seen.frames) {
            self.spare = expected.saturating_sub(carried.frames).min(QUEUED);
        }
        self.calm += u32::from(carried.frames > slack);
        let ended = self.reported && self.calm >= CALM;
        self.reported &= !ended;
        ended.then(|| finding(false))
    }
}
