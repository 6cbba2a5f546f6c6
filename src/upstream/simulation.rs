//! A simulated network under virtual time: servers are closures, packets are timers. For tests.

use std::cell::RefCell;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::budget::{Budget, Plan};
use super::health::{Endpoint, Server, Transport};
use super::udp::{Arrival, Arrivals};
use super::zones::{Endpoints, Zones};
use super::{Carrier, Reply, Ticket};
use crate::wire::header::HEADER_LEN;
use crate::wire::name::Name;
use crate::wire::question::Question;

/// A question as it reached a server.
#[derive(Clone, Debug)]
pub struct Seen {
    /// When.
    pub at: Instant,
    /// Which server.
    pub server: usize,
    /// How.
    pub over: Transport,
    /// The whole query.
    pub query: Vec<u8>,
}

impl Seen {
    /// The question's octets, as they were sent.
    pub fn question(&self) -> Vec<u8> {
        Question::read(&self.query).map(|question| question.octets.to_vec()).unwrap_or_default()
    }

    /// The QNAME as text, in lower case.
    pub fn name(&self) -> String {
        let question = Question::read(&self.query).unwrap();
        Name::from_wire(question.qname()).unwrap().to_lower().to_string()
    }

    /// A reply with these flags, counts and records behind the question as sent.
    pub fn reply(&self, flags: u16, counts: [u16; 3], records: &[u8]) -> Vec<u8> {
        let mut out = vec![0; HEADER_LEN];
        crate::wire::put(&mut out, 2, &(0x8180 | flags).to_be_bytes());
        crate::wire::put(&mut out, 4, &1u16.to_be_bytes());
        for (index, count) in counts.iter().enumerate() {
            crate::wire::put(&mut out, 6 + 2 * index, &count.to_be_bytes());
        }
        out.extend_from_slice(&self.question());
        out.extend_from_slice(records);
        out
    }

    /// One A record of this TTL.
    pub fn a(&self, ttl: u32) -> Vec<u8> {
        let record =
            [&b"\xc0\x0c\x00\x01\x00\x01"[..], &ttl.to_be_bytes(), b"\x00\x04\xc0\x00\x02\x01"].concat();
        self.reply(0, [1, 0, 0], &record)
    }

    /// NXDOMAIN with an SOA of the root, whose TTL and MINIMUM are this.
    pub fn nxdomain(&self, ttl: u32) -> Vec<u8> {
        let mut record = [&b"\x00\x00\x06\x00\x01"[..], &ttl.to_be_bytes(), b"\x00\x16\x00\x00"].concat();
        record.extend_from_slice(&[0; 16]);
        record.extend_from_slice(&ttl.to_be_bytes());
        self.reply(3, [0, 1, 0], &record)
    }
}

/// What a server does with a question: after which time what arrives.
pub type Script = dyn FnMut(&Seen) -> Vec<(Duration, Arrival)>;

/// The network.
#[derive(Clone)]
pub struct Network {
    script: Rc<RefCell<Box<Script>>>,
    seen: Rc<RefCell<Vec<Seen>>>,
}

impl Network {
    /// A network whose servers follow the script.
    pub fn new(script: impl FnMut(&Seen) -> Vec<(Duration, Arrival)> + 'static) -> Network {
        Network { script: Rc::new(RefCell::new(Box::new(script))), seen: Rc::default() }
    }

    /// Replaces the script.
    pub fn becomes(&self, script: impl FnMut(&Seen) -> Vec<(Duration, Arrival)> + 'static) {
        *self.script.borrow_mut() = Box::new(script);
    }

    /// Every question so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.borrow().clone()
    }

    fn carry(&self, server: &Server, over: Transport, query: Vec<u8>) -> Vec<(Duration, Arrival)> {
        let seen = Seen { at: Instant::now(), server: server.number, over, query };
        self.seen.borrow_mut().push(seen.clone());
        (self.script.borrow_mut())(&seen)
    }
}

/// Aborts its tasks when it is dropped, as a socket forgets a question.
struct Tasks(Vec<tokio::task::JoinHandle<()>>);

impl Drop for Tasks {
    fn drop(&mut self) {
        self.0.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

impl Carrier for Network {
    fn datagram(
        &self,
        server: &Arc<Server>,
        query: Vec<u8>,
        _: &[u8],
        arrivals: Arrivals,
    ) -> io::Result<Ticket> {
        let replies = self.carry(server, Transport::Udp, query);
        let task = |(after, arrival)| {
            let arrivals = arrivals.clone();
            tokio::task::spawn_local(async move {
                sleep(after).await;
                arrivals.tell(arrival);
            })
        };
        Ok(Box::new(Tasks(replies.into_iter().map(task).collect())))
    }

    fn stream(&self, server: &Arc<Server>, query: Vec<u8>, _: Vec<u8>) -> Reply {
        let first = self.carry(server, Transport::Tcp, query).into_iter().next();
        Box::pin(async move {
            match first {
                Some((after, arrival)) => {
                    sleep(after).await;
                    match arrival {
                        Arrival::Reply(message) => Ok(message),
                        _ => Err(io::ErrorKind::ConnectionRefused.into()),
                    }
                }
                None => std::future::pending().await,
            }
        })
    }
}

/// Zones with one zone, the root, of so many servers.
pub fn zones(servers: usize) -> Zones {
    zones_with(servers, "none")
}

/// The same with a budget that all servers share.
pub fn zones_with(servers: usize, budget: &str) -> Zones {
    let mut zones = Zones::new([Name::ROOT], vec![]);
    let budget = Budget::from_text(budget).unwrap();
    zones.plan(&Name::ROOT, Plan { budget, group: Some("all".into()) });
    let members = (0..servers).map(endpoint).collect();
    zones.set(&Name::ROOT, &Endpoints { members, last_resort: vec![] });
    zones
}

/// Where the server of this number is.
pub fn endpoint(number: usize) -> Endpoint {
    let addr = SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), 5000 + number as u16));
    Endpoint::plain(Transport::Udp, addr)
}

/// Runs a test with local tasks.
pub async fn local<T>(test: impl Future<Output = T>) -> T {
    tokio::task::LocalSet::new().run_until(test).await
}
