//! The book of a group of servers: what was sent, who waits, who goes next. Told the time; the lock and the waiting are elsewhere.
//!
//! A packet goes out at once where nobody waits for more than it and the pace allows it. Else its question stands in line
//! ([`super::fairness`]) until the pace allows the next packet. Retries and hedges are *extra* packets. Below the rate they
//! share half of what it leaves over; at the rate they are one for ten questions, and that one goes first: in strict order it never would.

use std::hash::BuildHasher;
use std::time::Duration;

use foldhash::quality::FixedState;

use super::Class;
use super::budget::{Budget, Pace};
use super::fairness::{Bounds, Place, QUESTIONS_PER_RETRY, Queue, Refused, Ticket};
use super::rate::{Epoch, FLOOR, Rate};
use super::window::Spot;

/// For how long questions and extra packets are remembered, by the second.
const SECONDS: usize = 10;
/// So many packets without an answer, over [`SILENT_TIME`] at least, are no chance: one in a thousand years where three of ten are lost
/// each way.
const SILENT_PACKETS: u32 = 64;
/// A server that is being restarted may take so long.
const SILENT_TIME: Duration = Duration::from_secs(1);
/// How often it is looked whether a retry may go that only its share keeps back.
const SHARE: Duration = Duration::from_millis(20);
/// For how long a server that answered well for a domain is expected to do so again.
const GOOD: Duration = Duration::from_secs(300);
/// For how long an answer shows that what is lost at the server for that domain is not lost because nobody is there.
const ALIVE: Duration = Duration::from_secs(1);
/// After so many packets in a row that a server left unanswered for a domain, it gets no retries there until it answers: where half is
/// lost by chance, sixteen in a row are not.
const DEAD: u32 = 16;
/// Pairs of server and domain that are remembered, an even number.
pub const SPOTS: usize = 1024;

/// A packet that may go out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Permit {
    /// The window of the adaptive rate that it counts in.
    pub epoch: Option<Epoch>,
    /// It is a retry, or for a second server.
    pub extra: bool,
}

/// What is to go out.
#[derive(Clone, Copy, Debug)]
pub struct Wish<'p> {
    /// Who stands in line for it.
    pub places: &'p [Place],
    /// What a client's questions share turns by.
    pub domain: u64,
    /// Packets it takes.
    pub packets: u32,
    /// It has been asked before: a retry.
    pub extra: bool,
}

/// Whether something may go out.
#[derive(Debug, PartialEq, Eq)]
pub enum Asked {
    /// Now.
    Go(Permit),
    /// In its turn.
    Wait(Ticket),
    /// Not at all.
    No(Refused),
}

/// Who goes next.
#[derive(Debug, PartialEq, Eq)]
pub enum Next<T> {
    /// This one, now.
    Go(T, Permit),
    /// This one's deadline has passed.
    Late(T),
    /// Somebody, but not before so much time has passed.
    In(Duration),
    /// Nobody waits.
    Nobody,
}

/// The book.
pub struct Ledger<T> {
    pace: Pace,
    rate: Option<Rate>,
    fixed: f64,
    queue: Queue<T>,
    extras: Extras,
    spots: Spots,
    silence: Silence,
}

impl<T> Ledger<T> {
    /// An empty book; none for a budget without a limit.
    pub fn new(budget: Budget, bounds: Bounds, now: Duration) -> Option<Ledger<T>> {
        let rate = (budget == Budget::Adaptive).then(|| Rate::new(now));
        let fixed = match (&rate, budget.fixed()) {
            (Some(rate), _) => rate.now(),
            (None, fixed) => f64::from(fixed?),
        };
        Some(Ledger {
            pace: Pace::new(fixed),
            rate,
            fixed,
            queue: Queue::new(bounds),
            extras: Extras::default(),
            spots: Spots::default(),
            silence: Silence::default(),
        })
    }

