//! What is asked, how fast, how long and how often.

use std::cell::Cell;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;

use crate::authority::{NAMES, host, service, unique};
use crate::machine::Dir;

/// A table of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Workload {
    /// Services of the cluster, over and over
    HotUdp,
    /// The same over eight connections
    HotTcp,
    /// Four steps of a search that are denied, and one name that exists
    Search,
    /// Names that nobody has asked before
    Misses,
    /// What an answer costs in memory
    Memory,
    /// 250 clients, with their search lists known and unknown
    Learned,
}

impl Workload {
    pub const ALL: [Workload; 6] = [
        Workload::HotUdp,
        Workload::HotTcp,
        Workload::Search,
        Workload::Misses,
        Workload::Memory,
        Workload::Learned,
    ];

    pub fn title(self) -> &'static str {
        match self {
            Workload::HotUdp => "hot UDP",
            Workload::HotTcp => "hot TCP",
            Workload::Search => "search mix",
            Workload::Misses => "misses",
            Workload::Memory => "memory",
            Workload::Learned => "learned",
        }
    }

    /// As it is written after `--only`.
    pub fn id(self) -> String {
        self.to_possible_value().unwrap().get_name().to_string()
    }

    pub fn is_tcp(self) -> bool {
        self == Workload::HotTcp
    }

    /// Of a hundred answers so many are NXDOMAIN.
    pub fn denied_percent(self) -> f64 {
        if self == Workload::Search { 80.0 } else { 0.0 }
    }

    /// True where an echo says something: it answers all with addresses, and over UDP only.
    pub fn suits_echo(self) -> bool {
        self == Workload::HotUdp
    }
}

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Turns through all contenders where a ratio is promised,
    pub rounds: usize,
    /// and elsewhere.
    pub fewer_rounds: usize,
    /// Of one measurement.
    pub time: Duration,
    /// Of the run without a limit, and of the one that times each answer.
    pub extra_time: Duration,
    /// Questions a second, but for misses: nearly what one core of clients can ask. At a fraction of it most of a server's CPU time
    /// is the kernel's, which wakes an idle core for each question,
    pub rate: u32,
    /// over TCP,
    pub tcp_rate: u32,
    /// and of misses, where the authority and the client share the other cores.
    pub miss_rate: u32,
    /// Answers that memory is counted over.
    pub answers: usize,
    /// Clients with search lists,
    pub clients: u8,
    /// and the names they ask for, at most.
    pub names: usize,
}

impl Plan {
    pub const FULL: Plan = Plan {
        rounds: 7,
        fewer_rounds: 3,
        time: Duration::from_secs(2),
        extra_time: Duration::from_millis(1500),
        rate: 150_000,
        tcp_rate: 50_000,
        miss_rate: 20_000,
        answers: 200_000,
        clients: 250,
        names: NAMES,
    };
    pub const QUICK: Plan = Plan {
        rounds: 1,
        fewer_rounds: 1,
        time: Duration::from_secs(1),
        extra_time: Duration::from_millis(500),
        answers: 20_000,
        ..Plan::FULL
    };
    /// Shows that it works, and measures nothing.
    pub const SMOKE: Plan = Plan {
        rounds: 1,
        fewer_rounds: 1,
        time: Duration::from_millis(100),
        extra_time: Duration::from_millis(100),
        rate: 1000,
        tcp_rate: 1000,
        miss_rate: 200,
        answers: 1000,
        clients: 10,
        names: 50,
    };

    pub fn rounds_of(&self, workload: Workload) -> usize {
        if workload == Workload::Search { self.fewer_rounds } else { self.rounds }
    }

    pub fn rate_of(&self, workload: Workload) -> u32 {
        match workload {
            Workload::HotTcp => self.tcp_rate,
            Workload::Misses => self.miss_rate,
            _ => self.rate,
        }
    }
}

/// The questions, in files as dnsperf wants them.
pub struct Files {
    dir: Dir,
    hot: PathBuf,
    search: PathBuf,
    series: Cell<usize>,
}

impl Files {
    pub fn write() -> Files {
        let dir = Dir::new("questions");
        let lines = |name: &dyn Fn(usize) -> String, count| {
            (0..count).fold(String::new(), |mut text, number| {
                writeln!(text, "{} A", name(number)).unwrap();
                text
            })
        };
        Files {
            hot: dir.file("hot", &lines(&service, NAMES)),
            search: dir.file("search", &lines(&search_step, NAMES / 5 * 5)),
            dir,
            series: Cell::new(0),
        }
    }

    /// The questions of a workload; for misses, so many that nobody has asked yet.
    pub fn of(&self, workload: Workload, count: usize) -> PathBuf {
        match workload {
            Workload::HotUdp | Workload::HotTcp | Workload::Learned => self.hot.clone(),
            Workload::Search => self.search.clone(),
            Workload::Misses | Workload::Memory => self.unique(count),
        }
    }

    fn unique(&self, count: usize) -> PathBuf {
        let series = format!("s{}", self.series.get());
        self.series.set(self.series.get() + 1);
        let mut text = String::new();
        (0..count).for_each(|number| writeln!(text, "{} A", unique(&series, number)).unwrap());
        self.dir.file("unique", &text)
    }
}

/// Four of five are steps of a search. No base has more than one of them, so that nobody shows a whole walk: what is compared
/// is a cache of denials, also where nodens would cut the search short.
fn search_step(number: usize) -> String {
    let base = host(number);
    match number % 5 {
        0 => format!("{base}.shop.svc.cluster.local"),
        1 => format!("{base}.svc.cluster.local"),
        2 => format!("{base}.cluster.local"),
        3 => format!("{base}.node.internal"),
        _ => base,
    }
}
