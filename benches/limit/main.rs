//! Forwarders before a resolver that takes 1,024 packets a second, while three times as many names are asked: what they send, what is
//! answered, and what becomes of a polite client beside the flood.
//!
//! `cargo bench --bench limit` takes three minutes for nodens, dnsmasq and unbound, as root, and writes the table of `docs/upstreams.md`, the
//! chart beside it and all that was counted (`limit.csv`). `-- --quick` takes six seconds for each and writes nothing. Under
//! `cargo test` a short run shows that it still works.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    unreachable_pub,
    missing_docs
)]

// What it shares with the comparison, which uses more of it.
#[allow(dead_code)]
#[path = "../compare/ask.rs"]
mod ask;
#[allow(dead_code)]
#[path = "../compare/machine.rs"]
mod machine;
#[path = "../compare/peers.rs"]
mod peers;
#[path = "../compare/table.rs"]
mod table;

mod chart;
mod crowd;
mod forwarders;
mod limiter;
mod record;
mod report;
mod smoke;
mod witness;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;

use crowd::Crowd;
use forwarders::{Forwarder, Running};
use limiter::Limiter;
use record::{Count, Record};
use witness::Witness;

/// Packets a second that a VPC resolver of AWS takes from an interface.
const LIMIT: u32 = 1024;
/// Distinct names a second that one client asks.
const FLOOD: u32 = 3000;
/// Questions a second of another client, all for ten names.
const HOT: u32 = 50;
/// How often is counted.
const STEP: Duration = Duration::from_millis(250);
/// Peers that are asked unless others are named: what stands on nodes.
const USUAL: &[&str] = &["dnsmasq", "unbound", "coredns", "node-cache"];

const EXAMPLES: &str = "\
Examples:
  cargo bench --bench limit                            nodens and the usual peers, and docs/upstreams.md
  cargo bench --bench limit -- --quick                 six seconds each, to try
  cargo bench --bench limit -- --peers unbound,dnsdist

It makes a network namespace and packet-filter rules inside it: it needs root.";

/// Compares what forwarders do before a resolver that takes only so much
#[derive(Debug, Parser)]
#[command(name = "limit", after_help = EXAMPLES)]
struct Args {
    /// Six seconds for each
    #[arg(long)]
    quick: bool,
    /// These peers only
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    peers: Option<Vec<String>>,
    /// Write into upstreams.md, limit.svg and limit.csv in this folder [default: docs/ after a full run, none otherwise]
    #[arg(long, value_name = "DIR")]
    docs: Option<PathBuf>,
    /// What cargo says
    #[arg(long, hide = true)]
    bench: bool,
}

/// How long things take.
#[derive(Clone, Copy)]
struct Plan {
    /// For how long is asked.
    time: Duration,
    /// The end of that, which figures are of.
    settled: Duration,
    /// For the last answers: a client waits for so long.
    linger: Duration,
}

impl Plan {
    const FULL: Plan = Plan {
        time: Duration::from_secs(30),
        settled: Duration::from_secs(20),
        linger: Duration::from_secs(5),
    };
    const QUICK: Plan = Plan {
        time: Duration::from_secs(6),
        settled: Duration::from_secs(3),
        linger: Duration::from_secs(2),
    };
    const SMOKE: Plan = Plan {
        time: Duration::from_secs(2),
        settled: Duration::from_secs(1),
        linger: Duration::from_millis(500),
    };

    /// When the limit doubles, where it does.
    fn doubles_at(&self) -> Duration {
        self.time / 2
    }
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        Some(witness::WITNESS) => witness::become_it(),
        _ if args.iter().any(|arg| arg == "--bench") => return run(&Args::parse()),
        _ => smoke::run(&args),
    }
    ExitCode::SUCCESS
}

fn run(args: &Args) -> ExitCode {
    let missing = missing();
    if !missing.is_empty() {
        eprintln!("error: missing: {}", missing.join(", "));
        return ExitCode::FAILURE;
    }
    let known: Vec<&str> = peers::PEERS.iter().map(|peer| peer.name).collect();
    let wanted: Vec<&str> = match &args.peers {
        Some(names) => names.iter().map(String::as_str).collect(),
        None => USUAL.to_vec(),
    };
    if let Some(unknown) = wanted.iter().find(|name| !known.contains(name)) {
        eprintln!("error: --peers: found {unknown:?}; allowed: {}", known.join(", "));
        return ExitCode::from(2);
    }
    let (forwarders, absent) = forwarders::all(&wanted);
    let plan = if args.quick { Plan::QUICK } else { Plan::FULL };
    let records = measure_all(&forwarders, plan, |count| eprintln!("{count}"));
    println!("{}", report::circumstances(&forwarders, &absent));
    report::tables(&records, plan).iter().for_each(|table| print!("{}", table.text()));
    let is_full = !args.quick && args.peers.is_none();
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    if let Some(folder) = args.docs.clone().or_else(|| is_full.then_some(docs)) {
        report::write(&records, plan, &report::circumstances(&forwarders, &absent), &folder);
        eprintln!("written: upstreams.md, limit.svg and limit.csv in {}", folder.display());
    }
    ExitCode::SUCCESS
}

