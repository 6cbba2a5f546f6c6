//! Stores that could stand in for ours, each within so many bytes; the benchmarks of memory, hit ratio and speed share them.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use moka::policy::EvictionPolicy;
use nodens::cache::entry::Entry;
use nodens::cache::key::{PassThrough, QueryKey};
use nodens::cache::shard::ENTRY_OVERHEAD;
use nodens::cache::store::Store;
use nodens::cache::ttl::Moment;
use nodens::wire::answer::{Answer, Kind};
use nodens::wire::iana::Rcode;

/// Bytes of an entry's own where it has one address.
pub const USUAL_ENTRY: u64 = 160;

/// A store.
pub trait Rival: Send + Sync {
    /// The entry of a key, dead or alive.
    fn get(&self, key: &QueryKey) -> Option<Arc<Entry>>;
    /// Takes an entry in place of an earlier one.
    fn insert(&self, entry: Arc<Entry>, now: Moment);
    /// Does what was put off.
    fn settle(&self) {}
}

/// What to build.
pub struct Contender {
    /// Its name in tables.
    pub name: &'static str,
    /// Bytes it takes for an entry beside the entry's own: never less than `benches/memory.rs` measures.
    pub overhead: u32,
    /// Builds one of so many bytes, with the overhead to reckon with.
    pub make: fn(u64, u32) -> Box<dyn Rival>,
}

/// Ours, without the hot level before it.
pub const OURS: Contender = Contender {
    name: "store",
    overhead: ENTRY_OVERHEAD as u32,
    make: |bytes, _| Box::new(Store::new(bytes)),
};

/// What could stand in its place.
pub const RIVALS: [Contender; 6] = [
    Contender {
        name: "moka LRU+timers",
        overhead: 312,
        make: |bytes, overhead| Box::new(moka(bytes, overhead, EvictionPolicy::lru(), true)),
    },
    Contender {
        name: "moka LRU",
        overhead: 264,
        make: |bytes, overhead| Box::new(moka(bytes, overhead, EvictionPolicy::lru(), false)),
    },
    Contender {
        name: "moka TinyLFU",
        overhead: 264,
        make: |bytes, overhead| Box::new(moka(bytes, overhead, EvictionPolicy::tiny_lfu(), false)),
    },
    Contender { name: "quick_cache", overhead: 80, make: |bytes, overhead| Box::new(quick(bytes, overhead)) },
    Contender {
        name: "S3-FIFO",
        overhead: 80,
        make: |bytes, overhead| Box::new(Locked::new(S3Fifo::default(), bytes, overhead)),
    },
    Contender {
        name: "SIEVE",
        overhead: 104,
        make: |bytes, overhead| Box::new(Locked::new(Listed::sieve(), bytes, overhead)),
    },
];

/// Least recently used, dead entries removed the moment they die, at the price of moka's timers: what timers are worth.
pub const REAPED: Contender = Contender {
    name: "LRU, reaped",
    overhead: 312,
    make: |bytes, overhead| Box::new(Locked::new(Listed::reaped_lru(), bytes, overhead)),
};

impl Rival for Store {
    fn get(&self, key: &QueryKey) -> Option<Arc<Entry>> {
        Store::get(self, key)
    }

    fn insert(&self, entry: Arc<Entry>, _: Moment) {
        Store::insert(self, entry);
    }

    fn settle(&self) {
        self.usage();
    }
}

type Moka = moka::sync::Cache<u64, Arc<Entry>, PassThrough>;

fn moka(bytes: u64, overhead: u32, policy: EvictionPolicy, timers: bool) -> Moka {
    let builder = moka::sync::Cache::builder()
        .max_capacity(bytes)
        .eviction_policy(policy)
        .weigher(move |_, entry: &Arc<Entry>| weight(entry, overhead) as u32);
    let builder = if timers { builder.expire_after(ByLifetime) } else { builder };
    builder.build_with_hasher(PassThrough::default())
}

struct ByLifetime;

