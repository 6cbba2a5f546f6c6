//! Questions to one server over UDP: a rotating pool of connected sockets with ports the kernel draws at random.
//!
//! A connected socket takes datagrams from that address and port alone; on top of it ID, question and letter case
//! must match (RFC 5452). A socket serves a bounded number of questions for a bounded time, is then *spent* and
//! replaced with the next question, so that a port that was found out is soon worth nothing. It stays open for as long as a question waits
//! there. Where too many stay, or no descriptor is left, those that are spent serve on. What does not match is dropped and the wait goes
//! on: the true reply may still come.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::Duration;

use foldhash::fast::RandomState;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::alarm::Alarm;
use super::datagrams::{self, Datagrams, MANY};
use super::exchange::MAX_TRIES;
use super::inbox::Sender;
use super::matching::{self, Match};
use crate::descriptors;

/// Sockets of one worker for one server that take new questions.
pub const POOL: usize = 8;
/// Sockets of one worker for one server, those that are spent included. Where one of each hundred packets is lost, nearly each that is spent
/// waits 350 ms for a retry: 24 of them, of 128 questions each, are enough for some 8,000 questions a second.
pub const MAX_SOCKETS: usize = 32;
/// Questions a socket serves before it is replaced.
pub const MAX_QUESTIONS: u32 = 128;
/// For how long a socket serves.
const MAX_AGE: Duration = Duration::from_secs(5);
/// Datagrams of one exchange that wait to be judged.
const ROOM: usize = 8;
/// Calls a socket may be read by before the worker looks after its other work.
const TURNS: usize = 8;

thread_local! {
    /// Nobody holds them over an await.
    static DATAGRAMS: RefCell<Datagrams> = RefCell::default();
}

/// What came of a try.
#[derive(Debug)]
pub enum Arrival {
    /// A message that matches letter by letter.
    Reply(Vec<u8>),
    /// A message that matches but for letter case.
    CaseDiffers(Vec<u8>),
    /// A message from the right place that matches nothing sent there.
    Unmatched,
    /// The network or the host refused the question; `ResourceBusy`: the host has nothing left to send it with.
    Refused(io::ErrorKind),
}

/// Where what comes of a try is told, and which try it was.
#[derive(Clone)]
pub struct Arrivals {
    /// The exchange that listens.
    pub exchange: Sender<(usize, Arrival)>,
    /// The number of the try.
    pub number: usize,
}

impl Arrivals {
    /// Tells the exchange. What a forger can send without knowing the question leaves room for what is one's answer.
    pub fn tell(&self, arrival: Arrival) {
        let room = if matches!(arrival, Arrival::Unmatched) { ROOM / 2 } else { ROOM };
        self.exchange.send((self.number, arrival), room);
    }

    /// The same for what came over a stream, of which a try has one.
    pub fn tell_of_stream(self, arrival: Arrival) {
        self.exchange.send((self.number, arrival), ROOM + MAX_TRIES);
    }
}

/// The sockets.
pub struct Pool {
    server: SocketAddr,
    /// Those that serve.
    sockets: RefCell<Vec<Rc<Socket>>>,
    /// All that are open.
    open: Rc<Cell<usize>>,
}

impl Pool {
    /// An empty pool.
    pub fn new(server: SocketAddr) -> Pool {
        Pool { server, sockets: RefCell::default(), open: Rc::default() }
    }

    /// Sends a query under an ID that is free on its socket; replies go to `arrivals` until the wait is dropped.
    ///
    /// # Errors
    /// What the system said when a socket was made or used.
    pub fn send(&self, mut query: Vec<u8>, question: &[u8], arrivals: Arrivals) -> io::Result<Wait> {
        let socket = self.socket()?;
        let id = socket.free_id().ok_or(io::ErrorKind::ResourceBusy)?;
        crate::wire::put(&mut query, 0, &id.to_be_bytes());
        let send = || match socket.io.get_ref().send(&query) {
            // A full send buffer is a lost packet: the next try is near.
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(descriptors::as_busy(error)),
            _ => Ok(()),
        };
        send().or_else(|error| match error.kind() {
            io::ErrorKind::ResourceBusy => Err(error),
            // ICMP has told of a datagram before this one, which has not gone out; if it was this one's own, it says so again.
            kind => {
                socket.refused(kind);
                send()
            }
        })?;
        socket.waiting.borrow_mut().insert(id, Try { sent: question.into(), arrivals });
        Ok(Wait { socket, id })
    }

    /// A socket for one more question: one of those that serve, at random. What is spent is replaced and what lacks is added, by one
    /// socket for each question.
    fn socket(&self) -> io::Result<Rc<Socket>> {
        let mut sockets = self.sockets.borrow_mut();
        // Those where nobody waits close first: each leaves a descriptor to the next. One stays, in case there is none.
        let mut left = sockets.len();
        sockets.retain(|socket| {
            let goes = left > 1 && socket.is_spent.get() && socket.is_idle();
            if goes {
                left -= 1;
                socket.leave();
            }
            !goes
        });
        let has_room = self.open.get() < MAX_SOCKETS;
        let may_go = |socket: &&mut Rc<Socket>| socket.is_spent.get() && (has_room || socket.is_idle());
        if let Some(spent) = sockets.iter_mut().find(may_go) {
            if let Ok(new) = self.open() {
                std::mem::replace(spent, new).leave();
            }
        } else if sockets.is_empty() || sockets.len() < POOL && has_room {
            match self.open() {
                Ok(socket) => sockets.push(socket),
                // Without a descriptor it is one of the others, if there is any.
                Err(error) if sockets.is_empty() => return Err(error),
                Err(_) => {}
            }
        }
        let index = rand::random_range(0..sockets.len());
        let socket = sockets.get(index).cloned().ok_or(io::ErrorKind::NotFound)?;
        socket.questions.set(socket.questions.get() + 1);
        if socket.questions.get() >= MAX_QUESTIONS {
            socket.is_spent.set(true);
        }
        Ok(socket)
    }

