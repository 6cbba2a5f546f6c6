//! The short circuit gives a client what its own search would have found: five stub resolvers, each run against a plain
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
mod node;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use nodens::search::Mode;
use tokio::time::{Instant, sleep, sleep_until};

use models::{Libc, Outcome};
use network::Network;
use node::{Node, Tally};
use world::{Has, World};

/// Longer than any TTL and any look-up: what has changed has changed for everybody.
const BETWEEN_PHASES: Duration = Duration::from_secs(400);

/// One way through a world.
struct Way {
    /// Every look-up's outcome.
    outcomes: Vec<Outcome>,
    /// How many walks were composed.
    composed: u64,
    uneven: usize,
    tally: Tally,
    /// When each phase and each look-up began.
    times: Vec<Duration>,
}

/// Two ways through a world begin their look-ups at the same time, although one has its answers sooner.
struct Pace<'t> {
    begun: Instant,
    as_before: std::slice::Iter<'t, Duration>,
    times: Vec<Duration>,
}

impl Pace<'_> {
    async fn wait(&mut self, after: Duration) {
        match self.as_before.next() {
            Some(time) => sleep_until(self.begun + *time).await,
            None => sleep(after).await,
        }
        self.times.push(self.begun.elapsed());
    }
}

fn run(world: &World, mode: Mode, times: &[Duration]) -> Way {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let network = Network::new(world);
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let mut pace = Pace { begun: Instant::now(), as_before: times.iter(), times: vec![] };
        let mut node = Node::new(mode, &network);
        let mut outcomes = Vec::new();
        for (phase, script) in world.script.iter().enumerate() {
            pace.wait(BETWEEN_PHASES).await;
            network.begin(phase);
            for look_up in script {
                pace.wait(Duration::from_millis(look_up.after_ms)).await;
                outcomes.push(node.look_up(&world.clients[phase][look_up.client], look_up).await);
            }
        }
        Way {
            outcomes,
            composed: node.composed(),
            uneven: node.uneven(),
            tally: node.tally(),
            times: pace.times,
        }
    })
}

/// Why two outcomes may differ: the closed list.
///
/// `earlier`: the numbers of look-ups before it that ended otherwise.
fn exception(
    world: &World,
    number: usize,
    [plain, learned]: [&Outcome; 2],
    earlier: &[usize],
) -> Option<&'static str> {
    let (phase, look_up) = world.look_ups().nth(number)?;
    let client = &world.clients[phase][look_up.client];
    let same_list =
        |other: &world::Client| other.address == client.address && other.namespace == client.namespace;
    let mut so_far = world.clients[..=phase].iter().flatten();
    if client.foreign && so_far.any(|other| same_list(other) && !other.foreign) {
        return Some("an address in one namespace with and without a foreign suffix");
    }
    let under = |suffix: &String| format!("{}.{suffix}", look_up.base);
    let asked = || client.conf.suffixes.iter().map(under).chain([look_up.base.to_string()]);
    // What this kept a client from asking is not there later either, where it would be given stale.
    let half_denied = |phase| asked().skip(1).any(|name| world.is_half_denied(&name, phase));
    let is_stale = || asked().any(|name| world.may_be_stale(&name, phase));
    if matches!(client.libc, Libc::Musl | Libc::OldMusl)
        && (half_denied(phase) || is_stale() && (0..phase).any(half_denied))
    {
        return Some("musl, and a server that denies one family only");
    }
    // Whole names: whoever asks for one as it is gets what its search would end with, unless a service or a pod may have it.
    let whole = look_up.base.strip_suffix(".svc.cluster.local").and_then(|rest| rest.rsplit_once('.'));
    if let Some((base, namespace)) = whole {
        let service = |label: &str| format!("{label}.{namespace}.svc.cluster.local");
        match base.split('.').collect::<Vec<_>>()[..] {
            [_, _, _, ..] => return Some("whole names that no service and no pod has"),
            [pod, label @ ("com" | "dev" | "br")]
                if !pod.ends_with("-0") && world.was_denied(&service(label), phase) =>
            {
                return Some("a headless service named like a top-level domain and never seen ready");
            }
            _ => {}
        }
    }
    let passing: Vec<String> = asked().filter(|name| world.passes(name, phase)).collect();
    let passes = !passing.is_empty();
    let is_as_with_data = || {
        let outcomes = run(&world.with_passing(|_, _| Has::Data), Mode::Off, &[]).outcomes;
        outcomes[number] == *learned
    };
    if passes && (is_better(learned, plain) || is_as_with_data()) {
        return Some("success where a retry here succeeds and the client's would not");
    }
    if is_stale() && (*plain == Outcome::Failed || is_better(learned, plain)) {
        return Some("what fails now only a walk had asked for before: it is there, stale");
    }
    if is_stale() && world.phases[phase].outage.is_some() {
        return Some("no server can be reached: what is there, stale, is what was asked for before");
    }
    let same_base =
        |other: &usize| world.look_ups().nth(*other).is_some_and(|(_, one)| one.base == look_up.base);
    if is_stale() && earlier.iter().any(same_base) {
        return Some("what an exception kept from being asked is not there later, stale");
    }
    if passes && is_as_without_passing(world, number, &passing, learned) {
        return Some("a failure that passes, and met another look-up");
    }
    None
}

