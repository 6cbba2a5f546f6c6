//! Worlds: what exists in a cluster and outside, what fails, who asks for what.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

use crate::models::{Conf, Libc};

pub const ZONE: &str = "cluster.local";
const NAMESPACES: [&str; 5] = ["shop", "prod", "dev", "com", "br"];
pub const HOSTS: [&str; 2] = ["corp.internal", "ec2.internal"];
const FOREIGN: &str = "other.example";
const LIBRARIES: [Libc; 5] = [Libc::Glibc, Libc::OldMusl, Libc::Musl, Libc::Go, Libc::CAres];
/// Where pods of the host's own network are, and the host's own programs.
const NODE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 100));
/// Names that nobody has: two of them show a search list.
const NOWHERE: [&str; 2] = ["one.example.net", "two.example.net"];
/// Names that programs ask for.
const BASES: [&str; 24] = [
    "www.example.com",
    "api.example.org",
    "www.amazon.com.br",
    "www.amazon.com",
    "www.example.dev",
    "a.b.c.example.com",
    "a.b.c.d.e.example.com",
    "github.com",
    "example.dev",
    "amazon.br",
    "mysql-0.mysql",
    "kafka-0.com",
    "web.backend",
    "web",
    "web.prod.svc",
    "kubernetes.default.svc.cluster.local",
    "printer.local",
    "wpad.example.com",
    // Whole names of pods and services, which have dots enough to be asked as they are.
    "mysql-0.mysql.shop.svc.cluster.local",
    "mysql-1.mysql.prod.svc.cluster.local",
    "github.com.shop.svc.cluster.local",
    "kafka-0.com.com.svc.cluster.local",
    "www.example.com.shop.svc.cluster.local",
    "web.backend.br.svc.cluster.local",
];

/// What a name has in one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Has {
    Data,
    /// Data behind an alias.
    Alias,
    /// Data that comes over TCP only.
    Truncated,
    /// Data too long for a datagram without EDNS.
    Large,
    /// Data too long for any datagram.
    Huge,
    /// Data that comes late.
    Slow,
    NoData,
    /// An alias to a name without data.
    AliasNoData,
    Denied,
    /// An alias to a name that does not exist.
    AliasDenied,
    Servfail,
    Refused,
    Silent,
    /// SERVFAIL to the first question, then data.
    FailsFirst,
    /// Silence until nodens gives up, then data.
    LostFirst,
}

impl Has {
    /// It is no answer.
    fn fails(self) -> bool {
        matches!(self, Has::Servfail | Has::Refused | Has::Silent) || self.passes()
    }

    /// It fails, but not for long.
    pub fn passes(self) -> bool {
        matches!(self, Has::FailsFirst | Has::LostFirst)
    }
}

/// What exists while nothing changes.
#[derive(Clone, Debug)]
pub struct Phase {
    names: HashMap<String, [Has; 2]>,
    /// Everything below this suffix exists.
    wildcard: Option<String>,
    /// What every question meets where no server can be reached.
    pub outage: Option<Has>,
}

/// A program, and the pod it runs in.
#[derive(Clone, Debug)]
pub struct Client {
    pub address: IpAddr,
    /// Nothing for a program of the host's own.
    pub namespace: Option<&'static str>,
    pub libc: Libc,
    pub conf: Conf,
    pub foreign: bool,
}

/// One look-up: who, what, and how many milliseconds after the one before.
#[derive(Clone, Debug)]
pub struct LookUp {
    pub client: usize,
    pub base: &'static str,
    /// With a dot at its end.
    pub rooted: bool,
    pub after_ms: u64,
}

impl LookUp {
    /// The name as the program has it.
    pub fn name(&self) -> String {
        format!("{}{}", self.base, if self.rooted { "." } else { "" })
    }
}

/// A world with its history.
#[derive(Clone, Debug)]
pub struct World {
    pub phases: Vec<Phase>,
    /// Clients by phase: between phases an address may pass to another pod.
    pub clients: Vec<Vec<Client>>,
    /// Look-ups by phase.
    pub script: Vec<Vec<LookUp>>,
    pub ttl: u32,
    pub denial_ttl: u32,
    /// What occurs in it, for the count.
    pub features: Vec<&'static str>,
}

