//! What goes back to a client: a stored answer patched into place, or an error that says enough.

use super::answer::record_end;
use super::edns::{self, COOKIE_OPTION_LEN, ClientEdns, OPT_LEN};
use super::header::{Flags, HEADER_LEN, Header};
use super::iana::{CLASS_IN, Rcode, rtype};
use super::{put, u16_at, u32_at};

/// Largest message over TCP: what its two length octets can say (RFC 1035 section 4.2.2).
pub const MAX_MESSAGE: usize = 65_535;

/// What of a query shapes its reply.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'p> {
    /// The query's ID.
    pub id: u16,
    /// The query's flags: RD and CD come back as asked.
    pub flags: Flags,
    /// QNAME, QTYPE and QCLASS as spelled; empty where they could not be read or do not belong back.
    pub question: &'p [u8],
    /// The query's OPT; a reply has one if and only if the query had (RFC 6891 section 6.1.1).
    pub edns: Option<ClientEdns>,
    /// Our half of the cookie for this client, where it sent one.
    pub server_cookie: Option<[u8; 16]>,
}

impl Asked<'_> {
    fn wants_ad(&self) -> bool {
        self.flags.has(Flags::AD) || self.edns.is_some_and(|edns| edns.dnssec_ok)
    }

    fn cookie(&self) -> Option<[u8; COOKIE_OPTION_LEN]> {
        Some(edns::cookie_option(self.edns?.cookie?, self.server_cookie?))
    }

    fn opt_len(&self, ede: &[u8]) -> usize {
        match self.edns {
            Some(_) => OPT_LEN + self.cookie().map_or(0, |cookie| cookie.len()) + ede.len(),
            None => 0,
        }
    }

    fn append_opt(&self, out: &mut [u8], at: usize, rcode: Rcode, ede: &[u8]) -> Option<usize> {
        let Some(client) = self.edns else { return Some(at) };
        let cookie = self.cookie();
        let cookie = cookie.as_ref().map_or(&[][..], |cookie| &cookie[..]);
        edns::write_opt(out, at, rcode, client.dnssec_ok, [cookie, ede])
    }
}

/// A stored answer, borrowed.
#[derive(Clone, Copy, Debug)]
pub struct Said<'e> {
    /// Header, question and records without OPT.
    pub wire: &'e [u8],
    /// Where the TTLs stand, two octets each, big-endian, in order.
    pub ttl_offsets: &'e [u8],
    /// Extended-error options.
    pub ede: &'e [u8],
    /// The response code with its EDNS bits.
    pub rcode: Rcode,
}

impl Said<'_> {
    fn ttl_offsets(&self) -> impl Iterator<Item = usize> + '_ {
        self.ttl_offsets.chunks_exact(2).filter_map(|pair| u16_at(pair, 0)).map(usize::from)
    }
}

/// Octets that hold the whole reply, whatever it is.
pub fn room(asked: &Asked<'_>, said: &Said<'_>) -> usize {
    (said.wire.len() + asked.opt_len(said.ede)).min(MAX_MESSAGE)
}

/// Writes a stored answer for this query, `age` seconds old, into at most all of `out`; the length written.
///
/// Where it does not fit, as many whole records as do are sent beside TC, for clients that have no TCP. Zero
/// means that not even the question fits, which no transport's limit allows.
#[inline]
pub fn write(out: &mut [u8], asked: &Asked<'_>, said: &Said<'_>, age: u32) -> usize {
    let fits = said.wire.len() + asked.opt_len(said.ede) <= out.len();
    let written = if fits { write_whole(out, asked, said, age) } else { write_cut(out, asked, said, age) };
    written.unwrap_or(0)
}

/// Writes an answer that has outlived its TTLs: each becomes `ttl` seconds, and `ede` goes before what upstream's own
/// errors were.
pub fn write_stale(out: &mut [u8], asked: &Asked<'_>, said: &Said<'_>, ede: &[u8], ttl: u32) -> usize {
    let both = [ede, said.ede].concat();
    let whole = Said { ede: &both, ..*said };
    // Where there is no room for both, the client has to know that the answer is old.
    let said = if room(asked, &whole) <= out.len() { whole } else { Said { ede, ..*said } };
    let length = write(out, asked, &said, 0);
    let Some(header) = Header::read(out).filter(|_| length > 0) else { return length };
    let records = usize::from(header.answers)
        + usize::from(header.authorities)
        + usize::from(header.additionals - u16::from(asked.edns.is_some()));
    for at in said.ttl_offsets().take(records) {
        put(out, at, &ttl.to_be_bytes());
    }
    length
}

