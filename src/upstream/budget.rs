//! How many packets a second may go to a group of servers, and the pace that keeps to it.
//!
//! The pace is one governor limiter that counts microseconds of sending time: at a rate of `r` a packet costs `1,000,000 / r` of
//! them, so that a rate that moves is followed at once and hands out no fresh burst. What is saved up while nothing is sent
//! is cut to [`BURST`] packets.

use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use governor::clock::Clock;
use governor::middleware::StateInformationMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};

/// Packets that may go out at once after a pause, over all workers: a limiter in front of a resolver is known to take so many.
pub const BURST: u32 = 5;
/// The least budget, packets a second.
pub const MIN_RATE: u32 = 10;
/// The largest budget, packets a second; a microsecond is a tenth of a packet's time then.
pub const MAX_RATE: u32 = 100_000;

/// AWS: the VPC resolver takes 1,024 packets a second from a network interface and drops what is over it ("DNS quotas" in
/// the manual of Amazon VPC).
const AWS: u32 = 1024;
/// Alibaba Cloud: 600 questions a second for names outside from an instance ("Limits on PrivateZone"; 5,000 in all).
const ALIBABA: u32 = 600;

/// What may be sent to a group of servers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Budget {
    /// As much as is asked.
    #[default]
    Unlimited,
    /// As much as is delivered.
    Adaptive,
    /// What AWS lets through.
    Aws,
    /// What Alibaba Cloud lets through.
    Alibaba,
    /// So many packets a second.
    Fixed(NonZeroU32),
}

impl Budget {
    /// What may be written.
    pub const ALLOWED: &str =
        "\"adaptive\", \"aws\", \"alibaba\", \"none\" or packets a second from \"10/s\" to \"100000/s\"";

    /// Reads what [`Budget::ALLOWED`] says.
    pub fn from_text(text: &str) -> Option<Budget> {
        match text {
            "none" => Some(Budget::Unlimited),
            "adaptive" => Some(Budget::Adaptive),
            "aws" => Some(Budget::Aws),
            "alibaba" => Some(Budget::Alibaba),
            text => {
                let rate: u32 = text.strip_suffix("/s")?.parse().ok()?;
                let in_range = (MIN_RATE..=MAX_RATE).contains(&rate);
                NonZeroU32::new(rate).filter(|_| in_range).map(Budget::Fixed)
            }
        }
    }

    /// Packets a second, where they are known beforehand.
    pub fn fixed(self) -> Option<u32> {
        match self {
            Budget::Unlimited | Budget::Adaptive => None,
            Budget::Aws => Some(AWS),
            Budget::Alibaba => Some(ALIBABA),
            Budget::Fixed(rate) => Some(rate.get()),
        }
    }

    /// What limits it counts a whole node, whichever of its servers is asked.
    pub fn is_of_the_node(self) -> bool {
        matches!(self, Budget::Aws | Budget::Alibaba)
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Budget::Unlimited => f.write_str("none"),
            Budget::Adaptive => f.write_str("adaptive"),
            Budget::Aws => f.write_str("aws"),
            Budget::Alibaba => f.write_str("alibaba"),
            Budget::Fixed(rate) => write!(f, "{rate}/s"),
        }
    }
}

/// What the servers of a zone may be sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// How much.
    pub budget: Budget,
    /// With whom they share it: all servers of this name; without one each address has a budget of its own.
    pub group: Option<String>,
}

/// Microseconds in a second, what the limiter is refilled with.
const SECOND: NonZeroU32 = NonZeroU32::new(1_000_000).unwrap();
/// What the limiter can save up: a burst at the least rate.
const ROOM: NonZeroU32 = NonZeroU32::new(BURST * (SECOND.get() / MIN_RATE)).unwrap();

/// The clock that the limiter reads: what it was told last, nanoseconds.
#[derive(Clone, Debug, Default)]
struct Told(Arc<AtomicU64>);

impl Clock for Told {
    type Instant = Duration;

    fn now(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }
}

/// A rate of packets that may move.
pub struct Pace {
    limiter: RateLimiter<NotKeyed, InMemoryState, Told, StateInformationMiddleware>,
    told: Told,
    /// Microseconds a packet takes, rounded up: never more than the rate.
    cost: u32,
    /// Packets that went out unasked and are not paid for yet.
    owed: u32,
    /// A packet was paid for and did not go out.
    spare: bool,
}

impl Pace {
    /// A pace of so many packets a second.
    pub fn new(rate: f64) -> Pace {
        let told = Told::default();
        let quota = Quota::per_second(SECOND).allow_burst(ROOM);
        let limiter = RateLimiter::direct_with_clock(quota, told.clone())
            .with_middleware::<StateInformationMiddleware>();
        let mut pace = Pace { limiter, told, cost: 1, owed: 0, spare: false };
        pace.set_rate(rate);
        pace
    }

    /// Moves the rate; what was saved up or owed stays.
    pub fn set_rate(&mut self, rate: f64) {
        let rate = rate.clamp(f64::from(MIN_RATE), f64::from(MAX_RATE));
        self.cost = (f64::from(SECOND.get()) / rate).ceil() as u32;
    }

