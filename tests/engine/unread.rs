//! What libvirt ignores: kept where libvirt's clients define it, refused where it would be bound, reported in any case.

use crate::world::*;
use nwfilter::document::binding;
use nwfilter::document::span::Source;
use nwfilter::engine::Write;
use nwfilter::engine::api::Request;
use nwfilter::engine::error::ErrorNumber;

fn document(name: &str, rule: &str) -> String {
    format!(
        "<filter name='{name}'><uuid>{}</uuid><rule action='accept' direction='in'>{rule}</rule></filter>",
        uuid(name)
    )
}

fn with_params(port: &str, filter: &str, params: &[(&str, &str)]) -> String {
    let params: String =
        params.iter().map(|(name, value)| format!("<parameter name='{name}' value='{value}'/>")).collect();
    let reference = format!("<filterref filter='{filter}'>{params}</filterref>");
    bind(port, filter).replace(&format!("<filterref filter='{filter}'/>"), &reference)
}

/// A filter that reads one variable.
fn reader(name: &str, variable: &str) -> String {
    document(name, &format!("<ip dstipaddr='${variable}'/>"))
}

#[test]
fn a_document_that_loses_meaning_is_kept_and_not_bound() {
    for rule in [
        "<tcp dport='80'/>",
        "<gre/>",
        "<tcp/><udp/>",
        "<ip dstipaddr='10.0.0.1'/><ip dstipaddr='10.0.0.2'/>",
        "<tcp match='NO' dstportstart='80'/>",
    ] {
        let mut world = World::new(&[]);
        world.appears(&tap(5, "vnet0"));
        let defined = world.define(&document("odd", rule)).unwrap();
        let [reported, ..] = &defined.notices[..] else { panic!("{rule}: nothing is reported") };
        assert!(reported.message.starts_with("no interface can be bound to filter 'odd': "), "{reported}");
        let refused = world.create("vnet0", "odd").unwrap_err();
        assert_eq!(refused.code, ErrorNumber::InternalError);
        assert!(refused.message.contains("filter 'odd' would mean more than it says"), "{}", refused.message);
        // What refers to it is not bound either.
        world.define(&tree("over", &["odd"])).unwrap();
        assert!(world.create("vnet0", "over").is_err());
        // A filter that is in use does not become such a one.
        world.define(&document("odd", "<tcp dstportstart='80'/>")).unwrap();
        world.create("vnet0", "over").unwrap();
        let refused = world.define(&document("odd", rule)).unwrap_err();
        assert!(refused.message.contains("vnet0"), "{}", refused.message);
    }
}

/// A parameter of a reference that cannot be read is missed only where a rule reads it.
#[test]
fn a_dropped_reference_parameter_is_refused_if_it_is_read() {
    let over = |name: &str, variable: &str| {
        tree(name, &["dst"]).replace(
            "<filterref filter='dst'/>",
            &format!(
                "<filterref filter='dst'><parameter name='{variable}' value='10.0.0.1/32'/></filterref>"
            ),
        )
    };
    let mut world = World::new(&[reader("dst", "IP")]);
    world.appears(&tap(5, "vnet0"));
    for (name, variable, taken) in [("reads", "IP", false), ("spares", "ROUTER", true)] {
        let reported = world.define(&over(name, variable)).unwrap().notices;
        assert!(
            reported
                .iter()
                .any(|reported| reported.message == format!("the parameter '{variable}' is ignored"))
        );
        let xml = with_params("vnet0", name, &[("IP", "10.0.0.1")]);
        let answer = world.ask(Request::CreateBinding { xml, flags: 0 });
        assert_eq!(answer.is_ok(), taken, "{answer:?}");
    }
}

#[test]
fn a_file_that_means_less_than_it_says_is_not_read_again() {
    let mut world = World::new(&[document("web", "<tcp dstportstart='80'/>"), guard("other", 0)]);
    world.appears(&tap(5, "vnet0"));
    world.create("vnet0", "web").unwrap();
    let before = world.state.firewall().ruleset();
    let files = [filter(&document("web", "<tcp dstport='80'/>")), filter(&guard("other", 1))];
    let (change, faults) = world.state.reload(files);
    let next = change.next;
    let [fault] = &faults[..] else { panic!("{faults:?}") };
    assert_eq!(fault.filter, "web");
    assert!(fault.why.message.contains("attribute 'dstport' of <tcp> is unknown"), "{}", fault.why.message);
    assert_eq!(next.firewall().ruleset(), before);
    // The same words as before but for what no rule enforces are another document.
    let same = filter(&document("web", "<tcp dstportstart='80' x='1'/>"));
    assert_eq!(world.state.reload([same]).1.len(), 1);
}

