//! From a configuration to a serving process, and back to nothing.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use crate::admin::{self, Admin};
use crate::cache::{Cache, Size, ttl::Caps};
use crate::clock::Clock;
use crate::config::{Config, Upstream};
use crate::descriptors;
use crate::follow;
use crate::limits;
use crate::observe::cells::Cells;
use crate::observe::metrics::Metrics;
use crate::resolve::cookie::Secret;
use crate::resolve::{Shared, learning};
use crate::search::Search;
use crate::server::sockets::{self, BindError, WorkerSockets};
use crate::server::stop;
use crate::server::worker::{self, Job};
use crate::upstream::admission::{Flights, Gate};
use crate::upstream::zones::{Endpoints, Zones};
use crate::upstream::{Upstreams, loops};

/// Why a process could not serve.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// An address cannot be listened on.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The admin pages' address cannot be listened on.
    #[error(
        "cannot serve the admin pages on {addr}: {error}; choose another address with --admin, or --admin off"
    )]
    Admin {
        /// The address.
        addr: SocketAddr,
        /// What the system said.
        error: io::Error,
    },
    /// The system refused a thread, a signal handler or the like.
    #[error("cannot start: {0}")]
    System(#[from] io::Error),
    /// A worker ended by itself.
    #[error("worker {number} ended: {why}")]
    Worker {
        /// Which one.
        number: usize,
        /// What it said.
        why: String,
    },
    /// The metrics could not be set up.
    #[error("cannot export metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// Serves until SIGTERM or SIGINT, then until what was in flight is answered; inside a [`tokio::task::LocalSet`].
///
/// # Errors
/// [`RunError`] says what kept it from serving, or ended it.
pub async fn serve(config: &Config) -> Result<(), RunError> {
    // Before anything can be seen from outside: a signal from now on is an orderly stop.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let max_connections = max_connections(config);
    let sockets = match sockets::inherited(config.workers)? {
        Some(inherited) => inherited,
        None => sockets::bind(&config.listen, config.workers)?,
    };
    let addresses = addresses(&sockets);
    let shared = Arc::new(shared(config, &addresses));
    let cells: Vec<Arc<Cells>> = sockets.iter().map(|_| Arc::default()).collect();
    let admin = Arc::new(Admin::new(Metrics::new(cells.clone(), Arc::clone(&shared))?));
    let mut admin_addr = None;
    if let Some(addr) = config.admin {
        let listener =
            tokio::net::TcpListener::bind(addr).await.map_err(|error| RunError::Admin { addr, error })?;
        admin_addr = listener.local_addr().ok();
        tokio::spawn(admin::serve(listener, Arc::clone(&admin)));
    }

    follow::start(config, &shared);
    let (stopper, stop) = stop::channel();
    let connections = Arc::new(Gate::new(max_connections, limits::connections_of_client(max_connections)));
    let (listening, heard) = channel();
    let mut workers = Vec::new();
    let (mut notebooks, requeries) = learning::start(sockets.len(), Arc::clone(&shared))?;
    let mut requeries = Some(requeries);
    for (number, (sockets, cells)) in sockets.into_iter().zip(cells).enumerate() {
        let (shared, connections) = (Arc::clone(&shared), Arc::clone(&connections));
        let (stop, listening, notebook) = (stop.clone(), listening.clone(), notebooks.pop());
        let requeries = requeries.take();
        let job = Job { sockets, shared, connections, cells, stop, notebook, requeries, listening };
        workers.push(worker::start(number, job)?);
    }
    drop(listening);
    tokio::task::spawn_blocking(move || heard.iter().count()).await.map_err(io::Error::other)?;
    admin.set_ready(true);
    announce(config, &addresses, admin_addr);

    let failed = tokio::select! {
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
        failed = first_to_end(&workers) => Some(failed),
    };
    admin.set_ready(false);
    stopper.stop();
    let ended = tokio::task::spawn_blocking(move || join(workers)).await.map_err(io::Error::other)?;
    match (failed, ended) {
        (_, Err(error)) => Err(error),
        (Some(number), Ok(())) => Err(RunError::Worker { number, why: "it stopped serving".into() }),
        (None, Ok(())) => Ok(()),
    }
}

type Worker = std::thread::JoinHandle<io::Result<()>>;

/// Workers end only when told to; one that does otherwise has failed.
async fn first_to_end(workers: &[Worker]) -> usize {
    loop {
        if let Some(number) = workers.iter().position(Worker::is_finished) {
            return number;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn join(workers: Vec<Worker>) -> Result<(), RunError> {
    for (number, worker) in workers.into_iter().enumerate() {
        let failed = |why: String| RunError::Worker { number, why };
        worker
            .join()
            .map_err(|_| failed("it panicked".into()))?
            .map_err(|error| failed(error.to_string()))?;
    }
    Ok(())
}

fn addresses(sockets: &[WorkerSockets]) -> Vec<SocketAddr> {
    sockets
        .first()
        .map_or_else(Vec::new, |first| first.udp.iter().filter_map(|udp| udp.local_addr().ok()).collect())
}

/// What the workers share, made from a configuration.
pub fn shared(config: &Config, listening: &[SocketAddr]) -> Shared {
    let mut zones = Zones::new(config.forward.iter().map(|forward| forward.zone), listening.to_vec());
    for forward in &config.forward {
        zones.plan(&forward.zone, forward.plan.clone());
        let parts: Vec<Endpoints> = forward.upstreams.iter().map(Upstream::endpoints).collect();
        zones.set(&forward.zone, &Endpoints::of(&parts));
    }
    let hot_bytes = usize::try_from(config.cache_bytes / limits::HOT_PART).unwrap_or(usize::MAX);
    let caps = Caps { positive: config.max_ttl, negative: config.max_negative_ttl, stale: config.max_stale };
    let size = Size { store_bytes: config.cache_bytes, hot_entries: limits::HOT_ENTRIES, hot_bytes };
    Shared {
        cache: Cache::new(size, caps),
        upstreams: Upstreams { zones, nonces: loops::Nonces::default() },
        flights: Arc::new(Flights::default()),
        walks: Arc::new(Flights::default()),
        search: Search::new(config.search.clone(), config.suffixes.clone(), config.denial_cut),
        waiting: Arc::new(Gate::new(limits::MAX_WAITING, limits::MAX_WAITING_PER_CLIENT)),
        late: Arc::new(Gate::new(limits::MAX_LATE, limits::MAX_LATE_PER_CLIENT)),
        clock: Clock::start(),
        cookies: Secret::new(rand::random()),
    }
}

/// Connections of clients that there are descriptors for.
fn max_connections(config: &Config) -> u32 {
    let (allowed, settings) = (descriptors::raise(), config.settings());
    let (needed, connections) = (limits::descriptors(&settings), limits::connections(&settings, allowed));
    if allowed < needed {
        crate::warning!(
            "{allowed} file descriptors are allowed where up to {needed} can be in use: no more than {connections} TCP connections of clients are taken; raise the limit (ulimit -n, LimitNOFILE=)"
        );
    }
    connections
}

fn announce(config: &Config, addresses: &[SocketAddr], admin: Option<SocketAddr>) {
    let text = |addrs: &[SocketAddr]| addrs.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let lines = limits::sums(&config.settings());
    crate::info!(
        "nodens {} answers on {} with {} workers, admin {}; at most {} of memory, {} waiting questions, {} descriptors",
        env!("CARGO_PKG_VERSION"),
        text(addresses),
        config.workers,
        admin.map_or("off".to_string(), |addr| format!("http://{addr}")),
        limits::bytes_text(limits::total_bytes(&lines)),
        limits::MAX_WAITING,
        limits::descriptors(&config.settings()),
    );
}
