//! Filters: what can be defined, redefined and undefined, what clients hear, and what is written.

use crate::world::*;
use nwfilter::engine::api::{Reply, Request};
use nwfilter::engine::error::ErrorNumber;
use nwfilter::engine::{State, Write};
use uuid::Uuid;

/// That a refusal has this code and text, and that nothing has changed.
fn check_refused(
    world: &mut World,
    ask: impl FnOnce(&mut World) -> (i32, String),
    code: ErrorNumber,
    text: &str,
) {
    let before = world.state.clone();
    assert_eq!(ask(world), (code as i32, text.to_owned()));
    assert!(is_same(&before, &world.state), "a refusal of {text:?} changed something");
}

fn is_same(a: &State, b: &State) -> bool {
    a.firewall().ruleset() == b.firewall().ruleset()
        && a.firewall().filters().keys().eq(b.firewall().filters().keys())
        && a.bindings().keys().eq(b.bindings().keys())
}

fn refused<T: std::fmt::Debug>(answer: Result<T, nwfilter::engine::error::Error>) -> (i32, String) {
    let error = answer.unwrap_err();
    (error.code as i32, error.message)
}

#[test]
fn name_and_uuid_belong_together_and_cycles_are_refused() {
    let named = |name: &str, id: &str| format!("<filter name='{name}'><uuid>{}</uuid></filter>", uuid(id));
    let mut world = World::new(&[guard("a", 0), tree("b", &["a"]), tree("c", &["b", "missing"])]);
    let failed = |text: &str| (ErrorNumber::OperationFailed, format!("operation failed: {text}"));
    let cases = [
        (named("x", "a"), failed("filter with same UUID but different name ('a') already exists")),
        (named("a", "x"), failed(&format!("filter 'a' already exists with uuid {}", uuid("a")))),
        ("<filter name='a'/>".into(), failed(&format!("filter 'a' already exists with uuid {}", uuid("a")))),
        (named("b", "a"), failed("filter with same UUID but different name ('a') already exists")),
        (tree("a", &["a"]), failed("filter would introduce a loop")),
        (tree("a", &["c"]), failed("filter would introduce a loop")),
        (tree("missing", &["c"]), failed("filter would introduce a loop")),
        (tree("new", &["new"]), failed("filter would introduce a loop")),
        (
            "<x/>".into(),
            (ErrorNumber::XmlError, "XML error: expecting root element of 'filter', not 'x'".into()),
        ),
    ];
    for (xml, (code, text)) in cases {
        check_refused(&mut world, |world| refused(world.define(&xml)), code, &text);
    }
}

