//! `compile`: the program a filter comes to, as text or as JSON.

use super::{Failure, FilterArgs, Outcome, print};
use crate::document::catalog::Library;
use crate::document::vars::{Access, Vars};
use crate::program::Program;
use crate::program::compile::{Capabilities, HostToGuest, Options, compile as to_program};
use crate::program::ir::text::RuleText;
use crate::program::ir::{Family, Rule};
use crate::program::resolve::{Mode, missing, resolve, unresolvable};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Prints the program of a filter.
pub(super) fn compile(arguments: &FilterArgs, slots: bool, as_json: bool) -> Outcome {
    let library = arguments.library()?;
    let mode = if slots { Mode::Slots } else { Mode::Fold };
    let lookup = |name: &str| library.get(name);
    let options = Options { features: Capabilities::ALL, counters: false, host_to_guest: HostToGuest::Pass };
    if mode == Mode::Fold {
        complete(&library, &arguments.filter, &arguments.vars())?;
    }
    let resolved = resolve(&lookup, &arguments.filter, &arguments.vars(), mode);
    let program = resolved.and_then(|resolved| to_program(&resolved, &options));
    let program = program.map_err(|faults| with_faults_of(library.faults, faults))?;
    if as_json {
        print(&format!("{:#}\n", json_of(&program)));
    } else {
        print(&program.to_string());
    }
    Ok(())
}

/// What is wrong with files of the directory may be why something is missing.
pub(super) fn with_faults_of(
    mut directory: Vec<crate::document::diag::Diagnostic>,
    faults: Vec<crate::document::diag::Diagnostic>,
) -> Failure {
    directory.retain(|fault| fault.severity != crate::document::diag::Severity::Warning);
    directory.extend(faults);
    Failure::Faults(directory)
}

/// Refuses what lacks variables, and says how to give them.
pub(super) fn complete(library: &Library, filter: &str, vars: &Vars) -> Outcome {
    let lacking: BTreeSet<Access> = match missing(&|name| library.get(name), filter, vars) {
        Ok(lacking) => lacking.into_iter().collect(),
        // Faults of the tree are reported where it is followed.
        Err(_) => return Ok(()),
    };
    let names: BTreeSet<&str> = lacking.iter().map(|access| &*access.name).collect();
    if names.is_empty() {
        return Ok(());
    }
    let give: Vec<String> = names.iter().map(|name| format!("--param {name}=...")).collect();
    Err(Failure::Faults(vec![unresolvable(&lacking).help(format!("give {}", give.join(" ")))]))
}

fn json_of(program: &Program) -> Value {
    let chain = |(name, rules): (&crate::program::ir::Name, &Vec<Rule>)| json!({ "name": **name, "rules": rules.iter().map(rule).collect::<Vec<_>>() });
    json!({
        "filter": program.filter,
        "stateful": program.stateful,
        "slots": program.slots.iter().map(|slot| slot.set_name().to_string()).collect::<Vec<_>>(),
        "ipsets": program.foreign.keys().map(ToString::to_string).collect::<Vec<_>>(),
        "chains": program.chains.iter().map(chain).collect::<Vec<_>>(),
    })
}

fn rule(rule: &Rule) -> Value {
    let text = RuleText(Family::Bridge, rule).to_string();
    let origin = rule.origin.as_ref();
    json!({
        "nft": text,
        "filter": origin.map(|origin| origin.filter.to_string()),
        "rule": origin.map(|origin| origin.rule),
        "place": origin.map(|origin| origin.place.line_column()),
    })
}

impl FilterArgs {
    /// The filters of the directory and the standard ones.
    pub(super) fn library(&self) -> Result<Library, Failure> {
        super::library(&self.dir)
    }

    /// The variables of the command line.
    pub(super) fn vars(&self) -> Vars {
        let mut vars = Vars::default();
        for (name, value) in &self.params {
            vars.push(name, value);
        }
        vars
    }
}
