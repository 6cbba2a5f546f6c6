//! The tries of one exchange: which server is asked next and how, and what is made of what comes of it.
//!
//! What the servers say decides at once where it can: data or a denial ends the exchange, a failure moves it
//! to the next server, a refusal by the network too, truncation and a change of letter case go to TCP. A failure that may be a limiter's
//! is asked once more.

use std::io;
use std::sync::Arc;

use tokio::time::{Instant, timeout};

use super::exchange::{LATE, MAX_TRIES, TRY_TIMEOUT, order};
use super::fairness::Refused;
use super::group::{Permit, Turn, Wait, What};
use super::health::{Server, Transport, TryFailure};
use super::inbox::Sender;
use super::made::{Made, Open, State};
use super::standing::Standing;
use super::udp::{Arrival, Arrivals};
use super::zones::Zone;
use super::{Carrier, Failure, Question, matching};
use crate::wire::answer::{Answer, Kind, lower_question};
use crate::wire::edns;
use crate::wire::header::{Flags, HEADER_LEN, Header};
use crate::wire::iana::Rcode;

/// Streams of these to one server: a connection may be reset once, a server that resets each is none.
const MAX_STREAMS: usize = 2;

/// What a message means for the exchange.
pub(super) enum Verdict {
    /// It is the answer.
    Answer(Answer),
    /// The next server is to be asked.
    Next,
    /// Something else may still come.
    Wait,
}

/// All tries of an exchange.
pub(super) struct Tries<'o> {
    carrier: &'o dyn Carrier,
    zone: &'o Zone,
    question: &'o Question,
    standing: &'o Arc<Standing>,
    /// The one in front has been asked last, once one has.
    servers: Vec<Arc<Server>>,
    exchange: Sender<(usize, Arrival)>,
    made: Vec<Made>,
    pending: Option<Pending>,
    weak: Option<Answer>,
    refused: usize,
    /// Tries that this host could not make.
    not_made: usize,
    /// When the next try is due.
    next_at: Instant,
}

/// A try that waits for its turn.
struct Pending {
    next: Next,
    wait: Wait,
}

/// A try to be.
struct Next {
    server: Arc<Server>,
    over: Transport,
    held: Option<Vec<u8>>,
}

