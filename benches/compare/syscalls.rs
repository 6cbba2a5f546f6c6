//! System calls per question of nodens, counted by strace, with one question in flight and with many.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use crate::Bench;
use crate::ask::wait_for;
use crate::contenders::Role;
use crate::dnsperf::Load;
use crate::machine::{Dir, find};
use crate::table::{Table, grouped};
use crate::workloads::Workload;

/// Questions in flight, few and many.
const IN_FLIGHT: [u32; 2] = [1, 200];

/// What each question costs in system calls, by name, with few and with many in flight.
pub struct Calls {
    by_name: BTreeMap<String, [f64; 2]>,
    answers: [u64; 2],
}

/// Counts; nothing where there is no strace.
pub fn count(bench: &Bench) -> Option<Calls> {
    let strace = find("strace")?;
    let contender = bench.contenders.iter().find(|one| one.role == Role::Ours).unwrap();
    let server = bench.start(contender);
    let file = bench.files.of(Workload::HotUdp, 0);
    let load = Load::new(server.addr, &file, false);
    Load { passes: Some(4), in_flight: 20, ..load }.run(&bench.cores);
    let dir = Dir::new("strace");
    let mut calls = Calls { by_name: BTreeMap::new(), answers: [0; 2] };
    for (place, in_flight) in IN_FLIGHT.into_iter().enumerate() {
        bench.progress.say(&format!("system calls, {in_flight} in flight"));
        let counts = dir.0.join(format!("counts-{in_flight}"));
        let mut tracer = Command::new(&strace)
            .args(["-c", "-f", "-p", &server.pid().to_string(), "-o"])
            .arg(&counts)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        wait_for("strace holds every thread", || is_traced(server.pid()));
        let said = Load { in_flight, time: Some(bench.plan.time), ..load }.run(&bench.cores);
        // It lets go and writes its table when it is interrupted.
        let _ = Command::new("kill").args(["-INT", &tracer.id().to_string()]).status();
        tracer.wait().unwrap();
        let text = std::fs::read_to_string(&counts).unwrap();
        for (name, count) in read(&text) {
            calls.by_name.entry(name).or_default()[place] += count as f64 / said.answered.max(1) as f64;
        }
        calls.answers[place] = said.answered;
    }
    Some(calls)
}

/// True once a tracer has hold of all threads of a process.
fn is_traced(pid: u32) -> bool {
    let mut tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    tasks.all(|task| {
        let status = std::fs::read_to_string(task.path().join("status")).unwrap_or_default();
        status.lines().any(|line| line.starts_with("TracerPid:") && !line.ends_with("\t0"))
    })
}

impl Calls {
    /// All system calls of an answer, with few and with many in flight.
    pub fn sums(&self) -> [f64; 2] {
        self.by_name.values().fold([0.0; 2], |sums, each| [sums[0] + each[0], sums[1] + each[1]])
    }

    pub fn table(&self) -> Table {
        let [few, many] = self.answers.map(|count| grouped(count as u32));
        let line = |name: &str, each: &[f64; 2]| {
            vec![name.to_string(), format!("{:.3}", each[0]), format!("{:.3}", each[1])]
        };
        // Timers and threads that do not answer make fewer.
        let often = self.by_name.iter().filter(|(_, each)| each.iter().any(|count| *count >= 0.001));
        let mut rows: Vec<_> = often.map(|(name, each)| line(name, each)).collect();
        rows.push(line("all", &self.sums()));
        Table {
            title: format!("system calls of nodens per answer, hot UDP, {few} and {many} answers"),
            head: vec!["", "1 in flight", "200 in flight"],
            rows,
        }
    }
}

/// Names and counts of the table that `strace -c` writes: the fourth column and the last.
fn read(text: &str) -> Vec<(String, u64)> {
    let rows = text.lines().filter(|line| line.trim_start().starts_with(|c: char| c.is_ascii_digit()));
    rows.filter_map(|row| {
        let fields: Vec<&str> = row.split_whitespace().collect();
        let name = fields.last().filter(|name| **name != "total")?;
        Some((name.to_string(), fields.get(3)?.parse().ok()?))
    })
    .collect()
}
