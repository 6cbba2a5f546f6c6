//! Questions that a node's pods ask, made up from a seed or replayed from a recording: the same ones in every run.

use std::collections::HashMap;

use nodens::wire::answer::Kind;
use nodens::wire::name::Name;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Clients of the traces that have many.
const CLIENTS: u16 = 50;
/// TTL of answers where their end is not what is looked at.
const LONG: u32 = 86_400;

/// A question and what is answered.
pub struct Question {
    /// QNAME, QTYPE, QCLASS.
    pub octets: Vec<u8>,
    /// Data or a denial.
    pub kind: Kind,
    /// Seconds.
    pub ttl: u32,
}

/// Somebody asks.
#[derive(Clone, Copy)]
pub struct Ask {
    /// Milliseconds since the beginning.
    pub at_ms: u64,
    /// Who asks.
    pub client: u16,
    /// Which question, by its place.
    pub question: u32,
}

/// All that is asked, in order.
pub struct Trace {
    /// Its name in tables.
    pub name: String,
    /// What can be asked.
    pub questions: Vec<Question>,
    /// What is.
    pub asks: Vec<Ask>,
}

impl Trace {
    /// True where one client's questions are noise, which no cache can answer.
    pub fn has_noise(&self) -> bool {
        self.name == "noisy client"
    }
}

/// How much of everything: names and asks grow with it.
#[derive(Clone, Copy)]
pub struct Scale {
    /// Names of the popular set.
    pub names: u32,
    /// Asks of a trace.
    pub asks: u32,
}

/// The client that makes noise.
pub const NOISY: u16 = CLIENTS;

/// All traces.
pub fn all(scale: Scale) -> Vec<Trace> {
    let mut traces: Vec<_> = [0.6, 0.8, 1.0, 1.2].map(|exponent| zipf(scale, exponent)).into();
    traces.extend([scan(scale), noisy(scale), shift(scale, CLIENTS), shift(scale, 1), node(scale)]);
    traces
}

struct Maker {
    trace: Trace,
    rng: StdRng,
    now_ms: u64,
}

impl Maker {
    fn new(name: String) -> Maker {
        let trace = Trace { name, questions: Vec::new(), asks: Vec::new() };
        Maker { trace, rng: StdRng::seed_from_u64(7), now_ms: 0 }
    }

    fn question(&mut self, name: &str, qtype: u8, kind: Kind, ttl: u32) -> u32 {
        let octets = [Name::from_text(name).unwrap().as_wire(), &[0, qtype, 0, 1]].concat();
        self.trace.questions.push(Question { octets, kind, ttl });
        (self.trace.questions.len() - 1) as u32
    }

    fn names(&mut self, prefix: &str, count: u32) {
        for n in 0..count {
            self.question(&format!("{prefix}{n}.example.com"), 1, Kind::Data, LONG);
        }
    }

    fn ask(&mut self, client: u16, question: u32) {
        self.now_ms += 1;
        self.trace.asks.push(Ask { at_ms: self.now_ms, client, question });
    }

    fn ask_some(&mut self, clients: u16, ranks: &Zipf, place: impl Fn(u32) -> u32) {
        let (client, rank) = (self.rng.random_range(0..clients), ranks.draw(&mut self.rng));
        self.ask(client, place(rank));
    }
}

/// Ranks from 0, the first the most frequent, by 1 / (rank + 1)^exponent.
struct Zipf(Vec<f64>);

impl Zipf {
    fn new(ranks: u32, exponent: f64) -> Zipf {
        let mut sum = 0.0;
        Zipf(
            (1..=ranks)
                .map(|rank| {
                    sum += f64::from(rank).powf(-exponent);
                    sum
                })
                .collect(),
        )
    }

    fn draw(&self, rng: &mut StdRng) -> u32 {
        let at = rng.random::<f64>() * self.0.last().unwrap();
        self.0.partition_point(|sum| *sum <= at) as u32
    }
}

fn zipf(scale: Scale, exponent: f64) -> Trace {
    let mut maker = Maker::new(format!("Zipf {exponent}"));
    maker.names("n", scale.names);
    let ranks = Zipf::new(scale.names, exponent);
    (0..scale.asks).for_each(|_| maker.ask_some(CLIENTS, &ranks, |rank| rank));
    maker.trace
}

/// Half-way one client asks every name of a long list once, between the others' questions.
fn scan(scale: Scale) -> Trace {
    let mut maker = Maker::new("scan".into());
    maker.names("n", scale.names);
    maker.names("scan", scale.names);
    let ranks = Zipf::new(scale.names, 1.0);
    for ask in 0..scale.asks {
        maker.ask_some(CLIENTS, &ranks, |rank| rank);
        if let Some(scanned) = ask.checked_sub(scale.asks / 2).filter(|scanned| *scanned < scale.names) {
            maker.ask(NOISY, scale.names + scanned);
        }
    }
    maker.trace
}

/// For each question of the others one client asks a name that nobody asks again.
fn noisy(scale: Scale) -> Trace {
    let mut maker = Maker::new("noisy client".into());
    maker.names("n", scale.names);
    maker.names("noise", scale.asks);
    let ranks = Zipf::new(scale.names, 1.0);
    for ask in 0..scale.asks {
        maker.ask_some(CLIENTS, &ranks, |rank| rank);
        maker.ask(NOISY, scale.names + ask);
    }
    maker.trace
}

