//! The fault lab: for each fault of an upstream what its clients are told, and how many packets it costs.

use std::net::{IpAddr, UdpSocket};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::RecordType;

use crate::failures::{code, told};
use crate::harness::{Asked, Nodens, PATIENCE, Upstream, free_addr, query, receive, udp_within};
use crate::limits_lab::{Crowd, Limited, can_limit, on_a_host_with};
use crate::machine::{under_load, unless_it_stands_still};

pub const OWN: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
/// As long as a stub resolver waits, and a second for a busy machine.
pub const STUB: Duration = Duration::from_secs(6);

/// One client asks 5,000 new names a second and nine ask 20 each, behind a limit of 1,000 packets a second that nobody told of.
#[test]
fn a_flood_behind_a_limit_leaves_nine_others_theirs() {
    under_load(flood_behind_a_limit);
}

fn flood_behind_a_limit() {
    if !can_limit() {
        return;
    }
    let limited = Limited::new("udp dport 53 limit rate over 1000/second burst 20 packets", "");
    let nodens = on_a_host_with(limited.addr());
    let nine = |when: &str| -> Vec<Crowd> {
        let one =
            |n: u8| Crowd::start([127, 0, 9, n].into(), nodens.addr, &format!("{when}{n}x#.example.com"), 20);
        (2..=10).map(one).collect()
    };
    let sums = |crowds: Vec<Crowd>| {
        let each: Vec<(u64, u64)> = crowds.into_iter().map(Crowd::stop).collect();
        each.iter().fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
    };
    let flood = Crowd::start([127, 0, 9, 1].into(), nodens.addr, "flood#.example.com", 5000);
    let early = nine("early");
    std::thread::sleep(Duration::from_secs(3));
    let (later, early) = (nine("later"), sums(early));
    std::thread::sleep(Duration::from_secs(5));
    let later = sums(later);
    let (asked, missed) = flood.stop();
    println!(
        "of the nine's {} of {} failed in the first 3 s, then {} of {}; of the flood's {missed} of {asked}",
        early.1, early.0, later.1, later.0
    );
    assert!(asked - missed > 1000, "what they leave is the flood's");
    assert!(later.1 * 100 <= later.0, "{later:?}");
    assert!(early.1 * 20 <= early.0, "{early:?}");
}

/// Questions for so many distinct names, by eight clients one after the other; those that did not get the good server's address.
fn not_answered(nodens: &Nodens, names: Range<usize>) -> Vec<String> {
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for client in 0..8 {
            let (names, failed) = (names.clone().skip(client).step_by(8), &failed);
            scope.spawn(move || {
                for number in names {
                    let reply = nodens.ask(&format!("n{number}.example.com"), RecordType::A);
                    if reply.answers.len() != 1 {
                        failed.lock().unwrap().push(format!("{number}: {}", reply.metadata.response_code));
                    }
                }
            });
        }
    });
    failed.into_inner().unwrap()
}

type Script = Box<dyn Fn(&Asked) -> Vec<(u64, Vec<u8>)> + Send + Sync>;

/// Bad servers beside a good one: all is answered well, and the bad ones are asked now and then.
fn one_good_server_is_enough(bad: Vec<(&str, Script)>) {
    const QUESTIONS: usize = 2000;
    let good = Upstream::simple(|asked| asked.address(300, 1));
    let bad: Vec<(&str, Upstream)> =
        bad.into_iter().map(|(what, script)| (what, Upstream::start(script))).collect();
    let urls: Vec<String> = bad
        .iter()
        .map(|(_, server)| server)
        .chain([&good])
        .map(|server| format!("udp://{}", server.addr))
        .collect();
    let args: Vec<&str> = urls.iter().flat_map(|url| ["--upstream", url]).collect();
    let nodens = Nodens::start(&args);
    let start = Instant::now();
    let failed = not_answered(&nodens, 0..QUESTIONS);
    let took = start.elapsed().as_secs_f64();
    println!("{} of {QUESTIONS} failed; the good one was asked {} times", failed.len(), good.count());
    assert!(failed.len() * 1000 <= QUESTIONS, "{failed:?}");
    // One question for each client before it is known, three failures, then one after 0.25, 0.5 … 10 s, or half of that.
    let bound = 8 + 3 + 7 + (took / 5.0) as usize;
    for (what, server) in &bad {
        println!("{what}: {}", server.count());
        assert!((1..=2 * bound).contains(&server.count()), "{what}: {}", server.count());
    }
    assert!((QUESTIONS * 99 / 100..=QUESTIONS * 21 / 20).contains(&good.count()), "{}", good.count());
}

