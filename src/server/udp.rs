//! Datagrams: a batch in, every answer that is known out in one call, the rest when they are ready.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::stop::{GRACE, Guard, InFlight, Quit};
use super::sys::{Batch, Outbox, ReturnPath};
use crate::limits::{BATCH, MAX_UNBEGUN};
use crate::observe::cells::Event;
use crate::query::Proto;
use crate::resolve::hit::Outcome;
use crate::resolve::miss::{self, Miss};
use crate::resolve::prefetch::{self, Prefetch};
use crate::resolve::{self, Client, Resolver};
use crate::upstream::datagrams;
use crate::wire::iana::Rcode;
use crate::wire::reply;

/// Batches a socket may take before the worker looks after its other work.
const TURNS: usize = 8;
/// Misses begun in one go. A miss costs the worker some 10 us, its four system calls included: whoever can be answered at once does not wait
/// until all that others ask for has been sent on.
const BEGUN: usize = 16;
/// As many replies to misses are sent without waiting for more.
const TOGETHER: usize = 16;
/// While misses keep the worker busy, the socket is looked at after so much time, between one and the next.
const LOOK: Duration = Duration::from_micros(50);
/// How long it waits for what the host lacks, memory or a descriptor, and how often while nothing goes out.
const SHORTAGE: Duration = Duration::from_millis(2);
const MAX_SHORTAGES: u32 = 20;
/// So many in flight do not keep it busy.
const FEW: usize = 8;

/// What stands behind the loop: hops 2 to 8.
///
/// Two bodies: the resolver, and the echo of `benches/compare`, which shows what the loop costs by itself. It is chosen at
/// compile time, so that a packet meets no call through a pointer.
pub trait Responder: 'static {
    /// What the packets of a batch share.
    type Batch<'s>;
    /// What has to be asked elsewhere before it can be answered.
    type Miss: 'static;

    /// Begins a batch.
    fn batch(&self) -> Self::Batch<'_>;
    /// Answers a packet into `out`, if it can be done at once.
    fn answer(
        &self,
        packet: &[u8],
        client: Client,
        batch: &Self::Batch<'_>,
        out: &mut [u8],
    ) -> Outcome<Self::Miss>;
    /// Answers what could not be answered at once.
    fn answer_later(self: Rc<Self>, miss: Self::Miss) -> impl Future<Output = Vec<u8>> + 'static;
    /// Has something asked for before it ends, behind the reply.
    fn ahead(self: Rc<Self>, _: Box<Prefetch>) {}
    /// Counts what happened to a packet.
    fn event(&self, event: Event);
}

impl Responder for Resolver {
    type Batch<'s> = resolve::Batch<'s>;
    type Miss = Box<Miss>;

    #[inline]
    fn batch(&self) -> Self::Batch<'_> {
        self.batch()
    }

    #[inline]
    fn answer(&self, packet: &[u8], client: Client, batch: &Self::Batch<'_>, out: &mut [u8]) -> Outcome {
        self.answer(packet, client, batch, out)
    }

    fn answer_later(self: Rc<Self>, miss: Box<Miss>) -> impl Future<Output = Vec<u8>> + 'static {
        miss::answer(self, miss)
    }

    fn ahead(self: Rc<Self>, prefetch: Box<Prefetch>) {
        tokio::task::spawn_local(prefetch::ahead(self, prefetch));
    }

    fn event(&self, event: Event) {
        self.cells.event(event);
    }
}

/// Serves a socket until it is told to stop, and then until nothing is left in it or in flight.
///
/// # Errors
/// What made the socket unusable from the start.
pub async fn serve<R: Responder>(
    socket: UdpSocket,
    responder: Rc<R>,
    in_flight: InFlight,
    quit: Quit,
) -> io::Result<()> {
    let with_info = socket.local_addr()?.ip().is_unspecified();
    // Only what arrives wakes the worker: registered for room as well, it would be woken each time that a client has taken
    // a reply from the socket's buffer.
    let socket = datagrams::watch(socket, Interest::READABLE)?;
    let server = Rc::new(Server {
        socket,
        responder,
        in_flight,
        batch: RefCell::new(Batch::new(with_info)),
        waiting: RefCell::default(),
        replies: RefCell::default(),
        is_full: Cell::new(false),
        is_sending: Cell::new(false),
        looked: Cell::new(Instant::now()),
    });
    let mut told = quit.wait();
    // Looked at in each turn: a socket that never runs empty would keep it from being seen.
    while !quit.is_told() {
        let mut left = Left::Nothing;
        tokio::select! {
            biased;
            ready = server.socket.readable() => {
                let mut ready = ready?;
                left = tokio::select! {
                    biased;
                    left = server.turn() => left,
                    // It waits for room in the socket. What it had taken waits on.
                    () = &mut told => break,
                };
                if left == Left::Nothing {
                    ready.clear_ready();
                }
            }
            () = &mut told => break,
            () = std::future::ready(()), if server.has_waiting() => {}
        }
        server.begin(BEGUN);
        if left == Left::Perhaps || server.has_waiting() {
            tokio::task::yield_now().await;
        }
    }
    let end = Instant::now() + GRACE;
    loop {
        // What arrived before the signal is in the socket now; what arrives meanwhile is served as well.
        while Instant::now() < end && timeout_at(end, server.turn()).await == Ok(Left::Perhaps) {}
        server.begin(usize::MAX);
        if server.in_flight.is_none() || Instant::now() >= end {
            return Ok(());
        }
        tokio::select! {
            ready = server.socket.readable() => ready?.clear_ready(),
            () = server.in_flight.none() => {}
            () = sleep_until(end) => {}
        }
    }
}

