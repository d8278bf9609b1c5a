//! Guests whose addresses are found out, through the engine alone.

use crate::world::*;
use nwfilter::document::binding::{self, Binding};
use nwfilter::document::mac::Mac;
use nwfilter::document::span::Source;
use nwfilter::engine::api::{Reply, Request};
use nwfilter::engine::error::Error;
use nwfilter::engine::{Change, Records, State, Write};
use nwfilter::guest::frame::dhcp::{Dhcp, DhcpMessageType};
use nwfilter::guest::frame::{SightedFrame, Sighting};
use nwfilter::guest::learning::filters;
use nwfilter::guest::lease::file;
use nwfilter::guest::link::Link;
use nwfilter::guest::link::LinkEvent::{Appeared, Changed, Gone};
use nwfilter::guest::observation::Observation;
use nwfilter::program::compile::Capabilities;
use nwfilter::ruleset::firewall::{Firewall, Policy, Rules};
use std::net::Ipv4Addr;
use std::time::Duration;

const GUEST: Mac = Mac([0x52, 0x54, 0, 0, 0, 1]);
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const OTHER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 254);

/// Lets out only what has the guest's address.
pub fn honest(extra: &str) -> String {
    format!(
        "<filter name='honest'><uuid>{}</uuid><rule action='drop' direction='out'>\
         <ip match='no' srcipaddr='$IP'/></rule>{extra}</filter>",
        uuid("honest")
    )
}

const NEEDY: &str = "<rule action='drop' direction='out'><mac srcmacaddr='$OTHER'/></rule>";

pub fn with_params(port: &str, params: &[(&str, &str)]) -> String {
    let params: String =
        params.iter().map(|(name, value)| format!("<parameter name='{name}' value='{value}'/>")).collect();
    bind(port, "honest").replace("filter='honest'/>", &format!("filter='honest'>{params}</filterref>"))
}

fn create(world: &mut World, params: &[(&str, &str)]) -> Result<(), Error> {
    world.ask(Request::CreateBinding { xml: with_params("vnet0", params), flags: 0 }).map(drop)
}

/// A guest at link 7, bound and learning.
fn learning(params: &[(&str, &str)]) -> World {
    let mut world = World::new(&[honest("")]);
    world.link(Appeared(tap(7, "vnet0")));
    create(&mut world, params).unwrap();
    world
}

fn rules(world: &World, index: u32) -> (String, Vec<String>) {
    let member = &world.state.firewall().members()[&index];
    let filter = match &member.rules {
        Rules::Filter(filter) => filter.clone(),
        Rules::Blocked => "closed".into(),
    };
    (filter, member.vars.values("IP").unwrap_or_default().to_vec())
}

fn waits(filter: &str) -> (String, Vec<String>) {
    (filter.into(), Vec::new())
}

fn has(addresses: &[Ipv4Addr]) -> (String, Vec<String>) {
    ("honest".into(), addresses.iter().map(ToString::to_string).collect())
}

/// The lines that are written.
fn hear(world: &mut World, guest: u32, source: Mac, sighting: Sighting) -> String {
    let reported = Observation {
        guest,
        frame: SightedFrame { source, destination: Mac::BROADCAST, tagged: false, sighting },
    };
    let Some((_, change)) = world.state.observe(&reported, world.now) else { return String::new() };
    let lines = change.next.journal_lines(&world.state);
    world.state = change.next;
    lines
}

pub fn arp(world: &mut World, guest: u32, address: Ipv4Addr) -> String {
    hear(world, guest, GUEST, Sighting::Arp { mac: GUEST, address })
}

fn dhcp(kind: DhcpMessageType, address: Ipv4Addr, lease: Option<u32>) -> Sighting {
    Sighting::Dhcp(Dhcp {
        kind,
        source: SERVER,
        transaction: 1,
        client: GUEST,
        client_address: address,
        your_address: address,
        relay: Ipv4Addr::UNSPECIFIED,
        requested: Some(address),
        server: Some(SERVER),
        lease,
    })
}

