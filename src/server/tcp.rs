//! Streams: framed queries in, answers out in whatever order they come (RFC 7766 sections 6.2.1.1 and 8).
//!
//! A connection costs bounded memory for a bounded time: queries have a largest size, a message has to come whole
//! within seconds of its first octet, replies that nobody takes close the connection, and so does idleness.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::coop::consume_budget;
use tokio::time::{Instant, Sleep, sleep, sleep_until, timeout};

use super::stop::{Guard, InFlight, Quit, Quitting};
use crate::descriptors;
use crate::limits::{MAX_GATHERED, MAX_PIPELINED, MAX_QUERY};
use crate::observe::cells::Event;
use crate::query::Proto;
use crate::resolve::hit::Outcome;
use crate::resolve::{Client, Resolver, miss, prefetch};
use crate::upstream::admission::{Full, Gate, Place};
use crate::wire::iana::Rcode;
use crate::wire::reply::{self, MAX_MESSAGE};

/// How long a connection may be idle (RFC 7766 section 6.2.3: a few seconds) while there is room for others,
const IDLE: Duration = Duration::from_secs(8);
/// and how long when more than half of all places are taken.
const IDLE_UNDER_LOAD: Duration = Duration::from_secs(2);
/// How long a message may take from its first octet to its last.
const WHOLE_MESSAGE: Duration = Duration::from_secs(4);
/// How long a client may take to accept replies.
const WRITE: Duration = Duration::from_secs(4);
/// So many reads in a row, and it is looked at what is rare as well: a client that never pauses must not keep it from being seen.
const IN_A_ROW: u32 = 16;
/// Without descriptors, accepting pauses: the connection waits in the backlog and the loop does not spin.
const NO_DESCRIPTORS: Duration = Duration::from_millis(100);

type Scratch = Rc<RefCell<Box<[u8]>>>;

/// Accepts connections until it is told to stop.
///
/// # Errors
/// What made the listener unusable from the start.
pub async fn serve(
    listener: std::net::TcpListener,
    resolver: Rc<Resolver>,
    gate: Arc<Gate>,
    in_flight: InFlight,
    quit: Quit,
) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let scratch: Scratch = Rc::new(RefCell::new(vec![0; MAX_MESSAGE].into_boxed_slice()));
    let mut told = quit.wait();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut told => return Ok(()),
        };
        match accepted {
            Ok((stream, addr)) => {
                let client = Client { addr, proto: Proto::Tcp };
                match gate.enter(client.ip()) {
                    Ok(place) => {
                        let connection =
                            Connection::new(stream, client, &resolver, &in_flight, &gate, &scratch, place);
                        tokio::task::spawn_local(connection.run(quit.wait()));
                    }
                    // Closing says at once what silence would say late.
                    Err(Full::Total) => resolver.cells.event(Event::LimitConnections),
                    Err(Full::Client) => resolver.cells.event(Event::LimitClientConnections),
                }
            }
            Err(error) if descriptors::is_shortage(&error) => sleep(NO_DESCRIPTORS).await,
            // The connection ended before it was accepted.
            Err(_) => {}
        }
    }
}

/// What is left of a connection's input.
#[derive(Clone, Copy)]
enum Left {
    /// Nothing, or the beginning of a message.
    Nothing,
    /// Messages whose replies have no room yet.
    WholeMessages,
}

/// What a connection waits for.
enum Happened {
    /// Octets have arrived, or the client has ended.
    Read(io::Result<usize>),
    /// The worker is to stop.
    Quit,
    /// A question that was not a hit has its reply.
    Reply(Vec<u8>),
    /// It has been idle, or a message been under way, for long.
    Timer,
}

/// What arrived from a client and what goes back.
struct Connection {
    stream: TcpStream,
    client: Client,
    resolver: Rc<Resolver>,
    in_flight: InFlight,
    gate: Arc<Gate>,
    input: Vec<u8>,
    output: Vec<u8>,
    waiting: usize,
    replies: (mpsc::Sender<Vec<u8>>, mpsc::Receiver<Vec<u8>>),
    /// When the message began that is not whole yet, or the last one ended.
    since: Instant,
    /// What was read begins a message.
    begins: bool,
    /// Reads since it was looked at what is rare.
    in_a_row: u32,
    /// No more queries are taken.
    ending: bool,
    /// Where a reply is made; one for all connections of a worker.
    scratch: Scratch,
    _place: Place,
}

