//! What is to happen if something else does not happen in time: alarms, set for each question and nearly always called off.
//!
//! The runtime wakes itself by a system call for each timer that is set to ring before all others, and on a quiet node that is each
//! question's. The alarms of a thread stand in a table of their own instead, and one timer of the runtime rings for the first of them. It is moved
//! when it has rung, or to ring sooner, and stays as it is when that alarm is called off: questions with equal patience move it once in that time.
//!
//! Alarms ring in tasks of the thread's runtime, of which there is one at a time.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use tokio::time::{Instant, Sleep, sleep_until};

thread_local! {
    static TABLE: Table = Table::default();
}

/// When, and a number that no other alarm of the thread has.
type Key = (Instant, u64);

#[derive(Default)]
struct Table {
    alarms: RefCell<BTreeMap<Key, Waker>>,
    numbers: Cell<u64>,
    /// When the ringer's timer rings.
    armed: Cell<Option<Instant>>,
    has_ringer: Cell<bool>,
    /// To be woken when what it is armed for is too late; none before its first turn, when it looks for itself.
    ringer: RefCell<Option<Waker>>,
}

impl Table {
    fn set(&self, key: Key, waker: Waker) {
        self.alarms.borrow_mut().insert(key, waker);
        if self.armed.get().is_some_and(|armed| armed <= key.0) {
            return;
        }
        if !self.has_ringer.get() {
            let ringer = Ringer { timer: Box::pin(sleep_until(key.0)) };
            self.has_ringer.set(true);
            tokio::task::spawn_local(ringer);
        }
        self.ringer.borrow().iter().for_each(Waker::wake_by_ref);
    }

    fn first(&self) -> Option<Instant> {
        self.alarms.borrow().first_key_value().map(|((at, _), _)| *at)
    }

    /// Rings what is due.
    fn ring(&self, now: Instant) {
        while let Some(waker) = self.take_due(now) {
            waker.wake();
        }
    }

    fn take_due(&self, now: Instant) -> Option<Waker> {
        let mut alarms = self.alarms.borrow_mut();
        alarms.first_entry().filter(|first| first.key().0 <= now).map(|first| first.remove())
    }
}

/// Rings alarms for as long as its runtime runs.
struct Ringer {
    timer: Pin<Box<Sleep>>,
}

impl Future for Ringer {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        TABLE.with(|table| {
            table.ringer.replace(Some(context.waker().clone()));
            while let Some(first) = table.first() {
                if self.timer.deadline() != first {
                    self.timer.as_mut().reset(first);
                }
                if self.timer.as_mut().poll(context).is_pending() {
                    table.armed.set(Some(first));
                    return Poll::Pending;
                }
                table.ring(first.max(Instant::now()));
            }
            table.armed.set(None);
            Poll::Pending
        })
    }
}

impl Drop for Ringer {
    fn drop(&mut self) {
        // A thread that ends may have no table any more.
        let _ = TABLE.try_with(|table| {
            table.has_ringer.set(false);
            table.armed.set(None);
            table.ringer.replace(None);
        });
    }
}

/// An alarm. It rings once, as a future that is ready from its time on.
pub struct Alarm {
    at: Instant,
    /// Its number in the table of its thread, which it does not leave.
    set: Option<u64>,
    _of_thread: PhantomData<*const ()>,
}

impl Alarm {
    /// Not set before it is waited for.
    pub fn at(at: Instant) -> Alarm {
        Alarm { at, set: None, _of_thread: PhantomData }
    }

    /// Has it ring at another time.
    pub fn move_to(&mut self, at: Instant) {
        if at != self.at {
            self.call_off();
            self.at = at;
        }
    }

    fn call_off(&mut self) {
        if let Some(number) = self.set.take() {
            let _ = TABLE.try_with(|table| table.alarms.borrow_mut().remove(&(self.at, number)));
        }
    }
}

