//! Stopping without losing a query: the signal to stop, and the count of what is still being answered.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};
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

    /// The same for the tasks of one worker, to be called in its runtime.
    pub fn quit(mut self) -> Quit {
        let quit = Quit::default();
        let word = quit.clone();
        tokio::task::spawn_local(async move {
            self.wait().await;
            word.tell();
        });
        quit
    }

    /// True once it was said.
    pub fn is_set(&self) -> bool {
        *self.0.borrow()
    }
}

/// What tells the tasks of one worker: they look at it nearly each time they wake, and take no lock and touch nothing that other
/// workers touch.
#[derive(Clone, Default)]
pub struct Quit(Rc<Told>);

#[derive(Default)]
struct Told {
    is_told: Cell<bool>,
    waiting: RefCell<Vec<Weak<RefCell<Option<Waker>>>>>,
}

impl Quit {
    /// Tells whoever waits, now and later.
    pub fn tell(&self) {
        self.0.is_told.set(true);
        let waiting = self.0.waiting.take();
        let wakers = waiting.iter().filter_map(Weak::upgrade).filter_map(|waker| waker.take());
        wakers.for_each(Waker::wake);
    }

    /// True once it was told.
    pub fn is_told(&self) -> bool {
        self.0.is_told.get()
    }

    /// Waits for it.
    pub fn wait(&self) -> Quitting {
        let waker = Rc::default();
        let mut waiting = self.0.waiting.borrow_mut();
        // Those that have gone are looked for when the list would have to grow, and then it has room for as many again.
        if waiting.len() == waiting.capacity() {
            waiting.retain(|waker| waker.strong_count() > 0);
            let stay = waiting.len();
            waiting.reserve(stay + 1);
        }
        waiting.push(Rc::downgrade(&waker));
        Quitting { told: Rc::clone(&self.0), waker }
    }
}

/// Is ready when the worker's tasks are to stop.
pub struct Quitting {
    told: Rc<Told>,
    waker: Rc<RefCell<Option<Waker>>>,
}

impl Future for Quitting {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.told.is_told.get() {
            return Poll::Ready(());
        }
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            *waker = Some(context.waker().clone());
        }
        Poll::Pending
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

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicU32);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn whoever_waits_is_told_once_and_whoever_comes_later_at_once() {
        let (quit, woken) = (Quit::default(), Arc::new(Woken::default()));
        let waker = Arc::clone(&woken).into();
        let mut context = Context::from_waker(&waker);
        let mut all: Vec<_> = (0..3).map(|_| quit.wait()).collect();
        for waits in &mut all[..2] {
            assert!(pin!(&mut *waits).poll(&mut context).is_pending());
            assert!(pin!(waits).poll(&mut context).is_pending());
        }
        quit.tell();
        assert_eq!(woken.0.load(Ordering::Relaxed), 2, "those that had looked");
        all.push(quit.wait());
        assert!(all.iter_mut().all(|waits| pin!(waits).poll(&mut context).is_ready()));
    }

    #[test]
    fn those_that_have_gone_take_no_room() {
        let quit = Quit::default();
        let stays = quit.wait();
        (0..10_000).for_each(|_| drop(quit.wait()));
        assert!(quit.0.waiting.borrow().capacity() <= 16);
        drop(stays);
    }
}
