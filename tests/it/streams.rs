//! TCP: pipelining, order, half-closing, and clients that mean no good (RFC 7766).

use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use hickory_resolver::proto::op::Message;
use hickory_resolver::proto::rr::RecordType;

use crate::harness::{Nodens, PATIENCE, Upstream, connect, query, read_framed, read_some, send_framed, tcp};

fn slow_and_fast() -> Upstream {
    Upstream::start(|asked| {
        vec![(if asked.name().starts_with("slow") { 400 } else { 0 }, asked.address(300, 1))]
    })
}

fn name_of(reply: &[u8]) -> String {
    Message::from_vec(reply).unwrap().queries[0].name().to_ascii()
}

#[test]
fn a_slow_name_does_not_hold_up_the_next() {
    let upstream = slow_and_fast();
    let nodens = Nodens::before(upstream.addr, &[]);
    let mut stream = connect(nodens.addr);
    send_framed(&mut stream, &query("slow.example.com", RecordType::A));
    send_framed(&mut stream, &query("fast.example.com", RecordType::A));
    let order: Vec<String> = (0..2).map(|_| name_of(&read_framed(&mut stream).unwrap())).collect();
    assert_eq!(order, ["fast.example.com.", "slow.example.com."]);
}

#[test]
fn many_questions_at_once_are_all_answered() {
    let upstream = slow_and_fast();
    let nodens = Nodens::before(upstream.addr, &[]);
    let mut stream = connect(nodens.addr);
    let packets: Vec<Vec<u8>> =
        (0..1000).map(|n| query(&format!("n{}.example.com", n % 300), RecordType::A)).collect();
    let framed: Vec<u8> =
        packets.iter().flat_map(|p| [&(p.len() as u16).to_be_bytes()[..], p].concat()).collect();
    let mut writer = stream.try_clone().unwrap();
    let sender = std::thread::spawn(move || writer.write_all(&framed).unwrap());
    let mut ids: Vec<[u8; 2]> =
        (0..1000).map(|_| read_framed(&mut stream).unwrap()[..2].try_into().unwrap()).collect();
    sender.join().unwrap();
    ids.sort_unstable();
    let mut sent: Vec<[u8; 2]> = packets.iter().map(|packet| packet[..2].try_into().unwrap()).collect();
    sent.sort_unstable();
    assert_eq!((ids, upstream.count()), (sent, 300));
}

#[test]
fn a_half_closed_client_gets_its_answers_and_then_the_end() {
    let upstream = slow_and_fast();
    let nodens = Nodens::before(upstream.addr, &[]);
    let mut stream = connect(nodens.addr);
    send_framed(&mut stream, &query("slow.example.com", RecordType::A));
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(name_of(&read_framed(&mut stream).unwrap()), "slow.example.com.");
    assert_eq!(read_some(&mut stream, &mut [0; 1]).unwrap(), 0);
}

#[test]
fn a_message_may_come_octet_by_octet() {
    let upstream = slow_and_fast();
    let nodens = Nodens::before(upstream.addr, &[]);
    let mut stream = connect(nodens.addr);
    stream.set_nodelay(true).unwrap();
    let packet = query("fast.example.com", RecordType::A);
    for octet in [&(packet.len() as u16).to_be_bytes()[..], &packet].concat() {
        stream.write_all(&[octet]).unwrap();
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(name_of(&read_framed(&mut stream).unwrap()), "fast.example.com.");
}

#[test]
fn a_message_that_begins_late_has_its_time_all_the_same() {
    let upstream = slow_and_fast();
    let nodens = Nodens::before(upstream.addr, &[]);
    let mut stream = connect(nodens.addr);
    let query = query("fast.example.com", RecordType::A);
    // Longer than a message may take, shorter than a connection may be idle.
    std::thread::sleep(Duration::from_millis(4500));
    stream.write_all(&(query.len() as u16).to_be_bytes()).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    stream.write_all(&query).unwrap();
    assert!(read_framed(&mut stream).is_some());
}

fn is_closed(stream: &mut TcpStream) -> bool {
    matches!(read_some(stream, &mut [0; 64]), Ok(0) | Err(_))
}

#[test]
fn connections_that_stop_midway_are_closed_and_honest_ones_served() {
    let upstream = slow_and_fast();
    let nodens = Nodens::before(upstream.addr, &[]);
    let mut stuck: Vec<TcpStream> = (0..100).map(|_| connect(nodens.addr)).collect();
    stuck.iter_mut().for_each(|stream| stream.write_all(&[0, 40, 1]).unwrap());
    let mut silent: Vec<TcpStream> = (0..20).map(|_| connect(nodens.addr)).collect();
    assert!(tcp(nodens.addr, &query("fast.example.com", RecordType::A)).is_some());
    nodens.ask("fast.example.com", RecordType::A);
    let start = Instant::now();
    assert!(stuck.iter_mut().all(is_closed) && silent.iter_mut().all(is_closed));
    assert!(start.elapsed() < PATIENCE, "before the reader's own patience ended");
}

#[test]
fn one_clients_connections_are_bounded() {
    let upstream = slow_and_fast();
    let nodens = Nodens::before(upstream.addr, &[]);
    let held: Vec<TcpStream> = (0..140).map(|_| connect(nodens.addr)).collect();
    let start = Instant::now();
    while nodens.metric("nodens_limit_reached_total", &["client_connections"]) < 12 {
        assert!(start.elapsed() < PATIENCE);
    }
    drop(held);
    let start = Instant::now();
    while tcp_once(&nodens).is_none() {
        assert!(start.elapsed() < PATIENCE, "places come back");
    }
}

fn tcp_once(nodens: &Nodens) -> Option<Vec<u8>> {
    let mut stream = connect(nodens.addr);
    let packet = query("fast.example.com", RecordType::A);
    stream.write_all(&[&(packet.len() as u16).to_be_bytes()[..], &packet].concat()).ok()?;
    read_framed(&mut stream)
}

#[test]
fn a_client_that_takes_no_answers_holds_nobody_up() {
    let upstream = Upstream::simple(|asked| {
        if !asked.tcp {
            return asked.raw(0x0200, [0; 3], &[]);
        }
        let text: Vec<u8> = (0..200)
            .flat_map(|_| {
                [&b"\xc0\x0c\x00\x10\x00\x01\x00\x00\x01\x2c\x00\xc9\xc8"[..], &[b'x'; 200]].concat()
            })
            .collect();
        asked.raw(0, [200, 0, 0], &text)
    });
    let nodens = Nodens::before(upstream.addr, &["--workers", "1"]);
    let mut greedy = connect(nodens.addr);
    greedy.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    let packet = query("big.example.com", RecordType::TXT);
    let framed = [&(packet.len() as u16).to_be_bytes()[..], &packet].concat();
    for _ in 0..5000 {
        if greedy.write_all(&framed).is_err() {
            break;
        }
    }
    assert!(tcp(nodens.addr, &query("big.example.com", RecordType::TXT)).is_some());
}