impl Connection {
    fn new(
        stream: TcpStream,
        client: Client,
        resolver: &Rc<Resolver>,
        in_flight: &InFlight,
        gate: &Arc<Gate>,
        scratch: &Scratch,
        place: Place,
    ) -> Connection {
        // Answers are written whole; waiting for more would only delay them.
        let _ = stream.set_nodelay(true);
        Connection {
            stream,
            client,
            resolver: Rc::clone(resolver),
            in_flight: in_flight.clone(),
            gate: Arc::clone(gate),
            input: Vec::with_capacity(2048),
            output: Vec::new(),
            waiting: 0,
            replies: mpsc::channel(MAX_PIPELINED),
            since: Instant::now(),
            begins: false,
            in_a_row: 0,
            ending: false,
            scratch: Rc::clone(scratch),
            _place: place,
        }
    }

    async fn run(mut self, mut told: Quitting) {
        // One timer for the whole connection: a query moves the deadline away, and the timer is set anew only when it has
        // rung too early.
        let mut timer = pin!(sleep_until(self.deadline()));
        loop {
            let left = self.answer_whole_messages();
            if !self.output.is_empty() && !self.write().await {
                return;
            }
            if matches!(left, Left::WholeMessages) && self.waiting < MAX_PIPELINED {
                continue;
            }
            if self.ending && self.waiting == 0 {
                let _ = self.stream.shutdown().await;
                return;
            }
            let deadline = self.deadline();
            if deadline < timer.deadline() {
                timer.as_mut().reset(deadline);
            }
            match poll_fn(|context| self.poll_event(context, &mut told, timer.as_mut())).await {
                Happened::Read(read) => self.has_read(&read),
                Happened::Quit => self.last_input(),
                Happened::Reply(reply) => self.take(&reply),
                Happened::Timer if Instant::now() >= self.deadline() => return,
                Happened::Timer => timer.as_mut().reset(self.deadline()),
            }
        }
    }

