//! The hot level: a lock-free table of a fixed number of entries, for what is asked again and again.
//!
//! **Readers** take one pin a batch and look up under it: no lock, no reference count, no allocation. The one
//! thing a reader writes is the `used` mark of a slot, and only where it is not set, so that in the steady
//! state it writes nothing.
//!
//! **Writers** (an answer that was found in the store) take the one mutex if it is free and give up if it is
//! not: the answer will be asked for again. Under it they insert, and evict by CLOCK: the hand takes the oldest
//! slot, gives it another round if it was used since the last one, and drops it if not, or if it has expired.
//! The hand makes at most `MAX_STEPS` steps an insertion, then drops what it points at; that is the worst case.
//!
//! Nothing outside looks at these marks, and the mutex guards nothing that readers read. The table is papaya's,
//! whose own protocol is epoch-like: a removed slot is freed when every pin of its time is gone.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, TryLockError};

use papaya::{HashMap, HashMapRef, LocalGuard};

use super::entry::Entry;
use super::key::{PassThrough, QueryKey};
use super::ttl::Moment;

/// Slots the hand passes at most before it drops one although it was used.
const MAX_STEPS: usize = 64;
/// The largest entry taken: large answers are rare, and a few of them would displace thousands.
pub const MAX_ENTRY: usize = 4096;

struct Slot {
    entry: Arc<Entry>,
    used: AtomicBool,
}

type Table = HashMap<u64, Arc<Slot>, PassThrough>;

/// The table and its clock.
pub struct Hot {
    table: Table,
    clock: Mutex<Clock>,
    entries: AtomicU64,
    bytes: AtomicU64,
    max_entries: usize,
    max_bytes: usize,
}

#[derive(Default)]
struct Clock {
    ring: VecDeque<Arc<Slot>>,
    bytes: usize,
}

/// Look-ups under one pin.
pub struct HotPin<'h>(HashMapRef<'h, u64, Arc<Slot>, PassThrough, LocalGuard<'h>>);

impl HotPin<'_> {
    /// The fresh answer to a key.
    #[inline]
    pub fn get(&self, key: &QueryKey, now: Moment) -> Option<&Entry> {
        let slot = self.0.get(&key.hash())?;
        if !slot.entry.answers(key) || !slot.entry.is_fresh(now) {
            return None;
        }
        if !slot.used.load(Ordering::Relaxed) {
            slot.used.store(true, Ordering::Relaxed);
        }
        Some(&slot.entry)
    }
}

impl Hot {
    /// An empty table that holds at most so many entries and bytes.
    pub fn new(max_entries: usize, max_bytes: usize) -> Hot {
        Hot {
            table: Table::with_capacity_and_hasher(max_entries.min(1024), PassThrough::default()),
            clock: Mutex::new(Clock::default()),
            entries: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            max_entries,
            max_bytes,
        }
    }

    /// Pins the table for a batch of look-ups.
    #[inline]
    pub fn pin(&self) -> HotPin<'_> {
        HotPin(self.table.pin())
    }

    /// Takes an answer that has been asked for twice.
    pub fn promote(&self, entry: &Arc<Entry>, now: Moment) {
        if entry.size() > MAX_ENTRY || entry.size() > self.max_bytes || self.max_entries == 0 {
            return;
        }
        let mut clock = match self.clock.try_lock() {
            Ok(clock) => clock,
            // A panic elsewhere left a ring that is whole: every step below leaves it so.
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        let pin = self.table.pin();
        if pin.get(&entry.hash()).is_some_and(|slot| Arc::ptr_eq(&slot.entry, entry)) {
            return;
        }
        let slot = Arc::new(Slot { entry: Arc::clone(entry), used: AtomicBool::new(false) });
        clock.bytes += entry.size();
        clock.ring.push_back(Arc::clone(&slot));
        pin.insert(entry.hash(), slot);
        while clock.ring.len() > self.max_entries || clock.bytes > self.max_bytes {
            self.evict(&mut clock, now);
        }
        self.entries.store(clock.ring.len() as u64, Ordering::Relaxed);
        self.bytes.store(clock.bytes as u64, Ordering::Relaxed);
    }

    fn evict(&self, clock: &mut Clock, now: Moment) {
        for step in 0.. {
            let Some(slot) = clock.ring.pop_front() else { return };
            let used = slot.used.swap(false, Ordering::Relaxed);
            if used && step < MAX_STEPS && slot.entry.is_fresh(now) {
                clock.ring.push_back(slot);
                continue;
            }
            clock.bytes -= slot.entry.size();
            // A newer answer to the same question may stand in the table by now: that one stays.
            let _ = self.table.pin().remove_if(&slot.entry.hash(), |_, current| Arc::ptr_eq(current, &slot));
            return;
        }
    }

    /// Entries and bytes held.
    pub fn usage(&self) -> (u64, u64) {
        (self.entries.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }
}
