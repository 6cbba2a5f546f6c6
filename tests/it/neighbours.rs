//! What one client does to a worker, another does not feel: hits between floods of misses and connections that stand still.

use std::io::Write;
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::RecordType;
use socket2::{Domain, Socket, Type};

use crate::harness::{Nodens, PATIENCE, Upstream, query, read_some, receive, tcp, udp_within, with_room};

/// Answers what is called good and is silent otherwise, so that each miss waits as long as it may.
fn upstream() -> Upstream {
    Upstream::start(
        |asked| {
            if asked.name().starts_with("good") { vec![(0, asked.address(3600, 1))] } else { vec![] }
        },
    )
}

/// Questions of a flood that are not answered yet, as a load generator bounds them: twice what one client may have waiting,
/// so that most of them are refused at once.
const WINDOW: u64 = 2048;

/// No question waits for so long: what is not answered then is lost.
const OVER: Duration = Duration::from_secs(3);

/// A client that asks for names that nobody has, as fast as it is answered.
struct Flood {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Flood {
    fn of(own: [u8; 4], server: SocketAddr) -> Flood {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&sent));
        let socket = UdpSocket::bind((IpAddr::from(own), 0)).unwrap();
        socket.connect(server).unwrap();
        with_room(&socket);
        let thread = std::thread::spawn(move || ask_as_fast_as_answered(&socket, &stopped, &count));
        Flood { stop, sent, thread: Some(thread) }
    }

    fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

fn ask_as_fast_as_answered(socket: &UdpSocket, stopped: &AtomicBool, count: &AtomicU64) {
    socket.set_read_timeout(Some(OVER)).unwrap();
    let mut answered: u64 = 0;
    while !stopped.load(Ordering::Relaxed) {
        let number = count.load(Ordering::Relaxed);
        let has_to_wait = number - answered >= WINDOW;
        socket.set_nonblocking(!has_to_wait).unwrap();
        let replies = replies_of(socket);
        // Replies to what was given up may still come.
        answered = if has_to_wait && replies == 0 { number } else { number.min(answered + replies) };
        if number - answered < WINDOW {
            socket.send(&query(&format!("miss{number}.example.com"), RecordType::A)).unwrap();
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Replies that are there; it waits for the first of them where the socket does.
fn replies_of(socket: &UdpSocket) -> u64 {
    let mut replies = 0;
    while receive(socket, &mut [0; 512]).is_ok() {
        replies += 1;
        socket.set_nonblocking(true).unwrap();
    }
    replies
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().map(JoinHandle::join);
    }
}

fn connect_from(own: [u8; 4], server: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((own, 0)).into()).unwrap();
    socket.connect(&server.into()).unwrap();
    let stream: TcpStream = socket.into();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn all_answered(nodens: &Nodens, own: [u8; 4], names: usize) {
    for number in 0..names {
        let packet = query(&format!("good{}.example.com", number % 100), RecordType::A);
        let reply = udp_within(own.into(), nodens.addr, &packet, PATIENCE).expect("a hit is not lost");
        assert_eq!(Message::from_vec(&reply).unwrap().metadata.response_code, ResponseCode::NoError);
    }
}

#[test]
fn a_flood_of_misses_leaves_the_hits_of_others_alone() {
    let upstream = upstream();
    let nodens = Nodens::before(upstream.addr, &["--workers", "1"]);
    all_answered(&nodens, [127, 0, 7, 1], 200);
    let flood = Flood::of([127, 0, 7, 2], nodens.addr);
    let start = Instant::now();
    while flood.sent() < 5000 {
        assert!(start.elapsed() < PATIENCE, "{} sent", flood.sent());
        std::thread::yield_now();
    }
    let before = flood.sent();
    all_answered(&nodens, [127, 0, 7, 1], 1000);
    assert!(flood.sent() > before, "it went on meanwhile");
}

#[test]
fn connections_that_stand_still_leave_honest_ones_and_datagrams_alone() {
    let upstream = upstream();
    let nodens = Nodens::before(upstream.addr, &["--workers", "1"]);
    all_answered(&nodens, [127, 0, 8, 1], 100);
    let mut stuck: Vec<TcpStream> =
        (0..300u16).map(|n| connect_from([127, 0, 8, 2 + (n % 3) as u8], nodens.addr)).collect();
    stuck.iter_mut().for_each(|stream| stream.write_all(&[0, 40, 1]).unwrap());
    let opened = Instant::now();
    all_answered(&nodens, [127, 0, 8, 1], 500);
    for number in 0..20 {
        let packet = query(&format!("good{number}.example.com"), RecordType::A);
        assert!(tcp(nodens.addr, &packet).is_some());
    }
    let is_closed = |stream: &mut TcpStream| matches!(read_some(stream, &mut [0; 1]), Ok(0) | Err(_));
    assert!(stuck.iter_mut().all(is_closed));
    assert!(opened.elapsed() < PATIENCE, "by the server, not by the reader's patience");
}
