//! Parameters that come to nothing: what a binding or a reference gives and no rule below it reads, values that were thrown
//! away, and control variables where they have no effect.
//!
//! libvirt overlooks all of it, and a guest whose address is misspelled learns one instead: that opens a rule. The rest loses
//! what was written, or changes nothing. The caller chooses what it refuses.

use super::{FilterLookup, missing};
use crate::document::binding::Binding;
use crate::document::diag::{Code, Diagnostic, Severity, similar};
use crate::document::filter::read::Params;
use crate::document::filter::{Entry, Filter, Include};
use crate::document::mac::Mac;
use crate::document::span::{Place, Source};
use crate::document::vars::{Access, Index, Vars};
use crate::guest::learning::{self, InvalidControlVariable, Wanted};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The one variable that can be learned.
const IP: &str = "IP";

/// The variable that is the guest's own MAC address where it is not given.
const MAC: &str = "MAC";

/// So many parameters are reported, however many come to nothing.
const MOST: usize = 32;

/// Among more names than this none is looked for that was meant.
const NAMES: usize = 64;

/// So many variables of a filter are named.
const SHOWN: usize = 8;

/// What is said of a parameter's place.
const UNREAD: &str = "is read by no rule";

/// The variables of the learner.
const CONTROL: [&str; 3] = [learning::MODE, learning::LIMIT, learning::SERVERS];

/// What a binding gives to its filter.
#[derive(Clone, Debug, Default)]
pub struct Given {
    /// Its variables, the guest's MAC address among them, and where they stand.
    pub params: Params,
    /// The guest's MAC address.
    pub mac: Option<Mac>,
    /// The document; none for a command line.
    pub source: Option<Arc<Source>>,
}

/// A parameter that comes to nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unread {
    /// What is wrong.
    pub fault: Diagnostic,
    /// What comes of it.
    pub risk: Risk,
}

const SERVERS_HELP: &str =
    "it counts where an address is learned, and where a rule reads it, as that of allow-dhcp-server does";

/// What comes of a parameter that is overlooked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Risk {
    /// Nothing: it is right, and not needed.
    Idle,
    /// What it says is lost.
    Lost,
    /// A rule lets more through, or the guest may choose its address.
    Opens,
}

impl Given {
    /// The parameters of a binding.
    pub fn of_binding(binding: &Binding) -> Given {
        let mut vars = binding.params.clone();
        if vars.values(MAC).is_none() {
            vars.push(MAC, binding.mac.to_string());
        }
        let (spans, dropped) = (binding.spans.clone(), binding.dropped.clone());
        Given {
            params: Params { vars: Arc::new(vars), spans, dropped },
            mac: Some(binding.mac),
            source: Some(Arc::clone(&binding.source)),
        }
    }

    /// Variables of a guest without a document.
    pub fn of_vars(vars: Vars, mac: Mac) -> Given {
        Given { params: Params { vars: Arc::new(vars), ..Params::default() }, mac: Some(mac), source: None }
    }

    fn at(&self, name: &str, fault: Diagnostic, label: &str) -> Diagnostic {
        let place = self.source.as_ref().zip(self.params.spans.get(name));
        place.iter().fold(fault, |fault, (source, span)| {
            fault.at(Place { source: Arc::clone(source), span: **span }, label)
        })
    }
}

impl Unread {
    /// The diagnostic for a caller that wants what is written to be enforced: a fault, unless nothing comes of it.
    pub fn strictly(self) -> Diagnostic {
        let severity = if self.risk == Risk::Idle { Severity::Warning } else { Severity::Unenforced };
        Diagnostic { severity, ..self.fault }
    }
}

/// All that an interface with this binding would be refused for, and what of its parameters comes to nothing.
pub fn faults(library: FilterLookup<'_>, root: &str, given: &Given) -> Vec<Diagnostic> {
    let lacking = match missing(library, root, &given.params.vars) {
        Ok(lacking) => lacking,
        Err(faults) => return faults,
    };
    let mut vars = Vars::clone(&given.params.vars);
    if is_learned(&lacking, &vars) {
        vars.push(IP, "192.0.2.1");
    }
    let resolved = super::resolve(library, root, &vars, super::Mode::Fold);
    let faults = resolved.map(drop).err().unwrap_or_default();
    let mut faults: Vec<Diagnostic> = faults.into_iter().map(|fault| of_value(given, fault)).collect();
    faults.extend(unread(library, root, given).into_iter().map(Unread::strictly));
    faults
}

/// A value that a rule cannot read is wrong where it is given.
fn of_value(given: &Given, fault: Diagnostic) -> Diagnostic {
    let is_about = |name: &&String| fault.message.starts_with(&format!("variable '{name}' has the value '"));
    match given.params.spans.keys().find(is_about) {
        Some(name) => given.at(name, fault.clone(), "is not what a rule needs"),
        None => fault,
    }
}

