//! The machine by itself: windows in which so much was sent and so much came back. Traffic as a whole is in the ledger's tests.

use super::*;

const MS: Duration = Duration::from_millis(1);
const SPOT: Spot = Spot { server: 0, domain: 1 };

/// A path that lets so many packets a second through and has time to answer all of them; what is over is lost and, retried, proven.
struct Path {
    rate: Rate,
    now: Duration,
    limit: f64,
    tokens: f64,
    /// So many it saves up.
    burst: f64,
    /// One in so many is lost on the way.
    loses: Option<u64>,
    sent: u64,
    credit: f64,
    lost: VecDeque<(Duration, Epoch)>,
}

impl Path {
    fn new(limit: f64) -> Path {
        let (rate, now) = (Rate::new(Duration::ZERO), Duration::ZERO);
        Path {
            rate,
            now,
            limit,
            tokens: 0.0,
            burst: 5.0,
            loses: None,
            sent: 0,
            credit: 0.0,
            lost: VecDeque::new(),
        }
    }

    /// Sends as much as the rate allows, up to a demand, and tells the rates that were allowed.
    fn run(&mut self, millis: u32, demand: f64) -> Vec<f64> {
        (0..millis).map(|_| self.step(demand)).collect()
    }

    fn step(&mut self, demand: f64) -> f64 {
        self.now += MS;
        self.rate.tick(self.now);
        let allowed = self.rate.now();
        self.credit += allowed.min(demand) / 1000.0;
        self.tokens = (self.tokens + self.limit / 1000.0).min(self.burst + self.limit / 1000.0);
        while self.credit >= 1.0 {
            self.credit -= 1.0;
            let epoch = self.rate.sent(demand > allowed);
            self.sent += 1;
            let arrives = self.loses.is_none_or(|many| !self.sent.is_multiple_of(many));
            if arrives && self.tokens >= 1.0 {
                self.tokens -= 1.0;
                self.rate.delivered(epoch, SPOT.server);
            } else {
                self.lost.push_back((self.now + 350 * MS, epoch));
            }
        }
        while let Some((at, epoch)) = self.lost.front().copied()
            && at <= self.now
        {
            self.lost.pop_front();
            self.rate.lost(epoch, SPOT, false);
            self.rate.proven(SPOT);
        }
        allowed
    }
}

#[test]
fn a_cut_is_to_nine_tenths_of_what_got_through_and_never_below_the_floor() {
    for (limit, lowest) in [(1024.0, 0.9 * 1024.0), (400.0, 360.0), (20.0, FLOOR)] {
        let mut path = Path::new(limit);
        let rates = path.run(20_000, 3000.0);
        let least = rates.iter().copied().fold(f64::MAX, f64::min);
        assert!((least - lowest).abs() <= 0.06 * lowest, "{limit}: {least}");
        if limit > FLOOR {
            assert!((path.rate.settled() / limit - 1.0).abs() < 0.05, "{limit}: {}", path.rate.settled());
            assert!(path.rate.is_at_limit(path.now));
        }
    }
}

#[test]
fn a_rate_that_is_wanted_doubles_several_times_a_second_and_one_that_is_not_stays() {
    let mut path = Path::new(f64::MAX);
    let rates = path.run(2000, 500.0);
    assert!(rates.iter().all(|rate| *rate == FIRST));
    path.run(1500, 30_000.0);
    assert!(path.rate.settled() >= 16_000.0, "{}", path.rate.settled());
    path.run(10_000, 1e9);
    assert!(path.rate.settled() <= f64::from(MAX_RATE));
}

#[test]
fn a_limit_below_what_comes_in_shows_in_a_pulse_whose_mean_is_what_comes_in() {
    let mut path = Path::new(600.0);
    let rates = path.run(6000, 900.0);
    let at = rates.iter().position(|rate| *rate < FIRST).unwrap();
    let low = rates[at];
    let high = rates[at..].iter().copied().find(|rate| *rate != low).unwrap();
    assert!(low < 600.0 && high > 1200.0 && ((low + high) / 2.0 - 900.0).abs() < 20.0, "{low} {high}");
    assert!((540.0..=620.0).contains(&path.rate.settled()), "{}", path.rate.settled());
}

/// Runs until the rate is above what is settled: the higher half of an experiment.
fn until_a_trial(path: &mut Path, demand: f64) {
    while path.step(demand) <= path.rate.settled() {
        assert!(path.now < Duration::from_secs(60));
    }
}

#[test]
fn losses_that_begin_in_an_experiment_do_not_cut_the_rate() {
    // A raised window: the one before it has lost nothing, the one after it as much.
    let mut path = Path::new(f64::MAX);
    until_a_trial(&mut path, 3000.0);
    path.loses = Some(3);
    path.run(20_000, 3000.0);
    assert!(path.rate.flat_at.is_none() && path.rate.settled() >= FIRST, "{}", path.rate.settled());
    // A pulse: the next one has the same losses in both halves.
    let mut path = Path::new(f64::MAX);
    path.loses = Some(20);
    until_a_trial(&mut path, 900.0);
    path.loses = Some(2);
    path.run(1200, 900.0);
    assert!(path.rate.flat_pulse.is_some(), "one has stayed flat");
    path.run(20_000, 900.0);
    assert!(path.rate.flat_at.is_none() && path.rate.settled() >= FIRST, "{}", path.rate.settled());
}

#[test]
fn what_a_limiter_has_saved_up_is_no_higher_limit() {
    let mut path = Path { burst: 200.0, ..Path::new(1000.0) };
    path.run(15_000, 3000.0);
    let rates = path.run(30_000, 3000.0);
    let mean = rates.iter().sum::<f64>() / rates.len() as f64;
    assert!(mean <= 1040.0 && rates.iter().all(|rate| *rate <= 1100.0), "{mean}");
}

#[test]
fn what_comes_of_packets_of_long_ago_changes_nothing() {
    let mut path = Path::new(1000.0);
    let epoch = path.rate.sent(false);
    path.run(60_000, 500.0);
    for epoch in [epoch, Epoch(epoch.0.wrapping_sub(1)), Epoch(u32::MAX / 2)] {
        path.rate.delivered(epoch, 0);
        path.rate.lost(epoch, SPOT, false);
        path.rate.found(epoch, SPOT);
        path.rate.forgotten(epoch);
    }
    assert_eq!(path.rate.windows.len(), WINDOWS);
}

#[test]
fn after_a_pause_a_window_is_no_longer_than_it_would_have_been() {
    let mut path = Path::new(f64::MAX);
    path.run(500, 900.0);
    path.now += Duration::from_secs(3600);
    path.run(5000, 900.0);
    assert_eq!(path.rate.settled(), FIRST);
    assert!(path.rate.latest.is_some_and(|latest| latest.sent > 800.0));
}
