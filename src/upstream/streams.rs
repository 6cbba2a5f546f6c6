//! Streams to one server, whatever is spoken over them: which of a few connections takes a question, when another one may
//! be opened, when one ends. The connections themselves are [`super::tcp`]'s and [`super::encrypted`]'s.
//!
//! ```text
//!  (none) --question--> opening --> serving --age, count--> retired --last question ends--> closed
//!    ^                     |           |
//!    |                     v           v
//!    +-- pause, if it ------ closed by the server, broken, idle
//!        never answered
//! ```
//!
//! A server that lets nobody in, or resets whoever comes in, is so met with one connection per pause, whatever the number
//! of questions: they fail at once, and the exchange goes to another server.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use super::health::Server;
use super::links::Outcome;

/// Connections of one worker to one server that take questions.
pub const MAX_CONNECTIONS: usize = 2;
/// As many again may still wait for their last answers.
pub const MAX_OPEN: usize = 2 * MAX_CONNECTIONS;
/// Questions one connection serves, so that load moves on after servers were replaced.
const MAX_QUESTIONS: u32 = 4096;
/// For how long one connection serves, for the same reason.
const MAX_AGE: Duration = Duration::from_secs(60);
/// The pause after a connection that never answered; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause: a server that is back is found within it, for a packet or three.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// What was sent and is not acknowledged for this long ends a connection: its peer is gone without a word
/// (RFC 9293 section 3.8.3, the user time-out).
pub const UNACKNOWLEDGED: Duration = Duration::from_secs(3);

/// A reply, or what kept it away.
pub type Reply = io::Result<Vec<u8>>;

/// A connection, by whatever transport.
pub trait Connection: 'static {
    /// Questions that wait on one connection; further ones wait for a place.
    const MAX_PIPELINED: usize;
    /// How long it stays open without a question.
    const IDLE: Duration;

    /// Begins to open one, which lasts until its life is over.
    fn open(server: &Arc<Server>, life: Rc<Life>) -> Self;

    /// Asks and waits for the reply that matches. Where that shows that the connection is of no more use, its life is
    /// closed.
    fn ask(&self, query: &[u8], question: &[u8]) -> impl Future<Output = Reply>;
}

/// What is known of a connection's life.
pub struct Life {
    born: Instant,
    questions: Cell<u32>,
    waiting: Cell<usize>,
    opened: Cell<bool>,
    answered: Cell<bool>,
    retired: Cell<bool>,
    closed: Cell<bool>,
    changed: Notify,
}

impl Life {
    fn begin(now: Instant) -> Rc<Life> {
        Rc::new(Life {
            born: now,
            questions: Cell::new(0),
            waiting: Cell::new(0),
            opened: Cell::new(false),
            answered: Cell::new(false),
            retired: Cell::new(false),
            closed: Cell::new(false),
            changed: Notify::new(),
        })
    }

    /// The connection can carry questions.
    pub fn opened(&self) {
        self.opened.set(true);
    }

    /// The connection is of no more use.
    pub fn close(&self) {
        self.closed.set(true);
        self.changed.notify_one();
    }

    /// Waits until the connection has to end: it is closed, or takes no more questions and none waits, or was idle.
    pub async fn over(&self, idle: Duration) {
        while !self.closed.get() {
            let is_empty = self.waiting.get() == 0;
            match is_empty {
                true if self.retired.get() => return,
                true => {
                    if timeout(idle, self.changed.notified()).await.is_err() {
                        return;
                    }
                }
                false => self.changed.notified().await,
            }
        }
    }

    fn serves(&self) -> bool {
        !self.closed.get() && !self.retired.get()
    }

    fn retire(&self) {
        self.retired.set(true);
        self.changed.notify_one();
    }
}

/// A question's place on a connection, until it is dropped.
struct Stay<'c> {
    life: Rc<Life>,
    freed: &'c Notify,
}

impl Drop for Stay<'_> {
    fn drop(&mut self) {
        self.life.waiting.set(self.life.waiting.get() - 1);
        if self.life.waiting.get() == 0 {
            self.life.changed.notify_one();
        }
        self.freed.notify_one();
    }
}

/// When the next connection may be opened.
#[derive(Debug, Default)]
struct Pause {
    failures: u32,
    until: Option<Instant>,
}

impl Pause {
    fn failed(&mut self, now: Instant, random: u32) {
        let pause = FIRST_PAUSE.saturating_mul(1 << self.failures.min(8)).min(LONGEST_PAUSE);
        self.failures = self.failures.saturating_add(1);
        // Between half and the whole, so that workers and nodes do not return together.
        self.until = Some(now + pause.mul_f64(0.5 + f64::from(random) / f64::from(u32::MAX) / 2.0));
    }

    fn worked(&mut self) {
        *self = Pause::default();
    }