/// A server that answers after so many questions gives the two ways other answers to the same look-up. True where an outcome is
/// a plain cache's before servers that fail for good, or not at all, in each family of each name.
fn is_as_without_passing(world: &World, number: usize, passing: &[String], learned: &Outcome) -> bool {
    let passing = &passing[..passing.len().min(4)];
    let all = (1u32 << (2 * passing.len())) - 1;
    let is_as_with = |which: u32, how| {
        let becomes = |name: &str, family| {
            let place = passing.iter().position(|known| known == name);
            let fails = place.map_or(which == all, |place| which >> (2 * place + family) & 1 == 1);
            if fails { how } else { Has::Data }
        };
        run(&world.with_passing(becomes), Mode::Off, &[]).outcomes[number] == *learned
    };
    [Has::Servfail, Has::Silent].into_iter().any(|how| (1..=all).any(|which| is_as_with(which, how)))
}

/// True where an outcome is the other and more.
fn is_better(outcome: &Outcome, other: &Outcome) -> bool {
    match (outcome, other) {
        (Outcome::Addresses(more), Outcome::Addresses(less)) => more.is_superset(less),
        (Outcome::Addresses(_), _) => true,
        _ => false,
    }
}

/// A look-up that ended otherwise.
struct Difference {
    exception: Option<&'static str>,
    what: String,
}

/// Both ways through a world.
struct Comparison {
    differences: Vec<Difference>,
    /// What occurred on the way.
    features: Vec<&'static str>,
}

fn compare(world: &World) -> Comparison {
    let plain = run(world, Mode::Off, &[]);
    let learned = run(world, Mode::Learn, &plain.times);
    let outcomes = plain.outcomes.iter().zip(&learned.outcomes).enumerate();
    let differ = outcomes.filter(|(_, (plain, learned))| plain != learned);
    let mut earlier = Vec::new();
    let told = differ.map(|(number, (plain, learned))| {
        let exception = exception(world, number, [plain, learned], &earlier);
        earlier.push(number);
        Difference { exception, what: format!("look-up {number}\n plain {plain:?}\n learned {learned:?}") }
    });
    let all = [
        ("timeouts", plain.tally.timeouts > 0),
        ("retries", plain.tally.retries > 0),
        ("truncation", plain.tally.streams > 0),
        ("composed", learned.composed > 0),
    ];
    let features = all.into_iter().filter(|(_, there)| *there).map(|(feature, _)| feature).collect();
    let mut differences: Vec<_> = told.collect();
    if learned.uneven > 0 {
        let what = format!("{} names composed in one family and denied in the other", learned.uneven);
        differences.push(Difference { exception: None, what });
    }
    Comparison { differences, features }
}

fn is_wrong(world: &World) -> bool {
    compare(world).differences.iter().any(|one| one.exception.is_none())
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

/// Runs worlds and tells in how many of them what occurred.
fn run_worlds(seeds: impl Iterator<Item = u64>) -> BTreeMap<&'static str, u64> {
    let mut counts = BTreeMap::new();
    for seed in seeds {
        let world = World::new(seed);
        let Comparison { differences, features } = compare(&world);
        if differences.iter().any(|one| one.exception.is_none()) {
            let smallest = shrink(world);
            let what: Vec<String> = compare(&smallest).differences.into_iter().map(|one| one.what).collect();
            panic!("seed {seed}: {}\n{}", what.join("\n"), story(&smallest));
        }
        let exceptions = differences.iter().filter_map(|one| one.exception);
        let occurred: BTreeSet<_> =
            world.features.iter().copied().chain(features).chain(exceptions).collect();
        occurred.into_iter().for_each(|what| *counts.entry(what).or_default() += 1);
    }
    counts
}

/// A world as a person reads it.
fn story(world: &World) -> String {
    let mut out = format!("TTL {} and {}\n", world.ttl, world.denial_ttl);
    for client in world.clients.iter().flatten() {
        let world::Client { address, libc, conf, .. } = client;
        let suffixes = conf.suffixes.join(" ");
        out += &format!(" {libc:?} at {address}, {:?} x {}: {suffixes}\n", conf.timeout, conf.attempts);
    }
    for (number, (phase, script)) in world.phases.iter().zip(&world.script).enumerate() {
        out += &format!("{phase:?}\n");
        for look_up in script {
            let client = &world.clients[number][look_up.client];
            out += &format!(
                "  after {} ms {:?} at {} looks up {}\n",
                look_up.after_ms,
                client.libc,
                client.address,
                look_up.name()
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
const FEATURES: [&str; 31] = [
    "a name in the cluster exists at a later step",
    "a host domain answers",
    "a host domain answers everything",
    "no data",
    "aliases",
    "aliases to nothing",
    "upstream answers over TCP only",
    "answers too long for a datagram without EDNS",
    "answers too long for any datagram",
    "slow servers",
    "one family denied only",
    "SERVFAIL",
    "silence",
    "refusals",
    "failures that pass",
    "changes",
    "a foreign suffix",
    "impatient clients",
    "several clients at one address",
    "two namespaces at one address",
    "hostNetwork addresses",
    "reused addresses",
    "a namespace named like a top-level domain",
    "headless pods",
    "names with a final dot",
    "names with dots enough",
    "TTL 0",
    "no server can be reached",
    "timeouts",
    "retries",
    "truncation",
];
