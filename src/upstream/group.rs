//! Hop 6, the wait for a budget: servers that share one, and whose turn it is to send to them.
//!
//! The book of a group is one for all workers, behind a mutex that is held for a few operations and never over an await. Whoever may send
//! at once does; whoever has to wait is woken when its turn has come. Turns are given whenever the book is opened, and
//! by one local task, the *pacer*, of whoever came first to wait; it ends with the line. A group without a limit has no book.

use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use foldhash::quality::RandomState;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

use super::Class;
use super::alarm;
use super::budget::Budget;
use super::fairness::{self, Bounds, Refused, Ticket};
use super::ledger::{self, Asked, Ledger, Next, Wish};
use super::standing::Standing;
use super::window::Spot;
use crate::limits::{MAX_WAITING, MAX_WAITING_PER_CLIENT};
use crate::wire::name::ancestors;

/// The runtime's timers have whole milliseconds.
const TICK: Duration = Duration::from_millis(1);

/// Servers that share a budget.
pub struct Group {
    /// What it is called in metrics: a server's address, or what its servers have in common.
    pub name: String,
    /// What may be sent to it.
    pub budget: Budget,
    start: Instant,
    domains: RandomState,
    book: Option<Mutex<Book>>,
    counts: Counts,
}

struct Book {
    ledger: Line,
    is_paced: bool,
    /// Packets taken for questions over streams that have not been counted there yet.
    taken_for_streams: u32,
    /// Questions that are out over streams.
    streams: u32,
}

/// What is counted, in packets or questions.
#[derive(Default)]
struct Counts {
    sent: AtomicU64,
    answered: AtomicU64,
    retries: AtomicU64,
    hedges: AtomicU64,
    refused: [AtomicU64; Refused::ALL.len()],
}

/// What a question costs that goes over a stream, before its segments are counted: itself and the acknowledgement of its answer.
const STREAM_PACKETS: u32 = 2;
/// Packets taken for questions over streams that are no longer out: acknowledgements are counted with what is sent next. What was taken
/// beyond that is for questions that never went out, and pays for nothing.
const STREAM_ARREARS: u32 = 16;

/// What is to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// A question, for the first time.
    Question,
    /// One that was not answered.
    Retry,
    /// One that was, and has to be asked in another way.
    Again,
}

/// Whether something may be sent.
pub enum Turn {
    /// Now.
    Now(Permit),
    /// In its turn.
    Wait(Wait),
    /// Not at all.
    No(Refused),
}

impl Group {
    /// A group to which nothing has been sent.
    pub fn new(name: String, budget: Budget) -> Group {
        let bounds = Bounds { total: MAX_WAITING as usize, client: MAX_WAITING_PER_CLIENT as usize };
        let ledger = Ledger::new(budget, bounds, Duration::ZERO);
        let book = |ledger| Mutex::new(Book { ledger, is_paced: false, taken_for_streams: 0, streams: 0 });
        let (start, domains) = (Instant::now(), RandomState::default());
        Group { name, budget, start, domains, book: ledger.map(book), counts: Counts::default() }
    }

    /// Where a question to a server goes, and for what.
    pub fn spot(&self, server: usize, qname: &[u8]) -> Spot {
        Spot { server: server as u32, domain: self.domains.hash_one(parent_domain(qname)) }
    }

