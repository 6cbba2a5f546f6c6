//! Counters of one worker, and its last answers: plain cells that only it writes, so that a hit touches no line another
//! worker writes.

use std::sync::atomic::{AtomicU64, Ordering};

use super::ring::{Answered, Ring};
use crate::query::{Family, Proto};
use crate::wire::iana::rtype;

/// Types with a counter of their own; all others share the last. The set bounds the metric's labels.
pub const TYPES: [(u16, &str); 16] = [
    (rtype::A, "A"),
    (rtype::AAAA, "AAAA"),
    (rtype::CNAME, "CNAME"),
    (rtype::DNSKEY, "DNSKEY"),
    (rtype::DS, "DS"),
    (rtype::HTTPS, "HTTPS"),
    (rtype::MX, "MX"),
    (rtype::NAPTR, "NAPTR"),
    (rtype::NS, "NS"),
    (rtype::PTR, "PTR"),
    (rtype::SOA, "SOA"),
    (rtype::SRV, "SRV"),
    (rtype::SVCB, "SVCB"),
    (rtype::TXT, "TXT"),
    (rtype::ANY, "ANY"),
    (0, "other"),
];

/// Response codes with a counter of their own; the last place is for all others.
pub const RCODES: usize = 24;

/// What happened to a query, beside what it asked and got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Answered from the hot level.
    HitHot,
    /// Answered from the store.
    HitStore,
    /// Not in the cache, or there no longer fresh.
    Miss,
    /// Data given past its TTL.
    StaleData,
    /// NODATA given past its TTL.
    StaleNoData,
    /// NXDOMAIN given past its TTL.
    StaleNxDomain,
    /// An answer in use was asked for again before its end.
    Prefetched,
    /// Joined an equal question that was on its way.
    Joined,
    /// Dropped without a word: no query.
    Dropped,
    /// A reply that the socket did not take.
    Unsent,
    /// Too many questions waited in all.
    LimitWaiting,
    /// Too many questions of one client waited.
    LimitClientWaiting,
    /// Too many TCP connections in all.
    LimitConnections,
    /// Too many TCP connections of one client.
    LimitClientConnections,
    /// A walk ended with a composed answer.
    SearchComposed,
    /// A walk found that the name itself, or one of a domain of the host's own, exists.
    SearchExists,
    /// A walk found nothing.
    SearchNoneFound,
    /// A walk could not decide.
    SearchUndecided,
    /// A walk took too long.
    SearchLate,
    /// What a walk ended with would not fit into a datagram.
    SearchTooLong,
    /// A first step of a search that no rule allows to compose.
    SearchByRule,
    /// A name that a client waits for was asked again.
    AskedAgain,
    /// A denial was answered from that of the name above it.
    DenialCut,
    /// A question ended in a panic.
    Panic,
}

const EVENTS: usize = Event::Panic as usize + 1;

/// One worker's counters, on cache lines of their own.
#[repr(align(128))]
pub struct Cells {
    queries: [AtomicU64; 4 * TYPES.len()],
    responses: [AtomicU64; RCODES],
    events: [AtomicU64; EVENTS],
    saved: AtomicU64,
    /// Its last answers.
    pub ring: Ring,
}

fn query_cell(proto: Proto, family: Family, place: usize) -> usize {
    (2 * proto as usize + family as usize) * TYPES.len() + place
}

/// Adds one to a cell that only this thread writes: a load and a store, no locked instruction.
#[inline]
fn bump(cell: Option<&AtomicU64>) {
    if let Some(cell) = cell {
        cell.store(cell.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
    }
}

impl Default for Cells {
    fn default() -> Cells {
        let zero = |_| AtomicU64::new(0);
        Cells {
            queries: std::array::from_fn(zero),
            responses: std::array::from_fn(zero),
            events: std::array::from_fn(zero),
            saved: AtomicU64::new(0),
            ring: Ring::default(),
        }
    }
}

impl Cells {
    /// Counts a query.
    #[inline]
    pub fn query(&self, proto: Proto, family: Family, qtype: u16) {
        let place = match qtype {
            rtype::A => 0,
            rtype::AAAA => 1,
            _ => TYPES.iter().position(|(number, _)| *number == qtype).unwrap_or(TYPES.len() - 1),
        };
        bump(self.queries.get(query_cell(proto, family, place)));
    }

    /// Counts an answer by its code, and notes it.
    #[inline]
    pub fn answered(&self, answered: &Answered<'_>) {
        bump(self.responses.get(usize::from(answered.rcode.0).min(RCODES - 1)));
        self.ring.write(answered);
    }

    /// Counts an event.
    #[inline]
    pub fn event(&self, event: Event) {
        bump(self.events.get(event as usize));
    }
}

impl Cells {
    /// Counts questions that a client need not ask.
    #[inline]
    pub fn saved(&self, questions: u8) {
        self.saved
            .store(self.saved.load(Ordering::Relaxed).wrapping_add(questions.into()), Ordering::Relaxed);
    }
}

/// All workers' counters, for whoever scrapes them.
pub struct Sum<'c>(pub &'c [std::sync::Arc<Cells>]);

impl Sum<'_> {
    fn of(&self, read: impl Fn(&Cells) -> Option<&AtomicU64>) -> u64 {
        self.0.iter().filter_map(|cells| read(cells)).map(|cell| cell.load(Ordering::Relaxed)).sum()
    }

    /// Queries that arrived so.
    pub fn queries(&self, proto: Proto, family: Family, place: usize) -> u64 {
        self.of(|cells| cells.queries.get(query_cell(proto, family, place)))
    }

    /// Responses with a code; the last counts all codes beyond.
    pub fn responses(&self, place: usize) -> u64 {
        self.of(|cells| cells.responses.get(place))
    }

    /// Questions that clients need not ask.
    pub fn saved(&self) -> u64 {
        self.of(|cells| Some(&cells.saved))
    }

    /// Events of a kind.
    pub fn events(&self, event: Event) -> u64 {
        self.of(|cells| cells.events.get(event as usize))
    }
}
