//! The chart of `docs/benchmarks.svg`: a panel for each workload, a bar for each contender.

use std::fmt::Write as _;

use crate::contenders::Role;
use crate::measure::Row;
use crate::memory::Memory;
use crate::ratios::Spread;
use crate::report;
use crate::{Bench, Results};

/// All in pixels.
const WIDTH: usize = 760;
const MARGIN: usize = 16;
const LABELS: usize = 180;
const VALUES: usize = 70;
const BAR: usize = 16;
const STEP: usize = 22;
const TITLE: usize = 34;

/// The bars of a workload.
struct Panel {
    title: String,
    bars: Vec<(String, Role, f64)>,
}

pub fn draw(bench: &Bench, results: &Results) -> String {
    let panels = panels(bench, results);
    let height = 2 * MARGIN + panels.iter().map(|panel| TITLE + panel.bars.len() * STEP).sum::<usize>();
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#fff\"/>\n"
    );
    let mut top = MARGIN;
    for panel in &panels {
        draw_panel(&mut svg, panel, top);
        top += TITLE + panel.bars.len() * STEP;
    }
    svg.push_str("</svg>\n");
    svg
}

fn panels(bench: &Bench, results: &Results) -> Vec<Panel> {
    let mut panels: Vec<Panel> = Vec::new();
    for (workload, rows) in &results.rows {
        let bar = |row: &Row| {
            let label = report::label(bench, *workload, row);
            (label, row.contender.role, Spread::of_costs(&row.samples).median)
        };
        let title = format!("{}: server CPU per answer, µs", workload.title());
        panels.push(Panel { title, bars: rows.iter().map(bar).collect() });
    }
    if !results.memory.is_empty() {
        let bar = |one: &Memory| Some((one.contender.name.to_string(), one.contender.role, one.bytes_each?));
        let bars = results.memory.iter().filter_map(bar).collect();
        panels.push(Panel { title: "memory per answer, bytes".into(), bars });
    }
    panels
}

/// Each panel has a scale of its own, from zero.
fn draw_panel(svg: &mut String, panel: &Panel, top: usize) {
    let largest = panel.bars.iter().map(|bar| bar.2).fold(f64::MIN_POSITIVE, f64::max);
    let room = (WIDTH - 2 * MARGIN - LABELS - VALUES) as f64;
    let (title, left) = (&panel.title, MARGIN + LABELS);
    writeln!(
        svg,
        "<text x=\"{MARGIN}\" y=\"{}\" font-weight=\"bold\" fill=\"#111\">{title}</text>",
        top + 18
    )
    .unwrap();
    for (index, (name, role, value)) in panel.bars.iter().enumerate() {
        let y = top + TITLE - 6 + index * STEP;
        let width = value / largest * room;
        let colour = match role {
            Role::Floor | Role::Echo => "#b8b8b8",
            Role::Ours => "#d9480f",
            Role::Peer => "#4c78a8",
        };
        let said = if *value < 100.0 { format!("{value:.1}") } else { format!("{value:.0}") };
        let (text, end) = (y + BAR - 4, left as f64 + width + 6.0);
        writeln!(
            svg,
            "<text x=\"{}\" y=\"{text}\" text-anchor=\"end\" fill=\"#333\">{name}</text>",
            left - 8
        )
        .unwrap();
        writeln!(
            svg,
            "<rect x=\"{left}\" y=\"{y}\" width=\"{width:.1}\" height=\"{BAR}\" fill=\"{colour}\"/>"
        )
        .unwrap();
        writeln!(svg, "<text x=\"{end:.1}\" y=\"{text}\" fill=\"#333\">{said}</text>").unwrap();
    }
}
