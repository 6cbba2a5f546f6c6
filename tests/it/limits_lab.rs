//! What tests of limits, losses and loads share: a server behind a packet filter, clients that ask so many new names a second.

use std::fmt;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hickory_resolver::proto::rr::RecordType;

use crate::clients::Pod;
use crate::harness::{Authority, Dir, Nodens, need, query, tool};

/// knotd where the kernel drops what a rule says, and counts it.
pub struct Limited {
    pod: Pod,
    _knotd: Authority,
}

impl Limited {
    /// `rules` are nftables rules for what comes in on port 53 (`input`) and what goes out from there (`output`).
    pub fn new(input: &str, output: &str) -> Limited {
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

    pub fn addr(&self) -> SocketAddr {
        SocketAddr::from((self.pod.own(), 53))
    }

    /// Packets that came so far, and those of them and of the replies that were dropped.
    pub fn packets(&self) -> (u64, u64) {
        let args = ["-j", "list", "counters", "table", "inet", "lab"];
        let said = self.pod.exec("nft").args(args).output().unwrap().stdout;
        let said: serde_json::Value = serde_json::from_slice(&said).unwrap();
        let counters = || said["nftables"].as_array().unwrap().iter().map(|entry| &entry["counter"]);
        let packets =
            |name: &str| counters().find(|one| one["name"] == name).unwrap()["packets"].as_u64().unwrap();
        (packets("came"), packets("dropped"))
    }
}

/// Asks names that nobody asked before, so many a second, and counts what comes back.
pub struct Crowd {
    asks: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    asked: Arc<AtomicU64>,
    replies: Arc<[AtomicU64; 16]>,
}

struct Sender {
    socket: UdpSocket,
    names: String,
    per_second: u32,
}

impl Sender {
    fn run(&self, still: &AtomicBool, count: &AtomicU64) {
        let (start, mut sent) = (Instant::now(), 0);
        while still.load(Ordering::Relaxed) {
            // What a pause of this thread kept back is not made up for: a crowd would not either.
            let due = (start.elapsed().as_secs_f64() * f64::from(self.per_second)) as u64;
            for number in due.saturating_sub(20).max(sent)..due {
                let packet = query(&self.names.replace('#', &number.to_string()), RecordType::A);
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
    /// `#` in the names is a number that counts up.
    pub fn start(own: IpAddr, server: SocketAddr, names: &str, per_second: u32) -> Crowd {
        let socket = UdpSocket::bind((own, 0)).unwrap();
        socket.connect(server).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let (asks, asked, replies) =
            (Arc::new(AtomicBool::new(true)), Arc::default(), Arc::<[AtomicU64; 16]>::default());
        let sender = Sender { socket: socket.try_clone().unwrap(), names: names.into(), per_second };
        let (still, count) = (Arc::clone(&asks), Arc::clone(&asked));
        let send = std::thread::spawn(move || sender.run(&still, &count));
        let (counts, owner) = (Arc::clone(&replies), Arc::downgrade(&asks));
        let receive = std::thread::spawn(move || {
            let mut buffer = [0; 2048];
            // It ends with the crowd.
            while owner.strong_count() > 0 {
                if socket.recv(&mut buffer).is_ok() {
                    counts[usize::from(buffer[3] & 15)].fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        Crowd { asks, threads: vec![send, receive], asked, replies }
    }

    /// Replies with this rcode.
    pub fn told(&self, rcode: usize) -> u64 {
        self.replies[rcode].load(Ordering::Relaxed)
    }

    pub fn answered(&self) -> u64 {
        self.told(0)
    }

    /// Asks no more, waits for what is on its way, and tells how many were asked and how many were not answered well.
    pub fn stop(mut self) -> (u64, u64) {
        self.asks.store(false, Ordering::Relaxed);
        let (asked, start) = (self.threads.remove(0), Instant::now());
        asked.join().unwrap();
        let asked = self.asked.load(Ordering::Relaxed);
        let all = || (0..16).map(|rcode| self.told(rcode)).sum::<u64>();
        while all() < asked && start.elapsed() < Duration::from_secs(4) {
            std::thread::sleep(Duration::from_millis(10));
        }
        (asked, asked - self.answered())
    }
}

/// nodens with nothing configured but where it listens, on a host whose `resolv.conf` names this server.
pub fn on_a_host_with(server: SocketAddr) -> Nodens {
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

/// Traffic for a while.
pub struct Traffic {
    /// Packets that came.
    pub came: f64,
    pub dropped: f64,
    pub answered: f64,
    /// The seconds in which these were counted are no more than this, for what may be at most so many a second.
    pub longest: f64,
    /// And no less than this, for what must be at least so many a second.
    pub shortest: f64,
}

impl fmt::Display for Traffic {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Traffic { came, dropped, answered, longest, shortest } = self;
        write!(out, "{came} came, {dropped} dropped, {answered} answered in {shortest:.2} to {longest:.2} s")
    }
}

/// What arrives for a while. To read the counters takes a moment, which is longer where a program has to wait for its core.
pub fn measure(limited: &Limited, crowd: &Crowd, time: Duration) -> Traffic {
    let read = || (Instant::now(), limited.packets(), crowd.answered(), Instant::now());
    let before = read();
    std::thread::sleep(time);
    let after = read();
    Traffic {
        came: (after.1.0 - before.1.0) as f64,
        dropped: (after.1.1 - before.1.1) as f64,
        answered: (after.2 - before.2) as f64,
        longest: (after.3 - before.0).as_secs_f64(),
        shortest: (after.0 - before.3).as_secs_f64(),
    }
}

pub fn can_limit() -> bool {
    ["knotd", "nft", "ip", "unshare"].into_iter().all(need)
}
