//! Instructions of each hop and of whole hits, counted under callgrind: the same on a busy machine as on an idle one.
//!
//! `cargo bench --bench instructions` (needs valgrind and `gungraun-runner`) fails where a count is more than a tenth above
//! the one recorded here; whoever makes a way shorter records the new count with the change that did it.

#![allow(clippy::unwrap_used, missing_docs)]

mod fixture;

use std::hint::black_box;
use std::net::SocketAddr;

use gungraun::prelude::*;
use gungraun::{Callgrind, EventKind, LibraryBenchmarkConfig};

use fixture::{Crowd, NAMES, crowd, filled, key, name, query as packet_for};
use nodens::cache::key::{QueryKey, SearchListId};
use nodens::query::{self, Proto};
use nodens::resolve::hit::Outcome;
use nodens::resolve::{Client, Resolver};
use nodens::search::Mode;
use nodens::wire::reply;

/// Packets of a batch; a count is that of a whole batch, so that what a batch shares counts as it does in service.
const BATCH: usize = 32;

/// A tenth more than what was recorded: another processor has other copies of memcpy.
fn at_most(recorded: u64) -> LibraryBenchmarkConfig {
    let mut callgrind = Callgrind::default();
    callgrind.hard_limits([(EventKind::Ir, recorded + recorded / 10)]);
    let mut config = LibraryBenchmarkConfig::default();
    config.tool(callgrind);
    config
}

type Packets = (Resolver, Vec<Client>, Vec<Vec<u8>>);

fn packets(edns: bool) -> Vec<Vec<u8>> {
    (0..BATCH).map(|number| packet_for(&name(number), edns)).collect()
}

fn keys() -> (Resolver, Vec<QueryKey>) {
    let (resolver, packets) = filled(true);
    let keys = packets.iter().take(BATCH).map(|packet| key(&resolver, packet)).collect();
    (resolver, keys)
}

fn one_client(hot: bool) -> Packets {
    let (resolver, packets) = filled(hot);
    let client = Client { addr: SocketAddr::from(([127, 0, 0, 1], 4000)), proto: Proto::Udp };
    (resolver, vec![client], packets)
}

/// The second look-up is the first that is hot, and the first of a batch that finds everything in place.
fn warm(packets: Packets) -> Packets {
    answer_all(&packets);
    packets
}

fn learned(of: fn(Crowd) -> (Resolver, Vec<Client>, Vec<Vec<u8>>)) -> Packets {
    warm(of(crowd(Mode::Learn, SearchListId::SEARCHED)))
}

fn hot() -> Packets {
    warm(one_client(true))
}

fn services() -> Packets {
    learned(|crowd| (crowd.resolver, crowd.clients, crowd.services))
}

fn bare_names() -> Packets {
    learned(|crowd| (crowd.resolver, crowd.clients, crowd.bare))
}

fn steps() -> Packets {
    learned(|crowd| (crowd.resolver, crowd.clients, crowd.steps))
}

fn answer_all((resolver, clients, packets): &Packets) -> usize {
    let mut out = [0; 1232];
    let batch = resolver.batch();
    let asked = packets.iter().zip(clients.iter().cycle()).take(BATCH);
    asked
        .filter(|(packet, client)| {
            matches!(resolver.answer(packet, **client, &batch, &mut out), Outcome::Reply(1..))
        })
        .count()
}

#[library_benchmark(config = at_most(3800))]
#[bench::plain(packets(false))]
#[bench::edns(packets(true))]
fn parse(packets: Vec<Vec<u8>>) -> usize {
    packets.iter().filter(|packet| query::read(black_box(packet)).is_ok()).count()
}

#[library_benchmark(config = at_most(3800))]
#[bench::hot(keys())]
fn look_up((resolver, keys): (Resolver, Vec<QueryKey>)) -> (usize, Resolver) {
    let now = resolver.shared.clock.now();
    let found = {
        let pin = resolver.shared.cache.pin();
        keys.iter().filter(|key| pin.get(black_box(key), now).is_some()).count()
    };
    (found, resolver)
}

#[library_benchmark(config = at_most(3800))]
#[bench::two_addresses(keys())]
fn write_reply((resolver, keys): (Resolver, Vec<QueryKey>)) -> (usize, Resolver) {
    let packet = packet_for(&name(0), false);
    let (asked, mut out) = (query::read(&packet).unwrap().asked, [0; 1232]);
    let entry = resolver.shared.cache.peek(&keys[0], resolver.shared.clock.now()).unwrap();
    let written = (0..BATCH).map(|_| reply::write(&mut out, black_box(&asked), &entry.said(), 7)).sum();
    (written, resolver)
}

#[library_benchmark(config = at_most(38000))]
#[bench::without_lists(hot())]
#[bench::services(services())]
#[bench::bare_names(bare_names())]
#[bench::composed(steps())]
fn whole_hits(packets: Packets) -> (usize, Packets) {
    let answered = black_box(answer_all(&packets));
    (answered, packets)
}

library_benchmark_group!(name = hops, benchmarks = [parse, look_up, write_reply, whole_hits]);
main!(library_benchmark_groups = hops);

const _: () = assert!(NAMES >= BATCH);
