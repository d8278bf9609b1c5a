//! Members that one program serves, and what they must have in common for that.
//!
//! A program with slots is the same for two members where its filter reads the same variables of both and those that
//! are folded all the same have the same values. Knows programs and variables, and nothing of tables.

use super::Rules;
use crate::document::vars::Vars;
use crate::program::Program;
use crate::program::compile::{AttachPoint, Programs, lets_host};
use crate::program::ir::Name;
use imbl::OrdSet;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Members that one program serves.
#[derive(Clone, Debug)]
pub struct Group {
    /// What its members must pass.
    pub rules: Rules,
    /// Where its members' frames are seen.
    pub hooks: AttachPoint,
    /// Where they are judged, which for a port of a bridge can be one or the other.
    pub attach_point: AttachPoint,
    /// Who is in it.
    pub members: OrdSet<u32>,
    /// The program that all share, with slots.
    pub program: Arc<Program>,
    /// What of it is elsewhere, and the hooks that lead there: for their packets in the host's IP layer, where their connections
    /// are known, or for frames that their bridge takes or makes itself.
    pub further: Option<(AttachPoint, Arc<Program>)>,
    /// Where the program is placed, if the group is shared; a folded group's members have one each.
    pub placed: Option<Placed>,
    pub(super) signature: Arc<Signature>,
}

/// Where a group's programs are placed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// The program.
    pub program: Name,
    /// The one elsewhere.
    pub further: Option<Name>,
}

/// What of a member's variables a program with slots depends on: which of those that the filter reads have
/// values, and the values of those that are folded all the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Signature {
    reads: BTreeMap<String, bool>,
    folded: BTreeMap<String, Vec<String>>,
}

/// A program and the variables it was made of.
pub(super) struct Compiled {
    /// Where it must sit.
    pub(super) attach_point: AttachPoint,
    pub(super) programs: Programs,
    /// Every variable that a rule reads.
    pub(super) reads: BTreeSet<String>,
    /// Those whose values are constants of the program.
    pub(super) folded: BTreeSet<String>,
}

impl Group {
    /// A group without members, for a member with these variables.
    pub(super) fn new(rules: &Rules, vars: &Vars, hooks: AttachPoint, compiled: Compiled) -> Group {
        let signature = Arc::new(Signature::of(vars, &compiled));
        let (attach_point, programs) = (compiled.attach_point, compiled.programs);
        let program = Arc::new(programs.frames.clone());
        let further = programs.further().map(|(hooks, program)| (hooks, Arc::new(program)));
        let (rules, members) = (rules.clone(), OrdSet::new());
        Group { rules, hooks, attach_point, members, program, further, placed: None, signature }
    }

    /// Its programs, each with the hooks that lead to it.
    pub(super) fn programs(&self) -> impl Iterator<Item = (AttachPoint, &Arc<Program>)> {
        let further = self.further.as_ref().map(|(hooks, program)| (*hooks, program));
        std::iter::once((self.attach_point, &self.program)).chain(further)
    }

    /// Whether packets that the host itself sends pass its programs by their mark.
    pub(super) fn lets_host(&self) -> bool {
        self.programs().any(|(_, program)| lets_host(program))
    }

    /// How many rules its programs have.
    pub(super) fn length(&self) -> usize {
        self.programs().flat_map(|(_, program)| program.chains.values()).map(Vec::len).sum()
    }

    /// Where its programs are placed.
    pub(super) fn places(&self) -> impl Iterator<Item = (AttachPoint, &Name)> {
        let program = self.placed.iter().map(|placed| (self.attach_point, &placed.program));
        let further = self.further.iter().zip(&self.placed);
        program.chain(further.filter_map(|((hooks, _), placed)| Some((*hooks, placed.further.as_ref()?))))
    }

    /// Whether members need the same elements in both.
    pub(super) fn has_slots_of(&self, other: &Group) -> bool {
        let slots = |group: &Group| {
            group.programs().map(|(hooks, program)| (hooks, program.slots.clone())).collect::<Vec<_>>()
        };
        slots(self) == slots(other)
    }

    /// Whether its program serves a member with these rules and variables, whose frames are seen there.
    pub(super) fn serves(&self, rules: &Rules, vars: &Vars, hooks: AttachPoint) -> bool {
        self.hooks == hooks && self.rules == *rules && self.signature.fits(vars)
    }
}

impl Signature {
    fn of(vars: &Vars, compiled: &Compiled) -> Signature {
        let value = |name: &String| Some((name.clone(), vars.values(name)?.to_vec()));
        Signature {
            reads: compiled.reads.iter().map(|name| (name.clone(), has(vars, name))).collect(),
            folded: compiled.folded.iter().filter_map(value).collect(),
        }
    }

    pub(super) fn fits(&self, vars: &Vars) -> bool {
        self.folded.iter().all(|(name, values)| vars.values(name) == Some(values))
            && self.reads.iter().all(|(name, has_values)| has(vars, name) == *has_values)
    }
}

/// A variable with an empty list can be read as little as one that is not there.
fn has(vars: &Vars, name: &str) -> bool {
    vars.values(name).is_some_and(|values| !values.is_empty())
}
