//! A query answered at once, top to bottom: what the cache knows, what is refused, and what is left to ask.
//!
//! On the way of a hot answer nothing is locked, allocated or awaited; one of the store takes its shard's lock for a look-up.

use std::ops::Deref;
use std::sync::Arc;

use crate::cache::Level;
use crate::cache::entry::{Entry, Role};
use crate::cache::key::{QueryKey, SearchListId};
use crate::cache::ttl::Recheck;
use crate::observe::cells::Event;
use crate::observe::ring::From;
use crate::query::{self, Proto, Query, Rejection};
use crate::search::clients::Standing;
use crate::search::list::Step;
use crate::wire::answer::Kind;
use crate::wire::edns::{PLAIN_UDP_SIZE, UDP_SIZE};
use crate::wire::iana::{Rcode, rtype};
use crate::wire::question::Question;
use crate::wire::reply::{self, Asked, MAX_MESSAGE};

use super::miss::Miss;
use super::prefetch::Prefetch;
use super::{Batch, Client, Resolver};

/// What became of a packet; `M` is what is left to ask.
pub enum Outcome<M = Box<Miss>> {
    /// So many octets of the buffer go back.
    Reply(usize),
    /// The same, and behind it something is asked for before it ends.
    ReplyAndPrefetch(usize, Box<Prefetch>),
    /// Nothing goes back.
    Silence,
    /// It has to be asked.
    Miss(M),
}

/// What is known of a search.
enum Searched<'b> {
    /// What it ends with.
    Found(Level, Held<'b>),
    /// The question is to be taken literally.
    Literally,
    /// It has to be walked.
    Unknown,
}

/// An entry of either level.
enum Held<'b> {
    Hot(&'b Entry),
    Stored(Arc<Entry>),
}

impl Deref for Held<'_> {
    type Target = Entry;

    fn deref(&self) -> &Entry {
        match self {
            Held::Hot(entry) => entry,
            Held::Stored(entry) => entry,
        }
    }
}

impl Resolver {
    /// Answers a packet into `out`, which must hold the largest reply its transport allows.
    #[inline]
    pub fn answer(&self, packet: &[u8], client: Client, batch: &Batch<'_>, out: &mut [u8]) -> Outcome {
        let mut query = match query::read(packet) {
            Ok(query) => query,
            Err(Rejection::Drop) => {
                self.cells.event(Event::Dropped);
                return Outcome::Silence;
            }
            Err(Rejection::Reply(mut asked, rcode)) => {
                self.cells.query(client.proto, client.family(), 0);
                asked.server_cookie = self.server_cookie(&asked, client, batch);
                return self.refuse(out, &asked, rcode, client, batch);
            }
        };
        self.cells.query(client.proto, client.family(), query.question.qtype);
        query.asked.server_cookie = self.server_cookie(&query.asked, client, batch);
        let out = within(out, &query.asked, client.proto);

        let searched = match batch.search.step(&query, client.ip(), batch.now) {
            Some((step, standing)) => self.searched(&query, &step, standing, client, batch),
            None => Searched::Literally,
        };
        if let Searched::Found(level, entry) = &searched {
            return self.hit(out, &query.asked, entry, *level, client, batch);
        }
        let key = QueryKey::new(&query, SearchListId::LITERAL, self.shared.cache.hasher());
        if matches!(searched, Searched::Unknown) {
            self.cells.event(Event::Miss);
            return Outcome::Miss(Box::new(Miss::new(&query, key, client, batch.now_us, true)));
        }
        let note = |entry: &Entry| {
            let denied = entry.kind() == Kind::NxDomain;
            self.note(&batch.search, &query.question, denied, client.ip(), batch.now_us, batch.now_us);
        };
        if let Some(entry) = batch.pin.get(&key, batch.now) {
            note(entry);
            return self.hit(out, &query.asked, entry, Level::Hot, client, batch);
        }
        let stored = self.shared.cache.stored(&key, batch.now);
        if let Some(fresh) = stored.as_ref().filter(|given| !given.is_stale) {
            note(fresh);
            return self.hit(out, &query.asked, fresh, Level::Store, client, batch);
        }
        if query.question.qtype == rtype::ANY {
            return self.any(out, &query, client, batch);
        }
        self.cells.event(Event::Miss);
        if !query.recursion_desired() {
            // RFC 8767 section 5: what is stale is for those who want it looked for.
            return self.refuse(out, &query.asked, Rcode::REFUSED, client, batch);
        }
        if let Some(stale) = stored
            && self.shared.cache.recheck(&key, batch.now) == Recheck::NotYet
        {
            note(&stale);
            return Outcome::Reply(self.write_stale(out, &query.asked, &stale, client, [batch.now_us; 2]));
        }
        Outcome::Miss(Box::new(Miss::new(&query, key, client, batch.now_us, false)))
    }

