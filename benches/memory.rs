//! What an answer costs in memory beside its own bytes: the store is filled, the process's pages are counted.
//!
//! `cargo bench --bench memory` prints a line for each size of answer. Under `cargo test` it fills less. Either way it
//! fails where an answer costs more than the weight the store reckons with.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use nodens::cache::entry::Entry;
use nodens::cache::key::{QueryKey, SearchListId};
use nodens::cache::store::ENTRY_OVERHEAD;
use nodens::cache::ttl::Caps;
use nodens::cache::{Cache, Size};
use nodens::clock::Clock;
use nodens::wire::answer::{Answer, Kind};
use nodens::wire::iana::Rcode;
use nodens::wire::name::Name;
use nodens::wire::question::Question;

/// The program's own.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Bytes of this process that are in memory.
fn resident() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

fn answer(number: u32, records: usize) -> (Vec<u8>, Answer) {
    let name = Name::from_text(&format!("service-{number}.shop.svc.cluster.local")).unwrap();
    let mut wire = [&[0; 12], name.as_wire(), &[0, 1, 0, 1]].concat();
    let question = wire.clone();
    let mut ttl_offsets = Vec::new();
    for _ in 0..records {
        ttl_offsets.push(wire.len() as u16 + 6);
        wire.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0x0e, 0x10, 0, 4, 192, 0, 2, 1]);
    }
    let answer = Answer {
        wire,
        ttl_offsets,
        rcode: Rcode::NOERROR,
        kind: Kind::Data,
        answer_ttl: Some(3600),
        negative_ttl: None,
        ede: vec![],
        had_opt: false,
        referral: false,
    };
    (question, answer)
}

/// Fills a store and tells the bytes of memory and of the entries' own, for each entry. The store is given back so that
/// the next does not settle in its freed memory.
fn fill(entries: u32, records: usize) -> (u64, u64, Cache) {
    let day = Duration::from_secs(86_400);
    let caps = Caps { positive: day, negative: Duration::from_secs(3600), stale: day };
    let size = Size { store_bytes: 1 << 40, hot_entries: 0, hot_bytes: 0 };
    let (cache, clock) = (Cache::new(size, caps), Clock::start());
    let before = resident();
    let mut own = 0;
    for number in 0..entries {
        let (question, answer) = answer(number, records);
        let question = Question::read(&question).unwrap();
        let key = QueryKey::of(&question, false, false, SearchListId::LITERAL, cache.hasher());
        let client = IpAddr::V4(Ipv4Addr::from(number % 250));
        own += Entry::size(&cache.keep(&key, answer, client, clock.now())) as u64;
    }
    let [_, (_, held, _)] = cache.usage();
    assert_eq!(held, u64::from(entries));
    ((resident() - before) / u64::from(entries), own / u64::from(entries), cache)
}

fn main() {
    let entries = if std::env::args().any(|argument| argument == "--bench") { 200_000 } else { 20_000 };
    let mut stores = Vec::new();
    println!("{:>8} {:>8} {:>12} {:>12} {:>10}", "entries", "records", "memory each", "own bytes", "beside");
    for records in [0, 1, 2, 8, 30] {
        let (memory, own, store) = fill(entries, records);
        stores.push(store);
        println!("{entries:>8} {records:>8} {memory:>12} {own:>12} {:>10}", memory.saturating_sub(own));
        assert!(memory <= own + u64::from(ENTRY_OVERHEAD), "the store would use more than it reckons with");
    }
}
