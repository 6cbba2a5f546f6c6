//! Answers in use that are asked for again before they end, so that nobody has to wait for them.
//!
//! A hit of the hot level in the last part of an answer's life claims its refresh, once; its worker asks behind the
//! reply, in the lowest class. What a search ends with is not asked for: of its parts those are that are
//! near their own ends, and the next walk finds them there.

use std::net::IpAddr;
use std::rc::Rc;

use super::miss::{self, Wanted};
use super::{Resolver, walk};
use crate::cache::entry::{Entry, Role};
use crate::cache::ttl::Moment;
use crate::observe::cells::Event;
use crate::upstream::Class;
use crate::wire::header::Flags;
use crate::wire::name::Name;
use crate::wire::question::Question;
use crate::wire::reply::Asked;

/// What is to be asked for again, and on whose behalf.
pub struct Prefetch {
    what: What,
    client: IpAddr,
}

enum What {
    /// An answer.
    Answer(Rc<Wanted>),
    /// The parts of what the search ends with that this name is the first step of.
    Search(Box<Name>),
}

impl Resolver {
    /// What the hit on an answer near its end leads to; nothing where somebody has claimed it.
    #[cold]
    pub(super) fn prefetch(
        &self,
        asked: &Asked<'_>,
        entry: &Entry,
        client: IpAddr,
        now: Moment,
    ) -> Option<Box<Prefetch>> {
        // RD=0 reads the cache and causes nothing.
        if !asked.flags.has(Flags::RD) || !entry.claim(now) {
            return None;
        }
        let question = Question::of(asked.question)?;
        let what = match entry.role() {
            Role::Composed { .. } => What::Search(Box::new(Name::from_wire(question.qname())?.to_lower())),
            _ => What::Answer(Wanted::asked(self, asked, &question)),
        };
        Some(Box::new(Prefetch { what, client }))
    }
}

/// Asks, where nobody waits.
pub async fn ahead(resolver: Rc<Resolver>, prefetch: Box<Prefetch>) {
    let Prefetch { what, client } = *prefetch;
    let ask = |wanted| {
        if miss::begin(&resolver, wanted, client, Class::Prefetch) {
            resolver.cells.event(Event::Prefetched);
        }
    };
    match what {
        What::Answer(wanted) => ask(wanted),
        What::Search(qname) => walk::parts(&resolver, &qname).into_iter().for_each(ask),
    }
}
