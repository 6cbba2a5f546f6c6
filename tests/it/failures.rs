//! Upstream servers that do wrong: what the client sees, what the server sees, and for how long.

use std::time::{Duration, Instant};

use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::RecordType;

use crate::harness::{Nodens, PATIENCE, Upstream, free_addr, query, receive, udp};
use crate::machine::unless_it_stands_still;

pub fn code(nodens: &Nodens, name: &str) -> (ResponseCode, Option<u16>) {
    told(&udp(nodens.addr, &query(name, RecordType::A)))
}

/// A reply's rcode, and its extended error.
pub fn told(reply: &[u8]) -> (ResponseCode, Option<u16>) {
    let message = Message::from_vec(reply).unwrap();
    let opt =
        message.edns.is_some().then(|| reply.windows(3).position(|octets| octets == [0, 0, 41])).flatten();
    let info = opt.and_then(|at| reply.get(at + 11..at + 17)).filter(|option| option[..2] == [0, 15]);
    (message.metadata.response_code, info.map(|option| u16::from_be_bytes([option[4], option[5]])))
}

#[test]
fn silence_becomes_servfail_and_is_remembered() {
    unless_it_stands_still(silence);
}

fn silence() {
    let upstream = Upstream::start(|_| vec![]);
    let nodens = Nodens::before(upstream.addr, &[]);
    assert_eq!(code(&nodens, "www.example.com"), (ResponseCode::ServFail, Some(22)));
    let asked = upstream.count();
    assert_eq!(asked, 5, "one question, five packets at most");
    (0..20).for_each(|_| assert_eq!(code(&nodens, "www.example.com").0, ResponseCode::ServFail));
    assert_eq!(upstream.count(), asked, "a client that repeats itself causes nothing (RFC 9520 section 3.2)");
}

#[test]
fn a_closed_port_becomes_servfail_with_its_reason() {
    let nodens = Nodens::before(free_addr(), &[]);
    assert_eq!(code(&nodens, "www.example.com"), (ResponseCode::ServFail, Some(23)));
    assert!(nodens.metric("nodens_upstream_failures_total", &["unreachable"]) > 0);
}

#[test]
fn failures_are_kept_for_longer_each_time() {
    let upstream = Upstream::simple(|asked| asked.raw(2, [0; 3], &[]));
    let nodens = Nodens::before(upstream.addr, &[]);
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(4) {
        assert_eq!(code(&nodens, "www.example.com").0, ResponseCode::ServFail);
        std::thread::sleep(Duration::from_millis(50));
    }
    // After 0, 1 and 3 seconds; the fourth would come after 7.
    assert!((2..=3).contains(&upstream.count()), "{}", upstream.count());
}

#[test]
fn one_bad_server_of_two_is_not_seen() {
    let bad: [fn(&crate::harness::Asked) -> Vec<u8>; 3] =
        [|asked| asked.raw(2, [0; 3], &[]), |asked| asked.raw(5, [0; 3], &[]), |_| vec![]];
    for say in bad {
        let (bad, good) = (Upstream::simple(say), Upstream::simple(|asked| asked.address(300, 1)));
        let nodens = Nodens::before(bad.addr, &["--upstream", &format!("udp://{}", good.addr)]);
        for n in 0..20 {
            assert_eq!(code(&nodens, &format!("n{n}.example.com")).0, ResponseCode::NoError);
        }
        assert!(bad.count() < 20, "it is asked last after some failures: {}", bad.count());
    }
}

