//! One resource record in a message: where it stands, and the names inside its RDATA.

use std::ops::Range;

use super::iana::rtype;
use super::name::Name;
use super::{u16_at, u32_at};

/// A record's place and fixed fields (RFC 1035 section 3.2.1).
#[derive(Clone, Debug)]
pub struct Record {
    /// Where the owner name begins.
    pub start: usize,
    /// The owner, decompressed.
    pub owner: Name,
    /// The RR type.
    pub rtype: u16,
    /// The class; for OPT the sender's UDP size.
    pub class: u16,
    /// The TTL as written; for OPT extended rcode, version and flags.
    pub ttl: u32,
    /// Where the TTL stands.
    pub ttl_at: usize,
    /// Where the RDATA stands.
    pub rdata: Range<usize>,
}

impl Record {
    /// Reads the record at `start`; nothing where it does not lie wholly inside the message.
    pub fn read(message: &[u8], start: usize) -> Option<Record> {
        let (owner, at) = Name::read(message, start)?;
        let rdata_start = at + 10;
        let rdata = rdata_start..rdata_start + usize::from(u16_at(message, at + 8)?);
        message.get(rdata.clone())?;
        Some(Record {
            start,
            owner,
            rtype: u16_at(message, at)?,
            class: u16_at(message, at + 2)?,
            ttl: u32_at(message, at + 4)?,
            ttl_at: at + 4,
            rdata,
        })
    }

    /// The type an RRSIG covers (RFC 4034 section 3.1.1).
    pub fn covered(&self, message: &[u8]) -> Option<u16> {
        (self.rtype == rtype::RRSIG).then(|| u16_at(message, self.rdata.start)).flatten()
    }

    /// The single name that a CNAME's or DNAME's RDATA is.
    pub fn target(&self, message: &[u8]) -> Option<Name> {
        Name::read(message, self.rdata.start).filter(|(_, end)| *end == self.rdata.end).map(|(name, _)| name)
    }

    /// The RDATA with every name in it written out, so that it can stand in another message.
    ///
    /// Nothing where a name of a type that may hold one is broken. RFC 3597 section 4 lists the types whose
    /// names a sender may have compressed; any other RDATA is opaque.
    pub fn rdata_uncompressed(&self, message: &[u8]) -> Option<Vec<u8>> {
        let mut out = Vec::with_capacity(self.rdata.len());
        let mut at = self.rdata.start;
        for part in rdata_parts(self.rtype) {
            at = part.copy(message, at, self.rdata.end, &mut out)?;
        }
        (at == self.rdata.end).then_some(out)
    }
}

/// A stretch of RDATA.
#[derive(Clone, Copy)]
enum Part {
    Name,
    Octets(usize),
    CharacterString,
    Rest,
}

impl Part {
    fn copy(self, message: &[u8], at: usize, end: usize, out: &mut Vec<u8>) -> Option<usize> {
        let next = match self {
            Part::Name => {
                let (name, next) = Name::read(message, at)?;
                out.extend_from_slice(name.as_wire());
                return (next <= end).then_some(next);
            }
            Part::Octets(count) => at + count,
            Part::CharacterString => at + 1 + usize::from(*message.get(at)?),
            Part::Rest => end,
        };
        if next > end {
            return None;
        }
        out.extend_from_slice(message.get(at..next)?);
        Some(next)
    }
}

/// How the RDATA of a type is laid out, as far as names matter.
fn rdata_parts(rtype: u16) -> &'static [Part] {
    use Part::{CharacterString, Name, Octets, Rest};
    match rtype {
        rtype::NS | rtype::MD | rtype::MF | rtype::CNAME | rtype::MB | rtype::MG | rtype::MR | rtype::PTR => {
            &[Name]
        }
        rtype::DNAME => &[Name],
        rtype::SOA => &[Name, Name, Octets(20)],
        rtype::MX | rtype::AFSDB | rtype::RT | rtype::KX => &[Octets(2), Name],
        rtype::MINFO | rtype::RP => &[Name, Name],
        rtype::PX => &[Octets(2), Name, Name],
        rtype::SRV => &[Octets(6), Name],
        rtype::NAPTR => &[Octets(4), CharacterString, CharacterString, CharacterString, Name],
        rtype::SIG | rtype::RRSIG => &[Octets(18), Name, Rest],
        rtype::NXT | rtype::NSEC => &[Name, Rest],
        _ => &[Rest],
    }
}
