//! Stopping without losing a query: the signal to stop, and the count of what is still being answered.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::{Notify, watch};

/// What is in flight may take until then; longer than any question waits for its answer.
pub const GRACE: Duration = Duration::from_secs(4);

/// Tells everybody once that it is time to stop.
#[derive(Debug)]
pub struct Stopper(watch::Sender<bool>);

/// Hears of it.
#[derive(Clone, Debug)]
pub struct Stop(watch::Receiver<bool>);

/// The two ends.
pub fn channel() -> (Stopper, Stop) {
    let (stopper, stop) = watch::channel(false);
    (Stopper(stopper), Stop(stop))
}

impl Stopper {
    /// Says it.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

impl Stop {
    /// Waits for it; also the loss of the other end is a stop.
    pub async fn wait(&mut self) {
        let _ = self.0.wait_for(|stop| *stop).await;
    }

    /// True once it was said.
    pub fn is_set(&self) -> bool {
        *self.0.borrow()
    }
}

/// Questions of one worker that are being answered.
#[derive(Clone, Default)]
pub struct InFlight(Rc<Counted>);

#[derive(Default)]
struct Counted {
    count: Cell<usize>,
    none: Notify,
}

impl InFlight {
    /// Counts one until the guard is dropped.
    pub fn begin(&self) -> Guard {
        self.0.count.set(self.0.count.get() + 1);
        Guard(Rc::clone(&self.0))
    }

    /// Waits until nothing is being answered.
    pub async fn none(&self) {
        while self.0.count.get() > 0 {
            self.0.none.notified().await;
        }
    }

    /// True where nothing is being answered.
    pub fn is_none(&self) -> bool {
        self.count() == 0
    }

    /// Questions being answered.
    pub fn count(&self) -> usize {
        self.0.count.get()
    }
}

/// One question being answered.
pub struct Guard(Rc<Counted>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.count.set(self.0.count.get() - 1);
        if self.0.count.get() == 0 {
            self.0.none.notify_waiters();
        }
    }
}