    /// Asks for a turn to send something to a server, for everybody who waits for it.
    pub fn ask(self: &Arc<Self>, standing: &Arc<Standing>, spot: Spot, what: What, is_stream: bool) -> Turn {
        if self.book.is_none() {
            return Turn::Now(self.sends(spot, what, is_stream, None));
        }
        let mut turn = None;
        let asked = standing.enter(self, what, |places| {
            let Some(mut book) = self.book() else { return Asked::No(Refused::Full) };
            let (now, extra) = (self.now(), what == What::Retry);
            if extra && book.ledger.is_dead(spot) {
                return Asked::No(Refused::Silent);
            }
            let packets = if is_stream { STREAM_PACKETS } else { 1 };
            let wish = Wish { places, domain: spot.domain, packets, extra };
            let asked = book.ledger.ask(now, &wish, || {
                let (told, wait) = oneshot::channel();
                turn = Some(wait);
                told
            });
            if matches!(asked, Asked::Wait(_)) && !std::mem::replace(&mut book.is_paced, true) {
                tokio::task::spawn_local(pace(Pacer { group: Arc::clone(self), is_done: false }));
            }
            asked
        });
        match (asked, turn) {
            (Asked::Go(permit), _) => Turn::Now(self.sends(spot, what, is_stream, Some(permit))),
            (Asked::Wait(ticket), Some(turn)) => {
                let (group, standing) = (Arc::clone(self), Arc::clone(standing));
                Turn::Wait(Wait { group, standing, turn, ticket, spot, what, is_stream })
            }
            (Asked::No(why), _) => Turn::No(self.refused(why)),
            (Asked::Wait(_), None) => Turn::No(self.refused(Refused::Full)),
        }
    }

    /// Asks for a second server to be asked while the first is late.
    pub fn hedge(self: &Arc<Self>, spot: Spot) -> Option<Permit> {
        let permit = match self.book() {
            Some(mut book) => Some(book.ledger.hedge(self.now())?),
            None => None,
        };
        count(&self.counts.hedges, 1);
        count(&self.counts.sent, 1);
        Some(Permit { group: Arc::clone(self), spot, permit, is_stream: false, state: State::Open })
    }

    /// A client more waits for what stands in line.
    pub(super) fn also(&self, ticket: Ticket, place: fairness::Place) {
        if let Some(mut book) = self.book() {
            book.ledger.also(ticket, place);
        }
    }

    /// Segments of streams that have gone out.
    pub fn streamed(&self, segments: u32) {
        count(&self.counts.sent, segments);
        let Some(mut book) = self.book() else { return };
        let paid = book.taken_for_streams.min(segments);
        book.taken_for_streams -= paid;
        book.ledger.streamed(segments - paid);
    }

    /// Time on the clock that the book is told.
    pub(super) fn time(&self, instant: Instant) -> Duration {
        instant.saturating_duration_since(self.start)
    }

    /// Questions wait for their turn.
    pub fn has_line(&self) -> bool {
        self.book().is_some_and(|book| Class::ALL.iter().any(|class| book.ledger.waiting(*class) > 0))
    }

    fn now(&self) -> Duration {
        self.time(Instant::now())
    }

