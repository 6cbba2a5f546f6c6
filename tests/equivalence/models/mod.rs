//! Stub resolvers as their public sources and their behaviour on the wire show them: what each asks, how often it asks
//! again and how, what it makes of the answers, and what its program gets in the end.
//!
//! `tests/it/libraries.rs` holds them against the real ones. All are as they start: one look-up, A and AAAA at once, one
//! server. What some remember from one look-up to the next (glibc: to ask one after the other) is left out.

mod c_ares;
mod glibc;
mod go;
mod musl;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

/// The code of an answer.
pub mod rcode {
    pub const NOERROR: u8 = 0;
    pub const SERVFAIL: u8 = 2;
    pub const NXDOMAIN: u8 = 3;
    pub const NOTIMP: u8 = 4;
    pub const REFUSED: u8 = 5;
}

/// How a question goes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Over {
    Udp,
    Tcp,
}

/// A question as it leaves a stub resolver.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Question {
    pub name: String,
    /// A or AAAA, in this order wherever two of something stand for a name.
    pub family: usize,
    pub over: Over,
    /// The size of datagrams that its OPT allows, if it has one.
    pub edns: Option<u16>,
}

/// An answer as a stub resolver reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The response code.
    pub rcode: u8,
    /// The bit TC.
    pub truncated: bool,
    /// The question section is the question's.
    pub repeats_question: bool,
    /// The answer section has records.
    pub has_answers: bool,
    /// Addresses at the end of the aliases that begin at the question.
    pub addresses: Vec<IpAddr>,
    /// Addresses of other names.
    pub strays: Vec<IpAddr>,
}

impl Reply {
    /// Addresses for whoever does not look at owners.
    fn all(&self) -> impl Iterator<Item = IpAddr> {
        self.addresses.iter().chain(&self.strays).copied()
    }
}

/// Whoever answers.
pub trait Server: Clone + 'static {
    /// The answer; nothing where the network refuses the question. Silence is to wait for ever.
    fn ask(&self, question: Question) -> impl Future<Output = Option<Reply>>;
}

/// What a program gets.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// These addresses.
    Addresses(BTreeSet<IpAddr>),
    /// There is no such name, or it has no address.
    NotFound,
    /// Try again later, or never.
    Failed,
}

impl Outcome {
    fn found(addresses: impl Iterator<Item = IpAddr>) -> Outcome {
        let addresses: BTreeSet<IpAddr> = addresses.collect();
        if addresses.is_empty() { Outcome::NotFound } else { Outcome::Addresses(addresses) }
    }
}

/// What a step means for the search.
enum Step {
    End(Outcome),
    On,
}

/// What a stub resolver takes from its resolv.conf.
#[derive(Clone, Debug)]
pub struct Conf {
    /// The search list.
    pub suffixes: Vec<String>,
    /// Names with so many dots are asked as they are first.
    pub ndots: usize,
    /// How long it waits; each library has its own idea of what for.
    pub timeout: Duration,
    /// How often it asks; each library has its own idea of what.
    pub attempts: u32,
}

/// A stub resolver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Libc {
    Glibc,
    /// musl before 1.2.4, which has no TCP.
    OldMusl,
    Musl,
    Go,
    CAres,
}

impl Libc {
    /// What it waits and how often it asks where its resolv.conf does not say.
    pub fn patience(self) -> (Duration, u32) {
        (Duration::from_secs(5), if self == Libc::CAres { 4 } else { 2 })
    }

    /// Resolves a name.
    pub async fn look_up(self, name: &str, conf: &Conf, server: &impl Server) -> Outcome {
        let names = Names::new(name, conf);
        match self {
            Libc::Glibc => glibc::look_up(&names, conf, server).await,
            Libc::OldMusl => musl::look_up(&names, conf, server, false).await,
            Libc::Musl => musl::look_up(&names, conf, server, true).await,
            Libc::Go => go::look_up(&names, conf, server).await,
            Libc::CAres => c_ares::look_up(&names, conf, server).await,
        }
    }
}

/// What a name is asked as.
struct Names {
    bare: String,
    /// Under each suffix; nothing for a name with a final dot.
    searched: Vec<String>,
    /// The name has dots enough to be asked as it is first.
    bare_first: bool,
}

impl Names {
    fn new(name: &str, conf: &Conf) -> Names {
        if let Some(bare) = name.strip_suffix('.') {
            return Names { bare: bare.to_string(), searched: vec![], bare_first: true };
        }
        Names {
            bare: name.to_string(),
            searched: conf.suffixes.iter().map(|suffix| format!("{name}.{suffix}")).collect(),
            bare_first: name.matches('.').count() >= conf.ndots,
        }
    }

    /// All of them in order, and whether each is the bare one.
    fn in_order(&self) -> impl Iterator<Item = (&str, bool)> {
        let bare = || std::iter::once((self.bare.as_str(), true));
        let (before, after) = (self.bare_first.then(bare), (!self.bare_first).then(bare));
        let searched = self.searched.iter().map(|name| (name.as_str(), false));
        before.into_iter().flatten().chain(searched).chain(after.into_iter().flatten())
    }
}

/// What came back: the family, how it was asked, the answer.
type Arrival = (usize, Over, Option<Reply>);

/// Where the answers to one step arrive, those to earlier attempts too, for as long as it is open.
struct Socket<S> {
    server: S,
    name: String,
    edns: Option<u16>,
    arrived: mpsc::UnboundedSender<Arrival>,
    arrivals: mpsc::UnboundedReceiver<Arrival>,
}

impl<S: Server> Socket<S> {
    fn open(server: &S, name: &str, edns: Option<u16>) -> Socket<S> {
        let (arrived, arrivals) = mpsc::unbounded_channel();
        Socket { server: server.clone(), name: name.to_string(), edns, arrived, arrivals }
    }

    /// Asks for a family; whoever closes the socket before the answer comes has asked all the same.
    fn send(&self, family: usize, over: Over) {
        let question = Question { name: self.name.clone(), family, over, edns: self.edns };
        let (server, arrived) = (self.server.clone(), self.arrived.clone());
        tokio::task::spawn_local(async move {
            let reply = server.ask(question).await;
            let _ = arrived.send((family, over, reply));
        });
    }

    /// The next answer, if it comes in time.
    async fn next(&mut self, deadline: Instant) -> Option<Arrival> {
        timeout_at(deadline, self.arrivals.recv()).await.ok().flatten()
    }
}