impl moka::Expiry<u64, Arc<Entry>> for ByLifetime {
    fn expire_after_create(&self, _: &u64, entry: &Arc<Entry>, _: Instant) -> Option<Duration> {
        Some(Duration::from_millis(entry.lifetime_ms()))
    }
}

impl Rival for Moka {
    fn get(&self, key: &QueryKey) -> Option<Arc<Entry>> {
        moka::sync::Cache::get(self, &key.hash()).filter(|entry| entry.answers(key))
    }

    fn insert(&self, entry: Arc<Entry>, _: Moment) {
        moka::sync::Cache::insert(self, entry.hash(), entry);
    }

    fn settle(&self) {
        self.run_pending_tasks();
    }
}

type Quick = quick_cache::sync::Cache<u64, Arc<Entry>, ByBytes, PassThrough>;

fn quick(bytes: u64, overhead: u32) -> Quick {
    let items = (bytes / (u64::from(overhead) + USUAL_ENTRY)) as usize;
    Quick::with(items, bytes, ByBytes(overhead), PassThrough::default(), Default::default())
}

#[derive(Clone)]
struct ByBytes(u32);

impl quick_cache::Weighter<u64, Arc<Entry>> for ByBytes {
    fn weight(&self, _: &u64, entry: &Arc<Entry>) -> u64 {
        weight(entry, self.0)
    }
}

impl Rival for Quick {
    fn get(&self, key: &QueryKey) -> Option<Arc<Entry>> {
        quick_cache::sync::Cache::get(self, &key.hash()).filter(|entry| entry.answers(key))
    }

    fn insert(&self, entry: Arc<Entry>, _: Moment) {
        quick_cache::sync::Cache::insert(self, entry.hash(), entry);
    }
}

fn weight(entry: &Entry, overhead: u32) -> u64 {
    entry.size_with_parts() as u64 + u64::from(overhead)
}

/// A policy: which entry goes first.
trait Policy: Default + Send {
    fn get(&mut self, hash: u64) -> Option<Arc<Entry>>;
    /// Takes an entry and tells the one that it replaces.
    fn insert(&mut self, entry: Arc<Entry>) -> Option<Arc<Entry>>;
    /// Drops an entry that is dead, where the policy looks for such.
    fn reap(&mut self, _: Moment) -> Option<Arc<Entry>> {
        None
    }
    fn evict(&mut self) -> Option<Arc<Entry>>;
}

/// A policy under one lock, within its bytes.
struct Locked<P> {
    state: Mutex<(P, u64)>,
    max_bytes: u64,
    overhead: u32,
}

impl<P: Policy> Locked<P> {
    fn new(policy: P, max_bytes: u64, overhead: u32) -> Locked<P> {
        Locked { state: Mutex::new((policy, 0)), max_bytes, overhead }
    }
}

impl<P: Policy> Rival for Locked<P> {
    fn get(&self, key: &QueryKey) -> Option<Arc<Entry>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.0.get(key.hash()).filter(|entry| entry.answers(key))
    }

    fn insert(&self, entry: Arc<Entry>, now: Moment) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (policy, bytes) = &mut *state;
        while let Some(dead) = policy.reap(now) {
            *bytes -= weight(&dead, self.overhead);
        }
        *bytes += weight(&entry, self.overhead);
        if let Some(before) = policy.insert(entry) {
            *bytes -= weight(&before, self.overhead);
        }
        while *bytes > self.max_bytes {
            let Some(gone) = policy.evict() else { return };
            *bytes -= weight(&gone, self.overhead);
        }
    }
}

/// S3-FIFO (Yang et al., SOSP 2023): a small queue of a tenth for newcomers, a main one for what was asked for again, and
/// the hashes of what left the small one.
#[derive(Default)]
struct S3Fifo {
    table: HashMap<u64, Queued, PassThrough>,
    small: VecDeque<u64>,
    main: VecDeque<u64>,
    ghosts: VecDeque<u64>,
    ghost_set: HashSet<u64, PassThrough>,
}

