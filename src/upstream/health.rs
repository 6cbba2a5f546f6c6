//! What is remembered of a server: how fast and whether it answers, if it echoes letter case, if it knows EDNS.
//!
//! A server that fails three times in a row is asked last, for longer each time. When that time is over one question goes there first:
//! whether it is well again shows in a question that somebody asks, not in one of our own.
//!
//! The deciding parts are plain state that is told the time. Letter case (0x20) goes through these states:
//!
//! ```text
//! Learning(n) --echoed--> Learning(n+1) ... --8th--> On
//!      any    --reply in other case, TCP says the same, 3rd time--> Off for an hour --> Learning(0)
//! ```

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::Question;
use super::budget::Budget;
use super::exchange::TRY_TIMEOUT;
use super::group::Group;
use super::identity::Identity;
use super::latency::Sketch;
use super::links::Links;
use super::tally::Tally;
use super::window::Spot;

/// How a server is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// Datagrams, TCP for what does not fit.
    Udp,
    /// A stream from the start.
    Tcp,
    /// A stream inside TLS (RFC 7858).
    Tls,
    /// HTTP/2 inside TLS (RFC 8484).
    Https,
}

impl Transport {
    /// All of them, in the order of their counters.
    pub const ALL: [Transport; 4] = [Transport::Udp, Transport::Tcp, Transport::Tls, Transport::Https];

    /// The name in URLs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Transport::Udp => "udp",
            Transport::Tcp => "tcp",
            Transport::Tls => "tls",
            Transport::Https => "https",
        }
    }
}

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// How it is spoken to.
    pub transport: Transport,
    /// Its address and port.
    pub addr: SocketAddr,
    /// Who it has to prove to be, where it is spoken to inside TLS.
    pub identity: Option<Arc<Identity>>,
}

impl Endpoint {
    /// One that is spoken to in the clear.
    pub fn plain(transport: Transport, addr: SocketAddr) -> Endpoint {
        Endpoint { transport, addr, identity: None }
    }

    /// One that is spoken to inside TLS: over HTTPS where the identity has a path.
    pub fn encrypted(addr: SocketAddr, identity: Arc<Identity>) -> Endpoint {
        let transport = if identity.path.is_some() { Transport::Https } else { Transport::Tls };
        Endpoint { transport, addr, identity: Some(identity) }
    }
}

/// As it is written in a configuration.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.transport.name(), self.addr)?;
        match &self.identity {
            Some(identity) => write!(f, "{}#{}", identity.path.as_deref().unwrap_or(""), identity.name),
            None => Ok(()),
        }
    }
}

/// Why a try with a server came to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TryFailure {
    /// No reply in time.
    Timeout,
    /// The network or the host refused it.
    Unreachable,
    /// It answered that it could not resolve the question, or that it does not serve it.
    Rcode,
    /// A reply that matched and could not be read.
    Malformed,
    /// A reply that differed from the question in letter case.
    Case,
    /// A reply that belonged to no question.
    Unmatched,
}

impl TryFailure {
    /// All reasons, in the order of their counters.
    pub const ALL: [TryFailure; 6] = [
        TryFailure::Timeout,
        TryFailure::Unreachable,
        TryFailure::Rcode,
        TryFailure::Malformed,
        TryFailure::Case,
        TryFailure::Unmatched,
    ];

    /// The name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            TryFailure::Timeout => "timeout",
            TryFailure::Unreachable => "unreachable",
            TryFailure::Rcode => "rcode",
            TryFailure::Malformed => "malformed",
            TryFailure::Case => "case",
            TryFailure::Unmatched => "unmatched",
        }
    }
}

/// A server and what is known of it, shared by all workers.
pub struct Server {
    /// Its number, by which each worker finds its sockets.
    pub number: usize,
    /// Where it is.
    pub endpoint: Endpoint,
    /// What became of connections to it.
    pub links: Links,
    /// What its budget is shared with.
    pub group: Arc<Group>,
    state: Mutex<Health>,
    questions: Tally<{ Transport::ALL.len() }>,
    failures: Tally<{ TryFailure::ALL.len() }>,
    failures_begun: AtomicU64,
    tells: Arc<Notify>,
}

