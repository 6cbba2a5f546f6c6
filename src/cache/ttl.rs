//! How long an answer may be used, from what it says and nothing else.

use std::time::Duration;

use crate::wire::answer::{Answer, Kind, clamp_ttl};

/// A reading of the monotonic clock, in milliseconds since the process began.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Moment(pub u64);

impl Moment {
    /// This moment and a duration more.
    pub fn after(self, duration: Duration) -> Moment {
        Moment(self.0.saturating_add(duration.as_millis().try_into().unwrap_or(u64::MAX)))
    }

    /// Whole seconds since an earlier moment; zero where it is none.
    #[inline]
    pub fn seconds_since(self, earlier: Moment) -> u32 {
        u32::try_from(self.0.saturating_sub(earlier.0) / 1000).unwrap_or(u32::MAX)
    }
}

/// The longest that answers are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caps {
    /// Positive answers. Their own TTLs hold below it, with no floor.
    pub positive: Duration,
    /// NXDOMAIN and NODATA (RFC 2308 section 5 recommends one to three hours).
    pub negative: Duration,
    /// Either past its end, where nothing newer can be had: the maximum stale timer (RFC 8767 section 5). Zero: never.
    pub stale: Duration,
}

/// The TTL of an answer past its end (RFC 8767 section 4).
pub const STALE_TTL: Duration = Duration::from_secs(30);

/// For how long a refresh that failed is not tried again, the failure recheck timer (RFC 8767 section 5: no more
/// frequently than every 30 seconds).
const FAILURE_RECHECK: Duration = Duration::from_secs(30);

/// What is to be done about an answer that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recheck {
    /// A refresh has just failed: the stale answer goes out, and nothing upstream.
    NotYet,
    /// The last refresh failed, and it is time for the next: the stale answer goes out, nobody waits for what comes.
    Behind,
    /// Nothing is known against it: whoever asks waits for what comes.
    Waited,
}

/// What is to be done about an answer that has ended, if its question failed last at `failed`.
///
/// Of a name in use only the first asker after the servers went away waits for them: while refreshes fail, and somebody
/// asks at least once in the time of a recheck, the next is tried behind the stale answer.
pub fn recheck(failed: Option<Moment>, now: Moment) -> Recheck {
    let Some(again) = failed.map(|failed| failed.after(FAILURE_RECHECK)) else { return Recheck::Waited };
    if now < again {
        Recheck::NotYet
    } else if now < again.after(FAILURE_RECHECK) {
        Recheck::Behind
    } else {
        Recheck::Waited
    }
}

/// What lives shorter ends by itself: a tenth of it is less than a second, too short for two tries and their replies.
const SHORTEST_REFRESHED_MS: u32 = 10_000;

/// True in the last tenth of a life, when an answer in use is to be asked for again so that nobody has to wait for the next.
#[inline]
pub fn is_last_tenth(left_ms: u64, lifetime_ms: u32) -> bool {
    left_ms <= u64::from(lifetime_ms / 10) && lifetime_ms >= SHORTEST_REFRESHED_MS
}

/// The same for what a search ends with, half as long before: by then the denials it rests on, which came within one
/// walk, are all in the last tenths of theirs.
pub fn is_last_twentieth(left_ms: u64, lifetime_ms: u32) -> bool {
    left_ms <= u64::from(lifetime_ms / 20) && lifetime_ms >= SHORTEST_REFRESHED_MS
}

/// A denial without an SOA is kept just long enough to answer a burst (RFC 2308 section 5: it must not be kept
/// as if it had one).
const WITHOUT_SOA: Duration = Duration::from_secs(1);
/// RFC 9520 section 3.2: a failure is kept one second at least, and at most five minutes; ours ends earlier.
const FIRST_FAILURE: Duration = Duration::from_secs(1);
/// The longest a failure is kept: an upstream that comes back is noticed within it.
const LONGEST_FAILURE: Duration = Duration::from_secs(30);

/// For how long an answer serves. `failures` counts the failures of this question just before it.
pub fn lifetime(answer: &Answer, caps: Caps, failures: u8) -> Duration {
    let answer_ttl = answer.answer_ttl.map(seconds);
    match answer.kind {
        Kind::Data => answer_ttl.unwrap_or_default().min(caps.positive),
        Kind::NoData | Kind::NxDomain => {
            let denial = answer.negative_ttl.map_or(WITHOUT_SOA, seconds).min(caps.negative);
            // A denial behind an alias lives no longer than the alias.
            answer_ttl.map_or(denial, |alias| alias.min(denial))
        }
        Kind::Failure => failure(failures),
    }
}

