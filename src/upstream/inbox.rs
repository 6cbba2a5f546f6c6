//! What arrives for one exchange, from sockets of the same thread: a queue and a waker.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

/// The end that is read.
pub struct Inbox<T>(Rc<RefCell<Queue<T>>>);

/// An end that is written.
pub struct Sender<T>(Rc<RefCell<Queue<T>>>);

struct Queue<T> {
    waiting: VecDeque<T>,
    reader: Option<Waker>,
}

/// An empty inbox.
pub fn inbox<T>() -> (Sender<T>, Inbox<T>) {
    let queue = Rc::new(RefCell::new(Queue { waiting: VecDeque::new(), reader: None }));
    (Sender(Rc::clone(&queue)), Inbox(queue))
}

impl<T> Inbox<T> {
    /// The next that arrives. Nothing is lost where the wait is given up.
    pub async fn next(&mut self) -> T {
        poll_fn(|context| {
            let mut queue = self.0.borrow_mut();
            match queue.waiting.pop_front() {
                Some(next) => Poll::Ready(next),
                None => {
                    let waker = context.waker();
                    if !queue.reader.as_ref().is_some_and(|reader| reader.will_wake(waker)) {
                        queue.reader = Some(waker.clone());
                    }
                    Poll::Pending
                }
            }
        })
        .await
    }
}

impl<T> Sender<T> {
    /// Puts something in where fewer than `room` wait, and drops it where more do: each kind of thing has room of its own, so that what
    /// anybody can send crowds nothing else out.
    pub fn send(&self, item: T, room: usize) {
        let mut queue = self.0.borrow_mut();
        if queue.waiting.len() < room {
            queue.waiting.push_back(item);
            let reader = queue.reader.take();
            drop(queue);
            reader.into_iter().for_each(Waker::wake);
        }
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Sender(Rc::clone(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_arrives_is_read_in_order_and_the_surplus_dropped() {
        let (sender, mut inbox) = inbox();
        (0..3).for_each(|number| sender.send(number, 2));
        sender.send(3, 3);
        assert_eq!((inbox.next().await, inbox.next().await, inbox.next().await), (0, 1, 3));
        let late = async {
            tokio::task::yield_now().await;
            sender.clone().send(7, 1);
        };
        let (read, ()) = tokio::join!(inbox.next(), late);
        assert_eq!(read, 7);
        sender.send(8, 1);
        assert_eq!(inbox.next().await, 8);
    }
}