    fn may_open(&self, now: Instant) -> bool {
        self.until.is_none_or(|until| now >= until)
    }
}

/// The connections of one worker to one server.
pub struct Client<C> {
    server: Arc<Server>,
    connections: RefCell<Vec<Rc<Member<C>>>>,
    pause: RefCell<Pause>,
    freed: Notify,
}

struct Member<C> {
    life: Rc<Life>,
    connection: C,
}

enum Picked<C> {
    Connection(Rc<Member<C>>),
    /// All places are taken.
    Full,
}

impl<C: Connection> Client<C> {
    /// No connection is open yet.
    pub fn new(server: Arc<Server>) -> Client<C> {
        Client { server, connections: RefCell::default(), pause: RefCell::default(), freed: Notify::new() }
    }

    /// Asks and waits for the reply that matches.
    ///
    /// # Errors
    /// What ended the connection. One that served before may have been closed by the server just then, so
    /// the question is asked on another (RFC 7766 section 6.2.4), as often as there can be such.
    pub async fn ask(&self, query: &[u8], question: &[u8]) -> Reply {
        let mut last = io::ErrorKind::NotConnected.into();
        for _ in 0..=MAX_CONNECTIONS {
            let member = self.place().await?;
            let _stay = self.enter(&member.life);
            match member.connection.ask(query, question).await {
                Ok(reply) => {
                    member.life.answered.set(true);
                    self.pause.borrow_mut().worked();
                    return Ok(reply);
                }
                Err(error) => last = error,
            }
            self.tidy(Instant::now());
            if !(member.life.closed.get() && member.life.answered.get()) {
                break;
            }
        }
        Err(last)
    }

    /// A connection with a place for one more question.
    async fn place(&self) -> io::Result<Rc<Member<C>>> {
        let mut picked = self.pick(Instant::now());
        while let Ok(Picked::Full) = picked {
            self.freed.notified().await;
            picked = self.pick(Instant::now());
            if !matches!(picked, Ok(Picked::Full)) {
                // There may be room for the next in line too.
                self.freed.notify_one();
            }
        }
        match picked? {
            Picked::Connection(member) => Ok(member),
            Picked::Full => Err(io::ErrorKind::ResourceBusy.into()),
        }
    }

    fn pick(&self, now: Instant) -> io::Result<Picked<C>> {
        self.tidy(now);
        let mut connections = self.connections.borrow_mut();
        let serving = connections.iter().filter(|member| member.life.serves());
        let (count, least) =
            (serving.clone().count(), serving.min_by_key(|member| member.life.waiting.get()).cloned());
        let is_idle = least.as_ref().is_some_and(|member| member.life.waiting.get() == 0);
        let pause = self.pause.borrow();
        // After a failure one connection shows whether it goes better now.
        let may_open = match count {
            0 => pause.may_open(now),
            _ => !is_idle && count < MAX_CONNECTIONS && pause.failures == 0,
        };
        if may_open {
            let life = Life::begin(now);
            let connection = C::open(&self.server, Rc::clone(&life));
            let member = Rc::new(Member { life, connection });
            connections.push(Rc::clone(&member));
            let is_retired = |member: &Rc<Member<C>>| member.life.retired.get();
            if connections.len() > MAX_OPEN
                && let Some(oldest) = connections.iter().position(is_retired)
            {
                connections.remove(oldest).life.close();
            }
            return Ok(Picked::Connection(member));
        }
        let least = least.ok_or(io::ErrorKind::NotConnected)?;
        match least.life.waiting.get() < C::MAX_PIPELINED {
            true => Ok(Picked::Connection(least)),
            false => Ok(Picked::Full),
        }
    }

    fn enter(&self, life: &Rc<Life>) -> Stay<'_> {
        life.waiting.set(life.waiting.get() + 1);
        life.questions.set(life.questions.get() + 1);
        if life.waiting.get() == 1 {
            life.changed.notify_one();
        }
        Stay { life: Rc::clone(life), freed: &self.freed }
    }

    /// Retires connections that served long enough and forgets those that ended.
    fn tidy(&self, now: Instant) {
        let mut pause = self.pause.borrow_mut();
        self.connections.borrow_mut().retain(|member| {
            let life = &member.life;
            if life.serves() && (life.questions.get() >= MAX_QUESTIONS || now >= life.born + MAX_AGE) {
                life.retire();
            }
            if life.closed.get() && !life.answered.get() {
                pause.failed(now, rand::random());
                if life.opened.get() {
                    self.server.links.count(Outcome::Unanswered);
                }
            }
            !life.closed.get()
        });
    }
}

impl<C> Drop for Client<C> {
    fn drop(&mut self) {
        self.connections.borrow().iter().for_each(|member| member.life.retire());
    }
}

#[cfg(test)]
#[path = "streams_tests.rs"]
mod tests;