/// The parameters of a binding that come to nothing, and those of the references below its filter.
pub fn unread(library: FilterLookup<'_>, root: &str, given: &Given) -> Vec<Unread> {
    let Ok(lacking) = missing(library, root, &given.params.vars) else { return Vec::new() };
    let mut tree = Tree { library, reads: BTreeMap::new() };
    let reads = tree.reads(root);
    let learns = Learns::of(&lacking);
    let mut found = control(given, root, learns);
    found.extend(foreign_mac(given));
    // Where more is missing than an address, nothing is bound.
    let lacking = learns.variables();
    let own = given.params.vars.0.keys().map(String::as_str);
    let own = own.filter(|name| *name != MAC && !reads.contains(*name) && !is_controlling(name, learns));
    let mut own: Vec<&str> = own.collect();
    // What opens a rule comes before the rest, of which there may be too much.
    own.sort_by_key(|name| meant(name, lacking).is_none());
    found.extend(own.into_iter().take(MOST).map(|name| {
        let Unread { fault, risk } = overlooked(name, root, &reads, lacking);
        Unread { fault: given.at(name, fault, UNREAD), risk }
    }));
    let dropped = given.params.dropped.iter().map(|(name, fault)| {
        let opens = reads.contains(name) || CONTROL.contains(&&**name) || meant(name, lacking).is_some();
        Unread { fault: fault.clone(), risk: if opens { Risk::Opens } else { Risk::Lost } }
    });
    let below = tree.of_references(learns.risk());
    found.into_iter().chain(dropped).chain(below).collect()
}

/// The parameters of references below a filter that come to nothing, whatever its binding.
pub fn unread_references(library: FilterLookup<'_>, root: &str) -> Vec<Unread> {
    if missing(library, root, &Vars::default()).is_err() {
        return Vec::new();
    }
    let mut tree = Tree { library, reads: BTreeMap::new() };
    tree.reads(root);
    tree.of_references(Risk::Lost)
}

/// What is found out of a guest, since its rules lack it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Learns {
    /// Its address.
    Address,
    /// Nothing: the rules lack nothing, or more than an address, and then nothing is bound.
    Nothing,
}

impl Learns {
    fn of(lacking: &[Access]) -> Learns {
        if is_address(lacking) { Learns::Address } else { Learns::Nothing }
    }

    fn variables(self) -> &'static [&'static str] {
        match self {
            Learns::Address => &[IP],
            Learns::Nothing => &[],
        }
    }

    /// What a parameter risks that comes to nothing: it may be what was to keep the guest from another address.
    fn risk(self) -> Risk {
        match self {
            Learns::Address => Risk::Opens,
            Learns::Nothing => Risk::Lost,
        }
    }
}

fn is_address(lacking: &[Access]) -> bool {
    *lacking == [Access { name: IP.into(), index: Index::Iterator(0) }]
}

/// Whether an address would be found out, if control variables say how.
fn is_learned(lacking: &[Access], vars: &Vars) -> bool {
    is_address(lacking) && Wanted::of(vars).map_or(true, |wanted| wanted.mode != learning::LearningMode::None)
}

/// Whether a variable is about learning and was looked at as that.
fn is_controlling(name: &str, learns: Learns) -> bool {
    [learning::MODE, learning::LIMIT].contains(&name)
        || learns == Learns::Address && name == learning::SERVERS
}

/// Control variables that say nothing, and those that nothing reads.
fn control(given: &Given, root: &str, learns: Learns) -> Vec<Unread> {
    let vars = &given.params.vars;
    if let Err(fault) = Wanted::of(vars) {
        let risk = learns.risk();
        let fault = given.at(fault.variable, meaningless(root, &fault), "means nothing");
        return vec![Unread { fault, risk }];
    }
    if learns == Learns::Address {
        return Vec::new();
    }
    let named = [learning::MODE, learning::LIMIT].into_iter().filter(|name| vars.values(name).is_some());
    let idle = named.map(|name| {
        let fault =
            Diagnostic::warning(format!("'{name}' has no effect: no address is learned for this binding"));
        Unread { fault: given.at(name, fault, "not needed"), risk: Risk::Idle }
    });
    idle.collect()
}

/// A control variable's value that means nothing, in libvirt's words where it has some.
pub fn meaningless(root: &str, fault: &InvalidControlVariable) -> Diagnostic {
    let (message, help) = match fault.variable {
        learning::MODE => (
            format!("filter '{root}' learning value '{}' invalid.", fault.value),
            "CTRL_IP_LEARNING is any, dhcp or none".to_owned(),
        ),
        learning::LIMIT => {
            (fault.to_string(), format!("{} is a number from 1 to {}", learning::LIMIT, learning::MOST))
        }
        name => (fault.to_string(), format!("{name} is the IPv4 address of a server, one a parameter")),
    };
    Diagnostic::error(Code::PARSE_FAILED, message).help(help)
}

