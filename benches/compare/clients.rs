//! 250 clients with addresses of their own, as pods have them, which dnsperf cannot be: a load like its, made by a child of
//! this program so that it runs where dnsperf would.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::ask::query;
use crate::authority::{NAMES, host, service};
use crate::dnsperf::Said;
use crate::machine::{Cores, pinned};

/// The first argument of the child.
pub const CLIENTS: &str = "clients";
/// How often the sender wakes.
const TICK: Duration = Duration::from_micros(200);
/// For the last answers.
const LINGER: Duration = Duration::from_millis(200);
/// Where a query's ID is, and as many as there are.
const IDS: usize = 1 << 16;

/// What they ask for.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub enum What {
    /// Services of the cluster.
    Services,
    /// First steps of searches.
    FirstSteps,
}

impl What {
    /// The names, in turn, so many at most. First steps are of names of one length, so that their answers are as well.
    pub fn names(self, most: usize) -> Vec<String> {
        match self {
            What::Services => (0..NAMES).take(most).map(service).collect(),
            What::FirstSteps => (100..1000).take(most).map(|number| first_step(&host(number))).collect(),
        }
    }
}

/// The first question of a search.
pub fn first_step(base: &str) -> String {
    format!("{base}.shop.svc.cluster.local")
}

/// An address of the loopback network for each.
pub fn address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 1, number + 1)
}

/// What the child is told.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub struct Task {
    pub server: SocketAddr,
    pub clients: u8,
    pub rate: u32,
    pub time: Duration,
    pub what: What,
    /// How many names at most.
    pub names: usize,
}

/// What it tells.
#[derive(Debug, Deserialize, Serialize)]
struct Told {
    sent: u64,
    noerror: u64,
    nxdomain: u64,
    answered: u64,
    mean_us: f64,
    p99_us: u32,
}

impl Task {
    /// Asks, in a child, and tells what came of it, and within which microseconds 99 of 100 answers came.
    pub fn run(&self, cores: &Cores) -> (Said, u32) {
        let mut command = pinned(&cores.others, &std::env::current_exe().unwrap());
        command.arg(CLIENTS).arg(serde_json::to_string(self).unwrap());
        let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output().unwrap();
        assert!(output.status.success(), "the clients ended, {}", output.status);
        let told: Told = serde_json::from_slice(&output.stdout).unwrap();
        let said = Said {
            sent: told.sent,
            answered: told.answered,
            noerror: told.noerror,
            nxdomain: told.nxdomain,
            seconds: self.time.as_secs_f64(),
            latency_us: told.mean_us,
        };
        (said, told.p99_us)
    }
}

/// What has been answered so far.
#[derive(Default)]
struct Answers {
    times_us: Vec<u32>,
    noerror: u64,
    nxdomain: u64,
}

/// Is the clients.
pub fn become_them(args: &[String]) {
    let task: Task = serde_json::from_str(&args[0]).unwrap();
    let sockets: Vec<UdpSocket> = (0..task.clients)
        .map(|number| {
            let socket = UdpSocket::bind((address(number), 0)).unwrap();
            socket.connect(task.server).unwrap();
            socket.set_nonblocking(true).unwrap();
            socket
        })
        .collect();
    let start = Instant::now();
    let sent_at: Arc<Vec<AtomicU64>> = Arc::new((0..IDS).map(|_| AtomicU64::new(0)).collect());
    let answers: Arc<Mutex<Answers>> = Arc::default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (sending, times) =
        (sockets.iter().map(|one| one.try_clone().unwrap()).collect(), Arc::clone(&sent_at));
    let sender = std::thread::spawn(move || send(task, sending, &times, start));
    runtime.block_on(async {
        for socket in sockets {
            let socket = tokio::net::UdpSocket::from_std(socket).unwrap();
            tokio::spawn(receive(socket, Arc::clone(&sent_at), Arc::clone(&answers), start));
        }
        tokio::time::sleep(task.time + LINGER).await;
    });
    let sent = sender.join().unwrap();
    let mut answers = answers.lock().unwrap();
    answers.times_us.sort_unstable();
    let times = &answers.times_us;
    let told = Told {
        sent,
        noerror: answers.noerror,
        nxdomain: answers.nxdomain,
        answered: times.len() as u64,
        mean_us: times.iter().map(|time| f64::from(*time)).sum::<f64>() / times.len().max(1) as f64,
        p99_us: times.get(times.len() * 99 / 100).copied().unwrap_or(0),
    };
    println!("{}", serde_json::to_string(&told).unwrap());
}

/// Sends what is due, from one client after the other.
fn send(task: Task, sockets: Vec<UdpSocket>, sent_at: &[AtomicU64], start: Instant) -> u64 {
    let mut queries: Vec<Vec<u8>> = task.what.names(task.names).iter().map(|name| query(name)).collect();
    let (mut number, mut sent) = (0, 0);
    while start.elapsed() < task.time {
        let due = (start.elapsed().as_secs_f64() * f64::from(task.rate)) as usize;
        while number < due {
            let (place, clients) = (number % queries.len(), sockets.len());
            let packet = &mut queries[place];
            packet[..2].copy_from_slice(&((number % IDS) as u16).to_be_bytes());
            sent_at[number % IDS].store(start.elapsed().as_nanos() as u64, Ordering::Relaxed);
            sent += u64::from(sockets[number % clients].send(packet).is_ok());
            number += 1;
        }
        std::thread::sleep(TICK);
    }
    sent
}

async fn receive(
    socket: tokio::net::UdpSocket,
    sent_at: Arc<Vec<AtomicU64>>,
    answers: Arc<Mutex<Answers>>,
    start: Instant,
) {
    let mut buffer = [0; 4096];
    loop {
        let Ok(length) = socket.recv(&mut buffer).await else { continue };
        if length < 12 {
            continue;
        }
        let id = u16::from_be_bytes([buffer[0], buffer[1]]);
        let passed = start.elapsed().as_nanos() as u64 - sent_at[usize::from(id)].load(Ordering::Relaxed);
        let mut answers = answers.lock().unwrap();
        answers.times_us.push((passed / 1000) as u32);
        match buffer[3] & 15 {
            0 => answers.noerror += 1,
            3 => answers.nxdomain += 1,
            _ => {}
        }
    }
}
