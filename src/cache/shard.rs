//! A part of the store under one lock: a table, and two queues that say which answer goes first. It is S3-FIFO (Yang et al.,
//! SOSP 2023) with one mark for each answer and without a list of what has gone.
//!
//! What is new waits in `young`. When that holds more than a quarter of the bytes, its oldest leaves it: for `kept` if it
//! was asked for again, for good if not. Else the oldest of `kept` leaves: for its end again if it was asked for since it
//! stood there last, for good if not. So what is asked for once passes through a quarter of the bytes, and to ask
//! for an answer sets its mark and moves nothing.
//!
//! Where the client that needs room holds more than its share, it is made at the expense of such clients: what others
//! brought is passed over, and what they asked for again stays marked.
//!
//! Much that is passed over may stand in front. So a little room is always free, and what is not made with one insertion is
//! made with the next. Where none is left either, the oldest goes although it was asked for; but an answer of a
//! client over its share is not kept, rather than that another's goes.
//!
//! Each entry of the table has one place in one of the queues. An answer that is replaced leaves its place to the newer one;
//! where there is no room for that it stays, void, until its turn comes.

use std::collections::VecDeque;
use std::collections::hash_map::{Entry as Place, HashMap};
use std::sync::Arc;

use super::entry::Entry;
use super::key::PassThrough;
use super::shares::Shares;

/// What an entry costs beside its own bytes: its places in table and queue. `benches/memory.rs` measures 52; where both have
/// just doubled it is 73.
pub const ENTRY_OVERHEAD: u64 = 80;
/// The part of the bytes that what nobody has asked for again may fill when there is anything else.
const YOUNG_PART: u64 = 4;
/// The part of the bytes that is left free.
const FREE_PART: u64 = 32;
/// Answers passed over in one insertion: a few microseconds under the lock.
const MAX_STEPS: usize = 64;
/// Places of table and queues above which a quarter in use is too little to keep them all.
const SPARE_PLACES: usize = 1024;

/// The table and its queues.
pub struct Shard {
    table: HashMap<u64, Slot, PassThrough>,
    young: VecDeque<u64>,
    kept: VecDeque<u64>,
    young_bytes: u64,
    max_bytes: u64,
    usage: Usage,
}

struct Slot {
    entry: Arc<Entry>,
    is_used: bool,
    is_young: bool,
}

/// What a store holds and what it could not hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Entries held.
    pub entries: u64,
    /// Bytes held.
    pub bytes: u64,
    /// Answers dropped for room, the oldest first.
    pub evicted: u64,
    /// Answers dropped for room that a client over its share needed.
    pub evicted_over_share: u64,
    /// Answers not kept: larger than a shard, or of a client over its share where only others' could have gone.
    pub refused: u64,
}

impl std::ops::Add for Usage {
    type Output = Usage;

    fn add(self, other: Usage) -> Usage {
        Usage {
            entries: self.entries + other.entries,
            bytes: self.bytes + other.bytes,
            evicted: self.evicted + other.evicted,
            evicted_over_share: self.evicted_over_share + other.evicted_over_share,
            refused: self.refused + other.refused,
        }
    }
}

impl Shard {
    /// An empty one of so many bytes.
    pub fn new(max_bytes: u64) -> Shard {
        Shard {
            table: HashMap::default(),
            young: VecDeque::new(),
            kept: VecDeque::new(),
            young_bytes: 0,
            max_bytes,
            usage: Usage::default(),
        }
    }

    /// The entry with a hash, which has now been asked for.
    pub fn get(&mut self, hash: u64) -> Option<Arc<Entry>> {
        let slot = self.table.get_mut(&hash)?;
        slot.is_used = true;
        Some(Arc::clone(&slot.entry))
    }

