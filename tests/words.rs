//! Words that must not come back: plain technical English names the actor, and an interface is *it*. Names of tests and
//! helpers are short enough to be read in a list.

use std::fs;
use std::path::{Path, PathBuf};

/// What a reader should not meet, and what says it instead.
const FORBIDDEN: &[(&str, &str)] = &[
    ("whoever", "name the interface, client or process"),
    ("whom", "name the interface, client or process"),
    ("somebody", "name the interface, client or process"),
    ("nobody", "no interface, no client, nothing"),
    ("anew", "again"),
    ("made again", "recreated"),
    ("told is", "say who reports what"),
    ("is told", "say who reports what"),
    ("told", "reported, said, printed or warned about, with the actor named"),
    ("shut", "block"),
    ("shuts", "blocks"),
    ("is let by", "say what lets it pass"),
    ("are let by", "say what lets them pass"),
    ("lets by", "passes"),
    ("kin", "kind, or name the things"),
    ("affair", "say who decides"),
    ("can not", "cannot"),
    ("he", "it"),
    ("his", "its"),
    ("him", "it"),
];

/// The lists of words themselves.
const LISTS: &[&str] = &["tests/words.rs", "tests/book/words.rs"];

/// Tests, and what runs them.
const TESTS: &[&str] = &["tests", "benches", "examples", "fuzz/fuzz_targets", "vm-tests", "scripts", ".ci"];

/// Rooms and documents that hold to it.
const HELD: &[&str] = &[
    "src/document",
    "src/guest",
    "src/program",
    "src/report",
    "src/cli",
    "src/document.rs",
    "src/guest.rs",
    "src/program.rs",
    "src/report.rs",
    "src/cli.rs",
    "src/ruleset",
    "src/ruleset.rs",
    "src/engine",
    "src/engine.rs",
    "src/kernel",
    "src/kernel.rs",
    "src/service",
    "src/service.rs",
    "CHANGELOG.md",
    "src/lib.rs",
    "README.md",
    "ARCHITECTURE.md",
    "PROMISES.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "docs/src",
];

fn files(path: &Path, found: &mut Vec<PathBuf>) {
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            files(&entry.unwrap().path(), found);
        }
    } else if path.extension().is_none_or(|extension| ["rs", "md", "py"].iter().any(|one| extension == *one))
    {
        found.push(path.to_owned());
    }
}

/// The words of a line as the list has them: lower case, between single spaces. An identifier is one word.
fn words(line: &str) -> String {
    let letters = |c: char| if c.is_alphabetic() || "'_".contains(c) { c.to_ascii_lowercase() } else { ' ' };
    let plain: String = line.chars().map(letters).collect();
    format!(" {} ", plain.split_whitespace().collect::<Vec<_>>().join(" "))
}

fn found_in(line: &str) -> Vec<&'static (&'static str, &'static str)> {
    let words = words(line);
    FORBIDDEN.iter().filter(|(word, _)| words.contains(&format!(" {word} "))).collect()
}

/// Each place of a text where a word is forbidden, a line each.
fn faults(file: &Path, text: &str) -> String {
    let lines = (1..).zip(text.lines());
    let found = lines.flat_map(|(at, line)| found_in(line).into_iter().map(move |one| (at, line, one)));
    found
        .map(|(at, line, (word, instead))| {
            format!("{}:{at}: '{word}': {instead}\n  {}\n", file.display(), line.trim())
        })
        .collect()
}

fn texts(paths: &[&str]) -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut all = Vec::new();
    paths.iter().for_each(|path| files(&root.join(path), &mut all));
    let read = |file: PathBuf| {
        (
            file.strip_prefix(root).unwrap().to_owned(),
            String::from_utf8_lossy(&fs::read(&file).unwrap()).into(),
        )
    };
    all.into_iter().map(read).collect()
}

#[test]
fn sources_and_documents_keep_to_plain_words() {
    let texts = texts(HELD);
    assert!(texts.len() > 100, "only {} files were read", texts.len());
    let wrong: String = texts.iter().map(|(file, text)| faults(file, text)).collect();
    assert!(wrong.is_empty(), "{wrong}");
}

/// Code with its names as words: split at underscores and before capitals.
fn names(code: &str) -> String {
    let mut words = String::new();
    for c in code.chars() {
        if c.is_ascii_uppercase() && words.ends_with(|last: char| last.is_ascii_lowercase()) {
            words.push(' ');
        }
        words.push(if c == '_' { ' ' } else { c });
    }
    words
}

#[test]
fn names_in_sources_keep_to_plain_words() {
    let texts = texts(&["src"]);
    assert!(texts.len() > 100, "only {} files were read", texts.len());
    let wrong: String = texts.iter().map(|(file, text)| faults(file, &names(text))).collect();
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn tests_keep_to_plain_words_in_names_as_well() {
    let texts =
        texts(TESTS).into_iter().filter(|(file, _)| !LISTS.iter().any(|list| file == Path::new(list)));
    let mut read = 0;
    let mut wrong = String::new();
    for (file, text) in texts {
        read += 1;
        wrong += &faults(&file, &text);
        for name in functions(&text) {
            wrong += &faults(&file, &name.replace('_', " "));
        }
    }
    assert!(read > 150, "only {read} files were read");
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn a_forbidden_word_is_found_as_a_word() {
    assert_eq!(found_in("/// Whoever `can not` wait").len(), 2);
    assert_eq!(found_in("the history of the machine cannot help").len(), 0);
    assert_eq!(found_in(&names("fn is_told(&self) -> ShutState")).len(), 3);
    assert_eq!(found_in(&names("libc::SYS_shutdown, TheKind")).len(), 0);
}

/// A function's name has fewer letters than this.
const NAME: usize = 60;

/// Names of all functions that a text defines.
fn functions(text: &str) -> impl Iterator<Item = &str> {
    let ends = |c: char| !c.is_alphanumeric() && c != '_';
    let code = text.lines().map(str::trim_start).filter(|line| !line.starts_with("//"));
    code.flat_map(|line| line.split("fn ").skip(1)).map(move |rest| rest.split(ends).next().unwrap())
}

#[test]
fn names_of_functions_are_short() {
    let texts = texts(&["src", "tests", "benches", "examples", "fuzz/fuzz_targets"]);
    let names: Vec<_> = texts.iter().flat_map(|(_, text)| functions(text)).collect();
    assert!(names.len() > 2000, "only {} functions were found", names.len());
    let long: Vec<_> = names.into_iter().filter(|name| name.len() >= NAME).collect();
    assert!(long.is_empty(), "as long as {NAME} letters or longer: {long:#?}");
}

#[test]
fn functions_are_found_by_their_names() {
    let text = "pub async fn one<T>(a: fn(u8)) {}\n  fn two() { fn three() {} }\n// fn four()";
    assert_eq!(functions(text).filter(|name| !name.is_empty()).collect::<Vec<_>>(), ["one", "two", "three"]);
}
