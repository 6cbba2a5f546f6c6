//! c-ares 1.18: `ares_getaddrinfo`, `host_callback`, `process_answer`, `next_server`, `handle_error`.

use tokio::time::Instant;

use super::rcode::{NOERROR, NOTIMP, NXDOMAIN, REFUSED, SERVFAIL};
use super::{Conf, Names, Outcome, Over, Reply, Server, Socket, Step};

pub async fn look_up(names: &Names, conf: &Conf, server: &impl Server) -> Outcome {
    for (name, _) in names.in_order() {
        if let Step::End(outcome) = step(name, conf, server).await {
            return outcome;
        }
    }
    Outcome::NotFound
}

/// An address ends it; without one the family that came to its end last decides.
async fn step(name: &str, conf: &Conf, server: &impl Server) -> Step {
    let ended = Channel::new(name, conf, server).queries().await;
    let good = ended.iter().flatten().filter(|reply| reply.rcode == NOERROR);
    match Outcome::found(good.flat_map(|reply| reply.addresses.iter().copied())) {
        found @ Outcome::Addresses(_) => Step::End(found),
        _ => match ended.last().and_then(Option::as_ref) {
            Some(Reply { rcode: NOERROR | NXDOMAIN, .. }) => Step::On,
            _ => Step::End(Outcome::Failed),
        },
    }
}

/// One family's question, for as long as it is open.
struct Query {
    family: usize,
    over: Over,
    attempt: u32,
    deadline: Instant,
}

struct Channel<'s, S> {
    name: &'s str,
    conf: &'s Conf,
    server: &'s S,
    socket: Socket<S>,
    open: Vec<Query>,
    /// In the order in which they came to an end; nothing where the last attempt failed.
    ended: Vec<Option<Reply>>,
}

impl<'s, S: Server> Channel<'s, S> {
    fn new(name: &'s str, conf: &'s Conf, server: &'s S) -> Channel<'s, S> {
        let query = |family| Query { family, over: Over::Udp, attempt: 0, deadline: Instant::now() };
        let socket = Socket::open(server, name, None);
        Channel { name, conf, server, socket, open: [0, 1].map(query).into(), ended: vec![] }
    }

    async fn queries(mut self) -> Vec<Option<Reply>> {
        (0..self.open.len()).for_each(|index| self.send(index));
        while let Some(deadline) = self.open.iter().map(|query| query.deadline).min() {
            match self.socket.next(deadline).await {
                Some((_, _, None)) => self.connection_refused(),
                Some((family, over, Some(reply))) => self.reply(family, over, reply),
                None => self.time_out(deadline),
            }
        }
        self.ended
    }

    /// Each attempt waits twice as long as the one before.
    fn send(&mut self, index: usize) {
        let query = &mut self.open[index];
        query.deadline = Instant::now() + self.conf.timeout * (1 << query.attempt);
        self.socket.send(query.family, query.over);
    }

    fn end(&mut self, index: usize, reply: Option<Reply>) {
        self.open.remove(index);
        self.ended.push(reply);
    }

    fn reply(&mut self, family: usize, over: Over, reply: Reply) {
        let Some(index) = self.open.iter().position(|query| query.family == family) else { return };
        if !reply.repeats_question {
            return;
        }
        let query = &mut self.open[index];
        if over == Over::Udp && reply.truncated {
            if query.over == Over::Udp {
                query.over = Over::Tcp;
                self.send(index);
            }
            return;
        }
        match reply.rcode {
            SERVFAIL | NOTIMP | REFUSED => self.next_attempt(index),
            _ => self.end(index, Some(reply)),
        }
    }

    /// What went over a connection is not sent over the same one again.
    fn next_attempt(&mut self, index: usize) {
        let query = &mut self.open[index];
        query.attempt += 1;
        if query.attempt >= self.conf.attempts || query.over == Over::Tcp {
            return self.end(index, None);
        }
        self.send(index);
    }

    fn time_out(&mut self, now: Instant) {
        while let Some(index) = self.open.iter().position(|query| query.deadline <= now) {
            self.next_attempt(index);
        }
    }

    /// All sockets are closed and everything that is open is tried again.
    fn connection_refused(&mut self) {
        self.socket = Socket::open(self.server, self.name, None);
        for index in (0..self.open.len()).rev() {
            self.open[index].attempt += 1;
            if self.open[index].attempt >= self.conf.attempts {
                self.end(index, None);
            }
        }
        (0..self.open.len()).for_each(|index| self.send(index));
    }
}
