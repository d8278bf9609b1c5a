//! Filters: what can be defined, redefined and undefined, what clients hear, and what is written.

use crate::world::*;
use nwfilter::engine::{State, Write};
use nwfilter::rpc::{Code, Reply, Request};
use uuid::Uuid;

/// That a refusal has this code and text, and that nothing has changed.
fn check_refused(world: &mut World, ask: impl FnOnce(&mut World) -> (i32, String), code: Code, text: &str) {
    let before = world.state.clone();
    assert_eq!(ask(world), (code as i32, text.to_owned()));
    assert!(is_same(&before, &world.state), "a refusal of {text:?} changed something");
}

fn is_same(a: &State, b: &State) -> bool {
    a.firewall().ruleset() == b.firewall().ruleset()
        && a.firewall().filters().keys().eq(b.firewall().filters().keys())
        && a.bindings().keys().eq(b.bindings().keys())
}

fn refused<T: std::fmt::Debug>(answer: Result<T, nwfilter::rpc::Error>) -> (i32, String) {
    let error = answer.unwrap_err();
    (error.code as i32, error.message)
}

#[test]
fn a_name_and_a_uuid_belong_together_and_references_never_run_in_a_circle() {
    let named = |name: &str, id: &str| format!("<filter name='{name}'><uuid>{}</uuid></filter>", uuid(id));
    let mut world = World::new(&[guard("a", 0), tree("b", &["a"]), tree("c", &["b", "missing"])]);
    let failed = |text: &str| (Code::OperationFailed, format!("operation failed: {text}"));
    let cases = [
        (named("x", "a"), failed("filter with same UUID but different name ('a') already exists")),
        (named("a", "x"), failed(&format!("filter 'a' already exists with uuid {}", uuid("a")))),
        ("<filter name='a'/>".into(), failed(&format!("filter 'a' already exists with uuid {}", uuid("a")))),
        (named("b", "a"), failed("filter with same UUID but different name ('a') already exists")),
        (tree("a", &["a"]), failed("filter would introduce a loop")),
        (tree("a", &["c"]), failed("filter would introduce a loop")),
        (tree("missing", &["c"]), failed("filter would introduce a loop")),
        (tree("new", &["new"]), failed("filter would introduce a loop")),
        ("<x/>".into(), (Code::XmlError, "XML error: expecting root element of 'filter', not 'x'".into())),
    ];
    for (xml, (code, text)) in cases {
        check_refused(&mut world, |world| refused(world.define(&xml)), code, &text);
    }
}

#[test]
fn who_asks_for_what_is_not_there_hears_so() {
    let mut world = World::new(&[guard("a", 0)]);
    let no = |what: String| {
        (Code::NoFilter, format!("Network filter not found: no nwfilter with matching {what}"))
    };
    let binding = "Network filter binding not found: no nwfilter binding for port dev 'vnet0'";
    let id = uuid("x");
    let port = || "vnet0".to_owned();
    let cases = [
        (Request::LookupFilterByName { name: "x".into() }, no("name 'x'".into())),
        (Request::LookupFilterByUuid { uuid: id }, no(format!("uuid '{id}'"))),
        (Request::FilterXml { uuid: id, flags: 0 }, no(format!("uuid '{id}'"))),
        (Request::UndefineFilter { uuid: id }, no(format!("uuid '{id}'"))),
        (Request::LookupBinding { portdev: port() }, (Code::NoBinding, binding.into())),
        (Request::BindingXml { portdev: port(), flags: 0 }, (Code::NoBinding, binding.into())),
        (Request::DeleteBinding { portdev: port() }, (Code::NoBinding, binding.into())),
        (Request::Remove { portdev: port() }, (Code::NoBinding, binding.into())),
    ];
    for (request, (code, text)) in cases {
        check_refused(&mut world, |world| refused(world.ask(request)), code, &text);
    }
}

#[test]
fn a_filter_without_a_uuid_gets_one_that_stays() {
    let mut world = World::new(&[]);
    let change = world.define("<filter name='a'/>").unwrap();
    let Reply::Filter(id) = change.reply else { panic!() };
    assert_eq!((id.name.as_str(), id.uuid), ("a", Uuid::from_u128(0xf5e5)));
    let [Write::SaveFilter(name, text)] = &change.writes[..] else { panic!("{:?}", change.writes) };
    assert_eq!(name, "a");
    assert!(text.contains(&id.uuid.to_string()), "{text}");
}

#[test]
fn an_equal_filter_is_written_and_nothing_is_rebuilt() {
    let mut world = World::new(&[guard("a", 0)]);
    world.appears(&tap(5, "vnet0"));
    world.create("vnet0", "a").unwrap();
    let before = world.state.clone();
    let spaced = guard("a", 0).replace("><", ">\n\n  <");
    let change = world.define(&spaced).unwrap();
    assert!(matches!(&change.writes[..], [Write::SaveFilter(..)]));
    assert!(world.plan_from(&before).is_empty());
}

