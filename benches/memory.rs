//! What answers cost in memory, with the program's allocator: caches are filled, the process's pages are counted.
//!
//! `cargo bench --bench memory` prints a line for each size of answer and each rival. Under `cargo test` it fills less. Either
//! way it fails where an answer costs more than is reckoned with, or a store that has seen many more answers than it
//! holds uses more than it may.

#![allow(clippy::indexing_slicing, clippy::print_stdout, clippy::unwrap_used, unreachable_pub)]

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use nodens::cache::entry::{ClientBucket, Entry};
use nodens::cache::key::{KeyHasher, QueryKey, SearchListId};
use nodens::cache::shard::ENTRY_OVERHEAD;
use nodens::cache::ttl::{Caps, Moment};
use nodens::cache::{Cache, Size};
use nodens::clock::Clock;
use nodens::wire::answer::{Answer, Kind};
use nodens::wire::name::Name;
use nodens::wire::question::Question;

#[allow(dead_code, reason = "each benchmark uses its part")]
mod rivals;
use rivals::{Contender, RIVALS, Rival, USUAL_ENTRY};

/// The program's own.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const DAY: Duration = Duration::from_secs(86_400);
const CAPS: Caps = Caps { positive: DAY, negative: Duration::from_secs(3600), stale: DAY };

/// Bytes of this process that are in memory.
fn resident() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

/// An answer with so many addresses, or a denial where it has none, and its key.
fn answer(number: u32, records: usize, hasher: &KeyHasher) -> (QueryKey, Answer) {
    let name = Name::from_text(&format!("service-{number}.shop.svc.cluster.local")).unwrap();
    let question = [name.as_wire(), &[0, 1, 0, 1]].concat();
    let message = [&[0; 12], &question[..]].concat();
    let key = QueryKey::of(&Question::read(&message).unwrap(), false, false, SearchListId::LITERAL, hasher);
    let kind = if records == 0 { Kind::NxDomain } else { Kind::Data };
    (key, rivals::answer(&question, kind, 3600, records))
}

/// What the process has grown by. The allocator gives back what ended earlier when it likes, in a small run more than is taken.
fn since(before: u64) -> u64 {
    resident().saturating_sub(before)
}

/// Fills the cache and tells the bytes of memory and of the entries' own, for each entry. The cache is given back so that
/// the next does not settle in its freed memory.
fn fill(entries: u32, records: usize) -> (u64, u64, Cache) {
    // Room for all of them and, as a shard has more than another, a little over.
    let store_bytes = u64::from(entries) * (240 + 24 * records as u64 + ENTRY_OVERHEAD) * 5 / 4;
    let size = Size { store_bytes, hot_entries: 0, hot_bytes: 0 };
    let (cache, clock) = (Cache::new(size, CAPS), Clock::start());
    let before = resident();
    let mut own = 0;
    for number in 0..entries {
        let (key, answer) = answer(number, records, cache.hasher());
        let client = IpAddr::V4(Ipv4Addr::from(number % 250));
        own += Entry::size(&cache.keep(&key, answer, client, clock.now())) as u64;
    }
    let [_, (_, held, _)] = cache.usage();
    assert_eq!(held, u64::from(entries));
    (since(before) / u64::from(entries), own / u64::from(entries), cache)
}

/// The same for another store, with one address in each answer.
fn fill_rival(entries: u32, contender: &Contender) -> (u64, u64, Box<dyn Rival>) {
    let each = u64::from(contender.overhead) + USUAL_ENTRY;
    let (hasher, before) = (KeyHasher::default(), resident());
    // What goes by shards needs room for the fullest one.
    let rival = (contender.make)(u64::from(entries) * each * 5 / 4, contender.overhead);
    let mut own = 0;
    for number in 0..entries {
        let (key, answer) = answer(number, 1, &hasher);
        let entry = Entry::new(&key, answer, CAPS, 0, ClientBucket(0), Moment(0));
        own += entry.size() as u64;
        rival.insert(Arc::new(entry), Moment(0));
    }
    rival.settle();
    let held = (0..entries).filter(|number| rival.get(&answer(*number, 1, &hasher).0).is_some()).count();
    assert_eq!(held, entries as usize, "{}", contender.name);
    (since(before) / u64::from(entries), own / u64::from(entries), rival)
}

/// What the allocator keeps at hand for each thread: a page of 64 KiB for each of its size classes, some of them twice.
const AT_HAND: u64 = 3 << 20;

/// The least records of an answer in each tenth of them.
type Records = fn(u32) -> u32;

/// Two workers send answers through a cache, many times more than it holds; the bytes of memory that it takes.
fn churn(store_bytes: u64, answers: u32, records: Records) -> (u64, Cache) {
    let before = resident();
    let cache = Cache::new(Size { store_bytes, hot_entries: 0, hot_bytes: 0 }, CAPS);
    std::thread::scope(|scope| {
        for worker in 0..2 {
            let cache = &cache;
            scope.spawn(move || {
                for number in (worker..answers).step_by(2) {
                    let records = records(number / (answers / 10)).max(number / 7 % 9);
                    let (key, answer) = answer(number, records as usize, cache.hasher());
                    let client = IpAddr::V4(Ipv4Addr::from(number % 250));
                    cache.keep(&key, answer, client, Moment(0));
                }
            });
        }
    });
    let [_, (_, _, held)] = cache.usage();
    assert!(held > store_bytes / 10 * 9, "it is full");
    (since(before), cache)
}

fn main() {
    let whole = std::env::args().any(|argument| argument == "--bench");
    let (entries, store_bytes, answers) =
        if whole { (200_000, 64 << 20, 2_000_000) } else { (20_000, 16 << 20, 100_000) };
    let mut caches = Vec::new();
    // Where the sizes change the allocator keeps what the earlier ones were in for a while.
    let (mixed, then_large): (Records, Records) = (|_| 0, |tenth| if tenth < 5 { 0 } else { 60 });
    // How a small store's few pages fill is chance; without its bound it would take several times as much.
    let (some, more) = if whole { (0, store_bytes / 10) } else { (store_bytes / 4, store_bytes) };
    for (what, records, kept_back) in
        [("of many sizes", mixed, some), ("small and then large", then_large, more)]
    {
        let (used, cache) = churn(store_bytes, answers, records);
        caches.push(cache);
        println!("{answers} answers, {what}, through {store_bytes} bytes: {used} bytes of memory");
        assert!(used <= store_bytes + kept_back + 2 * AT_HAND, "more than the store may use");
    }
    println!(
        "{:>16} {:>8} {:>8} {:>12} {:>10} {:>8}",
        "", "entries", "records", "memory each", "own bytes", "beside"
    );
    let line = |name: &str, records: usize, (memory, own): (u64, u64), overhead: u32| {
        let beside = memory.saturating_sub(own);
        println!("{name:>16} {entries:>8} {records:>8} {memory:>12} {own:>10} {beside:>8}");
        let reckoned = (own + u64::from(overhead)) * u64::from(entries);
        assert!(memory * u64::from(entries) <= reckoned + AT_HAND, "{name} uses more than it reckons with");
    };
    for records in [0, 1, 2, 8, 30] {
        let (memory, own, cache) = fill(entries, records);
        caches.push(cache);
        line("nodens", records, (memory, own), ENTRY_OVERHEAD as u32);
    }
    let mut rivals = Vec::new();
    for contender in &RIVALS {
        let (memory, own, rival) = fill_rival(entries, contender);
        rivals.push(rival);
        line(contender.name, 1, (memory, own), contender.overhead);
    }
    drop((caches, rivals));
}
