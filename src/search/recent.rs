//! Who was given a literal answer lately: A and AAAA of one look-up must be treated alike.
//!
//! A fixed table of words without a lock: each holds a tag of (client, name) and a time. Two that share a place displace
//! each other, the older first; then the later half of a look-up may be composed although its first half was not.
//! With [`PLACES`] places and 30 seconds that needs thousands of literal answers a second.

use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use foldhash::quality::RandomState;

use super::LOOK_UP;
use crate::cache::ttl::Moment;

/// Places, 8 bytes each.
pub const PLACES: usize = 65_536;
/// Bits of a word that hold the time, in tenths of a second: they turn over after 19 days.
const TIME_BITS: u32 = 24;
const TIME: u64 = (1 << TIME_BITS) - 1;
/// A time this fresh is not written again, so that one busy client does not own a cache line.
const FRESH_TENTHS: u64 = 10;

/// Places of a small table in front, by client alone: most clients had no literal answer lately, and for them the large
/// one is not touched.
const CLIENTS: usize = 4096;

/// The tables.
pub struct Recent {
    clients: Box<[AtomicU64]>,
    places: Box<[AtomicU64]>,
    hasher: RandomState,
}

impl Default for Recent {
    fn default() -> Recent {
        let table = |places| (0..places).map(|_| AtomicU64::new(0)).collect();
        Recent { clients: table(CLIENTS), places: table(PLACES), hasher: RandomState::default() }
    }
}

fn tenths(now: Moment) -> u64 {
    // Zero is an empty place, so time begins at one.
    (now.0 / 100 + 1) & TIME
}

fn age(word: u64, now: Moment) -> u64 {
    tenths(now).wrapping_sub(word & TIME) & TIME
}

impl Recent {
    /// The time at which a client was last given any literal answer; another client may share it.
    fn last(&self, client: IpAddr) -> Option<&AtomicU64> {
        self.clients.get(self.hasher.hash_one(client) as usize % CLIENTS)
    }

    /// The two places of a pair and its tag.
    fn find(&self, client: IpAddr, qname: &[u8]) -> ([Option<&AtomicU64>; 2], u64) {
        let mut lower = [0; crate::wire::name::MAX_NAME];
        let lower = lower.get_mut(..qname.len()).unwrap_or_default();
        lower.copy_from_slice(qname.get(..lower.len()).unwrap_or_default());
        lower.make_ascii_lowercase();
        let hash = self.hasher.hash_one((client, &*lower));
        let index = hash as usize % PLACES;
        ([self.places.get(index), self.places.get(index ^ 1)], hash & !TIME | (1 << TIME_BITS))
    }

    /// Takes note of a literal answer.
    pub fn note(&self, client: IpAddr, qname: &[u8], now: Moment) {
        if let Some(last) = self.last(client).filter(|last| last.load(Ordering::Relaxed) != tenths(now)) {
            last.store(tenths(now), Ordering::Relaxed);
        }
        let ([Some(one), Some(other)], tag) = self.find(client, qname) else { return };
        let (one_word, other_word) = (one.load(Ordering::Relaxed), other.load(Ordering::Relaxed));
        let is_own = |word: u64| word & !TIME == tag;
        let older = |word: u64, than: u64| word == 0 || than != 0 && age(word, now) > age(than, now);
        let (place, word) = match (is_own(one_word), is_own(other_word)) {
            (true, _) => (one, one_word),
            (_, true) => (other, other_word),
            _ if older(other_word, one_word) => (other, 0),
            _ => (one, 0),
        };
        if word == 0 || age(word, now) >= FRESH_TENTHS {
            place.store(tag | tenths(now), Ordering::Relaxed);
        }
    }

    /// True where the client was given a literal answer to this name in the last 30 seconds.
    #[inline]
    pub fn has(&self, client: IpAddr, qname: &[u8], now: Moment) -> bool {
        let last = self.last(client).map_or(0, |last| last.load(Ordering::Relaxed));
        if last == 0 || age(last, now) > LOOK_UP.as_secs() * 10 {
            return false;
        }
        let (places, tag) = self.find(client, qname);
        places.into_iter().flatten().any(|place| {
            let word = place.load(Ordering::Relaxed);
            word & !TIME == tag && age(word, now) <= LOOK_UP.as_secs() * 10
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const NAME: &[u8] = b"\x03www\x07example\x03com\x04shop\x00";

    fn client(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    #[test]
    fn a_literal_answer_is_remembered_for_one_look_up() {
        let (recent, start) = (Recent::default(), Moment(5000));
        assert!(!recent.has(client(1), NAME, start));
        recent.note(client(1), NAME, start);
        assert!(recent.has(client(1), &NAME.to_ascii_uppercase(), start.after(LOOK_UP)));
        assert!(!recent.has(client(1), NAME, start.after(LOOK_UP + Duration::from_millis(200))));
        assert!(!recent.has(client(2), NAME, start) && !recent.has(client(1), b"\x01a\x00", start));
    }

    #[test]
    fn each_further_one_counts_anew() {
        let (recent, start) = (Recent::default(), Moment(5000));
        recent.note(client(1), NAME, start);
        let later = start.after(Duration::from_secs(20));
        recent.note(client(1), NAME, later);
        assert!(recent.has(client(1), NAME, later.after(LOOK_UP)));
    }

    #[test]
    fn a_thousand_pairs_have_room() {
        let (recent, start) = (Recent::default(), Moment(5000));
        let name = |n: u16| [&[2][..], &n.to_be_bytes(), b"\x00"].concat();
        (0..1000).for_each(|n| recent.note(client(1), &name(n), start));
        let kept = (0..1000).filter(|n| recent.has(client(1), &name(*n), start)).count();
        // Three in one pair of places displace each other: 0.16 triples of 1000 are expected.
        assert!(kept >= 996, "{kept}");
    }
}
