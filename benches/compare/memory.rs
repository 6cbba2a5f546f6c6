//! What an answer costs in memory: caches are filled with answers to different names, the pages of the process are counted.

use std::fs;

use crate::Bench;
use crate::contenders::{Contender, Role};
use crate::dnsperf::Load;
use crate::machine::resident;
use crate::workloads::Workload;

/// Questions in flight while a cache is filled.
const IN_FLIGHT: u32 = 50;
/// So many are asked before it counts, in parts of what is asked then: buffers, pools and tables are there afterwards.
const BEFORE: usize = 50;
/// One in so many is asked for again.
const AGAIN: usize = 10;
/// No cache holds an answer in less; what grows by less has taken its room at its start, as dnsmasq does.
const LEAST_BYTES: f64 = 16.0;

/// What came of it.
pub struct Memory {
    pub contender: Contender,
    /// What the process has grown by for each answer; nothing where it had taken its room before.
    pub bytes_each: Option<f64>,
    /// Answers that came.
    pub answers: u64,
    /// Bytes of the process in memory at the end.
    pub resident: u64,
    /// Of a hundred answers so many were still answered without the authority: it used so much less CPU for them.
    pub kept_percent: f64,
}

/// Measures every cache, each on its own and fresh.
pub fn measure(bench: &Bench) -> Vec<Memory> {
    let caches = bench.contenders.iter().filter(|one| matches!(one.role, Role::Ours | Role::Peer));
    caches.map(|contender| fill(bench, contender)).collect()
}

fn fill(bench: &Bench, contender: &Contender) -> Memory {
    let answers = bench.plan.answers;
    bench.progress.say(&format!("memory: {}, {answers} answers", contender.name));
    let server = bench.start(contender);
    let ask = |file: &std::path::Path| {
        let load = Load { passes: Some(1), in_flight: IN_FLIGHT, ..Load::new(server.addr, file, false) };
        let before = bench.authority.cpu();
        let said = load.run(&bench.cores);
        let cost = (bench.authority.cpu() - before).as_secs_f64() / said.answered.max(1) as f64;
        (said, cost)
    };
    ask(&bench.files.of(Workload::Memory, answers / BEFORE));
    let before = resident(server.pid());
    let file = bench.files.of(Workload::Memory, answers);
    let (said, cost) = ask(&file);
    let after = resident(server.pid());
    let all = fs::read_to_string(&file).unwrap();
    let some: String = all.lines().step_by(AGAIN).flat_map(|line| [line, "\n"]).collect();
    fs::write(&file, some).unwrap();
    let (_, cost_again) = ask(&file);
    let bytes_each = after.saturating_sub(before) as f64 / said.answered.max(1) as f64;
    Memory {
        contender: contender.clone(),
        bytes_each: Some(bytes_each).filter(|bytes| *bytes >= LEAST_BYTES),
        answers: said.answered,
        resident: after,
        kept_percent: (100.0 * (1.0 - cost_again / cost)).max(0.0),
    }
}
