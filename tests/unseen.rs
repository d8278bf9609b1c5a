//! What is reported of frames that no chain sees, against a model of links, hooks and the one that looks at them.

use nwfilter::document::catalog::Library;
use nwfilter::document::vars::Vars;
use nwfilter::guest::link::Load;
use nwfilter::guest::link::Orientation;
use nwfilter::program::compile::Capabilities;
use nwfilter::ruleset::bypass::{BypassCount, Finding, Flow, Look, Watch, reset_by};
use nwfilter::ruleset::counters::{Count, Ways};
use nwfilter::ruleset::firewall::{Attachment, BoundInterface, Firewall, Policy, Rules};
use nwfilter::ruleset::layout::TrafficCounting;
use nwfilter::ruleset::plan::plan;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const INDEX: u32 = 7;
/// What a hook does not count of a frame.
const HEADER: u64 = 14;

/// An interface as frames meet it.
#[derive(Clone, Debug)]
struct Model {
    now: Duration,
    load: Load,
    seen: Ways,
    /// Frames that `tc` dropped on their way in.
    shed: u32,
    /// Frames that wait for the guest, by their size.
    queue: Vec<u64>,
    watch: Watch,
    found: Vec<Finding>,
}

impl Default for Model {
    fn default() -> Model {
        let load = Load { open: true, ..Load::default() };
        let (now, seen, shed, queue, watch) = Default::default();
        Model { now, load, seen, shed, queue, watch, found: Vec::new() }
    }
}

fn add(to: &mut (u64, u64), frames: u64, size: u64) {
    *to = (to.0 + frames, to.1 + frames * size);
}

fn see(to: &mut Count, frames: u64, size: u64) {
    *to += Count { frames, bytes: frames * (size - HEADER) };
}

impl Model {
    fn come(&mut self, frames: u64, size: u64) {
        add(&mut self.load.came, frames, size);
        see(&mut self.seen.came, frames, size);
    }

    fn shed(&mut self, frames: u32, size: u64) {
        add(&mut self.load.came, frames.into(), size);
        self.shed += frames;
    }

    /// Frames to the guest, as far as its queue has room.
    fn queue(&mut self, frames: u64, size: u64) {
        see(&mut self.seen.went, frames, size);
        let room = 1000 - self.queue.len() as u64;
        self.queue.extend((0..frames.min(room)).map(|_| size));
    }

    fn read(&mut self, frames: usize) {
        let read: Vec<u64> = self.queue.drain(..frames.min(self.queue.len())).collect();
        read.into_iter().for_each(|size| add(&mut self.load.went, 1, size));
    }

    fn split(&mut self, segments: u64, payload: u64) {
        see(&mut self.seen.went, 1, segments * payload + 66);
        add(&mut self.load.went, segments, payload + 66);
    }

    fn loads(&self) -> BTreeMap<u32, Load> {
        BTreeMap::from([(INDEX, self.load)])
    }

    fn finish(&mut self, began: Duration, before: BTreeMap<u32, Load>, (seen, shed): (Ways, u32)) {
        let look = Look {
            began,
            before,
            seen: BTreeMap::from([(INDEX, seen)]),
            shed: BTreeMap::from([(INDEX, shed)]),
            after: self.loads(),
        };
        self.found.extend(self.watch.look(&look));
    }

    /// A look of no time, ten seconds after the last event.
    fn look(&mut self) -> Vec<Finding> {
        self.now += Duration::from_secs(10);
        self.finish(self.now, self.loads(), (self.seen, self.shed));
        std::mem::take(&mut self.found)
    }

    fn missed(&self) -> [u64; 2] {
        self.watch.missed().next().expect("one is known").1
    }

    fn rebind(&mut self) {
        self.seen = Ways::default();
        self.watch.note_reset([INDEX], self.now);
    }
}

fn found(way: Flow, carried: u64, seen: u64) -> Vec<Finding> {
    vec![Finding { index: INDEX, way, carried, seen, missed: true }]
}

#[test]
fn unseen_frames_of_a_link_are_reported_once_until_it_heals() {
    let mut model = Model::default();
    model.come(50, 100);
    assert_eq!(model.look(), []);
    for round in 0..2 {
        add(&mut model.load.came, 1000, 100);
        assert_eq!(model.look(), found(Flow::Ingress, 1000, 0), "{round}");
        assert_eq!(model.missed(), [2000 * round + 1000, 0]);
        add(&mut model.load.came, 1000, 100);
        assert_eq!(model.look(), [], "{round}: it was reported");
        assert_eq!(model.missed(), [2000 * round + 2000, 0]);
        for look in 0..6 {
            assert_eq!(model.look(), [], "{round}, {look}: nothing says that it is well");
            model.come(1000, 100);
            let well = Finding { missed: false, ..found(Flow::Ingress, 1000, 1000).remove(0) };
            assert_eq!(model.look(), if look == 5 { vec![well] } else { vec![] }, "{round}, {look}");
        }
    }
}

