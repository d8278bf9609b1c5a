//! The tree of references below a filter: every rule in document order, with the variables it sees.
//!
//! A variable of the referring side wins over a parameter of the reference. Loops and missing filters are reported; the
//! size of what comes out is bounded, however filters refer to each other.

use super::FilterLookup;
use super::groups::access;
use crate::document::diag::{Code, Diagnostic, Severity};
use crate::document::filter::{Entry, Filter, FilterRule, Include, RuleAction, write};
use crate::document::span::{Place, Span};
use crate::document::vars::{Scope, Vars};
use crate::program::ir::digest::short;
use crate::program::ir::{Name, Origin};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Rules that a tree may come to, with all values of its variables.
pub(super) const RULES: usize = 16_384;

/// Values that all rules of a tree may look up, each list counted with each rule that reads it.
pub(super) const VALUES: usize = 1 << 20;

/// References that may be followed.
const REFERENCES: usize = 8_192;

/// How deep references may be nested.
const DEPTH: usize = 64;

/// A rule where the walk met it.
pub(super) struct Instance {
    pub(super) filter: Arc<Filter>,
    pub(super) rule: Arc<FilterRule>,
    pub(super) vars: Arc<Scope>,
    /// Which of the filter's rules, from 1.
    pub(super) number: u32,
}

struct TreeWalk<'a> {
    library: FilterLookup<'a>,
    path: Vec<String>,
    references: usize,
    instances: Vec<Instance>,
    diagnostics: BTreeSet<Diagnostic>,
}

/// All rules below the filter `root`, depth first.
pub(super) fn walk(
    library: FilterLookup<'_>,
    root: &str,
    vars: &Vars,
) -> Result<Vec<Instance>, Vec<Diagnostic>> {
    let mut walk = TreeWalk {
        library,
        path: Vec::new(),
        references: 0,
        instances: Vec::new(),
        diagnostics: BTreeSet::new(),
    };
    match library(root) {
        Some(filter) => walk.enter(&filter, Arc::new(Scope::of(Arc::new(vars.clone())))),
        None => _ = walk.diagnostics.insert(absent(root)),
    }
    if walk.diagnostics.is_empty() { Ok(walk.instances) } else { Err(walk.diagnostics.into_iter().collect()) }
}

/// Whether the references of a new definition lead back to the filter itself. Each filter is looked at once;
/// references to filters that are not there lead nowhere.
pub fn introduces_loop(library: FilterLookup<'_>, new: &Filter) -> bool {
    leads_back(library, new, &mut BTreeMap::new())
}

/// Whether references run in a circle below any of these filters. Each is looked at once, however many refer to it.
pub fn has_loop<'a>(library: FilterLookup<'_>, filters: impl IntoIterator<Item = &'a Filter>) -> bool {
    let mut visits = BTreeMap::new();
    let mut filters = filters.into_iter();
    filters.any(|filter| !visits.contains_key(&filter.name) && leads_back(library, filter, &mut visits))
}

fn leads_back(library: FilterLookup<'_>, from: &Filter, visits: &mut BTreeMap<String, Visit>) -> bool {
    visits.insert(from.name.clone(), Visit::Open);
    let mut open: Vec<(String, Vec<String>)> = vec![(from.name.clone(), names(from))];
    while let Some((name, references)) = open.last_mut() {
        let Some(next) = references.pop() else {
            visits.insert(std::mem::take(name), Visit::Done);
            open.pop();
            continue;
        };
        match visits.get(&next) {
            Some(Visit::Open) => return true,
            Some(Visit::Done) => {}
            None => {
                let references = library(&next).map_or(Vec::new(), |filter| names(&filter));
                visits.insert(next.clone(), Visit::Open);
                open.push((next, references));
            }
        }
    }
    false
}

enum Visit {
    Open,
    Done,
}

fn names(filter: &Filter) -> Vec<String> {
    filter.references().map(str::to_owned).collect()
}

fn absent(name: &str) -> Diagnostic {
    Diagnostic::error(Code::INTERNAL, format!("referenced filter '{name}' is missing"))
}

impl TreeWalk<'_> {
    fn enter(&mut self, filter: &Arc<Filter>, vars: Arc<Scope>) {
        self.diagnostics.extend(filter.unenforced.iter().map(|fault| not_as_written(filter, fault)));
        self.path.push(filter.name.clone());
        let mut number = 0;
        for entry in &filter.entries {
            match entry {
                Entry::Rule(rule) => {
                    number += 1;
                    let (filter, rule) = (filter.clone(), rule.clone());
                    self.instances.push(Instance { filter, rule, vars: vars.clone(), number });
                }
                Entry::Include(include) => self.follow(filter, include, &vars),
            }
            if self.is_too_large(filter) {
                break;
            }
        }
        self.path.pop();
    }

    fn follow(&mut self, from: &Filter, include: &Include, vars: &Arc<Scope>) {
        self.references += 1;
        let name = &include.filter;
        let fault = if self.path.contains(name) {
            let message = format!("filter '{name}' refers to itself: {} -> {name}", self.path.join(" -> "));
            Diagnostic::error(Code::OPERATION_FAILED, message)
        } else if self.path.len() >= DEPTH {
            Diagnostic::error(Code::INTERNAL, format!("references are nested more than {DEPTH} deep"))
        } else {
            match (self.library)(name) {
                Some(filter) => {
                    let before = self.instances.len();
                    self.enter(&filter, vars.with(&include.params.vars));
                    return self.miss(from, include, before);
                }
                None => absent(name).help("define that filter first"),
            }
        };
        self.diagnostics.insert(fault.at(place(from, include.span), "referred to here"));
    }

    /// A parameter that was dropped is missed where a rule below its reference reads it.
    fn miss(&mut self, from: &Filter, include: &Include, before: usize) {
        if include.params.dropped.is_empty() {
            return;
        }
        let below = self.instances[before..].iter().flat_map(|instance| &instance.rule.matches);
        let read: BTreeSet<&str> = below.filter_map(access).map(|access| access.name.as_str()).collect();
        let missed = include.params.dropped.iter().filter(|(name, _)| read.contains(name.as_str()));
        self.diagnostics.extend(missed.map(|(_, fault)| not_as_written(from, fault)));
    }

    fn is_too_large(&mut self, filter: &Filter) -> bool {
        let large = self.references > REFERENCES || self.instances.len() > RULES;
        if large && self.diagnostics.is_empty() {
            let message = format!("the tree of references is too large, reached in filter '{}'", filter.name);
            self.diagnostics.insert(Diagnostic::error(Code::INTERNAL, message));
        }
        large
    }
}

impl Instance {
    pub(super) fn in_root(&self) -> bool {
        self.filter.chain == "root"
    }

    pub(super) fn place(&self, span: Span) -> Place {
        place(&self.filter, span)
    }

    pub(super) fn origin(&self) -> Origin {
        let filter: Name = self.filter.name.as_str().into();
        let drops = matches!(self.rule.action, RuleAction::Drop | RuleAction::Reject);
        let id = if drops { short(&(self.filter.name.clone() + &write::rule(&self.rule))) } else { 0 };
        Origin { filter, rule: self.number, id, place: self.place(self.rule.span) }
    }
}

/// What is left out of a filter keeps it from being bound.
fn not_as_written(filter: &Filter, fault: &Diagnostic) -> Diagnostic {
    let message = format!("filter '{}' would mean more than it says: {}", filter.name, fault.message);
    Diagnostic { message, severity: Severity::Error, ..fault.clone() }
}

fn place(filter: &Filter, span: Span) -> Place {
    Place { source: filter.source.clone(), span }
}
