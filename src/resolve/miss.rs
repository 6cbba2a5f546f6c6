//! A query that has to be asked, top to bottom: what is stale meanwhile, a place to wait, an equal question to
//! join or to lead through its exchange into the store (`flight`), the reply.

use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::Receiver;
use tokio::time::Instant;

use crate::cache::Given;
use crate::cache::entry::{Entry, Role};
use crate::cache::key::{QueryKey, SearchListId};
use crate::cache::ttl::{Moment, Recheck};
use crate::observe::cells::Event;
use crate::observe::ring::From;
use crate::query::{Proto, Query};
use crate::search::LOOK_UP;
use crate::search::polls::Requery;
use crate::upstream::admission::{Full, Joined};
use crate::upstream::alarm::{self, TooLate};
use crate::upstream::exchange::DEADLINE;
use crate::upstream::fairness::Refused;
use crate::upstream::standing::Waiter;
use crate::upstream::{Class, Failure, Question};
use crate::wire::answer::{Answer, Kind};
use crate::wire::edns::{ClientEdns, UDP_SIZE, extended_error};
use crate::wire::header::Flags;
use crate::wire::iana::{CLASS_IN, InfoCode, Rcode, rtype};
use crate::wire::name::Name;
use crate::wire::question;
use crate::wire::reply::{self, Asked};

use super::flight::{Led, fly, poll_caught};
use super::hit::within;
use super::stale::{CLIENT_RESPONSE, STALE_ERROR_LEN};
use super::walk::{self, Found};
use super::{Client, Resolver, cut};

/// A query that waits for its answer: all that its reply needs once the packet is gone.
pub struct Miss {
    key: QueryKey,
    question: Box<[u8]>,
    id: u16,
    flags: Flags,
    edns: Option<ClientEdns>,
    server_cookie: Option<[u8; 16]>,
    client: Client,
    asked_us: u64,
    searches: bool,
}

impl Miss {
    /// Keeps what is needed of a query that came at this time; `key` is the literal one. `searches`: the question is the
    /// first step of its client's search, and what that ends with is not known.
    pub fn new(query: &Query<'_>, key: QueryKey, client: Client, asked_us: u64, searches: bool) -> Miss {
        let Asked { id, flags, question, edns, server_cookie } = query.asked;
        Miss { key, question: question.into(), id, flags, edns, server_cookie, client, asked_us, searches }
    }

