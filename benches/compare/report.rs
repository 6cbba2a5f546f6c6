//! What people read: tables on the terminal and in `docs/benchmarks.md`, and the same for programs.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::chart;
use crate::contenders::Role;
use crate::learned::Line;
use crate::measure::{Row, Sample};
use crate::memory::Memory;
use crate::ratios::{self, Spread};
use crate::table::{self, Table, grouped, today};
use crate::workloads::Workload;
use crate::{Bench, Results, machine};

/// Who writes the tables, as the marks in the document say.
const WRITER: &str = "cargo bench --bench compare";

/// All that was measured, the ratios last.
pub fn tables(bench: &Bench, results: &Results) -> Vec<Table> {
    let mut tables: Vec<Table> =
        results.rows.iter().map(|(workload, rows)| loads(bench, *workload, rows)).collect();
    if !results.memory.is_empty() {
        tables.push(memory(&results.memory));
    }
    if !results.learned.is_empty() {
        tables.push(learned(bench, &results.learned));
    }
    let ratios = ratios::all(results);
    if !ratios.is_empty() {
        let rows = ratios.iter().map(|ratio| {
            let goal = ratio.goal.map_or(String::new(), |goal| format!("{goal}"));
            let met = ratio.is_met().map_or("", |met| if met { "yes" } else { "no" });
            let (least, most) = (ratio.spread.least, ratio.spread.most);
            let median = format!("{:.2}", ratio.spread.median);
            vec![ratio.what.clone(), median, format!("{least:.2}..{most:.2}"), goal, met.into()]
        });
        tables.push(Table {
            title: "ratios, pair by pair".into(),
            head: vec!["", "median", "least..most", "goal", "met"],
            rows: rows.collect(),
        });
    }
    tables
}

fn loads(bench: &Bench, workload: Workload, rows: &[Row]) -> Table {
    let (planned, rounds) = (bench.plan.rate_of(workload), bench.plan.rounds_of(workload));
    let line = |row: &Row| {
        let latency = Spread::of(row.samples.iter().map(|sample| sample.said.latency_us));
        // Where the server was not busy all the time, the client could not ask for more.
        let bound = if row.most.busy() < 0.9 { "> " } else { "" };
        vec![
            label(bench, workload, row),
            cost(&row.samples),
            format!("{bound}{}", grouped(row.most.said.per_second() as u32)),
            format!("{:.0}", latency.median),
            row.p99_us.to_string(),
            format!("{:.0}", row.resident as f64 / 1e6),
            row.unanswered().to_string(),
        ]
    };
    Table {
        title: format!("{}, {}/s offered, {rounds} rounds", workload.title(), grouped(planned)),
        head: vec![
            "",
            "CPU per answer, µs",
            "most, answers/s",
            "mean, µs",
            "p99, µs",
            "memory, MB",
            "unanswered",
        ],
        rows: rows.iter().map(line).collect(),
    }
}

/// A contender's name, with its rate where it keeps up with a lower one only.
pub fn label(bench: &Bench, workload: Workload, row: &Row) -> String {
    let name = row.contender.name;
    if row.rate == bench.plan.rate_of(workload) {
        return name.to_string();
    }
    format!("{name} at {}/s", grouped(row.rate))
}

fn memory(lines: &[Memory]) -> Table {
    let line = |one: &Memory| {
        let bytes = one.bytes_each.map_or("taken at start".into(), |bytes| format!("{bytes:.0}"));
        let kept = format!("{:.0} %", one.kept_percent);
        let (answers, resident) = (grouped(one.answers as u32), format!("{:.0}", one.resident as f64 / 1e6));
        vec![one.contender.name.to_string(), bytes, answers, kept, resident]
    };
    Table {
        title: "memory per answer, different names with one address each".into(),
        head: vec!["", "bytes each", "answers", "still there", "memory, MB"],
        rows: lines.iter().map(line).collect(),
    }
}

