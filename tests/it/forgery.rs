//! Replies that are not: one wrong field is enough to be ignored, and the true reply still comes through (RFC 5452).

use std::collections::{BTreeMap, HashSet};
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use hickory_resolver::proto::rr::RecordType;

use crate::harness::{Asked, Nodens, Upstream, query, udp};

const TRUE: u8 = 1;
const FORGED: u8 = 66;

fn flip_case(packet: &mut [u8]) {
    for octet in &mut packet[12..33] {
        if octet.is_ascii_alphabetic() {
            *octet ^= 0x20;
            return;
        }
    }
}

/// The reply with the forger's address and one field changed.
fn forge(asked: &Asked, change: impl Fn(&mut Vec<u8>)) -> (u64, Vec<u8>) {
    let mut reply = asked.address(300, FORGED);
    change(&mut reply);
    (0, reply)
}

fn answer(nodens: &Nodens, name: &str) -> u8 {
    let reply = udp(nodens.addr, &query(name, RecordType::A));
    assert_eq!(reply[7], 1, "an answer");
    reply[reply.len() - 12]
}

#[test]
fn one_wrong_field_is_ignored_and_the_true_reply_taken() {
    let qtype_at = |asked: &Asked| 12 + asked.question().len() - 4;
    let upstream = Upstream::start(move |asked| {
        if asked.tcp {
            return vec![(0, asked.address(300, TRUE))];
        }
        let at = qtype_at(asked);
        let forged = match asked.name().split('.').next().unwrap() {
            "id" => forge(asked, |r| r[1] ^= 1),
            "name" => forge(asked, |r| r[13] ^= 1),
            "type" => forge(asked, |r| r[at + 1] = 28),
            "class" => forge(asked, |r| r[at + 3] = 3),
            "case" => forge(asked, |r| flip_case(r)),
            "query" => forge(asked, |r| r[2] &= 0x7f),
            "opcode" => forge(asked, |r| r[2] |= 0x10),
            "questions" => forge(asked, |r| r[5] = 0),
            "cut" => forge(asked, |r| r.truncate(r.len() - 1)),
            "counts" => forge(asked, |r| r[7] = 9),
            "header" => forge(asked, |r| r.truncate(11)),
            _ => return vec![(0, asked.address(300, TRUE))],
        };
        vec![forged, (20, asked.address(300, TRUE))]
    });
    let nodens = Nodens::before(upstream.addr, &[]);
    for field in
        ["id", "name", "type", "class", "case", "query", "opcode", "questions", "cut", "counts", "header"]
    {
        // Both before and after the server has shown that it keeps letter case.
        assert_eq!(answer(&nodens, &format!("{field}.first.example.com")), TRUE, "{field}");
    }
    (0..10).for_each(|n| assert_eq!(answer(&nodens, &format!("echo{n}.example.com")), TRUE));
    for field in
        ["id", "name", "type", "class", "case", "query", "opcode", "questions", "cut", "counts", "header"]
    {
        assert_eq!(answer(&nodens, &format!("{field}.second.example.com")), TRUE, "{field}");
    }
}

#[test]
fn another_address_or_port_is_nobody() {
    let upstream = Upstream::start(|asked| {
        let forged = asked.address(300, FORGED);
        for own in ["127.0.0.2:0", "127.0.0.1:0"] {
            UdpSocket::bind(own).unwrap().send_to(&forged, asked.from).unwrap();
        }
        vec![(30, asked.address(300, TRUE))]
    });
    let nodens = Nodens::before(upstream.addr, &[]);
    assert_eq!(answer(&nodens, "a.example.com"), TRUE);
    assert_eq!(upstream.count(), 1);
}

#[test]
fn a_server_that_lowers_letter_case_works_and_is_soon_asked_in_lower_case() {
    let upstream = Upstream::simple(|asked| {
        let mut reply = asked.address(300, TRUE);
        reply[12..].make_ascii_lowercase();
        reply
    });
    let nodens = Nodens::before(upstream.addr, &["--workers", "1"]);
    // A short name is in lower case by chance once in a while.
    let long = "a-name-with-so-many-letters-that-some-are-in-upper-case.example.com";
    (0..20).for_each(|n| assert_eq!(answer(&nodens, &format!("n{n}.{long}")), TRUE));
    let asked = upstream.asked();
    let confirmed: Vec<usize> = (0..asked.len()).filter(|at| asked[*at].tcp).collect();
    assert_eq!(confirmed.len(), 3, "TCP confirms three times");
    // A busy machine may have sent a second try for the name that was confirmed last.
    let last = asked[confirmed[2]].name();
    let later: Vec<_> = asked[confirmed[2]..].iter().filter(|one| one.name() != last).collect();
    assert_eq!(later.iter().map(|one| one.name()).collect::<std::collections::BTreeSet<_>>().len(), 17);
    assert!(later.iter().all(|one| !one.question().iter().any(u8::is_ascii_uppercase) && !one.tcp));
}

/// Pearson's chi-square of counts over equally likely cells.
fn chi_square(counts: &[u64]) -> f64 {
    let expected = counts.iter().sum::<u64>() as f64 / counts.len() as f64;
    counts.iter().map(|count| (*count as f64 - expected).powi(2) / expected).sum()
}

/// What chi-square over so many cells exceeds once in ten million times, after Wilson and Hilferty.
fn most_by_chance(cells: usize) -> f64 {
    let freedom = (cells - 1) as f64;
    let spread = 2.0 / (9.0 * freedom);
    freedom * (1.0 - spread + 5.2 * spread.sqrt()).powi(3)
}

/// How often each of the cells is met.
fn counts(cells: usize, values: impl Iterator<Item = usize>) -> Vec<u64> {
    let mut counts = vec![0; cells];
    values.for_each(|value| counts[value] += 1);
    counts
}

