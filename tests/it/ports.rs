//! Ports for servers that are started by their address. They lie below those that the kernel draws from, so no socket that asks for any port
//! takes one between its choice and its use.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};

/// Linux draws from 32,768 upwards unless it is told otherwise.
const PORTS: Range<u32> = 10_000..32_000;

/// A loopback address whose port nobody holds, for UDP and TCP and on no other address either; another one each time.
pub fn free_addr() -> SocketAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Processes at the same time begin far from each other.
    let first = std::process::id().wrapping_mul(509);
    let count = PORTS.end - PORTS.start;
    let next = || PORTS.start + first.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % count;
    let port = (0..count).map(|_| next() as u16).find(|port| is_free(*port)).expect("a free port");
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

fn is_free(port: u16) -> bool {
    [IpAddr::V4(Ipv4Addr::UNSPECIFIED), Ipv6Addr::UNSPECIFIED.into()]
        .into_iter()
        .all(|every| !is_held(UdpSocket::bind((every, port))) && !is_held(TcpListener::bind((every, port))))
}

/// A host without a family of addresses holds none of its ports.
fn is_held<T>(bound: io::Result<T>) -> bool {
    bound.is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse)
}
