//! The book in docs/ is true: its reference pages are those that the code gives, its pictures are drawn from data that code and
//! documents hold, its links lead somewhere, its commands print what it shows, and its words are plain. So is what
//! ARCHITECTURE.md names.
//!
//! `UPDATE=1 cargo test --test book` writes generated pages and the outputs of commands again; the difference is then for a
//! person to judge. Commands run in a machine of their own (see `machine`) and need root.

mod architecture;
mod console;
mod generated;
#[path = "../lab/mod.rs"]
mod lab;
mod links;
mod listed;
mod machine;
mod markdown;
mod pictures;
#[path = "../tool/mod.rs"]
mod tool;
mod words;

use markdown::Page;
use std::fs;
use std::path::{Path, PathBuf};

/// Whether pages are written instead of compared.
fn updates() -> bool {
    std::env::var_os("UPDATE").is_some_and(|value| value == "1")
}

/// Fails where a file of the repository is not what the code gives.
fn holds(file: &str, wanted: &str) {
    let path = root().join(file);
    if updates() {
        fs::write(&path, wanted).unwrap();
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    let first = found.lines().zip(wanted.lines()).position(|(found, wanted)| found != wanted);
    let stale = "is stale; run: UPDATE=1 cargo test --test book";
    assert!(
        found == wanted,
        "{file} {stale}; the first difference is in line {}",
        first.map_or(0, |at| at + 1)
    );
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The pages of the book.
fn book() -> Vec<Page> {
    files_below(&root().join("docs/src")).into_iter().filter(|path| is_page(path)).map(Page::read).collect()
}

/// All documents of the repository's root.
fn documents() -> Vec<Page> {
    let entries = fs::read_dir(root()).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| is_page(path)).map(Page::read).collect()
}

/// The sources of the program.
fn below_src() -> Vec<PathBuf> {
    files_below(&root().join("src"))
}

fn files_below(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let (directories, mut files): (Vec<PathBuf>, Vec<PathBuf>) = entries.partition(|path| path.is_dir());
    files.extend(directories.iter().flat_map(|directory| files_below(directory)));
    files.sort();
    files
}

fn is_page(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "md")
}
