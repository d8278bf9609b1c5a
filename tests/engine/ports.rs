//! Ports: bindings before and after their link, links that come, go, move and change their name, and the grace of
//! what was deleted.

use crate::world::*;
use nwfilter::document::mac::Mac;
use nwfilter::engine::State;
use nwfilter::engine::error::ErrorNumber;
use nwfilter::guest::link::{Link, LinkKind};
use nwfilter::program::ir::{Bytes, Family, Name};
use nwfilter::ruleset::firewall::HookLifetime;
use nwfilter::ruleset::firewall::{Firewall, Placement, Policy};
use nwfilter::ruleset::layout;
use nwfilter::ruleset::plan::TableOperation;
use std::time::Duration;

fn world() -> World {
    World::new(&[guard("a", 0), guard("b", 1), stateful("s")])
}

#[test]
fn a_binding_is_enforced_whichever_comes_first_it_or_its_link() {
    let (mut first, mut second) = (world(), world());
    first.create("vnet0", "a").unwrap();
    assert_eq!((first.program(5), first.reserved("vnet0")), (None, true));
    first.appears(&tap(5, "vnet0"));
    second.appears(&tap(5, "vnet0"));
    assert_eq!(second.program(5), None);
    second.create("vnet0", "a").unwrap();
    assert!(first.program(5).unwrap().starts_with("a/"));
    assert_eq!(first.state.firewall().ruleset(), second.state.firewall().ruleset());
}

#[test]
fn an_impossible_binding_is_refused_with_and_without_a_link() {
    let mut world = World::new(&[guard("a", 0), needy("n"), tree("dangling", &["gone"])]);
    world.appears(&tap(5, "here"));
    world.create("taken", "a").unwrap();
    let internal = |text: &str| (ErrorNumber::InternalError as i32, format!("internal error: {text}"));
    let missing =
        "Cannot instantiate filter due to unresolvable variables or unavailable list elements: OTHER";
    for port in ["here", "absent"] {
        let cases = [
            ("gone", internal("referenced filter 'gone' is missing")),
            ("dangling", internal("referenced filter 'gone' is missing")),
            ("n", internal(missing)),
        ];
        for (filter, expected) in cases {
            let error = world.create(port, filter).unwrap_err();
            assert_eq!((error.code as i32, error.message), expected, "{port} {filter}");
            assert!(!world.reserved(port), "a refusal leaves no trace");
        }
    }
    let error = world.create("taken", "a").unwrap_err();
    let expected = (ErrorNumber::OperationFailed, "operation failed: binding 'taken' already exists");
    assert_eq!((error.code, error.message.as_str()), expected);
}

#[test]
fn a_binding_is_written_with_the_address_of_its_guest() {
    let change = world().create("vnet0", "a").unwrap();
    let binding = written(&change.writes[0]);
    assert_eq!(binding.params.values("MAC").unwrap()[0], "52:54:00:00:00:01");
}

#[test]
fn a_reused_name_gets_its_rules_and_a_reused_index_does_not() {
    let mut world = world();
    world.appears(&tap(5, "vnet0"));
    world.create("vnet0", "a").unwrap();
    world.goes(&tap(5, "vnet0"));
    assert_eq!((world.program(5), world.reserved("vnet0")), (None, true));
    world.appears(&tap(5, "other0"));
    assert_eq!(world.program(5), None);
    world.appears(&tap(9, "vnet0"));
    assert!(world.program(9).is_some());
}

#[test]
fn a_bound_link_stays_bound_under_another_name() {
    let mut world = world();
    let (bound, renamed) = (tap(5, "vnet0"), tap(5, "guest"));
    world.appears(&bound);
    world.create("vnet0", "a").unwrap();
    let program = world.program(5);
    world.changes(&bound, &renamed);
    assert_eq!(world.program(5), program);
    // The name is free for another link, which is bound as well.
    world.appears(&tap(6, "vnet0"));
    assert_eq!(world.state.firewall().members().len(), 2);
    world.delete("vnet0").unwrap();
    world.time(GRACE);
    assert_eq!((world.program(5), world.program(6)), (None, None));
    // Renamed onto a bound name, a link gets that binding's rules.
    world.create("other", "b").unwrap();
    world.changes(&renamed, &tap(5, "other"));
    assert!(world.program(5).unwrap().starts_with("b/"));
}

#[test]
fn a_link_takes_the_rules_of_its_new_name() {
    let mut world = world();
    world.appears(&tap(5, "vnet0"));
    world.create("vnet0", "a").unwrap();
    world.create("vnet1", "b").unwrap();
    let before = world.state.clone();
    world.changes(&tap(5, "vnet0"), &tap(5, "vnet1"));
    assert!(world.program(5).unwrap().starts_with("b/"));
    assert_eq!(unbinds(&world, &before), Vec::<Name>::new());
    world.delete("vnet0").unwrap();
    assert!(world.program(5).is_some(), "it belongs to the other binding now");
    assert!(!world.reserved("vnet0"));
}

