//! Questions to one server inside TLS: DNS over TLS (RFC 7858) and over HTTPS (RFC 8484), by hickory's exchanges.
//!
//! What has to be known of these:
//! - An exchange lives in tasks that its runtime provider owns, and dies with them; nothing opens it again. So every
//!   connection has a runtime of its own, which goes with it. The task that speaks HTTP/2 ends by itself when the exchange
//!   is gone, and at the latest when its peer stops to acknowledge ([`streams::UNACKNOWLEDGED`]).
//! - It gives whatever comes with the right ID (over HTTPS, in the right stream); the question is compared here.
//! - It decodes what it gives, and a message that it cannot decode is lost. What it gives is kept as it came.
//! - It takes no more than 32 messages that are not sent yet.
//! - Over TLS it sends no server name; over HTTPS it does.
//!
//! Nothing here can be spoken in the clear: a server that does not prove who it is, is not asked.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hickory_resolver::config::{ConnectionConfig, ResolverOpts};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::{DnsTcpStream, RuntimeProvider, Spawn, TokioTime};
use hickory_resolver::net::xfer::{DnsExchange, DnsHandle, FirstAnswer};
use hickory_resolver::proto::op::{DnsRequest, DnsRequestOptions, Message};
use hickory_resolver::proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use hickory_resolver::{ConnectionProvider, PoolContext, TlsConfig};
use rustls::CertificateError;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::exchange::LATE;
use super::health::{Server, Transport};
use super::links::Outcome;
use super::matching::{self, Match};
use super::segments;
use super::streams::{self, Life, Reply};
use super::tcp;

/// How long a connection may take to open: two round trips more than over TCP at most, and the work of both ends.
const OPEN: Duration = Duration::from_secs(3);
/// Queries are filled up to a multiple of this (RFC 8467 section 4.1).
const BLOCK: usize = 128;
/// Most characters of an error that are logged; a server may send a page.
const SAID: usize = 300;

type Exchange = DnsExchange<Runtime>;
/// An exchange when it is there, or what kept it away.
type Opened = Option<Result<Exchange, io::ErrorKind>>;

/// One connection.
pub struct Connection {
    server: Arc<Server>,
    opened: watch::Receiver<Opened>,
    life: Rc<Life>,
    is_well: Cell<bool>,
}

impl streams::Connection for Connection {
    /// Half of what TCP has: hickory looks at all of them whenever a message comes.
    const MAX_PIPELINED: usize = 128;
    /// Longer than over TCP, since opening costs more (RFC 7858 section 3.4).
    const IDLE: Duration = Duration::from_secs(30);

    fn open(server: &Arc<Server>, life: Rc<Life>) -> Connection {
        let (tell, opened) = watch::channel(None);
        tokio::task::spawn_local(run(Arc::clone(server), Rc::clone(&life), tell));
        Connection { server: Arc::clone(server), opened, life, is_well: Cell::new(false) }
    }

    async fn ask(&self, query: &[u8], question: &[u8]) -> Reply {
        let request = request(query).ok_or(io::ErrorKind::InvalidInput)?;
        let mut opened = self.opened.clone();
        let exchange = match opened.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(Ok(exchange))) => exchange.clone(),
            Ok(Some(Err(kind))) => return Err((*kind).into()),
            Ok(None) | Err(_) => return Err(io::ErrorKind::ConnectionAborted.into()),
        };
        match exchange.send(request).first_answer().await {
            Ok(response) => self.check(response.into_buffer(), question),
            Err(error) => Err(self.failed(&error)),
        }
    }
}

impl Connection {
    /// A server that answers what it was not asked is no longer in step; the next question goes to a new connection.
    fn check(&self, reply: Vec<u8>, question: &[u8]) -> Reply {
        if matching::compare(&reply, question) == Match::No {
            self.life.close();
            return Err(io::ErrorKind::InvalidData.into());
        }
        if !self.is_well.replace(true) && self.server.links.is_well() {
            crate::info!("upstream {} answers again", self.server.endpoint);
        }
        Ok(reply)
    }

