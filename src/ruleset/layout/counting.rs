//! What a table counts: dropped frames by interface and rule, and, where the configuration asks for it, all frames by interface.
//!
//! A rule that drops leads to a chain that counts and then drops, so that a frame is dropped whether or not the set has
//! room for it. Counts outlive programs: their key is the interface's index and the rule's own number.

use super::directions::{refresh_dispatch, sides};
use super::{BOUND, program, set};
use crate::program::ir::{
    Action, Chain, Key, KeySource, KeyType, MetaInterface, Name, Reject, Rule, Set, SetRole, Table, Tally,
    ValueType,
};
use std::collections::BTreeSet;
use std::sync::Arc;

/// The set that rules fill with what they drop: an element counts for an interface and a rule's number.
pub const DROPS: &str = "drops";
/// The set of bound interfaces that counts the frames that come in by them.
pub const TRAFFIC_IN: &str = "traffic-iif";
/// The set of bound interfaces that counts the frames that go out by them.
pub const TRAFFIC_OUT: &str = "traffic-oif";

/// With what counts dropped frames, which a table that an earlier version made lacks.
pub fn with_counts(table: &mut Table) {
    let key = vec![KeyType::IfIndex, KeyType::Mark];
    let drops = || Set { dynamic: true, ..set(key, ValueType::None, SetRole::Foreign) };
    table.sets.entry(DROPS.into()).or_insert_with(drops);
    for by in [MetaInterface::In, MetaInterface::Out] {
        count(table, by, Action::Drop);
    }
}

/// With chains for rules that reject, on a kernel that can.
pub fn with_answers(table: &mut Table) {
    for reject in [Reject::PortUnreachable, Reject::TcpReset] {
        count(table, MetaInterface::In, Action::Reject(reject));
    }
}

/// The chain that counts frames before this becomes of them. It does whether or not they could be counted.
fn count(table: &mut Table, by: MetaInterface, action: Action) {
    let name = Tally { by, id: 0 }.chain(&action).expect("a frame is counted that does not pass");
    let keys = vec![Key::new(by.index()), Key::new(KeySource::Mark)];
    let rules = vec![Rule::new(vec![], Action::Count(keys, DROPS.into())), Rule::new(vec![], action)];
    table.chains.entry(name.into()).or_insert_with(|| Arc::new(Chain { hook: None, rules }));
}

/// Whether the chain counts what others drop.
pub fn counts(chain: &str) -> bool {
    let actions = [Action::Drop, Action::Reject(Reject::PortUnreachable), Action::Reject(Reject::TcpReset)];
    let all = [MetaInterface::In, MetaInterface::Out].map(|by| Tally { by, id: 0 });
    actions.iter().any(|action| all.iter().any(|tally| tally.chain(action) == Some(chain)))
}

/// Whether the frames of bound interfaces are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrafficCounting {
    /// All of them, by interface and direction.
    On,
    /// Only those that are refused.
    Off,
}

/// Has the frames of bound interfaces counted, or not.
pub fn count_traffic(table: &mut Table, traffic: TrafficCounting) {
    let bound = table.sets.get(BOUND).map(|bound| bound.elements.clone()).unwrap_or_default();
    for side in sides(table) {
        if traffic == TrafficCounting::On {
            let counting =
                Set { counted: true, ..set(vec![KeyType::IfIndex], ValueType::None, SetRole::Dispatch) };
            table.sets.insert(side.traffic().into(), Set { elements: bound.clone(), ..counting });
        } else {
            table.sets.remove(side.traffic());
        }
    }
    refresh_dispatch(table);
}

/// What the drops of a bound interface can be counted as.
pub fn tallies(table: &Table, index: u32) -> BTreeSet<u32> {
    let ids = program(table, index).into_iter().flat_map(|prefix| {
        let below: Name = format!("{prefix}/").into();
        let chains = table.chains.range(below.clone()..);
        let own =
            chains.take_while(|(name, _)| name.starts_with(&*below)).flat_map(|(_, chain)| &chain.rules);
        own.filter_map(|rule| Some(rule.tally?.id)).collect::<Vec<_>>()
    });
    ids.chain([0]).collect()
}