#[test]
fn conntrack_follows_a_port_from_bridge_to_bridge() {
    let mut world = world();
    let on = |master: u32| Link { master: Some(master), ..tap(5, "vnet0") };
    world.appears(&bridge(2, "br0"));
    world.appears(&bridge(3, "br1"));
    world.appears(&on(2));
    world.create("vnet0", "s").unwrap();
    let bridge_of =
        |world: &World| world.state.firewall().members()[&5].place.bridge().map(|bridge| bridge.name.clone());
    assert_eq!(bridge_of(&world).as_deref(), Some("br0"));
    world.changes(&on(2), &on(3));
    assert_eq!(bridge_of(&world).as_deref(), Some("br1"));
    world.changes(&bridge(3, "br1"), &bridge(3, "office"));
    assert_eq!(bridge_of(&world).as_deref(), Some("office"));
    world.changes(&on(3), &Link { name: "renamed".into(), ..on(2) });
    assert_eq!(bridge_of(&world).as_deref(), Some("br0"));
    world.changes(&on(2), &tap(5, "renamed"));
    assert_eq!(bridge_of(&world), None);
}

#[test]
fn a_bridge_that_changes_its_address_is_known_by_the_new_one() {
    let mut world = world();
    let addressed = |last| Link { mac: Some(Mac([2, 0, 0, 0, 0, last])), ..bridge(2, "br0") };
    world.appears(&addressed(7));
    world.appears(&Link { master: Some(2), ..tap(5, "vnet0") });
    world.create("vnet0", "s").unwrap();
    let host = |world: &World| world.state.firewall().members()[&5].place.bridge().unwrap().host;
    assert_eq!(host(&world), addressed(7).mac);
    world.changes(&addressed(7), &addressed(8));
    assert_eq!(host(&world), addressed(8).mac);
}

#[test]
fn a_bridge_that_is_heard_of_after_its_port_counts() {
    let mut world = world();
    world.create("vnet0", "s").unwrap();
    world.appears(&Link { master: Some(9), ..tap(5, "vnet0") });
    world.appears(&bridge(9, "br0"));
    assert_eq!(world.state.firewall().members()[&5].place.bridge().unwrap().name, "br0");
}

#[test]
fn a_stateful_filter_is_refused_without_conntrack() {
    let mut world = world();
    world.appears(&Link { kind: MACVTAP, ..tap(5, "macvtap0") });
    let refused = world.create("macvtap0", "s").unwrap_err();
    assert!(refused.message.contains("frames of a macvtap"), "{refused:?}");
    assert_eq!(world.program(5), None, "nothing has changed");
    // One that is bound before it is there is closed when it comes.
    world.create("macvtap1", "s").unwrap();
    world.appears(&Link { kind: MACVTAP, ..tap(6, "macvtap1") });
    assert!(world.program(6).unwrap().starts_with("drop-all/"));
    let why = world.state.blocked("macvtap1").unwrap();
    assert!(
        why.contains("not tracked where the frames of a macvtap pass") && why.contains("rule 1"),
        "{why}"
    );
    // So it is where an interface belongs to another that is no bridge. One that comes to a bridge is open from then on.
    world.appears(&bridge(2, "br0"));
    world.appears(&Link { kind: LinkKind::Other, ..tap(3, "bond0") });
    world.create("vnet0", "s").unwrap();
    let slave = Link { master: Some(3), ..tap(7, "vnet0") };
    world.appears(&slave);
    assert!(world.state.blocked("vnet0").unwrap().contains("belongs to another, which is no bridge"));
    let port = Link { master: Some(2), ..tap(7, "vnet0") };
    world.changes(&slave, &port);
    assert_eq!(world.state.blocked("vnet0"), None);
    assert!(world.program(7).unwrap().starts_with("s/"));
    world.changes(&port, &slave);
    assert!(world.program(7).unwrap().starts_with("drop-all/"));
}

#[test]
fn an_interface_without_seen_packets_is_refused_or_closed() {
    let mut world = world();
    let headerless = |index, name| Link { kind: LinkKind::Headerless, ..tap(index, name) };
    world.appears(&headerless(5, "tun0"));
    let refused = world.create("tun0", "a").unwrap_err();
    assert!(refused.message.contains("'tun0' carries no Ethernet frames"), "{refused:?}");
    assert_eq!(world.program(5), None, "nothing has changed");
    // One that is bound before it is there is closed when it comes.
    world.create("tun1", "a").unwrap();
    world.appears(&headerless(6, "tun1"));
    assert!(world.program(6).unwrap().starts_with("drop-all/"));
    assert!(world.state.blocked("tun1").unwrap().contains("no Ethernet frames"));
}