fn ack(world: &mut World, address: Ipv4Addr, lease: u32) -> String {
    ack_of(world, 7, SERVER, address, lease)
}

/// A server's lease.
pub fn ack_of(world: &mut World, guest: u32, server: Ipv4Addr, address: Ipv4Addr, lease: u32) -> String {
    let Sighting::Dhcp(acked) = dhcp(DhcpMessageType::Ack, address, Some(lease)) else { unreachable!() };
    hear(world, guest, Mac([2; 6]), Sighting::Dhcp(Dhcp { source: server, server: Some(server), ..acked }))
}

pub const DHCP: &[(&str, &str)] = &[("CTRL_IP_LEARNING", "dhcp")];

#[test]
fn only_a_missing_address_is_learned() {
    for (params, expected) in [
        (&[][..], Ok(waits(filters::ANY))),
        (&[("IP", "10.0.0.1")], Ok(has(&[ADDRESS]))),
        (DHCP, Ok(waits(filters::DHCP))),
        (
            &[("CTRL_IP_LEARNING", "DHCP"), ("DHCPSERVER", "10.0.0.254")],
            Ok(waits(filters::DHCP_FROM_SERVERS)),
        ),
        (&[("CTRL_IP_LEARNING", "none")], Err("list elements: IP")),
        (
            &[("CTRL_IP_LEARNING", "some")],
            Err("failed to parse configuration file filter 'honest' learning value 'some' invalid."),
        ),
    ] {
        let mut world = World::new(&[honest("")]);
        world.link(Appeared(tap(7, "vnet0")));
        match (create(&mut world, params), expected) {
            (Ok(()), Ok(expected)) => assert_eq!(rules(&world, 7), expected, "{params:?}"),
            (Err(error), Err(expected)) => assert!(error.message.contains(expected), "{error:?}"),
            (found, expected) => panic!("{params:?}: {found:?}, not {expected:?}"),
        }
    }
}

#[test]
fn any_other_missing_variable_refuses_and_all_are_named() {
    let mut world = World::new(&[honest(NEEDY)]);
    world.link(Appeared(tap(7, "vnet0")));
    let error = create(&mut world, &[]).unwrap_err();
    assert!(error.message.ends_with("IP, OTHER"), "{error:?}");
    assert!(world.state.bindings().is_empty());
}

#[test]
fn an_address_brings_its_filter_and_is_written_down() {
    let mut world = learning(&[]);
    assert_eq!(world.state.posts().len(), 1);
    let line = arp(&mut world, 7, ADDRESS);
    assert!(line.contains(" 10.0.0.1 0.0.0.0 arp ") && line.ends_with(" 7\n"), "{line}");
    assert_eq!(rules(&world, 7), has(&[ADDRESS]));
    assert!(world.state.posts().is_empty());
    assert_eq!(arp(&mut world, 7, OTHER), "");
    assert_eq!(rules(&world, 7), has(&[ADDRESS]));
}

#[test]
fn a_guest_waits_again_after_its_last_lease() {
    let mut world = learning(DHCP);
    ack(&mut world, ADDRESS, 60);
    ack(&mut world, OTHER, 90);
    assert_eq!(rules(&world, 7), has(&[ADDRESS, OTHER]));
    assert_eq!(world.state.deadline(), Some(Duration::from_secs(60)));
    world.state = world.state.expire(Duration::from_secs(60)).next;
    assert_eq!(rules(&world, 7), has(&[OTHER]));
    let lines = hear(&mut world, 7, GUEST, dhcp(DhcpMessageType::Release, OTHER, None));
    assert!(lines.starts_with("0 "), "{lines}");
    assert_eq!(rules(&world, 7), waits(filters::DHCP));
    assert_eq!(world.state.posts().len(), 1);
}

