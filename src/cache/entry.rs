//! One answer in the cache: immutable but for two marks, shared, and as small as can be: a store holds hundreds of thousands.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use super::key::{QueryKey, SCOPE_LEN};
use super::ttl::{self, Caps, Moment};
use crate::wire::answer::{Answer, Kind};
use crate::wire::header::{HEADER_LEN, Header};
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

/// The mark of an answer that ended before its time.
const VOID: u8 = 1;
/// The mark of an answer that somebody asks for again.
const CLAIMED: u8 = 2;

/// A cached answer.
pub struct Entry {
    hash: u64,
    stored: Moment,
    lifetime_ms: u32,
    bucket: ClientBucket,
    rcode: Rcode,
    kind: Kind,
    marks: AtomicU8,
    role: Role,
    wire_len: u16,
    ede_len: u16,
    parts: Option<Box<Parts>>,
    /// The key's scope, wire, extended errors, TTL offsets (two octets each, big-endian), one behind the other. The rest of
    /// the key is the question in the wire: its name is in lower case.
    octets: Box<[u8]>,
}

/// What a composed answer is made of: kept as long as it is, so that other searches find it too.
struct Parts(Box<[Arc<Entry>]>);

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
        Entry { role: Role::Composed { saved }, parts: Some(Box::new(Parts(holds.into()))), ..entry }
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
            wire: [&[0; HEADER_LEN], key.qname(), key.type_and_class()].concat(),
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

    /// `answer` has the key's question in it, in whatever case.
    fn of(key: &QueryKey, answer: &Answer, lifetime: Duration, bucket: ClientBucket, now: Moment) -> Entry {
        let size = SCOPE_LEN + answer.wire.len() + answer.ede.len() + 2 * answer.ttl_offsets.len();
        let mut octets = Vec::with_capacity(size);
        octets.extend_from_slice(key.scope());
        octets.extend_from_slice(&answer.wire);
        crate::wire::put(&mut octets, SCOPE_LEN + HEADER_LEN, key.qname());
        octets.extend_from_slice(&answer.ede);
        octets.extend(answer.ttl_offsets.iter().flat_map(|offset| offset.to_be_bytes()));
        Entry {
            hash: key.hash(),
            stored: now,
            lifetime_ms: u32::try_from(lifetime.as_millis()).unwrap_or(u32::MAX),
            bucket,
            rcode: answer.rcode,
            kind: answer.kind,
            marks: AtomicU8::new(0),
            role: Role::Answer,
            wire_len: answer.wire.len() as u16,
            ede_len: answer.ede.len() as u16,
            parts: None,
            octets: octets.into_boxed_slice(),
        }
    }

    /// True while the answer may be given.
    #[inline]
    pub fn is_fresh(&self, now: Moment) -> bool {
        now < self.expires() && !self.is_void()
    }

    /// True where the answer has ended and may be given for want of a newer one: what upstream said of a name, but no
    /// failure, and nothing made here.
    pub fn is_stale(&self, now: Moment, caps: Caps) -> bool {
        let may_be = self.role == Role::Answer && self.kind != Kind::Failure && !self.is_void();
        may_be && now >= self.expires() && now < self.expires().after(caps.stale)
    }

    /// Ends the answer before its time: what it rests on has changed, or a newer one is there.
    pub fn make_void(&self) {
        self.marks.fetch_or(VOID, Ordering::Release);
    }

    /// True where a hit has to claim that the answer is asked for again before it ends.
    #[inline]
    pub fn is_due(&self, now: Moment) -> bool {
        let left_ms = self.expires().0.saturating_sub(now.0);
        ttl::is_last_tenth(left_ms, self.lifetime_ms) && self.is_unclaimed(left_ms)
    }

    fn is_unclaimed(&self, left_ms: u64) -> bool {
        let is_near = match self.role {
            Role::Answer => self.kind != Kind::Failure,
            Role::Composed { .. } => ttl::is_last_twentieth(left_ms, self.lifetime_ms),
            Role::Literal | Role::Bar => false,
        };
        is_near && self.marks.load(Ordering::Relaxed) & CLAIMED == 0
    }

    /// Takes it over to ask for the answer again; true for one caller alone, and the one write of all hits in an entry's life.
    pub fn claim(&self, now: Moment) -> bool {
        self.is_due(now) && self.marks.fetch_or(CLAIMED, Ordering::Relaxed) & CLAIMED == 0
    }

    /// True where this is the answer to that very key.
    #[inline]
    pub fn answers(&self, key: &QueryKey) -> bool {
        // A name ends in its root label, so one that begins as another does is that other.
        let name_at = SCOPE_LEN + HEADER_LEN;
        let type_at = name_at + key.qname().len();
        self.hash == key.hash()
            && self.octets.get(name_at..type_at) == Some(key.qname())
            && self.octets.get(type_at..type_at + 4) == Some(key.type_and_class())
            && self.octets.get(..SCOPE_LEN) == Some(key.scope())
    }

    /// The answer, to be written into a reply.
    #[inline]
    pub fn said(&self) -> Said<'_> {
        let ede_at = SCOPE_LEN + usize::from(self.wire_len);
        let offsets_at = ede_at + usize::from(self.ede_len);
        Said {
            wire: self.octets.get(SCOPE_LEN..ede_at).unwrap_or(&[]),
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
    #[inline]
    pub fn expires(&self) -> Moment {
        Moment(self.stored.0.saturating_add(u64::from(self.lifetime_ms)))
    }

    /// For how long the answer still serves.
    pub fn remaining(&self, now: Moment) -> Duration {
        Duration::from_millis(self.expires().0.saturating_sub(now.0))
    }

    /// True where there is anything in the answer section: data, or aliases before a denial.
    pub fn has_answers(&self) -> bool {
        Header::read(self.said().wire).is_some_and(|header| header.answers > 0)
    }

    /// Milliseconds the answer lives in all.
    pub fn lifetime_ms(&self) -> u64 {
        u64::from(self.lifetime_ms)
    }

    /// What it is, beside an answer's bytes.
    #[inline]
    pub fn role(&self) -> Role {
        self.role
    }

    /// True where it was ended before its time.
    #[inline]
    pub fn is_void(&self) -> bool {
        self.marks.load(Ordering::Acquire) & VOID != 0
    }

    /// What kind of answer it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Which clients' share it counts against.
    pub fn bucket(&self) -> ClientBucket {
        self.bucket
    }

    /// What it is made of, where it is composed.
    fn parts(&self) -> &[Arc<Entry>] {
        self.parts.as_ref().map_or(&[], |parts| &parts.0)
    }

    /// Bytes of memory, what it is made of left out.
    pub fn size(&self) -> usize {
        let parts = self
            .parts
            .as_ref()
            .map_or(0, |parts| allocated(size_of::<Parts>()) + allocated(size_of_val(&*parts.0)));
        allocated(size_of::<Entry>() + COUNTS) + allocated(self.octets.len()) + parts
    }

    /// Bytes of memory that would be free without it, at most.
    pub fn size_with_parts(&self) -> usize {
        self.size() + self.parts().iter().map(|part| part.size()).sum::<usize>()
    }
}