#[test]
fn servers_that_fail_forge_or_dawdle_leave_their_load_to_the_good_one() {
    unless_it_stands_still(fail_forge_or_dawdle);
}

fn fail_forge_or_dawdle() {
    one_good_server_is_enough(vec![
        ("SERVFAIL", Box::new(|asked| vec![(0, asked.raw(2, [0; 3], &[]))])),
        ("REFUSED", Box::new(|asked| vec![(0, asked.raw(5, [0; 3], &[]))])),
        (
            "a wrong question",
            Box::new(|asked| {
                let mut reply = asked.address(300, 66);
                reply[13] ^= 1;
                vec![(0, reply)]
            }),
        ),
        ("slow by 3 s", Box::new(|asked| vec![(3000, asked.address(300, 1))])),
    ]);
}

#[test]
fn servers_that_are_lame_or_echo_leave_their_load_to_the_good_one() {
    unless_it_stands_still(lame_or_echo);
}

fn lame_or_echo() {
    // NS a.root-servers.net. of the root.
    let referral = b"\x00\x00\x02\x00\x01\x00\x00\x0e\x10\x00\x14\x01a\x0croot-servers\x03net\x00";
    one_good_server_is_enough(vec![
        ("lame", Box::new(|asked| vec![(0, asked.raw(0, [0, 1, 0], referral))])),
        ("an echo", Box::new(|asked| vec![(0, asked.packet.clone())])),
        (
            "nothing but a header",
            Box::new(|asked| vec![(0, [&asked.packet[..2], &[0x81, 0x80], &[0; 8]].concat())]),
        ),
        ("nothing at all", Box::new(|_| vec![(0, vec![])])),
    ]);
}

/// One client asks 500 names a second of a domain whose servers are down: that is no limit, and nobody else's loss.
#[test]
fn a_dead_domain_is_nobody_elses_loss() {
    under_load(dead_domain);
}

fn dead_domain() {
    let is_dead = |asked: &Asked| asked.name().ends_with(".dead.test.");
    let upstream =
        Upstream::start(move |asked| if is_dead(asked) { vec![] } else { vec![(0, asked.address(300, 1))] });
    let nodens = Nodens::before(upstream.addr, &["--upstream-budget", "adaptive"]);
    let good = Crowd::start([127, 0, 9, 21].into(), nodens.addr, "g#.example.com", 200);
    let dead = Crowd::start([127, 0, 9, 22].into(), nodens.addr, "d#.dead.test", 500);
    let mut rates = Vec::new();
    for _ in 0..6 {
        std::thread::sleep(Duration::from_secs(1));
        rates.push(nodens.metric("nodens_upstream_rate", &[]));
    }
    let ((asked, failed), (of_dead, _)) = (good.stop(), dead.stop());
    let packets = upstream.asked().iter().filter(|asked| is_dead(asked)).count();
    println!("{failed} of {asked} failed; {packets} packets for {of_dead} dead names; rates {rates:?}");
    assert_eq!(failed, 0, "of {asked}");
    assert!(rates.iter().all(|rate| *rate >= 1000), "{rates:?}");
    assert!(
        packets as f64 <= 1.15 * of_dead as f64,
        "{packets} packets for {of_dead} names of a dead domain"
    );
}

/// Packets that a server takes: so many a second, and some at once.
struct Bucket {
    rate: f64,
    burst: f64,
    left: f64,
    at: Instant,
}

impl Bucket {
    fn takes(&mut self, now: Instant) -> bool {
        let more = now.duration_since(self.at).as_secs_f64() * self.rate;
        (self.left, self.at) = ((self.left + more).min(self.burst), now);
        let takes = self.left >= 1.0;
        self.left -= f64::from(u8::from(takes));
        takes
    }
}

/// A limiter that answers REFUSED in place of dropping: the rate settles at its limit, and hardly any client is told so.
#[test]
fn a_limiter_that_refuses_is_found_and_its_word_is_not_passed_on() {
    under_load(limiter_that_refuses);
}

