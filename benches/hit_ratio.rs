//! How many questions a cache answers, ours and others, with the same bytes: whose names stay when there is no room for all.
//!
//! `cargo bench --bench hit_ratio` prints a table of hit ratios, and how often newcomers are asked for upstream. Under
//! `cargo test` everything is smaller. Either way it fails where an LRU answers more to the neighbours of a noisy client than
//! nodens does, or where a newcomer is asked for twice.

#![allow(clippy::indexing_slicing, clippy::panic, clippy::print_stdout, clippy::unwrap_used, unreachable_pub)]

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use nodens::cache::entry::{ClientBucket, Entry};
use nodens::cache::key::{KeyHasher, QueryKey, SearchListId};
use nodens::cache::ttl::{Caps, Moment};
use nodens::cache::{Cache, Size};
use nodens::limits::{HOT_ENTRIES, HOT_PART};
use nodens::wire::answer::Kind;
use nodens::wire::name::Name;

#[allow(dead_code, reason = "each benchmark uses its part")]
mod rivals;
mod traces;
use rivals::{Contender, REAPED, RIVALS, Rival, answer};
use traces::{Ask, NOISY, Question, Scale, Trace};

const CAPS: Caps = Caps {
    positive: Duration::from_secs(86_400),
    negative: Duration::from_secs(3600),
    stale: Duration::from_secs(86_400),
};

/// What is asked, and what answers.
trait Server {
    fn hasher(&self) -> &KeyHasher;
    /// True where the cache has the answer; else it takes it.
    fn ask(&self, key: &QueryKey, question: &Question, client: IpAddr, now: Moment) -> bool;
}

/// nodens as it runs: the hot level with its part of the bytes before the store.
impl Server for Cache {
    fn hasher(&self) -> &KeyHasher {
        Cache::hasher(self)
    }

    fn ask(&self, key: &QueryKey, question: &Question, client: IpAddr, now: Moment) -> bool {
        let fresh = |given: &nodens::cache::Given| !given.is_stale;
        if self.pin().get(key, now).is_some() || self.stored(key, now).filter(fresh).is_some() {
            return true;
        }
        self.keep(key, answer(&question.octets, question.kind, question.ttl, 1), client, now);
        false
    }
}

struct Alone {
    hasher: KeyHasher,
    rival: Box<dyn Rival>,
}

impl Server for Alone {
    fn hasher(&self) -> &KeyHasher {
        &self.hasher
    }

    fn ask(&self, key: &QueryKey, question: &Question, _: IpAddr, now: Moment) -> bool {
        if self.rival.get(key).is_some_and(|entry| entry.is_fresh(now)) {
            return true;
        }
        let answer = answer(&question.octets, question.kind, question.ttl, 1);
        let entry = Entry::new(key, answer, CAPS, 0, ClientBucket(0), now);
        self.rival.insert(Arc::new(entry), now);
        false
    }
}

fn nodens(bytes: u64) -> Box<dyn Server> {
    let hot_bytes = bytes / (HOT_PART + 1);
    let size =
        Size { store_bytes: bytes - hot_bytes, hot_entries: HOT_ENTRIES, hot_bytes: hot_bytes as usize };
    Box::new(Cache::new(size, CAPS))
}

fn alone(contender: &Contender, bytes: u64) -> Box<dyn Server> {
    Box::new(Alone { hasher: KeyHasher::default(), rival: (contender.make)(bytes, contender.overhead) })
}

/// The place of moka's least recently used among [`servers`].
const LRU: usize = 2;

/// Everything that is compared: nodens whole, then single tables.
fn servers(bytes: u64) -> Vec<(&'static str, Box<dyn Server>)> {
    let rivals = RIVALS.iter().chain([&REAPED]);
    let mut servers = vec![("nodens", nodens(bytes))];
    servers.extend(rivals.map(|contender| (contender.name, alone(contender, bytes))));
    servers
}

fn key(server: &dyn Server, octets: &[u8]) -> QueryKey {
    let message = [&[0; 12], octets].concat();
    let question = nodens::wire::question::Question::read(&message).unwrap();
    QueryKey::of(&question, false, false, SearchListId::LITERAL, server.hasher())
}

fn address(client: u16) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + u32::from(client)))
}

/// Hits of a hundred asks of all clients but the noisy one.
fn run(trace: &Trace, server: &dyn Server) -> f64 {
    let keys: Vec<_> = trace.questions.iter().map(|question| key(server, &question.octets)).collect();
    let (mut asked, mut hits) = (0u32, 0u32);
    for &Ask { at_ms, client, question } in &trace.asks {
        let at = question as usize;
        let hit = server.ask(&keys[at], &trace.questions[at], address(client), Moment(at_ms));
        if client != NOISY || !trace.has_noise() {
            asked += 1;
            hits += u32::from(hit);
        }
    }
    100.0 * f64::from(hits) / f64::from(asked)
}

/// Questions upstream for 100 new names that are asked for 20 times each, at a cache that is full of what others asked for
/// twice.
fn newcomers(server: &dyn Server, full: u32) -> u32 {
    let question = |name: String| {
        let octets = [Name::from_text(&name).unwrap().as_wire(), &[0, 1, 0, 1]].concat();
        let key = key(server, &octets);
        (key, Question { octets, kind: Kind::Data, ttl: 3600 })
    };
    let ask = |(key, question): &(QueryKey, Question), client| {
        server.ask(key, question, address(client), Moment(1))
    };
    for round in 0..4 {
        for n in 0..full {
            ask(&question(format!("n{n}.example.com")), (n + round) as u16 % 50);
        }
    }
    let new: Vec<_> = (0..100).map(|n| question(format!("new{n}.example.com"))).collect();
    (0..20).map(|_| new.iter().filter(|new| !ask(new, 60)).count() as u32).sum()
}

fn main() {
    let whole = std::env::args().any(|argument| argument == "--bench");
    let (bytes, scale) = if whole {
        (1 << 20, Scale { names: 20_000, asks: 200_000 })
    } else {
        (1 << 17, Scale { names: 2000, asks: 6000 })
    };
    let titles: Vec<_> = servers(bytes).iter().map(|(name, _)| format!("{name:>16}")).collect();
    println!("{:>32}{}", format!("{} KiB", bytes >> 10), titles.concat());
    let compare = |trace: &Trace, name: &str, bytes: u64| {
        let ratios: Vec<_> = servers(bytes).iter().map(|(_, server)| run(trace, server.as_ref())).collect();
        let cells: Vec<_> = ratios.iter().map(|ratio| format!("{ratio:>16.1}")).collect();
        println!("{name:>32}{}", cells.concat());
        assert!(!trace.has_noise() || ratios[0] >= ratios[LRU], "{name}: an LRU would answer more");
    };
    let traces = traces::all(scale);
    traces.iter().for_each(|trace| compare(trace, &trace.name, bytes));
    // With room for all of it the policy does not matter.
    if let Some(node) = traces.last() {
        compare(node, &format!("{}, {} KiB", node.name, bytes >> 7), bytes << 3);
    }
    let asked: Vec<_> =
        servers(bytes).iter().map(|(_, server)| newcomers(server.as_ref(), scale.names)).collect();
    let cells: Vec<_> = asked.iter().map(|asked| format!("{asked:>16}")).collect();
    println!("{:>32}{}", "newcomers asked upstream", cells.concat());
    assert_eq!(asked[0], 100, "each newcomer is asked for once");
}
