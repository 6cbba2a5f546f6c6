//! A real authoritative server that goes away, and one that stays: what clients are given past the end of an answer and
//! shortly before it, and what is sent meanwhile.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::RecordType;

use crate::clients::Pod;
use crate::failures::code;
use crate::harness::{Authority, Counter, Nodens, PATIENCE, need, query, udp};
use crate::machine::unless_it_stands_still;

/// RFC 8914: Stale Answer, Stale NXDOMAIN Answer, No Reachable Authority, Network Error.
const STALE: (ResponseCode, Option<u16>) = (ResponseCode::NoError, Some(3));
const STALE_DENIAL: (ResponseCode, Option<u16>) = (ResponseCode::NXDomain, Some(19));
const UNREACHABLE: (ResponseCode, Option<u16>) = (ResponseCode::ServFail, Some(22));
const NETWORK_ERROR: (ResponseCode, Option<u16>) = (ResponseCode::ServFail, Some(23));

/// Hosts and denials that live so many seconds.
fn zone(ttl: u32) -> Vec<(&'static str, String)> {
    let hosts: String = (0..20).map(|n| format!("h{n} A 192.0.2.{n}\n")).collect();
    let head = format!("$TTL {ttl}\n@ SOA ns admin 1 3600 600 86400 {ttl}\n  NS ns\nns A 192.0.2.53\n");
    vec![("example.com", head + &hosts)]
}

/// Answers of two seconds in the cache, past their end.
fn warm_and_expired(nodens: &Nodens) {
    for name in ["h0", "h1", "h2", "nx"] {
        let fresh = code(nodens, &format!("{name}.example.com"));
        assert!(matches!(fresh, (ResponseCode::NoError | ResponseCode::NXDomain, None)), "{name}: {fresh:?}");
    }
    std::thread::sleep(Duration::from_millis(2100));
}

/// knotd in a namespace of its own, in front of which a packet filter can drop what is sent to it, and counts that.
struct Away {
    pod: Pod,
    _knotd: Authority,
    addr: SocketAddr,
}

impl Away {
    fn new() -> Away {
        let pod = Pod::of("away");
        let addr = SocketAddr::from((pod.own(), 53));
        let knotd = Authority::knotd_at(pod.exec("knotd"), addr, &zone(2));
        Away { pod, _knotd: knotd, addr }
    }

    fn nft(&self, args: &str) -> String {
        let done = self.pod.exec("nft").args(args.split(' ')).output().unwrap();
        assert!(done.status.success(), "nft {args}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap()
    }

    fn drop_all(&self) {
        self.nft("add table ip away");
        self.nft("add chain ip away in { type filter hook input priority 0 ; }");
        self.nft("add rule ip away in udp dport 53 counter drop");
    }

    fn dropped(&self) -> u64 {
        let rules = self.nft("list table ip away");
        rules.split("packets ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap()
    }

    fn is_back(&self) {
        self.nft("delete table ip away");
    }
}

#[test]
fn servers_that_are_silent_are_waited_for_once() {
    unless_it_stands_still(silent_servers);
}

fn silent_servers() {
    if !need("knotd") || !need("nft") {
        return;
    }
    let away = Away::new();
    let nodens = Nodens::before(away.addr, &["--workers", "2"]);
    warm_and_expired(&nodens);
    away.drop_all();

    let start = Instant::now();
    let reply = Message::from_vec(&udp(nodens.addr, &query("h0.example.com", RecordType::A))).unwrap();
    println!("the first to ask was answered after {:?}", start.elapsed());
    assert!(start.elapsed() >= Duration::from_millis(1700), "it waited for a newer answer");
    assert_eq!((reply.answers[0].ttl, code(&nodens, "h0.example.com")), (30, STALE));
    let once = away.dropped();
    assert!((4..=5).contains(&once), "one exchange: {once} packets");

    let start = Instant::now();
    for _ in 0..100 {
        assert_eq!(code(&nodens, "h0.example.com"), STALE);
    }
    println!("the next hundred after {:?} in all", start.elapsed());
    assert!(away.dropped() <= 5, "no client's question goes on to the server: {}", away.dropped());
    assert_eq!(code(&nodens, "nx.example.com"), STALE_DENIAL);

    let start = Instant::now();
    assert_eq!(code(&nodens, "unknown.example.com"), UNREACHABLE);
    println!("an unknown name after {:?}", start.elapsed());
    let before = away.dropped();
    (0..20).for_each(|_| assert_eq!(code(&nodens, "unknown.example.com"), UNREACHABLE));
    assert!(away.dropped() <= before + 5, "a client that repeats itself: {}", away.dropped() - before);
    assert!(nodens.metric("nodens_stale_total", &["\"data\""]) >= 102);
    assert_eq!(nodens.metric("nodens_stale_total", &["\"nxdomain\""]), 1);

    // What nobody has asked for meanwhile is fresh at once, the rest when its time has come.
    away.is_back();
    assert_eq!(code(&nodens, "h1.example.com"), (ResponseCode::NoError, None));
    let start = Instant::now();
    while code(&nodens, "unknown.example.com").0 != ResponseCode::NXDomain {
        assert!(start.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_server_that_is_stopped_is_noticed_at_once() {
    if !need("knotd") {
        return;
    }
    let knotd = Authority::knotd(&zone(2));
    let nodens = Nodens::before(knotd.addr, &["--workers", "2"]);
    warm_and_expired(&nodens);
    drop(knotd);
    for name in ["h0", "h1", "h2", "h0"] {
        assert_eq!(code(&nodens, &format!("{name}.example.com")), STALE, "{name}");
    }
    assert_eq!(code(&nodens, "nx.example.com"), STALE_DENIAL);
    assert_eq!(code(&nodens, "unknown.example.com"), NETWORK_ERROR);
}

/// P2 with prefetch: each name once in the nine tenths of its TTL, and nobody waits for the second answer.
#[test]
fn names_in_use_are_asked_for_again_before_their_end_and_once() {
    unless_it_stands_still(names_in_use);
}

fn names_in_use() {
    if !need("knotd") {
        return;
    }
    let knotd = Authority::knotd(&zone(10));
    let counter = Counter::before(knotd.addr);
    let nodens = Nodens::before(counter.addr, &["--workers", "2"]);
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(10_500) {
        for host in 0..20 {
            assert_eq!(code(&nodens, &format!("h{host}.example.com")), (ResponseCode::NoError, None));
        }
        std::thread::sleep(Duration::from_millis(40));
    }
    assert_eq!((counter.total(), counter.distinct()), (40, 20));
    let (misses, prefetched) =
        (nodens.metric("nodens_cache_misses_total", &[]), nodens.metric("nodens_prefetch_total", &[]));
    assert_eq!((misses, prefetched), (20, 20));
}
