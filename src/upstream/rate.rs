//! The adaptive rate: how many packets a second a group of servers lets through, found out by sending.
//!
//! What is lost at any rate is no limit; a limit is where more is sent and no more delivered. So the rate moves by experiments alone:
//! two windows one after the other, the second at a higher rate, judged when all of their packets have been answered or given up. There
//! are two kinds. Where questions wait, the rate itself is *raised* for a window. Where answers fall short and nothing waits, the traffic
//! is sent in a *pulse*: a window at less than what comes in, then one at as much more, the mean as before.
//!
//! Losses may begin between the two, and look like a limit's. So a raised window is compared with the one after it as well, and of pulses
//! there have to be two.
//!
//! ```text
//!             questions wait                        answers fall short, nothing waits
//!   Cruise ─────────────────▶ Trial (raised)   Cruise ─────────────────▶ Low ──▶ Trial (pulse)
//!     ▲  ▲                      │                ▲                                 │
//!     │  └── delivered rose ────┤                └── delivered rose: the path's ───┤
//!     │      with sent: raised  │                    own losses, no limit          │
//!     │              delivered stayed flat                             delivered stayed flat
//!     │                         ▼                                                  ▼
//!     │                      Doubted                                       the same once more
//!     │                         ▼                                                  │
//!     └── 0.985 x ◀── Drain ◀── After fares better: 0.9 x what gets through ◀──────┘
//! ```
//!
//! Near a known limit a rise has to last ([`Kind::Held`]): a limiter lets through for a while what it saved up.

use std::collections::VecDeque;
use std::time::Duration;

use super::budget::{BURST, MAX_RATE};
use super::experiment::{Kind, LONGEST, PULSE, Role, STEPS};
use super::window::{ENOUGH, LEAST_LOSS, RISE, Sample, Spot, Verdict, Window};

/// Where nothing is known: under the lowest limit of a large provider, and quickly doubled where more is wanted.
const FIRST: f64 = 1000.0;
/// The rate is never cut below this: what a node needs to go on at all, and no burden for any server.
pub const FLOOR: f64 = 50.0;
/// What of the rate that got through is sent after it was found to be the limit, until what queues upstream is gone.
const CUT: f64 = 0.9;
/// For how long.
const DRAIN: Duration = Duration::from_millis(400);
/// What of it is sent from then on: the rest is for errors of measuring, and for what raised windows send too much.
const CRUISE: f64 = 0.985;
/// Packets a second that make a pulse worth it.
const PULSE_LEAST: f64 = 90.0;
/// How long the rate stays after a limit was found or an experiment was unclear.
const QUIET: Duration = Duration::from_secs(3);
/// The same after an unclear one where questions wait and no limit is known.
const UNCLEAR: Duration = Duration::from_millis(500);
/// A flat pulse has to be confirmed within this time, several times what one takes.
const AGAIN: Duration = Duration::from_secs(10);
/// A window outside experiments.
const WINDOW: Duration = Duration::from_secs(1);
/// After the end of a window its packets have been answered or given up, and retries of these been answered.
const SETTLED: Duration = Duration::from_millis(700);
/// How often it is looked what has become of windows.
const TICK: Duration = Duration::from_millis(1);
/// Windows that are remembered: some seconds, all that are not closed yet among them.
const WINDOWS: usize = 12;
/// How many standard deviations a window's answers must fall short by, to be looked into.
const SHORT_SIGMA: f64 = 4.0;
/// How many a raised window's should, were there a limit, for a step to be tried.
const TELLING_SIGMA: f64 = 3.5;
/// How many limiters' bursts a raised window has to send more than before.
const MORE_THAN_BURSTS: f64 = 4.0;
/// What part of a rise has to be seen in what is delivered, for it to be believed before all of it is settled.
const SURELY_ROSE: f64 = 0.9;
/// A path that delivers less than this part of the packets is lossy.
const LOSSY: f64 = 0.97;
/// A part of the packets that is lost without being looked into.
const NEGLIGIBLE: f64 = 0.02;

/// The window in which a packet was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Epoch(u32);