    /// Asks for something to go out; where it has to wait, `item` is told when its turn has come.
    pub fn ask(&mut self, now: Duration, wish: &Wish<'_>, item: impl FnOnce() -> T) -> Asked {
        self.tick(now);
        let class = wish.places.iter().map(|place| place.class).min().unwrap_or(Class::Prefetch);
        let is_free = !wish.extra || self.may_send_extra(now);
        let is_next = is_free && !self.waits_for(class);
        if is_next && self.pace.take(now, wish.packets).is_ok() {
            return Asked::Go(self.count(now, wish.extra, false));
        }
        if !is_free
            && !self.is_at_rate(now)
            && let Some(rate) = &mut self.rate
        {
            rate.kept_back();
        }
        // A retry that nobody waits for is no loss where it has to wait.
        if wish.extra && class > Class::Retry {
            return Asked::No(Refused::Deadline);
        }
        match self.queue.push(now, self.rate(), wish.places, wish.domain, wish.packets, item()) {
            Ok(ticket) => Asked::Wait(ticket),
            Err(why) => Asked::No(why),
        }
    }

    /// Asks for a second server to be asked while the first is late: at once, below the rate, or not at all.
    pub fn hedge(&mut self, now: Duration) -> Option<Permit> {
        self.tick(now);
        let may_go = !self.is_at_rate(now) && self.may_send_extra(now) && self.pace.take(now, 1).is_ok();
        may_go.then(|| self.count(now, true, false))
    }

    /// Whoever goes next, to be called until it is nobody or not yet.
    pub fn next(&mut self, now: Duration) -> Next<T> {
        self.tick(now);
        if self.queue.is_empty() {
            return Next::Nobody;
        }
        let retry_waits = self.queue.len_of(Class::Retry) > 0;
        let retry_goes = retry_waits && self.may_send_extra(now);
        let others = [Class::Client, Class::Refresh, Class::Prefetch];
        if !retry_goes && others.iter().all(|class| self.queue.len_of(*class) == 0) {
            return Next::In(SHARE);
        }
        if let Err(wait) = self.pace.take(now, 1) {
            return Next::In(wait);
        }
        let first = if retry_goes { self.queue.pop_of(Class::Retry, now) } else { None };
        let turn = first.or_else(|| others.into_iter().find_map(|class| self.queue.pop_of(class, now)));
        let Some(turn) = turn else { return Next::Nobody };
        self.pace.owe(turn.packets.saturating_sub(1));
        if turn.late {
            // What it took goes to the next.
            self.pace.give_back();
            return Next::Late(turn.item);
        }
        Next::Go(turn.item, self.count(now, turn.class == Class::Retry, true))
    }
}

/// What is asked in line, and what becomes of packets.
impl<T> Ledger<T> {
    /// One more waits for what stands in line.
    pub fn also(&mut self, ticket: Ticket, place: Place) {
        self.queue.also(ticket, place);
    }

    /// Nobody waits for it any more.
    pub fn leave(&mut self, ticket: Ticket) {
        self.queue.remove(ticket);
    }

    /// Segments of streams that went out, beyond what was taken for them.
    pub fn streamed(&mut self, packets: u32) {
        self.pace.owe(packets);
        if let Some(rate) = &mut self.rate {
            rate.streamed(packets);
        }
    }

    /// A packet was answered; `well`: with data or a denial.
    pub fn answered(&mut self, now: Duration, permit: Permit, spot: Spot, well: bool) {
        self.silence = Silence { packets: 0, since: now };
        self.with(permit, |rate, epoch| rate.delivered(epoch, spot.server));
        if let Some(known) = self.spots.entry(spot) {
            known.lost = 0;
            known.answered_well = if well { Some(now) } else { known.answered_well };
        }
    }

    /// A packet was given up, or refused where it should not have been.
    pub fn lost(&mut self, now: Duration, permit: Permit, spot: Spot) {
        let mut others_come = false;
        if let Some(known) = self.spots.entry(spot) {
            known.lost = known.lost.saturating_add(1);
            // Retries at names whose own servers are down grow with the rate, beside names of the domain that are well.
            others_come = !permit.extra && known.answered_well.is_some_and(|at| now < at + ALIVE);
        }
        self.with(permit, |rate, epoch| rate.lost(epoch, spot, others_come));
    }