    /// What is known of the search that a question is the first step of.
    fn searched<'b>(
        &self,
        query: &Query<'_>,
        step: &Step<'_>,
        standing: Standing,
        client: Client,
        batch: &'b Batch<'_>,
    ) -> Searched<'b> {
        let search = &self.shared.search;
        let literally = || {
            search.left_literal(client.ip(), step.qname(), batch.now);
            Searched::Literally
        };
        let believed = matches!(standing, Standing::Proven | Standing::Due { .. });
        if !believed || search.recent().has(client.ip(), step.qname(), batch.now) {
            return literally();
        }
        let key = QueryKey::new(query, SearchListId::SEARCHED, self.shared.cache.hasher());
        let found = match batch.pin.get(&key, batch.now) {
            Some(entry) => Some((Level::Hot, Held::Hot(entry))),
            None => {
                let stored = self.shared.cache.stored(&key, batch.now).filter(|given| !given.is_stale);
                stored.map(|given| (Level::Store, Held::Stored(given.entry)))
            }
        };
        match found {
            Some((level, entry)) => match entry.role() {
                Role::Composed { saved } => {
                    self.cells.saved(saved);
                    Searched::Found(level, entry)
                }
                Role::Answer | Role::Literal | Role::Bar => literally(),
            },
            None if batch.search.suffixes().may_compose(step) => match standing {
                // Its client has to be seen searching again: with this base, unless somebody is midway in its look-up.
                Standing::Due { patient } if !patient || !search.composed_lately(step.qname(), batch.now) => {
                    literally()
                }
                _ => Searched::Unknown,
            },
            None => {
                self.cells.event(Event::SearchByRule);
                Searched::Literally
            }
        }
    }

    #[inline]
    fn hit(
        &self,
        out: &mut [u8],
        asked: &Asked<'_>,
        entry: &Entry,
        level: Level,
        client: Client,
        batch: &Batch<'_>,
    ) -> Outcome {
        let (event, from) = match level {
            Level::Hot => (Event::HitHot, From::Hot),
            Level::Store => (Event::HitStore, From::Store),
        };
        self.cells.event(event);
        let said = entry.said();
        self.answered(asked, client, said.rcode, from, [batch.now_us; 2]);
        let length = reply::write(out, asked, &said, entry.age(batch.now));
        if level == Level::Hot
            && entry.is_due(batch.now)
            && let Some(prefetch) = self.prefetch(asked, entry, client.ip(), batch.now)
        {
            return Outcome::ReplyAndPrefetch(length, prefetch);
        }
        Outcome::Reply(length)
    }

    /// ANY is answered with addresses that are known, else with a word that it is not served (RFC 8482 section 4).
    ///
    /// Nothing is asked for it: clients that mean it (Java's JNDI, for A and AAAA at once) have mostly asked before.
    fn any(&self, out: &mut [u8], query: &Query<'_>, client: Client, batch: &Batch<'_>) -> Outcome {
        for qtype in [rtype::A, rtype::AAAA] {
            let question = Question { qtype, ..query.question };
            let (dnssec_ok, cd) = (query.dnssec_ok(), query.checking_disabled());
            let key =
                QueryKey::of(&question, dnssec_ok, cd, SearchListId::LITERAL, self.shared.cache.hasher());
            if let Some(entry) = self.shared.cache.peek(&key, batch.now)
                && entry.kind() == Kind::Data
            {
                return self.hit(out, &query.asked, &entry, Level::Store, client, batch);
            }
        }
        self.answered(&query.asked, client, Rcode::NOERROR, From::Query, [batch.now_us; 2]);
        Outcome::Reply(reply::write_hinfo(out, &query.asked))
    }

    fn refuse(
        &self,
        out: &mut [u8],
        asked: &Asked<'_>,
        rcode: Rcode,
        client: Client,
        batch: &Batch<'_>,
    ) -> Outcome {
        self.answered(asked, client, rcode, From::Query, [batch.now_us; 2]);
        Outcome::Reply(reply::write_error(out, asked, rcode, &[]))
    }

    /// Our half of a cookie, for a client that sent its own.
    #[inline]
    fn server_cookie(&self, asked: &Asked<'_>, client: Client, batch: &Batch<'_>) -> Option<[u8; 16]> {
        let theirs = asked.edns?.cookie?;
        let unix_s = self.shared.clock.unix_s(batch.now);
        Some(self.shared.cookies.server_cookie(theirs, client.ip(), unix_s))
    }
}

/// The part of a buffer that a reply may fill.
#[inline]
pub fn within<'o>(out: &'o mut [u8], asked: &Asked<'_>, proto: Proto) -> &'o mut [u8] {
    let limit = match (proto, asked.edns) {
        (Proto::Tcp, _) => MAX_MESSAGE,
        (Proto::Udp, Some(edns)) => usize::from(edns.udp_size.min(UDP_SIZE)),
        (Proto::Udp, None) => usize::from(PLAIN_UDP_SIZE),
    };
    let limit = limit.min(out.len());
    out.get_mut(..limit).unwrap_or_default()
}
