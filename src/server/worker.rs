//! A worker: one thread, one core's share of every address, one current-thread runtime.

use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::task::Poll;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::mpsc::Receiver;
use tokio::time::timeout;

use super::sockets::WorkerSockets;
use super::stop::{GRACE, InFlight, Stop};
use super::{tcp, udp};
use crate::observe::cells::Cells;
use crate::resolve::learning::Notebook;
use crate::resolve::miss;
use crate::resolve::{Resolver, Shared};
use crate::search::polls::Requery;
use crate::upstream::Outbound;
use crate::upstream::admission::Gate;

/// What a worker is given.
pub struct Job {
    /// Its sockets.
    pub sockets: WorkerSockets,
    /// What it shares with the other workers.
    pub shared: Arc<Shared>,
    /// Bounds the connections of all workers.
    pub connections: Arc<Gate>,
    /// Its counters.
    pub cells: Arc<Cells>,
    /// When to stop.
    pub stop: Stop,
    /// Where it notes what clients ask.
    pub notebook: Option<Notebook>,
    /// Names that it asks for again, if it is the one that does.
    pub requeries: Option<Receiver<Requery>>,
    /// Dropped when the worker takes queries.
    pub listening: Sender<()>,
}

/// Starts a worker's thread.
///
/// # Errors
/// What the system said when it refused one.
pub fn start(number: usize, job: Job) -> io::Result<JoinHandle<io::Result<()>>> {
    thread(number, move || work(job))
}

/// A worker's thread and runtime, for whatever it works at.
///
/// # Errors
/// What the system said when it refused a thread.
pub fn thread<F>(
    number: usize,
    work: impl FnOnce() -> F + Send + 'static,
) -> io::Result<JoinHandle<io::Result<()>>>
where
    F: Future<Output = io::Result<()>>,
{
    std::thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
        let mut builder = Builder::new_current_thread();
        builder.enable_io().enable_time().build_local(LocalOptions::default())?.block_on(work())
    })
}

async fn work(job: Job) -> io::Result<()> {
    let Job { sockets, shared, connections, cells, stop, notebook, requeries, listening } = job;
    let outbound = Outbound::default();
    tokio::task::spawn_local(keep_up(outbound.clone(), Arc::clone(&shared)));
    let resolver = Rc::new(Resolver { shared, carrier: Box::new(outbound), cells, notebook });
    let in_flight = InFlight::default();
    if let Some(requeries) = requeries {
        tokio::task::spawn_local(miss::ask_again(Rc::clone(&resolver), requeries));
    }
    let quit = stop.quit();
    let serve = |socket| udp::serve(socket, Rc::clone(&resolver), in_flight.clone(), quit.clone());
    let datagrams = together(sockets.udp.into_iter().map(serve));
    let mut serving = tokio::task::JoinSet::new();
    for listener in sockets.tcp {
        let (resolver, gate) = (Rc::clone(&resolver), Arc::clone(&connections));
        serving.spawn_local(tcp::serve(listener, resolver, gate, in_flight.clone(), quit.clone()));
    }
    // Dropping it is the word: whoever waits counts the ends.
    drop(listening);
    let connections = async {
        while let Some(ended) = serving.join_next().await {
            ended.map_err(io::Error::other)??;
        }
        Ok(())
    };
    // Datagrams in this task: it has a turn after every few dozen turns of others, however many wait for theirs.
    tokio::try_join!(datagrams, connections)?;
    // Connections that still write their last replies.
    let _ = timeout(GRACE, in_flight.none()).await;
    tokio::time::sleep(Duration::from_millis(1)).await;
    Ok(())
}

/// All of them in one task, to their ends or the first error.
async fn together<F: Future<Output = io::Result<()>>>(all: impl Iterator<Item = F>) -> io::Result<()> {
    let mut running: Vec<_> = all.map(Box::pin).collect();
    poll_fn(|context| {
        let mut ended = Ok(());
        running.retain_mut(|one| match one.as_mut().poll(context) {
            Poll::Pending => true,
            Poll::Ready(how) => {
                ended = std::mem::replace(&mut ended, Ok(())).and(how);
                false
            }
        });
        if ended.is_err() || running.is_empty() { Poll::Ready(ended) } else { Poll::Pending }
    })
    .await
}

/// Lets go of servers as they leave their zones.
async fn keep_up(outbound: Outbound, shared: Arc<Shared>) {
    let mut changes = shared.upstreams.zones.changes();
    while changes.changed().await.is_ok() {
        outbound.keep(&shared.upstreams.zones.servers());
    }
}