    /// A packet was refused, by a limiter or for good: the server is there, and nothing is known of how much it takes.
    pub fn declined(&mut self, now: Duration, permit: Permit, spot: Spot) {
        self.silence = Silence { packets: 0, since: now };
        if let Some(known) = self.spots.entry(spot) {
            known.lost = 0;
        }
        self.with(permit, |rate, epoch| rate.declined(epoch, spot));
    }

    /// A packet that was given up was answered late.
    pub fn found(&mut self, permit: Permit, spot: Spot) {
        if let Some(known) = self.spots.entry(spot) {
            known.lost = 0;
        }
        self.with(permit, |rate, epoch| rate.found(epoch, spot));
    }

    /// A retry of a packet that was given up was answered by the same server.
    pub fn proven(&mut self, spot: Spot) {
        if let Some(rate) = &mut self.rate {
            rate.proven(spot);
        }
    }

    /// Nobody will know what came of a packet.
    pub fn forgotten(&mut self, permit: Permit) {
        self.with(permit, Rate::forgotten);
    }

    /// A prompt failure may be a limiter's: more than a trickle is sent, and the server answered well for this domain just now.
    pub fn suspects(&self, now: Duration, spot: Spot) -> bool {
        let sent = self.extras.last_second(now);
        let well = self.spots.get(spot).and_then(|known| known.answered_well);
        self.rate.is_some() && sent.questions + sent.extras > FLOOR && well.is_some_and(|at| now < at + GOOD)
    }

    /// A server has not answered for a domain for long: asking twice as often will not help.
    pub fn is_dead(&self, spot: Spot) -> bool {
        self.spots.get(spot).is_some_and(|known| known.lost >= DEAD)
    }

    /// Packets a second that may go out now.
    pub fn rate(&self) -> f64 {
        self.rate.as_ref().map_or(self.fixed, Rate::now)
    }

    /// The same but for experiments with an adaptive rate.
    pub fn settled_rate(&self) -> f64 {
        self.rate.as_ref().map_or(self.fixed, Rate::settled)
    }

    /// Questions that wait, of a class.
    pub fn waiting(&self, class: Class) -> usize {
        self.queue.len_of(class)
    }

    /// The rate is used up: questions wait, or more was sent and no more delivered.
    pub fn is_at_rate(&self, now: Duration) -> bool {
        let waits =
            [Class::Client, Class::Refresh, Class::Prefetch].map(|class| self.queue.len_of(class) > 0);
        waits.contains(&true) || self.rate.as_ref().is_some_and(|rate| rate.is_at_limit(now))
    }

    fn with(&mut self, permit: Permit, tell: impl FnOnce(&mut Rate, Epoch)) {
        if let (Some(rate), Some(epoch)) = (&mut self.rate, permit.epoch) {
            tell(rate, epoch);
        }
    }

    fn tick(&mut self, now: Duration) {
        if let Some(rate) = &mut self.rate {
            let before = rate.now();
            rate.tick(now);
            if rate.now() != before {
                self.pace.set_rate(rate.now());
            }
        }
    }

    fn count(&mut self, now: Duration, extra: bool, waited: bool) -> Permit {
        self.extras.count(now, extra);
        self.silence.packets = self.silence.packets.saturating_add(1);
        Permit { epoch: self.rate.as_mut().map(|rate| rate.sent(waited)), extra }
    }

    /// Somebody waits who comes before a newcomer of this class.
    fn waits_for(&self, class: Class) -> bool {
        Class::ALL.into_iter().take_while(|other| *other <= class).any(|other| self.queue.len_of(other) > 0)
    }

    fn may_send_extra(&self, now: Duration) -> bool {
        if self.is_at_rate(now) || self.silence.is_long(now) {
            let lately = self.extras.lately(now);
            return lately.extras * f64::from(QUESTIONS_PER_RETRY) < lately.questions.max(1.0);
        }
        let sent = self.extras.last_second(now);
        sent.extras < (self.rate() - sent.questions) / 2.0
    }
}

