//! The short circuit gives a client what its own search would have found: four stub resolvers, each run against a plain
//! cache and against one that learns and composes, over generated worlds.
//!
//! `NODENS_WORLDS` says how many worlds (2,000), `NODENS_SEED` where they begin (1). A failure prints its world's seed
//! and its story; `NODENS_SEED=that NODENS_WORLDS=1` tells it again.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    missing_docs,
    unreachable_pub
)]

mod models;
mod network;
mod world;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use nodens::cache::ttl::Caps;
use nodens::cache::{Cache, Size};
use nodens::clock::Clock;
use nodens::observe::cells::{Cells, Event, Sum};
use nodens::query::Proto;
use nodens::resolve::hit::Outcome as Answered;
use nodens::resolve::learning::{self, Scribe};
use nodens::resolve::{Client, Resolver, Shared, cookie, miss};
use nodens::search::list::Suffixes;
use nodens::search::{Mode, Search};
use nodens::upstream::admission::{Flights, Gate};
use nodens::upstream::health::{Endpoint, Transport};
use nodens::upstream::zones::{Endpoints, Zones};
use nodens::upstream::{Upstreams, loops};
use nodens::wire::header::Header;
use nodens::wire::name::Name;
use nodens::wire::question::Question;
use nodens::wire::record::Record;

use models::{Libc, Outcome, Reply};
use network::Network;
use world::{World, ZONE};

/// Longer than any TTL and any look-up: what has changed has changed for everybody.
const BETWEEN_PHASES: Duration = Duration::from_secs(400);

/// A node: two workers, between which the questions of one look-up fall as their ports will have it.
struct Node {
    workers: [Rc<Resolver>; 2],
    shared: Arc<Shared>,
    scribe: Scribe,
    turn: Cell<usize>,
}

impl Node {
    fn new(mode: Mode, network: &Network) -> Node {
        let name = |text| Name::from_text(text).unwrap();
        let hosts = [name("corp.internal"), name("ec2.internal")];
        let addr = SocketAddr::from(([192, 0, 2, 53], 53));
        let zones = Zones::new([Name::ROOT], vec![]);
        let members = vec![Endpoint { transport: Transport::Udp, addr }];
        zones.set(&Name::ROOT, &Endpoints { members, last_resort: vec![] });
        let caps = Caps { positive: Duration::from_secs(86_400), negative: Duration::from_secs(3600) };
        let size = Size { store_bytes: 1 << 20, hot_entries: 256, hot_bytes: 1 << 18 };
        let shared = Arc::new(Shared {
            cache: Cache::new(size, caps),
            upstreams: Upstreams { zones, nonces: loops::Nonces::default() },
            flights: Arc::new(Flights::default()),
            walks: Arc::new(Flights::default()),
            search: Search::new(mode, Suffixes::new(name(ZONE), &hosts).unwrap(), false),
            waiting: Arc::new(Gate::new(1000, 1000)),
            clock: Clock::start(),
            cookies: cookie::Secret::new([7; 16]),
        });
        let (notebooks, scribe, _requeries) = learning::pair(2);
        let workers: Vec<_> = notebooks
            .into_iter()
            .map(|notebook| {
                Rc::new(Resolver {
                    shared: Arc::clone(&shared),
                    carrier: Box::new(network.clone()),
                    cells: Arc::default(),
                    notebook: Some(notebook),
                })
            })
            .collect();
        let Ok(workers) = workers.try_into() else { panic!("two workers") };
        Node { workers, shared, scribe, turn: Cell::new(0) }
    }

    /// Any worker may get a question.
    fn worker(&self) -> Rc<Resolver> {
        let turn = self.turn.get();
        self.turn.set(turn.wrapping_mul(5).wrapping_add(3));
        Rc::clone(&self.workers[turn >> 1 & 1])
    }

    async fn ask(&self, from: &world::Client, name: &str, qtype: u16) -> Reply {
        let name = Name::from_text(name).unwrap();
        let packet =
            [&[0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0], name.as_wire(), &qtype.to_be_bytes(), &[0, 1]].concat();
        let client = Client { addr: SocketAddr::new(from.address, 4000), proto: Proto::Udp };
        let mut out = [0; 512];
        let resolver = self.worker();
        let answered = resolver.answer(&packet, client, &resolver.batch(), &mut out);
        match answered {
            Answered::Reply(length) => read(&out[..length]),
            Answered::Silence => panic!("silence"),
            Answered::Miss(missed) => read(&miss::answer(resolver, missed).await),
        }
    }

