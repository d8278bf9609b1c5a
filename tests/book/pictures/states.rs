//! States of an interface and the events between them.

use super::svg::{Point, Svg, fits};

const BOX: Point = Point { x: 208.0, y: 52.0 };

struct State<'a> {
    name: &'a str,
    at: Point,
    passes: &'a str,
}

pub fn draw(data: &str) -> String {
    let mut svg = Svg::new();
    let states = states(data);
    let place = |name: &str| {
        let found = states.iter().find(|state| state.name == name);
        found.unwrap_or_else(|| panic!("no state {name:?}")).at
    };
    for (ends, words) in lines(data, "event ") {
        let (from, rest) = ends.split_once(" > ").expect("FROM > TO BEND");
        let (to, bend) = rest.rsplit_once(' ').expect("FROM > TO BEND");
        event(&mut svg, place(from), place(to), bend.parse().expect("a number"), words);
    }
    for state in &states {
        assert!(fits(state.passes, BOX.x), "{:?} does not fit into its box", state.passes);
        svg.rect(state.at, BOX, "state");
        let Point { x, y } = state.at;
        svg.text(Point { x, y: y - 4.0 }, "middle title", state.name);
        svg.text(Point { x, y: y + 15.0 }, "middle small", state.passes);
    }
    let band = data.lines().find_map(|line| line.strip_prefix("band ")).expect("a band");
    svg.rect(Point { x: 485.0, y: 485.0 }, Point { x: 926.0, y: 34.0 }, "step");
    svg.text(Point { x: 485.0, y: 490.0 }, "middle", band);
    svg.finish(Point { x: 970.0, y: 515.0 }, "States of an interface and the events between them")
}

/// An arrow between the borders of two boxes, bent to its left by so much, with its words at the middle.
fn event(svg: &mut Svg, from: Point, to: Point, bend: f64, words: &str) {
    let (x, y) = (to.x - from.x, to.y - from.y);
    let length = x.hypot(y);
    let middle = |bend: f64| Point {
        x: f64::midpoint(from.x, to.x) - bend * y / length,
        y: f64::midpoint(from.y, to.y) + bend * x / length,
    };
    let over = middle(2.0 * bend);
    svg.arrow(border(from, over), over, border(to, over));
    let at = middle(bend);
    let size = Point { x: words.chars().count() as f64 * 6.2 + 6.0, y: 17.0 };
    svg.rect(at, size, "paper");
    svg.text(Point { x: at.x, y: at.y + 4.0 }, "middle small", words);
}

/// Where the way from the centre of a box to a point leaves the box.
fn border(centre: Point, to: Point) -> Point {
    let (x, y) = (to.x - centre.x, to.y - centre.y);
    let part = (BOX.x / 2.0 / x.abs()).min(BOX.y / 2.0 / y.abs());
    Point { x: centre.x + part * x, y: centre.y + part * y }
}

fn states(data: &str) -> Vec<State<'_>> {
    let read = |(head, passes)| {
        let mut parts = str::rsplitn(head, 3, ' ');
        let (y, x) = (number(parts.next()), number(parts.next()));
        State { name: parts.next().expect("a name"), at: Point { x, y }, passes }
    };
    lines(data, "state ").map(read).collect()
}

fn number(text: Option<&str>) -> f64 {
    text.expect("NAME X Y").parse().expect("a number")
}

/// The lines of a kind: what stands before and behind `|`.
fn lines<'a>(data: &'a str, kind: &'static str) -> impl Iterator<Item = (&'a str, &'a str)> {
    data.lines().filter_map(move |line| line.strip_prefix(kind)?.split_once(" | "))
}

#[test]
fn the_states_of_the_picture_are_those_of_the_promises() {
    let promises = super::text("PROMISES.md");
    let (_, rest) = promises.split_once("## States of an interface").unwrap();
    let (section, _) = rest.split_once("\n## ").unwrap();
    let promised: Vec<&str> = section.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    let data = super::data("states.txt");
    let drawn = states(&data);
    for name in &promised {
        let in_band = data.contains(&format!("band {name}:"));
        assert!(in_band || drawn.iter().any(|state| state.name == *name), "{name:?} is not drawn");
    }
    assert!(drawn.iter().all(|state| promised.contains(&state.name)));
}
