//! The one form of answer that every stub resolver takes for the end of its search: the question as asked, an alias
//! from it to the name found, then what is known of that name.

use std::time::Duration;

use crate::cache::Given;
use crate::cache::ttl::{Moment, STALE_TTL};
use crate::wire::answer::{Answer, Builder, Kind};
use crate::wire::edns::extended_error;
use crate::wire::header::{Flags, Header};
use crate::wire::iana::{CLASS_IN, InfoCode, Rcode, rtype};
use crate::wire::name::Name;
use crate::wire::question::Question;
use crate::wire::record::Record;

/// The composed answer to a question for `qtype` at `qname`, whose search ends at `target`, of which `found` is known.
///
/// A family that the target has not is NODATA with the target's SOA, whichever way its servers denied it: NXDOMAIN here
/// would send one family of a look-up on (`None` stands for one that nobody could tell: SERVFAIL, as at the client's own
/// last step). `lifetime` bounds the alias. Nothing where the message would be longer than one can be.
pub fn compose(
    qname: &Name,
    qtype: u16,
    target: &Name,
    found: Option<&Given>,
    lifetime: Duration,
    now: Moment,
) -> Option<Answer> {
    let question = [qname.as_wire(), &qtype.to_be_bytes(), &CLASS_IN.to_be_bytes()].concat();
    let Some(found) = found.filter(|found| found.kind() != Kind::Failure) else {
        return Some(failure(&question, found));
    };
    let said = found.said();
    let header = Header::read(said.wire)?;
    let mut builder = Builder::new(&question)?;
    let alias_ttl = u32::try_from(lifetime.as_secs()).unwrap_or(u32::MAX);
    builder.alias(qname, alias_ttl, target)?;

    let records = Records { message: said.wire, at: Question::read(said.wire)?.end() };
    let (mut answers, mut authorities) = (1, 0);
    for (index, mut record) in
        records.enumerate().take(usize::from(header.answers) + usize::from(header.authorities))
    {
        record.ttl = match found.is_stale {
            true => STALE_TTL.as_secs() as u32,
            false => record.ttl.saturating_sub(found.age(now)),
        };
        if index < usize::from(header.answers) {
            answers += 1;
        } else if found.kind() != Kind::Data && record.rtype == rtype::SOA {
            authorities += 1;
        } else {
            continue;
        }
        builder.append(said.wire, &record)?;
    }
    let header =
        Header { id: 0, flags: Flags(Flags::QR), questions: 1, answers, authorities, additionals: 0 };
    let (wire, ttl_offsets) = builder.finish(&header);
    Some(Answer {
        wire,
        ttl_offsets,
        rcode: Rcode::NOERROR,
        kind: if found.kind() == Kind::Data { Kind::Data } else { Kind::NoData },
        answer_ttl: None,
        negative_ttl: None,
        ede: said.ede.to_vec(),
        had_opt: false,
        referral: false,
    })
}

/// SERVFAIL for one family of a name whose other family is known.
fn failure(question: &[u8], found: Option<&Given>) -> Answer {
    let rcode = Rcode::SERVFAIL;
    let header = Header {
        id: 0,
        flags: Flags(Flags::QR | u16::from(rcode.low())),
        questions: 1,
        answers: 0,
        authorities: 0,
        additionals: 0,
    };
    let ede = found.map_or_else(
        || extended_error(InfoCode::OTHER, "the name that the search ends with did not resolve"),
        |found| found.said().ede.to_vec(),
    );
    Answer {
        wire: [&header.octets()[..], question].concat(),
        ttl_offsets: vec![],
        rcode,
        kind: Kind::Failure,
        answer_ttl: None,
        negative_ttl: None,
        ede,
        had_opt: false,
        referral: false,
    }
}

/// The records of a message, one after another.
struct Records<'m> {
    message: &'m [u8],
    at: usize,
}

impl Iterator for Records<'_> {
    type Item = Record;

    fn next(&mut self) -> Option<Record> {
        let record = Record::read(self.message, self.at)?;
        self.at = record.rdata.end;
        Some(record)
    }
}
