//! What `cargo test` runs: everything once and shortly, so that the comparison cannot rot. It measures nothing.

use crate::ask;
use crate::authority::service;
use crate::contenders::{Role, Server};
use crate::dnsperf::check_reading;
use crate::machine::{Dir, find};
use crate::measure::Row;
use crate::ratios::check_spread;
use crate::workloads::{Plan, Workload};
use crate::{Bench, Results, missing_tools, neighbours, peers, report, syscalls, table};

/// The peer that takes part, where it is installed.
const PEER: &str = "unbound";

pub fn run(args: &[String]) {
    // A filter for tests is a filter for this as well.
    if args.iter().any(|arg| arg == "--list" || !arg.starts_with('-') && !"compare".contains(arg.as_str())) {
        return;
    }
    check_reading();
    check_spread();
    check_words();
    let missing = missing_tools();
    if !missing.is_empty() {
        assert!(std::env::var_os("NODENS_CI").is_none(), "missing: {}", missing.join(", "));
        println!("compare: skipped: missing: {}", missing.join(", "));
        return;
    }
    let mut bench = Bench::prepare(Plan::SMOKE);
    bench.contenders.retain(|one| one.role != Role::Peer || one.name == PEER);
    bench.leave_out_the_unfit();
    assert!(bench.absent.iter().all(|name| *name != PEER || find(PEER).is_none()));
    check_echoes(&bench);
    let results = bench.measure(&Workload::ALL);
    check_results(&bench, &results);
    check_documents(&bench, &results);
    check_calls(&bench);
    check_neighbours(&bench);
    println!("compare: works");
}

fn check_words() {
    for (text, version) in [
        ("Version 1.17.1\n\nConfigure line: ", "1.17.1"),
        ("BIND 9.18.49-1~deb12u3-Debian (Extended Support Version)", "9.18.49"),
        ("dnsdist 1.7.3 (Lua 5.1.4)", "1.7.3"),
        ("PowerDNS Recursor 4.8.8 (C) 2001-2022", "4.8.8"),
        ("Dnsmasq version 2.90  Copyright", "2.90"),
        ("knotd (Knot DNS), version 3.2.6", "3.2.6"),
        ("CoreDNS-1.13.1\nlinux/amd64, go1.25", "1.13.1"),
        ("nothing", "?"),
    ] {
        assert_eq!(peers::version(text), version);
    }
    let grouped = [0, 999, 1000, 1_234_567].map(table::grouped);
    assert_eq!(grouped, ["0", "999", "1,000", "1,234,567"]);
}

/// An echo's replies are the real ones, but for what they say: the same question, flags, counts and length.
fn check_echoes(bench: &Bench) {
    let servers: Vec<Server> = bench.contenders.iter().map(|one| bench.start(one)).collect();
    for number in [0, 7, 1000] {
        let mut query = ask::query(&service(number));
        query[..2].copy_from_slice(&[0x12, number as u8]);
        let replies =
            servers.iter().map(|server| (server.contender.role, ask::udp(server.addr, &query).unwrap()));
        let replies: Vec<_> = replies.collect();
        let real = &replies.iter().find(|(role, _)| *role == Role::Ours).unwrap().1;
        for (_, reply) in replies.iter().filter(|(role, _)| matches!(role, Role::Floor | Role::Echo)) {
            assert_eq!(reply.len(), real.len());
            assert_eq!(reply[..query.len()], real[..query.len()]);
        }
    }
}

fn check_results(bench: &Bench, results: &Results) {
    let caches = bench.contenders.iter().filter(|one| matches!(one.role, Role::Ours | Role::Peer)).count();
    let lines = |workload| results.rows.iter().find(|(one, _)| *one == workload).unwrap().1.len();
    assert_eq!(lines(Workload::HotUdp), bench.contenders.len());
    for workload in [Workload::HotTcp, Workload::Search, Workload::Misses] {
        assert_eq!(lines(workload), caches, "{workload:?}");
    }
    for row in results.rows.iter().flat_map(|(_, rows)| rows) {
        let used =
            |row: &Row| row.samples.iter().all(|sample| sample.said.answered > 0 && sample.cost_us() > 0.0);
        assert!(used(row) && row.most.said.answered > 0 && row.p99_us > 0, "{}", row.contender.name);
    }
    assert_eq!(results.memory.len(), caches);
    assert!(results.memory.iter().all(|one| one.resident > 0 && one.answers > 0));
    assert!(results.learned.iter().all(|line| line.samples.iter().all(|sample| sample.said.noerror > 0)));
    let text = report::json(bench, results).to_string();
    assert!(text.contains("hot UDP: nodens / echo"), "{text}");
}

/// One in flight takes a call to receive and one to send.
fn check_calls(bench: &Bench) {
    let Some(calls) = syscalls::count(bench) else {
        assert!(std::env::var_os("NODENS_CI").is_none(), "missing: strace");
        return println!("compare: system calls are not counted: missing: strace");
    };
    let [few, many] = calls.sums();
    assert!(few >= 2.0 && many > 0.0, "{few} {many}");
    assert!(calls.table().text().contains("recvmmsg"), "{}", calls.table().text());
}

/// Hits are answered beside each neighbour, and connections that stand still are closed.
fn check_neighbours(bench: &Bench) {
    let neighbours = neighbours::measure(bench);
    assert!(neighbours.hits.iter().all(|hits| hits.answered > 0 && hits.p99_us > 0));
    assert!(neighbours.hits.iter().filter(|hits| hits.flood > 0).count() >= 2, "floods are answered too");
    assert!(neighbours.streams.text().contains("closed after"));
    assert!(neighbours.table().text().contains("connections that stand still"));
}

/// What is written stays between its marks, and the second writing replaces the first.
fn check_documents(bench: &Bench, results: &Results) {
    let dir = Dir::new("docs");
    let own = include_str!("../../docs/benchmarks.md");
    let path = dir.file("benchmarks.md", own);
    let mut written = Vec::new();
    for _ in 0..2 {
        report::write(bench, results, &dir.0);
        written.push(std::fs::read_to_string(&path).unwrap());
    }
    assert_eq!(written[0], written[1]);
    let (head, tail) = (own.split("<!--").next().unwrap(), own.rsplit("-->").next().unwrap());
    assert!(written[0].starts_with(head) && written[0].ends_with(tail));
    assert!(written[0].contains("| nodens |") && written[0].contains("](benchmarks.svg)"));
    let svg = std::fs::read_to_string(dir.0.join("benchmarks.svg")).unwrap();
    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
    assert_eq!(svg.matches("<text").count(), svg.matches("</text>").count());
}
