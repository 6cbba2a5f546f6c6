//! What an upstream said: checked once, cut to what was asked, kept otherwise byte for byte.

use super::edns;
use super::header::{Flags, HEADER_LEN, Header};
use super::iana::{CLASS_IN, Rcode, rtype};
use super::name::Name;
use super::question::Question;
use super::record::Record;
use super::u32_at;

/// Longest chain of CNAMEs and DNAMEs that is followed inside one answer, the bound unbound uses too.
pub const MAX_CHAIN: usize = 11;
/// Octets of extended errors that are kept of one answer: a few options with their texts.
pub const MAX_EDE: usize = 512;

/// Why a message that matched its question is not an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A count, a name or a length leads out of the message, or a name is broken.
    #[error("the records do not fit the message")]
    Records,
    /// More than one OPT, or one outside the additional section or the root (RFC 6891 section 6.1.1).
    #[error("the OPT record is misplaced")]
    Opt,
    /// A chain of aliases longer than [`MAX_CHAIN`], or one that comes back to itself.
    #[error("the chain of aliases does not end")]
    Chain,
}

/// What kind of answer it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The final name has records of the type.
    Data,
    /// The final name has none (RFC 2308 section 2.2).
    NoData,
    /// The final name does not exist (RFC 2308 section 2.1).
    NxDomain,
    /// Anything else: the server did not resolve the question (RFC 9520 section 2).
    Failure,
}

/// An upstream's answer, ready to be stored or passed on.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Header, question and records; no OPT. ID, question case and TTLs are as upstream sent them.
    pub wire: Vec<u8>,
    /// Where each record's TTL stands in `wire`, in order; a record ends where its RDATA does.
    pub ttl_offsets: Vec<u16>,
    /// The response code with its EDNS bits.
    pub rcode: Rcode,
    /// What kind of answer it is.
    pub kind: Kind,
    /// The least TTL of the answer section, as sent.
    pub answer_ttl: Option<u32>,
    /// min(SOA's TTL, its MINIMUM) of an SOA at or above the final name (RFC 2308 section 5).
    pub negative_ttl: Option<u32>,
    /// Extended-error options as upstream sent them (RFC 8914).
    pub ede: Vec<u8>,
    /// The message carried an OPT record.
    pub had_opt: bool,
    /// An empty answer that only names other servers: the upstream does not resolve for us.
    pub referral: bool,
}

impl Answer {
    /// Reads a response whose header and question have been matched.
    ///
    /// # Errors
    /// [`Malformed`] says why nothing of the message may be used.
    pub fn read(message: &[u8]) -> Result<Answer, Malformed> {
        let header = Header::read(message).ok_or(Malformed::Records)?;
        let question = Question::read(message).ok_or(Malformed::Records)?;
        let sections = Sections::read(message, &header, &question)?;
        let qname = Name::from_wire(question.qname()).ok_or(Malformed::Records)?;
        let chain = Chain::follow(message, &sections.answers, qname, question.qtype)?;

        let opt = sections.opt.as_ref();
        let rcode = Rcode(header.flags.rcode().0 | opt.map_or(0, |opt| (opt.ttl >> 24 << 4) as u16));
        let kind = match rcode {
            Rcode::NOERROR if chain.found => Kind::Data,
            Rcode::NOERROR => Kind::NoData,
            Rcode::NXDOMAIN => Kind::NxDomain,
            _ => Kind::Failure,
        };
        let negative_ttl = soa_ttl(message, &sections.authorities, &chain.last);
        let kept =
            || sections.answers.iter().zip(&chain.keep).filter(|(_, keep)| **keep).map(|(record, _)| record);
        let (wire, ttl_offsets) = if chain.keep.iter().all(|keep| *keep) && sections.opt_is_last {
            sections.verbatim(message, &header)
        } else {
            let rest = [&sections.authorities[..], &sections.additionals[..]];
            rebuild(&header, message, &question, kept(), rest).ok_or(Malformed::Records)?
        };
        Ok(Answer {
            wire,
            ttl_offsets,
            rcode,
            kind,
            answer_ttl: kept().map(|record| record.ttl).min_by_key(|ttl| clamp_ttl(*ttl)),
            negative_ttl,
            ede: opt
                .and_then(|opt| message.get(opt.rdata.clone()))
                .map_or_else(Vec::new, |rdata| edns::extended_errors(rdata, MAX_EDE)),
            had_opt: opt.is_some(),
            referral: is_referral(kind, &header, &sections, negative_ttl),
        })
    }

