//! Starting and stopping: nothing that arrived is lost, and what cannot be is said in one line.

use std::net::UdpSocket;
use std::os::fd::OwnedFd;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hickory_resolver::proto::rr::RecordType;

use crate::harness::{Nodens, Upstream, connect, nodens, query, read_framed, receive, send_framed};
use crate::machine::{under_load, unless_it_stands_still};

/// Sends 2,000 queries a second, a fifth of them misses that take 30 ms, and stops at the signal.
#[test]
fn sigterm_under_load_loses_nothing_that_arrived() {
    unless_it_stands_still(sigterm_under_load);
}

fn sigterm_under_load() {
    let upstream = Upstream::start(|asked| {
        vec![(if asked.name().starts_with("miss") { 30 } else { 0 }, asked.address(300, 1))]
    });
    let mut nodens = Nodens::before(upstream.addr, &["--workers", "2"]);
    nodens.ask("hot.example.com", RecordType::A);
    let ended = Arc::new(AtomicBool::new(false));
    let senders: Vec<_> = (0..4)
        .map(|sender| {
            let (server, ended) = (nodens.addr, Arc::clone(&ended));
            std::thread::spawn(move || {
                let sockets: Vec<_> = (0..16).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
                let mut sent = 0usize;
                while !ended.load(Ordering::SeqCst) {
                    let name = if sent % 5 == 4 {
                        format!("miss{sender}x{sent}.example.com")
                    } else {
                        "hot.example.com".into()
                    };
                    sockets[sent % 16].send_to(&query(&name, RecordType::A), server).unwrap();
                    sent += 1;
                    std::thread::sleep(Duration::from_millis(2));
                }
                (sockets, sent)
            })
        })
        .collect();
    std::thread::sleep(Duration::from_millis(1500));
    // The senders have ended before the signal goes out: every query has arrived by then.
    ended.store(true, Ordering::SeqCst);
    let sent: Vec<_> = senders.into_iter().map(|sender| sender.join().unwrap()).collect();
    let start = Instant::now();
    assert_eq!(nodens.stop(), 0);
    assert!(start.elapsed() < Duration::from_secs(5));
    for (sockets, count) in sent {
        let mut answered = 0;
        for socket in sockets {
            socket.set_nonblocking(true).unwrap();
            answered += std::iter::from_fn(|| socket.recv(&mut [0; 512]).ok()).count();
        }
        assert_eq!(answered, count);
    }
}

/// Clients that never pause keep a socket from running empty, and a worker from sleeping.
#[test]
fn a_flood_does_not_keep_it_from_ending() {
    under_load(sigterm_in_a_flood);
}

fn sigterm_in_a_flood() {
    let upstream = Upstream::start(|asked| vec![(0, asked.address(300, 1))]);
    let mut nodens = Nodens::before(upstream.addr, &["--workers", "1"]);
    nodens.ask("hot.example.com", RecordType::A);
    let ended = Arc::new(AtomicBool::new(false));
    let flood: Vec<_> = (0..3)
        .map(|_| {
            let (server, ended) = (nodens.addr, Arc::clone(&ended));
            std::thread::spawn(move || {
                let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
                let query = query("hot.example.com", RecordType::A);
                while !ended.load(Ordering::Relaxed) {
                    let _ = socket.send_to(&query, server);
                }
            })
        })
        .collect();
    std::thread::sleep(Duration::from_secs(1));
    let start = Instant::now();
    assert_eq!(nodens.stop(), 0);
    let took = start.elapsed();
    ended.store(true, Ordering::Relaxed);
    flood.into_iter().for_each(|thread| thread.join().unwrap());
    assert!(took < Duration::from_secs(15), "{took:?}");
}

#[test]
fn readiness_ends_with_the_signal_and_waiting_questions_are_answered() {
    unless_it_stands_still(sigterm_while_questions_wait);
}

fn sigterm_while_questions_wait() {
    let upstream = Upstream::start(|asked| vec![(800, asked.address(300, 1))]);
    let mut nodens = Nodens::before(upstream.addr, &[]);
    assert_eq!((nodens.get("/ready").0, nodens.get("/health").0), (200, 200));
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket.send_to(&query("slow.example.com", RecordType::A), nodens.addr).unwrap();
    let mut stream = connect(nodens.addr);
    send_framed(&mut stream, &query("slow2.example.com", RecordType::A));
    while upstream.count() < 2 {
        std::thread::sleep(Duration::from_millis(5));
    }
    nodens.signal(15);
    let start = Instant::now();
    while nodens.get("/ready").0 != 503 {
        assert!(start.elapsed() < Duration::from_millis(700), "it is told before the end");
    }
    assert_eq!(nodens.get("/health").0, 200);
    assert!(receive(&socket, &mut [0; 512]).is_ok());
    assert!(read_framed(&mut stream).is_some());
    assert_eq!(nodens.wait(), 0);
}

