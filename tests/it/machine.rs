//! The machine that the tests run on: whether it let them run.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A thread of an idle machine that wakes so late was not let run.
const STANDSTILL: Duration = Duration::from_millis(80);
/// A virtual machine from which so many ticks, hundredths of a second, were taken stood still, if only one of its cores.
const STOLEN: u64 = 10;
/// A machine that had no more idle time than this part was busy.
const BUSY: f64 = 0.15;

/// Runs a test of loads, one at a time. Where it fails and the machine's cores were all busy meanwhile, or the machine stood still, it
/// says nothing and is run again, three times in all.
pub fn under_load(test: impl Fn()) {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    again_where(|machine| machine.stood_still() || machine.idle <= BUSY, test);
}

/// Runs a test that rests on being let run in time. Where it fails and the machine stood still meanwhile, it says nothing and is run
/// again, three times in all.
pub fn unless_it_stands_still(test: impl Fn()) {
    again_where(Meanwhile::stood_still, test);
}

fn again_where(says_nothing: impl Fn(&Meanwhile) -> bool, test: impl Fn()) {
    for attempt in 1.. {
        let watch = Watch::start();
        let ended = catch_unwind(AssertUnwindSafe(&test));
        let machine = watch.end();
        let Err(panic) = ended else { return };
        if attempt == 3 || !says_nothing(&machine) {
            resume_unwind(panic);
        }
        eprintln!("again: {machine:?}");
    }
}

/// What the machine did for a while.
#[derive(Debug)]
struct Meanwhile {
    /// The part of its cores' time in which they had nothing to do.
    idle: f64,
    /// The longest time for which a thread was not let run.
    pause: Duration,
    /// Ticks in which a core had work and was not let run.
    stolen: u64,
}

impl Meanwhile {
    fn stood_still(&self) -> bool {
        self.pause >= STANDSTILL || self.stolen >= STOLEN
    }
}

/// A thread that sleeps and looks how long that took, and the ticks of the beginning.
struct Watch {
    ticks: Ticks,
    ended: Arc<AtomicBool>,
    sleeper: JoinHandle<Duration>,
}

impl Watch {
    fn start() -> Watch {
        let ended = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&ended);
        let sleeper = std::thread::spawn(move || {
            let mut longest = Duration::ZERO;
            while !until.load(Ordering::Relaxed) {
                let start = Instant::now();
                std::thread::sleep(Duration::from_millis(5));
                longest = longest.max(start.elapsed());
            }
            longest
        });
        Watch { ticks: Ticks::now(), ended, sleeper }
    }

    fn end(self) -> Meanwhile {
        self.ended.store(true, Ordering::Relaxed);
        let (before, after) = (self.ticks, Ticks::now());
        Meanwhile {
            idle: (after.idle - before.idle) as f64 / (after.all - before.all).max(1) as f64,
            pause: self.sleeper.join().unwrap(),
            stolen: after.stolen - before.stolen,
        }
    }
}

/// Ticks of all cores since the machine began.
struct Ticks {
    /// Nothing to do.
    idle: u64,
    /// The host of a virtual machine did something else.
    stolen: u64,
    all: u64,
}

impl Ticks {
    fn now() -> Ticks {
        let stat = std::fs::read_to_string("/proc/stat").unwrap();
        let sum = stat.lines().next().unwrap();
        let ticks: Vec<u64> = sum.split_whitespace().skip(1).map(|ticks| ticks.parse().unwrap()).collect();
        Ticks { idle: ticks[3] + ticks[4], stolen: ticks[7], all: ticks[..8].iter().sum() }
    }
}
