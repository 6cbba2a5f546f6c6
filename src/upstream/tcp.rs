//! Questions to one server over TCP: answers in any order, matched by ID and question (RFC 7766 sections 6.2.1 and 7).

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::health::Server;
use super::links::Outcome;
use super::matching::{self, Match};
use super::segments;
use super::streams::{self, Life, Reply, UNACKNOWLEDGED};

/// How long a connection may take to open.
const CONNECT: Duration = Duration::from_millis(1500);

struct Waiting {
    sent: Box<[u8]>,
    reply: oneshot::Sender<Vec<u8>>,
}

/// One connection.
pub struct Connection(Rc<Shared>);

/// What its task and those who wait share.
struct Shared {
    outgoing: mpsc::Sender<Vec<u8>>,
    waiting: RefCell<HashMap<u16, Waiting>>,
    life: Rc<Life>,
}

impl streams::Connection for Connection {
    const MAX_PIPELINED: usize = 256;
    /// RFC 7766 section 6.2.3: in the order of seconds.
    const IDLE: Duration = Duration::from_secs(10);

    fn open(server: &Arc<Server>, life: Rc<Life>) -> Connection {
        let (outgoing, queue) = mpsc::channel(Self::MAX_PIPELINED);
        let shared = Rc::new(Shared { outgoing, waiting: RefCell::default(), life });
        tokio::task::spawn_local(run(Rc::clone(&shared), Arc::clone(server), queue));
        Connection(shared)
    }

    async fn ask(&self, query: &[u8], question: &[u8]) -> Reply {
        let (reply, landing) = oneshot::channel();
        let id = self.0.enter(Waiting { sent: question.into(), reply }).ok_or(io::ErrorKind::ResourceBusy)?;
        let _leave = Leave { connection: &self.0, id };
        let mut framed = Vec::with_capacity(query.len() + 2);
        framed.extend_from_slice(&(query.len() as u16).to_be_bytes());
        framed.extend_from_slice(query);
        crate::wire::put(&mut framed, 2, &id.to_be_bytes());
        self.0.outgoing.try_send(framed).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        landing.await.map_err(|_| io::ErrorKind::ConnectionAborted.into())
    }
}

impl Shared {
    /// An ID of which no question waits here.
    fn enter(&self, waiting: Waiting) -> Option<u16> {
        let mut table = self.waiting.borrow_mut();
        let id = (0..64).map(|_| rand::random()).find(|id| !table.contains_key(id))?;
        table.insert(id, waiting);
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
}

/// Ends the wait of one question, however it ends.
struct Leave<'c> {
    connection: &'c Shared,
    id: u16,
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.connection.waiting.borrow_mut().remove(&self.id);
    }
}

async fn run(connection: Rc<Shared>, server: Arc<Server>, mut queue: mpsc::Receiver<Vec<u8>>) {
    match timeout(CONNECT, connect(server.endpoint.addr)).await {
        Ok(Ok(stream)) => {
            server.links.count(Outcome::Opened);
            connection.life.opened();
            let (mut reading, mut writing) = stream.into_split();
            let toll = Toll { server: &server, counted: Cell::new(0) };
            tokio::select! {
                () = read(&connection, &mut reading, &toll) => {}
                () = write(&mut writing, &mut queue) => {}
                () = connection.life.over(<Connection as streams::Connection>::IDLE) => {}
            }
            toll.count(writing.as_ref());
        }
        Ok(Err(_)) => server.links.count(Outcome::Refused),
        Err(_) => server.links.count(Outcome::TimedOut),
    }
    connection.life.close();
    // Whoever waits learns that no reply will come.
    connection.waiting.borrow_mut().clear();
}

/// Opens a connection as all of ours are: small segments go out at once, and a peer that is gone is noticed.
pub async fn connect(addr: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(addr).await?;
    stream.set_nodelay(true)?;
    socket2::SockRef::from(&stream).set_tcp_user_timeout(Some(UNACKNOWLEDGED))?;
    Ok(stream)
}

/// Adds to the server's count what one connection has sent since it was last looked at.
struct Toll<'s> {
    server: &'s Server,
    counted: Cell<u32>,
}

impl Toll<'_> {
    fn count(&self, stream: &TcpStream) {
        let sent = segments::sent(stream);
        self.server.streamed(sent.saturating_sub(self.counted.replace(sent)));
    }
}

async fn read(connection: &Shared, stream: &mut OwnedReadHalf, toll: &Toll<'_>) {
    while let Ok(length) = stream.read_u16().await {
        let mut message = vec![0; usize::from(length)];
        if stream.read_exact(&mut message).await.is_err() {
            return;
        }
        toll.count(stream.as_ref());
        connection.dispatch(message);
    }
}

async fn write(stream: &mut OwnedWriteHalf, queue: &mut mpsc::Receiver<Vec<u8>>) {
    while let Some(framed) = queue.recv().await {
        if stream.write_all(&framed).await.is_err() {
            return;
        }
    }
}
