//! What is truncated over UDP, from servers that do wrong over TCP: two streams a question at most, and the pool survives.

use std::io::Write;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::RecordType;

use crate::failures::{code, told};
use crate::faults::{OWN, STUB};
use crate::harness::{Asked, Nodens, PATIENCE, Upstream, query, read_framed, udp_within};

/// What a server does with a question over TCP whose answer over UDP was truncated.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Over {
    #[default]
    Answers,
    Closes,
    HalfCloses,
    ResetsMidAnswer,
    CutsMidAnswer,
    TruncatesAgain,
    SaysNothing,
    SendsRubbish,
}

/// A server that truncates over UDP.
struct Truncating {
    udp: Upstream,
    tcp: Arc<Tcp>,
}

/// What it does over TCP, and what it has seen there.
#[derive(Default)]
struct Tcp {
    over: Mutex<Over>,
    connections: AtomicUsize,
    questions: AtomicUsize,
    ended: AtomicBool,
}

impl Truncating {
    fn start(first: Over) -> Truncating {
        let both = |_| {
            let udp = Upstream::with_tcp(false, |asked| vec![(0, asked.raw(0x0200, [0; 3], &[]))]);
            TcpListener::bind(udp.addr).ok().map(|listener| (udp, listener))
        };
        let (udp, listener) = (0..50).find_map(both).unwrap();
        listener.set_nonblocking(true).unwrap();
        let tcp = Arc::new(Tcp { over: Mutex::new(first), ..Tcp::default() });
        let shared = Arc::clone(&tcp);
        std::thread::spawn(move || {
            while !shared.ended.load(Ordering::Relaxed) {
                let Ok((stream, from)) = listener.accept() else {
                    std::thread::sleep(Duration::from_millis(5));
                    continue;
                };
                shared.connections.fetch_add(1, Ordering::Relaxed);
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || converse(stream, from, &shared));
            }
        });
        Truncating { udp, tcp }
    }
}

impl Drop for Truncating {
    fn drop(&mut self) {
        self.tcp.ended.store(true, Ordering::Relaxed);
    }
}

fn converse(mut stream: TcpStream, from: SocketAddr, tcp: &Tcp) {
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    while let Some(packet) = read_framed(&mut stream) {
        let number = tcp.questions.fetch_add(1, Ordering::Relaxed);
        let asked = Asked { packet, from, tcp: true, at: Instant::now(), number };
        let framed = |reply: Vec<u8>| [&(reply.len() as u16).to_be_bytes()[..], &reply].concat();
        let whole = framed(asked.address(300, 1));
        let now = *tcp.over.lock().unwrap();
        let _ = match now {
            Over::Answers => stream.write_all(&whole),
            Over::Closes => return,
            Over::HalfCloses => stream.shutdown(Shutdown::Write),
            Over::ResetsMidAnswer | Over::CutsMidAnswer => {
                let _ = stream.write_all(&whole[..whole.len() / 2]);
                let linger = (now == Over::ResetsMidAnswer).then_some(Duration::ZERO);
                let _ = socket2::SockRef::from(&stream).set_linger(linger);
                return;
            }
            Over::TruncatesAgain => stream.write_all(&framed(asked.raw(0x0200, [0; 3], &[]))),
            Over::SaysNothing => Ok(()),
            // A message of no octets, one of three, a header alone.
            Over::SendsRubbish => {
                stream.write_all(&[&[0, 0, 0, 3, 1, 2, 3, 0, 12, 0, 0, 0x81, 0x80][..], &[0; 8]].concat())
            }
        };
    }
}

#[test]
fn truncation_costs_one_try_over_tcp_whatever_happens_there() {
    let faults = [
        Over::Closes,
        Over::HalfCloses,
        Over::ResetsMidAnswer,
        Over::CutsMidAnswer,
        Over::TruncatesAgain,
        Over::SaysNothing,
        Over::SendsRubbish,
    ];
    std::thread::scope(|scope| {
        for fault in faults {
            scope.spawn(move || one_fault_over_tcp(fault));
        }
    });
}

fn one_fault_over_tcp(fault: Over) {
    const NAMES: usize = 3;
    let server = Truncating::start(fault);
    let nodens = Nodens::before(server.udp.addr, &["--workers", "1"]);
    let mut codes = Vec::new();
    for number in 0..NAMES {
        let packet = query(&format!("n{number}.example.com"), RecordType::A);
        codes.push(told(&udp_within(OWN, nodens.addr, &packet, STUB).expect("an answer, good or bad")));
    }
    let (connections, questions) =
        (server.tcp.connections.load(Ordering::Relaxed), server.tcp.questions.load(Ordering::Relaxed));
    println!("{fault:?}: {connections} connections, {questions} questions over TCP, {codes:?}");
    assert!(codes.iter().all(|code| code.0 == ResponseCode::ServFail), "{fault:?}: {codes:?}");
    // A connection may be reset once, a second one is the last; what is truncated again will be so again.
    let most = if fault == Over::TruncatesAgain { NAMES } else { 2 * NAMES };
    assert!(connections <= most && questions <= most, "{fault:?}: {connections} {questions}");
    *server.tcp.over.lock().unwrap() = Over::Answers;
    let start = Instant::now();
    let is_well =
        |number: u128| code(&nodens, &format!("well{number}.example.com")).0 == ResponseCode::NoError;
    while !is_well(start.elapsed().as_nanos()) {
        assert!(start.elapsed() < PATIENCE, "{fault:?}");
    }
    let before = server.tcp.connections.load(Ordering::Relaxed);
    assert!((0..20).all(is_well), "{fault:?}");
    let opened = server.tcp.connections.load(Ordering::Relaxed) - before;
    assert!(opened <= 1, "{fault:?}: {opened} connections for twenty questions");
}