fn write_whole(out: &mut [u8], asked: &Asked<'_>, said: &Said<'_>, age: u32) -> Option<usize> {
    put(out, 0, said.wire).then_some(())?;
    finish(out, asked, said, 0)?;
    age_ttls(out, said.ttl_offsets(), age)?;
    asked.append_opt(out, said.wire.len(), sent_rcode(asked, said), said.ede)
}

/// Extended errors longer than this give way to records where there is no room for both.
const EDE_BEFORE_RECORDS: usize = 64;

fn write_cut(out: &mut [u8], asked: &Asked<'_>, said: &Said<'_>, age: u32) -> Option<usize> {
    let ede = if said.ede.len() > EDE_BEFORE_RECORDS { &[][..] } else { said.ede };
    let room = out.len().checked_sub(asked.opt_len(ede))?;
    let mut end = HEADER_LEN + asked.question.len();
    let mut whole = 0u16;
    for ttl_at in said.ttl_offsets() {
        let record_end = record_end(said.wire, ttl_at);
        if record_end > room {
            break;
        }
        (end, whole) = (record_end, whole + 1);
    }
    put(out, 0, said.wire.get(..end)?).then_some(())?;

    let header = Header::read(said.wire)?;
    let answers = header.answers.min(whole);
    let authorities = header.authorities.min(whole - answers);
    let additionals = header.additionals.min(whole - answers - authorities);
    for (at, count) in [(6, answers), (8, authorities), (10, additionals)] {
        put(out, at, &count.to_be_bytes());
    }
    // RFC 2181 section 9: additional data that is left out is no truncation.
    let cut = answers < header.answers || authorities < header.authorities;
    finish(out, asked, said, if cut { Flags::TC } else { 0 })?;
    age_ttls(out, said.ttl_offsets().take(usize::from(whole)), age)?;
    asked.append_opt(out, end, sent_rcode(asked, said), ede)
}

/// Without EDNS a code beyond 15 cannot be said; its low bits alone would be another code.
fn sent_rcode(asked: &Asked<'_>, said: &Said<'_>) -> Rcode {
    if said.rcode.high() != 0 && asked.edns.is_none() { Rcode::SERVFAIL } else { said.rcode }
}

/// Sets ID, flags, question and the count of additional records.
fn finish(out: &mut [u8], asked: &Asked<'_>, said: &Said<'_>, truncated: u16) -> Option<()> {
    let kept = if asked.wants_ad() { Flags::AD } else { 0 };
    let said_flags = u16_at(said.wire, 2)?;
    let flags = Flags::QR
        | Flags::RA
        | truncated
        | (asked.flags.0 & (Flags::RD | Flags::CD))
        | (said_flags & kept)
        | u16::from(sent_rcode(asked, said).low());
    put(out, 0, &asked.id.to_be_bytes());
    put(out, 2, &flags.to_be_bytes());
    put(out, HEADER_LEN, asked.question);
    if asked.edns.is_some() {
        let additionals = u16_at(out, 10)?.checked_add(1)?;
        put(out, 10, &additionals.to_be_bytes());
    }
    Some(())
}

fn age_ttls(out: &mut [u8], offsets: impl Iterator<Item = usize>, age: u32) -> Option<()> {
    if age == 0 {
        return Some(());
    }
    for at in offsets {
        let ttl = u32_at(out, at)?.saturating_sub(age);
        put(out, at, &ttl.to_be_bytes());
    }
    Some(())
}

/// Writes an answer without records: header, the question if it can be given back, OPT, extended errors.
pub fn write_error(out: &mut [u8], asked: &Asked<'_>, rcode: Rcode, ede: &[u8]) -> usize {
    let opcode = asked.flags.0 & 0x7800;
    // A kind of query that is not served gets no flag back: nothing about it was understood.
    let kept = if opcode == 0 { Flags::RA | (asked.flags.0 & (Flags::RD | Flags::CD)) } else { 0 };
    let header = Header {
        id: asked.id,
        flags: Flags(Flags::QR | opcode | kept | u16::from(rcode.low())),
        questions: u16::from(!asked.question.is_empty()),
        answers: 0,
        authorities: 0,
        additionals: u16::from(asked.edns.is_some()),
    };
    let end = HEADER_LEN + asked.question.len();
    if !put(out, 0, &header.octets()) || !put(out, HEADER_LEN, asked.question) {
        return 0;
    }
    asked.append_opt(out, end, rcode, ede).unwrap_or(0)
}

