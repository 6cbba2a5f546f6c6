//! What was written, and what it means: every default and bound of the configuration.
//!
//! [`raw`] is a file or a command line as written, each value with its place. [`check`] turns it into a [`Config`],
//! after which nothing is checked again. A later layer (flags, environment) replaces an earlier one (the file)
//! value by value, forward zones zone by zone.

pub mod check;
pub mod error;
mod plans;
pub mod raw;
pub mod resolv_conf;
pub mod show;
pub mod units;
mod urls;

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use crate::limits;
use crate::search::Mode;
use crate::search::list::Suffixes;
use crate::upstream::budget::{Budget, Plan};
use crate::upstream::headless::{self, Service};
use crate::upstream::health::Endpoint;
use crate::upstream::zones::Endpoints;
use crate::wire::name::Name;

/// A checked configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Addresses to serve on, UDP and TCP each.
    pub listen: Vec<SocketAddr>,
    /// Worker threads.
    pub workers: usize,
    /// Bytes of the store.
    pub cache_bytes: u64,
    /// The longest a positive answer is used.
    pub max_ttl: Duration,
    /// The longest a denial is used.
    pub max_negative_ttl: Duration,
    /// How long past its end an answer may be given where nothing newer can be had; zero: never.
    pub max_stale: Duration,
    /// Whose searches are cut short.
    pub search: Mode,
    /// The suffixes that clients search.
    pub suffixes: Suffixes,
    /// The host's own domains are those of `/etc/resolv.conf`, whatever they become.
    pub follows_host: bool,
    /// A name that is denied denies all names below it, inside a namespace.
    pub denial_cut: bool,
    /// Where the admin pages are, if anywhere.
    pub admin: Option<SocketAddr>,
    /// The file with the authorities that vouch for servers inside TLS, where a zone has none of its own.
    pub ca_file: Option<String>,
    /// Which servers are asked for which names; always one for the root.
    pub forward: Vec<Forward>,
}

/// Where a zone's servers are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    /// The zone.
    pub zone: Name,
    /// At least one.
    pub upstreams: Vec<Upstream>,
    /// The file with the authorities that vouch for its servers inside TLS.
    pub ca_file: Option<String>,
    /// What may be sent to its servers.
    pub plan: Plan,
}

impl Forward {
    /// Budgets with a limit that its servers have, at most: their names, or how many without one.
    fn budgets(&self) -> (Option<&str>, usize) {
        let of = |upstream: &Upstream| match upstream {
            Upstream::Server(_) => 1,
            Upstream::ResolvConf(_) => resolv_conf::MAX_SERVERS,
            Upstream::Headless(service) => headless::MAX_MEMBERS + service.bootstrap.len(),
        };
        match (&self.plan.group, self.plan.budget) {
            (_, Budget::Unlimited) => (None, 0),
            (Some(name), _) => (Some(name), 1),
            (None, _) => (None, self.upstreams.iter().map(of).sum()),
        }
    }
}

/// Where servers are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Upstream {
    /// One server.
    Server(Endpoint),
    /// The nameservers of the host's `resolv.conf`, whatever they become; those that it had when it was read.
    ResolvConf(Vec<Endpoint>),
    /// The addresses of a headless Service, whatever they become.
    Headless(Box<Service>),
}

/// As it is written in a configuration.
impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Upstream::Server(endpoint) => endpoint.fmt(f),
            Upstream::ResolvConf(_) => f.write_str(check::RESOLV_CONF),
            Upstream::Headless(service) => service.fmt(f),
        }
    }
}

impl Upstream {
    /// The servers that are known from the start.
    pub fn endpoints(&self) -> Endpoints {
        match self {
            Upstream::Server(endpoint) => Endpoints { members: vec![endpoint.clone()], last_resort: vec![] },
            Upstream::ResolvConf(members) => Endpoints { members: members.clone(), last_resort: vec![] },
            Upstream::Headless(service) => Endpoints { members: vec![], last_resort: service.bootstrap() },
        }
    }
}

/// A file of at most so many octets.
fn read(path: &Path, most: u64) -> Result<Vec<u8>, String> {
    let mut octets = Vec::new();
    let file = File::open(path).map_err(|error| error.to_string())?;
    file.take(most + 1).read_to_end(&mut octets).map_err(|error| error.to_string())?;
    match octets.len() as u64 > most {
        true => Err(format!("longer than {}", limits::bytes_text(most))),
        false => Ok(octets),
    }
}

impl Config {
    /// What of it costs memory.
    pub fn settings(&self) -> limits::Settings {
        let upstreams = || self.forward.iter().flat_map(|forward| &forward.upstreams);
        let mut servers: Vec<&Endpoint> = Vec::new();
        let (mut many, mut bootstraps) = (0, 0);
        for upstream in upstreams() {
            match upstream {
                Upstream::Server(endpoint) if !servers.contains(&endpoint) => servers.push(endpoint),
                Upstream::Server(_) | Upstream::ResolvConf(_) => {}
                Upstream::Headless(service) => {
                    many += headless::MAX_MEMBERS;
                    bootstraps += service.bootstrap.len();
                }
            }
        }
        if upstreams().any(|upstream| matches!(upstream, Upstream::ResolvConf(_))) {
            many += resolv_conf::MAX_SERVERS;
        }
        let encrypted = |endpoint: &&&Endpoint| endpoint.identity.is_some();
        let encrypted_servers = servers.iter().filter(encrypted).count();
        let budgets = self.forward.iter().map(Forward::budgets);
        let named: std::collections::HashSet<&str> = budgets.clone().filter_map(|(name, _)| name).collect();
        let unnamed = budgets.filter(|(name, _)| name.is_none()).map(|(_, count)| count).sum::<usize>();
        limits::Settings {
            budgets: (named.len() + unnamed) as u64,
            workers: self.workers as u64,
            listen: self.listen.len() as u64,
            plain_servers: (servers.len() - encrypted_servers + many + bootstraps) as u64,
            encrypted_servers: encrypted_servers as u64,
            bootstraps: bootstraps as u64,
            cache_bytes: self.cache_bytes,
            sockets_per_server: crate::upstream::udp::MAX_SOCKETS as u64,
            connections_per_server: crate::upstream::streams::MAX_OPEN as u64,
        }
    }
}
