//! A client that asks so many questions a second, and counts what comes back.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::ask::{self, query};

/// Different IDs of queries.
const IDS: usize = 1 << 16;
/// How often the sender wakes.
const TICK: Duration = Duration::from_micros(500);

/// Counts since the start.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sums {
    pub asked: u64,
    /// With an address.
    pub answered: u64,
    /// With anything else.
    pub failed: u64,
}

#[derive(Default)]
struct Counts {
    asked: AtomicU64,
    answered: AtomicU64,
    failed: AtomicU64,
}

impl Counts {
    fn sums(&self) -> Sums {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Sums { asked: of(&self.asked), answered: of(&self.answered), failed: of(&self.failed) }
    }
}

pub struct Crowd {
    counts: Arc<Counts>,
    asks: Arc<AtomicBool>,
    listens: Arc<AtomicBool>,
    sender: JoinHandle<()>,
    receiver: JoinHandle<()>,
}

impl Crowd {
    /// Asks from one socket of an address.
    pub fn start(own: IpAddr, server: SocketAddr, per_second: u32, name: fn(u64) -> String) -> Crowd {
        let socket = Socket::new(Domain::for_address(server), Type::DGRAM, None).unwrap();
        socket.bind(&SocketAddr::from((own, 0)).into()).unwrap();
        socket.connect(&server.into()).unwrap();
        // Answers that come while this process waits for a core are not lost; as much as is allowed.
        let _ = socket.set_recv_buffer_size(4 << 20);
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let socket = std::net::UdpSocket::from(socket);
        let yes = || Arc::new(AtomicBool::new(true));
        let (counts, asks, listens): (Arc<Counts>, _, _) = (Arc::default(), yes(), yes());
        // By the ID: a second answer to a question does not count.
        let waits: Arc<Vec<AtomicBool>> = Arc::new((0..IDS).map(|_| AtomicBool::new(false)).collect());
        let waiting = Arc::clone(&waits);
        let (sending, sums, still) = (socket.try_clone().unwrap(), Arc::clone(&counts), Arc::clone(&asks));
        let sender = std::thread::spawn(move || {
            let (start, mut number) = (Instant::now(), 0);
            while still.load(Ordering::Relaxed) {
                let due = (start.elapsed().as_secs_f64() * f64::from(per_second)) as u64;
                while number < due {
                    let (mut packet, id) = (query(&name(number)), number as u16);
                    packet[..2].copy_from_slice(&id.to_be_bytes());
                    waits[usize::from(id)].store(true, Ordering::Relaxed);
                    sums.asked.fetch_add(u64::from(sending.send(&packet).is_ok()), Ordering::Relaxed);
                    number += 1;
                }
                std::thread::sleep(TICK);
            }
        });
        let (sums, still) = (Arc::clone(&counts), Arc::clone(&listens));
        let receiver = std::thread::spawn(move || {
            let mut buffer = [0; 2048];
            while still.load(Ordering::Relaxed) {
                let Ok(length) = socket.recv(&mut buffer) else { continue };
                let id = u16::from_be_bytes([buffer[0], buffer[1]]);
                if !waiting[usize::from(id)].swap(false, Ordering::Relaxed) {
                    continue;
                }
                let count = if ask::is_answer(&buffer[..length]) { &sums.answered } else { &sums.failed };
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        Crowd { counts, asks, listens, sender, receiver }
    }

    /// Counts so far.
    pub fn sums(&self) -> Sums {
        self.counts.sums()
    }

    /// Asks no more.
    pub fn ask_no_more(&self) {
        self.asks.store(false, Ordering::Relaxed);
    }

    /// Asks no more and waits for what is on its way, so long at most.
    pub fn stop(self, patience: Duration) -> Sums {
        self.ask_no_more();
        self.sender.join().unwrap();
        let start = Instant::now();
        let is_missing = |sums: Sums| sums.answered + sums.failed < sums.asked;
        while is_missing(self.counts.sums()) && start.elapsed() < patience {
            std::thread::sleep(Duration::from_millis(10));
        }
        self.listens.store(false, Ordering::Relaxed);
        self.receiver.join().unwrap();
        self.counts.sums()
    }
}