/// The rate of a group, and what it rests on.
pub struct Rate {
    rate: f64,
    /// What got through when more did not, packets a second.
    limit: Option<f64>,
    /// The part of the packets that is usually answered.
    usual: Option<f64>,
    /// That part is the path's own: it was seen below the limit, or not to depend on the rate.
    is_paths: bool,
    /// Answers fall short, and it is not known why.
    is_short: bool,
    /// When a pulse was found to have stayed flat, and none has said anything else since.
    flat_pulse: Option<Duration>,
    /// The last window outside experiments.
    latest: Option<Sample>,
    /// The least step of the next raise.
    step: usize,
    /// Oldest first; the last is open.
    windows: VecDeque<(Role, Window)>,
    /// The number of the first of them.
    first: u32,
    quiet_until: Duration,
    flat_at: Option<Duration>,
    ticked: Duration,
}

impl Rate {
    /// Nothing is known yet.
    pub fn new(now: Duration) -> Rate {
        let mut windows = VecDeque::with_capacity(WINDOWS + 1);
        windows.push_back((Role::Cruise, Window::new(now, FIRST)));
        Rate {
            rate: FIRST,
            limit: None,
            usual: None,
            is_paths: false,
            is_short: false,
            flat_pulse: None,
            latest: None,
            step: STEPS.len() - 1,
            windows,
            first: 0,
            quiet_until: Duration::ZERO,
            flat_at: None,
            ticked: now,
        }
    }

    /// Packets a second that may be sent now.
    pub fn now(&self) -> f64 {
        self.windows.back().map_or(self.rate, |(_, window)| window.rate)
    }

    /// The same but for experiments.
    pub fn settled(&self) -> f64 {
        self.rate
    }

    /// True for a while after delivered stayed flat while sent rose.
    pub fn is_at_limit(&self, now: Duration) -> bool {
        self.flat_at.is_some_and(|at| now < at + QUIET + LONGEST)
    }

    /// A packet goes out; `waited`: it had to wait for its turn.
    pub fn sent(&mut self, waited: bool) -> Epoch {
        if let Some((_, open)) = self.windows.back_mut() {
            open.sent(waited);
        }
        Epoch(self.last())
    }

    /// A retry is kept back by the share of retries, not by the rate.
    pub fn kept_back(&mut self) {
        if let Some((_, open)) = self.windows.back_mut() {
            open.kept_back();
        }
    }

    /// Packets that carry their own acknowledgement went out and arrived, such as segments of a stream.
    pub fn streamed(&mut self, packets: u32) {
        if let Some((_, open)) = self.windows.back_mut() {
            open.streamed(packets);
        }
    }

    /// A packet was answered.
    pub fn delivered(&mut self, epoch: Epoch, server: u32) {
        self.with(epoch, |window| window.delivered(server));
    }

    /// A packet was given up, or refused without need; `others_come`: others there were answered meanwhile.
    pub fn lost(&mut self, epoch: Epoch, spot: Spot, others_come: bool) {
        self.with(epoch, |window| window.lost(spot, others_come));
    }

    /// A packet that was given up has been answered after all.
    pub fn found(&mut self, epoch: Epoch, spot: Spot) {
        self.with(epoch, |window| window.found(spot));
    }

    /// A packet was refused, and nobody knows whether by a limiter.
    pub fn declined(&mut self, epoch: Epoch, spot: Spot) {
        self.with(epoch, |window| window.declined(spot));
    }

    /// Nobody will know what came of a packet.
    pub fn forgotten(&mut self, epoch: Epoch) {
        self.with(epoch, Window::forgotten);
    }

    /// A retry was answered by the server that had lost the question: what was lost there shortly before, was not lost for want of a
    /// server behind it.
    pub fn proven(&mut self, spot: Spot) {
        let ended =
            self.windows.iter_mut().filter(|(_, window)| window.ended().is_some() && !window.is_closed());
        ended.for_each(|(_, window)| window.proven(spot));
    }

    /// Time has passed: windows end and are judged, the rate moves.
    pub fn tick(&mut self, now: Duration) {
        if now < self.ticked + TICK {
            return;
        }
        self.ticked = now;
        self.judge(now);
        let Some((role, open)) = self.windows.back() else { return };
        match *role {
            Role::Drain if open.length(now) >= DRAIN => self.open(now, Role::Cruise, self.rate),
            Role::Low { high } if open.is_full(now, Kind::Pulse.length(), Kind::Pulse.longest()) => {
                self.open(now, Role::Trial { base: self.last(), kind: Kind::Pulse }, high);
            }
            Role::Trial { kind, .. } if open.is_full(now, kind.length(), kind.longest()) => {
                let role = if kind == Kind::Pulse { Role::Cruise } else { Role::After(kind) };
                self.open(now, role, self.rate);
            }
            Role::After(kind) if open.is_full(now, kind.length(), kind.longest()) => {
                self.open(now, Role::Cruise, self.rate);
            }
            Role::Cruise if self.may_raise(open, now) => self.raise(now, self.last()),
            Role::Cruise if open.is_full(now, WINDOW, LONGEST) => self.open(now, Role::Cruise, self.rate),
            Role::Cruise => self.pulse(now),
            Role::Drain | Role::Low { .. } | Role::Trial { .. } | Role::Doubted | Role::After(_) => {}
        }
    }

