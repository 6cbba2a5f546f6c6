//! Whose question goes next: per-client deficit round robin in four classes, told the time.
//!
//! A question may stand in several places, one for each client that waits for it; the first whose turn comes takes it
//! out of all. Classes come in strict order. In a class each client has a turn after the other, and in a
//! client's turn each of its parent domains, so that neither a client nor a domain holds up the others:
//!
//! ```text
//! class ─▶ round of clients ─▶ round of the client's domains ─▶ questions, first come first served
//! ```
//!
//! A turn brings a client one packet of credit (the quantum); a question that costs more waits for as many turns (M. Shreedhar
//! and G. Varghese, "Efficient Fair Queuing using Deficit Round Robin", 1996). What cannot have its turn before its deadline
//! is refused when it comes, not when it is too late.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use foldhash::quality::RandomState;

use super::Class;

/// Clients that one question stands in line for; a further one has it when the best of these has.
pub const MAX_PLACES: usize = 8;
/// While questions wait, whoever calls for turns gives one to a retry for so many to questions.
pub const QUESTIONS_PER_RETRY: u32 = 10;

/// A place in line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Who waits. Pods behind one address are one client.
    pub client: IpAddr,
    /// How urgent it is.
    pub class: Class,
    /// When its turn has to have come, on the clock that the queue is told.
    pub deadline: Duration,
}

/// Why a question gets no turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Too many questions wait for these servers, none of them less urgent.
    #[error("too many questions wait for this upstream")]
    Full,
    /// Too many questions of this client wait for these servers.
    #[error("too many questions of this client wait for this upstream")]
    ClientFull,
    /// Its turn would come after its deadline.
    #[error("the upstream's budget is spent for longer than this question can wait")]
    Deadline,
    /// A retry at a server that has not answered for its domain for long.
    #[error("the upstream is silent for this domain")]
    Silent,
    /// This host could not send it.
    #[error("this host has no descriptor or memory left to ask with")]
    Host,
}

impl Refused {
    /// All reasons, in the order of their counters.
    pub const ALL: [Refused; 5] =
        [Refused::Full, Refused::ClientFull, Refused::Deadline, Refused::Silent, Refused::Host];

    /// The name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Refused::Full => "full",
            Refused::ClientFull => "client_full",
            Refused::Deadline => "deadline",
            Refused::Silent => "silent",
            Refused::Host => "host",
        }
    }
}

/// How much may wait.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Places in all.
    pub total: usize,
    /// Places of one client, over all classes.
    pub client: usize,
}

/// The number of a question in line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket(u64);

/// A question in line; `T` is whatever has to be told when its turn comes.
struct Waiting<T> {
    item: T,
    domain: u64,
    packets: u32,
    places: Vec<Place>,
}

/// What leaves the line.
#[derive(Debug, PartialEq, Eq)]
pub struct Turn<T> {
    /// Whatever was put in.
    pub item: T,
    /// The class of the place that had its turn.
    pub class: Class,
    /// What it costs.
    pub packets: u32,
    /// Its deadline passed before its turn came.
    pub late: bool,
}

/// The line.
pub struct Queue<T> {
    waiting: HashMap<Ticket, Waiting<T>, RandomState>,
    rounds: [Round; Class::ALL.len()],
    clients: HashMap<IpAddr, usize, RandomState>,
    places: usize,
    next: u64,
    bounds: Bounds,
}

impl<T> Queue<T> {
    /// An empty line.
    pub fn new(bounds: Bounds) -> Queue<T> {
        Queue {
            waiting: HashMap::default(),
            rounds: Default::default(),
            clients: HashMap::default(),
            places: 0,
            next: 0,
            bounds,
        }
    }

    /// Puts a question in line for everybody who waits for it. `domain` is what a client's questions share turns by; `rate` is the
    /// packets a second that are being sent.
    ///
    /// # Errors
    /// [`Refused`] where none of the places has room and a turn in time.
    pub fn push(
        &mut self,
        now: Duration,
        rate: f64,
        places: &[Place],
        domain: u64,
        packets: u32,
        item: T,
    ) -> Result<Ticket, Refused> {
        let mut refused = Refused::Deadline;
        let admitted = places.iter().position(|place| match self.admit(now, rate, place) {
            Ok(()) => true,
            Err(why) => {
                refused = why;
                false
            }
        });
        let Some((place, later)) = admitted.and_then(|index| places.get(index..)?.split_first()) else {
            return Err(refused);
        };
        let ticket = Ticket(self.next);
        self.next += 1;
        self.waiting.insert(ticket, Waiting { item, domain, packets, places: vec![*place] });
        self.stand(ticket, place, domain);
        later.iter().for_each(|place| self.also(ticket, *place));
        Ok(ticket)
    }

