//! `check` and `fmt`: documents, and nothing of the host but their files.

use super::{Failure, Outcome, print, show, whole};
use crate::document::binding::{self, Binding};
use crate::document::catalog::{Library, unreadable};
use crate::document::diag::{Diagnostic, refuses};
use crate::document::filter::{Filter, read, write};
use crate::document::span::{Place, Source};
use crate::document::xml::{Document, decode};
use crate::program::compile::{Capabilities, HostToGuest, Options, Use, compile, warnings};
use crate::program::resolve;
use crate::program::resolve::given::{self, Given, Unread};
use crate::report::audit::{audit, behind_ethernet};
use clap::Args;
use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What `check` is asked.
#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// Documents; `-` is the standard input.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Where filters that they refer to are looked up.
    #[arg(long, default_value = super::FILTERS)]
    dir: PathBuf,
    /// Also report rules that no frame reaches, rules that libvirt enforces differently, and frames with another's address
    /// that a guest could send.
    #[arg(long)]
    audit: bool,
    /// Only warn of what libvirt ignores. A rule with such a fault may match more frames than it says.
    #[arg(long)]
    lenient: bool,
}

/// Says what is wrong with each document, all of it.
pub(super) fn check(arguments: &CheckArgs) -> Outcome {
    let mut library = super::library(&arguments.dir)?;
    library.faults.clear(); // The question is not about the directory.
    let mut found = Vec::new();
    let (mut roots, mut bindings) = (Vec::new(), Vec::new());
    for file in &arguments.files {
        match load(file).map(|source| document(&source)) {
            Ok(Checked::Filter(filter, warnings)) => {
                found.extend(warnings);
                roots.push(filter.name.clone());
                // Its own faults are reported; what uses the rest of it is checked as well.
                library.filters.insert(filter.name.clone(), Arc::new(filter.tolerated()));
            }
            Ok(Checked::Binding(binding, warnings)) => {
                found.extend(warnings);
                bindings.push(binding);
            }
            Ok(Checked::Faulty(faults)) => found.extend(faults),
            Err(fault) => found.push(fault),
        }
    }
    found.extend(roots.iter().flat_map(|root| meaning(&library, root, used(&library, root))));
    found.extend(bindings.iter().flat_map(|binding| bound(&library, binding)));
    if arguments.audit {
        let audited = |root: &String| audit(&|name| library.get(name), root).unwrap_or_default();
        found.extend(roots.iter().flat_map(audited));
    } else {
        found.extend(roots.iter().filter_map(|root| behind_ethernet(&|name| library.get(name), root)));
    }
    if arguments.lenient {
        found = found.into_iter().map(Diagnostic::tolerated).collect();
    }
    let mut seen = BTreeSet::new();
    found.retain(|fault| seen.insert(fault.clone()));
    if refuses(&found) {
        return Err(Failure::Faults(found));
    }
    show(&found);
    Ok(())
}

/// Prints a document as libvirt does.
pub(super) fn format(file: &Path, in_place: bool) -> Outcome {
    let source = load(file).map_err(|fault| vec![fault])?;
    let text = if is_binding(&source) {
        binding::write(&binding::read(&source)?.0)
    } else {
        write::write(&read::read(&source)?.0)
    };
    if !in_place {
        print(&text);
        return Ok(());
    }
    whole::replace(file, &text).map_err(|error| Failure::host(&file.display(), &error))
}

enum Checked {
    Filter(Filter, Vec<Diagnostic>),
    Binding(Binding, Vec<Diagnostic>),
    Faulty(Vec<Diagnostic>),
}

fn document(source: &Arc<Source>) -> Checked {
    let read = match is_binding(source) {
        true => binding::read(source).map(|(binding, found)| Checked::Binding(binding, found)),
        false => read::read(source).map(|(filter, found)| Checked::Filter(filter, found)),
    };
    read.unwrap_or_else(Checked::Faulty)
}

fn is_binding(source: &Arc<Source>) -> bool {
    Document::parse(source).is_ok_and(|document| document.root("filterbinding").is_ok())
}

fn load(file: &Path) -> Result<Arc<Source>, Diagnostic> {
    if file == Path::new("-") {
        let mut bytes = Vec::new();
        let read = io::stdin().read_to_end(&mut bytes);
        return read
            .map(|_| Source::new("<stdin>", decode(&bytes)))
            .map_err(|error| unreadable(file, &error));
    }
    let bytes = fs::read(file).map_err(|error| unreadable(file, &error))?;
    Ok(Source::new(file.display().to_string(), decode(&bytes)))
}

/// What shows only when the filter is compiled, whatever the interface.
fn meaning(library: &Library, root: &str, used: Use) -> Vec<Diagnostic> {
    let options = Options { features: Capabilities::ALL, counters: false, host_to_guest: HostToGuest::Pass };
    let checked = resolve::check(&|name| library.get(name), root);
    let compiled = checked
        .and_then(|resolved| compile(&resolved, &options).map(|_| warnings(&resolved, &options, used)));
    let unread = given::unread_references(&|name| library.get(name), root).into_iter().map(Unread::strictly);
    compiled.unwrap_or_else(|faults| faults).into_iter().chain(unread).collect()
}

/// A filter of a chain of its own, or that another refers to, is a part of others.
fn used(library: &Library, root: &str) -> Use {
    let refers = |other: &Arc<Filter>| other.references().any(|name| name == root);
    let in_root = library.get(root).is_none_or(|filter| filter.chain == "root");
    if in_root && !library.filters.values().any(refers) { Use::Whole } else { Use::Block }
}

/// What an interface with this binding would be refused for, and which of its parameters nothing reads.
fn bound(library: &Library, binding: &Binding) -> Vec<Diagnostic> {
    let place = Place { source: binding.source.clone(), span: binding.filter_span };
    let here = |fault: Diagnostic| match fault.place {
        Some(_) => fault,
        None => fault.at(place.clone(), "by this binding"),
    };
    let given = Given::of_binding(binding);
    let faults = given::faults(&|name| library.get(name), &binding.filter, &given);
    faults.into_iter().map(here).collect()
}
