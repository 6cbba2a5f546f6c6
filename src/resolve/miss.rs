//! A query that has to be asked, top to bottom: a place to wait, an equal question to join or lead, the
//! exchange, the store, the reply.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use tokio::time::{Instant, timeout};

use crate::cache::entry::Entry;
use crate::cache::key::QueryKey;
use crate::observe::cells::Event;
use crate::query::{Proto, Query};
use crate::upstream::admission::{Full, Joined, Lead, Place};
use crate::upstream::exchange::{self, DEADLINE};
use crate::upstream::zones::Zone;
use crate::upstream::{Failure, Question};
use crate::wire::answer::{Answer, Kind};
use crate::wire::edns::{ClientEdns, UDP_SIZE, extended_error};
use crate::wire::header::{Flags, Header};
use crate::wire::iana::{CLASS_IN, InfoCode, Rcode, rtype};
use crate::wire::reply::{self, Asked};

use super::hit::within;
use super::{Client, Resolver};

/// A query that waits for its answer: all that its reply needs once the packet is gone.
pub struct Miss {
    key: QueryKey,
    question: Box<[u8]>,
    id: u16,
    flags: Flags,
    edns: Option<ClientEdns>,
    server_cookie: Option<[u8; 16]>,
    client: Client,
}

impl Miss {
    /// Keeps what is needed of a query.
    pub fn new(query: &Query<'_>, key: QueryKey, client: Client) -> Miss {
        let Asked { id, flags, question, edns, server_cookie } = query.asked;
        Miss { key, question: question.into(), id, flags, edns, server_cookie, client }
    }

    fn asked(&self) -> Asked<'_> {
        let Miss { id, flags, ref question, edns, server_cookie, .. } = *self;
        Asked { id, flags, question, edns, server_cookie }
    }

    fn upstream_question(&self) -> Question {
        let mut octets = self.question.clone();
        octets.split_at_mut(self.key.qname().len()).0.make_ascii_lowercase();
        Question {
            octets,
            dnssec_ok: self.edns.is_some_and(|edns| edns.dnssec_ok),
            checking_disabled: self.flags.has(Flags::CD),
        }
    }

    /// Our questions upstream have mixed case; one that comes back looks like this.
    fn has_upper_case(&self) -> bool {
        self.question.iter().take(self.key.qname().len()).any(u8::is_ascii_uppercase)
    }
}

/// Finds the answer and makes the reply.
pub async fn answer(resolver: Rc<Resolver>, miss: Box<Miss>) -> Vec<u8> {
    let shared = &resolver.shared;
    let place = match shared.waiting.enter(miss.client.ip()) {
        Ok(place) => place,
        Err(full) => return refused(&resolver, &miss, full),
    };
    let (landing, _place) = match shared.flights.join(miss.key.octets(), miss.has_upper_case()) {
        Joined::Follow(landing) => {
            resolver.cells.event(Event::Joined);
            (landing, Some(place))
        }
        Joined::Lead(lead, landing) => {
            let flight =
                fly(Rc::clone(&resolver), miss.key, miss.upstream_question(), miss.client.ip(), lead, place);
            tokio::task::spawn_local(flight);
            (landing, None)
        }
    };
    match landing.wait().await {
        Some(entry) => reply_with(&resolver, &miss, &entry),
        None => failed(&resolver, &miss, InfoCode::OTHER, "the question was given up"),
    }
}

/// Asks, keeps the answer, tells everybody who waits. Runs on when nobody does, so that the answer is there for the next.
async fn fly(
    resolver: Rc<Resolver>,
    key: QueryKey,
    question: Question,
    client: IpAddr,
    lead: Lead<Arc<Entry>>,
    _place: Place,
) {
    let shared = &resolver.shared;
    let keep = |answer| shared.cache.keep(&key, answer, client, shared.clock.now());
    // The flight before this one may have landed between the look-up and the join.
    if let Some(entry) = shared.cache.peek(&key, shared.clock.now()) {
        return lead.land(entry);
    }
    if has_come_back(&resolver, &question) {
        return lead.land(keep(failure(&question, Failure::Loop)));
    }
    let Some(zone) = shared.upstreams.zones.find(question.qname()) else {
        return lead.land(keep(failure(&question, Failure::Unreachable)));
    };
    let mut exchange = std::pin::pin!(exchange::ask(&*resolver.carrier, zone, &question));
    let suspect = match timeout(DEADLINE, &mut exchange).await {
        Ok(Ok(answer)) => {
            let suspect = answer.kind == Kind::Failure && lead.is_suspect();
            lead.land(keep(answer));
            suspect
        }
        Ok(Err(why)) => {
            let suspect = lead.is_suspect();
            lead.land(keep(failure(&question, why)));
            suspect
        }
        Err(_) => {
            let suspect = lead.is_suspect();
            lead.land(keep(failure(&question, Failure::TimedOut)));
            if let Ok(late) = exchange.await
                && late.kind != Kind::Failure
            {
                keep(late);
            }
            suspect
        }
    };
    if suspect {
        look_for_loop(&resolver, zone).await;
    }
}

