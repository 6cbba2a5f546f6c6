//! What is counted of the connections to a server, and what is said when they do not come about.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::tally::Tally;

/// What became of an attempt to open a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It can carry questions.
    Opened,
    /// The network or the host refused it.
    Refused,
    /// It was not there in time.
    TimedOut,
    /// No agreement on encryption, or a certificate that does not prove what it has to.
    Untrusted,
    /// It was opened and ended before its first reply.
    Unanswered,
}

impl Outcome {
    /// All of them, in the order of their counters.
    pub const ALL: [Outcome; 5] =
        [Outcome::Opened, Outcome::Refused, Outcome::TimedOut, Outcome::Untrusted, Outcome::Unanswered];

    /// The name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Outcome::Opened => "opened",
            Outcome::Refused => "refused",
            Outcome::TimedOut => "timeout",
            Outcome::Untrusted => "untrusted",
            Outcome::Unanswered => "unanswered",
        }
    }
}

/// The counters of one server, shared by all workers.
#[derive(Default)]
pub struct Links {
    outcomes: Tally<{ Outcome::ALL.len() }>,
    segments: AtomicU64,
    trouble: Mutex<Trouble>,
}

/// What was said last.
#[derive(Default)]
struct Trouble {
    since: Option<Instant>,
}

/// A trouble that lasts is said again after this.
const REPEAT: Duration = Duration::from_secs(600);

impl Links {
    /// Counts an attempt.
    pub fn count(&self, outcome: Outcome) {
        self.outcomes.count(outcome as usize);
    }

    /// Attempts by what became of them.
    pub fn outcomes(&self) -> [(Outcome, u64); Outcome::ALL.len()] {
        Outcome::ALL.map(|outcome| (outcome, self.outcomes.get(outcome as usize)))
    }

    /// Adds segments that a connection has sent.
    pub fn sent(&self, segments: u32) {
        self.segments.fetch_add(u64::from(segments), Ordering::Relaxed);
    }

    /// TCP segments sent over all connections, those of TLS too. A connection adds its own whenever it has been read from,
    /// and when it ends.
    pub fn segments(&self) -> u64 {
        self.segments.load(Ordering::Relaxed)
    }

    /// True where this trouble is news: the first since it last went well, or the first in ten minutes.
    pub fn is_news(&self, now: Instant) -> bool {
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        let is_news = trouble.since.is_none_or(|since| now >= since + REPEAT);
        if is_news {
            trouble.since = Some(now);
        }
        is_news
    }

    /// It went well; true where that is news.
    pub fn is_well(&self) -> bool {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).since.take().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_is_said_once_until_it_went_well() {
        let (links, now) = (Links::default(), Instant::now());
        assert!(!links.is_well());
        assert!(links.is_news(now) && !links.is_news(now + REPEAT / 2));
        assert!(links.is_news(now + REPEAT));
        assert!(links.is_well() && !links.is_well());
        assert!(links.is_news(now + REPEAT));
    }
}
