//! A whole miss, from packet to reply: a place to wait, the flight, the budget, a socket of the pool, the kernel, the answer kept.
//!
//! A server on another thread answers at once. What is counted is the CPU time of the worker's thread, system calls included, by the
//! scheduler's nanoseconds: the server's core does not matter, nor who else uses the machine.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

#[path = "fixture/mod.rs"]
mod fixture;

use std::cell::Cell;
use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tokio::runtime::{Builder, LocalOptions};

use fixture::{answer, query, shared, worker};
use nodens::query::Proto;
use nodens::resolve::hit::Outcome;
use nodens::resolve::{Client, Resolver, miss};
use nodens::search::Mode;
use nodens::upstream::budget::{Budget, Plan};
use nodens::upstream::health::{Endpoint, Transport};
use nodens::upstream::zones::{Endpoints, Zones};
use nodens::wire::name::Name;

/// The allocator of the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Questions in flight, as many as a busy node has.
const IN_FLIGHT: usize = 64;
/// The largest budget there is. More is asked here: some questions wait for their turns.
const LARGEST: &str = "100000/s";

/// Answers every question for as long as the benchmark runs.
fn server() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let addr = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 1500];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            // The question alone: its additional section is for the server, not from it.
            let end = nodens::wire::question::Question::read(&buffer[..length]).unwrap().end();
            let _ = socket.send_to(&answer(&buffer[..end]).wire, from);
        }
    });
    addr
}

fn resolver_before(server: SocketAddr, budget: &str) -> Rc<Resolver> {
    let mut shared = shared(Mode::Off, 1024);
    let mut zones = Zones::new([Name::ROOT], vec![]);
    let budget = Budget::from_text(budget).unwrap();
    zones.plan(&Name::ROOT, Plan { budget, group: None });
    let members = vec![Endpoint::plain(Transport::Udp, server)];
    zones.set(&Name::ROOT, &Endpoints { members, last_resort: vec![] });
    shared.upstreams.zones = zones;
    Rc::new(worker(Arc::new(shared)))
}

/// CPU time of this thread, which the scheduler sums up when it takes the core away.
fn used() -> Duration {
    std::thread::sleep(Duration::from_micros(1));
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}

/// Asks for names that nobody asked for before.
async fn ask(resolver: &Rc<Resolver>, count: u64, next: &Cell<u64>) {
    let client = Client { addr: SocketAddr::from(([127, 0, 0, 1], 4000)), proto: Proto::Udp };
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..count {
        let number = next.replace(next.get() + 1);
        let packet = query(&format!("host-{number}.example.com"), false);
        let outcome = resolver.answer(&packet, client, &resolver.batch(), &mut [0; 1232]);
        let Outcome::Miss(missed) = outcome else { continue };
        asking.spawn_local(miss::answer(Rc::clone(resolver), missed));
        if asking.len() >= IN_FLIGHT {
            check(asking.join_next().await);
        }
    }
    while let Some(reply) = asking.join_next().await {
        check(Some(reply));
    }
}

fn check(reply: Option<Result<Vec<u8>, tokio::task::JoinError>>) {
    let reply = reply.unwrap().unwrap();
    assert_eq!((reply[3] & 15, reply[7]), (0, 2), "answered with two addresses");
}

fn whole_miss(criterion: &mut Criterion) {
    let server = server();
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).unwrap();
    let next = Cell::new(0);
    let mut group = criterion.benchmark_group(format!("whole miss, {IN_FLIGHT} in flight, CPU time"));
    group.throughput(Throughput::Elements(1));
    for (label, budget) in [("no budget", "none"), ("the largest budget", LARGEST), ("adaptive", "adaptive")]
    {
        let resolver = runtime.block_on(async { resolver_before(server, budget) });
        group.bench_function(label, |bench| {
            bench.iter_custom(|count| {
                runtime.block_on(async {
                    let before = used();
                    ask(&resolver, count, &next).await;
                    used() - before
                })
            })
        });
    }
    group.finish();
}

criterion_group!(benches, whole_miss);
criterion_main!(benches);