#[test]
fn a_question_changes_no_rule_and_its_refusal_ends_the_lease() {
    let mut world = learning(DHCP);
    ack(&mut world, ADDRESS, 60);
    let before = world.state.firewall().ruleset();
    let question = dhcp(DhcpMessageType::Request, ADDRESS, None);
    assert_eq!(hear(&mut world, 7, GUEST, question), "");
    assert_eq!(world.state.firewall().ruleset(), before);
    let refusal = dhcp(DhcpMessageType::Nak, Ipv4Addr::UNSPECIFIED, None);
    let lines = hear(&mut world, 7, Mac([2; 6]), refusal);
    assert!(lines.starts_with("0 "), "{lines}");
    assert_eq!(rules(&world, 7), waits(filters::DHCP));
}

#[test]
fn an_end_of_an_address_that_fails_is_retried_later() {
    let mut world = learning(DHCP);
    ack(&mut world, ADDRESS, 60);
    let later = Duration::from_secs(70);
    assert_eq!(world.state.put_off(Duration::from_secs(60), later).deadline(), Some(later));
}

#[test]
fn a_reused_name_gets_no_address_of_another() {
    for params in [&[][..], DHCP] {
        let mut world = learning(params);
        if params.is_empty() {
            arp(&mut world, 7, ADDRESS)
        } else {
            ack(&mut world, ADDRESS, 60)
        };
        world.delete("vnet0").unwrap();
        world.link(Gone(tap(7, "vnet0")));
        world.link(Appeared(tap(8, "vnet0")));
        let another = with_params("vnet0", params).replace("52:54:00:00:00:01", "52:54:00:00:00:02");
        world.ask(Request::CreateBinding { xml: another, flags: 0 }).unwrap();
        assert!(rules(&world, 8).0.starts_with("learning/"));
        // What the first guest's ear still had to tell.
        assert_eq!(arp(&mut world, 7, OTHER), "");
        assert_eq!(arp(&mut world, 8, OTHER), "");
        assert!(rules(&world, 8).0.starts_with("learning/"));
    }
}

#[test]
fn a_returning_guest_gets_its_lease_and_learns_again() {
    for (params, back) in [(&[][..], waits(filters::ANY)), (DHCP, has(&[ADDRESS]))] {
        let mut world = learning(params);
        if params.is_empty() {
            arp(&mut world, 7, ADDRESS)
        } else {
            ack(&mut world, ADDRESS, 60)
        };
        world.link(Gone(tap(7, "vnet0")));
        world.link(Appeared(tap(8, "vnet0")));
        assert_eq!(rules(&world, 8), back);
    }
}

#[test]
fn a_renamed_or_moved_link_keeps_what_is_known() {
    let mut world = learning(&[]);
    arp(&mut world, 7, ADDRESS);
    world.link(Appeared(bridge(2, "br0")));
    let moved = Link { master: Some(2), ..tap(7, "vnet0") };
    world.link(Changed { old: tap(7, "vnet0"), new: moved.clone() });
    assert_eq!(rules(&world, 7), has(&[ADDRESS]));
    world.link(Changed { old: moved, new: tap(7, "other") });
    assert_eq!(rules(&world, 7), has(&[ADDRESS]));
}

#[test]
fn a_deleted_binding_learns_no_more_in_its_grace() {
    let mut world = learning(DHCP);
    world.delete("vnet0").unwrap();
    assert_eq!(rules(&world, 7), waits(filters::DHCP));
    assert!(world.state.posts().is_empty());
    assert_eq!(ack(&mut world, ADDRESS, 60), "");
    world.state = world.state.expire(GRACE).next;
    assert!(world.state.firewall().members().is_empty());
}

#[test]
fn new_variables_for_a_learning_guest_are_refused_whole() {
    for known in [false, true] {
        let mut world = learning(&[]);
        if known {
            arp(&mut world, 7, ADDRESS);
        }
        let before = rules(&world, 7);
        let error = world.define(&honest(NEEDY)).unwrap_err();
        assert!(error.message.contains("vnet0") && error.message.contains("OTHER"), "{error:?}");
        assert_eq!(rules(&world, 7), before);
    }
}