fn reply_with(resolver: &Resolver, miss: &Miss, entry: &Entry) -> Vec<u8> {
    let (asked, said) = (miss.asked(), entry.said());
    let mut out = vec![0; reply::room(&asked, &said)];
    let age = entry.age(resolver.shared.clock.now());
    let length = reply::write(within(&mut out, &asked, miss.client.proto), &asked, &said, age);
    resolver.cells.response(said.rcode);
    out.truncate(length);
    out
}

fn refused(resolver: &Resolver, miss: &Miss, full: Full) -> Vec<u8> {
    let (event, text) = match full {
        Full::Total => (Event::LimitWaiting, "too many questions wait for upstream"),
        Full::Client => (Event::LimitClientWaiting, "too many questions of this client wait for upstream"),
    };
    resolver.cells.event(event);
    failed(resolver, miss, InfoCode::OTHER, text)
}

/// SERVFAIL with its reason; nothing of it is kept.
fn failed(resolver: &Resolver, miss: &Miss, code: InfoCode, text: &str) -> Vec<u8> {
    let mut out = vec![0; usize::from(UDP_SIZE)];
    let out_part = within(&mut out, &miss.asked(), Proto::Udp);
    let length = reply::write_error(out_part, &miss.asked(), Rcode::SERVFAIL, &extended_error(code, text));
    resolver.cells.response(Rcode::SERVFAIL);
    out.truncate(length);
    out
}

/// The answer to a question that nobody answered, in the form of one that somebody did (RFC 9520 section 3.2).
fn failure(question: &Question, why: Failure) -> Answer {
    let header = Header {
        id: 0,
        flags: Flags(Flags::QR | u16::from(Rcode::SERVFAIL.low())),
        questions: 1,
        answers: 0,
        authorities: 0,
        additionals: 0,
    };
    // RFC 8914 sections 4.23 and 4.24.
    let code = match why {
        Failure::TimedOut | Failure::Loop => InfoCode::NO_REACHABLE_AUTHORITY,
        Failure::Unreachable => InfoCode::NETWORK_ERROR,
    };
    Answer {
        wire: [&header.octets()[..], &question.octets].concat(),
        ttl_offsets: vec![],
        rcode: Rcode::SERVFAIL,
        kind: Kind::Failure,
        answer_ttl: None,
        negative_ttl: None,
        ede: extended_error(code, &why.to_string()),
        had_opt: false,
        referral: false,
    }
}

/// A question that is one of our own probes shows that a server leads back here.
fn has_come_back(resolver: &Resolver, question: &Question) -> bool {
    let now = Instant::now();
    let Some(server) = resolver.shared.upstreams.nonces.came_back(question.qname(), now) else {
        return false;
    };
    server.health().loops(now);
    crate::error!(
        "upstream {} leads back to this process; it is left out for five minutes. Point it at another server",
        server.endpoint.addr
    );
    true
}

/// Sends each server of a zone a name that nobody can guess; see [`crate::upstream::loops`].
async fn look_for_loop(resolver: &Resolver, zone: &Zone) {
    for server in &zone.servers {
        let label = resolver.shared.upstreams.nonces.issue(server, Instant::now(), rand::random());
        let Some(label) = label.filter(|_| zone.name.as_wire().len() + 33 <= 255) else { continue };
        let tail = [rtype::A.to_be_bytes(), CLASS_IN.to_be_bytes()].concat();
        let question = [&[32][..], &label, zone.name.as_wire(), &tail].concat();
        exchange::probe(&*resolver.carrier, server, &question).await;
    }
}
