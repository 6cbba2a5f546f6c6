//! Which answer goes first, whose stays, and that the counts are right.

use std::collections::HashSet;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::cache::entry::ClientBucket;
use crate::cache::key::{KeyHasher, QueryKey, SearchListId};
use crate::cache::ttl::{Caps, Moment};
use crate::wire::answer::{Answer, Kind};
use crate::wire::iana::Rcode;
use crate::wire::name::Name;
use crate::wire::question::Question;

const DAY: Duration = Duration::from_secs(86_400);

/// An entry of a bucket whose hash and name are a number, with so many octets more.
fn entry(number: u64, bucket: u16, more: usize) -> Arc<Entry> {
    let name = Name::from_text(&format!("n{number}.example")).unwrap();
    let mut wire = [&[0; 12], name.as_wire(), &[0, 1, 0, 1]].concat();
    let question = wire.clone();
    wire.resize(wire.len() + more, 0);
    let question = Question::read(&question).unwrap();
    let key = QueryKey::of(&question, false, false, SearchListId::LITERAL, &KeyHasher::default());
    let answer = Answer {
        wire,
        ttl_offsets: vec![],
        rcode: Rcode::NOERROR,
        kind: Kind::Data,
        answer_ttl: Some(60),
        negative_ttl: None,
        ede: vec![],
        had_opt: false,
        referral: false,
    };
    let caps = Caps { positive: DAY, negative: DAY, stale: DAY };
    // Spread as hashes are.
    let key = key.with_hash(number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    Arc::new(Entry::new(&key, answer, caps, 0, ClientBucket(bucket), Moment(0)))
}

fn shard(bytes: u64) -> (Shard, Shares) {
    (Shard::new(bytes), Shares::of(bytes))
}

fn has(shard: &Shard, entry: &Arc<Entry>) -> bool {
    shard.table.get(&entry.hash()).is_some_and(|slot| Arc::ptr_eq(&slot.entry, entry))
}

fn put(shard: &mut Shard, shares: &Shares, entries: &[Arc<Entry>]) {
    entries.iter().for_each(|entry| shard.insert(Arc::clone(entry), shares));
}

fn ask(shard: &mut Shard, entries: &[Arc<Entry>]) {
    entries.iter().for_each(|entry| drop(shard.get(entry.hash())));
}

fn entries(numbers: std::ops::Range<u64>, bucket: u16) -> Vec<Arc<Entry>> {
    numbers.map(|number| entry(number, bucket, 100)).collect()
}

/// The counts say what is there, the bytes are kept to, and each entry has one place in the queue that it says.
fn is_whole(shard: &Shard, shares: &Shares) -> bool {
    let bytes = |queue: &VecDeque<u64>| {
        queue.iter().map(|hash| shard.table.get(hash).map_or(0, |slot| weight(&slot.entry))).sum::<u64>()
    };
    let places: HashSet<u64> = shard.young.iter().chain(&shard.kept).copied().collect();
    shard.young.len() + shard.kept.len() == shard.table.len()
        && shard.table.iter().all(|(hash, slot)| places.contains(hash) && slot.entry.hash() == *hash)
        && shard.young.iter().all(|hash| shard.table[hash].is_young)
        && shard.kept.iter().all(|hash| !shard.table[hash].is_young)
        && shard.young_bytes == bytes(&shard.young)
        && shard.usage.bytes == bytes(&shard.young) + bytes(&shard.kept)
        && shard.usage.bytes <= shard.max_bytes
        && shares.all() == shard.usage.bytes
}

/// Others' answers, more than half of 4 MiB, each brought by one of fifty clients.
fn crowd(shard: &mut Shard, shares: &Shares) -> Vec<Arc<Entry>> {
    let others: Vec<_> = (0..8000).map(|number| entry(number, (number % 50) as u16, 100)).collect();
    put(shard, shares, &others);
    assert!(is_whole(shard, shares) && shard.usage.bytes > shard.max_bytes / 2);
    others
}

fn left(shard: &Shard, entries: &[Arc<Entry>]) -> usize {
    entries.iter().filter(|entry| has(shard, entry)).count()
}

#[test]
fn what_was_asked_for_again_outlives_what_was_not() {
    let (mut shard, shares) = shard(1 << 20);
    let asked = entries(0..1000, 0);
    put(&mut shard, &shares, &asked);
    asked.iter().for_each(|entry| drop(shard.get(entry.hash())));
    put(&mut shard, &shares, &entries(1000..20_000, 0));
    assert!(asked.iter().all(|entry| has(&shard, entry)));
    assert!(is_whole(&shard, &shares));
}

#[test]
fn what_was_asked_for_long_ago_goes_at_last() {
    let (mut shard, shares) = shard(1 << 20);
    let earlier = entries(0..1000, 0);
    put(&mut shard, &shares, &earlier);
    earlier.iter().for_each(|entry| drop(shard.get(entry.hash())));
    for number in 1000..20_000 {
        let entry = entry(number, 0, 100);
        put(&mut shard, &shares, std::slice::from_ref(&entry));
        shard.get(entry.hash());
    }
    assert!(!earlier.iter().any(|entry| has(&shard, entry)));
}

#[test]
fn a_client_over_its_share_cannot_push_out_what_others_brought() {
    for asks in [1, 2] {
        let (mut shard, shares) = shard(4 << 20);
        let others = crowd(&mut shard, &shares);
        for number in 8000..60_000 {
            let entry = entry(number, 50, 100);
            put(&mut shard, &shares, std::slice::from_ref(&entry));
            (1..asks).for_each(|_| drop(shard.get(entry.hash())));
            assert!(has(&shard, &entry), "{number}");
        }
        assert_eq!(left(&shard, &others), others.len(), "asked {asks} times each");
        let usage = shard.usage();
        assert_eq!((usage.evicted, usage.refused), (0, 0));
        assert_eq!(usage.entries + usage.evicted_over_share, 60_000);
    }
}

#[test]
fn a_flood_leaves_the_marks_of_what_others_asked_for() {
    let (mut shard, shares) = shard(4 << 20);
    let others = crowd(&mut shard, &shares);
    let (asked, _) = others.split_at(1000);
    asked.iter().for_each(|entry| drop(shard.get(entry.hash())));
    put(&mut shard, &shares, &entries(8000..60_000, 50));
    // What newcomers ask for again pushes out what nobody did, the others' as well, but what was asked for last.
    for number in 60_000..65_000 {
        put(&mut shard, &shares, &[entry(number, 51 + (number % 10) as u16, 100)]);
        ask(&mut shard, &[entry(number, 0, 0)]);
    }
    assert_eq!(left(&shard, asked), asked.len());
    assert!(left(&shard, &others) < others.len());
}

#[test]
fn large_answers_of_a_client_over_its_share_are_not_kept_rather_than_others() {
    let (mut shard, shares) = shard(4 << 20);
    let others = crowd(&mut shard, &shares);
    put(&mut shard, &shares, &(8000..9000).map(|number| entry(number, 50, 60_000)).collect::<Vec<_>>());
    assert!(is_whole(&shard, &shares));
    assert_eq!(left(&shard, &others), others.len());
    let latest = entry(9000, 50, 60_000);
    put(&mut shard, &shares, std::slice::from_ref(&latest));
    assert!(has(&shard, &latest), "there is room for some of them");
}

/// A shard that is full of what others brought, and a client that is over its share by what it has elsewhere.
fn full_of_others() -> (Shard, Shares) {
    let (mut shard, shares) = shard(1 << 20);
    for number in 0..20_000 {
        put(&mut shard, &shares, &[entry(number, (number % 50) as u16, 100)]);
    }
    shares.add(ClientBucket(50), 1 << 20);
    (shard, shares)
}

#[test]
fn what_is_not_kept_leaves_nothing_behind() {
    let (mut shard, shares) = full_of_others();
    let others: HashSet<u64> = shard.table.keys().copied().collect();
    let refused = |shard: &Shard| shard.usage().refused;
    for number in 20_000..40_000 {
        let before = refused(&shard);
        let small = entry(number, 50, 100);
        put(&mut shard, &shares, std::slice::from_ref(&small));
        assert_ne!(has(&shard, &small), refused(&shard) > before);
        // In the place of one that is kept.
        put(&mut shard, &shares, &[entry(number, 50, 60_000)]);
        assert!(shard.get(small.hash()).is_none_or(|left| left.is_void()), "an earlier answer is not given");
    }
    assert!(refused(&shard) > 20_000);
    assert!(others.iter().all(|hash| shard.table.contains_key(hash)));
    assert_eq!(shard.young.len() + shard.kept.len(), shard.table.len());
    assert!(shard.usage.bytes <= shard.max_bytes);
}

#[test]
fn one_insertion_passes_over_64_at_most() {
    for bucket in [50, 51] {
        let (mut shard, shares) = full_of_others();
        put(&mut shard, &shares, &[entry(20_000, 0, 100)]);
        let most = (21_000..21_200).map(|number| {
            let queued: Vec<_> = shard.young.iter().chain(&shard.kept).copied().collect();
            queued.iter().for_each(|hash| drop(shard.get(*hash)));
            let last = shard.kept.back().copied();
            put(&mut shard, &shares, &[entry(number, bucket, 100)]);
            shard.kept.iter().rev().take_while(|hash| Some(**hash) != last).count()
        });
        assert_eq!(most.max(), Some(64), "bucket {bucket}");
    }
}

#[test]
fn a_single_client_has_all_of_it() {
    let (mut shard, shares) = shard(1 << 20);
    put(&mut shard, &shares, &entries(0..20_000, 0));
    assert!(shard.usage.bytes > shard.max_bytes / 10 * 9);
    let latest = entries(20_000..20_500, 0);
    put(&mut shard, &shares, &latest);
    assert!(latest.iter().all(|entry| has(&shard, entry)));
}

#[test]
fn what_is_larger_than_everything_is_not_kept_and_ends_what_it_replaces() {
    let (mut shard, shares) = shard(32 << 10);
    let small = entry(1, 0, 100);
    put(&mut shard, &shares, &[Arc::clone(&small), entry(1, 0, 40_000)]);
    assert!(small.is_void() && is_whole(&shard, &shares));
    assert_eq!((shard.usage().entries, shard.usage().refused), (1, 1), "nothing else goes for it");
}

#[test]
fn a_replaced_entry_gives_its_bytes_back() {
    let (mut shard, shares) = shard(1 << 20);
    for more in [100, 60_000, 3000, 10].into_iter().cycle().take(1000) {
        let entry = entry(1, (more % 7) as u16, more);
        put(&mut shard, &shares, std::slice::from_ref(&entry));
        assert!(has(&shard, &entry) && is_whole(&shard, &shares));
        assert_eq!(shard.usage().bytes, weight(&entry));
    }
    assert_eq!((shard.usage().evicted, shard.usage().refused), (0, 0));
}

#[test]
fn what_is_void_goes_before_what_is_asked_for() {
    let (mut shard, shares) = shard(1 << 20);
    let (void, asked) = (entries(0..500, 0), entries(500..1000, 0));
    put(&mut shard, &shares, &void);
    put(&mut shard, &shares, &asked);
    void.iter().chain(&asked).for_each(|entry| drop(shard.get(entry.hash())));
    void.iter().for_each(|entry| entry.make_void());
    put(&mut shard, &shares, &entries(1000..6000, 0));
    assert_eq!((left(&shard, &void), left(&shard, &asked)), (0, 500));
}

#[test]
fn places_are_given_back_when_large_answers_follow_small_ones() {
    let (mut shard, shares) = shard(4 << 20);
    let small = entries(0..20_000, 0);
    put(&mut shard, &shares, &small);
    small.iter().for_each(|entry| drop(shard.get(entry.hash())));
    put(&mut shard, &shares, &entries(20_000..40_000, 0));
    let places = |shard: &Shard| [shard.table.capacity(), shard.young.capacity() + shard.kept.capacity()];
    assert!(places(&shard).iter().all(|places| *places > 10_000));
    for number in 40_000..41_000 {
        let large = entry(number, 0, 20_000);
        put(&mut shard, &shares, std::slice::from_ref(&large));
        ask(&mut shard, &[large]);
    }
    assert!(places(&shard).iter().all(|places| *places < 4 * SPARE_PLACES), "{:?}", places(&shard));
    assert!(is_whole(&shard, &shares));
}

proptest! {
    /// Whatever is done, the counts are right, the bytes are kept to, and what is given is the latest.
    #[test]
    fn counts_are_right_and_the_latest_is_given(
        steps in prop::collection::vec((0u64..60, 0u16..4, 0usize..3000, any::<bool>()), 1..300),
    ) {
        let (mut shard, shares) = shard(16 << 10);
        let mut latest = HashMap::new();
        for (number, bucket, more, asks) in steps {
            let entry = entry(number, bucket, more);
            if asks {
                let found = shard.get(entry.hash()).filter(|found| !found.is_void());
                prop_assert!(found.is_none_or(|found| Arc::ptr_eq(&found, &latest[&number])));
            } else {
                shard.insert(Arc::clone(&entry), &shares);
                latest.insert(number, entry);
            }
            prop_assert!(is_whole(&shard, &shares));
        }
    }
}