impl Phase {
    pub fn has(&self, name: &str, family: usize) -> Has {
        let known = self.outage.or_else(|| self.names.get(name).map(|has| has[family]));
        let wild = self.wildcard.as_ref().is_some_and(|suffix| name.ends_with(suffix.as_str()));
        known.unwrap_or(if wild { Has::Data } else { Has::Denied })
    }
}

fn pick_has(random: &mut SmallRng) -> [Has; 2] {
    use Has::{
        Alias, AliasDenied, AliasNoData, Data, Denied, FailsFirst, Huge, Large, LostFirst, NoData, Refused,
        Servfail, Silent, Slow, Truncated,
    };
    let pairs: [([Has; 2], u32); 28] = [
        ([Data, Data], 50),
        ([Data, NoData], 14),
        ([NoData, Data], 7),
        ([Alias, Alias], 12),
        ([Alias, AliasNoData], 7),
        ([Truncated, Truncated], 3),
        ([Truncated, NoData], 2),
        ([Large, Large], 4),
        ([Large, NoData], 3),
        ([Data, Large], 2),
        ([Huge, Huge], 3),
        ([Slow, Slow], 3),
        ([Data, Slow], 2),
        ([NoData, NoData], 8),
        ([AliasNoData, AliasNoData], 3),
        ([AliasDenied, AliasDenied], 3),
        ([Data, Denied], 5),
        ([Denied, Data], 3),
        ([Denied, NoData], 3),
        ([Servfail, Servfail], 5),
        ([Data, Servfail], 5),
        ([Servfail, Data], 4),
        ([NoData, Servfail], 2),
        ([Silent, Silent], 4),
        ([Data, Silent], 3),
        ([Refused, Refused], 2),
        ([FailsFirst, FailsFirst], 4),
        ([Data, FailsFirst], 6),
    ];
    let pair = pairs.choose_weighted(random, |pair| pair.1).unwrap().0;
    // What fails once does it in one way or the other.
    let lost = random.random_bool(0.5);
    pair.map(|has| if has == FailsFirst && lost { LostFirst } else { has })
}

/// True for `mysql-0.mysql`: a pod of a headless service.
fn is_pod(base: &str) -> bool {
    matches!(base.split_once('.'), Some((pod, service)) if pod.ends_with("-0") && !service.contains('.'))
}

fn phase(random: &mut SmallRng, asked: &[(&'static str, &'static str)]) -> Phase {
    let mut names = HashMap::new();
    for (base, namespace) in asked {
        let whole = base.ends_with(".svc.cluster.local");
        if random.random_bool(if whole { 0.2 } else { 0.75 }) {
            names.insert((*base).to_string(), pick_has(random));
        }
        for suffix in [
            format!("{namespace}.svc.{ZONE}"),
            format!("svc.{ZONE}"),
            ZONE.into(),
            HOSTS[0].into(),
            HOSTS[1].into(),
            FOREIGN.into(),
        ] {
            if random.random_bool(0.06) {
                names.insert(format!("{base}.{suffix}"), pick_has(random));
            }
        }
        // What a pod's whole name would be taken for, if it were taken for the first step of a search.
        if let Some(pod) = base.strip_suffix(".svc.cluster.local")
            && let Some((pod, _)) = pod.rsplit_once('.')
        {
            for name in [format!("{pod}.svc.{ZONE}"), pod.to_string()] {
                if random.random_bool(0.5) {
                    names.insert(name, [Has::Data, Has::Data]);
                }
            }
            if let Some((_, service)) = base.split_once('.').filter(|_| random.random_bool(0.4)) {
                names.insert(service.to_string(), [Has::Data, Has::NoData]);
            }
        }
        // A service named like the last label of a base of two; of its pods some are ready.
        let is_pod = is_pod(base);
        if let Some((_, second)) = base.split_once('.').filter(|(_, second)| !second.contains('.'))
            && random.random_bool(if is_pod { 0.5 } else { 0.15 })
        {
            names.insert(format!("{second}.{namespace}.svc.{ZONE}"), [Has::Data, Has::NoData]);
            if is_pod && random.random_bool(0.5) {
                names.insert(format!("{base}.{namespace}.svc.{ZONE}"), [Has::Data, Has::NoData]);
            }
        }
    }
    let wildcard = random.random_bool(0.03).then(|| format!(".{}", HOSTS[0]));
    Phase { names, wildcard, outage: None }
}