/// What a turn leaves in the socket.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Left {
    /// It was empty at the last look: whatever arrives from then on wakes the worker.
    Nothing,
    /// The turn was over before the socket was empty.
    Perhaps,
}

struct Server<R: Responder> {
    socket: AsyncFd<UdpSocket>,
    responder: Rc<R>,
    in_flight: InFlight,
    batch: RefCell<Batch>,
    looked: Cell<Instant>,
    waiting: RefCell<VecDeque<Waiting<R::Miss>>>,
    /// Replies to misses, each with what says that it is in flight.
    replies: RefCell<Outbox<Guard>>,
    /// The socket took no more when it was last tried.
    is_full: Cell<bool>,
    /// A task is going to send what waits.
    is_sending: Cell<bool>,
}

/// A miss that has not been begun.
struct Waiting<M> {
    miss: M,
    path: ReturnPath,
    guard: Guard,
}

impl<R: Responder> Server<R> {
    /// Takes and answers what waits, a bounded number of batches.
    async fn turn(&self) -> Left {
        for _ in 0..TURNS {
            // A batch is received over what a look in between found no room for; and replies to misses come of what is received.
            if self.batch.borrow().queued() > 0 || self.replies.borrow().is_full() {
                self.send_all().await;
            }
            let count = match self.receive() {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Left::Nothing,
                Err(_) => return Left::Perhaps,
            };
            if self.send_batch().is_err() {
                // What is left of it waits, and the next in the receive buffer meanwhile.
                self.send_all().await;
            }
            // A batch that is not full ended because the socket was empty; asking it again costs a system call.
            if count < BATCH {
                return Left::Nothing;
            }
        }
        Left::Perhaps
    }

    /// Takes and answers one batch, where the last look was a while ago and no replies wait for room: called between other tasks,
    /// so that a hit waits for a few of them at most.
    fn between(self: &Rc<Self>) {
        let is_busy = self.in_flight.count() > FEW && self.looked.get().elapsed() >= LOOK;
        if !is_busy || self.batch.borrow().queued() > 0 || self.replies.borrow().is_full() {
            return;
        }
        self.looked.set(Instant::now());
        if self.receive().is_ok() {
            // The loop may sleep meanwhile, and would not see what is left for it.
            if self.send_batch().is_err() {
                self.send_soon();
            }
            self.begin(BATCH);
        }
    }

    fn receive(&self) -> io::Result<usize> {
        let mut batch = self.batch.borrow_mut();
        let count = batch.receive(self.socket.as_fd())?;
        self.answer(&mut batch, count);
        Ok(count)
    }

    fn answer(&self, batch: &mut Batch, count: usize) {
        let shared = self.responder.batch();
        for index in 0..count {
            let Some((packet, cut, path, out)) = batch.parts(index) else { return };
            let Some(addr) = path.addr() else { continue };
            let client = Client { addr, proto: Proto::Udp };
            // A panic ends one question: the others of the batch have done nothing wrong.
            let outcome = catch_unwind(AssertUnwindSafe(|| match cut {
                false => self.responder.answer(packet, client, &shared, out),
                true => oversized(packet, out),
            }));
            match outcome {
                Ok(Outcome::Reply(length)) if length > 0 => batch.queue(index, length),
                Ok(Outcome::Reply(_) | Outcome::Silence) => {}
                Ok(Outcome::ReplyAndPrefetch(length, prefetch)) => {
                    batch.queue(index, length);
                    Rc::clone(&self.responder).ahead(prefetch);
                }
                Ok(Outcome::Miss(miss)) => self.ask(miss, *path),
                Err(_) => {
                    self.responder.event(Event::Panic);
                    match reply::write_bare(packet, out, Rcode::SERVFAIL) {
                        0 => {}
                        length => batch.queue(index, length),
                    }
                }
            }
        }
    }

