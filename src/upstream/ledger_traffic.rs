//! A group of servers in simulated traffic: clients that ask, a network that loses, limits, refuses or keeps silent.
//!
//! The exchange is modelled as it is: a try is given up after 350 ms, five at most, an answer counts until 1.9 s. What is left to
//! chance is the same for the same seed. `NODENS_SEEDS` says how many seeds each test is run with (1).

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::IpAddr;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const TRY: Duration = Duration::from_millis(350);
const TRIES: usize = 5;
const DEADLINE: Duration = Duration::from_millis(1900);
const BOUNDS: Bounds = Bounds { total: 8192, client: 1024 };

/// Who asks.
#[derive(Clone, Copy)]
struct Client {
    /// Questions a second, at random times.
    rate: f64,
    /// Under so many parent domains.
    domains: u64,
    /// All of them are silent.
    dead: bool,
    /// All of them are refused.
    refused: bool,
    /// The client whose domains they are under, if they have none of their own.
    under: Option<usize>,
}

const fn client(rate: f64, domains: u64) -> Client {
    Client { rate, domains, dead: false, refused: false, under: None }
}

/// What is between the group and its answers.
#[derive(Clone, Copy)]
struct Path {
    /// Packets a second that are let through.
    limit: Option<f64>,
    /// Packets that the limiter saves up.
    burst: f64,
    /// What is over the limit is answered REFUSED.
    refuses: bool,
    /// The part that is lost each way.
    loss: f64,
    latency: Duration,
}

const PATH: Path =
    Path { limit: None, burst: 5.0, refuses: false, loss: 0.0, latency: Duration::from_millis(5) };

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// A client asks.
    Ask(usize),
    /// What came of a try; false: a refusal.
    Answer(u64, usize, bool),
    /// A try has waited for its time.
    Late(u64, usize),
    /// Whoever waits is looked at.
    Turn,
}

struct Try {
    permit: Permit,
    lost: bool,
    done: bool,
}

struct Question {
    client: usize,
    spot: Spot,
    start: Duration,
    tries: Vec<Try>,
    waits: Option<Ticket>,
}

/// What was counted in a second.
#[derive(Clone, Copy, Debug, Default)]
struct Second {
    sent: u32,
    let_through: u32,
    answered: u32,
    rate: f64,
}

struct Simulation {
    seed: u64,
    ledger: Ledger<u64>,
    path: Path,
    clients: Vec<Client>,
    events: BinaryHeap<Reverse<(Duration, u64, Event)>>,
    questions: BTreeMap<u64, Question>,
    random: StdRng,
    now: Duration,
    order: u64,
    numbers: u64,
    bucket: (f64, Duration),
    turn_at: Option<Duration>,
    seconds: Vec<Second>,
    asked: Vec<u32>,
    answered: Vec<u32>,
    refused: Vec<u32>,
    failed: Vec<u32>,
    distinct: u32,
    longest_line: usize,
    most_questions: usize,
    most_entries: usize,
}

impl Simulation {
    fn new(seed: u64, budget: Budget, path: Path, clients: &[Client]) -> Simulation {
        let mut simulation = Simulation {
            seed,
            ledger: Ledger::new(budget, BOUNDS, Duration::ZERO).unwrap(),
            path,
            clients: clients.to_vec(),
            events: BinaryHeap::new(),
            questions: BTreeMap::new(),
            random: StdRng::seed_from_u64(seed),
            now: Duration::ZERO,
            order: 0,
            numbers: 0,
            bucket: (5.0, Duration::ZERO),
            turn_at: None,
            seconds: vec![],
            asked: vec![0; clients.len()],
            answered: vec![0; clients.len()],
            refused: vec![0; clients.len()],
            failed: vec![0; clients.len()],
            distinct: 0,
            longest_line: 0,
            most_questions: 0,
            most_entries: 0,
        };
        (0..clients.len()).for_each(|client| simulation.ask_later(client));
        simulation
    }

    fn at(&mut self, when: Duration, event: Event) {
        self.order += 1;
        self.events.push(Reverse((when, self.order, event)));
    }