    /// Lowers owner names that repeat the QNAME letter by letter, as [`lower_question`] does with the question.
    pub fn settle_case(&mut self) {
        let Some(question) = Question::read(&self.wire) else { return };
        let qname = question.qname().to_vec();
        let mut start = question.end();
        for &ttl_at in &self.ttl_offsets {
            let ttl_at = usize::from(ttl_at);
            if let Some(owner) = self.wire.get_mut(start..ttl_at.saturating_sub(4))
                && owner.eq_ignore_ascii_case(&qname)
            {
                owner.make_ascii_lowercase();
            }
            start = record_end(&self.wire, ttl_at);
        }
    }

    /// True where both say the same but for order, TTLs and letter case: code and answer records.
    pub fn says_the_same(&self, other: &Answer) -> bool {
        self.rcode == other.rcode && self.answer_records() == other.answer_records()
    }

    fn answer_records(&self) -> Vec<(Vec<u8>, u16, Vec<u8>)> {
        let count = Header::read(&self.wire).map_or(0, |header| usize::from(header.answers));
        let mut at = Question::read(&self.wire).map_or(0, |question| question.end());
        let mut records = Vec::with_capacity(count);
        for _ in 0..count {
            let Some(record) = Record::read(&self.wire, at) else { break };
            let mut rdata = record.rdata_uncompressed(&self.wire).unwrap_or_default();
            rdata.make_ascii_lowercase();
            records.push((record.owner.to_lower().as_wire().to_vec(), record.rtype, rdata));
            at = record.rdata.end;
        }
        records.sort_unstable();
        records
    }
}

/// Lowers the question of a reply, so that the random case we asked in does not show in names that point into it.
pub fn lower_question(message: &mut [u8]) {
    let length = Question::read(message).map_or(0, |question| question.qname().len());
    if let Some(qname) = message.get_mut(HEADER_LEN..HEADER_LEN + length) {
        qname.make_ascii_lowercase();
    }
}

/// A TTL with its top bit set means zero (RFC 2181 section 8).
pub fn clamp_ttl(ttl: u32) -> u32 {
    if ttl > i32::MAX as u32 { 0 } else { ttl }
}

/// Where the record ends whose TTL stands at `ttl_at`.
pub fn record_end(wire: &[u8], ttl_at: usize) -> usize {
    ttl_at + 6 + usize::from(super::u16_at(wire, ttl_at + 4).unwrap_or(0))
}

/// The records of a message by section, OPT apart.
struct Sections {
    answers: Vec<Record>,
    authorities: Vec<Record>,
    additionals: Vec<Record>,
    opt: Option<Record>,
    opt_is_last: bool,
}

impl Sections {
    fn read(message: &[u8], header: &Header, question: &Question<'_>) -> Result<Sections, Malformed> {
        let mut at = question.end();
        let mut take = |count: u16| -> Result<Vec<Record>, Malformed> {
            let mut records = Vec::new();
            for _ in 0..count {
                let record = Record::read(message, at).ok_or(Malformed::Records)?;
                record.rdata_uncompressed(message).ok_or(Malformed::Records)?;
                at = record.rdata.end;
                records.push(record);
            }
            Ok(records)
        };
        let answers = take(header.answers)?;
        let authorities = take(header.authorities)?;
        let mut additionals = take(header.additionals)?;
        let is_opt = |record: &Record| record.rtype == rtype::OPT;
        if answers.iter().chain(&authorities).any(is_opt)
            || additionals.iter().filter(|r| is_opt(r)).count() > 1
        {
            return Err(Malformed::Opt);
        }
        let place = additionals.iter().position(is_opt);
        let opt_is_last = place.is_none_or(|place| place + 1 == additionals.len());
        let opt = place.map(|place| additionals.remove(place));
        if opt.as_ref().is_some_and(|opt| opt.owner != Name::ROOT) {
            return Err(Malformed::Opt);
        }
        Ok(Sections { answers, authorities, additionals, opt, opt_is_last })
    }

    fn all(&self) -> impl Iterator<Item = &Record> {
        self.answers.iter().chain(&self.authorities).chain(&self.additionals)
    }