impl Server {
    /// A server of which nothing is known yet.
    pub fn new(number: usize, endpoint: Endpoint) -> Server {
        let group = Arc::new(Group::new(endpoint.addr.ip().to_string(), Budget::Unlimited));
        Server {
            number,
            endpoint,
            links: Links::default(),
            group,
            state: Mutex::new(Health::default()),
            questions: Tally::default(),
            failures: Tally::default(),
            failures_begun: AtomicU64::new(0),
            tells: Arc::default(),
        }
    }

    /// The server, telling this when it begins to fail.
    pub fn that_tells(mut self, tells: &Arc<Notify>) -> Server {
        self.tells = Arc::clone(tells);
        self
    }

    /// The server, with a budget that it shares.
    pub fn in_group(mut self, group: Arc<Group>) -> Server {
        self.group = group;
        self
    }

    /// Where a question goes that is sent to it.
    pub fn spot(&self, question: &Question) -> Spot {
        self.group.spot(self.number, question.qname())
    }

    /// Counts segments that connections to it have sent, and charges them to its budget.
    pub fn streamed(&self, segments: u32) {
        self.links.sent(segments);
        self.group.streamed(segments);
    }

    /// What is known of it. Held for a few loads and stores, never over an await.
    pub fn health(&self) -> MutexGuard<'_, Health> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a question that went out.
    pub fn asked(&self, over: Transport) {
        self.questions.count(over as usize);
    }

    /// Counts a try that came to nothing.
    pub fn failed(&self, why: TryFailure, now: Instant) {
        self.failures.count(why as usize);
        if !matches!(why, TryFailure::Timeout | TryFailure::Unreachable | TryFailure::Rcode) {
            return;
        }
        let falls_silent = {
            let mut health = self.health();
            health.failed(now, rand::random());
            // A server that says that it cannot, is there.
            let is_silent = why != TryFailure::Rcode;
            std::mem::replace(&mut health.is_silent, is_silent) != is_silent && is_silent
        };
        if falls_silent {
            self.failures_begun.fetch_add(1, Ordering::Relaxed);
            self.tells.notify_waiters();
        }
    }

    /// How often it was not there after it had answered.
    pub fn failures_begun(&self) -> u64 {
        self.failures_begun.load(Ordering::Relaxed)
    }

    /// Questions sent, over each of the ways it is spoken to.
    pub fn questions(&self) -> impl Iterator<Item = (Transport, u64)> {
        let ways: &[Transport] = match self.endpoint.transport {
            Transport::Udp | Transport::Tcp => &[Transport::Udp, Transport::Tcp],
            Transport::Tls => &[Transport::Tls],
            Transport::Https => &[Transport::Https],
        };
        ways.iter().map(|over| (*over, self.questions.get(*over as usize)))
    }

    /// Failed tries by reason.
    pub fn failures(&self) -> [(TryFailure, u64); TryFailure::ALL.len()] {
        TryFailure::ALL.map(|why| (why, self.failures.get(why as usize)))
    }
}

/// Failures in a row after which a server is asked last.
const FAILURES_TO_AVOID: u32 = 3;
/// For how long a failing server is avoided first; it doubles.
const FIRST_AVOID: Duration = Duration::from_millis(250);
/// The longest a failing server is avoided.
const LONGEST_AVOID: Duration = Duration::from_secs(10);
/// For how long one question that goes first to a server that failed keeps others from doing so.
const TRIAL: Duration = TRY_TIMEOUT;
/// The longest that a slow server is waited for before the next is asked too.
const LONGEST_PATIENCE: Duration = Duration::from_millis(700);
/// What a new failure or success counts in the part of tries that fail.
const LOSS_WEIGHT: f32 = 1.0 / 16.0;
/// Mixed-case questions that must come back as sent before a difference counts as a forgery.
const ECHOES_TO_TRUST: u8 = 8;
/// Replies in other case with an equal answer over TCP, after which the server is taken to change case itself.
const CASE_CHANGES: u8 = 3;
/// For how long a server is asked in lower case, or without EDNS, before it is tried again.
const RELEARN: Duration = Duration::from_secs(3600);
/// For how long a server that leads back here is left alone.
const LOOP_PAUSE: Duration = Duration::from_secs(300);