    fn open(&self) -> io::Result<Rc<Socket>> {
        let opened = Socket::open(self.server, Counted::new(&self.open));
        let socket = Rc::new(opened.map_err(descriptors::as_busy)?);
        let reader = tokio::task::spawn_local(receive(Rc::clone(&socket)));
        socket.reader.replace(Some(reader.abort_handle()));
        Ok(socket)
    }
}

/// One of the sockets that are open.
struct Counted(Rc<Cell<usize>>);

impl Counted {
    fn new(open: &Rc<Cell<usize>>) -> Counted {
        open.set(open.get() + 1);
        Counted(Rc::clone(open))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.sockets.borrow().iter().for_each(|socket| socket.leave());
    }
}

struct Try {
    sent: Box<[u8]>,
    arrivals: Arrivals,
}

struct Socket {
    io: AsyncFd<UdpSocket>,
    waiting: RefCell<HashMap<u16, Try, RandomState>>,
    questions: Cell<u32>,
    /// It is to be replaced.
    is_spent: Cell<bool>,
    /// It has been.
    has_left: Cell<bool>,
    reader: RefCell<Option<AbortHandle>>,
    _counted: Counted,
}

impl Socket {
    fn open(server: SocketAddr, counted: Counted) -> io::Result<Socket> {
        let own: SocketAddr = match server {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let socket = socket2::Socket::new(
            socket2::Domain::for_address(server),
            socket2::Type::DGRAM.nonblocking(),
            Some(socket2::Protocol::UDP),
        )?;
        socket.bind(&own.into())?;
        socket.connect(&server.into())?;
        Ok(Socket {
            io: datagrams::watch(socket.into(), Interest::READABLE)?,
            waiting: RefCell::default(),
            questions: Cell::new(0),
            is_spent: Cell::new(false),
            has_left: Cell::new(false),
            reader: RefCell::default(),
            _counted: counted,
        })
    }

    /// An ID of which no question waits here; there are 65,536, mostly for no more than [`MAX_QUESTIONS`].
    fn free_id(&self) -> Option<u16> {
        let waiting = self.waiting.borrow();
        (0..64).map(|_| rand::random()).find(|id| !waiting.contains_key(id))
    }

    fn dispatch(&self, message: &[u8]) {
        let waiting = self.waiting.borrow();
        let Some(one) = matching::id(message).and_then(|id| waiting.get(&id)) else {
            // Nobody can be told that owns this; the next to look counts it.
            waiting.values().take(1).for_each(|any| any.arrivals.tell(Arrival::Unmatched));
            return;
        };
        one.arrivals.tell(match matching::compare(message, &one.sent) {
            Match::Exact => Arrival::Reply(message.to_vec()),
            Match::CaseDiffers => Arrival::CaseDiffers(message.to_vec()),
            Match::No => Arrival::Unmatched,
        });
    }

    /// No question waits.
    fn is_idle(&self) -> bool {
        self.waiting.borrow().is_empty()
    }

    /// It gets no more questions, and is read for as long as one waits.
    fn leave(&self) {
        self.has_left.set(true);
        if self.is_idle() {
            self.reader.take().iter().for_each(AbortHandle::abort);
        }
    }

    fn refused(&self, kind: io::ErrorKind) {
        self.waiting.borrow().values().for_each(|one| one.arrivals.tell(Arrival::Refused(kind)));
    }

    /// Takes what waits, a bounded number of calls; true when nothing is left.
    fn take(&self) -> bool {
        DATAGRAMS.with_borrow_mut(|datagrams| {
            (0..TURNS).any(|_| match datagrams.receive(self.io.as_fd()) {
                Ok(count) => {
                    datagrams.iter().for_each(|message| self.dispatch(message));
                    count < MANY
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => true,
                // ICMP says that nobody is there, on behalf of everything sent from this socket.
                Err(error) => {
                    self.refused(error.kind());
                    false
                }
            })
        })
    }
}

/// Reads a socket until it is ended by [`Socket::leave`].
async fn receive(socket: Rc<Socket>) {
    let mut too_old = Alarm::at(Instant::now() + MAX_AGE);
    loop {
        tokio::select! {
            biased;
            ready = socket.io.ready(Interest::READABLE | Interest::ERROR) => match ready {
                Ok(mut ready) => match socket.take() {
                    true => ready.clear_ready(),
                    false => tokio::task::yield_now().await,
                },
                // The runtime ends: nobody is to wait here any more.
                Err(_) => return socket.is_spent.set(true),
            },
            () = &mut too_old, if !socket.is_spent.get() => socket.is_spent.set(true),
        }
    }
}

/// A question that waits on a socket; dropping it ends the wait.
pub struct Wait {
    socket: Rc<Socket>,
    id: u16,
}

impl Drop for Wait {
    fn drop(&mut self) {
        self.socket.waiting.borrow_mut().remove(&self.id);
        if self.socket.has_left.get() {
            self.socket.leave();
        }
    }
}

#[cfg(test)]
#[path = "udp_tests.rs"]
mod tests;