struct Queued {
    entry: Arc<Entry>,
    used: u8,
}

impl S3Fifo {
    fn evict_small(&mut self) -> Option<Arc<Entry>> {
        while let Some(hash) = self.small.pop_front() {
            let queued = self.table.get_mut(&hash)?;
            if queued.used > 1 {
                queued.used = 0;
                self.main.push_back(hash);
                continue;
            }
            self.ghosts.push_back(hash);
            self.ghost_set.insert(hash);
            while self.ghosts.len() > self.main.len().max(64) {
                let forgotten = self.ghosts.pop_front()?;
                self.ghost_set.remove(&forgotten);
            }
            return self.table.remove(&hash).map(|queued| queued.entry);
        }
        None
    }

    fn evict_main(&mut self) -> Option<Arc<Entry>> {
        while let Some(hash) = self.main.pop_front() {
            let queued = self.table.get_mut(&hash)?;
            if queued.used == 0 {
                return self.table.remove(&hash).map(|queued| queued.entry);
            }
            queued.used -= 1;
            self.main.push_back(hash);
        }
        None
    }
}

impl Policy for S3Fifo {
    fn get(&mut self, hash: u64) -> Option<Arc<Entry>> {
        let queued = self.table.get_mut(&hash)?;
        queued.used = (queued.used + 1).min(3);
        Some(Arc::clone(&queued.entry))
    }

    fn insert(&mut self, entry: Arc<Entry>) -> Option<Arc<Entry>> {
        let hash = entry.hash();
        if let Some(queued) = self.table.get_mut(&hash) {
            return Some(std::mem::replace(&mut queued.entry, entry));
        }
        let queue = if self.ghost_set.contains(&hash) { &mut self.main } else { &mut self.small };
        queue.push_back(hash);
        self.table.insert(hash, Queued { entry, used: 0 });
        None
    }

    fn evict(&mut self) -> Option<Arc<Entry>> {
        if self.small.len() * 10 > self.table.len() || self.main.is_empty() {
            self.evict_small().or_else(|| self.evict_main())
        } else {
            self.evict_main()
        }
    }
}

const NONE: u32 = u32::MAX;

/// A table whose entries stand in one list from the newest to the oldest.
struct Listed {
    order: Order,
    table: HashMap<u64, u32, PassThrough>,
    nodes: Vec<Node>,
    free: Vec<u32>,
    newest: u32,
    oldest: u32,
    hand: u32,
    deaths: BinaryHeap<Reverse<(Moment, u64)>>,
}

#[derive(PartialEq)]
enum Order {
    /// Zhang et al., NSDI 2024: used entries stay in place, a hand goes from the oldest to the newest and drops the first
    /// that was not used since it came by.
    Sieve,
    /// Least recently used, with a queue of deaths.
    ReapedLru,
}

struct Node {
    entry: Arc<Entry>,
    newer: u32,
    older: u32,
    used: bool,
}

impl Default for Listed {
    fn default() -> Listed {
        Listed::sieve()
    }
}

impl Listed {
    fn new(order: Order) -> Listed {
        Listed {
            order,
            table: HashMap::default(),
            nodes: Vec::new(),
            free: Vec::new(),
            newest: NONE,
            oldest: NONE,
            hand: NONE,
            deaths: BinaryHeap::new(),
        }
    }

    fn sieve() -> Listed {
        Listed::new(Order::Sieve)
    }

    fn reaped_lru() -> Listed {
        Listed::new(Order::ReapedLru)
    }

    fn link(&mut self, at: u32) {
        (self.nodes[at as usize].newer, self.nodes[at as usize].older) = (NONE, self.newest);
        match self.newest {
            NONE => self.oldest = at,
            newest => self.nodes[newest as usize].newer = at,
        }
        self.newest = at;
    }

    fn unlink(&mut self, at: u32) {
        let Node { newer, older, .. } = self.nodes[at as usize];
        match newer {
            NONE => self.newest = older,
            newer => self.nodes[newer as usize].older = older,
        }
        match older {
            NONE => self.oldest = newer,
            older => self.nodes[older as usize].newer = newer,
        }
    }

