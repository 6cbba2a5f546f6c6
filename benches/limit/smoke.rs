//! What `cargo test` runs: everything once and shortly, so that the benchmark cannot rot. It measures nothing.

use crate::machine::Dir;
use crate::record::{self, Record};
use crate::{Plan, forwarders, measure_all, missing, record::check_figures, report, witness};

/// The peer that takes part, where it is installed.
const PEER: &str = "unbound";

pub fn run(args: &[String]) {
    // A filter for tests is a filter for this as well.
    if args.iter().any(|arg| arg == "--list" || !arg.starts_with('-') && !"limit".contains(arg.as_str())) {
        return;
    }
    check_figures();
    witness::check_reading();
    check_documents();
    let missing = missing();
    if !missing.is_empty() {
        assert!(std::env::var_os("NODENS_CI").is_none(), "missing: {}", missing.join(", "));
        println!("limit: skipped: missing: {}", missing.join(", "));
        return;
    }
    let (forwarders, _) = forwarders::all(&[PEER]);
    let records = measure_all(&forwarders, Plan::SMOKE, |_| {});
    assert_eq!(records.len(), forwarders.len() + 1);
    assert_eq!(records[records.len() - 1].limits.len(), 2);
    records.iter().for_each(check_record);
    println!("limit: works");
}

/// Each count counts, and those that count the same agree.
fn check_record(record: &Record) {
    let (all, seconds) = record.last(f64::MAX);
    let said = format!("{}: {all:?} {:?}", record.name, record.seen);
    assert!(all.offered > 0 && all.sent > 0 && all.answered > 0 && all.hot_answered > 0, "{said}");
    assert!(all.answered <= all.sent && all.dropped < all.sent && seconds >= 1.0, "{said}");
    // One that does not look for the limit runs into it.
    assert!(all.dropped > 0 || record.name != PEER, "{said}");
    // The witness goes on for a moment, and may miss what came while it had to wait for a core.
    assert!(record.seen.packets * 10 >= all.sent * 9, "{said}");
    assert!((1.0..30.0).contains(&record.packets_each()), "{said}");
}

/// What is written stands between its marks, and the second writing replaces the first.
fn check_documents() {
    let dir = Dir::new("docs");
    let own = include_str!("../../docs/upstreams.md");
    let path = dir.file("upstreams.md", own);
    let mut doubled = record::made(&[(20, 1000), (20, 2000)]);
    doubled.limits.push((5.0, 2000));
    let records = [record::made(&[(40, 1000)]), doubled];
    let written = [(); 2].map(|()| {
        report::write(&records, Plan::QUICK, "Here.", &dir.0);
        std::fs::read_to_string(&path).unwrap()
    });
    assert_eq!(written[0], written[1]);
    let (head, tail) = (own.split("<!--").next().unwrap(), own.rsplit("-->").next().unwrap());
    assert!(written[0].starts_with(head) && written[0].ends_with(tail));
    assert!(
        written[0].contains("| made |") && written[0].contains("| a doubled limit is followed, s | 0.0 |")
    );
    let svg = std::fs::read_to_string(dir.0.join("limit.svg")).unwrap();
    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
    assert_eq!((svg.matches("<polyline").count(), svg.matches("stroke-dasharray").count()), (6, 4));
}
