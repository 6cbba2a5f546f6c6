//! The system calls that no safe crate offers whole: recvmmsg and sendmmsg with packet information, a few options.
//!
//! **The argument for the unsafe code.** All memory the kernel reads or writes is owned by [`Batch`] or [`Outbox`] (or by the
//! caller of a function here, for its duration), which are borrowed for the whole of a call. Every pointer handed to the
//! kernel is made from them immediately before the call, nothing is moved or resized between, and none is used after it. The kernel writes at
//! most `msg_namelen`, `msg_controllen` and `iov_len` octets to each, which are set to the sizes of the pieces. What is read
//! back afterwards is plain old data for which every bit pattern is valid. Indices are checked.
#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::io;
use std::mem::{size_of, zeroed};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use libc::{
    c_int, c_void, cmsghdr, in_pktinfo, in6_pktinfo, iovec, mmsghdr, msghdr, sockaddr_storage, socklen_t,
};

use crate::descriptors;
use crate::limits::{BATCH, DATAGRAM, MAX_UNSENT};
use crate::wire::edns::UDP_SIZE;

/// Room for one packet-information message of either family, aligned as `cmsghdr` must be.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; 64]);

const REPLY: usize = UDP_SIZE as usize;

/// Where a datagram came from and the address it was sent to: the way its reply takes.
#[derive(Clone, Copy)]
pub struct ReturnPath {
    name: sockaddr_storage,
    name_len: socklen_t,
    control: Control,
    control_len: usize,
}

/// Buffers for a batch of datagrams and their replies.
pub struct Batch {
    paths: Vec<ReturnPath>,
    input: Vec<[u8; DATAGRAM]>,
    lengths: Vec<(usize, bool)>,
    output: Vec<[u8; REPLY]>,
    queued: Vec<(usize, usize)>,
    /// What the kernel is told of the buffers, made anew for each call and kept only for its memory.
    headers: Vec<mmsghdr>,
    iovs: Vec<iovec>,
    with_info: bool,
}

impl Default for ReturnPath {
    fn default() -> Self {
        // SAFETY: `sockaddr_storage` is plain old data; all zeroes is a valid (unspecified) address.
        let name = unsafe { zeroed() };
        ReturnPath {
            name,
            name_len: size_of::<sockaddr_storage>() as socklen_t,
            control: Control([0; 64]),
            control_len: 0,
        }
    }
}

impl ReturnPath {
    /// The address to reply to.
    pub fn addr(&self) -> Option<SocketAddr> {
        let name: *const sockaddr_storage = &self.name;
        match c_int::from(self.name.ss_family) {
            libc::AF_INET => {
                // SAFETY: the family says that the storage holds a `sockaddr_in`, which is smaller than it.
                let v4 = unsafe { *name.cast::<libc::sockaddr_in>() };
                let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
                Some(SocketAddr::V4(SocketAddrV4::new(ip, u16::from_be(v4.sin_port))))
            }
            libc::AF_INET6 => {
                // SAFETY: the family says that the storage holds a `sockaddr_in6`, which is smaller than it.
                let v6 = unsafe { *name.cast::<libc::sockaddr_in6>() };
                let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
                let port = u16::from_be(v6.sin6_port);
                Some(SocketAddr::V6(SocketAddrV6::new(ip, port, v6.sin6_flowinfo, v6.sin6_scope_id)))
            }
            _ => None,
        }
    }

    fn describe(&mut self, iov: *mut iovec, header: &mut msghdr) {
        header.msg_name = ptr::from_mut(&mut self.name).cast::<c_void>();
        header.msg_namelen = self.name_len;
        header.msg_iov = iov;
        header.msg_iovlen = 1;
        header.msg_control = match self.control_len {
            0 => ptr::null_mut(),
            _ => self.control.0.as_mut_ptr().cast::<c_void>(),
        };
        header.msg_controllen = self.control_len as _;
        header.msg_flags = 0;
    }

    /// Makes the received packet information say from where a reply leaves: same address, any interface.
    fn turn_around(&mut self) {
        // A reply need not leave by the interface the query came in on; only link-local addresses mean one.
        const INDEX_V4: usize = 0;
        const INDEX_V6: usize = size_of::<libc::in6_addr>();
        let data = cmsg_align(size_of::<cmsghdr>());
        if self.control_len < size_of::<cmsghdr>() {
            self.control_len = 0;
            return;
        }
        // SAFETY: at least one whole `cmsghdr` was written at the aligned start of the buffer.
        let head = unsafe { *self.control.0.as_ptr().cast::<cmsghdr>() };
        let (size, index) = match (head.cmsg_level, head.cmsg_type) {
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => (size_of::<in_pktinfo>(), INDEX_V4),
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => (size_of::<in6_pktinfo>(), INDEX_V6),
            _ => {
                self.control_len = 0;
                return;
            }
        };
        let link_local = index == INDEX_V6
            && matches!(self.control.0.get(data..data + 2), Some([0xfe, second]) if second & 0xc0 == 0x80);
        if !link_local
            && let Some(place) = self.control.0.get_mut(data + index..data + index + size_of::<c_int>())
        {
            place.fill(0);
        }
        self.control_len = data + cmsg_align(size);
    }
}

