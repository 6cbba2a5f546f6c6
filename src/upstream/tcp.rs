//! Questions to one server over TCP: a few pipelined connections, answers in any order (RFC 7766 sections 6.2.1 and 7).

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};

use super::matching::{self, Match};

/// Connections of one worker to one server.
pub const MAX_CONNECTIONS: usize = 2;
/// Questions that wait on one connection; a further one waits for none and fails over.
pub const MAX_PIPELINED: usize = 256;
/// Questions one connection serves, so that load moves on after servers were replaced.
const MAX_QUESTIONS: u32 = 4096;
/// For how long one connection serves.
const MAX_AGE: Duration = Duration::from_secs(60);
/// How long a connection may take to open.
const CONNECT: Duration = Duration::from_millis(1500);
/// How long a connection stays open without a question (RFC 7766 section 6.2.3: in the order of seconds).
const IDLE: Duration = Duration::from_secs(10);

type Reply = io::Result<Vec<u8>>;

/// The connections.
pub struct Client {
    server: SocketAddr,
    connections: RefCell<Vec<Rc<Connection>>>,
}

impl Client {
    /// No connection is open yet.
    pub fn new(server: SocketAddr) -> Client {
        Client { server, connections: RefCell::default() }
    }

    /// Asks and waits for the reply that matches.
    ///
    /// # Errors
    /// What ended the connection. One that was open before may have been closed by the server just then, so
    /// the question is asked once more on a new one (RFC 7766 section 6.2.4).
    pub async fn ask(&self, query: &[u8], question: &[u8]) -> Reply {
        let (connection, reused) = self.connection(false);
        match connection.ask(query, question).await {
            Err(_) if reused => self.connection(true).0.ask(query, question).await,
            reply => reply,
        }
    }

    fn connection(&self, fresh: bool) -> (Rc<Connection>, bool) {
        let mut connections = self.connections.borrow_mut();
        let now = Instant::now();
        connections.retain(|connection| connection.serves(now));
        let least = connections.iter().min_by_key(|connection| connection.waiting.borrow().len()).cloned();
        if let Some(open) = least
            && !fresh
            && (open.waiting.borrow().is_empty() || connections.len() >= MAX_CONNECTIONS)
        {
            return (open, true);
        }
        if connections.len() >= MAX_CONNECTIONS {
            connections.remove(0);
        }
        let opened = Connection::open(self.server, now);
        connections.push(Rc::clone(&opened));
        (opened, false)
    }
}

struct Waiting {
    sent: Box<[u8]>,
    reply: oneshot::Sender<Vec<u8>>,
}

struct Connection {
    outgoing: mpsc::Sender<Vec<u8>>,
    waiting: RefCell<HashMap<u16, Waiting>>,
    questions: Cell<u32>,
    closed: Cell<bool>,
    born: Instant,
}

impl Connection {
    fn open(server: SocketAddr, now: Instant) -> Rc<Connection> {
        let (outgoing, queue) = mpsc::channel(MAX_PIPELINED);
        let connection = Rc::new(Connection {
            outgoing,
            waiting: RefCell::default(),
            questions: Cell::new(0),
            closed: Cell::new(false),
            born: now,
        });
        tokio::task::spawn_local(run(Rc::clone(&connection), server, queue));
        connection
    }

    fn serves(&self, now: Instant) -> bool {
        !self.closed.get() && self.questions.get() < MAX_QUESTIONS && now < self.born + MAX_AGE
    }

    async fn ask(self: Rc<Self>, query: &[u8], question: &[u8]) -> Reply {
        let (reply, landing) = oneshot::channel();
        let id = self.enter(Waiting { sent: question.into(), reply }).ok_or(io::ErrorKind::ResourceBusy)?;
        let _leave = Leave { connection: &self, id };
        let mut framed = Vec::with_capacity(query.len() + 2);
        framed.extend_from_slice(&(query.len() as u16).to_be_bytes());
        framed.extend_from_slice(query);
        crate::wire::put(&mut framed, 2, &id.to_be_bytes());
        self.outgoing.try_send(framed).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        landing.await.map_err(|_| io::ErrorKind::ConnectionAborted.into())
    }

    fn enter(&self, waiting: Waiting) -> Option<u16> {
        let mut table = self.waiting.borrow_mut();
        if self.closed.get() || table.len() >= MAX_PIPELINED {
            return None;
        }
        let id = (0..64).map(|_| rand::random()).find(|id| !table.contains_key(id))?;
        table.insert(id, waiting);
        self.questions.set(self.questions.get() + 1);
        Some(id)
    }

    fn dispatch(&self, message: Vec<u8>) {
        let mut waiting = self.waiting.borrow_mut();
        let Some(id) = matching::id(&message) else { return };
        // Nobody can have forged it without the connection; a server may still change the case.
        let matches = |one: &Waiting| matching::compare(&message, &one.sent) != Match::No;
        if waiting.get(&id).is_some_and(matches)
            && let Some(one) = waiting.remove(&id)
        {
            let _ = one.reply.send(message);
        }
    }

    /// Whoever waits learns that no reply will come.
    fn close(&self) {
        self.closed.set(true);
        self.waiting.borrow_mut().clear();
    }
}

/// Ends the wait of one question, however it ends.
struct Leave<'c> {
    connection: &'c Connection,
    id: u16,
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.connection.waiting.borrow_mut().remove(&self.id);
    }
}

async fn run(connection: Rc<Connection>, server: SocketAddr, mut queue: mpsc::Receiver<Vec<u8>>) {
    if let Ok(Ok(stream)) = timeout(CONNECT, TcpStream::connect(server)).await {
        // Small segments at once: a question is one, and nothing follows it.
        let _ = stream.set_nodelay(true);
        let (mut reading, mut writing) = stream.into_split();
        tokio::select! {
            () = read(&connection, &mut reading) => {}
            () = write(&connection, &mut writing, &mut queue) => {}
        }
    }
    connection.close();
}

async fn read(connection: &Connection, stream: &mut OwnedReadHalf) {
    while let Ok(length) = stream.read_u16().await {
        let mut message = vec![0; usize::from(length)];
        if stream.read_exact(&mut message).await.is_err() {
            return;
        }
        connection.dispatch(message);
    }
}

async fn write(connection: &Connection, stream: &mut OwnedWriteHalf, queue: &mut mpsc::Receiver<Vec<u8>>) {
    loop {
        match timeout(IDLE, queue.recv()).await {
            Ok(Some(framed)) => {
                if stream.write_all(&framed).await.is_err() {
                    return;
                }
            }
            Ok(None) => return,
            Err(_) if connection.waiting.borrow().is_empty() => return,
            Err(_) => {}
        }
    }
}