    fn book(&self) -> Option<MutexGuard<'_, Book>> {
        self.book.as_ref().map(|book| book.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What goes over a stream is counted by its segments.
    fn sends(
        self: &Arc<Self>,
        spot: Spot,
        what: What,
        is_stream: bool,
        permit: Option<ledger::Permit>,
    ) -> Permit {
        count(&self.counts.sent, u32::from(!is_stream));
        count(&self.counts.retries, u32::from(what == What::Retry));
        if is_stream && let Some(mut book) = self.book() {
            book.streams += 1;
            book.taken_for_streams = book.taken_for_streams.saturating_add(STREAM_PACKETS);
        }
        Permit { group: Arc::clone(self), spot, permit, is_stream, state: State::Open }
    }

    /// Counts a question that is refused.
    pub(super) fn refused(&self, why: Refused) -> Refused {
        if let Some(refused) = self.counts.refused.get(why as usize) {
            count(refused, 1);
        }
        why
    }

    /// Gives turns to whoever may have one; the time until the next, if anybody waits. If not, the pacer is done.
    fn turns(&self, by_pacer: bool) -> Option<Duration> {
        let mut book = self.book()?;
        let mut given = Vec::new();
        let next = loop {
            match book.ledger.next(self.now()) {
                Next::Go(told, permit) => given.push((told, Ok(permit))),
                Next::Late(told) => given.push((told, Err(Refused::Deadline))),
                Next::In(wait) => break Some(wait),
                Next::Nobody => break None,
            }
        };
        book.is_paced &= !by_pacer || next.is_some();
        drop(book);
        for (told, turn) in given {
            // Whoever waited may have gone away in this moment.
            if let Err(Ok(permit)) = told.send(turn)
                && let Some(mut book) = self.book()
            {
                book.ledger.forgotten(permit);
            }
        }
        next
    }

    /// Writes something into the book, and gives the turns that are due: at a high rate there are several between two ticks of a timer.
    fn told(&self, tell: impl FnOnce(&mut Line, Duration)) {
        let Some(mut book) = self.book() else { return };
        tell(&mut book.ledger, self.now());
        let waits = book.is_paced;
        drop(book);
        if waits {
            self.turns(false);
        }
    }
}

/// The book of questions that are told by a channel when their turn has come.
type Line = Ledger<oneshot::Sender<Result<ledger::Permit, Refused>>>;

/// What a name's look-ups have in common with others', as far as a name tells: its last two labels, or three below one such as `co.uk`.
fn parent_domain(qname: &[u8]) -> &[u8] {
    let mut last: [&[u8]; 3] = [&[]; 3];
    for suffix in ancestors(qname).filter(|suffix| suffix.len() > 1) {
        last.rotate_left(1);
        last[2] = suffix;
    }
    let [third, second, top] = last;
    let label_length = |name: &[u8]| name.first().map_or(0, |length| usize::from(*length));
    let is_public = label_length(top) == 2 && label_length(second) <= 3;
    [if is_public { third } else { second }, second, top]
        .into_iter()
        .find(|name| !name.is_empty())
        .unwrap_or(qname)
}

/// Gives turns until nobody waits.
async fn pace(mut pacer: Pacer) {
    while let Some(wait) = pacer.group.turns(true) {
        sleep(wait.max(TICK)).await;
    }
    pacer.is_done = true;
}

/// Whoever gives the turns. One that goes away with its worker leaves that to the next who has to wait.
struct Pacer {
    group: Arc<Group>,
    is_done: bool,
}

impl Drop for Pacer {
    fn drop(&mut self) {
        if !self.is_done
            && let Some(mut book) = self.group.book()
        {
            book.is_paced = false;
        }
    }
}

fn count(counter: &AtomicU64, packets: u32) {
    counter.fetch_add(u64::from(packets), Ordering::Relaxed);
}

/// A place in line, given up when dropped.
pub struct Wait {
    group: Arc<Group>,
    standing: Arc<Standing>,
    turn: oneshot::Receiver<Result<ledger::Permit, Refused>>,
    ticket: Ticket,
    spot: Spot,
    what: What,
    is_stream: bool,
}

impl Wait {
    /// Waits for the turn, until the latest deadline of all who wait.
    ///
    /// # Errors
    /// [`Refused`] where it did not come in time, or the place went to something more urgent.
    pub async fn turn(&mut self) -> Result<Permit, Refused> {
        loop {
            let by = self.standing.turn_by(self.what);
            match alarm::by(by, &mut self.turn).await {
                Ok(Ok(Ok(permit))) => {
                    return Ok(self.group.sends(self.spot, self.what, self.is_stream, Some(permit)));
                }
                Ok(Ok(Err(why))) => return Err(self.group.refused(why)),
                Ok(Err(_)) => return Err(self.group.refused(Refused::Full)),
                Err(_) if self.standing.turn_by(self.what) > by => {}
                Err(_) => return Err(self.group.refused(Refused::Deadline)),
            }
        }
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        self.standing.leave();
        let turn = self.turn.try_recv();
        self.group.told(|ledger, _| match turn {
            Ok(Ok(permit)) => ledger.forgotten(permit),
            Ok(Err(_)) => {}
            Err(_) => ledger.leave(self.ticket),
        });
    }
}

/// A packet on its way, or a question over a stream; what comes of it is told the group. Dropped without a word it counts for nothing.
pub struct Permit {
    group: Arc<Group>,
    spot: Spot,
    permit: Option<ledger::Permit>,
    is_stream: bool,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    Lost,
    Done,
}

impl Permit {
    /// It was answered; `well`: with data or a denial.
    pub fn answered(&mut self, well: bool) {
        let (spot, state) = (self.spot, std::mem::replace(&mut self.state, State::Done));
        if state != State::Done {
            count(&self.group.counts.answered, 1);
            self.tell(|ledger, now, permit| match state {
                State::Lost => ledger.found(permit, spot),
                State::Open | State::Done => ledger.answered(now, permit, spot, well),
            });
        }
    }