    fn run(&mut self, until: Duration) {
        while let Some(Reverse((when, _, event))) = self.events.pop() {
            if when > until {
                self.events.push(Reverse((when, 0, event)));
                break;
            }
            self.now = when;
            match event {
                Event::Ask(client) => self.ask(client),
                Event::Answer(number, index, well) => self.answer(number, index, well),
                Event::Late(number, index) => self.late(number, index),
                // An earlier one has taken its place.
                Event::Turn if self.turn_at != Some(when) => continue,
                Event::Turn => self.turn_at = None,
            }
            self.turns();
            let rate = self.ledger.settled_rate();
            self.second().rate = rate;
            let waiting = Class::ALL.map(|class| self.ledger.waiting(class)).iter().sum();
            self.longest_line = self.longest_line.max(waiting);
            self.most_questions = self.most_questions.max(self.questions.len());
            if waiting > 0 && waiting >= self.longest_line / 2 {
                self.most_entries = self.most_entries.max(self.ledger.queue.entries());
            }
        }
        self.now = until;
    }

    fn second(&mut self) -> &mut Second {
        let index = self.now.as_secs() as usize;
        if self.seconds.len() <= index {
            self.seconds.resize(index + 1, Second::default());
        }
        &mut self.seconds[index]
    }

    fn ask_later(&mut self, client: usize) {
        let rate = self.clients[client].rate;
        if rate > 0.0 {
            let pause = Duration::from_secs_f64(-(1.0 - self.random.random::<f64>()).ln() / rate);
            self.at(self.now + pause, Event::Ask(client));
        }
    }

    fn ask(&mut self, client: usize) {
        self.ask_later(client);
        self.asked[client] += 1;
        let number = self.numbers;
        self.numbers += 1;
        let owner = self.clients[client].under.unwrap_or(client);
        let domain = 1000 * owner as u64 + self.random.random_range(0..self.clients[client].domains);
        let spot = Spot { server: 0, domain };
        let question = Question { client, spot, start: self.now, tries: vec![], waits: None };
        self.questions.insert(number, question);
        self.want(number, false);
    }

    fn want(&mut self, number: u64, extra: bool) {
        let question = &self.questions[&number];
        let deadline = if extra { question.start + DEADLINE } else { question.start + DEADLINE - TRY };
        let class = if extra { Class::Retry } else { Class::Client };
        let place = Place { client: IpAddr::from((question.client as u32).to_be_bytes()), class, deadline };
        let wish = Wish { places: &[place], domain: question.spot.domain, packets: 1, extra };
        match self.ledger.ask(self.now, &wish, || number) {
            Asked::Go(permit) => self.send(number, permit),
            Asked::Wait(ticket) => self.questions.get_mut(&number).unwrap().waits = Some(ticket),
            Asked::No(_) if extra => self.next_late(number),
            Asked::No(_) => self.end(number, false),
        }
    }

    fn send(&mut self, number: u64, permit: Permit) {
        let question = self.questions.get_mut(&number).unwrap();
        question.waits = None;
        let index = question.tries.len();
        question.tries.push(Try { permit, lost: false, done: false });
        self.distinct += u32::from(index == 0);
        self.second().sent += 1;
        self.at(self.now + TRY, Event::Late(number, index));
        let Path { limit, burst, refuses, loss, latency } = self.path;
        if self.random.random::<f64>() < loss {
            return;
        }
        let passes = limit.is_none_or(|limit| {
            let (tokens, at) = self.bucket;
            let tokens = (tokens + (self.now - at).as_secs_f64() * limit).min(burst);
            let passes = tokens >= 1.0;
            self.bucket = (tokens - f64::from(passes), self.now);
            passes
        });
        self.second().let_through += u32::from(passes);
        let Client { dead, refused, .. } = self.clients[self.questions[&number].client];
        if (passes && dead) || !(passes || refuses) || self.random.random::<f64>() < loss {
            return;
        }
        self.at(self.now + latency, Event::Answer(number, index, passes && !refused));
    }

    fn answer(&mut self, number: u64, index: usize, well: bool) {
        let Some(question) = self.questions.get_mut(&number) else { return };
        let (spot, now) = (question.spot, self.now);
        let made = &mut question.tries[index];
        if !well {
            made.done = true;
            if self.ledger.suspects(now, spot) {
                made.lost = true;
                self.ledger.lost(now, made.permit, spot);
            } else {
                self.ledger.declined(now, made.permit, spot);
                self.end(number, false);
            }
            return;
        }
        if made.lost {
            self.ledger.found(made.permit, spot);
        } else {
            self.ledger.answered(now, made.permit, spot, true);
        }
        (made.lost, made.done) = (false, true);
        for (other, made) in question.tries.iter().enumerate() {
            if made.lost && other < index {
                self.ledger.proven(spot);
            } else if !made.lost && !made.done {
                self.ledger.forgotten(made.permit);
            }
        }
        let in_time = now <= question.start + DEADLINE;
        self.second().answered += u32::from(in_time);
        self.end(number, in_time);
    }