#[test]
fn an_interface_that_is_no_guests_is_refused() {
    let mut world = world();
    let loopback = Link { kind: LinkKind::Loopback, ..tap(1, "lo") };
    for (link, why) in
        [(loopback, "'lo' is the host's way to itself"), (bridge(2, "br0"), "'br0' is a bridge")]
    {
        world.appears(&link);
        let refused = world.create(&link.name, "a").unwrap_err();
        assert!(refused.message.contains(why), "{refused:?}");
        assert_eq!(world.program(link.index), None, "nothing has changed");
    }
}

#[test]
fn connections_of_a_routed_tap_are_judged_in_the_ip_layer() {
    let mut world = world();
    let seats = |world: &World| {
        let rules = world.state.firewall().ruleset();
        let seat =
            |family| rules.tables.get(&family).and_then(|table| layout::dispatch_target(table, 7)).is_some();
        [Family::Bridge, Family::Netdev, Family::Inet].map(seat)
    };
    world.appears(&bridge(2, "br0"));
    world.create("vnet0", "s").unwrap();
    world.appears(&tap(7, "vnet0"));
    assert_eq!((world.state.blocked("vnet0"), seats(&world)), (None, [false, true, true]));
    let port = Link { master: Some(2), ..tap(7, "vnet0") };
    world.changes(&tap(7, "vnet0"), &port);
    assert_eq!(seats(&world), [true, false, false]);
    let rules = world.state.firewall().ruleset();
    assert_eq!(layout::bound(&rules.tables[&Family::Inet]), [7], "blocked there");
    world.changes(&port, &tap(7, "vnet0"));
    assert_eq!(seats(&world), [false, true, true]);
    world.delete("vnet0").unwrap();
    world.time(GRACE * 2);
    assert!(!world.state.firewall().ruleset().tables.contains_key(&Family::Inet), "nothing to block");
}

/// Dispatch sets that a plan takes interfaces out of.
fn unbinds(world: &World, before: &nwfilter::engine::State) -> Vec<Name> {
    let plan = world.plan_from(before);
    let steps = plan.prepare.iter().chain(&plan.switch).chain(&plan.retire);
    let gone = steps.filter_map(|step| match &step.change {
        TableOperation::DeleteElements(name, ..) if &**name == nwfilter::ruleset::layout::BOUND => {
            Some(name.clone())
        }
        _ => None,
    });
    gone.collect()
}

#[test]
fn a_binding_recreated_in_its_grace_leaves_no_gap() {
    let mut world = world();
    world.appears(&tap(5, "vnet0"));
    world.create("vnet0", "a").unwrap();
    let bound = world.state.clone();
    world.delete("vnet0").unwrap();
    assert!(world.plan_from(&bound).is_empty(), "nothing happens in the kernel");
    assert_eq!(world.state.deadline(), Some(GRACE));
    world.time(GRACE / 2);
    let left = world.state.clone();
    world.create("vnet0", "b").unwrap();
    assert_eq!(unbinds(&world, &left), Vec::<Name>::new());
    assert_eq!(world.state.deadline(), None);
    world.time(GRACE * 2);
    assert!(world.program(5).unwrap().starts_with("b/"), "the grace of the old one does not end the new one");
}

#[test]
fn grace_ends_with_its_time_its_link_or_not_at_all_begun() {
    let bound = || {
        let mut world = world();
        world.appears(&tap(5, "vnet0"));
        world.create("vnet0", "a").unwrap();
        world
    };
    let mut world = bound();
    world.delete("vnet0").unwrap();
    world.time(GRACE - Duration::from_millis(1));
    assert!(world.program(5).is_some());
    world.time(Duration::from_millis(1));
    assert_eq!((world.program(5), world.reserved("vnet0")), (None, false));

    let mut world = bound();
    world.delete("vnet0").unwrap();
    world.goes(&tap(5, "vnet0"));
    assert_eq!((world.state.deadline(), world.reserved("vnet0")), (None, false));

    let mut world = world_without_link();
    world.delete("vnet0").unwrap();
    assert_eq!((world.state.deadline(), world.reserved("vnet0")), (None, false));
}

fn world_without_link() -> World {
    let mut world = world();
    world.create("vnet0", "a").unwrap();
    world
}

#[test]
fn what_the_kernel_does_not_take_is_closed_and_tried_again() {
    let mut world = world();
    world.create("vnet0", "a").unwrap();
    let link = tap(5, "vnet0");
    world.state = world.state.block(&link, "too many rules");
    assert_eq!(world.state.blocked("vnet0"), Some("too many rules"));
    assert!(world.program(5).is_some_and(|program| !program.starts_with("a/")));
    assert_eq!(world.state.closed_ports(), ["vnet0"]);
    world.state = world.state.retry("vnet0").next;
    assert!(world.program(5).unwrap().starts_with("a/"));
    assert_eq!(world.state.blocked("vnet0"), None);
}

