//! The one place that reads the clock for the cache: monotonic, and paused together with the tests' runtime.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

use crate::cache::ttl::Moment;

/// Counts from the start of the process.
///
/// CLOCK_MONOTONIC: a step of the wall clock neither ends answers nor makes them immortal.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
    unix_start_s: u64,
}

impl Clock {
    /// A clock that shows zero now.
    pub fn start() -> Clock {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Clock { start: Instant::now(), unix_start_s: unix.as_secs() }
    }

    /// The time since the start.
    #[inline]
    pub fn now(&self) -> Moment {
        Moment(u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    /// The time since the start in microseconds, for what has to be put in order.
    #[inline]
    pub fn now_us(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// The instant that so many microseconds since the start were.
    pub fn instant(&self, us: u64) -> Instant {
        self.start + Duration::from_micros(us)
    }

    /// Seconds of Unix time at a moment, for the time stamps of cookies (RFC 9018 section 4.3).
    pub fn unix_s(&self, moment: Moment) -> u32 {
        (self.unix_start_s + moment.0 / 1000) as u32
    }
}