/// The ports that the kernel draws from.
fn port_range() -> std::ops::RangeInclusive<usize> {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
    let ends: Vec<usize> = text.split_whitespace().map(|end| end.parse().unwrap()).collect();
    ends[0]..=ends[1]
}

#[test]
fn ids_and_ports_cannot_be_guessed() {
    const QUESTIONS: usize = 10_000;
    let upstream = Upstream::simple(|asked| asked.address(300, TRUE));
    let nodens = Nodens::before(upstream.addr, &["--workers", "2"]);
    let askers: Vec<_> = (0..4)
        .map(|asker| {
            let addr = nodens.addr;
            std::thread::spawn(move || {
                (0..QUESTIONS / 4).for_each(|n| {
                    drop(udp(addr, &query(&format!("q{n}.a{asker}.example.com"), RecordType::A)))
                });
            })
        })
        .collect();
    askers.into_iter().for_each(|asker| asker.join().unwrap());
    let asked = upstream.asked();
    // A busy machine may have asked a few twice.
    assert!((QUESTIONS..QUESTIONS * 21 / 20).contains(&asked.len()), "{}", asked.len());
    for octet in [0, 1] {
        let of_ids = chi_square(&counts(256, asked.iter().map(|one| usize::from(one.packet[octet]))));
        assert!(of_ids < most_by_chance(256), "octet {octet} of IDs: {of_ids}");
        // The same measure sees a bit that is set in every third.
        let biased = |one: &Asked| usize::from(one.packet[octet] | u8::from(one.number.is_multiple_of(3)));
        assert!(chi_square(&counts(256, asked.iter().map(biased))) > most_by_chance(256));
    }
    let mut by_port: BTreeMap<u16, u64> = BTreeMap::new();
    asked.iter().for_each(|one| *by_port.entry(one.from.port()).or_default() += 1);
    // Of ninety sockets two may draw one port, once in eight runs; five pairs do not.
    assert!(by_port.len() >= QUESTIONS / 128 - 4, "{} ports", by_port.len());
    let often = by_port.values().filter(|count| **count > 128).count();
    assert!(often <= 4, "{often} ports for more questions than a socket serves");
    let (range, cells) = (port_range(), 8);
    let (low, length) = (*range.start(), range.clone().count());
    let cell = |port: &u16| (usize::from(*port) - low) * cells / length;
    let of_ports = chi_square(&counts(cells, by_port.keys().map(cell)));
    // With ten ports for each cell the tail is longer than the formula's.
    assert!(of_ports < 1.2 * most_by_chance(cells), "{} ports: {of_ports}", by_port.len());
    let steps: HashSet<i32> = asked
        .windows(2)
        .map(|pair| i32::from(pair[1].from.port()) - i32::from(pair[0].from.port()))
        .collect();
    assert!(steps.len() > by_port.len(), "the next port does not follow from the last");
    let mixed = asked.iter().filter(|one| one.question().iter().any(u8::is_ascii_uppercase)).count();
    assert!(mixed > QUESTIONS * 9 / 10, "{mixed} in mixed case");
    println!("{} sockets, chi-square of ports {of_ports:.0}", by_port.len());
}

/// A socket that is hardly used is replaced after five seconds.
#[test]
fn no_port_is_used_for_long() {
    let upstream = Upstream::simple(|asked| asked.address(300, TRUE));
    let nodens = Nodens::before(upstream.addr, &["--workers", "1"]);
    // However seldom a busy machine lets it ask, the second sockets have each been used by the end.
    let (start, mut of_new_sockets) = (Instant::now(), 0);
    for n in 0.. {
        if start.elapsed() > Duration::from_secs(8) && of_new_sockets >= 100 {
            break;
        }
        of_new_sockets += usize::from(start.elapsed() > Duration::from_secs(6));
        answer(&nodens, &format!("n{n}.example.com"));
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut by_port: BTreeMap<u16, Vec<Instant>> = BTreeMap::new();
    upstream.asked().iter().for_each(|one| by_port.entry(one.from.port()).or_default().push(one.at));
    assert!(by_port.values().all(|times| times.len() < 128), "none for the number of its questions");
    let used = |times: &Vec<Instant>| times[times.len() - 1] - times[0];
    let mut times: Vec<Duration> = by_port.values().map(used).collect();
    times.sort_unstable();
    println!("{} ports, for {times:?}", by_port.len());
    // A pause of the machine comes on top. Of sixteen sockets two may draw one port; two pairs do not.
    assert!(times[times.len() - 3] < Duration::from_millis(6500), "{times:?}");
    assert!(by_port.len() >= 12, "eight sockets, and those that followed them: {}", by_port.len());
}

#[test]
fn client_options_never_go_upstream() {
    let upstream = Upstream::simple(|asked| asked.address(300, TRUE));
    let nodens = Nodens::before(upstream.addr, &[]);
    let ecs = b"\x00\x00\x29\x04\xd0\x00\x00\x00\x00\x00\x17\x00\x08\x00\x07\x00\x01\x18\x00\x0a\x01\x02\x00\x0a\x00\x08CLIENT-C";
    for last in [2u8, 3] {
        let mut packet = query("ecs.example.com", RecordType::A);
        packet.truncate(packet.len() - 11);
        packet.extend_from_slice(ecs);
        let at = packet.len() - 13;
        packet[at] = last;
        udp(nodens.addr, &packet);
    }
    let asked = upstream.asked();
    assert_eq!(asked.len(), 1, "an option is no part of the question (CVE-2025-5994)");
    assert!(asked[0].packet.ends_with(b"\x00\x00\x29\x04\xd0\x00\x00\x00\x00\x00\x00"));
    let _: SocketAddr = asked[0].from;
}