    /// Takes an entry in place of an earlier one with the same hash, which is void from then on.
    pub fn insert(&mut self, entry: Arc<Entry>, shares: &Shares) {
        let (hash, bucket, bytes) = (entry.hash(), entry.bucket(), weight(&entry));
        if let Some(earlier) = self.table.get(&hash) {
            earlier.entry.make_void();
        }
        // What is larger than everything is not worth everything.
        if bytes > self.max_bytes {
            self.usage.refused += 1;
            return;
        }
        shares.add(bucket, bytes);
        self.make_room(bytes, shares.is_over(bucket), shares);
        if self.usage.bytes + bytes > self.max_bytes {
            shares.subtract(bucket, bytes);
            self.usage.refused += 1;
            return;
        }
        self.usage.bytes += bytes;
        match self.table.entry(hash) {
            Place::Occupied(mut place) => {
                let slot = place.get_mut();
                let (earlier, is_young) = (std::mem::replace(&mut slot.entry, entry), slot.is_young);
                self.young_bytes += if is_young { bytes } else { 0 };
                self.gone(&earlier, is_young, shares);
            }
            Place::Vacant(place) => {
                place.insert(Slot { entry, is_used: false, is_young: true });
                self.young.push_back(hash);
                self.young_bytes += bytes;
            }
        }
    }

    /// Drops entries whose turn it is until there is room for so many bytes and a little more.
    fn make_room(&mut self, bytes: u64, others_are_spared: bool, shares: &Shares) {
        let mut steps = MAX_STEPS;
        while self.usage.bytes + bytes > self.max_bytes - self.max_bytes / FREE_PART {
            let from_young = self.young_bytes > self.max_bytes / YOUNG_PART || self.kept.is_empty();
            let queue = if from_young { &mut self.young } else { &mut self.kept };
            let Some(hash) = queue.pop_front() else { break };
            let Some(slot) = self.table.get_mut(&hash) else { continue };
            let is_void = slot.entry.is_void();
            let is_spared = !is_void && others_are_spared && !shares.is_over(slot.entry.bucket());
            let is_passed_over = is_spared || !is_void && slot.is_used;
            if steps == 0 && (is_spared || self.usage.bytes + bytes <= self.max_bytes) {
                queue.push_front(hash);
                break;
            }
            if steps == 0 || !is_passed_over {
                self.remove(hash, others_are_spared, shares);
                continue;
            }
            steps -= 1;
            slot.is_used &= is_spared;
            if std::mem::take(&mut slot.is_young) {
                self.young_bytes -= weight(&slot.entry);
            }
            self.kept.push_back(hash);
        }
        self.give_back();
    }

    fn remove(&mut self, hash: u64, for_one_over_share: bool, shares: &Shares) {
        let Some(slot) = self.table.remove(&hash) else { return };
        self.gone(&slot.entry, slot.is_young, shares);
        match for_one_over_share {
            _ if slot.entry.is_void() => {}
            true => self.usage.evicted_over_share += 1,
            false => self.usage.evicted += 1,
        }
    }

    fn gone(&mut self, entry: &Entry, was_young: bool, shares: &Shares) {
        let bytes = weight(entry);
        shares.subtract(entry.bucket(), bytes);
        self.usage.bytes -= bytes;
        self.young_bytes -= if was_young { bytes } else { 0 };
    }

    /// Gives places back that few large answers leave over where many small ones were.
    fn give_back(&mut self) {
        let is_spare = |places: usize, used: usize| places > SPARE_PLACES && places / 4 > used;
        if is_spare(self.table.capacity(), self.table.len()) {
            self.table.shrink_to(self.table.len() * 2);
        }
        for queue in [&mut self.young, &mut self.kept] {
            if is_spare(queue.capacity(), queue.len()) {
                queue.shrink_to(queue.len() * 2);
            }
        }
    }

    /// What it holds and what it could not hold.
    pub fn usage(&self) -> Usage {
        Usage { entries: self.table.len() as u64, ..self.usage }
    }
}

/// Bytes an entry takes in the store.
fn weight(entry: &Entry) -> u64 {
    entry.size_with_parts() as u64 + ENTRY_OVERHEAD
}

#[cfg(test)]
#[path = "shard_tests.rs"]
mod tests;