#[test]
fn what_is_due_and_was_refused_comes_later() {
    let mut world = world();
    world.appears(&tap(5, "vnet0"));
    world.create("vnet0", "a").unwrap();
    world.delete("vnet0").unwrap();
    world.state = world.state.put_off(GRACE, GRACE * 5);
    assert_eq!(world.state.deadline(), Some(GRACE * 5));
}

fn port(index: u32, name: &str) -> Link {
    Link { master: Some(2), ..tap(index, name) }
}

/// A port that may sit at its own hooks, in a kernel whose hooks outlive their device or not.
fn world_of_devices(hooks: HookLifetime) -> World {
    let policy = Policy { placement: Placement::Device, ..policy(64) };
    let firewall = Firewall::new(policy).with_hooks(hooks);
    let mut world = World { state: State::restore(firewall, [], [], GRACE), now: Duration::ZERO };
    world.define(&guard("g", 0)).unwrap();
    world.appears(&bridge(2, "br0"));
    world.appears(&port(5, "vnet0"));
    world.create("vnet0", "g").unwrap();
    world
}

/// What bridges let through, by index and name.
fn passed(world: &World) -> Vec<(u32, String)> {
    let ruleset = world.state.firewall().ruleset();
    let set = ruleset.tables[&Family::Bridge].sets.get(layout::AT_DEVICE);
    let read = |key: &Bytes| {
        let name = String::from_utf8(key[4..].to_vec()).unwrap();
        (u32::from_ne_bytes(key[..4].try_into().unwrap()), name.trim_end_matches('\0').to_owned())
    };
    set.into_iter().flat_map(|set| set.elements.keys().map(read)).collect()
}

/// In which tables an interface has a program.
fn seats(world: &World, index: u32) -> Vec<Family> {
    let tables = world.state.firewall().ruleset().tables;
    let seated = tables.iter().filter(|(_, table)| layout::dispatch_target(table, index).is_some());
    seated.map(|(family, _)| *family).filter(|family| *family != Family::Inet).collect()
}

#[test]
fn a_port_stays_at_its_own_hooks_while_they_suffice() {
    let mut world = world_of_devices(HookLifetime::Lasting);
    let at_device = |world: &World, name: &str| {
        assert_eq!(seats(world, 5), [Family::Netdev]);
        assert_eq!(passed(world), [(5, name.to_owned())]);
        let hooked = world.state.firewall().ruleset();
        assert!(layout::hooked(&hooked.tables[&Family::Netdev]).contains(name));
    };
    at_device(&world, "vnet0");
    world.changes(&port(5, "vnet0"), &port(5, "other"));
    at_device(&world, "other");
    world.changes(&port(5, "other"), &port(5, "vnet0"));
    world.define(&stateful("g")).unwrap();
    assert_eq!((seats(&world, 5), passed(&world)), (vec![Family::Bridge], vec![]));
    world.define(&guard("g", 1)).unwrap();
    at_device(&world, "vnet0");
    world.changes(&port(5, "vnet0"), &tap(5, "vnet0"));
    assert_eq!((seats(&world, 5), passed(&world)), (vec![Family::Netdev], vec![]));
    world.changes(&tap(5, "vnet0"), &port(5, "vnet0"));
    at_device(&world, "vnet0");
    world.goes(&port(5, "vnet0"));
    assert_eq!((seats(&world, 5), passed(&world)), (vec![], vec![]));
    let without = world_of_devices(HookLifetime::Device);
    assert_eq!((seats(&without, 5), passed(&without)), (vec![Family::Bridge], vec![]));
}

#[test]
fn a_link_set_down_is_bound_in_place_when_it_comes_up() {
    let mut world = world();
    let port = Link { master: Some(1), ..tap(5, "vnet0") };
    let (left, down) = (tap(5, "vnet0"), Link { up: false, ..tap(5, "vnet0") });
    world.appears(&bridge(1, "br0"));
    world.appears(&port);
    world.create("vnet0", "a").unwrap();
    let before = world.state.firewall().ruleset();
    world.state = world.state.set_down(&left, "refused");
    assert_eq!(world.state.blocked("vnet0"), Some("refused"));
    world.changes(&left, &down);
    assert_eq!(world.state.firewall().ruleset(), before, "the kernel has no other rules");
    world.changes(&down, &left);
    assert_eq!(world.state.blocked("vnet0"), None);
    let rules = world.state.firewall().ruleset();
    assert!(
        layout::program(&rules.tables[&Family::Netdev], 5).is_some_and(|program| program.starts_with("a/"))
    );
}
