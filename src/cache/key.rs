//! The key of an answer: all that may change it, and nothing else.

use std::hash::{BuildHasher, Hasher};

use crate::query::Query;
use crate::wire::name::{MAX_NAME, make_lower};
use crate::wire::question::Question;

/// Whether an answer is literal or what a search ends with. The namespace it is for is part of QNAME.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SearchListId(pub u32);

impl SearchListId {
    /// The answer is what upstream says of the name itself.
    pub const LITERAL: SearchListId = SearchListId(0);
    /// The answer is what the search of a client ends with, whose list begins where QNAME ends.
    pub const SEARCHED: SearchListId = SearchListId(1);
}

/// Octets of [`QueryKey::scope`].
pub const SCOPE_LEN: usize = 5;
const FIXED: usize = SCOPE_LEN + 4;
const MAX_KEY: usize = FIXED + MAX_NAME;
const DO: u8 = 1;
const CD: u8 = 2;

/// Search list, QTYPE, QCLASS, DO, CD and the QNAME in lower case, as octets, with their hash.
#[derive(Clone, Copy)]
pub struct QueryKey {
    len: u16,
    hash: u64,
    octets: [u8; MAX_KEY],
}

impl QueryKey {
    /// The key of a query under a search list.
    #[inline]
    pub fn new(query: &Query<'_>, list: SearchListId, hasher: &KeyHasher) -> QueryKey {
        QueryKey::of(&query.question, query.dnssec_ok(), query.checking_disabled(), list, hasher)
    }

    /// The key of a question under a search list.
    #[inline]
    pub fn of(
        question: &Question<'_>,
        dnssec_ok: bool,
        checking_disabled: bool,
        list: SearchListId,
        hasher: &KeyHasher,
    ) -> QueryKey {
        let mut key = QueryKey { len: FIXED as u16, hash: 0, octets: [0; MAX_KEY] };
        let bits = if dnssec_ok { DO } else { 0 } | if checking_disabled { CD } else { 0 };
        let ([l0, l1, l2, l3], [t0, t1], [c0, c1]) =
            (list.0.to_be_bytes(), question.qtype.to_be_bytes(), question.qclass.to_be_bytes());
        let fixed: [u8; FIXED] = [bits, l0, l1, l2, l3, t0, t1, c0, c1];
        let qname = question.qname();
        // A question's name is at most MAX_NAME octets, so that it always has its place.
        if let Some((place, rest)) = key.octets.split_first_chunk_mut::<FIXED>()
            && let Some(name) = rest.get_mut(..qname.len())
        {
            *place = fixed;
            name.copy_from_slice(qname);
            // A type is no letter: only the name is lowered.
            make_lower(name);
            key.len += qname.len() as u16;
        }
        key.hash = hasher.hash(key.octets());
        key
    }

    /// The key as octets.
    #[inline]
    pub fn octets(&self) -> &[u8] {
        self.octets.get(..usize::from(self.len)).unwrap_or(&[])
    }

    /// The QNAME in lower case, in wire form.
    pub fn qname(&self) -> &[u8] {
        self.octets().get(FIXED..).unwrap_or(&[])
    }

    /// What of the key is not in the question: search list, DO, CD.
    #[inline]
    pub fn scope(&self) -> &[u8] {
        self.octets.get(..SCOPE_LEN).unwrap_or(&[])
    }

    /// QTYPE and QCLASS, as they stand behind the QNAME of a question.
    #[inline]
    pub fn type_and_class(&self) -> &[u8] {
        self.octets.get(SCOPE_LEN..FIXED).unwrap_or(&[])
    }

    /// The same key under another hash, as if the two collided.
    #[cfg(test)]
    pub fn with_hash(self, hash: u64) -> QueryKey {
        QueryKey { hash, ..self }
    }

    /// The hash of [`Self::octets`].
    #[inline]
    pub fn hash(&self) -> u64 {
        self.hash
    }
}

/// Hashes keys with a seed of this process's own, so that no client can choose names that collide.
#[derive(Clone, Default)]
pub struct KeyHasher(foldhash::quality::RandomState);

impl KeyHasher {
    #[inline]
    fn hash(&self, octets: &[u8]) -> u64 {
        let mut hasher = self.0.build_hasher();
        hasher.write(octets);
        hasher.finish()
    }
}

/// Passes on a hash that is one already.
#[derive(Clone, Copy, Default)]
pub struct AlreadyHashed(u64);

impl Hasher for AlreadyHashed {
    #[inline]
    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn write(&mut self, octets: &[u8]) {
        for &octet in octets {
            self.0 = self.0.rotate_left(8) ^ u64::from(octet);
        }
    }

    #[inline]
    fn finish(&self) -> u64 {
        self.0
    }
}

/// Builds [`AlreadyHashed`].
pub type PassThrough = std::hash::BuildHasherDefault<AlreadyHashed>;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::name::Name;

    fn key(text: &str, qtype: u16, dnssec_ok: bool, cd: bool, list: u32, hasher: &KeyHasher) -> QueryKey {
        let mut message = vec![0; 12];
        message.extend_from_slice(Name::from_text(text).unwrap().as_wire());
        message.extend_from_slice(&qtype.to_be_bytes());
        message.extend_from_slice(&[0, 1]);
        QueryKey::of(&Question::read(&message).unwrap(), dnssec_ok, cd, SearchListId(list), hasher)
    }

    #[test]
    fn case_does_not_matter_and_all_else_does() {
        let hasher = KeyHasher::default();
        let one = key("www.Example.com", 1, false, false, 0, &hasher);
        let same = key("WWW.example.COM", 1, false, false, 0, &hasher);
        assert_eq!((one.octets(), one.hash()), (same.octets(), same.hash()));
        assert_eq!(one.qname(), b"\x03www\x07example\x03com\x00");
        for other in [
            key("www.example.org", 1, false, false, 0, &hasher),
            key("www.example.com", 28, false, false, 0, &hasher),
            key("www.example.com", 1, true, false, 0, &hasher),
            key("www.example.com", 1, false, true, 0, &hasher),
            key("www.example.com", 1, false, false, 7, &hasher),
        ] {
            assert_ne!(one.octets(), other.octets());
        }
    }

    #[test]
    fn types_that_differ_in_a_letters_case_stay_apart() {
        // 0x41 and 0x61 are the octets of "A" and "a": a type is no letter.
        let hasher = KeyHasher::default();
        assert_ne!(
            key("a", 0x41, false, false, 0, &hasher).octets(),
            key("a", 0x61, false, false, 0, &hasher).octets()
        );
    }
}
