//! Explanations of frames: the attack frames in a file that a person can read, single facts, and how long it takes.
//!
//! `UPDATE=1 cargo test --test explain` rewrites the file; read the difference like code.

#[path = "lab/mod.rs"]
mod lab;

use lab::corpus::corpus;
use nwfilter::document::catalog::Library;
use nwfilter::document::filter::{read::read, state};
use nwfilter::document::span::Source;
use nwfilter::document::vars::Vars;
use nwfilter::program::Direction;
use nwfilter::program::eval::{Connection, Frame, Tracking};
use nwfilter::program::ir::CtDirection;
use nwfilter::report::explain::{
    Explainer, Explanation, FrameSpec, PcapFrames, Rejects, Station, Unreadable,
};
use std::path::Path;
use std::time::{Duration, Instant};

/// The cases that are explained, of those in the corpus.
const SELECTION: &[&str] = &[
    "A01", "A02", "A03", "A04", "A06", "A07", "A15", "A16", "A17", "A18", "A20", "A30a", "A30b", "B00a",
    "B01a", "B03a", "B04a", "B04b", "B05a", "B08a", "B09a", "B09c", "B10b", "B11c", "C01", "C02a", "C02b",
    "C03a", "C04a", "C05a", "C08", "C10", "C13a", "C14a", "C19", "D01", "D02a", "D05", "D12", "D13a", "D14a",
    "D18", "E00a", "E00c", "E01", "E12a", "E18",
];

fn vars(pairs: &[(&str, &str)]) -> Vars {
    let mut vars = Vars::default();
    pairs.iter().for_each(|(name, value)| vars.push(*name, *value));
    vars
}

fn clean_traffic() -> Explainer {
    let library = Library::standard();
    let vars = vars(&[("MAC", "52:54:00:00:00:01"), ("IP", "10.0.0.1")]);
    Explainer::new(&|name| library.get(name), "clean-traffic", &vars, Rejects::Answer).unwrap()
}

fn of(text: &str, bindings: &[(&str, &str)]) -> Explainer {
    let (filter, _) = read(&Source::new("f.xml", text)).unwrap();
    let filter = std::sync::Arc::new(filter);
    Explainer::new(
        &|name| (name == filter.name).then(|| filter.clone()),
        &filter.name,
        &vars(bindings),
        Rejects::Answer,
    )
    .unwrap()
}

fn explain(explainer: &Explainer, direction: Direction, bytes: &[u8]) -> Explanation {
    explainer.explain(direction, Frame { bytes, ..Frame::default() })
}

fn sketched(sketch: FrameSpec) -> Vec<u8> {
    let station = Station { source: "52:54:00:00:00:01".parse().unwrap(), destination: None, vlan: None };
    sketch.frame(station).unwrap()
}

#[test]
fn the_attack_frames_are_explained_one_by_one() {
    let explainer = clean_traffic();
    let mut text = String::new();
    let chosen =
        |id: &str| SELECTION.iter().any(|chosen| *chosen == id || id.strip_suffix('a') == Some(chosen));
    for case in corpus().iter().filter(|case| chosen(case.id)) {
        let way = if case.way == lab::Way::FromGuest { Direction::Out } else { Direction::In };
        let explanation = explain(&explainer, way, &case.frame);
        text.push_str(&format!("{}: {}\n{explanation}\n", case.id, case.what));
    }
    assert!(text.matches("\n\n").count() >= 40);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/explain/clean-traffic.txt");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
}

#[test]
fn every_attack_frame_is_explained_as_the_kernel_judges_it() {
    let explainer = clean_traffic();
    for case in corpus().iter().filter(|case| !case.eaten_by_bridge) {
        let way = if case.way == lab::Way::FromGuest { Direction::Out } else { Direction::In };
        let explanation = explain(&explainer, way, &case.frame);
        let passes = case.verdict_under_clean_traffic == lab::Verdict::Accept;
        assert_eq!(explanation.verdict == "accept", passes, "{}: {}\n{explanation}", case.id, case.what);
        assert!(passes || explanation.decided.is_some(), "{explanation}");
    }
}

