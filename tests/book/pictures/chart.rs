//! Time to bind one more guest, over the guests that are there, from the tables of benches/README.md.

use super::svg::{Point, Svg};

/// One line of the chart: guests that are there, and milliseconds.
struct Series {
    class: &'static str,
    words: &'static str,
    points: Vec<(f64, f64)>,
}

const LEFT: f64 = 80.0;
const RIGHT: f64 = 560.0;
const TOP: f64 = 50.0;
const BOTTOM: f64 = 350.0;

pub fn draw(benches: &str) -> String {
    let mut svg = Svg::new();
    svg.text(
        Point { x: 16.0, y: 26.0 },
        "title",
        "Time to bind one more guest (median; both axes logarithmic)",
    );
    for (ms, words) in [(0.01, "0.01 ms"), (0.1, "0.1 ms"), (1.0, "1 ms"), (10.0, "10 ms"), (100.0, "100 ms")]
    {
        let y = height(ms);
        svg.line(&[Point { x: LEFT, y }, Point { x: RIGHT, y }], "grid");
        svg.text(Point { x: 22.0, y: y + 4.0 }, "small", words);
    }
    for guests in [0.0, 10.0, 100.0, 1000.0, 5000.0] {
        svg.text(Point { x: across(guests), y: BOTTOM + 20.0 }, "middle small", &format!("{guests}"));
    }
    svg.text(
        Point { x: f64::midpoint(LEFT, RIGHT), y: BOTTOM + 40.0 },
        "middle small",
        "guests already bound",
    );
    for Series { class, words, points } in series(benches) {
        let points: Vec<Point> =
            points.iter().map(|(n, ms)| Point { x: across(*n), y: height(*ms) }).collect();
        svg.line(&points, &format!("line {class}"));
        points.iter().for_each(|at| svg.line(&[*at, *at], &format!("dot {class}")));
        let last = points.last().expect("a measured value");
        svg.text(Point { x: last.x + 10.0, y: last.y + 4.0 }, "", words);
    }
    svg.finish(Point { x: 800.0, y: 405.0 }, "Time to bind one more guest, over the guests that are there")
}

/// Zero has a place as well.
fn across(guests: f64) -> f64 {
    LEFT + (RIGHT - LEFT) * (guests + 1.0).log10() / 5001_f64.log10()
}

fn height(ms: f64) -> f64 {
    BOTTOM - (BOTTOM - TOP) * (ms / 0.01).log10() / (400_f64 / 0.01).log10()
}

fn series(benches: &str) -> [Series; 3] {
    let create = |column| {
        let rows = rows(benches, "create a binding, ");
        rows.filter_map(|row| Some((guests(row[0])?, ms(row[column])?))).collect()
    };
    let (_, change) = benches.split_once("\n## A change\n").expect("the table of changes");
    let kernel = rows(change, "").filter_map(|row| Some((guests(row[0])?, ms(row[3])?)));
    let kernel = kernel.take_while({
        let mut before = -1.0;
        move |(n, _)| std::mem::replace(&mut before, *n) < *n
    });
    [
        Series { class: "a", words: "libvirtd 9", points: create(3) },
        Series { class: "b", words: "nwfilterd, with checksum guard", points: create(1) },
        Series { class: "c", words: "engine and kernel alone", points: kernel.collect() },
    ]
}

/// The cells of each row of a table whose first cell begins so.
fn rows<'a>(text: &'a str, first: &'static str) -> impl Iterator<Item = Vec<&'a str>> {
    let rows = text.lines().filter_map(move |line| line.strip_prefix("| ")?.strip_prefix(first));
    rows.map(|row| row.split('|').map(|cell| cell.trim().trim_matches('*')).collect())
}

/// `1000 others`, or `1000` alone.
fn guests(cell: &str) -> Option<f64> {
    cell.strip_suffix(" others").unwrap_or(cell).parse().ok()
}

fn ms(cell: &str) -> Option<f64> {
    cell.strip_suffix(" ms")?.parse().ok()
}

#[test]
fn the_chart_reads_every_row_of_the_benches() {
    let [libvirt, ours, kernel] = series(&super::text("benches/README.md"));
    let at = |series: &Series| series.points.iter().map(|(guests, _)| *guests as u32).collect::<Vec<_>>();
    assert_eq!(at(&libvirt), [0, 10]);
    assert_eq!(at(&ours), [0, 10, 100, 1000]);
    assert_eq!(at(&kernel), [0, 100, 1000, 5000]);
    let all = [&libvirt, &ours, &kernel].into_iter().flat_map(|series| &series.points);
    assert!(all.into_iter().all(|(_, ms)| (0.01..400.0).contains(ms)), "a value lies off the chart");
}
