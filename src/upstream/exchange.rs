//! Hop 7: one question, tried with the servers of its zone until one answers it.
//!
//! A try that is not answered stays open while the next goes out: a late reply is as good as an early one. What
//! the servers say decides at once where it can: data or a denial ends the exchange, a failure moves it
//! to the next server, a refusal by the network too, truncation and a change of letter case go to TCP.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};

use super::health::{Server, Transport, TryFailure};
use super::udp::{Arrival, Arrivals};
use super::zones::{Servers, Zone};
use super::{Carrier, Failure, Question, Ticket, matching};
use crate::wire::answer::{Answer, Kind, lower_question};
use crate::wire::edns;
use crate::wire::header::{Flags, HEADER_LEN, Header};
use crate::wire::iana::Rcode;

/// Packets one question may cost. Where a tenth is lost each way, five tries leave 2 in 10,000 unanswered.
pub const MAX_TRIES: usize = 5;
/// Streams of these to one server: a connection may be reset once, a server that resets each is none.
const MAX_STREAMS: usize = 2;
/// How long a try waits before the next goes out beside it.
pub const TRY_TIMEOUT: Duration = Duration::from_millis(350);
/// No try begins after this: whoever asked has had an answer by then.
pub const DEADLINE: Duration = Duration::from_millis(1900);
/// A reply that comes until then still fills the cache.
pub const LATE: Duration = Duration::from_secs(6);
/// Messages of one exchange that wait to be judged.
const ARRIVALS: usize = 8;

/// Asks the servers of a zone.
///
/// # Errors
/// [`Failure`] where none of them gave an answer that could be passed on.
pub async fn ask(carrier: &dyn Carrier, zone: &Zone, question: &Question) -> Result<Answer, Failure> {
    let start = Instant::now();
    let servers = order(&zone.servers(), start);
    if servers.is_empty() {
        return Err(Failure::Loop);
    }
    let (exchange, mut arrived) = mpsc::channel(ARRIVALS);
    let mut tries =
        Tries { carrier, zone, question, servers, exchange, made: vec![], weak: None, refused: 0 };
    tries.make_next();
    let mut next_at = start + TRY_TIMEOUT;
    loop {
        let more = tries.may_try() && next_at < start + DEADLINE;
        tokio::select! {
            biased;
            Some((number, arrival)) = arrived.recv() => match tries.judge(number, arrival) {
                Verdict::Answer(answer) => return Ok(answer),
                Verdict::Next => {
                    tries.make_next();
                    next_at = Instant::now() + TRY_TIMEOUT;
                }
                Verdict::Wait => {}
            },
            () = sleep_until(next_at), if more => {
                tries.timed_out();
                tries.make_next();
                next_at += TRY_TIMEOUT;
            }
            () = sleep_until(start + LATE) => return tries.give_up(),
        }
        if tries.is_over(next_at >= start + DEADLINE) {
            return tries.give_up();
        }
    }
}

/// Sends one question to one server and waits a while for whatever comes of it; nobody reads the reply.
pub async fn probe(carrier: &dyn Carrier, server: &Arc<Server>, question: &[u8]) {
    let (exchange, mut arrived) = mpsc::channel(1);
    let query = edns::upstream_query(0, question, false, false, false);
    let over = server.endpoint.transport;
    server.asked(over);
    if over != Transport::Udp {
        let _ = timeout(DEADLINE, carrier.stream(server, query, question.to_vec())).await;
    } else if let Ok(_ticket) = carrier.datagram(server, query, question, Arrivals { exchange, number: 0 }) {
        let _ = timeout(DEADLINE, arrived.recv()).await;
    }
}

