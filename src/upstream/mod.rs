//! Hops 6 and 7: one question to the servers of its zone, inside limits, believed only where it matches.
//!
//! [`zones`] says who is responsible, [`admission`] joins equal questions and bounds what waits, [`exchange`]
//! tries servers one after another, [`udp`] and [`tcp`] carry the packets, [`health`] remembers how servers
//! behave, [`loops`] notices when a server is ourselves. Nothing here knows of caches or search lists.

pub mod admission;
pub mod alarm;
pub mod budget;
pub mod datagrams;
pub mod encrypted;
pub mod exchange;
pub mod experiment;
pub mod fairness;
pub mod group;
pub mod headless;
pub mod health;
pub mod identity;
pub mod inbox;
pub mod latency;
pub mod ledger;
pub mod links;
pub mod loops;
mod made;
pub mod matching;
pub mod rate;
pub mod segments;
#[cfg(test)]
pub mod simulation;
pub mod sources;
pub mod standing;
pub mod streams;
pub mod tally;
pub mod tcp;
mod tries;
pub mod udp;
pub mod window;
pub mod zones;

use std::any::Any;
use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use fairness::Refused;
use foldhash::fast::RandomState;
use health::{Server, Transport};
use udp::Arrivals;
use zones::Zones;

/// A question to be asked upstream.
#[derive(Clone, Debug)]
pub struct Question {
    /// QNAME in lower case, QTYPE and QCLASS, in wire form.
    pub octets: Box<[u8]>,
    /// DNSSEC records are wanted.
    pub dnssec_ok: bool,
    /// Validation is left to whoever asks.
    pub checking_disabled: bool,
}

impl Question {
    /// The QNAME in lower case, in wire form.
    pub fn qname(&self) -> &[u8] {
        self.octets.get(..self.octets.len().saturating_sub(4)).unwrap_or(&[])
    }
}

/// On whose behalf a question goes upstream, the most urgent first: what there is not room for is left out from the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// A client waits for the answer.
    Client,
    /// A client waits, and the question has been tried before.
    Retry,
    /// Nobody waits: a name that a client polls for, or an answer that has been given stale.
    Refresh,
    /// Nobody waits: an answer that still serves is to be there when it ends.
    Prefetch,
}

impl Class {
    /// All classes, in the order of their counters.
    pub const ALL: [Class; 4] = [Class::Client, Class::Retry, Class::Refresh, Class::Prefetch];

    /// The name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Class::Client => "client",
            Class::Retry => "retry",
            Class::Refresh => "refresh",
            Class::Prefetch => "prefetch",
        }
    }
}

/// Why a question has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// No server answered in time.
    #[error("no upstream server answered in time")]
    TimedOut,
    /// Every server that was tried could not be reached.
    #[error("the network refused every upstream server")]
    Unreachable,
    /// Every server of the zone leads back to this process.
    #[error("every upstream server leads back here")]
    Loop,
    /// Every server that said anything named others to ask.
    #[error("no upstream server does more than refer to others")]
    Lame,
    /// There was no turn for it.
    #[error(transparent)]
    Refused(#[from] Refused),
}

/// What all workers share: zones and what is known of their servers.
pub struct Upstreams {
    /// Which servers are asked for which names.
    pub zones: Zones,
    /// Names sent out to see whether they come back.
    pub nonces: loops::Nonces,
}

/// What carries questions to servers: sockets, or in tests a simulated network under virtual time.
pub trait Carrier {
    /// Sends a query as a datagram under a free ID; what comes of it goes to `arrivals` until the ticket is dropped.
    ///
    /// # Errors
    /// What kept it from being sent.
    fn datagram(
        &self,
        server: &Arc<Server>,
        query: Vec<u8>,
        sent: &[u8],
        arrivals: Arrivals,
    ) -> io::Result<Ticket>;

    /// Asks over a stream; the reply matches.
    fn stream(&self, server: &Arc<Server>, query: Vec<u8>, sent: Vec<u8>) -> Reply;
}

/// Ends the wait for a datagram's replies when it is dropped.
pub type Ticket = Box<dyn Any>;
/// The reply over a stream, to come.
pub type Reply = Pin<Box<dyn Future<Output = io::Result<Vec<u8>>>>>;

/// One worker's sockets and connections to the servers; a server's are made with its first question.
#[derive(Clone, Default)]
pub struct Outbound {
    by_number: Rc<RefCell<HashMap<usize, Rc<Sockets>, RandomState>>>,
}

/// What leads to one server. To one that is spoken to inside TLS nothing else leads.
enum Sockets {
    Plain { udp: udp::Pool, tcp: streams::Client<tcp::Connection> },
    Encrypted(streams::Client<encrypted::Connection>),
}

impl Sockets {
    fn new(server: &Arc<Server>) -> Sockets {
        match server.endpoint.transport {
            Transport::Udp | Transport::Tcp => Sockets::Plain {
                udp: udp::Pool::new(server.endpoint.addr),
                tcp: streams::Client::new(Arc::clone(server)),
            },
            Transport::Tls | Transport::Https => Sockets::Encrypted(streams::Client::new(Arc::clone(server))),
        }
    }
}

impl Outbound {
    /// Forgets all servers but these. What is open to one that is forgotten ends with the last question that waits there.
    pub fn keep(&self, servers: &[Arc<Server>]) {
        self.by_number.borrow_mut().retain(|number, _| servers.iter().any(|server| server.number == *number));
    }

    fn to(&self, server: &Arc<Server>) -> Rc<Sockets> {
        let mut all = self.by_number.borrow_mut();
        Rc::clone(all.entry(server.number).or_insert_with(|| Rc::new(Sockets::new(server))))
    }
}

impl Carrier for Outbound {
    fn datagram(
        &self,
        server: &Arc<Server>,
        query: Vec<u8>,
        sent: &[u8],
        arrivals: Arrivals,
    ) -> io::Result<Ticket> {
        match &*self.to(server) {
            Sockets::Plain { udp, .. } => Ok(Box::new(udp.send(query, sent, arrivals)?)),
            Sockets::Encrypted(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    fn stream(&self, server: &Arc<Server>, query: Vec<u8>, sent: Vec<u8>) -> Reply {
        let sockets = self.to(server);
        Box::pin(async move {
            match &*sockets {
                Sockets::Plain { tcp, .. } => tcp.ask(&query, &sent).await,
                Sockets::Encrypted(encrypted) => encrypted.ask(&query, &sent).await,
            }
        })
    }
}
