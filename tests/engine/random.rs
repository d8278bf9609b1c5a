//! Whatever happened, what is enforced is what a daemon that starts now would enforce.

use crate::world::*;
use nwfilter::engine::State;
use nwfilter::guest::link::{Link, LinkEvent, LinkKind};
use nwfilter::program::ir::{Chain, Family, Name, Set, Table};
use nwfilter::ruleset::firewall::{Firewall, Policy};
use nwfilter::ruleset::layout;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// What clients and the host do; few names, so that they meet.
#[derive(Clone, Debug)]
enum Act {
    Define(u8, u8),
    Undefine(u8),
    Create(u8, u8),
    Delete(u8),
    Apply(u8, u8),
    Remove(u8),
    Appear(u32, u8),
    Move(u32, Option<u32>),
    Rename(u32, u8),
    Go(u32),
    Time(u64),
    Reload(u8, u8),
    Retry,
}

const PORTS: [&str; 4] = ["vnet0", "vnet1", "vnet2", "other"];
const FILTERS: [&str; 4] = ["a", "b", "c", "d"];

fn act() -> impl Strategy<Value = Act> {
    let (port, filter, index) = (0..4u8, 0..4u8, 10..14u32);
    let content = 0..6u8;
    prop_oneof![
        3 => (filter.clone(), content.clone()).prop_map(|(f, c)| Act::Define(f, c)),
        1 => filter.clone().prop_map(Act::Undefine),
        4 => (port.clone(), filter.clone()).prop_map(|(p, f)| Act::Create(p, f)),
        2 => port.clone().prop_map(Act::Delete),
        1 => (port.clone(), filter.clone()).prop_map(|(p, f)| Act::Apply(p, f)),
        1 => port.clone().prop_map(Act::Remove),
        4 => (index.clone(), port.clone()).prop_map(|(i, p)| Act::Appear(i, p)),
        1 => (index.clone(), prop::option::of(2..4u32)).prop_map(|(i, m)| Act::Move(i, m)),
        1 => (index.clone(), port.clone()).prop_map(|(i, p)| Act::Rename(i, p)),
        2 => index.clone().prop_map(Act::Go),
        2 => (0..900u64).prop_map(Act::Time),
        1 => (filter, content).prop_map(|(f, c)| Act::Reload(f, c)),
        1 => Just(Act::Retry),
    ]
}

/// One of the contents a filter can have; most cannot be had together with every other.
fn content(name: &str, content: u8) -> String {
    match content {
        0 | 1 => guard(name, content),
        2 => stateful(name),
        3 => needy(name),
        4 => tree(name, &["a"]),
        _ => tree(name, &["b", "c"]),
    }
}

/// The links of the namespace as the kernel would have them: one index and one name each.
#[derive(Default)]
struct Links(BTreeMap<u32, Link>);

impl Links {
    fn event(&mut self, act: &Act) -> Option<LinkEvent> {
        let taken = |name: &str| self.0.values().any(|link| link.name == name);
        match *act {
            Act::Appear(index, port) if !self.0.contains_key(&index) && !taken(PORTS[port as usize]) => {
                let kind = if index % 2 == 0 { LinkKind::Tap } else { MACVTAP };
                let link = Link { kind, ..tap(index, PORTS[port as usize]) };
                self.0.insert(index, link.clone());
                Some(LinkEvent::Appeared(link))
            }
            Act::Go(index) => self.0.remove(&index).map(LinkEvent::Gone),
            Act::Move(index, master) => self.change(index, |link| link.master = master),
            Act::Rename(index, port) if !taken(PORTS[port as usize]) => {
                self.change(index, |link| link.name = PORTS[port as usize].into())
            }
            _ => None,
        }
    }

    fn change(&mut self, index: u32, how: impl Fn(&mut Link)) -> Option<LinkEvent> {
        let link = self.0.get_mut(&index)?;
        let old = link.clone();
        how(link);
        Some(LinkEvent::Changed { old, new: link.clone() })
    }
}

fn perform(world: &mut World, links: &mut Links, act: &Act) {
    let (port, filter) = (|p: u8| PORTS[p as usize], |f: u8| FILTERS[f as usize]);
    use nwfilter::engine::api::Request;
    let _ = match *act {
        Act::Define(f, c) => world.define(&content(filter(f), c)).map(drop),
        Act::Undefine(f) => world.undefine(filter(f)).map(drop),
        Act::Create(p, f) => world.create(port(p), filter(f)).map(drop),
        Act::Delete(p) => world.delete(port(p)).map(drop),
        Act::Apply(p, f) => world.ask(Request::Apply { xml: bind(port(p), filter(f)) }).map(drop),
        Act::Remove(p) => world.ask(Request::Remove { portdev: port(p).into() }).map(drop),
        Act::Time(milliseconds) => {
            world.time(Duration::from_millis(milliseconds));
            Ok(())
        }
        Act::Reload(f, c) => {
            let (change, _) = world.state.reload([crate::world::filter(&content(filter(f), c))]);
            world.state = change.next;
            Ok(())
        }
        Act::Retry => {
            for port in world.state.closed_ports() {
                world.state = world.state.retry(&port).next;
            }
            Ok(())
        }
        _ => {
            if let Some(event) = links.event(act) {
                world.link(event);
            }
            Ok(())
        }
    };
}

