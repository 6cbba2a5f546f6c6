//! The walk through a client's search list, top to bottom: the question itself, the cluster's candidates together, then
//! all others together, always for A and AAAA both; what it ends with is kept for both.

use std::cell::OnceCell;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::cache::Given;
use crate::cache::entry::{Entry, Role};
use crate::cache::key::{QueryKey, SearchListId};
use crate::cache::ttl::Moment;
use crate::observe::cells::Event;
use crate::search::compose::compose;
use crate::search::list::CLUSTER_CANDIDATES;
use crate::search::walk::{Decision, Known, decide};
use crate::search::{UNSETTLED, WALK};
use crate::upstream::Class;
use crate::upstream::admission::{Joined, Lead};
use crate::upstream::exchange;
use crate::upstream::standing::{Standing, Waiter};
use crate::wire::answer::{Answer, Kind};
use crate::wire::edns::PLAIN_UDP_SIZE;
use crate::wire::iana::{CLASS_IN, rtype};
use crate::wire::name::Name;
use crate::wire::question::Question;

use super::Resolver;
use super::miss::{self, Wanted};
use super::stale::{CLIENT_RESPONSE, stale_error};

/// A and AAAA, in this order wherever two of something stand for a name.
const FAMILIES: [u16; 2] = [rtype::A, rtype::AAAA];

/// For how long a family that nobody could tell is taken to fail (RFC 9520 section 3.2).
const FAILED: Duration = Duration::from_secs(1);

/// What a walk ended with, for both families.
#[derive(Clone)]
pub enum Walked {
    /// The composed answers.
    Composed([Arc<Entry>; 2]),
    /// The question is to be taken literally; with the literal answers as far as the walk has them, so that one that may
    /// not be kept is not asked for twice.
    Literally(Both),
}

/// What a name's two families have; nothing where it was refused or given up.
type Both = [Option<Given>; 2];

/// What a walk ended with for one family.
pub enum Found {
    /// See [`Walked::Composed`].
    Composed(Arc<Entry>),
    /// See [`Walked::Literally`].
    Literally(Option<Given>),
}

/// The answer to a step: joins the walk of an equal step, or begins one.
pub async fn walked(resolver: &Rc<Resolver>, qname: &Name, qtype: u16, client: IpAddr) -> Found {
    let shared = &resolver.shared;
    let Ok(_place) = shared.waiting.enter(client) else { return Found::Literally(None) };
    let landing = match shared.walks.join(qname.as_wire(), false) {
        Joined::Follow(landing) => landing,
        Joined::Lead(lead, landing) => {
            let walk = Walk {
                resolver: Rc::clone(resolver),
                qname: *qname,
                client,
                respond_by: Instant::now() + CLIENT_RESPONSE,
                own: OnceCell::new(),
            };
            tokio::task::spawn_local(walk.lead(lead));
            landing
        }
    };
    match landing.wait().await {
        Some(Walked::Composed([v4, v6])) => Found::Composed(if qtype == rtype::A { v4 } else { v6 }),
        Some(Walked::Literally([v4, v6])) => Found::Literally(if qtype == rtype::A { v4 } else { v6 }),
        None => Found::Literally(None),
    }
}

struct Walk {
    resolver: Rc<Resolver>,
    qname: Name,
    client: IpAddr,
    /// From when on a step is given what is stale, for all steps together.
    respond_by: Instant,
    /// What the question itself has.
    own: OnceCell<Both>,
}

/// How a walk ends, with everything that says so.
struct End {
    decision: Decision,
    /// The answers that have to stay as they are.
    rests_on: Vec<Given>,
    /// The candidate that decided, and what it has.
    found: Option<(Name, Both)>,
}