fn client(random: &mut SmallRng, at_node: f64) -> Client {
    let libc = *LIBRARIES.choose(random).unwrap();
    let is_at_node = random.random_bool(at_node);
    let last = random.random_range(1..=3);
    let address = if is_at_node { NODE } else { Ipv4Addr::new(10, 0, 0, last).into() };
    // What a resolv.conf says of patience, if it says anything.
    let (timeout, attempts) = match random.random_bool(0.25) {
        true => (Duration::from_secs(1), 2),
        false => libc.patience(),
    };
    let conf = |suffixes, ndots| Conf { suffixes, ndots, timeout, attempts };
    if is_at_node && random.random_bool(0.3) {
        let conf = conf(HOSTS.map(String::from).into(), 1);
        return Client { address, namespace: None, libc, conf, foreign: false };
    }
    let namespace = NAMESPACES.choose(random).unwrap();
    let foreign = random.random_bool(0.08);
    let hosts = random.random_range(0..=HOSTS.len());
    let mut suffixes = vec![format!("{namespace}.svc.{ZONE}"), format!("svc.{ZONE}"), ZONE.to_string()];
    suffixes.extend(HOSTS[..hosts].iter().map(|host| (*host).to_string()));
    if foreign {
        suffixes.push(FOREIGN.into());
    }
    Client { address, namespace: Some(namespace), libc, conf: conf(suffixes, 5), foreign }
}

impl World {
    pub fn new(seed: u64) -> World {
        let random = &mut SmallRng::seed_from_u64(seed);
        let at_node = if random.random_bool(0.3) { 0.7 } else { 0.0 };
        let first: Vec<Client> = (0..random.random_range(1..=3)).map(|_| client(random, at_node)).collect();
        let count = first.len();
        let phases = random.random_range(1..=2);
        let mut clients = vec![first];
        if phases > 1 {
            let mut second = clients[0].clone();
            for old in &mut second {
                if random.random_bool(0.3) {
                    *old = Client { address: old.address, ..client(random, 0.0) };
                }
            }
            clients.push(second);
        }
        let mut script = Vec::new();
        for _ in 0..phases {
            let different = random.random_range(3..=5);
            let bases: Vec<&'static str> = BASES.sample(random, different).copied().collect();
            let look_ups = random.random_range(6..=12);
            let look_up = |_| LookUp {
                client: random.random_range(0..count),
                base: bases.choose(random).unwrap(),
                rooted: random.random_bool(0.08),
                after_ms: *[20, 300, 2500, 12_000, 40_000].choose(random).unwrap(),
            };
            script.push((0..look_ups).map(look_up).collect::<Vec<_>>());
        }
        // In some worlds a search list is known from the beginning.
        if random.random_bool(0.3) {
            let shows = |base| LookUp { client: 0, base, rooted: false, after_ms: 300 };
            script[0].splice(0..0, NOWHERE.map(shows));
        }
        let by_phase = script.iter().zip(&clients);
        let asked: Vec<(&'static str, &'static str)> = by_phase
            .flat_map(|(look_ups, clients)| {
                let look_ups = look_ups.iter().filter(|one| !NOWHERE.contains(&one.base));
                look_ups.map(|one| (one.base, clients[one.client].namespace.unwrap_or("default")))
            })
            .collect();
        let mut phases: Vec<Phase> = (0..phases).map(|_| phase(random, &asked)).collect();
        // The servers go away, and everybody goes on as before.
        if random.random_bool(0.25) {
            let outage = *[Has::Silent, Has::Servfail, Has::Refused].choose(random).unwrap();
            phases.push(Phase { names: HashMap::new(), wildcard: None, outage: Some(outage) });
            clients.extend(clients.last().cloned());
            script.extend(script.last().cloned());
        }
        let ttl = *[0, 5, 30, 300].choose(random).unwrap();
        let denial_ttl = *[5, 30].choose(random).unwrap();
        let mut world = World { phases, clients, script, ttl, denial_ttl, features: vec![] };
        world.features = world.find_features();
        world
    }

