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
use crate::resolve::{Client, Resolver};
use crate::wire::header::Header;
use crate::wire::iana::Rcode;
use crate::wire::reply::{self, Asked};

/// Batches a socket may take before the worker looks after its other work.
const TURNS: usize = 8;

type Socket = Rc<tokio::net::UdpSocket>;

/// Serves a socket until it is told to stop, and then until nothing is left in it or in flight.
///
/// # Errors
/// What made the socket unusable from the start.
pub async fn serve(
    socket: UdpSocket,
    resolver: Rc<Resolver>,
    in_flight: InFlight,
    mut stop: Stop,
) -> io::Result<()> {
    let with_info = socket.local_addr()?.ip().is_unspecified();
    let server = Server { socket: Rc::new(tokio::net::UdpSocket::from_std(socket)?), resolver, in_flight };
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

struct Server {
    socket: Socket,
    resolver: Rc<Resolver>,
    in_flight: InFlight,
}

impl Server {
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
        let shared = self.resolver.batch();
        for index in 0..count {
            let Some((packet, cut, path, out)) = batch.parts(index) else { return };
            let Some(addr) = path.addr() else { continue };
            let client = Client { addr, proto: Proto::Udp };
            // A panic ends one question: the others of the batch have done nothing wrong.
            let outcome = catch_unwind(AssertUnwindSafe(|| match cut {
                false => self.resolver.answer(packet, client, &shared, out),
                true => oversized(packet, out),
            }));
            match outcome {
                Ok(Outcome::Reply(length)) if length > 0 => batch.queue(index, length),
                Ok(Outcome::Reply(_) | Outcome::Silence) => {}
                Ok(Outcome::Miss(miss)) => self.ask(miss, *path),
                Err(_) => {
                    self.resolver.cells.event(Event::Panic);
                    let length = error(packet, out, Rcode::SERVFAIL);
                    batch.queue(index, length);
                }
            }
        }
    }

    fn ask(&self, miss: Box<Miss>, path: ReturnPath) {
        let (socket, resolver, guard) =
            (Rc::clone(&self.socket), Rc::clone(&self.resolver), self.in_flight.begin());
        tokio::task::spawn_local(reply_later(socket, resolver, miss, path, guard));
    }

    async fn send(&self, batch: &mut Batch) {
        while batch.has_queued() {
            let sent = self.socket.try_io(Interest::WRITABLE, || batch.send(self.socket.as_fd()));
            match sent {
                Ok(refused) => (0..refused).for_each(|_| self.resolver.cells.event(Event::Unsent)),
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

async fn reply_later(
    socket: Socket,
    resolver: Rc<Resolver>,
    miss: Box<Miss>,
    path: ReturnPath,
    _guard: Guard,
) {
    let reply = miss::answer(Rc::clone(&resolver), miss).await;
    loop {
        match sys::send(socket.as_fd(), &reply, &path) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && socket.writable().await.is_ok() => {}
            Err(_) => return resolver.cells.event(Event::Unsent),
            Ok(()) => return,
        }
    }
}

/// A datagram longer than any query that makes sense: its header can be read, so it is answered.
fn oversized(packet: &[u8], out: &mut [u8]) -> Outcome {
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