    /// It was answered REFUSED, which may be a limiter's word or the server's.
    pub fn declined(&mut self) {
        let spot = self.spot;
        if std::mem::replace(&mut self.state, State::Done) == State::Open {
            count(&self.group.counts.answered, 1);
            self.tell(|ledger, now, permit| ledger.declined(now, permit, spot));
        }
    }

    /// It has waited for its time.
    pub fn lost(&mut self) {
        if std::mem::replace(&mut self.state, State::Lost) == State::Open {
            let spot = self.spot;
            self.tell(|ledger, now, permit| ledger.lost(now, permit, spot));
        }
    }

    /// It was refused at once, and that may be a limiter's doing: then it is as good as lost.
    pub fn is_suspect(&mut self) -> bool {
        let (spot, mut is_suspect) = (self.spot, false);
        self.tell(|ledger, now, _| is_suspect = ledger.suspects(now, spot));
        if is_suspect {
            self.lost();
        }
        is_suspect
    }

    /// A later one to the same server for the same question was answered.
    pub fn retry_was_answered(&self) {
        if self.state == State::Lost {
            self.tell(|ledger, _, _| ledger.proven(self.spot));
        }
    }

    /// The server and the domain.
    pub fn spot(&self) -> Spot {
        self.spot
    }

    fn tell(&self, tell: impl FnOnce(&mut Line, Duration, ledger::Permit)) {
        if let Some(permit) = self.permit {
            self.group.told(|ledger, now| tell(ledger, now, permit));
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.is_stream
            && let Some(mut book) = self.group.book()
        {
            book.streams -= 1;
            let most = book.streams.saturating_mul(STREAM_PACKETS).saturating_add(STREAM_ARREARS);
            book.taken_for_streams = book.taken_for_streams.min(most);
        }
        if self.state == State::Open {
            self.tell(|ledger, _, permit| ledger.forgotten(permit));
        }
    }
}

/// What a group counts, for metrics.
pub struct Figures {
    /// Packets that went out.
    pub sent: u64,
    /// Packets and questions over streams that were answered.
    pub answered: u64,
    /// Of what went out: retries.
    pub retries: u64,
    /// Of what went out: second servers asked while the first was late.
    pub hedges: u64,
    /// Questions that got no turn.
    pub refused: [(Refused, u64); Refused::ALL.len()],
    /// Questions that wait for their turn.
    pub waiting: [(Class, u64); Class::ALL.len()],
    /// Packets a second that may go out, where there is a limit.
    pub rate: Option<u64>,
}

impl Group {
    /// What it has counted, and how it is now.
    pub fn figures(&self) -> Figures {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let book = self.book();
        let waiting = |class| book.as_ref().map_or(0, |book| book.ledger.waiting(class) as u64);
        Figures {
            sent: read(&self.counts.sent),
            answered: read(&self.counts.answered),
            retries: read(&self.counts.retries),
            hedges: read(&self.counts.hedges),
            refused: Refused::ALL.map(|why| (why, self.counts.refused.get(why as usize).map_or(0, read))),
            waiting: Class::ALL.map(|class| (class, waiting(class))),
            rate: book.as_ref().map(|book| book.ledger.settled_rate().round() as u64),
        }
    }
}

#[cfg(test)]
#[path = "group_tests.rs"]
mod tests;
