//! nodens beside the servers that others run, and beside an echo in its own loop: CPU per answer, latency, memory.
//!
//! `cargo bench --bench compare` measures everything in about a quarter of an hour and writes `docs/benchmarks.md` and its
//! chart; `-- --help` tells how to measure less. Every contender stands on a core of its own in front of one authority, is asked by
//! dnsperf from the other cores, and is judged by its own CPU time for each answer at a rate that all keep up with.
//! Under `cargo test` a short run shows that it still works.

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

mod ask;
mod authority;
mod chart;
mod clients;
mod contenders;
mod dnsperf;
mod echo;
mod learned;
mod machine;
mod measure;
mod memory;
mod neighbours;
mod peers;
mod plain;
mod ratios;
mod report;
mod smoke;
mod syscalls;
mod table;
mod workloads;

use std::cell::Cell;
use std::io::{IsTerminal, Write, stderr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;

use authority::{Authority, service};
use contenders::{Contender, Place, Role, Server};
use echo::Template;
use machine::{Cores, find};
use workloads::{Files, Plan, Workload};

const EXAMPLES: &str = "\
Examples:
  cargo bench --bench compare                          everything, and docs/benchmarks.md
  cargo bench --bench compare -- --quick               one round of a second each, to try
  cargo bench --bench compare -- --only hot-udp        in four minutes
  cargo bench --bench compare -- --syscalls            system calls per answer, by strace
  NODENS_COMPARE_COREDNS=/path cargo bench --bench compare

Peers are those that are installed, or that NODENS_COMPARE_NAME gives the path of: UNBOUND, DNSDIST, PDNS_RECURSOR,
KNOT_RESOLVER, NAMED, DNSMASQ, COREDNS, NODE_CACHE.";

/// Compares nodens with an echo and with its peers
#[derive(Debug, Parser)]
#[command(name = "compare", after_help = EXAMPLES)]
struct Args {
    /// One round, a second each
    #[arg(long)]
    quick: bool,
    /// Some workloads only
    #[arg(long, value_name = "WORKLOAD,...", value_delimiter = ',')]
    only: Vec<Workload>,
    /// Some peers only
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    peers: Option<Vec<String>>,
    /// Print JSON in place of tables
    #[arg(long)]
    json: bool,
    /// Write benchmarks.md and benchmarks.svg in this folder [default: docs/ after a full run, none otherwise]
    #[arg(long, value_name = "DIR")]
    docs: Option<PathBuf>,
    /// Count system calls instead
    #[arg(long)]
    syscalls: bool,
    /// Measure what a flood of new names and connections that stand still do to others' hits instead
    #[arg(long, conflicts_with = "syscalls")]
    neighbours: bool,
    /// What cargo says
    #[arg(long, hide = true)]
    bench: bool,
}

/// What all measurements need.
struct Bench {
    cores: Cores,
    authority: Authority,
    contenders: Vec<Contender>,
    absent: Vec<&'static str>,
    dnsperf_version: String,
    files: Files,
    plan: Plan,
    progress: Progress,
    template: Template,
}

/// What came of them.
#[derive(Default)]
struct Results {
    rows: Vec<(Workload, Vec<measure::Row>)>,
    memory: Vec<memory::Memory>,
    learned: Vec<learned::Line>,
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        Some(kind @ (echo::LOOP | echo::PLAIN)) => echo::become_it(kind, &args[1..]),
        Some(clients::CLIENTS) => clients::become_them(&args[1..]),
        _ if args.iter().any(|arg| arg == "--bench") => return run(&Args::parse()),
        _ => smoke::run(&args),
    }
    ExitCode::SUCCESS
}

fn run(args: &Args) -> ExitCode {
    let missing = missing_tools();
    if !missing.is_empty() {
        eprintln!("error: missing: {}", missing.join(", "));
        return ExitCode::FAILURE;
    }
    let plan = if args.quick { Plan::QUICK } else { Plan::FULL };
    let mut bench = Bench::prepare(plan);
    if !bench.cores.are_apart() {
        eprintln!("error: one core for server and client measures neither; two are needed");
        return ExitCode::FAILURE;
    }
    if let Some(wanted) = &args.peers
        && let Err(unknown) = bench.keep_peers(wanted)
    {
        eprintln!("error: --peers: found {unknown:?}; allowed: {}", bench.peers().join(", "));
        return ExitCode::from(2);
    }
    if args.syscalls {
        let Some(calls) = syscalls::count(&bench) else {
            eprintln!("error: missing: strace");
            return ExitCode::FAILURE;
        };
        bench.progress.clear();
        print!("{}", calls.table().text());
        return ExitCode::SUCCESS;
    }
    if args.neighbours {
        let measured = neighbours::measure(&bench);
        bench.progress.clear();
        print!("{}{}", measured.table().text(), measured.streams.text());
        return ExitCode::SUCCESS;
    }
    bench.leave_out_the_unfit();
    let workloads = if args.only.is_empty() { Workload::ALL.to_vec() } else { args.only.clone() };
    let results = bench.measure(&workloads);
    bench.progress.clear();
    if args.json {
        println!("{:#}", report::json(&bench, &results));
    } else {
        println!("{}", report::circumstances(&bench));
        report::tables(&bench, &results).iter().for_each(|table| print!("{}", table.text()));
    }
    let is_full = !args.quick && args.only.is_empty() && args.peers.is_none();
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    if let Some(folder) = args.docs.clone().or_else(|| is_full.then_some(docs)) {
        report::write(&bench, &results, &folder);
        eprintln!("written: benchmarks.md and benchmarks.svg in {}", folder.display());
    }
    ExitCode::SUCCESS
}

