//! The load: dnsperf with eight clients, and what it says at its end.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::machine::{Cores, find, pinned};

/// Sockets or connections: a handful of pods.
const CLIENTS: &str = "8";
/// Questions in flight: no more than a socket's default receive buffer holds, so that nothing is lost by waiting.
const IN_FLIGHT: u32 = 200;

/// What is asked, and how.
#[derive(Clone, Copy)]
pub struct Load<'a> {
    pub server: SocketAddr,
    /// A question a line.
    pub file: &'a Path,
    pub tcp: bool,
    /// Questions a second; as many as it can without.
    pub rate: Option<u32>,
    pub in_flight: u32,
    /// To the end of the file so many times,
    pub passes: Option<u32>,
    /// or for so long, whichever is first.
    pub time: Option<Duration>,
    /// The address that is asked from.
    pub from: Option<&'a str>,
    /// Before everything else on its cores: what waits for a core otherwise is the client, not the server.
    pub urgent: bool,
}

impl<'a> Load<'a> {
    pub fn new(server: SocketAddr, file: &'a Path, tcp: bool) -> Load<'a> {
        Load {
            server,
            file,
            tcp,
            rate: None,
            in_flight: IN_FLIGHT,
            passes: None,
            time: None,
            from: None,
            urgent: false,
        }
    }

    fn command(&self, cores: &Cores) -> Command {
        let dnsperf = find("dnsperf").unwrap();
        let mut command = match find("chrt").filter(|_| self.urgent) {
            Some(chrt) => {
                let mut command = pinned(&cores.others, &chrt);
                command.args(["--fifo", "10"]).arg(&dnsperf);
                command
            }
            None => pinned(&cores.others, &dnsperf),
        };
        command.args(["-s", &self.server.ip().to_string(), "-p", &self.server.port().to_string()]);
        command
            .args(["-c", CLIENTS, "-t", "1", "-W", "-q", &self.in_flight.to_string(), "-d"])
            .arg(self.file);
        command.args(["-m", if self.tcp { "tcp" } else { "udp" }]);
        let numbers = [
            ("-Q", self.rate.map(|rate| rate.to_string())),
            ("-n", self.passes.map(|passes| passes.to_string())),
            ("-l", self.time.map(|time| time.as_secs_f64().to_string())),
            ("-a", self.from.map(String::from)),
        ];
        for (option, number) in numbers {
            command.args(number.into_iter().flat_map(|number| [option.into(), number]));
        }
        command
    }

    /// Asks, and tells what came of it.
    pub fn run(&self, cores: &Cores) -> Said {
        let output = self.command(cores).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        // It gives up on a server that resets its connections over and over: that one does not keep up.
        Said::read(&text).unwrap_or_else(|| {
            eprintln!("dnsperf gave up: {}", String::from_utf8_lossy(&output.stderr).trim());
            Said::NOTHING
        })
    }

    /// Asks, and tells what came of it and the time of each answer in microseconds, in order of size.
    pub fn times(&self, cores: &Cores) -> (Said, Vec<u32>) {
        let output = self.command(cores).arg("-v").output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let last = |line: &str| line.strip_prefix("> ")?.rsplit(' ').next()?.parse::<f64>().ok();
        let mut times: Vec<u32> =
            text.lines().filter_map(last).map(|seconds| (seconds * 1e6).round() as u32).collect();
        times.sort_unstable();
        (Said::read(&text).unwrap_or_default(), times)
    }
}

/// What dnsperf says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Said {
    pub sent: u64,
    pub answered: u64,
    pub noerror: u64,
    pub nxdomain: u64,
    /// Seconds from the first question to the last answer.
    pub seconds: f64,
    /// Mean, in microseconds.
    pub latency_us: f64,
}

impl Said {
    /// Of what was asked nothing was answered.
    const NOTHING: Said =
        Said { sent: 1, answered: 0, noerror: 0, nxdomain: 0, seconds: 1.0, latency_us: 0.0 };

    /// What it prints at the end of a run.
    pub fn read(text: &str) -> Option<Said> {
        let after = |label: &str| {
            let line = text.lines().find_map(|line| line.trim_start().strip_prefix(label))?;
            line.split_whitespace().next()?.parse::<f64>().ok()
        };
        let codes = text.lines().find_map(|line| line.trim_start().strip_prefix("Response codes:"))?;
        let code = |name: &str| {
            let mut words = codes.split_whitespace();
            words.find(|word| *word == name)?;
            words.next()?.parse::<u64>().ok()
        };
        Some(Said {
            sent: after("Queries sent:")? as u64,
            answered: after("Queries completed:")? as u64,
            noerror: code("NOERROR").unwrap_or(0),
            nxdomain: code("NXDOMAIN").unwrap_or(0),
            seconds: after("Run time (s):")?,
            latency_us: after("Average Latency (s):")? * 1e6,
        })
    }

    pub fn lost(&self) -> u64 {
        self.sent.saturating_sub(self.answered)
    }

    /// Answers that are neither addresses nor a denial.
    pub fn failed(&self) -> u64 {
        self.answered.saturating_sub(self.noerror + self.nxdomain)
    }

    pub fn per_second(&self) -> f64 {
        self.answered as f64 / self.seconds
    }
}

/// Fails where dnsperf's words are no longer understood.
pub fn check_reading() {
    let text = "  Queries sent:         1000\n  Queries completed:    990 (99.00%)\n  Queries lost:         10 (1.00%)\n
  Response codes:       NOERROR 190 (19.19%), NXDOMAIN 790 (79.80%), SERVFAIL 10 (1.01%)
  Run time (s):         2.000100\n  Average Latency (s):  0.000041 (min 0.000014, max 0.004841)\n";
    let said = Said::read(text).unwrap();
    assert_eq!((said.sent, said.lost(), said.failed(), said.nxdomain), (1000, 10, 10, 790));
    assert!((said.latency_us - 41.0).abs() < 1e-6 && (said.per_second() - 494.97).abs() < 0.1);
}
