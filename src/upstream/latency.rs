//! How long a server takes to answer: a sketch of its latest thousand times, in fixed memory.
//!
//! Times are counted in buckets a quarter of an octave wide, so a quantile is right within a fifth. Every `FULL` times all
//! counts are halved: what was seen before weighs half as much.

use std::time::Duration;

/// Buckets for an octave.
const PARTS: u32 = 4;
/// The first bucket is for everything up to so many microseconds.
const LEAST_US: u64 = 64;
/// Octaves from there: up to eight seconds, more than anybody waits.
const OCTAVES: u32 = 17;
const BUCKETS: usize = (OCTAVES * PARTS) as usize + 1;
/// Times after which all counts are halved.
const FULL: u32 = 1024;
/// With fewer times nothing is said: a twentieth of them is no number.
const ENOUGH: u32 = 64;

/// The sketch.
#[derive(Debug)]
pub struct Sketch {
    counts: [u16; BUCKETS],
    total: u32,
}

impl Default for Sketch {
    fn default() -> Sketch {
        Sketch { counts: [0; BUCKETS], total: 0 }
    }
}

impl Sketch {
    /// Adds a time.
    pub fn note(&mut self, time: Duration) {
        if let Some(count) = self.counts.get_mut(bucket(time)) {
            *count += 1;
            self.total += 1;
        }
        if self.total >= FULL {
            self.counts.iter_mut().for_each(|count| *count /= 2);
            self.total = self.counts.iter().map(|count| u32::from(*count)).sum();
        }
    }

    /// A time that nineteen of twenty do not exceed; nothing where too few are known.
    pub fn p95(&self) -> Option<Duration> {
        if self.total < ENOUGH {
            return None;
        }
        let mut beyond = self.total / 20;
        for (index, count) in self.counts.iter().enumerate().rev() {
            let count = u32::from(*count);
            if count > beyond {
                return Some(limit(index));
            }
            beyond -= count;
        }
        None
    }
}

fn bucket(time: Duration) -> usize {
    let us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    if us <= LEAST_US {
        return 0;
    }
    let octave = (us - 1).ilog2() - LEAST_US.ilog2();
    // The two bits below the highest say which quarter of its octave a number is in.
    let part = ((us - 1) >> (octave + LEAST_US.ilog2() - PARTS.ilog2())) as u32 % PARTS;
    ((octave * PARTS + part + 1) as usize).min(BUCKETS - 1)
}

/// The longest time of a bucket.
fn limit(bucket: usize) -> Duration {
    let Some(bucket) = u32::try_from(bucket).ok().and_then(|bucket| bucket.checked_sub(1)) else {
        return Duration::from_micros(LEAST_US);
    };
    let (octave, part) = (bucket / PARTS, u64::from(bucket % PARTS));
    Duration::from_micros((LEAST_US << octave) / u64::from(PARTS) * (u64::from(PARTS) + part + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: Duration = Duration::from_micros(1);

    #[test]
    fn buckets_hold_what_they_say() {
        let mut last = 0;
        for us in 1..200_000u32 {
            let time = US * us;
            let index = bucket(time);
            assert!(index == last || index == last + 1, "{us}");
            assert!(time <= limit(index), "{us} is more than {:?}", limit(index));
            assert!(index == 0 || time > limit(index - 1), "{us} fits in {:?}", limit(index - 1));
            last = index;
        }
        assert_eq!(bucket(Duration::from_secs(3600)), BUCKETS - 1);
        assert!(limit(BUCKETS - 1) > Duration::from_secs(8));
    }

    #[test]
    fn a_twentieth_is_later() {
        let mut sketch = Sketch::default();
        assert_eq!(sketch.p95(), None);
        for n in 0..10_000u32 {
            sketch.note(US * (1000 + if n % 10 == 0 { 20_000 } else { n % 10 }));
        }
        let tenth_is_slow = sketch.p95().unwrap();
        assert!(tenth_is_slow >= US * 21_000 && tenth_is_slow <= US * 26_000, "{tenth_is_slow:?}");
        for n in 0..10_000u32 {
            sketch.note(US * (1000 + if n % 50 == 0 { 20_000 } else { n % 10 }));
        }
        let fiftieth_is_slow = sketch.p95().unwrap();
        assert!(fiftieth_is_slow >= US * 1009 && fiftieth_is_slow <= US * 1300, "{fiftieth_is_slow:?}");
    }

    #[test]
    fn what_was_long_ago_is_forgotten() {
        let mut sketch = Sketch::default();
        (0..100_000).for_each(|_| sketch.note(US * 100_000));
        (0..5000).for_each(|_| sketch.note(US * 1000));
        assert!(sketch.p95().unwrap() <= US * 1300);
        assert!(sketch.total < FULL);
    }
}
