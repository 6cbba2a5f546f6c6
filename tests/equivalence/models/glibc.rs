//! glibc 2.36: `__res_context_send`, `__res_context_query`, `__res_context_search` and `gaih_getanswer`.

use tokio::time::Instant;

use super::rcode::{NOERROR, NOTIMP, NXDOMAIN, REFUSED, SERVFAIL};
use super::{Conf, Names, Outcome, Over, Reply, Server, Socket};

/// `h_errno`.
#[derive(Clone, Copy, PartialEq)]
enum Why {
    HostNotFound,
    NoData,
    TryAgain,
    NoRecovery,
}

impl Why {
    /// As `getaddrinfo` tells it: only what may be tried again is a failure.
    fn outcome(self) -> Outcome {
        if self == Why::TryAgain { Outcome::Failed } else { Outcome::NotFound }
    }
}

/// A step without an answer section.
struct Without {
    why: Why,
    /// The code of the first reply to the last attempt that had one.
    first_rcode: u8,
    /// The server could not be connected to.
    refused: bool,
}

pub async fn look_up(names: &Names, conf: &Conf, server: &impl Server) -> Outcome {
    let (mut as_is, mut no_data, mut servfail) = (None, false, false);
    let mut last = Why::HostNotFound;
    let mut straight = false;
    for (name, is_bare) in names.in_order() {
        if straight && !is_bare {
            continue;
        }
        let without = match query(name, conf, server).await {
            Ok(outcome) => return outcome,
            Err(without) => without,
        };
        last = without.why;
        if is_bare {
            as_is = names.bare_first.then_some(last);
            continue;
        }
        if without.refused {
            return Outcome::Failed;
        }
        match last {
            Why::HostNotFound => {}
            Why::NoData => no_data = true,
            Why::TryAgain if without.first_rcode == SERVFAIL => servfail = true,
            Why::TryAgain | Why::NoRecovery => straight = true,
        }
    }
    let why = match as_is {
        Some(why) => why,
        None if no_data => Why::NoData,
        None if servfail => Why::TryAgain,
        None => last,
    };
    why.outcome()
}

/// One step: a success where either reply has an answer section, an alias alone included.
async fn query(name: &str, conf: &Conf, server: &impl Server) -> Result<Outcome, Without> {
    let replies = send(name, conf, server).await?;
    if replies.iter().any(|reply| reply.rcode == NOERROR && reply.has_answers) {
        return Ok(Outcome::found(replies.iter().flat_map(|reply| reply.addresses.iter().copied())));
    }
    let (first, second) = (replies.first(), replies.last());
    let [first_rcode, second_rcode] = [first, second].map(|reply| reply.map_or(NOERROR, |reply| reply.rcode));
    let why = match if first_rcode == NOERROR { second_rcode } else { first_rcode } {
        NOERROR => Why::NoData,
        NXDOMAIN => Why::HostNotFound,
        SERVFAIL => Why::TryAgain,
        _ => Why::NoRecovery,
    };
    Err(Without { why, first_rcode, refused: false })
}

/// What datagrams brought.
enum Datagrams {
    /// Replies in the order they came; where one family failed, only the other's.
    Replies(Vec<Reply>),
    Truncated,
    Nothing,
}

/// How the two questions go out.
#[derive(Clone, Copy, PartialEq)]
enum Order {
    Together,
    InTurn,
    InTurnReopened,
}

struct Sending<'s, S> {
    name: &'s str,
    conf: &'s Conf,
    server: &'s S,
    socket: Socket<S>,
    order: Order,
    first_rcode: u8,
}

async fn send(name: &str, conf: &Conf, server: &impl Server) -> Result<Vec<Reply>, Without> {
    let socket = Socket::open(server, name, None);
    let mut sending = Sending { name, conf, server, socket, order: Order::Together, first_rcode: NOERROR };
    for _ in 0..conf.attempts {
        match sending.datagrams().await {
            Datagrams::Replies(replies) => return Ok(replies),
            Datagrams::Truncated => return sending.stream().await,
            Datagrams::Nothing => {}
        }
    }
    Err(Without { why: Why::TryAgain, first_rcode: sending.first_rcode, refused: false })
}

impl<S: Server> Sending<'_, S> {
    fn reopen(&mut self) {
        self.socket = Socket::open(self.server, self.name, None);
    }

    /// `send_dg`: one attempt; one that brings one family only is made twice more, in other ways.
    async fn datagrams(&mut self) -> Datagrams {
        loop {
            self.socket.send(0, Over::Udp);
            if self.order == Order::Together {
                self.socket.send(1, Over::Udp);
            }
            match (self.replies().await, self.order) {
                (Ok(datagrams), _) => return datagrams,
                (Err(_), Order::Together) => self.order = Order::InTurn,
                (Err(_), Order::InTurn) => {
                    self.order = Order::InTurnReopened;
                    self.reopen();
                }
                (Err(first), Order::InTurnReopened) => return Datagrams::Replies(vec![first]),
            }
        }
    }

    /// Both replies; the first where the second does not come.
    async fn replies(&mut self) -> Result<Datagrams, Reply> {
        let deadline = Instant::now() + self.conf.timeout;
        let mut received = [false; 2];
        let mut kept: Vec<Reply> = Vec::new();
        loop {
            let Some((family, _, reply)) = self.socket.next(deadline).await else {
                return kept.pop().map_or(Ok(Datagrams::Nothing), Err);
            };
            let Some(reply) = reply.filter(|reply| reply.repeats_question && !received[family]) else {
                continue;
            };
            let is_first = received == [false; 2];
            if is_first {
                self.first_rcode = reply.rcode;
            }
            received[family] = true;
            if matches!(reply.rcode, SERVFAIL | NOTIMP | REFUSED) {
                match (is_first, kept.is_empty()) {
                    (true, _) => continue,
                    (false, true) => return Ok(Datagrams::Nothing),
                    (false, false) => return Ok(Datagrams::Replies(kept)),
                }
            }
            if reply.truncated {
                return Ok(Datagrams::Truncated);
            }
            kept.push(reply);
            if received == [true; 2] {
                return Ok(Datagrams::Replies(kept));
            }
            if self.order == Order::InTurnReopened {
                self.reopen();
            }
            if self.order != Order::Together {
                self.socket.send(1, Over::Udp);
            }
        }
    }

    /// `send_vc`: both families over one connection, tried once; whatever the codes, these are the replies.
    async fn stream(&mut self) -> Result<Vec<Reply>, Without> {
        let mut socket = Socket::open(self.server, self.name, None);
        socket.send(0, Over::Tcp);
        socket.send(1, Over::Tcp);
        let mut replies = Vec::new();
        while let Some((_, _, reply)) = socket.arrivals.recv().await {
            let Some(reply) = reply else {
                return Err(Without { why: Why::TryAgain, first_rcode: self.first_rcode, refused: true });
            };
            replies.push(reply);
            if replies.len() == 2 {
                break;
            }
        }
        Ok(replies)
    }
}
