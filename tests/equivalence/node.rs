//! A node under virtual time, and how its clients reach it.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use nodens::cache::ttl::Caps;
use nodens::cache::{Cache, Size};
use nodens::clock::Clock;
use nodens::observe::cells::{Cells, Event, Sum};
use nodens::query::Proto;
use nodens::resolve::hit::Outcome as Answered;
use nodens::resolve::learning::{self, Scribe};
use nodens::resolve::{Client, Resolver, Shared, cookie, miss, prefetch};
use nodens::search::list::Suffixes;
use nodens::search::{Mode, Search};
use nodens::upstream::admission::{Flights, Gate};
use nodens::upstream::health::{Endpoint, Transport};
use nodens::upstream::zones::{Endpoints, Zones};
use nodens::upstream::{Upstreams, loops};
use nodens::wire::header::{Flags, Header};
use nodens::wire::name::Name;
use nodens::wire::question::Question as Asked;
use nodens::wire::record::Record;

use crate::models::{Outcome, Over, Question, Reply, Server, rcode};
use crate::network::Network;
use crate::world::{self, LookUp, ZONE};

/// Datagrams without EDNS (RFC 1035 section 4.2.1), and what a buffer for a stream must hold.
const PLAIN_UDP: usize = 512;
const LARGEST: usize = 65_535;

/// Of a denial and a failure, one for each family, that which comes last decides for Go and c-ares: here always the failure,
/// whatever was in the cache. Longer than a round trip, over TCP too.
const FAILURES_COME_LATE: Duration = Duration::from_millis(20);

/// Two workers, between which the questions of one look-up fall as their ports will have it.
pub struct Node {
    workers: Rc<[Rc<Resolver>; 2]>,
    turn: Rc<Cell<usize>>,
    shared: Arc<Shared>,
    scribe: Scribe,
    tally: Tally,
    uneven: usize,
}

/// How clients reach the node.
#[derive(Clone)]
struct Door {
    workers: Rc<[Rc<Resolver>; 2]>,
    turn: Rc<Cell<usize>>,
    client: SocketAddr,
    seen: Rc<RefCell<Seen>>,
}

/// What one look-up asked: of each question over UDP how often, and how often it was answered.
#[derive(Default)]
struct Seen {
    datagrams: HashMap<(String, usize), (u64, u64)>,
    /// Names of which a family was answered with the end of the search, and names of which one was denied.
    composed: HashSet<String>,
    denied: HashSet<String>,
    tally: Tally,
}

/// What clients had to do.
#[derive(Clone, Copy, Default)]
pub struct Tally {
    /// Questions asked again for want of an answer in time.
    pub timeouts: u64,
    /// Questions asked again over UDP because of their answers.
    pub retries: u64,
    /// Questions over TCP.
    pub streams: u64,
}

impl Node {
    pub fn new(mode: Mode, network: &Network) -> Node {
        let name = |text| Name::from_text(text).unwrap();
        let hosts = world::HOSTS.map(name);
        let addr = SocketAddr::from(([192, 0, 2, 53], 53));
        let zones = Zones::new([Name::ROOT], vec![]);
        let members = vec![Endpoint::plain(Transport::Udp, addr)];
        zones.set(&Name::ROOT, &Endpoints { members, last_resort: vec![] });
        let day = Duration::from_secs(86_400);
        let caps = Caps { positive: day, negative: Duration::from_secs(3600), stale: day };
        let size = Size { store_bytes: 1 << 20, hot_entries: 256, hot_bytes: 1 << 18 };
        let shared = Arc::new(Shared {
            cache: Cache::new(size, caps),
            upstreams: Upstreams { zones, nonces: loops::Nonces::default() },
            flights: Arc::new(Flights::default()),
            walks: Arc::new(Flights::default()),
            search: Search::new(mode, Suffixes::new(name(ZONE), &hosts).unwrap(), false),
            waiting: Arc::new(Gate::new(1000, 1000)),
            late: Arc::new(Gate::new(1000, 1000)),
            clock: Clock::start(),
            cookies: cookie::Secret::new([7; 16]),
        });
        let (notebooks, scribe, _requeries) = learning::pair(2);
        let workers: Vec<_> = notebooks
            .into_iter()
            .map(|notebook| {
                Rc::new(Resolver {
                    shared: Arc::clone(&shared),
                    carrier: Box::new(network.clone()),
                    cells: Arc::default(),
                    notebook: Some(notebook),
                })
            })
            .collect();
        let Ok(workers) = workers.try_into() else { panic!("two workers") };
        Node {
            workers: Rc::new(workers),
            turn: Rc::default(),
            shared,
            scribe,
            tally: Tally::default(),
            uneven: 0,
        }
    }

    pub async fn look_up(&mut self, client: &world::Client, look_up: &LookUp) -> Outcome {
        let door = Door {
            workers: Rc::clone(&self.workers),
            turn: Rc::clone(&self.turn),
            client: SocketAddr::new(client.address, 4000),
            seen: Rc::default(),
        };
        let outcome = client.libc.look_up(&look_up.name(), &client.conf, &door).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
        self.scribe.turn(&self.shared);
        let seen = door.seen.borrow();
        self.uneven += seen.composed.intersection(&seen.denied).count();
        let Tally { timeouts, retries, streams } = seen.tally;
        self.tally.timeouts += timeouts;
        self.tally.retries += retries;
        self.tally.streams += streams;
        outcome
    }