impl<'o> Tries<'o> {
    /// None yet; the servers are asked in this order, from this time on.
    pub(super) fn new(
        carrier: &'o dyn Carrier,
        zone: &'o Zone,
        question: &'o Question,
        standing: &'o Arc<Standing>,
        servers: Vec<Arc<Server>>,
        exchange: Sender<(usize, Arrival)>,
        next_at: Instant,
    ) -> Tries<'o> {
        let (made, pending, weak, refused, not_made) = (vec![], None, None, 0, 0);
        Tries {
            carrier,
            zone,
            question,
            standing,
            servers,
            exchange,
            made,
            pending,
            weak,
            refused,
            not_made,
            next_at,
        }
    }

    /// Asks the first server, or stands in line for it.
    pub(super) fn first(&mut self, now: Instant) -> Result<(), Failure> {
        let Some(server) = self.servers.first().cloned() else { return Err(Failure::Loop) };
        self.want(Next::to(server), What::Question, now).map_err(Failure::Refused)
    }

    /// Tries the next server in turn. One that has left the zone meanwhile is asked nothing more, and one that has the question on
    /// streams is asked it no third time: they repeat what is lost by themselves.
    pub(super) fn next(&mut self) {
        if !self.may_try() || self.pending.is_some() {
            return;
        }
        self.servers.rotate_left(usize::from(!self.made.is_empty()));
        self.servers.retain(|server| self.zone.has(server));
        if self.servers.is_empty() {
            self.servers = order(&self.zone.servers(), Instant::now());
        }
        let Some(server) = self.servers.first().cloned() else { return };
        if self.streams_to(&server).filter(|made| made.is_open()).count() >= MAX_STREAMS {
            self.next_at = Instant::now() + TRY_TIMEOUT;
        } else if self.want(Next::to(server), What::Retry, Instant::now()).is_err() {
            self.had_no_turn();
        }
    }

    /// Asks a second server while the first is late.
    pub(super) fn hedge(&mut self) {
        let Some(second) = self.servers.get(1).filter(|_| self.made.len() == 1).cloned() else { return };
        let may_ask = second.endpoint.transport == Transport::Udp && self.zone.has(&second);
        if !may_ask || second.health().is_avoided(Instant::now()) {
            return;
        }
        if let Some(permit) = second.group.hedge(second.spot(self.question)) {
            self.servers.rotate_left(1);
            self.make(Next::to(second), permit, Instant::now());
        }
    }

    /// Counts the tries that have waited for their time, and makes another if it is time.
    pub(super) fn timed_out(&mut self) {
        self.count_late();
        if Instant::now() >= self.next_at && self.has_time() {
            self.next();
        }
    }

    /// A try waits for its turn.
    pub(super) fn is_waiting(&self) -> bool {
        self.pending.is_some()
    }

    /// The turn of the try that waits.
    pub(super) async fn turn(&mut self) -> Result<Permit, Refused> {
        match &mut self.pending {
            Some(pending) => pending.wait.turn().await,
            None => std::future::pending().await,
        }
    }

    /// The turn has come, or will not: without a first try there is nothing to wait for.
    pub(super) fn had_turn(&mut self, turn: Result<Permit, Refused>) -> Result<(), Failure> {
        let Some(Pending { next, .. }) = self.pending.take() else { return Ok(()) };
        match turn {
            Ok(permit) => self.make(next, permit, Instant::now()),
            Err(why) if self.made.is_empty() => return Err(Failure::Refused(why)),
            Err(_) => self.had_no_turn(),
        }
        Ok(())
    }

    /// When the first try was made.
    pub(super) fn begun(&self) -> Option<Instant> {
        self.made.first().map(|made| made.at)
    }

    /// When something is to be done: another try to be made, or one to be counted.
    pub(super) fn due(&self) -> Option<Instant> {
        let uncounted =
            self.made.iter().filter(|made| made.is_open() && !made.counted).map(|made| made.due).min();
        let next = (self.may_try() && self.pending.is_none() && self.has_time()).then_some(self.next_at);
        next.into_iter().chain(uncounted).min()
    }

    /// Nothing is open and nothing more will be sent.
    pub(super) fn is_over(&self) -> bool {
        let is_open = self.pending.is_some() || self.made.iter().any(Made::is_open);
        !(is_open || self.may_try() && self.has_time())
    }

    /// The best there is to say when nothing more is waited for.
    pub(super) fn give_up(&mut self) -> Result<Answer, Failure> {
        self.count_late();
        match self.weak.take() {
            // Where to go on is nothing that a stub resolver can make use of.
            Some(answer) if answer.referral => Err(Failure::Lame),
            Some(answer) => Ok(answer),
            None if self.not_made > 0 && self.not_made + self.refused >= self.made.len() => {
                let group = self.made.first().map(|made| &made.server.group);
                Err(Failure::Refused(group.map_or(Refused::Host, |group| group.refused(Refused::Host))))
            }
            None if self.refused > 0 && self.refused >= self.made.len() => Err(Failure::Unreachable),
            None => Err(Failure::TimedOut),
        }
    }

    pub(super) fn judge(&mut self, number: usize, arrival: Arrival) -> Verdict {
        let now = Instant::now();
        let Some(made) = self.made.get_mut(number) else { return Verdict::Wait };
        let server = Arc::clone(&made.server);
        match arrival {
            Arrival::Unmatched => {
                server.failed(TryFailure::Unmatched, now);
                Verdict::Wait
            }
            _ if made.state == State::Done => Verdict::Wait,
            Arrival::Refused(_) if !made.is_open() => Verdict::Wait,
            Arrival::Refused(kind) => self.refused(number, kind, now),
            Arrival::CaseDiffers(message) => self.case_differs(number, message, now),
            Arrival::Reply(message) => self.reply(number, message, now),
        }
    }

    fn may_try(&self) -> bool {
        self.made.len() < MAX_TRIES && !self.servers.is_empty()
    }

    /// An answer to the next try may be of use to somebody.
    fn has_time(&self) -> bool {
        self.next_at < self.standing.over_by()
    }

    /// A retry without a turn counts as a try that was not answered, unless there is something to say already.
    fn had_no_turn(&mut self) {
        self.next_at = Instant::now() + TRY_TIMEOUT;
        if self.weak.is_some() && !self.made.iter().any(Made::is_open) {
            self.servers.clear();
        }
    }

    fn count_late(&mut self) {
        let now = Instant::now();
        let late = |made: &&mut Made| made.is_open() && !made.counted && made.due <= now;
        for made in self.made.iter_mut().filter(late) {
            made.counted = true;
            made.permit.lost();
            made.server.failed(TryFailure::Timeout, now);
        }
    }

    /// Makes a try, or puts it in line.
    fn want(&mut self, next: Next, what: What, now: Instant) -> Result<(), Refused> {
        // A question stands in one line at a time.
        self.pending = None;
        let spot = next.server.spot(self.question);
        match next.server.group.ask(self.standing, spot, what, next.over != Transport::Udp) {
            Turn::Now(permit) => self.make(next, permit, now),
            Turn::Wait(wait) => self.pending = Some(Pending { next, wait }),
            Turn::No(why) => return Err(why),
        }
        Ok(())
    }

    /// Asks the server again in another way, or the next one where it has left the zone meanwhile.
    fn again(&mut self, server: Arc<Server>, over: Transport, held: Option<Vec<u8>>) {
        match self.zone.has(&server) {
            // In place of a retry that waits: it is more likely to help.
            true => drop(self.want(Next { server, over, held }, What::Again, Instant::now())),
            false => self.next(),
        }
    }

    fn make(&mut self, next: Next, permit: Permit, now: Instant) {
        let Next { server, over, held } = next;
        self.standing.begin(now);
        let number = self.made.len();
        let (with_edns, mixed, patience) = {
            let health = server.health();
            (health.takes_edns(now), over == Transport::Udp && health.mixes_case(now), health.patience())
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
        let (state, due) = (State::Open, now + patience);
        self.next_at = due;
        self.made.push(Made {
            server,
            over,
            permit,
            sent,
            at: now,
            due,
            with_edns,
            held,
            state,
            counted: false,
            suspected: false,
            wait,
        });
    }

    /// Sends a datagram. What the system refuses is judged like what the network refuses.
    fn send(&self, server: &Arc<Server>, query: Vec<u8>, sent: &[u8], number: usize) -> Option<Open> {
        let arrivals = Arrivals { exchange: self.exchange.clone(), number };
        match self.carrier.datagram(server, query, sent, arrivals.clone()) {
            Ok(ticket) => Some(Open::Udp { _ticket: ticket }),
            Err(error) => {
                arrivals.tell(Arrival::Refused(error.kind()));
                None
            }
        }
    }

    fn stream(&self, server: &Arc<Server>, query: Vec<u8>, sent: Vec<u8>, number: usize) -> Open {
        let reply = self.carrier.stream(server, query, sent);
        let arrivals = Arrivals { exchange: self.exchange.clone(), number };
        Open::Tcp(tokio::task::spawn_local(async move {
            let arrival = match timeout(LATE, reply).await {
                Ok(Ok(message)) => Arrival::Reply(message),
                Ok(Err(error)) => Arrival::Refused(error.kind()),
                Err(_) => return,
            };
            arrivals.tell_of_stream(arrival);
        }))
    }

    fn refused(&mut self, number: usize, kind: io::ErrorKind, now: Instant) -> Verdict {
        let Some(made) = self.made.get_mut(number) else { return Verdict::Wait };
        made.state = State::Refused;
        // What the host lacks says nothing about a server.
        if kind == io::ErrorKind::ResourceBusy {
            self.not_made += 1;
        } else {
            made.server.failed(TryFailure::Unreachable, now);
            self.refused += 1;
        }
        // Without TCP there is no second opinion on letter case; a server that never echoed it is believed as
        // one that is asked in lower case would be.
        if let Some(held) = made.held.take()
            && !made.server.health().trusts_case()
        {
            return self.reply(number, held, now);
        }
        // A server that refused is not asked again at once, only in its turn: a port that is closed for a
        // moment costs one try, and one that stays closed no storm.
        let is_new = |server: &Arc<Server>| self.made.iter().all(|made| made.server.number != server.number);
        if self.servers.iter().any(is_new) { Verdict::Next } else { Verdict::Wait }
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
        self.again(server, Transport::Tcp, Some(message));
        Verdict::Wait
    }

    /// True where a stream to the server is being tried, or has been tried often enough.
    fn asks_over_tcp(&self, server: &Server) -> bool {
        self.streams_to(server).any(Made::is_open) || self.streams_to(server).count() >= MAX_STREAMS
    }

    fn streams_to(&self, server: &Server) -> impl Iterator<Item = &Made> {
        let number = server.number;
        self.made.iter().filter(move |made| made.over != Transport::Udp && made.server.number == number)
    }

    fn reply(&mut self, number: usize, mut message: Vec<u8>, now: Instant) -> Verdict {
        let Some(made) = self.made.get_mut(number) else { return Verdict::Wait };
        let server = Arc::clone(&made.server);
        let truncated = Header::read(&message).is_some_and(|header| header.flags.has(Flags::TC));
        if truncated && made.over == Transport::Udp {
            made.finish();
            made.permit.answered(true);
            server.health().answered(now - made.at);
            if !self.asks_over_tcp(&server) {
                self.again(server, Transport::Tcp, None);
            }
            return Verdict::Wait;
        }
        if truncated {
            // RFC 2181 section 9: what is cut is no answer. This server has none that is whole.
            made.finish();
            made.permit.answered(false);
            server.failed(TryFailure::Malformed, now);
            return self.leave_out(&server);
        }
        let echoed = message.get(HEADER_LEN..HEADER_LEN + made.sent.len()) == Some(&made.sent);
        lower_question(&mut message);
        let Ok(mut answer) = Answer::read(&message) else {
            server.failed(TryFailure::Malformed, now);
            return Verdict::Wait;
        };
        made.note_case(echoed, &answer, now);
        made.finish();
        if made.with_edns && !answer.had_opt && matches!(answer.rcode, Rcode::FORMERR | Rcode::NOTIMP) {
            // RFC 6891 section 6.2.2: the server knows no EDNS; it is asked again without.
            made.permit.answered(true);
            server.health().lacks_edns(now);
            let over = made.over;
            self.again(server, over, None);
            return Verdict::Wait;
        }
        answer.settle_case();
        if answer.kind == Kind::Failure || answer.referral {
            server.failed(TryFailure::Rcode, now);
            return self.failed(number, &server, answer);
        }
        made.permit.answered(true);
        server.health().answered(now - made.at);
        let is_earlier = |made: &&Made| made.server.number == server.number;
        let earlier = self.made.iter().take(number).filter(is_earlier);
        earlier.for_each(|made| made.permit.retry_was_answered());
        Verdict::Answer(answer)
    }

    /// Keeps the answer for want of a better one, a referral for want of any other, and leaves its server out; where it may be a
    /// limiter's, the server is asked once more in its turn.
    fn failed(&mut self, number: usize, server: &Server, answer: Answer) -> Verdict {
        let was_suspected =
            self.made.iter().any(|made| made.suspected && made.server.number == server.number);
        let refused = answer.rcode == Rcode::REFUSED;
        if self.weak.as_ref().is_none_or(|weak| weak.referral) {
            self.weak = Some(answer);
        }
        let Some(made) = self.made.get_mut(number) else { return Verdict::Wait };
        if !was_suspected && made.permit.is_suspect() {
            made.suspected = true;
            self.next_at = Instant::now() + TRY_TIMEOUT;
            return if self.servers.len() > 1 { Verdict::Next } else { Verdict::Wait };
        }
        match refused {
            true => made.permit.declined(),
            false => made.permit.answered(false),
        }
        self.leave_out(server)
    }

    /// Moves on to the next server; this one is not asked again.
    fn leave_out(&mut self, server: &Server) -> Verdict {
        let was_in_front = self.servers.first().is_some_and(|first| first.number == server.number);
        self.servers.retain(|other| other.number != server.number);
        if self.pending.as_ref().is_some_and(|pending| pending.next.server.number == server.number) {
            self.pending = None;
        }
        // The server in front is the next; `next` would pass over it.
        if was_in_front && !self.servers.is_empty() {
            self.servers.rotate_right(1);
        }
        Verdict::Next
    }
}

impl Next {
    fn to(server: Arc<Server>) -> Next {
        let over = server.endpoint.transport;
        Next { server, over, held: None }
    }
}

#[cfg(test)]
#[path = "tries_tests.rs"]
mod tests;