/// CMSG_ALIGN of the C headers.
const fn cmsg_align(length: usize) -> usize {
    (length + size_of::<usize>() - 1) & !(size_of::<usize>() - 1)
}

impl Batch {
    /// Buffers for one socket. `with_info`: it is bound to a wildcard address, so that replies must be told from which
    /// address to leave.
    pub fn new(with_info: bool) -> Batch {
        Batch {
            paths: vec![ReturnPath::default(); BATCH],
            input: vec![[0; DATAGRAM]; BATCH],
            lengths: vec![(0, false); BATCH],
            output: vec![[0; REPLY]; BATCH],
            queued: Vec::with_capacity(BATCH),
            // SAFETY: both are plain old data; zero means "none" in each field.
            headers: vec![unsafe { zeroed() }; BATCH],
            // SAFETY: as above.
            iovs: vec![unsafe { zeroed() }; BATCH],
            with_info,
        }
    }

    /// Takes what waits at a socket, up to [`BATCH`] datagrams, and says how many there were.
    ///
    /// # Errors
    /// What recvmmsg(2) says; `WouldBlock` where nothing waits.
    pub fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        self.queued.clear();
        let messages = self.headers.iter_mut().zip(&mut self.iovs);
        let pieces = self.paths.iter_mut().zip(&mut self.input).zip(messages);
        for ((path, input), (header, iov)) in pieces {
            path.name_len = size_of::<sockaddr_storage>() as socklen_t;
            path.control_len = if self.with_info { size_of::<Control>() } else { 0 };
            *iov = iovec { iov_base: input.as_mut_ptr().cast(), iov_len: DATAGRAM };
            path.describe(iov, &mut header.msg_hdr);
        }
        // SAFETY: `headers` points at `BATCH` headers whose pointers and lengths were set just now; see the module.
        let count = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                BATCH as _,
                libc::MSG_DONTWAIT as _,
                ptr::null_mut(),
            )
        };
        let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        let received = self.paths.iter_mut().zip(&mut self.lengths).zip(&self.headers).take(count);
        for ((path, length), header) in received {
            path.name_len = header.msg_hdr.msg_namelen;
            path.control_len = header.msg_hdr.msg_controllen;
            path.turn_around();
            let cut = header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0;
            *length = ((header.msg_len as usize).min(DATAGRAM), cut);
        }
        Ok(count)
    }

    /// The datagram at `index` of the last batch, whether it was cut, the way back, and a buffer for the reply.
    pub fn parts(&mut self, index: usize) -> Option<(&[u8], bool, &ReturnPath, &mut [u8])> {
        let (length, cut) = *self.lengths.get(index)?;
        let packet = self.input.get(index)?.get(..length)?;
        Some((packet, cut, self.paths.get(index)?, self.output.get_mut(index)?))
    }

    /// Lets the first `length` octets of the reply buffer at `index` go out with the next [`Batch::send`].
    pub fn queue(&mut self, index: usize, length: usize) {
        if index < BATCH && length <= REPLY && self.queued.len() < BATCH {
            self.queued.push((index, length));
        }
    }

    /// Replies that wait to be sent.
    pub fn queued(&self) -> usize {
        self.queued.len()
    }

    /// Gives up all replies that wait, and says how many there were.
    pub fn give_up(&mut self) -> usize {
        self.queued.drain(..).count()
    }

    /// Sends what is queued, in one call if the socket takes it. Says how many were given up because the system
    /// refused them one by one (no route, say).
    ///
    /// # Errors
    /// `WouldBlock` where the socket is full, or what the host lacks for the moment: what is left stays queued.
    pub fn send(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        let mut refused = 0;
        while !self.queued.is_empty() {
            match self.send_once(socket) {
                Ok(sent) => drop(self.queued.drain(..sent)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if is_full(&error) => return Err(error),
                Err(_) => {
                    // The call stops before the datagram that the system refuses: that one is given up.
                    self.queued.remove(0);
                    refused += 1;
                }
            }
        }
        Ok(refused)
    }

    fn send_once(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        let mut count = 0;
        let messages = self.headers.iter_mut().zip(&mut self.iovs);
        for ((index, length), (header, iov)) in self.queued.iter().zip(messages) {
            let (Some(path), Some(reply)) = (self.paths.get_mut(*index), self.output.get_mut(*index)) else {
                continue;
            };
            *iov = iovec { iov_base: reply.as_mut_ptr().cast(), iov_len: *length };
            path.describe(iov, &mut header.msg_hdr);
            count += 1;
        }
        // SAFETY: the first `count` headers point at queued replies and their paths, which outlive the call.
        unsafe { send_described(socket, &mut self.headers, count) }
    }
}

