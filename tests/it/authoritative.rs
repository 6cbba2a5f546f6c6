//! Real authoritative servers behind it: every question arrives there once, whoever asks however often.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use hickory_resolver::proto::op::Message;
use hickory_resolver::proto::rr::RecordType;

use crate::harness::{
    ASK_AGAIN, Authority, Counter, Nodens, PATIENCE, Upstream, connect, need, query, read_framed, receive,
    send_framed, tool, udp, udp_within,
};

/// A zone of so many hosts with both kinds of address.
fn zone(hosts: usize) -> String {
    let mut text =
        String::from("$TTL 300\n@ SOA ns hostmaster 1 3600 600 86400 60\n@ NS ns\nns A 192.0.2.1\n");
    for host in 0..hosts {
        text.push_str(&format!(
            "h{host} A 198.51.{}.{}\nh{host} AAAA 2001:db8::{host:x}\n",
            host / 250,
            host % 250 + 1
        ));
    }
    text
}

/// Eight clients ask every name for both types, over UDP and TCP, in orders of their own; how many datagrams and frames that took.
fn crowd(nodens: &Nodens, names: usize, rounds: usize) -> usize {
    let clients: Vec<_> = (0..8usize)
        .map(|client| {
            let server = nodens.addr;
            std::thread::spawn(move || {
                let own: IpAddr = [127, 0, 1, client as u8 + 1].into();
                let (mut stream, mut sent) = ((client % 4 == 3).then(|| connect(server)), 0);
                for index in 0..names * rounds {
                    let host = (index * 7 + client * 131) % names;
                    for qtype in [RecordType::A, RecordType::AAAA] {
                        let packet = query(&format!("h{host}.example.com"), qtype);
                        let reply = match &mut stream {
                            Some(stream) => {
                                sent += 1;
                                send_framed(stream, &packet);
                                read_framed(stream).unwrap()
                            }
                            None => asked_until_answered(own, server, &packet, &mut sent),
                        };
                        assert_eq!((reply[3] & 0x0f, reply[7]), (0, 1), "h{host} {qtype}");
                    }
                }
                sent
            })
        })
        .collect();
    clients.into_iter().map(|client| client.join().unwrap()).sum()
}

/// The reply, by a client that asks again as a stub resolver does, and counts that.
fn asked_until_answered(own: IpAddr, server: SocketAddr, packet: &[u8], sent: &mut usize) -> Vec<u8> {
    let start = Instant::now();
    loop {
        *sent += 1;
        if let Some(reply) = udp_within(own, server, packet, ASK_AGAIN) {
            return reply;
        }
        assert!(start.elapsed() < PATIENCE, "no reply");
    }
}

/// 1,000 names x 2 types, each asked 20 times in all by 8 clients.
#[test]
fn knotd_sees_each_question_once() {
    if !need("knotd") {
        return;
    }
    let knotd = Authority::knotd(&[("example.com", zone(1000))]);
    let counter = Counter::before(knotd.addr);
    let nodens = Nodens::before(counter.addr, &["--workers", "2"]);
    let sent = crowd(&nodens, 1000, 2) + crowd(&nodens, 500, 1);
    let first_tries = nodens.first_tries(|| counter.total() as usize);
    assert_eq!((first_tries, counter.distinct()), (2000, 2000));
    let queries = nodens.metric("nodens_queries_total", &[]);
    let hits = nodens.metric("nodens_cache_hits_total", &[]);
    let misses = nodens.metric("nodens_cache_misses_total", &[]);
    assert_eq!(hits + misses, queries, "every query is one or the other");
    assert!((8 * 2 * 2500..=sent as u64).contains(&queries), "{queries} queries of {sent} that were sent");
}

#[test]
fn nsd_sees_each_question_once() {
    if !need("nsd") {
        return;
    }
    let nsd = Authority::nsd(&[("example.com", zone(100))]);
    let counter = Counter::before(nsd.addr);
    let nodens = Nodens::before(counter.addr, &["--workers", "2"]);
    crowd(&nodens, 100, 2);
    assert_eq!((nodens.first_tries(|| counter.total() as usize), counter.distinct()), (200, 200));
}

