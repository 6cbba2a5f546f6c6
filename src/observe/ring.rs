//! The last answers of one worker: a ring of records of one size, which that worker alone writes and anybody may read.
//!
//! **Protocol.** Each slot is a sequence lock made of plain atomic words. The writer marks the slot as being written (its
//! sequence is zero), stores the words, and gives it the record's number, each store ordered behind the one before. A reader
//! loads the number, the words and the number again, and takes the record only if both are the number it looks for:
//! what is overwritten meanwhile is lost to it, and never mixed. Nobody waits for anybody. What a record costs its writer is
//! stores to one or two cache lines of the worker's own; there is no locked instruction.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering, fence};

use crate::query::Proto;
use crate::wire::iana::Rcode;

/// Records of one worker: a fifth of a second at 20,000 answers a second, for a reader that looks ten times a second.
pub const RECORDS: usize = 4096;
/// Octets of a name that are kept; the names of a cluster are shorter.
pub const NAME: usize = 80;

const FIXED_WORDS: usize = 5;
const NAME_WORDS: usize = NAME / 8;

/// Where an answer came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum From {
    /// The cache's hot level.
    Hot,
    /// Its store.
    Store,
    /// Its store, past the answer's end.
    Stale,
    /// Upstream, or what came of asking there.
    Upstream,
    /// Nowhere: the query alone decides its answer.
    Query,
}

impl From {
    const ALL: [From; 5] = [From::Hot, From::Store, From::Stale, From::Upstream, From::Query];
}

/// An answer as it is noted.
#[derive(Clone, Copy, Debug)]
pub struct Answered<'q> {
    /// When it was given, in microseconds since the process began.
    pub at_us: u64,
    /// For how long its client waited for it here, in microseconds; zero for what was answered at once.
    pub took_us: u32,
    /// Who asked.
    pub client: IpAddr,
    /// Over what.
    pub proto: Proto,
    /// The response code.
    pub rcode: Rcode,
    /// Where it came from.
    pub from: From,
    /// QNAME, QTYPE and QCLASS as spelled; empty where they could not be read.
    pub question: &'q [u8],
}

/// A record as it is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// How many came before it on this worker.
    pub number: u64,
    /// See [`Answered::at_us`].
    pub at_us: u64,
    /// See [`Answered::took_us`].
    pub took_us: u32,
    /// Who asked.
    pub client: IpAddr,
    /// Over what.
    pub proto: Proto,
    /// The response code.
    pub rcode: Rcode,
    /// Where it came from.
    pub from: From,
    /// The QTYPE; zero where it could not be read.
    pub qtype: u16,
    /// The QNAME as spelled, in wire form, its first [`NAME`] octets.
    pub qname: Vec<u8>,
    /// Octets of the whole QNAME.
    pub qname_len: u8,
}

#[repr(align(128))]
struct Slot {
    /// One more than the record's number; zero while it is being written, and before the first.
    sequence: AtomicU64,
    fixed: [AtomicU64; FIXED_WORDS],
    name: [AtomicU64; NAME_WORDS],
}

/// The ring.
pub struct Ring {
    slots: Box<[Slot]>,
    written: AtomicU64,
}

impl Default for Ring {
    fn default() -> Ring {
        let zero = || AtomicU64::new(0);
        let slot = |_| Slot {
            sequence: zero(),
            fixed: std::array::from_fn(|_| zero()),
            name: std::array::from_fn(|_| zero()),
        };
        Ring { slots: (0..RECORDS).map(slot).collect(), written: zero() }
    }
}

impl Ring {
    /// Notes an answer. Only the ring's own worker may call it.
    #[inline]
    pub fn write(&self, answered: &Answered<'_>) {
        let number = self.written.load(Ordering::Relaxed);
        let Some(slot) = self.slots.get(number as usize % RECORDS) else { return };
        slot.sequence.store(0, Ordering::Relaxed);
        fence(Ordering::Release);
        let (qname, tail) = answered.question.split_at(answered.question.len().saturating_sub(4));
        let qtype = crate::wire::u16_at(tail, 0).unwrap_or(0);
        let [high, low] = halves(answered.client);
        let small = u64::from(qtype)
            | u64::from(answered.rcode.0) << 16
            | (answered.from as u64) << 32
            | (answered.proto as u64) << 40
            | (qname.len().min(255) as u64) << 48;
        let fixed = [answered.at_us, high, low, small, u64::from(answered.took_us)];
        for (place, word) in slot.fixed.iter().zip(fixed) {
            place.store(word, Ordering::Relaxed);
        }
        let (words, rest) = qname.get(..NAME).unwrap_or(qname).as_chunks::<8>();
        let (places, after) = slot.name.split_at(words.len().min(NAME_WORDS));
        for (place, word) in places.iter().zip(words) {
            place.store(u64::from_le_bytes(*word), Ordering::Relaxed);
        }
        if let Some(place) = after.first() {
            let last = rest.iter().rev().fold(0, |word, octet| word << 8 | u64::from(*octet));
            place.store(last, Ordering::Relaxed);
        }
        slot.sequence.store(number + 1, Ordering::Release);
        self.written.store(number + 1, Ordering::Release);
    }

