//! Rule sets in few words.

use nwfilter::document::field::Field;
use nwfilter::document::span::{Place, Source, Span};
use nwfilter::program::ir::SetType;
use nwfilter::program::ir::*;
use nwfilter::ruleset::plan::{Plan, Step, TableOperation};
use std::collections::BTreeSet;

pub fn name(text: &str) -> Name {
    text.into()
}

pub fn step(family: Family, change: TableOperation) -> Step {
    Step { family, change }
}

pub fn set_type(set: &Set) -> SetType {
    set.kind()
}

/// Everything of a rule set, made in an order the kernel takes.
pub fn steps(ruleset: &Ruleset) -> Vec<Step> {
    let mut steps = Vec::new();
    for (family, table) in &ruleset.tables {
        let mut add = |change| steps.push(step(*family, change));
        add(TableOperation::AddTable);
        table.sets.iter().for_each(|(name, set)| add(TableOperation::AddSet(name.clone(), set_type(set))));
        for (name, chain) in &table.chains {
            add(TableOperation::AddChain(name.clone(), chain.hook.clone()));
        }
        for (name, set) in table.sets.iter().filter(|(_, set)| !set.elements.is_empty()) {
            let elements = set.elements.iter().map(|(key, datum)| (key.clone(), datum.clone())).collect();
            add(TableOperation::AddElements(name.clone(), set_type(set), elements));
        }
        for (name, chain) in &table.chains {
            chain.rules.iter().for_each(|rule| add(TableOperation::AddRule(name.clone(), rule.clone())));
        }
    }
    steps
}

pub fn prepare(steps: Vec<Step>) -> Plan {
    Plan { prepare: steps, ..Plan::default() }
}

pub fn set(key: &[KeyType], data: ValueType, elements: &[(&[u8], ElementValue)]) -> Set {
    let elements = elements.iter().map(|(key, datum)| (Bytes::from(*key), datum.clone())).collect();
    Set { key: key.to_vec(), data, role: SetRole::Variable, dynamic: false, counted: false, elements }
}

pub fn f(field: Field) -> Key {
    Key::field(field)
}

pub fn eq(field: Field, value: &[u8]) -> Match {
    Match::equals(f(field), value)
}

pub fn ne(field: Field, value: &[u8]) -> Match {
    Match::Compare { key: f(field), negated: true, value: value.into() }
}

pub fn masked(field: Field, mask: &[u8], negated: bool, value: &[u8]) -> Match {
    Match::Compare { key: Key::masked(field, mask), negated, value: value.into() }
}

pub fn range(key: Key, negated: bool, from: &[u8], to: &[u8]) -> Match {
    Match::Range { key, negated, from: from.into(), to: to.into() }
}

pub fn one_of(keys: Vec<Key>, types: &[KeyType], negated: bool, values: &[&[u8]]) -> Match {
    let values: BTreeSet<Bytes> = values.iter().map(|value| Bytes::from(*value)).collect();
    Match::Lookup { keys, negated, set: SetRef::Anonymous(types.to_vec(), values) }
}

pub fn within(keys: Vec<Key>, negated: bool, set: &str) -> Match {
    Match::Lookup { keys, negated, set: SetRef::Named(name(set)) }
}

pub fn is(from: KeySource, value: &[u8]) -> Match {
    Match::equals(Key::new(from), value)
}

pub fn index(number: u32) -> [u8; 4] {
    number.to_ne_bytes()
}

pub fn element(parts: &[&[u8]]) -> Bytes {
    concat(parts)
}

pub fn origin(filter: &str, rule: u32) -> Option<Origin> {
    let source = Source::new("clean.xml", "<filter>\n  <rule/>\n</filter>");
    Some(Origin { filter: name(filter), rule, id: 0, place: Place { source, span: Span::new(11..18) } })
}
