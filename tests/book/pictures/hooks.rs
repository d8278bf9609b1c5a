//! A frame's way through the hooks, lane by lane; the hooks are those that the code makes.

use super::svg::{Point, Svg, fits};
use nwfilter::document::catalog::Library;
use nwfilter::document::filter::read;
use nwfilter::document::span::Source;
use nwfilter::document::vars::Vars;
use nwfilter::program::compile::Capabilities;
use nwfilter::ruleset::firewall::HookLifetime;
use nwfilter::ruleset::firewall::{Attachment, BoundInterface, BridgePort, Firewall, Policy, Rules};
use std::collections::BTreeSet;
use std::sync::Arc;

/// A kind of interface, and where its frames go.
struct Lane<'a> {
    name: &'a str,
    rows: Vec<Row<'a>>,
}

struct Row<'a> {
    name: &'a str,
    boxes: Vec<Vec<&'a str>>,
}

const BOX: Point = Point { x: 166.0, y: 46.0 };
const STEP: f64 = 190.0;
const LEFT: f64 = 130.0;

pub fn draw(data: &str) -> String {
    let (mut svg, mut y) = (Svg::new(), 10.0);
    let mut widest = 0;
    for lane in lanes(data) {
        y += 30.0;
        svg.text(Point { x: 16.0, y }, "title", lane.name);
        y += 38.0;
        for row in lane.rows {
            svg.text(Point { x: 16.0, y: y + 4.0 }, "small", row.name);
            widest = widest.max(row.boxes.len());
            row.boxes.iter().enumerate().for_each(|(at, part)| draw_box(&mut svg, at, y, part));
            y += 60.0;
        }
        y -= 16.0;
    }
    let size = Point { x: LEFT + STEP * widest as f64, y: y + 8.0 };
    svg.finish(size, "A frame's way through the hooks: a port of a bridge, a routed tap, a macvtap")
}

fn draw_box(svg: &mut Svg, at: usize, y: f64, part: &[&str]) {
    let centre = Point { x: LEFT + STEP * at as f64 + BOX.x / 2.0, y };
    svg.rect(centre, BOX, part[0]);
    let lines = &part[1..];
    let first = y + 4.0 - 8.0 * (lines.len() - 1) as f64;
    for (line, words) in lines.iter().enumerate() {
        assert!(fits(words, BOX.x), "{words:?} does not fit into its box");
        let at = Point { x: centre.x, y: first + 17.0 * line as f64 };
        svg.text(at, if line == 0 { "middle" } else { "middle small" }, words);
    }
    if at > 0 {
        let to = Point { x: centre.x - BOX.x / 2.0, y };
        let from = Point { x: to.x - (STEP - BOX.x), y };
        svg.arrow(from, from, to);
    }
}

fn lanes(data: &str) -> Vec<Lane<'_>> {
    let mut lanes: Vec<Lane> = Vec::new();
    for line in data.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(name) = line.strip_prefix("lane ") {
            lanes.push(Lane { name, rows: Vec::new() });
        } else if let Some(name) = line.strip_prefix("row ") {
            lanes.last_mut().expect("a lane").rows.push(Row { name, boxes: Vec::new() });
        } else {
            let row = lanes.last_mut().and_then(|lane| lane.rows.last_mut()).expect("a row");
            row.boxes.push(line.split('|').map(str::trim).collect());
        }
    }
    lanes
}

#[test]
fn the_hooks_of_the_picture_are_those_of_the_code() {
    let data = super::data("hooks.txt");
    let name = || "vnet0".to_owned();
    let bridge = BridgePort { index: 2, name: "br0".into(), host: None, port: name() };
    // With the tables that judge its frames. The others block it, in case it comes there.
    let places: [(Attachment, &[&str]); 3] = [
        (Attachment::Port { name: name(), bridge }, &["netdev", "bridge"]),
        (Attachment::Routed { name: name() }, &["netdev", "inet"]),
        (Attachment::Device { name: name(), reversed: true }, &["netdev"]),
    ];
    for (lane, (place, judging)) in lanes(&data).iter().zip(places) {
        let parts = lane.rows.iter().flat_map(|row| &row.boxes).filter(|part| part[0] == "hook");
        let drawn: BTreeSet<String> = parts.map(|part| part[1].to_owned()).collect();
        let made = hooks(place);
        assert!(drawn.is_subset(&made), "{}: drawn {drawn:?}, made {made:?}", lane.name);
        let judges = |hook: &&String| judging.iter().any(|family| hook.starts_with(family));
        let left_out: Vec<&String> = made.difference(&drawn).filter(judges).collect();
        assert!(left_out.is_empty(), "{}: {left_out:?} is not drawn", lane.name);
    }
}

/// The base chains that see the frames of an interface at this place.
fn hooks(place: Attachment) -> BTreeSet<String> {
    let text = "<filter name='web'><rule action='accept' direction='out'><tcp/></rule></filter>";
    let (web, _) = read::read(&Source::new("web.xml", text)).unwrap();
    let filters = Library::standard().filters.into_values().chain([Arc::new(web)]);
    let firewall = Firewall::new(Policy::new(Capabilities::ALL))
        .with_hooks(HookLifetime::Lasting)
        .define(filters)
        .unwrap();
    // A macvtap's connections are not tracked.
    let filter = if matches!(place, Attachment::Device { .. }) { "clean-traffic" } else { "web" };
    let rules = Rules::Filter(filter.into());
    let mut vars = Vars::default();
    vars.push("MAC", "52:54:00:00:00:01");
    vars.push("IP", "10.0.0.1");
    let member = BoundInterface { index: 7, name: "vnet0".into(), place, rules, vars };
    let ruleset = firewall.bind(member).unwrap().ruleset();
    let tables = ruleset.tables.iter().flat_map(|(family, table)| {
        let hooks = table.chains.values().filter_map(|chain| chain.hook.as_ref());
        hooks.map(move |hook| format!("{family} {} {}", hook.point, hook.priority))
    });
    tables.collect()
}