impl Walk {
    /// Walks in time, or lets the literal answer go out and walks on to fill the cache.
    async fn lead(self, lead: Lead<Walked>) {
        let deadline = Instant::now() + WALK;
        let mut walking = std::pin::pin!(self.walk());
        match timeout_at(deadline, &mut walking).await {
            Ok(end) => {
                let walked = self.settle(end);
                lead.land(walked);
            }
            Err(_) => {
                self.resolver.cells.event(Event::SearchLate);
                self.stay_literal(UNSETTLED);
                lead.land(self.literally());
                let _ = walking.await;
            }
        }
    }

    async fn walk(&self) -> End {
        let Some(step) = self.resolver.shared.search.suffixes().step(self.qname.as_wire()) else {
            return End { decision: Decision::Undecided, rests_on: vec![], found: None };
        };
        let search = &self.resolver.shared.search;
        let mut rests_on = Vec::new();

        // The literal answer, and what a pod of this name would be below: both must not exist.
        let parent = step.parent();
        let own = async {
            let own = self.both(Some(self.qname)).await;
            self.own.get_or_init(|| own).clone()
        };
        let (own, above) = tokio::join!(own, self.both_or_none(parent));
        let mut denied = vec![known(&own)];
        rests_on.extend(own.iter().flatten().cloned());
        if let Some(above) = above {
            denied.push(known(&above));
            rests_on.extend(above.iter().flatten().cloned());
        }
        let has_alias = own.iter().flatten().any(|entry| entry.has_answers());
        let existed = parent.is_some_and(|parent| search.has_existed(&parent));
        if has_alias
            || existed
            || denied
                .iter()
                .any(|known| known.contains(&Some(Kind::Data)) || known.contains(&Some(Kind::NoData)))
        {
            return End { decision: Decision::HostDomain, rests_on, found: None };
        }
        if denied.iter().any(|known| *known != [Some(Kind::NxDomain); 2]) {
            return End { decision: Decision::Undecided, rests_on, found: None };
        }

        let names = search.suffixes().candidates(&step);
        let mut seen: Vec<Both> = Vec::new();
        let mut decision = None;
        for stage in [names.get(..CLUSTER_CANDIDATES), names.get(CLUSTER_CANDIDATES..)] {
            seen.extend(self.all(stage.unwrap_or_default()).await);
            let knowns: Vec<Known> = seen.iter().map(known).collect();
            decision = decide(&knowns, names.len());
            if decision.is_some() {
                break;
            }
        }
        let decision = decision.unwrap_or(Decision::Undecided);
        let mut found = None;
        for (index, (name, both)) in names.iter().zip(seen).enumerate() {
            if decision == Decision::Compose(index)
                && let Some(name) = name
            {
                found = Some((*name, self.retried(name, both).await));
                break;
            }
            rests_on.extend(both.iter().flatten().cloned());
        }
        End { decision, rests_on, found }
    }

    /// Several names at once.
    async fn all(&self, names: &[Option<Name>]) -> Vec<Both> {
        let mut asked = tokio::task::JoinSet::new();
        for (index, name) in names.iter().enumerate() {
            let (resolver, client, respond_by, name) =
                (Rc::clone(&self.resolver), self.client, self.respond_by, *name);
            asked.spawn_local(async move { (index, both(&resolver, name, client, respond_by).await) });
        }
        let mut all: Vec<Both> = names.iter().map(|_| [None, None]).collect();
        while let Some(ended) = asked.join_next().await {
            if let Ok((index, both)) = ended
                && let Some(place) = all.get_mut(index)
            {
                *place = both;
            }
        }
        all
    }

    async fn both(&self, name: Option<Name>) -> Both {
        both(&self.resolver, name, self.client, self.respond_by).await
    }

    async fn both_or_none(&self, name: Option<Name>) -> Option<Both> {
        match name {
            Some(name) => Some(self.both(Some(name)).await),
            None => None,
        }
    }

