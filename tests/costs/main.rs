//! What the worst inputs cost: not more than n log n of their size, and not more than is said.
//!
//! Growth is the ratio between an input and one four times as large, in the same run, of processor time: 4 is linear,
//! 16 quadratic. Memory is counted byte for byte.

mod meter;
mod worst;

use meter::{Cost, Metered, cost};
use nwfilter::document::binding::Binding;
use nwfilter::document::diag::Faults;
use nwfilter::document::filter::read::read;
use nwfilter::document::span::Source;
use nwfilter::engine::{State, sound};
use std::sync::Mutex;
use std::time::Duration;

#[global_allocator]
static ALLOCATOR: Metered = Metered;

/// One at a time: the memory of one would count for the other.
static ALONE: Mutex<()> = Mutex::new(());

const MEBIBYTE: usize = 1 << 20;

/// Work of four times the size takes at most so many times as long. Quadratic is 16.
const GROWTH: u32 = 10;

/// Below that a clock tells nothing.
const LEAST: Duration = Duration::from_millis(2);

/// The cheapest of some tries.
fn cheapest<T>(mut work: impl FnMut() -> T) -> Cost {
    let tries = (0..2).map(|_| cost(&mut work).1);
    tries.min_by_key(|cost| cost.time).expect("there are two")
}

#[track_caller]
fn grows_with_its_size(name: &str, mut work: impl FnMut(usize)) {
    let (small, large) = (cheapest(|| work(1)), cheapest(|| work(4)));
    let most = small.time.max(LEAST) * GROWTH;
    assert!(large.time <= most, "{name}: {:?}, of four times the size {:?}", small.time, large.time);
}

#[test]
fn reading_a_document_costs_what_its_size_is() {
    let _alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    for (name, document) in worst::DOCUMENTS {
        let documents = [document(16 << 10), document(64 << 10)];
        grows_with_its_size(name, |size| _ = worst::read_all(&documents[usize::from(size > 1)]));
    }
}

#[test]
fn the_worst_document_takes_no_more_than_fifty_times_its_size() {
    let _alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    for (name, document) in worst::DOCUMENTS {
        let text = document(MEBIBYTE / 8);
        let (reported, Cost { memory, .. }) = cost(|| worst::read_all(&text));
        // Beside what the faults take that are kept, however long the document is.
        assert!(memory < 50 * text.len() + 4 * MEBIBYTE, "{name}: {} KiB", memory >> 10);
        assert!(reported < MEBIBYTE, "{name}: {reported} bytes are reported");
    }
}

#[test]
fn of_many_faults_the_first_are_shown_and_the_rest_counted() {
    let text = worst::named("f", &format!("{}<rule/>", "<q/>".repeat(5000)));
    let faults = read(&Source::new("f.xml", text)).expect_err("a rule needs an action");
    let reported: Vec<&str> = faults[Faults::MOST..].iter().map(|fault| &*fault.message).collect();
    let refused = format!("a document may have at most {} faults", Faults::MOST);
    let more = format!("{} more faults of this document are not listed", 5002 - Faults::MOST);
    assert_eq!(
        reported,
        [refused, more],
        "it is refused, since some of what nothing would enforce is not reported"
    );
}

#[test]
fn references_share_the_variables_of_the_binding() {
    let _alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let state = worst::define(&worst::host(1), &worst::references(8000)).expect("defined");
    let memory = |variables: usize| {
        let binding = worst::bound("guest0", "references", &worst::variables(variables));
        let (bound, cost) = cost(|| worst::create(&state, &binding).map(drop));
        assert_eq!(bound, Ok(()));
        cost.memory
    };
    let (few, many) = (memory(100), memory(1600));
    assert!(many < few + 8 * MEBIBYTE, "1500 variables more cost {} KiB more", (many - few) >> 10);
}

#[test]
fn many_lookups_of_a_long_list_are_refused_unbuilt() {
    let _alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let state = worst::define(&worst::host(1), &worst::rules("f", 1000, 1)).expect("defined");
    let (refused, Cost { memory, .. }) =
        cost(|| worst::apply(&state, &worst::bound("guest0", "f", &worst::addresses(8000))));
    let refused = refused.map(drop).expect_err("eight million elements");
    assert!(refused.contains("the values of the variables ask for too many rules"), "{refused}");
    assert!(memory < 300 * MEBIBYTE, "{} MiB", memory / MEBIBYTE);
}

#[test]
fn binding_costs_what_is_bound() {
    let _alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let state = worst::host(1);
    let bindings = [1, 4].map(|n| worst::bound("guest0", "clean-traffic", &worst::addresses(1000 * n)));
    grows_with_its_size("addresses", |size| {
        drop(worst::apply(&state, &bindings[usize::from(size > 1)]).unwrap())
    });
    let binding = worst::bound("guest0", "f", &worst::address_of(0));
    let filters = [1, 4].map(|n| worst::rules("f", 500 * n, 1));
    grows_with_its_size("rules", |size| {
        let defined = worst::define(&state, &filters[usize::from(size > 1)]).unwrap();
        drop(worst::apply(&defined, &binding).unwrap());
    });
}

#[test]
fn a_redefinition_costs_what_its_guests_are() {
    let _alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let bound = |guests: u32| {
        let state = worst::define(&worst::host(guests), &worst::rules("f", 50, 1)).unwrap();
        (0..guests).fold(state, |state, n| {
            worst::apply(&state, &worst::bound(&format!("guest{n}"), "f", &worst::address_of(n))).unwrap()
        })
    };
    let states = [bound(8), bound(32)];
    let wording = worst::rules("f", 50, 2);
    grows_with_its_size("folded guests", |size| {
        drop(worst::define(&states[usize::from(size > 1)], &wording).unwrap());
    });
}

#[test]
fn a_start_costs_what_there_is_to_start() {
    let _alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let filters = |count: usize| -> Vec<_> {
        // Each refers to the one that is read before it.
        let text = |n: usize| {
            worst::named(
                &format!("f{n:05}"),
                &format!(
                    "<uuid>{}</uuid><filterref filter='f{:05}'/>",
                    uuid::Uuid::from_u128(n as u128 + 1),
                    n + 1
                ),
            )
        };
        (0..count).rev().map(|n| read(&Source::new("f", text(n))).unwrap().0).collect()
    };
    let sizes = [filters(500), filters(2000)];
    let known = Default::default();
    grows_with_its_size("filters that refer to each other", |size| {
        let (taken, faults) = sound(&known, sizes[usize::from(size > 1)].clone());
        assert!(faults.is_empty() && taken.len() >= 500);
    });
    let host = worst::host(2000);
    let links: Vec<_> = (0..2000).filter_map(|n| host.link_at(10 + n).map(|link| (**link).clone())).collect();
    let firewall = host.firewall().clone();
    let binding = |n: u32| -> Binding {
        let text = worst::bound(&format!("guest{n}"), "clean-traffic", &worst::address_of(n));
        nwfilter::document::binding::read(&Source::new("b", text)).unwrap().0
    };
    let sizes = [500, 2000].map(|count| (0..count).map(binding).collect::<Vec<_>>());
    grows_with_its_size("bindings", |size| {
        let bindings = sizes[usize::from(size > 1)].clone();
        let started = State::restore(firewall.clone(), bindings, links.clone(), Duration::ZERO);
        assert_eq!(started.closed_ports(), [""; 0]);
    });
}
