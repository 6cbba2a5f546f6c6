//! The addresses of a headless Service as the servers of a zone: the pods themselves, with no proxy of the cluster between.
//!
//! Whoever leaves the answer for its name is asked nothing more from that moment, before it goes away. The name is asked of its
//! bootstrap servers alone, which are also the last resort: they lead to the same pods, by way of the cluster.
//! [`Members`] decides, [`follow`] waits.

use std::fmt;
use std::hash::BuildHasher;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use foldhash::fast::FixedState;
use tokio::time::{Instant, sleep_until};

use super::exchange;
use super::health::{Endpoint, Transport};
use super::sources::Heard;
use super::standing::{Standing, Waiter};
use super::zones::{Servers, Zone, Zones};
use super::{Carrier, Class, Failure, Question};
use crate::wire::answer::{Answer, Kind};
use crate::wire::header::Header;
use crate::wire::iana::{CLASS_IN, rtype};
use crate::wire::name::Name;
use crate::wire::question;
use crate::wire::record::Record;

/// Members that are used; of more every node takes its own choice. A cluster has one pod for its DNS to 16 nodes or 256
/// cores by the usual rule, so 64 serve a thousand nodes, and four times 16 sockets a worker is what they cost.
pub const MAX_MEMBERS: usize = 64;
/// The name is asked this often at least, whatever its TTL.
const LONGEST: Duration = Duration::from_secs(5);
/// And not more often, whatever its TTL; also after a failure.
const SHORTEST: Duration = Duration::from_secs(1);
/// After a member began to fail the name is asked at once, if it was not asked within this.
const AGAIN: Duration = Duration::from_millis(500);

/// A headless Service as it is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// The name whose addresses are the members.
    pub name: Name,
    /// Their port.
    pub port: u16,
    /// Who is asked for the name, at least one.
    pub bootstrap: Vec<SocketAddr>,
}

impl Service {
    /// The bootstrap servers.
    pub fn bootstrap(&self) -> Vec<Endpoint> {
        self.bootstrap.iter().map(|addr| Endpoint::plain(Transport::Udp, *addr)).collect()
    }
}

/// As it is written in a configuration.
impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "headless://{}:{}", self.name.to_string().trim_end_matches('.'), self.port)?;
        for (index, addr) in self.bootstrap.iter().enumerate() {
            write!(f, "{}bootstrap={addr}", if index == 0 { '?' } else { '&' })?;
        }
        Ok(())
    }
}

/// What was said about the addresses of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// These are they, for so many seconds.
    Addresses(Vec<IpAddr>, u32),
    /// There are none.
    Nothing,
    /// Nobody knows.
    Failed,
}

/// The members and when to ask for them again.
#[derive(Debug)]
pub struct Members {
    families: [Vec<IpAddr>; 2],
    chosen: Vec<IpAddr>,
    asked: Instant,
    ask_at: Instant,
    seed: u64,
}

impl Members {
    /// None are known, and it is time to ask. Of too many the seed chooses.
    pub fn new(now: Instant, seed: u64) -> Members {
        Members { families: Default::default(), chosen: vec![], asked: now, ask_at: now, seed }
    }

    /// When to ask next.
    pub fn ask_at(&self) -> Instant {
        self.ask_at
    }

    /// They are being asked for.
    pub fn asks(&mut self, now: Instant) {
        self.asked = now;
    }

    /// A member began to fail: it may have gone.
    pub fn member_failed(&mut self, now: Instant) {
        self.ask_at = self.ask_at.min(now.max(self.asked + AGAIN));
    }

    /// Takes an answer: what was said of IPv4 and of IPv6. A family of which nobody knows stays as it was, and so do both where
    /// there is no address in it: a Service whose pods are all about to be ready has none either.
    pub fn heard(&mut self, said: [Said; 2], now: Instant, random: u32) -> Heard {
        let ttl = said.iter().filter_map(|said| match said {
            Said::Addresses(_, ttl) => Some(Duration::from_secs(u64::from(*ttl))),
            Said::Nothing => None,
            Said::Failed => Some(SHORTEST),
        });
        let interval = ttl.min().unwrap_or(LONGEST).clamp(SHORTEST, LONGEST);
        // Up to a quarter less, so that nodes that began together do not go on together.
        let part = 1.0 - f64::from(random) / f64::from(u32::MAX) / 4.0;
        self.ask_at = now + interval.mul_f64(part);

        let mut families = self.families.clone();
        for (family, said) in families.iter_mut().zip(&said) {
            match said {
                Said::Addresses(addresses, _) => *family = addresses.clone(),
                Said::Nothing => family.clear(),
                Said::Failed => {}
            }
        }
        let chosen = self.choose(&families);
        if chosen.is_empty() || !said.iter().any(|said| matches!(said, Said::Addresses(..))) {
            return Heard::Kept;
        }
        self.families = families;
        if chosen == self.chosen {
            return Heard::Same;
        }
        self.chosen = chosen;
        Heard::Changed
    }

