//! A row of counters that all workers add to.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters by place.
pub struct Tally<const PLACES: usize>([AtomicU64; PLACES]);

impl<const PLACES: usize> Default for Tally<PLACES> {
    fn default() -> Self {
        Tally(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl<const PLACES: usize> Tally<PLACES> {
    /// Adds one at a place; a place that is not there has no counter.
    pub fn count(&self, place: usize) {
        if let Some(count) = self.0.get(place) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The count of a place.
    pub fn get(&self, place: usize) -> u64 {
        self.0.get(place).map_or(0, |count| count.load(Ordering::Relaxed))
    }
}
