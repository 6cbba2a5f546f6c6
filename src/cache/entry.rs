//! One answer in the cache: immutable but for one flag, shared, in a single piece of memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::key::QueryKey;
use super::ttl::{self, Caps, Moment};
use crate::wire::answer::{Answer, Kind};
use crate::wire::header::Header;
use crate::wire::iana::Rcode;
use crate::wire::reply::Said;

/// Which group of clients brought an answer; see [`super::store`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClientBucket(pub u16);

/// What an entry is, beside an answer's bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// What upstream said.
    Answer,
    /// What a search ends with, made of what upstream said; it saves its client so many further questions.
    Composed {
        /// Later steps of the search that need not be asked.
        saved: u8,
    },
    /// No answer: the question is to be answered literally, as the outcome of a walk.
    Literal,
    /// No answer: the question is to be answered literally, since it may be a later step of another search.
    Bar,
}

/// A cached answer.
pub struct Entry {
    hash: u64,
    stored: Moment,
    expires: Moment,
    bucket: ClientBucket,
    rcode: Rcode,
    kind: Kind,
    void: AtomicBool,
    role: Role,
    /// What a composed answer is made of: kept as long as it is, so that other searches find it too.
    holds: Box<[Arc<Entry>]>,
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
        Entry::of(key, &answer, lifetime, bucket, now)
    }

    /// An answer composed of others, which it keeps.
    pub fn composed(
        key: &QueryKey,
        answer: &Answer,
        lifetime: Duration,
        saved: u8,
        bucket: ClientBucket,
        holds: Vec<Arc<Entry>>,
        now: Moment,
    ) -> Entry {
        let entry = Entry::of(key, answer, lifetime, bucket, now);
        Entry { role: Role::Composed { saved }, holds: holds.into(), ..entry }
    }

    /// A word that a question is to be answered literally.
    pub fn literal(
        key: &QueryKey,
        role: Role,
        lifetime: Duration,
        bucket: ClientBucket,
        now: Moment,
    ) -> Entry {
        let nothing = Answer {
            wire: vec![],
            ttl_offsets: vec![],
            rcode: Rcode::NXDOMAIN,
            kind: Kind::NxDomain,
            answer_ttl: None,
            negative_ttl: None,
            ede: vec![],
            had_opt: false,
            referral: false,
        };
        Entry { role, ..Entry::of(key, &nothing, lifetime, bucket, now) }
    }

    fn of(key: &QueryKey, answer: &Answer, lifetime: Duration, bucket: ClientBucket, now: Moment) -> Entry {
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
            role: Role::Answer,
            holds: Box::default(),
            key_len: key.octets().len() as u16,
            wire_len: answer.wire.len() as u16,
            ede_len: answer.ede.len() as u16,
            octets: octets.into_boxed_slice(),
        }
    }

    /// True while the answer may be given.
    #[inline]
    pub fn is_fresh(&self, now: Moment) -> bool {
        now < self.expires && !self.is_void()
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

    /// For how long the answer still serves.
    pub fn remaining(&self, now: Moment) -> Duration {
        Duration::from_millis(self.expires.0.saturating_sub(now.0))
    }

    /// True where there is anything in the answer section: data, or aliases before a denial.
    pub fn has_answers(&self) -> bool {
        Header::read(self.said().wire).is_some_and(|header| header.answers > 0)
    }

    /// Milliseconds the answer lives in all.
    pub fn lifetime_ms(&self) -> u64 {
        self.expires.0.saturating_sub(self.stored.0)
    }

    /// What it is, beside an answer's bytes.
    #[inline]
    pub fn role(&self) -> Role {
        self.role
    }

    /// True where it was ended before its time.
    #[inline]
    pub fn is_void(&self) -> bool {
        self.void.load(Ordering::Acquire)
    }

    /// What kind of answer it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Which clients' share it counts against.
    pub fn bucket(&self) -> ClientBucket {
        self.bucket
    }

    /// Bytes of memory, allocation overhead aside, and without what it is made of.
    pub fn size(&self) -> usize {
        size_of::<Entry>() + self.octets.len() + size_of_val(&*self.holds)
    }

    /// Bytes of memory that would be free without it, at most.
    pub fn size_with_parts(&self) -> usize {
        self.size() + self.holds.iter().map(|part| part.size()).sum::<usize>()
    }
}
