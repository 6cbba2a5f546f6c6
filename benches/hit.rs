//! The way of a hit in pieces and whole: parse, look-up in each level, reply, all of it.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

#[path = "fixture/mod.rs"]
mod fixture;

use std::hint::black_box;
use std::net::SocketAddr;
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};

use fixture::{Crowd, crowd, filled, key, name, query as packet_for, resolver};
use nodens::cache::key::SearchListId;
use nodens::query::{self, Proto};
use nodens::resolve::Client;
use nodens::resolve::hit::Outcome;
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

criterion_group! {
    name = hit;
    config = Criterion::default().warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
    targets = parse, look_up, write_reply, whole_hit, learned_hit
}
criterion_main!(hit);
