//! The order of rooms: a file uses only what is before it, and what is pure stays so.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The rooms in order, each with its modules in order. A module uses only rooms before its own, and modules before it.
const ROOMS: &[(&str, &[&str])] = &[
    (
        "document",
        &[
            "strtoul", "mac", "span", "diag", "field", "vars", "xml", "filter", "binding", "standard",
            "regular", "catalog",
        ],
    ),
    ("guest", &["link", "bpf", "frame", "lease", "learning", "observation"]),
    ("program", &["ir", "name", "program", "resolve", "compile", "eval"]),
    (
        "ruleset",
        &["layout", "plan", "firewall", "attach", "nft", "from_kernel", "counters", "bypass", "ipset"],
    ),
    ("report", &["status", "explain", "audit", "trace"]),
    ("engine", &["error", "api", "engine"]),
    ("kernel", &["nfnetlink", "links", "capture", "watch", "tracer", "checksum", "apply"]),
    (
        "service",
        &["config", "store", "confine", "systemd", "logging", "metrics", "rpc", "metrics_server", "daemon"],
    ),
    ("cli", &["cli"]),
];

/// Rooms and modules that may do I/O, look at the clock, or have state of their own.
const EFFECTS: &[&str] =
    &["document::catalog", "document::regular", "ruleset::nft", "kernel", "service", "cli"];

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

/// `room::module` of a path in the crate. What is no module of a room's list belongs to the room's own.
fn module_of(path: &[impl AsRef<str>]) -> String {
    let room = path[0].as_ref();
    let known = ROOMS.iter().find(|(name, _)| *name == room).map_or(&[][..], |(_, modules)| modules);
    let module = path.get(1).map(AsRef::as_ref).filter(|module| known.contains(module)).unwrap_or(room);
    format!("{room}::{module}")
}

/// Each module's text without comments and tests.
fn modules() -> BTreeMap<String, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut modules = BTreeMap::new();
    for path in sources(&root) {
        let relative = path.strip_prefix(&root).unwrap().with_extension("");
        let parts: Vec<_> = relative.iter().map(|part| part.to_string_lossy().into_owned()).collect();
        let name = module_of(&parts);
        let text = fs::read_to_string(&path).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests").next().unwrap().lines();
        let code: String = code
            .filter(|line| !line.trim_start().starts_with("//"))
            .map(|line| format!("{line}\n"))
            .collect();
        modules.entry(name).or_insert_with(String::new).push_str(&code);
    }
    modules.remove("lib::lib");
    modules
}

fn rank(module: &str) -> (usize, usize) {
    let (room, name) = module.split_once("::").unwrap();
    let at = ROOMS.iter().position(|(other, _)| *other == room);
    let at = at.unwrap_or_else(|| panic!("{room} is no room: say where it belongs"));
    // The room's own page declares its modules; it uses none of them unless it is listed itself.
    (at, ROOMS[at].1.iter().position(|other| *other == name).unwrap_or(0))
}

/// The modules named by `crate::room::module` in code.
fn used(code: &str) -> Vec<String> {
    let word = |text: &str| -> String {
        text.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect()
    };
    let paths = code.split("crate::").skip(1).map(|path| {
        let room = word(path);
        let rest = path[room.len()..].strip_prefix("::").map(word).unwrap_or_default();
        [room, rest]
    });
    paths.filter(|path| !path[0].is_empty()).map(|path| module_of(&path)).collect()
}

#[test]
fn a_module_uses_only_what_is_below_it() {
    let modules = modules();
    let mut wrong = Vec::new();
    for (module, code) in &modules {
        for other in used(code).iter().filter(|other| *other != module) {
            if rank(other) > rank(module) {
                wrong.push(format!("{module} uses {other}"));
            }
        }
    }
    wrong.dedup();
    assert_eq!(wrong, [""; 0]);
}

fn has_effects(module: &str) -> bool {
    let room = module.split("::").next().unwrap();
    EFFECTS.contains(&module) || EFFECTS.contains(&room)
}

#[test]
fn pure_modules_do_nothing_but_compute() {
    let mut wrong = Vec::new();
    for (module, code) in modules().iter().filter(|(module, _)| !has_effects(module)) {
        for word in IMPURE.iter().filter(|word| code.contains(**word)) {
            wrong.push(format!("{module} says {word}"));
        }
    }
    assert_eq!(wrong, [""; 0]);
}

/// The types that a module's code defines outside of functions and traits.
fn types(code: &str) -> impl Iterator<Item = String> {
    code.lines().filter_map(|line| {
        let visible =
            line.strip_prefix("pub").map_or(line, |rest| rest.trim_start_matches(|c| c != ' ').trim_start());
        let (kind, rest) = visible.split_once(' ')?;
        let name = rest.split(|c: char| !c.is_ascii_alphanumeric()).next()?;
        ["struct", "enum", "union", "trait", "type"].contains(&kind).then(|| name.to_owned())
    })
}

#[test]
fn a_pure_type_has_a_name_of_its_own() {
    let mut homes: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (module, code) in modules().iter().filter(|(module, _)| rank(module).0 <= rank("engine::engine").0) {
        types(code).for_each(|name| homes.entry(name).or_default().push(module.clone()));
    }
    assert!(homes.len() > 200, "only {} types were found", homes.len());
    homes.retain(|_, homes| homes.len() > 1);
    assert_eq!(homes, BTreeMap::new());
}

#[test]
fn every_module_has_a_page_that_says_what_it_is() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for path in sources(&root) {
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("//! "), "{} does not begin with what it is", path.display());
    }
}
