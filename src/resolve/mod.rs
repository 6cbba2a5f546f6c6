//! The conductor: a query's way from hop to hop. [`hit`] is a plain call, [`miss`] waits; both read top to bottom. [`stale`] is
//! what goes out where nothing newer can be had, [`prefetch`] what is asked for before it ends.

pub mod cookie;
pub mod cut;
pub mod flight;
pub mod hit;
pub mod learning;
pub mod miss;
pub mod prefetch;
pub mod stale;
pub mod walk;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tokio::time::Instant;

use crate::cache::Cache;
use crate::cache::hot::HotPin;
use crate::cache::ttl::Moment;
use crate::clock::Clock;
use crate::observe::cells::Cells;
use crate::observe::ring::{Answered, From};
use crate::query::{Family, Proto};
use crate::search::learner::Note;
use crate::search::{Search, SearchPin};
use crate::upstream::admission::{Flights, Gate};
use crate::upstream::{Carrier, Upstreams};
use crate::wire::iana::Rcode;
use crate::wire::question::Question;
use crate::wire::reply::Asked;

/// What all workers share.
pub struct Shared {
    /// The answers.
    pub cache: Cache,
    /// The servers.
    pub upstreams: Upstreams,
    /// Questions on their way.
    pub flights: Arc<Flights<flight::Landed>>,
    /// Walks through search lists on their way.
    pub walks: Arc<Flights<walk::Walked>>,
    /// Who searches, and what is known of it.
    pub search: Search,
    /// Who waits for them.
    pub waiting: Arc<Gate>,
    /// Bounds the questions that nobody waits for any more and whose late answers would still be taken.
    pub late: Arc<Gate>,
    /// The time.
    pub clock: Clock,
    /// What server cookies are made with.
    pub cookies: cookie::Secret,
}

/// One worker's view of it all.
pub struct Resolver {
    /// What it shares with the others.
    pub shared: Arc<Shared>,
    /// What carries its questions to the servers.
    pub carrier: Box<dyn Carrier>,
    /// Its counters.
    pub cells: Arc<Cells>,
    /// Where it notes what clients ask, if search lists are learned.
    pub notebook: Option<learning::Notebook>,
}

/// Who asks, and how.
#[derive(Clone, Copy, Debug)]
pub struct Client {
    /// Its address and port.
    pub addr: SocketAddr,
    /// How it is spoken to.
    pub proto: Proto,
}

impl Client {
    /// The address, with IPv4 addresses on an IPv6 socket as what they are.
    pub fn ip(&self) -> IpAddr {
        self.addr.ip().to_canonical()
    }

    fn family(&self) -> Family {
        if self.ip().is_ipv4() { Family::V4 } else { Family::V6 }
    }
}

/// What a batch of queries shares: one pin of what it is looked up in and one reading of the clock.
pub struct Batch<'s> {
    pin: HotPin<'s>,
    search: SearchPin<'s>,
    now: Moment,
    now_us: u64,
}

impl Resolver {
    /// Begins a batch.
    #[inline]
    pub fn batch(&self) -> Batch<'_> {
        let now_us = self.shared.clock.now_us();
        let (pin, search) = (self.shared.cache.pin(), self.shared.search.pin());
        Batch { pin, search, now: Moment(now_us / 1000), now_us }
    }

    /// When a batch began.
    pub fn began(&self, batch: &Batch<'_>) -> Instant {
        self.shared.clock.instant(batch.now_us)
    }

    /// Counts and notes an answer; it was asked for at one time and is given at another.
    #[inline]
    fn answered(
        &self,
        asked: &Asked<'_>,
        client: Client,
        rcode: Rcode,
        from: From,
        [asked_us, at_us]: [u64; 2],
    ) {
        let took_us = u32::try_from(at_us - asked_us.min(at_us)).unwrap_or(u32::MAX);
        let (question, Client { proto, .. }) = (asked.question, client);
        self.cells.answered(&Answered { at_us, took_us, client: client.ip(), proto, rcode, from, question });
    }

    /// Notes a question that was answered, where it may show its client's search list.
    #[inline]
    fn note(
        &self,
        search: &SearchPin<'_>,
        question: &Question<'_>,
        denied: bool,
        client: IpAddr,
        asked_us: u64,
        answered_us: u64,
    ) {
        if let Some(notebook) = &self.notebook
            && search.wants_note(question, denied, client, Moment(answered_us / 1000))
        {
            let (qname, qtype) = (question.qname(), question.qtype);
            notebook.add(Note::new(qname, qtype, denied, client, asked_us, answered_us));
        }
    }
}

#[cfg(test)]
mod prefetch_scenarios;
#[cfg(test)]
mod scenarios;
#[cfg(test)]
mod search_scenarios;
#[cfg(test)]
mod stale_scenarios;
