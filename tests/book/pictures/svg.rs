//! The parts of a picture as SVG. It carries its own background, so that it can be read on a light and on a dark page.

use std::fmt::Write;

/// Colours, and how each kind of part looks.
const STYLE: &str = "\
text{font:13px sans-serif;fill:#1c2430}.title{font-weight:bold;font-size:15px}.small{font-size:11.5px;fill:#4a5666}\
.middle{text-anchor:middle}.mono{font-family:monospace;font-size:12px}.paper{fill:#fbfbf8}\
.end,.state{fill:#e7edf5;stroke:#57708f}.hook{fill:#dff0e2;stroke:#3f7d4f}.step{fill:#f8ead2;stroke:#a8762a}\
.way,.axis,.line{fill:none;stroke:#57606c;stroke-width:1.3}.grid{stroke:#dcdfe3}.a{stroke:#b3402e}.b{stroke:#2f6db3}.c{stroke:#3f7d4f}\
.line{stroke-width:2.2}.dot{stroke-width:7;stroke-linecap:round}.tip{fill:#57606c}\
@media(prefers-color-scheme:dark){text{fill:#e6e9ee}.small{fill:#b4bdc9}.paper{fill:#1d2128}.end,.state{fill:#2b3747;stroke:#8aa5c7}\
.hook{fill:#22392a;stroke:#77b98a}.step{fill:#43351c;stroke:#d3a55b}.way,.axis{stroke:#a9b3bf}.grid{stroke:#363c46}\
.a{stroke:#e2806f}.b{stroke:#78aee8}.c{stroke:#77b98a}.tip{fill:#a9b3bf}}";

/// A point of a picture, from its upper left corner.
#[derive(Clone, Copy)]
pub struct Point {
    pub x: f64,
    pub y: f64,
}

/// What is drawn so far.
pub struct Svg {
    body: String,
}

impl Svg {
    pub fn new() -> Svg {
        Svg { body: String::new() }
    }

    /// Words on a line; the widest of a class fits in the width given.
    pub fn text(&mut self, at: Point, class: &str, words: &str) {
        let words = words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        writeln!(self.body, r#"<text x="{:.0}" y="{:.0}" class="{class}">{words}</text>"#, at.x, at.y)
            .unwrap();
    }

    /// A box around its centre.
    pub fn rect(&mut self, centre: Point, size: Point, class: &str) {
        let (x, y) = (centre.x - size.x / 2.0, centre.y - size.y / 2.0);
        let (width, height) = (size.x, size.y);
        writeln!(
            self.body,
            r#"<rect x="{x:.0}" y="{y:.0}" width="{width:.0}" height="{height:.0}" rx="5" class="{class}"/>"#
        )
        .unwrap();
    }

    /// A curve with an arrow at its end.
    pub fn arrow(&mut self, from: Point, over: Point, to: Point) {
        let Point { x, y } = to;
        let turn = (to.y - over.y).atan2(to.x - over.x).to_degrees();
        writeln!(
            self.body,
            r#"<path d="M{:.0} {:.0}Q{:.0} {:.0} {x:.0} {y:.0}" class="way"/>"#,
            from.x, from.y, over.x, over.y
        )
        .unwrap();
        writeln!(
            self.body,
            r#"<path d="M0 0L-9 -4L-9 4Z" transform="translate({x:.0} {y:.0}) rotate({turn:.0})" class="tip"/>"#
        )
        .unwrap();
    }

    /// A line through points.
    pub fn line(&mut self, points: &[Point], class: &str) {
        let points: Vec<String> = points.iter().map(|at| format!("{:.1},{:.1}", at.x, at.y)).collect();
        writeln!(self.body, r#"<polyline points="{}" class="{class}"/>"#, points.join(" ")).unwrap();
    }

    /// The picture, with what a reader hears who does not see it.
    pub fn finish(self, size: Point, title: &str) -> String {
        let (width, height) = (size.x, size.y);
        let body = self.body;
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" role=\"img\">\n\
             <title>{title}</title>\n<style>{STYLE}</style>\n\
             <rect width=\"{width:.0}\" height=\"{height:.0}\" rx=\"8\" class=\"paper\"/>\n{body}</svg>\n"
        )
    }
}

/// Whether words fit into a width at the size of ordinary text.
pub fn fits(words: &str, width: f64) -> bool {
    words.chars().count() as f64 * 6.9 <= width
}
