//! `check` and `fmt`: documents, and nothing of the host but their files.

use super::{Failure, Outcome, has_errors, print, show};
use crate::audit::audit;
use crate::binding;
use crate::compile::{Features, Options, compile, warnings};
use crate::diag::Diagnostic;
use crate::filter::{Filter, read, write};
use crate::library::{Library, unreadable};
use crate::resolve;
use crate::span::Source;
use crate::xml::Document;
use std::fs;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

/// Says what is wrong with each document, all of it.
pub(super) fn check(files: &[std::path::PathBuf], directory: &Path, audited: bool) -> Outcome {
    let mut library =
        Library::load(directory).map_err(|error| Failure::host(&directory.display(), &error))?;
    library.faults.clear(); // Of the directory nobody asked.
    let mut diagnostics = Vec::new();
    let mut roots = Vec::new();
    for file in files {
        match load(file).map(|source| document(&source)) {
            Ok(Checked::Filter(filter, found)) => {
                diagnostics.extend(found);
                library.filters.insert(filter.name.clone(), Arc::new(filter.clone()));
                roots.push(filter.name);
            }
            Ok(Checked::Other(found)) => diagnostics.extend(found),
            Err(fault) => diagnostics.push(fault),
        }
    }
    for root in &roots {
        diagnostics.extend(meaning(&library, root));
        if audited {
            diagnostics.extend(audit(&|name| library.get(name), root).unwrap_or_default());
        }
    }
    diagnostics.dedup();
    if has_errors(&diagnostics) {
        return Err(Failure::Faults(diagnostics));
    }
    show(&diagnostics);
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
    fs::write(file, text).map_err(|error| Failure::host(&file.display(), &error))
}

enum Checked {
    Filter(Filter, Vec<Diagnostic>),
    Other(Vec<Diagnostic>),
}

fn document(source: &Arc<Source>) -> Checked {
    if is_binding(source) {
        return Checked::Other(binding::read(source).map_or_else(|faults| faults, |(_, warnings)| warnings));
    }
    match read::read(source) {
        Ok((filter, warnings)) => Checked::Filter(filter, warnings),
        Err(faults) => Checked::Other(faults),
    }
}

fn is_binding(source: &Arc<Source>) -> bool {
    Document::parse(source).is_ok_and(|document| document.root("filterbinding").is_ok())
}

fn load(file: &Path) -> Result<Arc<Source>, Diagnostic> {
    if file == Path::new("-") {
        let mut text = String::new();
        let read = io::stdin().read_to_string(&mut text);
        return read.map(|_| Source::new("<stdin>", text)).map_err(|error| unreadable(file, &error));
    }
    let text = fs::read_to_string(file).map_err(|error| unreadable(file, &error))?;
    Ok(Source::new(file.display().to_string(), text))
}

/// What shows only when the filter is compiled, whatever the interface.
fn meaning(library: &Library, root: &str) -> Vec<Diagnostic> {
    let options = Options { features: Features::ALL, counters: false };
    let checked = resolve::check(&|name| library.get(name), root);
    let compiled =
        checked.and_then(|resolved| compile(&resolved, &options).map(|_| warnings(&resolved, &options)));
    compiled.unwrap_or_else(|faults| faults)
}