    async fn look_up(&mut self, client: &world::Client, base: &str) -> Outcome {
        let this = &*self;
        let mut ask = async |name: &str| {
            let (v4, v6) = tokio::join!(this.ask(client, name, 1), this.ask(client, name, 28));
            [v4, v6]
        };
        let outcome = client.libc.look_up(base, &client.suffixes, &mut ask).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
        self.scribe.turn(&self.shared);
        outcome
    }

    fn composed(&self) -> u64 {
        let cells: Vec<Arc<Cells>> = self.workers.iter().map(|worker| Arc::clone(&worker.cells)).collect();
        Sum(&cells).events(Event::SearchComposed)
    }
}

/// A reply as a stub resolver reads it: the addresses at the end of the aliases that begin at the question.
fn read(message: &[u8]) -> Reply {
    let (header, question) = (Header::read(message).unwrap(), Question::read(message).unwrap());
    let mut at = question.end();
    let mut owner = Name::from_wire(question.qname()).unwrap();
    let mut addresses = Vec::new();
    for _ in 0..header.answers {
        let record = Record::read(message, at).unwrap();
        at = record.rdata.end;
        assert!(record.owner == owner, "an answer out of its chain");
        let data = &message[record.rdata.clone()];
        match record.rtype {
            5 => owner = record.target(message).unwrap(),
            1 => addresses.push(<[u8; 4]>::try_from(data).unwrap().into()),
            _ => addresses.push(<[u8; 16]>::try_from(data).unwrap().into()),
        }
    }
    Reply { rcode: header.flags.rcode().0 as u8, has_answers: header.answers > 0, addresses }
}

/// Every look-up's outcome, and how many walks were composed.
fn run(world: &World, mode: Mode) -> (Vec<Outcome>, u64) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let network = Network { world: Rc::new(world.clone()), phase: Rc::default() };
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let mut node = Node::new(mode, &network);
        let mut outcomes = Vec::new();
        for (phase, script) in world.script.iter().enumerate() {
            network.phase.set(phase);
            for look_up in script {
                tokio::time::sleep(Duration::from_millis(look_up.after_ms)).await;
                outcomes.push(node.look_up(&world.clients[phase][look_up.client], look_up.base).await);
            }
            tokio::time::sleep(BETWEEN_PHASES).await;
        }
        (outcomes, node.composed())
    })
}

/// Why two outcomes may differ: the closed list.
fn exception(world: &World, phase: usize, look_up: &world::LookUp) -> Option<&'static str> {
    let client = &world.clients[phase][look_up.client];
    let same_list =
        |other: &world::Client| other.address == client.address && other.namespace == client.namespace;
    let mut so_far = world.clients[..=phase].iter().flatten();
    if client.foreign && so_far.any(|other| same_list(other) && !other.foreign) {
        return Some("an address in one namespace with and without a foreign suffix");
    }
    let has = |name: &str| [0, 1].map(|family| world.phases[phase].has(name, family));
    let later = client.suffixes.iter().skip(1).map(|suffix| format!("{}.{suffix}", look_up.base));
    if client.libc == Libc::Musl
        && later.chain([look_up.base.to_string()]).any(|name| world::is_half_denied(has(&name)))
    {
        return Some("musl, and a server that denies one family only");
    }
    // Whole names of a form that no service and no pod has: whoever asks for one as it is gets what its search would end with.
    let whole = look_up.base.strip_suffix(".svc.cluster.local").and_then(|rest| rest.rsplit_once('.'));
    match whole.map(|(base, _)| base.split('.').collect::<Vec<_>>()).as_deref() {
        Some([_, _, _, ..]) => return Some("whole names that no service and no pod has"),
        Some([_, "com" | "dev" | "br"]) => {
            return Some("a headless service named like a top-level domain and never seen ready");
        }
        _ => {}
    }
    None
}

/// A look-up that ended otherwise.
struct Difference {
    exception: Option<&'static str>,
    what: String,
}