/// What is known of a server.
#[derive(Debug, Default)]
pub struct Health {
    latency: Option<Duration>,
    latencies: Sketch,
    /// The part of the tries that fail, smoothed.
    loss: f32,
    failures: u32,
    is_silent: bool,
    avoid_until: Option<Instant>,
    is_own: bool,
    loop_until: Option<Instant>,
    plain_until: Option<Instant>,
    echoes: u8,
    case_changes: u8,
    lower_until: Option<Instant>,
}

impl Health {
    /// The server answered a question after `latency`.
    pub fn answered(&mut self, latency: Duration) {
        self.failures = 0;
        self.is_silent = false;
        self.loss -= self.loss * LOSS_WEIGHT;
        self.avoid_until = None;
        self.latencies.note(latency);
        // An eighth of each new value, as TCP smooths its round trips (RFC 6298 section 2.3).
        self.latency = Some(self.latency.map_or(latency, |before| (before * 7 + latency) / 8));
    }

    fn failed(&mut self, now: Instant, random: u32) {
        self.failures = self.failures.saturating_add(1);
        self.loss += (1.0 - self.loss) * LOSS_WEIGHT;
        if let Some(over) = self.failures.checked_sub(FAILURES_TO_AVOID) {
            let pause = FIRST_AVOID.saturating_mul(1 << over.min(8)).min(LONGEST_AVOID);
            // Between half and the whole, so that workers and nodes do not return together.
            let jitter = pause.mul_f64(0.5 + f64::from(random) / f64::from(u32::MAX) / 2.0);
            self.avoid_until = Some(now + jitter);
        }
    }

    /// True where others should be asked first.
    pub fn is_avoided(&self, now: Instant) -> bool {
        self.avoid_until.is_some_and(|until| now < until)
    }

    /// True for one question, when others have been asked first for long enough: it goes to this server first.
    pub fn is_tried_again(&mut self, now: Instant) -> bool {
        let is_due = self.failures >= FAILURES_TO_AVOID && self.avoid_until.is_some_and(|until| now >= until);
        if is_due {
            self.avoid_until = Some(now + TRIAL);
        }
        is_due
    }

    /// The time to an answer as it is to be expected, failures included; nothing is expected of a server that nobody has asked.
    pub fn cost(&self) -> Duration {
        self.latency.unwrap_or_default() + TRY_TIMEOUT.mul_f32(self.loss)
    }

    /// How long to wait for it before another try goes out.
    pub fn patience(&self) -> Duration {
        let twice = self.latency.unwrap_or_default().saturating_mul(2);
        twice.clamp(TRY_TIMEOUT, LONGEST_PATIENCE)
    }

    /// How long nineteen of twenty answers take; nothing is known before some have come.
    pub fn p95(&self) -> Option<Duration> {
        self.latencies.p95()
    }

    /// The smoothed time to an answer; nothing is known before the first.
    pub fn latency(&self) -> Option<Duration> {
        self.latency
    }

    /// The server's address is this process's own.
    pub fn is_ourselves(&mut self) {
        self.is_own = true;
    }

    /// The server was seen to lead back to this process.
    pub fn loops(&mut self, now: Instant) {
        self.loop_until = Some(now + LOOP_PAUSE);
    }

    /// True while the server must not be asked at all.
    pub fn is_loop(&self, now: Instant) -> bool {
        self.is_own || self.loop_until.is_some_and(|until| now < until)
    }

    /// The server does not know EDNS (RFC 6891 section 6.2.2).
    pub fn lacks_edns(&mut self, now: Instant) {
        self.plain_until = Some(now + RELEARN);
    }

    /// True where questions carry an OPT record.
    pub fn takes_edns(&self, now: Instant) -> bool {
        self.plain_until.is_none_or(|until| now >= until)
    }