#[test]
fn an_address_in_use_is_one_clear_line() {
    let held = UdpSocket::bind("127.0.0.1:0").unwrap();
    let addr = held.local_addr().unwrap().to_string();
    let output = nodens()
        .args(["serve", "--listen", &addr, "--admin", "off", "--upstream", "udp://192.0.2.1"])
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), said.lines().count()), (Some(1), 1), "{said}");
    assert!(said.contains(&addr) && said.contains("--listen"), "{said}");
}

#[test]
fn a_second_instance_on_the_same_port_is_told() {
    let upstream = Upstream::simple(|asked| asked.address(300, 1));
    let first = Nodens::before(upstream.addr, &[]);
    let output = nodens()
        .args([
            "serve",
            "--listen",
            &first.addr.to_string(),
            "--admin",
            "off",
            "--upstream",
            "udp://192.0.2.1",
        ])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn replies_leave_from_the_address_that_was_asked() {
    let upstream = Upstream::simple(|asked| asked.address(300, 1));
    let port = crate::harness::free_addr().port();
    let mut command = nodens();
    command.args([
        "serve",
        "--listen",
        &format!("0.0.0.0:{port}"),
        "--listen",
        &format!("[::]:{port}"),
        "--admin",
        "127.0.0.1:0",
    ]);
    command.args(["--upstream", &format!("udp://{}", upstream.addr)]);
    let _nodens = Nodens::spawn(command);
    for server in [format!("127.0.0.7:{port}"), format!("[::1]:{port}")] {
        for round in 0..2 {
            // A connected socket takes replies from that address alone; a miss first, then a hit.
            let reply =
                crate::harness::udp(server.parse().unwrap(), &query("pktinfo.example.com", RecordType::A));
            assert_eq!(reply[7], 1, "{server} {round}");
        }
    }
}

#[test]
fn sockets_can_come_from_a_parent() {
    let upstream = Upstream::simple(|asked| asked.address(300, 1));
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let addr = udp.local_addr().unwrap();
    // A shell moves its standard input to where LISTEN_FDS says sockets begin, and becomes the program.
    let mut command = Command::new("sh");
    let script = format!(
        "exec 3<&0; LISTEN_FDS=1 LISTEN_PID=$$ exec {} serve --admin 127.0.0.1:0 --upstream udp://{}",
        env!("CARGO_BIN_EXE_nodens"),
        upstream.addr
    );
    command.args(["-c", &script]).stdin(OwnedFd::from(udp));
    let nodens = Nodens::spawn(command);
    assert_eq!(nodens.addr, addr);
    for _ in 0..8 {
        assert_eq!(nodens.ask("inherited.example.com", RecordType::A).answers.len(), 1);
    }
}

/// Prints what a start costs; time is not asserted, machines are shared.
#[test]
fn a_start_is_small_and_quick() {
    let upstream = Upstream::simple(|asked| asked.address(300, 1));
    let start = Instant::now();
    let nodens = Nodens::before(upstream.addr, &[]);
    assert_eq!(nodens.ask("first.example.com", RecordType::A).answers.len(), 1);
    let took = start.elapsed();
    let status = std::fs::read_to_string(format!("/proc/{}/status", nodens.pid())).unwrap();
    let kib = |key: &str| -> u64 {
        let value = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
        value.trim().trim_end_matches(" kB").parse().unwrap()
    };
    let (resident, own) = (kib("VmRSS:"), kib("RssAnon:"));
    println!("start to first answer {took:?}, {resident} KiB resident, {own} KiB of it its own");
    // The rest is the program's file, most of it because it is built for tests.
    assert!(own < 8 * 1024, "{own} KiB");
}

/// The process is held while queries arrive, so that the signal finds them in the sockets.
#[test]
fn what_waits_in_the_sockets_at_the_signal_is_answered() {
    let upstream = Upstream::start(|asked| vec![(30, asked.address(300, 1))]);
    let mut nodens = Nodens::before(upstream.addr, &["--workers", "2"]);
    nodens.ask("hot.example.com", RecordType::A);
    nodens.signal(libc_signal::STOP);
    let sockets: Vec<UdpSocket> = (0..200)
        .map(|number| {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.set_read_timeout(Some(crate::harness::PATIENCE)).unwrap();
            let name =
                if number % 4 == 0 { format!("miss{number}.example.com") } else { "hot.example.com".into() };
            socket.send_to(&query(&name, RecordType::A), nodens.addr).unwrap();
            socket
        })
        .collect();
    nodens.signal(libc_signal::TERM);
    nodens.signal(libc_signal::CONT);
    let answered = sockets.iter().take_while(|socket| receive(socket, &mut [0; 512]).is_ok()).count();
    assert_eq!((answered, nodens.wait()), (200, 0));
}

/// Signal numbers of Linux on all platforms that nodens is built for.
mod libc_signal {
    pub const TERM: i32 = 15;
    pub const CONT: i32 = 18;
    pub const STOP: i32 = 19;
}