    /// A family that failed where the other did not gets one retry, past the failure that is remembered.
    async fn retried(&self, name: &Name, both: Both) -> Both {
        let [v4, v6] = both;
        let again = async |given: Option<Given>, qtype| match given {
            Some(good) if good.kind() != Kind::Failure => Some(good),
            failed => self.ask_again(name, qtype).await.or(failed),
        };
        let (v4, v6) = tokio::join!(again(v4, rtype::A), again(v6, rtype::AAAA));
        [v4, v6]
    }

    async fn ask_again(&self, name: &Name, qtype: u16) -> Option<Given> {
        let shared = &self.resolver.shared;
        let _place = shared.waiting.enter(self.client).ok()?;
        let wanted = Wanted::of(&self.resolver, name, qtype);
        let zone = shared.upstreams.zones.find(wanted.question.qname())?;
        let waiter = Waiter { client: self.client, class: Class::Retry, deadline: Instant::now() + WALK };
        let standing = Standing::of(waiter);
        let asked = exchange::ask(&*self.resolver.carrier, zone, &wanted.question, &standing);
        let answer = tokio::time::timeout(WALK, asked).await.ok()?.ok()?;
        Some(Given::fresh(miss::keep(&self.resolver, &wanted.key, answer, self.client)))
    }

    /// Keeps what a walk ended with, for both families at once.
    fn settle(&self, end: End) -> Walked {
        let (shared, now) = (&self.resolver.shared, self.resolver.shared.clock.now());
        let lifetime = lifetime(&end.rests_on, now);
        let (event, literal_for) = match (end.decision, end.found) {
            (Decision::Compose(index), Some((target, both))) => {
                // Both families end together: a look-up gets both from one walk.
                let own =
                    both.iter().map(|found| found.as_ref().map_or(FAILED, |found| found.serves_for(now)));
                let lifetime = own.chain([lifetime]).min().unwrap_or(FAILED);
                match self.compose(&target, &both, lifetime, now) {
                    None => (Event::SearchTooLong, lifetime),
                    Some(_)
                        if shared.search.has_changed(
                            self.qname.as_wire(),
                            index as u8,
                            now.after(lifetime),
                        ) =>
                    {
                        (Event::SearchUndecided, UNSETTLED)
                    }
                    Some(answers) => {
                        self.resolver.cells.event(Event::SearchComposed);
                        shared.search.count_composed(self.qname.as_wire());
                        return self.keep(index, answers, &both, &end.rests_on, lifetime, now);
                    }
                }
            }
            (Decision::HostDomain, _) => (Event::SearchExists, lifetime),
            (Decision::NoneFound, _) => (Event::SearchNoneFound, lifetime),
            (Decision::Undecided | Decision::Compose(_), _) => (Event::SearchUndecided, UNSETTLED),
        };
        self.resolver.cells.event(event);
        self.stay_literal(literal_for);
        self.literally()
    }

    fn literally(&self) -> Walked {
        Walked::Literally(self.own.get().cloned().unwrap_or_default())
    }

    /// The composed answers of both families; nothing where one of them would not fit into a datagram without EDNS: a
    /// client without TCP would get fewer addresses than from the shorter answer that its own search ends with.
    fn compose(&self, target: &Name, both: &Both, lifetime: Duration, now: Moment) -> Option<[Answer; 2]> {
        let [v4, v6] = FAMILIES;
        let make = |found: &Option<Given>, qtype| {
            let answer = compose(&self.qname, qtype, target, found.as_ref(), lifetime, now)?;
            (answer.wire.len() <= usize::from(PLAIN_UDP_SIZE)).then_some(answer)
        };
        Some([make(&both[0], v4)?, make(&both[1], v6)?])
    }