    /// Takes the time for some packets, at most [`BURST`].
    ///
    /// # Errors
    /// How long it takes until there is enough.
    pub fn take(&mut self, now: Duration, packets: u32) -> Result<(), Duration> {
        if packets == 1 && std::mem::take(&mut self.spare) {
            return Ok(());
        }
        self.told.0.store(u64::try_from(now.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        while self.owed > 0 {
            let some = self.owed.min(BURST);
            self.spend(now, some)?;
            self.owed -= some;
        }
        self.spend(now, packets.min(BURST))
    }

    /// Packets that have gone out already, such as segments of a stream: they are paid for before anything else goes.
    pub fn owe(&mut self, packets: u32) {
        self.owed = self.owed.saturating_add(packets);
    }

    /// A packet that was paid for does not go out: the next may at once.
    pub fn give_back(&mut self) {
        self.spare = true;
    }

    fn spend(&self, now: Duration, packets: u32) -> Result<(), Duration> {
        let Some(cost) = NonZeroU32::new(self.cost * packets) else { return Ok(()) };
        let left = match self.limiter.check_n(cost) {
            Ok(Ok(state)) => state.remaining_burst_capacity(),
            Ok(Err(not_until)) => return Err(not_until.wait_time_from(now)),
            // A burst fits by construction; waiting is the safe answer to what cannot happen.
            Err(_) => return Err(Duration::from_secs(1)),
        };
        let kept = self.cost * (BURST - packets);
        if let Some(surplus) = NonZeroU32::new(left.saturating_sub(kept)) {
            let _ = self.limiter.check_n(surplus);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Packets that go out in so many milliseconds when there are always some to send.
    fn sent(pace: &mut Pace, from: Duration, millis: u32) -> u32 {
        (0..millis * 10).map(|tick| from + MS * tick / 10).filter(|now| pace.take(*now, 1).is_ok()).count()
            as u32
    }

    #[test]
    fn a_rate_is_kept_and_followed_when_it_moves() {
        let mut pace = Pace::new(1000.0);
        let first = sent(&mut pace, MS, 1000);
        assert!((1000..=1000 + BURST).contains(&first), "{first}");
        for (second, rate) in [200, 1001, 5003, 50].into_iter().enumerate() {
            pace.set_rate(f64::from(rate));
            let sent = sent(&mut pace, MS * 1001 * (second as u32 + 1), 1000);
            // Whole microseconds a packet: within half a per cent below.
            assert!(
                sent <= rate + BURST && f64::from(sent) >= f64::from(rate) * 0.995 - 1.0,
                "{sent} of {rate}"
            );
        }
    }

    #[test]
    fn a_rate_that_moves_all_the_time_hands_out_no_bursts() {
        let mut pace = Pace::new(1000.0);
        let mut all = 0;
        for tick in 0..10_000u32 {
            if tick % 100 == 0 {
                pace.set_rate(if tick % 200 == 0 { 1000.0 } else { 999.0 });
            }
            all += u32::from(pace.take(MS * tick / 10, 1).is_ok());
        }
        assert!(all <= 1000 + BURST, "{all}");
    }

    #[test]
    fn after_a_pause_of_any_length_a_burst_goes_out_and_no_more() {
        for rate in [10.0, 50.0, 1024.0, 100_000.0] {
            let mut pace = Pace::new(rate);
            for pause in [1, 10, 3600] {
                let now = Duration::from_secs(pause * 10_000);
                let burst = (0..100).filter(|_| pace.take(now, 1).is_ok()).count();
                assert_eq!(burst, BURST as usize, "{rate}/s after {pause}");
            }
        }
    }

    #[test]
    fn the_wait_is_until_the_next_packet() {
        let mut pace = Pace::new(100.0);
        let now = Duration::from_secs(1);
        (0..BURST).for_each(|_| pace.take(now, 1).unwrap());
        let wait = pace.take(now, 1).unwrap_err();
        assert_eq!(wait, MS * 10);
        assert!(pace.take(now + wait - Duration::from_micros(1), 1).is_err());
        assert!(pace.take(now + wait, 1).is_ok());
    }

    #[test]
    fn what_went_out_unasked_is_paid_for_first() {
        let mut pace = Pace::new(1000.0);
        pace.owe(500);
        let sent = sent(&mut pace, Duration::from_secs(1), 1000);
        assert!((500..=500 + BURST).contains(&sent), "{sent}");
    }

    #[test]
    fn what_did_not_go_out_is_not_lost() {
        let mut pace = Pace::new(100.0);
        let now = Duration::from_secs(1);
        (0..BURST).for_each(|_| pace.take(now, 1).unwrap());
        pace.give_back();
        assert!(pace.take(now, 1).is_ok() && pace.take(now, 1).is_err());
    }

    #[test]
    fn budgets_read_back() {
        for text in ["none", "adaptive", "aws", "alibaba", "10/s", "1000/s", "100000/s"] {
            assert_eq!(Budget::from_text(text).unwrap().to_string(), text);
        }
        for wrong in
            ["", "1000", "9/s", "100001/s", "/s", "-5/s", "1e3/s", "Aws", "1000 / s", "99999999999/s"]
        {
            assert_eq!(Budget::from_text(wrong), None, "{wrong}");
        }
        assert_eq!(Budget::Aws.fixed(), Some(1024));
    }
}