/// What a daemon makes of the same documents and links. Links that were renamed away from a bound name are still that
/// port's, which a fresh start cannot know: they are known by the name they were bound under, and not compared.
fn fresh(state: &State, links: &Links, policy: Policy) -> State {
    let filters = state.firewall().filters().values().cloned();
    let firewall = Firewall::new(policy).define(filters).unwrap();
    let bindings = state.bindings().values().map(|binding| (**binding).clone());
    State::restore(
        firewall,
        bindings,
        links.0.values().cloned().chain([bridge(2, "br0"), bridge(3, "br1")]),
        GRACE,
    )
}

/// What packets meet, without the names by which members of one content are grouped.
type Enforced =
    BTreeMap<Family, (BTreeMap<u32, Option<String>>, BTreeMap<Name, Arc<Chain>>, BTreeMap<Name, Set>)>;

fn enforced(state: &State) -> Enforced {
    let rules = state.firewall().ruleset();
    let of_table = |(family, table): (&Family, &Table)| {
        let members = layout::bound(table).into_iter().map(|index| (index, program(state, index))).collect();
        let part = |name: &Name| layout::prefix_of(name).is_some() || name.starts_with('_');
        let chains = table.chains.iter().filter(|(name, _)| part(name));
        let sets = table.sets.iter().filter(|(name, _)| layout::shared_by(name).is_none());
        let chains = chains.map(|(name, chain)| (name.clone(), chain.clone())).collect();
        (*family, (members, chains, sets.map(|(name, set)| (name.clone(), set.clone())).collect()))
    };
    rules.tables.iter().map(of_table).collect()
}

fn check(acts: &[Act], fold_up_to: usize) {
    let policy = policy(fold_up_to);
    let mut world = World::with(policy, &[guard("a", 0), guard("b", 1), stateful("c")]);
    let mut links = Links::default();
    world.appears(&bridge(2, "br0"));
    world.appears(&bridge(3, "br1"));
    for act in acts {
        perform(&mut world, &mut links, act);
        for binding in world.state.bindings().values() {
            let link = links.0.values().find(|link| link.name == binding.portdev);
            assert!(
                link.is_none_or(|link| world.program(link.index).is_some()),
                "{binding:?} is not enforced"
            );
            assert!(world.reserved(&binding.portdev));
            if let Some(link) = link {
                let hooked = world.state.firewall().ruleset();
                let hooked = hooked.tables.get(&Family::Netdev).map(layout::hooked).unwrap_or_default();
                let needed = link.master.is_none();
                assert_eq!(hooked.contains(&*link.name), needed, "{link:?}");
            }
        }
    }
    settle(&mut world, &mut links);
    let fresh = fresh(&world.state, &links, policy);
    assert_eq!(enforced(&world.state), enforced(&fresh));
    if fold_up_to > 60 {
        assert_eq!(world.state.firewall().ruleset(), fresh.firewall().ruleset());
    }
    assert_eq!(world.state.closed_ports(), fresh.closed_ports());
}

/// Ends what a fresh start cannot know of: grace, and the former names of links.
fn settle(world: &mut World, links: &mut Links) {
    world.time(GRACE);
    let renamed = |link: &&Link| {
        let member = world.state.firewall().members().get(&link.index);
        member.is_some_and(|member| member.name != link.name)
    };
    let renamed: Vec<u32> = links.0.values().filter(renamed).map(|link| link.index).collect();
    for index in renamed {
        perform(world, links, &Act::Go(index));
    }
}

#[test]
fn a_tap_is_not_closed_for_an_earlier_macvtap_of_its_name() {
    let acts =
        [Act::Define(1, 2), Act::Create(2, 1), Act::Appear(13, 2), Act::Rename(13, 0), Act::Appear(10, 2)];
    [0, 64].into_iter().for_each(|fold_up_to| check(&acts, fold_up_to));
}

#[test]
fn a_port_whose_link_has_another_name_is_not_closed() {
    let acts = [Act::Apply(0, 2), Act::Appear(13, 0), Act::Rename(13, 1), Act::Create(1, 0)];
    [0, 64].into_iter().for_each(|fold_up_to| check(&acts, fold_up_to));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn what_is_enforced_is_what_a_fresh_start_would_enforce(
        acts in prop::collection::vec(act(), 1..40),
        shared in prop::bool::ANY,
    ) {
        check(&acts, if shared { 0 } else { 64 });
    }
}