    fn remove(&mut self, at: u32) -> Arc<Entry> {
        self.unlink(at);
        let entry = Arc::clone(&self.nodes[at as usize].entry);
        self.table.remove(&entry.hash());
        self.free.push(at);
        entry
    }
}

impl Policy for Listed {
    fn get(&mut self, hash: u64) -> Option<Arc<Entry>> {
        let at = *self.table.get(&hash)?;
        self.nodes[at as usize].used = true;
        if self.order == Order::ReapedLru {
            self.unlink(at);
            self.link(at);
        }
        Some(Arc::clone(&self.nodes[at as usize].entry))
    }

    fn insert(&mut self, entry: Arc<Entry>) -> Option<Arc<Entry>> {
        let hash = entry.hash();
        if self.order == Order::ReapedLru {
            self.deaths.push(Reverse((entry.expires(), hash)));
        }
        if let Some(&at) = self.table.get(&hash) {
            return Some(std::mem::replace(&mut self.nodes[at as usize].entry, entry));
        }
        let node = Node { entry, newer: NONE, older: NONE, used: false };
        let at = match self.free.pop() {
            Some(at) => {
                self.nodes[at as usize] = node;
                at
            }
            None => {
                self.nodes.push(node);
                (self.nodes.len() - 1) as u32
            }
        };
        self.link(at);
        self.table.insert(hash, at);
        None
    }

    fn reap(&mut self, now: Moment) -> Option<Arc<Entry>> {
        while self.deaths.peek().is_some_and(|Reverse((death, _))| *death <= now) {
            let Reverse((_, hash)) = self.deaths.pop()?;
            if let Some(&at) = self.table.get(&hash)
                && !self.nodes[at as usize].entry.is_fresh(now)
            {
                return Some(self.remove(at));
            }
        }
        None
    }

    fn evict(&mut self) -> Option<Arc<Entry>> {
        let mut at = if self.order == Order::Sieve && self.hand != NONE { self.hand } else { self.oldest };
        if at == NONE {
            return None;
        }
        while self.order == Order::Sieve && std::mem::take(&mut self.nodes[at as usize].used) {
            at = match self.nodes[at as usize].newer {
                NONE => self.oldest,
                newer => newer,
            };
        }
        self.hand = self.nodes[at as usize].newer;
        Some(self.remove(at))
    }
}

/// An answer to a question section: one address, or a denial with its SOA.
pub fn answer(question: &[u8], kind: Kind, ttl: u32, records: usize) -> Answer {
    let mut wire = [&[0; 12], question].concat();
    let mut ttl_offsets = Vec::new();
    let mut record = |owner: &[u8], rtype: u8, rdata: &[u8]| {
        wire.extend_from_slice(owner);
        wire.extend_from_slice(&[0, rtype, 0, 1]);
        ttl_offsets.push(wire.len() as u16);
        wire.extend_from_slice(&ttl.to_be_bytes());
        wire.extend_from_slice(&(rdata.len() as u16).to_be_bytes());
        wire.extend_from_slice(rdata);
    };
    match kind {
        Kind::Data => (0..records).for_each(|_| record(&[0xc0, 12], 1, &[192, 0, 2, 1])),
        _ => {
            let numbers = [1, 7200, 1800, 86_400, ttl].map(u32::to_be_bytes).concat();
            record(
                b"\x07cluster\x05local\x00",
                6,
                &[b"\x02ns\x03dns\x00\x0ahostmaster\x00", &numbers[..]].concat(),
            );
        }
    }
    Answer {
        wire,
        ttl_offsets,
        rcode: if kind == Kind::NxDomain { Rcode::NXDOMAIN } else { Rcode::NOERROR },
        kind,
        answer_ttl: (kind == Kind::Data).then_some(ttl),
        negative_ttl: (kind != Kind::Data).then_some(ttl),
        ede: vec![],
        had_opt: false,
        referral: false,
    }
}
