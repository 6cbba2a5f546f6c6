//! The way of a hit in pieces and whole: parse, look-up in each level, reply, all of it.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};

use nodens::cache::entry::Entry;
use nodens::cache::key::{QueryKey, SearchListId};
use nodens::cache::ttl::Caps;
use nodens::cache::{Cache, Size};
use nodens::clock::Clock;
use nodens::query::{self, Proto};
use nodens::resolve::hit::Outcome;
use nodens::resolve::{Client, Resolver, Shared, cookie, learning};
use nodens::search::clients::{List, View};
use nodens::search::compose::compose;
use nodens::search::list::Suffixes;
use nodens::search::{Mode, Search};
use nodens::upstream::admission::{Flights, Gate};
use nodens::upstream::zones::Zones;
use nodens::upstream::{Outbound, Upstreams, loops};
use nodens::wire::answer::Answer;
use nodens::wire::name::Name;
use nodens::wire::reply;

/// Names in turn, as many as a busy node uses over and over.
const NAMES: usize = 1024;

fn query(name: &str, edns: bool) -> Vec<u8> {
    let mut packet = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(edns)];
    packet.extend_from_slice(Name::from_text(name).unwrap().as_wire());
    packet.extend_from_slice(&[0, 1, 0, 1]);
    if edns {
        packet.extend_from_slice(&[0, 0, 41, 4, 0xd0, 0, 0, 0, 0, 0, 0]);
    }
    packet
}

/// Two addresses for whatever was asked.
fn answer(query: &[u8]) -> Answer {
    let mut message = query.to_vec();
    message[2..4].copy_from_slice(&[0x81, 0x80]);
    message[7] = 2;
    message[11] = 0;
    for last in [1, 2] {
        message.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0x0e, 0x10, 0, 4, 192, 0, 2, last]);
    }
    Answer::read(&message).unwrap()
}

fn name(number: usize) -> String {
    format!("service-{number}.shop.svc.cluster.local")
}

fn resolver() -> Resolver {
    resolver_in(Mode::Off)
}

fn resolver_in(mode: Mode) -> Resolver {
    let caps = Caps { positive: Duration::from_secs(86_400), negative: Duration::from_secs(3600) };
    let size = Size { store_bytes: 64 << 20, hot_entries: 4 * NAMES, hot_bytes: 32 << 20 };
    let shared = Shared {
        cache: Cache::new(size, caps),
        upstreams: Upstreams { zones: Zones::new(vec![], vec![]), nonces: loops::Nonces::default() },
        flights: Arc::new(Flights::default()),
        walks: Arc::new(Flights::default()),
        search: Search::new(mode, Suffixes::new(name_of("cluster.local"), &[]).unwrap(), false),
        waiting: Arc::new(Gate::new(1000, 1000)),
        clock: Clock::start(),
        cookies: cookie::Secret::new([7; 16]),
    };
    Resolver {
        shared: Arc::new(shared),
        carrier: Box::new(Outbound::new(&[])),
        cells: Arc::default(),
        notebook: learning::pair(1).0.pop(),
    }
}

fn name_of(text: &str) -> Name {
    Name::from_text(text).unwrap()
}

fn key(resolver: &Resolver, packet: &[u8]) -> QueryKey {
    QueryKey::new(&query::read(packet).unwrap(), SearchListId::LITERAL, resolver.shared.cache.hasher())
}

/// A resolver whose hot level or store holds all names.
fn filled(hot: bool) -> (Resolver, Vec<Vec<u8>>) {
    filled_in(Mode::Off, hot)
}

fn filled_in(mode: Mode, hot: bool) -> (Resolver, Vec<Vec<u8>>) {
    let resolver = resolver_in(mode);
    let packets: Vec<_> = (0..NAMES).map(|number| query(&name(number), false)).collect();
    for packet in &packets {
        let (cache, key, now) = (&resolver.shared.cache, key(&resolver, packet), resolver.shared.clock.now());
        cache.keep(&key, answer(packet), [127, 0, 0, 1].into(), now);
        if hot {
            cache.stored(&key, now).unwrap();
        }
    }
    (resolver, packets)
}

fn parse(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("parse");
    for (label, edns) in [("plain", false), ("edns", true)] {
        let packet = query(&name(1), edns);
        group.bench_function(label, |bench| bench.iter(|| query::read(black_box(&packet)).is_ok()));
    }
    let (resolver, packet) = (resolver(), query(&name(1), false));
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
    let (resolver, services) = filled_in(mode, true);
    let (shared, now) = (&resolver.shared, resolver.shared.clock.now());
    let clients: Vec<Client> = (0..250)
        .map(|n| Client { addr: SocketAddr::from(([10, 0, 0, n], 4000)), proto: Proto::Udp })
        .collect();
    let list = List {
        namespace: b"shop"[..].into(),
        proven_until: Some(now.after(Duration::from_secs(86_400))),
        literal_until: now,
    };
    for client in &clients {
        let view = View { shared: false, lists: vec![list.clone()] };
        shared.search.clients().publish(client.addr.ip(), view);
    }
    let bare: Vec<_> = (0..NAMES).map(|number| query(&format!("www{number}.example.com"), false)).collect();
    let steps: Vec<_> = (0..NAMES)
        .map(|number| query(&format!("www{number}.example.com.shop.svc.cluster.local"), false))
        .collect();
    for (packet, step) in bare.iter().zip(&steps) {
        let literal = key(&resolver, packet);
        let part = shared.cache.keep(&literal, answer(packet), clients[0].ip(), now);
        shared.cache.stored(&literal, now).unwrap();
        let asked = query::read(step).unwrap();
        let searched = QueryKey::new(&asked, searched, shared.cache.hasher());
        let (qname, target) =
            (Name::from_wire(asked.question.qname()).unwrap(), Name::from_wire(literal.qname()).unwrap());
        let lifetime = Duration::from_secs(3600);
        let composed = compose(&qname, 1, &target, Some(&part), lifetime, now).unwrap();
        let bucket = shared.cache.bucket(clients[0].ip());
        let entry = Entry::composed(&searched, &composed, lifetime, 4, bucket, vec![part], now);
        shared.cache.put(&searched, entry, &[], now);
        shared.cache.stored(&searched, now).unwrap();
    }
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