#[test]
fn an_eighth_and_a_few_frames_are_no_sign() {
    for (carried, seen, size, expected) in [
        (36, 0, 100, false),
        (37, 0, 100, true),
        (1000, 960, 100, false),
        (1000, 800, 100, true),
        (1_000_000, 880_000, 1500, false),
        (1_000_000, 870_000, 1500, true),
        // Frames that a tap's guest makes as short as they come.
        (1000, 0, 14, true),
        (1000, 500, 60, true),
        (100, 200, 60, false),
    ] {
        let mut model = Model::default();
        model.look();
        add(&mut model.load.came, carried, size);
        see(&mut model.seen.came, seen, size);
        let missed = if expected { found(Flow::Ingress, carried, seen) } else { vec![] };
        assert_eq!(model.look(), missed, "{carried}, {seen}, {size}");
    }
}

#[test]
fn frames_that_are_split_or_joined_are_the_same_bytes() {
    for payload in [536, 1200, 1448, 8948] {
        let mut model = Model::default();
        model.look();
        for _ in 0..5000 {
            model.split(44, payload);
        }
        assert_eq!(model.look(), [], "{payload}");
        // The same the other way, joined before the hook.
        add(&mut model.load.came, 44_000, payload + 66);
        see(&mut model.seen.came, 1000, 44 * payload + 66);
        assert_eq!(model.look(), [], "{payload}");
    }
}

#[test]
fn a_queued_frame_may_be_carried_long_after_it_was_seen() {
    let mut model = Model::default();
    model.queue(1000, 100);
    model.look();
    model.look();
    model.read(1000);
    assert_eq!(model.look(), [], "it waited before anybody looked");
    model.queue(1000, 100);
    (0..100).for_each(|_| assert_eq!(model.look(), []));
    model.read(1000);
    assert_eq!(model.look(), []);
    add(&mut model.load.went, 10_000, 100);
    assert_eq!(model.look(), found(Flow::Egress, 10_000, 0), "a queue is not endless");
}

#[test]
fn what_a_guests_bandwidth_costs_it_was_not_carried_past_us() {
    let mut model = Model::default();
    model.shed(7, 100);
    model.look();
    model.shed(1000, 100);
    model.come(100, 100);
    assert_eq!(model.look(), []);
    model.shed(300, 100);
    add(&mut model.load.came, 1000, 100);
    assert_eq!(model.look(), found(Flow::Ingress, 1300, 0));
    assert_eq!(model.missed(), [1000, 0]);
    model.shed = 0;
    model.shed(1000, 100);
    assert_eq!(model.look(), [], "a rule that was recreated");
}

#[test]
fn a_port_not_heard_is_skipped_and_a_recounted_one_waits() {
    let mut model = Model::default();
    model.load.open = false;
    model.look();
    add(&mut model.load.came, 1000, 100);
    assert_eq!(model.look(), []);
    model.load.open = true;
    add(&mut model.load.came, 1000, 100);
    assert_eq!(model.look(), [], "it was blocked at the last look");
    model.come(100, 100);
    model.look();
    add(&mut model.load.came, 1000, 100);
    model.rebind();
    model.come(200, 100);
    assert_eq!(model.look(), [], "more than at the last look, and yet from zero");
    add(&mut model.load.came, 1000, 100);
    assert_eq!(model.look(), found(Flow::Ingress, 1000, 0));
    model.load = Load { open: true, ..Load::default() };
    add(&mut model.load.came, 100, 100);
    assert_eq!(model.look(), [], "a link that was recreated");
}

#[test]
fn a_look_begun_before_a_recount_is_no_baseline() {
    let mut model = Model::default();
    model.come(1000, 100);
    model.look();
    let (began, before, counts) = (model.now, model.loads(), (model.seen, model.shed));
    model.now += Duration::from_secs(1);
    model.rebind();
    model.finish(began, before, counts);
    model.come(2000, 100);
    assert_eq!(model.look(), [], "a thousand of these are in the counts that are gone");
    model.come(2000, 100);
    assert_eq!(model.look(), []);
    assert_eq!(model.missed(), [0, 0]);
}

#[test]
fn a_macvtaps_guest_sends_what_goes_out() {
    assert_eq!(BypassCount::of([1, 2], Orientation::Straight), BypassCount { from_guest: 1, to_guest: 2 });
    assert_eq!(BypassCount::of([1, 2], Orientation::Reversed), BypassCount { from_guest: 2, to_guest: 1 });
}