fn limiter_that_refuses() {
    const LIMIT: f64 = 600.0;
    let bucket = Mutex::new(Bucket { rate: LIMIT, burst: 10.0, left: 10.0, at: Instant::now() });
    let refused = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&refused);
    let upstream = Upstream::simple(move |asked| {
        if bucket.lock().unwrap().takes(asked.at) {
            return asked.address(300, 1);
        }
        count.fetch_add(1, Ordering::Relaxed);
        asked.raw(5, [0; 3], &[])
    });
    let nodens = Nodens::before(upstream.addr, &["--upstream-budget", "adaptive"]);
    let crowd = Crowd::start([127, 0, 9, 31].into(), nodens.addr, "r#.example.com", 2000);
    std::thread::sleep(Duration::from_secs(5));
    let polite = Crowd::start([127, 0, 9, 32].into(), nodens.addr, "p#.example.com", 80);
    let before = (upstream.count(), refused.load(Ordering::Relaxed), crowd.told(5), crowd.answered());
    let mut rates: Vec<u64> = (0..10)
        .map(|_| {
            std::thread::sleep(Duration::from_millis(400));
            nodens.metric("nodens_upstream_rate", &[])
        })
        .collect();
    let (came, refused) = (upstream.count() - before.0, refused.load(Ordering::Relaxed) - before.1);
    let (told, answered) = (crowd.told(5) - before.2, crowd.answered() - before.3);
    let (of_polite, polite) = (polite.told(5), polite.stop());
    crowd.stop();
    rates.sort_unstable();
    println!(
        "{refused} of {came} refused, {answered} answered, {told} told so; {of_polite}, {polite:?}; rates {rates:?}"
    );
    let settled = rates[rates.len() / 2] as f64;
    assert!((0.85 * LIMIT..=1.1 * LIMIT).contains(&settled), "{rates:?}");
    assert!(answered >= 1000 && refused as f64 <= 0.15 * came as f64, "{refused} of {came}");
    // A flood's questions have waited in line, and no time is left for a second try; who is polite has one while retries have
    // a share left over.
    assert!(told as f64 <= 0.05 * answered as f64, "{told} clients were told REFUSED, {answered} answered");
    assert!(of_polite * 20 <= polite.0 && polite.1 * 15 <= polite.0, "{of_polite}, {polite:?}");
}

/// Fifty clients ask for one unknown name every half second; rcodes and extended errors, packets sent and the seconds that took.
fn while_all_ask_again(nodens: &Nodens, net: u8) -> (Vec<(ResponseCode, Option<u16>)>, f64) {
    let start = Instant::now();
    let client = |n: u8| {
        let socket = UdpSocket::bind((IpAddr::from([127, 0, net, n]), 0)).unwrap();
        socket.connect(nodens.addr).unwrap();
        socket.set_read_timeout(Some(STUB)).unwrap();
        socket
    };
    let clients: Vec<UdpSocket> = (1..=50).map(client).collect();
    for _ in 0..10 {
        for client in &clients {
            client.send(&query("unknown.example.com", RecordType::A)).unwrap();
        }
        std::thread::sleep(Duration::from_millis(500));
    }
    let mut buffer = [0; 512];
    let mut next = |client: &UdpSocket| receive(client, &mut buffer).map(|length| told(&buffer[..length]));
    let replies =
        clients.iter().flat_map(|client| vec![client; 10]).map(|client| next(client).unwrap()).collect();
    (replies, start.elapsed().as_secs_f64())
}

/// RFC 9520 section 3.2: an exchange after 1, 3, 7 … s, each of five packets at most, however many ask.
fn most_packets(seconds: f64) -> u64 {
    5 * ((seconds + 1.0).log2() as u64 + 1)
}

#[test]
fn where_all_are_dead_it_is_time_that_bounds_what_is_sent() {
    unless_it_stands_still(all_dead);
}

fn all_dead() {
    let silent = Upstream::start(|_| vec![]);
    let (of_silent, of_closed) = (Nodens::before(silent.addr, &[]), Nodens::before(free_addr(), &[]));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (replies, seconds) = while_all_ask_again(&of_silent, 11);
            println!("silent: {} packets for {} questions in {seconds:.1} s", silent.count(), replies.len());
            assert!(replies.iter().all(|reply| *reply == (ResponseCode::ServFail, Some(22))), "{replies:?}");
            assert!((5..=most_packets(seconds)).contains(&(silent.count() as u64)), "{}", silent.count());
        });
        scope.spawn(|| {
            let (replies, seconds) = while_all_ask_again(&of_closed, 12);
            let packets = of_closed.metric("nodens_upstream_packets_total", &[]);
            println!("closed: {packets} packets for {} questions in {seconds:.1} s", replies.len());
            assert!(replies.iter().all(|reply| *reply == (ResponseCode::ServFail, Some(23))), "{replies:?}");
            assert!((1..=most_packets(seconds)).contains(&packets), "{packets}");
        });
    });
}