#[test]
fn who_asks_for_what_is_not_there_hears_so() {
    let mut world = World::new(&[guard("a", 0)]);
    let no = |what: String| {
        (ErrorNumber::NoFilter, format!("Network filter not found: no nwfilter with matching {what}"))
    };
    let binding = "Network filter binding not found: no nwfilter binding for port dev 'vnet0'";
    let id = uuid("x");
    let port = || "vnet0".to_owned();
    let cases = [
        (Request::LookupFilterByName { name: "x".into() }, no("name 'x'".into())),
        (Request::LookupFilterByUuid { uuid: id }, no(format!("uuid '{id}'"))),
        (Request::FilterXml { uuid: id, flags: 0 }, no(format!("uuid '{id}'"))),
        (Request::UndefineFilter { uuid: id }, no(format!("uuid '{id}'"))),
        (Request::LookupBinding { portdev: port() }, (ErrorNumber::NoBinding, binding.into())),
        (Request::BindingXml { portdev: port(), flags: 0 }, (ErrorNumber::NoBinding, binding.into())),
        (Request::DeleteBinding { portdev: port() }, (ErrorNumber::NoBinding, binding.into())),
        (Request::Remove { portdev: port() }, (ErrorNumber::NoBinding, binding.into())),
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
fn a_redefinition_reaches_the_filters_users_alone() {
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
fn a_member_that_cannot_take_a_redefinition_is_named() {
    let mut world = World::new(&[guard("a", 0), tree("b", &["a"])]);
    for index in 1..4 {
        world.appears(&tap(index, &format!("vnet{index}")));
    }
    world.create("vnet1", "a").unwrap();
    world.create("vnet2", "b").unwrap();
    let before = world.state.clone();
    let (code, text) = refused(world.define(&needy("a")));
    assert_eq!(code, ErrorNumber::InternalError as i32);
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
        check_refused(
            &mut world,
            |world| refused(world.undefine(name)),
            ErrorNumber::OperationInvalid,
            in_use,
        );
    }
    // A closed port still has its binding.
    world.define(&needy("c")).unwrap();
    world.appears(&tap(6, "later"));
    assert!(world.state.blocked("later").is_some());
    check_refused(&mut world, |world| refused(world.undefine("c")), ErrorNumber::OperationInvalid, in_use);
    // Only references are left to it: those may dangle, as in libvirt.
    world.delete("vnet0").unwrap();
    world.time(GRACE);
    assert!(matches!(&world.undefine("a").unwrap().writes[..], [Write::DeleteFilter(name)] if name == "a"));
    assert_eq!(refused(world.create("vnet0", "b")).1, "internal error: referenced filter 'a' is missing");
    world.undefine("d").unwrap();
}

#[test]
fn a_deleted_binding_in_its_grace_hinders_no_change() {
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
fn a_redefinition_opens_the_ports_its_fault_had_closed() {
    let mut world = World::new(&[guard("a", 0)]);
    world.create("vnet0", "a").unwrap();
    world.define(&needy("a")).unwrap();
    world.appears(&tap(5, "vnet0"));
    assert!(world.state.blocked("vnet0").unwrap().contains("OTHER"));
    world.define(&guard("other", 0)).unwrap();
    assert!(world.state.blocked("vnet0").is_some());
    world.define(&guard("a", 1)).unwrap();
    assert_eq!(world.state.blocked("vnet0"), None);
    assert!(world.program(5).unwrap().starts_with("a/"));
}

#[test]
fn a_reload_takes_sound_files_and_reports_the_rest() {
    let mut world = World::new(&[guard("a", 0), guard("kept", 0)]);
    world.appears(&tap(5, "vnet0"));
    world.create("vnet0", "a").unwrap();
    let before = world.program(5);
    let stolen = guard("thief", 0).replace(&uuid("thief").to_string(), &uuid("a").to_string());
    let files = [guard("a", 1), tree("l1", &["l2"]), tree("l2", &["l1"]), guard("new", 0), stolen];
    let (change, faults) = world.state.reload(files.iter().map(|xml| filter(xml)));
    world.state = change.next;
    let mut reported: Vec<_> =
        faults.iter().map(|fault| (fault.filter.as_str(), fault.why.message.as_str())).collect();
    reported.sort();
    let same_uuid = "operation failed: filter with same UUID but different name ('a') already exists";
    assert_eq!(reported, [("l2", "operation failed: filter would introduce a loop"), ("thief", same_uuid)]);
    let names: Vec<_> = world.state.firewall().filters().keys().cloned().collect();
    assert_eq!(names, ["a", "kept", "l1", "new"]);
    assert_ne!(world.program(5), before);

    let (kept, new) = (world.program(5), world.state.firewall().filter("new").cloned());
    let (change, faults) = world.state.reload([needy("a"), guard("new", 1)].iter().map(|xml| filter(xml)));
    world.state = change.next;
    assert_eq!(faults.len(), 1);
    assert!(faults[0].filter == "a" && faults[0].why.message.contains("vnet0: "), "{faults:?}");
    assert_eq!(world.program(5), kept, "the old one stays in force");
    assert_ne!(world.state.firewall().filter("new").cloned(), new, "all others are taken");
}

#[test]
fn of_many_filters_a_reload_takes_all_that_can_be_had() {
    let names: Vec<String> = (0..9).map(|number| format!("f{number}")).collect();
    let mut world = World::new(&names.iter().map(|name| guard(name, 0)).collect::<Vec<_>>());
    for (number, name) in (10..).zip(&names) {
        world.appears(&tap(number, &format!("p{name}")));
        world.create(&format!("p{name}"), name).unwrap();
    }
    for bad in [vec![0], vec![8], vec![4], vec![0, 1, 2, 3, 4, 5, 6, 7, 8], vec![1, 6]] {
        let document = |(number, name): (usize, &String)| match bad.contains(&number) {
            true => needy(name),
            false => guard(name, 1 + bad[0] as u8),
        };
        let files: Vec<String> = names.iter().enumerate().map(document).collect();
        let (change, faults) = world.state.reload(files.iter().map(|xml| filter(xml)));
        let reported: Vec<usize> =
            faults.iter().map(|fault| names.iter().position(|name| *name == fault.filter).unwrap()).collect();
        assert_eq!(reported, bad);
        for (number, text) in files.iter().enumerate() {
            let is_new = change.next.firewall().filter(&names[number]).unwrap().source.text == *text;
            assert_eq!(is_new, !bad.contains(&number), "{number} of {bad:?}");
        }
    }
}

#[test]
fn a_reload_takes_related_filters_beside_a_refused_one() {
    let mut world = World::new(&[tree("a", &["z"]), guard("z", 0), guard("m", 0)]);
    for (number, port, root) in [(5, "vnet0", "a"), (6, "vnet1", "m")] {
        world.appears(&tap(number, port));
        world.create(port, root).unwrap();
    }
    // What z needs, a gives: the first alone is refused, and so is the other beside it.
    let given = tree("a", &["z"]).replace(
        "<filterref filter='z'/>",
        "<filterref filter='z'><parameter name='OTHER' value='52:54:00:00:00:09'/></filterref>",
    );
    let files = [needy("m"), needy("z"), given];
    let (change, faults) = world.state.reload(files.iter().map(|xml| filter(xml)));
    let reported: Vec<&str> = faults.iter().map(|fault| fault.filter.as_str()).collect();
    assert_eq!(reported, ["m"]);
    assert!(change.next.firewall().filter("z").unwrap().source.text.contains("$OTHER"));
}

fn named(documents: &[(&str, &str)]) -> Request {
    let own = |(name, text): &(&str, &str)| (name.to_string(), text.to_string());
    Request::Define { documents: documents.iter().map(own).collect() }
}

#[test]
fn a_filter_defined_by_name_keeps_its_uuid() {
    use nwfilter::engine::named::{Defined, Outcome};
    let mut world = World::new(&[guard("a", 0), tree("uses", &["a"])]);
    for number in 5..8 {
        world.appears(&tap(number, &format!("vnet{number}")));
        world.create(&format!("vnet{number}"), "uses").unwrap();
    }
    let known = world.state.firewall().filter("a").unwrap().uuid;
    let without = |text: String| text.replace(&format!("<uuid>{}</uuid>", uuid("a")), "");
    let mut define = |documents: &[(&str, &str)]| -> Vec<Defined> {
        match world.ask(named(documents)).unwrap().reply {
            Reply::Json(json) => serde_json::from_str(&json).unwrap(),
            other => panic!("{other:?}"),
        }
    };
    let users: Vec<String> = (5..8).map(|number| format!("vnet{number}")).collect();
    let of = |filter: &str, outcome, users: &[String]| Defined {
        filter: filter.into(),
        outcome,
        users: users.into(),
    };
    let second = without(guard("a", 1));
    assert_eq!(define(&[("a.xml", &second)]), [of("a", Outcome::Redefined, &users)]);
    assert_eq!(define(&[("a.xml", &second)]), [of("a", Outcome::Unchanged, &users)]);
    let another = second.replacen("<rule", &format!("<uuid>{}</uuid><rule", uuid("zzz")), 1);
    let another = another.replacen(&format!("<uuid>{}</uuid>", uuid("zzz")), "", 1);
    assert_eq!(define(&[("copy.xml", &another)])[0].filter, "a");
    let (top, part) = (tree("top", &["part"]), guard("part", 0));
    let both = define(&[("top.xml", &top), ("part.xml", &part)]);
    assert_eq!(both, [of("top", Outcome::Defined, &[]), of("part", Outcome::Defined, &[])]);
    assert_eq!(world.state.firewall().filter("a").unwrap().uuid, known);
}

#[test]
fn a_calls_documents_are_all_defined_or_every_fault_named() {
    let mut world = World::new(&[guard("a", 0)]);
    world.appears(&tap(5, "vnet0"));
    world.create("vnet0", "a").unwrap();
    let good = guard("good", 0);
    let bad = "<filter name='bad'>\n<rule action='dorp' direction='out'/>\n<rule action='drop'/></filter>";
    let thief = guard("thief", 0).replace(&uuid("thief").to_string(), &uuid("a").to_string());
    let cases = [
        (vec![("good.xml", good.as_str()), ("bad.xml", bad)], vec!["bad.xml:2:", "bad.xml:3:"]),
        (vec![("good.xml", &good), ("again.xml", &good)], vec!["again.xml:1:1", "given twice"]),
        (vec![("good.xml", &good), ("thief.xml", &thief)], vec!["thief.xml:", "same UUID"]),
        (
            vec![("good.xml", &good), ("top.xml", "<filter name='top'><filterref filter='gone'/></filter>")],
            vec!["top.xml:1:", "gone", "define that filter first"],
        ),
        (
            vec![("good.xml", &good), ("self.xml", "<filter name='s'><filterref filter='s'/></filter>")],
            vec!["self.xml:", "loop"],
        ),
    ];
    for (documents, words) in cases {
        let error = world.ask(named(&documents)).unwrap_err();
        let reported: Vec<String> = error.faults.iter().map(|fault| fault.line()).collect();
        words.iter().for_each(|word| {
            assert!(reported.iter().any(|line| line.contains(word)), "{word}: {reported:?}")
        });
        assert_eq!(world.state.firewall().filters().len(), 1);
    }
    let needs = needy("a");
    let error = world.ask(named(&[("good.xml", &good), ("a.xml", &needs)])).unwrap_err();
    assert!(error.message.contains("vnet0: ") && error.faults[0].message.starts_with("vnet0: "), "{error:?}");
    assert_eq!(world.state.firewall().filters().len(), 1);
}

#[test]
fn a_filter_in_use_names_its_users() {
    let mut world = World::new(&[guard("a", 0), guard("idle", 0)]);
    for number in 1..8 {
        world.create(&format!("vnet{number}"), "a").unwrap();
    }
    let mut undefine = |name: &str| world.ask(Request::Undefine { name: name.into() });
    let error = undefine("a").unwrap_err();
    assert!(error.message.contains("vnet1, vnet2, vnet3, vnet4, vnet5 and 2 more"), "{error}");
    let error = undefine("idel").unwrap_err();
    assert_eq!(error.faults[0].help.as_deref(), Some("did you mean 'idle'?"));
    undefine("idle").unwrap();
    assert!(world.state.firewall().filter("idle").is_none());
}