    /// How many records have been written.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Acquire)
    }

    /// The record of a number; nothing where it is not there yet, or not any more.
    pub fn read(&self, number: u64) -> Option<Record> {
        let slot = self.slots.get(number as usize % RECORDS)?;
        if slot.sequence.load(Ordering::Acquire) != number + 1 {
            return None;
        }
        let fixed = slot.fixed.each_ref().map(|word| word.load(Ordering::Relaxed));
        let name = slot.name.each_ref().map(|word| word.load(Ordering::Relaxed));
        fence(Ordering::Acquire);
        (slot.sequence.load(Ordering::Relaxed) == number + 1).then(|| Record::of(number, fixed, name))
    }
}

impl Record {
    fn of(number: u64, fixed: [u64; FIXED_WORDS], name: [u64; NAME_WORDS]) -> Record {
        let [at_us, high, low, small, took_us] = fixed;
        let qname_len = (small >> 48) as u8;
        let octets = name.iter().flat_map(|word| word.to_le_bytes());
        Record {
            number,
            at_us,
            took_us: took_us as u32,
            client: Ipv6Addr::from(u128::from(high) << 64 | u128::from(low)).to_canonical(),
            proto: if (small >> 40) as u8 == Proto::Tcp as u8 { Proto::Tcp } else { Proto::Udp },
            rcode: Rcode((small >> 16) as u16),
            from: From::ALL.get((small >> 32) as usize & 0xff).copied().unwrap_or(From::Query),
            qtype: small as u16,
            qname: octets.take(usize::from(qname_len).min(NAME)).collect(),
            qname_len,
        }
    }
}

/// An address as the two halves of an IPv6 one.
fn halves(address: IpAddr) -> [u64; 2] {
    let bits = match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    };
    [(bits >> 64) as u64, bits as u64]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    fn answered(at_us: u64, question: &[u8]) -> Answered<'_> {
        let client = "fd00::7".parse().unwrap();
        let (proto, rcode, from) = (Proto::Tcp, Rcode::NXDOMAIN, From::Store);
        Answered { at_us, took_us: 7, client, proto, rcode, from, question }
    }

    #[test]
    fn what_is_written_is_read() {
        let ring = Ring::default();
        ring.write(&answered(5, b"\x03wWw\x07example\x00\x00\x1c\x00\x01"));
        let v4 = Answered { client: [10, 0, 0, 1].into(), from: From::Query, ..answered(6, b"") };
        ring.write(&v4);
        let record = ring.read(0).unwrap();
        assert_eq!((record.at_us, record.took_us, record.qtype), (5, 7, 28));
        assert_eq!((record.rcode, record.from, record.proto), (Rcode::NXDOMAIN, From::Store, Proto::Tcp));
        assert_eq!((record.qname, record.qname_len), (b"\x03wWw\x07example\x00".to_vec(), 13));
        assert_eq!(record.client, "fd00::7".parse::<IpAddr>().unwrap());
        let refused = ring.read(1).unwrap();
        assert_eq!((refused.client, refused.qname.len(), refused.from), (v4.client, 0, From::Query));
        assert_eq!((ring.read(2), ring.written()), (None, 2));
    }

    #[test]
    fn long_names_keep_their_beginning_and_old_records_go() {
        let ring = Ring::default();
        let question = [&[b'a'; 255][..], &[0, 1, 0, 1]].concat();
        (0..RECORDS as u64 + 3).for_each(|at| ring.write(&answered(at, &question)));
        assert_eq!((ring.read(0), ring.read(2)), (None, None));
        let last = ring.read(RECORDS as u64 + 2).unwrap();
        assert_eq!((last.qname.len(), last.qname_len, last.at_us), (NAME, 255, RECORDS as u64 + 2));
    }

    #[test]
    fn nobody_reads_half_a_record() {
        let (ring, done) = (Arc::new(Ring::default()), Arc::new(AtomicBool::new(false)));
        let writer = {
            let (ring, done) = (Arc::clone(&ring), Arc::clone(&done));
            std::thread::spawn(move || {
                for at in 0..300_000u64 {
                    let name = [at as u8; 40];
                    ring.write(&Answered { took_us: at as u32, ..answered(at, &name) });
                }
                done.store(true, Ordering::Release);
            })
        };
        let mut read = 0;
        while !done.load(Ordering::Acquire) {
            // The oldest that can still be there is the next to be overwritten.
            let oldest = ring.written().saturating_sub(RECORDS as u64);
            for number in [oldest, oldest + 1, ring.written().saturating_sub(1)] {
                if let Some(record) = ring.read(number) {
                    read += 1;
                    assert_eq!((record.at_us, u64::from(record.took_us)), (number, number));
                    assert!(record.qname.iter().all(|octet| *octet == number as u8));
                }
            }
        }
        writer.join().unwrap();
        assert!(read > 0);
    }
}
