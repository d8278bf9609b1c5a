//! What bindings lack: what has to be learned for them, found out once for all that are alike.
//!
//! What a filter lacks follows from the names of a binding's variables and how many values each has; whether it could be
//! enforced once there is an address, from the values as well. Guests' own MACs, which are read already, make no difference.

use super::State;
use crate::document::binding::Binding;
use crate::document::mac::Mac;
use crate::document::vars::{Access, Index, Vars};
use crate::guest::learning::{InvalidControlVariable, LearningMode, Wanted};
use crate::program::compile::AttachPoint;
use crate::program::resolve::given;
use crate::ruleset::firewall::Refused;
use std::collections::BTreeMap;

/// The one variable that can be learned.
pub(super) const IP: &str = "IP";

/// An address as good as any, to see whether a filter could be enforced once there is one.
const SAMPLE: &str = "192.0.2.1";

/// The names of variables, with how many values each has.
type Lengths = BTreeMap<String, usize>;

/// A filter, the variables that may make a difference, and where the interface is judged or may come to be.
type Question = (String, Vars, Vec<AttachPoint>);

/// The answers for some bindings, as long as no filter changes.
#[derive(Default)]
pub(super) struct Needs {
    lacking: BTreeMap<(String, Lengths), Result<Vec<Access>, Refused>>,
    wanted: BTreeMap<Question, Result<Option<Wanted>, Refused>>,
}

impl Needs {
    /// The variables that a binding does not have and its filter reads.
    pub(super) fn lacking(&mut self, state: &State, binding: &Binding) -> Result<Vec<Access>, Refused> {
        let (filter, vars) = (&binding.filter, &binding.params);
        let lengths = vars.0.iter().map(|(name, values)| (name.clone(), values.len())).collect();
        let known = self.lacking.entry((filter.clone(), lengths));
        known.or_insert_with(|| state.firewall.missing(filter, vars)).clone()
    }

    /// What has to be learned for a binding; none where nothing, or what cannot be learned, is missing.
    pub(super) fn wanted(&mut self, state: &State, binding: &Binding) -> Result<Option<Wanted>, Refused> {
        if self.lacking(state, binding)? != [Access { name: IP.into(), index: Index::Iterator(0) }] {
            return Ok(None);
        }
        let key = (binding.filter.clone(), alike(&binding.params), state.hooks_of(binding));
        let known = self.wanted.entry(key);
        known.or_insert_with(|| wanted(state, binding)).clone()
    }
}

/// The variables without what differs from guest to guest and changes nothing.
fn alike(vars: &Vars) -> Vars {
    let mut vars = vars.clone();
    if let Some([mac]) = vars.values("MAC")
        && mac.parse::<Mac>().is_ok()
    {
        vars.0.remove("MAC");
    }
    vars
}

/// What is to be learned where the address alone is missing.
fn wanted(state: &State, binding: &Binding) -> Result<Option<Wanted>, Refused> {
    let wanted = Wanted::of(&binding.params).map_err(|fault| meaningless(&binding.filter, fault))?;
    if wanted.mode == LearningMode::None {
        return Ok(None);
    }
    let mut vars = binding.params.clone();
    vars.push(IP, SAMPLE);
    state.firewall.check(&binding.filter, &vars, &state.hooks_of(binding))?;
    Ok(Some(wanted))
}

fn meaningless(filter: &str, fault: InvalidControlVariable) -> Refused {
    Refused { interface: None, diagnostics: vec![given::meaningless(filter, &fault)] }
}
