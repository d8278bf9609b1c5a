//! Filters and the rules they compile to, in pairs: `golden/CASE.xml` and `golden/CASE.nft`.
//!
//! `UPDATE=1 cargo test --test golden` rewrites the second of each pair; read the difference like code. The kernel takes
//! what we send for each case, and it is what nft makes of the text.

#[path = "kernel/build.rs"]
#[allow(dead_code, reason = "written for other tests as well")]
mod build;
#[path = "kernel/lab.rs"]
#[allow(dead_code, reason = "written for other tests as well")]
mod lab;
#[path = "kernel/ranges.rs"]
mod ranges;
mod tool;

use nwfilter::document::filter::{Filter, read::read};
use nwfilter::document::span::Source;
use nwfilter::document::vars::Vars;
use nwfilter::kernel::apply::Kernel;
use nwfilter::program::compile::{Capabilities, HostToGuest, Options, compile};
use nwfilter::program::ir::{Chain, Family, Ruleset, Set, SetRole, Table, ValueType};
use nwfilter::program::resolve::{Mode, resolve};
use nwfilter::program::{Program, printable};
use nwfilter::ruleset::nft::Ownership;
use nwfilter::ruleset::plan::TableOperation;
use ranges::Ranges;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const OPTIONS: Options =
    Options { features: Capabilities::ALL, counters: false, host_to_guest: HostToGuest::Pass };

/// What every case is bound with.
const VARS: &[(&str, &str)] = &[
    ("MAC", "52:54:00:11:22:33"),
    ("IP", "10.1.2.3"),
    ("IPV6", "fe80::1"),
    ("A", "1.1.1.1"),
    ("A", "2.2.2.2"),
    ("A", "3.3.3.3"),
    ("B", "80"),
    ("B", "90"),
    ("B", "80"),
    ("C", "1080"),
    ("C", "1090"),
    ("C", "1100"),
    ("MASK", "24"),
    ("STATES", "NEW,RELATED"),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn filter(path: &Path) -> Option<Arc<Filter>> {
    let text = std::fs::read_to_string(path).ok()?;
    let name = path.file_name()?.to_string_lossy();
    match read(&Source::new(name, text)) {
        Ok((filter, _)) => Some(Arc::new(filter)),
        Err(faults) => panic!("{}: {faults:?}", path.display()),
    }
}

/// The program's rules as a table of their own.
fn table(program: &Program) -> Ruleset {
    let (chains, sets) = program.placed(&printable(&program.filter));
    let slot = |key| Set {
        key,
        data: ValueType::None,
        role: SetRole::Variable,
        dynamic: false,
        counted: false,
        elements: Default::default(),
    };
    let slots = program.slots.iter().map(|slot_| (slot_.set_name(), slot(slot_.key())));
    let table = Table {
        unfit: false,
        sets: sets.into_iter().chain(program.foreign.clone()).chain(slots).collect(),
        chains: chains
            .into_iter()
            .map(|(name, rules)| (name, Arc::new(Chain { hook: None, rules })))
            .collect(),
    };
    Ruleset { tables: [(Family::Bridge, table)].into() }
}

/// The program of a case, and its rules as a table.
fn compiled(case: &Path) -> (Program, Ruleset) {
    let own = filter(case).expect("it was listed");
    let library = |name: &str| {
        let shipped = || filter(&root().join("filters").join(format!("{name}.xml")));
        let near = || filter(&case.with_file_name(format!("{name}.xml")));
        if name == own.name { Some(own.clone()) } else { near().or_else(shipped) }
    };
    let mut vars = Vars::default();
    VARS.iter().for_each(|(name, value)| vars.push(*name, *value));
    let resolved = resolve(&library, &own.name, &vars, Mode::Slots).expect("a case resolves");
    let program = compile(&resolved, &OPTIONS).expect("a case compiles");
    let table = table(&program);
    (program, table)
}

fn cases() -> Vec<PathBuf> {
    let mut cases: Vec<PathBuf> = std::fs::read_dir(root().join("tests/golden"))
        .expect("there are cases")
        .map(|entry| entry.expect("the directory can be read").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "xml"))
        .collect();
    cases.sort();
    assert!(cases.len() > 40, "only {} cases were found", cases.len());
    cases
}

#[test]
fn every_case_compiles_to_its_rules() {
    for case in cases() {
        let printed = compiled(&case).1.to_string();
        let golden = case.with_extension("nft");
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&golden, &printed).expect("the case's directory can be written");
        }
        let expected = std::fs::read_to_string(&golden).unwrap_or_default();
        assert_eq!(printed, expected, "{}", golden.display());
    }
}

/// nft has no words for two fields compared with each other, nor for an address of RARP looked up in a set.
const WITHOUT_WORDS: &[&str] = &["arp", "negation", "params", "rarp", "ref", "ref-rule"];

#[test]
fn what_the_kernel_gets_is_what_nft_makes_of_the_text() {
    lab::in_namespace(|| {
        let kernel = Kernel::open(Ownership::Shared).expect("a namespace of our own has a netfilter socket");
        let ranges = Ranges::of_this_nft();
        let delete = build::step(Family::Bridge, TableOperation::DeleteTable);
        for case in cases() {
            let (program, ruleset) = compiled(&case);
            let name = case.file_stem().expect("it has a name").to_string_lossy();
            match kernel.apply(build::prepare(build::steps(&ruleset))) {
                Err(refused) if program.stateful => {
                    println!("skipped: {name}: this kernel tracks no connections on bridges: {refused}");
                    continue;
                }
                outcome => outcome.unwrap_or_else(|refused| panic!("{name}: {refused}")),
            };
            if WITHOUT_WORDS.contains(&&*name) {
                kernel.apply(build::prepare(vec![delete.clone()])).expect("a table can be removed");
                continue;
            }
            let ours = ranges.in_one_form(&lab::listing());
            lab::nft("flush ruleset", "");
            lab::nft("-f -", &ruleset.to_string());
            assert_eq!(ours, ranges.in_one_form(&lab::listing()), "{name}");
            lab::nft("flush ruleset", "");
        }
    });
}
