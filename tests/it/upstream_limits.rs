//! Upstreams that let through only so much: knotd in a network namespace behind the kernel's own limiter, and what arrives there.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hickory_resolver::proto::rr::RecordType;

use crate::clients::Pod;
use crate::harness::{Authority, Dir, Nodens, need, query, tool, udp_from};

/// Packets a second that a VPC resolver of AWS takes from an interface.
const LIMIT: f64 = 1024.0;

/// knotd where the kernel drops what a rule says, and counts it.
struct Limited {
    pod: Pod,
    _knotd: Authority,
}

impl Limited {
    /// `rules` are nftables rules for what comes in on port 53 (`input`) and what goes out from there (`output`).
    fn new(input: &str, output: &str) -> Limited {
        let pod = Pod::of("limit");
        let zone =
            "$TTL 300\n@ SOA ns hostmaster 1 3600 600 86400 60\n@ NS ns\nns A 192.0.2.1\n* A 192.0.2.9\n";
        let addr = SocketAddr::from((pod.own(), 53));
        let knotd = Authority::knotd_at(pod.exec("knotd"), addr, &[("example.com", zone.into())]);
        let limited = Limited { pod, _knotd: knotd };
        limited.nft("add table inet lab");
        limited.nft("add counter inet lab came");
        limited.nft("add counter inet lab dropped");
        limited.nft("add chain inet lab in { type filter hook input priority 0; }");
        limited.nft("add chain inet lab out { type filter hook output priority 0; }");
        limited.nft("add rule inet lab in udp dport 53 counter name came");
        for (chain, rule) in [("in", input), ("out", output)].into_iter().filter(|(_, rule)| !rule.is_empty())
        {
            limited.nft(&format!("add rule inet lab {chain} {rule} counter name dropped drop"));
        }
        limited
    }

    fn nft(&self, rule: &str) {
        let done = self.pod.exec("nft").arg(rule).output().unwrap();
        assert!(done.status.success(), "nft {rule}: {}", String::from_utf8_lossy(&done.stderr));
    }

    fn addr(&self) -> SocketAddr {
        SocketAddr::from((self.pod.own(), 53))
    }

    /// Packets that a counter has seen.
    fn count(&self, counter: &str) -> u64 {
        let args = ["-j", "list", "counter", "inet", "lab", counter];
        let said = self.pod.exec("nft").args(args).output().unwrap().stdout;
        let said: serde_json::Value = serde_json::from_slice(&said).unwrap();
        said["nftables"][1]["counter"]["packets"].as_u64().unwrap()
    }
}

/// Asks names that nobody asked before, so many a second, and counts what comes back.
struct Crowd {
    asks: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    asked: Arc<AtomicU64>,
    answered: Arc<AtomicU64>,
    failed: Arc<AtomicU64>,
}

struct Sender {
    socket: UdpSocket,
    prefix: &'static str,
    per_second: u32,
}

