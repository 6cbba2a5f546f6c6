//! Hops 4 and 8: answers kept as wire bytes, looked up by question, in two levels that know nothing of each other.
//!
//! [`hot`] answers without a lock and holds what is asked for again and again; [`store`] holds everything else
//! within its bytes. What was asked once is in the store, what is asked again moves up. [`ttl`] says for how
//! long anything may be used.

pub mod entry;
pub mod held;
pub mod hot;
pub mod key;
pub mod shard;
pub mod shares;
pub mod store;
pub mod ttl;

use std::net::IpAddr;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use crate::wire::answer::{Answer, Kind};
use entry::{ClientBucket, Entry, Role};
use held::Held;
use hot::{Hot, HotPin};
use key::{KeyHasher, QueryKey};
use store::Store;
use ttl::{Caps, Moment, Recheck, STALE_TTL};

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

/// An answer that may be given.
#[derive(Clone)]
pub struct Given {
    /// It.
    pub entry: Arc<Entry>,
    /// It has ended, and is given only for want of a newer one (RFC 8767).
    pub is_stale: bool,
}

impl Given {
    /// An answer as good as on the day it came.
    pub fn fresh(entry: Arc<Entry>) -> Given {
        Given { entry, is_stale: false }
    }

    /// For how long something may rest on it: until it ends, or for the TTL that it is given with.
    pub fn serves_for(&self, now: Moment) -> Duration {
        if self.is_stale { STALE_TTL } else { self.entry.remaining(now) }
    }
}

impl Deref for Given {
    type Target = Entry;

    fn deref(&self) -> &Entry {
        &self.entry
    }
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

    /// The store's answer. A fresh one moves up, since it has now been asked for twice; a stale one stays: what is hot is
    /// fresh.
    pub fn stored(&self, key: &QueryKey, now: Moment) -> Option<Given> {
        let entry = self.store.get(key)?;
        if entry.is_fresh(now) {
            self.hot.promote(&entry, now);
            return Some(Given::fresh(entry));
        }
        entry.is_stale(now, self.caps).then_some(Given { entry, is_stale: true })
    }

    /// The fresh answer of the store, or one that something composed is made of; left where it is.
    pub fn peek(&self, key: &QueryKey, now: Moment) -> Option<Arc<Entry>> {
        self.known(key, now).filter(|given| !given.is_stale).map(|given| given.entry)
    }

    /// What is known of a key, fresh if there is such, stale if not; left where it is.
    pub fn known(&self, key: &QueryKey, now: Moment) -> Option<Given> {
        let fresh = |entry: &Arc<Entry>| entry.is_fresh(now);
        let stale = |entry: &Arc<Entry>| entry.is_stale(now, self.caps);
        let stored = self.store.get(key);
        if let Some(entry) = stored.as_ref().filter(|stored| fresh(stored)) {
            return Some(Given::fresh(Arc::clone(entry)));
        }
        let held = self.held.get(key);
        if let Some(entry) = held.as_ref().filter(|held| fresh(held)) {
            return Some(Given::fresh(Arc::clone(entry)));
        }
        let ended = stored.filter(stale).or(held.filter(stale))?;
        Some(Given { entry: ended, is_stale: true })
    }

    /// What is to be done about a stale answer.
    pub fn recheck(&self, key: &QueryKey, now: Moment) -> Recheck {
        ttl::recheck(self.store.last_failure(key), now)
    }

    /// Makes an entry of an upstream's answer and keeps it for as long as its records allow.
    ///
    /// `client` is whose question brought it: its share of the store is bounded. A failure does not replace an answer
    /// that is still there, be it a stale one (RFC 8767 section 4): it says when to ask again. Where that answer is
    /// fresh it is what is told.
    pub fn keep(&self, key: &QueryKey, mut answer: Answer, client: IpAddr, now: Moment) -> Arc<Entry> {
        let (before, bucket) = (self.known(key, now), self.store.bucket(client));
        // A server that only names others has said nothing about the name.
        if (answer.kind == Kind::Failure || answer.referral)
            && let Some(good) = before.as_ref().filter(|before| before.kind() != Kind::Failure)
        {
            self.store.failed(key, now);
            if !good.is_stale {
                return Arc::clone(&good.entry);
            }
            answer.kind = Kind::Failure;
            return Arc::new(Entry::new(key, answer, self.caps, 0, bucket, now));
        }
        let failures = match answer.kind {
            Kind::Failure => self.store.failed(key, now),
            _ => self.store.succeeded(key),
        };
        let entry = Arc::new(Entry::new(key, answer, self.caps, failures, bucket, now));
        if entry.is_fresh(now) {
            self.store.insert(Arc::clone(&entry));
        }
        // The hot level may hold what this replaces: a failure that a late answer mends, say. And what is not kept, with a
        // TTL of zero, replaces what was there all the same.
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
        let store = self.store.usage();
        [(Level::Hot, hot_entries, hot_bytes), (Level::Store, store.entries, store.bytes)]
    }

    /// Answers that the store dropped or did not keep for want of room, by reason, for people and dashboards.
    pub fn evictions(&self) -> [(&'static str, u64); 3] {
        let store = self.store.usage();
        [("full", store.evicted), ("client_full", store.evicted_over_share), ("refused", store.refused)]
    }
}

#[cfg(test)]
mod tests;
