//! Every promise of PROMISES.md has a test that cites its number, and no test cites a number that is not there.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn sources(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let nested = entries.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] });
    nested.filter(|path| path.extension().is_some_and(|extension| extension == "rs")).collect()
}

/// Numbers such as `P-7` in a text.
fn numbers(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '-');
    let is_number = |word: &&str| {
        let Some((kind, number)) = word.split_once('-') else { return false };
        ["P", "W", "G"].contains(&kind) && !number.is_empty() && number.chars().all(|c| c.is_ascii_digit())
    };
    words.filter(is_number).map(str::to_owned).collect()
}

/// What comments in front of tests cite.
fn cited() -> BTreeSet<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = [sources(&root.join("tests")), sources(&root.join("src"))].concat();
    let mut cited = BTreeSet::new();
    for path in files.iter().filter(|path| !path.ends_with("tests/promises.rs")) {
        let text = fs::read_to_string(path).unwrap();
        let comments = text.lines().filter(|line| line.trim_start().starts_with("// "));
        comments.for_each(|line| cited.extend(numbers(line)));
    }
    cited
}

#[test]
fn every_promise_has_a_test_and_no_citation_dangles() {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("PROMISES.md")).unwrap();
    let (said, cited) = (numbers(&text), cited());
    assert!(said.len() > 40, "{said:?}");
    let untested: Vec<_> =
        said.iter().filter(|number| number.starts_with('P') && !cited.contains(*number)).collect();
    assert!(untested.is_empty(), "no test cites {untested:?}");
    let dangling: Vec<_> = cited.difference(&said).collect();
    assert!(dangling.is_empty(), "PROMISES.md does not say {dangling:?}");
}

#[test]
fn numbers_are_found_where_they_are() {
    let text = "`P-1`, W-12. xP-3 P- P-a G-4x (G-5)";
    assert_eq!(numbers(text), ["G-5", "P-1", "W-12"].map(str::to_owned).into());
}
