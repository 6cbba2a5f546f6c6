//! The way of a hit in pieces and whole: parse, look-up in each level, reply, all of it.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

#[path = "fixture/mod.rs"]
mod fixture;

use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};

use fixture::{Crowd, crowd, filled, key, name, query as packet_for, resolver};
use nodens::cache::key::SearchListId;
use nodens::query::{self, Proto};
use nodens::resolve::hit::Outcome;
use nodens::resolve::{Client, Shared};
use nodens::search::Mode;
use nodens::wire::reply;

fn parse(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("parse");
    for (label, edns) in [("plain", false), ("edns", true)] {
        let packet = packet_for(&name(1), edns);
        group.bench_function(label, |bench| bench.iter(|| query::read(black_box(&packet)).is_ok()));
    }
    let (resolver, packet) = (resolver(), packet_for(&name(1), false));
    group.bench_function("key", |bench| bench.iter(|| key(&resolver, black_box(&packet)).hash()));
    group.finish();
}

fn look_up(criterion: &mut Criterion) {
    let (resolver, packets) = filled(true);
    let cache = &resolver.shared.cache;
    let keys: Vec<_> = packets.iter().map(|packet| key(&resolver, packet)).collect();
    let now = resolver.shared.clock.now();
    let mut group = criterion.benchmark_group("look-up");
    let mut next = keys.iter().cycle();
    group.bench_function("hot, one pin a batch of 32", |bench| {
        bench.iter_batched(
            || std::array::from_fn::<_, 32, _>(|_| next.next().unwrap()),
            |keys| {
                let pin = cache.pin();
                keys.iter().filter(|key| pin.get(key, now).is_some()).count()
            },
            BatchSize::SmallInput,
        )
    });
    let mut next = keys.iter().cycle();
    group.bench_function("store", |bench| bench.iter(|| cache.peek(next.next().unwrap(), now).is_some()));
    group.finish();
}

fn write_reply(criterion: &mut Criterion) {
    let (resolver, packets) = filled(true);
    let (cache, now) = (&resolver.shared.cache, resolver.shared.clock.now());
    let asked = query::read(&packets[0]).unwrap().asked;
    let entry = cache.peek(&key(&resolver, &packets[0]), now).unwrap();
    let mut out = [0; 1232];
    criterion.bench_function("reply", |bench| {
        bench.iter(|| reply::write(&mut out, black_box(&asked), &entry.said(), 7))
    });
}

fn whole_hit(criterion: &mut Criterion) {
    let client = Client { addr: SocketAddr::from(([127, 0, 0, 1], 4000)), proto: Proto::Udp };
    let mut group = criterion.benchmark_group("whole hit, batch of 32");
    group.throughput(Throughput::Elements(32));
    for (label, hot) in [("hot", true), ("store, moving up", false)] {
        let (resolver, packets) = filled(hot);
        let mut next = packets.iter().cycle();
        let mut out = [0; 1232];
        group.bench_function(label, |bench| {
            bench.iter(|| {
                let batch = resolver.batch();
                for _ in 0..32 {
                    let outcome = resolver.answer(next.next().unwrap(), client, &batch, &mut out);
                    assert!(matches!(outcome, Outcome::Reply(1..)));
                }
            })
        });
    }
    group.finish();
}

/// 250 clients, whose lists are known, ask for services of the cluster, for bare names, and for first steps of searches that
/// are composed; the same without search lists, where a composed answer is a literal one.
fn learned_hit(criterion: &mut Criterion) {
    for (label, mode, list) in
        [("off", Mode::Off, SearchListId::LITERAL), ("learned", Mode::Learn, SearchListId::SEARCHED)]
    {
        hits_of_250(criterion, label, mode, list);
    }
}

fn hits_of_250(criterion: &mut Criterion, label: &str, mode: Mode, searched: SearchListId) {
    let Crowd { resolver, clients, services, bare, steps } = crowd(mode, searched);
    let mut group = criterion.benchmark_group(format!("whole hit, 250 clients, lists {label}"));
    group.throughput(Throughput::Elements(32));
    for (what, packets) in [("services", &services), ("bare names", &bare), ("composed", &steps)] {
        let mut next = packets.iter().cycle().zip(clients.iter().cycle());
        let mut out = [0; 1232];
        group.bench_function(what, |bench| {
            bench.iter(|| {
                let batch = resolver.batch();
                for _ in 0..32 {
                    let (packet, client) = next.next().unwrap();
                    let outcome = resolver.answer(packet, *client, &batch, &mut out);
                    assert!(matches!(outcome, Outcome::Reply(1..)));
                }
            })
        });
    }
    group.finish();
}

/// CPU time of this thread so far: on a busy machine the clock on the wall says nothing.
fn thread_time() -> Duration {
    // The scheduler sums up when it takes the core away.
    std::thread::sleep(Duration::from_micros(1));
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}

/// Workers that answer hits from one cache side by side: the time of each for a batch of 32. What they wrote to a line
/// that both read would show as more time for two than for one.
fn side_by_side(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("whole hit, batch of 32, CPU time of each thread");
    group.throughput(Throughput::Elements(32));
    for names in [1024, 100_000] {
        let shared = Arc::new(fixture::shared(Mode::Learn, 2 * names));
        let packets = Arc::new(fixture::fill(&fixture::worker(Arc::clone(&shared)), names, true));
        for threads in [1, 2] {
            group.bench_function(format!("{names} names, {threads} threads"), |bench| {
                bench.iter_custom(|batches| {
                    let running: Vec<_> = (0..threads)
                        .map(|number| {
                            let (shared, packets) = (Arc::clone(&shared), Arc::clone(&packets));
                            std::thread::spawn(move || hits_of_one_thread(shared, &packets, number, batches))
                        })
                        .collect();
                    let times = running.into_iter().map(|thread| thread.join().unwrap());
                    times.sum::<Duration>() / threads
                })
            });
        }
    }
    group.finish();
}

fn hits_of_one_thread(shared: Arc<Shared>, packets: &[Vec<u8>], number: u32, batches: u64) -> Duration {
    let resolver = fixture::worker(shared);
    let client = Client { addr: SocketAddr::from(([127, 0, 0, 1], 4000)), proto: Proto::Udp };
    let mut next = packets.iter().cycle().skip(number as usize * packets.len() / 2);
    let mut out = [0; 1232];
    let start = thread_time();
    for _ in 0..batches {
        let batch = resolver.batch();
        for _ in 0..32 {
            let outcome = resolver.answer(next.next().unwrap(), client, &batch, &mut out);
            assert!(matches!(outcome, Outcome::Reply(1..)));
        }
    }
    thread_time() - start
}

criterion_group! {
    name = hit;
    config = Criterion::default().warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
    targets = parse, look_up, write_reply, whole_hit, learned_hit, side_by_side
}
criterion_main!(hit);
