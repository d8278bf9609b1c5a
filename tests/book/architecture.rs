//! ARCHITECTURE.md names files and functions that exist, and says of each of its rules what kind it is.

use super::root;
use std::fs;

#[test]
fn the_architecture_names_functions_that_exist() {
    let text = architecture();
    let named = functions(&text);
    assert!(named.len() > 30, "{named:?}");
    let gone: Vec<_> = named.into_iter().filter(|(file, function)| !has(file, function)).collect();
    assert!(gone.is_empty(), "ARCHITECTURE.md names what is not in src: {gone:?}");
}

#[test]
fn each_rule_of_the_architecture_is_an_invariant_or_a_boundary() {
    let text = architecture();
    let (_, rest) = text.split_once("## Invariants and boundaries\n").unwrap();
    let (section, _) = rest.split_once("\n## ").unwrap();
    let rules: Vec<&str> = section.lines().filter_map(|line| line.strip_prefix("* ")).collect();
    assert!(rules.len() > 15, "{rules:?}");
    let is_labelled =
        |rule: &&str| ["*Invariant*: ", "*Boundary*: "].iter().any(|label| rule.starts_with(label));
    assert!(rules.iter().all(is_labelled), "{rules:?}");
}

#[test]
fn a_function_that_does_not_exist_is_found() {
    assert_eq!(functions("see `a/b.rs::c`, `d::e` and `f.rs`"), [("a/b.rs", "c")]);
    assert!(has("engine.rs", "request") && !has("engine.rs", "reque") && !has("engines.rs", "request"));
}

fn architecture() -> String {
    fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap()
}

/// What stands as `file.rs::function` between backquotes.
fn functions(text: &str) -> Vec<(&str, &str)> {
    let quoted = text.split('`').skip(1).step_by(2);
    quoted.filter_map(|name| name.split_once("::")).filter(|(file, _)| file.ends_with(".rs")).collect()
}

fn has(file: &str, function: &str) -> bool {
    let source = fs::read_to_string(root().join("src").join(file)).unwrap_or_default();
    ["(", "<"].iter().any(|next| source.contains(&format!("fn {function}{next}")))
}