    /// All look-ups in their order, and the phase of each.
    pub fn look_ups(&self) -> impl Iterator<Item = (usize, &LookUp)> {
        let scripts = self.script.iter().enumerate();
        scripts.flat_map(|(phase, script)| script.iter().map(move |one| (phase, one)))
    }

    /// The same where what fails and passes is something else from the start, said of each name and family.
    pub fn with_passing(&self, becomes: impl Fn(&str, usize) -> Has) -> World {
        let mut world = self.clone();
        for (name, pair) in world.phases.iter_mut().flat_map(|phase| &mut phase.names) {
            for (family, has) in pair.iter_mut().enumerate().filter(|(_, has)| has.passes()) {
                *has = becomes(name, family);
            }
        }
        world
    }

    /// What a client may be given of a name: where it fails, also what it had before, stale.
    pub fn may_have(&self, name: &str, family: usize, phase: usize) -> Vec<Has> {
        let has = |phase: &Phase| phase.has(name, family);
        let now = has(&self.phases[phase]);
        let before = self.phases[..phase].iter().filter(|_| now.fails()).map(has);
        before.chain([now]).collect()
    }

    /// True where a client may be given something of a name that fails.
    pub fn may_be_stale(&self, name: &str, phase: usize) -> bool {
        let is_stale = |has: Vec<Has>| {
            has.last().is_some_and(|now| now.fails()) && has.iter().any(|before| !before.fails())
        };
        [0, 1].into_iter().any(|family| is_stale(self.may_have(name, family, phase)))
    }

    /// True where a client may see one family of a name denied and not the other.
    pub fn is_half_denied(&self, name: &str, phase: usize) -> bool {
        let [v4, v6] = [0, 1].map(|family| self.may_have(name, family, phase));
        v4.iter().any(|v4| v6.iter().any(|v6| is_half_denied([*v4, *v6])))
    }

    /// True where a name fails that would not if it were asked again, or did before.
    pub fn passes(&self, name: &str, phase: usize) -> bool {
        [0, 1].into_iter().any(|family| self.may_have(name, family, phase).into_iter().any(Has::passes))
    }

    /// True where a name was denied when a server was last there.
    pub fn was_denied(&self, name: &str, phase: usize) -> bool {
        let last = self.phases[..=phase].iter().rev().find(|phase| phase.outage.is_none());
        last.is_some_and(|phase| [0, 1].into_iter().all(|family| phase.has(name, family) == Has::Denied))
    }

    /// The same with one look-up less, or one name.
    pub fn smaller(&self) -> Vec<World> {
        let mut all = Vec::new();
        for phase in 0..self.phases.len() {
            for index in 0..self.script[phase].len() {
                let mut world = self.clone();
                let gone = world.script[phase].remove(index);
                // What comes after it comes when it did.
                if let Some(next) = world.script[phase].get_mut(index) {
                    next.after_ms += gone.after_ms;
                }
                all.push(world);
            }
            let mut names: Vec<&String> = self.phases[phase].names.keys().collect();
            names.sort();
            for name in names {
                let mut world = self.clone();
                world.phases[phase].names.remove(name);
                all.push(world);
            }
        }
        all
    }

