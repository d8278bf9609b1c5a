//! What the host itself sends to guests, marked in its IP layer for their programs.
//!
//! A bridge cannot tell such a packet from one that the host routes. The IP layer can: its own packets alone meet the
//! `output` hook. Only those are marked that leave by an interface that leads to a guest whose program asks for it, and that
//! have no mark yet.

use super::{name_key, set};
use crate::program::compile::HOST_MARK;
use crate::program::ir::{
    Action, Chain, ElementValue, Hook, HookPoint, Key, KeySource, KeyType, Match, Rule, Set, SetRef, SetRole,
    Table, ValueType,
};
use std::sync::Arc;

/// The set of interfaces, by name, that lead to guests whose programs let the host's own packets pass.
pub const HOST_LINKS: &str = "host-links";

const OUTPUT: &str = "output";
/// After all that others may want of the host's packets.
const OUTPUT_PRIORITY: i32 = 400;

/// With the chain that marks them.
pub(super) fn with_output(table: &mut Table) {
    let links = || set(vec![KeyType::IfName], ValueType::None, SetRole::Dispatch);
    table.sets.entry(HOST_LINKS.into()).or_insert_with(links);
    let hook = Some(Hook { point: HookPoint::Output, priority: OUTPUT_PRIORITY, device: None });
    let unmarked = Match::equals(Key::new(KeySource::Mark), &[0; 4]);
    let set = SetRef::Named(HOST_LINKS.into());
    let leads = Match::Lookup { keys: vec![Key::new(KeySource::OifName)], negated: false, set };
    let rules = vec![Rule::new(vec![unmarked, leads], Action::Mark(HOST_MARK))];
    table.chains.entry(OUTPUT.into()).or_insert_with(|| Arc::new(Chain { hook, rules }));
}

/// Has what the host itself sends by an interface marked.
pub fn mark_host(table: &mut Table, link: &str) {
    host_links(table).elements.insert(name_key(link), ElementValue::None);
}

/// Has what the host itself sends by an interface marked no longer.
pub fn unmark_host(table: &mut Table, link: &str) {
    host_links(table).elements.remove(&name_key(link));
}

fn host_links(table: &mut Table) -> &mut Set {
    with_output(table);
    table.sets.get_mut(HOST_LINKS).expect("made above")
}
