//! The denial cut (RFC 8020) inside the cluster's zone, for whoever switches it on: one NXDOMAIN for `com.NS.svc.Z` answers
//! for every name below it, so that a search for a new external name asks the cluster DNS nothing new.
//!
//! It is unsafe where the cluster DNS makes names up (rewrites, wildcards below a name that is denied). Its guard
//! rails: only names of two labels and more under a namespace, only on a denial with an SOA and without an alias,
//! never with DO or CD; one of sixteen questions is asked all the same, and an answer that contradicts switches it off.

use std::rc::Rc;

use tokio::time::Instant;

use super::Resolver;
use super::miss::{self, Wanted};
use crate::cache::entry::Entry;
use crate::cache::ttl::Moment;
use crate::observe::cells::Event;
use crate::wire::answer::{Answer, Builder, Kind};
use crate::wire::header::{Flags, Header};
use crate::wire::iana::{Rcode, rtype};
use crate::wire::question::Question;
use crate::wire::record::Record;

/// The denial of a question, if the name above it is denied; a stale denial denies only what it was given for.
pub async fn denied(
    resolver: &Rc<Resolver>,
    wanted: &Wanted,
    client: std::net::IpAddr,
    respond_by: Instant,
) -> Option<Answer> {
    let (shared, question) = (&resolver.shared, &wanted.question);
    if question.dnssec_ok || question.checking_disabled {
        return None;
    }
    let qtype = crate::wire::u16_at(&question.octets, question.qname().len())?;
    let above = shared.search.cut_at(question.qname(), shared.clock.now())?;
    let above = Wanted::of(resolver, &above, qtype);
    // The name above has one label in its namespace: nothing is cut for it in turn.
    let denial = Box::pin(miss::obtain(resolver, above, client, respond_by)).await.ok()?;
    let denial = Some(denial).filter(|denial| !denial.is_stale)?;
    let answer = denial_below(&denial, &question.octets, shared.clock.now())?;
    resolver.cells.event(Event::DenialCut);
    Some(answer)
}

/// Takes note of an answer: data below a name that is denied switches the cut off.
pub fn check(resolver: &Resolver, qname: &[u8], qtype: u16, kind: Kind) {
    let (search, now) = (&resolver.shared.search, resolver.shared.clock.now());
    if !matches!(kind, Kind::Data | Kind::NoData) {
        return;
    }
    let Some(above) = search.above(qname) else { return };
    let key = Wanted::of(resolver, &above, qtype).key;
    let denial = resolver.shared.cache.peek(&key, now);
    if denial.is_some_and(|denial| denial.kind() == Kind::NxDomain) && search.cut_is_wrong(now) {
        crate::warning!(
            "the cluster DNS has names below {above}, which it denies: the denial cut is off for an hour; switch it off for good"
        );
    }
}

/// A denial of a question with the SOA of another one's; nothing where that is no plain denial.
fn denial_below(denial: &Entry, question: &[u8], now: Moment) -> Option<Answer> {
    if denial.kind() != Kind::NxDomain || denial.has_answers() {
        return None;
    }
    let wire = denial.said().wire;
    let mut soa =
        Record::read(wire, Question::read(wire)?.end()).filter(|record| record.rtype == rtype::SOA)?;
    soa.ttl = soa.ttl.saturating_sub(denial.age(now));
    let mut builder = Builder::new(question)?;
    builder.append(wire, &soa)?;
    let flags = Flags(Flags::QR | u16::from(Rcode::NXDOMAIN.low()));
    let header = Header { id: 0, flags, questions: 1, answers: 0, authorities: 1, additionals: 0 };
    let (wire, ttl_offsets) = builder.finish(&header);
    Some(Answer {
        wire,
        ttl_offsets,
        rcode: Rcode::NXDOMAIN,
        kind: Kind::NxDomain,
        answer_ttl: None,
        negative_ttl: u32::try_from(denial.remaining(now).as_secs()).ok(),
        ede: vec![],
        had_opt: false,
        referral: false,
    })
}