    /// True where questions go out in mixed case.
    pub fn mixes_case(&self, now: Instant) -> bool {
        self.lower_until.is_none_or(|until| now >= until)
    }

    /// True where a reply in another case is a forgery unless TCP says the same.
    pub fn trusts_case(&self) -> bool {
        self.echoes >= ECHOES_TO_TRUST
    }

    /// A mixed-case question came back as sent.
    pub fn echoed_case(&mut self) {
        self.echoes = self.echoes.saturating_add(1).min(ECHOES_TO_TRUST);
    }

    /// A reply in another case said what TCP said too.
    pub fn changed_case(&mut self, now: Instant) {
        self.case_changes += 1;
        if self.case_changes >= CASE_CHANGES {
            (self.case_changes, self.echoes) = (0, 0);
            self.lower_until = Some(now + RELEARN);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_goes_off_after_three_confirmed_changes_and_comes_back() {
        let (mut health, now) = (Health::default(), Instant::now());
        (0..8).for_each(|_| health.echoed_case());
        assert!(health.trusts_case());
        for _ in 0..2 {
            health.changed_case(now);
            assert!(health.mixes_case(now));
        }
        health.changed_case(now);
        assert!(!health.mixes_case(now) && !health.trusts_case());
        assert!(health.mixes_case(now + RELEARN));
    }

    #[test]
    fn a_failing_server_is_avoided_for_longer_and_longer_and_forgiven_at_once() {
        let (mut health, now) = (Health::default(), Instant::now());
        (0..2).for_each(|_| health.failed(now, u32::MAX));
        assert!(!health.is_avoided(now));
        health.failed(now, u32::MAX);
        assert!(health.is_avoided(now) && !health.is_avoided(now + FIRST_AVOID));
        (0..20).for_each(|_| health.failed(now, u32::MAX));
        assert!(health.is_avoided(now + LONGEST_AVOID / 2) && !health.is_avoided(now + LONGEST_AVOID));
        health.answered(Duration::from_millis(1));
        assert!(!health.is_avoided(now));
    }

    #[test]
    fn when_the_pause_is_over_one_question_tries_it_again() {
        let (mut health, now) = (Health::default(), Instant::now());
        assert!(!health.is_tried_again(now));
        (0..3).for_each(|_| health.failed(now, u32::MAX));
        assert!(!health.is_tried_again(now));
        let later = now + FIRST_AVOID;
        assert!(health.is_tried_again(later) && !health.is_tried_again(later), "one");
        assert!(health.is_avoided(later), "the others go elsewhere meanwhile");
        assert!(health.is_tried_again(later + TRIAL), "and another, if nothing was heard of that one");
        health.answered(Duration::from_millis(1));
        assert!(!health.is_avoided(later) && !health.is_tried_again(later + TRIAL));
    }

    #[test]
    fn a_server_that_loses_costs_more_than_a_slower_one_that_does_not() {
        let (mut fast, mut slow) = (Health::default(), Health::default());
        for n in 0..100 {
            slow.answered(Duration::from_millis(40));
            match n % 4 {
                0 => fast.failed(Instant::now(), 0),
                _ => fast.answered(Duration::from_millis(1)),
            }
        }
        assert!(fast.cost() > slow.cost(), "{:?} {:?}", fast.cost(), slow.cost());
    }

    #[test]
    fn a_slow_server_is_waited_for_longer() {
        let mut health = Health::default();
        assert_eq!(health.patience(), TRY_TIMEOUT);
        (0..100).for_each(|_| health.answered(Duration::from_millis(300)));
        assert_eq!(health.patience(), Duration::from_millis(600));
        (0..100).for_each(|_| health.answered(Duration::from_secs(3)));
        assert_eq!(health.patience(), LONGEST_PATIENCE);
    }

    #[test]
    fn latency_is_smoothed() {
        let mut health = Health::default();
        health.answered(Duration::from_millis(8));
        health.answered(Duration::from_millis(16));
        assert_eq!(health.latency(), Some(Duration::from_millis(9)));
    }
}