#[test]
fn what_a_client_had_kept_is_found_again_in_its_file() {
    let mut world = World::new(&[]);
    let change = world.define(&document("odd", "<tcp dport='80'/>")).unwrap();
    let [Write::SaveFilter(_, text)] = &change.writes[..] else { panic!("{:?}", change.writes) };
    assert_eq!(filter(text).unenforced.len(), 1, "{text}");
}

#[test]
fn an_unread_variable_is_reported_or_refused() {
    let mut world = World::new(&[reader("dst", "IP"), reader("net", "NET")]);
    world.appears(&tap(5, "vnet0"));
    let create = |world: &mut World, filter: &str, params: &[(&str, &str)]| {
        world.ask(Request::CreateBinding { xml: with_params("vnet0", filter, params), flags: 0 })
    };
    let apply = |world: &mut World, filter: &str, params: &[(&str, &str)]| {
        world.ask(Request::Apply { xml: with_params("vnet0", filter, params) })
    };
    // libvirt's clients give every guest what some filters need.
    let spare = [("NET", "10.0.0.0"), ("PROJECT", "7")];
    let reported = create(&mut world, "net", &spare).unwrap().notices;
    assert!(
        reported.iter().any(|reported| reported
            .message
            .contains("no rule of filter 'net' reads the variable 'PROJECT'"))
    );
    let refused = apply(&mut world, "net", &spare).unwrap_err();
    assert!(refused.message.contains("reads the variable 'PROJECT'"), "{}", refused.message);
    apply(&mut world, "net", &spare[..1]).unwrap();
    world.delete("vnet0").unwrap();
    // An address under another name would be learned instead.
    for name in ["ip", "Ip", "IPS"] {
        let refused = create(&mut world, "dst", &[(name, "10.0.0.1")]).unwrap_err();
        assert!(refused.message.contains(&format!("reads the variable '{name}'")), "{}", refused.message);
    }
    // So would one that cannot be read.
    for value in ["10.0.0.5/24", "10.0.0.5,10.0.0.6", "10.0.0.5-10.0.0.9", "10.0.0.5 "] {
        for answer in
            [create(&mut world, "dst", &[("IP", value)]), apply(&mut world, "dst", &[("IP", value)])]
        {
            let refused = answer.unwrap_err();
            assert!(refused.message.contains("the parameter 'IP' is ignored"), "{}", refused.message);
            assert!(refused.message.contains("(binding:1:"), "{}", refused.message);
        }
    }
    // One of several as well: the list is shorter than it was written.
    create(&mut world, "dst", &[("IP", "10.0.0.5"), ("IP", "10.0.0.6/32")]).unwrap_err();
    create(&mut world, "dst", &[("IP", "10.0.0.5"), ("X", "a/b")]).unwrap();
}

#[test]
fn misplaced_or_invalid_control_variables_are_refused() {
    let reference = |params: &str| {
        format!(
            "<filter name='top'><uuid>{}</uuid><filterref filter='dst'>{params}</filterref></filter>",
            uuid("top")
        )
    };
    let mode = |value: &str| format!("<parameter name='CTRL_IP_LEARNING' value='{value}'/>");
    let mut world = World::new(&[reader("dst", "IP"), reference(&mode("none"))]);
    world.appears(&tap(5, "vnet0"));
    let mut create = |params: &[(&str, &str)]| {
        world.ask(Request::CreateBinding { xml: with_params("vnet0", "top", params), flags: 0 })
    };
    let refused = create(&[]).unwrap_err();
    assert!(refused.message.contains("'CTRL_IP_LEARNING' has no effect in a filter"), "{}", refused.message);
    let refused = create(&[("CTRL_IP_LEARNING", "off")]).unwrap_err();
    assert!(refused.message.contains("filter 'top' learning value 'off' invalid."), "{}", refused.message);
    assert_eq!(refused.code, ErrorNumber::ParseFailed);
    // Where an address is given, nothing depends on it.
    let reported = create(&[("IP", "10.0.0.1")]).unwrap().notices;
    assert!(
        reported.iter().any(|reported| reported.message.contains("has no effect in a filter")),
        "{reported:?}"
    );
}