    fn failed(&self, error: &NetError) -> io::Error {
        match error {
            // The server said something that is no answer: an HTTP status, another kind of content, what cannot be decoded.
            NetError::Msg(_)
            | NetError::Message(_)
            | NetError::Proto(_)
            | NetError::Decode(_)
            | NetError::ParseInt(_)
            | NetError::RequestTooLarge => {
                complain(&self.server, "gives no answer", &error.to_string());
                io::ErrorKind::InvalidData.into()
            }
            _ => {
                self.life.close();
                io::ErrorKind::ConnectionAborted.into()
            }
        }
    }
}

/// Says what is wrong with a server, if that is news.
fn complain(server: &Server, what: &str, why: &str) {
    if server.links.is_news(Instant::now()) {
        let plain = |letter: char| if letter.is_control() { ' ' } else { letter };
        let why: String = why.chars().map(plain).take(SAID).collect();
        crate::error!("upstream {} {what}: {why}", server.endpoint);
    }
}

/// The query as hickory takes it, filled up where it has an OPT record to be filled up in.
fn request(query: &[u8]) -> Option<DnsRequest> {
    let mut message = Message::from_vec(query).ok()?;
    if let Some(edns) = &mut message.edns {
        // Code and length of the option take four octets themselves (RFC 7830 section 3).
        let padding = (query.len() + 4).next_multiple_of(BLOCK) - (query.len() + 4);
        edns.options_mut().insert(EdnsOption::Unknown(EdnsCode::Padding.into(), vec![0; padding]));
    }
    Some(DnsRequest::new(message, DnsRequestOptions::default()))
}

/// Opens a connection and keeps it until its life is over.
async fn run(server: Arc<Server>, life: Rc<Life>, tell: watch::Sender<Opened>) {
    let runtime = Runtime::new(&server);
    let opening = async {
        let opening = connect(&server, &runtime)?;
        opening.await
    };
    let (outcome, error) = match timeout(OPEN, opening).await {
        Ok(Ok(exchange)) => {
            server.links.count(Outcome::Opened);
            life.opened();
            tell.send_replace(Some(Ok(exchange)));
            tokio::select! {
                () = life.over(<Connection as streams::Connection>::IDLE) => {}
                () = runtime.0.ended.notified() => {}
            }
            return life.close();
        }
        Ok(Err(error)) if runtime.has_connected() => {
            complain(&server, "is not asked", &distrust(&server, &error));
            (Outcome::Untrusted, io::ErrorKind::PermissionDenied)
        }
        Ok(Err(_)) => (Outcome::Refused, io::ErrorKind::ConnectionRefused),
        Err(_) => (Outcome::TimedOut, io::ErrorKind::TimedOut),
    };
    server.links.count(outcome);
    life.close();
    tell.send_replace(Some(Err(error)));
}

/// Why a server that let us in is not asked.
fn distrust(server: &Server, error: &NetError) -> String {
    let NetError::Io(error) = error else { return error.to_string() };
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match tls {
        Some(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
            let roots = server.endpoint.identity.as_ref().and_then(|identity| identity.roots.file());
            let whose = roots.map_or("the built-in list".to_string(), |file| format!("{file:?}"));
            format!("its certificate is by none of the authorities of {whose}; name another ca_file")
        }
        Some(rustls::Error::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        )) => "its certificate has expired, or the clock of this host is wrong".into(),
        Some(tls) => tls.to_string(),
        None => format!("it does not speak TLS as it should ({error})"),
    }
}

type Opening = <Runtime as ConnectionProvider>::FutureConn;

fn connect(server: &Server, runtime: &Runtime) -> Result<Opening, NetError> {
    let endpoint = &server.endpoint;
    let identity = endpoint.identity.as_ref().ok_or("no identity")?;
    let mut config = match endpoint.transport {
        Transport::Https => ConnectionConfig::https(Arc::clone(&identity.name), identity.path.clone()),
        _ => ConnectionConfig::tls(Arc::clone(&identity.name)),
    };
    config.port = endpoint.addr.port();
    let mut options = ResolverOpts::default();
    // Whoever asks goes away earlier; what is counted here is what streams::Client lets in, and what went away already.
    options.timeout = LATE * 2;
    options.max_active_requests = usize::from(u16::MAX) / 2;
    let context = PoolContext::new(options, TlsConfig { config: identity.roots.tls().clone() });
    runtime.new_connection(endpoint.addr.ip(), &config, &context)
}

