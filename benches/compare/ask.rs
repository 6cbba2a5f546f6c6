//! Single questions, for what is not measured: is a server there, what does its answer look like.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use nodens::wire::name::Name;

/// For a server to be there, on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// For one reply.
const REPLY: Duration = Duration::from_secs(5);

/// A stub resolver sends a question so often: a host may lose a datagram.
const TIMES: usize = 3;

/// A plain query for A.
pub fn query(name: &str) -> Vec<u8> {
    let name = Name::from_text(name).unwrap();
    [&[0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0], name.as_wire(), &[0, 1, 0, 1]].concat()
}

/// One reply, if it comes soon.
pub fn udp(server: SocketAddr, query: &[u8]) -> Option<Vec<u8>> {
    udp_from([127, 0, 0, 1].into(), server, query)
}

/// The same from another address of the loopback network.
pub fn udp_from(own: IpAddr, server: SocketAddr, query: &[u8]) -> Option<Vec<u8>> {
    let socket = UdpSocket::bind((own, 0)).unwrap();
    socket.connect(server).unwrap();
    socket.set_read_timeout(Some(REPLY)).unwrap();
    let mut buffer = [0; 4096];
    let length = (0..TIMES).find_map(|_| {
        socket.send(query).ok()?;
        received(&socket, &mut buffer)
    })?;
    (length >= 12).then(|| buffer[..length].to_vec())
}

/// A datagram in time. A process that is stopped and continued meanwhile is interrupted in what it waits for (signal(7)).
fn received(socket: &UdpSocket, buffer: &mut [u8]) -> Option<usize> {
    loop {
        match socket.recv(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            ended => return ended.ok(),
        }
    }
}

/// True for a reply with records and no error.
pub fn is_answer(reply: &[u8]) -> bool {
    reply.len() >= 12 && reply[3] & 15 == 0 && reply[6..8] != [0, 0]
}

/// True where a server has an address for a name.
pub fn answers(server: SocketAddr, own: IpAddr, name: &str) -> bool {
    udp_from(own, server, &query(name)).is_some_and(|reply| is_answer(&reply))
}

/// Waits for something to come true; panics where it never does.
pub fn wait_for(what: &str, is_there: impl FnMut() -> bool) {
    assert!(comes_true(is_there), "waited in vain: {what}");
}

/// Waits for something to come true; false where it never does.
pub fn comes_true(mut is_there: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        if is_there() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    false
}

/// The body of a page.
pub fn http(server: SocketAddr, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(server).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    text.split_once("\r\n\r\n").map(|(_, body)| body.to_string())
}