    /// One more client waits for a question in line: it stands in that client's line too, and has its turn when the first of
    /// them has. One that is known already keeps its place, in the better of two classes and until the later deadline.
    pub fn also(&mut self, ticket: Ticket, place: Place) {
        let has_room = self.has_room(place.client);
        let Some(waiting) = self.waiting.get_mut(&ticket) else { return };
        let domain = waiting.domain;
        let known = waiting.places.iter_mut().find(|other| other.client == place.client);
        if let Some(known) = known {
            let before = *known;
            known.class = before.class.min(place.class);
            known.deadline = before.deadline.max(place.deadline);
            let after = *known;
            if after.class != before.class {
                self.step_out(ticket, &before, domain);
                self.stand(ticket, &after, domain);
            }
        } else if has_room && waiting.places.len() < MAX_PLACES {
            waiting.places.push(place);
            self.stand(ticket, &place, domain);
        }
    }

    /// Takes a question out of line.
    pub fn remove(&mut self, ticket: Ticket) -> Option<T> {
        let waiting = self.waiting.remove(&ticket)?;
        for place in &waiting.places {
            self.step_out(ticket, place, waiting.domain);
        }
        Some(waiting.item)
    }

    /// The next question, of the best class that has one.
    pub fn pop(&mut self, now: Duration) -> Option<Turn<T>> {
        Class::ALL.into_iter().find_map(|class| self.pop_of(class, now))
    }

    /// The next question of a class.
    pub fn pop_of(&mut self, class: Class, now: Duration) -> Option<Turn<T>> {
        let waiting = &self.waiting;
        let packets = |ticket: &Ticket| waiting.get(ticket).map_or(1, |waiting| waiting.packets);
        let (ticket, client) = self.rounds.get_mut(class as usize)?.next(packets)?;
        self.count_out(client);
        let Waiting { item, domain, packets, places } = self.waiting.remove(&ticket)?;
        for place in places.iter().filter(|place| (place.class, place.client) != (class, client)) {
            self.step_out(ticket, place, domain);
        }
        let late = places.iter().all(|place| place.deadline < now);
        Some(Turn { item, class, packets, late })
    }

    /// Places in line, of a class.
    pub fn len_of(&self, class: Class) -> usize {
        self.rounds.get(class as usize).map_or(0, |round| round.places)
    }

    /// Nobody waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether there is room for a place, and a turn in time.
    fn admit(&mut self, now: Duration, rate: f64, place: &Place) -> Result<(), Refused> {
        if self.clients.get(&place.client).is_some_and(|mine| *mine >= self.bounds.client) {
            return Err(Refused::ClientFull);
        }
        if now + self.wait(rate, place) > place.deadline {
            return Err(Refused::Deadline);
        }
        if self.places >= self.bounds.total && !self.make_room(place.class) {
            return Err(Refused::Full);
        }
        Ok(())
    }

    /// How long a new place waits: for all better classes, then for as many of each client of its own as it
    /// has questions of its own before it, if so many are there, and for its own packet. Retries have their share of the turns instead.
    fn wait(&self, rate: f64, place: &Place) -> Duration {
        let own = self.rounds.get(place.class as usize).map_or(0, |round| {
            let mine = round.clients.get(&place.client).map_or(0, |flow| flow.places);
            round.places.min((mine + 1) * round.turn.len())
        });
        let before = if place.class == Class::Retry {
            own * (QUESTIONS_PER_RETRY as usize + 1)
        } else {
            let better = Class::ALL.into_iter().take_while(|class| *class < place.class);
            better.map(|class| self.len_of(class)).sum::<usize>() + own
        };
        Duration::from_secs_f64((before + 1) as f64 / rate.max(1.0))
    }

    /// Puts out the last to come of the least urgent class, if that is less urgent than this one.
    fn make_room(&mut self, class: Class) -> bool {
        let worse = Class::ALL.into_iter().rev().take_while(|other| *other > class);
        let mut last = worse.filter_map(|other| self.rounds.get(other as usize)?.last());
        let found = last.next();
        found.is_some_and(|ticket| self.remove(ticket).is_some())
    }

    fn has_room(&self, client: IpAddr) -> bool {
        let mine = self.clients.get(&client).copied().unwrap_or_default();
        self.places < self.bounds.total && mine < self.bounds.client
    }

    fn stand(&mut self, ticket: Ticket, place: &Place, domain: u64) {
        *self.clients.entry(place.client).or_default() += 1;
        self.places += 1;
        if let Some(round) = self.rounds.get_mut(place.class as usize) {
            round.push(place.client, domain, ticket);
        }
    }

