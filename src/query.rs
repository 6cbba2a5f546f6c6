//! Hop 2: what arrives is a question to answer, something to refuse, or nothing that deserves a word.
//!
//! The header decides first, then the question, then the records behind it, so that each packet is read once
//! and no further than its first fault. A header that can be read is always answered (RFC 8906 section 3):
//! silence costs a client its whole timeout.

use crate::wire::edns::{self, ClientEdns};
use crate::wire::header::{Flags, Header};
use crate::wire::iana::{CLASS_IN, Rcode, rtype};
use crate::wire::question::Question;
use crate::wire::record::Record;
use crate::wire::reply::Asked;

/// How a query arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proto {
    /// As a datagram.
    Udp,
    /// On a stream.
    Tcp,
}

/// Which address family a query arrived over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4, "1" as in IANA's registry of address families.
    V4,
    /// IPv6, "2".
    V6,
}

/// A question of class IN that a cache can answer.
#[derive(Clone, Copy, Debug)]
pub struct Query<'p> {
    /// What shapes the reply.
    pub asked: Asked<'p>,
    /// The question, as spelled.
    pub question: Question<'p>,
}

impl Query<'_> {
    /// DNSSEC records are wanted.
    pub fn dnssec_ok(&self) -> bool {
        self.asked.edns.is_some_and(|edns| edns.dnssec_ok)
    }

    /// The client validates for itself.
    pub fn checking_disabled(&self) -> bool {
        self.asked.flags.has(Flags::CD)
    }

    /// The client wants us to ask others.
    pub fn recursion_desired(&self) -> bool {
        self.asked.flags.has(Flags::RD)
    }
}

/// Why a packet is no [`Query`].
#[derive(Clone, Copy, Debug)]
pub enum Rejection<'p> {
    /// No reply: not a query at all, so an answer could be the beginning of a loop.
    Drop,
    /// A reply without records.
    Reply(Asked<'p>, Rcode),
}

/// Reads a packet.
///
/// # Errors
/// [`Rejection`] says whether it is answered, and with which code.
#[inline]
pub fn read(packet: &[u8]) -> Result<Query<'_>, Rejection<'_>> {
    let header = Header::read(packet).ok_or(Rejection::Drop)?;
    if header.flags.has(Flags::QR) {
        return Err(Rejection::Drop);
    }
    let mut asked =
        Asked { id: header.id, flags: header.flags, question: &[], edns: None, server_cookie: None };
    if header.flags.opcode() != 0 {
        return Err(Rejection::Reply(asked, Rcode::NOTIMP));
    }
    if header.questions != 1 {
        return Err(without_one_question(packet, &header, asked));
    }
    let formerr = move || Rejection::Reply(asked, Rcode::FORMERR);
    let question = Question::read(packet).ok_or_else(formerr)?;
    asked.edns = read_edns(packet, &header, &question).map_err(|Unreadable| formerr())?;
    asked.question = question.octets;
    match refusal(&question, asked.edns) {
        Some(rcode) => Err(Rejection::Reply(asked, rcode)),
        None => Ok(Query { asked, question }),
    }
}

/// The code for a question that is understood but not served.
fn refusal(question: &Question<'_>, edns: Option<ClientEdns>) -> Option<Rcode> {
    if edns.is_some_and(|edns| edns.version != 0) {
        return Some(Rcode::BADVERS);
    }
    match question.qtype {
        rtype::AXFR | rtype::IXFR => Some(Rcode::REFUSED),
        // Types that stand for something else than data (RFC 6895 section 3.1): none can be asked for.
        rtype::OPT | 128..=rtype::TSIG | 253..=rtype::MAILA => Some(Rcode::FORMERR),
        _ if question.qclass != CLASS_IN => Some(Rcode::REFUSED),
        _ => None,
    }
}

/// No question at all is an error, but for one that only wants a cookie (RFC 7873 section 5.4).
fn without_one_question<'p>(packet: &'p [u8], header: &Header, mut asked: Asked<'p>) -> Rejection<'p> {
    const HEADER: usize = crate::wire::header::HEADER_LEN;
    if header.questions == 0 && header.answers == 0 && header.authorities == 0 && header.additionals == 1 {
        let opt = edns::read_opt(packet, HEADER).flatten().map(|opt| opt.edns);
        if opt.is_some_and(|edns| edns.cookie.is_some() && edns.version == 0) {
            asked.edns = opt;
            return Rejection::Reply(asked, Rcode::NOERROR);
        }
    }
    Rejection::Reply(asked, Rcode::FORMERR)
}

/// The records behind the question cannot be read or do not belong into a query.
struct Unreadable;

