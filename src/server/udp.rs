//! Datagrams: a batch in, every answer that is known out in one call, the rest as they come.

use std::io;
use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, sleep_until};

use super::stop::{GRACE, Guard, InFlight, Stop};
use super::sys::{self, Batch, ReturnPath};
use crate::limits::BATCH;
use crate::observe::cells::Event;
use crate::query::Proto;
use crate::resolve::hit::Outcome;
use crate::resolve::miss::{self, Miss};
use crate::resolve::prefetch::{self, Prefetch};
use crate::resolve::{self, Client, Resolver};
use crate::wire::header::Header;
use crate::wire::iana::Rcode;
use crate::wire::reply::{self, Asked};

/// Batches a socket may take before the worker looks after its other work.
const TURNS: usize = 8;

type Socket = Rc<AsyncFd<UdpSocket>>;

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
    mut stop: Stop,
) -> io::Result<()> {
    let with_info = socket.local_addr()?.ip().is_unspecified();
    // Only what arrives wakes the worker: registered for room as well, it would be woken each time that a client has taken
    // a reply from the socket's buffer.
    let socket = Rc::new(sys::watch(socket, Interest::READABLE)?);
    let server = Server { socket, responder, in_flight };
    let mut batch = Batch::new(with_info);
    let mut stopped = std::pin::pin!(stop.wait());
    loop {
        let mut ready = tokio::select! {
            biased;
            ready = server.socket.readable() => ready?,
            () = &mut stopped => break,
        };
        match server.turn(&mut batch).await {
            Left::Nothing => ready.clear_ready(),
            Left::Perhaps => tokio::task::yield_now().await,
        }
    }
    let end = Instant::now() + GRACE;
    loop {
        // What arrived before the signal is in the socket now; what arrives meanwhile is served as well.
        while matches!(server.turn(&mut batch).await, Left::Perhaps) {}
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
enum Left {
    /// It was empty at the last look: whatever arrives from then on wakes the worker.
    Nothing,
    /// The turn was over before the socket was empty.
    Perhaps,
}

struct Server<R> {
    socket: Socket,
    responder: Rc<R>,
    in_flight: InFlight,
}

impl<R: Responder> Server<R> {
    /// Takes and answers what waits, a bounded number of batches.
    async fn turn(&self, batch: &mut Batch) -> Left {
        for _ in 0..TURNS {
            let count = match batch.receive(self.socket.as_fd()) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Left::Nothing,
                Err(_) => return Left::Perhaps,
            };
            self.answer(batch, count);
            self.send(batch).await;
            // A batch that is not full ended because the socket was empty; asking it again costs a system call.
            if count < BATCH {
                return Left::Nothing;
            }
        }
        Left::Perhaps
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
                    let length = error(packet, out, Rcode::SERVFAIL);
                    batch.queue(index, length);
                }
            }
        }
    }

    fn ask(&self, miss: R::Miss, path: ReturnPath) {
        let (socket, responder, guard) =
            (Rc::clone(&self.socket), Rc::clone(&self.responder), self.in_flight.begin());
        tokio::task::spawn_local(reply_later(socket, responder, miss, path, guard));
    }

    async fn send(&self, batch: &mut Batch) {
        while batch.queued() > 0 {
            match batch.send(self.socket.as_fd()) {
                Ok(refused) => (0..refused).for_each(|_| self.responder.event(Event::Unsent)),
                // The socket's buffer is full: the next batch waits in the receive buffer meanwhile.
                Err(_) => {
                    if room(&self.socket).await.is_err() {
                        return (0..batch.queued()).for_each(|_| self.responder.event(Event::Unsent));
                    }
                }
            }
        }
    }
}

/// Waits until a socket takes more, which is rare: on a registration of its own, that ends with the wait.
async fn room(socket: &AsyncFd<UdpSocket>) -> io::Result<()> {
    let own = sys::watch(socket.get_ref().try_clone()?, Interest::WRITABLE)?;
    own.writable().await?.retain_ready();
    Ok(())
}

async fn reply_later<R: Responder>(
    socket: Socket,
    responder: Rc<R>,
    miss: R::Miss,
    path: ReturnPath,
    _guard: Guard,
) {
    let reply = Rc::clone(&responder).answer_later(miss).await;
    loop {
        match sys::send(socket.as_fd(), &reply, &path) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && room(&socket).await.is_ok() => {}
            Err(_) => return responder.event(Event::Unsent),
            Ok(()) => return,
        }
    }
}

/// A datagram longer than any query that makes sense: its header can be read, so it is answered.
fn oversized<M>(packet: &[u8], out: &mut [u8]) -> Outcome<M> {
    match error(packet, out, Rcode::FORMERR) {
        0 => Outcome::Silence,
        length => Outcome::Reply(length),
    }
}

/// An error that needs nothing of a packet but its header.
fn error(packet: &[u8], out: &mut [u8], rcode: Rcode) -> usize {
    let Some(header) =
        Header::read(packet).filter(|header| !header.flags.has(crate::wire::header::Flags::QR))
    else {
        return 0;
    };
    let asked = Asked { id: header.id, flags: header.flags, question: &[], edns: None, server_cookie: None };
    reply::write_error(out, &asked, rcode, &[])
}