    /// Walks that ended with a composed answer.
    pub fn composed(&self) -> u64 {
        let cells: Vec<Arc<Cells>> = self.workers.iter().map(|worker| Arc::clone(&worker.cells)).collect();
        Sum(&cells).events(Event::SearchComposed)
    }

    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// Names of which one family was composed and the other denied in one look-up: whoever believes the denial does
    /// without addresses that there are.
    pub fn uneven(&self) -> usize {
        self.uneven
    }
}

impl Door {
    /// Any worker may get a question.
    fn worker(&self) -> Rc<Resolver> {
        let turn = self.turn.get();
        self.turn.set(turn.wrapping_mul(5).wrapping_add(3));
        Rc::clone(&self.workers[turn >> 1 & 1])
    }
}

impl Server for Door {
    async fn ask(&self, question: Question) -> Option<Reply> {
        let packet = packet(&question);
        let (proto, room) = match question.over {
            Over::Udp => (Proto::Udp, question.edns.map_or(PLAIN_UDP, usize::from)),
            Over::Tcp => (Proto::Tcp, LARGEST),
        };
        let key = (question.name, question.family);
        self.seen.borrow_mut().asked(&key, question.over);
        let (resolver, mut out) = (self.worker(), vec![0; room]);
        let client = Client { addr: self.client, proto };
        let answered = resolver.answer(&packet, client, &resolver.batch(), &mut out);
        let message = match answered {
            Answered::Reply(length) => out[..length].to_vec(),
            Answered::ReplyAndPrefetch(length, prefetch) => {
                tokio::task::spawn_local(prefetch::ahead(resolver, prefetch));
                out[..length].to_vec()
            }
            Answered::Silence => panic!("silence"),
            Answered::Miss(missed) => miss::answer(resolver, missed).await,
        };
        let reply = read(&message);
        self.seen.borrow_mut().told(&key.0, &message, reply.rcode);
        if !matches!(reply.rcode, rcode::NOERROR | rcode::NXDOMAIN) {
            tokio::time::sleep(FAILURES_COME_LATE).await;
        }
        self.seen.borrow_mut().answered(&key, question.over);
        Some(reply)
    }
}

impl Seen {
    fn asked(&mut self, key: &(String, usize), over: Over) {
        if over == Over::Tcp {
            self.tally.streams += 1;
            return;
        }
        let (asked, answered) = self.datagrams.entry(key.clone()).or_default();
        self.tally.timeouts += u64::from(asked > answered);
        self.tally.retries += u64::from(*asked > 0 && asked == answered);
        *asked += 1;
    }

    fn told(&mut self, name: &str, message: &[u8], rcode: u8) {
        if let Some(base) = alias(message).and_then(|target| base(&target.to_string()).map(String::from))
            && name.starts_with(&base)
        {
            self.composed.insert(name.into());
        } else if rcode == rcode::NXDOMAIN {
            self.denied.insert(name.into());
        }
    }

    fn answered(&mut self, key: &(String, usize), over: Over) {
        if over == Over::Udp
            && let Some((_, answered)) = self.datagrams.get_mut(key)
        {
            *answered += 1;
        }
    }
}

/// What the question is an alias for.
fn alias(message: &[u8]) -> Option<Name> {
    let record = Record::read(message, Asked::read(message)?.end())?;
    (Header::read(message)?.answers > 0 && record.rtype == 5).then(|| record.target(message))?
}

/// The base of a candidate.
fn base(candidate: &str) -> Option<&str> {
    let candidate = candidate.strip_suffix('.')?;
    let candidate = candidate.strip_suffix(".cluster.local").unwrap_or(candidate);
    Some(candidate.strip_suffix(".svc").unwrap_or(candidate))
}

/// A question in octets.
fn packet(question: &Question) -> Vec<u8> {
    let name = Name::from_text(&question.name).unwrap();
    let qtype = [1u16, 28][question.family];
    let mut packet = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    packet.extend_from_slice(name.as_wire());
    packet.extend_from_slice(&qtype.to_be_bytes());
    packet.extend_from_slice(&[0, 1]);
    if let Some(size) = question.edns {
        packet[11] = 1;
        packet.extend_from_slice(&[0, 0, 41]);
        packet.extend_from_slice(&size.to_be_bytes());
        packet.extend_from_slice(&[0; 6]);
    }
    packet
}

/// A reply as a stub resolver reads it: the addresses at the end of the aliases that begin at the question.
fn read(message: &[u8]) -> Reply {
    let (header, question) = (Header::read(message).unwrap(), Asked::read(message).unwrap());
    let mut at = question.end();
    let mut owner = Name::from_wire(question.qname()).unwrap();
    let mut addresses = Vec::new();
    for _ in 0..header.answers {
        let record = Record::read(message, at).unwrap();
        at = record.rdata.end;
        assert!(record.owner == owner, "an answer out of its chain");
        let data = &message[record.rdata.clone()];
        match record.rtype {
            5 => owner = record.target(message).unwrap(),
            1 => addresses.push(<[u8; 4]>::try_from(data).unwrap().into()),
            _ => addresses.push(<[u8; 16]>::try_from(data).unwrap().into()),
        }
    }
    Reply {
        rcode: header.flags.rcode().0 as u8,
        truncated: header.flags.has(Flags::TC),
        repeats_question: true,
        has_answers: header.answers > 0,
        addresses,
        strays: vec![],
    }
}
