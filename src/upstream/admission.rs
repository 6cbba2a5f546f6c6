//! Hop 6: equal questions are asked once, and no more wait than there is room for.
//!
//! A *flight* is a question on its way. Whoever comes first leads it: the leader's task holds a [`Lead`], and
//! its dropping, also by a panic, wakes all who joined, so that nobody waits for a question that no one asks.
//! The table of flights is sharded; a shard's mutex is held for one look-up and never over an await. A flight has a
//! [`Standing`]: who waits for it, and so how urgent it is and until when.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use foldhash::quality::RandomState;
use tokio::sync::SetOnce;

use super::standing::Standing;
use crate::buckets::{BUCKETS, Buckets};

const SHARDS: usize = 16;

/// A question on its way.
struct Flight<T> {
    /// The answer; nothing where the leader went away without one.
    landed: SetOnce<Option<T>>,
    suspect: AtomicBool,
    standing: Arc<Standing>,
}

type Table<T> = HashMap<Box<[u8]>, Arc<Flight<T>>, RandomState>;

/// All questions on their way, by key.
pub struct Flights<T> {
    shards: [Mutex<Table<T>>; SHARDS],
    hasher: RandomState,
}

/// How a question gets its answer.
pub enum Joined<T> {
    /// It has to be asked.
    Lead(Lead<T>, Landing<T>),
    /// It is being asked.
    Follow(Landing<T>),
}

/// The end of a flight, for those who wait.
pub struct Landing<T>(Arc<Flight<T>>);

impl<T: Clone> Landing<T> {
    /// The answer, or nothing where the leader went away without one.
    pub async fn wait(self) -> Option<T> {
        self.0.landed.wait().await.clone()
    }

    /// What [`Landing::wait`] would give now, if it has landed.
    pub fn now(&self) -> Option<Option<T>> {
        self.0.landed.get().cloned()
    }

    /// Who waits for the flight.
    pub fn standing(&self) -> &Standing {
        &self.0.standing
    }
}

impl<T> Default for Flights<T> {
    fn default() -> Self {
        Flights { shards: std::array::from_fn(|_| Mutex::default()), hasher: RandomState::default() }
    }
}

impl<T> Flights<T> {
    /// Joins the flight of a key, or begins it. `mixed_case` says that the question has letters in upper case,
    /// as ours have upstream: one that joins its own flight may be ours.
    pub fn join(self: &Arc<Self>, key: &[u8], mixed_case: bool) -> Joined<T> {
        match self.shard(key).entry(key.into()) {
            Entry::Occupied(flight) => {
                if mixed_case {
                    flight.get().suspect.store(true, Ordering::Relaxed);
                }
                Joined::Follow(Landing(Arc::clone(flight.get())))
            }
            Entry::Vacant(place) => {
                let flight = Arc::new(Flight {
                    landed: SetOnce::new(),
                    suspect: AtomicBool::new(false),
                    standing: Arc::default(),
                });
                let landing = Landing(Arc::clone(&flight));
                place.insert(Arc::clone(&flight));
                Joined::Lead(Lead { flights: Arc::clone(self), key: key.into(), flight }, landing)
            }
        }
    }

    fn shard(&self, key: &[u8]) -> MutexGuard<'_, Table<T>> {
        let index = self.hasher.hash_one(key) as usize % SHARDS;
        // The remainder is an index of the array; the first shard stands in for what cannot happen.
        let shard = self.shards.get(index).unwrap_or(&self.shards[0]);
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The duty to end a flight.
pub struct Lead<T> {
    flights: Arc<Flights<T>>,
    key: Box<[u8]>,
    flight: Arc<Flight<T>>,
}

impl<T> Lead<T> {
    /// Gives the answer to all who joined.
    pub fn land(self, answer: T) {
        let _ = self.flight.landed.set(Some(answer));
    }

    /// Who waits for the flight.
    pub fn standing(&self) -> &Arc<Standing> {
        &self.flight.standing
    }

