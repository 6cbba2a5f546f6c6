//! The store: every answer, bounded in bytes, and no client's alone.
//!
//! Its bytes are divided among shards by the hashes of keys. A look-up or an insertion holds the lock of one of them, for a
//! fraction of a microsecond as a rule, a few where others' answers have to be passed over. Which answer goes first
//! is decided in [`super::shard`].
//!
//! A client's share is a quarter of the bytes ([`super::shares`]). One that holds more makes room at the expense of such
//! clients alone: what others brought stays, however many names it asks for, and a single client of an otherwise quiet
//! node has all of the store. Clients are told apart by [`crate::buckets`]: two of one node's range have shares
//! of their own, two of different ranges may share one.
//!
//! An answer that has ended stays until room is needed.

use std::net::IpAddr;
use std::ops::Add;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use super::entry::{ClientBucket, Entry};
use super::key::{PassThrough, QueryKey};
use super::shard::{Shard, Usage};
use super::shares::Shares;
use super::ttl::Moment;
use crate::buckets::Buckets;

/// Bytes of a shard: the largest answers are a small part of it, and its table, which doubles now and then under the lock,
/// does so in a fraction of a millisecond.
const SHARD_BYTES: u64 = 4 << 20;
/// Questions whose failures in a row are remembered; about 100 bytes each. Beyond it the least used begins anew: it is asked
/// again after a second, and whoever has a stale answer coming waits for the servers once more.
pub const MAX_FAILING: u64 = 16_384;
/// A question that has not failed for this long begins anew.
const FAILURES_FORGOTTEN: Duration = Duration::from_secs(120);

/// A question that failed.
#[derive(Clone, Copy)]
struct Failed {
    in_a_row: u8,
    last: Moment,
}

/// All answers.
pub struct Store {
    shards: Box<[Mutex<Shard>]>,
    shares: Shares,
    failing: Cache<u64, Failed, PassThrough>,
    buckets: Buckets,
}

impl Store {
    /// An empty store of so many bytes.
    pub fn new(bytes: u64) -> Store {
        let shards = (bytes / SHARD_BYTES).max(1);
        Store {
            shards: (0..shards).map(|_| Mutex::new(Shard::new(bytes / shards))).collect(),
            shares: Shares::of(bytes),
            failing: Cache::builder()
                .max_capacity(MAX_FAILING)
                .eviction_policy(EvictionPolicy::lru())
                .time_to_idle(FAILURES_FORGOTTEN)
                .build_with_hasher(PassThrough::default()),
            buckets: Buckets::default(),
        }
    }

    /// The bucket that a client's answers count against.
    pub fn bucket(&self, client: IpAddr) -> ClientBucket {
        ClientBucket(self.buckets.of(client) as u16)
    }

    /// The answer to a key, fresh or not.
    pub fn get(&self, key: &QueryKey) -> Option<Arc<Entry>> {
        let found = self.shard(key.hash())?.get(key.hash())?;
        found.answers(key).then_some(found)
    }

    /// Keeps an answer in place of an earlier one to the same key.
    pub fn insert(&self, entry: Arc<Entry>) {
        if let Some(mut shard) = self.shard(entry.hash()) {
            shard.insert(entry, &self.shares);
        }
    }

    /// The shard that a hash belongs to, by bits that its table does not use.
    fn shard(&self, hash: u64) -> Option<MutexGuard<'_, Shard>> {
        let at = (hash >> 32) as usize % self.shards.len();
        Some(lock(self.shards.get(at)?))
    }

    /// Counts a failure of a question and tells how many came before it.
    pub fn failed(&self, key: &QueryKey, now: Moment) -> u8 {
        let before = self.failing.get(&key.hash()).map_or(0, |failed| failed.in_a_row);
        self.failing.insert(key.hash(), Failed { in_a_row: before.saturating_add(1), last: now });
        before
    }

    /// When a question failed that has not been answered since.
    pub fn last_failure(&self, key: &QueryKey) -> Option<Moment> {
        self.failing.get(&key.hash()).map(|failed| failed.last)
    }

    /// Forgets the failures of a question that was answered: none came before.
    pub fn succeeded(&self, key: &QueryKey) -> u8 {
        if self.failing.contains_key(&key.hash()) {
            self.failing.invalidate(&key.hash());
        }
        0
    }

    /// What it holds and what it could not hold. It takes each lock in turn, so it is for whoever scrapes, not for a worker.
    pub fn usage(&self) -> Usage {
        self.shards.iter().map(|shard| lock(shard).usage()).fold(Usage::default(), Usage::add)
    }
}