/// The two counts of an `Arc`.
const COUNTS: usize = 2 * size_of::<usize>();

/// What the allocator takes for a piece of memory: it has four sizes to a doubling, and steps of 16 below.
fn allocated(bytes: usize) -> usize {
    bytes.next_multiple_of((bytes.next_power_of_two() / 8).max(16))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::key::{KeyHasher, SearchListId};
    use crate::wire::name::Name;
    use crate::wire::question::Question;

    fn message(name: &str, qtype: u16, qclass: u16) -> Vec<u8> {
        let name = Name::from_text(name).unwrap();
        [&[0; 12], name.as_wire(), &qtype.to_be_bytes(), &qclass.to_be_bytes()].concat()
    }

    fn entry(key: &QueryKey, wire: Vec<u8>) -> Entry {
        let nothing = Entry::literal(key, Role::Literal, Duration::ZERO, ClientBucket(0), Moment(0));
        let answer = Answer {
            wire,
            ttl_offsets: vec![],
            rcode: nothing.rcode,
            kind: nothing.kind,
            answer_ttl: None,
            negative_ttl: None,
            ede: vec![],
            had_opt: false,
            referral: false,
        };
        Entry::of(key, &answer, Duration::ZERO, ClientBucket(0), Moment(0))
    }

    #[test]
    fn it_answers_its_own_key_in_any_case_and_no_other() {
        // All keys here have one hash, so that the octets have to tell them apart.
        let hasher = KeyHasher::default();
        let key = |name: &str, qtype, qclass, dnssec_ok, cd, list| {
            let message = message(name, qtype, qclass);
            let question = Question::read(&message).unwrap();
            QueryKey::of(&question, dnssec_ok, cd, list, &hasher).with_hash(7)
        };
        let (literal, searched) = (SearchListId::LITERAL, SearchListId::SEARCHED);
        let own = key("www.example.com", 1, 1, false, false, literal);
        for entry in [
            entry(&own, message("wWw.Example.com", 1, 1)),
            Entry::literal(&own, Role::Bar, Duration::ZERO, ClientBucket(0), Moment(0)),
        ] {
            assert!(entry.answers(&key("WWW.example.COM", 1, 1, false, false, literal)));
            for other in [
                key("www.example.co", 1, 1, false, false, literal),
                key("www.example.com.br", 1, 1, false, false, literal),
                key("www", 1, 1, false, false, literal),
                key("www.example.org", 1, 1, false, false, literal),
                key("www.example.com", 28, 1, false, false, literal),
                key("www.example.com", 1, 3, false, false, literal),
                key("www.example.com", 1, 1, true, false, literal),
                key("www.example.com", 1, 1, false, true, literal),
                key("www.example.com", 1, 1, false, false, searched),
            ] {
                assert!(!entry.answers(&other), "{:?}", other.octets());
            }
        }
    }

    #[test]
    fn it_fills_its_piece_of_memory() {
        let size = size_of::<Entry>() + COUNTS;
        assert!(allocated(size) - size <= size_of::<usize>(), "{size}");
    }

    #[test]
    fn sizes_are_those_of_the_allocator() {
        let sizes = [1, 16, 17, 72, 113, 129, 257, 600, 4097, 65_000].map(allocated);
        assert_eq!(sizes, [16, 16, 32, 80, 128, 160, 320, 640, 5120, 65_536]);
    }
}
