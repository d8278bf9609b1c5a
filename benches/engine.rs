//! What the engine costs without a kernel: a filter made into a program, one more guest, a redefinition, a restart.

mod guests;

use criterion::{Criterion, criterion_group, criterion_main};
use guests::{guest, guests, policy, wordings};
use nwfilter::compile::{Features, Options, compile};
use nwfilter::filter::read;
use nwfilter::ir::Ruleset;
use nwfilter::library::{Library, STANDARD};
use nwfilter::plan::plan;
use nwfilter::resolve::{Mode, resolve};
use nwfilter::span::Source;
use std::hint::black_box;

const COUNTS: [u32; 5] = [0, 64, 100, 1000, 5000];

fn program(c: &mut Criterion) {
    let library = Library::standard();
    let lookup = |name: &str| library.get(name);
    let vars = guest(1, "").vars;
    let options = Options { features: Features::ALL, counters: false };
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
    let policy = policy(Features::ALL);
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

criterion_group! {
    name = engine;
    config = Criterion::default().sample_size(20);
    targets = program, changes
}
criterion_main!(engine);