/// A MAC address in the place of the guest's own, which none of its frames has. The rule that reads it reports what is no address.
fn foreign_mac(given: &Given) -> Option<Unread> {
    let (mac, values) = (given.mac?, given.params.vars.values(MAC)?);
    let read: Option<Vec<Mac>> = values.iter().map(|value| value.parse().ok()).collect();
    if read?.contains(&mac) {
        return None;
    }
    let values: Vec<&str> = values.iter().map(String::as_str).collect();
    let message = format!("'{MAC}' is {}, and the guest has the MAC address {mac}", listed(&values));
    let help =
        format!("leave '{MAC}' out, which is {mac} then, or give {mac} as well where the guest has several");
    let fault = given.at(MAC, Diagnostic::warning(message).help(help), "is not the guest's own");
    Some(Unread { fault, risk: Risk::Lost })
}

fn overlooked(name: &str, root: &str, reads: &BTreeSet<String>, lacking: &[&str]) -> Unread {
    let fault = Diagnostic::warning(format!("no rule of filter '{root}' reads the variable '{name}'"));
    let reads: Vec<&str> = reads.iter().map(String::as_str).collect();
    let (help, risk) = match (meant(name, lacking), meant(name, &reads)) {
        (Some(missing), _) => (format!("did you mean '{missing}'?"), Risk::Opens),
        (None, Some(read)) => (format!("did you mean '{read}'?"), Risk::Lost),
        (None, None) if name == learning::SERVERS => (SERVERS_HELP.to_owned(), Risk::Lost),
        (None, None) if reads.is_empty() => ("its rules read no variable".to_owned(), Risk::Lost),
        (None, None) => (format!("its rules read {}", listed(&reads)), Risk::Lost),
    };
    Unread { fault: fault.help(help), risk }
}

fn listed(names: &[&str]) -> String {
    let shown = names[..names.len().min(SHOWN)].join(", ");
    if names.len() > SHOWN { shown + " and others" } else { shown }
}

fn meant<'a>(name: &str, names: &[&'a str]) -> Option<&'a str> {
    if names.len() > NAMES {
        return None;
    }
    let same = names.iter().find(|other| other.eq_ignore_ascii_case(name)).copied();
    same.or_else(|| similar(name, names))
}

/// The filters below a root, and the variables that each reads with all below it. The tree has no loops.
struct Tree<'a> {
    library: FilterLookup<'a>,
    reads: BTreeMap<String, BTreeSet<String>>,
}

impl Tree<'_> {
    fn reads(&mut self, name: &str) -> BTreeSet<String> {
        if let Some(known) = self.reads.get(name) {
            return known.clone();
        }
        let filter = (self.library)(name);
        let mut reads = filter.as_deref().map(own_reads).unwrap_or_default();
        for below in filter.iter().flat_map(|filter| filter.references()) {
            reads.extend(self.reads(below));
        }
        self.reads.insert(name.to_owned(), reads.clone());
        reads
    }

    /// What references give that nothing below them reads.
    fn of_references(&self, uncontrolled: Risk) -> Vec<Unread> {
        let filters = self.reads.keys().filter_map(|name| (self.library)(name));
        let mut found = Vec::new();
        for filter in filters {
            for entry in &filter.entries {
                if let Entry::Include(include) = entry
                    && found.len() < MOST
                {
                    found.extend(self.of_reference(&filter, include, uncontrolled));
                }
            }
        }
        found
    }

    fn of_reference(&self, filter: &Filter, include: &Include, uncontrolled: Risk) -> Vec<Unread> {
        let none = BTreeSet::new();
        let reads = self.reads.get(&include.filter).unwrap_or(&none);
        let unread = include.params.vars.0.keys().filter(|name| !reads.contains(*name)).take(MOST);
        let reported = |name: &String| {
            let Unread { fault, risk } = match CONTROL.contains(&&**name) {
                true => Unread { fault: out_of_place(name), risk: uncontrolled },
                false => overlooked(name, &include.filter, reads, &[]),
            };
            let span = include.params.spans.get(name).copied().unwrap_or(include.span);
            let place = Place { source: Arc::clone(&filter.source), span };
            Unread { fault: fault.at(place, UNREAD), risk }
        };
        unread.map(reported).collect()
    }
}

fn out_of_place(name: &str) -> Diagnostic {
    Diagnostic::warning(format!("'{name}' has no effect in a filter"))
        .help("give it with the binding, as a parameter of the interface's own filterref")
}

fn own_reads(filter: &Filter) -> BTreeSet<String> {
    let rules = filter.entries.iter().filter_map(|entry| match entry {
        Entry::Rule(rule) => Some(rule),
        Entry::Include(_) => None,
    });
    let accesses = rules.flat_map(|rule| rule.matches.iter().filter_map(super::groups::access));
    accesses.map(|access| access.name.clone()).collect()
}