impl Future for Alarm {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        TABLE.with(|table| {
            if let Some(number) = self.set {
                let waits = match table.alarms.borrow_mut().get_mut(&(self.at, number)) {
                    Some(waker) => {
                        waker.clone_from(context.waker());
                        true
                    }
                    None => false,
                };
                return if waits { Poll::Pending } else { Poll::Ready(()) };
            }
            if self.at <= Instant::now() {
                return Poll::Ready(());
            }
            let number = table.numbers.replace(table.numbers.get() + 1);
            self.set = Some(number);
            table.set((self.at, number), context.waker().clone());
            Poll::Pending
        })
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        self.call_off();
    }
}

/// It was not there in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLate;

/// Waits for something until a time. What is large is handed over pinned, and so not moved once more.
///
/// # Errors
/// [`TooLate`] where it was not there by then.
pub async fn by<F: Future + Unpin>(deadline: Instant, mut awaited: F) -> Result<F::Output, TooLate> {
    let mut alarm = Alarm::at(deadline);
    poll_fn(|context| match Pin::new(&mut awaited).poll(context) {
        Poll::Ready(there) => Poll::Ready(Ok(there)),
        Poll::Pending => Pin::new(&mut alarm).poll(context).map(|()| Err(TooLate)),
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;
    use std::time::Duration;

    use tokio::time::sleep;

    use super::*;
    use crate::upstream::simulation::local;

    const SECOND: Duration = Duration::from_secs(1);

    fn waiting() -> usize {
        TABLE.with(|table| table.alarms.borrow().len())
    }

    #[tokio::test(start_paused = true)]
    async fn alarms_ring_at_their_times_in_whatever_order_they_are_set() {
        local(async {
            let (start, rung) = (Instant::now(), Rc::new(RefCell::new(Vec::new())));
            let mut tasks = tokio::task::JoinSet::new();
            for seconds in [3, 1, 2, 1] {
                let rung = Rc::clone(&rung);
                tasks.spawn_local(async move {
                    Alarm::at(start + seconds * SECOND).await;
                    rung.borrow_mut().push((seconds, start.elapsed().as_secs()));
                });
            }
            while tasks.join_next().await.is_some() {}
            assert_eq!(*rung.borrow(), [(1, 1), (1, 1), (2, 2), (3, 3)]);
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_called_off_leaves_nothing_and_one_that_is_moved_rings_then() {
        local(async {
            let start = Instant::now();
            assert_eq!(by(start + SECOND, std::future::ready(7)).await, Ok(7));
            let mut moved = Alarm::at(start + SECOND);
            assert_eq!(by(start + SECOND / 2, &mut moved).await, Err(TooLate));
            assert_eq!(waiting(), 1);
            moved.move_to(start + 5 * SECOND);
            assert_eq!(waiting(), 0);
            moved.await;
            assert_eq!((start.elapsed(), waiting()), (5 * SECOND, 0));
            Alarm::at(start).await;
            assert_eq!(start.elapsed(), 5 * SECOND);
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn the_runtimes_timer_is_moved_for_the_first_question_alone() {
        local(async {
            let (armed, patience) = (|| TABLE.with(|table| table.armed.get()), Duration::from_millis(350));
            let mut seen = Vec::new();
            for _ in 0..100 {
                let answered = std::pin::pin!(sleep(Duration::from_millis(1)));
                assert_eq!(by(Instant::now() + patience, answered).await, Ok(()));
                seen.push(armed().unwrap());
            }
            seen.dedup();
            assert_eq!((seen.len(), waiting()), (1, 0));
            let sooner = Instant::now() + SECOND / 100;
            let _ = by(sooner, std::future::pending::<()>()).await;
            assert_eq!(Instant::now(), sooner, "nobody waits for the timer that was left standing");
        })
        .await;
    }

    #[test]
    fn each_runtime_of_a_thread_has_its_ringer() {
        for _ in 0..3 {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .start_paused(true)
                .build()
                .unwrap();
            let waits = async { by(Instant::now() + SECOND, std::future::pending::<()>()).await };
            assert_eq!(tokio::task::LocalSet::new().block_on(&runtime, waits), Err(TooLate));
        }
    }
}
