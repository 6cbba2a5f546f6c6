//! From the workers to the learner: each worker notes questions in a bounded ring of its own, one thread puts them in
//! order, publishes what they show, and tells one of the workers what to ask for again. A full ring loses notes; then no walk under way proves anything.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver as Ring, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread::{Builder, Thread};
use std::time::Duration;

use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::Shared;
use crate::cache::ttl::Moment;
use crate::search::learner::{Learner, Note};
use crate::search::polls::{Polls, Requery};

/// Notes that wait in one worker's ring, 312 bytes each.
pub const RING: usize = 1024;
/// How long notes are held back, so that an earlier one of another worker is in before them.
const HOLD_BACK: Duration = Duration::from_millis(3);
/// How often it is looked whether a name that somebody waits for is to be asked for again.
const WATCH: Duration = Duration::from_millis(50);
/// How often addresses of which nothing counts any more are looked for.
const SWEEP: Duration = Duration::from_secs(1);

/// A worker's end.
pub struct Notebook {
    ring: SyncSender<Note>,
    bell: Arc<Bell>,
}

/// What wakes the learner, and what it missed.
#[derive(Default)]
pub struct Bell {
    sleeping: AtomicBool,
    learner: OnceLock<Thread>,
    lost: AtomicU64,
}

impl Notebook {
    /// Adds a note; wakes the learner if it sleeps.
    pub fn add(&self, note: Note) {
        if self.ring.try_send(note).is_err() {
            self.bell.lost.fetch_add(1, Ordering::Relaxed);
        }
        if self.bell.sleeping.load(Ordering::Acquire)
            && self.bell.sleeping.swap(false, Ordering::AcqRel)
            && let Some(learner) = self.bell.learner.get()
        {
            learner.unpark();
        }
    }
}

/// The learner's end.
pub struct Scribe {
    rings: Vec<Ring<Note>>,
    bell: Arc<Bell>,
    learner: Learner,
    waiting: Vec<Note>,
    swept: Moment,
    polls: Polls,
    requeries: Sender<Requery>,
}

/// Names to be asked for again that a worker has not got to.
const REQUERIES: usize = 64;

/// Notebooks for so many workers, who reads them, and what one of the workers has to ask for again.
pub fn pair(workers: usize) -> (Vec<Notebook>, Scribe, Receiver<Requery>) {
    let bell = Arc::new(Bell::default());
    let (ends, rings): (Vec<_>, Vec<_>) = (0..workers).map(|_| sync_channel(RING)).unzip();
    let notebooks = ends.into_iter().map(|ring| Notebook { ring, bell: Arc::clone(&bell) }).collect();
    let (requeries, asked_again) = channel(REQUERIES);
    let scribe = Scribe {
        rings,
        bell,
        learner: Learner::default(),
        waiting: Vec::new(),
        swept: Moment(0),
        polls: Polls::default(),
        requeries,
    };
    (notebooks, scribe, asked_again)
}

/// Starts a thread that learns from so many workers; it ends when their notebooks are gone.
///
/// # Errors
/// What the system said when it refused a thread.
pub fn start(workers: usize, shared: Arc<Shared>) -> io::Result<(Vec<Notebook>, Receiver<Requery>)> {
    let (notebooks, scribe, asked_again) = pair(workers);
    let bell = Arc::clone(&scribe.bell);
    let thread = Builder::new().name("learner".into()).spawn(move || scribe.run(&shared))?;
    let _ = bell.learner.set(thread.thread().clone());
    Ok((notebooks, asked_again))
}

impl Scribe {
    fn run(mut self, shared: &Shared) {
        let mut armed = false;
        while self.turn(shared) {
            match (self.waiting.is_empty(), armed) {
                (true, true) if !self.polls.is_empty() => std::thread::park_timeout(WATCH),
                (false, _) => std::thread::sleep(HOLD_BACK),
                // A note that came before the bell was armed is found by one more look.
                (true, false) => self.bell.sleeping.store(true, Ordering::Release),
                (true, true) => std::thread::park_timeout(SWEEP),
            }
            armed = self.waiting.is_empty() && !armed;
            if !armed {
                self.bell.sleeping.store(false, Ordering::Release);
            }
        }
    }

    /// Reads what has been noted and publishes what it shows; false where every worker is gone.
    pub fn turn(&mut self, shared: &Shared) -> bool {
        // Read before the rings are: what is held back long enough by this clock is in them by now, from every worker.
        let now_us = shared.clock.now_us();
        let waiting = &mut self.waiting;
        self.rings.retain(|ring| collect(ring, waiting));
        if self.bell.lost.swap(0, Ordering::Relaxed) > 0 {
            self.learner.lost_some();
        }
        self.waiting.sort_by_key(|note| note.answered_us);
        let until = now_us.saturating_sub(HOLD_BACK.as_micros() as u64);
        let ripe = self.waiting.partition_point(|note| note.answered_us <= until);
        for note in self.waiting.drain(..ripe) {
            if shared.search.is_poll(note.qname(), note.denied) {
                self.polls.denied(note.qname(), note.qtype, note.address, Moment(note.answered_us / 1000));
            }
            if shared.search.learns()
                && let Some(view) = self.learner.take(&note, &shared.search.suffixes())
            {
                shared.search.clients().publish(note.address, view);
            }
        }
        let now = Moment(now_us / 1000);
        while let Some(requery) = self.polls.due(now) {
            // A worker that does not get to it has more important things to do.
            let _ = self.requeries.try_send(requery);
        }
        if now >= self.swept.after(SWEEP) {
            self.swept = now;
            self.learner.sweep(now).into_iter().for_each(|address| shared.search.clients().forget(address));
        }
        !self.rings.is_empty()
    }
}

/// Takes what waits in a ring; false where its worker is gone.
fn collect(ring: &Ring<Note>, waiting: &mut Vec<Note>) -> bool {
    loop {
        match ring.try_recv() {
            Ok(note) => waiting.push(note),
            Err(TryRecvError::Empty) => return true,
            Err(TryRecvError::Disconnected) => return false,
        }
    }
}