#[test]
fn open_end_and_silent_reject_warn_at_define_and_first_bind() {
    let open = format!(
        "<filter name='open' chain='ipv4'><uuid>{}</uuid><rule action='accept' direction='out'>\
         <ip dstipaddr='10.0.0.1'/></rule></filter>",
        uuid("open")
    );
    let over = tree("over", &["open"]).replace(
        "</filter>",
        "<rule action='drop' direction='inout' priority='900'/><rule action='reject' direction='in'>\
         <tcp dstportstart='25' state='NEW'/></rule></filter>",
    );
    let mut world = World::new(&[open]);
    world.appears(&tap(5, "vnet0"));
    world.appears(&tap(6, "vnet1"));
    let says = |reported: &[nwfilter::document::diag::Diagnostic]| {
        let text: Vec<&str> = reported.iter().map(|reported| reported.message.as_str()).collect();
        (
            text.iter().any(|text| text.contains("chain 'ipv4' of filter 'over' has an open end")),
            text.iter().any(|text| text.contains("cannot be answered")),
        )
    };
    assert_eq!(says(&world.define(&over).unwrap().notices), (true, true));
    assert_eq!(says(&world.create("vnet0", "over").unwrap().notices), (true, true));
    assert_eq!(says(&world.create("vnet1", "over").unwrap().notices), (false, false));
}

#[test]
fn a_binding_knows_where_its_parameters_stand() {
    let text = with_params("vnet0", "x", &[("A", "1"), ("B", "a/b")]);
    let (read, reported) = binding::read(&Source::new("b", text.as_str())).unwrap();
    assert_eq!(&text[read.spans["A"].range()], "1");
    assert_eq!(read.dropped.len(), 1);
    assert_eq!(reported.len(), 1);
}

/// However many parameters come to nothing, few are reported, and soon.
#[test]
fn many_unread_parameters_cost_little() {
    let rules: String = (0..8_000)
        .map(|at| format!("<rule action='accept' direction='in'><ip dstipaddr='$V{at}'/></rule>"))
        .collect();
    let wide = format!("<filter name='wide'><uuid>{}</uuid>{rules}</filter>", uuid("wide"));
    let params: String =
        (0..20_000).map(|at| format!("<parameter name='W{at}' value='1'/>")).collect::<Vec<_>>().concat();
    let over = tree("over", &["wide"])
        .replace("<filterref filter='wide'/>", &format!("<filterref filter='wide'>{params}</filterref>"));
    let mut world = World::new(&[wide, over]);
    world.appears(&tap(5, "vnet0"));
    let given: Vec<(String, String)> = (0..8_000)
        .map(|at| (format!("V{at}"), "10.0.0.1".to_owned()))
        .chain((0..8_000).map(|at| (format!("X{at}"), "1".to_owned())))
        .collect();
    let given: Vec<(&str, &str)> = given.iter().map(|(name, value)| (&**name, &**value)).collect();
    let began = std::time::Instant::now();
    let refused = world.ask(Request::Apply { xml: with_params("vnet0", "over", &given) }).unwrap_err();
    assert!(began.elapsed() < std::time::Duration::from_secs(20), "{:?}", began.elapsed());
    assert!(refused.message.len() < 4096 && refused.faults.len() <= 64, "{}", refused.message);
}

#[test]
fn a_mac_address_not_the_guests_is_reported_or_refused() {
    let mut world = World::new(&[reader("mac", "MAC")]);
    world.appears(&tap(5, "vnet0"));
    let own = with_params("vnet0", "mac", &[]);
    let mac = &own[own.find("address='").unwrap() + 9..][..17];
    let mut reported = |macs: &[&str]| {
        let params: Vec<(&str, &str)> = macs.iter().map(|mac| ("MAC", *mac)).collect();
        let xml = with_params("vnet0", "mac", &params);
        world.ask(Request::Apply { xml }).map_err(|error| error.message)
    };
    let refused = reported(&["52:54:00:99:99:99"]).unwrap_err();
    assert!(refused.contains("'MAC' is 52:54:00:99:99:99") && refused.contains(mac), "{refused}");
    for macs in [&[mac][..], &["52:54:00:99:99:99", mac], &[]] {
        let answer = reported(macs);
        assert!(!answer.as_ref().is_err_and(|why| why.contains("'MAC' is")), "{answer:?}");
    }
}