/// Writes an error that needs nothing of a packet but its header; nothing where that cannot be read or is a reply's.
pub fn write_bare(packet: &[u8], out: &mut [u8], rcode: Rcode) -> usize {
    let Some(header) = Header::read(packet).filter(|header| !header.flags.has(Flags::QR)) else { return 0 };
    let asked = Asked { id: header.id, flags: header.flags, question: &[], edns: None, server_cookie: None };
    write_error(out, &asked, rcode, &[])
}

/// TTL of the answer to ANY, long because it never changes (RFC 8482 section 4.2).
const ANY_TTL: u32 = 3600;

/// Writes the answer to a question for ANY of which nothing is cached: one HINFO (RFC 8482 section 4.2).
pub fn write_hinfo(out: &mut [u8], asked: &Asked<'_>) -> usize {
    const RDATA: &[u8] = b"\x07RFC8482\x00";
    let mut wire = vec![0; HEADER_LEN];
    put(&mut wire, 4, &[0, 1, 0, 1]);
    wire.extend_from_slice(asked.question);
    wire.extend_from_slice(&[0xc0, HEADER_LEN as u8]);
    wire.extend_from_slice(&rtype::HINFO.to_be_bytes());
    wire.extend_from_slice(&CLASS_IN.to_be_bytes());
    let ttl_at = wire.len() as u16;
    wire.extend_from_slice(&ANY_TTL.to_be_bytes());
    wire.extend_from_slice(&(RDATA.len() as u16).to_be_bytes());
    wire.extend_from_slice(RDATA);
    let said = Said { wire: &wire, ttl_offsets: &ttl_at.to_be_bytes(), ede: &[], rcode: Rcode::NOERROR };
    write(out, asked, &said, 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::answer::Answer;
    use crate::wire::iana::InfoCode;
    use hickory_server::proto::op::{Message, MessageType, OpCode, Query};
    use hickory_server::proto::rr::rdata::{A, TXT};
    use hickory_server::proto::rr::{Name, RData, Record, RecordType};
    use proptest::prelude::*;

    fn stored(answers: u8, additionals: u8) -> (Answer, Vec<u8>) {
        let name = Name::from_ascii("www.example.").unwrap();
        let mut message = Message::new(7, MessageType::Response, OpCode::Query);
        message.metadata.authoritative = true;
        message.metadata.authentic_data = true;
        message.add_query(Query::query(name.clone(), RecordType::TXT));
        message.add_answers((0..answers).map(|n| {
            Record::from_rdata(name.clone(), 100 + u32::from(n), RData::TXT(TXT::new(vec!["x".repeat(40)])))
        }));
        message.add_additionals(
            (0..additionals).map(|n| Record::from_rdata(name.clone(), 50, RData::A(A::new(1, 2, 3, n)))),
        );
        let answer = Answer::read(&message.to_vec().unwrap()).unwrap();
        let offsets = answer.ttl_offsets.iter().flat_map(|at| at.to_be_bytes()).collect();
        (answer, offsets)
    }

    const QUESTION: &[u8] = b"\x03wWw\x07eXample\x00\x00\x10\x00\x01";

    fn asked(flags: u16, edns: Option<u16>) -> Asked<'static> {
        let edns = edns.map(|udp_size| ClientEdns { udp_size, version: 0, dnssec_ok: false, cookie: None });
        Asked { id: 99, flags: Flags(flags), question: QUESTION, edns, server_cookie: None }
    }

    fn reply(asked: &Asked<'_>, limit: usize, age: u32, answers: u8, additionals: u8, ede: &[u8]) -> Message {
        let (answer, offsets) = stored(answers, additionals);
        let said = Said { wire: &answer.wire, ttl_offsets: &offsets, ede, rcode: answer.rcode };
        let mut out = vec![0xff; limit];
        let length = write(&mut out, asked, &said, age);
        assert_eq!(out[12..12 + QUESTION.len()], *QUESTION, "as spelled");
        Message::from_vec(&out[..length]).unwrap()
    }

    #[test]
    fn flags_are_ours_and_as_asked() {
        let plain = reply(&asked(0, None), 4096, 0, 1, 0, &[]);
        let meta = &plain.metadata;
        assert!(!meta.authoritative && meta.recursion_available && !meta.recursion_desired);
        assert!(!meta.checking_disabled && !meta.authentic_data && plain.edns.is_none());
        let all =
            reply(&asked(Flags::RD | Flags::CD | Flags::AD | Flags::TC, Some(1232)), 4096, 0, 1, 0, &[]);
        let meta = &all.metadata;
        assert!(meta.recursion_desired && meta.checking_disabled && meta.authentic_data && !meta.truncation);
        assert_eq!(all.edns.unwrap().max_payload(), 1232);
    }

    #[test]
    fn ttls_grow_older_and_stop_at_zero() {
        let ttls = |age| {
            reply(&asked(0, None), 4096, age, 2, 1, &[]).answers.iter().map(|r| r.ttl).collect::<Vec<_>>()
        };
        assert_eq!((ttls(0), ttls(30), ttls(101)), (vec![100, 101], vec![70, 71], vec![0, 0]));
    }

    #[test]
    fn a_stale_answer_has_one_ttl_and_says_what_it_is() {
        let (answer, offsets) = stored(20, 3);
        let theirs = edns::extended_error(InfoCode::OTHER, "theirs");
        let ours = edns::extended_error(InfoCode::STALE_ANSWER, "");
        let said = Said { wire: &answer.wire, ttl_offsets: &offsets, ede: &theirs, rcode: answer.rcode };
        for (edns, limit) in [(None, 4096), (Some(1232), 4096), (Some(512), 512), (None, 512)] {
            let mut out = vec![0xff; limit];
            let length = write_stale(&mut out, &asked(0, edns), &said, &ours, 30);
            let message = Message::from_vec(&out[..length]).unwrap();
            let records: Vec<_> = message.answers.iter().chain(&message.additionals).collect();
            assert_eq!(records.len() == 23, limit == 4096);
            assert!(records.iter().all(|record| record.ttl == 30));
            let ends_with = |ede: &[u8]| out[..length].ends_with(ede);
            assert_eq!(edns.is_some(), ends_with(&ours) || ends_with(&theirs));
            assert_eq!(edns.is_some() && limit == 4096, ends_with(&[&ours[..], &theirs].concat()));
        }
    }

    #[test]
    fn what_does_not_fit_is_left_out_whole() {
        let cut = reply(&asked(0, Some(512)), 512, 5, 20, 3, &[]);
        assert!(cut.metadata.truncation && cut.additionals.is_empty());
        assert!(cut.answers.len() > 5 && cut.answers.iter().all(|record| record.ttl >= 95));
        assert!(cut.edns.is_some());
        let spared = reply(&asked(0, None), 130, 0, 1, 5, &[]);
        assert!(!spared.metadata.truncation, "RFC 2181 section 9");
        assert_eq!((spared.answers.len(), spared.additionals.len() < 5), (1, true));
    }

    #[test]
    fn codes_beyond_the_header_need_edns() {
        let (answer, offsets) = stored(0, 0);
        let said = Said { wire: &answer.wire, ttl_offsets: &offsets, ede: &[], rcode: Rcode::BADVERS };
        let code = |asked: &Asked<'_>| {
            let mut out = [0; 512];
            let length = write(&mut out, asked, &said, 0);
            u16::from(Message::from_vec(&out[..length]).unwrap().metadata.response_code)
        };
        assert_eq!(code(&asked(0, None)), Rcode::SERVFAIL.0);
        assert_eq!(code(&asked(0, Some(512))), Rcode::BADVERS.0);
    }

    #[test]
    fn any_has_one_small_answer() {
        let mut out = [0; 512];
        let length = write_hinfo(&mut out, &asked(0, None));
        let message = Message::from_vec(&out[..length]).unwrap();
        assert_eq!(message.answers[0].record_type(), RecordType::HINFO);
    }

    proptest! {
        #[test]
        fn a_reply_fits_and_reads_back(
            limit in 12usize..1500, answers in 0u8..30, additionals in 0u8..5, age in any::<u32>(), edns in any::<bool>(), ede in 0usize..200,
        ) {
            let (answer, offsets) = stored(answers, additionals);
            let ede = crate::wire::edns::extended_error(crate::wire::iana::InfoCode::OTHER, &"e".repeat(ede));
            let said = Said { wire: &answer.wire, ttl_offsets: &offsets, ede: &ede, rcode: answer.rcode };
            let mut out = vec![0; limit];
            let asked = asked(0, edns.then_some(1232));
            let length = write(&mut out, &asked, &said, age);
            prop_assert!(length <= limit);
            if length > 0 {
                let message = Message::from_vec(&out[..length]).unwrap();
                prop_assert_eq!(message.edns.is_some(), edns);
                prop_assert!(message.metadata.truncation || message.answers.len() == usize::from(answers));
                prop_assert!(limit < room(&asked, &said) || length == room(&asked, &said));
            }
        }
    }
}