    fn keep(
        &self,
        index: usize,
        mut answers: [Answer; 2],
        both: &Both,
        rests_on: &[Given],
        lifetime: Duration,
        now: Moment,
    ) -> Walked {
        let shared = &self.resolver.shared;
        let bucket = shared.cache.bucket(self.client);
        // Steps of the client's search from the next one to the one that this answers.
        let saved = u8::try_from(index + 1).unwrap_or(u8::MAX);
        let all = || rests_on.iter().chain(both.iter().flatten());
        if all().any(|given| given.is_stale) {
            for answer in &mut answers {
                answer.ede.splice(..0, stale_error(answer.kind));
            }
        }
        let entries = |given: &Given| Arc::clone(&given.entry);
        let parts: Vec<_> = both.iter().flatten().map(entries).collect();
        let rests_on: Vec<_> = all().map(entries).collect();
        let put = |answer: &Answer, qtype| {
            let key = self.key(qtype);
            let entry = Entry::composed(&key, answer, lifetime, saved, bucket, parts.clone(), now);
            let kept = shared.cache.put(&key, entry, &rests_on, now);
            matches!(kept.role(), Role::Composed { .. }).then_some(kept)
        };
        let [v4, v6] = &answers;
        match (put(v4, rtype::A), put(v6, rtype::AAAA)) {
            (Some(v4), Some(v6)) => Walked::Composed([v4, v6]),
            _ => self.literally(),
        }
    }

    /// The question and its other family are answered literally for a while.
    fn stay_literal(&self, lifetime: Duration) {
        let (shared, now) = (&self.resolver.shared, self.resolver.shared.clock.now());
        let bucket = shared.cache.bucket(self.client);
        for qtype in FAMILIES {
            let key = self.key(qtype);
            shared.cache.put(&key, Entry::literal(&key, Role::Literal, lifetime, bucket, now), &[], now);
        }
    }

    fn key(&self, qtype: u16) -> QueryKey {
        searched_key(&self.resolver, &self.qname, qtype)
    }
}

/// Both families of a name; nothing of one that would be too long.
async fn both(resolver: &Rc<Resolver>, name: Option<Name>, client: IpAddr, respond_by: Instant) -> Both {
    let Some(name) = name else { return [None, None] };
    let one = |qtype| miss::obtain(resolver, Wanted::of(resolver, &name, qtype), client, respond_by);
    let (v4, v6) = tokio::join!(one(rtype::A), one(rtype::AAAA));
    [v4.ok(), v6.ok()]
}

/// The key of what a search ends with.
pub fn searched_key(resolver: &Resolver, qname: &Name, qtype: u16) -> QueryKey {
    let octets = [qname.as_wire(), &qtype.to_be_bytes(), &CLASS_IN.to_be_bytes()].concat();
    let question = Question { octets: &octets, qtype, qclass: CLASS_IN };
    QueryKey::of(&question, false, false, SearchListId::SEARCHED, resolver.shared.cache.hasher())
}

/// Of what a walk from this name asks for, that which is near its end and in nobody's hands yet; now it is in the caller's.
pub fn parts(resolver: &Resolver, qname: &Name) -> Vec<Rc<Wanted>> {
    let (shared, now) = (&resolver.shared, resolver.shared.clock.now());
    let suffixes = shared.search.suffixes();
    let Some(step) = suffixes.step(qname.as_wire()) else { return vec![] };
    let names = [Some(*qname), step.parent()].into_iter().chain(suffixes.candidates(&step)).flatten();
    let wanted = names.flat_map(|name| FAMILIES.map(|qtype| Wanted::of(resolver, &name, qtype)));
    let is_near = |wanted: &Rc<Wanted>| {
        let part = shared.cache.peek(&wanted.key, now);
        part.is_some_and(|part| part.claim(now))
    };
    wanted.filter(is_near).collect()
}

fn known(both: &Both) -> Known {
    both.each_ref().map(|given| given.as_ref().map(|given| given.kind()))
}

/// Until the first denial ends that something rests on.
fn lifetime(rests_on: &[Given], now: Moment) -> Duration {
    let denials = rests_on.iter().filter(|given| given.kind() != Kind::Data);
    denials.map(|given| given.serves_for(now)).min().unwrap_or(UNSETTLED)
}
