//! Prints plans as nft commands, batch by batch.

use super::{Plan, Step, TableOperation};
use crate::program::ir::SetType;
use crate::program::ir::text::{RuleText, SetText};
use crate::program::ir::{Bytes, ElementValue, Name, Set, SetRole, TABLE};
use std::fmt::{self, Display, Formatter};

impl Display for Plan {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (batch, steps) in [
            ("pause", &self.pause.begin),
            ("prepare", &self.prepare),
            ("switch", &self.switch),
            ("retire", &self.retire),
            ("forget", &self.forget),
        ] {
            if !steps.is_empty() {
                writeln!(f, "# {batch}")?;
            }
            steps.iter().try_for_each(|step| writeln!(f, "{step}"))?;
        }
        Ok(())
    }
}

impl Display for Step {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let family = self.family;
        match &self.change {
            TableOperation::AddTable => write!(f, "add table {family} {TABLE}"),
            TableOperation::DeleteTable => write!(f, "delete table {family} {TABLE}"),
            TableOperation::AddChain(name, None) => write!(f, "add chain {family} {TABLE} {name}"),
            TableOperation::AddChain(name, Some(hook)) => {
                write!(f, "add chain {family} {TABLE} {name} {{ {hook} }}")
            }
            TableOperation::DeleteChain(name) => write!(f, "delete chain {family} {TABLE} {name}"),
            TableOperation::FlushChain(name) => write!(f, "flush chain {family} {TABLE} {name}"),
            TableOperation::AddRule(chain, rule) => {
                write!(f, "add rule {family} {TABLE} {chain} {}", RuleText(family, rule).to_string().trim())
            }
            TableOperation::AddSet(name, kind) => {
                write!(f, "add {} {family} {TABLE} {}", kind.noun(), declared(name, kind))
            }
            TableOperation::DeleteSet(name) => write!(f, "delete set {family} {TABLE} {name}"),
            TableOperation::AddElements(name, kind, elements) => {
                write!(f, "add element {family} {TABLE} {name} {}", listed(name, kind, elements))
            }
            TableOperation::DeleteElements(name, kind, keys)
            | TableOperation::DestroyElements(name, kind, keys) => {
                let verb = if matches!(self.change, TableOperation::DeleteElements(..)) {
                    "delete"
                } else {
                    "destroy"
                };
                let elements: Vec<(Bytes, ElementValue)> =
                    keys.iter().map(|key| (key.clone(), ElementValue::None)).collect();
                let plain = SetType { data: crate::program::ir::ValueType::None, ..kind.clone() };
                write!(f, "{verb} element {family} {TABLE} {name} {}", listed(name, &plain, &elements))
            }
        }
    }
}

impl SetType {
    fn noun(&self) -> &'static str {
        if self.data == crate::program::ir::ValueType::None { "set" } else { "map" }
    }

    fn filled(&self, elements: &[(Bytes, ElementValue)]) -> Set {
        let elements = elements.iter().cloned().collect();
        let SetType { key, data, dynamic, counted } = self.clone();
        Set { key, data, role: SetRole::Variable, dynamic, counted, elements }
    }
}

/// A set's declaration on one line, without what kind of thing it is.
fn declared(name: &Name, kind: &SetType) -> String {
    let text = SetText(name, &kind.filled(&[])).to_string();
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.split_once(' ').map_or(line.clone(), |(_, rest)| rest.to_owned())
}

/// `{ a, b }` as the set itself would list them.
fn listed(name: &Name, kind: &SetType, elements: &[(Bytes, ElementValue)]) -> String {
    let filled = SetType { dynamic: false, ..kind.clone() }.filled(elements);
    let text = SetText(name, &filled).to_string();
    let from = text.find("elements = ").map_or("", |at| &text[at + "elements = ".len()..]);
    let end = from.find('}').map_or(0, |at| at + 1);
    from[..end].split_whitespace().collect::<Vec<_>>().join(" ")
}
