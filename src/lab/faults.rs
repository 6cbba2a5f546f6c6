//! What goes wrong on demand: decisions that take chance and time as arguments.

use std::num::NonZeroU32;
use std::time::Duration;

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

/// Datagrams that may come at once where there is a rate limit, as little as a VPC resolver forgives.
const BURST: NonZeroU32 = NonZeroU32::new(5).unwrap();

/// The faults.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Faults {
    /// Time before each answer.
    pub latency: Duration,
    /// Up to so much more.
    pub jitter: Duration,
    /// Part of the datagrams lost, each way.
    pub loss: f64,
    /// Part of the questions answered SERVFAIL.
    pub servfail: f64,
    /// Datagrams a second that a server takes.
    pub rate_limit: Option<NonZeroU32>,
    /// Every datagram is answered with TC and nothing else.
    pub truncate: bool,
}

/// What becomes of a question.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fate {
    /// It is answered after a while.
    Answer {
        /// The while.
        after: Duration,
        /// With SERVFAIL.
        servfail: bool,
        /// The answer is lost on the way back.
        lost: bool,
    },
    /// It is lost on the way.
    Lost,
    /// It is over the limit.
    OverLimit,
}

/// One server's faults, with its limiter.
pub struct Mishaps {
    faults: Faults,
    limiter: Option<DefaultDirectRateLimiter>,
}

impl Mishaps {
    /// Nothing has gone wrong yet.
    pub fn new(faults: Faults) -> Mishaps {
        let limiter =
            faults.rate_limit.map(|rate| RateLimiter::direct(Quota::per_second(rate).allow_burst(BURST)));
        Mishaps { faults, limiter }
    }

    /// Decides with four numbers from 0 to 1. Streams neither lose anything nor count against the limit.
    pub fn fate(&self, datagram: bool, chance: [f64; 4]) -> Fate {
        let Faults { latency, jitter, loss, servfail, .. } = self.faults;
        if datagram && self.limiter.as_ref().is_some_and(|limiter| limiter.check().is_err()) {
            return Fate::OverLimit;
        }
        let [there, back, fails, longer] = chance;
        if datagram && there < loss {
            return Fate::Lost;
        }
        Fate::Answer {
            after: latency + jitter.mul_f64(longer),
            servfail: fails < servfail,
            lost: datagram && back < loss,
        }
    }

    /// True where this answer goes out empty with TC.
    pub fn truncates(&self, datagram: bool) -> bool {
        datagram && self.faults.truncate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fault_comes_when_chance_says_so() {
        let faults = Faults {
            latency: Duration::from_millis(20),
            jitter: Duration::from_millis(10),
            loss: 0.1,
            servfail: 0.5,
            ..Faults::default()
        };
        let mishaps = Mishaps::new(faults);
        assert_eq!(mishaps.fate(true, [0.05, 0.9, 0.9, 0.0]), Fate::Lost);
        let after = Duration::from_millis(25);
        assert_eq!(
            mishaps.fate(true, [0.5, 0.05, 0.4, 0.5]),
            Fate::Answer { after, servfail: true, lost: true }
        );
        assert_eq!(
            mishaps.fate(false, [0.0, 0.0, 0.9, 0.5]),
            Fate::Answer { after, servfail: false, lost: false }
        );
    }

    #[test]
    fn what_is_over_the_limit_is_dropped() {
        let mishaps = Mishaps::new(Faults { rate_limit: NonZeroU32::new(1), ..Faults::default() });
        let dropped = (0..10).filter(|_| mishaps.fate(true, [0.5; 4]) == Fate::OverLimit).count();
        assert!((4..=5).contains(&dropped), "{dropped}");
        assert!(mishaps.fate(false, [0.5; 4]) != Fate::OverLimit);
    }
}
