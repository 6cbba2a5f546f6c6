//! The chart of `docs/limit.svg`: a panel for each forwarder, what was offered, sent and answered over time.

use std::fmt::Write as _;

use crate::record::{Count, Record};
use crate::table::grouped;

/// All in pixels.
const WIDTH: usize = 760;
const MARGIN: usize = 16;
const LABELS: usize = 44;
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
    let all = records.iter().flat_map(rates);
    let most = all.flat_map(|(_, rates)| rates).fold(1000.0, f64::max);
    let scale = Scale {
        most: (most / 1000.0).ceil() * 1000.0,
        seconds: records.iter().map(|record| record.counts[record.counts.len() - 1].at).fold(1.0, f64::max),
    };
    for (index, record) in records.iter().enumerate() {
        draw_panel(&mut svg, record, &scale, MARGIN + LEGEND + index * (TITLE + PLOT + AXIS));
    }
    svg.push_str("</svg>\n");
    svg
}

/// What is common to all panels, so that they can be compared.
struct Scale {
    /// A second.
    most: f64,
    seconds: f64,
}

impl Scale {
    fn x(&self, seconds: f64) -> f64 {
        (MARGIN + LABELS) as f64 + seconds / self.seconds * (WIDTH - 2 * MARGIN - LABELS) as f64
    }

    fn y(&self, top: usize, rate: f64) -> f64 {
        (top + TITLE) as f64 + (1.0 - rate / self.most) * PLOT as f64
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
    let entries = LINES.iter().map(|line| (line.what, line.colour)).chain([("limit", LIMIT)]);
    for (index, (what, colour)) in entries.enumerate() {
        let (left, y) = (MARGIN + LABELS + index * 170, MARGIN + 8);
        let (right, text) = (left + 20, left + 26);
        let dashes = if what == "limit" { " stroke-dasharray=\"5 3\"" } else { "" };
        writeln!(svg, "<path d=\"M{left} {y}H{right}\" stroke=\"{colour}\" stroke-width=\"2\"{dashes}/>")
            .unwrap();
        writeln!(svg, "<text x=\"{text}\" y=\"{}\" fill=\"#333\">{what} a second</text>", y + 4).unwrap();
    }
}

fn draw_panel(svg: &mut String, record: &Record, scale: &Scale, top: usize) {
    let (left, right) = (scale.x(0.0), scale.x(scale.seconds));
    let title = &record.name;
    writeln!(
        svg,
        "<text x=\"{MARGIN}\" y=\"{}\" font-weight=\"bold\" fill=\"#111\">{title}</text>",
        top + 18
    )
    .unwrap();
    for thousand in 0..=(scale.most / 1000.0) as u32 {
        let y = scale.y(top, f64::from(thousand) * 1000.0);
        writeln!(svg, "<path d=\"M{left:.1} {y:.1}H{right:.1}\" stroke=\"#ddd\"/>").unwrap();
        let said = grouped(thousand * 1000);
        let (x, y) = (left - 6.0, y + 4.0);
        writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"end\" fill=\"#333\">{said}</text>")
            .unwrap();
    }
    for second in (0..=scale.seconds.round() as u32).step_by(5) {
        let (x, y) = (scale.x(f64::from(second)), top + TITLE + PLOT + 15);
        writeln!(svg, "<text x=\"{x:.1}\" y=\"{y}\" text-anchor=\"middle\" fill=\"#333\">{second} s</text>")
            .unwrap();
    }
    for (index, Line { colour, .. }) in LINES.iter().enumerate() {
        let points = rates(record)
            .map(|(at, rates)| format!("{:.1},{:.1}", scale.x(at), scale.y(top, rates[index])))
            .collect::<Vec<_>>()
            .join(" ");
        writeln!(
            svg,
            "<polyline points=\"{points}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"/>"
        )
        .unwrap();
    }
    let ends = record.limits.iter().skip(1).map(|(since, _)| *since).chain([scale.seconds]);
    for ((since, limit), until) in record.limits.iter().zip(ends) {
        let (y, from, to) = (scale.y(top, f64::from(*limit)), scale.x(*since), scale.x(until));
        writeln!(
            svg,
            "<path d=\"M{from:.1} {y:.1}H{to:.1}\" stroke=\"{LIMIT}\" stroke-width=\"1.5\" stroke-dasharray=\"5 3\"/>"
        )
        .unwrap();
    }
}
