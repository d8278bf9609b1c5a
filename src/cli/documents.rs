//! `check` and `fmt`: documents, and nothing of the host but their files.

use super::{Failure, Outcome, has_errors, print, show};
use crate::binding;
use crate::compile::{Features, Options, compile, warnings};
use crate::diag::Diagnostic;
use crate::filter::schema::Kind;
use crate::filter::{Entry, Filter, Value, read, write};
use crate::library::{Library, unreadable};
use crate::resolve::{Mode, resolve};
use crate::span::Source;
use crate::vars::{Index, Vars};
use crate::xml::Document;
use std::fs;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

/// Says what is wrong with each document, all of it.
pub(super) fn check(files: &[std::path::PathBuf], directory: &Path) -> Outcome {
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

/// What shows only when the filter is compiled, whatever the interface: each variable gets a value that suits it.
fn meaning(library: &Library, root: &str) -> Vec<Diagnostic> {
    let vars = examples(library, root);
    let resolved = resolve(&|name| library.get(name), root, &vars, Mode::Fold);
    let options = Options { features: Features::ALL, counters: false };
    let compiled =
        resolved.and_then(|resolved| compile(&resolved, &options).map(|_| warnings(&resolved, &options)));
    compiled.unwrap_or_else(|faults| faults)
}

/// A value of the right kind for every variable that the filter or one below it reads.
fn examples(library: &Library, root: &str) -> Vars {
    let mut vars = Vars::default();
    let (mut seen, mut open) = (Vec::new(), vec![root.to_owned()]);
    while let Some(name) = open.pop() {
        let Some(filter) = library.get(&name).filter(|_| !seen.contains(&name)) else { continue };
        open.extend(filter.references().map(str::to_owned));
        seen.push(name);
        for entry in &filter.entries {
            let Entry::Rule(rule) = entry else { continue };
            for part in &rule.matches {
                let Value::Variable(access) = &part.value else { continue };
                let length =
                    if let Index::Element(index) = access.index { index.min(256) as usize + 1 } else { 1 };
                let values = vars.0.entry(access.name.clone()).or_default();
                values.resize(length.max(values.len()), example(part.attribute.kind).to_owned());
            }
        }
    }
    vars
}

fn example(kind: Kind) -> &'static str {
    match kind {
        Kind::Mac => "52:54:00:00:00:01",
        Kind::MacMask => "ff:ff:ff:ff:ff:ff",
        Kind::Ipv4 => "192.0.2.1",
        Kind::Ipv6 => "2001:db8::1",
        Kind::EtherType(_) => "0x88b5",
        Kind::Bool => "true",
        Kind::States => "NEW",
        Kind::TcpFlags => "SYN/SYN",
        Kind::IpsetFlags => "src",
        Kind::Comment | Kind::IpsetName => "example",
        Kind::Ipv4Mask | Kind::Ipv6Mask => "24",
        Kind::U8
        | Kind::U16
        | Kind::U32
        | Kind::Decimal16
        | Kind::VlanId
        | Kind::ArpOpcode
        | Kind::IpProtocol
        | Kind::Dscp => "6",
    }
}