#[test]
fn a_redefinition_reaches_those_who_use_the_filter_and_no_others() {
    let mut world =
        World::new(&[guard("a", 0), tree("b", &["a"]), guard("other", 0), tree("d", &["b", "other"])]);
    for (index, filter) in [(1, "a"), (2, "b"), (3, "other"), (4, "d")] {
        world.appears(&tap(index, &format!("vnet{index}")));
        world.create(&format!("vnet{index}"), filter).unwrap();
    }
    let programs = |world: &World| (1..5).map(|index| world.program(index).unwrap()).collect::<Vec<_>>();
    let before = programs(&world);
    world.define(&guard("a", 1)).unwrap();
    let changed: Vec<bool> = before.iter().zip(programs(&world)).map(|(old, new)| *old != new).collect();
    assert_eq!(changed, [true, true, false, true]);
    assert!(world.xml_of("a").contains("0x9001"));
}

#[test]
fn a_redefinition_that_one_member_can_not_take_changes_nothing_and_names_it() {
    let mut world = World::new(&[guard("a", 0), tree("b", &["a"])]);
    for index in 1..4 {
        world.appears(&tap(index, &format!("vnet{index}")));
    }
    world.create("vnet1", "a").unwrap();
    world.create("vnet2", "b").unwrap();
    let before = world.state.clone();
    let (code, text) = refused(world.define(&needy("a")));
    assert_eq!(code, Code::InternalError as i32);
    assert!(text.starts_with("internal error: vnet1: ") && text.contains("OTHER"), "{text}");
    assert!(is_same(&before, &world.state));
    assert!(world.xml_of("a").contains("0x9000"), "the old definition stays");
}

#[test]
fn a_filter_in_use_stays_whatever_its_binding_waits_for() {
    let in_use = "Requested operation is not valid: nwfilter is in use";
    let mut world = World::new(&[guard("a", 0), tree("b", &["a"]), guard("c", 0), needy("d")]);
    world.appears(&tap(5, "vnet0"));
    world.create("vnet0", "b").unwrap();
    world.create("later", "c").unwrap();
    for name in ["a", "b", "c"] {
        check_refused(&mut world, |world| refused(world.undefine(name)), Code::OperationInvalid, in_use);
    }
    // A closed port still has its binding.
    world.define(&needy("c")).unwrap();
    world.appears(&tap(6, "later"));
    assert!(world.state.closed("later").is_some());
    check_refused(&mut world, |world| refused(world.undefine("c")), Code::OperationInvalid, in_use);
    // Only references are left to it: those may dangle, as in libvirt.
    world.delete("vnet0").unwrap();
    world.time(GRACE);
    assert!(matches!(&world.undefine("a").unwrap().writes[..], [Write::DeleteFilter(name)] if name == "a"));
    assert_eq!(refused(world.create("vnet0", "b")).1, "internal error: referenced filter 'a' is missing");
    world.undefine("d").unwrap();
}

#[test]
fn a_deleted_binding_in_its_grace_stands_in_nobodys_way() {
    let bound = || {
        let mut world = World::new(&[guard("a", 0)]);
        world.appears(&tap(5, "vnet0"));
        world.create("vnet0", "a").unwrap();
        world.delete("vnet0").unwrap();
        assert!(world.program(5).is_some());
        world
    };
    let mut world = bound();
    world.undefine("a").unwrap();
    assert_eq!((world.program(5), world.reserved("vnet0")), (None, false));
    let mut world = bound();
    world.define(&needy("a")).unwrap();
    assert_eq!(world.program(5), None);
    let mut world = bound();
    world.define(&guard("a", 1)).unwrap();
    assert!(world.program(5).is_some(), "a redefinition it can take does not end its grace");
}

#[test]
fn a_redefinition_opens_the_ports_that_were_closed_for_its_sake() {
    let mut world = World::new(&[guard("a", 0)]);
    world.create("vnet0", "a").unwrap();
    world.define(&needy("a")).unwrap();
    world.appears(&tap(5, "vnet0"));
    assert!(world.state.closed("vnet0").unwrap().contains("OTHER"));
    world.define(&guard("other", 0)).unwrap();
    assert!(world.state.closed("vnet0").is_some());
    world.define(&guard("a", 1)).unwrap();
    assert_eq!(world.state.closed("vnet0"), None);
    assert!(world.program(5).unwrap().starts_with("a/"));
}

#[test]
fn a_reload_takes_what_is_sound_and_tells_of_the_rest() {
    let mut world = World::new(&[guard("a", 0), guard("kept", 0)]);
    world.appears(&tap(5, "vnet0"));
    world.create("vnet0", "a").unwrap();
    let before = world.program(5);
    let stolen = guard("thief", 0).replace(&uuid("thief").to_string(), &uuid("a").to_string());
    let files = [guard("a", 1), tree("l1", &["l2"]), tree("l2", &["l1"]), guard("new", 0), stolen];
    let (change, faults) = world.state.reload(files.iter().map(|xml| filter(xml)));
    world.state = change.unwrap().next;
    let told: Vec<_> =
        faults.iter().map(|fault| (fault.filter.as_str(), fault.why.message.as_str())).collect();
    let same_uuid = "operation failed: filter with same UUID but different name ('a') already exists";
    assert_eq!(told, [("l2", "operation failed: filter would introduce a loop"), ("thief", same_uuid)]);
    let names: Vec<_> = world.state.firewall().filters().keys().cloned().collect();
    assert_eq!(names, ["a", "kept", "l1", "new"]);
    assert_ne!(world.program(5), before);

    let (change, _) = world.state.reload([needy("a"), guard("new", 1)].iter().map(|xml| filter(xml)));
    assert!(change.unwrap_err().message.contains("vnet0: "), "all that changed, or nothing");
}