#[test]
fn what_knotd_says_of_all_kinds_arrives_unchanged() {
    if !need("knotd") {
        return;
    }
    let text = zone(1)
        + "alias CNAME h0\n*.wild A 192.0.2.9\nmx MX 10 h0\n_s._tcp SRV 1 2 3 h0\ncaa CAA 0 issue \"x\"\nnaptr NAPTR 1 1 \"s\" \"a\" \"\" h0\n\
            type TYPE65280 \\# 4 01020304\ndeep DNAME example.org.\nhttps HTTPS 1 . alpn=h2\n";
    let knotd = Authority::knotd(&[("example.com", text)]);
    let nodens = Nodens::before(knotd.addr, &[]);
    let types = [
        "h0 A",
        "alias AAAA",
        "x.wild A",
        "mx MX",
        "_s._tcp SRV",
        "caa CAA",
        "naptr NAPTR",
        "type TYPE65280",
        "x.deep A",
        "https HTTPS",
        "nx A",
        "mx A",
    ];
    for asked in types {
        let (host, qtype) = asked.split_once(' ').unwrap();
        let qtype = match qtype.strip_prefix("TYPE") {
            Some(number) => RecordType::Unknown(number.parse().unwrap()),
            None => qtype.parse().unwrap(),
        };
        let packet = query(&format!("{host}.example.com"), qtype);
        let (ours, theirs) = (udp(nodens.addr, &packet), udp(knotd.addr, &packet));
        let (ours, theirs) = (Message::from_vec(&ours).unwrap(), Message::from_vec(&theirs).unwrap());
        assert_eq!(ours.answers, theirs.answers, "{asked}");
        assert_eq!(ours.metadata.response_code, theirs.metadata.response_code, "{asked}");
        assert_eq!(ours.authorities.len(), theirs.authorities.len(), "{asked}");
        assert!(!ours.metadata.authoritative && theirs.metadata.authoritative, "{asked}");
    }
}

/// A client that sends a question from ten ports when all clients are ready; the replies to it.
fn ten_times(own: IpAddr, server: SocketAddr, all_are_ready: &Barrier) -> usize {
    let sockets: Vec<_> = (0..10)
        .map(|_| {
            let socket = UdpSocket::bind((own, 0)).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket
        })
        .collect();
    all_are_ready.wait();
    for socket in &sockets {
        socket.send_to(&query("cold.example.com", RecordType::A), server).unwrap();
    }
    sockets.iter().filter(|socket| receive(socket, &mut [0; 512]).is_ok()).count()
}

#[test]
fn five_hundred_equal_cold_questions_are_one() {
    let all_wait = Arc::new(AtomicBool::new(false));
    let is_seen = Arc::clone(&all_wait);
    let upstream = Upstream::simple(move |asked| {
        // In time for those that wait, even where a busy machine keeps some from coming before.
        while !is_seen.load(Ordering::Relaxed) && asked.at.elapsed() < Duration::from_millis(1500) {
            std::thread::sleep(Duration::from_millis(5));
        }
        asked.address(300, 1)
    });
    let nodens = Nodens::before(upstream.addr, &["--workers", "2"]);
    let barrier = Arc::new(Barrier::new(50));
    let clients: Vec<_> = (0..50u8)
        .map(|client| {
            let (server, barrier) = (nodens.addr, Arc::clone(&barrier));
            std::thread::spawn(move || ten_times([127, 0, 2, client + 1].into(), server, &barrier))
        })
        .collect();
    let start = Instant::now();
    while nodens.metric("nodens_queries_total", &[]) < 500 {
        assert!(start.elapsed() < PATIENCE, "they do not arrive");
    }
    all_wait.store(true, Ordering::Relaxed);
    let answered: usize = clients.into_iter().map(|client| client.join().unwrap()).sum();
    assert_eq!((answered, nodens.first_tries(|| upstream.count())), (500, 1));
}

