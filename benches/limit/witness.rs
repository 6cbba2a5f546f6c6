//! Who counts how many different questions come to the resolver: a child in its network namespace that sees each packet before the
//! limiter does, and so also what is dropped.

use std::collections::HashSet;
use std::io::{ErrorKind, Read};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, Socket, Type};

use crate::ask;
use crate::limiter::Limiter;

/// The first argument of the child.
pub const WITNESS: &str = "witness";
/// IPv4 packets (IEEE 802 numbers), as they come in.
const ETH_P_IP: i32 = 0x0800;
/// UDP (IANA protocol numbers), and the header's length (RFC 768).
const UDP: u8 = 17;
const UDP_HEADER: usize = 8;
const DNS_HEADER: usize = 12;

/// What it has seen.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub struct Seen {
    pub packets: u64,
    pub distinct: u64,
}

pub struct Witness(Child);

impl Witness {
    /// Begins to count.
    pub fn start(limiter: &Limiter) -> Witness {
        let mut command = limiter.exec(&std::env::current_exe().unwrap().display().to_string());
        let mut child = command.arg(WITNESS).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        // It says a line when it is there.
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        Witness(child)
    }

    /// Ends it; what it has seen.
    pub fn end(mut self) -> Seen {
        drop(self.0.stdin.take());
        let mut said = String::new();
        self.0.stdout.take().unwrap().read_to_string(&mut said).unwrap();
        assert!(self.0.wait().unwrap().success());
        serde_json::from_str(&said).unwrap()
    }
}

/// Is the witness, until its input ends.
pub fn become_it() {
    let protocol = Protocol::from(i32::from((ETH_P_IP as u16).to_be()));
    let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(protocol)).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    // As much as is allowed: it may have to wait for a core.
    let _ = socket.set_recv_buffer_size(8 << 20);
    println!();
    let ended = Arc::new(AtomicBool::new(false));
    let tell = Arc::clone(&ended);
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        tell.store(true, Ordering::Relaxed);
    });
    let (mut packets, mut names) = (0, HashSet::new());
    let mut buffer = [0; 2048];
    while !ended.load(Ordering::Relaxed) {
        match (&socket).read(&mut buffer) {
            Ok(length) => {
                if let Some(name) = name_in(&buffer[..length]) {
                    packets += 1;
                    names.insert(name);
                }
            }
            Err(error) => assert!(
                matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted),
                "{error}"
            ),
        }
    }
    println!("{}", serde_json::to_string(&Seen { packets, distinct: names.len() as u64 }).unwrap());
}

/// The name that an IPv4 packet (RFC 791) to port 53 asks for, in lower case: 0x20 makes no different question of it.
fn name_in(packet: &[u8]) -> Option<Vec<u8>> {
    let header = usize::from(packet.first()? & 15) * 4;
    let udp = packet.get(header..).filter(|_| packet.get(9) == Some(&UDP))?;
    let is_dns = udp.get(2..4)? == 53u16.to_be_bytes();
    let question = udp.get(UDP_HEADER + DNS_HEADER..).filter(|_| is_dns)?;
    let end = question.iter().position(|octet| *octet == 0)?;
    Some(question[..end].to_ascii_lowercase())
}

/// A packet with a question is read, and nothing else is taken for one.
pub fn check_reading() {
    let packet = |protocol: u8, port: u16| {
        let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        packet.extend([0x80, 0]);
        packet.extend(port.to_be_bytes());
        packet.extend([0; 4]);
        packet.extend(ask::query("n1.ExAmple.com"));
        packet
    };
    assert_eq!(name_in(&packet(UDP, 53)).as_deref(), Some(&b"\x02n1\x07example\x03com"[..]));
    assert_eq!((name_in(&packet(6, 53)), name_in(&packet(UDP, 54))), (None, None));
    assert_eq!((name_in(&packet(UDP, 53)[..30]), name_in(&[])), (None, None));
}
