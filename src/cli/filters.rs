//! `define` and `undefine`: filters by name, by way of the daemon, or in their directory where none runs.
//!
//! A file is written whole or not at all, and only after all documents were checked.

use super::status::{asked, recorded, runtime};
use super::{Failure, Outcome, note, print};
use crate::document::catalog::{Library, unreadable};
use crate::document::diag::Diagnostic;
use crate::document::filter::{Filter, write};
use crate::document::regular;
use crate::engine::named::{Defined, Outcome as Became, in_use, read_all, unknown};
use crate::service::store::{Fault, LOCK, Lock, Store};
use std::collections::BTreeSet;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use uuid::Uuid;

/// Who takes a definition.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Taker {
    /// The daemon, which enforces it at once.
    Daemon,
    /// The directory: rules in force stay as they are.
    Directory,
}

/// Defines the filters of these documents, all or none.
pub(super) fn define(files: &[PathBuf], directory: &Path) -> Outcome {
    let documents: Vec<Result<(String, String), Diagnostic>> =
        files.iter().map(|file| document(file)).collect();
    let faults: Vec<Diagnostic> = documents.iter().filter_map(|read| read.as_ref().err().cloned()).collect();
    if !faults.is_empty() {
        return Err(faults.into());
    }
    let documents: Vec<(String, String)> = documents.into_iter().flatten().collect();
    let (defined, taker) = match asked(&"define", |daemon| daemon.define(&documents))? {
        Some(json) => {
            (serde_json::from_str(&json).map_err(|error| Failure::host(&"nwfilterd", &error))?, Taker::Daemon)
        }
        None => (define_here(&documents, directory)?, Taker::Directory),
    };
    defined.iter().for_each(|one: &Defined| print(&outcome(one, taker)));
    Ok(())
}

/// Undefines the filter of a name, if it is unused.
pub(super) fn undefine(name: &str, directory: &Path) -> Outcome {
    if asked(&name, |daemon| daemon.undefine(name))?.is_none() {
        let (_lock, store) = open(directory)?;
        let library = library(directory)?;
        if !library.filters.contains_key(name) {
            let known: Vec<&str> = library.filters.keys().map(String::as_str).collect();
            return Err(vec![unknown(name, &known)].into());
        }
        let users = users(&library, name);
        if !users.is_empty() {
            return Err(Failure::Host(in_use(name, &users)));
        }
        store.delete(name).map_err(|fault| Failure::host(&name, &fault))?;
    }
    print(&format!("{name}: undefined\n"));
    Ok(())
}

fn document(file: &Path) -> Result<(String, String), Diagnostic> {
    let mut text = String::new();
    if file == Path::new("-") {
        let read = io::stdin().read_to_string(&mut text);
        return read.map(|_| ("<stdin>".into(), text)).map_err(|error| unreadable(file, &error));
    }
    let read = std::fs::read_to_string(file).map_err(|error| unreadable(file, &error))?;
    Ok((file.display().to_string(), read))
}

/// Defines without a daemon: in the directory from which one will read.
fn define_here(documents: &[(String, String)], directory: &Path) -> Result<Vec<Defined>, Failure> {
    let (_lock, store) = open(directory)?;
    let library = library(directory)?;
    let known = library.filters.iter().map(|(name, filter)| (name.clone(), filter.clone())).collect();
    let read = read_all(&known, documents, Uuid::new_v4())?;
    // A standard filter that is not in the directory has no file.
    let is_new = |filter: &Filter, outcome: Became| {
        outcome != Became::Unchanged || !directory.join(format!("{}.xml", filter.name)).exists()
    };
    let changed: Vec<&Arc<Filter>> =
        read.iter().filter(|(filter, outcome)| is_new(filter, *outcome)).map(|(filter, _)| filter).collect();
    save_all(&store, &changed, directory)?;
    let defined = |(filter, outcome): &(Arc<Filter>, Became)| Defined {
        filter: filter.name.clone(),
        outcome: *outcome,
        users: users(&library, &filter.name),
    };
    Ok(read.iter().map(defined).collect())
}

/// Saves all filters, or puts back those that were there.
fn save_all(store: &Store, filters: &[&Arc<Filter>], directory: &Path) -> Result<(), Failure> {
    let before: Vec<Option<String>> = filters
        .iter()
        .map(|filter| regular::read_text(&directory.join(format!("{}.xml", filter.name))).ok())
        .collect();
    for (saved, filter) in filters.iter().enumerate() {
        if let Err(fault) = store.save(&filter.name, &write::file_text(filter)) {
            for (filter, old) in filters.iter().zip(&before).take(saved) {
                let back = match old {
                    Some(text) => store.save(&filter.name, text),
                    None => store.delete(&filter.name).map(drop),
                };
                back.unwrap_or_else(|fault| note(&format!("{}: not put back: {fault}", filter.name)));
            }
            return Err(Failure::host(&filter.name, &fault));
        }
    }
    Ok(())
}

/// The directory to write to, which no daemon has.
fn open(directory: &Path) -> Result<(Lock, Store), Failure> {
    let fault = |fault: Fault| Failure::host(&directory.display(), &fault);
    let lock =
        Lock::take(&runtime().join(LOCK)).map_err(|fault| Failure::host(&"no daemon answers", &fault))?;
    Ok((lock, Store::open(directory).map_err(fault)?))
}

fn library(directory: &Path) -> Result<Library, Failure> {
    Library::load(directory).map_err(|error| Failure::host(&directory.display(), &error))
}

/// The recorded bindings that use a filter.
fn users(library: &Library, name: &str) -> Vec<String> {
    let bindings = recorded();
    let uses = |root: &str| tree(library, root).contains(name);
    bindings.into_iter().filter(|(_, binding)| uses(&binding.filter)).map(|(port, _)| port).collect()
}

/// The names of a filter and all that it refers to.
fn tree(library: &Library, root: &str) -> BTreeSet<String> {
    let (mut seen, mut open) = (BTreeSet::new(), vec![root.to_owned()]);
    while let Some(next) = open.pop() {
        let references =
            library.get(&next).map(|filter| filter.references().map(str::to_owned).collect::<Vec<_>>());
        if seen.insert(next) {
            open.extend(references.unwrap_or_default());
        }
    }
    seen
}

fn outcome(defined: &Defined, taker: Taker) -> String {
    let became = match defined.outcome {
        Became::Defined => "defined",
        Became::Redefined => "redefined",
        Became::Unchanged => "unchanged",
    };
    let guests = match defined.users.len() {
        0 => "no guest uses it".to_owned(),
        1 => format!("1 guest uses it ({})", defined.users[0]),
        many => format!("{many} guests use it"),
    };
    let rest = match taker {
        Taker::Directory if !defined.users.is_empty() && defined.outcome != Became::Unchanged => {
            ", with its old rules until the daemon starts or 'nwfilter apply' binds them again"
        }
        _ => "",
    };
    format!("{}: {became}, {guests}{rest}\n", defined.filter)
}
