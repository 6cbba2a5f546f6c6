//! One answer in the cache: immutable but for one flag, shared, in a single piece of memory.

use std::sync::atomic::{AtomicBool, Ordering};

use super::key::QueryKey;
use super::ttl::{self, Caps, Moment};
use crate::wire::answer::{Answer, Kind};
use crate::wire::iana::Rcode;
use crate::wire::reply::Said;

/// Which group of clients brought an answer; see [`super::store`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClientBucket(pub u16);

/// A cached answer.
pub struct Entry {
    hash: u64,
    stored: Moment,
    expires: Moment,
    bucket: ClientBucket,
    rcode: Rcode,
    kind: Kind,
    void: AtomicBool,
    key_len: u16,
    wire_len: u16,
    ede_len: u16,
    /// Key, wire, extended errors, TTL offsets (two octets each, big-endian), one behind the other.
    octets: Box<[u8]>,
}

impl Entry {
    /// An entry for `key` that lives as [`ttl::lifetime`] says.
    pub fn new(
        key: &QueryKey,
        mut answer: Answer,
        caps: Caps,
        failures: u8,
        bucket: ClientBucket,
        now: Moment,
    ) -> Entry {
        let lifetime = ttl::lifetime(&answer, caps, failures);
        ttl::settle(&mut answer, caps, lifetime);
        let size = key.octets().len() + answer.wire.len() + answer.ede.len() + 2 * answer.ttl_offsets.len();
        let mut octets = Vec::with_capacity(size);
        octets.extend_from_slice(key.octets());
        octets.extend_from_slice(&answer.wire);
        octets.extend_from_slice(&answer.ede);
        octets.extend(answer.ttl_offsets.iter().flat_map(|offset| offset.to_be_bytes()));
        Entry {
            hash: key.hash(),
            stored: now,
            expires: now.after(lifetime),
            bucket,
            rcode: answer.rcode,
            kind: answer.kind,
            void: AtomicBool::new(false),
            key_len: key.octets().len() as u16,
            wire_len: answer.wire.len() as u16,
            ede_len: answer.ede.len() as u16,
            octets: octets.into_boxed_slice(),
        }
    }

    /// True while the answer may be given.
    #[inline]
    pub fn is_fresh(&self, now: Moment) -> bool {
        now < self.expires && !self.void.load(Ordering::Acquire)
    }

    /// Ends the answer before its time: what it rests on has changed.
    pub fn make_void(&self) {
        self.void.store(true, Ordering::Release);
    }

    /// True where this is the answer to that very key.
    #[inline]
    pub fn answers(&self, key: &QueryKey) -> bool {
        self.hash == key.hash() && self.octets.get(..usize::from(self.key_len)) == Some(key.octets())
    }

    /// The answer, to be written into a reply.
    #[inline]
    pub fn said(&self) -> Said<'_> {
        let wire_at = usize::from(self.key_len);
        let ede_at = wire_at + usize::from(self.wire_len);
        let offsets_at = ede_at + usize::from(self.ede_len);
        Said {
            wire: self.octets.get(wire_at..ede_at).unwrap_or(&[]),
            ede: self.octets.get(ede_at..offsets_at).unwrap_or(&[]),
            ttl_offsets: self.octets.get(offsets_at..).unwrap_or(&[]),
            rcode: self.rcode,
        }
    }

    /// Whole seconds since the answer came.
    #[inline]
    pub fn age(&self, now: Moment) -> u32 {
        now.seconds_since(self.stored)
    }

    /// The hash of the key.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// When the answer ends.
    pub fn expires(&self) -> Moment {
        self.expires
    }

    /// Milliseconds the answer lives in all.
    pub fn lifetime_ms(&self) -> u64 {
        self.expires.0.saturating_sub(self.stored.0)
    }

    /// What kind of answer it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Which clients' share it counts against.
    pub fn bucket(&self) -> ClientBucket {
        self.bucket
    }

    /// Bytes of memory, allocation overhead aside.
    pub fn size(&self) -> usize {
        size_of::<Entry>() + self.octets.len()
    }
}