/// Guests at links 7 and 8 that are filtered without an address; one of them has one.
fn filtered(fold_up_to: usize, params: &[(&str, &str)]) -> World {
    let mut world = World::with(policy(fold_up_to), &[guard("sub", 1), rooted()]);
    world.link(Appeared(tap(7, "vnet0")));
    world.link(Appeared(tap(8, "vnet1")));
    create(&mut world, params).unwrap();
    let with_address = with_params("vnet1", &[("IP", "10.0.0.2")]);
    world.ask(Request::CreateBinding { xml: with_address, flags: 0 }).unwrap();
    world
}

/// All that it does stands in another filter.
fn rooted() -> String {
    tree("honest", &["sub"])
}

fn renamed(xml: &str, name: &str) -> String {
    let old = uuid("honest").to_string();
    xml.replace("name='honest'", &format!("name='{name}'")).replace(&old, &uuid(name).to_string())
}

fn begin(world: &mut World) {
    world.define(&renamed(&honest(""), "sub")).unwrap();
}

#[test]
fn a_guest_that_now_learns_keeps_its_rules_until_then() {
    for fold_up_to in [0, 64] {
        for (params, learns) in [(&[][..], "arp"), (DHCP, "lease")] {
            let mut world = filtered(fold_up_to, params);
            let (before, of_other) = (world.program(7), world.program(8));
            begin(&mut world);
            assert_eq!(world.program(7), before, "{learns}, up to {fold_up_to}");
            assert_ne!(world.program(8), of_other, "others have the new meaning at once");
            assert_eq!(world.state.posts().keys().collect::<Vec<_>>(), [&7]);
            assert!(world.state.firewall().filters().keys().all(|name| !name.contains('/')));
            let lines =
                if params.is_empty() { arp(&mut world, 7, ADDRESS) } else { ack(&mut world, ADDRESS, 60) };
            assert!(lines.contains(learns), "{lines}");
            assert_eq!(rules(&world, 7), has(&[ADDRESS]));
            assert_ne!(world.program(7), before);
        }
    }
}

#[test]
fn a_lease_that_ends_brings_no_earlier_rules_back() {
    let mut world = filtered(64, DHCP);
    begin(&mut world);
    ack(&mut world, ADDRESS, 60);
    world.time(Duration::from_secs(60));
    assert_eq!(rules(&world, 7), waits(filters::DHCP));
}

#[test]
fn kept_rules_follow_no_later_definition_until_it_can_be_had() {
    let mut world = filtered(64, &[]);
    let before = world.program(7);
    begin(&mut world);
    // What they are made of can change, and even go.
    world.define(&honest("")).unwrap();
    world.undefine("sub").unwrap();
    world.define(&guard("sub", 5)).unwrap();
    assert_eq!(world.program(7), before);
    // A definition that needs no address ends it, and the next one that does begins with what was in force then.
    world.define(&guard("honest", 2)).unwrap();
    assert_eq!(rules(&world, 7), waits("honest"));
    assert!(world.state.posts().is_empty());
    let second = world.program(7);
    assert_ne!(second, before);
    world.define(&honest("")).unwrap();
    assert_eq!(world.program(7), second);
    assert_eq!(world.state.posts().len(), 1);
}

#[test]
fn kept_rules_go_with_the_link_and_follow_it_to_a_bridge() {
    let mut world = filtered(64, &[]);
    let before = world.program(7);
    begin(&mut world);
    world.link(Appeared(bridge(2, "br0")));
    let moved = Link { master: Some(2), ..tap(7, "vnet0") };
    world.link(Changed { old: tap(7, "vnet0"), new: moved.clone() });
    assert_eq!(world.program(7), before);
    world.link(Gone(moved));
    world.link(Appeared(tap(9, "vnet0")));
    assert_eq!(rules(&world, 9), waits(filters::ANY));
}