/// Some names take 2.4 and 6 s, some not quite half a second: others do not wait for them, and what comes late is kept.
#[test]
fn slow_names_hold_up_nobody_and_their_late_answers_are_kept() {
    unless_it_stands_still(slow_names);
}

fn slow_names() {
    let upstream = Upstream::start(|asked| {
        let after = match &asked.name()[..2] {
            "ha" => 400,
            // After the client has been told, and before its failure is forgotten.
            "tw" => 2400,
            "si" => 6000,
            _ => 0,
        };
        vec![(after, asked.address(300, 1))]
    });
    let nodens = Nodens::before(upstream.addr, &["--workers", "1"]);
    let socket = UdpSocket::bind((OWN, 0)).unwrap();
    socket.connect(nodens.addr).unwrap();
    socket.set_read_timeout(Some(STUB)).unwrap();
    let names = |kind: &str, count: usize| -> Vec<String> {
        (0..count).map(|number| format!("{kind}{number}.example.com")).collect()
    };
    let (slow, fast) = ([names("two", 20), names("six", 20), names("half", 20)].concat(), names("fast", 100));
    for name in slow.iter().chain(&fast) {
        socket.send(&query(name, RecordType::A)).unwrap();
    }
    let (mut buffer, mut order) = ([0; 512], Vec::new());
    while order.len() < slow.len() + fast.len() {
        let length = receive(&socket, &mut buffer).unwrap();
        let reply = Message::from_vec(&buffer[..length]).unwrap();
        order.push((reply.queries[0].name().to_ascii(), reply.metadata.response_code));
    }
    let first_slow =
        order.iter().position(|(name, _)| name.starts_with('s') || name.starts_with('t')).unwrap();
    assert!(first_slow >= fast.len() * 9 / 10, "{order:?}");
    let well = |kind: &str| {
        order.iter().filter(|(name, code)| name.starts_with(kind) && *code == ResponseCode::NoError).count()
    };
    assert_eq!((well("fast"), well("half"), well("two"), well("six")), (100, 20, 0, 0));
    for name in names("two", 20) {
        let start = Instant::now();
        while code(&nodens, &name).0 != ResponseCode::NoError {
            assert!(start.elapsed() < PATIENCE, "{name}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    let asked = upstream.asked();
    let most = |kind: &str| {
        let packets =
            |name: String| asked.iter().filter(|one| one.name().trim_end_matches('.') == name).count();
        names(kind, 20).into_iter().map(packets).max().unwrap()
    };
    assert!(
        most("half") <= 2 && most("two") <= 5 && most("six") <= 5,
        "{} {} {}",
        most("half"),
        most("two"),
        most("six")
    );
}

/// What so many new questions cost, once the server is known: packets for each.
fn packets_each(nodens: &Nodens, upstream: &Upstream, kind: &str, count: usize) -> (f64, usize) {
    let before = upstream.count();
    let answered = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for number in 0..count {
            let answered = &answered;
            scope.spawn(move || {
                let packet = query(&format!("{kind}{number}.example.com"), RecordType::A);
                let reply = udp_within(OWN, nodens.addr, &packet, STUB).unwrap();
                answered.fetch_add(usize::from(reply[3] & 15 == 0), Ordering::Relaxed);
            });
            std::thread::sleep(Duration::from_millis(10));
        }
    });
    ((upstream.count() - before) as f64 / count as f64, answered.into_inner())
}

#[test]
fn tries_wait_longer_for_a_slow_server() {
    under_load(slow_server);
}

fn slow_server() {
    let slow = |ms| Upstream::start(move |asked| vec![(ms, asked.address(300, 1))]);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let half = slow(500);
            let nodens = Nodens::before(half.addr, &[]);
            let unknown = packets_each(&nodens, &half, "first", 20);
            let (each, answered) = packets_each(&nodens, &half, "then", 150);
            println!("0.5 s: {unknown:?}, then {each} packets each, {answered} of 150 answered");
            assert!(answered == 150 && each <= 1.2, "{each} packets each, {answered} of 150 answered");
        });
        scope.spawn(|| {
            let two = slow(2000);
            let nodens = Nodens::before(two.addr, &[]);
            let unknown = packets_each(&nodens, &two, "first", 20);
            let (each, answered) = packets_each(&nodens, &two, "then", 60);
            println!("2 s: {unknown:?}, then {each} packets each, {answered} of 60 answered at once");
            assert!(each <= 3.2, "{each}");
            let (again, answered) = packets_each(&nodens, &two, "then", 60);
            assert!(answered >= 58 && again <= 0.2, "{answered} of 60 from the cache, {again} packets each");
        });
    });
}
