//! The store and its rivals in time: a look-up, an insertion into a full one, both by two workers at once, and the slowest
//! of the insertions.
//!
//! `cargo bench --bench store`. All hold 20,000 answers and are full. Behind the hot level a look-up here is paid once per
//! answer and not once per question, an insertion once per question upstream.

#![allow(clippy::indexing_slicing, clippy::print_stdout, clippy::unwrap_used, missing_docs, unreachable_pub)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BatchSize, Criterion};

use nodens::cache::entry::{ClientBucket, Entry};
use nodens::cache::key::{KeyHasher, QueryKey, SearchListId};
use nodens::cache::ttl::{Caps, Moment};
use nodens::wire::answer::Kind;
use nodens::wire::name::Name;
use nodens::wire::question::Question;

#[allow(dead_code, reason = "each benchmark uses its part")]
mod rivals;
use rivals::{Contender, OURS, RIVALS, Rival, USUAL_ENTRY, answer};

const DAY: Duration = Duration::from_secs(86_400);
const CAPS: Caps = Caps { positive: DAY, negative: Duration::from_secs(3600), stale: DAY };
const ENTRIES: u32 = 20_000;

/// The program's own.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Keys and entries to them, one after another, without end; of clients of their own, as a crowd's are.
struct Supply {
    hasher: KeyHasher,
    next: u32,
}

impl Supply {
    fn entry(&mut self) -> (QueryKey, Arc<Entry>) {
        let name = Name::from_text(&format!("service-{}.shop.svc.cluster.local", self.next)).unwrap();
        let question = [name.as_wire(), &[0, 1, 0, 1]].concat();
        let message = [&[0; 12], &question[..]].concat();
        let parsed = Question::read(&message).unwrap();
        let key = QueryKey::of(&parsed, false, false, SearchListId::LITERAL, &self.hasher);
        let bucket = ClientBucket((self.next % 250) as u16);
        let entry = Entry::new(&key, answer(&question, Kind::Data, 3600, 1), CAPS, 0, bucket, Moment(0));
        self.next += 1;
        (key, Arc::new(entry))
    }
}

/// A full store and the keys that were put into it last.
fn full(contender: &Contender, supply: &mut Supply) -> (Box<dyn Rival>, Vec<QueryKey>) {
    let bytes = u64::from(ENTRIES) * (USUAL_ENTRY + u64::from(contender.overhead));
    let rival = (contender.make)(bytes, contender.overhead);
    let mut keys = Vec::new();
    for _ in 0..ENTRIES * 5 / 4 {
        let (key, entry) = supply.entry();
        rival.insert(entry, Moment(0));
        keys.push(key);
    }
    rival.settle();
    keys.retain(|key| rival.get(key).is_some());
    (rival, keys)
}

fn speed(criterion: &mut Criterion) {
    for contender in [&OURS].into_iter().chain(&RIVALS) {
        let mut supply = Supply { hasher: KeyHasher::default(), next: 0 };
        let (rival, keys) = full(contender, &mut supply);
        let mut group = criterion.benchmark_group(contender.name);
        let mut at = 0;
        group.bench_function("look-up", |bench| {
            bench.iter(|| {
                // A stride in no order that memory foresees.
                at = (at + 7919) % keys.len();
                rival.get(&keys[at]).is_some()
            })
        });
        group.bench_function("insertion", |bench| {
            bench.iter_batched(
                || supply.entry().1,
                |entry| rival.insert(entry, Moment(0)),
                BatchSize::LargeInput,
            )
        });
        group.finish();
    }
}

/// Nanoseconds that this thread has been on a core: what others do on the machine does not count.
fn on_core_ns() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split(' ').next().unwrap().parse().unwrap()
}

/// CPU time of a look-up and of an insertion, in microseconds, where one worker does all and where two do half each at once.
fn at_once(operations: usize) {
    println!("{:>16} {:>10} {:>10} {:>10} {:>10}  (us of CPU)", "workers", "get: 1", "2", "insert: 1", "2");
    for contender in [&OURS].into_iter().chain(&RIVALS) {
        let mut supply = Supply { hasher: KeyHasher::default(), next: 0 };
        let (rival, keys) = full(contender, &mut supply);
        let mut cells = Vec::new();
        for workers in [1, 2] {
            let gets = shared_out(workers, operations, |worker| {
                let (rival, keys) = (&rival, &keys);
                move |number: usize| {
                    std::hint::black_box(rival.get(&keys[(number * 7919 + worker) % keys.len()]));
                }
            });
            cells.push(gets);
        }
        for workers in [1, 2] {
            cells.push(shared_out(workers, operations, |_| {
                let mut entries: Vec<_> = (0..operations / workers).map(|_| supply.entry().1).collect();
                let rival = &rival;
                move |_| rival.insert(entries.pop().unwrap(), Moment(0))
            }));
        }
        let [one_gets, two_get, one_inserts, two_insert] = cells[..] else { unreachable!() };
        println!(
            "{:>16} {one_gets:>10.3} {two_get:>10.3} {one_inserts:>10.3} {two_insert:>10.3}",
            contender.name
        );
    }
}

/// CPU time of each operation, in microseconds, where so many workers share them.
fn shared_out<F: FnMut(usize) + Send>(
    workers: usize,
    operations: usize,
    mut worker: impl FnMut(usize) -> F,
) -> f64 {
    let work: Vec<_> = (0..workers).map(&mut worker).collect();
    let ns = std::thread::scope(|scope| {
        let started: Vec<_> = work
            .into_iter()
            .map(|mut operation| {
                scope.spawn(move || {
                    let before = on_core_ns();
                    (0..operations / workers).for_each(&mut operation);
                    on_core_ns() - before
                })
            })
            .collect();
        started.into_iter().map(|thread| thread.join().unwrap()).sum::<u64>()
    });
    ns as f64 / operations as f64 / 1000.0
}

/// Percentiles of single insertions, in microseconds: now and then one does what others have put off.
#[allow(clippy::disallowed_methods, reason = "each insertion is timed")]
fn tails(insertions: usize) {
    println!(
        "{:>16} {:>8} {:>8} {:>8} {:>8} {:>8}  (us)",
        "insertion", "CPU", "median", "99 %", "99.9 %", "longest"
    );
    for contender in [&OURS].into_iter().chain(&RIVALS) {
        let mut supply = Supply { hasher: KeyHasher::default(), next: 0 };
        let (rival, _) = full(contender, &mut supply);
        let entries: Vec<_> = (0..insertions).map(|_| supply.entry().1).collect();
        let before = on_core_ns();
        let mut took: Vec<Duration> = entries
            .into_iter()
            .map(|entry| {
                let start = Instant::now();
                rival.insert(entry, Moment(0));
                start.elapsed()
            })
            .collect();
        let cpu = (on_core_ns() - before) as f64 / insertions as f64 / 1000.0;
        took.sort_unstable();
        let at = |part: f64| took[((insertions - 1) as f64 * part) as usize].as_nanos() as f64 / 1000.0;
        let [half, most, nearly_all, all] = [at(0.5), at(0.99), at(0.999), at(1.0)];
        println!("{:>16} {cpu:>8.2} {half:>8.1} {most:>8.1} {nearly_all:>8.1} {all:>8.1}", contender.name);
    }
}

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_millis(700))
        .configure_from_args();
    speed(&mut criterion);
    criterion.final_summary();
    let operations = if std::env::args().any(|argument| argument == "--bench") { 100_000 } else { 100 };
    at_once(operations);
    tails(operations);
}