    /// The number of the open window.
    fn last(&self) -> u32 {
        self.first.wrapping_add(self.windows.len() as u32).wrapping_sub(1)
    }

    fn index(&self, number: u32) -> usize {
        number.wrapping_sub(self.first) as usize
    }

    fn with(&mut self, epoch: Epoch, count: impl FnOnce(&mut Window)) {
        let index = self.index(epoch.0);
        if let Some((_, window)) = self.windows.get_mut(index).filter(|(_, window)| !window.is_closed()) {
            count(window);
        }
    }

    /// Ends the open window and begins one.
    fn open(&mut self, now: Duration, role: Role, rate: f64) {
        if let Some((_, open)) = self.windows.back_mut() {
            // After a pause nobody knows when it should have ended: where it would have had to at last.
            open.end(now.min(now.saturating_sub(open.length(now)) + 2 * LONGEST));
        }
        if self.windows.len() >= WINDOWS {
            self.windows.pop_front();
            self.first = self.first.wrapping_add(1);
        }
        self.windows.push_back((role, Window::new(now, rate)));
    }

    fn is_trying(&self) -> bool {
        let open = |(role, window): &(Role, Window)| {
            matches!(role, Role::Trial { .. } | Role::Doubted | Role::Low { .. }) && !window.is_closed()
        };
        self.windows.iter().any(open)
    }

    /// The rate is used up, and the open window will do as what a raised one is compared with.
    fn may_raise(&self, open: &Window, now: Duration) -> bool {
        now >= self.quiet_until
            && open.is_full(now, Kind::Raised(self.step).length(), LONGEST)
            && open.is_bound(now)
            && self.rate < f64::from(MAX_RATE)
            && !self.is_trying()
    }

    fn raise(&mut self, now: Duration, base: u32) {
        let step = (self.step..STEPS.len()).find(|step| self.is_telling(*step)).unwrap_or(STEPS.len() - 1);
        let rate = self.rate * STEPS.get(step).copied().unwrap_or(1.0);
        let role = Role::Trial { base, kind: Kind::Raised(step) };
        self.open(now, role, rate.min(f64::from(MAX_RATE)));
    }

    /// A step is large enough for a limit to be told from a burst and from chance, where as much is lost as now.
    fn is_telling(&self, step: usize) -> bool {
        let Some(by) = STEPS.get(step) else { return false };
        let part = self.latest.map_or(1.0, |latest| latest.part).min(1.0 - LEAST_LOSS);
        let packets = (self.rate * by * Kind::Raised(step).length().as_secs_f64()).max(f64::from(ENOUGH));
        let more = packets * (by - 1.0) / by;
        more >= MORE_THAN_BURSTS * f64::from(BURST)
            && (by - 1.0) * (packets * part / (1.0 - part) / (1.0 + by)).sqrt() >= TELLING_SIGMA
    }

    /// Begins a pulse where one is called for.
    fn pulse(&mut self, now: Duration) {
        let is_due = self.is_short && now >= self.quiet_until;
        let Some(mean) = self.latest.map(|latest| latest.sent).filter(|mean| is_due && *mean >= PULSE_LEAST)
        else {
            return;
        };
        if !self.is_trying() {
            let high = (mean * (1.0 + PULSE)).min(f64::from(MAX_RATE));
            self.open(now, Role::Low { high }, (mean * (1.0 - PULSE)).max(FLOOR));
        }
    }