    fn step_out(&mut self, ticket: Ticket, place: &Place, domain: u64) {
        self.count_out(place.client);
        if let Some(round) = self.rounds.get_mut(place.class as usize) {
            round.remove(place.client, domain, ticket);
        }
    }

    fn count_out(&mut self, client: IpAddr) {
        self.places -= 1;
        if let Entry::Occupied(mut mine) = self.clients.entry(client) {
            *mine.get_mut() -= 1;
            if *mine.get() == 0 {
                mine.remove();
            }
        }
    }
}

#[cfg(test)]
impl<T> Queue<T> {
    /// Entries of all its tables.
    pub fn entries(&self) -> usize {
        let of_flow = |flow: &Flow| flow.domains.values().map(VecDeque::len).sum::<usize>() + flow.turn.len();
        let of_round = |round: &Round| round.clients.values().map(of_flow).sum::<usize>() + round.turn.len();
        self.waiting.len() + self.clients.len() + self.rounds.iter().map(of_round).sum::<usize>()
    }
}

/// A class: clients in turn.
#[derive(Default)]
struct Round {
    clients: HashMap<IpAddr, Flow, RandomState>,
    turn: VecDeque<IpAddr>,
    places: usize,
}

/// A client: its domains in turn.
#[derive(Default)]
struct Flow {
    domains: HashMap<u64, VecDeque<Ticket>, RandomState>,
    turn: VecDeque<u64>,
    places: usize,
    credit: u32,
}

impl Round {
    fn push(&mut self, client: IpAddr, domain: u64, ticket: Ticket) {
        let flow = self.clients.entry(client).or_default();
        if flow.places == 0 {
            self.turn.push_back(client);
        }
        flow.push(domain, ticket);
        self.places += 1;
    }

    /// The next in turn, and whose it is. Each pass brings every client one packet nearer, so it ends.
    fn next(&mut self, packets: impl Fn(&Ticket) -> u32) -> Option<(Ticket, IpAddr)> {
        loop {
            let client = self.turn.pop_front()?;
            let Some(flow) = self.clients.get_mut(&client) else { continue };
            flow.credit += 1;
            let cost = flow.first().map_or(1, &packets);
            if flow.credit < cost {
                self.turn.push_back(client);
                continue;
            }
            flow.credit -= cost;
            let ticket = flow.next();
            if flow.places == 0 {
                self.clients.remove(&client);
            } else {
                self.turn.push_back(client);
            }
            let Some(ticket) = ticket else { continue };
            self.places -= 1;
            return Some((ticket, client));
        }
    }

    fn remove(&mut self, client: IpAddr, domain: u64, ticket: Ticket) {
        let Some(flow) = self.clients.get_mut(&client) else { return };
        if !flow.remove(domain, ticket) {
            return;
        }
        self.places -= 1;
        if flow.places == 0 {
            self.clients.remove(&client);
            self.turn.retain(|other| *other != client);
        }
    }

    /// The last to come, of the client whose turn is furthest away.
    fn last(&self) -> Option<Ticket> {
        let flow = self.clients.get(self.turn.back()?)?;
        flow.domains.get(flow.turn.back()?)?.back().copied()
    }
}

impl Flow {
    fn push(&mut self, domain: u64, ticket: Ticket) {
        let line = self.domains.entry(domain).or_default();
        if line.is_empty() {
            self.turn.push_back(domain);
        }
        line.push_back(ticket);
        self.places += 1;
    }

    fn first(&self) -> Option<&Ticket> {
        self.domains.get(self.turn.front()?)?.front()
    }

    fn next(&mut self) -> Option<Ticket> {
        let domain = self.turn.pop_front()?;
        let line = self.domains.get_mut(&domain)?;
        let ticket = line.pop_front();
        if line.is_empty() {
            self.domains.remove(&domain);
        } else {
            self.turn.push_back(domain);
        }
        self.places -= usize::from(ticket.is_some());
        ticket
    }

    /// Who leaves early is mostly the first, whose deadline has passed; the search is as long as what waits before it.
    fn remove(&mut self, domain: u64, ticket: Ticket) -> bool {
        let Some(line) = self.domains.get_mut(&domain) else { return false };
        let Some(at) = line.iter().position(|other| *other == ticket) else { return false };
        line.remove(at);
        self.places -= 1;
        if line.is_empty() {
            self.domains.remove(&domain);
            self.turn.retain(|other| *other != domain);
        }
        true
    }
}

#[cfg(test)]
#[path = "fairness_tests.rs"]
mod tests;