    fn qtype(&self) -> u16 {
        crate::wire::u16_at(&self.question, self.key.qname().len()).unwrap_or(0)
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

    fn wanted(&self) -> Rc<Wanted> {
        let (question, mixed_case) = (self.upstream_question(), self.has_upper_case());
        Rc::new(Wanted { key: self.key, question, mixed_case })
    }

    /// Our questions upstream have mixed case; one that comes back looks like this.
    fn has_upper_case(&self) -> bool {
        self.question.iter().take(self.key.qname().len()).any(u8::is_ascii_uppercase)
    }
}

/// Finds the answer and makes the reply; whatever happens, there is one.
pub async fn answer(resolver: Rc<Resolver>, miss: Box<Miss>) -> Vec<u8> {
    let mut answering = pin!(find(&resolver, &miss));
    let reply = poll_fn(|context| poll_caught(answering.as_mut(), context)).await;
    reply.unwrap_or_else(|| {
        resolver.cells.event(Event::Panic);
        refused(&resolver, &miss, Refusal::GivenUp)
    })
}

async fn find(resolver: &Rc<Resolver>, miss: &Miss) -> Vec<u8> {
    let (shared, client) = (&resolver.shared, miss.client.ip());
    let mut known = None;
    let respond_by = shared.clock.instant(miss.asked_us) + CLIENT_RESPONSE;
    if miss.searches
        && let Some(qname) = Name::from_wire(miss.key.qname())
    {
        // Few questions begin a walk: the others' tasks have no room for it.
        match Box::pin(walk::walked(resolver, &qname, miss.qtype(), client)).await {
            Found::Composed(entry) => {
                if let Role::Composed { saved } = entry.role() {
                    resolver.cells.saved(saved);
                }
                return reply_with(resolver, miss, &Given::fresh(entry));
            }
            Found::Literally(given) => known = given,
        }
        shared.search.left_literal(client, miss.key.qname(), shared.clock.now());
    }
    let obtained = match known {
        Some(given) => Ok(given),
        None => obtain(resolver, miss.wanted(), client, respond_by).await,
    };
    match obtained {
        Ok(given) => {
            if resolver.notebook.is_some()
                && let Some(question) = question::Question::of(&miss.question)
            {
                let denied = given.kind() == Kind::NxDomain;
                let pin = shared.search.pin();
                resolver.note(&pin, &question, denied, client, miss.asked_us, shared.clock.now_us());
            }
            reply_with(resolver, miss, &given)
        }
        Err(refusal) => {
            bar(resolver, miss.key.qname(), Duration::ZERO, client);
            refused(resolver, miss, refusal)
        }
    }
}

/// What is to be known. It is large, and more than one task needs it.
pub struct Wanted {
    /// Under which key it is kept.
    pub key: QueryKey,
    /// How it is asked.
    pub question: Question,
    /// The question has letters in upper case, as ours have upstream.
    pub mixed_case: bool,
}

impl Wanted {
    /// A name's addresses, as a client asks for them that leaves validation to others.
    pub fn of(resolver: &Resolver, name: &Name, qtype: u16) -> Rc<Wanted> {
        let name = name.to_lower();
        let octets = [name.as_wire(), &qtype.to_be_bytes(), &CLASS_IN.to_be_bytes()].concat();
        let question = question::Question { octets: &octets, qtype, qclass: CLASS_IN };
        let hasher = resolver.shared.cache.hasher();
        let key = QueryKey::of(&question, false, false, SearchListId::LITERAL, hasher);
        let question = Question { octets: octets.into(), dnssec_ok: false, checking_disabled: false };
        Rc::new(Wanted { key, question, mixed_case: false })
    }

