//! What was written, and what it means: every default and bound of the configuration.
//!
//! [`raw`] is a file or a command line as written, each value with its place. [`check`] turns it into a [`Config`],
//! after which nothing is checked again. A later layer (flags, environment) replaces an earlier one (the file)
//! value by value, forward zones zone by zone.

pub mod check;
pub mod error;
pub mod raw;
pub mod show;
pub mod units;

use std::net::SocketAddr;
use std::time::Duration;

use crate::limits;
use crate::search::Mode;
use crate::search::list::Suffixes;
use crate::upstream::health::Endpoint;
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
    /// Which servers are asked for which names; always one for the root.
    pub forward: Vec<Forward>,
}

/// The servers of a zone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    /// The zone.
    pub zone: Name,
    /// Its servers, at least one.
    pub servers: Vec<Endpoint>,
}

impl Config {
    /// What of it costs memory.
    pub fn settings(&self) -> limits::Settings {
        let mut servers: Vec<Endpoint> =
            self.forward.iter().flat_map(|forward| forward.servers.clone()).collect();
        servers.sort_by_key(|server| (server.addr, server.transport as u8));
        servers.dedup();
        limits::Settings {
            workers: self.workers as u64,
            listen: self.listen.len() as u64,
            servers: servers.len() as u64,
            cache_bytes: self.cache_bytes,
            sockets_per_server: crate::upstream::udp::POOL as u64,
            connections_per_server: crate::upstream::streams::MAX_OPEN as u64,
        }
    }
}
