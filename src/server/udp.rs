//! Datagrams: a batch in, every answer that is known out in one call, the rest as they come.

use std::io;
use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use tokio::io::Interest;
use tokio::time::{Instant, sleep_until};

use super::stop::{GRACE, Guard, InFlight, Stop};
use super::sys::{self, Batch, ReturnPath};
use crate::observe::cells::Event;
use crate::query::Proto;
use crate::resolve::hit::Outcome;
use crate::resolve::miss::{self, Miss};
use crate::resolve::{self, Client, Resolver};
use crate::wire::header::Header;
use crate::wire::iana::Rcode;
use crate::wire::reply::{self, Asked};

/// Batches a socket may take before the worker looks after its other work.
const TURNS: usize = 8;

type Socket = Rc<tokio::net::UdpSocket>;

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
    let server = Server { socket: Rc::new(tokio::net::UdpSocket::from_std(socket)?), responder, in_flight };
    let mut batch = Batch::new(with_info);
    while !stop.is_set() {
        tokio::select! {
            ready = server.socket.readable() => ready?,
            () = stop.wait() => break,
        }
        server.turn(&mut batch, Ask::Readiness).await;
    }
    let end = Instant::now() + GRACE;
    loop {
        // What arrived before the signal is in the socket now; what arrives meanwhile is served as well.
        server.turn(&mut batch, Ask::Kernel).await;
        if server.in_flight.is_none() || Instant::now() >= end {
            return Ok(());
        }
        tokio::select! {
            ready = server.socket.readable() => ready?,
            () = server.in_flight.none() => {}
            () = sleep_until(end) => {}
        }
    }
}

/// Who says whether datagrams wait.
#[derive(Clone, Copy)]
enum Ask {
    /// The runtime, which knows as of its last look.
    Readiness,
    /// The socket itself: before it is closed nothing may be overlooked.
    Kernel,
}

struct Server<R> {
    socket: Socket,
    responder: Rc<R>,
    in_flight: InFlight,
}

impl<R: Responder> Server<R> {
    /// Takes and answers what waits, a bounded number of batches at a time, until the socket is empty.
    async fn turn(&self, batch: &mut Batch, ask: Ask) {
        for turn in 1.. {
            let mut receive = || batch.receive(self.socket.as_fd());
            let mut received = self.socket.try_io(Interest::READABLE, &mut receive);
            if received.is_err() && matches!(ask, Ask::Kernel) {
                received = receive();
            }
            let Ok(count) = received else { return };
            self.answer(batch, count);
            self.send(batch).await;
            if turn % TURNS == 0 {
                tokio::task::yield_now().await;
            }
        }
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
        while batch.has_queued() {
            let sent = self.socket.try_io(Interest::WRITABLE, || batch.send(self.socket.as_fd()));
            match sent {
                Ok(refused) => (0..refused).for_each(|_| self.responder.event(Event::Unsent)),
                // The socket's buffer is full: the next batch waits in the receive buffer meanwhile.
                Err(_) => {
                    if self.socket.writable().await.is_err() {
                        return;
                    }
                }
            }
        }
    }
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
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && socket.writable().await.is_ok() => {}
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