/// Both ways through a world: what ended otherwise, and how many walks were composed.
fn compare(world: &World) -> (Vec<Difference>, u64) {
    let (plain, _) = run(world, Mode::Off);
    let (learned, composed) = run(world, Mode::Learn);
    let scripts = world.script.iter().enumerate();
    let look_ups = scripts.flat_map(|(phase, script)| script.iter().map(move |one| (phase, one)));
    let differ = look_ups.enumerate().filter(|(number, _)| plain[*number] != learned[*number]);
    let told = differ.map(|(number, (phase, look_up))| Difference {
        exception: exception(world, phase, look_up),
        what: format!(
            "look-up {number} in phase {phase}\n plain {:?}\n learned {:?}",
            plain[number], learned[number]
        ),
    });
    (told.collect(), composed)
}

fn is_wrong(world: &World) -> bool {
    compare(world).0.iter().any(|one| one.exception.is_none())
}

/// The smallest story that still goes wrong: look-ups, then names are left out, one at a time.
fn shrink(mut world: World) -> World {
    loop {
        let smaller = world.smaller().into_iter().find(is_wrong);
        match smaller {
            Some(smaller) => world = smaller,
            None => return world,
        }
    }
}

/// Runs worlds and tells how often what occurred.
fn run_worlds(seeds: impl Iterator<Item = u64>) -> BTreeMap<&'static str, u64> {
    let mut counts = BTreeMap::new();
    let mut count = |what| *counts.entry(what).or_default() += 1;
    for seed in seeds {
        let world = World::new(seed);
        count("worlds");
        world.features.iter().for_each(|feature| count(feature));
        let (differ, composed) = compare(&world);
        if composed > 0 {
            count("composed");
        }
        if differ.iter().any(|one| one.exception.is_none()) {
            let smallest = shrink(world);
            let what: Vec<String> = compare(&smallest).0.into_iter().map(|one| one.what).collect();
            panic!("seed {seed}: {}\n{}", what.join("\n"), story(&smallest));
        }
        differ.iter().filter_map(|one| one.exception).for_each(&mut count);
    }
    counts
}

/// A world as a person reads it.
fn story(world: &World) -> String {
    let mut out = format!("TTL {} and {}\n", world.ttl, world.denial_ttl);
    for client in world.clients.iter().flatten() {
        out += &format!(" {:?} at {} searches {}\n", client.libc, client.address, client.suffixes.join(" "));
    }
    for (number, (phase, script)) in world.phases.iter().zip(&world.script).enumerate() {
        out += &format!("{phase:?}\n");
        for look_up in script {
            let client = &world.clients[number][look_up.client];
            out += &format!(
                "  after {} ms {:?} at {} looks up {}\n",
                look_up.after_ms, client.libc, client.address, look_up.base
            );
        }
    }
    out
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn every_search_ends_as_it_would_without_us() {
    let (worlds, first) = (setting("NODENS_WORLDS", 2000), setting("NODENS_SEED", 1));
    let threads = std::thread::available_parallelism().map_or(1, |count| count.get() as u64);
    let run = |thread| move || run_worlds((first + thread..first + worlds).step_by(threads as usize));
    let running: Vec<_> = (0..threads.min(worlds)).map(|thread| std::thread::spawn(run(thread))).collect();
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for thread in running {
        let Ok(more) = thread.join() else { panic!("a search ended otherwise, see above") };
        more.into_iter().for_each(|(what, count)| *counts.entry(what).or_default() += count);
    }
    println!("{worlds} worlds from seed {first}");
    counts.iter().for_each(|(what, count)| {
        println!("{count:>8}  {:5.1} %  {what}", *count as f64 * 100.0 / worlds as f64)
    });
    if worlds >= 1000 {
        assert!(counts["composed"] * 5 >= worlds, "composed answers in too few worlds");
        let rare: Vec<_> = FEATURES
            .iter()
            .filter(|feature| counts.get(**feature).copied().unwrap_or(0) * 50 < worlds)
            .collect();
        assert!(rare.is_empty(), "too rare: {rare:?}");
    }
}

/// What must occur in two worlds of a hundred at least.
const FEATURES: [&str; 19] = [
    "a name in the cluster exists at a later step",
    "a host domain answers",
    "a host domain answers everything",
    "no data",
    "aliases",
    "aliases to nothing",
    "answers over TCP only",
    "an address passes to another namespace",
    "one family denied only",
    "SERVFAIL",
    "silence",
    "refusals",
    "changes",
    "a foreign suffix",
    "several clients at one address",
    "two namespaces at one address",
    "a namespace named like a top-level domain",
    "whole names of pods",
    "TTL 0",
];