/// The servers in the order they are tried: of two at random the faster first, those that fail last, those that
/// lead back here not at all. A server of last resort comes third, or before those that fail.
fn order(servers: &Servers, now: Instant) -> Vec<Arc<Server>> {
    let may_ask = |server: &&Arc<Server>| !server.health().is_loop(now);
    let mut order: Vec<_> = servers.members.iter().filter(may_ask).cloned().collect();
    for index in (1..order.len()).rev() {
        order.swap(index, rand::random_range(0..=index));
    }
    order.sort_by_key(|server| server.health().is_avoided(now));
    if let [first, second, ..] = order.as_mut_slice() {
        let cost = |server: &Server| {
            let health = server.health();
            (health.is_avoided(now), health.latency().unwrap_or_default())
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
    order
}

enum Verdict {
    Answer(Answer),
    Next,
    Wait,
}

/// What is known of a try.
struct Made {
    server: Arc<Server>,
    over: Transport,
    sent: Vec<u8>,
    at: Instant,
    with_edns: bool,
    /// The server's reply in other letter case, until TCP confirms or denies it.
    held: Option<Vec<u8>>,
    open: bool,
    counted: bool,
    _wait: Option<Wait>,
}

/// What ends with the try.
enum Wait {
    Udp { _ticket: Ticket },
    Tcp(JoinHandle<()>),
}

impl Drop for Wait {
    fn drop(&mut self) {
        if let Wait::Tcp(task) = self {
            task.abort();
        }
    }
}

struct Tries<'o> {
    carrier: &'o dyn Carrier,
    zone: &'o Zone,
    question: &'o Question,
    servers: Vec<Arc<Server>>,
    exchange: mpsc::Sender<(usize, Arrival)>,
    made: Vec<Made>,
    weak: Option<Answer>,
    refused: usize,
}

impl Tries<'_> {
    fn may_try(&self) -> bool {
        self.made.len() < MAX_TRIES && !self.servers.is_empty()
    }

    /// Nothing is open and nothing more will be sent.
    fn is_over(&self, too_late: bool) -> bool {
        let open = self.made.iter().any(|made| made.open);
        !open && (too_late || !self.may_try())
    }

    fn give_up(&mut self) -> Result<Answer, Failure> {
        self.timed_out();
        match self.weak.take() {
            Some(answer) => Ok(answer),
            None if self.refused > 0 && self.refused >= self.made.len() => Err(Failure::Unreachable),
            None => Err(Failure::TimedOut),
        }
    }

    /// Tries the next server in turn. One that has left the zone meanwhile is asked nothing more.
    fn make_next(&mut self) {
        if !self.may_try() {
            return;
        }
        self.servers.rotate_left(usize::from(!self.made.is_empty()));
        self.servers.retain(|server| self.zone.has(server));
        if self.servers.is_empty() {
            self.servers = order(&self.zone.servers(), Instant::now());
        }
        if let Some(server) = self.servers.first().cloned() {
            let over = server.endpoint.transport;
            self.make(server, over, None);
        }
    }

    /// Asks the server again in another way, or the next one where it has left the zone meanwhile.
    fn make_again(&mut self, server: Arc<Server>, over: Transport, held: Option<Vec<u8>>) {
        match self.zone.has(&server) {
            true => self.make(server, over, held),
            false => self.make_next(),
        }
    }

    fn make(&mut self, server: Arc<Server>, over: Transport, held: Option<Vec<u8>>) {
        let (number, now) = (self.made.len(), Instant::now());
        let (with_edns, mixed) = {
            let health = server.health();
            (health.takes_edns(now), over == Transport::Udp && health.mixes_case(now))
        };
        let mut sent = self.question.octets.to_vec();
        if mixed {
            matching::mix_case(&mut sent, rand::random);
        }
        let Question { dnssec_ok, checking_disabled, .. } = *self.question;
        let query = edns::upstream_query(0, &sent, dnssec_ok, checking_disabled, with_edns);
        server.asked(over);
        let wait = match over {
            Transport::Udp => self.send(&server, query, &sent, number),
            Transport::Tcp | Transport::Tls | Transport::Https => {
                Some(self.stream(&server, query, sent.clone(), number))
            }
        };
        let open = wait.is_some();
        self.made.push(Made {
            server,
            over,
            sent,
            at: now,
            with_edns,
            held,
            open,
            counted: false,
            _wait: wait,
        });
    }

    fn send(&mut self, server: &Arc<Server>, query: Vec<u8>, sent: &[u8], number: usize) -> Option<Wait> {
        let arrivals = Arrivals { exchange: self.exchange.clone(), number };
        match self.carrier.datagram(server, query, sent, arrivals) {
            Ok(ticket) => Some(Wait::Udp { _ticket: ticket }),
            Err(_) => {
                server.failed(TryFailure::Unreachable, Instant::now());
                self.refused += 1;
                None
            }
        }
    }

    fn stream(&self, server: &Arc<Server>, query: Vec<u8>, sent: Vec<u8>, number: usize) -> Wait {
        let reply = self.carrier.stream(server, query, sent);
        let exchange = self.exchange.clone();
        Wait::Tcp(tokio::task::spawn_local(async move {
            let arrival = match timeout(LATE, reply).await {
                Ok(Ok(message)) => Arrival::Reply(message),
                Ok(Err(error)) => Arrival::Refused(error.kind()),
                Err(_) => return,
            };
            let _ = exchange.send((number, arrival)).await;
        }))
    }

    /// Counts the tries that have waited for their time.
    fn timed_out(&mut self) {
        let now = Instant::now();
        let late = |made: &&mut Made| made.open && !made.counted && made.at + TRY_TIMEOUT <= now;
        for made in self.made.iter_mut().filter(late) {
            made.counted = true;
            made.server.failed(TryFailure::Timeout, now);
        }
    }

    fn judge(&mut self, number: usize, arrival: Arrival) -> Verdict {
        let now = Instant::now();
        let Some(made) = self.made.get_mut(number) else { return Verdict::Wait };
        let server = Arc::clone(&made.server);
        match arrival {
            Arrival::Unmatched => {
                server.failed(TryFailure::Unmatched, now);
                Verdict::Wait
            }
            Arrival::Refused(_) if !made.open => Verdict::Wait,
            Arrival::Refused(_) => self.refused(number, now),
            Arrival::CaseDiffers(message) => self.case_differs(number, message, now),
            Arrival::Reply(message) => self.reply(number, message, now),
        }
    }

    fn refused(&mut self, number: usize, now: Instant) -> Verdict {
        let Some(made) = self.made.get_mut(number) else { return Verdict::Wait };
        made.open = false;
        made.server.failed(TryFailure::Unreachable, now);
        self.refused += 1;
        // Without TCP there is no second opinion on letter case; a server that never echoed it is believed as
        // one that is asked in lower case would be.
        if let Some(held) = made.held.take()
            && !made.server.health().trusts_case()
        {
            return self.reply(number, held, now);
        }
        // A server that refused is not asked again at once, only in its turn: a port that is closed for a
        // moment costs one try, and one that stays closed no storm.
        if self.made.len() < self.servers.len() { Verdict::Next } else { Verdict::Wait }
    }

    /// A forger who does not see the question gets its letter case wrong; so do a few servers. TCP tells.
    fn case_differs(&mut self, number: usize, message: Vec<u8>, now: Instant) -> Verdict {
        let Some(made) = self.made.get_mut(number) else { return Verdict::Wait };
        let server = Arc::clone(&made.server);
        if !server.health().mixes_case(now) {
            return self.reply(number, message, now);
        }
        server.failed(TryFailure::Case, now);
        if self.asks_over_tcp(&server) {
            return Verdict::Wait;
        }
        self.make_again(server, Transport::Tcp, Some(message));
        Verdict::Wait
    }

    /// True where a stream to the server is being tried, or has been tried often enough.
    fn asks_over_tcp(&self, server: &Server) -> bool {
        let streams = self
            .made
            .iter()
            .filter(|made| made.over == Transport::Tcp && made.server.number == server.number);
        streams.clone().any(|made| made.open) || streams.count() >= MAX_STREAMS
    }

    fn reply(&mut self, number: usize, mut message: Vec<u8>, now: Instant) -> Verdict {
        let Some(made) = self.made.get_mut(number) else { return Verdict::Wait };
        let server = Arc::clone(&made.server);
        let truncated = Header::read(&message).is_some_and(|header| header.flags.has(Flags::TC));
        if truncated && made.over == Transport::Udp {
            made.open = false;
            server.health().answered(now - made.at);
            if !self.asks_over_tcp(&server) {
                self.make_again(server, Transport::Tcp, None);
            }
            return Verdict::Wait;
        }
        let echoed = message.get(HEADER_LEN..HEADER_LEN + made.sent.len()) == Some(&made.sent);
        lower_question(&mut message);
        let Ok(mut answer) = Answer::read(&message) else {
            server.failed(TryFailure::Malformed, now);
            return Verdict::Wait;
        };
        note_case(made, echoed, &answer, now);
        made.open = false;
        if made.with_edns && !answer.had_opt && matches!(answer.rcode, Rcode::FORMERR | Rcode::NOTIMP) {
            // RFC 6891 section 6.2.2: the server knows no EDNS; it is asked again without.
            server.health().lacks_edns(now);
            let over = made.over;
            self.make_again(server, over, None);
            return Verdict::Wait;
        }
        answer.settle_case();
        if answer.kind == Kind::Failure || answer.referral {
            server.failed(TryFailure::Rcode, now);
            return self.weak(&server, answer);
        }
        server.health().answered(now - made.at);
        Verdict::Answer(answer)
    }

    /// Keeps the answer for want of a better one and leaves its server out.
    fn weak(&mut self, server: &Server, answer: Answer) -> Verdict {
        self.servers.retain(|other| other.number != server.number);
        // The server in front is the next; `make_next` would pass over it.
        let back = usize::from(!self.servers.is_empty());
        self.servers.rotate_right(back);
        self.weak.get_or_insert(answer);
        Verdict::Next
    }
}

/// Learns from a reply whether its server keeps letter case.
fn note_case(made: &mut Made, echoed: bool, answer: &Answer, now: Instant) {
    let mut health = made.server.health();
    if let Some(held) = made.held.take() {
        if Answer::read(&held).is_ok_and(|held| held.says_the_same(answer)) {
            health.changed_case(now);
        }
        return;
    }
    let asked_in_upper_case = made.sent.iter().rev().skip(4).any(u8::is_ascii_uppercase);
    if made.over == Transport::Udp && asked_in_upper_case && echoed {
        health.echoed_case();
    }
}

#[cfg(test)]
#[path = "exchange_tests.rs"]
mod tests;
