//! What the worst inputs cost, as a table: each kind of input by its size, with processor time and memory.
//!
//! The same inputs and the same meter as in `tests/costs`, which holds how the cost grows.

#[allow(dead_code, reason = "the test uses the rest")]
#[path = "../tests/costs/meter.rs"]
mod meter;
#[allow(dead_code, reason = "the test uses the rest")]
#[path = "../tests/costs/worst.rs"]
mod worst;

use meter::{Cost, Metered, cost};
use nwfilter::engine::State;

#[global_allocator]
static ALLOCATOR: Metered = Metered;

const MEBIBYTE: usize = 1 << 20;

fn main() {
    println!("| input | size | processor | memory |\n| --- | --- | --- | --- |");
    for (name, document) in worst::DOCUMENTS {
        for size in [MEBIBYTE / 8, 2 * MEBIBYTE] {
            let text = document(size);
            row(name, &format!("{} KiB", text.len() >> 10), || worst::read_all(&text));
        }
    }
    bindings();
    redefinitions();
}

fn row<T>(name: &str, size: &str, work: impl FnOnce() -> T) -> T {
    let (done, Cost { time, memory }) = cost(work);
    let (time, memory) = (time.as_secs_f64() * 1e3, memory as f64 / MEBIBYTE as f64);
    println!("| {name} | {size} | {time:.1} ms | {memory:.1} MiB |");
    done
}

fn bind(name: &str, size: &str, state: &State, filter: &str, params: &str) {
    let binding = worst::bound("guest0", filter, params);
    let bound = row(name, size, || worst::apply(state, &binding));
    if let Err(why) = bound {
        println!("| | refused: {} | | |", why.lines().next().unwrap_or_default());
    }
}

fn bindings() {
    let host = worst::host(1);
    let references = worst::define(&host, &worst::references(8000)).expect("defined");
    for count in [100, 800, 80_000] {
        let size = format!("{count} variables");
        bind(
            "bind to 8000 references with a parameter each",
            &size,
            &references,
            "references",
            &worst::variables(count),
        );
    }
    for count in [10_000, 80_000] {
        let params = worst::addresses(count);
        bind("bind clean-traffic", &format!("{count} addresses"), &host, "clean-traffic", &params);
    }
    for count in [4000, 16_000] {
        let document = worst::rules("rules", count, 1);
        let defined =
            row("define", &format!("{count} rules"), || worst::define(&host, &document)).expect("defined");
        bind("bind", &format!("{count} rules"), &defined, "rules", &worst::address_of(0));
    }
}

fn redefinitions() {
    for guests in [64, 65] {
        let host = worst::define(&worst::host(guests), &worst::rules("rules", 400, 1)).expect("defined");
        let bound = |state: State, n| {
            let binding = worst::bound(&format!("guest{n}"), "rules", &worst::address_of(n));
            worst::apply(&state, &binding).expect("bound")
        };
        let state = (0..guests).fold(host, bound);
        let wording = worst::rules("rules", 400, 2);
        let size = format!("{guests} guests, 400 rules");
        row("redefine", &size, || worst::define(&state, &wording)).expect("defined");
    }
}