    /// True where a question that joined looked like one of ours come back.
    pub fn is_suspect(&self) -> bool {
        self.flight.suspect.load(Ordering::Relaxed)
    }
}

impl<T> Drop for Lead<T> {
    fn drop(&mut self) {
        self.flights.shard(&self.key).remove(&self.key);
        // Nothing, unless it has landed.
        let _ = self.flight.landed.set(None);
    }
}

/// How many are inside, in all and for each client: questions that wait, or connections. A client takes 4 bytes.
pub struct Gate {
    total: AtomicU32,
    clients: Box<[AtomicU32]>,
    buckets: Buckets,
    max_total: u32,
    max_client: u32,
}

/// Which bound was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// Too many in all.
    Total,
    /// Too many of this client.
    Client,
}

impl Gate {
    /// Nobody is inside; at most so many may be.
    pub fn new(max_total: u32, max_client: u32) -> Gate {
        Gate {
            total: AtomicU32::new(0),
            clients: (0..BUCKETS).map(|_| AtomicU32::new(0)).collect(),
            buckets: Buckets::default(),
            max_total,
            max_client,
        }
    }

    /// A place for one of a client, until it is dropped.
    ///
    /// # Errors
    /// [`Full`] says which bound has been reached.
    pub fn enter(self: &Arc<Self>, client: IpAddr) -> Result<Place, Full> {
        let bucket = self.buckets.of(client);
        let mine = self.clients.get(bucket).ok_or(Full::Client)?;
        if self.total.fetch_add(1, Ordering::Relaxed) >= self.max_total {
            self.total.fetch_sub(1, Ordering::Relaxed);
            return Err(Full::Total);
        }
        if mine.fetch_add(1, Ordering::Relaxed) >= self.max_client {
            mine.fetch_sub(1, Ordering::Relaxed);
            self.total.fetch_sub(1, Ordering::Relaxed);
            return Err(Full::Client);
        }
        Ok(Place { gate: Arc::clone(self), bucket })
    }

    /// More than half of the places are taken.
    pub fn is_half_full(&self) -> bool {
        self.count() > self.max_total / 2
    }

    /// How many are inside now.
    pub fn count(&self) -> u32 {
        self.total.load(Ordering::Relaxed)
    }
}

/// One place, given back when dropped.
pub struct Place {
    gate: Arc<Gate>,
    bucket: usize,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.gate.total.fetch_sub(1, Ordering::Relaxed);
        if let Some(mine) = self.gate.clients.get(self.bucket) {
            mine.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn equal_questions_fly_once_and_land_together() {
        let flights = Arc::new(Flights::default());
        let Joined::Lead(lead, own) = flights.join(b"q", false) else { panic!("first") };
        let Joined::Follow(other) = flights.join(b"q", true) else { panic!("second") };
        assert!(matches!(flights.join(b"r", false), Joined::Lead(..)));
        assert!(lead.is_suspect());
        lead.land(7);
        assert_eq!((own.wait().await, other.wait().await), (Some(7), Some(7)));
        assert!(matches!(flights.join(b"q", false), Joined::Lead(..)), "it is over");
    }

    #[tokio::test]
    async fn a_leader_that_goes_away_wakes_everybody() {
        let flights = Arc::new(Flights::<u8>::default());
        let Joined::Lead(lead, own) = flights.join(b"q", false) else { panic!("first") };
        let Joined::Follow(other) = flights.join(b"q", false) else { panic!("second") };
        let task = tokio::spawn(async move {
            let _lead = lead;
            panic!("on purpose");
        });
        assert!(task.await.is_err());
        assert_eq!((own.wait().await, other.wait().await), (None, None));
    }

    #[test]
    fn places_are_bounded_and_given_back() {
        let waiting = Arc::new(Gate::new(3, 2));
        let (one, two) = ([127, 0, 0, 1].into(), [127, 0, 0, 2].into());
        let first = waiting.enter(one).unwrap();
        assert!(!waiting.is_half_full());
        let _second = waiting.enter(one).unwrap();
        assert_eq!(waiting.enter(one).err(), Some(Full::Client));
        assert!(waiting.is_half_full());
        let _third = waiting.enter(two).unwrap();
        assert_eq!(waiting.enter(two).err(), Some(Full::Total));
        drop(first);
        assert!(waiting.enter(one).is_ok());
        assert_eq!(waiting.count(), 2);
    }
}
