//! Where every listening socket is made, or taken over from whoever started the process.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsFd;

use listenfd::ListenFd;
use socket2::{Domain, Protocol, Socket, Type};

use super::sys;
use crate::limits::RECEIVE_BUFFER;

/// TCP connections that wait to be accepted.
const BACKLOG: i32 = 512;

/// One worker's sockets, one of each kind per address.
#[derive(Debug)]
pub struct WorkerSockets {
    /// For datagrams.
    pub udp: Vec<UdpSocket>,
    /// For connections.
    pub tcp: Vec<TcpListener>,
}

/// Why an address cannot be listened on, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {addr} ({proto}): {error}{advice}")]
pub struct BindError {
    addr: SocketAddr,
    proto: &'static str,
    error: io::Error,
    advice: &'static str,
}

impl BindError {
    fn new(addr: SocketAddr, proto: &'static str, error: io::Error) -> BindError {
        let advice = match error.kind() {
            io::ErrorKind::AddrInUse => {
                "; another server holds this port: stop it, or choose another with --listen"
            }
            io::ErrorKind::PermissionDenied => {
                "; ports below 1024 need the capability CAP_NET_BIND_SERVICE: grant it, or choose another with --listen"
            }
            io::ErrorKind::AddrNotAvailable => "; no interface of this host has the address: add it first",
            _ => "",
        };
        BindError { addr, proto, error, advice }
    }
}

/// Binds every address for every worker; port 0 is the same free port for all.
///
/// # Errors
/// The first address that cannot be had.
pub fn bind(addrs: &[SocketAddr], workers: usize) -> Result<Vec<WorkerSockets>, BindError> {
    let mut all: Vec<_> = (0..workers).map(|_| WorkerSockets { udp: vec![], tcp: vec![] }).collect();
    for &wanted in addrs {
        check_free(wanted)?;
        let addr = if wanted.port() == 0 { free_port(wanted)? } else { wanted };
        for sockets in &mut all {
            sockets.udp.push(udp_socket(addr).map_err(|error| BindError::new(addr, "UDP", error))?);
            sockets.tcp.push(tcp_listener(addr).map_err(|error| BindError::new(addr, "TCP", error))?);
        }
    }
    Ok(all)
}

/// Ports that the system offers for datagrams and that somebody has for connections, before it is given up.
const OFFERS: usize = 32;

/// The address with a port that is free for datagrams and connections alike.
fn free_port(addr: SocketAddr) -> Result<SocketAddr, BindError> {
    let mut tried = Ok(addr);
    for _ in 0..OFFERS {
        // Not by a socket that shares ports: it may be offered one of another process that does, and take what is meant for that.
        let offered = UdpSocket::bind(addr).and_then(|socket| socket.local_addr());
        let offered = offered.map_err(|error| BindError::new(addr, "UDP", error))?;
        tried = check_free(offered).map(|()| offered);
        if tried.is_ok() {
            break;
        }
    }
    tried
}

/// Takes descriptors that a parent passed by the systemd convention (`LISTEN_FDS`), if it did.
///
/// Each worker reads from all of them: the kernel hands a datagram to one reader.
///
/// # Errors
/// What the system said when a descriptor was copied.
pub fn inherited(workers: usize) -> io::Result<Option<Vec<WorkerSockets>>> {
    let mut passed = ListenFd::from_env();
    let mut first = WorkerSockets { udp: vec![], tcp: vec![] };
    for index in 0..passed.len() {
        // A descriptor of the other kind is left in its place and tried as that.
        if let Ok(Some(udp)) = passed.take_udp_socket(index) {
            prepare(&udp)?;
            first.udp.push(udp);
        } else if let Some(tcp) = passed.take_tcp_listener(index)? {
            tcp.set_nonblocking(true)?;
            first.tcp.push(tcp);
        }
    }
    if first.udp.is_empty() && first.tcp.is_empty() {
        return Ok(None);
    }
    let mut all = vec![first];
    for _ in 1..workers {
        let Some(first) = all.first() else { break };
        let udp = first.udp.iter().map(UdpSocket::try_clone).collect::<io::Result<_>>()?;
        let tcp = first.tcp.iter().map(TcpListener::try_clone).collect::<io::Result<_>>()?;
        all.push(WorkerSockets { udp, tcp });
    }
    Ok(Some(all))
}

/// SO_REUSEPORT would let two processes share a port without a word, so it is tried once without.
fn check_free(addr: SocketAddr) -> Result<(), BindError> {
    if addr.port() == 0 {
        return Ok(());
    }
    for (proto, kind, number) in [("UDP", Type::DGRAM, Protocol::UDP), ("TCP", Type::STREAM, Protocol::TCP)] {
        let tried = Socket::new(Domain::for_address(addr), kind, Some(number)).and_then(|socket| {
            if kind == Type::STREAM {
                // Connections of an earlier process that linger in TIME_WAIT hold nothing.
                socket.set_reuse_address(true)?;
            }
            if addr.is_ipv6() {
                socket.set_only_v6(true)?;
            }
            socket.bind(&addr.into())
        });
        tried.map_err(|error| BindError::new(addr, proto, error))?;
    }
    Ok(())
}

fn shared(addr: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), kind.nonblocking().cloexec(), Some(protocol))?;
    socket.set_reuse_port(true)?;
    if addr.is_ipv6() {
        // [::] and 0.0.0.0 stay two sockets, so that each replies with addresses of its family.
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

fn udp_socket(addr: SocketAddr) -> io::Result<UdpSocket> {
    let socket = shared(addr, Type::DGRAM, Protocol::UDP)?;
    socket.bind(&addr.into())?;
    let socket: UdpSocket = socket.into();
    prepare(&socket)?;
    Ok(socket)
}

fn prepare(socket: &UdpSocket) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    let ip: IpAddr = socket.local_addr()?.ip();
    sys::ignore_path_mtu(socket.as_fd(), ip)?;
    if ip.is_unspecified() {
        sys::want_packet_info(socket.as_fd(), ip)?;
    }
    if sys::force_receive_buffer(socket.as_fd(), RECEIVE_BUFFER as usize).is_err() {
        // Without the capability the system's own maximum has to do.
        let _ = socket2::SockRef::from(socket).set_recv_buffer_size(RECEIVE_BUFFER as usize);
    }
    Ok(())
}

fn tcp_listener(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = shared(addr, Type::STREAM, Protocol::TCP)?;
    socket.set_reuse_address(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_share_one_free_port() {
        let all = bind(&["127.0.0.1:0".parse().unwrap(), "[::1]:0".parse().unwrap()], 3).unwrap();
        let port = all[0].udp[0].local_addr().unwrap().port();
        assert!(all.iter().all(|one| one.udp[0].local_addr().unwrap().port() == port));
        assert!(all.iter().all(|one| one.tcp[0].local_addr().unwrap().port() == port));
        assert!(all[2].udp[1].local_addr().unwrap().is_ipv6());
    }

    #[test]
    fn a_port_that_is_held_is_refused_also_by_one_that_shares_it() {
        let held = bind(&["127.0.0.1:0".parse().unwrap()], 2).unwrap();
        let addr = held[0].udp[0].local_addr().unwrap();
        let error = bind(&[addr], 1).unwrap_err().to_string();
        assert!(error.contains(&addr.to_string()) && error.contains("--listen"), "{error}");
    }

    #[test]
    fn addresses_of_nobody_are_refused_with_advice() {
        let error = bind(&["192.0.2.1:1053".parse().unwrap()], 1).unwrap_err().to_string();
        assert!(error.contains("no interface"), "{error}");
    }
}
