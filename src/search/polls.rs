//! Clients that wait for a service: who asks again and again for one that is not there sees it soon after it is.
//!
//! A denial in the cluster's zone lives for seconds; a program that polls for a new service would see none of it before. Three
//! questions of one client over two seconds make a *poll*: the name is asked for again after 1, 2, 4 … seconds, up to
//! the denial's own lifetime, for as long as the client goes on asking.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::cache::ttl::Moment;

/// Names that are watched at once, a few hundred bytes each.
pub const MAX_POLLS: usize = 1024;
/// Questions of one client that make a poll, and over how long.
const QUESTIONS: u32 = 3;
const OVER: Duration = Duration::from_secs(2);
/// The first pause.
const FIRST: Duration = Duration::from_secs(1);
/// The longest: a denial that lives longer is none of the cluster's.
const LONGEST: Duration = Duration::from_secs(30);
/// Whoever has not asked for this long has given up.
const GIVEN_UP: Duration = Duration::from_secs(60);
/// Re-queries of a node: 20 a second, one after another.
const PACE: Duration = Duration::from_millis(50);

/// What is to be asked again, and for whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requery {
    /// The QNAME in lower case, in wire form.
    pub qname: Box<[u8]>,
    /// The QTYPE.
    pub qtype: u16,
    /// The client that waits.
    pub client: IpAddr,
}

struct Poll {
    client: IpAddr,
    first: Moment,
    last: Moment,
    questions: u32,
    /// When it is asked next: only if its client has asked since the last time.
    next: Option<Moment>,
    pause: Duration,
    not_before: Moment,
}

/// All polls; of several clients that wait for one name one stands for all.
#[derive(Default)]
pub struct Polls {
    polls: HashMap<(Box<[u8]>, u16), Poll>,
    last: Option<Moment>,
}

impl Polls {
    /// A client was told that a name does not exist.
    pub fn denied(&mut self, qname: &[u8], qtype: u16, client: IpAddr, now: Moment) {
        let key = (Box::from(qname), qtype);
        if !self.polls.contains_key(&key) && self.polls.len() >= MAX_POLLS {
            self.polls.retain(|_, poll| now < poll.last.after(GIVEN_UP));
            if self.polls.len() >= MAX_POLLS {
                return;
            }
        }
        let begun = || Poll {
            client,
            first: now,
            last: now,
            questions: 0,
            next: None,
            pause: FIRST,
            not_before: Moment(0),
        };
        let poll = self.polls.entry(key).or_insert_with(begun);
        if now >= poll.last.after(GIVEN_UP) {
            *poll = begun();
        }
        if client != poll.client {
            return;
        }
        (poll.last, poll.questions) = (now, poll.questions.saturating_add(1));
        if poll.next.is_none() && poll.questions >= QUESTIONS && now >= poll.first.after(OVER) {
            let first = if poll.pause == FIRST { now.after(FIRST) } else { now };
            poll.next = Some(first.max(poll.not_before));
        }
    }

    /// What is to be asked now: one at most each twentieth of a second.
    pub fn due(&mut self, now: Moment) -> Option<Requery> {
        if self.last.is_some_and(|last| now < last.after(PACE)) {
            return None;
        }
        self.polls.retain(|_, poll| now < poll.last.after(GIVEN_UP));
        let ripe = self.polls.iter_mut().filter(|(_, poll)| poll.next.is_some_and(|at| at <= now));
        let ((qname, qtype), poll) = ripe.min_by_key(|(_, poll)| poll.next)?;
        (poll.next, poll.pause) = (None, (poll.pause * 2).min(LONGEST));
        poll.not_before = now.after(poll.pause);
        self.last = Some(now);
        Some(Requery { qname: qname.clone(), qtype: *qtype, client: poll.client })
    }

    /// True where nothing is watched.
    pub fn is_empty(&self) -> bool {
        self.polls.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &[u8] = b"\x03new\x04shop\x00";

    fn client(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    fn at(ms: u64) -> Moment {
        Moment(10_000 + ms)
    }

    /// The times at which a client that asks every so often causes a question.
    fn asked(every_ms: u64, until_ms: u64) -> Vec<u64> {
        let mut polls = Polls::default();
        let mut times = Vec::new();
        for ms in (0..until_ms).step_by(50) {
            if ms % every_ms == 0 {
                polls.denied(NAME, 1, client(1), at(ms));
            }
            times.extend(polls.due(at(ms)).map(|_| ms));
        }
        times
    }

    #[test]
    fn three_questions_over_two_seconds_make_a_poll_with_growing_pauses() {
        assert_eq!(asked(1000, 40_000), [3000, 5000, 9000, 17_000, 33_000]);
        assert_eq!(asked(100, 12_000), [3000, 5000, 9000]);
        assert!(asked(1000, 2000).is_empty() && asked(100_000, 500_000).is_empty());
    }

    #[test]
    fn who_asks_no_more_causes_one_question_at_most() {
        let mut polls = Polls::default();
        for ms in [0, 1000, 2000] {
            polls.denied(NAME, 1, client(1), at(ms));
        }
        let asked = (2000..70_000).filter(|ms| polls.due(at(*ms)).is_some()).count();
        assert_eq!((asked, polls.is_empty()), (1, true));
    }

    #[test]
    fn different_clients_make_no_poll_together() {
        let mut polls = Polls::default();
        for n in 0..20u8 {
            polls.denied(NAME, 1, client(n), at(u64::from(n) * 1000));
        }
        assert!(polls.due(at(20_000)).is_none());
    }

    #[test]
    fn a_node_asks_twenty_a_second_and_watches_a_bounded_number() {
        let mut polls = Polls::default();
        for ms in [0, 1000, 2000] {
            for n in 0..3000u16 {
                polls.denied(&[&[2][..], &n.to_be_bytes(), b"\0"].concat(), 1, client(1), at(ms));
            }
        }
        assert_eq!(polls.polls.len(), MAX_POLLS);
        let asked = (3000..4000).filter(|ms| polls.due(at(*ms)).is_some()).count();
        assert_eq!(asked, 20);
    }
}