#[test]
fn a_replaced_binding_keeps_no_earlier_rule() {
    let mut world = filtered(64, &[]);
    begin(&mut world);
    let another = with_params("vnet0", &[]).replace("52:54:00:00:00:01", "52:54:00:00:00:02");
    world.ask(Request::Apply { xml: another }).unwrap();
    assert_eq!(rules(&world, 7), waits(filters::ANY));
}

#[test]
fn kept_rules_of_a_deleted_guest_serve_no_later_one() {
    let mut world = filtered(64, &[]);
    begin(&mut world);
    let kept = world.program(7);
    world.delete("vnet0").unwrap();
    world.define(&guard("sub", 2)).unwrap();
    world.link(Appeared(tap(9, "vnet9")));
    world.ask(Request::CreateBinding { xml: with_params("vnet9", &[]), flags: 0 }).unwrap();
    let second = world.program(9);
    begin(&mut world);
    assert_eq!((world.program(7), world.program(9)), (kept.clone(), second.clone()));
    assert_ne!(kept, second);
}

#[test]
fn a_redefinition_refused_for_one_guest_changes_none() {
    let mut world = filtered(64, &[("CTRL_IP_LEARNING", "none")]);
    let before = (world.program(7), world.program(8));
    let error = world.define(&renamed(&honest(""), "sub")).unwrap_err();
    assert!(error.message.contains("vnet0"), "{error:?}");
    assert_eq!((world.program(7), world.program(8)), before);
    assert!(world.state.posts().is_empty());
}

#[test]
fn what_a_guest_keeps_can_be_explained() {
    let mut world = filtered(64, &[]);
    let bound = |world: &mut World| match world.ask(Request::Bound { portdev: "vnet0".into() }).unwrap().reply
    {
        Reply::Json(json) => json,
        other => panic!("{other:?}"),
    };
    let before = bound(&mut world);
    begin(&mut world);
    assert_eq!(bound(&mut world), before);
    let json = bound(&mut learning(&[]));
    assert!(json.contains("<learning/any>"), "{json}");
}

#[test]
fn a_redefinition_without_the_address_ends_learning() {
    let mut world = learning(&[]);
    world.define(&guard("honest", 1)).unwrap();
    assert_eq!(rules(&world, 7), waits("honest"));
    assert!(world.state.posts().is_empty());
}

#[test]
fn a_redefinition_leaves_a_waiting_guest_waiting() {
    let mut world = learning(&[]);
    world.define(&honest("<rule action='drop' direction='in'><mac protocolid='0x9000'/></rule>")).unwrap();
    assert_eq!(rules(&world, 7), waits(filters::ANY));
    arp(&mut world, 7, ADDRESS);
    assert_eq!(rules(&world, 7), has(&[ADDRESS]));
}

#[test]
fn a_client_cannot_see_or_define_waiting_filters() {
    let mut world = learning(&[]);
    assert!(world.state.firewall().filters().keys().all(|name| !name.contains('/')));
    let mine = guard("learning/any", 1);
    assert!(world.define(&mine).is_err());
}

pub fn bound(params: &[(&str, &str)]) -> Binding {
    let all = [params, &[("MAC", "52:54:00:00:00:01")]].concat();
    binding::read(&Source::new("binding", with_params("vnet0", &all))).unwrap().0
}