    fn ask(&self, miss: R::Miss, path: ReturnPath) {
        self.waiting.borrow_mut().push_back(Waiting { miss, path, guard: self.in_flight.begin() });
    }

    fn has_waiting(&self) -> bool {
        !self.waiting.borrow().is_empty()
    }

    /// Begins so many misses at least, those that came first.
    fn begin(self: &Rc<Self>, at_least: usize) {
        let mut waiting = self.waiting.borrow_mut();
        let count = waiting.len().saturating_sub(MAX_UNBEGUN).max(at_least).min(waiting.len());
        for one in waiting.drain(..count) {
            tokio::task::spawn_local(reply_later(Rc::clone(self), one));
        }
    }

    /// Lets the reply to a miss go out: while many are in flight together with those to others that are ready now, for a call costs the
    /// worker as much as several replies in it.
    fn reply(self: &Rc<Self>, reply: Vec<u8>, path: ReturnPath, guard: Guard) {
        self.replies.borrow_mut().push(reply, path, guard);
        let is_due = self.in_flight.count() <= FEW || self.replies.borrow().count() >= TOGETHER;
        let is_sent = is_due && !self.is_full.get() && self.send_replies().is_ok();
        if !is_sent {
            self.send_soon();
        }
    }

    /// Has a task send what waits, in its turn after those that are ready now.
    fn send_soon(self: &Rc<Self>) {
        if !self.is_sending.replace(true) {
            tokio::task::spawn_local(send_later(Rc::clone(self)));
        }
    }

    /// Sends everything that waits, and waits for room where there is none. What the host lacks otherwise may be there in a moment; if it
    /// is not, what waits is given up.
    async fn send_all(&self) {
        let (mut shortages, mut left) = (0, usize::MAX);
        while let Err(why) = self.send_batch().and_then(|()| self.send_replies()) {
            let is_full = why.kind() == io::ErrorKind::WouldBlock;
            if is_full && room(&self.socket).await.is_ok() {
                continue;
            }
            let still = self.batch.borrow().queued() + self.replies.borrow().count();
            shortages = if still < left { 1 } else { shortages + 1 };
            left = still;
            if shortages > MAX_SHORTAGES {
                return self.unsent(self.batch.borrow_mut().give_up() + self.replies.borrow_mut().give_up());
            }
            sleep(SHORTAGE).await;
        }
    }

    /// Sends the replies of the batch until none is left, or there is no room.
    fn send_batch(&self) -> io::Result<()> {
        let mut batch = self.batch.borrow_mut();
        while batch.queued() > 0 {
            self.took(batch.send(self.socket.as_fd()))?;
        }
        Ok(())
    }

    /// Sends the replies to misses until none is left, or there is no room.
    fn send_replies(&self) -> io::Result<()> {
        self.took(self.replies.borrow_mut().send(self.socket.as_fd()))
    }

    /// Takes note of whether the socket had room, and of replies that the system refused.
    fn took(&self, sent: io::Result<usize>) -> io::Result<()> {
        self.is_full.set(sent.is_err());
        self.unsent(sent?);
        Ok(())
    }

    fn unsent(&self, count: usize) {
        (0..count).for_each(|_| self.responder.event(Event::Unsent));
    }
}

/// Waits until a socket takes more, which is rare: on a registration of its own, that ends with the wait.
async fn room(socket: &AsyncFd<UdpSocket>) -> io::Result<()> {
    let own = datagrams::watch(socket.get_ref().try_clone()?, Interest::WRITABLE)?;
    own.writable().await?.retain_ready();
    Ok(())
}

async fn reply_later<R: Responder>(server: Rc<Server<R>>, waiting: Waiting<R::Miss>) {
    let Waiting { miss, path, guard } = waiting;
    server.between();
    let reply = Rc::clone(&server.responder).answer_later(miss).await;
    server.reply(reply, path, guard);
    server.between();
}

/// Sends what tasks before this one have left.
async fn send_later<R: Responder>(server: Rc<Server<R>>) {
    let sending = Sending(server);
    sending.0.send_all().await;
}

/// Says when it ends, however it ends, that nobody sends any more.
struct Sending<R: Responder>(Rc<Server<R>>);

impl<R: Responder> Drop for Sending<R> {
    fn drop(&mut self) {
        self.0.is_sending.set(false);
    }
}

/// A datagram longer than any query that makes sense: its header can be read, so it is answered.
fn oversized<M>(packet: &[u8], out: &mut [u8]) -> Outcome<M> {
    match reply::write_bare(packet, out, Rcode::FORMERR) {
        0 => Outcome::Silence,
        length => Outcome::Reply(length),
    }
}

#[cfg(test)]
#[path = "udp_tests.rs"]
mod tests;