    /// At most [`MAX_MEMBERS`], in order. Which, does not depend on who else is there: one that comes or goes moves no other
    /// than itself and the one at the bound.
    fn choose(&self, families: &[Vec<IpAddr>; 2]) -> Vec<IpAddr> {
        let usable = |ip: &&IpAddr| !ip.is_unspecified() && !ip.is_multicast();
        let mut all: Vec<IpAddr> = families.iter().flatten().filter(usable).copied().collect();
        all.sort_unstable();
        all.dedup();
        if all.len() > MAX_MEMBERS {
            let hasher = FixedState::with_seed(self.seed);
            all.sort_by_cached_key(|ip| hasher.hash_one(ip));
            all.truncate(MAX_MEMBERS);
            all.sort_unstable();
        }
        all
    }

    /// The members as servers.
    pub fn endpoints(&self, port: u16) -> Vec<Endpoint> {
        self.chosen.iter().map(|ip| Endpoint::plain(Transport::Udp, SocketAddr::new(*ip, port))).collect()
    }
}

/// Follows a Service whose members are servers of this zone, and gives each set to `publish` and what came of each answer to
/// `count`.
pub async fn follow(
    service: Service,
    zones: &Zones,
    zone: &Name,
    carrier: &dyn Carrier,
    mut publish: impl FnMut(Vec<Endpoint>),
    mut count: impl FnMut(Heard),
) {
    let mut members = Members::new(Instant::now(), rand::random());
    let mut failures = zones.failures_begun(zone);
    loop {
        while members.ask_at() > Instant::now() {
            // Made before it is looked, so that no word is lost between.
            let told = zones.failure_begins();
            let begun = zones.failures_begun(zone);
            if begun != std::mem::replace(&mut failures, begun) {
                members.member_failed(Instant::now());
            }
            tokio::select! {
                () = told => {}
                () = sleep_until(members.ask_at()) => {}
            }
        }
        members.asks(Instant::now());
        let bootstrap = zones.named(zone, &service.bootstrap());
        let bootstrap = Zone::new(service.name, Servers { members: bootstrap, last_resort: vec![] });
        let ask = async |rtype: u16| {
            let question = question_of(&service.name, rtype);
            // All of a zone's questions wait for it.
            let standing = Standing::of(Waiter::ourselves(Class::Client));
            said(exchange::ask(carrier, &bootstrap, &question, &standing).await, rtype)
        };
        let (v4, v6) = tokio::join!(ask(rtype::A), ask(rtype::AAAA));
        let heard = members.heard([v4, v6], Instant::now(), rand::random());
        count(heard);
        if heard == Heard::Changed {
            publish(members.endpoints(service.port));
            failures = zones.failures_begun(zone);
        }
    }
}

fn question_of(name: &Name, rtype: u16) -> Question {
    let octets = [name.to_lower().as_wire(), &rtype.to_be_bytes(), &CLASS_IN.to_be_bytes()].concat();
    Question { octets: octets.into(), dnssec_ok: false, checking_disabled: false }
}

/// What an answer says about the addresses of this type.
fn said(answer: Result<Answer, Failure>, rtype: u16) -> Said {
    let Ok(answer) = answer else { return Said::Failed };
    match answer.kind {
        Kind::NoData | Kind::NxDomain => Said::Nothing,
        Kind::Failure => Said::Failed,
        Kind::Data => Said::Addresses(addresses(&answer.wire, rtype), answer.answer_ttl.unwrap_or(0)),
    }
}

fn addresses(wire: &[u8], rtype: u16) -> Vec<IpAddr> {
    let count = Header::read(wire).map_or(0, |header| header.answers);
    let mut at = question::Question::read(wire).map_or(0, |question| question.end());
    let mut found = Vec::new();
    for _ in 0..count {
        let Some(record) = Record::read(wire, at) else { break };
        at = record.rdata.end;
        let rdata = wire.get(record.rdata).filter(|_| record.rtype == rtype);
        match rdata {
            Some(&[a, b, c, d]) => found.push(IpAddr::from([a, b, c, d])),
            Some(rdata) => found.extend(<[u8; 16]>::try_from(rdata).ok().map(IpAddr::from)),
            None => {}
        }
    }
    found
}

#[cfg(test)]
#[path = "headless_tests.rs"]
mod tests;