    fn judge(&mut self, now: Duration) {
        let (first, count) = (self.first, self.windows.len() as u32);
        for number in (0..count).map(|index| first.wrapping_add(index)) {
            let Some((role, window)) = self.windows.get(self.index(number)) else { continue };
            let Some(ended) = window.ended().filter(|_| !window.is_closed()) else { continue };
            let is_settled = now >= ended + SETTLED;
            match *role {
                Role::Trial { base, kind } if is_settled => self.judge_trial(number, base, kind, now),
                Role::Trial { base, kind: kind @ (Kind::Raised(_) | Kind::Held) } => {
                    self.judge_early(number, base, kind, now);
                }
                Role::After(kind) if is_settled => {
                    self.judge_doubted(number, kind, now);
                    self.judge_cruise(number, now);
                }
                Role::Cruise if is_settled => self.judge_cruise(number, now),
                Role::Drain | Role::Low { .. } if is_settled => self.close(number),
                Role::Cruise | Role::Drain | Role::Low { .. } => {}
                Role::Trial { .. } | Role::Doubted | Role::After(_) => {}
            }
        }
    }

    fn close(&mut self, number: u32) {
        let index = self.index(number);
        if let Some((_, window)) = self.windows.get_mut(index) {
            window.close();
        }
    }

    fn sample_of(&self, number: u32, of: fn(&Window) -> Option<Sample>) -> Option<Sample> {
        of(self.windows.get(self.index(number)).map(|(_, window)| window)?)
    }

    /// A raised window shows that more gets through as soon as its answers are there.
    fn judge_early(&mut self, number: u32, base: u32, kind: Kind, now: Duration) {
        let so_far = |number| self.sample_of(number, Window::so_far);
        let (Some(before), Some(raised)) = (so_far(base), so_far(number)) else { return };
        if raised.rise(&before) >= RISE && raised.elasticity(&before) >= SURELY_ROSE {
            // It goes on being counted: the next may be compared with it.
            self.change(number, Role::Cruise);
            self.rose(number, base, kind, now);
        }
    }

    /// That no more gets through shows only when nothing more can come.
    fn judge_trial(&mut self, number: u32, base: u32, kind: Kind, now: Duration) {
        let pair = |of| Some((self.sample_of(base, of)?, self.sample_of(number, of)?));
        let verdict = |(before, trial): (Sample, Sample)| trial.verdict(&before);
        let (said, darkest) = (pair(Window::refusing).map(verdict), pair(Window::darkest).map(verdict));
        if said == Some(Verdict::Flat) && kind != Kind::Pulse {
            self.change(number, Role::Doubted);
            return;
        }
        let (trial, earlier) = (self.sample_of(number, Window::sample), self.flat_pulse.take());
        self.close(number);
        if let Some(trial) = trial.filter(|_| said == Some(Verdict::Flat)) {
            // Losses that begin in the middle of a pulse look like a limit's, those of the next do not.
            match earlier.filter(|at| now < *at + AGAIN) {
                Some(_) => self.cut(kind, trial, self.latest, now),
                None => (self.flat_pulse, self.quiet_until) = (Some(now), now),
            }
            return;
        }
        // Losses that do not count may be a limit's all the same: where they would say so, nothing is known.
        if said == Some(Verdict::Rose) && darkest != Some(Verdict::Flat) {
            (self.usual, self.is_paths) = (trial.map(|trial| trial.part), true);
            self.rose(number, base, kind, now);
        } else {
            self.is_unclear(kind, now);
        }
    }

    /// More was sent and no more delivered. Before a limit the lower rate that follows fares better again; where losses began
    /// meanwhile, it fares no better.
    fn judge_doubted(&mut self, after: u32, kind: Kind, now: Duration) {
        let number = after.wrapping_sub(1);
        let is_doubted =
            |(role, window): &(Role, Window)| matches!(role, Role::Doubted) && !window.is_closed();
        if !self.windows.get(self.index(number)).is_some_and(is_doubted) {
            return;
        }
        let pair = |of| Some((self.sample_of(number, of)?, self.sample_of(after, of)?));
        let falls_behind = pair(Window::refusing).is_some_and(|(trial, after)| trial.falls_behind(&after));
        let pair = pair(Window::sample).filter(|_| falls_behind);
        self.close(number);
        match pair {
            Some((trial, after)) => self.cut(kind, trial, Some(after), now),
            None => self.is_unclear(kind, now),
        }
    }

    /// There is time until the next experiment, but where questions wait and no limit is known: they may fail meanwhile.
    fn is_unclear(&mut self, kind: Kind, now: Duration) {
        let is_urgent = kind != Kind::Pulse && self.limit.is_none();
        self.quiet_until = now + if is_urgent { UNCLEAR } else { QUIET };
    }