    fn late(&mut self, number: u64, index: usize) {
        let Some(question) = self.questions.get_mut(&number) else { return };
        let (spot, now) = (question.spot, self.now);
        if let Some(made) = question.tries.get_mut(index)
            && !made.lost
        {
            made.lost = true;
            self.ledger.lost(now, made.permit, spot);
        }
        let over = self.now >= question.start + DEADLINE;
        if over || question.tries.len() >= TRIES {
            if self.now >= question.start + 3 * SECOND {
                return self.end(number, false);
            }
            return self.next_late(number);
        }
        if question.waits.is_some() || self.ledger.is_dead(spot) {
            return self.next_late(number);
        }
        self.want(number, true);
    }

    fn next_late(&mut self, number: u64) {
        self.at(self.now + TRY, Event::Late(number, TRIES));
    }

    fn end(&mut self, number: u64, well: bool) {
        let Some(question) = self.questions.remove(&number) else { return };
        if let Some(ticket) = question.waits {
            self.ledger.leave(ticket);
        }
        if well {
            self.answered[question.client] += 1;
        } else {
            let failures = if question.tries.is_empty() { &mut self.refused } else { &mut self.failed };
            failures[question.client] += 1;
        }
    }

    /// Whoever may go does; a timer has whole milliseconds, as the runtime's.
    fn turns(&mut self) {
        loop {
            match self.ledger.next(self.now) {
                Next::Go(number, permit) => self.send(number, permit),
                Next::Late(number) => match self.questions[&number].tries.len() {
                    0 => self.end(number, false),
                    _ => {
                        self.questions.get_mut(&number).unwrap().waits = None;
                        self.next_late(number);
                    }
                },
                Next::In(wait) => {
                    let when = Duration::from_millis((self.now + wait).as_nanos() as u64 / 1_000_000 + 1);
                    if self.turn_at.is_none_or(|at| when < at) {
                        self.turn_at = Some(when);
                        self.at(when, Event::Turn);
                    }
                    return;
                }
                Next::Nobody => return,
            }
        }
    }

    /// The mean over some seconds.
    fn mean(&self, seconds: std::ops::Range<usize>, of: impl Fn(&Second) -> f64) -> f64 {
        let slice = &self.seconds[seconds];
        slice.iter().map(of).sum::<f64>() / slice.len() as f64
    }

    /// Prints a line of the table in `docs/decisions/0012-adaptive-rate.md`: what went on in some seconds.
    fn show(&self, what: &str, seconds: std::ops::Range<usize>) {
        let lowest = adaptive_rates(self, seconds.clone()).0;
        let [sent, through, answered] = [sent, let_through, in_time].map(|of| self.mean(seconds.clone(), of));
        let each = self.packets_per_question();
        if self.seed == FIRST_SEED {
            println!("| {what} | {sent:.0} | {through:.0} | {answered:.0} | {each:.3} | {lowest:.0} |");
        }
    }

    fn packets_per_question(&self) -> f64 {
        f64::from(self.seconds.iter().map(|second| second.sent).sum::<u32>()) / f64::from(self.distinct)
    }
}

fn adaptive(seed: u64, path: Path, clients: &[Client]) -> Simulation {
    Simulation::new(seed, Budget::Adaptive, path, clients)
}

/// The seed whose figures are shown.
const FIRST_SEED: u64 = 1;

/// Runs a test with one seed, or with as many as are wanted, and tells which one it fails with.
fn with_seeds(test: impl Fn(u64)) {
    struct Told(u64);
    impl Drop for Told {
        fn drop(&mut self) {
            if std::thread::panicking() {
                println!("with seed {}", self.0);
            }
        }
    }
    let seeds = std::env::var("NODENS_SEEDS").map_or(1, |seeds| seeds.parse().unwrap());
    for seed in FIRST_SEED..FIRST_SEED + seeds {
        let _told = Told(seed);
        test(seed);
    }
}

fn adaptive_rates(simulation: &Simulation, seconds: std::ops::Range<usize>) -> (f64, f64) {
    let rates = simulation.seconds[seconds].iter().map(|second| second.rate);
    (rates.clone().fold(f64::MAX, f64::min), rates.fold(0.0, f64::max))
}

fn sent(second: &Second) -> f64 {
    f64::from(second.sent)
}

fn let_through(second: &Second) -> f64 {
    f64::from(second.let_through)
}

fn in_time(second: &Second) -> f64 {
    f64::from(second.answered)
}

#[path = "ledger_tests.rs"]
mod tests;
