//! What people read: tables on the terminal and in `docs/upstreams.md`, beside them a chart and all counts.

use std::fs;
use std::path::Path;

use crate::forwarders::Forwarder;
use crate::record::{Record, csv};
use crate::table::{self, Table, grouped, today};
use crate::{FLOOD, LIMIT, Plan, chart, machine};

/// Who writes the tables, as the marks in the document say.
const WRITER: &str = "cargo bench --bench limit";

/// What nodens is to reach: of the limit, of the limit, packets, questions, seconds.
const SENT: std::ops::RangeInclusive<f64> = 0.97..=1.0;
const ANSWERED: f64 = 0.95;
const PACKETS_EACH: f64 = 1.1;
const FOLLOWED: f64 = 10.0;

pub fn tables(records: &[Record], plan: Plan) -> Vec<Table> {
    let seconds = plan.settled.as_secs_f64();
    let line = |record: &Record| {
        vec![
            record.name.clone(),
            format!("{:.3}", record.part(seconds, |count| count.sent)),
            format!("{:.3}", record.part(seconds, |count| count.answered)),
            format!("{:.2}", record.packets_each()),
            format!("{} of {}", record.hot_lost, record.hot_asked),
        ]
    };
    let steady = records.iter().filter(|record| record.limits.len() == 1);
    let title = format!(
        "{} names a second before a limit of {} packets a second, the last {seconds:.0} s",
        grouped(FLOOD),
        grouped(LIMIT)
    );
    let head = vec!["", "sent / limit", "answered / limit", "packets a question", "polite client's lost"];
    vec![Table { title, head, rows: steady.map(line).collect() }, goals(records, seconds)]
}

/// What nodens is to reach, and whether it did.
fn goals(records: &[Record], seconds: f64) -> Table {
    let yes_or_no = |met| if met { "yes" } else { "no" }.to_string();
    let steady = &records[0];
    let (sent, answered) =
        (steady.part(seconds, |count| count.sent), steady.part(seconds, |count| count.answered));
    let (each, lost) = (steady.packets_each(), steady.hot_lost);
    let mut rows = vec![
        vec![
            "sent / limit".into(),
            format!("{sent:.3}"),
            format!("{}..{}", SENT.start(), SENT.end()),
            yes_or_no(SENT.contains(&sent)),
        ],
        vec![
            "answered / limit".into(),
            format!("{answered:.3}"),
            format!(">= {ANSWERED}"),
            yes_or_no(answered >= ANSWERED),
        ],
        vec![
            "packets a question".into(),
            format!("{each:.3}"),
            format!("< {PACKETS_EACH}"),
            yes_or_no(each < PACKETS_EACH),
        ],
        vec!["polite client's lost".into(), lost.to_string(), "0".into(), yes_or_no(lost == 0)],
    ];
    for doubled in records.iter().filter(|record| record.limits.len() > 1) {
        let after = doubled.followed_after();
        rows.push(vec![
            "a doubled limit is followed, s".into(),
            after.map_or("not at all".into(), |after| format!("{after:.1}")),
            format!("<= {FOLLOWED}"),
            yes_or_no(after.is_some_and(|after| after <= FOLLOWED)),
        ]);
    }
    Table { title: "nodens".into(), head: vec!["", "measured", "goal", "met"], rows }
}

/// Where, when and with what.
pub fn circumstances(forwarders: &[Forwarder], absent: &[&str]) -> String {
    let versions: Vec<String> =
        forwarders.iter().map(|one| format!("{} {}", one.name, one.version)).collect();
    let absent = match absent {
        [] => String::new(),
        absent => format!(" Not there: {}.", absent.join(", ")),
    };
    format!("{}; {}. {}.{absent}", today(), machine::description(), versions.join(", "))
}

/// Puts the tables into `upstreams.md` of a folder, between the two marks, and the chart and all counts beside it.
pub fn write(records: &[Record], plan: Plan, circumstances: &str, folder: &Path) {
    let tables: String = tables(records, plan).iter().map(Table::markdown).collect();
    let chart = "![Offered, sent and answered over time](limit.svg)";
    let text = format!(
        "{circumstances}\n\n{chart}\n\n{tables}All counts, by the quarter of a second: [limit.csv](limit.csv).\n\n"
    );
    table::write_into(&folder.join("upstreams.md"), WRITER, &text);
    fs::write(folder.join("limit.svg"), chart::draw(records)).unwrap();
    fs::write(folder.join("limit.csv"), csv(records)).unwrap();
}