#[test]
fn only_a_newly_bound_link_is_recounted() {
    let library = Library::standard().filters.into_values();
    let empty = Firewall::new(Policy::new(Capabilities::ALL))
        .define(library)
        .unwrap()
        .counting_traffic(TrafficCounting::On);
    let member = |index| BoundInterface {
        index,
        name: format!("vnet{index}"),
        place: Attachment::Bridge(None),
        rules: Rules::Filter("no-other-l2-traffic".into()),
        vars: Vars::default(),
    };
    let recounted = |old: &Firewall, new: &Firewall| {
        reset_by(&plan(&old.ruleset(), &new.ruleset())).collect::<BTreeSet<_>>()
    };
    let one = empty.bind(member(1)).unwrap();
    let two = one.bind(member(2)).unwrap();
    assert_eq!(recounted(&empty, &one), BTreeSet::from([1]));
    assert_eq!(recounted(&one, &two), BTreeSet::from([2]));
    assert_eq!(recounted(&two, &one), BTreeSet::new());
    let folded = Policy { fold_up_to: 0, ..*two.policy() };
    assert_eq!(recounted(&two, &two.with_policy(folded).unwrap()), BTreeSet::new());
    assert_eq!(recounted(&empty, &two), BTreeSet::from([1, 2]));
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Come(u64, u64),
    Shed(u32, u64),
    Queue(u64, u64),
    Read(usize),
    Split(u64),
    /// Frames that a bridge takes or sends without its hooks.
    Stray(bool),
    BindAnew,
    /// The next of the three readings of a look.
    Reading,
}

fn event() -> impl Strategy<Value = Event> {
    let size = 60u64..1514;
    prop_oneof![
        3 => (0u64..3000, size.clone()).prop_map(|(frames, size)| Event::Come(frames, size)),
        1 => (0u32..3000, size.clone()).prop_map(|(frames, size)| Event::Shed(frames, size)),
        3 => (0u64..3000, size).prop_map(|(frames, size)| Event::Queue(frames, size)),
        3 => (0usize..2000).prop_map(Event::Read),
        2 => (1u64..45).prop_map(Event::Split),
        1 => any::<bool>().prop_map(Event::Stray),
        1 => Just(Event::BindAnew),
        8 => Just(Event::Reading),
    ]
}

/// Everything happens, in any order with the readings, and `bypass` is called once a look.
fn play(events: &[Event], mut bypass: impl FnMut(&mut Model)) -> Model {
    let mut model = Model::default();
    model.look();
    let (mut readings, mut strays) = (Vec::new(), 0);
    let mut counts = Default::default();
    for event in events {
        model.now += Duration::from_millis(1);
        match *event {
            Event::Come(frames, size) => model.come(frames, size),
            Event::Shed(frames, size) => model.shed(frames, size),
            Event::Queue(frames, size) => model.queue(frames, size),
            Event::Read(frames) => model.read(frames),
            Event::Split(segments) => model.split(segments, 1448),
            Event::Stray(comes_in) if strays < 16 => {
                strays += 1;
                add(if comes_in { &mut model.load.came } else { &mut model.load.went }, 1, 60);
            }
            Event::Stray(_) => {}
            Event::BindAnew => model.rebind(),
            Event::Reading => match readings.len() {
                0 => {
                    bypass(&mut model);
                    readings.push((model.now, model.loads()));
                }
                1 => {
                    counts = (model.seen, model.shed);
                    readings.push((model.now, BTreeMap::new()));
                }
                _ => {
                    let (began, before) = readings.swap_remove(0);
                    readings.clear();
                    strays = 0;
                    model.finish(began, before, counts);
                }
            },
        }
    }
    model
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn what_is_seen_is_never_reported(events in proptest::collection::vec(event(), 0..200)) {
        let model = play(&events, |_| {});
        prop_assert_eq!(&model.found, &[]);
        prop_assert_eq!(model.missed(), [0, 0]);
    }

    #[test]
    fn a_bypass_that_outweighs_the_rest_is_reported(events in proptest::collection::vec(event(), 50..200)) {
        let calm: Vec<Event> =
            events.into_iter().filter(|event| !matches!(event, Event::BindAnew)).collect();
        let looks = calm.iter().filter(|event| matches!(event, Event::Reading)).count() / 3;
        let model = play(&calm, |model| add(&mut model.load.came, 1_000_000, 1000));
        prop_assert_eq!(model.found.iter().filter(|found| found.way == Flow::Ingress).count(), looks.min(1));
        prop_assert!(model.missed()[0] <= 1_000_000 * looks as u64 + 16);
    }
}
