//! Plain words: some that make a sentence hard to read do not come back.

use super::markdown::Page;
use super::{book, documents, root};
use std::fs;

/// Each has a plain one: "a guest that", "no process", "again", "block", "cannot", "it".
const UNWANTED: &[&str] = &[
    "whoever",
    "whom",
    "somebody",
    "nobody",
    "told",
    "anew",
    "made again",
    "let by",
    "shut",
    "kin",
    "affair",
    "can not",
    "he",
    "his",
    "him",
];

/// Documents that are written in these words still, or that record other people's.
const LATER: &[&str] = &["ARCHITECTURE.md", "CHANGELOG.md", "PROMISES.md"];

#[test]
fn the_book_is_written_in_plain_words() {
    let pages = book().into_iter().chain(documents()).filter(|page| !LATER.contains(&page.name().as_str()));
    let conf = fs::read_to_string(root().join("packaging/nwfilterd.conf")).unwrap();
    let benches = Page::read(root().join("benches/README.md"));
    let texts = pages
        .chain([benches])
        .map(|page| (page.name(), page.prose()))
        .chain([("packaging/nwfilterd.conf".into(), conf)]);
    let found: Vec<String> = texts.flat_map(|(name, text)| unwanted(&name, &text)).collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn unwanted_words_are_found_whole_and_over_lines() {
    assert_eq!(unwanted("x", "The skin is shutdown.\nhistory, then").len(), 0);
    assert_eq!(unwanted("x", "Whoever asks can\nnot.").len(), 2);
}

fn unwanted(name: &str, text: &str) -> Vec<String> {
    let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    let text = format!(" {} ", words.collect::<Vec<_>>().join(" ").to_lowercase());
    let here = UNWANTED.iter().filter(|word| text.contains(&format!(" {word} ")));
    here.map(|word| format!("{name}: {word:?}")).collect()
}
