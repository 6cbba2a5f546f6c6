//! How much of the store is whose: bytes held for each bucket of client addresses, over all shards.

use std::sync::atomic::{AtomicU64, Ordering};

use super::entry::ClientBucket;
use crate::buckets::BUCKETS;

/// A client's share is one of so many parts of the bytes.
const PARTS: u64 = 4;

/// The counts, 8 bytes for each bucket, and the share.
pub struct Shares {
    held: Box<[AtomicU64]>,
    share: u64,
}

impl Shares {
    /// Of so many bytes.
    pub fn of(bytes: u64) -> Shares {
        Shares { held: (0..BUCKETS).map(|_| AtomicU64::new(0)).collect(), share: bytes / PARTS }
    }

    /// More is held for a bucket.
    pub fn add(&self, bucket: ClientBucket, bytes: u64) {
        if let Some(held) = self.held.get(usize::from(bucket.0)) {
            held.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// Less is held for a bucket.
    pub fn subtract(&self, bucket: ClientBucket, bytes: u64) {
        if let Some(held) = self.held.get(usize::from(bucket.0)) {
            held.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    /// True where more than a share is held for a bucket.
    pub fn is_over(&self, bucket: ClientBucket) -> bool {
        self.held.get(usize::from(bucket.0)).is_some_and(|held| held.load(Ordering::Relaxed) > self.share)
    }

    /// Bytes held for all buckets.
    #[cfg(test)]
    pub fn all(&self) -> u64 {
        self.held.iter().map(|held| held.load(Ordering::Relaxed)).sum()
    }
}