#[test]
fn the_deciding_line_is_underlined_and_near_misses_shown() {
    let text = "<filter name='f'>\n  <rule action='accept' direction='out' priority='1'>\n    <udp dstportstart='53' statematch='false'/>\n  </rule>\n  \
        <rule action='drop' direction='inout' priority='2'><all/></rule>\n</filter>\n";
    let text =
        text.replace(" statematch='false'", "").replace("priority='1'", "priority='1' statematch='false'");
    let explanation =
        explain(&of(&text, &[]), Direction::Out, &sketched(FrameSpec::Udp("10.0.0.1:9>10.0.0.2:54".into())));
    expect_test::expect![[r#"
        from the guest: 52:54:00:00:00:01 > 02:00:00:00:00:01, IPv4 10.0.0.1 > 10.0.0.2, UDP 9 > 54, 42 bytes
          chain out
          chain out/ip/v4
            filter 'f' rule 1 accept: close (f.xml:2:3)
              destination port: wanted 53, seen 54
            filter 'f' rule 2 drop: matches (f.xml:5:3)
        dropped by rule 2 of filter 'f'
         --> f.xml:5:3
        5 |   <rule action='drop' direction='inout' priority='2'><all/></rule>
          |   ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
    "#]]
    .assert_eq(&explanation.to_string());
}

#[test]
fn a_connection_opens_what_a_first_frame_does_not() {
    let explainer = of(
        "<filter name='f'><rule action='accept' direction='in'><all state='ESTABLISHED'/></rule><rule action='drop' direction='in' priority='900'><all/></rule></filter>",
        &[],
    );
    let bytes = sketched(FrameSpec::Tcp("10.0.0.2:80>10.0.0.1:9".into()));
    let ask =
        |tracking| explainer.explain(Direction::In, Frame { bytes: &bytes, tracking, ..Frame::default() });
    let connection = |state| Tracking::Connection(Connection { state, direction: CtDirection::Reply });
    for (tracking, verdict) in [
        (Tracking::Unknown, "drop"),
        (Tracking::Untracked, "drop"),
        (connection(state::NEW), "drop"),
        (connection(state::ESTABLISHED), "accept"),
    ] {
        assert_eq!(ask(tracking).verdict, verdict, "{tracking:?}");
    }
    assert!(
        ask(Tracking::Unknown)
            .to_string()
            .contains("state of the connection: wanted ESTABLISHED, seen another")
    );
}

/// What the daemon tells of a bound interface is enough to explain its frames anywhere.
#[test]
fn a_daemon_shows_what_an_interface_is_filtered_by() {
    use nwfilter::engine::api::{Reply, Request};
    use nwfilter::engine::{Context, State};
    let compile = nwfilter::program::compile::Options {
        features: nwfilter::program::compile::Capabilities::ALL,
        counters: false,
        host_to_guest: nwfilter::program::compile::HostToGuest::Pass,
    };
    let firewall = nwfilter::ruleset::firewall::Firewall::new(nwfilter::ruleset::firewall::Policy {
        fold_up_to: 64,
        compile,
        placement: Default::default(),
    });
    let firewall = firewall.define(Library::standard().filters.into_values()).unwrap();
    let xml = "<filterbinding><owner><name>vm</name><uuid>c7a5fdbd-edaf-9455-926a-d65c16db1809</uuid></owner>\
        <portdev name='vnet0'/><mac address='52:54:00:00:00:01'/>\
        <filterref filter='clean-traffic'><parameter name='MAC' value='52:54:00:00:00:01'/>\
        <parameter name='IP' value='10.0.0.1'/></filterref></filterbinding>";
    let binding = nwfilter::document::binding::read(&Source::new("b.xml", xml)).unwrap().0;
    let kind = nwfilter::guest::link::LinkKind::Tap;
    let link = nwfilter::guest::link::Link {
        index: 7,
        name: "vnet0".into(),
        kind,
        master: Some(3),
        mac: None,
        up: true,
    };
    let kind = nwfilter::guest::link::LinkKind::Bridge;
    let bridge =
        nwfilter::guest::link::Link { index: 3, name: "br0".into(), kind, master: None, ..link.clone() };
    let state = State::restore(firewall, [binding], [bridge, link], Duration::ZERO);
    let ask = |portdev: &str| {
        let context = Context { now: Duration::ZERO, fresh: uuid::Uuid::nil() };
        state.request(&Request::Bound { portdev: portdev.into() }, context).map(|change| change.reply)
    };
    let Ok(Reply::Json(json)) = ask("vnet0") else { panic!("no answer") };
    let bound: nwfilter::report::explain::Bound = serde_json::from_str(&json).unwrap();
    let mut library = Library::default();
    bound.documents.iter().for_each(|(name, text)| library.add(&Source::new(name.as_str(), text.as_str())));
    assert_eq!(bound.filter.as_deref(), Some("clean-traffic"), "{:?}", state.blocked("vnet0"));
    let rejects = bound.rejects();
    let vars = Vars(bound.vars);
    let explainer = Explainer::new(&|name| library.get(name), "clean-traffic", &vars, rejects).unwrap();
    let bytes = sketched(FrameSpec::Udp("10.0.0.9:1>10.0.0.2:2".into()));
    let there = explain(&explainer, Direction::Out, &bytes);
    assert_eq!(there, explain(&clean_traffic(), Direction::Out, &bytes));
    assert!(ask("vnet1").is_err());
}

#[test]
fn sketches_are_frames_or_say_what_is_expected() {
    let check = |sketch: FrameSpec, shown: &str| {
        let bytes = sketched(sketch);
        let line = nwfilter::report::explain::summary::of(&bytes);
        assert!(line.contains(shown), "{shown} in {line}");
    };
    check(
        FrameSpec::Arp("who-has 10.0.0.1 tell 10.0.0.2".into()),
        "ff:ff:ff:ff:ff:ff, ARP who-has 10.0.0.1 tell 10.0.0.2",
    );
    check(FrameSpec::Arp("10.0.0.1 is-at 2:0:0:0:0:7".into()), "ARP 10.0.0.1 is-at");
    check(FrameSpec::Tcp("[fe80::1]:5>[fe80::2]:80".into()), "IPv6 fe80::1 > fe80::2, TCP 5 > 80");
    check(FrameSpec::Icmp("10.0.0.1>10.0.0.2".into()), "ICMP type 8 code 0");
    check(FrameSpec::Icmp("fe80::1>ff02::1 134/0".into()), "ICMPv6 type 134 code 0");
    let station = Station { source: "52:54:0:0:0:1".parse().unwrap(), destination: None, vlan: Some(5) };
    let bytes = FrameSpec::Udp("1.1.1.1:1>1.1.1.2:2".into()).frame(station).unwrap();
    assert!(
        nwfilter::report::explain::summary::of(&bytes)
            .contains(", VLAN 5, IPv4 1.1.1.1 > 1.1.1.2, UDP 1 > 2")
    );
    for wrong in [
        FrameSpec::Arp("who has 1.1.1.1".into()),
        FrameSpec::Tcp("1.1.1.1>2.2.2.2".into()),
        FrameSpec::Udp("1.1.1.1:1>[fe80::1]:2".into()),
        FrameSpec::Icmp("1.1.1.1>2.2.2.2 8".into()),
    ] {
        assert!(wrong.frame(station).unwrap_err().to_string().contains("expected"), "{wrong:?}");
    }
}

#[test]
fn the_ends_of_a_sketch_need_no_quotes() {
    let quoted = sketched(FrameSpec::Tcp("10.0.0.1:1>10.0.0.2:22".into()));
    for text in [
        "10.0.0.1:1,10.0.0.2:22",
        "10.0.0.1:1 10.0.0.2:22",
        "10.0.0.1:1-10.0.0.2:22",
        "10.0.0.1:1 -> 10.0.0.2:22",
    ] {
        assert_eq!(sketched(FrameSpec::Tcp(text.into())), quoted, "{text}");
        assert!(FrameSpec::Tcp(text.into()).begins());
    }
    let echo = sketched(FrameSpec::Icmp("fe80::1>fe80::2 135/0".into()));
    for text in ["fe80::1,fe80::2 135/0", "fe80::1 fe80::2 135/0", "fe80::1,fe80::2,135/0"] {
        assert_eq!(sketched(FrameSpec::Icmp(text.into())), echo, "{text}");
    }
    let begins = |text: &str| FrameSpec::Icmp(text.into()).begins();
    assert_eq!(
        [
            begins("1.1.1.1,1.1.1.2"),
            begins("1.1.1.1,1.1.1.2 0/0"),
            begins("fe80::1,fe80::2"),
            begins("fe80::1,fe80::2 129/0")
        ],
        [true, false, true, false]
    );
}

#[test]
fn an_explanation_says_when_the_connection_state_decides() {
    let text = "<filter name='f'>\n<rule action='accept' direction='in'><tcp dstportstart='22'/></rule>\n\
                <rule action='accept' direction='out'><all state='ESTABLISHED'/></rule>\n\
                <rule action='drop' direction='inout'><all/></rule>\n</filter>";
    let explainer = of(text, &[]);
    let connection = |state, direction| Tracking::Connection(Connection { state, direction });
    let reported = |way, tracking, bytes: &[u8]| {
        let explanation = explainer.explain(way, Frame { bytes, tracking, ..Frame::default() });
        let otherwise: Vec<_> =
            explanation.otherwise.iter().map(|other| (other.state, other.verdict)).collect();
        (explanation.verdict, explanation.state, otherwise, explanation.to_string())
    };
    let ssh = sketched(FrameSpec::Tcp("10.0.0.9:1,10.0.0.1:22".into()));
    let new = connection(state::NEW, CtDirection::Original);
    let (verdict, word, otherwise, text) = reported(Direction::In, new, &ssh);
    assert_eq!((verdict, word), ("accept", Some("new")), "{text}");
    assert_eq!(otherwise, [("established, in reply", "drop"), ("related", "drop")]);
    assert!(text.contains("the state of the connection decides; here it is new\n"), "{text}");
    assert!(text.contains("  related: dropped by rule 3 of filter 'f' (f.xml:4:1)\n"), "{text}");
    let (verdict, word, otherwise, text) = reported(Direction::In, Tracking::Unknown, &ssh);
    assert_eq!((verdict, word), ("drop", None));
    assert_eq!(otherwise[0], ("new", "accept"), "{text}");
    // Where no rule looks at connections, nothing is said of them.
    let explanation =
        clean_traffic().explain(Direction::In, Frame { bytes: &ssh, tracking: new, ..Frame::default() });
    assert_eq!((explanation.state, &explanation.otherwise[..]), (None, &[][..]));
}

#[test]
fn captures_of_all_forms_are_read_and_broken_ones_refused() {
    let frame = sketched(FrameSpec::Udp("1.1.1.1:1>1.1.1.2:2".into()));
    for big in [false, true] {
        let word = |number: u32| if big { number.to_be_bytes() } else { number.to_le_bytes() };
        let half = |number: u16| if big { number.to_be_bytes() } else { number.to_le_bytes() };
        let length = frame.len() as u32;
        // The frame was longer than what was kept of it.
        let record = [&word(1)[..], &word(2), &word(length), &word(9000), &frame].concat();
        let head = [&word(0xa1b2_c3d4)[..], &half(2), &half(4), &[0; 8], &word(65535), &word(1)].concat();
        let pcap = [&head[..], &record, &record].concat();
        let block = |kind: u32, body: &[u8]| {
            let body = [body, &vec![0; body.len().next_multiple_of(4) - body.len()]].concat();
            let length = word(body.len() as u32 + 12);
            [&word(kind)[..], &length, &body, &length].concat()
        };
        let section = block(0x0a0d_0d0a, &[&word(0x1a2b_3c4d)[..], &half(1), &half(0), &[0xff; 8]].concat());
        let interface = block(1, &[&half(1)[..], &half(0), &word(0)].concat());
        let packet = [&word(0)[..], &[0; 8], &word(length), &word(length), &frame].concat();
        let pcapng =
            [section, interface, block(6, &packet), block(3, &[&word(length)[..], &frame].concat())].concat();
        for file in [pcap, pcapng] {
            let packets = PcapFrames::read(&file).unwrap();
            assert_eq!(
                (packets.count(), packets.packet(1), packets.packet(2)),
                (2, Some(&frame[..]), Some(&frame[..]))
            );
            assert_eq!((packets.packet(0), packets.packet(3)), (None, None));
            for cut in 0..file.len() {
                let _ = PcapFrames::read(&file[..cut]);
            }
            assert_eq!(PcapFrames::read(&file[..file.len() - 1]).unwrap_err(), Unreadable::Broken);
        }
    }
    assert_eq!(PcapFrames::read(b"text").unwrap_err(), Unreadable::NoCapture);
}

#[test]
fn two_hundred_rules_are_explained_in_no_time() {
    let rules: String = (0..200)
        .map(|at| format!("\n<rule action='accept' direction='out' statematch='false'><tcp dstipaddr='10.0.{at}.1' dstportstart='{at}'/></rule>"))
        .collect();
    let text = format!(
        "<filter name='f'>{rules}<rule action='drop' direction='out' priority='900'><all/></rule></filter>"
    );
    let bytes = sketched(FrameSpec::Tcp("10.0.0.1:1>10.0.199.1:7".into()));
    let start = Instant::now();
    let explanation = explain(&of(&text, &[]), Direction::Out, &bytes);
    let (json, spent) = (serde_json::json!(explanation).to_string(), start.elapsed());
    assert!(json.contains("\"verdict\":\"drop\"") && explanation.to_string().contains("wanted 199, seen 7"));
    println!("reading, compiling and explaining 200 rules: {spent:?}");
    // A build without optimisation is ten times slower.
    let limit = if cfg!(debug_assertions) { 400 } else { 10 };
    assert!(spent < Duration::from_millis(limit), "{spent:?}");
}
