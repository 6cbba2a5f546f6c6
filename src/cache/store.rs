//! The store: every answer, least recently used out first, bounded in bytes, and no client's alone.
//!
//! Two moka caches share the bytes. Every answer goes to `common`. What is pushed out of it goes to the `refuge` if the
//! clients who brought it hold less than their share of `common`, and away if they hold more. So a client that asks
//! a million names turns over `common` and nothing else, while a quarter of the whole stays with the others; and a
//! single client of an otherwise quiet node has three quarters for itself, its least recently used names out first.
//!
//! An answer that has ended stays until room is needed: a timer for each would cost more memory than it gives back.
//!
//! Shares are counted per bucket of client addresses, in a fixed table: two clients in one bucket share a
//! share, which costs them the refuge and nothing else.

use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use foldhash::quality::RandomState;
use moka::notification::RemovalCause;
use moka::policy::EvictionPolicy;
use moka::sync::{Cache, CacheBuilder};

use super::entry::{ClientBucket, Entry};
use super::key::{PassThrough, QueryKey};
use super::ttl::Moment;

/// Buckets of client addresses: 8 bytes each, many times the pods of a node.
pub const BUCKETS: usize = 4096;
/// A quarter of the bytes is the refuge, and a client's share is as much: what is spared for one fits whole, and three clients
/// together fill `common` with theirs before what a fourth is spared could be displaced.
const QUARTER: u64 = 4;
/// What an entry costs beside its own bytes: both `Arc`s, moka's nodes and table, allocator rounding.
/// `benches/memory.rs` measures 288 to 333.
pub const ENTRY_OVERHEAD: u32 = 376;
/// Questions whose failures in a row are remembered; about 100 bytes each. Beyond it the least used begins anew: it is asked
/// again after a second, and whoever has a stale answer coming waits for the servers once more.
pub const MAX_FAILING: u64 = 16_384;
/// A question that has not failed for this long begins anew.
const FAILURES_FORGOTTEN: Duration = Duration::from_secs(120);

type Level = Cache<u64, Arc<Entry>, PassThrough>;

/// A question that failed.
#[derive(Clone, Copy)]
struct Failed {
    in_a_row: u8,
    last: Moment,
}

/// All answers.
pub struct Store {
    common: Level,
    refuge: Level,
    failing: Cache<u64, Failed, PassThrough>,
    held: Arc<[AtomicU64]>,
    addresses: RandomState,
}

impl Store {
    /// An empty store of so many bytes.
    pub fn new(bytes: u64) -> Store {
        let held: Arc<[AtomicU64]> = (0..BUCKETS).map(|_| AtomicU64::new(0)).collect();
        let share = bytes / QUARTER;
        let refuge = level(share).build_with_hasher(PassThrough::default());
        let (holders, way_out) = (Arc::clone(&held), refuge.clone());
        let pushed_out = move |hash: Arc<u64>, entry: Arc<Entry>, cause| {
            let Some(held) = holders.get(usize::from(entry.bucket().0)) else { return };
            let before = held.fetch_sub(u64::from(weight(&entry)), Ordering::Relaxed);
            if cause == RemovalCause::Size && before <= share && !entry.is_void() {
                way_out.insert(*hash, entry);
            }
        };
        Store {
            common: level(bytes - share)
                .eviction_listener(pushed_out)
                .build_with_hasher(PassThrough::default()),
            refuge,
            failing: Cache::builder()
                .max_capacity(MAX_FAILING)
                .eviction_policy(EvictionPolicy::lru())
                .time_to_idle(FAILURES_FORGOTTEN)
                .build_with_hasher(PassThrough::default()),
            held,
            addresses: RandomState::default(),
        }
    }

    /// The bucket that a client's answers count against.
    pub fn bucket(&self, client: IpAddr) -> ClientBucket {
        ClientBucket((self.addresses.hash_one(client) % BUCKETS as u64) as u16)
    }

    /// The answer to a key, fresh or not.
    pub fn get(&self, key: &QueryKey) -> Option<Arc<Entry>> {
        let found = self.common.get(&key.hash()).or_else(|| self.refuge.get(&key.hash()))?;
        found.answers(key).then_some(found)
    }

    /// Keeps an answer in place of an earlier one to the same key.
    pub fn insert(&self, entry: Arc<Entry>) {
        let hash = entry.hash();
        let Some(held) = self.held.get(usize::from(entry.bucket().0)) else { return };
        held.fetch_add(u64::from(weight(&entry)), Ordering::Relaxed);
        self.common.insert(hash, entry);
        if self.refuge.contains_key(&hash) {
            self.refuge.invalidate(&hash);
        }
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

    /// Entries and bytes held. Settles what moka has put off, so it is for whoever scrapes, not for a worker.
    pub fn usage(&self) -> (u64, u64) {
        let levels = [&self.common, &self.refuge];
        levels.iter().for_each(|level| level.run_pending_tasks());
        (levels.map(Cache::entry_count).iter().sum(), levels.map(Cache::weighted_size).iter().sum())
    }
}

fn level(bytes: u64) -> CacheBuilder<u64, Arc<Entry>, Cache<u64, Arc<Entry>>> {
    Cache::builder()
        .max_capacity(bytes)
        .eviction_policy(EvictionPolicy::lru())
        .weigher(|_, entry: &Arc<Entry>| weight(entry))
}

/// Bytes an entry takes in the store.
pub fn weight(entry: &Entry) -> u32 {
    u32::try_from(entry.size_with_parts()).unwrap_or(u32::MAX).saturating_add(ENTRY_OVERHEAD)
}