#[test]
fn a_restart_knows_what_was_known_at_the_same_link() {
    for (params, index, knows) in [(&[][..], 7, true), (&[], 8, false), (DHCP, 7, true), (DHCP, 8, true)] {
        let mut world = learning(params);
        let lines =
            if params.is_empty() { arp(&mut world, 7, ADDRESS) } else { ack(&mut world, ADDRESS, 60) };
        for text in [lines, file::write(&world.state.book())] {
            let (book, skipped) = file::read(&text, Duration::from_secs(9), 64);
            assert_eq!(skipped, []);
            let firewall = Firewall::new(policy(64)).define([filter(&honest("")).into()]).unwrap();
            let link = tap(index, "vnet0");
            let epoch = Duration::from_secs(9);
            let mut restored = World::new(&[]);
            restored.state = State::restore_learned(firewall, [bound(params)], [link], GRACE, book, epoch);
            let found = rules(&restored, index);
            assert_eq!(found == has(&[ADDRESS]), knows, "{params:?} at {index}: {found:?}");
            assert!(knows || found.0.starts_with("learning/"), "{found:?}");
        }
    }
}

#[test]
fn all_waiting_guests_share_one_program() {
    for params in [&[][..], DHCP, &[("CTRL_IP_LEARNING", "dhcp"), ("DHCPSERVER", "10.0.0.254")]] {
        let mut world = World::with(policy(2), &[honest("")]);
        for index in 1..=9 {
            let port = format!("vnet{index}");
            world.appears(&tap(index, &port));
            let own = format!("52:54:00:00:00:0{index}");
            let xml = with_params(&port, params).replace("52:54:00:00:00:01", &own);
            world.ask(Request::CreateBinding { xml, flags: 0 }).unwrap();
        }
        let groups = world.state.firewall().groups().values().map(|group| group.members.len());
        assert_eq!(groups.collect::<Vec<_>>(), [9], "{params:?}");
    }
}

#[test]
fn of_like_guests_only_those_with_a_bad_value_are_closed() {
    let is_bad = |number: u32| number.is_multiple_of(2);
    let value = |number: u32| if is_bad(number) { "not-a-mac" } else { "52:54:00:00:00:09" };
    let binding = |number: u32| {
        let mac = format!("52:54:00:00:00:{number:02x}");
        let xml = with_params(&format!("vnet{number}"), &[("MAC", &mac), ("OTHER", value(number))]);
        binding::read(&Source::new("binding", xml)).unwrap().0
    };
    let firewall = Firewall::new(policy(64)).define([filter(&honest(NEEDY)).into()]).unwrap();
    let links = (1..=4).map(|number| tap(number, &format!("vnet{number}")));
    let state = State::restore(firewall, (1..=4).map(binding), links, GRACE);
    for number in 1..=4 {
        let closed = state.blocked(&format!("vnet{number}"));
        assert_eq!(closed.is_some(), is_bad(number), "{number}: {closed:?}");
        assert_eq!(state.posts().contains_key(&number), !is_bad(number));
    }
}

/// The records of what a frame or an event makes of a world, which goes on with it.
fn records(world: &mut World, change: Change) -> Records {
    let records = change.records(&world.state);
    world.state = change.next;
    records
}

#[test]
fn an_address_is_recorded_before_and_its_end_after() {
    let mut world = learning(&[]);
    let frame = Sighting::Arp { mac: GUEST, address: ADDRESS };
    let frame = SightedFrame { source: GUEST, destination: Mac::BROADCAST, tagged: false, sighting: frame };
    let (_, change) = world.state.observe(&Observation { guest: 7, frame }, world.now).unwrap();
    let Records { documents, before, after } = records(&mut world, change);
    assert!(documents.is_empty() && after.is_empty());
    assert!(before.starts_with("never ") && before.contains("10.0.0.1"), "{before}");
    let gone = world.state.link(&Gone(tap(7, "vnet0")));
    let Records { documents, before, after } = records(&mut world, gone);
    assert!(documents.is_empty() && before.is_empty());
    assert!(after.starts_with("0 ") && after.contains("10.0.0.1"), "{after}");
}

#[test]
fn all_that_a_client_asks_for_is_written_before() {
    let mut world = learning(&[]);
    arp(&mut world, 7, ADDRESS);
    let before = world.state.clone();
    let change = world.ask(Request::Remove { portdev: "vnet0".into() }).unwrap();
    let Records { documents, before, after } = change.records(&before);
    assert_eq!(documents, [Write::DeleteBinding("vnet0".into())]);
    assert!(before.starts_with("0 ") && after.is_empty(), "{before}");
}