/// Eight times another set of names is the popular one.
fn shift(scale: Scale, clients: u16) -> Trace {
    let mut maker =
        Maker::new(format!("daily shift, {clients} client{}", if clients == 1 { "" } else { "s" }));
    maker.names("n", scale.names);
    let ranks = Zipf::new(scale.names, 1.0);
    for ask in 0..scale.asks {
        let first = ask / scale.asks.div_ceil(8) * (scale.names / 8);
        maker.ask_some(clients, &ranks, |rank| (rank + first) % scale.names);
    }
    maker.trace
}

/// A look-up as recorded: its name, then what was asked.
struct Walk {
    base: &'static str,
    steps: Vec<(&'static str, u8, Kind)>,
}

fn walks() -> Vec<Walk> {
    let mut walks: Vec<Walk> = Vec::new();
    for line in include_str!("walks.txt").lines().filter(|line| !line.starts_with('#')) {
        match line.split_whitespace().collect::<Vec<_>>()[..] {
            [base] => walks.push(Walk { base, steps: vec![] }),
            [name, qtype, said] => {
                let kind = if said == "NOERROR" { Kind::Data } else { Kind::NxDomain };
                let step = (name, if qtype == "A" { 1 } else { 28 }, kind);
                walks.last_mut().unwrap().steps.push(step);
            }
            _ => panic!("{line}"),
        }
    }
    walks
}

/// How often the programs of pods look up what, by the recorded name.
const LOOK_UPS: [(&str, u32); 8] = [
    ("web", 25),
    ("web.prod", 25),
    ("web.prod.svc", 5),
    ("web.shop.svc.cluster.local", 10),
    ("www.example.com", 25),
    ("example.com", 5),
    ("nx.example.com", 3),
    ("nothing", 2),
];
const PODS: u16 = 110;
const NAMESPACES: u32 = 20;
const SERVICES_PER_NAMESPACE: u32 = 15;
/// Names that a pod's programs look up again and again.
const NAMES_PER_POD: usize = 12;
/// A pod looks a name up so often, on average.
const BETWEEN_LOOK_UPS_MS: f64 = 4000.0;

/// A node: the recorded walks for the names of its pods, with the TTLs of a cluster DNS (5 s) and of the internet (30 to
/// 300 s).
fn node(scale: Scale) -> Trace {
    let mut maker = Maker::new(format!("node of {PODS} pods"));
    let walks = walks();
    let externals = Zipf::new(scale.names / 10, 1.0);
    let pods: Vec<(String, Vec<(&Walk, String)>)> = (0..PODS)
        .map(|_| {
            let namespace = format!("team-{}", maker.rng.random_range(0..NAMESPACES));
            let names = (0..NAMES_PER_POD).map(|_| pod_name(&mut maker.rng, &walks, &namespace, &externals));
            let names = names.collect();
            (namespace, names)
        })
        .collect();
    let popular = Zipf::new(NAMES_PER_POD as u32, 0.8);
    let mut known = HashMap::new();
    let mut now_ms = 0.0;
    while maker.trace.asks.len() < scale.asks as usize {
        now_ms += -(1.0 - maker.rng.random::<f64>()).ln() * BETWEEN_LOOK_UPS_MS / f64::from(PODS);
        let pod = maker.rng.random_range(0..PODS);
        let (namespace, names) = &pods[usize::from(pod)];
        let (walk, base) = &names[popular.draw(&mut maker.rng) as usize];
        maker.now_ms = now_ms as u64;
        for &(recorded, qtype, kind) in &walk.steps {
            let rest = recorded.strip_prefix(walk.base).unwrap();
            let name = format!("{base}{}", rest.replacen(".shop.", &format!(".{namespace}."), 1));
            let question = *known
                .entry((name.clone(), qtype))
                .or_insert_with(|| maker.question(&name, qtype, kind, ttl(&name, base)));
            maker.trace.asks.push(Ask { at_ms: maker.now_ms, client: pod, question });
        }
    }
    maker.trace
}

/// A name of a pod's own in place of a recorded one.
fn pod_name<'w>(
    rng: &mut StdRng,
    walks: &'w [Walk],
    namespace: &str,
    externals: &Zipf,
) -> (&'w Walk, String) {
    let mut at = rng.random_range(0..LOOK_UPS.iter().map(|(_, weight)| weight).sum());
    let (recorded, _) = LOOK_UPS
        .iter()
        .find(|(_, weight)| {
            let found = at < *weight;
            at = at.saturating_sub(*weight);
            found
        })
        .unwrap();
    let service = format!("service-{}", rng.random_range(0..SERVICES_PER_NAMESPACE));
    let other = format!("team-{}", rng.random_range(0..NAMESPACES));
    let external = externals.draw(rng);
    let base = match *recorded {
        "web" => service,
        "web.prod" => format!("{service}.{other}"),
        "web.prod.svc" => format!("{service}.{other}.svc"),
        "web.shop.svc.cluster.local" => format!("{service}.{namespace}.svc.cluster.local"),
        "www.example.com" => format!("www.site{external}.com"),
        "example.com" => format!("site{external}.com"),
        "nx.example.com" => format!("gone.site{external}.com"),
        _ => format!("old-{service}"),
    };
    (walks.iter().find(|walk| walk.base == *recorded).unwrap(), base)
}

fn ttl(name: &str, base: &str) -> u32 {
    if name.ends_with(".cluster.local") {
        return 5;
    }
    30 + base.bytes().fold(0u32, |sum, octet| sum.wrapping_mul(31).wrapping_add(octet.into())) % 271
}