/// Packets since the last answer, and when that came.
#[derive(Default)]
struct Silence {
    packets: u32,
    since: Duration,
}

impl Silence {
    /// Nobody answers: asking twice as often will not help.
    fn is_long(&self, now: Duration) -> bool {
        self.packets >= SILENT_PACKETS && now >= self.since + SILENT_TIME
    }
}

/// Packets that were sent in a stretch of time.
#[derive(Clone, Copy, Debug, Default)]
struct Sent {
    questions: f64,
    extras: f64,
}

/// Questions and extra packets by the second, the present one last.
#[derive(Default)]
struct Extras {
    seconds: [Sent; SECONDS],
    present: u64,
}

impl Extras {
    fn count(&mut self, now: Duration, extra: bool) {
        let second = now.as_secs();
        let passed = usize::try_from(second.saturating_sub(self.present)).unwrap_or(SECONDS).min(SECONDS);
        self.seconds.rotate_left(passed);
        self.seconds.iter_mut().rev().take(passed).for_each(|sent| *sent = Sent::default());
        self.present = second.max(self.present);
        if let Some(sent) = self.seconds.last_mut() {
            *(if extra { &mut sent.extras } else { &mut sent.questions }) += 1.0;
        }
    }

    /// The sum over the last seconds that are remembered.
    fn lately(&self, now: Duration) -> Sent {
        let passed =
            usize::try_from(now.as_secs().saturating_sub(self.present)).unwrap_or(SECONDS).min(SECONDS);
        self.seconds.iter().skip(passed).fold(Sent::default(), |sum, sent| Sent {
            questions: sum.questions + sent.questions,
            extras: sum.extras + sent.extras,
        })
    }

    /// What is in the second before now, as if each second's packets were spread evenly.
    fn last_second(&self, now: Duration) -> Sent {
        let passed =
            usize::try_from(now.as_secs().saturating_sub(self.present)).unwrap_or(SECONDS).min(SECONDS);
        let at = |back: usize| {
            let index = (SECONDS - 1).checked_sub(back.checked_sub(passed)?)?;
            self.seconds.get(index).copied()
        };
        let (present, before) = (at(0).unwrap_or_default(), at(1).unwrap_or_default());
        let part = 1.0 - f64::from(now.subsec_nanos()) / 1e9;
        Sent {
            questions: present.questions + before.questions * part,
            extras: present.extras + before.extras * part,
        }
    }
}

/// What is known of a server and a domain.
#[derive(Clone, Copy)]
struct Known {
    spot: Spot,
    answered_well: Option<Duration>,
    /// Packets in a row that were not answered.
    lost: u32,
}

/// How servers fare with domains, lately. Each pair has two places; where both are taken it puts out the one that has lost less.
#[derive(Default)]
struct Spots {
    places: Vec<Option<Known>>,
    /// No secret is needed: a spot's domain is a keyed hash already.
    hasher: FixedState,
}

impl Spots {
    fn get(&self, spot: Spot) -> Option<Known> {
        let places = self.index(spot).map(|index| self.places.get(index).copied().flatten());
        places.into_iter().flatten().find(|known| known.spot == spot)
    }

    fn entry(&mut self, spot: Spot) -> Option<&mut Known> {
        if self.places.is_empty() {
            self.places.resize(SPOTS, None);
        }
        let rank = |index: &usize| match self.places.get(*index).copied().flatten() {
            Some(known) if known.spot == spot => (0, 0),
            None => (1, 0),
            Some(known) => (2, known.lost),
        };
        let index = self.index(spot).into_iter().min_by_key(rank)?;
        let place = self.places.get_mut(index)?;
        let known = place.filter(|known| known.spot == spot);
        Some(place.insert(known.unwrap_or(Known { spot, answered_well: None, lost: 0 })))
    }

    fn index(&self, spot: Spot) -> [usize; 2] {
        let index = self.hasher.hash_one(spot) as usize % SPOTS;
        [index, index ^ 1]
    }
}

#[cfg(test)]
#[path = "ledger_traffic.rs"]
mod traffic;
