//! The log: standard error through a budget, written by a thread of its own so that a stuck pipe stops nobody.
//!
//! A message is formatted by whoever has one, queued if there is room and dropped if not. What the budget or the
//! queue kept back is counted and said with the next message that goes out. Nothing is logged per query.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt;
use std::io::Write;
use std::num::NonZeroU32;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

/// Lines a second in the long run.
pub const LINES_PER_SECOND: NonZeroU32 = NonZeroU32::new(5).unwrap();
/// Lines at once.
pub const BURST: NonZeroU32 = NonZeroU32::new(50).unwrap();
/// Lines that wait for the sink.
pub const QUEUE: usize = 256;

/// How much a line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Something does not work.
    Error,
    /// Something works less well than it should.
    Warn,
    /// Something changed.
    Info,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Level::Error => "error",
            Level::Warn => "warn",
            Level::Info => "info",
        })
    }
}

enum Job {
    Line(String),
    /// Tells when all before it has been written.
    Flush(SyncSender<()>),
}

struct Log {
    budget: DefaultDirectRateLimiter,
    queue: SyncSender<Job>,
    suppressed: AtomicU64,
}

static LOG: OnceLock<Log> = OnceLock::new();

fn log() -> &'static Log {
    LOG.get_or_init(|| {
        let (queue, jobs) = sync_channel(QUEUE);
        // Without a thread every line counts as suppressed: the program goes on.
        let _ = std::thread::Builder::new().name("log".into()).spawn(move || write_all(&jobs));
        let budget = RateLimiter::direct(Quota::per_second(LINES_PER_SECOND).allow_burst(BURST));
        Log { budget, queue, suppressed: AtomicU64::new(0) }
    })
}

fn write_all(jobs: &Receiver<Job>) {
    for job in jobs {
        match job {
            Job::Line(line) => {
                let _ = std::io::stderr().write_all(line.as_bytes());
            }
            Job::Flush(done) => {
                let _ = done.try_send(());
            }
        }
    }
}

/// Says a line, if the budget allows it.
pub fn say(level: Level, message: fmt::Arguments<'_>) {
    let log = log();
    if log.budget.check().is_err() {
        log.suppressed.fetch_add(1, Ordering::Relaxed);
        return;
    }
    let kept_back = log.suppressed.swap(0, Ordering::Relaxed);
    let note = if kept_back > 0 {
        format!(" ({kept_back} lines before this one suppressed)")
    } else {
        String::new()
    };
    if log.queue.try_send(Job::Line(format!("{level}: {message}{note}\n"))).is_err() {
        log.suppressed.fetch_add(1 + kept_back, Ordering::Relaxed);
    }
}

/// Has panics said as everything else is: within the budget, and by a worker without a wait for the sink.
pub fn say_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let (thread, trace) = (std::thread::current(), Backtrace::capture());
        let text = panic.to_string().replace('\n', " ");
        let name = thread.name().unwrap_or("without a name");
        match trace.status() {
            BacktraceStatus::Captured => say(Level::Error, format_args!("thread {name} {text}\n{trace}")),
            _ => say(Level::Error, format_args!("thread {name} {text}")),
        }
        // It ends the process.
        if name == "main" {
            flush();
        }
    }));
}

/// Waits until what was said has been written, a second at most.
pub fn flush() {
    let (done, written) = sync_channel(1);
    if log().queue.try_send(Job::Flush(done)).is_ok() {
        let _ = written.recv_timeout(Duration::from_secs(1));
    }
}

/// Says that something does not work.
#[macro_export]
macro_rules! error { ($($part:tt)*) => { $crate::observe::log::say($crate::observe::log::Level::Error, format_args!($($part)*)) } }
/// Says that something works less well than it should.
#[macro_export]
macro_rules! warning { ($($part:tt)*) => { $crate::observe::log::say($crate::observe::log::Level::Warn, format_args!($($part)*)) } }
/// Says that something changed.
#[macro_export]
macro_rules! info { ($($part:tt)*) => { $crate::observe::log::say($crate::observe::log::Level::Info, format_args!($($part)*)) } }