#[test]
fn a_lease_that_comes_back_with_its_guest_is_not_written_again() {
    let mut world = learning(DHCP);
    assert!(!ack(&mut world, ADDRESS, 600).is_empty());
    let gone = world.state.link(&Gone(tap(7, "vnet0")));
    records(&mut world, gone);
    let back = world.state.link(&Appeared(tap(8, "vnet0")));
    assert_eq!(records(&mut world, back), Records::default());
    assert_eq!(rules(&world, 8), has(&[ADDRESS]));
}

/// A kernel that tracks connections in the host's IP layer alone.
#[test]
fn a_guest_that_learns_or_waits_is_checked_where_it_is() {
    let stateful = honest("<rule action='accept' direction='out'><tcp state='NEW'/></rule>");
    let features = Capabilities { state: false, ..Capabilities::ALL };
    let mut world = World::with(Policy::new(features), &[stateful]);
    create(&mut world, &[("IP", "10.0.0.1")]).unwrap();
    world.ask(Request::Remove { portdev: "vnet0".into() }).unwrap();
    world.link(Appeared(tap(7, "vnet0")));
    create(&mut world, &[]).unwrap();
    assert_eq!(rules(&world, 7), waits(filters::ANY));
    arp(&mut world, 7, ADDRESS);
    assert_eq!(rules(&world, 7), has(&[ADDRESS]));
    world.ask(Request::Remove { portdev: "vnet0".into() }).unwrap();
    world.link(Gone(tap(7, "vnet0")));
    world.link(Appeared(bridge(2, "br0")));
    world.link(Appeared(Link { master: Some(2), ..tap(8, "vnet0") }));
    assert!(create(&mut world, &[]).is_err(), "a port of a bridge has no connections there");
}

#[test]
fn a_lease_of_an_untrusted_server_is_not_in_force() {
    let apply = |world: &mut World, servers: &[&str]| {
        let params = servers.iter().map(|server| ("DHCPSERVER", *server));
        let params: Vec<(&str, &str)> = DHCP.iter().copied().chain(params).collect();
        world.ask(Request::Apply { xml: with_params("vnet0", &params) }).unwrap();
    };
    let server = SERVER.to_string();
    let mut world = learning(DHCP);
    ack(&mut world, ADDRESS, 60);
    apply(&mut world, &[&server]);
    assert_eq!(rules(&world, 7), has(&[ADDRESS]));
    apply(&mut world, &["10.0.0.9"]);
    assert_eq!(rules(&world, 7), waits(filters::DHCP_FROM_SERVERS));
    // Nor is that of a guest which comes back.
    let mut world = learning(DHCP);
    ack(&mut world, ADDRESS, 60);
    world.link(Gone(tap(7, "vnet0")));
    apply(&mut world, &["10.0.0.9"]);
    world.link(Appeared(tap(8, "vnet0")));
    assert_eq!(rules(&world, 8), waits(filters::DHCP_FROM_SERVERS));
}

#[test]
fn a_guest_of_several_servers_waits_for_any_of_them() {
    let servers = [("DHCPSERVER", "10.0.0.9"), ("DHCPSERVER", "10.0.0.254")];
    let mut world = learning(&[DHCP, &servers].concat());
    assert_eq!(rules(&world, 7), waits(filters::DHCP_FROM_SERVERS));
    ack(&mut world, ADDRESS, 60);
    assert_eq!(rules(&world, 7), has(&[ADDRESS]));
    // The guest may have several addresses of its own besides.
    let macs = [("MAC", "52:54:00:00:00:01"), ("MAC", "52:54:00:00:00:02"), ("MAC", "52:54:00:00:00:03")];
    learning(&[DHCP, &servers, &macs].concat());
}
