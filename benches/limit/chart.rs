//! The chart of `docs/limit.svg`: a panel for each forwarder, what was offered, sent and answered over time.

use std::fmt::Write as _;

use crate::record::{Count, Record};
use crate::table::grouped;

/// All in pixels.
const WIDTH: usize = 760;
const MARGIN: usize = 16;
const LABELS: usize = 48;
const TITLE: usize = 30;
const PLOT: usize = 150;
const AXIS: usize = 26;
const LEGEND: usize = 24;

/// What is drawn, in this order, the last on top.
const LINES: [Line; 3] = [
    Line { what: "questions offered", colour: "#9a9a9a", of: |count| count.offered },
    Line { what: "packets sent", colour: "#4c78a8", of: |count| count.sent },
    Line { what: "questions answered", colour: "#d9480f", of: |count| count.answered },
];
/// Of the limit.
const LIMIT: &str = "#2b8a3e";

struct Line {
    what: &'static str,
    colour: &'static str,
    of: fn(&Count) -> u64,
}

pub fn draw(records: &[Record]) -> String {
    let height = 2 * MARGIN + LEGEND + records.len() * (TITLE + PLOT + AXIS);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#fff\"/>\n"
    );
    draw_legend(&mut svg);
    for (index, record) in records.iter().enumerate() {
        draw_panel(&mut svg, record, MARGIN + LEGEND + index * (TITLE + PLOT + AXIS));
    }
    svg.push_str("</svg>\n");
    svg
}

/// Each panel has a scale of its own, from zero.
struct Scale {
    /// The largest rate, and the one between two lines of the grid.
    most: f64,
    grid: u32,
    seconds: f64,
    top: usize,
}

impl Scale {
    fn of(record: &Record, top: usize) -> Scale {
        let limits = record.limits.iter().map(|(_, limit)| f64::from(*limit));
        let most = rates(record).flat_map(|(_, rates)| rates).chain(limits).fold(0.0, f64::max);
        let is_coarse = |grid: &u32| most / f64::from(*grid) <= 5.0;
        let grid = [500, 1000, 2000, 5000, 10_000].into_iter().find(is_coarse).unwrap_or(50_000);
        let most = (most / f64::from(grid)).ceil() * f64::from(grid);
        Scale { most, grid, seconds: record.counts[record.counts.len() - 1].at, top }
    }

    fn x(&self, seconds: f64) -> f64 {
        (MARGIN + LABELS) as f64 + seconds / self.seconds * (WIDTH - 2 * MARGIN - LABELS) as f64
    }

    fn y(&self, rate: f64) -> f64 {
        (self.top + TITLE) as f64 + (1.0 - rate / self.most) * PLOT as f64
    }
}

/// At the middle of each step, how many of each line a second.
fn rates(record: &Record) -> impl Iterator<Item = (f64, [f64; 3])> {
    record.counts.windows(2).map(|pair| {
        let (one, seconds) = (pair[1].since(&pair[0]), pair[1].at - pair[0].at);
        (pair[0].at + seconds / 2.0, LINES.map(|line| (line.of)(&one) as f64 / seconds))
    })
}

fn draw_legend(svg: &mut String) {
    writeln!(svg, "<text x=\"{MARGIN}\" y=\"{}\" fill=\"#333\">each second:</text>", MARGIN + 12).unwrap();
    let entries = LINES.iter().map(|line| (line.what, line.colour)).chain([("limit", LIMIT)]);
    for (index, (what, colour)) in entries.enumerate() {
        let (left, y) = (MARGIN + 110 + index * 160, MARGIN + 8);
        let (right, text) = (left + 20, left + 26);
        let dashes = if what == "limit" { " stroke-dasharray=\"5 3\"" } else { "" };
        writeln!(svg, "<path d=\"M{left} {y}H{right}\" stroke=\"{colour}\" stroke-width=\"2\"{dashes}/>")
            .unwrap();
        writeln!(svg, "<text x=\"{text}\" y=\"{}\" fill=\"#333\">{what}</text>", y + 4).unwrap();
    }
}

fn draw_panel(svg: &mut String, record: &Record, top: usize) {
    let (title, scale) = (&record.name, Scale::of(record, top));
    let y = top + 18;
    writeln!(svg, "<text x=\"{MARGIN}\" y=\"{y}\" font-weight=\"bold\" fill=\"#111\">{title}</text>")
        .unwrap();
    draw_grid(svg, &scale);
    for (index, Line { colour, .. }) in LINES.iter().enumerate() {
        let point = |(at, rates): (f64, [f64; 3])| format!("{:.1},{:.1}", scale.x(at), scale.y(rates[index]));
        let points = rates(record).map(point).collect::<Vec<_>>().join(" ");
        writeln!(
            svg,
            "<polyline points=\"{points}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"/>"
        )
        .unwrap();
    }
    let ends = record.limits.iter().skip(1).map(|(since, _)| *since).chain([scale.seconds]);
    for ((since, limit), until) in record.limits.iter().zip(ends) {
        let (y, from, to) = (scale.y(f64::from(*limit)), scale.x(*since), scale.x(until));
        writeln!(
            svg,
            "<path d=\"M{from:.1} {y:.1}H{to:.1}\" stroke=\"{LIMIT}\" stroke-width=\"1.5\" stroke-dasharray=\"5 3\"/>"
        )
        .unwrap();
    }
}

fn draw_grid(svg: &mut String, scale: &Scale) {
    let (left, right) = (scale.x(0.0), scale.x(scale.seconds));
    for rate in (0..=scale.most as u32).step_by(scale.grid as usize) {
        let (said, y) = (grouped(rate), scale.y(f64::from(rate)));
        writeln!(svg, "<path d=\"M{left:.1} {y:.1}H{right:.1}\" stroke=\"#ddd\"/>").unwrap();
        let (x, y) = (left - 6.0, y + 4.0);
        writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"end\" fill=\"#333\">{said}</text>")
            .unwrap();
    }
    for second in (0..=scale.seconds.round() as u32).step_by(5) {
        let (x, y) = (scale.x(f64::from(second)), scale.top + TITLE + PLOT + 15);
        writeln!(svg, "<text x=\"{x:.1}\" y=\"{y}\" text-anchor=\"middle\" fill=\"#333\">{second} s</text>")
            .unwrap();
    }
}