/// Tools without which nothing can be measured.
fn missing_tools() -> Vec<&'static str> {
    let mut missing: Vec<_> =
        ["dnsperf", "taskset"].into_iter().filter(|tool| find(tool).is_none()).collect();
    if find("knotd").or_else(|| find("nsd")).is_none() {
        missing.push("knotd or nsd");
    }
    missing
}

impl Bench {
    /// Starts the authority, looks for contenders, and asks nodens what its answers look like.
    fn prepare(plan: Plan) -> Bench {
        let cores = Cores::split();
        let authority = Authority::start(&cores).unwrap();
        let (contenders, absent) = contenders::all();
        let ours = contenders.iter().find(|one| one.role == Role::Ours).unwrap();
        let place = Place { cores: &cores, authority: authority.addr };
        let server = Server::start(ours, &place, None).unwrap();
        let query = ask::query(&service(0));
        let template = Template::of(&query, &ask::udp(server.addr, &query).unwrap());
        let dnsperf_version = peers::version(&machine::says(&find("dnsperf").unwrap(), &["-h"]));
        let (files, progress) = (Files::write(), Progress::default());
        Bench { cores, authority, contenders, absent, dnsperf_version, files, plan, progress, template }
    }

    fn peers(&self) -> Vec<&'static str> {
        self.contenders.iter().filter(|one| one.role == Role::Peer).map(|one| one.name).collect()
    }

    /// Keeps the named peers; the first name that is nobody's is the error.
    fn keep_peers(&mut self, wanted: &[String]) -> Result<(), String> {
        if let Some(unknown) = wanted.iter().find(|name| !self.peers().contains(&name.as_str())) {
            return Err(unknown.clone());
        }
        self.contenders.retain(|one| one.role != Role::Peer || wanted.iter().any(|name| name == one.name));
        Ok(())
    }

    /// Starts a contender in front of the authority.
    fn start(&self, contender: &Contender) -> Server {
        self.start_echo(contender, &self.template)
    }

    /// The same for an echo of other answers.
    fn start_echo(&self, contender: &Contender, template: &Template) -> Server {
        let place = Place { cores: &self.cores, authority: self.authority.addr };
        let failed = |said| panic!("{} does not serve: {said}", contender.name);
        Server::start(contender, &place, Some(template)).unwrap_or_else(failed)
    }

    /// Leaves out peers that do not serve, another version than the one their configuration is for, say; tells why.
    fn leave_out_the_unfit(&mut self) {
        let place = Place { cores: &self.cores, authority: self.authority.addr };
        self.contenders.retain(|one| {
            self.progress.say(&format!("{} starts", one.name));
            let tried = Server::start(one, &place, Some(&self.template));
            self.progress.clear();
            if let Err(said) = &tried {
                eprintln!("{} {} does not serve and is left out: {said}", one.name, one.version);
                assert!(one.role == Role::Peer, "without it nothing can be compared");
                self.absent.push(one.name);
            }
            tried.is_ok()
        });
    }

    fn measure(&self, workloads: &[Workload]) -> Results {
        let mut results = Results::default();
        for &workload in workloads {
            match workload {
                Workload::Memory => results.memory = memory::measure(self),
                Workload::Learned => results.learned = learned::measure(self),
                _ => results.rows.push((workload, measure::measure(self, workload))),
            }
        }
        results
    }
}

/// One line that says what is going on, where somebody may be looking.
#[derive(Default)]
struct Progress {
    shown: Cell<bool>,
}

impl Progress {
    fn say(&self, what: &str) {
        if stderr().is_terminal() {
            let _ = write!(stderr(), "\r\x1b[K{what}");
            let _ = stderr().flush();
            self.shown.set(true);
        }
    }

    fn clear(&self) {
        if self.shown.replace(false) {
            let _ = write!(stderr(), "\r\x1b[K");
        }
    }
}
