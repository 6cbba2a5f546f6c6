//! Who waits for a question: how urgent it is, until when it is of use, and where it stands in line for it.
//!
//! A question in flight has the best class, the best place and the latest deadline of all who wait for it. Whoever joins while it stands in
//! a group's line is put in line there too. Its mutex is taken before a group's, never after.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::Class;
use super::exchange::{DEADLINE, TRY_TIMEOUT};
use super::fairness::{MAX_PLACES, Place, Ticket};
use super::group::{Group, What};
use super::ledger::Asked;

/// One who waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiter {
    /// Whose turn is used.
    pub client: IpAddr,
    /// How urgent it is.
    pub class: Class,
    /// Until when an answer is of use.
    pub deadline: Instant,
}

impl Waiter {
    /// This process itself, for as long as a client would wait.
    pub fn ourselves(class: Class) -> Waiter {
        Waiter { client: Ipv4Addr::UNSPECIFIED.into(), class, deadline: Instant::now() + DEADLINE }
    }
}

/// All who wait.
#[derive(Default)]
pub struct Standing {
    waits: Mutex<Waits>,
}

#[derive(Default)]
struct Waits {
    /// Up to [`MAX_PLACES`] different clients.
    waiters: Vec<Waiter>,
    latest: Option<Instant>,
    /// When its first packet went out.
    begun: Option<Instant>,
    line: Option<(Arc<Group>, Ticket, What)>,
}

impl Standing {
    /// One waits.
    pub fn of(waiter: Waiter) -> Arc<Standing> {
        let standing = Standing::default();
        standing.join(waiter);
        Arc::new(standing)
    }

    /// One more waits.
    pub fn join(&self, waiter: Waiter) {
        let mut waits = self.waits();
        waits.latest = waits.latest.max(Some(waiter.deadline));
        let known = waits.waiters.iter_mut().find(|known| known.client == waiter.client);
        if let Some(known) = known {
            known.class = known.class.min(waiter.class);
            known.deadline = known.deadline.max(waiter.deadline);
        } else if waits.waiters.len() < MAX_PLACES {
            waits.waiters.push(waiter);
        } else if let Some(less) = waits.waiters.iter_mut().find(|other| other.class > waiter.class) {
            *less = waiter;
        } else {
            return;
        }
        if let Some((group, ticket, what)) = &waits.line {
            group.also(*ticket, waiter.place(group, *what));
        }
    }

    /// When it is over: an exchange has [`DEADLINE`] from its first packet, and until then as long as somebody waits for its turn.
    pub fn over_by(&self) -> Instant {
        let waits = self.waits();
        waits.begun.map(|begun| begun + DEADLINE).or(waits.latest).unwrap_or_else(Instant::now)
    }

    /// Its first packet goes out.
    pub(super) fn begin(&self, now: Instant) {
        self.waits().begun.get_or_insert(now);
    }

    /// Puts the question in line at a group, for all who wait.
    pub(super) fn enter(&self, group: &Arc<Group>, what: What, ask: impl FnOnce(&[Place]) -> Asked) -> Asked {
        let mut waits = self.waits();
        let nobody =
            Place { client: Ipv4Addr::UNSPECIFIED.into(), class: Class::Prefetch, deadline: Duration::ZERO };
        let mut places = [nobody; MAX_PLACES];
        for (place, waiter) in places.iter_mut().zip(&waits.waiters) {
            *place = waiter.place(group, what);
        }
        let asked = ask(places.get(..waits.waiters.len()).unwrap_or_default());
        if let Asked::Wait(ticket) = asked {
            waits.line = Some((Arc::clone(group), ticket, what));
        }
        asked
    }

    /// Until when a turn is of use to anybody.
    pub(super) fn turn_by(&self, what: What) -> Instant {
        what.turn_by(self.waits().latest.unwrap_or_else(Instant::now))
    }

    /// The question stands in line no more.
    pub(super) fn leave(&self) {
        self.waits().line = None;
    }

    fn waits(&self) -> MutexGuard<'_, Waits> {
        self.waits.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiter {
    fn place(&self, group: &Group, what: What) -> Place {
        let class = if what == What::Retry { self.class.max(Class::Retry) } else { self.class };
        Place { client: self.client, class, deadline: group.time(what.turn_by(self.deadline)) }
    }
}

impl What {
    /// A question needs the time of a try after its turn; what comes after goes out as long as an answer may still come.
    fn turn_by(self, deadline: Instant) -> Instant {
        match self {
            What::Question => deadline.checked_sub(TRY_TIMEOUT).unwrap_or(deadline),
            What::Retry | What::Again => deadline,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn waiter(client: u8, class: Class, deadline: Instant) -> Waiter {
        Waiter { client: [192, 0, 2, client].into(), class, deadline }
    }

    fn places(standing: &Standing, what: What) -> Vec<Place> {
        let group = Arc::new(Group::new("test".into(), super::super::budget::Budget::Adaptive));
        let mut seen = vec![];
        standing.enter(&group, what, |places| {
            seen = places.to_vec();
            Asked::No(super::super::fairness::Refused::Deadline)
        });
        seen
    }

    #[tokio::test(start_paused = true)]
    async fn each_client_has_one_place_with_its_best_class_and_latest_deadline() {
        let now = Instant::now();
        let standing = Standing::of(waiter(1, Class::Prefetch, now + 9 * SECOND));
        standing.join(waiter(1, Class::Client, now + SECOND));
        standing.join(waiter(2, Class::Refresh, now + 2 * SECOND));
        assert_eq!(standing.over_by(), now + 9 * SECOND);
        let seen = places(&standing, What::Question);
        assert_eq!(seen.iter().map(|place| place.class).collect::<Vec<_>>(), [Class::Client, Class::Refresh]);
        assert_eq!(seen[1].deadline, 2 * SECOND - TRY_TIMEOUT);
        let seen = places(&standing, What::Retry);
        assert_eq!(seen.iter().map(|place| place.class).collect::<Vec<_>>(), [Class::Retry, Class::Refresh]);
        assert_eq!(seen[1].deadline, 2 * SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn places_are_bounded_and_the_less_urgent_makes_room() {
        let now = Instant::now();
        let standing = Standing::default();
        (0..20).for_each(|client| standing.join(waiter(client, Class::Prefetch, now)));
        standing.join(waiter(99, Class::Client, now + SECOND));
        let seen = places(&standing, What::Question);
        assert_eq!((seen.len(), seen[0].client), (MAX_PLACES, [192, 0, 2, 99].into()));
        assert_eq!(standing.over_by(), now + SECOND);
    }
}