fn learned(bench: &Bench, lines: &[Line]) -> Table {
    let line = |line: &Line| {
        let lost: u64 = line.samples.iter().map(|sample| sample.said.lost() + sample.said.failed()).sum();
        let latency = Spread::of(line.samples.iter().map(|sample| sample.said.latency_us));
        let latency = format!("{:.0}", latency.median);
        vec![line.label.into(), cost(&line.samples), latency, line.p99_us.to_string(), lost.to_string()]
    };
    let (clients, rate) = (bench.plan.clients, grouped(bench.plan.rate));
    Table {
        title: format!(
            "{clients} clients and their search lists, {rate}/s offered, {} rounds",
            bench.plan.rounds
        ),
        head: vec!["", "CPU per answer, µs", "mean, µs", "p99, µs", "unanswered"],
        rows: lines.iter().map(line).collect(),
    }
}

fn cost(samples: &[Sample]) -> String {
    let Spread { least, median, most } = Spread::of_costs(samples);
    if samples.len() == 1 { format!("{median:.2}") } else { format!("{median:.2} ({least:.2}..{most:.2})") }
}

/// Where, when and with what.
pub fn circumstances(bench: &Bench) -> String {
    let others = bench.contenders.iter().filter(|one| !matches!(one.role, Role::Floor | Role::Echo));
    let versions: Vec<String> = others.map(|one| format!("{} {}", one.name, one.version)).collect();
    let absent = match bench.absent.as_slice() {
        [] => String::new(),
        absent => format!(" Not there: {}.", absent.join(", ")),
    };
    format!(
        "{}; {}. {}; asked by dnsperf {}, in front of {} {}.{absent}",
        today(),
        machine::description(),
        versions.join(", "),
        bench.dnsperf_version,
        bench.authority.name,
        bench.authority.version,
    )
}

pub fn json(bench: &Bench, results: &Results) -> Value {
    let spread =
        |spread: Spread| json!({"least": spread.least, "median": spread.median, "most": spread.most});
    let row = |row: &Row| {
        json!({
            "name": row.contender.name, "version": row.contender.version, "offered_per_second": row.rate,
            "cpu_us_per_answer": spread(Spread::of_costs(&row.samples)),
            "cpu_us_per_answer_by_round": row.samples.iter().map(Sample::cost_us).collect::<Vec<_>>(),
            "most_answers_per_second": row.most.said.per_second(), "busy_at_most": row.most.busy(),
            "latency_us_mean": spread(Spread::of(row.samples.iter().map(|sample| sample.said.latency_us))),
            "latency_us_p99": row.p99_us, "resident_bytes": row.resident, "unanswered": row.unanswered(),
        })
    };
    let line = |line: &Line| {
        json!({
            "name": line.label, "cpu_us_per_answer": spread(Spread::of_costs(&line.samples)),
            "cpu_us_per_answer_by_round": line.samples.iter().map(Sample::cost_us).collect::<Vec<_>>(),
            "latency_us_p99": line.p99_us,
        })
    };
    let memory = |one: &Memory| {
        json!({
            "name": one.contender.name, "bytes_per_answer": one.bytes_each, "answers": one.answers,
            "kept_percent": one.kept_percent, "resident_bytes": one.resident,
        })
    };
    let workloads = results.rows.iter().map(|(workload, rows)| {
        json!({"workload": workload.id(), "rows": rows.iter().map(row).collect::<Vec<_>>()})
    });
    let ratios = ratios::all(results);
    let ratios = ratios.iter().map(|ratio| {
        json!({"what": ratio.what, "ratio": spread(ratio.spread), "goal": ratio.goal, "met": ratio.is_met()})
    });
    json!({
        "circumstances": circumstances(bench),
        "workloads": workloads.collect::<Vec<_>>(),
        "memory": results.memory.iter().map(memory).collect::<Vec<_>>(),
        "learned": results.learned.iter().map(line).collect::<Vec<_>>(),
        "ratios": ratios.collect::<Vec<_>>(),
    })
}

/// Puts the tables into `benchmarks.md` of a folder, between the two marks, and the chart beside it.
pub fn write(bench: &Bench, results: &Results, folder: &Path) {
    let tables: String = tables(bench, results).iter().map(Table::markdown).collect();
    let chart = "![CPU per answer](benchmarks.svg)";
    let circumstances = circumstances(bench);
    table::write_into(
        &folder.join("benchmarks.md"),
        WRITER,
        &format!("{circumstances}\n\n{chart}\n\n{tables}"),
    );
    fs::write(folder.join("benchmarks.svg"), chart::draw(bench, results)).unwrap();
}