/// What hickory does the waiting with, for one connection: its tasks end with it.
#[derive(Clone)]
struct Runtime(Arc<Inside>);

struct Inside {
    server: Arc<Server>,
    tasks: Mutex<JoinSet<()>>,
    connected: AtomicBool,
    ended: Arc<Notify>,
}

impl Runtime {
    fn new(server: &Arc<Server>) -> Runtime {
        Runtime(Arc::new(Inside {
            server: Arc::clone(server),
            tasks: Mutex::default(),
            connected: AtomicBool::new(false),
            ended: Arc::default(),
        }))
    }

    /// True where the server let us in, whatever happened then.
    fn has_connected(&self) -> bool {
        self.0.connected.load(Ordering::Relaxed)
    }
}

impl Spawn for Runtime {
    fn spawn_bg(&mut self, future: impl Future<Output = ()> + Send + 'static) {
        let ended = Arc::clone(&self.0.ended);
        self.0.tasks.lock().unwrap_or_else(PoisonError::into_inner).spawn(async move {
            future.await;
            ended.notify_one();
        });
    }
}

impl RuntimeProvider for Runtime {
    type Handle = Runtime;
    type Timer = TokioTime;
    type Udp = UdpSocket;
    type Tcp = Counted;

    fn create_handle(&self) -> Runtime {
        self.clone()
    }

    fn connect_tcp(
        &self,
        server_addr: SocketAddr,
        _: Option<SocketAddr>,
        _: Option<Duration>,
    ) -> Pin<Box<dyn Send + Future<Output = io::Result<Counted>>>> {
        let inside = Arc::clone(&self.0);
        Box::pin(async move {
            let stream = tcp::connect(server_addr).await?;
            inside.connected.store(true, Ordering::Relaxed);
            Ok(Counted { stream, server: Arc::clone(&inside.server), counted: 0 })
        })
    }

    fn bind_udp(
        &self,
        _: SocketAddr,
        _: SocketAddr,
    ) -> Pin<Box<dyn Send + Future<Output = io::Result<UdpSocket>>>> {
        Box::pin(std::future::ready(Err(io::ErrorKind::Unsupported.into())))
    }
}

/// A stream whose segments are counted.
struct Counted {
    stream: TcpStream,
    server: Arc<Server>,
    counted: u32,
}

impl Counted {
    fn count(&mut self) {
        let sent = segments::sent(&self.stream);
        self.server.streamed(sent.saturating_sub(self.counted));
        self.counted = sent;
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.count();
    }
}

impl DnsTcpStream for Counted {
    type Time = TokioTime;
}

impl futures_io::AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(buffer);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer))?;
        self.count();
        Poll::Ready(Ok(buffer.filled().len()))
    }
}

impl futures_io::AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, octets)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, pieces)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::edns::upstream_query;

    #[test]
    fn queries_are_filled_up_and_otherwise_as_they_were() {
        let question = |labels: usize| [&b"\x07ExaMple".repeat(labels)[..], b"\x00\xff\x10\x00\x01"].concat();
        for labels in 0..30 {
            let question = question(labels);
            let query = upstream_query(0, &question, true, true, true);
            let sent = request(&query).unwrap().to_vec().unwrap();
            assert_eq!(sent.len() % BLOCK, 0, "{labels}");
            // Header, question, and the OPT record but for the length of its RDATA.
            let same = query.len() - 2;
            assert_eq!(sent[..same], query[..same]);
            assert_eq!(sent[same + 2..same + 4], [0, 12]);
            let plain = upstream_query(0, &question, false, false, false);
            assert_eq!(request(&plain).unwrap().to_vec().unwrap(), plain);
        }
    }
}