    /// What a query asked for, to be asked for behind its reply.
    pub fn asked(resolver: &Resolver, asked: &Asked<'_>, question: &question::Question<'_>) -> Rc<Wanted> {
        let dnssec_ok = asked.edns.is_some_and(|edns| edns.dnssec_ok);
        let checking_disabled = asked.flags.has(Flags::CD);
        let hasher = resolver.shared.cache.hasher();
        let key = QueryKey::of(question, dnssec_ok, checking_disabled, SearchListId::LITERAL, hasher);
        let mut octets: Box<[u8]> = question.octets.into();
        octets.split_at_mut(key.qname().len()).0.make_ascii_lowercase();
        let question = Question { octets, dnssec_ok, checking_disabled };
        Rc::new(Wanted { key, question, mixed_case: false })
    }
}

/// Why nothing was learned, and nothing is to be kept of it.
pub enum Refusal {
    /// There is no room to wait.
    Full(Full),
    /// There was no turn to ask.
    NoTurn(Refused),
    /// No answer came while the client waits; others may still have it.
    TimedOut,
    /// The task that asked ended without an answer.
    GivenUp,
}

/// How much later than with a stale answer a client is answered that has none: [`DEADLINE`] after its question.
const AFTER_STALE: Duration = DEADLINE.saturating_sub(CLIENT_RESPONSE);
/// The time that a flight has to land at its deadline, for those who wait until then.
const LANDING: Duration = Duration::from_millis(10);
/// Flights in a row that a question follows: if they were refused or given up, it is none of its own doing.
const MAX_FOLLOWED: usize = 3;

/// An answer: fresh, or until `respond_by` a newer one than what is stale, then that.
///
/// # Errors
/// [`Refusal`]; it says nothing about the name.
pub async fn obtain(
    resolver: &Rc<Resolver>,
    wanted: Rc<Wanted>,
    client: IpAddr,
    respond_by: Instant,
) -> Result<Given, Refusal> {
    let (shared, now) = (&resolver.shared, resolver.shared.clock.now());
    let stale = match shared.cache.known(&wanted.key, now) {
        Some(fresh) if !fresh.is_stale => return Ok(fresh),
        Some(stale) => stale,
        None => return ask(resolver, &wanted, client, respond_by).await.map(Given::fresh),
    };
    match shared.cache.recheck(&wanted.key, now) {
        Recheck::Waited => {}
        Recheck::NotYet => return Ok(stale),
        Recheck::Behind => {
            begin(resolver, wanted, client, Class::Refresh);
            return Ok(stale);
        }
    }
    match alarm::by(respond_by, pin!(ask(resolver, &wanted, client, respond_by))).await {
        Ok(Ok(entry)) if entry.kind() != Kind::Failure => Ok(Given::fresh(entry)),
        // RFC 8767 section 5: nothing came in time, or a failure, or there was no room to ask. The question flies on.
        _ => Ok(shared.cache.known(&wanted.key, shared.clock.now()).unwrap_or(stale)),
    }
}

/// What upstream says: a place to wait, then an equal question to join, or to lead.
async fn ask(
    resolver: &Rc<Resolver>,
    wanted: &Rc<Wanted>,
    client: IpAddr,
    respond_by: Instant,
) -> Result<Arc<Entry>, Refusal> {
    let shared = &resolver.shared;
    if let Some(denial) = cut::denied(resolver, wanted, client, respond_by).await {
        return Ok(keep(resolver, &wanted.key, denial, client));
    }
    let mut place = Some(shared.waiting.enter(client).map_err(Refusal::Full)?);
    let waiter = Waiter { client, class: Class::Client, deadline: respond_by + AFTER_STALE };
    for _ in 0..MAX_FOLLOWED {
        let by = waiter.deadline + LANDING;
        let (landed, leads) = match shared.flights.join(wanted.key.octets(), wanted.mixed_case) {
            Joined::Follow(landing) => {
                resolver.cells.event(Event::Joined);
                landing.standing().join(waiter);
                (alarm::by(by, pin!(landing.wait())).await, false)
            }
            Joined::Lead(lead, landing) => {
                lead.standing().join(waiter);
                let flight =
                    fly(Rc::clone(resolver), Rc::clone(wanted), client, lead, place.take(), Class::Client);
                (alarm::by(by, Led::new(flight, landing)).await, true)
            }
        };
        match landed {
            Ok(Some(Ok(entry))) => return Ok(entry),
            Ok(Some(Err(why))) if leads => return Err(Refusal::NoTurn(why)),
            Ok(None) if leads => {
                resolver.cells.event(Event::Panic);
                return Err(Refusal::GivenUp);
            }
            // Whoever led had no turn, or went away. That is no end for those who followed.
            Ok(_) => {}
            Err(TooLate) => return Err(Refusal::TimedOut),
        }
    }
    Err(Refusal::GivenUp)
}

/// Asks although nobody waits; false where it is being asked already, or where there is no room.
pub fn begin(resolver: &Rc<Resolver>, wanted: Rc<Wanted>, client: IpAddr, class: Class) -> bool {
    let shared = &resolver.shared;
    let Ok(place) = shared.waiting.enter(client) else { return false };
    let Joined::Lead(lead, _) = shared.flights.join(wanted.key.octets(), false) else { return false };
    lead.standing().join(Waiter { client, class, deadline: Instant::now() + DEADLINE });
    tokio::task::spawn_local(fly(Rc::clone(resolver), wanted, client, lead, Some(place), class));
    true
}

/// Asks again, as they come, for names that somebody waits for.
pub async fn ask_again(resolver: Rc<Resolver>, mut requeries: Receiver<Requery>) {
    while let Some(Requery { qname, qtype, client }) = requeries.recv().await {
        let Some(name) = Name::from_wire(&qname) else { continue };
        if begin(&resolver, Wanted::of(&resolver, &name, qtype), client, Class::Refresh) {
            resolver.cells.event(Event::AskedAgain);
        }
    }
}

/// Keeps an answer, and takes note of what it says about names that a search list makes.
pub fn keep(resolver: &Resolver, key: &QueryKey, answer: Answer, client: IpAddr) -> Arc<Entry> {
    let (shared, now) = (&resolver.shared, resolver.shared.clock.now());
    let entry = shared.cache.keep(key, answer, client, now);
    shared.search.learn_of(key.qname(), entry.kind());
    if entry.kind() != Kind::Data {
        bar(resolver, key.qname(), entry.remaining(now), client);
    }
    entry
}

/// What was not found may be asked next under a later suffix, where it can look like the first step of another search:
/// that question stays literal until the answer has ended and whoever had it has ended his look-up.
pub fn bar(resolver: &Resolver, qname: &[u8], answer_lives: Duration, client: IpAddr) {
    let (shared, now) = (&resolver.shared, resolver.shared.clock.now());
    for name in shared.search.bars(qname) {
        for qtype in [rtype::A, rtype::AAAA] {
            let key = walk::searched_key(resolver, &name, qtype);
            let lifetime = answer_lives + LOOK_UP;
            let bar = Entry::literal(&key, Role::Bar, lifetime, shared.cache.bucket(client), now);
            shared.cache.put(&key, bar, &[], now);
        }
    }
}

fn reply_with(resolver: &Resolver, miss: &Miss, given: &Given) -> Vec<u8> {
    let (asked, said) = (miss.asked(), given.said());
    let mut out = vec![0; reply::room(&asked, &said) + STALE_ERROR_LEN];
    let part = within(&mut out, &asked, miss.client.proto);
    let now_us = resolver.shared.clock.now_us();
    let length = if given.is_stale {
        resolver.write_stale(part, &asked, given, miss.client, [miss.asked_us, now_us])
    } else {
        resolver.answered(&asked, miss.client, said.rcode, From::Upstream, [miss.asked_us, now_us]);
        reply::write(part, &asked, &said, given.age(Moment(now_us / 1000)))
    };
    out.truncate(length);
    out
}

fn refused(resolver: &Resolver, miss: &Miss, refusal: Refusal) -> Vec<u8> {
    let (code, text) = match refusal {
        Refusal::Full(Full::Total) => {
            resolver.cells.event(Event::LimitWaiting);
            (InfoCode::OTHER, "too many questions wait for upstream".into())
        }
        Refusal::Full(Full::Client) => {
            resolver.cells.event(Event::LimitClientWaiting);
            (InfoCode::OTHER, "too many questions of this client wait for upstream".into())
        }
        Refusal::NoTurn(why) => (InfoCode::OTHER, why.to_string()),
        Refusal::TimedOut => (InfoCode::NO_REACHABLE_AUTHORITY, Failure::TimedOut.to_string()),
        Refusal::GivenUp => (InfoCode::OTHER, "the question was given up".into()),
    };
    failed(resolver, miss, code, &text)
}

/// SERVFAIL with its reason; nothing of it is kept.
fn failed(resolver: &Resolver, miss: &Miss, code: InfoCode, text: &str) -> Vec<u8> {
    let mut out = vec![0; usize::from(UDP_SIZE)];
    let out_part = within(&mut out, &miss.asked(), Proto::Udp);
    let length = reply::write_error(out_part, &miss.asked(), Rcode::SERVFAIL, &extended_error(code, text));
    let now_us = resolver.shared.clock.now_us();
    resolver.answered(&miss.asked(), miss.client, Rcode::SERVFAIL, From::Upstream, [miss.asked_us, now_us]);
    out.truncate(length);
    out
}