    /// The message as it is up to its OPT record.
    fn verbatim(&self, message: &[u8], header: &Header) -> (Vec<u8>, Vec<u16>) {
        let question_end = Question::read(message).map_or(HEADER_LEN, |question| question.end());
        let end = self.all().last().map_or(question_end, |record| record.rdata.end);
        let mut wire = message.get(..end).unwrap_or(message).to_vec();
        super::put(&mut wire, 10, &(header.additionals - u16::from(self.opt.is_some())).to_be_bytes());
        (wire, self.all().map(|record| record.ttl_at as u16).collect())
    }
}

/// The aliases from QNAME to the final name, and which answer records belong to them.
struct Chain {
    keep: Vec<bool>,
    last: Name,
    found: bool,
}

impl Chain {
    /// Follows CNAME and DNAME records in whatever order they stand (RFC 1034 section 3.6.2, RFC 6672).
    ///
    /// A name that is no part of the chain was not asked for: a server for one zone must not place records
    /// of another in the cache, so all else in the answer section is dropped.
    fn follow(message: &[u8], answers: &[Record], qname: Name, qtype: u16) -> Result<Chain, Malformed> {
        let mut chain = Chain { keep: vec![false; answers.len()], last: qname, found: false };
        for _ in 0..=MAX_CHAIN {
            chain.keep_dnames(answers);
            if chain.keep_owned(message, answers, qtype) {
                chain.found = true;
                return Ok(chain);
            }
            match chain.alias(message, answers)? {
                Some(target) => chain.last = target,
                None => return Ok(chain),
            }
        }
        Err(Malformed::Chain)
    }

    fn mark(&mut self, answers: &[Record], belongs: impl Fn(&Record, &Name) -> bool) -> bool {
        let mut any = false;
        for (record, keep) in answers.iter().zip(&mut self.keep) {
            if record.class == CLASS_IN && belongs(record, &self.last) {
                *keep = true;
                any = true;
            }
        }
        any
    }

    /// Keeps the DNAMEs above the current name and their signatures.
    fn keep_dnames(&mut self, answers: &[Record]) {
        self.mark(answers, |record, last| record.rtype == rtype::DNAME && is_above(&record.owner, last));
    }

    /// Keeps the current name's records of the type, with what signs them or the DNAMEs above.
    fn keep_owned(&mut self, message: &[u8], answers: &[Record], qtype: u16) -> bool {
        self.mark(answers, |record, last| match record.covered(message) {
            Some(covered) => {
                (record.owner == *last && (covered == qtype || covered == rtype::CNAME))
                    || (covered == rtype::DNAME && is_above(&record.owner, last))
            }
            None => false,
        });
        self.mark(answers, |record, last| record.rtype == qtype && record.owner == *last)
    }

    /// Keeps the current name's CNAME and tells where it leads.
    fn alias(&mut self, message: &[u8], answers: &[Record]) -> Result<Option<Name>, Malformed> {
        let is_alias = |record: &Record, last: &Name| record.rtype == rtype::CNAME && record.owner == *last;
        let target = answers.iter().find(|record| record.class == CLASS_IN && is_alias(record, &self.last));
        let Some(alias) = target else { return Ok(None) };
        let target = alias.target(message).ok_or(Malformed::Records)?;
        self.mark(answers, is_alias);
        Ok(Some(target))
    }
}

/// True where `ancestor` is a proper ancestor of `name`.
fn is_above(ancestor: &Name, name: &Name) -> bool {
    ancestor != name && super::name::is_at_or_under(name.as_wire(), ancestor.as_wire())
}

/// min(SOA's TTL, its MINIMUM) of the first SOA that stands at or above the final name.
fn soa_ttl(message: &[u8], authorities: &[Record], last: &Name) -> Option<u32> {
    let soa = authorities.iter().find(|record| {
        record.rtype == rtype::SOA && super::name::is_at_or_under(last.as_wire(), record.owner.as_wire())
    })?;
    let minimum = u32_at(message, soa.rdata.end.checked_sub(4)?)?;
    Some(clamp_ttl(soa.ttl).min(clamp_ttl(minimum)))
}

