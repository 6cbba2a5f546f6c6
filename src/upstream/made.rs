//! One try of an exchange: what was sent to whom, what it waits for, and whether anything may still come of it.

use std::sync::Arc;

use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::Ticket;
use super::group::Permit;
use super::health::{Server, Transport};
use crate::wire::answer::Answer;

/// What is known of a try.
pub(super) struct Made {
    pub(super) server: Arc<Server>,
    pub(super) over: Transport,
    pub(super) permit: Permit,
    pub(super) sent: Vec<u8>,
    pub(super) at: Instant,
    /// When it has waited for its time.
    pub(super) due: Instant,
    pub(super) with_edns: bool,
    /// The server's reply in other letter case, until TCP confirms or denies it.
    pub(super) held: Option<Vec<u8>>,
    pub(super) state: State,
    pub(super) counted: bool,
    /// It failed promptly where it should not have: a limiter may have answered.
    pub(super) suspected: bool,
    pub(super) wait: Option<Open>,
}

/// Whether anything may still come of a try.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// It is waited for.
    Open,
    /// The network refused it, or another question of its socket: nobody waits, but a reply counts.
    Refused,
    /// A reply has been judged: a second is a copy.
    Done,
}

impl Made {
    pub(super) fn is_open(&self) -> bool {
        self.state == State::Open
    }

    /// It has its reply. Where copies of it may come, which is on a socket, they are known for what they are.
    pub(super) fn finish(&mut self) {
        self.state = State::Done;
        self.wait.take_if(|wait| matches!(wait, Open::Tcp(_)));
    }

    /// Learns from a reply whether the server keeps letter case.
    pub(super) fn note_case(&mut self, echoed: bool, answer: &Answer, now: Instant) {
        let mut health = self.server.health();
        if let Some(held) = self.held.take() {
            if Answer::read(&held).is_ok_and(|held| held.says_the_same(answer)) {
                health.changed_case(now);
            }
            return;
        }
        let asked_in_upper_case = self.sent.iter().rev().skip(4).any(u8::is_ascii_uppercase);
        if self.over == Transport::Udp && asked_in_upper_case && echoed {
            health.echoed_case();
        }
    }
}

/// What ends with the try.
pub(super) enum Open {
    Udp { _ticket: Ticket },
    Tcp(JoinHandle<()>),
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Open::Tcp(task) = self {
            task.abort();
        }
    }
}
