//! Instructions of each hop and of whole hits, counted under callgrind: the same on a busy machine as on an idle one.
//!
//! `cargo bench --bench instructions` (needs valgrind and `gungraun-runner`) fails where a count is more than a tenth above
//! the one recorded here; whoever makes a way shorter records the new count with the change that did it. A look-up by itself
//! has no bound: how far it probes depends on the seed of the hashes, and now and then it frees what was retired before.

// The macros of the harness end the process by themselves.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::disallowed_methods, missing_docs)]

mod fixture;

use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::Arc;

use gungraun::prelude::*;
use gungraun::{Callgrind, EventKind, LibraryBenchmarkConfig};

use fixture::{Crowd, NAMES, crowd, filled, key, name, query as packet_for};
use nodens::cache::entry::Entry;
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
    let (resolver, ..) = warm((resolver, vec![client()], packets));
    (resolver, keys)
}

fn entry() -> (Vec<u8>, Arc<Entry>) {
    let (resolver, keys) = keys();
    let entry = resolver.shared.cache.peek(&keys[0], resolver.shared.clock.now()).unwrap();
    (packet_for(&name(0), false), entry)
}

fn client() -> Client {
    Client { addr: SocketAddr::from(([127, 0, 0, 1], 4000)), proto: Proto::Udp }
}

/// The second look-up is the first that is hot, and the first of a batch that finds everything in place.
fn warm(packets: Packets) -> Packets {
    answer_all(&packets);
    packets
}

fn learned(of: fn(Crowd) -> Packets) -> Packets {
    warm(of(crowd(Mode::Learn, SearchListId::SEARCHED)))
}

fn hot() -> Packets {
    let (resolver, packets) = filled(true);
    warm((resolver, vec![client()], packets))
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

#[library_benchmark]
#[bench::plain(args = (packets(false)), config = at_most(9478))]
#[bench::edns(args = (packets(true)), config = at_most(13478))]
fn parse(packets: Vec<Vec<u8>>) -> usize {
    packets.iter().filter(|packet| query::read(black_box(packet)).is_ok()).count()
}

#[library_benchmark]
#[bench::hot(keys())]
fn look_up((resolver, keys): (Resolver, Vec<QueryKey>)) -> (usize, Resolver) {
    let now = resolver.shared.clock.now();
    let found = {
        let pin = resolver.shared.cache.pin();
        keys.iter().filter(|key| pin.get(black_box(key), now).is_some()).count()
    };
    (found, resolver)
}

#[library_benchmark]
#[bench::two_addresses(args = (entry()), config = at_most(7236))]
fn write_reply((packet, entry): (Vec<u8>, Arc<Entry>)) -> (usize, Arc<Entry>) {
    let (asked, mut out) = (query::read(&packet).unwrap().asked, [0; 1232]);
    let written = (0..BATCH).map(|_| reply::write(&mut out, black_box(&asked), &entry.said(), 7)).sum();
    (written, entry)
}

#[library_benchmark]
#[bench::without_lists(args = (hot()), config = at_most(37677))]
#[bench::services(args = (services()), config = at_most(44312))]
#[bench::bare_names(args = (bare_names()), config = at_most(38007))]
#[bench::composed(args = (steps()), config = at_most(52798))]
fn whole_hits(packets: Packets) -> (usize, Packets) {
    let answered = black_box(answer_all(&packets));
    (answered, packets)
}

library_benchmark_group!(name = hops, benchmarks = [parse, look_up, write_reply, whole_hits]);
main!(library_benchmark_groups = hops);

const _: () = assert!(NAMES >= BATCH);
