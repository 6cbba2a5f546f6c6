//! What was counted of a forwarder, and what follows from it.

use std::fmt;
use std::fmt::Write as _;

use crate::crowd::Sums;
use crate::witness::Seen;

/// What part of a new limit has to be sent for it to be followed.
const FOLLOWED: f64 = 0.9;
/// For how many seconds on end.
const FOR: f64 = 0.9;

/// All counts at a moment, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Count {
    /// Seconds since the start.
    pub at: f64,
    /// Distinct questions of the flood.
    pub offered: u64,
    /// Packets that came to the limiter.
    pub sent: u64,
    pub dropped: u64,
    /// Questions of the flood that were answered, and those that were answered badly.
    pub answered: u64,
    pub failed: u64,
    /// Questions of the polite client, and those that were answered.
    pub hot_asked: u64,
    pub hot_answered: u64,
}

impl Count {
    pub fn now(at: f64, (sent, dropped): (u64, u64), flood: Sums, hot: Sums) -> Count {
        Count {
            at,
            sent,
            dropped,
            offered: flood.asked,
            answered: flood.answered,
            failed: flood.failed,
            hot_asked: hot.asked,
            hot_answered: hot.answered,
        }
    }

    /// What was counted since an earlier moment; `at` stays.
    pub fn since(&self, before: &Count) -> Count {
        Count {
            at: self.at,
            offered: self.offered - before.offered,
            sent: self.sent - before.sent,
            dropped: self.dropped - before.dropped,
            answered: self.answered - before.answered,
            failed: self.failed - before.failed,
            hot_asked: self.hot_asked - before.hot_asked,
            hot_answered: self.hot_answered - before.hot_answered,
        }
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:4.1} s: {} offered, {} sent, {} dropped, {} answered, {} failed; hot {} of {}",
            self.at,
            self.offered,
            self.sent,
            self.dropped,
            self.answered,
            self.failed,
            self.hot_answered,
            self.hot_asked
        )
    }
}

pub struct Record {
    pub name: String,
    /// Since when, in seconds, which limit, in packets a second.
    pub limits: Vec<(f64, u32)>,
    /// In order.
    pub counts: Vec<Count>,
    /// The polite client's questions, and those that were not answered at last.
    pub hot_asked: u64,
    pub hot_lost: u64,
    pub seen: Seen,
}

impl Record {
    pub fn new(name: String, limit: u32) -> Record {
        Record {
            name,
            limits: vec![(0.0, limit)],
            counts: vec![Count::default()],
            hot_asked: 0,
            hot_lost: 0,
            seen: Seen::default(),
        }
    }

    /// What was counted in the last seconds, and how many these are.
    pub fn last(&self, seconds: f64) -> (Count, f64) {
        let end = self.counts[self.counts.len() - 1];
        // Half a step for a count that came late.
        let begin = self.counts.iter().rfind(|count| count.at <= end.at - seconds + 0.125);
        let begin = begin.copied().unwrap_or_default();
        (end.since(&begin), end.at - begin.at)
    }

    /// What part of the limit a count of the last seconds is.
    pub fn part(&self, seconds: f64, of: fn(&Count) -> u64) -> f64 {
        let (count, seconds) = self.last(seconds);
        of(&count) as f64 / seconds / f64::from(self.limits[self.limits.len() - 1].1)
    }

    /// Packets for each question that was sent at all.
    pub fn packets_each(&self) -> f64 {
        self.seen.packets as f64 / self.seen.distinct.max(1) as f64
    }

    /// Seconds from the last change of the limit until it is followed for a second.
    pub fn followed_after(&self) -> Option<f64> {
        let (changed, limit) = self.limits[self.limits.len() - 1];
        let is_followed = |from: &&Count| {
            let end = self.counts.iter().find(|count| count.at >= from.at + FOR);
            end.is_some_and(|end| {
                end.since(from).sent as f64 >= FOLLOWED * f64::from(limit) * (end.at - from.at)
            })
        };
        let from = self.counts.iter().filter(|count| count.at >= changed).find(is_followed)?;
        Some(from.at - changed)
    }
}

/// Everything that was counted, a line for each step of each forwarder.
pub fn csv(records: &[Record]) -> String {
    let mut text =
        "forwarder,seconds,limit,offered,sent,dropped,answered,failed,hot_asked,hot_answered\n".to_string();
    for record in records {
        let name = record.name.replace(", ", " ");
        for pair in record.counts.windows(2) {
            let one = pair[1].since(&pair[0]);
            let limit = record.limits.iter().rfind(|(since, _)| *since <= pair[0].at + 0.1).unwrap().1;
            writeln!(
                text,
                "{name},{:.2},{limit},{},{},{},{},{},{},{}",
                one.at,
                one.offered,
                one.sent,
                one.dropped,
                one.answered,
                one.failed,
                one.hot_asked,
                one.hot_answered
            )
            .unwrap();
        }
    }
    text
}

/// A record of so many packets a second, as they change.
pub fn made(rates: &[(u32, u64)]) -> Record {
    let mut record = Record::new("made".into(), 1000);
    let mut count = Count::default();
    for (steps, rate) in rates {
        for _ in 0..*steps {
            count.at += 0.25;
            count.offered += 750;
            count.sent += rate / 4;
            count.answered += rate / 5;
            record.counts.push(count);
        }
    }
    record
}

pub fn check_figures() {
    let mut record = made(&[(20, 3000), (40, 1000)]);
    assert_eq!(
        (record.part(10.0, |count| count.sent), record.part(10.0, |count| count.answered)),
        (1.0, 0.8)
    );
    assert_eq!(record.part(60.0, |count| count.sent), 25.0 / 15.0);
    record.seen = Seen { packets: 30, distinct: 20 };
    assert_eq!(record.packets_each(), 1.5);
    // Twice the limit at 5 s; a quarter of a second of it does not count, what stays does.
    let mut record = made(&[(20, 1000), (8, 1000), (1, 4000), (7, 1000), (12, 1900)]);
    record.limits.push((5.0, 2000));
    assert_eq!(record.followed_after(), Some(4.0));
    record.counts.truncate(37);
    assert_eq!(record.followed_after(), None);
    let text = csv(&[made(&[(2, 1000)])]);
    assert_eq!(text.lines().nth(2), Some("made,0.50,1000,750,250,0,200,0,0,0"));
}