    fn change(&mut self, number: u32, to: Role) {
        let index = self.index(number);
        if let Some((role, _)) = self.windows.get_mut(index) {
            *role = to;
        }
    }

    /// The rate is that of the window. Where it was used up the next raise comes at once and is compared with it.
    fn rose(&mut self, number: u32, base: u32, kind: Kind, now: Duration) {
        let Some((_, window)) = self.windows.get(self.index(number)) else { return };
        let (rate, is_bound) = (window.rate, window.is_bound(now));
        let step = match kind {
            Kind::Pulse => {
                self.is_short = false;
                return;
            }
            Kind::Raised(_) if self.limit.is_some_and(|limit| rate < limit * STEPS[1]) => {
                self.open(now, Role::Trial { base, kind: Kind::Held }, rate);
                return;
            }
            Kind::Raised(step) => step,
            Kind::Held => 0,
        };
        self.rate = rate;
        self.is_short = false;
        if self.limit.is_some_and(|limit| rate > limit * RISE) {
            self.limit = None;
        }
        self.step = if self.limit.is_some() { 0 } else { (step + 1).min(STEPS.len() - 1) };
        self.quiet_until = now;
        if is_bound {
            self.raise(now, number);
        } else {
            self.open(now, Role::Cruise, rate);
        }
    }

    /// More was sent and no more delivered: what gets through is the limit. Windows beside the experiment may be above it as well.
    fn cut(&mut self, kind: Kind, trial: Sample, beside: Option<Sample>, now: Duration) {
        // Of what the limit lets through the path loses its part.
        let path = self.usual.filter(|part| self.is_paths && *part < LOSSY).unwrap_or(1.0);
        let mut through = trial.sustained();
        // Where the limit was exceeded for longer, nothing goes through that a limiter had saved up. What falls short of the path's part
        // is above the limit; where that part is not known, only if nothing says that there was room above it.
        let (part, room) = self.usual.filter(|_| self.is_paths).map_or((1.0, 0.5), |part| (part, 1.0));
        let is_above = |beside: &Sample| {
            beside.deviations_below_part(part) >= SHORT_SIGMA && trial.elasticity(beside) < room
        };
        if let Some(above) = beside.filter(is_above) {
            through = through.min(above.delivered());
        }
        let limit = (through / path.max(0.1)).max(FLOOR);
        self.limit = Some(limit);
        self.rate = (limit * CRUISE).max(FLOOR);
        (self.step, self.is_short) = (0, false);
        // What confirmed it is part of that time.
        self.quiet_until = now + QUIET.saturating_sub(kind.length());
        self.flat_at = Some(now);
        self.open(now, Role::Drain, (limit * CUT).max(FLOOR));
    }

    /// Learns what is usual, and notices where answers fall short of it.
    fn judge_cruise(&mut self, number: u32, now: Duration) {
        let Some((_, window)) = self.windows.get(self.index(number)) else { return };
        let (sample, is_bound) = (window.sample(), window.is_bound(now));
        let is_above = self.flat_at.is_some_and(|cut_at| window.begun() < cut_at);
        self.close(number);
        // What went out before a cut went out above the limit: what it lost is not the path's loss.
        let Some(sample) = sample.filter(|_| !is_above) else { return };
        self.latest = Some(sample);
        let Some(mut usual) = self.usual else {
            // Where nothing was cut yet, what is lost may be for either reason.
            self.is_paths = self.limit.is_some();
            self.usual = Some(sample.part);
            self.is_short = !self.is_paths && sample.part < LOSSY;
            return;
        };
        if self.limit.is_some() && !self.is_paths {
            // The first after a cut is below the limit, and so may have been what was usual before.
            usual = usual.max(sample.part);
            (self.is_paths, self.usual) = (true, Some(usual));
        }
        if sample.deviations_below_part(usual) >= SHORT_SIGMA && sample.part < usual - NEGLIGIBLE {
            if !self.is_short || is_bound {
                (self.step, self.quiet_until) = (0, self.quiet_until.min(now));
            }
            self.is_short = true;
        } else if !self.is_short {
            self.usual = Some(usual + (sample.part - usual) / 4.0);
        }
    }
}

#[cfg(test)]
#[path = "rate_tests.rs"]
mod tests;
