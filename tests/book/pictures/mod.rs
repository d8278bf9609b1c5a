//! The pictures of the book, drawn from data: hooks and states from small files in docs/pictures, times from the benches' tables.
//!
//! `UPDATE=1 cargo test --test book pictures` draws them; without it the tests hold them to their data, and the data to code and
//! documents.

mod chart;
mod hooks;
mod states;
mod svg;

use super::{holds, root};
use std::fs;

#[test]
fn the_picture_of_hooks_is_drawn_from_its_data() {
    holds("docs/src/pictures/hooks.svg", &hooks::draw(&data("hooks.txt")));
}

#[test]
fn the_picture_of_states_is_drawn_from_its_data() {
    holds("docs/src/pictures/states.svg", &states::draw(&data("states.txt")));
}

#[test]
fn the_chart_of_bind_times_is_drawn_from_the_benches() {
    holds("docs/src/pictures/bind-time.svg", &chart::draw(&text("benches/README.md")));
}

fn data(name: &str) -> String {
    text(&format!("docs/pictures/{name}"))
}

fn text(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|why| panic!("{path}: {why}"))
}