    fn find_features(&self) -> Vec<&'static str> {
        let pairs = || self.phases.iter().flat_map(|phase| phase.names.iter());
        let any = |has: Has| pairs().any(|(_, pair)| pair.contains(&has));
        let hosts = |name: &str| HOSTS.iter().any(|host| name.ends_with(host));
        let clients = || self.clients.iter().flatten();
        let neighbours = || {
            self.clients.iter().flat_map(|clients| {
                let at = |one: &Client, other: &Client| one.address == other.address;
                let rest = |index: usize| clients[index + 1..].iter();
                let all = clients.iter().enumerate();
                all.flat_map(move |(index, one)| rest(index).map(move |other| (one, other)))
                    .filter(move |(one, other)| at(one, other))
            })
        };
        let reused = |pair: &[Vec<Client>]| {
            pair[0].iter().zip(&pair[1]).any(|(one, other)| one.namespace != other.namespace)
        };
        let look_ups = || {
            self.look_ups().map(|(phase, one)| (one, &self.clients[phase][one.client], &self.phases[phase]))
        };
        let is_of_service = |one: &LookUp, client: &Client, phase: &Phase| {
            let service = one.base.split_once('.').map_or("", |(_, service)| service);
            let name = client.namespace.map(|namespace| format!("{service}.{namespace}.svc.{ZONE}"));
            is_pod(one.base) && name.is_some_and(|name| phase.has(&name, 0) == Has::Data)
        };
        let enough_dots = |one: &LookUp, client: &Client| {
            !one.rooted && client.namespace.is_some() && one.base.matches('.').count() >= client.conf.ndots
        };
        let all = [
            ("a name in the cluster exists at a later step", pairs().any(|(name, _)| name.ends_with(ZONE))),
            ("a host domain answers", pairs().any(|(name, _)| hosts(name))),
            ("a host domain answers everything", self.phases.iter().any(|phase| phase.wildcard.is_some())),
            ("no data", any(Has::NoData)),
            ("aliases", any(Has::Alias)),
            ("aliases to nothing", any(Has::AliasDenied)),
            ("upstream answers over TCP only", any(Has::Truncated) || any(Has::Huge)),
            ("answers too long for a datagram without EDNS", any(Has::Large)),
            ("answers too long for any datagram", any(Has::Huge)),
            ("slow servers", any(Has::Slow)),
            ("one family denied only", pairs().any(|(_, pair)| is_half_denied(*pair))),
            ("SERVFAIL", any(Has::Servfail)),
            ("silence", any(Has::Silent)),
            ("refusals", any(Has::Refused)),
            ("failures that pass", any(Has::FailsFirst) || any(Has::LostFirst)),
            ("changes", self.phases.len() > 1),
            ("a foreign suffix", clients().any(|client| client.foreign)),
            ("impatient clients", clients().any(|client| client.conf.timeout < client.libc.patience().0)),
            ("several clients at one address", neighbours().next().is_some()),
            (
                "two namespaces at one address",
                neighbours().any(|(one, other)| one.namespace != other.namespace),
            ),
            (
                "hostNetwork addresses",
                neighbours().any(|(one, other)| one.address == NODE && one.namespace != other.namespace),
            ),
            ("reused addresses", self.clients.windows(2).any(reused)),
            (
                "a namespace named like a top-level domain",
                clients()
                    .any(|client| client.namespace.is_some_and(|name| ["dev", "com", "br"].contains(&name))),
            ),
            ("headless pods", look_ups().any(|(one, client, phase)| is_of_service(one, client, phase))),
            ("names with a final dot", look_ups().any(|(one, ..)| one.rooted)),
            ("names with dots enough", look_ups().any(|(one, client, _)| enough_dots(one, client))),
            ("TTL 0", self.ttl == 0),
            ("no server can be reached", self.phases.iter().any(|phase| phase.outage.is_some())),
        ];
        all.into_iter().filter(|(_, there)| *there).map(|(feature, _)| feature).collect()
    }
}

/// Servers exist that deny one family of a name that they have.
fn is_half_denied(pair: [Has; 2]) -> bool {
    let denied = |has: Has| matches!(has, Has::Denied | Has::AliasDenied);
    denied(pair[0]) != denied(pair[1])
}