/// What is needed and not there.
fn missing() -> Vec<&'static str> {
    let tools = ["ip", "knotd", "mount", "nft", "unshare"];
    let mut missing: Vec<_> = tools.into_iter().filter(|tool| machine::find(tool).is_none()).collect();
    if !machine::says(Path::new("id"), &["-u"]).starts_with("0\n") {
        missing.push("the rights of root");
    }
    missing
}

/// Each forwarder before a steady limit, and nodens, the first of them, before one that doubles. `tell` is told each second.
fn measure_all(forwarders: &[Forwarder], plan: Plan, tell: fn(&str)) -> Vec<Record> {
    let mut records: Vec<Record> =
        forwarders.iter().filter_map(|forwarder| measure(forwarder, plan, false, tell)).collect();
    records.extend(measure(&forwarders[0], plan, true, tell));
    records
}

/// One forwarder; nothing where it does not serve.
fn measure(forwarder: &Forwarder, plan: Plan, doubles: bool, tell: fn(&str)) -> Option<Record> {
    let limiter = Limiter::new(LIMIT);
    let running = match Running::start(forwarder, limiter.addr()) {
        Ok(running) => running,
        Err(said) => {
            assert!(!forwarder.is_ours(), "nodens does not serve: {said}");
            tell(&format!("{} does not serve and is left out: {said}", forwarder.name));
            return None;
        }
    };
    let witness = Witness::start(&limiter);
    let name = if doubles { format!("{}, the limit doubles", forwarder.name) } else { forwarder.name.into() };
    let (mut record, begun) = (Record::new(name, LIMIT), Begun::at(limiter.counts()));
    let flood =
        Crowd::start([127, 0, 6, 1].into(), running.addr, FLOOD, |number| format!("n{number}.example.com"));
    let hot = Crowd::start([127, 0, 6, 2].into(), running.addr, HOT, |number| {
        format!("hot{}.short.example.com", number % 10)
    });
    let (mut due, mut second) = (STEP, Count::default());
    while due <= plan.time {
        if doubles && record.limits.len() == 1 && due > plan.doubles_at() {
            limiter.set(2 * LIMIT);
            record.limits.push((begun.start.elapsed().as_secs_f64(), 2 * LIMIT));
        }
        let now = begun.count(due, &limiter, &flood, &hot);
        record.counts.push(now);
        if now.at >= second.at + 0.9 {
            tell(&format!("{}: {}", record.name, now.since(&second)));
            second = now;
        }
        // Where the machine kept this thread back, steps are left out: two counts one right after the other would say nothing.
        while due.as_secs_f64() < now.at + STEP.as_secs_f64() / 2.0 {
            due += STEP;
        }
    }
    flood.ask_no_more();
    hot.ask_no_more();
    let (_, hot) = (flood.stop(plan.linger), hot.stop(plan.linger));
    (record.hot_asked, record.hot_lost) = (hot.asked, hot.asked - hot.answered);
    record.seen = witness.end();
    drop(running);
    Some(record)
}

/// What counts are reckoned from.
struct Begun {
    start: Instant,
    came: u64,
    dropped: u64,
}

impl Begun {
    fn at((came, dropped): (u64, u64)) -> Begun {
        Begun { start: Instant::now(), came, dropped }
    }

    /// All counts at a moment that is waited for.
    fn count(&self, due: Duration, limiter: &Limiter, flood: &Crowd, hot: &Crowd) -> Count {
        std::thread::sleep((self.start + due).saturating_duration_since(Instant::now()));
        let asked = self.start.elapsed();
        let (came, dropped) = limiter.counts();
        let at = (asked + self.start.elapsed()) / 2;
        let sums = (came - self.came, dropped - self.dropped);
        Count::now(at.as_secs_f64(), sums, flood.sums(), hot.sums())
    }
}
