//! What one client has of the others: its hits while another asks for as many new names as it can, and while connections
//! stand still.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::Bench;
use crate::ask::query;
use crate::authority::service;
use crate::contenders::{Role, Server};
use crate::dnsperf::{Load, Said};
use crate::table::{Table, grouped};
use crate::workloads::Workload;

/// The flood comes from this address, the hits from another.
const FLOOD: &str = "127.0.9.1";
/// Questions in flight of the flood: dnsperf's own default, and what a socket's default receive buffer holds.
const IN_FLIGHT: [u32; 2] = [100, 200];
/// Hits a second.
const HITS: u32 = 2000;
/// New names that a flood may ask for in a second; it stops where they end.
const FASTEST: u32 = 100_000;
/// Connections that send three octets and nothing more, from as many addresses as their bound asks for.
const STUCK: u16 = 300;
/// Honest questions over TCP meanwhile, one after another.
const HONEST: usize = 200;
/// For the last stuck connection to be closed, far beyond what is promised.
const PATIENCE: Duration = Duration::from_secs(30);

/// Hits of one client over UDP.
pub struct Hits {
    pub beside: String,
    pub answered: u64,
    pub lost: u64,
    /// The median of all rounds' 99th percentiles, in microseconds.
    pub p99_us: u32,
    /// Against the same without neighbours, round by round: median.
    pub ratio: f64,
    /// New names a second that the flood was answered.
    pub flood: u32,
}

/// What becomes of connections.
pub struct Streams {
    /// The slowest of all honest answers, connection included, in microseconds.
    pub slowest_us: u128,
    /// When the last stuck connection was closed, after its last octet.
    pub closed_after: Duration,
}

/// Both.
pub struct Neighbours {
    pub hits: Vec<Hits>,
    pub streams: Streams,
}

/// Measures nodens with its neighbours.
pub fn measure(bench: &Bench) -> Neighbours {
    let contender = bench.contenders.iter().find(|one| one.role == Role::Ours).unwrap();
    let server = bench.start(contender);
    let file = bench.files.of(Workload::HotUdp, 0);
    Load { passes: Some(4), in_flight: 20, ..Load::new(server.addr, &file, false) }.run(&bench.cores);
    let mut runs: Vec<Vec<(Said, u32, Said)>> = vec![vec![]; IN_FLIGHT.len() + 3];
    for round in 0..bench.plan.rounds {
        bench.progress.say(&format!("neighbours: round {} of {}", round + 1, bench.plan.rounds));
        let (said, p99) = hits(bench, &server);
        runs[0].push((said, p99, Said::default()));
        // What the flood takes from the client of the hits, whose core it shares: here it passes nodens by.
        let (flood, (said, p99)) = beside_flood(bench, &server, bench.authority.addr, IN_FLIGHT[0]);
        runs[1].push((said, p99, flood));
        for (place, in_flight) in IN_FLIGHT.into_iter().enumerate() {
            let (flood, (said, p99)) = beside_flood(bench, &server, server.addr, in_flight);
            runs[place + 2].push((said, p99, flood));
        }
        let stuck = stand_still(server.addr);
        let (said, p99) = hits(bench, &server);
        drop(stuck);
        runs[IN_FLIGHT.len() + 2].push((said, p99, Said::default()));
    }
    let idle: Vec<u32> = runs[0].iter().map(|run| run.1).collect();
    let names =
        ["nobody".to_string(), format!("new names asked of the authority, {} in flight", IN_FLIGHT[0])]
            .into_iter()
            .chain(IN_FLIGHT.map(|count| format!("new names, {count} in flight")))
            .chain([format!("{STUCK} connections that stand still")]);
    let hits = names.zip(&runs).map(|(beside, runs)| Hits {
        beside,
        answered: runs.iter().map(|run| run.0.answered).sum(),
        lost: runs.iter().map(|run| run.0.lost() + run.0.failed()).sum(),
        p99_us: median(runs.iter().map(|run| run.1).collect()),
        ratio: median(
            runs.iter().zip(&idle).map(|(run, idle)| run.1 * 1000 / (*idle).max(1)).collect::<Vec<_>>(),
        ) as f64
            / 1000.0,
        flood: median(runs.iter().map(|run| run.2.per_second() as u32).collect()),
    });
    Neighbours { hits: hits.collect(), streams: streams(bench, server.addr) }
}

