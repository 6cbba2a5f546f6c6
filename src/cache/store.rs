//! The store: every answer, least recently used out first, bounded in bytes, and no client's alone.
//!
//! Two moka caches share the bytes. Answers go to `common` while the clients who brought them hold less than
//! their share of it; beyond that they go to `spill`. So a client that asks a million names turns over its
//! share and the spill, while a quarter of the whole stays with the others; and a single client of an otherwise
//! quiet node still has three quarters for itself.
//!
//! Shares are counted per bucket of client addresses, in a fixed table: two clients in one bucket share a
//! share, which costs them the spill's shorter memory and nothing else.

use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use foldhash::quality::RandomState;
use moka::Expiry;
use moka::policy::EvictionPolicy;
use moka::sync::{Cache, CacheBuilder};

use super::entry::{ClientBucket, Entry};
use super::key::{PassThrough, QueryKey};

/// Buckets of client addresses: 8 bytes each, many times the pods of a node.
pub const BUCKETS: usize = 4096;
/// What an entry costs beside its own bytes: both `Arc`s, moka's nodes, timer and table, allocator rounding.
/// `benches/memory.rs` measures 394 to 414.
pub const ENTRY_OVERHEAD: u32 = 432;
/// Questions whose failures in a row are remembered; about 100 bytes each.
pub const MAX_FAILING: u64 = 16_384;
/// A question that has not failed for this long begins anew.
const FAILURES_FORGOTTEN: Duration = Duration::from_secs(120);

type Level = Cache<u64, Arc<Entry>, PassThrough>;

/// All answers.
pub struct Store {
    common: Level,
    spill: Level,
    failing: Cache<u64, u8, PassThrough>,
    held: Arc<[AtomicU64]>,
    share: u64,
    addresses: RandomState,
}

impl Store {
    /// An empty store of so many bytes.
    pub fn new(bytes: u64) -> Store {
        let held: Arc<[AtomicU64]> = (0..BUCKETS).map(|_| AtomicU64::new(0)).collect();
        let common = bytes / 4 * 3;
        let left = Arc::clone(&held);
        Store {
            common: level(common)
                .eviction_listener(move |_, entry: Arc<Entry>, _| {
                    if let Some(bucket) = left.get(usize::from(entry.bucket().0)) {
                        bucket.fetch_sub(u64::from(weight(&entry)), Ordering::Relaxed);
                    }
                })
                .build_with_hasher(PassThrough::default()),
            spill: level(bytes - common).build_with_hasher(PassThrough::default()),
            failing: Cache::builder()
                .max_capacity(MAX_FAILING)
                .eviction_policy(EvictionPolicy::lru())
                .time_to_idle(FAILURES_FORGOTTEN)
                .build_with_hasher(PassThrough::default()),
            held,
            share: common / 3 * 2,
            addresses: RandomState::default(),
        }
    }

    /// The bucket that a client's answers count against.
    pub fn bucket(&self, client: IpAddr) -> ClientBucket {
        ClientBucket((self.addresses.hash_one(client) % BUCKETS as u64) as u16)
    }

    /// The answer to a key, fresh or not.
    pub fn get(&self, key: &QueryKey) -> Option<Arc<Entry>> {
        let found = self.common.get(&key.hash()).or_else(|| self.spill.get(&key.hash()))?;
        found.answers(key).then_some(found)
    }

    /// Keeps an answer in place of an earlier one to the same key.
    pub fn insert(&self, entry: Arc<Entry>) {
        let hash = entry.hash();
        let Some(held) = self.held.get(usize::from(entry.bucket().0)) else { return };
        if held.load(Ordering::Relaxed) < self.share || self.common.contains_key(&hash) {
            held.fetch_add(u64::from(weight(&entry)), Ordering::Relaxed);
            self.spill.invalidate(&hash);
            self.common.insert(hash, entry);
        } else {
            self.spill.insert(hash, entry);
        }
    }

    /// Counts a failure of a question and tells how many came before it.
    pub fn failed(&self, key: &QueryKey) -> u8 {
        let before = self.failing.get(&key.hash()).unwrap_or(0);
        self.failing.insert(key.hash(), before.saturating_add(1));
        before
    }

    /// Forgets the failures of a question that was answered: none came before.
    pub fn succeeded(&self, key: &QueryKey) -> u8 {
        if self.failing.contains_key(&key.hash()) {
            self.failing.invalidate(&key.hash());
        }
        0
    }

    /// Entries and bytes held. Settles what moka has put off, so it is for whoever scrapes, not for a worker.
    pub fn usage(&self) -> (u64, u64) {
        let levels = [&self.common, &self.spill];
        levels.iter().for_each(|level| level.run_pending_tasks());
        (levels.map(Cache::entry_count).iter().sum(), levels.map(Cache::weighted_size).iter().sum())
    }
}

fn level(bytes: u64) -> CacheBuilder<u64, Arc<Entry>, Cache<u64, Arc<Entry>>> {
    Cache::builder()
        .max_capacity(bytes)
        .eviction_policy(EvictionPolicy::lru())
        .weigher(|_, entry: &Arc<Entry>| weight(entry))
        .expire_after(ByLifetime)
}

/// Bytes an entry takes in the store.
pub fn weight(entry: &Entry) -> u32 {
    u32::try_from(entry.size_with_parts()).unwrap_or(u32::MAX).saturating_add(ENTRY_OVERHEAD)
}

/// Each entry leaves when its answer has ended, also one that replaces another.
struct ByLifetime;

impl Expiry<u64, Arc<Entry>> for ByLifetime {
    fn expire_after_create(&self, _: &u64, entry: &Arc<Entry>, _: Instant) -> Option<Duration> {
        Some(Duration::from_millis(entry.lifetime_ms()))
    }

    fn expire_after_update(
        &self,
        _: &u64,
        entry: &Arc<Entry>,
        _: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Some(Duration::from_millis(entry.lifetime_ms()))
    }
}
