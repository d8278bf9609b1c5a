//! Changes up to the kernel's answer, in a network namespace: one more guest, a redefinition, a restart.
//!
//! Guests are numbers, there is no traffic. What packets under way may still read is taken away after the answer, as in
//! the daemon, and waits for them; that is not in these figures but for `redefine, to the end`.

mod guests;

use criterion::{Criterion, criterion_group, criterion_main};
use guests::{guest, guests, policy, wordings};
use nwfilter::kernel::apply::{Kernel, Retire};
use nwfilter::program::ir::{Family, Ruleset};
use nwfilter::ruleset::firewall::Firewall;
use nwfilter::ruleset::from_kernel::recall;
use nwfilter::ruleset::nft::Ownership;
use nwfilter::ruleset::plan::{Plan, Step, TableOperation, plan};
use std::time::{Duration, Instant};

const COUNTS: [u32; 5] = [0, 64, 100, 1000, 5000];

fn open() -> Kernel {
    // SAFETY: unshare takes a flag and touches no memory.
    assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0, "a network namespace needs root");
    Kernel::open(Ownership::OwnedAndKept).expect("netfilter")
}

fn commit(kernel: &Kernel, old: &Firewall, new: &Firewall, retire: Retire) {
    send(kernel, plan(&old.ruleset(), &new.ruleset()), retire);
}

fn send(kernel: &Kernel, plan: Plan, retire: Retire) {
    kernel.submit(plan, retire).blocking_recv().expect("an answer").expect("in force");
}

/// Waits for what comes after the answer.
fn settle(kernel: &Kernel) {
    send(kernel, Plan::default(), Retire::BeforeAnswer);
}

/// The time of the first of two changes, of which the second is the way back.
fn to_and_fro(times: u64, mut there: impl FnMut() -> Duration, mut back: impl FnMut()) -> Duration {
    (0..times)
        .map(|_| {
            let time = there();
            back();
            time
        })
        .sum()
}

fn changes(c: &mut Criterion) {
    for count in COUNTS {
        let kernel = open();
        let before = guests(policy(kernel.features().into()), count);
        send(&kernel, plan(&Ruleset::default(), &before.ruleset()), Retire::BeforeAnswer);
        c.bench_function(&format!("bind/{count}"), |b| {
            b.iter_custom(|times| {
                let there = || {
                    let start = Instant::now();
                    let after = before.bind(guest(count, "clean-traffic")).expect("bound");
                    commit(&kernel, &before, &after, Retire::AfterAnswer);
                    start.elapsed()
                };
                let after = before.bind(guest(count, "clean-traffic")).expect("bound");
                to_and_fro(times, there, || commit(&kernel, &after, &before, Retire::BeforeAnswer))
            });
        });
        let other = wordings()[1].clone();
        for (name, retire) in
            [("redefine", Retire::AfterAnswer), ("redefine, to the end", Retire::BeforeAnswer)]
        {
            c.bench_function(&format!("{name}/{count}"), |b| {
                b.iter_custom(|times| {
                    let there = || {
                        let start = Instant::now();
                        let after = before.define([other.clone()]).expect("defined");
                        commit(&kernel, &before, &after, retire);
                        let time = start.elapsed();
                        settle(&kernel);
                        time
                    };
                    let after = before.define([other.clone()]).expect("defined");
                    to_and_fro(times, there, || commit(&kernel, &after, &before, Retire::BeforeAnswer))
                });
            });
        }
    }
}

fn restarts(c: &mut Criterion) {
    let kernel = open();
    let policy = policy(kernel.features().into());
    let delete = || {
        let gone = Step { family: Family::Bridge, change: TableOperation::DeleteTable };
        send(&kernel, Plan { switch: vec![gone], ..Plan::default() }, Retire::BeforeAnswer);
    };
    c.bench_function("rebuild from nothing/5000", |b| {
        b.iter_custom(|times| {
            let there = || {
                let start = Instant::now();
                let all = guests(policy, 5000);
                send(&kernel, plan(&Ruleset::default(), &all.ruleset()), Retire::AfterAnswer);
                start.elapsed()
            };
            to_and_fro(times, there, delete)
        });
    });
    let [_, wording] = wordings();
    let found = guests(policy, 5000);
    send(&kernel, plan(&Ruleset::default(), &found.ruleset()), Retire::BeforeAnswer);
    c.bench_function("rebuild over what is found/5000", |b| {
        b.iter_custom(|times| {
            let there = || {
                let start = Instant::now();
                let all = guests(policy, 5000).define([wording.clone()]).expect("defined");
                let old = recall(&kernel.observe().expect("read"), &all.ruleset());
                send(&kernel, plan(&old, &all.ruleset()), Retire::AfterAnswer);
                start.elapsed()
            };
            let back = || {
                let old = recall(&kernel.observe().expect("read"), &found.ruleset());
                send(&kernel, plan(&old, &found.ruleset()), Retire::BeforeAnswer);
            };
            to_and_fro(times, there, back)
        });
    });
}

criterion_group! {
    name = commits;
    config = Criterion::default().sample_size(20).measurement_time(Duration::from_secs(3));
    targets = changes, restarts
}
criterion_main!(commits);
