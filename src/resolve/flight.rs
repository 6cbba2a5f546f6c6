//! A question on its way: asked, its answer kept, everybody told who waits for it.

use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::time::Instant;

use crate::cache::entry::Entry;
use crate::upstream::admission::{Landing, Lead, Place};
use crate::upstream::exchange;
use crate::upstream::fairness::Refused;
use crate::upstream::standing::{Standing, Waiter};
use crate::upstream::zones::Zone;
use crate::upstream::{Class, Failure, Question, alarm};
use crate::wire::answer::{Answer, Kind};
use crate::wire::edns::extended_error;
use crate::wire::header::{Flags, Header};
use crate::wire::iana::{CLASS_IN, InfoCode, Rcode, rtype};

use super::miss::{Wanted, keep};
use super::{Resolver, cut};

/// How a flight ends: with what everybody gets, or refused.
pub type Landed = Result<Arc<Entry>, Refused>;

/// Polls a future; a panic ends it with nothing, and it is not to be polled again.
pub(super) fn poll_caught<F: Future + ?Sized>(
    future: Pin<&mut F>,
    context: &mut Context<'_>,
) -> Poll<Option<F::Output>> {
    match catch_unwind(AssertUnwindSafe(|| future.poll(context))) {
        Ok(polled) => polled.map(Some),
        Err(_) => Poll::Ready(None),
    }
}

/// A flight that is flown by whoever leads it, until it has landed: the client's task and the flight's are one, for as long as both are
/// there. Dropped before its end it flies on by itself.
pub(super) struct Led {
    flight: Option<Pin<Box<dyn Future<Output = ()>>>>,
    landing: Landing<Landed>,
}

impl Led {
    /// With where it lands.
    pub(super) fn new(flight: impl Future<Output = ()> + 'static, landing: Landing<Landed>) -> Led {
        Led { flight: Some(Box::pin(flight)), landing }
    }
}

impl Future for Led {
    type Output = Option<Landed>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(flight) = &mut self.flight {
            // A panic ends the flight; what led it has a client to answer.
            if poll_caught(flight.as_mut(), context).is_ready() {
                self.flight = None;
            }
        }
        self.landing.now().map_or(Poll::Pending, Poll::Ready)
    }
}

impl Drop for Led {
    fn drop(&mut self) {
        if let Some(flight) = self.flight.take() {
            tokio::task::spawn_local(flight);
        }
    }
}

/// Asks, keeps the answer, tells everybody who waits. Runs on when nobody does, so that the answer is there for the next, for
/// as long as the exchange lasts: the query resolution timer of RFC 8767 section 5.
pub(super) async fn fly(
    resolver: Rc<Resolver>,
    wanted: Rc<Wanted>,
    client: IpAddr,
    lead: Lead<Landed>,
    place: Option<Place>,
    class: Class,
) {
    let Wanted { key, question, .. } = &*wanted;
    let shared = &resolver.shared;
    let qtype = crate::wire::u16_at(&question.octets, question.qname().len()).unwrap_or(0);
    let keep = |answer: Answer| {
        cut::check(&resolver, key.qname(), qtype, answer.kind);
        keep(&resolver, key, answer, client)
    };
    // The flight before this one may have landed between the look-up and the join. What is not for a client replaces
    // what is known.
    if class == Class::Client
        && let Some(entry) = shared.cache.peek(key, shared.clock.now())
    {
        return lead.land(Ok(entry));
    }
    if has_come_back(&resolver, question) {
        return lead.land(Ok(keep(failure(question, Failure::Loop))));
    }
    let Some(zone) = shared.upstreams.zones.find(question.qname()) else {
        return lead.land(Ok(keep(failure(question, Failure::Unreachable))));
    };
    let standing = Arc::clone(lead.standing());
    let mut exchange = std::pin::pin!(exchange::ask(&*resolver.carrier, zone, question, &standing));
    let in_time = loop {
        let by = standing.over_by();
        match alarm::by(by, &mut exchange).await {
            Ok(ended) => break Some(ended),
            // Its turn came later than it could have, or somebody has joined who can wait for it for longer.
            Err(_) if standing.over_by() > by => {}
            Err(_) => break None,
        }
    };
    let suspect = match in_time {
        Some(Ok(answer)) => {
            let suspect = answer.kind == Kind::Failure && lead.is_suspect();
            lead.land(Ok(keep(answer)));
            suspect
        }
        // Refusals of our own say nothing about the name and are not kept.
        Some(Err(Failure::Refused(why))) => return lead.land(Err(why)),
        Some(Err(why)) => {
            let suspect = lead.is_suspect();
            lead.land(Ok(keep(failure(question, why))));
            suspect
        }
        None => {
            let suspect = lead.is_suspect();
            lead.land(Ok(keep(failure(question, Failure::TimedOut))));
            drop(place);
            // Without room it is not listened to any more: names whose servers are dead keep nobody's questions out.
            if let Ok(_place) = shared.late.enter(client)
                && let Ok(late) = exchange.await
                && late.kind != Kind::Failure
            {
                keep(late);
            }
            suspect
        }
    };
    if suspect {
        Box::pin(look_for_loop(&resolver, zone)).await;
    }
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
        Failure::TimedOut | Failure::Loop | Failure::Lame => InfoCode::NO_REACHABLE_AUTHORITY,
        Failure::Unreachable => InfoCode::NETWORK_ERROR,
        Failure::Refused(_) => InfoCode::OTHER,
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
    let Some(server) = resolver.shared.upstreams.nonces.came_back(question.qname(), Instant::now) else {
        return false;
    };
    server.health().loops(Instant::now());
    crate::error!(
        "upstream {} leads back to this process; it is left out for five minutes. Point it at another server",
        server.endpoint.addr
    );
    true
}

/// Sends each server of a zone a name that nobody can guess; see [`crate::upstream::loops`].
async fn look_for_loop(resolver: &Resolver, zone: &Zone) {
    for server in zone.servers().iter() {
        let label = resolver.shared.upstreams.nonces.issue(server, Instant::now(), rand::random());
        let Some(label) = label.filter(|_| zone.name.as_wire().len() + 33 <= 255) else { continue };
        let tail = [rtype::A.to_be_bytes(), CLASS_IN.to_be_bytes()].concat();
        let question = [&[32][..], &label, zone.name.as_wire(), &tail].concat();
        let standing = Standing::of(Waiter::ourselves(Class::Prefetch));
        exchange::probe(&*resolver.carrier, server, &question, &standing).await;
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::Waker;

    use super::*;

    #[test]
    fn a_panic_ends_a_future_with_nothing() {
        let mut context = Context::from_waker(Waker::noop());
        let mut panics = pin!(async {
            tokio::task::yield_now().await;
            assert_eq!(1, 2, "on purpose");
        });
        assert_eq!(poll_caught(panics.as_mut(), &mut context), Poll::Pending);
        assert_eq!(poll_caught(panics.as_mut(), &mut context), Poll::Ready(None));
        assert_eq!(poll_caught(pin!(async { 7 }), &mut context), Poll::Ready(Some(7)));
    }
}
