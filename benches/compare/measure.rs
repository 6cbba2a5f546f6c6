//! The measurement: all contenders of a workload in turn at one offered rate, over and over, each by its own CPU time.

use std::path::PathBuf;
use std::time::Duration;

use crate::Bench;
use crate::contenders::{Contender, Role, Server};
use crate::dnsperf::{Load, Said};
use crate::machine::{cpu, resident};
use crate::workloads::Workload;

/// A contender that answers less than this part of what is offered is measured at half the rate.
const KEEPS_UP: f64 = 0.98;
/// Tries at each rate, since a machine that others use may stumble, and how often the rate is halved.
const TRIES: usize = 2;
const HALVINGS: usize = 5;
/// Time for a server to reap children that ended with the load.
const AFTERMATH: Duration = Duration::from_millis(30);

/// One run.
#[derive(Clone, Debug)]
pub struct Sample {
    pub said: Said,
    pub cpu: Duration,
}

impl Sample {
    /// Microseconds of the server's CPU for each answer.
    pub fn cost_us(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.said.answered.max(1) as f64
    }

    /// The part of the time in which the server was busy.
    pub fn busy(&self) -> f64 {
        self.cpu.as_secs_f64() / self.said.seconds
    }
}

/// A line of a table.
pub struct Row {
    pub contender: Contender,
    /// Questions a second that were offered.
    pub rate: u32,
    pub samples: Vec<Sample>,
    /// Without a limit of the rate.
    pub most: Sample,
    /// 99 of 100 answers come within these microseconds.
    pub p99_us: u32,
    /// Bytes in memory at the end.
    pub resident: u64,
}

impl Row {
    /// Questions of all rounds that were not answered as the authority would.
    pub fn unanswered(&self) -> u64 {
        self.samples.iter().map(|sample| sample.said.lost() + sample.said.failed()).sum()
    }

    /// True where it answers practically all.
    pub fn is_reliable(&self) -> bool {
        let sent: u64 = self.samples.iter().map(|sample| sample.said.sent).sum();
        self.unanswered() * 1000 <= sent
    }
}

/// Measures everybody that a workload suits.
pub fn measure(bench: &Bench, workload: Workload) -> Vec<Row> {
    let suits = |one: &&Contender| workload.suits_echo() || matches!(one.role, Role::Ours | Role::Peer);
    let servers: Vec<Server> =
        bench.contenders.iter().filter(suits).map(|contender| bench.start(contender)).collect();
    let rates: Vec<u32> = servers.iter().map(|server| find_rate(bench, workload, server)).collect();
    let mut samples: Vec<Vec<Sample>> = servers.iter().map(|_| Vec::new()).collect();
    let rounds = bench.plan.rounds_of(workload);
    for round in 0..rounds {
        let questions = Questions::of(bench, workload, bench.plan.rate_of(workload), bench.plan.time);
        // Back and forth, so that whoever comes first is not always the same.
        let mut order: Vec<usize> = (0..servers.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for index in order {
            let name = servers[index].contender.name;
            bench.progress.say(&format!("{}: round {} of {rounds}, {name}", workload.id(), round + 1));
            samples[index].push(questions.ask(bench, &servers[index], Some(rates[index])));
        }
    }
    servers
        .into_iter()
        .zip(rates)
        .zip(samples)
        .map(|((server, rate), samples)| finish(bench, workload, &server, rate, samples))
        .collect()
}

/// The questions of a run, which several contenders are asked.
struct Questions {
    workload: Workload,
    file: PathBuf,
    time: Duration,
}

impl Questions {
    fn of(bench: &Bench, workload: Workload, rate: u32, time: Duration) -> Questions {
        let count = (f64::from(rate) * time.as_secs_f64() * 1.1) as usize;
        Questions { workload, file: bench.files.of(workload, count), time }
    }

    fn load(&self, server: &Server) -> Load<'_> {
        let load = Load::new(server.addr, &self.file, self.workload.is_tcp());
        let passes = (self.workload == Workload::Misses).then_some(1);
        Load { time: Some(self.time), passes, ..load }
    }

    fn ask(&self, bench: &Bench, server: &Server, rate: Option<u32>) -> Sample {
        let load = Load { rate, ..self.load(server) };
        let before = cpu(server.pid());
        let said = load.run(&bench.cores);
        std::thread::sleep(AFTERMATH);
        let sample = Sample { cpu: cpu(server.pid()) - before, said };
        check(self.workload, server, &sample.said);
        sample
    }
}

/// Fails where a server says something else than the authority: then its costs compare with nothing.
fn check(workload: Workload, server: &Server, said: &Said) {
    let denied = said.nxdomain as f64 * 100.0 / said.answered.max(1) as f64;
    let expected = workload.denied_percent();
    let is_right = said.answered < 100 || (denied - expected).abs() < 2.0;
    assert!(is_right, "{}: {denied:.1} % NXDOMAIN in place of {expected}", server.contender.name);
}

/// Warms a server up and finds the rate at which it answers practically all: the planned one, or half, and so on.
fn find_rate(bench: &Bench, workload: Workload, server: &Server) -> u32 {
    bench.progress.say(&format!("{}: {} warms up", workload.id(), server.contender.name));
    if workload != Workload::Misses {
        let file = bench.files.of(workload, 0);
        let warm = Load::new(server.addr, &file, workload.is_tcp());
        Load { passes: Some(4), in_flight: 20, ..warm }.run(&bench.cores);
    }
    let mut rate = bench.plan.rate_of(workload);
    for _ in 0..HALVINGS {
        for _ in 0..TRIES {
            let questions = Questions::of(bench, workload, rate, bench.plan.extra_time / 2);
            let said = questions.ask(bench, server, Some(rate)).said;
            let offered = f64::from(rate) * questions.time.as_secs_f64();
            if said.answered as f64 >= offered * KEEPS_UP && said.failed() == 0 {
                return rate;
            }
        }
        rate /= 2;
    }
    rate
}

/// What is measured once: the most it can do, how long answers take, what it holds in memory.
fn finish(bench: &Bench, workload: Workload, server: &Server, rate: u32, samples: Vec<Sample>) -> Row {
    bench.progress.say(&format!("{}: {} without a limit, and timed", workload.id(), server.contender.name));
    let fastest = if workload == Workload::Misses { 60_000 } else { 0 };
    let most = Questions::of(bench, workload, fastest, bench.plan.extra_time).ask(bench, server, None);
    let timed = Questions::of(bench, workload, rate, bench.plan.extra_time);
    let (_, times) = Load { rate: Some(rate), ..timed.load(server) }.times(&bench.cores);
    let p99_us = times.get(times.len() * 99 / 100).copied().unwrap_or(0);
    let resident = resident(server.pid());
    Row { contender: server.contender.clone(), rate, samples, most, p99_us, resident }
}