/// Finds the OPT record among the records behind the question.
#[inline]
fn read_edns(
    packet: &[u8],
    header: &Header,
    question: &Question<'_>,
) -> Result<Option<ClientEdns>, Unreadable> {
    // A query carries no records before its additional section; an OPT there is an error by itself.
    if header.answers != 0 || header.authorities != 0 {
        return if question.qtype == rtype::IXFR { Ok(None) } else { Err(Unreadable) };
    }
    let mut found = None;
    let mut at = question.end();
    for _ in 0..header.additionals {
        at = match edns::read_opt(packet, at) {
            Some(Some(opt)) if found.is_none() => {
                found = Some(opt.edns);
                opt.end
            }
            Some(_) => return Err(Unreadable),
            None => {
                let record = Record::read(packet, at).ok_or(Unreadable)?;
                if record.rtype == rtype::OPT {
                    return Err(Unreadable);
                }
                record.rdata.end
            }
        };
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn packet(flags: u16, counts: [u16; 4], body: &[u8]) -> Vec<u8> {
        let mut out = vec![0xab, 0xcd];
        out.extend_from_slice(&flags.to_be_bytes());
        out.extend(counts.iter().flat_map(|count| count.to_be_bytes()));
        out.extend_from_slice(body);
        out
    }

    fn question(qtype: u16, qclass: u16) -> Vec<u8> {
        let mut out = b"\x03wWw\x07example\x03com\x00".to_vec();
        out.extend_from_slice(&qtype.to_be_bytes());
        out.extend_from_slice(&qclass.to_be_bytes());
        out
    }

    const OPT: [u8; 11] = [0, 0, 41, 0x04, 0xd0, 0, 0, 0x80, 0, 0, 0];

    fn rcode(packet: &[u8]) -> Option<Rcode> {
        match read(packet) {
            Ok(_) => None,
            Err(Rejection::Drop) => panic!("dropped"),
            Err(Rejection::Reply(_, rcode)) => Some(rcode),
        }
    }

    #[test]
    fn a_plain_question_is_taken_as_spelled() {
        let packet = packet(0x0110, [1, 0, 0, 0], &question(1, 1));
        let query = read(&packet).unwrap();
        assert_eq!(query.question.qname(), b"\x03wWw\x07example\x03com\x00");
        assert!(query.recursion_desired() && query.checking_disabled() && !query.dnssec_ok());
    }

    #[test]
    fn edns_is_found_behind_other_records() {
        let other = b"\x00\x00\x10\x00\x01\x00\x00\x00\x00\x00\x00";
        let packet = packet(0x0100, [1, 0, 0, 2], &[&question(1, 1)[..], other, &OPT].concat());
        assert!(read(&packet).unwrap().dnssec_ok());
    }

    #[test]
    fn responses_and_fragments_get_no_word() {
        assert!(matches!(read(&[0; 11]), Err(Rejection::Drop)));
        assert!(matches!(read(&packet(0x8100, [1, 0, 0, 0], &question(1, 1))), Err(Rejection::Drop)));
    }

    #[test]
    fn each_refusal_has_its_code() {
        let ask = |qtype, qclass| packet(0x0100, [1, 0, 0, 0], &question(qtype, qclass));
        for opcode in [1u16, 2, 4, 5, 15] {
            assert_eq!(rcode(&packet(opcode << 11, [1, 0, 0, 0], &question(1, 1))), Some(Rcode::NOTIMP));
        }
        for class in [0, 3, 4, 254, 255] {
            assert_eq!(rcode(&ask(16, class)), Some(Rcode::REFUSED), "class {class}");
        }
        for qtype in [251, 252] {
            assert_eq!(rcode(&ask(qtype, 1)), Some(Rcode::REFUSED), "type {qtype}");
        }
        for qtype in [41, 128, 249, 250, 253, 254] {
            assert_eq!(rcode(&ask(qtype, 1)), Some(Rcode::FORMERR), "type {qtype}");
        }
        for served in [1, 28, 64, 65, 255, 256, 257, 65280] {
            assert_eq!(rcode(&ask(served, 1)), None, "type {served}");
        }
    }

    #[test]
    fn the_count_of_questions_is_one() {
        assert_eq!(rcode(&packet(0, [0, 0, 0, 0], &[])), Some(Rcode::FORMERR));
        let two = [question(1, 1), question(28, 1)].concat();
        assert_eq!(rcode(&packet(0, [2, 0, 0, 0], &two)), Some(Rcode::FORMERR));
        let cookie = b"\x00\x00\x29\x04\xd0\x00\x00\x00\x00\x00\x0c\x00\x0a\x00\x0812345678";
        assert_eq!(rcode(&packet(0, [0, 0, 0, 1], cookie)), Some(Rcode::NOERROR));
        assert_eq!(rcode(&packet(0, [0, 0, 0, 1], &OPT)), Some(Rcode::FORMERR));
    }

    #[test]
    fn misplaced_opt_records_are_errors() {
        let two = [&question(1, 1)[..], &OPT, &OPT].concat();
        assert_eq!(rcode(&packet(0, [1, 0, 0, 2], &two)), Some(Rcode::FORMERR));
        let one = [&question(1, 1)[..], &OPT].concat();
        assert_eq!(rcode(&packet(0, [1, 1, 0, 0], &one)), Some(Rcode::FORMERR));
        assert_eq!(rcode(&packet(0, [1, 0, 1, 0], &one)), Some(Rcode::FORMERR));
        let below_root = [&question(1, 1)[..], b"\x01a", &OPT].concat();
        assert_eq!(rcode(&packet(0, [1, 0, 0, 1], &below_root)), Some(Rcode::FORMERR));
        let version_one = [&question(1, 1)[..], &[0, 0, 41, 4, 208, 0, 1, 0, 0, 0, 0]].concat();
        assert_eq!(rcode(&packet(0, [1, 0, 0, 1], &version_one)), Some(Rcode::BADVERS));
    }

    proptest! {
        #[test]
        fn a_readable_header_is_never_met_with_silence(mut packet in prop::collection::vec(any::<u8>(), 12..200)) {
            packet[2] &= 0x7f;
            prop_assert!(!matches!(read(&packet), Err(Rejection::Drop)));
        }
    }
}
