//! What the machine offers: cores, tools, free ports, a folder for a while, and what processes have used.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

#[path = "../../tests/it/ports.rs"]
mod ports;

pub use ports::free_addr;

/// The unit of CPU times in `/proc/PID/stat`: USER_HZ is 100 on every architecture that nodens is built for.
const TICK: Duration = Duration::from_millis(10);

/// Who runs where, as lists for `taskset`.
#[derive(Clone, Debug)]
pub struct Cores {
    /// The server under measurement, alone on it.
    pub server: String,
    /// The clients and the authority.
    pub others: String,
}

impl Cores {
    /// The last core that this process may use is the server's.
    pub fn split() -> Cores {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap();
        let mut all: Vec<u32> = Vec::new();
        for range in allowed.trim().split(',') {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            all.extend(first.parse::<u32>().unwrap()..=last.parse().unwrap());
        }
        let server = all.pop().unwrap().to_string();
        let others = all.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
        Cores { others: if others.is_empty() { server.clone() } else { others }, server }
    }

    /// True where the server has a core of its own.
    pub fn are_apart(&self) -> bool {
        self.server != self.others
    }
}

/// A program that runs on these cores only; `taskset` becomes it, so the child's ID is its own.
pub fn pinned(cores: &str, program: &Path) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", cores]).arg(program);
    command
}

/// Where a tool is: on the path, or on the administrator's.
pub fn find(tool: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let more = ["/usr/sbin".into(), "/sbin".into()];
    std::env::split_paths(&path).chain(more).map(|folder| folder.join(tool)).find(|path| path.is_file())
}

/// A folder that is there for as long as this is.
pub struct Dir(pub PathBuf);

impl Dir {
    pub fn new(what: &str) -> Dir {
        let port = free_addr().port();
        let path = std::env::temp_dir().join(format!("nodens-compare-{}-{what}-{port}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Dir(path)
    }

    /// Writes a file into it.
    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A process and all that it has started and that still runs.
pub fn family(pid: u32) -> Vec<u32> {
    let mut all = vec![pid];
    let mut next = 0;
    while let Some(one) = all.get(next) {
        let tasks = fs::read_dir(format!("/proc/{one}/task")).into_iter().flatten().flatten();
        let children = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
        let children: Vec<u32> = children
            .flat_map(|line| line.split(' ').filter_map(|id| id.parse().ok()).collect::<Vec<_>>())
            .collect();
        all.extend(children);
        next += 1;
    }
    all
}

/// Ends a child and what it has started.
pub fn end(child: &mut Child) {
    let all = family(child.id());
    let _ = child.kill();
    for left in all.iter().skip(1) {
        let _ = Command::new("kill").args(["-KILL", &left.to_string()]).stderr(Stdio::null()).status();
    }
    let _ = child.wait();
}

/// CPU time of a process: of its threads by the scheduler's nanoseconds, of the children that run likewise, and of those
/// that have ended by the ticks it was told of (dnsmasq has a child for each TCP connection).
pub fn cpu(pid: u32) -> Duration {
    family(pid).into_iter().map(|one| running(one) + ended_children(one)).sum()
}

fn running(pid: u32) -> Duration {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let texts = tasks.filter_map(|task| fs::read_to_string(task.path().join("schedstat")).ok());
    let nanoseconds = texts.filter_map(|text| text.split(' ').next()?.parse::<u64>().ok());
    Duration::from_nanos(nanoseconds.sum())
}

fn ended_children(pid: u32) -> Duration {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return Duration::ZERO };
    // The name in brackets may hold anything; after it, cutime and cstime are the 14th and 15th field.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields).split_whitespace();
    let ticks: u32 = fields.skip(13).take(2).filter_map(|field| field.parse::<u32>().ok()).sum();
    TICK * ticks
}

/// Bytes of a process that are in memory.
pub fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0) * 1024
}

/// What a command says, on either stream.
pub fn says(program: &Path, args: &[&str]) -> String {
    let Ok(output) = Command::new(program).args(args).output() else { return String::new() };
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// The machine in one line.
pub fn description() -> String {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let models: Vec<&str> = cpus
        .lines()
        .filter(|line| line.starts_with("model name"))
        .filter_map(|line| line.split_once(": ").map(|(_, model)| model))
        .collect();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let rustc = says(Path::new("rustc"), &["--version"]);
    format!(
        "{} cores of {}, Linux {}, {}",
        cpus.lines().filter(|line| line.starts_with("processor")).count(),
        models.first().unwrap_or(&"a processor without a name"),
        kernel.trim().split('-').next().unwrap_or_default(),
        rustc.split(" (").next().unwrap_or_default().trim(),
    )
}
