//! The order of layers: a file uses only files of lower layers, and what is pure stays so.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The modules of each layer. Within a layer a module may use only those before it.
const LAYERS: &[(&str, &[&str])] = &[
    ("values", &["number", "addr", "span", "diag", "field", "vars"]),
    ("documents", &["xml", "filter", "binding", "standard", "library"]),
    ("guests", &["frame", "bpf", "lease", "learning"]),
    (
        "meaning",
        &["ir", "program", "resolve", "compile", "eval", "layout", "plan", "firewall", "explain", "audit"],
    ),
    (
        "edges",
        &[
            "nft", "recall", "links", "checksum", "apply", "store", "config", "confine", "logging", "notify",
            "rpc", "learn", "trace", "scrape",
        ],
    ),
    ("state", &["place", "ipset", "drops", "unseen", "status", "engine", "metrics"]),
    ("whole", &["daemon", "cli"]),
];

/// Modules that may do I/O, look at the clock, or have state of their own.
const EFFECTS: &[&str] = &[
    "library", "nft", "apply", "links", "checksum", "learn", "store", "config", "confine", "logging",
    "notify", "rpc", "scrape", "daemon", "cli",
];

/// What a pure module never says.
const IMPURE: &[&str] = &[
    "std::fs",
    "std::net::Tcp",
    "std::net::Udp",
    "std::os",
    "std::process",
    "std::thread",
    "std::env",
    "Instant",
    "SystemTime",
    "tokio::",
    "libc::",
    "rustix::",
    "nftnl",
    "unsafe ",
    "static mut",
    "thread_local",
    "OnceLock",
    "println!",
    "tracing::",
];

fn sources(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let (directories, files): (Vec<PathBuf>, Vec<PathBuf>) = entries.partition(|path| path.is_dir());
    let below = directories.iter().filter(|path| !path.ends_with("bin")).flat_map(|path| sources(path));
    files
        .into_iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .chain(below)
        .collect()
}

/// The top module that a file belongs to, and its text without comments and tests.
fn modules() -> BTreeMap<String, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut modules = BTreeMap::new();
    for path in sources(&root) {
        let relative = path.strip_prefix(&root).unwrap();
        let top = relative.components().next().unwrap().as_os_str().to_string_lossy();
        let name = top.trim_end_matches(".rs").to_owned();
        let text = fs::read_to_string(&path).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests").next().unwrap().lines();
        let code: String = code
            .filter(|line| !line.trim_start().starts_with("//"))
            .map(|line| format!("{line}\n"))
            .collect();
        modules.entry(name).or_insert_with(String::new).push_str(&code);
    }
    modules.remove("lib");
    modules
}

fn rank(module: &str) -> usize {
    let order = LAYERS.iter().flat_map(|(_, modules)| modules.iter());
    order
        .clone()
        .position(|name| *name == module)
        .unwrap_or_else(|| panic!("{module} is in no layer: say where it belongs"))
}

/// `crate::name` and the names of `use crate::{a, b}`.
fn used(code: &str) -> Vec<String> {
    let paths = code.split("crate::").skip(1);
    let name =
        |path: &str| path.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect::<String>();
    paths.map(name).filter(|name| !name.is_empty()).collect()
}

#[test]
fn a_module_uses_only_what_is_below_it() {
    let modules = modules();
    let mut wrong = Vec::new();
    for (module, code) in &modules {
        for other in used(code).iter().filter(|other| *other != module && modules.contains_key(*other)) {
            if rank(other) > rank(module) {
                wrong.push(format!("{module} uses {other}"));
            }
        }
    }
    wrong.dedup();
    assert_eq!(wrong, [""; 0]);
}

#[test]
fn pure_modules_do_nothing_but_compute() {
    let mut wrong = Vec::new();
    for (module, code) in modules().iter().filter(|(module, _)| !EFFECTS.contains(&module.as_str())) {
        for word in IMPURE.iter().filter(|word| code.contains(**word)) {
            wrong.push(format!("{module} says {word}"));
        }
    }
    assert_eq!(wrong, [""; 0]);
}

#[test]
fn every_module_has_a_page_that_says_what_it_is() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for path in sources(&root) {
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("//! "), "{} does not begin with what it is", path.display());
    }
}