/// For how long a question is not asked again after `before` failures in a row (RFC 9520 section 3.2).
pub fn failure(before: u8) -> Duration {
    FIRST_FAILURE.saturating_mul(1 << before.min(5)).min(LONGEST_FAILURE)
}

fn seconds(ttl: u32) -> Duration {
    Duration::from_secs(u64::from(clamp_ttl(ttl)))
}

/// Brings the TTLs written in an answer down to what they may say.
///
/// No record outlives the cap, and what proves a denial lives no longer than the denial: downstream caches
/// read the SOA's TTL (RFC 2308 section 5).
pub fn settle(answer: &mut Answer, caps: Caps, lifetime: Duration) {
    let answers = crate::wire::u16_at(&answer.wire, 6).map_or(0, usize::from);
    let denial = matches!(answer.kind, Kind::NoData | Kind::NxDomain);
    for (index, &at) in answer.ttl_offsets.iter().enumerate() {
        let at = usize::from(at);
        let Some(ttl) = crate::wire::u32_at(&answer.wire, at) else { continue };
        let cap = if denial && index >= answers { lifetime } else { caps.positive };
        let settled = clamp_ttl(ttl).min(u32::try_from(cap.as_secs()).unwrap_or(u32::MAX));
        crate::wire::put(&mut answer.wire, at, &settled.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::iana::Rcode;
    use proptest::prelude::*;

    const CAPS: Caps = Caps {
        positive: Duration::from_secs(86_400),
        negative: Duration::from_secs(3600),
        stale: Duration::ZERO,
    };

    fn answer(kind: Kind, answer_ttl: Option<u32>, negative_ttl: Option<u32>) -> Answer {
        Answer {
            wire: vec![0; 12],
            ttl_offsets: vec![],
            rcode: Rcode::NOERROR,
            kind,
            answer_ttl,
            negative_ttl,
            ede: vec![],
            had_opt: false,
            referral: false,
        }
    }

    fn lives(kind: Kind, answer_ttl: Option<u32>, negative_ttl: Option<u32>) -> u64 {
        lifetime(&answer(kind, answer_ttl, negative_ttl), CAPS, 0).as_secs()
    }

    #[test]
    fn data_lives_as_its_ttl_says_up_to_the_cap() {
        assert_eq!(lives(Kind::Data, Some(0), None), 0);
        assert_eq!(lives(Kind::Data, Some(1), None), 1);
        assert_eq!(lives(Kind::Data, Some(1 << 30), None), 86_400);
        assert_eq!(lives(Kind::Data, Some(1 << 31), None), 0, "RFC 2181 section 8");
    }

    #[test]
    fn denials_live_as_their_soa_says() {
        assert_eq!(lives(Kind::NxDomain, None, Some(30)), 30);
        assert_eq!(lives(Kind::NoData, None, Some(999_999)), 3600);
        assert_eq!(lives(Kind::NxDomain, None, None), 1);
        assert_eq!(lives(Kind::NoData, Some(10), Some(30)), 10, "the alias before it ends first");
        assert_eq!(lives(Kind::NoData, Some(60), None), 1);
    }

    #[test]
    fn a_failed_refresh_is_waited_out_and_then_tried_behind_the_answer() {
        let at = |now| recheck(Some(Moment(1000)), Moment(now));
        assert_eq!([at(1000), at(30_999)], [Recheck::NotYet; 2]);
        assert_eq!([at(31_000), at(60_999)], [Recheck::Behind; 2]);
        assert_eq!([at(61_000), recheck(None, Moment(1000))], [Recheck::Waited; 2]);
    }

    #[test]
    fn what_lives_ten_seconds_has_a_last_tenth() {
        assert!(is_last_tenth(1000, 10_000) && !is_last_tenth(1001, 10_000));
        assert!(is_last_tenth(30_000, 300_000) && !is_last_tenth(30_001, 300_000));
        assert!(!is_last_tenth(0, 9999));
        assert!(is_last_twentieth(500, 10_000) && !is_last_twentieth(501, 10_000));
    }

    #[test]
    fn failures_double_from_one_to_thirty_seconds() {
        let kept: Vec<u64> = (0..8).map(|before| failure(before).as_secs()).collect();
        assert_eq!(kept, [1, 2, 4, 8, 16, 30, 30, 30]);
    }

    proptest! {
        #[test]
        fn nothing_outlives_its_cap(ttl in any::<u32>(), soa in any::<Option<u32>>(), kind in 0..3) {
            let kind = [Kind::Data, Kind::NoData, Kind::NxDomain][kind as usize];
            let life = lifetime(&answer(kind, Some(ttl), soa), CAPS, 0);
            prop_assert!(life <= CAPS.positive && (kind == Kind::Data || life <= CAPS.negative));
            prop_assert!(life.as_secs() <= u64::from(ttl));
        }
    }
}
