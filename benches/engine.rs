//! What the engine costs without a kernel: a filter made into a program, one more guest, a redefinition, a restart.

mod guests;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use guests::{FIRST, guest, guests, policy, wordings};
use nwfilter::document::binding::{self, Binding};
use nwfilter::document::catalog::Library;
use nwfilter::document::filter::read;
use nwfilter::document::filter::write::write;
use nwfilter::document::span::Source;
use nwfilter::document::standard::STANDARD;
use nwfilter::engine::api::Request;
use nwfilter::engine::{Context, State};
use nwfilter::guest::lease::file::{self, GuestId};
use nwfilter::guest::lease::{AddressSource, Learned};
use nwfilter::guest::link::{Link, LinkKind};
use nwfilter::program::compile::{Capabilities, HostToGuest, Options, compile};
use nwfilter::program::ir::Ruleset;
use nwfilter::program::resolve::{Mode, resolve};
use nwfilter::ruleset::plan::plan;
use std::hint::black_box;
use std::time::Duration;
use uuid::Uuid;

const COUNTS: [u32; 5] = [0, 64, 100, 1000, 5000];

fn program(c: &mut Criterion) {
    let library = Library::standard();
    let lookup = |name: &str| library.get(name);
    let vars = guest(1, "").vars;
    let options = Options { features: Capabilities::ALL, counters: false, host_to_guest: HostToGuest::Pass };
    let text = STANDARD.iter().find(|(name, _)| *name == "clean-traffic").expect("it is standard").1;
    let source = Source::new("clean-traffic.xml", text);
    c.bench_function("parse/clean-traffic", |b| b.iter(|| read::read(black_box(&source)).is_ok()));
    for (name, mode) in [("folded", Mode::Fold), ("slots", Mode::Slots)] {
        let resolved = resolve(&lookup, "clean-traffic", &vars, mode).expect("it resolves");
        c.bench_function(&format!("resolve/{name}"), |b| {
            b.iter(|| resolve(&lookup, "clean-traffic", black_box(&vars), mode).is_ok());
        });
        c.bench_function(&format!("compile/{name}"), |b| {
            b.iter(|| compile(black_box(&resolved), &options).is_ok());
        });
    }
}

fn changes(c: &mut Criterion) {
    let policy = policy(Capabilities::ALL);
    let [_, wording] = wordings();
    for count in COUNTS {
        let before = guests(policy, count);
        c.bench_function(&format!("bind/{count}"), |b| {
            b.iter(|| before.bind(guest(count, "clean-traffic")).expect("bound"));
        });
        let after = before.bind(guest(count, "clean-traffic")).expect("bound");
        c.bench_function(&format!("bind, plan/{count}"), |b| {
            b.iter(|| plan(&before.ruleset(), &after.ruleset()));
        });
        let other = before.define([wording.clone()]).expect("defined");
        c.bench_function(&format!("redefine/{count}"), |b| {
            b.iter(|| before.define([wording.clone()]).expect("defined"));
        });
        c.bench_function(&format!("redefine, plan/{count}"), |b| {
            b.iter(|| plan(&before.ruleset(), &other.ruleset()));
        });
    }
    c.bench_function("rebuild/5000", |b| b.iter(|| guests(policy, 5000)));
    let all = guests(policy, 5000).ruleset();
    c.bench_function("rebuild, plan/5000", |b| b.iter(|| plan(&Ruleset::default(), &all)));
}

/// A thousand guests that learn, who know an address each or none: a daemon's start, and another meaning of their filter.
fn learners(c: &mut Criterion) {
    const GUESTS: u32 = 1000;
    let firewall = guests(policy(Capabilities::ALL), 0);
    let bindings: Vec<Binding> = (0..GUESTS).map(learner).collect();
    let bridge =
        Link { index: 1, name: "br0".into(), kind: LinkKind::Bridge, master: None, mac: None, up: true };
    let tap = |n: u32| Link {
        index: FIRST + n,
        name: format!("vnet{n}"),
        kind: LinkKind::Tap,
        master: Some(1),
        ..bridge.clone()
    };
    let links: Vec<Link> = (0..GUESTS).map(tap).chain([bridge.clone()]).collect();
    let line = |(n, binding): (u32, &Binding)| {
        let guest = GuestId { owner: binding.owner_uuid, mac: binding.mac };
        let learned = Learned { how: AddressSource::Arp, server: None, since: Duration::ZERO, ends: None };
        file::known(guest, FIRST + n, (0x0a00_0001 + n).into(), &learned)
    };
    let all_known: String = (0..).zip(&bindings).map(line).collect();
    for (name, text) in [("known", &*all_known), ("waiting", "")] {
        let restore = |bindings: Vec<Binding>| {
            let (book, _) = file::read(text, Duration::ZERO, 64);
            let (firewall, links) = (firewall.clone(), links.clone());
            State::restore_learned(firewall, bindings, links, Duration::ZERO, book, Duration::ZERO)
        };
        c.bench_function(&format!("restore/{GUESTS} learners, {name}"), |b| {
            b.iter_batched(|| bindings.clone(), restore, BatchSize::LargeInput);
        });
        let state = restore(bindings.clone());
        assert_eq!(state.posts().len(), if text.is_empty() { GUESTS as usize } else { 0 });
        let request = Request::DefineFilter { xml: write(&wordings()[1]), flags: 0 };
        let context = Context { now: Duration::ZERO, fresh: Uuid::nil() };
        c.bench_function(&format!("redefine/{GUESTS} learners, {name}"), |b| {
            b.iter(|| state.request(&request, context).expect("defined"));
        });
    }
}

fn learner(n: u32) -> Binding {
    let xml = format!(
        "<filterbinding><owner><name>vm{n}</name><uuid>{}</uuid></owner><portdev name='vnet{n}'/>\
         <mac address='52:54:00:00:{:02x}:{:02x}'/><filterref filter='clean-traffic'>\
         <parameter name='MAC' value='52:54:00:00:{:02x}:{:02x}'/></filterref></filterbinding>",
        Uuid::from_u128(n.into()),
        n >> 8,
        n & 255,
        n >> 8,
        n & 255
    );
    binding::read(&Source::new("binding", xml)).expect("a binding").0
}

criterion_group! {
    name = engine;
    config = Criterion::default().sample_size(20);
    targets = program, changes, learners
}
criterion_main!(engine);