/// Sends the first `count` datagrams that are described, or as many of them as there is room for.
///
/// # Safety
/// The first `count` headers point at datagrams and paths that outlive the call.
unsafe fn send_described(socket: BorrowedFd<'_>, headers: &mut [mmsghdr], count: usize) -> io::Result<usize> {
    let count = count.min(headers.len());
    // SAFETY: the caller's; the kernel only reads what the headers point at, and writes the lengths into them.
    let sent = unsafe {
        libc::sendmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), count as _, libc::MSG_DONTWAIT as _)
    };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// True where the same can be sent later.
fn is_full(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock || descriptors::is_shortage(error)
}

/// Replies that come one by one, sent together.
pub struct Outbox<T> {
    waiting: VecDeque<Outgoing<T>>,
    headers: Vec<mmsghdr>,
    iovs: Vec<iovec>,
}

struct Outgoing<T> {
    reply: Vec<u8>,
    path: ReturnPath,
    _until_sent: T,
}

impl<T> Default for Outbox<T> {
    fn default() -> Self {
        // SAFETY: both are plain old data; zero means "none" in each field.
        let (header, iov) = unsafe { (zeroed(), zeroed()) };
        Outbox {
            waiting: VecDeque::with_capacity(BATCH),
            headers: vec![header; BATCH],
            iovs: vec![iov; BATCH],
        }
    }
}

impl<T> Outbox<T> {
    /// Puts a reply in; `until_sent` is kept until it has been sent or given up.
    pub fn push(&mut self, reply: Vec<u8>, path: ReturnPath, until_sent: T) {
        self.waiting.push_back(Outgoing { reply, path, _until_sent: until_sent });
    }

    /// How many wait.
    pub fn count(&self) -> usize {
        self.waiting.len()
    }

    /// So many wait that no more questions are to be taken.
    pub fn is_full(&self) -> bool {
        self.waiting.len() >= MAX_UNSENT
    }

    /// Gives up all that wait, and says how many there were.
    pub fn give_up(&mut self) -> usize {
        self.waiting.drain(..).count()
    }

