//! The lab: a cluster DNS and an internet to try nodens on, served by hickory-server, with faults on demand.
//!
//! [`cluster`] and [`internet`] say what is answered, as functions of name and type; [`faults`] decides what goes
//! wrong; [`server`] puts both behind sockets; [`counts`] remembers what was asked. It never asks anybody else.

pub mod admin;
pub mod cluster;
pub mod counts;
pub mod faults;
pub mod internet;
pub mod server;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_server::Server;
use hickory_server::proto::rr::{Name, Record};
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinHandle;

use counts::{Counts, Snapshot};
use faults::Faults;
use server::{Handler, Side};

/// What a lab is made of.
#[derive(Clone, Debug)]
pub struct Options {
    /// Address of the cluster DNS; port 0 takes a free one.
    pub cluster: SocketAddr,
    /// Address of the internet.
    pub internet: SocketAddr,
    /// Address of the pages with the counts.
    pub admin: Option<SocketAddr>,
    /// The zone of the cluster.
    pub cluster_domain: Name,
    /// What goes wrong.
    pub faults: Faults,
}

/// An address that the lab cannot have.
#[derive(Debug, thiserror::Error)]
#[error("the lab cannot serve {what} on {addr}: {error}; choose another address with --{what}")]
pub struct LabError {
    what: &'static str,
    addr: SocketAddr,
    error: io::Error,
}

/// A running lab.
pub struct Lab {
    cluster: SocketAddr,
    internet: SocketAddr,
    admin: Option<SocketAddr>,
    counts: Arc<Counts>,
    servers: Vec<Server<Handler>>,
    pages: Option<JoinHandle<io::Result<()>>>,
}

impl Lab {
    /// Starts it in the runtime that this is called in.
    ///
    /// # Errors
    /// The first address that cannot be had.
    pub async fn start(options: Options) -> Result<Lab, LabError> {
        let counts = Arc::new(Counts::default());
        let cluster = Side::Cluster(cluster::Zone::new(&options.cluster_domain));
        let sides = [("cluster", options.cluster, cluster), ("internet", options.internet, Side::Internet)];
        let mut servers = Vec::new();
        let mut addrs = Vec::new();
        for (what, addr, side) in sides {
            let handler = Handler::new(what, side, options.faults, Arc::clone(&counts));
            let (server, addr) =
                serve(addr, handler).await.map_err(|error| LabError { what, addr, error })?;
            servers.push(server);
            addrs.push(addr);
        }
        let mut admin = None;
        let mut pages = None;
        if let Some(addr) = options.admin {
            let error = |error| LabError { what: "admin", addr, error };
            let listener = TcpListener::bind(addr).await.map_err(error)?;
            admin = Some(listener.local_addr().map_err(error)?);
            pages = Some(tokio::spawn(admin::serve(listener, Arc::clone(&counts))));
        }
        let (cluster, internet) = match addrs[..] {
            [cluster, internet] => (cluster, internet),
            _ => (options.cluster, options.internet),
        };
        Ok(Lab { cluster, internet, admin, counts, servers, pages })
    }

    /// Where the cluster DNS is.
    pub fn cluster_addr(&self) -> SocketAddr {
        self.cluster
    }

    /// Where the internet is.
    pub fn internet_addr(&self) -> SocketAddr {
        self.internet
    }

    /// Where the counts are shown.
    pub fn admin_addr(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// What has been asked so far.
    pub fn counts(&self) -> Snapshot {
        self.counts.snapshot()
    }

    /// Stops it.
    pub async fn stop(mut self) {
        for server in &mut self.servers {
            let _ = server.shutdown_gracefully().await;
        }
        if let Some(pages) = self.pages {
            pages.abort();
        }
    }
}

/// How long a client's TCP connection may be idle.
const IDLE: Duration = Duration::from_secs(10);
/// Replies that may wait on one connection.
const REPLIES: usize = 64;

/// Ports that the system offers for datagrams and that somebody has for connections, before it is given up.
const OFFERS: usize = 32;

/// Both sockets of an address; port 0 is one that is free for both.
async fn bind(addr: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    let mut offers = if addr.port() == 0 { OFFERS } else { 1 };
    loop {
        let udp = UdpSocket::bind(addr).await?;
        offers -= 1;
        match TcpListener::bind(udp.local_addr()?).await {
            Ok(tcp) => return Ok((udp, tcp)),
            Err(error) if offers == 0 => return Err(error),
            Err(_) => {}
        }
    }
}

async fn serve(addr: SocketAddr, handler: Handler) -> io::Result<(Server<Handler>, SocketAddr)> {
    let (udp, tcp) = bind(addr).await?;
    let addr = udp.local_addr()?;
    let mut server = Server::new(handler);
    server.register_socket(udp);
    server.register_listener(tcp, IDLE, REPLIES);
    Ok((server, addr))
}

/// What there is at a name for a type.
#[derive(Clone, Debug, PartialEq)]
pub enum Found {
    /// Records, aliases first.
    Records(Vec<Record>),
    /// The name exists without the type, or an alias leads to such a name.
    NoData(Vec<Record>),
    /// The name does not exist.
    NxDomain,
    /// Nobody here serves the name.
    Refused,
    /// The server fails on purpose.
    ServFail,
}

/// A question's answer: what was found, the SOA that a denial carries, and the zone it is counted under.
#[derive(Clone, Debug, PartialEq)]
pub struct Told {
    /// What was found.
    pub found: Found,
    /// The SOA of the zone, for denials.
    pub soa: Option<Record>,
    /// The zone.
    pub zone: String,
}