/// Nothing under the lock panics; if it did, the shard would still be sound but for its counts.
fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::entry::Role;
    use crate::cache::key::{KeyHasher, SearchListId};
    use crate::wire::name::Name;
    use crate::wire::question::Question;

    /// The key of a name; many of them differ in their hashes alone, which are spread as hashes are.
    fn key(number: u64) -> QueryKey {
        let octets = [Name::from_text("www.example").unwrap().as_wire(), &[0, 1, 0, 1]].concat();
        let question = Question { octets: &octets, qtype: 1, qclass: 1 };
        let key = QueryKey::of(&question, false, false, SearchListId::LITERAL, &KeyHasher::default());
        key.with_hash(number.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn keep(store: &Store, key: &QueryKey, client: IpAddr) {
        let entry = Entry::literal(key, Role::Bar, Duration::ZERO, store.bucket(client), Moment(0));
        store.insert(Arc::new(entry));
    }

    /// Four workers at once, each with `names` of its own or all with the same.
    fn worked_by_four(store: &Store, names: u64, own: bool) {
        std::thread::scope(|scope| {
            for worker in 0..4u8 {
                scope.spawn(move || {
                    for number in 0..names {
                        let key = key(if own { u64::from(worker) * names + number } else { number });
                        keep(store, &key, [127, 0, 0, worker].into());
                        // Where each has its own, others may have pushed it out since.
                        assert!(store.get(&key).is_some() || own);
                    }
                });
            }
        });
    }

    #[test]
    fn workers_that_share_it_lose_nothing() {
        let store = Store::new(2 * SHARD_BYTES);
        worked_by_four(&store, 10_000, false);
        assert_eq!(store.shards.len(), 2);
        assert!((0..10_000).all(|number| store.get(&key(number)).is_some()));
        let usage = store.usage();
        assert_eq!((usage.entries, usage.evicted + usage.refused), (10_000, 0));
        assert_eq!(usage.bytes, store.shares.all());
    }

    #[test]
    fn workers_that_fill_it_lose_no_count() {
        let store = Store::new(2 * SHARD_BYTES);
        worked_by_four(&store, 20_000, true);
        let usage = store.usage();
        assert!(usage.bytes <= 2 * SHARD_BYTES && usage.bytes > SHARD_BYTES);
        assert_eq!(usage.bytes, store.shares.all());
        assert_eq!(usage.entries + usage.evicted + usage.evicted_over_share + usage.refused, 80_000);
    }

    #[test]
    fn a_million_names_of_one_client_leave_others_theirs() {
        let store = Store::new(4 * SHARD_BYTES);
        let others: Vec<_> = (0..1000).map(key).collect();
        for (number, key) in (0..50).cycle().zip(&others) {
            keep(&store, key, [10, 0, 0, number].into());
        }
        for number in 0..1_000_000 {
            keep(&store, &key(1000 + number), [10, 0, 1, 0].into());
        }
        let left = others.iter().filter(|key| store.get(key).is_some()).count();
        assert_eq!(left, 1000);
        let usage = store.usage();
        assert!(usage.bytes <= 4 * SHARD_BYTES && usage.entries > 40_000, "{usage:?}");
        assert_eq!((usage.evicted, usage.refused), (0, 0), "the client's own make room for all of it");
    }

    #[test]
    fn a_large_store_has_no_larger_locks_than_a_small_one() {
        let shards = |bytes| Store::new(bytes).shards.len() as u64;
        assert_eq!(
            [1 << 20, SHARD_BYTES, 64 << 20, 16 << 30].map(shards),
            [1, 1, 16, (16 << 30) / SHARD_BYTES]
        );
    }
}
