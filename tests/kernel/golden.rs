//! Every golden case and every standard filter: what we send of it lists as what nft loads of its text.

use crate::build::{prepare, steps};
use crate::lab::{in_namespace, listing, nft};
use crate::ranges::Ranges;
use nwfilter::document::filter::{Filter, read::read};
use nwfilter::document::span::Source;
use nwfilter::document::vars::Vars;
use nwfilter::kernel::apply::{Kernel, Refused};
use nwfilter::program::compile::{Capabilities, HostToGuest, Options, Part, compile_part};
use nwfilter::program::ir::{Chain, Family, Ruleset, Set, SetRole, Table, ValueType};
use nwfilter::program::resolve::{Mode, resolve};
use nwfilter::program::{Program, printable};
use nwfilter::ruleset::nft::Ownership;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// nft 1.0.6 aborts when it is to list a comparison of two registers.
const OPTIONS: Options = Options {
    features: Capabilities { xor_registers: false, reject: false, ..Capabilities::ALL },
    counters: true,
    host_to_guest: HostToGuest::Pass,
};

/// Enough for the cases and the standard filters to resolve.
const VARS: &[(&str, &str)] = &[
    ("MAC", "52:54:00:11:22:33"),
    ("IP", "10.1.2.3"),
    ("IPV6", "fe80::1"),
    ("GATEWAY_MAC", "52:54:00:11:22:44"),
    ("DHCPSERVER", "10.1.2.1"),
    ("A", "1.1.1.1"),
    ("A", "2.2.2.2"),
    ("B", "80"),
    ("B", "90"),
    ("C", "1080"),
    ("C", "1090"),
    ("MASK", "24"),
    ("STATES", "NEW,RELATED"),
];

fn filter(path: &Path) -> Option<Arc<Filter>> {
    let text = std::fs::read_to_string(path).ok()?;
    let name = path.file_name()?.to_string_lossy();
    read(&Source::new(name, text)).ok().map(|(filter, _)| Arc::new(filter))
}

fn documents(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.extension().is_some_and(|extension| extension == "xml")).collect()
}

fn program(case: &Path, mode: Mode, part: Part) -> Option<Program> {
    let own = filter(case)?;
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("filters");
    let library = |name: &str| {
        let file = format!("{name}.xml");
        if name == own.name {
            return Some(own.clone());
        }
        filter(&case.with_file_name(&file)).or_else(|| filter(&shipped.join(&file)))
    };
    let mut vars = Vars::default();
    VARS.iter().for_each(|(name, value)| vars.push(*name, *value));
    compile_part(&resolve(&library, &own.name, &vars, mode).ok()?, &OPTIONS, part).ok()
}

/// The program's rules and sets as a table of their own.
fn alone(family: Family, program: &Program) -> Ruleset {
    let (chains, sets) = program.placed(&printable(&program.filter));
    let slot = |key| {
        let elements = Default::default();
        Set { key, data: ValueType::None, role: SetRole::Variable, dynamic: false, counted: false, elements }
    };
    let slots = program.slots.iter().map(|part| (part.set_name(), slot(part.key())));
    let sets = sets.into_iter().chain(program.foreign.clone()).chain(slots).collect();
    let chain = |rules| Arc::new(Chain { hook: None, rules });
    let chains = chains.into_iter().map(|(name, rules)| (name, chain(rules))).collect();
    Ruleset { tables: [(family, Table { sets, chains, unfit: false })].into() }
}

/// What nft can list but has no words to load: raw bytes looked up in a named set.
fn is_beyond_words(text: &str) -> bool {
    let raw = |word: &str| ["@nh,", "@ll,", "@th,"].iter().any(|base| word.starts_with(base));
    let named = |word: &str| word.starts_with('@') && !raw(word);
    text.lines().any(|line| {
        let words: Vec<&str> = line.split(' ').collect();
        words.windows(2).any(|pair| raw(pair[0]) && named(pair[1]))
    })
}

/// Whether the kernel has what the case needs; bridges without conntrack refuse its states.
fn is_applied(outcome: Result<nwfilter::kernel::apply::Applied, Refused>, case: &Path) -> bool {
    let Err(refused) = outcome else { return true };
    let lacks = |errno| matches!(errno, Some(libc::EPROTO | libc::ENOENT | libc::EOPNOTSUPP));
    assert!(refused.refusals.iter().all(|refusal| lacks(refusal.errno())), "{}: {refused}", case.display());
    false
}

#[test]
fn every_filter_is_what_nft_makes_of_its_text() {
    in_namespace(|| {
        let kernel = Kernel::open(Ownership::Shared).unwrap();
        let ranges = Ranges::of_this_nft();
        let (mut compared, mut listed, mut refused) = (0, 0, 0);
        // A machine that is emulated is slow: it compares what other kernels cannot.
        let only_stateful = std::env::var_os("NWFILTER_KERNEL_IS_COMPLETE").is_some();
        for case in [documents("tests/golden"), documents("filters")].concat() {
            let parts = [(Part::Whole, Family::Bridge), (Part::Ip, Family::Inet)];
            let kinds = parts.iter().flat_map(|part| [Mode::Slots, Mode::Fold].map(|mode| (part, mode)));
            let programs =
                kinds.filter_map(|((part, family), mode)| Some((*family, program(&case, mode, *part)?)));
            for (family, program) in programs.filter(|(_, program)| program.stateful || !only_stateful) {
                let ruleset = alone(family, &program);
                if !is_applied(kernel.apply(prepare(steps(&ruleset))), &case) {
                    refused += 1;
                    continue;
                }
                let ours = ranges.in_one_form(&listing());
                nft("flush ruleset", "");
                if is_beyond_words(&ruleset.to_string()) {
                    listed += 1;
                    continue;
                }
                nft("-f -", &ruleset.to_string());
                let theirs = ranges.in_one_form(&listing());
                nft("flush ruleset", "");
                assert_eq!(ours, theirs, "{}", case.display());
                compared += 1;
            }
        }
        println!("{compared} compared, {listed} only listed, {refused} need what this kernel lacks");
        let (least, missing) = if only_stateful { (20, 0) } else { (60, refused) };
        assert!(compared > least && refused == missing, "only {compared} were compared, {refused} refused");
    });
}