    /// What happens next. Once woken it is mostly a query that is there: what is rare is looked at when nothing more can be read.
    fn poll_event(
        &mut self,
        context: &mut Context<'_>,
        told: &mut Quitting,
        timer: Pin<&mut Sleep>,
    ) -> Poll<Happened> {
        let is_read_first = self.waiting == 0 && self.in_a_row < IN_A_ROW;
        if is_read_first && let Poll::Ready(read) = self.poll_read(context) {
            self.in_a_row += 1;
            return Poll::Ready(Happened::Read(read));
        }
        self.in_a_row = 0;
        if !self.ending && pin!(told).poll(context).is_ready() {
            return Poll::Ready(Happened::Quit);
        }
        if let Poll::Ready(Some(reply)) = self.replies.1.poll_recv(context) {
            return Poll::Ready(Happened::Reply(reply));
        }
        if self.waiting == 0 && timer.poll(context).is_ready() {
            return Poll::Ready(Happened::Timer);
        }
        if is_read_first { Poll::Pending } else { self.poll_read(context).map(Happened::Read) }
    }

    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.ending || self.waiting >= MAX_PIPELINED {
            return Poll::Pending;
        }
        pin!(self.stream.read_buf(&mut self.input)).poll(context)
    }

    /// Writes what has gathered; false where the client does not take it.
    async fn write(&mut self) -> bool {
        // Mostly there is room for all of it at once, and no timer is needed.
        let written = match self.stream.try_write(&self.output) {
            Ok(written) => written,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(_) => return false,
        };
        let rest = self.output.get(written..).unwrap_or_default();
        if rest.is_empty() {
            // Others have their turns, however much comes.
            consume_budget().await;
        } else {
            let _guard = self.in_flight.begin();
            if !matches!(timeout(WRITE, self.stream.write_all(rest)).await, Ok(Ok(()))) {
                return false;
            }
        }
        self.output.clear();
        true
    }

    fn has_read(&mut self, read: &io::Result<usize>) {
        match read {
            // A half-closed connection still takes its answers (RFC 7766 section 6.2.4).
            Ok(0) | Err(_) => self.ending = true,
            Ok(length) => self.begins = *length == self.input.len(),
        }
    }

    fn deadline(&self) -> Instant {
        let busy = self.gate.is_half_full();
        self.since
            + match self.input.is_empty() {
                false => WHOLE_MESSAGE,
                true if busy => IDLE_UNDER_LOAD,
                true => IDLE,
            }
    }

    /// Answers the messages that are whole, as far as their replies may wait.
    fn answer_whole_messages(&mut self) -> Left {
        if self.input.is_empty() {
            return Left::Nothing;
        }
        let resolver = Rc::clone(&self.resolver);
        let batch = resolver.batch();
        let input = std::mem::take(&mut self.input);
        let mut rest = &input[..];
        let left = loop {
            let Some((length, tail)) = rest.split_first_chunk::<2>() else { break Left::Nothing };
            let length = usize::from(u16::from_be_bytes(*length));
            if length > MAX_QUERY {
                // No query is that long: the stream is not what it claims to be.
                self.ending = true;
                rest = &[];
                break Left::Nothing;
            }
            let Some(message) = tail.get(..length) else { break Left::Nothing };
            if self.waiting >= MAX_PIPELINED || self.output.len() >= MAX_GATHERED {
                break Left::WholeMessages;
            }
            rest = tail.get(length..).unwrap_or_default();
            self.answer(message, &batch);
        };
        let taken = input.len() - rest.len();
        self.input = input;
        if std::mem::take(&mut self.begins) || taken > 0 {
            self.since = resolver.began(&batch);
            self.input.drain(..taken);
        }
        left
    }

    fn answer(&mut self, message: &[u8], batch: &crate::resolve::Batch<'_>) {
        let scratch = Rc::clone(&self.scratch);
        let mut scratch = scratch.borrow_mut();
        let out = &mut scratch[..];
        match catch_unwind(AssertUnwindSafe(|| self.resolver.answer(message, self.client, batch, out))) {
            Ok(Outcome::Reply(length)) => self.gather(scratch.get(..length).unwrap_or_default()),
            Ok(Outcome::ReplyAndPrefetch(length, prefetch)) => {
                self.gather(scratch.get(..length).unwrap_or_default());
                tokio::task::spawn_local(prefetch::ahead(Rc::clone(&self.resolver), prefetch));
            }
            // What is no query has no place on a connection of queries.
            Ok(Outcome::Silence) => self.ending = true,
            Ok(Outcome::Miss(miss)) => {
                self.waiting += 1;
                let (replies, guard) = (self.replies.0.clone(), self.in_flight.begin());
                tokio::task::spawn_local(reply_later(Rc::clone(&self.resolver), miss, replies, guard));
            }
            Err(_) => {
                // A panic ends one question: the others of the connection have done nothing wrong.
                self.resolver.cells.event(Event::Panic);
                let length = reply::write_bare(message, out, Rcode::SERVFAIL);
                self.gather(scratch.get(..length).unwrap_or_default());
            }
        }
    }

    fn take(&mut self, reply: &[u8]) {
        self.waiting -= 1;
        self.since = Instant::now();
        self.gather(reply);
    }

    fn gather(&mut self, reply: &[u8]) {
        if let Ok(length) = u16::try_from(reply.len())
            && length > 0
        {
            self.output.extend_from_slice(&length.to_be_bytes());
            self.output.extend_from_slice(reply);
        }
    }

    /// Takes what has arrived already, for the last time.
    fn last_input(&mut self) {
        while self.input.len() < MAX_GATHERED && matches!(self.stream.try_read_buf(&mut self.input), Ok(1..))
        {
        }
        self.ending = true;
    }
}

/// Tells a connection that one of its questions has ended, with the reply if there is one, also after a panic.
struct Replied {
    replies: mpsc::Sender<Vec<u8>>,
    reply: Vec<u8>,
}

impl Drop for Replied {
    fn drop(&mut self) {
        // The channel has a place for each question that may wait; without a receiver nobody cares.
        let _ = self.replies.try_send(std::mem::take(&mut self.reply));
    }
}

async fn reply_later(
    resolver: Rc<Resolver>,
    miss: Box<miss::Miss>,
    replies: mpsc::Sender<Vec<u8>>,
    _guard: Guard,
) {
    let mut replied = Replied { replies, reply: Vec::new() };
    replied.reply = miss::answer(resolver, miss).await;
}