impl Sender {
    fn run(&self, still: &AtomicBool, count: &AtomicU64) {
        let (start, mut sent) = (Instant::now(), 0);
        while still.load(Ordering::Relaxed) {
            // What a pause of this thread kept back is not made up for: a crowd would not either.
            let due = (start.elapsed().as_secs_f64() * f64::from(self.per_second)) as u64;
            for number in due.saturating_sub(20).max(sent)..due {
                let packet = query(&format!("{}{number}.example.com", self.prefix), RecordType::A);
                if self.socket.send(&packet).is_ok() {
                    count.fetch_add(1, Ordering::Relaxed);
                }
            }
            sent = due;
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Crowd {
    fn start(own: IpAddr, server: SocketAddr, prefix: &'static str, per_second: u32) -> Crowd {
        let socket = UdpSocket::bind((own, 0)).unwrap();
        socket.connect(server).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let (asks, asked, answered, failed) =
            (Arc::new(AtomicBool::new(true)), Arc::default(), Arc::default(), Arc::default());
        let sender = Sender { socket: socket.try_clone().unwrap(), prefix, per_second };
        let (still, count) = (Arc::clone(&asks), Arc::clone(&asked));
        let send = std::thread::spawn(move || sender.run(&still, &count));
        let (good, bad, owner) = (Arc::clone(&answered), Arc::clone(&failed), Arc::downgrade(&asks));
        let receive = std::thread::spawn(move || {
            let mut buffer = [0; 2048];
            // It ends with the crowd.
            while owner.strong_count() > 0 {
                if socket.recv(&mut buffer).is_ok() {
                    let counter: &AtomicU64 = if buffer[3] & 15 == 0 { &good } else { &bad };
                    counter.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        Crowd { asks, threads: vec![send, receive], asked, answered, failed }
    }

    fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Asks no more, waits for what is on its way, and tells how many were asked and how many were not answered well.
    fn stop(mut self) -> (u64, u64) {
        self.asks.store(false, Ordering::Relaxed);
        let (asked, start) = (self.threads.remove(0), Instant::now());
        asked.join().unwrap();
        let asked = self.asked.load(Ordering::Relaxed);
        let all = || self.answered() + self.failed.load(Ordering::Relaxed);
        while all() < asked && start.elapsed() < Duration::from_secs(4) {
            std::thread::sleep(Duration::from_millis(10));
        }
        (asked, asked - self.answered())
    }
}

/// nodens with nothing configured but where it listens, on a host whose `resolv.conf` names this server.
fn on_a_host_with(server: SocketAddr) -> Nodens {
    let dir = Dir::new();
    let file = dir.file("resolv.conf", &format!("nameserver {}\n", server.ip()));
    let mut command = tool("unshare");
    let script = format!(
        "mount --bind {} /etc/resolv.conf && exec {} serve --listen 127.0.0.1:0 --admin 127.0.0.1:0",
        file.display(),
        env!("CARGO_BIN_EXE_nodens")
    );
    command.args(["--mount", "sh", "-c", &script]);
    Nodens::spawn(command)
}

/// Traffic for a while, and what arrived meanwhile: packets that came, packets that were dropped, answers, seconds.
fn measure(limited: &Limited, crowd: &Crowd, time: Duration) -> (f64, f64, f64, f64) {
    let figures = || (limited.count("came"), limited.count("dropped"), crowd.answered(), Instant::now());
    let before = figures();
    std::thread::sleep(time);
    let after = figures();
    let seconds = (after.3 - before.3).as_secs_f64();
    ((after.0 - before.0) as f64, (after.1 - before.1) as f64, (after.2 - before.2) as f64, seconds)
}

fn can_limit() -> bool {
    ["knotd", "nft", "ip", "unshare"].into_iter().all(need)
}

/// 3,000 new names a second before a limit of 1,024 packets a second, nothing configured: the rate is found, hot names do not notice.
#[test]
fn the_limit_of_a_resolver_is_found_and_kept_to() {
    if !can_limit() {
        return;
    }
    let limited = Limited::new("udp dport 53 limit rate over 1024/second burst 5 packets", "");
    let nodens = on_a_host_with(limited.addr());
    let hot = || {
        udp_from([127, 0, 5, 2].into(), nodens.addr, &query("hot.example.com", RecordType::A)).unwrap()[3]
            & 15
    };
    assert_eq!(hot(), 0);
    let crowd = Crowd::start([127, 0, 5, 1].into(), nodens.addr, "n", 3000);
    std::thread::sleep(Duration::from_secs(3));
    let (came, dropped, answered, seconds) = measure(&limited, &crowd, Duration::from_secs(6));
    assert!((0..100).all(|_| hot() == 0));
    let retries = nodens.metric("nodens_upstream_retries_total", &["resolv.conf"]);
    let packets = nodens.metric("nodens_upstream_packets_total", &["resolv.conf"]);
    let rate = nodens.metric("nodens_upstream_rate", &["resolv.conf"]);
    let waiting = nodens.metric("nodens_upstream_waiting", &["client"]);
    crowd.stop();
    let said = format!("{came} came, {dropped} dropped, {answered} answered in {seconds:.2} s; {rate}/s now");
    println!("{said}");
    assert!(came <= 1.03 * LIMIT * seconds, "{said}");
    assert!(came - dropped >= 0.85 * LIMIT * seconds && answered >= 0.85 * LIMIT * seconds, "{said}");
    assert!(dropped <= 0.05 * came, "{said}");
    assert!(retries * 10 <= packets && waiting > 0, "{retries} retries of {packets} packets, {waiting} wait");
    assert!((0.9 * LIMIT..=1.1 * LIMIT).contains(&(rate as f64)), "{said}");
}

/// With the budget that is that of the limit nothing is sent that would be dropped, also at the start.
#[test]
fn a_fixed_budget_loses_nothing_to_a_limiter() {
    if !can_limit() {
        return;
    }
    let limited = Limited::new("udp dport 53 limit rate over 1024/second burst 5 packets", "");
    let upstream = format!("udp://{}", limited.addr());
    let nodens = Nodens::start(&["--upstream", &upstream, "--upstream-budget", "aws", "--workers", "2"]);
    let crowd = Crowd::start([127, 0, 5, 3].into(), nodens.addr, "f", 3000);
    let polite = Crowd::start([127, 0, 5, 4].into(), nodens.addr, "p", 50);
    let (came, dropped, answered, seconds) = measure(&limited, &crowd, Duration::from_secs(5));
    let (asked, failed) = polite.stop();
    crowd.stop();
    let said = format!("{came} came, {dropped} dropped, {answered} answered in {seconds:.2} s");
    println!("{said}; {failed} of {asked} failed");
    assert!(came <= LIMIT * seconds + 5.0, "{said}");
    // Two packets that had their turn in time may leave a worker late, and then together.
    assert!(dropped <= 0.02 * came, "{said}");
    assert!(answered >= 0.8 * LIMIT * seconds, "{said}");
    assert!(failed * 100 <= asked, "{failed} of {asked} failed beside a flood");
    let refused = nodens.metric("nodens_upstream_refused_total", &["aws"]);
    let bounded = nodens.metric("nodens_limit_reached_total", &["client_waiting"]);
    assert!(refused + bounded > 0, "what cannot wait is told so");
}

/// A tenth of the packets is lost each way: clients hardly notice, and that is no limit.
#[test]
fn loss_is_not_taken_for_a_limit() {
    if !can_limit() {
        return;
    }
    let lost = "numgen random mod 100 < 10";
    let limited = Limited::new(&format!("udp dport 53 {lost}"), &format!("udp sport 53 {lost}"));
    let nodens = on_a_host_with(limited.addr());
    let crowd = Crowd::start([127, 0, 5, 5].into(), nodens.addr, "l", 400);
    let mut rates = Vec::new();
    for _ in 0..6 {
        std::thread::sleep(Duration::from_secs(1));
        rates.push(nodens.metric("nodens_upstream_rate", &["resolv.conf"]));
    }
    let (questions, failed) = crowd.stop();
    println!("{failed} of {questions} failed; rates {rates:?}");
    // Five tries leave 2 in 10,000.
    assert!(failed * 500 <= questions, "{failed} of {questions}");
    assert!(rates.iter().all(|rate| *rate >= 1000), "{rates:?}");
    let tries = limited.count("came") as f64 / questions as f64;
    assert!((1.05..1.5).contains(&tries), "{tries} packets a question");
}

/// nftables is there and does what the tests above rest on.
#[test]
fn the_limiter_limits() {
    if !can_limit() {
        return;
    }
    let limited = Limited::new("udp dport 53 limit rate over 100/second burst 5 packets", "");
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    for number in 0..100 {
        socket.send_to(&query(&format!("x{number}.example.com"), RecordType::A), limited.addr()).unwrap();
    }
    std::thread::sleep(Duration::from_millis(50));
    let (came, dropped) = (limited.count("came"), limited.count("dropped"));
    assert!(came >= 100 && (50..=95).contains(&dropped), "{came} came, {dropped} dropped");
}
