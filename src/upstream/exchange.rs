//! Hop 7: one question, tried with the servers of its zone until one answers it.
//!
//! Each packet has its turn first, from the budget of the servers it goes to. A try that is not answered stays open
//! while the next goes out: a late reply is as good as an early one. Where the first server is later than it mostly is, a second is asked
//! before the first is given up, if the budget has room for it. What the servers say is judged in `tries`.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::alarm::{self, Alarm};
use super::group::{Turn, What};
use super::health::{Server, Transport};
use super::inbox::inbox;
use super::standing::Standing;
use super::tries::{Tries, Verdict};
use super::udp::Arrivals;
use super::zones::{Servers, Zone};
use super::{Carrier, Failure, Question};
use crate::wire::answer::Answer;
use crate::wire::edns;

/// Packets one question may cost. Where a tenth is lost each way, five tries leave 2 in 10,000 unanswered.
pub const MAX_TRIES: usize = 5;
/// How long a try waits before the next goes out beside it.
pub const TRY_TIMEOUT: Duration = Duration::from_millis(350);
/// No try begins after this: whoever asked has had an answer by then.
pub const DEADLINE: Duration = Duration::from_millis(1900);
/// A reply that comes until then still fills the cache.
pub const LATE: Duration = Duration::from_secs(6);

/// Asks the servers of a zone, on behalf of all who wait.
///
/// # Errors
/// [`Failure`] where none of them gave an answer that could be passed on.
pub async fn ask(
    carrier: &dyn Carrier,
    zone: &Zone,
    question: &Question,
    standing: &Arc<Standing>,
) -> Result<Answer, Failure> {
    let start = Instant::now();
    let servers = order(&zone.servers(), start);
    let Some(first) = servers.first() else { return Err(Failure::Loop) };
    // Alone there is no second to ask; a stream repeats what is lost by itself.
    let has_second = servers.len() > 1 && first.endpoint.transport == Transport::Udp;
    let mut hedge_after = first.health().p95().filter(|p95| has_second && *p95 < TRY_TIMEOUT);
    let (exchange, mut arrived) = inbox();
    let mut tries = Tries::new(carrier, zone, question, standing, servers, exchange, start);
    tries.first(start)?;
    let (end, mut alarm) = (start + LATE, Alarm::at(start + LATE));
    loop {
        let hedge_at = hedge_after.and_then(|after| Some(tries.begun()? + after));
        alarm.move_to(hedge_at.or_else(|| tries.due()).map_or(end, |due| due.min(end)));
        tokio::select! {
            biased;
            (number, arrival) = arrived.next() => match tries.judge(number, arrival) {
                Verdict::Answer(answer) => return Ok(answer),
                Verdict::Next => {
                    hedge_after = None;
                    tries.next();
                }
                Verdict::Wait => {}
            },
            turn = tries.turn(), if tries.is_waiting() => tries.had_turn(turn)?,
            () = &mut alarm => match hedge_at {
                _ if Instant::now() >= end => return tries.give_up(),
                Some(_) => {
                    hedge_after = None;
                    tries.hedge();
                }
                None => tries.timed_out(),
            },
        }
        if tries.is_over() {
            return tries.give_up();
        }
    }
}

/// Sends one question to one server, in its turn, and waits a while for whatever comes of it; nobody reads the reply.
pub async fn probe(carrier: &dyn Carrier, server: &Arc<Server>, question: &[u8], standing: &Arc<Standing>) {
    let (exchange, mut arrived) = inbox();
    let query = edns::upstream_query(0, question, false, false, false);
    let spot = server
        .group
        .spot(server.number, question.get(..question.len().saturating_sub(4)).unwrap_or_default());
    let over = server.endpoint.transport;
    let _permit = match server.group.ask(standing, spot, What::Question, over != Transport::Udp) {
        Turn::Now(permit) => permit,
        Turn::Wait(mut wait) => match wait.turn().await {
            Ok(permit) => permit,
            Err(_) => return,
        },
        Turn::No(_) => return,
    };
    server.asked(over);
    if over != Transport::Udp {
        let _ = alarm::by(Instant::now() + DEADLINE, carrier.stream(server, query, question.to_vec())).await;
    } else if let Ok(_ticket) = carrier.datagram(server, query, question, Arrivals { exchange, number: 0 }) {
        let _ = alarm::by(Instant::now() + DEADLINE, pin!(arrived.next())).await;
    }
}

/// The servers in the order they are tried: of two at random the one that is likely to answer sooner first, those that fail last, those
/// that lead back here not at all. A server of last resort comes third, or before those that fail.
pub(super) fn order(servers: &Servers, now: Instant) -> Vec<Arc<Server>> {
    let may_ask = |server: &&Arc<Server>| !server.health().is_loop(now);
    let mut order: Vec<_> = servers.members.iter().filter(may_ask).cloned().collect();
    for index in (1..order.len()).rev() {
        order.swap(index, rand::random_range(0..=index));
    }
    order.sort_by_key(|server| server.health().is_avoided(now));
    if let [first, second, ..] = order.as_mut_slice() {
        let is_one_line = Arc::ptr_eq(&first.group, &second.group);
        let cost = |server: &Server| {
            let has_line = !is_one_line && server.group.has_line();
            let health = server.health();
            (health.is_avoided(now), has_line, health.cost())
        };
        if cost(second) < cost(first) {
            std::mem::swap(first, second);
        }
    }
    for resort in servers.last_resort.iter().filter(may_ask) {
        let well = order.iter().take_while(|server| !server.health().is_avoided(now)).count();
        let place = if resort.health().is_avoided(now) { order.len() } else { well.min(2) };
        order.insert(place, Arc::clone(resort));
    }
    // One question tries a member again that has been left alone for long enough.
    let is_again = |server: &Arc<Server>| {
        let is_member = servers.members.iter().any(|member| member.number == server.number);
        is_member && server.health().is_tried_again(now)
    };
    if order.len() > 1
        && let Some(again) = order.iter().position(is_again)
        && let Some(up_to_it) = order.get_mut(..=again)
    {
        up_to_it.rotate_right(1);
    }
    order
}

#[cfg(test)]
#[path = "exchange_tests.rs"]
mod tests;