/// Sends names in bursts and waits for each burst, so that no socket buffer decides the outcome.
fn flood(own: IpAddr, nodens: &Nodens, names: impl Iterator<Item = String>) {
    let socket = UdpSocket::bind((own, 0)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let names: Vec<String> = names.collect();
    for burst in names.chunks(64) {
        for name in burst {
            socket.send_to(&query(name, RecordType::A), nodens.addr).unwrap();
        }
        for _ in burst {
            receive(&socket, &mut [0; 512]).unwrap();
        }
    }
}

#[test]
fn a_full_cache_takes_newcomers_and_no_client_flushes_it() {
    let upstream = Upstream::simple(|asked| asked.address(3600, 1));
    let nodens = Nodens::before(upstream.addr, &["--workers", "2", "--cache-size", "2MiB"]);
    let (hot, crowd, third): (IpAddr, IpAddr, IpAddr) =
        ([127, 0, 3, 1].into(), [127, 0, 3, 2].into(), [127, 0, 3, 3].into());
    let hot_names = || (0..1000).map(|n| format!("hot{n}.example.com"));
    (0..3).for_each(|_| flood(hot, &nodens, hot_names()));
    // Each name once: hits throughout, for those in use and for newcomers from their second time on.
    let mut names = 1000;
    for (round, flooded) in [0, 40_000].into_iter().enumerate() {
        let step = flooded / 40;
        for part in 0..40 {
            flood(crowd, &nodens, (0..step).map(|n| format!("flood{part}x{n}.example.com")));
            flood(hot, &nodens, hot_names());
        }
        names += flooded + 100;
        for ask in 1..=20 {
            flood(third, &nodens, (0..100).map(|n| format!("new{round}x{n}.example.com")));
            assert_eq!(nodens.first_tries(|| upstream.count()), names, "asked for the {ask}th time");
        }
    }
    let held = nodens.metric("nodens_cache_bytes", &["store"]);
    assert!(held <= 2 << 20, "{held} bytes");
}

#[test]
fn a_client_keeps_its_share_of_the_store_while_another_floods_it() {
    let upstream = Upstream::simple(|asked| asked.address(3600, 1));
    let nodens = Nodens::before(upstream.addr, &["--workers", "1", "--cache-size", "2MiB"]);
    let names = || (0..500).map(|n| format!("once{n}.example.com"));
    flood([127, 0, 4, 1].into(), &nodens, names());
    flood([127, 0, 4, 2].into(), &nodens, (0..20_000).map(|n| format!("flood{n}.example.com")));
    let first_tries = || nodens.first_tries(|| upstream.count());
    let before = first_tries();
    flood([127, 0, 4, 1].into(), &nodens, names());
    assert_eq!(first_tries(), before, "what was asked once is still there");
    let evictions = |reason| nodens.metric("nodens_cache_evictions_total", &[reason]);
    assert_eq!([evictions("\"full\""), evictions("refused")], [0, 0]);
    assert!(evictions("client_full") > 10_000);
}

#[test]
fn an_upstream_that_is_ourselves_is_found_and_left_out() {
    let addr = crate::harness::free_addr();
    let mut command = crate::harness::nodens();
    command.args([
        "serve",
        "--listen",
        &addr.to_string(),
        "--admin",
        "127.0.0.1:0",
        "--upstream",
        &format!("udp://{addr}"),
    ]);
    let nodens = Nodens::spawn(command);
    let reply = nodens.ask("www.example.com", RecordType::A);
    assert_eq!(u16::from(reply.metadata.response_code), 2);
    assert_eq!(nodens.said().matches("is this process itself").count(), 1, "{}", nodens.said());
    assert_eq!(nodens.metric("nodens_upstream_questions_total", &[]), 0);
}

#[test]
fn a_loop_through_another_forwarder_is_found() {
    if !need("unbound") {
        return;
    }
    let (ours, theirs, dir) =
        (crate::harness::free_addr(), crate::harness::free_addr(), crate::harness::Dir::new());
    let conf = format!(
        "server:\n  interface: {}\n  port: {}\n  do-not-query-localhost: no\n  use-syslog: no\n  chroot: \"\"\n  username: \"\"\n  pidfile: \"\"\n  num-threads: 1\n  module-config: \"iterator\"\nforward-zone:\n  name: \".\"\n  forward-addr: {}@{}\n",
        theirs.ip(),
        theirs.port(),
        ours.ip(),
        ours.port()
    );
    let conf = dir.file("unbound.conf", &conf);
    let mut unbound =
        tool("unbound").arg("-d").arg("-c").arg(conf).stderr(std::process::Stdio::null()).spawn().unwrap();
    let mut command = crate::harness::nodens();
    command.args([
        "serve",
        "--listen",
        &ours.to_string(),
        "--admin",
        "127.0.0.1:0",
        "--upstream",
        &format!("udp://{theirs}"),
    ]);
    let nodens = Nodens::spawn(command);
    let start = Instant::now();
    let mut number = 0;
    while !nodens.said().contains("leads back to this process") && start.elapsed() < PATIENCE {
        number += 1;
        nodens.ask(&format!("loop{number}.example.com"), RecordType::A);
    }
    let said = nodens.said();
    let reply = nodens.ask("after.example.com", RecordType::A);
    let _ = unbound.kill();
    let _ = unbound.wait();
    assert_eq!(said.matches("leads back to this process").count(), 1, "{said}");
    assert_eq!(u16::from(reply.metadata.response_code), 2);
}