    /// Sends what waits, [`BATCH`] in a call. Says how many were given up because the system refused them one by one.
    ///
    /// # Errors
    /// `WouldBlock` where the socket is full, or what the host lacks for the moment: what is left waits on.
    pub fn send(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        let mut refused = 0;
        while !self.waiting.is_empty() {
            let mut count = 0;
            let messages = self.headers.iter_mut().zip(&mut self.iovs);
            for (Outgoing { reply, path, .. }, (header, iov)) in self.waiting.iter_mut().zip(messages) {
                *iov = iovec { iov_base: reply.as_mut_ptr().cast(), iov_len: reply.len() };
                path.describe(iov, &mut header.msg_hdr);
                count += 1;
            }
            // SAFETY: the first `count` headers point at replies that wait and their paths, which outlive the call.
            match unsafe { send_described(socket, &mut self.headers, count) } {
                Ok(sent) => drop(self.waiting.drain(..sent)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if is_full(&error) => return Err(error),
                Err(_) => {
                    drop(self.waiting.pop_front());
                    refused += 1;
                }
            }
        }
        Ok(refused)
    }
}

fn set(socket: BorrowedFd<'_>, level: c_int, option: c_int, value: c_int) -> io::Result<()> {
    let length = size_of::<c_int>() as socklen_t;
    // SAFETY: the value is a `c_int` local to this call, and its size is given.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, ptr::from_ref(&value).cast(), length) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Has the kernel tell for each datagram which address it was sent to.
///
/// # Errors
/// What setsockopt(2) says.
pub fn want_packet_info(socket: BorrowedFd<'_>, of: IpAddr) -> io::Result<()> {
    match of {
        IpAddr::V4(_) => set(socket, libc::IPPROTO_IP, libc::IP_PKTINFO, 1),
        IpAddr::V6(_) => set(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1),
    }
}

/// Sends without regard to path MTUs that somebody may have forged: no reply is larger than 1,232 octets.
///
/// # Errors
/// What setsockopt(2) says.
pub fn ignore_path_mtu(socket: BorrowedFd<'_>, of: IpAddr) -> io::Result<()> {
    match of {
        IpAddr::V4(_) => set(socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_OMIT),
        IpAddr::V6(_) => set(socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_OMIT),
    }
}

/// Asks for a receive buffer beyond the system's maximum, which needs CAP_NET_ADMIN.
///
/// # Errors
/// What setsockopt(2) says, EPERM where the capability is missing.
pub fn force_receive_buffer(socket: BorrowedFd<'_>, bytes: usize) -> io::Result<()> {
    set(socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, c_int::try_from(bytes).unwrap_or(c_int::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    /// A process that is stopped and continued meanwhile is interrupted where it waits with a time limit (signal(7)).
    fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> usize {
        loop {
            match socket.recv(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                received => return received.unwrap(),
            }
        }
    }

    fn echo_once(bind: &str, with_info: bool, ask: &str) {
        let server = UdpSocket::bind(bind).unwrap();
        let local = server.local_addr().unwrap();
        if with_info {
            want_packet_info(server.as_fd(), local.ip()).unwrap();
        }
        let client = UdpSocket::bind((ask.parse::<IpAddr>().unwrap(), 0)).unwrap();
        // A connected client takes replies from the address it asked only.
        client.connect((ask.parse::<IpAddr>().unwrap(), local.port())).unwrap();
        client.set_read_timeout(Some(std::time::Duration::from_secs(30))).unwrap();
        (0..3u8).for_each(|octet| assert_eq!(client.send(&[octet; 20]).unwrap(), 20));
        let mut batch = Batch::new(with_info);
        let mut seen = 0;
        while seen < 3 {
            server.set_nonblocking(false).unwrap();
            let _ = server.peek_from(&mut [0; 1]);
            let count = batch.receive(server.as_fd()).unwrap();
            for index in 0..count {
                let (packet, cut, path, out) = batch.parts(index).unwrap();
                assert_eq!((packet.len(), cut, path.addr()), (20, false, Some(client.local_addr().unwrap())));
                out[..20].copy_from_slice(packet);
                batch.queue(index, 20);
            }
            assert_eq!(batch.send(server.as_fd()).unwrap(), 0);
            seen += count;
        }
        for octet in 0..3u8 {
            let mut buffer = [0; 64];
            assert_eq!(receive(&client, &mut buffer), 20);
            assert_eq!(buffer[0], octet);
        }
    }

    #[test]
    fn datagrams_come_and_go_on_a_fixed_address() {
        echo_once("127.0.0.1:0", false, "127.0.0.1");
    }

    #[test]
    fn replies_leave_from_the_address_that_was_asked() {
        echo_once("0.0.0.0:0", true, "127.0.0.9");
        echo_once("[::]:0", true, "::1");
    }

    #[test]
    fn replies_that_came_one_by_one_go_out_together_and_one_that_is_refused_stops_none() {
        let (server, client) =
            (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        client.set_read_timeout(Some(std::time::Duration::from_secs(30))).unwrap();
        client.send_to(&[0], server.local_addr().unwrap()).unwrap();
        let mut batch = Batch::new(false);
        let _ = server.peek_from(&mut [0; 1]);
        assert_eq!(batch.receive(server.as_fd()).unwrap(), 1);
        let back = *batch.parts(0).unwrap().2;
        let (mut outbox, until_sent) = (Outbox::default(), std::rc::Rc::new(()));
        for number in 0..BATCH + 8 {
            // An address of another family, which this socket cannot send to.
            let path = if number == 5 { ReturnPath::default() } else { back };
            outbox.push(vec![number as u8; 20], path, std::rc::Rc::clone(&until_sent));
        }
        assert_eq!((outbox.count(), std::rc::Rc::strong_count(&until_sent)), (BATCH + 8, BATCH + 9));
        assert_eq!(outbox.send(server.as_fd()).unwrap(), 1);
        assert_eq!((outbox.count(), std::rc::Rc::strong_count(&until_sent)), (0, 1));
        for number in (0..BATCH + 8).filter(|number| *number != 5) {
            let mut buffer = [0; 64];
            assert_eq!((receive(&client, &mut buffer), buffer[19]), (20, number as u8));
        }
        (0..MAX_UNSENT).for_each(|_| outbox.push(vec![], back, std::rc::Rc::clone(&until_sent)));
        assert_eq!((outbox.is_full(), outbox.give_up(), outbox.is_full()), (true, MAX_UNSENT, false));
    }

    #[test]
    fn an_empty_socket_would_block() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let error = Batch::new(false).receive(server.as_fd()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }
}