/// A NOERROR with neither data nor SOA that names servers: the mark of one that is no resolver for us.
fn is_referral(kind: Kind, header: &Header, sections: &Sections, negative_ttl: Option<u32>) -> bool {
    kind == Kind::NoData
        && negative_ttl.is_none()
        && !header.flags.has(Flags::AA)
        && sections.answers.is_empty()
        && sections.authorities.iter().any(|record| record.rtype == rtype::NS)
}

/// Owner names that a rebuilt message may point back to; further ones are written out.
const COMPRESSED_OWNERS: usize = 16;

/// Writes a message anew from records of others, names in RDATA written out, owners compressed.
pub struct Builder {
    wire: Vec<u8>,
    ttl_offsets: Vec<u16>,
    owners: Vec<(Name, usize)>,
}

impl Builder {
    /// Room for a header, then a question's octets.
    pub fn new(question: &[u8]) -> Option<Builder> {
        let qname = Name::from_wire(question)?;
        let wire = [&[0; HEADER_LEN][..], question].concat();
        Some(Builder { wire, ttl_offsets: Vec::new(), owners: vec![(qname, HEADER_LEN)] })
    }

    /// Appends a record of a message; nothing where the whole would become too long for one.
    pub fn append(&mut self, message: &[u8], record: &Record) -> Option<()> {
        let fixed = message.get(record.ttl_at.checked_sub(4)?..record.ttl_at)?;
        self.record(&record.owner, fixed, record.ttl, &record.rdata_uncompressed(message)?)
    }

    /// Appends a CNAME of class IN.
    pub fn alias(&mut self, owner: &Name, ttl: u32, target: &Name) -> Option<()> {
        let fixed = [rtype::CNAME.to_be_bytes(), CLASS_IN.to_be_bytes()].concat();
        self.record(owner, &fixed, ttl, target.as_wire())
    }

    fn record(&mut self, owner: &Name, fixed: &[u8], ttl: u32, rdata: &[u8]) -> Option<()> {
        match self.owners.iter().find(|(known, _)| known == owner) {
            Some((_, at)) => self.wire.extend_from_slice(&(0xc000 | *at as u16).to_be_bytes()),
            None => {
                self.is_here(owner);
                self.wire.extend_from_slice(owner.as_wire());
            }
        }
        self.wire.extend_from_slice(fixed);
        self.ttl_offsets.push(u16::try_from(self.wire.len()).ok()?);
        self.wire.extend_from_slice(&ttl.to_be_bytes());
        self.wire.extend_from_slice(&u16::try_from(rdata.len()).ok()?.to_be_bytes());
        if fixed.starts_with(&rtype::CNAME.to_be_bytes()) {
            // What an alias leads to is the next record's owner.
            Name::from_wire(rdata).inspect(|target| self.is_here(target));
        }
        self.wire.extend_from_slice(rdata);
        u16::try_from(self.wire.len()).ok().map(|_| ())
    }

    /// Takes note of a name that is about to be written; pointers reach no further than 14 bits (RFC 1035 section 4.1.4).
    fn is_here(&mut self, name: &Name) {
        if self.owners.len() < COMPRESSED_OWNERS && self.wire.len() < 0x3fff {
            self.owners.push((*name, self.wire.len()));
        }
    }

    /// The message under a header, and where its TTLs stand.
    pub fn finish(mut self, header: &Header) -> (Vec<u8>, Vec<u16>) {
        super::put(&mut self.wire, 0, &header.octets());
        (self.wire, self.ttl_offsets)
    }
}

/// Writes the message anew from the records that stay, for one whose bytes cannot stay where they were.
fn rebuild<'r>(
    header: &Header,
    message: &[u8],
    question: &Question<'_>,
    answers: impl Iterator<Item = &'r Record>,
    rest: [&'r [Record]; 2],
) -> Option<(Vec<u8>, Vec<u16>)> {
    let mut builder = Builder::new(question.octets)?;
    let mut kept_answers = 0u16;
    for record in answers.inspect(|_| kept_answers += 1).chain(rest[0]).chain(rest[1]) {
        builder.append(message, record)?;
    }
    Some(builder.finish(&Header {
        questions: 1,
        answers: kept_answers,
        authorities: rest[0].len() as u16,
        additionals: rest[1].len() as u16,
        ..*header
    }))
}

#[cfg(test)]
#[path = "answer_tests.rs"]
mod tests;