#[test]
fn a_late_answer_fills_the_cache() {
    let upstream =
        Upstream::start(|asked| if asked.number == 0 { vec![(4000, asked.address(300, 1))] } else { vec![] });
    let nodens = Nodens::before(upstream.addr, &[]);
    assert_eq!(code(&nodens, "slow.example.com").0, ResponseCode::ServFail);
    let start = Instant::now();
    while code(&nodens, "slow.example.com").0 != ResponseCode::NoError {
        assert!(start.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(upstream.count() <= 10);
}

#[test]
fn truncation_without_tcp_fails_and_a_reset_is_survived() {
    let udp_only = Upstream::with_tcp(false, |asked| vec![(0, asked.raw(0x0200, [0; 3], &[]))]);
    let nodens = Nodens::before(udp_only.addr, &[]);
    assert_eq!(code(&nodens, "www.example.com").0, ResponseCode::ServFail);

    // Every second question over TCP is answered by closing the connection.
    let resets = Upstream::simple(|asked| match (asked.tcp, asked.number % 4) {
        (false, _) => asked.raw(0x0200, [0; 3], &[]),
        (true, 1) => vec![],
        (true, _) => asked.address(300, 1),
    });
    let nodens = Nodens::before(resets.addr, &["--workers", "1"]);
    let good =
        (0..10).filter(|n| code(&nodens, &format!("n{n}.example.com")).0 == ResponseCode::NoError).count();
    assert_eq!(good, 10);
}

#[test]
fn a_tcp_upstream_answers_out_of_order() {
    let upstream = Upstream::start(|asked| {
        vec![(if asked.name().starts_with("slow") { 300 } else { 0 }, asked.address(300, 1))]
    });
    let nodens = Nodens::start(&["--workers", "1", "--upstream", &format!("tcp://{}", upstream.addr)]);
    for n in 0..50 {
        assert_eq!(code(&nodens, &format!("n{n}.example.com")).0, ResponseCode::NoError);
    }
    assert!(upstream.asked().iter().all(|asked| asked.tcp));
    let ports: std::collections::HashSet<u16> =
        upstream.asked().iter().map(|asked| asked.from.port()).collect();
    assert!(ports.len() <= 2, "connections are kept: {}", ports.len());
}

#[test]
fn a_server_without_edns_is_asked_without() {
    let upstream = Upstream::simple(|asked| match asked.message().edns {
        Some(_) => asked.raw(1, [0; 3], &[]),
        None => asked.address(300, 1),
    });
    let nodens = Nodens::before(upstream.addr, &[]);
    (0..5).for_each(|n| assert_eq!(code(&nodens, &format!("n{n}.example.com")).0, ResponseCode::NoError));
    assert_eq!(upstream.count(), 6, "it is remembered (RFC 6891 section 6.2.2)");
}

#[test]
fn one_clients_waiting_questions_are_bounded_and_others_go_on() {
    unless_it_stands_still(questions_of_one_client);
}

fn questions_of_one_client() {
    let upstream = Upstream::start(|asked| {
        if asked.name().starts_with("good") { vec![(0, asked.address(300, 1))] } else { vec![] }
    });
    let nodens = Nodens::before(upstream.addr, &["--workers", "1"]);
    let socket = std::net::UdpSocket::bind("127.0.5.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    for n in 0..1100 {
        socket.send_to(&query(&format!("dead{n}.example.com"), RecordType::A), nodens.addr).unwrap();
        if n % 50 == 0 {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    let mut buffer = [0; 512];
    let length = receive(&socket, &mut buffer).unwrap();
    assert_eq!(Message::from_vec(&buffer[..length]).unwrap().metadata.response_code, ResponseCode::ServFail);
    assert!(buffer[..length].ends_with(b"of this client wait for upstream"), "the reason is told at once");
    assert_eq!(code(&nodens, "good.example.com").0, ResponseCode::NoError);
    let start = Instant::now();
    while nodens.metric("nodens_limit_reached_total", &["client_waiting"]) < 76 {
        assert!(start.elapsed() < PATIENCE, "1,100 questions, 1,024 places");
    }
}

#[test]
fn starting_without_any_upstream_is_no_reason_not_to_start() {
    let nodens = Nodens::before(free_addr(), &[]);
    assert_eq!(nodens.get("/ready").0, 200);
}

#[test]
fn a_server_that_resets_every_connection_is_met_with_few() {
    let resets = Upstream::start(|_| vec![(0, vec![])]);
    let nodens = Nodens::start(&["--workers", "1", "--upstream", &format!("tcp://{}", resets.addr)]);
    let questions = 300;
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    for n in 0..questions {
        socket.send_to(&query(&format!("n{n}.example.com"), RecordType::A), nodens.addr).unwrap();
    }
    assert_eq!(code(&nodens, "last.example.com"), (ResponseCode::ServFail, Some(23)));
    let unanswered = nodens.metric("nodens_upstream_connections_total", &["unanswered"]);
    // Two before the first failure, then one after each pause; five tries take less than 2 s.
    assert!((2..=8).contains(&unanswered), "{unanswered} connections for {questions} questions");
}

#[test]
fn segments_are_counted() {
    let upstream = Upstream::simple(|asked| asked.address(300, 1));
    let nodens = Nodens::start(&["--workers", "1", "--upstream", &format!("tcp://{}", upstream.addr)]);
    for n in 0..20 {
        assert_eq!(code(&nodens, &format!("n{n}.example.com")).0, ResponseCode::NoError);
    }
    let segments = nodens.metric("nodens_upstream_segments_total", &[]);
    assert!((20..=80).contains(&segments), "{segments} for 20 questions");
    assert_eq!(nodens.metric("nodens_upstream_connections_total", &["opened"]), 1);
}
