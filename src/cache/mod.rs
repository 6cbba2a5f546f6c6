//! Hops 4 and 8: answers kept as wire bytes, looked up by question, in two levels that know nothing of each other.
//!
//! [`hot`] answers without a lock and holds what is asked for again and again; [`store`] holds everything else
//! within its bytes. What was asked once is in the store, what is asked again moves up. [`ttl`] says for how
//! long anything may be used.

pub mod entry;
pub mod held;
pub mod hot;
pub mod key;
pub mod store;
pub mod ttl;

use std::net::IpAddr;
use std::sync::Arc;

use crate::wire::answer::{Answer, Kind};
use entry::{ClientBucket, Entry, Role};
use held::Held;
use hot::{Hot, HotPin};
use key::{KeyHasher, QueryKey};
use store::Store;
use ttl::{Caps, Moment};

/// How much each level may hold.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Bytes of the store, its own book-keeping included.
    pub store_bytes: u64,
    /// Entries of the hot level.
    pub hot_entries: usize,
    /// Bytes of the hot level.
    pub hot_bytes: usize,
}

/// Which level an answer came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// The lock-free one.
    Hot,
    /// The large one.
    Store,
}

/// Both levels and the rules of what goes in.
pub struct Cache {
    hasher: KeyHasher,
    hot: Hot,
    store: Store,
    held: Held,
    caps: Caps,
}

impl Cache {
    /// An empty cache of the given size.
    pub fn new(size: Size, caps: Caps) -> Cache {
        Cache {
            hasher: KeyHasher::default(),
            hot: Hot::new(size.hot_entries, size.hot_bytes),
            store: Store::new(size.store_bytes),
            held: Held::default(),
            caps,
        }
    }

    /// The hasher that keys of this cache are made with; its seed is this process's own.
    pub fn hasher(&self) -> &KeyHasher {
        &self.hasher
    }

    /// Holds hot entries in place for a batch of look-ups.
    pub fn pin(&self) -> HotPin<'_> {
        self.hot.pin()
    }

    /// The store's fresh answer; it moves up, since it has now been asked for twice.
    pub fn stored(&self, key: &QueryKey, now: Moment) -> Option<Arc<Entry>> {
        let entry = self.store.get(key).filter(|entry| entry.is_fresh(now))?;
        self.hot.promote(&entry, now);
        Some(entry)
    }

    /// The fresh answer of the store, or one that something composed is made of; left where it is.
    pub fn peek(&self, key: &QueryKey, now: Moment) -> Option<Arc<Entry>> {
        let fresh = |entry: &Arc<Entry>| entry.is_fresh(now);
        self.store.get(key).filter(fresh).or_else(|| self.held.get(key).filter(fresh))
    }

    /// Makes an entry of an upstream's answer and keeps it for as long as its records allow.
    ///
    /// `client` is whose question brought it: its share of the store is bounded. A failure does not replace an
    /// answer that came meanwhile: then that is what is told.
    pub fn keep(&self, key: &QueryKey, answer: Answer, client: IpAddr, now: Moment) -> Arc<Entry> {
        let before = self.peek(key, now);
        let failures = match (answer.kind, &before) {
            (Kind::Failure, Some(good)) if good.kind() != Kind::Failure => return Arc::clone(good),
            (Kind::Failure, _) => self.store.failed(key),
            _ => self.store.succeeded(key),
        };
        let entry = Arc::new(Entry::new(key, answer, self.caps, failures, self.store.bucket(client), now));
        if entry.is_fresh(now) {
            self.store.insert(Arc::clone(&entry));
        }
        // The hot level may hold what this replaces: a failure that a late answer mends, say.
        before.inspect(|before| before.make_void());
        self.held.came(key, entry.kind());
        entry
    }

    /// Keeps what a walk ended with in place of what it ended with before, for as long as what it rests on stays of its
    /// kind.
    ///
    /// A bar that came meanwhile stays, and is given back.
    pub fn put(&self, key: &QueryKey, entry: Entry, rests_on: &[Arc<Entry>], now: Moment) -> Arc<Entry> {
        let before = self.store.get(key);
        let barred = before.as_ref().filter(|before| before.role() == Role::Bar && before.is_fresh(now));
        if let Some(bar) = barred
            && (entry.role() != Role::Bar || bar.expires() >= entry.expires())
        {
            return Arc::clone(bar);
        }
        let entry = Arc::new(entry);
        self.held.rests(&entry, rests_on);
        if rests_on.iter().any(|part| part.is_void()) {
            entry.make_void();
        }
        if entry.is_fresh(now) {
            self.store.insert(Arc::clone(&entry));
        }
        before.inspect(|before| before.make_void());
        entry
    }

    /// Which client's share something counts against.
    pub fn bucket(&self, client: IpAddr) -> ClientBucket {
        self.store.bucket(client)
    }

    /// Entries and bytes of each level, for people and dashboards.
    pub fn usage(&self) -> [(Level, u64, u64); 2] {
        let (hot_entries, hot_bytes) = self.hot.usage();
        let (store_entries, store_bytes) = self.store.usage();
        [(Level::Hot, hot_entries, hot_bytes), (Level::Store, store_entries, store_bytes)]
    }
}

#[cfg(test)]
mod tests;
