//! A process that may have few file descriptors: datagrams go on, connections wait or are closed, nothing spins.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::RecordType;
use socket2::{Domain, Socket, Type};

use crate::harness::{Nodens, Upstream, need, query, tcp, tool};

const SECOND: Duration = Duration::from_secs(1);

/// nodens that may have so many.
fn with_descriptors(count: u32, upstream: SocketAddr) -> Nodens {
    let mut command = tool("prlimit");
    command
        .arg(format!("--nofile={count}:{count}"))
        .args([env!("CARGO_BIN_EXE_nodens"), "serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
        .args(["--workers", "2", "--upstream", &format!("udp://{upstream}")]);
    Nodens::spawn(command)
}

fn connection(own: Ipv4Addr, server: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((own, 0)).into()).unwrap();
    socket.connect(&server.into()).unwrap();
    socket.into()
}

/// Hundredths of a second of the processor's time that a process has used.
fn processor_time(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    fields[11..13].iter().map(|ticks| ticks.parse::<u64>().unwrap()).sum()
}

#[test]
fn where_descriptors_are_used_up_datagrams_go_on() {
    if !need("prlimit") {
        return;
    }
    let upstream = Upstream::start(|asked| match asked.name().starts_with("dead") {
        true => vec![],
        false => vec![(0, asked.address(300, 1))],
    });
    let nodens = with_descriptors(48, upstream.addr);
    assert!(nodens.said().contains("48 file descriptors are allowed"), "{}", nodens.said());
    let open: Vec<TcpStream> =
        (0..100).map(|number| connection(Ipv4Addr::new(127, 0, 13, 1 + number % 20), nodens.addr)).collect();
    let before = processor_time(nodens.pid());
    std::thread::sleep(SECOND);
    let used = processor_time(nodens.pid()) - before;
    assert!(used < 50, "{used} hundredths of a second while nobody asks");

    // Questions that nobody answers hold sockets open while others are asked.
    let socket = UdpSocket::bind((IpAddr::from([127, 0, 13, 99]), 0)).unwrap();
    for number in 0..600 {
        socket.send_to(&query(&format!("dead{number}.example.com"), RecordType::A), nodens.addr).unwrap();
        if number % 3 == 0 {
            let reply = nodens.ask(&format!("good{number}.example.com"), RecordType::A);
            assert_eq!((reply.metadata.response_code, reply.answers.len()), (ResponseCode::NoError, 1));
        }
    }
    assert_eq!(nodens.metric("nodens_upstream_failures_total", &["unreachable"]), 0);
    drop(open);
    let reply = tcp(nodens.addr, &query("good0.example.com", RecordType::A));
    assert_eq!(reply.map(|reply| reply[3] & 15), Some(0), "and connections too once there is room");
}