fn median(mut all: Vec<u32>) -> u32 {
    all.sort_unstable();
    all.get(all.len() / 2).copied().unwrap_or(0)
}

/// One client's hits for a while: what came of them, and the time that 99 of 100 stay within.
fn hits(bench: &Bench, server: &Server) -> (Said, u32) {
    let file = bench.files.of(Workload::HotUdp, 0);
    let load = Load::new(server.addr, &file, false);
    let load = Load { rate: Some(HITS), time: Some(bench.plan.time), urgent: true, ..load };
    let (said, times) = load.times(&bench.cores);
    (said, times.get(times.len() * 99 / 100).copied().unwrap_or(0))
}

fn beside_flood(bench: &Bench, server: &Server, flooded: SocketAddr, in_flight: u32) -> (Said, (Said, u32)) {
    // It begins before the hits and ends after them.
    let time = bench.plan.time + Duration::from_millis(600);
    let names = (f64::from(FASTEST) * time.as_secs_f64()).min(400_000.0) as usize;
    let file = bench.files.of(Workload::Misses, names);
    let load = Load::new(flooded, &file, false);
    let load = Load { in_flight, from: Some(FLOOD), passes: Some(1), time: Some(time), ..load };
    let cores = &bench.cores;
    std::thread::scope(|scope| {
        let flood = scope.spawn(|| load.run(cores));
        std::thread::sleep(Duration::from_millis(300));
        let seen = hits(bench, server);
        (flood.join().unwrap(), seen)
    })
}

/// Opens connections that begin a message and do not end it.
fn stand_still(server: SocketAddr) -> Vec<TcpStream> {
    let open = |number: u16| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let own = IpAddr::from([127, 0, 9, 2 + (number % 6) as u8]);
        socket.bind(&SocketAddr::from((own, 0)).into()).unwrap();
        socket.connect(&server.into()).unwrap();
        let mut stream: TcpStream = socket.into();
        stream.write_all(&[0, 40, 1]).unwrap();
        stream
    };
    (0..STUCK).map(open).collect()
}

fn streams(bench: &Bench, server: SocketAddr) -> Streams {
    bench.progress.say("neighbours: connections");
    let (mut stuck, opened) = (stand_still(server), Instant::now());
    let packet = query(&service(0));
    let framed = [&(packet.len() as u16).to_be_bytes()[..], &packet].concat();
    let slowest = (0..HONEST).map(|_| {
        let start = Instant::now();
        let mut stream = TcpStream::connect(server).unwrap();
        stream.write_all(&framed).unwrap();
        let mut length = [0; 2];
        stream.read_exact(&mut length).unwrap();
        stream.read_exact(&mut vec![0; usize::from(u16::from_be_bytes(length))]).unwrap();
        start.elapsed().as_micros()
    });
    let slowest_us = slowest.max().unwrap_or(0);
    for stream in &mut stuck {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let end = stream.read(&mut [0; 1]);
        assert!(!matches!(end, Ok(1..)), "an answer to three octets");
    }
    Streams { slowest_us, closed_after: opened.elapsed() }
}

impl Streams {
    pub fn text(&self) -> String {
        format!(
            "\nbeside {STUCK} connections that stand still: {HONEST} answers over connections of their own within {} us each; the last \
             that stood still was closed after {:.1} s\n",
            self.slowest_us,
            self.closed_after.as_secs_f64()
        )
    }
}

impl Neighbours {
    pub fn table(&self) -> Table {
        let rows = self.hits.iter().map(|hits| {
            vec![
                hits.beside.clone(),
                if hits.flood > 0 { grouped(hits.flood) } else { String::new() },
                grouped(hits.answered as u32),
                hits.lost.to_string(),
                hits.p99_us.to_string(),
                format!("{:.2}", hits.ratio),
            ]
        });
        Table {
            title: format!("{HITS} hits a second of one client over UDP, nodens with one worker"),
            head: vec!["beside", "of it answered/s", "hits", "lost", "p99 us", "x alone"],
            rows: rows.collect(),
        }
    }
}
